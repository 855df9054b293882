use std::sync::Arc;

use api::pods;
use api::typed::{Node, Pod};
use serde_json::{Value, json};

use super::super::snapshot::{NodeFacts, Standing, standing};
use super::*;

fn pod(name: &str, spec: Value) -> PodFacts {
    let mut value = json!({ "metadata": { "name": name, "namespace": "default", "uid": name }, "spec": { "containers": [] } });
    for (key, field) in spec.as_object().unwrap() {
        value["spec"][key] = field.clone();
    }
    let pod: Pod = serde_json::from_value(value).unwrap();
    match standing(&pod, "default-scheduler") {
        Standing::Pending(facts) | Standing::Placed(_, facts) => facts,
        Standing::Neither => panic!("{name} is neither pending nor placed"),
    }
}

fn requesting(name: &str, requests: Value) -> PodFacts {
    pod(
        name,
        json!({ "containers": [{ "name": "c", "resources": { "requests": requests } }] }),
    )
}

fn node(name: &str, spec: Value) -> NodeFacts {
    let node: Node = serde_json::from_value(json!({
        "metadata": { "name": name, "labels": { "kubernetes.io/hostname": name } },
        "spec": spec,
        "status": { "allocatable": { "cpu": "2", "memory": "4Gi", "pods": "3" } },
    }))
    .unwrap();
    NodeFacts::from(&node)
}

fn cache(nodes: Vec<NodeFacts>, placed: Vec<(&str, PodFacts)>) -> Cache {
    let mut cache = Cache::default();
    for node in nodes {
        cache.set_node(node);
    }
    for (node, pod) in placed {
        cache.place_pod(node, Arc::new(pod));
    }
    cache
}

fn message(pod: &PodFacts, cache: &Cache) -> String {
    match feasible(pod, cache) {
        Ok(nodes) => format!(
            "fits {}",
            nodes.iter().map(|node| node.facts.name.as_str()).collect::<Vec<_>>().join(" ")
        ),
        Err(refusal) => refusal.message,
    }
}

/// The message of one node that refuses for one reason.
fn one(reason: &str, outlook: &str) -> String {
    format!("0/1 nodes are available: 1 {reason}. preemption: 0/1 nodes are available: 1 {outlook}.")
}

const NOT_HELPFUL: &str = "Preemption is not helpful for scheduling";
const NO_VICTIMS: &str = "No preemption victims found for incoming pod";

