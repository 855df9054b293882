//! `PersistentVolumeClaim`: what a namespace asks of the cluster's storage.
//!
//! Source: upstream `pkg/apis/core/validation/validation.go`,
//! `ValidatePersistentVolumeClaim`, `ValidatePersistentVolumeClaimUpdate`;
//! `pkg/registry/core/persistentvolumeclaim/strategy.go`; printer
//! `printPersistentVolumeClaim`.

use std::sync::Arc;

use api::status::Violation;
use api::typed::{PersistentVolumeClaim as Typed, PersistentVolumeClaimSpec};
use api::{Object, Quantity, Time};
use serde_json::Value;

use super::persistent_volume::{attributes_class, mode_rules, modes, phase, prepare_protected};
use super::pod::{comparable, not_yet};
use super::warnings::{fractions, old_class};
use super::{plain, short, values, view};
use crate::registry::{Cell, Change, Column, Resource, Rules, Strategy, Subresource};
use crate::table;
use crate::validate::{invalid_each, names, selector, values as formats};

/// Keeps a claim that a Pod uses. Source: upstream `pkg/volume/util/finalizer.go`.
const PROTECTION: &str = "kubernetes.io/pvc-protection";

pub(super) fn row() -> Resource {
    Resource {
        short_names: short(&["pvc"]),
        strategy: Arc::new(PersistentVolumeClaim),
        columns: vec![
            table::name_column(),
            Column::computed("Status", Cell::Text, |claim, _| phase(claim)),
            Column::computed("Volume", Cell::Text, |claim, _| Value::from(claim.str_at("spec.volumeName"))),
            // Only what it has is shown, not what it asks for.
            Column::computed("Capacity", Cell::Text, |claim, _| {
                bound(claim, |claim| claim.str_at("status.capacity.storage").to_owned())
            }),
            Column::computed("Access Modes", Cell::Text, |claim, _| {
                bound(claim, |claim| modes(claim.at("status.accessModes")))
            }),
            Column::computed("StorageClass", Cell::Text, |claim, _| {
                Value::from(claim.str_at("spec.storageClassName"))
            }),
            Column::computed("VolumeAttributesClass", Cell::Text, |claim, _| attributes_class(claim)),
            table::age_column(),
            Column::computed("VolumeMode", Cell::Text, |claim, _| Value::from(claim.str_at("spec.volumeMode"))).wide(),
        ],
        subresources: vec![Subresource::Status],
        ..plain("", "PersistentVolumeClaim", "persistentvolumeclaims", "persistentvolumeclaims")
    }
}

fn bound(claim: &Object, cell: fn(&Object) -> String) -> Value {
    let text = if claim.str_at("spec.volumeName").is_empty() {
        String::new()
    } else {
        cell(claim)
    };
    Value::from(text)
}

struct PersistentVolumeClaim;

impl Strategy for PersistentVolumeClaim {
    /// Source: upstream `pkg/api/persistentvolumeclaim/util.go`.
    fn warnings(&self, new: &Object, _old: Option<&Object>) -> Vec<String> {
        let mut told: Vec<String> = old_class(new).into_iter().collect();
        for kind in ["requests", "limits"] {
            let field = format!("spec.resources.{kind}");
            told.extend(fractions(&field, new.at(&field).unwrap_or(&Value::Null), &["storage"]));
        }
        told
    }

    /// Source: upstream `SetDefaults_PersistentVolumeClaimSpec`.
    fn default(&self, claim: &mut Object) {
        if let Some(spec) = values::object(&mut claim.body, "spec") {
            values::set_absent(spec, "volumeMode", "Filesystem");
        }
    }

    fn prepare(&self, change: Change<'_>, _now: Time) {
        prepare_protected(change, PROTECTION);
    }

    fn validate(&self, new: &Object, old: Option<&Object>, rules: Rules) -> Vec<Violation> {
        let claim: Typed = match view(new) {
            Ok(claim) => claim,
            Err(broken) => return broken,
        };
        if rules == Rules::UpdateStatus {
            return Vec::new();
        }
        let mut broken = spec_rules(&claim.spec.unwrap_or_default());
        match old {
            Some(old) => broken.extend(changed(new, old)),
            None if broken.is_empty() => broken.extend(refused(new)),
            None => {}
        }
        broken
    }
}

