//! The status of one container.

use api::node::{ContainerView, Exit, ExitCause, RunState};
use api::typed::{ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus};

use crate::action::Target;
use crate::event;
use crate::input::{Container, FailureClass, Role};
use crate::machine::Stage;
use crate::memory::SHOWN;
use crate::plan::containers::again;
use crate::plan::hooks::{self, cut};
use crate::plan::{World, exit, probes};
use crate::restart;
use crate::status::{STATUS_UNKNOWN, STATUS_UNKNOWN_CODE, epoch, terminated};

/// Bytes of termination messages a pod may have, shared by its containers.
///
/// Source: upstream `MaxPodTerminationMessageLogLength`.
const MESSAGES_MAX_BYTES: usize = 12_288;

pub(super) fn status(w: World<'_>, stage: Stage, container: &Container) -> ContainerStatus {
    let attempts = w.attempts(&container.name);
    // An attempt on its way to its first start, its hook included, is not
    // shown: it says nothing but that the state before it is about to end.
    let hidden = usize::from(stage == Stage::Sync && attempts.last().is_some_and(|v| hooks::unshown(w, v)));
    let shown = &attempts[..attempts.len() - hidden];
    let mut status = match shown.last() {
        Some(newest) => {
            let mut status = of_attempt(w, newest, shown.len().checked_sub(2).map(|i| shown[i]));
            if container.role == Role::Regular && shown.len() == 1 {
                remember(w, newest, &mut status);
            }
            // An attempt that was never started may be cleared away; its number
            // was told, and is the next one's.
            let told = w.last.and_then(|last| crate::status::of(last, &container.name));
            status.restart_count = status.restart_count.max(told.map_or(0, |told| told.restart_count));
            status
        }
        None => without_attempt(w, stage, container),
    };
    let trouble = if stage == Stage::Sync && to_start(w, container, shown.last().copied()) {
        waiting(w, container, shown)
    } else {
        None
    };
    if let Some(waiting) = trouble {
        if status.state.as_ref().is_some_and(|s| s.terminated.is_some()) {
            status.last_state = status.state.take();
            if shown.is_empty() {
                // Only the API remembers the attempt; what waits is the next.
                status.restart_count = status.restart_count.saturating_add(1);
                (status.container_id, status.image_id, status.stop_signal) = (None, String::new(), None);
                status.image.clone_from(&container.image);
            }
        }
        status.state = Some(ContainerState {
            waiting: Some(waiting),
            ..ContainerState::default()
        });
    }
    let ended_well = status
        .state
        .as_ref()
        .and_then(|s| s.terminated.as_ref())
        .is_some_and(|t| t.exit_code == 0);
    let running = status.state.as_ref().is_some_and(|s| s.running.is_some());
    let newest = shown.last().filter(|_| running);
    let started = newest.is_some_and(|view| probes::started(w, container, view));
    status.started = Some(started).filter(|_| container.role != Role::Ephemeral);
    status.ready = match container.role {
        Role::Init => ended_well,
        Role::Sidecar | Role::Regular => newest.is_some_and(|view| probes::ready(w, container, view)),
        Role::Ephemeral => false, // nobody asks it anything
    };
    if container.role != Role::Ephemeral {
        // What is not running has what it will run with.
        let actual = newest.and_then(|view| view.resources.as_ref());
        status.resources = Some(actual.unwrap_or(&container.resources).wire());
        status.allocated_resources = container.resources.wire().requests;
    }
    status.volume_mounts = (!container.volume_mounts.is_empty()).then(|| container.volume_mounts.clone());
    status
}

/// Of what ran before a runtime that holds one attempt, only the API knows: of
/// a pod that was stopped with its node, for example.
fn remember(w: World<'_>, only: &ContainerView, status: &mut ContainerStatus) {
    let Some(old) = w
        .last
        .and_then(|last| crate::status::of(last, &only.name))
        .filter(|_| only.attempt > 0)
    else {
        return;
    };
    let same = old.container_id == status.container_id;
    let ended = old.state.as_ref().filter(|state| state.terminated.is_some() && !same);
    status.last_state = ended.or(old.last_state.as_ref()).cloned();
}

