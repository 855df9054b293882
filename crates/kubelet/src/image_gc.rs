//! Removes images nobody uses when their disk fills up, oldest use first.
//!
//! Images that were imported stay: nobody could give them again. Upstream calls
//! such images pinned.
//!
//! When an image was last used is known since this agent has run: what it
//! found when it started counts as old, as upstream has it.
//!
//! Source: upstream `pkg/kubelet/images/image_gc_manager.go`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use api::Time;
use api::typed::Pod;
use runtime::NodeImage;
use tokio_util::sync::CancellationToken;

use crate::execute::Ports;
use crate::node_events::NodeEvents;

/// How often images are looked at. Source: upstream `ImageGCPeriod`.
const LOOK_EVERY: Duration = Duration::from_secs(300);

/// When images are removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// From this much of the disk in use on, in percent; 100 turns it off.
    pub high_percent: u8,
    /// Until no more than this is.
    pub low_percent: u8,
    /// Images known for a shorter time stay.
    pub min_age: Duration,
}

/// Flags that make no sense together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSettings {
    /// Not a percentage.
    #[error("invalid configuration: {name} ({flag}) {percent} must be between 0 and 100, inclusive")]
    Percent {
        /// Name in the kubelet's configuration.
        name: &'static str,
        /// The flag.
        flag: &'static str,
        /// Its value.
        percent: i32,
    },
    /// The low threshold is not the lower one.
    #[error(
        "invalid configuration: imageGCLowThresholdPercent (--image-gc-low-threshold) {low} must be less than imageGCHighThresholdPercent (--image-gc-high-threshold) {high}"
    )]
    Order {
        /// `--image-gc-low-threshold`.
        low: i32,
        /// `--image-gc-high-threshold`.
        high: i32,
    },
    /// Not a duration.
    #[error("--minimum-image-ttl-duration: {0:?}: the value must be a duration such as 2m0s")]
    Age(String),
}

impl Settings {
    /// Reads the kubelet's flags of these names.
    ///
    /// # Errors
    /// In the words of upstream `ValidateKubeletConfiguration`.
    pub fn parse(high: i32, low: i32, min_age: &str) -> Result<Self, InvalidSettings> {
        let percent = |name, flag, percent: i32| {
            let valid = u8::try_from(percent).ok().filter(|percent| *percent <= 100);
            valid.ok_or(InvalidSettings::Percent { name, flag, percent })
        };
        let high_percent = percent("imageGCHighThresholdPercent", "--image-gc-high-threshold", high)?;
        let low_percent = percent("imageGCLowThresholdPercent", "--image-gc-low-threshold", low)?;
        if low >= high {
            return Err(InvalidSettings::Order { low, high });
        }
        Ok(Self {
            high_percent,
            low_percent,
            min_age: lifecycle::evict::duration(min_age).ok_or_else(|| InvalidSettings::Age(min_age.to_owned()))?,
        })
    }

    /// Bytes that are to become free, if the disk is as full as that.
    fn excess_bytes(&self, available: u64, capacity: u64) -> Option<u64> {
        let free_percent = u128::from(available) * 100 / u128::from(capacity.max(1));
        let used_percent = 100_u128.saturating_sub(free_percent);
        if self.high_percent == 100 || used_percent < u128::from(self.high_percent) {
            return None;
        }
        let wanted = u128::from(capacity) * u128::from(100 - self.low_percent) / 100;
        Some(u64::try_from(wanted).unwrap_or(u64::MAX).saturating_sub(available))
    }
}

#[derive(Clone, Copy, Debug)]
struct Record {
    first_seen: Time,
    last_used: Option<Time>,
    size_bytes: u64,
}

/// What is known of the images that are here.
#[derive(Debug, Default)]
struct Known {
    records: BTreeMap<String, Record>,
    looked: bool,
}

