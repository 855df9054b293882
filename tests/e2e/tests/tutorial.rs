//! The tutorial's command blocks, its manifests unchanged, through the stock
//! `kubectl` against real containers.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use e2e::Platform;
use e2e::host::run;
use e2e::page;
use e2e::platform::{Build, restarts};
use e2e::wait;

const LIMIT: Duration = Duration::from_secs(60);

/// Section 2: the main container waits for two init containers, each of which
/// waits for an address.
/// Shows: 14.1.22 14.2.1
/// Fields: spec.initContainers spec.containers[].ports spec.containers[].ports[].containerPort spec.containers[].ports[].name spec.nodeName
#[test]
fn root_an_init_container_pod_waits_for_its_addresses() {
    let build = Build::from_env().unwrap();
    let platform = Platform::start("tutorial", &build).unwrap();
    platform.host.add_interface("ens33", "192.168.90.10/24").unwrap();
    platform.ok(&["create", "namespace", "dev"]).unwrap();
    let created = platform.create(include_str!("../manifests/pod-initcontainer.yaml")).unwrap();
    assert_eq!(created, "pod/pod-initcontainer created\n");

    // `kubectl get -w` from the first state on.
    platform.wait_status("dev", "pod-initcontainer", "Init:0/2", LIMIT).unwrap();
    let mut watch = platform.kubectl_command();
    watch
        .args(["get", "pods", "pod-initcontainer", "-n", "dev", "-w"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut watch = watch.spawn().unwrap();
    let seen = Arc::new(Mutex::new(Vec::<String>::new()));
    let stdout = watch.stdout.take().unwrap();
    let reader = std::thread::spawn({
        let seen = seen.clone();
        move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                seen.lock().unwrap().push(line);
            }
        }
    });
    wait::until("the watch to begin", LIMIT, || {
        Ok(if seen.lock().unwrap().len() >= 2 {
            Ok(())
        } else {
            Err("no line yet".to_owned())
        })
    })
    .unwrap();

    printed(&platform, "pod-initcontainer", "pod-initcontainer-waits");
    let events = platform.events("dev", "pod-initcontainer").unwrap();
    assert!(!events.contains("Started container test-redis"), "{events}");

    platform.host.add_address("ens33", "192.168.90.14/24").unwrap();
    platform.wait_status("dev", "pod-initcontainer", "Init:1/2", LIMIT).unwrap();
    platform.host.add_address("ens33", "192.168.90.15/24").unwrap();
    platform.wait_status("dev", "pod-initcontainer", "Running", LIMIT).unwrap();
    let running = |lines: &[String]| lines.iter().any(|line| line.contains("1/1") && line.contains("Running"));
    wait::until("the watch to show Running", LIMIT, || {
        let lines = seen.lock().unwrap();
        Ok(if running(&lines) { Ok(()) } else { Err(lines.join("\n")) })
    })
    .unwrap();
    watch.kill().unwrap();
    watch.wait().unwrap();
    reader.join().unwrap();
    let lines = seen.lock().unwrap().clone();
    let mut states: Vec<&str> = lines.iter().skip(1).filter_map(|line| line.split_whitespace().nth(2)).collect();
    states.dedup();
    assert_eq!(states, ["Init:0/2", "Init:1/2", "PodInitializing", "Running"], "{lines:#?}");

    let ip = platform
        .ok(&["get", "pod", "pod-initcontainer", "-n", "dev", "-o", "jsonpath={.status.podIP}"])
        .unwrap();
    let page = run(platform
        .host
        .command("curl")
        .args(["-sSf", "--max-time", "10", &format!("http://{ip}/")]))
    .unwrap();
    assert!(String::from_utf8_lossy(&page.stdout).contains("Welcome to nginx!"));
    printed(&platform, "pod-initcontainer", "pod-initcontainer");
    let deleted = platform.ok(&["delete", "pod", "pod-initcontainer", "-n", "dev"]).unwrap();
    assert!(deleted.starts_with("pod \"pod-initcontainer\" deleted"), "{deleted}");
    assert_eq!(platform.get("dev", "pod", "pod-initcontainer").unwrap(), None);
}

