//! Rules and columns of kinds that are little more than a row.

use super::*;

fn labels(value: &str) -> Value {
    json!({ "matchLabels": { "app": value } })
}

#[test]
fn disruption_budgets() {
    let said = |spec: Value| said("poddisruptionbudgets", json!({ "metadata": { "name": "b" }, "spec": spec }), None);
    let percent = r#"a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')"#;
    let rows = [
        (json!({ "minAvailable": 1, "selector": labels("a") }), vec![]),
        (json!({ "maxUnavailable": "50%" }), vec![]),
        (
            json!({ "minAvailable": 1, "maxUnavailable": 1 }),
            vec![
                r#"spec: Invalid value: {"maxUnavailable":1,"minAvailable":1}: minAvailable and maxUnavailable cannot be both set"#
                    .to_owned(),
            ],
        ),
        (
            json!({ "minAvailable": -1 }),
            vec!["spec.minAvailable: Invalid value: -1: must be greater than or equal to 0".to_owned()],
        ),
        (
            json!({ "maxUnavailable": "101%" }),
            vec![r#"spec.maxUnavailable: Invalid value: "101%": must not be greater than 100%"#.to_owned()],
        ),
        (
            json!({ "maxUnavailable": "x" }),
            vec![format!(r#"spec.maxUnavailable: Invalid value: "x": {percent}"#)],
        ),
        (
            json!({ "unhealthyPodEvictionPolicy": "Never" }),
            vec![
                r#"spec.unhealthyPodEvictionPolicy: Unsupported value: "Never": supported values: "AlwaysAllow", "IfHealthyBudget""#
                    .to_owned(),
            ],
        ),
        (
            json!({ "selector": { "matchExpressions": [{ "key": "a", "operator": "In" }, { "key": "a", "operator": "Is" }] } }),
            vec![
                "spec.selector.matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'".to_owned(),
                r#"spec.selector.matchExpressions[1].operator: Invalid value: "Is": not a valid selector operator"#.to_owned(),
            ],
        ),
    ];
    for (spec, wanted) in rows {
        assert_eq!(said(spec.clone()), wanted, "{spec}");
    }
    let budget = json!({ "metadata": { "name": "b" }, "spec": { "minAvailable": "50%" }, "status": { "disruptionsAllowed": 2 } });
    assert_eq!(cells("poddisruptionbudgets", budget), json!(["b", "50%", "N/A", 2, "<unknown>"]));
}

#[test]
fn limit_ranges() {
    let said = |item: Value| {
        said(
            "limitranges",
            json!({ "metadata": { "name": "l" }, "spec": { "limits": [item] } }),
            None,
        )
    };
    let rows = [
        (json!({ "type": "Container", "max": { "cpu": "2" }, "min": { "cpu": "1" } }), vec![]),
        (
            json!({ "type": "Thing" }),
            vec![r#"spec.limits[0].type: Invalid value: "Thing": must be a standard limit type or fully qualified"#],
        ),
        (
            json!({ "type": "Pod", "default": { "cpu": "1" } }),
            vec!["spec.limits[0].default: Forbidden: may not be specified when `type` is 'Pod'"],
        ),
        (
            json!({ "type": "PersistentVolumeClaim" }),
            vec!["spec.limits[0].limits: Required value: either minimum or maximum storage value is required, but neither was provided"],
        ),
        (
            json!({ "type": "Pod", "max": { "thing": "1" } }),
            vec![r#"spec.limits[0].max[thing]: Invalid value: "thing": must be a standard resource type or fully qualified"#],
        ),
        (
            json!({ "type": "Pod", "max": { "cpu": "1" }, "min": { "cpu": "2" } }),
            vec![r#"spec.limits[0].min[cpu]: Invalid value: "2": min value 2 is greater than max value 1"#],
        ),
        (
            json!({ "type": "Container", "default": { "cpu": "1" }, "defaultRequest": { "cpu": "2" } }),
            vec![
                r#"spec.limits[0].defaultRequest[cpu]: Invalid value: "2": default request value 2 is greater than default limit value 1"#,
            ],
        ),
        (
            json!({ "type": "Container", "maxLimitRequestRatio": { "cpu": "500m" } }),
            vec![r#"spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: "500m": ratio 500m is less than 1"#],
        ),
    ];
    for (item, wanted) in rows {
        assert_eq!(said(item.clone()), wanted, "{item}");
    }
    let registry = builtin();
    let mut range = object(json!({ "spec": { "limits": [{ "type": "Container", "max": { "cpu": "2" }, "min": { "memory": "1Gi" } }] } }));
    row(&registry, "limitranges").strategy.default(&mut range);
    let item = &range.body["spec"]["limits"][0];
    assert_eq!(item["default"], json!({ "cpu": "2" }));
    assert_eq!(item["defaultRequest"], json!({ "cpu": "2", "memory": "1Gi" }));
}

#[test]
fn resource_quotas() {
    let said = |spec: Value| said("resourcequotas", json!({ "metadata": { "name": "q" }, "spec": spec }), None);
    let rows = [
        (
            json!({ "hard": { "pods": "1", "requests.cpu": "500m", "count/leases.coordination.k8s.io": "3" } }),
            vec![],
        ),
        (
            json!({ "hard": { "pods": "500m", "storage": "1Gi" } }),
            vec![
                r#"spec.hard[pods]: Invalid value: "500m": must be an integer"#,
                r#"spec.hard[storage]: Invalid value: "storage": must be a standard resource for quota"#,
            ],
        ),
        (
            json!({ "hard": { "cpu": "-1" } }),
            vec![r#"spec.hard[cpu]: Invalid value: "-1": must be greater than or equal to 0"#],
        ),
        (
            json!({ "hard": { "secrets": "1" }, "scopes": ["Terminating"] }),
            vec![r#"spec.scopes: Invalid value: ["Terminating"]: unsupported scope applied to resource"#],
        ),
        (
            json!({ "hard": { "pods": "1" }, "scopes": ["BestEffort", "NotBestEffort"] }),
            vec![r#"spec.scopes: Invalid value: ["BestEffort","NotBestEffort"]: conflicting scopes"#],
        ),
        (
            json!({ "hard": { "pods": "1" }, "scopeSelector": { "matchExpressions": [{ "scopeName": "PriorityClass", "operator": "In" }] } }),
            vec![
                "spec.scopeSelector.matchExpressions[0].values: Required value: must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
            ],
        ),
    ];
    for (spec, wanted) in rows {
        assert_eq!(said(spec.clone()), wanted, "{spec}");
    }
    let status = json!({ "hard": { "pods": "4", "limits.cpu": "2" }, "used": { "pods": "1", "limits.cpu": "500m" } });
    assert_eq!(
        cells("resourcequotas", json!({ "metadata": { "name": "q" }, "status": status })),
        json!(["q", "pods: 1/4", "limits.cpu: 500m/2", "<unknown>"])
    );
}

#[test]
fn replication_controllers_and_templates() {
    let template = |labels: Value| json!({ "metadata": { "labels": labels }, "spec": { "containers": [{ "name": "c", "image": "i" }] } });
    let controller = |spec: Value| json!({ "metadata": { "name": "r" }, "spec": spec });
    assert_eq!(
        said(
            "replicationcontrollers",
            controller(json!({ "template": template(json!({ "a": "b" })) })),
            None
        ),
        Vec::<String>::new()
    );
    let mismatch = controller(json!({ "selector": { "a": "c" }, "template": template(json!({ "a": "b" })) }));
    assert_eq!(
        said("replicationcontrollers", mismatch, None),
        [r#"spec.template.metadata.labels: Invalid value: {"a":"b"}: `selector` does not match template `labels`"#]
    );
    let mut once = controller(json!({ "template": template(json!({ "a": "b" })) }));
    once["spec"]["template"]["spec"]["restartPolicy"] = json!("Never");
    assert_eq!(
        said("replicationcontrollers", once, None),
        [r#"spec.template.spec.restartPolicy: Unsupported value: "Never": supported values: "Always""#]
    );
    assert_eq!(
        said("replicationcontrollers", controller(json!({ "selector": { "a": "b" } })), None),
        ["spec.template: Required value"]
    );
    let mut bad = json!({ "metadata": { "name": "t" }, "template": template(json!({})) });
    bad["template"]["spec"]["containers"][0]["name"] = json!("");
    assert_eq!(
        said("podtemplates", bad.clone(), None),
        ["template.spec.containers[0].name: Required value"]
    );
    bad["template"]["metadata"]["labels"] = json!({ "a": "b" });
    assert_eq!(cells("podtemplates", bad), json!(["t", "", "i", "a=b"]));
}

#[test]
fn storage_classes_and_nodes() {
    let class = json!({ "metadata": { "name": "s", "annotations": { "storageclass.kubernetes.io/is-default-class": "true" } }, "provisioner": "p/q" });
    assert_eq!(said("storageclasses", class.clone(), None), Vec::<String>::new());
    assert_eq!(
        said("storageclasses", json!({ "provisioner": "", "reclaimPolicy": "Recycle" }), None),
        [
            "provisioner: Required value",
            r#"reclaimPolicy: Unsupported value: "Recycle": supported values: "Delete", "Retain""#
        ]
    );
    let mut stored = class.clone();
    (stored["reclaimPolicy"], stored["volumeBindingMode"]) = (json!("Delete"), json!("Immediate"));
    let mut moved = class.clone();
    moved["provisioner"] = json!("r/s");
    assert_eq!(
        said("storageclasses", moved, Some(stored)),
        ["provisioner: Forbidden: updates to provisioner are forbidden."]
    );
    assert_eq!(
        cells("storageclasses", class),
        json!(["s (default)", "p/q", "Delete", "<none>", false, "<unknown>"])
    );
    let node = |drivers: Value| json!({ "metadata": { "name": "n" }, "spec": { "drivers": drivers } });
    assert_eq!(
        said(
            "csinodes",
            node(json!([{ "name": "d", "nodeID": "" }, { "name": "d", "nodeID": "x" }])),
            None
        ),
        [
            "spec.drivers[0].nodeID: Required value",
            r#"spec.drivers[1].name: Duplicate value: "d""#
        ]
    );
}

#[test]
fn runtime_classes_and_revisions() {
    assert!(
        said("runtimeclasses", json!({ "handler": "A" }), None)[0]
            .starts_with(r#"handler: Invalid value: "A": a lowercase RFC 1123 label"#)
    );
    assert_eq!(
        said("runtimeclasses", json!({ "handler": "b" }), Some(json!({ "handler": "a" }))),
        [r#"handler: Invalid value: "b": field is immutable"#]
    );
    assert_eq!(
        said("controllerrevisions", json!({ "revision": -1 }), None),
        [
            "data: Required value: data is mandatory",
            "revision: Invalid value: -1: must be greater than or equal to 0"
        ]
    );
    let owner = json!({ "apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web", "uid": "u", "controller": true });
    let revision = json!({ "metadata": { "name": "r", "ownerReferences": [owner] }, "data": {}, "revision": 2 });
    assert_eq!(
        cells("controllerrevisions", revision),
        json!(["r", "statefulset.apps/web", 2, "<unknown>"])
    );
}
