//! What a Pod takes over from its runtime class.
//!
//! Source: upstream `plugin/pkg/admission/runtimeclass/admission.go`; KEP-688.

use std::sync::Arc;

use api::{Object, Status, pods};
use async_trait::async_trait;
use serde_json::{Value, json};

use super::{Attributes, Plugin};

/// The plugin `RuntimeClass`.
pub(super) struct RuntimeClass;

#[async_trait]
impl Plugin for RuntimeClass {
    fn handles(&self, asked: &Attributes<'_>) -> bool {
        asked.creates("", "pods")
    }

    async fn admit(&self, asked: &Attributes<'_>, pod: &mut Object) -> Result<(), Status> {
        let Some(class) = class_of(asked, pod).await? else { return Ok(()) };
        adopt(pod, &class).map_err(|why| asked.forbidden(pod, &why))
    }

    async fn validate(&self, asked: &Attributes<'_>, pod: &Object, _warnings: &mut Vec<String>) -> Result<(), Status> {
        let class = class_of(asked, pod).await?;
        let overhead = class.as_deref().and_then(overhead);
        let given = pod.at("spec.overhead").filter(|given| !given.is_null());
        match (overhead, given) {
            (None, Some(_)) => {
                let why = "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead";
                Err(asked.forbidden(pod, why))
            }
            (Some(wanted), given) if !same(given, Some(wanted)) => Err(asked.forbidden(pod, MISMATCH)),
            _ => Ok(()),
        }
    }
}

/// Names of the one runtime of every node: its own, and that of the kind it is.
const HANDLERS: [&str; 2] = ["lifepod", "runc"];

const MISMATCH: &str = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";

async fn class_of(asked: &Attributes<'_>, pod: &Object) -> Result<Option<Arc<Object>>, Status> {
    let Some(name) = pod.at("spec.runtimeClassName").and_then(Value::as_str) else {
        return Ok(None);
    };
    match asked.lookup.object("node.k8s.io", "runtimeclasses", "", name).await? {
        Some(class) if HANDLERS.contains(&class.str_at("handler")) => Ok(Some(class)),
        Some(class) => {
            let why = format!(
                "pod rejected: RuntimeClass {name:?} asks for the handler {:?}; the nodes of Lifepod {} have {} only",
                class.str_at("handler"),
                env!("CARGO_PKG_VERSION"),
                HANDLERS.map(|handler| format!("{handler:?}")).join(" and ")
            );
            Err(asked.forbidden(pod, &why))
        }
        None => Err(asked.forbidden(pod, &format!("pod rejected: RuntimeClass {name:?} not found"))),
    }
}

fn overhead(class: &Object) -> Option<&Value> {
    class.at("overhead.podFixed").filter(|fixed| !fixed.is_null())
}

/// Whether two lists of amounts are the same, however they are written.
fn same(one: Option<&Value>, other: Option<&Value>) -> bool {
    let amounts = |value: Option<&Value>| {
        let wire = value.cloned().map(serde_json::from_value).and_then(Result::ok);
        pods::amounts(wire.as_ref())
    };
    amounts(one) == amounts(other)
}

/// Takes over overhead, node selector and tolerations. Pure.
fn adopt(pod: &mut Object, class: &Object) -> Result<(), String> {
    let Some(Value::Object(spec)) = pod.body.get_mut("spec") else {
        return Ok(());
    };
    if let Some(fixed) = overhead(class) {
        let given = spec.get("overhead").filter(|given| !given.is_null());
        if given.is_some() && !same(given, Some(fixed)) {
            return Err(MISMATCH.to_owned());
        }
        spec.insert("overhead".to_owned(), fixed.clone());
    }
    if let Some(Value::Object(wanted)) = class.at("scheduling.nodeSelector") {
        if !matches!(spec.get("nodeSelector"), Some(Value::Object(_))) {
            spec.insert("nodeSelector".to_owned(), json!({}));
        }
        let selector = spec.get_mut("nodeSelector").and_then(Value::as_object_mut).into_iter();
        for selector in selector {
            for (key, value) in wanted {
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                if let Some(other) = selector.get(key).filter(|other| *other != value) {
                    return Err(format!(
                        "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {}; pod.spec.nodeSelector[{key}] = {}",
                        text(value),
                        text(other)
                    ));
                }
                selector.insert(key.clone(), value.clone());
            }
        }
    }
    if let Some(Value::Array(more)) = class.at("scheduling.tolerations") {
        if !matches!(spec.get("tolerations"), Some(Value::Array(_))) {
            spec.insert("tolerations".to_owned(), json!([]));
        }
        if let Some(Value::Array(tolerations)) = spec.get_mut("tolerations") {
            let new: Vec<Value> = more
                .iter()
                .filter(|toleration| !tolerations.contains(toleration))
                .cloned()
                .collect();
            tolerations.extend(new);
        }
    }
    Ok(())
}
