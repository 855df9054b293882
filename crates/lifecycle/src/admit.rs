//! May this pod run on this node? Asked once, before anything of it is made.
//!
//! Source: upstream `lifecycle/predicate.go`, `AdmissionCheck`, and the
//! scheduler plugins it calls.

use api::pods::{self, Resources};
use api::typed::{Node, NodeSelectorRequirement, NodeSelectorTerm, Pod, Taint, Toleration};

use crate::evict::is_critical;
use crate::input::Rejection;
use preempt::Missing;

mod app_armor;
mod preempt;
mod sysctl;

pub use app_armor::app_armor;
pub use preempt::preemption;
pub(crate) use preempt::{PREEMPTED, PREEMPTING};
pub use sysctl::dotted as sysctl_name;

/// Refuses a pod that does not fit beside `others`, the pods this node has
/// admitted and that are not over. The first reason found is given.
///
/// A critical pod that lacks nothing but resources is admitted if others yield
/// to it: their places among `others` are given, and they are to stop first.
///
/// # Errors
/// The refusal.
pub fn admit(pod: &Pod, others: &[&Pod], node: &Node) -> Result<Vec<usize>, Rejection> {
    sysctl::admit(pod)?;
    let short = shortages(pod, others, node);
    let Some((_, refusal)) = short.first() else {
        return fits(pod, others, node).map(|()| Vec::new());
    };
    if is_critical(pod) && fits(pod, others, node).is_ok() {
        let missing: Missing = short.iter().map(|((name, amount), _)| (name.clone(), *amount)).collect();
        if let Some(victims) = preempt::victims(pod, others, &missing) {
            return Ok(victims);
        }
    }
    Err(refusal.clone())
}

/// Whether what a pod requests is there, with nobody stopping for it.
pub(crate) fn fits_beside(pod: &Pod, others: &[&Pod], node: &Node) -> Result<(), Rejection> {
    match shortages(pod, others, node).into_iter().next() {
        Some((_, refusal)) => Err(refusal),
        None => Ok(()),
    }
}

/// Everything but resources: what nobody's leaving would change, or is not
/// asked for.
fn fits(pod: &Pod, others: &[&Pod], node: &Node) -> Result<(), Rejection> {
    let predicate = |holds: bool, name: &str, why: &str| {
        let rejection = || Rejection {
            reason: name.to_owned(),
            message: format!("Predicate {name} failed: {why}"),
        };
        if holds { Ok(()) } else { Err(rejection()) }
    };
    predicate(
        affinity(pod, node),
        "NodeAffinity",
        "node(s) didn't match Pod's node affinity/selector",
    )?;
    let asked = pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).filter(|n| !n.is_empty());
    let named = asked.is_none() || asked == node.metadata.name.as_deref();
    predicate(named, "NodeName", "node(s) didn't match the requested node name")?;
    let (own, taken): (_, Vec<_>) = (
        pods::host_ports(pod),
        others.iter().flat_map(|other| pods::host_ports(other)).collect(),
    );
    let free = !own.iter().any(|port| taken.iter().any(|other| port.conflicts(other)));
    predicate(free, "NodePorts", "node(s) didn't have free ports for the requested pod ports")?;
    predicate(
        tolerated(pod, node),
        "TaintToleration",
        "node(s) had taints that the pod didn't tolerate",
    )
}

/// What of the requests, beside what the others request, is more than is
/// allocatable: how much is missing, and the refusal for it.
fn shortages(pod: &Pod, others: &[&Pod], node: &Node) -> Vec<((String, i64), Rejection)> {
    let allocatable = pods::amounts(node.status.as_ref().and_then(|s| s.allocatable.as_ref()));
    let mut used = Resources::new();
    others.iter().for_each(|other| pods::add(&mut used, pods::requests(other)));
    let requests = pods::requests(pod);
    let count = i64::try_from(others.len()).unwrap_or(i64::MAX);
    let mut asked = vec![("pods", 1, count, allocatable.get("pods").map_or(0, |q| q.units()))];
    let others = requests.keys().map(String::as_str).filter(|n| !matches!(*n, "cpu" | "memory"));
    for name in ["cpu", "memory"].into_iter().chain(others) {
        let [asked_for, used, room] = [&requests, &used, &allocatable].map(|resources| in_units(resources, name));
        asked.push((name, asked_for, used, room));
    }
    asked
        .into_iter()
        .filter(|(_, asked, used, room)| *asked > 0 && *asked > room.saturating_sub(*used))
        .map(|(name, asked, used, room)| {
            let missing = asked.saturating_sub(room.saturating_sub(used));
            ((name.to_owned(), missing), out_of(name, asked, used, room))
        })
        .collect()
}

