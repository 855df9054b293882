//! Carrying a scenario's commands out.

use std::time::Duration;

use api::Time;
use api::node::{ExitCause, Uid};
use api::typed::{EphemeralContainer, Pod, PodCondition};
use lifecycle::flight::{Next, Outlook, Transition};
use lifecycle::{Eviction, Failure, FailureClass, ProbeKind, Probed, Rejection};
use serde_json::{Value, json};

use crate::faults::Faults;
use crate::runtime::Life;
use crate::trace;
use crate::world::{Image, World};

/// A scenario that cannot be understood or does not get where it should.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// No such command, or not with these arguments.
    #[error("{0:?} is not a command; the scenario module lists them")]
    Command(String),
    /// The pod of the scenario is not what the machine takes.
    #[error("pod of {line:?}")]
    Pod {
        /// The command.
        line: String,
        /// Why not.
        #[source]
        source: serde_json::Error,
    },
    /// A state was not reached within an hour.
    #[error("{0:?} does not hold within an hour of virtual time; the last lines:\n{1}")]
    NotReached(String, String),
}

/// A world that carries commands out.
pub struct Run {
    world: World,
    uid: Uid,
}

impl Default for Run {
    fn default() -> Self {
        Self::new()
    }
}

const LIMIT: Duration = Duration::from_secs(3600);

impl Run {
    /// An empty node without faults.
    #[must_use]
    pub fn new() -> Self {
        Self {
            world: World::new(1, Faults::none()),
            uid: "u-1".parse().expect("letters, a dash and a digit are a UID"),
        }
    }

    /// Carries a block's commands out; what happened meanwhile.
    pub fn block(&mut self, commands: &[String]) -> Result<Vec<String>, ScenarioError> {
        let mut shown = Vec::new();
        for line in commands {
            if let Some(lines) = self.command(line)? {
                shown.extend(self.world.trace.take());
                shown.extend(lines);
            }
        }
        shown.extend(self.world.trace.take());
        Ok(shown)
    }

