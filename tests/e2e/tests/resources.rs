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

fn container_group(platform: &Platform, controller: &str, pod: &Value, parent: &str) -> PathBuf {
    let id = pod["status"]["containerStatuses"][0]["containerID"].as_str().unwrap();
    let id = id.strip_prefix("lifepod://").unwrap();
    tree(platform, controller).join(parent).join(uid(pod)).join(id)
}

fn events(platform: &Platform, pod: &str, reason: &str) -> Vec<Value> {
    let selector = format!("involvedObject.name={pod},reason={reason}");
    let list = platform
        .ok(&["get", "events", "--field-selector", &selector, "-o", "json"])
        .unwrap();
    let list: Value = serde_json::from_str(&list).unwrap();
    list["items"].as_array().cloned().unwrap_or_default()
}

/// The kernel kills a child: that is told, and the container is not said to
/// have died of it, neither then nor when it dies of something else.
///
/// Fields: spec.containers[].resources.limits status.containerStatuses[].lastState.terminated.reason
#[test]
fn root_a_killed_child_is_told_and_not_taken_for_its_container() {
    if !is_v1() {
        return; // version 2 kills whole containers, as upstream's kubelet sets it
    }
    let build = Build::from_env().unwrap();
    let mut platform = Platform::start("oomchild", &build).unwrap();
    platform
        .create(
            r#"
apiVersion: v1
kind: Pod
metadata: { name: parent }
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: busybox:1.30
    command: [sh, -c, "tail /dev/zero; echo survived $?; while true; do sleep 1; done"]
    resources: { limits: { memory: 32Mi } }
"#,
        )
        .unwrap();
    wait::until("the child's death to be told", LIMIT, || {
        let told = events(&platform, "parent", "OOMKilling");
        Ok(if told.len() == 1 {
            Ok(())
        } else {
            Err(format!("{} events", told.len()))
        })
    })
    .unwrap();
    let told = &events(&platform, "parent", "OOMKilling")[0];
    assert_eq!(
        told["message"],
        "Memory cgroup out of memory: Killed 1 process of container c, and not its first"
    );
    assert_eq!(
        (&told["type"], &told["involvedObject"]["fieldPath"]),
        (&"Warning".into(), &"spec.containers{c}".into())
    );
    let logs = platform.ok(&["logs", "parent"]).unwrap();
    assert!(logs.contains("survived 137"), "{logs}");
    let pod = platform.get("default", "pod", "parent").unwrap().unwrap();
    let status = &pod["status"]["containerStatuses"][0];
    assert!(status["state"]["running"].is_object() && status["restartCount"] == 0, "{status}");

    platform.kill().unwrap();
    platform.up().unwrap();
    // Somebody else kills its first process.
    let procs = read(&container_group(&platform, "memory", &pod, "burstable").join("cgroup.procs"));
    let first = procs.lines().next().unwrap();
    assert!(std::process::Command::new("kill").args(["-9", first]).status().unwrap().success());
    let last = platform
        .wait_pod("default", "parent", "the restart", LIMIT, |pod| {
            let status = &pod["status"]["containerStatuses"][0];
            (status["restartCount"] == 1).then(|| status["lastState"]["terminated"].clone())
        })
        .unwrap();
    assert_eq!((&last["reason"], &last["exitCode"]), (&"Error".into(), &137.into()));
    // The second child is told of in its turn; the first was not told again.
    wait::until("the second child's death to be told", LIMIT, || {
        let told = events(&platform, "parent", "OOMKilling");
        let count: i64 = told.iter().map(|event| event["count"].as_i64().unwrap_or(1)).sum();
        Ok(if count == 2 { Ok(()) } else { Err(format!("{count} times")) })
    })
    .unwrap();
}

const RESIZABLE: &str = r#"
apiVersion: v1
kind: Pod
metadata: { name: sized }
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: busybox:1.30
    command: [sh, -c, "trap 'exit 0' TERM; while true; do sleep 0.1; done"]
    resizePolicy:
    - { resourceName: cpu, restartPolicy: NotRequired }
    - { resourceName: memory, restartPolicy: RestartContainer }
    resources: { requests: { cpu: 100m, memory: 32Mi }, limits: { cpu: 200m, memory: 64Mi } }
"#;

fn resize(platform: &Platform, pod: &str, resources: &str) -> std::process::Output {
    let patch = format!(r#"{{"spec":{{"containers":[{{"name":"c","resources":{resources}}}]}}}}"#);
    platform
        .kubectl(&["patch", "pod", pod, "--subresource", "resize", "-p", &patch])
        .unwrap()
}

fn resized(platform: &Platform, pod: &str, resources: &str) {
    let output = resize(platform, pod, resources);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn condition<'p>(pod: &'p Value, kind: &str) -> Option<&'p Value> {
    pod["status"]["conditions"]
        .as_array()?
        .iter()
        .find(|condition| condition["type"] == kind)
}

