//! What must hold after every step, whatever the code says.
//!
//! The laws of the state machine, and what users may rely on, written down a
//! second time from the specification and not from the machine.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use api::Time;
use api::node::{ContainerId, ContainerView, Exit, Observation, RunState, Uid};
use api::typed::{ContainerStatus, Pod, PodStatus};
use lifecycle::{ActionId, Hook, Input, Machine, ProbeKind, Stage, Step, Target, Verb};

use crate::runtime::Held;

/// What does not hold.
pub type Broken = String;

/// What has been seen of one pod.
#[derive(Clone, Debug, Default)]
struct Record {
    in_flight: BTreeMap<ActionId, Target>,
    cancelled: BTreeSet<ActionId>,
    /// Delay in force once that attempt has died, in seconds.
    delays: BTreeMap<(String, u32), u64>,
    /// When a deletion was asked for, and its grace; the last that counted.
    deletion: Option<(Time, Duration)>,
}

/// Watches every pod of a world.
#[derive(Clone, Debug, Default)]
pub struct Checker {
    records: BTreeMap<Uid, Record>,
}

fn ensure(holds: bool, what: impl FnOnce() -> String) -> Result<(), Broken> {
    if holds { Ok(()) } else { Err(what()) }
}

impl Checker {
    /// A new machine has no action in flight.
    pub fn adopted(&mut self, uid: &Uid) {
        let record = self.records.entry(uid.clone()).or_default();
        record.in_flight.clear();
        record.cancelled.clear();
    }

    /// An action has ended.
    pub fn ended(&mut self, uid: &Uid, id: ActionId) {
        self.records.entry(uid.clone()).or_default().in_flight.remove(&id);
    }

    /// Whether an action was cancelled.
    #[must_use]
    pub fn cancelled(&self, uid: &Uid, id: ActionId) -> bool {
        self.records.get(uid).is_some_and(|r| r.cancelled.contains(&id))
    }

    /// A user asked for a deletion.
    pub fn deletion_asked(&mut self, now: Time, uid: &Uid, grace_s: u64) {
        let record = self.records.entry(uid.clone()).or_default();
        let grace = Duration::from_secs(grace_s);
        match record.deletion {
            Some((_, before)) if grace >= before => {}
            Some((at, _)) => record.deletion = Some((at, grace)),
            None => record.deletion = Some((now, grace)),
        }
    }

    /// The laws, after a step.
    pub fn step(
        &mut self,
        now: Time,
        uid: &Uid,
        before: Stage,
        after: &Machine,
        step: &Step,
        seen: Option<&Observation>,
    ) -> Result<(), Broken> {
        ensure(before <= after.stage(), || {
            format!("stage went back from {before:?} to {:?}", after.stage())
        })?;
        ensure(step.wake_at.is_none_or(|at| at > now), || {
            "asks to be woken at once: that would spin".to_owned()
        })?;
        self.one_hand_per_target(uid, step)?;
        if after.stage() > Stage::Sync {
            let late = step.actions.iter().find(|a| {
                matches!(
                    a.verb,
                    Verb::Create { .. } | Verb::Start { .. } | Verb::RunSandbox { .. } | Verb::Pull { .. } | Verb::MountVolumes
                )
            });
            ensure(late.is_none(), || format!("starts something after the end: {late:?}"))?;
        }
        self.grace(now, uid, step)?;
        if !step.finished {
            quiet(now, after, Input::Tick, step.wake_at, "a tick")?;
            quiet(
                now,
                after,
                Input::Desired(Box::new(after.desired().clone())),
                step.wake_at,
                "the same desired state",
            )?;
            if let Some(seen) = seen {
                let again = Observation {
                    sequence: seen.sequence + 1,
                    ..seen.clone()
                };
                quiet(now, after, Input::Observed(again), step.wake_at, "the same observation")?;
            }
        }
        Ok(())
    }

