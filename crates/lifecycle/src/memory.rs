//! What a machine remembers beside desired state, observation and last status.
//!
//! All of it may be lost at any moment without changing where the pod ends up:
//! it only spaces retries out, and keeps the texts of failures. What of failed
//! pulls must not be forgotten is noted on the sandbox.

use std::collections::BTreeMap;
use std::time::Duration;

use api::Time;
use api::node::{ContainerId, ContainerView, Observation};
use serde::{Deserialize, Serialize};

use crate::action::{Target, Verb};
use crate::input::{Desired, Failure, FailureClass, Hook, Probe, ProbeKind};

/// First and longest delay between downloads of an image that fail.
///
/// Source: upstream `pkg/kubelet/kubelet.go`, `imageBackOffPeriod` and
/// `MaxImageBackOff`.
const PULL_DELAY_INITIAL: Duration = Duration::from_secs(10);
const PULL_DELAY_MAX: Duration = Duration::from_secs(300);
/// Delays between other failed actions: 1, 2, 4, 8, 10 s and up to half more.
const RETRY_DELAY_MAX: Duration = Duration::from_secs(10);
/// How long a fresh failure is shown before the back-off it leads to. Upstream
/// shows it until its next sync, at least this long.
pub(crate) const SHOWN: Duration = Duration::from_secs(1);

/// A container that is not ready at its start is asked again out of turn:
/// upstream does so with the status its next relist brings, a second later.
///
/// Source: upstream `prober_manager.go`, `UpdatePodStatus`.
const UNREADY_AGAIN: Duration = Duration::from_secs(1);

/// Why the pod leaves the sync stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Deleted,
    Gone,
    Rejected,
    Evicted,
    /// Stopped with its node, to start again with it.
    Drained,
    DeadlineExceeded,
    Finished,
}

/// The state of a container's image, as far as the next attempt is concerned.
#[derive(Clone, Debug)]
pub(crate) struct PullRecord {
    pub(crate) image: String,
    pub(crate) result: Result<(), PullFailure>,
}

#[derive(Clone, Debug)]
pub(crate) struct PullFailure {
    pub(crate) class: FailureClass,
    pub(crate) message: String,
    pub(crate) at: Time,
    pub(crate) next_at: Time,
    pub(crate) count: u32,
}

impl PullFailure {
    fn new(failure: Failure, at: Time, count: u32) -> Self {
        let failed = Self {
            class: failure.class,
            message: failure.message,
            at,
            next_at: at,
            count,
        };
        let delay = if failed.backs_off() {
            (PULL_DELAY_INITIAL * (1 << (count - 1).min(5))).min(PULL_DELAY_MAX)
        } else {
            PULL_DELAY_INITIAL
        };
        Self {
            next_at: at + delay,
            ..failed
        }
    }

    /// As it is noted on the sandbox, for the next agent.
    pub(crate) fn note(&self, image: &str) -> String {
        let note = PullNote {
            image: image.to_owned(),
            registry_unavailable: self.class == FailureClass::RegistryUnavailable,
            message: self.message.clone(),
            at_ns: self.at.0,
            count: self.count,
        };
        serde_json::to_string(&note).unwrap_or_default() // strings and numbers always can be
    }

    /// Only failed downloads back off; the rest is looked at again and again.
    pub(crate) fn backs_off(&self) -> bool {
        matches!(self.class, FailureClass::ErrImagePull | FailureClass::RegistryUnavailable)
    }

    /// Whether it is the back-off that is shown instead of the failure.
    pub(crate) fn backing_off(&self, now: Time) -> bool {
        self.backs_off() && now >= self.at + SHOWN
    }
}

/// A target whose last action failed.
#[derive(Clone, Debug)]
pub(crate) struct Retry {
    pub(crate) failure: Failure,
    pub(crate) next_at: Time,
    pub(crate) count: u32,
}

/// What a probe of one attempt has found so far.
#[derive(Clone, Debug)]
pub(crate) struct ProbeRecord {
    pub(crate) id: ContainerId,
    /// When it is due again.
    pub(crate) next_at: Time,
    /// The result in force, once a threshold was reached.
    pub(crate) result: Option<bool>,
    last: Option<bool>,
    run: u32,
}

impl ProbeRecord {
    pub(crate) fn new(id: ContainerId, next_at: Time) -> Self {
        Self {
            id,
            next_at,
            result: None,
            last: None,
            run: 0,
        }
    }

    /// Failures since the last success.
    pub(crate) fn failures_in_a_row(&self) -> u32 {
        if self.last == Some(false) { self.run } else { 0 }
    }

    /// Counts one more attempt; equal results in a row make the result.
    pub(crate) fn count(&mut self, now: Time, well: bool, kind: ProbeKind, probe: &Probe) {
        if kind == ProbeKind::Readiness && self.last.is_none() && !well {
            self.next_at = self.next_at.min(now + UNREADY_AGAIN);
        }
        self.run = if self.last == Some(well) { self.run.saturating_add(1) } else { 1 };
        self.last = Some(well);
        let threshold = if well { probe.success_threshold } else { probe.failure_threshold };
        if self.run >= threshold {
            self.result = Some(well);
        }
    }
}

