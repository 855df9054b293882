//! Stopping everything, against one deadline, and leaving nothing behind.
//!
//! Source: upstream `kuberuntime_container.go`, `killContainersWithSyncResult`
//! and `killContainer`; KEP-753 for the order of sidecars.

use std::time::Duration;

use api::Time;
use api::node::ContainerView;

use crate::action::{Reason, Target, Verb};
use crate::event;
use crate::input::{Container, Role};
use crate::memory::Ending;
use crate::plan::{Plan, World, container_of, volumes};

/// At least this long lies between the stop signal and the kill.
///
/// Source: upstream `minimumGracePeriodInSeconds`.
pub(crate) const FLOOR: Duration = Duration::from_secs(2);
/// What a shorter deadline must gain before a stop under way is replaced.
const WORTHWHILE: Duration = Duration::from_millis(500);

/// Why everything ends, as the actions tell.
pub(crate) fn because(w: World<'_>) -> Reason {
    match w.memory.ending {
        _ if w.desired.gone => Reason::Gone,
        _ if w.desired.deletion.is_some() => Reason::Deleted,
        Some(Ending::Gone) => Reason::Gone,
        Some(Ending::Deleted) => Reason::Deleted,
        Some(Ending::Evicted) => Reason::Evicted,
        Some(Ending::DeadlineExceeded) => Reason::DeadlineExceeded,
        Some(Ending::Rejected | Ending::Finished) | None => Reason::Finished,
    }
}

/// Until nothing runs: cancel what only prepares, stop what runs, then end the
/// sandbox.
pub(crate) fn plan(w: World<'_>) -> Plan {
    let mut plan = Plan::default();
    let because = because(w);
    for (id, flight) in &w.hands.0 {
        if preparation(&flight.verb) && !flight.cancelled {
            plan.cancels.push((*id, because.clone()));
        }
    }
    let deadline = deadline(w);
    for view in w.running() {
        if deadline > w.now && !its_turn(w, view) {
            plan.wake(deadline);
            continue;
        }
        stop_by(w, &mut plan, view, deadline.max(w.now + FLOOR), because.clone());
    }
    let sandbox = w.seen.sandbox.as_ref().is_some_and(|s| s.ready);
    if sandbox && w.running().next().is_none() && !starting(w) {
        plan.want(Target::Sandbox, Verb::StopSandbox, because);
    }
    plan
}

/// What only prepares and can be given up at once.
fn preparation(verb: &Verb) -> bool {
    matches!(verb, Verb::Pull { .. } | Verb::MountVolumes)
}

/// Whether nothing runs any more, and nothing under way will change that.
pub(crate) fn over(w: World<'_>) -> bool {
    w.running().next().is_none() && !w.seen.sandbox.as_ref().is_some_and(|s| s.ready) && !starting(w)
}

/// Once nothing runs: volumes, then the API, then the records. The records go
/// last because until the API holds the final status they are its only source.
pub(crate) fn finish(w: World<'_>) -> Plan {
    let mut plan = Plan::default();
    let because = because(w);
    if !volumes::unmount(w, &mut plan, because.clone()) {
        return plan;
    }
    let release = w.desired.gone || w.memory.confirmed;
    if w.desired.deletion.is_some() && !release {
        plan.want(Target::Api, Verb::ConfirmDeletion, because);
    } else if release && !empty(w) {
        plan.want(Target::Sandbox, Verb::RemoveSandbox, because);
    }
    plan
}

/// Whether the runtime has forgotten the pod.
pub(crate) fn empty(w: World<'_>) -> bool {
    w.seen.sandbox.is_none() && w.seen.containers.is_empty()
}

/// Something under way may still bring a process or a namespace to life.
fn starting(w: World<'_>) -> bool {
    let lives = |v: &Verb| {
        matches!(
            v,
            Verb::RunSandbox { .. } | Verb::Create { .. } | Verb::Start { .. } | Verb::Note { .. }
        )
    };
    w.hands
        .0
        .values()
        .any(|f| !f.cancelled && (lives(&f.verb) || f.target == Target::Sandbox))
}

/// When the last process is to be killed: the grace counts from the moment
/// termination began here. A machine that finds termination begun counts from
/// what the API says, whose seconds are cut off.
fn deadline(w: World<'_>) -> Time {
    let since = w.memory.terminating_since.unwrap_or(w.now);
    let own = since + grace(w);
    match w.desired.deletion {
        Some(deletion) if w.memory.resumed && !w.desired.gone => own.min((deletion.at + Duration::from_secs(1)).max(since)),
        Some(_) | None => own,
    }
}

fn grace(w: World<'_>) -> Duration {
    let least = Duration::from_secs(1);
    if w.desired.gone {
        return least;
    }
    let evicted = w.desired.eviction.as_ref().and_then(|e| e.grace);
    let asked = w.desired.deletion.map(|d| d.grace).or(evicted).unwrap_or(w.desired.grace);
    evicted.map_or(asked, |e| asked.min(e)).max(least)
}

/// Sidecars wait for every regular container and for the sidecars after them.
fn its_turn(w: World<'_>, view: &ContainerView) -> bool {
    let Some(position) = w.desired.init.iter().position(|c| c.name == view.name && c.role == Role::Sidecar) else {
        return true;
    };
    let later = w.desired.init.iter().skip(position + 1).filter(|c| c.role == Role::Sidecar);
    let blockers: Vec<&Container> = w.desired.containers.iter().chain(later).collect();
    !w.running().any(|r| blockers.iter().any(|c| c.name == r.name))
}

/// Asks for a stop that kills at `kill_at`, unless one under way does so
/// already or sooner.
fn stop_by(w: World<'_>, plan: &mut Plan, view: &ContainerView, kill_at: Time, because: Reason) {
    let target = if w.newest(&view.name).is_some_and(|n| n.id == view.id) {
        Target::Container(view.name.clone())
    } else {
        Target::Attempt(view.id.clone())
    };
    let verb = Verb::Stop {
        id: view.id.clone(),
        signal: None,
        grace: kill_at.since(w.now),
    };
    let under_way = w
        .hands
        .0
        .iter()
        .find(|(_, f)| !f.cancelled && f.target == target && !preparation(&f.verb));
    match under_way.map(|(id, f)| (*id, &f.verb, f.since)) {
        Some((id, Verb::Stop { id: same, grace, .. }, since)) if *same == view.id => {
            if kill_at + WORTHWHILE < since + *grace {
                plan.want(target, verb, Reason::GraceShortened).instead_of = Some(id);
            }
        }
        Some(_) => {}
        None => {
            let path = container_of(w.desired, &view.name).map(Container::field_path);
            let first = w.memory.retry(&target).is_none();
            let event = path
                .filter(|_| first)
                .map(|p| event::killing(format!("Stopping container {}", view.name)).of(p));
            plan.want(target, verb, because).event = event;
        }
    }
}
