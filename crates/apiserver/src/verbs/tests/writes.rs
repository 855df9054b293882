use std::sync::atomic::Ordering;

use super::*;
use crate::testing::{NOW_S, pod};

#[tokio::test]
async fn a_created_object_gets_what_the_server_owns() {
    let rig = Rig::new().await;
    let mut asked = pod("a");
    asked["metadata"]["uid"] = json!("mine");
    asked["metadata"]["creationTimestamp"] = json!("2001-01-01T00:00:00Z");
    asked["metadata"]["deletionTimestamp"] = json!("2001-01-01T00:00:00Z");
    asked["status"] = json!({"phase": "Running"});
    let answer = rig.post(PODS, &asked).await;
    let created = answer.json();
    assert_eq!(answer.code, 201, "{created}");
    let meta = &created["metadata"];
    assert_eq!(meta["namespace"], "default");
    assert_eq!(meta["uid"].as_str().unwrap().len(), 36);
    assert_eq!(meta["creationTimestamp"], "2027-01-15T08:00:00Z");
    assert_eq!(meta.get("deletionTimestamp"), None);
    assert_eq!(created["status"]["phase"], "Pending");
    assert_eq!(created["spec"]["restartPolicy"], "Always");
    assert_eq!(rig.get(&format!("{PODS}/a")).await.json(), created);
    assert_eq!(rig.post(PODS, &asked).await.brief(), "409 pods \"a\" already exists");
}

#[tokio::test]
async fn a_create_in_the_wrong_place_is_refused() {
    let rig = Rig::new().await;
    assert_eq!(
        rig.post("/api/v1/namespaces/nowhere/pods", &pod("a")).await.brief(),
        "404 namespaces \"nowhere\" not found"
    );
    let mut elsewhere = pod("a");
    elsewhere["metadata"]["namespace"] = json!("kube-system");
    assert_eq!(
        rig.post(PODS, &elsewhere).await.brief(),
        "400 the namespace of the provided object does not match the namespace sent on the request"
    );
    assert_eq!(rig.post("/api/v1/pods", &pod("a")).await.code, 405);
    assert_eq!(rig.post(&format!("{PODS}/a"), &pod("a")).await.code, 405);
    let mut versioned = pod("a");
    versioned["metadata"]["resourceVersion"] = json!("7");
    assert_eq!(
        rig.post(PODS, &versioned).await.brief(),
        "400 resourceVersion should not be set on objects to be created"
    );
    let mut service = pod("a");
    service["kind"] = json!("Service");
    assert_eq!(rig.post(PODS, &service).await.code, 400);
}

#[tokio::test]
async fn generated_names_and_dry_runs() {
    let rig = Rig::new().await;
    let created = rig.post(MAPS, &json!({"metadata": {"generateName": "web-"}})).await;
    let name = created.json()["metadata"]["name"].as_str().unwrap().to_owned();
    assert!(created.code == 201 && name.starts_with("web-") && name.len() == 9, "{name}");
    let before = rig.store.revision();
    let dry = rig.post(&format!("{MAPS}?dryRun=All"), &json!({"metadata": {"name": "dry"}})).await;
    assert_eq!(dry.brief(), "201 dry");
    let metadata = dry.json()["metadata"].clone();
    assert!(
        metadata["uid"].is_string() && metadata.get("resourceVersion").is_none(),
        "{metadata}"
    );
    assert_eq!(rig.get(&format!("{MAPS}/dry")).await.brief(), "404 configmaps \"dry\" not found");
    assert_eq!(
        rig.post(&format!("{MAPS}?dryRun=All"), &json!({"metadata": {"name": name}}))
            .await
            .code,
        409
    );
    assert_eq!(
        rig.post(&format!("{MAPS}?dryRun=Some"), &json!({"metadata": {"name": "dry"}}))
            .await
            .code,
        422
    );
    let path = format!("{MAPS}/{name}");
    assert_eq!(
        rig.patch(&format!("{path}?dryRun=All"), "merge-patch", &json!({"data": {"a": "b"}}))
            .await
            .json()["data"]["a"],
        "b"
    );
    assert_eq!(rig.delete(&format!("{path}?dryRun=All"), None).await.code, 200);
    assert_eq!(rig.store.revision(), before);
}

