//! What can be sent and answered, and the exact refusal of everything else.

use http::{Method, header};
use serde_json::{Value, json};

use super::{MAPS, PODS};
use crate::testing::Rig;

const READ: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf";
const STREAMS: &str = "application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch";
const PATCHES: &str =
    "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, application/apply-patch+yaml";

#[tokio::test]
async fn what_cannot_be_answered_is_refused_with_what_can() {
    let rig = Rig::new().await;
    rig.config_map("a", &json!({})).await;
    let object = format!("{MAPS}/a");
    let watch = format!("{MAPS}?watch=1");
    let table = [
        (MAPS, "text/html", READ),
        (object.as_str(), "text/plain", READ),
        (object.as_str(), "application/xml;q=0.9, image/*", READ),
        (object.as_str(), "application/cbor", READ),
        (object.as_str(), "application/json;as=Foo;g=meta.k8s.io;v=v1", READ),
        (object.as_str(), "application/json;as=Table;g=meta.k8s.io;v=v7", READ),
        (object.as_str(), "application/json;stream=other", READ),
        (watch.as_str(), "text/html", STREAMS),
        (watch.as_str(), "application/yaml", STREAMS),
        (watch.as_str(), "application/yaml, application/json", STREAMS),
        (
            "/apis/metrics.k8s.io/v1beta1/nodes",
            "text/html",
            "application/json, application/yaml",
        ),
    ];
    for (path, accept, accepted) in table {
        let answer = rig.get_as(path, accept).await;
        // A refusal comes in what the client would rather have.
        let status: Value = serde_saphyr::from_slice(&answer.text).unwrap();
        assert_eq!((answer.code, &status["reason"]), (406, &json!("NotAcceptable")), "{path} {accept}");
        assert_eq!(
            status["message"],
            format!("only the following media types are accepted: {accepted}"),
            "{path} {accept}"
        );
        assert_eq!(status.get("details"), None);
    }
    // What is not kept has no columns, and no table.
    let review = json!({"spec": {"nonResourceAttributes": {"path": "/", "verb": "get"}}}).to_string();
    let request = http::Request::post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews")
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::ACCEPT, "application/json;as=Table;v=v1;g=meta.k8s.io")
        .body(crate::body::full(review))
        .unwrap();
    let answer = rig.request(Some(Rig::admin()), request).await;
    assert_eq!(answer.brief(), format!("406 only the following media types are accepted: {READ}"));
    // The first that can be answered is.
    assert_eq!(rig.get_as(&object, "text/html, application/json;q=0.1").await.code, 200);
    assert_eq!(rig.get_as(&object, "text/html, */*;q=0.1").await.code, 200);
}

#[tokio::test]
async fn a_body_of_an_unknown_form_is_refused_with_the_known_ones() {
    let rig = Rig::new().await;
    rig.config_map("a", &json!({})).await;
    let object = format!("{MAPS}/a");
    let eviction = format!("{PODS}/p/eviction");
    let map = json!({"metadata": {"name": "a"}}).to_string();
    let table = [
        (Method::POST, MAPS, "text/plain", READ),
        (Method::POST, MAPS, "application/x-www-form-urlencoded", READ),
        (Method::POST, MAPS, "application/cbor", READ),
        (Method::PUT, object.as_str(), "application/merge-patch+json", READ),
        (Method::DELETE, object.as_str(), "text/plain", READ),
        (Method::POST, eviction.as_str(), "application/xml", READ),
        (Method::PATCH, object.as_str(), "application/json", PATCHES),
        (Method::PATCH, object.as_str(), "application/yaml", PATCHES),
        (Method::PATCH, object.as_str(), "application/apply-patch+json", PATCHES),
        (Method::PATCH, object.as_str(), "", PATCHES),
    ];
    for (method, path, media_type, accepted) in table {
        let answer = rig.send(method.clone(), path, media_type, map.clone()).await;
        let status = answer.json();
        assert_eq!(
            (answer.code, &status["reason"]),
            (415, &json!("UnsupportedMediaType")),
            "{method} {path} {media_type}: {status}"
        );
        assert_eq!(
            status["message"],
            format!("the body of the request was in an unknown format - accepted media types include: {accepted}"),
            "{method} {path} {media_type}"
        );
    }
    // Parameters do not matter, nor does the case; no type is JSON.
    for media_type in ["application/json; charset=utf-8", "Application/JSON", ""] {
        assert_eq!(
            rig.send(Method::PUT, &object, media_type, map.clone()).await.code,
            200,
            "{media_type}"
        );
    }
    let patch = "application/merge-patch+json; charset=utf-8";
    assert_eq!(rig.send(Method::PATCH, &object, patch, "{}".to_owned()).await.code, 200);
}

#[tokio::test]
async fn yaml_is_read_and_answered() {
    let rig = Rig::new().await;
    let yaml = "\
apiVersion: v1
kind: ConfigMap
metadata:
  name: web
  labels: {app: web}
data:
  \"y\": \"no\"
  octal: \"0644\"
  text: |
    two
    lines: true
  empty: ''
  number: '1e3'
  tilde: '~'
  colon: 'a: b #c'
";
    let made = rig.send(Method::POST, MAPS, "application/yaml", yaml.to_owned()).await;
    assert_eq!(made.code, 201, "{:?}", made.text);
    let stored = rig.get(&format!("{MAPS}/web")).await.json();
    assert_eq!(
        stored["data"],
        json!({"y": "no", "octal": "0644", "text": "two\nlines: true\n", "empty": "", "number": "1e3", "tilde": "~", "colon": "a: b #c"})
    );
    // What is answered means the same, and can be sent back.
    for path in [format!("{MAPS}/web"), MAPS.to_owned(), format!("{MAPS}/none"), "/api/v1".to_owned()] {
        let answer = rig.get_as(&path, "application/yaml").await;
        assert_eq!(answer.headers[header::CONTENT_TYPE], "application/yaml", "{path}");
        let plain = rig.get(&path).await;
        assert_eq!(answer.code, plain.code);
        let read: Value = serde_saphyr::from_slice(&answer.text).unwrap();
        assert_eq!(read, plain.json(), "{path}");
    }
    let text = rig.get_as(&format!("{MAPS}/web"), "application/yaml").await.text;
    let text = String::from_utf8(text.to_vec()).unwrap();
    let put = rig.send(Method::PUT, &format!("{MAPS}/web"), "application/yaml", text).await;
    assert_eq!(put.code, 200);
    assert_eq!(put.json(), stored, "nothing changed");
    let table = rig.get_as(MAPS, "application/yaml;as=Table;v=v1;g=meta.k8s.io").await;
    assert!(String::from_utf8_lossy(&table.text).contains("kind: Table"));
    // Options of a delete are a body like any other.
    let options = "kind: DeleteOptions\napiVersion: v1\npreconditions:\n  uid: other\n";
    let refused = rig
        .send(Method::DELETE, &format!("{MAPS}/web"), "application/yaml", options.to_owned())
        .await;
    assert_eq!(refused.code, 409);
    for broken in ["a: [", "- 1", "a: 1\na: 2", "&a [*a]", "\u{0}"] {
        let answer = rig.send(Method::POST, MAPS, "application/yaml", broken.to_owned()).await;
        assert_eq!(answer.code, 400, "{broken:?}: {:?}", answer.text);
    }
}
