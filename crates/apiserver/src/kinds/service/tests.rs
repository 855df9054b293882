use super::*;

fn service(spec: Value) -> Object {
    let mut service: Object = serde_json::from_value(
        json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "s", "namespace": "d" }, "spec": spec }),
    )
    .unwrap();
    Service.default(&mut service);
    service
}

fn ranges() -> Ranges {
    Ranges {
        service: Ipv4Addr::new(10, 96, 0, 0),
        service_prefix: 29,
    }
}

fn messages(service: &Object, old: Option<&Object>) -> Vec<String> {
    let rules = if old.is_some() { Rules::Update } else { Rules::Create };
    Service
        .validate(service, old, rules)
        .iter()
        .map(|v| format!("{}: {}", v.field, v.message))
        .collect()
}

#[test]
fn a_plain_service_is_filled() {
    let object = service(json!({ "ports": [{ "port": 80 }], "selector": { "a": "b" } }));
    assert_eq!(
        object.body["spec"],
        json!({
            "ports": [{ "port": 80, "protocol": "TCP", "targetPort": 80 }], "selector": { "a": "b" }, "type": "ClusterIP", "sessionAffinity": "None",
            "internalTrafficPolicy": "Cluster", "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
        })
    );
    assert_eq!(messages(&object, None), Vec::<String>::new());
}

