//! The cluster's storage as the binder and the scheduler see it: claims,
//! volumes, classes, and which volume would do for which claim. Pure.
//!
//! Source: upstream `k8s.io/component-helpers/storage/volume`
//! (`FindMatchingVolume`, `CheckVolumeModeMismatches`, `CheckAccessModes`),
//! `pkg/controller/volume/persistentvolume/index.go`.

mod follow;

pub use follow::{Change, Listing, Listings, follow};

use std::collections::BTreeMap;

use api::Quantity;
use api::selector::Selector;
use api::typed::storage::StorageClass;
use api::typed::{NodeSelector, ObjectMeta, PersistentVolume, PersistentVolumeClaim, WireQuantity};

/// On a claim: it and its volume know of each other.
pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// On a claim or a volume: its binding was the controller's choice.
pub const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// On a volume: who made it, and is to remove it.
pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// On a claim: who is to make its volume.
pub const PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
/// On a claim: the node its first Pod will run on.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// The provisioner of classes whose volumes people make.
pub const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";
/// Where a class was named before there was a field.
const OLD_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

/// Namespace and name of a claim.
pub type ClaimKey = (String, String);

/// Everything there is.
#[derive(Clone, Debug, Default)]
pub struct Storage {
    /// By namespace and name.
    pub claims: BTreeMap<ClaimKey, PersistentVolumeClaim>,
    /// By name.
    pub volumes: BTreeMap<String, PersistentVolume>,
    /// By name.
    pub classes: BTreeMap<String, StorageClass>,
}

/// Namespace and name.
#[must_use]
pub fn key(meta: &ObjectMeta) -> ClaimKey {
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

/// The value of an annotation.
#[must_use]
pub fn annotation<'m>(meta: &'m ObjectMeta, name: &str) -> Option<&'m str> {
    meta.annotations.as_ref()?.get(name).map(String::as_str)
}

/// Name of the volume a claim has, or wants; empty for none.
#[must_use]
pub fn volume_name(claim: &PersistentVolumeClaim) -> &str {
    let spec = claim.spec.as_ref();
    spec.and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default()
}

/// Class of a claim; empty for none.
#[must_use]
pub fn class_name(claim: &PersistentVolumeClaim) -> &str {
    let spec = claim.spec.as_ref();
    let named = spec.and_then(|spec| spec.storage_class_name.as_deref());
    annotation(&claim.metadata, OLD_CLASS).or(named).unwrap_or_default()
}

/// Whether a claim has its volume, for good.
#[must_use]
pub fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    !volume_name(claim).is_empty() && annotation(&claim.metadata, BIND_COMPLETED).is_some()
}

/// Whether a volume is meant for a claim, by name, and if it says so by UID.
#[must_use]
pub fn is_for(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let Some(reference) = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()) else {
        return false;
    };
    let (namespace, name) = key(&claim.metadata);
    let uid = reference.uid.as_deref().unwrap_or_default();
    reference.namespace.as_deref() == Some(&namespace)
        && reference.name.as_deref() == Some(&name)
        && (uid.is_empty() || claim.metadata.uid.as_deref() == Some(uid))
}

/// What of a claim a volume does not meet.
///
/// # Errors
/// In upstream's words.
pub fn satisfies(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Result<(), &'static str> {
    let (of_volume, of_claim) = (volume.spec.clone().unwrap_or_default(), claim.spec.clone().unwrap_or_default());
    let amount = |map: Option<&BTreeMap<String, WireQuantity>>| {
        let wire = map.and_then(|map| map.get("storage"));
        wire.and_then(|wire| Quantity::try_from(wire).ok()).unwrap_or_default()
    };
    let asked = of_claim.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    if amount(of_volume.capacity.as_ref()) < amount(asked) {
        return Err("requested PV is too small");
    }
    let class = annotation(&volume.metadata, OLD_CLASS).or(of_volume.storage_class_name.as_deref());
    if class.unwrap_or_default() != class_name(claim) {
        return Err("storageClassName does not match");
    }
    let mode = |mode: Option<String>| mode.unwrap_or_else(|| "Filesystem".to_owned());
    if mode(of_volume.volume_mode) != mode(of_claim.volume_mode) {
        return Err("incompatible volumeMode");
    }
    let offered = of_volume.access_modes.unwrap_or_default();
    if !of_claim.access_modes.iter().flatten().all(|mode| offered.contains(mode)) {
        return Err("incompatible accessMode");
    }
    Ok(())
}

impl Storage {
    /// Whether a claim's volume is chosen only once its first Pod has a node.
    #[must_use]
    pub fn waits_for_consumer(&self, claim: &PersistentVolumeClaim) -> bool {
        let class = self.classes.get(class_name(claim));
        class.and_then(|class| class.volume_binding_mode.as_deref()) == Some("WaitForFirstConsumer")
    }

    /// Who makes the volumes of a claim's class; empty for nobody.
    #[must_use]
    pub fn provisioner(&self, claim: &PersistentVolumeClaim) -> &str {
        let class = self.classes.get(class_name(claim)).map(|class| class.provisioner.as_str());
        class.filter(|name| *name != NO_PROVISIONER).unwrap_or_default()
    }

    /// The volume somebody set aside for a claim.
    #[must_use]
    pub fn set_aside(&self, claim: &PersistentVolumeClaim) -> Option<&PersistentVolume> {
        self.volumes.values().find(|volume| is_for(volume, claim))
    }

    /// The smallest free volume that would do for a claim, `reachable` where
    /// it is needed.
    pub fn best(&self, claim: &PersistentVolumeClaim, reachable: impl Fn(Option<&NodeSelector>) -> bool) -> Option<&PersistentVolume> {
        let wanted = claim.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        // A selector that cannot be read selects nothing.
        let wanted = match wanted.map(Selector::try_from) {
            Some(Err(_)) => return None,
            Some(Ok(selector)) => Some(selector),
            None => None,
        };
        let none = BTreeMap::new();
        let free = self.volumes.values().filter(|volume| {
            let spec = volume.spec.as_ref();
            let affinity = spec
                .and_then(|spec| spec.node_affinity.as_ref())
                .and_then(|affinity| affinity.required.as_ref());
            let labels = volume.metadata.labels.as_ref().unwrap_or(&none);
            spec.is_some_and(|spec| spec.claim_ref.is_none())
                && volume.metadata.deletion_timestamp.is_none()
                && satisfies(volume, claim).is_ok()
                && wanted.as_ref().is_none_or(|selector| selector.matches(labels))
                && reachable(affinity)
        });
        let size = |volume: &&PersistentVolume| {
            let capacity = volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref());
            let wire = capacity.and_then(|capacity| capacity.get("storage"));
            wire.and_then(|wire| Quantity::try_from(wire).ok()).unwrap_or_default()
        };
        free.min_by_key(size)
    }
}
