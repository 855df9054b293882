//! Empties namespaces that are being deleted, then lets them go.
//!
//! A deleted namespace stays `Terminating` while `spec.finalizers` holds
//! `kubernetes`; this controller removes that once nothing is left inside.
//! Pods are deleted gracefully, so this waits for their nodes.
//!
//! Source: namespaces page, "Namespaces and finalizers"; upstream
//! `pkg/controller/namespace/deletion/namespaced_resources_deleter.go`.

mod conditions;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use api::typed::Namespace;
use futures::StreamExt;
use kube::api::{DeleteParams, DynamicObject, ListParams, PostParams, WatchEvent, WatchParams};
use kube::discovery::{ApiCapabilities, ApiResource, Discovery, Scope, verbs};
use kube::{Api, Client, ResourceExt};
use kube_runtime::watcher::{self, Event};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::conditions::Findings;
use crate::watch::watch;
use crate::work::now;

/// The finalizer of every namespace.
const FINALIZER: &str = "kubernetes";
/// Namespaces that are emptied at a time; more wait.
const EMPTYING_MAX: usize = 16;
/// What is left is looked at again after this long even if nothing was seen
/// to go.
const RECHECK: Duration = Duration::from_secs(15);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// Why a namespace was not emptied; it is tried again.
#[derive(Debug, thiserror::Error)]
enum EmptyError {
    #[error("{doing}: {source}")]
    Request {
        doing: String,
        #[source]
        source: Box<kube::Error>,
    },
    #[error("{doing}: no answer within {} s", REQUEST_TIMEOUT.as_secs())]
    Timeout { doing: String },
}

/// Empties terminating namespaces until `shutdown`. What a dropped call has
/// begun is continued by the next run.
pub async fn run(client: Client, shutdown: CancellationToken) {
    let stream = watch(Api::<Namespace>::all(client.clone()), watcher::Config::default());
    let mut namespaces = std::pin::pin!(stream);
    let mut work: JoinSet<String> = JoinSet::new();
    let mut under_way = BTreeSet::new();
    let turns = Arc::new(Semaphore::new(EMPTYING_MAX));
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            Some(event) = namespaces.next() => match event {
                Event::Apply(namespace) | Event::InitApply(namespace) => {
                    if let Some(name) = to_empty(&namespace)
                        && under_way.insert(name.clone())
                    {
                        work.spawn(empty_until_gone(client.clone(), name, Arc::clone(&turns)));
                    }
                }
                Event::Delete(_) | Event::Init | Event::InitDone => {}
            },
            Some(ended) = work.join_next() => match ended {
                Ok(name) => drop(under_way.remove(&name)),
                Err(error) => std::panic::resume_unwind(error.into_panic()), // nobody aborts them
            },
        }
    }
}

/// The name of a namespace that waits to be emptied.
fn to_empty(namespace: &Namespace) -> Option<String> {
    let terminating = namespace.metadata.deletion_timestamp.is_some();
    let waits = namespace
        .spec
        .iter()
        .filter_map(|spec| spec.finalizers.as_ref())
        .flatten()
        .any(|finalizer| finalizer == FINALIZER);
    namespace.metadata.name.clone().filter(|_| terminating && waits)
}

/// The namespace without our finalizer; others' stay.
fn finalized(mut namespace: Namespace) -> Namespace {
    if let Some(finalizers) = namespace.spec.as_mut().and_then(|spec| spec.finalizers.as_mut()) {
        finalizers.retain(|finalizer| finalizer != FINALIZER);
    }
    namespace
}

/// Whether objects of a resource live in namespaces and can be found and
/// deleted.
fn to_delete((_, capabilities): &(ApiResource, ApiCapabilities)) -> bool {
    capabilities.scope == Scope::Namespaced
        && [verbs::LIST, verbs::DELETE]
            .iter()
            .all(|verb| capabilities.supports_operation(verb))
}

