//! The laws under arbitrary inputs: observations that make no sense, ends of
//! actions that never began, desired states that jump about.

use std::time::Duration;

use api::node::{ContainerId, ContainerView, Exit, ExitCause, Observation, RunState, SandboxView};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::action::{Action, ActionId};
use crate::input::{Deletion, Download, Eviction, Failure, FailureClass, NodeFacts, Outcome, Probed, Pulled, Rejection};

const NAMES: [&str; 5] = ["init", "side", "app", "log", "stranger"];

fn desired(policy: &str) -> Desired {
    let pod = json!({
        "metadata": {"name": "p", "namespace": "d", "uid": "u-1"},
        "spec": {
            "restartPolicy": policy,
            "initContainers": [{"name": "init", "image": "x:1"}, {
                "name": "side", "image": "x:1", "restartPolicy": "Always",
                "lifecycle": {"postStart": {"exec": {"command": ["true"]}}}, "startupProbe": {"tcpSocket": {"port": 80}, "periodSeconds": 2},
            }],
            "containers": [
                {"name": "app", "image": "x:1", "livenessProbe": {"tcpSocket": {"port": 80}, "failureThreshold": 1}},
                {
                    "name": "log", "image": "x:1", "readinessProbe": {"tcpSocket": {"port": 80}, "initialDelaySeconds": 3},
                    "lifecycle": {"postStart": {"sleep": {"seconds": 3}}, "preStop": {"sleep": {"seconds": 3}}},
                },
            ],
            "volumes": [{"name": "v", "emptyDir": {}}],
        },
    });
    Desired::parse(&serde_json::from_value(pod).unwrap(), &NodeFacts::default()).unwrap()
}

