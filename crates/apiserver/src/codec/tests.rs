use http::{Method, Request, header};
use serde_json::json;

use super::*;
use crate::body;
use crate::testing::{Answer, Rig};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn send(rig: &Rig, method: Method, path: &str, bytes: Vec<u8>) -> Answer {
    let request = Request::builder().method(method).uri(path);
    let request = request
        .header(header::CONTENT_TYPE, protobuf::MEDIA_TYPE)
        .body(body::full(bytes))
        .unwrap();
    rig.request(Some(Rig::admin()), request).await
}

fn map(name: &str, value: &str) -> Vec<u8> {
    protobuf::encode(&json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"key": value}})).unwrap()
}

#[tokio::test]
async fn protobuf_bodies_are_stored_as_json_ones_are() {
    let rig = Rig::new().await;
    let created = send(&rig, Method::POST, &format!("{MAPS}?fieldValidation=Strict"), map("a", "1")).await;
    assert_eq!(created.code, 201, "{:?}", created.text);
    assert_eq!(created.json()["data"], json!({"key": "1"}));
    let path = format!("{MAPS}/a");
    assert_eq!(send(&rig, Method::PUT, &path, map("a", "2")).await.code, 200);
    assert_eq!(rig.get(&path).await.json()["data"], json!({"key": "2"}));

    let options = |uid: &str| {
        let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": uid}});
        protobuf::encode(&options).unwrap()
    };
    assert_eq!(send(&rig, Method::DELETE, &path, options("another")).await.code, 409);
    let uid = created.json()["metadata"]["uid"].as_str().unwrap().to_owned();
    assert_eq!(send(&rig, Method::DELETE, &path, options(&uid)).await.code, 200);
    assert_eq!(rig.get(&path).await.code, 404);
}

#[tokio::test]
async fn protobuf_that_is_not_the_object_is_refused() {
    let rig = Rig::new().await;
    let table = [
        (
            b"{}".to_vec(),
            "the object provided is unrecognized (must be of type ConfigMap): the body does not begin with the four bytes \"k8s\\0\" of Kubernetes protobuf",
        ),
        (
            protobuf::encode(&json!({"apiVersion": "v1", "kind": "Secret"})).unwrap(),
            "the kind in the data (Secret) does not match the expected kind (ConfigMap)",
        ),
        (
            b"k8s\0\x0a\x0f\x0a\x02v1\x12\x09ConfigMap\x12\x02\x0a\x05".to_vec(),
            "the object provided is unrecognized (must be of type ConfigMap): metadata: the message ends inside a value",
        ),
    ];
    for (bytes, message) in table {
        let answer = send(&rig, Method::POST, MAPS, bytes).await;
        assert_eq!((answer.code, answer.message().as_str()), (400, message));
    }
    // A patch has media types of its own.
    assert_eq!(send(&rig, Method::PATCH, &format!("{MAPS}/a"), map("a", "1")).await.code, 415);
}
