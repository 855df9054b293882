//! List, then watch: whoever lists and then watches from there knows the same
//! objects as the store, at every revision, while writers write, the server
//! restarts and the past is compacted.
//!
//! Writers record what the server acknowledged; watchers record what they were
//! told. The checker knows nothing of the server: it replays both and compares,
//! in the manner of etcd's robustness tests.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use super::MAPS;
use crate::testing::{Rig, Watching};

const WRITERS: usize = 4;
const WATCHERS: usize = 6;
const WRITES: usize = 60;
/// Names the writers share, so that they get in each other's way.
const NAMES: usize = 5;

/// One object as somebody saw it: what it held, and since which revision.
type Seen = (u64, String);

/// What one watcher was told.
#[derive(Debug, Default)]
struct History {
    /// Lists it began from: their revision, and what was there.
    lists: Vec<(u64, BTreeMap<String, Seen>)>,
    /// Events after the list of the same index: revision, type, name, content.
    events: Vec<Vec<(u64, String, String, String)>>,
}

fn revision(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
}

fn content(object: &Value) -> String {
    object["data"]["k"].as_str().unwrap_or_default().to_owned()
}

/// An acknowledged write: revision, name, and what it then held; `None` is gone.
type Write = (u64, String, Option<String>);

/// Writes whatever comes out of a seed, and records what was acknowledged.
async fn write(rig: &Rig, writer: usize) -> Vec<Write> {
    let mut done = Vec::new();
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(writer as u64 + 1);
    for step in 0..WRITES {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let name = format!("o{}", seed as usize % NAMES);
        let path = format!("{MAPS}/{name}");
        let held = format!("{writer}-{step}");
        let answer = match (seed >> 32) % 4 {
            0 => rig.delete(&path, None).await,
            1 => rig.patch(&path, "merge-patch", &json!({"data": {"k": held}})).await,
            _ => rig.post(MAPS, &json!({"metadata": {"name": name}, "data": {"k": held}})).await,
        };
        let deleted = (seed >> 32).is_multiple_of(4);
        if answer.code < 300 && !deleted {
            done.push((revision(&answer.json()), name, Some(held)));
        }
    }
    done
}

/// Lists and watches until told to stop and everything up to `until` has come;
/// begins again whenever the server ends the watch.
async fn follow(rig: &Rig, index: usize, stop: &AtomicBool) -> History {
    let mut history = History::default();
    loop {
        let limit = if index.is_multiple_of(2) { "" } else { "?limit=2" };
        let Some((at, objects)) = list(rig, limit).await else { continue };
        let stopping = stop.load(Ordering::SeqCst);
        history.lists.push((at, objects));
        history.events.push(Vec::new());
        if stopping {
            return history;
        }
        let path = format!("{MAPS}?watch=1&resourceVersion={at}&timeoutSeconds=1");
        let mut watching = rig.watch(&path).await;
        let events = history.events.last_mut().unwrap();
        read(&mut watching, events).await;
    }
}

