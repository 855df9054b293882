use serde_json::{Value, json};

use super::*;
use crate::request::{Query, Target, target};
use crate::testing::Rig;

fn asked(method: Method, uri: &str) -> ResourceRequest {
    let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
    match target(&method, path, &Query::parse(query).unwrap()).unwrap() {
        Target::Resource(asked) => asked,
        Target::Path(path) => panic!("{path} is not a resource"),
    }
}

#[test]
fn the_refusal_is_in_upstream_s_words() {
    let who = Identity::new("x", &[]);
    let message = |path| Builtin.resource(&who, &asked(Method::GET, path)).unwrap_err().message;
    assert_eq!(
        message("/api/v1/namespaces/default/pods"),
        r#"pods is forbidden: User "x" cannot list resource "pods" in API group "" in the namespace "default""#
    );
    assert_eq!(
        message("/api/v1/namespaces/default/pods/a/log"),
        r#"pods "a" is forbidden: User "x" cannot get resource "pods/log" in API group "" in the namespace "default""#
    );
    assert_eq!(
        message("/api/v1/nodes"),
        r#"nodes is forbidden: User "x" cannot list resource "nodes" in API group "" at the cluster scope"#
    );
    let error = Builtin.path(&who, "/metrics", &Method::GET).unwrap_err();
    assert_eq!(
        (error.code, error.message.as_str()),
        (403, r#"forbidden: User "x" cannot get path "/metrics""#)
    );
}

#[test]
fn components_have_their_own_rights_and_no_others() {
    let admin = Identity::new("admin", &["system:masters"]);
    let scheduler = Identity::new("system:kube-scheduler", &[]);
    let node = Identity::new("system:node:n1", &["system:nodes"]);
    let pretender = Identity::new("system:node:n1", &[]);
    let table = [
        (&admin, Method::DELETE, "/api/v1/namespaces/a/secrets", true),
        (&scheduler, Method::POST, "/api/v1/namespaces/a/pods/p/binding", true),
        (&scheduler, Method::PATCH, "/api/v1/namespaces/a/pods/p/status", true),
        (&scheduler, Method::PATCH, "/api/v1/namespaces/a/pods/p", false),
        (&scheduler, Method::GET, "/api/v1/secrets", false),
        (&node, Method::POST, "/api/v1/nodes", true),
        (&node, Method::PATCH, "/api/v1/nodes/n1/status", true),
        (&node, Method::PATCH, "/api/v1/nodes/n2/status", false),
        (
            &node,
            Method::PUT,
            "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n1",
            true,
        ),
        (
            &node,
            Method::PUT,
            "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n2",
            false,
        ),
        (
            &node,
            Method::PUT,
            "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/n1",
            false,
        ),
        (&node, Method::DELETE, "/api/v1/namespaces/a/pods/p", true),
        (&node, Method::POST, "/api/v1/namespaces/a/pods", false),
        (&pretender, Method::GET, "/api/v1/pods", false),
    ];
    for (identity, method, path, allowed) in table {
        assert_eq!(
            Builtin.resource(identity, &asked(method.clone(), path)).is_ok(),
            allowed,
            "{} {method} {path}",
            identity.user
        );
    }
}

#[test]
fn a_node_changes_only_its_own_pods() {
    let node = Identity::new("system:node:n1", &["system:nodes"]);
    let asked = asked(Method::PATCH, "/api/v1/namespaces/a/pods/p/status");
    let pod = |name: &str| serde_json::from_value::<Object>(serde_json::json!({"spec": {"nodeName": name}})).unwrap();
    assert!(Builtin.object(&node, &asked, &pod("n1")).is_ok());
    assert_eq!(Builtin.object(&node, &asked, &pod("n2")).unwrap_err().code, 403);
    assert!(
        Builtin
            .object(&Identity::new("admin", &["system:masters"]), &asked, &pod("n2"))
            .is_ok()
    );
}

fn kubelet() -> Identity {
    Identity::new("system:node:n1", &["system:nodes"])
}

async fn as_kubelet(rig: &Rig, method: &Method, uri: &str, kind: &str, body: &Value) -> (u16, String) {
    let request = http::Request::builder()
        .method(method)
        .uri(uri)
        .header("content-type", format!("application/{kind}"))
        .body(crate::body::full(if body.is_null() { String::new() } else { body.to_string() }))
        .unwrap();
    if uri.contains("watch=") {
        let response = rig.server.handle(Some(kubelet()), request).await;
        return (response.status().as_u16(), String::new());
    }
    let answer = rig.request(Some(kubelet()), request).await;
    let message = answer.json()["message"].as_str().unwrap_or_default().to_owned();
    (answer.code, message)
}

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
const STRATEGIC: &str = "strategic-merge-patch+json";
const MERGE: &str = "merge-patch+json";

/// What a kubelet does in its life, in order.
#[tokio::test]
async fn a_kubelet_may_do_its_work() {
    use Method as M;
    let rig = Rig::new().await;
    let own = rig.pod("own", Some("n1")).await;
    let uid = own["metadata"]["uid"].as_str().unwrap();
    let node = json!({"metadata": {"name": "n1", "labels": {"kubernetes.io/hostname": "n1"}}});
    let event = json!({"metadata": {"name": "e"}, "involvedObject": {"namespace": "default"}, "reason": "Started", "type": "Normal"});
    let cluster_event = json!({"metadata": {"name": "e", "namespace": "default"}, "involvedObject": {"kind": "Node", "name": "n1"}, "reason": "Starting", "type": "Normal"});
    let lease = json!({"metadata": {"name": "n1"}, "spec": {"holderIdentity": "n1", "leaseDurationSeconds": 40}});
    let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "m"}]}});
    let running = json!({"metadata": {"uid": uid}, "status": {"phase": "Running"}});
    let gone = json!({"gracePeriodSeconds": 0, "preconditions": {"uid": uid}});
    let other = json!({"gracePeriodSeconds": 0, "preconditions": {"uid": "00000000-0000-0000-0000-000000000000"}});
    let none = Value::Null;
    let table = [
        (M::POST, "/api/v1/nodes".to_owned(), "json", &node, 201),
        (M::POST, "/api/v1/nodes".to_owned(), "json", &node, 409),
        (
            M::PATCH,
            "/api/v1/nodes/n1".to_owned(),
            STRATEGIC,
            &json!({"metadata": {"labels": {"a": "b"}}}),
            200,
        ),
        (M::PATCH, "/api/v1/nodes/n1/status".to_owned(), STRATEGIC, &ready, 200),
        (M::GET, "/api/v1/nodes/n1".to_owned(), "json", &none, 200),
        (
            M::GET,
            "/api/v1/nodes?fieldSelector=metadata.name%3Dn1".to_owned(),
            "json",
            &none,
            200,
        ),
        (
            M::GET,
            "/api/v1/nodes?watch=1&fieldSelector=metadata.name%3Dn1".to_owned(),
            "json",
            &none,
            200,
        ),
        (M::PATCH, format!("{LEASES}/n1"), MERGE, &json!({"spec": {}}), 404),
        (M::POST, LEASES.to_owned(), "json", &lease, 201),
        (
            M::PATCH,
            format!("{LEASES}/n1"),
            MERGE,
            &json!({"spec": {"leaseDurationSeconds": 41}}),
            200,
        ),
        (
            M::GET,
            "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1".to_owned(),
            "json",
            &none,
            200,
        ),
        (
            M::GET,
            "/api/v1/pods?watch=1&fieldSelector=spec.nodeName%3Dn1&resourceVersion=0".to_owned(),
            "json",
            &none,
            200,
        ),
        (M::GET, "/api/v1/namespaces/default/pods/own".to_owned(), "json", &none, 200),
        (
            M::PATCH,
            "/api/v1/namespaces/default/pods/own/status".to_owned(),
            STRATEGIC,
            &running,
            200,
        ),
        (M::POST, "/api/v1/namespaces/default/events".to_owned(), "json", &event, 201),
        (
            M::PATCH,
            "/api/v1/namespaces/default/events/e".to_owned(),
            MERGE,
            &json!({"count": 2}),
            200,
        ),
        (M::POST, "/api/v1/namespaces/default/events".to_owned(), "json", &cluster_event, 409),
        (M::DELETE, "/api/v1/namespaces/default/pods/own".to_owned(), "json", &other, 409),
        (M::DELETE, "/api/v1/namespaces/default/pods/own".to_owned(), "json", &gone, 200),
        (M::DELETE, "/api/v1/namespaces/default/pods/own".to_owned(), "json", &gone, 404),
    ];
    for (method, uri, kind, body, code) in table {
        let answer = as_kubelet(&rig, &method, &uri, kind, body).await;
        assert_eq!(answer.0, code, "{method} {uri}: {}", answer.1);
    }
}

