//! Volumes and their mounts.
//!
//! Source: upstream `pkg/apis/core/validation/validation.go`,
//! `ValidateVolumes`, `ValidateVolumeMounts`.

use api::quantity::Quantity;
use api::status::Violation;
use api::typed::{Container, KeyToPath, Volume};
use serde_json::Value;

use super::{each, text};
use crate::validate::{invalid_each, names, values};

/// The kinds of volume, in the order upstream looks at them.
const SOURCES: [&str; 30] = [
    "emptyDir",
    "hostPath",
    "gitRepo",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "secret",
    "nfs",
    "iscsi",
    "glusterfs",
    "flocker",
    "persistentVolumeClaim",
    "rbd",
    "cinder",
    "cephfs",
    "quobyte",
    "downwardAPI",
    "fc",
    "flexVolume",
    "configMap",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "storageos",
    "projected",
    "scaleIO",
    "csi",
    "ephemeral",
    "image",
];

const PATH_KINDS: [&str; 8] = [
    "",
    "BlockDevice",
    "CharDevice",
    "Directory",
    "DirectoryOrCreate",
    "File",
    "FileOrCreate",
    "Socket",
];

/// `spec.volumes`.
pub(super) fn volumes(volumes: &[Volume]) -> Vec<Violation> {
    let mut broken = Vec::new();
    for (index, volume) in volumes.iter().enumerate() {
        let field = format!("spec.volumes[{index}]");
        broken.extend(source(&field, volume));
        let name_field = format!("{field}.name");
        if volume.name.is_empty() {
            broken.push(Violation::required(name_field, ""));
            continue;
        }
        broken.extend(invalid_each(&name_field, &volume.name, names::dns1123_label(&volume.name)));
        if volumes[..index].iter().any(|other| other.name == volume.name) {
            broken.push(Violation::duplicate(name_field, &volume.name));
        }
    }
    broken
}

fn source(field: &str, volume: &Volume) -> Vec<Violation> {
    let wire = serde_json::to_value(volume).unwrap_or_default();
    let mut given = SOURCES.iter().filter(|name| wire.get(**name).is_some());
    let Some(first) = given.next() else {
        return vec![Violation::required(field, "must specify a volume type")];
    };
    let mut broken = of_kind(&format!("{field}.{first}"), first, volume);
    broken.extend(given.map(|name| Violation::forbidden(format!("{field}.{name}"), "may not specify more than 1 volume type")));
    broken
}

fn of_kind(field: &str, kind: &str, volume: &Volume) -> Vec<Violation> {
    let mut broken = Vec::new();
    match kind {
        "emptyDir" => {
            let limit = volume.empty_dir.as_ref().and_then(|dir| dir.size_limit.as_ref());
            if limit
                .and_then(|limit| Quantity::try_from(limit).ok())
                .is_some_and(Quantity::is_negative)
            {
                broken.push(Violation::forbidden(
                    format!("{field}.sizeLimit"),
                    "SizeLimit field must be a valid resource quantity",
                ));
            }
        }
        "hostPath" => {
            let Some(host) = &volume.host_path else { return broken };
            if host.path.is_empty() {
                broken.push(Violation::required(format!("{field}.path"), ""));
                return broken;
            }
            broken.extend(values::no_backsteps(&format!("{field}.path"), &host.path));
            let kind = text(&host.type_);
            if !PATH_KINDS.contains(&kind) {
                broken.push(Violation::not_supported(format!("{field}.type"), kind, &PATH_KINDS));
            }
        }
        "secret" => {
            let Some(secret) = &volume.secret else { return broken };
            broken.extend(files(
                field,
                "secretName",
                text(&secret.secret_name),
                secret.default_mode,
                each(&secret.items),
            ));
        }
        "configMap" => {
            let Some(map) = &volume.config_map else { return broken };
            broken.extend(files(field, "name", &map.name, map.default_mode, each(&map.items)));
        }
        "persistentVolumeClaim" => {
            let Some(claim) = &volume.persistent_volume_claim else {
                return broken;
            };
            broken.extend(
                claim
                    .claim_name
                    .is_empty()
                    .then(|| Violation::required(format!("{field}.claimName"), "")),
            );
        }
        "projected" => {
            let Some(projected) = &volume.projected else { return broken };
            broken.extend(mode(&format!("{field}.defaultMode"), projected.default_mode));
            for (index, source) in each(&projected.sources).iter().enumerate() {
                let wire = serde_json::to_value(source).unwrap_or_default();
                let count = wire.as_object().map_or(0, serde_json::Map::len);
                if count > 1 {
                    broken.push(Violation::forbidden(
                        format!("{field}.sources[{index}]"),
                        "may not specify more than 1 volume type",
                    ));
                }
            }
        }
        "downwardAPI" => {
            broken.extend(mode(
                &format!("{field}.defaultMode"),
                volume.downward_api.as_ref().and_then(|downward| downward.default_mode),
            ));
        }
        // The other kinds are refused as a whole; see `supported.rs`.
        _ => {}
    }
    broken
}

