//! Volumes that are more than a directory: mounts that the node sees, huge
//! pages, and content that follows its source without anybody asking.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use e2e::Platform;
use e2e::host::run;
use e2e::platform::Build;
use e2e::wait;

const LIMIT: Duration = Duration::from_secs(60);

/// A directory that is a mount of its own and shares what is mounted in it;
/// unmounted when dropped, with what was left in it.
struct Shared(tempfile::TempDir);

impl Shared {
    fn new() -> Self {
        let shared = Self(tempfile::tempdir().unwrap());
        let at = shared.0.path();
        run(std::process::Command::new("mount").arg("--bind").arg(at).arg(at)).unwrap();
        run(std::process::Command::new("mount").arg("--make-shared").arg(at)).unwrap();
        shared
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let unmounted = run(std::process::Command::new("umount").arg("--recursive").arg(self.0.path()));
        if let Err(error) = unmounted {
            eprintln!("{} stays mounted: {error:#}", self.0.path().display());
        }
    }
}

/// What this machine has mounted at and below a directory.
fn mounted(below: &Path) -> Vec<String> {
    let below = below.display().to_string();
    let table = fs::read_to_string("/proc/mounts").unwrap();
    let points = table.lines().filter_map(|line| line.split(' ').nth(1));
    points.filter(|point| point.starts_with(&below)).map(str::to_owned).collect()
}

const SHARING: &str = r#"
apiVersion: v1
kind: Pod
metadata: { name: sharing }
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
  volumes: [{ name: e, emptyDir: {} }, { name: m, emptyDir: { medium: Memory } }, { name: h, hostPath: { path: HOSTDIR } }]
  containers:
  - name: maker
    image: busybox:1.30
    securityContext: { privileged: true }
    command:
    - sh
    - -c
    - |
      for at in /e /m /h /sub; do
        mkdir -p $at/made
        mount -t tmpfs made $at/made
        echo seen > $at/made/file
      done
      touch /e/ready
      until [ -e /h/back/file ]; do sleep 0.1; done
      echo came back
      exec sleep 100000
    volumeMounts:
    - { name: e, mountPath: /e, mountPropagation: Bidirectional }
    - { name: m, mountPath: /m, mountPropagation: Bidirectional }
    - { name: h, mountPath: /h, mountPropagation: Bidirectional }
    - { name: e, mountPath: /sub, subPath: a/b, mountPropagation: Bidirectional }
  - name: follower
    image: busybox:1.30
    command: [sh, -c, 'until [ -e /e/made/file ]; do sleep 0.1; done; echo followed; exec sleep 100000']
    volumeMounts: [{ name: e, mountPath: /e, mountPropagation: HostToContainer }]
---
apiVersion: v1
kind: Pod
metadata: { name: alone }
spec:
  restartPolicy: Never
  volumes: [{ name: h, hostPath: { path: PRIVATE } }]
  containers:
  - name: maker
    image: busybox:1.30
    securityContext: { privileged: true }
    command: ['true']
    volumeMounts: [{ name: h, mountPath: /h, mountPropagation: Bidirectional }]
"#;

const CONTENT: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: { name: content }
data: { key: value }
---
apiVersion: v1
kind: Secret
metadata: { name: content }
stringData: { word: secret }
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: { name: content }
spec: { accessModes: [ReadWriteOnce], resources: { requests: { storage: 1Mi } } }
"#;

/// Whether mounts made below a directory are passed on to other namespaces.
fn is_shared(dir: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mounts = table.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    // The innermost, and of several there the last, which covers the others.
    let innermost = mounts
        .filter(|mount| dir.starts_with(mount[4]))
        .max_by_key(|mount| mount[4].len())
        .unwrap();
    innermost[6..]
        .iter()
        .take_while(|word| **word != "-")
        .any(|word| word.starts_with("shared:"))
}

