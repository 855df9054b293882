use serde_json::{Value, json};

use crate::testing::Rig;

const PODS: &str = "/api/v1/namespaces/default/pods";
const BUDGETS: &str = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";

fn eviction(name: &str) -> Value {
    json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": "default"}})
}

/// A running pod with the label `app=a`, ready or not.
async fn running(rig: &Rig, name: &str, ready: bool) {
    rig.pod(name, Some("n1")).await;
    rig.patch(
        &format!("{PODS}/{name}"),
        "merge-patch",
        &json!({"metadata": {"labels": {"app": "a"}}}),
    )
    .await;
    let condition = json!({"type": "Ready", "status": if ready { "True" } else { "False" }});
    let status = json!({"status": {"phase": "Running", "conditions": [condition]}});
    let answer = rig.patch(&format!("{PODS}/{name}/status"), "merge-patch", &status).await;
    assert_eq!(answer.code, 200, "{:?}", answer.text);
}

/// A budget whose controller has said this.
async fn budget(rig: &Rig, name: &str, status: Value) {
    let spec = json!({"minAvailable": 1, "selector": {"matchLabels": {"app": "a"}}});
    let made = rig.post(BUDGETS, &json!({"metadata": {"name": name}, "spec": spec})).await;
    assert_eq!(made.code, 201, "{:?}", made.text);
    if !status.is_null() {
        let answer = rig
            .patch(&format!("{BUDGETS}/{name}/status"), "merge-patch", &json!({"status": status}))
            .await;
        assert_eq!(answer.code, 200, "{:?}", answer.text);
    }
}

async fn evict(rig: &Rig, name: &str) -> crate::testing::Answer {
    rig.post(&format!("{PODS}/{name}/eviction"), &eviction(name)).await
}

