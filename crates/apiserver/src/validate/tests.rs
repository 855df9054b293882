use api::{Object, ResourceId, Scope};
use serde_json::json;

use super::*;
use crate::registry::Resource;

fn row(scope: Scope) -> Resource {
    let schema = api::schema::for_kind("", "v1", "Pod").unwrap();
    Resource {
        scope,
        ..Resource::plain(ResourceId::new("", "v1", "Pod", "pods"), "pods", schema)
    }
}

fn object(metadata: Value) -> Object {
    let mut object: Object = serde_json::from_value(json!({ "metadata": metadata })).unwrap();
    object.meta.namespace.get_or_insert_with(|| "default".to_owned());
    object
}

fn said(metadata_of: Value) -> Vec<String> {
    texts(&metadata(&row(Scope::Namespaced), &object(metadata_of), None))
}

fn texts(violations: &[Violation]) -> Vec<String> {
    violations.iter().map(|v| format!("{}: {}", v.field, v.message)).collect()
}

const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";

#[test]
fn names_of_objects() {
    let long = "a".repeat(254);
    let rows = [
        (
            json!({}),
            vec!["metadata.name: Required value: name or generateName is required".to_owned()],
        ),
        (
            json!({ "name": "A_b" }),
            vec![format!("metadata.name: Invalid value: \"A_b\": {SUBDOMAIN}")],
        ),
        (
            json!({ "name": long }),
            vec![format!(
                "metadata.name: Invalid value: \"{long}\": must be no more than 253 characters"
            )],
        ),
        (json!({ "name": "a.b-c" }), vec![]),
        (json!({ "name": "a-x", "generateName": "a-" }), vec![]),
        (
            json!({ "name": "a-x", "generateName": "A-" }),
            vec![format!("metadata.generateName: Invalid value: \"A-\": {SUBDOMAIN}")],
        ),
    ];
    for (metadata, wanted) in rows {
        assert_eq!(said(metadata.clone()), wanted, "{metadata}");
    }
}

#[test]
fn namespaces_of_objects() {
    let mut bare = object(json!({ "name": "a" }));
    bare.meta.namespace = None;
    assert_eq!(
        texts(&metadata(&row(Scope::Namespaced), &bare, None)),
        ["metadata.namespace: Required value"]
    );
    assert!(metadata(&row(Scope::Cluster), &bare, None).is_empty());
    assert_eq!(
        texts(&metadata(&row(Scope::Cluster), &object(json!({ "name": "a" })), None)),
        ["metadata.namespace: Forbidden: not allowed on this type"]
    );
}

#[test]
fn labels_and_annotations() {
    assert_eq!(
        said(json!({ "name": "a", "labels": { "k": "a b" } })),
        [
            r#"metadata.labels: Invalid value: "a b": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"#
        ]
    );
    assert_eq!(
        said(json!({ "name": "a", "labels": { "a b": "" } })),
        [
            r#"metadata.labels: Invalid value: "a b": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"#
        ]
    );
    assert_eq!(
        said(json!({ "name": "a", "annotations": { "Example.com/Key": "any text" } })),
        Vec::<String>::new()
    );
    assert_eq!(said(json!({ "name": "a", "annotations": { "a b": "" } })).len(), 1);
    let most = json!({ "name": "a", "annotations": { "k": "x".repeat(256 * 1024 - 1) } });
    assert_eq!(said(most), Vec::<String>::new());
    let more = json!({ "name": "a", "annotations": { "k": "x".repeat(256 * 1024) } });
    assert_eq!(said(more), ["metadata.annotations: Too long: may not be more than 262144 bytes"]);
}

