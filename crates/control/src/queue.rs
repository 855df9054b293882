//! What is to be looked at, in the order it was asked for.
//!
//! Never longer than there are things to look at: asking twice is asking
//! once, and what is being worked on waits until that has ended.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use api::Time;

const RETRY_MIN: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// A queue of distinct items. Time is handed in.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    due: VecDeque<T>,
    /// What `due` holds.
    queued: BTreeSet<T>,
    /// Being worked on; `true` if asked for since that began.
    under_way: BTreeMap<T, bool>,
    /// Failed, and tried again at that time.
    waiting: BTreeMap<T, Time>,
    /// How long an item waits after it failed the next time.
    delays: BTreeMap<T, Duration>,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self {
            due: VecDeque::new(),
            queued: BTreeSet::new(),
            under_way: BTreeMap::new(),
            waiting: BTreeMap::new(),
            delays: BTreeMap::new(),
        }
    }
}

impl<T: Ord + Clone> Queue<T> {
    /// Asks for an item to be looked at.
    pub(crate) fn push(&mut self, item: T) {
        if let Some(again) = self.under_way.get_mut(&item) {
            *again = true;
            return;
        }
        self.waiting.remove(&item);
        if self.queued.insert(item.clone()) {
            self.due.push_back(item);
        }
    }

    /// Whether an item is to be looked at, now or when what is under way has
    /// ended.
    pub(super) fn is_due(&self, item: &T) -> bool {
        self.queued.contains(item) || self.under_way.get(item) == Some(&true)
    }

    /// The next item; it is under way until [`Self::done`] or
    /// [`Self::failed`].
    pub(crate) fn next(&mut self, now: Time) -> Option<T> {
        let ready: Vec<T> = self
            .waiting
            .iter()
            .filter(|(_, at)| **at <= now)
            .map(|(item, _)| item.clone())
            .collect();
        for item in ready {
            self.push(item);
        }
        let item = self.due.pop_front()?;
        self.queued.remove(&item);
        self.under_way.insert(item.clone(), false);
        Some(item)
    }

    /// All was done about an item.
    pub(crate) fn done(&mut self, item: &T) {
        self.delays.remove(item);
        if self.under_way.remove(item) == Some(true) {
            self.push(item.clone());
        }
    }

    /// All was done about an item for now; it is looked at again then, if not
    /// asked for before.
    pub(crate) fn done_until(&mut self, item: &T, at: Time) {
        self.done(item);
        if !self.queued.contains(item) {
            self.waiting.insert(item.clone(), at);
        }
    }

    /// Something went wrong: it is tried again, later each time, or at once if
    /// there has been news.
    pub(crate) fn failed(&mut self, item: &T, now: Time) {
        let delay = self.delays.get(item).copied().unwrap_or(RETRY_MIN);
        self.delays.insert(item.clone(), (delay * 2).min(RETRY_MAX));
        if self.under_way.remove(item) == Some(true) {
            self.push(item.clone());
        } else {
            self.waiting.insert(item.clone(), now + delay);
        }
    }

    /// How long until [`Self::next`] gives something, as things are.
    pub(crate) fn wait(&self, now: Time) -> Option<Duration> {
        if self.due.is_empty() {
            self.waiting.values().min().map(|at| at.since(now))
        } else {
            Some(Duration::ZERO)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at_ms(ms: i64) -> Time {
        Time(ms * 1_000_000)
    }

    #[test]
    fn asked_for_twice_is_looked_at_once_and_in_order() {
        let mut queue = Queue::default();
        for item in ["b", "a", "b"] {
            queue.push(item);
        }
        assert_eq!(queue.wait(at_ms(0)), Some(Duration::ZERO));
        assert_eq!((queue.next(at_ms(0)), queue.next(at_ms(0))), (Some("b"), Some("a")));
        assert_eq!((queue.next(at_ms(0)), queue.wait(at_ms(0))), (None, None));
    }

    #[test]
    fn news_while_under_way_is_looked_at_afterwards() {
        let mut queue = Queue::default();
        queue.push("a");
        assert!(queue.is_due(&"a"));
        assert_eq!(queue.next(at_ms(0)), Some("a"));
        assert!(!queue.is_due(&"a"), "under way");
        queue.push("a");
        assert!(queue.is_due(&"a"), "under way, and again afterwards");
        assert_eq!(queue.next(at_ms(0)), None, "never two at a time");
        queue.done(&"a");
        assert_eq!(queue.next(at_ms(0)), Some("a"));
        queue.done(&"a");
        assert_eq!(queue.next(at_ms(0)), None);
        assert!(!queue.is_due(&"a"));
    }

    #[test]
    fn failures_wait_longer_each_time_unless_there_is_news() {
        let mut queue = Queue::default();
        queue.push("a");
        let mut now = 0;
        for delay in [20, 40, 80] {
            assert_eq!(queue.next(at_ms(now)), Some("a"));
            queue.failed(&"a", at_ms(now));
            assert_eq!(queue.wait(at_ms(now)), Some(Duration::from_millis(delay)));
            assert_eq!(queue.next(at_ms(now + i64::try_from(delay).unwrap() - 1)), None);
            now += i64::try_from(delay).unwrap();
        }
        assert_eq!(queue.next(at_ms(now)), Some("a"));
        queue.push("a");
        queue.failed(&"a", at_ms(now));
        assert_eq!(queue.next(at_ms(now)), Some("a"), "there was news");
        queue.done(&"a");
        queue.push("a");
        assert_eq!(queue.next(at_ms(now)), Some("a"));
        queue.failed(&"a", at_ms(now));
        assert_eq!(queue.wait(at_ms(now)), Some(Duration::from_millis(20)), "success forgets failures");
    }
}
