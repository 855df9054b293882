//! How a change reaches those who watch it.
//!
//! A watcher is a position in the history, not a queue: its stream takes the
//! next events from the history whenever it is polled, and sleeps when there
//! are none. Replay and live delivery are therefore the same step, which leaves
//! no seam for a gap or a repeat; a slow watcher costs no memory; and the bound
//! on the history is the bound on how far a watcher may fall behind. One that
//! falls behind it ends with [`StoreError::Lagged`], but only if an event of its
//! own prefix was dropped before it took it.
//!
//! The writer wakes only the watchers whose prefix a batch touched, found by the
//! prefixes of the changed keys and not by asking every watcher. All others
//! are woken for progress when the writer has nothing left to do, or once in
//! [`PROGRESS_BATCHES`] batches.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

use futures::StreamExt;
use tokio::sync::Notify;

use crate::engine::state::State;
use crate::{Event, Revision, StoreError, Watch, WatchMessage};

/// Under load, watchers whose prefix is idle learn of progress once in this many
/// batches.
pub(crate) const PROGRESS_BATCHES: u32 = 16;

/// A running watch.
#[derive(Debug)]
pub(crate) struct Watcher {
    id: u64,
    prefix: String,
    /// Everything up to this revision has been delivered. Written only by the
    /// watcher's own stream while it holds the state's lock for reading, so
    /// whoever holds it for writing sees a settled value.
    position: AtomicU64,
    wake: Notify,
}

/// What a watcher gets when it asks.
pub(crate) enum Pull {
    Message(WatchMessage),
    /// Nothing new: sleep until woken.
    Wait,
    /// This, and then nothing more.
    End(StoreError),
}

impl Watcher {
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(crate) fn position(&self) -> Revision {
        Revision(self.position.load(Ordering::Relaxed))
    }

    pub(crate) fn advance(&self, to: Revision) {
        self.position.store(to.0, Ordering::Relaxed);
    }

    /// Wakes the stream; remembered if it is not asleep.
    pub(crate) fn wake(&self) {
        self.wake.notify_one();
    }
}

/// Who watches, by prefix.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    slots: BTreeMap<String, Slot>,
    /// How many slots have a prefix of this many bytes: the only lengths at
    /// which a key has to be looked up.
    lengths: BTreeMap<usize, usize>,
    last_id: u64,
}

#[derive(Debug, Default)]
struct Slot {
    watchers: BTreeMap<u64, Arc<Watcher>>,
    /// The newest event of this prefix that the history has dropped.
    lost: Revision,
}

impl Registry {
    pub(crate) fn add(&mut self, prefix: &str, after: Revision) -> Arc<Watcher> {
        self.last_id += 1;
        let watcher = Arc::new(Watcher {
            id: self.last_id,
            prefix: prefix.to_owned(),
            position: AtomicU64::new(after.0),
            wake: Notify::new(),
        });
        let slot = self.slots.entry(prefix.to_owned()).or_insert_with(|| {
            *self.lengths.entry(prefix.len()).or_default() += 1;
            Slot::default()
        });
        slot.watchers.insert(watcher.id, Arc::clone(&watcher));
        watcher
    }

    pub(crate) fn remove(&mut self, watcher: &Watcher) {
        let Some(slot) = self.slots.get_mut(watcher.prefix()) else { return };
        slot.watchers.remove(&watcher.id);
        if !slot.watchers.is_empty() {
            return;
        }
        self.slots.remove(watcher.prefix());
        let length = watcher.prefix().len();
        if let Some(count) = self.lengths.get_mut(&length) {
            *count -= 1;
            if *count == 0 {
                self.lengths.remove(&length);
            }
        }
    }

    /// The watched prefixes of a key.
    fn prefixes<'a>(&self, key: &'a str) -> impl Iterator<Item = &'a str> {
        // A length that cuts a character in two is no prefix: `get` says so.
        self.lengths
            .range(..=key.len())
            .filter_map(|(length, _)| key.get(..*length))
            .filter(|prefix| self.slots.contains_key(*prefix))
    }

    /// The watchers any of these events is for, each once.
    pub(crate) fn concerned(&self, events: &[Event]) -> Vec<Arc<Watcher>> {
        let prefixes: BTreeSet<&str> = events.iter().flat_map(|event| self.prefixes(&event.key)).collect();
        prefixes
            .into_iter()
            .filter_map(|prefix| self.slots.get(prefix))
            .flat_map(|slot| slot.watchers.values().cloned())
            .collect()
    }

    pub(crate) fn everyone(&self) -> Vec<Arc<Watcher>> {
        self.slots.values().flat_map(|slot| slot.watchers.values().cloned()).collect()
    }

    /// Notes that the history no longer holds this event.
    pub(crate) fn forgotten(&mut self, event: &Event) {
        for length in self.lengths.range(..=event.key.len()).map(|(length, _)| *length) {
            if let Some(slot) = event.key.get(..length).and_then(|prefix| self.slots.get_mut(prefix)) {
                slot.lost = event.revision;
            }
        }
    }

    /// The newest event of the watcher's prefix that can no longer be delivered.
    pub(crate) fn lost(&self, watcher: &Watcher) -> Revision {
        self.slots.get(watcher.prefix()).map_or(Revision(0), |slot| slot.lost)
    }

    /// The position of the watcher that is furthest behind.
    pub(crate) fn slowest(&self) -> Option<Revision> {
        self.slots
            .values()
            .flat_map(|slot| slot.watchers.values())
            .map(|watcher| watcher.position())
            .min()
    }
}

/// A watcher that leaves when it is dropped.
struct Subscription {
    state: Arc<RwLock<State>>,
    watcher: Arc<Watcher>,
    ended: bool,
}

impl Subscription {
    async fn next(mut self) -> Option<(Result<WatchMessage, StoreError>, Self)> {
        while !self.ended {
            let pull = super::engine::read(&self.state).pull(&self.watcher);
            match pull {
                Pull::Message(message) => return Some((Ok(message), self)),
                Pull::Wait => self.watcher.wake.notified().await,
                Pull::End(error) => {
                    self.ended = true;
                    return Some((Err(error), self));
                }
            }
        }
        None
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        super::engine::write(&self.state).unsubscribe(&self.watcher);
    }
}

/// Starts a watch on the state.
pub(crate) fn subscribe(state: &Arc<RwLock<State>>, prefix: &str, after: Revision) -> Result<Watch, StoreError> {
    let watcher = super::engine::write(state).subscribe(prefix, after)?;
    let subscription = Subscription {
        state: Arc::clone(state),
        watcher,
        ended: false,
    };
    Ok(futures::stream::unfold(subscription, Subscription::next).boxed())
}

#[cfg(test)]
mod tests;
