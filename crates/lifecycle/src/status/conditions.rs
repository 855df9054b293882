//! Pod conditions. Source: upstream `status/generate.go`; KEP-3085.

use api::typed::{ContainerStatus, PodCondition, PodStatus};

use crate::admit::{PREEMPTED, PREEMPTING};
use crate::input::{OWNED_CONDITIONS, RESIZE_IN_PROGRESS, RESIZE_PENDING, Role};
use crate::memory::Ending;
use crate::plan::{World, resize, sandbox};
use crate::status;

const DISRUPTION_TARGET: &str = "DisruptionTarget";

/// Whether the kubelet writes conditions of this type.
pub(super) fn owned(condition_type: &str) -> bool {
    OWNED_CONDITIONS.contains(&condition_type) || condition_type == DISRUPTION_TARGET
}

/// True, or false with reason and message.
type Verdict = Result<Option<&'static str>, (&'static str, Option<String>)>;

/// All conditions, in upstream's order: those of others first.
pub(super) fn all(w: World<'_>, status: &PodStatus) -> Vec<PodCondition> {
    let containers_ready = containers_ready(w, status);
    let ready = ready(w, &containers_ready);
    let mut list = foreign(w);
    if let (Some(Ending::Evicted), Some(eviction)) = (w.memory.ending, &w.desired.eviction) {
        list.retain(|c| c.type_ != DISRUPTION_TARGET);
        let mut condition = condition(w, DISRUPTION_TARGET, Ok(Some("TerminationByKubelet")));
        condition.message = Some(match eviction.reason.as_str() {
            PREEMPTING => PREEMPTED.to_owned(),
            _ => eviction.message.clone(), // evictions and shutdowns say there what the status says
        });
        list.push(condition);
    }
    list.extend(resized(w));
    let sandbox = if sandbox::ready(w) { Ok(None) } else { Err(("", None)) };
    list.push(condition(w, "PodReadyToStartContainers", sandbox));
    list.push(condition(w, "Initialized", initialized(w, status)));
    list.push(condition(w, "Ready", ready));
    list.push(condition(w, "ContainersReady", containers_ready));
    list.push(condition(w, "PodScheduled", Ok(None)));
    list
}

/// What becomes of other resources that were asked for. Absent unless there
/// is something to wait for.
///
/// Source: upstream `kubelet.go`, `determinePodResizeStatus`.
fn resized(w: World<'_>) -> Vec<PodCondition> {
    let mut list = Vec::new();
    if w.memory.ending.is_some() {
        return list;
    }
    if let Some(pending) = &w.desired.resize_pending {
        let mut condition = condition(w, RESIZE_PENDING, Ok(Some(pending.reason)));
        condition.message = Some(pending.message.clone());
        list.push(condition);
    }
    if let Some(failed) = resize::in_progress(w) {
        let mut condition = condition(w, RESIZE_IN_PROGRESS, Ok(failed.is_some().then_some("Error")));
        condition.message = failed;
        list.push(condition);
    }
    list
}

/// The conditions of a pod the node refused.
pub(super) fn scheduled_only(w: World<'_>) -> Vec<PodCondition> {
    let mut list = foreign(w);
    list.push(condition(w, "PodScheduled", Ok(None)));
    list
}

fn foreign(w: World<'_>) -> Vec<PodCondition> {
    let mut list = w.desired.foreign_conditions.clone();
    let evicted = w
        .last
        .and_then(|s| s.conditions.as_ref())
        .into_iter()
        .flatten()
        .find(|c| c.type_ == DISRUPTION_TARGET);
    if let Some(target) = evicted.filter(|_| !list.iter().any(|c| c.type_ == DISRUPTION_TARGET)) {
        list.push(target.clone());
    }
    list
}

