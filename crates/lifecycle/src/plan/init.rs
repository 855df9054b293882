//! Init containers one after the other; sidecars in their place among them.
//!
//! Source: upstream `kuberuntime_container.go`, `computeInitContainerActions`;
//! KEP-753.

use api::node::RunState;

use crate::action::Reason;
use crate::input::Role;
use crate::plan::containers::{Line, keep, start};
use crate::plan::{Plan, World, probes};
use crate::restart;

/// How far initialisation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Init {
    /// Regular containers may start.
    Done,
    /// Not yet.
    Unfinished,
    /// One failed and may not be restarted.
    Failed,
}

pub(crate) fn plan(w: World<'_>, plan: &mut Plan, line: &mut Line) -> Init {
    let all = &w.desired.init;
    // Exited regular containers do not count, so that a reboot runs init again.
    let initialized = w
        .desired
        .containers
        .iter()
        .any(|c| w.newest(&c.name).is_some_and(|v| !matches!(v.state, RunState::Exited(_))));
    let mut furthest_seen = initialized;
    let mut done = initialized || all.is_empty();
    let mut starts = Vec::new();
    for (index, container) in all.iter().enumerate().rev() {
        let sidecar = container.role == Role::Sidecar;
        let Some(view) = w.newest(&container.name) else {
            if furthest_seen && sidecar {
                starts.push((index, Reason::NeverStarted));
            }
            continue;
        };
        if furthest_seen && !sidecar {
            continue;
        }
        let mut complete = false;
        match &view.state {
            RunState::Created => starts.push((index, Reason::Created)),
            RunState::Running { .. } if sidecar => {
                keep(w, plan, container, view);
                complete = probes::started(w, container, view);
            }
            RunState::Running { .. } => {}
            RunState::Exited(exit) if restart::wanted(w.desired.restart_policy, container.role, exit) => {
                starts.push((index, Reason::Exited(exit.code)));
            }
            RunState::Exited(exit) if exit.code == 0 => complete = true,
            RunState::Exited(_) => return Init::Failed,
        }
        if complete && !furthest_seen {
            match index + 1 < all.len() {
                true => starts.push((index + 1, Reason::NeverStarted)),
                false => done = true,
            }
        }
        furthest_seen = true;
    }
    if !furthest_seen && !all.is_empty() {
        starts.push((0, Reason::NeverStarted));
    }
    starts.sort_by_key(|(index, _)| *index);
    for (index, because) in starts {
        start(w, plan, &all[index], because, line);
    }
    if done { Init::Done } else { Init::Unfinished }
}
