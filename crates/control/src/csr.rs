//! Requests for certificates: approves those of nodes, signs those that are
//! approved.
//!
//! [`Signer`] reads and signs; what may be signed is decided here ([`check`],
//! pure), and so is what is approved without a person ([`approval`], pure but
//! for the question whether the requester may ask).
//!
//! Source: Kubernetes "Certificates and certificate signing requests"; upstream
//! `pkg/controller/certificates/{approver,signer}`,
//! `pkg/apis/certificates/helpers.go`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use api::Time;
use api::typed::certificates::{CertificateSigningRequest, CertificateSigningRequestCondition, CertificateSigningRequestStatus};
use futures::StreamExt;
use kube::api::PostParams;
use kube::{Api, Client, ResourceExt};
use kube_runtime::watcher::{self, Event};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::watch::watch;

const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Between attempts at what failed.
const RETRY: Duration = Duration::from_secs(5);
/// How long a certificate lives if its request does not say. Source: upstream
/// `--cluster-signing-duration`.
const LIFETIME: Duration = Duration::from_secs(365 * 86_400);
/// The least a request may ask for. Source: upstream `csrutil`.
const LIFETIME_MIN: Duration = Duration::from_secs(600);

const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";

/// What a request for a certificate asks to be called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// For example `system:node:n1`.
    pub common_name: String,
    /// For example `system:nodes`.
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

/// The certificate authority, as far as requests are concerned.
pub trait Signer: Send + Sync {
    /// What a request (PEM) asks to be called, once its own signature is
    /// found to be right.
    ///
    /// # Errors
    /// Why it cannot be read.
    fn read(&self, request_pem: &str) -> Result<Subject, String>;

    /// A certificate (PEM) for a request, with usages as Kubernetes names
    /// them, from `now` on.
    ///
    /// # Errors
    /// Why it cannot be made.
    fn sign(&self, request_pem: &str, usages: &[String], lifetime: Duration, now: Time) -> Result<String, String>;
}

/// Why a subject and usages are not what a signer signs, in upstream's words.
fn check(signer: &str, subject: &Subject, usages: &[String]) -> Result<(), String> {
    let usages: BTreeSet<&str> = usages.iter().map(String::as_str).collect();
    let one_of = |sets: &[&[&str]]| {
        if sets.iter().any(|set| set.iter().copied().collect::<BTreeSet<_>>() == usages) {
            Ok(())
        } else {
            Err(format!("usages did not match {sets:?}"))
        }
    };
    let none = |list: &[String], what: &str| {
        if list.is_empty() {
            Ok(())
        } else {
            Err(format!("{what} subjectAltNames are not allowed"))
        }
    };
    let node = || {
        if subject.organizations != ["system:nodes"] {
            return Err("subject organization is not system:nodes".to_owned());
        }
        if !subject.common_name.starts_with("system:node:") {
            return Err("subject common name does not begin with system:node: ".to_owned());
        }
        Ok(())
    };
    match signer {
        KUBELET_CLIENT => {
            node()?;
            none(&subject.dns_names, "DNS")?;
            none(&subject.emails, "Email")?;
            none(&subject.ip_addresses, "IP")?;
            none(&subject.uris, "URI")?;
            one_of(&[
                &["client auth", "digital signature", "key encipherment"],
                &["client auth", "digital signature"],
            ])
        }
        KUBELET_SERVING => {
            if subject.dns_names.is_empty() && subject.ip_addresses.is_empty() {
                return Err("DNS or IP subjectAltName is required".to_owned());
            }
            none(&subject.emails, "Email")?;
            none(&subject.uris, "URI")?;
            node()?;
            one_of(&[
                &["digital signature", "key encipherment", "server auth"],
                &["digital signature", "server auth"],
            ])
        }
        CLIENT => {
            let allowed = ["client auth", "digital signature", "key encipherment"];
            if !usages.contains("client auth") || !usages.iter().all(|usage| allowed.contains(usage)) {
                return Err(format!("usages must contain \"client auth\" and be among {allowed:?}"));
            }
            Ok(())
        }
        other => Err(format!("{other} is not a signer of this cluster")),
    }
}

fn has(request: &CertificateSigningRequest, kind: &str) -> bool {
    let conditions = request.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|conditions| conditions.iter().any(|condition| condition.type_ == kind))
}

/// The subresource that stands for the right to have a request approved, and
/// what is then said: a node asks for itself, or a bootstrapper for a node.
fn approval(request: &CertificateSigningRequest, subject: &Subject) -> Option<Vec<(&'static str, &'static str)>> {
    let spec = &request.spec;
    if spec.signer_name != KUBELET_CLIENT || check(KUBELET_CLIENT, subject, spec.usages.as_deref().unwrap_or_default()).is_err() {
        return None;
    }
    let mut ways = Vec::new();
    if spec.username.as_deref() == Some(&subject.common_name) {
        ways.push((
            "selfnodeclient",
            "Auto approving self kubelet client certificate after SubjectAccessReview.",
        ));
    }
    ways.push(("nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview."));
    Some(ways)
}

