//! What pods leave behind: nothing.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use e2e::Platform;
use e2e::host::run;
use e2e::platform::Build;
use e2e::wait;

const PODS: usize = 500;
/// So many at once, the node takes no more.
const BATCH: usize = 50;
const LIMIT: Duration = Duration::from_secs(120);

const SOURCES: &str = "
apiVersion: v1
kind: ConfigMap
metadata: { name: settings }
data: { k: v }
---
apiVersion: v1
kind: Secret
metadata: { name: keys }
stringData: { k: v }
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: { name: shared }
spec: { accessModes: [ReadWriteOnce], resources: { requests: { storage: 1Mi } } }
";

/// Every kind of volume. It ends only well if each of them is there; every other
/// one then stays, to be deleted while it runs.
const POD: &str = r#"
---
apiVersion: v1
kind: Pod
metadata: { name: NAME, labels: { is: one-of-many } }
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
  volumes:
  - { name: disk, emptyDir: {} }
  - { name: memory, emptyDir: { medium: Memory, sizeLimit: 1Mi } }
  - { name: host, hostPath: { path: HOSTDIR, type: Directory } }
  - { name: config, configMap: { name: settings } }
  - { name: secret, secret: { secretName: keys } }
  - { name: fields, downwardAPI: { items: [{ path: name, fieldRef: { fieldPath: metadata.name } }] } }
  - name: all
    projected:
      sources:
      - serviceAccountToken: { path: token, expirationSeconds: 600 }
      - configMap: { name: settings }
      - secret: { name: keys, items: [{ key: k, path: s }] }
  - { name: claim, persistentVolumeClaim: { claimName: shared } }
  - { name: image, image: { reference: "nginx:1.17.1", pullPolicy: Never } }
  containers:
  - name: main
    image: busybox:1.30
    command: [sh, -ec, 'cat /config/k /secret/k /fields/name /all/token /all/k /all/s /one > /memory/all; cp /memory/all /disk/all; cp /memory/all /sub/all; cat /disk/in/NAME/all /host/file /conf > /claim/NAME; rm /claim/NAME; test -e /image/etc/nginx/nginx.conf; END']
    volumeMounts:
    - { name: disk, mountPath: /disk }
    - { name: disk, mountPath: /sub, subPath: in/NAME }
    - { name: memory, mountPath: /memory }
    - { name: host, mountPath: /host, readOnly: true }
    - { name: config, mountPath: /config }
    - { name: config, mountPath: /one, subPath: k }
    - { name: secret, mountPath: /secret }
    - { name: fields, mountPath: /fields }
    - { name: all, mountPath: /all }
    - { name: claim, mountPath: /claim }
    - { name: image, mountPath: /image }
    - { name: image, mountPath: /conf, subPath: etc/nginx/nginx.conf }
"#;

fn pods(from: usize, host: &Path) -> String {
    (from..from + BATCH).fold(String::new(), |mut all, number| {
        let end = if number % 2 == 0 { "true" } else { "exec sleep 100000" };
        let pod = POD
            .replace("NAME", &format!("p{number}"))
            .replace("HOSTDIR", &host.display().to_string())
            .replace("END", end);
        all.push_str(&pod);
        all
    })
}

/// How much of everything there is.
fn counted(platform: &Platform) -> BTreeMap<&'static str, usize> {
    let data = platform.data_dir();
    let shown = data.display().to_string();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let rules = run(platform.host.command("nft").args(["list", "ruleset"])).unwrap();
    let processes = fs::read_dir("/proc").unwrap().flatten().filter(|entry| {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(&shown)
    });
    let mut count = BTreeMap::from([
        ("mounts", mounts.lines().filter(|line| line.contains(&shown)).count()),
        ("links", platform.host.links().unwrap().len()),
        ("lines of nft rules", String::from_utf8_lossy(&rules.stdout).lines().count()),
        ("processes", processes.count()),
        ("cgroups", cgroups(Path::new("/sys/fs/cgroup"), platform.cgroup_root(), 3)),
    ]);
    for part in ["pods", "volumes", "logs", "net", "local-path"] {
        count.insert(part, entries(&data.join(part)));
    }
    count
}

