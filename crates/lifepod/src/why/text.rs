//! An explanation in plain words. Pure.

use std::fmt::Write as _;

use api::Time;
use apiserver::table::age::age;
use lifecycle::flight::Next;

use super::explain::{Explanation, clock};

/// Lines to be read by a person.
pub(super) fn render(explanation: &Explanation) -> String {
    let now = Time::from(explanation.now.0);
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(out, "Pod {}/{}", explanation.namespace, explanation.name);
    for line in &explanation.summary {
        let _ = writeln!(out, "  {line}");
    }
    for next in &explanation.next {
        let _ = writeln!(out, "  next: {}", next_text(next, now));
    }
    for container in &explanation.containers {
        let since = container.since.as_ref().map(|at| Time::from(at.0));
        let since = since
            .map(|at| format!(" since {} ({} ago)", clock(at), age(Some(at), now)))
            .unwrap_or_default();
        let restarts = match container.restarts {
            0 => String::new(),
            1 => ", restarted once".to_owned(),
            count => format!(", restarted {count} times"),
        };
        let _ = writeln!(
            out,
            "\n{} {}: {}{since}{restarts}",
            capital(container.role),
            container.name,
            container.state
        );
        for line in &container.because {
            let _ = writeln!(out, "  why:  {}", line.trim_end().replace('\n', "\n        "));
        }
        for next in &container.next {
            let _ = writeln!(out, "  next: {}", next_text(next, now));
        }
    }
    if !explanation.transitions.is_empty() {
        let _ = writeln!(out, "\nWhat happened (UTC):");
    }
    if explanation.dropped > 0 {
        let _ = writeln!(out, "  ({} older entries are no longer kept)", explanation.dropped);
    }
    for line in &explanation.transitions {
        let at = line.entry.transition.at;
        let _ = writeln!(
            out,
            "  {}  {}",
            at.timestamp().strftime("%Y-%m-%d %H:%M:%S%.3f"),
            line.text.replace('\n', "\n    ")
        );
    }
    for line in &explanation.unread {
        let _ = writeln!(out, "\n{line}");
    }
    out
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters
        .next()
        .map(|first| first.to_ascii_uppercase().to_string() + letters.as_str())
        .unwrap_or_default()
}

fn next_text(next: &Next, now: Time) -> String {
    match next.at {
        Some(at) if at > now => format!("in {} (at {}): {}", age(Some(now), at), clock(at), next.what),
        Some(_) => format!("now: {}", next.what),
        None => next.what.clone(),
    }
}
