//! What happened to a pod and why, as data: the flight recorder's entries.
//!
//! [`Flight`] stands beside the machine and only listens: it compares what a
//! step was told with what was known before, and what it decided with what was
//! shown before. It changes no decision, and what it holds may be lost at any
//! moment. [`outlook`] says what happens next, and when.

pub mod outlook;
mod transition;
mod words;

use std::collections::BTreeMap;

use crate::action::{ActionId, Reason, Step, Target, Verb};
use crate::input::{Desired, Failure, Hook, Input, Outcome, ProbeKind, Probed, Pulled};
use crate::machine::{Machine, Stage};
use crate::memory::Ending;
use crate::plan::{hooks, probes};
use api::Time;
use api::node::{ContainerId, ContainerView, Exit, ExitCause, Observation, RunState};
use api::typed::{ContainerStatus, PodStatus};

pub use self::outlook::{ContainerOutlook, Next, Outlook};
pub use self::transition::{Cause, Change, Transition};

/// Most of a probe's, hook's or runtime's text that is kept.
const TEXT_MAX_BYTES: usize = 1_024;

/// What the listener remembers from step to step.
#[derive(Clone, Debug, Default)]
pub(crate) struct Flight {
    told: Vec<Transition>,
    /// Entries of `told` that wait for the instant of their retry.
    retried: Vec<(usize, Target)>,
    /// A probe attempt that has just ended, and the result in force before.
    probed: Option<(String, ProbeKind, Option<bool>)>,
    phase: Option<String>,
    ready: Option<bool>,
    waiting: BTreeMap<String, String>,
    stage: Option<Stage>,
    /// Attempts that were told to stop, and why.
    stops: BTreeMap<ContainerId, Cause>,
    /// Why the newest attempt of a container was asked for.
    made: BTreeMap<String, Cause>,
    /// What a probe's last failure said.
    outputs: BTreeMap<(String, ProbeKind), String>,
}

impl Flight {
    /// Listens to an input that has not been absorbed yet.
    pub(crate) fn hear(&mut self, machine: &Machine, now: Time, input: &Input) {
        match input {
            Input::Desired(desired) => self.wanted(machine.desired(), now, desired),
            Input::Observed(seen) => self.seen(machine, now, seen),
            Input::Done { id, result, after } => {
                self.done(machine, now, *id, result);
                if let Some(seen) = after {
                    self.seen(machine, now, seen);
                }
            }
            Input::Progress { .. } | Input::SourcesChanged | Input::Tick => {}
        }
    }

    /// Looks at what was decided, and hands out what there is to tell.
    pub(crate) fn see(&mut self, machine: &Machine, now: Time, step: &mut Step) {
        for (index, target) in std::mem::take(&mut self.retried) {
            let at = machine.retry_at(&target);
            if let Some(Transition {
                change: Change::Failed { retry_at, .. },
                ..
            }) = self.told.get_mut(index)
            {
                *retry_at = at;
            }
        }
        if let Some((name, kind, before)) = self.probed.take() {
            let result = machine.memory().probes.get(&(name.clone(), kind)).and_then(|record| record.result);
            if let Some(well) = result.filter(|_| result != before) {
                let probe = kind.as_str().to_owned();
                self.tell(now, Some(&name), None, Change::ProbeTurned { probe, well }, None);
            }
        }
        let before = self.stage.replace(machine.stage()).unwrap_or(Stage::Sync);
        if before != machine.stage() {
            if before == Stage::Sync {
                self.tell(
                    now,
                    None,
                    None,
                    Change::Terminating,
                    machine.memory().ending.map(|ending| ended(machine, ending)),
                );
            }
            if machine.stage() == Stage::Terminated {
                self.tell(now, None, None, Change::Terminated, None);
            }
        }
        for action in &step.actions {
            self.acted(machine, now, &action.target, &action.verb, &action.because);
        }
        if let Some(status) = &step.status {
            self.shown(now, status);
        }
        step.transitions.append(&mut self.told);
    }

    fn tell(&mut self, at: Time, container: Option<&str>, attempt: Option<u32>, change: Change, because: Option<Cause>) {
        self.told.push(Transition {
            at,
            container: container.map(str::to_owned),
            attempt,
            change,
            because,
        });
    }

    fn wanted(&mut self, old: &Desired, now: Time, new: &Desired) {
        if let Some(deletion) = new.deletion
            && old.deletion.is_none_or(|before| before.grace != deletion.grace)
        {
            let grace_s = deletion.grace.as_secs();
            let by = new.deleted_by.clone();
            self.tell(now, None, None, Change::Deleting { grace_s }, Some(Cause::Deletion { by }));
        }
        if let Some(eviction) = new.eviction.as_ref().filter(|_| old.eviction.is_none()) {
            let (reason, message) = (eviction.reason.clone(), cut(&eviction.message));
            self.tell(now, None, None, Change::Evicting { reason, message }, None);
        }
        if new.gone && !old.gone {
            self.tell(now, None, None, Change::Vanished, None);
        }
        if new.generation != old.generation && new.deletion == old.deletion {
            let generation = new.generation;
            self.tell(now, None, None, Change::Respecified { generation }, None);
        }
    }

