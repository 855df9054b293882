use super::pod::{row_conditions, summary};
use super::*;

const NOW: Time = Time::from_secs(1_700_000_000);

fn object(value: Value) -> Object {
    serde_json::from_value(value).unwrap()
}

/// A Pod with containers `a` and `b`, init containers `i` and `j`, and this status.
fn pod(status: Value) -> Object {
    object(json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "p", "creationTimestamp": "2023-11-14T22:12:20Z" },
        "spec": { "initContainers": [{ "name": "i" }, { "name": "j" }], "containers": [{ "name": "a" }, { "name": "b" }] },
        "status": status,
    }))
}

fn simple(status: Value) -> Object {
    let mut pod = pod(status);
    pod.body["spec"].as_object_mut().unwrap().remove("initContainers");
    pod
}

fn with_sidecar(status: Value) -> Object {
    let mut pod = pod(status);
    pod.body["spec"]["initContainers"][1]["restartPolicy"] = Value::from("Always");
    pod
}

fn running(name: &str) -> Value {
    json!({ "name": name, "ready": true, "started": true, "restartCount": 0, "state": { "running": {} } })
}

fn waiting(name: &str, reason: &str, restarts: u32) -> Value {
    json!({ "name": name, "ready": false, "restartCount": restarts, "state": { "waiting": { "reason": reason } } })
}

fn ended(name: &str, code: i32, reason: &str) -> Value {
    json!({ "name": name, "ready": false, "restartCount": 0, "state": { "terminated": { "exitCode": code, "reason": reason } } })
}

#[track_caller]
fn check(pod: &Object, ready: &str, status: &str, restarts: i64) {
    let summary = summary(pod);
    assert_eq!(
        (
            format!("{}/{}", summary.ready, summary.total).as_str(),
            summary.status.as_str(),
            summary.restarts
        ),
        (ready, status, restarts)
    );
}

#[test]
fn status_before_anything_runs() {
    check(&simple(json!({ "phase": "Pending" })), "0/2", "Pending", 0);
    check(&simple(json!({})), "0/2", "", 0);
    check(&simple(json!({ "phase": "Failed", "reason": "Evicted" })), "0/2", "Evicted", 0);
    let gated = json!({ "phase": "Pending", "conditions": [{ "type": "PodScheduled", "status": "False", "reason": "SchedulingGated" }] });
    check(&simple(gated), "0/2", "SchedulingGated", 0);
    let creating =
        json!({ "phase": "Pending", "containerStatuses": [waiting("a", "ContainerCreating", 0), waiting("b", "ContainerCreating", 0)] });
    check(&simple(creating), "0/2", "ContainerCreating", 0);
}

/// Shows: 14.3.2
#[test]
fn status_of_regular_containers() {
    let rows = [
        (json!([running("a"), running("b")]), "2/2", "Running"),
        (
            json!([running("a"), waiting("b", "CrashLoopBackOff", 3)]),
            "1/2",
            "CrashLoopBackOff",
        ),
        // The first container in the list wins over later ones.
        (
            json!([waiting("a", "ErrImagePull", 0), waiting("b", "CrashLoopBackOff", 3)]),
            "0/2",
            "ErrImagePull",
        ),
        (json!([ended("a", 1, "Error"), running("b")]), "1/2", "Error"),
        (json!([ended("a", 137, "OOMKilled"), running("b")]), "1/2", "OOMKilled"),
        (json!([ended("a", 0, "Completed"), ended("b", 0, "Completed")]), "0/2", "Completed"),
        (json!([ended("a", 0, "Completed"), running("b")]), "1/2", "NotReady"),
        (json!([ended("a", 3, ""), running("b")]), "1/2", "ExitCode:3"),
        (
            json!([{ "name": "a", "state": { "terminated": { "exitCode": 137, "signal": 9 } } }, running("b")]),
            "1/2",
            "Signal:9",
        ),
        (
            json!([ended("a", 137, "ContainerStatusUnknown"), running("b")]),
            "1/2",
            "ContainerStatusUnknown",
        ),
        // Not ready is not counted, and a waiting state without a reason says nothing.
        (
            json!([{ "name": "a", "ready": false, "state": { "running": {} } }, running("b")]),
            "1/2",
            "Running",
        ),
        (json!([waiting("a", "", 0), running("b")]), "1/2", "Running"),
        (
            json!([{ "name": "a", "state": { "running": null, "terminated": null, "waiting": null } }, running("b")]),
            "1/2",
            "Running",
        ),
    ];
    for (statuses, ready, status) in rows {
        let restarts = statuses
            .as_array()
            .unwrap()
            .iter()
            .map(|s| s["restartCount"].as_i64().unwrap_or(0))
            .sum();
        check(
            &simple(json!({ "phase": "Running", "containerStatuses": statuses })),
            ready,
            status,
            restarts,
        );
    }
}

