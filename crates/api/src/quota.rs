//! What an object uses of a `ResourceQuota`: small pure functions, shared by
//! the admission that charges and the controller that counts.
//!
//! Source: upstream `pkg/quota/v1/evaluator/core`,
//! `staging/src/k8s.io/apiserver/pkg/quota/v1/generic`.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use crate::pods::{self, QosClass, Resources};
use crate::typed::{Pod, PodSpec};
use crate::{Object, Quantity, Time};

/// Resources a container must state where a quota counts them.
///
/// Source: upstream `pkg/quota/v1/evaluator/core/pods.go`, `validationSet`.
const STATED: [&str; 6] = ["cpu", "limits.cpu", "limits.memory", "memory", "requests.cpu", "requests.memory"];
/// Kinds of the core group that quotas also know without `count/`.
const COUNTED: [&str; 4] = ["configmaps", "replicationcontrollers", "resourcequotas", "secrets"];

/// `count/pods`, `count/leases.coordination.k8s.io`.
#[must_use]
pub fn count_name(group: &str, plural: &str) -> String {
    if group.is_empty() {
        format!("count/{plural}")
    } else {
        format!("count/{plural}.{group}")
    }
}

/// Whether objects of a resource count at all. Events do not.
#[must_use]
pub fn counts(plural: &str) -> bool {
    plural != "events"
}

/// What one object uses, by the names a quota may have for it.
#[must_use]
pub fn usage(group: &str, plural: &str, object: &Object, now: Time) -> Resources {
    let mut used = Resources::from([(count_name(group, plural), Quantity::from_units(1))]);
    match (group, plural) {
        ("", "pods") => of_pod(object, now, &mut used),
        ("", "services") => of_service(object, &mut used),
        ("", "persistentvolumeclaims") => of_claim(object, &mut used),
        ("", counted) if COUNTED.contains(&counted) => {
            used.insert(counted.to_owned(), Quantity::from_units(1));
        }
        _ => {}
    }
    used
}

/// A Pod uses nothing but its place in the store once it has ended, or should
/// have.
fn of_pod(object: &Object, now: Time, used: &mut Resources) {
    let Ok(pod) = object.view::<Pod>() else { return };
    let grace = object
        .meta
        .deletion_grace_period_seconds
        .map(|grace_s| Duration::from_secs(grace_s.max(0).unsigned_abs()));
    let deadline = object
        .meta
        .deletion_timestamp
        .as_ref()
        .zip(grace)
        .map(|(at, grace)| Time::from(at) + grace);
    let overdue = deadline.is_some_and(|deadline| deadline < now);
    if pods::is_terminal(&pod) || overdue {
        return;
    }
    used.extend(compute(&pods::requests_in_force(&pod), &pods::limits(&pod)));
}

/// Requests and limits under the names a quota has for them.
fn compute(requests: &Resources, limits: &Resources) -> Resources {
    let mut used = Resources::from([("pods".to_owned(), Quantity::from_units(1))]);
    for (name, amount) in requests {
        match name.as_str() {
            "cpu" | "memory" | "ephemeral-storage" => {
                used.insert(name.clone(), *amount);
                used.insert(format!("requests.{name}"), *amount);
            }
            huge if huge.starts_with("hugepages-") => {
                used.insert(name.clone(), *amount);
                used.insert(format!("requests.{name}"), *amount);
            }
            extended if extended.contains('/') => {
                used.insert(format!("requests.{name}"), *amount);
            }
            _ => {}
        }
    }
    for name in ["cpu", "memory", "ephemeral-storage"] {
        if let Some(amount) = limits.get(name) {
            used.insert(format!("limits.{name}"), *amount);
        }
    }
    used
}

fn of_service(service: &Object, used: &mut Resources) {
    let kind = service.str_at("spec.type");
    let ports = service.at("spec.ports").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let balanced = kind == "LoadBalancer";
    let all_ports = kind == "NodePort" || balanced && service.at("spec.allocateLoadBalancerNodePorts") != Some(&Value::Bool(false));
    let node_ports = if all_ports {
        ports.len()
    } else if balanced {
        ports.iter().filter(|port| port["nodePort"].as_i64().unwrap_or(0) != 0).count()
    } else {
        0
    };
    used.insert("services".to_owned(), Quantity::from_units(1));
    used.insert(
        "services.nodeports".to_owned(),
        Quantity::from_units(i64::try_from(node_ports).unwrap_or(i64::MAX)),
    );
    used.insert("services.loadbalancers".to_owned(), Quantity::from_units(i64::from(balanced)));
}

fn of_claim(claim: &Object, used: &mut Resources) {
    used.insert("persistentvolumeclaims".to_owned(), Quantity::from_units(1));
    let class = claim.str_at("spec.storageClassName");
    let of_class = |what: &str| format!("{class}.storageclass.storage.k8s.io/{what}");
    if !class.is_empty() {
        used.insert(of_class("persistentvolumeclaims"), Quantity::from_units(1));
    }
    let asked = claim.at("spec.resources.requests.storage").and_then(Value::as_str);
    if let Some(amount) = asked.and_then(|text| text.parse::<Quantity>().ok()) {
        used.insert("requests.storage".to_owned(), amount);
        if !class.is_empty() {
            used.insert(of_class("requests.storage"), amount);
        }
    }
}

