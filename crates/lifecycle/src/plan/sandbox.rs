//! The pod's sandbox: make the first, replace one that is no longer good.
//!
//! Source: upstream `kuberuntime_sandbox.go`, `PodSandboxChanged`, and
//! `computePodActions`.

use api::node::RunState;

use crate::action::{Reason, Target, Verb};
use crate::input::{RestartPolicy, Role};
use crate::plan::containers::replaced;
use crate::plan::terminate::{self, Ending};
use crate::plan::{Plan, World, container_of, exit};

/// Where the sandbox stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sandbox {
    /// Containers may be made in it.
    Ready,
    /// Nothing is in its way.
    Coming,
    /// What ran in the former one is being cleared away first.
    Clearing,
    /// There is no use in making another.
    Over,
}

/// Whether the newest sandbox is good: it answers, and has an address unless
/// the pod uses the node's network.
pub(crate) fn ready(w: World<'_>) -> bool {
    w.seen
        .sandbox
        .as_ref()
        .is_some_and(|s| s.ready && (w.desired.host_network || !s.ips.is_empty()))
}

pub(crate) fn plan(w: World<'_>, plan: &mut Plan, mounted: bool) -> Sandbox {
    if w.hands.on(&Target::Sandbox).is_some() {
        return Sandbox::Coming;
    }
    if ready(w) {
        return Sandbox::Ready;
    }
    let (attempt, because) = match &w.seen.sandbox {
        None => (0, Reason::NoSandbox),
        Some(old) => (old.attempt.saturating_add(1), Reason::SandboxChanged),
    };
    if attempt > 0 && pointless(w) {
        return Sandbox::Over;
    }
    if attempt > 0 {
        plan.replaced_by = Some(attempt);
    }
    let cleared = clear(w, plan, &because);
    if cleared && mounted {
        plan.want(Target::Sandbox, Verb::RunSandbox { attempt }, because);
    }
    if cleared { Sandbox::Coming } else { Sandbox::Clearing }
}

/// With `Never` what had an attempt may not run again; otherwise a container
/// must be left to start.
fn pointless(w: World<'_>) -> bool {
    match w.desired.restart_policy {
        RestartPolicy::Always => false,
        RestartPolicy::Never => !w.seen.containers.is_empty(),
        RestartPolicy::OnFailure => w.desired.containers.iter().all(|c| {
            w.newest(&c.name)
                .is_some_and(|v| exit(v).is_some_and(|e| e.code == 0) && !replaced(w, v))
        }),
    }
}

/// Stops what runs; then forgets init attempts, so that init starts over, and
/// attempts that were never started, since they belong to the old sandbox.
fn clear(w: World<'_>, plan: &mut Plan, because: &Reason) -> bool {
    // What is still being made or started must not turn up in the new sandbox.
    let late = |v: &Verb| matches!(v, Verb::Create { .. } | Verb::Start { .. });
    let mut cleared = !w.hands.0.values().any(|f| !f.cancelled && late(&f.verb));
    for view in w.running() {
        cleared = false;
        let ending = Ending {
            kill_at: terminate::kill_at(w, view, w.desired.grace),
            because: because.clone(),
            text: format!("Stopping container {}", view.name),
            its_turn: true,
        };
        terminate::end(w, plan, view, ending);
    }
    if !cleared {
        return false;
    }
    for view in &w.seen.containers {
        let role = container_of(w.desired, &view.name).map(|c| c.role);
        if view.state == RunState::Created || matches!(role, Some(Role::Init | Role::Sidecar)) {
            cleared = false;
            plan.want(
                Target::Container(view.name.clone()),
                Verb::Remove { id: view.id.clone() },
                because.clone(),
            );
        }
    }
    cleared
}
