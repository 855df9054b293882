use kubelet::flight::Subject;
use lifecycle::flight::{Cause, Transition};
use serde_json::json;

use super::super::text::render;
use super::*;

const START_S: i64 = 1_700_000_000;

fn flight(transitions: Vec<Transition>) -> FlightReport {
    let entries = transitions.into_iter().zip(1..).map(|(transition, number)| Entry {
        number,
        transition,
        count: 1,
        last_at: None,
    });
    FlightReport {
        subject: Subject {
            namespace: "default".to_owned(),
            name: "web".to_owned(),
            uid: "u-1".parse().unwrap(),
        },
        gone_at: None,
        dropped: 0,
        transitions: entries.collect(),
        outlook: None,
    }
}

fn exited(because: Cause) -> Transition {
    Transition {
        at: Time::from_secs(START_S + 5),
        container: Some("app".to_owned()),
        attempt: Some(2),
        change: Change::Exited {
            code: 137,
            signal: Some(9),
            ran_s: Some(3.0),
            message: String::new(),
        },
        because: Some(because),
    }
}

fn pod(status: serde_json::Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "default", "uid": "u-1"},
        "spec": {"nodeName": "node1", "containers": [{"name": "app"}]},
        "status": status,
    }))
    .unwrap()
}

fn told(flight: FlightReport) -> Told {
    Told {
        flights: vec![("node1".to_owned(), flight)],
        unread: Vec::new(),
    }
}

#[test]
fn a_crashed_container_is_told_with_what_killed_it_and_what_comes_next() {
    let mut flight = flight(vec![exited(Cause::OutOfMemory)]);
    flight.outlook = serde_json::from_value(json!({
        "next": [], "containers": [{"name": "app", "next": [{"at": "2023-11-14T22:13:45.000000Z", "what": "attempt #3 starts"}]}],
    }))
    .ok();
    let pod = pod(json!({
        "phase": "Running",
        "conditions": [{"type": "Ready", "status": "False", "message": "containers with unready status: [app]"}],
        "containerStatuses": [{"name": "app", "image": "", "imageID": "", "ready": false, "restartCount": 2,
            "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 20s"}}}],
    }));
    let text = render(&explain("default", "web", Some(&pod), told(flight), Time::from_secs(START_S + 15)));
    assert_eq!(
        text,
        "Pod default/web
  it is on node node1, Running, not Ready
  it is not Ready: containers with unready status: [app]

Container app: waiting (CrashLoopBackOff) since 22:13:25 (10s ago), restarted 2 times
  why:  back-off 20s
  why:  the attempt before (#2) ended by SIGKILL (exit code 137) after 3s; the kernel killed it: it used more memory than its limit (OOMKilled)
  next: in 10s (at 22:13:45): attempt #3 starts

What happened (UTC):
  2023-11-14 22:13:25.000  app #2: ended by SIGKILL (exit code 137) after 3s; the kernel killed it: it used more memory than its limit (OOMKilled)
"
    );
}

#[test]
fn an_unscheduled_pod_is_told_in_the_scheduler_s_words() {
    let mut pod = pod(json!({"phase": "Pending", "conditions": [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes are available: 1 Insufficient cpu."},
    ]}));
    pod.spec.as_mut().unwrap().node_name = None;
    let text = render(&explain("default", "web", Some(&pod), Told::default(), Time::from_secs(START_S)));
    assert!(
        text.contains("the scheduler says: 0/1 nodes are available: 1 Insufficient cpu."),
        "{text}"
    );
    assert!(text.contains("next: the scheduler tries again"), "{text}");
}

#[test]
fn a_pod_that_is_gone_is_told_from_what_its_node_remembers() {
    let why = Cause::Deletion {
        by: Some("alice".to_owned()),
    };
    let ending = Transition {
        at: Time::from_secs(START_S + 2),
        container: None,
        attempt: None,
        change: Change::Terminating,
        because: Some(why.clone()),
    };
    let killed = Cause::Stopped {
        why: Box::new(why),
        killed: true,
    };
    let mut flight = flight(vec![ending, exited(killed)]);
    flight.gone_at = Some(Time::from_secs(START_S + 9).wire_micro());
    let text = render(&explain("default", "web", None, told(flight), Time::from_secs(START_S + 20)));
    assert!(
        text.contains("it is gone since 22:13:29\n  it ended because user alice deleted the pod"),
        "{text}"
    );
    assert!(
        text.contains("  why:  it did not end within its grace and was killed: user alice deleted the pod"),
        "{text}"
    );
}

#[test]
fn another_pod_of_the_same_name_is_not_taken_for_this_one() {
    let mut other = flight(vec![exited(Cause::Itself)]);
    other.subject.uid = "u-2".parse().unwrap();
    let pod = pod(json!({"phase": "Pending"}));
    let explanation = explain("default", "web", Some(&pod), told(other), Time::from_secs(START_S));
    assert!(explanation.transitions.is_empty());
    assert_eq!(explanation.uid.as_deref(), Some("u-1"));
}