    /// One action at a time on a target; keeps the account of those under way.
    pub(crate) fn one_hand_per_target(&mut self, uid: &Uid, step: &Step) -> Result<(), Broken> {
        let record = self.records.entry(uid.clone()).or_default();
        for action in &step.actions {
            if let Verb::Cancel(id) = action.verb {
                record.in_flight.remove(&id);
                record.cancelled.insert(id);
                continue;
            }
            let busy = record.in_flight.values().any(|target| *target == action.target);
            ensure(!busy, || format!("two hands on {}", action.target))?;
            record.in_flight.insert(action.id, action.target.clone());
        }
        Ok(())
    }

    /// Two seconds at least; and no later than what the user asked for.
    fn grace(&self, now: Time, uid: &Uid, step: &Step) -> Result<(), Broken> {
        let asked = self.records.get(uid).and_then(|r| r.deletion);
        for action in &step.actions {
            let Verb::Stop { grace, .. } = action.verb else { continue };
            ensure(grace >= Duration::from_secs(2), || format!("a grace of {grace:?} is too short"))?;
            let Some((at, asked)) = asked.filter(|_| action.because.to_string() == "deleted") else {
                continue;
            };
            let latest = (at + asked).max(now + Duration::from_secs(2)) + Duration::from_millis(1100);
            ensure(now + grace <= latest, || {
                format!("a grace of {grace:?} exceeds what is left of {asked:?}")
            })?;
        }
        Ok(())
    }

    /// An attempt was made: not before its back-off had ended.
    pub fn created(&mut self, now: Time, uid: &Uid, name: &str, number: u32, held: &Held) -> Result<(), Broken> {
        let record = self.records.entry(uid.clone()).or_default();
        let find = |number: u32| {
            held.attempts
                .iter()
                .map(|a| &a.view)
                .find(|v| v.name == name && v.attempt == number)
        };
        let previous = number.checked_sub(1).and_then(find);
        let (wait_s, next_s) = match (previous, find(number)) {
            (None, _) if number == 0 => (0, 0),
            (
                Some(ContainerView {
                    image,
                    created_at,
                    state: RunState::Exited(exit),
                    ..
                }),
                Some(new),
            ) => {
                let before_s = record.delays.get(&(name.to_owned(), number - 1)).copied().unwrap_or(0);
                let long = exit.finished_at.since(*created_at) > Duration::from_secs(600);
                match before_s {
                    _ if long || *image != new.image => (0, 10),
                    0 => (0, 10),
                    before_s => (before_s, (before_s * 2).min(300)),
                }
            }
            _ => (0, 10), // the one before is lost, and its delay with it
        };
        // The first kill that is a restart at once makes no entry.
        let by_kubelet = |v: &ContainerView| v.notes.contains_key("killed") || v.notes.contains_key("replaced");
        let next_s = if previous.is_some_and(|v| v.attempt == 0 && by_kubelet(v)) {
            0
        } else {
            next_s
        };
        record.delays.insert((name.to_owned(), number), next_s);
        // A probe's kill and its restart are one: the death before counts.
        let killed = previous.is_some_and(|v| v.notes.contains_key("killed"));
        let counts = if killed { number.checked_sub(2).and_then(find) } else { previous };
        let finished_at = counts.and_then(exit).map(|e| e.finished_at);
        let early = finished_at.is_some_and(|at| now < at + Duration::from_secs(wait_s));
        ensure(!early, || {
            format!("{name}#{number} was made before its back-off of {wait_s}s had ended")
        })
    }