impl Known {
    /// Takes in what is here now; `wanted` are names pods have for images.
    fn see(&mut self, now: Time, images: &[NodeImage], wanted: &BTreeSet<String>) {
        let first_seen = if std::mem::replace(&mut self.looked, true) { now } else { Time(0) };
        let fetched = || images.iter().filter(|known| known.fetched);
        for NodeImage { image, in_use, .. } in fetched() {
            let record = self.records.entry(image.id.clone()).or_insert(Record {
                first_seen,
                last_used: None,
                size_bytes: 0,
            });
            record.size_bytes = image.size_bytes;
            let mut names = image.tags.iter().chain(&image.digests).chain([&image.id]);
            if *in_use || names.any(|name| wanted.contains(name)) {
                record.last_used = Some(now);
            }
        }
        self.records.retain(|id, _| fetched().any(|known| known.image.id == *id));
    }

    /// What may go, the longest unused first.
    fn unused(&self, now: Time, min_age: Duration) -> Vec<(String, u64)> {
        let may_go = |record: &&Record| record.last_used != Some(now) && now.since(record.first_seen) >= min_age;
        let mut unused: Vec<(&String, &Record)> = self.records.iter().filter(|(_, record)| may_go(record)).collect();
        unused.sort_by_key(|(_, record)| (record.last_used, record.first_seen));
        unused.into_iter().map(|(id, record)| (id.clone(), record.size_bytes)).collect()
    }
}

/// Whether the last look failed: the first time it may be that pods have just
/// come, and nothing is told.
///
/// Source: upstream `kubelet.go`, `StartGarbageCollection`.
#[derive(Debug, Default)]
struct Failures {
    failed: bool,
}

impl Failures {
    /// The message of an `ImageGCFailed`, if this look is worth one.
    fn tell_of(&mut self, looked: Result<(), String>) -> Option<String> {
        let failed_before = std::mem::replace(&mut self.failed, looked.is_err());
        looked.err().filter(|_| failed_before)
    }
}

