//! Fields of a Pod, each set, and what real containers found of it.

use std::fs;
use std::process::Command;
use std::time::Duration;

use e2e::Platform;
use e2e::host::run;
use e2e::platform::Build;
use e2e::wait;

const LIMIT: Duration = Duration::from_secs(60);

fn started(label: &str) -> Platform {
    Platform::start(label, &Build::from_env().unwrap()).unwrap()
}

fn printed(platform: &Platform, pod: &str, container: &str) -> Vec<String> {
    let text = wait::until(&format!("{container} of {pod} to end"), LIMIT, || {
        let logs = platform.kubectl(&["logs", pod, "-c", container])?;
        let text = String::from_utf8_lossy(&logs.stdout).into_owned();
        Ok(if text.ends_with("done\n") {
            Ok(text)
        } else {
            Err(text + &String::from_utf8_lossy(&logs.stderr))
        })
    })
    .unwrap();
    text.lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect()
}

fn waiting(platform: &Platform, pod: &str, status: &str) -> String {
    platform.wait_status("default", pod, status, LIMIT).unwrap();
    let path = "jsonpath={.status.containerStatuses[0].state.waiting.message}";
    platform.ok(&["get", "pod", pod, "-o", path]).unwrap()
}

const USERS: &str = r#"
apiVersion: v1
kind: Pod
metadata: { name: users }
spec:
  restartPolicy: Never
  securityContext:
    runAsUser: 1000
    runAsGroup: 3000
    runAsNonRoot: true
    seccompProfile: { type: Localhost, localhostProfile: nodir.json }
    appArmorProfile: { type: Unconfined }
  containers:
  - name: as-the-pod
    image: busybox:1.30
    command: [sh, -c, 'id -u; id -g; mkdir /tmp/x 2>&1; echo done']
  - name: as-itself
    image: busybox:1.30
    securityContext:
      runAsUser: 1001
      runAsGroup: 3001
      allowPrivilegeEscalation: false
      readOnlyRootFilesystem: true
      appArmorProfile: { type: Unconfined }
    command: [sh, -c, 'id -u; id -g; grep NoNewPrivs /proc/self/status; touch /tmp/x 2>&1; echo done']
---
apiVersion: v1
kind: Pod
metadata: { name: rights }
spec:
  restartPolicy: Never
  containers:
  - name: one
    image: busybox:1.30
    securityContext: { capabilities: { add: [NET_ADMIN], drop: [ALL] }, procMount: Default, runAsNonRoot: false }
    command: [sh, -c, 'grep CapEff /proc/self/status; cat /proc/keys | wc -c; grep -c " /sys sysfs ro" /proc/mounts; echo done']
  - name: all
    image: busybox:1.30
    securityContext: { privileged: true, allowPrivilegeEscalation: true }
    command: [sh, -c, 'grep Seccomp: /proc/self/status; grep -c " /sys sysfs rw" /proc/mounts; mount -t tmpfs t /tmp && echo mounted; echo done']
---
apiVersion: v1
kind: Pod
metadata: { name: pod-not-root }
spec:
  securityContext: { runAsNonRoot: true }
  containers: [{ name: c, image: 'busybox:1.30', command: [sleep, '1000'] }]
---
apiVersion: v1
kind: Pod
metadata: { name: not-root }
spec:
  containers: [{ name: c, image: 'busybox:1.30', command: [sleep, '1000'], securityContext: { runAsNonRoot: true, runAsUser: 0 } }]
"#;

