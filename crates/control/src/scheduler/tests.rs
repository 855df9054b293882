//! Whole clusters in memory: random histories, and what must hold in each.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use api::Quantity;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn pod(n: usize, cpu_milli: i64, node: Option<&str>) -> Pod {
    serde_json::from_value(json!({
        "metadata": { "name": format!("pod-{n}"), "namespace": "default", "uid": format!("uid-{n}") },
        "spec": {
            "nodeName": node,
            "containers": [{ "name": "c", "resources": { "requests": { "cpu": format!("{cpu_milli}m") } } }],
        },
    }))
    .unwrap()
}

fn changed(mut pod: Pod, change: Value) -> Pod {
    let mut value = serde_json::to_value(&pod).unwrap();
    merge(&mut value, change);
    pod = serde_json::from_value(value).unwrap();
    pod
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => from
            .into_iter()
            .for_each(|(key, value)| merge(into.entry(key).or_insert(Value::Null), value)),
        (into, from) => *into = from,
    }
}

fn node(name: &str, cpu_milli: i64, pods: u32) -> Node {
    serde_json::from_value(json!({
        "metadata": { "name": name },
        "status": { "allocatable": { "cpu": format!("{cpu_milli}m"), "memory": "1Gi", "pods": pods.to_string() } },
    }))
    .unwrap()
}

fn scheduler() -> Scheduler {
    Scheduler::new(&Options::new("h", 7))
}

fn uid(n: usize) -> Uid {
    format!("uid-{n}").parse().unwrap()
}

fn bound_to(decision: Option<Decision>) -> Option<String> {
    match decision {
        Some(Decision::Bind { node, .. }) => Some(node),
        _ => None,
    }
}

const NOW: Time = Time::from_secs(1_000);

#[test]
fn only_pods_of_ours_that_want_a_node_are_scheduled() {
    for (title, change, want) in [
        ("plain", json!({}), true),
        ("named", json!({ "spec": { "schedulerName": "default-scheduler" } }), true),
        ("another scheduler's", json!({ "spec": { "schedulerName": "mine" } }), false),
        ("gated", json!({ "spec": { "schedulingGates": [{ "name": "g" }] } }), false),
        ("no gates left", json!({ "spec": { "schedulingGates": [] } }), true),
        (
            "being deleted",
            json!({ "metadata": { "deletionTimestamp": "2024-01-01T00:00:00Z" } }),
            false,
        ),
        ("has a node", json!({ "spec": { "nodeName": "n" } }), false),
        ("ended", json!({ "status": { "phase": "Failed" } }), false),
    ] {
        let mut scheduler = scheduler();
        scheduler.node_changed(&node("n", 1000, 10), NOW);
        scheduler.pod_changed(&changed(pod(1, 100, None), change), NOW);
        assert_eq!(bound_to(scheduler.next(NOW)), want.then(|| "n".to_owned()), "{title}");
        assert_eq!(scheduler.next(NOW), None, "{title}");
    }
}

#[test]
fn an_assumed_pod_takes_room_at_once_and_gives_it_back() {
    let mut scheduler = scheduler();
    scheduler.node_changed(&node("n", 1000, 10), NOW);
    scheduler.pod_changed(&pod(1, 600, None), NOW);
    scheduler.pod_changed(&pod(2, 600, None), NOW);
    assert_eq!(bound_to(scheduler.next(NOW)), Some("n".to_owned()));
    let Some(Decision::Refuse { pod: refused, refusal }) = scheduler.next(NOW) else {
        panic!("both were given the same room")
    };
    assert_eq!(refused.name, "pod-2");
    assert!(
        refusal.message.starts_with("0/1 nodes are available: 1 Insufficient cpu."),
        "{}",
        refusal.message
    );
    scheduler.bind_failed(&uid(1), NOW);
    let later = NOW + std::time::Duration::from_secs(1);
    assert_eq!(bound_to(scheduler.next(later)), Some("n".to_owned()));
    assert!(matches!(scheduler.next(later), Some(Decision::Refuse { .. }) | None));
}

#[test]
fn a_late_view_of_a_bound_pod_does_not_bind_it_again() {
    let mut scheduler = scheduler();
    scheduler.node_changed(&node("n", 1000, 10), NOW);
    scheduler.pod_changed(&pod(1, 600, None), NOW);
    assert!(bound_to(scheduler.next(NOW)).is_some());
    scheduler.pod_changed(&pod(1, 600, None), NOW);
    assert_eq!(scheduler.next(NOW), None, "its binding is under way");
    scheduler.bound(&uid(1));
    scheduler.pod_changed(&pod(1, 600, None), NOW);
    assert_eq!(scheduler.next(NOW), None, "its binding is written");
    scheduler.pod_changed(&pod(1, 600, Some("n")), NOW);
    scheduler.bind_failed(&uid(1), NOW); // the answer was lost, the binding was not
    assert_eq!(scheduler.next(NOW + std::time::Duration::from_secs(60)), None);
    assert_eq!(scheduler.cache().place(&uid(1)), Some("n"));
}

