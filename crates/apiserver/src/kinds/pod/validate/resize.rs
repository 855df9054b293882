//! What may change of a Pod by its `resize` subresource.
//!
//! Source: upstream `pkg/apis/core/validation/validation.go`, `ValidatePodResize`.

use std::collections::BTreeMap;

use api::pods;
use api::quantity::Quantity;
use api::status::Violation;
use api::typed::{Container, ContainerState, Pod, PodSpec, WireQuantity};
use serde_json::Value;

use super::resources::parsed;
use super::{any, each};

/// Annotation of Pods that a node has from a file and not from the API.
const STATIC: &str = "kubernetes.io/config.mirror";

/// What can be changed of a running container.
const RESIZABLE: [&str; 2] = ["cpu", "memory"];

type List = Option<BTreeMap<String, WireQuantity>>;

/// Every broken rule of a Pod whose containers are to have other resources.
pub(in crate::kinds::pod) fn resized(pod: &Pod, before: &Pod) -> Vec<Violation> {
    let none = PodSpec::default();
    let (spec, old_spec) = (pod.spec.as_ref().unwrap_or(&none), before.spec.as_ref().unwrap_or(&none));
    if before.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(STATIC)) {
        return vec![Violation::forbidden("", "static pods cannot be resized")];
    }
    let mut broken = any(spec);
    let class = pods::qos_class(pod);
    if class != pods::qos_class(before) {
        broken.push(Violation::invalid(
            "spec",
            &Value::from(class.as_str()),
            "Pod QOS Class may not change as a result of resizing",
        ));
    }
    if !is_supported(before) {
        broken.push(Violation::forbidden("spec", "Pod running on node without support for resize"));
    }
    for (index, (new, old)) in each(&spec.init_containers).iter().zip(each(&old_spec.init_containers)).enumerate() {
        if pods::is_sidecar(old) {
            broken.extend(of_container(&format!("spec.initContainers[{index}].resources"), new, old));
            if !same_but_resizable(new, old) {
                broken.push(Violation::forbidden(
                    "spec",
                    "only cpu and memory resources for sidecar containers are mutable",
                ));
            }
        } else if new != old {
            broken.push(Violation::forbidden(
                "spec",
                "resources for non-sidecar init containers are immutable",
            ));
        }
    }
    for (index, (new, old)) in spec.containers.iter().zip(&old_spec.containers).enumerate() {
        broken.extend(of_container(&format!("spec.containers[{index}].resources"), new, old));
        if !same_but_resizable(new, old) {
            broken.push(Violation::forbidden("spec", "only cpu and memory resources are mutable"));
        }
    }
    broken
}

/// Whether the node tells what its containers may use; one that does can change it.
///
/// Source: upstream `isPodResizeRequestSupported`.
fn is_supported(pod: &Pod) -> bool {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let runs = |state: &Option<ContainerState>| state.as_ref().is_some_and(|state| state.running.is_some());
    let mut running = statuses.filter(|status| runs(&status.state));
    pods::phase(pod) != "Running" || running.next().is_none_or(|first| first.resources.is_some())
}

fn of_container(field: &str, new: &Container, old: &Container) -> Vec<Violation> {
    let none = Default::default();
    let (given, had) = (new.resources.as_ref().unwrap_or(&none), old.resources.as_ref().unwrap_or(&none));
    let mut broken = Vec::new();
    let amount = |list: &List, name: &str| list.as_ref().and_then(|list| list.get(name)).map(parsed);
    let removed = |new: &List, old: &List| {
        let mut names = old.iter().flatten().map(|(name, _)| name);
        names.any(|name| amount(new, name).is_none())
    };
    if removed(&given.requests, &had.requests) {
        broken.push(Violation::forbidden(
            format!("{field}.requests"),
            "resource requests cannot be removed",
        ));
    }
    if removed(&given.limits, &had.limits) {
        broken.push(Violation::forbidden(format!("{field}.limits"), "resource limits cannot be removed"));
    }
    let mut policies = new.resize_policy.iter().flatten();
    let restarts = policies.any(|policy| policy.resource_name == "memory" && policy.restart_policy == "RestartContainer");
    let lower = amount(&given.limits, "memory")
        .zip(amount(&had.limits, "memory"))
        .is_some_and(|(new, old): (Quantity, Quantity)| new < old);
    if lower && !restarts {
        broken.push(Violation::forbidden(
            format!("{field}.limits[memory]"),
            "memory limits cannot be decreased unless resizePolicy is RestartContainer",
        ));
    }
    broken
}

/// Whether only what can be changed of a running container differs.
fn same_but_resizable(new: &Container, old: &Container) -> bool {
    let rest = |container: &Container| {
        let mut container = container.clone();
        if let Some(resources) = &mut container.resources {
            for list in [&mut resources.limits, &mut resources.requests] {
                let kept = list
                    .take()
                    .into_iter()
                    .flatten()
                    .filter(|(name, _)| !RESIZABLE.contains(&name.as_str()));
                *list = Some(kept.collect::<BTreeMap<_, _>>()).filter(|list| !list.is_empty());
            }
        }
        container.resources = container.resources.filter(|resources| *resources != Default::default());
        container
    };
    rest(new) == rest(old)
}
