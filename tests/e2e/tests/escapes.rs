//! Ways out of a container, tried with real ones. Each test says what it tries
//! and what comes of it; `docs/security.md` is made of that.

use std::fmt::Write as _;
use std::fs;
use std::time::Duration;

use e2e::Platform;
use e2e::platform::Build;
use e2e::wait;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(60);

fn started(label: &str) -> Platform {
    Platform::start(label, &Build::from_env().unwrap()).unwrap()
}

/// What a pod that ended has printed.
fn printed(platform: &Platform, pod: &str) -> String {
    platform
        .wait_pod("default", pod, "to end", LIMIT, |pod| {
            matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed")).then_some(())
        })
        .unwrap();
    platform.ok(&["logs", pod, "--all-containers", "--prefix=false"]).unwrap()
}

/// An event of this reason whose message has this text.
fn told(platform: &Platform, pod: &str, reason: &str, text: &str) {
    let selector = format!("involvedObject.name={pod},reason={reason}");
    let path = "jsonpath={range .items[*]}{.message}{\"\\n\"}{end}";
    wait::until(&format!("{reason} of {pod}: {text}"), LIMIT, || {
        let seen = platform.ok(&["get", "events", "--field-selector", &selector, "-o", path])?;
        Ok(if seen.contains(text) { Ok(()) } else { Err(seen) })
    })
    .unwrap();
}

/// The refusal of a manifest.
fn refused(platform: &Platform, manifest: &str) -> String {
    let error = platform.create(manifest).expect_err("this must be refused");
    format!("{error:#}")
}

fn status_of<'a>(pod: &'a Value, container: &str) -> Option<&'a Value> {
    let statuses = pod["status"]["containerStatuses"].as_array()?;
    statuses.iter().find(|status| status["name"] == container)
}

/// One container exchanges a directory for a link to the host as fast as it
/// can, while twelve others start with a subPath of it.
/// Escape: a container that keeps exchanging the subPath of its neighbours for a link to a directory of the host | they get the directory in the volume, or `CreateContainerConfigError`; the host's files are never seen
#[test]
fn root_a_container_that_swaps_links_does_not_show_its_neighbours_the_host() {
    const NEIGHBOURS: usize = 12;
    let platform = started("swap");
    let host = tempfile::tempdir().unwrap();
    fs::write(host.path().join("secret"), "of the host\n").unwrap();
    let mut pod = format!(
        "
apiVersion: v1
kind: Pod
metadata: {{ name: racing }}
spec:
  restartPolicy: OnFailure
  terminationGracePeriodSeconds: 0
  volumes: [{{ name: v, emptyDir: {{}} }}]
  containers:
  - name: swapper
    image: busybox:1.30
    command: [sh, -c, 'while true; do mkdir /v/x; rmdir /v/x; ln -s {host} /v/x; rm /v/x; done']
    volumeMounts: [{{ name: v, mountPath: /v }}]
",
        host = host.path().display()
    );
    for number in 0..NEIGHBOURS {
        let _ = writeln!(
            pod,
            "  - {{ name: n{number}, image: 'busybox:1.30', command: [sh, -c, 'cat /m/secret 2>/dev/null; echo looked'], volumeMounts: [{{ name: v, mountPath: /m, subPath: x }}] }}"
        );
    }
    platform.create(&pod).unwrap();
    // Each was tried: it ended, or its subPath was refused.
    let decided = |pod: &Value| {
        let all = (0..NEIGHBOURS).filter_map(|number| status_of(pod, &format!("n{number}")));
        let all: Vec<bool> = all
            .filter_map(|status| {
                let ended = !status["state"]["terminated"].is_null() || !status["lastState"]["terminated"].is_null();
                let refused = status["state"]["waiting"]["reason"] == "CreateContainerConfigError";
                (ended || refused).then_some(ended)
            })
            .collect();
        (all.len() == NEIGHBOURS && all.contains(&true)).then_some(all)
    };
    platform
        .wait_pod("default", "racing", "every neighbour's try", LIMIT, decided)
        .unwrap();
    for number in 0..NEIGHBOURS {
        let logs = platform.kubectl(&["logs", "racing", "-c", &format!("n{number}")]).unwrap();
        let text = String::from_utf8_lossy(&logs.stdout).into_owned();
        assert!(!text.contains("of the host"), "n{number}: {text}");
    }
    assert_eq!(fs::read_dir(host.path()).unwrap().count(), 1, "nothing was made on the host");
}