/// As upstream: `Bidirectional` asks for privileges and not for a kind of
/// volume; whether the mount is shared is the node's business.
#[test]
fn root_content_may_be_mounted_both_ways_by_who_is_privileged() {
    let platform = Platform::start("both-ways", &Build::from_env().unwrap()).unwrap();
    platform.create(CONTENT).unwrap();
    let shared = is_shared(&platform.data_dir());
    for (name, volume) in [
        ("config", "configMap: {name: content}"),
        ("secret", "secret: {secretName: content}"),
        ("claim", "persistentVolumeClaim: {claimName: content}"),
    ] {
        let pod = |privileged: bool| {
            format!(
                "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{terminationGracePeriodSeconds: 0, volumes: [{{name: v, {volume}}}], containers: [{{name: c, image: 'busybox:1.30', command: [sleep, '1000'], securityContext: {{privileged: {privileged}}}, volumeMounts: [{{name: v, mountPath: /v, mountPropagation: Bidirectional}}]}}]}}}}"
            )
        };
        let refused = format!("{:#}", platform.create(&pod(false)).unwrap_err());
        let text = "Bidirectional mount propagation is available only to privileged containers";
        assert!(refused.contains(text), "{refused}");
        platform.create(&pod(true)).unwrap();
        let state = platform
            .wait_pod("default", name, "started or refused", LIMIT, |pod| {
                let state = &pod["status"]["containerStatuses"][0]["state"];
                let settled = state["running"].is_object() || state["waiting"]["reason"] == "CreateContainerError";
                settled.then(|| state.clone())
            })
            .unwrap();
        if shared {
            assert!(state["running"].is_object(), "{state}");
        } else {
            let message = state["waiting"]["message"].as_str().unwrap_or_default();
            assert!(message.ends_with("but it is not a shared mount"), "{state}");
        }
    }
}

/// What a container mounts in a volume, the node has mounted too, and the pod's
/// other containers; it goes with the volume. A directory of the node that does
/// not share is refused.
/// Fields: spec.containers[].volumeMounts[].mountPropagation
#[test]
fn root_a_mount_made_in_a_shared_volume_is_the_nodes() {
    let build = Build::from_env().unwrap();
    let mut platform = Platform::start("sharing", &build).unwrap();
    let (shared, private) = (Shared::new(), tempfile::tempdir().unwrap());
    run(std::process::Command::new("mount")
        .arg("--bind")
        .arg(private.path())
        .arg(private.path()))
    .unwrap();
    run(std::process::Command::new("mount").arg("--make-private").arg(private.path())).unwrap();
    let manifest = SHARING
        .replace("HOSTDIR", &shared.0.path().display().to_string())
        .replace("PRIVATE", &private.path().display().to_string());
    platform.create(&manifest).unwrap();
    let logs = |container: &str, wanted: &str| {
        wait::until(&format!("{container} to say {wanted:?}"), LIMIT, || {
            let logs = platform.kubectl(&["logs", "sharing", "-c", container])?;
            let text = String::from_utf8_lossy(&logs.stdout).into_owned();
            Ok(if text == wanted { Ok(()) } else { Err(text) })
        })
        .unwrap();
    };
    logs("follower", "followed\n");
    let uid = platform.ok(&["get", "pod", "sharing", "-o", "jsonpath={.metadata.uid}"]).unwrap();
    let volumes = platform.data_dir().join("volumes/disk").join(&uid);
    let made: Vec<PathBuf> = vec![
        volumes.join("e/made"),
        volumes.join("m/made"),
        volumes.join("e/a/b/made"),
        shared.0.path().join("made"),
    ];
    for place in &made {
        let file = place.join("file");
        wait::until(&format!("{} on the node", file.display()), LIMIT, || {
            Ok(fs::read_to_string(&file).map_err(|error| error.to_string()))
        })
        .map(|text| assert_eq!(text, "seen\n"))
        .unwrap();
        assert!(mounted(place).contains(&place.display().to_string()), "{}", place.display());
    }
    // The other way it goes too.
    let back = shared.0.path().join("back");
    fs::create_dir(&back).unwrap();
    run(std::process::Command::new("mount").args(["-t", "tmpfs", "back"]).arg(&back)).unwrap();
    fs::write(back.join("file"), "").unwrap();
    logs("maker", "came back\n");

    // What the node had mounted there before is still there.
    let told = platform
        .wait_pod("default", "alone", "refused", LIMIT, |pod| {
            let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
            (waiting["reason"] == "CreateContainerError").then(|| waiting["message"].clone())
        })
        .unwrap();
    let place = private.path().display();
    let wanted = format!("path \"{place}\" is mounted on \"{place}\" but it is not a shared mount");
    assert!(told.as_str().unwrap().contains(&wanted), "{told}");
    run(std::process::Command::new("umount").arg(private.path())).unwrap();

    // The volumes go with the pod, and what is mounted in them; the node's own
    // directory is left alone.
    platform.ok(&["delete", "pod", "sharing", "alone", "--wait=true"]).unwrap();
    wait::until("the volumes to go", LIMIT, || {
        let left = mounted(&volumes);
        Ok(if left.is_empty() && !volumes.exists() {
            Ok(())
        } else {
            Err(format!("{left:?}"))
        })
    })
    .unwrap();
    assert_eq!(mounted(&back), [back.display().to_string()]);
    platform.down().unwrap();
    assert_eq!(platform.leftovers().unwrap(), Vec::<String>::new());
}

