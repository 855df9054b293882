//! The flight recorder: what happened to the pods of this node and why, kept
//! for people. Nothing is decided by it.
//!
//! Bounded in every direction: entries and bytes per pod, bytes and pods of
//! the node, and the time that pods which are gone are kept. What repeats is
//! folded. [`log`] keeps it over a restart of the agent.

mod log;

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api::{Time, Uid};
use lifecycle::flight::{Change, Outlook, Transition};
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;

/// Entries kept of one pod: the newest.
const POD_ENTRIES: usize = 256;
/// Bytes of them, as JSON.
const POD_BYTES: usize = 64 << 10;
/// Bytes kept of all pods; those gone longest make room first.
const NODE_BYTES: usize = 8 << 20;
/// Pods kept that are gone.
const GONE_PODS: usize = 500;
/// How long these are kept: as long as events.
const GONE_FOR: Duration = Duration::from_secs(3_600);
/// How far back a repetition is looked for.
const FOLD_WITHIN: usize = 6;
/// How long a worker may take to say what it is about to do.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);

/// Asks a pod's worker for its outlook.
pub type Asks = mpsc::Sender<oneshot::Sender<Outlook>>;

/// One entry: a transition, and how often it happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Counts the pod's entries from 1; gaps are entries that made room.
    pub number: u64,
    /// The transition, as it was first.
    #[serde(flatten)]
    pub transition: Transition,
    /// How often it happened.
    #[serde(default = "once", skip_serializing_if = "is_once")]
    pub count: u32,
    /// When it happened last, where that is not the first time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_at: Option<api::typed::MicroTime>,
}

const fn once() -> u32 {
    1
}

#[allow(clippy::trivially_copy_pass_by_ref)] // as serde wants it
const fn is_once(count: &u32) -> bool {
    *count == 1
}

/// Whose flight it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Subject {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub name: String,
    /// Its identity.
    pub uid: Uid,
}

/// Everything recorded of one pod, as the node API serves it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FlightReport {
    /// Whose.
    #[serde(flatten)]
    pub subject: Subject,
    /// When nothing was left of it on the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gone_at: Option<api::typed::MicroTime>,
    /// Entries that made room for newer ones.
    pub dropped: u64,
    /// What is left, oldest first.
    pub transitions: Vec<Entry>,
    /// What is to come; absent when the pod is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outlook: Option<Outlook>,
}

/// All flights of a pod's name, as the node API serves them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FlightList {
    /// `FlightList`.
    pub kind: String,
    /// `lifepod.dev/v1`.
    pub api_version: String,
    /// Newest first.
    pub items: Vec<FlightReport>,
}

#[derive(Debug)]
struct Flight {
    subject: Subject,
    entries: VecDeque<(Entry, usize)>,
    bytes: usize,
    dropped: u64,
    next_number: u64,
    gone_at: Option<Time>,
    /// Numbers of entries that are not in the log, or not as they are now.
    unwritten: Vec<u64>,
    asks: Option<Asks>,
}

impl Flight {
    fn new(subject: Subject) -> Self {
        Self {
            subject,
            entries: VecDeque::new(),
            bytes: 0,
            dropped: 0,
            next_number: 1,
            gone_at: None,
            unwritten: Vec::new(),
            asks: None,
        }
    }

    /// Adds a transition, or counts it with the one it repeats.
    fn add(&mut self, transition: Transition) {
        let at = transition.at;
        let recent = self.entries.iter_mut().rev().take(FOLD_WITHIN);
        if let Some((same, _)) = recent.into_iter().find(|(entry, _)| repeats(&entry.transition, &transition)) {
            same.count = same.count.saturating_add(1);
            same.last_at = Some(at.wire_micro());
            same.transition.change = transition.change;
            let number = same.number;
            self.mark(number);
            return;
        }
        let entry = Entry {
            number: self.next_number,
            transition,
            count: 1,
            last_at: None,
        };
        self.next_number += 1;
        self.mark(entry.number);
        self.push(entry);
    }

    fn mark(&mut self, number: u64) {
        if !self.unwritten.contains(&number) {
            self.unwritten.push(number);
        }
    }

    fn push(&mut self, entry: Entry) {
        let bytes = serde_json::to_vec(&entry).map_or(0, |text| text.len());
        self.bytes += bytes;
        self.entries.push_back((entry, bytes));
        while self.entries.len() > POD_ENTRIES || self.bytes > POD_BYTES {
            let Some((_, bytes)) = self.entries.pop_front() else { break };
            self.bytes -= bytes;
            self.dropped += 1;
        }
    }

    fn report(&self) -> FlightReport {
        FlightReport {
            subject: self.subject.clone(),
            gone_at: self.gone_at.map(Time::wire_micro),
            dropped: self.dropped,
            transitions: self.entries.iter().map(|(entry, _)| entry.clone()).collect(),
            outlook: None,
        }
    }

    fn last_at(&self) -> Option<Time> {
        let (entry, _) = self.entries.back()?;
        Some(entry.last_at.as_ref().map_or(entry.transition.at, |at| at.0.into()))
    }
}

