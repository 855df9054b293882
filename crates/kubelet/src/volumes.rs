//! The volumes of the pods on this node.
//!
//! Reading order: this file (what is set up, kept up to date, and torn down),
//! `volumes/payload.rs` (the content of ConfigMap, Secret, downward and
//! projected volumes, pure), `volumes/atomic.rs` (how content changes),
//! `volumes/directory.rs` (`emptyDir`, `hostPath`), `volumes/empty.rs`
//! (what an `emptyDir` is made of, pure), `volumes/owner.rs`
//! (`fsGroup`), `volumes/persistent.rs` (the volumes of claims), `volumes/image.rs`, `volumes/token.rs`, `volumes/mounts.rs` (what of it a container
//! gets, pure).
//!
//! ```text
//! <root>/disk/<uid>/<volume>      emptyDir, configMap; of a claim a link to its volume
//!        memory/                  one tmpfs for the node
//!        memory/<uid>/<volume>    secret, downwardAPI, projected
//! ```
//!
//! Secrets of all pods share one tmpfs: a mount per volume would be copied into
//! the mount namespace of every pod that starts after it. Nothing is remembered
//! that is not on disk: setting a volume up again finds what is there.

mod atomic;
pub(crate) mod directory;
mod empty;
pub(crate) mod image;
pub(crate) mod mounts;
mod owner;
mod payload;
mod persistent;
mod token;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api::quantity::Quantity;
use api::typed::{Pod, Volume, WireQuantity};
use api::{Time, Uid};
use lifecycle::Eviction;

use crate::execute::Ports;
use crate::sources::Reference;
use directory::Medium;
use payload::Around;
use token::Token;

/// What is wrong with content is looked at again after this long, should
/// nothing change before.
const CONTENT_RETRY: Duration = Duration::from_secs(60);

/// Which volumes to see to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// All: the pod is to start.
    All,
    /// Those that carry content: it may have changed.
    Content,
}

/// A volume that could not be set up: the message of its event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MountError(String);

impl MountError {
    fn set_up(volume: &str, why: &str) -> Self {
        Self(format!("MountVolume.SetUp failed for volume {volume:?} : {why}"))
    }
}

impl std::fmt::Display for MountError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// When a pod's content is to be looked at.
#[derive(Clone, Copy, Debug)]
struct Due {
    at: Time,
    /// How often somebody said that something changed.
    pokes: u64,
    /// The volumes are set up.
    is_up: bool,
}

#[derive(Debug)]
struct OfPod {
    /// Held while anything is done to the pod's volumes.
    gate: Arc<tokio::sync::Mutex<BTreeMap<(String, usize), Token>>>,
    due: Mutex<Due>,
}

impl OfPod {
    fn due(&self) -> MutexGuard<'_, Due> {
        // Plain numbers: a panic cannot leave them half-changed.
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The volumes of every pod on this node.
#[derive(Debug)]
pub struct Volumes {
    root: PathBuf,
    own: Arc<directory::Own>,
    pods: Mutex<BTreeMap<Uid, Arc<OfPod>>>,
}

impl Volumes {
    /// Opens the directory of all volumes; makes it where it is missing. `data_dir`
    /// is the platform's own: no pod mounts it but `local`, where it keeps the
    /// persistent volumes of this node.
    ///
    /// # Errors
    /// When it cannot be made, or its tmpfs cannot be mounted.
    pub fn open(root: PathBuf, data_dir: &Path, local: &Path) -> io::Result<Self> {
        let this = Self {
            root,
            own: Arc::new(directory::Own::new(data_dir, local)?),
            pods: Mutex::default(),
        };
        directory::make(&this.disk())?;
        let memory = this.memory();
        directory::make(&memory)?;
        if !directory::is_mount_point(&memory)? {
            directory::mount_memory(&memory, "mode=0700")?;
        }
        Ok(this)
    }

    /// Removes every volume of every pod, and what is mounted in them.
    ///
    /// # Errors
    /// What could not be unmounted or removed.
    pub fn purge(root: &Path) -> io::Result<()> {
        directory::remove(root)
    }

    fn disk(&self) -> PathBuf {
        self.root.join("disk")
    }

