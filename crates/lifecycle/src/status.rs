//! What the API shows of a pod: container states, conditions, phase.
//!
//! Source: upstream `kubelet_pods.go` (`convertToAPIContainerStatuses`,
//! `getPhase`), `status/generate.go`, `status/status_manager.go`
//! (`TerminatePod`); pod lifecycle page.

mod conditions;
mod container;
mod phase;

use api::typed::{ContainerState, ContainerStateTerminated, ContainerStatus, HostIP, PodCondition, PodIP, PodStatus, WireTime};

use crate::input::{DEADLINE_EXCEEDED, Desired, Role};
use crate::machine::Stage;
use crate::memory::Ending;
use crate::plan::World;

/// Reason and exit code of an attempt nobody knows the end of.
pub(crate) const STATUS_UNKNOWN: &str = "ContainerStatusUnknown";
pub(crate) const STATUS_UNKNOWN_CODE: i32 = 137;

/// The status of the pod as of now.
pub(crate) fn generate(w: World<'_>, stage: Stage) -> PodStatus {
    let mut status = PodStatus {
        qos_class: w.desired.qos_class.clone(),
        host_ip: w.desired.host_ips.first().map(ToString::to_string),
        host_ips: some_list(w.desired.host_ips.iter().map(|ip| HostIP { ip: ip.to_string() }).collect()),
        start_time: Some(w.last.and_then(|last| last.start_time.clone()).unwrap_or_else(|| w.now.wire())),
        observed_generation: observed_generation(w),
        ..PodStatus::default()
    };
    if rejected(w) {
        decide_phase(w, &mut status, "Failed");
        status.conditions = Some(conditions::scheduled_only(w));
        return status;
    }
    pod_ips(w, &mut status);
    let mut init: Vec<_> = w.desired.init.iter().map(|c| container::status(w, stage, c)).collect();
    let mut regular: Vec<_> = w.desired.containers.iter().map(|c| container::status(w, stage, c)).collect();
    // What stops with its node is not over.
    let drained = w.memory.ending == Some(Ending::Drained);
    if stage == Stage::Terminated && !drained {
        settle(w.desired, &mut init, &mut regular);
    }
    let last_phase = w.last.and_then(|last| last.phase.as_deref()).unwrap_or("Pending");
    let phase = if drained {
        last_phase
    } else {
        phase::phase(w, stage, &init, &regular)
    };
    regular.sort_by(|a, b| a.name.cmp(&b.name));
    let mut ephemeral: Vec<_> = w.desired.ephemeral.iter().map(|c| container::status(w, stage, c)).collect();
    ephemeral.sort_by(|a, b| a.name.cmp(&b.name));
    status.ephemeral_container_statuses = some_list(ephemeral);
    status.init_container_statuses = some_list(init);
    status.container_statuses = some_list(regular);
    decide_phase(w, &mut status, phase);
    status.conditions = Some(conditions::all(w, &status));
    status
}

/// Which spec the status is about. Upstream writes it behind
/// `PodObservedGenerationTracking`, off in 1.33 and on ever since: who waits
/// for a change to be acted on has no other way to tell. Source: KEP-5067.
pub(super) fn observed_generation(w: World<'_>) -> Option<i64> {
    Some(w.desired.generation).filter(|generation| *generation > 0)
}

/// Refused by the node before anything of it was made.
fn rejected(w: World<'_>) -> bool {
    w.memory.ending == Some(Ending::Rejected)
        || w.last
            .is_some_and(|last| phase::terminal(last) && last.container_statuses.is_none())
}

/// Writes phase, reason and message. A terminal phase stays; reason and message
/// stay with the phase they came with.
fn decide_phase(w: World<'_>, status: &mut PodStatus, phase: &str) {
    let last_phase = w.last.and_then(|last| last.phase.as_deref()).unwrap_or("Pending");
    let sticky = w.last.is_some_and(phase::terminal);
    let imposed = match (w.memory.ending, &w.desired.rejection, &w.desired.eviction) {
        (Some(Ending::Rejected), Some(r), _) => Some((r.reason.clone(), format!("Pod was rejected: {}", r.message))),
        (Some(Ending::Evicted), _, Some(e)) => Some((e.reason.clone(), e.message.clone())),
        (Some(Ending::DeadlineExceeded), _, _) => Some(("DeadlineExceeded".to_owned(), DEADLINE_EXCEEDED.to_owned())),
        _ => None, // every other way to end leaves the phase to the containers
    };
    (status.phase, status.reason, status.message) = match imposed {
        Some((reason, message)) if !sticky => (Some("Failed".to_owned()), Some(reason), Some(message)),
        _ if sticky || last_phase == phase => {
            let last = w.last;
            (
                Some(last_phase.to_owned()),
                last.and_then(|s| s.reason.clone()),
                last.and_then(|s| s.message.clone()),
            )
        }
        _ => (Some(phase.to_owned()), None, None),
    };
}

