//! What happens next, and when: the machine's own plan in plain words.

use api::Time;
use api::node::{ContainerView, RunState};
use serde::{Deserialize, Serialize};

use super::transition::optional_instant;
use crate::action::{InFlight, Target, Verb};
use crate::event::duration;
use crate::input::{Container, Probe, ProbeKind, Role};
use crate::machine::Stage;
use crate::plan::{World, containers, exit, probes};
use crate::restart;

/// What is to come of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Outlook {
    /// Of the pod as a whole.
    pub next: Vec<Next>,
    /// Of its containers, init containers first.
    pub containers: Vec<ContainerOutlook>,
}

/// What is to come of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerOutlook {
    /// Its name.
    pub name: String,
    /// What is to come.
    pub next: Vec<Next>,
}

/// Something that is to come, or that everything waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Next {
    /// When, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "optional_instant")]
    pub at: Option<Time>,
    /// What, in plain words.
    pub what: String,
}

fn at(at: Time, what: impl Into<String>) -> Next {
    Next {
        at: Some(at),
        what: what.into(),
    }
}

fn some_time(what: impl Into<String>) -> Next {
    Next {
        at: None,
        what: what.into(),
    }
}

/// The outlook of a pod as of now.
pub(crate) fn of(w: World<'_>, stage: Stage, start_time: Time) -> Outlook {
    let mut outlook = Outlook {
        next: pod(w, stage, start_time),
        containers: Vec::new(),
    };
    for container in w.desired.all() {
        let next = match (stage, w.newest(&container.name)) {
            (Stage::Terminated, _) => Vec::new(),
            (_, Some(view)) if matches!(view.state, RunState::Running { .. }) => running(w, stage, container, view),
            (Stage::Terminating, _) => Vec::new(),
            (Stage::Sync, newest) => starting(w, container, newest),
        };
        outlook.containers.push(ContainerOutlook {
            name: container.name.clone(),
            next,
        });
    }
    outlook
}

fn pod(w: World<'_>, stage: Stage, start_time: Time) -> Vec<Next> {
    let mut next = Vec::new();
    if let (Stage::Sync, Some(deadline)) = (stage, w.desired.active_deadline) {
        let text = format!("everything is stopped: activeDeadlineSeconds is {}", deadline.as_secs());
        next.push(at(start_time + deadline, text));
    }
    for (target, what) in [
        (Target::Volumes, "the volumes are set up again"),
        (Target::Sandbox, "the sandbox is tried again"),
        (Target::Api, "the API server is asked again"),
    ] {
        if let Some(retry) = w.memory.retry(&target).filter(|retry| retry.next_at > w.now) {
            next.push(at(retry.next_at, format!("{what}, after: {}", retry.failure.message)));
        }
        if let Some(flight) = on(w, &target) {
            let limit = flight.since + flight.verb.limit();
            next.push(at(limit, format!("{} is given up, should it not have ended", flight.verb)));
        }
    }
    match (stage, w.desired.deletion, next.is_empty()) {
        (Stage::Terminated, None, true) => next.push(some_time(
            "nothing: the pod is over, and stays in the API until somebody deletes it",
        )),
        (Stage::Terminated, Some(_), true) => next.push(some_time("the pod is removed from the API")),
        _ => {} // the containers tell the rest
    }
    next
}

fn on<'a>(w: World<'a>, target: &Target) -> Option<&'a InFlight> {
    w.hands.0.values().find(|flight| !flight.cancelled && flight.target == *target)
}

/// A container that is not there, or is to be there again.
fn starting(w: World<'_>, container: &Container, newest: Option<&ContainerView>) -> Vec<Next> {
    let target = Target::Container(container.name.clone());
    if let Some(ended) = newest.and_then(|view| exit(view).map(|exit| (view, exit)))
        && !containers::again(w, container, ended.0, ended.1)
    {
        return Vec::new();
    }
    if let Some(flight) = on(w, &target) {
        return vec![under_way(flight)];
    }
    if let Some(gate) = gate(w, container) {
        return vec![some_time(gate)];
    }
    let attempt = containers::next_attempt(w, &container.name);
    if let (Some(until), Some(view)) = (containers::crash_back_off(w, container).filter(|until| *until > w.now), newest) {
        let delay = restart::delay(view, w.previous(&container.name)).unwrap_or_default();
        let text = format!(
            "attempt #{attempt} starts: the back-off after the last crash is {}",
            duration(delay)
        );
        return vec![at(until, text)];
    }
    if let Some(retry) = w.memory.retry(&target).filter(|retry| retry.next_at > w.now) {
        return vec![at(retry.next_at, format!("tried again, after: {}", retry.failure.message))];
    }
    let pull = w.memory.pulls.get(&container.name).filter(|pull| pull.image == container.image);
    if let Some(failure) = pull
        .and_then(|pull| pull.result.as_ref().err())
        .filter(|failure| failure.next_at > w.now)
    {
        let again = if failure.backs_off() {
            "is pulled again"
        } else {
            "is looked for again"
        };
        let count = failure.count;
        let text = format!("image {} {again}; {count} {} so far", container.image, plural(count, "failure"));
        return vec![at(failure.next_at, text)];
    }
    vec![some_time("it is about to start")]
}