#[tokio::test]
async fn unknown_fields_follow_field_validation() {
    let rig = Rig::new().await;
    let mut asked = pod("a");
    asked["spec"]["foo"] = json!(1);
    let strict = rig.post(&format!("{PODS}?fieldValidation=Strict"), &asked).await;
    assert_eq!(
        strict.brief(),
        r#"400 Pod in version "v1" cannot be handled as a Pod: strict decoding error: unknown field "spec.foo""#
    );
    let warned = rig.post(PODS, &asked).await;
    assert_eq!(
        (warned.code, warned.warnings()),
        (201, vec![r#"299 - "unknown field \"spec.foo\"""#.to_owned()])
    );
    assert_eq!(warned.json()["spec"].get("foo"), None);
    asked["metadata"]["name"] = json!("b");
    let ignored = rig.post(&format!("{PODS}?fieldValidation=Ignore"), &asked).await;
    assert_eq!((ignored.code, ignored.warnings().len()), (201, 0));
    let unknown = rig.post(&format!("{PODS}?fieldValidation=Maybe"), &asked).await;
    assert_eq!((unknown.code, &unknown.json()["details"]["kind"]), (422, &json!("CreateOptions")));
    let unknown = rig
        .patch(&format!("{PODS}/a?fieldValidation=Maybe"), "merge-patch", &json!({}))
        .await;
    assert_eq!((unknown.code, &unknown.json()["details"]["kind"]), (422, &json!("PatchOptions")));
    let patch = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"foo": 1}});
    let strict = rig
        .patch(&format!("{PODS}/a?fieldValidation=Strict"), "strategic-merge-patch", &patch)
        .await;
    assert_eq!(strict.code, 422);
    assert!(
        strict.message().contains(r#"strict decoding error: unknown field "spec.foo""#),
        "{}",
        strict.message()
    );
}

