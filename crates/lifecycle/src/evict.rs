//! Which pods a node gives up when it runs short of something.
//!
//! Reading order: `evict/threshold.rs` (what the flags say), this file (is the
//! node short, and of what), `evict/rank.rs` (who goes first, and in which
//! words). The driver observes, asks, and hands the eviction to the pod's
//! machine; one pod at a time, as upstream.
//!
//! Source: upstream `pkg/kubelet/eviction/eviction_manager.go`, `synchronize`,
//! `Admit`; node-pressure eviction page.

mod rank;
mod threshold;

use std::collections::{BTreeMap, BTreeSet};

use api::Time;
use api::pods::{self, QosClass};
use api::typed::{Pod, Taint};

use crate::admit::tolerates;
use crate::input::Rejection;

pub use rank::victim;
pub use threshold::{Amount, Flags, InvalidThreshold, Settings, Threshold, duration};

/// Pods of this priority and above are not evicted.
///
/// Source: upstream `types.IsCriticalPodBasedOnPriority`.
const CRITICAL_PRIORITY: i32 = 2_000_000_000;

/// What is watched, by upstream's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Signal {
    /// Memory of the node that is neither used nor needed.
    MemoryAvailable,
    /// Bytes left where pods' writable layers and logs are.
    NodeFsAvailable,
    /// Files that can still be made there.
    NodeFsInodesFree,
    /// Bytes left where images are.
    ImageFsAvailable,
    /// Files that can still be made there.
    ImageFsInodesFree,
    /// Processes that can still be started.
    PidAvailable,
}

impl Signal {
    const ALL: [Self; 6] = [
        Self::MemoryAvailable,
        Self::NodeFsAvailable,
        Self::NodeFsInodesFree,
        Self::ImageFsAvailable,
        Self::ImageFsInodesFree,
        Self::PidAvailable,
    ];

    /// As flags name it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MemoryAvailable => "memory.available",
            Self::NodeFsAvailable => "nodefs.available",
            Self::NodeFsInodesFree => "nodefs.inodesFree",
            Self::ImageFsAvailable => "imagefs.available",
            Self::ImageFsInodesFree => "imagefs.inodesFree",
            Self::PidAvailable => "pid.available",
        }
    }

    /// The resource that messages name.
    #[must_use]
    pub const fn resource(self) -> &'static str {
        match self {
            Self::MemoryAvailable => "memory",
            Self::NodeFsAvailable | Self::ImageFsAvailable => "ephemeral-storage",
            Self::NodeFsInodesFree | Self::ImageFsInodesFree => "inodes",
            Self::PidAvailable => "pids",
        }
    }

    /// The condition it brings about.
    #[must_use]
    pub const fn pressure(self) -> Pressure {
        match self {
            Self::MemoryAvailable => Pressure::Memory,
            Self::PidAvailable => Pressure::Pid,
            Self::NodeFsAvailable | Self::NodeFsInodesFree | Self::ImageFsAvailable | Self::ImageFsInodesFree => Pressure::Disk,
        }
    }
}

/// A condition of a node that runs short.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pressure {
    /// `MemoryPressure`.
    Memory,
    /// `DiskPressure`.
    Disk,
    /// `PIDPressure`.
    Pid,
}

impl Pressure {
    /// Every one, in the order node statuses list them.
    pub const ALL: [Self; 3] = [Self::Memory, Self::Disk, Self::Pid];

    /// Type of the node's condition.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "MemoryPressure",
            Self::Disk => "DiskPressure",
            Self::Pid => "PIDPressure",
        }
    }
}

/// What there is of something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Level {
    /// What is left.
    pub available: u64,
    /// What there is in all.
    pub capacity: u64,
}

/// What was observed, by signal. One that could not be is not there.
pub type Levels = BTreeMap<Signal, Level>;

/// What has been short, and since when. All of it may be lost: then pressure
/// is found anew.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    /// Thresholds met, by their place in the settings.
    since: BTreeMap<usize, Time>,
    last_under: BTreeMap<Pressure, Time>,
}

/// What one look has shown.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Finding {
    /// The node's conditions.
    pub pressures: BTreeSet<Pressure>,
    /// What a pod is to be evicted for now.
    pub reclaim: Option<Threshold>,
}

impl Watch {
    /// Looks at what was observed.
    pub fn look(&mut self, now: Time, settings: &Settings, levels: &Levels) -> Finding {
        let met = |place: usize, threshold: &Threshold| {
            let level = levels.get(&threshold.signal)?;
            let bound = threshold.amount.of(level.capacity);
            // Once met, what is to be won back comes on top.
            let more = threshold.min_reclaim.filter(|_| self.since.contains_key(&place));
            let bound = bound.saturating_add(more.map_or(0, |amount| amount.of(level.capacity)));
            (level.available < bound).then_some(())
        };
        let now_met: BTreeSet<usize> = (settings.thresholds.iter().enumerate())
            .filter(|(place, threshold)| met(*place, threshold).is_some())
            .map(|(place, _)| place)
            .collect();
        self.since.retain(|place, _| now_met.contains(place));
        for place in &now_met {
            self.since.entry(*place).or_insert(now);
            if let Some(threshold) = settings.thresholds.get(*place) {
                self.last_under.insert(threshold.signal.pressure(), now);
            }
        }
        // A condition stays for a while, so that it does not flap.
        self.last_under
            .retain(|pressure, at| *at == now || (now.since(*at) < settings.transition && Pressure::ALL.contains(pressure)));
        let due = self.since.iter().filter_map(|(place, since)| {
            let threshold = settings.thresholds.get(*place)?;
            let waited = now.since(*since) >= threshold.grace.unwrap_or_default();
            waited.then_some(threshold)
        });
        Finding {
            pressures: self.last_under.keys().copied().collect(),
            // Memory first: nothing else is over so quickly.
            reclaim: due.min_by_key(|threshold| (threshold.signal, threshold.grace.is_some())).cloned(),
        }
    }
}

/// Whether a pod matters so much that it is neither evicted nor refused.
#[must_use]
pub fn is_critical(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0) >= CRITICAL_PRIORITY
}

/// Refuses a pod that would make a shortage worse.
///
/// # Errors
/// The refusal.
pub fn admit(pod: &Pod, pressures: &BTreeSet<Pressure>) -> Result<(), Rejection> {
    if pressures.is_empty() || is_critical(pod) {
        return Ok(());
    }
    if pressures.iter().all(|pressure| *pressure == Pressure::Memory) {
        let taint = Taint {
            key: "node.kubernetes.io/memory-pressure".to_owned(),
            effect: "NoSchedule".to_owned(),
            ..Taint::default()
        };
        let tolerations = pod.spec.iter().flat_map(|spec| spec.tolerations.iter().flatten());
        if pods::qos_class(pod) != QosClass::BestEffort || tolerations.into_iter().any(|t| tolerates(t, &taint)) {
            return Ok(());
        }
    }
    let names: Vec<_> = pressures.iter().map(|pressure| pressure.as_str()).collect();
    Err(Rejection {
        reason: crate::input::EVICTED.to_owned(),
        message: format!("The node had condition: [{}]. ", names.join(" ")),
    })
}

#[cfg(test)]
mod tests;
