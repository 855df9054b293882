//! Volumes and their mounts.
//!
//! Source: upstream `pkg/apis/core/validation/validation.go`,
//! `ValidateVolumes`, `ValidateVolumeMounts`.

use api::quantity::Quantity;
use api::status::Violation;
use api::typed::{Container, DownwardAPIVolumeFile, KeyToPath, Volume, VolumeProjection};
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
        "image" => {
            let Some(image) = &volume.image else { return broken };
            if text(&image.reference).is_empty() {
                broken.push(Violation::required(format!("{field}.reference"), ""));
            }
            broken.extend(values::one_of(
                &format!("{field}.pullPolicy"),
                text(&image.pull_policy),
                &["Always", "IfNotPresent", "Never"],
            ));
        }
        "projected" => {
            let Some(projected) = &volume.projected else { return broken };
            broken.extend(mode(&format!("{field}.defaultMode"), projected.default_mode));
            for (index, source) in each(&projected.sources).iter().enumerate() {
                let wire = serde_json::to_value(source).unwrap_or_default();
                let count = wire.as_object().map_or(0, serde_json::Map::len);
                let source_field = format!("{field}.sources[{index}]");
                if count > 1 {
                    broken.push(Violation::forbidden(
                        source_field.as_str(),
                        "may not specify more than 1 volume type",
                    ));
                }
                broken.extend(projection(&source_field, source));
            }
        }
        "downwardAPI" => {
            broken.extend(mode(
                &format!("{field}.defaultMode"),
                volume.downward_api.as_ref().and_then(|downward| downward.default_mode),
            ));
            let items = volume.downward_api.as_ref().map(|downward| each(&downward.items));
            broken.extend(downward(field, items.unwrap_or_default()));
        }
        // The other kinds are refused as a whole; see `supported.rs`.
        _ => {}
    }
    broken
}

/// Least and most seconds a projected token may be asked to live.
const TOKEN_LIFE_S: (i64, i64) = (600, 1 << 32);

fn projection(field: &str, source: &VolumeProjection) -> Vec<Violation> {
    let mut broken = Vec::new();
    if let Some(secret) = &source.secret {
        broken.extend(files(&format!("{field}.secret"), "name", &secret.name, None, each(&secret.items)));
    }
    if let Some(map) = &source.config_map {
        broken.extend(files(&format!("{field}.configMap"), "name", &map.name, None, each(&map.items)));
    }
    if let Some(fields) = &source.downward_api {
        broken.extend(downward(&format!("{field}.downwardAPI"), each(&fields.items)));
    }
    if let Some(token) = &source.service_account_token {
        let field = format!("{field}.serviceAccountToken");
        let life = token.expiration_seconds.unwrap_or(3_600);
        let refuse = |rule| Violation::invalid(format!("{field}.expirationSeconds"), &life.into(), rule);
        if life < TOKEN_LIFE_S.0 {
            broken.push(refuse("may not specify a duration less than 10 minutes"));
        } else if life > TOKEN_LIFE_S.1 {
            broken.push(refuse("may not specify a duration larger than 2^32 seconds"));
        }
        if token.path.is_empty() {
            broken.push(Violation::required(format!("{field}.path"), ""));
        } else {
            broken.extend(own_path(&format!("{field}.path"), &token.path));
        }
    }
    broken
}

/// A path in a volume that is not one of the volume's own.
fn own_path(field: &str, path: &str) -> Vec<Violation> {
    let mut broken = values::descending_path(field, path);
    if path.starts_with("..") && broken.is_empty() {
        broken.push(Violation::invalid(field, &Value::from(path), "must not start with '..'"));
    }
    broken
}

/// Source: upstream `validateDownwardAPIVolumeFile`.
fn downward(field: &str, items: &[DownwardAPIVolumeFile]) -> Vec<Violation> {
    let mut broken = Vec::new();
    // Upstream leaves the index out.
    for item in items {
        if item.path.is_empty() {
            broken.push(Violation::required(format!("{field}.path"), ""));
        }
        broken.extend(own_path(&format!("{field}.path"), &item.path));
        match (&item.field_ref, &item.resource_field_ref) {
            (Some(_), Some(_)) => {
                let rule = "fieldRef and resourceFieldRef can not be specified simultaneously";
                broken.push(Violation::invalid(field, &Value::from("resource"), rule));
            }
            (Some(from), None) => broken.extend(super::container::volume_field(&format!("{field}.fieldRef"), from)),
            (None, Some(from)) => {
                let field = format!("{field}.resourceFieldRef");
                if text(&from.container_name).is_empty() {
                    broken.push(Violation::required(format!("{field}.containerName"), ""));
                }
                broken.extend(super::resources::field_ref(&field, from));
            }
            (None, None) => broken.push(Violation::required(
                format!("{field}.fieldRef"),
                "one of fieldRef and resourceFieldRef is required",
            )),
        }
        broken.extend(mode(&format!("{field}.mode"), item.mode));
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
        broken.extend(own_path(&format!("{item_field}.path"), &item.path));
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
        let none = mount.mount_propagation.as_deref().is_none_or(|propagation| propagation == "None");
        match mount.recursive_read_only.as_deref() {
            None | Some("Disabled") => {}
            Some("IfPossible" | "Enabled") => {
                let recursive = format!("{list}.recursiveReadOnly");
                if mount.read_only != Some(true) {
                    broken.push(Violation::forbidden(
                        recursive.as_str(),
                        "may only be specified when readOnly is true",
                    ));
                }
                if !none {
                    let rule = "may only be specified when mountPropagation is None or not specified";
                    broken.push(Violation::forbidden(recursive.as_str(), rule));
                }
            }
            Some(other) => broken.push(Violation::not_supported(
                format!("{list}.recursiveReadOnly"),
                other,
                &["Disabled", "Enabled", "IfPossible"],
            )),
        }
    }
    broken
}
