//! `pods/binding`: a pod is given its node.
//!
//! Source: upstream `pkg/registry/core/pod/storage/storage.go`, `BindingREST`.

use api::status::Violation;
use api::{Object, ResourceId, Status};
use http::{Response, StatusCode};
use serde_json::{Value, json};

use crate::body::Body;
use crate::call::Call;
use crate::{codec, respond, write};

/// A `Binding`, as far as it matters.
#[derive(Debug)]
struct Binding {
    name: String,
    namespace: String,
    uid: Option<String>,
    revision: Option<String>,
    annotations: Vec<(String, String)>,
    node: String,
}

/// `POST .../pods/NAME/binding`.
pub(crate) async fn create(mut call: Call) -> Result<Response<Body>, Status> {
    let binding = read(&mut call).await?;
    if binding.name != call.asked.name {
        return Err(Status::bad_request("name in URL does not match name in Binding object"));
    }
    bind(call, binding).await
}

/// `POST .../bindings`: the pod is named in the body.
pub(crate) async fn create_named_in_body(mut call: Call) -> Result<Response<Body>, Status> {
    if call.asked.verb != crate::request::Verb::Create || !call.asked.name.is_empty() {
        return Err(call.wrong_method());
    }
    let binding = read(&mut call).await?;
    call.asked.name.clone_from(&binding.name);
    "binding".clone_into(&mut call.asked.subresource);
    bind(call, binding).await
}

async fn read(call: &mut Call) -> Result<Binding, Status> {
    let bytes = call.read_body().await?;
    let value = codec::parse(&call.content_type(), &bytes, call.core.limits.body_depth, "Binding")?.value;
    let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    if !matches!(text("/kind").as_str(), "" | "Binding") {
        return Err(Status::bad_request(format!(
            "the object provided is a {}, not a Binding",
            text("/kind")
        )));
    }
    let given = |text: String| Some(text).filter(|text| !text.is_empty());
    let annotations = value
        .pointer("/metadata/annotations")
        .and_then(Value::as_object)
        .into_iter()
        .flatten();
    let binding = Binding {
        name: text("/metadata/name"),
        namespace: text("/metadata/namespace"),
        uid: given(text("/metadata/uid")),
        revision: given(text("/metadata/resourceVersion")),
        annotations: annotations
            .map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned()))
            .collect(),
        node: text("/target/name"),
    };
    if !binding.namespace.is_empty() && binding.namespace != call.asked.namespace {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    let mut violations = Vec::new();
    if !matches!(text("/target/kind").as_str(), "" | "Node") {
        violations.push(Violation::not_supported("target.kind", &text("/target/kind"), &["Node", "<empty>"]));
    }
    if binding.node.is_empty() {
        violations.push(Violation::required("target.name", ""));
    }
    if violations.is_empty() {
        Ok(binding)
    } else {
        Err(Status::invalid(
            &ResourceId::new("", "v1", "Binding", "bindings"),
            &binding.name,
            &violations,
        ))
    }
}

async fn bind(mut call: Call, binding: Binding) -> Result<Response<Body>, Status> {
    let now = call.now;
    // Nobody owns where a pod runs: upstream writes it past the field managers.
    write::change(&mut call, write::Ownership::Kept, |pod, _| assign(pod, &binding, now)).await?;
    Ok(respond::json(StatusCode::CREATED, &created()))
}

fn created() -> Status {
    let mut status = Status::success(None);
    status.code = StatusCode::CREATED.as_u16();
    status
}

/// The pod with its node, or why it cannot have it. Pure.
fn assign(pod: &Object, binding: &Binding, now: api::Time) -> Result<Object, Status> {
    let id = ResourceId::new("", "v1", "Binding", "pods/binding");
    let refuse = |why: String| Err(Status::conflict(&id, &binding.name, &why));
    if let Some(uid) = binding.uid.as_deref().filter(|uid| *uid != pod.uid()) {
        return refuse(format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
            pod.uid()
        ));
    }
    if pod.meta.deletion_timestamp.is_some() {
        return refuse(format!("pod {} is being deleted, cannot be assigned to a host", pod.name()));
    }
    let bound_to = pod.str_at("spec.nodeName");
    if !bound_to.is_empty() {
        return refuse(format!("pod {} is already assigned to node {bound_to:?}", pod.name()));
    }
    if pod
        .at("spec.schedulingGates")
        .and_then(Value::as_array)
        .is_some_and(|gates| !gates.is_empty())
    {
        return refuse(format!("pod {} has non-empty .spec.schedulingGates", pod.name()));
    }
    let mut pod = pod.clone();
    pod.meta.resource_version.clone_from(&binding.revision);
    if !binding.annotations.is_empty() {
        pod.meta
            .annotations
            .get_or_insert_default()
            .extend(binding.annotations.iter().cloned());
    }
    if let Some(spec) = pod.body.get_mut("spec").and_then(Value::as_object_mut) {
        spec.insert("nodeName".to_owned(), Value::from(binding.node.as_str()));
    }
    scheduled(&mut pod, now);
    Ok(pod)
}

/// Sets the condition `PodScheduled`.
fn scheduled(pod: &mut Object, now: api::Time) {
    let status = pod.body.entry("status").or_insert_with(|| json!({}));
    let Some(status) = status.as_object_mut() else { return };
    let conditions = status.entry("conditions").or_insert_with(|| json!([]));
    let Some(conditions) = conditions.as_array_mut() else { return };
    conditions.retain(|condition| condition["type"] != "PodScheduled");
    conditions.push(json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now.to_string(), "observedGeneration": pod.meta.generation}));
}