/// Sends each as the kubelet of n1 and expects a 403 that ends in these words.
async fn refused(rig: &Rig, table: &[(Method, &str, Value, &str)]) {
    let before = rig.store.revision();
    for (method, uri, body, why) in table {
        let kind = if method == Method::PATCH { STRATEGIC } else { "json" };
        let (code, message) = as_kubelet(rig, method, uri, kind, body).await;
        assert!(code == 403 && message.ends_with(why), "{method} {uri}: {code} {message}");
    }
    assert_eq!(rig.store.revision(), before, "nothing was written");
}

#[tokio::test]
async fn a_kubelet_may_do_nothing_to_another_node_s_pods() {
    use Method as M;
    let rig = Rig::new().await;
    for (name, node) in [("p2", Some("n2")), ("p0", None)] {
        rig.pod(name, node).await;
    }
    let selector = "can only list/watch pods with spec.nodeName field selector";
    let unrelated = "no relationship found between node 'n1' and this object";
    let status = r#"node "n1" can only update pod status for pods with spec.nodeName set to itself"#;
    let delete = r#"node "n1" can only delete pods with spec.nodeName set to itself"#;
    let never = r#"in the namespace "default""#;
    let running = || json!({"status": {"phase": "Running"}});
    let gone = || json!({"gracePeriodSeconds": 0});
    let label = json!({"metadata": {"labels": {"a": "b"}}});
    let table = [
        (M::GET, "/api/v1/pods", Value::Null, selector),
        (M::GET, "/api/v1/pods?watch=1", Value::Null, ""),
        (M::GET, "/api/v1/pods?fieldSelector=spec.nodeName%3Dn2", Value::Null, selector),
        (M::GET, "/api/v1/pods?fieldSelector=spec.nodeName%3Dn2&watch=1", Value::Null, ""),
        (M::GET, "/api/v1/pods?fieldSelector=spec.nodeName!%3Dn1", Value::Null, selector),
        (M::GET, "/api/v1/pods?fieldSelector=%3D%3D%3D", Value::Null, selector),
        (M::GET, "/api/v1/namespaces/default/pods", Value::Null, selector),
        (M::GET, "/api/v1/namespaces/default/pods/p2", Value::Null, unrelated),
        (M::GET, "/api/v1/namespaces/default/pods/p2/status", Value::Null, unrelated),
        (M::GET, "/api/v1/namespaces/default/pods/p2?watch=1", Value::Null, ""),
        (M::GET, "/api/v1/namespaces/default/pods/p0", Value::Null, unrelated),
        (M::PATCH, "/api/v1/namespaces/default/pods/p2/status", running(), status),
        (M::PATCH, "/api/v1/namespaces/default/pods/p0/status", running(), status),
        (
            M::PUT,
            "/api/v1/namespaces/default/pods/p2/status",
            crate::testing::pod("p2"),
            status,
        ),
        (M::PATCH, "/api/v1/namespaces/default/pods/p2", label, never),
        (M::DELETE, "/api/v1/namespaces/default/pods/p2", gone(), delete),
        (M::DELETE, "/api/v1/namespaces/default/pods/p0", gone(), delete),
        (M::DELETE, "/api/v1/namespaces/default/pods", gone(), never),
        (M::POST, "/api/v1/namespaces/default/pods", crate::testing::pod("new"), never),
        (
            M::POST,
            "/api/v1/namespaces/default/pods/p0/binding",
            json!({"target": {"name": "n1"}}),
            never,
        ),
        (M::GET, "/api/v1/namespaces/default/pods/p2/log", Value::Null, never),
    ];
    refused(&rig, &table).await;
}

