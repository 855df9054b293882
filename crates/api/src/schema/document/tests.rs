use serde_json::json;

use super::*;
use crate::schema::{Schema, apply_defaults, check, for_kind, normalize, prune, unknown_fields, violations};

fn widget() -> ResourceId {
    ResourceId::new("example.com", "v1", "Widget", "widgets")
}

fn declared(properties: &Value) -> Root {
    declare(
        &widget(),
        &json!({"type": "object", "description": "Made of parts.", "properties": properties}),
    )
    .unwrap()
}

fn refusal(spec: &Value) -> String {
    let error = declare(&widget(), &json!({"type": "object", "properties": {"spec": spec}})).unwrap_err();
    let cause = std::error::Error::source(&error).map(|source| format!(": {source}"));
    format!("{error}{}", cause.unwrap_or_default())
}

fn at<'t>(root: &'t Root, path: &[&str]) -> Schema<'t> {
    path.iter().fold(root.schema(), |schema, name| schema.field(name).unwrap().schema)
}

#[test]
fn a_document_becomes_a_schema_with_what_every_object_has() {
    let root = declared(&json!({
        "metadata": {"type": "object"},
        "spec": {"type": "object", "required": ["size"], "properties": {
            "size": {"type": "integer", "format": "int32", "default": 3, "description": "How many."},
            "mode": {"type": "string", "enum": ["Fast", "Slow"]},
            "port": {"x-kubernetes-int-or-string": true},
            "parts": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"], "items": {
                "type": "object", "properties": {"name": {"type": "string"}, "weights": {"type": "object", "additionalProperties": {"type": "number"}}}}},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            "whole": {"type": "object", "x-kubernetes-map-type": "atomic", "properties": {"on": {"type": "boolean"}}},
        }},
    }));
    let schema = root.schema();
    assert!(!schema.is_built_in());
    assert_eq!(schema.name(), Some("com.example.v1.Widget"));
    assert_eq!(schema.group_version_kind(), Some(("example.com", "v1", "Widget")));
    let names: Vec<&str> = schema.fields().map(|(name, _)| name).collect();
    assert_eq!(names, ["apiVersion", "kind", "metadata", "spec"]);
    // The metadata is the built-in one, and so are its rules.
    let metadata = at(&root, &["metadata"]);
    assert!(metadata.is_built_in());
    assert_eq!(
        Some(metadata),
        for_kind("", "v1", "Pod").unwrap().field("metadata").map(|field| field.schema)
    );

    let spec = at(&root, &["spec"]);
    assert_eq!((spec.name(), spec.required()), (None, ["size".into()].as_slice()));
    assert_eq!(spec.field("size").unwrap().default, Some(&json!(3)));
    assert_eq!(at(&root, &["spec", "size"]).kind(), Kind::Int32);
    assert_eq!(at(&root, &["spec", "port"]).kind(), Kind::IntOrString);
    assert_eq!(at(&root, &["spec", "free"]).kind(), Kind::Any);
    let parts = spec.field("parts").unwrap();
    assert_eq!(
        (parts.list_type, parts.list_map_keys),
        (Some(ListType::Map), ["name".into()].as_slice())
    );
    assert_eq!(
        parts
            .schema
            .items()
            .unwrap()
            .field("weights")
            .unwrap()
            .schema
            .values()
            .unwrap()
            .kind(),
        Kind::Number
    );
    assert!(spec.field("whole").unwrap().atomic);

    let described = Descriptions::default().of_schema(spec);
    assert_eq!(described.field("size"), Some("How many."));
    assert_eq!(described.values("mode").unwrap(), ["Fast", "Slow"]);
    let root_described = Descriptions::default().of_schema(schema);
    assert_eq!(root_described.description, "Made of parts.");
    assert!(root_described.field("metadata").unwrap().starts_with("Standard object's metadata."));

    let list = schema.beside("example.com", "v1", "WidgetList").unwrap();
    assert_eq!(list.name(), Some("com.example.v1.WidgetList"));
    assert_eq!(list.field("items").unwrap().schema.items(), Some(schema));
    // What the table does not hold is looked up among the built-in kinds.
    assert_eq!(schema.beside("", "v1", "Pod"), for_kind("", "v1", "Pod"));
}

#[test]
fn its_objects_are_pruned_defaulted_and_checked() {
    let root = declared(&json!({"spec": {"type": "object", "properties": {
        "size": {"type": "integer", "default": 3},
        "tags": {"type": "array", "items": {"type": "string"}},
    }}}));
    let mut widget = json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w", "nmae": "x"},
        "spec": {"tags": ["a"], "colour": "red"}, "status": {}});
    check(root.schema(), &widget).unwrap();
    assert_eq!(
        unknown_fields(root.schema(), &widget),
        [
            "unknown field \"metadata.nmae\"",
            "unknown field \"spec.colour\"",
            "unknown field \"status\""
        ]
    );
    prune(root.schema(), &mut widget);
    normalize(root.schema(), &mut widget);
    apply_defaults(root.schema(), &mut widget);
    assert_eq!(
        widget,
        json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w"}, "spec": {"size": 3, "tags": ["a"]}})
    );
}

