//! How fast pods and the node use the CPU: two readings of a counter, and the
//! time between them.
//!
//! Source: upstream metrics-server, `pkg/storage`: a rate needs two samples; a
//! container that is younger than the first is measured from its start.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api::Time;
use api::node::{ContainerUsage, PodUsage, RunState};
use runtime::Runtime;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::pods::Known;

/// Between samples. Source: metrics-server, `--metric-resolution`.
const INTERVAL: Duration = Duration::from_secs(15);
/// A rate over less is mostly noise.
const WINDOW_MIN: Duration = Duration::from_secs(5);
/// Samples kept of each counter: the newest may be too young to be a base.
const SAMPLES_MAX: usize = 3;
/// The node's own counter among those of containers, whose names are longer.
const NODE: &str = "node";

/// A reading of a counter of CPU time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sample {
    at: Time,
    cpu_ns: u64,
}

/// CPU use over a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Billionths of a core.
    pub nano_cores: u64,
    /// What it was measured over.
    pub window: Duration,
}

/// The newest earlier reading that makes a window, else the container's start.
fn base(samples: &VecDeque<Sample>, started: Option<Time>, at: Time) -> Option<Sample> {
    let old_enough = |sample: &&Sample| sample.at + WINDOW_MIN <= at;
    let from_start = started.map(|at| Sample { at, cpu_ns: 0 }).filter(|start| old_enough(&start));
    samples.iter().rev().find(old_enough).copied().or(from_start)
}

fn rate(from: Sample, to: Sample) -> Option<Rate> {
    let window_ns = u64::try_from(to.at.0 - from.at.0).ok().filter(|ns| *ns > 0)?;
    // A counter that went back is another counter.
    let used_ns = to.cpu_ns.checked_sub(from.cpu_ns)?;
    let nano_cores = u128::from(used_ns) * 1_000_000_000 / u128::from(window_ns);
    Some(Rate {
        nano_cores: u64::try_from(nano_cores).ok()?,
        window: Duration::from_nanos(window_ns),
    })
}

/// Readings of every counter of the node.
#[derive(Debug, Default)]
pub struct Samples(Mutex<BTreeMap<String, VecDeque<Sample>>>);

impl Samples {
    /// Reads all counters every [`INTERVAL`] until `shutdown`.
    pub async fn collect(&self, runtime: &Arc<dyn Runtime>, clock: &Arc<dyn Clock>, shutdown: CancellationToken) {
        loop {
            let mut seen = BTreeSet::from([NODE.to_owned()]);
            if let Some(cpu_ns) = crate::machine_usage::cpu_ns() {
                self.keep(NODE, Sample { at: clock.now(), cpu_ns });
            }
            match runtime.usage(false).await {
                Ok(usage) => {
                    for (pod, (_, container)) in usage.pods.values().flat_map(|pod| pod.running().map(move |one| (pod, one))) {
                        if let Some(cpu_ns) = container.counters.cpu_ns {
                            self.keep(&container.id.0, Sample { at: pod.at, cpu_ns });
                        }
                        seen.insert(container.id.0.clone());
                    }
                    self.lock().retain(|id, _| seen.contains(id));
                }
                Err(error) => tracing::warn!(error = %error, "what pods use of the node is not known"),
            }
            tokio::select! {
                () = clock.sleep_until(clock.now() + INTERVAL) => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, VecDeque<Sample>>> {
        // Each change under it is a single insertion or removal.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, id: &str, sample: Sample) {
        let mut all = self.lock();
        let samples = all.entry(id.to_owned()).or_default();
        samples.push_back(sample);
        if samples.len() > SAMPLES_MAX {
            samples.pop_front();
        }
    }

    /// The rate of the node, whose counter is at `cpu_ns` now.
    #[must_use]
    pub fn of_node(&self, at: Time, cpu_ns: u64) -> Option<Rate> {
        let from = base(self.lock().get(NODE)?, None, at)?;
        rate(from, Sample { at, cpu_ns })
    }

    /// The rate of a container that was read just now.
    #[must_use]
    pub fn of_container(&self, known: &Known, pod: &PodUsage, container: &ContainerUsage) -> Option<Rate> {
        let view = known.observed.containers.iter().find(|view| view.id == container.id)?;
        let started = match view.state {
            RunState::Running { started_at } => Some(started_at),
            _ => None,
        };
        let to = Sample {
            at: pod.at,
            cpu_ns: container.counters.cpu_ns?,
        };
        let all = self.lock();
        let from = base(all.get(&container.id.0).unwrap_or(&VecDeque::new()), started, to.at)?;
        rate(from, to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64, cpu_ns: u64) -> Sample {
        Sample {
            at: Time::from_secs(seconds),
            cpu_ns,
        }
    }

    #[test]
    fn a_rate_is_over_its_true_window() {
        let rate = rate(at(100, 1_000_000_000), at(108, 3_000_000_000)).unwrap();
        assert_eq!(rate.nano_cores, 250_000_000);
        assert_eq!(rate.window, Duration::from_secs(8));
        assert_eq!(super::rate(at(100, 5), at(108, 4)), None, "another counter");
        assert_eq!(super::rate(at(100, 5), at(100, 6)), None, "no time passed");
    }

    #[test]
    fn the_base_is_old_enough_or_the_start() {
        let samples = VecDeque::from([at(70, 1), at(85, 2), at(98, 3)]);
        assert_eq!(base(&samples, None, Time::from_secs(100)), Some(at(85, 2)));
        let none = VecDeque::new();
        assert_eq!(base(&none, Some(Time::from_secs(90)), Time::from_secs(100)), Some(at(90, 0)));
        assert_eq!(base(&none, Some(Time::from_secs(97)), Time::from_secs(100)), None);
        assert_eq!(base(&none, None, Time::from_secs(100)), None);
    }
}