/// Section 3: the page is what the `postStart` hook wrote, and the `preStop`
/// hook ends the server before its grace is over.
/// Shows: 14.1.17 14.1.21
/// Fields: spec.containers[].lifecycle.postStart.exec.* spec.containers[].lifecycle.preStop.exec.*
#[test]
fn root_hooks_run_after_the_start_and_before_the_stop() {
    let build = Build::from_env().unwrap();
    let platform = Platform::start("hooks", &build).unwrap();
    platform.ok(&["create", "namespace", "dev"]).unwrap();
    let created = platform.create(include_str!("../manifests/pod-hook-exec.yaml")).unwrap();
    assert_eq!(created, "pod/pod-hook-exec created\n");
    platform.wait_status("dev", "pod-hook-exec", "Running", LIMIT).unwrap();
    let listed = platform.ok(&["get", "pods", "pod-hook-exec", "-n", "dev", "-o", "wide"]).unwrap();
    printed(&platform, "pod-hook-exec", "pod-hook-exec");
    let row: Vec<&str> = listed.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row[1..4], ["1/1", "Running", "0"], "{listed}");
    let page = run(platform
        .host
        .command("curl")
        .args(["-sSf", "--max-time", "10", &format!("http://{}/", row[5])]))
    .unwrap();
    assert_eq!(String::from_utf8_lossy(&page.stdout), "postStart...\n");

    let mut watch = platform.kubectl_command();
    watch
        .args(["get", "pod", "pod-hook-exec", "-n", "dev", "-w", "-o"])
        .arg("jsonpath={.status.containerStatuses[0].state.terminated.exitCode}{\"\\n\"}")
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut watch = watch.spawn().unwrap();
    let stdout = watch.stdout.take().unwrap();
    let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
    assert_eq!(lines.next().as_deref(), Some(""));
    let deleted = platform.ok(&["delete", "pod", "pod-hook-exec", "-n", "dev"]).unwrap();
    assert!(deleted.starts_with("pod \"pod-hook-exec\" deleted"), "{deleted}");
    // `nginx -s quit` ends it well.
    let code = lines.find(|line| !line.is_empty());
    watch.kill().unwrap();
    watch.wait().unwrap();
    assert_eq!(code.as_deref(), Some("0"));
    let events = platform.events("dev", "pod-hook-exec").unwrap();
    assert!(!events.contains("FailedPreStopHook") && events.contains("Killing"), "{events}");
}

/// Compares what `kubectl describe` and `kubectl events` print of a pod in
/// namespace `dev`, as a whole, with the golden texts of that name.
fn printed(platform: &Platform, pod: &str, name: &str) {
    let object = platform.get("dev", "pod", pod).unwrap().unwrap();
    let description = platform.ok(&["describe", "pod", pod, "-n", "dev"]).unwrap();
    let events = platform.ok(&["events", "--for", &format!("pod/{pod}"), "-n", "dev"]).unwrap();
    page::compare(&format!("{name}.describe"), &description, &object).unwrap();
    page::compare(&format!("{name}.events"), &events, &object).unwrap();
}

/// Section 4: a container whose liveness probe fails three times is restarted,
/// whichever way it is probed.
/// Shows: 14.1.3 14.1.4 14.1.5
/// Fields: spec.containers[].livenessProbe.tcpSocket spec.containers[].livenessProbe.tcpSocket.port spec.containers[].livenessProbe.httpGet spec.containers[].livenessProbe.httpGet.port spec.containers[].livenessProbe.httpGet.path
#[test]
fn root_liveness_probes_restart_what_fails_them() {
    let build = Build::from_env().unwrap();
    let platform = Platform::start("liveness", &build).unwrap();
    platform.ok(&["create", "namespace", "dev"]).unwrap();
    for (name, manifest) in [
        ("pod-liveness-exec", include_str!("../manifests/pod-liveness-exec.yaml")),
        ("pod-liveness-tcpsocket", include_str!("../manifests/pod-liveness-tcpsocket.yaml")),
        ("pod-liveness-httpget", include_str!("../manifests/pod-liveness-httpget.yaml")),
    ] {
        assert_eq!(platform.create(manifest).unwrap(), format!("pod/{name} created\n"));
    }
    for name in ["pod-liveness-exec", "pod-liveness-tcpsocket", "pod-liveness-httpget"] {
        let pod = platform
            .wait_pod("dev", name, "a restart", LIMIT, |pod| (restarts(pod) >= 1).then(|| pod.clone()))
            .unwrap();
        assert_eq!(restarts(&pod), 1, "{pod}");
        platform.wait_status("dev", name, "Running", LIMIT).unwrap();
        let counted = "jsonpath={.items[?(@.reason==\"Started\")].count} {.items[?(@.reason==\"Killing\")].count}";
        let selector = format!("involvedObject.name={name}");
        let counts = platform
            .ok(&["get", "events", "-n", "dev", "--field-selector", &selector, "-o", counted])
            .unwrap();
        assert_eq!(counts, "2 1", "each event is one, counted");
        printed(&platform, name, name);
    }
}

