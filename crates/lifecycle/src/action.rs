//! What the driver is asked to do.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use api::Time;
use api::node::ContainerId;
use api::typed::PodStatus;

use crate::event::PodEvent;
use crate::flight::Transition;
use crate::input::{Handler, Hook, ProbeKind, PullPolicy};

/// What the driver must do after one step.
#[derive(Clone, Debug, Default)]
pub struct Step {
    /// The status to publish, whole; present only when it changed. Conditions
    /// of types the kubelet does not own are included as last seen, first in
    /// the list, so that the order is upstream's; never write those back.
    pub status: Option<PodStatus>,
    /// Kubernetes Events to record, in order.
    pub events: Vec<PodEvent>,
    /// Start these now; they may run concurrently. A [`Verb::Cancel`] comes
    /// before the action that takes the cancelled one's place.
    pub actions: Vec<Action>,
    /// Send [`Input::Tick`](crate::Input::Tick) at this instant. Replaces the
    /// previous one; `None` means no wake-up is needed.
    pub wake_at: Option<Time>,
    /// What became different and why, for the flight recorder.
    pub transitions: Vec<Transition>,
    /// The machine may be dropped: the API no longer knows the pod and nothing
    /// of it is left on the node, or it has stopped with its node.
    pub finished: bool,
}

/// Identity of one action of one machine. Never reused by that machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ActionId(pub u64);

/// One thing to do. Ends in exactly one [`Input::Done`](crate::Input::Done)
/// with the same id, also when it was cancelled or timed out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Action {
    /// Identity, echoed in `Done`.
    pub id: ActionId,
    /// What it touches. At most one uncancelled action is in flight per target.
    pub target: Target,
    /// What to do.
    pub verb: Verb,
    /// Why, for logs, traces and people.
    pub because: Reason,
}

/// What an action touches.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// All volumes of the pod.
    Volumes,
    /// The pod's sandbox.
    Sandbox,
    /// The container of this name in the pod spec: its image and newest attempt.
    Container(String),
    /// One attempt of a container that is no longer needed.
    Attempt(ContainerId),
    /// One probe of the container of this name.
    Probe(String, ProbeKind),
    /// The pod's object in the API.
    Api,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Volumes => f.write_str("volumes"),
            Self::Sandbox => f.write_str("sandbox"),
            Self::Container(name) | Self::Probe(name, _) => f.write_str(name),
            Self::Attempt(id) => write!(f, "attempt {}", id.0.get(..12).unwrap_or(&id.0)),
            Self::Api => f.write_str("api"),
        }
    }
}

