//! The store behind every backend of our own: state in memory, one writer, and
//! a journal that makes batches durable.
//!
//! A commit waits in a bounded queue. The writer takes all that wait, up to a
//! limit, decides them in order ([`batch`]), has the journal make the result
//! durable with one sync, and only then makes it visible, wakes watchers and
//! answers. While it syncs, the next batch gathers: the more clients there are,
//! the more of them share a sync. Reads never touch the journal.

pub mod batch;
pub(crate) mod state;

use std::collections::BTreeMap;
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};

use crate::watch::PROGRESS_BATCHES;
use crate::{Key, Page, Range, Revision, Store, StoreError, Txn, Versioned, Watch};
use batch::Batch;
use state::State;

/// Makes batches durable. Called from the writer's thread only; may block.
pub trait Journal: Send + 'static {
    /// Makes all of the batch durable, or nothing of it. After an error it must
    /// accept another try: a later batch that starts at the same revision.
    ///
    /// # Errors
    ///
    /// [`StoreError::Storage`]; nothing of the batch will be seen.
    fn commit(&mut self, batch: &Batch) -> Result<(), StoreError>;

    /// Releases what it holds. Called once, last.
    ///
    /// # Errors
    ///
    /// [`StoreError::Storage`]; what was committed is durable nevertheless.
    fn close(&mut self) -> Result<(), StoreError>;
}

/// How much the engine holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Transactions that wait for the writer; further commits wait to be queued.
    pub queue_txns: usize,
    /// Transactions made durable together.
    pub batch_txns: usize,
    /// Bytes of keys and values made durable together; one transaction is
    /// always taken.
    pub batch_bytes: usize,
    /// Events kept for watches and reads of the past. The newest batch is kept
    /// even if it alone exceeds the bounds.
    pub history_events: usize,
    /// Memory the kept events may hold on to, in bytes.
    pub history_bytes: usize,
}

impl Default for Limits {
    /// 10,000 events are minutes of a busy small cluster, and hold well under
    /// the bound of 16 MiB unless objects are large.
    fn default() -> Self {
        Self {
            queue_txns: 1_024,
            batch_txns: 256,
            batch_bytes: 4 << 20,
            history_events: 10_000,
            history_bytes: 16 << 20,
        }
    }
}

/// A store over a journal.
#[derive(Debug)]
pub struct Engine {
    state: Arc<RwLock<State>>,
    queue: mpsc::Sender<Command>,
}

#[derive(Debug)]
enum Command {
    Commit(Request),
    Close(oneshot::Sender<Result<(), StoreError>>),
}

#[derive(Debug)]
struct Request {
    txn: Txn,
    reply: oneshot::Sender<Result<Revision, StoreError>>,
}

/// Whoever holds the lock only compares, copies and moves values.
const UNPOISONED: &str = "nothing that holds the state's lock panics: it compares, copies and moves values";

pub(crate) fn read(state: &RwLock<State>) -> RwLockReadGuard<'_, State> {
    state.read().expect(UNPOISONED)
}

pub(crate) fn write(state: &RwLock<State>) -> RwLockWriteGuard<'_, State> {
    state.write().expect(UNPOISONED)
}

impl Engine {
    /// Starts the writer over what the journal holds: `live` at revision
    /// `newest`, which also is the oldest revision that can be read.
    ///
    /// # Errors
    ///
    /// The operating system's, if no thread can be started.
    pub fn start(journal: impl Journal, live: BTreeMap<Key, Versioned>, newest: Revision, limits: Limits) -> std::io::Result<Self> {
        let state = Arc::new(RwLock::new(State::new(live, newest, limits)));
        let (queue, commands) = mpsc::channel(limits.queue_txns.max(1));
        let writer = Writer {
            state: Arc::clone(&state),
            commands,
            journal,
            limits,
            unannounced: 0,
            closing: None,
        };
        std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || writer.run())?;
        Ok(Self { state, queue })
    }

    /// Commits what is queued, ends all watches, and releases the journal. An
    /// engine that is dropped does the same in the background.
    ///
    /// # Errors
    ///
    /// [`StoreError::Closed`] if it is closed already; else the journal's.
    pub async fn close(&self) -> Result<(), StoreError> {
        let (reply, closed) = oneshot::channel();
        self.queue.send(Command::Close(reply)).await.map_err(|_| StoreError::Closed)?;
        closed.await.map_err(|_| StoreError::Closed)?
    }
}

#[async_trait]
impl Store for Engine {
    async fn get(&self, key: &str) -> Result<Option<Versioned>, StoreError> {
        Ok(read(&self.state).live().get(key).cloned())
    }