/// An amount as messages count it.
pub(crate) fn in_units(resources: &Resources, name: &str) -> i64 {
    resources.get(name).map_or(0, |q| if name == "cpu" { q.milli() } else { q.bytes() })
}

fn out_of(name: &str, requested: i64, used: i64, capacity: i64) -> Rejection {
    Rejection {
        reason: format!("OutOf{name}"),
        message: format!("Node didn't have enough resource: {name}, requested: {requested}, used: {used}, capacity: {capacity}"),
    }
}

/// `nodeSelector`, and one of the terms of the required node affinity.
fn affinity(pod: &Pod, node: &Node) -> bool {
    let Some(spec) = &pod.spec else { return true };
    let label = |key: &String| node.metadata.labels.as_ref().and_then(|labels| labels.get(key));
    let selected = spec.node_selector.iter().flatten().all(|(key, value)| label(key) == Some(value));
    let required = spec
        .affinity
        .as_ref()
        .and_then(|a| a.node_affinity.as_ref())
        .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    selected && required.is_none_or(|selector| selector.node_selector_terms.iter().any(|term| term_matches(term, node)))
}

/// All requirements of a term; a term without any matches nothing.
fn term_matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    let labels = term.match_expressions.iter().flatten();
    let fields = term.match_fields.iter().flatten();
    if labels.clone().next().is_none() && fields.clone().next().is_none() {
        return false;
    }
    let label = |key: &str| node.metadata.labels.as_ref().and_then(|labels| labels.get(key)).map(String::as_str);
    let field = |key: &str| {
        if key == "metadata.name" {
            node.metadata.name.as_deref()
        } else {
            None
        }
    };
    labels.into_iter().all(|r| requirement(r, label(&r.key))) && fields.into_iter().all(|r| requirement(r, field(&r.key)))
}

/// Source: Pod API reference, `NodeSelectorRequirement`.
fn requirement(asked: &NodeSelectorRequirement, found: Option<&str>) -> bool {
    let listed = |value: &str| asked.values.iter().flatten().any(|v| v == value);
    let number = |text: Option<&str>| text.and_then(|t| t.parse::<i64>().ok());
    let bound = number(asked.values.iter().flatten().next().map(String::as_str));
    match asked.operator.as_str() {
        "In" => found.is_some_and(listed),
        "NotIn" => !found.is_some_and(listed),
        "Exists" => found.is_some(),
        "DoesNotExist" => found.is_none(),
        "Gt" => number(found).zip(bound).is_some_and(|(found, bound)| found > bound),
        "Lt" => number(found).zip(bound).is_some_and(|(found, bound)| found < bound),
        _ => false, // an operator nobody knows selects nothing
    }
}

/// The kubelet heeds `NoExecute` only; the rest is the scheduler's.
fn tolerated(pod: &Pod, node: &Node) -> bool {
    let taints = node
        .spec
        .iter()
        .flat_map(|s| s.taints.iter().flatten())
        .filter(|t| t.effect == "NoExecute");
    let tolerations: Vec<&Toleration> = pod.spec.iter().flat_map(|s| s.tolerations.iter().flatten()).collect();
    taints.into_iter().all(|taint| tolerations.iter().any(|t| tolerates(t, taint)))
}

