//! A pod's life with real processes: restarts, exit codes, logs, deletion.

use std::time::Duration;

use e2e::Platform;
use e2e::platform::{Build, restarts};
use e2e::wait;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(60);

fn manifest(name: &str, policy: &str, script: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\nspec:\n  restartPolicy: {policy}\n  terminationGracePeriodSeconds: 2\n  containers:\n  - name: main\n    image: busybox:1.30\n    command: ['sh', '-c', '{script}']\n"
    )
}

fn terminated<'a>(pod: &'a Value, which: &str) -> &'a Value {
    &pod["status"]["containerStatuses"][0][which]["terminated"]
}

/// Shows: 14.1.25
/// Fields: spec.restartPolicy spec.containers status.phase status.containerStatuses
/// Fields: status.containerStatuses[].state status.containerStatuses[].state.terminated status.containerStatuses[].state.terminated.exitCode status.containerStatuses[].state.terminated.reason status.containerStatuses[].restartCount
/// Fields: status.containerStatuses[].state.waiting.* status.containerStatuses[].lastState status.containerStatuses[].lastState.terminated status.containerStatuses[].lastState.terminated.exitCode status.containerStatuses[].lastState.terminated.finishedAt
#[test]
fn root_restart_policies_decide_what_follows_an_exit() {
    let build = Build::from_env().unwrap();
    let platform = Platform::start("policies", &build).unwrap();
    for (name, policy, script) in [
        ("never-0", "Never", "exit 0"),
        ("never-3", "Never", "exit 3"),
        ("onfailure-0", "OnFailure", "exit 0"),
        ("onfailure-3", "OnFailure", "exit 3"),
        ("always-0", "Always", "exit 0"),
    ] {
        platform.create(&manifest(name, policy, script)).unwrap();
    }
    let phase = |name: &str, wanted: &str| {
        platform
            .wait_pod("default", name, wanted, LIMIT, |pod| {
                (pod["status"]["phase"] == wanted).then(|| pod.clone())
            })
            .unwrap()
    };
    let done = phase("never-0", "Succeeded");
    assert_eq!(
        (
            terminated(&done, "state")["exitCode"].as_i64(),
            &terminated(&done, "state")["reason"]
        ),
        (Some(0), &Value::from("Completed"))
    );
    let failed = phase("never-3", "Failed");
    assert_eq!(
        (
            terminated(&failed, "state")["exitCode"].as_i64(),
            &terminated(&failed, "state")["reason"]
        ),
        (Some(3), &Value::from("Error"))
    );
    assert_eq!(restarts(&failed), 0);
    assert_eq!(restarts(&phase("onfailure-0", "Succeeded")), 0);

    // The first restart is immediate, the second waits: upstream's back-off.
    // Another Pod's wait may have taken longer than the first of them lasts.
    for name in ["onfailure-3", "always-0"] {
        let crashing = platform
            .wait_pod("default", name, "CrashLoopBackOff", LIMIT, |pod| {
                let reason = &pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"];
                (reason == "CrashLoopBackOff").then(|| pod.clone())
            })
            .unwrap();
        let uid = crashing["metadata"]["uid"].as_str().unwrap();
        let message = &crashing["status"]["containerStatuses"][0]["state"]["waiting"]["message"];
        let delay = match restarts(&crashing) {
            1 => "10s",
            2 => "20s",
            3 => "40s",
            more => panic!("{more} restarts of {name} within a minute"),
        };
        assert_eq!(
            message,
            &format!("back-off {delay} restarting failed container=main pod={name}_default({uid})")
        );
        assert_eq!(crashing["status"]["phase"], "Running");
        assert!(terminated(&crashing, "lastState")["exitCode"].is_i64());
    }
    let third = platform
        .wait_pod("default", "onfailure-3", "a second restart", LIMIT, |pod| {
            (restarts(pod) >= 2).then(|| pod.clone())
        })
        .unwrap();
    let (last, now) = (
        &terminated(&third, "lastState")["finishedAt"],
        &third["status"]["containerStatuses"][0],
    );
    assert!(last.is_string(), "{now}");

    let events = platform
        .ok(&[
            "get",
            "events",
            "--field-selector",
            "involvedObject.name=onfailure-3",
            "-o",
            "jsonpath={range .items[*]}{.reason}|{.message}{\"\\n\"}{end}",
        ])
        .unwrap();
    assert!(
        events
            .lines()
            .any(|line| line.starts_with("BackOff|Back-off restarting failed container main in pod onfailure-3_default(")),
        "{events}"
    );
}

