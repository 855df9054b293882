//! Everything the store answers from: the live keys, the recent history, and
//! who watches. No I/O happens here; the writer applies a batch once it is
//! durable.

use std::collections::{BTreeMap, VecDeque};
use std::iter::Peekable;
use std::ops::Bound;
use std::sync::Arc;

use super::Limits;
use super::batch::Batch;
use crate::watch::{Pull, Registry, Watcher};
use crate::{Event, Key, Page, Range, Revision, StoreError, Versioned, WatchMessage};

/// What an event costs beside its key and the value it keeps alive, in bytes;
/// roughly its own size and its share of the queue that holds it.
const EVENT_OVERHEAD_BYTES: usize = 192;

/// A watch message holds about this many events at most; it may be more by what
/// is left of a transaction.
const MESSAGE_EVENTS: usize = 512;

/// The state at the newest durable revision, and how it came about.
#[derive(Debug)]
pub(crate) struct State {
    live: BTreeMap<Key, Versioned>,
    history: History,
    watchers: Registry,
    newest: Revision,
    closed: bool,
}

/// The latest events. Each holds the value before, so that the state at an
/// older revision is the newest state with events undone.
#[derive(Debug)]
struct History {
    limits: Limits,
    events: VecDeque<Event>,
    bytes: usize,
    /// Every event after this revision is in `events`.
    start: Revision,
    /// The oldest revision that may be asked for; never before `start`. It is
    /// after `start` while events that were compacted away wait for a running
    /// watch to take them.
    floor: Revision,
}

impl State {
    pub(crate) fn new(live: BTreeMap<Key, Versioned>, newest: Revision, limits: Limits) -> Self {
        let history = History {
            limits,
            events: VecDeque::new(),
            bytes: 0,
            start: newest,
            floor: newest,
        };
        Self {
            live,
            history,
            watchers: Registry::default(),
            newest,
            closed: false,
        }
    }

    pub(crate) fn live(&self) -> &BTreeMap<Key, Versioned> {
        &self.live
    }

    pub(crate) fn newest(&self) -> Revision {
        self.newest
    }

