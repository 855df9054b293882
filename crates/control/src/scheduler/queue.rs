//! Pods that wait for a node: ready to be tried, backing off, or parked until
//! something changes that could help them.
//!
//! Source: upstream scheduler `backend/queue`; initial and greatest back-off
//! 1 s and 10 s, parked for at most 5 min.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use api::{Time, Uid};

use super::filter::Plugin;
use super::snapshot::{PodFacts, Relief};

/// Longest a pod stays parked without being tried again.
pub const PARKED_MAX: Duration = Duration::from_secs(5 * 60);

/// Delay before a pod is tried again after `attempts` failures: 1, 2, 4, 8,
/// 10, 10 ... seconds.
#[must_use]
pub fn back_off(attempts: u32) -> Duration {
    Duration::from_secs((1_u64 << attempts.saturating_sub(1).min(4)).min(10))
}

/// Order of trying: priority, highest first, then time of entering.
type Rank = (Reverse<i32>, Time, Uid);

#[derive(Clone, Debug, PartialEq)]
enum Stage {
    /// To be tried at once.
    Ready,
    /// To be tried at that time, whatever happens.
    BackingOff(Time),
    /// To be tried when something changes that one of these filters cares
    /// about, or at that time. No filters: there was no node.
    Parked { until: Time, plugins: BTreeSet<Plugin> },
    /// Given out; comes back through `failed` or leaves through `remove`.
    Out,
}

#[derive(Clone, Debug)]
struct Entry {
    pod: Arc<PodFacts>,
    entered: Time,
    attempts: u32,
    /// Not to be tried before.
    earliest: Time,
    stage: Stage,
}

/// Pods that wait for a node.
#[derive(Debug, Default)]
pub struct Queue {
    entries: BTreeMap<Uid, Entry>,
    ready: BTreeSet<Rank>,
    /// When the next pod that is not ready becomes so.
    timers: BTreeSet<(Time, Uid)>,
}

impl Queue {
    /// A pod wants a node, or wants something else than before. One that only
    /// changed its status keeps its place.
    pub fn upsert(&mut self, pod: PodFacts, now: Time) {
        let uid = pod.uid.clone();
        let Some(mut entry) = self.take(&uid) else {
            self.put(
                uid,
                Entry {
                    pod: Arc::new(pod),
                    entered: now,
                    attempts: 0,
                    earliest: now,
                    stage: Stage::Ready,
                },
            );
            return;
        };
        if !entry.pod.same_wishes(&pod) {
            entry.stage = match entry.stage {
                Stage::Parked { .. } => awake(entry.earliest, now),
                other => other,
            };
        }
        entry.pod = Arc::new(pod);
        self.put(uid, entry);
    }

    /// A pod wants nothing any more.
    pub fn remove(&mut self, uid: &Uid) {
        self.take(uid);
    }

    /// The pod to try next; it is out until it fails or is removed.
    pub fn pop(&mut self, now: Time) -> Option<Arc<PodFacts>> {
        self.tick(now);
        let (_, _, uid) = self.ready.first()?.clone();
        let mut entry = self.take(&uid)?;
        entry.stage = Stage::Out;
        let pod = Arc::clone(&entry.pod);
        self.put(uid, entry);
        Some(pod)
    }

    /// No node took the pod that was given out: it is parked.
    pub fn unschedulable(&mut self, uid: &Uid, plugins: BTreeSet<Plugin>, now: Time) {
        self.failed(uid, now, |_| Stage::Parked {
            until: now + PARKED_MAX,
            plugins,
        });
    }

    /// The pod that was given out could not be bound: it is tried again after
    /// its back-off.
    pub fn retry(&mut self, uid: &Uid, now: Time) {
        self.failed(uid, now, Stage::BackingOff);
    }

    /// Something changed: pods it could help are tried again, those whose
    /// back-off has not passed once it has.
    pub fn relieve(&mut self, relief: Relief, now: Time) {
        if relief.is_none() {
            return;
        }
        let helped = |entry: &Entry| match &entry.stage {
            Stage::Parked { plugins, .. } if plugins.is_empty() => relief.node_added,
            Stage::Parked { plugins, .. } => plugins.iter().any(|plugin| plugin.relieved_by(relief)),
            Stage::Ready | Stage::BackingOff(_) | Stage::Out => false,
        };
        let uids: Vec<Uid> = self
            .entries
            .iter()
            .filter(|(_, entry)| helped(entry))
            .map(|(uid, _)| uid.clone())
            .collect();
        for uid in uids {
            if let Some(mut entry) = self.take(&uid) {
                entry.stage = awake(entry.earliest, now);
                self.put(uid, entry);
            }
        }
    }

    /// When to call [`pop`](Self::pop) again if nothing happens until then.
    #[must_use]
    pub fn wake_at(&self) -> Option<Time> {
        self.timers.first().map(|(time, _)| *time)
    }

    /// How many pods wait, the ones given out included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no pod waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether that pod waits, or is out.
    #[must_use]
    pub fn contains(&self, uid: &Uid) -> bool {
        self.entries.contains_key(uid)
    }

    /// The pods that wait.
    pub fn uids(&self) -> impl Iterator<Item = &Uid> {
        self.entries.keys()
    }

    fn failed(&mut self, uid: &Uid, now: Time, stage: impl FnOnce(Time) -> Stage) {
        let Some(mut entry) = self.take(uid) else { return };
        entry.attempts = entry.attempts.saturating_add(1);
        entry.earliest = now + back_off(entry.attempts);
        entry.stage = stage(entry.earliest);
        self.put(uid.clone(), entry);
    }

    fn tick(&mut self, now: Time) {
        while let Some((time, uid)) = self.timers.first().cloned() {
            if time > now {
                return;
            }
            let Some(mut entry) = self.take(&uid) else { return };
            entry.stage = Stage::Ready;
            self.put(uid, entry);
        }
    }

    fn take(&mut self, uid: &Uid) -> Option<Entry> {
        let entry = self.entries.remove(uid)?;
        match &entry.stage {
            Stage::Ready => drop(self.ready.remove(&rank(&entry))),
            Stage::BackingOff(time) | Stage::Parked { until: time, .. } => drop(self.timers.remove(&(*time, uid.clone()))),
            Stage::Out => {}
        }
        Some(entry)
    }

    fn put(&mut self, uid: Uid, entry: Entry) {
        match &entry.stage {
            Stage::Ready => drop(self.ready.insert(rank(&entry))),
            Stage::BackingOff(time) | Stage::Parked { until: time, .. } => drop(self.timers.insert((*time, uid.clone()))),
            Stage::Out => {}
        }
        self.entries.insert(uid, entry);
    }
}

fn awake(earliest: Time, now: Time) -> Stage {
    if earliest <= now {
        Stage::Ready
    } else {
        Stage::BackingOff(earliest)
    }
}

fn rank(entry: &Entry) -> Rank {
    (Reverse(entry.pod.priority), entry.entered, entry.pod.uid.clone())
}

#[cfg(test)]
mod tests;
