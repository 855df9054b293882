//! Lifecycle hooks: `postStart` before a container counts as started,
//! `preStop` before its process is told to stop.
//!
//! How each ended is noted on the attempt, so that a restarted agent does not
//! run again what has completed. Between the end of a hook and its note the
//! agent may die; then the hook runs once more, as upstream's may: at least
//! once is what is promised.
//!
//! Source: upstream `kuberuntime_container.go`, `startContainer` and
//! `killContainer`; container lifecycle hooks page.

use std::time::Duration;

use api::node::{ContainerView, RunState};

use crate::action::{Reason, Target, Verb};
use crate::input::{Container, Handler, Hook};
use crate::plan::terminate::{self, Ending};
use crate::plan::{Plan, World, container_of};

/// Key of the note on how `postStart` ended: [`DONE`], or the waiting message.
const NOTE_POST_START: &str = "post-start";
/// Key of the note that `preStop` has ended.
const NOTE_PRE_STOP: &str = "pre-stop";
/// Value of a note about a hook that succeeded, or whose failure is no matter.
const DONE: &str = "done";
/// `postStart` has no limit upstream; here no wait is without one.
const POST_START_MAX: Duration = Duration::from_secs(24 * 3600);
/// A note is a small file: the rest of a failed hook's output is not kept.
const MESSAGE_MAX_BYTES: usize = 4_096;

/// Whether an attempt's process runs and its `postStart` hook has not
/// succeeded: to the API it has not started.
pub(crate) fn pending(container: &Container, view: &ContainerView) -> bool {
    container.hooks.post_start.is_some()
        && matches!(view.state, RunState::Running { .. })
        && view.notes.get(NOTE_POST_START).is_none_or(|note| note != DONE)
}

/// Whether an attempt is not shown yet: made, but not started with its hook.
pub(crate) fn unshown(w: World<'_>, view: &ContainerView) -> bool {
    view.state == RunState::Created || container_of(w.desired, &view.name).is_some_and(|c| pending(c, view))
}

/// Whether a container is on its way through its `postStart` hook, for which
/// the next one's start waits.
pub(crate) fn any_pending(w: World<'_>) -> bool {
    w.desired.all().any(|c| w.newest(&c.name).is_some_and(|view| pending(c, view)))
}

/// What the note on a failed `postStart` hook of this attempt says.
pub(crate) fn noted_error(view: &ContainerView) -> Option<&str> {
    view.notes.get(NOTE_POST_START).filter(|note| *note != DONE).map(String::as_str)
}

/// What a failed `postStart` hook of this attempt said.
pub(crate) fn error<'a>(w: World<'a>, view: &'a ContainerView) -> Option<&'a str> {
    noted_error(view).or_else(|| {
        let ended = w.memory.hooks.get(&(view.id.clone(), Hook::PostStart))?;
        ended.as_ref().err().map(String::as_str)
    })
}

/// Whether this is the `postStart` hook of an attempt that has ended: nobody
/// needs its outcome, and it must not hold the restart back. A command ends
/// with its container, and then fails as upstream's.
pub(crate) fn outlived(view: &ContainerView, verb: &Verb) -> bool {
    let hook = matches!(verb, Verb::RunHook { id, hook: Hook::PostStart, handler, .. } if *id == view.id && !matches!(handler, Handler::Exec { .. }));
    hook && matches!(view.state, RunState::Exited(_))
}

/// Runs the hook of a running attempt, notes its end, and stops the attempt if
/// the hook failed.
pub(crate) fn post_start(w: World<'_>, plan: &mut Plan, container: &Container, view: &ContainerView) {
    let Some(handler) = &container.hooks.post_start else { return };
    let target = Target::Container(container.name.clone());
    match view.notes.get(NOTE_POST_START).map(String::as_str) {
        Some(DONE) => {}
        Some(_) => terminate::end(
            w,
            plan,
            view,
            Ending {
                kill_at: terminate::kill_at(w, view, w.desired.grace),
                because: Reason::HookFailed,
                text: "FailedPostStartHook".to_owned(),
                its_turn: true,
            },
        ),
        None => {
            let (verb, because) = match w.memory.hooks.get(&(view.id.clone(), Hook::PostStart)) {
                None => {
                    let verb = Verb::RunHook {
                        id: view.id.clone(),
                        hook: Hook::PostStart,
                        handler: handler.clone(),
                        limit: POST_START_MAX,
                    };
                    (verb, Reason::Started)
                }
                Some(ended) => {
                    let value = ended
                        .as_ref()
                        .map_or_else(|message| cut(message, MESSAGE_MAX_BYTES).to_owned(), |()| DONE.to_owned());
                    (note(view, NOTE_POST_START, value), Reason::Durable)
                }
            };
            plan.want(target, verb, because);
        }
    }
}

/// What is left to do of the `preStop` hook of an attempt that is to be killed
/// in `left`; `None` when nothing is.
pub(crate) fn pre_stop(w: World<'_>, view: &ContainerView, left: Duration) -> Option<Verb> {
    let handler = container_of(w.desired, &view.name)?.hooks.pre_stop.as_ref()?;
    if left.is_zero() || view.notes.contains_key(NOTE_PRE_STOP) {
        return None;
    }
    Some(match w.memory.hooks.get(&(view.id.clone(), Hook::PreStop)) {
        None => Verb::RunHook {
            id: view.id.clone(),
            hook: Hook::PreStop,
            handler: handler.clone(),
            limit: left,
        },
        Some(_) => note(view, NOTE_PRE_STOP, DONE.to_owned()),
    })
}

fn note(view: &ContainerView, key: &'static str, value: String) -> Verb {
    Verb::Note {
        id: view.id.clone(),
        key,
        value,
    }
}

/// At most `bytes` bytes, not within a character.
pub(crate) fn cut(text: &str, bytes: usize) -> &str {
    let mut end = text.len().min(bytes);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