async fn empty_until_gone(client: Client, name: String, turns: Arc<Semaphore>) -> String {
    let mut retry = RETRY_MIN;
    loop {
        let attempt = {
            let _turn = turns.acquire().await; // never closed
            empty(&client, &name).await
        };
        match attempt {
            Ok(None) => {
                tracing::info!(namespace = %name, "namespace emptied");
                return name;
            }
            Ok(Some(left)) => {
                retry = RETRY_MIN;
                left.await_change().await;
            }
            Err(error) => {
                tracing::warn!(namespace = %name, error = %error, "namespace not emptied; it is tried again");
                tokio::time::sleep(retry).await;
                retry = (retry * 2).min(RETRY_MAX);
            }
        }
    }
}

/// Asks for everything inside to be deleted, and finalizes the namespace if
/// nothing is left; otherwise gives what to wait for.
async fn empty(client: &Client, name: &str) -> Result<Option<Left>, EmptyError> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let Some(namespace) = request(format!("getting namespace {name}"), namespaces.get_opt(name)).await? else {
        return Ok(None);
    };
    if to_empty(&namespace).is_none() {
        return Ok(None);
    }
    let mut findings = Findings::default();
    let discovery = match request("discovering resources".to_owned(), Discovery::new(client.clone()).run()).await {
        Ok(discovery) => discovery,
        Err(error) => {
            findings.discovery = Some(error.to_string());
            tell(&namespaces, namespace, &findings).await?;
            return Err(error);
        }
    };
    let (mut left, mut failed) = (None, None);
    for (resource, capabilities) in discovery.groups().flat_map(|group| group.recommended_resources()).filter(to_delete) {
        let objects: Api<DynamicObject> = Api::namespaced_with(client.clone(), name, &resource);
        match delete_all(&objects, &resource, &capabilities, name).await {
            Ok(None) => {}
            Ok(Some(remaining)) => {
                findings
                    .remaining
                    .insert(format!("{}.{}", resource.plural, resource.group), remaining.count);
                for (finalizer, count) in remaining.finalizers {
                    *findings.finalizers.entry(finalizer).or_default() += count;
                }
                left = left.or(Some(Left {
                    objects,
                    version: remaining.version,
                }));
            }
            // The others are deleted nevertheless.
            Err(error) => {
                findings.failures.push(error.to_string());
                failed = failed.or(Some(error));
            }
        }
    }
    if left.is_some() || failed.is_some() {
        tell(&namespaces, namespace, &findings).await?;
        return failed.map_or(Ok(left), Err);
    }
    match request(
        format!("finalizing namespace {name}"),
        namespaces.replace_subresource("finalize", name, &PostParams::default(), &finalized(namespace)),
    )
    .await
    {
        Err(EmptyError::Request { source, .. }) if is_code(&source, 404) => Ok(None),
        outcome => outcome.map(|_| None),
    }
}

/// Says in the namespace's conditions what holds it up.
async fn tell(namespaces: &Api<Namespace>, mut namespace: Namespace, findings: &Findings) -> Result<(), EmptyError> {
    let mut status = namespace.status.take().unwrap_or_default();
    let before = status.conditions.take().unwrap_or_default();
    let Some(conditions) = findings.conditions(&before, now()) else {
        return Ok(());
    };
    status.conditions = Some(conditions);
    namespace.status = Some(status);
    let name = namespace.name_any();
    let doing = format!("updating the status of namespace {name}");
    match request(doing, namespaces.replace_status(&name, &PostParams::default(), &namespace)).await {
        // It is gone, or somebody else has changed it: it is looked at again.
        Err(EmptyError::Request { source, .. }) if is_code(&source, 404) || is_code(&source, 409) => Ok(()),
        outcome => outcome.map(drop),
    }
}

/// What is left of one resource.
struct Remaining {
    version: String,
    count: usize,
    /// How many of them each finalizer holds.
    finalizers: BTreeMap<String, usize>,
}

