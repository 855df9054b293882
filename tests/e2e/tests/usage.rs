//! What is told of the use of a node, held against the kernel's own figures;
//! and what a runtime class costs.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use e2e::Platform;
use e2e::host::run;
use e2e::platform::Build;
use e2e::wait;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(90);
const MIB: u64 = 1 << 20;

fn is_v1() -> bool {
    Path::new("/sys/fs/cgroup/memory").is_dir()
}

/// The group of a pod of that class, in the tree of a controller.
fn group(platform: &Platform, controller: &str, class: &str, pod: &Value) -> PathBuf {
    let tree = Path::new("/sys/fs/cgroup").join(if is_v1() { controller } else { "" });
    let uid = pod["metadata"]["uid"].as_str().unwrap();
    tree.join(platform.cgroup_root()).join(class).join(format!("pod{uid}"))
}

fn number(file: &Path) -> u64 {
    let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    text.trim().parse().unwrap_or_else(|_| panic!("{}: {text}", file.display()))
}

fn field(file: &Path, name: &str) -> u64 {
    let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|number| number.trim().parse().ok())
        .unwrap_or_else(|| panic!("no {name} in {text}"))
}

/// What the kernel says of a group, under the names of `/stats/summary`.
fn kernels(cpu: &Path, memory: &Path) -> Vec<(&'static str, u64)> {
    let stat = memory.join("memory.stat");
    let (cpu_ns, usage, [inactive, rss, faults, major]) = if is_v1() {
        let names = ["total_inactive_file", "total_rss", "total_pgfault", "total_pgmajfault"];
        (
            number(&cpu.join("cpuacct.usage")),
            number(&memory.join("memory.usage_in_bytes")),
            names.map(|name| field(&stat, name)),
        )
    } else {
        let names = ["inactive_file", "anon", "pgfault", "pgmajfault"];
        (
            field(&cpu.join("cpu.stat"), "usage_usec") * 1000,
            number(&memory.join("memory.current")),
            names.map(|name| field(&stat, name)),
        )
    };
    vec![
        ("/cpu/usageCoreNanoSeconds", cpu_ns),
        ("/memory/usageBytes", usage),
        ("/memory/workingSetBytes", usage - inactive),
        ("/memory/rssBytes", rss),
        ("/memory/pageFaults", faults),
        ("/memory/majorPageFaults", major),
    ]
}

fn summary_of(platform: &Platform, pod: &str) -> (Value, Value) {
    let text = platform.ok(&["get", "--raw", "/api/v1/nodes/node1/proxy/stats/summary"]).unwrap();
    let summary: Value = serde_json::from_str(&text).unwrap();
    let pods = summary["pods"].as_array().unwrap();
    let of = pods.iter().find(|one| one["podRef"]["name"] == pod).cloned();
    (summary["node"].clone(), of.unwrap_or_else(|| panic!("{pod} in {text}")))
}

/// Works a second, keeps 24 MiB in memory and 8 MiB in its files, then rests.
const LOADED: &str = r#"
apiVersion: v1
kind: Pod
metadata: { name: loaded }
spec:
  terminationGracePeriodSeconds: 0
  volumes: [{ name: v, emptyDir: { medium: Memory, sizeLimit: 64Mi } }]
  containers:
  - name: c
    image: busybox:1.30
    resources: { requests: { cpu: 10m, memory: 16Mi } }
    command:
    - sh
    - -c
    - |
      dd if=/dev/zero of=/v/kept bs=1M count=24 2> /dev/null
      dd if=/dev/zero of=/written bs=1M count=8 2> /dev/null
      sync
      i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done
      echo loaded
      exec sleep 100000
    volumeMounts: [{ name: v, mountPath: /v }]
"#;

