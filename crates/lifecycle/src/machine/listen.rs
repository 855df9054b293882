//! What the flight recorder may look at; see [`crate::flight`].

use api::Time;
use api::node::Observation;

use crate::action::{Hands, Target};
use crate::flight::{Outlook, outlook};
use crate::input::ProbeKind;
use crate::machine::Machine;
use crate::memory::Memory;
use crate::plan;

impl Machine {
    /// What happens next to the pod, and when, as far as it is known now.
    #[must_use]
    pub fn outlook(&self, now: Time) -> Outlook {
        outlook::of(self.world(now), self.stage, self.start_time(now))
    }

    pub(crate) fn memory(&self) -> &Memory {
        &self.memory
    }

    pub(crate) fn hands(&self) -> &Hands {
        &self.hands
    }

    pub(crate) fn observed(&self) -> Option<&Observation> {
        self.observed.as_ref()
    }

    /// When a failed action on a target is tried again.
    pub(crate) fn retry_at(&self, target: &Target) -> Option<Time> {
        let pull = match target {
            Target::Container(name) => self.memory.pulls.get(name).and_then(|pull| pull.result.as_ref().err()),
            _ => None, // images are of containers
        };
        self.memory
            .retry(target)
            .map(|retry| retry.next_at)
            .or(pull.map(|failure| failure.next_at))
    }

    /// So many failures of a probe make a result.
    pub(crate) fn threshold(&self, name: &str, kind: ProbeKind) -> u32 {
        let probe = plan::container_of(&self.desired, name).and_then(|container| container.probes.get(kind));
        probe.map_or(1, |probe| probe.failure_threshold)
    }
}
