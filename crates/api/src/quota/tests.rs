use serde_json::json;

use super::*;

fn object(value: Value) -> Object {
    serde_json::from_value(value).unwrap()
}

fn used(group: &str, plural: &str, value: Value) -> String {
    shown(&usage(group, plural, &object(value), Time::from_secs(1_000)))
}

#[test]
fn what_objects_use() {
    let resources = json!({ "requests": { "cpu": "500m", "memory": "1Gi", "example.com/gpu": "1" }, "limits": { "cpu": "1" } });
    let spec = json!({ "containers": [{ "name": "c", "resources": resources }] });
    let all = "count/pods=1,cpu=500m,limits.cpu=1,memory=1Gi,pods=1,requests.cpu=500m,requests.example.com/gpu=1,requests.memory=1Gi";
    assert_eq!(used("", "pods", json!({ "spec": spec })), all);
    for ended in ["Failed", "Succeeded"] {
        assert_eq!(
            used("", "pods", json!({ "spec": spec, "status": { "phase": ended } })),
            "count/pods=1"
        );
    }
    let deleted = |at: i64, grace_s: i64| {
        let meta = json!({ "deletionTimestamp": Time::from_secs(at).to_string(), "deletionGracePeriodSeconds": grace_s });
        used("", "pods", json!({ "metadata": meta, "spec": spec }))
    };
    assert_eq!(deleted(960, 30), "count/pods=1", "its node is overdue");
    assert_eq!(deleted(990, 30), all);
    let ports = json!([{ "port": 1 }, { "port": 2, "nodePort": 30_000 }]);
    let service = |kind: &str, more: bool| {
        let spec = json!({ "type": kind, "ports": ports, "allocateLoadBalancerNodePorts": more });
        used("", "services", json!({ "spec": spec }))
    };
    assert_eq!(
        service("ClusterIP", true),
        "count/services=1,services=1,services.loadbalancers=0,services.nodeports=0"
    );
    assert_eq!(
        service("NodePort", true),
        "count/services=1,services=1,services.loadbalancers=0,services.nodeports=2"
    );
    assert_eq!(
        service("LoadBalancer", false),
        "count/services=1,services=1,services.loadbalancers=1,services.nodeports=1"
    );
    let claim = json!({ "spec": { "storageClassName": "fast", "resources": { "requests": { "storage": "2Gi" } } } });
    assert_eq!(
        used("", "persistentvolumeclaims", claim),
        "count/persistentvolumeclaims=1,fast.storageclass.storage.k8s.io/persistentvolumeclaims=1,fast.storageclass.storage.k8s.io/requests.storage=2Gi,persistentvolumeclaims=1,requests.storage=2Gi"
    );
    assert_eq!(used("", "secrets", json!({})), "count/secrets=1,secrets=1");
    assert_eq!(
        used("coordination.k8s.io", "leases", json!({})),
        "count/leases.coordination.k8s.io=1"
    );
}

#[test]
fn which_pods_a_scope_holds_for() {
    let quota = |scopes: Value| object(json!({ "spec": { "scopes": scopes } }));
    let limited = json!({ "containers": [{ "name": "c", "resources": { "requests": { "cpu": "1" } } }] });
    let pod = |spec: Value| object(json!({ "spec": spec }));
    let free = pod(json!({ "containers": [{ "name": "c" }] }));
    let rows = [
        (json!(["BestEffort"]), &free, true),
        (json!(["NotBestEffort"]), &free, false),
        (json!(["NotBestEffort", "NotTerminating"]), &pod(limited.clone()), true),
        (
            json!(["Terminating"]),
            &pod(json!({ "containers": [], "activeDeadlineSeconds": 5 })),
            true,
        ),
        (
            json!(["PriorityClass"]),
            &pod(json!({ "containers": [], "priorityClassName": "p" })),
            true,
        ),
        (json!(["PriorityClass"]), &free, false),
        (
            json!(["CrossNamespacePodAffinity"]),
            &pod(
                json!({ "containers": [], "affinity": { "podAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": [{ "topologyKey": "k", "namespaces": ["n"] }] } } }),
            ),
            true,
        ),
    ];
    for (scopes, pod, wanted) in rows {
        assert_eq!(in_scope(&quota(scopes.clone()), "", "pods", pod), wanted, "{scopes}");
    }
    let selected = |operator: &str, values: Value| {
        let expression = json!({ "scopeName": "PriorityClass", "operator": operator, "values": values });
        let quota = object(json!({ "spec": { "scopeSelector": { "matchExpressions": [expression] } } }));
        in_scope(&quota, "", "pods", &pod(json!({ "containers": [], "priorityClassName": "high" })))
    };
    assert!(selected("In", json!(["high"])) && !selected("In", json!(["low"])));
    assert!(!selected("NotIn", json!(["high"])) && selected("NotIn", json!(["low"])));
    assert!(!in_scope(&quota(json!(["Terminating"])), "", "services", &free));
    assert!(in_scope(&object(json!({ "spec": {} })), "", "services", &free));
}

#[test]
fn what_containers_must_state() {
    let pod = object(json!({ "spec": { "containers": [
        { "name": "b", "resources": { "requests": { "cpu": "1" } } }, { "name": "a" },
    ] } }));
    let said = unstated(&pod, ["limits.cpu", "requests.cpu", "pods", "ephemeral-storage"].into_iter());
    assert_eq!(said.as_deref(), Some("must specify limits.cpu for: a,b; requests.cpu for: a"));
    assert_eq!(unstated(&pod, ["pods"].into_iter()), None);
}
