//! The pods bound to this node, as its parts share them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

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
}

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
