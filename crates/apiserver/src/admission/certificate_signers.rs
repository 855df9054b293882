//! Who may decide about requests for certificates, and who may answer them:
//! the verbs `approve` and `sign` on the signer.
//!
//! Source: upstream `plugin/pkg/admission/certificates/{approval,signing}`,
//! `pkg/registry/certificates`; `plugin/pkg/admission/certificates/util.go`.

use api::{Object, Status};
use async_trait::async_trait;
use serde_json::Value;

use super::{Attributes, Operation, Plugin};
use crate::authz;

/// The plugins `CertificateApproval` and `CertificateSigning`.
pub(super) struct CertificateSigners;

/// What of the status only a signer writes.
fn signed(request: &Object) -> (&str, Vec<&Value>) {
    let conditions = request.at("status.conditions").and_then(Value::as_array).into_iter().flatten();
    let failed = conditions.filter(|condition| condition["type"] == "Failed").collect();
    (request.str_at("status.certificate"), failed)
}

#[async_trait]
impl Plugin for CertificateSigners {
    fn handles(&self, asked: &Attributes<'_>) -> bool {
        asked.operation == Operation::Update
            && asked.row.id.group == "certificates.k8s.io"
            && asked.row.id.plural == "certificatesigningrequests"
            && matches!(asked.subresource, "approval" | "status")
    }

    async fn validate(&self, asked: &Attributes<'_>, request: &Object, _warnings: &mut Vec<String>) -> Result<(), Status> {
        let Some(old) = asked.old else { return Ok(()) };
        let (verb, doing) = match asked.subresource {
            "approval" => ("approve", "approve"),
            _ if signed(old) != signed(request) => ("sign", "sign"),
            _ => return Ok(()),
        };
        let signer = old.str_at("spec.signerName");
        let any = signer.split_once('/').map(|(domain, _)| format!("{domain}/*"));
        let may = |name: &str| {
            let attributes = authz::Attributes::Resource {
                verb,
                group: "certificates.k8s.io",
                resource: "signers",
                subresource: "",
                namespace: "",
                name,
            };
            matches!(
                asked.lookup.core.served().authorizer.decide(asked.identity, &attributes, None),
                authz::Decision::Allow(_)
            )
        };
        if may(signer) || any.is_some_and(|any| may(&any)) {
            return Ok(());
        }
        let why = format!("user not permitted to {doing} requests with signerName {signer:?}");
        Err(asked.forbidden(request, &why))
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use serde_json::json;

    use crate::testing::Rig;
    use crate::{Identity, body};

    #[tokio::test]
    async fn only_who_may_decide_decides_and_only_signers_sign() {
        let rig = Rig::new().await;
        let api = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, "jane");
        let key = rcgen::KeyPair::generate().unwrap();
        let pem = params.serialize_request(&key).unwrap().pem().unwrap();
        let request = json!({"metadata": {"name": "r"}, "spec": {
            "request": STANDARD.encode(pem), "signerName": "kubernetes.io/kubelet-serving", "usages": ["server auth"]}});
        let made = rig.post(api, &request).await;
        assert_eq!(made.code, 201, "{:?}", made.text);
        let rbac = "/apis/rbac.authorization.k8s.io/v1";
        let all = json!({"apiGroups": ["certificates.k8s.io"], "resources": ["certificatesigningrequests/approval", "certificatesigningrequests/status"], "verbs": ["*"]});
        rig.post(
            &format!("{rbac}/clusterroles"),
            &json!({"metadata": {"name": "csr"}, "rules": [all]}),
        )
        .await;
        for user in ["bob", "approver"] {
            let binding = json!({"metadata": {"name": user}, "roleRef": {"kind": "ClusterRole", "name": "csr"}, "subjects": [{"kind": "User", "name": user}]});
            rig.post(&format!("{rbac}/clusterrolebindings"), &binding).await;
        }
        let role = "system:certificates.k8s.io:kubelet-serving-approver";
        let binding = json!({"metadata": {"name": "approves"}, "roleRef": {"kind": "ClusterRole", "name": role}, "subjects": [{"kind": "User", "name": "approver"}]});
        rig.post(&format!("{rbac}/clusterrolebindings"), &binding).await;
        let patch = |user: &'static str, subresource: &'static str, status: serde_json::Value| {
            let rig = &rig;
            async move {
                let request = http::Request::patch(format!("{api}/r/{subresource}"))
                    .header("content-type", "application/merge-patch+json")
                    .body(body::full(json!({ "status": status }).to_string()))
                    .unwrap();
                rig.request(Some(Identity::new(user, &[])), request).await.brief()
            }
        };
        let approved = json!({"conditions": [{"type": "Approved", "status": "True", "reason": "R", "message": "m"}]});
        let failed = json!({"conditions": [{"type": "Failed", "status": "True", "reason": "R", "message": "m"}]});
        let no = |doing: &str| {
            format!(
                "403 certificatesigningrequests.certificates.k8s.io \"r\" is forbidden: user not permitted to {doing} requests with signerName \"kubernetes.io/kubelet-serving\""
            )
        };
        assert_eq!(patch("bob", "approval", approved.clone()).await, no("approve"));
        assert_eq!(patch("bob", "status", failed).await, no("sign"));
        assert_eq!(patch("approver", "approval", approved).await, "200 r");
    }
}
