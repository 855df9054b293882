use api::Time;
use http::{Request, header};
use serde_json::{Value, json};

use crate::body;
use crate::testing::{Answer, NOW_S, Rig};
use crate::{Identity, tokens};

const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";

async fn rig() -> Rig {
    let rig = Rig::new().await;
    let account = rig.post(ACCOUNTS, &json!({"metadata": {"name": "sa"}})).await;
    assert_eq!(account.code, 201, "{:?}", account.text);
    rig
}

async fn ask(rig: &Rig, spec: Value) -> Answer {
    rig.post(&format!("{ACCOUNTS}/sa/token"), &json!({ "spec": spec })).await
}

/// The code a token gets for something only authentication decides.
async fn code(rig: &Rig, token: &str) -> u16 {
    let request = Request::get("/api/v1")
        .header(header::AUTHORIZATION, format!("Bearer {token}"))
        .body(body::empty())
        .unwrap();
    rig.request(None, request).await.code
}

async fn token(rig: &Rig, spec: Value) -> String {
    let answer = ask(rig, spec).await;
    assert_eq!(answer.code, 201, "{:?}", answer.text);
    answer.json()["status"]["token"].as_str().unwrap().to_owned()
}

async fn pod(rig: &Rig, name: &str, node: Option<&str>, audience: Option<&str>) -> Value {
    let mut pod = crate::testing::pod(name);
    pod["spec"]["serviceAccountName"] = json!("sa");
    if let Some(node) = node {
        pod["spec"]["nodeName"] = json!(node);
    }
    let mut projected = json!({"serviceAccountToken": {"path": "token"}});
    if let Some(audience) = audience {
        projected["serviceAccountToken"]["audience"] = json!(audience);
    }
    // Below validation: what the volume says is all that counts here.
    pod["metadata"]["namespace"] = json!("default");
    pod["metadata"]["uid"] = json!(format!("{name}-uid"));
    pod["spec"]["volumes"] = json!([{"name": "v", "projected": {"sources": [projected]}}]);
    let put = store::Op::Put(format!("/registry/pods/default/{name}"), pod.to_string().into());
    rig.store
        .commit(store::Txn {
            compare: vec![],
            ops: vec![put],
        })
        .await
        .unwrap();
    rig.get(&format!("/api/v1/namespaces/default/pods/{name}")).await.json()
}

