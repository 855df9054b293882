use serde_json::{Value, json};

use crate::testing::{Rig, pod};

const PODS: &str = "/api/v1/namespaces/default/pods";
const CLASSES: &str = "/apis/scheduling.k8s.io/v1/priorityclasses";

fn with(name: &str, more: Value) -> Value {
    let mut pod = pod(name);
    for (key, value) in more.as_object().unwrap() {
        pod["spec"][key] = value.clone();
    }
    pod
}

async fn rank(rig: &Rig, pod: &Value) -> Value {
    let made = rig.post(PODS, pod).await;
    assert_eq!(made.code, 201, "{:?}", made.text);
    let spec = made.json()["spec"].clone();
    json!([spec["priorityClassName"], spec["priority"], spec["preemptionPolicy"]])
}

#[tokio::test]
async fn the_priority_of_a_pod_follows_from_its_class() {
    let rig = Rig::new().await;
    assert_eq!(rank(&rig, &pod("a")).await, json!([null, 0, "PreemptLowerPriority"]));
    let system = with("b", json!({"priorityClassName": "system-node-critical"}));
    assert_eq!(
        rank(&rig, &system).await,
        json!(["system-node-critical", 2_000_001_000, "PreemptLowerPriority"])
    );
    let class = json!({"metadata": {"name": "low"}, "value": -5, "preemptionPolicy": "Never"});
    rig.post(CLASSES, &class).await;
    assert_eq!(
        rank(&rig, &with("c", json!({"priorityClassName": "low", "priority": -5}))).await,
        json!(["low", -5, "Never"])
    );
    let computed = "computed -5 from the given PriorityClass name";
    let rows = [
        (json!({"priorityClassName": "p"}), "no PriorityClass with name p was found".to_owned()),
        (
            json!({"priorityClassName": "low", "priority": 7}),
            format!("the integer value of priority (7) must not be provided in pod spec; priority admission controller {computed}"),
        ),
        (
            json!({"priorityClassName": "low", "preemptionPolicy": "PreemptLowerPriority"}),
            "the string value of PreemptionPolicy (PreemptLowerPriority) must not be provided in pod spec; priority admission controller computed Never from the given PriorityClass name".to_owned(),
        ),
    ];
    for (spec, why) in rows {
        let refused = rig.post(PODS, &with("x", spec)).await;
        assert_eq!(refused.brief(), format!("403 pods \"x\" is forbidden: {why}"));
    }
}

#[tokio::test]
async fn one_class_may_be_that_of_pods_without_one() {
    let rig = Rig::new().await;
    let default = |name: &str, value: i64| json!({"metadata": {"name": name}, "value": value, "globalDefault": true});
    assert_eq!(rig.post(CLASSES, &default("usual", 9)).await.code, 201);
    assert_eq!(rank(&rig, &pod("a")).await, json!(["usual", 9, "PreemptLowerPriority"]));
    assert_eq!(
        rig.post(CLASSES, &default("other", 1)).await.brief(),
        r#"403 priorityclasses.scheduling.k8s.io "other" is forbidden: PriorityClass usual is already marked as default. Only one default can exist"#
    );
    let path = format!("{CLASSES}/usual");
    assert_eq!(rig.patch(&path, "merge-patch", &json!({"description": "x"})).await.code, 200);
}

#[tokio::test]
async fn the_systems_classes_are_there_and_stay() {
    let rig = Rig::new().await;
    let stored = rig.get(&format!("{CLASSES}/system-cluster-critical")).await.json();
    assert_eq!(
        (&stored["value"], &stored["preemptionPolicy"]),
        (&json!(2_000_000_000), &json!("PreemptLowerPriority"))
    );
    assert_eq!(
        rig.delete(&format!("{CLASSES}/system-cluster-critical"), None).await.brief(),
        r#"403 priorityclasses.scheduling.k8s.io "system-cluster-critical" is forbidden: this is a system priority class and cannot be deleted"#
    );
    let rows = [
        (
            json!({"metadata": {"name": "system-x"}, "value": 1}),
            r#"metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. error: system-x is not a known system priority class"#,
        ),
        (
            json!({"metadata": {"name": "x"}, "value": 1_000_000_001}),
            "value: Forbidden: maximum allowed value of a user defined priority is 1000000000",
        ),
        (
            json!({"metadata": {"name": "x"}, "value": 1, "preemptionPolicy": "Maybe"}),
            r#"preemptionPolicy: Unsupported value: "Maybe": supported values: "PreemptLowerPriority", "Never""#,
        ),
    ];
    for (class, why) in rows {
        let name = class["metadata"]["name"].as_str().unwrap();
        assert_eq!(
            rig.post(CLASSES, &class).await.brief(),
            format!("422 PriorityClass.scheduling.k8s.io {name:?} is invalid: {why}")
        );
    }
    rig.post(CLASSES, &json!({"metadata": {"name": "x"}, "value": 1})).await;
    assert_eq!(
        rig.patch(&format!("{CLASSES}/x"), "merge-patch", &json!({"value": 2}))
            .await
            .brief(),
        r#"422 PriorityClass.scheduling.k8s.io "x" is invalid: value: Forbidden: may not be changed in an update."#
    );
}

#[tokio::test]
async fn pods_tolerate_a_lost_node_for_a_while() {
    let rig = Rig::new().await;
    let given = json!([{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "tolerationSeconds": 5, "effect": "NoExecute"}]);
    let made = rig.post(PODS, &with("a", json!({"tolerations": given}))).await.json();
    let other = json!({"key": "node.kubernetes.io/unreachable", "operator": "Exists", "tolerationSeconds": 300, "effect": "NoExecute"});
    assert_eq!(made["spec"]["tolerations"], json!([given[0], other]));
    let all = rig
        .post(PODS, &with("b", json!({"tolerations": [{"operator": "Exists"}]})))
        .await
        .json();
    assert_eq!(all["spec"]["tolerations"], json!([{"operator": "Exists"}]));
}
