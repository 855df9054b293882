//! The [`Runtime`] and [`Network`] ports, and the embedded backend behind them.
//!
//! Reading order: this file (the ports), `embedded.rs` (the backend: one shim
//! per pod), `session.rs` (streams of processes), `image.rs` (pulling, unpacking and keeping images).
//!
//! This crate deliberately does not know the API server, pods' desired state,
//! restart policies or how a network is made.

pub mod embedded;
pub mod image;
mod session;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use api::node::{ContainerId, NodeUsage, Observation, PodUsage, Requirements, Uid};
use async_trait::async_trait;
use futures::stream::BoxStream;

pub use session::{AttachRequest, Ended, Input, Output, Session, StreamRequest, Terminal, TerminalSize};
pub use shim::log_files;
pub use shim::protocol::LogLimits;

/// Which user, group and further groups a process runs as.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunAs {
    /// Overrides the image's user.
    pub uid: Option<u32>,
    /// Overrides the image's group.
    pub gid: Option<u32>,
    /// Further groups.
    pub supplemental_gids: Vec<u32>,
    /// Leave out the groups the image's `/etc/group` puts the user in.
    pub only_these_groups: bool,
}

/// What a sandbox is to be.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SandboxConfig {
    /// Identity of the pod.
    pub pod: Uid,
    /// Pod name, for people and for labels.
    pub name: String,
    /// Pod namespace, for people and for labels.
    pub namespace: String,
    /// 0 for the first sandbox of the pod.
    pub attempt: u32,
    /// Hostname inside, with the domain if that is wanted; at most 64 bytes. Ignored with `host_network`.
    pub hostname: String,
    /// Domain of the pod's full name in `/etc/hosts`; empty for none.
    #[serde(default)]
    pub domain: String,
    /// Use the node's network instead of one of the pod's own.
    pub host_network: bool,
    /// Use the node's process ids.
    pub host_pid: bool,
    /// Use the node's IPC objects.
    pub host_ipc: bool,
    /// One process-id namespace for all containers of the pod.
    pub share_process_namespace: bool,
    /// Users and groups of the pod's own, none of whom is one of the node's.
    #[serde(default)]
    pub own_users: bool,
    /// Content of `/etc/resolv.conf`.
    pub resolv_conf: String,
    /// Lines added to `/etc/hosts` after the pod's own: address and names.
    pub host_aliases: Vec<(IpAddr, Vec<String>)>,
    /// Kernel parameters of the pod's namespaces: dotted names and values.
    #[serde(default)]
    pub sysctls: Vec<(String, String)>,
    /// Directory in which each container's log directory `<container>/` is made.
    pub log_dir: PathBuf,
    /// Cgroup limits of the whole pod.
    pub resources: Resources,
    /// Where its cgroup is.
    #[serde(default)]
    pub cgroup_parent: CgroupParent,
}

/// Cgroup settings; `None` leaves the kernel's default.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Resources {
    /// Relative weight, cgroup v1 scale (2 to 262144).
    pub cpu_shares: Option<u64>,
    /// Hard limit in thousandths of a core.
    pub cpu_limit_milli: Option<u64>,
    /// Hard limit in bytes.
    pub memory_limit_bytes: Option<u64>,
    /// Most processes and threads.
    #[serde(default)]
    pub processes_limit: Option<u64>,
    /// Hard limits in bytes by size of huge pages, in the kernel's words such
    /// as `2MB`.
    #[serde(default)]
    pub hugepage_limits: Vec<(String, u64)>,
}

/// Other limits for an attempt that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resize {
    /// The attempt.
    pub id: ContainerId,
    /// Cgroup limits.
    pub resources: Resources,
    /// What they stand for, to be told of the container.
    pub requirements: Requirements,
}

/// In which group below the root a pod's group is, by its quality of service.
///
/// Source: upstream `cm/qos_container_manager_linux.go`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum CgroupParent {
    /// The root itself: guaranteed pods, and all of a Lifepod that had no others.
    #[default]
    Root,
    /// `burstable`.
    Burstable,
    /// `besteffort`.
    BestEffort,
}

impl CgroupParent {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Root, Self::Burstable, Self::BestEffort];

    /// Name of the group in the root; the root has none.
    #[must_use]
    pub const fn name(self) -> Option<&'static str> {
        match self {
            Self::Root => None,
            Self::Burstable => Some("burstable"),
            Self::BestEffort => Some("besteffort"),
        }
    }
}

/// Which later mounts reach the other side of a bind mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Propagation {
    /// None.
    #[default]
    Private,
    /// Those made on the node are seen in the container.
    HostToContainer,
    /// And those made in the container on the node.
    Bidirectional,
}