/// What to do. Every verb must be safe to run twice: what is already so is
/// success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Set up every volume of the pod. A missing source is
    /// [`FailureClass::Mount`](crate::FailureClass::Mount).
    MountVolumes,
    /// Tear down what `MountVolumes` made.
    UnmountVolumes,
    /// Make the sandbox; whatever is left of a former attempt is replaced.
    RunSandbox {
        /// 0 for the first sandbox of the pod.
        attempt: u32,
    },
    /// End the sandbox's namespaces and network; records and logs stay.
    StopSandbox,
    /// Forget the pod in the runtime: containers, sandbox, records, logs.
    RemoveSandbox,
    /// Make sure the image is on the node, as the policy says. When a download
    /// begins the driver should send [`Input::Progress`](crate::Input::Progress).
    Pull {
        /// Image as the pod spec names it.
        image: String,
        /// When to ask the registry.
        policy: PullPolicy,
    },
    /// Make one attempt of the container, not started.
    Create {
        /// 0 for the first attempt; becomes the restart count.
        attempt: u32,
    },
    /// Start the process of a created attempt.
    Start {
        /// The attempt.
        id: ContainerId,
    },
    /// Note something on an attempt, durable with it (`Runtime::note`).
    Note {
        /// The attempt.
        id: ContainerId,
        /// Key of the note.
        key: &'static str,
        /// Value of the note.
        value: String,
    },
    /// Note something on the sandbox, durable with it
    /// (`Runtime::note_sandbox`); an empty value removes the note.
    NoteSandbox {
        /// Key of the note.
        key: String,
        /// Value of the note.
        value: String,
    },
    /// Run a hook of a running attempt.
    RunHook {
        /// The attempt.
        id: ContainerId,
        /// Which.
        hook: Hook,
        /// What it does.
        handler: Handler,
        /// It is given up after this long.
        limit: Duration,
    },
    /// Make one attempt of a probe. Ends in
    /// [`Outcome::Probed`](crate::Outcome::Probed), whatever came of it.
    Probe {
        /// The attempt of the container.
        id: ContainerId,
        /// Which probe.
        kind: ProbeKind,
        /// What it does.
        handler: Handler,
        /// A failure after this long.
        timeout: Duration,
    },
    /// Send the stop signal, wait up to `grace`, then kill. A later `Stop` of
    /// the same attempt with a shorter grace shortens the wait of the first.
    Stop {
        /// The attempt.
        id: ContainerId,
        /// `None` for the image's stop signal, else `SIGTERM`.
        signal: Option<i32>,
        /// Time between the signal and the kill.
        grace: Duration,
    },
    /// Give a running attempt the resources its container has by now.
    Resize {
        /// The attempt.
        id: ContainerId,
    },
    /// Forget an attempt that does not run; its log stays.
    Remove {
        /// The attempt.
        id: ContainerId,
    },
    /// Give up the action: pulls, mounts, hooks, probes, and stops about to be replaced by a
    /// shorter one. Has no `Done` of its own; the cancelled action still has one.
    Cancel(ActionId),
    /// Flush the last status to the API, then delete the pod there with grace
    /// zero and its UID as precondition. Gone already is success.
    ConfirmDeletion,
}

impl Verb {
    /// After this long without an end the driver must end the action itself,
    /// with [`FailureClass::Timeout`](crate::FailureClass::Timeout), so that no
    /// wait is without bound.
    #[must_use]
    pub fn limit(&self) -> Duration {
        match self {
            Self::MountVolumes | Self::UnmountVolumes => Duration::from_secs(123), // upstream podAttachAndMountTimeout
            Self::RunSandbox { .. } | Self::StopSandbox | Self::RemoveSandbox => Duration::from_secs(240), // CRI runtimeRequestTimeout x 2
            Self::Pull { .. } => Duration::from_secs(3600),
            Self::Create { .. }
            | Self::Start { .. }
            | Self::Note { .. }
            | Self::NoteSandbox { .. }
            | Self::Resize { .. }
            | Self::Remove { .. } => Duration::from_secs(120),
            Self::Stop { grace, .. } => *grace + Duration::from_secs(30),
            Self::RunHook { limit, .. } => *limit,
            // What cannot be attempted is tried three times.
            Self::Probe { timeout, .. } => *timeout * 3 + Duration::from_secs(5),
            Self::Cancel(_) => Duration::from_secs(1),
            Self::ConfirmDeletion => Duration::from_secs(60),
        }
    }
}

impl fmt::Display for Verb {
    /// The verb's name and what matters of its arguments, as in transcripts.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MountVolumes => f.write_str("MountVolumes"),
            Self::UnmountVolumes => f.write_str("UnmountVolumes"),
            Self::RunSandbox { attempt } => write!(f, "RunSandbox#{attempt}"),
            Self::StopSandbox => f.write_str("StopSandbox"),
            Self::RemoveSandbox => f.write_str("RemoveSandbox"),
            Self::Pull { image, policy } => write!(f, "Pull {image} {policy:?}"),
            Self::Create { attempt } => write!(f, "Create#{attempt}"),
            Self::Start { .. } => f.write_str("Start"),
            // What is noted of a failure is long, and told when it arises.
            Self::NoteSandbox { key, value } => write!(f, "NoteSandbox {}{key}", if value.is_empty() { "-" } else { "" }),
            Self::Note { key, value, .. } => write!(f, "Note {key}={value}"),
            Self::Stop { grace, signal: None, .. } => write!(f, "Stop grace={}s", grace.as_secs_f64()),
            Self::Stop {
                grace, signal: Some(n), ..
            } => write!(f, "Stop signal={n} grace={}s", grace.as_secs_f64()),
            Self::RunHook { hook, .. } => write!(f, "RunHook {}", hook.as_str()),
            Self::Probe { kind, .. } => write!(f, "Probe {}", kind.as_str()),
            Self::Resize { .. } => f.write_str("Resize"),
            Self::Remove { .. } => f.write_str("Remove"),
            Self::Cancel(id) => write!(f, "Cancel {}", id.0),
            Self::ConfirmDeletion => f.write_str("ConfirmDeletion"),
        }
    }
}