/// All pages of a list. `None` when its revision went away in between.
async fn list(rig: &Rig, limit: &str) -> Option<(u64, BTreeMap<String, Seen>)> {
    let mut objects = BTreeMap::new();
    let mut answer = rig.get(&format!("{MAPS}{limit}")).await;
    loop {
        if answer.code == 410 {
            return None;
        }
        let page = answer.json();
        for item in page["items"].as_array().unwrap() {
            let name = item["metadata"]["name"].as_str().unwrap().to_owned();
            objects.insert(name, (revision(item), content(item)));
        }
        let at = page["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
        match page["metadata"]["continue"].as_str() {
            None => return Some((at, objects)),
            Some(token) => answer = rig.get(&format!("{MAPS}{limit}&continue={token}")).await,
        }
    }
}

async fn read(watching: &mut Watching, events: &mut Vec<(u64, String, String, String)>) {
    while let Some(event) = watching.next().await {
        let object = &event["object"];
        match event["type"].as_str().unwrap() {
            "ERROR" => {
                assert_eq!(object["code"], 410, "{object}");
                return;
            }
            "BOOKMARK" => {}
            kind => {
                let name = object["metadata"]["name"].as_str().unwrap().to_owned();
                events.push((revision(object), kind.to_owned(), name, content(object)));
            }
        }
    }
}

/// Every list is what the lists and events before it say it must be, no event
/// comes twice or out of order, and every acknowledged write was seen.
fn check(history: &History, writes: &[Write]) {
    let truth: BTreeMap<u64, &Write> = writes.iter().map(|write| (write.0, write)).collect();
    for ((at, listed), events) in history.lists.iter().zip(&history.events) {
        for (since, held) in listed.values() {
            assert!(since <= at, "a list at {at} shows something of {since}");
            if let Some((_, _, Some(wrote))) = truth.get(since) {
                assert_eq!(wrote, held, "at {since}");
            }
        }
        let mut state = listed.clone();
        let mut last = *at;
        for (revision, kind, name, held) in events {
            assert!(*revision > last, "{kind} {name} at {revision} after {last}");
            // Nothing of this collection was acknowledged in between unseen.
            let missed: Vec<_> = truth.range(last + 1..*revision).collect();
            assert!(missed.is_empty(), "between {last} and {revision}: {missed:?}");
            last = *revision;
            match kind.as_str() {
                "ADDED" => assert!(
                    state.insert(name.clone(), (*revision, held.clone())).is_none(),
                    "{name} added twice"
                ),
                "MODIFIED" => assert!(
                    state.insert(name.clone(), (*revision, held.clone())).is_some(),
                    "{name} was not there"
                ),
                "DELETED" => assert!(state.remove(name).is_some(), "{name} was not there"),
                other => panic!("{other}"),
            }
            if let Some((_, wrote, Some(value))) = truth.get(revision) {
                assert_eq!((wrote, value), (name, held), "at {revision}");
            }
        }
    }
    let reached = history.lists.last().unwrap().0;
    assert!(writes.iter().all(|write| write.0 <= reached), "the last list is older than a write");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_lists_then_watches_misses_nothing_and_sees_nothing_twice() {
    let mut rig = Rig::with(crate::Limits {
        // Small, so that watchers fall off and begin again.
        hub_events: 24,
        watcher_events: 8,
        ..crate::Limits::default()
    })
    .await;
    let mut histories: Vec<History> = (0..WATCHERS).map(|_| History::default()).collect();
    let mut writes = Vec::new();
    for round in 0..3 {
        let stop = Arc::new(AtomicBool::new(false));
        let work = async {
            let writers = (0..WRITERS).map(|writer| write(&rig, round * WRITERS + writer));
            let compacting = async {
                for _ in 0..10 {
                    tokio::time::sleep(Duration::from_millis(15)).await;
                    let newest = rig.store.revision();
                    rig.store.compact(newest).await.unwrap();
                }
            };
            let (done, ()) = tokio::join!(futures::future::join_all(writers), compacting);
            stop.store(true, Ordering::SeqCst);
            done.into_iter().flatten().collect::<Vec<_>>()
        };
        let watchers = futures::future::join_all((0..WATCHERS).map(|index| follow(&rig, index, &stop)));
        let (done, seen) = tokio::join!(work, watchers);
        writes.extend(done);
        for (history, seen) in histories.iter_mut().zip(seen) {
            history.lists.extend(seen.lists);
            history.events.extend(seen.events);
        }
        rig = rig.restarted().await;
    }
    assert!(writes.len() > 100, "{}", writes.len());
    let told: usize = histories.iter().flat_map(|history| &history.events).map(Vec::len).sum();
    assert!(told > 100, "{told} events");
    for history in &histories {
        check(history, &writes);
    }
}

/// The checker is worth what it finds.
#[test]
fn the_checker_finds_what_is_missing_twice_or_wrong() {
    let event = |revision, kind: &str, held: &str| (revision, kind.to_owned(), "o".to_owned(), held.to_owned());
    let history = |events| History {
        lists: vec![(1, BTreeMap::new()), (9, BTreeMap::new())],
        events: vec![events, Vec::new()],
    };
    let writes = [(2, "o".to_owned(), Some("a".to_owned())), (3, "o".to_owned(), Some("b".to_owned()))];
    check(&history(vec![event(2, "ADDED", "a"), event(3, "MODIFIED", "b")]), &writes);
    for wrong in [
        vec![event(3, "ADDED", "b")],
        vec![event(2, "ADDED", "a"), event(2, "ADDED", "a")],
        vec![event(2, "MODIFIED", "a")],
        vec![event(2, "ADDED", "z")],
        vec![event(2, "ADDED", "a"), event(4, "DELETED", "a")],
    ] {
        let wrong = history(wrong);
        assert!(std::panic::catch_unwind(|| check(&wrong, &writes)).is_err(), "{wrong:?}");
    }
}
