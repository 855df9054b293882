use std::sync::Arc;

use api::pods;
use api::typed::{Affinity, Node, Pod};
use serde_json::{Value, json};

use super::super::snapshot::{Cache, NodeFacts, Standing, standing};
use super::*;

fn pod(name: &str, labels: Value, requests: Value) -> PodFacts {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": { "name": name, "namespace": "default", "uid": name, "labels": labels },
        "spec": { "containers": [{ "name": "c", "resources": { "requests": requests } }] },
    }))
    .unwrap();
    match standing(&pod, "default-scheduler") {
        Standing::Pending(facts) => facts,
        other => panic!("{other:?}"),
    }
}

fn cluster(names: &[&str]) -> Cache {
    let mut cache = Cache::default();
    for name in names {
        let node: Node = serde_json::from_value(json!({
            "metadata": { "name": name, "labels": { "kubernetes.io/hostname": name } },
            "status": { "allocatable": { "cpu": "4", "memory": "4Gi", "pods": "100" } },
        }))
        .unwrap();
        cache.set_node(NodeFacts::from(&node));
    }
    cache
}

fn scores(pod: &PodFacts, cache: &Cache) -> Vec<i64> {
    totals(pod, &cache.nodes().collect::<Vec<_>>())
}

fn choose(pod: &PodFacts, cache: &Cache, seed: u64) -> String {
    let nodes: Vec<_> = cache.nodes().collect();
    best(pod, &nodes, &mut Chance::new(seed)).unwrap().facts.name.clone()
}

#[test]
fn the_emptier_node_is_better() {
    let mut cache = cluster(&["a", "b"]);
    cache.place_pod("a", Arc::new(pod("x", json!({}), json!({ "cpu": "2", "memory": "2Gi" }))));
    let pod = pod("y", json!({}), json!({ "cpu": "1", "memory": "1Gi" }));
    // Shares with the pod: a 75 %, b 25 %; both balanced.
    assert_eq!(scores(&pod, &cache), [300 + 200 + 25 + 100, 300 + 200 + 75 + 100]);
    assert_eq!(choose(&pod, &cache, 0), "b");
}

#[test]
fn pods_without_requests_count_too() {
    let mut cache = cluster(&["a", "b"]);
    cache.place_pod("a", Arc::new(pod("x", json!({}), json!({}))));
    for seed in 0..20 {
        assert_eq!(choose(&pod("y", json!({}), json!({})), &cache, seed), "b");
    }
}

#[test]
fn pods_of_one_workload_are_spread() {
    let mut cache = cluster(&["a", "b"]);
    let web = json!({ "app": "web" });
    for name in ["x1", "x2"] {
        cache.place_pod("a", Arc::new(pod(name, web.clone(), json!({ "cpu": "1m", "memory": "1Mi" }))));
    }
    cache.place_pod("b", Arc::new(pod("big", json!({}), json!({ "cpu": "1", "memory": "1Gi" }))));
    assert_eq!(choose(&pod("y", web, json!({})), &cache, 0), "b", "spread outweighs a fuller node");
    assert_eq!(choose(&pod("z", json!({ "app": "db" }), json!({})), &cache, 0), "a");
}

#[test]
fn preferences_and_soft_taints_count() {
    let mut cache = cluster(&["a", "b"]);
    let affinity: Affinity = serde_json::from_value(json!({ "nodeAffinity": { "preferredDuringSchedulingIgnoredDuringExecution": [
        { "weight": 10, "preference": { "matchExpressions": [{ "key": "kubernetes.io/hostname", "operator": "In", "values": ["b"] }] } },
    ] } }))
    .unwrap();
    let wishing = PodFacts {
        node_affinity: affinity.node_affinity,
        ..pod("y", json!({}), json!({}))
    };
    assert_eq!(choose(&wishing, &cache, 0), "b");
    let tainted = NodeFacts {
        taints: vec![Taint {
            key: "k".to_owned(),
            effect: "PreferNoSchedule".to_owned(),
            ..Taint::default()
        }],
        ..cache.nodes().find(|node| node.facts.name == "b").unwrap().facts.clone()
    };
    cache.set_node(tainted);
    assert_eq!(choose(&wishing, &cache, 0), "a", "a soft taint weighs more than a preference");
}

#[test]
fn equals_are_chosen_by_seed_and_all_of_them_sometimes() {
    let cache = cluster(&["a", "b", "c"]);
    let pod = pod("y", json!({}), json!({}));
    let picks: Vec<String> = (0..50).map(|seed| choose(&pod, &cache, seed)).collect();
    assert_eq!(picks, (0..50).map(|seed| choose(&pod, &cache, seed)).collect::<Vec<_>>());
    for name in ["a", "b", "c"] {
        assert!(picks.iter().any(|pick| pick == name), "{name} is never chosen");
    }
    assert!(best(&pod, &[], &mut Chance::new(0)).is_none());
    assert!(!pods::Resources::is_empty(&pod.scored));
}