#[test]
fn two_tables_of_one_document_are_two() {
    let properties = json!({"spec": {"type": "object"}});
    let (one, other) = (declared(&properties), declared(&properties));
    assert_ne!(one.schema(), other.schema());
    assert_eq!(one.schema(), one.clone().schema());
}

#[test]
fn what_is_not_understood_is_refused_by_name() {
    let cases = [
        (
            json!({"type": "string", "pattern": "a+"}),
            "the schema of spec: unknown field `pattern`",
        ),
        (json!({"type": "text"}), "the schema of spec: the type \"text\" is not known"),
        (
            json!({"type": "string", "format": "date"}),
            "the schema of spec: the format \"date\" of the type \"string\" is not understood",
        ),
        (
            json!({"properties": {"a": {"type": "string"}}}),
            "the schema of spec: what has properties is of the type object",
        ),
        (json!({"type": "array"}), "the schema of spec: an array has to state its items"),
        (
            json!({"type": "integer", "enum": ["1"]}),
            "the schema of spec: enum is understood of strings alone",
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "array", "items": {"type": "object", "properties": {"b": {}}}}}}),
            "the schema of spec.a[].b: the type is missing",
        ),
        (
            json!({"type": "object", "required": ["a"]}),
            "the schema of spec: the required field \"a\" is not among the properties",
        ),
        (
            json!({"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "map"}),
            "the schema of spec: a list that is a map has to state x-kubernetes-list-map-keys",
        ),
        (
            json!({"type": "object", "additionalProperties": true}),
            "the schema of spec.*: invalid type: boolean `true`",
        ),
    ];
    for (spec, wanted) in cases {
        let refusal = refusal(&spec);
        assert!(refusal.starts_with(wanted), "{refusal} instead of {wanted}");
    }
    let deep = (0..MAX_DEPTH).fold(json!({"type": "string"}), |inner, _| json!({"type": "array", "items": inner}));
    assert!(refusal(&deep).ends_with("nests deeper than 64 levels"));
    assert!(declare(&widget(), &json!({"type": "string"})).is_err(), "a kind is an object");
}

#[test]
fn what_the_document_does_not_allow_is_told_by_field() {
    let root = declared(&json!({"spec": {"type": "object", "required": ["size"], "properties": {
        "size": {"type": "integer", "format": "int32"},
        "mode": {"type": "string", "enum": ["Fast", "Slow"]},
        "port": {"x-kubernetes-int-or-string": true},
        "key": {"type": "string", "format": "byte"},
        "weights": {"type": "object", "additionalProperties": {"type": "number"}},
        "parts": {"type": "array", "items": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}}},
        "free": {"x-kubernetes-preserve-unknown-fields": true},
    }}}));
    let told = |spec: Value| {
        let body = json!({ "spec": spec });
        let violations = violations(root.schema(), body.as_object().unwrap());
        violations
            .into_iter()
            .map(|broken| format!("{}: {}", broken.field, broken.message))
            .collect::<Vec<_>>()
    };
    let fine = json!({"size": 1, "mode": "Fast", "port": "http", "key": "aGk=", "weights": {"a": 1, "b": 0.5}, "parts": [{"name": "x"}], "free": [{}]});
    assert_eq!(told(fine), Vec::<String>::new());
    assert_eq!(
        told(json!({"size": "1", "mode": "Warp", "port": true, "key": "=", "weights": {"a": "1"}, "parts": [{}, 3]})),
        [
            "spec.key: Invalid value: \"=\": spec.key in body must be of type byte: \"=\"",
            "spec.mode: Unsupported value: \"Warp\": supported values: \"Fast\", \"Slow\"",
            "spec.parts[0].name: Required value",
            "spec.parts[1]: Invalid value: \"integer\": spec.parts[1] in body must be of type object: \"integer\"",
            "spec.port: Invalid value: \"boolean\": spec.port in body must be of type integer,string: \"boolean\"",
            "spec.size: Invalid value: \"string\": spec.size in body must be of type integer: \"string\"",
            "spec.weights.a: Invalid value: \"string\": spec.weights.a in body must be of type number: \"string\"",
        ]
    );
    assert_eq!(told(json!({"size": 3_000_000_000_u64})).len(), 1);
    assert_eq!(told(json!({})), ["spec.size: Required value"]);
    assert_eq!(
        told(json!([])),
        ["spec: Invalid value: \"array\": spec in body must be of type object: \"array\""]
    );
}
