//! Keeps the EndpointSlices and the Endpoints of every Service: watches in,
//! writes out.
//!
//! What is to be written is decided in [`crate::endpoint_slice`] and
//! [`crate::endpoints`]; `cache.rs` knows what concerns whom, `crate::queue` who
//! is next. For one Service one write is under way at a time: what changes
//! meanwhile goes into the next. Slices are sent before Endpoints: who forwards
//! traffic reads the slices, and Endpoints of many addresses are long. What
//! exists is patched where `patch.rs` knows how.
//!
//! What belongs to a Service that is gone is deleted here; nothing waits for a
//! garbage collector.
//!
//! Source: upstream `pkg/controller/endpointslice/endpointslice_controller.go`,
//! `pkg/controller/endpoint/endpoints_controller.go`.

mod cache;
mod patch;

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::time::Duration;

use api::Time;
use api::typed::discovery::EndpointSlice;
use api::typed::{Endpoints, ObjectMeta, Pod, Service};
use futures::StreamExt;
use http::Method;
use http::header::{ACCEPT, CONTENT_TYPE};
use jiff::Timestamp;
use kube::api::{DeleteParams, Preconditions};
use kube::core::{NamespaceResourceScope, PartialObjectMeta};
use kube::{Api, Client, Resource};
use kube_runtime::watcher::{self, Event};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::backend::{self, Backend, Key};
use crate::endpoint_slice;
use crate::queue::Queue;
use crate::watch::watch;
use cache::{Cache, Item, Slices, Work};
use patch::Patch;

/// Writes under way at a time, of one Service each.
const WRITES_MAX: usize = 16;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Asks for an answer of metadata alone.
const METADATA_ONLY: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";

/// Why something was not written; it is tried again.
#[derive(Debug, thiserror::Error)]
enum WriteError {
    #[error("{doing}: {source}")]
    Request {
        doing: String,
        #[source]
        source: Box<kube::Error>,
    },
    #[error("{doing}: no answer within {} s", REQUEST_TIMEOUT.as_secs())]
    Timeout { doing: String },
}

impl WriteError {
    /// Somebody was faster, which the watch will tell, or the namespace is
    /// about to go.
    fn is_expected(&self) -> bool {
        let Self::Request { source, .. } = self else { return false };
        let kube::Error::Api(status) = source.as_ref() else { return false };
        let terminating = || {
            let causes = status.details.iter().flat_map(|details| &details.causes);
            causes.into_iter().any(|cause| cause.reason == "NamespaceTerminating")
        };
        matches!(status.code, 404 | 409) || (status.code == 403 && terminating())
    }
}

/// What the server has answered.
enum Answer {
    Slice(Box<EndpointSlice>),
    SliceGone(Key, Option<String>),
    Endpoints(Box<Endpoints>),
    EndpointsGone(Key, Option<String>),
}

/// What was done about an item, up to the first failure.
struct Ended {
    item: Item,
    answers: Vec<Answer>,
    outcome: Result<(), WriteError>,
}

/// Keeps slices and Endpoints until `shutdown`. What a dropped call has begun
/// is continued by the next run.
pub async fn run(client: Client, shutdown: CancellationToken) {
    let mut services = std::pin::pin!(watch(Api::<Service>::all(client.clone()), watcher::Config::default()));
    let mut pods = std::pin::pin!(watch(Api::<Pod>::all(client.clone()), watcher::Config::default()));
    let ours = format!("{}={}", endpoint_slice::MANAGED_BY_LABEL, endpoint_slice::MANAGED_BY);
    let mut slices = std::pin::pin!(watch(
        Api::<EndpointSlice>::all(client.clone()),
        watcher::Config::default().labels(&ours)
    ));
    let mut endpoints = std::pin::pin!(watch(Api::<Endpoints>::all(client.clone()), watcher::Config::default()));
    let mut state = State::default();
    let mut writes: JoinSet<Ended> = JoinSet::new();
    loop {
        if let Some((item, work)) = state.next(writes.len()) {
            writes.spawn(write(client.clone(), item, work));
        }
        let wait = state.wait(writes.len());
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = pause(wait) => {}
            Some(event) = services.next() => state.service(event),
            Some(event) = pods.next() => state.pod(event),
            Some(event) = slices.next() => state.slice(event),
            Some(event) = endpoints.next() => state.endpoints(event),
            Some(ended) = writes.join_next() => match ended {
                Ok(ended) => state.ended(ended),
                Err(error) => std::panic::resume_unwind(error.into_panic()), // nobody aborts them
            },
        }
    }
}

