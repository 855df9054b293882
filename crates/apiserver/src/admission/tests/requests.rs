//! Certificate signing requests and runtime classes.

use base64::Engine as _;
use serde_json::{Value, json};

use crate::testing::{Rig, pod};

const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
const CLASSES: &str = "/apis/node.k8s.io/v1/runtimeclasses";
const PODS: &str = "/api/v1/namespaces/default/pods";

/// A signing request for a subject of this organization.
fn request(organization: &str) -> Value {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::OrganizationName, organization);
    let pem = params.serialize_request(&key).unwrap().pem().unwrap();
    json!({
        "metadata": {"name": "r"},
        "spec": {
            "request": base64::engine::general_purpose::STANDARD.encode(pem),
            "signerName": "kubernetes.io/kube-apiserver-client", "usages": ["client auth"],
        },
    })
}

#[tokio::test]
async fn a_request_names_who_asks_and_is_decided_once() {
    let rig = Rig::new().await;
    let mut asked = request("dev");
    asked["spec"]["username"] = json!("somebody else");
    let made = rig.post(REQUESTS, &asked).await;
    assert_eq!(made.code, 201, "{:?}", made.text);
    let spec = made.json()["spec"].clone();
    assert_eq!(
        (&spec["username"], &spec["groups"]),
        (&json!("admin"), &json!(["system:masters", "system:authenticated"]))
    );
    let condition = |kind: &str| json!({"status": {"conditions": [{"type": kind, "status": "True", "reason": "x"}]}});
    let refused = rig
        .patch(&format!("{REQUESTS}/r/status"), "merge-patch", &condition("Approved"))
        .await;
    assert_eq!(
        refused.brief(),
        r#"422 CertificateSigningRequest.certificates.k8s.io "r" is invalid: status.conditions: Forbidden: updates may not add a condition of type "Approved""#
    );
    let approved = rig
        .patch(&format!("{REQUESTS}/r/approval"), "merge-patch", &condition("Approved"))
        .await
        .json();
    assert!(approved["status"]["conditions"][0]["lastTransitionTime"].is_string(), "{approved}");
    let denied = rig
        .patch(&format!("{REQUESTS}/r/approval"), "merge-patch", &condition("Denied"))
        .await;
    assert_eq!(
        denied.brief(),
        r#"422 CertificateSigningRequest.certificates.k8s.io "r" is invalid: status.conditions: Forbidden: updates may not remove a condition of type "Approved""#
    );
}

#[tokio::test]
async fn requests_nobody_may_make() {
    let rig = Rig::new().await;
    assert_eq!(
        rig.post(REQUESTS, &request("system:masters")).await.brief(),
        r#"403 certificatesigningrequests.certificates.k8s.io "r" is forbidden: use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed"#
    );
    let wrong = |field: &str, value: Value| {
        let mut asked = request("dev");
        asked["spec"][field] = value;
        asked
    };
    let rows = [
        (
            wrong("request", json!("aGVsbG8=")),
            r#"spec.request: Invalid value: "aGVsbG8=": PEM block type must be CERTIFICATE REQUEST"#,
        ),
        (wrong("usages", json!([])), "spec.usages: Required value"),
        (
            wrong("signerName", json!("me")),
            r#"spec.signerName: Invalid value: "me": must be a fully qualified domain and path of the form 'example.com/signer-name'"#,
        ),
        (
            wrong("expirationSeconds", json!(5)),
            "spec.expirationSeconds: Invalid value: 5: may not specify a duration less than 600 seconds (10 minutes)",
        ),
    ];
    for (asked, why) in rows {
        assert_eq!(
            rig.post(REQUESTS, &asked).await.brief(),
            format!("422 CertificateSigningRequest.certificates.k8s.io \"r\" is invalid: {why}")
        );
    }
}

#[tokio::test]
async fn a_runtime_class_adds_its_overhead_and_placement() {
    let rig = Rig::new().await;
    let class = json!({
        "metadata": {"name": "heavy"}, "handler": "runc", "overhead": {"podFixed": {"cpu": "100m"}},
        "scheduling": {"nodeSelector": {"disk": "ssd"}, "tolerations": [{"key": "k", "operator": "Exists"}]},
    });
    assert_eq!(rig.post(CLASSES, &class).await.code, 201);
    rig.post(CLASSES, &json!({"metadata": {"name": "sandboxed"}, "handler": "gvisor"}))
        .await;
    let with = |name: &str, more: Value| {
        let mut pod = pod(name);
        for (key, value) in more.as_object().unwrap() {
            pod["spec"][key] = value.clone();
        }
        pod
    };
    let made = rig.post(PODS, &with("a", json!({"runtimeClassName": "heavy"}))).await;
    assert_eq!(made.code, 201, "{:?}", made.text);
    let spec = made.json()["spec"].clone();
    assert_eq!(
        (&spec["overhead"], &spec["nodeSelector"]),
        (&json!({"cpu": "100m"}), &json!({"disk": "ssd"}))
    );
    assert!(
        spec["tolerations"]
            .as_array()
            .unwrap()
            .contains(&json!({"key": "k", "operator": "Exists"}))
    );
    let rows = [
        (
            json!({"runtimeClassName": "none"}),
            r#"pod rejected: RuntimeClass "none" not found"#.to_owned(),
        ),
        (
            json!({"runtimeClassName": "sandboxed"}),
            format!(
                r#"pod rejected: RuntimeClass "sandboxed" asks for the handler "gvisor"; the nodes of Lifepod {} have "lifepod" and "runc" only"#,
                env!("CARGO_PKG_VERSION")
            ),
        ),
        (
            json!({"runtimeClassName": "heavy", "overhead": {"cpu": "1"}}),
            "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead".to_owned(),
        ),
        (
            json!({"overhead": {"cpu": "1"}}),
            "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead".to_owned(),
        ),
        (
            json!({"runtimeClassName": "heavy", "nodeSelector": {"disk": "hdd"}}),
            "conflict: runtimeClass.scheduling.nodeSelector[disk] = ssd; pod.spec.nodeSelector[disk] = hdd".to_owned(),
        ),
    ];
    for (spec, why) in rows {
        assert_eq!(
            rig.post(PODS, &with("x", spec)).await.brief(),
            format!("403 pods \"x\" is forbidden: {why}")
        );
    }
}
