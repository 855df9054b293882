use std::collections::BTreeMap;

use api::schema;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn pod_schema() -> Schema<'static> {
    schema::for_kind("", "v1", "Pod").unwrap()
}

fn strategic(original: Value, patch: Value) -> Value {
    let mut value = original;
    Patch::Strategic(patch).apply(pod_schema(), &mut value).unwrap();
    value
}

fn refused(patch: Value) -> Status {
    let mut value = json!({"spec": {"containers": [{"name": "a"}]}});
    Patch::Strategic(patch).apply(pod_schema(), &mut value).unwrap_err()
}

#[test]
fn strategic_patches_transcript() {
    let containers = |list: Value| json!({"spec": {"containers": list}});
    let table = [
        // Objects merge, null removes.
        (
            json!({"metadata": {"labels": {"a": "1", "b": "2"}}}),
            json!({"metadata": {"labels": {"a": null, "c": "3"}}}),
            json!({"metadata": {"labels": {"b": "2", "c": "3"}}}),
        ),
        // Lists with a merge key merge by it.
        (
            containers(json!([{"name": "a", "image": "1"}, {"name": "b", "image": "1"}])),
            containers(json!([{"name": "b", "image": "2"}, {"name": "c", "image": "3"}])),
            containers(json!([{"name": "a", "image": "1"}, {"name": "b", "image": "2"}, {"name": "c", "image": "3"}])),
        ),
        // An item is deleted by its key.
        (
            containers(json!([{"name": "a"}, {"name": "b"}])),
            containers(json!([{"$patch": "delete", "name": "a"}])),
            containers(json!([{"name": "b"}])),
        ),
        // A list, an item, an object are replaced.
        (
            containers(json!([{"name": "a"}, {"name": "b"}])),
            containers(json!([{"$patch": "replace"}, {"name": "z", "image": null}])),
            containers(json!([{"name": "z"}])),
        ),
        (
            containers(json!([{"name": "a", "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "1"}}}])),
            containers(json!([{"name": "a", "resources": {"$patch": "replace", "limits": {"memory": "1"}}}])),
            containers(json!([{"name": "a", "resources": {"limits": {"memory": "1"}}}])),
        ),
        (
            json!({"spec": {"securityContext": {"runAsUser": 1}}}),
            json!({"spec": {"securityContext": {"$patch": "delete"}}}),
            json!({"spec": {"securityContext": {}}}),
        ),
        (
            json!({"spec": {"hostname": "a"}}),
            json!({"spec": {"$patch": "merge", "subdomain": "b"}}),
            json!({"spec": {"hostname": "a", "subdomain": "b"}}),
        ),
        // Lists without a key are replaced, sets are united.
        (
            containers(json!([{"name": "a", "args": ["1", "2"]}])),
            containers(json!([{"name": "a", "args": ["3"]}])),
            containers(json!([{"name": "a", "args": ["3"]}])),
        ),
        (
            json!({"metadata": {"finalizers": ["a", "b"]}}),
            json!({"metadata": {"finalizers": ["b", "c"]}}),
            json!({"metadata": {"finalizers": ["a", "b", "c"]}}),
        ),
        (
            json!({"metadata": {"finalizers": ["a", "b", "c"]}}),
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a", "z"], "finalizers": ["d"]}}),
            // What is new has no place among the others, so it comes first.
            json!({"metadata": {"finalizers": ["d", "b", "c"]}}),
        ),
        // Orders: what is listed as listed, what is not where it was.
        (
            containers(json!([{"name": "a"}, {"name": "b"}, {"name": "c"}])),
            json!({"spec": {"$setElementOrder/containers": [{"name": "c"}, {"name": "a"}], "containers": [{"name": "c", "image": "1"}]}}),
            containers(json!([{"name": "b"}, {"name": "c", "image": "1"}, {"name": "a"}])),
        ),
        (
            containers(json!([{"name": "a"}, {"name": "b"}])),
            json!({"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}}),
            containers(json!([{"name": "b"}, {"name": "a"}])),
        ),
        // A union keeps only the keys that are retained.
        (
            json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}}),
            json!({"spec": {"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}}]}}),
            json!({"spec": {"volumes": [{"name": "v", "hostPath": {"path": "/x"}}]}}),
        ),
        // Directives in what is new have nothing to act on and do not stay.
        (
            json!({}),
            json!({"metadata": {"labels": {"a": "1", "b": null}, "$deleteFromPrimitiveList/finalizers": ["a"]}, "spec": {"containers": [{"name": "a", "$retainKeys": ["name"]}, {"$patch": "delete", "name": "b"}]}}),
            json!({"metadata": {"labels": {"a": "1"}}, "spec": {"containers": [{"name": "a"}]}}),
        ),
    ];
    for (original, patch, expected) in table {
        assert_eq!(strategic(original.clone(), patch.clone()), expected, "{original} with {patch}");
    }
}

#[test]
fn directives_that_make_no_sense_are_refused() {
    for (patch, says) in [
        (json!({"spec": {"$patch": "sideways"}}), "unknown patch type"),
        (json!({"spec": {"$patch": 1}}), "unknown patch type"),
        (
            json!({"spec": {"containers": [{"image": "a"}]}}),
            "does not contain the declared merge key name",
        ),
        (
            json!({"spec": {"containers": ["a"]}}),
            "does not contain the declared merge key name",
        ),
        (
            json!({"spec": {"$setElementOrder/containers": 1, "containers": []}}),
            "must be a list",
        ),
        (json!({"spec": {"$retainKeys": ["a"], "hostname": "x"}}), "$retainKeys"),
        (json!({"metadata": {"$deleteFromPrimitiveList/finalizers": {}}}), "must be a list"),
    ] {
        let status = refused(patch.clone());
        assert!(status.code == 400 && status.message.contains(says), "{patch}: {}", status.message);
    }
}

#[test]
fn json_patches_are_bounded() {
    let copies = Value::from(vec![json!({"op": "copy", "from": "", "path": "/x"}); 40]);
    let (patch, _) = Patch::read(pod_schema(), "application/json-patch+json", copies.to_string().as_bytes(), 100).unwrap();
    assert_eq!(patch.apply(pod_schema(), &mut json!({"a": "b"})).unwrap_err().code, 413);
    let many = Value::from(vec![json!({"op": "remove", "path": "/x"}); MAX_OPERATIONS + 1]);
    assert_eq!(
        Patch::read(pod_schema(), "application/json-patch+json", many.to_string().as_bytes(), 100)
            .unwrap_err()
            .code,
        413
    );
    assert_eq!(
        Patch::read(pod_schema(), "application/json-patch+json", b"{}", 100)
            .unwrap_err()
            .code,
        400
    );
    assert_eq!(Patch::read(pod_schema(), "text/plain", b"{}", 100).unwrap_err().code, 415);
}

/// Containers as a map from name to image: the model of a merged list.
type Model = BTreeMap<String, Option<String>>;

fn model() -> impl Strategy<Value = Model> {
    proptest::collection::btree_map("[a-f]", proptest::option::of("[0-9]"), 0..5)
}

fn item(name: &str, image: Option<&String>) -> Value {
    let mut item = json!({"name": name});
    if let Some(image) = image {
        item["image"] = json!(image);
    }
    item
}

fn object(model: &Model) -> Value {
    json!({"spec": {"containers": model.iter().map(|(name, image)| item(name, image.as_ref())).collect::<Vec<_>>()}})
}

fn read(value: &Value) -> Model {
    let items = value["spec"]["containers"].as_array().unwrap();
    let model: Model = items
        .iter()
        .map(|item| {
            (
                item["name"].as_str().unwrap().to_owned(),
                item.get("image").map(|image| image.as_str().unwrap().to_owned()),
            )
        })
        .collect();
    assert_eq!(model.len(), items.len(), "a name twice in {value}");
    model
}

/// The patch that turns one model into another.
fn difference(from: &Model, to: &Model) -> Value {
    let gone = from
        .keys()
        .filter(|name| !to.contains_key(*name))
        .map(|name| json!({"$patch": "delete", "name": name}));
    let set = to.iter().map(|(name, image)| json!({"name": name, "image": image}));
    json!({"spec": {"containers": gone.chain(set).collect::<Vec<_>>()}})
}

proptest! {
    #[test]
    fn a_difference_applied_is_the_target(from in model(), to in model()) {
        let patch = difference(&from, &to);
        let once = strategic(object(&from), patch.clone());
        prop_assert_eq!(read(&once), to);
        prop_assert_eq!(strategic(once.clone(), patch), once, "applied twice");
    }

    #[test]
    fn an_order_moves_items_and_changes_none(model in model(), order in proptest::collection::vec("[a-h]", 0..6)) {
        let list: Vec<Value> = order.iter().map(|name| json!({"name": name})).collect();
        let ordered = strategic(object(&model), json!({"spec": {"$setElementOrder/containers": list}}));
        prop_assert_eq!(read(&ordered), model.clone());
        let names: Vec<String> = ordered["spec"]["containers"].as_array().unwrap().iter().map(|item| item["name"].as_str().unwrap().to_owned()).collect();
        let mut wanted: Vec<&String> = Vec::new();
        for name in &order {
            if model.contains_key(name) && !wanted.contains(&name) {
                wanted.push(name);
            }
        }
        let listed: Vec<&String> = names.iter().filter(|name| order.contains(name)).collect();
        prop_assert_eq!(listed, wanted);
        // The rest keeps its order, which here is alphabetical.
        let rest: Vec<&String> = names.iter().filter(|name| !order.contains(name)).collect();
        prop_assert!(rest.is_sorted());
    }

    #[test]
    fn sets_are_sets(before in proptest::collection::btree_set("[a-f]", 0..5), add in proptest::collection::btree_set("[a-f]", 0..5), gone in proptest::collection::btree_set("[a-f]", 0..5)) {
        let gone: std::collections::BTreeSet<String> = gone.difference(&add).cloned().collect();
        let patched = strategic(
            json!({"metadata": {"finalizers": before}}),
            json!({"metadata": {"finalizers": add, "$deleteFromPrimitiveList/finalizers": gone}}),
        );
        let now: std::collections::BTreeSet<String> = patched["metadata"]["finalizers"].as_array().unwrap().iter().map(|item| item.as_str().unwrap().to_owned()).collect();
        let expected: std::collections::BTreeSet<String> = before.union(&add).filter(|item| !gone.contains(*item)).cloned().collect();
        prop_assert_eq!(now, expected);
    }

    /// Whatever is sent, nothing panics and no directive is stored.
    #[test]
    fn no_directive_survives(original in anything(), patch in anything()) {
        let mut value = json!({"metadata": {}, "spec": original});
        let applied = Patch::Strategic(json!({"spec": patch})).apply(pod_schema(), &mut value);
        prop_assert!(applied.is_err() || !value.to_string().contains('$'), "{value}");
    }
}

/// Small objects made of fields a pod spec has; a `$` only in patches that
/// come with it.
fn anything() -> impl Strategy<Value = Value> {
    let scalar = prop_oneof![Just(json!(null)), Just(json!("x")), Just(json!(1))];
    scalar.prop_recursive(3, 24, 4, |inner| {
        let key = prop_oneof![
            Just("containers"),
            Just("volumes"),
            Just("name"),
            Just("hostname"),
            Just("emptyDir"),
            Just("securityContext")
        ];
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            proptest::collection::btree_map(key.prop_map(str::to_owned), inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}
