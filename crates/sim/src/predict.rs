//! What becomes of a pod under chosen behaviours, before anything is started:
//! the machine itself in virtual time, and the traps in a manifest.
//!
//! Latencies of the runtime are about what the real one takes; the rest is
//! exact.

mod behaviour;
mod traps;

use std::time::Duration;

use api::Time;
use api::node::Uid;
use api::typed::{Pod, PodStatus};
use lifecycle::flight::{Cause, Change, Transition};
use lifecycle::{Desired, NodeFacts, ParseError, ProbeKind, Probed, Role};
use serde::Serialize;

use crate::faults::Faults;
use crate::runtime::Life;
use crate::world::{Answers, Image, START, World};

pub use self::behaviour::{Behaviour, BehaviourError, What, time};

/// What is foreseen of a pod.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Prediction {
    /// So much was simulated.
    pub simulated_s: u64,
    /// What happens, in order.
    pub timeline: Vec<Moment>,
    /// The answers to what one wants to know of any pod.
    pub findings: Vec<String>,
    /// Traps in the manifest, and in how it meets the scenario.
    pub warnings: Vec<String>,
    /// Steps the machine took, all runs together.
    pub steps: u64,
}

/// Something that happens.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Moment {
    /// Since the pod was bound to its node.
    pub at_s: f64,
    /// How often it happens again in the same words.
    pub repeats: u32,
    /// In plain words.
    pub text: String,
}

/// Why nothing can be foreseen.
#[derive(Debug, thiserror::Error)]
pub enum PredictError {
    /// The pod is not one a node takes.
    #[error("the node would refuse the pod")]
    Pod(#[from] ParseError),
    /// A behaviour of a container the pod does not have.
    #[error("the scenario names container {0:?}, which the pod does not have")]
    Container(String),
}

/// How long a pod may take to become ready, or to go, before it counts as never.
const PATIENCE: Duration = Duration::from_secs(2 * 3600);

/// Foresees `horizon` of a pod's life.
///
/// # Errors
/// When the pod cannot be parsed, or a behaviour names none of its containers.
pub fn predict(pod: &Pod, behaviours: &[Behaviour], horizon: Duration) -> Result<Prediction, PredictError> {
    let mut pod = pod.clone();
    pod.metadata.uid = Some("simulated".to_owned());
    pod.metadata.namespace.get_or_insert_with(|| "default".to_owned());
    let desired = Desired::parse(&pod, &NodeFacts::default())?;
    let names = || desired.all().map(|container| container.name.as_str());
    for behaviour in behaviours {
        if let Some(name) = behaviour.container.as_deref().filter(|name| !names().any(|known| known == *name)) {
            return Err(PredictError::Container(name.to_owned()));
        }
    }
    let mut seer = Seer { pod, desired, steps: 0 };
    let mut world = seer.world(behaviours);
    let uid = seer.desired.uid.clone();
    let ready_at = ready(&mut world, &uid, horizon);
    world.run_to(START + horizon);
    let flight: Vec<Transition> = world.flights.remove(&uid).unwrap_or_default().into();
    seer.steps += world.steps;
    let findings = seer.findings(behaviours, ready_at, horizon);
    let mut warnings = traps::in_manifest(&seer.desired);
    warnings.extend(traps::in_flight(&flight));
    Ok(Prediction {
        simulated_s: horizon.as_secs(),
        timeline: timeline(&flight),
        findings,
        warnings,
        steps: seer.steps,
    })
}

/// Runs until the pod is Ready; since when it is.
fn ready(world: &mut World, uid: &Uid, limit: Duration) -> Option<Duration> {
    let is = |status: &PodStatus| status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
    let reached = world.run_until(limit, |world| world.status(uid).is_some_and(is));
    reached.then(|| world.now.since(START))
}

/// Transitions as lines; what repeats in the same words is counted.
fn timeline(flight: &[Transition]) -> Vec<Moment> {
    let mut moments: Vec<Moment> = Vec::new();
    let mut last: Option<(&Transition, usize)> = None;
    for transition in flight {
        if let (Change::ProbeFailed { probe, output, .. }, Some((before, index))) = (&transition.change, last)
            && let Change::ProbeFailed {
                probe: other,
                output: said,
                ..
            } = &before.change
            && (probe, output, &transition.container) == (other, said, &before.container)
        {
            moments[index].repeats += 1;
            continue;
        }
        last = Some((transition, moments.len()));
        moments.push(Moment {
            at_s: transition.at.since(START).as_secs_f64(),
            repeats: 0,
            text: transition.to_string(),
        });
    }
    moments
}

/// Asks one world after the other.
struct Seer {
    pod: Pod,
    desired: Desired,
    steps: u64,
}

impl Seer {
    /// A world with the pod and these behaviours. Init containers end well
    /// after a second; the others run until they are told to stop.
    fn world(&self, behaviours: &[Behaviour]) -> World {
        let mut world = World::new(1, Faults::none());
        world.quiet = true;
        let uid = world.create_pod(self.pod.clone());
        for container in self.desired.all() {
            let key = (uid.clone(), container.name.clone());
            let mut life = Life::SERVER;
            if container.role == Role::Init {
                life.runs = Some(Duration::from_secs(1));
            }
            let mut answers = Answers::default();
            let own = |behaviour: &&Behaviour| behaviour.container.as_ref().is_none_or(|name| *name == container.name);
            for behaviour in behaviours.iter().filter(own) {
                // A behaviour of every container is meant of those that last.
                let lasts = behaviour.container.is_some() || container.role != Role::Init;
                match &behaviour.what {
                    What::StartsIn(delay) => answers.from = *delay,
                    What::EndsAfter(time, code) if lasts => (life.runs, life.code) = (Some(*time), *code),
                    What::EndsAfter(..) => {}
                    What::IgnoresSigterm => life.obeys_after = None,
                    What::Answers { status, from } => {
                        answers.fails_from = Some(*from);
                        answers.output = format!("HTTP probe failed with statuscode: {status}");
                    }
                    What::HooksHang => world.hooks_hang = true,
                    What::ImageMissing => drop(world.images.insert(container.image.clone(), Image::Broken)),
                    What::PullTakes(time) => drop(world.images.insert(container.image.clone(), Image::Absent(*time))),
                }
            }
            world.lives.insert(key.clone(), vec![life]);
            world.answers.insert(key, answers);
        }
        world
    }

