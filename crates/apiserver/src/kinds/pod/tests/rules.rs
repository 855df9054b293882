//! Upstream's rules, one row per mistake.

use super::*;

const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";

/// Exactly these are said of one container with these fields; `C` stands for
/// its path.
#[track_caller]
fn container_says(more: Value, wanted: &[&str]) {
    let wanted: Vec<String> = wanted.iter().map(|text| text.replacen('C', "spec.containers[0]", 1)).collect();
    assert_eq!(created(&with(more.clone())), wanted, "{more}");
}

/// Exactly these are said of a Pod with one good container and these fields.
#[track_caller]
fn pod_says(mut spec: Value, wanted: &[&str]) {
    if spec.get("containers").is_none() {
        spec["containers"] = json!([{ "name": "a", "image": "i" }]);
    }
    assert_eq!(created(&pod(spec.clone())), wanted, "{spec}");
}

#[test]
fn containers_names_and_images() {
    pod_says(json!({ "containers": [] }), &["spec.containers: Required value"]);
    assert_eq!(
        created(&serde_json::from_value(json!({ "metadata": { "name": "p" } })).unwrap())[0],
        "spec.terminationGracePeriodSeconds: Required value"
    );
    container_says(json!({ "name": "" }), &["C.name: Required value"]);
    container_says(json!({ "image": "" }), &["C.image: Required value"]);
    container_says(json!({ "name": "A_b" }), &[&format!("C.name: Invalid value: \"A_b\": {LABEL}")]);
    let long = "x".repeat(64);
    container_says(
        json!({ "name": long }),
        &[&format!("C.name: Invalid value: \"{long}\": must be no more than 63 characters")],
    );
    container_says(
        json!({ "image": " x" }),
        &["C.image: Invalid value: \" x\": must not have leading or trailing whitespace"],
    );
    let two = json!([{ "name": "a", "image": "i" }, { "name": "a", "image": "i" }]);
    pod_says(json!({ "containers": two }), &["spec.containers[1].name: Duplicate value: \"a\""]);
    pod_says(
        json!({ "initContainers": [{ "name": "a", "image": "i" }] }),
        &["spec.initContainers[0].name: Duplicate value: \"a\""],
    );
}

