use std::sync::atomic::Ordering;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::testing::{NOW_S, Rig};

const HOUR_S: i64 = 3_600;
const EVENTS: &str = "/api/v1/namespaces/default/events";

/// Revisions and times of marks.
type Pairs = &'static [(u64, i64)];

fn marks(pairs: &[(u64, i64)]) -> Vec<Mark> {
    pairs.iter().map(|&(revision, at_s)| Mark { revision, at_s }).collect()
}

#[test]
fn marks_are_made_when_something_was_written_and_speak_after_an_hour() {
    // Known marks, newest write (of 90 read), now: what is over, marks kept.
    let table: [(Pairs, u64, i64, u64, Pairs); 8] = [
        // Nothing there, nothing to say.
        (&[], 0, 1_000, 0, &[]),
        (&[], 50, 1_000, 0, &[(90, 1_000)]),
        // Too early for another one, late enough, nothing new.
        (&[(40, 1_000)], 50, 1_059, 0, &[(40, 1_000)]),
        (&[(40, 1_000)], 50, 1_060, 0, &[(40, 1_000), (90, 1_060)]),
        (&[(50, 1_000)], 50, 2_000, 0, &[(50, 1_000)]),
        // An hour later to the second.
        (&[(40, 1_000), (50, 1_060)], 50, 4_599, 0, &[(40, 1_000), (50, 1_060)]),
        (&[(30, 940), (40, 1_000), (50, 1_060)], 50, 4_600, 40, &[(40, 1_000), (50, 1_060)]),
        // The clock was set back.
        (&[(40, 9_000), (50, 9_060)], 50, 1_000, 0, &[(40, 1_000), (50, 1_000)]),
    ];
    for (known, newest, now_s, expired_through, kept) in table {
        let seen = Seen { reached: 90, newest };
        let expected = Plan {
            expired_through,
            marks: marks(kept),
        };
        assert_eq!(plan(&marks(known), seen, now_s, HOUR_S), expected, "{known:?} {newest} {now_s}");
    }
}

proptest! {
    /// Looks at any times, writes between them: nothing goes before its hour,
    /// everything is gone two steps after it if somebody looks that often, and
    /// the marks stay few.
    #[test]
    fn nothing_goes_early_and_nothing_stays(steps in prop::collection::vec((1_i64..=60, prop::bool::ANY), 1..600)) {
        let (mut kept, mut now_s, mut revision) = (Vec::new(), 0_i64, 1_u64);
        let mut live: Vec<(u64, i64)> = Vec::new();
        for (pause_s, writes) in steps {
            now_s += pause_s;
            let newest = live.iter().map(|(revision, _)| *revision).max().unwrap_or(0);
            let decided = plan(&kept, Seen { reached: revision, newest }, now_s, HOUR_S);
            for (written, at_s) in &live {
                if *written <= decided.expired_through {
                    prop_assert!(at_s + HOUR_S <= now_s);
                }
            }
            live.retain(|(written, _)| *written > decided.expired_through);
            prop_assert!(live.iter().all(|(_, at_s)| now_s <= at_s + HOUR_S + 180));
            kept = decided.marks;
            prop_assert!(kept.len() <= 62);
            if writes {
                revision += 1;
                live.push((revision, now_s));
            }
        }
    }
}

fn event(name: &str) -> serde_json::Value {
    json!({"metadata": {"name": name}, "involvedObject": {"namespace": "default"}, "reason": "R", "type": "Normal"})
}

impl Rig {
    /// Looks after the events as the server's own task would at this moment.
    async fn look_at(&self, after_s: i64) -> usize {
        // A list waits until the hub has read everything written before.
        assert_eq!(self.get(EVENTS).await.code, 200);
        self.now_s.store(NOW_S + after_s, Ordering::Relaxed);
        let core = self.server.core();
        let row = core.row("", "v1", "events").unwrap();
        core.expire(&row, row.ttl.unwrap(), (core.clock)()).await.unwrap()
    }