/// Fields: spec.containers[].securityContext spec.containers[].securityContext.allowPrivilegeEscalation spec.containers[].securityContext.capabilities spec.containers[].securityContext.capabilities.add spec.containers[].securityContext.capabilities.drop spec.containers[].securityContext.privileged spec.containers[].securityContext.procMount
/// Fields: spec.containers[].securityContext.readOnlyRootFilesystem spec.containers[].securityContext.runAsGroup spec.containers[].securityContext.runAsNonRoot spec.containers[].securityContext.runAsUser
/// Fields: spec.securityContext.runAsUser spec.securityContext.runAsGroup spec.securityContext.runAsNonRoot spec.securityContext.seccompProfile.localhostProfile
#[test]
fn root_a_container_is_who_it_should_be_and_may_what_it_should() {
    let platform = started("fields");
    let profiles = platform.data_dir().join("seccomp");
    fs::create_dir_all(&profiles).unwrap();
    let text =
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]}"#;
    fs::write(profiles.join("nodir.json"), text).unwrap();
    platform.create(USERS).unwrap();
    assert_eq!(
        printed(&platform, "users", "as-the-pod"),
        [
            "1000",
            "3000",
            "mkdir: can't create directory '/tmp/x': No space left on device",
            "done"
        ]
    );
    assert_eq!(
        printed(&platform, "users", "as-itself"),
        ["1001", "3001", "NoNewPrivs: 1", "touch: /tmp/x: Read-only file system", "done"]
    );
    // NET_ADMIN alone; the kernel's keys are masked.
    assert_eq!(printed(&platform, "rights", "one"), ["CapEff: 0000000000001000", "0", "1", "done"]);
    assert_eq!(printed(&platform, "rights", "all"), ["Seccomp: 0", "1", "mounted", "done"]);
    let message = waiting(&platform, "pod-not-root", "CreateContainerConfigError");
    assert!(
        message.starts_with("container has runAsNonRoot and image will run as root (pod: \"pod-not-root_default("),
        "{message}"
    );
    let message = waiting(&platform, "not-root", "CreateContainerConfigError");
    assert!(
        message.starts_with("container's runAsUser breaks non-root policy (pod: \"not-root_default("),
        "{message}"
    );
    // What goes with users of its own alone.
    let unmasked = "{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {containers: [{name: c, image: 'busybox:1.30', securityContext: {procMount: Unmasked}}]}}";
    let refused = format!("{:#}", platform.create(unmasked).unwrap_err());
    assert!(refused.contains("spec.containers[0].securityContext.procMount"), "{refused}");
}

/// Pods that ask for a profile, by the Pod, a container, and the annotation of
/// old; and one that asks for none.
const PROFILES: &str = r#"
apiVersion: v1
kind: Pod
metadata: { name: of-pod }
spec:
  restartPolicy: Never
  securityContext: { appArmorProfile: { type: RuntimeDefault } }
  containers: [{ name: c, image: 'busybox:1.30', command: [sh, -c, 'cat /proc/self/attr/current; echo; echo done'] }]
---
apiVersion: v1
kind: Pod
metadata: { name: of-init }
spec:
  restartPolicy: Never
  securityContext: { appArmorProfile: { type: Localhost, localhostProfile: nobody-has-loaded-this } }
  initContainers:
  - { name: i, image: 'busybox:1.30', command: ['true'], securityContext: { appArmorProfile: { type: RuntimeDefault } } }
  containers: [{ name: c, image: 'busybox:1.30', command: [sh, -c, 'echo done'] }]
---
apiVersion: v1
kind: Pod
metadata: { name: of-old, annotations: { container.apparmor.security.beta.kubernetes.io/c: localhost/nobody-has-loaded-this } }
spec:
  restartPolicy: Never
  containers: [{ name: c, image: 'busybox:1.30', command: [sh, -c, 'echo done'] }]
---
apiVersion: v1
kind: Pod
metadata: { name: unconfined }
spec:
  securityContext: { appArmorProfile: { type: RuntimeDefault } }
  containers:
  - name: c
    image: busybox:1.30
    securityContext: { appArmorProfile: { type: Unconfined } }
    command: [sh, -c, 'echo done; exec sleep 1000']
"#;

