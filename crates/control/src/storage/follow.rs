//! Watches of claims, volumes and classes, as one stream.

use std::collections::{BTreeMap, BTreeSet};

use api::typed::storage::StorageClass;
use api::typed::{PersistentVolume, PersistentVolumeClaim};
use futures::{Stream, StreamExt};
use kube::{Api, Client};
use kube_runtime::watcher::{Config, Event};

use super::{ClaimKey, Storage, key};
use crate::watch::watch;

/// Something a watch says.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "one is there at a time, and is taken apart at once")]
pub enum Change {
    /// Of claims.
    Claim(Event<PersistentVolumeClaim>),
    /// Of volumes.
    Volume(Event<PersistentVolume>),
    /// Of classes.
    Class(Event<StorageClass>),
}

/// Everything that happens to claims, volumes and classes.
pub fn follow(client: Client) -> impl Stream<Item = Change> + Send {
    let claims = watch(Api::<PersistentVolumeClaim>::all(client.clone()), Config::default());
    let volumes = watch(Api::<PersistentVolume>::all(client.clone()), Config::default());
    let classes = watch(Api::<StorageClass>::all(client), Config::default());
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

    /// Applies an event to what is known.
    pub fn apply<T>(&mut self, known: &mut BTreeMap<K, T>, event: Event<T>, key: fn(&T) -> K) {
        match event {
            Event::Apply(object) => drop(known.insert(key(&object), object)),
            Event::Delete(object) => drop(known.remove(&key(&object))),
            Event::Init => self.seen = Some(BTreeSet::new()),
            Event::InitApply(object) => {
                self.seen.get_or_insert_default().insert(key(&object));
                known.insert(key(&object), object);
            }
            Event::InitDone => {
                let seen = self.seen.take().unwrap_or_default();
                known.retain(|key, _| seen.contains(key));
                self.synced = true;
            }
        }
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
    /// Applies what a watch says.
    pub fn apply(&mut self, storage: &mut Storage, change: Change) {
        match change {
            Change::Claim(event) => self.claims.apply(&mut storage.claims, event, |claim| key(&claim.metadata)),
            Change::Volume(event) => self.volumes.apply(&mut storage.volumes, event, |volume| key(&volume.metadata).1),
            Change::Class(event) => self.classes.apply(&mut storage.classes, event, |class| key(&class.metadata).1),
        }
    }

    /// Whether everything was listed once: nothing is to be decided before.
    #[must_use]
    pub fn synced(&self) -> bool {
        self.claims.synced && self.volumes.synced && self.classes.synced
    }
}
