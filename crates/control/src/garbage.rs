//! Deletes what belongs to nobody any more, and lets go of owners that wait
//! for what belongs to them.
//!
//! An object names its owners in `metadata.ownerReferences`. When none of them
//! is left, the object goes too. A delete may ask for another order: with
//! `foregroundDeletion` the owner waits for its dependents, with `orphan` they
//! are detached and stay; both are finalizers the API server sets, and this
//! controller acts on and removes.
//!
//! Only metadata is watched, of every kind that can be listed, watched and
//! deleted; of kinds that come later from when they do. What there is to do is decided in `graph.rs`, from what was seen;
//! whether an owner exists is asked of the API server, never guessed.
//!
//! Source: Kubernetes "Garbage Collection"; upstream
//! `pkg/controller/garbagecollector/{garbagecollector,graph_builder}.go`.

mod graph;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api::typed::ObjectMeta;
use futures::StreamExt;
use futures::stream::{BoxStream, SelectAll};
use kube::api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions, PropagationPolicy};
use kube::core::PartialObjectMeta;
use kube::discovery::{Scope, verbs};
use kube::{Api, Client};
use kube_runtime::watcher::{Config, Event};
use serde_json::json;
use tokio_util::sync::{CancellationToken, DropGuard};

use self::graph::{Action, Graph, Kind, Seen, Uid};
use crate::discover::{self, Served};
use crate::watch::watch;
use crate::work::{Work, code};

/// Objects worked on at a time.
const MOST: usize = 16;

/// The resources of the kinds that are watched.
type Resources = BTreeMap<Kind, (ApiResource, Scope)>;

/// Collects until `shutdown`. What a dropped call has begun is continued by
/// the next run.
pub async fn run(client: Client, shutdown: CancellationToken) {
    let mut served = discover::watchable(client.clone());
    let mut resources = Arc::new(Resources::new());
    let graph = Arc::new(Mutex::new(Graph::default()));
    let mut watched = Watched::default();
    let mut work: Work<Uid> = Work::new("garbage", MOST);
    loop {
        work.start(|uid| attend(client.clone(), Arc::clone(&resources), Arc::clone(&graph), uid));
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = work.turn() => {}
            Some(found) = served.next() => {
                resources = Arc::new(collectable(found));
                watched.follow(&client, &resources);
            }
            Some((kind, event)) = watched.events.next(), if !watched.events.is_empty() => {
                let mut graph = lock(&graph);
                let asked: Vec<Uid> = match event {
                    Event::Apply(object) => graph.see(seen(&kind, &object.metadata)),
                    Event::InitApply(object) => graph.relist_item(seen(&kind, &object.metadata)),
                    Event::Delete(object) => graph.gone(object.metadata.uid.as_deref().unwrap_or_default()),
                    Event::Init => graph.relist_begins(&kind),
                    Event::InitDone => graph.relist_ends(&kind),
                };
                asked.into_iter().for_each(|uid| work.ask(uid));
            }
        }
    }
}

fn lock(graph: &Mutex<Graph>) -> MutexGuard<'_, Graph> {
    // Whoever held it only moved values.
    graph.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The watches of all kinds.
#[derive(Default)]
struct Watched {
    events: SelectAll<BoxStream<'static, (Kind, Event<PartialObjectMeta<DynamicObject>>)>>,
    /// What each is a watch of, and what ends it.
    kinds: BTreeMap<Kind, (ApiResource, DropGuard)>,
}

