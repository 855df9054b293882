//! How a step reads: one line per thing, with the time since the beginning.

use api::Time;
use api::typed::{ContainerStatus, PodStatus};
use lifecycle::{Action, PodEvent};

/// Lines of what happened.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    lines: Vec<String>,
    taken: usize,
    about: String,
}

/// Lines kept; a long run only shows its end when something is wrong.
const KEPT: usize = 4_000;

impl Trace {
    /// Adds a line.
    pub fn line(&mut self, since_start: std::time::Duration, text: &str) {
        if self.lines.len() >= 2 * KEPT {
            self.lines.drain(..KEPT);
            self.taken = self.taken.saturating_sub(KEPT);
        }
        let time = format!("{:.3}s", since_start.as_secs_f64());
        let about = if self.about.is_empty() {
            String::new()
        } else {
            format!("{} ", self.about)
        };
        self.lines.push(format!("{time:<9} {about}{text}"));
    }

    /// Which pod the next lines are about; empty where there is only one.
    pub fn about(&mut self, pod: &str) {
        pod.clone_into(&mut self.about);
    }

    /// Lines since the last call.
    pub fn take(&mut self) -> Vec<String> {
        let new = self.lines[self.taken..].to_vec();
        self.taken = self.lines.len();
        new
    }

    /// The last lines.
    #[must_use]
    pub fn tail(&self, count: usize) -> String {
        self.lines[self.lines.len().saturating_sub(count)..].join("\n")
    }
}

/// An action in one line.
#[must_use]
pub fn action(action: &Action) -> String {
    format!("{} {} because={}", action.verb, action.target, action.because)
}

/// An event in one line.
#[must_use]
pub fn event(event: &PodEvent) -> String {
    let of = event.field_path.as_ref().map(|p| format!(" ({p})")).unwrap_or_default();
    format!("event {} {}: {}{of}", event.event_type.as_str(), event.reason, event.message)
}

/// A status in one line: phase, conditions that are true, containers.
#[must_use]
pub fn status(status: &PodStatus) -> String {
    let mut parts = vec![format!("status {}", status.phase.as_deref().unwrap_or("-"))];
    parts.extend(status.reason.as_ref().map(|r| format!("reason={r}")));
    parts.extend(status.pod_ip.as_ref().map(|ip| format!("ip={ip}")));
    let conditions = status
        .conditions
        .iter()
        .flatten()
        .filter(|c| c.status == "True")
        .map(|c| c.type_.as_str());
    parts.push(format!("true=[{}]", conditions.collect::<Vec<_>>().join(" ")));
    if let Some(generation) = status.observed_generation.filter(|generation| *generation > 1) {
        parts.push(format!("generation={generation}"));
    }
    let containers = status
        .init_container_statuses
        .iter()
        .flatten()
        .chain(status.container_statuses.iter().flatten())
        .chain(status.ephemeral_container_statuses.iter().flatten());
    parts.extend(containers.map(container));
    parts.join(" ")
}

fn container(c: &ContainerStatus) -> String {
    let state = |s: &Option<api::typed::ContainerState>| {
        let s = s.as_ref()?;
        let wait = s.waiting.as_ref().map(|w| w.reason.clone().unwrap_or_else(|| "Waiting".to_owned()));
        let run = s.running.as_ref().map(|_| "Running".to_owned());
        wait.or(run).or_else(|| {
            s.terminated
                .as_ref()
                .map(|t| format!("{}({})", t.reason.as_deref().unwrap_or("Terminated"), t.exit_code))
        })
    };
    let last = state(&c.last_state).map(|s| format!("<{s}")).unwrap_or_default();
    format!("{}#{}={}{last}", c.name, c.restart_count, state(&c.state).unwrap_or_default())
}

/// Time since the beginning of the world.
#[must_use]
pub fn since_start(now: Time) -> std::time::Duration {
    now.since(crate::world::START)
}