/// Looks now and every few minutes until `shutdown`.
pub(crate) async fn run(ports: Ports, settings: Settings, image_fs: PathBuf, events: NodeEvents, shutdown: CancellationToken) {
    let mut known = Known::default();
    let mut failures = Failures::default();
    loop {
        let looked = look(&ports, &settings, &image_fs, &events, &mut known).await;
        if let Err(error) = &looked {
            tracing::warn!(error = %error, "images were not collected");
        }
        if let Some(error) = failures.tell_of(looked) {
            events.warn("ImageGCFailed", error);
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

async fn look(ports: &Ports, settings: &Settings, image_fs: &Path, events: &NodeEvents, known: &mut Known) -> Result<(), String> {
    let now = ports.clock.now();
    let images = ports.runtime.images().await.map_err(|error| error.to_string())?;
    known.see(now, &images, &wanted(ports));
    let disk = rustix::fs::statvfs(image_fs).map_err(|error| format!("failed to get image stats: {error}"))?;
    let (available, capacity) = (disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize);
    if capacity == 0 {
        let error = format!("invalid capacity {capacity} on image filesystem");
        events.warn("InvalidDiskCapacity", error.clone());
        return Err(error);
    }
    let Some(to_free) = settings.excess_bytes(available, capacity) else {
        return Ok(());
    };
    let mut freed = 0_u64;
    for (id, size_bytes) in known.unused(now, settings.min_age) {
        if freed >= to_free {
            break;
        }
        match ports.runtime.remove_image(&id).await {
            Ok(_) => {
                tracing::info!(
                    image = id,
                    size_bytes,
                    action = "remove",
                    because = "disk-usage",
                    "an unused image was removed"
                );
                freed = freed.saturating_add(size_bytes);
            }
            Err(error) => tracing::warn!(image = id, error = %error, "an unused image was not removed"),
        }
    }
    if freed < to_free {
        let error = format!(
            "Failed to garbage collect required amount of images. Attempted to free {to_free} bytes, but only found {freed} bytes eligible to free."
        );
        events.warn("FreeDiskSpaceFailed", error.clone());
        return Err(error);
    }
    Ok(())
}

/// Names of the images that pods of this node are to run, also those of which
/// nothing was made yet.
fn wanted(ports: &Ports) -> BTreeSet<String> {
    let images = |pod: &Pod| -> Vec<String> {
        let Some(spec) = &pod.spec else { return Vec::new() };
        let all = spec.init_containers.iter().flatten().chain(&spec.containers);
        let mounted = spec
            .volumes
            .iter()
            .flatten()
            .filter_map(|volume| volume.image.as_ref()?.reference.clone());
        all.filter_map(|container| container.image.clone()).chain(mounted).collect()
    };
    let known = ports.pods.all();
    let names = known.iter().flat_map(|(_, known)| images(&known.pod));
    let normal = |name: String| {
        name.parse::<runtime::image::Reference>()
            .ok()
            .map(|reference| reference.to_string())
    };
    names.filter_map(normal).collect()
}

#[cfg(test)]
mod tests {
    use runtime::Image;

    use super::*;

    fn settings(high: i32, low: i32) -> Result<Settings, InvalidSettings> {
        Settings::parse(high, low, "2m0s")
    }

    #[test]
    fn the_second_failure_in_a_row_is_told() {
        let mut failures = Failures::default();
        let mut told = |looked: Result<(), &str>| failures.tell_of(looked.map_err(str::to_owned));
        assert_eq!(told(Err("a")), None);
        assert_eq!(told(Err("b")).as_deref(), Some("b"));
        assert_eq!(told(Err("c")).as_deref(), Some("c"));
        assert_eq!(told(Ok(())), None);
        assert_eq!(told(Err("d")), None, "it went well in between");
    }

    #[test]
    fn flags_are_checked_in_upstreams_words() {
        assert_eq!(settings(85, 80).unwrap().min_age, Duration::from_secs(120));
        let said = |high, low| settings(high, low).unwrap_err().to_string();
        assert_eq!(
            said(101, 80),
            "invalid configuration: imageGCHighThresholdPercent (--image-gc-high-threshold) 101 must be between 0 and 100, inclusive"
        );
        assert!(said(80, 80).ends_with("80 must be less than imageGCHighThresholdPercent (--image-gc-high-threshold) 80"));
        assert!(Settings::parse(2, 1, "soon").is_err());
    }

    #[test]
    fn a_disk_is_emptied_from_the_high_mark_to_the_low_one() {
        let settings = settings(85, 80).unwrap();
        assert_eq!(settings.excess_bytes(16, 100), None);
        assert_eq!(settings.excess_bytes(15, 100), Some(5));
        assert_eq!(settings.excess_bytes(0, 1000), Some(200));
        let off = Settings {
            high_percent: 100,
            ..settings
        };
        assert_eq!(off.excess_bytes(0, 1000), None);
    }

    #[test]
    fn what_was_not_used_for_longest_goes_first_and_what_is_used_or_new_stays() {
        let image = |id: &str, in_use: bool| NodeImage {
            image: Image {
                id: id.to_owned(),
                tags: vec![format!("docker.io/library/{id}:1")],
                digests: Vec::new(),
                size_bytes: 10,
            },
            in_use,
            fetched: id != "imported",
        };
        let (mut known, at) = (Known::default(), Time::from_secs);
        let none = BTreeSet::new();
        known.see(
            at(1000),
            &[
                image("a", false),
                image("b", true),
                image("c", true),
                image("d", false),
                image("imported", false),
            ],
            &none,
        );
        known.see(
            at(1300),
            &[
                image("a", false),
                image("b", false),
                image("c", true),
                image("d", false),
                image("e", false),
            ],
            &none,
        );
        let wanted = BTreeSet::from(["docker.io/library/d:1".to_owned()]);
        let now = at(1600);
        known.see(
            now,
            &[
                image("a", false),
                image("b", false),
                image("c", false),
                image("d", false),
                image("e", false),
                image("f", false),
            ],
            &wanted,
        );
        let ids = |age: u64| -> Vec<String> { known.unused(now, Duration::from_secs(age)).into_iter().map(|(id, _)| id).collect() };
        assert_eq!(ids(120), ["a", "e", "b", "c"]);
        assert_eq!(ids(0), ["a", "e", "f", "b", "c"]);
        assert_eq!(ids(400), ["a", "b", "c"]);
    }
}
