//! Namespace.
//!
//! Source: upstream `pkg/registry/core/namespace/strategy.go`,
//! `pkg/apis/core/v1/defaults.go` `SetDefaults_Namespace`.

use std::sync::Arc;

use api::status::Violation;
use api::{Object, Scope, Time};
use serde_json::{Value, json};

use super::{keep_status_apart, plain, restore, short, text_field};
use crate::registry::{Cell, Change, Column, Resource, Rules, Strategy, Subresource};
use crate::table;
use crate::validate::{invalid_each, names};

/// Label that lets selectors find a namespace by name.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";
/// Finalizer that holds a namespace until its content is gone.
const FINALIZER: &str = "kubernetes";
/// Namespaces that cannot be deleted.
///
/// Source: upstream `plugin/namespace/lifecycle/admission.go`.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

pub(super) fn row() -> Resource {
    Resource {
        short_names: short(&["ns"]),
        scope: Scope::Cluster,
        strategy: Arc::new(Namespace),
        fields: vec![text_field!("status.phase")],
        columns: vec![
            table::name_column(),
            Column::computed("Status", Cell::Text, |namespace, _| Value::from(namespace.str_at("status.phase")))
                .described("The status of the namespace"),
            table::age_column(),
        ],
        subresources: vec![Subresource::Status, Subresource::Finalize],
        ..plain("", "Namespace", "namespaces", "namespaces")
    }
}

struct Namespace;

fn label(namespace: &mut Object) {
    let name = namespace.name().to_owned();
    if !name.is_empty() {
        namespace.meta.labels.get_or_insert_default().insert(NAME_LABEL.to_owned(), name);
    }
}

fn finalizers(namespace: &Object) -> Vec<Value> {
    namespace
        .at("spec.finalizers")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default()
}

impl Strategy for Namespace {
    fn default(&self, namespace: &mut Object) {
        label(namespace);
    }

    fn prepare(&self, change: Change<'_>, _now: Time) {
        match change {
            Change::Create { new } => {
                // A generated name is known only now.
                label(new);
                let mut held_by = finalizers(new);
                if !held_by.contains(&Value::from(FINALIZER)) {
                    held_by.push(Value::from(FINALIZER));
                }
                new.body.insert("spec".to_owned(), json!({ "finalizers": held_by }));
                new.body.insert("status".to_owned(), json!({ "phase": "Active" }));
            }
            Change::Update { new, old } => {
                restore(new, old, "spec");
                keep_status_apart(Change::Update { new, old });
            }
            status @ Change::UpdateStatus { .. } => keep_status_apart(status),
        }
    }

    fn validate(&self, new: &Object, _old: Option<&Object>, rules: Rules) -> Vec<Violation> {
        match rules {
            Rules::Create | Rules::Update => finalizers(new)
                .iter()
                .enumerate()
                .flat_map(|(index, finalizer)| {
                    finalizer_rules(&format!("spec.finalizers[{index}]"), finalizer.as_str().unwrap_or_default())
                })
                .collect(),
            Rules::UpdateStatus | Rules::UpdateApproval => phase_rules(new),
            Rules::UpdateEphemeral | Rules::UpdateResize => Vec::new(),
        }
    }

    fn keeps(&self, name: &str) -> Option<&'static str> {
        IMMORTAL.contains(&name).then_some("this namespace may not be deleted")
    }

    fn check_name(&self, name: &str) -> Result<(), Vec<String>> {
        names::dns1123_label(name)
    }
}

fn finalizer_rules(field: &str, finalizer: &str) -> Vec<Violation> {
    let mut broken = invalid_each(field, finalizer, names::qualified_name(finalizer));
    if broken.is_empty() && !finalizer.contains('/') && finalizer != FINALIZER {
        broken.push(Violation::invalid(
            field,
            &Value::from(finalizer),
            "name is neither a standard finalizer name nor is it fully qualified",
        ));
    }
    broken
}

/// A namespace terminates if and only if it is being deleted.
fn phase_rules(namespace: &Object) -> Vec<Violation> {
    let phase = namespace.str_at("status.phase");
    let text = match namespace.meta.deletion_timestamp {
        None if phase != "Active" => "may only be 'Active' if `deletionTimestamp` is empty",
        Some(_) if phase != "Terminating" => "may only be 'Terminating' if `deletionTimestamp` is not empty",
        _ => return Vec::new(),
    };
    vec![Violation::invalid("status.Phase", &Value::from(phase), text)]
}
