//! READY, STATUS and RESTARTS of a Pod.
//!
//! Source: upstream `pkg/printers/internalversion/printers.go`, `printPod`.

use api::{Object, Time};
use serde_json::{Value, json};

use super::age::age;
use super::{text_or_none, time};
use crate::registry::{Cell, Column};

/// What the default columns say of a Pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Containers that are ready, sidecars included.
    pub ready: usize,
    /// Containers that count: regular ones and sidecars.
    pub total: usize,
    /// The STATUS column.
    pub status: String,
    /// Restarts of the containers that matter now: of init containers while
    /// the Pod initializes, of regular ones and sidecars after that.
    pub restarts: i64,
    /// When the last of those ended.
    pub restarted_at: Option<Time>,
}

/// Restarts, and when the last one was.
#[derive(Clone, Copy, Default)]
struct Restarts {
    count: i64,
    last: Option<Time>,
}

impl Restarts {
    fn add(&mut self, status: &Value) {
        self.count += status["restartCount"].as_i64().unwrap_or(0);
        self.last = self.last.max(time(status.pointer("/lastState/terminated/finishedAt")));
    }
}

fn list<'a>(pod: &'a Object, path: &str) -> &'a [Value] {
    pod.at(path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn is_sidecar(container: &Value) -> bool {
    text(container, "restartPolicy") == "Always"
}

fn condition<'a>(pod: &'a Object, kind: &str) -> Option<&'a Value> {
    list(pod, "status.conditions")
        .iter()
        .find(|condition| text(condition, "type") == kind)
}

fn condition_is_true(pod: &Object, kind: &str) -> bool {
    condition(pod, kind).is_some_and(|condition| text(condition, "status") == "True")
}

/// Why a container that ended is shown as it is: its reason, else its signal,
/// else its exit code.
fn ending(terminated: &Value) -> String {
    match text(terminated, "reason") {
        "" => match terminated["signal"].as_i64().unwrap_or(0) {
            0 => format!("ExitCode:{}", terminated["exitCode"].as_i64().unwrap_or(0)),
            signal => format!("Signal:{signal}"),
        },
        reason => reason.to_owned(),
    }
}

/// What the init containers say: the STATUS while one of them is not done.
fn initializing(pod: &Object, ready: &mut usize, all: &mut Restarts, sidecars: &mut Restarts) -> Option<String> {
    let specs = list(pod, "spec.initContainers");
    for (index, status) in list(pod, "status.initContainerStatuses").iter().enumerate() {
        let name = text(status, "name");
        let sidecar = specs.iter().any(|spec| text(spec, "name") == name && is_sidecar(spec));
        all.add(status);
        if sidecar {
            sidecars.add(status);
        }
        let state = &status["state"];
        let terminated = state.get("terminated").filter(|terminated| !terminated.is_null());
        let waiting = text(&state["waiting"], "reason");
        match terminated {
            Some(terminated) if terminated["exitCode"].as_i64().unwrap_or(0) == 0 => {}
            _ if sidecar && status["started"].as_bool() == Some(true) => *ready += usize::from(status["ready"].as_bool() == Some(true)),
            Some(terminated) => return Some(format!("Init:{}", ending(terminated))),
            None if !matches!(waiting, "" | "PodInitializing") => return Some(format!("Init:{waiting}")),
            None => return Some(format!("Init:{index}/{}", specs.len())),
        }
    }
    None
}

/// What the regular containers say: the STATUS as the first of them that is
/// not simply running has it, and whether one runs.
fn running(pod: &Object, status: &mut String, ready: &mut usize, restarts: &mut Restarts) {
    let mut one_runs = false;
    for container in list(pod, "status.containerStatuses").iter().rev() {
        restarts.add(container);
        let state = &container["state"];
        let waiting = text(&state["waiting"], "reason");
        if !waiting.is_empty() {
            waiting.clone_into(status);
        } else if let Some(terminated) = state.get("terminated").filter(|terminated| !terminated.is_null()) {
            *status = ending(terminated);
        } else if container["ready"].as_bool() == Some(true) && state.get("running").is_some_and(|running| !running.is_null()) {
            one_runs = true;
            *ready += 1;
        }
    }
    if status == "Completed" && one_runs {
        *status = if condition_is_true(pod, "Ready") {
            "Running".to_owned()
        } else {
            "NotReady".to_owned()
        };
    }
}

