//! One reader of the store per storage prefix, for every list and watch of it.
//!
//! A hub lists its prefix once and follows it. Each object is decoded once;
//! its bytes are the store's own, shared. A bounded ring keeps the newest
//! changes with both the old and the new object, so that a watcher can tell an
//! object that stopped matching its selector from one it never saw.
//!
//! Reading order: [`Hub::open`] (list, then follow), [`Hub::page`] and
//! [`Hub::get`] (reads), [`Hub::subscribe`] (what a watcher starts from), then
//! [`state`] (how a change becomes visible to all of them at once).

mod damage;
mod labels;
mod state;
mod written;

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use api::{Object, Selector};
use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use store::{Page, Revision, Store, StoreError, Watch, WatchMessage};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

pub(crate) use self::damage::Damage;
use self::state::{Bounds, State, decode};
pub(crate) use self::state::{Change, Delivery, Index, Message, NoStart};
pub(crate) use self::written::Expected;
use self::written::Written;
use crate::server::Limits;

/// Entries read from the store at a time while listing.
const LIST_PAGE: usize = 1_000;
/// Pause before the store is tried again.
const RETRY_DELAY: Duration = Duration::from_millis(200);

/// An object as stored, decoded once and shared.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Its key in the store.
    pub(crate) key: String,
    /// Its stored form, with its revision.
    pub(crate) object: Arc<Object>,
    /// Its stored bytes, without a revision.
    pub(crate) stored: Bytes,
    /// The revision that last changed it.
    pub(crate) revision: u64,
}

impl Entry {
    /// Of a stored form that has just been given its revision; zero for one
    /// that would have been made, and has none.
    pub(crate) fn new(key: &str, mut object: Object, stored: Bytes, revision: u64) -> Arc<Self> {
        object.meta.resource_version = (revision != 0).then(|| revision.to_string());
        Arc::new(Self {
            key: key.to_owned(),
            object: Arc::new(object),
            stored,
            revision,
        })
    }
}

/// Objects of one storage prefix, as of one revision.
pub(crate) struct Snapshot {
    /// Everything up to here is in it.
    pub(crate) revision: u64,
    /// In key order.
    pub(crate) entries: Vec<Arc<Entry>>,
    /// Entries after the last one that were not looked at.
    pub(crate) remaining: usize,
    /// What belongs among the entries and cannot be decoded.
    pub(crate) damaged: Vec<Damage>,
}

impl Snapshot {
    /// The entries, or what stands in their place.
    pub(crate) fn whole(self) -> Result<Vec<Arc<Entry>>, Vec<Damage>> {
        if self.damaged.is_empty() {
            Ok(self.entries)
        } else {
            Err(self.damaged)
        }
    }
}

/// What a watcher starts from.
pub(crate) enum From {
    /// All objects there are, then changes.
    Now,
    /// Changes after a revision.
    After(u64),
    /// Changes from now on, nothing else.
    Later,
}

/// A watcher's view of a hub.
pub(crate) struct Subscription {
    /// Where it starts: everything up to here is in `objects` or was known.
    pub(crate) revision: u64,
    /// Objects to show first.
    pub(crate) objects: Vec<Arc<Entry>>,
    /// Changes to show next.
    pub(crate) backlog: Vec<Arc<Change>>,
    /// Changes after that. Closed when the watcher was too slow, or the hub
    /// lost the store and began anew.
    pub(crate) changes: mpsc::Receiver<Message>,
}

/// One reader of a storage prefix.
pub(crate) struct Hub {
    prefix: String,
    /// Many read long lists of it at a time, one follows the store.
    state: RwLock<State>,
    /// The revision the state has reached; 0 while it does not follow.
    reached: watch::Sender<u64>,
    /// Grows with every change of the objects.
    changes: AtomicU64,
    /// Cancelled when nobody is to read it any more.
    ends: CancellationToken,
    written: Arc<Written>,
}

