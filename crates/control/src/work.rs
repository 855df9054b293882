//! Work of a controller, one key at a time: what its loop around a
//! [`Queue`] looks like.

use std::future::Future;
use std::time::Duration;

use api::Time;
use jiff::Timestamp;
use tokio::task::{JoinError, JoinSet};

use crate::queue::Queue;

/// How long one piece of work may take.
const LIMIT: Duration = Duration::from_secs(60);

/// What is under way, and what is next.
pub(crate) struct Work<K> {
    name: &'static str,
    queue: Queue<K>,
    tasks: JoinSet<(K, Result<Option<Duration>, String>)>,
    most: usize,
}

impl<K: Ord + Clone + std::fmt::Debug + Send + 'static> Work<K> {
    /// For a controller of that name, `most` keys at a time.
    pub(crate) fn new(name: &'static str, most: usize) -> Self {
        Self {
            name,
            queue: Queue::default(),
            tasks: JoinSet::new(),
            most,
        }
    }

    /// Asks for a key to be looked at.
    pub(crate) fn ask(&mut self, key: K) {
        self.queue.push(key);
    }

    /// Starts what may be started. The work answers when it is to be done
    /// again, if at all without being asked.
    pub(crate) fn start<F>(&mut self, work: impl Fn(K) -> F)
    where
        F: Future<Output = Result<Option<Duration>, String>> + Send + 'static,
    {
        while self.tasks.len() < self.most
            && let Some(key) = self.queue.next(now())
        {
            let working = tokio::time::timeout(LIMIT, work(key.clone()));
            self.tasks.spawn(async move {
                let outcome = working
                    .await
                    .unwrap_or_else(|_| Err(format!("not done within {} s", LIMIT.as_secs())));
                (key, outcome)
            });
        }
    }

    /// Returns when something has ended, or is due. Dropping it loses nothing.
    pub(crate) async fn turn(&mut self) {
        let full = self.tasks.len() >= self.most;
        let due = self.queue.wait(now()).filter(|_| !full);
        let wait = async {
            match due {
                Some(delay) => tokio::time::sleep(delay).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some(ended) = self.tasks.join_next() => self.ended(ended),
            () = wait => {}
        }
    }

    fn ended(&mut self, ended: Result<(K, Result<Option<Duration>, String>), JoinError>) {
        match ended {
            Ok((key, Ok(None))) => self.queue.done(&key),
            Ok((key, Ok(Some(delay)))) => self.queue.done_until(&key, now() + delay),
            Ok((key, Err(error))) => {
                tracing::debug!(controller = self.name, ?key, error, "not done; it is tried again");
                self.queue.failed(&key, now());
            }
            Err(error) => std::panic::resume_unwind(error.into_panic()), // nobody aborts them
        }
    }
}

/// The time, for those who act.
pub(crate) fn now() -> Time {
    Timestamp::now().into()
}

/// The code of a refusal of the API server.
pub(crate) fn code(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}
