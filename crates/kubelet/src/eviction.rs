//! Looks at what the node has left, and names the pod to be evicted. What
//! counts as short, and who goes first, is `lifecycle::evict`'s.
//!
//! Source: upstream `pkg/kubelet/eviction/eviction_manager.go`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use api::Uid;
use api::node::NodeUsage;
use api::typed::Pod;
use client::{RecordedEvent, Recorder};
use lifecycle::Eviction;
use lifecycle::evict::{self, Level, Levels, Pressure, Settings, Signal, Threshold};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::execute::Ports;
use crate::node_events::NodeEvents;
use crate::node_status::NodeState;
use crate::pod_worker::reference;

/// How often the node is looked at. Source: upstream `evictionMonitoringPeriod`.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How long an evicted pod is waited for beyond its time before the next may
/// be chosen. Source: upstream `podCleanupTimeout`.
const CLEANUP: Duration = Duration::from_secs(30);
/// How often a pod that stops is looked at.
const STOP_POLL: Duration = Duration::from_millis(500);
/// A pod has half as long again as its grace to stop, and at least so long.
/// Source: upstream `pod_workers.go`, `killPodNow`.
const STOP_MIN: Duration = Duration::from_secs(10);

/// What is looked at, and when it is short.
#[derive(Clone, Debug)]
pub struct Config {
    /// The thresholds.
    pub settings: Settings,
    /// Any path where pods' writable layers and logs are.
    pub node_fs: PathBuf,
    /// Any path where images are.
    pub image_fs: PathBuf,
}

/// Where the findings go.
pub(crate) struct Findings {
    pub(crate) state: watch::Sender<NodeState>,
    /// Which pod to evict, and how.
    pub(crate) evictions: mpsc::Sender<(Uid, Eviction)>,
    pub(crate) recorder: Recorder,
    pub(crate) node: NodeEvents,
}

/// A pod that is to go, and its grace.
type Evicted = (Uid, Duration);

/// Looks again and again until `shutdown`.
pub(crate) async fn run(ports: Ports, config: Config, findings: Findings, shutdown: CancellationToken) {
    let mut watch = evict::Watch::default();
    let looking = async {
        loop {
            match look(&ports, &config, &findings, &mut watch).await {
                Some((evicted, grace)) => cleaned_up(&ports, &findings.recorder, &evicted, grace).await,
                None => tokio::time::sleep(LOOK_EVERY).await,
            }
        }
    };
    tokio::select! {
        () = looking => {}
        () = shutdown.cancelled() => {}
    }
}

/// One look; the pod that is evicted for it, and its grace.
async fn look(ports: &Ports, config: &Config, findings: &Findings, watch: &mut evict::Watch) -> Option<Evicted> {
    let usage = match ports.runtime.usage(false).await {
        Ok(usage) => usage,
        Err(error) => {
            tracing::warn!(error = %error, "what pods use of the node is not known");
            return None;
        }
    };
    let levels = levels(config, &usage);
    let finding = watch.look(ports.clock.now(), &config.settings, &levels);
    tell_pressures(findings, &finding.pressures);
    let threshold = finding.reclaim?;
    let resource = threshold.signal.resource();
    findings
        .node
        .warn("EvictionThresholdMet", format!("Attempting to reclaim {resource}"));
    if threshold.signal.pressure() == Pressure::Disk {
        // First what nobody misses.
        match ports.runtime.reclaim().await {
            Ok(0) => {}
            Ok(freed_bytes) => {
                tracing::info!(freed_bytes, "what ended containers had written was removed");
                return look_again(ports, config, findings, watch).await;
            }
            Err(error) => tracing::warn!(error = %error, "what ended containers had written was not removed"),
        }
    }
    let usage = match ports.runtime.usage(true).await {
        Ok(usage) => usage,
        Err(_) => usage,
    };
    let (uid, eviction) = choose(ports, config, &threshold, &levels, &usage)?;
    tracing::warn!(uid = %uid, resource, because = %eviction.message, "a pod is evicted");
    // Nobody takes it only when the kubelet has ended.
    let grace = eviction.grace.unwrap_or_default();
    findings.evictions.send((uid.clone(), eviction)).await.ok()?;
    Some((uid, grace))
}

