use http::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::testing::Rig;

const POD: &str = "/api/v1/namespaces/default/pods/a";

async fn rig() -> Rig {
    let rig = Rig::new().await;
    let node = json!({"metadata": {"name": "n1"}, "status": {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}]}});
    assert_eq!(rig.post("/api/v1/nodes", &node).await.code, 201);
    rig.pod("a", Some("n1")).await;
    rig
}

#[tokio::test]
async fn a_node_s_own_api_answers_whatever_the_method() {
    let rig = rig().await;
    for (path, said) in [
        ("/api/v1/nodes/n1/proxy/healthz", "n1 /healthz"),
        ("/api/v1/nodes/n1/proxy/", "n1 /"),
        ("/api/v1/nodes/n1:10250/proxy/a%2fb//c/?x=1&y", "n1 /a%2fb//c/?x=1&y"),
        ("/api/v1/nodes/https:n1:10250/proxy/pods", "n1 /pods"),
        ("/api/v1/nodes/n1/proxy?path=pods", "n1 /pods?path=pods"),
    ] {
        let answer = rig.get(path).await;
        assert_eq!((answer.code, &answer.text[..]), (200, said.as_bytes()), "{path}");
    }
    assert_eq!(rig.post("/api/v1/nodes/n1/proxy/run", &json!({})).await.text, "n1 /run");
    assert_eq!(rig.delete("/api/v1/nodes/n1/proxy/x", None).await.text, "n1 /x");
    let bare = rig.get("/api/v1/nodes/n1/proxy?a=b").await;
    assert_eq!(
        (bare.code, bare.headers["location"].to_str().unwrap()),
        (301, "/api/v1/nodes/n1/proxy/?a=b")
    );
}

#[tokio::test]
async fn what_cannot_be_proxied_is_refused_in_upstream_s_words() {
    let rig = rig().await;
    for (path, said) in [
        ("/api/v1/nodes/none/proxy/healthz", "404 nodes \"none\" not found"),
        ("/api/v1/nodes/ftp:n1:21/proxy/x", "400 invalid node request \"ftp:n1:21\""),
        ("/api/v1/nodes/n1:22/proxy/x", "400 address not allowed"),
        (&format!("{POD}/proxy/x"), "400 address not allowed"),
        (
            "/api/v1/namespaces/default/pods/a:b:c:d/proxy/x",
            "400 invalid pod request \"a:b:c:d\"",
        ),
        ("/api/v1/namespaces/default/pods/none:80/proxy/x", "404 pods \"none\" not found"),
    ] {
        assert_eq!(rig.get(path).await.brief(), said, "{path}");
    }
    let own = json!({"status": {"podIP": "127.0.0.1", "podIPs": [{"ip": "127.0.0.1"}]}});
    assert_eq!(rig.patch(&format!("{POD}/status"), "merge-patch", &own).await.code, 200);
    assert_eq!(rig.get(&format!("{POD}/proxy/x")).await.brief(), "400 address not allowed");
    let far = json!({"status": {"podIP": "10.244.0.9", "podIPs": [{"ip": "10.244.0.9"}]}});
    assert_eq!(rig.patch(&format!("{POD}/status"), "merge-patch", &far).await.code, 200);
    assert_eq!(
        rig.get("/api/v1/namespaces/default/pods/a:http/proxy/x").await.brief(),
        "503 error trying to reach service: dial tcp: lookup tcp/http: unknown port"
    );
}

#[tokio::test]
async fn a_service_is_asked_through_its_pods_alone() {
    let rig = rig().await;
    let services = "/api/v1/namespaces/default/services";
    let service = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"name": "web", "port": 80, "targetPort": 8080}]}});
    assert_eq!(rig.post(services, &service).await.code, 201);
    let brief = async |name: &str| rig.get(&format!("{services}/{name}/proxy/x")).await.brief();
    assert_eq!(brief("none").await, "404 services \"none\" not found");
    assert_eq!(brief("s:web").await, "404 endpoints \"s\" not found");
    assert_eq!(brief("s:81").await, "503 no service port 81 found for service \"s\"");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    // Whoever writes endpoints cannot have this server ask just anybody.
    let target = json!({"kind": "Pod", "namespace": "default", "name": "a"});
    let endpoints = json!({"metadata": {"name": "s"}, "subsets": [{
        "addresses": [{"ip": "10.244.0.9", "targetRef": target}, {"ip": "10.244.0.8"}],
        "ports": [{"name": "web", "port": port}],
    }]});
    assert_eq!(rig.post("/api/v1/namespaces/default/endpoints", &endpoints).await.code, 201);
    assert_eq!(
        brief("s:web").await,
        "503 no endpoints available for service \"s\"",
        "pod a has no such address"
    );
    assert_eq!(brief("s:80").await, "503 no endpoints available for service \"s\"");
    assert_eq!(
        brief("s").await,
        "503 no endpoints available for service \"s\"",
        "no port without a name"
    );
}

