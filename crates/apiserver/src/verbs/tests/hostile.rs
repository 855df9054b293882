//! Whatever is sent, the answer is a status or an object, and nobody panics:
//! bytes and shapes of bodies, patches, selectors, queries.

use std::sync::LazyLock;

use http::{Method, Request};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{MAPS, PODS};
use crate::body;
use crate::testing::{Answer, Rig};

/// One server for all cases, on a runtime of its own.
static SERVER: LazyLock<(tokio::runtime::Runtime, Rig)> = LazyLock::new(|| {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let rig = runtime.block_on(async {
        let rig = Rig::new().await;
        rig.unlink();
        rig.pod("a", None).await;
        rig.config_map("m", &json!({"x": "y"})).await;
        rig
    });
    (runtime, rig)
});

fn send(method: Method, path: &str, headers: &[(&str, &str)], bytes: Vec<u8>) -> Option<Answer> {
    let (runtime, rig) = &*SERVER;
    let request = headers
        .iter()
        .fold(Request::builder().method(method).uri(path), |request, (name, value)| {
            request.header(*name, *value)
        });
    // What is no URI does not get as far as this server.
    let request = request.body(body::full(bytes)).ok()?;
    Some(runtime.block_on(rig.request(Some(Rig::admin()), request)))
}

/// An answer somebody can read, of a code that says whose fault it was.
fn assert_sound(answer: &Answer, what: &str) {
    assert!(
        matches!(answer.code, 200..=202 | 400..=499),
        "{what}: {} {:?}",
        answer.code,
        answer.text
    );
    let value: Value = if answer.text.starts_with(b"k8s\0") {
        api::protobuf::decode(&answer.text, 64).unwrap().1
    } else {
        serde_json::from_slice(&answer.text).unwrap_or_else(|error| panic!("{what}: {error}: {:?}", answer.text))
    };
    assert!(value["kind"].is_string(), "{what}: {value}");
    if answer.code >= 400 {
        assert!(!value["message"].as_str().unwrap_or_default().is_empty(), "{what}: {value}");
    }
}