#[test]
fn a_completed_container_beside_a_running_one_is_running_if_the_pod_is_ready() {
    let status = json!({
        "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }],
        "containerStatuses": [ended("a", 0, "Completed"), running("b")],
    });
    check(&simple(status), "1/2", "Running", 0);
}

#[test]
fn status_while_initializing() {
    let regular = json!([waiting("a", "PodInitializing", 0), waiting("b", "PodInitializing", 0)]);
    let rows = [
        (
            json!([waiting("i", "PodInitializing", 0), waiting("j", "PodInitializing", 0)]),
            "Init:0/2",
            0,
        ),
        (json!([running("i"), waiting("j", "PodInitializing", 0)]), "Init:0/2", 0),
        (json!([ended("i", 0, "Completed"), running("j")]), "Init:1/2", 0),
        (json!([ended("i", 1, "Error"), waiting("j", "PodInitializing", 0)]), "Init:Error", 0),
        (json!([ended("i", 7, ""), waiting("j", "PodInitializing", 0)]), "Init:ExitCode:7", 0),
        (
            json!([{ "name": "i", "state": { "terminated": { "exitCode": 137, "signal": 9 } } }]),
            "Init:Signal:9",
            0,
        ),
        (
            json!([waiting("i", "CrashLoopBackOff", 4), waiting("j", "PodInitializing", 0)]),
            "Init:CrashLoopBackOff",
            4,
        ),
        (json!([waiting("i", "ErrImagePull", 0)]), "Init:ErrImagePull", 0),
        // The sum stops at the container that is not done.
        (
            json!([waiting("i", "CrashLoopBackOff", 4), waiting("j", "x", 5)]),
            "Init:CrashLoopBackOff",
            4,
        ),
    ];
    for (statuses, status, restarts) in rows {
        let all = json!({ "phase": "Pending", "initContainerStatuses": statuses, "containerStatuses": regular });
        check(&pod(all), "0/2", status, restarts);
    }
    let done = json!([ended("i", 0, "Completed"), ended("j", 0, "Completed")]);
    let all = json!({ "phase": "Pending", "initContainerStatuses": done, "containerStatuses": regular });
    check(&pod(all), "0/2", "PodInitializing", 0);
}

#[test]
fn sidecars_count_as_containers() {
    let init =
        json!([ended("i", 0, "Completed"), { "name": "j", "ready": true, "started": true, "restartCount": 2, "state": { "running": {} } }]);
    let starting = json!({ "phase": "Pending", "initContainerStatuses": init, "containerStatuses": [waiting("a", "PodInitializing", 0)] });
    check(&with_sidecar(starting), "1/3", "PodInitializing", 2);
    let up = json!({ "phase": "Running", "initContainerStatuses": init, "containerStatuses": [running("a"), running("b")] });
    check(&with_sidecar(up), "3/3", "Running", 2);
    let unstarted = json!([ended("i", 0, "Completed"), { "name": "j", "ready": false, "started": false, "restartCount": 0, "state": { "running": {} } }]);
    check(
        &with_sidecar(json!({ "phase": "Pending", "initContainerStatuses": unstarted })),
        "0/3",
        "Init:1/2",
        0,
    );
}

/// Shows: 14.3.3
#[test]
fn a_sidecar_that_restarts_after_initialization_hides_nothing() {
    let status = json!({
        "phase": "Running", "conditions": [{ "type": "Initialized", "status": "True" }],
        "initContainerStatuses": [{ "name": "i", "restartCount": 5, "state": { "terminated": { "exitCode": 0 } } }, waiting("j", "CrashLoopBackOff", 1)],
        "containerStatuses": [running("a"), running("b")],
    });
    check(&with_sidecar(status), "2/3", "Init:CrashLoopBackOff", 1);
}

#[test]
fn a_pod_being_deleted() {
    let mut up = simple(json!({ "phase": "Running", "containerStatuses": [running("a"), running("b")] }));
    up.meta.deletion_timestamp = Some(NOW.wire());
    check(&up, "2/2", "Terminating", 0);
    up.body["status"]["reason"] = Value::from("NodeLost");
    check(&up, "2/2", "Unknown", 0);
    let mut over = simple(json!({ "phase": "Succeeded", "containerStatuses": [ended("a", 0, "Completed")] }));
    over.meta.deletion_timestamp = Some(NOW.wire());
    check(&over, "0/2", "Completed", 0);
}

