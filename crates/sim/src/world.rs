//! One node in virtual time: a heap of instants, popped one by one.

mod act;
mod user;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use api::Time;
use api::node::{ContainerId, ExitCause, Observation, Uid};
use api::typed::{Pod, PodStatus};
use lifecycle::flight::Transition;
use lifecycle::{
    Action, ActionId, Desired, Download, Failure, Input, Machine, NodeFacts, Outcome, ProbeKind, Probed, Progress, Rejection, Step,
};

use crate::check::Checker;
use crate::faults::Faults;
use crate::runtime::{FakeRuntime, Life};
use crate::trace::{self, Trace};

/// When every world begins: a whole second.
pub const START: Time = Time::from_secs(1_700_000_000);

/// Transitions of a pod that are kept.
const FLIGHT_KEPT: usize = 4_096;

/// What is known of an image outside the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Image {
    /// On the node.
    Present,
    /// To be fetched, which takes so long.
    Absent(Duration),
    /// The registry refuses.
    Broken,
    /// Not a name.
    Invalid,
}

/// When a process answers probes, since its start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answers {
    /// It does not listen before.
    pub from: Duration,
    /// It answers badly from then on.
    pub fails_from: Option<Duration>,
    /// With these words.
    pub output: String,
}

/// Something that is to happen at an instant.
#[derive(Clone, Debug)]
pub(crate) enum Happening {
    /// The agent takes an action up and it has its effect.
    Effect { uid: Uid, epoch: u64, action: Action },
    /// The end of an action reaches the machine.
    Done {
        uid: Uid,
        epoch: u64,
        id: ActionId,
        result: Result<Outcome, Failure>,
        seen: bool,
    },
    /// A download has begun.
    Progress { uid: Uid, epoch: u64, id: ActionId },
    /// The machine asked to be woken.
    Wake { uid: Uid, epoch: u64, number: u64 },
    /// A hint of the runtime.
    Hint { uid: Uid },
    /// A process ends by itself, or is killed by the agent of an epoch.
    Exit {
        uid: Uid,
        id: ContainerId,
        started_at: Time,
        code: i32,
        killer: Option<u64>,
    },
    /// A status reaches the API.
    Write { uid: Uid, epoch: u64 },
    /// The API's object reaches the agent.
    Watch { uid: Uid },
    /// The agent is back.
    AgentStarts,
    /// The agent looks at everything again.
    Relist,
}

/// A pod's machine in the agent.
#[derive(Clone, Debug)]
pub(crate) struct Worker {
    pub(crate) machine: Machine,
    pub(crate) wake: u64,
    pub(crate) last_seen: Option<Observation>,
    pub(crate) unwritten: Option<PodStatus>,
    /// Stops that wait for a process to end, by attempt.
    pub(crate) waiting: Vec<(ActionId, ContainerId)>,
}

/// A node, its runtime and the API, at one instant.
pub struct World {
    /// The present.
    pub now: Time,
    /// What goes wrong.
    pub faults: Faults,
    /// What happened.
    pub trace: Trace,
    /// The runtime.
    pub runtime: FakeRuntime,
    /// Pods in the API.
    pub api: BTreeMap<Uid, Pod>,
    /// Images by reference; others are present.
    pub images: BTreeMap<String, Image>,
    /// Lives of a container's attempts; the last is every later one's.
    pub lives: BTreeMap<(Uid, String), Vec<Life>>,
    /// How a container's probes end; others succeed.
    pub probes: BTreeMap<(Uid, String, ProbeKind), Probed>,
    /// When a container's processes answer probes; others always do.
    pub answers: BTreeMap<(Uid, String), Answers>,
    /// Hooks that are no sleep do not end.
    pub hooks_hang: bool,
    /// Failures to be given to the next actions whose text begins so.
    pub failing: Vec<(String, Failure)>,
    /// Neither laws are checked nor lines written: for predictions, which ask
    /// the machine what will be, not whether it is right.
    pub quiet: bool,
    /// Steps taken by machines.
    pub steps: u64,
    /// Events recorded, by pod and reason.
    pub events: BTreeMap<(Uid, String), u64>,
    /// What the flight recorder was told, by pod: the newest.
    pub flights: BTreeMap<Uid, VecDeque<Transition>>,
    pub(crate) workers: BTreeMap<Uid, Worker>,
    pub(crate) forgotten: BTreeSet<Uid>,
    pub(crate) rejections: BTreeMap<Uid, Rejection>,
    pub(crate) epoch: u64,
    pub(crate) agent_up: bool,
    pub(crate) checker: Checker,
    heap: BTreeMap<(Time, u64), Happening>,
    order: u64,
    seed: u64,
}

