use std::time::Duration;

use api::node::{ContainerId, ContainerUsage, Counters, DiskUsage, PodUsage};
use serde_json::{Value, json};

use super::rank::{binary, decimal};
use super::*;
use crate::input::Eviction;

const MI: u64 = 1 << 20;

fn settings(flags: Flags) -> Settings {
    Settings::parse(&flags).unwrap()
}

fn memory(available_mi: u64) -> Levels {
    let level = Level {
        available: available_mi * MI,
        capacity: 1000 * MI,
    };
    Levels::from([(Signal::MemoryAvailable, level)])
}

fn pod(name: &str, more: Value) -> Pod {
    let mut spec = json!({"containers": [{"name": "c"}]});
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap()
}

fn asks(memory: &str) -> Value {
    json!([{"name": "c", "resources": {"requests": {"memory": memory}}}])
}

fn container(counters: Counters, written_bytes: u64) -> ContainerUsage {
    ContainerUsage {
        id: ContainerId("c-0".to_owned()),
        running: true,
        counters,
        written: DiskUsage {
            bytes: written_bytes,
            inodes: 1,
        },
        logs: DiskUsage::default(),
    }
}

fn uses(memory_mi: u64) -> PodUsage {
    let counters = Counters {
        working_set_bytes: Some(memory_mi * MI),
        processes: Some(1),
        ..Counters::default()
    };
    PodUsage {
        counters,
        containers: [("c".to_owned(), container(counters, 0))].into(),
        ..PodUsage::default()
    }
}

#[test]
fn flags_are_written_as_upstreams() {
    let default = settings(Flags::default());
    let found = |signal: Signal| default.thresholds.iter().find(|t| t.signal == signal).unwrap().amount;
    assert_eq!(found(Signal::MemoryAvailable), Amount::Units(100 * MI));
    assert_eq!(found(Signal::NodeFsAvailable), Amount::Units(1024 * MI));
    assert_eq!(found(Signal::NodeFsInodesFree), Amount::MilliPercent(1000));
    assert_eq!((default.thresholds.len(), default.transition), (5, Duration::from_secs(300)));
    assert_eq!(default.reserved(Signal::MemoryAvailable, u64::MAX), 100 * MI);
    let all_off = Flags {
        hard: Some(String::new()),
        ..Flags::default()
    };
    assert!(settings(all_off).thresholds.is_empty());
    let said = |hard: &str, soft: &str, grace: &str| {
        let flags = Flags {
            hard: Some(hard.to_owned()),
            soft: soft.to_owned(),
            soft_grace: grace.to_owned(),
            ..Flags::default()
        };
        Settings::parse(&flags).unwrap_err().to_string()
    };
    assert!(said("memory<1", "", "").contains("--eviction-hard: \"memory<1\" is not <signal><<value>"));
    assert!(said("memory.available<1x", "", "").contains("the value must be a quantity"));
    assert!(said("memory.available<101%", "", "").contains("from 0% to 100%"));
    let words = said("", "memory.available<10%", "");
    assert_eq!(
        words,
        "grace period must be specified for the soft eviction threshold memory.available"
    );
    assert!(said("", "memory.available<10%", "memory.available=soon").contains("positive duration"));
}

#[test]
fn a_hard_threshold_acts_at_once_and_its_condition_stays_a_while() {
    let settings = settings(Flags {
        hard: Some("memory.available<100Mi".to_owned()),
        min_reclaim: "memory.available=50Mi".to_owned(),
        ..Flags::default()
    });
    let (mut watch, at) = (Watch::default(), Time::from_secs);
    assert_eq!(watch.look(at(0), &settings, &memory(100)), Finding::default());
    let found = watch.look(at(10), &settings, &memory(99));
    assert_eq!(found.pressures, BTreeSet::from([Pressure::Memory]));
    assert_eq!(found.reclaim.unwrap().signal, Signal::MemoryAvailable);
    // What is to be won back is not there yet.
    assert!(watch.look(at(20), &settings, &memory(149)).reclaim.is_some());
    let found = watch.look(at(30), &settings, &memory(150));
    assert!(found.reclaim.is_none() && found.pressures.contains(&Pressure::Memory));
    assert!(watch.look(at(319), &settings, &memory(150)).pressures.contains(&Pressure::Memory));
    assert_eq!(watch.look(at(320), &settings, &memory(120)), Finding::default());
}

