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

#[tokio::test]
async fn the_refusal_is_in_upstream_s_words() {
    let rig = Rig::new().await;
    let served = rig.server.core().served();
    let authorizer = &served.authorizer;
    let who = Identity::new("x", &[]);
    let message = |path| authorizer.resource(&who, &asked(Method::GET, path)).unwrap_err().message;
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
    assert_eq!(
        message("/api/v1/namespaces/default/pods?fieldSelector=metadata.name%3Da"),
        r#"pods "a" is forbidden: User "x" cannot list resource "pods" in API group "" in the namespace "default""#
    );
    let error = authorizer.path(&who, "/metrics", &Method::GET).unwrap_err();
    assert_eq!(
        (error.code, error.message.as_str()),
        (403, r#"forbidden: User "x" cannot get path "/metrics""#)
    );
}

#[tokio::test]
async fn components_have_their_own_rights_and_no_others() {
    let rig = Rig::new().await;
    let served = rig.server.core().served();
    let authorizer = &served.authorizer;
    let admin = Identity::new("admin", &["system:masters"]);
    let scheduler = Identity::new("system:kube-scheduler", &[]);
    let controllers = Identity::new("system:kube-controller-manager", &[]);
    let namespaces = Identity::service_account("kube-system", "namespace-controller");
    let proxy = Identity::new("system:kube-proxy", &[]);
    let node = Identity::new("system:node:n1", &["system:nodes"]);
    let pretender = Identity::new("system:node:n1", &[]);
    let table = [
        (&admin, Method::DELETE, "/api/v1/namespaces/a/secrets", true),
        (&scheduler, Method::POST, "/api/v1/namespaces/a/pods/p/binding", true),
        (&scheduler, Method::PATCH, "/api/v1/namespaces/a/pods/p/status", true),
        (&scheduler, Method::PATCH, "/api/v1/namespaces/a/pods/p", false),
        (&scheduler, Method::GET, "/api/v1/secrets", false),
        (&controllers, Method::GET, "/api/v1/secrets", true),
        (&controllers, Method::DELETE, "/api/v1/namespaces/a/pods/p", false),
        (&namespaces, Method::DELETE, "/api/v1/namespaces/a/pods", true),
        (&namespaces, Method::PUT, "/api/v1/namespaces/a/finalize", true),
        (&namespaces, Method::POST, "/api/v1/namespaces/a/pods", false),
        (&proxy, Method::GET, "/apis/discovery.k8s.io/v1/endpointslices", true),
        (&proxy, Method::GET, "/api/v1/secrets", false),
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
        (&pretender, Method::GET, "/api/v1/pods", false),
    ];
    for (identity, method, path, allowed) in table {
        assert_eq!(
            authorizer.resource(identity, &asked(method.clone(), path)).is_ok(),
            allowed,
            "{} {method} {path}",
            identity.user
        );
    }
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
        (M::GET, "/api/v1/namespaces/default/pods/p2/status", Value::Null, never),
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
        (
            M::POST,
            "/api/v1/namespaces/default/pods",
            crate::testing::pod("new"),
            r#"pod does not have "kubernetes.io/config.mirror" annotation, node "n1" can only create mirror pods"#,
        ),
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
    let read = "node 'n1' cannot read all nodes, only its own Node object";
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
        (
            M::PATCH,
            "/api/v1/nodes/never-there",
            label(),
            r#"is not allowed to modify node "never-there""#,
        ),
        (
            M::PATCH,
            "/api/v1/nodes/n1",
            json!({"metadata": {"labels": {"node-restriction.kubernetes.io/a": "b", "x.k8s.io/a": "b", "kubernetes.io/os": "linux", "mine": "b"}}}),
            "is not allowed to modify labels: node-restriction.kubernetes.io/a, x.k8s.io/a",
        ),
        (
            M::PATCH,
            "/api/v1/nodes/n1",
            json!({"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]}}),
            r#"node "n1" is not allowed to modify taints"#,
        ),
        (M::PATCH, "/api/v1/nodes/n2/status", label(), modify),
        (M::DELETE, "/api/v1/nodes/n1", Value::Null, "at the cluster scope"),
        (M::POST, LEASES, named("n3"), lease),
        (M::PATCH, &second, label(), lease),
        (M::GET, &second, Value::Null, lease),
        (
            M::GET,
            LEASES,
            Value::Null,
            "can only get, create, update, patch, or delete a node lease",
        ),
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
            "can only read resources of this type",
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

/// What a pod of the node refers to may be read, one by one, and nothing else.
#[tokio::test]
async fn a_kubelet_reads_what_its_pods_refer_to() {
    let rig = Rig::new().await;
    let pod = |name: &str, node: &str, prefix: &str| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default", "uid": name}, "spec": {
            "nodeName": node, "serviceAccountName": format!("{prefix}-account"),
            "imagePullSecrets": [{"name": format!("{prefix}-pull")}],
            "containers": [{"name": "c", "image": "i",
                "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": format!("{prefix}-key"), "key": "k"}}},
                        {"name": "B", "valueFrom": {"configMapKeyRef": {"name": format!("{prefix}-mapkey"), "key": "k"}}}],
                "envFrom": [{"secretRef": {"name": format!("{prefix}-env")}}, {"configMapRef": {"name": format!("{prefix}-mapenv")}}]}],
            "volumes": [{"name": "s", "secret": {"secretName": format!("{prefix}-volume")}},
                        {"name": "m", "configMap": {"name": format!("{prefix}-map")}},
                        {"name": "p", "projected": {"sources": [{"secret": {"name": format!("{prefix}-projected")}}, {"configMap": {"name": format!("{prefix}-mapped")}}]}},
                        {"name": "c", "persistentVolumeClaim": {"claimName": format!("{prefix}-claim")}}],
        }})
    };
    for (name, node, prefix) in [("a", "n1", "own"), ("b", "n2", "other")] {
        let op = store::Op::Put(format!("/registry/pods/default/{name}"), pod(name, node, prefix).to_string().into());
        rig.store
            .commit(store::Txn {
                compare: vec![],
                ops: vec![op],
            })
            .await
            .unwrap();
    }
    let core = rig.server.core();
    let pods = core.row("", "v1", "pods").unwrap();
    assert!(pods.hub().reach(rig.store.revision().0, std::time::Duration::from_secs(20)).await);
    let allowed = |method: Method, path: &str| core.served().authorizer.resource(&kubelet(), &asked(method, path)).is_ok();
    let get = |path: &str| allowed(Method::GET, &format!("/api/v1/namespaces/default/{path}"));
    for secret in ["pull", "key", "env", "volume", "projected"] {
        assert!(get(&format!("secrets/own-{secret}")), "{secret}");
        assert!(
            get(&format!("secrets?watch=1&fieldSelector=metadata.name%3Down-{secret}")),
            "{secret}"
        );
        assert!(!get(&format!("secrets/other-{secret}")), "{secret}");
        assert!(!get(&format!("secrets?fieldSelector=metadata.name%3Dother-{secret}")), "{secret}");
        assert!(!get(&format!("configmaps/own-{secret}")), "{secret}");
        assert!(!allowed(
            Method::GET,
            &format!("/api/v1/namespaces/kube-system/secrets/own-{secret}")
        ));
    }
    for map in ["mapkey", "mapenv", "map", "mapped"] {
        assert!(get(&format!("configmaps/own-{map}")), "{map}");
        assert!(!get(&format!("configmaps/other-{map}")), "{map}");
    }
    assert!(get("persistentvolumeclaims/own-claim") && !get("persistentvolumeclaims/other-claim"));
    assert!(!get("secrets") && !get("configmaps?watch=1") && !allowed(Method::GET, "/api/v1/secrets"));
    assert!(!get("secrets?fieldSelector=metadata.name%3Down-key,metadata.name%3Dother-key"));
    assert!(!allowed(Method::DELETE, "/api/v1/namespaces/default/secrets/own-key"));
    let token = |name: &str| allowed(Method::POST, &format!("/api/v1/namespaces/default/serviceaccounts/{name}/token"));
    assert!(token("own-account") && !token("other-account") && !get("serviceaccounts/own-account"));
    // What the pod leaves, it no longer vouches for.
    rig.delete("/api/v1/namespaces/default/pods/a", Some(json!({"gracePeriodSeconds": 0})))
        .await;
    assert!(pods.hub().reach(rig.store.revision().0, std::time::Duration::from_secs(20)).await);
    assert!(!get("secrets/own-key") && !token("own-account"));
}

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

