//! Joins claims and volumes, and keeps both while they are used.
//!
//! Reading order: [`crate::storage`] (which volume would do), [`decide`] (what
//! is to be written, pure), this file (watches in, writes out).
//!
//! Volumes are made and removed by provisioners, which are other programs, or
//! by people: this controller only says for whom one is to be made, and which
//! is released. Source: persistent volumes page; upstream
//! `pkg/controller/volume/persistentvolume`.

pub mod decide;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use api::Time;
use api::typed::{PersistentVolume, PersistentVolumeClaim, Pod};
use client::recorder::Reporter;
use client::{RecordedEvent, Recorder};
use futures::StreamExt;
use jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use kube_runtime::watcher::{Config, Event};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::decide::{Step, Told, decide};
use crate::storage::{self, ClaimKey, Listing, Listings, Storage, key};
use crate::watch::watch;

const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// After a write that failed, what is seen is looked at again.
const RETRY: Duration = Duration::from_secs(1);
/// Looked at without a change: what was told is told again.
const RESYNC: Duration = Duration::from_secs(300);

struct Binder {
    client: Client,
    recorder: Recorder,
    storage: Storage,
    /// Those that name a claim, by UID.
    pods: BTreeMap<String, Using>,
    /// What was told last of whom, by UID.
    told: BTreeMap<String, String>,
}

/// Joins claims and volumes until `shutdown`. A call that is dropped leaves a
/// write that is under way to the API server; the next run sees what became of it.
pub async fn run(client: Client, shutdown: CancellationToken) {
    let reporter = Reporter {
        component: "persistentvolume-controller".to_owned(),
        host: String::new(),
    };
    let (recorder, recording) = Recorder::new(client.clone(), reporter, shutdown.clone());
    let mut side = JoinSet::new();
    side.spawn(recording);
    let mut binder = Binder {
        client: client.clone(),
        recorder,
        storage: Storage::default(),
        pods: BTreeMap::new(),
        told: BTreeMap::new(),
    };
    binder.follow(client, &shutdown).await;
    drop(binder);
    while side.join_next().await.is_some() {}
}

