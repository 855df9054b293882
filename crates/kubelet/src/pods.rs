//! The pods bound to this node, as its parts share them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::Uid;
use api::node::Observation;
use api::typed::Pod;
use tokio::sync::watch;

/// One pod of this node: what is wanted and what was last seen.
#[derive(Clone, Debug)]
pub struct Known {
    /// As the API server holds it.
    pub pod: Arc<Pod>,
    /// As the runtime reported it last.
    pub observed: Arc<Observation>,
}

/// Every pod of this node, by UID. Holds no policy.
#[derive(Debug, Default)]
pub struct Pods {
    by_uid: Mutex<BTreeMap<Uid, Known>>,
    /// Grows whenever a pod was observed or forgotten.
    changes: watch::Sender<u64>,
    /// Grows whenever the API told of a pod, or one was forgotten.
    wanted_changes: watch::Sender<u64>,
    /// Every pod that was here when this agent began has been looked at.
    settled: watch::Sender<bool>,
}

/// How long the first look at all pods may take; whoever asks about one
/// meanwhile waits for it, and no longer.
const SETTLING: Duration = Duration::from_secs(5);

impl Pods {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Uid, Known>> {
        // A panic while it was held cannot have left a half-made entry.
        self.by_uid.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Sets what is wanted of a pod.
    pub fn set_desired(&self, uid: &Uid, pod: Arc<Pod>) {
        self.lock()
            .entry(uid.clone())
            .and_modify(|known| known.pod = pod.clone())
            .or_insert_with(|| Known {
                pod,
                observed: Arc::default(),
            });
        self.wanted_changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Sets what was seen of a pod; older snapshots are dropped.
    pub fn set_observed(&self, uid: &Uid, observed: Arc<Observation>) {
        if let Some(known) = self.lock().get_mut(uid)
            && known.observed.sequence <= observed.sequence
        {
            known.observed = observed;
        }
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Forgets a pod.
    pub fn remove(&self, uid: &Uid) {
        self.lock().remove(uid);
        self.wanted_changes.send_modify(|count| *count = count.wrapping_add(1));
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Grows whenever a pod was observed or forgotten.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Grows whenever the API told of a pod, or one was forgotten.
    #[must_use]
    pub fn wanted_changes(&self) -> watch::Receiver<u64> {
        self.wanted_changes.subscribe()
    }

    /// Waits until every pod there is has been looked at, but not for ever, and
    /// says so to those in [`settled`](Self::settled). For after the first list.
    pub async fn settle(&self) {
        let mut changes = self.changes();
        let looked = async {
            while self.lock().values().any(|known| known.observed.sequence == 0) {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        if tokio::time::timeout(SETTLING, looked).await.is_err() {
            tracing::warn!(
                "some pods could not be looked at within {SETTLING:?} of the start; what is asked about them is answered without"
            );
        }
        self.settled.send_replace(true);
    }

    /// Waits until what is said here of pods is more than that nothing is known
    /// yet: after a restart they are where they were, and a client is to be told
    /// nothing else.
    pub async fn settled(&self) {
        let mut settled = self.settled.subscribe();
        // The list itself may take as long as a look at the pods.
        let _ = tokio::time::timeout(SETTLING * 2, settled.wait_for(|settled| *settled)).await;
    }

    /// Every pod, by UID.
    #[must_use]
    pub fn all(&self) -> Vec<(Uid, Known)> {
        self.lock().iter().map(|(uid, known)| (uid.clone(), known.clone())).collect()
    }

    /// A pod by its UID.
    #[must_use]
    pub fn get(&self, uid: &Uid) -> Option<Known> {
        self.lock().get(uid).cloned()
    }

    /// A pod by its name. Where a terminating pod of the same name is still
    /// here, the newer one is meant.
    #[must_use]
    pub fn find(&self, namespace: &str, name: &str) -> Option<(Uid, Known)> {
        let pods = self.lock();
        let named = pods.iter().filter(|(_, known)| {
            let meta = &known.pod.metadata;
            meta.namespace.as_deref() == Some(namespace) && meta.name.as_deref() == Some(name)
        });
        let created = |known: &Known| known.pod.metadata.creation_timestamp.as_ref().map(api::Time::from);
        named
            .max_by_key(|(_, known)| created(known))
            .map(|(uid, known)| (uid.clone(), known.clone()))
    }
}

/// The directory of a pod's logs: `<root>/<namespace>_<name>_<uid>`, as
/// upstream's.
#[must_use]
pub fn log_dir(root: &Path, namespace: &str, name: &str, uid: &Uid) -> PathBuf {
    root.join(format!("{namespace}_{name}_{uid}"))
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn who_asks_after_a_start_waits_for_the_first_look() {
        let pods = Pods::default();
        let uid: Uid = "0d5e5c9e-4a0b-4b0e-9a58-6a1f0c9f0001".parse().unwrap();
        pods.set_desired(&uid, Arc::default());
        let mut asked = Box::pin(pods.settled());
        let mut look = Box::pin(pods.settle());
        assert!(asked.as_mut().now_or_never().is_none() && look.as_mut().now_or_never().is_none());
        let seen = Observation {
            sequence: 1,
            ..Observation::default()
        };
        pods.set_observed(&uid, Arc::new(seen));
        look.await;
        asked.await;
        assert!(pods.settled().now_or_never().is_some(), "nobody waits afterwards");
    }
}