const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";

/// Some more huge pages for this machine, given back when dropped.
struct Pool {
    before: u64,
}

impl Pool {
    fn with(more: u64) -> Self {
        let count = || fs::read_to_string(POOL).unwrap().trim().parse::<u64>().unwrap();
        let before = count();
        fs::write(POOL, (before + more).to_string()).unwrap();
        let pool = Self { before };
        assert_eq!(count(), before + more, "the kernel finds so many");
        pool
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if let Err(error) = fs::write(POOL, self.before.to_string()) {
            eprintln!("{POOL}: {error}");
        }
    }
}

/// A volume in huge pages is a hugetlbfs of their size and its limit.
/// Fields: spec.volumes[].emptyDir.medium spec.volumes[].emptyDir.sizeLimit
#[test]
fn root_a_volume_may_be_of_huge_pages() {
    let build = Build::from_env().unwrap();
    let pool = Pool::with(8);
    let mut platform = Platform::start("hugevolume", &build).unwrap();
    let pod = |name: &str, volume: &str, resources: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  restartPolicy: Never\n  volumes: [{{name: v, emptyDir: {volume}}}]\n  containers:\n  - name: c\n    image: busybox:1.30\n    command: [sh, -c, 'grep \" /huge \" /proc/mounts; stat -f -c \"%S %b\" /huge; id -u; touch /huge/file && echo made']\n    securityContext: {{runAsUser: 1000}}\n    resources: {{limits: {resources}}}\n    volumeMounts: [{{name: v, mountPath: /huge}}]\n"
        )
    };
    let asks = "{memory: 16Mi, hugepages-2Mi: 4Mi}";
    platform.create(&pod("any", "{medium: HugePages, sizeLimit: 4Mi}", asks)).unwrap();
    platform.create(&pod("named", "{medium: HugePages-2Mi}", asks)).unwrap();
    for (name, blocks) in [("any", Some("2")), ("named", None)] {
        platform.wait_status("default", name, "Completed", LIMIT).unwrap();
        let logs = platform.ok(&["logs", name]).unwrap();
        let lines: Vec<&str> = logs.lines().collect();
        assert!(lines[0].contains(" hugetlbfs rw,") && lines[0].contains("pagesize=2M"), "{logs}");
        let (size, count) = lines[1].split_once(' ').unwrap();
        assert_eq!(size, "2097152", "{logs}");
        assert!(blocks.is_none_or(|blocks| blocks == count), "{logs}");
        assert_eq!(lines[2..], ["1000", "made"], "{logs}");
    }
    platform.create(&pod("none", "{medium: HugePages-1Gi}", asks)).unwrap();
    let text = "MountVolume.SetUp failed for volume \"v\" : hugePages storage requested, but there is no resource request for huge pages";
    wait::until("the event", LIMIT, || {
        let selector = "involvedObject.name=none,reason=FailedMount";
        let seen = platform.ok(&["get", "events", "--field-selector", selector, "-o", "jsonpath={.items[*].message}"])?;
        Ok(if seen == text { Ok(()) } else { Err(seen) })
    })
    .unwrap();
    platform.down().unwrap();
    assert_eq!(platform.leftovers().unwrap(), Vec::<String>::new());
    drop(pool);
}

