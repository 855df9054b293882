//! What a node's runtime reports of a pod, and how pods and containers are
//! identified there.
//!
//! These types are spoken by the state machine that decides and by the ports
//! that act; they live here so that neither side translates the other's.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::typed::{ResourceRequirements, WireQuantity};
use crate::{Quantity, Time};

/// Identity of a pod: `metadata.uid`. Letters, digits and dashes only, at most
/// 63 bytes, so it is safe as a directory, cgroup and link-name component.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Uid(String);

/// A string that cannot be a pod's identity.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a pod UID: 1 to 63 letters, digits and dashes are")]
pub struct InvalidUid(pub String);

impl Uid {
    /// The text form.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Uid {
    type Error = InvalidUid;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        let fits = (1..=63).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') && !text.starts_with('-');
        if fits { Ok(Self(text)) } else { Err(InvalidUid(text)) }
    }
}

impl FromStr for Uid {
    type Err = InvalidUid;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::try_from(text.to_owned())
    }
}

impl From<Uid> for String {
    fn from(uid: Uid) -> Self {
        uid.0
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Identity of one attempt of a container: 64 lower-case hex digits, chosen by
/// the runtime. The wire form is `lifepod://<id>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ContainerId(pub String);

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A whole-pod snapshot of the runtime.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observation {
    /// Grows with every snapshot of this pod; an older one is dropped.
    pub sequence: u64,
    /// The newest sandbox, if the runtime still knows one.
    pub sandbox: Option<SandboxView>,
    /// Every container attempt the runtime still knows, by creation order.
    pub containers: Vec<ContainerView>,
}

/// The pod's sandbox as the runtime sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxView {
    /// 0 for the first sandbox of the pod.
    pub attempt: u32,
    /// Its namespaces exist and its shim answers.
    pub ready: bool,
    /// Pod addresses; the node's with `hostNetwork`. Kept after the sandbox stopped.
    pub ips: Vec<IpAddr>,
    /// When it was made.
    pub created_at: Time,
    /// What the node agent noted on it.
    #[serde(default)]
    pub notes: BTreeMap<String, String>,
}

/// One attempt of one container as the runtime sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerView {
    /// Identity of the attempt.
    pub id: ContainerId,
    /// Name of the container in the pod spec.
    pub name: String,
    /// 0 for the first attempt; the restart count of the container.
    pub attempt: u32,
    /// Image as the pod spec named it when the attempt was created.
    pub image: String,
    /// `<repository>@sha256:<digest>` of the image, or `sha256:<id>`.
    pub image_id: String,
    /// Name of the signal that stops it, such as `SIGTERM`; empty when the
    /// runtime does not tell.
    #[serde(default)]
    pub stop_signal: String,
    /// When it was created.
    pub created_at: Time,
    /// What it is doing.
    pub state: RunState,
    /// Processes of it, other than the first, that the kernel has killed for
    /// want of memory.
    #[serde(default)]
    pub oom_kills: u64,
    /// What it may use now. `None` when the runtime does not tell.
    #[serde(default)]
    pub resources: Option<Requirements>,
    /// What the agent has noted on this attempt, durable with it: for example
    /// the outcome of a completed `postStart` hook.
    pub notes: BTreeMap<String, String>,
}

/// Requests and limits of a container, by name of the resource.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requirements {
    /// What it is sure to get.
    #[serde(default)]
    pub requests: BTreeMap<String, String>,
    /// What it may have at most.
    #[serde(default)]
    pub limits: BTreeMap<String, String>,
}

impl Requirements {
    /// Of the wire.
    #[must_use]
    pub fn of(wire: Option<&ResourceRequirements>) -> Self {
        let texts = |list: Option<&BTreeMap<String, WireQuantity>>| {
            let list = list.into_iter().flatten();
            list.map(|(name, quantity)| (name.clone(), quantity.0.clone())).collect()
        };
        Self {
            requests: texts(wire.and_then(|wire| wire.requests.as_ref())),
            limits: texts(wire.and_then(|wire| wire.limits.as_ref())),
        }
    }

    /// For the wire.
    #[must_use]
    pub fn wire(&self) -> ResourceRequirements {
        let list = |texts: &BTreeMap<String, String>| {
            let list = texts.iter().map(|(name, text)| (name.clone(), WireQuantity(text.clone())));
            Some(list.collect::<BTreeMap<_, _>>()).filter(|list| !list.is_empty())
        };
        ResourceRequirements {
            requests: list(&self.requests),
            limits: list(&self.limits),
            ..ResourceRequirements::default()
        }
    }

    /// Whether another asks for the same of a resource.
    #[must_use]
    pub fn agrees(&self, other: &Self, resource: &str) -> bool {
        let amount = |list: &BTreeMap<String, String>| list.get(resource).and_then(|text| text.parse::<Quantity>().ok());
        amount(&self.requests) == amount(&other.requests) && amount(&self.limits) == amount(&other.limits)
    }
}

/// What a container attempt is doing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunState {
    /// Made, process not started.
    Created,
    /// The process runs.
    Running {
        /// When the process was started.
        started_at: Time,
    },
    /// The process has ended, or never could start.
    Exited(Exit),
}