fn rule(groups: &[&str], resources: &[&str], verbs: &[&str]) -> Value {
    json!({"apiGroups": groups, "resources": resources, "verbs": verbs})
}

async fn make(rig: &Rig, path: &str, body: Value) {
    let answer = rig.post(&format!("{RBAC}/{path}"), &body).await;
    assert_eq!(answer.code, 201, "{:?}", answer.text);
}

async fn code(rig: &Rig, identity: &Identity, method: Method, path: &str) -> u16 {
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .body(crate::body::empty())
        .unwrap();
    rig.request(Some(identity.clone()), request).await.code
}

#[tokio::test]
async fn roles_give_what_they_say_where_they_say_it() {
    let rig = Rig::new().await;
    let user = Identity::new("u", &["g"]);
    let account = Identity::service_account("default", "sa");
    for name in ["a", "b"] {
        rig.config_map(name, &json!({})).await;
    }
    let maps = "/api/v1/namespaces/default/configmaps";
    assert_eq!(code(&rig, &user, Method::GET, maps).await, 403);
    make(
        &rig,
        "namespaces/default/roles",
        json!({"metadata": {"name": "maps"}, "rules": [rule(&[""], &["configmaps"], &["list"])]}),
    )
    .await;
    let binding = |name: &str, kind: &str, role: &str, subject: Value| json!({"metadata": {"name": name}, "roleRef": {"kind": kind, "name": role}, "subjects": [subject]});
    let group = json!({"kind": "Group", "name": "g"});
    make(
        &rig,
        "namespaces/default/rolebindings",
        binding("maps", "Role", "maps", group.clone()),
    )
    .await;
    assert_eq!(code(&rig, &user, Method::GET, maps).await, 200);
    assert_eq!(code(&rig, &user, Method::GET, &format!("{maps}/a")).await, 403);
    assert_eq!(
        code(&rig, &user, Method::GET, "/api/v1/namespaces/kube-system/configmaps").await,
        403
    );
    assert_eq!(code(&rig, &user, Method::GET, "/api/v1/configmaps").await, 403);
    assert_eq!(code(&rig, &account, Method::GET, maps).await, 403);

    // Names, a cluster role within one namespace, an account of it.
    let mut one = rule(&[""], &["configmaps"], &["get", "watch"]);
    one["resourceNames"] = json!(["a"]);
    make(&rig, "clusterroles", json!({"metadata": {"name": "one"}, "rules": [one]})).await;
    make(
        &rig,
        "namespaces/default/rolebindings",
        binding("one", "ClusterRole", "one", json!({"kind": "ServiceAccount", "name": "sa"})),
    )
    .await;
    assert_eq!(code(&rig, &account, Method::GET, &format!("{maps}/a")).await, 200);
    assert_eq!(code(&rig, &account, Method::GET, &format!("{maps}/b")).await, 403);
    assert_eq!(
        code(
            &rig,
            &Identity::service_account("kube-system", "sa"),
            Method::GET,
            &format!("{maps}/a")
        )
        .await,
        403
    );
    assert_eq!(code(&rig, &user, Method::GET, &format!("{maps}/a")).await, 403);

    // Paths, cluster-wide.
    make(
        &rig,
        "clusterroles",
        json!({"metadata": {"name": "metrics"}, "rules": [{"nonResourceURLs": ["/metr*"], "verbs": ["get"]}]}),
    )
    .await;
    assert_eq!(code(&rig, &user, Method::GET, "/metrics").await, 403);
    make(
        &rig,
        "clusterrolebindings",
        binding("metrics", "ClusterRole", "metrics", json!({"kind": "User", "name": "u"})),
    )
    .await;
    assert_eq!(code(&rig, &user, Method::GET, "/metrics").await, 200);

    // Taken away again, and a binding to nothing says so.
    rig.delete(&format!("{RBAC}/namespaces/default/roles/maps"), None).await;
    let request = http::Request::get(maps).body(crate::body::empty()).unwrap();
    let refused = rig.request(Some(user.clone()), request).await.message();
    assert!(
        refused.ends_with(r#"in the namespace "default": RBAC: role.rbac.authorization.k8s.io "maps" not found"#),
        "{refused}"
    );
    rig.delete(&format!("{RBAC}/clusterrolebindings/metrics"), None).await;
    assert_eq!(code(&rig, &user, Method::GET, "/metrics").await, 403);
}

#[tokio::test]
async fn nobody_gives_away_what_they_do_not_have() {
    let rig = Rig::new().await;
    let user = Identity::new("bob", &[]);
    let all = ["roles", "rolebindings", "clusterroles", "clusterrolebindings"];
    let rules = json!([
        rule(&["rbac.authorization.k8s.io"], &all, &["create", "update", "get"]),
        rule(&[""], &["pods"], &["get", "list"])
    ]);
    make(&rig, "clusterroles", json!({"metadata": {"name": "bob"}, "rules": rules})).await;
    make(&rig, "clusterrolebindings", json!({"metadata": {"name": "bob"}, "roleRef": {"kind": "ClusterRole", "name": "bob"}, "subjects": [{"kind": "User", "name": "bob"}]})).await;
    let post = |path: &'static str, body: Value| {
        let (rig, user) = (&rig, user.clone());
        async move {
            let request = http::Request::post(format!("{RBAC}/{path}"))
                .header("content-type", "application/json")
                .body(crate::body::full(body.to_string()))
                .unwrap();
            rig.request(Some(user), request).await.brief()
        }
    };
    let role = |rules: Value| json!({"metadata": {"name": "r"}, "rules": rules});
    assert_eq!(
        post(
            "namespaces/default/roles",
            role(json!([rule(&[""], &["pods", "secrets"], &["get", "delete"])]))
        )
        .await,
        "403 roles.rbac.authorization.k8s.io \"r\" is forbidden: user \"bob\" (groups=[\"system:authenticated\"]) is attempting to grant RBAC permissions not currently held:\n\
         {APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"delete\"]}\n\
         {APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\" \"delete\"]}"
    );
    assert_eq!(
        post("namespaces/default/roles", role(json!([rule(&[""], &["pods"], &["get"])]))).await,
        "201 r"
    );
    assert_eq!(
        post(
            "clusterroles",
            json!({"metadata": {"name": "r"}, "aggregationRule": {"clusterRoleSelectors": [{}]}, "rules": []})
        )
        .await,
        "403 clusterroles.rbac.authorization.k8s.io \"r\" is forbidden: must have cluster-admin privileges to use the aggregationRule"
    );
    let bind = |role: &str| json!({"metadata": {"name": "b"}, "roleRef": {"kind": "ClusterRole", "name": role}, "subjects": [{"kind": "User", "name": "bob"}]});
    let refused = post("clusterrolebindings", bind("cluster-admin")).await;
    assert!(
        refused.ends_with(
            "not currently held:\n{APIGroups:[\"*\"], Resources:[\"*\"], Verbs:[\"*\"]}\n{NonResourceURLs:[\"*\"], Verbs:[\"*\"]}"
        ),
        "{refused}"
    );
    assert_eq!(
        post("clusterrolebindings", bind("none")).await,
        "404 clusterroles.rbac.authorization.k8s.io \"none\" not found"
    );
    // With the verb `bind` on that one role, in one namespace, there it works.
    let mut may = rule(&["rbac.authorization.k8s.io"], &["clusterroles"], &["bind"]);
    may["resourceNames"] = json!(["edit"]);
    make(
        &rig,
        "namespaces/default/roles",
        json!({"metadata": {"name": "binder"}, "rules": [may]}),
    )
    .await;
    make(&rig, "namespaces/default/rolebindings", json!({"metadata": {"name": "binder"}, "roleRef": {"kind": "Role", "name": "binder"}, "subjects": [{"kind": "User", "name": "bob"}]})).await;
    assert_eq!(post("namespaces/default/rolebindings", bind("edit")).await, "201 b");
    assert!(post("namespaces/kube-system/rolebindings", bind("edit")).await.starts_with("403 "));
    // With `escalate`, any role.
    make(
        &rig,
        "namespaces/default/roles",
        json!({"metadata": {"name": "escalator"}, "rules": [rule(&["rbac.authorization.k8s.io"], &["roles"], &["escalate"])]}),
    )
    .await;
    make(&rig, "namespaces/default/rolebindings", json!({"metadata": {"name": "escalator"}, "roleRef": {"kind": "Role", "name": "escalator"}, "subjects": [{"kind": "User", "name": "bob"}]})).await;
    let mut wild = role(json!([rule(&["*"], &["*"], &["*"])]));
    wild["metadata"]["name"] = json!("wild");
    assert_eq!(post("namespaces/default/roles", wild).await, "201 wild");
}

#[tokio::test]
async fn a_restart_gives_back_what_was_taken_from_the_cluster_s_roles() {
    let rig = Rig::new().await;
    rig.delete(&format!("{RBAC}/clusterroles/view"), None).await;
    let discovery = format!("{RBAC}/clusterroles/system:discovery");
    let emptied = rig.patch(&discovery, "merge-patch", &json!({"rules": []})).await;
    assert_eq!(emptied.code, 200, "{:?}", emptied.text);
    assert_eq!(code(&rig, &Identity::new("x", &[]), Method::GET, "/api").await, 403);
    let before = rig.store.revision();
    let again = rig.sibling(crate::registry::Ranges::default()).await;
    assert!(rig.store.revision() > before);
    let request = http::Request::get("/api").body(crate::body::empty()).unwrap();
    assert_eq!(again.handle(Some(Identity::new("x", &[])), request).await.status(), 200);
    let settled = rig.store.revision();
    rig.sibling(crate::registry::Ranges::default()).await;
    assert_eq!(rig.store.revision(), settled, "nothing to mend, nothing written");
}