/// A bind mount into a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mount {
    /// Name of the volume, for messages.
    pub volume: String,
    /// Path on the node.
    pub source: PathBuf,
    /// A directory nothing of which is mounted, whatever link of `source` or
    /// `sub_path` leads there.
    pub outside: Option<PathBuf>,
    /// An image whose files are the volume, in place of `source`; nothing in it
    /// can be written or run.
    pub image: Option<String>,
    /// A path in it that is mounted instead; made where it is missing. No link
    /// leads it out of `source`.
    pub sub_path: Option<PathBuf>,
    /// Absolute path in the container.
    pub target: PathBuf,
    /// No writes through this mount.
    pub read_only: bool,
    /// Nor through mounts inside it.
    pub recursive_read_only: bool,
    /// Which later mounts are seen.
    pub propagation: Propagation,
}

/// Which system calls a container may make. Source: pod API reference,
/// `securityContext.seccompProfile`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Seccomp {
    /// What ordinary programs need, and what the container's capabilities add.
    #[default]
    RuntimeDefault,
    /// All of them.
    Unconfined,
    /// Those of a profile in OCI format, at this path on the node.
    Localhost(PathBuf),
}

/// What AppArmor lets a container do. Source: pod API reference,
/// `securityContext.appArmorProfile`; CRI, `SecurityProfile`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AppArmor {
    /// Nothing was said: what ordinary programs need, where the host has
    /// AppArmor.
    #[default]
    Unsaid,
    /// What ordinary programs need.
    RuntimeDefault,
    /// Everything.
    Unconfined,
    /// What a profile of this name allows, which is loaded on the node.
    Localhost(String),
}

/// What a container is to be. Empty `command` and `args` mean the image's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerConfig {
    /// Name in the pod spec.
    pub name: String,
    /// 0 for the first attempt.
    pub attempt: u32,
    /// Image as the pod spec names it; must be present on the node.
    pub image: String,
    /// Replaces the image's entrypoint; its arguments are then dropped too.
    pub command: Vec<String>,
    /// Replaces the image's arguments.
    pub args: Vec<String>,
    /// Set over the image's environment, in order.
    pub env: Vec<(String, String)>,
    /// Overrides the image's.
    pub working_dir: Option<String>,
    /// User and groups.
    pub run_as: RunAs,
    /// Refuse to start as user 0.
    pub run_as_non_root: bool,
    /// Added to and dropped from containerd's default set; `ALL` is allowed.
    pub capabilities_add: Vec<String>,
    /// See `capabilities_add`.
    pub capabilities_drop: Vec<String>,
    /// All capabilities, all devices, nothing masked.
    pub privileged: bool,
    /// Nothing of `/proc` and `/sys` is masked or read-only.
    pub unmasked_proc: bool,
    /// `allowPrivilegeEscalation: false`.
    pub no_new_privileges: bool,
    /// The system calls it may make. Of no effect when `privileged`.
    pub seccomp: Seccomp,
    /// What AppArmor lets it do. Of no effect when `privileged`.
    pub app_armor: AppArmor,
    /// The root file system cannot be written.
    pub read_only_root: bool,
    /// Bind mounts, in order.
    pub mounts: Vec<Mount>,
    /// Where the container may leave its termination message; empty for none.
    pub termination_message_path: String,
    /// `FallbackToLogsOnError` instead of `File`.
    pub termination_message_from_log: bool,
    /// Keep standard input open.
    pub stdin: bool,
    /// Close it for good when the first who attached to it is done.
    pub stdin_once: bool,
    /// Give it a terminal.
    pub tty: bool,
    /// When its log is rotated, and how much of it stays.
    pub log_limits: LogLimits,
    /// Cgroup limits.
    pub resources: Resources,
    /// What they stand for, to be told of the container.
    pub requirements: Requirements,
    /// How soon the kernel kills it when memory runs out, -1000 to 1000. A host
    /// that does not let it be lowered leaves it at the node's own.
    pub oom_score: i32,
    /// Name of the signal that stops it, instead of the image's.
    pub stop_signal: Option<String>,
    /// Name of a running container of the pod whose process ids it shares.
    pub target: Option<String>,
}

/// How to authenticate at a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth {
    /// User name.
    pub username: String,
    /// Password or token.
    pub password: String,
}

/// An image on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Digest of its configuration: `sha256:<hex>`.
    pub id: String,
    /// `<repository>:<tag>` names, normalized.
    pub tags: Vec<String>,
    /// `<repository>@sha256:<hex>` names.
    pub digests: Vec<String>,
    /// Bytes of its unpacked layers.
    pub size_bytes: u64,
}

