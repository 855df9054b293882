use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn pod() -> Schema<'static> {
    named("io.k8s.api.core.v1.Pod").unwrap()
}

fn at(schema: Schema<'static>, path: &[&str]) -> Schema<'static> {
    path.iter().fold(schema, |schema, name| {
        let inner = schema.items().unwrap_or(schema);
        inner.field(name).unwrap_or_else(|| panic!("{inner:?} has no field {name}")).schema
    })
}

#[test]
fn the_kinds_we_serve_are_there() {
    for (group, version, kind) in [
        ("", "v1", "Pod"),
        ("", "v1", "PodList"),
        ("", "v1", "Namespace"),
        ("", "v1", "Node"),
        ("", "v1", "Event"),
        ("events.k8s.io", "v1", "Event"),
        ("", "v1", "ConfigMap"),
        ("", "v1", "Secret"),
        ("", "v1", "Service"),
        ("", "v1", "Endpoints"),
        ("", "v1", "ServiceAccount"),
        ("coordination.k8s.io", "v1", "Lease"),
        ("discovery.k8s.io", "v1", "EndpointSlice"),
        ("", "v1", "Binding"),
        ("", "v1", "DeleteOptions"),
        ("", "v1", "Status"),
        ("policy", "v1", "Eviction"),
        ("rbac.authorization.k8s.io", "v1", "ClusterRole"),
        ("scheduling.k8s.io", "v1", "PriorityClass"),
        ("node.k8s.io", "v1", "RuntimeClass"),
    ] {
        let schema = for_kind(group, version, kind).unwrap_or_else(|| panic!("no {group}/{version} {kind}"));
        assert_eq!(schema.group_version_kind(), Some((group, version, kind)));
        assert!(schema.field("kind").is_some());
    }
    assert_eq!(for_kind("", "v1", "Nothing"), None);
    assert_eq!(named("io.k8s.api.core.v1.Nothing"), None);
}

#[test]
fn the_table_knows_shapes_and_patch_rules() {
    assert_eq!(pod().kind(), Kind::Object);
    let spec = at(pod(), &["spec"]);
    assert_eq!(spec.name(), Some("io.k8s.api.core.v1.PodSpec"));
    assert_eq!(spec.required(), ["containers"]);

    let containers = spec.field("containers").unwrap();
    assert_eq!(
        containers.patch,
        PatchStrategy {
            merge: true,
            merge_key: Some("name"),
            ..PatchStrategy::default()
        }
    );
    assert_eq!(
        (containers.list_type, containers.list_map_keys),
        (Some(ListType::Map), ["name".into()].as_slice())
    );
    let ports = containers.schema.items().unwrap().field("ports").unwrap();
    assert_eq!(
        (ports.patch.merge_key, ports.list_map_keys),
        (Some("containerPort"), ["containerPort".into(), "protocol".into()].as_slice())
    );
    assert_eq!(
        ports.schema.items().unwrap().field("protocol").unwrap().default,
        Some(&json!("TCP"))
    );

    let volumes = spec.field("volumes").unwrap();
    assert!(volumes.patch.merge && volumes.patch.retain_keys);
    assert!(spec.field("nodeSelector").unwrap().atomic);
    assert!(at(pod(), &["metadata", "ownerReferences"]).items().unwrap().atomic());

    for (path, kind) in [
        (["spec", "containers", "image"].as_slice(), Kind::String),
        (&["spec", "containers", "ports", "containerPort"], Kind::Int32),
        (&["spec", "terminationGracePeriodSeconds"], Kind::Int64),
        (&["spec", "containers", "livenessProbe", "httpGet", "port"], Kind::IntOrString),
        (&["metadata", "creationTimestamp"], Kind::Time),
        (&["metadata", "managedFields", "fieldsV1"], Kind::Any),
        (&["spec", "hostNetwork"], Kind::Boolean),
    ] {
        assert_eq!(at(pod(), path).kind(), kind, "{path:?}");
    }
    assert_eq!(
        at(pod(), &["spec", "containers", "resources", "limits"]).values().unwrap().kind(),
        Kind::Quantity
    );
    assert_eq!(
        at(for_kind("coordination.k8s.io", "v1", "Lease").unwrap(), &["spec", "renewTime"]).kind(),
        Kind::MicroTime
    );
    assert_eq!(
        at(for_kind("", "v1", "Secret").unwrap(), &["data"]).values().unwrap().kind(),
        Kind::Bytes
    );
    assert_eq!(pod().fields().count(), 5);
}

#[test]
fn unknown_fields_are_named_and_pruned() {
    let mut value = json!({
        "apiVersion": "v1", "kind": "Pod", "later": 1,
        "metadata": { "name": "a", "labels": { "any.key/x": "y" }, "managedFields": [{ "fieldsV1": { "f:spec": {} } }] },
        "spec": {
            "containers": [{ "name": "a" }, { "name": "b", "foo": {}, "env": [{ "nme": "x" }], "resources": { "limits": { "cpu": 1 } } }],
            "volumes": [{ "name": "v", "csi": { "volumeAttributes": { "free": "text" } } }],
        },
    });
    assert_eq!(
        unknown_fields(pod(), &value),
        [
            r#"unknown field "later""#,
            r#"unknown field "spec.containers[1].env[0].nme""#,
            r#"unknown field "spec.containers[1].foo""#
        ]
    );
    prune(pod(), &mut value);
    assert_eq!(unknown_fields(pod(), &value), Vec::<String>::new());
    assert_eq!(
        value["spec"]["containers"][1],
        json!({ "name": "b", "env": [{}], "resources": { "limits": { "cpu": 1 } } })
    );
    assert_eq!(value["metadata"]["managedFields"][0]["fieldsV1"], json!({ "f:spec": {} }));

    let many: serde_json::Map<_, _> = (0..150).map(|i| (format!("x{i}"), Value::Null)).collect();
    assert_eq!(unknown_fields(pod(), &Value::Object(many)).len(), 100);
}

fn container(fields: Value) -> Value {
    json!({ "spec": { "containers": [fields] } })
}

#[test]
fn type_errors_read_as_gos() {
    for (schema, value, want) in [
        (
            pod(),
            json!({ "spec": { "containers": "a" } }),
            "json: cannot unmarshal string into Go struct field PodSpec.spec.containers of type []v1.Container",
        ),
        (
            pod(),
            json!({ "spec": { "containers": ["a"] } }),
            "json: cannot unmarshal string into Go struct field PodSpec.spec.containers of type v1.Container",
        ),
        (
            pod(),
            json!({ "spec": 1 }),
            "json: cannot unmarshal number into Go struct field Pod.spec of type v1.PodSpec",
        ),
        (
            pod(),
            json!({ "metadata": { "labels": { "a": 1 } } }),
            "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string",
        ),
        (
            pod(),
            json!({ "metadata": { "labels": [] } }),
            "json: cannot unmarshal array into Go struct field ObjectMeta.metadata.labels of type map[string]string",
        ),
        (
            pod(),
            container(json!({ "env": [{ "value": true }] })),
            "json: cannot unmarshal bool into Go struct field EnvVar.spec.containers.env.value of type string",
        ),
        (
            pod(),
            container(json!({ "command": [1] })),
            "json: cannot unmarshal number into Go struct field Container.spec.containers.command of type string",
        ),
        (
            pod(),
            container(json!({ "imagePullPolicy": 1 })),
            "json: cannot unmarshal number into Go struct field Container.spec.containers.imagePullPolicy of type v1.PullPolicy",
        ),
        (
            pod(),
            container(json!({ "ports": [{ "containerPort": "80" }] })),
            "json: cannot unmarshal string into Go struct field ContainerPort.spec.containers.ports.containerPort of type int32",
        ),
        (
            pod(),
            container(json!({ "ports": [{ "containerPort": 3_000_000_000_u64 }] })),
            "json: cannot unmarshal number 3000000000 into Go struct field ContainerPort.spec.containers.ports.containerPort of type int32",
        ),
        (
            pod(),
            container(json!({ "livenessProbe": { "httpGet": { "port": {} } } })),
            "json: cannot unmarshal object into Go struct field HTTPGetAction.spec.containers.livenessProbe.httpGet.port of type int32",
        ),
        (
            pod(),
            container(json!({ "resources": { "limits": 1 } })),
            "json: cannot unmarshal number into Go struct field ResourceRequirements.spec.containers.resources.limits of type v1.ResourceList",
        ),
        (
            pod(),
            json!({ "spec": { "hostNetwork": "yes" } }),
            "json: cannot unmarshal string into Go struct field PodSpec.spec.hostNetwork of type bool",
        ),
        (pod(), json!([]), "json: cannot unmarshal array into Go value of type v1.Pod"),
    ] {
        assert_eq!(check(schema, &value).unwrap_err().to_string(), want, "{value}");
    }
}

#[test]
fn types_that_decode_themselves_have_their_own_errors() {
    let lease = for_kind("coordination.k8s.io", "v1", "Lease").unwrap();
    let secret = for_kind("", "v1", "Secret").unwrap();
    for (schema, value, want) in [
        (
            pod(),
            container(json!({ "resources": { "limits": { "cpu": "lots" } } })),
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
        (
            pod(),
            container(json!({ "resources": { "limits": { "cpu": "1K" } } })),
            "unable to parse quantity's suffix",
        ),
        // A type that decodes itself ends decoding: an earlier error is lost.
        (
            pod(),
            json!({ "kind": 1, "spec": { "overhead": { "cpu": {} } } }),
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
        (
            pod(),
            json!({ "metadata": { "creationTimestamp": "now" } }),
            r#"parsing time "now" as "2006-01-02T15:04:05Z07:00": cannot parse "now" as "2006""#,
        ),
        (
            pod(),
            json!({ "metadata": { "creationTimestamp": 1 } }),
            "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.creationTimestamp of type string",
        ),
        (
            lease,
            json!({ "spec": { "renewTime": "2024-01-01T00:00:00Z" } }),
            r#"parsing time "2024-01-01T00:00:00Z" as "2006-01-02T15:04:05.000000Z07:00": cannot parse "Z" as ".000000""#,
        ),
        (
            secret,
            json!({ "data": { "a": "not base64" } }),
            "illegal base64 data at input byte 3",
        ),
        (
            secret,
            json!({ "data": { "a": 1 } }),
            "json: cannot unmarshal number into Go struct field Secret.data of type []uint8",
        ),
    ] {
        assert_eq!(check(schema, &value).unwrap_err().to_string(), want, "{value}");
    }
}

#[test]
fn null_is_absent_and_required_is_not_its_business() {
    for value in [
        Value::Null,
        json!({}),
        json!({ "spec": null, "metadata": null }),
        json!({ "spec": { "containers": [null, { "command": [null], "resources": { "limits": { "cpu": null } } }] }, "unknown": 1 }),
        json!({ "spec": { "containers": [{ "livenessProbe": { "httpGet": { "port": "http" } }, "resources": { "limits": { "cpu": 0.5, "memory": " 1Gi " } } }] } }),
    ] {
        assert_eq!(check(pod(), &value), Ok(()), "{value}");
    }
}

#[test]
fn the_normal_form_is_what_a_typed_round_trip_gives() {
    let mut value = json!({
        "metadata": { "name": "a", "annotations": null, "labels": { "a": null }, "creationTimestamp": "2024-01-01T02:00:00.9+02:00" },
        "spec": { "hostname": null, "containers": [{ "name": "c", "resources": { "limits": { "cpu": 0.5, "memory": "1024Mi", "x/y": null } } }] },
        "status": null,
    });
    normalize(pod(), &mut value);
    assert_eq!(
        value,
        json!({
            "metadata": { "name": "a", "labels": { "a": "" }, "creationTimestamp": "2024-01-01T00:00:00Z" },
            "spec": { "containers": [{ "name": "c", "resources": { "limits": { "cpu": "500m", "memory": "1Gi", "x/y": "0" } } }] },
        })
    );
    let typed: crate::typed::Pod = serde_json::from_value(value.clone()).unwrap();
    assert_eq!(serde_json::to_value(typed).unwrap()["spec"], value["spec"]);
}

#[test]
fn published_defaults_fill_absent_fields_alone() {
    let mut value =
        json!({ "spec": { "containers": [{ "ports": [{ "containerPort": 1 }, { "containerPort": 2, "protocol": "UDP" }] }, {}] } });
    apply_defaults(pod(), &mut value);
    assert_eq!(
        value,
        json!({ "spec": { "containers": [{ "ports": [{ "containerPort": 1, "protocol": "TCP" }, { "containerPort": 2, "protocol": "UDP" }] }, {}] } })
    );
    for (definition, field, default) in defaults::CORE {
        let field = named(&format!("io.k8s.api.core.v1.{definition}"))
            .and_then(|s| s.field(field))
            .unwrap_or_else(|| panic!("{definition}.{field}"));
        assert_eq!(field.default, Some(&default.value()));
    }
}

#[test]
fn named_string_types_name_fields_that_exist() {
    for (object, field, _) in check::NAMED_STRINGS {
        let packages = ["core", "coordination", "discovery", "scheduling", "policy"].map(|p| format!("io.k8s.api.{p}.v1.{object}"));
        let meta = format!("io.k8s.apimachinery.pkg.apis.meta.v1.{object}");
        let found = packages
            .iter()
            .chain([&meta])
            .filter_map(|name| named(name)?.field(field))
            .any(|f| {
                let schema = f.schema.items().unwrap_or(f.schema);
                schema.kind() == Kind::String
            });
        assert!(found, "{object}.{field}");
    }
}

#[test]
fn duplicate_keys_are_named_and_the_last_wins() {
    let text = br#"{"a":1,"spec":{"x":1,"y":[{"z":1},{"z":1,"z":2,"z":3}],"x":2},"a":2}"#;
    let (value, duplicates) = parse_strict(text, 32).unwrap();
    assert_eq!(value, json!({ "a": 2, "spec": { "x": 2, "y": [{ "z": 1 }, { "z": 3 }] } }));
    assert_eq!(
        duplicates,
        [
            r#"duplicate field "spec.y[1].z""#,
            r#"duplicate field "spec.x""#,
            r#"duplicate field "a""#
        ]
    );
}

#[test]
fn what_is_not_json_or_too_deep_is_refused() {
    for text in ["", "{", "[1,]", "{\"a\":1}x", "nul", "{\"a\":1e999}", "\"\\ud800\"", "{1:2}"] {
        assert!(matches!(parse_strict(text.as_bytes(), 32), Err(ParseError::Syntax(_))), "{text}");
    }
    assert!(parse_strict(b"{\"a\":", 32).unwrap_err().is_eof());
    assert!(parse_strict(b"\xff", 32).is_err());
    assert_eq!(parse_strict(b"[[[1]]]", 3).unwrap().0, json!([[[1]]]));
    assert!(matches!(parse_strict(b"[[[[1]]]]", 3), Err(ParseError::TooDeep { max_depth: 3 })));
    assert!(parse_strict("[".repeat(100_000).as_bytes(), usize::MAX).is_err());
}

#[test]
fn a_broken_table_is_refused() {
    for (source, want) in [
        ("{", "line 1"),
        (
            "{\"definition\":\"b\",\"fields\":{}}\n{\"definition\":\"a\",\"fields\":{}}",
            "definition a",
        ),
        (
            "{\"definition\":\"a\",\"fields\":{\"x\":{\"type\":\"[]b\"}}}",
            "field x of a has the type \"[]b\"",
        ),
        (
            "{\"definition\":\"a\",\"fields\":{\"x\":{\"type\":\"string\",\"list\":\"bag\"}}}",
            "\"bag\"",
        ),
    ] {
        let error = table::Table::decode(source).map(drop).unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[a-z0-9.]{0,8}".prop_map(Value::from)
    ];
    let key = prop_oneof![
        "[a-c]{1,2}",
        proptest::sample::select(vec![
            "spec",
            "containers",
            "env",
            "name",
            "metadata",
            "labels",
            "resources",
            "limits"
        ])
        .prop_map(str::to_owned)
    ];
    leaf.prop_recursive(6, 64, 4, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(key.clone(), inner, 0..4).prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn parsing_agrees_with_serde_json(value in any_json()) {
        let text = serde_json::to_vec(&value).unwrap();
        prop_assert_eq!(parse_strict(&text, 64).unwrap(), (value, Vec::new()));
    }

    #[test]
    fn pruning_leaves_nothing_unknown_and_takes_nothing_known(value in any_json()) {
        let mut pruned = value.clone();
        prune(pod(), &mut pruned);
        prop_assert_eq!(unknown_fields(pod(), &pruned), Vec::<String>::new());
        if unknown_fields(pod(), &value).is_empty() {
            prop_assert_eq!(pruned, value);
        }
    }

    #[test]
    fn a_checked_value_stays_well_formed_in_normal_form(value in any_json()) {
        if check(pod(), &value).is_ok() {
            let mut normal = value;
            normalize(pod(), &mut normal);
            prop_assert_eq!(check(pod(), &normal), Ok(()));
            let once = normal.clone();
            normalize(pod(), &mut normal);
            prop_assert_eq!(normal, once);
        }
    }
}
