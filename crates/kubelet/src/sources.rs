//! What pods take their content from: ConfigMaps and Secrets, each watched by
//! its name while a pod of this node refers to it, and every Service.
//!
//! A name is watched, not a kind: a node may read only what its pods refer to.
//! The first pod that refers to a name starts the watch, and a name nobody has
//! referred to for [`IDLE`] ends it.
//!
//! Source: upstream `pkg/kubelet/util/manager/watch_based_manager.go`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use api::Uid;
use api::typed::{ConfigMap, Metadata, ObjectMeta, Pod, Resource, Secret, Service};
use futures::StreamExt;
use kube::Api;
use kube::core::NamespaceResourceScope;
use kube_runtime::watcher::{self, Event};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::environment::ServiceAddress;

/// How long a name nobody refers to is still watched.
const IDLE: Duration = Duration::from_secs(120);
/// How often names are looked over for that.
const SWEEP: Duration = Duration::from_secs(30);
/// How long the first answer about a name is waited for. Source: upstream
/// `watch_based_manager.go`, `Get`.
const SYNC: Duration = Duration::from_secs(1);
/// Delays between attempts of a watch that is refused or interrupted.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// The kinds of object that are watched by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `v1 ConfigMap`.
    ConfigMap,
    /// `v1 Secret`.
    Secret,
}

impl fmt::Display for Kind {
    /// As errors name it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ConfigMap => "configmap",
            Self::Secret => "secret",
        })
    }
}

/// One object a pod refers to; it is in the pod's namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: String,
}

impl Reference {
    /// A ConfigMap.
    #[must_use]
    pub fn config_map(name: &str) -> Self {
        Self {
            kind: Kind::ConfigMap,
            name: name.to_owned(),
        }
    }

    /// A Secret.
    #[must_use]
    pub fn secret(name: &str) -> Self {
        Self {
            kind: Kind::Secret,
            name: name.to_owned(),
        }
    }
}

/// The content of a ConfigMap or Secret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// `data`, for a Secret decoded.
    pub data: BTreeMap<String, Vec<u8>>,
    /// `binaryData` of a ConfigMap.
    pub binary: BTreeMap<String, Vec<u8>>,
    /// `type` of a Secret.
    pub secret_type: Option<String>,
    /// `immutable`: read once, never again.
    pub immutable: bool,
}

/// Why an object's content is not to be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// There is no such object.
    #[error("{kind} {name:?} not found")]
    NotFound {
        /// Its kind.
        kind: Kind,
        /// Its name.
        name: String,
    },
    /// The API server has not said whether there is.
    #[error("failed to sync {kind} cache: timed out waiting for the condition")]
    NotSynced {
        /// Its kind.
        kind: Kind,
    },
    /// The Services have not been listed yet.
    #[error("services have not yet been read at least once, cannot construct envvars")]
    NoServices,
}

impl SourceError {
    /// Whether `optional: true` forgives it.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }
}

/// What was found of the objects a pod refers to.
pub(crate) type Found = BTreeMap<Reference, Result<Arc<Content>, SourceError>>;

#[derive(Clone, Debug)]
enum State {
    Unknown,
    Missing,
    Present(Arc<Content>),
}

struct Entry {
    state: watch::Receiver<State>,
    holders: BTreeSet<Uid>,
    idle_since: Instant,
    task: AbortHandle,
}

type Key = (Kind, String, String);

#[derive(Default)]
struct Inner {
    entries: BTreeMap<Key, Entry>,
    /// What to tell a pod when something it holds has changed.
    tell: BTreeMap<Uid, watch::Sender<u64>>,
    services: BTreeMap<(String, String), Arc<ServiceAddress>>,
    tasks: JoinSet<()>,
}

/// Every watched object of this node.
#[derive(Clone)]
pub struct Sources {
    client: kube::Client,
    inner: Arc<Mutex<Inner>>,
    services_synced: watch::Receiver<bool>,
    set_synced: watch::Sender<bool>,
}

