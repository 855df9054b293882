//! Pods with users of their own: `hostUsers: false`.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::time::Duration;

use e2e::platform::Build;
use e2e::{Platform, wait};

const LIMIT: Duration = Duration::from_secs(60);

const PODS: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: { name: content }
data: { key: value }
---
apiVersion: v1
kind: Secret
metadata: { name: hidden }
stringData: { word: secret }
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: { name: claim }
spec: { accessModes: [ReadWriteOnce], resources: { requests: { storage: 1Mi } } }
---
apiVersion: v1
kind: Pod
metadata: { name: whole, labels: { app: whole } }
spec:
  hostUsers: false
  shareProcessNamespace: true
  terminationGracePeriodSeconds: 2
  securityContext: { fsGroup: 2000, sysctls: [{ name: net.ipv4.ip_unprivileged_port_start, value: "80" }] }
  initContainers:
  - { name: first, image: 'busybox:1.30', command: [sh, -c, 'id -u > /data/first; chmod 666 /data/first'], volumeMounts: [{ name: data, mountPath: /data }] }
  - name: beside
    image: busybox:1.30
    restartPolicy: Always
    command: [sh, -c, 'trap "exit 0" TERM; echo beside; while :; do sleep 0.1; done']
  containers:
  - name: main
    image: busybox:1.30
    command: [sh, -c, 'cat /proc/self/uid_map; trap "exit 3" TERM; echo last words > /dev/termination-log; while :; do sleep 0.1; done']
    lifecycle:
      postStart: { exec: { command: [sh, -c, 'id -u > /data/hook'] } }
      preStop: { exec: { command: [sh, -c, 'id -u > /node/stopped'] } }
    startupProbe: { exec: { command: [test, -f, /data/hook] }, periodSeconds: 1 }
    readinessProbe: { exec: { command: [sh, -c, 'test $(id -u) = 0'] }, periodSeconds: 1 }
    volumeMounts:
    - { name: data, mountPath: /data }
    - { name: memory, mountPath: /memory }
    - { name: content, mountPath: /content }
    - { name: hidden, mountPath: /hidden }
    - { name: all, mountPath: /all }
    - { name: node, mountPath: /node }
    - { name: claim, mountPath: /claim }
  - name: web
    image: busybox:1.30
    securityContext: { runAsUser: 1000, runAsGroup: 1001 }
    command: [sh, -c, 'id; touch /data/webs; cat /proc/self/uid_map; while :; do sleep 0.1; done']
    volumeMounts: [{ name: data, mountPath: /data }]
  volumes:
  - { name: data, emptyDir: {} }
  - { name: memory, emptyDir: { medium: Memory } }
  - { name: content, configMap: { name: content, defaultMode: 0400 } }
  - { name: hidden, secret: { secretName: hidden, defaultMode: 0400 } }
  - name: all
    projected:
      sources:
      - downwardAPI: { items: [{ path: labels, fieldRef: { fieldPath: metadata.labels } }] }
      - serviceAccountToken: { path: token }
  - { name: node, hostPath: { path: HOST } }
  - { name: claim, persistentVolumeClaim: { claimName: claim } }
---
apiVersion: v1
kind: Pod
metadata: { name: other }
spec:
  hostUsers: false
  restartPolicy: Never
  containers: [{ name: c, image: 'busybox:1.30', command: [sh, -c, 'cat /proc/self/uid_map; sleep 1000'] }]
---
apiVersion: v1
kind: Pod
metadata: { name: open }
spec:
  hostUsers: false
  restartPolicy: Never
  containers:
  - name: masked
    image: busybox:1.30
    securityContext: { capabilities: { add: [NET_ADMIN] } }
    command: [sh, -c, 'exec 2>&1; echo 1 > /proc/sys/net/ipv4/ip_forward; grep -c " /proc/" /proc/mounts; echo done']
  - name: unmasked
    image: busybox:1.30
    securityContext: { procMount: Unmasked, capabilities: { add: [NET_ADMIN] } }
    command: [sh, -c, 'exec 2>&1; echo 1 > /proc/sys/net/ipv4/ip_forward && echo written; echo x > /proc/sys/kernel/core_pattern; grep -c " /proc/" /proc/mounts; echo done']
