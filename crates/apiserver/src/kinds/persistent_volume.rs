//! `PersistentVolume`: a piece of storage of the cluster.
//!
//! Source: upstream `pkg/apis/core/validation/validation.go`,
//! `ValidatePersistentVolume`; `pkg/registry/core/persistentvolume/strategy.go`;
//! printer `printPersistentVolume`.

use std::sync::Arc;

use api::status::Violation;
use api::typed::{PersistentVolume as Typed, PersistentVolumeSpec};
use api::{Object, Quantity, Scope, Time};
use serde_json::{Value, json};

use super::pod::{comparable, node_selector, not_yet};
use super::warnings::{of_term, old_class};
use super::{keep_status_apart, plain, short, values, view};
use crate::registry::{Cell, Change, Column, Resource, Rules, Strategy, Subresource};
use crate::table;
use crate::validate::{invalid_each, names, values as formats};

/// Keeps a volume that is in use. Source: upstream `pkg/volume/util/finalizer.go`.
const PROTECTION: &str = "kubernetes.io/pv-protection";

/// Sources that are mounted. What else there is stands in the schema.
const SOURCES: [&str; 2] = ["hostPath", "local"];
/// Fields of a spec that are no source.
const OTHERS: [&str; 9] = [
    "accessModes",
    "capacity",
    "claimRef",
    "mountOptions",
    "nodeAffinity",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "volumeAttributesClassName",
    "volumeMode",
];

pub(super) fn row() -> Resource {
    Resource {
        short_names: short(&["pv"]),
        scope: Scope::Cluster,
        strategy: Arc::new(PersistentVolume),
        columns: vec![
            table::name_column(),
            Column::computed("Capacity", Cell::Text, |volume, _| text(volume, "spec.capacity.storage")),
            Column::computed("Access Modes", Cell::Text, |volume, _| {
                Value::from(modes(volume.at("spec.accessModes")))
            }),
            Column::computed("Reclaim Policy", Cell::Text, |volume, _| {
                text(volume, "spec.persistentVolumeReclaimPolicy")
            }),
            Column::computed("Status", Cell::Text, |volume, _| phase(volume)),
            Column::computed("Claim", Cell::Text, |volume, _| Value::from(claim(volume))),
            Column::computed("StorageClass", Cell::Text, |volume, _| text(volume, "spec.storageClassName")),
            Column::computed("VolumeAttributesClass", Cell::Text, |volume, _| attributes_class(volume)),
            Column::computed("Reason", Cell::Text, |volume, _| text(volume, "status.reason")),
            table::age_column(),
            Column::computed("VolumeMode", Cell::Text, |volume, _| text(volume, "spec.volumeMode")).wide(),
        ],
        subresources: vec![Subresource::Status],
        ..plain("", "PersistentVolume", "persistentvolumes", "persistentvolumes")
    }
}

fn text(object: &Object, path: &str) -> Value {
    Value::from(object.str_at(path))
}

/// The phase, or that it is on its way out.
pub(super) fn phase(object: &Object) -> Value {
    if object.meta.deletion_timestamp.is_some() {
        return Value::from("Terminating");
    }
    text(object, "status.phase")
}

pub(super) fn attributes_class(object: &Object) -> Value {
    match object.str_at("spec.volumeAttributesClassName") {
        "" => Value::from("<unset>"),
        name => Value::from(name),
    }
}

/// `RWO,ROX,RWX,RWOP`, in upstream's order.
///
/// Source: upstream `GetAccessModesAsString`.
pub(super) fn modes(list: Option<&Value>) -> String {
    const SHORT: [(&str, &str); 4] = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let given: Vec<&str> = list
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let shown = SHORT.iter().filter(|(mode, _)| given.contains(mode)).map(|(_, short)| *short);
    shown.collect::<Vec<_>>().join(",")
}

fn claim(volume: &Object) -> String {
    match (volume.str_at("spec.claimRef.namespace"), volume.str_at("spec.claimRef.name")) {
        (_, "") => String::new(),
        (namespace, name) => format!("{namespace}/{name}"),
    }
}

struct PersistentVolume;

impl Strategy for PersistentVolume {
    /// Kinds of volumes that are gone have nothing to warn of: they are refused.
    ///
    /// Source: upstream `pkg/api/persistentvolume/util.go`.
    fn warnings(&self, new: &Object, _old: Option<&Object>) -> Vec<String> {
        let mut told: Vec<String> = old_class(new).into_iter().collect();
        if new.str_at("spec.persistentVolumeReclaimPolicy") == "Recycle" {
            told.push(
                "spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. \
                 Instead, the recommended approach is to use dynamic provisioning."
                    .to_owned(),
            );
        }
        const TERMS: &str = "spec.nodeAffinity.required.nodeSelectorTerms";
        let terms = new.at(TERMS).and_then(Value::as_array);
        for (index, term) in terms.into_iter().flatten().enumerate() {
            told.extend(of_term(&format!("{TERMS}[{index}]"), term, false));
        }
        told
    }

