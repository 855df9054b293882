//! The suite every backend passes.
//!
//! Each function takes a way to make a store and panics where the store breaks
//! its promise. [`store_contract!`](crate::store_contract) turns all of them into tests, so that no
//! backend can leave one out. A new store may start at any revision; it holds no
//! keys.

mod concurrency;
mod model;

use std::any::Any;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;

pub use concurrency::{one_of_many_creates_wins, updates_are_never_lost, watches_under_load_have_no_gap_and_no_repeat};
pub use model::agrees_with_the_model;

use crate::{Compare, Event, Key, Op, Page, Revision, Store, StoreError, TXN_OPS_MAX, Txn, Watch, WatchMessage};

/// A store under test.
pub struct Subject {
    /// The store.
    pub store: Arc<dyn Store>,
    /// What it needs to live, such as its temporary directory.
    pub keep: Box<dyn Any + Send>,
}

/// Makes one test of each function of the suite. `$make` is an async function
/// without arguments that returns a [`Subject`].
#[macro_export]
macro_rules! store_contract {
    ($make:path) => {
        $crate::store_contract!(@each $make:
            a_transaction_takes_one_revision
            a_value_knows_when_it_was_created_and_modified
            a_failed_comparison_changes_nothing
            pages_of_a_range_are_of_one_revision
            the_past_can_be_read
            compaction_forgets_what_it_says
            a_watch_replays_and_then_follows
            a_watch_sees_whole_transactions_of_its_prefix
            an_idle_watch_learns_of_progress
            what_cannot_be_stored_is_refused
            one_of_many_creates_wins
            updates_are_never_lost
            watches_under_load_have_no_gap_and_no_repeat
        );

        #[test]
        fn agrees_with_the_model() {
            $crate::contract::agrees_with_the_model($make);
        }
    };
    (@each $make:path: $($name:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                $crate::contract::$name($make).await;
            }
        )*
    };
}

/// Longer than any step takes; a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(30);

async fn soon<T>(what: &str, waiting: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, waiting)
        .await
        .unwrap_or_else(|_| panic!("{what} did not happen within {PATIENCE:?}"))
}

async fn message(watch: &mut Watch) -> Result<WatchMessage, StoreError> {
    soon("a watch message", watch.next()).await.expect("the watch goes on")
}

/// The next message that holds events.
async fn events(watch: &mut Watch) -> Vec<Event> {
    loop {
        if let WatchMessage::Events(events) = message(watch).await.expect("the watch goes on") {
            return events;
        }
    }
}

fn put(key: &str, value: &str) -> Op {
    Op::Put(key.to_owned(), value.to_owned().into())
}

fn delete(key: &str) -> Op {
    Op::Delete(key.to_owned())
}

fn ops(ops: impl Into<Vec<Op>>) -> Txn {
    Txn {
        compare: Vec::new(),
        ops: ops.into(),
    }
}

async fn text(store: &dyn Store, key: &str) -> Option<String> {
    let found = store.get(key).await.expect("the store reads");
    found.map(|found| String::from_utf8(found.value.to_vec()).expect("the test wrote text"))
}

async fn keys(store: &dyn Store, prefix: &str, at: Option<Revision>) -> Vec<Key> {
    let range = store.range(prefix, at, Page::default()).await.expect("the store reads");
    range.entries.into_iter().map(|(key, _)| key).collect()
}

/// Every transaction that changes something takes the next number, and only
/// those do.
pub async fn a_transaction_takes_one_revision(make: impl AsyncFn() -> Subject) {
    let subject = make().await;
    let store = &*subject.store;
    let base = store.revision();
    let first = store.commit(ops([put("a", "1"), put("b", "1")])).await.unwrap();
    assert_eq!(first, Revision(base.0 + 1));
    assert_eq!(store.get("a").await.unwrap().unwrap().modified, first);
    assert_eq!(store.get("b").await.unwrap().unwrap().modified, first);
    assert_eq!(
        store.commit(ops([delete("nothing")])).await.unwrap(),
        first,
        "nothing changed, so no number is taken"
    );
    assert_eq!(store.commit(Txn::default()).await.unwrap(), first);
    assert_eq!(
        store.commit(ops([put("a", "1")])).await.unwrap(),
        Revision(base.0 + 2),
        "writing the same value is a change"
    );
    assert_eq!(
        store.commit(ops([delete("a"), delete("nothing")])).await.unwrap(),
        Revision(base.0 + 3)
    );
    assert_eq!(store.get("a").await.unwrap(), None);
    assert_eq!(store.revision(), Revision(base.0 + 3));
}

