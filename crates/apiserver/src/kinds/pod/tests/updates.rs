//! What may change of a Pod that exists.

use super::*;

fn stored(spec: Value) -> Object {
    let mut spec = spec;
    if spec.get("containers").is_none() {
        spec["containers"] = json!([{ "name": "a", "image": "i:1" }]);
    }
    pod(spec)
}

/// What is said when `field` of the spec becomes `value`.
fn change(old: &Object, field: &str, value: Value) -> Vec<String> {
    let mut new = old.clone();
    if value.is_null() {
        new.body["spec"].as_object_mut().unwrap().remove(field);
    } else {
        new.body["spec"][field] = value;
    }
    Pod.default(&mut new);
    updated(&new, old)
}

#[test]
fn what_may_change() {
    let old = stored(json!({
        "activeDeadlineSeconds": 20,
        "tolerations": [{ "key": "b", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300 }],
    }));
    assert_eq!(updated(&old, &old), Vec::<String>::new());
    assert_eq!(change(&old, "activeDeadlineSeconds", json!(10)), Vec::<String>::new());
    let mut image = old.clone();
    image.body["spec"]["containers"][0]["image"] = json!("i:2");
    assert_eq!(updated(&image, &old), Vec::<String>::new());
    let mut tolerations = old.at("spec.tolerations").unwrap().clone();
    tolerations
        .as_array_mut()
        .unwrap()
        .push(json!({ "key": "a", "operator": "Exists" }));
    tolerations[0]["tolerationSeconds"] = json!(9);
    assert_eq!(change(&old, "tolerations", tolerations), Vec::<String>::new());
    let negative = stored(json!({ "terminationGracePeriodSeconds": -1 }));
    assert_eq!(change(&negative, "terminationGracePeriodSeconds", json!(1)), Vec::<String>::new());
}

#[test]
fn any_other_field_is_named_with_both_values() {
    let old = stored(json!({ "hostname": "h" }));
    assert_eq!(
        change(&old, "hostname", json!("g")),
        [
            "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)\n- spec.hostname: \"h\"\n+ spec.hostname: \"g\"\n"
        ]
    );
    let said = change(&old, "nodeName", json!("n"));
    assert!(said.len() == 1 && said[0].ends_with("\n+ spec.nodeName: \"n\"\n"), "{said:?}");
}

#[test]
fn containers_stay_as_many() {
    let old = stored(json!({}));
    let two = json!([{ "name": "a", "image": "i:1" }, { "name": "b", "image": "i" }]);
    assert_eq!(
        change(&old, "containers", two),
        ["spec.containers: Forbidden: pod updates may not add or remove containers"]
    );
    let init = json!([{ "name": "b", "image": "i" }]);
    assert_eq!(
        change(&old, "initContainers", init),
        ["spec.initContainers: Forbidden: pod updates may not add or remove containers"]
    );
}

#[test]
fn images_stay_images() {
    let old = stored(json!({}));
    for (image, wanted) in [
        (" x", "Invalid value: \" x\": must not have leading or trailing whitespace"),
        ("", "Required value"),
    ] {
        let mut new = old.clone();
        new.body["spec"]["containers"][0]["image"] = json!(image);
        let said = updated(&new, &old);
        assert!(said.contains(&format!("spec.containers[0].image: {wanted}")), "{said:?}");
    }
}

#[test]
fn a_deadline_only_comes_nearer() {
    let old = stored(json!({ "activeDeadlineSeconds": 10 }));
    assert_eq!(
        change(&old, "activeDeadlineSeconds", json!(20)),
        ["spec.activeDeadlineSeconds: Invalid value: 20: must be less than or equal to previous value"]
    );
    assert_eq!(
        change(&old, "activeDeadlineSeconds", Value::Null),
        ["spec.activeDeadlineSeconds: Invalid value: \"null\": must not update from a positive integer to nil value"]
    );
}

#[test]
fn tolerations_and_gates() {
    let old =
        stored(json!({ "tolerations": [{ "key": "a", "operator": "Exists" }], "schedulingGates": [{ "name": "g" }, { "name": "h" }] }));
    let mut tolerations = old.at("spec.tolerations").unwrap().clone();
    tolerations[0]["key"] = json!("b");
    assert_eq!(
        change(&old, "tolerations", tolerations),
        ["spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds"]
    );
    assert_eq!(change(&old, "schedulingGates", json!([{ "name": "h" }])), Vec::<String>::new());
    assert_eq!(
        change(&old, "schedulingGates", json!([{ "name": "h" }, { "name": "k" }])),
        ["spec.schedulingGates[1].name: Forbidden: only deletion is allowed, but found new scheduling gate 'k'"]
    );
}

