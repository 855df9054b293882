//! `metrics.k8s.io/v1beta1`: what nodes and pods use, asked of the nodes.
//!
//! Nothing is stored: each answer is computed by the nodes from two readings
//! of the kernel's counters, and tells when and over what time.
//!
//! Source: upstream `k8s.io/metrics/pkg/apis/metrics/v1beta1`; metrics-server
//! `pkg/api/{node,pod}.go`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use api::{Object, Status};
use http::{Request, Response, StatusCode};
use serde_json::{Value, json};

use crate::body::{self, Body};
use crate::call::Call;
use crate::registry::Computed;
use crate::request::Verb;
use crate::respond;
use crate::select::Selection;
use crate::server::Core;

const API_VERSION: &str = "metrics.k8s.io/v1beta1";
/// For a node to tell what is used; one that does not is left out.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest answer of a node.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Answers a get or a list.
pub(crate) async fn answer(call: Call, what: Computed) -> Result<Response<Body>, Status> {
    let one = match (call.asked.verb, call.asked.name.is_empty()) {
        (Verb::Get, false) => true,
        (Verb::List, true) => false,
        _ => return Err(call.wrong_method()),
    };
    let core = &call.core;
    let plural = if what == Computed::NodeUsage { "nodes" } else { "pods" };
    let row = core.row("", "v1", plural).ok_or_else(Status::no_such_path)?;
    let namespace = Some(call.namespace()).filter(|namespace| !namespace.is_empty());
    let selection = Selection::of(&call)?;
    let entries = core.current_all(&row, namespace).await?;
    let objects: Vec<&Object> = entries
        .iter()
        .map(|entry| entry.object.as_ref())
        .filter(|object| selection.matches(&row, object))
        .collect();
    let node_of = |object: &Object| match what {
        Computed::NodeUsage => object.name().to_owned(),
        Computed::PodUsage => object.str_at("spec.nodeName").to_owned(),
    };
    let nodes: BTreeSet<String> = objects
        .iter()
        .map(|object| node_of(object))
        .filter(|node| !node.is_empty())
        .collect();
    let asking = nodes.into_iter().map(|node| async move {
        let told = tokio::time::timeout(PATIENCE, ask(core, &node)).await;
        let told = told.unwrap_or_else(|_| Err(Status::timeout(format!("node {node} did not tell within {PATIENCE:?}"))));
        (node, told)
    });
    let mut usage = BTreeMap::new();
    for (node, told) in futures::future::join_all(asking).await {
        match told {
            Ok(told) => drop(usage.insert(node, told)),
            Err(status) => tracing::warn!(node, error = %status.message, "a node does not tell what is used"),
        }
    }
    let items = objects.iter().filter_map(|object| {
        let told = usage.get(&node_of(object))?;
        match what {
            Computed::NodeUsage => node_metrics(object, &told["node"]),
            Computed::PodUsage => {
                let uid = object.meta.uid.as_deref()?;
                let pods = told["pods"].as_array()?;
                pod_metrics(object, pods.iter().find(|pod| pod["uid"] == uid)?)
            }
        }
    });
    let mut items: Vec<Value> = items.collect();
    if one {
        return match items.pop() {
            Some(item) => Ok(respond::json(StatusCode::OK, &item)),
            None => Err(call.not_found()),
        };
    }
    let kind = format!("{}List", call.row.id.kind);
    let list = json!({"kind": kind, "apiVersion": API_VERSION, "metadata": {}, "items": items});
    Ok(respond::json(StatusCode::OK, &list))
}

async fn ask(core: &Core, node: &str) -> Result<Value, Status> {
    let request = Request::get("/stats/usage").body(body::empty());
    let request = request.map_err(|error| Status::internal(&error.to_string()))?;
    let response = core.ask_node(node, request).await?;
    let code = response.status();
    let text = body::read(response.into_body(), ANSWER_BYTES_MAX).await?;
    if !code.is_success() {
        return Err(Status::internal(&format!("node {node} answered {code}")));
    }
    serde_json::from_slice(&text).map_err(|error| Status::internal(&format!("node {node}: {error}")))
}

fn metadata(object: &Object, told: &Value) -> Value {
    let mut metadata = json!({"name": object.name(), "creationTimestamp": told["timestamp"]});
    if !object.namespace().is_empty() {
        metadata["namespace"] = json!(object.namespace());
    }
    if let Some(labels) = object.meta.labels.as_ref().filter(|labels| !labels.is_empty()) {
        metadata["labels"] = json!(labels);
    }
    metadata
}

/// As quantities: billionths of a core, and kibibytes.
fn usage(told: &Value) -> Option<Value> {
    let memory = told["memoryBytes"].as_u64()?;
    Some(json!({"cpu": format!("{}n", told["cpuNanoCores"].as_u64()?), "memory": format!("{}Ki", memory / 1024)}))
}

/// A `metav1.Duration`.
fn window(told: &Value) -> Option<String> {
    Some(format!("{:.3}s", told["windowSeconds"].as_f64()?))
}

fn node_metrics(node: &Object, told: &Value) -> Option<Value> {
    Some(json!({
        "kind": "NodeMetrics",
        "apiVersion": API_VERSION,
        "metadata": metadata(node, told),
        "timestamp": told["timestamp"],
        "window": window(told)?,
        "usage": usage(told)?,
    }))
}

fn pod_metrics(pod: &Object, told: &Value) -> Option<Value> {
    let containers = told["containers"].as_array()?.iter();
    let containers: Option<Vec<Value>> = containers
        .map(|container| Some(json!({"name": container["name"], "usage": usage(container)?})))
        .collect();
    Some(json!({
        "kind": "PodMetrics",
        "apiVersion": API_VERSION,
        "metadata": metadata(pod, told),
        "timestamp": told["timestamp"],
        "window": window(told)?,
        "containers": containers?,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_told_in_quantities() {
        let pod: Object = serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "n", "labels": {"a": "b"}},
        }))
        .unwrap();
        let told = json!({
            "timestamp": "2026-01-01T00:00:00Z", "windowSeconds": 14.9876,
            "containers": [{"name": "c", "cpuNanoCores": 1_500_000, "memoryBytes": 10_000}],
        });
        let metrics = pod_metrics(&pod, &told).unwrap();
        assert_eq!(metrics["window"], "14.988s");
        assert_eq!(metrics["metadata"]["labels"]["a"], "b");
        assert_eq!(
            metrics["containers"],
            json!([{"name": "c", "usage": {"cpu": "1500000n", "memory": "9Ki"}}])
        );
        assert_eq!(node_metrics(&pod, &Value::Null), None, "a node that has no rate yet");
    }
}