/// An image on this node, and whether anything is made of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeImage {
    /// The image.
    pub image: Image,
    /// An attempt was made of it that the runtime still knows.
    pub in_use: bool,
    /// It came from a registry, and may be had again.
    pub fetched: bool,
}

/// How far the download of an image is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PullBytes {
    /// Compressed bytes that are here.
    pub done: u64,
    /// Compressed bytes of all its layers.
    pub total: u64,
}

/// A command to run in a running container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecRequest {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Give up, and kill it, after this long.
    pub timeout: Option<Duration>,
}

/// What an executed command left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecOutput {
    /// Exit code; 128 + signal when a signal ended it.
    pub code: i32,
    /// Standard output and error together, at most 16 KiB.
    pub output: Vec<u8>,
    /// It was killed because `timeout` passed.
    pub timed_out: bool,
}

/// Why the runtime could not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// No such sandbox, container or image.
    #[error("{what} {name:?} not found")]
    NotFound {
        /// `sandbox`, `container` or `image`.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// The configuration cannot be run; trying again will not help.
    #[error("{0}")]
    Config(String),
    /// The reference is not an image name.
    #[error("couldn't parse image name {0:?}: invalid reference format")]
    InvalidImageName(String),
    /// A pull failed; the message is the registry's or the network's.
    #[error("{0}")]
    Pull(String),
    /// Starting or running the process failed.
    #[error("{0}")]
    Start(String),
    /// The cgroup of the pod could not be made.
    #[error("{0}")]
    PodCgroup(String),
    /// The directory of the pod could not be made.
    #[error("{0}")]
    PodDirectory(String),
    /// The network of the sandbox could not be made or removed.
    #[error("pod network")]
    Network(#[source] NetError),
    /// The shim of the pod does not answer.
    #[error("shim of pod {pod}: {message}")]
    Shim {
        /// The pod.
        pod: Uid,
        /// What happened.
        message: String,
    },
    /// A file, mount or cgroup operation failed.
    #[error("{doing}")]
    Io {
        /// What was being done, with the path.
        doing: String,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
}

/// What a runtime can do on this host. Source: CRI, `RuntimeHandlerFeatures`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// Pods can have users of their own.
    pub user_namespaces: bool,
    /// The kernel confines processes by AppArmor profiles. Not of CRI: upstream's
    /// kubelet looks by itself.
    pub app_armor: bool,
}

/// CRI's verbs with our own types. A [`Uid`] names a pod, a [`ContainerId`]
/// one attempt. Every verb may be repeated: what is already so is success.
#[async_trait]
pub trait Runtime: Send + Sync {
    /// A whole-pod snapshot; its sequence number grows with every call. A pod
    /// the runtime does not know gives an empty snapshot, not an error.
    async fn observe(&self, pod: &Uid) -> Result<Observation, RuntimeError>;
    /// What it can do here; does not change while it runs.
    fn features(&self) -> Features;
    /// Every pod the runtime knows anything of.
    async fn list(&self) -> Result<Vec<Uid>, RuntimeError>;
    /// Hints that a pod changed. May drop or repeat; never relied on alone.
    fn hints(&self) -> BoxStream<'static, Uid>;
    /// The image a reference names, if it is on this node.
    async fn image(&self, reference: &str) -> Result<Option<Image>, RuntimeError>;
    /// Fetches an image. Two pulls of one reference share one download.
    async fn pull(&self, reference: &str, auth: Option<&Auth>) -> Result<Image, RuntimeError>;
    /// How far the download of an image is; `None` while there is none, or its
    /// size is not known yet.
    fn pulling(&self, reference: &str) -> Option<PullBytes>;
    /// Every image on this node.
    async fn images(&self) -> Result<Vec<NodeImage>, RuntimeError>;
    /// Removes an image, under all its names, and the layers no other image
    /// and no container needs. Gives the bytes that are free for it; an image
    /// that is not here is success.
    async fn remove_image(&self, id: &str) -> Result<u64, RuntimeError>;
    /// Makes the sandbox: shim, namespaces, cgroup, network.
    async fn run_sandbox(&self, sandbox: &SandboxConfig) -> Result<(), RuntimeError>;
    /// Gives the cgroup of a quality of service its share of the CPU; makes it.
    async fn weigh(&self, parent: CgroupParent, cpu_shares: u64) -> Result<(), RuntimeError>;
    /// Sets other limits on a pod whose sandbox is there and, with it, on one
    /// of its attempts that run. No process is restarted.
    async fn resize(&self, pod: &Uid, whole: &Resources, one: Option<&Resize>) -> Result<(), RuntimeError>;
    /// Makes one attempt of a container, not started.
    async fn create(&self, pod: &Uid, container: &ContainerConfig) -> Result<ContainerId, RuntimeError>;
    /// Starts its process. A process that cannot be started is an error and
    /// leaves the attempt exited with [`api::node::ExitCause::StartError`].
    async fn start(&self, pod: &Uid, id: &ContainerId) -> Result<(), RuntimeError>;
    /// Sends `signal`, waits up to `grace`, then kills the whole cgroup.
    /// Returns once nothing of the container runs. Calling it again with a
    /// shorter grace shortens the wait of the first call.
    async fn stop(&self, pod: &Uid, id: &ContainerId, signal: Option<i32>, grace: Duration) -> Result<(), RuntimeError>;
    /// Forgets an attempt that does not run: root file system, cgroup, record.
    /// Its log stays.
    async fn remove(&self, pod: &Uid, id: &ContainerId) -> Result<(), RuntimeError>;
    /// Ends the sandbox: processes, namespaces, network. The record stays
    /// until [`remove_sandbox`](Self::remove_sandbox), so exits can be read.
    async fn stop_sandbox(&self, pod: &Uid) -> Result<(), RuntimeError>;
    /// Removes everything of the pod: containers, sandbox, cgroup, files.
    async fn remove_sandbox(&self, pod: &Uid) -> Result<(), RuntimeError>;
    /// Runs a command in a running container and waits for it.
    async fn exec(&self, pod: &Uid, id: &ContainerId, request: ExecRequest) -> Result<ExecOutput, RuntimeError>;
    /// Runs a command in a running container, its streams in the caller's
    /// hands. That it cannot be started is told by the session's end.
    async fn exec_stream(&self, pod: &Uid, id: &ContainerId, request: StreamRequest) -> Result<Session, RuntimeError>;
    /// Joins the streams of a running container.
    async fn attach(&self, pod: &Uid, id: &ContainerId, request: AttachRequest) -> Result<Session, RuntimeError>;
    /// Connects to a TCP port on the loopback of the pod's network.
    async fn dial(&self, pod: &Uid, port: u16) -> Result<tokio::net::TcpStream, RuntimeError>;
    /// What the pods use of the node: the kernel's counters of their groups;
    /// with `disk`, files are counted and interfaces read too, which takes its
    /// time.
    async fn usage(&self, disk: bool) -> Result<NodeUsage, RuntimeError>;
    /// What one pod uses, files included.
    async fn usage_of(&self, pod: &Uid) -> Result<PodUsage, RuntimeError>;
    /// Frees what ended containers have written; records and logs stay. Gives
    /// the bytes.
    async fn reclaim(&self) -> Result<u64, RuntimeError>;
    /// Notes something on the pod's sandbox, durable, seen in later
    /// observations; an empty value removes the note. Gone with the sandbox.
    async fn note_sandbox(&self, pod: &Uid, key: &str, value: &str) -> Result<(), RuntimeError>;
    /// Notes something on an attempt, durable, seen in later observations.
    async fn note(&self, pod: &Uid, id: &ContainerId, key: &str, value: &str) -> Result<(), RuntimeError>;
}

/// What the network needs to know of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodNet {
    /// Identity of the pod.
    pub uid: Uid,
    /// For people.
    pub name: String,
    /// For people.
    pub namespace: String,
}

/// Why the network could not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// No address is left in the node's range.
    #[error("no free address is left in {0}")]
    Exhausted(String),
    /// The node's own part of the network is not there.
    #[error("the bridge {bridge} of the pods is gone: start Lifepod anew, which makes it again")]
    NotReady {
        /// What pods are attached to.
        bridge: String,
    },
    /// A kernel request failed.
    #[error("{doing}: {cause}")]
    Kernel {
        /// What was being done, to what.
        doing: String,
        /// The kernel's reason.
        cause: String,
    },
    /// The address book could not be read or written.
    #[error("{doing}")]
    Io {
        /// What was being done, with the path.
        doing: String,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
}

/// Attaches a sandbox's network namespace. Both calls are idempotent per UID.
#[async_trait]
pub trait Network: Send + Sync {
    /// Gives the namespace at `netns` (a namespace file such as
    /// `/proc/<shim>/ns/net`, valid while this call runs) an interface `eth0`,
    /// addresses and a default route, and brings `lo` up.
    async fn attach(&self, pod: &PodNet, netns: &std::path::Path) -> Result<Vec<IpAddr>, NetError>;
    /// Removes what `attach` made; unknown pods are success.
    async fn detach(&self, pod: &Uid) -> Result<(), NetError>;
}