fn spec_rules(spec: &PersistentVolumeClaimSpec) -> Vec<Violation> {
    let mut broken = spec
        .selector
        .as_ref()
        .map(|wanted| selector("spec.selector", wanted))
        .unwrap_or_default();
    broken.extend(mode_rules(
        "spec.accessModes",
        spec.access_modes.as_deref(),
        "at least 1 access mode is required",
    ));
    let requests = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    match requests.and_then(|requests| requests.get("storage")) {
        None => broken.push(Violation::required("spec.resources[storage]", "")),
        Some(storage) if Quantity::try_from(storage).is_ok_and(|quantity| quantity > Quantity::ZERO) => {}
        Some(storage) => broken.push(Violation::invalid(
            "spec.resources[storage]",
            &Value::from(storage.0.as_str()),
            "must be greater than zero",
        )),
    }
    let class = spec.storage_class_name.as_deref().unwrap_or_default();
    if !class.is_empty() {
        broken.extend(invalid_each("spec.storageClassName", class, names::dns1123_subdomain(class)));
    }
    broken.extend(formats::one_of(
        "spec.volumeMode",
        spec.volume_mode.as_deref().unwrap_or_default(),
        &["Block", "Filesystem"],
    ));
    broken
}

/// What of a claim may change: its volume and its class, once; more storage
/// would be an expansion, which no class here allows.
fn changed(new: &Object, old: &Object) -> Vec<Violation> {
    let spec = |object: &Object| object.at("spec").cloned().unwrap_or_default();
    let (now, mut before) = (spec(new), spec(old));
    let mut broken = Vec::new();
    let storage = |spec: &Value| {
        spec["resources"]["requests"]["storage"]
            .as_str()
            .and_then(|text| text.parse::<Quantity>().ok())
    };
    match (storage(&now), storage(&before)) {
        (Some(wanted), Some(had)) if wanted < had => broken.push(Violation::forbidden(
            "spec.resources.requests.storage",
            "field can not be less than status.capacity",
        )),
        (Some(wanted), Some(had)) if wanted > had => broken.push(Violation::forbidden(
            "spec.resources.requests.storage",
            "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize",
        )),
        _ => {}
    }
    if !broken.is_empty() {
        return broken;
    }
    // The binder names the volume; a class is given to what was made before
    // there was a default.
    for field in ["volumeName", "storageClassName"] {
        if before[field].as_str().unwrap_or_default().is_empty() && !(field == "storageClassName" && before[field].is_string()) {
            before[field] = now[field].clone();
        }
    }
    let mut difference = String::new();
    values::differ("spec", &comparable(Some(&before)), &comparable(Some(&now)), &mut difference);
    if !difference.is_empty() {
        let rule = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
        broken.push(Violation::forbidden("spec", &format!("{rule}\n{difference}")));
    }
    broken
}

/// What is right and not done.
fn refused(claim: &Object) -> Vec<Violation> {
    let mut refused = Vec::new();
    if claim.str_at("spec.volumeMode") == "Block" {
        refused.push(not_yet("spec.volumeMode", "attach volume devices"));
    }
    for field in ["spec.dataSource", "spec.dataSourceRef"] {
        if claim.at(field).is_some_and(|source| !source.is_null()) {
            refused.push(not_yet(field, "fill volumes from other objects"));
        }
    }
    if !claim.str_at("spec.volumeAttributesClassName").is_empty() {
        refused.push(not_yet("spec.volumeAttributesClassName", "know classes of volume attributes"));
    }
    let modes = claim.at("spec.accessModes").and_then(Value::as_array).into_iter().flatten();
    if modes.into_iter().any(|mode| mode == "ReadWriteOncePod") {
        refused.push(not_yet("spec.accessModes", "keep a volume for one pod alone"));
    }
    refused
}