/// Whether a transition says again what another one said. A probe that goes on
/// failing in the same way differs in its count alone.
fn repeats(before: &Transition, now: &Transition) -> bool {
    if (&before.container, before.attempt, &before.because) != (&now.container, now.attempt, &now.because) {
        return false;
    }
    match (&before.change, &now.change) {
        (
            Change::ProbeFailed { probe, output, .. },
            Change::ProbeFailed {
                probe: again,
                output: same,
                failures,
                ..
            },
        ) => probe == again && output == same && *failures > 1,
        (
            Change::Failed { action, error, .. },
            Change::Failed {
                action: again,
                error: same,
                ..
            },
        ) => action == again && error == same,
        (Change::ProbeErrored { .. }, Change::ProbeErrored { .. }) => before.change == now.change,
        _ => false, // states come and go: each time is told
    }
}

#[derive(Debug, Default)]
struct Inner {
    flights: BTreeMap<Uid, Flight>,
    /// Pods that made room: their logs are to go.
    removed: Vec<Uid>,
}

/// The flight recorder of a node. Clones share it.
#[derive(Clone, Debug)]
pub struct FlightRecorder {
    inner: Arc<Mutex<Inner>>,
    news: Arc<Notify>,
}

impl FlightRecorder {
    /// A recorder that keeps its log in `dir`, with what is found there, and
    /// the task that writes it, which ends on `shutdown`.
    ///
    /// A log that cannot be read or written is warned of: pods run without it.
    pub fn open(dir: PathBuf, clock: Arc<dyn Clock>, shutdown: CancellationToken) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let recorder = Self {
            inner: Arc::default(),
            news: Arc::default(),
        };
        match log::read(&dir) {
            Ok(flights) => recorder.lock().flights = flights,
            Err(error) => tracing::warn!(dir = %dir.display(), error = %error, "the flight recorder's log cannot be read; it starts anew"),
        }
        let writing = log::write(recorder.clone(), dir, clock, shutdown);
        (recorder, writing)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        // A panic while it was held cannot have left a half-made entry.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A pod's worker begins, and answers `asks`.
    pub fn begin(&self, subject: Subject, asks: Asks) {
        let mut inner = self.lock();
        let flight = inner.flights.entry(subject.uid.clone()).or_insert_with(|| Flight::new(subject));
        flight.gone_at = None;
        flight.asks = Some(asks);
    }

    /// Takes note of what a step told.
    pub fn record(&self, uid: &Uid, transitions: Vec<Transition>) {
        if transitions.is_empty() {
            return;
        }
        if let Some(flight) = self.lock().flights.get_mut(uid) {
            transitions.into_iter().for_each(|transition| flight.add(transition));
        }
        self.news.notify_one();
    }

    /// Nothing is left of a pod on this node.
    pub fn gone(&self, uid: &Uid, at: Time) {
        let mut inner = self.lock();
        if let Some(flight) = inner.flights.get_mut(uid) {
            flight.gone_at = Some(at);
            flight.asks = None;
            flight.mark(0);
        }
        inner.make_room(at);
        drop(inner);
        self.news.notify_one();
    }

    /// Everything recorded of the pods of a name, newest first.
    pub async fn find(&self, namespace: &str, name: &str) -> FlightList {
        let mut found: Vec<(FlightReport, Option<Asks>)> = {
            let inner = self.lock();
            let named = inner
                .flights
                .values()
                .filter(|flight| flight.subject.namespace == namespace && flight.subject.name == name);
            named.map(|flight| (flight.report(), flight.asks.clone())).collect()
        };
        let began = |report: &FlightReport| report.transitions.first().map(|entry| entry.transition.at);
        found.sort_by_key(|(report, asks)| std::cmp::Reverse((asks.is_some(), began(report))));
        let mut items = Vec::new();
        for (mut report, asks) in found {
            if let Some(asks) = asks {
                report.outlook = ask(&asks).await;
            }
            items.push(report);
        }
        FlightList {
            kind: "FlightList".to_owned(),
            api_version: "lifepod.dev/v1".to_owned(),
            items,
        }
    }
}

/// The worker's outlook; `None` when it does not answer in time.
async fn ask(asks: &Asks) -> Option<Outlook> {
    let (answer, answered) = oneshot::channel();
    let asking = async {
        asks.send(answer).await.ok()?;
        answered.await.ok()
    };
    tokio::time::timeout(ASK_TIMEOUT, asking).await.ok()?
}

impl Inner {
    /// Lets go of pods that have been gone for long, or longest.
    fn make_room(&mut self, now: Time) {
        let mut gone: Vec<(Time, Uid)> = self
            .flights
            .iter()
            .filter_map(|(uid, flight)| Some((flight.gone_at?, uid.clone())))
            .collect();
        gone.sort();
        let mut bytes: usize = self.flights.values().map(|flight| flight.bytes).sum();
        let mut left = gone.len();
        for (gone_at, uid) in gone {
            if now.since(gone_at) < GONE_FOR && left <= GONE_PODS && bytes <= NODE_BYTES {
                break;
            }
            left -= 1;
            bytes -= self.flights.remove(&uid).map_or(0, |flight| flight.bytes);
            self.removed.push(uid);
        }
    }
}

#[cfg(test)]
mod tests;
