mod refusals;
mod resize;
mod rules;
mod strategy;
mod updates;

use api::Object;
use serde_json::{Value, json};

use super::*;

/// A Pod of this spec in the default namespace, defaults filled in.
fn pod(spec: Value) -> Object {
    let mut pod: Object = serde_json::from_value(
        json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "p", "namespace": "default" }, "spec": spec }),
    )
    .unwrap();
    Pod.default(&mut pod);
    if let Some(spec) = pod.body.get_mut("spec") {
        let schema = api::schema::named("io.k8s.api.core.v1.PodSpec").unwrap();
        api::schema::normalize(schema, spec);
    }
    pod
}

/// The smallest container, with more fields.
fn container(more: Value) -> Value {
    let mut container = json!({ "name": "a", "image": "i" });
    for (key, value) in more.as_object().unwrap() {
        container[key] = value.clone();
    }
    container
}

/// A Pod with one such container.
fn with(more: Value) -> Object {
    pod(json!({ "containers": [container(more)] }))
}

fn said(violations: &[Violation]) -> Vec<String> {
    violations.iter().map(|v| format!("{}: {}", v.field, v.message)).collect()
}

fn created(pod: &Object) -> Vec<String> {
    said(&Pod.validate(pod, None, Rules::Create))
}

fn updated(new: &Object, old: &Object) -> Vec<String> {
    said(&Pod.validate(new, Some(old), Rules::Update))
}
