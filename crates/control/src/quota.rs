//! Counts what namespaces use of their ResourceQuotas.
//!
//! Writes are charged as they happen, by the API server; this counts anew when
//! a quota is new or has changed, when something was deleted or has ended, and
//! every few minutes. It counts from a list that is newer than the quota it
//! read and writes only over that: a charge in between makes it count again.
//!
//! Source: upstream `pkg/controller/resourcequota/resource_quota_controller.go`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use api::pods::{Resources, add, is_terminal, is_terminating, requests_in_force};
use api::quota::{amounts, concerns, counts, in_scope, usage};
use api::typed::{Pod, ResourceQuota};
use api::{Object, Quantity};
use futures::StreamExt;
use futures::stream::{BoxStream, SelectAll};
use kube::api::{ApiResource, DynamicObject, ListParams, PostParams};
use kube::core::PartialObjectMeta;
use kube::discovery::Scope;
use kube::{Api, Client, ResourceExt};
use kube_runtime::watcher::{Config, Event};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::discover::{self, Served};
use crate::watch::watch;
use crate::work::{Work, code, now};

/// Quotas counted at a time.
const MOST: usize = 4;
/// Everything is counted again after this long.
///
/// Source: upstream `--resource-quota-sync-period`.
const RESYNC: Duration = Duration::from_secs(300);

type Key = (String, String);

/// Keeps quotas' statuses until `shutdown`.
pub async fn run(client: Client, shutdown: CancellationToken) {
    let mut quotas = std::pin::pin!(watch(Api::<ResourceQuota>::all(client.clone()), Config::default()));
    let mut known: BTreeMap<Key, BTreeSet<String>> = BTreeMap::new();
    let mut changes = discover::watchable(client.clone());
    let mut served: Option<Arc<Vec<ApiResource>>> = None;
    let mut freed: SelectAll<BoxStream<'static, String>> = SelectAll::new();
    let mut watched: BTreeSet<String> = BTreeSet::new();
    let mut work = Work::new("resourcequota", MOST);
    loop {
        if known.is_empty() {
            (freed, watched) = (SelectAll::new(), BTreeSet::new());
        } else if let Some(served) = &served {
            for resource in served.iter().filter(|resource| {
                known
                    .values()
                    .flatten()
                    .any(|name| concerns(&resource.group, &resource.plural, name))
            }) {
                if watched.insert(format!("{}.{}", resource.plural, resource.group)) {
                    freed.push(frees(&client, resource));
                }
            }
            work.start(|key| count(client.clone(), key, Arc::clone(served)));
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = work.turn() => {}
            // Nobody asks while there is nothing to count.
            Some(found) = changes.next(), if !known.is_empty() => {
                served = Some(Arc::new(countable(found)));
                // What was freed meanwhile is seen by counting anew.
                (freed, watched) = (SelectAll::new(), BTreeSet::new());
                known.keys().cloned().for_each(|key| work.ask(key));
            }
            Some(namespace) = freed.next(), if !freed.is_empty() => {
                for quota in known.keys().filter(|(of, _)| *of == namespace) {
                    work.ask(quota.clone());
                }
            }
            Some(event) = quotas.next() => match event {
                Event::Apply(quota) | Event::InitApply(quota) => {
                    let hard = quota.spec.as_ref().and_then(|spec| spec.hard.clone()).unwrap_or_default();
                    known.insert(key(&quota), hard.into_keys().collect());
                    if is_new(&quota) {
                        work.ask(key(&quota));
                    }
                }
                Event::Delete(quota) => drop(known.remove(&key(&quota))),
                Event::Init => known.clear(),
                Event::InitDone => known.keys().cloned().for_each(|key| work.ask(key)),
            },
        }
    }
}

fn key(quota: &ResourceQuota) -> Key {
    (quota.namespace().unwrap_or_default(), quota.name_any())
}

/// Whether what it asks for is not what is counted.
fn is_new(quota: &ResourceQuota) -> bool {
    quota.spec.as_ref().and_then(|spec| spec.hard.as_ref()) != quota.status.as_ref().and_then(|status| status.hard.as_ref())
}

/// Every resource of namespaces that can be listed and watched, and that a
/// quota may count.
fn countable(served: Vec<Served>) -> Vec<ApiResource> {
    let all = served.into_iter();
    let fitting = all.filter(|(resource, capabilities)| capabilities.scope == Scope::Namespaced && counts(&resource.plural));
    fitting.map(|(resource, _)| resource).collect()
}

