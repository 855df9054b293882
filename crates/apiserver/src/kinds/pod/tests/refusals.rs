//! What Lifepod does not do yet is refused by name.

use super::*;

#[track_caller]
fn refused(pod: &Object, paths: &[&str]) {
    let said = created(pod);
    let begins = |path: &&str| format!("{path}: Forbidden: Lifepod {} does not ", env!("CARGO_PKG_VERSION"));
    assert_eq!(said.len(), paths.len(), "{said:?}");
    for path in paths {
        assert!(
            said.iter().any(|text| text.starts_with(&begins(path)) && text.ends_with(" yet")),
            "{path} in {said:?}"
        );
    }
}

#[test]
fn the_words_of_a_refusal() {
    let said = created(&with(json!({ "securityContext": { "seLinuxOptions": { "level": "s0" } } })));
    assert_eq!(
        said,
        [format!(
            "spec.containers[0].securityContext.seLinuxOptions: Forbidden: Lifepod {} does not apply SELinux labels yet",
            env!("CARGO_PKG_VERSION")
        )]
    );
}

/// Fields: spec.containers[].ports[].hostPort spec.containers[].securityContext.seLinuxOptions
#[test]
fn parts_of_a_container() {
    let rows = [
        (json!({ "ports": [{ "containerPort": 80, "hostPort": 80 }] }), "ports[0].hostPort"),
        (
            json!({ "securityContext": { "seLinuxOptions": { "level": "s0" } } }),
            "securityContext.seLinuxOptions",
        ),
    ];
    for (more, path) in rows {
        refused(&with(more), &[&format!("spec.containers[0].{path}")]);
    }
    let extended = with(json!({ "resources": { "limits": { "example.com/device": "1" } } }));
    refused(
        &extended,
        &[
            "spec.containers[0].resources.limits[example.com/device]",
            "spec.containers[0].resources.requests[example.com/device]",
        ],
    );
}

/// Fields: spec.topologySpreadConstraints spec.affinity.podAffinity spec.affinity.podAntiAffinity spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution spec.volumes[].nfs
#[test]
fn parts_of_a_pod() {
    let term = json!({ "topologyKey": "kubernetes.io/hostname" });
    let preferred = json!([{ "weight": 1, "preference": { "matchExpressions": [{ "key": "a", "operator": "Exists" }] } }]);
    let rows = [
        (json!({ "os": { "name": "windows" } }), "os.name"),
        (
            json!({ "topologySpreadConstraints": [{ "maxSkew": 1, "topologyKey": "a", "whenUnsatisfiable": "DoNotSchedule" }] }),
            "topologySpreadConstraints",
        ),
        (
            json!({ "affinity": { "podAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": [term] } } }),
            "affinity.podAffinity",
        ),
        (
            json!({ "affinity": { "podAntiAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": [term] } } }),
            "affinity.podAntiAffinity",
        ),
        (
            json!({ "affinity": { "nodeAffinity": { "preferredDuringSchedulingIgnoredDuringExecution": preferred } } }),
            "affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution",
        ),
        (
            json!({ "volumes": [{ "name": "v", "nfs": { "server": "s", "path": "/" } }] }),
            "volumes[0].nfs",
        ),
    ];
    for (mut spec, path) in rows {
        spec["containers"] = json!([{ "name": "a", "image": "i" }]);
        refused(&pod(spec), &[&format!("spec.{path}")]);
    }
}