#[test]
fn rules_of_a_service() {
    let rows = [
        (json!({}), "spec.ports: Required value"),
        (
            json!({ "ports": [{ "port": 0, "targetPort": 80 }] }),
            "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
        ),
        (
            json!({ "ports": [{ "port": 1, "protocol": "X" }] }),
            r#"spec.ports[0].protocol: Unsupported value: "X": supported values: "SCTP", "TCP", "UDP""#,
        ),
        (
            json!({ "ports": [{ "port": 1 }, { "port": 2, "name": "b" }] }),
            "spec.ports[0].name: Required value",
        ),
        (
            json!({ "ports": [{ "port": 1, "name": "a" }, { "port": 2, "name": "a" }] }),
            r#"spec.ports[1].name: Duplicate value: "a""#,
        ),
        (
            json!({ "ports": [{ "port": 1, "nodePort": 30000 }] }),
            "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
        ),
        (json!({ "type": "ExternalName" }), "spec.externalName: Required value"),
        (
            json!({ "type": "ExternalName", "externalName": "a.b", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"] }),
            "spec.clusterIPs: Forbidden: may not be set for ExternalName services",
        ),
        (
            json!({ "type": "X", "ports": [{ "port": 1 }] }),
            r#"spec.type: Unsupported value: "X": supported values: "ClusterIP", "ExternalName", "LoadBalancer", "NodePort""#,
        ),
        (
            json!({ "type": "NodePort", "clusterIP": "None", "ports": [{ "port": 1 }] }),
            r#"spec.clusterIPs[0]: Invalid value: "None": may not be set to 'None' for NodePort services"#,
        ),
        (
            json!({ "sessionAffinity": "X", "ports": [{ "port": 1 }] }),
            r#"spec.sessionAffinity: Unsupported value: "X": supported values: "ClientIP", "None""#,
        ),
        (
            json!({ "externalIPs": ["127.0.0.1"], "ports": [{ "port": 1 }] }),
            r#"spec.externalIPs[0]: Invalid value: "127.0.0.1": may not be in the loopback range (127.0.0.0/8, ::1/128)"#,
        ),
        (
            json!({ "clusterIP": "x", "ports": [{ "port": 1 }] }),
            r#"spec.clusterIPs[0]: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"#,
        ),
    ];
    for (spec, message) in rows {
        assert_eq!(messages(&service(spec.clone()), None), [message], "{spec}");
    }
}

#[test]
fn node_ports_are_refused_by_name() {
    let found = messages(&service(json!({ "type": "NodePort", "ports": [{ "port": 1 }] })), None);
    assert!(
        found.len() == 1 && found[0].starts_with("spec.type: Forbidden: Lifepod "),
        "{found:?}"
    );
}

#[test]
fn addresses_are_given_in_order_until_the_range_is_full() {
    let mut existing = Vec::new();
    for wanted in ["10.96.0.2", "10.96.0.3", "10.96.0.4", "10.96.0.5", "10.96.0.6"] {
        let mut new = service(json!({ "ports": [{ "port": 80 }] }));
        assert!(Service.allocates(&new, None));
        Service.allocate(&mut new, &existing, &ranges()).unwrap();
        assert_eq!(new.str_at("spec.clusterIP"), wanted);
        assert_eq!(new.at("spec.clusterIPs"), Some(&json!([wanted])));
        existing.push(Arc::new(new));
    }
    let mut late = service(json!({ "ports": [{ "port": 80 }] }));
    assert_eq!(
        Service.allocate(&mut late, &existing, &ranges()),
        Err(Unallocated::Exhausted("failed to allocate a serviceIP: range is full".to_owned()))
    );
}

#[test]
fn an_address_asked_for_must_be_free_and_in_range() {
    let taken = vec![Arc::new(service(json!({ "clusterIP": "10.96.0.4" })))];
    let rows = [
        ("10.96.0.5", None),
        (
            "10.96.0.4",
            Some(r#"Invalid value: ["10.96.0.4"]: failed to allocate IP 10.96.0.4: provided IP is already allocated"#),
        ),
        (
            "10.97.0.1",
            Some(
                r#"Invalid value: ["10.97.0.1"]: failed to allocate IP 10.97.0.1: the provided IP (10.97.0.1) is not in the valid range. The range of valid IPs is 10.96.0.0/29"#,
            ),
        ),
    ];
    for (address, message) in rows {
        let mut new = service(json!({ "clusterIP": address, "ports": [{ "port": 80 }] }));
        let result = Service.allocate(&mut new, &taken, &ranges());
        let refused = result.err().map(|why| match why {
            Unallocated::Refused(violation) => violation.message,
            Unallocated::Exhausted(what) => panic!("{what}"),
        });
        assert_eq!(refused.as_deref(), message);
    }
}

#[test]
fn headless_and_named_services_get_no_address() {
    assert!(!Service.allocates(&service(json!({ "clusterIP": "None" })), None));
    assert!(!Service.allocates(&service(json!({ "type": "ExternalName", "externalName": "a.b" })), None));
    let headless = service(json!({ "clusterIP": "None" }));
    assert_eq!(headless.at("spec.ipFamilyPolicy"), Some(&json!("RequireDualStack")));
}

#[test]
fn an_update_keeps_the_address_and_may_not_change_it() {
    let old = service(json!({ "clusterIP": "10.96.0.4", "ports": [{ "port": 80 }] }));
    let mut silent = service(json!({ "ports": [{ "port": 81 }] }));
    Service.prepare(
        Change::Update {
            new: &mut silent,
            old: &old,
        },
        Time(0),
    );
    assert_eq!(silent.str_at("spec.clusterIP"), "10.96.0.4");
    assert!(!Service.allocates(&silent, Some(&old)));
    let moved = service(json!({ "clusterIP": "10.96.0.5", "ports": [{ "port": 80 }] }));
    assert_eq!(
        messages(&moved, Some(&old)),
        [r#"spec.clusterIPs[0]: Invalid value: "10.96.0.5": may not change once set"#]
    );
}

#[test]
fn service_cells() {
    let row = row();
    let cells = |object: &Object| table::single(&row, object, table::IncludeObject::None, false, Time(0))["rows"][0]["cells"].clone();
    let plain = service(
        json!({ "clusterIP": "10.96.0.4", "selector": { "a": "b", "c": "d" }, "ports": [{ "port": 80, "nodePort": 30080 }, { "port": 53, "protocol": "UDP" }] }),
    );
    assert_eq!(
        cells(&plain),
        json!([
            "s",
            "ClusterIP",
            "10.96.0.4",
            "<none>",
            "80:30080/TCP,53/UDP",
            "<unknown>",
            "a=b,c=d"
        ])
    );
    let named = service(json!({ "type": "ExternalName", "externalName": "a.b" }));
    assert_eq!(
        cells(&named),
        json!(["s", "ExternalName", "<none>", "a.b", "<none>", "<unknown>", "<none>"])
    );
    let mut balanced = service(json!({ "type": "LoadBalancer", "clusterIP": "10.96.0.4" }));
    assert_eq!(cells(&balanced)[3], "<pending>");
    balanced
        .body
        .insert("status".to_owned(), json!({ "loadBalancer": { "ingress": [{ "ip": "1.2.3.4" }] } }));
    assert_eq!(cells(&balanced)[3], "1.2.3.4");
}
