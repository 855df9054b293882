use api::schema::{Schema, for_kind};
use serde_json::{Value, json};

use super::compare;
use super::element::Element;
use super::field_set;
use super::merge;
use super::set::Set;
use super::shape::Shape;
use super::*;

mod models;

fn schema(kind: &str) -> Schema<'static> {
    for_kind("", "v1", kind).unwrap()
}

fn set(value: Value) -> Set {
    serde_json::from_value(value).unwrap()
}

fn map(value: Value) -> serde_json::Map<String, Value> {
    serde_json::from_value(value).unwrap()
}

#[test]
fn sets_are_written_as_upstream_writes_them() {
    let text = r#"{"f:a":{},"f:b":{".":{},"k:{\"containerPort\":80,\"protocol\":\"TCP\"}":{"f:x":{}},"k:{\"containerPort\":443,\"protocol\":\"TCP\"}":{},"v:9":{},"v:80":{},"v:\"x\"":{},"v:true":{},"i:3":{}}}"#;
    let read: Set = serde_json::from_str(text).unwrap();
    assert_eq!(serde_json::to_string(&read).unwrap(), text);
    assert_eq!(
        read.paths(),
        [
            ".a",
            ".b",
            r#".b[containerPort=80,protocol="TCP"].x"#,
            r#".b[containerPort=443,protocol="TCP"]"#,
            ".b[=9]",
            ".b[=80]",
            r#".b[="x"]"#,
            ".b[=true]",
            ".b[3]"
        ]
    );
    // The order of the keys of a list's item does not matter, that of others neither.
    let shuffled: Set = serde_json::from_str(r#"{"f:b":{"k:{\"protocol\":\"TCP\",\"containerPort\":443}":{}},"f:a":{}}"#).unwrap();
    assert!(shuffled.difference(&read).is_empty());
}

#[test]
fn path_elements_that_cannot_be_read_are_errors_unknown_ones_are_skipped() {
    for broken in [
        r#"{"x":{}}"#,
        r#"{"fa":{}}"#,
        r#"{"v:{":{}}"#,
        r#"{"i:x":{}}"#,
        r#"{"k:[]":{}}"#,
        r#"{"f:a":[]}"#,
        r#"{"f:a":1}"#,
        "[]",
    ] {
        assert!(serde_json::from_str::<Set>(broken).is_err(), "{broken}");
    }
    assert!(serde_json::from_str::<Set>(r#"{"z:later":{}}"#).unwrap().is_empty());
}

#[test]
fn sets_are_combined_path_by_path() {
    let (a, b) = (
        set(json!({"f:a": {".": {}, "f:x": {}}, "f:b": {}, "f:c": {"f:y": {}}})),
        set(json!({"f:a": {"f:x": {}, "f:z": {}}, "f:c": {}})),
    );
    assert_eq!(
        a.union(&b),
        set(json!({"f:a": {".": {}, "f:x": {}, "f:z": {}}, "f:b": {}, "f:c": {".": {}, "f:y": {}}}))
    );
    assert_eq!(a.intersection(&b), set(json!({"f:a": {"f:x": {}}})));
    assert_eq!(a.difference(&b), set(json!({"f:a": {}, "f:b": {}, "f:c": {"f:y": {}}})));
    assert_eq!(a.without(&b), set(json!({"f:a": {}, "f:b": {}})));
    assert!(a.difference(&a).is_empty() && a.union(&Set::default()) == a);
    assert_eq!(Element::read("f:").unwrap(), Some(Element::field("")));
}

#[test]
fn what_kubectl_run_sets_is_what_upstream_says_it_sets() {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "nginx", "namespace": "default", "labels": {"run": "nginx"}, "uid": "u", "creationTimestamp": "2027-01-15T08:00:00Z"},
        "spec": {
            "containers": [{
                "name": "nginx", "image": "nginx", "imagePullPolicy": "Always", "resources": {"limits": {"cpu": "1"}},
                "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
                "ports": [{"containerPort": 80, "protocol": "TCP"}], "args": ["a"],
            }],
            "dnsPolicy": "ClusterFirst", "securityContext": {}, "nodeSelector": {"a": "b"},
        },
        "status": {},
    });
    let object: Object = serde_json::from_value(pod).unwrap();
    let fields = compare::objects(schema("Pod"), None, &object).set().difference(&record::STRIPPED);
    assert_eq!(
        serde_json::to_value(&fields).unwrap(),
        json!({
            "f:metadata": {"f:labels": {".": {}, "f:run": {}}},
            "f:spec": {
                "f:containers": {
                    "k:{\"name\":\"nginx\"}": {
                        ".": {}, "f:args": {}, "f:image": {}, "f:imagePullPolicy": {}, "f:name": {},
                        "f:ports": {".": {}, "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}, "f:protocol": {}}},
                        "f:resources": {".": {}, "f:limits": {".": {}, "f:cpu": {}}},
                        "f:terminationMessagePath": {}, "f:terminationMessagePolicy": {},
                    },
                },
                "f:dnsPolicy": {}, "f:nodeSelector": {}, "f:securityContext": {},
            },
        })
    );
}

#[test]
fn a_configuration_owns_what_it_states() {
    let config = json!({
        "metadata": {"labels": {"a": "b"}, "finalizers": ["x.io/y"], "annotations": {}},
        "spec": {"clusterIPs": ["10.0.0.1"], "selector": {"a": "b"}, "ports": [{"port": 80}, {"port": 80, "protocol": "UDP", "name": null}]},
    });
    assert_eq!(
        serde_json::to_value(field_set::of(Shape::of(schema("Service")), &map(config))).unwrap(),
        json!({
            "f:metadata": {"f:annotations": {}, "f:finalizers": {"v:\"x.io/y\"": {}}, "f:labels": {"f:a": {}}},
            "f:spec": {
                "f:clusterIPs": {}, "f:selector": {},
                "f:ports": {
                    "k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:port": {}},
                    "k:{\"port\":80,\"protocol\":\"UDP\"}": {".": {}, "f:name": {}, "f:port": {}, "f:protocol": {}},
                },
            },
        })
    );
}