/// Directories of a cgroup root, with those in it, in all trees.
fn cgroups(dir: &Path, name: &str, depth: u32) -> usize {
    let inner = fs::read_dir(dir).into_iter().flatten().flatten();
    let dirs = inner.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    dirs.map(|entry| match (entry.file_name().to_string_lossy() == name, depth) {
        (true, _) => directories(&entry.path()),
        (false, 0) => 0,
        (false, _) => cgroups(&entry.path(), name, depth - 1),
    })
    .sum()
}

fn directories(dir: &Path) -> usize {
    let inner = fs::read_dir(dir).into_iter().flatten().flatten();
    let dirs = inner.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    1 + dirs.map(|entry| directories(&entry.path())).sum::<usize>()
}

/// Everything below a directory; links are not followed.
fn entries(dir: &Path) -> usize {
    let inner = fs::read_dir(dir).into_iter().flatten().flatten();
    inner
        .map(|entry| {
            let below = entry.file_type().is_ok_and(|kind| kind.is_dir());
            1 + if below { entries(&entry.path()) } else { 0 }
        })
        .sum()
}

/// A batch of pods with every kind of volume comes and goes; half of them end,
/// half are deleted while they run.
fn come_and_go(platform: &Platform, host: &Path, from: usize) {
    let manifest = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
    fs::write(manifest.path(), pods(from, host)).unwrap();
    let path = manifest.path().to_string_lossy().into_owned();
    platform.ok(&["create", "-f", &path]).unwrap();
    wait::until("every pod to run or to have ended", LIMIT, || {
        let list = platform.ok(&["get", "pods", "--no-headers"])?;
        let there = list
            .lines()
            .filter(|line| line.contains(" Running ") || line.contains(" Completed "));
        let there = there.count();
        let failed = list.lines().find(|line| line.contains(" Error ") || line.contains(" Failed "));
        assert_eq!(failed, None, "each finds its volumes");
        Ok(if there == BATCH {
            Ok(())
        } else {
            Err(format!("{there} of {BATCH}: {list}"))
        })
    })
    .unwrap();
    platform.ok(&["delete", "-f", &path, "--wait=false"]).unwrap();
    wait::until("every pod to be gone", LIMIT, || {
        let list = platform.ok(&["get", "pods", "--no-headers"])?;
        Ok(if list.is_empty() { Ok(()) } else { Err(list) })
    })
    .unwrap();
}

#[test]
fn root_five_hundred_pods_with_every_kind_of_volume_leave_nothing() {
    let build = Build::from_env().unwrap();
    let max_pods = (BATCH + BATCH / 5).to_string();
    let mut platform = Platform::start_with("leaks", &build, &["--max-pods", &max_pods]).unwrap();
    let host = tempfile::tempdir().unwrap();
    fs::write(host.path().join("file"), "from the host\n").unwrap();
    platform.create(SOURCES).unwrap();
    // The first ones make what stays: the claim's volume, the directories of all.
    come_and_go(&platform, host.path(), 0);
    // The same at ten looks in a row, and as wanted.
    let settled = |wanted: Option<&BTreeMap<&'static str, usize>>| {
        let (mut last, mut looks) = (BTreeMap::new(), 0);
        wait::until("what pods had to be gone", LIMIT, || {
            let now = counted(&platform);
            looks = if now == last { looks + 1 } else { 0 };
            last.clone_from(&now);
            let done = looks >= 10 && wanted.is_none_or(|wanted| *wanted == now);
            Ok(if done { Ok(now) } else { Err(format!("{now:?}, not {wanted:?}")) })
        })
        .unwrap()
    };
    let before = settled(None);
    let mut report = String::new();
    let begun = Instant::now();
    for from in (BATCH..BATCH + PODS).step_by(BATCH) {
        come_and_go(&platform, host.path(), from);
        let _ = write!(report, "{from}: {:?} ", begun.elapsed());
    }
    let after = settled(Some(&before));
    eprintln!("{PODS} pods in {:?} ({report}): {after:?}", begun.elapsed());
    platform.down().unwrap();
    assert_eq!(platform.leftovers().unwrap(), Vec::<String>::new());
    // Nor does the machine keep a file system of theirs.
    let held = run(Command::new("sh").args(["-c", "cat /proc/*/mountinfo 2>/dev/null; true"])).unwrap();
    let shown = platform.data_dir().display().to_string();
    assert!(!String::from_utf8_lossy(&held.stdout).contains(&format!("{shown}/pods")));
}
