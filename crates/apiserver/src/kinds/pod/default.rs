//! What the API server fills in when a Pod leaves it out.
//!
//! Works on the JSON form, so that nothing a client sent is lost. Absent, null
//! and empty text are the same, as they are upstream. Filling twice changes
//! nothing.
//!
//! What depends on other objects is filled by [`crate::admission`].
//!
//! Source: upstream `pkg/apis/core/v1/defaults.go`, `SetDefaults_Pod*`, and
//! `conversion.go` for `serviceAccount`.

use api::Object;
use serde_json::{Map, Value, json};

use crate::kinds::values::{drop_zero, object, objects, set_absent, text};

/// Fills the spec of a Pod.
pub(super) fn fill(pod: &mut Object) {
    let Some(Value::Object(spec)) = pod.body.get_mut("spec") else {
        return;
    };
    fill_spec(spec);
    fill_account(spec);
}

pub(super) fn fill_spec(spec: &mut Map<String, Value>) {
    drop_zero(spec, &["hostNetwork", "hostPID", "hostIPC"]);
    set_absent(spec, "restartPolicy", "Always");
    set_absent(spec, "dnsPolicy", "ClusterFirst");
    set_absent(spec, "schedulerName", "default-scheduler");
    set_absent(spec, "terminationGracePeriodSeconds", 30);
    set_absent(spec, "securityContext", json!({}));
    set_absent(spec, "enableServiceLinks", true);
    let host_network = spec.get("hostNetwork").and_then(Value::as_bool).unwrap_or(false);
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for container in objects(spec, list) {
            // Ephemeral containers have no ports that anything could reach.
            fill_container(container, host_network && list != "ephemeralContainers");
        }
    }
    for volume in objects(spec, "volumes") {
        fill_volume(volume);
    }
}

fn fill_container(container: &mut Map<String, Value>, host_network: bool) {
    drop_zero(container, &["stdin", "stdinOnce", "tty"]);
    let policy = pull_policy(text(container, "image"));
    set_absent(container, "imagePullPolicy", policy);
    set_absent(container, "terminationMessagePath", "/dev/termination-log");
    set_absent(container, "terminationMessagePolicy", "File");
    set_absent(container, "resources", json!({}));
    if let Some(resources) = object(container, "resources") {
        fill_requests(resources);
    }
    for port in objects(container, "ports") {
        set_absent(port, "protocol", "TCP");
        if host_network && let Some(number) = port.get("containerPort").cloned() {
            set_absent(port, "hostPort", number);
        }
    }
    for variable in objects(container, "env") {
        if let Some(field) = object(variable, "valueFrom").and_then(|source| object(source, "fieldRef")) {
            set_absent(field, "apiVersion", "v1");
        }
    }
    for mount in objects(container, "volumeMounts") {
        drop_zero(mount, &["readOnly"]);
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = object(container, probe) {
            fill_probe(probe);
        }
    }
    if let Some(hooks) = object(container, "lifecycle") {
        for hook in ["postStart", "preStop"] {
            if let Some(get) = object(hooks, hook).and_then(|hook| object(hook, "httpGet")) {
                fill_http_get(get);
            }
        }
    }
}

/// `Always` for an image that may change under its name: tag `latest`, or no
/// tag and no digest.
fn pull_policy(image: &str) -> &'static str {
    let name = image.rsplit('/').next().unwrap_or_default();
    if name.contains('@') {
        return "IfNotPresent";
    }
    match name.split_once(':') {
        None | Some((_, "latest" | "")) => "Always",
        Some(_) => "IfNotPresent",
    }
}

/// A limit without a request is also the request.
fn fill_requests(resources: &mut Map<String, Value>) {
    let Some(Value::Object(limits)) = resources.get("limits").cloned() else {
        return;
    };
    if limits.is_empty() {
        return;
    }
    if !matches!(resources.get("requests"), Some(Value::Object(_))) {
        resources.insert("requests".to_owned(), json!({}));
    }
    if let Some(requests) = object(resources, "requests") {
        for (name, limit) in limits {
            set_absent(requests, &name, limit);
        }
    }
}