/// On a host without AppArmor the pods that ask for it end where they begin; on
/// one that has it they are confined.
///
/// Fields: spec.securityContext.appArmorProfile spec.securityContext.appArmorProfile.type spec.securityContext.appArmorProfile.localhostProfile spec.containers[].securityContext.appArmorProfile spec.containers[].securityContext.appArmorProfile.type spec.containers[].securityContext.appArmorProfile.localhostProfile metadata.annotations
#[test]
fn root_a_profile_of_app_armor_is_given_where_the_host_has_it() {
    let platform = started("app-armor");
    platform.create(PROFILES).unwrap();
    let get = |pod: &str, path: &str| platform.ok(&["get", "pod", pod, "-o", &format!("jsonpath={path}")]).unwrap();
    assert_eq!(printed(&platform, "unconfined", "c"), ["done"]);
    // What one of the two says, both say.
    assert_eq!(
        get("of-old", "{.spec.containers[0].securityContext.appArmorProfile}"),
        r#"{"localhostProfile":"nobody-has-loaded-this","type":"Localhost"}"#
    );
    let annotation = r"{.metadata.annotations.container\.apparmor\.security\.beta\.kubernetes\.io/c}";
    assert_eq!(get("of-pod", annotation), "runtime/default");
    if fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with('Y')) {
        assert_eq!(printed(&platform, "of-pod", "c"), ["lifepod-default (enforce)", "", "done"]);
        for pod in ["of-init", "of-old"] {
            let message = waiting(&platform, pod, "CreateContainerError");
            assert!(message.ends_with("apparmor profile not found nobody-has-loaded-this"), "{message}");
        }
        return;
    }
    for pod in ["of-pod", "of-init", "of-old"] {
        let refused = || {
            let seen = get(pod, "{.status.phase} {.status.reason}");
            Ok(if seen == "Failed AppArmor" { Ok(()) } else { Err(seen) })
        };
        wait::until("the pod to be refused", LIMIT, refused).unwrap();
        assert_eq!(
            get(pod, "{.status.message}"),
            "Pod was rejected: Cannot enforce AppArmor: AppArmor is not enabled on the host"
        );
    }
    let told = platform
        .ok(&["get", "events", "--field-selector", "involvedObject.name=of-pod,reason=AppArmor"])
        .unwrap();
    assert!(
        told.contains("Warning") && told.contains("Cannot enforce AppArmor: AppArmor is not enabled on the host"),
        "{told}"
    );
    // Who comes later is not admitted anew: the runtime has the word.
    let late = serde_json::json!({ "spec": { "ephemeralContainers": [{
        "name": "late", "image": "busybox:1.30", "command": ["true"], "securityContext": { "appArmorProfile": { "type": "RuntimeDefault" } },
    }] } });
    platform
        .ok(&[
            "patch",
            "pod",
            "unconfined",
            "--subresource=ephemeralcontainers",
            "-p",
            &late.to_string(),
        ])
        .unwrap();
    let path =
        "{.status.ephemeralContainerStatuses[0].state.waiting.reason}: {.status.ephemeralContainerStatuses[0].state.waiting.message}";
    let seen = || {
        let seen = get("unconfined", path);
        Ok(if seen.starts_with("CreateContainerError") {
            Ok(seen)
        } else {
            Err(seen)
        })
    };
    let said = wait::until("the ephemeral container to be refused", LIMIT, seen).unwrap();
    assert!(
        said.ends_with("failed to generate apparmor spec opts: apparmor is not supported"),
        "{said}"
    );
}

/// Fields: spec.hostPID spec.hostIPC
#[test]
fn root_a_pod_may_live_in_the_nodes_namespaces() {
    let platform = started("namespaces");
    let pod = |name: &str, host: bool| {
        format!(
            "
apiVersion: v1
kind: Pod
metadata: {{ name: {name} }}
spec:
  restartPolicy: Never
  hostPID: {host}
  hostIPC: {host}
  containers: [{{ name: c, image: 'busybox:1.30', command: [sh, -c, 'readlink /proc/self/ns/pid; readlink /proc/self/ns/ipc; (tr \"\\\\0\" \" \" < /proc/{up}/cmdline | cut -d\" \" -f2) 2>/dev/null; echo done'] }}]
",
            up = platform.pid().unwrap()
        )
    };
    platform.create(&pod("hosts", true)).unwrap();
    platform.create(&pod("own", false)).unwrap();
    let of_node = |kind: &str| {
        let link = fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
        link.display().to_string()
    };
    let hosts = printed(&platform, "hosts", "c");
    assert_eq!(hosts, [of_node("pid"), of_node("ipc"), "up".to_owned(), "done".to_owned()]);
    let own = printed(&platform, "own", "c");
    assert!(
        own[0] != of_node("pid") && own[1] != of_node("ipc") && own.last().unwrap() == "done",
        "{own:?}"
    );
    assert!(!own.contains(&"up".to_owned()), "{own:?}");
}

