//! The driver around one pod's state machine: one task per UID.
//!
//! Inputs in, actions out; everything that is decided is decided by
//! [`lifecycle::Machine`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::typed::{ObjectReference, Pod};
use api::{Time, Uid};
use client::{RecordedEvent, Recorder};
use lifecycle::{Action, ActionId, Desired, EventType, Eviction, Failure, FailureClass, Input, Machine, PodEvent, Step, Verb};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::execute::{Ports, Subject, execute};
use crate::flight;
use crate::status_writer::StatusWriter;
use crate::storage;
use crate::volumes::{MountError, Scope};

/// Hints may be lost: a pod is looked at this often in any case.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Delay before a runtime that does not answer is asked again, and how many
/// times between two tellings: upstream asks, and tells, every ten seconds.
const OBSERVE_RETRY: Duration = Duration::from_millis(500);
const TELL_EVERY: u32 = 20;
/// People who ask what is to come, at a time.
const ASKS: usize = 4;
/// Unfinished actions' reports waiting to be read.
const PROGRESS_QUEUE: usize = 16;

/// What a pod should be, with the object it was read from.
#[derive(Clone)]
pub struct Wanted {
    /// For the machine.
    pub desired: Desired,
    /// For its actions; `None` when only the runtime knows the pod.
    pub pod: Option<Arc<Pod>>,
}

/// What reaches a worker from the kubelet.
pub struct Mailbox {
    /// The latest desired state.
    pub wanted: watch::Receiver<Wanted>,
    /// The pod changed in the runtime.
    pub hints: watch::Receiver<u64>,
    /// Something the pod takes its content from changed.
    pub sources: watch::Receiver<u64>,
}

enum Ended {
    Action(ActionId, Input),
    Observed(Input),
    /// The runtime did not answer; it is asked again after a while.
    NotObserved(String),
    /// The content of volumes was looked at.
    Refreshed(Vec<MountError>),
    /// So were their sizes.
    Measured(Option<Eviction>),
}

/// The state of one worker task.
pub struct PodWorker {
    uid: Uid,
    ports: Ports,
    recorder: Recorder,
    status: StatusWriter,
    running: JoinSet<Ended>,
    /// Which task runs which action, to cancel and to account for it.
    actions: BTreeMap<ActionId, AbortHandle>,
    tasks: std::collections::HashMap<Id, ActionId>,
    /// An observation is under way; another one would see the same.
    observing: bool,
    /// How many times in a row the runtime did not answer.
    unanswered: u32,
    progress: (mpsc::Sender<Input>, mpsc::Receiver<Input>),
    /// When the content of the pod's volumes is to be looked at.
    refresh_at: Time,
    /// That, or the measuring of volumes, is under way.
    refreshing: bool,
    measuring: bool,
}

impl PodWorker {
    /// Runs a pod from its first input until nothing of it is left, or until
    /// `shutdown`, which leaves its containers running.
    pub async fn run(uid: Uid, ports: Ports, recorder: Recorder, mut mailbox: Mailbox, shutdown: CancellationToken) -> Uid {
        let wanted = mailbox.wanted.borrow_and_update().clone();
        let Desired { namespace, name, .. } = &wanted.desired;
        let gone = shutdown.child_token();
        let (status, writer) = StatusWriter::new(ports.client.clone(), namespace.clone(), name.clone(), uid.clone(), gone.clone());
        let mut writers = JoinSet::new();
        writers.spawn(writer);
        let mut worker = Self {
            uid: uid.clone(),
            ports,
            recorder,
            status,
            running: JoinSet::new(),
            actions: BTreeMap::new(),
            tasks: std::collections::HashMap::new(),
            observing: false,
            unanswered: 0,
            progress: mpsc::channel(PROGRESS_QUEUE),
            refresh_at: Time::FAR_FUTURE,
            refreshing: false,
            measuring: false,
        };
        worker.drive(wanted, &mut mailbox, &shutdown).await;
        gone.cancel();
        while writers.join_next().await.is_some() {}
        uid
    }

