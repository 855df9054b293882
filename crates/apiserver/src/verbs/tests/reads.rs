use super::*;
use crate::testing::pod;

#[tokio::test]
async fn lists_select_by_label_and_field() {
    let rig = Rig::new().await;
    for (name, app) in [("a", "x"), ("b", "y"), ("c", "x")] {
        rig.config_map(name, &json!({"app": app})).await;
    }
    rig.pod("p", Some("n1")).await;
    rig.pod("q", None).await;
    let table = [
        (format!("{MAPS}?labelSelector=app%3Dx"), vec!["a", "c"]),
        (format!("{MAPS}?labelSelector=app+notin+(x)"), vec!["b"]),
        (format!("{MAPS}?labelSelector=!app"), vec![]),
        (format!("{MAPS}?fieldSelector=metadata.name%3Db"), vec!["b"]),
        (
            format!("{MAPS}?fieldSelector=metadata.name!%3Db,metadata.namespace%3Ddefault"),
            vec!["a", "c"],
        ),
        (format!("{PODS}?fieldSelector=spec.nodeName%3Dn1"), vec!["p"]),
        (
            "/api/v1/pods?fieldSelector=spec.nodeName%3D,status.phase%3DPending".to_owned(),
            vec!["q"],
        ),
        ("/api/v1/namespaces/kube-system/pods".to_owned(), vec![]),
    ];
    for (path, expected) in table {
        let answer = rig.get(&path).await;
        assert_eq!(answer.code, 200, "{path}: {}", answer.message());
        assert_eq!(names(&answer.json()), expected, "{path}");
    }
    assert_eq!(
        rig.get(&format!("{PODS}?fieldSelector=spec.foo%3Dx")).await.brief(),
        "400 field label not supported: spec.foo"
    );
    for (path, field) in [
        ("nodes", "metadata.namespace"),
        ("namespaces", "metadata.namespace"),
        ("secrets", "data"),
        ("services", "spec.clusterIPs"),
        ("events", "count"),
    ] {
        let answer = rig.get(&format!("/api/v1/{path}?fieldSelector={field}%3Dx")).await;
        assert_eq!(answer.brief(), format!("400 field label not supported: {field}"));
    }
    for path in [
        "/api/v1/configmaps",
        "/apis/storage.k8s.io/v1/storageclasses",
        "/apis/coordination.k8s.io/v1/leases",
    ] {
        assert_eq!(rig.get(&format!("{path}?fieldSelector=metadata.namespace%3Dnone")).await.code, 200);
        assert_eq!(
            rig.get(&format!("{path}?fieldSelector=spec.x%3Dx")).await.brief(),
            r#"400 "spec.x" is not a known field selector: only "metadata.name", "metadata.namespace""#
        );
    }
    assert_eq!(rig.get(&format!("{PODS}?fieldSelector=spec.foo")).await.code, 400);
    assert_eq!(rig.get(&format!("{PODS}?labelSelector=a+b")).await.code, 400);
}

#[tokio::test]
async fn pages_show_one_revision_whatever_happens_meanwhile() {
    let rig = Rig::new().await;
    for index in 0..7 {
        rig.config_map(&format!("m{index}"), &json!({"even": (index % 2 == 0).to_string()}))
            .await;
    }
    let first = rig.get(&format!("{MAPS}?limit=3")).await.json();
    assert_eq!(
        (names(&first), &first["metadata"]["remainingItemCount"]),
        (vec!["m0", "m1", "m2"], &json!(4))
    );
    rig.delete(&format!("{MAPS}/m4"), None).await;
    rig.config_map("m33", &json!({})).await;
    rig.patch(&format!("{MAPS}/m5"), "merge-patch", &json!({"data": {"k": "new"}}))
        .await;
    let next = first["metadata"]["continue"].as_str().unwrap();
    let second = rig.get(&format!("{MAPS}?limit=3&continue={next}")).await.json();
    assert_eq!(
        (names(&second), &second["metadata"]["remainingItemCount"]),
        (vec!["m3", "m4", "m5"], &json!(1))
    );
    assert_eq!(second["items"][2]["data"]["k"], "v");
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    let next = second["metadata"]["continue"].as_str().unwrap();
    let third = rig.get(&format!("{MAPS}?limit=3&continue={next}")).await.json();
    assert_eq!((names(&third), third["metadata"].get("continue")), (vec!["m6"], None));
    // With a selector, what remains is not known.
    let selected = rig.get(&format!("{MAPS}?limit=2&labelSelector=even%3Dtrue")).await.json();
    assert_eq!(
        (names(&selected), selected["metadata"].get("remainingItemCount")),
        (vec!["m0", "m2"], None)
    );
    let next = selected["metadata"]["continue"].as_str().unwrap();
    let rest = rig
        .get(&format!("{MAPS}?limit=2&labelSelector=even%3Dtrue&continue={next}"))
        .await
        .json();
    assert_eq!(names(&rest), ["m6"]);
    assert_eq!(rig.get(&format!("{PODS}?limit=3&continue={next}")).await.code, 400);
    // Less than one is no limit, as upstream reads it.
    assert_eq!(
        names(&rig.get(&format!("{MAPS}?limit=-1")).await.json()).len(),
        names(&rig.get(MAPS).await.json()).len()
    );
}