/// What the default columns say of `pod`.
#[must_use]
pub fn summary(pod: &Object) -> Summary {
    let mut ready = 0;
    let (mut restarts, mut sidecars) = (Restarts::default(), Restarts::default());
    let sidecar_count = list(pod, "spec.initContainers").iter().filter(|spec| is_sidecar(spec)).count();
    let total = list(pod, "spec.containers").len() + sidecar_count;
    let phase = pod.str_at("status.phase");
    let reason = pod.str_at("status.reason");

    let mut status = if reason.is_empty() { phase.to_owned() } else { reason.to_owned() };
    if condition(pod, "PodScheduled").is_some_and(|condition| text(condition, "reason") == "SchedulingGated") {
        "SchedulingGated".clone_into(&mut status);
    }
    let pending = initializing(pod, &mut ready, &mut restarts, &mut sidecars);
    let initialized = pending.is_none() || condition_is_true(pod, "Initialized");
    if let Some(pending) = pending {
        status = pending;
    }
    if initialized {
        restarts = sidecars;
        running(pod, &mut status, &mut ready, &mut restarts);
    }
    if pod.meta.deletion_timestamp.is_some() {
        if reason == "NodeLost" {
            "Unknown".clone_into(&mut status);
        } else if !matches!(phase, "Succeeded" | "Failed") {
            "Terminating".clone_into(&mut status);
        }
    }
    Summary {
        ready,
        total,
        status,
        restarts: restarts.count,
        restarted_at: restarts.last,
    }
}

fn restarts_cell(pod: &Object, now: Time) -> Value {
    let summary = summary(pod);
    match summary.restarted_at {
        Some(_) if summary.restarts != 0 => Value::from(format!("{} ({} ago)", summary.restarts, age(summary.restarted_at, now))),
        _ => Value::from(summary.restarts.to_string()),
    }
}

fn ip_cell(pod: &Object) -> Value {
    match list(pod, "status.podIPs").first().map(|ip| text(ip, "ip")) {
        Some(ip) if !ip.is_empty() => Value::from(ip),
        _ => Value::from("<none>"),
    }
}

fn gates_cell(pod: &Object) -> Value {
    let gates = list(pod, "spec.readinessGates");
    if gates.is_empty() {
        return Value::from("<none>");
    }
    let open = gates
        .iter()
        .filter(|gate| condition_is_true(pod, text(gate, "conditionType")))
        .count();
    Value::from(format!("{open}/{}", gates.len()))
}

/// The columns of Pods.
#[must_use]
pub fn columns() -> Vec<Column> {
    vec![
        super::name_column(),
        Column::computed("Ready", Cell::Text, |pod, _| {
            let summary = summary(pod);
            Value::from(format!("{}/{}", summary.ready, summary.total))
        })
        .described("The aggregate readiness state of this pod for accepting traffic."),
        Column::computed("Status", Cell::Text, |pod, _| Value::from(summary(pod).status))
            .described("The aggregate status of the containers in this pod."),
        Column::computed("Restarts", Cell::Text, restarts_cell).described(
            "The number of times the containers in this pod have been restarted and when the last container in this pod has restarted.",
        ),
        super::age_column(),
        Column::computed("IP", Cell::Text, |pod, _| ip_cell(pod))
            .wide()
            .described("Address of the pod."),
        Column::computed("Node", Cell::Text, |pod, _| text_or_none(pod, "spec.nodeName"))
            .wide()
            .described("Node the pod is bound to."),
        Column::computed("Nominated Node", Cell::Text, |pod, _| text_or_none(pod, "status.nominatedNodeName"))
            .wide()
            .described("Node on which room is being made for the pod."),
        Column::computed("Readiness Gates", Cell::Text, |pod, _| gates_cell(pod))
            .wide()
            .described("Further conditions the pod's readiness waits for: how many are true."),
    ]
}

/// The row condition of a Pod that is over.
#[must_use]
pub fn row_conditions(pod: &Object) -> Vec<Value> {
    let message = match pod.str_at("status.phase") {
        "Succeeded" => "The pod has completed successfully.",
        "Failed" => "The pod failed.",
        _ => return Vec::new(),
    };
    vec![json!({ "type": "Completed", "status": "True", "reason": pod.str_at("status.phase"), "message": message })]
}