fn of_attempt(w: World<'_>, newest: &ContainerView, previous: Option<&ContainerView>) -> ContainerStatus {
    let state = match &newest.state {
        RunState::Created => ContainerState {
            waiting: Some(ContainerStateWaiting::default()),
            ..ContainerState::default()
        },
        RunState::Running { started_at } => ContainerState {
            running: Some(ContainerStateRunning {
                started_at: Some(started_at.wire()),
            }),
            ..ContainerState::default()
        },
        RunState::Exited(exit) => terminated(termination(w, newest, exit)),
    };
    let last_state = previous.and_then(|p| exit(p).map(|e| terminated(termination(w, p, e))));
    ContainerStatus {
        name: newest.name.clone(),
        image: newest.image.clone(),
        image_id: newest.image_id.clone(),
        stop_signal: Some(newest.stop_signal.clone()).filter(|signal| !signal.is_empty()),
        container_id: Some(wire_id(newest)),
        restart_count: i32::try_from(newest.attempt).unwrap_or(i32::MAX),
        state: Some(state),
        last_state: Some(last_state.unwrap_or_default()),
        ..ContainerStatus::default()
    }
}

/// A container the runtime has no attempt of: what the API last said of it
/// decides. One that ran is inferred to have ended, though nobody knows how.
fn without_attempt(w: World<'_>, stage: Stage, container: &Container) -> ContainerStatus {
    let reason = if w.desired.init.is_empty() {
        "ContainerCreating"
    } else {
        "PodInitializing"
    };
    let waiting = ContainerStateWaiting {
        reason: Some(reason.to_owned()),
        message: None,
    };
    let mut status = ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone(),
        state: Some(ContainerState {
            waiting: Some(waiting),
            ..ContainerState::default()
        }),
        last_state: Some(ContainerState::default()),
        ..ContainerStatus::default()
    };
    let Some(old) = w.last.and_then(|last| crate::status::of(last, &container.name)) else {
        return status;
    };
    if old.state.as_ref().is_some_and(|s| s.terminated.is_some()) {
        return old.clone();
    }
    status.restart_count = old.restart_count;
    status.last_state = Some(old.last_state.clone().unwrap_or_default());
    if old.state.as_ref().is_some_and(|s| s.running.is_some()) {
        let message = "The container could not be located when the pod was deleted.  The container used to be Running";
        status.last_state = Some(terminated(ContainerStateTerminated {
            exit_code: STATUS_UNKNOWN_CODE,
            reason: Some(STATUS_UNKNOWN.to_owned()),
            message: Some(message.to_owned()),
            ..ContainerStateTerminated::default()
        }));
        if stage == Stage::Sync {
            status.restart_count = status.restart_count.saturating_add(1);
        }
    } else if stage == Stage::Sync && old.container_id.as_deref().is_some_and(|id| !id.is_empty()) {
        // It waited for a restart when its attempts vanished.
        status.restart_count = status.restart_count.saturating_add(1);
    }
    status
}

/// Whether the container would be started, were nothing in its way. One that
/// ended well as an init container never is.
fn to_start(w: World<'_>, container: &Container, newest: Option<&ContainerView>) -> bool {
    match newest.map(|view| (view, &view.state)) {
        None | Some((_, RunState::Created)) => true,
        Some((_, RunState::Running { .. })) => false,
        Some((view, RunState::Exited(exit))) => again(w, container, view, exit),
    }
}