#[test]
fn a_pod_that_leaves_lets_another_in() {
    let mut scheduler = scheduler();
    scheduler.node_changed(&node("n", 1000, 10), NOW);
    scheduler.pod_changed(&pod(1, 1000, Some("n")), NOW);
    scheduler.pod_changed(&pod(2, 1000, None), NOW);
    assert!(matches!(scheduler.next(NOW), Some(Decision::Refuse { .. })));
    let later = NOW + std::time::Duration::from_secs(5);
    scheduler.node_changed(&node("n", 1000, 10), later); // a heartbeat
    assert_eq!(scheduler.next(later), None);
    // Terminating pods still count, ended ones do not.
    scheduler.pod_changed(
        &changed(
            pod(1, 1000, Some("n")),
            json!({ "metadata": { "deletionTimestamp": "2024-01-01T00:00:00Z" } }),
        ),
        later,
    );
    assert_eq!(scheduler.next(later), None);
    scheduler.pod_changed(
        &changed(pod(1, 1000, Some("n")), json!({ "status": { "phase": "Succeeded" } })),
        later,
    );
    assert_eq!(bound_to(scheduler.next(later)), Some("n".to_owned()));
}

#[test]
fn a_new_list_forgets_what_is_not_in_it() {
    let mut scheduler = scheduler();
    scheduler.node_changed(&node("n", 1000, 10), NOW);
    scheduler.node_changed(&node("m", 1000, 10), NOW);
    scheduler.pod_changed(&pod(1, 1000, Some("n")), NOW);
    scheduler.pod_changed(&pod(2, 10, None), NOW);
    scheduler.nodes_listed(&["n".to_owned()].into());
    scheduler.pods_listed(&[uid(9)].into(), NOW);
    assert_eq!(scheduler.cache().node_names().collect::<Vec<_>>(), ["n"]);
    assert_eq!(scheduler.cache().place(&uid(1)), None);
    assert_eq!(scheduler.next(NOW), None);
}

/// One thing that happens to the cluster.
#[derive(Clone, Debug)]
enum Step {
    Create(usize, i64),
    Delete(usize),
    Node(usize, i64, u32),
    DropNode(usize),
    Decide,
    /// The oldest binding under way ends: written and seen, written and not
    /// seen yet, or refused.
    Written,
    WrittenUnseen,
    Refused,
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0_usize..12, 0_i64..1500).prop_map(|(n, cpu)| Step::Create(n, cpu)),
        2 => (0_usize..12).prop_map(Step::Delete),
        2 => (0_usize..3, 500_i64..3000, 1_u32..5).prop_map(|(n, cpu, pods)| Step::Node(n, cpu, pods)),
        1 => (0_usize..3).prop_map(Step::DropNode),
        6 => Just(Step::Decide),
        3 => Just(Step::Written),
        1 => Just(Step::WrittenUnseen),
        1 => Just(Step::Refused),
        2 => (1_u64..20).prop_map(Step::Wait),
    ];
    proptest::collection::vec(step, 1..120)
}

/// The cluster as the API server would hold it, kept apart from the scheduler.
#[derive(Default)]
struct World {
    /// Pods by number: CPU, and their node once bound.
    pods: BTreeMap<usize, (i64, Option<String>)>,
    nodes: BTreeMap<String, (i64, u32)>,
    /// Bindings under way: pod number, UID number at that time, node.
    bindings: Vec<(usize, String)>,
}

