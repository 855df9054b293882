//! What the pods use of the node: counters of their cgroups, and what they
//! have written to its disks.

use std::collections::BTreeMap;
use std::fs::{self, DirEntry};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use api::Time;
use api::node::{ContainerId, ContainerUsage, Counters, DiskUsage, NodeUsage, PodUsage};
use shim::cgroup::Trees;
use shim::record::now_ns;

use super::pod::Pod;
use super::{Embedded, blocking};
use crate::RuntimeError;

/// Size of the blocks `stat` counts in.
const BLOCK_BYTES: u64 = 512;

/// Where one container's use is found.
struct Place {
    name: String,
    id: ContainerId,
    running: bool,
    group: PathBuf,
    writable: PathBuf,
    logs: Option<PathBuf>,
}

impl Embedded {
    /// See [`crate::Runtime::usage`].
    pub(super) async fn measure(&self, disk: bool) -> Result<NodeUsage, RuntimeError> {
        let pods: Vec<_> = self.pods().values().cloned().collect();
        let places: Vec<_> = pods
            .iter()
            .map(|pod| (pod.uid.clone(), pod.group(), places(pod), interfaces_of(pod)))
            .collect();
        let (trees, root) = (self.host.trees.clone(), self.options.cgroup_root.clone());
        blocking(move || {
            let pods = places
                .into_iter()
                .map(|(uid, group, places, interfaces)| (uid, of_pod(&trees, &group, places, interfaces, disk)));
            Ok(NodeUsage {
                memory_limit_bytes: trees.memory_limit_bytes(&root),
                memory_bytes: counters(&trees, &root).working_set_bytes.unwrap_or(0),
                pods: pods.collect(),
            })
        })
        .await
    }

    /// See [`crate::Runtime::usage_of`].
    pub(super) async fn measure_pod(&self, pod: &Pod) -> Result<PodUsage, RuntimeError> {
        let (trees, group, places, interfaces) = (self.host.trees.clone(), pod.group(), places(pod), interfaces_of(pod));
        blocking(move || Ok(of_pod(&trees, &group, places, interfaces, true))).await
    }

    /// See [`crate::Runtime::reclaim`]. An ended attempt never runs again.
    pub(super) async fn free_ended(&self) -> Result<u64, RuntimeError> {
        let pods: Vec<_> = self.pods().values().cloned().collect();
        let mut dirs = Vec::new();
        for pod in pods {
            // Exits are learnt by looking.
            pod.observe().await?;
            let known = pod.known();
            let ended = known.attempts.iter().filter(|attempt| attempt.exit.is_some());
            dirs.extend(ended.map(|attempt| pod.dir.attempt_dir(&attempt.record.id)));
        }
        blocking(move || {
            let mut freed_bytes = 0;
            for dir in dirs {
                freed_bytes += taken(&dir.join("upper")).bytes;
                for part in ["upper", "work"] {
                    super::files::remove_tree(&dir.join(part))?;
                }
            }
            Ok(freed_bytes)
        })
        .await
    }
}

/// Where the use of a pod's containers is found.
fn places(pod: &Pod) -> Vec<Place> {
    let group = pod.group();
    let known = pod.known();
    let logs = known.sandbox.as_ref().map(|sandbox| sandbox.config.log_dir.clone());
    // The newest of a name comes last and wins.
    let made = known.attempts.iter().filter(|attempt| !attempt.making);
    made.map(|attempt| Place {
        name: attempt.record.name.clone(),
        id: ContainerId(attempt.record.id.clone()),
        running: attempt.exit.is_none(),
        group: group.join(&attempt.record.id),
        writable: pod.dir.attempt_dir(&attempt.record.id).join("upper"),
        logs: logs.as_ref().map(|dir| dir.join(&attempt.record.name)),
    })
    .collect()
}

/// The file that tells of a pod's interfaces, if it has a network of its own:
/// that of its shim, which lives there.
fn interfaces_of(pod: &Pod) -> Option<PathBuf> {
    let known = pod.known();
    let sandbox = known.sandbox.as_ref().filter(|sandbox| !sandbox.config.host_network)?;
    Some(PathBuf::from(format!("/proc/{}/net/dev", sandbox.shim_pid?)))
}

fn of_pod(trees: &Trees, group: &Path, places: Vec<Place>, interfaces: Option<PathBuf>, disk: bool) -> PodUsage {
    let at = Time(now_ns());
    let containers = places.into_iter().map(|place| {
        let usage = ContainerUsage {
            running: place.running && trees.exists(&place.group),
            counters: counters(trees, &place.group),
            written: if disk { taken(&place.writable) } else { Default::default() },
            logs: place.logs.filter(|_| disk).map(|dir| taken(&dir)).unwrap_or_default(),
            id: place.id,
        };
        (place.name, usage)
    });
    PodUsage {
        at,
        counters: counters(trees, group),
        interfaces: interfaces
            .filter(|_| disk)
            .map(|file| api::node::interfaces(&text(&file)))
            .unwrap_or_default(),
        containers: containers.collect::<BTreeMap<_, _>>(),
    }
}

