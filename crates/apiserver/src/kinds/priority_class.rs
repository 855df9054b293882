//! `PriorityClass` of `scheduling.k8s.io/v1`.
//!
//! Source: upstream `pkg/apis/scheduling/validation/validation.go`,
//! `pkg/apis/scheduling/v1/{defaults,helpers}.go`.

use std::sync::Arc;

use api::status::Violation;
use api::{Object, Scope};
use serde_json::{Value, json};

use super::{plain, short, values};
use crate::registry::{Cell, Column, Resource, Rules, Strategy};
use crate::table;
use crate::validate::{immutable, values as formats};

/// The highest value but those of the system's own classes.
const USER_MAX: i64 = 1_000_000_000;
/// Names with this prefix are the system's own.
const SYSTEM_PREFIX: &str = "system-";
/// The classes every cluster has.
const SYSTEM: [(&str, i64, &str); 2] = [
    (
        "system-node-critical",
        2_000_001_000,
        "Used for system critical pods that must not be moved from their node.",
    ),
    (
        "system-cluster-critical",
        2_000_000_000,
        "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
    ),
];

/// The classes every cluster has, as manifests.
pub(crate) fn system() -> Vec<Value> {
    let manifest = |(name, value, description): &(&str, i64, &str)| {
        json!({
            "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": { "name": name },
            "value": value, "description": description,
        })
    };
    SYSTEM.iter().map(manifest).collect()
}

pub(super) fn row() -> Resource {
    Resource {
        short_names: short(&["pc"]),
        scope: Scope::Cluster,
        strategy: Arc::new(PriorityClass),
        columns: vec![
            table::name_column(),
            Column::path("Value", Cell::Integer, ".value"),
            Column::computed("Global-Default", Cell::Boolean, |class, _| Value::from(is_default(class))),
            table::age_column(),
            Column::path("PreemptionPolicy", Cell::Text, ".preemptionPolicy"),
        ],
        ..plain("scheduling.k8s.io", "PriorityClass", "priorityclasses", "priorityclasses")
    }
}

struct PriorityClass;

fn value(class: &Object) -> i64 {
    class.body.get("value").and_then(Value::as_i64).unwrap_or(0)
}

fn is_default(class: &Object) -> bool {
    class.body.get("globalDefault") == Some(&Value::Bool(true))
}

impl Strategy for PriorityClass {
    fn default(&self, class: &mut Object) {
        values::set_absent(&mut class.body, "preemptionPolicy", "PreemptLowerPriority");
    }

    fn validate(&self, new: &Object, old: Option<&Object>, rules: Rules) -> Vec<Violation> {
        if let (Rules::Update, Some(old)) = (rules, old) {
            let mut broken = Vec::new();
            if value(new) != value(old) {
                broken.push(Violation::forbidden("value", "may not be changed in an update."));
            }
            let policy = |class: &Object| class.str_at("preemptionPolicy").to_owned();
            broken.extend(immutable("preemptionPolicy", &policy(new), &policy(old)));
            return broken;
        }
        let mut broken = Vec::new();
        if new.name().starts_with(SYSTEM_PREFIX) {
            if let Err(why) = is_system(new) {
                let rule = format!("priority class names with '{SYSTEM_PREFIX}' prefix are reserved for system use only. error: {why}");
                broken.push(Violation::forbidden("metadata.name", &rule));
            }
        } else if value(new) > USER_MAX {
            let rule = format!("maximum allowed value of a user defined priority is {USER_MAX}");
            broken.push(Violation::forbidden("value", &rule));
        }
        broken.extend(formats::one_of(
            "preemptionPolicy",
            new.str_at("preemptionPolicy"),
            &["PreemptLowerPriority", "Never"],
        ));
        broken
    }

    fn keeps(&self, name: &str) -> Option<&'static str> {
        let own = SYSTEM.iter().any(|(own, ..)| *own == name);
        own.then_some("this is a system priority class and cannot be deleted")
    }
}

/// Whether it is one of the system's own, just as that is.
fn is_system(class: &Object) -> Result<(), String> {
    let name = class.name();
    let Some((_, wanted, _)) = SYSTEM.iter().find(|(own, ..)| *own == name) else {
        return Err(format!("{name} is not a known system priority class"));
    };
    if value(class) != *wanted {
        return Err(format!("value of {name} PriorityClass must be {wanted}"));
    }
    if is_default(class) {
        return Err(format!("globalDefault of {name} PriorityClass must be false"));
    }
    Ok(())
}
