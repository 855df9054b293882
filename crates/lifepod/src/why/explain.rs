//! What is known of a pod, put together. Pure.

use api::Time;
use api::typed::{ContainerState, ContainerStatus, MicroTime, Pod, PodCondition, PodStatus};
use kubelet::flight::{Entry, FlightReport};
use lifecycle::flight::{Change, Next, Outlook};
use serde::Serialize;

/// What the nodes said.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// Flights with the node they were on, newest first.
    pub(super) flights: Vec<(String, FlightReport)>,
    /// Nodes that could not be asked, and why.
    pub(super) unread: Vec<String>,
}

/// Why a pod is as it is.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Explanation {
    pub(super) kind: &'static str,
    pub(super) api_version: &'static str,
    pub(super) namespace: String,
    pub(super) name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) uid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) node: Option<String>,
    /// When it was asked.
    pub(super) now: MicroTime,
    /// The pod in a sentence each.
    pub(super) summary: Vec<String>,
    pub(super) containers: Vec<ContainerStory>,
    /// What is to come of the pod as a whole.
    pub(super) next: Vec<Next>,
    /// Oldest first.
    pub(super) transitions: Vec<Line>,
    /// Entries that made room for newer ones.
    pub(super) dropped: u64,
    /// What could not be told.
    pub(super) unread: Vec<String>,
}

/// How one container is, and why.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ContainerStory {
    pub(super) name: String,
    /// `init container`, `sidecar`, `container` or `ephemeral container`.
    pub(super) role: &'static str,
    pub(super) state: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) since: Option<MicroTime>,
    pub(super) restarts: i32,
    /// What blocked or killed it.
    pub(super) because: Vec<String>,
    pub(super) next: Vec<Next>,
}

/// A transition, with its words.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Line {
    pub(super) text: String,
    #[serde(flatten)]
    pub(super) entry: Entry,
}

/// Puts everything together.
pub(super) fn explain(namespace: &str, name: &str, pod: Option<&Pod>, told: Told, now: Time) -> Explanation {
    let uid = pod.and_then(|pod| pod.metadata.uid.clone());
    let same = |flight: &FlightReport| uid.as_deref().is_none_or(|uid| flight.subject.uid.as_str() == uid);
    let earlier = told.flights.len().saturating_sub(1);
    let found = told.flights.into_iter().find(|(_, flight)| same(flight));
    let (node, flight) = found.map_or((None, None), |(node, flight)| (Some(node), Some(flight)));
    let node = node.or_else(|| pod?.spec.as_ref()?.node_name.clone());
    let entries: &[Entry] = flight.as_ref().map(|flight| flight.transitions.as_slice()).unwrap_or_default();
    let outlook = flight.as_ref().and_then(|flight| flight.outlook.clone()).unwrap_or_default();
    let mut summary = match pod {
        Some(pod) => present(pod, node.as_deref()),
        None => past(flight.as_ref()),
    };
    if pod.is_none() && earlier > 0 {
        summary.push(format!("{earlier} earlier pods of this name are remembered too"));
    }
    let mut next = outlook.next.clone();
    if let Some(pod) = pod.filter(|_| node.is_none()) {
        next.extend(unscheduled_next(pod));
    }
    Explanation {
        kind: "PodExplanation",
        api_version: "lifepod.dev/v1",
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        uid: uid.or_else(|| flight.as_ref().map(|flight| flight.subject.uid.to_string())),
        node,
        now: now.wire_micro(),
        summary,
        containers: pod.map_or_else(|| past_containers(entries), |pod| containers(pod, entries, &outlook)),
        next,
        dropped: flight.as_ref().map_or(0, |flight| flight.dropped),
        transitions: flight
            .map(|flight| flight.transitions)
            .unwrap_or_default()
            .into_iter()
            .map(line)
            .collect(),
        unread: told.unread,
    }
}

fn line(entry: Entry) -> Line {
    let mut text = entry.transition.to_string();
    if entry.count > 1 {
        let last = entry.last_at.as_ref().map(|at| clock(at.0.into())).unwrap_or_default();
        text.push_str(&format!(" (x{}, last {last})", entry.count));
    }
    Line { text, entry }
}

/// The time of day.
pub(super) fn clock(at: Time) -> String {
    at.timestamp().strftime("%H:%M:%S").to_string()
}

fn condition<'a>(status: &'a PodStatus, name: &str) -> Option<&'a PodCondition> {
    status.conditions.iter().flatten().find(|condition| condition.type_ == name)
}

