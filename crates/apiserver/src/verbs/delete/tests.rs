use super::*;
use crate::kinds;

fn row(plural: &str) -> std::sync::Arc<crate::registry::Row> {
    std::sync::Arc::clone(kinds::builtin().find("", "v1", plural).unwrap())
}

fn object(value: Value) -> Object {
    serde_json::from_value(value).unwrap()
}

const NOW: Time = Time::from_secs(1_000);

/// `remove`, `nothing`, or the deadline and grace of a mark.
fn planned(plural: &str, value: Value, asked_s: Option<i64>) -> String {
    match plan(&row(plural), &object(value), asked_s, NOW) {
        Step::Nothing => "nothing".to_owned(),
        Step::Remove => "remove".to_owned(),
        Step::Mark(object) => {
            let deadline = Time::from(object.meta.deletion_timestamp.as_ref().unwrap()).0 / 1_000_000_000;
            format!("mark {deadline} {:?}", object.meta.deletion_grace_period_seconds)
        }
    }
}

#[test]
fn a_first_delete_follows_the_kind() {
    let pod = |phase: &str, node: &str| json!({"metadata": {"name": "a"}, "spec": {"nodeName": node, "terminationGracePeriodSeconds": 30}, "status": {"phase": phase}});
    let table = [
        (pod("Running", "n"), None, "mark 1030 Some(30)"),
        (pod("Running", "n"), Some(5), "mark 1005 Some(5)"),
        (pod("Running", "n"), Some(-1), "mark 1001 Some(1)"),
        (pod("Running", "n"), Some(0), "remove"),
        (pod("Pending", ""), None, "remove"),
        (pod("Succeeded", "n"), None, "remove"),
    ];
    for (pod, asked, expected) in table {
        assert_eq!(planned("pods", pod.clone(), asked), expected, "{pod} {asked:?}");
    }
    assert_eq!(planned("configmaps", json!({"metadata": {"name": "a"}}), Some(30)), "remove");
    assert_eq!(
        planned("configmaps", json!({"metadata": {"name": "a", "finalizers": ["x/y"]}}), None),
        "mark 1000 Some(0)"
    );
    assert_eq!(
        planned(
            "namespaces",
            json!({"metadata": {"name": "a"}, "spec": {"finalizers": ["kubernetes"]}}),
            None
        ),
        "mark 1000 None"
    );
    assert_eq!(planned("namespaces", json!({"metadata": {"name": "a"}}), None), "remove");
}

#[test]
fn a_repeated_delete_only_shortens() {
    let pod = |grace: i64, finalizers: Value| {
        json!({"metadata": {"name": "a", "deletionTimestamp": Time::from_secs(990 + grace).to_string(), "deletionGracePeriodSeconds": grace, "finalizers": finalizers},
            "spec": {"nodeName": "n"}})
    };
    let table = [
        (pod(30, json!([])), None, "nothing"),
        (pod(30, json!([])), Some(30), "nothing"),
        (pod(30, json!([])), Some(60), "nothing"),
        // Requested at 990.
        (pod(30, json!([])), Some(20), "mark 1010 Some(20)"),
        (pod(30, json!([])), Some(3), "mark 1000 Some(3)"),
        (pod(30, json!([])), Some(0), "remove"),
        (pod(30, json!(["x/y"])), Some(0), "mark 1000 Some(0)"),
        (pod(0, json!(["x/y"])), Some(0), "nothing"),
        (pod(0, json!([])), None, "remove"),
    ];
    for (pod, asked, expected) in table {
        assert_eq!(planned("pods", pod.clone(), asked), expected, "{pod} {asked:?}");
    }
}

#[test]
fn options_come_from_the_query_and_the_body() {
    let read = |query: &str, body: Value| Options::of(&Query::parse(query).unwrap(), &body);
    assert_eq!(read("gracePeriodSeconds=5", json!({})).unwrap().grace_s, Some(5));
    assert_eq!(
        read("gracePeriodSeconds=5", json!({"gracePeriodSeconds": 0})).unwrap().grace_s,
        Some(0)
    );
    assert_eq!(
        read(
            "",
            json!({"kind": "DeleteOptions", "preconditions": {"uid": "u", "resourceVersion": null}})
        )
        .unwrap()
        .uid
        .as_deref(),
        Some("u")
    );
    assert!(read("", json!({"dryRun": ["All"]})).unwrap().dry_run);
    for body in [
        json!([]),
        json!({"kind": "Pod"}),
        json!({"gracePeriodSeconds": "5"}),
        json!({"preconditions": {"uid": 5}}),
        json!({"propagationPolicy": "x"}),
        json!({"dryRun": ["x"]}),
    ] {
        assert!(read("", body.clone()).is_err(), "{body}");
    }
}

#[test]
fn finalizers_hold_an_object_for_its_dependents() {
    let registry = crate::kinds::builtin();
    let row = registry.find("", "v1", "configmaps").unwrap();
    let object = |meta: serde_json::Value| -> Object { serde_json::from_value(serde_json::json!({ "metadata": meta })).unwrap() };
    let after = |meta: serde_json::Value, propagation| {
        let options = Options {
            propagation,
            ..Options::default()
        };
        match decide(row, &object(meta), &options, Time::from_secs(5)) {
            Step::Nothing => "nothing".to_owned(),
            Step::Remove => "gone".to_owned(),
            Step::Mark(marked) => format!(
                "{} {}",
                marked.meta.finalizers.unwrap_or_default().join(","),
                marked.meta.deletion_timestamp.is_some()
            ),
        }
    };
    use super::Propagation::{Background, Foreground, Orphan};
    let none = || serde_json::json!({});
    assert_eq!(after(none(), None), "gone");
    assert_eq!(after(none(), Some(Background)), "gone");
    assert_eq!(after(none(), Some(Foreground)), "foregroundDeletion true");
    assert_eq!(after(none(), Some(Orphan)), "orphan true");
    let held = || serde_json::json!({ "finalizers": ["a/b", "orphan"] });
    assert_eq!(after(held(), Some(Foreground)), "a/b,foregroundDeletion true");
    assert_eq!(after(held(), None), "a/b,orphan true", "what was set before holds");
    let going = || serde_json::json!({ "finalizers": ["foregroundDeletion"], "deletionTimestamp": "2024-01-01T00:00:00Z" });
    assert_eq!(after(going(), None), "nothing");
    assert_eq!(after(going(), Some(Background)), "gone", "a later delete may ask for less");
    assert_eq!(after(going(), Some(Orphan)), "orphan true");
    let controller = registry.find("", "v1", "replicationcontrollers").unwrap();
    let default = decide(controller, &object(none()), &Options::default(), Time::from_secs(5));
    assert!(matches!(default, Step::Mark(marked) if marked.meta.finalizers == Some(vec!["orphan".to_owned()])));
}