#[tokio::test]
async fn a_proxy_is_its_own_right() {
    let rig = rig().await;
    let ask = |user: &str, groups: &[&str], path: &str, method: Method| {
        let identity = crate::Identity::new(user, groups);
        let request = Request::builder().method(method).uri(path).body(body::empty()).unwrap();
        (Some(identity), request)
    };
    let (identity, request) = ask("system:node:n1", &["system:nodes"], "/api/v1/nodes/n1/proxy/healthz", Method::GET);
    let answer = rig.request(identity, request).await;
    assert!(
        answer
            .brief()
            .starts_with("403 nodes \"n1\" is forbidden: User \"system:node:n1\" cannot get resource \"nodes/proxy\""),
        "{}",
        answer.brief()
    );
    let (identity, request) = ask("eve", &[], &format!("{POD}/proxy/"), Method::POST);
    let answer = rig.request(identity, request).await;
    assert!(
        answer
            .brief()
            .contains("User \"eve\" cannot create resource \"pods/proxy\" in API group \"\" in the namespace \"default\""),
        "{}",
        answer.brief()
    );
}

#[test]
fn a_pod_is_asked_at_its_named_declared_or_usual_port() {
    let pod: Object = serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"},
        "spec": {"containers": [{"name": "x"}, {"name": "y", "ports": [{"containerPort": 8080}, {"containerPort": 9}]}]},
        "status": {"podIP": "10.244.0.5"},
    }))
    .unwrap();
    let at = |text: &str| match of_pod(&pod, &Place::parse(text).unwrap()) {
        Ok(Destination::Address { https, address }) => format!("{https} {address}"),
        other => format!("{other:?}"),
    };
    assert_eq!(at("a"), "false 10.244.0.5:8080");
    assert_eq!(at("a:99"), "false 10.244.0.5:99");
    assert_eq!(at("https:a:443"), "true 10.244.0.5:443");
    assert_eq!(at("https:a:"), "true 10.244.0.5:8080");
    for bad in ["", ":80", "ftp:a:1", "a:b:c:d"] {
        assert_eq!(Place::parse(bad), None, "{bad}");
    }
    for bad in [
        "",
        "127.0.0.1",
        "::1",
        "0.0.0.0",
        "169.254.169.254",
        "224.0.0.1",
        "255.255.255.255",
        "fe80::1",
        "name",
    ] {
        assert!(allowed(bad).is_err(), "{bad}");
    }
    assert!(allowed("10.0.0.1").is_ok() && allowed("fd00::1").is_ok());
}

#[test]
fn redirects_stay_behind_the_proxy() {
    let prefix = "/api/v1/namespaces/d/pods/a/proxy";
    for (location, kept) in [
        ("/login?x=1", "/api/v1/namespaces/d/pods/a/proxy/login?x=1"),
        ("http://10.0.0.5:80/login/", "/api/v1/namespaces/d/pods/a/proxy/login/"),
        ("https://api:6443/b", "/api/v1/namespaces/d/pods/a/proxy/b"),
        ("https://example.com/b", "https://example.com/b"),
        ("next", "next"),
        ("../next", "../next"),
        ("/api/v1/namespaces/d/pods/a/proxy/b", "/api/v1/namespaces/d/pods/a/proxy/b"),
    ] {
        assert_eq!(rewritten(location, prefix, &["api:6443", "10.0.0.5:80"]), kept, "{location}");
    }
}

#[test]
fn what_is_between_neighbours_or_says_who_the_client_is_goes_no_further() {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("connection", "close, X-Own"),
        ("x-own", "1"),
        ("authorization", "Bearer secret"),
        ("impersonate-user", "root"),
        ("accept", "text/html"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    drop_headers(&mut headers, &HOP_BY_HOP);
    drop_headers(&mut headers, &IDENTITY);
    assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["accept"]);
}

/// A server that reads `asked` bytes, then says `said`.
async fn server(asked: usize, said: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut got = vec![0; asked];
        stream.read_exact(&mut got).await.unwrap();
        stream.write_all(said.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
    });
    address
}

#[tokio::test]
async fn bodies_stream_both_ways_and_failures_have_go_s_words() {
    let request = |text: &'static str| Request::post("/x").header("host", "h").body(body::full(text)).unwrap();
    let address = server(1, "HTTP/1.1 201 Created\r\ncontent-length: 5\r\n\r\nhello").await;
    let answer = dial::exchange(false, address, request("ping")).await.unwrap();
    assert_eq!(answer.status(), 201);
    assert_eq!(body::read(answer.into_body(), 100).await.unwrap(), "hello");

    let address = server(1, "").await;
    assert_eq!(dial::exchange(false, address, request("")).await.unwrap_err().to_string(), "EOF");
    let address = server(1, "HTTP/1.1 400 Bad Request\r\n\r\n").await;
    assert_eq!(
        dial::exchange(true, address, request("")).await.unwrap_err().to_string(),
        "http: server gave HTTP response to HTTPS client"
    );
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    assert_eq!(
        dial::exchange(false, closed, request("")).await.unwrap_err().to_string(),
        format!("dial tcp {closed}: connect: connection refused")
    );
}
