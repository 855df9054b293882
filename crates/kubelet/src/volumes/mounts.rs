//! What of a pod's volumes a container gets. Pure.
//!
//! Source: upstream `pkg/kubelet/kubelet_pods.go`, `makeMounts`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use api::typed::{Container, Pod, Volume, VolumeMount};
use runtime::{Mount, Propagation};

use crate::environment::expand;

/// Where a volume is on the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    pub(crate) path: PathBuf,
    /// An image that is the volume, in place of `path`.
    pub(crate) image: Option<String>,
    /// A directory nothing of which is mounted, whatever leads there.
    pub(crate) outside: Option<PathBuf>,
}

/// The mounts of a container; `source` tells where a volume is.
///
/// # Errors
/// In upstream's words.
pub(crate) fn of(
    pod: &Pod,
    container: &Container,
    variables: &[(String, String)],
    source: impl Fn(&Volume) -> Option<Source>,
) -> Result<Vec<Mount>, String> {
    let known: BTreeMap<&str, &str> = variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let mut mounts = Vec::new();
    for mount in container.volume_mounts.iter().flatten() {
        let volume = super::volumes(pod).iter().find(|volume| volume.name == mount.name);
        let missing = || format!("cannot find volume {:?} to mount into container {:?}", mount.name, container.name);
        let volume = volume.ok_or_else(missing)?;
        let source = source(volume).ok_or_else(missing)?;
        let carries_content =
            volume.config_map.is_some() || volume.secret.is_some() || volume.downward_api.is_some() || volume.projected.is_some();
        let claim = volume.persistent_volume_claim.as_ref();
        let claimed_read_only = claim.is_some_and(|claim| claim.read_only == Some(true));
        let propagation = match mount.mount_propagation.as_deref() {
            Some("HostToContainer") => Propagation::HostToContainer,
            Some("Bidirectional") => Propagation::Bidirectional,
            _ => Propagation::Private,
        };
        mounts.push(Mount {
            volume: mount.name.clone(),
            source: source.path,
            outside: source.outside,
            image: source.image,
            sub_path: sub_path(mount, &known)?,
            target: Path::new("/").join(&mount.mount_path),
            read_only: mount.read_only == Some(true) || carries_content || claimed_read_only,
            recursive_read_only: recursive_read_only(mount)?,
            propagation,
        });
    }
    Ok(mounts)
}

fn sub_path(mount: &VolumeMount, known: &BTreeMap<&str, &str>) -> Result<Option<PathBuf>, String> {
    let expression = mount.sub_path_expr.as_deref().unwrap_or_default();
    let path = if expression.is_empty() {
        mount.sub_path.clone().unwrap_or_default()
    } else {
        let missing = std::cell::RefCell::new(BTreeSet::new());
        let expanded = expand(expression, |name| {
            let value = known.get(name).copied().filter(|value| !value.is_empty());
            if value.is_none() {
                missing.borrow_mut().insert(name.to_owned());
            }
            value
        });
        let missing = missing.into_inner();
        if !missing.is_empty() {
            let names: Vec<String> = missing.into_iter().collect();
            return Err(format!("missing value for {}", names.join(", ")));
        }
        expanded
    };
    if path.is_empty() {
        return Ok(None);
    }
    let path = PathBuf::from(path);
    if path.is_absolute() {
        return Err(format!("error SubPath `{}` must not be an absolute path", path.display()));
    }
    if path.components().any(|part| part == Component::ParentDir) {
        return Err(format!("unable to provision SubPath `{}`: must not contain '..'", path.display()));
    }
    Ok(Some(path))
}