/// Deletes all objects of one resource. `None` when none are left, otherwise
/// the revision at which some were, and what holds them.
async fn delete_all(
    objects: &Api<DynamicObject>,
    resource: &ApiResource,
    capabilities: &ApiCapabilities,
    namespace: &str,
) -> Result<Option<Remaining>, EmptyError> {
    let plural = &resource.plural;
    let doing = |verb: &str| format!("{verb} {plural} of namespace {namespace}");
    let found = request(doing("listing"), objects.list_metadata(&ListParams::default())).await?;
    if found.items.is_empty() {
        return Ok(None);
    }
    if capabilities.supports_operation(verbs::DELETE_COLLECTION) {
        request(
            doing("deleting"),
            objects.delete_collection(&DeleteParams::default(), &ListParams::default()),
        )
        .await
        .map(drop)?;
    } else {
        for name in found.items.iter().filter_map(|object| object.metadata.name.as_deref()) {
            match request(doing("deleting"), objects.delete(name, &DeleteParams::default())).await {
                Err(EmptyError::Request { source, .. }) if is_code(&source, 404) => {}
                outcome => outcome.map(drop)?,
            }
        }
    }
    let left = request(doing("listing"), objects.list_metadata(&ListParams::default())).await?;
    if left.items.is_empty() {
        return Ok(None);
    }
    let mut finalizers = BTreeMap::new();
    for finalizer in left.items.iter().flat_map(|object| object.metadata.finalizers.iter().flatten()) {
        *finalizers.entry(finalizer.clone()).or_default() += 1;
    }
    Ok(Some(Remaining {
        version: left.metadata.resource_version.unwrap_or_default(),
        count: left.items.len(),
        finalizers,
    }))
}

/// Objects that were still there at a revision.
struct Left {
    objects: Api<DynamicObject>,
    version: String,
}

impl Left {
    /// Returns once one of them is gone, or after [`RECHECK`].
    async fn await_change(self) {
        let gone = async {
            let seconds = u32::try_from(RECHECK.as_secs()).unwrap_or(u32::MAX);
            let stream = self
                .objects
                .watch_metadata(&WatchParams::default().timeout(seconds), &self.version)
                .await?;
            let mut stream = std::pin::pin!(stream);
            while let Some(event) = stream.next().await {
                if matches!(event?, WatchEvent::Deleted(_)) {
                    return Ok(());
                }
            }
            Ok::<(), kube::Error>(())
        };
        let started = tokio::time::Instant::now();
        match tokio::time::timeout(RECHECK, gone).await {
            Ok(Ok(())) | Err(_) => {}
            Ok(Err(error)) => {
                tracing::debug!(error = %error, "watch of what is left failed");
                tokio::time::sleep_until(started + RETRY_MIN).await;
            }
        }
    }
}

async fn request<T>(doing: String, call: impl Future<Output = kube::Result<T>>) -> Result<T, EmptyError> {
    match tokio::time::timeout(REQUEST_TIMEOUT, call).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(source)) => Err(EmptyError::Request {
            doing,
            source: Box::new(source),
        }),
        Err(_) => Err(EmptyError::Timeout { doing }),
    }
}

fn is_code(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn namespace(deleted: bool, finalizers: &[&str]) -> Namespace {
        let mut value = json!({ "metadata": { "name": "x" }, "spec": { "finalizers": finalizers } });
        if deleted {
            value["metadata"]["deletionTimestamp"] = json!("2024-01-01T00:00:00Z");
        }
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn only_terminating_namespaces_that_wait_for_us_are_emptied() {
        assert_eq!(to_empty(&namespace(true, &["kubernetes"])), Some("x".to_owned()));
        assert_eq!(to_empty(&namespace(false, &["kubernetes"])), None);
        assert_eq!(to_empty(&namespace(true, &["example.com/mine"])), None);
    }

    #[test]
    fn finalizers_of_others_stay() {
        let spec = finalized(namespace(true, &["kubernetes", "example.com/mine"])).spec.unwrap();
        assert_eq!(spec.finalizers.unwrap(), ["example.com/mine"]);
    }

    #[test]
    fn only_namespaced_resources_that_can_be_deleted_are() {
        let row = |scope: Scope, operations: &[&str]| {
            let resource = ApiResource {
                group: String::new(),
                version: "v1".into(),
                api_version: "v1".into(),
                kind: "X".into(),
                plural: "xs".into(),
            };
            (
                resource,
                ApiCapabilities {
                    scope,
                    subresources: Vec::new(),
                    operations: operations.iter().map(|verb| (*verb).to_owned()).collect(),
                },
            )
        };
        assert!(to_delete(&row(Scope::Namespaced, &["list", "delete", "get"])));
        assert!(!to_delete(&row(Scope::Cluster, &["list", "delete"])));
        assert!(!to_delete(&row(Scope::Namespaced, &["create"])));
    }
}
