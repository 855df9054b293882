//! What a container's processes may do, asked of the kernel by real containers.

use std::time::Duration;

use e2e::Platform;
use e2e::platform::Build;

const LIMIT: Duration = Duration::from_secs(60);

/// One Pod per profile; each prints whether its calls are filtered, and whether
/// it gets a user namespace, which `RuntimeDefault` keeps from it.
const PROFILES: &str = r#"
apiVersion: v1
kind: Pod
metadata: { name: silent }
spec:
  restartPolicy: Never
  containers:
  - name: main
    image: busybox:1.30
    command: [sh, -c, "grep -E '^(CapEff|Seccomp):' /proc/self/status; unshare -U true 2> /dev/null && echo made || echo refused"]
---
apiVersion: v1
kind: Pod
metadata: { name: open }
spec:
  restartPolicy: Never
  securityContext: { seccompProfile: { type: Unconfined } }
  containers:
  - name: main
    image: busybox:1.30
    command: [sh, -c, "grep -E '^(CapEff|Seccomp):' /proc/self/status; unshare -U true 2> /dev/null && echo made || echo refused"]
---
apiVersion: v1
kind: Pod
metadata: { name: own }
spec:
  restartPolicy: Never
  securityContext: { seccompProfile: { type: Unconfined } }
  containers:
  - name: main
    image: busybox:1.30
    command: [sh, -c, "mkdir /x 2>&1; echo done"]
    securityContext: { seccompProfile: { type: Localhost, localhostProfile: dirs/none.json } }
"#;

fn fields(text: &str) -> Vec<String> {
    text.lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect()
}

/// Fields: spec.securityContext.seccompProfile spec.securityContext.seccompProfile.type spec.containers[].securityContext.seccompProfile.*
#[test]
fn root_system_calls_are_filtered_by_the_profile() {
    let build = Build::from_env().unwrap();
    let platform = Platform::start("seccomp", &build).unwrap();
    let profiles = platform.data_dir().join("seccomp/dirs");
    platform.create(PROFILES).unwrap();
    for pod in ["silent", "open"] {
        platform.wait_status("default", pod, "Completed", LIMIT).unwrap();
    }
    let logs = |pod: &str| fields(&platform.ok(&["logs", pod]).unwrap());
    let silent = logs("silent");
    assert_eq!(silent[..2], ["CapEff: 00000000a80425fb", "Seccomp: 2"]);
    assert_eq!(silent.last().unwrap(), "refused");
    assert_eq!(logs("open"), ["CapEff: 00000000a80425fb", "Seccomp: 0", "made"]);

    // The profile is not there yet; it heals when it comes.
    platform.wait_status("default", "own", "CreateContainerError", LIMIT).unwrap();
    let path = "jsonpath={.status.containerStatuses[0].state.waiting.message}";
    let message = platform.ok(&["get", "pod", "own", "-o", path]).unwrap();
    assert!(
        message.starts_with("cannot load seccomp profile") && message.contains("dirs/none.json"),
        "{message}"
    );
    std::fs::create_dir_all(&profiles).unwrap();
    let text =
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]}"#;
    std::fs::write(profiles.join("none.json"), text).unwrap();
    platform.wait_status("default", "own", "Completed", LIMIT).unwrap();
    assert_eq!(logs("own"), ["mkdir: can't create directory '/x': No space left on device", "done"]);
}

/// A Burstable Pod with everything else of a Pod's own that the kernel can be
/// asked about, and one whose parameter no Pod may set.
const KERNEL: &str = r#"
apiVersion: v1
kind: Pod
metadata: { name: bounded }
spec:
  restartPolicy: Never
  securityContext:
    runAsUser: 1000
    supplementalGroups: [2000]
    supplementalGroupsPolicy: Strict
    sysctls: [{ name: net.ipv4.ip_local_port_range, value: "40000 50000" }]
  containers:
  - name: main
    image: busybox:1.30
    command: [sh, -c, "cat /proc/sys/net/ipv4/ip_local_port_range /proc/self/oom_score_adj; id -G"]
    resources: { requests: { memory: 1Mi }, limits: { cpu: 500m, memory: 64Mi } }
---
apiVersion: v1
kind: Pod
metadata: { name: forbidden }
spec:
  securityContext: { sysctls: [{ name: kernel.msgmax, value: "1" }] }
  containers: [{ name: main, image: "busybox:1.30", command: [sleep, "1000"] }]
"#;

/// Fields: spec.securityContext spec.securityContext.runAsUser spec.securityContext.supplementalGroups spec.securityContext.supplementalGroupsPolicy spec.securityContext.sysctls.*
/// Fields: status.reason status.message
#[test]
fn root_the_kernel_holds_a_pod_to_what_it_asked_for() {
    let build = Build::from_env().unwrap();
    let platform = Platform::start("kernel", &build).unwrap();
    // The node says that it can tell the policies of groups apart.
    let features = platform
        .ok(&["get", "nodes", "-o", "jsonpath={.items[0].status.features}"])
        .unwrap();
    assert_eq!(features, r#"{"supplementalGroupsPolicy":true}"#);
    platform.create(KERNEL).unwrap();
    platform.wait_status("default", "bounded", "Completed", LIMIT).unwrap();
    let logs = platform.ok(&["logs", "bounded"]).unwrap();
    let lines: Vec<&str> = logs.lines().collect();
    assert_eq!(lines[0], "40000\t50000");
    let score: i32 = lines[1].parse().unwrap();
    assert!((3..=999).contains(&score), "a Burstable container's: {score}");
    assert_eq!(lines[2], "0 2000");

    platform.wait_status("default", "forbidden", "SysctlForbidden", LIMIT).unwrap();
    let message = platform
        .ok(&["get", "pod", "forbidden", "-o", "jsonpath={.status.phase}: {.status.message}"])
        .unwrap();
    assert_eq!(
        message,
        "Failed: Pod was rejected: forbidden sysctl: \"kernel.msgmax\" not allowlisted"
    );
}
