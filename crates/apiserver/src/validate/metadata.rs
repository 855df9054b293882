//! `metadata` of every kind.
//!
//! Source: API conventions, "Metadata"; upstream
//! `apimachinery/pkg/api/validation/objectmeta.go`.

use std::collections::BTreeMap;

use api::status::Violation;
use api::typed::{ObjectMeta, OwnerReference};
use api::{Object, Scope};
use serde_json::Value;

use super::{immutable, invalid_each, names, values};
use crate::registry::Resource;

/// Most bytes all annotation keys and values of an object may take together.
const ANNOTATIONS_MAX_BYTES: usize = 256 * 1024;
/// Finalizers that need no prefix.
const STANDARD_FINALIZERS: [&str; 3] = ["kubernetes", "orphan", "foregroundDeletion"];

/// Every broken rule about an object's metadata. On an update the caller has
/// already carried over what the server owns (`uid`, `creationTimestamp`, ...)
/// where the request left it out.
#[must_use]
pub fn metadata(row: &Resource, new: &Object, old: Option<&Object>) -> Vec<Violation> {
    let meta = &new.meta;
    let mut broken = old.map(|old| changes(meta, &old.meta)).unwrap_or_default();
    broken.extend(name(row, meta));
    broken.extend(namespace(row, meta));
    broken.extend(values::not_negative("metadata.generation", meta.generation.unwrap_or(0)));
    if let Some(map) = &meta.labels {
        broken.extend(labels("metadata.labels", map));
    }
    broken.extend(annotations("metadata.annotations", meta));
    broken.extend(owners(meta.owner_references.as_deref().unwrap_or_default()));
    broken.extend(finalizers(meta));
    broken
}

fn name(row: &Resource, meta: &ObjectMeta) -> Vec<Violation> {
    let mut broken = Vec::new();
    let prefix = meta.generate_name.as_deref().unwrap_or_default();
    if !prefix.is_empty() {
        broken.extend(invalid_each(
            "metadata.generateName",
            prefix,
            row.strategy.check_name(&as_if_complete(prefix)),
        ));
    }
    match meta.name.as_deref().unwrap_or_default() {
        "" => broken.push(Violation::required("metadata.name", "name or generateName is required")),
        name => broken.extend(invalid_each("metadata.name", name, row.strategy.check_name(name))),
    }
    broken
}

/// A prefix may end in a dash, a name may not: checks it as it would be with
/// something after it.
fn as_if_complete(prefix: &str) -> String {
    match prefix.strip_suffix('-') {
        Some(rest) if !rest.is_empty() => format!("{}a", rest.trim_end_matches('-')),
        _ => prefix.to_owned(),
    }
}

fn namespace(row: &Resource, meta: &ObjectMeta) -> Vec<Violation> {
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    match (row.scope, namespace) {
        (Scope::Namespaced, "") => vec![Violation::required("metadata.namespace", "")],
        (Scope::Namespaced, namespace) => invalid_each("metadata.namespace", namespace, names::dns1123_label(namespace)),
        (Scope::Cluster, "") => Vec::new(),
        (Scope::Cluster, _) => vec![Violation::forbidden("metadata.namespace", "not allowed on this type")],
    }
}

/// Labels, or anything that selects by them: a node selector, a Service's.
#[must_use]
pub fn labels(field: &str, map: &BTreeMap<String, String>) -> Vec<Violation> {
    let mut broken = Vec::new();
    for (key, value) in map {
        broken.extend(invalid_each(field, key, names::qualified_name(key)));
        broken.extend(invalid_each(field, value, names::label_value(value)));
    }
    broken
}

/// Annotations at `field`, of an object or of a template.
#[must_use]
pub fn annotations(field: &str, meta: &ObjectMeta) -> Vec<Violation> {
    let Some(map) = &meta.annotations else { return Vec::new() };
    let mut broken = Vec::new();
    for key in map.keys() {
        // Upper case is allowed in the whole key, prefix included.
        broken.extend(invalid_each(field, key, names::qualified_name(&key.to_lowercase())));
    }
    if map.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>() > ANNOTATIONS_MAX_BYTES {
        broken.push(Violation::too_long(field, ANNOTATIONS_MAX_BYTES));
    }
    broken
}