/// How long a certificate is to live: what is asked for, within bounds.
fn lifetime(asked_s: Option<i32>) -> Duration {
    asked_s.map_or(LIFETIME, |seconds| {
        Duration::from_secs(u64::try_from(seconds).unwrap_or(0)).clamp(LIFETIME_MIN, LIFETIME)
    })
}

/// Approves and signs until `shutdown`.
pub async fn run(client: Client, signer: Arc<dyn Signer>, shutdown: CancellationToken) {
    let requests: Api<CertificateSigningRequest> = Api::all(client.clone());
    let mut events = std::pin::pin!(watch(requests, watcher::Config::default()));
    // What is to be looked at, by name; what failed stays for the next round.
    let mut pending: BTreeMap<String, CertificateSigningRequest> = BTreeMap::new();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(RETRY), if !pending.is_empty() => {}
            Some(event) = events.next() => match event {
                Event::Apply(found) | Event::InitApply(found) => {
                    pending.insert(found.name_any(), found);
                }
                Event::Delete(found) => {
                    pending.remove(&found.name_any());
                }
                Event::Init | Event::InitDone => {}
            },
        }
        for (name, request) in std::mem::take(&mut pending) {
            let settling = settle(&client, signer.as_ref(), &request);
            let settled = match tokio::time::timeout(REQUEST_TIMEOUT, settling).await {
                Ok(settled) => settled.map_err(|error| error.to_string()),
                Err(_) => Err(format!("no answer within {} s", REQUEST_TIMEOUT.as_secs())),
            };
            if let Err(error) = settled {
                tracing::debug!(
                    request = name,
                    error,
                    "a request for a certificate was not settled; it is tried again"
                );
                pending.insert(name, request);
            }
        }
    }
}

/// Does what is to be done about one request now. What it writes, the watch
/// will show.
async fn settle(client: &Client, signer: &dyn Signer, request: &CertificateSigningRequest) -> Result<(), kube::Error> {
    let issued = request.status.as_ref().is_some_and(|status| status.certificate.is_some());
    if issued || has(request, "Denied") || has(request, "Failed") {
        return Ok(());
    }
    let spec = &request.spec;
    if ![CLIENT, KUBELET_CLIENT, KUBELET_SERVING].contains(&spec.signer_name.as_str()) {
        return Ok(());
    }
    let pem = String::from_utf8_lossy(&spec.request.0).into_owned();
    let requests: Api<CertificateSigningRequest> = Api::all(client.clone());
    let mut new = request.clone();
    let status = new.status.get_or_insert_default();
    if !has(request, "Approved") {
        let ways = signer
            .read(&pem)
            .ok()
            .and_then(|subject| approval(request, &subject))
            .unwrap_or_default();
        for (subresource, message) in ways {
            if allowed(client, request, subresource).await? {
                add(status, "Approved", "AutoApproved", message);
                return replace(&requests, "approval", &new).await;
            }
        }
        return Ok(());
    }
    let usages = spec.usages.clone().unwrap_or_default();
    let signed = signer.read(&pem).and_then(|subject| {
        check(&spec.signer_name, &subject, &usages)?;
        signer.sign(&pem, &usages, lifetime(spec.expiration_seconds), now())
    });
    match signed {
        Ok(certificate) => status.certificate = Some(api::typed::ByteString(certificate.into_bytes())),
        Err(why) => add(status, "Failed", "SignerValidationFailure", &why),
    }
    replace(&requests, "status", &new).await
}

fn add(status: &mut CertificateSigningRequestStatus, kind: &str, reason: &str, message: &str) {
    status.conditions.get_or_insert_default().push(CertificateSigningRequestCondition {
        type_: kind.to_owned(),
        status: "True".to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        ..CertificateSigningRequestCondition::default()
    });
}

async fn replace(requests: &Api<CertificateSigningRequest>, subresource: &str, new: &CertificateSigningRequest) -> Result<(), kube::Error> {
    match requests
        .replace_subresource(subresource, &new.name_any(), &PostParams::default(), new)
        .await
    {
        // Somebody else was faster, or it is gone: the watch shows which.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        outcome => outcome.map(drop),
    }
}

