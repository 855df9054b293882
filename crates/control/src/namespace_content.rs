//! Objects every namespace must hold: the ServiceAccount `default`, and the
//! ConfigMap `kube-root-ca.crt` with the certificate of the cluster's CA.
//!
//! Source: service accounts page; upstream `serviceaccounts_controller.go` and
//! `rootcacertpublisher`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::time::Duration;

use api::Time;
use api::typed::{ConfigMap, Namespace, ObjectMeta, ServiceAccount};
use futures::StreamExt;
use jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource, ResourceExt};
use kube_runtime::watcher::{self, Event};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::watch::watch;

const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Between attempts at a write that failed.
const RETRY: Duration = Duration::from_secs(5);
/// For a write to be answered and then seen.
const SEEN_TIMEOUT: Duration = Duration::from_secs(30);
/// Writes under way at a time.
const WRITES_MAX: usize = 16;

const ROOT_CA_DESCRIPTION: &str = "kubernetes.io/description";

/// Keeps a ServiceAccount `default` in every namespace until `shutdown`.
pub async fn service_accounts(client: Client, shutdown: CancellationToken) {
    let make = |metadata| ServiceAccount {
        metadata,
        ..ServiceAccount::default()
    };
    keep(client, "default", make, |_| true, shutdown).await;
}

/// Keeps a ConfigMap `kube-root-ca.crt` in every namespace until `shutdown`.
/// `ca_pem` is what it holds under `ca.crt`.
pub async fn root_certificates(client: Client, ca_pem: String, shutdown: CancellationToken) {
    let data = BTreeMap::from([("ca.crt".to_owned(), ca_pem)]);
    let wanted = data.clone();
    let make = move |metadata| root_certificate(metadata, data.clone());
    keep(
        client,
        "kube-root-ca.crt",
        make,
        move |found: &ConfigMap| found.data.as_ref() == Some(&wanted),
        shutdown,
    )
    .await;
}

fn root_certificate(mut metadata: ObjectMeta, data: BTreeMap<String, String>) -> ConfigMap {
    let text = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or \
                kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.";
    metadata.annotations = Some(BTreeMap::from([(ROOT_CA_DESCRIPTION.to_owned(), text.to_owned())]));
    ConfigMap {
        metadata,
        data: Some(data),
        ..ConfigMap::default()
    }
}

/// Which namespaces lack the object.
#[derive(Debug, Default)]
struct Ledger {
    active: BTreeSet<String>,
    /// Namespaces that hold the object as it should be.
    held: BTreeSet<String>,
    /// Namespaces not to be written to before that time: a write is under way,
    /// or has failed.
    not_before: BTreeMap<String, Time>,
}

impl Ledger {
    fn namespace(&mut self, name: &str, active: bool) {
        if active {
            self.active.insert(name.to_owned());
        } else {
            self.active.remove(name);
            self.not_before.remove(name);
        }
    }

    fn object(&mut self, namespace: &str, as_it_should_be: bool) {
        self.not_before.remove(namespace);
        if as_it_should_be {
            self.held.insert(namespace.to_owned());
        } else {
            self.held.remove(namespace);
        }
    }

    /// A namespace to write to now.
    fn next(&mut self, now: Time) -> Option<String> {
        let lacking = |name: &&String| !self.held.contains(*name) && self.not_before.get(*name).is_none_or(|time| *time <= now);
        let name = self.active.iter().find(lacking)?.clone();
        self.not_before.insert(name.clone(), now + SEEN_TIMEOUT);
        Some(name)
    }

    fn failed(&mut self, namespace: &str, now: Time) {
        if self.active.contains(namespace) && !self.held.contains(namespace) {
            self.not_before.insert(namespace.to_owned(), now + RETRY);
        }
    }

    fn wake_at(&self) -> Option<Time> {
        self.active
            .iter()
            .filter(|name| !self.held.contains(*name))
            .filter_map(|name| self.not_before.get(name))
            .min()
            .copied()
    }
}