const FILES: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: { name: settings }
data: { a: "1", b: "2" }
---
apiVersion: v1
kind: Secret
metadata: { name: keys }
stringData: { a: "3", b: "4" }
---
apiVersion: v1
kind: Pod
metadata: { name: files }
spec:
  restartPolicy: Never
  volumes:
  - { name: config, configMap: { name: settings, defaultMode: 0400, optional: false } }
  - { name: none, configMap: { name: nowhere, optional: true } }
  - { name: secret, secret: { secretName: keys, items: [{ key: b, path: deep/b, mode: 0511 }] } }
  - name: fields
    downwardAPI:
      defaultMode: 0440
      items:
      - { path: name, fieldRef: { apiVersion: v1, fieldPath: metadata.name }, mode: 0404 }
      - { path: memory, resourceFieldRef: { containerName: main, resource: limits.memory, divisor: 1Mi } }
  - name: all
    projected:
      defaultMode: 0444
      sources:
      - configMap: { name: settings, items: [{ key: a, path: config-a, mode: 0600 }] }
      - configMap: { name: nowhere, optional: true }
      - secret: { name: keys, items: [{ key: a, path: s/a, mode: 0640 }] }
      - secret: { name: nowhere, optional: true }
      - downwardAPI:
          items:
          - { path: name, fieldRef: { apiVersion: v1, fieldPath: metadata.name }, mode: 0414 }
          - { path: memory, resourceFieldRef: { containerName: main, resource: limits.memory, divisor: 1Ki } }
      - serviceAccountToken: { path: token, audience: vault, expirationSeconds: 1200 }
  containers:
  - name: main
    image: busybox:1.30
    resources: { limits: { memory: 64Mi } }
    command:
    - sh
    - -c
    - |
      for f in /config/a /config/b /secret/deep/b /fields/name /fields/memory /all/config-a /all/s/a /all/name /all/memory; do
        echo $f $(ls -lL $f | cut -c1-10) $(cat $f)
      done
      ls /none | wc -l
      ls /secret /all | tr '\n' ' '; echo
      cut -d. -f2 /all/token
      echo done
    volumeMounts:
    - { name: config, mountPath: /config }
    - { name: none, mountPath: /none }
    - { name: secret, mountPath: /secret }
    - { name: fields, mountPath: /fields }
    - { name: all, mountPath: /all }
"#;