impl World {
    /// An empty node.
    #[must_use]
    pub fn new(seed: u64, faults: Faults) -> Self {
        let mut world = Self {
            now: START,
            faults,
            trace: Trace::default(),
            runtime: FakeRuntime::default(),
            api: BTreeMap::new(),
            images: BTreeMap::new(),
            lives: BTreeMap::new(),
            probes: BTreeMap::new(),
            answers: BTreeMap::new(),
            hooks_hang: false,
            failing: Vec::new(),
            quiet: false,
            steps: 0,
            events: BTreeMap::new(),
            flights: BTreeMap::new(),
            workers: BTreeMap::new(),
            forgotten: BTreeSet::new(),
            rejections: BTreeMap::new(),
            epoch: 0,
            agent_up: true,
            checker: Checker::default(),
            heap: BTreeMap::new(),
            order: 0,
            seed,
        };
        world.after(Duration::from_secs(30), Happening::Relist);
        world
    }

    /// Lets time pass up to an instant.
    pub fn run_to(&mut self, until: Time) {
        while let Some(entry) = self.heap.first_entry().filter(|e| e.key().0 <= until) {
            let ((at, _), happening) = entry.remove_entry();
            self.now = at;
            self.happen(happening);
        }
        self.now = until;
    }

    /// Lets time pass until something holds; false if it does not within
    /// `limit`.
    pub fn run_until(&mut self, limit: Duration, holds: impl Fn(&Self) -> bool) -> bool {
        let end = self.now + limit;
        while !holds(self) {
            let Some(entry) = self.heap.first_entry().filter(|e| e.key().0 <= end) else {
                return false;
            };
            let ((at, _), happening) = entry.remove_entry();
            self.now = at;
            self.happen(happening);
        }
        true
    }

    /// The status the API shows.
    #[must_use]
    pub fn status(&self, uid: &Uid) -> Option<&PodStatus> {
        self.api.get(uid)?.status.as_ref()
    }

    /// Whether anything goes on: an action under way, or a process to end.
    #[must_use]
    pub fn machine(&self, uid: &Uid) -> Option<&Machine> {
        self.workers.get(uid).map(|w| &w.machine)
    }

    /// Panics with the seed and the last lines: an invariant does not hold.
    pub(crate) fn broken(&self, what: &str) -> ! {
        panic!(
            "seed {}: {what}\nat {:?}\n{}",
            self.seed,
            trace::since_start(self.now),
            self.trace.tail(80)
        );
    }

    pub(crate) fn after(&mut self, delay: Duration, happening: Happening) {
        self.order += 1;
        self.heap.insert((self.now + delay, self.order), happening);
    }

    pub(crate) fn say(&mut self, text: &str) {
        self.trace.line(trace::since_start(self.now), text);
    }

    fn happen(&mut self, happening: Happening) {
        let uid = match &happening {
            Happening::Effect { uid, .. }
            | Happening::Done { uid, .. }
            | Happening::Progress { uid, .. }
            | Happening::Wake { uid, .. }
            | Happening::Hint { uid }
            | Happening::Exit { uid, .. }
            | Happening::Write { uid, .. }
            | Happening::Watch { uid } => Some(uid.clone()),
            Happening::AgentStarts | Happening::Relist => None,
        };
        match happening {
            Happening::Effect { uid, epoch, action } if epoch == self.epoch => self.effect(&uid, action),
            Happening::Done {
                uid,
                epoch,
                id,
                result,
                seen,
            } if epoch == self.epoch => self.done(&uid, id, result, seen),
            Happening::Progress { uid, epoch, id } if epoch == self.epoch => {
                self.tell(
                    &uid,
                    Input::Progress {
                        id,
                        progress: Progress::Image(Download::Began),
                    },
                );
            }
            Happening::Wake { uid, epoch, number } if epoch == self.epoch => {
                if self.workers.get(&uid).is_some_and(|w| w.wake == number) {
                    self.tell(&uid, Input::Tick);
                }
            }
            Happening::Write { uid, epoch } if epoch == self.epoch => self.write(&uid),
            // Of an agent that is no more.
            Happening::Effect { .. }
            | Happening::Done { .. }
            | Happening::Progress { .. }
            | Happening::Wake { .. }
            | Happening::Write { .. } => return,
            Happening::Hint { uid } => self.hint(&uid),
            Happening::Exit { killer: Some(epoch), .. } if epoch != self.epoch => return,
            Happening::Exit {
                uid, id, started_at, code, ..
            } => self.process_ends(&uid, &id, started_at, code),
            Happening::Watch { uid } => self.watched(&uid),
            Happening::AgentStarts => self.agent_starts(),
            Happening::Relist => self.relist(),
        }
        let Some(uid) = uid else { return };
        if self.faults.strikes(self.now, |w| w.sandbox_dies) && self.runtime.held(&uid).is_some() {
            self.sandbox_dies(&uid);
        }
        if self.agent_up && self.faults.strikes(self.now, |w| w.agent_dies) {
            let away = self.faults.rng.within(Duration::from_secs(20));
            self.agent_dies(away);
        }
    }