#[tokio::test]
async fn a_token_identifies_its_bearer_until_it_ends() {
    let rig = rig().await;
    let answer = ask(&rig, json!({})).await;
    let request = answer.json();
    assert_eq!((answer.code, &request["kind"]), (201, &json!("TokenRequest")));
    assert_eq!(
        request["spec"],
        json!({"audiences": [tokens::DEFAULT_ISSUER], "expirationSeconds": 3600})
    );
    assert_eq!(request["metadata"]["name"], "sa");
    let ends = Time::from_secs(NOW_S + 3_600).to_string();
    assert_eq!(request["status"]["expirationTimestamp"], json!(ends));
    let token = request["status"]["token"].as_str().unwrap();
    assert_eq!(code(&rig, token).await, 200);
    rig.now_s.store(NOW_S + 3_661, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(code(&rig, token).await, 401);
    rig.now_s.store(NOW_S - 61, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(code(&rig, token).await, 401);
}

#[tokio::test]
async fn a_token_ends_with_its_account_and_with_its_pod() {
    let rig = rig().await;
    let mut pods = Vec::new();
    for name in ["a", "b"] {
        let bound = pod(&rig, name, None, None).await;
        let reference = json!({"kind": "Pod", "apiVersion": "v1", "name": name, "uid": bound["metadata"]["uid"]});
        pods.push(token(&rig, json!({"boundObjectRef": reference})).await);
    }
    let free = token(&rig, json!({})).await;
    for token in [&pods[0], &pods[1], &free] {
        assert_eq!(code(&rig, token).await, 200);
    }
    rig.delete("/api/v1/namespaces/default/pods/a", Some(json!({"gracePeriodSeconds": 0})))
        .await;
    assert_eq!(code(&rig, &pods[0]).await, 401);
    assert_eq!(code(&rig, &pods[1]).await, 200);
    // Another account of the same name is another account.
    rig.delete(&format!("{ACCOUNTS}/sa"), None).await;
    assert_eq!(code(&rig, &free).await, 401);
    rig.post(ACCOUNTS, &json!({"metadata": {"name": "sa"}})).await;
    assert_eq!(code(&rig, &free).await, 401);
    assert_eq!(code(&rig, &pods[1]).await, 401);
}

#[tokio::test]
async fn what_cannot_be_asked_for_is_refused_in_upstream_s_words() {
    let rig = rig().await;
    pod(&rig, "p", None, None).await;
    rig.pod("other", None).await;
    let reference =
        |kind: &str, name: &str, uid: &str| json!({"boundObjectRef": {"kind": kind, "apiVersion": "v1", "name": name, "uid": uid}});
    let table = [
        (
            json!({"expirationSeconds": 599}),
            "422 TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: Invalid value: 599: may not specify a duration less than 10 minutes",
        ),
        (
            json!({"expirationSeconds": 4_294_967_297_i64}),
            "422 TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: Invalid value: 4294967297: may not specify a duration larger than 2^32 seconds",
        ),
        (reference("Pod", "none", ""), "404 pods \"none\" not found"),
        (reference("Secret", "none", ""), "404 secrets \"none\" not found"),
        (reference("Node", "none", ""), "404 nodes \"none\" not found"),
        (
            reference("Pod", "p", "x"),
            "409 Operation cannot be fulfilled on Pod \"p\": the UID in the bound object reference (x) does not match the UID in record. The object might have been deleted and then recreated",
        ),
        (
            reference("Pod", "other", ""),
            "400 cannot bind token for serviceaccount \"sa\" to pod running with different serviceaccount name.",
        ),
        (
            reference("ConfigMap", "c", ""),
            "400 cannot bind token to object of type /v1, Kind=ConfigMap",
        ),
    ];
    for (spec, expected) in table {
        assert_eq!(ask(&rig, spec.clone()).await.brief(), expected, "{spec}");
    }
    assert_eq!(rig.post(&format!("{ACCOUNTS}/none/token"), &json!({})).await.code, 404);
    assert_eq!(rig.get(&format!("{ACCOUNTS}/sa/token")).await.code, 405);
    let elsewhere = rig.post(&format!("{ACCOUNTS}/sa/token"), &json!({"metadata": {"name": "x"}})).await;
    assert_eq!(
        elsewhere.brief(),
        "422 TokenRequest.authentication.k8s.io \"sa\" is invalid: metadata.name: Invalid value: \"x\": must match the service account name if specified"
    );
}

#[tokio::test]
async fn a_volume_s_token_lives_a_year_and_warns_after_an_hour() {
    let rig = rig().await;
    let bound = pod(&rig, "p", Some("n1"), None).await;
    let reference = json!({"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": bound["metadata"]["uid"]});
    let answer = ask(&rig, json!({"boundObjectRef": reference, "expirationSeconds": 3607}))
        .await
        .json();
    assert_eq!(
        answer["status"]["expirationTimestamp"],
        json!(Time::from_secs(NOW_S + 3_607).to_string()),
        "clients read it anew as if it ended then"
    );
    let token = answer["status"]["token"].as_str().unwrap();
    let core = rig.server.core();
    let claims = core.tokens.read(token).unwrap();
    assert_eq!(claims.expires_s, NOW_S + 365 * 24 * 3_600);
    assert_eq!(claims.warn_after_s, Some(NOW_S + 3_607));
    assert_eq!(claims.node.as_ref().map(|node| node.name.as_str()), Some("n1"));
    let other = ask(
        &rig,
        json!({"boundObjectRef": reference, "expirationSeconds": 3607, "audiences": ["x"]}),
    )
    .await
    .json();
    let other = core.tokens.read(other["status"]["token"].as_str().unwrap()).unwrap();
    assert_eq!((other.expires_s, other.warn_after_s), (NOW_S + 3_607, None));
}

#[tokio::test]
async fn a_node_gets_tokens_for_its_own_pods_alone() {
    let rig = rig().await;
    let own = pod(&rig, "own", Some("n1"), Some("vault")).await;
    let other = pod(&rig, "other", Some("n2"), None).await;
    let own_uid = own["metadata"]["uid"].as_str().unwrap();
    let reference = |name: &str, uid: &str| json!({"kind": "Pod", "apiVersion": "v1", "name": name, "uid": uid});
    let table = [
        (
            json!({}),
            "403 serviceaccounts \"sa\" is forbidden: node requested token not bound to a pod",
        ),
        (
            json!({"boundObjectRef": reference("own", "")}),
            "403 serviceaccounts \"sa\" is forbidden: node requested token with a pod binding without a uid",
        ),
        (
            json!({"boundObjectRef": reference("other", other["metadata"]["uid"].as_str().unwrap())}),
            "403 serviceaccounts \"sa\" is forbidden: node requested token bound to a pod scheduled on a different node",
        ),
        (
            json!({"boundObjectRef": reference("own", own_uid)}),
            "403 serviceaccounts \"sa\" is forbidden: audience \"\" not found in pod spec volume, system:node:n1 is not authorized to request tokens for this audience",
        ),
        (
            json!({"boundObjectRef": reference("own", own_uid), "audiences": ["vault"]}),
            "201 sa",
        ),
    ];
    for (spec, expected) in table {
        let request = Request::post(format!("{ACCOUNTS}/sa/token"))
            .header(header::CONTENT_TYPE, "application/json")
            .body(body::full(json!({ "spec": spec }).to_string()))
            .unwrap();
        let node = Identity::new("system:node:n1", &["system:nodes"]);
        assert_eq!(rig.request(Some(node), request).await.brief(), expected, "{spec}");
    }
}

#[tokio::test]
async fn a_review_tells_whose_token_it_is() {
    let rig = rig().await;
    let path = "/apis/authentication.k8s.io/v1/tokenreviews";
    let review = |token: String, audiences: Value| {
        let rig = &rig;
        async move {
            let answer = rig.post(path, &json!({"spec": {"token": token, "audiences": audiences}})).await;
            (answer.code, answer.json()["status"].clone())
        }
    };
    let vault = token(&rig, json!({"audiences": ["vault", "x"]})).await;
    let (code, status) = review(vault.clone(), json!(["vault", "y"])).await;
    assert_eq!(
        (code, &status["authenticated"], &status["audiences"]),
        (201, &json!(true), &json!(["vault"]))
    );
    let user = &status["user"];
    assert_eq!(user["username"], "system:serviceaccount:default:sa");
    assert_eq!(
        user["groups"],
        json!(["system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"])
    );
    assert!(
        user["extra"]["authentication.kubernetes.io/credential-id"][0]
            .as_str()
            .unwrap()
            .starts_with("JTI=")
    );
    let (_, status) = review(vault.clone(), Value::Null).await;
    let error = status["error"].as_str().unwrap();
    assert!(
        error.starts_with("[invalid bearer token, token audiences [\"vault\", \"x\"] is invalid"),
        "{error}"
    );
    assert!(status.get("authenticated").is_none());
    assert_eq!(self::code(&rig, &vault).await, 401, "it is for somebody else");
    let empty = rig.post(path, &json!({"spec": {}})).await;
    assert_eq!(empty.brief(), "400 token is required for TokenReview in authentication");
    assert_eq!(rig.get(path).await.code, 405);
    assert_eq!(rig.get(&format!("{path}/x")).await.code, 404);
}

#[tokio::test]
async fn the_keys_are_there_for_whoever_may_read_them() {
    let rig = rig().await;
    for path in [tokens::DISCOVERY_PATH, tokens::JWKS_PATH] {
        assert_eq!(rig.get(path).await.code, 200);
        assert_eq!(rig.request(None, Request::get(path).body(body::empty()).unwrap()).await.code, 401);
    }
    let jwks = rig.get(tokens::JWKS_PATH).await;
    assert_eq!(jwks.headers["content-type"], "application/jwk-set+json");
    assert_eq!(rig.get(tokens::DISCOVERY_PATH).await.json()["issuer"], tokens::DEFAULT_ISSUER);
}