"#;

/// First id of the node in a pod's map, as a container sees it.
fn first_id(map: &str) -> u32 {
    let words: Vec<&str> = map.split_whitespace().collect();
    assert_eq!((words[0], words[2]), ("0", "65536"), "{map}");
    words[1].parse().unwrap()
}

fn logs(platform: &Platform, pod: &str, container: &str, until: &str) -> Vec<String> {
    let text = wait::until(&format!("{until:?} of {container} in {pod}"), LIMIT, || {
        let logs = platform.kubectl(&["logs", pod, "-c", container])?;
        let text = String::from_utf8_lossy(&logs.stdout).into_owned();
        Ok(if text.contains(until) { Ok(text) } else { Err(text) })
    })
    .unwrap();
    text.lines().map(str::to_owned).collect()
}

fn owner(path: &Path) -> (u32, u32) {
    let about = fs::metadata(path).unwrap();
    (about.uid(), about.gid())
}

/// Fields: spec.hostUsers spec.containers[].securityContext.procMount
#[test]
fn root_a_pod_may_have_users_of_its_own() {
    let mut platform = Platform::start("users", &Build::from_env().unwrap()).unwrap();
    let features = platform.ok(&[
        "get",
        "nodes",
        "-o",
        "jsonpath={.items[0].status.runtimeHandlers[0].features.userNamespaces}",
    ]);
    assert_eq!(features.unwrap(), "true");
    let host_dir = tempfile::tempdir().unwrap();
    let host = host_dir.path();
    fs::write(host.join("webs"), "").unwrap();
    chown(host.join("webs"), Some(1000), Some(1001)).unwrap();
    fs::set_permissions(host.join("webs"), fs::Permissions::from_mode(0o600)).unwrap();
    platform.create(&PODS.replace("HOST", host.to_str().unwrap())).unwrap();
    platform
        .ok(&["wait", "--for=condition=Ready", "--timeout=60s", "pod/whole", "pod/other"])
        .unwrap();

    // Root inside is somebody else outside, and not the same in two pods.
    let first = first_id(&logs(&platform, "whole", "main", "65536")[0]);
    let other = first_id(&logs(&platform, "other", "c", "65536")[0]);
    assert!(first >= 65_536 && other >= 65_536 && first != other, "{first} {other}");
    let web = logs(&platform, "whole", "web", "65536");
    assert_eq!(web[0], "uid=1000 gid=1001 groups=1001,2000");
    assert_eq!(first_id(&web[1]), first, "all containers of a pod are in one");
    assert_eq!(logs(&platform, "whole", "beside", "beside"), ["beside"]);

    // Files have the owners they should, inside and outside.
    let inside = |script: &str| platform.ok(&["exec", "whole", "-c", "main", "--", "sh", "-c", script]).unwrap();
    let told = inside(
        "cat /data/first /data/hook; stat -c '%u %g' /data/webs /content/..data/key /hidden/..data/word /node/webs; \
         cat /content/key /hidden/word; echo; cat /all/labels; echo; test -s /all/token && echo token; \
         touch /memory/made /claim/made && touch /node/made && stat -c '%u %g' /node/made /claim/made; \
         cat /proc/self/uid_map; cat /proc/sys/net/ipv4/ip_unprivileged_port_start; ps | grep -c 'sandbox-ini[t]'",
    );
    let told: Vec<&str> = told.lines().map(str::trim).collect();
    let wanted = ["0", "0", "1000 2000", "0 2000", "0 2000", "1000 1001"];
    assert_eq!(told[..6], wanted, "{told:?}");
    assert_eq!(told[6..9], ["valuesecret", "app=\"whole\"", "token"], "{told:?}");
    assert_eq!(told[9..11], ["0 0", "0 2000"], "{told:?}");
    assert_eq!((first_id(told[11]), &told[12..]), (first, &["80", "1"][..]), "{told:?}");
    assert_eq!(owner(&host.join("made")), (0, 0), "the number on the disk is the one inside");
    let uid = platform.ok(&["get", "pod", "whole", "-o", "jsonpath={.metadata.uid}"]).unwrap();

    // `/proc` is masked unless the pod asks otherwise, and what is not the pod's stays shut.
    let masked = logs(&platform, "open", "masked", "done");
    assert!(masked[0].ends_with("Read-only file system") && masked[1] != "0", "{masked:?}");
    let core_pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    let mut unmasked = logs(&platform, "open", "unmasked", "done");
    unmasked.sort();
    assert_eq!(
        unmasked,
        [
            "0",
            "done",
            "sh: can't create /proc/sys/kernel/core_pattern: Permission denied",
            "written"
        ]
    );
    assert_ne!(core_pattern.trim(), "x");

    // It outlives a killed Lifepod, with what it has.
    platform.kill().unwrap();
    platform.up().unwrap();
    let after = platform.ok(&[
        "get",
        "pod",
        "whole",
        "-o",
        "jsonpath={.metadata.uid} {.status.containerStatuses[*].restartCount}",
    ]);
    assert_eq!(after.unwrap(), format!("{uid} 0 0"));
    let map = platform
        .ok(&["exec", "whole", "-c", "main", "--", "cat", "/proc/self/uid_map"])
        .unwrap();
    assert_eq!(first_id(&map), first);
    // Who looks into it from beside is one of its users too.
    platform
        .ok(&[
            "debug",
            "other",
            "--image=busybox:1.30",
            "-c",
            "looks",
            "--target=c",
            "--",
            "sh",
            "-c",
            "ps -o args; cat /proc/self/uid_map; echo looked; sleep 1000",
        ])
        .unwrap();
    let seen = logs(&platform, "other", "looks", "looked");
    assert!(seen.iter().any(|line| line.trim() == "sleep 1000"), "{seen:?}");
    let map = seen.iter().find(|line| line.trim().ends_with("65536")).unwrap();
    assert_eq!(first_id(map), other, "{seen:?}");
    let third = "{apiVersion: v1, kind: Pod, metadata: {name: third}, spec: {hostUsers: false, containers: [{name: c, image: 'busybox:1.30', command: [sh, -c, 'cat /proc/self/uid_map; sleep 1000']}]}}";
    platform.create(third).unwrap();
    let third = first_id(&logs(&platform, "third", "c", "65536")[0]);
    assert!(third != first && third != other, "{third}");
    platform.ok(&["delete", "pod", "third", "--grace-period=0", "--force"]).unwrap();

    // It ends as pods do.
    platform.ok(&["delete", "pod", "whole", "--timeout=60s"]).unwrap();
    assert_eq!(fs::read_to_string(host.join("stopped")).unwrap().trim(), "0");
    platform.down().unwrap();
    assert_eq!(platform.leftovers().unwrap(), Vec::<String>::new());
}

