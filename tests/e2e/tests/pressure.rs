//! A node that runs short of memory or disk, for real: a cgroup with a limit,
//! a small file system.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use e2e::Platform;
use e2e::host::run;
use e2e::platform::Build;
use e2e::wait;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(90);

fn pod(name: &str, more: &str, script: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 1\n{more}  containers:\n  - name: c\n    image: busybox:1.30\n    command: ['sh', '-c', '{script}']\n"
    )
}

fn condition(object: &Value, kind: &str) -> Value {
    let list = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    list.into_iter().find(|condition| condition["type"] == kind).unwrap_or_default()
}

fn wait_node(platform: &Platform, kind: &str, status: &str) -> Value {
    wait::until(&format!("{kind}={status} of the node"), LIMIT, || {
        let node = platform.get("default", "node", "node1")?.unwrap_or_default();
        let found = condition(&node, kind);
        Ok(if found["status"] == status {
            Ok(found)
        } else {
            Err(found.to_string())
        })
    })
    .unwrap()
}

fn wait_evicted(platform: &Platform, name: &str) -> Value {
    let evicted =
        |pod: &Value| (pod["status"]["reason"] == "Evicted" && condition(pod, "DisruptionTarget")["status"] == "True").then(|| pod.clone());
    platform.wait_pod("default", name, "eviction", LIMIT, evicted).unwrap()
}

/// Limits the cgroup that all pods will be in, as an administrator would.
fn limit_memory(root: &str, bytes: u64) {
    let v1 = Path::new("/sys/fs/cgroup/memory");
    let (dir, file) = if v1.exists() {
        (v1.join(root), "memory.limit_in_bytes")
    } else {
        fs::write("/sys/fs/cgroup/cgroup.subtree_control", "+memory").unwrap();
        (Path::new("/sys/fs/cgroup").join(root), "memory.max")
    };
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join(file), bytes.to_string()).unwrap();
}

/// Imports the images and starts the platform.
fn start(platform: &mut Platform, build: &Build) {
    run(platform.lifepod(&["images", "import"]).arg(build.images.join("busybox-1.30.tar"))).unwrap();
    platform.up().unwrap();
}