/// An input, without what only the moment knows.
#[derive(Clone, Debug)]
enum Happens {
    Observed(Option<(u32, bool)>, Vec<ContainerView>),
    Done(usize, Option<FailureClass>, bool),
    Begins(usize),
    Deleted(u64),
    Gone,
    Evicted,
    Rejected,
    Image(&'static str),
    Deadline(u64),
    Tick,
}

fn view() -> impl Strategy<Value = ContainerView> {
    let exit = (prop::sample::select(vec![0, 1, 137]), 0_i64..400);
    let state = prop_oneof![
        Just(RunState::Created),
        (0_i64..400).prop_map(|s| RunState::Running {
            started_at: Time::from_secs(s)
        }),
        exit.prop_map(|(code, s)| RunState::Exited(Exit {
            code,
            started_at: None,
            finished_at: Time::from_secs(s),
            cause: ExitCause::Process,
            message: String::new(),
        })),
    ];
    (prop::sample::select(NAMES.to_vec()), 0_u32..4, state, 0_u32..5).prop_map(|(name, attempt, state, noted)| {
        let note = match noted {
            0 => Some(("back-off-s", "40")),
            1 => Some(("post-start", "done")),
            2 => Some(("post-start", "it failed")),
            3 => Some(("killed", "liveness")),
            _ => None,
        };
        let notes = note.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        ContainerView {
            id: ContainerId(format!("{name}-{attempt}")),
            name: name.to_owned(),
            attempt,
            image: "x:1".to_owned(),
            image_id: String::new(),
            stop_signal: String::new(),
            created_at: Time::from_secs(0),
            state,
            oom_kills: 0,
            resources: None,
            notes,
        }
    })
}

fn happens() -> impl Strategy<Value = Happens> {
    let classes = vec![
        FailureClass::ErrImagePull,
        FailureClass::RunContainerError,
        FailureClass::Kill,
        FailureClass::Cancelled,
    ];
    prop_oneof![
        8 => (prop::option::of((0_u32..3, any::<bool>())), prop::collection::vec(view(), 0..6)).prop_map(|(s, c)| Happens::Observed(s, c)),
        12 => (0_usize..9, prop::option::weighted(0.3, prop::sample::select(classes)), any::<bool>()).prop_map(|(i, f, s)| Happens::Done(i, f, s)),
        2 => (0_usize..9).prop_map(Happens::Begins),
        1 => (1_u64..40).prop_map(Happens::Deleted),
        1 => Just(Happens::Gone),
        1 => Just(Happens::Evicted),
        1 => Just(Happens::Rejected),
        1 => prop::sample::select(vec!["x:1", "x:2"]).prop_map(Happens::Image),
        1 => (1_u64..200).prop_map(Happens::Deadline),
        4 => Just(Happens::Tick),
    ]
}

/// A machine, and what a driver would know of it.
struct Driver {
    machine: Machine,
    now: Time,
    sequence: u64,
    in_flight: Vec<Action>,
    wanted: Desired,
}

impl Driver {
    fn input(&mut self, happens: Happens) -> Input {
        let pick = |index: usize, from: &[Action]| from.get(index % from.len().max(1)).map_or(ActionId(9_999), |a| a.id);
        match happens {
            Happens::Observed(sandbox, containers) => {
                self.sequence += 1;
                let ips = vec![std::net::IpAddr::from([10, 0, 0, 1])];
                let sandbox = sandbox.map(|(attempt, ready)| SandboxView {
                    attempt,
                    ready,
                    ips,
                    created_at: Time(0),
                    notes: Default::default(),
                });
                return Input::Observed(Observation {
                    sequence: self.sequence,
                    sandbox,
                    containers,
                });
            }
            Happens::Done(index, failure, bare) => {
                let id = pick(index, &self.in_flight);
                let fetched = Pulled::Fetched {
                    took: Duration::from_secs(1),
                    waited: Duration::ZERO,
                    size_bytes: 1,
                };
                let verb = self.in_flight.iter().find(|a| a.id == id).map(|a| &a.verb);
                let outcome = match verb {
                    Some(Verb::Probe { .. }) if bare => Outcome::Probed(Probed::Failure("no".into())),
                    Some(Verb::Probe { .. }) => Outcome::Probed(Probed::Success),
                    _ if bare => Outcome::Done,
                    _ => Outcome::Pulled(fetched),
                };
                self.in_flight.retain(|a| a.id != id);
                let result = failure.map_or(Ok(outcome), |class| Err(Failure::new(class, "no")));
                return Input::Done { id, result, after: None };
            }
            Happens::Begins(index) => {
                return Input::Progress {
                    id: pick(index, &self.in_flight),
                    progress: Progress::Image(Download::Began),
                };
            }
            Happens::Tick => return Input::Tick,
            Happens::Deleted(s) => {
                let grace = self.wanted.deletion.map_or(s, |d| d.grace.as_secs().min(s));
                self.wanted.deletion = Some(Deletion {
                    at: self.now + Duration::from_secs(grace),
                    grace: Duration::from_secs(grace),
                });
            }
            Happens::Gone => self.wanted.gone = true,
            Happens::Evicted => {
                self.wanted.eviction = Some(Eviction {
                    reason: "Evicted".into(),
                    message: "memory".into(),
                    grace: None,
                });
            }
            Happens::Rejected => {
                self.wanted.rejection = Some(Rejection {
                    reason: "OutOfcpu".into(),
                    message: "cpu".into(),
                })
            }
            Happens::Image(image) => self.wanted.containers[0].image = image.to_owned(),
            Happens::Deadline(s) => self.wanted.active_deadline = Some(Duration::from_secs(s)),
        }
        Input::Desired(Box::new(self.wanted.clone()))
    }