#[test]
fn merged_lists_keep_the_order_of_the_configuration() {
    let shape = Shape::of(schema("Pod"));
    let pod = |names: &str| {
        let containers: Vec<Value> = names.chars().map(|name| json!({"name": name.to_string()})).collect();
        map(json!({"spec": {"containers": containers}}))
    };
    let table = [
        ("abc", "abc", "abc"),
        ("abc", "cba", "cba"),
        ("abc", "xb", "axbc"),
        ("abc", "bx", "abcx"),
        ("", "ab", "ab"),
        ("ab", "", "ab"),
        ("abcd", "dxb", "acdxb"),
        ("ab", "xyab", "xyab"),
    ];
    for (live, config, expected) in table {
        let merged = merge::objects(shape, &pod(live), &pod(config));
        let names: String = merged["spec"]["containers"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|c| c["name"].as_str().unwrap())
            .collect();
        assert_eq!(names, expected, "{config} onto {live}");
    }
}

#[test]
fn a_configuration_of_another_shape_is_refused_in_upstream_s_words() {
    let errors = |config: Value| check::joined(&check::errors(Shape::of(schema("Pod")), &map(config)));
    assert_eq!(errors(json!({"spec": {"foo": 1}})), ".spec.foo: field not declared in schema");
    assert_eq!(
        errors(json!({"metadata": {"labels": {"a": true}}})),
        ".metadata.labels.a: expected string, got &value.valueUnstructured{Value:true}"
    );
    assert_eq!(
        errors(json!({"spec": {"containers": [{"name": "a", "ports": [{"containerPort": "80"}], "args": "x"}]}})),
        "errors:\n  .spec.containers[name=\"a\"].args: expected list, got &{x}\n  .spec.containers[name=\"a\"].ports[containerPort=\"80\",protocol=\"TCP\"].containerPort: expected numeric (int or float), got string"
    );
    assert_eq!(
        errors(json!({"spec": {"containers": [{"name": "a"}, {"name": "a"}]}})),
        ".spec.containers: duplicate entries for key [name=\"a\"]"
    );
    assert_eq!(
        errors(json!({"spec": {"containers": [{"image": "a"}, null]}})),
        "errors:\n  .spec.containers: element 0: associative list with keys has an element that omits all key fields [\"name\"] (and doesn't have default values for any key fields)\n  .spec.containers: element 1: associative list with keys may not have a null element"
    );
    assert_eq!(
        errors(json!({"spec": {"hostNetwork": "on"}})),
        ".spec.hostNetwork: expected boolean, got &{on}"
    );
    assert_eq!(errors(json!({"spec": 3})), ".spec: expected map, got &{3}");
}

#[test]
fn managers_are_named_by_the_user_agent_up_to_its_first_slash() {
    for (agent, name) in [
        ("kubectl/v1.33.0 (linux/amd64) kubernetes/60a317e", "kubectl"),
        ("kubectl-create", "kubectl-create"),
        ("", ""),
        ("a\tb\u{7f}c/1", "abc"),
    ] {
        assert_eq!(from_user_agent(agent.as_bytes()), name);
    }
    assert_eq!(from_user_agent("ä".repeat(100).as_bytes()).len(), 128);
    assert_eq!(name_violations("fieldManager", &"x".repeat(129)).len(), 1);
    assert_eq!(
        name_violations("fieldManager", "a\nb")[0].message,
        "Invalid value: \"a\\nb\": invalid character U+000A (at position 1)"
    );
}