#[tokio::test]
async fn a_page_of_a_forgotten_revision_says_how_to_go_on() {
    let rig = Rig::new().await;
    for name in ["a", "b", "c"] {
        rig.config_map(name, &json!({})).await;
    }
    let first = rig.get(&format!("{MAPS}?limit=1")).await.json();
    rig.delete(&format!("{MAPS}/b"), None).await;
    rig.store.compact(rig.store.revision()).await.unwrap();
    let next = first["metadata"]["continue"].as_str().unwrap();
    let expired = rig.get(&format!("{MAPS}?limit=1&continue={next}")).await;
    assert_eq!((expired.code, expired.json()["reason"].as_str().unwrap()), (410, "Expired"));
    let inconsistent = expired.json()["metadata"]["continue"].as_str().unwrap().to_owned();
    assert_eq!(
        names(&rig.get(&format!("{MAPS}?limit=1&continue={inconsistent}")).await.json()),
        ["c"]
    );
    let version = first["metadata"]["resourceVersion"].as_str().unwrap();
    assert_eq!(
        rig.get(&format!("{MAPS}?resourceVersion={version}&resourceVersionMatch=Exact"))
            .await
            .code,
        410
    );
}

#[tokio::test]
async fn lists_are_as_fresh_as_asked() {
    let rig = Rig::with(crate::Limits {
        fresh_timeout: std::time::Duration::from_millis(20),
        ..crate::Limits::default()
    })
    .await;
    let first = rig.config_map("a", &json!({})).await;
    let at = first["metadata"]["resourceVersion"].as_str().unwrap();
    rig.config_map("b", &json!({})).await;
    let exact = rig
        .get(&format!("{MAPS}?resourceVersion={at}&resourceVersionMatch=Exact"))
        .await
        .json();
    assert_eq!(
        (names(&exact), exact["metadata"]["resourceVersion"].as_str().unwrap()),
        (vec!["a"], at)
    );
    // Not older is enough: the newest may be missing, what was asked for not.
    assert_eq!(names(&rig.get(&format!("{MAPS}?resourceVersion={at}")).await.json())[0], "a");
    assert_eq!(names(&rig.get(MAPS).await.json()), ["a", "b"]);
    assert_eq!(names(&rig.get(&format!("{MAPS}?resourceVersion={at}&limit=5")).await.json()), ["a"]);
    assert_eq!(rig.get(&format!("{MAPS}?resourceVersion=0&limit=1")).await.code, 200);
    let future = rig.get(&format!("{MAPS}?resourceVersion=99999")).await;
    assert_eq!(
        (future.code, future.json()["details"]["causes"][0]["reason"].as_str().unwrap()),
        (504, "ResourceVersionTooLarge")
    );
    assert_eq!(rig.get(&format!("{MAPS}?resourceVersion=abc")).await.code, 422);
    assert_eq!(rig.get(&format!("{MAPS}?resourceVersionMatch=Exact")).await.code, 422);
    assert_eq!(
        rig.get(&format!("{MAPS}?resourceVersion=0&resourceVersionMatch=Exact")).await.code,
        422
    );
    assert_eq!(rig.get(&format!("{MAPS}/a?resourceVersion=99999")).await.code, 504);
}

#[tokio::test]
async fn every_acknowledged_write_is_in_the_next_read() {
    let rig = Rig::new().await;
    let writers = (0..8).map(|writer| {
        let rig = &rig;
        async move {
            for index in 0..10 {
                let name = format!("w{writer}-{index}");
                rig.config_map(&name, &json!({})).await;
                assert_eq!(rig.get(&format!("{MAPS}/{name}")).await.code, 200, "{name}");
                assert!(names(&rig.get(MAPS).await.json()).contains(&name.as_str()), "{name}");
            }
        }
    });
    futures::future::join_all(writers).await;
    assert_eq!(rig.get(MAPS).await.json()["items"].as_array().unwrap().len(), 80);
}

