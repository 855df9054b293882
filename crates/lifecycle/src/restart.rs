//! Restart policy and crash back-off, read from the attempts themselves.
//!
//! Nothing here is remembered by the agent: the delay in force is noted on the
//! attempt it was set for, before its process starts, so a restarted agent
//! computes the same instant.

use std::time::Duration;

use api::Time;
use api::node::{ContainerView, Exit, RunState};

use crate::input::{Container, RestartPolicy, Role};

/// Delay before the second restart.
pub const DELAY_INITIAL: Duration = Duration::from_secs(10);
/// No delay is longer.
pub const DELAY_MAX: Duration = Duration::from_secs(300);
/// A container that lived longer than this starts with a clean slate.
pub const RESET_AFTER: Duration = Duration::from_secs(600);
/// Key of the note that holds an attempt's delay, in seconds.
pub const NOTE_BACK_OFF: &str = "back-off-s";
/// Key of the note on an attempt that is stopped only to be replaced.
pub const NOTE_REPLACED: &str = "replaced";

/// Key of the note on an attempt a probe has condemned: the kind of probe.
pub const NOTE_KILLED: &str = "killed";

/// Whether a container whose newest attempt ended so is to run again.
///
/// Source: pod lifecycle page, "container restart policy"; KEP-753 for
/// sidecars; upstream `ShouldContainerBeRestarted`.
#[must_use]
pub fn wanted(policy: RestartPolicy, role: Role, exit: &Exit) -> bool {
    match (role, policy) {
        (Role::Sidecar, _) => true,
        (Role::Init, RestartPolicy::Always | RestartPolicy::OnFailure) | (Role::Regular, RestartPolicy::OnFailure) => exit.code != 0,
        (Role::Init | Role::Regular, RestartPolicy::Never) | (Role::Ephemeral, _) => false,
        (Role::Regular, RestartPolicy::Always) => true,
    }
}

/// The delay that death of `attempt` will meet; `None` for a first attempt,
/// whose restart is immediate, and for one that took the place of a first
/// attempt the kubelet itself had stopped: that step makes no entry upstream,
/// which looks for a death before it. `previous` is the attempt before it.
///
/// Seconds by attempt: none, 10, 20, 40 ... capped at 300; 10 again after an
/// image change or after the one before lived longer than [`RESET_AFTER`].
///
/// Source: upstream `doBackOff` and `flowcontrol.Backoff`; pod lifecycle page.
#[must_use]
pub fn delay(attempt: &ContainerView, previous: Option<&ContainerView>) -> Option<Duration> {
    if attempt.attempt == 0 {
        return None;
    }
    Some(noted(attempt).unwrap_or_else(|| due(attempt, previous))).filter(|delay| !delay.is_zero())
}

/// The delay to note on an attempt, if it has none yet.
#[must_use]
pub fn delay_to_note(attempt: &ContainerView, previous: Option<&ContainerView>) -> Option<Duration> {
    if attempt.attempt == 0 || noted(attempt).is_some() {
        None
    } else {
        Some(due(attempt, previous))
    }
}

/// When a container whose newest attempt has ended may be made again.
#[must_use]
pub fn not_before(container: &Container, attempt: &ContainerView, exit: &Exit, previous: Option<&ContainerView>) -> Time {
    let clean = attempt.image != container.image || attempt.notes.contains_key(NOTE_REPLACED) || lived_long(attempt, exit);
    // A kill by a probe and the restart it is for are one step upstream, which
    // counts from the death before: who outlived the delay is restarted at once.
    let since = match (attempt.notes.contains_key(NOTE_KILLED), previous.map(|p| &p.state)) {
        (true, Some(RunState::Exited(before))) => before.finished_at,
        (true, _) => return exit.finished_at,
        (false, _) => exit.finished_at,
    };
    match delay(attempt, previous) {
        Some(delay) if !clean => (since + delay).max(exit.finished_at),
        Some(_) | None => exit.finished_at,
    }
}

fn noted(attempt: &ContainerView) -> Option<Duration> {
    let seconds: u64 = attempt.notes.get(NOTE_BACK_OFF)?.parse().ok()?;
    // Zero is told apart from a note that was lost.
    Some(Duration::from_secs(seconds).clamp(if seconds == 0 { Duration::ZERO } else { DELAY_INITIAL }, DELAY_MAX))
}

/// One step up from what held for the attempt before.
fn due(attempt: &ContainerView, previous: Option<&ContainerView>) -> Duration {
    let stopped = |p: &ContainerView| p.notes.contains_key(NOTE_KILLED) || p.notes.contains_key(NOTE_REPLACED);
    if previous.is_some_and(|p| p.attempt == 0 && stopped(p)) {
        return Duration::ZERO;
    }
    let Some(previous) = previous.filter(|p| p.image == attempt.image) else {
        return DELAY_INITIAL;
    };
    let reset = matches!(&previous.state, RunState::Exited(exit) if lived_long(previous, exit));
    match (reset, previous.attempt) {
        (true, _) | (_, 0) => DELAY_INITIAL,
        (false, _) => match noted(previous) {
            Some(Duration::ZERO) => DELAY_INITIAL,
            known => (known.unwrap_or(DELAY_INITIAL) * 2).min(DELAY_MAX),
        },
    }
}

