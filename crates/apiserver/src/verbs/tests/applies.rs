use http::Method;

use super::*;
use crate::testing::{NOW_S, pod};

/// Manager, operation and subresource, and what it owns.
fn owners(object: &Value) -> Vec<(String, Value)> {
    let entries = object["metadata"]["managedFields"].as_array().into_iter().flatten();
    entries
        .map(|entry| {
            assert_eq!(entry["fieldsType"], "FieldsV1");
            let subresource = entry
                .get("subresource")
                .map_or(String::new(), |name| format!("/{}", name.as_str().unwrap()));
            let name = format!(
                "{} {}{subresource}",
                entry["manager"].as_str().unwrap(),
                entry["operation"].as_str().unwrap()
            );
            (name, entry["fieldsV1"].clone())
        })
        .collect()
}

fn names(object: &Value) -> Vec<String> {
    owners(object).into_iter().map(|(name, _)| name).collect()
}

fn map(data: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: m\ndata: {data}\n")
}

const M: &str = "/api/v1/namespaces/default/configmaps/m";

#[tokio::test]
async fn every_write_is_remembered_by_who_made_it() {
    let rig = Rig::new().await;
    let made = json!({"metadata": {"name": "m", "labels": {"l": "1"}}, "data": {"a": "1", "b": "1"}});
    let created = rig
        .send_as("kubectl/v1.33.0 (linux)", Method::POST, MAPS, "application/json", &made)
        .await
        .json();
    let entry = &created["metadata"]["managedFields"][0];
    assert_eq!(
        *entry,
        json!({
            "manager": "kubectl", "operation": "Update", "apiVersion": "v1", "time": "2027-01-15T08:00:00Z", "fieldsType": "FieldsV1",
            "fieldsV1": {"f:data": {".": {}, "f:a": {}, "f:b": {}}, "f:metadata": {"f:labels": {".": {}, "f:l": {}}}},
        })
    );
    rig.now_s.store(NOW_S + 60, std::sync::atomic::Ordering::Relaxed);
    let patched = rig
        .patch(
            &format!("{M}?fieldManager=kubectl-edit"),
            "merge-patch",
            &json!({"data": {"a": "2", "c": "1"}}),
        )
        .await
        .json();
    assert_eq!(
        owners(&patched),
        [
            (
                "kubectl Update".to_owned(),
                json!({"f:data": {".": {}, "f:b": {}}, "f:metadata": {"f:labels": {".": {}, "f:l": {}}}})
            ),
            ("kubectl-edit Update".to_owned(), json!({"f:data": {"f:a": {}, "f:c": {}}})),
        ]
    );
    assert_eq!(patched["metadata"]["managedFields"][0]["time"], "2027-01-15T08:00:00Z");
    assert_eq!(patched["metadata"]["managedFields"][1]["time"], "2027-01-15T08:01:00Z");
    // Whoever changes nothing owns nothing, and no revision is made.
    let same = rig
        .patch(&format!("{M}?fieldManager=idle"), "merge-patch", &json!({"data": {"a": "2"}}))
        .await
        .json();
    assert_eq!(same, patched);
    // A list shows them too, and so does a watch.
    let listed = rig.get(MAPS).await.json();
    let listed = listed["items"]
        .as_array()
        .unwrap()
        .iter()
        .find(|item| item["metadata"]["name"] == "m")
        .unwrap()
        .clone();
    assert_eq!(listed["metadata"]["managedFields"], patched["metadata"]["managedFields"]);
    let partial = rig
        .get_as(M, "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1")
        .await
        .json();
    assert_eq!(partial["metadata"]["managedFields"], patched["metadata"]["managedFields"]);
}

#[tokio::test]
async fn a_subresource_is_remembered_as_such_and_owns_only_its_part() {
    let rig = Rig::new().await;
    rig.pod("p", Some("n")).await;
    let path = format!("{PODS}/p");
    let patch = json!({
        "metadata": {"labels": {"x": "y"}}, "spec": {"schedulerName": "ignored"},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}], "podIPs": [{"ip": "10.0.0.1"}]},
    });
    let patched = rig
        .patch(&format!("{path}/status?fieldManager=kubelet"), "strategic-merge-patch", &patch)
        .await
        .json();
    let owners = owners(&patched);
    // Of one second: by name.
    assert_eq!(
        (owners[0].0.as_str(), owners[1].0.as_str()),
        ("kubelet Update/status", "unknown Update")
    );
    assert_eq!(
        owners[0].1["f:status"],
        json!({"f:conditions": {".": {}, "k:{\"type\":\"Ready\"}": {".": {}, "f:status": {}, "f:type": {}}}, "f:phase": {}, "f:podIPs": {".": {}, "k:{\"ip\":\"10.0.0.1\"}": {".": {}, "f:ip": {}}}})
    );
    assert_eq!(owners[0].1.get("f:spec"), None);
    // A write of the object does not own a status it cannot set.
    let mut whole = rig.get(&path).await.json();
    whole["status"]["phase"] = json!("Failed");
    whole["metadata"]["labels"]["z"] = json!("1");
    let updated = rig.put(&format!("{path}?fieldManager=editor"), &whole).await.json();
    let owned = super::applies::owners(&updated);
    assert_eq!(
        owned[0],
        ("editor Update".to_owned(), json!({"f:metadata": {"f:labels": {"f:z": {}}}}))
    );
}