/// `created` survives updates and starts again after a removal.
pub async fn a_value_knows_when_it_was_created_and_modified(make: impl AsyncFn() -> Subject) {
    let subject = make().await;
    let store = &*subject.store;
    let born = store.commit(ops([put("k", "1")])).await.unwrap();
    let changed = store.commit(ops([put("k", "2")])).await.unwrap();
    let found = store.get("k").await.unwrap().unwrap();
    assert_eq!((found.created, found.modified, &found.value[..]), (born, changed, &b"2"[..]));
    store.commit(ops([delete("k")])).await.unwrap();
    let reborn = store.commit(ops([put("k", "")])).await.unwrap();
    let found = store.get("k").await.unwrap().unwrap();
    assert_eq!((found.created, found.modified, &found.value[..]), (reborn, reborn, &b""[..]));
}

/// All comparisons hold, or the transaction fails and names the first that does
/// not.
pub async fn a_failed_comparison_changes_nothing(make: impl AsyncFn() -> Subject) {
    let subject = make().await;
    let store = &*subject.store;
    let at = store.commit(ops([put("here", "1")])).await.unwrap();
    let here = || "here".to_owned();
    let gone = || "gone".to_owned();
    let failing = [
        (Compare::Absent(here()), "here"),
        (Compare::Present(gone()), "gone"),
        (Compare::ModifiedAt(here(), Revision(at.0 - 1)), "here"),
        (Compare::ModifiedAt(here(), Revision(at.0 + 1)), "here"),
        (Compare::ModifiedAt(gone(), at), "gone"),
        (Compare::ModifiedAt(gone(), Revision(0)), "gone"),
    ];
    for (compare, named) in failing {
        let txn = Txn {
            compare: vec![Compare::Present(here()), compare.clone()],
            ops: vec![put("here", "2"), put("new", "2")],
        };
        match store.commit(txn).await {
            Err(StoreError::Conflict { key }) => assert_eq!(key, named, "{compare:?}"),
            other => panic!("{compare:?} should conflict, but: {other:?}"),
        }
    }
    assert_eq!(text(store, "here").await.as_deref(), Some("1"));
    assert_eq!(text(store, "new").await, None);
    assert_eq!(store.revision(), at);
    let holding = vec![Compare::Present(here()), Compare::ModifiedAt(here(), at), Compare::Absent(gone())];
    store
        .commit(Txn {
            compare: holding,
            ops: vec![put("here", "2")],
        })
        .await
        .unwrap();
    assert_eq!(text(store, "here").await.as_deref(), Some("2"));
}

/// Later pages show the revision of the first, whatever was written since.
pub async fn pages_of_a_range_are_of_one_revision(make: impl AsyncFn() -> Subject) {
    let subject = make().await;
    let store = &*subject.store;
    for number in 0..10 {
        store.commit(ops([put(&format!("pods/{number}"), "old")])).await.unwrap();
    }
    store
        .commit(ops([
            put("pod", "before the prefix"),
            put("pods0", "after the prefix"),
            put("pods/", "the prefix itself"),
        ]))
        .await
        .unwrap();
    let first = store
        .range(
            "pods/",
            None,
            Page {
                after: None,
                limit: Some(4),
            },
        )
        .await
        .unwrap();
    assert_eq!(first.revision, store.revision());
    assert_eq!(
        first.entries.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>(),
        ["pods/", "pods/0", "pods/1", "pods/2"]
    );
    assert_eq!((first.more, first.remaining), (true, 7));
    store
        .commit(ops([
            delete("pods/3"),
            put("pods/4", "new"),
            put("pods/45", "new"),
            delete("pods/9"),
        ]))
        .await
        .unwrap();
    let mut seen = Vec::new();
    let mut after = Some("pods/2".to_owned());
    loop {
        let page = store
            .range("pods/", Some(first.revision), Page { after, limit: Some(3) })
            .await
            .unwrap();
        assert_eq!(page.revision, first.revision);
        assert_eq!(page.more, page.remaining > 0);
        assert!(page.entries.iter().all(|(_, found)| &found.value[..] == b"old"));
        seen.extend(page.entries.into_iter().map(|(key, _)| key));
        assert_eq!(seen.len() + page.remaining, 7);
        if !page.more {
            break;
        }
        after = seen.last().cloned();
    }
    assert_eq!(seen, ["pods/3", "pods/4", "pods/5", "pods/6", "pods/7", "pods/8", "pods/9"]);
    let past_the_end = store
        .range(
            "pods/",
            None,
            Page {
                after: Some("pods0".to_owned()),
                limit: None,
            },
        )
        .await
        .unwrap();
    assert!(past_the_end.entries.is_empty() && !past_the_end.more);
    let before_the_start = store
        .range(
            "pods/",
            None,
            Page {
                after: Some("a".to_owned()),
                limit: Some(1),
            },
        )
        .await
        .unwrap();
    assert_eq!(before_the_start.entries[0].0, "pods/");
    assert_eq!(before_the_start.remaining, 9);
}

