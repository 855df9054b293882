//! Who asks for a certificate, and what nobody may ask for.
//!
//! Source: upstream `pkg/registry/certificates/certificates/strategy.go`,
//! `PrepareForCreate`; `plugin/pkg/admission/certificates/subjectrestriction`.

use api::{Object, Status};
use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::{Attributes, Plugin};

/// The signer of certificates that clients of this server show.
const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";
/// Whoever is in it may do everything.
const MASTERS: &str = "system:masters";

/// The plugin `CertificateSubjectRestriction`, and what the request's strategy
/// does upstream with the user's identity.
pub(super) struct Certificates;

#[async_trait]
impl Plugin for Certificates {
    fn handles(&self, asked: &Attributes<'_>) -> bool {
        asked.creates("certificates.k8s.io", "certificatesigningrequests")
    }

    async fn admit(&self, asked: &Attributes<'_>, request: &mut Object) -> Result<(), Status> {
        let Some(Value::Object(spec)) = request.body.get_mut("spec") else {
            return Ok(());
        };
        let identity = asked.identity;
        for field in ["username", "uid", "groups", "extra"] {
            spec.remove(field);
        }
        let mut groups = identity.groups.clone();
        if !groups.iter().any(|group| group == "system:authenticated") {
            groups.push("system:authenticated".to_owned());
        }
        spec.insert("username".to_owned(), json!(identity.user));
        spec.insert("groups".to_owned(), json!(groups));
        if !identity.uid.is_empty() {
            spec.insert("uid".to_owned(), json!(identity.uid));
        }
        if !identity.extra.is_empty() {
            spec.insert("extra".to_owned(), json!(identity.extra));
        }
        Ok(())
    }

    async fn validate(&self, asked: &Attributes<'_>, request: &Object, _warnings: &mut Vec<String>) -> Result<(), Status> {
        if request.str_at("spec.signerName") == CLIENT_SIGNER && organizations(request).iter().any(|name| name == MASTERS) {
            let why = format!("use of {CLIENT_SIGNER} signer with {MASTERS} group is not allowed");
            return Err(asked.forbidden(request, &why));
        }
        Ok(())
    }
}

/// The organizations of the subject that is asked for: the groups of a client.
fn organizations(request: &Object) -> Vec<String> {
    use x509_parser::prelude::FromDer;
    let bytes = STANDARD.decode(request.str_at("spec.request")).unwrap_or_default();
    let Ok((_, block)) = x509_parser::pem::parse_x509_pem(&bytes) else {
        return Vec::new();
    };
    let Ok((_, parsed)) = x509_parser::certification_request::X509CertificationRequest::from_der(&block.contents) else {
        return Vec::new();
    };
    let subject = &parsed.certification_request_info.subject;
    subject
        .iter_organization()
        .filter_map(|name| name.as_str().ok().map(str::to_owned))
        .collect()
}
