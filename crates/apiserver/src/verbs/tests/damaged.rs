//! Stored values that cannot be decoded: a flipped bit on the disk, a lost key.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, header};
use serde_json::json;
use store::{Op, Store, Txn};

use super::{MAPS, PODS, names};
use crate::body;
use crate::sealed::{Keys, Sealed};
use crate::testing::Rig;
use crate::{ApiServer, Identity};

const KEY: &str = "/registry/configmaps/default/b";
const OPTION: &str = "ignoreStoreReadErrorWithClusterBreakingPotential";

/// A map whose stored value lost a byte in its middle; returns the revision.
async fn damage(rig: &Rig, key: &str) -> u64 {
    let stored = rig.store.get(key).await.unwrap().unwrap().value;
    let text = String::from_utf8(stored.to_vec()).unwrap();
    let broken = text.replacen(':', "", 1);
    assert_ne!(broken, text);
    let txn = Txn {
        compare: vec![],
        ops: vec![Op::Put(key.to_owned(), Bytes::from(broken))],
    };
    rig.store.commit(txn).await.unwrap().0
}

/// Three ConfigMaps, and the revision of a list of them.
async fn maps(rig: &Rig) -> String {
    for name in ["a", "b", "c"] {
        rig.config_map(name, &json!({})).await;
    }
    let list = rig.get(MAPS).await.json();
    list["metadata"]["resourceVersion"].as_str().unwrap().to_owned()
}

fn corrupt(key: &str, revision: u64) -> String {
    format!(
        "StorageError: corrupt object, Code: 7, Key: {key}, ResourceVersion: 0, AdditionalErrorMsg: object not decodable revision={revision}"
    )
}

