use serde_json::{Value, json};

use super::*;

/// A Service `web` in `default` that selects `app: web`, with that spec.
pub(crate) fn service(spec: Value) -> Service {
    let mut whole =
        json!({ "clusterIP": "10.96.0.9", "selector": { "app": "web" }, "ports": [{ "port": 80, "protocol": "TCP", "targetPort": 8080 }] });
    for (field, value) in spec.as_object().unwrap() {
        whole[field] = value.clone();
    }
    let wire =
        json!({ "metadata": { "name": "web", "namespace": "default", "uid": "service-uid", "labels": { "team": "a" } }, "spec": whole });
    Service::of(&serde_json::from_value(wire).unwrap())
}

/// A pod with that name, address and status conditions.
pub(crate) fn pod(name: &str, address: Option<&str>, more: Differs) -> Backend {
    let mut metadata = json!({ "name": name, "namespace": "default", "uid": format!("uid-{name}"), "labels": { "app": "web" } });
    if more.deleted {
        metadata["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    }
    let ready = if more.ready { "True" } else { "False" };
    let mut status = json!({ "phase": more.phase, "conditions": [{ "type": "Ready", "status": ready }] });
    if let Some(address) = address {
        status["podIP"] = json!(address);
        status["podIPs"] = json!([{ "ip": address }]);
    }
    let mut spec = json!({ "nodeName": "n1", "containers": [{ "name": "c" }] });
    for (field, value) in more.spec.as_object().into_iter().flatten() {
        spec[field] = value.clone();
    }
    Backend::of(&serde_json::from_value(json!({ "metadata": metadata, "spec": spec, "status": status })).unwrap())
}

/// How a pod differs from one that runs and is ready.
#[derive(Clone)]
pub(crate) struct Differs {
    pub(crate) ready: bool,
    pub(crate) deleted: bool,
    pub(crate) phase: &'static str,
    pub(crate) spec: Value,
}

/// Runs, ready.
pub(crate) const READY: Differs = Differs {
    ready: true,
    deleted: false,
    phase: "Running",
    spec: Value::Null,
};

#[test]
fn only_ipv4_addresses_are_taken() {
    assert_eq!(pod("a", None, READY).address, None);
    assert_eq!(pod("a", Some("fd00::1"), READY).address, None);
    assert_eq!(pod("a", Some("10.0.0.1"), READY).address, Some(Ipv4Addr::new(10, 0, 0, 1)));
}

/// Fields: spec.containers[].ports[].name spec.containers[].ports[].protocol spec.containers[].ports[].containerPort
#[test]
fn a_named_port_is_found_by_name_and_protocol_in_containers_then_sidecars() {
    let spec = json!({
        "initContainers": [
            { "name": "once", "ports": [{ "name": "init", "containerPort": 1 }] },
            { "name": "side", "restartPolicy": "Always", "ports": [{ "name": "http", "containerPort": 2 }, { "name": "metrics", "containerPort": 3 }] },
        ],
        "containers": [{ "name": "c", "ports": [
            { "name": "http", "containerPort": 4, "protocol": "UDP" },
            { "name": "http", "containerPort": 5, "protocol": "TCP" },
        ] }],
    });
    let backend = pod("a", Some("10.0.0.1"), Differs { spec, ..READY });
    for (target, protocol, wanted) in [
        (json!("http"), "TCP", Some(5)),
        (json!("http"), "UDP", Some(4)),
        (json!("http"), "SCTP", None),
        (json!("metrics"), "TCP", Some(3)),
        (json!("init"), "TCP", None),
        (json!(7), "TCP", Some(7)),
    ] {
        let service = service(json!({ "ports": [{ "name": "p", "port": 80, "protocol": protocol, "targetPort": target }] }));
        let found: Vec<i32> = service.ports_of(&backend).iter().map(|port| port.number).collect();
        assert_eq!(found, Vec::from_iter(wanted), "{target} {protocol}");
    }
}

#[test]
fn selectors_select_and_their_absence_does_not() {
    let labels = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<Labels>();
    let web = service(json!({}));
    assert!(web.selects(&labels(&[("app", "web"), ("x", "y")])));
    assert!(!web.selects(&labels(&[("app", "db")])));
    assert!(!web.selects(&labels(&[])));
    for spec in [
        json!({ "selector": null }),
        json!({ "selector": {} }),
        json!({ "type": "ExternalName" }),
    ] {
        assert_eq!(service(spec.clone()).selector, None, "{spec}");
    }
}