/// Why an action is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The pod has volumes and they are not known to be set up.
    NotMounted,
    /// The pod has no sandbox.
    NoSandbox,
    /// The newest sandbox does not answer or has no address.
    SandboxChanged,
    /// The container has no attempt yet and it is its turn.
    NeverStarted,
    /// An attempt exists whose process was not started.
    Created,
    /// The last attempt ended with this code and the container is to run.
    Exited(i32),
    /// The image of the running attempt is not the spec's.
    DefinitionChanged,
    /// The resources of the running attempt are not the container's.
    Resized,
    /// The process runs; its `postStart` hook is due.
    Started,
    /// The `postStart` hook failed.
    HookFailed,
    /// It is time.
    Due,
    /// A liveness or startup probe failed too often.
    ProbeFailed,
    /// A fact must outlive the agent.
    Durable,
    /// A newer attempt made this one superfluous.
    Superseded,
    /// The pod is being deleted.
    Deleted,
    /// The pod is no longer in the API.
    Gone,
    /// The node evicts the pod.
    Evicted,
    /// The node is being shut down.
    NodeShutdown,
    /// `activeDeadlineSeconds` has passed.
    DeadlineExceeded,
    /// Every container is finished for good.
    Finished,
    /// The grace period became shorter.
    GraceShortened,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotMounted => "not-mounted",
            Self::NoSandbox => "no-sandbox",
            Self::SandboxChanged => "sandbox-changed",
            Self::NeverStarted => "never-started",
            Self::Created => "created",
            Self::Exited(code) => return write!(f, "exited({code})"),
            Self::DefinitionChanged => "definition-changed",
            Self::Resized => "resized",
            Self::Started => "started",
            Self::HookFailed => "hook-failed",
            Self::Due => "due",
            Self::ProbeFailed => "probe-failed",
            Self::Durable => "durable",
            Self::Superseded => "superseded",
            Self::Deleted => "deleted",
            Self::Gone => "gone",
            Self::Evicted => "evicted",
            Self::NodeShutdown => "node-shutdown",
            Self::DeadlineExceeded => "deadline-exceeded",
            Self::Finished => "finished",
            Self::GraceShortened => "grace-shortened",
        })
    }
}

/// An action that has been handed to the driver and has not ended.
#[derive(Clone, Debug)]
pub(crate) struct InFlight {
    pub(crate) target: Target,
    pub(crate) verb: Verb,
    pub(crate) since: Time,
    /// The start of its download has been told.
    pub(crate) pulling: bool,
    pub(crate) cancelled: bool,
}

/// The actions in flight, by id.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hands(pub(crate) BTreeMap<ActionId, InFlight>);

impl Hands {
    /// The uncancelled action on a target.
    pub(crate) fn on(&self, target: &Target) -> Option<(ActionId, &Verb)> {
        self.0
            .iter()
            .find(|(_, f)| !f.cancelled && f.target == *target)
            .map(|(id, f)| (*id, &f.verb))
    }

    /// The uncancelled action on a container.
    pub(crate) fn on_container(&self, name: &str) -> Option<(ActionId, &Verb)> {
        self.0
            .iter()
            .find(|(_, f)| !f.cancelled && matches!(&f.target, Target::Container(n) if n == name))
            .map(|(id, f)| (*id, &f.verb))
    }
}
