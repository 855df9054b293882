//! Volumes, read back by real containers: content, modes, owners, updates,
//! what is missing, what is left.

use std::fs;
use std::time::{Duration, Instant};

use e2e::Platform;
use e2e::platform::Build;
use e2e::wait;

const LIMIT: Duration = Duration::from_secs(60);

fn logs(platform: &Platform, pod: &str, wanted: &str) -> String {
    wait::until(&format!("{wanted:?} in the log of {pod}"), LIMIT, || {
        // Refused until the container has started.
        Ok(match platform.ok(&["logs", pod]) {
            Ok(logs) if logs.contains(wanted) => Ok(logs),
            Ok(logs) => Err(logs),
            Err(refused) => Err(format!("{refused:#}")),
        })
    })
    .unwrap()
}

/// What the volumes directory holds of pods.
fn volume_dirs(platform: &Platform) -> Vec<String> {
    let mut found = Vec::new();
    for root in ["disk", "memory"] {
        let dir = platform.data_dir().join("volumes").join(root);
        found.extend(
            fs::read_dir(dir)
                .into_iter()
                .flatten()
                .flatten()
                .map(|entry| entry.path().display().to_string()),
        );
    }
    found
}

const OBJECTS: &str = "
apiVersion: v1
kind: ConfigMap
metadata: { name: settings }
data: { color: blue, size: large }
---
apiVersion: v1
kind: Secret
metadata: { name: keys }
stringData: { password: s3cret }
";

const READER: &str = r#"
apiVersion: v1
kind: Pod
metadata: { name: reader, labels: { tier: back } }
spec:
  restartPolicy: Never
  securityContext: { runAsUser: 1000, fsGroup: 2000 }
  volumes:
  - { name: config, configMap: { name: settings, items: [{ key: color, path: deep/color, mode: 0440 }] } }
  - { name: secret, secret: { secretName: keys, defaultMode: 0400 } }
  - { name: fields, downwardAPI: { items: [{ path: labels, fieldRef: { fieldPath: metadata.labels } }] } }
  - { name: disk, emptyDir: {} }
  - { name: memory, emptyDir: { medium: Memory, sizeLimit: 1Mi } }
  - { name: host, hostPath: { path: HOSTDIR, type: Directory } }
  - { name: maybe, secret: { secretName: nowhere, optional: true } }
  - name: account
    projected:
      sources:
      - serviceAccountToken: { path: token, expirationSeconds: 600 }
      - configMap: { name: kube-root-ca.crt, items: [{ key: ca.crt, path: ca.crt }] }
      - downwardAPI: { items: [{ path: namespace, fieldRef: { fieldPath: metadata.namespace } }] }
  containers:
  - name: main
    image: busybox:1.30
    env: [{ name: NAME, valueFrom: { fieldRef: { fieldPath: metadata.name } } }]
    command:
    - sh
    - -c
    - |
      echo color=$(cat /config/deep/color)
      echo password=$(cat /secret/password)
      echo labels=$(cat /fields/labels)
      echo token=$(cut -d. -f1-3 /account/token | tr '.' '\n' | wc -l)
      echo ca=$(head -1 /account/ca.crt)
      echo namespace=$(cat /account/namespace)
      echo host=$(cat /host/file)
      echo maybe=$(ls /maybe | wc -l)
      echo id=$(id -u) groups=$(id -G)
      echo new > /disk/file && echo disk=$(ls -ln /disk/file | awk '{print $3, $4}')
      echo mode=$(ls -ldn /disk | awk '{print $1, $4}')
      echo tokenmode=$(ls -lLn /account/token | awk '{print $1, $3}')
      echo secretmode=$(ls -lLn /secret/password | awk '{print $1, $4}')
      dd if=/dev/zero of=/memory/big bs=64k count=32 2>/dev/null || echo memory full
      touch /config/x 2>/dev/null || echo config read-only
      touch /hostro/x 2>/dev/null || echo host read-only
      echo sub > /sub/file && cat /disk/made/reader/file
      echo single=$(cat /etc/color)
      grep ' /secret ' /proc/mounts | cut -d' ' -f3,4 | cut -c1-8
      echo done
    volumeMounts:
    - { name: config, mountPath: /config }
    - { name: secret, mountPath: /secret }
    - { name: fields, mountPath: /fields }
    - { name: account, mountPath: /account }
    - { name: disk, mountPath: /disk }
    - { name: disk, mountPath: /sub, subPathExpr: made/$(NAME) }
    - { name: memory, mountPath: /memory }
    - { name: host, mountPath: /host }
    - { name: host, mountPath: /hostro, readOnly: true, recursiveReadOnly: Enabled }
    - { name: config, mountPath: /etc/color, subPath: deep/color }
    - { name: maybe, mountPath: /maybe }