#[test]
fn what_works_is_not_refused() {
    let term = json!({ "matchExpressions": [{ "key": "a", "operator": "In", "values": ["b"] }] });
    let main = container(json!({
        "livenessProbe": { "httpGet": { "port": "http" } }, "readinessProbe": { "grpc": { "port": 80 } },
        "lifecycle": { "postStart": { "sleep": { "seconds": 1 } }, "preStop": { "tcpSocket": { "port": 80 } } },
        "command": ["sh"], "args": ["-c", "$(A)"], "workingDir": "/", "env": [{ "name": "A", "value": "b" }, { "name": "B" }, { "name": "C", "valueFrom": { "fieldRef": { "apiVersion": "v1", "fieldPath": "metadata.name" } } }],
        "volumeMounts": [{ "name": "v", "mountPath": "/v", "subPath": "a", "readOnly": true, "recursiveReadOnly": "Enabled" }], "envFrom": [{ "secretRef": { "name": "s" }, "prefix": "P_" }],
        "ports": [{ "containerPort": 80, "name": "http" }], "imagePullPolicy": "Never", "terminationMessagePath": "/t",
        "resources": { "limits": { "cpu": "1", "memory": "1Gi" }, "requests": { "cpu": "500m" } }, "stdin": true, "stdinOnce": true, "tty": true,
        "securityContext": {
            "privileged": true, "capabilities": { "add": ["NET_ADMIN"], "drop": ["ALL"] }, "readOnlyRootFilesystem": true, "procMount": "Default",
        },
    }));
    let full = pod(json!({
        "restartPolicy": "OnFailure", "terminationGracePeriodSeconds": 5, "activeDeadlineSeconds": 60, "nodeName": "n", "nodeSelector": { "a": "b" },
        "hostNetwork": true, "hostIPC": true, "shareProcessNamespace": true, "hostname": "h", "subdomain": "s", "setHostnameAsFQDN": true, "imagePullSecrets": [{ "name": "s" }], "schedulerName": "mine",
        "hostAliases": [{ "ip": "1.2.3.4", "hostnames": ["a.b"] }], "dnsPolicy": "None",
        "dnsConfig": { "nameservers": ["1.1.1.1"], "options": [{ "name": "ndots" }] },
        "tolerations": [{ "key": "a", "operator": "Exists", "effect": "NoSchedule" }], "readinessGates": [{ "conditionType": "a.b/c" }],
        "automountServiceAccountToken": true, "enableServiceLinks": true, "os": { "name": "linux" }, "hostUsers": true,
        "affinity": { "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": [term] } } },
        "volumes": [{ "name": "v" }, { "name": "p", "projected": { "sources": [{ "serviceAccountToken": { "path": "t" } }] } }],
        "securityContext": { "fsGroup": 1, "fsGroupChangePolicy": "OnRootMismatch", "runAsUser": 1, "runAsGroup": 2, "runAsNonRoot": true, "supplementalGroups": [3], "seccompProfile": { "type": "RuntimeDefault" } },
        "initContainers": [
            { "name": "i", "image": "i" },
            { "name": "s", "image": "i", "restartPolicy": "Always", "startupProbe": { "exec": { "command": ["true"] } } },
        ],
        "containers": [main],
    }));
    assert_eq!(created(&full), Vec::<String>::new());
    let own_users = pod(json!({
        "hostUsers": false, "containers": [{ "name": "a", "image": "i", "securityContext": { "procMount": "Unmasked" } }],
    }));
    assert_eq!(created(&own_users), Vec::<String>::new());
}

#[test]
fn what_is_wrong_is_said_before_what_is_not_done() {
    let said = created(&with(
        json!({ "name": "A_b", "securityContext": { "seLinuxOptions": { "level": "s0" } } }),
    ));
    assert!(
        said.len() == 1 && said[0].starts_with("spec.containers[0].name: Invalid value"),
        "{said:?}"
    );
}

#[test]
fn a_pod_with_init_containers_is_taken_as_it_is() {
    let wait = |name: &str| json!({ "name": name, "image": "busybox:1.30", "command": ["sh", "-c", "until ping 192.168.90.14 -c 1; do sleep 2; done;"] });
    let tutorial = pod(json!({
        "containers": [{ "name": "main-container", "image": "nginx:1.17.1", "ports": [{ "name": "nginx-port", "containerPort": 80 }] }],
        "initContainers": [wait("test-mysql"), wait("test-redis")],
    }));
    assert_eq!(created(&tutorial), Vec::<String>::new());
}