impl Sources {
    /// Watches nothing yet; [`run`](Self::run) begins with the Services.
    #[must_use]
    pub fn new(client: kube::Client) -> Self {
        let (set_synced, services_synced) = watch::channel(false);
        Self {
            client,
            inner: Arc::default(),
            services_synced,
            set_synced,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Each change under it is whole before anything can panic.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows the Services and ends idle watches, until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut sweep = tokio::time::interval(SWEEP);
        let follow = self.follow_services();
        tokio::pin!(follow);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = &mut follow => break,
                _ = sweep.tick() => self.sweep(Instant::now()),
            }
        }
        self.lock().tasks.abort_all();
    }

    fn sweep(&self, now: Instant) {
        let mut inner = self.lock();
        inner.entries.retain(|_, entry| {
            let keep = !entry.holders.is_empty() || now.duration_since(entry.idle_since) < IDLE;
            if !keep {
                entry.task.abort();
            }
            keep
        });
        while inner.tasks.try_join_next().is_some() {}
    }

    /// States what a pod refers to, instead of what it referred to before.
    /// `tell` counts changes of any of it.
    pub fn hold(&self, uid: &Uid, namespace: &str, references: &BTreeSet<Reference>, tell: &watch::Sender<u64>) {
        let mut inner = self.lock();
        inner.release(uid, |(kind, ns, name)| {
            ns == namespace && references.iter().any(|r| r.kind == *kind && r.name == *name)
        });
        inner.tell.insert(uid.clone(), tell.clone());
        for reference in references {
            let key = (reference.kind, namespace.to_owned(), reference.name.clone());
            if let Some(entry) = inner.entries.get_mut(&key) {
                entry.holders.insert(uid.clone());
                continue;
            }
            let (set, state) = watch::channel(State::Unknown);
            let this = self.clone();
            let (kind, own) = (reference.kind, key.clone());
            let task = inner.tasks.spawn(async move {
                match kind {
                    Kind::ConfigMap => this.follow::<ConfigMap>(&own, set, config_map).await,
                    Kind::Secret => this.follow::<Secret>(&own, set, secret).await,
                }
            });
            inner.entries.insert(
                key,
                Entry {
                    state,
                    holders: [uid.clone()].into(),
                    idle_since: Instant::now(),
                    task,
                },
            );
        }
    }

    /// A pod is no more: it refers to nothing.
    pub fn release(&self, uid: &Uid) {
        let mut inner = self.lock();
        inner.release(uid, |_| false);
        inner.tell.remove(uid);
    }

    /// The content of an object a pod holds, once it is known.
    ///
    /// # Errors
    /// When there is no such object, or the API server does not say within [`SYNC`].
    pub async fn content(&self, namespace: &str, reference: &Reference) -> Result<Arc<Content>, SourceError> {
        let kind = reference.kind;
        let key = (kind, namespace.to_owned(), reference.name.clone());
        let state = self.lock().entries.get(&key).map(|entry| entry.state.clone());
        let Some(mut state) = state else {
            return Err(SourceError::NotSynced { kind });
        };
        let known = tokio::time::timeout(SYNC, state.wait_for(|state| !matches!(state, State::Unknown))).await;
        match known {
            Ok(Ok(state)) => match &*state {
                State::Present(content) => Ok(content.clone()),
                State::Missing | State::Unknown => Err(SourceError::NotFound {
                    kind,
                    name: reference.name.clone(),
                }),
            },
            Ok(Err(_)) | Err(_) => Err(SourceError::NotSynced { kind }),
        }
    }

    /// What there is of all these objects.
    pub async fn find(&self, namespace: &str, references: impl IntoIterator<Item = Reference>) -> Found {
        let mut found = Found::new();
        for reference in references {
            let content = self.content(namespace, &reference).await;
            found.insert(reference, content);
        }
        found
    }

    /// The Services whose addresses a pod of `namespace` is told, by name.
    ///
    /// # Errors
    /// When they have not been listed yet.
    pub async fn services(&self, namespace: &str, links: bool) -> Result<Vec<Arc<ServiceAddress>>, SourceError> {
        let mut synced = self.services_synced.clone();
        let listed = tokio::time::timeout(SYNC, synced.wait_for(|synced| *synced)).await;
        if !matches!(listed, Ok(Ok(_))) {
            return Err(SourceError::NoServices);
        }
        let inner = self.lock();
        let all = inner.services.iter();
        let mut by_name: BTreeMap<&str, &Arc<ServiceAddress>> = BTreeMap::new();
        for ((of, name), service) in all {
            let everybodys = of == "default" && name == "kubernetes";
            if everybodys {
                by_name.entry(name).or_insert(service);
            } else if links && of == namespace {
                by_name.insert(name, service);
            }
        }
        Ok(by_name.into_values().cloned().collect())
    }

    /// Follows one object until it is immutable and read.
    async fn follow<K>(&self, key: &Key, set: watch::Sender<State>, read: fn(K) -> Content)
    where
        K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>,
        K: Resource + Metadata<Ty = ObjectMeta> + Clone + fmt::Debug + DeserializeOwned + Send + 'static,
    {
        let (kind, namespace, name) = key;
        let api = Api::<K>::namespaced(self.client.clone(), namespace);
        let own = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let mut changes = watcher::watcher(api, own).boxed();
        let (mut listed, mut delay) = (false, RETRY_FIRST);
        while let Some(change) = changes.next().await {
            let state = match change {
                Ok(Event::Init) => {
                    listed = false;
                    continue;
                }
                Ok(Event::InitApply(object)) => {
                    listed = true;
                    State::Present(Arc::new(read(object)))
                }
                Ok(Event::InitDone) if listed => {
                    delay = RETRY_FIRST;
                    continue;
                }
                Ok(Event::InitDone | Event::Delete(_)) => State::Missing,
                Ok(Event::Apply(object)) => State::Present(Arc::new(read(object))),
                Err(error) => {
                    tracing::debug!(%kind, namespace, name, error = %error, "the watch of an object is interrupted");
                    tokio::time::sleep(delay).await;
                    delay = (delay * 2).min(RETRY_MAX);
                    continue;
                }
            };
            let done = matches!(&state, State::Present(content) if content.immutable);
            let same = match (&*set.borrow(), &state) {
                (State::Present(old), State::Present(new)) => old == new,
                (State::Missing, State::Missing) => true,
                _ => false,
            };
            if !same {
                set.send_replace(state);
                self.lock().tell(key);
            }
            if done {
                // Nobody asks again; whoever holds the state may read it on.
                set.closed().await;
                return;
            }
        }
    }

    async fn follow_services(&self) {
        let api = Api::<Service>::all(self.client.clone());
        let mut changes = watcher::watcher(api, watcher::Config::default()).boxed();
        let mut listing = BTreeMap::new();
        let mut delay = RETRY_FIRST;
        while let Some(change) = changes.next().await {
            match change {
                Ok(Event::Init) => listing = BTreeMap::new(),
                Ok(Event::InitApply(service)) => {
                    drop(ServiceAddress::of(&service).map(|(key, address)| listing.insert(key, Arc::new(address))))
                }
                Ok(Event::InitDone) => {
                    self.lock().services = std::mem::take(&mut listing);
                    self.set_synced.send_replace(true);
                    delay = RETRY_FIRST;
                }
                Ok(Event::Apply(service)) => {
                    let mut inner = self.lock();
                    match ServiceAddress::of(&service) {
                        Some((key, address)) => drop(inner.services.insert(key, Arc::new(address))),
                        None => inner.forget(&service),
                    }
                }
                Ok(Event::Delete(service)) => self.lock().forget(&service),
                Err(error) => {
                    tracing::warn!(error = %error, "the watch of Services is interrupted");
                    tokio::time::sleep(delay).await;
                    delay = (delay * 2).min(RETRY_MAX);
                }
            }
        }
    }
}

