//! What can happen to a pod on this node, and what the pod should be.
//!
//! [`Desired::parse`] is the border: wire objects are all options and strings,
//! behind it they are not.

mod handler;
mod parse;

use std::net::IpAddr;
use std::time::Duration;

use api::Time;
use api::node::{Observation, Requirements, Uid};
use api::typed::{PodCondition, VolumeMountStatus};

use crate::action::ActionId;

pub use handler::{Handler, Hook, Hooks, Port, Probe, ProbeKind, Probed, Probes};
pub use parse::{OWNED_CONDITIONS, RESIZE_IN_PROGRESS, RESIZE_PENDING};

/// Pod status reason of an eviction, also its event's.
pub(crate) const EVICTED: &str = "Evicted";
/// Pod status message of a passed `activeDeadlineSeconds`, also its event's.
pub(crate) const DEADLINE_EXCEEDED: &str = "Pod was active on the node longer than the specified deadline";

/// Everything that can happen to a pod on this node.
#[derive(Clone, Debug)]
pub enum Input {
    /// New desired state: spec change, deletion, eviction, rejection, gone.
    Desired(Box<Desired>),
    /// A whole snapshot of this pod in the runtime. One with a sequence number
    /// not above the last seen is dropped. Nothing is done before the first.
    Observed(Observation),
    /// An action tells that it got somewhere.
    Progress {
        /// The action.
        id: ActionId,
        /// Where it got.
        progress: Progress,
    },
    /// An action ended. Success changes nothing until it is observed, so the
    /// driver should look at the runtime once it has ended and put that in
    /// `after`; with `None` the machine waits for the next `Observed`.
    Done {
        /// The action.
        id: ActionId,
        /// How it ended.
        result: Result<Outcome, Failure>,
        /// The pod in the runtime, observed after the action had ended. Not
        /// needed for `Pull`, `MountVolumes`, `UnmountVolumes`, `ConfirmDeletion`.
        after: Option<Observation>,
    },
    /// Something the pod takes its content from changed, such as a ConfigMap:
    /// what failed for want of it is worth another try at once.
    SourcesChanged,
    /// The requested wake-up arrived.
    Tick,
}

/// How far an unfinished action got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Of `Pull`: its image. That it ended is the action's outcome.
    Image(Download),
    /// Of `MountVolumes`: an image that is a volume.
    VolumeImage {
        /// Its reference, as the pod has it.
        image: String,
        /// How far it is.
        download: Download,
    },
}

/// How far the download of an image is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Download {
    /// The image was not on the node, or must be asked for: it began.
    Began,
    /// So many of its bytes are here.
    Has {
        /// Compressed bytes that are here.
        done_bytes: u64,
        /// Compressed bytes in all.
        total_bytes: u64,
    },
    /// All of it is here.
    Ended {
        /// How long it took.
        took: Duration,
        /// Compressed bytes of the image.
        size_bytes: u64,
    },
}

/// What a successful action has to tell beyond "it is so now".
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing; the observation shows it.
    Done,
    /// Of `Pull`.
    Pulled(Pulled),
    /// Of `Probe`.
    Probed(Probed),
    /// Of `RunSandbox`: some of the DNS settings had to be left out, as these
    /// messages say.
    DnsOmitted(Vec<String>),
    /// Of `RunHook`: it asked for HTTPS, got plain HTTP, and asked again so.
    FellBackToHttp {
        /// `host:port` asked.
        address: String,
    },
}

/// How an image came to be on the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pulled {
    /// It was there.
    Present,
    /// The registry was asked.
    Fetched {
        /// Time of the download.
        took: Duration,
        /// Time spent in a queue before it.
        waited: Duration,
        /// Size of the image.
        size_bytes: u64,
    },
}

/// An action that did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What kind of failure.
    pub class: FailureClass,
    /// The runtime's, registry's or network's own words, without a prefix: it
    /// appears in statuses and events.
    pub message: String,
}

impl Failure {
    /// A failure of a class with its message.
    pub fn new(class: FailureClass, message: impl Into<String>) -> Self {
        Self {
            class,
            message: message.into(),
        }
    }
}