fn plural(count: u32, word: &str) -> String {
    if count == 1 { word.to_owned() } else { format!("{word}s") }
}

/// What has to come before a container may start.
fn gate(w: World<'_>, container: &Container) -> Option<String> {
    if !w.seen.sandbox.as_ref().is_some_and(|sandbox| sandbox.ready) {
        return Some("it starts once the sandbox is up".to_owned());
    }
    if container.role == Role::Ephemeral {
        return None;
    }
    let regular = container.role == Role::Regular;
    if regular && w.desired.containers.iter().any(|other| w.newest(&other.name).is_some()) {
        return None;
    }
    let before = w.desired.init.iter().take_while(|other| other.name != container.name);
    before
        .filter_map(|other| match (other.role, w.newest(&other.name)) {
            (Role::Sidecar, Some(view)) if probes::started(w, other, view) => None,
            (Role::Sidecar, _) => Some(format!("it starts once sidecar {} has started", other.name)),
            (_, Some(view)) if exit(view).is_some_and(|exit| exit.code == 0) => None,
            _ => Some(format!("it starts once init container {} has ended well", other.name)),
        })
        .next()
}

fn under_way(flight: &InFlight) -> Next {
    let until = flight.since + flight.verb.limit();
    match &flight.verb {
        Verb::Pull { image, .. } => at(
            until,
            format!("the pull of image {image}, under way, is given up, should it not have ended"),
        ),
        Verb::RunHook { hook, .. } => at(
            until,
            format!("the {} hook, which runs now, is given up, should it not have ended", hook.as_str()),
        ),
        Verb::Stop { grace, .. } => at(flight.since + *grace, "SIGKILL, should it not have ended: its stop signal was sent"),
        verb => at(until, format!("{verb}, under way, is given up, should it not have ended")),
    }
}

/// A container whose process runs.
fn running(w: World<'_>, stage: Stage, container: &Container, view: &ContainerView) -> Vec<Next> {
    let stopping = on(w, &Target::Container(container.name.clone())).or_else(|| on(w, &Target::Attempt(view.id.clone())));
    let mut next: Vec<Next> = stopping.map(under_way).into_iter().collect();
    if stage == Stage::Terminating {
        if next.is_empty() {
            next.push(some_time(
                "its stop signal is sent once the containers before it in the order of termination have stopped",
            ));
        }
        return next;
    }
    if let Some(kind) = probes::condemned(w, view) {
        if next.is_empty() {
            next.push(some_time(format!("it is stopped: its {} probe failed too often", kind.as_str())));
        }
        return next;
    }
    let started = probes::started(w, container, view);
    for kind in ProbeKind::ALL {
        let Some(probe) = container.probes.get(kind) else { continue };
        if (kind == ProbeKind::Startup) == started {
            continue;
        }
        next.extend(probed(w, container, view, kind, probe));
    }
    next
}

/// What a probe that does not succeed leads to.
fn probed(w: World<'_>, container: &Container, view: &ContainerView, kind: ProbeKind, probe: &Probe) -> Option<Next> {
    let record = w
        .memory
        .probes
        .get(&(view.name.clone(), kind))
        .filter(|record| record.id == view.id);
    let RunState::Running { started_at } = view.state else {
        return None;
    };
    let due = record.map_or(started_at + probe.initial_delay, |record| record.next_at).max(w.now);
    let failures = record.map_or(0, crate::memory::ProbeRecord::failures_in_a_row);
    let left = probe.failure_threshold.saturating_sub(failures).max(1);
    let word = kind.as_str();
    match kind {
        ProbeKind::Readiness if probes::ready(w, container, view) => None,
        ProbeKind::Readiness => Some(at(due, "its readiness probe is made again; it is not ready until that succeeds")),
        ProbeKind::Liveness if failures == 0 => None,
        ProbeKind::Startup if failures == 0 => Some(at(due, "its startup probe is made; it has not started until that succeeds")),
        ProbeKind::Liveness | ProbeKind::Startup => {
            let kill = due + probe.period * (left - 1);
            Some(at(
                kill,
                format!(
                    "it is stopped, should its {word} probe fail {left} more {}",
                    if left == 1 { "time" } else { "times" }
                ),
            ))
        }
    }
}