fn mode(field: &str, mode: Option<i32>) -> Option<Violation> {
    let mode = mode?;
    (!(0..=0o777).contains(&mode))
        .then(|| Violation::invalid(field, &mode.into(), "must be a number between 0 and 0777 (octal), both inclusive"))
}

fn files(field: &str, name_field: &str, name: &str, default_mode: Option<i32>, items: &[KeyToPath]) -> Vec<Violation> {
    let mut broken = Vec::new();
    if name.is_empty() {
        broken.push(Violation::required(format!("{field}.{name_field}"), ""));
    }
    broken.extend(mode(&format!("{field}.defaultMode"), default_mode));
    for (index, item) in items.iter().enumerate() {
        let item_field = format!("{field}.items[{index}]");
        if item.key.is_empty() {
            broken.push(Violation::required(format!("{item_field}.key"), ""));
        }
        if item.path.is_empty() {
            broken.push(Violation::required(format!("{item_field}.path"), ""));
        }
        broken.extend(values::descending_path(&format!("{item_field}.path"), &item.path));
        broken.extend(mode(&format!("{item_field}.mode"), item.mode));
    }
    broken
}

/// `volumeMounts` of a container.
pub(super) fn mounts(list: &str, container: &Container, volumes: &[Volume]) -> Vec<Violation> {
    let mounts = each(&container.volume_mounts);
    let mut broken = Vec::new();
    for (index, mount) in mounts.iter().enumerate() {
        let field = format!("{list}[{index}]");
        if mount.name.is_empty() {
            broken.push(Violation::required(format!("{field}.name"), ""));
        }
        if !volumes.iter().any(|volume| volume.name == mount.name) {
            broken.push(Violation::not_found(format!("{field}.name"), &mount.name));
        }
        if mount.mount_path.is_empty() {
            broken.push(Violation::required(format!("{field}.mountPath"), ""));
        }
        if mounts[..index].iter().any(|other| other.mount_path == mount.mount_path) {
            broken.push(Violation::invalid(
                format!("{field}.mountPath"),
                &Value::from(mount.mount_path.as_str()),
                "must be unique",
            ));
        }
        // Upstream leaves the index out of the following paths.
        let (path, expression) = (text(&mount.sub_path), text(&mount.sub_path_expr));
        broken.extend(values::descending_path(&format!("{list}.subPath"), path));
        if !path.is_empty() && !expression.is_empty() {
            let rule = "subPathExpr and subPath are mutually exclusive";
            broken.push(Violation::invalid(format!("{field}.subPathExpr"), &Value::from(expression), rule));
        }
        broken.extend(values::descending_path(&format!("{list}.subPathExpr"), expression));
        if let Some(propagation) = &mount.mount_propagation {
            broken.extend(values::one_of(
                &format!("{list}.mountPropagation"),
                propagation,
                &["Bidirectional", "HostToContainer", "None"],
            ));
            let privileged = container
                .security_context
                .as_ref()
                .is_some_and(|context| context.privileged == Some(true));
            if propagation == "Bidirectional" && !privileged {
                let rule = "Bidirectional mount propagation is available only to privileged containers";
                broken.push(Violation::forbidden(format!("{list}.mountPropagation"), rule));
            }
        }
    }
    broken
}
