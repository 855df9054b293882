//! Makes directories of this node into volumes for claims, and removes them
//! when their volumes are released and are to be deleted.
//!
//! [`plan`] decides and is pure; [`run`] watches and acts. What it makes on
//! the host it removes itself: a volume whose data is to be deleted carries a
//! finalizer until the data is gone.
//!
//! Source: persistent volumes page; upstream
//! `sig-storage-lib-external-provisioner/controller/controller.go`
//! (`provisionClaimOperation`, `deleteVolumeOperation`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use api::typed::storage::StorageClass;
use api::typed::{ObjectReference, PersistentVolume, PersistentVolumeClaim};
use client::recorder::Reporter;
use client::{RecordedEvent, Recorder};
use futures::StreamExt;
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, Client};
use kube_runtime::WatchStreamExt;
use kube_runtime::watcher::{self, Event, watcher};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;

/// What classes and volumes call this provisioner.
pub const PROVISIONER: &str = "lifepod.dev/local-path";
/// The class that is there from the start.
pub const CLASS: &str = "local-path";
/// Keeps a volume until its data is removed. Source: upstream
/// `sig-storage-lib-external-provisioner`, `finalizerPV`.
const FINALIZER: &str = "external-provisioner.volume.kubernetes.io/finalizer";
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
const ASKED: &str = "volume.kubernetes.io/storage-provisioner";
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
const HOSTNAME: &str = "kubernetes.io/hostname";

const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// After something failed, it is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// Looked over without a change.
const RESYNC: Duration = Duration::from_secs(600);
/// Between attempts at making the class.
const CLASS_RETRY: Duration = Duration::from_secs(1);

/// What the provisioner works with.
pub struct Options {
    /// Client with the identity of the controller `local-path-provisioner`.
    pub client: Client,
    /// Directory of all volumes.
    pub root: PathBuf,
    /// Name of this node.
    pub node: String,
}

/// Something to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Job {
    /// Make a directory, and the volume that it is.
    Provision {
        /// For whom.
        claim: Box<PersistentVolumeClaim>,
        /// What it is to be called.
        volume: String,
        /// The class's `reclaimPolicy`.
        reclaim_policy: String,
    },
    /// Remove a directory, and then the volume.
    Delete(Box<PersistentVolume>),
}

fn annotation<'o>(meta: &'o api::typed::ObjectMeta, name: &str) -> Option<&'o str> {
    meta.annotations.as_ref()?.get(name).map(String::as_str)
}

/// Everything to be done on `node`.
#[must_use]
pub fn plan(
    claims: &BTreeMap<String, PersistentVolumeClaim>,
    volumes: &BTreeMap<String, PersistentVolume>,
    classes: &BTreeMap<String, StorageClass>,
    node: &str,
) -> Vec<Job> {
    let mut jobs = Vec::new();
    for claim in claims.values() {
        let (spec, meta) = (claim.spec.clone().unwrap_or_default(), &claim.metadata);
        let asked = annotation(meta, ASKED) == Some(PROVISIONER);
        let has = spec.volume_name.is_some_and(|name| !name.is_empty());
        let class = spec.storage_class_name.as_ref().and_then(|name| classes.get(name));
        let Some(class) = class.filter(|class| class.provisioner == PROVISIONER) else {
            continue;
        };
        let waits = class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer");
        let here = match annotation(meta, SELECTED_NODE) {
            Some(selected) => selected == node,
            None => !waits,
        };
        let volume = format!("pvc-{}", meta.uid.as_deref().unwrap_or_default());
        if asked && !has && here && meta.deletion_timestamp.is_none() && !volumes.contains_key(&volume) {
            jobs.push(Job::Provision {
                claim: Box::new(claim.clone()),
                volume,
                reclaim_policy: class.reclaim_policy.clone().unwrap_or_else(|| "Delete".to_owned()),
            });
        }
    }
    let released = |volume: &&PersistentVolume| {
        let policy = volume
            .spec
            .as_ref()
            .and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref());
        let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
        annotation(&volume.metadata, PROVISIONED_BY) == Some(PROVISIONER)
            && policy == Some("Delete")
            && phase == Some("Released")
            && is_on(volume, node)
    };
    jobs.extend(
        volumes
            .values()
            .filter(released)
            .map(|volume| Job::Delete(Box::new(volume.clone()))),
    );
    jobs
}