fn present(pod: &Pod, node: Option<&str>) -> Vec<String> {
    let status = pod.status.clone().unwrap_or_default();
    let phase = status.phase.as_deref().unwrap_or("Pending");
    let mut lines = Vec::new();
    match node {
        Some(node) => {
            let ready = condition(&status, "Ready");
            let is_ready = ready.is_some_and(|ready| ready.status == "True");
            let word = if is_ready { "Ready" } else { "not Ready" };
            lines.push(format!("it is on node {node}, {phase}, {word}"));
            if let Some(message) = ready
                .filter(|_| !is_ready)
                .and_then(|ready| ready.message.clone().or_else(|| ready.reason.clone()))
            {
                lines.push(format!("it is not Ready: {message}"));
            }
        }
        None => {
            let scheduled = condition(&status, "PodScheduled");
            let why = scheduled.and_then(|scheduled| scheduled.message.clone());
            lines.push(format!("it is {phase}: no node has been found for it"));
            lines.push(match why {
                Some(message) => format!("the scheduler says: {message}"),
                None => "the scheduler has not said anything about it yet".to_owned(),
            });
        }
    }
    if let Some(reason) = &status.reason {
        lines.push(format!("{reason}: {}", status.message.as_deref().unwrap_or_default().trim_end()));
    }
    if let Some(at) = &pod.metadata.deletion_timestamp {
        let by = pod.metadata.annotations.as_ref().and_then(|all| all.get(api::pods::DELETED_BY));
        let who = by.map(|user| format!(" by user {user}")).unwrap_or_default();
        lines.push(format!("it is being deleted{who}; its grace ends at {}", clock(at.into())));
        let finalizers = pod.metadata.finalizers.as_deref().unwrap_or_default();
        if !finalizers.is_empty() {
            lines.push(format!(
                "it stays in the API until its finalizers are removed: {}",
                finalizers.join(", ")
            ));
        }
    }
    lines
}

fn unscheduled_next(pod: &Pod) -> Vec<Next> {
    let gates = pod.spec.as_ref().and_then(|spec| spec.scheduling_gates.clone()).unwrap_or_default();
    let what = if gates.is_empty() {
        "the scheduler tries again when a node, a pod or the spec changes in a way that may help, and after five minutes at the latest"
            .to_owned()
    } else {
        let names: Vec<String> = gates.into_iter().map(|gate| gate.name).collect();
        format!("it is scheduled once its scheduling gates are removed: {}", names.join(", "))
    };
    vec![Next { at: None, what }]
}

fn past(flight: Option<&FlightReport>) -> Vec<String> {
    let gone = flight.and_then(|flight| flight.gone_at.as_ref()).map(|at| Time::from(at.0));
    let mut lines = vec![match gone {
        Some(at) => format!("it is gone since {}", clock(at)),
        None => "it is no longer in the API, and its node is still clearing it away".to_owned(),
    }];
    let entries = flight.map(|flight| flight.transitions.as_slice()).unwrap_or_default();
    let ending = entries.iter().rev().find(|entry| entry.transition.change == Change::Terminating);
    if let Some(cause) = ending.and_then(|entry| entry.transition.because.as_ref()) {
        lines.push(format!("it ended because {cause}"));
    }
    lines
}

fn containers(pod: &Pod, entries: &[Entry], outlook: &Outlook) -> Vec<ContainerStory> {
    let spec = pod.spec.clone().unwrap_or_default();
    let status = pod.status.clone().unwrap_or_default();
    let init = spec.init_containers.iter().flatten().map(|container| {
        let sidecar = container.restart_policy.as_deref() == Some("Always");
        (container.name.as_str(), if sidecar { "sidecar" } else { "init container" })
    });
    let regular = spec.containers.iter().map(|container| (container.name.as_str(), "container"));
    let ephemeral = spec
        .ephemeral_containers
        .iter()
        .flatten()
        .map(|container| (container.name.as_str(), "ephemeral container"));
    let lists = [
        &status.init_container_statuses,
        &status.container_statuses,
        &status.ephemeral_container_statuses,
    ];
    let shown = |name: &str| {
        lists
            .iter()
            .flat_map(|list| list.iter().flatten())
            .find(|status| status.name == name)
    };
    init.chain(regular)
        .chain(ephemeral)
        .map(|(name, role)| story(name, role, shown(name), entries, outlook))
        .collect()
}

