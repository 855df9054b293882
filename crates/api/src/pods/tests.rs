use serde_json::{Value, json};

use super::*;

fn pod(spec: Value) -> Pod {
    serde_json::from_value(json!({ "metadata": { "name": "web", "namespace": "default", "uid": "3f2c" }, "spec": spec })).unwrap()
}

fn container(requests: Value, limits: Value) -> Value {
    json!({ "name": "c", "resources": { "requests": requests, "limits": limits } })
}

fn sidecar(requests: Value) -> Value {
    json!({ "name": "s", "restartPolicy": "Always", "resources": { "requests": requests } })
}

fn shown(resources: &Resources) -> String {
    resources
        .iter()
        .map(|(name, quantity)| format!("{name}={quantity}"))
        .collect::<Vec<_>>()
        .join(" ")
}

#[test]
fn messages_name_a_pod() {
    assert_eq!(label(&pod(json!({ "containers": [] }))), "web_default(3f2c)");
}

#[test]
fn requests_are_the_most_at_any_time() {
    let none = json!({});
    for (spec, want) in [
        (
            json!({ "containers": [container(json!({"cpu": "100m"}), none.clone()), container(json!({"cpu": "0.2", "memory": "1Gi"}), none.clone())] }),
            "cpu=300m memory=1Gi",
        ),
        // An init container that needs more than all that follow.
        (
            json!({ "initContainers": [container(json!({"cpu": 1}), none.clone())], "containers": [container(json!({"cpu": "100m"}), none.clone())] }),
            "cpu=1",
        ),
        // Init containers run one after the other.
        (
            json!({ "initContainers": [container(json!({"cpu": "200m"}), none.clone()), container(json!({"cpu": "200m"}), none.clone())],
                    "containers": [container(json!({"cpu": "100m"}), none.clone())] }),
            "cpu=200m",
        ),
        // A sidecar runs beside the init containers after it and the regular ones.
        (
            json!({ "initContainers": [container(json!({"cpu": "500m"}), none.clone()), sidecar(json!({"cpu": "200m"})), container(json!({"cpu": "400m"}), none.clone())],
                    "containers": [container(json!({"cpu": "100m"}), none.clone())] }),
            "cpu=600m",
        ),
        (
            json!({ "initContainers": [sidecar(json!({"cpu": "200m"}))], "containers": [container(json!({"cpu": "100m"}), none.clone())],
                    "overhead": { "cpu": "50m", "memory": "64Mi" } }),
            "cpu=350m memory=64Mi",
        ),
        (json!({ "containers": [container(none.clone(), none.clone())] }), ""),
    ] {
        assert_eq!(shown(&requests(&pod(spec.clone()))), want, "{spec}");
    }
}

#[test]
fn qos_follows_limits_and_requests() {
    let full = json!({ "cpu": "1", "memory": "1Gi" });
    let none = json!({});
    for (spec, want) in [
        (
            json!({ "containers": [container(none.clone(), none.clone())] }),
            QosClass::BestEffort,
        ),
        (
            json!({ "containers": [container(json!({"cpu": "0"}), json!({"example.com/gpu": "1"}))] }),
            QosClass::BestEffort,
        ),
        (
            json!({ "containers": [container(full.clone(), full.clone())] }),
            QosClass::Guaranteed,
        ),
        (
            json!({ "containers": [container(json!({"cpu": "1000m", "memory": "1024Mi"}), full.clone())] }),
            QosClass::Guaranteed,
        ),
        (
            json!({ "containers": [container(json!({"cpu": "1"}), json!({"cpu": "1"}))] }),
            QosClass::Burstable,
        ),
        (
            json!({ "containers": [container(json!({"cpu": "500m", "memory": "1Gi"}), full.clone())] }),
            QosClass::Burstable,
        ),
        (
            json!({ "containers": [container(full.clone(), full.clone()), container(none.clone(), none.clone())] }),
            QosClass::Burstable,
        ),
        (
            json!({ "containers": [container(full.clone(), full.clone())], "initContainers": [container(none.clone(), none.clone())] }),
            QosClass::Burstable,
        ),
        (
            json!({ "containers": [container(none.clone(), none.clone())], "initContainers": [container(full.clone(), full.clone())] }),
            QosClass::Burstable,
        ),
    ] {
        assert_eq!(qos_class(&pod(spec.clone())), want, "{spec}");
    }
}