#[tokio::test]
async fn tables_and_metadata_are_other_forms_of_the_same() {
    let rig = Rig::new().await;
    rig.pod("a", None).await;
    let table = rig
        .get_as(PODS, "application/json;as=Table;v=v1;g=meta.k8s.io,application/json")
        .await
        .json();
    assert_eq!((&table["kind"], &table["apiVersion"]), (&json!("Table"), &json!("meta.k8s.io/v1")));
    assert_eq!(table["columnDefinitions"][0]["name"], "Name");
    assert_eq!(
        table["rows"][0]["cells"].as_array().unwrap()[..4],
        [json!("a"), json!("0/1"), json!("Pending"), json!("0")]
    );
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let one = rig
        .get_as(
            &format!("{PODS}/a?includeObject=Object"),
            "application/json;as=Table;v=v1;g=meta.k8s.io",
        )
        .await
        .json();
    assert_eq!(one["rows"][0]["object"]["kind"], "Pod");
    let partial = rig
        .get_as(PODS, "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io")
        .await
        .json();
    assert_eq!(
        (&partial["kind"], names(&partial), partial["items"][0].get("spec")),
        (&json!("PartialObjectMetadataList"), vec!["a"], None)
    );
    assert_eq!(rig.get_as(PODS, "text/html").await.code, 406);
    assert_eq!(rig.get_as(&format!("{PODS}?includeObject=All"), "application/json").await.code, 400);
}

#[tokio::test]
async fn events_have_one_storage_and_two_forms() {
    let rig = Rig::new().await;
    let event = json!({
        "metadata": {"name": "e", "namespace": "default"},
        "involvedObject": {"kind": "Pod", "namespace": "default", "name": "p"},
        "reason": "Started", "message": "Started container c", "type": "Normal", "source": {"component": "kubelet"}, "count": 1,
        "firstTimestamp": "2027-01-15T08:00:00Z", "lastTimestamp": "2027-01-15T08:00:00Z",
    });
    let created = rig.post("/api/v1/namespaces/default/events", &event).await;
    assert_eq!(created.code, 201, "{}", created.message());
    let path = "/apis/events.k8s.io/v1/namespaces/default/events";
    let mut watching = rig.watch(&format!("{path}?watch=1")).await;
    let seen = watching.next().await.unwrap();
    let other = rig.get(&format!("{path}/e")).await.json();
    assert_eq!(seen["object"], other);
    assert_eq!(
        (&other["apiVersion"], &other["note"], &other["regarding"]["name"]),
        (&json!("events.k8s.io/v1"), &json!("Started container c"), &json!("p"))
    );
    assert_eq!(other["metadata"], created.json()["metadata"]);
    assert_eq!(
        names(&rig.get(&format!("{path}?fieldSelector=regarding.name%3Dp")).await.json()),
        ["e"]
    );
    let patched = rig
        .patch("/api/v1/namespaces/default/events/e", "merge-patch", &json!({"count": 2}))
        .await;
    assert_eq!(patched.code, 200, "{}", patched.message());
    let seen = watching.next().await.unwrap();
    assert_eq!((&seen["type"], &seen["object"]["deprecatedCount"]), (&json!("MODIFIED"), &json!(2)));
}

#[tokio::test]
async fn what_is_not_served_is_not_found() {
    let rig = Rig::new().await;
    for path in [
        "/api/v1/gadgets",
        "/apis/x.io/v1/things",
        "/api/v2/pods",
        "/api/v1/pods/a",
        "/api/v1/namespaces/default/nodes",
        "/nowhere",
        "/apis/x.io",
    ] {
        assert_eq!(rig.get(path).await.code, 404, "{path}");
    }
    assert_eq!(rig.get(&format!("{PODS}/a/exec")).await.code, 404);
    assert_eq!(rig.put(PODS, &pod("a")).await.code, 405);
}

#[tokio::test]
async fn a_long_list_is_whole_though_it_is_written_in_parts() {
    let rig = Rig::new().await;
    let content = "x".repeat(10_000);
    for index in 0..40 {
        let map = json!({"metadata": {"name": format!("m{index:02}")}, "data": {"content": content}});
        assert_eq!(rig.post(MAPS, &map).await.code, 201);
    }
    let list = rig.get(MAPS).await;
    assert!(list.text.len() > 400_000);
    let wanted: Vec<String> = (0..40).map(|index| format!("m{index:02}")).collect();
    assert_eq!(names(&list.json()), wanted);
    let one = rig.get(&format!("{MAPS}/m07")).await.json();
    assert_eq!(list.json()["items"][7], one);
    let pretty = rig.get(&format!("{MAPS}?pretty=true")).await;
    assert!(pretty.text.len() > list.text.len());
    assert_eq!(pretty.json(), list.json());
}

#[tokio::test]
async fn who_asks_for_endpoints_is_told_what_to_use() {
    let rig = Rig::new().await;
    let warned = ["299 - \"v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice\""];
    for path in ["/api/v1/endpoints", "/api/v1/namespaces/default/endpoints/none"] {
        assert_eq!(rig.get(path).await.warnings(), warned, "{path}");
    }
    assert!(rig.get("/apis/discovery.k8s.io/v1/endpointslices").await.warnings().is_empty());
}
