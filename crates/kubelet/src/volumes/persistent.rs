//! The volumes of claims: what a claim has, and how a node gets at it.
//!
//! A pod's directory holds a link to the volume, so that a kubelet that starts
//! over knows what was set up, and removing the pod's directory leaves the
//! volume alone.
//!
//! Source: upstream `pkg/kubelet/volumemanager/populator/desired_state_of_world_populator.go`
//! (`createVolumeSpec`, `getPVCExtractPV`), `pkg/volume/{local,hostpath}`.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use api::typed::{PersistentVolume, PersistentVolumeClaim, Pod};
use kube::Api;

use super::owner::{self, Access};
use super::{MountError, directory, volumes};
use crate::execute::Ports;

/// For the answers about one claim and its volume.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// The volume of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claimed {
    /// Name of the PersistentVolume.
    pub(crate) volume: String,
    source: Source,
    /// Ownership is looked at only at the top.
    on_root_mismatch: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    Local(PathBuf),
    HostPath { path: PathBuf, kind: String },
}

/// Where the volume behind a link is.
pub(crate) fn place(link: &Path) -> Option<PathBuf> {
    fs::read_link(link).ok()
}

/// What the claims of a pod have, by the names of its volumes.
pub(crate) async fn find(ports: &Ports, pod: &Pod) -> BTreeMap<String, Result<Claimed, MountError>> {
    let mut found = BTreeMap::new();
    for volume in volumes(pod) {
        let Some(wanted) = &volume.persistent_volume_claim else { continue };
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let asked = ask(ports, namespace, &wanted.claim_name);
        let answer = match tokio::time::timeout(REQUEST_TIMEOUT, asked).await {
            Ok(answer) => answer,
            Err(_) => Err("timed out waiting for the condition".to_owned()),
        };
        let context = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
        let policy = context.and_then(|context| context.fs_group_change_policy.as_deref());
        let claimed = answer.map(|(volume, source)| Claimed {
            volume,
            source,
            on_root_mismatch: policy == Some("OnRootMismatch"),
        });
        let name = &volume.name;
        let told = claimed.map_err(|why| {
            let claim = &wanted.claim_name;
            MountError(format!(
                "Unable to attach or mount volumes: unmounted volumes=[{name}], unattached volumes=[], failed to process volumes=[{name}]: error processing PVC {namespace}/{claim}: {why}"
            ))
        });
        found.insert(name.clone(), told);
    }
    found
}

async fn ask(ports: &Ports, namespace: &str, name: &str) -> Result<(String, Source), String> {
    let claims = Api::<PersistentVolumeClaim>::namespaced(ports.client.clone(), namespace);
    let claim = claims.get(name).await;
    let claim = claim.map_err(|error| format!("failed to fetch PVC from API server: {}", said(&error)))?;
    let volume = bound(&claim)?;
    let volumes = Api::<PersistentVolume>::all(ports.client.clone());
    let found = volumes.get(&volume).await;
    let found = found.map_err(|error| format!("failed to fetch PV {volume} from API server: {}", said(&error)))?;
    source(&found, claim.metadata.uid.as_deref()).map(|source| (volume, source))
}