impl World {
    fn fits(&self, chosen: usize, name: &str) -> bool {
        let (allowed_cpu, allowed_pods) = self.nodes[name];
        let there: Vec<i64> = self
            .pods
            .iter()
            .filter(|(n, (_, place))| {
                **n != chosen && (place.as_deref() == Some(name) || self.bindings.iter().any(|(b, node)| b == *n && node == name))
            })
            .map(|(_, (cpu, _))| *cpu)
            .collect();
        let cpu = self.pods[&chosen].0;
        there.len() < allowed_pods as usize && (cpu == 0 || there.iter().sum::<i64>() + cpu <= allowed_cpu)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever happens in whatever order: a pod is only ever bound where it
    /// fits, counting bindings under way; never twice; and a pod that some
    /// node has room for does not wait for more than its back-off.
    #[test]
    fn a_bound_pod_fits_and_is_bound_once(steps in steps()) {
        let mut world = World::default();
        let mut scheduler = scheduler();
        let mut now = NOW;
        for step in steps {
            match step {
                Step::Create(n, cpu) => {
                    if let Entry::Vacant(free) = world.pods.entry(n) {
                        free.insert((cpu, None));
                        scheduler.pod_changed(&pod(n, cpu, None), now);
                    }
                }
                Step::Delete(n) => {
                    // A binding under way to a pod that is gone is refused.
                    if world.pods.remove(&n).is_some() {
                        scheduler.pod_gone(&uid(n), now);
                    }
                    if let Some(at) = world.bindings.iter().position(|(b, _)| *b == n) {
                        world.bindings.remove(at);
                        scheduler.bind_failed(&uid(n), now);
                    }
                }
                Step::Node(n, cpu, pods) => {
                    world.nodes.insert(format!("n{n}"), (cpu, pods));
                    scheduler.node_changed(&node(&format!("n{n}"), cpu, pods), now);
                }
                Step::DropNode(n) => {
                    world.nodes.remove(&format!("n{n}"));
                    scheduler.node_gone(&format!("n{n}"));
                }
                Step::Decide => {
                    if let Some(Decision::Bind { pod, node }) = scheduler.next(now) {
                        let n: usize = pod.name["pod-".len()..].parse().unwrap();
                        prop_assert!(world.pods.get(&n).is_some_and(|(_, place)| place.is_none()), "pod {n} is gone or bound already");
                        prop_assert!(world.bindings.iter().all(|(other, _)| *other != n), "pod {n} is being bound already");
                        prop_assert!(world.fits(n, &node), "pod {n} does not fit {node}");
                        world.bindings.push((n, node));
                    }
                }
                Step::Written | Step::WrittenUnseen if !world.bindings.is_empty() => {
                    let (n, node) = world.bindings.remove(0);
                    let entry = world.pods.get_mut(&n).unwrap();
                    entry.1 = Some(node.clone());
                    scheduler.bound(&uid(n));
                    let seen = matches!(step, Step::Written).then_some(node.as_str());
                    scheduler.pod_changed(&pod(n, entry.0, seen), now);
                }
                Step::Refused if !world.bindings.is_empty() => {
                    let (n, _) = world.bindings.remove(0);
                    scheduler.bind_failed(&uid(n), now);
                }
                Step::Written | Step::WrittenUnseen | Step::Refused => {}
                Step::Wait(seconds) => now = now + std::time::Duration::from_secs(seconds),
            }
        }
        // Liveness: once all back-offs have passed nobody waits beside room.
        now = now + std::time::Duration::from_secs(11);
        while let Some(decision) = scheduler.next(now) {
            if let Decision::Bind { pod, node } = decision {
                world.bindings.push((pod.name["pod-".len()..].parse().unwrap(), node));
            }
        }
        for (n, (_, place)) in &world.pods {
            let waits = place.is_none() && world.bindings.iter().all(|(other, _)| other != n);
            prop_assert!(!waits || world.nodes.keys().all(|node| !world.fits(*n, node)), "pod {n} waits beside room");
        }
    }

    /// What the cache counts is the sum over the pods that are there.
    #[test]
    fn the_cache_counts_what_is_there(moves in proptest::collection::vec((0_usize..6, 0_i64..900, 0_usize..4), 1..60)) {
        let mut scheduler = scheduler();
        let mut there: BTreeMap<usize, (i64, usize)> = BTreeMap::new();
        for n in 0..3 {
            scheduler.node_changed(&node(&format!("n{n}"), 1, 1), NOW);
        }
        for (n, cpu, place) in moves {
            if place == 3 {
                scheduler.pod_gone(&uid(n), NOW);
                there.remove(&n);
            } else {
                scheduler.pod_changed(&pod(n, cpu, Some(&format!("n{place}"))), NOW);
                there.insert(n, (cpu, place));
            }
            for view in scheduler.cache().nodes() {
                let on = |place: usize| view.facts.name == format!("n{place}");
                let sum: i64 = there.values().filter(|(_, place)| on(*place)).map(|(cpu, _)| cpu).sum();
                prop_assert_eq!(view.usage.requested.get("cpu").copied().unwrap_or_default(), Quantity::from_milli(sum));
                prop_assert_eq!(view.usage.pods.len(), there.values().filter(|(_, place)| on(*place)).count());
            }
        }
    }
}
