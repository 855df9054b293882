use serde_json::{Value, json};

use crate::testing::{Rig, pod};

const PODS: &str = "/api/v1/namespaces/default/pods";
const NAMESPACE: &str = "/api/v1/namespaces/default";

async fn label(rig: &Rig, labels: Value) -> crate::testing::Answer {
    rig.patch(NAMESPACE, "merge-patch", &json!({"metadata": {"labels": labels}})).await
}

fn with(more: Value, container: Value) -> Value {
    let mut pod = pod("x");
    for (key, value) in more.as_object().unwrap() {
        pod["spec"][key] = value.clone();
    }
    for (key, value) in container.as_object().unwrap() {
        pod["spec"]["containers"][0][key] = value.clone();
    }
    pod
}

/// What hardening recommends.
fn hardened() -> Value {
    let context = json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
    with(
        json!({"securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}}}),
        json!({"securityContext": context}),
    )
}

/// What the checks of a level say of a pod, whether it could run here or not.
fn said(level: super::super::pod_security::Level, minor: u32, pod: &Value) -> String {
    let object: api::Object = serde_json::from_value(pod.clone()).unwrap();
    super::super::pod_security::said(level, minor, &object)
}

#[test]
fn every_check_in_upstream_s_words() {
    use super::super::pod_security::Level::{Baseline, Restricted};
    let context = |context: Value| json!({"securityContext": context});
    let none = || json!({});
    let baseline = [
        (with(none(), none()), ""),
        (
            with(json!({"hostNetwork": true, "hostPID": true}), none()),
            "host namespaces (hostNetwork=true, hostPID=true)",
        ),
        (
            with(none(), context(json!({"privileged": true}))),
            r#"privileged (container "c" must not set securityContext.privileged=true)"#,
        ),
        (
            with(none(), context(json!({"capabilities": {"add": ["NET_ADMIN", "KILL"]}}))),
            r#"non-default capabilities (container "c" must not include "NET_ADMIN" in securityContext.capabilities.add)"#,
        ),
        (
            with(json!({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}), none()),
            r#"hostPath volumes (volume "v")"#,
        ),
        (
            with(none(), json!({"ports": [{"containerPort": 80, "hostPort": 8080}]})),
            r#"hostPort (container "c" uses hostPort 8080)"#,
        ),
        (
            with(none(), context(json!({"procMount": "Unmasked"}))),
            r#"procMount (container "c" must not set securityContext.procMount to "Unmasked")"#,
        ),
        (
            with(context(json!({"seccompProfile": {"type": "Unconfined"}})), none()),
            r#"seccompProfile (pod must not set securityContext.seccompProfile.type to "Unconfined")"#,
        ),
        (
            with(context(json!({"sysctls": [{"name": "kernel.x", "value": "1"}]})), none()),
            "forbidden sysctls (kernel.x)",
        ),
        (
            with(none(), context(json!({"seLinuxOptions": {"type": "t", "user": "u"}}))),
            r#"seLinuxOptions (container "c" set forbidden securityContext.seLinuxOptions: type "t"; user may not be set)"#,
        ),
        (
            with(context(json!({"windowsOptions": {"hostProcess": true}})), none()),
            "hostProcess (pod must not set securityContext.windowsOptions.hostProcess=true)",
        ),
        (
            with(context(json!({"appArmorProfile": {"type": "Unconfined"}})), none()),
            r#"forbidden AppArmor profile (pod must not set AppArmor profile type to "Unconfined")"#,
        ),
    ];
    for (pod, wanted) in baseline {
        assert_eq!(said(Baseline, 33, &pod), wanted);
    }
    let all = r#"allowPrivilegeEscalation != false (container "c" must set securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container "c" must set securityContext.capabilities.drop=["ALL"]), runAsNonRoot != true (pod or container "c" must set securityContext.runAsNonRoot=true), seccompProfile (pod or container "c" must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost")"#;
    assert_eq!(said(Restricted, 33, &with(none(), none())), all);
    assert_eq!(said(Restricted, 33, &hardened()), "");
    let mut worse = hardened();
    worse["spec"]["volumes"] = json!([{"name": "v", "hostPath": {"path": "/"}}]);
    worse["spec"]["securityContext"] = json!({"runAsNonRoot": false, "runAsUser": 0, "seccompProfile": {"type": "Unconfined"}});
    assert_eq!(
        said(Restricted, 33, &worse),
        r#"restricted volume types (volume "v" uses restricted volume type "hostPath"), runAsNonRoot != true (pod must not set securityContext.runAsNonRoot=false), runAsUser=0 (pod must not set runAsUser=0), seccompProfile (pod must not set securityContext.seccompProfile.type to "Unconfined")"#
    );
    // Checks came one by one.
    assert_eq!(
        said(Restricted, 7, &with(none(), none())),
        r#"runAsNonRoot != true (pod or container "c" must set securityContext.runAsNonRoot=true)"#
    );
}

#[tokio::test]
async fn a_namespace_takes_what_its_labels_say() {
    let rig = Rig::new().await;
    let privileged = with(json!({}), json!({"securityContext": {"privileged": true}}));
    assert_eq!(
        label(&rig, json!({"pod-security.kubernetes.io/enforce": "baseline"})).await.code,
        200
    );
    assert_eq!(
        rig.post(PODS, &privileged).await.brief(),
        r#"403 pods "x" is forbidden: violates PodSecurity "baseline:latest": privileged (container "c" must not set securityContext.privileged=true)"#
    );
    let warn = json!({"pod-security.kubernetes.io/warn": "restricted", "pod-security.kubernetes.io/warn-version": "v1.7"});
    label(&rig, warn).await;
    let made = rig.post(PODS, &pod("ok")).await;
    assert_eq!(made.code, 201);
    assert_eq!(
        made.warnings(),
        [
            r#"299 - "would violate PodSecurity \"restricted:v1.7\": runAsNonRoot != true (pod or container \"c\" must set securityContext.runAsNonRoot=true)""#
        ]
    );
    let tightened = label(&rig, json!({"pod-security.kubernetes.io/enforce": "restricted"})).await;
    assert_eq!(
        tightened.warnings(),
        [
            r#"299 - "existing pods in namespace \"default\" violate the new PodSecurity enforce level \"restricted:latest\"""#,
            r#"299 - "ok: allowPrivilegeEscalation != false, unrestricted capabilities, runAsNonRoot != true, seccompProfile""#,
        ]
    );
    // What does not make it worse may still be changed.
    let touched = rig
        .patch(&format!("{PODS}/ok"), "merge-patch", &json!({"metadata": {"labels": {"a": "b"}}}))
        .await;
    assert_eq!(touched.code, 200);
    let template = json!({"metadata": {"name": "t"}, "template": {"spec": {"containers": [{"name": "c", "image": "i", "securityContext": {"privileged": true}}]}}});
    let made = rig.post("/api/v1/namespaces/default/podtemplates", &template).await;
    assert_eq!(
        (made.code, made.warnings().len()),
        (201, 1),
        "templates are warned about, not refused"
    );
}

#[tokio::test]
async fn labels_that_make_no_sense_are_refused() {
    let rig = Rig::new().await;
    assert_eq!(
        label(&rig, json!({"pod-security.kubernetes.io/enforce": "strict"})).await.brief(),
        r#"422 Namespace "default" is invalid: metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: "strict": must be one of privileged, baseline, restricted"#
    );
    assert_eq!(
        label(&rig, json!({"pod-security.kubernetes.io/warn-version": "1.7"})).await.brief(),
        r#"422 Namespace "default" is invalid: metadata.labels[pod-security.kubernetes.io/warn-version]: Invalid value: "1.7": must be "latest" or "v1.x""#
    );
}

#[tokio::test]
async fn new_namespaces_are_baseline_where_that_was_asked_for() {
    let rig = Rig::new().await;
    let strict = rig.sibling_with(|config| config.baseline_namespaces = true).await;
    let make = |manifest: Value| {
        let server = strict.clone();
        async move {
            let request = http::Request::post("/api/v1/namespaces")
                .header("content-type", "application/json")
                .body(crate::body::full(manifest.to_string()))
                .unwrap();
            let response = server.handle(Some(Rig::admin()), request).await;
            let text = crate::body::read(response.into_body(), 1 << 20).await.unwrap();
            serde_json::from_slice::<Value>(&text).unwrap()["metadata"]["labels"]["pod-security.kubernetes.io/enforce"].clone()
        }
    };
    assert_eq!(make(json!({"metadata": {"name": "one"}})).await, "baseline");
    let own = json!({"metadata": {"name": "two", "labels": {"pod-security.kubernetes.io/enforce": "privileged"}}});
    assert_eq!(make(own).await, "privileged");
    let system = rig.get("/api/v1/namespaces/kube-system").await.json();
    assert_eq!(system["metadata"]["labels"]["pod-security.kubernetes.io/enforce"], Value::Null);
}