    /// Source: upstream `SetDefaults_PersistentVolume`, `SetDefaults_HostPathVolumeSource`.
    fn default(&self, volume: &mut Object) {
        if let Some(spec) = values::object(&mut volume.body, "spec") {
            values::set_absent(spec, "persistentVolumeReclaimPolicy", "Retain");
            values::set_absent(spec, "volumeMode", "Filesystem");
            if let Some(host) = values::object(spec, "hostPath") {
                host.entry("type").or_insert_with(|| Value::from(""));
            }
        }
    }

    fn prepare(&self, change: Change<'_>, _now: Time) {
        prepare_protected(change, PROTECTION);
    }

    fn validate(&self, new: &Object, old: Option<&Object>, rules: Rules) -> Vec<Violation> {
        let volume: Typed = match view(new) {
            Ok(volume) => volume,
            Err(broken) => return broken,
        };
        if rules == Rules::UpdateStatus {
            return Vec::new();
        }
        let mut broken = spec_rules(new, &volume.spec.unwrap_or_default());
        if let Some(old) = old {
            broken.extend(unchanged(new, old));
        } else if broken.is_empty() {
            broken.extend(refused(new));
        }
        broken
    }
}

/// `prepare` of a volume or a claim: its status is the binder's, and it stays
/// while it is in use.
pub(super) fn prepare_protected(change: Change<'_>, finalizer: &str) {
    match change {
        Change::Create { new } => {
            new.body.insert("status".to_owned(), json!({ "phase": "Pending" }));
            protect(new, finalizer);
        }
        other => keep_status_apart(other),
    }
}

/// Adds a finalizer.
///
/// Source: upstream admission plugin `StorageObjectInUseProtection`.
fn protect(object: &mut Object, finalizer: &str) {
    let finalizers = object.meta.finalizers.get_or_insert_default();
    if !finalizers.iter().any(|known| known == finalizer) {
        finalizers.push(finalizer.to_owned());
    }
}

/// Access modes of a volume or a claim, and what is said when there are none.
pub(super) fn mode_rules(field: &str, given: Option<&[String]>, none: &str) -> Vec<Violation> {
    const MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
    let given = given.unwrap_or_default();
    let mut broken = Vec::new();
    if given.is_empty() {
        broken.push(Violation::required(field, none));
    }
    broken.extend(given.iter().filter_map(|mode| formats::one_of(field, mode, &MODES)));
    if given.len() > 1 && given.iter().any(|mode| mode == "ReadWriteOncePod") {
        broken.push(Violation::forbidden(field, "may not use ReadWriteOncePod with other access modes"));
    }
    broken
}

fn sources(object: &Object) -> Vec<&str> {
    let spec = object.at("spec").and_then(Value::as_object).into_iter().flatten();
    spec.filter(|(name, value)| !OTHERS.contains(&name.as_str()) && !value.is_null())
        .map(|(name, _)| name.as_str())
        .collect()
}

