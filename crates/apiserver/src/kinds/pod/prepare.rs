//! What the server owns of a Pod.
//!
//! Source: upstream `pkg/registry/core/pod/strategy.go`, `PrepareForCreate`,
//! `PrepareForUpdate`; KEP-5067 for the generation.

use api::pods::{self, QosClass};
use api::typed::Pod;
use api::{Object, Time};
use serde_json::{Value, json};

use super::app_armor;
use crate::kinds::keep_status_apart;
use crate::registry::Change;

/// The condition message of a Pod with scheduling gates.
const GATED: &str = "Scheduling is blocked due to non-empty scheduling gates";

pub(super) fn prepare(change: Change<'_>, now: Time) {
    match change {
        Change::Create { new } => create(new, now),
        Change::Update { new, old } => {
            keep_status_apart(Change::Update { new, old });
            keep_deletion(new, old);
            let generation = old.meta.generation.unwrap_or(0);
            let changed = comparable(new.body.get("spec")) != comparable(old.body.get("spec"));
            new.meta.generation = Some(generation.saturating_add(i64::from(changed)));
        }
        Change::UpdateStatus { new, old } => {
            keep_status_apart(Change::UpdateStatus { new, old });
            keep_deletion(new, old);
            new.meta.generation = old.meta.generation;
            if let Some(Value::Object(status)) = new.body.get_mut("status")
                && !status.contains_key("qosClass")
                && let Some(class) = old.at("status.qosClass")
            {
                status.insert("qosClass".to_owned(), class.clone());
            }
        }
    }
}

fn create(new: &mut Object, now: Time) {
    app_armor::sync(new);
    new.meta.generation = Some(1);
    let mut status = json!({ "phase": "Pending", "qosClass": qos_class(new) });
    let gated = new
        .at("spec.schedulingGates")
        .and_then(Value::as_array)
        .is_some_and(|gates| !gates.is_empty());
    if gated {
        status["conditions"] = json!([{
            "type": "PodScheduled", "status": "False", "reason": "SchedulingGated", "message": GATED,
            "lastProbeTime": null, "lastTransitionTime": now.to_string(), "observedGeneration": 1,
        }]);
    }
    new.body.insert("status".to_owned(), status);
}

/// A deletion that has begun goes on.
fn keep_deletion(new: &mut Object, old: &Object) {
    new.meta.deletion_timestamp.clone_from(&old.meta.deletion_timestamp);
    new.meta.deletion_grace_period_seconds = old.meta.deletion_grace_period_seconds;
}

/// The quality of service class; of a spec that is no spec, the lowest.
fn qos_class(pod: &Object) -> &'static str {
    pod.view::<Pod>().map_or(QosClass::BestEffort, |pod| pods::qos_class(&pod)).as_str()
}

/// A value in which absent, null and empty are the same, as they are to
/// upstream's comparison.
pub(in crate::kinds) fn comparable(value: Option<&Value>) -> Value {
    match value {
        None => Value::Null,
        Some(Value::Object(map)) => {
            let kept: serde_json::Map<_, _> = map
                .iter()
                .map(|(key, inner)| (key.clone(), comparable(Some(inner))))
                .filter(|(_, inner)| !inner.is_null())
                .collect();
            if kept.is_empty() { Value::Null } else { Value::Object(kept) }
        }
        Some(Value::Array(list)) if list.is_empty() => Value::Null,
        Some(Value::Array(list)) => list.iter().map(|inner| comparable(Some(inner))).collect(),
        Some(Value::String(text)) if text.is_empty() => Value::Null,
        Some(other) => other.clone(),
    }
}