fn story(name: &str, role: &'static str, status: Option<&ContainerStatus>, entries: &[Entry], outlook: &Outlook) -> ContainerStory {
    let of: Vec<&Entry> = entries
        .iter()
        .filter(|entry| entry.transition.container.as_deref() == Some(name))
        .collect();
    let state = status.and_then(|status| status.state.clone()).unwrap_or_default();
    let mut because = Vec::new();
    let last = |wanted: fn(&Change) -> bool| of.iter().rev().find(|entry| wanted(&entry.transition.change));
    let waits = state.running.is_none() && state.terminated.is_none();
    if let Some(message) = state.waiting.as_ref().and_then(|waiting| waiting.message.clone()) {
        because.push(message);
    }
    let exit = last(|change| matches!(change, Change::Exited { .. }));
    match exit {
        Some(entry) => {
            let attempt = entry.transition.attempt.unwrap_or_default();
            let word = if state.terminated.is_some() { "it" } else { "the attempt before" };
            let why = entry
                .transition
                .because
                .as_ref()
                .map(|cause| format!("; {cause}"))
                .unwrap_or_default();
            because.push(format!("{word} (#{attempt}) {}{why}", entry.transition.change));
        }
        None => because.extend(status.and_then(|status| ended_text(&state, status.last_state.as_ref()))),
    }
    let trouble = last(|change| {
        matches!(
            change,
            Change::ProbeFailed { .. }
                | Change::ProbeErrored { .. }
                | Change::Failed { .. }
                | Change::HookBegan { .. }
                | Change::HookEnded { .. }
        )
    });
    let fresh = |entry: &Entry| exit.is_none_or(|exit| entry.number > exit.number);
    let unready = status.is_some_and(|status| !status.ready);
    if let Some(entry) =
        trouble.filter(|entry| fresh(entry) && (waits || unready) || !waits && fresh(entry) && is_hook(&entry.transition.change))
    {
        let times = if entry.count > 1 {
            format!(" (x{})", entry.count)
        } else {
            String::new()
        };
        because.push(format!("{}{times}", entry.transition.change));
    }
    let (state, since) = state_text(&state, status.is_some_and(|status| status.ready), of.last());
    ContainerStory {
        name: name.to_owned(),
        role,
        state,
        since,
        restarts: status.map_or(0, |status| status.restart_count),
        because,
        next: outlook
            .containers
            .iter()
            .find(|container| container.name == name)
            .map(|container| container.next.clone())
            .unwrap_or_default(),
    }
}

fn is_hook(change: &Change) -> bool {
    matches!(change, Change::HookBegan { .. })
}

/// The state in words, and since when it is so.
fn state_text(state: &ContainerState, ready: bool, newest: Option<&&Entry>) -> (String, Option<MicroTime>) {
    let micro = |time: Option<&api::typed::WireTime>| time.map(|at| Time::from(at).wire_micro());
    if let Some(running) = &state.running {
        let word = if ready { "running, ready" } else { "running, not ready" };
        return (word.to_owned(), micro(running.started_at.as_ref()));
    }
    if let Some(ended) = &state.terminated {
        let reason = ended.reason.as_deref().unwrap_or("Terminated");
        return (
            format!("ended ({reason}, exit code {})", ended.exit_code),
            micro(ended.finished_at.as_ref()),
        );
    }
    let reason = state.waiting.as_ref().and_then(|waiting| waiting.reason.clone());
    let since = newest.map(|entry| entry.last_at.clone().unwrap_or_else(|| entry.transition.at.wire_micro()));
    (format!("waiting ({})", reason.as_deref().unwrap_or("not started")), since)
}

/// How the newest attempt that ended did so, by the API alone.
fn ended_text(state: &ContainerState, last: Option<&ContainerState>) -> Option<String> {
    let ended = state.terminated.as_ref().or_else(|| last?.terminated.as_ref())?;
    let message = ended
        .message
        .as_deref()
        .map(|message| format!(", saying {message:?}"))
        .unwrap_or_default();
    let reason = ended.reason.as_deref().unwrap_or("Terminated");
    Some(format!(
        "its last attempt ended with exit code {} ({reason}){message}",
        ended.exit_code
    ))
}

/// The containers of a pod that is gone, by what was recorded.
fn past_containers(entries: &[Entry]) -> Vec<ContainerStory> {
    let mut names: Vec<&str> = Vec::new();
    for name in entries.iter().filter_map(|entry| entry.transition.container.as_deref()) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
        .into_iter()
        .map(|name| {
            let of = entries.iter().filter(|entry| entry.transition.container.as_deref() == Some(name));
            let ended = of
                .clone()
                .rev()
                .find(|entry| matches!(entry.transition.change, Change::Exited { .. }));
            let attempts = of.filter_map(|entry| entry.transition.attempt).max();
            ContainerStory {
                name: name.to_owned(),
                role: "container",
                state: ended.map_or_else(|| "never started".to_owned(), |entry| entry.transition.change.to_string()),
                since: ended.map(|entry| entry.transition.at.wire_micro()),
                restarts: attempts.and_then(|attempt| i32::try_from(attempt).ok()).unwrap_or(0),
                because: ended
                    .and_then(|entry| entry.transition.because.as_ref())
                    .map(ToString::to_string)
                    .into_iter()
                    .collect(),
                next: Vec::new(),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests;