    /// A consistent page; see [`crate::Store::range`].
    pub(crate) fn range(&self, prefix: &str, at: Option<Revision>, page: &Page) -> Result<Range, StoreError> {
        let revision = at.unwrap_or(self.newest);
        self.readable(revision)?;
        // Keys changed since then, with the value they had: the value before
        // the first event after `revision`.
        let mut then: BTreeMap<&str, Option<&Versioned>> = BTreeMap::new();
        for event in self.history.after(revision).filter(|event| event.key.starts_with(prefix)) {
            then.entry(&event.key).or_insert(event.previous.as_ref());
        }
        let start = match &page.after {
            Some(after) if after.as_str() >= prefix => Bound::Excluded(after.as_str()),
            _ => Bound::Included(prefix),
        };
        let now = self
            .live
            .range::<str, _>((start, Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(key, value)| (key.as_str(), Some(value)));
        let then = then.range::<str, _>((start, Bound::Unbounded)).map(|(key, value)| (*key, *value));
        let mut found = Overlay {
            under: now.peekable(),
            over: then.peekable(),
        };
        let limit = page.limit.unwrap_or(usize::MAX);
        let entries: Vec<(Key, Versioned)> = found
            .by_ref()
            .take(limit)
            .map(|(key, value)| (key.to_owned(), value.clone()))
            .collect();
        let remaining = found.count();
        Ok(Range {
            revision,
            entries,
            more: remaining > 0,
            remaining,
        })
    }

    /// Whether the state at `revision` and all events after it are known.
    fn readable(&self, revision: Revision) -> Result<(), StoreError> {
        if revision > self.newest {
            return Err(StoreError::Future {
                asked: revision,
                newest: self.newest,
            });
        }
        if revision < self.history.floor {
            return Err(StoreError::Compacted {
                asked: revision,
                oldest: self.history.floor,
            });
        }
        Ok(())
    }

    /// Makes a durable batch visible. Returns the watchers it concerns.
    pub(crate) fn apply(&mut self, batch: Batch, events: Vec<Event>) -> Vec<Arc<Watcher>> {
        for (key, change) in batch.changes {
            match change.after {
                Some(value) => self.live.insert(key, value),
                None => self.live.remove(&key),
            };
        }
        let concerned = self.watchers.concerned(&events);
        self.history.bytes += events.iter().map(event_bytes).sum::<usize>();
        self.history.events.extend(events);
        self.newest = batch.to;
        // The batch itself is spared, however large: watchers that are up to
        // date must get a chance to take it.
        while self.history.is_over() && self.history.events.front().is_some_and(|event| event.revision <= batch.from) {
            self.forget_oldest();
        }
        self.forget_compacted();
        concerned
    }

    /// Forgets history; see [`crate::Store::compact`].
    pub(crate) fn compact(&mut self, through: Revision) -> Result<(), StoreError> {
        if through > self.newest {
            return Err(StoreError::Future {
                asked: through,
                newest: self.newest,
            });
        }
        self.history.floor = self.history.floor.max(through);
        self.forget_compacted();
        Ok(())
    }

    /// Drops events before the floor, except those a running watch has yet to
    /// take: compaction does not end a watch that keeps up.
    fn forget_compacted(&mut self) {
        if self.history.start == self.history.floor {
            return;
        }
        let through = self
            .watchers
            .slowest()
            .map_or(self.history.floor, |slowest| slowest.min(self.history.floor));
        while self.history.events.front().is_some_and(|event| event.revision <= through) {
            self.forget_oldest();
        }
        self.history.start = self.history.start.max(through);
    }

    /// Drops the oldest transaction of the history.
    fn forget_oldest(&mut self) {
        let Some(oldest) = self.history.events.front().map(|event| event.revision) else {
            return;
        };
        while let Some(event) = self.history.events.pop_front_if(|event| event.revision == oldest) {
            self.history.bytes -= event_bytes(&event);
            self.watchers.forgotten(&event);
        }
        self.history.start = oldest;
        self.history.floor = self.history.floor.max(oldest);
    }

    /// Adds a watcher; see [`crate::Store::watch`].
    pub(crate) fn subscribe(&mut self, prefix: &str, after: Revision) -> Result<Arc<Watcher>, StoreError> {
        if self.closed {
            return Err(StoreError::Closed);
        }
        self.readable(after)?;
        Ok(self.watchers.add(prefix, after))
    }

    pub(crate) fn unsubscribe(&mut self, watcher: &Watcher) {
        self.watchers.remove(watcher);
    }

    /// What a watcher gets next. Moves its position.
    pub(crate) fn pull(&self, watcher: &Watcher) -> Pull {
        let at = watcher.position();
        if self.watchers.lost(watcher) > at {
            return Pull::End(StoreError::Lagged { at });
        }
        let mut events: Vec<Event> = Vec::new();
        for event in self.history.after(at) {
            let whole = events.last().is_none_or(|last| last.revision != event.revision);
            if whole && events.len() >= MESSAGE_EVENTS {
                break;
            }
            if event.key.starts_with(watcher.prefix()) {
                events.push(event.clone());
            }
        }
        if let Some(last) = events.last() {
            watcher.advance(last.revision);
            return Pull::Message(WatchMessage::Events(events));
        }
        if at < self.newest {
            watcher.advance(self.newest);
            return Pull::Message(WatchMessage::Progress(self.newest));
        }
        if self.closed { Pull::End(StoreError::Closed) } else { Pull::Wait }
    }

    pub(crate) fn close(&mut self) {
        self.closed = true;
    }

    /// Every watcher.
    pub(crate) fn everyone(&self) -> Vec<Arc<Watcher>> {
        self.watchers.everyone()
    }
}

impl History {
    /// The events after a revision that is not before `start`; of an older one,
    /// those that are left.
    fn after(&self, revision: Revision) -> impl Iterator<Item = &Event> {
        let first = self.events.partition_point(|event| event.revision <= revision);
        self.events.range(first..)
    }

    fn is_over(&self) -> bool {
        self.events.len() > self.limits.history_events || self.bytes > self.limits.history_bytes
    }
}

/// What an event alone keeps in memory: the value before it. The value after it
/// is either live or the value before a later event.
fn event_bytes(event: &Event) -> usize {
    EVENT_OVERHEAD_BYTES + event.key.len() + event.previous.as_ref().map_or(0, |previous| previous.value.len())
}

/// Two sorted sequences as one: for a key in both, `over` counts; a key without
/// a value is left out.
struct Overlay<A: Iterator, B: Iterator> {
    under: Peekable<A>,
    over: Peekable<B>,
}

impl<'a, A, B> Iterator for Overlay<A, B>
where
    A: Iterator<Item = (&'a str, Option<&'a Versioned>)>,
    B: Iterator<Item = (&'a str, Option<&'a Versioned>)>,
{
    type Item = (&'a str, &'a Versioned);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (key, value) = match (self.under.peek(), self.over.peek()) {
                (Some((under, _)), Some((over, _))) if under < over => self.under.next()?,
                (Some((under, _)), Some((over, _))) if under == over => {
                    self.under.next();
                    self.over.next()?
                }
                (_, Some(_)) => self.over.next()?,
                (_, None) => self.under.next()?,
            };
            if let Some(value) = value {
                return Some((key, value));
            }
        }
    }
}

#[cfg(test)]
mod tests;