    async fn drive(&mut self, mut wanted: Wanted, mailbox: &mut Mailbox, shutdown: &CancellationToken) {
        let last = wanted.pod.as_ref().and_then(|pod| pod.status.clone());
        let seed = self
            .uid
            .as_str()
            .bytes()
            .fold(0_u64, |hash, byte| hash.wrapping_mul(31).wrapping_add(byte.into()));
        let mut machine = Machine::new(wanted.desired.clone(), last, seed);
        let mut wake_at = Time::FAR_FUTURE;
        let mut look = tokio::time::interval_at(tokio::time::Instant::now() + LOOK_EVERY, LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (asks, mut asked) = mpsc::channel(ASKS);
        let (namespace, name) = (wanted.desired.namespace.clone(), wanted.desired.name.clone());
        let uid = self.uid.clone();
        self.ports.flights.begin(flight::Subject { namespace, name, uid }, asks);
        self.observe();
        loop {
            let clock = self.ports.clock.clone();
            // What an action reported on its way comes before its end.
            let mut reported = Vec::new();
            let input = tokio::select! {
                changed = mailbox.wanted.changed() => {
                    if changed.is_err() { return }
                    let before = std::mem::replace(&mut wanted, mailbox.wanted.borrow_and_update().clone());
                    if shown(&before) != shown(&wanted) {
                        self.poke();
                    }
                    Input::Desired(Box::new(wanted.desired.clone()))
                }
                Some(ended) = self.running.join_next_with_id() => match self.ended(ended, &mut wanted) {
                    Some(input) => {
                        reported.extend(std::iter::from_fn(|| self.progress.1.try_recv().ok()));
                        input
                    }
                    None => continue,
                },
                Some(progress) = self.progress.1.recv() => progress,
                Ok(()) = mailbox.hints.changed() => {
                    mailbox.hints.borrow_and_update();
                    self.observe();
                    continue;
                }
                Some(answer) = asked.recv() => {
                    // Who asked may have given up waiting.
                    let _ = answer.send(machine.outlook(self.ports.clock.now()));
                    continue;
                }
                Ok(()) = mailbox.sources.changed() => {
                    mailbox.sources.borrow_and_update();
                    self.poke();
                    Input::SourcesChanged
                }
                _ = look.tick() => {
                    self.observe();
                    self.measure(&wanted);
                    continue;
                }
                () = clock.sleep_until(self.refresh_at) => {
                    self.refresh(&wanted);
                    continue;
                }
                () = clock.sleep_until(wake_at) => Input::Tick,
                () = shutdown.cancelled() => return,
            };
            for input in reported.into_iter().chain([input]) {
                let step = machine.step(self.ports.clock.now(), input);
                wake_at = step.wake_at.unwrap_or(Time::FAR_FUTURE);
                if self.follow(step, &wanted) {
                    // Of a pod that stops with its node this is the last word.
                    self.status.flush().await;
                    return;
                }
            }
        }
    }

    /// Does what a step says. True when the pod is finished.
    fn follow(&mut self, step: Step, wanted: &Wanted) -> bool {
        self.ports.flights.record(&self.uid, step.transitions);
        if let Some(status) = step.status {
            self.status.offer(status);
        }
        for event in step.events {
            self.record(&event, wanted);
        }
        for action in step.actions {
            self.start(action, wanted);
        }
        step.finished
    }

    fn start(&mut self, action: Action, wanted: &Wanted) {
        if let Verb::Cancel(id) = action.verb {
            if let Some(handle) = self.actions.get(&id) {
                handle.abort();
            }
            return;
        }
        tracing::debug!(uid = %self.uid, target = %action.target, action = %action.verb, because = %action.because, "start");
        let id = action.id;
        let subject = Subject {
            uid: self.uid.clone(),
            pod: wanted.pod.clone(),
        };
        let effect = execute(self.ports.clone(), subject, action, self.status.clone(), self.progress.0.clone());
        let handle = self.running.spawn(async move { Ended::Action(id, effect.await) });
        self.tasks.insert(handle.id(), id);
        self.actions.insert(id, handle);
    }

    /// Looks at the pod; after [`OBSERVE_RETRY`] if the runtime did not answer
    /// the last time.
    fn observe(&mut self) {
        if std::mem::replace(&mut self.observing, true) {
            return;
        }
        let (ports, uid) = (self.ports.clone(), self.uid.clone());
        let wait = if self.unanswered > 0 { OBSERVE_RETRY } else { Duration::ZERO };
        self.running.spawn(async move {
            tokio::time::sleep(wait).await;
            match ports.observe(&uid).await {
                Ok(observation) => Ended::Observed(Input::Observed(observation)),
                Err(error) => {
                    tracing::warn!(uid = %uid, error = %error, "the runtime cannot be asked");
                    Ended::NotObserved(error.to_string())
                }
            }
        });
    }

    /// Something the pod's volumes carry may have changed.
    fn poke(&mut self) {
        self.ports.volumes.poke(&self.uid, self.ports.clock.now());
        self.refresh_at = self.refresh_due();
    }

    /// Never while it is under way: its end asks again.
    fn refresh_due(&self) -> Time {
        if self.refreshing {
            return Time::FAR_FUTURE;
        }
        self.ports.volumes.due(&self.uid)
    }

    /// Brings the content of the pod's volumes up to date.
    fn refresh(&mut self, wanted: &Wanted) {
        self.refresh_at = Time::FAR_FUTURE;
        let Some(pod) = wanted.pod.clone() else { return };
        self.refreshing = true;
        let (ports, uid) = (self.ports.clone(), self.uid.clone());
        self.running.spawn(async move {
            let done = ports.volumes.set_up(&ports, &uid, &pod, Scope::Content).await;
            Ended::Refreshed(done.err().unwrap_or_default())
        });
    }

    /// Looks whether a volume holds more than it may.
    fn measure(&mut self, wanted: &Wanted) {
        let Some(pod) = wanted.pod.clone().filter(|_| wanted.desired.eviction.is_none()) else {
            return;
        };
        if std::mem::replace(&mut self.measuring, true) {
            return;
        }
        let (ports, uid) = (self.ports.clone(), self.uid.clone());
        self.running
            .spawn(async move { Ended::Measured(storage::exceeding(&ports, &uid, &pod).await) });
    }

    /// Accounts for a task that has ended; what the machine is to know of it.
    fn ended(&mut self, ended: Result<(Id, Ended), JoinError>, wanted: &mut Wanted) -> Option<Input> {
        let input = match ended {
            Ok((_, Ended::Refreshed(errors))) => {
                self.refreshing = false;
                self.refresh_at = self.refresh_due();
                for error in errors {
                    self.record(&failed_mount(&error), wanted);
                }
                return None;
            }
            Ok((_, Ended::Measured(eviction))) => {
                self.measuring = false;
                wanted.desired.eviction = Some(eviction?);
                return Some(Input::Desired(Box::new(wanted.desired.clone())));
            }
            Ok((_, Ended::Observed(input))) => {
                (self.observing, self.unanswered) = (false, 0);
                input
            }
            Ok((_, Ended::NotObserved(error))) => {
                if self.unanswered.is_multiple_of(TELL_EVERY) {
                    self.record(&failed_sync(&error), wanted);
                }
                (self.observing, self.unanswered) = (false, self.unanswered.saturating_add(1));
                self.observe();
                return None;
            }
            Ok((task, Ended::Action(id, input))) => {
                self.tasks.remove(&task);
                self.actions.remove(&id);
                self.refresh_at = self.refresh_due();
                input
            }
            Err(error) => {
                let Some(id) = self.tasks.remove(&error.id()) else {
                    // A task that only looks panicked: look again.
                    tracing::error!(uid = %self.uid, error = %error, "an observation failed");
                    (self.observing, self.refreshing, self.measuring) = (false, false, false);
                    return Some(Input::Tick);
                };
                self.actions.remove(&id);
                let failure = if error.is_cancelled() {
                    Failure::new(FailureClass::Cancelled, "cancelled")
                } else {
                    tracing::error!(uid = %self.uid, error = %error, "an action panicked");
                    Failure::new(FailureClass::Unavailable, "internal error: the action panicked")
                };
                // What it left is seen by the observation that follows.
                self.observe();
                Input::Done {
                    id,
                    result: Err(failure),
                    after: None,
                }
            }
        };
        Some(input)
    }

    fn record(&self, event: &PodEvent, wanted: &Wanted) {
        let Some(pod) = &wanted.pod else { return };
        self.recorder.record(RecordedEvent {
            involved: reference(pod, event.field_path.clone()),
            kind: match event.event_type {
                EventType::Normal => "Normal",
                EventType::Warning => "Warning",
            },
            reason: event.reason.clone(),
            message: event.message.clone(),
            at: self.ports.clock.now(),
        });
    }
}

/// What of a pod its volumes show, and may change.
fn shown(wanted: &Wanted) -> [Option<&BTreeMap<String, String>>; 2] {
    let meta = wanted.pod.as_ref().map(|pod| &pod.metadata);
    [
        meta.and_then(|meta| meta.labels.as_ref()),
        meta.and_then(|meta| meta.annotations.as_ref()),
    ]
}

/// Source: upstream `pod_workers.go`, `podWorkerLoop`.
fn failed_sync(error: &str) -> PodEvent {
    PodEvent {
        event_type: EventType::Warning,
        reason: "FailedSync".to_owned(),
        message: format!("error determining status: {error}"),
        field_path: None,
    }
}

fn failed_mount(error: &MountError) -> PodEvent {
    PodEvent {
        event_type: EventType::Warning,
        reason: "FailedMount".to_owned(),
        message: error.to_string(),
        field_path: None,
    }
}

/// How an event names its pod.
#[must_use]
pub fn reference(pod: &Pod, field_path: Option<String>) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        resource_version: pod.metadata.resource_version.clone(),
        field_path,
    }
}