#[test]
fn a_gated_pod_may_become_choosier() {
    let old = stored(json!({ "schedulingGates": [{ "name": "g" }], "nodeSelector": { "a": "b" } }));
    assert_eq!(change(&old, "nodeSelector", json!({ "a": "b", "c": "d" })), Vec::<String>::new());
    let said = change(&old, "nodeSelector", json!({ "a": "x" }));
    assert!(
        said.len() == 1 && said[0].ends_with("only additions to spec.nodeSelector are allowed (no mutations or deletions)"),
        "{said:?}"
    );
    let term = json!({ "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": [{ "matchExpressions": [{ "key": "a", "operator": "Exists" }] }] } } });
    assert_eq!(change(&old, "affinity", term.clone()), Vec::<String>::new());
    let free = stored(json!({ "nodeSelector": { "a": "b" } }));
    assert_eq!(change(&free, "nodeSelector", json!({ "a": "b", "c": "d" })).len(), 1);
    assert_eq!(change(&free, "affinity", term).len(), 1);
}

#[test]
fn the_service_class_stays() {
    let old = stored(json!({}));
    let mut new = old.clone();
    new.body["spec"]["containers"][0]["resources"] = json!({ "requests": { "cpu": "1" } });
    let said = updated(&new, &old);
    assert_eq!(said.last().unwrap(), "metadata: Invalid value: \"Burstable\": Pod QoS is immutable");
}

fn status_says(policy: &str, old: Value, new: Value) -> Vec<String> {
    let mut before =
        stored(json!({ "restartPolicy": policy, "initContainers": [{ "name": "s", "image": "i", "restartPolicy": "Always" }] }));
    let mut after = before.clone();
    before.body.insert("status".to_owned(), old);
    after.body.insert("status".to_owned(), new);
    said(&Pod.validate(&after, Some(&before), Rules::UpdateStatus))
}

#[test]
fn a_container_that_ended_for_good_stays_so() {
    let ended = |name: &str, code: i32| json!([{ "name": name, "state": { "terminated": { "exitCode": code } } }]);
    let running = |name: &str| json!([{ "name": name, "state": { "running": {} } }]);
    let refused = "status.containerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state";
    let rows = [
        ("Always", 0, false),
        ("Always", 1, false),
        ("OnFailure", 1, false),
        ("OnFailure", 0, true),
        ("Never", 1, true),
        ("Never", 0, true),
    ];
    for (policy, code, bad) in rows {
        let found = status_says(
            policy,
            json!({ "containerStatuses": ended("a", code) }),
            json!({ "containerStatuses": running("a") }),
        );
        assert_eq!(found, if bad { vec![refused] } else { vec![] }, "{policy} {code}");
    }
    let init = status_says(
        "Never",
        json!({ "initContainerStatuses": ended("x", 0) }),
        json!({ "initContainerStatuses": running("x") }),
    );
    assert_eq!(
        init,
        ["status.initContainerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state"]
    );
    let sidecar = status_says(
        "Never",
        json!({ "initContainerStatuses": ended("s", 1) }),
        json!({ "initContainerStatuses": running("s") }),
    );
    assert_eq!(sidecar, Vec::<String>::new());
}

#[test]
fn other_rules_of_a_status() {
    assert_eq!(
        status_says("Always", json!({}), json!({ "podIPs": [{ "ip": "x" }] })),
        [r#"status.podIPs[0]: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"#]
    );
    assert_eq!(
        status_says("Always", json!({ "qosClass": "BestEffort" }), json!({ "qosClass": "Guaranteed" })),
        [r#"status.qosClass: Invalid value: "Guaranteed": field is immutable"#]
    );
    let old = stored(json!({}));
    let mut moved = old.clone();
    moved.body["spec"]["nodeName"] = json!("n");
    assert_eq!(
        said(&Pod.validate(&moved, Some(&old), Rules::UpdateStatus)),
        ["status.nodeName: Forbidden: may not be changed directly"]
    );
}
