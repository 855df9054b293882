use serde_json::{Value, json};

use super::*;

fn at(seconds: i64) -> Time {
    Time::from_secs(seconds)
}

fn node(conditions: Value, spec: Value) -> Node {
    serde_json::from_value(json!({ "metadata": { "name": "n" }, "spec": spec, "status": { "conditions": conditions } })).unwrap()
}

fn ready(status: &str) -> Value {
    json!([{ "type": "Ready", "status": status }])
}

#[test]
fn a_node_is_lost_when_it_told_nothing_for_the_grace() {
    let told = (Some(at(1)), Some(at(5)));
    let health = Health::seen(None, told, at(100));
    assert!(!health.is_lost(None, at(150)) && health.is_lost(None, at(151)));
    // The same again is no sign of life; a renewed Lease is.
    let same = Health::seen(Some(health.clone()), told, at(140));
    assert!(same.is_lost(None, at(151)));
    let renewed = Health::seen(Some(health), (Some(at(1)), Some(at(15))), at(140));
    assert!(!renewed.is_lost(None, at(190)));
    let silent = Health::seen(None, (None, None), at(100));
    assert!(!silent.is_lost(Some(at(90)), at(150)) && silent.is_lost(Some(at(90)), at(151)));
}

#[test]
fn a_lost_node_is_unknown_in_upstreams_words() {
    let told = unknown(&node(ready("True"), json!({})), at(7));
    let words: Vec<_> = told
        .iter()
        .map(|c| (c.type_.as_str(), c.status.as_str(), c.message.as_deref().unwrap()))
        .collect();
    assert_eq!(words[3], ("Ready", "Unknown", "Kubelet stopped posting node status."));
    assert_eq!(words[0], ("MemoryPressure", "Unknown", "Kubelet never posted node status."));
    let all: Vec<_> = CONDITIONS.iter().map(|kind| json!({ "type": kind, "status": "Unknown" })).collect();
    assert!(unknown(&node(json!(all), json!({})), at(7)).is_empty(), "it is said once");
}

#[test]
fn conditions_become_taints_and_those_of_others_stay() {
    let keys = |node: &Node| {
        let taints = taints(node, at(7))?;
        Some(
            taints
                .into_iter()
                .map(|taint| format!("{}:{}", taint.key, taint.effect))
                .collect::<Vec<_>>(),
        )
    };
    assert_eq!(keys(&node(ready("True"), json!({}))), None);
    let not_ready = ["node.kubernetes.io/not-ready:NoExecute", "node.kubernetes.io/not-ready:NoSchedule"];
    assert_eq!(keys(&node(ready("False"), json!({}))).unwrap(), not_ready);
    let own = json!([{ "key": "mine", "effect": "NoSchedule" }, { "key": NOT_READY, "effect": "NoExecute" }]);
    let unreachable = [
        "mine:NoSchedule",
        "node.kubernetes.io/unreachable:NoExecute",
        "node.kubernetes.io/unreachable:NoSchedule",
    ];
    assert_eq!(keys(&node(ready("Unknown"), json!({ "taints": own }))).unwrap(), unreachable);
    assert_eq!(keys(&node(ready("True"), json!({ "taints": own }))).unwrap(), ["mine:NoSchedule"]);
    let short = json!([{ "type": "Ready", "status": "True" }, { "type": "DiskPressure", "status": "True" }]);
    assert_eq!(
        keys(&node(short, json!({ "unschedulable": true }))).unwrap(),
        [
            "node.kubernetes.io/disk-pressure:NoSchedule",
            "node.kubernetes.io/unschedulable:NoSchedule"
        ]
    );
}

#[test]
fn a_pod_stands_a_taint_as_long_as_it_tolerates_it() {
    let pod = |tolerations: Value| -> Pod {
        serde_json::from_value(json!({ "spec": { "containers": [], "tolerations": tolerations } })).unwrap()
    };
    let taint = |key: &str, since: i64| Taint {
        key: key.to_owned(),
        effect: NO_EXECUTE.to_owned(),
        time_added: Some(at(since).wire()),
        value: None,
    };
    let taints = [taint(UNREACHABLE, 100)];
    let tolerates =
        |seconds: Value| pod(json!([{ "key": UNREACHABLE, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds }]));
    assert_eq!(evict_at(&pod(json!([])), &taints, at(120)), Some(at(100)));
    assert_eq!(evict_at(&tolerates(json!(300)), &taints, at(120)), Some(at(400)));
    assert_eq!(evict_at(&tolerates(json!(null)), &taints, at(120)), None);
    assert_eq!(evict_at(&tolerates(json!(0)), &taints, at(120)), Some(at(100)));
    assert_eq!(evict_at(&pod(json!([])), &[], at(120)), None);
    let two = [taint(UNREACHABLE, 100), taint("other", 110)];
    assert_eq!(
        evict_at(&tolerates(json!(300)), &two, at(120)),
        Some(at(110)),
        "one it does not tolerate is enough"
    );
}