/// Each revision shows the state right after its transaction.
pub async fn the_past_can_be_read(make: impl AsyncFn() -> Subject) {
    let subject = make().await;
    let store = &*subject.store;
    let empty = store.revision();
    let one = store.commit(ops([put("a", "1")])).await.unwrap();
    let two = store.commit(ops([put("a", "2"), put("b", "2")])).await.unwrap();
    let three = store.commit(ops([delete("a")])).await.unwrap();
    let four = store.commit(ops([put("a", "4")])).await.unwrap();
    assert_eq!(keys(store, "", Some(empty)).await, Vec::<Key>::new());
    assert_eq!(keys(store, "", Some(one)).await, ["a"]);
    assert_eq!(keys(store, "", Some(two)).await, ["a", "b"]);
    assert_eq!(keys(store, "", Some(three)).await, ["b"]);
    assert_eq!(keys(store, "", Some(four)).await, ["a", "b"]);
    let (_, then) = store.range("a", Some(two), Page::default()).await.unwrap().entries.remove(0);
    assert_eq!((then.created, then.modified, &then.value[..]), (one, two, &b"2"[..]));
    let ahead = Revision(four.0 + 1);
    match store.range("", Some(ahead), Page::default()).await {
        Err(StoreError::Future { asked, newest }) => assert_eq!((asked, newest), (ahead, four)),
        other => panic!("{ahead} does not exist yet, but: {other:?}"),
    }
}

/// Before the compacted revision nothing can be read, at and after it all.
pub async fn compaction_forgets_what_it_says(make: impl AsyncFn() -> Subject) {
    let subject = make().await;
    let store = &*subject.store;
    let mut running = store.watch("", store.revision()).await.unwrap();
    let one = store.commit(ops([put("a", "1")])).await.unwrap();
    let two = store.commit(ops([put("a", "2")])).await.unwrap();
    let three = store.commit(ops([put("a", "3")])).await.unwrap();
    store.compact(two).await.unwrap();
    store.compact(one).await.expect("compacting what is compacted does nothing");
    for outcome in [
        store.range("", Some(one), Page::default()).await.map(drop),
        store.watch("", one).await.map(drop),
    ] {
        match outcome {
            Err(StoreError::Compacted { asked, oldest }) => assert_eq!((asked, oldest), (one, two)),
            other => panic!("{one} is compacted, but: {other:?}"),
        }
    }
    let (_, then) = store.range("", Some(two), Page::default()).await.unwrap().entries.remove(0);
    assert_eq!(then.modified, two);
    let mut late = store.watch("", two).await.unwrap();
    assert_eq!(events(&mut late).await[0].revision, three);
    let mut taken = Vec::new();
    while taken.len() < 3 {
        taken.extend(events(&mut running).await.into_iter().map(|event| event.revision));
    }
    assert_eq!(taken, [one, two, three], "compaction takes nothing from a running watch");
    assert!(matches!(store.compact(Revision(three.0 + 1)).await, Err(StoreError::Future { .. })));
    store.compact(three).await.unwrap();
    assert_eq!(text(store, "a").await.as_deref(), Some("3"), "live keys stay");
}

