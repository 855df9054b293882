//! The tutorial's command blocks, its manifests unchanged, through the stock
//! `kubectl` against real containers.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use e2e::Platform;
use e2e::host::run;
use e2e::platform::Build;
use e2e::wait;

const LIMIT: Duration = Duration::from_secs(60);

/// Section 2: the main container waits for two init containers, each of which
/// waits for an address.
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

    let description = platform.ok(&["describe", "pod", "pod-initcontainer", "-n", "dev"]).unwrap();
    for (reason, message) in [
        ("Scheduled", "Successfully assigned dev/pod-initcontainer to node1"),
        ("Pulled", "Container image \"busybox:1.30\" already present on machine"),
        ("Created", "Created container: test-mysql"),
        ("Started", "Started container test-mysql"),
    ] {
        assert!(
            description.lines().any(|line| line.contains(reason) && line.ends_with(message)),
            "{reason} {message}\n{description}"
        );
    }
    assert!(!description.contains("Started container test-redis"), "{description}");

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
    let deleted = platform.ok(&["delete", "pod", "pod-initcontainer", "-n", "dev"]).unwrap();
    assert!(deleted.starts_with("pod \"pod-initcontainer\" deleted"), "{deleted}");
    assert_eq!(platform.get("dev", "pod", "pod-initcontainer").unwrap(), None);
}

/// Sections 3 to 5 need hooks and probes: until they run, they are refused by
/// name and nothing is created.
#[test]
fn root_what_is_not_done_yet_is_refused_by_name() {
    let build = Build::from_env().unwrap();
    let platform = Platform::start("refusals", &build).unwrap();
    platform.ok(&["create", "namespace", "dev"]).unwrap();
    for (manifest, field) in [
        (include_str!("../manifests/pod-hook-exec.yaml"), "spec.containers[0].lifecycle"),
        (
            include_str!("../manifests/pod-liveness-exec.yaml"),
            "spec.containers[0].livenessProbe",
        ),
        (
            include_str!("../manifests/pod-restartpolicy.yaml"),
            "spec.containers[0].livenessProbe",
        ),
    ] {
        let refusal = format!("{:#}", platform.create(manifest).unwrap_err());
        assert!(refusal.contains(field) && refusal.contains("Forbidden"), "{refusal}");
    }
    assert_eq!(platform.ok(&["get", "pods", "-n", "dev", "-o", "name"]).unwrap(), "");
}