const POD: &str = "
apiVersion: v1
kind: Pod
metadata: { name: p }
spec:
  volumes: [VOLUME]
  containers: [{ name: c, image: 'busybox:1.30', volumeMounts: [MOUNT] }]
";

/// Escape: a subPath with `..`, or an absolute one | 422: `must not contain '..'`, `must be a relative path`
/// Escape: `..` in the items' paths of a configMap, secret, downwardAPI or projected volume | 422: `must not contain '..'`
/// Escape: a ConfigMap or Secret key that is a path or begins with `..` | 422 with the rule that keys keep to
#[test]
fn root_paths_that_climb_are_refused() {
    let platform = started("climb");
    let empty = "{ name: v, emptyDir: {} }";
    let plain = "{ name: v, mountPath: /m }";
    for (volume, mount, said) in [
        (
            empty,
            "{ name: v, mountPath: /m, subPath: ../x }",
            "subPath: Invalid value: \"../x\": must not contain '..'",
        ),
        (empty, "{ name: v, mountPath: /m, subPath: a/../../x }", "must not contain '..'"),
        (
            empty,
            "{ name: v, mountPath: /m, subPath: /etc }",
            "subPath: Invalid value: \"/etc\": must be a relative path",
        ),
        (empty, "{ name: v, mountPath: /m, subPathExpr: a/../x }", "must not contain '..'"),
        (
            "{ name: v, configMap: { name: m, items: [{ key: k, path: ../x }] } }",
            plain,
            "must not contain '..'",
        ),
        (
            "{ name: v, configMap: { name: m, items: [{ key: k, path: /x }] } }",
            plain,
            "must be a relative path",
        ),
        (
            "{ name: v, secret: { secretName: m, items: [{ key: k, path: a/../../x }] } }",
            plain,
            "must not contain '..'",
        ),
        (
            "{ name: v, downwardAPI: { items: [{ path: ../x, fieldRef: { fieldPath: metadata.name } }] } }",
            plain,
            "must not contain '..'",
        ),
        (
            "{ name: v, projected: { sources: [{ serviceAccountToken: { path: ../x } }] } }",
            plain,
            "must not contain '..'",
        ),
    ] {
        let answer = refused(&platform, &POD.replace("VOLUME", volume).replace("MOUNT", mount));
        assert!(answer.contains(said), "{volume} {mount}: {answer}");
    }
    for key in ["..", "../x", "a/b", "..x"] {
        for kind in ["ConfigMap", "Secret"] {
            let answer = refused(
                &platform,
                &format!("{{apiVersion: v1, kind: {kind}, metadata: {{name: m}}, data: {{'{key}': eA==}}}}"),
            );
            let rule = [
                "a valid config key must consist of alphanumeric characters",
                "must not be '..'",
                "must not start with '..'",
            ];
            assert!(rule.iter().any(|rule| answer.contains(rule)), "{kind} {key}: {answer}");
        }
    }
}