/// Boxed, as it looks the way it came from. It ends: nothing is left to be
/// reclaimed the second time.
fn look_again<'a>(
    ports: &'a Ports,
    config: &'a Config,
    findings: &'a Findings,
    watch: &'a mut evict::Watch,
) -> std::pin::Pin<Box<dyn Future<Output = Option<Evicted>> + Send + 'a>> {
    Box::pin(look(ports, config, findings, watch))
}

/// The pod to be evicted among those that run and are not ending anyway.
fn choose(ports: &Ports, config: &Config, threshold: &Threshold, levels: &Levels, usage: &NodeUsage) -> Option<(Uid, Eviction)> {
    let known = ports.pods.all();
    let active: Vec<(&Uid, &Pod)> = known
        .iter()
        .map(|(uid, known)| (uid, known.pod.as_ref()))
        .filter(|(uid, pod)| usage.pods.contains_key(*uid) && !api::pods::is_terminal(pod) && !api::pods::is_terminating(pod))
        .collect();
    let candidates: Vec<_> = active
        .iter()
        .map(|(uid, pod)| (*pod, usage.pods.get(*uid).cloned().unwrap_or_default()))
        .collect();
    let chosen = evict::victim(threshold, &config.settings, levels, &candidates);
    let Some((place, eviction)) = chosen else {
        tracing::warn!(
            signal = threshold.signal.as_str(),
            "the node runs short, and no pod may be evicted for it"
        );
        return None;
    };
    active.get(place).map(|(uid, _)| ((*uid).clone(), eviction))
}

/// Waits until nothing of the pod runs any more, or for a while.
async fn cleaned_up(ports: &Ports, recorder: &Recorder, uid: &Uid, grace: Duration) {
    if !stopped(ports, recorder, uid, grace).await && tokio::time::timeout(CLEANUP, stops(ports, uid)).await.is_err() {
        tracing::warn!(uid = %uid, "an evicted pod still runs after {CLEANUP:?} more; the next one may be chosen");
    }
}

/// Whether a pod that is being stopped has stopped in time; if not, that is
/// told of it.
pub(crate) async fn stopped(ports: &Ports, recorder: &Recorder, uid: &Uid, grace: Duration) -> bool {
    let limit = STOP_MIN.max(grace + grace / 2);
    if tokio::time::timeout(limit, stops(ports, uid)).await.is_ok() {
        return true;
    }
    if let Some(known) = ports.pods.get(uid) {
        recorder.record(RecordedEvent {
            involved: reference(&known.pod, None),
            kind: "Warning",
            reason: "ExceededGracePeriod".to_owned(),
            message: "Container runtime did not kill the pod within specified grace period.".to_owned(),
            at: ports.clock.now(),
        });
    }
    false
}

/// Returns once nothing of the pod runs.
async fn stops(ports: &Ports, uid: &Uid) {
    loop {
        tokio::time::sleep(STOP_POLL).await;
        let seen = ports.observe(uid).await;
        if seen.is_ok_and(|seen| seen.sandbox.is_none_or(|sandbox| !sandbox.ready)) {
            return;
        }
    }
}

fn tell_pressures(findings: &Findings, now_under: &std::collections::BTreeSet<Pressure>) {
    let before = findings.state.borrow().pressures.clone();
    if before == *now_under {
        return;
    }
    findings.state.send_modify(|state| state.pressures.clone_from(now_under));
    for pressure in Pressure::ALL {
        let under = now_under.contains(&pressure);
        if under == before.contains(&pressure) {
            continue;
        }
        let reason = match (pressure, under) {
            (Pressure::Memory, true) => "NodeHasInsufficientMemory",
            (Pressure::Memory, false) => "NodeHasSufficientMemory",
            (Pressure::Disk, true) => "NodeHasDiskPressure",
            (Pressure::Disk, false) => "NodeHasNoDiskPressure",
            (Pressure::Pid, true) => "NodeHasInsufficientPID",
            (Pressure::Pid, false) => "NodeHasSufficientPID",
        };
        findings.node.status_is(reason);
    }
}