/// Fields: spec.volumes[].configMap.defaultMode spec.volumes[].configMap.optional spec.volumes[].secret.items spec.volumes[].secret.items[].key spec.volumes[].secret.items[].mode spec.volumes[].secret.items[].path
/// Fields: spec.volumes[].downwardAPI.defaultMode spec.volumes[].downwardAPI.items[].fieldRef.apiVersion spec.volumes[].downwardAPI.items[].mode spec.volumes[].downwardAPI.items[].resourceFieldRef.*
/// Fields: spec.volumes[].downwardAPI.items[].resourceFieldRef spec.volumes[].projected.defaultMode spec.volumes[].projected.sources[].configMap.items[].mode spec.volumes[].projected.sources[].configMap.optional
/// Fields: spec.volumes[].projected.sources[].downwardAPI.items[].fieldRef.apiVersion spec.volumes[].projected.sources[].downwardAPI.items[].mode spec.volumes[].projected.sources[].downwardAPI.items[].resourceFieldRef spec.volumes[].projected.sources[].downwardAPI.items[].resourceFieldRef.*
/// Fields: spec.volumes[].projected.sources[].secret.items spec.volumes[].projected.sources[].secret.items[].key spec.volumes[].projected.sources[].secret.items[].mode spec.volumes[].projected.sources[].secret.items[].path spec.volumes[].projected.sources[].secret.optional
/// Fields: spec.volumes[].projected.sources[].serviceAccountToken.audience spec.volumes[].projected.sources[].serviceAccountToken.expirationSeconds
#[test]
fn root_files_of_volumes_have_their_modes_paths_and_lives() {
    let platform = started("files");
    platform.create(FILES).unwrap();
    let lines = printed(&platform, "files", "main");
    let expected = [
        "/config/a -r-------- 1",
        "/config/b -r-------- 2",
        "/secret/deep/b -r-x--x--x 4",
        "/fields/name -r-----r-- files",
        "/fields/memory -r--r----- 64",
        "/all/config-a -rw------- 1",
        "/all/s/a -rw-r----- 3",
        "/all/name -r----xr-- files",
        "/all/memory -r--r--r-- 65536",
        "0",
    ];
    assert_eq!(lines[..10], expected);
    assert_eq!(lines[10], "/all: config-a memory name s token /secret: deep");
    let decode = Command::new("sh")
        .arg("-c")
        .arg(format!(
            "printf '%s==' '{}' | tr '_-' '/+' | base64 -d 2>/dev/null; true",
            lines[11]
        ))
        .output()
        .unwrap();
    let claims: serde_json::Value = serde_json::Deserializer::from_slice(&decode.stdout)
        .into_iter()
        .next()
        .unwrap()
        .unwrap();
    assert_eq!(claims["aud"], serde_json::json!(["vault"]), "{claims}");
    assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 1200, "{claims}");
}

/// A directory of the host whose mounts others may follow; unmounted when dropped.
struct Shared(tempfile::TempDir);

impl Shared {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_string_lossy().into_owned();
        run(Command::new("mount").args(["--bind", &path, &path])).unwrap();
        let this = Self(dir);
        run(Command::new("mount").args(["--make-shared", &path])).unwrap();
        this
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["--recursive", "--lazy"]).arg(self.0.path()).status();
    }
}

/// Fields: spec.containers[].volumeMounts[].mountPropagation
#[test]
fn root_a_mount_made_later_on_the_host_is_seen_where_asked_for() {
    let shared = Shared::new();
    let platform = started("later");
    fs::create_dir(shared.0.path().join("at")).unwrap();
    let pod = r#"
apiVersion: v1
kind: Pod
metadata: { name: later }
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
  volumes: [{ name: v, hostPath: { path: HOSTDIR, type: Directory } }]
  containers:
  - name: follows
    image: busybox:1.30
    command: [sh, -c, 'until [ -e /v/at/file ]; do sleep 0.1; done; echo seen; echo done']
    volumeMounts: [{ name: v, mountPath: /v, mountPropagation: HostToContainer }]
  - name: alone
    image: busybox:1.30
    command: [sh, -c, 'until [ -e /v/go ]; do sleep 0.1; done; ls /v/at; echo done']
    volumeMounts: [{ name: v, mountPath: /v, mountPropagation: None }]
"#
    .replace("HOSTDIR", &shared.0.path().display().to_string());
    platform.create(&pod).unwrap();
    platform
        .ok(&["wait", "pod", "later", "--for=condition=Ready", "--timeout=60s"])
        .unwrap();
    let at = shared.0.path().join("at");
    run(Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(&at)).unwrap();
    fs::write(at.join("file"), "").unwrap();
    assert_eq!(printed(&platform, "later", "follows"), ["seen", "done"]);
    fs::write(shared.0.path().join("go"), "").unwrap();
    assert_eq!(printed(&platform, "later", "alone"), ["done"]);
    let both = pod.replace("name: later", "name: both").replace("HostToContainer", "Bidirectional");
    let refused = format!("{:#}", platform.create(&both).unwrap_err());
    let rule = "mountPropagation: Forbidden: Bidirectional mount propagation is available only to privileged containers";
    assert!(refused.contains(rule), "{refused}");
    platform.ok(&["delete", "pod", "later", "--wait=true"]).unwrap();
}