    fn memory(&self) -> PathBuf {
        self.root.join("memory")
    }

    /// Pods that have a directory here.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn pods(&self) -> io::Result<BTreeSet<Uid>> {
        let mut found = BTreeSet::new();
        for root in [self.disk(), self.memory()] {
            for entry in std::fs::read_dir(root)? {
                found.extend(entry?.file_name().to_str().and_then(|name| name.parse::<Uid>().ok()));
            }
        }
        Ok(found)
    }

    fn of(&self, uid: &Uid) -> Arc<OfPod> {
        let new = || {
            Arc::new(OfPod {
                gate: Arc::default(),
                due: Mutex::new(Due {
                    at: Time::FAR_FUTURE,
                    pokes: 0,
                    is_up: false,
                }),
            })
        };
        // A panic while it was held cannot have left a half-made entry.
        let mut pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        pods.entry(uid.clone()).or_insert_with(new).clone()
    }

    /// When the content of a pod's volumes is to be looked at again.
    pub(crate) fn due(&self, uid: &Uid) -> Time {
        let due = *self.of(uid).due();
        if due.is_up { due.at } else { Time::FAR_FUTURE }
    }

    /// Something the pod's volumes carry may have changed.
    pub(crate) fn poke(&self, uid: &Uid, now: Time) {
        let of = self.of(uid);
        let mut due = of.due();
        due.pokes = due.pokes.wrapping_add(1);
        due.at = now;
    }

    /// Where a volume is on the node; `None` for a kind there is not.
    pub(crate) fn place(&self, uid: &Uid, volume: &Volume) -> Option<PathBuf> {
        if let Some(host) = &volume.host_path {
            return Some(PathBuf::from(&host.path));
        }
        if volume.persistent_volume_claim.is_some() {
            return persistent::place(&self.link(uid, volume));
        }
        let on_disk = volume.empty_dir.is_some() || volume.config_map.is_some();
        let in_memory = volume.secret.is_some() || volume.downward_api.is_some() || volume.projected.is_some();
        let root = match (on_disk, in_memory) {
            (true, _) => self.disk(),
            (false, true) => self.memory(),
            (false, false) => return None,
        };
        Some(root.join(uid.as_str()).join(&volume.name))
    }

    /// The same, with what a mount of it must not reach.
    pub(crate) fn source(&self, uid: &Uid, volume: &Volume) -> Option<mounts::Source> {
        if let Some(image) = &volume.image {
            return Some(mounts::Source {
                path: PathBuf::new(),
                image: Some(image.reference.clone().unwrap_or_default()),
                outside: None,
            });
        }
        let path = self.place(uid, volume)?;
        let foreign = volume.host_path.is_some() || (volume.persistent_volume_claim.is_some() && !self.own.is_local(&path));
        let outside = foreign.then(|| self.own.data_dir().to_path_buf());
        Some(mounts::Source {
            path,
            image: None,
            outside,
        })
    }

    /// What leads to the volume of a claim.
    fn link(&self, uid: &Uid, volume: &Volume) -> PathBuf {
        self.disk().join(uid.as_str()).join(&volume.name)
    }

    /// Makes the directories that hold a pod's volumes.
    ///
    /// # Errors
    /// Which could not be made, and why.
    pub(crate) async fn make_directories(&self, uid: &Uid) -> Result<(), String> {
        let guard = self.of(uid).gate.clone().lock_owned().await;
        let places = [self.disk(), self.memory()].map(|root| root.join(uid.as_str()));
        let work = tokio::task::spawn_blocking(move || {
            let _guard = guard;
            let made = |place: &PathBuf| directory::own(place).map_err(|error| format!("mkdir {}: {error}", place.display()));
            places.iter().try_for_each(made)
        });
        work.await.map_err(|ended| format!("internal error: {ended}"))?
    }