/// Also zero numbers are filled here, as they mean "not set" in a probe.
fn fill_probe(probe: &mut Map<String, Value>) {
    for (field, value) in [
        ("timeoutSeconds", 1),
        ("periodSeconds", 10),
        ("successThreshold", 1),
        ("failureThreshold", 3),
    ] {
        if probe.get(field).and_then(Value::as_i64) == Some(0) {
            probe.remove(field);
        }
        set_absent(probe, field, value);
    }
    if let Some(get) = object(probe, "httpGet") {
        fill_http_get(get);
    }
    if let Some(grpc) = object(probe, "grpc")
        && grpc.get("service").is_none_or(Value::is_null)
    {
        grpc.insert("service".to_owned(), Value::from(""));
    }
}

fn fill_http_get(get: &mut Map<String, Value>) {
    set_absent(get, "path", "/");
    set_absent(get, "scheme", "HTTP");
}

fn fill_volume(volume: &mut Map<String, Value>) {
    const MODE: i64 = 0o644;
    if !volume.iter().any(|(key, source)| key != "name" && !source.is_null()) {
        volume.insert("emptyDir".to_owned(), json!({}));
    }
    for kind in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = object(volume, kind) {
            set_absent(source, "defaultMode", MODE);
        }
    }
    if let Some(path) = object(volume, "hostPath")
        && path.get("type").is_none_or(Value::is_null)
    {
        path.insert("type".to_owned(), Value::from(""));
    }
    if let Some(image) = object(volume, "image") {
        let policy = pull_policy(text(image, "reference"));
        set_absent(image, "pullPolicy", policy);
    }
    if let Some(downward) = object(volume, "downwardAPI") {
        fill_downward(downward);
    }
    if let Some(projected) = object(volume, "projected") {
        for source in objects(projected, "sources") {
            if let Some(token) = object(source, "serviceAccountToken") {
                set_absent(token, "expirationSeconds", 3600);
            }
            if let Some(downward) = object(source, "downwardAPI") {
                fill_downward(downward);
            }
        }
    }
}

fn fill_downward(downward: &mut Map<String, Value>) {
    for item in objects(downward, "items") {
        if let Some(field) = object(item, "fieldRef") {
            set_absent(field, "apiVersion", "v1");
        }
    }
}

