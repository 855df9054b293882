//! Ephemeral containers: each is started once, whatever the others do, and
//! nothing of the pod depends on it.
//!
//! Source: upstream `computePodActions` and `SyncPod`, step 5; KEP-277.

use api::node::RunState;

use crate::action::Reason;
use crate::plan::containers::{Line, start};
use crate::plan::{Plan, World};

/// Starts those that were never started, once there is a sandbox. One that
/// cannot be started keeps no other waiting.
pub(crate) fn plan(w: World<'_>, plan: &mut Plan, open: bool) {
    for container in &w.desired.ephemeral {
        let because = match w.newest(&container.name).map(|view| &view.state) {
            None => Reason::NeverStarted,
            Some(RunState::Created) => Reason::Created,
            Some(RunState::Running { .. } | RunState::Exited(_)) => continue,
        };
        start(w, plan, container, because, &mut Line::new(open));
    }
}