/// Kinds of failure; the first group are upstream's waiting reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureClass {
    /// The image could not be downloaded.
    ErrImagePull,
    /// The image reference cannot be parsed.
    InvalidImageName,
    /// Policy `Never`, and the image is not on the node.
    ErrImageNeverPull,
    /// The node's image store could not be read.
    ImageInspectError,
    /// The registry does not answer.
    RegistryUnavailable,
    /// The container's configuration could not be built, for example because
    /// of a missing ConfigMap.
    CreateContainerConfigError,
    /// The runtime could not make the attempt.
    CreateContainerError,
    /// The process could not be started.
    RunContainerError,
    /// The sandbox could not be made or ended.
    Sandbox,
    /// The sandbox's network could not be made or removed.
    Network,
    /// The node has no network to attach pods to.
    NetworkNotReady,
    /// The cgroup of the pod could not be made.
    PodCgroup,
    /// The pod's own directories could not be made.
    PodDirectory,
    /// A volume could not be set up or torn down. The message is the event's:
    /// `MountVolume.SetUp failed for volume "v" : <err>`.
    Mount,
    /// A hook failed. The message is what follows `error: ` in the status.
    Hook,
    /// A process could not be stopped, or an attempt or record not removed.
    Kill,
    /// The runtime does not answer.
    Unavailable,
    /// [`Verb::limit`](crate::Verb::limit) passed.
    Timeout,
    /// The API server could not be asked, or refused.
    Api,
    /// It was cancelled.
    Cancelled,
}

/// `spec.restartPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartPolicy {
    /// Restart whatever the exit code.
    Always,
    /// Restart unless the exit code was 0.
    OnFailure,
    /// Do not restart.
    Never,
}

/// `imagePullPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullPolicy {
    /// Ask the registry before every start.
    Always,
    /// Ask the registry when the image is not on the node.
    IfNotPresent,
    /// Never ask the registry.
    Never,
}

/// What a container of a pod is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Runs to completion before the next one starts.
    Init,
    /// `initContainers` with `restartPolicy: Always`: starts in order, stays.
    Sidecar,
    /// `containers`.
    Regular,
    /// `ephemeralContainers`: started once, when asked for, in a pod that runs.
    Ephemeral,
}

/// A container as it should be.
#[derive(Clone, Debug, PartialEq)]
pub struct Container {
    /// Name, unique in the pod.
    pub name: String,
    /// Image as written.
    pub image: String,
    /// When to ask the registry.
    pub pull_policy: PullPolicy,
    /// What it is for.
    pub role: Role,
    /// `volumeMounts` of its status.
    pub volume_mounts: Vec<VolumeMountStatus>,
    /// `lifecycle`.
    pub hooks: Hooks,
    /// `livenessProbe`, `readinessProbe`, `startupProbe`.
    pub probes: Probes,
    /// `resources`, as the node has granted them.
    pub resources: Requirements,
    /// Resources of `resizePolicy` that take a restart to change.
    pub restarts_for: Vec<String>,
}

impl Container {
    /// `involvedObject.fieldPath` of its events.
    #[must_use]
    pub fn field_path(&self) -> String {
        match self.role {
            Role::Init | Role::Sidecar => format!("spec.initContainers{{{}}}", self.name),
            Role::Regular => format!("spec.containers{{{}}}", self.name),
            Role::Ephemeral => format!("spec.ephemeralContainers{{{}}}", self.name),
        }
    }
}

/// A deletion the API server has accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deletion {
    /// `deletionTimestamp`: request time plus grace, whole seconds.
    pub at: Time,
    /// `deletionGracePeriodSeconds`.
    pub grace: Duration,
}

/// The node wants the pod to end: pressure or shutdown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eviction {
    /// `status.reason`, for example `Evicted` or `Terminated`.
    pub reason: String,
    /// `status.message`.
    pub message: String,
    /// Grace instead of the pod's own, if given.
    pub grace: Option<Duration>,
}

/// The node refused the pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// `status.reason` and the event's, for example `OutOfcpu`.
    pub reason: String,
    /// The event's message; `status.message` is `Pod was rejected: ` and this.
    pub message: String,
}

/// What parsing needs to know of the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// The node's addresses, primary first.
    pub host_ips: Vec<IpAddr>,
}

