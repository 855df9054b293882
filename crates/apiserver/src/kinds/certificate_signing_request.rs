//! `CertificateSigningRequest` of `certificates.k8s.io/v1`.
//!
//! Who asks is filled in by [`crate::admission`]; the certificate comes from a
//! controller.
//!
//! Source: upstream `pkg/apis/certificates/validation/validation.go`,
//! `pkg/registry/certificates/certificates/strategy.go`.

use std::sync::Arc;

use api::status::Violation;
use api::{Object, Scope, Time};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::{keep_status_apart, plain, short, text_field};
use crate::registry::{Cell, Change, Column, Resource, Rules, Strategy, Subresource};
use crate::table;
use crate::validate::values::one_of;
use crate::validate::{immutable, names};

/// Conditions that decide about the request; only `approval` sets them.
const DECISIONS: [&str; 2] = ["Approved", "Denied"];
/// Least seconds a certificate may be asked to live.
const EXPIRATION_S_MIN: i64 = 600;
/// What a certificate may be used for, as upstream lists it.
const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

pub(super) fn row() -> Resource {
    Resource {
        short_names: short(&["csr"]),
        scope: Scope::Cluster,
        strategy: Arc::new(CertificateSigningRequest),
        fields: vec![text_field!("spec.signerName")],
        columns: vec![
            table::name_column(),
            table::age_column(),
            Column::path("SignerName", Cell::Text, ".spec.signerName"),
            Column::computed("Requestor", Cell::Text, |request, _| Value::from(request.str_at("spec.username"))),
            Column::computed("RequestedDuration", Cell::Text, |request, _| {
                let asked = request.at("spec.expirationSeconds").and_then(Value::as_i64);
                Value::from(asked.map_or_else(|| "<none>".to_owned(), table::age::short))
            }),
            Column::computed("Condition", Cell::Text, |request, _| Value::from(condition(request))),
        ],
        subresources: vec![Subresource::Status, Subresource::Approval],
        ..plain(
            "certificates.k8s.io",
            "CertificateSigningRequest",
            "certificatesigningrequests",
            "certificatesigningrequests",
        )
    }
}

