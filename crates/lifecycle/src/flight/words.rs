//! The entries of the flight recorder in plain words.

use std::fmt;
use std::time::Duration;

use super::{Cause, Change, Transition};
use crate::event::duration;

/// Seconds for people: whole ones from ten on.
pub(super) fn seconds(seconds: f64) -> String {
    let exact = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    let shown = if exact < Duration::from_secs(10) {
        Duration::from_millis(u64::try_from(exact.as_millis()).unwrap_or(u64::MAX))
    } else {
        Duration::from_secs(exact.as_secs())
    };
    duration(shown)
}

/// `SIGTERM` for 15.
fn signal_name(signal: i32) -> String {
    let known = match signal {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        10 => "SIGUSR1",
        11 => "SIGSEGV",
        12 => "SIGUSR2",
        13 => "SIGPIPE",
        14 => "SIGALRM",
        15 => "SIGTERM",
        other => return format!("signal {other}"),
    };
    known.to_owned()
}

impl fmt::Display for Transition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.container, self.attempt) {
            (Some(name), Some(attempt)) => write!(f, "{name} #{attempt}: ")?,
            (Some(name), None) => write!(f, "{name}: ")?,
            (None, _) => {}
        }
        self.change.fmt(f)?;
        match &self.because {
            Some(cause) => write!(f, "; {cause}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TakenOver => f.write_str("the node agent was restarted and took the pod over as it was"),
            Self::Deleting { grace_s } => write!(f, "deletion was asked for, with {grace_s}s of grace"),
            Self::Evicting { reason, message } => write!(f, "the node ends the pod ({reason}): {message}"),
            Self::Refused { reason, message } => write!(f, "the node refused the pod ({reason}): {message}"),
            Self::Vanished => f.write_str("the pod is no longer in the API"),
            Self::Respecified { generation } => write!(f, "the spec was changed (generation {generation})"),
            Self::Terminating => f.write_str("everything is being stopped"),
            Self::Terminated => f.write_str("nothing runs any more"),
            Self::Sandbox {
                sandbox_attempt: n,
                ready: true,
            } => write!(f, "sandbox #{n} is up, with its network"),
            Self::Sandbox {
                sandbox_attempt: n,
                ready: false,
            } => write!(f, "sandbox #{n} is down"),
            Self::Pulled { image, took_s, size_bytes } => {
                write!(f, "image {image} was pulled in {} ({size_bytes} bytes)", seconds(*took_s))
            }
            Self::Created => f.write_str("created"),
            Self::Running => f.write_str("started"),
            Self::Exited {
                code,
                signal,
                ran_s,
                message,
                ..
            } => {
                match signal {
                    Some(signal) => write!(f, "ended by {} (exit code {code})", signal_name(*signal))?,
                    None => write!(f, "exited with code {code}")?,
                }
                if let Some(ran_s) = ran_s {
                    write!(f, " after {}", seconds(*ran_s))?;
                }
                if message.is_empty() {
                    Ok(())
                } else {
                    write!(f, ", saying {message:?}")
                }
            }
            Self::Waiting { reason, message } if message.is_empty() => write!(f, "waits ({reason})"),
            Self::Waiting { reason, message } => write!(f, "waits ({reason}): {message}"),
            Self::ProbeFailed {
                probe,
                output,
                failures,
                threshold,
            } => write!(f, "{probe} probe failed ({failures} in a row, {threshold} make it count): {output}"),
            Self::ProbeErrored { probe, error } => write!(f, "{probe} probe could not be made, which counts neither way: {error}"),
            Self::ProbeTurned { probe, well: true } => write!(f, "{probe} probe succeeds"),
            Self::ProbeTurned { probe, well: false } => write!(f, "{probe} probe has failed too often"),
            Self::HookBegan { hook, limit_s } => write!(f, "{hook} hook runs, for at most {}", seconds(*limit_s)),
            Self::HookEnded { hook, took_s, error: None } => write!(f, "{hook} hook succeeded after {}", seconds(*took_s)),
            Self::HookEnded {
                hook,
                took_s,
                error: Some(error),
            } => write!(f, "{hook} hook failed after {}: {error}", seconds(*took_s)),
            Self::Stopping { signal, grace_s } => {
                let signal = signal.map_or_else(|| "its stop signal".to_owned(), signal_name);
                write!(f, "{signal} was sent, SIGKILL follows after {}", seconds(*grace_s))
            }
            Self::Failed { action, error, retry_at } => {
                write!(f, "{action} failed: {error}")?;
                retry_at.map_or(Ok(()), |at| write!(f, " (tried again at {at})"))
            }
            Self::Phase { phase, reason } if reason.is_empty() => write!(f, "phase {phase}"),
            Self::Phase { phase, reason } => write!(f, "phase {phase} ({reason})"),
            Self::Ready { ready: true, .. } => f.write_str("the pod is Ready"),
            Self::Ready { ready: false, message } if message.is_empty() => f.write_str("the pod is not Ready"),
            Self::Ready { ready: false, message } => write!(f, "the pod is not Ready: {message}"),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Deletion { by: Some(user) } => write!(f, "user {user} deleted the pod"),
            Self::Deletion { by: None } => f.write_str("the pod was deleted"),
            Self::Vanished => f.write_str("the pod is no longer in the API"),
            Self::Eviction { message } => write!(f, "the node evicts the pod: {}", message.trim_end()),
            Self::Refusal => f.write_str("the node refused the pod"),
            Self::Deadline { after_s } => write!(f, "activeDeadlineSeconds ({after_s}) has passed"),
            Self::Finished => f.write_str("every container is finished for good"),
            Self::Probe { probe, output } if output.is_empty() => write!(f, "its {probe} probe failed too often"),
            Self::Probe { probe, output } => write!(f, "its {probe} probe failed too often, last: {output}"),
            Self::Hook { error } => write!(f, "its postStart hook failed: {error}"),
            Self::ImageChanged => f.write_str("the spec names another image"),
            Self::Resized => f.write_str("it was given other resources"),
            Self::Superseded => f.write_str("a newer one took its place"),
            Self::GraceShortened => f.write_str("the grace period became shorter"),
            Self::SandboxLost => f.write_str("the sandbox does not answer or has no address"),
            Self::ItsTurn => f.write_str("it was its turn"),
            Self::Restart { code } => write!(f, "the attempt before ended with code {code} and is to run again"),
            Self::Itself => f.write_str("on its own"),
            Self::OutOfMemory => f.write_str("the kernel killed it: it used more memory than its limit (OOMKilled)"),
            Self::NotStarted => f.write_str("the process could not be started"),
            Self::Lost => f.write_str("the runtime lost its exit status"),
            Self::Stopped { why, killed: false } => write!(f, "it was told to stop: {why}"),
            Self::Stopped { why, killed: true } => write!(f, "it did not end within its grace and was killed: {why}"),
        }
    }
}
