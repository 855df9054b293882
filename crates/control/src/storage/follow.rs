//! Watches of claims, volumes and classes, as one stream.

use std::collections::{BTreeMap, BTreeSet};

use api::typed::storage::StorageClass;
use api::typed::{PersistentVolume, PersistentVolumeClaim};
use futures::{Stream, StreamExt};
use kube::{Api, Client};
use kube_runtime::WatchStreamExt;
use kube_runtime::watcher::{self, Event, watcher};

use super::{ClaimKey, Storage, key};

/// Something a watch says.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "one is there at a time, and is taken apart at once")]
pub enum Change {
    /// Of claims.
    Claim(watcher::Result<Event<PersistentVolumeClaim>>),
    /// Of volumes.
    Volume(watcher::Result<Event<PersistentVolume>>),
    /// Of classes.
    Class(watcher::Result<Event<StorageClass>>),
}

/// Everything that happens to claims, volumes and classes.
pub fn follow(client: Client) -> impl Stream<Item = Change> + Send {
    let config = watcher::Config::default;
    let claims = watcher(Api::<PersistentVolumeClaim>::all(client.clone()), config()).default_backoff();
    let volumes = watcher(Api::<PersistentVolume>::all(client.clone()), config()).default_backoff();
    let classes = watcher(Api::<StorageClass>::all(client), config()).default_backoff();
    let changes = [
        claims.map(Change::Claim).boxed(),
        volumes.map(Change::Volume).boxed(),
        classes.map(Change::Class).boxed(),
    ];
    futures::stream::select_all(changes)
}

/// What a watch has listed so far, and whether it ever ended a list.
#[derive(Debug, Default)]
pub struct Listing<K> {
    seen: Option<BTreeSet<K>>,
    synced: bool,
}

impl<K: Ord + Clone> Listing<K> {
    /// Whether everything was listed once.
    #[must_use]
    pub fn synced(&self) -> bool {
        self.synced
    }

    /// Applies an event to what is known; false when it was an error.
    pub fn apply<T>(
        &mut self,
        known: &mut BTreeMap<K, T>,
        event: watcher::Result<Event<T>>,
        resource: &'static str,
        key: fn(&T) -> K,
    ) -> bool {
        match event {
            Ok(Event::Apply(object)) => drop(known.insert(key(&object), object)),
            Ok(Event::Delete(object)) => drop(known.remove(&key(&object))),
            Ok(Event::Init) => self.seen = Some(BTreeSet::new()),
            Ok(Event::InitApply(object)) => {
                self.seen.get_or_insert_default().insert(key(&object));
                known.insert(key(&object), object);
            }
            Ok(Event::InitDone) => {
                let seen = self.seen.take().unwrap_or_default();
                known.retain(|key, _| seen.contains(key));
                self.synced = true;
            }
            Err(error) => {
                tracing::warn!(resource, error = %error, "watch failed; it is tried again");
                return false;
            }
        }
        true
    }
}

/// How far everything is listed.
#[derive(Debug, Default)]
pub struct Listings {
    claims: Listing<ClaimKey>,
    volumes: Listing<String>,
    classes: Listing<String>,
}

impl Listings {
    /// Applies what a watch says; false when it was an error.
    pub fn apply(&mut self, storage: &mut Storage, change: Change) -> bool {
        match change {
            Change::Claim(event) => self
                .claims
                .apply(&mut storage.claims, event, "persistentvolumeclaims", |claim| key(&claim.metadata)),
            Change::Volume(event) => self
                .volumes
                .apply(&mut storage.volumes, event, "persistentvolumes", |volume| key(&volume.metadata).1),
            Change::Class(event) => self
                .classes
                .apply(&mut storage.classes, event, "storageclasses", |class| key(&class.metadata).1),
        }
    }

    /// Whether everything was listed once: nothing is to be decided before.
    #[must_use]
    pub fn synced(&self) -> bool {
        self.claims.synced && self.volumes.synced && self.classes.synced
    }
}