/// Whether a volume is a directory of this node.
fn is_on(volume: &PersistentVolume, node: &str) -> bool {
    let affinity = volume.spec.as_ref().and_then(|spec| spec.node_affinity.as_ref());
    let terms = affinity
        .and_then(|affinity| affinity.required.as_ref())
        .map(|required| &required.node_selector_terms);
    let mut requirements = terms.into_iter().flatten().flat_map(|term| term.match_expressions.iter().flatten());
    requirements.any(|requirement| requirement.key == HOSTNAME && requirement.values.iter().flatten().any(|value| value == node))
}

/// Name of the directory of a volume: people find it by its claim.
fn directory_name(volume: &str, claim: &PersistentVolumeClaim) -> String {
    let (namespace, name) = (claim.metadata.namespace.as_deref(), claim.metadata.name.as_deref());
    format!("{volume}_{}_{}", namespace.unwrap_or_default(), name.unwrap_or_default())
}

/// The volume that a directory is.
fn volume_object(name: &str, claim: &PersistentVolumeClaim, reclaim_policy: &str, path: &Path, node: &str) -> Value {
    let spec = claim.spec.clone().unwrap_or_default();
    let size = spec
        .resources
        .and_then(|resources| resources.requests)
        .unwrap_or_default()
        .remove("storage");
    let finalizers = if reclaim_policy == "Delete" { vec![FINALIZER] } else { Vec::new() };
    json!({
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": { "name": name, "annotations": { PROVISIONED_BY: PROVISIONER }, "finalizers": finalizers },
        "spec": {
            "accessModes": spec.access_modes,
            "capacity": { "storage": size },
            "claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "namespace": claim.metadata.namespace,
                "name": claim.metadata.name,
                "uid": claim.metadata.uid,
                "resourceVersion": claim.metadata.resource_version,
            },
            "local": { "path": path },
            "nodeAffinity": { "required": { "nodeSelectorTerms": [{ "matchExpressions": [
                { "key": HOSTNAME, "operator": "In", "values": [node] },
            ] }] } },
            "persistentVolumeReclaimPolicy": reclaim_policy,
            "storageClassName": spec.storage_class_name,
            "volumeMode": "Filesystem",
        },
    })
}

/// The class that is there from the start, the default one.
fn class_object() -> Value {
    json!({
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": { "name": CLASS, "annotations": { "storageclass.kubernetes.io/is-default-class": "true" } },
        "provisioner": PROVISIONER,
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "WaitForFirstConsumer",
    })
}