fn condition(w: World<'_>, condition_type: &str, verdict: Verdict) -> PodCondition {
    let (status, reason, message) = match verdict {
        Ok(reason) => ("True", reason, None),
        Err((reason, message)) => ("False", Some(reason).filter(|r| !r.is_empty()), message),
    };
    let old = w
        .last
        .and_then(|s| s.conditions.as_ref())
        .into_iter()
        .flatten()
        .find(|c| c.type_ == condition_type);
    let since = old.filter(|c| c.status == status).and_then(|c| c.last_transition_time.clone());
    PodCondition {
        type_: condition_type.to_owned(),
        status: status.to_owned(),
        reason: reason.map(str::to_owned),
        message,
        last_transition_time: Some(since.unwrap_or_else(|| w.now.wire())),
        last_probe_time: None,
        observed_generation: status::observed_generation(w),
    }
}

fn initialized(w: World<'_>, status: &PodStatus) -> Verdict {
    let (mut unknown, mut incomplete) = (Vec::new(), Vec::new());
    for container in &w.desired.init {
        match (status::of(status, &container.name), container.role) {
            (None, _) => unknown.push(container.name.as_str()),
            (Some(s), Role::Sidecar) if s.started != Some(true) => incomplete.push(container.name.as_str()),
            (Some(s), Role::Init) if !s.ready => incomplete.push(container.name.as_str()),
            (Some(_), Role::Init | Role::Sidecar | Role::Regular | Role::Ephemeral) => {}
        }
    }
    if status.phase.as_deref() == Some("Succeeded") && unknown.is_empty() {
        return Ok(Some("PodCompleted"));
    }
    let moved = |c: &ContainerStatus| c.state.as_ref().is_some_and(|s| s.running.is_some() || s.terminated.is_some());
    if status.container_statuses.iter().flatten().any(moved) || (unknown.is_empty() && incomplete.is_empty()) {
        return Ok(None);
    }
    Err(("ContainersNotInitialized", Some(lists(&unknown, ("incomplete", &incomplete)))))
}

fn containers_ready(w: World<'_>, status: &PodStatus) -> Verdict {
    let (mut unknown, mut unready) = (Vec::new(), Vec::new());
    for container in w.desired.all().filter(|c| matches!(c.role, Role::Sidecar | Role::Regular)) {
        match status::of(status, &container.name) {
            None => unknown.push(container.name.as_str()),
            Some(s) if !s.ready => unready.push(container.name.as_str()),
            Some(_) => {}
        }
    }
    match status.phase.as_deref() {
        Some("Succeeded") if unknown.is_empty() => Err(("PodCompleted", None)),
        Some("Failed") if unknown.is_empty() => Err(("PodFailed", None)),
        _ if unknown.is_empty() && unready.is_empty() => Ok(None),
        _ => Err(("ContainersNotReady", Some(lists(&unknown, ("unready", &unready))))),
    }
}

fn ready(w: World<'_>, containers_ready: &Verdict) -> Verdict {
    containers_ready.clone()?;
    let gates = w
        .desired
        .readiness_gates
        .iter()
        .filter_map(|gate| match w.desired.foreign_conditions.iter().find(|c| c.type_ == *gate) {
            None => Some(format!("corresponding condition of pod readiness gate \"{gate}\" does not exist.")),
            Some(c) if c.status != "True" => Some(format!(
                "the status of pod readiness gate \"{gate}\" is not \"True\", but {}",
                c.status
            )),
            Some(_) => None,
        });
    let gates: Vec<_> = gates.collect();
    if gates.is_empty() {
        Ok(None)
    } else {
        Err(("ReadinessGatesNotReady", Some(gates.join(", "))))
    }
}

/// Lists of names as Go prints slices.
fn lists(unknown: &[&str], (word, other): (&str, &[&str])) -> String {
    let list = |word: &str, names: &[&str]| (!names.is_empty()).then(|| format!("containers with {word} status: [{}]", names.join(" ")));
    list("unknown", unknown)
        .into_iter()
        .chain(list(word, other))
        .collect::<Vec<_>>()
        .join(", ")
}
