//! What a pod uses, as the kernel counts it.

use api::Time;
use api::node::Uid;

/// Counters of one cgroup. `None` where the kernel does not count it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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

/// What a container uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerCounters {
    /// Name in the pod spec.
    pub name: String,
    /// Identity of the running attempt.
    pub id: String,
    /// Its counters.
    pub usage: Counters,
    /// Bytes in its writable layer.
    pub written_bytes: u64,
    /// Files and directories in its writable layer.
    pub written_files: u64,
    /// Bytes of its logs.
    pub log_bytes: u64,
}

/// What a pod uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodCounters {
    /// Which pod.
    pub pod: Uid,
    /// When the counters were read.
    pub at: Time,
    /// Counters of the whole pod.
    pub usage: Counters,
    /// Its running containers.
    pub containers: Vec<ContainerCounters>,
}