/// Why a volume was not made or removed.
#[derive(Debug, thiserror::Error)]
enum LocalPathError {
    #[error("making the directory {path}: {source}", path = path.display())]
    Make { path: PathBuf, source: io::Error },
    #[error("removing the directory {path}: {source}", path = path.display())]
    Remove { path: PathBuf, source: io::Error },
    #[error("{path} of volume {volume} is not below {root}: it was not made here", path = path.display(), root = root.display())]
    Foreign { path: PathBuf, volume: String, root: PathBuf },
    #[error("{0}")]
    Api(#[from] kube::Error),
    #[error("the API server did not answer within {} s", REQUEST_TIMEOUT.as_secs())]
    Timeout,
}

struct Provisioner {
    options: Options,
    clock: Arc<dyn Clock>,
    recorder: Recorder,
    claims: BTreeMap<String, PersistentVolumeClaim>,
    volumes: BTreeMap<String, PersistentVolume>,
    classes: BTreeMap<String, StorageClass>,
    /// Claims that were told that a volume is being made.
    begun: BTreeSet<String>,
}

/// Provides volumes until `shutdown`. What a dropped call has begun is found
/// by the next run: a directory has the name of its claim.
pub async fn run(options: Options, clock: Arc<dyn Clock>, shutdown: CancellationToken) {
    let reporter = Reporter {
        component: format!("{PROVISIONER}_{}", options.node),
        host: String::new(),
    };
    let (recorder, recording) = Recorder::new(options.client.clone(), reporter, shutdown.clone());
    let mut side = JoinSet::new();
    side.spawn(recording);
    side.spawn(keep_class(options.client.clone(), shutdown.clone()));
    let mut provisioner = Provisioner {
        options,
        clock,
        recorder,
        claims: BTreeMap::new(),
        volumes: BTreeMap::new(),
        classes: BTreeMap::new(),
        begun: BTreeSet::new(),
    };
    provisioner.follow(&shutdown).await;
    drop(provisioner);
    while side.join_next().await.is_some() {}
}

/// Makes the class where there is none of its name.
async fn keep_class(client: Client, shutdown: CancellationToken) {
    let classes = Api::<StorageClass>::all(client);
    let Ok(class) = serde_json::from_value(class_object()) else {
        return; // a test says that it can be read
    };
    loop {
        match classes.create(&PostParams::default(), &class).await {
            Ok(_) => return,
            Err(kube::Error::Api(status)) if status.code == 409 => return,
            Err(error) => tracing::warn!(error = %error, "the class {CLASS} was not made; it is tried again"),
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(CLASS_RETRY) => {}
        }
    }
}

impl Provisioner {
    async fn follow(&mut self, shutdown: &CancellationToken) {
        let client = &self.options.client;
        let config = watcher::Config::default;
        let mut claims = watcher(Api::<PersistentVolumeClaim>::all(client.clone()), config())
            .default_backoff()
            .boxed();
        let mut volumes = watcher(Api::<PersistentVolume>::all(client.clone()), config())
            .default_backoff()
            .boxed();
        let mut classes = watcher(Api::<StorageClass>::all(client.clone()), config())
            .default_backoff()
            .boxed();
        let mut synced = [false; 3];
        let mut tidied = false;
        let mut wait = RESYNC;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                Some(event) = claims.next() => synced[0] = apply(&mut self.claims, event, "persistentvolumeclaims", |claim| claim.metadata.uid.clone().unwrap_or_default(), synced[0]),
                Some(event) = volumes.next() => synced[1] = apply(&mut self.volumes, event, "persistentvolumes", |volume| volume.metadata.name.clone().unwrap_or_default(), synced[1]),
                Some(event) = classes.next() => synced[2] = apply(&mut self.classes, event, "storageclasses", |class| class.metadata.name.clone().unwrap_or_default(), synced[2]),
                () = tokio::time::sleep(wait) => {}
            }
            wait = RESYNC;
            if synced != [true; 3] {
                continue;
            }
            if !std::mem::replace(&mut tidied, true) {
                self.tidy();
            }
            for job in plan(&self.claims, &self.volumes, &self.classes, &self.options.node) {
                if !self.carry_out(job).await {
                    wait = RETRY;
                }
            }
        }
    }

    /// Directories that were made for claims that are gone before there was a
    /// volume: empty, since nobody could use them.
    fn tidy(&self) {
        let known = |name: &str| {
            let volume = name.split('_').next().unwrap_or_default();
            self.volumes.contains_key(volume) || self.claims.contains_key(volume.trim_start_matches("pvc-"))
        };
        for entry in fs::read_dir(&self.options.root).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            // What is not empty stays: it may be a volume whose object somebody removed to keep its data.
            if name.starts_with("pvc-") && !known(&name) && fs::remove_dir(entry.path()).is_ok() {
                tracing::info!(directory = name, "an empty directory without a volume was removed");
            }
        }
    }

    /// Does one thing; false when it failed.
    async fn carry_out(&mut self, job: Job) -> bool {
        match job {
            Job::Provision {
                claim,
                volume,
                reclaim_policy,
            } => {
                let (namespace, name) = (
                    claim.metadata.namespace.clone().unwrap_or_default(),
                    claim.metadata.name.clone().unwrap_or_default(),
                );
                let about = about_claim(&claim);
                if self.begun.insert(volume.clone()) {
                    let text = format!("External provisioner is provisioning volume for claim \"{namespace}/{name}\"");
                    self.tell(about.clone(), "Normal", "Provisioning", text);
                }
                match self.provision(&claim, &volume, &reclaim_policy).await {
                    Ok(made) => {
                        self.begun.remove(&volume);
                        self.volumes.extend(made.map(|made| (volume.clone(), made)));
                        let text = format!("Successfully provisioned volume {volume}");
                        self.tell(about, "Normal", "ProvisioningSucceeded", text);
                        true
                    }
                    Err(error) => {
                        let class = claim
                            .spec
                            .as_ref()
                            .and_then(|spec| spec.storage_class_name.clone())
                            .unwrap_or_default();
                        let text = format!("failed to provision volume with StorageClass {class:?}: {error}");
                        tracing::warn!(claim = format!("{namespace}/{name}"), error = %error, "a volume was not made; it is tried again");
                        self.tell(about, "Warning", "ProvisioningFailed", text);
                        false
                    }
                }
            }
            Job::Delete(volume) => {
                let name = volume.metadata.name.clone().unwrap_or_default();
                match self.delete(&volume).await {
                    Ok(()) => {
                        self.volumes.remove(&name);
                        true
                    }
                    Err(error) => {
                        tracing::warn!(volume = name, error = %error, "a volume was not removed; it is tried again");
                        self.tell(about_volume(&volume), "Warning", "VolumeFailedDelete", error.to_string());
                        false
                    }
                }
            }
        }
    }

    async fn provision(&self, claim: &PersistentVolumeClaim, name: &str, policy: &str) -> Result<Option<PersistentVolume>, LocalPathError> {
        let path = self.options.root.join(directory_name(name, claim));
        let made = path.clone();
        // Short: one directory.
        make(&made).map_err(|source| LocalPathError::Make { path: made, source })?;
        let object = volume_object(name, claim, policy, &path, &self.options.node);
        let object = serde_json::from_value(object).map_err(kube::Error::SerdeError)?;
        let volumes = Api::<PersistentVolume>::all(self.options.client.clone());
        let (created, params) = (object, PostParams::default());
        let create = volumes.create(&params, &created);
        match tokio::time::timeout(REQUEST_TIMEOUT, create).await {
            Ok(Ok(volume)) => Ok(Some(volume)),
            Ok(Err(kube::Error::Api(status))) if status.code == 409 => Ok(None),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(LocalPathError::Timeout),
        }
    }

    async fn delete(&self, volume: &PersistentVolume) -> Result<(), LocalPathError> {
        let name = volume.metadata.name.clone().unwrap_or_default();
        let local = volume.spec.as_ref().and_then(|spec| spec.local.as_ref());
        let path = PathBuf::from(local.map(|local| local.path.clone()).unwrap_or_default());
        // Whatever the object says, nothing else of the host is removed.
        if path.parent() != Some(&self.options.root) || path.file_name().is_none() {
            return Err(LocalPathError::Foreign {
                path,
                volume: name,
                root: self.options.root.clone(),
            });
        }
        let gone = path.clone();
        let removed = tokio::task::spawn_blocking(move || match fs::remove_dir_all(&gone) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        });
        let removed = removed.await.unwrap_or_else(|ended| Err(io::Error::other(ended)));
        removed.map_err(|source| LocalPathError::Remove { path, source })?;
        let volumes = Api::<PersistentVolume>::all(self.options.client.clone());
        let removing = async {
            let params = DeleteParams {
                preconditions: Some(Preconditions {
                    uid: volume.metadata.uid.clone(),
                    resource_version: None,
                }),
                ..DeleteParams::default()
            };
            gone_is_fine(volumes.delete(&name, &params).await.map(drop))?;
            // Its data is gone: nothing of ours keeps it.
            let Some(mut left) = volumes
                .get_opt(&name)
                .await?
                .filter(|left| left.metadata.uid == volume.metadata.uid)
            else {
                return Ok(());
            };
            if let Some(finalizers) = &mut left.metadata.finalizers {
                finalizers.retain(|finalizer| finalizer != FINALIZER);
            }
            volumes.replace(&name, &PostParams::default(), &left).await.map(drop)
        };
        match tokio::time::timeout(REQUEST_TIMEOUT, removing).await {
            Ok(result) => Ok(gone_is_fine(result)?),
            Err(_) => Err(LocalPathError::Timeout),
        }
    }

    fn tell(&self, involved: ObjectReference, kind: &'static str, reason: &str, message: String) {
        self.recorder.record(RecordedEvent {
            involved,
            kind,
            reason: reason.to_owned(),
            message,
            at: self.clock.now(),
        });
    }
}