#[tokio::test]
async fn a_pod_without_a_budget_is_deleted_and_says_why() {
    let rig = Rig::new().await;
    running(&rig, "p", true).await;
    let answer = evict(&rig, "p").await;
    assert_eq!((answer.code, answer.json()["status"].clone()), (201, json!("Success")));
    let pod = rig.get(&format!("{PODS}/p")).await.json();
    assert!(pod["metadata"]["deletionTimestamp"].is_string());
    let conditions = pod["status"]["conditions"].as_array().unwrap().clone();
    let target = conditions.iter().find(|condition| condition["type"] == "DisruptionTarget").unwrap();
    assert_eq!(
        (&target["reason"], &target["message"]),
        (&json!("EvictionByEvictionAPI"), &json!("Eviction API: evicting"))
    );
    assert_eq!(evict(&rig, "none").await.brief(), r#"404 pods "none" not found"#);
    let wrong = rig.post(&format!("{PODS}/p/eviction"), &eviction("q")).await;
    assert_eq!(wrong.brief(), "400 name in URL does not match name in Eviction object");
}

#[tokio::test]
async fn a_budget_is_spent_once_and_then_refuses() {
    let rig = Rig::new().await;
    for name in ["p", "q"] {
        running(&rig, name, true).await;
    }
    let counts = json!({"disruptionsAllowed": 1, "currentHealthy": 2, "desiredHealthy": 1, "expectedPods": 2, "observedGeneration": 1});
    budget(&rig, "b", counts).await;
    let dry = rig.post(&format!("{PODS}/p/eviction?dryRun=All"), &eviction("p")).await;
    assert_eq!(dry.code, 201);
    let (one, other) = tokio::join!(evict(&rig, "p"), evict(&rig, "q"));
    let mut codes = [one.code, other.code];
    codes.sort_unstable();
    assert_eq!(codes, [201, 429], "one disruption is allowed");
    let refused = if one.code == 429 { one } else { other };
    assert_eq!(
        refused.message(),
        "Cannot evict pod as it would violate the pod's disruption budget."
    );
    assert_eq!(
        refused.json()["details"]["causes"],
        json!([{"reason": "DisruptionBudget", "message": "The disruption budget b needs 1 healthy pods and has 2 currently"}])
    );
    let status = rig.get(&format!("{BUDGETS}/b")).await.json()["status"].clone();
    assert_eq!(
        (&status["disruptionsAllowed"], status["disruptedPods"].as_object().unwrap().len()),
        (&json!(0), 1)
    );
    assert_eq!(
        (&status["conditions"][0]["type"], &status["conditions"][0]["reason"]),
        (&json!("DisruptionAllowed"), &json!("InsufficientPods"))
    );
}

#[tokio::test]
async fn a_budget_nobody_has_looked_at_yet_asks_for_patience() {
    let rig = Rig::new().await;
    running(&rig, "p", true).await;
    budget(&rig, "b", Value::Null).await;
    let refused = evict(&rig, "p").await;
    assert_eq!((refused.code, refused.headers["retry-after"].to_str().unwrap()), (429, "10"));
    assert_eq!(
        refused.json()["details"]["causes"][0]["message"],
        "The disruption budget b is still being processed by the server."
    );
    budget(&rig, "c", Value::Null).await;
    let two = evict(&rig, "p").await;
    assert_eq!(
        two.brief(),
        "500 This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."
    );
}

#[tokio::test]
async fn a_pod_that_is_not_ready_costs_nothing_where_the_rest_suffices() {
    let rig = Rig::new().await;
    running(&rig, "p", false).await;
    let counts = |healthy: u32| json!({"disruptionsAllowed": 0, "currentHealthy": healthy, "desiredHealthy": 1, "expectedPods": 2, "observedGeneration": 1});
    budget(&rig, "b", counts(0)).await;
    assert_eq!(evict(&rig, "p").await.code, 429);
    rig.patch(&format!("{BUDGETS}/b/status"), "merge-patch", &json!({"status": counts(1)}))
        .await;
    assert_eq!(evict(&rig, "p").await.code, 201);
    // A pod that has ended, or not begun, is never held.
    rig.pod("pending", None).await;
    rig.patch(
        &format!("{PODS}/pending"),
        "merge-patch",
        &json!({"metadata": {"labels": {"app": "a"}}}),
    )
    .await;
    rig.patch(&format!("{BUDGETS}/b/status"), "merge-patch", &json!({"status": counts(0)}))
        .await;
    assert_eq!(evict(&rig, "pending").await.code, 201);
    assert_eq!(rig.get(&format!("{PODS}/pending")).await.code, 404);
}

#[tokio::test]
async fn a_scale_is_read_changed_and_patched() {
    let rig = Rig::new().await;
    let path = "/api/v1/namespaces/default/replicationcontrollers";
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let made = rig
        .post(
            path,
            &json!({"metadata": {"name": "r"}, "spec": {"replicas": 2, "template": template}}),
        )
        .await;
    assert_eq!(made.code, 201, "{:?}", made.text);
    let scale = rig.get(&format!("{path}/r/scale")).await.json();
    assert_eq!(
        (&scale["kind"], &scale["spec"]["replicas"], &scale["status"]["selector"]),
        (&json!("Scale"), &json!(2), &json!("a=b"))
    );
    let mut wanted = scale.clone();
    wanted["spec"]["replicas"] = json!(5);
    assert_eq!(rig.put(&format!("{path}/r/scale"), &wanted).await.json()["spec"]["replicas"], 5);
    assert_eq!(
        rig.put(&format!("{path}/r/scale"), &wanted).await.code,
        409,
        "it names an old revision"
    );
    let patched = rig
        .patch(&format!("{path}/r/scale"), "merge-patch", &json!({"spec": {"replicas": 3}}))
        .await
        .json();
    assert_eq!(patched["spec"]["replicas"], 3);
    let stored = rig.get(&format!("{path}/r")).await.json();
    assert_eq!(
        (&stored["spec"]["replicas"], &stored["metadata"]["generation"]),
        (&json!(3), &json!(3))
    );
    assert_eq!(
        rig.patch(&format!("{path}/r/scale"), "merge-patch", &json!({"spec": {"replicas": -1}}))
            .await
            .brief(),
        r#"422 Scale.autoscaling "r" is invalid: spec.replicas: Invalid value: -1: must be greater than or equal to 0"#
    );
}