#[tokio::test]
async fn an_update_needs_the_version_it_was_made_from() {
    let rig = Rig::new().await;
    let first = rig.config_map("a", &json!({})).await;
    let path = format!("{MAPS}/a");
    let mut second = first.clone();
    second["data"] = json!({"k": "2"});
    let updated = rig.put(&path, &second).await;
    assert_eq!(updated.code, 200);
    assert_ne!(updated.json()["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    let stale = "409 Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to the latest version and try again";
    second["data"] = json!({"k": "3"});
    assert_eq!(rig.put(&path, &second).await.brief(), stale);
    // Without a version it replaces whatever is there.
    second["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    assert_eq!(rig.put(&path, &second).await.json()["data"]["k"], "3");
    assert_eq!(
        rig.put(&format!("{MAPS}/b"), &second).await.brief(),
        "400 the name of the object (a) does not match the name on the URL (b)"
    );
    second["metadata"]["name"] = json!("b");
    assert_eq!(
        rig.put(&format!("{MAPS}/b"), &second).await.brief(),
        "404 configmaps \"b\" not found"
    );
    second["metadata"]["name"] = json!("a");
    second["metadata"]["uid"] = json!("other");
    assert_eq!(rig.put(&path, &second).await.code, 409);
}

#[tokio::test]
async fn a_change_of_nothing_writes_nothing() {
    let rig = Rig::new().await;
    let first = rig.pod("a", None).await;
    let before = rig.store.revision();
    let path = format!("{PODS}/a");
    assert_eq!(rig.put(&path, &first).await.json(), first);
    assert_eq!(rig.patch(&path, "merge-patch", &json!({})).await.json(), first);
    assert_eq!(
        rig.patch(&path, "strategic-merge-patch", &json!({"spec": {"containers": [{"name": "c"}]}}))
            .await
            .json(),
        first
    );
    assert_eq!(
        rig.patch(
            &path,
            "json-patch",
            &json!([{"op": "test", "path": "/metadata/name", "value": "a"}])
        )
        .await
        .json(),
        first
    );
    assert_eq!(rig.store.revision(), before);
}

#[tokio::test]
async fn a_pod_s_generation_counts_changes_of_its_spec() {
    let rig = Rig::new().await;
    assert_eq!(rig.pod("a", None).await["metadata"]["generation"], 1);
    let path = format!("{PODS}/a");
    let labelled = rig
        .patch(&path, "merge-patch", &json!({"metadata": {"labels": {"a": "b"}, "generation": 7}}))
        .await
        .json();
    assert_eq!(labelled["metadata"]["generation"], 1);
    let image = json!({"spec": {"containers": [{"name": "c", "image": "nginx:2"}]}});
    assert_eq!(
        rig.patch(&path, "strategic-merge-patch", &image).await.json()["metadata"]["generation"],
        2
    );
}

#[tokio::test]
async fn every_kind_of_patch_changes_a_part() {
    let rig = Rig::new().await;
    rig.config_map("a", &json!({"x": "1"})).await;
    let path = format!("{MAPS}/a");
    let merged = rig
        .patch(&path, "merge-patch", &json!({"data": {"k": null, "n": "1"}}))
        .await
        .json();
    assert_eq!(merged["data"], json!({"n": "1"}));
    let operations = json!([{"op": "test", "path": "/data/n", "value": "1"}, {"op": "add", "path": "/data/m", "value": "2"}]);
    assert_eq!(
        rig.patch(&path, "json-patch", &operations).await.json()["data"],
        json!({"n": "1", "m": "2"})
    );
    let failing = json!([{"op": "add", "path": "/data/z", "value": "2"}, {"op": "test", "path": "/data/n", "value": "9"}]);
    let refused = rig.patch(&path, "json-patch", &failing).await;
    assert_eq!(refused.code, 422);
    assert!(
        refused
            .message()
            .starts_with("the server rejected our request due to an error in our request"),
        "{}",
        refused.message()
    );
    let strategic = rig
        .patch(
            &path,
            "strategic-merge-patch",
            &json!({"metadata": {"labels": {"x": null, "y": "2"}}}),
        )
        .await
        .json();
    assert_eq!(
        (&strategic["metadata"]["labels"], &strategic["data"]),
        (&json!({"y": "2"}), &json!({"n": "1", "m": "2"}))
    );
    assert_eq!(rig.patch(&path, "apply-patch", &json!({})).await.code, 415);
    assert_eq!(rig.patch(&path, "merge-patch", &json!([1])).await.code, 400);
    let stale = json!({"metadata": {"resourceVersion": "1"}, "data": {"z": "1"}});
    assert_eq!(rig.patch(&path, "merge-patch", &stale).await.code, 409);
    assert_eq!(
        rig.patch(&format!("{MAPS}/none"), "merge-patch", &json!({})).await.brief(),
        "404 configmaps \"none\" not found"
    );
}

#[tokio::test]
async fn patches_at_the_same_time_all_take_effect() {
    let rig = Rig::new().await;
    rig.config_map("a", &json!({})).await;
    let path = format!("{MAPS}/a");
    // Upstream tries five times; with four at a time nobody can lose more.
    let patch = |key: &'static str| {
        let (rig, path) = (&rig, &path);
        async move { rig.patch(path, "merge-patch", &json!({"data": {key: "1"}})).await.code }
    };
    let codes = tokio::join!(patch("p"), patch("q"), patch("r"), patch("s"));
    assert_eq!(codes, (200, 200, 200, 200));
    assert_eq!(
        rig.get(&path).await.json()["data"],
        json!({"k": "v", "p": "1", "q": "1", "r": "1", "s": "1"})
    );
}

#[tokio::test]
async fn status_and_the_rest_are_written_apart() {
    let rig = Rig::new().await;
    let created = rig.pod("a", Some("n")).await;
    let path = format!("{PODS}/a");
    let status = rig
        .patch(
            &format!("{path}/status"),
            "strategic-merge-patch",
            &json!({"status": {"phase": "Running"}, "spec": {"nodeName": "z"}}),
        )
        .await;
    assert_eq!(status.code, 200, "{}", status.message());
    let status = status.json();
    assert_eq!((&status["status"]["phase"], &status["spec"]), (&json!("Running"), &created["spec"]));
    let rest = rig
        .patch(
            &path,
            "merge-patch",
            &json!({"status": {"phase": "Failed"}, "metadata": {"labels": {"l": "1"}}}),
        )
        .await
        .json();
    assert_eq!(
        (&rest["status"]["phase"], &rest["metadata"]["labels"]["l"]),
        (&json!("Running"), &json!("1"))
    );
    assert_eq!(rig.get(&format!("{path}/status")).await.json(), rest);
    assert_eq!(rig.get(&format!("{MAPS}/a/status")).await.code, 404);
}

#[tokio::test]
async fn a_pod_s_deletion_waits_for_its_grace_and_only_shrinks() {
    let rig = Rig::new().await;
    let uid = rig.pod("a", Some("n")).await["metadata"]["uid"].clone();
    let path = format!("{PODS}/a");
    let first = rig.delete(&path, None).await.json();
    assert_eq!(
        (
            &first["metadata"]["deletionGracePeriodSeconds"],
            &first["metadata"]["deletionTimestamp"]
        ),
        (&json!(30), &json!("2027-01-15T08:00:30Z"))
    );
    assert_eq!(first["metadata"]["generation"], 2);
    rig.now_s.store(NOW_S + 5, Ordering::Relaxed);
    assert_eq!(rig.delete(&path, Some(json!({"gracePeriodSeconds": 60}))).await.json(), first);
    assert_eq!(rig.delete(&path, None).await.json(), first);
    let shorter = rig.delete(&format!("{path}?gracePeriodSeconds=10"), None).await.json();
    assert_eq!(shorter["metadata"]["deletionTimestamp"], "2027-01-15T08:00:10Z");
    let past = rig.delete(&path, Some(json!({"gracePeriodSeconds": 2}))).await.json();
    assert_eq!(past["metadata"]["deletionTimestamp"], "2027-01-15T08:00:05Z");
    let wrong = rig
        .delete(&path, Some(json!({"gracePeriodSeconds": 0, "preconditions": {"uid": "x"}})))
        .await;
    assert!(
        wrong.code == 409
            && wrong
                .message()
                .contains("the UID in the precondition (x) does not match the UID in record"),
        "{}",
        wrong.message()
    );
    let gone = rig
        .delete(&path, Some(json!({"gracePeriodSeconds": 0, "preconditions": {"uid": uid}})))
        .await;
    assert_eq!((gone.code, gone.json()["status"].as_str().unwrap()), (200, "Success"));
    assert_eq!(rig.delete(&path, None).await.brief(), "404 pods \"a\" not found");
    // Unscheduled: nothing to wait for.
    rig.pod("b", None).await;
    assert_eq!(rig.delete(&format!("{PODS}/b"), None).await.code, 200);
    assert_eq!(rig.get(&format!("{PODS}/b")).await.code, 404);
}

#[tokio::test]
async fn finalizers_hold_an_object_until_the_last_is_gone() {
    let rig = Rig::new().await;
    let made = rig
        .post(MAPS, &json!({"metadata": {"name": "a", "finalizers": ["example.com/f"]}}))
        .await;
    assert_eq!(made.code, 201, "{}", made.message());
    let path = format!("{MAPS}/a");
    let marked = rig.delete(&path, Some(json!({"propagationPolicy": "Background"}))).await.json();
    assert_eq!(
        (&marked["metadata"]["deletionTimestamp"], &marked["kind"]),
        (&json!("2027-01-15T08:00:00Z"), &json!("ConfigMap"))
    );
    assert_eq!(rig.delete(&path, None).await.json(), marked);
    let mut revived = marked.clone();
    revived["metadata"].as_object_mut().unwrap().remove("deletionTimestamp");
    revived["data"] = json!({"k": "w"});
    assert_eq!(
        rig.put(&path, &revived).await.json()["metadata"]["deletionTimestamp"],
        marked["metadata"]["deletionTimestamp"]
    );
    let freed = rig.patch(&path, "merge-patch", &json!({"metadata": {"finalizers": null}})).await;
    assert_eq!(freed.brief(), "200 a");
    assert_eq!(rig.get(&path).await.code, 404);
    rig.config_map("b", &json!({})).await;
    let status = rig.delete(&format!("{MAPS}/b"), None).await.json();
    assert_eq!(
        (&status["status"], &status["details"]["name"], &status["details"]["kind"]),
        (&json!("Success"), &json!("b"), &json!("configmaps"))
    );
    assert_eq!(rig.delete(&format!("{MAPS}/b?propagationPolicy=Sideways"), None).await.code, 422);
}

#[tokio::test]
async fn a_namespace_terminates_until_it_is_finalized() {
    let rig = Rig::new().await;
    let path = "/api/v1/namespaces/a";
    assert_eq!(
        rig.post("/api/v1/namespaces", &json!({"metadata": {"name": "a"}})).await.json()["status"]["phase"],
        "Active"
    );
    assert_eq!(
        rig.post("/api/v1/namespaces/a/configmaps", &json!({"metadata": {"name": "x"}}))
            .await
            .code,
        201
    );
    let marked = rig.delete(path, None).await.json();
    assert_eq!(
        (&marked["status"]["phase"], &marked["spec"]["finalizers"]),
        (&json!("Terminating"), &json!(["kubernetes"]))
    );
    let refused = rig
        .post("/api/v1/namespaces/a/configmaps", &json!({"metadata": {"name": "y"}}))
        .await;
    assert_eq!(
        refused.brief(),
        "403 configmaps \"y\" is forbidden: unable to create new content in namespace a because it is being terminated"
    );
    assert_eq!(refused.json()["details"]["causes"][0]["reason"], "NamespaceTerminating");
    // What the controller reports while it empties the namespace.
    let condition = json!({"type": "NamespaceContentRemaining", "status": "True", "reason": "SomeResourcesRemain", "message": "1 left"});
    let report = json!({"status": {"conditions": [condition]}});
    let reported = rig.patch(&format!("{path}/status"), "merge-patch", &report).await.json();
    assert_eq!(
        (&reported["status"]["conditions"][0]["reason"], &reported["status"]["phase"]),
        (&json!("SomeResourcesRemain"), &json!("Terminating"))
    );
    let mut finalized = marked.clone();
    finalized["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    finalized["spec"]["finalizers"] = json!([]);
    // An ordinary update does not finalize.
    assert_eq!(rig.put(path, &finalized).await.json()["spec"]["finalizers"], json!(["kubernetes"]));
    let done = rig.put(&format!("{path}/finalize"), &finalized).await;
    assert_eq!(done.code, 200, "{}", done.message());
    assert_eq!(rig.get(path).await.brief(), "404 namespaces \"a\" not found");
    assert_eq!(
        rig.delete("/api/v1/namespaces/default", None).await.brief(),
        "403 namespaces \"default\" is forbidden: this namespace may not be deleted"
    );
}

#[tokio::test]
async fn a_collection_is_deleted_by_selector() {
    let rig = Rig::new().await;
    for (name, app) in [("a", "x"), ("b", "y"), ("c", "x")] {
        rig.config_map(name, &json!({"app": app})).await;
    }
    let deleted = rig.delete(&format!("{MAPS}?labelSelector=app%3Dx"), None).await;
    assert_eq!((deleted.code, names(&deleted.json())), (200, vec!["a", "c"]));
    assert_eq!(names(&rig.get(MAPS).await.json()), ["b"]);
    assert_eq!(rig.delete("/api/v1/configmaps", None).await.code, 405);
}

#[tokio::test]
async fn bodies_have_limits() {
    let rig = Rig::new().await;
    let huge = json!({"metadata": {"name": "a"}, "data": {"k": "x".repeat(3 << 20)}});
    assert_eq!(rig.post(MAPS, &huge).await.code, 413);
    let mut deep = json!(1);
    for _ in 0..110 {
        deep = json!([deep]);
    }
    let answer = rig.post(MAPS, &json!({"metadata": {"name": "a"}, "x": deep})).await;
    assert_eq!(answer.code, 400);
    assert!(answer.message().contains("deeper than"), "{}", answer.message());
    assert_eq!(rig.patch(&format!("{MAPS}/a"), "octet-stream", &json!({})).await.code, 415);
}

#[tokio::test]
async fn creates_and_a_namespace_s_end_exclude_each_other() {
    let rig = Rig::new().await;
    rig.post("/api/v1/namespaces", &json!({"metadata": {"name": "a"}})).await;
    let creates = (0..20).map(|index| {
        let rig = &rig;
        async move {
            rig.post(
                "/api/v1/namespaces/a/configmaps",
                &json!({"metadata": {"name": format!("m{index}")}}),
            )
            .await
            .code
        }
    });
    let (codes, marked) = tokio::join!(futures::future::join_all(creates), rig.delete("/api/v1/namespaces/a", None));
    let marked_at: u64 = marked.json()["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    assert!(codes.iter().all(|code| matches!(code, 201 | 403)), "{codes:?}");
    let list = rig.get("/api/v1/namespaces/a/configmaps").await.json();
    assert_eq!(
        list["items"].as_array().unwrap().len(),
        codes.iter().filter(|code| **code == 201).count()
    );
    for item in list["items"].as_array().unwrap() {
        assert!(
            item["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap() < marked_at,
            "{item}"
        );
    }
}

#[tokio::test]
async fn what_is_rarely_meant_is_told_and_done() {
    let rig = Rig::new().await;
    let mut doubled = pod("p");
    doubled["spec"]["containers"][0]["env"] = json!([{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]);
    let made = rig.post(PODS, &doubled).await;
    assert_eq!(made.code, 201);
    let hides = r#"299 - "spec.containers[0].env[1]: hides previous definition of \"A\", which may be dropped when using apply""#;
    assert_eq!(made.warnings(), [hides]);
    // A change of a Pod is not looked at.
    let labelled = rig
        .patch(&format!("{PODS}/p"), "merge-patch", &json!({"metadata": {"labels": {"a": "b"}}}))
        .await;
    assert_eq!((labelled.code, labelled.warnings().len()), (200, 0));
    let service = json!({"metadata": {"name": "s"}, "spec": {"clusterIP": "None", "sessionAffinity": "ClientIP", "externalName": "x.y"}});
    let made = rig.post("/api/v1/namespaces/default/services", &service).await;
    assert_eq!(made.code, 201, "{:?}", made.text);
    assert_eq!(
        made.warnings(),
        [
            r#"299 - "spec.SessionAffinity is ignored for headless services""#,
            r#"299 - "spec.externalName is ignored when spec.type is not \"ExternalName\"""#,
        ]
    );
}