impl Hub {
    /// Lists the prefix, and returns the hub with the task that follows it
    /// until `ends` is cancelled; the hub is empty then.
    pub(crate) async fn open(
        store: Arc<dyn Store>,
        prefix: &str,
        index: Option<Index>,
        limits: &Limits,
        ends: CancellationToken,
    ) -> Result<(Arc<Self>, impl Future<Output = ()> + Send + use<>), StoreError> {
        let bounds = Bounds {
            ring_changes: limits.hub_events,
            ring_bytes: limits.hub_bytes,
            queue_changes: limits.watcher_events,
        };
        let hub = Arc::new(Self {
            prefix: prefix.to_owned(),
            state: RwLock::new(State::new(bounds, index)),
            reached: watch::Sender::new(0),
            changes: AtomicU64::new(0),
            ends,
            written: Arc::default(),
        });
        let changes = hub.list(store.as_ref()).await?;
        let follower = Arc::clone(&hub);
        let bookmarks = limits.bookmark_interval;
        let follow = async move {
            tokio::select! {
                () = follower.ends.cancelled() => {}
                () = follower.follow(store, changes, bookmarks) => {}
            }
            follower.reached.send_replace(0);
            follower.state_mut().end();
        };
        Ok((hub, follow))
    }

    /// Cancelled when the hub ends; cancels it.
    pub(crate) const fn ends(&self) -> &CancellationToken {
        &self.ends
    }

    /// Whether the hub is connected to the store.
    pub(crate) fn follows(&self) -> bool {
        *self.reached.borrow() > 0
    }

    /// How many objects there are.
    pub(crate) fn len(&self) -> usize {
        self.state().len()
    }