    async fn events(&self) -> Vec<String> {
        let list = self.get(EVENTS).await.json();
        let names = list["items"].as_array().unwrap().iter();
        names.map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    }
}

#[tokio::test]
async fn an_event_goes_an_hour_after_its_last_write_and_watchers_see_it_go() {
    let rig = Rig::new().await;
    rig.config_map("stays", &json!({})).await;
    for name in ["a", "b"] {
        assert_eq!(rig.post(EVENTS, &event(name)).await.code, 201);
    }
    let mut watching = rig.watch(&format!("{EVENTS}?watch=1&resourceVersion=0")).await;
    assert_eq!(
        (watching.brief().await, watching.brief().await),
        ("ADDED a".to_owned(), "ADDED b".to_owned())
    );
    assert_eq!(rig.look_at(60).await, 0);

    // b is written again half an hour later.
    rig.now_s.store(NOW_S + 1_800, Ordering::Relaxed);
    let again = rig.patch(&format!("{EVENTS}/b"), "merge-patch", &json!({"count": 2})).await;
    assert_eq!((again.code, watching.brief().await.as_str()), (200, "MODIFIED b"));
    assert_eq!(rig.look_at(1_860).await, 0);

    assert_eq!(rig.look_at(3_599).await, 0);
    assert_eq!(rig.look_at(3_660).await, 1);
    assert_eq!(watching.brief().await, "DELETED a");
    assert_eq!(rig.events().await, ["b"]);
    assert_eq!(rig.look_at(1_860 + 3_600).await, 1);
    assert_eq!(watching.brief().await, "DELETED b");
    assert_eq!(rig.look_at(100_000).await, 0);
    assert_eq!(rig.get("/api/v1/namespaces/default/configmaps/stays").await.code, 200);
}

#[tokio::test]
async fn marks_outlive_the_server_and_an_idle_one_makes_none() {
    let rig = Rig::new().await;
    assert_eq!(rig.post(EVENTS, &event("a")).await.code, 201);
    assert_eq!(rig.look_at(60).await, 0);
    let marked = rig.store.revision();
    for minutes in 2..60 {
        assert_eq!(rig.look_at(minutes * 60).await, 0);
    }
    assert_eq!(rig.store.revision(), marked, "nothing was written, so nothing is marked");
    rig.server.close().await;
    rig.now_s.store(NOW_S + 3_660, Ordering::Relaxed);
    let later = rig.sibling(crate::registry::Ranges::default()).await;
    let row = later.core().row("", "v1", "events").unwrap();
    // Its own task may have been faster.
    later.core().expire(&row, row.ttl.unwrap(), (later.core().clock)()).await.unwrap();
    assert_eq!(
        rig.store
            .range("/registry/events/", None, store::Page::default())
            .await
            .unwrap()
            .entries,
        []
    );
}

#[tokio::test]
async fn a_server_s_own_task_removes_what_is_over() {
    let rig = Rig::new().await;
    assert_eq!(rig.post(EVENTS, &event("a")).await.code, 201);
    assert_eq!(rig.look_at(60).await, 0);
    rig.now_s.store(NOW_S + 3_660, Ordering::Relaxed);
    let mut changes = rig.store.watch("/registry/events/", rig.store.revision()).await.unwrap();
    let _later = rig.sibling(crate::registry::Ranges::default()).await;
    let gone = async {
        while let Some(message) = changes.next().await {
            if let store::WatchMessage::Events(events) = message.unwrap() {
                return events;
            }
        }
        panic!("the watch ended");
    };
    let events = tokio::time::timeout(Duration::from_secs(20), gone)
        .await
        .expect("the event removed within 20 s");
    assert_eq!(
        (events[0].key.as_str(), events[0].value.is_none()),
        ("/registry/events/default/a", true)
    );
}