fn conditions(request: &Object) -> &[Value] {
    request.at("status.conditions").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// `Approved,Issued`. Source: upstream `printCertificateSigningRequest`.
fn condition(request: &Object) -> String {
    let has = |kind: &str| conditions(request).iter().any(|condition| condition["type"] == kind);
    let mut text = match (has("Denied"), has("Approved")) {
        (true, _) => "Denied",
        (_, true) => "Approved",
        _ => "Pending",
    }
    .to_owned();
    if has("Failed") {
        text.push_str(",Failed");
    }
    if !request.str_at("status.certificate").is_empty() {
        text.push_str(",Issued");
    }
    text
}

struct CertificateSigningRequest;

impl Strategy for CertificateSigningRequest {
    fn prepare(&self, change: Change<'_>, now: Time) {
        match change {
            Change::UpdateStatus { new, old } => {
                keep_status_apart(Change::UpdateStatus { new, old });
                stamp(new, old, now);
            }
            Change::Update { new, old } => {
                // What was asked for, and by whom, does not change.
                super::restore(new, old, "spec");
                keep_status_apart(Change::Update { new, old });
            }
            create @ Change::Create { .. } => keep_status_apart(create),
        }
    }

    fn validate(&self, new: &Object, old: Option<&Object>, rules: Rules) -> Vec<Violation> {
        let mut broken = condition_rules(new);
        match (rules, old) {
            (Rules::Create, _) | (_, None) => broken.extend(spec_rules(new)),
            (Rules::UpdateApproval, Some(old)) => {
                broken.extend(certificate_kept(new, old));
                broken.extend(decisions(new, old, true));
            }
            (_, Some(old)) => {
                broken.extend(decisions(new, old, false));
                let (before, after) = (old.str_at("status.certificate"), new.str_at("status.certificate"));
                if !before.is_empty() && before != after {
                    broken.extend(certificate_kept(new, old));
                } else if before != after
                    && let Err(why) = certificate_rules(after)
                {
                    broken.push(Violation::invalid("status.certificate", &Value::from("<certificate data>"), &why));
                }
            }
        }
        broken
    }

    fn check_name(&self, name: &str) -> names::Checked {
        names::path_segment(name)
    }
}

/// Times of conditions that came or changed.
fn stamp(new: &mut Object, old: &Object, now: Time) {
    let before = conditions(old).to_vec();
    let Some(Value::Object(status)) = new.body.get_mut("status") else {
        return;
    };
    let Some(Value::Array(conditions)) = status.get_mut("conditions") else {
        return;
    };
    for condition in conditions.iter_mut().filter_map(Value::as_object_mut) {
        let known = before.iter().find(|other| other.get("type") == condition.get("type"));
        let moved = known.is_none_or(|known| known.get("status") != condition.get("status"));
        let mut fill = |field: &str, from: Option<&Value>| {
            if condition.get(field).is_none_or(Value::is_null) {
                let time = from.filter(|time| !time.is_null()).cloned();
                condition.insert(field.to_owned(), time.unwrap_or_else(|| Value::from(now.to_string())));
            }
        };
        fill("lastUpdateTime", known.and_then(|known| known.get("lastUpdateTime")));
        fill(
            "lastTransitionTime",
            known.filter(|_| !moved).and_then(|known| known.get("lastTransitionTime")),
        );
    }
}

fn spec_rules(request: &Object) -> Vec<Violation> {
    let mut broken = Vec::new();
    let encoded = request.str_at("spec.request");
    if let Err(why) = request_rules(encoded) {
        broken.push(Violation::invalid("spec.request", &Value::from(encoded), &why));
    }
    let usages: Vec<&str> = request
        .at("spec.usages")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    if usages.is_empty() {
        broken.push(Violation::required("spec.usages", ""));
    }
    for (index, usage) in usages.iter().enumerate() {
        let field = format!("spec.usages[{index}]");
        if !USAGES.contains(usage) {
            broken.push(Violation::not_supported(&field, usage, &USAGES));
        }
        if usages[..index].contains(usage) {
            broken.push(Violation::duplicate(&field, usage));
        }
    }
    broken.extend(signer_rules(request.str_at("spec.signerName")));
    if let Some(seconds) = request.at("spec.expirationSeconds").and_then(Value::as_i64)
        && seconds < EXPIRATION_S_MIN
    {
        broken.push(Violation::invalid(
            "spec.expirationSeconds",
            &seconds.into(),
            "may not specify a duration less than 600 seconds (10 minutes)",
        ));
    }
    broken
}

/// Source: upstream `pkg/apis/core/validation/names.go`, `ValidateSignerName`.
fn signer_rules(name: &str) -> Vec<Violation> {
    const FIELD: &str = "spec.signerName";
    const SUBDOMAIN_MAX: usize = 253;
    /// A domain, a slash, and a label before another domain.
    const SIGNER_MAX: usize = SUBDOMAIN_MAX + 1 + (SUBDOMAIN_MAX + 63 + 1);
    let refuse = |why: &str| vec![Violation::invalid(FIELD, &Value::from(name), why)];
    if name.is_empty() {
        return vec![Violation::required(FIELD, "")];
    }
    if name == "kubernetes.io/legacy-unknown" {
        return refuse("the legacy signerName is not allowed via this API version");
    }
    let segments: Vec<&str> = name.split('/').collect();
    let [domain, path] = segments.as_slice() else {
        return refuse("must be a fully qualified domain and path of the form 'example.com/signer-name'");
    };
    let mut broken = Vec::new();
    if domain.len() > SUBDOMAIN_MAX {
        broken.push(Violation::too_long(FIELD, SUBDOMAIN_MAX));
    }
    broken.extend(first_wrong(domain, names::dns1123_label));
    if !domain.contains('.') {
        let why = "should be a domain with at least two segments separated by dots";
        broken.push(Violation::invalid(FIELD, &Value::from(*domain), why));
    }
    broken.extend(first_wrong(path, names::dns1123_subdomain));
    if name.len() > SIGNER_MAX {
        broken.push(Violation::too_long(FIELD, SIGNER_MAX));
    }
    broken
}

/// What is wrong with the first part between dots that is not as it should be.
fn first_wrong(segment: &str, check: fn(&str) -> names::Checked) -> Vec<Violation> {
    let wrong = segment.split('.').find_map(|part| Some((part, check(part).err()?)));
    let (part, texts) = wrong.unwrap_or_default();
    let told = texts.iter().map(|text| format!("validating label {part:?}: {text}"));
    told.map(|why| Violation::invalid("spec.signerName", &Value::from(segment), &why))
        .collect()
}

/// The bytes of the one PEM block of a label.
fn pem_block(encoded: &str, label: &str) -> Result<Vec<u8>, String> {
    let wrong = || format!("PEM block type must be {label}");
    let bytes = STANDARD.decode(encoded).map_err(|error| error.to_string())?;
    let (_, block) = x509_parser::pem::parse_x509_pem(&bytes).map_err(|_| wrong())?;
    if block.label == label { Ok(block.contents) } else { Err(wrong()) }
}

/// The signing request in a base64 of PEM, if it is one and signed by its own
/// key.
fn request_rules(encoded: &str) -> Result<(), String> {
    use x509_parser::prelude::FromDer;
    let der = pem_block(encoded, "CERTIFICATE REQUEST")?;
    let (_, request) = x509_parser::certification_request::X509CertificationRequest::from_der(&der).map_err(|error| error.to_string())?;
    request.verify_signature().map_err(|error| error.to_string())
}

fn certificate_rules(encoded: &str) -> Result<(), String> {
    let der = pem_block(encoded, "CERTIFICATE")?;
    x509_parser::parse_x509_certificate(&der)
        .map(drop)
        .map_err(|error| error.to_string())
}

fn condition_rules(request: &Object) -> Vec<Violation> {
    let mut broken = Vec::new();
    let all = conditions(request);
    let text = |condition: &Value, field: &str| condition[field].as_str().unwrap_or_default().to_owned();
    for (index, condition) in all.iter().enumerate() {
        let field = format!("status.conditions[{index}]");
        let (kind, status) = (text(condition, "type"), text(condition, "status"));
        if kind.is_empty() {
            broken.push(Violation::required(format!("{field}.type"), ""));
        }
        let always_true = DECISIONS.contains(&kind.as_str()) || kind == "Failed";
        let known: &[&str] = if always_true { &["True"] } else { &["True", "False", "Unknown"] };
        broken.extend(one_of(&format!("{field}.status"), &status, known));
        if all[..index].iter().any(|other| text(other, "type") == kind) {
            broken.push(Violation::duplicate(format!("{field}.type"), &kind));
        }
        let other = DECISIONS
            .iter()
            .find(|other| **other != kind)
            .filter(|_| DECISIONS.contains(&kind.as_str()));
        if other.is_some_and(|other| all[..index].iter().any(|condition| text(condition, "type") == *other)) {
            broken.push(Violation::invalid(
                format!("{field}.type"),
                &Value::from(kind.as_str()),
                "Approved and Denied conditions are mutually exclusive",
            ));
        }
    }
    broken
}

fn certificate_kept(new: &Object, old: &Object) -> Option<Violation> {
    let (before, after) = (old.str_at("status.certificate"), new.str_at("status.certificate"));
    let why = if before.is_empty() {
        "updates may not set certificate content"
    } else {
        "updates may not modify existing certificate content"
    };
    (before != after).then(|| Violation::forbidden("status.certificate", why))
}

/// A decision is made once, and only where it may be (`decides`).
fn decisions(new: &Object, old: &Object, decides: bool) -> Vec<Violation> {
    const FIELD: &str = "status.conditions";
    let of = |object: &Object, kind: &str| conditions(object).iter().find(|condition| condition["type"] == kind).cloned();
    let mut broken = Vec::new();
    let mut refuse = |verb: &str, kind: &str| {
        broken.push(Violation::forbidden(
            FIELD,
            &format!("updates may not {verb} a condition of type {kind:?}"),
        ));
    };
    for kind in ["Approved", "Denied", "Failed"] {
        match (of(old, kind), of(new, kind)) {
            (Some(_), None) => refuse("remove", kind),
            (None, Some(_)) if !decides && DECISIONS.contains(&kind) => refuse("add", kind),
            (Some(before), Some(after)) if !decides && DECISIONS.contains(&kind) && before["status"] != after["status"] => {
                refuse("modify", kind);
            }
            _ => {}
        }
    }
    broken.extend(immutable("spec", &new.body.get("spec"), &old.body.get("spec")));
    broken
}