/// A pod at rest after a load: every figure is the kernel's.
#[test]
fn root_the_use_of_a_pod_is_what_the_kernel_says() {
    let build = Build::from_env().unwrap();
    let platform = Platform::start("usage", &build).unwrap();
    platform.create(LOADED).unwrap();
    wait::until("the load to be over", LIMIT, || {
        let logs = platform.kubectl(&["logs", "loaded"])?;
        let text = String::from_utf8_lossy(&logs.stdout).into_owned();
        Ok(if text == "loaded\n" { Ok(()) } else { Err(text) })
    })
    .unwrap();
    let pod = platform.get("default", "pod", "loaded").unwrap().unwrap();
    let id = pod["status"]["containerStatuses"][0]["containerID"].as_str().unwrap();
    let id = id.rsplit('/').next().unwrap();
    let (cpu, memory) = (
        group(&platform, "cpuacct", "burstable", &pod),
        group(&platform, "memory", "burstable", &pod),
    );
    let now = || [kernels(&cpu, &memory), kernels(&cpu.join(id), &memory.join(id))];
    // The same before and after it was asked: that is what it must have told.
    let (node, told) = wait::until("the pod to be at rest", LIMIT, || {
        let before = now();
        let (node, told) = summary_of(&platform, "loaded");
        let after = now();
        if before != after {
            return Ok(Err(format!("{before:?} {after:?}")));
        }
        for (who, of, figures) in [("pod", &told, &after[0]), ("container", &told["containers"][0], &after[1])] {
            for (path, figure) in figures {
                assert_eq!(
                    of.pointer(path).and_then(Value::as_u64),
                    Some(*figure),
                    "{path} of the {who}: {told}"
                );
            }
        }
        Ok(Ok((node, told)))
    })
    .unwrap();
    let container = &told["containers"][0];
    let figure = |of: &Value, path: &str| of.pointer(path).and_then(Value::as_u64).unwrap_or_else(|| panic!("{path} in {of}"));
    assert!(
        figure(container, "/cpu/usageCoreNanoSeconds") > 10_000_000,
        "the load was counted: {container}"
    );
    assert!(figure(container, "/memory/workingSetBytes") > 24 * MIB, "{container}");
    assert!(figure(&told, "/process_stats/process_count") >= 1);
    // Files: what was written, and the file system of the node.
    let written = figure(container, "/rootfs/usedBytes");
    assert!((8 * MIB..9 * MIB).contains(&written), "{container}");
    assert!(figure(&told, "/ephemeral-storage/usedBytes") >= written);
    let data = platform.data_dir();
    let asked = run(std::process::Command::new("stat").args(["-f", "-c", "%S %b %c"]).arg(&data)).unwrap();
    let figures: Vec<u64> = String::from_utf8_lossy(&asked.stdout)
        .split_whitespace()
        .map(|word| word.parse().unwrap())
        .collect();
    assert_eq!(
        (figure(&node, "/fs/capacityBytes"), figure(&node, "/fs/inodes")),
        (figures[0] * figures[1], figures[2])
    );

    // `kubectl top`: at rest, and the working set in whole MiB.
    let top = wait::until("kubectl top to tell of a pod at rest", LIMIT, || {
        let line = match platform.ok(&["top", "pod", "loaded", "--no-headers"]) {
            Ok(line) => line,
            Err(error) => return Ok(Err(format!("{error:#}"))),
        };
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        Ok(if ["0m", "1m"].contains(&words[1].as_str()) {
            Ok(words)
        } else {
            Err(line)
        })
    })
    .unwrap();
    assert_eq!(top[2], format!("{}Mi", figure(container, "/memory/workingSetBytes") / MIB));
}

/// Sends the node's own words back and forth, then rests: what it received and
/// sent is the kernel's to say.
const TALKER: &str = r#"
apiVersion: v1
kind: Pod
metadata: { name: talker }
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - { name: c, image: 'busybox:1.30', command: [sh, -c, 'mkdir /w; head -c 300000 /dev/urandom > /w/f; exec httpd -f -p 80 -h /w'] }
---
apiVersion: v1
kind: Pod
metadata: { name: guest }
spec:
  hostNetwork: true
  terminationGracePeriodSeconds: 0
  containers: [{ name: c, image: 'busybox:1.30', command: [sleep, '100000'] }]
"#;

/// The figures of every interface but the loopback, as `/proc/net/dev` has them.
fn interfaces(dev: &str) -> Vec<(String, [u64; 4])> {
    let lines = dev.lines().skip(2).filter_map(|line| line.split_once(':'));
    lines
        .filter(|(name, _)| name.trim() != "lo")
        .map(|(name, figures)| {
            let figures: Vec<u64> = figures.split_whitespace().map(|figure| figure.parse().unwrap()).collect();
            (name.trim().to_owned(), [figures[0], figures[2], figures[8], figures[10]])
        })
        .collect()
}

fn told_interfaces(network: &Value) -> Vec<(String, [u64; 4])> {
    let told = |one: &Value| {
        let figures = ["rxBytes", "rxErrors", "txBytes", "txErrors"].map(|name| one[name].as_u64().unwrap());
        (one["name"].as_str().unwrap().to_owned(), figures)
    };
    network["interfaces"].as_array().unwrap().iter().map(told).collect()
}

