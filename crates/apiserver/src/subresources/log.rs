//! `pods/log`: what a container wrote, streamed from its node.
//!
//! Source: upstream `pkg/registry/core/pod/strategy.go` `LogLocation`,
//! `pkg/apis/core/validation` `ValidatePodLogOptions`.

use api::status::Violation;
use api::{Object, ResourceId, Status};
use bytes::Bytes;
use futures::StreamExt;
use http::{Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use crate::body::{self, Body};
use crate::call::Call;
use crate::respond;

/// Names the container to take when none is asked for.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// Streams the log of one container.
pub(crate) async fn get(call: Call) -> Result<Response<Body>, Status> {
    let query = query(&call)?;
    let current = call.core.current(&call.row, &call.key()).await?.ok_or_else(|| call.not_found())?;
    let pod = current.object.as_ref();
    let container = container(pod, call.query.get("container"))?;
    let node = pod.str_at("spec.nodeName");
    if node.is_empty() {
        // Nothing has been written yet.
        return Ok(respond::text(StatusCode::OK, "text/plain", String::new()));
    }
    let path = format!(
        "/containerLogs/{}/{}/{}",
        escape(pod.namespace()),
        escape(pod.name()),
        escape(&container)
    );
    let uri = if query.is_empty() { path } else { format!("{path}?{query}") };
    let request = Request::get(uri)
        .body(body::empty())
        .map_err(|error| Status::internal(&error.to_string()))?;
    let response = call.core.ask_node(node, request).await?;
    if !response.status().is_success() {
        return Err(refused(node, response).await);
    }
    let kind = response
        .headers()
        .get(header::CONTENT_TYPE)
        .cloned()
        .unwrap_or(header::HeaderValue::from_static("text/plain"));
    let mut answer = Response::new(through(call, response.into_body()));
    answer.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(answer)
}

/// The node's body, until the server or the client's front ends. The request
/// counts as being answered until then.
pub(super) fn through(call: Call, body: Body) -> Body {
    let chunks = body.into_data_stream();
    let closing = call.core.closing.clone();
    let ends = call.ends.clone().unwrap_or_default();
    let ended = async move {
        tokio::select! {
            () = closing.cancelled() => {}
            () = ends.cancelled() => {}
        }
    };
    let permit = call.permit;
    body::stream(chunks.take_until(Box::pin(ended)).map(move |chunk: Result<Bytes, _>| {
        let _counted = &permit;
        chunk
    }))
}

/// What the node said, as a status of ours.
async fn refused(node: &str, response: Response<Body>) -> Status {
    let code = response.status();
    let text = body::read(response.into_body(), 64 << 10).await.unwrap_or_default();
    if let Ok(status) = serde_json::from_slice::<Status>(&text) {
        return status;
    }
    let text = String::from_utf8_lossy(&text);
    match code {
        StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND => Status::bad_request(text.trim()),
        _ => Status::internal(&format!("node {node} answered {code}: {}", text.trim())),
    }
}

pub(super) fn escape(segment: &str) -> String {
    utf8_percent_encode(segment, NON_ALPHANUMERIC).to_string()
}

/// The options the node understands, checked.
fn query(call: &Call) -> Result<String, Status> {
    let mut violations = Vec::new();
    let mut parts = Vec::new();
    for (name, least) in [("tailLines", 0), ("sinceSeconds", 1), ("limitBytes", 1)] {
        if let Some(value) = call.query.integer(name)? {
            if value < least {
                let text = if least == 0 {
                    "must be greater than or equal to 0"
                } else {
                    "must be greater than 0"
                };
                violations.push(Violation::invalid(name, &Value::from(value), text));
            }
            parts.push(format!("{name}={value}"));
        }
    }
    if let Some(since) = call.query.get("sinceTime") {
        if call.query.get("sinceSeconds").is_some() {
            violations.push(Violation::forbidden(
                "",
                "at most one of `sinceTime` or `sinceSeconds` may be specified",
            ));
        }
        if since.parse::<jiff::Timestamp>().is_err() {
            violations.push(Violation::invalid("sinceTime", &Value::from(since), "must be a time in RFC 3339"));
        }
        parts.push(format!("sinceTime={}", escape(since)));
    }
    for name in ["follow", "previous", "timestamps"] {
        if call.query.boolean(name).unwrap_or(false) {
            parts.push(format!("{name}=true"));
        }
    }
    if violations.is_empty() {
        Ok(parts.join("&"))
    } else {
        Err(Status::invalid(&ResourceId::new("", "v1", "PodLogOptions", ""), "", &violations))
    }
}

fn names(pod: &Object, list: &str) -> Vec<String> {
    let containers = pod.at(list).and_then(Value::as_array).into_iter().flatten();
    containers
        .filter_map(|container| container.get("name").and_then(Value::as_str))
        .map(str::to_owned)
        .collect()
}

/// The container that is meant.
pub(super) fn container(pod: &Object, asked: Option<&str>) -> Result<String, Status> {
    let regular = names(pod, "spec.containers");
    let init = names(pod, "spec.initContainers");
    let ephemeral = names(pod, "spec.ephemeralContainers");
    let known = |name: &str| {
        [&regular, &init, &ephemeral]
            .iter()
            .any(|names| names.iter().any(|known| known == name))
    };
    if let Some(name) = asked {
        return if known(name) {
            Ok(name.to_owned())
        } else {
            Err(Status::bad_request(format!("container {name} is not valid for pod {}", pod.name())))
        };
    }
    let annotated = pod
        .meta
        .annotations
        .as_ref()
        .and_then(|annotations| annotations.get(DEFAULT_CONTAINER))
        .filter(|name| known(name));
    if let Some(name) = annotated {
        return Ok(name.clone());
    }
    // A single regular container is meant even beside init containers.
    if let [only] = regular.as_slice() {
        return Ok(only.clone());
    }
    let mut message = format!(
        "a container name must be specified for pod {}, choose one of: [{}]",
        pod.name(),
        regular.join(" ")
    );
    if !init.is_empty() {
        message.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
    }
    Err(Status::bad_request(message))
}
