//! `pods/exec`, `pods/attach` and `pods/portforward`: requests that become a
//! stream between the client and the pod's node.
//!
//! What the client speaks (WebSocket or SPDY) is between it and the node; this
//! server decides who may and where to, and passes bytes on.
//!
//! Source: upstream `pkg/registry/core/pod/rest/subresources.go` `ExecREST`,
//! `AttachREST`, `PortForwardREST`; `pkg/registry/core/pod/strategy.go`
//! `streamLocation`, `PortForwardLocation`.

use api::{Object, Status};
use http::{HeaderMap, Request, Response};

use super::log::{container, escape};
use super::upgrade;
use crate::body::{self, Body};
use crate::call::Call;
use crate::registry::Subresource;

/// Headers that say what the stream is to be.
fn of_the_stream(name: &str) -> bool {
    matches!(name, "connection" | "upgrade" | "x-stream-protocol-version") || name.starts_with("sec-websocket-")
}

/// Connects the client with the pod's node.
pub(crate) async fn connect(call: Call, what: Subresource) -> Result<Response<Body>, Status> {
    let current = call.core.current(&call.row, &call.key()).await?.ok_or_else(|| call.not_found())?;
    let pod = current.object.as_ref();
    let uri = location(&call, pod, what)?;
    let node = pod.str_at("spec.nodeName");
    if node.is_empty() {
        return Err(Status::bad_request(format!("pod {} does not have a host assigned", pod.name())));
    }
    let mut request = Request::new(body::empty());
    *request.method_mut() = call.method.clone();
    *request.uri_mut() = uri
        .parse()
        .map_err(|error: http::uri::InvalidUri| Status::internal(&error.to_string()))?;
    let mut headers = HeaderMap::new();
    for (name, value) in call.headers.iter().filter(|(name, _)| of_the_stream(name.as_str())) {
        headers.append(name, value.clone());
    }
    *request.headers_mut() = headers;
    let response = call.core.ask_node(node, request).await?;
    Ok(upgrade::pass(call, response))
}

/// The node's path for what is asked, with the options it knows.
fn location(call: &Call, pod: &Object, what: Subresource) -> Result<String, Status> {
    let place = format!("{}/{}", escape(pod.namespace()), escape(pod.name()));
    let mut options = Vec::new();
    let path = match what {
        Subresource::PortForward => {
            let ports: Vec<&str> = call.query.all("ports").filter(|ports| !ports.is_empty()).collect();
            if !ports.is_empty() {
                options.push(format!("port={}", escape(&ports.join(","))));
            }
            format!("/portForward/{place}")
        }
        _ => {
            let container = container(pod, call.query.get("container"))?;
            for (name, told) in [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")] {
                if call.query.boolean(name).unwrap_or(false) {
                    options.push(format!("{told}=1"));
                }
            }
            let verb = if what == Subresource::Exec {
                options.extend(call.query.all("command").map(|word| format!("command={}", escape(word))));
                "exec"
            } else {
                "attach"
            };
            format!("/{verb}/{place}/{}", escape(&container))
        }
    };
    Ok(if options.is_empty() {
        path
    } else {
        format!("{path}?{}", options.join("&"))
    })
}