    /// A process was started: alone, and in its turn.
    pub fn started(&self, now: Time, _uid: &Uid, id: &ContainerId, held: &Held, pod: Option<&Pod>) -> Result<(), Broken> {
        let Some(started) = held.attempt(id).map(|a| &a.view) else {
            return Err("what was started is not there".to_owned());
        };
        let twins = held
            .attempts
            .iter()
            .filter(|a| a.view.name == started.name && a.started_at().is_some())
            .count();
        ensure(twins == 1, || format!("{twins} attempts of {} run at once", started.name))?;
        let Some(spec) = pod.and_then(|p| p.spec.as_ref()) else {
            return Ok(());
        };
        if spec.ephemeral_containers.iter().flatten().any(|c| c.name == started.name) {
            // It waits for nobody, and is started once.
            return ensure(started.attempt == 0, || {
                format!("the ephemeral container {} was restarted", started.name)
            });
        }
        let newest = |name: &str| {
            held.attempts
                .iter()
                .map(|a| &a.view)
                .filter(|v| v.name == name)
                .max_by_key(|v| v.attempt)
        };
        let hooked = |name: &str| {
            let mut all = spec.init_containers.iter().flatten().chain(&spec.containers);
            all.any(|c| c.name == name && c.lifecycle.as_ref().is_some_and(|l| l.post_start.is_some()))
        };
        let waits_for = held.attempts.iter().find(|a| {
            let done = a.view.notes.get("post-start").is_some_and(|note| note == "done");
            a.view.name != started.name && a.started_at().is_some_and(|at| at < now) && hooked(&a.view.name) && !done
        });
        ensure(waits_for.is_none(), || {
            format!("{} was started beside the postStart hook of {waits_for:?}", started.name)
        })?;
        for init in spec.init_containers.iter().flatten() {
            if init.name == started.name {
                break;
            }
            let state = newest(&init.name).map(|v| &v.state);
            let sidecar = init.restart_policy.is_some();
            let fit = match state {
                Some(RunState::Exited(exit)) => sidecar || exit.code == 0,
                Some(RunState::Running { .. }) => sidecar,
                Some(RunState::Created) => sidecar,
                None => false,
            };
            ensure(fit, || format!("{} was started though {} is {state:?}", started.name, init.name))?;
        }
        let init = spec
            .init_containers
            .iter()
            .flatten()
            .any(|c| c.name == started.name && c.restart_policy.is_none());
        let early = held
            .attempts
            .iter()
            .any(|a| a.started_at().is_some() && spec.containers.iter().any(|c| c.name == a.view.name));
        ensure(!(init && early), || {
            format!("init container {} runs beside regular ones", started.name)
        })
    }

    /// A status reached the API, where the pod has that generation.
    pub fn written(&self, uid: &Uid, generation: Option<i64>, old: Option<&PodStatus>, new: &PodStatus) -> Result<(), Broken> {
        let observed = new.observed_generation;
        let before = old.and_then(|old| old.observed_generation);
        ensure(observed.is_some() && before <= observed && observed <= generation, || {
            format!("{uid}: observedGeneration went from {before:?} to {observed:?} at generation {generation:?}")
        })?;
        let phase = |s: &PodStatus| s.phase.clone().unwrap_or_default();
        if let Some(old) = old {
            let terminal = matches!(phase(old).as_str(), "Succeeded" | "Failed");
            ensure(!terminal || phase(old) == phase(new), || {
                format!("phase left {} for {}", phase(old), phase(new))
            })?;
            ensure(old.start_time.is_none() || old.start_time == new.start_time, || {
                "startTime changed".to_owned()
            })?;
            for before in containers(old) {
                let after = containers(new).find(|c| c.name == before.name);
                let count = after.map(|c| c.restart_count);
                ensure(count >= Some(before.restart_count), || {
                    format!(
                        "{uid}: restartCount of {} went from {} to {count:?}",
                        before.name, before.restart_count
                    )
                })?;
            }
        }
        for c in containers(new) {
            let states = c
                .state
                .as_ref()
                .map(|s| [s.running.is_some(), s.waiting.is_some(), s.terminated.is_some()]);
            let count = states.into_iter().flatten().filter(|there| *there).count();
            ensure(count == 1, || format!("{} has {count} states", c.name))?;
        }
        let is_true = |t: &str| new.conditions.iter().flatten().any(|c| c.type_ == t && c.status == "True");
        let regular_ready = new.container_statuses.iter().flatten().all(|c| c.ready);
        ensure(!is_true("Ready") || (is_true("ContainersReady") && regular_ready), || {
            "Ready though not all containers are".to_owned()
        })?;
        ensure(!is_true("Ready") || phase(new) == "Running", || {
            format!("Ready in phase {}", phase(new))
        })?;
        let zero = |c: &ContainerStatus| {
            c.state
                .as_ref()
                .and_then(|s| s.terminated.as_ref())
                .is_some_and(|t| t.exit_code == 0)
        };
        let well = new.container_statuses.iter().flatten().all(zero);
        ensure(phase(new) != "Succeeded" || well, || {
            "Succeeded though a container did not".to_owned()
        })
    }

