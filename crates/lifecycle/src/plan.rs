//! What is wanted now, as a function of everything known now.
//!
//! One concern per file; each adds [`Want`]s, the machine hands out those whose
//! target is free and whose retry is due.

pub(crate) mod containers;
pub(crate) mod ephemeral;
pub(crate) mod hooks;
pub(crate) mod init;
mod oom;
pub(crate) mod probes;
pub(crate) mod resize;
pub(crate) mod sandbox;
pub(crate) mod terminate;
pub(crate) mod volumes;

use api::Time;
use api::node::{ContainerId, ContainerView, Exit, Observation, RunState};
use api::typed::PodStatus;

use crate::action::{ActionId, Hands, Reason, Target, Verb};
use crate::event::PodEvent;
use crate::input::{Container, Desired};
use crate::memory::Memory;

/// Everything known of a pod at one instant.
#[derive(Clone, Copy)]
pub(crate) struct World<'a> {
    pub(crate) now: Time,
    pub(crate) desired: &'a Desired,
    pub(crate) seen: &'a Observation,
    pub(crate) memory: &'a Memory,
    pub(crate) hands: &'a Hands,
    pub(crate) last: Option<&'a PodStatus>,
}

impl<'a> World<'a> {
    /// Attempts of a container, oldest first.
    pub(crate) fn attempts(&self, name: &str) -> Vec<&'a ContainerView> {
        let mut attempts: Vec<_> = self.seen.containers.iter().filter(|c| c.name == name).collect();
        attempts.sort_by_key(|c| c.attempt);
        attempts
    }

    /// The newest attempt of a container.
    pub(crate) fn newest(&self, name: &str) -> Option<&'a ContainerView> {
        self.seen.containers.iter().filter(|c| c.name == name).max_by_key(|c| c.attempt)
    }

    /// The attempt before the newest.
    pub(crate) fn previous(&self, name: &str) -> Option<&'a ContainerView> {
        let attempts = self.attempts(name);
        attempts.len().checked_sub(2).and_then(|i| attempts.get(i).copied())
    }

    /// Every attempt whose process runs.
    pub(crate) fn running(&self) -> impl Iterator<Item = &'a ContainerView> {
        self.seen.containers.iter().filter(|c| matches!(c.state, RunState::Running { .. }))
    }
}

/// The exit of an attempt that has ended.
pub(crate) fn exit(view: &ContainerView) -> Option<&Exit> {
    match &view.state {
        RunState::Exited(exit) => Some(exit),
        RunState::Created | RunState::Running { .. } => None,
    }
}

/// Something to be done, if its target is free and no retry is pending.
#[derive(Clone, Debug)]
pub(crate) struct Want {
    pub(crate) target: Target,
    pub(crate) verb: Verb,
    pub(crate) because: Reason,
    /// Recorded when the action is handed out.
    pub(crate) event: Option<PodEvent>,
    /// The action in flight on the same target that this one replaces.
    pub(crate) instead_of: Option<ActionId>,
}

/// What is wanted now and when to look again.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) wants: Vec<Want>,
    pub(crate) cancels: Vec<(ActionId, Reason)>,
    pub(crate) wake_at: Option<Time>,
    /// The attempt of the sandbox that takes the place of the present one.
    pub(crate) replaced_by: Option<u32>,
    /// Nothing is to be kept and nothing to be started: the pod ends.
    pub(crate) finished: bool,
}

impl Plan {
    pub(crate) fn want(&mut self, target: Target, verb: Verb, because: Reason) -> &mut Want {
        self.wants.push(Want {
            target,
            verb,
            because,
            event: None,
            instead_of: None,
        });
        self.wants.last_mut().expect("one was pushed just now")
    }

    pub(crate) fn wake(&mut self, at: Time) {
        self.wake_at = Some(self.wake_at.map_or(at, |other| other.min(at)));
    }
}

/// The container of the spec an attempt belongs to.
pub(crate) fn container_of<'a>(desired: &'a Desired, name: &str) -> Option<&'a Container> {
    desired.all().find(|c| c.name == name)
}

/// Plans for a pod that is to run.
pub(crate) fn sync(w: World<'_>) -> Plan {
    let mut plan = Plan::default();
    let mounted = volumes::mount(w, &mut plan);
    let ready = match sandbox::plan(w, &mut plan, mounted) {
        sandbox::Sandbox::Ready => true,
        sandbox::Sandbox::Coming => false,
        sandbox::Sandbox::Clearing => {
            probes::plan(w, &mut plan, false);
            return plan;
        }
        sandbox::Sandbox::Over => {
            plan.finished = true;
            return plan;
        }
    };
    ephemeral::plan(w, &mut plan, ready && mounted);
    let mut line = containers::Line::new(ready && mounted && !hooks::any_pending(w) && !containers::any_on_its_way(w));
    match init::plan(w, &mut plan, &mut line) {
        init::Init::Done => {
            plan.finished = containers::plan(w, &mut plan, &mut line);
        }
        init::Init::Unfinished => {}
        init::Init::Failed => plan.finished = true,
    }
    probes::plan(w, &mut plan, false);
    oom::plan(w, &mut plan);
    prune(w, &mut plan);
    plan
}

/// Keeps the newest two attempts of each container, as the status shows them;
/// one that was not started yet is not shown.
fn prune(w: World<'_>, plan: &mut Plan) {
    for container in w.desired.all() {
        let attempts = w.attempts(&container.name);
        let unshown = usize::from(attempts.last().is_some_and(|v| hooks::unshown(w, v)));
        for (newer, view) in attempts.iter().rev().enumerate().skip(1) {
            let target = Target::Attempt(ContainerId(view.id.0.clone()));
            if matches!(view.state, RunState::Running { .. }) {
                plan.want(
                    target,
                    Verb::Stop {
                        id: view.id.clone(),
                        signal: None,
                        grace: terminate::FLOOR,
                    },
                    Reason::Superseded,
                );
            } else if newer >= 2 + unshown {
                plan.want(target, Verb::Remove { id: view.id.clone() }, Reason::Superseded);
            }
        }
    }
}
