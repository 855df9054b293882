//! Processes that the kernel killed in containers that run on, or ended of
//! themselves: told once, also by an agent that was killed meanwhile.

use crate::action::{Reason, Target, Verb};
use crate::event;
use crate::plan::{Plan, World, container_of};

/// How many of an attempt's killed processes were told of.
const NOTE_TOLD: &str = "oom-kills-told";

pub(super) fn plan(w: World<'_>, plan: &mut Plan) {
    for view in &w.seen.containers {
        let told = view.notes.get(NOTE_TOLD).and_then(|told| told.parse().ok()).unwrap_or(0);
        let Some(container) = container_of(w.desired, &view.name).filter(|_| view.oom_kills > told) else {
            continue;
        };
        let verb = Verb::Note {
            id: view.id.clone(),
            key: NOTE_TOLD,
            value: view.oom_kills.to_string(),
        };
        let event = event::oom_killing(&view.name, view.oom_kills - told).of(container.field_path());
        plan.want(Target::Attempt(view.id.clone()), verb, Reason::Durable).event = Some(event);
    }
}
