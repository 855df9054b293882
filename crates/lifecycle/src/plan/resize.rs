//! Running containers whose resources were changed.
//!
//! Source: KEP-1287; upstream `kuberuntime_manager.go`, `computePodResizeAction`.

use api::node::ContainerView;

use crate::action::{Reason, Target, Verb};
use crate::input::Container;
use crate::plan::{Plan, World, container_of};

/// What can be changed of a running container.
const RESIZABLE: [&str; 2] = ["cpu", "memory"];

/// What a running attempt may use and what its container has do not agree.
/// Of an attempt that does not say, nothing is known to differ.
pub(crate) fn differing<'a>(container: &'a Container, view: &'a ContainerView) -> impl Iterator<Item = &'static str> + 'a {
    let differs = |resource: &&str| {
        view.resources
            .as_ref()
            .is_some_and(|has| !has.agrees(&container.resources, resource))
    };
    RESIZABLE.into_iter().filter(differs)
}

/// Whether it takes a restart.
pub(super) fn restarts(container: &Container, view: &ContainerView) -> bool {
    differing(container, view).any(|resource| container.restarts_for.iter().any(|name| name == resource))
}

pub(super) fn plan(plan: &mut Plan, container: &Container, view: &ContainerView) {
    if differing(container, view).next().is_some() {
        let verb = Verb::Resize { id: view.id.clone() };
        plan.want(Target::Attempt(view.id.clone()), verb, Reason::Resized);
    }
}

/// Why what was granted is not in force: `None` when it is; the error of the
/// last try, if it failed.
pub(crate) fn in_progress(w: World<'_>) -> Option<Option<String>> {
    let mut changing = w
        .running()
        .filter(|view| container_of(w.desired, &view.name).is_some_and(|container| differing(container, view).next().is_some()))
        .peekable();
    changing.peek()?;
    let failed = changing.find_map(|view| w.memory.retry(&Target::Attempt(view.id.clone())));
    Some(failed.map(|retry| retry.failure.message.clone()))
}