    /// Gives a machine an input and does what it says.
    pub(crate) fn tell(&mut self, uid: &Uid, input: Input) {
        let Some(worker) = self.workers.get_mut(uid) else { return };
        match &input {
            Input::Observed(seen) | Input::Done { after: Some(seen), .. } => worker.last_seen = Some(seen.clone()),
            Input::Done { after: None, .. } => worker.last_seen = None,
            Input::Desired(_) | Input::Progress { .. } | Input::SourcesChanged | Input::Tick => {}
        }
        let before = worker.machine.stage();
        let step = worker.machine.step(self.now, input);
        self.steps += 1;
        let lawful = if self.quiet {
            self.checker.one_hand_per_target(uid, &step)
        } else {
            self.checker
                .step(self.now, uid, before, &worker.machine, &step, worker.last_seen.as_ref())
        };
        worker.wake += 1;
        let (number, epoch) = (worker.wake, self.epoch);
        let news = step.status.clone();
        if news.is_some() {
            worker.unwritten = news;
        }
        self.record(uid, &step);
        if let Err(broken) = lawful {
            self.broken(&broken);
        }
        if let Some(at) = step.wake_at {
            self.after(
                at.since(self.now),
                Happening::Wake {
                    uid: uid.clone(),
                    epoch,
                    number,
                },
            );
        }
        if step.status.is_some() {
            self.after(Duration::from_millis(2), Happening::Write { uid: uid.clone(), epoch });
        }
        if step.finished {
            self.workers.remove(uid);
            self.forgotten.insert(uid.clone());
        }
        for action in step.actions {
            self.take_up(uid, action);
        }
    }

    fn record(&mut self, uid: &Uid, step: &Step) {
        if self.quiet {
            self.fly(uid, step);
            return;
        }
        self.trace.about(if self.api.len() + self.forgotten.len() > 1 {
            uid.as_str()
        } else {
            ""
        });
        for event in &step.events {
            *self.events.entry((uid.clone(), event.reason.clone())).or_default() += 1;
            self.say(&trace::event(event));
        }
        if let Some(status) = &step.status {
            self.say(&trace::status(status));
        }
        for action in &step.actions {
            self.say(&trace::action(action));
        }
        if step.finished {
            self.say("finished");
        }
        self.fly(uid, step);
    }

    fn fly(&mut self, uid: &Uid, step: &Step) {
        if step.transitions.is_empty() {
            return;
        }
        let flight = self.flights.entry(uid.clone()).or_default();
        flight.extend(step.transitions.iter().cloned());
        flight.drain(..flight.len().saturating_sub(FLIGHT_KEPT));
    }

    /// A status reaches the API, unless it is lost; then it comes later.
    fn write(&mut self, uid: &Uid) {
        if self.faults.strikes(self.now, |w| w.drop_status) {
            let epoch = self.epoch;
            self.after(Duration::from_millis(500), Happening::Write { uid: uid.clone(), epoch });
            return;
        }
        let Some(status) = self.workers.get_mut(uid).and_then(|w| w.unwritten.take()) else {
            return;
        };
        self.store_status(uid, status);
    }

    pub(crate) fn store_status(&mut self, uid: &Uid, mut status: PodStatus) {
        let Some(pod) = self.api.get_mut(uid) else { return };
        let old = pod.status.take();
        let own = [
            "PodReadyToStartContainers",
            "Initialized",
            "Ready",
            "ContainersReady",
            "PodScheduled",
        ];
        let foreign = |s: &PodStatus| {
            s.conditions
                .iter()
                .flatten()
                .filter(|c| !own.contains(&c.type_.as_str()))
                .cloned()
                .collect::<Vec<_>>()
        };
        let others = old.as_ref().map(foreign).unwrap_or_default();
        let mine = status
            .conditions
            .take()
            .unwrap_or_default()
            .into_iter()
            .filter(|c| !others.iter().any(|o| o.type_ == c.type_));
        status.conditions = Some(others.iter().cloned().chain(mine).collect());
        pod.status = Some(status.clone());
        let generation = pod.metadata.generation;
        if let Err(broken) = self.checker.written(uid, generation, old.as_ref(), &status) {
            self.broken(&broken);
        }
        self.after(Duration::from_millis(1), Happening::Watch { uid: uid.clone() });
    }