    fn seen(&mut self, machine: &Machine, now: Time, new: &Observation) {
        let Some(old) = machine.observed() else {
            self.first_seen(machine, now, new);
            return;
        };
        if old.sequence >= new.sequence {
            return;
        }
        match (&old.sandbox, &new.sandbox) {
            (before, Some(sandbox)) if before.as_ref().map(|b| (b.attempt, b.ready)) != Some((sandbox.attempt, sandbox.ready)) => {
                let change = Change::Sandbox {
                    sandbox_attempt: sandbox.attempt,
                    ready: sandbox.ready,
                };
                self.tell(now, None, None, change, None);
            }
            _ => {} // nothing new, or forgotten with the pod
        }
        for view in &new.containers {
            let before = old.containers.iter().find(|other| other.id == view.id).map(|other| &other.state);
            if before != Some(&view.state) {
                self.moved(machine, now, before, view);
            }
        }
        self.stops.retain(|id, _| new.containers.iter().any(|view| view.id == *id));
    }

    /// What is here already when the agent first looks is no news, except what
    /// the API does not know yet.
    fn first_seen(&mut self, machine: &Machine, now: Time, new: &Observation) {
        if let Some(rejection) = &machine.desired().rejection {
            let (reason, message) = (rejection.reason.clone(), cut(&rejection.message));
            self.tell(now, None, None, Change::Refused { reason, message }, None);
        }
        if new.sandbox.is_none() && new.containers.is_empty() {
            return;
        }
        self.tell(now, None, None, Change::TakenOver, None);
        let Some(status) = machine.status() else { return };
        self.phase.clone_from(&status.phase);
        self.ready = Some(ready(status).is_some_and(|(ready, _)| ready));
        let all = statuses(status);
        for shown in all {
            let runs = shown.state.as_ref().is_some_and(|state| state.running.is_some());
            let view = new
                .containers
                .iter()
                .filter(|view| view.name == shown.name)
                .max_by_key(|view| view.attempt);
            if let Some(view) = view.filter(|view| runs && matches!(view.state, RunState::Exited(_))) {
                self.moved(machine, now, Some(&RunState::Created), view);
            }
        }
    }

    fn moved(&mut self, machine: &Machine, now: Time, before: Option<&RunState>, view: &ContainerView) {
        let (name, attempt) = (Some(view.name.as_str()), Some(view.attempt));
        if before.is_none() {
            let because = self.made.remove(&view.name);
            self.tell(now, name, attempt, Change::Created, because);
        }
        match &view.state {
            RunState::Created => {}
            RunState::Running { started_at } => self.tell(*started_at, name, attempt, Change::Running, None),
            RunState::Exited(exit) => {
                let because = self.exit_cause(machine, view, exit);
                let change = Change::Exited {
                    code: exit.code,
                    signal: Some(exit.code - 128).filter(|signal| (1..=64).contains(signal)),
                    ran_s: exit.started_at.map(|from| exit.finished_at.since(from).as_secs_f64()),
                    message: cut(&exit.message),
                };
                self.tell(exit.finished_at, name, attempt, change, Some(because));
            }
        }
    }

    fn exit_cause(&self, machine: &Machine, view: &ContainerView, exit: &Exit) -> Cause {
        match exit.cause {
            ExitCause::OutOfMemory => Cause::OutOfMemory,
            ExitCause::StartError => Cause::NotStarted,
            ExitCause::Lost => Cause::Lost,
            ExitCause::Process => {
                // After a restart of the agent only the notes tell.
                let noted = || probes::noted(view).map(|kind| self.probe_cause(view, kind));
                let why = self.stops.get(&view.id).cloned().or_else(noted);
                let deleted = || {
                    machine
                        .desired()
                        .deletion
                        .filter(|_| exit.code == 137)
                        .map(|_| deletion(machine.desired()))
                };
                match why.or_else(deleted) {
                    Some(why) => Cause::Stopped {
                        why: Box::new(why),
                        killed: exit.code == 137,
                    },
                    None => Cause::Itself,
                }
            }
        }
    }

    fn probe_cause(&self, view: &ContainerView, kind: ProbeKind) -> Cause {
        Cause::Probe {
            probe: kind.as_str().to_owned(),
            output: self.outputs.get(&(view.name.clone(), kind)).cloned().unwrap_or_default(),
        }
    }