/// Network figures of a pod, and of the node, are those of the kernel.
#[test]
fn root_what_passed_the_network_is_what_the_kernel_says() {
    let build = Build::from_env().unwrap();
    let platform = Platform::start("passed", &build).unwrap();
    platform.create(TALKER).unwrap();
    for pod in ["talker", "guest"] {
        platform.wait_status("default", pod, "Running", LIMIT).unwrap();
    }
    let fetched = || {
        let answer = platform.kubectl(&["get", "--raw", "/api/v1/namespaces/default/pods/talker:80/proxy/f"])?;
        Ok(if answer.stdout.len() == 300_000 {
            Ok(())
        } else {
            Err(String::from_utf8_lossy(&answer.stderr).into_owned())
        })
    };
    wait::until("the talker to be heard", LIMIT, fetched).unwrap();
    let dev = |pod: &str| platform.ok(&["exec", pod, "--", "cat", "/proc/net/dev"]).unwrap();
    let (node, told) = wait::until("the network to be at rest", LIMIT, || {
        let before = interfaces(&dev("talker"));
        let (node, told) = summary_of(&platform, "talker");
        let after = interfaces(&dev("talker"));
        Ok(if before == after && told_interfaces(&told["network"]) == after {
            Ok((node, told))
        } else {
            Err(format!("{before:?} {} {after:?}", told["network"]))
        })
    })
    .unwrap();
    let network = &told["network"];
    assert_eq!(network["name"], "eth0", "{network}");
    assert!(network["txBytes"].as_u64().unwrap() > 300_000, "{network}");
    assert_eq!(network["txBytes"], network["interfaces"][0]["txBytes"]);
    // The same came out on the other side, in the node's network.
    let of_node = told_interfaces(&node["network"]);
    let bridge = of_node.iter().find(|(_, figures)| figures[0] > 300_000);
    assert!(bridge.is_some() && !of_node.iter().any(|(name, _)| name == "lo"), "{of_node:?}");
    let seen = interfaces(&dev("guest"));
    for (name, figures) in &of_node {
        let now = seen
            .iter()
            .find(|(other, _)| other == name)
            .unwrap_or_else(|| panic!("{name} in {seen:?}"));
        assert!(now.1.iter().zip(figures).all(|(now, then)| now >= then), "{now:?} {figures:?}");
    }
    assert!(
        seen.len() > of_node.len(),
        "the pods' ends are not the node's: {seen:?} {of_node:?}"
    );
    // A pod in the node's network has no figures of its own.
    assert_eq!(summary_of(&platform, "guest").1["network"], Value::Null);
    let text = platform
        .ok(&["get", "--raw", "/api/v1/nodes/node1/proxy/stats/summary?only_cpu_and_memory=true"])
        .unwrap();
    assert!(!text.contains("\"network\""), "{text}");
}

const CLASS: &str = "
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata: { name: costly }
handler: runc
overhead: { podFixed: { cpu: 100m, memory: 32Mi } }
";

fn classed(name: &str, more: &str, resources: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 0\n  {more}\n  containers: [{{name: c, image: 'busybox:1.30', command: [sleep, '100000'], resources: {resources}}}]\n"
    )
}