async fn keep<K>(client: Client, name: &str, make: impl Fn(ObjectMeta) -> K, is_right: impl Fn(&K) -> bool, shutdown: CancellationToken)
where
    K: Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + Debug
        + Serialize
        + DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    let all = watch(Api::<Namespace>::all(client.clone()), watcher::Config::default());
    let mut namespaces = std::pin::pin!(all);
    let ours = watch(
        Api::<K>::all(client.clone()),
        watcher::Config::default().fields(&format!("metadata.name={name}")),
    );
    let mut objects = std::pin::pin!(ours);
    let mut ledger = Ledger::default();
    let mut listed = false;
    let mut writes: JoinSet<(String, Result<(), String>)> = JoinSet::new();
    loop {
        while listed
            && writes.len() < WRITES_MAX
            && let Some(namespace) = ledger.next(now())
        {
            let metadata = ObjectMeta {
                name: Some(name.to_owned()),
                namespace: Some(namespace.clone()),
                ..ObjectMeta::default()
            };
            writes.spawn(write(client.clone(), namespace, make(metadata)));
        }
        let may_write = listed && writes.len() < WRITES_MAX;
        let wake = ledger
            .wake_at()
            .filter(|_| may_write)
            .map_or(SEEN_TIMEOUT, |time| time.since(now()));
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(wake) => {}
            Some(event) = namespaces.next() => match event {
                Event::Apply(found) | Event::InitApply(found) => ledger.namespace(&found.name_any(), found.metadata.deletion_timestamp.is_none()),
                Event::Delete(found) => ledger.namespace(&found.name_any(), false),
                Event::Init => ledger.active.clear(),
                Event::InitDone => {}
            },
            Some(event) = objects.next() => match event {
                Event::Apply(found) | Event::InitApply(found) => ledger.object(&found.namespace().unwrap_or_default(), is_right(&found)),
                Event::Delete(found) => ledger.object(&found.namespace().unwrap_or_default(), false),
                Event::Init => {
                    ledger.held.clear();
                    listed = false;
                }
                Event::InitDone => listed = true,
            },
            Some(ended) = writes.join_next() => match ended {
                Ok((_, Ok(()))) => {} // the watch will show it
                Ok((namespace, Err(error))) => {
                    tracing::debug!(namespace, object = name, error, "not written; it is tried again");
                    ledger.failed(&namespace, now());
                }
                Err(error) => std::panic::resume_unwind(error.into_panic()), // nobody aborts them
            },
        }
    }
}

/// Creates the object, or sets one that exists right.
async fn write<K>(client: Client, namespace: String, object: K) -> (String, Result<(), String>)
where
    K: Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned,
{
    let objects: Api<K> = Api::namespaced(client, &namespace);
    let writing = async {
        match objects.create(&PostParams::default(), &object).await {
            Err(kube::Error::Api(status)) if status.code == 409 => objects
                .patch(&object.name_any(), &PatchParams::default(), &Patch::Merge(&object))
                .await
                .map(drop),
            outcome => outcome.map(drop),
        }
    };
    let outcome = match tokio::time::timeout(REQUEST_TIMEOUT, writing).await {
        Ok(outcome) => outcome.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {} s", REQUEST_TIMEOUT.as_secs())),
    };
    (namespace, outcome)
}

fn now() -> Time {
    Timestamp::now().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Time {
        Time::from_secs(seconds)
    }

    #[test]
    fn each_active_namespace_that_lacks_the_object_is_written_to_once() {
        let mut ledger = Ledger::default();
        for (name, active) in [("a", true), ("b", true), ("c", false)] {
            ledger.namespace(name, active);
        }
        ledger.object("b", true);
        assert_eq!(ledger.next(at(0)).as_deref(), Some("a"));
        assert_eq!((ledger.next(at(0)), ledger.wake_at()), (None, Some(at(30))), "it is under way");
        ledger.object("a", true);
        assert_eq!((ledger.next(at(99)), ledger.wake_at()), (None, None));
        ledger.object("a", false); // deleted, or changed by somebody
        assert_eq!(ledger.next(at(99)).as_deref(), Some("a"));
    }

    #[test]
    fn a_failed_write_is_tried_again_unless_the_namespace_goes() {
        let mut ledger = Ledger::default();
        ledger.namespace("a", true);
        assert!(ledger.next(at(0)).is_some());
        ledger.failed("a", at(1));
        assert_eq!((ledger.next(at(5)), ledger.wake_at()), (None, Some(at(6))));
        assert_eq!(ledger.next(at(6)).as_deref(), Some("a"));
        ledger.namespace("a", false);
        ledger.failed("a", at(7));
        assert_eq!((ledger.next(at(99)), ledger.wake_at()), (None, None));
    }
}