/// Counters of a cgroup, whichever version each controller is in.
///
/// Source: upstream cAdvisor, `setMemoryStats`, "working set": all but what is
/// cached of files nobody has touched lately.
fn counters(trees: &Trees, group: &Path) -> Counters {
    let v1_of = |controller: &str| trees.v1_of(controller).is_some();
    let mut usage = Counters::default();
    if let Some(dir) = trees.dir_of("cpuacct", group) {
        usage.cpu_ns = if v1_of("cpuacct") {
            number(&dir.join("cpuacct.usage"))
        } else {
            field(&text(&dir.join("cpu.stat")), "usage_usec").map(|us| us.saturating_mul(1_000))
        };
    }
    if let Some(dir) = trees.dir_of("memory", group) {
        let (used, names) = if v1_of("memory") {
            let names = ["total_inactive_file", "total_rss", "total_pgfault", "total_pgmajfault"];
            ("memory.usage_in_bytes", names)
        } else {
            ("memory.current", ["inactive_file", "anon", "pgfault", "pgmajfault"])
        };
        let stat = text(&dir.join("memory.stat"));
        let [inactive, rss, faults, major] = names.map(|name| field(&stat, name));
        usage.memory_bytes = number(&dir.join(used));
        usage.working_set_bytes = usage.memory_bytes.map(|bytes| bytes.saturating_sub(inactive.unwrap_or_default()));
        usage.rss_bytes = rss;
        usage.page_faults = faults;
        usage.major_page_faults = major;
    }
    if let Some(dir) = trees.dir_of("pids", group) {
        usage.processes = number(&dir.join("pids.current"));
    }
    usage
}

fn text(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_default()
}

fn number(file: &Path) -> Option<u64> {
    text(file).trim().parse().ok()
}

/// The number after a name that begins a line.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|number| number.trim().parse().ok())
}

/// What is below a directory takes of its file system, links not followed.
/// What vanishes meanwhile takes nothing.
fn taken(dir: &Path) -> DiskUsage {
    let mut usage = DiskUsage::default();
    let mut waiting = vec![dir.to_owned()];
    while let Some(dir) = waiting.pop() {
        let entries = fs::read_dir(&dir).into_iter().flatten().flatten();
        for (entry, metadata) in entries.filter_map(|entry: DirEntry| Some((entry.path(), entry.metadata().ok()?))) {
            usage.bytes += metadata.blocks() * BLOCK_BYTES;
            usage.inodes += 1;
            if metadata.is_dir() {
                waiting.push(entry);
            }
        }
    }
    usage
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_takes_what_its_files_take() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        fs::write(dir.path().join("sub/file"), vec![1; 100_000]).unwrap();
        std::os::unix::fs::symlink("/", dir.path().join("root")).unwrap();
        let usage = taken(dir.path());
        assert!(usage.inodes == 3 && (100_000..200_000).contains(&usage.bytes), "{usage:?}");
        assert_eq!(taken(&dir.path().join("absent")), DiskUsage::default());
    }

    #[test]
    fn fields_are_whole_names() {
        let stat = "rss 7\nrss_huge 8\ntotal_rss 9\nbroken\n";
        assert_eq!(field(stat, "rss"), Some(7));
        assert_eq!(field(stat, "total_rss"), Some(9));
        assert_eq!(field(stat, "rss_hug"), None);
    }

    #[test]
    fn counters_are_read_as_each_version_tells_them() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let at = dir.path().display();
        write("c/a/b/cpuacct.usage", "5000\n");
        write("m/a/b/memory.usage_in_bytes", "1000\n");
        write("m/a/b/memory.stat", "inactive_file 1\ntotal_inactive_file 400\ntotal_rss 300\n");
        write("p/a/b/pids.current", "7\n");
        let v1 = Trees::from_mountinfo(&format!(
            "1 1 0:1 / {at}/m rw - cgroup cgroup rw,memory\n2 1 0:2 / {at}/p rw - cgroup cgroup rw,pids\n3 1 0:3 / {at}/c rw - cgroup cgroup rw,cpuacct,cpu\n"
        ));
        let expected = Counters {
            cpu_ns: Some(5000),
            memory_bytes: Some(1000),
            working_set_bytes: Some(600),
            rss_bytes: Some(300),
            processes: Some(7),
            ..Counters::default()
        };
        assert_eq!(counters(&v1, Path::new("/a/b")), expected);
        assert_eq!(counters(&v1, Path::new("/gone")), Counters::default());
        write("u/a/b/cpu.stat", "usage_usec 5\n");
        write("u/a/b/memory.current", "1000\n");
        write("u/a/b/memory.stat", "anon 300\ninactive_file 400\n");
        write("u/a/b/pids.current", "7\n");
        let v2 = Trees::from_mountinfo(&format!("1 1 0:1 / {at}/u rw - cgroup2 cgroup2 rw\n"));
        assert_eq!(counters(&v2, Path::new("/a/b")), expected);
    }
}
