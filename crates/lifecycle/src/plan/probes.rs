//! Probes: when one is due, what its results mean, and the kill they cause.
//!
//! The machine keeps the schedule and the counters; the driver makes one
//! attempt per action. Counters do not outlive the agent. What users saw does:
//! readiness and startup hold at what the API shows of the same attempt until
//! probed anew, and a kill is noted on the attempt before it begins.
//!
//! Source: upstream `prober/worker.go`, `results_manager.go`,
//! `prober_manager.go` (`UpdatePodStatus`); pod lifecycle page.

use api::Time;
use api::node::{ContainerView, RunState};
use api::typed::ContainerStatus;

use crate::action::{Reason, Target, Verb};
use crate::input::{Container, Probe, ProbeKind, RestartPolicy, Role};
use crate::memory::ProbeRecord;
use crate::plan::terminate::{self, Ending};
use crate::plan::{Plan, World, hooks};
use crate::restart::NOTE_KILLED;

/// Asks for every attempt that is due; gives up those nobody needs any more.
/// Of a pod that ends only readiness is still probed.
pub(crate) fn plan(w: World<'_>, plan: &mut Plan, ends: bool) {
    for container in w.desired.all() {
        for kind in ProbeKind::ALL {
            if let Some(probe) = container.probes.get(kind) {
                one(w, plan, container, kind, probe, ends);
            }
        }
    }
}

fn one(w: World<'_>, plan: &mut Plan, container: &Container, kind: ProbeKind, probe: &Probe, ends: bool) {
    let target = Target::Probe(container.name.clone(), kind);
    let under_way = w.hands.on(&target);
    let wanted = w.newest(&container.name).filter(|view| needed(w, container, view, kind, ends));
    let of = |verb: &Verb| matches!(verb, Verb::Probe { id, .. } if wanted.is_some_and(|view| view.id == *id));
    if let Some((id, verb)) = under_way {
        if of(verb) {
            return;
        }
        plan.cancels.push((id, Reason::Superseded));
    }
    let Some(view) = wanted else { return };
    let due = record(w, view, kind).map_or_else(|| first(w, view, probe), |record| record.next_at);
    if due > w.now {
        plan.wake(due);
        return;
    }
    let verb = Verb::Probe {
        id: view.id.clone(),
        kind,
        handler: probe.handler.clone(),
        timeout: probe.timeout,
    };
    plan.want(target, verb, Reason::Due);
}

fn needed(w: World<'_>, container: &Container, view: &ContainerView, kind: ProbeKind, ends: bool) -> bool {
    if !matches!(view.state, RunState::Running { .. }) || hooks::pending(container, view) {
        return false;
    }
    let kills = kind != ProbeKind::Readiness;
    if kills && (ends || condemned(w, view).is_some()) {
        return false;
    }
    started(w, container, view) != (kind == ProbeKind::Startup)
}

/// The first attempt: at once after the initial delay. What ran already when
/// this machine came to be keeps the beat it had, so that a restarted agent
/// does not probe everything at the same instant.
fn first(w: World<'_>, view: &ContainerView, probe: &Probe) -> Time {
    let RunState::Running { started_at } = view.state else {
        return w.now;
    };
    let first = started_at + probe.initial_delay;
    match w.memory.found.get(&view.id) {
        Some(found_at) if *found_at > first => next(first, probe, *found_at),
        Some(_) | None => first,
    }
}

/// The first beat after `now` of a schedule that had one at `beat`.
pub(crate) fn next(beat: Time, probe: &Probe, now: Time) -> Time {
    let period_ns = probe.period.as_nanos().max(1);
    let passed = now.max(beat).since(beat).as_nanos() / period_ns + 1;
    beat + probe.period * u32::try_from(passed).unwrap_or(u32::MAX)
}

fn record<'a>(w: World<'a>, view: &ContainerView, kind: ProbeKind) -> Option<&'a ProbeRecord> {
    w.memory
        .probes
        .get(&(view.name.clone(), kind))
        .filter(|record| record.id == view.id)
}

/// What the API shows of this very attempt.
fn shown<'a>(w: World<'a>, view: &ContainerView) -> Option<&'a ContainerStatus> {
    let id = crate::status::wire_id(view);
    crate::status::of(w.last?, &view.name).filter(|c| c.container_id.as_ref() == Some(&id))
}

/// `started`: it runs, its `postStart` hook has ended, its startup probe has
/// succeeded.
pub(crate) fn started(w: World<'_>, container: &Container, view: &ContainerView) -> bool {
    if !matches!(view.state, RunState::Running { .. }) || hooks::pending(container, view) {
        return false;
    }
    container.probes.startup.is_none()
        || record(w, view, ProbeKind::Startup).is_some_and(|record| record.result == Some(true))
        || shown(w, view).is_some_and(|c| c.started == Some(true))
}

/// `ready` of a regular container or sidecar.
pub(crate) fn ready(w: World<'_>, container: &Container, view: &ContainerView) -> bool {
    if !started(w, container, view) {
        return false;
    }
    let known = record(w, view, ProbeKind::Readiness).and_then(|record| record.result);
    container.probes.readiness.is_none() || known.unwrap_or_else(|| shown(w, view).is_some_and(|c| c.ready))
}

/// The probe an attempt is noted to be killed by.
pub(crate) fn noted(view: &ContainerView) -> Option<ProbeKind> {
    let note = view.notes.get(NOTE_KILLED)?;
    ProbeKind::ALL.into_iter().find(|kind| kind.as_str() == note)
}

/// The probe that has this attempt killed.
pub(crate) fn condemned(w: World<'_>, view: &ContainerView) -> Option<ProbeKind> {
    let kinds = [ProbeKind::Liveness, ProbeKind::Startup];
    let noted = view.notes.get(NOTE_KILLED);
    kinds
        .into_iter()
        .find(|kind| noted.is_some_and(|note| note == kind.as_str()))
        .or_else(|| {
            kinds
                .into_iter()
                .find(|kind| record(w, view, *kind).is_some_and(|record| record.result == Some(false)))
        })
}

/// Ends an attempt its probe has condemned. That is noted first: the container
/// is restarted though it should exit with code 0.
pub(crate) fn kill(w: World<'_>, plan: &mut Plan, container: &Container, view: &ContainerView, kind: ProbeKind) {
    if !view.notes.contains_key(NOTE_KILLED) {
        let verb = Verb::Note {
            id: view.id.clone(),
            key: NOTE_KILLED,
            value: kind.as_str().to_owned(),
        };
        plan.want(Target::Container(container.name.clone()), verb, Reason::Durable);
        return;
    }
    let (name, kind_name) = (&container.name, kind.as_str());
    let text = match (container.role, w.desired.restart_policy) {
        (Role::Init | Role::Sidecar, _) => format!("Init container {name} failed {kind_name} probe"),
        (Role::Ephemeral, _) | (Role::Regular, RestartPolicy::Never) => format!("Container {name} failed {kind_name} probe"),
        (Role::Regular, RestartPolicy::Always | RestartPolicy::OnFailure) => {
            format!("Container {name} failed {kind_name} probe, will be restarted")
        }
    };
    let grace = container.probes.get(kind).and_then(|probe| probe.grace).unwrap_or(w.desired.grace);
    let ending = Ending {
        kill_at: terminate::kill_at(w, view, grace),
        because: Reason::ProbeFailed,
        text,
        its_turn: true,
    };
    terminate::end(w, plan, view, ending);
}
