//! What the whole machine uses, as `/proc` tells.

use std::fs;
use std::path::Path;

use api::node::InterfaceUsage;

/// Nanoseconds of a clock tick, which Linux fixes at a hundredth of a second
/// for what it tells programs.
const TICK_NS: u64 = 10_000_000;

/// Memory of the machine, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Could be given to programs.
    pub available: u64,
    /// In use, page cache included.
    pub usage: u64,
    /// In use, without the page cache that can be given up at once.
    pub working_set: u64,
    /// Anonymous.
    pub rss: u64,
}

/// A file system, in bytes and inodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileSystem {
    /// Free for programs.
    pub available_bytes: u64,
    /// All of it.
    pub capacity_bytes: u64,
    /// In use.
    pub used_bytes: u64,
    /// Free inodes.
    pub inodes_free: u64,
    /// All inodes.
    pub inodes: u64,
}

/// CPU time the machine has spent on anything since it was started.
#[must_use]
pub fn cpu_ns() -> Option<u64> {
    busy_ns(&fs::read_to_string("/proc/stat").ok()?)
}

/// User, nice, system, interrupts and steal; neither idle nor waiting. Guests
/// are counted within user. Source: proc(5).
fn busy_ns(stat: &str) -> Option<u64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks: Vec<u64> = line.split_whitespace().map_while(|word| word.parse().ok()).collect();
    let busy = [0, 1, 2, 5, 6, 7].iter().filter_map(|at| ticks.get(*at)).sum::<u64>();
    Some(busy * TICK_NS)
}

/// Memory of the machine. Source: cAdvisor's reading of a root cgroup, which
/// has no counters of its own.
#[must_use]
pub fn memory() -> Memory {
    memory_of(&fs::read_to_string("/proc/meminfo").unwrap_or_default())
}

fn memory_of(meminfo: &str) -> Memory {
    let field = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let kilobytes = line
            .and_then(|rest| rest.split_whitespace().next())
            .and_then(|number| number.parse::<u64>().ok());
        kilobytes.unwrap_or_default() * 1024
    };
    let usage = field("MemTotal").saturating_sub(field("MemFree"));
    let working_set = usage.saturating_sub(field("Inactive(file)"));
    Memory {
        available: field("MemTotal").saturating_sub(working_set),
        usage,
        working_set,
        rss: field("AnonPages"),
    }
}

/// The file system a directory is on.
#[must_use]
pub fn file_system(dir: &Path) -> Option<FileSystem> {
    let about = rustix::fs::statvfs(dir).ok()?;
    Some(FileSystem {
        available_bytes: about.f_bavail * about.f_frsize,
        capacity_bytes: about.f_blocks * about.f_frsize,
        used_bytes: (about.f_blocks - about.f_bfree) * about.f_frsize,
        inodes_free: about.f_ffree,
        inodes: about.f_files,
    })
}

/// Names of the ends of containers' links, as other programs make them. Source:
/// cAdvisor, `ignoredDevicePrefixes`.
const OF_CONTAINERS: [&str; 3] = ["veth", "docker", "nerdctl"];

/// The node's interfaces but the loopback and the ends of containers' links;
/// those of its own pods begin with `pod_links`.
#[must_use]
pub fn interfaces(pod_links: &str) -> Vec<InterfaceUsage> {
    of_the_node(&fs::read_to_string("/proc/self/net/dev").unwrap_or_default(), pod_links)
}

fn of_the_node(text: &str, pod_links: &str) -> Vec<InterfaceUsage> {
    let mut all = api::node::interfaces(text);
    all.retain(|one| !OF_CONTAINERS.iter().chain([&pod_links]).any(|prefix| one.name.starts_with(prefix)));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_ends_are_not_the_nodes() {
        let text = "Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     500       5    0    0    0     0          0         0      500       5    0    0    0     0       0          0
  eth0: 1000    10    1    2    3     4          5         6 2000    20    7    8    9    10      11         12
veth12: 1    1 0    0    0     0          0         0 1    1    0    0    0    0      0         0
  lp0f: 1    1    0    0    0     0          0         0 1    1    0    0    0    0      0         0
";
        let found = of_the_node(text, "lp");
        assert_eq!(
            found,
            [InterfaceUsage {
                name: "eth0".into(),
                received_bytes: 1000,
                receive_errors: 1,
                sent_bytes: 2000,
                send_errors: 7,
            }]
        );
        assert_eq!(of_the_node("eth0: 1 2", "lp"), []);
    }

    #[test]
    fn idle_time_is_not_use() {
        let stat = "cpu  10 20 30 4000 500 6 7 8 0 0\ncpu0 1 1 1 1\n";
        assert_eq!(busy_ns(stat), Some((10 + 20 + 30 + 6 + 7 + 8) * TICK_NS));
        assert!(cpu_ns().unwrap() > 0);
    }

    #[test]
    fn cache_that_can_go_is_not_in_the_working_set() {
        let meminfo = "MemTotal:  1000 kB\nMemFree:  300 kB\nMemAvailable:  600 kB\nInactive(file): 200 kB\nAnonPages: 100 kB\n";
        let memory = memory_of(meminfo);
        assert_eq!((memory.usage, memory.working_set), (700 * 1024, 500 * 1024));
        assert_eq!((memory.available, memory.rss), (500 * 1024, 100 * 1024));
    }
}