#[test]
fn host_ports_of_sidecars_count_and_plain_init_containers_do_not() {
    let ports = |host: i32| json!([{ "containerPort": 80, "hostPort": host }, { "containerPort": 81 }]);
    let found = host_ports(&pod(json!({
        "initContainers": [{ "name": "i", "ports": ports(1) }, { "name": "s", "restartPolicy": "Always", "ports": ports(2) }],
        "containers": [{ "name": "c", "ports": [{ "containerPort": 53, "hostPort": 53, "protocol": "UDP", "hostIP": "10.0.0.1" }] }],
    })));
    let port = |protocol: &str, ip: &str, port| HostPort {
        protocol: protocol.to_owned(),
        ip: ip.to_owned(),
        port,
    };
    assert_eq!(found, [port("TCP", "", 2), port("UDP", "10.0.0.1", 53)]);
    assert!(port("TCP", "", 80).conflicts(&port("TCP", "10.0.0.1", 80)));
    assert!(port("TCP", "10.0.0.1", 80).conflicts(&port("TCP", "0.0.0.0", 80)));
    assert!(!port("TCP", "10.0.0.1", 80).conflicts(&port("TCP", "10.0.0.2", 80)));
    assert!(!port("TCP", "", 80).conflicts(&port("UDP", "", 80)));
    assert!(!port("TCP", "", 80).conflicts(&port("TCP", "", 81)));
}

#[test]
fn status_is_read_leniently() {
    let mut pod = pod(json!({ "containers": [] }));
    assert!(!is_terminal(&pod) && !is_ready(&pod) && !is_terminating(&pod));
    pod.status = serde_json::from_value(json!({ "phase": "Failed", "conditions": [{ "type": "Ready", "status": "False" }] })).unwrap();
    assert!(is_terminal(&pod) && !is_ready(&pod));
    assert_eq!(condition(&pod, "Ready").unwrap().status, "False");
    pod.status = serde_json::from_value(json!({ "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }] })).unwrap();
    assert!(!is_terminal(&pod) && is_ready(&pod));
}

/// Source: upstream `component-helpers/resource/helpers_test.go`, the cases with
/// statuses.
#[test]
fn a_resize_counts_as_the_most_of_wanted_granted_and_had() {
    let with = |wanted: &str, granted: &str, has: &str, reason: &str| {
        let mut pod = pod(json!({ "containers": [container(json!({ "cpu": wanted }), json!({}))], "overhead": { "cpu": "10m" } }));
        let status = json!({
            "conditions": [{ "type": "PodResizePending", "status": "True", "reason": reason }],
            "containerStatuses": [{
                "name": "c", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                "allocatedResources": { "cpu": granted }, "resources": { "requests": { "cpu": has } },
            }],
        });
        pod.status = Some(serde_json::from_value(status).unwrap());
        shown(&requests_in_force(&pod))
    };
    assert_eq!(with("300m", "200m", "100m", "Deferred"), "cpu=310m", "it may get it at any time");
    assert_eq!(with("300m", "200m", "100m", "Infeasible"), "cpu=210m", "it never gets it");
    assert_eq!(with("100m", "200m", "300m", "Infeasible"), "cpu=310m", "it still has it");
    let new = pod(json!({ "containers": [container(json!({ "cpu": "1" }), json!({}))] }));
    assert_eq!(shown(&requests_in_force(&new)), "cpu=1");
}

#[test]
fn overhead_raises_limits_and_makes_none() {
    let limited = pod(json!({
        "containers": [container(json!({}), json!({ "memory": "64Mi" }))],
        "overhead": { "cpu": "100m", "memory": "16Mi" },
    }));
    assert_eq!(shown(&limits(&limited)), "memory=80Mi");
    assert_eq!(shown(&requests(&limited)), "cpu=100m memory=16Mi");
}
