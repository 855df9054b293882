//! `kubectl debug` and stop signals, with real processes.

use std::time::Duration;

use e2e::Platform;
use e2e::platform::Build;
use e2e::wait;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(60);

fn debugger<'a>(pod: &'a Value, name: &str) -> Option<&'a Value> {
    let list = pod["status"]["ephemeralContainerStatuses"].as_array()?;
    list.iter().find(|status| status["name"] == name)
}

/// Shows: 14.1.40
/// Fields: spec.ephemeralContainers.* status.ephemeralContainerStatuses status.containerStatuses[].started
#[test]
fn root_kubectl_debug_adds_a_container_that_sees_its_targets_processes() {
    let build = Build::from_env().unwrap();
    let mut platform = Platform::start("debug", &build).unwrap();
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  - {name: c, image: 'busybox:1.30', command: ['sleep', '98765']}\n  - {name: other, image: 'busybox:1.30', command: ['sleep', '43210']}\n";
    platform.create(pod).unwrap();
    platform.wait_status("default", "web", "Running", LIMIT).unwrap();
    let debug = |name: &str, target: &[&str], command: &[&str]| {
        let mut args = vec!["debug", "web", "--image=busybox:1.30", "-c", name];
        args.extend(target);
        args.push("--");
        args.extend(command);
        platform.ok(&args).unwrap();
    };
    debug("beside", &["--target=c"], &["sh", "-c", "ps -o args; exit 3"]);
    let ended = platform
        .wait_pod("default", "web", "the debugger to end", LIMIT, |pod| {
            let status = debugger(pod, "beside")?.clone();
            status["state"]["terminated"].is_object().then_some(status)
        })
        .unwrap();
    assert_eq!(
        (
            ended["state"]["terminated"]["exitCode"].as_i64(),
            &ended["state"]["terminated"]["reason"]
        ),
        (Some(3), &Value::from("Error"))
    );
    assert_eq!(
        (ended["restartCount"].as_i64(), ended["ready"].as_bool(), &ended["started"]),
        (Some(0), Some(false), &Value::Null)
    );
    let seen = platform.ok(&["logs", "web", "-c", "beside"]).unwrap();
    assert!(seen.contains("sleep 98765") && !seen.contains("sleep 43210"), "{seen}");

    // Without a target it is alone with its processes.
    debug("alone", &[], &["sh", "-c", "ps -o args; sleep 55555"]);
    platform
        .wait_pod("default", "web", "a running debugger", LIMIT, |pod| {
            debugger(pod, "alone")?["state"]["running"].is_object().then_some(())
        })
        .unwrap();
    let seen = wait::until("the list of its processes", LIMIT, || {
        let text = platform.ok(&["logs", "web", "-c", "alone"])?;
        Ok(if text.contains("ps -o args") { Ok(text) } else { Err(text) })
    })
    .unwrap();
    assert!(!seen.contains("sleep 98765"), "{seen}");

    let pod = platform.get("default", "pod", "web").unwrap().unwrap();
    assert_eq!(pod["status"]["phase"], "Running");
    assert!(
        pod["status"]["containerStatuses"]
            .as_array()
            .unwrap()
            .iter()
            .all(|c| c["ready"] == true && c["restartCount"] == 0)
    );
    assert!(
        debugger(&pod, "beside").unwrap()["state"]["terminated"].is_object(),
        "it is not restarted"
    );
    let events = platform
        .ok(&[
            "get",
            "events",
            "-o",
            "jsonpath={range .items[*]}{.involvedObject.fieldPath}|{.message}{\"\\n\"}{end}",
        ])
        .unwrap();
    assert!(
        events.contains("spec.ephemeralContainers{beside}|Started container beside"),
        "{events}"
    );
    let description = platform.ok(&["describe", "pod", "web"]).unwrap();
    assert!(description.contains("Ephemeral Containers:\n  beside:"), "{description}");

    // A restarted platform leaves them as they are.
    platform.kill().unwrap();
    platform.up().unwrap();
    let pod = platform.get("default", "pod", "web").unwrap().unwrap();
    assert!(
        debugger(&pod, "alone").unwrap()["state"]["running"].is_object(),
        "{}",
        pod["status"]
    );
    assert!(
        debugger(&pod, "beside").unwrap()["state"]["terminated"].is_object(),
        "{}",
        pod["status"]
    );
    platform.ok(&["delete", "pod", "web", "--timeout=30s"]).unwrap();
    platform.down().unwrap();
    assert_eq!(platform.leftovers().unwrap(), Vec::<String>::new());
}

/// Fields: spec.containers[].lifecycle.stopSignal status.containerStatuses[].stopSignal spec.activeDeadlineSeconds spec.os.*
#[test]
fn root_a_pod_may_name_the_signal_that_stops_it() {
    let build = Build::from_env().unwrap();
    let platform = Platform::start("signal", &build).unwrap();
    let script = "trap \"exit 7\" USR1; trap \"\" TERM; echo ready; while true; do sleep 0.1; done";
    let pod = |name: &str, more: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  {more}\n  restartPolicy: Never\n  activeDeadlineSeconds: 3\n  containers:\n  - {{name: c, image: 'busybox:1.30', command: ['sh', '-c', '{script}'], lifecycle: {{stopSignal: SIGUSR1}}}}\n"
        )
    };
    // The deadline stops it, and the object stays to be looked at.
    platform.create(&pod("named", "os: {name: linux}")).unwrap();
    let ended = platform
        .wait_pod("default", "named", "its end", LIMIT, |pod| {
            (pod["status"]["containerStatuses"][0]["state"]["terminated"].is_object()).then(|| pod.clone())
        })
        .unwrap();
    let status = &ended["status"]["containerStatuses"][0];
    assert_eq!(
        (&status["stopSignal"], status["state"]["terminated"]["exitCode"].as_i64()),
        (&Value::from("SIGUSR1"), Some(7))
    );

    let refused = platform.create(&pod("nameless", "dnsPolicy: Default")).unwrap_err();
    let words = format!("{refused:#}");
    assert!(
        words.contains("lifecycle.stopSignal: Forbidden: may not be set for containers with empty `spec.os.name`"),
        "{words}"
    );
    let unknown = pod("unknown", "os: {name: linux}").replace("SIGUSR1", "USR1");
    let words = format!("{:#}", platform.create(&unknown).unwrap_err());
    assert!(
        words.contains("lifecycle.stopSignal: Unsupported value: \"USR1\": supported values: \"SIGABRT\", \"SIGALRM\""),
        "{words}"
    );
}
