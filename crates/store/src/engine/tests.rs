//! The writer, over journals that do as the test says.

use std::sync::Mutex;
use std::sync::mpsc as blocking;
use std::time::Duration;

use futures::StreamExt;

use super::*;
use crate::{Compare, Op, WatchMessage};

/// A journal whose commits end when, and as, the test says.
struct Script {
    started: mpsc::UnboundedSender<Batch>,
    outcomes: blocking::Receiver<Outcome>,
}

enum Outcome {
    Durable,
    Refused,
    Panic,
}

impl Journal for Script {
    fn commit(&mut self, batch: &Batch) -> Result<(), StoreError> {
        self.started.send(batch.clone()).unwrap();
        match self
            .outcomes
            .recv_timeout(Duration::from_secs(30))
            .expect("the test says how the commit ends")
        {
            Outcome::Durable => Ok(()),
            Outcome::Refused => Err(StoreError::Storage {
                doing: "testing",
                cause: "the script says so".to_owned(),
            }),
            Outcome::Panic => std::panic::resume_unwind(Box::new("the script says so")),
        }
    }

    fn close(&mut self) -> Result<(), StoreError> {
        Ok(())
    }
}

struct Stage {
    engine: Arc<Engine>,
    started: mpsc::UnboundedReceiver<Batch>,
    outcomes: Mutex<blocking::Sender<Outcome>>,
}

impl Stage {
    fn new(limits: Limits) -> Self {
        let (started_sender, started) = mpsc::unbounded_channel();
        let (outcomes, outcomes_receiver) = blocking::channel();
        let script = Script {
            started: started_sender,
            outcomes: outcomes_receiver,
        };
        let engine = Engine::start(script, BTreeMap::new(), Revision(1), limits).unwrap();
        Self {
            engine: Arc::new(engine),
            started,
            outcomes: Mutex::new(outcomes),
        }
    }

    /// Starts a commit; returns once it is queued or being written.
    async fn commit(&self, txn: Txn) -> tokio::task::JoinHandle<Result<Revision, StoreError>> {
        let engine = Arc::clone(&self.engine);
        let commit = tokio::spawn(async move { engine.commit(txn).await });
        // The test's runtime has one thread, so the task has run as far as it can.
        tokio::task::yield_now().await;
        commit
    }

    async fn started(&mut self) -> Batch {
        tokio::time::timeout(Duration::from_secs(30), self.started.recv())
            .await
            .expect("a commit starts")
            .unwrap()
    }

    fn end(&self, outcome: Outcome) {
        self.outcomes.lock().unwrap().send(outcome).unwrap();
    }
}

fn put(key: &str) -> Txn {
    Txn {
        compare: Vec::new(),
        ops: vec![Op::Put(key.to_owned(), "x".into())],
    }
}

fn create(key: &str) -> Txn {
    Txn {
        compare: vec![Compare::Absent(key.to_owned())],
        ..put(key)
    }
}

#[tokio::test]
async fn a_write_is_visible_only_once_it_is_durable() {
    let mut stage = Stage::new(Limits::default());
    let mut watch = stage.engine.watch("", Revision(1)).await.unwrap();
    let commit = stage.commit(put("a")).await;
    stage.started().await;
    assert_eq!(stage.engine.get("a").await.unwrap(), None);
    assert!(stage.engine.range("", None, Page::default()).await.unwrap().entries.is_empty());
    assert_eq!(stage.engine.revision(), Revision(1));
    assert!(futures::poll!(watch.next()).is_pending());
    assert!(!commit.is_finished());
    stage.end(Outcome::Durable);
    assert_eq!(commit.await.unwrap().unwrap(), Revision(2));
    assert!(stage.engine.get("a").await.unwrap().is_some());
    match watch.next().await.unwrap().unwrap() {
        WatchMessage::Events(events) => assert_eq!(events[0].revision, Revision(2)),
        WatchMessage::Progress(at) => panic!("progress to {at} where an event was due"),
    }
}