#[test]
fn root_a_node_short_of_memory_evicts_who_uses_most_above_its_request() {
    let build = Build::from_env().unwrap();
    let flags = [
        "--eviction-hard=memory.available<100Mi",
        "--eviction-pressure-transition-period=12s",
    ];
    let mut platform = Platform::prepared("memory", &build, &flags).unwrap();
    limit_memory(platform.cgroup_root(), 256 << 20);
    start(&mut platform, &build);
    let node = platform.get("default", "node", "node1").unwrap().unwrap();
    assert_eq!(
        (&node["status"]["capacity"]["memory"], &node["status"]["allocatable"]["memory"]),
        (&"256Mi".into(), &"156Mi".into())
    );
    let modest = pod("modest", "", "sleep 1000") + "    resources: {requests: {memory: 100Mi}}\n";
    platform.create(&modest).unwrap();
    platform.wait_status("default", "modest", "Running", LIMIT).unwrap();
    platform
        .create(&pod("hog", "", "(head -c 190000000 /dev/zero; sleep 1000) | tail"))
        .unwrap();
    let hog = wait_evicted(&platform, "hog");
    assert_eq!(hog["status"]["phase"], "Failed");
    let message = hog["status"]["message"].as_str().unwrap();
    assert!(
        message.starts_with("The node was low on resource: memory. Threshold quantity: 100Mi, available: "),
        "{message}"
    );
    assert!(
        message.contains("Container c was using ") && message.ends_with(", request is 0, has larger consumption of memory. "),
        "{message}"
    );
    let target = condition(&hog, "DisruptionTarget");
    assert_eq!(
        (&target["reason"], target["message"].as_str()),
        (&"TerminationByKubelet".into(), Some(message))
    );
    platform.wait_status("default", "hog", "Evicted", LIMIT).unwrap();
    let pressure = wait_node(&platform, "MemoryPressure", "True");
    assert_eq!(
        (&pressure["reason"], &pressure["message"]),
        (
            &"KubeletHasInsufficientMemory".into(),
            &"kubelet has insufficient memory available".into()
        )
    );

    // Meanwhile the node refuses who asks for nothing in particular.
    platform.create(&pod("late", "  nodeName: node1\n", "sleep 1000")).unwrap();
    let late = platform
        .wait_pod("default", "late", "a refusal", LIMIT, |pod| {
            (pod["status"]["phase"] == "Failed").then(|| pod.clone())
        })
        .unwrap();
    assert_eq!(
        (&late["status"]["reason"], &late["status"]["message"]),
        (
            &"Evicted".into(),
            &"Pod was rejected: The node had condition: [MemoryPressure]. ".into()
        )
    );
    wait_node(&platform, "MemoryPressure", "False");
    let modest = platform.get("default", "pod", "modest").unwrap().unwrap();
    assert_eq!(
        (
            &modest["status"]["phase"],
            &modest["status"]["containerStatuses"][0]["restartCount"]
        ),
        (&"Running".into(), &0.into())
    );
    let events = platform
        .ok(&[
            "get",
            "events",
            "-o",
            "jsonpath={range .items[*]}{.involvedObject.kind} {.type} {.reason}|{.message}{\"\\n\"}{end}",
        ])
        .unwrap();
    for line in [
        "Node Warning EvictionThresholdMet|Attempting to reclaim memory",
        "Node Normal NodeHasInsufficientMemory|Node node1 status is now: NodeHasInsufficientMemory",
        "Node Normal NodeHasSufficientMemory|Node node1 status is now: NodeHasSufficientMemory",
        "Pod Warning Evicted|The node was low on resource: memory. ",
    ] {
        assert!(events.contains(line), "{line}\n{events}");
    }
    platform.down().unwrap();
    assert_eq!(platform.leftovers().unwrap(), Vec::<String>::new());
}

/// A small file system, gone with the test.
struct Small(PathBuf);

impl Drop for Small {
    fn drop(&mut self) {
        let _ = run(Command::new("umount").arg(&self.0));
        if let Some(parent) = self.0.parent() {
            let _ = fs::remove_dir_all(parent);
        }
    }
}

#[test]
fn root_a_node_short_of_disk_evicts_who_wrote_most() {
    let build = Build::from_env().unwrap();
    let flags = ["--eviction-hard=nodefs.available<60Mi", "--eviction-pressure-transition-period=1s"];
    let prepared = Platform::prepared("disk", &build, &flags).unwrap();
    let data = prepared.data_dir();
    fs::create_dir_all(&data).unwrap();
    run(Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=200m,mode=700", "tmpfs"])
        .arg(&data))
    .unwrap();
    let _small = Small(data);
    let mut platform = prepared;
    start(&mut platform, &build);
    platform.create(&pod("reader", "", "sleep 1000")).unwrap();
    platform
        .create(&pod("writer", "", "dd if=/dev/zero of=/big bs=1M count=160; sleep 1000"))
        .unwrap();
    let writer = wait_evicted(&platform, "writer");
    let message = writer["status"]["message"].as_str().unwrap();
    assert!(
        message.starts_with("The node was low on resource: ephemeral-storage. Threshold quantity: 60Mi, available: "),
        "{message}"
    );
    assert!(message.contains("Container c was using 1"), "{message}");
    assert_eq!(wait_node(&platform, "DiskPressure", "True")["reason"], "KubeletHasDiskPressure");
    // What it wrote is removed, though its object stays.
    wait_node(&platform, "DiskPressure", "False");
    let reader = platform.get("default", "pod", "reader").unwrap().unwrap();
    assert_eq!(reader["status"]["phase"], "Running");
    assert!(platform.get("default", "pod", "writer").unwrap().is_some());
}
