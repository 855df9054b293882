//! Reading a pod's counters from its cgroups, and its bytes from its disks.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use api::Time;
use shim::cgroup::Trees;
use shim::record::now_ns;

use super::pod::Pod;
use super::{Embedded, blocking};
use crate::counters::{ContainerCounters, Counters, PodCounters};
use crate::{RuntimeError, log_files};

impl Embedded {
    /// See [`crate::Runtime::counters`].
    pub(super) async fn counters_of(&self, pod: Arc<Pod>, disks: bool) -> Result<PodCounters, RuntimeError> {
        let trees = self.host.trees.clone();
        blocking(move || {
            let (attempts, log_dir) = {
                let known = pod.known();
                let running = known.attempts.iter().filter(|attempt| attempt.exit.is_none() && !attempt.making);
                let attempts: Vec<_> = running.map(|attempt| attempt.record.clone()).collect();
                (attempts, known.sandbox.as_ref().map(|sandbox| sandbox.config.log_dir.clone()))
            };
            let usage = read(&trees, &pod.group);
            let containers = attempts
                .into_iter()
                .filter(|attempt| trees.exists(&pod.group.join(&attempt.id)))
                .map(|attempt| {
                    let (mut written, mut files, mut log_bytes) = (0, 0, 0);
                    if disks {
                        measure(&pod.dir.attempt_dir(&attempt.id).join("upper"), &mut written, &mut files);
                        let log = log_dir
                            .as_ref()
                            .map(|dir| dir.join(&attempt.name).join(format!("{}.log", attempt.attempt)));
                        let logs = log.and_then(|log| log_files(&log).ok()).unwrap_or_default();
                        log_bytes = logs
                            .iter()
                            .filter_map(|file| fs::metadata(file).ok())
                            .map(|about| about.len())
                            .sum();
                    }
                    ContainerCounters {
                        usage: read(&trees, &pod.group.join(&attempt.id)),
                        name: attempt.name,
                        id: attempt.id,
                        written_bytes: written,
                        written_files: files,
                        log_bytes,
                    }
                })
                .collect();
            Ok(PodCounters {
                pod: pod.uid.clone(),
                at: Time(now_ns()),
                usage,
                containers,
            })
        })
        .await
    }
}

/// Counters of a cgroup, whichever version each controller is in.
fn read(trees: &Trees, group: &Path) -> Counters {
    let dir = |controller: &str| {
        let group = group.strip_prefix("/").unwrap_or(group);
        let v1 = trees.v1_of(controller).map(|mount| (mount.join(group), true));
        v1.or_else(|| trees.v2_root().map(|mount| (mount.join(group), false)))
    };
    let mut usage = Counters::default();
    match dir("cpuacct") {
        Some((dir, true)) => usage.cpu_ns = number(&dir.join("cpuacct.usage")),
        Some((dir, false)) => usage.cpu_ns = field(&text(&dir.join("cpu.stat")), "usage_usec").map(|us| us.saturating_mul(1_000)),
        None => {}
    }
    if let Some((dir, v1)) = dir("memory") {
        let stat = text(&dir.join("memory.stat"));
        let names = if v1 {
            ["total_inactive_file", "total_rss", "total_pgfault", "total_pgmajfault"]
        } else {
            ["inactive_file", "anon", "pgfault", "pgmajfault"]
        };
        let [inactive, rss, faults, major] = names.map(|name| field(&stat, name));
        usage.memory_bytes = number(&dir.join(if v1 { "memory.usage_in_bytes" } else { "memory.current" }));
        usage.working_set_bytes = usage.memory_bytes.map(|bytes| bytes.saturating_sub(inactive.unwrap_or_default()));
        usage.rss_bytes = rss;
        usage.page_faults = faults;
        usage.major_page_faults = major;
    }
    if let Some((dir, _)) = dir("pids") {
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

/// Adds up what is below a directory, links not followed.
fn measure(dir: &Path, bytes: &mut u64, files: &mut u64) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let Ok(about) = entry.metadata() else { continue };
        *bytes += about.blocks() * 512;
        *files += 1;
        if about.is_dir() {
            measure(&entry.path(), bytes, files);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_whole_names() {
        let stat = "rss 7\nrss_huge 8\ntotal_rss 9\nbroken\n";
        assert_eq!(field(stat, "rss"), Some(7));
        assert_eq!(field(stat, "total_rss"), Some(9));
        assert_eq!(field(stat, "rss_hug"), None);
    }

    #[test]
    fn a_layer_is_measured_without_following_links() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("a")).unwrap();
        fs::write(dir.path().join("a/b"), [1; 10_000]).unwrap();
        std::os::unix::fs::symlink("/", dir.path().join("root")).unwrap();
        let (mut bytes, mut files) = (0, 0);
        measure(dir.path(), &mut bytes, &mut files);
        assert_eq!(files, 3);
        assert!((10_000..100_000).contains(&bytes), "{bytes}");
    }
}
