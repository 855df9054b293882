//! The Pod state machine and node admission.
//!
//! Reading order: [`input`] (what can happen to a pod and what it should be),
//! [`action`] (what the driver may be asked to do), [`machine`] (absorb one
//! input, plan from the whole state), `plan/` (one concern each), [`restart`]
//! (policy and back-off), `status` (what the API shows), [`event`] (the
//! texts), [`admit`] (may this pod run on this node), [`evict`] (which pods a
//! node that runs short gives up), [`flight`] (what happened and why, for
//! people).
//!
//! This crate deliberately does not know tokio, files, sockets, clocks, chance
//! or hash order. Time arrives with every input; what the runtime holds arrives
//! as observations; both drivers, the kubelet and the simulator, obey the same
//! [`Step`].

pub mod action;
pub mod admit;
pub mod event;
pub mod evict;
pub mod flight;
pub mod input;
pub mod machine;
mod memory;
mod plan;
pub mod resize;
pub mod restart;
mod status;

pub use action::{Action, ActionId, Reason, Step, Target, Verb};
pub use admit::{admit, app_armor, preemption, sysctl_name};
pub use event::{EventType, PodEvent};
pub use input::{
    Container, Deletion, Desired, Download, Eviction, Failure, FailureClass, Handler, Hook, Hooks, Input, NodeFacts, OWNED_CONDITIONS,
    Outcome, ParseError, Probe, ProbeKind, Probed, Probes, Progress, PullPolicy, Pulled, RESIZE_IN_PROGRESS, RESIZE_PENDING, Rejection,
    ResizePending, RestartPolicy, Role,
};
pub use machine::{Machine, Stage};
