//! Regular containers, and the way every container is started: back-off,
//! image, attempt, process.
//!
//! Source: upstream `computePodActions` and `startContainer`.

use api::node::{ContainerView, RunState};

use crate::action::{Reason, Target, Verb};
use crate::input::{Container, RestartPolicy, Role};
use crate::memory::{SHOWN, pull_note_key};
use crate::plan::terminate::{self, Ending};
use crate::plan::{Plan, World, exit, hooks, probes, resize};
use crate::restart::{self, NOTE_BACK_OFF, NOTE_KILLED, NOTE_REPLACED};

/// Containers start one at a time, in order, as upstream's do: the next is not
/// made while one is on its way. One that waits for a retry stands aside.
pub(crate) struct Line {
    free: bool,
}

impl Line {
    /// `open` once there is a sandbox to make containers in; until then only
    /// images are fetched.
    pub(crate) fn new(open: bool) -> Self {
        Self { free: open }
    }
}

/// Whether one is being made or started, whatever its place in the order: one
/// before it whose back-off has ended meanwhile waits. Ephemeral containers
/// are in no line.
pub(crate) fn any_on_its_way(w: World<'_>) -> bool {
    let in_line = |name: &String| w.desired.all().any(|c| c.name == *name && c.role != Role::Ephemeral);
    w.hands.0.values().any(|f| {
        let begins = !f.cancelled && matches!(f.verb, Verb::Create { .. } | Verb::Start { .. });
        begins && matches!(&f.target, Target::Container(name) if in_line(name))
    })
}

/// Plans every regular container; true when none is kept and none is started.
pub(crate) fn plan(w: World<'_>, plan: &mut Plan, line: &mut Line) -> bool {
    let mut over = true;
    for container in &w.desired.containers {
        match w.newest(&container.name) {
            None => start(w, plan, container, Reason::NeverStarted, line),
            Some(view) => match &view.state {
                RunState::Created => start(w, plan, container, Reason::Created, line),
                RunState::Running { .. } => keep(w, plan, container, view),
                RunState::Exited(exit) if again(w, container, view, exit) => start(w, plan, container, Reason::Exited(exit.code), line),
                RunState::Exited(_) => continue,
            },
        }
        over = false;
    }
    over
}

/// Whether an ended container is to run again.
pub(crate) fn again(w: World<'_>, container: &Container, view: &ContainerView, exit: &api::node::Exit) -> bool {
    replaced(w, view) || restart::wanted(w.desired.restart_policy, container.role, exit)
}

/// Whether an attempt was stopped only to be started anew.
pub(crate) fn replaced(w: World<'_>, view: &ContainerView) -> bool {
    let killed = view.notes.contains_key(NOTE_KILLED) && w.desired.restart_policy != RestartPolicy::Never;
    killed || view.notes.contains_key(NOTE_REPLACED)
}

/// Lets a running container be, its hook apart, unless the spec now names another image. That
/// it is stopped to be replaced is noted first: it holds under `Never` too.
pub(crate) fn keep(w: World<'_>, plan: &mut Plan, container: &Container, view: &ContainerView) {
    let resized = view.image == container.image && resize::restarts(container, view);
    if view.image == container.image && !resized {
        match probes::condemned(w, view) {
            Some(kind) => probes::kill(w, plan, container, view, kind),
            None => {
                resize::plan(plan, container, view);
                hooks::post_start(w, plan, container, view);
            }
        }
        return;
    }
    if view.notes.contains_key(NOTE_REPLACED) {
        let text = match container.role {
            _ if resized => format!("Container {} resize requires restart", container.name),
            Role::Regular | Role::Ephemeral => format!("Container {} definition changed, will be restarted", container.name),
            Role::Init | Role::Sidecar => format!("Init container {} definition changed", container.name),
        };
        let ending = Ending {
            kill_at: terminate::kill_at(w, view, w.desired.grace),
            because: if resized { Reason::Resized } else { Reason::DefinitionChanged },
            text,
            its_turn: true,
        };
        terminate::end(w, plan, view, ending);
    } else {
        let verb = Verb::Note {
            id: view.id.clone(),
            key: NOTE_REPLACED,
            value: container.image.clone(),
        };
        plan.want(Target::Container(container.name.clone()), verb, Reason::Durable);
    }
}