    fn done(&mut self, machine: &Machine, now: Time, id: ActionId, result: &Result<Outcome, Failure>) {
        let Some(flight) = machine.hands().0.get(&id).filter(|flight| !flight.cancelled) else {
            return;
        };
        let (Target::Container(name) | Target::Probe(name, _)) = &flight.target else {
            self.not_done(now, &flight.target, &flight.verb, result);
            return;
        };
        match (&flight.verb, result) {
            (Verb::Probe { id, kind, .. }, Ok(Outcome::Probed(probed))) => self.probe_ended(machine, now, name, id, *kind, probed),
            (Verb::RunHook { hook, .. }, _) => {
                let change = Change::HookEnded {
                    hook: hook.as_str().to_owned(),
                    took_s: now.since(flight.since).as_secs_f64(),
                    error: result.as_ref().err().map(|failure| cut(&failure.message)),
                };
                self.tell(now, Some(name), None, change, None);
            }
            (Verb::Pull { image, .. }, Ok(Outcome::Pulled(Pulled::Fetched { took, size_bytes, .. }))) => {
                let change = Change::Pulled {
                    image: image.clone(),
                    took_s: took.as_secs_f64(),
                    size_bytes: *size_bytes,
                };
                self.tell(now, Some(name), None, change, None);
            }
            (verb, _) => self.not_done(now, &flight.target, verb, result),
        }
    }

    fn not_done(&mut self, now: Time, target: &Target, verb: &Verb, result: &Result<Outcome, Failure>) {
        let Err(failure) = result else { return };
        let container = match target {
            Target::Container(name) | Target::Probe(name, _) => Some(name.as_str()),
            Target::Volumes | Target::Sandbox | Target::Attempt(_) | Target::Api => None,
        };
        let change = Change::Failed {
            action: verb.to_string(),
            error: cut(&failure.message),
            retry_at: None,
        };
        self.retried.push((self.told.len(), target.clone()));
        self.tell(now, container, None, change, None);
    }

    fn probe_ended(&mut self, machine: &Machine, now: Time, name: &str, id: &ContainerId, kind: ProbeKind, probed: &Probed) {
        let probe = kind.as_str().to_owned();
        let record = machine
            .memory()
            .probes
            .get(&(name.to_owned(), kind))
            .filter(|record| record.id == *id);
        self.probed = Some((name.to_owned(), kind, record.and_then(|record| record.result)));
        let change = match probed {
            Probed::Success | Probed::Warning(_) => return,
            Probed::Failure(output) => {
                let output = cut(output);
                self.outputs.insert((name.to_owned(), kind), output.clone());
                Change::ProbeFailed {
                    probe,
                    output,
                    failures: record.map_or(1, |record| record.failures_in_a_row() + 1),
                    threshold: machine.threshold(name, kind),
                }
            }
            Probed::Error(error) => Change::ProbeErrored { probe, error: cut(error) },
        };
        self.tell(now, Some(name), None, change, None);
    }

    fn acted(&mut self, machine: &Machine, now: Time, target: &Target, verb: &Verb, reason: &Reason) {
        let name = match target {
            Target::Container(name) => Some(name.as_str()),
            _ => None, // nothing below is about one
        };
        let view = |id: &ContainerId| {
            let all = machine.observed().map(|seen| seen.containers.as_slice()).unwrap_or_default();
            all.iter().find(|view| view.id == *id)
        };
        match verb {
            Verb::Create { .. } => {
                if let (Some(name), Some(cause)) = (name, self.cause(machine, None, reason)) {
                    self.made.insert(name.to_owned(), cause);
                }
            }
            Verb::RunSandbox { attempt } if *reason == Reason::SandboxChanged => {
                let change = Change::Sandbox {
                    sandbox_attempt: attempt.saturating_sub(1),
                    ready: false,
                };
                self.tell(now, None, None, change, Some(Cause::SandboxLost));
            }
            Verb::RunHook { id, hook, limit, .. } => {
                let view = view(id);
                let cause = self.cause(machine, view, reason).filter(|_| *hook == Hook::PreStop);
                if let Some(cause) = &cause {
                    self.stops.entry(id.clone()).or_insert_with(|| cause.clone());
                }
                let change = Change::HookBegan {
                    hook: hook.as_str().to_owned(),
                    limit_s: limit.as_secs_f64(),
                };
                self.tell(now, name, view.map(|view| view.attempt), change, cause);
            }
            Verb::Stop { id, signal, grace } => {
                let view = view(id);
                let cause = self.cause(machine, view, reason);
                if let Some(cause) = cause.as_ref().filter(|cause| **cause != Cause::GraceShortened) {
                    self.stops.insert(id.clone(), cause.clone());
                }
                let change = Change::Stopping {
                    signal: *signal,
                    grace_s: grace.as_secs_f64(),
                };
                let name = name.or(view.map(|view| view.name.as_str()));
                self.tell(now, name, view.map(|view| view.attempt), change, cause);
            }
            _ => {} // seen in what is observed, or of no interest to a user
        }
    }

