//! `lifepod down`: the end of a node, by the grace of its pods.

use std::process::Stdio;
use std::time::Duration;

use e2e::Platform;
use e2e::platform::Build;
use e2e::wait;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(60);

fn pod(name: &str, more: &str, script: &str, lifecycle: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 20\n{more}  containers:\n  - name: c\n    image: busybox:1.30\n    command: ['sh', '-c', '{script}']\n{lifecycle}"
    )
}

fn get(platform: &Platform, name: &str) -> Value {
    platform.get("default", "pod", name).unwrap().unwrap()
}

#[test]
fn root_down_stops_pods_by_their_grace_and_up_starts_them_again() {
    let build = Build::from_env().unwrap();
    let mut platform = Platform::start("shutdown", &build).unwrap();
    let obey = |seconds: u32, code: u32| format!("trap \"sleep {seconds}; exit {code}\" TERM; while true; do sleep 0.1; done");
    let hook = "    lifecycle: {preStop: {exec: {command: ['sh', '-c', 'echo stopped >> /proc/1/fd/1; sleep 1']}}}\n";
    platform.create(&pod("always", "", &obey(2, 7), hook)).unwrap();
    platform
        .create(&pod("critical", "  priorityClassName: system-cluster-critical\n", &obey(0, 0), ""))
        .unwrap();
    platform.create(&pod("never", "  restartPolicy: Never\n", &obey(0, 5), "")).unwrap();
    platform
        .create(&pod("deaf", "", "trap \"\" TERM; while true; do sleep 0.1; done", "").replace("Seconds: 20", "Seconds: 3"))
        .unwrap();
    for name in ["always", "critical", "never", "deaf"] {
        platform.wait_status("default", name, "Running", LIMIT).unwrap();
    }
    let mut down = platform
        .lifepod(&["down", "--grace", "30", "--grace-critical", "10"])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    wait::until("the node to say that it shuts down", LIMIT, || {
        let node = platform.kubectl(&["get", "node", "node1", "-o", "jsonpath={.status.conditions[?(@.type==\"Ready\")]}"])?;
        let ready = String::from_utf8_lossy(&node.stdout).into_owned();
        let says = ready.contains("\"status\":\"False\"") && ready.contains("node is shutting down");
        Ok(if says { Ok(()) } else { Err(ready) })
    })
    .unwrap();
    assert!(down.wait().unwrap().success());
    // Ends the child of the first start; nothing is left to stop.
    platform.down().unwrap();
    assert_eq!(platform.leftovers().unwrap(), Vec::<String>::new());

    platform.up().unwrap();
    let again = |name: &str| {
        platform
            .wait_pod("default", name, "running again", LIMIT, |pod| {
                let status = &pod["status"]["containerStatuses"][0];
                (status["state"]["running"].is_object() && status["restartCount"] == 1).then(|| pod.clone())
            })
            .unwrap()
    };
    let last = |pod: &Value| pod["status"]["containerStatuses"][0]["lastState"]["terminated"].clone();
    let (always, critical, deaf) = (last(&again("always")), last(&again("critical")), last(&again("deaf")));
    assert_eq!(
        (&always["exitCode"], &critical["exitCode"], &deaf["exitCode"]),
        (&7.into(), &0.into(), &137.into())
    );
    assert!(
        critical["finishedAt"].as_str() >= always["finishedAt"].as_str(),
        "{critical} before {always}"
    );
    let never = get(&platform, "never");
    assert_eq!(
        (&never["status"]["phase"], &never["status"]["reason"], &never["status"]["message"]),
        (
            &"Failed".into(),
            &"Terminated".into(),
            &"Pod was terminated in response to imminent node shutdown.".into()
        )
    );
    assert_eq!(never["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"], 5);
    let target = never["status"]["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .find(|c| c["type"] == "DisruptionTarget")
        .unwrap();
    assert_eq!(target["reason"], "TerminationByKubelet");
    let events = platform
        .ok(&[
            "get",
            "events",
            "-o",
            "jsonpath={range .items[*]}{.reason}|{.message}{\"\\n\"}{end}",
        ])
        .unwrap();
    assert!(events.contains("NodeShutdown|Shutdown manager detected shutdown event"), "{events}");
}