/// Source: upstream `Toleration.ToleratesTaint`.
pub(crate) fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |t: &Option<String>| t.clone().unwrap_or_default();
    let effect = text(&toleration.effect);
    let key = text(&toleration.key);
    if (!effect.is_empty() && effect != taint.effect) || (!key.is_empty() && key != taint.key) {
        return false;
    }
    match text(&toleration.operator).as_str() {
        "" | "Equal" => text(&toleration.value) == text(&taint.value),
        "Exists" => true,
        _ => false, // an operator nobody knows tolerates nothing
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(spec: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap()
    }

    fn asks(cpu: &str, memory: &str) -> Pod {
        pod(json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": cpu, "memory": memory}}}]}))
    }

    fn node() -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": "here", "labels": {"disk": "ssd", "cores": "8"}},
            "spec": {"taints": [{"key": "sick", "effect": "NoExecute"}, {"key": "full", "effect": "NoSchedule"}]},
            "status": {"allocatable": {"cpu": "1", "memory": "1Gi", "pods": "2"}},
        }))
        .unwrap()
    }

    fn verdict(mut pod: Pod, others: &[&Pod]) -> Result<Vec<usize>, (String, String)> {
        pod.spec.as_mut().unwrap().tolerations.get_or_insert_default().push(Toleration {
            key: Some("sick".into()),
            operator: Some("Exists".into()),
            ..Toleration::default()
        });
        admit(&pod, others, &node()).map_err(|r| (r.reason, r.message))
    }

    #[test]
    fn resources_count_with_what_others_ask_for() {
        let other = asks("500m", "100Mi");
        assert_eq!(verdict(asks("500m", "1Mi"), &[&other]), Ok(Vec::new()));
        let (reason, message) = verdict(asks("1", "1Mi"), &[&other]).unwrap_err();
        assert_eq!(reason, "OutOfcpu");
        assert_eq!(
            message,
            "Node didn't have enough resource: cpu, requested: 1000, used: 500, capacity: 1000"
        );
        let (reason, message) = verdict(asks("1m", "1Gi"), &[&other]).unwrap_err();
        assert_eq!(reason, "OutOfmemory");
        assert_eq!(
            message,
            "Node didn't have enough resource: memory, requested: 1073741824, used: 104857600, capacity: 1073741824"
        );
        assert_eq!(verdict(asks("1m", "1"), &[&other, &other]).unwrap_err().0, "OutOfpods");
    }

    #[test]
    fn others_yield_to_a_critical_pod() {
        let critical = |mut pod: Pod| {
            pod.spec.as_mut().unwrap().priority = Some(2_000_000_000);
            pod
        };
        let (small, large) = (asks("300m", "1Mi"), asks("600m", "1Mi"));
        assert_eq!(
            verdict(critical(asks("500m", "1Mi")), &[&small, &large]),
            Ok(vec![1]),
            "and one pod too many is one less"
        );
        assert_eq!(verdict(asks("500m", "1Mi"), &[&small, &large]).unwrap_err().0, "OutOfpods");
        assert_eq!(verdict(critical(asks("2", "1Mi")), &[&small]).unwrap_err().0, "OutOfcpu");
        let mut elsewhere = critical(asks("500m", "1Mi"));
        elsewhere.spec.as_mut().unwrap().node_name = Some("there".to_owned());
        assert_eq!(
            verdict(elsewhere, &[&small, &large]).unwrap_err().0,
            "OutOfpods",
            "nobody goes in vain"
        );
    }

    #[test]
    fn selectors_names_ports_and_taints_are_heeded() {
        let with = |mut spec: Value| {
            spec["containers"] = json!([{"name": "a", "ports": [{"containerPort": 80, "hostPort": 80}]}]);
            pod(spec)
        };
        assert_eq!(verdict(with(json!({"nodeSelector": {"disk": "ssd"}})), &[]), Ok(Vec::new()));
        let (reason, message) = verdict(with(json!({"nodeSelector": {"disk": "tape"}})), &[]).unwrap_err();
        assert_eq!(
            (reason.as_str(), message.as_str()),
            (
                "NodeAffinity",
                "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"
            )
        );
        assert_eq!(verdict(with(json!({"nodeName": "there"})), &[]).unwrap_err().0, "NodeName");
        assert_eq!(verdict(with(json!({})), &[&with(json!({}))]).unwrap_err().0, "NodePorts");
        assert_eq!(admit(&with(json!({})), &[], &node()).unwrap_err().reason, "TaintToleration");
    }

    #[test]
    fn affinity_terms_are_alternatives_of_conjunctions() {
        let fits = |terms: Value| {
            let affinity = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}});
            affinity_of(&affinity)
        };
        fn affinity_of(value: &Value) -> bool {
            affinity(&pod(json!({"containers": [{"name": "a"}], "affinity": value})), &node())
        }
        assert!(fits(
            json!([{"matchExpressions": [{"key": "cores", "operator": "Gt", "values": ["4"]}, {"key": "disk", "operator": "Exists"}]}])
        ));
        assert!(!fits(
            json!([{"matchExpressions": [{"key": "cores", "operator": "Lt", "values": ["4"]}, {"key": "disk", "operator": "Exists"}]}])
        ));
        assert!(fits(
            json!([{}, {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["here"]}]}])
        ));
        assert!(fits(
            json!([{"matchExpressions": [{"key": "gpu", "operator": "NotIn", "values": ["old"]}]}])
        ));
        assert!(!fits(json!([{}])));
    }
}
