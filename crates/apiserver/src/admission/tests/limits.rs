//! Limit ranges and quotas.

use serde_json::{Value, json};

use crate::testing::{Rig, pod};

const PODS: &str = "/api/v1/namespaces/default/pods";
const RANGES: &str = "/api/v1/namespaces/default/limitranges";
const QUOTAS: &str = "/api/v1/namespaces/default/resourcequotas";

fn with(name: &str, resources: Value) -> Value {
    let mut pod = pod(name);
    pod["spec"]["containers"][0]["resources"] = resources;
    pod
}

#[tokio::test]
async fn a_limit_range_fills_what_is_left_out_and_says_so() {
    let rig = Rig::new().await;
    let item = json!({"type": "Container", "default": {"cpu": "500m", "memory": "1Gi"}, "defaultRequest": {"cpu": "100m"}});
    let made = rig
        .post(RANGES, &json!({"metadata": {"name": "l"}, "spec": {"limits": [item]}}))
        .await;
    assert_eq!(made.code, 201, "{:?}", made.text);
    let mut asked = with("a", json!({"limits": {"memory": "2Gi"}}));
    asked["spec"]["initContainers"] = json!([{"name": "i", "image": "i"}]);
    let made = rig.post(PODS, &asked).await.json();
    assert_eq!(
        made["spec"]["containers"][0]["resources"],
        json!({"limits": {"cpu": "500m", "memory": "2Gi"}, "requests": {"cpu": "100m", "memory": "2Gi"}})
    );
    assert_eq!(
        made["metadata"]["annotations"]["kubernetes.io/limit-ranger"],
        "LimitRanger plugin set: cpu request for container c; cpu limit for container c; cpu, memory request for init container i; cpu, memory limit for init container i"
    );
}

#[tokio::test]
async fn a_limit_range_refuses_what_is_out_of_it() {
    let rows = [
        (
            json!({"type": "Container", "min": {"cpu": "1"}, "defaultRequest": {"cpu": "2"}, "default": {"cpu": "4"}}),
            json!({"requests": {"cpu": "500m"}}),
            "minimum cpu usage per Container is 1, but request is 500m",
        ),
        (
            json!({"type": "Container", "max": {"cpu": "1"}}),
            json!({"limits": {"cpu": "2"}, "requests": {"cpu": "500m"}}),
            "maximum cpu usage per Container is 1, but limit is 2",
        ),
        (
            json!({"type": "Pod", "max": {"memory": "1Gi"}}),
            json!({"requests": {"memory": "1Gi"}}),
            "maximum memory usage per Pod is 1Gi.  No limit is specified",
        ),
        (
            json!({"type": "Pod", "min": {"memory": "1Gi", "cpu": "1"}}),
            json!({"requests": {"cpu": "1m"}}),
            "[minimum cpu usage per Pod is 1, but request is 1m, minimum memory usage per Pod is 1Gi.  No request is specified]",
        ),
        (
            json!({"type": "Container", "maxLimitRequestRatio": {"cpu": "2"}}),
            json!({"limits": {"cpu": "1"}, "requests": {"cpu": "300m"}}),
            "cpu max limit to request ratio per Container is 2, but provided ratio is 3.333333",
        ),
        (
            json!({"type": "Container", "maxLimitRequestRatio": {"cpu": "2"}}),
            json!({"requests": {"cpu": "300m"}}),
            "cpu max limit to request ratio per Container is 2, but no limit is specified or limit is 0",
        ),
    ];
    for (item, resources, why) in rows {
        let rig = Rig::new().await;
        let made = rig
            .post(RANGES, &json!({"metadata": {"name": "l"}, "spec": {"limits": [item]}}))
            .await;
        assert_eq!(made.code, 201, "{:?}", made.text);
        assert_eq!(
            rig.post(PODS, &with("x", resources)).await.brief(),
            format!("403 pods \"x\" is forbidden: {why}")
        );
    }
}

/// A quota whose controller has counted: nothing is used.
async fn quota(rig: &Rig, name: &str, hard: Value, more: Value) {
    let mut spec = json!({"hard": hard});
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    let made = rig.post(QUOTAS, &json!({"metadata": {"name": name}, "spec": spec})).await;
    assert_eq!(made.code, 201, "{:?}", made.text);
    let used: Value = hard
        .as_object()
        .unwrap()
        .keys()
        .map(|key| (key.clone(), json!("0")))
        .collect::<serde_json::Map<_, _>>()
        .into();
    let status = json!({"status": {"hard": hard, "used": used}});
    let answer = rig.patch(&format!("{QUOTAS}/{name}/status"), "merge-patch", &status).await;
    assert_eq!(answer.code, 200, "{:?}", answer.text);
}

async fn used(rig: &Rig, name: &str) -> Value {
    rig.get(&format!("{QUOTAS}/{name}")).await.json()["status"]["used"].clone()
}

