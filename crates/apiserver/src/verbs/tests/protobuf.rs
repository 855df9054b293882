//! Protobuf says what JSON says: in objects, lists, events and refusals, of
//! requests and answers.

use api::protobuf::{MEDIA_TYPE, decode, encode};
use http::{Method, Request};
use http_body_util::BodyExt;
use serde_json::{Value, json};

use super::PODS;
use crate::body;
use crate::testing::Rig;

const BOTH: &str = "application/vnd.kubernetes.protobuf,application/json";

async fn send(rig: &Rig, method: Method, path: &str, body: Vec<u8>) -> (u16, Value) {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", MEDIA_TYPE)
        .header("accept", BOTH)
        .body(body::full(body))
        .unwrap();
    let answer = rig.request(Some(Rig::admin()), request).await;
    assert_eq!(answer.headers["content-type"], MEDIA_TYPE, "{:?}", answer.text);
    (answer.code, decode(&answer.text, 64).unwrap().1)
}

/// What JSON shows and protobuf does not carry: the types of items.
fn untyped(mut list: Value) -> Value {
    for item in list.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten() {
        item.as_object_mut()
            .unwrap()
            .retain(|name, _| name != "kind" && name != "apiVersion");
    }
    list
}

#[tokio::test]
async fn reads_say_the_same_in_both_encodings() {
    let rig = Rig::new().await;
    for name in ["a", "b", "c"] {
        rig.pod(name, Some("n1")).await;
    }
    let paths = [
        "/a".to_owned(),
        String::new(),
        "?limit=2".to_owned(),
        "?fieldSelector=metadata.name=b".to_owned(),
        "/a/status".to_owned(),
        "/none".to_owned(),
        "?fieldSelector=spec.none=b".to_owned(),
    ];
    for path in paths {
        let path = format!("{PODS}{path}");
        let text = rig.get(&path).await;
        let bytes = rig.get_as(&path, BOTH).await;
        assert_eq!(
            (bytes.code, bytes.headers["content-type"].to_str().unwrap()),
            (text.code, MEDIA_TYPE),
            "{path}"
        );
        let (_, mut value) = decode(&bytes.text, 64).unwrap();
        let mut wanted = untyped(text.json());
        // JSON has a status's empty metadata, protobuf an empty message.
        for value in [&mut value, &mut wanted] {
            value.as_object_mut().unwrap().retain(|_, value| *value != json!({}));
        }
        assert_eq!(value, wanted, "{path}");
    }
}

#[tokio::test]
async fn every_kind_can_be_read_in_protobuf() {
    let rig = Rig::new().await;
    rig.pod("a", Some("n1")).await;
    rig.config_map("m", &json!({"x": "y"})).await;
    let rows: Vec<_> = rig.server.core().served().registry.stored().cloned().collect();
    assert!(rows.len() > 10);
    for row in rows {
        let id = &row.id;
        let path = if id.group.is_empty() {
            format!("/api/{}/{}", id.version, id.plural)
        } else {
            format!("/apis/{}/{}/{}", id.group, id.version, id.plural)
        };
        let text = rig.get(&path).await;
        let bytes = rig.get_as(&path, BOTH).await;
        assert_eq!(bytes.headers["content-type"], MEDIA_TYPE, "{path}");
        let (types, value) = decode(&bytes.text, 64).unwrap();
        assert_eq!(types.kind, format!("{}List", id.kind));
        let listed = untyped(text.json());
        let items = listed["items"].as_array().unwrap();
        let decoded = value.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
        assert_eq!(&decoded, items, "{path}");
    }
}

