//! What a container finds in its environment, read back by real containers.

use std::collections::BTreeMap;
use std::time::Duration;

use e2e::Platform;
use e2e::platform::Build;
use e2e::wait;

const LIMIT: Duration = Duration::from_secs(60);

const OBJECTS: &str = "
apiVersion: v1
kind: ConfigMap
metadata: { name: settings, namespace: dev }
data: { COLOR: blue, SIZE: large }
---
apiVersion: v1
kind: Secret
metadata: { name: keys, namespace: dev }
stringData: { password: s3cret }
---
apiVersion: v1
kind: Service
metadata: { name: my-db, namespace: dev }
spec: { ports: [{ name: sql, port: 5432 }] }
";

const READER: &str = r#"
apiVersion: v1
kind: Pod
metadata: { name: reader, namespace: dev, labels: { tier: back } }
spec:
  restartPolicy: Never
  containers:
  - name: main
    image: busybox:1.30
    command: [sh, -c, "env; echo 'ARGUMENT=$(GREETING)'"]
    resources: { limits: { cpu: 500m, memory: 32Mi } }
    envFrom:
    - { prefix: CM_, configMapRef: { name: settings } }
    - { secretRef: { name: nowhere, optional: true } }
    - { configMapRef: { name: nowhere, optional: true } }
    env:
    - { name: WHO, valueFrom: { fieldRef: { fieldPath: metadata.name } } }
    - { name: GREETING, value: 'hello $(WHO) $(CM_COLOR) $(NOBODY) $$(WHO)' }
    - { name: TIER, valueFrom: { fieldRef: { fieldPath: "metadata.labels['tier']" } } }
    - { name: NODE, valueFrom: { fieldRef: { apiVersion: v1, fieldPath: spec.nodeName } } }
    - { name: POD_IP, valueFrom: { fieldRef: { fieldPath: status.podIP } } }
    - { name: PASSWORD, valueFrom: { secretKeyRef: { name: keys, key: password } } }
    - { name: COLOR, valueFrom: { configMapKeyRef: { name: settings, key: COLOR } } }
    - { name: NO_SECRET, valueFrom: { secretKeyRef: { name: nowhere, key: none, optional: true } } }
    - { name: LATER, valueFrom: { configMapKeyRef: { name: settings, key: none, optional: true } } }
    - { name: CPU_MILLI, valueFrom: { resourceFieldRef: { resource: limits.cpu, divisor: 1m } } }
    - { name: MEMORY, valueFrom: { resourceFieldRef: { resource: limits.memory } } }
    - { name: OTHERS_MEMORY, valueFrom: { resourceFieldRef: { containerName: other, resource: limits.memory } } }
  - name: other
    image: busybox:1.30
    command: ['true']
    resources: { limits: { memory: 16Mi } }
"#;

/// Every kind of variable, in one container.
/// Shows: 14.1.42
/// Fields: spec.containers[].env spec.containers[].env[].name spec.containers[].env[].value spec.containers[].env[].valueFrom
/// Fields: spec.containers[].env[].valueFrom.fieldRef.*
/// Fields: spec.containers[].env[].valueFrom.configMapKeyRef.* spec.containers[].env[].valueFrom.secretKeyRef.*
/// Fields: spec.containers[].env[].valueFrom.resourceFieldRef.*
/// Fields: spec.containers[].envFrom spec.containers[].envFrom[].prefix spec.containers[].envFrom[].configMapRef.* spec.containers[].envFrom[].secretRef.*
/// Fields: spec.enableServiceLinks spec.containers[].command spec.containers[].name status.podIP metadata.labels metadata.namespace
#[test]
fn root_a_container_finds_every_kind_of_variable() {
    let build = Build::from_env().unwrap();
    let platform = Platform::start("env", &build).unwrap();
    platform.ok(&["create", "namespace", "dev"]).unwrap();
    platform.create(OBJECTS).unwrap();
    platform.create(READER).unwrap();
    platform.wait_status("dev", "reader", "Completed", LIMIT).unwrap();
    let logs = platform.ok(&["logs", "reader", "-c", "main", "-n", "dev"]).unwrap();
    let seen: BTreeMap<&str, &str> = logs.lines().filter_map(|line| line.split_once('=')).collect();
    let ip = platform
        .ok(&["get", "pod", "reader", "-n", "dev", "-o", "jsonpath={.status.podIP}"])
        .unwrap();
    let service = platform
        .ok(&["get", "service", "my-db", "-n", "dev", "-o", "jsonpath={.spec.clusterIP}"])
        .unwrap();
    let greeting = "hello reader blue $(NOBODY) $(WHO)";
    for (name, value) in [
        ("WHO", "reader"),
        ("GREETING", greeting),
        ("ARGUMENT", greeting),
        ("TIER", "back"),
        ("NODE", "node1"),
        ("POD_IP", &ip),
        ("PASSWORD", "s3cret"),
        ("COLOR", "blue"),
        ("CM_COLOR", "blue"),
        ("CM_SIZE", "large"),
        ("CPU_MILLI", "500"),
        ("MEMORY", "33554432"),
        ("OTHERS_MEMORY", "16777216"),
        ("MY_DB_SERVICE_HOST", &service),
        ("MY_DB_SERVICE_PORT_SQL", "5432"),
        ("MY_DB_PORT_5432_TCP", &format!("tcp://{service}:5432")),
        ("KUBERNETES_SERVICE_HOST", "10.96.0.1"),
        ("KUBERNETES_SERVICE_PORT", "443"),
        ("KUBERNETES_PORT_443_TCP_ADDR", "10.96.0.1"),
    ] {
        assert_eq!(seen.get(name).copied(), Some(value), "{name}\n{logs}");
    }
    for unset in ["LATER", "NO_SECRET"] {
        assert_eq!(seen.get(unset), None, "{logs}");
    }
    let unknown = READER.replace("apiVersion: v1, fieldPath", "apiVersion: v2, fieldPath");
    let said = format!("{:#}", platform.create(&unknown).unwrap_err());
    assert!(said.contains("valueFrom.fieldRef"), "{said}");

    // Without links only the API server's own Service is told.
    let unlinked = READER
        .replace("name: reader", "name: unlinked")
        .replace("restartPolicy: Never", "restartPolicy: Never\n  enableServiceLinks: false");
    platform.create(&unlinked).unwrap();
    platform.wait_status("dev", "unlinked", "Completed", LIMIT).unwrap();
    let logs = platform.ok(&["logs", "unlinked", "-c", "main", "-n", "dev"]).unwrap();
    assert!(logs.contains("KUBERNETES_SERVICE_HOST=") && !logs.contains("MY_DB_"), "{logs}");
}