/// Brings a container one action closer to running.
pub(crate) fn start(w: World<'_>, plan: &mut Plan, container: &Container, because: Reason, line: &mut Line) {
    let target = Target::Container(container.name.clone());
    let newest = w.newest(&container.name);
    // A note about a pull holds nothing up.
    let under_way = w.hands.on_container(&container.name);
    if let Some((id, verb)) = under_way.filter(|(_, verb)| !matches!(verb, Verb::NoteSandbox { .. })) {
        if !newest.is_some_and(|view| hooks::outlived(view, verb)) {
            line.free = false;
            return;
        }
        plan.cancels.push((id, because.clone()));
    }
    if let Some(at) = crash_back_off(w, container).filter(|at| *at > w.now) {
        plan.wake(at);
        if let Some(finished_at) = newest.and_then(exit).map(|e| e.finished_at).filter(|at| *at + SHOWN > w.now) {
            plan.wake(finished_at + SHOWN);
        }
        return;
    }
    if let Some(retry) = w.memory.retry(&target).filter(|r| r.next_at > w.now) {
        plan.wake(retry.next_at);
        return;
    }
    if let Some(view) = newest.filter(|v| v.state == RunState::Created) {
        if std::mem::take(&mut line.free) {
            plan.want(target, note_or_start(view, w.previous(&container.name)), Reason::Created);
        }
        return;
    }
    match w
        .memory
        .pulls
        .get(&container.name)
        .filter(|p| p.image == container.image)
        .map(|p| &p.result)
    {
        Some(Ok(())) if pull_note(w, container).is_some() => {
            // Nobody is to wait for an image that is there.
            line.free = false;
            plan.want(target, note_pull(container, String::new()), Reason::Durable);
        }
        Some(Ok(())) => {
            if std::mem::take(&mut line.free) {
                plan.want(
                    target,
                    Verb::Create {
                        attempt: next_attempt(w, &container.name),
                    },
                    because,
                );
            }
        }
        Some(Err(failure)) if failure.next_at > w.now => {
            let note = failure.note(&container.image);
            if failure.backs_off() && w.seen.sandbox.is_some() && pull_note(w, container) != Some(&note) {
                plan.want(target, note_pull(container, note), Reason::Durable);
            }
            plan.wake(failure.next_at);
            if failure.backs_off() && failure.at + SHOWN > w.now {
                plan.wake(failure.at + SHOWN);
            }
        }
        Some(Err(_)) | None => {
            line.free = false;
            plan.want(
                target,
                Verb::Pull {
                    image: container.image.clone(),
                    policy: container.pull_policy,
                },
                because,
            );
        }
    }
}

/// What an agent has noted of a container's failed pulls.
fn pull_note<'a>(w: World<'a>, container: &Container) -> Option<&'a String> {
    w.seen.sandbox.as_ref()?.notes.get(&pull_note_key(&container.name))
}

fn note_pull(container: &Container, value: String) -> Verb {
    Verb::NoteSandbox {
        key: pull_note_key(&container.name),
        value,
    }
}

/// When the back-off of a crashed container ends; `None` if it has not crashed.
pub(crate) fn crash_back_off(w: World<'_>, container: &Container) -> Option<api::Time> {
    let view = w.newest(&container.name)?;
    Some(restart::not_before(container, view, exit(view)?, w.previous(&container.name)))
}

/// The delay a later crash will meet is noted before the process runs.
fn note_or_start(view: &ContainerView, previous: Option<&ContainerView>) -> Verb {
    match restart::delay_to_note(view, previous) {
        Some(delay) => Verb::Note {
            id: view.id.clone(),
            key: NOTE_BACK_OFF,
            value: delay.as_secs().to_string(),
        },
        None => Verb::Start { id: view.id.clone() },
    }
}

/// One more than the newest attempt; if the runtime lost them all, than what
/// the API last showed.
pub(crate) fn next_attempt(w: World<'_>, name: &str) -> u32 {
    if let Some(view) = w.newest(name) {
        return view.attempt.saturating_add(1);
    }
    let Some(last) = w.last.and_then(|last| crate::status::of(last, name)) else {
        return 0;
    };
    let count = u32::try_from(last.restart_count).unwrap_or(0);
    if last.container_id.as_deref().is_some_and(|id| !id.is_empty()) {
        count.saturating_add(1)
    } else {
        count
    }
}