fn spec_rules(object: &Object, spec: &PersistentVolumeSpec) -> Vec<Violation> {
    let mut broken = mode_rules("spec.accessModes", spec.access_modes.as_deref(), "");
    match spec.capacity.as_ref().filter(|capacity| !capacity.is_empty()) {
        None => {
            broken.push(Violation::required("spec.capacity", ""));
            // Upstream finds this wrong twice, the second time in Go's words.
            let shown = if spec.capacity.is_some() { "{}" } else { "(nil)" };
            broken.push(Violation {
                field: "spec.capacity".to_owned(),
                reason: "FieldValueNotSupported",
                message: format!("Unsupported value: core.ResourceList{shown}: supported values: \"storage\""),
            });
        }
        Some(capacity) => {
            if capacity.len() != 1 || !capacity.contains_key("storage") {
                broken.push(Violation::not_supported(
                    "spec.capacity",
                    &capacity.keys().cloned().collect::<Vec<_>>().join(", "),
                    &["storage"],
                ));
            }
            for (name, amount) in capacity {
                let positive = Quantity::try_from(amount).is_ok_and(|quantity| quantity > Quantity::ZERO);
                if !positive {
                    let field = format!("spec.capacity[{name}]");
                    broken.push(Violation::invalid(
                        field,
                        &Value::from(amount.0.as_str()),
                        "must be greater than zero",
                    ));
                }
            }
        }
    }
    let policy = spec.persistent_volume_reclaim_policy.as_deref().unwrap_or_default();
    broken.extend(formats::one_of(
        "spec.persistentVolumeReclaimPolicy",
        policy,
        &["Delete", "Recycle", "Retain"],
    ));
    broken.extend(formats::one_of(
        "spec.volumeMode",
        spec.volume_mode.as_deref().unwrap_or_default(),
        &["Block", "Filesystem"],
    ));
    let sources = sources(object);
    match sources.as_slice() {
        [] => broken.push(Violation::required("spec", "must specify a volume type")),
        [_] => {}
        [_, rest @ ..] => broken.extend(
            rest.iter()
                .map(|source| Violation::forbidden(format!("spec.{source}"), "may not specify more than 1 volume type")),
        ),
    }
    if let Some(host) = &spec.host_path {
        broken.extend(path_rules("spec.hostPath.path", &host.path));
        if policy == "Recycle" && host.path.trim_end_matches('/').is_empty() {
            broken.push(Violation::forbidden(
                "spec.persistentVolumeReclaimPolicy",
                "may not be 'recycle' for a hostPath mount of '/'",
            ));
        }
    }
    let required = spec.node_affinity.as_ref().and_then(|affinity| affinity.required.as_ref());
    if let Some(local) = &spec.local {
        broken.extend(path_rules("spec.local.path", &local.path));
        if required.is_none() {
            broken.push(Violation::required("spec.nodeAffinity", "Local volume requires node affinity"));
        }
    }
    if spec.node_affinity.is_some() && required.is_none() {
        broken.push(Violation::required(
            "spec.nodeAffinity.required",
            "must specify required node constraints",
        ));
    }
    if let Some(required) = required {
        broken.extend(node_selector("spec.nodeAffinity.required", required));
    }
    let class = spec.storage_class_name.as_deref().unwrap_or_default();
    if !class.is_empty() {
        broken.extend(invalid_each("spec.storageClassName", class, names::dns1123_subdomain(class)));
    }
    broken
}

fn path_rules(field: &str, path: &str) -> Vec<Violation> {
    if path.is_empty() {
        return vec![Violation::required(field, "")];
    }
    formats::no_backsteps(field, path).into_iter().collect()
}

/// Source: upstream `ValidatePersistentVolumeUpdate`.
fn unchanged(new: &Object, old: &Object) -> Vec<Violation> {
    let mut broken = Vec::new();
    let source = |object: &Object| -> Value {
        let spec = object.at("spec").cloned().unwrap_or_default();
        let all = sources(object)
            .into_iter()
            .map(|name| (name.to_owned(), comparable(spec.get(name))));
        Value::Object(all.collect())
    };
    let mut difference = String::new();
    values::differ("spec", &source(old), &source(new), &mut difference);
    if !difference.is_empty() {
        let rule = "spec.persistentvolumesource is immutable after creation";
        broken.push(Violation::forbidden(
            "spec.persistentvolumesource",
            &format!("{rule}\n{difference}"),
        ));
    }
    for field in ["spec.volumeMode", "spec.nodeAffinity"] {
        let (now, before) = (comparable(new.at(field)), comparable(old.at(field)));
        // Affinity may be given to a volume that had none.
        if now != before && !(field == "spec.nodeAffinity" && before.is_null()) {
            // Upstream leaves the spec out of these two paths.
            let field = field.trim_start_matches("spec.");
            broken.push(Violation::invalid(field, &now, "field is immutable"));
        }
    }
    broken
}

/// What is right and not done.
fn refused(volume: &Object) -> Vec<Violation> {
    let mut refused: Vec<Violation> = sources(volume)
        .into_iter()
        .filter(|source| !SOURCES.contains(source))
        .map(|source| not_yet(&format!("spec.{source}"), "mount volumes of this kind"))
        .collect();
    if volume.str_at("spec.volumeMode") == "Block" {
        refused.push(not_yet("spec.volumeMode", "attach volume devices"));
    }
    if volume.str_at("spec.persistentVolumeReclaimPolicy") == "Recycle" {
        refused.push(not_yet("spec.persistentVolumeReclaimPolicy", "recycle volumes"));
    }
    if table::count(volume, "spec.mountOptions") > 0 {
        refused.push(not_yet("spec.mountOptions", "mount with options"));
    }
    if !volume.str_at("spec.volumeAttributesClassName").is_empty() {
        refused.push(not_yet("spec.volumeAttributesClassName", "know classes of volume attributes"));
    }
    refused
}