    /// A number that is another one after every change of the objects.
    pub(crate) fn changed(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// The objects whose indexed field has this value; none where the hub has
    /// no index.
    pub(crate) fn indexed(&self, value: &str) -> Vec<Arc<Entry>> {
        self.state().indexed(value)
    }

    /// Waits until everything up to `revision` is visible here; false if that
    /// takes longer than `limit`, or the hub ends.
    pub(crate) async fn reach(&self, revision: u64, limit: Duration) -> bool {
        if *self.reached.borrow() >= revision {
            return true;
        }
        let mut reached = self.reached.subscribe();
        tokio::select! {
            () = self.ends.cancelled() => false,
            outcome = tokio::time::timeout(limit, reached.wait_for(|at| *at >= revision)) => matches!(outcome, Ok(Ok(_))),
        }
    }

    /// The object of a key, if everything up to `revision` is visible here;
    /// `None` when it is not.
    pub(crate) fn get(&self, key: &str, revision: u64) -> Option<Result<Option<Arc<Entry>>, Damage>> {
        let state = self.state();
        (state.revision() >= revision && self.follows()).then(|| state.get(key))
    }

    /// All objects whose key starts with `prefix`, if everything up to
    /// `revision` is visible here; `None` when it is not.
    pub(crate) fn all(&self, prefix: &str, revision: u64) -> Option<Snapshot> {
        let state = self.state();
        (state.revision() >= revision && self.follows()).then(|| state.page(prefix, None, None, |_| true))
    }

    /// Objects whose key starts with `prefix` and comes after `after`, that
    /// `matches` accepts, at most `limit`.
    pub(crate) fn page(&self, prefix: &str, after: Option<&str>, limit: Option<usize>, matches: impl Fn(&Entry) -> bool) -> Snapshot {
        self.state().page(prefix, after, limit, matches)
    }

    /// The same, where only objects that `labels` selects can match.
    pub(crate) fn chosen(
        &self,
        labels: &Selector,
        prefix: &str,
        after: Option<&str>,
        limit: Option<usize>,
        matches: impl Fn(&Entry) -> bool,
    ) -> Snapshot {
        let (snapshot, lacking) = self.state().chosen(labels, prefix, after, limit, matches);
        if let Some(label) = lacking {
            self.state_mut().follow_label(label);
        }
        snapshot
    }

    /// The decoded entry of a value the store returned; taken from here when
    /// it is still the newest.
    pub(crate) fn resolve(&self, key: &str, versioned: &store::Versioned) -> Result<Arc<Entry>, Damage> {
        let known = self.state().get(key).ok().flatten();
        match known.filter(|entry| entry.revision == versioned.modified.0) {
            Some(entry) => Ok(entry),
            None => decode(key, versioned),
        }
    }

    /// Announces a version that is about to be stored, by its bytes: the news
    /// of it need not be decoded.
    pub(crate) fn expect(&self, object: Object, stored: Bytes) -> Expected {
        Expected::new(&self.written, object, stored)
    }

    /// Starts a watcher of the keys that start with `prefix`, without a gap
    /// between what it is given now and what it will be sent.
    pub(crate) fn subscribe(&self, prefix: &str, from: &From, bookmarks: bool) -> Result<Subscription, NoStart> {
        self.state_mut().subscribe(prefix, from, bookmarks)
    }

    // Whoever held the lock only moved values; a panic in between (memory
    // exhausted) leaves maps that are still maps.
    fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn state_mut(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    async fn list(&self, store: &dyn Store) -> Result<Watch, StoreError> {
        let first = store
            .range(
                &self.prefix,
                None,
                Page {
                    after: None,
                    limit: Some(LIST_PAGE),
                },
            )
            .await?;
        let revision = first.revision;
        let mut entries: Vec<Arc<Entry>> = Vec::new();
        let mut damaged = Vec::new();
        let mut page = first;
        loop {
            let last = page.entries.last().map(|(key, _)| key.clone());
            for (key, versioned) in &page.entries {
                match decode(key, versioned) {
                    Ok(entry) => entries.push(entry),
                    Err(damage) => damaged.push(damage),
                }
            }
            if !page.more {
                break;
            }
            page = store
                .range(
                    &self.prefix,
                    Some(revision),
                    Page {
                        after: last,
                        limit: Some(LIST_PAGE),
                    },
                )
                .await?;
        }
        let changes = store.watch(&self.prefix, revision).await?;
        self.state_mut().reset(revision.0, entries, damaged);
        self.changes.fetch_add(1, Ordering::Release);
        self.reached.send_replace(revision.0);
        Ok(changes)
    }

    /// Follows the store until it is closed. Losing it (a watch that lagged, a
    /// disk that failed) means beginning anew: all watchers are dropped, and
    /// come back with a list of their own.
    async fn follow(&self, store: Arc<dyn Store>, mut changes: Watch, bookmark_interval: Duration) {
        loop {
            let why = self.drain(&mut changes, bookmark_interval).await;
            self.reached.send_replace(0);
            if matches!(why, Some(StoreError::Closed)) {
                return;
            }
            let error = why.map_or_else(|| "the watch ended".to_owned(), |error| error.to_string());
            tracing::warn!(prefix = self.prefix, error, "following the store was interrupted; listing again");
            changes = loop {
                match self.list(store.as_ref()).await {
                    Ok(changes) => break changes,
                    Err(StoreError::Closed) => return,
                    Err(error) => {
                        tracing::warn!(prefix = self.prefix, %error, "listing failed; trying again");
                        tokio::time::sleep(RETRY_DELAY).await;
                    }
                }
            };
        }
    }

    /// Applies changes until the watch ends, and says why it did.
    async fn drain(&self, changes: &mut Watch, bookmark_interval: Duration) -> Option<StoreError> {
        let mut bookmarks = tokio::time::interval(bookmark_interval);
        bookmarks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let next = tokio::select! {
                next = changes.next() => next,
                _ = bookmarks.tick() => {
                    self.state_mut().bookmark();
                    continue;
                }
            };
            // Everything that is there already is applied under one lock.
            let mut next = Some(next);
            let mut ended = None;
            let revision = {
                let mut state = self.state_mut();
                while let Some(message) = next.take() {
                    match message {
                        Some(Ok(WatchMessage::Events(events))) => {
                            state.apply(events, &self.written);
                            self.changes.fetch_add(1, Ordering::Release);
                        }
                        Some(Ok(WatchMessage::Progress(Revision(revision)))) => state.advance(revision),
                        Some(Err(error)) => ended = Some(Some(error)),
                        None => ended = Some(None),
                    }
                    next = if ended.is_none() { changes.next().now_or_never() } else { None };
                }
                state.revision()
            };
            self.reached.send_replace(revision);
            if let Some(why) = ended {
                return why;
            }
        }
    }
}

#[cfg(test)]
mod tests;