/// What the pods of a node use of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeUsage {
    /// Most memory all pods together may have, if their cgroup, or one around
    /// it, is limited.
    pub memory_limit_bytes: Option<u64>,
    /// Memory of all pods that cannot be taken back at once.
    pub memory_bytes: u64,
    /// By pod.
    pub pods: BTreeMap<Uid, PodUsage>,
}

/// Counters of one cgroup. `None` where the kernel does not count it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// CPU time since the cgroup was made, in nanoseconds.
    pub cpu_ns: Option<u64>,
    /// Memory, page cache included.
    pub memory_bytes: Option<u64>,
    /// Memory without the page cache that can be given up at once. Source:
    /// upstream cAdvisor, `container_memory_working_set_bytes`.
    pub working_set_bytes: Option<u64>,
    /// Anonymous memory.
    pub rss_bytes: Option<u64>,
    /// Page faults since the cgroup was made.
    pub page_faults: Option<u64>,
    /// Those that waited for a disk.
    pub major_page_faults: Option<u64>,
    /// Processes and threads.
    pub processes: Option<u64>,
}

/// What files take of a file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskUsage {
    /// Bytes, in whole blocks.
    pub bytes: u64,
    /// Files and directories.
    pub inodes: u64,
}

/// What passed one network interface since it was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InterfaceUsage {
    /// Its name.
    pub name: String,
    /// Bytes received.
    pub received_bytes: u64,
    /// Packets not received for an error.
    pub receive_errors: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
    /// Packets not sent for an error.
    pub send_errors: u64,
}

/// The interfaces a `/proc/net/dev` tells of, but the loopback. Source: proc(5);
/// upstream cAdvisor, `scanInterfaceStats`.
#[must_use]
pub fn interfaces(text: &str) -> Vec<InterfaceUsage> {
    let interface = |line: &str| {
        // A name may hold a colon (an alias), the figures do not.
        let (name, figures) = line.rsplit_once(':')?;
        let figures: Vec<u64> = figures.split_whitespace().map_while(|figure| figure.parse().ok()).collect();
        let [received_bytes, _, receive_errors, ..] = figures[..] else {
            return None;
        };
        let [sent_bytes, _, send_errors, ..] = figures.get(8..)? else {
            return None;
        };
        Some(InterfaceUsage {
            name: name.trim().to_owned(),
            received_bytes,
            receive_errors,
            sent_bytes: *sent_bytes,
            send_errors: *send_errors,
        })
    };
    text.lines().filter_map(interface).filter(|one| one.name != "lo").collect()
}

/// What a pod uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodUsage {
    /// When the counters were read.
    pub at: Time,
    /// Counters of the whole pod.
    pub counters: Counters,
    /// Its interfaces but the loopback, if it has a network of its own and all
    /// was counted.
    pub interfaces: Vec<InterfaceUsage>,
    /// By name, the newest attempt of each.
    pub containers: BTreeMap<String, ContainerUsage>,
}

impl PodUsage {
    /// Its containers that run, by name.
    pub fn running(&self) -> impl Iterator<Item = (&str, &ContainerUsage)> {
        let containers = self.containers.iter().filter(|(_, usage)| usage.running);
        containers.map(|(name, usage)| (name.as_str(), usage))
    }
}

/// What a container uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerUsage {
    /// Identity of the attempt.
    pub id: ContainerId,
    /// It has not ended.
    pub running: bool,
    /// Its counters.
    pub counters: Counters,
    /// Its writable layer, if files were counted.
    pub written: DiskUsage,
    /// Its logs, those of earlier attempts too, if files were counted.
    pub logs: DiskUsage,
}

impl ContainerUsage {
    /// Its writable layer and its logs together.
    #[must_use]
    pub fn disk(&self) -> DiskUsage {
        DiskUsage {
            bytes: self.written.bytes + self.logs.bytes,
            inodes: self.written.inodes + self.logs.inodes,
        }
    }
}

/// How a container attempt ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit code; 128 + signal when a signal ended it.
    pub code: i32,
    /// `None` when the process never ran.
    pub started_at: Option<Time>,
    /// When it ended.
    pub finished_at: Time,
    /// Why, as far as the runtime knows.
    pub cause: ExitCause,
    /// Runtime's message, for example why the process could not start; then
    /// the termination message.
    pub message: String,
}

/// Why a container attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitCause {
    /// The process exited or was ended by a signal.
    Process,
    /// The kernel killed it for want of memory in its cgroup.
    OutOfMemory,
    /// The runtime could not start the process.
    StartError,
    /// The runtime lost the exit status, for example because the shim died.
    Lost,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uid_cannot_leave_its_directory() {
        for bad in ["", "../x", "a/b", "-a", "a\0b", ".", &"x".repeat(64)] {
            assert!(bad.parse::<Uid>().is_err(), "{bad:?}");
        }
        assert!("3f2c1b0a-0000-4000-8000-000000000000".parse::<Uid>().is_ok());
    }
}