/// What keeps the container from being started, if anything does.
fn waiting(w: World<'_>, container: &Container, shown: &[&ContainerView]) -> Option<ContainerStateWaiting> {
    let pod = w.desired.pod();
    let reason = |reason: &str, message: String| {
        Some(ContainerStateWaiting {
            reason: Some(reason.to_owned()),
            message: Some(message),
        })
    };
    if let Some(delay) = crash_delay(w, container, shown) {
        let name = &container.name;
        return reason(
            "CrashLoopBackOff",
            format!("back-off {} restarting failed container={name} pod={pod}", event::duration(delay)),
        );
    }
    if let Some(message) = shown.last().and_then(|view| hooks::error(w, view)) {
        return reason("PostStartHookError", message.to_owned());
    }
    if let Some(failure) = w.memory.retry(&Target::Container(container.name.clone())).map(|r| &r.failure) {
        return shown_class(failure.class).and_then(|class| reason(class, failure.message.clone()));
    }
    let pull = w.memory.pulls.get(&container.name).filter(|p| p.image == container.image)?;
    let failure = pull.result.as_ref().err()?;
    let class = shown_class(failure.class)?;
    if failure.backing_off(w.now) {
        return reason(
            "ImagePullBackOff",
            format!("Back-off pulling image \"{}\": {class}: {}", container.image, failure.message),
        );
    }
    reason(class, failure.message.clone())
}

/// The back-off the newest attempt met when it died. It is shown while it
/// lasts, and once shown until the next attempt runs.
fn crash_delay(w: World<'_>, container: &Container, shown: &[&ContainerView]) -> Option<std::time::Duration> {
    let (view, before) = (*shown.last()?, shown.len().checked_sub(2).map(|i| shown[i]));
    let exit = exit(view)?;
    let until = restart::not_before(container, view, exit, before);
    let was_shown = w.last.and_then(|s| crate::status::waiting_reason(s, &container.name)) == Some("CrashLoopBackOff");
    let fresh = exit.finished_at + SHOWN > w.now;
    let shows = !fresh && (until > w.now || (was_shown && until > exit.finished_at));
    restart::delay(view, before).filter(|_| shows)
}

/// The waiting reason of a failure; `None` for those of no container.
pub(crate) fn shown_class(class: FailureClass) -> Option<&'static str> {
    match class {
        FailureClass::ErrImagePull => Some("ErrImagePull"),
        FailureClass::InvalidImageName => Some("InvalidImageName"),
        FailureClass::ErrImageNeverPull => Some("ErrImageNeverPull"),
        FailureClass::ImageInspectError => Some("ImageInspectError"),
        FailureClass::RegistryUnavailable => Some("RegistryUnavailable"),
        FailureClass::CreateContainerConfigError => Some("CreateContainerConfigError"),
        FailureClass::CreateContainerError => Some("CreateContainerError"),
        FailureClass::RunContainerError => Some("RunContainerError"),
        FailureClass::Sandbox
        | FailureClass::Network
        | FailureClass::NetworkNotReady
        | FailureClass::PodCgroup
        | FailureClass::PodDirectory
        | FailureClass::Mount
        | FailureClass::Hook
        | FailureClass::Kill
        | FailureClass::Unavailable
        | FailureClass::Timeout
        | FailureClass::Api
        | FailureClass::Cancelled => None,
    }
}

/// An attempt's identity in the API.
pub(crate) fn wire_id(view: &ContainerView) -> String {
    format!("lifepod://{}", view.id)
}

fn termination(w: World<'_>, view: &ContainerView, exit: &Exit) -> ContainerStateTerminated {
    let reason = match (exit.cause, exit.code) {
        (ExitCause::OutOfMemory, _) => "OOMKilled",
        (ExitCause::StartError, _) => "StartError",
        (ExitCause::Lost, _) => "Unknown",
        (ExitCause::Process, 0) => "Completed",
        (ExitCause::Process, _) => "Error",
    };
    let share = MESSAGES_MAX_BYTES / w.desired.all().count().max(1);
    ContainerStateTerminated {
        container_id: Some(wire_id(view)),
        exit_code: exit.code,
        reason: Some(reason.to_owned()),
        message: (!exit.message.is_empty()).then(|| cut(&exit.message, share).to_owned()),
        started_at: Some(exit.started_at.map_or_else(epoch, api::Time::wire)),
        finished_at: Some(exit.finished_at.wire()),
        signal: None,
    }
}