#[tokio::test]
async fn a_kubelet_may_do_nothing_to_another_node_or_its_lease() {
    use Method as M;
    let rig = Rig::new().await;
    for name in ["n1", "n2"] {
        let named = json!({"metadata": {"name": name}});
        assert_eq!(rig.post("/api/v1/nodes", &named).await.code, 201);
        assert_eq!(rig.post(LEASES, &named).await.code, 201);
    }
    let named = |name: &str| json!({"metadata": {"name": name}});
    let label = || json!({"metadata": {"labels": {"a": "b"}}});
    let second = format!("{LEASES}/n2");
    let elsewhere = LEASES.replace("kube-node-lease", "default");
    let read = "can only list/watch its own Node object, with a metadata.name field selector";
    let modify = r#"node "n1" is not allowed to modify node "n2""#;
    let lease = "can only access node lease with the same name as the requesting node";
    let table = [
        (
            M::POST,
            "/api/v1/nodes",
            named("n3"),
            r#"node "n1" is not allowed to modify node "n3""#,
        ),
        (M::GET, "/api/v1/nodes", Value::Null, read),
        (M::GET, "/api/v1/nodes?watch=1", Value::Null, ""),
        (
            M::GET,
            "/api/v1/nodes/n2",
            Value::Null,
            "node 'n1' cannot read 'n2', only its own Node object",
        ),
        (M::PATCH, "/api/v1/nodes/n2", label(), modify),
        (M::PATCH, "/api/v1/nodes/n2/status", label(), modify),
        (M::DELETE, "/api/v1/nodes/n1", Value::Null, "at the cluster scope"),
        (M::POST, LEASES, named("n3"), lease),
        (M::PATCH, &second, label(), lease),
        (M::GET, &second, Value::Null, lease),
        (M::GET, LEASES, Value::Null, lease),
        (
            M::POST,
            &elsewhere,
            named("n1"),
            r#"can only access leases in the "kube-node-lease" system namespace"#,
        ),
        (
            M::POST,
            "/api/v1/namespaces/default/secrets",
            named("s"),
            r#"in the namespace "default""#,
        ),
        (
            M::DELETE,
            "/api/v1/namespaces/default/events",
            Value::Null,
            r#"in the namespace "default""#,
        ),
    ];
    refused(&rig, &table).await;
}
