//! The priority of a Pod follows from its class.
//!
//! Source: upstream `plugin/pkg/admission/priority/admission.go`; KEP-902.

use std::sync::Arc;

use api::{Object, Status};
use async_trait::async_trait;
use serde_json::{Value, json};

use super::{Attributes, Lookup, Operation, Plugin};

const GROUP: &str = "scheduling.k8s.io";
const CLASSES: &str = "priorityclasses";

/// The plugin `Priority`.
pub(super) struct Priority;

#[async_trait]
impl Plugin for Priority {
    fn handles(&self, asked: &Attributes<'_>) -> bool {
        asked.is("", "pods") || asked.is(GROUP, CLASSES)
    }

    async fn admit(&self, asked: &Attributes<'_>, pod: &mut Object) -> Result<(), Status> {
        match (asked.row.id.plural.as_str(), asked.operation, asked.old) {
            ("pods", Operation::Create, _) => {
                let name = pod.str_at("spec.priorityClassName");
                let class = if name.is_empty() {
                    default_class(asked.lookup).await?
                } else {
                    let found = asked.lookup.object(GROUP, CLASSES, "", name).await?;
                    Some(found.ok_or_else(|| asked.forbidden(pod, &format!("no PriorityClass with name {name} was found")))?)
                };
                rank(pod, class.as_deref()).map_err(|why| asked.forbidden(pod, &why))
            }
            ("pods", Operation::Update, Some(old)) => {
                keep_rank(pod, old);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    async fn validate(&self, asked: &Attributes<'_>, class: &Object, _warnings: &mut Vec<String>) -> Result<(), Status> {
        if asked.row.id.plural != CLASSES || !is_default(class) {
            return Ok(());
        }
        match default_class(asked.lookup).await? {
            Some(other) if other.name() != class.name() => {
                let why = format!(
                    "PriorityClass {} is already marked as default. Only one default can exist",
                    other.name()
                );
                Err(asked.forbidden(class, &why))
            }
            _ => Ok(()),
        }
    }
}

fn is_default(class: &Object) -> bool {
    class.body.get("globalDefault") == Some(&Value::Bool(true))
}

fn value(class: &Object) -> i64 {
    class.body.get("value").and_then(Value::as_i64).unwrap_or(0)
}

/// The class of Pods that name none: the lowest, should there be several.
async fn default_class(lookup: Lookup<'_>) -> Result<Option<Arc<Object>>, Status> {
    let classes = lookup.objects(GROUP, CLASSES, "").await?;
    Ok(classes
        .into_iter()
        .filter(|class| is_default(class))
        .min_by_key(|class| value(class)))
}

/// Fills what follows from the class, or says what in the Pod contradicts it.
/// Pure.
fn rank(pod: &mut Object, class: Option<&Object>) -> Result<(), String> {
    let priority = class.map_or(0, value);
    let policy = class
        .map_or("PreemptLowerPriority", |class| class.str_at("preemptionPolicy"))
        .to_owned();
    let Some(Value::Object(spec)) = pod.body.get_mut("spec") else {
        return Ok(());
    };
    if let Some(given) = spec.get("priority").and_then(Value::as_i64).filter(|given| *given != priority) {
        return Err(format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {priority} from the given PriorityClass name"
        ));
    }
    if let Some(class) = class {
        spec.insert("priorityClassName".to_owned(), Value::from(class.name()));
    }
    spec.insert("priority".to_owned(), Value::from(priority));
    if policy.is_empty() {
        return Ok(());
    }
    if let Some(given) = spec
        .get("preemptionPolicy")
        .and_then(Value::as_str)
        .filter(|given| *given != policy)
    {
        return Err(format!(
            "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission controller computed {policy} from the given PriorityClass name"
        ));
    }
    spec.insert("preemptionPolicy".to_owned(), Value::from(policy));
    Ok(())
}

/// What was computed once stays where an update leaves it out.
fn keep_rank(pod: &mut Object, old: &Object) {
    let Some(Value::Object(spec)) = pod.body.get_mut("spec") else {
        return;
    };
    for (field, path) in [("priority", "spec.priority"), ("preemptionPolicy", "spec.preemptionPolicy")] {
        if spec.get(field).is_none_or(Value::is_null)
            && let Some(value) = old.at(path)
        {
            spec.insert(field.to_owned(), json!(value));
        }
    }
}
