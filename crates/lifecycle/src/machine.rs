//! One pod on one node: absorb an input, plan from the whole state.
//!
//! Source: upstream `pod_workers.go` for the stages.

mod hand_out;
mod listen;
mod outcome;

use api::Time;
use api::node::{Observation, RunState};
use api::typed::PodStatus;

use crate::action::{Hands, InFlight, Step, Target, Verb};
use crate::event::{self, PodEvent};
use crate::flight::Flight;
use crate::input::{Container, Desired, Download, Input, Progress};
use crate::memory::{Ending, Memory};
use crate::plan::{self, Plan, World, terminate};
use crate::status;

/// Of a pod the runtime was not asked about yet.
static NOTHING_SEEN: Observation = Observation {
    sequence: 0,
    sandbox: None,
    containers: Vec::new(),
};

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

impl Stage {
    /// Stages only advance; asking to go back is ignored, not an error.
    fn advance(&mut self, to: Self) {
        *self = (*self).max(to);
    }
}

/// A pod on this node as one value. Does no I/O and never asks the time.
#[derive(Clone, Debug)]
pub struct Machine {
    desired: Desired,
    observed: Option<Observation>,
    /// An action ended unseen: the observation is older than it.
    stale: bool,
    last: Option<PodStatus>,
    /// Start time with more than the wire's whole seconds.
    first_seen: Option<Time>,
    stage: Stage,
    hands: Hands,
    next_id: u64,
    memory: Memory,
    flight: Flight,
    seed: u64,
}

impl Machine {
    /// `last` is the status the API holds. A restarted agent resumes from it
    /// and from its first observation, with no other memory. `seed` only
    /// spreads retries of many pods over time.
    ///
    /// Nothing is decided before the first [`Input::Observed`].
    #[must_use]
    pub fn new(desired: Desired, last: Option<PodStatus>, seed: u64) -> Self {
        let memory = Memory {
            resumed: desired.deletion.is_some(),
            ..Memory::default()
        };
        Self {
            desired,
            observed: None,
            stale: false,
            last,
            first_seen: None,
            stage: Stage::Sync,
            hands: Hands::default(),
            next_id: 0,
            memory,
            flight: Flight::default(),
            seed,
        }
    }

    /// Absorbs one input, then plans from the whole state.
    pub fn step(&mut self, now: Time, input: Input) -> Step {
        let mut step = Step::default();
        let mut flight = std::mem::take(&mut self.flight);
        flight.hear(self, now, &input);
        self.absorb(now, input, &mut step.events);
        if self.observed.is_some() {
            self.decide(now, &mut step);
        }
        flight.see(self, now, &mut step);
        self.flight = flight;
        step
    }