/// Source of the texts: upstream `validation.go`, `validateHostUsers`.
#[test]
fn root_users_of_its_own_go_with_no_other_namespace_of_the_node() {
    let platform = Platform::start("users-refused", &Build::from_env().unwrap()).unwrap();
    for (more, said) in [
        (
            "hostNetwork: true",
            "spec.hostNetwork: Forbidden: when `pod.Spec.HostUsers` is false",
        ),
        ("hostPID: true", "spec.HostPID: Forbidden: when `pod.Spec.HostUsers` is false"),
        ("hostIPC: true", "spec.HostIPC: Forbidden: when `pod.Spec.HostUsers` is false"),
    ] {
        let pod = format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: p}}, spec: {{hostUsers: false, {more}, containers: [{{name: c, image: 'busybox:1.30'}}]}}}}"
        );
        let refused = format!("{:#}", platform.create(&pod).unwrap_err());
        assert!(refused.contains(said), "{refused}");
    }
    // A number the pod does not have.
    let pod = "{apiVersion: v1, kind: Pod, metadata: {name: high}, spec: {hostUsers: false, securityContext: {runAsUser: 70000}, containers: [{name: c, image: 'busybox:1.30'}]}}";
    platform.create(pod).unwrap();
    platform
        .wait_status("default", "high", "CreateContainerConfigError", LIMIT)
        .unwrap();
    let events = platform.events("default", "high").unwrap();
    assert!(events.contains("user or group 70000 is out of range"), "{events}");
}