impl Inner {
    fn release(&mut self, uid: &Uid, still: impl Fn(&Key) -> bool) {
        let now = Instant::now();
        for (key, entry) in &mut self.entries {
            if !still(key) && entry.holders.remove(uid) {
                entry.idle_since = now;
            }
        }
    }

    fn tell(&mut self, key: &Key) {
        let Some(entry) = self.entries.get(key) else { return };
        for tell in entry.holders.iter().filter_map(|uid| self.tell.get(uid)) {
            tell.send_modify(|count| *count = count.wrapping_add(1));
        }
    }

    fn forget(&mut self, service: &Service) {
        let meta = &service.metadata;
        let key = (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default());
        self.services.remove(&key);
    }
}

fn config_map(object: ConfigMap) -> Content {
    Content {
        data: object
            .data
            .unwrap_or_default()
            .into_iter()
            .map(|(key, text)| (key, text.into_bytes()))
            .collect(),
        binary: object
            .binary_data
            .unwrap_or_default()
            .into_iter()
            .map(|(key, bytes)| (key, bytes.0))
            .collect(),
        secret_type: None,
        immutable: object.immutable == Some(true),
    }
}

fn secret(object: Secret) -> Content {
    Content {
        data: object
            .data
            .unwrap_or_default()
            .into_iter()
            .map(|(key, bytes)| (key, bytes.0))
            .collect(),
        binary: BTreeMap::new(),
        secret_type: object.type_,
        immutable: object.immutable == Some(true),
    }
}

/// Every ConfigMap and Secret the environment of a pod's containers names.
#[must_use]
pub(crate) fn of_environment(pod: &Pod) -> BTreeSet<Reference> {
    let Some(spec) = &pod.spec else { return BTreeSet::new() };
    let mut references = BTreeSet::new();
    for container in spec.init_containers.iter().flatten().chain(&spec.containers) {
        references.extend(crate::environment::references(container));
    }
    for container in spec.ephemeral_containers.iter().flatten() {
        references.extend(crate::environment::references(&api::pods::as_container(container)));
    }
    references
}