    fn decide(&mut self, now: Time, step: &mut Step) {
        let (plan, status) = self.plan(now, &mut step.events);
        self.publish(now, status, step);
        self.hand_out(now, plan, step);
        step.finished = self.stage == Stage::Terminated
            && self.hands.0.is_empty()
            && (self.desired.gone && self.forgotten(now) || self.desired.drain.is_some() && step.wake_at.is_none());
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

    fn absorb(&mut self, now: Time, input: Input, events: &mut Vec<PodEvent>) {
        match input {
            Input::Desired(desired) => {
                let gone = self.desired.gone || desired.gone;
                let eviction = desired.eviction.clone().or(self.desired.eviction.take());
                let drain = desired.drain.or(self.desired.drain);
                self.desired = Desired {
                    gone,
                    eviction,
                    drain,
                    ..*desired
                };
            }
            Input::Observed(seen) => self.see(now, seen),
            Input::Progress { id, progress } => {
                let told = self
                    .hands
                    .0
                    .get_mut(&id)
                    .and_then(|flight| progressed(flight, &progress, &self.desired));
                events.extend(told);
            }
            Input::Done { id, result, after } => {
                let unseen = after.is_none();
                if let Some(seen) = after {
                    self.see(now, seen);
                }
                if let Some(flight) = self.hands.0.remove(&id) {
                    self.stale |= unseen && hand_out::seen_in_runtime(&flight.verb);
                    self.ended(now, flight, result, events);
                }
            }
            Input::SourcesChanged => self.memory.sources_changed(now),
            Input::Tick => {}
        }
    }

    fn see(&mut self, now: Time, seen: Observation) {
        if self.observed.is_none() {
            let running = seen.containers.iter().filter(|c| matches!(c.state, RunState::Running { .. }));
            self.memory.found = running.map(|c| (c.id.clone(), now)).collect();
            self.memory.resume_pulls(&self.desired, &seen);
        }
        if self.observed.as_ref().is_none_or(|old| old.sequence < seen.sequence) {
            self.memory.keep(&seen.containers);
            self.observed = Some(seen);
            self.stale = false;
        }
    }

    /// What is to be done, and the status where deciding that took it.
    fn plan(&mut self, now: Time, events: &mut Vec<PodEvent>) -> (Plan, Option<PodStatus>) {
        if self.stage == Stage::Sync {
            match self.must_end(now) {
                Err(ending) => self.end(now, ending, events),
                Ok(status) => {
                    let mut plan = plan::sync(self.world(now));
                    if !plan.finished {
                        let deadline = self.desired.active_deadline.map(|d| self.start_time(now) + d);
                        deadline.into_iter().for_each(|at| plan.wake(at));
                        return (plan, Some(status));
                    }
                    self.end(now, Ending::Finished, events);
                }
            }
        }
        if !self.stale && terminate::over(self.world(now)) {
            self.stage.advance(Stage::Terminated);
        }
        let w = self.world(now);
        let plan = if self.stage == Stage::Terminated {
            terminate::finish(w)
        } else {
            terminate::plan(w)
        };
        (plan, None)
    }

    /// Why the pod has to end, if it has to; else its status.
    fn must_end(&self, now: Time) -> Result<PodStatus, Ending> {
        let seen = self.observed.as_ref();
        let untouched = seen.is_none_or(|s| s.sandbox.is_none() && s.containers.is_empty());
        if self.desired.gone {
            return Err(Ending::Gone);
        }
        if self.last.as_ref().is_some_and(status::is_terminal) {
            return Err(Ending::Finished);
        }
        if self.desired.rejection.is_some() && untouched && self.hands.0.is_empty() {
            return Err(Ending::Rejected);
        }
        if self.desired.active_deadline.is_some_and(|d| now >= self.start_time(now) + d) {
            return Err(Ending::DeadlineExceeded);
        }
        if self.desired.eviction.is_some() {
            return Err(Ending::Evicted);
        }
        if self.desired.deletion.is_some() {
            return Err(Ending::Deleted);
        }
        if self.desired.drain.is_some() {
            return Err(Ending::Drained);
        }
        // A status that says it is over ends it, whatever else could be done:
        // sidecars are not restarted for their own sake.
        let status = status::generate(self.world(now), Stage::Sync);
        if status::is_terminal(&status) {
            return Err(Ending::Finished);
        }
        Ok(status)
    }

    fn end(&mut self, now: Time, ending: Ending, events: &mut Vec<PodEvent>) {
        self.stage.advance(Stage::Terminating);
        self.memory.ending = Some(ending);
        self.memory.terminating_since = Some(now);
        self.memory.retries.clear();
        match (ending, &self.desired.rejection, &self.desired.eviction) {
            (Ending::Rejected, Some(rejection), _) => events.push(PodEvent::warning(&rejection.reason, rejection.message.clone())),
            // Upstream tells of evictions, and not of what ends with its node.
            (Ending::Evicted, _, Some(eviction))
                if [crate::input::EVICTED, crate::admit::PREEMPTING].contains(&eviction.reason.as_str()) =>
            {
                events.push(PodEvent::warning(&eviction.reason, eviction.message.clone()))
            }
            (Ending::DeadlineExceeded, _, _) => events.push(event::deadline_exceeded()),
            _ => {} // no event of its own
        }
    }

    fn start_time(&self, now: Time) -> Time {
        let wire = self.last.as_ref().and_then(|s| s.start_time.as_ref()).map(Time::from);
        self.first_seen.or(wire).unwrap_or(now)
    }

    /// Publishes the status if it says something new, with the events that the
    /// change itself stands for.
    fn publish(&mut self, now: Time, status: Option<PodStatus>, step: &mut Step) {
        if self.desired.gone {
            return;
        }
        if self.last.as_ref().is_none_or(|s| s.start_time.is_none()) {
            self.first_seen = Some(now);
        }
        let new = status.unwrap_or_else(|| status::generate(self.world(now), self.stage));
        if self.last.as_ref().is_some_and(|last| status::same(last, &new)) {
            return;
        }
        for container in self.desired.all() {
            let before = self.last.as_ref().and_then(|s| status::waiting_reason(s, &container.name));
            let events: &[PodEvent] = match status::waiting_reason(&new, &container.name).filter(|r| before != Some(r)) {
                Some("CrashLoopBackOff") => &[event::back_off_restart(&container.name, &self.desired.pod())],
                Some("ImagePullBackOff") => &[event::back_off_pull(&container.image), event::failed("ImagePullBackOff")],
                _ => &[], // other reasons told theirs when they arose
            };
            step.events.extend(events.iter().map(|e| e.clone().of(container.field_path())));
        }
        self.last = Some(new.clone());
        step.status = Some(new);
    }

    fn forgotten(&self, now: Time) -> bool {
        let w = self.world(now);
        !self.stale && terminate::empty(w) && (self.memory.unmounted || !self.desired.has_volumes)
    }

    fn world(&self, now: Time) -> World<'_> {
        World {
            now,
            desired: &self.desired,
            seen: self.observed.as_ref().unwrap_or(&NOTHING_SEEN),
            memory: &self.memory,
            hands: &self.hands,
            last: self.last.as_ref(),
        }
    }
}

/// What is told of how far an action got; nothing of what it has told before.
fn progressed(flight: &mut InFlight, progress: &Progress, desired: &Desired) -> Option<PodEvent> {
    match (&flight.target, &flight.verb, progress) {
        (Target::Container(name), Verb::Pull { image, .. }, Progress::Image(download)) => {
            if *download == Download::Began && std::mem::replace(&mut flight.pulling, true) {
                return None;
            }
            let path = plan::container_of(desired, name).map(Container::field_path)?;
            Some(event::download(image, *download).of(path))
        }
        (_, Verb::MountVolumes, Progress::VolumeImage { image, download }) => Some(event::download(image, *download)),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
