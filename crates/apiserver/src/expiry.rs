//! Objects that live for a while after their last write, such as events.
//!
//! The store knows revisions, not times. So once in a while a mark is stored:
//! by this time, everything up to this revision had been written. What was last
//! written at or before a mark that is older than the row's `ttl` is over. Marks
//! survive a restart, and where nothing is written no mark is made, so an idle
//! server writes nothing.
//!
//! Source: upstream `--event-ttl` and `apiserver/pkg/storage/etcd3/
//! lease_manager.go`, which shares one lease among the writes of a minute.

use std::cell::Cell;
use std::sync::{Arc, Weak};
use std::time::Duration;

use api::Time;
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use store::{Compare, Op, Revision, StoreError, Txn};

use crate::registry::Row;
use crate::server::Core;

/// A mark is made at most this often within one `ttl`: an object lives longer
/// than that by up to a thirtieth (one step until the next mark, one until
/// somebody looks).
const STEPS: u32 = 60;
/// Objects looked up at a time.
const BATCH: usize = 1_000;
/// Deletes at a time: enough for the store to commit them together.
const CONCURRENT: usize = 32;

/// By this time, everything up to this revision had been written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mark {
    revision: u64,
    at_s: i64,
}

/// What to do with a storage.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    /// What was last written at or before this revision is over.
    expired_through: u64,
    /// The marks to keep, oldest first.
    marks: Vec<Mark>,
}

/// What the reader of a storage knows of it.
#[derive(Clone, Copy, Debug)]
struct Seen {
    /// It has read everything up to here.
    reached: u64,
    /// The newest write of an object that is there.
    newest: u64,
}

/// Decides what is over and which marks are needed. Pure.
///
/// A clock that was set back makes objects live longer, never shorter: marks
/// of the future count as made now.
fn plan(marks: &[Mark], seen: Seen, now_s: i64, ttl_s: i64) -> Plan {
    let mut marks: Vec<Mark> = marks
        .iter()
        .map(|mark| Mark {
            at_s: mark.at_s.min(now_s),
            ..*mark
        })
        .collect();
    let over = marks.iter().take_while(|mark| mark.at_s + ttl_s <= now_s).count();
    // The last one that is over speaks for those before it.
    marks.drain(..over.saturating_sub(1));
    let expired_through = marks.first().filter(|_| over > 0).map_or(0, |mark| mark.revision);
    let due = marks
        .last()
        .is_none_or(|last| last.revision < seen.newest && last.at_s + ttl_s / i64::from(STEPS) <= now_s);
    if due && seen.newest > 0 {
        marks.push(Mark {
            revision: seen.reached,
            at_s: now_s,
        });
    }
    Plan { expired_through, marks }
}

/// Looks after one storage until its hub ends.
pub(crate) async fn run(core: Weak<Core>, row: Arc<Row>, ttl: Duration) {
    let ends = row.hub().ends().clone();
    let mut looks = tokio::time::interval((ttl / STEPS).max(Duration::from_secs(1)));
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = ends.cancelled() => return,
            _ = looks.tick() => {}
        }
        let Some(core) = core.upgrade() else { return };
        let now = (core.clock)();
        match core.expire(&row, ttl, now).await {
            Ok(0) => {}
            Ok(removed) => tracing::debug!(resource = row.storage.as_ref(), removed, "objects reached the end of their time"),
            Err(StoreError::Closed) => return,
            Err(error) => tracing::warn!(resource = row.storage.as_ref(), %error, "removing old objects failed; will be tried again"),
        }
    }
}

impl Core {
    /// Removes what is over at `now`, and says how many objects that were.
    pub(crate) async fn expire(&self, row: &Row, ttl: Duration, now: Time) -> Result<usize, StoreError> {
        let key = format!("/registry/expiry/{}", row.storage);
        let stored = self.store.get(&key).await?;
        let known: Vec<Mark> = stored.as_ref().map_or_else(Vec::new, |stored| {
            serde_json::from_slice(&stored.value).unwrap_or_else(|error| {
                tracing::warn!(key, %error, "the stored marks cannot be decoded; objects live one lifetime from now");
                Vec::new()
            })
        });
        let ttl_s = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX / 2);
        let plan = plan(&known, self.seen(row), now.timestamp().as_second(), ttl_s);
        if plan.marks != known {
            self.keep(&key, stored.map(|stored| stored.modified), &plan.marks).await?;
        }
        if plan.expired_through == 0 {
            return Ok(0);
        }
        self.remove_through(row, plan.expired_through).await
    }

    fn seen(&self, row: &Row) -> Seen {
        let newest = Cell::new(0);
        let snapshot = row.hub().page(&row.prefix(None), None, None, |entry| {
            newest.set(entry.revision.max(newest.get()));
            false
        });
        Seen {
            reached: snapshot.revision,
            newest: newest.get(),
        }
    }

    /// Stores the marks, unless another server over this store just did.
    async fn keep(&self, key: &str, known: Option<Revision>, marks: &[Mark]) -> Result<(), StoreError> {
        let encoded = serde_json::to_vec(marks).map_err(|error| StoreError::Unstorable(error.to_string()))?;
        let compare = match known {
            None => Compare::Absent(key.to_owned()),
            Some(revision) => Compare::ModifiedAt(key.to_owned(), revision),
        };
        let txn = Txn {
            compare: vec![compare],
            ops: vec![Op::Put(key.to_owned(), encoded.into_boxed_slice().into())],
        };
        match self.store.commit(txn).await {
            Ok(_) | Err(StoreError::Conflict { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Removes every object of a row last written at or before a revision.
    async fn remove_through(&self, row: &Row, through: u64) -> Result<usize, StoreError> {
        let mut removed = 0;
        let mut after: Option<String> = None;
        loop {
            let batch = row
                .hub()
                .page(&row.prefix(None), after.as_deref(), Some(BATCH), |entry| entry.revision <= through);
            // One that cannot be decoded has a time as well.
            for damage in batch.damaged.iter().filter(|damage| damage.revision <= through) {
                removed += usize::from(self.remove_unchanged(&damage.key, damage.revision).await?);
            }
            let Some(last) = batch.entries.last() else {
                return Ok(removed);
            };
            after = Some(last.key.clone());
            let outcomes =
                futures::stream::iter(batch.entries).map(|entry| async move { self.remove_unchanged(&entry.key, entry.revision).await });
            let outcomes: Vec<_> = outcomes.buffer_unordered(CONCURRENT).collect().await;
            for outcome in outcomes {
                removed += usize::from(outcome?);
            }
        }
    }

    /// Removes an object; false when it has been written since, or is gone.
    async fn remove_unchanged(&self, key: &str, revision: u64) -> Result<bool, StoreError> {
        let txn = Txn {
            compare: vec![Compare::ModifiedAt(key.to_owned(), Revision(revision))],
            ops: vec![Op::Delete(key.to_owned())],
        };
        match self.store.commit(txn).await {
            Ok(_) => Ok(true),
            Err(StoreError::Conflict { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests;