impl Watched {
    /// Begins watches of kinds that came, ends those of kinds that went. What
    /// was seen of a kind that went is kept: whether its objects exist cannot be
    /// known until it is served again, and then all of them are listed.
    fn follow(&mut self, client: &Client, resources: &Resources) {
        let same = |kind: &Kind, of: &ApiResource| resources.get(kind).is_some_and(|(resource, _)| resource == of);
        self.kinds.retain(|kind, (of, _)| same(kind, of));
        for (kind, (resource, _)) in resources {
            if self.kinds.contains_key(kind) {
                continue;
            }
            let ends = CancellationToken::new();
            let all: Api<PartialObjectMeta<DynamicObject>> = Api::all_with(client.clone(), resource);
            let of = kind.clone();
            let events = watch(all, Config::default()).map(move |event| (of.clone(), event));
            self.events.push(events.take_until(ends.clone().cancelled_owned()).boxed());
            self.kinds.insert(kind.clone(), (resource.clone(), ends.drop_guard()));
        }
    }
}

/// Every kind whose objects can own or be owned. Events are not: they come and
/// go by themselves.
fn collectable(served: Vec<Served>) -> Resources {
    let all = served.into_iter();
    let fitting = all.filter(|(resource, capabilities)| capabilities.supports_operation(verbs::DELETE) && resource.plural != "events");
    fitting
        .map(|(resource, capabilities)| (kind_of(&resource.group, &resource.kind), (resource, capabilities.scope)))
        .collect()
}

/// Versions of a kind are the same objects.
fn kind_of(group: &str, name: &str) -> Kind {
    Kind {
        group: group.to_owned(),
        name: name.to_owned(),
    }
}

fn seen(kind: &Kind, meta: &ObjectMeta) -> Seen {
    let finalizers = meta.finalizers.as_deref().unwrap_or_default();
    let has = |name: &str| finalizers.iter().any(|finalizer| finalizer == name);
    Seen {
        kind: kind.clone(),
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
        owners: meta
            .owner_references
            .iter()
            .flatten()
            .map(|owner| graph::Owner {
                kind: kind_of(owner.api_version.split_once('/').map_or("", |(group, _)| group), &owner.kind),
                name: owner.name.clone(),
                uid: owner.uid.clone(),
                blocks: owner.block_owner_deletion == Some(true),
            })
            .collect(),
        deleting: meta.deletion_timestamp.is_some(),
        foreground: has("foregroundDeletion"),
        orphan: has("orphan"),
    }
}

/// Does what is to be done about an object, until nothing is.
async fn attend(client: Client, resources: Arc<Resources>, graph: Arc<Mutex<Graph>>, uid: Uid) -> Result<Option<Duration>, String> {
    let hands = Hands { client, resources };
    let unknown: Vec<(graph::Owner, String)> = lock(&graph).unknown_owners(&uid);
    let mut absent = BTreeSet::new();
    for (owner, namespace) in unknown {
        let found = hands.exists(&owner, &namespace).await?;
        if !lock(&graph).answer(&owner, found) {
            absent.insert(owner.uid);
        }
    }
    let action = lock(&graph).decide(&uid, &absent);
    let Some(action) = action else { return Ok(None) };
    match &action {
        Action::Delete { object, policy } => hands.delete(object, policy.clone()).await?,
        Action::Detach { objects, owners } => {
            for object in objects {
                hands.detach(object, owners).await?;
            }
        }
        Action::Unblock { objects, owner } => {
            for object in objects {
                hands.unblock(object, owner).await?;
            }
        }
        Action::LetGo { object, finalizer } => hands.let_go(object, finalizer).await?,
        Action::Orphan { object, dependents } => {
            let owner = BTreeSet::from([object.uid.clone()]);
            for dependent in dependents {
                hands.detach(dependent, &owner).await?;
            }
            hands.let_go(object, "orphan").await?;
        }
    }
    // What came of it is seen, and asks again where something is left to do.
    Ok(None)
}

/// Calls of the API server.
struct Hands {
    client: Client,
    resources: Arc<Resources>,
}

impl Hands {
    /// `None` for a kind nobody serves.
    fn api(&self, kind: &Kind, namespace: &str) -> Option<Api<DynamicObject>> {
        let (resource, scope) = self.resources.get(kind)?;
        Some(match scope {
            Scope::Namespaced => Api::namespaced_with(self.client.clone(), namespace, resource),
            Scope::Cluster => Api::all_with(self.client.clone(), resource),
        })
    }