/// What is left of everything that can be told.
fn levels(config: &Config, usage: &NodeUsage) -> Levels {
    let mut levels = Levels::new();
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    levels.extend(memory(&read("/proc/meminfo"), usage).map(|level| (Signal::MemoryAvailable, level)));
    for (path, bytes, inodes) in [
        (&config.node_fs, Signal::NodeFsAvailable, Signal::NodeFsInodesFree),
        (&config.image_fs, Signal::ImageFsAvailable, Signal::ImageFsInodesFree),
    ] {
        levels.extend(file_system(path, bytes, inodes));
    }
    let number = |path: &str| read(path).trim().parse::<u64>().ok();
    let most = number("/proc/sys/kernel/pid_max")
        .into_iter()
        .chain(number("/proc/sys/kernel/threads-max"))
        .min();
    levels.extend(processes(&read("/proc/loadavg"), most).map(|level| (Signal::PidAvailable, level)));
    levels
}

/// Memory of the node; of the pods' cgroup where that has less.
///
/// Source: upstream `kubelet/stats`, "available" of the root cgroup.
fn memory(meminfo: &str, usage: &NodeUsage) -> Option<Level> {
    let field = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        let kib: u64 = line.trim_start_matches(':').trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kib * 1024)
    };
    let of_node = Level {
        capacity: field("MemTotal")?,
        available: field("MemFree")?.saturating_add(field("Inactive(file)")?),
    };
    let limit = usage.memory_limit_bytes.filter(|limit| *limit < of_node.capacity);
    Some(limit.map_or(of_node, |limit| Level {
        capacity: limit,
        available: of_node.available.min(limit.saturating_sub(usage.memory_bytes)),
    }))
}

fn file_system(path: &Path, bytes: Signal, inodes: Signal) -> Vec<(Signal, Level)> {
    let Ok(stat) = rustix::fs::statvfs(path) else {
        tracing::warn!(path = %path.display(), "what is left of this file system is not known");
        return Vec::new();
    };
    let space = Level {
        available: stat.f_bavail * stat.f_frsize,
        capacity: stat.f_blocks * stat.f_frsize,
    };
    let files = Level {
        available: stat.f_favail,
        capacity: stat.f_files,
    };
    // Some file systems count no files.
    let files = Some((inodes, files)).filter(|(_, files)| files.capacity > 0);
    [(bytes, space)].into_iter().chain(files).collect()
}

/// `0.1 0.2 0.3 1/345 6789`: 345 processes and threads.
fn processes(loadavg: &str, most: Option<u64>) -> Option<Level> {
    let running: u64 = loadavg.split_whitespace().nth(3)?.split_once('/')?.1.parse().ok()?;
    let capacity = most?;
    Some(Level {
        available: capacity.saturating_sub(running),
        capacity,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMINFO: &str = "MemTotal:        1000 kB\nMemFree:          300 kB\nActive(file):      9 kB\nInactive(file):  200 kB\n";

    #[test]
    fn memory_is_the_nodes_or_what_the_pods_may_have() {
        let mut usage = NodeUsage::default();
        let kib = |capacity: u64, available: u64| {
            Some(Level {
                available: available * 1024,
                capacity: capacity * 1024,
            })
        };
        assert_eq!(memory(MEMINFO, &usage), kib(1000, 500));
        (usage.memory_limit_bytes, usage.memory_bytes) = (Some(400 << 10), 100 << 10);
        assert_eq!(memory(MEMINFO, &usage), kib(400, 300));
        usage.memory_limit_bytes = Some(900 << 10);
        assert_eq!(memory(MEMINFO, &usage), kib(900, 500), "what the node has not, they cannot have");
        usage.memory_limit_bytes = Some(1 << 40);
        assert_eq!(memory(MEMINFO, &usage), kib(1000, 500));
        assert_eq!(memory("", &usage), None);
    }

    #[test]
    fn processes_are_counted_against_the_kernels_limit() {
        let level = processes("0.46 0.55 0.58 3/345 6789\n", Some(1000));
        assert_eq!(
            level,
            Some(Level {
                available: 655,
                capacity: 1000
            })
        );
        assert_eq!((processes("", Some(1)), processes("1 1 1 1/2 3", None)), (None, None));
        assert_eq!(
            file_system(Path::new("/"), Signal::NodeFsAvailable, Signal::NodeFsInodesFree)[0].0,
            Signal::NodeFsAvailable
        );
    }
}