/// Key of the note about the failed pulls of a container.
pub(crate) fn pull_note_key(container: &str) -> String {
    format!("pull-failed.{container}")
}

/// A failed download as it outlives the agent.
#[derive(Serialize, Deserialize)]
struct PullNote {
    image: String,
    registry_unavailable: bool,
    message: String,
    at_ns: i64,
    count: u32,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Memory {
    pub(crate) pulls: BTreeMap<String, PullRecord>,
    pub(crate) retries: BTreeMap<Target, Retry>,
    /// The last verb that succeeded on a target, and when: the same is not
    /// asked for again at once, should its effect not be seen.
    pub(crate) settled: BTreeMap<Target, (Verb, Time)>,
    /// The sandbox attempt whose replacement has been announced.
    pub(crate) sandbox_announced: Option<u32>,
    pub(crate) mounted: bool,
    pub(crate) unmounted: bool,
    pub(crate) confirmed: bool,
    /// Hooks that have ended and whose end is not noted yet; a failed
    /// `postStart` with its waiting message.
    pub(crate) hooks: BTreeMap<(ContainerId, Hook), Result<(), String>>,
    /// Attempts being stopped: since when.
    pub(crate) stopping: BTreeMap<ContainerId, Time>,
    /// What probes have found, by container.
    pub(crate) probes: BTreeMap<(String, ProbeKind), ProbeRecord>,
    /// Attempts that ran when this machine first looked, and when that was.
    pub(crate) found: BTreeMap<ContainerId, Time>,
    pub(crate) ending: Option<Ending>,
    pub(crate) terminating_since: Option<Time>,
    /// It was already terminating when this machine first saw it.
    pub(crate) resumed: bool,
}

impl Memory {
    /// Forgets what it knows of attempts that are no more.
    pub(crate) fn keep(&mut self, attempts: &[ContainerView]) {
        let there = |id: &ContainerId| attempts.iter().any(|view| view.id == *id);
        self.hooks.retain(|(id, _), _| there(id));
        self.stopping.retain(|id, _| there(id));
        self.found.retain(|id, _| there(id));
        self.probes.retain(|_, record| there(&record.id));
    }

    pub(crate) fn retry(&self, target: &Target) -> Option<&Retry> {
        self.retries.get(target)
    }

    /// Takes note of a failed action and of when it may be tried again.
    pub(crate) fn failed(&mut self, target: &Target, failure: Failure, now: Time, seed: u64) {
        let count = self.retries.get(target).map_or(0, |r| r.count).saturating_add(1);
        let delay = Duration::from_secs(1 << (count - 1).min(4)).min(RETRY_DELAY_MAX);
        let next_at = now + delay + jitter(seed, count, delay / 2);
        self.retries.insert(target.clone(), Retry { failure, next_at, count });
    }

    /// What failed for want of a source is due now.
    pub(crate) fn sources_changed(&mut self, now: Time) {
        for retry in self.retries.values_mut() {
            if matches!(retry.failure.class, FailureClass::Mount | FailureClass::CreateContainerConfigError) {
                retry.next_at = retry.next_at.min(now);
            }
        }
    }

    /// Takes over what an agent before this one has noted of failed pulls, as
    /// far as nothing has come of the image since.
    pub(crate) fn resume_pulls(&mut self, desired: &Desired, seen: &Observation) {
        let Some(sandbox) = &seen.sandbox else { return };
        for container in desired.all() {
            let note = sandbox.notes.get(&pull_note_key(&container.name));
            let note: Option<PullNote> = note.and_then(|note| serde_json::from_str(note).ok());
            let Some(note) = note.filter(|note| note.image == container.image) else {
                continue;
            };
            let at = Time(note.at_ns);
            if seen
                .containers
                .iter()
                .any(|view| view.name == container.name && view.created_at >= at)
            {
                continue;
            }
            let class = if note.registry_unavailable {
                FailureClass::RegistryUnavailable
            } else {
                FailureClass::ErrImagePull
            };
            let failed = PullFailure::new(Failure::new(class, note.message), at, note.count.max(1));
            let record = PullRecord {
                image: note.image,
                result: Err(failed),
            };
            self.pulls.insert(container.name.clone(), record);
        }
    }

