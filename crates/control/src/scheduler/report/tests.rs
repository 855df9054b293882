use super::*;
use crate::scheduler::snapshot::{Standing, standing};

fn report(outcome: Outcome, at: Time, condition: Value) -> Report {
    let pod = serde_json::from_value(json!({
        "metadata": { "name": "web", "namespace": "shop", "uid": "u-1", "resourceVersion": "7", "generation": 3 },
        "spec": { "containers": [] },
        "status": { "conditions": [condition] },
    }))
    .unwrap();
    match standing(&pod, "default-scheduler") {
        Standing::Pending(facts) => Report {
            pod: Arc::new(facts),
            outcome,
            at,
        },
        other => panic!("{other:?}"),
    }
}

fn other_condition() -> Value {
    json!({ "type": "Ready", "status": "False" })
}

fn series() -> Series {
    Series::new(&Options::new("host-1", 0))
}

const AT: Time = Time(1_700_000_000_123_456_789);

#[test]
fn a_scheduled_event_is_upstreams_to_the_letter() {
    let Write::Create(event) = series().record(&report(Outcome::Scheduled("n1".to_owned()), AT, other_condition())) else {
        panic!("no event")
    };
    assert_eq!(
        serde_json::to_value(&event).unwrap(),
        json!({
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": { "name": format!("web.{:x}", AT.0), "namespace": "shop" },
            "eventTime": "2023-11-14T22:13:20.123456Z",
            "reportingController": "default-scheduler",
            "reportingInstance": "default-scheduler-host-1",
            "action": "Binding",
            "reason": "Scheduled",
            "regarding": { "apiVersion": "v1", "kind": "Pod", "name": "web", "namespace": "shop", "uid": "u-1", "resourceVersion": "7" },
            "note": "Successfully assigned shop/web to n1",
            "type": "Normal",
        })
    );
}

#[test]
fn repeats_within_six_minutes_lengthen_a_series() {
    let mut series = series();
    let failed = |minutes: u64, text: &str| {
        report(
            Outcome::Unschedulable(text.to_owned()),
            AT + Duration::from_secs(60 * minutes),
            other_condition(),
        )
    };
    let Write::Create(first) = series.record(&failed(0, "no room")) else {
        panic!("the first is no repeat")
    };
    assert_eq!(
        (first.reason.as_deref(), first.action.as_deref(), first.type_.as_deref()),
        (Some("FailedScheduling"), Some("Scheduling"), Some("Warning"))
    );
    for (minutes, count) in [(5, 2), (11, 3)] {
        let Write::Repeat { name, patch } = series.record(&failed(minutes, "no room")) else {
            panic!("minute {minutes} is a repeat")
        };
        assert_eq!(Some(name), first.metadata.name);
        assert_eq!(patch["series"]["count"], count);
    }
    assert!(
        matches!(series.record(&failed(12, "other")), Write::Create(_)),
        "another text is another event"
    );
    assert!(
        matches!(series.record(&failed(18, "no room")), Write::Create(_)),
        "seven minutes later it is a new event"
    );
    series.forget(&failed(18, "no room"));
    assert!(matches!(series.record(&failed(18, "no room")), Write::Create(_)));
}

#[test]
fn the_condition_is_written_only_when_it_says_something_new() {
    let refused = |condition| report(Outcome::Unschedulable("no room".to_owned()), AT, condition);
    let first = condition(&refused(other_condition())).unwrap();
    assert_eq!(
        first,
        json!({ "metadata": { "uid": "u-1" }, "status": { "conditions": [{
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no room",
            "lastProbeTime": null, "lastTransitionTime": "2023-11-14T22:13:20Z",
            "observedGeneration": 3,
        }] } })
    );
    let said = |message: &str, generation: u32| json!({ "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message, "observedGeneration": generation });
    assert_eq!(condition(&refused(said("no room", 3))), None);
    assert!(condition(&refused(said("no room", 2))).is_some(), "it is about another spec now");
    let changed = condition(&refused(said("no port", 3))).unwrap();
    assert!(
        changed["status"]["conditions"][0].get("lastTransitionTime").is_none(),
        "it was false before"
    );
    assert_eq!(condition(&report(Outcome::Scheduled("n".to_owned()), AT, other_condition())), None);
    assert_eq!(
        condition(&report(Outcome::Failed("x".to_owned()), AT, other_condition())).unwrap()["status"]["conditions"][0]["reason"],
        "SchedulerError"
    );
}