#[test]
fn pod_cells() {
    let row = crate::kinds::builtin();
    let row = row.find("", "v1", "pods").unwrap();
    let mut object = simple(json!({
        "phase": "Running", "podIPs": [{ "ip": "10.0.0.7" }], "conditions": [{ "type": "g", "status": "True" }],
        "containerStatuses": [
            { "name": "a", "ready": true, "restartCount": 2, "state": { "running": {} }, "lastState": { "terminated": { "finishedAt": "2023-11-14T22:11:20Z" } } },
            { "name": "b", "ready": true, "restartCount": 1, "state": { "running": {} }, "lastState": { "terminated": { "finishedAt": "2023-11-14T22:10:20Z" } } },
        ],
    }));
    object.body["spec"]["nodeName"] = Value::from("n1");
    object.body["spec"]["readinessGates"] = json!([{ "conditionType": "g" }, { "conditionType": "h" }]);
    let table = single(row, &object, IncludeObject::Metadata, true, NOW);
    assert_eq!(
        table["rows"][0]["cells"],
        json!(["p", "2/2", "Running", "3 (2m ago)", "60s", "10.0.0.7", "n1", "<none>", "1/2"])
    );
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    assert_eq!(table["rows"][0]["object"]["metadata"]["name"], "p");
    assert!(table["rows"][0].get("conditions").is_none());
    let names: Vec<_> = table["columnDefinitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        [
            "Name",
            "Ready",
            "Status",
            "Restarts",
            "Age",
            "IP",
            "Node",
            "Nominated Node",
            "Readiness Gates"
        ]
    );
    assert_eq!(table["columnDefinitions"][0]["format"], "name");
    assert_eq!(table["columnDefinitions"][4]["priority"], 0);
    assert_eq!(table["columnDefinitions"][5]["priority"], 1);
    let later = single(row, &object, IncludeObject::None, false, NOW);
    assert!(later["columnDefinitions"].is_null() && later["rows"][0].get("object").is_none());
}

#[test]
fn restarts_without_a_date_or_without_restarts_are_a_bare_number() {
    let columns = super::pod::columns();
    let CellValue::Computed(restarts) = columns[3].value else {
        panic!("computed")
    };
    let never = json!([{ "name": "a", "restartCount": 0, "lastState": { "terminated": { "finishedAt": "2023-11-14T22:11:20Z" } } }]);
    assert_eq!(restarts(&simple(json!({ "containerStatuses": never })), NOW), "0");
    assert_eq!(
        restarts(&simple(json!({ "containerStatuses": [waiting("a", "CrashLoopBackOff", 4)] })), NOW),
        "4"
    );
}

#[test]
fn a_finished_pod_has_a_row_condition() {
    assert_eq!(row_conditions(&simple(json!({ "phase": "Running" }))), Vec::<Value>::new());
    let succeeded = row_conditions(&simple(json!({ "phase": "Succeeded" })));
    assert_eq!(
        succeeded,
        [json!({ "type": "Completed", "status": "True", "reason": "Succeeded", "message": "The pod has completed successfully." })]
    );
    let failed = row_conditions(&simple(json!({ "phase": "Failed" })));
    assert_eq!(
        failed,
        [json!({ "type": "Completed", "status": "True", "reason": "Failed", "message": "The pod failed." })]
    );
}

#[test]
fn a_list_carries_its_page() {
    let registry = crate::kinds::builtin();
    let row = registry.find("", "v1", "configmaps").unwrap();
    let map = object(json!({ "metadata": { "name": "m" }, "data": { "a": "1" }, "binaryData": { "b": "AA==" } }));
    let page = ListPage {
        resource_version: "9".to_owned(),
        next: Some("token".to_owned()),
        remaining_item_count: Some(4),
    };
    let table = list(row, [&map], &page, IncludeObject::Object, NOW);
    assert_eq!(
        table["metadata"],
        json!({ "resourceVersion": "9", "continue": "token", "remainingItemCount": 4 })
    );
    assert_eq!(table["rows"][0]["cells"], json!(["m", 2, "<unknown>"]));
    assert_eq!(table["rows"][0]["object"]["data"]["a"], "1");
}

#[test]
fn a_long_list_is_cut() {
    let all: Vec<String> = ["a", "b", "c", "d", "e"].map(str::to_owned).to_vec();
    assert_eq!(first_few(&all[..3], 3), "a,b,c");
    assert_eq!(first_few(&all, 3), "a,b,c + 2 more...");
    assert_eq!(first_few(&[], 3), "");
}

#[test]
fn include_object_is_one_of_three() {
    assert_eq!(IncludeObject::parse(""), Ok(IncludeObject::Metadata));
    assert_eq!(IncludeObject::parse("Object"), Ok(IncludeObject::Object));
    assert!(IncludeObject::parse("object").is_err());
}