    /// Takes note of a failed pull.
    pub(crate) fn pull_failed(&mut self, container: &str, image: &str, failure: Failure, now: Time) {
        let before = self
            .pulls
            .get(container)
            .filter(|p| p.image == image)
            .and_then(|p| p.result.as_ref().err());
        let count = before.map_or(0, |f| f.count).saturating_add(1);
        let failed = PullFailure::new(failure, now, count);
        self.pulls.insert(
            container.to_owned(),
            PullRecord {
                image: image.to_owned(),
                result: Err(failed),
            },
        );
    }
}

/// A share of `most` that differs from pod to pod and from try to try.
fn jitter(seed: u64, count: u32, most: Duration) -> Duration {
    // One round of SplitMix64.
    let mut z = seed.wrapping_add(u64::from(count).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let share = (z ^ (z >> 31)) % 1_000;
    most.mul_f64(f64::from(u32::try_from(share).unwrap_or(0)) / 1_000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pulls_back_off_from_ten_seconds_to_five_minutes() {
        let (mut memory, now) = (Memory::default(), Time::from_secs(1_000));
        let mut delays = Vec::new();
        for _ in 0..7 {
            memory.pull_failed("a", "x:1", Failure::new(FailureClass::ErrImagePull, "no"), now);
            let next_at = memory.pulls["a"].result.as_ref().unwrap_err().next_at;
            delays.push(next_at.since(now).as_secs());
        }
        assert_eq!(delays, [10, 20, 40, 80, 160, 300, 300]);
        memory.pull_failed("a", "x:2", Failure::new(FailureClass::ErrImagePull, "no"), now);
        assert_eq!(memory.pulls["a"].result.as_ref().unwrap_err().count, 1, "another image starts anew");
    }

    #[test]
    fn a_failed_pull_outlives_the_agent_until_something_comes_of_it() {
        let pod = serde_json::json!({"metadata": {"name": "p", "namespace": "d", "uid": "u"},
            "spec": {"restartPolicy": "Always", "containers": [{"name": "a", "image": "x:1", "imagePullPolicy": "Always"}]}});
        let desired = Desired::parse(&serde_json::from_value(pod).unwrap(), &crate::NodeFacts::default()).unwrap();
        let now = Time::from_secs(1_000);
        let mut before = Memory::default();
        for _ in 0..3 {
            before.pull_failed("a", "x:1", Failure::new(FailureClass::ErrImagePull, "no \"such\" tag"), now);
        }
        let failed = before.pulls["a"].result.clone().unwrap_err();
        let resumed = |image: &str, attempts: &[i64]| {
            let notes = BTreeMap::from([(pull_note_key("a"), failed.note(image))]);
            let view = |at: &i64| {
                serde_json::from_value::<ContainerView>(serde_json::json!({"id": "i", "name": "a", "attempt": 0, "image": "x:1",
                    "image_id": "", "stop_signal": "", "created_at": at * 1_000_000_000, "state": "Created", "notes": {}}))
                .unwrap()
            };
            let seen = Observation {
                sequence: 1,
                sandbox: Some(api::node::SandboxView {
                    attempt: 0,
                    ready: true,
                    ips: Vec::new(),
                    created_at: now,
                    notes,
                }),
                containers: attempts.iter().map(view).collect(),
            };
            let mut after = Memory::default();
            after.resume_pulls(&desired, &seen);
            after.pulls.get("a").map(|record| record.result.clone().unwrap_err())
        };
        let again = resumed("x:1", &[]).unwrap();
        assert_eq!((again.next_at, again.count, again.at), (failed.next_at, 3, now));
        assert_eq!((again.message, again.class), (failed.message.clone(), failed.class));
        assert!(resumed("x:1", &[999]).is_some(), "an attempt of an older image");
        assert!(resumed("x:1", &[1_001]).is_none() && resumed("x:2", &[]).is_none());
    }

    #[test]
    fn a_changed_source_makes_only_what_waits_for_sources_due() {
        let (mut memory, now) = (Memory::default(), Time::from_secs(1_000));
        let config = Target::Container("a".to_owned());
        memory.failed(&Target::Volumes, Failure::new(FailureClass::Mount, "no"), now, 1);
        memory.failed(&config, Failure::new(FailureClass::CreateContainerConfigError, "no"), now, 1);
        memory.failed(&Target::Sandbox, Failure::new(FailureClass::Sandbox, "no"), now, 1);
        memory.sources_changed(now);
        assert_eq!(memory.retries[&Target::Volumes].next_at, now);
        assert_eq!(memory.retries[&config].next_at, now);
        assert!(memory.retries[&Target::Sandbox].next_at > now);
    }

    #[test]
    fn retries_stay_within_fifteen_seconds_and_differ_between_pods() {
        let now = Time::from_secs(0);
        let mut last = Vec::new();
        for seed in 0..20 {
            let mut memory = Memory::default();
            for _ in 0..40 {
                memory.failed(&Target::Sandbox, Failure::new(FailureClass::Sandbox, "no"), now, seed);
            }
            last.push(memory.retries[&Target::Sandbox].next_at);
        }
        assert!(
            last.iter()
                .all(|at| at.since(now) >= RETRY_DELAY_MAX && at.since(now) <= RETRY_DELAY_MAX * 3 / 2)
        );
        assert!(last.iter().any(|at| *at != last[0]));
    }
}
