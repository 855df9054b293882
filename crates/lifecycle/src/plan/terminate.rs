//! Stopping everything, against one deadline, and leaving nothing behind.
//!
//! Source: upstream `kuberuntime_container.go`, `killContainersWithSyncResult`
//! and `killContainer`; KEP-753 for the order of sidecars.

use std::time::Duration;

use api::Time;
use api::node::ContainerView;

use crate::action::{Reason, Target, Verb};
use crate::event;
use crate::input::{Container, Hook, Role};
use crate::memory::Ending as PodEnding;
use crate::plan::{Plan, World, container_of, hooks, oom, probes, volumes};

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
        Some(PodEnding::Gone) => Reason::Gone,
        Some(PodEnding::Deleted) => Reason::Deleted,
        Some(PodEnding::Evicted) => Reason::Evicted,
        Some(PodEnding::Drained) => Reason::NodeShutdown,
        Some(PodEnding::DeadlineExceeded) => Reason::DeadlineExceeded,
        Some(PodEnding::Rejected | PodEnding::Finished) | None => Reason::Finished,
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
    probes::plan(w, &mut plan, true);
    oom::plan(w, &mut plan);
    let deadline = deadline(w);
    for view in w.running() {
        let ending = Ending {
            kill_at: deadline,
            because: because.clone(),
            text: format!("Stopping container {}", view.name),
            its_turn: its_turn(w, view),
        };
        end(w, &mut plan, view, ending);
    }
    let sandbox = w.seen.sandbox.as_ref().is_some_and(|s| s.ready);
    if sandbox && w.running().next().is_none() && !starting(w) {
        plan.want(Target::Sandbox, Verb::StopSandbox, because);
    }
    plan
}

/// What only prepares and can be given up at once.
fn preparation(verb: &Verb) -> bool {
    matches!(
        verb,
        Verb::Pull { .. } | Verb::MountVolumes | Verb::RunHook { hook: Hook::PostStart, .. }
    )
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
    probes::plan(w, &mut plan, true);
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
    let evicted = [evicted, w.desired.drain].into_iter().flatten().min();
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

/// How an attempt is to end.
pub(crate) struct Ending {
    /// When its process is to be killed; [`FLOOR`] after the stop signal at the
    /// earliest.
    pub(crate) kill_at: Time,
    pub(crate) because: Reason,
    /// Of the `Killing` event.
    pub(crate) text: String,
    /// The stop signal may be sent; until then only the hook runs.
    pub(crate) its_turn: bool,
}

/// When an attempt that ends alone is to be killed: the grace counts from the
/// moment it was first to end.
pub(crate) fn kill_at(w: World<'_>, view: &ContainerView, grace: Duration) -> Time {
    *w.memory.stopping.get(&view.id).unwrap_or(&w.now) + grace
}

/// Ends a running attempt: its `preStop` hook, then a stop that kills at
/// `kill_at`, unless what is under way does so already or sooner. The hook's
/// time counts against the grace.
pub(crate) fn end(w: World<'_>, plan: &mut Plan, view: &ContainerView, ending: Ending) {
    let Ending {
        kill_at,
        because,
        text,
        its_turn,
    } = ending;
    let target = if w.newest(&view.name).is_some_and(|n| n.id == view.id) {
        Target::Container(view.name.clone())
    } else {
        Target::Attempt(view.id.clone())
    };
    let on_target = |verb: fn(&Verb) -> bool| w.hands.0.iter().find(|(_, f)| !f.cancelled && f.target == target && verb(&f.verb));
    if let Some((id, _)) = on_target(preparation)
        && !plan.cancels.iter().any(|(cancelled, _)| cancelled == id)
    {
        plan.cancels.push((*id, because.clone()));
    }
    let left = kill_at.max(w.now).since(w.now);
    let stop = Verb::Stop {
        id: view.id.clone(),
        signal: None,
        grace: left.max(FLOOR),
    };
    let under_way = on_target(|verb| !preparation(verb)).map(|(id, f)| (*id, &f.verb, f.since));
    match under_way {
        Some((id, Verb::Stop { id: same, grace, .. }, since)) if *same == view.id => {
            if w.now + left.max(FLOOR) + WORTHWHILE < since + *grace {
                plan.want(target, stop, Reason::GraceShortened).instead_of = Some(id);
            }
        }
        Some((id, Verb::RunHook { id: same, limit, .. }, since)) if *same == view.id => {
            if left.is_zero() && kill_at + WORTHWHILE < since + *limit {
                plan.want(target, stop, Reason::GraceShortened).instead_of = Some(id);
            } else if !left.is_zero() && kill_at < since + *limit {
                plan.wake(kill_at);
            }
        }
        Some(_) => {}
        None => {
            let hook = hooks::pre_stop(w, view, left);
            if hook.is_none() && !its_turn && !left.is_zero() {
                plan.wake(kill_at);
                return;
            }
            let first = !w.memory.stopping.contains_key(&view.id);
            let path = container_of(w.desired, &view.name).map(Container::field_path);
            let event = path.filter(|_| first).map(|p| event::killing(text).of(p));
            plan.want(target, hook.unwrap_or(stop), because).event = event;
        }
    }
}