/// JSON of any shape, with the names of fields that mean something.
fn shape() -> impl Strategy<Value = Value> {
    let names = prop::sample::select(vec![
        "apiVersion",
        "kind",
        "metadata",
        "name",
        "labels",
        "annotations",
        "finalizers",
        "ownerReferences",
        "spec",
        "containers",
        "image",
        "resources",
        "limits",
        "ports",
        "containerPort",
        "status",
        "data",
        "binaryData",
        "$patch",
        "$retainKeys",
        "op",
        "path",
        "value",
        "managedFields",
        "x",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(|number| json!(number)),
        prop::sample::select(vec![
            "",
            "a",
            "v1",
            "Pod",
            "replace",
            "/spec/x",
            "/metadata/name",
            "1e9",
            "0.1m",
            "\u{0}",
            "é"
        ])
        .prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 40, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(names.clone().prop_map(str::to_owned), inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn bodies_of_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300), sealed in any::<bool>(), update in any::<bool>()) {
        let bytes = if sealed { [b"k8s\0\x0a\x09\x0a\x02v1\x12\x03Pod\x12".as_slice(), &bytes].concat() } else { bytes };
        for media_type in ["application/json", "application/vnd.kubernetes.protobuf"] {
            let (method, path) = if update { (Method::PUT, format!("{PODS}/a")) } else { (Method::POST, PODS.to_owned()) };
            let headers = [("content-type", media_type), ("accept", "application/vnd.kubernetes.protobuf,application/json")];
            let answer = send(method, &path, &headers, bytes.clone()).unwrap();
            assert_sound(&answer, media_type);
        }
    }

    #[test]
    fn bodies_of_any_shape(value in shape(), strict in any::<bool>()) {
        let query = if strict { "fieldValidation=Strict&dryRun=All" } else { "dryRun=All" };
        for path in [PODS, MAPS, "/api/v1/namespaces", "/api/v1/nodes"] {
            let headers = [("content-type", "application/json")];
            let answer = send(Method::POST, &format!("{path}?{query}"), &headers, value.to_string().into_bytes()).unwrap();
            assert_sound(&answer, &value.to_string());
        }
    }

    #[test]
    fn patches_of_any_shape(value in shape()) {
        let list = json!([value]);
        for (media_type, value) in [
            ("application/merge-patch+json", &value),
            ("application/strategic-merge-patch+json", &value),
            ("application/json-patch+json", &list),
        ] {
            let headers = [("content-type", media_type)];
            let answer = send(Method::PATCH, &format!("{PODS}/a?dryRun=All"), &headers, value.to_string().into_bytes()).unwrap();
            assert_sound(&answer, &value.to_string());
        }
    }

    #[test]
    fn selectors_of_any_text(
        text in prop_oneof!["[a-z!=,() .]{0,20}", "(a|b)( in | notin |==|!=|=|>|<)[(]?[a-z0-9,]{0,6}[)]?", ".{0,20}"],
        field in any::<bool>(),
    ) {
        let encoded = percent_encoding::utf8_percent_encode(&text, percent_encoding::NON_ALPHANUMERIC).to_string();
        let name = if field { "fieldSelector" } else { "labelSelector" };
        let answer = send(Method::GET, &format!("{PODS}?{name}={encoded}"), &[], Vec::new()).unwrap();
        assert_sound(&answer, &text);
    }

    #[test]
    fn queries_of_any_text(
        name in prop::sample::select(vec!["limit", "continue", "resourceVersion", "resourceVersionMatch", "timeoutSeconds", "dryRun", "pretty", "includeObject", "fieldValidation", "sendInitialEvents"]),
        text in prop_oneof!["-?[0-9]{0,20}", "[A-Za-z0-9_=-]{0,30}", "Exact|NotOlderThan|All|true|0"],
        other in prop::sample::select(vec!["", "&resourceVersion=1", "&limit=1", "&resourceVersionMatch=Exact"]),
    ) {
        // A revision to come is waited for; only the text matters here.
        prop_assume!(!(name == "resourceVersion" && text.parse::<u64>().is_ok_and(|revision| revision > 1)));
        let answer = send(Method::GET, &format!("{PODS}?{name}={text}{other}"), &[], Vec::new()).unwrap();
        assert_sound(&answer, &format!("{name}={text}{other}"));
    }

    #[test]
    fn what_a_client_accepts_can_be_any_text(accept in "[a-z/*;=,+. 0-9]{0,40}") {
        if let Some(answer) = send(Method::GET, PODS, &[("accept", &accept)], Vec::new()) {
            assert_sound(&answer, &accept);
        }
    }
}

#[test]
fn what_nests_too_deep_or_is_too_long_is_refused() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let deep = format!("{}1{}", open.repeat(100_000), close.repeat(100_000));
        let answer = send(Method::POST, MAPS, &[("content-type", "application/json")], deep.into_bytes()).unwrap();
        assert_eq!(answer.code, 400);
    }
    let long = vec![b' '; 4 << 20];
    let answer = send(Method::POST, MAPS, &[("content-type", "application/json")], long).unwrap();
    assert_eq!(answer.code, 413);
    // A length that lies costs nothing.
    let lie = b"k8s\0\x0a\xff\xff\xff\xff\x0f".to_vec();
    let answer = send(Method::POST, MAPS, &[("content-type", "application/vnd.kubernetes.protobuf")], lie).unwrap();
    assert_eq!(answer.code, 400);
}

#[test]
fn methods_and_media_types_nobody_serves_are_refused() {
    let table = [
        (Method::HEAD, PODS, "", 405),
        (Method::OPTIONS, PODS, "", 405),
        (Method::POST, "/api/v1/namespaces/default/pods/a", "application/json", 405),
        (Method::POST, PODS, "application/xml", 415),
        (Method::PATCH, "/api/v1/namespaces/default/pods/a", "application/json", 415),
    ];
    for (method, path, media_type, code) in table {
        let head = method == Method::HEAD;
        let answer = send(method.clone(), path, &[("content-type", media_type)], b"{}".to_vec()).unwrap();
        assert_eq!(answer.code, code, "{method} {path} {media_type}");
        assert!(head || answer.json()["kind"] == "Status", "{method} {path}");
    }
}