async fn pause(wait: Option<Duration>) {
    match wait {
        Some(Duration::ZERO) => {}
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}

fn now() -> Time {
    Timestamp::now().into()
}

/// How far a watch has got.
#[derive(Default)]
struct Listing {
    /// All that exist have been seen once.
    complete: bool,
    /// While a list is read: what was known before and has not been seen.
    unseen: BTreeSet<Key>,
}

impl Listing {
    fn begin(&mut self, known: BTreeSet<Key>) {
        self.unseen = known;
    }

    fn end(&mut self) -> BTreeSet<Key> {
        self.complete = true;
        std::mem::take(&mut self.unseen)
    }
}

#[derive(Default)]
struct State {
    cache: Cache,
    queue: Queue<Item>,
    /// Services whose Endpoints are looked at once their slices are on their way.
    after_slices: BTreeSet<Key>,
    services: Listing,
    pods: Listing,
    slices: Listing,
    endpoints: Listing,
}

fn key_of(metadata: &ObjectMeta) -> Key {
    (
        metadata.namespace.clone().unwrap_or_default(),
        metadata.name.clone().unwrap_or_default(),
    )
}

impl State {
    /// Nothing is decided before all that exists is known.
    fn may_write(&self, writes: usize) -> bool {
        let listed = self.services.complete && self.pods.complete && self.slices.complete && self.endpoints.complete;
        listed && writes < WRITES_MAX
    }

    /// What to write next. `None` does not mean that nothing is left: that is
    /// for [`Self::wait`] to say.
    fn next(&mut self, writes: usize) -> Option<(Item, Work)> {
        if !self.may_write(writes) {
            return None;
        }
        let item = self.queue.next(now())?;
        let work = self.cache.work(&item);
        if work.is_none() {
            self.queue.done(&item);
        }
        self.follow(&item);
        work.map(|work| (item, work))
    }

    fn wait(&self, writes: usize) -> Option<Duration> {
        self.queue.wait(now()).filter(|_| self.may_write(writes))
    }

    fn push(&mut self, items: Vec<Item>) {
        for item in items {
            match item {
                Item::Endpoints(key) if self.queue.is_due(&Item::Slices(key.clone())) => {
                    self.after_slices.insert(key);
                }
                item => self.queue.push(item),
            }
        }
    }

    /// What waited for an item to be on its way is due, whatever becomes of
    /// that: the server can work at both.
    fn follow(&mut self, item: &Item) {
        if let Item::Slices(key) = item
            && self.after_slices.remove(key)
        {
            self.queue.push(Item::Endpoints(key.clone()));
        }
    }

    fn service(&mut self, event: Event<Service>) {
        let concerned = match event {
            Event::Apply(service) | Event::InitApply(service) => {
                let service = backend::Service::of(&service);
                self.services.unseen.remove(&service.key());
                self.cache.service(service)
            }
            Event::Delete(service) => self.cache.service_gone(&key_of(&service.metadata)),
            Event::Init => return self.services.begin(self.cache.services()),
            Event::InitDone => self.services.end().iter().flat_map(|key| self.cache.service_gone(key)).collect(),
        };
        self.push(concerned);
    }

    fn pod(&mut self, event: Event<Pod>) {
        let concerned = match event {
            Event::Apply(pod) | Event::InitApply(pod) => {
                let backend = Backend::of(&pod);
                self.pods.unseen.remove(&backend.key());
                self.cache.backend(backend)
            }
            Event::Delete(pod) => self.cache.backend_gone(&key_of(&pod.metadata)),
            Event::Init => return self.pods.begin(self.cache.backends()),
            Event::InitDone => self.pods.end().iter().flat_map(|key| self.cache.backend_gone(key)).collect(),
        };
        self.push(concerned);
    }

    fn slice(&mut self, event: Event<EndpointSlice>) {
        let concerned = match event {
            Event::Apply(slice) => self.cache.slice(slice, false),
            Event::InitApply(slice) => {
                self.slices.unseen.remove(&key_of(&slice.metadata));
                self.cache.slice(slice, true)
            }
            Event::Delete(slice) => self.cache.slice_gone(&key_of(&slice.metadata), slice.metadata.uid.as_deref()),
            Event::Init => return self.slices.begin(self.cache.slices()),
            Event::InitDone => self.slices.end().iter().flat_map(|id| self.cache.slice_gone(id, None)).collect(),
        };
        self.push(concerned);
    }

    fn endpoints(&mut self, event: Event<Endpoints>) {
        let concerned = match event {
            Event::Apply(endpoints) => self.cache.endpoints(endpoints, false),
            Event::InitApply(endpoints) => {
                self.endpoints.unseen.remove(&key_of(&endpoints.metadata));
                self.cache.endpoints(endpoints, true)
            }
            Event::Delete(endpoints) => self
                .cache
                .endpoints_gone(&key_of(&endpoints.metadata), endpoints.metadata.uid.as_deref()),
            Event::Init => return self.endpoints.begin(self.cache.all_endpoints()),
            Event::InitDone => self
                .endpoints
                .end()
                .iter()
                .flat_map(|key| self.cache.endpoints_gone(key, None))
                .collect(),
        };
        self.push(concerned);
    }

    /// Takes the server's answers as seen, so that nothing is decided on what
    /// our own writes have made old.
    fn ended(&mut self, ended: Ended) {
        let Ended { item, answers, outcome } = ended;
        for answer in answers {
            let concerned = match answer {
                Answer::Slice(slice) => self.cache.slice(*slice, false),
                Answer::SliceGone(id, uid) => self.cache.slice_gone(&id, uid.as_deref()),
                Answer::Endpoints(endpoints) => self.cache.endpoints(*endpoints, false),
                Answer::EndpointsGone(key, uid) => self.cache.endpoints_gone(&key, uid.as_deref()),
            };
            // It is as we wanted it: only others need to look again.
            self.push(concerned.into_iter().filter(|concerned| *concerned != item).collect());
        }
        match outcome {
            Ok(()) => self.queue.done(&item),
            Err(error) => {
                if error.is_expected() {
                    tracing::debug!(error = %error, "not written; it is tried again");
                } else {
                    tracing::warn!(error = %error, "not written; it is tried again");
                }
                self.queue.failed(&item, now());
            }
        }
    }
}

async fn write(client: Client, item: Item, work: Work) -> Ended {
    let mut answers = Vec::new();
    let outcome = match work {
        Work::Slices(slices) => write_slices(&client, slices, &mut answers).await,
        Work::WriteEndpoints(endpoints, patch) => put(&client, *endpoints, patch)
            .await
            .map(|written| answers.push(Answer::Endpoints(written.into()))),
        Work::DeleteEndpoints(endpoints) => delete(&client, &*endpoints).await.map(|()| {
            answers.push(Answer::EndpointsGone(key_of(&endpoints.metadata), endpoints.metadata.uid));
        }),
    };
    Ended { item, answers, outcome }
}

async fn write_slices(client: &Client, slices: Slices, answers: &mut Vec<Answer>) -> Result<(), WriteError> {
    let create = slices.create.into_iter().map(|slice| (slice, None));
    for (slice, patch) in create.chain(slices.update) {
        answers.push(Answer::Slice(put(client, slice, patch).await?.into()));
    }
    for slice in slices.delete {
        delete(client, &slice).await?;
        answers.push(Answer::SliceGone(key_of(&slice.metadata), slice.metadata.uid));
    }
    Ok(())
}

/// Creates an object, or makes it of the version that exists: by the patch, or
/// by sending it whole. The answer is only the metadata: the rest is known, and
/// may be long.
async fn put<K>(client: &Client, mut object: K, patch: Option<Patch>) -> Result<K, WriteError>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Serialize,
{
    let (namespace, name) = key_of(object.meta());
    let kind = K::kind(&());
    let exists = object.meta().resource_version.is_some();
    let named = object.meta().generate_name.as_ref().filter(|_| !exists).unwrap_or(&name);
    let doing = format!("{} {kind} {namespace}/{named}", if exists { "changing" } else { "creating" });
    let all = K::url_path(&(), Some(&namespace));
    let (method, path, media_type) = match (&patch, exists) {
        (Some(_), _) => (Method::PATCH, format!("{all}/{name}"), "application/json-patch+json"),
        (None, true) => (Method::PUT, format!("{all}/{name}"), "application/json"),
        (None, false) => (Method::POST, all, "application/json"),
    };
    let unwritable = |source: kube::Error| WriteError::Request {
        doing: doing.clone(),
        source: Box::new(source),
    };
    let body = patch.map_or_else(|| serde_json::to_vec(&object), |patch| serde_json::to_vec(&patch));
    let body = body.map_err(|error| unwritable(kube::Error::SerdeError(error)))?;
    let call = http::Request::builder()
        .method(method)
        .uri(path)
        .header(CONTENT_TYPE, media_type)
        .header(ACCEPT, METADATA_ONLY)
        .body(body)
        .map_err(|error| unwritable(kube::Error::HttpError(error)))?;
    let written = request(doing, client.request::<PartialObjectMeta<K>>(call)).await?;
    *object.meta_mut() = written.metadata;
    Ok(object)
}

/// Deletes this very object. That it is gone already is an error like others:
/// the watch will tell, and then there is nothing to try again.
async fn delete<K>(client: &Client, object: &K) -> Result<(), WriteError>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let (namespace, name) = key_of(object.meta());
    let objects: Api<K> = Api::namespaced(client.clone(), &namespace);
    let params = DeleteParams::default().preconditions(Preconditions {
        uid: object.meta().uid.clone(),
        resource_version: None,
    });
    request(
        format!("deleting {} {namespace}/{name}", K::kind(&())),
        objects.delete(&name, &params),
    )
    .await
    .map(drop)
}

async fn request<T>(doing: String, call: impl Future<Output = kube::Result<T>>) -> Result<T, WriteError> {
    match tokio::time::timeout(REQUEST_TIMEOUT, call).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(source)) => Err(WriteError::Request {
            doing,
            source: Box::new(source),
        }),
        Err(_) => Err(WriteError::Timeout { doing }),
    }
}
