//! Which of the wants become actions now.

use api::Time;

use crate::action::{Action, ActionId, InFlight, Reason, Step, Target, Verb};
use crate::event;
use crate::input::Hook;
use crate::machine::{Machine, outcome};
use crate::memory::ProbeRecord;
use crate::plan::{self, Plan, Want, probes};

impl Machine {
    pub(super) fn hand_out(&mut self, now: Time, plan: Plan, step: &mut Step) {
        step.wake_at = plan.wake_at;
        if plan.replaced_by.is_some() && self.memory.sandbox_announced != plan.replaced_by {
            self.memory.sandbox_announced = plan.replaced_by;
            step.events.push(event::sandbox_changed());
        }
        for (id, because) in plan.cancels {
            self.cancel(id, because, step);
        }
        for want in plan.wants {
            if let Some(later) = self.not_yet(now, &want) {
                step.wake_at = [later, step.wake_at].into_iter().flatten().min();
                continue;
            }
            let Want {
                target,
                verb,
                because,
                event,
                instead_of,
            } = want;
            if let Some(id) = instead_of {
                self.cancel(id, because.clone(), step);
            }
            step.events.extend(event);
            if let Verb::Stop { id, .. }
            | Verb::RunHook {
                id, hook: Hook::PreStop, ..
            } = &verb
            {
                self.memory.stopping.entry(id.clone()).or_insert(now);
            }
            self.probe_begins(now, &target, &verb);
            let id = self.fresh();
            self.hands.0.insert(
                id,
                InFlight {
                    target: target.clone(),
                    verb: verb.clone(),
                    since: now,
                    pulling: false,
                    cancelled: false,
                },
            );
            step.actions.push(Action { id, target, verb, because });
        }
    }

    /// The next attempt is due one period after this one was, not after it
    /// began: the schedule does not drift.
    fn probe_begins(&mut self, now: Time, target: &Target, verb: &Verb) {
        let (Target::Probe(name, kind), Verb::Probe { id, .. }) = (target, verb) else {
            return;
        };
        let probe = plan::container_of(&self.desired, name).and_then(|c| c.probes.get(*kind));
        let Some(probe) = probe else { return };
        let known = self
            .memory
            .probes
            .get(&(name.clone(), *kind))
            .filter(|record| record.id == *id)
            .cloned();
        let mut record = known.unwrap_or_else(|| ProbeRecord::new(id.clone(), now));
        record.next_at = probes::next(record.next_at, probe, now);
        self.memory.probes.insert((name.clone(), *kind), record);
    }

    /// Whether a want has to wait, and until when if that is known.
    fn not_yet(&self, now: Time, want: &Want) -> Option<Option<Time>> {
        let busy = self.hands.on(&want.target).is_some_and(|(id, _)| want.instead_of != Some(id));
        if busy || (self.stale && seen_in_runtime(&want.verb)) {
            return Some(None);
        }
        let retry = self.memory.retry(&want.target).map(|r| r.next_at);
        let settled = self
            .memory
            .settled
            .get(&want.target)
            .filter(|(verb, _)| *verb == want.verb)
            .map(|(_, at)| *at + outcome::EFFECT_SEEN_WITHIN);
        retry.into_iter().chain(settled).max().filter(|at| *at > now).map(Some)
    }

    fn cancel(&mut self, id: ActionId, because: Reason, step: &mut Step) {
        if let Some(flight) = self.hands.0.get_mut(&id) {
            flight.cancelled = true;
            let target = flight.target.clone();
            let own = self.fresh();
            step.actions.push(Action {
                id: own,
                target,
                verb: Verb::Cancel(id),
                because,
            });
        }
    }

    fn fresh(&mut self) -> ActionId {
        self.next_id += 1;
        ActionId(self.next_id)
    }
}

/// Whether what the verb does shows in an observation.
pub(super) fn seen_in_runtime(verb: &Verb) -> bool {
    match verb {
        Verb::RunSandbox { .. }
        | Verb::StopSandbox
        | Verb::RemoveSandbox
        | Verb::Create { .. }
        | Verb::Start { .. }
        | Verb::Note { .. }
        | Verb::NoteSandbox { .. }
        | Verb::Stop { .. }
        | Verb::Resize { .. }
        | Verb::Remove { .. } => true,
        // The end of a hook is seen in the note about it.
        Verb::RunHook { .. }
        | Verb::Probe { .. }
        | Verb::MountVolumes
        | Verb::UnmountVolumes
        | Verb::Pull { .. }
        | Verb::Cancel(_)
        | Verb::ConfirmDeletion => false,
    }
}