    /// Sets volumes up, or brings their content up to date.
    ///
    /// # Errors
    /// Every volume that failed; the others are as they should be.
    pub(crate) async fn set_up(&self, ports: &Ports, uid: &Uid, pod: &Arc<Pod>, scope: Scope) -> Result<(), Vec<MountError>> {
        let of = self.of(uid);
        let mut tokens = of.gate.clone().lock_owned().await;
        let now = ports.clock.now();
        let pokes = {
            let mut due = of.due();
            if scope == Scope::Content && !due.is_up {
                return Ok(()); // torn down meanwhile
            }
            due.at = Time::FAR_FUTURE;
            due.pokes
        };
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let found = ports.sources.find(namespace, references(pod)).await;
        let issued = token::renew(&ports.client, uid, pod, &mut tokens, now).await;
        let next = tokens.values().map(|token| token.refresh_at).min().unwrap_or(Time::FAR_FUTURE);
        let claimed = match scope {
            Scope::All => persistent::find(ports, pod).await,
            Scope::Content => BTreeMap::new(),
        };
        let mut errors = Vec::new();
        let allocatable = ports.allocatable();
        let plans: Vec<_> = volumes(pod)
            .iter()
            .map(|volume| match claimed.get(&volume.name) {
                Some(Err(error)) => (String::new(), Err(error.clone())),
                Some(Ok(claimed)) => {
                    let link = self.link(uid, volume);
                    let work = Work::Persistent {
                        link,
                        claimed: claimed.clone(),
                    };
                    (claimed.volume.clone(), Ok(work))
                }
                None => {
                    let plan = self.plan(uid, pod, volume, scope, &found, &issued, &allocatable);
                    let plan = plan.map_err(|why| MountError::set_up(&volume.name, &why));
                    (volume.name.clone(), plan)
                }
            })
            .collect();
        let (group, stamp, own) = (payload::group(pod), stamp(now), self.own.clone());
        // The guard goes along: work that is given up still ends before the next begins.
        let work = tokio::task::spawn_blocking(move || {
            let _tokens = tokens;
            let mut errors = Vec::new();
            for (volume, plan) in plans {
                let done = plan.and_then(|plan| match plan {
                    Work::Persistent { link, claimed } => claimed.set_up(&link, group, &own),
                    other => other
                        .carry_out(group, &stamp, &own)
                        .map_err(|why| MountError::set_up(&volume, &why)),
                });
                errors.extend(done.err());
            }
            errors
        });
        errors.extend(work.await.unwrap_or_else(|ended| {
            let why = format!("internal error: {ended}");
            vec![MountError::set_up("", &why)]
        }));
        let mut due = of.due();
        due.is_up |= errors.is_empty();
        due.at = if due.pokes != pokes {
            now
        } else if errors.is_empty() {
            next
        } else {
            next.min(now + CONTENT_RETRY)
        };
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    #[expect(clippy::too_many_arguments, reason = "one place turns everything known into work")]
    fn plan(
        &self,
        uid: &Uid,
        pod: &Pod,
        volume: &Volume,
        scope: Scope,
        found: &crate::sources::Found,
        issued: &BTreeMap<(String, usize), Result<String, String>>,
        allocatable: &BTreeMap<String, WireQuantity>,
    ) -> Result<Work, String> {
        if volume.persistent_volume_claim.is_some() || volume.image.is_some() {
            return Ok(Work::Nothing); // what a claim or an image has is not content
        }
        let place = self.place(uid, volume).ok_or("this kind of volume is not supported")?;
        let tokens = payload::tokens(volume)
            .map(|(index, _)| {
                let issued = issued.get(&(volume.name.clone(), index)).cloned();
                (index, issued.unwrap_or_else(|| Err("it was not asked for".to_owned())))
            })
            .collect();
        let around = Around {
            pod,
            found,
            allocatable,
            tokens: &tokens,
        };
        if let Some(payload) = payload::of(volume, &around)? {
            return Ok(Work::Content { place, payload });
        }
        if scope == Scope::Content {
            return Ok(Work::Nothing);
        }
        if let Some(empty) = &volume.empty_dir {
            let medium = empty::medium(pod, empty, allocatable)?;
            let shared = empty::is_shared(pod, &volume.name);
            return Ok(Work::Empty { place, medium, shared });
        }
        let kind = volume.host_path.as_ref().and_then(|host| host.type_.clone()).unwrap_or_default();
        Ok(Work::Host { place, kind })
    }

    /// Removes all of a pod's volumes. What is gone is success.
    ///
    /// # Errors
    /// What could not be unmounted or removed.
    pub(crate) async fn tear_down(&self, uid: &Uid) -> Result<(), String> {
        let of = self.of(uid);
        let guard = of.gate.clone().lock_owned().await;
        of.due().is_up = false;
        let places = [self.disk(), self.memory()].map(|root| root.join(uid.as_str()));
        let work = tokio::task::spawn_blocking(move || {
            let _guard = guard;
            places.iter().try_for_each(|place| directory::remove(place))
        });
        let done = work.await.map_err(|ended| format!("internal error: {ended}"))?;
        done.map_err(|error| format!("UnmountVolume.TearDown failed: {error}"))
    }

    /// The pod is no more.
    pub(crate) fn forget(&self, uid: &Uid) {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }

    /// Whether a pod has written more into a volume than the volume may hold.
    /// Source: upstream `eviction_manager.go`, `emptyDirLimitEviction`.
    pub(crate) async fn overfull(&self, uid: &Uid, pod: &Pod) -> Option<Eviction> {
        let mut limited = Vec::new();
        for volume in volumes(pod) {
            let limit = volume.empty_dir.as_ref().and_then(|empty| empty.size_limit.as_ref());
            let Some((limit, bytes)) = limit.and_then(|wire| Some((wire, Quantity::try_from(wire).ok()?.bytes()))) else {
                continue;
            };
            if bytes > 0 {
                limited.push((volume.name.clone(), self.place(uid, volume)?, limit.0.clone(), bytes.unsigned_abs()));
            }
        }
        if limited.is_empty() {
            return None;
        }
        let measured = tokio::task::spawn_blocking(move || {
            limited
                .into_iter()
                .find(|(_, place, _, bytes)| directory::usage_bytes(place).is_ok_and(|used| used > *bytes))
        });
        let (name, _, limit, _) = measured.await.ok()??;
        Some(Eviction {
            reason: "Evicted".to_owned(),
            message: format!("Usage of EmptyDir volume {name:?} exceeds the limit {limit:?}. "),
            grace: None,
        })
    }
}

fn volumes(pod: &Pod) -> &[Volume] {
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref());
    volumes.unwrap_or_default()
}