#[tokio::test]
async fn apply_makes_owns_removes_and_conflicts() {
    let rig = Rig::new().await;
    let made = rig.apply(M, "a", &map("{k: v, l: v}")).await;
    assert_eq!(made.code, 201, "{:?}", made.text);
    assert_eq!(
        owners(&made.json()),
        [("a Apply".to_owned(), json!({"f:data": {"f:k": {}, "f:l": {}}}))]
    );
    // The same again is nothing, an hour later too.
    rig.now_s.store(NOW_S + 3_600, std::sync::atomic::Ordering::Relaxed);
    let again = rig.apply(M, "a", &map("{k: v, l: v}")).await;
    assert_eq!((again.code, again.json()), (200, made.json()));
    // Another value of another manager is a conflict.
    let refused = rig.apply(M, "b", &map("{k: w}")).await;
    assert_eq!(refused.brief(), "409 Apply failed with 1 conflict: conflict with \"a\": .data.k");
    assert_eq!(
        refused.json()["details"]["causes"],
        json!([{"reason": "FieldManagerConflict", "message": "conflict with \"a\"", "field": ".data.k"}])
    );
    assert_eq!(refused.json()["reason"], "Conflict");
    rig.patch(
        &format!("{M}?fieldManager=kubectl-edit"),
        "merge-patch",
        &json!({"data": {"l": "w"}}),
    )
    .await;
    let refused = rig.apply(M, "b", &map("{k: w, l: x}")).await;
    assert_eq!(
        refused.message(),
        "Apply failed with 2 conflicts: conflicts with \"a\":\n- .data.k\nconflicts with \"kubectl-edit\" using v1:\n- .data.l"
    );
    // The same value is shared.
    let shared = rig.apply(M, "b", &map("{k: v, n: v}")).await.json();
    assert_eq!(
        owners(&shared),
        [
            ("a Apply".to_owned(), json!({"f:data": {"f:k": {}}})),
            ("b Apply".to_owned(), json!({"f:data": {"f:k": {}, "f:n": {}}})),
            ("kubectl-edit Update".to_owned(), json!({"f:data": {"f:l": {}}})),
        ]
    );
    // What a shared owner drops stays, what nobody else owns goes.
    let dropped = rig.apply(M, "b", &map("{o: v}")).await.json();
    assert_eq!(dropped["data"], json!({"k": "v", "l": "w", "o": "v"}));
    // Force takes.
    let forced = rig.apply(&format!("{M}?force=true"), "b", &map("{k: w}")).await.json();
    assert_eq!(forced["data"], json!({"k": "w", "l": "w"}));
    assert_eq!(names(&forced), ["b Apply", "kubectl-edit Update"]);
    // Dropping everything leaves what others own.
    let left = rig
        .apply(M, "b", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\n")
        .await
        .json();
    assert_eq!(left["data"], json!({"l": "w"}));
    assert_eq!(names(&left), ["kubectl-edit Update"]);
}

#[tokio::test]
async fn apply_refuses_what_upstream_refuses() {
    let rig = Rig::new().await;
    let table = [
        (
            M,
            "",
            map("{}"),
            "422 PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
        ),
        (M, "a", "kind: [".to_owned(), "400 error decoding YAML:"),
        (
            M,
            "a",
            "- x".to_owned(),
            "400 error decoding YAML: the configuration is not an object",
        ),
        (
            M,
            "a",
            map("{}").replace("ConfigMap", "Pod"),
            "400 invalid object type: /v1, Kind=Pod",
        ),
        (
            M,
            "a",
            map("{}").replace("name: m", "labels: {}"),
            "400 the name of the object (m based on URL) was undeterminable: name must be provided",
        ),
        (
            M,
            "a",
            map("{}").replace("name: m", "name: other"),
            "400 the name of the object (other) does not match the name on the URL (m)",
        ),
        (
            M,
            "a",
            map("{}").replace("name: m", "name: m\n  managedFields: []"),
            "400 metadata.managedFields must be nil",
        ),
        (
            M,
            "a",
            map("{k: 1}"),
            "500 failed to create typed patch object (/m; /v1, Kind=ConfigMap): .data.k: expected string, got &value.valueUnstructured{Value:1}",
        ),
        (
            M,
            "a",
            map("{}").replace("name: m", "name: m\n  uid: x"),
            "409 Operation cannot be fulfilled on configmaps \"m\": uid mismatch: the provided object specified uid x, and no existing object was found",
        ),
    ];
    for (path, manager, config, expected) in table {
        let answer = rig.apply(path, manager, &config).await;
        assert!(answer.brief().starts_with(expected), "{config}: {}", answer.brief());
        // A status for everything, with no object made.
        assert_eq!(
            (answer.json()["kind"].as_str(), rig.get(M).await.code),
            (Some("Status"), 404),
            "{config}"
        );
    }
    let force = rig.patch(&format!("{M}?force=true"), "merge-patch", &json!({})).await;
    assert_eq!(
        force.brief(),
        "422 PatchOptions.meta.k8s.io \"\" is invalid: force: Forbidden: may not be specified for non-apply patch"
    );
    let long = rig
        .post(
            &format!("{MAPS}?fieldManager={}", "x".repeat(129)),
            &json!({"metadata": {"name": "m"}}),
        )
        .await;
    assert_eq!(
        long.brief(),
        "422 CreateOptions.meta.k8s.io \"\" is invalid: fieldManager: Too long: may not be more than 128 bytes"
    );
    let doubled = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\ndata: {k: a}\n".replace("{k: a}", "{\"k\": \"a\"}");
    let dry = rig.apply(&format!("{M}?dryRun=All"), "a", &doubled).await;
    assert_eq!((dry.code, rig.get(M).await.code), (201, 404));
    assert_eq!(
        rig.apply(
            &format!("{PODS}/none/status"),
            "a",
            "apiVersion: v1\nkind: Pod\nmetadata: {name: none}\n"
        )
        .await
        .code,
        404
    );
}

#[tokio::test]
async fn lists_are_owned_by_item_with_the_defaults_of_their_keys() {
    let rig = Rig::new().await;
    let path = format!("{PODS}/p");
    let config = |ports: &str| {
        format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec:\n  containers:\n  - name: c\n    image: i\n    ports: {ports}\n")
    };
    let made = rig.apply(&path, "a", &config("[{containerPort: 80}]")).await;
    assert_eq!(made.code, 201, "{:?}", made.text);
    assert_eq!(
        owners(&made.json())[0].1["f:spec"]["f:containers"],
        json!({"k:{\"name\":\"c\"}": {".": {}, "f:image": {}, "f:name": {}, "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}}}})
    );
    // Another manager's item of the same list stays when this one is applied again.
    let label = "apiVersion: v1\nkind: Pod\nmetadata: {name: p, labels: {x: z}, finalizers: [a.io/b]}\n";
    let labelled = rig.apply(&path, "b", label).await;
    assert_eq!(labelled.code, 200, "{:?}", labelled.text);
    let labelled = labelled.json();
    assert_eq!(labelled["metadata"]["finalizers"], json!(["a.io/b"]));
    let image = config("[{containerPort: 80}]").replace("image: i", "image: j");
    let changed = rig.apply(&path, "a", &image).await.json();
    assert_eq!(
        (&changed["spec"]["containers"][0]["image"], &changed["metadata"]["labels"]),
        (&json!("j"), &json!({"x": "z"}))
    );
    let unlabelled = rig
        .apply(&path, "b", "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\n")
        .await
        .json();
    assert_eq!(
        (unlabelled["metadata"].get("labels"), unlabelled["metadata"].get("finalizers")),
        (None, None)
    );
}

#[tokio::test]
async fn status_is_applied_alone() {
    let rig = Rig::new().await;
    rig.pod("p", Some("n")).await;
    let config = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {schedulerName: x}\nstatus: {conditions: [{type: example.com/Mine, status: \"True\"}]}\n";
    let applied = rig.apply(&format!("{PODS}/p/status"), "gate", config).await;
    assert_eq!(applied.code, 200, "{:?}", applied.text);
    let applied = applied.json();
    assert_eq!(
        owners(&applied)[0],
        (
            "gate Apply/status".to_owned(),
            json!({"f:status": {"f:conditions": {"k:{\"type\":\"example.com/Mine\"}": {".": {}, "f:status": {}, "f:type": {}}}}})
        )
    );
    assert_eq!(applied["spec"]["schedulerName"], "default-scheduler");
    let gone = rig
        .apply(
            &format!("{PODS}/p/status"),
            "gate",
            "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\n",
        )
        .await
        .json();
    assert_eq!(gone["status"].get("conditions"), None);
}

#[tokio::test]
async fn ownership_can_be_written_by_hand_and_reset() {
    let rig = Rig::new().await;
    rig.post(
        &format!("{MAPS}?fieldManager=a"),
        &json!({"metadata": {"name": "m"}, "data": {"k": "v"}}),
    )
    .await;
    let entry = |manager: &str| json!({"manager": manager, "operation": "Apply", "apiVersion": "v1", "time": "2026-01-01T00:00:00Z", "fieldsType": "FieldsV1", "fieldsV1": {"f:data": {"f:k": {}}}});
    let patch = |value: Value| json!([{"op": "replace", "path": "/metadata/managedFields", "value": value}]);
    let moved = rig.patch(M, "json-patch", &patch(json!([entry("b")]))).await.json();
    assert_eq!(names(&moved), ["b Apply"]);
    // What cannot be read is not taken over.
    let mut broken = entry("c");
    broken["operation"] = json!("Maybe");
    for unreadable in [
        json!([broken]),
        json!([{"manager": "c", "operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": {"x": {}}}]),
    ] {
        assert_eq!(names(&rig.patch(M, "json-patch", &patch(unreadable)).await.json()), ["b Apply"]);
    }
    let long = rig.patch(M, "json-patch", &patch(json!([entry(&"x".repeat(129))]))).await;
    assert_eq!(
        long.brief(),
        "422 ConfigMap \"m\" is invalid: metadata.managedFields[0].manager: Too long: may not be more than 128 bytes"
    );
    let reset = rig
        .patch(M, "merge-patch", &json!({"metadata": {"managedFields": [{}]}}))
        .await
        .json();
    assert_eq!(reset["metadata"].get("managedFields"), None);
    // From then on nobody is remembered, until somebody applies.
    let untracked = rig.patch(M, "merge-patch", &json!({"data": {"l": "v"}})).await.json();
    assert_eq!(untracked["metadata"].get("managedFields"), None);
    let applied = rig.apply(M, "d", &map("{n: v}")).await.json();
    assert_eq!(
        owners(&applied),
        [
            ("d Apply".to_owned(), json!({"f:data": {"f:n": {}}})),
            (
                "before-first-apply Update".to_owned(),
                json!({"f:data": {".": {}, "f:k": {}, "f:l": {}}})
            ),
        ]
    );
}

#[tokio::test]
async fn old_updates_are_merged_above_ten() {
    let rig = Rig::new().await;
    rig.post(
        &format!("{MAPS}?fieldManager=m0"),
        &json!({"metadata": {"name": "m"}, "data": {"k0": "v"}}),
    )
    .await;
    for index in 1..12_i64 {
        rig.now_s.store(NOW_S + index, std::sync::atomic::Ordering::Relaxed);
        rig.patch(
            &format!("{M}?fieldManager=m{index}"),
            "merge-patch",
            &json!({"data": {format!("k{index}"): "v"}}),
        )
        .await;
    }
    let object = rig.get(M).await.json();
    let owners = owners(&object);
    assert_eq!(owners.len(), 10);
    assert_eq!(
        owners[0],
        (
            "ancient-changes Update".to_owned(),
            json!({"f:data": {".": {}, "f:k0": {}, "f:k1": {}, "f:k2": {}}})
        )
    );
    assert_eq!(owners[1].0, "m3 Update");
}

#[tokio::test]
async fn kubectl_takes_over_from_client_side_apply() {
    let rig = Rig::new().await;
    let last = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m", "namespace": "default", "annotations": {}}, "data": {"k": "v"}});
    let made = json!({"metadata": {"name": "m", "annotations": {"kubectl.kubernetes.io/last-applied-configuration": last.to_string()}}, "data": {"k": "v"}});
    rig.post(&format!("{MAPS}?fieldManager=kubectl-client-side-apply"), &made).await;
    assert_eq!(rig.apply(M, "other", &map("{k: w}")).await.code, 409);
    let taken = rig.apply(M, "kubectl", &map("{k: w}")).await;
    assert_eq!(taken.code, 200, "{:?}", taken.text);
    let taken = taken.json();
    let noted = taken["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"]
        .as_str()
        .unwrap();
    assert_eq!(serde_json::from_str::<Value>(noted).unwrap()["data"], json!({"k": "w"}));
    assert!(noted.ends_with('\n'));
}

#[tokio::test]
async fn both_forms_of_an_event_share_owners() {
    let rig = Rig::new().await;
    let event = json!({
        "metadata": {"name": "e", "namespace": "default"}, "regarding": {"kind": "Pod", "name": "p", "namespace": "default"},
        "reason": "R", "note": "m", "type": "Normal", "action": "A", "reportingController": "c.io/c", "reportingInstance": "i",
        "eventTime": "2027-01-15T08:00:00.000000Z",
    });
    let made = rig
        .post("/apis/events.k8s.io/v1/namespaces/default/events?fieldManager=a", &event)
        .await;
    assert_eq!(made.code, 201, "{:?}", made.text);
    let fields = &owners(&made.json())[0].1;
    assert_eq!((&fields["f:regarding"], &fields["f:note"]), (&json!({}), &json!({})));
    rig.now_s.store(NOW_S + 60, std::sync::atomic::Ordering::Relaxed);
    let path = "/api/v1/namespaces/default/events/e?fieldManager=b";
    let patch = json!({"message": "n", "metadata": {"labels": {"x": "y"}}});
    let patched = rig.patch(path, "merge-patch", &patch).await;
    assert_eq!(patched.code, 200, "{:?}", patched.text);
    let patched = patched.json();
    let entries = patched["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!(
        (&entries[1]["apiVersion"], &entries[1]["fieldsV1"]),
        (
            &json!("v1"),
            &json!({"f:message": {}, "f:metadata": {"f:labels": {".": {}, "f:x": {}}}})
        )
    );
    assert_eq!(
        (entries[0]["apiVersion"].as_str(), entries[0]["fieldsV1"].get("f:note")),
        (Some("events.k8s.io/v1"), None)
    );
    assert_eq!(entries[0]["fieldsV1"]["f:reason"], json!({}));
}

#[tokio::test]
async fn binding_a_pod_gives_its_node_to_nobody() {
    let rig = Rig::new().await;
    rig.pod("p", None).await;
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n"}});
    assert_eq!(rig.post(&format!("{PODS}/p/binding"), &binding).await.code, 201);
    let bound = rig.get(&format!("{PODS}/p")).await.json();
    assert_eq!((bound["spec"]["nodeName"].as_str(), names(&bound).len()), (Some("n"), 1));
    assert_eq!(pod("p")["kind"], "Pod");
}

#[tokio::test]
async fn a_scale_is_applied_as_the_count_of_its_object() {
    let rig = Rig::new().await;
    let path = "/api/v1/namespaces/default/replicationcontrollers";
    let controller = "apiVersion: v1\nkind: ReplicationController\nmetadata: {name: r}\nspec:\n  replicas: 1\n  selector: {a: b}\n  template:\n    metadata: {labels: {a: b}}\n    spec: {containers: [{name: c, image: i}]}\n";
    assert_eq!(rig.apply(&format!("{path}/r"), "deployer", controller).await.code, 201);
    let scale = |count: i32| format!("apiVersion: autoscaling/v1\nkind: Scale\nmetadata: {{name: r}}\nspec: {{replicas: {count}}}\n");
    let scaled = format!("{path}/r/scale");
    let refused = rig.apply(&scaled, "scaler", &scale(3)).await;
    assert_eq!(refused.code, 409, "the deployer owns the count");
    assert!(refused.message().contains(".spec.replicas"), "{}", refused.message());
    let forced = rig.apply(&format!("{scaled}?force=true"), "scaler", &scale(3)).await;
    assert_eq!(
        (forced.code, &forced.json()["kind"], &forced.json()["spec"]["replicas"]),
        (200, &json!("Scale"), &json!(3))
    );
    let object = rig.get(&format!("{path}/r")).await.json();
    assert_eq!(object["spec"]["replicas"], 3);
    let managers = object["metadata"]["managedFields"].as_array().unwrap();
    let scaler = managers.iter().find(|entry| entry["manager"] == "scaler").unwrap();
    assert_eq!((&scaler["operation"], &scaler["subresource"]), (&json!("Apply"), &json!("scale")));
    assert_eq!(scaler["fieldsV1"], json!({"f:spec": {"f:replicas": {}}}));
    // What was refused loses nothing.
    assert_eq!(rig.apply(&scaled, "scaler", &scale(-1)).await.code, 422);
    assert_eq!(
        rig.apply(&scaled, "scaler", "apiVersion: v1\nkind: Pod\nmetadata: {name: r}\n")
            .await
            .code,
        400
    );
    assert_eq!(rig.apply(&format!("{path}/none/scale"), "scaler", &scale(1)).await.code, 404);
    assert_eq!(rig.get(&scaled).await.json()["spec"]["replicas"], 3);
}