/// Section 5: with `restartPolicy: Never` the kill is final.
/// Shows: 14.1.25
#[test]
fn root_a_policy_of_never_restarts_nothing() {
    let build = Build::from_env().unwrap();
    let platform = Platform::start("never", &build).unwrap();
    platform.ok(&["create", "namespace", "dev"]).unwrap();
    platform.create(include_str!("../manifests/pod-restartpolicy.yaml")).unwrap();
    platform.wait_status("dev", "pod-restartpolicy", "Completed", LIMIT).unwrap();
    printed(&platform, "pod-restartpolicy", "pod-restartpolicy");
    let pod = platform.get("dev", "pod", "pod-restartpolicy").unwrap().unwrap();
    assert_eq!((restarts(&pod), pod["status"]["phase"].as_str()), (0, Some("Succeeded")), "{pod}");
}

/// Section 4, its end: what a probe can be told is explained, and a probe that
/// is told to wait waits.
/// Fields: spec.containers[].livenessProbe.initialDelaySeconds spec.containers[].livenessProbe.timeoutSeconds
#[test]
fn root_a_liveness_probe_waits_for_its_delay() {
    let build = Build::from_env().unwrap();
    let platform = Platform::start("delay", &build).unwrap();
    let explained = platform.ok(&["explain", "pod.spec.containers.livenessProbe"]).unwrap();
    for (field, kind) in [
        ("exec", "<ExecAction>"),
        ("tcpSocket", "<TCPSocketAction>"),
        ("httpGet", "<HTTPGetAction>"),
        ("initialDelaySeconds", "<integer>"),
        ("timeoutSeconds", "<integer>"),
        ("periodSeconds", "<integer>"),
        ("failureThreshold", "<integer>"),
        ("successThreshold", "<integer>"),
    ] {
        let told = explained
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            // Before 1.27, kubectl called every type of many fields an Object.
            .any(|words| words == [field, kind] || (kind != "<integer>" && words == [field, "<Object>"]));
        assert!(told, "{field} {kind}: {explained}");
    }

    platform.ok(&["create", "namespace", "dev"]).unwrap();
    platform
        .create(include_str!("../manifests/pod-liveness-httpget-delayed.yaml"))
        .unwrap();
    platform.wait_status("dev", "pod-liveness-httpget", "Running", LIMIT).unwrap();
    let log = ["logs", "-n", "dev", "pod-liveness-httpget"];
    let first = wait::until("the first probe", LIMIT, || {
        let log = platform.ok(&log)?;
        Ok(log.lines().next().map(str::to_owned).ok_or_else(|| "no request yet".to_owned()))
    })
    .unwrap();
    assert!(first.contains("\"GET / HTTP/1.1\" 200") && first.contains("kube-probe/"), "{first}");
    let pod = platform.get("dev", "pod", "pod-liveness-httpget").unwrap().unwrap();
    assert_eq!(restarts(&pod), 0, "{pod}");
    // `[23/Nov/2026:15:53:40 +0000]` against `2026-11-23T15:53:10Z`.
    let probed = first.split(['[', ']']).nth(1).unwrap();
    let started = pod["status"]["containerStatuses"][0]["state"]["running"]["startedAt"]
        .as_str()
        .unwrap();
    let waited_s = (second_of_day(&probed[12..20]) + 86_400 - second_of_day(&started[11..19])) % 86_400;
    assert!((30..60).contains(&waited_s), "probed {waited_s} s after the start: {first} {pod}");
}

/// Of `HH:MM:SS`.
fn second_of_day(time: &str) -> u32 {
    time.split(':')
        .map(|part| part.parse::<u32>().unwrap())
        .fold(0, |sum, part| sum * 60 + part)
}

/// What does not work yet is refused by name, and nothing is created.
#[test]
fn root_what_is_not_done_yet_is_refused_by_name() {
    let build = Build::from_env().unwrap();
    let platform = Platform::start("refusals", &build).unwrap();
    platform.ok(&["create", "namespace", "dev"]).unwrap();
    let manifest = include_str!("../manifests/pod-hook-exec.yaml");
    for (more, field) in [
        ("  volumes:\n  - name: v\n    nfs: { server: s, path: / }\n", "spec.volumes[0]"),
        (
            "    securityContext: { seLinuxOptions: { level: 's0:c1' } }\n",
            "spec.containers[0].securityContext.seLinuxOptions",
        ),
    ] {
        let refusal = format!("{:#}", platform.create(&format!("{}\n{more}", manifest.trim_end())).unwrap_err());
        assert!(refusal.contains(field) && refusal.contains("Forbidden"), "{refusal}");
    }
    assert_eq!(platform.ok(&["get", "pods", "-n", "dev", "-o", "name"]).unwrap(), "");
}
