use serde_json::json;

use super::*;
use crate::testing::Rig;

async fn code(rig: &Rig, identity: Option<Identity>, path: &str) -> (u16, String) {
    let answer = rig.request(identity, Request::get(path).body(body::empty()).unwrap()).await;
    let text = serde_json::from_slice::<serde_json::Value>(&answer.text).ok();
    (
        answer.code,
        text.and_then(|value| value["message"].as_str().map(str::to_owned))
            .unwrap_or_default(),
    )
}

#[tokio::test]
async fn nobody_gets_health_and_version_and_nothing_else() {
    let rig = Rig::new().await;
    for path in [
        "/livez",
        "/readyz",
        "/healthz",
        "/readyz?verbose",
        "/livez/ping",
        "/readyz/hub-pods",
        "/version",
    ] {
        assert_eq!(code(&rig, None, path).await.0, 200, "{path}");
    }
    assert_eq!(code(&rig, None, "/livez/made-up").await.0, 404);
    let stranger = || Some(Identity::new("x", &[]));
    assert_eq!(
        code(&rig, stranger(), "/api/v1/namespaces/default/pods").await,
        (
            403,
            r#"pods is forbidden: User "x" cannot list resource "pods" in API group "" in the namespace "default""#.to_owned()
        )
    );
    assert_eq!(code(&rig, stranger(), "/api/v1").await.0, 200);
    assert_eq!(code(&rig, stranger(), "/metrics").await.0, 403);
}

/// Nobody learns whether a path is served, malformed, or of the wrong method;
/// somebody does.
#[tokio::test]
async fn nobody_is_told_nothing_about_any_other_path() {
    use Method as M;
    let rig = Rig::new().await;
    let table = [
        (M::GET, "/", 200),
        (M::GET, "/api", 200),
        (M::GET, "/apis", 200),
        (M::GET, "/api/v1", 200),
        (M::GET, "/api/v1/pods", 200),
        (M::GET, "/metrics", 200),
        (M::GET, "/openapi/v3", 200),
        (M::GET, "/apis/x/v1/y", 404),
        (M::GET, "/nowhere", 404),
        (M::GET, "/livezz", 404),
        (M::GET, "/version/x", 404),
        (M::GET, "/api/v1/nodes/node1/proxy/pods", 404),
        (M::GET, "/api/v1/namespaces/default/pods/p/made-up", 404),
        (M::GET, "/api/v1/namespaces/default/pods/p/log/x/y", 404),
        (M::GET, "/api/v1/namespaces/default/pods/%2e%2e", 400),
        (M::GET, "/livez/../api/v1/pods", 400),
        (M::GET, "/livez/%2e%2e/api", 400),
        (M::GET, "//api/v1/pods", 400),
        (M::GET, "/api/v1/pods?labelSelector=%ff", 400),
        (M::OPTIONS, "/api/v1/pods", 405),
        (M::POST, "/api", 405),
        (M::PUT, "/api/v1/namespaces/default/pods", 405),
        (M::GET, "/api/v1/nodes/default/pods", 404),
    ];
    for (method, path, known) in table {
        let request = || Request::builder().method(method.clone()).uri(path).body(body::empty()).unwrap();
        let nobody = rig.request(None, request()).await;
        assert_eq!((nobody.code, nobody.message()), (401, "Unauthorized".to_owned()), "{method} {path}");
        let admin = rig.request(Some(Rig::admin()), request()).await;
        assert_eq!(admin.code, known, "{method} {path}: {:?}", admin.text);
    }
    let head = Request::head("/api/v1/pods").body(body::empty()).unwrap();
    assert_eq!(rig.request(None, head).await.code, 401);
}

#[tokio::test]
async fn the_version_is_the_wire_s() {
    let rig = Rig::new().await;
    let version = rig.get("/version").await.json();
    assert_eq!((&version["major"], &version["minor"]), (&json!("1"), &json!("33")));
    assert!(version["gitVersion"].as_str().unwrap().starts_with("v1.33.0+lifepod."));
}