/// Source: upstream `resolveRecursiveReadOnly`. Every kernel this runs on can.
fn recursive_read_only(mount: &VolumeMount) -> Result<bool, String> {
    match mount.recursive_read_only.as_deref() {
        None | Some("Disabled") => return Ok(false),
        Some("IfPossible" | "Enabled") => {}
        Some(other) => return Err(format!("unknown recursive read-only mode {other:?}")),
    }
    if mount.read_only != Some(true) {
        let text = "requested recursive read-only mode, but it is not read-only";
        return Err(format!("volume {:?} {text}", mount.name));
    }
    match mount.mount_propagation.as_deref() {
        None | Some("None") => Ok(true),
        Some(other) => {
            let text = "requested recursive read-only mode, but it is not compatible with propagation";
            Err(format!("volume {:?} {text} {other:?}", mount.name))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn mounts(mount: Value) -> Result<Mount, String> {
        let mut mount = mount;
        mount["mountPath"] = json!("data");
        let pod: Pod = serde_json::from_value(json!({ "metadata": {}, "spec": {
            "volumes": [{ "name": "v", "emptyDir": {} }, { "name": "s", "secret": { "secretName": "x" } }],
            "containers": [{ "name": "c", "volumeMounts": [mount] }],
        } }))
        .unwrap();
        let container = &pod.spec.as_ref().unwrap().containers[0];
        let variables = [("POD".to_owned(), "p".to_owned()), ("EMPTY".to_owned(), String::new())];
        of(&pod, container, &variables, |volume| {
            let path = Path::new("/node").join(&volume.name);
            Some(Source {
                path,
                image: None,
                outside: None,
            })
        })
        .map(|mut list| list.remove(0))
    }

    #[test]
    fn a_mount_says_where_and_how() {
        let plain = mounts(json!({ "name": "v" })).unwrap();
        let expected = Mount {
            volume: "v".to_owned(),
            source: PathBuf::from("/node/v"),
            target: PathBuf::from("/data"),
            ..Mount::default()
        };
        assert_eq!(plain, expected);
        assert!(
            mounts(json!({ "name": "s" })).unwrap().read_only,
            "content is never written by a container"
        );
        let all = mounts(json!({ "name": "v", "readOnly": true, "recursiveReadOnly": "Enabled", "subPath": "a/b" })).unwrap();
        assert!(all.read_only && all.recursive_read_only);
        assert_eq!(all.sub_path.as_deref(), Some(Path::new("a/b")));
        let slave = mounts(json!({ "name": "v", "mountPropagation": "HostToContainer" })).unwrap();
        assert_eq!(slave.propagation, Propagation::HostToContainer);
        let shared = mounts(json!({ "name": "v", "mountPropagation": "Bidirectional" })).unwrap();
        assert_eq!(shared.propagation, Propagation::Bidirectional);
    }

    #[test]
    fn a_sub_path_is_expanded_and_stays_inside() {
        let path = |expression: &str| mounts(json!({ "name": "v", "subPathExpr": expression })).map(|mount| mount.sub_path);
        assert_eq!(path("logs/$(POD)").unwrap().as_deref(), Some(Path::new("logs/p")));
        assert_eq!(path("$(NONE)/$(EMPTY)").unwrap_err(), "missing value for EMPTY, NONE");
        assert_eq!(path("/etc").unwrap_err(), "error SubPath `/etc` must not be an absolute path");
        assert_eq!(
            path("a/../..").unwrap_err(),
            "unable to provision SubPath `a/../..`: must not contain '..'"
        );
    }

    #[test]
    fn what_cannot_be_read_only_all_the_way_is_refused() {
        assert_eq!(
            mounts(json!({ "name": "v", "recursiveReadOnly": "Enabled" })).unwrap_err(),
            "volume \"v\" requested recursive read-only mode, but it is not read-only"
        );
        assert!(
            mounts(json!({ "name": "v", "readOnly": true, "recursiveReadOnly": "Enabled", "mountPropagation": "HostToContainer" }))
                .is_err()
        );
        assert_eq!(
            mounts(json!({ "name": "none" })).unwrap_err(),
            "cannot find volume \"none\" to mount into container \"c\""
        );
    }
}