#[tokio::test]
async fn commits_that_wait_share_a_sync_and_fail_alone() {
    let mut stage = Stage::new(Limits {
        batch_txns: 4,
        ..Limits::default()
    });
    let first = stage.commit(put("first")).await;
    assert_eq!(stage.started().await.changes.len(), 1);
    let mut waiting = Vec::new();
    for key in ["a", "b", "a", "c", "d"] {
        waiting.push(stage.commit(create(key)).await);
    }
    stage.end(Outcome::Durable);
    let batch = stage.started().await;
    assert_eq!(
        batch.changes.keys().collect::<Vec<_>>(),
        ["a", "b", "c"],
        "four transactions, one of which conflicts"
    );
    stage.end(Outcome::Durable);
    assert_eq!(stage.started().await.changes.keys().collect::<Vec<_>>(), ["d"]);
    stage.end(Outcome::Durable);
    assert_eq!(first.await.unwrap().unwrap(), Revision(2));
    let mut outcomes = Vec::new();
    for commit in waiting {
        outcomes.push(commit.await.unwrap());
    }
    assert!(
        matches!(&outcomes[2], Err(StoreError::Conflict { key }) if key == "a"),
        "{outcomes:?}"
    );
    let revisions: Vec<u64> = outcomes.into_iter().filter_map(Result::ok).map(|revision| revision.0).collect();
    assert_eq!(revisions, [3, 4, 5, 6]);
}

#[tokio::test]
async fn a_refused_batch_leaves_no_trace_and_the_store_goes_on() {
    let mut stage = Stage::new(Limits::default());
    let durable = stage.commit(put("kept")).await;
    stage.started().await;
    let lost = stage.commit(create("lost")).await;
    let conflicting = stage.commit(create("lost")).await;
    stage.end(Outcome::Durable);
    durable.await.unwrap().unwrap();
    let mut watch = stage.engine.watch("", Revision(2)).await.unwrap();
    stage.started().await;
    stage.end(Outcome::Refused);
    for commit in [lost, conflicting] {
        let error = commit.await.unwrap().unwrap_err();
        assert!(
            matches!(error, StoreError::Storage { .. }),
            "the conflict was with something that never happened: {error}"
        );
    }
    assert_eq!(stage.engine.get("lost").await.unwrap(), None);
    assert!(stage.engine.get("kept").await.unwrap().is_some());
    assert_eq!(stage.engine.revision(), Revision(2));
    assert!(futures::poll!(watch.next()).is_pending());
    let retried = stage.commit(create("lost")).await;
    assert_eq!(stage.started().await.from, Revision(2));
    stage.end(Outcome::Durable);
    assert_eq!(retried.await.unwrap().unwrap(), Revision(3));
}

#[tokio::test]
async fn when_the_writer_dies_everyone_is_told() {
    let mut stage = Stage::new(Limits::default());
    let mut watch = stage.engine.watch("", Revision(1)).await.unwrap();
    let commit = stage.commit(put("a")).await;
    stage.started().await;
    stage.end(Outcome::Panic);
    assert!(matches!(commit.await.unwrap(), Err(StoreError::Storage { .. })));
    assert!(matches!(watch.next().await, Some(Err(StoreError::Closed))));
    assert!(watch.next().await.is_none());
    assert!(matches!(stage.engine.commit(put("b")).await, Err(StoreError::Closed)));
    assert_eq!(stage.engine.get("a").await.unwrap(), None, "reads go on");
}

#[tokio::test]
async fn a_commit_whose_client_left_is_still_one_whole_commit() {
    let mut stage = Stage::new(Limits::default());
    let commit = stage.commit(put("a")).await;
    stage.started().await;
    commit.abort();
    stage.end(Outcome::Durable);
    let next = stage.commit(put("b")).await;
    stage.started().await;
    stage.end(Outcome::Durable);
    assert_eq!(next.await.unwrap().unwrap(), Revision(3));
    assert_eq!(stage.engine.get("a").await.unwrap().unwrap().modified, Revision(2));
}
