use std::time::Duration;

use serde_json::{Value, json};

use crate::testing::{Rig, pod};

const PODS: &str = "/api/v1/namespaces/default/pods";
const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";

/// A pod with more fields in its spec.
fn with(name: &str, more: Value) -> Value {
    let mut pod = pod(name);
    for (key, value) in more.as_object().unwrap() {
        pod["spec"][key] = value.clone();
    }
    pod
}

#[tokio::test]
async fn a_pod_acts_as_the_default_account_unless_it_names_another() {
    let rig = Rig::new().await;
    let spec = rig.post(PODS, &pod("a")).await.json()["spec"].clone();
    assert_eq!(
        (&spec["serviceAccountName"], &spec["serviceAccount"]),
        (&json!("default"), &json!("default"))
    );
    rig.post(ACCOUNTS, &json!({"metadata": {"name": "builder"}})).await;
    let named = rig.post(PODS, &with("b", json!({"serviceAccount": "builder"}))).await.json();
    assert_eq!(named["spec"]["serviceAccountName"], "builder");
    let refused = rig.post(PODS, &with("c", json!({"serviceAccountName": "sa"}))).await;
    assert_eq!(
        refused.brief(),
        r#"403 pods "c" is forbidden: error looking up service account default/sa: serviceaccount "sa" not found"#
    );
    let mut generated = with("", json!({"serviceAccountName": "sa"}));
    generated["metadata"] = json!({"generateName": "web-"});
    assert_eq!(
        rig.post(PODS, &generated).await.brief(),
        r#"403 pods "web-" is forbidden: error looking up service account default/sa: serviceaccount "sa" not found"#
    );
}

#[tokio::test]
async fn a_pod_right_after_its_namespace_waits_for_the_account() {
    let rig = Rig::new().await;
    rig.post("/api/v1/namespaces", &json!({"metadata": {"name": "new"}})).await;
    let (pods, accounts) = ("/api/v1/namespaces/new/pods", "/api/v1/namespaces/new/serviceaccounts");
    let (mut early, account) = (pod("p"), json!({"metadata": {"name": "default"}}));
    early["metadata"]["namespace"] = json!("new");
    let controller = async {
        // Another account, whose key begins with the same letters, is not it.
        rig.post(accounts, &json!({"metadata": {"name": "default2"}})).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        rig.post(accounts, &account).await
    };
    let (created, made) = tokio::join!(rig.post(pods, &early), controller);
    assert_eq!((created.brief().as_str(), made.code), ("201 p", 201));
}

#[tokio::test]
async fn a_namespace_that_gets_no_account_gets_no_pods() {
    let rig = Rig::new().await;
    rig.post("/api/v1/namespaces", &json!({"metadata": {"name": "new"}})).await;
    assert_eq!(
        rig.post("/api/v1/namespaces/new/pods", &pod("p")).await.brief(),
        r#"403 pods "p" is forbidden: error looking up service account new/default: serviceaccount "default" not found"#
    );
    // A namespace that is not there is said before.
    assert_eq!(
        rig.post("/api/v1/namespaces/none/pods", &pod("p")).await.brief(),
        r#"404 namespaces "none" not found"#
    );
}

#[tokio::test]
async fn an_account_that_enforces_its_secrets_allows_no_others() {
    let rig = Rig::new().await;
    let account = json!({
        "metadata": {"name": "strict", "annotations": {"kubernetes.io/enforce-mountable-secrets": "true"}},
        "secrets": [{"name": "own"}],
    });
    rig.post(ACCOUNTS, &account).await;
    let unlisted = "is not allowed because service account strict does not reference that secret";
    let reference = |name: &str| json!({"name": "X", "valueFrom": {"secretKeyRef": {"name": name, "key": "k"}}});
    let container = |more: Value| json!({"containers": [{"name": "c", "image": "i", "env": more["env"], "envFrom": more["envFrom"]}]});
    let rows = [
        (
            json!({"volumes": [{"name": "v", "secret": {"secretName": "other"}}]}),
            format!(r#"volume with secret.secretName="other" {unlisted}"#),
        ),
        (
            container(json!({"env": [reference("own"), reference("other")]})),
            format!(r#"container c with envVar X referencing secret.secretName="other" {unlisted}"#),
        ),
        (
            container(json!({"envFrom": [{"secretRef": {"name": "other"}}]})),
            format!(r#"container c with envFrom referencing secret.secretName="other" {unlisted}"#),
        ),
        (
            json!({"imagePullSecrets": [{"name": "other"}]}),
            r#"imagePullSecrets[0].name="other" is not allowed because service account strict does not reference that imagePullSecret"#
                .to_owned(),
        ),
    ];
    for (spec, why) in rows {
        let object: api::Object = serde_json::from_value(with("p", spec)).unwrap();
        let typed = object.view::<api::typed::Pod>().unwrap().spec.unwrap();
        let account: api::Object = serde_json::from_value(account.clone()).unwrap();
        assert_eq!(super::super::service_account::secret_rules(&typed, &account), Err(why));
    }
}

#[tokio::test]
async fn a_mirror_pod_has_no_account() {
    let rig = Rig::new().await;
    let mirror = |name: &str, spec: Value| {
        let mut pod = with(name, spec);
        pod["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
        pod
    };
    let made = rig.post(PODS, &mirror("a", json!({}))).await.json();
    assert_eq!(made["spec"]["serviceAccountName"], Value::Null);
    assert_eq!(
        rig.post(PODS, &mirror("b", json!({"serviceAccountName": "default"}))).await.brief(),
        r#"403 pods "b" is forbidden: a mirror pod may not reference service accounts"#
    );
}
