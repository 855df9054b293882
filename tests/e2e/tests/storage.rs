//! What pods may keep on the node's own disk.

use std::time::Duration;

use e2e::Platform;
use e2e::platform::Build;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(90);

const PODS: &str = r#"
apiVersion: v1
kind: Pod
metadata: { name: writer }
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: busybox:1.30
    command: [sh, -c, "dd if=/dev/zero of=/big bs=1M count=8; sleep 1000"]
    resources: { limits: { ephemeral-storage: 4Mi } }
  - name: d
    image: busybox:1.30
    command: [sleep, "1000"]
    resources: { limits: { ephemeral-storage: 64Mi } }
---
apiVersion: v1
kind: Pod
metadata: { name: filler }
spec:
  terminationGracePeriodSeconds: 0
  volumes: [{ name: v, emptyDir: {} }]
  containers:
  - name: c
    image: busybox:1.30
    command: [sh, -c, "dd if=/dev/zero of=/v/big bs=1M count=8; sleep 1000"]
    volumeMounts: [{ name: v, mountPath: /v }]
    resources: { limits: { ephemeral-storage: 4Mi } }
---
apiVersion: v1
kind: Pod
metadata: { name: begins }
spec:
  terminationGracePeriodSeconds: 0
  initContainers:
  - name: i
    image: busybox:1.30
    command: [sh, -c, "dd if=/dev/zero of=/big bs=1M count=8; sleep 1000"]
    resources: { limits: { ephemeral-storage: 4Mi } }
  containers:
  - { name: c, image: "busybox:1.30", command: [sleep, "1000"] }
---
apiVersion: v1
kind: Pod
metadata: { name: modest }
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: busybox:1.30
    command: [sh, -c, "dd if=/dev/zero of=/big bs=1M count=8; sleep 1000"]
    resources: { requests: { ephemeral-storage: 16Mi }, limits: { ephemeral-storage: 32Mi } }
---
apiVersion: v1
kind: Pod
metadata: { name: greedy }
spec:
  containers:
  - { name: c, image: "busybox:1.30", resources: { requests: { ephemeral-storage: 900Ti } } }
"#;

/// Fields: spec.containers[].resources spec.containers[].resources.limits spec.containers[].resources.requests status.message status.reason
#[test]
fn root_what_is_kept_on_disk_is_counted_and_limited() {
    let build = Build::from_env().unwrap();
    let platform = Platform::start("storage", &build).unwrap();
    platform.create(PODS).unwrap();
    let evicted = |name: &str| -> String {
        platform
            .wait_pod("default", name, "its eviction", LIMIT, |pod| {
                let status = &pod["status"];
                (status["reason"] == "Evicted").then(|| status["message"].as_str().unwrap_or_default().to_owned())
            })
            .unwrap()
    };
    assert_eq!(
        evicted("writer"),
        "Container c exceeded its local ephemeral storage limit \"4Mi\". "
    );
    assert_eq!(
        evicted("filler"),
        "Pod ephemeral local storage usage exceeds the total limit of containers 4Mi. "
    );
    // So is what is written before the containers are begun, where nothing else
    // is limited.
    assert_eq!(
        evicted("begins"),
        "Pod ephemeral local storage usage exceeds the total limit of containers 4Mi. "
    );
    platform
        .wait_pod("default", "greedy", "the scheduler's verdict", LIMIT, |pod| {
            let message = pod["status"]["conditions"][0]["message"].as_str()?;
            message.contains("1 Insufficient ephemeral-storage").then_some(())
        })
        .unwrap();
    // What it keeps is told, and is no more than it may be.
    let summary = platform.ok(&["get", "--raw", "/api/v1/nodes/node1/proxy/stats/summary"]).unwrap();
    let summary: Value = serde_json::from_str(&summary).unwrap();
    let pods = summary["pods"].as_array().unwrap();
    let modest = pods.iter().find(|pod| pod["podRef"]["name"] == "modest").unwrap();
    let used = |part: &Value| part["usedBytes"].as_u64().unwrap();
    let (rootfs, whole) = (used(&modest["containers"][0]["rootfs"]), used(&modest["ephemeral-storage"]));
    assert!((8 << 20..9 << 20).contains(&rootfs) && whole >= rootfs, "{modest}");
    platform.wait_status("default", "modest", "Running", LIMIT).unwrap();
}
