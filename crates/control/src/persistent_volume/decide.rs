//! What is to be written about claims and volumes. Pure.
//!
//! One step for an object at a time: a write brings the object back changed,
//! and the next look goes on from there.
//!
//! Source: upstream `pkg/controller/volume/persistentvolume/pv_controller.go`
//! (`syncClaim`, `syncVolume`), `pkg/controller/volume/{pvcprotection,pvprotection}`.

use std::collections::BTreeSet;

use api::typed::{ObjectReference, PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimStatus, PersistentVolumeStatus};

use crate::storage::{
    BIND_COMPLETED, BOUND_BY_CONTROLLER, ClaimKey, PROVISIONED_BY, PROVISIONER, SELECTED_NODE, Storage, annotation, class_name, is_bound,
    is_for, key, satisfies, volume_name,
};

/// Keeps a claim that a Pod uses.
const CLAIM_PROTECTION: &str = "kubernetes.io/pvc-protection";
/// Keeps a volume that a claim has.
const VOLUME_PROTECTION: &str = "kubernetes.io/pv-protection";

/// Something to be written.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// A volume, but for its status.
    Volume(Box<PersistentVolume>),
    /// The status of a volume.
    VolumeStatus(Box<PersistentVolume>),
    /// The status of a volume whose claim is gone, if it really is: its data
    /// may be removed afterwards.
    Release(Box<PersistentVolume>),
    /// A claim, but for its status.
    Claim(Box<PersistentVolumeClaim>),
    /// The status of a claim.
    ClaimStatus(Box<PersistentVolumeClaim>),
    /// Something to tell of a claim or a volume.
    Tell(Box<Told>),
}

/// An event.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    /// What it is about.
    pub about: ObjectReference,
    /// `Normal` or `Warning`.
    pub kind: &'static str,
    /// Upstream's reason word.
    pub reason: &'static str,
    /// Upstream's wording.
    pub message: String,
}

/// Everything that is to be done now. `used` are the claims that Pods use
/// which have not ended.
#[must_use]
pub fn decide(storage: &Storage, used: &BTreeSet<ClaimKey>) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut chosen = BTreeSet::new();
    for claim in storage.claims.values() {
        if claim.metadata.deletion_timestamp.is_some() {
            if !used.contains(&key(&claim.metadata)) {
                steps.extend(without(&claim.metadata.finalizers, CLAIM_PROTECTION).map(|finalizers| {
                    let mut claim = claim.clone();
                    claim.metadata.finalizers = finalizers;
                    Step::Claim(Box::new(claim))
                }));
            }
            continue;
        }
        steps.extend(of_claim(storage, claim, &mut chosen));
    }
    for volume in storage.volumes.values().filter(|volume| !chosen.contains(name(volume))) {
        steps.extend(of_volume(storage, volume));
    }
    steps
}

fn without(finalizers: &Option<Vec<String>>, name: &str) -> Option<Option<Vec<String>>> {
    let list = finalizers.as_ref().filter(|list| list.iter().any(|known| known == name))?;
    Some(Some(list.iter().filter(|known| *known != name).cloned().collect()))
}

fn name(volume: &PersistentVolume) -> &str {
    volume.metadata.name.as_deref().unwrap_or_default()
}

fn of_claim(storage: &Storage, claim: &PersistentVolumeClaim, chosen: &mut BTreeSet<String>) -> Vec<Step> {
    if is_bound(claim) {
        return of_bound_claim(storage, claim);
    }
    if volume_name(claim).is_empty() {
        return find_volume(storage, claim, chosen);
    }
    // Somebody named the volume.
    let Some(volume) = storage.volumes.get(volume_name(claim)) else {
        return Vec::new(); // it may come
    };
    if chosen.contains(name(volume)) {
        return Vec::new(); // another claim is being joined with it: the next look tells
    }
    let taken = volume.spec.as_ref().is_some_and(|spec| spec.claim_ref.is_some());
    if taken && !is_for(volume, claim) {
        let message = format!("volume {:?} already bound to a different claim.", name(volume));
        return vec![tell(claim, "Warning", "FailedBinding", message)];
    }
    if !taken && let Err(why) = satisfies(volume, claim) {
        let message = format!("Cannot bind to requested volume {:?}: {why}", name(volume));
        return vec![tell(claim, "Warning", "VolumeMismatch", message)];
    }
    vec![join(volume, claim, chosen)]
}