    fn findings(&mut self, behaviours: &[Behaviour], ready_at: Option<Duration>, horizon: Duration) -> Vec<String> {
        let mut findings = Vec::new();
        let mut best = self.world(&[]);
        let at_best = ready(&mut best, &self.desired.uid, PATIENCE);
        self.steps += best.steps;
        let best_text = at_best.map_or_else(|| "never".to_owned(), |at| format!("after {}", seconds(at)));
        let here = match ready_at {
            Some(at) => format!("after {}", seconds(at)),
            None => format!("not within {}", seconds(horizon)),
        };
        findings.push(if behaviours.is_empty() {
            format!("first Ready: {best_text}, when its containers answer at once")
        } else {
            format!("first Ready: {here} under this scenario; {best_text} when its containers answer at once")
        });
        let containers = self.desired.all().cloned().collect::<Vec<_>>();
        for container in &containers {
            for kind in [ProbeKind::Startup, ProbeKind::Liveness] {
                if container.probes.get(kind).is_some() {
                    let after = self.killed_after(&container.name, kind);
                    let name = &container.name;
                    let kind = kind.as_str();
                    findings.extend(after.map(|after| {
                        format!(
                            "container {name}: its {kind} probe, should it always fail, has it stopped {} after its start at the earliest",
                            seconds(after)
                        )
                    }));
                }
            }
        }
        findings.extend(self.termination());
        findings.extend(self.back_off());
        findings
    }

    /// From a container's start to the stop a probe that always fails causes.
    fn killed_after(&mut self, name: &str, kind: ProbeKind) -> Option<Duration> {
        let mut world = self.world(&[]);
        let uid = self.desired.uid.clone();
        world
            .probes
            .insert((uid.clone(), name.to_owned(), kind), Probed::Failure("always".to_owned()));
        let stops = |transition: &Transition| {
            transition.container.as_deref() == Some(name) && matches!(transition.because, Some(Cause::Probe { .. }))
        };
        let reached = world.run_until(PATIENCE, |world| {
            world.flights.get(&uid).is_some_and(|flight| flight.iter().any(stops))
        });
        self.steps += world.steps;
        let flight = world.flights.remove(&uid).filter(|_| reached)?;
        let started = flight
            .iter()
            .find(|t| t.container.as_deref() == Some(name) && t.change == Change::Running)?;
        let stopped = flight.iter().find(|transition| stops(transition))?;
        Some(stopped.at.since(started.at))
    }

    /// The longest a deletion takes: nothing obeys, every hook hangs.
    fn termination(&mut self) -> Option<String> {
        let mut worst = self.world(&[]);
        let uid = self.desired.uid.clone();
        ready(&mut worst, &uid, PATIENCE)?;
        worst.hooks_hang = true;
        worst.runtime.ignore_signals(&uid);
        let asked = worst.now;
        worst.delete(&uid, None);
        let gone = worst.run_until(PATIENCE, |world| !world.api.contains_key(&uid));
        self.steps += worst.steps;
        let took = worst.now.since(asked);
        gone.then(|| {
            format!(
                "a deletion takes {} at worst, when nothing obeys and every preStop hook hangs",
                seconds(took)
            )
        })
    }

    /// When a container that crashes at once is started again and again.
    fn back_off(&mut self) -> Option<String> {
        let container = self.desired.containers.first()?.clone();
        let crash = Behaviour {
            container: Some(container.name.clone()),
            what: What::EndsAfter(Duration::ZERO, 1),
        };
        let mut world = self.world(&[crash]);
        let uid = self.desired.uid.clone();
        world.run_to(START + Duration::from_secs(3_600));
        self.steps += world.steps;
        let flight = world.flights.remove(&uid)?;
        let own = flight.iter().filter(|t| t.container.as_deref() == Some(container.name.as_str()));
        let mut ended: Option<Time> = None;
        let mut delays = Vec::new();
        for transition in own {
            match (&transition.change, ended) {
                (Change::Exited { .. }, _) => ended = Some(transition.at),
                (Change::Created, Some(before)) => delays.push(transition.at.since(before).as_secs()),
                _ => {} // not a restart
            }
        }
        let name = &container.name;
        if delays.is_empty() {
            return Some(format!("container {name} is not restarted when it crashes"));
        }
        let mut shown: Vec<String> = delays.iter().take(8).map(|s| seconds(Duration::from_secs(*s))).collect();
        shown.dedup();
        Some(format!(
            "container {name}, should it crash at once every time, is restarted after {}",
            shown.join(", ")
        ))
    }
}

/// Durations for people.
fn seconds(time: Duration) -> String {
    let exact = if time < Duration::from_secs(10) {
        Duration::from_millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
    } else {
        Duration::from_secs(time.as_secs())
    };
    lifecycle::event::duration(exact)
}

#[cfg(test)]
mod tests;