"#;

/// Every kind of volume, in one container that is not root.
/// Fields: spec.volumes spec.volumes[].name spec.volumes[].configMap spec.volumes[].configMap.name spec.volumes[].configMap.items.* spec.volumes[].secret spec.volumes[].secret.secretName spec.volumes[].secret.defaultMode spec.volumes[].secret.optional
/// Fields: spec.volumes[].downwardAPI spec.volumes[].downwardAPI.items spec.volumes[].downwardAPI.items[].path spec.volumes[].downwardAPI.items[].fieldRef spec.volumes[].downwardAPI.items[].fieldRef.fieldPath
/// Fields: spec.volumes[].emptyDir.* spec.volumes[].hostPath spec.volumes[].hostPath.path
/// Fields: spec.volumes[].projected spec.volumes[].projected.sources spec.volumes[].projected.sources[].serviceAccountToken spec.volumes[].projected.sources[].serviceAccountToken.path spec.volumes[].projected.sources[].configMap spec.volumes[].projected.sources[].configMap.name spec.volumes[].projected.sources[].configMap.items spec.volumes[].projected.sources[].configMap.items[].key spec.volumes[].projected.sources[].configMap.items[].path
/// Fields: spec.volumes[].projected.sources[].downwardAPI spec.volumes[].projected.sources[].downwardAPI.items spec.volumes[].projected.sources[].downwardAPI.items[].path spec.volumes[].projected.sources[].downwardAPI.items[].fieldRef spec.volumes[].projected.sources[].downwardAPI.items[].fieldRef.fieldPath
/// Fields: spec.containers[].volumeMounts spec.containers[].volumeMounts[].name spec.containers[].volumeMounts[].mountPath spec.containers[].volumeMounts[].readOnly spec.containers[].volumeMounts[].recursiveReadOnly spec.containers[].volumeMounts[].subPath spec.containers[].volumeMounts[].subPathExpr
/// Fields: spec.securityContext.fsGroup spec.containers[].args
#[test]
fn root_a_container_finds_every_kind_of_volume() {
    let build = Build::from_env().unwrap();
    let mut platform = Platform::start("volumes", &build).unwrap();
    let host = tempfile::tempdir().unwrap();
    fs::write(host.path().join("file"), "from the host\n").unwrap();
    fs::set_permissions(host.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    platform.create(OBJECTS).unwrap();
    platform
        .create(&READER.replace("HOSTDIR", &host.path().display().to_string()))
        .unwrap();
    let logs = logs(&platform, "reader", "done");
    for line in [
        "color=blue",
        "password=s3cret",
        "labels=tier=\"back\"",
        "token=3",
        "ca=-----BEGIN CERTIFICATE-----",
        "namespace=default",
        "host=from the host",
        "maybe=0",
        "id=1000 groups=0 2000",
        "disk=1000 2000",
        "mode=drwxrwsrwx 2000",
        "tokenmode=-rw-r----- 1000",
        "secretmode=-r--r----- 2000",
        "memory full",
        "config read-only",
        "host read-only",
        "sub",
        "single=blue",
        "tmpfs ro",
    ] {
        assert!(logs.lines().any(|found| found == line), "{line:?} in\n{logs}");
    }
    // Nothing of a pod that has ended stays.
    platform.wait_status("default", "reader", "Completed", LIMIT).unwrap();
    wait::until("the volumes to go", LIMIT, || {
        let dirs = volume_dirs(&platform);
        Ok(if dirs.is_empty() { Ok(()) } else { Err(format!("{dirs:?}")) })
    })
    .unwrap();
    platform.ok(&["delete", "pod", "reader"]).unwrap();
    assert_eq!(fs::read_to_string(host.path().join("file")).unwrap(), "from the host\n");
    platform.down().unwrap();
    assert_eq!(platform.leftovers().unwrap(), Vec::<String>::new());
    assert!(!platform.data_dir().join("volumes").exists());
}

const WATCHER: &str = r#"
apiVersion: v1
kind: Pod
metadata: { name: watcher, labels: { tier: back } }
spec:
  terminationGracePeriodSeconds: 0
  volumes:
  - { name: config, configMap: { name: settings } }
  - name: all
    projected:
      sources:
      - secret: { name: keys }
      - downwardAPI: { items: [{ path: labels, fieldRef: { fieldPath: metadata.labels } }] }
  - { name: disk, emptyDir: {} }
  containers:
  - name: main
    image: busybox:1.30
    command: [sh, -c, 'echo kept > /disk/file; exec sleep 100000']
    volumeMounts:
    - { name: config, mountPath: /config }
    - { name: all, mountPath: /all }
    - { name: disk, mountPath: /disk }
"#;

/// A source of every kind, each in a volume of its own.
const FOLLOWERS: &str = r#"
apiVersion: v1
kind: Pod
metadata: { name: followers, labels: { tier: a0 } }
spec:
  terminationGracePeriodSeconds: 0
  volumes:
  - { name: config, configMap: { name: settings } }
  - { name: keys, secret: { secretName: keys } }
  - { name: about, downwardAPI: { items: [{ path: labels, fieldRef: { fieldPath: metadata.labels } }] } }
  - name: all
    projected:
      sources:
      - configMap: { name: settings }
      - secret: { name: keys }
      - downwardAPI: { items: [{ path: labels, fieldRef: { fieldPath: metadata.labels } }] }
  containers:
  - name: main
    image: busybox:1.30
    command: [sleep, '100000']
    volumeMounts:
    - { name: config, mountPath: /config }
    - { name: keys, mountPath: /keys }
    - { name: about, mountPath: /about }
    - { name: all, mountPath: /all }
"#;

/// How long a change may take until a container sees it, on a machine that
/// has other work too: what is promised is 2 s, where upstream looks once a
/// minute. The times are printed.
const FOLLOWS: Duration = Duration::from_secs(10);

/// From the request for a change, `kubectl` included, to what the container
/// itself finds.
#[test]
fn root_changes_of_a_source_are_seen_soon() {
    let build = Build::from_env().unwrap();
    let platform = Platform::start("soon", &build).unwrap();
    platform.create(OBJECTS).unwrap();
    platform.create(FOLLOWERS).unwrap();
    platform.wait_status("default", "followers", "Running", LIMIT).unwrap();
    let id = platform
        .ok(&[
            "get",
            "pod",
            "followers",
            "-o",
            "jsonpath={.status.containerStatuses[0].containerID}",
        ])
        .unwrap();
    let root = container_root(&platform, id.rsplit('/').next().unwrap());
    for round in 1..=3 {
        let value = format!("a{round}");
        let config = format!(r#"{{"data":{{"color":"{value}"}}}}"#);
        let keys = format!(r#"{{"stringData":{{"password":"{value}"}}}}"#);
        let labels = format!(r#"{{"metadata":{{"labels":{{"tier":"{value}"}}}}}}"#);
        for (kind, name, patch, places) in [
            ("configmap", "settings", config, ["config/color", "all/color"]),
            ("secret", "keys", keys, ["keys/password", "all/password"]),
            ("pod", "followers", labels, ["about/labels", "all/labels"]),
        ] {
            // From before it was asked for: an answer in between only helps.
            let asked = Instant::now();
            platform.ok(&["patch", kind, name, "--type=merge", "-p", &patch]).unwrap();
            for place in places {
                wait::until(&format!("{value} in {place}"), LIMIT, || {
                    let found = fs::read_to_string(root.join(place)).unwrap_or_else(|error| error.to_string());
                    Ok(if found.contains(&value) { Ok(()) } else { Err(found) })
                })
                .unwrap();
                let took = asked.elapsed();
                println!("{place} followed {kind} after {took:?}");
                assert!(took < FOLLOWS, "{place} followed {kind} after {took:?}");
            }
        }
    }
}

/// The files of a running container, as it sees them, volumes included.
fn container_root(platform: &Platform, id: &str) -> std::path::PathBuf {
    let inside = |pid: &std::path::Path| {
        let groups = fs::read_to_string(pid.join("cgroup")).unwrap_or_default();
        groups.contains(platform.cgroup_root()) && groups.contains(id)
    };
    let processes = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let process = processes.into_iter().find(|pid| inside(pid)).expect("a process of the container");
    process.join("root")
}

/// Content follows its source in a running pod, whole, also after Lifepod was
/// killed; what is immutable does not.
/// Fields: spec.volumes[].projected.sources[].secret spec.volumes[].projected.sources[].secret.name metadata.uid
#[test]
fn root_content_follows_its_source() {
    let build = Build::from_env().unwrap();
    let mut platform = Platform::start("follow", &build).unwrap();
    platform.create(OBJECTS).unwrap();
    platform.create(WATCHER).unwrap();
    platform.wait_status("default", "watcher", "Running", LIMIT).unwrap();
    let uid = platform.ok(&["get", "pod", "watcher", "-o", "jsonpath={.metadata.uid}"]).unwrap();
    let volumes = platform.data_dir().join("volumes");
    let config = volumes.join("disk").join(&uid).join("config");
    let all = volumes.join("memory").join(&uid).join("all");
    let becomes = |path: std::path::PathBuf, wanted: Option<&str>| {
        let begun = Instant::now();
        wait::until(&format!("{} to be {wanted:?}", path.display()), LIMIT, || {
            let found = fs::read_to_string(&path).ok();
            Ok(if found.as_deref() == wanted {
                Ok(())
            } else {
                Err(format!("{found:?}"))
            })
        })
        .unwrap();
        eprintln!("{} followed after {:?}", path.display(), begun.elapsed());
    };
    let patch = |kind: &str, name: &str, patch: &str| platform.ok(&["patch", kind, name, "--type=merge", "-p", patch]).unwrap();
    becomes(config.join("color"), Some("blue"));
    patch("configmap", "settings", r#"{"data":{"color":"red","size":null,"shape":"round"}}"#);
    becomes(config.join("color"), Some("red"));
    becomes(config.join("shape"), Some("round"));
    becomes(config.join("size"), None);
    patch("secret", "keys", r#"{"stringData":{"password":"new"}}"#);
    becomes(all.join("password"), Some("new"));
    platform.ok(&["label", "pod", "watcher", "tier=front", "--overwrite"]).unwrap();
    becomes(all.join("labels"), Some("tier=\"front\""));

    // Killed, changed meanwhile, started again: the container is not touched.
    platform.kill().unwrap();
    platform.up().unwrap();
    platform
        .ok(&[
            "patch",
            "configmap",
            "settings",
            "--type=merge",
            "-p",
            r#"{"data":{"color":"green"}}"#,
        ])
        .unwrap();
    becomes(config.join("color"), Some("green"));
    let restarts = platform
        .ok(&[
            "get",
            "pod",
            "watcher",
            "-o",
            "jsonpath={.status.containerStatuses[0].restartCount}",
        ])
        .unwrap();
    assert_eq!(restarts, "0");
    assert_eq!(
        fs::read_to_string(volumes.join("disk").join(&uid).join("disk/file")).unwrap(),
        "kept\n"
    );

    // A source that is gone leaves the content, and says so.
    platform.ok(&["delete", "configmap", "settings"]).unwrap();
    wait::until("the event", LIMIT, || {
        let events = platform.ok(&["get", "events", "-o", "custom-columns=R:.reason,M:.message"])?;
        let text = "MountVolume.SetUp failed for volume \"config\" : configmap \"settings\" not found";
        let told = events.lines().any(|line| line.starts_with("FailedMount") && line.ends_with(text));
        Ok(if told { Ok(()) } else { Err(events) })
    })
    .unwrap();
    assert_eq!(fs::read_to_string(config.join("color")).unwrap(), "green");

    // Immutable content is read once.
    platform
        .create("{apiVersion: v1, kind: ConfigMap, metadata: {name: settings}, data: {color: black}, immutable: true}")
        .unwrap();
    becomes(config.join("color"), Some("black"));
    platform.ok(&["delete", "configmap", "settings"]).unwrap();
    platform
        .create("{apiVersion: v1, kind: ConfigMap, metadata: {name: settings}, data: {color: white}}")
        .unwrap();
    platform.ok(&["label", "pod", "watcher", "tier=side", "--overwrite"]).unwrap();
    becomes(all.join("labels"), Some("tier=\"side\""));
    assert_eq!(fs::read_to_string(config.join("color")).unwrap(), "black");

    // Deleted while nobody looks: the next start clears it away.
    platform
        .ok(&["delete", "pod", "watcher", "--wait=false", "--grace-period=0", "--force"])
        .unwrap();
    wait::until("the volumes to go", LIMIT, || {
        let dirs = volume_dirs(&platform);
        Ok(if dirs.is_empty() { Ok(()) } else { Err(format!("{dirs:?}")) })
    })
    .unwrap();
}

/// A pod waits for what its volumes need, says so, and goes on.
/// Fields: spec.volumes[].hostPath.type
#[test]
fn root_a_missing_volume_source_is_told_and_heals() {
    let build = Build::from_env().unwrap();
    let platform = Platform::start("volheal", &build).unwrap();
    platform
        .create(
            "
apiVersion: v1
kind: Pod
metadata: { name: waits }
spec:
  volumes: [{ name: late, configMap: { name: late, items: [{ key: color, path: c }] } }]
  containers:
  - name: main
    image: busybox:1.30
    command: [sh, -c, 'cat /late/c; echo; exec sleep 100000']
    volumeMounts: [{ name: late, mountPath: /late }]
---
apiVersion: v1
kind: Pod
metadata: { name: nodir }
spec:
  volumes: [{ name: host, hostPath: { path: /nowhere/at/all, type: Directory } }]
  containers: [{ name: main, image: 'busybox:1.30', command: [sleep, '1000'], volumeMounts: [{ name: host, mountPath: /h }] }]
",
        )
        .unwrap();
    let told = |text: &str| {
        wait::until(&format!("the event {text:?}"), LIMIT, || {
            let events = platform.ok(&["get", "events", "-o", "custom-columns=R:.reason,M:.message"])?;
            let told = events.lines().any(|line| line.starts_with("FailedMount") && line.ends_with(text));
            Ok(if told { Ok(()) } else { Err(events) })
        })
        .unwrap();
    };
    told("MountVolume.SetUp failed for volume \"late\" : configmap \"late\" not found");
    told("MountVolume.SetUp failed for volume \"host\" : hostPath type check failed: /nowhere/at/all is not a directory");
    platform.wait_status("default", "waits", "ContainerCreating", LIMIT).unwrap();
    platform.ok(&["create", "configmap", "late", "--from-literal=size=1"]).unwrap();
    told("MountVolume.SetUp failed for volume \"late\" : configmap references non-existent config key: color");
    platform
        .ok(&["patch", "configmap", "late", "-p", r#"{"data":{"color":"red"}}"#])
        .unwrap();
    platform.wait_status("default", "waits", "Running", LIMIT).unwrap();
    logs(&platform, "waits", "red");
}

/// A container cannot make the next one mount what is outside its volume, and
/// one that fills its volume is evicted.
#[test]
fn root_no_volume_is_left_by_a_link() {
    let build = Build::from_env().unwrap();
    let platform = Platform::start("escape", &build).unwrap();
    platform
        .create(
            "
apiVersion: v1
kind: Pod
metadata: { name: climber }
spec:
  restartPolicy: Never
  volumes: [{ name: v, emptyDir: {} }]
  initContainers:
  - name: sly
    image: busybox:1.30
    command: [sh, -c, 'ln -s / /v/root; ln -s ../../../../../.. /v/up; ln -s /proc/self/root /v/magic; mkdir /v/real; ln -s real /v/fine']
    volumeMounts: [{ name: v, mountPath: /v }]
  containers:
  - { name: root, image: 'busybox:1.30', command: ['true'], volumeMounts: [{ name: v, mountPath: /m, subPath: root/etc }] }
  - { name: up, image: 'busybox:1.30', command: ['true'], volumeMounts: [{ name: v, mountPath: /m, subPath: up/etc }] }
  - { name: magic, image: 'busybox:1.30', command: ['true'], volumeMounts: [{ name: v, mountPath: /m, subPath: magic }] }
  - { name: fine, image: 'busybox:1.30', command: [sh, -c, 'touch /m/x && echo inside'], volumeMounts: [{ name: v, mountPath: /m, subPath: fine }] }
---
apiVersion: v1
kind: Pod
metadata: { name: greedy }
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
  volumes: [{ name: v, emptyDir: { sizeLimit: 1Mi } }]
  containers:
  - name: main
    image: busybox:1.30
    command: [sh, -c, 'dd if=/dev/zero of=/v/big bs=1M count=3; exec sleep 100000']
    volumeMounts: [{ name: v, mountPath: /v }]
",
        )
        .unwrap();
    for (index, name) in ["root", "up", "magic"].iter().enumerate() {
        let text = format!("failed to prepare subPath for volumeMount \"v\" of container \"{name}\"");
        platform
            .wait_pod("default", "climber", &text, LIMIT, |pod| {
                let waiting = &pod["status"]["containerStatuses"]
                    .as_array()?
                    .iter()
                    .find(|c| c["name"] == **name)?["state"]["waiting"];
                (waiting["reason"] == "CreateContainerConfigError" && waiting["message"] == text.as_str()).then_some(())
            })
            .unwrap_or_else(|error| panic!("{index} {name}: {error:#}"));
    }
    wait::until("the one that stays inside", LIMIT, || {
        let logs = platform.kubectl(&["logs", "climber", "-c", "fine"])?;
        let text = String::from_utf8_lossy(&logs.stdout).into_owned();
        Ok(if text == "inside\n" { Ok(()) } else { Err(text) })
    })
    .unwrap();
    platform
        .wait_pod("default", "greedy", "evicted", LIMIT, |pod| {
            let status = &pod["status"];
            let text = "Usage of EmptyDir volume \"v\" exceeds the limit \"1Mi\". ";
            (status["phase"] == "Failed" && status["reason"] == "Evicted" && status["message"] == text).then_some(())
        })
        .unwrap();
}