#[test]
#[allow(clippy::too_many_lines)] // a table
fn every_filter_tells_its_reason() {
    let toleration = json!([{ "key": "node.kubernetes.io/unschedulable", "operator": "Exists", "effect": "NoSchedule" }]);
    let port = json!([{ "name": "c", "ports": [{ "containerPort": 80, "hostPort": 8080 }] }]);
    let other_port = json!([{ "name": "c", "ports": [{ "containerPort": 80, "hostPort": 8081 }] }]);
    let gpu = json!([{ "key": "gpu", "value": "yes", "effect": "NoSchedule" }]);
    let bare = json!([{ "key": "node.kubernetes.io/not-ready", "effect": "NoExecute" }]);
    let soft = json!([{ "key": "gpu", "effect": "PreferNoSchedule" }]);
    let taint = |taints: &Value| cache(vec![node("n", json!({ "taints": taints }))], vec![]);
    let plain = || cache(vec![node("n", json!({}))], vec![]);
    let cordoned = || cache(vec![node("n", json!({ "unschedulable": true }))], vec![]);
    let with = |pods: Vec<PodFacts>| cache(vec![node("n", json!({}))], pods.into_iter().map(|pod| ("n", pod)).collect());
    let some = |name: &str| pod(name, json!({}));
    for (title, pod, cache, want) in [
        (
            "no node",
            some("a"),
            Cache::default(),
            "no nodes available to schedule pods".to_owned(),
        ),
        ("a plain pod", some("a"), plain(), "fits n".to_owned()),
        ("cordoned", some("a"), cordoned(), one("node(s) were unschedulable", NOT_HELPFUL)),
        (
            "cordon tolerated",
            pod("a", json!({ "tolerations": toleration })),
            cordoned(),
            "fits n".to_owned(),
        ),
        (
            "another node's",
            pod("a", json!({ "nodeName": "m" })),
            plain(),
            one("node(s) didn't match the requested node name", NOT_HELPFUL),
        ),
        (
            "taint",
            some("a"),
            taint(&gpu),
            one("node(s) had untolerated taint {gpu: yes}", NOT_HELPFUL),
        ),
        (
            "taint without value",
            some("a"),
            taint(&bare),
            one("node(s) had untolerated taint {node.kubernetes.io/not-ready: }", NOT_HELPFUL),
        ),
        ("soft taint", some("a"), taint(&soft), "fits n".to_owned()),
        (
            "taint tolerated",
            pod("a", json!({ "tolerations": [{ "key": "gpu", "value": "yes" }] })),
            taint(&gpu),
            "fits n".to_owned(),
        ),
        (
            "selector",
            pod("a", json!({ "nodeSelector": { "disk": "ssd" } })),
            plain(),
            one("node(s) didn't match Pod's node affinity/selector", NOT_HELPFUL),
        ),
        (
            "selector met",
            pod("a", json!({ "nodeSelector": { "kubernetes.io/hostname": "n" } })),
            plain(),
            "fits n".to_owned(),
        ),
        (
            "port taken",
            pod("a", json!({ "containers": port })),
            with(vec![pod("b", json!({ "containers": port }))]),
            one("node(s) didn't have free ports for the requested pod ports", NO_VICTIMS),
        ),
        (
            "other port",
            pod("a", json!({ "containers": other_port })),
            with(vec![pod("b", json!({ "containers": port }))]),
            "fits n".to_owned(),
        ),
        (
            "cpu",
            requesting("a", json!({ "cpu": "1500m" })),
            with(vec![requesting("b", json!({ "cpu": "501m" }))]),
            one("Insufficient cpu", NO_VICTIMS),
        ),
        (
            "cpu to the brim",
            requesting("a", json!({ "cpu": "1500m" })),
            with(vec![requesting("b", json!({ "cpu": "500m" }))]),
            "fits n".to_owned(),
        ),
        (
            "memory",
            requesting("a", json!({ "memory": "5Gi" })),
            plain(),
            one("Insufficient memory", NO_VICTIMS),
        ),
        (
            "unknown resource",
            requesting("a", json!({ "example.com/gpu": "1" })),
            plain(),
            one("Insufficient example.com/gpu", NO_VICTIMS),
        ),
        (
            "a request of nothing",
            requesting("a", json!({ "cpu": "0" })),
            with(vec![requesting("b", json!({ "cpu": "3" }))]),
            "fits n".to_owned(),
        ),
        (
            "full",
            some("a"),
            with(vec![some("b"), some("c"), some("d")]),
            one("Too many pods", NO_VICTIMS),
        ),
        (
            "several resources",
            requesting("a", json!({ "cpu": "3", "memory": "5Gi" })),
            plain(),
            format!(
                "0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient memory. preemption: 0/1 nodes are available: 1 {NO_VICTIMS}."
            ),
        ),
        (
            "never preempts",
            pod(
                "a",
                json!({ "preemptionPolicy": "Never", "containers": [{ "name": "c", "resources": { "requests": { "cpu": "9" } } }] }),
            ),
            plain(),
            "0/1 nodes are available: 1 Insufficient cpu. preemption: not eligible due to preemptionPolicy=Never.".to_owned(),
        ),
        (
            "a victim that is not taken",
            pod(
                "a",
                json!({ "priority": 5, "containers": [{ "name": "c", "resources": { "requests": { "cpu": "2" } } }] }),
            ),
            with(vec![requesting("b", json!({ "cpu": "1" }))]),
            one("Insufficient cpu", "Preemption of lower-priority pods is not supported"),
        ),
    ] {
        assert_eq!(message(&pod, &cache), want, "{title}");
    }
}

