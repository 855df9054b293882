use serde_json::json;

use super::*;
use crate::table;

fn core() -> Object {
    serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Event", "metadata": { "name": "p.1", "namespace": "d" },
        "involvedObject": { "kind": "Pod", "namespace": "d", "name": "p", "fieldPath": "spec.containers{a}" },
        "reason": "Started", "message": " Started container a\n", "type": "Normal", "count": 3,
        "source": { "component": "kubelet", "host": "n1" },
        "firstTimestamp": "2023-11-14T22:10:20Z", "lastTimestamp": "2023-11-14T22:12:20Z",
    }))
    .unwrap()
}

fn served() -> Object {
    serde_json::from_value(json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": { "name": "p.2", "namespace": "d" },
        "regarding": { "kind": "Pod", "namespace": "d", "name": "p" }, "reason": "Scheduled", "note": "assigned", "type": "Normal",
        "eventTime": "2023-11-14T22:12:20.000000Z", "action": "Binding",
        "reportingController": "default-scheduler", "reportingInstance": "default-scheduler-n1",
    }))
    .unwrap()
}

fn messages(strict: bool, new: &Object, old: Option<&Object>) -> Vec<String> {
    let rules = if old.is_some() { Rules::Update } else { Rules::Create };
    Event { strict }
        .validate(new, old, rules)
        .iter()
        .map(|v| format!("{}: {}", v.field, v.message))
        .collect()
}

#[test]
fn both_forms_say_the_same() {
    let stored = Forms.to_stored(served()).unwrap();
    assert_eq!(stored.types.api_version, "v1");
    assert_eq!(stored.str_at("involvedObject.name"), "p");
    assert_eq!(stored.str_at("message"), "assigned");
    assert_eq!(stored.str_at("reportingComponent"), "default-scheduler");
    assert_eq!(Forms.from_stored(stored), served());
    let older = Forms.from_stored(core());
    assert_eq!(older.str_at("deprecatedSource.component"), "kubelet");
    assert_eq!(older.at("deprecatedCount"), Some(&json!(3)));
    assert_eq!(older.str_at("deprecatedFirstTimestamp"), "2023-11-14T22:10:20Z");
    assert_eq!(Forms.to_stored(older).unwrap(), core());
}

#[test]
fn cells_are_the_same_in_both_forms() {
    let now = Time::from_secs(1_700_000_000);
    let cells =
        |row: &Resource, event: &Object| table::single(row, event, table::IncludeObject::None, false, now)["rows"][0]["cells"].clone();
    let wanted = json!([
        "60s",
        "Normal",
        "Started",
        "pod/p",
        "spec.containers{a}",
        "kubelet, n1",
        "Started container a",
        "3m",
        3,
        "p.1"
    ]);
    assert_eq!(cells(&core_row(), &core()), wanted);
    assert_eq!(cells(&events_row(), &Forms.from_stored(core())), wanted);
    let scheduled = json!([
        "60s",
        "Normal",
        "Scheduled",
        "pod/p",
        "",
        "default-scheduler, default-scheduler-n1",
        "assigned",
        "60s",
        1,
        "p.2"
    ]);
    assert_eq!(cells(&events_row(), &served()), scheduled);
    let mut repeated = served();
    repeated.body.insert(
        "series".to_owned(),
        json!({ "count": 5, "lastObservedTime": "2023-11-14T22:13:10.000000Z" }),
    );
    assert_eq!(cells(&events_row(), &repeated)[0], "10s");
    assert_eq!(cells(&events_row(), &repeated)[8], 5);
}

#[test]
fn an_event_lies_beside_its_object() {
    assert_eq!(messages(false, &core(), None), Vec::<String>::new());
    let mut stray = core();
    stray.meta.namespace = Some("other".to_owned());
    assert_eq!(
        messages(false, &stray, None),
        [r#"involvedObject.namespace: Invalid value: "d": does not match event.namespace"#]
    );
    let mut of_node = core();
    of_node
        .body
        .insert("involvedObject".to_owned(), json!({ "kind": "Node", "name": "n" }));
    assert_eq!(messages(false, &of_node, None).len(), 1);
    of_node.meta.namespace = Some("default".to_owned());
    assert_eq!(messages(false, &of_node, None), Vec::<String>::new());
}

#[test]
fn the_newer_form_asks_for_more() {
    assert_eq!(messages(true, &served(), None), Vec::<String>::new());
    let mut bad = served();
    for field in ["reportingController", "reportingInstance", "action"] {
        bad.body.remove(field);
    }
    bad.body.insert("type".to_owned(), json!("Odd"));
    bad.body.insert("deprecatedCount".to_owned(), json!(2));
    bad.body.insert("note".to_owned(), json!("x".repeat(1025)));
    bad.body.insert("series".to_owned(), json!({ "count": 1 }));
    let found = messages(true, &bad, None);
    for wanted in [
        "reportingController: Required value",
        "reportingInstance: Required value",
        "action: Required value",
        r#"message: Invalid value: "": can have at most 1024 characters"#,
        r#"series.count: Invalid value: "": should be at least 2"#,
        "series.lastObservedTime: Required value",
        r#"type: Invalid value: "": has invalid value: Odd"#,
        r#"count: Invalid value: "": needs to be unset"#,
    ] {
        assert!(found.iter().any(|message| message == wanted), "{wanted} in {found:?}");
    }
}

#[test]
fn only_the_series_of_a_reported_event_goes_on() {
    let mut repeated = served();
    repeated.body.insert(
        "series".to_owned(),
        json!({ "count": 2, "lastObservedTime": "2023-11-14T22:13:10.000000Z" }),
    );
    assert_eq!(messages(true, &repeated, Some(&served())), Vec::<String>::new());
    let mut other = served();
    other.body.insert("reason".to_owned(), json!("Other"));
    assert_eq!(
        messages(true, &other, Some(&served())),
        [r#"reason: Invalid value: "Other": field is immutable"#]
    );
}

#[test]
fn the_source_field_falls_back_to_the_reporter() {
    let fields = core_fields();
    let source = fields.iter().find(|field| field.name == "source").unwrap();
    assert_eq!(source.of(&core()), "kubelet");
    assert_eq!(source.of(&Forms.to_stored(served()).unwrap()), "default-scheduler");
}