/// The two names of the field that names the account are one.
fn fill_account(spec: &mut Map<String, Value>) {
    let account = match (text(spec, "serviceAccountName"), text(spec, "serviceAccount")) {
        ("", old_name) => old_name.to_owned(),
        (name, _) => name.to_owned(),
    };
    if !account.is_empty() {
        spec.insert("serviceAccountName".to_owned(), Value::from(account.as_str()));
        spec.insert("serviceAccount".to_owned(), Value::from(account));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(spec: Value) -> Value {
        let mut pod: Object = serde_json::from_value(json!({ "metadata": { "name": "p" }, "spec": spec })).unwrap();
        fill(&mut pod);
        let once = pod.clone();
        fill(&mut pod);
        assert_eq!(pod, once, "filling twice changes nothing");
        Value::Object(pod.body)["spec"].clone()
    }

    #[test]
    fn the_smallest_pod() {
        let spec = filled(json!({ "containers": [{ "name": "a", "image": "busybox:1.30" }] }));
        assert_eq!(
            spec,
            json!({
                "containers": [{
                    "name": "a", "image": "busybox:1.30", "imagePullPolicy": "IfNotPresent", "resources": {},
                    "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
                }],
                "restartPolicy": "Always", "dnsPolicy": "ClusterFirst", "schedulerName": "default-scheduler",
                "terminationGracePeriodSeconds": 30, "securityContext": {}, "enableServiceLinks": true,
            })
        );
    }

    #[test]
    fn what_is_set_stays() {
        let given = json!({
            "restartPolicy": "Never", "dnsPolicy": "Default", "schedulerName": "mine", "terminationGracePeriodSeconds": 0,
            "securityContext": { "runAsUser": 1 }, "enableServiceLinks": false, "serviceAccountName": "sa", "serviceAccount": "sa",
            "priority": 7, "preemptionPolicy": "Never", "tolerations": [{ "operator": "Exists" }],
            "containers": [{ "name": "a", "image": "a", "imagePullPolicy": "Never", "terminationMessagePath": "/x", "terminationMessagePolicy": "FallbackToLogsOnError", "resources": {} }],
        });
        assert_eq!(filled(given.clone()), given);
    }

    #[test]
    fn the_pull_policy_depends_on_the_tag() {
        let rows = [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("nginx:1.17.1", "IfNotPresent"),
            ("registry:5000/nginx", "Always"),
            ("registry:5000/nginx:1", "IfNotPresent"),
            ("nginx@sha256:00", "IfNotPresent"),
            ("nginx:latest@sha256:00", "IfNotPresent"),
            ("", "Always"),
        ];
        for (image, policy) in rows {
            assert_eq!(pull_policy(image), policy, "{image}");
        }
    }

    #[test]
    fn a_limit_is_also_the_request() {
        let spec = filled(json!({ "containers": [
            { "resources": { "limits": { "cpu": "1", "memory": "2Gi" }, "requests": { "cpu": "500m" } } },
            { "resources": { "requests": { "cpu": "1" } } },
        ] }));
        assert_eq!(
            spec["containers"][0]["resources"]["requests"],
            json!({ "cpu": "500m", "memory": "2Gi" })
        );
        assert_eq!(spec["containers"][1]["resources"], json!({ "requests": { "cpu": "1" } }));
    }

    #[test]
    fn ports_of_the_host_network_are_host_ports() {
        let ports = json!([{ "containerPort": 80 }, { "containerPort": 81, "hostPort": 82, "protocol": "UDP" }]);
        let own = filled(json!({ "containers": [{ "ports": ports }] }));
        assert_eq!(own["containers"][0]["ports"][0], json!({ "containerPort": 80, "protocol": "TCP" }));
        let host = filled(json!({ "hostNetwork": true, "containers": [{ "ports": ports }] }));
        assert_eq!(
            host["containers"][0]["ports"][0],
            json!({ "containerPort": 80, "protocol": "TCP", "hostPort": 80 })
        );
        assert_eq!(host["containers"][0]["ports"][1]["hostPort"], 82);
    }

    #[test]
    fn probes_and_hooks() {
        let spec = filled(json!({ "containers": [{
            "livenessProbe": { "httpGet": { "port": 80 }, "timeoutSeconds": 0, "failureThreshold": 9 },
            "startupProbe": { "grpc": { "port": 80 } },
            "lifecycle": { "preStop": { "httpGet": { "port": 80 } } },
        }] }));
        let container = &spec["containers"][0];
        assert_eq!(
            container["livenessProbe"],
            json!({ "httpGet": { "port": 80, "path": "/", "scheme": "HTTP" }, "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 9 })
        );
        assert_eq!(container["startupProbe"]["grpc"], json!({ "port": 80, "service": "" }));
        assert_eq!(container["lifecycle"]["preStop"]["httpGet"]["scheme"], "HTTP");
    }

    #[test]
    fn volumes_and_environment() {
        let spec = filled(json!({
            "containers": [{ "env": [{ "name": "N", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } }] }],
            "volumes": [
                { "name": "a" }, { "name": "b", "secret": { "secretName": "s" } }, { "name": "c", "hostPath": { "path": "/x" } },
                { "name": "d", "projected": { "sources": [{ "serviceAccountToken": { "path": "t" } }] } },
            ],
        }));
        assert_eq!(spec["containers"][0]["env"][0]["valueFrom"]["fieldRef"]["apiVersion"], "v1");
        assert_eq!(spec["volumes"][0], json!({ "name": "a", "emptyDir": {} }));
        assert_eq!(spec["volumes"][1]["secret"]["defaultMode"], 420);
        assert_eq!(spec["volumes"][2]["hostPath"]["type"], "");
        assert_eq!(
            spec["volumes"][3]["projected"]["sources"][0]["serviceAccountToken"]["expirationSeconds"],
            3600
        );
    }

    #[test]
    fn the_account_has_two_names() {
        for given in [
            json!({ "serviceAccount": "sa" }),
            json!({ "serviceAccountName": "sa", "serviceAccount": "other" }),
        ] {
            let spec = filled(given);
            assert_eq!((&spec["serviceAccountName"], &spec["serviceAccount"]), (&json!("sa"), &json!("sa")));
        }
        assert_eq!(filled(json!({})).get("serviceAccountName"), None);
    }
}