    fn cause(&self, machine: &Machine, view: Option<&ContainerView>, reason: &Reason) -> Option<Cause> {
        let memory = machine.memory();
        Some(match reason {
            Reason::NeverStarted | Reason::Created => Cause::ItsTurn,
            Reason::Exited(code) => Cause::Restart { code: *code },
            Reason::SandboxChanged => Cause::SandboxLost,
            Reason::DefinitionChanged => Cause::ImageChanged,
            Reason::Resized => Cause::Resized,
            Reason::HookFailed => Cause::Hook {
                error: cut(view.and_then(|view| hooks::noted_error(view)).unwrap_or_default()),
            },
            Reason::ProbeFailed => {
                let view = view?;
                self.probe_cause(view, probes::noted(view).unwrap_or(ProbeKind::Liveness))
            }
            Reason::Superseded => Cause::Superseded,
            Reason::GraceShortened => Cause::GraceShortened,
            Reason::Gone => Cause::Vanished,
            Reason::Deleted => deletion(machine.desired()),
            Reason::Evicted => ended(machine, Ending::Evicted),
            Reason::NodeShutdown => ended(machine, Ending::Drained),
            Reason::DeadlineExceeded => ended(machine, Ending::DeadlineExceeded),
            Reason::Finished => ended(machine, memory.ending.unwrap_or(Ending::Finished)),
            Reason::NotMounted | Reason::NoSandbox | Reason::Started | Reason::Due | Reason::Durable => return None,
        })
    }

    fn shown(&mut self, now: Time, status: &PodStatus) {
        if self.phase != status.phase {
            let first = self.phase.is_none() && status.phase.as_deref() == Some("Pending");
            self.phase.clone_from(&status.phase);
            if !first {
                let change = Change::Phase {
                    phase: status.phase.clone().unwrap_or_default(),
                    reason: status.reason.clone().unwrap_or_default(),
                };
                self.tell(now, None, None, change, None);
            }
        }
        if let Some((ready, message)) = ready(status)
            && self.ready.replace(ready).unwrap_or(false) != ready
        {
            let message = if ready { String::new() } else { cut(message) };
            self.tell(now, None, None, Change::Ready { ready, message }, None);
        }
        let all = statuses(status);
        for container in all {
            let waiting = container.state.as_ref().and_then(|state| state.waiting.as_ref());
            let reason = waiting.and_then(|waiting| waiting.reason.as_deref()).unwrap_or_default();
            let usual = matches!(reason, "" | "ContainerCreating" | "PodInitializing");
            if self.waiting.get(&container.name).is_some_and(|before| before == reason) {
                continue;
            }
            self.waiting.insert(container.name.clone(), reason.to_owned());
            if !usual {
                let message = waiting.and_then(|waiting| waiting.message.as_deref()).unwrap_or_default();
                let change = Change::Waiting {
                    reason: reason.to_owned(),
                    message: cut(message),
                };
                self.tell(now, Some(&container.name), None, change, None);
            }
        }
    }
}

fn deletion(desired: &Desired) -> Cause {
    Cause::Deletion {
        by: desired.deleted_by.clone(),
    }
}

fn ended(machine: &Machine, ending: Ending) -> Cause {
    let desired = machine.desired();
    match ending {
        Ending::Deleted => deletion(desired),
        Ending::Gone => Cause::Vanished,
        Ending::Rejected => Cause::Refusal,
        Ending::Evicted => Cause::Eviction {
            message: cut(desired
                .eviction
                .as_ref()
                .map(|eviction| eviction.message.as_str())
                .unwrap_or_default()),
        },
        Ending::Drained => Cause::Eviction {
            message: "the node is being shut down".to_owned(),
        },
        Ending::DeadlineExceeded => Cause::Deadline {
            after_s: desired.active_deadline.unwrap_or_default().as_secs(),
        },
        Ending::Finished => Cause::Finished,
    }
}

/// The statuses of every container.
fn statuses(status: &PodStatus) -> impl Iterator<Item = &ContainerStatus> {
    let lists = [
        &status.init_container_statuses,
        &status.container_statuses,
        &status.ephemeral_container_statuses,
    ];
    lists.into_iter().flatten().flatten()
}

fn ready(status: &PodStatus) -> Option<(bool, &str)> {
    let condition = status.conditions.iter().flatten().find(|condition| condition.type_ == "Ready")?;
    Some((condition.status == "True", condition.message.as_deref().unwrap_or_default()))
}

fn cut(text: &str) -> String {
    hooks::cut(text.trim_end(), TEXT_MAX_BYTES).to_owned()
}
