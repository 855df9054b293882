//! What the server owns: status, generation, grace.

use super::*;

const NOW: Time = Time::from_secs(1_700_000_000);

#[test]
fn a_new_pod_is_pending_whatever_it_says_of_itself() {
    let mut new = pod(json!({ "containers": [{ "name": "a", "image": "i" }] }));
    new.body
        .insert("status".to_owned(), json!({ "phase": "Running", "podIP": "1.2.3.4" }));
    Pod.prepare(Change::Create { new: &mut new }, NOW);
    assert_eq!(new.body["status"], json!({ "phase": "Pending", "qosClass": "BestEffort" }));
    assert_eq!(new.meta.generation, Some(1));
}

/// Shows: 14.1.36
#[test]
fn the_service_class_follows_from_requests_and_limits() {
    let rows = [
        (json!({}), "BestEffort"),
        (json!({ "requests": { "cpu": "1" } }), "Burstable"),
        (json!({ "limits": { "cpu": "1", "memory": "1Gi" } }), "Guaranteed"),
    ];
    for (resources, class) in rows {
        let mut new = with(json!({ "resources": resources }));
        Pod.prepare(Change::Create { new: &mut new }, NOW);
        assert_eq!(new.str_at("status.qosClass"), class, "{resources}");
    }
}

#[test]
fn a_gated_pod_says_so() {
    let mut new = pod(json!({ "schedulingGates": [{ "name": "g" }], "containers": [{ "name": "a", "image": "i" }] }));
    Pod.prepare(Change::Create { new: &mut new }, NOW);
    let condition = &new.body["status"]["conditions"][0];
    assert_eq!(
        (&condition["type"], &condition["status"], &condition["reason"]),
        (&json!("PodScheduled"), &json!("False"), &json!("SchedulingGated"))
    );
    assert_eq!(condition["message"], "Scheduling is blocked due to non-empty scheduling gates");
    assert_eq!(condition["lastTransitionTime"], "2023-11-14T22:13:20Z");
    assert_eq!(condition["observedGeneration"], 1);
}

fn stored() -> Object {
    let mut old = pod(json!({ "containers": [{ "name": "a", "image": "i" }] }));
    Pod.prepare(Change::Create { new: &mut old }, NOW);
    old.body["spec"]["nodeName"] = json!("n");
    old
}

#[test]
fn an_update_keeps_the_status_and_counts_changes_of_the_spec() {
    let old = stored();
    let mut same = old.clone();
    same.body["status"]["phase"] = json!("Failed");
    same.meta.labels = Some([("a".to_owned(), "b".to_owned())].into());
    Pod.prepare(Change::Update { new: &mut same, old: &old }, NOW);
    assert_eq!((same.str_at("status.phase"), same.meta.generation), ("Pending", Some(1)));
    let mut changed = old.clone();
    changed.body["spec"]["containers"][0]["image"] = json!("j");
    Pod.prepare(
        Change::Update {
            new: &mut changed,
            old: &old,
        },
        NOW,
    );
    assert_eq!(changed.meta.generation, Some(2));
    let mut spelled_out = old.clone();
    spelled_out.body["spec"]["volumes"] = json!([]);
    spelled_out.body["spec"]["hostname"] = json!("");
    Pod.prepare(
        Change::Update {
            new: &mut spelled_out,
            old: &old,
        },
        NOW,
    );
    assert_eq!(spelled_out.meta.generation, Some(1));
}

#[test]
fn a_status_update_changes_nothing_else() {
    let old = stored();
    let mut new = old.clone();
    new.body["spec"]["containers"][0]["image"] = json!("j");
    new.meta.generation = Some(9);
    new.meta.owner_references = Some(Vec::new());
    new.body.insert("status".to_owned(), json!({ "phase": "Running" }));
    Pod.prepare(Change::UpdateStatus { new: &mut new, old: &old }, NOW);
    assert_eq!(new.at("spec"), old.at("spec"));
    assert_eq!((new.meta.generation, new.meta.owner_references.clone()), (Some(1), None));
    assert_eq!(new.body["status"], json!({ "phase": "Running", "qosClass": "BestEffort" }));
}

#[test]
fn a_deletion_that_has_begun_goes_on() {
    let mut old = stored();
    old.meta.deletion_timestamp = Some(NOW.wire());
    old.meta.deletion_grace_period_seconds = Some(30);
    for status in [false, true] {
        let mut new = stored();
        let change = if status {
            Change::UpdateStatus { new: &mut new, old: &old }
        } else {
            Change::Update { new: &mut new, old: &old }
        };
        Pod.prepare(change, NOW);
        assert_eq!(
            (new.meta.deletion_timestamp, new.meta.deletion_grace_period_seconds),
            (Some(NOW.wire()), Some(30))
        );
    }
}

/// Shows: 14.3.7
#[test]
fn how_long_a_deletion_waits() {
    let on_node = |phase: &str, own: i64| {
        let mut pod = pod(json!({ "nodeName": "n", "terminationGracePeriodSeconds": own, "containers": [{ "name": "a", "image": "i" }] }));
        pod.body.insert("status".to_owned(), json!({ "phase": phase }));
        pod
    };
    let nowhere = pod(json!({ "containers": [{ "name": "a", "image": "i" }] }));
    let rows = [
        (nowhere, Some(30), None),
        (on_node("Succeeded", 30), Some(30), None),
        (on_node("Failed", 30), None, None),
        (on_node("Running", 30), None, Some(30)),
        (on_node("Running", 7), None, Some(7)),
        (on_node("Pending", 7), Some(60), Some(60)),
        (on_node("Running", 30), Some(0), None),
        (on_node("Running", 0), None, None),
        (on_node("Running", 30), Some(-5), Some(1)),
        (on_node("Running", -5), None, Some(1)),
    ];
    for (index, (pod, asked_s, wanted_s)) in rows.into_iter().enumerate() {
        assert_eq!(Pod.grace(&pod, asked_s), wanted_s, "row {index}");
    }
}