#[test]
fn reasons_of_many_nodes_are_counted_and_sorted_as_text() {
    let tainted = |name: &str| node(name, json!({ "taints": [{ "key": "k", "value": "v", "effect": "NoSchedule" }] }));
    let mut nodes = vec![node("cordoned", json!({ "unschedulable": true })), node("small", json!({}))];
    nodes.extend((0..10).map(|n| tainted(&format!("t{n}"))));
    let cache = cache(nodes, vec![]);
    let refusal = feasible(&requesting("a", json!({ "cpu": "3" })), &cache).unwrap_err();
    assert_eq!(
        refusal.message,
        "0/12 nodes are available: 1 Insufficient cpu, 1 node(s) were unschedulable, 10 node(s) had untolerated taint {k: v}. \
         preemption: 0/12 nodes are available: 1 No preemption victims found for incoming pod, 11 Preemption is not helpful for scheduling."
    );
    assert_eq!(
        refusal.plugins.into_iter().collect::<Vec<_>>(),
        [Plugin::NodeUnschedulable, Plugin::TaintToleration, Plugin::NodeResourcesFit]
    );
}

#[test]
fn tolerations_follow_the_page() {
    let taint = Taint {
        key: "k".to_owned(),
        value: Some("v".to_owned()),
        effect: "NoSchedule".to_owned(),
        ..Taint::default()
    };
    for (toleration, want) in [
        (
            json!({ "key": "k", "operator": "Equal", "value": "v", "effect": "NoSchedule" }),
            true,
        ),
        (json!({ "key": "k", "value": "v" }), true),
        (json!({ "key": "k", "operator": "Exists" }), true),
        (json!({ "operator": "Exists" }), true),
        (json!({ "key": "k", "value": "w" }), false),
        (json!({ "key": "k" }), false),
        (json!({ "key": "j", "operator": "Exists" }), false),
        (json!({ "operator": "Exists", "effect": "NoExecute" }), false),
        (json!({ "value": "v" }), false),
    ] {
        let parsed: Toleration = serde_json::from_value(toleration.clone()).unwrap();
        assert_eq!(tolerates(&[parsed], &taint), want, "{toleration}");
    }
    assert!(!tolerates(&[], &taint));
}

#[test]
fn only_changes_that_could_help_wake_a_pod() {
    let heartbeat = Relief::default();
    let left = Relief {
        pod_left: true,
        ..heartbeat
    };
    let labels = Relief { labels: true, ..heartbeat };
    let added = Relief {
        node_added: true,
        ..heartbeat
    };
    for plugin in FILTERS.map(|(plugin, _)| plugin) {
        assert!(plugin.relieved_by(added) && !plugin.relieved_by(heartbeat), "{plugin:?}");
    }
    assert!(Plugin::NodeResourcesFit.relieved_by(left) && Plugin::NodePorts.relieved_by(left) && !Plugin::NodeAffinity.relieved_by(left));
    assert!(Plugin::NodeAffinity.relieved_by(labels) && !Plugin::NodeResourcesFit.relieved_by(labels));
}

#[test]
fn init_containers_count_as_the_most_at_any_time() {
    let pod = pod(
        "a",
        json!({
            "initContainers": [{ "name": "i", "resources": { "requests": { "cpu": "2" } } }],
            "containers": [{ "name": "c", "resources": { "requests": { "cpu": "1" } } }, { "name": "d", "resources": { "requests": { "cpu": "500m" } } }],
        }),
    );
    assert_eq!(pod.requests, pods::Resources::from([("cpu".to_owned(), Quantity::from_units(2))]));
}