    /// A hook is run: of a running container, and not again once its end was
    /// noted.
    pub fn hook(&self, uid: &Uid, id: &ContainerId, hook: Hook, held: &Held) -> Result<(), Broken> {
        let Some(view) = held.attempt(id).map(|a| &a.view) else {
            return Ok(());
        };
        let key = match hook {
            Hook::PostStart => "post-start",
            Hook::PreStop => "pre-stop",
        };
        ensure(!view.notes.contains_key(key), || {
            format!("{uid}: {} of {} runs again", hook.as_str(), view.name)
        })
    }

    /// A probe is made: of a started attempt not before its delay, and only by
    /// startup until that has succeeded.
    pub fn probed(&self, now: Time, uid: &Uid, id: &ContainerId, kind: ProbeKind, held: &Held, pod: Option<&Pod>) -> Result<(), Broken> {
        let Some((view, started_at)) = held.attempt(id).and_then(|a| Some((&a.view, a.started_at()?))) else {
            return Ok(()); // it ended on the way
        };
        let Some(spec) = pod.and_then(|p| p.spec.as_ref()) else {
            return Ok(());
        };
        let mut all = spec.init_containers.iter().flatten().chain(&spec.containers);
        let container = all.find(|c| c.name == view.name);
        let probe = container.and_then(|c| match kind {
            ProbeKind::Liveness => c.liveness_probe.as_ref(),
            ProbeKind::Readiness => c.readiness_probe.as_ref(),
            ProbeKind::Startup => c.startup_probe.as_ref(),
        });
        let Some(probe) = probe else {
            return Err(format!("{uid}: a {} probe of {} that it does not have", kind.as_str(), view.name));
        };
        let delay_s = u64::try_from(probe.initial_delay_seconds.unwrap_or(0)).unwrap_or(0);
        ensure(now >= started_at + Duration::from_secs(delay_s), || {
            format!("{} is probed before its initial delay", view.name)
        })?;
        let hooked = container.is_some_and(|c| c.lifecycle.as_ref().is_some_and(|l| l.post_start.is_some()));
        ensure(!hooked || view.notes.get("post-start").is_some_and(|note| note == "done"), || {
            format!("{} is probed during its postStart hook", view.name)
        })
    }

    /// The object was deleted by the node: it is over, and nothing runs.
    pub fn deleted(&self, _uid: &Uid, pod: &Pod, held: Option<&Held>) -> Result<(), Broken> {
        let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default();
        ensure(matches!(phase, "Succeeded" | "Failed"), || format!("deleted in phase {phase}"))?;
        let running = held.into_iter().flat_map(|h| &h.attempts).find(|a| a.started_at().is_some());
        ensure(running.is_none(), || format!("deleted while {running:?} runs"))?;
        let sandbox = held.and_then(|h| h.sandbox.as_ref()).is_some_and(|s| s.ready);
        ensure(!sandbox, || "deleted while its sandbox is ready".to_owned())
    }
}

/// An unchanged world yields nothing, and the same wake-up.
fn quiet(now: Time, machine: &Machine, input: Input, wake_at: Option<Time>, what: &str) -> Result<(), Broken> {
    let step = machine.clone().step(now, input);
    let silent = step.status.is_none() && step.events.is_empty() && step.actions.is_empty();
    ensure(silent && step.wake_at == wake_at, || {
        format!("not quiet after {what}: was to wake at {wake_at:?}, but: {step:#?}")
    })
}

fn exit(view: &ContainerView) -> Option<&Exit> {
    match &view.state {
        RunState::Exited(exit) => Some(exit),
        RunState::Created | RunState::Running { .. } => None,
    }
}

fn containers(status: &PodStatus) -> impl Iterator<Item = &ContainerStatus> {
    status
        .init_container_statuses
        .iter()
        .flatten()
        .chain(status.container_statuses.iter().flatten())
}
