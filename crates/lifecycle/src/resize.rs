//! What the containers of a pod are granted of what they ask for.
//!
//! A node grants what a pod was admitted with. What is asked for later is
//! granted if it fits beside the other pods, else it stays as it was. What was
//! granted is read back from the status, so an agent that was killed goes on.
//!
//! Source: KEP-1287; upstream `kubelet.go`, `canResizePod`.

use std::collections::BTreeMap;

use api::node::Requirements;
use api::pods;
use api::typed::{Container, Node, Pod, WireQuantity};

use crate::admit;
use crate::input::ResizePending;

/// What containers were granted, by name.
pub type Grant = BTreeMap<String, Requirements>;

/// What can be changed of a running container.
const RESIZABLE: [&str; 2] = ["cpu", "memory"];

/// What a pod asks for.
#[must_use]
pub fn asked(pod: &Pod) -> Grant {
    let spec = pod.spec.iter();
    spec.flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers))
        .map(|container| (container.name.clone(), Requirements::of(container.resources.as_ref())))
        .collect()
}

/// What a pod was granted, as its status has it; what it asks for, where that
/// says nothing.
#[must_use]
pub fn granted(pod: &Pod) -> Grant {
    let mut grant = asked(pod);
    let Some(status) = &pod.status else { return grant };
    let statuses = status
        .init_container_statuses
        .iter()
        .flatten()
        .chain(status.container_statuses.iter().flatten());
    for status in statuses {
        let (Some(told), Some(own)) = (&status.resources, grant.get_mut(&status.name)) else {
            continue;
        };
        let told = Requirements::of(Some(told));
        let requests = status.allocated_resources.iter().flatten();
        let requests: BTreeMap<_, _> = requests.map(|(name, WireQuantity(text))| (name.clone(), text.clone())).collect();
        for name in RESIZABLE {
            put(&mut own.requests, name, requests.get(name));
            put(&mut own.limits, name, told.limits.get(name));
        }
    }
    grant
}

fn put(list: &mut BTreeMap<String, String>, name: &str, value: Option<&String>) {
    match value {
        Some(value) => list.insert(name.to_owned(), value.clone()),
        None => list.remove(name),
    };
}

/// Whether a pod asks for just what it was granted.
#[must_use]
pub fn agrees(asked: &Grant, granted: &Grant) -> bool {
    asked.iter().all(|(name, asked)| {
        let granted = granted.get(name);
        granted.is_none_or(|granted| RESIZABLE.iter().all(|resource| asked.agrees(granted, resource)))
    })
}

/// The pod as the node runs it: with what it was granted.
#[must_use]
pub fn with_grant(mut pod: Pod, grant: &Grant) -> Pod {
    let apply = |container: &mut Container| {
        let Some(granted) = grant.get(&container.name) else { return };
        let mut own = Requirements::of(container.resources.as_ref());
        for name in RESIZABLE {
            put(&mut own.requests, name, granted.requests.get(name));
            put(&mut own.limits, name, granted.limits.get(name));
        }
        let claims = container.resources.take().and_then(|resources| resources.claims);
        container.resources = Some(api::typed::ResourceRequirements { claims, ..own.wire() });
    };
    if let Some(spec) = &mut pod.spec {
        spec.init_containers
            .iter_mut()
            .flatten()
            .chain(&mut spec.containers)
            .for_each(apply);
    }
    pod
}

/// Whether a pod may have what it asks for, beside `others`.
///
/// # Errors
/// Why not, or not yet.
pub fn verdict(pod: &Pod, others: &[&Pod], node: &Node) -> Result<(), ResizePending> {
    let allocatable = pods::amounts(node.status.as_ref().and_then(|status| status.allocatable.as_ref()));
    let requests = pods::requests(pod);
    for name in ["memory", "cpu"] {
        let [requested, capacity] = [&requests, &allocatable].map(|list| admit::in_units(list, name));
        if requested > capacity {
            return Err(ResizePending {
                reason: api::pods::RESIZE_INFEASIBLE,
                message: format!("Node didn't have enough capacity: {name}, requested: {requested}, capacity: {capacity}"),
            });
        }
    }
    admit::fits_beside(pod, others, node).map_err(|refusal| ResizePending {
        reason: "Deferred",
        message: refusal.message,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(cpu: &str, status: Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {},
            "spec": { "containers": [{ "name": "c", "resources": { "requests": { "cpu": cpu }, "limits": { "memory": "1Gi" } } }] },
            "status": status
        }))
        .unwrap()
    }

    fn node() -> Node {
        serde_json::from_value(json!({ "metadata": {}, "status": { "allocatable": { "cpu": "2", "memory": "4Gi", "pods": "9" } } }))
            .unwrap()
    }

    #[test]
    fn what_was_granted_is_read_back() {
        let fresh = pod("1", json!({}));
        assert_eq!(granted(&fresh), asked(&fresh));
        let told = json!({ "containerStatuses": [{
            "name": "c", "image": "", "imageID": "", "ready": true, "restartCount": 0,
            "allocatedResources": { "cpu": "500m" },
            "resources": { "requests": { "cpu": "500m" }, "limits": { "memory": "1Gi" } }
        }] });
        let asks = pod("1", told.clone());
        let grant = granted(&asks);
        assert!(!agrees(&asked(&asks), &grant));
        assert!(agrees(&asked(&pod("0.5", told)), &grant));
        let runs = with_grant(asks, &grant);
        assert_eq!(admit::in_units(&pods::requests(&runs), "cpu"), 500);
        assert_eq!(admit::in_units(&pods::limits(&runs), "memory"), 1 << 30);
    }

    #[test]
    fn more_than_there_is_is_infeasible_and_more_than_is_left_deferred() {
        let other = pod("1500m", json!({}));
        let said = |cpu: &str| verdict(&pod(cpu, json!({})), &[&other], &node());
        assert_eq!(said("500m"), Ok(()));
        let deferred = said("1").unwrap_err();
        assert_eq!(
            (deferred.reason, deferred.message.as_str()),
            (
                "Deferred",
                "Node didn't have enough resource: cpu, requested: 1000, used: 1500, capacity: 2000"
            )
        );
        let never = said("3").unwrap_err();
        assert_eq!(
            (never.reason, never.message.as_str()),
            (
                "Infeasible",
                "Node didn't have enough capacity: cpu, requested: 3000, capacity: 2000"
            )
        );
    }
}
