//! One pod on one node: absorb an input, plan from the whole state.

use api::Time;
use api::node::Observation;
use api::typed::PodStatus;

use crate::action::{Hands, Step};
use crate::input::{Desired, Input};

/// How far a pod is on its one-way road, in upstream's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Being brought to, and held at, what the spec says.
    Sync,
    /// Everything is being stopped.
    Terminating,
    /// Nothing runs any more.
    Terminated,
}

/// A pod on this node as one value. Does no I/O and never asks the time.
#[derive(Clone, Debug)]
pub struct Machine {
    desired: Desired,
    observed: Option<Observation>,
    last: Option<PodStatus>,
    stage: Stage,
    hands: Hands,
    #[expect(dead_code, reason = "jitter of retries")]
    seed: u64,
}

impl Machine {
    /// `last` is the status the API holds. A restarted agent resumes from it
    /// and from its first observation, with no other memory. `seed` only
    /// spreads retries of many pods over time.
    #[must_use]
    pub fn new(desired: Desired, last: Option<PodStatus>, seed: u64) -> Self {
        Self {
            desired,
            observed: None,
            last,
            stage: Stage::Sync,
            hands: Hands::default(),
            seed,
        }
    }

    /// Absorbs one input, then plans from the whole state.
    pub fn step(&mut self, _now: Time, input: Input) -> Step {
        match input {
            Input::Desired(desired) => self.desired = *desired,
            Input::Observed(seen) => self.observed = Some(seen),
            Input::Progress { .. } | Input::Tick => {}
            Input::Done { id, after, .. } => {
                self.hands.0.remove(&id);
                self.observed = after.or(self.observed.take());
            }
        }
        Step::default()
    }

    /// How far the pod is.
    #[must_use]
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// What the pod should be, as last told.
    #[must_use]
    pub fn desired(&self) -> &Desired {
        &self.desired
    }

    /// The status as last published or found in the API.
    #[must_use]
    pub fn status(&self) -> Option<&PodStatus> {
        self.last.as_ref()
    }
}