/// What the kernel lets the pod's container have: shares, quota and memory; of
/// the pod as a whole, quota and memory.
fn in_force(platform: &Platform, pod: &Value) -> [String; 5] {
    let cpu = container_group(platform, "cpu", pod, "burstable");
    let memory = container_group(platform, "memory", pod, "burstable");
    let quota = |group: &Path| {
        if is_v1() {
            return read(&group.join("cpu.cfs_quota_us"));
        }
        read(&group.join("cpu.max")).split(' ').next().unwrap_or_default().to_owned()
    };
    [
        shares(&cpu),
        quota(&cpu),
        memory_limit(&memory),
        quota(cpu.parent().unwrap()),
        memory_limit(memory.parent().unwrap()),
    ]
}

fn has_in_force(platform: &Platform, pod: &str, expected: [&str; 5]) -> Value {
    platform
        .wait_pod("default", pod, "the new resources to be in force", LIMIT, |seen| {
            let told = &seen["status"]["containerStatuses"][0];
            let settled = told["state"]["running"].is_object()
                && told["resources"] == seen["spec"]["containers"][0]["resources"]
                && condition(seen, "PodResizeInProgress").is_none();
            (settled && in_force(platform, seen) == expected).then(|| seen.clone())
        })
        .unwrap()
}

