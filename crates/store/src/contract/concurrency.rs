//! Many clients at once.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::task::JoinSet;

use super::{Subject, message, ops, put, soon, text};
use crate::{Compare, Event, Key, Op, Revision, Store, StoreError, Txn, Versioned, WatchMessage};

/// Of many clients creating the same key, one succeeds and all others conflict.
pub async fn one_of_many_creates_wins(make: impl AsyncFn() -> Subject) {
    let subject = make().await;
    let base = subject.store.revision();
    let mut clients = JoinSet::new();
    for client in 0..32 {
        let store = Arc::clone(&subject.store);
        clients.spawn(async move {
            let txn = Txn {
                compare: vec![Compare::Absent("key".to_owned())],
                ops: vec![put("key", &client.to_string())],
            };
            (client, store.commit(txn).await)
        });
    }
    let mut winners = Vec::new();
    while let Some(ended) = soon("the end of a client", clients.join_next()).await {
        match ended.unwrap() {
            (client, Ok(revision)) => winners.push((client, revision)),
            (_, Err(StoreError::Conflict { key })) => assert_eq!(key, "key"),
            (client, Err(other)) => panic!("client {client} failed: {other}"),
        }
    }
    let [(winner, revision)] = winners[..] else {
        panic!("one client should win, not {winners:?}")
    };
    assert_eq!(revision, Revision(base.0 + 1));
    assert_eq!(text(&*subject.store, "key").await, Some(winner.to_string()));
}

/// A counter that many clients raise, each on condition that it is what they
/// read, ends at the number of their successes.
pub async fn updates_are_never_lost(make: impl AsyncFn() -> Subject) {
    const CLIENTS: u32 = 8;
    const RAISES: u32 = 20;
    let subject = make().await;
    subject.store.commit(ops([put("counter", "0")])).await.unwrap();
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let store = Arc::clone(&subject.store);
        clients.spawn(async move {
            let mut raised = 0;
            while raised < RAISES {
                let found = store.get("counter").await.unwrap().unwrap();
                let count: u32 = std::str::from_utf8(&found.value).unwrap().parse().unwrap();
                let compare = vec![Compare::ModifiedAt("counter".to_owned(), found.modified)];
                match store
                    .commit(Txn {
                        compare,
                        ops: vec![put("counter", &(count + 1).to_string())],
                    })
                    .await
                {
                    Ok(revision) => {
                        assert!(revision > found.modified);
                        raised += 1;
                    }
                    Err(StoreError::Conflict { .. }) => {}
                    Err(other) => panic!("{other}"),
                }
            }
        });
    }
    while let Some(ended) = soon("the end of a client", clients.join_next()).await {
        ended.unwrap();
    }
    assert_eq!(text(&*subject.store, "counter").await, Some((CLIENTS * RAISES).to_string()));
}

const WRITERS: u64 = 8;
const WRITES: u64 = 60;

/// Watches that start while many clients write deliver every change once, in
/// order, whole transactions together, each value linked to the one before.
pub async fn watches_under_load_have_no_gap_and_no_repeat(make: impl AsyncFn() -> Subject) {
    let subject = make().await;
    let base = subject.store.revision();
    let end = Revision(base.0 + WRITERS * WRITES);
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        writers.spawn(write(Arc::clone(&subject.store), writer));
    }
    let mut watchers = JoinSet::new();
    for number in 0..24_u64 {
        let store = Arc::clone(&subject.store);
        let prefix = ["", "a/", "b/", "nothing/"][usize::try_from(number % 4).unwrap()];
        watchers.spawn(async move {
            // Not all at the start, and not all from the start.
            while store.revision().0 < base.0 + number * 10 {
                tokio::task::yield_now().await;
            }
            let after = if number % 3 == 0 { base } else { store.revision() };
            let seen = follow(&*store, prefix, after, end).await;
            (prefix, after, seen)
        });
    }
    let mut written: BTreeMap<Revision, Vec<Key>> = BTreeMap::new();
    while let Some(ended) = soon("the end of a writer", writers.join_next()).await {
        for (revision, keys) in ended.unwrap() {
            assert_eq!(written.insert(revision, keys), None, "revision {revision} was given twice");
        }
    }
    assert_eq!(written.keys().next_back(), Some(&end));
    assert_eq!(u64::try_from(written.len()).unwrap(), WRITERS * WRITES);
    while let Some(ended) = soon("the end of a watcher", watchers.join_next()).await {
        let (prefix, after, seen) = ended.unwrap();
        let expected: Vec<(Revision, &str)> = written
            .range(Revision(after.0 + 1)..)
            .flat_map(|(revision, keys)| keys.iter().map(|key| (*revision, key.as_str())))
            .filter(|(_, key)| key.starts_with(prefix))
            .collect();
        let got: Vec<(Revision, &str)> = seen.iter().map(|event| (event.revision, event.key.as_str())).collect();
        assert_eq!(got, expected, "the watch of \"{prefix}\" after {after}");
        assert_linked(&seen);
    }
}

/// One client's transactions: each puts two keys, or puts one and removes one
/// that it put before. Returns what each changed.
async fn write(store: Arc<dyn Store>, writer: u64) -> Vec<(Revision, Vec<Key>)> {
    let mut written = Vec::new();
    for number in 0..WRITES {
        let (a, b) = (format!("a/{}", (writer + number) % 5), format!("b/{writer}"));
        let change_b = if number % 3 == 2 { Op::Delete(b.clone()) } else { put(&b, "b") };
        let revision = store.commit(ops([put(&a, &format!("{writer}:{number}")), change_b])).await.unwrap();
        written.push((revision, vec![a, b]));
    }
    written
}

/// Reads a watch until it has delivered everything up to `end`.
async fn follow(store: &dyn Store, prefix: &str, after: Revision, end: Revision) -> Vec<Event> {
    let mut watch = store.watch(prefix, after).await.unwrap();
    let mut seen: Vec<Event> = Vec::new();
    let mut at = after;
    while at < end {
        match message(&mut watch).await.unwrap() {
            WatchMessage::Events(events) => {
                assert!(
                    events.first().unwrap().revision > at,
                    "a message continues what was delivered up to {at}: {events:?}"
                );
                at = events.last().unwrap().revision;
                seen.extend(events);
            }
            WatchMessage::Progress(to) => {
                assert!(to >= at, "progress to {to} after {at}");
                at = to;
            }
        }
    }
    seen
}

/// What an event calls the value before is what the event before left.
fn assert_linked(seen: &[Event]) {
    let mut values: BTreeMap<&str, Option<&Versioned>> = BTreeMap::new();
    for event in seen {
        if let Some(before) = values.insert(&event.key, event.value.as_ref()) {
            assert_eq!(
                event.previous.as_ref(),
                before,
                "before {} changed at {}",
                event.key,
                event.revision
            );
        }
    }
}