/// What a container without privileges tries; each line that it prints names
/// what it got.
const ATTEMPTS: &str = r#"
did() { "$@" 2> /dev/null && echo "GOT: $*"; }
into() { (echo "$1" > "$2") 2> /dev/null && echo "GOT: write $2"; }
into '|/tmp/evil' /proc/sys/kernel/core_pattern
into /tmp/evil /proc/sys/kernel/modprobe
into 1 /proc/sys/vm/drop_caches
into 1 /proc/sys/net/ipv4/ip_forward
into b /proc/sysrq-trigger
into /tmp/evil /sys/kernel/uevent_helper
into 1 /sys/class/net/lo/flags
into /tmp/evil /sys/fs/cgroup/memory/release_agent
into 0 /sys/fs/cgroup/memory/cgroup.procs
into 99 /proc/irq/default_smp_affinity
did mount -t tmpfs none /mnt
did mount -o remount,rw /sys
did mount -o remount,rw /proc/sys
did umount /proc/sys
did unshare -U true
did unshare -m true
did head -c 1 /proc/kcore
did cat /proc/keys /proc/timer_list
mknod /tmp/disk b $(cat /sys/block/*/dev | head -n 1 | tr ':' ' ') && did head -c 1 /tmp/disk
mknod /tmp/mem c 1 1 && did head -c 1 /tmp/mem
did chroot /proc/1/root/../../.. ls HOSTDIR
did cat /proc/1/root/HOSTDIR/secret
for fd in 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19; do did cat /proc/self/fd/$fd/HOSTDIR/secret; did cat /proc/self/fd/$fd/../../../../../../../HOSTDIR/secret; done
did nsenter -t 1 -n -m true
did hostname evil
into x /proc/1/exe
echo tried
"#;

/// Escape: writes to `/proc/sys` (`core_pattern`, `modprobe`), `/proc/sysrq-trigger`, `/proc/irq`, `/sys` and its cgroup by root in a container | refused by the kernel: mounted read-only
/// Escape: mounts, remounts and unmounts, new user and mount namespaces | refused: no `CAP_SYS_ADMIN`, seccomp `RuntimeDefault`
/// Escape: reads of `/proc/kcore`, `/proc/keys`, `/proc/timer_list` | masked: empty
/// Escape: device nodes of disks and memory made with `mknod` | made, and not opened: the cgroup's device rules
/// Escape: files of the host through `/proc/1/root` and inherited file descriptors | they are the container's own
/// Escape: writing the program of the process that made the container, through `/proc/1/exe` | it runs from a sealed copy in memory, and is gone once the container's program runs
#[test]
fn root_a_container_without_privileges_changes_nothing_of_the_kernels() {
    let platform = started("kernelfiles");
    let host = tempfile::tempdir().unwrap();
    fs::write(host.path().join("secret"), "of the host\n").unwrap();
    let before = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    let script = ATTEMPTS.replace("HOSTDIR", &host.path().display().to_string());
    let script = script.lines().fold(String::new(), |mut all, line| {
        let _ = writeln!(all, "      {line}");
        all
    });
    platform
        .create(&format!(
            "
apiVersion: v1
kind: Pod
metadata: {{ name: tries }}
spec:
  restartPolicy: Never
  containers:
  - name: main
    image: busybox:1.30
    command:
    - sh
    - -c
    - |
{script}
"
        ))
        .unwrap();
    let said = printed(&platform, "tries");
    let got: Vec<&str> = said.lines().filter(|line| line.starts_with("GOT")).collect();
    assert_eq!(
        got,
        ["GOT: cat /proc/keys /proc/timer_list"],
        "these are empty files, and nothing else is had:\n{said}"
    );
    assert!(said.ends_with("tried\n") && !said.contains("of the host"), "{said}");
    assert_eq!(fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap(), before);
}

/// Escape: a working directory in `/proc/self/fd` (CVE-2024-21626) | it is made in the image, or the container does not start; no file of the host is found from it
#[test]
fn root_no_working_directory_is_the_hosts() {
    let platform = started("workdir");
    let host = tempfile::tempdir().unwrap();
    fs::write(host.path().join("secret"), "of the host\n").unwrap();
    let mut pod = "apiVersion: v1\nkind: Pod\nmetadata: { name: cwd }\nspec:\n  restartPolicy: Never\n  containers:\n".to_owned();
    for number in 3..15 {
        let _ = writeln!(
            pod,
            "  - {{ name: c{number}, image: 'busybox:1.30', workingDir: /proc/self/fd/{number}, command: [/bin/sh, -c, 'cat ./{host}/secret ../../../../../../../..{host}/secret; echo looked'] }}",
            host = host.path().display()
        );
    }
    platform.create(&pod).unwrap();
    let ended = platform.wait_pod("default", "cwd", "every container to be decided", LIMIT, |pod| {
        let statuses = pod["status"]["containerStatuses"].as_array()?;
        let decided = |status: &&Value| {
            let waiting = status["state"]["waiting"]["reason"].as_str();
            !status["state"]["terminated"].is_null() || waiting.is_some_and(|reason| reason.ends_with("Error"))
        };
        (statuses.iter().filter(decided).count() == 12).then(|| pod["status"].to_string())
    });
    let status = ended.unwrap();
    for number in 3..15 {
        let logs = platform.kubectl(&["logs", "cwd", "-c", &format!("c{number}")]).unwrap();
        let text = String::from_utf8_lossy(&logs.stdout).into_owned();
        assert!(!text.contains("of the host"), "c{number}: {text}\n{status}");
    }
}

/// Escape: a mount made in a privileged container, in a volume that is also the host's | seen by neither the host nor other containers
#[test]
fn root_a_mount_made_in_a_container_stays_there() {
    let platform = started("propagate");
    let host = tempfile::tempdir().unwrap();
    platform
        .create(
            &"
apiVersion: v1
kind: Pod
metadata: { name: mounts }
spec:
  terminationGracePeriodSeconds: 0
  volumes: [{ name: v, hostPath: { path: HOSTDIR } }, { name: e, emptyDir: {} }]
  containers:
  - name: maker
    image: busybox:1.30
    securityContext: { privileged: true }
    command: [sh, -c, 'mkdir -p /v/a /v/b /e/a; for at in /v/a /v/b /e/a; do mount -t tmpfs leak $at && touch $at/leaked; done; touch /v/done; exec sleep 1000']
    volumeMounts: [{ name: v, mountPath: /v, mountPropagation: HostToContainer }, { name: v, mountPath: /w }, { name: e, mountPath: /e }]
  - name: other
    image: busybox:1.30
    command: [sh, -c, 'until [ -e /v/done ]; do sleep 0.1; done; find /v /e -name leaked; grep -c leak /proc/mounts; echo looked; exec sleep 1000']
    volumeMounts: [{ name: v, mountPath: /v, mountPropagation: HostToContainer }, { name: e, mountPath: /e }]
"
            .replace("HOSTDIR", &host.path().display().to_string()),
        )
        .unwrap();
    let logs = wait::until("the other container to have looked", LIMIT, || {
        let logs = platform.kubectl(&["logs", "mounts", "-c", "other"])?;
        let text = String::from_utf8_lossy(&logs.stdout).into_owned();
        Ok(if text.ends_with("looked\n") { Ok(text) } else { Err(text) })
    })
    .unwrap();
    assert_eq!(logs, "0\nlooked\n");
    let inside = platform
        .ok(&["exec", "mounts", "-c", "maker", "--", "find", "/v", "/e", "-name", "leaked"])
        .unwrap();
    assert_eq!(inside.lines().count(), 3, "they were made: {inside}");
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    let place = host.path().display().to_string();
    let leaked: Vec<&str> = mounts
        .lines()
        .filter(|line| line.starts_with("leak ") && line.contains(&place))
        .collect();
    assert_eq!(leaked, Vec::<&str>::new());
    assert!(!host.path().join("a/leaked").exists() && host.path().join("a").is_dir());
}

/// Escape: the ServiceAccount token of another pod, through the API with one's own | 403
/// Escape: the ServiceAccount token of another pod, through its place on the node | no container has a path to it: a `hostPath` there is refused
#[test]
fn root_a_pod_does_not_get_anothers_token() {
    let platform = started("tokens");
    platform.ok(&["create", "serviceaccount", "rich"]).unwrap();
    platform
        .create(
            "
apiVersion: v1
kind: Pod
metadata: { name: rich }
spec:
  serviceAccountName: rich
  terminationGracePeriodSeconds: 0
  containers: [{ name: c, image: 'busybox:1.30', command: [sleep, '1000'] }]
---
apiVersion: v1
kind: Pod
metadata: { name: poor }
spec:
  terminationGracePeriodSeconds: 0
  containers: [{ name: c, image: 'busybox:1.30', command: [sleep, '1000'] }]
",
        )
        .unwrap();
    for pod in ["rich", "poor"] {
        platform.wait_status("default", pod, "Running", LIMIT).unwrap();
    }
    let at = "/var/run/secrets/kubernetes.io/serviceaccount/token";
    let token = platform.ok(&["exec", "poor", "--", "cat", at]).unwrap();
    let server = platform
        .ok(&["config", "view", "-o", "jsonpath={.clusters[0].cluster.server}"])
        .unwrap();
    let mut command = platform.host.command("kubectl");
    command
        .env("KUBECONFIG", "/dev/null")
        .env("HOME", platform.data_dir().parent().unwrap());
    let output = command
        .args([
            "--server",
            server.trim_matches('"'),
            "--insecure-skip-tls-verify",
            "--token",
            token.trim(),
        ])
        .args(["create", "token", "rich"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("User \"system:serviceaccount:default:default\" cannot create resource \"serviceaccounts/token\""),
        "{said}"
    );
    // Neither its own mount nor any other way leads to the place of the other's.
    let uid = platform.ok(&["get", "pod", "rich", "-o", "jsonpath={.metadata.uid}"]).unwrap();
    let volumes = platform.data_dir().join("volumes/memory").join(&uid);
    assert!(volumes.is_dir(), "{} is where it lies", volumes.display());
    let own = format!(
        "ls {at}/../../..{0} {0} /proc/1/root{0} {at}/../../../../../../../..{0}; true",
        volumes.display()
    );
    let seen = platform.ok(&["exec", "poor", "--", "sh", "-c", &own]).unwrap();
    assert_eq!(seen, "");
    platform
        .create(&format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: thief}}, spec: {{volumes: [{{name: v, hostPath: {{path: {}}}}}], containers: [{{name: c, image: 'busybox:1.30', command: [sleep, '1000'], volumeMounts: [{{name: v, mountPath: /v}}]}}]}}}}",
            volumes.display()
        ))
        .unwrap();
    told(&platform, "thief", "FailedMount", "lies in Lifepod's own directory");
}

fn host_pod(name: &str, path: &str, sub_path: &str) -> String {
    let sub_path = if sub_path.is_empty() {
        String::new()
    } else {
        format!(", subPath: {sub_path}")
    };
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{ name: {name} }}
spec:
  terminationGracePeriodSeconds: 0
  volumes: [{{ name: v, hostPath: {{ path: {path}, type: DirectoryOrCreate }} }}]
  containers: [{{ name: c, image: 'busybox:1.30', command: [sleep, '1000'], volumeMounts: [{{ name: v, mountPath: /v, readOnly: true{sub_path} }}] }}]
"
    )
}

/// Escape: a hostPath to Lifepod's own directory: keys, store, logs, volumes of other pods | `FailedMount`: it lies in Lifepod's own directory, which no pod may mount
/// Escape: the same through a link on the host, or as a PersistentVolume | `FailedMount`, as above
/// Escape: the same as a subPath of a directory above it, also by a link | `CreateContainerConfigError`: it leads into Lifepod's own directory
/// Escape: a hostPath to the directory of logs, to put a link where a log is | `FailedMount`, as above
/// Fields: spec.volumes[].hostPath.path spec.volumes[].hostPath.type
#[test]
fn root_lifepods_own_directory_is_mounted_by_nobody() {
    let platform = started("owndir");
    let data = platform.data_dir();
    let above = data.parent().unwrap().display().to_string();
    let links = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(&data, links.path().join("door")).unwrap();
    let shown = data.display().to_string();
    for (name, path) in [
        ("whole", shown.clone()),
        ("keys", format!("{shown}/pki")),
        ("logs", format!("{shown}/logs")),
        ("link", format!("{}/door/store", links.path().display())),
        ("new", format!("{shown}/new/directory")),
    ] {
        platform.create(&host_pod(name, &path, "")).unwrap();
        told(
            &platform,
            name,
            "FailedMount",
            &format!("MountVolume.SetUp failed for volume \"v\" : {path} lies in Lifepod's own directory"),
        );
    }
    assert!(!data.join("new").exists(), "nothing is made before it is refused");
    for (name, path, sub_path) in [
        ("below", above.clone(), "data/pki"),
        ("made", above.clone(), "data/made"),
        ("within", links.path().display().to_string(), "door"),
    ] {
        platform.create(&host_pod(name, &path, sub_path)).unwrap();
        platform.wait_status("default", name, "CreateContainerConfigError", LIMIT).unwrap();
    }
    let path = "jsonpath={.status.containerStatuses[0].state.waiting.message}";
    let message = platform.ok(&["get", "pod", "below", "-o", path]).unwrap();
    assert!(
        message.starts_with("volumeMount \"v\" of container \"c\" leads into Lifepod's own directory"),
        "{message}"
    );
    assert!(!data.join("made").exists(), "nothing is made before it is refused");
    platform
        .create(&format!(
            "
apiVersion: v1
kind: PersistentVolume
metadata: {{ name: sly }}
spec:
  capacity: {{ storage: 1Mi }}
  accessModes: [ReadWriteOnce]
  storageClassName: ''
  claimRef: {{ namespace: default, name: sly }}
  hostPath: {{ path: {shown}/pki }}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{ name: sly }}
spec: {{ storageClassName: '', volumeName: sly, accessModes: [ReadWriteOnce], resources: {{ requests: {{ storage: 1Mi }} }} }}
---
apiVersion: v1
kind: Pod
metadata: {{ name: claims }}
spec:
  volumes: [{{ name: v, persistentVolumeClaim: {{ claimName: sly }} }}]
  containers: [{{ name: c, image: 'busybox:1.30', command: [sleep, '1000'], volumeMounts: [{{ name: v, mountPath: /v }}] }}]
"
        ))
        .unwrap();
    told(&platform, "claims", "FailedMount", "lies in Lifepod's own directory");
}

/// Escape: a terminationMessagePath that is a link to a file of the host, or leads through one | resolved in the container: the host's file is neither read nor written
/// Escape: a mount path that is a link to a directory of the host | resolved in the container
/// Escape: a working directory below a link that leads out of the image | resolved in the container
#[test]
fn root_links_in_a_container_are_the_containers() {
    let platform = started("links");
    let host = tempfile::tempdir().unwrap();
    let secret = host.path().join("secret");
    fs::write(&secret, "of the host\n").unwrap();
    platform
        .create(
            &"
apiVersion: v1
kind: Pod
metadata: { name: linked }
spec:
  restartPolicy: Never
  volumes: [{ name: v, emptyDir: {} }, { name: w, emptyDir: {} }]
  initContainers:
  - name: sly
    image: busybox:1.30
    command: [sh, -c, 'ln -s HOSTDIR/secret /v/log; ln -s HOSTDIR /v/dir']
    volumeMounts: [{ name: v, mountPath: /v }]
  containers:
  - name: file
    image: busybox:1.30
    terminationMessagePath: /v/log
    command: [sh, -c, 'cat /v/log; echo own words > /v/log; echo looked']
    volumeMounts: [{ name: v, mountPath: /v }]
  - name: message
    image: busybox:1.30
    workingDir: HOSTDIR
    terminationMessagePath: /v/dir/own
    command: [sh, -c, 'echo own words > /v/dir/own; ls /v/dir/; echo looked']
    volumeMounts: [{ name: v, mountPath: /v }]
  - name: place
    image: busybox:1.30
    command: [sh, -c, 'ls /v/dir/; touch /v/dir/at/made /w/at; echo looked']
    volumeMounts: [{ name: v, mountPath: /v }, { name: w, mountPath: /v/dir/at }]
  - name: work
    image: busybox:1.30
    workingDir: /v/dir/work
    command: [sh, -c, 'pwd; touch here; echo looked']
    volumeMounts: [{ name: v, mountPath: /v }]
"
            .replace("HOSTDIR", &host.path().display().to_string()),
        )
        .unwrap();
    let pod = platform
        .wait_pod("default", "linked", "all to be decided", LIMIT, |pod| {
            let decided = |name: &str| {
                let state = &status_of(pod, name)?["state"];
                let failed = state["waiting"]["reason"].as_str().is_some_and(|reason| reason.ends_with("Error"));
                (failed || !state["terminated"].is_null()).then_some(())
            };
            decided("file")?;
            decided("message")?;
            decided("place")?;
            decided("work")?;
            Some(pod.clone())
        })
        .unwrap();
    let logs = platform.kubectl(&["logs", "linked", "--all-containers"]).unwrap();
    let said = String::from_utf8_lossy(&logs.stdout).into_owned() + &pod["status"].to_string();
    assert!(!said.contains("of the host"), "{said}");
    assert_eq!(fs::read_to_string(&secret).unwrap(), "of the host\n");
    assert_eq!(
        fs::read_dir(host.path()).unwrap().count(),
        1,
        "nothing was made on the host: {said}"
    );
    let message = &status_of(&pod, "message").unwrap()["state"]["terminated"]["message"];
    assert_eq!(message, "own words\n", "{said}");
}