#[tokio::test]
async fn a_damaged_object_is_an_error_that_names_it_and_the_rest_stays_within_reach() {
    let rig = Rig::new().await;
    let before = maps(&rig).await;
    let revision = damage(&rig, KEY).await;
    let one = format!("500 Internal error occurred: {}", corrupt(KEY, revision));
    // As it is met while the server runs, and after it started on such a store.
    let mut rig = rig;
    for restarted in [false, true] {
        if restarted {
            rig = rig.restarted().await;
        }
        let got = rig.get(&format!("{MAPS}/b")).await;
        assert_eq!(got.brief(), one);
        assert_eq!(got.json()["reason"], "InternalError");
        assert_eq!(rig.get(&format!("{MAPS}/a")).await.brief(), "200 a");
        for list in [
            MAPS,
            "/api/v1/configmaps",
            &format!("{MAPS}?resourceVersion=0"),
            &format!("{MAPS}?labelSelector=a"),
        ] {
            let listed = rig.get(list).await;
            assert_eq!(
                listed.brief(),
                "500 failed to read one or more configmaps from the storage",
                "{list}"
            );
            let status = listed.json();
            assert_eq!(status["reason"], "StoreReadError");
            assert_eq!(status["details"]["causes"][0]["field"], KEY);
            assert_eq!(status["details"]["causes"][0]["reason"], "UnexpectedServerResponse");
        }
        // Pages up to it, another namespace, other kinds, and the past.
        assert_eq!(names(&rig.get(&format!("{MAPS}?limit=1")).await.json()), ["a"]);
        assert_eq!(rig.get("/api/v1/namespaces/kube-system/configmaps").await.code, 200);
        assert_eq!(rig.get(PODS).await.code, 200);
        if !restarted {
            let past = rig
                .get(&format!("{MAPS}?resourceVersion={before}&resourceVersionMatch=Exact"))
                .await;
            assert_eq!(names(&past.json()), ["a", "b", "c"]);
            let exact = rig
                .get(&format!("{MAPS}?resourceVersion={revision}&resourceVersionMatch=Exact"))
                .await;
            assert_eq!(exact.code, 500);
        }
        // Nothing overwrites it unseen.
        let map = json!({"metadata": {"name": "b"}, "data": {"k": "new"}});
        assert_eq!(rig.put(&format!("{MAPS}/b"), &map).await.brief(), one);
        assert_eq!(rig.patch(&format!("{MAPS}/b"), "merge-patch", &map).await.brief(), one);
        assert_eq!(rig.post(MAPS, &map).await.brief(), r#"409 configmaps "b" already exists"#);
        assert_eq!(rig.delete(&format!("{MAPS}/b"), None).await.brief(), one);
        assert_eq!(rig.delete(MAPS, None).await.code, 500);
        // Writes beside it work.
        assert_eq!(
            rig.put(&format!("{MAPS}/c"), &json!({"metadata": {"name": "c"}, "data": {"k": "w"}}))
                .await
                .code,
            200
        );
    }
}

#[tokio::test]
async fn a_watch_is_told_that_it_has_to_list_again() {
    let rig = Rig::new().await;
    let before = maps(&rig).await;
    let from = format!("watch=1&resourceVersion={before}");
    let mut running = rig.watch(&format!("{MAPS}?{from}")).await;
    let mut narrow = rig.watch(&format!("{MAPS}?{from}&fieldSelector=metadata.name%3Da")).await;
    let revision = damage(&rig, KEY).await;
    let event = running.next().await.unwrap();
    assert_eq!(event["type"], "ERROR");
    assert_eq!(event["object"]["code"], 500);
    assert_eq!(
        event["object"]["message"],
        format!("Internal error occurred: {}", corrupt(KEY, revision))
    );
    assert!(running.next().await.is_none(), "an error is the last event");
    // One that resumes before it is told the same; one that begins with all
    // objects cannot begin; one of another object does not notice.
    assert_eq!(rig.watch(&format!("{MAPS}?{from}")).await.next().await.unwrap()["type"], "ERROR");
    assert_eq!(
        rig.get(&format!("{MAPS}?watch=1")).await.brief(),
        "500 failed to read one or more configmaps from the storage"
    );
    rig.delete(&format!("{MAPS}/a"), None).await;
    assert_eq!(narrow.brief().await, "DELETED a");
    // Its deletion cannot be shown either.
    let after = rig.get("/api/v1/namespaces/default").await.code;
    assert_eq!(after, 200);
    let mut later = rig
        .watch(&format!("{MAPS}?watch=1&resourceVersion={}", rig.store.revision().0))
        .await;
    assert_eq!(rig.delete(&format!("{MAPS}/b?{OPTION}=true"), None).await.code, 200);
    assert_eq!(later.next().await.unwrap()["type"], "ERROR");
    assert_eq!(names(&rig.get(MAPS).await.json()), ["c"]);
}

async fn delete_as(server: &ApiServer, user: &str, path: &str) -> (u16, String) {
    let request = Request::delete(path).body(body::empty()).unwrap();
    let response = server.handle(Some(Identity::new(user, &["system:authenticated"])), request).await;
    let code = response.status().as_u16();
    let text = body::read(response.into_body(), 1 << 16).await.unwrap();
    let value: serde_json::Value = serde_json::from_slice(&text).unwrap();
    (code, value["message"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn a_damaged_object_goes_only_by_the_option_made_for_it() {
    let rig = Rig::new().await;
    maps(&rig).await;
    damage(&rig, KEY).await;
    let invalid = |what: &str| format!("ignoreStoreReadErrorWithClusterBreakingPotential: Invalid value: true: {what}");
    let path = |name: &str| format!("{MAPS}/{name}?{OPTION}=true");
    // Not one that is well, nor one that is not there, nor a whole collection.
    for name in ["a", "none"] {
        assert_eq!(
            rig.delete(&path(name), None).await.brief(),
            format!(
                "422 configmaps {name:?} is invalid: {}",
                invalid("is exclusively used to delete corrupt object(s), try again by removing this option")
            )
        );
    }
    assert_eq!(
        rig.delete(&format!("{MAPS}?{OPTION}=true"), None).await.brief(),
        format!(
            "422 DeleteOptions.meta.k8s.io \"\" is invalid: {}",
            invalid("is not allowed with DELETECOLLECTION, try again after removing the option")
        )
    );
    // Nor beside options that would need to know the object.
    for (field, value) in [
        ("dryRun", json!(["All"])),
        ("propagationPolicy", json!("Background")),
        ("orphanDependents", json!(true)),
        ("gracePeriodSeconds", json!(0)),
        ("preconditions", json!({"uid": "u"})),
    ] {
        let options = json!({"kind": "DeleteOptions", "apiVersion": "v1", OPTION: true, field: value});
        assert_eq!(
            rig.delete(&format!("{MAPS}/b"), Some(options)).await.brief(),
            format!(
                "422 DeleteOptions.meta.k8s.io \"\" is invalid: {}",
                invalid(&format!("cannot be set together with .{field}"))
            )
        );
    }
    // Nor by somebody who may delete, and no more than that.
    let role = json!({"metadata": {"name": "deleter"}, "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["delete"]}]});
    let binding = json!({
        "metadata": {"name": "deleter"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "deleter"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "eve"}],
    });
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    assert_eq!(rig.post(&format!("{rbac}/clusterroles"), &role).await.code, 201);
    assert_eq!(rig.post(&format!("{rbac}/clusterrolebindings"), &binding).await.code, 201);
    let (code, message) = delete_as(&rig.server, "eve", &path("b")).await;
    assert_eq!(code, 403);
    assert_eq!(
        message,
        r#"configmaps "b" is forbidden: not permitted to do "unsafe-delete-ignore-read-errors", reason: "#
    );
    let verbs = json!([{"op": "add", "path": "/rules/0/verbs/-", "value": "unsafe-delete-ignore-read-errors"}]);
    assert_eq!(
        rig.patch(&format!("{rbac}/clusterroles/deleter"), "json-patch", &verbs).await.code,
        200
    );
    assert_eq!(delete_as(&rig.server, "eve", &path("b")).await.0, 200);
    assert_eq!(rig.get(&format!("{MAPS}/b")).await.code, 404);
    assert_eq!(names(&rig.get(MAPS).await.json()), ["a", "c"]);
    rig.config_map("b", &json!({})).await;
}

#[tokio::test]
async fn a_secret_whose_key_is_lost_tells_nothing_and_can_be_deleted() {
    let directory = tempfile::tempdir().unwrap();
    let inner: Arc<dyn Store> = Arc::new(store::Embedded::open(&directory.path().join("store"), store::Options::default()).unwrap());
    let sealed = |keys: &str| {
        let keys = Keys::open_or_create(&directory.path().join(keys)).unwrap();
        Arc::new(Sealed::new(Arc::clone(&inner), keys))
    };
    let rig = Rig::over(sealed("keys")).await;
    let secrets = "/api/v1/namespaces/default/secrets";
    let secret = json!({"metadata": {"name": "s"}, "stringData": {"password": "hunter2"}});
    assert_eq!(rig.post(secrets, &secret).await.code, 201);
    rig.server.close().await;
    // Other keys than those it was encrypted with.
    let other = sealed("other-keys");
    let resealed = other.reseal().await.unwrap();
    assert_eq!((resealed.count, resealed.unreadable.len()), (0, 1));
    let rig = Rig::over(other).await;
    let got = rig.get(&format!("{secrets}/s")).await;
    assert_eq!(got.code, 500);
    let message = got.message();
    assert!(message.contains("Key: /registry/secrets/default/s, "), "{message}");
    assert!(message.contains("data from the storage is not transformable"), "{message}");
    let accept = Request::get(secrets).header(header::ACCEPT, "application/vnd.kubernetes.protobuf");
    let listed = rig.request(Some(Rig::admin()), accept.body(body::empty()).unwrap()).await;
    assert_eq!(listed.code, 500);
    let (_, status) = api::protobuf::decode(&listed.text, 32).unwrap();
    assert_eq!(status["reason"], "StoreReadError");
    assert_eq!(rig.delete(&format!("{secrets}/s?{OPTION}=true"), None).await.code, 200);
    assert_eq!(rig.get(secrets).await.code, 200);
    assert_eq!(rig.post(secrets, &secret).await.code, 201);
}

#[tokio::test]
async fn a_damaged_role_grants_nothing_and_does_not_keep_the_server_from_starting() {
    let rig = Rig::new().await;
    let revision = damage(&rig, "/registry/clusterroles/view").await;
    let rig = rig.restarted().await;
    let view = "/apis/rbac.authorization.k8s.io/v1/clusterroles/view";
    let got = rig.get(view).await;
    assert_eq!(
        got.brief(),
        format!("500 Internal error occurred: {}", corrupt("/registry/clusterroles/view", revision))
    );
    assert_eq!(rig.delete(&format!("{view}?{OPTION}=true"), None).await.code, 200);
    // The next start makes it anew.
    let rig = rig.restarted().await;
    assert_eq!(rig.get(view).await.code, 200);
}