/// A missing object stops the container with upstream's words, and only until
/// the object appears.
/// Shows: 14.3.6
#[test]
fn root_a_missing_source_is_told_and_heals() {
    let build = Build::from_env().unwrap();
    let platform = Platform::start("envheal", &build).unwrap();
    platform
        .create(
            "
apiVersion: v1
kind: Pod
metadata: { name: waits }
spec:
  containers:
  - name: main
    image: busybox:1.30
    command: [sh, -c, 'echo got $COLOR; exec sleep 1000']
    env: [{ name: COLOR, valueFrom: { configMapKeyRef: { name: late, key: color } } }]
",
        )
        .unwrap();
    let waiting = |message: &'static str| {
        platform
            .wait_pod("default", "waits", message, LIMIT, |pod| {
                let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
                (waiting["reason"] == "CreateContainerConfigError" && waiting["message"] == message).then_some(())
            })
            .unwrap();
    };
    waiting("configmap \"late\" not found");
    platform
        .wait_status("default", "waits", "CreateContainerConfigError", LIMIT)
        .unwrap();
    wait::until("the event", LIMIT, || {
        let events = platform.ok(&["get", "events", "-o", "custom-columns=R:.reason,M:.message"])?;
        let told = events
            .lines()
            .any(|line| line.starts_with("Failed") && line.ends_with("Error: configmap \"late\" not found"));
        Ok(if told { Ok(()) } else { Err(events) })
    })
    .unwrap();
    platform.ok(&["create", "configmap", "late", "--from-literal=size=1"]).unwrap();
    waiting("couldn't find key color in ConfigMap default/late");
    platform
        .ok(&["patch", "configmap", "late", "-p", r#"{"data":{"color":"red"}}"#])
        .unwrap();
    platform.wait_status("default", "waits", "Running", LIMIT).unwrap();
    let restarts = platform
        .ok(&["get", "pod", "waits", "-o", "jsonpath={.status.containerStatuses[0].restartCount}"])
        .unwrap();
    assert_eq!(restarts, "0");
    wait::until("its log", LIMIT, || {
        let logs = platform.ok(&["logs", "waits"])?;
        Ok(if logs == "got red\n" { Ok(()) } else { Err(logs) })
    })
    .unwrap();
}

const NAMED: &str = "
apiVersion: v1
kind: Pod
metadata: { name: named, namespace: dev }
spec:
  restartPolicy: Never
  hostname: web
  subdomain: sub
  setHostnameAsFQDN: true
  hostAliases: [{ ip: 10.1.2.3, hostnames: [other, another] }]
  dnsPolicy: None
  dnsConfig: { nameservers: [10.9.9.9], searches: [a.example], options: [{ name: ndots, value: '3' }] }
  shareProcessNamespace: true
  containers:
  - name: main
    image: busybox:1.30
    workingDir: /made/for/it
    command: [sh, -c, 'pwd; hostname; cat /etc/hosts /etc/resolv.conf; echo first=$(cat /proc/1/comm); echo mine=$$']
";

/// Names, addresses of name servers, the directory, and who else is there.
/// Fields: spec.hostname spec.subdomain spec.setHostnameAsFQDN spec.hostAliases.* spec.dnsPolicy spec.dnsConfig.* spec.shareProcessNamespace
/// Fields: spec.containers[].workingDir
#[test]
fn root_a_container_knows_its_name_and_place() {
    let build = Build::from_env().unwrap();
    let platform = Platform::start("named", &build).unwrap();
    platform.ok(&["create", "namespace", "dev"]).unwrap();
    platform.create(NAMED).unwrap();
    platform.wait_status("dev", "named", "Completed", LIMIT).unwrap();
    let logs = platform.ok(&["logs", "named", "-n", "dev"]).unwrap();
    let ip = platform
        .ok(&["get", "pod", "named", "-n", "dev", "-o", "jsonpath={.status.podIP}"])
        .unwrap();
    for line in [
        "/made/for/it",
        "web.sub.dev.svc.cluster.local",
        &format!("{ip}\tweb.sub.dev.svc.cluster.local\tweb"),
        "10.1.2.3\tother\tanother",
        "search a.example",
        "nameserver 10.9.9.9",
        "options ndots:3",
        "first=sandbox-init",
    ] {
        assert!(logs.lines().any(|found| found == line), "{line:?} in\n{logs}");
    }
}