    async fn range(&self, prefix: &str, at: Option<Revision>, page: Page) -> Result<Range, StoreError> {
        read(&self.state).range(prefix, at, &page)
    }

    async fn commit(&self, txn: Txn) -> Result<Revision, StoreError> {
        batch::check(&txn)?;
        let (reply, outcome) = oneshot::channel();
        self.queue
            .send(Command::Commit(Request { txn, reply }))
            .await
            .map_err(|_| StoreError::Closed)?;
        outcome.await.map_err(|_| StoreError::Storage {
            doing: "committing a transaction",
            cause: "the writer ended before it answered; whether the transaction is stored is known after a restart".to_owned(),
        })?
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, StoreError> {
        crate::watch::subscribe(&self.state, prefix, after)
    }

    async fn compact(&self, through: Revision) -> Result<(), StoreError> {
        write(&self.state).compact(through)
    }

    fn revision(&self) -> Revision {
        read(&self.state).newest()
    }
}

/// The only one that changes the state's keys.
struct Writer<J: Journal> {
    state: Arc<RwLock<State>>,
    commands: mpsc::Receiver<Command>,
    journal: J,
    limits: Limits,
    /// Batches since watchers of idle prefixes were last told of progress.
    unannounced: u32,
    closing: Option<oneshot::Sender<Result<(), StoreError>>>,
}

impl<J: Journal> Writer<J> {
    fn run(mut self) {
        while let Some(first) = self.commands.blocking_recv() {
            let requests = self.gather(first);
            self.commit(requests);
            self.announce();
        }
        let outcome = self.journal.close();
        self.end_watches();
        match self.closing.take() {
            // Nobody waits for the answer if the caller gave up.
            Some(reply) => drop(reply.send(outcome)),
            None => {
                if let Err(error) = outcome {
                    tracing::error!(error = %error, "closing the store failed");
                }
            }
        }
    }

    /// All requests that wait, up to the limits of a batch.
    fn gather(&mut self, first: Command) -> Vec<Request> {
        let mut requests = Vec::new();
        let mut bytes = 0;
        let mut next = Some(first);
        while let Some(command) = next {
            match command {
                Command::Commit(request) => {
                    bytes += batch::txn_bytes(&request.txn);
                    requests.push(request);
                }
                Command::Close(reply) => {
                    // What is queued already is still received, nothing else.
                    self.commands.close();
                    self.closing = Some(reply);
                }
            }
            let full = requests.len() >= self.limits.batch_txns || bytes >= self.limits.batch_bytes;
            next = if full { None } else { self.commands.try_recv().ok() };
        }
        requests
    }

    fn commit(&mut self, requests: Vec<Request>) {
        let (txns, replies): (Vec<Txn>, Vec<_>) = requests.into_iter().map(|request| (request.txn, request.reply)).unzip();
        let plan = {
            let state = read(&self.state);
            batch::plan(state.live(), state.newest(), txns)
        };
        let outcomes = if plan.events.is_empty() {
            plan.outcomes
        } else {
            match self.journal.commit(&plan.batch) {
                Ok(()) => {
                    let concerned = write(&self.state).apply(plan.batch, plan.events);
                    concerned.iter().for_each(|watcher| watcher.wake());
                    self.unannounced += 1;
                    plan.outcomes
                }
                // Also to those whose comparison failed: it may have failed
                // against a transaction of this batch that now never happened.
                Err(error) => plan.outcomes.into_iter().map(|_| Err(error.clone())).collect(),
            }
        };
        for (reply, outcome) in replies.into_iter().zip(outcomes) {
            // Nobody waits for the answer if the client gave up.
            drop(reply.send(outcome));
        }
    }

    /// Tells all watchers of progress, unless more work waits.
    fn announce(&mut self) {
        let due = self.unannounced >= PROGRESS_BATCHES || (self.unannounced > 0 && self.commands.is_empty());
        if due {
            self.unannounced = 0;
            self.wake_everyone();
        }
    }

    fn end_watches(&self) {
        write(&self.state).close();
        self.wake_everyone();
    }

    fn wake_everyone(&self) {
        let everyone = read(&self.state).everyone();
        everyone.iter().for_each(|watcher| watcher.wake());
    }
}

impl<J: Journal> Drop for Writer<J> {
    /// However the writer ends, watches end with it, and no commit is taken
    /// after they have.
    fn drop(&mut self) {
        self.commands.close();
        self.end_watches();
    }
}

#[cfg(test)]
mod tests;