    /// Whether this very owner exists. Of a kind nobody serves nothing is
    /// known: its objects keep what they own.
    async fn exists(&self, owner: &graph::Owner, namespace: &str) -> Result<bool, String> {
        let Some(api) = self.api(&owner.kind, namespace) else {
            return Ok(true);
        };
        match api.get_metadata_opt(&owner.name).await {
            Ok(found) => Ok(found.is_some_and(|found| found.metadata.uid.as_deref() == Some(owner.uid.as_str()))),
            Err(error) => Err(error.to_string()),
        }
    }

    async fn delete(&self, object: &Seen, policy: PropagationPolicy) -> Result<(), String> {
        let Some(api) = self.api(&object.kind, &object.namespace) else {
            return Ok(());
        };
        let params = DeleteParams {
            propagation_policy: Some(policy),
            preconditions: Some(Preconditions {
                uid: Some(object.uid.clone()),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        tracing::debug!(kind = %object.kind.name, namespace = %object.namespace, name = %object.name, "deleting garbage");
        done(api.delete(&object.name, &params).await.map(drop))
    }

    /// Takes owners out of an object's references.
    async fn detach(&self, object: &Seen, owners: &BTreeSet<Uid>) -> Result<(), String> {
        self.change(object, |meta| {
            let references = meta.owner_references.as_mut()?;
            let before = references.len();
            references.retain(|reference| !owners.contains(&reference.uid));
            (references.len() != before).then(|| json!({ "ownerReferences": references }))
        })
        .await
    }

    /// Lets an owner go before this object.
    async fn unblock(&self, object: &Seen, owner: &str) -> Result<(), String> {
        self.change(object, |meta| {
            let references = meta.owner_references.as_mut()?;
            let held = references
                .iter_mut()
                .filter(|reference| reference.uid == *owner && reference.block_owner_deletion == Some(true));
            let count = held.map(|reference| reference.block_owner_deletion = Some(false)).count();
            (count > 0).then(|| json!({ "ownerReferences": references }))
        })
        .await
    }

    async fn let_go(&self, object: &Seen, finalizer: &str) -> Result<(), String> {
        self.change(object, |meta| {
            let finalizers = meta.finalizers.as_mut()?;
            let before = finalizers.len();
            finalizers.retain(|name| name != finalizer);
            (finalizers.len() != before).then(|| json!({ "finalizers": finalizers }))
        })
        .await
    }

    /// Changes metadata of this very object as it is now; of one that is gone,
    /// or needs no change, nothing.
    async fn change(&self, object: &Seen, make: impl Fn(&mut ObjectMeta) -> Option<serde_json::Value>) -> Result<(), String> {
        let Some(api) = self.api(&object.kind, &object.namespace) else {
            return Ok(());
        };
        let Some(mut found) = api.get_metadata_opt(&object.name).await.map_err(|error| error.to_string())? else {
            return Ok(());
        };
        if found.metadata.uid.as_deref() != Some(object.uid.as_str()) {
            return Ok(());
        }
        let Some(mut changed) = make(&mut found.metadata) else {
            return Ok(());
        };
        // Whoever changes it meanwhile makes this fail, and be tried again.
        changed["resourceVersion"] = json!(found.metadata.resource_version);
        changed["uid"] = json!(object.uid);
        let patch = Patch::Merge(json!({ "metadata": changed }));
        done(api.patch_metadata(&object.name, &PatchParams::default(), &patch).await.map(drop))
    }
}

/// An object that is gone, or another by that name, is as good as done.
fn done(outcome: kube::Result<()>) -> Result<(), String> {
    match outcome {
        Err(error) if code(&error) == Some(404) => Ok(()),
        outcome => outcome.map_err(|error| error.to_string()),
    }
}