    /// One command; lines to show beside the trace, if it asks for any.
    fn command(&mut self, line: &str) -> Result<Option<Vec<String>>, ScenarioError> {
        let unknown = || ScenarioError::Command(line.to_owned());
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["pod", options @ ..] => {
                let pod = pod(options).map_err(|source| ScenarioError::Pod {
                    line: line.to_owned(),
                    source,
                })?;
                self.uid = self.world.create_pod(pod);
            }
            ["image", image, rest @ ..] => {
                let image_state = match rest {
                    ["present"] => Image::Present,
                    ["absent", took] => Image::Absent(duration(took).ok_or_else(unknown)?),
                    ["broken"] => Image::Broken,
                    ["invalid"] => Image::Invalid,
                    _ => return Err(unknown()),
                };
                self.world.images.insert((*image).to_owned(), image_state);
            }
            ["life", name, rest @ ..] => {
                let life = match rest {
                    ["ignores-term"] => Life {
                        obeys_after: None,
                        ..Life::SERVER
                    },
                    ["start-error"] => Life {
                        start_error: true,
                        ..Life::SERVER
                    },
                    ["obeys", after] => Life {
                        obeys_after: duration(after),
                        ..Life::SERVER
                    },
                    ["runs", time, code] => Life {
                        runs: duration(time),
                        code: option(code, "code").ok_or_else(unknown)?,
                        ..Life::SERVER
                    },
                    _ => return Err(unknown()),
                };
                self.world.lives.insert((self.uid.clone(), (*name).to_owned()), vec![life]);
            }
            ["probe", name, kind, ..] => {
                let kind = ProbeKind::ALL.into_iter().find(|k| k.as_str() == *kind).ok_or_else(unknown)?;
                let (_, probed) = line.split_once(" = ").ok_or_else(unknown)?;
                let probed = match probed.split_once(' ').unwrap_or((probed, "")) {
                    ("success", _) => Probed::Success,
                    ("warning", body) => Probed::Warning(body.to_owned()),
                    ("failure", output) => Probed::Failure(output.to_owned()),
                    ("error", error) => Probed::Error(error.to_owned()),
                    _ => return Err(unknown()),
                };
                self.world.probes.insert((self.uid.clone(), (*name).to_owned(), kind), probed);
            }
            ["fail", ..] => {
                let (begins, failure) = line.trim_start_matches("fail ").split_once(" = ").ok_or_else(unknown)?;
                let (class, message) = failure.split_once(": ").ok_or_else(unknown)?;
                self.world
                    .failing
                    .push((begins.to_owned(), Failure::new(class_of(class).ok_or_else(unknown)?, message)));
            }
            ["run", until] => self.run(until)?,
            ["advance", time] => self.world.run_to(self.world.now + duration(time).ok_or_else(unknown)?),
            ["quietly", time] => {
                let steps = self.world.steps;
                self.world.run_to(self.world.now + duration(time).ok_or_else(unknown)?);
                self.world.trace.take();
                return Ok(Some(vec![format!("({} steps)", self.world.steps - steps)]));
            }
            ["show", name] => return Ok(Some(self.show(name))),
            ["conditions"] => return Ok(Some(self.conditions())),
            ["phase"] => return Ok(Some(self.phase())),
            ["why"] => return Ok(Some(self.why())),
            _ => return self.misfortune(line, &words).map(|()| None),
        }
        Ok(None)
    }

    /// What people and misfortune do.
    fn misfortune(&mut self, line: &str, words: &[&str]) -> Result<(), ScenarioError> {
        let unknown = || ScenarioError::Command(line.to_owned());
        let uid = self.uid.clone();
        match words {
            ["exit", name, code, rest @ ..] => {
                let cause = if rest == ["oom"] {
                    ExitCause::OutOfMemory
                } else {
                    ExitCause::Process
                };
                let code = option(code, "code").ok_or_else(unknown)?;
                if !self.world.exit(&uid, name, code, cause) {
                    return Err(ScenarioError::NotReached(format!("{name} runs"), self.world.trace.tail(10)));
                }
                self.settle();
            }
            ["set-image", name, image] => {
                self.world.change(&uid, |pod| {
                    for c in pod.spec.iter_mut().flat_map(|s| &mut s.containers).filter(|c| c.name == *name) {
                        c.image = Some((*image).to_owned());
                    }
                });
                self.settle();
            }
            ["debug", name, image] => {
                let container = EphemeralContainer {
                    name: (*name).to_owned(),
                    image: Some((*image).to_owned()),
                    ..EphemeralContainer::default()
                };
                self.world.change(&uid, |pod| {
                    let spec = pod.spec.get_or_insert_default();
                    spec.ephemeral_containers.get_or_insert_default().push(container);
                });
                self.settle();
            }
            ["condition", text] => {
                let (condition_type, value) = text.split_once('=').ok_or_else(unknown)?;
                let condition = PodCondition {
                    type_: condition_type.to_owned(),
                    status: value.to_owned(),
                    ..PodCondition::default()
                };
                self.world.change(&uid, |pod| {
                    let list = pod.status.get_or_insert_default().conditions.get_or_insert_default();
                    list.retain(|c| c.type_ != condition_type);
                    list.insert(0, condition);
                });
                self.settle();
            }
            ["delete"] => self.world.delete(&uid, None),
            ["delete", grace] => self.world.delete(&uid, Some(option(grace, "grace").ok_or_else(unknown)?)),
            ["evict", ..] => {
                let message = line.trim_start_matches("evict ").to_owned();
                self.world.evict(
                    &uid,
                    Eviction {
                        reason: "Evicted".to_owned(),
                        message,
                        grace: None,
                    },
                );
            }
            ["reject", ..] => {
                let (reason, message) = line.trim_start_matches("reject ").split_once(": ").ok_or_else(unknown)?;
                let rejection = Rejection {
                    reason: reason.to_owned(),
                    message: message.to_owned(),
                };
                self.world.reject(&uid, rejection);
            }
            ["drain", grace] => {
                let grace = duration(grace).ok_or_else(unknown)?;
                self.world.drain(&uid, grace);
            }
            ["sandbox", "dies"] => self.world.sandbox_dies(&uid),
            ["agent", "dies", time] => self.world.agent_dies(duration(time).ok_or_else(unknown)?),
            _ => return Err(unknown()),
        }
        Ok(())
    }

    /// Lets what follows at once follow.
    fn settle(&mut self) {
        self.world.run_to(self.world.now + Duration::from_millis(5));
    }

    fn run(&mut self, until: &str) -> Result<(), ScenarioError> {
        let wanted = until.trim_start_matches("until=").to_owned();
        let uid = self.uid.clone();
        let phase = |w: &World| w.status(&uid).and_then(|s| s.phase.clone()).unwrap_or_default().to_lowercase();
        let is_true = |w: &World, t: &str| {
            w.status(&uid)
                .and_then(|s| s.conditions.as_ref())
                .is_some_and(|l| l.iter().any(|c| c.type_ == t && c.status == "True"))
        };
        let reached = self.world.run_until(LIMIT, |w| match wanted.as_str() {
            "ready" => is_true(w, "Ready"),
            "gone" => !w.api.contains_key(&uid) && w.machine(&uid).is_none(),
            phase_wanted => phase(w) == phase_wanted,
        });
        if !reached {
            return Err(ScenarioError::NotReached(until.to_owned(), self.world.trace.tail(30)));
        }
        self.settle();
        Ok(())
    }

    fn show(&self, name: &str) -> Vec<String> {
        let status = self.world.status(&self.uid).cloned().unwrap_or_default();
        let all = status
            .init_container_statuses
            .into_iter()
            .flatten()
            .chain(status.container_statuses.into_iter().flatten())
            .chain(status.ephemeral_container_statuses.into_iter().flatten());
        let found = all.filter(|c| c.name == name).filter_map(|c| serde_json::to_value(c).ok());
        found.flat_map(|v| fields(&v)).collect()
    }

    fn conditions(&self) -> Vec<String> {
        let conditions = self.world.status(&self.uid).and_then(|s| s.conditions.clone()).unwrap_or_default();
        conditions
            .iter()
            .map(|c| {
                let reason = c.reason.as_ref().map(|r| format!(" {r}")).unwrap_or_default();
                let message = c.message.as_ref().map(|m| format!(": {m}")).unwrap_or_default();
                let since = c.last_transition_time.as_ref().map(|t| trace::since_start(t.into()).as_secs());
                format!(
                    "{}={}{reason}{message} since={}s",
                    c.type_,
                    c.status,
                    since.map_or_else(|| "?".to_owned(), |s| s.to_string())
                )
            })
            .collect()
    }

    /// The flight so far, and the outlook.
    fn why(&mut self) -> Vec<String> {
        self.world.trace.take();
        let flight = self.world.flights.remove(&self.uid).unwrap_or_default();
        if let Some(entry) = flight.iter().find(|entry| !survives(entry)) {
            self.world.broken(&format!("a transition does not survive JSON: {entry:?}"));
        }
        let time = |at: Time| format!("{:.3}s", trace::since_start(at).as_secs_f64());
        let mut lines: Vec<String> = flight.iter().map(|entry| format!("{:<9} {entry}", time(entry.at))).collect();
        let outlook = self.world.machine(&self.uid).map(|machine| machine.outlook(self.world.now));
        let Outlook { next, containers } = outlook.unwrap_or_default();
        let mut tell = |name: &str, next: Vec<Next>| {
            let about = if name.is_empty() { String::new() } else { format!("{name}: ") };
            let when = |at: Option<Time>| at.map_or_else(|| "next".to_owned(), |at| format!("at {}", time(at)));
            lines.extend(next.iter().map(|next| format!("-> {about}{}: {}", when(next.at), next.what)));
        };
        tell("", next);
        containers.into_iter().for_each(|container| tell(&container.name, container.next));
        lines
    }

    fn phase(&self) -> Vec<String> {
        let Some(status) = self.world.status(&self.uid) else {
            return vec!["not in the API".to_owned()];
        };
        let part = |name: &str, value: &Option<String>| value.as_ref().map(|v| format!("{name}={v}"));
        [
            part("phase", &status.phase),
            part("reason", &status.reason),
            part("message", &status.message),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// Whether a transition is the same after it was written and read.
fn survives(entry: &Transition) -> bool {
    let written = serde_json::to_value(entry).ok();
    let read = written.clone().and_then(|value| serde_json::from_value::<Transition>(value).ok());
    written.is_some() && read.and_then(|entry| serde_json::to_value(entry).ok()) == written
}

/// A JSON object, one field a line.
fn fields(value: &Value) -> Vec<String> {
    value
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}: {value}"))
        .collect()
}

fn duration(text: &str) -> Option<Duration> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: f64 = digits.parse().ok()?;
    let unit = match &text[digits.len()..] {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(number * unit).ok()
}

fn option<T: std::str::FromStr>(text: &str, name: &str) -> Option<T> {
    text.strip_prefix(name)?.strip_prefix('=')?.parse().ok()
}

fn class_of(word: &str) -> Option<FailureClass> {
    Some(match word {
        "ErrImagePull" => FailureClass::ErrImagePull,
        "ImageInspectError" => FailureClass::ImageInspectError,
        "RegistryUnavailable" => FailureClass::RegistryUnavailable,
        "CreateContainerConfigError" => FailureClass::CreateContainerConfigError,
        "CreateContainerError" => FailureClass::CreateContainerError,
        "RunContainerError" => FailureClass::RunContainerError,
        "Sandbox" => FailureClass::Sandbox,
        "Network" => FailureClass::Network,
        "NetworkNotReady" => FailureClass::NetworkNotReady,
        "PodCgroup" => FailureClass::PodCgroup,
        "PodDirectory" => FailureClass::PodDirectory,
        "Mount" => FailureClass::Mount,
        "Hook" => FailureClass::Hook,
        "Kill" => FailureClass::Kill,
        "Api" => FailureClass::Api,
        _ => return None,
    })
}

/// The pod of a `pod` command.
fn pod(options: &[&str]) -> Result<Pod, serde_json::Error> {
    let mut spec = json!({});
    let (mut init, mut pull) = (Vec::new(), "IfNotPresent");
    let names = |list: &str| list.split(',').map(str::to_owned).collect::<Vec<_>>();
    let mut containers = Vec::new();
    for option in options {
        match option.split_once('=').unwrap_or((option, "")) {
            ("restart", policy) => spec["restartPolicy"] = json!(policy),
            ("init", list) => init.extend(names(list).into_iter().map(|n| json!({"name": n, "image": "x:1"}))),
            ("sidecars", list) => init.extend(
                names(list)
                    .into_iter()
                    .map(|n| json!({"name": n, "image": "x:1", "restartPolicy": "Always"})),
            ),
            ("containers", list) => containers.extend(names(list).into_iter().map(|n| json!({"name": n, "image": "x:1"}))),
            ("grace", s) => spec["terminationGracePeriodSeconds"] = serde_json::from_str(s)?,
            ("deadline", s) => spec["activeDeadlineSeconds"] = serde_json::from_str(s)?,
            ("host-network", _) => spec["hostNetwork"] = json!(true),
            ("volumes", _) => spec["volumes"] = json!([{"name": "v", "emptyDir": {}}]),
            ("gate", t) => spec["readinessGates"] = json!([{"conditionType": t}]),
            ("pull", policy) => pull = policy,
            ("with", more) => {
                let (name, fields) = more.split_once(':').unwrap_or((more, "{}"));
                let fields: serde_json::Map<String, Value> = serde_json::from_str(fields)?;
                for container in containers.iter_mut().chain(&mut init).filter(|c| c["name"] == name) {
                    fields.iter().for_each(|(key, value)| container[key] = value.clone());
                }
            }
            (other, _) => return Err(serde::de::Error::custom(format!("no such option: {other}"))),
        }
    }
    for container in containers.iter_mut().chain(&mut init) {
        container["imagePullPolicy"] = json!(pull);
    }
    (spec["containers"], spec["initContainers"]) = (json!(containers), json!(init));
    serde_json::from_value(json!({"metadata": {"name": "pod", "namespace": "default", "uid": "u-1"}, "spec": spec}))
}