/// Brings a claim and its volume one step nearer to each other.
fn join(volume: &PersistentVolume, claim: &PersistentVolumeClaim, chosen: &mut BTreeSet<String>) -> Step {
    chosen.insert(name(volume).to_owned());
    let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    let knows = reference.is_some_and(|reference| reference.uid == claim.metadata.uid);
    if !knows {
        let mut volume = volume.clone();
        if reference.is_none() {
            mark(&mut volume.metadata, BOUND_BY_CONTROLLER);
        }
        let (namespace, name) = key(&claim.metadata);
        volume.spec.get_or_insert_default().claim_ref = Some(ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("PersistentVolumeClaim".to_owned()),
            namespace: Some(namespace),
            name: Some(name),
            uid: claim.metadata.uid.clone(),
            resource_version: claim.metadata.resource_version.clone(),
            ..ObjectReference::default()
        });
        return Step::Volume(Box::new(volume));
    }
    let mut claim = claim.clone();
    if volume_name(&claim).is_empty() {
        claim.spec.get_or_insert_default().volume_name = Some(name(volume).to_owned());
        mark(&mut claim.metadata, BOUND_BY_CONTROLLER);
    }
    mark(&mut claim.metadata, BIND_COMPLETED);
    Step::Claim(Box::new(claim))
}

fn mark(meta: &mut api::typed::ObjectMeta, annotation: &str) {
    meta.annotations
        .get_or_insert_default()
        .insert(annotation.to_owned(), "yes".to_owned());
}

fn find_volume(storage: &Storage, claim: &PersistentVolumeClaim, chosen: &mut BTreeSet<String>) -> Vec<Step> {
    let waits = storage.waits_for_consumer(claim);
    let set_aside = storage.set_aside(claim);
    // What waits for its consumer is chosen with the consumer's node.
    let found = set_aside.or_else(|| if waits { None } else { storage.best(claim, |_| true) });
    if let Some(volume) = found.filter(|volume| !chosen.contains(name(volume))) {
        return vec![join(volume, claim, chosen)];
    }
    let selected = annotation(&claim.metadata, SELECTED_NODE).is_some();
    let class = class_name(claim);
    if waits && !selected {
        let message = "waiting for first consumer to be created before binding".to_owned();
        return vec![tell(claim, "Normal", "WaitForFirstConsumer", message)];
    }
    if class.is_empty() {
        let message = "no persistent volumes available for this claim and no storage class is set".to_owned();
        return vec![tell(claim, "Normal", "FailedBinding", message)];
    }
    if !storage.classes.contains_key(class) {
        let message = format!("storageclass.storage.k8s.io {class:?} not found");
        return vec![tell(claim, "Warning", "ProvisioningFailed", message)];
    }
    let provisioner = storage.provisioner(claim);
    if provisioner.is_empty() {
        let message = "no persistent volumes available for this claim and no storage class is set".to_owned();
        return vec![tell(claim, "Normal", "FailedBinding", message)];
    }
    if annotation(&claim.metadata, PROVISIONER) != Some(provisioner) {
        let mut claim = claim.clone();
        let annotations = claim.metadata.annotations.get_or_insert_default();
        annotations.insert(PROVISIONER.to_owned(), provisioner.to_owned());
        return vec![Step::Claim(Box::new(claim))];
    }
    let message = format!(
        "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the system administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered."
    );
    vec![tell(claim, "Normal", "ExternalProvisioning", message)]
}

fn of_bound_claim(storage: &Storage, claim: &PersistentVolumeClaim) -> Vec<Step> {
    let phase = claim
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref())
        .unwrap_or("Pending");
    let volume = storage.volumes.get(volume_name(claim));
    let volume = match volume {
        None => {
            return lost(
                claim,
                phase,
                "Bound claim has lost its PersistentVolume. Data on the volume is lost!",
            );
        }
        Some(volume) if !is_for(volume, claim) => {
            let message = "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!";
            return lost(claim, phase, message);
        }
        Some(volume) => volume,
    };
    let spec = volume.spec.clone().unwrap_or_default();
    let status = PersistentVolumeClaimStatus {
        phase: Some("Bound".to_owned()),
        access_modes: spec.access_modes,
        capacity: spec.capacity,
        ..claim.status.clone().unwrap_or_default()
    };
    if claim.status.as_ref() == Some(&status) {
        return Vec::new();
    }
    vec![Step::ClaimStatus(Box::new(PersistentVolumeClaim {
        status: Some(status),
        ..claim.clone()
    }))]
}

