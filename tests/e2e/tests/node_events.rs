//! What a node tells of itself, and who makes room on it.

use std::time::Duration;

use e2e::Platform;
use e2e::host::run;
use e2e::platform::Build;
use e2e::wait;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(60);

/// Waits for an event, given as `TYPE REASON MESSAGE`, about an object.
fn await_event(platform: &Platform, object: &str, wanted: &str) {
    let selector = format!("involvedObject.name={object}");
    let columns = "jsonpath={range .items[*]}{.type} {.reason} {.message}{\"\\n\"}{end}";
    wait::until(&format!("the event {wanted:?}"), LIMIT, || {
        let seen = platform.ok(&["get", "events", "-n", "default", "--field-selector", &selector, "-o", columns])?;
        Ok(if seen.contains(wanted) { Ok(()) } else { Err(seen) })
    })
    .unwrap();
}

fn sleeper(name: &str, cpu_milli: u64, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  nodeName: node1\n  terminationGracePeriodSeconds: 1\n{more}  containers:\n  - name: c\n    image: busybox:1.30\n    command: [sleep, '3600']\n    resources: {{requests: {{cpu: {cpu_milli}m}}}}\n"
    )
}

/// Without its bridge a node has no network: pods wait and say why, and run
/// once it is there again.
#[test]
fn root_a_node_without_its_network_says_so() {
    let build = Build::from_env().unwrap();
    let mut platform = Platform::start("no-network", &build).unwrap();
    run(platform.host.command("ip").args(["link", "delete", "lifepod0"])).unwrap();
    platform.create(&sleeper("waits", 1, "")).unwrap();
    await_event(
        &platform,
        "waits",
        "Warning NetworkNotReady network is not ready: container runtime network not ready: NetworkReady=false \
         reason:NetworkPluginNotReady message:the bridge lifepod0 of the pods is gone",
    );
    // What needs no network of its own runs.
    platform.create(&sleeper("hosted", 1, "  hostNetwork: true\n")).unwrap();
    platform.wait_status("default", "hosted", "Running", LIMIT).unwrap();
    platform.kill().unwrap();
    platform.up().unwrap();
    platform.wait_status("default", "waits", "Running", LIMIT).unwrap();
}

/// A node whose boot id has changed since it last told of itself was rebooted.
#[test]
fn root_a_reboot_is_told() {
    let build = Build::from_env().unwrap();
    let mut platform = Platform::prepared("reboot", &build, &[]).unwrap();
    platform.up().unwrap();
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let boot_id = boot_id.trim();
    let selector = "involvedObject.name=node1,reason=Rebooted";
    let told = |platform: &Platform| {
        let columns = "jsonpath={range .items[*]}{.type} {.message}{\"\\n\"}{end}";
        platform
            .ok(&["get", "events", "-n", "default", "--field-selector", selector, "-o", columns])
            .unwrap()
    };
    assert_eq!(told(&platform), "", "it was its first start");
    platform.kill().unwrap();
    platform.up().unwrap();
    assert_eq!(told(&platform), "", "the machine was not started anew");
    // The node tells its boot id again every ten seconds, which may come
    // between; hardly ever three times.
    let wanted = format!("Warning Node node1 has been rebooted, boot id: {boot_id}\n");
    for attempt in 1..=3 {
        let former = r#"{"status":{"nodeInfo":{"bootID":"another"}}}"#;
        platform
            .ok(&["patch", "node", "node1", "--subresource=status", "-p", former])
            .unwrap();
        platform.kill().unwrap();
        platform.up().unwrap();
        let seen = wait::until("the event Rebooted", Duration::from_secs(10), || {
            let seen = told(&platform);
            Ok(if seen.is_empty() { Err("no event".to_owned()) } else { Ok(seen) })
        });
        match seen {
            Ok(seen) => return assert_eq!(seen, wanted),
            Err(error) => assert!(attempt < 3, "{error:#}"),
        }
    }
}

/// A critical pod that finds no room is given some: a lesser one stops first,
/// by its grace, and says why.
#[test]
fn root_a_critical_pod_is_given_room() {
    let build = Build::from_env().unwrap();
    let platform = Platform::start("critical", &build).unwrap();
    let node = platform.get("default", "node", "node1").unwrap().unwrap();
    let cpus: u64 = node["status"]["allocatable"]["cpu"].as_str().unwrap().parse().unwrap();
    platform.create(&sleeper("small", 10, "")).unwrap();
    platform.create(&sleeper("large", cpus * 1000 - 20, "")).unwrap();
    platform.wait_status("default", "small", "Running", LIMIT).unwrap();
    platform.wait_status("default", "large", "Running", LIMIT).unwrap();
    platform.create(&sleeper("refused", 500, "")).unwrap();
    platform.wait_status("default", "refused", "OutOfcpu", LIMIT).unwrap();
    platform
        .create(&sleeper("critical", 500, "  priorityClassName: system-node-critical\n"))
        .unwrap();
    platform.wait_status("default", "critical", "Running", LIMIT).unwrap();

    let large = platform.get("default", "pod", "large").unwrap().unwrap();
    let status = &large["status"];
    assert_eq!(
        (&status["phase"], &status["reason"], &status["message"]),
        (
            &Value::from("Failed"),
            &Value::from("Preempting"),
            &Value::from("Preempted in order to admit critical pod")
        )
    );
    let conditions = status["conditions"].as_array().unwrap();
    let target = conditions.iter().find(|condition| condition["type"] == "DisruptionTarget").unwrap();
    assert_eq!(
        (&target["reason"], &target["message"]),
        (
            &Value::from("TerminationByKubelet"),
            &Value::from("Pod was preempted by Kubelet to accommodate a critical pod.")
        )
    );
    await_event(&platform, "large", "Warning Preempting Preempted in order to admit critical pod");
    let critical = platform.get("default", "pod", "critical").unwrap().unwrap();
    let began = critical["status"]["containerStatuses"][0]["state"]["running"]["startedAt"]
        .as_str()
        .unwrap();
    let ended = status["containerStatuses"][0]["state"]["terminated"]["finishedAt"]
        .as_str()
        .unwrap();
    assert!(ended <= began, "it ended at {ended}, before the other began at {began}");
    platform.wait_status("default", "small", "Running", LIMIT).unwrap();
}
