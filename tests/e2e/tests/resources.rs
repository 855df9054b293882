//! What a pod may use of its node, read back from the kernel.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use e2e::Platform;
use e2e::platform::Build;
use e2e::wait;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(60);

/// Where a controller's groups are on this host, below the root of a platform.
fn tree(platform: &Platform, controller: &str) -> PathBuf {
    let v1 = Path::new("/sys/fs/cgroup").join(controller);
    let mount = if v1.is_dir() { v1 } else { PathBuf::from("/sys/fs/cgroup") };
    mount.join(platform.cgroup_root())
}

fn is_v1() -> bool {
    Path::new("/sys/fs/cgroup/memory").is_dir()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).map_or_else(|error| format!("{}: {error}", path.display()), |text| text.trim().to_owned())
}

/// The CPU weight of a group, in the words of version 1.
fn shares(group: &Path) -> String {
    if is_v1() {
        return read(&group.join("cpu.shares"));
    }
    let weight: u64 = read(&group.join("cpu.weight")).parse().unwrap_or(0);
    (2 + (weight.max(1) - 1) * 262_142 / 9999).to_string()
}

fn memory_limit(group: &Path) -> String {
    read(&group.join(if is_v1() { "memory.limit_in_bytes" } else { "memory.max" }))
}

fn uid(pod: &Value) -> String {
    format!("pod{}", pod["metadata"]["uid"].as_str().unwrap())
}

/// A pod that forks without end hurts itself alone, and a neighbour can still
/// be entered.
#[test]
fn root_a_pod_has_no_more_processes_than_it_may() {
    let build = Build::from_env().unwrap();
    let platform = Platform::start_with("pids", &build, &["--pod-max-pids", "20"]).unwrap();
    platform
        .create(
            r#"
apiVersion: v1
kind: Pod
metadata: { name: forker }
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: busybox:1.30
    command: [sh, -c, "for i in $(seq 40); do sleep 1000 & done; echo all"]
  - { name: beside, image: "busybox:1.30", command: [sleep, "1000"] }
---
apiVersion: v1
kind: Pod
metadata: { name: neighbour }
spec:
  terminationGracePeriodSeconds: 0
  containers: [{ name: c, image: "busybox:1.30", command: [sleep, "1000"] }]
"#,
        )
        .unwrap();
    let pod = platform
        .wait_pod("default", "forker", "its shell to end", LIMIT, |pod| {
            let main = pod["status"]["containerStatuses"]
                .as_array()?
                .iter()
                .find(|c| c["name"] == "main")?;
            (main["state"]["terminated"]["exitCode"] == 2).then(|| pod.clone())
        })
        .unwrap();
    let logs = platform.ok(&["logs", "forker", "-c", "main"]).unwrap();
    assert!(logs.contains("can't fork") && !logs.contains("all"), "{logs}");
    let group = tree(&platform, "pids").join("besteffort").join(uid(&pod));
    assert_eq!(read(&group.join("pids.max")), "20");
    platform.wait_status("default", "neighbour", "Running", LIMIT).unwrap();
    assert_eq!(platform.ok(&["exec", "neighbour", "--", "echo", "here"]).unwrap().trim(), "here");
}

const CLASSES: &str = r#"
apiVersion: v1
kind: Pod
metadata: { name: guaranteed }
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - { name: a, image: "busybox:1.30", command: [sleep, "1000"], resources: { limits: { cpu: 100m, memory: 32Mi } } }
  - { name: b, image: "busybox:1.30", command: [sleep, "1000"], resources: { limits: { cpu: 50m, memory: 16Mi } } }
---
apiVersion: v1
kind: Pod
metadata: { name: burstable }
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - { name: a, image: "busybox:1.30", command: [sleep, "1000"], resources: { requests: { cpu: 250m }, limits: { memory: 64Mi } } }
---
apiVersion: v1
kind: Pod
metadata: { name: besteffort }
spec:
  terminationGracePeriodSeconds: 0
  containers: [{ name: a, image: "busybox:1.30", command: [sleep, "1000"] }]
"#;

/// Fields: spec.containers[].resources spec.containers[].resources.requests spec.containers[].resources.limits status.qosClass
#[test]
fn root_pods_are_grouped_and_weighed_by_quality_of_service() {
    let build = Build::from_env().unwrap();
    let mut platform = Platform::start("qos", &build).unwrap();
    platform.create(CLASSES).unwrap();
    let [guaranteed, burstable, besteffort] = ["guaranteed", "burstable", "besteffort"].map(|name| {
        platform.wait_status("default", name, "Running", LIMIT).unwrap();
        platform.get("default", "pod", name).unwrap().unwrap()
    });
    let (cpu, memory) = (tree(&platform, "cpu"), tree(&platform, "memory"));
    // 150m, 250m and nothing, of 1024 shares each CPU.
    assert_eq!(shares(&cpu.join(uid(&guaranteed))), "153");
    assert_eq!(memory_limit(&memory.join(uid(&guaranteed))), (48 << 20).to_string());
    if is_v1() {
        assert_eq!(read(&cpu.join(uid(&guaranteed)).join("cpu.cfs_quota_us")), "15000");
        assert_eq!(read(&cpu.join("burstable").join(uid(&burstable)).join("cpu.cfs_quota_us")), "-1");
    }
    assert_eq!(
        memory_limit(&memory.join("burstable").join(uid(&burstable))),
        (64 << 20).to_string()
    );
    assert_eq!(shares(&cpu.join("besteffort").join(uid(&besteffort))), "2");
    assert_eq!(shares(&cpu.join("besteffort")), "2");
    let weighs = |expected: &str| {
        wait::until(&format!("the burstable pods to weigh {expected}"), LIMIT, || {
            let now = shares(&cpu.join("burstable"));
            Ok(if now == expected { Ok(()) } else { Err(now) })
        })
        .unwrap();
    };
    weighs("256");
    // A killed Lifepod changes nothing, and the next one knows where they are.
    platform.kill().unwrap();
    platform.up().unwrap();
    for name in ["guaranteed", "burstable", "besteffort"] {
        assert_eq!(platform.ok(&["exec", name, "-c", "a", "--", "echo", name]).unwrap().trim(), name);
    }
    platform.ok(&["delete", "pod", "--all", "--timeout=30s"]).unwrap();
    weighs("2");
    for (parent, pod) in [("", &guaranteed), ("burstable", &burstable), ("besteffort", &besteffort)] {
        let group = memory.join(parent).join(uid(pod));
        wait::until("the pod's groups to go", LIMIT, || {
            Ok(if group.exists() { Err(group.display().to_string()) } else { Ok(()) })
        })
        .unwrap();
    }
    platform.down().unwrap();
    assert_eq!(platform.leftovers().unwrap(), Vec::<String>::new());
}