#[test]
fn a_soft_threshold_waits_out_its_grace() {
    let settings = settings(Flags {
        hard: Some(String::new()),
        soft: "memory.available<20%".to_owned(),
        soft_grace: "memory.available=1m30s".to_owned(),
        max_pod_grace_s: 5,
        ..Flags::default()
    });
    let (mut watch, at) = (Watch::default(), Time::from_secs);
    let found = watch.look(at(0), &settings, &memory(199));
    assert!(found.reclaim.is_none() && found.pressures.contains(&Pressure::Memory));
    // It was well in between: the grace begins anew.
    assert!(watch.look(at(60), &settings, &memory(200)).reclaim.is_none());
    assert!(watch.look(at(70), &settings, &memory(199)).reclaim.is_none());
    assert!(watch.look(at(159), &settings, &memory(199)).reclaim.is_none());
    let reclaim = watch.look(at(160), &settings, &memory(199)).reclaim.unwrap();
    let short = pod("short", json!({"terminationGracePeriodSeconds": 3}));
    let grace = |pod: &Pod| victim(&reclaim, &settings, &memory(199), &[(pod, uses(1))]).unwrap().1.grace;
    assert_eq!(grace(&short), Some(Duration::from_secs(3)));
    assert_eq!(grace(&pod("long", json!({}))), Some(Duration::from_secs(5)));
}

#[test]
fn pods_go_in_the_documented_order() {
    let settings = settings(Flags::default());
    let hard = |signal: Signal| settings.thresholds.iter().find(|t| t.signal == signal).unwrap().clone();
    let modest = pod("modest", json!({"containers": asks("500Mi")}));
    let greedy = pod("greedy", json!({"containers": asks("100Mi")}));
    let best_effort = pod("best-effort", json!({}));
    let important = pod("important", json!({"priority": 1000}));
    let critical = pod("critical", json!({"priority": 2_000_000_000}));
    let mut pods = vec![
        (&critical, uses(900)),
        (&modest, uses(400)),
        (&important, uses(800)),
        (&greedy, uses(250)),
        (&best_effort, uses(200)),
    ];
    let mut order = Vec::new();
    while let Some((place, _)) = victim(&hard(Signal::MemoryAvailable), &settings, &memory(9), &pods) {
        order.push(pods.remove(place).0.metadata.name.clone().unwrap());
    }
    // Above their requests first, then by priority, then by how much above.
    assert_eq!(order, ["best-effort", "greedy", "important", "modest"]);
    assert_eq!(pods.len(), 1, "critical pods are not evicted");

    let disk = |name: &str, bytes: u64| PodUsage {
        containers: [(name.to_owned(), container(Counters::default(), bytes))].into(),
        ..PodUsage::default()
    };
    let pods = [(&modest, disk("c", 10)), (&best_effort, disk("c", 4096))];
    let (place, eviction) = victim(&hard(Signal::NodeFsAvailable), &settings, &Levels::new(), &pods).unwrap();
    assert_eq!(place, 1);
    assert_eq!(
        eviction.message,
        "The node was low on resource: ephemeral-storage. Container c was using 4Ki, request is 0, has larger consumption of ephemeral-storage. "
    );
}

#[test]
fn an_eviction_is_told_in_upstreams_words() {
    let settings = settings(Flags::default());
    let threshold = &settings.thresholds[2];
    let greedy = pod("greedy", json!({"containers": asks("100Mi")}));
    let (_, eviction) = victim(threshold, &settings, &memory(90), &[(&greedy, uses(250))]).unwrap();
    assert_eq!(
        eviction,
        Eviction {
            reason: "Evicted".to_owned(),
            message: "The node was low on resource: memory. Threshold quantity: 100Mi, available: 90Mi. Container c was using 250Mi, request is 100Mi, has larger consumption of memory. ".to_owned(),
            grace: Some(Duration::from_secs(1)),
        }
    );
    for (units, text) in [(0, "0"), (1023, "1023"), (1024, "1Ki"), (1536 * 1024, "1536Ki"), (1 << 30, "1Gi")] {
        assert_eq!(binary(units), text);
    }
    assert_eq!((decimal(1000), decimal(1024)), ("1k".to_owned(), "1024".to_owned()));
}

#[test]
fn a_node_that_is_short_takes_no_more() {
    let memory = BTreeSet::from([Pressure::Memory]);
    let both = BTreeSet::from([Pressure::Memory, Pressure::Disk]);
    let best_effort = pod("a", json!({}));
    let burstable = pod("a", json!({"containers": asks("1Mi")}));
    let critical = pod("a", json!({"priority": 2_000_001_000}));
    let tolerant = pod(
        "a",
        json!({"tolerations": [{"key": "node.kubernetes.io/memory-pressure", "operator": "Exists"}]}),
    );
    assert_eq!(admit(&best_effort, &BTreeSet::new()), Ok(()));
    let refused = admit(&best_effort, &memory).unwrap_err();
    assert_eq!(
        (refused.reason.as_str(), refused.message.as_str()),
        ("Evicted", "The node had condition: [MemoryPressure]. ")
    );
    for pod in [&burstable, &critical, &tolerant] {
        assert_eq!(admit(pod, &memory), Ok(()));
    }
    assert_eq!(
        admit(&burstable, &both).unwrap_err().message,
        "The node had condition: [MemoryPressure DiskPressure]. "
    );
    assert!(admit(&tolerant, &both).is_err() && admit(&critical, &both).is_ok());
}