fn lost(claim: &PersistentVolumeClaim, phase: &str, message: &str) -> Vec<Step> {
    if phase == "Lost" {
        return Vec::new();
    }
    let status = PersistentVolumeClaimStatus {
        phase: Some("Lost".to_owned()),
        ..PersistentVolumeClaimStatus::default()
    };
    let changed = PersistentVolumeClaim {
        status: Some(status),
        ..claim.clone()
    };
    vec![
        tell(claim, "Warning", "ClaimLost", message.to_owned()),
        Step::ClaimStatus(Box::new(changed)),
    ]
}

fn of_volume(storage: &Storage, volume: &PersistentVolume) -> Vec<Step> {
    let status = volume.status.clone().unwrap_or_default();
    let phase = status.phase.as_deref().unwrap_or("Pending");
    let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    let uid = reference
        .and_then(|reference| reference.uid.as_deref())
        .filter(|uid| !uid.is_empty());
    let wanted = match (reference, uid) {
        (Some(reference), Some(uid)) => {
            let key = (
                reference.namespace.clone().unwrap_or_default(),
                reference.name.clone().unwrap_or_default(),
            );
            match storage.claims.get(&key).filter(|claim| claim.metadata.uid.as_deref() == Some(uid)) {
                Some(claim) if volume_name(claim) == name(volume) => "Bound",
                // It is about to be joined, or its claim has chosen another.
                Some(claim) if volume_name(claim).is_empty() => phase,
                Some(_) | None => "Released",
            }
        }
        (_, None) => "Available",
        (None, Some(_)) => phase, // a UID is a reference's
    };
    if volume.metadata.deletion_timestamp.is_some() && wanted != "Bound" {
        let free = without(&volume.metadata.finalizers, VOLUME_PROTECTION);
        if let Some(finalizers) = free {
            let mut volume = volume.clone();
            volume.metadata.finalizers = finalizers;
            return vec![Step::Volume(Box::new(volume))];
        }
    }
    match wanted {
        "Released" if !matches!(phase, "Released" | "Failed") => vec![Step::Release(Box::new(in_phase(volume, "Released", None)))],
        "Released" => undeletable(volume, phase),
        other if other != phase => vec![Step::VolumeStatus(Box::new(in_phase(volume, other, None)))],
        _ => Vec::new(),
    }
}

/// A volume that people made and nobody here can remove.
fn undeletable(volume: &PersistentVolume, phase: &str) -> Vec<Step> {
    let policy = volume
        .spec
        .as_ref()
        .and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref());
    if phase == "Failed" || policy != Some("Delete") || annotation(&volume.metadata, PROVISIONED_BY).is_some() {
        return Vec::new();
    }
    let message = format!(
        "error getting deleter volume plugin for volume {:?}: no deletable volume plugin matched",
        name(volume)
    );
    let told = Told {
        about: ObjectReference {
            kind: Some("PersistentVolume".to_owned()),
            ..reference_to(&volume.metadata)
        },
        kind: "Warning",
        reason: "VolumeFailedDelete",
        message: message.clone(),
    };
    vec![
        Step::VolumeStatus(Box::new(in_phase(volume, "Failed", Some(message)))),
        Step::Tell(Box::new(told)),
    ]
}

fn in_phase(volume: &PersistentVolume, phase: &str, message: Option<String>) -> PersistentVolume {
    PersistentVolume {
        status: Some(PersistentVolumeStatus {
            phase: Some(phase.to_owned()),
            message,
            ..PersistentVolumeStatus::default()
        }),
        ..volume.clone()
    }
}

fn reference_to(meta: &api::typed::ObjectMeta) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        namespace: meta.namespace.clone(),
        name: meta.name.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        ..ObjectReference::default()
    }
}

fn tell(claim: &PersistentVolumeClaim, kind: &'static str, reason: &'static str, message: String) -> Step {
    Step::Tell(Box::new(Told {
        about: ObjectReference {
            kind: Some("PersistentVolumeClaim".to_owned()),
            ..reference_to(&claim.metadata)
        },
        kind,
        reason,
        message,
    }))
}

#[cfg(test)]
mod tests;