/// The namespaces in which something of a resource was freed.
fn frees(client: &Client, resource: &ApiResource) -> BoxStream<'static, String> {
    if resource.group.is_empty() && resource.plural == "pods" {
        let pods = watch(Api::<Pod>::all(client.clone()), Config::default());
        let mut counted = BTreeMap::new();
        return pods
            .filter_map(move |event| std::future::ready(freed_by_pod(&mut counted, event)))
            .boxed();
    }
    // A Service or a claim may also come to use less.
    let shrinks = matches!(resource.plural.as_str(), "services" | "persistentvolumeclaims");
    let all: Api<PartialObjectMeta<DynamicObject>> = Api::all_with(client.clone(), resource);
    watch(all, Config::default())
        .filter_map(move |event| async move {
            match event {
                Event::Delete(object) => object.metadata.namespace,
                Event::Apply(object) if shrinks => object.metadata.namespace,
                _ => None,
            }
        })
        .boxed()
}

/// The namespace in which a pod uses less than it did: it is gone, has ended or
/// is about to, or was resized. `counted` is what each pod was last seen to use.
fn freed_by_pod(counted: &mut BTreeMap<Key, Resources>, event: Event<Pod>) -> Option<String> {
    let named = |pod: &Pod| (pod.namespace().unwrap_or_default(), pod.name_any());
    match event {
        Event::Init => counted.clear(),
        Event::InitDone => {}
        Event::InitApply(pod) => drop(counted.insert(named(&pod), requests_in_force(&pod))),
        Event::Apply(pod) => {
            let now = requests_in_force(&pod);
            let before = counted.insert(named(&pod), now.clone()).unwrap_or_default();
            let shrunk = before.iter().any(|(name, amount)| now.get(name).is_none_or(|now| now < amount));
            if shrunk || is_terminal(&pod) || is_terminating(&pod) {
                return pod.namespace();
            }
        }
        Event::Delete(pod) => {
            counted.remove(&named(&pod));
            return pod.namespace();
        }
    }
    None
}

/// Counts what a quota limits, and writes it down.
async fn count(client: Client, (namespace, name): Key, served: Arc<Vec<ApiResource>>) -> Result<Option<Duration>, String> {
    let shown = |error: kube::Error| error.to_string();
    let quotas: Api<ResourceQuota> = Api::namespaced(client.clone(), &namespace);
    let Some(found) = quotas.get_opt(&name).await.map_err(shown)? else {
        return Ok(None);
    };
    let mut quota = Object::from_typed(&found).map_err(|error| error.to_string())?;
    let hard = amounts(&quota, "spec.hard");
    let mut used: Resources = Resources::new();
    for resource in served.iter() {
        let names: Vec<&String> = hard
            .keys()
            .filter(|name| concerns(&resource.group, &resource.plural, name))
            .collect();
        if names.is_empty() {
            continue;
        }
        let objects: Api<DynamicObject> = Api::namespaced_with(client.clone(), &namespace, resource);
        let list = objects.list(&ListParams::default()).await.map_err(shown)?;
        let objects = list.items.iter().filter_map(|item| Object::from_typed(item).ok());
        let total = total(&quota, &resource.group, &resource.plural, objects);
        for name in names {
            used.insert(name.clone(), total.get(name).copied().unwrap_or(Quantity::ZERO));
        }
    }
    let texts = |amounts: &Resources| -> Value {
        amounts
            .iter()
            .map(|(name, amount)| (name.clone(), json!(amount.to_string())))
            .collect::<serde_json::Map<_, _>>()
            .into()
    };
    if amounts(&quota, "status.hard") == hard && amounts(&quota, "status.used") == used {
        return Ok(Some(RESYNC));
    }
    quota
        .body
        .insert("status".to_owned(), json!({ "hard": texts(&hard), "used": texts(&used) }));
    let written: ResourceQuota = quota.view().map_err(|error| error.to_string())?;
    match quotas.replace_status(&name, &PostParams::default(), &written).await {
        Ok(_) => Ok(Some(RESYNC)),
        Err(error) if code(&error) == Some(404) => Ok(None),
        Err(error) => Err(shown(error)),
    }
}

/// What objects use together, of those the quota is about. Pure but for the
/// time.
fn total(quota: &Object, group: &str, plural: &str, objects: impl Iterator<Item = Object>) -> Resources {
    let mut total = Resources::new();
    for object in objects.filter(|object| in_scope(quota, group, plural, object)) {
        add(&mut total, usage(group, plural, &object, now()));
    }
    total
}