fn lived_long(attempt: &ContainerView, exit: &Exit) -> bool {
    exit.finished_at.since(attempt.created_at) > RESET_AFTER
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use api::node::{ContainerId, ExitCause};

    use super::*;
    use crate::input::PullPolicy;

    fn exit(finished_s: i64) -> Exit {
        Exit {
            code: 1,
            started_at: None,
            finished_at: Time::from_secs(finished_s),
            cause: ExitCause::Process,
            message: String::new(),
        }
    }

    fn attempt(number: u32, created_s: i64, finished_s: i64) -> ContainerView {
        ContainerView {
            id: ContainerId(number.to_string()),
            name: "a".into(),
            attempt: number,
            image: "x:1".into(),
            image_id: String::new(),
            stop_signal: String::new(),
            created_at: Time::from_secs(created_s),
            state: RunState::Exited(exit(finished_s)),
            oom_kills: 0,
            resources: None,
            notes: BTreeMap::new(),
        }
    }

    fn container(image: &str) -> Container {
        Container {
            name: "a".into(),
            image: image.into(),
            pull_policy: PullPolicy::Never,
            role: Role::Regular,
            volume_mounts: Vec::new(),
            hooks: crate::input::Hooks::default(),
            probes: crate::input::Probes::default(),
            resources: api::node::Requirements::default(),
            restarts_for: Vec::new(),
        }
    }

    fn noted_with(mut view: ContainerView, seconds: u64) -> ContainerView {
        view.notes.insert(NOTE_BACK_OFF.into(), seconds.to_string());
        view
    }

    /// Shows: 14.1.34 14.3.1
    #[test]
    fn delays_double_from_attempt_to_attempt_up_to_the_cap() {
        let (mut at, mut previous) = (0, attempt(0, 0, 1));
        let mut waited = vec![
            not_before(&container("x:1"), &previous, &exit(1), None)
                .since(Time::from_secs(1))
                .as_secs(),
        ];
        for number in 1..8 {
            at += 400;
            let next = attempt(number, at, at + 1);
            let next = noted_with(next.clone(), delay_to_note(&next, Some(&previous)).unwrap().as_secs());
            waited.push(
                not_before(&container("x:1"), &next, &exit(at + 1), Some(&previous))
                    .since(Time::from_secs(at + 1))
                    .as_secs(),
            );
            previous = next;
        }
        assert_eq!(waited, [0, 10, 20, 40, 80, 160, 300, 300]);
    }

    /// Shows: 14.1.33 14.3.1
    #[test]
    fn a_long_life_or_a_new_image_wipes_the_slate() {
        let long = noted_with(attempt(3, 0, 601), 80);
        assert_eq!(not_before(&container("x:1"), &long, &exit(601), None), Time::from_secs(601));
        assert_eq!(delay(&attempt(4, 601, 602), Some(&long)), Some(DELAY_INITIAL));
        let short = noted_with(attempt(3, 0, 600), 80);
        assert_eq!(not_before(&container("x:1"), &short, &exit(600), None), Time::from_secs(680));
        assert_eq!(not_before(&container("x:2"), &short, &exit(600), None), Time::from_secs(600));
    }

    #[test]
    fn the_first_kill_by_a_probe_makes_no_entry() {
        let mut first = attempt(0, 0, 5);
        first.notes.insert(NOTE_KILLED.into(), "liveness".into());
        let second = attempt(1, 5, 9);
        assert_eq!(delay_to_note(&second, Some(&first)), Some(Duration::ZERO));
        let second = noted_with(second, 0);
        assert_eq!(delay(&second, Some(&first)), None);
        assert_eq!(not_before(&container("x:1"), &second, &exit(9), Some(&first)), Time::from_secs(9));
        assert_eq!(delay_to_note(&attempt(2, 9, 12), Some(&second)), Some(DELAY_INITIAL));
    }

    #[test]
    fn a_lost_note_is_computed_again_from_the_attempt_before() {
        let previous = noted_with(attempt(2, 0, 1), 20);
        assert_eq!(delay_to_note(&attempt(3, 21, 22), Some(&previous)), Some(Duration::from_secs(40)));
        assert_eq!(delay_to_note(&attempt(3, 21, 22), None), Some(DELAY_INITIAL));
    }

    #[test]
    fn policies_decide_as_the_table_says() {
        let (good, bad) = (Exit { code: 0, ..exit(1) }, exit(1));
        let table = [
            (Role::Regular, RestartPolicy::Always, true, true),
            (Role::Regular, RestartPolicy::OnFailure, false, true),
            (Role::Regular, RestartPolicy::Never, false, false),
            (Role::Init, RestartPolicy::Always, false, true),
            (Role::Init, RestartPolicy::OnFailure, false, true),
            (Role::Init, RestartPolicy::Never, false, false),
            (Role::Sidecar, RestartPolicy::Never, true, true),
            (Role::Ephemeral, RestartPolicy::Always, false, false),
        ];
        for (role, policy, on_good, on_bad) in table {
            assert_eq!(
                (wanted(policy, role, &good), wanted(policy, role, &bad)),
                (on_good, on_bad),
                "{role:?} {policy:?}"
            );
        }
    }
}