    fn step(&mut self, input: Input) -> Result<(), TestCaseError> {
        let before = (self.machine.stage(), self.machine.status().cloned());
        let step = self.machine.step(self.now, input);
        let after = self.machine.stage();
        prop_assert!(before.0 <= after, "forward only: {:?} to {after:?}", before.0);
        if let (Some(old), Some(new)) = (&before.1, &step.status) {
            let terminal = matches!(old.phase.as_deref(), Some("Succeeded" | "Failed"));
            prop_assert!(!terminal || old.phase == new.phase, "a terminal phase stays");
        }
        for action in &step.actions {
            if let Verb::Cancel(id) = action.verb {
                self.in_flight.retain(|a| a.id != id);
                continue;
            }
            prop_assert!(
                !self.in_flight.iter().any(|a| a.target == action.target),
                "one hand on {}",
                action.target
            );
            let begins = matches!(
                action.verb,
                Verb::Create { .. } | Verb::Start { .. } | Verb::RunSandbox { .. } | Verb::Pull { .. }
            );
            prop_assert!(after == Stage::Sync || !begins, "no start after the end: {action:?}");
            self.in_flight.push(action.clone());
        }
        prop_assert!(step.wake_at.is_none_or(|at| at > self.now), "woken at once");
        let again = self.machine.clone().step(self.now, Input::Tick);
        prop_assert!(
            again.status.is_none() && again.events.is_empty() && again.actions.is_empty(),
            "not idempotent: {again:?}"
        );
        prop_assert_eq!(again.wake_at, step.wake_at);
        let same = self
            .machine
            .clone()
            .step(self.now, Input::Desired(Box::new(self.machine.desired().clone())));
        prop_assert!(
            same.status.is_none() && same.events.is_empty() && same.actions.is_empty(),
            "not quiet: {same:?}"
        );
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_laws_hold_whatever_happens(
        policy in prop::sample::select(vec!["Always", "OnFailure", "Never"]),
        story in prop::collection::vec((happens(), 0_u64..30_000), 1..60),
    ) {
        let wanted = desired(policy);
        let machine = Machine::new(wanted.clone(), None, 7);
        let mut driver = Driver { machine, now: Time::from_secs(100), sequence: 0, in_flight: Vec::new(), wanted };
        driver.step(Input::Observed(Observation { sequence: 0, ..Observation::default() }))?;
        for (happens, later_ms) in story {
            driver.now = driver.now + Duration::from_millis(later_ms);
            let input = driver.input(happens);
            driver.step(input)?;
        }
    }
}

#[test]
fn nothing_is_decided_before_the_first_observation() {
    let mut machine = Machine::new(desired("Always"), None, 1);
    let step = machine.step(Time::from_secs(1), Input::Tick);
    assert!(step.status.is_none() && step.actions.is_empty() && step.wake_at.is_none());
    let step = machine.step(Time::from_secs(1), Input::Observed(Observation::default()));
    assert_eq!(step.actions.len(), 2, "volumes and the first image: {:?}", step.actions);
}

#[test]
fn an_older_observation_is_dropped() {
    let mut machine = Machine::new(desired("Always"), None, 1);
    let sandbox = Some(SandboxView {
        attempt: 0,
        ready: true,
        ips: vec![[10, 0, 0, 1].into()],
        created_at: Time(0),
        notes: Default::default(),
    });
    machine.step(
        Time::from_secs(1),
        Input::Observed(Observation {
            sequence: 5,
            sandbox,
            containers: Vec::new(),
        }),
    );
    let step = machine.step(
        Time::from_secs(2),
        Input::Observed(Observation {
            sequence: 4,
            ..Observation::default()
        }),
    );
    assert!(step.status.is_none() && step.actions.is_empty());
    assert_eq!(machine.status().unwrap().pod_ip.as_deref(), Some("10.0.0.1"));
}

#[test]
fn an_orphan_is_cleared_away_without_a_word_to_the_api() {
    let mut machine = Machine::new(Desired::orphan("u-1".parse().unwrap()), None, 1);
    let sandbox = Some(SandboxView {
        attempt: 0,
        ready: false,
        ips: Vec::new(),
        created_at: Time(0),
        notes: Default::default(),
    });
    let mut now = Time::from_secs(1);
    let mut step = machine.step(
        now,
        Input::Observed(Observation {
            sequence: 1,
            sandbox,
            containers: Vec::new(),
        }),
    );
    let mut verbs = Vec::new();
    for sequence in 2..9 {
        assert!(step.status.is_none());
        let Some(action) = step.actions.pop() else { break };
        verbs.push(action.verb.to_string());
        let after = Observation {
            sequence,
            ..Observation::default()
        };
        let after = (action.verb == Verb::RemoveSandbox).then_some(after);
        now = now + Duration::from_millis(1);
        step = machine.step(
            now,
            Input::Done {
                id: action.id,
                result: Ok(Outcome::Done),
                after,
            },
        );
    }
    assert_eq!(verbs, ["UnmountVolumes", "RemoveSandbox"]);
    assert!(step.finished);
}