impl Binder {
    async fn follow(&mut self, client: Client, shutdown: &CancellationToken) {
        let mut changes = storage::follow(client.clone()).boxed();
        let mut pods = watch(Api::<Pod>::all(client), Config::default()).boxed();
        let mut listings = Listings::default();
        let mut of_pods = Listing::default();
        let mut wait = RESYNC;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                Some(change) = changes.next() => listings.apply(&mut self.storage, change),
                Some(event) = pods.next() => {
                    of_pods.apply(&mut self.pods, map(event, uses), |using| using.uid.clone());
                    // Most pods use no claim.
                    self.pods.retain(|_, using| !using.claims.is_empty());
                }
                () = tokio::time::sleep(wait) => {
                    if wait == RESYNC {
                        self.told.clear();
                    }
                }
            }
            wait = RESYNC;
            if listings.synced() && of_pods.synced() && !self.work().await {
                wait = RETRY;
            }
        }
    }

    /// Does what is to be done; false when something of it failed.
    async fn work(&mut self) -> bool {
        let used: BTreeSet<ClaimKey> = self
            .pods
            .values()
            .filter(|using| using.now)
            .flat_map(|using| using.claims.iter().cloned())
            .collect();
        let mut well = true;
        for step in decide(&self.storage, &used) {
            if let Step::Tell(told) = step {
                self.tell(*told);
                continue;
            }
            let done = tokio::time::timeout(REQUEST_TIMEOUT, self.carry_out(step)).await;
            match done {
                Ok(Ok(())) => {}
                // Somebody was faster: the change brings the next look.
                Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => {}
                Ok(Err(error)) => {
                    tracing::warn!(error = %error, "a claim or a volume was not written; it is tried again");
                    well = false;
                }
                Err(_) => {
                    tracing::warn!("a claim or a volume was not written within {REQUEST_TIMEOUT:?}; it is tried again");
                    well = false;
                }
            }
        }
        well
    }

    async fn carry_out(&self, step: Step) -> Result<(), kube::Error> {
        let params = PostParams::default();
        let volumes = || Api::<PersistentVolume>::all(self.client.clone());
        match step {
            Step::Volume(volume) => volumes().replace(&key(&volume.metadata).1, &params, &volume).await.map(drop),
            Step::VolumeStatus(volume) => volumes()
                .replace_status(&key(&volume.metadata).1, &params, &*volume)
                .await
                .map(drop),
            Step::Release(volume) => {
                if self.has_claim(&volume).await? {
                    return Ok(()); // its watch will say so
                }
                volumes()
                    .replace_status(&key(&volume.metadata).1, &params, &*volume)
                    .await
                    .map(drop)
            }
            Step::Claim(claim) => {
                let (namespace, name) = key(&claim.metadata);
                let claims = Api::<PersistentVolumeClaim>::namespaced(self.client.clone(), &namespace);
                claims.replace(&name, &params, &claim).await.map(drop)
            }
            Step::ClaimStatus(claim) => {
                let (namespace, name) = key(&claim.metadata);
                let claims = Api::<PersistentVolumeClaim>::namespaced(self.client.clone(), &namespace);
                claims.replace_status(&name, &params, &*claim).await.map(drop)
            }
            Step::Tell(told) => {
                self.record(*told);
                Ok(())
            }
        }
    }

    /// Whether the claim of a volume is there, asked of the API server itself:
    /// data hangs on the answer.
    async fn has_claim(&self, volume: &PersistentVolume) -> Result<bool, kube::Error> {
        let Some(reference) = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()) else {
            return Ok(false);
        };
        let namespace = reference.namespace.as_deref().unwrap_or_default();
        let claims = Api::<PersistentVolumeClaim>::namespaced(self.client.clone(), namespace);
        let found = claims.get_opt(reference.name.as_deref().unwrap_or_default()).await?;
        Ok(found.is_some_and(|claim| {
            let chosen = storage::volume_name(&claim);
            claim.metadata.uid == reference.uid && (chosen.is_empty() || Some(chosen) == volume.metadata.name.as_deref())
        }))
    }

    /// Tells a thing once, until something else is told or [`RESYNC`] passes.
    fn tell(&mut self, told: Told) {
        let uid = told.about.uid.clone().unwrap_or_default();
        let text = format!("{} {}", told.reason, told.message);
        if self.told.get(&uid) == Some(&text) {
            return;
        }
        let known: BTreeSet<&String> = (self.storage.claims.values().filter_map(|claim| claim.metadata.uid.as_ref()))
            .chain(self.storage.volumes.values().filter_map(|volume| volume.metadata.uid.as_ref()))
            .collect();
        self.told.retain(|uid, _| known.contains(uid));
        self.told.insert(uid, text);
        self.record(told);
    }

    fn record(&self, told: Told) {
        self.recorder.record(RecordedEvent {
            involved: told.about,
            kind: told.kind,
            reason: told.reason.to_owned(),
            message: told.message,
            at: Time::from(Timestamp::now()),
        });
    }
}

/// What a pod has to do with claims.
#[derive(Debug)]
struct Using {
    uid: String,
    /// It has begun and has not ended.
    now: bool,
    claims: Vec<ClaimKey>,
}

fn uses(pod: Pod) -> Using {
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let claims = api::pods::claims(&pod).map(|claim| (namespace.clone(), claim.to_owned())).collect();
    // One that has no node has begun nothing.
    let placed = pod
        .spec
        .as_ref()
        .is_some_and(|spec| spec.node_name.as_deref().is_some_and(|node| !node.is_empty()));
    Using {
        claims,
        now: placed && !api::pods::is_terminal(&pod),
        uid: pod.metadata.uid.unwrap_or_default(),
    }
}

fn map<T, U>(event: Event<T>, with: fn(T) -> U) -> Event<U> {
    match event {
        Event::Apply(object) => Event::Apply(with(object)),
        Event::Delete(object) => Event::Delete(with(object)),
        Event::Init => Event::Init,
        Event::InitApply(object) => Event::InitApply(with(object)),
        Event::InitDone => Event::InitDone,
    }
}