#[test]
fn root_logs_are_read_as_kubectl_asks() {
    let build = Build::from_env().unwrap();
    let platform = Platform::start("logs", &build).unwrap();
    platform
        .create(&manifest(
            "talker",
            "Always",
            "echo one; sleep 0.3; echo two >&2; sleep 0.3; echo three; sleep 3; exit 1",
        ))
        .unwrap();
    platform.wait_status("default", "talker", "Running", LIMIT).unwrap();
    let lines = wait::until("three lines", LIMIT, || {
        let text = platform.ok(&["logs", "talker"])?;
        Ok(if text.lines().count() == 3 { Ok(text) } else { Err(text) })
    })
    .unwrap();
    assert_eq!(lines, "one\ntwo\nthree\n");
    assert_eq!(platform.ok(&["logs", "talker", "-c", "main", "--tail=1"]).unwrap(), "three\n");
    assert_eq!(platform.ok(&["logs", "talker", "--since=1h", "--tail=2"]).unwrap(), "two\nthree\n");
    let stamped = platform.ok(&["logs", "talker", "--timestamps", "--tail=1"]).unwrap();
    assert!(stamped.starts_with("20") && stamped.trim_end().ends_with("Z three"), "{stamped}");
    // Follows to the end of the container, then ends.
    assert_eq!(platform.ok(&["logs", "-f", "talker"]).unwrap(), "one\ntwo\nthree\n");
    platform
        .wait_pod("default", "talker", "a restart", LIMIT, |pod| (restarts(pod) >= 1).then_some(()))
        .unwrap();
    assert_eq!(platform.ok(&["logs", "talker", "--previous"]).unwrap(), "one\ntwo\nthree\n");
    let unknown = platform.kubectl(&["logs", "talker", "-c", "nobody"]).unwrap();
    let words = String::from_utf8_lossy(&unknown.stderr).into_owned();
    assert!(
        !unknown.status.success() && words.contains("container nobody is not valid for pod talker"),
        "{words}"
    );
}

/// Shows: 14.1.29 14.1.35 14.2.8 14.3.7
/// Fields: spec.terminationGracePeriodSeconds spec.nodeSelector status.conditions status.conditions[].reason
#[test]
fn root_deletion_is_graceful_bounded_and_complete() {
    let build = Build::from_env().unwrap();
    let mut platform = Platform::start("deletion", &build).unwrap();
    platform
        .create(&manifest(
            "obedient",
            "Always",
            "trap \"exit 0\" TERM; while true; do sleep 0.1; done",
        ))
        .unwrap();
    platform
        .create(&manifest("deaf", "Always", "trap \"\" TERM; while true; do sleep 0.1; done"))
        .unwrap();
    platform.create(&manifest("looping", "Always", "exit 1")).unwrap();
    for name in ["obedient", "deaf"] {
        platform.wait_status("default", name, "Running", LIMIT).unwrap();
    }
    platform.wait_status("default", "looping", "CrashLoopBackOff", LIMIT).unwrap();
    for name in ["obedient", "deaf", "looping"] {
        platform.ok(&["delete", "pod", name, "--timeout=30s"]).unwrap();
        assert_eq!(platform.get("default", "pod", name).unwrap(), None);
    }
    // Forced: gone from the API at once, and from the node soon after.
    platform.create(&manifest("forced", "Always", "sleep 1000")).unwrap();
    platform.wait_status("default", "forced", "Running", LIMIT).unwrap();
    platform.ok(&["delete", "pod", "forced", "--force", "--grace-period=0"]).unwrap();
    // A pod that no node can take is removed at once.
    platform.create("apiVersion: v1\nkind: Pod\nmetadata: {name: homeless}\nspec:\n  nodeSelector: {no: where}\n  containers: [{name: c, image: 'busybox:1.30'}]\n").unwrap();
    platform
        .wait_pod("default", "homeless", "unschedulable", LIMIT, |pod| {
            (pod["status"]["conditions"][0]["reason"] == "Unschedulable").then_some(())
        })
        .unwrap();
    let description = platform.ok(&["describe", "pod", "homeless"]).unwrap();
    assert!(
        description.contains("0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector."),
        "{description}"
    );
    platform.ok(&["delete", "pod", "homeless", "--timeout=10s"]).unwrap();

    wait::until("every pod's cgroup, mount and process to be gone", LIMIT, || {
        let left: Vec<String> = platform
            .leftovers()?
            .into_iter()
            .filter(|item| item.contains("/pods/") || item.contains(" shim "))
            .collect();
        Ok(if left.is_empty() { Ok(()) } else { Err(left.join("\n")) })
    })
    .unwrap();
    platform.down().unwrap();
    assert_eq!(platform.leftovers().unwrap(), Vec::<String>::new());
}

