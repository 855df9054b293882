//! Probes that hang, hooks over HTTP, and what a watch sees of a pod's life.

use std::process::Stdio;
use std::time::Duration;

use e2e::Platform;
use e2e::platform::{Build, restarts};
use e2e::wait;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(60);

/// A command that exceeds its time has failed: a liveness probe restarts, a
/// readiness probe keeps the pod from being ready and restarts nothing, a
/// startup probe restarts.
///
/// Shows: 14.1.9 14.1.10
/// Fields: spec.containers[].livenessProbe spec.containers[].livenessProbe.exec.* spec.containers[].livenessProbe.timeoutSeconds spec.containers[].livenessProbe.periodSeconds spec.containers[].livenessProbe.failureThreshold
/// Fields: spec.containers[].readinessProbe spec.containers[].readinessProbe.exec.* spec.containers[].readinessProbe.timeoutSeconds spec.containers[].readinessProbe.periodSeconds spec.containers[].readinessProbe.failureThreshold
/// Fields: spec.containers[].startupProbe.exec.* spec.containers[].startupProbe.timeoutSeconds
/// Fields: status.containerStatuses[].ready status.containerStatuses[].restartCount
#[test]
fn root_a_probe_that_exceeds_its_time_has_failed() {
    let build = Build::from_env().unwrap();
    let platform = Platform::start("slow", &build).unwrap();
    for kind in ["liveness", "readiness", "startup"] {
        platform
            .create(&format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{name: {kind}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  - name: app\n    image: busybox:1.30\n    command: [sleep, '3600']\n    {kind}Probe: {{exec: {{command: [sleep, '30']}}, timeoutSeconds: 1, periodSeconds: 2, failureThreshold: 1}}\n"
            ))
            .unwrap();
    }
    for (name, kind) in [("liveness", "Liveness"), ("startup", "Startup")] {
        platform
            .wait_pod("default", name, "a restart", LIMIT, |pod| (restarts(pod) >= 1).then_some(()))
            .unwrap();
        let text = format!("Warning Unhealthy {kind} probe failed: command \"sleep 30\" timed out");
        let seen = platform.events("default", name).unwrap();
        assert!(seen.contains(&text), "{seen}");
    }
    let text = "Warning Unhealthy Readiness probe failed: command \"sleep 30\" timed out";
    wait::until("the readiness probe to fail", LIMIT, || {
        let seen = platform.events("default", "readiness").unwrap();
        Ok(if seen.contains(text) { Ok(()) } else { Err(seen) })
    })
    .unwrap();
    let pod = platform.get("default", "pod", "readiness").unwrap().unwrap();
    let ready = &pod["status"]["containerStatuses"][0]["ready"];
    assert_eq!((restarts(&pod), ready), (0, &Value::from(false)), "{pod}");
}

/// Hooks ask another pod; the watch tells the pod's whole life, in order.
///
/// Shows: 14.1.18 14.1.31 14.3.9
/// Fields: spec.containers[].lifecycle spec.containers[].lifecycle.postStart spec.containers[].lifecycle.preStop
/// Fields: spec.containers[].lifecycle.postStart.httpGet spec.containers[].lifecycle.postStart.httpGet.host spec.containers[].lifecycle.postStart.httpGet.port spec.containers[].lifecycle.postStart.httpGet.path
/// Fields: spec.containers[].lifecycle.preStop.httpGet spec.containers[].lifecycle.preStop.httpGet.host spec.containers[].lifecycle.preStop.httpGet.port spec.containers[].lifecycle.preStop.httpGet.path
/// Fields: status.phase metadata.deletionTimestamp
#[test]
fn root_hooks_ask_over_http_and_a_watch_sees_the_whole_life() {
    let build = Build::from_env().unwrap();
    let platform = Platform::start("http-hooks", &build).unwrap();
    platform
        .create("apiVersion: v1\nkind: Pod\nmetadata: {name: handler}\nspec:\n  containers: [{name: c, image: 'busybox:1.30', command: [httpd, -f, -vv, -p, '8080']}]\n")
        .unwrap();
    platform.wait_status("default", "handler", "Running", LIMIT).unwrap();
    let ip = platform.ok(&["get", "pod", "handler", "-o", "jsonpath={.status.podIP}"]).unwrap();
    let mut watch = platform.kubectl_command();
    watch
        .args(["get", "pods", "-w", "--output-watch-events", "-o"])
        .arg("jsonpath={.type} {.object.metadata.name} {.object.status.phase} {.object.metadata.deletionTimestamp}{\"\\n\"}")
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let file = tempfile::NamedTempFile::new().unwrap();
    watch.stdout(file.reopen().unwrap());
    let mut watch = watch.spawn().unwrap();
    let seen = || {
        let text = std::fs::read_to_string(file.path()).unwrap_or_default();
        text.lines()
            .filter(|line| line.contains(" hooked "))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    wait::until("the watch to begin", LIMIT, || {
        let text = std::fs::read_to_string(file.path())?;
        Ok(if text.contains(" handler ") { Ok(()) } else { Err(text) })
    })
    .unwrap();
    platform
        .create(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: hooked}}\nspec:\n  terminationGracePeriodSeconds: 5\n  containers:\n  - name: c\n    image: busybox:1.30\n    command: [sleep, '3600']\n    lifecycle:\n      postStart: {{httpGet: {{host: {ip}, port: 8080, path: /began}}}}\n      preStop: {{httpGet: {{host: {ip}, port: 8080, path: /ends}}}}\n"
        ))
        .unwrap();
    platform.wait_status("default", "hooked", "Running", LIMIT).unwrap();
    assert!(platform.ok(&["logs", "handler"]).unwrap().contains("/began"));
    platform.ok(&["delete", "pod", "hooked"]).unwrap();
    assert!(platform.ok(&["logs", "handler"]).unwrap().contains("/ends"));
    let told = wait::until("the watch to end with DELETED", LIMIT, || {
        let lines = seen();
        let ended = lines.last().is_some_and(|line| line.starts_with("DELETED"));
        Ok(if ended { Ok(lines) } else { Err(lines.join("\n")) })
    });
    watch.kill().unwrap();
    watch.wait().unwrap();
    let lines = told.unwrap();
    assert!(lines[0].starts_with("ADDED hooked Pending"), "{lines:#?}");
    let at = |what: &dyn Fn(&&String) -> bool| lines.iter().position(|line| what(&line));
    let running = at(&|line| line.starts_with("MODIFIED hooked Running")).unwrap();
    let marked = at(&|line| line.ends_with('Z')).unwrap();
    let terminal = at(&|line| line.contains(" Failed ")).unwrap();
    assert!(running < marked && marked < terminal && terminal < lines.len(), "{lines:#?}");
}