/// Fields: spec.containers[].resources spec.containers[].resources.requests spec.containers[].resources.limits spec.containers[].resizePolicy spec.containers[].resizePolicy[].resourceName spec.containers[].resizePolicy[].restartPolicy status.containerStatuses[].resources status.containerStatuses[].resources.limits status.containerStatuses[].resources.requests status.containerStatuses[].allocatedResources
#[test]
fn root_a_running_container_is_given_other_resources() {
    let build = Build::from_env().unwrap();
    let mut platform = Platform::start("resize", &build).unwrap();
    platform.create(RESIZABLE).unwrap();
    platform.wait_status("default", "sized", "Running", LIMIT).unwrap();
    let (small, big) = ((64 << 20).to_string(), (96 << 20).to_string());
    let before = has_in_force(&platform, "sized", ["102", "20000", &small, "20000", &small]);
    let container = |pod: &Value| pod["status"]["containerStatuses"][0].clone();
    assert_eq!(container(&before)["allocatedResources"]["cpu"], "100m");

    // CPU changes while it runs.
    resized(&platform, "sized", r#"{"requests":{"cpu":"300m"},"limits":{"cpu":"400m"}}"#);
    let after = has_in_force(&platform, "sized", ["307", "40000", &small, "40000", &small]);
    assert_eq!(container(&after)["containerID"], container(&before)["containerID"]);
    assert_eq!(container(&after)["allocatedResources"]["cpu"], "300m");
    assert_eq!(after["metadata"]["generation"], 2);

    // Memory takes a restart here; the next agent sees nothing left to do.
    resized(&platform, "sized", r#"{"limits":{"memory":"96Mi"}}"#);
    let after = has_in_force(&platform, "sized", ["307", "40000", &big, "40000", &big]);
    assert_ne!(container(&after)["containerID"], container(&before)["containerID"]);
    assert_eq!(container(&after)["restartCount"], 1);
    let killing = events(&platform, "sized", "Killing");
    assert_eq!(killing[0]["message"], "Container c resize requires restart");

    // Asked for while no agent runs, and while one dies of it.
    resized(&platform, "sized", r#"{"requests":{"cpu":"200m"},"limits":{"cpu":"250m"}}"#);
    platform.kill().unwrap();
    platform.up().unwrap();
    let last = has_in_force(&platform, "sized", ["204", "25000", &big, "25000", &big]);
    assert_eq!(container(&last)["containerID"], container(&after)["containerID"]);
}

/// What does not fit waits, and what never can says so.
///
/// Fields: status.conditions[].reason status.conditions[].message
#[test]
fn root_resources_that_are_not_there_are_waited_for() {
    let build = Build::from_env().unwrap();
    let mut platform = Platform::start("deferred", &build).unwrap();
    let node: Value = serde_json::from_str(&platform.ok(&["get", "node", "node1", "-o", "json"]).unwrap()).unwrap();
    let cpus: i64 = node["status"]["allocatable"]["cpu"].as_str().unwrap().parse().unwrap();
    platform.create(&RESIZABLE.replace("cpu: 200m, ", "")).unwrap();
    let most = format!("{}m", cpus * 1000 - 200);
    let other = RESIZABLE
        .replace("name: sized", "name: other")
        .replace("cpu: 100m", &format!("cpu: {most}"))
        .replace("cpu: 200m, ", "");
    platform.create(&other).unwrap();
    for pod in ["sized", "other"] {
        platform.wait_status("default", pod, "Running", LIMIT).unwrap();
    }
    let pending = |reason: &str| {
        platform
            .wait_pod("default", "sized", reason, LIMIT, |pod| {
                let condition = condition(pod, "PodResizePending")?;
                (condition["reason"] == reason).then(|| condition["message"].as_str().unwrap_or_default().to_owned())
            })
            .unwrap()
    };
    resized(&platform, "sized", &format!(r#"{{"requests":{{"cpu":"{}"}}}}"#, cpus + 1));
    assert_eq!(
        pending("Infeasible"),
        format!(
            "Node didn't have enough capacity: cpu, requested: {}, capacity: {}",
            (cpus + 1) * 1000,
            cpus * 1000
        )
    );
    resized(&platform, "sized", r#"{"requests":{"cpu":"400m"}}"#);
    assert_eq!(
        pending("Deferred"),
        format!(
            "Node didn't have enough resource: cpu, requested: 400, used: {}, capacity: {}",
            cpus * 1000 - 200,
            cpus * 1000
        )
    );
    let pod = platform.get("default", "pod", "sized").unwrap().unwrap();
    assert_eq!(pod["status"]["containerStatuses"][0]["allocatedResources"]["cpu"], "100m");
    assert_eq!(in_force(&platform, &pod)[0], "102");
    // Forgotten by nobody, and granted as soon as there is room.
    platform.kill().unwrap();
    platform.up().unwrap();
    platform.ok(&["delete", "pod", "other", "--timeout=30s"]).unwrap();
    let (quota, memory) = ("-1", (64 << 20).to_string());
    let quota = if is_v1() { quota } else { "max" };
    let pod = has_in_force(&platform, "sized", ["409", quota, &memory, quota, &memory]);
    assert!(condition(&pod, "PodResizePending").is_none(), "{pod}");
    assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0);

    // And what may not change is refused.
    let refused = |resources: &str, words: &str| {
        let output = resize(&platform, "sized", resources);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(words), "{said}");
    };
    refused(
        r#"{"limits":{"cpu":"400m","memory":"32Mi"}}"#,
        "Pod QOS Class may not change as a result of resizing",
    );
    refused(
        r#"{"requests":{"cpu":null}}"#,
        "spec.containers[0].resources.requests: Forbidden: resource requests cannot be removed",
    );
}

/// Huge pages are counted like everything else, and may be had where the
/// machine has some.
///
/// Fields: spec.containers[].resources.limits spec.containers[].resources.requests
#[test]
fn root_huge_pages_that_are_not_there_are_not_given() {
    let build = Build::from_env().unwrap();
    let platform = Platform::start("huge", &build).unwrap();
    let node: Value = serde_json::from_str(&platform.ok(&["get", "node", "node1", "-o", "json"]).unwrap()).unwrap();
    for size in fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten() {
        let kib = size.file_name().to_string_lossy().replace("hugepages-", "").replace("kB", "");
        let name = match kib.parse::<u64>().unwrap() {
            kib if kib >= 1 << 20 => format!("hugepages-{}Gi", kib >> 20),
            kib if kib >= 1 << 10 => format!("hugepages-{}Mi", kib >> 10),
            kib => format!("hugepages-{kib}Ki"),
        };
        assert!(
            node["status"]["capacity"][&name].is_string(),
            "{name} of {}",
            node["status"]["capacity"]
        );
    }
    let pod = |name: &str, resources: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  containers: [{{name: c, image: 'busybox:1.30', resources: {resources}}}]\n"
        )
    };
    platform
        .create(&pod("much", "{limits: {hugepages-2Mi: 900Ti, memory: 16Mi}}"))
        .unwrap();
    platform
        .wait_pod("default", "much", "the scheduler's verdict", LIMIT, |pod| {
            let message = pod["status"]["conditions"][0]["message"].as_str()?;
            message.contains("1 Insufficient hugepages-2Mi").then_some(())
        })
        .unwrap();
    let refused = platform
        .create(&pod("alone", "{limits: {hugepages-2Mi: 2Mi}}"))
        .unwrap_err()
        .to_string();
    assert!(refused.contains("HugePages require cpu or memory"), "{refused}");
    let refused = platform
        .create(&pod(
            "unequal",
            "{requests: {hugepages-2Mi: 2Mi}, limits: {hugepages-2Mi: 4Mi, memory: 16Mi}}",
        ))
        .unwrap_err()
        .to_string();
    assert!(refused.contains("must be equal to hugepages-2Mi limit of 4Mi"), "{refused}");
}