#[tokio::test]
async fn writes_take_and_answer_protobuf() {
    let rig = Rig::new().await;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let (code, created) = send(&rig, Method::POST, PODS, encode(&pod).unwrap()).await;
    assert_eq!(
        (code, &created["spec"]["containers"][0]["imagePullPolicy"]),
        (201, &json!("Always"))
    );
    assert_eq!(created, rig.get(&format!("{PODS}/p")).await.json());
    let mut changed = created.clone();
    changed["metadata"]["labels"] = json!({"a": "b"});
    let (code, updated) = send(&rig, Method::PUT, &format!("{PODS}/p"), encode(&changed).unwrap()).await;
    assert_eq!((code, &updated["metadata"]["labels"]["a"]), (200, &json!("b")));
    let (code, conflict) = send(&rig, Method::PUT, &format!("{PODS}/p"), encode(&changed).unwrap()).await;
    assert_eq!(
        (code, &conflict["kind"], &conflict["reason"]),
        (409, &json!("Status"), &json!("Conflict"))
    );
    let options = encode(&json!({"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0})).unwrap();
    let (code, _) = send(&rig, Method::DELETE, &format!("{PODS}/p"), options).await;
    assert_eq!((code, rig.get(&format!("{PODS}/p")).await.code), (200, 404));
    let (code, refused) = send(&rig, Method::POST, PODS, b"k8s\0nonsense".to_vec()).await;
    assert_eq!((code, &refused["reason"]), (400, &json!("BadRequest")));
}

/// `type` and object of the next frame.
async fn frame(body: &mut body::Body, buffer: &mut Vec<u8>) -> (String, Vec<u8>) {
    loop {
        if let Some((length, rest)) = buffer.split_first_chunk::<4>() {
            let length = u32::from_be_bytes(*length) as usize;
            if rest.len() >= length {
                let event = rest[..length].to_vec();
                buffer.drain(..length + 4);
                // `type` is short; `object` is a message with the bytes as its field 1.
                let kind_end = 2 + usize::from(event[1]);
                let kind = String::from_utf8(event[2..kind_end].to_vec()).unwrap();
                let at = event.windows(4).position(|window| window == b"k8s\0").unwrap();
                return (kind, event[at..].to_vec());
            }
        }
        let waited = tokio::time::timeout(std::time::Duration::from_secs(20), body.frame()).await;
        let data = waited.expect("a frame within 20 s").unwrap().unwrap().into_data().unwrap();
        buffer.extend_from_slice(&data);
    }
}

async fn watch(rig: &Rig, path: &str, accept: &str) -> (String, body::Body) {
    let request = Request::get(path).header("accept", accept).body(body::empty()).unwrap();
    let response = rig.server.handle(Some(Rig::admin()), request).await;
    let media_type = response.headers()["content-type"].to_str().unwrap().to_owned();
    (media_type, response.into_body())
}

#[tokio::test]
async fn events_come_in_frames() {
    let rig = Rig::new().await;
    rig.pod("a", None).await;
    let path = format!("{PODS}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true");
    let (media_type, mut body) = watch(&rig, &path, "application/vnd.kubernetes.protobuf;stream=watch").await;
    assert_eq!(media_type, "application/vnd.kubernetes.protobuf;stream=watch");
    let mut buffer = Vec::new();
    let (kind, object) = frame(&mut body, &mut buffer).await;
    assert_eq!(
        (kind.as_str(), decode(&object, 64).unwrap().1),
        ("ADDED", rig.get(&format!("{PODS}/a")).await.json())
    );
    let (kind, object) = frame(&mut body, &mut buffer).await;
    let bookmark = decode(&object, 64).unwrap().1;
    assert_eq!(
        (
            kind.as_str(),
            &bookmark["metadata"]["annotations"]["k8s.io/initial-events-end"],
            &bookmark["kind"]
        ),
        ("BOOKMARK", &json!("true"), &json!("Pod"))
    );
    rig.patch(&format!("{PODS}/a"), "merge-patch", &json!({"metadata": {"labels": {"x": "y"}}}))
        .await;
    let (kind, object) = frame(&mut body, &mut buffer).await;
    assert_eq!(
        (kind.as_str(), decode(&object, 64).unwrap().1),
        ("MODIFIED", rig.get(&format!("{PODS}/a")).await.json())
    );
    rig.delete(&format!("{PODS}/a"), Some(json!({"gracePeriodSeconds": 0}))).await;
    assert_eq!(frame(&mut body, &mut buffer).await.0, "DELETED");
}

#[tokio::test]
async fn metadata_alone_comes_in_frames_too() {
    let rig = Rig::new().await;
    rig.pod("a", None).await;
    let accept = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
    let (_, mut body) = watch(&rig, &format!("{PODS}?watch=1"), accept).await;
    let (kind, object) = frame(&mut body, &mut Vec::new()).await;
    assert_eq!(kind, "ADDED");
    let one = rig.get_as(&format!("{PODS}/a"), accept).await;
    assert_eq!(one.text, object);
    assert!(one.text.windows(21).any(|window| window == b"PartialObjectMetadata"));
    let whole = rig.get_as(&format!("{PODS}/a"), BOTH).await;
    assert!(one.text.len() < whole.text.len());
}

#[tokio::test]
async fn a_watch_that_is_too_old_is_told_in_a_frame() {
    let rig = Rig::with(crate::Limits {
        hub_events: 1,
        ..crate::Limits::default()
    })
    .await;
    for name in ["a", "b", "c"] {
        rig.config_map(name, &json!({})).await;
    }
    let path = "/api/v1/configmaps?watch=1&resourceVersion=1";
    let (_, mut body) = watch(&rig, path, MEDIA_TYPE).await;
    let (kind, object) = frame(&mut body, &mut Vec::new()).await;
    let status = decode(&object, 64).unwrap().1;
    assert_eq!(
        (kind.as_str(), &status["code"], &status["reason"]),
        ("ERROR", &json!(410), &json!("Expired"))
    );
}