#[tokio::test]
async fn what_is_written_is_charged_and_what_is_too_much_refused() {
    let rig = Rig::new().await;
    quota(&rig, "q", json!({"requests.cpu": "1", "count/configmaps": "1"}), json!({})).await;
    let cpu = |amount: &str| json!({"requests": {"cpu": amount}});
    assert_eq!(
        rig.post(PODS, &pod("none")).await.brief(),
        r#"403 pods "none" is forbidden: failed quota: q: must specify requests.cpu for: c"#
    );
    assert_eq!(rig.post(PODS, &with("a", cpu("600m"))).await.code, 201);
    assert_eq!(used(&rig, "q").await["requests.cpu"], "600m");
    assert_eq!(
        rig.post(PODS, &with("b", cpu("600m"))).await.brief(),
        r#"403 pods "b" is forbidden: exceeded quota: q, requested: requests.cpu=600m, used: requests.cpu=600m, limited: requests.cpu=1"#
    );
    assert_eq!(rig.post(&format!("{PODS}?dryRun=All"), &with("c", cpu("400m"))).await.code, 201);
    assert_eq!(used(&rig, "q").await["requests.cpu"], "600m", "a dry run uses nothing");
    rig.config_map("one", &json!({})).await;
    let refused = rig
        .post("/api/v1/namespaces/default/configmaps", &json!({"metadata": {"name": "two"}}))
        .await;
    assert_eq!(
        refused.brief(),
        r#"403 configmaps "two" is forbidden: exceeded quota: q, requested: count/configmaps=1, used: count/configmaps=1, limited: count/configmaps=1"#
    );
}

#[tokio::test]
async fn of_many_at_once_just_as_many_are_taken_as_fit() {
    let rig = Rig::new().await;
    quota(&rig, "q", json!({"pods": "5"}), json!({})).await;
    let asked: Vec<Value> = (0..20).map(|index| pod(&format!("p{index}"))).collect();
    let answers = futures::future::join_all(asked.iter().map(|pod| rig.post(PODS, pod))).await;
    let mut codes = std::collections::BTreeMap::new();
    for answer in &answers {
        *codes.entry(answer.code).or_insert(0) += 1;
    }
    assert_eq!(codes, [(201, 5), (403, 15)].into());
    assert_eq!(used(&rig, "q").await, json!({"pods": "5"}));
}

#[tokio::test]
async fn a_quota_with_scopes_is_about_such_pods_alone() {
    let rig = Rig::new().await;
    quota(&rig, "q", json!({"pods": "0"}), json!({"scopes": ["NotBestEffort"]})).await;
    assert_eq!(rig.post(PODS, &pod("free")).await.code, 201);
    assert_eq!(
        rig.post(PODS, &with("b", json!({"requests": {"cpu": "1"}}))).await.brief(),
        r#"403 pods "b" is forbidden: exceeded quota: q, requested: pods=1, used: pods=0, limited: pods=0"#
    );
}

#[tokio::test]
async fn a_service_that_changes_its_type_is_charged_the_difference() {
    let rig = Rig::new().await;
    let services = "/api/v1/namespaces/default/services";
    quota(&rig, "q", json!({"services": "1", "services.loadbalancers": "0"}), json!({})).await;
    let service = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}});
    assert_eq!(rig.post(services, &service).await.code, 201);
    let changed = rig
        .patch(
            &format!("{services}/s"),
            "merge-patch",
            &json!({"metadata": {"labels": {"a": "b"}}}),
        )
        .await;
    assert_eq!(changed.code, 200, "what was counted is not counted again");
    assert_eq!(used(&rig, "q").await["services"], "1");
}

/// A pod that asks for as much as its namespace has, and the answers to it
/// wanting more.
#[tokio::test]
async fn a_resize_keeps_to_ranges_and_quotas() {
    let rig = Rig::new().await;
    quota(&rig, "q", json!({"requests.cpu": "1"}), json!({})).await;
    let item = json!({"type": "Container", "max": {"cpu": "800m"}});
    let made = rig
        .post(RANGES, &json!({"metadata": {"name": "l"}, "spec": {"limits": [item]}}))
        .await;
    assert_eq!(made.code, 201, "{:?}", made.text);
    let cpu = |request: &str, limit: &str| json!({"requests": {"cpu": request}, "limits": {"cpu": limit}});
    for name in ["a", "b"] {
        let made = rig.post(PODS, &with(name, cpu("400m", "700m"))).await;
        assert_eq!(made.code, 201, "{:?}", made.text);
    }
    let resize = async |request: &str, limit: &str| {
        let to = json!({"spec": {"containers": [{"name": "c", "resources": cpu(request, limit)}]}});
        rig.patch(&format!("{PODS}/a/resize"), "strategic-merge-patch", &to).await
    };
    assert_eq!(
        resize("500m", "900m").await.brief(),
        r#"403 pods "a" is forbidden: maximum cpu usage per Container is 800m, but limit is 900m"#
    );
    assert_eq!(
        resize("700m", "800m").await.brief(),
        r#"403 pods "a" is forbidden: exceeded quota: q, requested: requests.cpu=300m, used: requests.cpu=800m, limited: requests.cpu=1"#
    );
    assert_eq!(used(&rig, "q").await["requests.cpu"], "800m", "what is refused is not charged");
    let answer = resize("600m", "800m").await;
    assert_eq!(answer.code, 200, "{:?}", answer.text);
    assert_eq!(used(&rig, "q").await["requests.cpu"], "1", "a resize is charged with its write");
}