/// Shows: 14.1.27
/// Fields: spec.containers[].image spec.containers[].imagePullPolicy
#[test]
fn root_images_that_cannot_be_had_are_named_and_retried() {
    let build = Build::from_env().unwrap();
    let platform = Platform::start("pulls", &build).unwrap();
    let pod = |name: &str, image: &str, policy: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  containers: [{{name: c, image: '{image}', imagePullPolicy: {policy}}}]\n"
        )
    };
    platform.create(&pod("refused", "127.0.0.1:1/nothing:1", "IfNotPresent")).unwrap();
    platform.create(&pod("never", "absent:1", "Never")).unwrap();
    platform.create(&pod("misspelt", "Not/An:Image:Name", "IfNotPresent")).unwrap();
    let waiting = |name: &str, reason: &str| {
        platform
            .wait_pod("default", name, reason, LIMIT, |pod| {
                let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
                (waiting["reason"] == reason).then(|| waiting["message"].as_str().unwrap_or_default().to_owned())
            })
            .unwrap()
    };
    let message = waiting("refused", "ImagePullBackOff");
    assert!(message.starts_with("Back-off pulling image \"127.0.0.1:1/nothing:1\""), "{message}");
    assert_eq!(
        waiting("never", "ErrImageNeverPull"),
        "Container image \"absent:1\" is not present with pull policy of Never"
    );
    let message = waiting("misspelt", "InvalidImageName");
    assert!(message.contains("couldn't parse image name"), "{message}");
    let description = platform.ok(&["describe", "pod", "refused"]).unwrap();
    for text in [
        "Pulling image \"127.0.0.1:1/nothing:1\"",
        "Error: ErrImagePull",
        "Error: ImagePullBackOff",
    ] {
        assert!(description.contains(text), "{text}\n{description}");
    }
    let logs = platform.kubectl(&["logs", "refused"]).unwrap();
    let words = String::from_utf8_lossy(&logs.stderr).into_owned();
    assert!(words.contains("is waiting to start: trying and failing to pull image"), "{words}");
}

/// Fields: spec.containers[].resources spec.containers[].resources.limits status.qosClass
#[test]
fn root_a_container_that_needs_more_memory_than_it_may_is_oom_killed() {
    let build = Build::from_env().unwrap();
    let platform = Platform::start("oom", &build).unwrap();
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: hungry}\nspec:\n  restartPolicy: Never\n  containers:\n  - name: c\n    image: busybox:1.30\n    command: ['tail', '/dev/zero']\n    resources: {limits: {memory: 32Mi}}\n";
    platform.create(pod).unwrap();
    let pod = platform
        .wait_pod("default", "hungry", "Failed", LIMIT, |pod| {
            (pod["status"]["phase"] == "Failed").then(|| pod.clone())
        })
        .unwrap();
    assert_eq!(terminated(&pod, "state")["reason"], "OOMKilled");
    assert_eq!(terminated(&pod, "state")["exitCode"], 137);
    assert_eq!(pod["status"]["qosClass"], "Burstable");
    platform.wait_status("default", "hungry", "OOMKilled", LIMIT).unwrap();
}

/// Fields: status.containerStatuses[].state.terminated.message
#[test]
fn root_a_program_that_cannot_start_says_why() {
    let build = Build::from_env().unwrap();
    let platform = Platform::start("start", &build).unwrap();
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: wrong}\nspec:\n  restartPolicy: Never\n  containers: [{name: c, image: 'busybox:1.30', command: ['/no/such/program']}]\n";
    platform.create(pod).unwrap();
    let pod = platform
        .wait_pod("default", "wrong", "Failed", LIMIT, |pod| {
            (pod["status"]["phase"] == "Failed").then(|| pod.clone())
        })
        .unwrap();
    let state = terminated(&pod, "state");
    assert_eq!(state["reason"], "StartError");
    assert!(
        state["message"]
            .as_str()
            .is_some_and(|message| message.contains("/no/such/program")),
        "{state}"
    );
}