#[tokio::test]
async fn every_cluster_has_its_namespaces() {
    let rig = Rig::new().await;
    let list = rig.get("/api/v1/namespaces").await.json();
    let names: Vec<_> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["metadata"]["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["default", "kube-node-lease", "kube-public", "kube-system"]);
    assert_eq!(list["items"][0]["status"]["phase"], "Active");
}

#[tokio::test]
async fn discovery_names_every_row() {
    let rig = Rig::new().await;
    assert_eq!(rig.get("/api").await.json()["versions"], json!(["v1"]));
    let core = rig.get("/api/v1").await.json();
    let find = |name: &str| {
        core["resources"]
            .as_array()
            .unwrap()
            .iter()
            .find(|resource| resource["name"] == name)
            .cloned()
    };
    assert_eq!(find("pods").unwrap()["shortNames"], json!(["po"]));
    assert_eq!(find("pods/log").unwrap()["verbs"], json!(["get"]));
    assert_eq!(find("pods/binding").unwrap()["kind"], "Binding");
    assert_eq!(find("namespaces").unwrap()["namespaced"], false);
    assert!(find("namespaces/finalize").is_some() && find("bindings").is_some());
    let groups = rig.get("/apis").await.json();
    let leases = groups["groups"]
        .as_array()
        .unwrap()
        .iter()
        .find(|group| group["name"] == "coordination.k8s.io")
        .unwrap();
    assert_eq!(leases["preferredVersion"]["groupVersion"], "coordination.k8s.io/v1");
    let tokens = find("serviceaccounts/token").unwrap();
    assert_eq!(
        (&tokens["kind"], &tokens["group"], &tokens["verbs"]),
        (&json!("TokenRequest"), &json!("authentication.k8s.io"), &json!(["create"]))
    );
    let reviews = rig.get("/apis/authentication.k8s.io/v1").await.json();
    assert_eq!(reviews["resources"][0]["verbs"], json!(["create"]));
    assert_eq!(rig.get("/apis/coordination.k8s.io").await.json()["kind"], "APIGroup");
    assert_eq!(
        rig.get("/apis/coordination.k8s.io/v1").await.json()["resources"][0]["name"],
        "leases"
    );

    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    let aggregated = rig.get_as("/apis", accept).await;
    assert_eq!(
        aggregated.headers["content-type"],
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    );
    let aggregated = aggregated.json();
    assert_eq!(
        (&aggregated["kind"], &aggregated["apiVersion"]),
        (&json!("APIGroupDiscoveryList"), &json!("apidiscovery.k8s.io/v2"))
    );
    let names: Vec<_> = aggregated["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|group| group["metadata"]["name"].as_str().unwrap())
        .collect();
    for group in ["coordination.k8s.io", "discovery.k8s.io", "events.k8s.io"] {
        assert!(names.contains(&group), "{names:?}");
    }
    let core = rig.get_as("/api", &accept.replace("v=v2;", "v=v2beta1;")).await.json();
    assert_eq!(core["apiVersion"], "apidiscovery.k8s.io/v2beta1");
    let pods = core["items"][0]["versions"][0]["resources"]
        .as_array()
        .unwrap()
        .iter()
        .find(|resource| resource["resource"] == "pods")
        .unwrap()
        .clone();
    assert_eq!(
        (
            &pods["scope"],
            &pods["responseKind"]["kind"],
            &pods["subresources"][0]["subresource"]
        ),
        (&json!("Namespaced"), &json!("Pod"), &json!("status"))
    );
}

#[tokio::test]
async fn too_many_at_a_time_are_told_to_wait() {
    let rig = Rig::with(Limits {
        streams: 1,
        ..Limits::default()
    })
    .await;
    let watching = rig.watch("/api/v1/pods?watch=1").await;
    let refused = rig.get("/api/v1/pods?watch=1").await;
    assert_eq!((refused.code, refused.headers["retry-after"].to_str().unwrap()), (429, "1"));
    assert_eq!(rig.get("/api/v1/pods").await.code, 200);
    drop(watching);
    assert_eq!(rig.watch("/api/v1/pods?watch=1&timeoutSeconds=1").await.brief().await, "END");
}

#[tokio::test]
async fn requests_are_counted_under_upstream_s_names() {
    let rig = Rig::new().await;
    rig.pod("a", None).await;
    rig.get("/api/v1/made-up-things").await;
    // A list waits for the hub, which the gauge is read from.
    assert_eq!(rig.get("/api/v1/pods").await.code, 200);
    let answer = rig.get("/metrics").await;
    let text = String::from_utf8(answer.text.to_vec()).unwrap();
    let post = r#"apiserver_request_total{verb="POST",group="",version="v1",resource="pods",subresource="",scope="namespace",code="201",dry_run=""} 1"#;
    assert!(text.contains(post), "{text}");
    assert!(text.contains(r#"apiserver_storage_objects{resource="pods"} 1"#), "{text}");
    assert!(text.contains("apiserver_request_duration_seconds_bucket") && text.contains("apiserver_current_inflight_requests"));
    assert!(!text.contains("made-up-things"), "names from clients must not become labels");
}

#[tokio::test]
async fn a_head_has_no_body_and_a_restart_keeps_everything() {
    let rig = Rig::new().await;
    // Upstream routes HEAD to paths of its own, and to no resource.
    for (path, code) in [("/api/v1/namespaces/default", 405), ("/version", 200)] {
        let request = Request::head(path).body(body::empty()).unwrap();
        let answer = rig.request(Some(Rig::admin()), request).await;
        assert_eq!((answer.code, answer.text.len()), (code, 0), "{path}");
    }
    let before = rig.get("/api/v1/namespaces").await.json();
    let again = ApiServer::start(Config {
        store: Arc::clone(&rig.store),
        rows: crate::kinds::rows(),
        nodes: Arc::new(crate::testing::EchoNode),
        tokens: crate::testing::tokens(),
        audit: None,
        limits: Limits::default(),
        ranges: Ranges::default(),
        baseline_namespaces: false,
        version: Version::default(),
        clock: Arc::new(|| Time::from_secs(0)),
    })
    .await
    .unwrap();
    let request = Request::get("/api/v1/namespaces").body(body::empty()).unwrap();
    let response = again.handle(Some(Rig::admin()), request).await;
    let after: serde_json::Value = serde_json::from_slice(&body::read(response.into_body(), 1 << 20).await.unwrap()).unwrap();
    assert_eq!(after["items"], before["items"]);
}

#[tokio::test]
async fn the_service_of_this_server_comes_back_when_it_is_deleted() {
    let rig = Rig::new().await;
    rig.server.publish_own_service("10.1.2.3:6443".parse().unwrap()).await.unwrap();
    let path = "/api/v1/namespaces/default/services/kubernetes";
    let first = rig.get(path).await.json();
    assert_eq!(first["spec"]["clusterIP"], "10.96.0.1");
    let mut watching = rig
        .watch("/api/v1/namespaces/default/services?watch=true&fieldSelector=metadata.name%3Dkubernetes")
        .await;
    assert_eq!(watching.brief().await, "ADDED kubernetes");
    rig.delete(path, None).await;
    assert_eq!(watching.brief().await, "DELETED kubernetes");
    assert_eq!(watching.brief().await, "ADDED kubernetes");
    let again = rig.get(path).await.json();
    assert_eq!(again["spec"]["clusterIP"], "10.96.0.1");
    assert_ne!(again["metadata"]["uid"], first["metadata"]["uid"]);
}
