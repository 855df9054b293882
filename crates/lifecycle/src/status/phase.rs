//! The phase of a pod. Source: upstream `getPhase`.

use api::node::ContainerView;
use api::typed::{ContainerStatus, PodStatus};

use crate::input::{RestartPolicy, Role};
use crate::machine::Stage;
use crate::plan::containers::replaced;
use crate::plan::{World, hooks};

/// Whether a status says the pod is over.
pub(super) fn terminal(status: &PodStatus) -> bool {
    matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"))
}

/// What a status says of one container, as far as the phase cares.
#[derive(PartialEq, Eq)]
enum Seen {
    Running,
    /// Exit code.
    Terminated(i32),
    /// Exit code of the attempt before, if there was one.
    Waiting(Option<i32>),
}

fn seen(status: &ContainerStatus) -> Seen {
    let code = |state: &Option<api::typed::ContainerState>| state.as_ref().and_then(|s| s.terminated.as_ref()).map(|t| t.exit_code);
    if status.state.as_ref().is_some_and(|s| s.running.is_some()) {
        return Seen::Running;
    }
    code(&status.state).map_or_else(|| Seen::Waiting(code(&status.last_state)), Seen::Terminated)
}

#[derive(Default)]
struct Tally {
    pending_init: u32,
    failed_init: u32,
    pending_sidecar: u32,
    running: u32,
    waiting: u32,
    stopped: u32,
    succeeded: u32,
}

/// `init` and `regular` are in spec order, none missing.
pub(super) fn phase(w: World<'_>, stage: Stage, init: &[ContainerStatus], regular: &[ContainerStatus]) -> &'static str {
    let over = stage == Stage::Terminated;
    let policy = w.desired.restart_policy;
    let tally = tally(w, init, regular);
    let initialized = regular.iter().any(|c| !matches!(seen(c), Seen::Waiting(None)));
    let all_well = tally.stopped == tally.succeeded;
    let phase = if tally.failed_init > 0 && policy == RestartPolicy::Never {
        "Failed"
    } else if tally.pending_init > 0 || (tally.pending_sidecar > 0 && !initialized) || tally.waiting > 0 {
        "Pending"
    } else if tally.running > 0 {
        "Running"
    } else if tally.stopped > 0 {
        match policy {
            _ if over => by_exit(all_well),
            _ if being_replaced(w) => "Running",
            RestartPolicy::Always => "Running",
            RestartPolicy::OnFailure if !all_well => "Running",
            RestartPolicy::OnFailure | RestartPolicy::Never => by_exit(all_well),
        }
    } else {
        "Pending"
    };
    // A pod that is over without ever having got so far has failed.
    if over && !matches!(phase, "Succeeded" | "Failed") {
        "Failed"
    } else {
        phase
    }
}

fn by_exit(all_well: bool) -> &'static str {
    if all_well { "Succeeded" } else { "Failed" }
}

/// Stopped only to be started with another image, or about to be started.
fn being_replaced(w: World<'_>) -> bool {
    let next = |v: &ContainerView| hooks::unshown(w, v) || replaced(w, v);
    w.desired.containers.iter().any(|c| w.newest(&c.name).is_some_and(next))
}

fn tally(w: World<'_>, init: &[ContainerStatus], regular: &[ContainerStatus]) -> Tally {
    let mut t = Tally::default();
    for (spec, status) in w.desired.init.iter().zip(init) {
        match (spec.role == Role::Sidecar, seen(status)) {
            (false, Seen::Running | Seen::Waiting(None)) => t.pending_init += 1,
            (false, Seen::Terminated(0) | Seen::Waiting(Some(0))) | (true, Seen::Terminated(_) | Seen::Waiting(Some(_))) => {}
            (false, Seen::Terminated(_) | Seen::Waiting(Some(_))) => t.failed_init += 1,
            (true, Seen::Running) => {
                t.running += 1;
                t.pending_sidecar += u32::from(status.started != Some(true));
            }
            (true, Seen::Waiting(None)) => {
                t.waiting += 1;
                t.pending_sidecar += 1;
            }
        }
    }
    for status in regular {
        match seen(status) {
            Seen::Running => t.running += 1,
            Seen::Terminated(code) => {
                t.stopped += 1;
                t.succeeded += u32::from(code == 0);
            }
            Seen::Waiting(Some(_)) => t.stopped += 1,
            Seen::Waiting(None) => t.waiting += 1,
        }
    }
    t
}