const FOLLOWER: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: { name: settings }
data: { k: "0" }
---
apiVersion: v1
kind: Secret
metadata: { name: keys }
stringData: { k: "0" }
---
apiVersion: v1
kind: Pod
metadata: { name: follower, labels: { k: "0" } }
spec:
  terminationGracePeriodSeconds: 0
  volumes:
  - { name: config, configMap: { name: settings } }
  - { name: secret, secret: { secretName: keys } }
  - { name: fields, downwardAPI: { items: [{ path: k, fieldRef: { fieldPath: "metadata.labels['k']" } }] } }
  - name: all
    projected:
      sources:
      - configMap: { name: settings, items: [{ key: k, path: c }] }
      - secret: { name: keys, items: [{ key: k, path: s }] }
      - downwardAPI: { items: [{ path: f, fieldRef: { fieldPath: "metadata.labels['k']" } }] }
  containers:
  - name: c
    image: busybox:1.30
    command: [sh, -c, 'while true; do cat /config/k /secret/k /fields/k /all/c /all/s /all/f > /tmp/now; [ "$(cat /tmp/now)" = "$(cat /tmp/last 2> /dev/null)" ] || { cat /tmp/now; echo; }; mv /tmp/now /tmp/last; sleep 0.02; done']
    volumeMounts:
    - { name: config, mountPath: /config }
    - { name: secret, mountPath: /secret }
    - { name: fields, mountPath: /fields }
    - { name: all, mountPath: /all }
"#;

/// Requests for objects of a kind that were not watches, so far.
fn asked(platform: &Platform, resource: &str) -> u64 {
    let metrics = platform.ok(&["get", "--raw", "/metrics"]).unwrap();
    let lines = metrics.lines().filter(|line| {
        let is = |label: &str, value: &str| line.contains(&format!("{label}=\"{value}\""));
        line.starts_with("apiserver_request_total{") && is("resource", resource) && (is("verb", "GET") || is("verb", "LIST"))
    });
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

/// A running container sees every change of what it was given, and nobody asks
/// for it again: the API server tells.
#[test]
fn root_changes_are_told_and_not_asked_for() {
    let build = Build::from_env().unwrap();
    let platform = Platform::start("told", &build).unwrap();
    platform.create(FOLLOWER).unwrap();
    let shows = |wanted: &str| {
        wait::until(&format!("the container to see {wanted}"), LIMIT, || {
            let logs = platform.kubectl(&["logs", "follower", "--tail=1"])?;
            let text = String::from_utf8_lossy(&logs.stdout).into_owned();
            Ok(if text.trim() == wanted { Ok(()) } else { Err(text) })
        })
        .unwrap();
    };
    shows("000000");
    let count = || ["configmaps", "secrets"].map(|kind| asked(&platform, kind));
    let patch = |kind: &str, name: &str, patch: String| platform.ok(&["patch", kind, name, "--type=merge", "-p", &patch]).unwrap();
    let before = count();
    const ROUNDS: u64 = 8;
    for round in 1..=ROUNDS {
        patch("configmap", "settings", format!(r#"{{"data":{{"k":"{round}"}}}}"#));
        patch("secret", "keys", format!(r#"{{"stringData":{{"k":"{round}"}}}}"#));
        patch("pod", "follower", format!(r#"{{"metadata":{{"labels":{{"k":"{round}"}}}}}}"#));
        let begun = Instant::now();
        shows(&round.to_string().repeat(6));
        eprintln!("round {round} was seen after {:?}", begun.elapsed());
    }
    // Before it patches, kubectl asks for the object: once a round, and nobody else.
    let after = count();
    assert_eq!(
        [after[0] - before[0], after[1] - before[1]],
        [ROUNDS; 2],
        "the node asks for nothing it is told"
    );
}