/// What the pod should be.
#[derive(Clone, Debug, PartialEq)]
pub struct Desired {
    /// Identity.
    pub uid: Uid,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// `metadata.generation`; 0 when absent.
    pub generation: i64,
    /// `spec.restartPolicy`.
    pub restart_policy: RestartPolicy,
    /// Uses the node's network.
    pub host_network: bool,
    /// `spec.terminationGracePeriodSeconds`.
    pub grace: Duration,
    /// `spec.activeDeadlineSeconds`.
    pub active_deadline: Option<Duration>,
    /// `spec.initContainers`, in order.
    pub init: Vec<Container>,
    /// `spec.containers`, in order.
    pub containers: Vec<Container>,
    /// `spec.ephemeralContainers`, in order.
    pub ephemeral: Vec<Container>,
    /// It has volumes to set up.
    pub has_volumes: bool,
    /// `spec.readinessGates[].conditionType`.
    pub readiness_gates: Vec<String>,
    /// Conditions in the API that the kubelet does not own, as found.
    pub foreign_conditions: Vec<PodCondition>,
    /// `status.qosClass`.
    pub qos_class: Option<String>,
    /// The node's addresses, primary first.
    pub host_ips: Vec<IpAddr>,
    /// It is being deleted.
    pub deletion: Option<Deletion>,
    /// Who asked for the deletion, as [`api::pods::DELETED_BY`] says.
    pub deleted_by: Option<String>,
    /// The API no longer knows it.
    pub gone: bool,
    /// The node refused it. Only heeded while nothing of it was started.
    pub rejection: Option<Rejection>,
    /// The node wants it to end.
    pub eviction: Option<Eviction>,
    /// Other resources are asked for, and the node does not grant them now.
    pub resize_pending: Option<ResizePending>,
    /// The node is being shut down: the pod is to stop, with at most this
    /// grace, and to start again with the node.
    pub drain: Option<Duration>,
}

/// Why a pod does not get the resources it asks for by now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResizePending {
    /// Of the condition `PodResizePending`: `Deferred` or `Infeasible`.
    pub reason: &'static str,
    /// What is missing.
    pub message: String,
}

/// A pod this node cannot run as written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// A field that must be there is not.
    #[error("{0}: required")]
    Missing(String),
    /// A field has a value that is none of those possible.
    #[error("{field}: unsupported value {value:?}")]
    Unsupported {
        /// Path of the field.
        field: String,
        /// The value.
        value: String,
    },
    /// A field this version does not honour.
    #[error("{0}: not supported by this version; remove it")]
    NotHonoured(String),
}

impl ParseError {
    /// The admission failure to show for a pod that cannot be parsed.
    #[must_use]
    pub fn rejection(&self) -> Rejection {
        Rejection {
            reason: "UnexpectedAdmissionError".to_owned(),
            message: self.to_string(),
        }
    }
}

impl Desired {
    /// The same pod after it vanished from the API: stop it and forget it.
    #[must_use]
    pub fn vanished(mut self) -> Self {
        self.gone = true;
        self
    }

    /// A pod found in the runtime that the API does not know, for example
    /// because it was force-deleted while the agent was down.
    #[must_use]
    pub fn orphan(uid: Uid) -> Self {
        Self {
            name: uid.to_string(),
            uid,
            namespace: String::new(),
            generation: 0,
            restart_policy: RestartPolicy::Never,
            host_network: false,
            grace: Duration::ZERO,
            active_deadline: None,
            init: Vec::new(),
            containers: Vec::new(),
            ephemeral: Vec::new(),
            has_volumes: true,
            readiness_gates: Vec::new(),
            foreign_conditions: Vec::new(),
            qos_class: None,
            host_ips: Vec::new(),
            deletion: None,
            deleted_by: None,
            gone: true,
            rejection: None,
            eviction: None,
            resize_pending: None,
            drain: None,
        }
    }

    /// `name_namespace(uid)`, as kubelet messages name pods.
    #[must_use]
    pub fn pod(&self) -> String {
        format!("{}_{}({})", self.name, self.namespace, self.uid)
    }

    /// Every container: init, regular, ephemeral.
    pub fn all(&self) -> impl Iterator<Item = &Container> {
        self.init.iter().chain(&self.containers).chain(&self.ephemeral)
    }
}
