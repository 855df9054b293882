//! Requests for certificates (PKCS#10), read and signed.

use std::net::IpAddr;
use std::time::Duration;

use api::Time;
use rcgen::{CertificateSigningRequestParams, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;

use super::{Authority, PkiError};

/// How long before now a certificate begins, for clocks that are behind.
/// Source: upstream `authority.PermissiveSigningPolicy`, `Backdate`.
const BACKDATE: Duration = Duration::from_secs(300);

/// What a request asks to be called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestedSubject {
    /// The user.
    pub common_name: String,
    /// The groups.
    pub organizations: Vec<String>,
    /// DNS names beside it.
    pub dns_names: Vec<String>,
    /// IP addresses beside it.
    pub ip_addresses: Vec<String>,
    /// E-mail addresses beside it.
    pub emails: Vec<String>,
    /// URIs beside it.
    pub uris: Vec<String>,
}

fn malformed(why: impl std::fmt::Display) -> PkiError {
    PkiError::Request { why: why.to_string() }
}

/// Reads a request (PEM).
///
/// # Errors
/// When it is none.
pub fn read(request_pem: &str) -> Result<RequestedSubject, PkiError> {
    let (_, block) = x509_parser::pem::parse_x509_pem(request_pem.as_bytes()).map_err(malformed)?;
    if block.label != "CERTIFICATE REQUEST" && block.label != "NEW CERTIFICATE REQUEST" {
        return Err(malformed(format!("the PEM block is a {}", block.label)));
    }
    let (_, parsed) = X509CertificationRequest::from_der(&block.contents).map_err(malformed)?;
    let name = &parsed.certification_request_info.subject;
    let mut subject = RequestedSubject {
        common_name: name
            .iter_common_name()
            .find_map(|name| name.as_str().ok())
            .unwrap_or_default()
            .to_owned(),
        organizations: name
            .iter_organization()
            .filter_map(|name| name.as_str().ok().map(str::to_owned))
            .collect(),
        ..RequestedSubject::default()
    };
    for extension in parsed.requested_extensions().into_iter().flatten() {
        let ParsedExtension::SubjectAlternativeName(names) = extension else {
            continue;
        };
        for name in &names.general_names {
            match name {
                GeneralName::DNSName(name) => subject.dns_names.push((*name).to_owned()),
                GeneralName::RFC822Name(name) => subject.emails.push((*name).to_owned()),
                GeneralName::URI(uri) => subject.uris.push((*uri).to_owned()),
                GeneralName::IPAddress(bytes) => subject.ip_addresses.push(address(bytes)?),
                other => {
                    return Err(malformed(format!(
                        "the subject alternative name {other} is of a kind that is not signed"
                    )));
                }
            }
        }
    }
    Ok(subject)
}

fn address(bytes: &[u8]) -> Result<String, PkiError> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    let address = v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from));
    address
        .map(|address| address.to_string())
        .map_err(|_| malformed("an IP address is neither 4 nor 16 bytes"))
}

impl Authority {
    /// A certificate (PEM) for a request (PEM), with usages as Kubernetes
    /// names them.
    ///
    /// # Errors
    /// When the request is none, its own signature is wrong, a usage is not
    /// known, or it names several organizations: `rcgen` keeps one value per
    /// subject attribute, and the others would be lost without a word.
    pub fn sign_request(&self, request_pem: &str, usages: &[String], lifetime: Duration, now: Time) -> Result<String, PkiError> {
        let subject = read(request_pem)?;
        if subject.organizations.len() > 1 {
            return Err(PkiError::SeveralGroups {
                user: subject.common_name,
                groups: subject.organizations,
            });
        }
        let mut request = CertificateSigningRequestParams::from_pem(request_pem).map_err(malformed)?;
        let params = &mut request.params;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = Vec::new();
        params.extended_key_usages = Vec::new();
        params.use_authority_key_identifier_extension = true;
        for usage in usages {
            match usage.as_str() {
                "digital signature" => params.key_usages.push(KeyUsagePurpose::DigitalSignature),
                "key encipherment" => params.key_usages.push(KeyUsagePurpose::KeyEncipherment),
                "client auth" => params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth),
                "server auth" => params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth),
                other => return Err(malformed(format!("the usage {other:?} is not signed"))),
            }
        }
        let at = |time: Time| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_nanos(time.whole_seconds().0.max(0).unsigned_abs());
        params.not_before = at(now - BACKDATE);
        params.not_after = at(now + lifetime);
        let certificate = request.signed_by(&self.issuer).map_err(|source| PkiError::Sign {
            subject: subject.common_name,
            source,
        })?;
        Ok(certificate.pem())
    }
}
