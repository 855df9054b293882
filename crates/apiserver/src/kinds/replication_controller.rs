//! `ReplicationController`.
//!
//! Source: upstream `pkg/apis/core/validation/validation.go`,
//! `ValidateReplicationController`; `pkg/apis/core/v1/defaults.go`.

use std::sync::Arc;

use api::status::Violation;
use api::typed::ReplicationController as Typed;
use api::{Object, Time};
use serde_json::{Value, json};

use super::pod::template;
use super::{plain, prepare_counted, short, values, view};
use crate::registry::{Cell, Change, Column, Resource, Rules, Strategy, Subresource};
use crate::table;
use crate::validate::names;
use crate::validate::values::not_negative;

pub(super) fn row() -> Resource {
    Resource {
        short_names: short(&["rc"]),
        categories: short(&["all"]),
        strategy: Arc::new(ReplicationController),
        fields: vec![crate::registry::Field::computed("status.replicas", |object| {
            number(object, "status.replicas").to_string()
        })],
        columns: vec![
            table::name_column(),
            Column::computed("Desired", Cell::Integer, |object, _| Value::from(number(object, "spec.replicas"))),
            Column::computed("Current", Cell::Integer, |object, _| Value::from(number(object, "status.replicas"))),
            Column::computed("Ready", Cell::Integer, |object, _| {
                Value::from(number(object, "status.readyReplicas"))
            }),
            table::age_column(),
            Column::computed("Containers", Cell::Text, |object, _| {
                template::containers(object, "spec.template", "name")
            })
            .wide(),
            Column::computed("Images", Cell::Text, |object, _| {
                template::containers(object, "spec.template", "image")
            })
            .wide(),
            Column::computed("Selector", Cell::Text, |object, _| {
                Value::from(table::labels(object.at("spec.selector")))
            })
            .wide(),
        ],
        subresources: vec![Subresource::Status, Subresource::Scale],
        ..plain("", "ReplicationController", "replicationcontrollers", "controllers")
    }
}

/// What the subresource `scale` takes and answers with. Not a row of the
/// registry: it has no collection.
pub(crate) fn scale() -> Resource {
    Resource {
        columns: vec![
            table::name_column(),
            Column::computed("Desired", Cell::Integer, |object, _| Value::from(number(object, "spec.replicas"))),
            Column::computed("Available", Cell::Integer, |object, _| {
                Value::from(number(object, "status.replicas"))
            }),
            table::age_column(),
        ],
        ..plain("autoscaling", "Scale", "scales", "")
    }
}

fn number(object: &Object, path: &str) -> i64 {
    object.at(path).and_then(Value::as_i64).unwrap_or(0)
}

struct ReplicationController;

impl Strategy for ReplicationController {
    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        let mut warnings = Vec::new();
        if old.is_none()
            && let Err(texts) = names::dns1123_label(new.name())
        {
            warnings.push(format!(
                "metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: [{}]",
                texts.join(" ")
            ));
        }
        if old.is_none_or(|old| old.at("spec.template") != new.at("spec.template")) {
            warnings.extend(super::pod::template_warnings(new, "spec.template"));
        }
        warnings
    }

    fn default(&self, object: &mut Object) {
        let labels = object.at("spec.template.metadata.labels").cloned();
        if object.meta.labels.as_ref().is_none_or(std::collections::BTreeMap::is_empty)
            && let Some(labels) = labels.clone()
        {
            object.meta.labels = serde_json::from_value(labels).ok();
        }
        let Some(Value::Object(spec)) = object.body.get_mut("spec") else {
            return;
        };
        values::set_absent(spec, "replicas", 1);
        let unset = |value: Option<&Value>| value.and_then(Value::as_object).is_none_or(serde_json::Map::is_empty);
        if unset(spec.get("selector"))
            && let Some(labels) = labels
        {
            spec.insert("selector".to_owned(), labels);
        }
        if let Some(template) = values::object(spec, "template") {
            template::fill(template);
        }
    }

    fn prepare(&self, change: Change<'_>, _now: Time) {
        prepare_counted(change, json!({ "replicas": 0 }));
    }

    /// Source: upstream `DefaultGarbageCollectionPolicy` of this kind.
    fn orphans(&self) -> bool {
        true
    }

    fn validate(&self, new: &Object, _old: Option<&Object>, rules: Rules) -> Vec<Violation> {
        let typed: Typed = match view(new) {
            Ok(typed) => typed,
            Err(broken) => return broken,
        };
        if rules == Rules::UpdateStatus {
            return status_rules(new);
        }
        let spec = typed.spec.unwrap_or_default();
        let mut broken: Vec<Violation> = not_negative("spec.minReadySeconds", i64::from(spec.min_ready_seconds.unwrap_or(0)))
            .into_iter()
            .collect();
        let selector = spec.selector.unwrap_or_default();
        if selector.is_empty() {
            broken.push(Violation::required("spec.selector", ""));
        }
        broken.extend(not_negative("spec.replicas", i64::from(spec.replicas.unwrap_or(0))));
        let Some(pod) = spec.template else {
            broken.push(Violation::required("spec.template", ""));
            return broken;
        };
        let labels = pod.metadata.as_ref().and_then(|meta| meta.labels.clone()).unwrap_or_default();
        if !selector.is_empty() && !selector.iter().all(|(key, value)| labels.get(key) == Some(value)) {
            broken.push(Violation::invalid(
                "spec.template.metadata.labels",
                &json!(labels),
                "`selector` does not match template `labels`",
            ));
        }
        broken.extend(template::rules("spec.template", &pod));
        let of_pod = pod.spec.unwrap_or_default();
        let policy = of_pod.restart_policy.as_deref().unwrap_or_default();
        if policy != "Always" {
            broken.push(Violation::not_supported("spec.template.spec.restartPolicy", policy, &["Always"]));
        }
        if of_pod.active_deadline_seconds.is_some() {
            broken.push(Violation::forbidden(
                "spec.template.spec.activeDeadlineSeconds",
                "activeDeadlineSeconds in ReplicationController is not Supported",
            ));
        }
        broken
    }
}

/// Source: upstream `ValidateReplicationControllerStatus`.
fn status_rules(object: &Object) -> Vec<Violation> {
    let count = |field: &str| number(object, &format!("status.{field}"));
    let mut broken: Vec<Violation> = [
        "replicas",
        "fullyLabeledReplicas",
        "readyReplicas",
        "availableReplicas",
        "observedGeneration",
    ]
    .iter()
    .filter_map(|field| not_negative(&format!("status.{field}"), count(field)))
    .collect();
    let mut at_most = |field: &str, of: &str| {
        if count(field) > count(of) {
            let rule = if of == "replicas" {
                "cannot be greater than status.replicas"
            } else {
                "cannot be greater than readyReplicas"
            };
            broken.push(Violation::invalid(format!("status.{field}"), &count(field).into(), rule));
        }
    };
    at_most("fullyLabeledReplicas", "replicas");
    at_most("readyReplicas", "replicas");
    at_most("availableReplicas", "replicas");
    at_most("availableReplicas", "readyReplicas");
    broken
}