fn owners(owners: &[OwnerReference]) -> Vec<Violation> {
    const FIELD: &str = "metadata.ownerReferences";
    let mut broken = Vec::new();
    let mut controller: Option<&str> = None;
    for owner in owners {
        let version = owner.api_version.rsplit('/').next().unwrap_or_default();
        if version.is_empty() {
            broken.push(Violation::invalid(
                format!("{FIELD}.apiVersion"),
                &Value::from(owner.api_version.as_str()),
                "version must not be empty",
            ));
        }
        for (part, value) in [("kind", &owner.kind), ("name", &owner.name), ("uid", &owner.uid)] {
            if value.is_empty() {
                broken.push(Violation::invalid(format!("{FIELD}.{part}"), &Value::from(""), "must not be empty"));
            }
        }
        if owner.kind == "Event" && owner.api_version == "v1" {
            broken.push(Violation::invalid(
                FIELD,
                &shown(owner),
                "/v1, Kind=Event is disallowed from being an owner",
            ));
        }
        if owner.controller == Some(true) {
            if let Some(first) = controller {
                let text = format!(
                    "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {}",
                    owner.name
                );
                broken.push(Violation::invalid(FIELD, &shown(owners), &text));
            } else {
                controller = Some(&owner.name);
            }
        }
    }
    broken
}

fn shown<T: serde::Serialize + ?Sized>(value: &T) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}

fn finalizers(meta: &ObjectMeta) -> Vec<Violation> {
    const FIELD: &str = "metadata.finalizers";
    let list = meta.finalizers.as_deref().unwrap_or_default();
    let mut broken = Vec::new();
    for finalizer in list {
        broken.extend(invalid_each(FIELD, finalizer, names::qualified_name(finalizer)));
    }
    let has = |name: &str| list.iter().any(|finalizer| finalizer == name);
    if has("orphan") && has("foregroundDeletion") {
        broken.push(Violation::invalid(
            FIELD,
            &shown(list),
            "finalizer orphan and foregroundDeletion cannot be both set",
        ));
    }
    for (index, finalizer) in list.iter().enumerate() {
        if !finalizer.contains('/') && !STANDARD_FINALIZERS.contains(&finalizer.as_str()) {
            let text = "name is neither a standard finalizer name nor is it fully qualified";
            broken.push(Violation::invalid(
                format!("{FIELD}[{index}]"),
                &Value::from(finalizer.as_str()),
                text,
            ));
        }
    }
    broken
}

fn changes(new: &ObjectMeta, old: &ObjectMeta) -> Vec<Violation> {
    let mut broken = Vec::new();
    if old.deletion_timestamp.is_some() {
        let before = old.finalizers.as_deref().unwrap_or_default();
        let added: Vec<_> = new
            .finalizers
            .iter()
            .flatten()
            .filter(|finalizer| !before.contains(finalizer))
            .map(|name| format!("{name:?}"))
            .collect();
        if !added.is_empty() {
            let text = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                added.join(", ")
            );
            broken.push(Violation::forbidden("metadata.finalizers", &text));
        }
    }
    broken.extend(immutable("metadata.name", &new.name, &old.name));
    broken.extend(immutable("metadata.namespace", &new.namespace, &old.namespace));
    broken.extend(immutable("metadata.uid", &new.uid, &old.uid));
    broken.extend(immutable(
        "metadata.creationTimestamp",
        &new.creation_timestamp,
        &old.creation_timestamp,
    ));
    broken.extend(immutable(
        "metadata.deletionTimestamp",
        &new.deletion_timestamp,
        &old.deletion_timestamp,
    ));
    broken.extend(immutable(
        "metadata.deletionGracePeriodSeconds",
        &new.deletion_grace_period_seconds,
        &old.deletion_grace_period_seconds,
    ));
    if new.generation.unwrap_or(0) < old.generation.unwrap_or(0) {
        broken.push(Violation::invalid(
            "metadata.generation",
            &new.generation.unwrap_or(0).into(),
            "must not be decremented",
        ));
    }
    broken
}
