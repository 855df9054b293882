//! What a resize counts for: with quotas, ranges and the scheduler.

use std::time::Duration;

use e2e::Platform;
use e2e::platform::Build;
use e2e::wait;

const LIMIT: Duration = Duration::from_secs(60);

fn pod(name: &str, cpu: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 0\n  containers: [{{name: c, image: 'busybox:1.30', command: [sleep, '100000'], resources: {{requests: {{cpu: {cpu}}}, limits: {{cpu: '64'}}}}}}]\n"
    )
}

/// `Err` with what `kubectl` said.
fn resize(platform: &Platform, pod: &str, cpu: &str) -> Result<(), String> {
    let patch = format!(r#"{{"spec":{{"containers":[{{"name":"c","resources":{{"requests":{{"cpu":"{cpu}"}}}}}}]}}}}"#);
    let output = platform
        .kubectl(&["patch", "pod", pod, "--subresource", "resize", "-p", &patch])
        .unwrap();
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).into_owned())
}

/// A quota is charged with what a resize adds, refuses what is too much, and is
/// given back what a pod no longer has; ranges are kept to.
#[test]
fn root_a_resize_keeps_to_quotas_and_ranges() {
    let build = Build::from_env().unwrap();
    let platform = Platform::start("resizequota", &build).unwrap();
    platform.ok(&["create", "quota", "q", "--hard=requests.cpu=300m"]).unwrap();
    let uses = |wanted: &str| {
        wait::until(&format!("the quota to count {wanted}"), LIMIT, || {
            let used = platform.ok(&["get", "quota", "q", "-o", r"jsonpath={.status.used.requests\.cpu}"])?;
            Ok(if used == wanted { Ok(()) } else { Err(used) })
        })
        .unwrap();
    };
    uses("0");
    platform.create(&pod("sized", "100m")).unwrap();
    platform.wait_status("default", "sized", "Running", LIMIT).unwrap();
    uses("100m");
    resize(&platform, "sized", "250m").unwrap();
    uses("250m");
    let said = resize(&platform, "sized", "400m").unwrap_err();
    assert!(
        said.contains("pods \"sized\" is forbidden: exceeded quota: q, requested: requests.cpu=150m, used: requests.cpu=250m, limited: requests.cpu=300m"),
        "{said}"
    );
    platform
        .wait_pod("default", "sized", "the resize to be in force", LIMIT, |pod| {
            (pod["status"]["containerStatuses"][0]["resources"]["requests"]["cpu"] == "250m").then_some(())
        })
        .unwrap();
    // Less is counted once the pod has it.
    resize(&platform, "sized", "50m").unwrap();
    uses("50m");
    platform
        .create("{apiVersion: v1, kind: LimitRange, metadata: {name: r}, spec: {limits: [{type: Container, min: {cpu: 40m}}]}}")
        .unwrap();
    let said = resize(&platform, "sized", "30m").unwrap_err();
    assert!(
        said.contains("pods \"sized\" is forbidden: minimum cpu usage per Container is 40m, but request is 30m"),
        "{said}"
    );
}

/// What a node can never give takes no room from others; what it may give at any
/// time does.
#[test]
fn root_an_infeasible_resize_takes_no_room() {
    let build = Build::from_env().unwrap();
    let platform = Platform::start("resizeroom", &build).unwrap();
    platform.create(&pod("greedy", "100m")).unwrap();
    platform.wait_status("default", "greedy", "Running", LIMIT).unwrap();
    resize(&platform, "greedy", "64").unwrap();
    platform
        .wait_pod("default", "greedy", "found infeasible", LIMIT, |pod| {
            let conditions = pod["status"]["conditions"].as_array()?;
            conditions
                .iter()
                .any(|condition| condition["type"] == "PodResizePending" && condition["reason"] == "Infeasible")
                .then_some(())
        })
        .unwrap();
    platform.create(&pod("next", "200m")).unwrap();
    platform.wait_status("default", "next", "Running", LIMIT).unwrap();

    // Deferred, it waits for `next` to go; nobody else gets what it waits for.
    let node = platform.get("", "node", "node1").unwrap().unwrap();
    let cpus: u64 = node["status"]["allocatable"]["cpu"].as_str().unwrap().parse().unwrap();
    resize(&platform, "greedy", &format!("{}m", cpus * 1000 - 100)).unwrap();
    platform
        .wait_pod("default", "greedy", "deferred", LIMIT, |pod| {
            let conditions = pod["status"]["conditions"].as_array()?;
            conditions
                .iter()
                .any(|condition| condition["type"] == "PodResizePending" && condition["reason"] == "Deferred")
                .then_some(())
        })
        .unwrap();
    platform.create(&pod("late", "200m")).unwrap();
    platform
        .wait_pod("default", "late", "found to fit nowhere", LIMIT, |pod| {
            let said = pod["status"]["conditions"][0]["message"].as_str()?;
            said.contains("1 Insufficient cpu").then_some(())
        })
        .unwrap();
    platform.ok(&["delete", "pod", "next", "--wait=true"]).unwrap();
    platform
        .wait_pod("default", "greedy", "given what it waits for", LIMIT, |pod| {
            let has = &pod["status"]["containerStatuses"][0]["resources"]["requests"]["cpu"];
            (*has == format!("{}m", cpus * 1000 - 100)).then_some(())
        })
        .unwrap();
}