/// Addresses are kept after the sandbox is gone.
fn pod_ips(w: World<'_>, status: &mut PodStatus) {
    let ips: Vec<_> = if w.desired.host_network {
        match &w.seen.sandbox {
            Some(_) => w.desired.host_ips.clone(),
            None => Vec::new(),
        }
    } else {
        w.seen.sandbox.iter().flat_map(|s| s.ips.clone()).collect()
    };
    if let Some(first) = ips.first() {
        status.pod_ip = Some(first.to_string());
        status.pod_ips = Some(ips.iter().map(|ip| PodIP { ip: ip.to_string() }).collect());
    } else if let Some(last) = w.last {
        status.pod_ip = last.pod_ip.clone();
        status.pod_ips = last.pod_ips.clone();
    }
}

/// Once everything is over, what cannot be found is reported as failed.
///
/// Source: upstream `TerminatePod`, `hasPodInitialized`,
/// `initializedContainers`.
fn settle(desired: &Desired, init: &mut [ContainerStatus], regular: &mut [ContainerStatus]) {
    let waits = |c: &ContainerStatus| c.state.as_ref().is_none_or(|s| s.waiting.is_some());
    let ended = |c: &ContainerStatus| c.last_state.as_ref().is_some_and(|s| s.terminated.is_some());
    let done = |c: &ContainerStatus| {
        [&c.state, &c.last_state]
            .iter()
            .any(|s| s.as_ref().and_then(|s| s.terminated.as_ref()).is_some_and(|t| t.exit_code == 0))
    };
    let last_init = match (desired.init.last(), init.last()) {
        (Some(spec), Some(status)) if spec.role == Role::Sidecar => status.started == Some(true),
        (Some(_), Some(status)) => done(status),
        _ => true, // a pod without init containers is initialized
    };
    if last_init || regular.iter().any(|c| !waits(c) || ended(c)) {
        regular.iter_mut().for_each(lost);
    }
    if !init.is_empty() {
        let tried = init.iter().rposition(|c| !waits(c) || ended(c)).unwrap_or(0);
        init.iter_mut().take(tried + 1).for_each(lost);
    }
}

fn lost(status: &mut ContainerStatus) {
    if status.state.as_ref().is_some_and(|s| s.terminated.is_some()) {
        return;
    }
    let message = "The container could not be located when the pod was terminated";
    status.state = Some(terminated(ContainerStateTerminated {
        exit_code: STATUS_UNKNOWN_CODE,
        reason: Some(STATUS_UNKNOWN.to_owned()),
        message: Some(message.to_owned()),
        ..ContainerStateTerminated::default()
    }));
    (status.ready, status.started) = (false, Some(false));
}

pub(crate) fn terminated(terminated: ContainerStateTerminated) -> ContainerState {
    ContainerState {
        terminated: Some(terminated),
        ..ContainerState::default()
    }
}

/// Whether a status says the pod is over.
pub(crate) fn is_terminal(status: &PodStatus) -> bool {
    phase::terminal(status)
}

/// Whether two statuses say the same, what others write there aside.
pub(crate) fn same(a: &PodStatus, b: &PodStatus) -> bool {
    fn conditions(status: &PodStatus) -> impl Iterator<Item = &PodCondition> {
        let all = status.conditions.iter().flatten();
        all.filter(|condition| conditions::owned(&condition.type_))
    }
    let PodStatus {
        conditions: _,
        resize: _,
        nominated_node_name: _,
        resource_claim_statuses: _,
        container_statuses,
        ephemeral_container_statuses,
        host_ip,
        host_ips,
        init_container_statuses,
        message,
        observed_generation,
        phase,
        pod_ip,
        pod_ips,
        qos_class,
        reason,
        start_time,
    } = a;
    conditions(a).eq(conditions(b))
        && *container_statuses == b.container_statuses
        && *ephemeral_container_statuses == b.ephemeral_container_statuses
        && *init_container_statuses == b.init_container_statuses
        && (phase, reason, message) == (&b.phase, &b.reason, &b.message)
        && (pod_ip, pod_ips, host_ip, host_ips) == (&b.pod_ip, &b.pod_ips, &b.host_ip, &b.host_ips)
        && (observed_generation, qos_class, start_time) == (&b.observed_generation, &b.qos_class, &b.start_time)
}

/// The reason a container waits for, if it waits.
pub(crate) fn waiting_reason<'a>(status: &'a PodStatus, name: &str) -> Option<&'a str> {
    of(status, name)?.state.as_ref()?.waiting.as_ref()?.reason.as_deref()
}

/// The status of the container of this name; names are unique in a pod.
pub(crate) fn of<'a>(status: &'a PodStatus, name: &str) -> Option<&'a ContainerStatus> {
    let lists = [
        &status.init_container_statuses,
        &status.container_statuses,
        &status.ephemeral_container_statuses,
    ];
    lists.into_iter().flatten().flatten().find(|c| c.name == name)
}

fn some_list<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

/// Seconds since the epoch zero, as upstream prints an unknown start.
pub(crate) fn epoch() -> WireTime {
    api::Time(0).wire()
}

pub(crate) use container::wire_id;

/// The word for a failure's class where only its class is told.
pub(crate) fn class_word(class: crate::input::FailureClass) -> &'static str {
    container::shown_class(class).unwrap_or("ErrImagePull")
}