/// Whether something a quota limits can be used by objects of this resource.
#[must_use]
pub fn concerns(group: &str, plural: &str, name: &str) -> bool {
    if name == count_name(group, plural) {
        return true;
    }
    match (group, plural) {
        ("", "pods") => {
            matches!(name, "pods" | "cpu" | "memory" | "ephemeral-storage")
                || matches!(
                    name.strip_prefix("requests.").or_else(|| name.strip_prefix("limits.")),
                    Some("cpu" | "memory" | "ephemeral-storage")
                )
                || name.starts_with("hugepages-")
                || name.starts_with("requests.hugepages-")
                || name.starts_with("requests.") && name.contains('/')
        }
        ("", "services") => matches!(name, "services" | "services.nodeports" | "services.loadbalancers"),
        ("", "persistentvolumeclaims") => {
            matches!(name, "persistentvolumeclaims" | "requests.storage") || name.contains(".storageclass.storage.k8s.io/")
        }
        ("", counted) => COUNTED.contains(&counted) && name == counted,
        _ => false,
    }
}

/// Whether the scopes of a quota hold for an object. Only Pods have any, and
/// claims none: a quota with scopes is not about other objects.
#[must_use]
pub fn in_scope(quota: &Object, group: &str, plural: &str, object: &Object) -> bool {
    let scopes = quota.at("spec.scopes").and_then(Value::as_array).into_iter().flatten();
    let named = scopes.filter_map(Value::as_str).map(|scope| (scope, "Exists", &[][..]));
    let expressions = quota
        .at("spec.scopeSelector.matchExpressions")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    let selected = expressions.map(|expression| {
        let text = |field: &str| expression[field].as_str().unwrap_or_default();
        let values = expression["values"].as_array().map_or(&[][..], Vec::as_slice);
        (text("scopeName"), text("operator"), values)
    });
    let mut all = named.chain(selected).peekable();
    if all.peek().is_none() {
        return true;
    }
    if (group, plural) != ("", "pods") {
        return false;
    }
    let Ok(pod) = object.view::<Pod>() else { return false };
    all.all(|(scope, operator, values)| holds(&pod, scope, operator, values))
}

fn holds(pod: &Pod, scope: &str, operator: &str, values: &[Value]) -> bool {
    let none = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&none);
    let ends = spec.active_deadline_seconds.is_some_and(|seconds| seconds >= 0);
    let best_effort = pods::qos_class(pod) == QosClass::BestEffort;
    match scope {
        "Terminating" => ends,
        "NotTerminating" => !ends,
        "BestEffort" => best_effort,
        "NotBestEffort" => !best_effort,
        "PriorityClass" => {
            let class = spec.priority_class_name.as_deref().unwrap_or_default();
            let listed = values.iter().any(|value| value.as_str() == Some(class));
            match operator {
                "Exists" => !class.is_empty(),
                "DoesNotExist" => class.is_empty(),
                "In" => !class.is_empty() && listed,
                _ => class.is_empty() || !listed,
            }
        }
        "CrossNamespacePodAffinity" => reaches_out(spec),
        _ => false,
    }
}

/// Whether affinity names Pods of other namespaces.
fn reaches_out(spec: &PodSpec) -> bool {
    let Some(affinity) = &spec.affinity else { return false };
    let near = affinity.pod_affinity.iter().flat_map(|near| {
        let required = near.required_during_scheduling_ignored_during_execution.iter().flatten();
        let preferred = near.preferred_during_scheduling_ignored_during_execution.iter().flatten();
        required.chain(preferred.map(|term| &term.pod_affinity_term))
    });
    let far = affinity.pod_anti_affinity.iter().flat_map(|far| {
        let required = far.required_during_scheduling_ignored_during_execution.iter().flatten();
        let preferred = far.preferred_during_scheduling_ignored_during_execution.iter().flatten();
        required.chain(preferred.map(|term| &term.pod_affinity_term))
    });
    near.chain(far)
        .any(|term| term.namespaces.as_ref().is_some_and(|names| !names.is_empty()) || term.namespace_selector.is_some())
}

/// What of `limited` the containers of a Pod must state and do not, as
/// upstream says it; `None` when nothing is missing.
#[must_use]
pub fn unstated<'n>(pod: &Object, limited: impl Iterator<Item = &'n str>) -> Option<String> {
    let required: Vec<&str> = limited.filter(|name| STATED.contains(name)).collect();
    let pod = pod.view::<Pod>().ok()?;
    let spec = pod.spec.as_ref()?;
    let mut missing: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
        let stated = compute(&pods::container_requests(container), &pods::container_limits(container));
        for name in required.iter().filter(|name| !stated.contains_key(**name)) {
            missing.entry(name).or_default().push(&container.name);
        }
    }
    if missing.is_empty() {
        return None;
    }
    let texts: Vec<String> = missing
        .iter_mut()
        .map(|(name, containers)| {
            containers.sort_unstable();
            containers.dedup();
            format!("{name} for: {}", containers.join(","))
        })
        .collect();
    Some(format!("must specify {}", texts.join("; ")))
}

/// The amounts in a map such as `status.hard`.
#[must_use]
pub fn amounts(object: &Object, path: &str) -> Resources {
    let map = object.at(path).and_then(Value::as_object).into_iter().flatten();
    map.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.parse().ok()?)))
        .collect()
}

/// `cpu=1,pods=2`.
#[must_use]
pub fn shown(amounts: &Resources) -> String {
    let texts: Vec<String> = amounts.iter().map(|(name, amount)| format!("{name}={amount}")).collect();
    texts.join(",")
}

#[cfg(test)]
mod tests;
