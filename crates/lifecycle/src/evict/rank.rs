//! Who goes first, and in which words.
//!
//! Source: upstream `pkg/kubelet/eviction/helpers.go`, `rankMemoryPressure`,
//! `rankDiskPressureFunc`, `rankPIDPressure`, `evictionMessage`.

use std::cmp::Reverse;
use std::fmt::Write as _;
use std::time::Duration;

use api::Quantity;
use api::node::{ContainerUsage, PodUsage};
use api::pods;
use api::typed::{Container, Pod};

use crate::evict::{Levels, Settings, Signal, Threshold, is_critical};
use crate::input::{EVICTED, Eviction};

/// Grace of a pod that must go at once. The stop itself takes two seconds.
///
/// Source: upstream `immediateEvictionGracePeriodSeconds`.
const AT_ONCE: Duration = Duration::from_secs(1);

/// The pod to evict for a threshold, by its place among `pods`, and how. Those
/// that use more than they asked for go first, then those of low priority,
/// then those that exceed their request by most.
#[must_use]
pub fn victim(threshold: &Threshold, settings: &Settings, levels: &Levels, pods: &[(&Pod, PodUsage)]) -> Option<(usize, Eviction)> {
    let signal = threshold.signal;
    let order = |(pod, usage): &(&Pod, PodUsage)| {
        let used = of_pod(signal, usage);
        let asked = requested(signal, pod);
        let exceeds = signal != Signal::PidAvailable && used > asked;
        let priority = pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0);
        let above = i128::from(used) - i128::from(asked);
        (Reverse(exceeds), priority, Reverse(above))
    };
    let candidates = pods.iter().enumerate().filter(|(_, (pod, _))| !is_critical(pod));
    let (place, (pod, usage)) = candidates.min_by_key(|(_, entry)| order(entry))?;
    let own = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.termination_grace_period_seconds)
        .unwrap_or(30);
    let own = Duration::from_secs(u64::try_from(own).unwrap_or(0));
    let grace = if threshold.grace.is_none() {
        AT_ONCE
    } else {
        settings.max_pod_grace.min(own)
    };
    let eviction = Eviction {
        reason: EVICTED.to_owned(),
        message: message(threshold, levels, pod, usage),
        grace: Some(grace),
    };
    Some((place, eviction))
}

fn of_pod(signal: Signal, usage: &PodUsage) -> u64 {
    match signal {
        Signal::MemoryAvailable => usage.counters.working_set_bytes.unwrap_or(0),
        Signal::PidAvailable => usage.counters.processes.unwrap_or(0),
        Signal::NodeFsAvailable | Signal::ImageFsAvailable => usage.containers.values().map(|c| c.disk().bytes).sum(),
        Signal::NodeFsInodesFree | Signal::ImageFsInodesFree => usage.containers.values().map(|c| c.disk().inodes).sum(),
    }
}

/// What the pod asked for; of inodes and processes nothing can be.
fn requested(signal: Signal, pod: &Pod) -> u64 {
    let asked = pods::requests(pod).get(signal.resource()).map_or(0, |quantity| quantity.bytes());
    u64::try_from(asked).unwrap_or(0)
}

fn message(threshold: &Threshold, levels: &Levels, pod: &Pod, usage: &PodUsage) -> String {
    let signal = threshold.signal;
    let resource = signal.resource();
    let mut text = format!("The node was low on resource: {resource}. ");
    if let Some(level) = levels.get(&signal) {
        let counted = matches!(signal, Signal::NodeFsInodesFree | Signal::ImageFsInodesFree | Signal::PidAvailable);
        let available = if counted {
            decimal(level.available)
        } else {
            binary(level.available)
        };
        let bound = binary(threshold.amount.of(level.capacity));
        // Writing to a String cannot fail.
        let _ = write!(text, "Threshold quantity: {bound}, available: {available}. ");
    }
    let spec = pod.spec.as_ref();
    let sidecars = spec
        .iter()
        .flat_map(|s| s.init_containers.iter().flatten())
        .filter(|c| pods::is_sidecar(c));
    for container in spec.iter().flat_map(|s| &s.containers).chain(sidecars) {
        let Some(used) = usage.containers.get(&container.name).and_then(|usage| of_container(signal, usage)) else {
            continue;
        };
        let asked = asked_by(container, resource);
        let asked_bytes = asked.map_or(0, |quantity| u64::try_from(quantity.bytes()).unwrap_or(0));
        if used > asked_bytes {
            let asked = asked.map_or_else(|| "0".to_owned(), |quantity| quantity.to_string());
            let _ = write!(
                text,
                "Container {} was using {}, request is {asked}, has larger consumption of {resource}. ",
                container.name,
                binary(used)
            );
        }
    }
    text
}

fn of_container(signal: Signal, usage: &ContainerUsage) -> Option<u64> {
    match signal {
        Signal::MemoryAvailable => Some(usage.counters.working_set_bytes.unwrap_or(0)),
        Signal::NodeFsAvailable | Signal::ImageFsAvailable => Some(usage.disk().bytes),
        Signal::NodeFsInodesFree | Signal::ImageFsInodesFree | Signal::PidAvailable => None,
    }
}

fn asked_by(container: &Container, resource: &str) -> Option<Quantity> {
    pods::container_requests(container).get(resource).copied()
}

/// As Go prints a quantity of bytes: the largest of `Ki`, `Mi` … that loses
/// nothing.
pub(super) fn binary(units: u64) -> String {
    scaled(units, 1024, ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"])
}

/// As Go prints a number.
pub(super) fn decimal(units: u64) -> String {
    scaled(units, 1000, ["", "k", "M", "G", "T", "P", "E"])
}

fn scaled(mut units: u64, step: u64, suffixes: [&str; 7]) -> String {
    let mut suffix = 0;
    while units >= step && units.is_multiple_of(step) && suffix + 1 < suffixes.len() {
        units /= step;
        suffix += 1;
    }
    format!("{units}{}", suffixes[suffix])
}