/// What a runtime class costs is in the pod, in the limits of its cgroup and not
/// in those of its containers, in the scheduler's sums and in the node's.
/// Fields: spec.overhead spec.runtimeClassName
#[test]
fn root_a_runtime_class_costs_what_it_says() {
    let build = Build::from_env().unwrap();
    let platform = Platform::start("overhead", &build).unwrap();
    platform.create(CLASS).unwrap();
    let limited = "{limits: {cpu: 200m, memory: 64Mi}}";
    platform.create(&classed("costs", "runtimeClassName: costly", limited)).unwrap();
    platform.wait_status("default", "costs", "Running", LIMIT).unwrap();
    let pod = platform.get("default", "pod", "costs").unwrap().unwrap();
    assert_eq!(pod["spec"]["overhead"], serde_json::json!({ "cpu": "100m", "memory": "32Mi" }));
    let id = pod["status"]["containerStatuses"][0]["containerID"].as_str().unwrap();
    let id = id.rsplit('/').next().unwrap();
    let (cpu, memory) = (group(&platform, "cpu", "", &pod), group(&platform, "memory", "", &pod));
    let limits = |cpu: &Path, memory: &Path| {
        if is_v1() {
            let quota = number(&cpu.join("cpu.cfs_quota_us")) * 1000 / number(&cpu.join("cpu.cfs_period_us"));
            (quota, number(&memory.join("memory.limit_in_bytes")))
        } else {
            let text = fs::read_to_string(cpu.join("cpu.max")).unwrap();
            let words: Vec<u64> = text.split_whitespace().map(|word| word.parse().unwrap()).collect();
            (words[0] * 1000 / words[1], number(&memory.join("memory.max")))
        }
    };
    assert_eq!(limits(&cpu, &memory), (300, 96 * MIB), "the pod's");
    assert_eq!(limits(&cpu.join(id), &memory.join(id)), (200, 64 * MIB), "the container's");
    let described = platform.ok(&["describe", "node", "node1"]).unwrap();
    let line = described.lines().find(|line| line.contains(" costs ")).unwrap();
    assert!(line.contains("300m (") && line.contains("96Mi ("), "{line}");

    // What the node has left, to the thousandth: with the class it is too much.
    let node = platform.get("", "node", "node1").unwrap().unwrap();
    let text = node["status"]["allocatable"]["cpu"].as_str().unwrap();
    let all: u64 = text
        .strip_suffix('m')
        .map_or_else(|| text.parse::<u64>().unwrap() * 1000, |milli| milli.parse().unwrap());
    let rest = all - 300;
    let asks = format!("{{requests: {{cpu: {rest}m}}}}");
    platform.create(&classed("unplaced", "runtimeClassName: costly", &asks)).unwrap();
    platform
        .wait_pod("default", "unplaced", "found to fit nowhere", LIMIT, |pod| {
            let said = pod["status"]["conditions"][0]["message"].as_str()?;
            (said.contains("1 Insufficient cpu") && pod["status"]["conditions"][0]["reason"] == "Unschedulable").then_some(())
        })
        .unwrap();
    // Past the scheduler, the node counts itself.
    platform
        .create(&classed("refused", "nodeName: node1\n  runtimeClassName: costly", &asks))
        .unwrap();
    let said = platform
        .wait_pod("default", "refused", "refused by the node", LIMIT, |pod| {
            (pod["status"]["reason"] == "OutOfcpu").then(|| pod["status"]["message"].clone())
        })
        .unwrap();
    let wanted = format!(
        "Pod was rejected: Node didn't have enough resource: cpu, requested: {}, used: 300, capacity: {all}",
        rest + 100
    );
    assert_eq!(said, wanted.as_str());
    platform.create(&classed("plain", "", &asks)).unwrap();
    platform.wait_status("default", "plain", "Running", LIMIT).unwrap();

    // Nobody sets it for himself, and a class has to be there.
    for (more, why) in [
        (
            "overhead: {cpu: 1m}",
            "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead",
        ),
        (
            "runtimeClassName: costly\n  overhead: {cpu: 1m}",
            "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead",
        ),
        ("runtimeClassName: nope", "pod rejected: RuntimeClass \"nope\" not found"),
    ] {
        let refused = format!("{:#}", platform.create(&classed("bad", more, "{}")).unwrap_err());
        assert!(refused.contains(why), "{refused}");
    }
}

/// A sidecar is started again for as long as its pod runs, whatever the pod's
/// own policy says, and ends after the containers it serves.
/// Fields: spec.containers[].restartPolicy
#[test]
fn root_a_sidecar_has_a_restart_policy_of_its_own() {
    let build = Build::from_env().unwrap();
    let platform = Platform::start("sidecar", &build).unwrap();
    platform
        .create(
            r#"
apiVersion: v1
kind: Pod
metadata: { name: served }
spec:
  restartPolicy: Never
  volumes: [{ name: v, emptyDir: {} }]
  initContainers:
  - name: side
    image: busybox:1.30
    restartPolicy: Always
    command: [sh, -c, 'echo begun >> /v/begun; sleep 1; exit 3']
    volumeMounts: [{ name: v, mountPath: /v }]
  containers:
  - name: main
    image: busybox:1.30
    command: [sh, -c, 'while [ $(wc -l < /v/begun) -lt 2 ]; do sleep 0.1; done; echo served']
    volumeMounts: [{ name: v, mountPath: /v }]
"#,
        )
        .unwrap();
    // How a sidecar ended is not asked.
    let pod = platform
        .wait_pod("default", "served", "to succeed", LIMIT, |pod| {
            (pod["status"]["phase"] == "Succeeded").then(|| pod.clone())
        })
        .unwrap();
    assert_eq!(platform.ok(&["logs", "served", "-c", "main"]).unwrap(), "served\n");
    assert!(
        pod["status"]["initContainerStatuses"][0]["restartCount"].as_u64().unwrap() >= 1,
        "{pod}"
    );
    let manifest = classed("bad", "", "{}").replace("name: c,", "name: c, restartPolicy: OnFailure,");
    let refused = format!("{:#}", platform.create(&manifest).unwrap_err());
    assert!(
        refused.contains("spec.containers[0].restartPolicy: Forbidden: may not be set for non-init containers"),
        "{refused}"
    );
}