/// Every object a pod's volumes take their content from.
#[must_use]
pub fn references(pod: &Pod) -> BTreeSet<Reference> {
    volumes(pod).iter().flat_map(payload::references).collect()
}

/// Name of a new version of a volume's content.
fn stamp(now: Time) -> String {
    let nanos = now.0.rem_euclid(1_000_000_000);
    let seconds = jiff::Timestamp::from_second(now.0.div_euclid(1_000_000_000)).unwrap_or_default();
    format!("{}.{nanos:09}", seconds.strftime("%Y_%m_%d_%H_%M_%S"))
}

/// What is to be done for one volume.
enum Work {
    Nothing,
    Content { place: PathBuf, payload: payload::Payload },
    Empty { place: PathBuf, medium: Medium, shared: bool },
    Host { place: PathBuf, kind: String },
    Persistent { link: PathBuf, claimed: persistent::Claimed },
}

impl Work {
    fn carry_out(self, group: Option<u32>, stamp: &str, own: &directory::Own) -> Result<(), String> {
        match self {
            // The latter has its own words for what goes wrong.
            Self::Nothing | Self::Persistent { .. } => Ok(()),
            Self::Content { place, payload } => {
                let made = directory::empty(&place, Medium::Disk, group);
                let written = made.and_then(|()| atomic::write(&place, &payload, group, stamp));
                written.map(drop).map_err(|error| error.to_string())
            }
            Self::Empty { place, medium, shared } => {
                let made = directory::empty(&place, medium, group);
                let made = made.and_then(|()| if shared { directory::share(&place) } else { Ok(()) });
                made.map_err(|error| error.to_string())
            }
            Self::Host { place, kind } => own.keep_out(&place).and_then(|()| directory::host_path(&place, &kind)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_named_by_its_time() {
        assert_eq!(stamp(Time(1_700_000_000_000_000_042)), "2023_11_14_22_13_20.000000042");
    }
}