/// Whether the requester may have such a request approved.
async fn allowed(client: &Client, request: &CertificateSigningRequest, subresource: &str) -> Result<bool, kube::Error> {
    let spec = &request.spec;
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": spec.username,
            "uid": spec.uid,
            "groups": spec.groups,
            "extra": spec.extra,
            "resourceAttributes": {
                "group": "certificates.k8s.io",
                "resource": "certificatesigningrequests",
                "subresource": subresource,
                "verb": "create",
                "version": "*",
            },
        },
    });
    let asked = http::Request::post("/apis/authorization.k8s.io/v1/subjectaccessreviews")
        .header("content-type", "application/json")
        .body(review.to_string().into_bytes());
    let asked = asked.map_err(|error| kube::Error::Service(error.into()))?;
    let answer: Value = client.request(asked).await?;
    Ok(answer["status"]["allowed"] == true)
}

fn now() -> Time {
    jiff::Timestamp::now().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(change: impl FnOnce(&mut Subject)) -> Subject {
        let mut subject = Subject {
            common_name: "system:node:n1".to_owned(),
            organizations: vec!["system:nodes".to_owned()],
            ..Subject::default()
        };
        change(&mut subject);
        subject
    }

    fn usages(list: &[&str]) -> Vec<String> {
        list.iter().map(|usage| (*usage).to_owned()).collect()
    }

    #[test]
    fn a_kubelet_s_client_certificate_names_a_node_and_nothing_else() {
        let client = usages(&["digital signature", "client auth"]);
        assert_eq!(check(KUBELET_CLIENT, &subject(|_| {}), &client), Ok(()));
        assert_eq!(
            check(
                KUBELET_CLIENT,
                &subject(|_| {}),
                &usages(&["key encipherment", "digital signature", "client auth"])
            ),
            Ok(())
        );
        let refused: [(Subject, &str); 6] = [
            (
                subject(|s| s.organizations.push("system:masters".to_owned())),
                "subject organization is not system:nodes",
            ),
            (subject(|s| s.organizations.clear()), "subject organization is not system:nodes"),
            (
                subject(|s| s.common_name = "admin".to_owned()),
                "subject common name does not begin with system:node: ",
            ),
            (subject(|s| s.dns_names.push("a".to_owned())), "DNS subjectAltNames are not allowed"),
            (
                subject(|s| s.ip_addresses.push("1.2.3.4".to_owned())),
                "IP subjectAltNames are not allowed",
            ),
            (subject(|s| s.uris.push("a:b".to_owned())), "URI subjectAltNames are not allowed"),
        ];
        for (subject, why) in refused {
            assert_eq!(check(KUBELET_CLIENT, &subject, &client), Err(why.to_owned()));
        }
        assert!(check(KUBELET_CLIENT, &subject(|_| {}), &usages(&["server auth", "digital signature"])).is_err());
    }

    #[test]
    fn a_kubelet_s_serving_certificate_names_where_it_serves() {
        let serving = usages(&["digital signature", "server auth"]);
        let named = subject(|s| s.ip_addresses.push("10.0.0.1".to_owned()));
        assert_eq!(check(KUBELET_SERVING, &named, &serving), Ok(()));
        assert_eq!(
            check(KUBELET_SERVING, &subject(|_| {}), &serving),
            Err("DNS or IP subjectAltName is required".to_owned())
        );
        assert!(check(KUBELET_SERVING, &named, &usages(&["client auth", "digital signature"])).is_err());
        assert!(check("acme.com/other", &named, &serving).is_err());
        assert_eq!(check(CLIENT, &Subject::default(), &usages(&["client auth"])), Ok(()));
        assert!(check(CLIENT, &Subject::default(), &usages(&["client auth", "server auth"])).is_err());
    }

    #[test]
    fn nodes_ask_for_themselves_and_bootstrappers_for_nodes() {
        let mut request = CertificateSigningRequest::default();
        request.spec.signer_name = KUBELET_CLIENT.to_owned();
        request.spec.usages = Some(usages(&["digital signature", "client auth"]));
        request.spec.username = Some("system:bootstrap:abcdef".to_owned());
        let ways = |request: &CertificateSigningRequest| {
            let ways = approval(request, &subject(|_| {})).unwrap_or_default();
            ways.iter().map(|(subresource, _)| *subresource).collect::<Vec<_>>()
        };
        assert_eq!(ways(&request), ["nodeclient"]);
        request.spec.username = Some("system:node:n1".to_owned());
        assert_eq!(ways(&request), ["selfnodeclient", "nodeclient"]);
        request.spec.signer_name = KUBELET_SERVING.to_owned();
        assert_eq!(ways(&request), Vec::<&str>::new(), "a person decides about serving certificates");
    }

    #[test]
    fn lifetimes_are_bounded() {
        assert_eq!(lifetime(None), LIFETIME);
        assert_eq!(lifetime(Some(1)), LIFETIME_MIN);
        assert_eq!(lifetime(Some(3_600)), Duration::from_secs(3_600));
        assert_eq!(lifetime(Some(i32::MAX)), LIFETIME);
        assert_eq!(lifetime(Some(-1)), LIFETIME_MIN);
    }
}