/// A watch from the past delivers what happened since, then what happens.
pub async fn a_watch_replays_and_then_follows(make: impl AsyncFn() -> Subject) {
    let subject = make().await;
    let store = &*subject.store;
    let base = store.revision();
    let one = store.commit(ops([put("a", "1")])).await.unwrap();
    let two = store.commit(ops([put("a", "2")])).await.unwrap();
    let mut from_base = store.watch("a", base).await.unwrap();
    let mut from_one = store.watch("a", one).await.unwrap();
    let mut from_now = store.watch("a", two).await.unwrap();
    let three = store.commit(ops([delete("a")])).await.unwrap();
    for (watch, expected) in [
        (&mut from_base, vec![one, two, three]),
        (&mut from_one, vec![two, three]),
        (&mut from_now, vec![three]),
    ] {
        let mut seen: Vec<Event> = Vec::new();
        while seen.len() < expected.len() {
            seen.extend(events(watch).await);
        }
        assert_eq!(seen.iter().map(|event| event.revision).collect::<Vec<_>>(), expected);
        let last = seen.last().unwrap();
        assert_eq!(last.value, None);
        let previous = last.previous.as_ref().unwrap();
        assert_eq!((previous.created, previous.modified, &previous.value[..]), (one, two, &b"2"[..]));
    }
    let ahead = Revision(three.0 + 1);
    assert!(matches!(store.watch("a", ahead).await, Err(StoreError::Future { .. })));
}

/// One message holds all of a transaction that concerns the watch, and nothing
/// else.
pub async fn a_watch_sees_whole_transactions_of_its_prefix(make: impl AsyncFn() -> Subject) {
    let subject = make().await;
    let store = &*subject.store;
    let mut watch = store.watch("mine/", store.revision()).await.unwrap();
    store.commit(ops([put("other/x", "1")])).await.unwrap();
    let both = store
        .commit(ops([put("mine/a", "1"), put("other/y", "1"), put("mine/b", "1")]))
        .await
        .unwrap();
    let seen = events(&mut watch).await;
    assert_eq!(
        seen.iter().map(|event| (event.key.as_str(), event.revision)).collect::<Vec<_>>(),
        [("mine/a", both), ("mine/b", both)]
    );
    assert!(seen.iter().all(|event| event.previous.is_none()));
    let values: Vec<_> = seen.into_iter().map(|event| event.value).collect();
    assert_eq!(values, [store.get("mine/a").await.unwrap(), store.get("mine/b").await.unwrap()]);
}

/// A watch of keys that do not change still learns how far it has come.
pub async fn an_idle_watch_learns_of_progress(make: impl AsyncFn() -> Subject) {
    let subject = make().await;
    let store = &*subject.store;
    let mut watch = store.watch("idle/", store.revision()).await.unwrap();
    let reached = store.commit(ops([put("busy/x", "1")])).await.unwrap();
    loop {
        match message(&mut watch).await.unwrap() {
            WatchMessage::Progress(at) if at >= reached => break,
            WatchMessage::Progress(_) => {}
            WatchMessage::Events(events) => panic!("nothing of the prefix changed, but: {events:?}"),
        }
    }
}

/// What is too large, empty or ambiguous is refused, and says why.
pub async fn what_cannot_be_stored_is_refused(make: impl AsyncFn() -> Subject) {
    let subject = make().await;
    let store = &*subject.store;
    let base = store.revision();
    let many: Vec<Op> = (0..=TXN_OPS_MAX).map(|number| put(&format!("{number}"), "")).collect();
    let refused = [
        (ops([put("", "x")]), "empty"),
        (ops([put(&"k".repeat(1_025), "x")]), "1025 bytes"),
        (
            Txn {
                compare: vec![Compare::Absent("k".repeat(1_025))],
                ops: vec![put("a", "x")],
            },
            "1025 bytes",
        ),
        (ops([put("twice", "1"), put("ok", "1"), delete("twice")]), "twice is changed twice"),
        (ops([put("large", &"x".repeat(crate::TXN_BYTES_MAX))]), "large"),
        (ops(many), "129"),
    ];
    for (txn, reason) in refused {
        match store.commit(txn).await {
            Err(StoreError::Unstorable(said)) => assert!(said.contains(reason), "\"{said}\" should mention \"{reason}\""),
            other => panic!("a transaction should be refused for \"{reason}\", but: {other:?}"),
        }
    }
    assert_eq!(store.revision(), base);
    let largest = crate::TXN_BYTES_MAX - 1_024;
    store
        .commit(ops([put(&"k".repeat(1_024), &"x".repeat(largest))]))
        .await
        .expect("the largest key and transaction are taken");
}