#[test]
fn owners_and_finalizers() {
    let owner =
        |kind: &str, controller: bool| json!({ "apiVersion": "v1", "kind": kind, "name": kind, "uid": "u", "controller": controller });
    assert_eq!(
        said(json!({ "name": "a", "ownerReferences": [owner("Pod", true), owner("Node", false)] })),
        Vec::<String>::new()
    );
    let two = said(json!({ "name": "a", "ownerReferences": [owner("Pod", true), owner("Node", true)] }));
    assert!(
        two.len() == 1
            && two[0].ends_with(r#"Only one reference can have Controller set to true. Found "true" in references for Pod and Node"#),
        "{two:?}"
    );
    assert_eq!(
        said(json!({ "name": "a", "ownerReferences": [{ "apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "" }] })),
        [r#"metadata.ownerReferences.uid: Invalid value: "": must not be empty"#]
    );
    assert!(
        said(json!({ "name": "a", "ownerReferences": [owner("Event", false)] }))[0]
            .ends_with("Kind=Event is disallowed from being an owner")
    );
    assert_eq!(
        said(json!({ "name": "a", "finalizers": ["a.b/c", "orphan"] })),
        Vec::<String>::new()
    );
    assert_eq!(
        said(json!({ "name": "a", "finalizers": ["mine"] })),
        [r#"metadata.finalizers[0]: Invalid value: "mine": name is neither a standard finalizer name nor is it fully qualified"#]
    );
    assert!(said(json!({ "name": "a", "finalizers": ["orphan", "foregroundDeletion"] }))[0].ends_with("cannot be both set"));
}

#[test]
fn what_never_changes() {
    let old = object(json!({ "name": "a", "uid": "u", "creationTimestamp": "2023-11-14T22:13:20Z", "generation": 3 }));
    let change = |field: &str, value: Value| {
        let mut wire = serde_json::to_value(&old).unwrap();
        wire["metadata"][field] = value;
        let new: Object = serde_json::from_value(wire).unwrap();
        texts(&metadata(&row(Scope::Namespaced), &new, Some(&old)))
    };
    assert_eq!(change("uid", json!("u")), Vec::<String>::new());
    assert_eq!(
        change("uid", json!("v")),
        [r#"metadata.uid: Invalid value: "v": field is immutable"#]
    );
    assert_eq!(
        change("name", json!("b")),
        [r#"metadata.name: Invalid value: "b": field is immutable"#]
    );
    let moved = change("creationTimestamp", json!("2023-11-14T22:13:21Z"));
    assert_eq!(
        moved,
        [r#"metadata.creationTimestamp: Invalid value: "2023-11-14T22:13:21Z": field is immutable"#]
    );
    assert_eq!(change("deletionTimestamp", json!("2023-11-14T22:13:21Z")).len(), 1);
    assert_eq!(
        change("generation", json!(2)),
        ["metadata.generation: Invalid value: 2: must not be decremented"]
    );
    let mut leaving = old.clone();
    leaving.meta.deletion_timestamp = leaving.meta.creation_timestamp.clone();
    leaving.meta.finalizers = Some(vec!["a.b/c".to_owned()]);
    let mut more = leaving.clone();
    more.meta.finalizers = Some(vec!["a.b/c".to_owned(), "a.b/d".to_owned()]);
    assert_eq!(
        texts(&metadata(&row(Scope::Namespaced), &more, Some(&leaving))),
        [
            r#"metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{"a.b/d"}"#
        ]
    );
    let mut less = leaving.clone();
    less.meta.finalizers = None;
    assert!(metadata(&row(Scope::Namespaced), &less, Some(&leaving)).is_empty());
}

#[test]
fn formats_of_names() {
    type Format = fn(&str) -> names::Checked;
    let long = "a".repeat(64);
    let rows: [(Format, &[&str], &[&str]); 8] = [
        (
            names::dns1123_label,
            &["a", "0", "a-b"],
            &["", "-a", "a-", "A", "a.b", "a_b", &long],
        ),
        (
            names::dns1123_subdomain,
            &["a", "a.b", "0.1", &long],
            &["", ".", "a..b", "a.", "-a.b", "A.b"],
        ),
        (
            names::dns1123_subdomain_with_underscore,
            &["a_b.c", "_srv.a", "a"],
            &["", "a_", "__a", "a._b"],
        ),
        (names::dns1035_label, &["a", "a-1"], &["", "1a", "a-", "a.b", &long]),
        (
            names::qualified_name,
            &["a", "A.b_c-d", "e.x/A"],
            &["", "/a", "a/", "a/b/c", "E/a", "a b", "-a", &long],
        ),
        (names::label_value, &["", "a", "A.b_c-1"], &["a b", "-a", "a-", &long]),
        (
            names::config_key,
            &["a", "A.b_c-1", ".a", "-"],
            &["", "a/b", ".", "..", "..a", "a b"],
        ),
        (names::path_segment, &["a", "A b", "x:y"], &[".", "..", "a/b", "a%b"]),
    ];
    for (index, (format, good, bad)) in rows.iter().enumerate() {
        for text in *good {
            assert_eq!(format(text), Ok(()), "format {index}, {text:?}");
        }
        for text in *bad {
            assert!(format(text).is_err_and(|texts| !texts.is_empty()), "format {index}, {text:?}");
        }
    }
}

#[test]
fn every_broken_rule_of_a_qualified_name_is_said() {
    let texts = names::qualified_name("A/").unwrap_err();
    assert_eq!(texts.len(), 3);
    assert!(texts[0].starts_with("prefix part a lowercase RFC 1123 subdomain"));
    assert_eq!(texts[1], "name part must be non-empty");
    assert!(
        names::qualified_name("a/b/c").unwrap_err()[0]
            .ends_with("with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')")
    );
}

#[test]
fn addresses_and_paths() {
    assert!(values::address("f", "::1").is_none() && values::address("f", "1.2.3").is_some());
    for bad in [
        "0.0.0.0",
        "127.0.0.1",
        "169.254.0.1",
        "224.0.0.1",
        "::",
        "::1",
        "fe80::1",
        "ff02::1",
        "x",
    ] {
        assert_eq!(values::ordinary_address("f", bad).len(), 1, "{bad}");
    }
    assert!(values::ordinary_address("f", "10.0.0.1").is_empty());
    assert!(values::descending_path("f", "a/b").is_empty() && values::descending_path("f", "/../a").len() == 2);
}