/// The message of the API server, or what became of the request.
fn said(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// Name of the volume of a claim that has one.
fn bound(claim: &PersistentVolumeClaim) -> Result<String, String> {
    if claim.metadata.deletion_timestamp.is_some() {
        return Err("PVC is being deleted".to_owned());
    }
    let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
    let volume = claim.spec.as_ref().and_then(|spec| spec.volume_name.clone()).unwrap_or_default();
    if phase != Some("Bound") || volume.is_empty() {
        return Err("PVC is not bound".to_owned());
    }
    Ok(volume)
}

fn source(volume: &PersistentVolume, claim_uid: Option<&str>) -> Result<Source, String> {
    let name = volume.metadata.name.as_deref().unwrap_or_default();
    let spec = volume.spec.as_ref();
    let reference = spec.and_then(|spec| spec.claim_ref.as_ref());
    let Some(reference) = reference else {
        return Err(format!(
            "found PV object {name} with nil pv.Spec.ClaimRef indicating it is not yet bound to the claim"
        ));
    };
    if reference.uid.as_deref() != claim_uid {
        return Err(format!(
            "found PV object {name} with a pv.Spec.ClaimRef.UID {} that does not point to the claim.UID {}",
            reference.uid.as_deref().unwrap_or_default(),
            claim_uid.unwrap_or_default()
        ));
    }
    if let Some(local) = spec.and_then(|spec| spec.local.as_ref()) {
        return Ok(Source::Local(PathBuf::from(&local.path)));
    }
    if let Some(host) = spec.and_then(|spec| spec.host_path.as_ref()) {
        return Ok(Source::HostPath {
            path: PathBuf::from(&host.path),
            kind: host.type_.clone().unwrap_or_default(),
        });
    }
    Err(format!("PV object {name} is of a kind that is not mounted here"))
}

impl Claimed {
    /// Makes the volume usable by the pod. Blocking.
    pub(crate) fn set_up(&self, link: &Path, group: Option<u32>, own: &directory::Own) -> Result<(), MountError> {
        let (Source::Local(path) | Source::HostPath { path, .. }) = &self.source;
        let provisioned = matches!(self.source, Source::Local(_)) && own.is_local(path);
        if !provisioned {
            own.keep_out(path).map_err(|why| MountError::set_up(&self.volume, &why))?;
        }
        let path = match &self.source {
            Source::Local(path) if !path.exists() => {
                let shown = path.display().to_string();
                let text = format!(
                    "MountVolume.NewMounter initialization failed for volume {:?} : path {shown:?} does not exist",
                    self.volume
                );
                return Err(MountError(text));
            }
            Source::Local(path) => path,
            Source::HostPath { path, kind } => {
                directory::host_path(path, kind).map_err(|why| MountError::set_up(&self.volume, &why))?;
                path
            }
        };
        let failed = |error: io::Error| MountError::set_up(&self.volume, &error.to_string());
        // What people share with the host stays theirs, as upstream has it.
        if let (Some(gid), Source::Local(_)) = (group, &self.source)
            && !(self.on_root_mismatch && belongs(path, gid).map_err(failed)?)
        {
            owner::give(path, gid, Access::Write).map_err(failed)?;
        }
        if place(link).as_deref() == Some(path) {
            return Ok(());
        }
        let linked = || -> io::Result<()> {
            if let Some(parent) = link.parent() {
                directory::make(parent)?;
            }
            match fs::remove_file(link) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            std::os::unix::fs::symlink(path, link)
        };
        linked().map_err(failed)
    }
}

/// Whether the top of a volume is the group's already.
///
/// Source: upstream `requiresPermissionChange`.
fn belongs(path: &Path, gid: u32) -> io::Result<bool> {
    const WANTED: u32 = 0o2770;
    let about = fs::metadata(path)?;
    Ok(about.gid() == gid && about.mode() & WANTED == WANTED)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn object<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_claim_has_a_volume_or_says_why_not() {
        let claim = |more: Value| bound(&object(more));
        let status = json!({ "phase": "Bound" });
        let meta = json!({ "name": "c" });
        let good = json!({ "metadata": meta, "spec": { "volumeName": "v" }, "status": status });
        assert_eq!(claim(good.clone()).unwrap(), "v");
        let mut waits = good.clone();
        waits["status"]["phase"] = json!("Pending");
        assert_eq!(claim(waits).unwrap_err(), "PVC is not bound");
        let mut going = good;
        going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert_eq!(claim(going).unwrap_err(), "PVC is being deleted");
        let volume = |spec: Value| source(&object(json!({ "metadata": { "name": "v" }, "spec": spec })), Some("u"));
        let local = json!({ "claimRef": { "uid": "u" }, "local": { "path": "/d" } });
        assert_eq!(volume(local).unwrap(), Source::Local(PathBuf::from("/d")));
        let other = volume(json!({ "claimRef": { "uid": "x" }, "local": { "path": "/d" } })).unwrap_err();
        assert!(other.ends_with("that does not point to the claim.UID u"), "{other}");
        assert!(volume(json!({ "local": { "path": "/d" } })).is_err());
    }

    #[test]
    fn a_link_leads_to_the_volume_and_goes_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (data, pod) = (dir.path().join("data"), dir.path().join("pod"));
        let claimed = Claimed {
            volume: "pv".to_owned(),
            source: Source::Local(data.clone()),
            on_root_mismatch: false,
        };
        let own_dir = dir.path().join("own");
        fs::create_dir_all(own_dir.join("local-path")).unwrap();
        let own = directory::Own::new(&own_dir, &own_dir.join("local-path")).unwrap();
        let keys = Claimed {
            source: Source::Local(own_dir.join("pki")),
            ..claimed.clone()
        };
        let text = keys.set_up(&pod.join("w"), None, &own).unwrap_err().to_string();
        assert!(text.contains("lies in Lifepod's own directory"), "{text}");
        let link = pod.join("v");
        let text = claimed.set_up(&link, None, &own).unwrap_err().to_string();
        let shown = data.display().to_string();
        assert_eq!(
            text,
            format!("MountVolume.NewMounter initialization failed for volume \"pv\" : path {shown:?} does not exist")
        );
        fs::create_dir(&data).unwrap();
        fs::write(data.join("file"), "kept").unwrap();
        claimed.set_up(&link, None, &own).unwrap();
        claimed.set_up(&link, None, &own).unwrap();
        assert_eq!(place(&link), Some(data.clone()));
        directory::remove(&pod).unwrap();
        assert_eq!(fs::read_to_string(data.join("file")).unwrap(), "kept");
    }
}