    /// The agent learns of the API's object.
    fn watched(&mut self, uid: &Uid) {
        if !self.agent_up {
            return;
        }
        match (self.api.get(uid), self.workers.get(uid)) {
            (Some(pod), Some(_)) => {
                let desired = self.parse(pod);
                self.tell(uid, Input::Desired(Box::new(desired)));
            }
            (Some(_), None) => self.adopt(uid),
            (None, Some(worker)) => {
                let desired = worker.machine.desired().clone().vanished();
                self.tell(uid, Input::Desired(Box::new(desired)));
            }
            (None, None) => {}
        }
    }

    fn parse(&self, pod: &Pod) -> Desired {
        let facts = NodeFacts {
            host_ips: vec![std::net::IpAddr::from([192, 168, 0, 1])],
        };
        let mut desired = Desired::parse(pod, &facts).expect("worlds only hold pods that parse");
        desired.rejection = self.rejections.get(&desired.uid).cloned();
        desired
    }

    /// A machine for a pod of the API, or for one only the runtime knows.
    fn adopt(&mut self, uid: &Uid) {
        let (desired, last) = match self.api.get(uid) {
            Some(pod) => (self.parse(pod), pod.status.clone().filter(|s| s.start_time.is_some())),
            None => (Desired::orphan(uid.clone()), None),
        };
        let machine = Machine::new(desired, last, self.seed);
        let worker = Worker {
            machine,
            wake: 0,
            last_seen: None,
            unwritten: None,
            waiting: Vec::new(),
        };
        self.workers.insert(uid.clone(), worker);
        self.checker.adopted(uid);
        let seen = self.runtime.observe(uid);
        self.tell(uid, Input::Observed(seen));
    }

    fn hint(&mut self, uid: &Uid) {
        if self.agent_up && self.workers.contains_key(uid) && !self.faults.strikes(self.now, |w| w.drop_hint) {
            let seen = self.runtime.observe(uid);
            self.tell(uid, Input::Observed(seen));
        }
    }

    /// The floor under hints: now and then everything is looked at again.
    fn relist(&mut self) {
        self.after(Duration::from_secs(30), Happening::Relist);
        if !self.agent_up {
            return;
        }
        for uid in self.workers.keys().cloned().collect::<Vec<_>>() {
            let seen = self.runtime.observe(&uid);
            self.tell(&uid, Input::Observed(seen));
        }
    }

    fn process_ends(&mut self, uid: &Uid, id: &ContainerId, started_at: Time, code: i32) {
        let same = self
            .runtime
            .held(uid)
            .and_then(|h| h.attempt(id))
            .and_then(crate::runtime::Attempt::started_at)
            == Some(started_at);
        if same && self.runtime.end(self.now, uid, id, code, ExitCause::Process) {
            self.attempt_ended(uid, id);
        }
    }

    /// Hints, and ends the stops that waited.
    pub(crate) fn attempt_ended(&mut self, uid: &Uid, id: &ContainerId) {
        self.after(Duration::from_millis(1), Happening::Hint { uid: uid.clone() });
        let Some(worker) = self.workers.get_mut(uid) else { return };
        let (over, still): (Vec<_>, Vec<_>) = std::mem::take(&mut worker.waiting)
            .into_iter()
            .partition(|(_, waited)| waited == id);
        worker.waiting = still;
        for (action, _) in over {
            self.ends(uid, action, Ok(Outcome::Done));
        }
    }

    pub(crate) fn ends(&mut self, uid: &Uid, id: ActionId, result: Result<Outcome, Failure>) {
        let seen = !self.faults.strikes(self.now, |w| w.unseen);
        let epoch = self.epoch;
        self.after(
            Duration::from_millis(1),
            Happening::Done {
                uid: uid.clone(),
                epoch,
                id,
                result,
                seen,
            },
        );
    }

    fn done(&mut self, uid: &Uid, id: ActionId, result: Result<Outcome, Failure>, seen: bool) {
        let after = seen.then(|| self.runtime.observe(uid));
        if let Err(failure) = &result
            && !self.checker.cancelled(uid, id)
        {
            self.say(&format!("failed {:?}: {failure}", failure.class));
        }
        self.checker.ended(uid, id);
        self.tell(uid, Input::Done { id, result, after });
        if !seen {
            // The driver keeps trying to look until the runtime answers.
            self.after(Duration::from_millis(50), Happening::Hint { uid: uid.clone() });
        }
    }
}
