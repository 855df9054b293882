use super::*;
use crate::scheduler::snapshot::{Standing, standing};

fn pod(name: &str, priority: i32) -> PodFacts {
    let pod = serde_json::from_value(serde_json::json!({
        "metadata": { "name": name, "namespace": "default", "uid": name },
        "spec": { "containers": [], "priority": priority },
    }))
    .unwrap();
    match standing(&pod, "default-scheduler") {
        Standing::Pending(facts) => facts,
        other => panic!("{other:?}"),
    }
}

fn at(seconds: i64) -> Time {
    Time::from_secs(seconds)
}

fn popped(queue: &mut Queue, now: Time) -> Vec<String> {
    std::iter::from_fn(|| queue.pop(now)).map(|pod| pod.name.clone()).collect()
}

fn fit() -> BTreeSet<Plugin> {
    [Plugin::NodeResourcesFit].into()
}

const ROOM: Relief = Relief {
    node_added: false,
    labels: false,
    taints: false,
    allocatable: false,
    pod_left: true,
    volumes: false,
};

#[test]
fn priority_goes_first_then_age() {
    let mut queue = Queue::default();
    for (second, name, priority) in [(1, "old", 0), (2, "young", 0), (3, "vip", 9)] {
        queue.upsert(pod(name, priority), at(second));
    }
    queue.upsert(pod("old", 0), at(9)); // seen again: keeps its place
    assert_eq!(popped(&mut queue, at(9)), ["vip", "old", "young"]);
    assert_eq!(queue.len(), 3, "they are out, not gone");
}

#[test]
fn back_off_doubles_from_one_to_ten_seconds() {
    let delays: Vec<u64> = (1..=6).map(|attempts| back_off(attempts).as_secs()).collect();
    assert_eq!(delays, [1, 2, 4, 8, 10, 10]);
    assert_eq!(back_off(u32::MAX).as_secs(), 10);
}

#[test]
fn a_parked_pod_waits_for_a_change_that_helps() {
    let mut queue = Queue::default();
    queue.upsert(pod("a", 0), at(0));
    let uid = queue.pop(at(0)).unwrap().uid.clone();
    queue.unschedulable(&uid, fit(), at(0));
    assert_eq!(queue.wake_at(), Some(at(300)));
    queue.relieve(
        Relief {
            labels: true,
            ..Relief::default()
        },
        at(5),
    );
    assert!(queue.pop(at(5)).is_none(), "labels do not make room");
    queue.relieve(ROOM, at(6));
    assert_eq!(popped(&mut queue, at(6)), ["a"], "its back-off has passed");
    queue.unschedulable(&uid, fit(), at(6));
    queue.relieve(ROOM, at(7));
    assert_eq!(
        (queue.pop(at(7)), queue.wake_at()),
        (None, Some(at(8))),
        "two failures: two seconds"
    );
    assert_eq!(popped(&mut queue, at(8)), ["a"]);
}

#[test]
fn a_parked_pod_is_tried_after_five_minutes_anyway() {
    let mut queue = Queue::default();
    queue.upsert(pod("a", 0), at(0));
    let uid = queue.pop(at(0)).unwrap().uid.clone();
    queue.unschedulable(&uid, fit(), at(0));
    assert!(queue.pop(at(299)).is_none());
    assert_eq!(popped(&mut queue, at(300)), ["a"]);
}

#[test]
fn without_nodes_only_a_node_helps() {
    let mut queue = Queue::default();
    queue.upsert(pod("a", 0), at(0));
    let uid = queue.pop(at(0)).unwrap().uid.clone();
    queue.unschedulable(&uid, BTreeSet::new(), at(0));
    queue.relieve(ROOM, at(60));
    assert!(queue.pop(at(60)).is_none());
    queue.relieve(
        Relief {
            node_added: true,
            ..Relief::default()
        },
        at(60),
    );
    assert_eq!(popped(&mut queue, at(60)), ["a"]);
}

#[test]
fn a_pod_that_changes_its_mind_is_tried_again_and_one_that_shows_status_is_not() {
    let mut queue = Queue::default();
    queue.upsert(pod("a", 0), at(0));
    let uid = queue.pop(at(0)).unwrap().uid.clone();
    queue.unschedulable(&uid, fit(), at(0));
    queue.upsert(
        PodFacts {
            resource_version: "2".to_owned(),
            ..pod("a", 0)
        },
        at(60),
    );
    assert!(queue.pop(at(60)).is_none(), "our own status patch must not wake it");
    queue.upsert(
        PodFacts {
            labels: [("a".to_owned(), "b".to_owned())].into(),
            ..pod("a", 0)
        },
        at(60),
    );
    assert_eq!(popped(&mut queue, at(60)), ["a"]);
}

#[test]
fn a_failed_binding_is_tried_again_and_a_removed_pod_is_not() {
    let mut queue = Queue::default();
    queue.upsert(pod("a", 0), at(0));
    let uid = queue.pop(at(0)).unwrap().uid.clone();
    queue.upsert(pod("a", 0), at(0));
    assert!(queue.pop(at(0)).is_none(), "never given out twice");
    queue.retry(&uid, at(0));
    assert_eq!((queue.pop(at(0)), queue.wake_at()), (None, Some(at(1))));
    assert_eq!(popped(&mut queue, at(1)), ["a"]);
    queue.remove(&uid);
    queue.retry(&uid, at(2));
    assert!(queue.is_empty() && queue.wake_at().is_none() && queue.pop(at(100)).is_none());
}