#[test]
fn choices() {
    pod_says(
        json!({ "restartPolicy": "X" }),
        &[r#"spec.restartPolicy: Unsupported value: "X": supported values: "Always", "OnFailure", "Never""#],
    );
    pod_says(
        json!({ "dnsPolicy": "X" }),
        &[r#"spec.dnsPolicy: Unsupported value: "X": supported values: "ClusterFirstWithHostNet", "ClusterFirst", "Default", "None""#],
    );
    container_says(
        json!({ "imagePullPolicy": "X" }),
        &[r#"C.imagePullPolicy: Unsupported value: "X": supported values: "Always", "IfNotPresent", "Never""#],
    );
    let wanted = r#"C.terminationMessagePolicy: Unsupported value: "X": supported values: "File", "FallbackToLogsOnError""#;
    container_says(json!({ "terminationMessagePolicy": "X" }), &[wanted]);
    container_says(
        json!({ "restartPolicy": "Always" }),
        &["C.restartPolicy: Forbidden: may not be set for non-init containers"],
    );
    pod_says(
        json!({ "initContainers": [{ "name": "i", "image": "i", "restartPolicy": "X" }] }),
        &[r#"spec.initContainers[0].restartPolicy: Unsupported value: "X": supported values: "Always""#],
    );
    pod_says(
        json!({ "preemptionPolicy": "X" }),
        &[r#"spec.preemptionPolicy: Unsupported value: "X": supported values: "PreemptLowerPriority", "Never""#],
    );
}

#[test]
fn init_containers_have_no_probes() {
    let probe = json!({ "exec": { "command": ["true"] } });
    for (field, value) in [
        ("livenessProbe", &probe),
        ("readinessProbe", &probe),
        ("startupProbe", &probe),
        ("lifecycle", &json!({ "preStop": probe })),
    ] {
        let mut init = json!({ "name": "i", "image": "i" });
        init[field] = value.clone();
        let wanted = format!("spec.initContainers[0].{field}: Forbidden: may not be set for init containers without restartPolicy=Always");
        pod_says(json!({ "initContainers": [init] }), &[&wanted]);
    }
}

#[test]
fn ports() {
    let port = |port: Value| json!({ "ports": [port] });
    container_says(port(json!({})), &["C.ports[0].containerPort: Required value"]);
    container_says(port(json!({ "containerPort": 0 })), &["C.ports[0].containerPort: Required value"]);
    container_says(
        port(json!({ "containerPort": 70000 })),
        &["C.ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive"],
    );
    container_says(
        port(json!({ "containerPort": 1, "hostPort": 70000 })),
        &["C.ports[0].hostPort: Invalid value: 70000: must be between 1 and 65535, inclusive"],
    );
    let wanted = r#"C.ports[0].protocol: Unsupported value: "X": supported values: "SCTP", "TCP", "UDP""#;
    container_says(port(json!({ "containerPort": 1, "protocol": "X" })), &[wanted]);
    let rows = [
        ("averyveryverylongname", "must be no more than 15 characters"),
        ("80", "must contain at least one letter (a-z)"),
        ("a_b", "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)"),
        ("a--b", "must not contain consecutive hyphens"),
        ("a-", "must not begin or end with a hyphen"),
    ];
    for (name, rule) in rows {
        container_says(
            port(json!({ "containerPort": 1, "name": name })),
            &[&format!("C.ports[0].name: Invalid value: \"{name}\": {rule}")],
        );
    }
    let twice = json!({ "ports": [{ "containerPort": 1, "name": "http" }, { "containerPort": 2, "name": "http" }] });
    container_says(twice, &[r#"C.ports[1].name: Duplicate value: "http""#]);
    let twice = json!({ "ports": [{ "containerPort": 1, "hostPort": 8080 }, { "containerPort": 2, "hostPort": 8080 }] });
    container_says(twice, &[r#"C.ports[1].hostPort: Duplicate value: "TCP//8080""#]);
    pod_says(
        json!({ "hostNetwork": true, "containers": [container(port(json!({ "containerPort": 80, "hostPort": 81 })))] }),
        &["spec.containers[0].ports[0].hostPort: Invalid value: 81: must match `containerPort` when `hostNetwork` is true"],
    );
}

#[test]
fn environment() {
    let env = |variable: Value| json!({ "env": [variable] });
    let from = |source: Value| json!({ "env": [{ "name": "A", "valueFrom": source }] });
    container_says(env(json!({ "name": "" })), &["C.env[0].name: Required value"]);
    container_says(
        env(json!({ "name": "a=b" })),
        &[
            r#"C.env[0].name: Invalid value: "a=b": a valid environment variable name must consist only of printable ASCII characters other than '='"#,
        ],
    );
    let name = json!({ "fieldRef": { "fieldPath": "metadata.name" } });
    container_says(
        env(json!({ "name": "A", "value": "b", "valueFrom": name })),
        &[r#"C.env[0].valueFrom: Invalid value: "": may not be specified when `value` is not empty"#],
    );
    container_says(
        from(json!({})),
        &[
            r#"C.env[0].valueFrom: Invalid value: "": must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`"#,
        ],
    );
    container_says(
        from(json!({ "fieldRef": { "fieldPath": "metadata.name" }, "secretKeyRef": { "name": "s", "key": "k" } })),
        &[r#"C.env[0].valueFrom: Invalid value: "": may not have more than one field specified at a time"#],
    );
    container_says(
        from(json!({ "fieldRef": { "fieldPath": "spec.x" } })),
        &[
            r#"C.env[0].valueFrom.fieldRef.fieldPath: Invalid value: "spec.x": error converting fieldPath: field label not supported: spec.x"#,
        ],
    );
    for kind in ["configMapKeyRef", "secretKeyRef"] {
        let mut source = json!({});
        source[kind] = json!({ "name": "m" });
        container_says(from(source), &[&format!("C.env[0].valueFrom.{kind}.key: Required value")]);
    }
    container_says(
        from(json!({ "resourceFieldRef": { "resource": "limits.x" } })),
        &[
            r#"C.env[0].valueFrom.resourceFieldRef.resource: Unsupported value: "limits.x": supported values: "limits.cpu", "limits.ephemeral-storage", "limits.memory", "requests.cpu", "requests.ephemeral-storage", "requests.memory""#,
        ],
    );
    container_says(
        json!({ "envFrom": [{}] }),
        &[r#"C.envFrom: Invalid value: "": must specify one of: `configMapRef` or `secretRef`"#],
    );
}

#[test]
fn volumes_and_mounts() {
    let mount = |mount: Value| json!({ "volumes": [{ "name": "v" }], "containers": [container(json!({ "volumeMounts": [mount] }))] });
    let path = "spec.containers[0].volumeMounts";
    pod_says(
        mount(json!({ "name": "data", "mountPath": "/d" })),
        &[&format!("{path}[0].name: Not found: \"data\"")],
    );
    pod_says(mount(json!({ "name": "v" })), &[&format!("{path}[0].mountPath: Required value")]);
    let twice = json!([{ "name": "v", "mountPath": "/d" }, { "name": "v", "mountPath": "/d" }]);
    pod_says(
        json!({ "volumes": [{ "name": "v" }], "containers": [container(json!({ "volumeMounts": twice }))] }),
        &[&format!("{path}[1].mountPath: Invalid value: \"/d\": must be unique")],
    );
    pod_says(
        mount(json!({ "name": "v", "mountPath": "/d", "subPath": "/x" })),
        &[&format!("{path}.subPath: Invalid value: \"/x\": must be a relative path")],
    );
    pod_says(
        mount(json!({ "name": "v", "mountPath": "/d", "subPath": "a/../b" })),
        &[&format!("{path}.subPath: Invalid value: \"a/../b\": must not contain '..'")],
    );
    let volume = |volume: Value| json!({ "volumes": [volume] });
    pod_says(volume(json!({ "emptyDir": {} })), &["spec.volumes[0].name: Required value"]);
    pod_says(
        json!({ "volumes": [{ "name": "x" }, { "name": "x" }] }),
        &["spec.volumes[1].name: Duplicate value: \"x\""],
    );
    pod_says(
        volume(json!({ "name": "x", "emptyDir": {}, "secret": { "secretName": "s" } })),
        &["spec.volumes[0].secret: Forbidden: may not specify more than 1 volume type"],
    );
    let rows = [
        (json!({ "hostPath": {} }), "hostPath.path: Required value"),
        (json!({ "configMap": {} }), "configMap.name: Required value"),
        (json!({ "secret": {} }), "secret.secretName: Required value"),
        (
            json!({ "persistentVolumeClaim": {} }),
            "persistentVolumeClaim.claimName: Required value",
        ),
        (
            json!({ "secret": { "secretName": "s", "defaultMode": 1000 } }),
            "secret.defaultMode: Invalid value: 1000: must be a number between 0 and 0777 (octal), both inclusive",
        ),
    ];
    for (mut given, wanted) in rows {
        given["name"] = json!("x");
        pod_says(volume(given), &[&format!("spec.volumes[0].{wanted}")]);
    }
}

#[test]
fn resources() {
    let given = |resources: Value| json!({ "resources": resources });
    container_says(
        given(json!({ "requests": { "cpu": "200m" }, "limits": { "cpu": "100m" } })),
        &[r#"C.resources.requests: Invalid value: "200m": must be less than or equal to cpu limit of 100m"#],
    );
    container_says(
        given(json!({ "requests": { "cpu": 0.2 }, "limits": { "cpu": "100m" } })),
        &[r#"C.resources.requests: Invalid value: "200m": must be less than or equal to cpu limit of 100m"#],
    );
    let said = created(&with(given(json!({ "limits": { "cpu": "-1" } }))));
    assert_eq!(
        said[0],
        r#"spec.containers[0].resources.limits[cpu]: Invalid value: "-1": must be greater than or equal to 0"#
    );
    let said = created(&with(given(json!({ "limits": { "foo": "1" } }))));
    assert_eq!(
        said[..2],
        [
            r#"spec.containers[0].resources.limits[foo]: Invalid value: "foo": must be a standard resource type or fully qualified"#,
            r#"spec.containers[0].resources.limits[foo]: Invalid value: "foo": must be a standard resource for containers"#,
        ]
    );
    container_says(
        given(json!({ "requests": { "a.b/c": "1" } })),
        &["C.resources.limits: Required value: Limit must be set for non overcommitable resources"],
    );
}

#[test]
fn probes_and_hooks() {
    let exec = json!({ "exec": { "command": ["true"] } });
    let probe = |kind: &str, more: Value| {
        let mut probe = exec.clone();
        for (key, value) in more.as_object().unwrap() {
            probe[key] = value.clone();
        }
        let mut container = json!({});
        container[kind] = probe;
        container
    };
    container_says(
        json!({ "livenessProbe": {} }),
        &["C.livenessProbe: Required value: must specify a handler type"],
    );
    container_says(
        json!({ "lifecycle": { "postStart": {} } }),
        &["C.lifecycle.postStart: Required value: must specify a handler type"],
    );
    container_says(
        probe("livenessProbe", json!({ "httpGet": { "port": 80 } })),
        &["C.livenessProbe.httpGet: Forbidden: may not specify more than 1 handler type"],
    );
    for kind in ["livenessProbe", "startupProbe"] {
        container_says(
            probe(kind, json!({ "successThreshold": 2 })),
            &[&format!("C.{kind}.successThreshold: Invalid value: 2: must be 1")],
        );
    }
    container_says(
        probe("readinessProbe", json!({ "periodSeconds": -1 })),
        &["C.readinessProbe.periodSeconds: Invalid value: -1: must be greater than or equal to 0"],
    );
    container_says(
        probe("livenessProbe", json!({ "terminationGracePeriodSeconds": 0 })),
        &["C.livenessProbe.terminationGracePeriodSeconds: Invalid value: 0: must be greater than 0"],
    );
    container_says(
        probe("readinessProbe", json!({ "terminationGracePeriodSeconds": 10 })),
        &["C.readinessProbe.terminationGracePeriodSeconds: Invalid value: 10: must not be set for readinessProbes"],
    );
    container_says(
        json!({ "livenessProbe": { "exec": {} } }),
        &["C.livenessProbe.exec.command: Required value"],
    );
    let get = |get: Value| json!({ "livenessProbe": { "httpGet": get } });
    container_says(
        get(json!({ "port": 80, "scheme": "FTP" })),
        &[r#"C.livenessProbe.httpGet.scheme: Unsupported value: "FTP": supported values: "HTTP", "HTTPS""#],
    );
    container_says(
        get(json!({ "port": 80, "httpHeaders": [{ "name": "a b", "value": "" }] })),
        &[
            r#"C.livenessProbe.httpGet.httpHeaders: Invalid value: "a b": a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')"#,
        ],
    );
    container_says(
        get(json!({ "port": 0 })),
        &["C.livenessProbe.httpGet.port: Invalid value: 0: must be between 1 and 65535, inclusive"],
    );
    container_says(
        json!({ "livenessProbe": { "tcpSocket": { "port": "80" } } }),
        &[r#"C.livenessProbe.tcpSocket.port: Invalid value: "80": must contain at least one letter (a-z)"#],
    );
    let sleep = |seconds: i64| json!({ "lifecycle": { "preStop": { "sleep": { "seconds": seconds } } } });
    for seconds in [-1, 31] {
        let wanted = format!(
            "C.lifecycle.preStop.sleep: Invalid value: {seconds}: must be non-negative and less than terminationGracePeriodSeconds (30)"
        );
        container_says(sleep(seconds), &[&wanted]);
    }
    // From v1.33 on, zero is a sleep.
    assert_eq!(created(&with(sleep(0))), Vec::<String>::new());
}

#[test]
fn an_empty_path_is_seen_when_defaults_did_not_run() {
    let mut bare = with(json!({ "livenessProbe": { "httpGet": { "port": 80 } } }));
    bare.body["spec"]["containers"][0]["livenessProbe"]["httpGet"]["path"] = json!("");
    assert_eq!(created(&bare), ["spec.containers[0].livenessProbe.httpGet.path: Required value"]);
}

#[test]
fn deadlines_and_tolerations() {
    for seconds in [0_i64, -1, 2_147_483_648] {
        let wanted = format!("spec.activeDeadlineSeconds: Invalid value: {seconds}: must be between 1 and 2147483647, inclusive");
        pod_says(json!({ "activeDeadlineSeconds": seconds }), &[&wanted]);
    }
    let toleration = |toleration: Value| json!({ "tolerations": [toleration] });
    pod_says(
        toleration(json!({ "operator": "Equal", "effect": "NoSchedule" })),
        &[
            r#"spec.tolerations[0].operator: Invalid value: "Equal": operator must be Exists when `key` is empty, which means "match all values and all keys""#,
        ],
    );
    pod_says(
        toleration(json!({ "key": "a", "operator": "Exists", "value": "b" })),
        &[r#"spec.tolerations[0].operator: Invalid value: "b": value must be empty when `operator` is 'Exists'"#],
    );
    pod_says(
        toleration(json!({ "key": "a", "operator": "Exists", "effect": "NoSchedule", "tolerationSeconds": 1 })),
        &[r#"spec.tolerations[0].effect: Invalid value: "NoSchedule": effect must be 'NoExecute' when `tolerationSeconds` is set"#],
    );
    pod_says(
        toleration(json!({ "key": "a", "operator": "X" })),
        &[r#"spec.tolerations[0].operator: Unsupported value: "X": supported values: "Equal", "Exists""#],
    );
    pod_says(
        toleration(json!({ "key": "a", "effect": "X" })),
        &[r#"spec.tolerations[0].effect: Unsupported value: "X": supported values: "NoSchedule", "PreferNoSchedule", "NoExecute""#],
    );
}

#[test]
fn gates_dns_and_names() {
    pod_says(
        json!({ "schedulingGates": [{ "name": "g" }, { "name": "g" }] }),
        &[r#"spec.schedulingGates[1]: Duplicate value: "g""#],
    );
    pod_says(
        json!({ "nodeName": "n", "schedulingGates": [{ "name": "g" }] }),
        &["spec.nodeName: Forbidden: cannot be set until all schedulingGates have been cleared"],
    );
    pod_says(
        json!({ "dnsPolicy": "None" }),
        &["spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None"],
    );
    pod_says(
        json!({ "dnsPolicy": "None", "dnsConfig": { "searches": ["a"] } }),
        &["spec.dnsConfig.nameservers: Required value: must provide at least one DNS nameserver when `dnsPolicy` is None"],
    );
    pod_says(
        json!({ "dnsConfig": { "nameservers": ["x"] } }),
        &[r#"spec.dnsConfig.nameservers[0]: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"#],
    );
    pod_says(
        json!({ "shareProcessNamespace": true, "hostPID": true }),
        &["spec.securityContext.shareProcessNamespace: Invalid value: true: ShareProcessNamespace and HostPID cannot both be enabled"],
    );
    pod_says(
        json!({ "hostname": "a.b" }),
        &[r#"spec.hostname: Invalid value: "a.b": must not contain dots"#],
    );
    pod_says(
        json!({ "hostAliases": [{ "ip": "x", "hostnames": ["a"] }] }),
        &[r#"spec.hostAliases[0].ip: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"#],
    );
}

#[test]
fn ephemeral_containers() {
    let probe = json!({ "exec": { "command": ["true"] } });
    let found = created(&pod(json!({
        "containers": [{ "name": "a", "image": "i" }],
        "ephemeralContainers": [{ "name": "e", "image": "i", "livenessProbe": probe, "targetContainerName": "x" }, { "name": "a", "image": "i" }],
    })));
    for wanted in [
        "spec.ephemeralContainers: Forbidden: cannot be set on create",
        "spec.ephemeralContainers[0].livenessProbe: Forbidden: cannot be set for an Ephemeral Container",
        r#"spec.ephemeralContainers[0].targetContainerName: Not found: "x""#,
        r#"spec.ephemeralContainers[1].name: Duplicate value: "a""#,
    ] {
        assert!(found.iter().any(|text| text == wanted), "{wanted} in {found:?}");
    }
    assert_eq!(found.len(), 4);
}

#[test]
fn affinity() {
    let required = |terms: Value| json!({ "affinity": { "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": terms } } } });
    let path = "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms";
    pod_says(
        required(json!([])),
        &[&format!("{path}: Required value: must have at least one node selector term")],
    );
    let rows = [
        (
            json!({ "key": "a", "operator": "In" }),
            "values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
        ),
        (
            json!({ "key": "a", "operator": "Exists", "values": ["b"] }),
            "values: Forbidden: may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
        ),
        (
            json!({ "key": "a", "operator": "Gt" }),
            "values: Required value: must be specified single value when `operator` is 'Lt' or 'Gt'",
        ),
        (
            json!({ "key": "a", "operator": "X" }),
            "operator: Invalid value: \"X\": not a valid selector operator",
        ),
    ];
    for (requirement, wanted) in rows {
        pod_says(
            required(json!([{ "matchExpressions": [requirement] }])),
            &[&format!("{path}[0].matchExpressions[0].{wanted}")],
        );
    }
    pod_says(
        required(json!([{ "matchFields": [{ "key": "x", "operator": "In", "values": ["a"] }] }])),
        &[&format!(
            "{path}[0].matchFields[0].key: Invalid value: \"x\": not a valid field selector key"
        )],
    );
}

#[test]
fn security_contexts() {
    pod_says(
        json!({ "securityContext": { "runAsUser": -1 } }),
        &["spec.securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive"],
    );
    container_says(
        json!({ "securityContext": { "seccompProfile": { "type": "Localhost" } } }),
        &["C.securityContext.seccompProfile.localhostProfile: Required value: must be set when seccomp type is Localhost"],
    );
    let said = created(&with(
        json!({ "securityContext": { "privileged": true, "allowPrivilegeEscalation": false } }),
    ));
    assert!(
        said.len() == 1 && said[0].ends_with("cannot set `allowPrivilegeEscalation` to false and `privileged` to true"),
        "{said:?}"
    );
}
