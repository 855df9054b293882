//! Volumes are set up before anything else and torn down after everything.

use crate::action::{Reason, Target, Verb};
use crate::plan::{Plan, World};

/// Asks for the pod's volumes; true once they are there.
pub(crate) fn mount(w: World<'_>, plan: &mut Plan) -> bool {
    let mounted = w.memory.mounted || !w.desired.has_volumes;
    if !mounted {
        plan.want(Target::Volumes, Verb::MountVolumes, Reason::NotMounted);
    }
    mounted
}

/// Asks for the volumes' tear-down; true once they are gone.
pub(crate) fn unmount(w: World<'_>, plan: &mut Plan, because: Reason) -> bool {
    let unmounted = w.memory.unmounted || !w.desired.has_volumes;
    // A mount that was given up may still be ending.
    let mounting = w.hands.0.values().any(|f| f.verb == Verb::MountVolumes);
    if !unmounted && !mounting {
        plan.want(Target::Volumes, Verb::UnmountVolumes, because);
    }
    unmounted
}