/// A directory every user of a container may write to, below one that root
/// alone may enter.
fn make(path: &Path) -> io::Result<()> {
    if let Some(root) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(root)?;
    }
    match fs::create_dir(path) {
        Ok(()) => fs::set_permissions(path, fs::Permissions::from_mode(0o777)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

fn gone_is_fine(result: Result<(), kube::Error>) -> Result<(), kube::Error> {
    match result {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => other,
    }
}

/// Applies an event to what is known; whether all of it is listed.
fn apply<T>(
    known: &mut BTreeMap<String, T>,
    event: watcher::Result<Event<T>>,
    resource: &'static str,
    key: fn(&T) -> String,
    synced: bool,
) -> bool {
    match event {
        Ok(Event::Apply(object) | Event::InitApply(object)) => drop(known.insert(key(&object), object)),
        Ok(Event::Delete(object)) => drop(known.remove(&key(&object))),
        // A list begins: what is not in it is gone.
        Ok(Event::Init) => {
            known.clear();
            return false;
        }
        Ok(Event::InitDone) => return true,
        Err(error) => tracing::warn!(resource, error = %error, "watch failed; it is tried again"),
    }
    synced
}

fn reference(kind: &str, meta: &api::typed::ObjectMeta) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some(kind.to_owned()),
        namespace: meta.namespace.clone(),
        name: meta.name.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        ..ObjectReference::default()
    }
}

