//! The built-in rows of the registry, one file per kind that behaves in its
//! own way.
//!
//! Reading order: [`rows`], a small kind such as `config_map.rs`, then
//! `pod.rs`. A kind is its row; a row without a strategy behaves as its schema
//! says.

mod certificate_signing_request;
mod config_map;
mod controller_revision;
mod custom_resource;
mod endpoint_slice;
mod endpoints;
mod event;
mod lease;
mod limit_range;
mod namespace;
mod node;
mod persistent_volume;
mod persistent_volume_claim;
mod pod;
mod pod_disruption_budget;
mod pod_template;
mod priority_class;
mod rbac;
mod replication_controller;
mod resource_quota;
pub(crate) mod reviews;
mod runtime_class;
mod secret;
mod service;
mod service_account;
mod storage;
mod usage;
pub(crate) mod values;
mod warnings;

pub use self::custom_resource::row as custom_resource;
pub use self::pod::fields::{SchemaField, Standing, UsedField, examine, schema_fields};
pub(crate) use self::priority_class::system as system_priority_classes;
pub(crate) use self::replication_controller::scale;
pub(crate) use self::storage::is_default_class;

use api::schema::{self, Schema};
use api::{Object, ResourceId};
use serde::de::DeserializeOwned;
use serde_json::Value;

use api::status::Violation;

use crate::registry::{Change, Registry, Resource};

/// A selectable field that holds text at a path outside `metadata`.
macro_rules! text_field {
    ($path:literal) => {
        $crate::registry::Field::path($path)
    };
    ($name:literal, $path:literal) => {
        $crate::registry::Field::computed($name, |object| object.str_at($path).to_owned())
    };
}
use text_field;

/// A selectable field that is true or false; absent is false.
macro_rules! flag_field {
    ($path:literal) => {
        $crate::registry::Field::computed($path, |object| {
            object.at($path).and_then(serde_json::Value::as_bool).unwrap_or(false).to_string()
        })
    };
}
use flag_field;

/// The built-in rows, for looking things up where nobody serves them.
#[must_use]
pub fn builtin() -> Registry {
    Registry::of(rows())
}

/// Every built-in row.
#[must_use]
pub fn rows() -> Vec<Resource> {
    let mut rows = vec![
        namespace::row(),
        node::row(),
        pod::row(),
        event::core_row(),
        event::events_row(),
        config_map::row(),
        secret::row(),
        service::row(),
        endpoints::row(),
        endpoint_slice::row(),
        service_account::row(),
        lease::row(),
        priority_class::row(),
        limit_range::row(),
        resource_quota::row(),
        pod_template::row(),
        replication_controller::row(),
        controller_revision::row(),
        pod_disruption_budget::row(),
        runtime_class::row(),
        persistent_volume::row(),
        persistent_volume_claim::row(),
        storage::class_row(),
        storage::node_row(),
        certificate_signing_request::row(),
    ];
    rows.extend(reviews::rows().into_iter().chain(rbac::rows()).chain(usage::rows()));
    rows
}

/// The row of a kind the schema table holds, with nothing special.
fn plain(group: &str, kind: &str, plural: &str, storage: &'static str) -> Resource {
    Resource::plain(ResourceId::new(group, "v1", kind, plural), storage, shape(group, kind))
}

fn shape(group: &str, kind: &str) -> Schema<'static> {
    schema::for_kind(group, "v1", kind).expect("the schema table is built into the binary and holds every kind named in this directory")
}

fn short(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// Keeps the two halves of an object apart: creates have no status, updates
/// keep the stored one, and status updates change nothing but it. Owner
/// references are not status either.
///
/// Source: upstream's strategies, such as `pkg/registry/core/pod/strategy.go`.
fn keep_status_apart(change: Change<'_>) {
    match change {
        Change::Create { new } => {
            new.body.remove("status");
        }
        Change::Update { new, old } => restore(new, old, "status"),
        Change::UpdateStatus { new, old } => {
            let status = new.body.remove("status");
            new.body.clone_from(&old.body);
            match status {
                Some(status) => new.body.insert("status".to_owned(), status),
                None => new.body.remove("status"),
            };
            new.meta.owner_references.clone_from(&old.meta.owner_references);
        }
    }
}

/// The generation of an object whose `field` is counted: one more than that of
/// what is stored, if the field changed.
fn count_change(new: &mut Object, old: &Object, field: &str) {
    let changed = pod::comparable(new.body.get(field)) != pod::comparable(old.body.get(field));
    new.meta.generation = Some(old.meta.generation.unwrap_or(0).saturating_add(i64::from(changed)));
}

/// `prepare` of a kind whose status is the server's, `status` at first, and
/// whose `spec` is counted.
fn prepare_counted(change: Change<'_>, status: Value) {
    match change {
        Change::Create { new } => {
            new.body.insert("status".to_owned(), status);
            new.meta.generation = Some(1);
        }
        Change::Update { new, old } => {
            keep_status_apart(Change::Update { new, old });
            count_change(new, old, "spec");
        }
        change @ Change::UpdateStatus { .. } => keep_status_apart(change),
    }
}

/// Puts a field of the body back to what is stored.
fn restore(new: &mut Object, old: &Object, field: &str) {
    match old.body.get(field) {
        Some(value) => {
            new.body.insert(field.to_owned(), value.clone());
        }
        None => {
            new.body.remove(field);
        }
    }
}

/// The typed view, or the one violation that there is none.
fn view<T: DeserializeOwned>(object: &Object) -> Result<T, Vec<Violation>> {
    object.view().map_err(|error| {
        let cause = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
        vec![Violation::invalid("", &Value::Null, &cause)]
    })
}

#[cfg(test)]
mod tests;
