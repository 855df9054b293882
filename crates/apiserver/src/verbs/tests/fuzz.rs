//! Anything at all as body, patch, configuration or selector: an answer for
//! everything, never a panic, and nothing that grows without bound.

use http::Method;
use proptest::prelude::*;

use super::*;
use crate::testing::pod;

/// Most bytes of an answer to a small request.
const ANSWER_MAX_BYTES: usize = 256 << 10;

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => prop::sample::select(vec![
            "apiVersion", "kind", "metadata", "spec", "status", "data", "name", "namespace", "labels", "annotations", "finalizers",
            "ownerReferences", "managedFields", "resourceVersion", "uid", "generateName", "containers", "initContainers", "image", "ports",
            "containerPort", "protocol", "env", "value", "valueFrom", "resources", "limits", "cpu", "volumes", "configMap", "conditions",
            "type", "tolerations", "key", "op", "path", "from", "manager", "operation", "fieldsType", "fieldsV1", "f:spec", "k:{}", "v:", ".",
            "$patch", "$retainKeys", "$setElementOrder/containers", "$deleteFromPrimitiveList/finalizers", "creationTimestamp", "time",
        ]).prop_map(str::to_owned),
        1 => "[a-z$./:]{0,6}",
        1 => any::<String>(),
    ]
}

fn leaf() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-3_i64..70_000).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop::sample::select(vec![
            "v1",
            "Pod",
            "ConfigMap",
            "m",
            "p",
            "c",
            "TCP",
            "100m",
            "delete",
            "replace",
            "merge",
            "Update",
            "Apply",
            "FieldsV1",
            "add",
            "remove",
            "copy",
            "move",
            "test",
            "/metadata/labels",
            "/data/k",
            "",
            "2027-01-15T08:00:00Z"
        ])
        .prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ]
}

fn json() -> impl Strategy<Value = Value> {
    leaf().prop_recursive(5, 48, 5, |inner| {
        prop_oneof![
            1 => prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            3 => prop::collection::btree_map(name(), inner, 0..5).prop_map(|map| map.into_iter().collect::<Value>()),
        ]
    })
}

/// A part of a valid object replaced by anything.
fn bent(whole: Value) -> impl Strategy<Value = Value> {
    (json(), any::<prop::sample::Index>()).prop_map(move |(part, place)| {
        let mut pointers = Vec::new();
        collect(&whole, "", &mut pointers);
        let mut bent = whole.clone();
        if let Some(target) = bent.pointer_mut(&pointers[place.index(pointers.len())]) {
            *target = part;
        }
        bent
    })
}

fn collect(value: &Value, at: &str, pointers: &mut Vec<String>) {
    pointers.push(at.to_owned());
    match value {
        Value::Object(object) => object
            .iter()
            .for_each(|(key, value)| collect(value, &format!("{at}/{key}"), pointers)),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .for_each(|(index, value)| collect(value, &format!("{at}/{index}"), pointers)),
        _ => {}
    }
}

fn whole() -> Value {
    let mut whole = pod("p");
    whole["metadata"]["labels"] = json!({"a": "b"});
    whole["metadata"]["finalizers"] = json!(["x.io/y"]);
    whole["metadata"]["managedFields"] = json!([{"manager": "m", "operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": {"f:metadata": {"f:labels": {"f:a": {}}}}}]);
    whole["spec"]["containers"][0]["ports"] = json!([{"containerPort": 80}]);
    whole["spec"]["containers"][0]["resources"] = json!({"limits": {"cpu": "100m"}});
    whole
}

fn body() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => bent(whole()).prop_map(|value| value.to_string()),
        2 => json().prop_map(|value| value.to_string()),
        2 => prop::collection::vec(json(), 0..4).prop_map(|operations| Value::from(operations).to_string()),
        1 => any::<String>(),
    ]
}

const TYPES: [&str; 5] = [
    "application/json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/json-patch+json",
    "application/apply-patch+yaml",
];

/// Every answer is an object or a status that says what it is.
async fn asked(rig: &Rig, method: Method, path: &str, content_type: &str, body: &str) -> Result<(), TestCaseError> {
    let answer = rig.send(method.clone(), path, content_type, body.to_owned()).await;
    prop_assert!(
        answer.text.len() < ANSWER_MAX_BYTES,
        "{method} {path} of {body}: {} bytes",
        answer.text.len()
    );
    let value: Value =
        serde_json::from_slice(&answer.text).map_err(|error| TestCaseError::fail(format!("{method} {path} of {body}: {error}")))?;
    if answer.code >= 400 {
        prop_assert_eq!(
            (&value["kind"], &value["code"]),
            (&json!("Status"), &json!(answer.code)),
            "{} {} of {}",
            method,
            path,
            body
        );
        prop_assert!(
            !value["message"].as_str().unwrap_or_default().is_empty(),
            "{} {} of {}: {}",
            method,
            path,
            body,
            value
        );
    }
    // What upstream did not classify has no reason; a failure of ours would.
    prop_assert!(value["reason"] != "InternalError", "{method} {path} of {body}: {value}");
    Ok(())
}

fn rig() -> (tokio::runtime::Runtime, Rig) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let rig = runtime.block_on(async {
        let rig = Rig::new().await;
        rig.pod("p", Some("n")).await;
        rig.config_map("m", &json!({"a": "b"})).await;
        rig
    });
    (runtime, rig)
}

#[test]
fn any_body_gets_an_answer() {
    let (runtime, rig) = rig();
    proptest!(ProptestConfig::with_cases(400), |(body in body(), which in 0..5_usize, dry in any::<bool>())| {
        let query = if dry { "?dryRun=All&fieldManager=fuzz" } else { "?fieldManager=fuzz&force=true" };
        let force = if TYPES[which] == "application/apply-patch+yaml" { query } else { "?fieldManager=fuzz" };
        runtime.block_on(async {
            for path in [format!("{PODS}/p{force}"), format!("{PODS}/p/status{force}"), format!("{MAPS}/m{force}")] {
                let method = if which == 0 { Method::PUT } else { Method::PATCH };
                asked(&rig, method, &path, TYPES[which], &body).await?;
            }
            if which == 0 {
                asked(&rig, Method::POST, &format!("{PODS}?dryRun=All"), TYPES[0], &body).await?;
            }
            Ok::<(), TestCaseError>(())
        })?;
    });
    // Still there, and still what it was in kind.
    let pod = runtime.block_on(rig.get(&format!("{PODS}/p"))).json();
    assert!(pod["kind"] == "Pod" || pod["code"] == 404, "{pod}");
}

#[test]
fn any_selector_gets_an_answer() {
    let (runtime, rig) = rig();
    let part = prop_oneof![Just("a".to_owned()), "[!=(),<> a-z./-]{0,12}", any::<String>()];
    let selector = prop::collection::vec(part, 0..4).prop_map(|parts| parts.concat());
    proptest!(ProptestConfig::with_cases(400), |(selector in selector, fields in any::<bool>())| {
        let encoded: String = selector.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let which = if fields { "fieldSelector" } else { "labelSelector" };
        runtime.block_on(asked(&rig, Method::GET, &format!("{PODS}?{which}={encoded}"), "", ""))?;
    });
}