fn about_claim(claim: &PersistentVolumeClaim) -> ObjectReference {
    reference("PersistentVolumeClaim", &claim.metadata)
}

fn about_volume(volume: &PersistentVolume) -> ObjectReference {
    reference("PersistentVolume", &volume.metadata)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    fn world(annotations: Value, mode: &str) -> (BTreeMap<String, PersistentVolumeClaim>, BTreeMap<String, StorageClass>) {
        let claim = json!({
            "metadata": { "name": "c", "namespace": "n", "uid": "u", "annotations": annotations },
            "spec": { "storageClassName": CLASS, "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } } },
        });
        let mut class = class_object();
        class["volumeBindingMode"] = json!(mode);
        ([("u".to_owned(), object(claim))].into(), [(CLASS.to_owned(), object(class))].into())
    }

    #[test]
    fn a_volume_is_made_once_it_is_asked_for_and_its_node_is_known() {
        let none = BTreeMap::new();
        let jobs = |annotations: Value, mode: &str| {
            let (claims, classes) = world(annotations, mode);
            plan(&claims, &none, &classes, "n1").len()
        };
        let asked = json!({ ASKED: PROVISIONER });
        assert_eq!(jobs(json!({}), "Immediate"), 0);
        assert_eq!(jobs(json!({ ASKED: "other/p" }), "Immediate"), 0);
        assert_eq!(jobs(asked.clone(), "Immediate"), 1);
        assert_eq!(jobs(asked, "WaitForFirstConsumer"), 0);
        assert_eq!(jobs(json!({ ASKED: PROVISIONER, SELECTED_NODE: "n1" }), "WaitForFirstConsumer"), 1);
        assert_eq!(jobs(json!({ ASKED: PROVISIONER, SELECTED_NODE: "n2" }), "WaitForFirstConsumer"), 0);
    }

    #[test]
    fn what_is_made_is_removed_when_it_is_released_and_only_here() {
        let (claims, classes) = world(json!({ ASKED: PROVISIONER }), "Immediate");
        let claim = claims.values().next().unwrap();
        let path = Path::new("/root/pvc-u_n_c");
        let mut made = volume_object("pvc-u", claim, "Delete", path, "n1");
        assert_eq!(made["metadata"]["finalizers"], json!([FINALIZER]));
        assert_eq!(
            volume_object("pvc-u", claim, "Retain", path, "n1")["metadata"]["finalizers"],
            json!([])
        );
        let jobs = |volume: &Value, node: &str| {
            let volumes = [("pvc-u".to_owned(), object(volume.clone()))].into();
            plan(&claims, &volumes, &classes, node)
        };
        assert_eq!(jobs(&made, "n1"), []);
        made["status"] = json!({ "phase": "Released" });
        assert!(matches!(&jobs(&made, "n1")[..], [Job::Delete(_)]));
        assert_eq!(jobs(&made, "n2"), []);
        made["spec"]["persistentVolumeReclaimPolicy"] = json!("Retain");
        assert_eq!(jobs(&made, "n1"), []);
    }

    #[test]
    fn the_class_can_be_read_and_a_directory_is_everybodys() {
        let class: StorageClass = object(class_object());
        assert_eq!(class.provisioner, PROVISIONER);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("root/pvc-u_n_c");
        make(&path).unwrap();
        make(&path).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o777, 0o700));
    }
}
