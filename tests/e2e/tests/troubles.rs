//! What keeps a node from doing as it should, made to happen: a runtime that
//! does not answer, a directory and a cgroup that cannot be made, more name
//! servers than a resolver reads. Each is told in upstream's words, and none
//! holds a pod for ever.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use e2e::Platform;
use e2e::host::run;
use e2e::platform::Build;
use e2e::wait;

const LIMIT: Duration = Duration::from_secs(90);

/// Waits for an event, given as the beginning of `TYPE REASON MESSAGE`, about an object.
fn await_event(platform: &Platform, object: &str, wanted: &str) {
    wait::until(&format!("the event {wanted:?}"), LIMIT, || {
        let seen = platform.events("default", object)?;
        let told = seen.lines().any(|line| line.starts_with(wanted));
        Ok(if told { Ok(()) } else { Err(seen) })
    })
    .unwrap();
}

fn sleeper(name: &str, more: &str, cpu_milli: u64) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 1\n{more}  containers:\n  - name: c\n    image: busybox:1.30\n    command: [sleep, '3600']\n    resources: {{requests: {{cpu: {cpu_milli}m}}}}\n"
    )
}

/// Creates a pod that no node is given yet; its UID.
fn hold_back(platform: &Platform, name: &str, more: &str) -> String {
    let gated = format!("  schedulingGates: [{{name: example.org/not-yet}}]\n{more}");
    platform.create(&sleeper(name, &gated, 1)).unwrap();
    let pod = platform.get("default", "pod", name).unwrap().unwrap();
    pod["metadata"]["uid"].as_str().unwrap().to_owned()
}

fn let_go(platform: &Platform, name: &str) {
    let patch = r#"[{"op":"remove","path":"/spec/schedulingGates"}]"#;
    platform.ok(&["patch", "pod", name, "--type=json", "-p", patch]).unwrap();
}

/// A process that is stopped; it goes on when the test ends.
struct Stopped(String);

impl Stopped {
    /// The shim of the pod with this UID.
    fn shim(platform: &Platform, uid: &str) -> Self {
        let dir = platform.data_dir().join("pods").join(uid);
        let needle = dir.to_string_lossy().into_owned();
        let shim = fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
            let pid = entry.file_name().to_string_lossy().parse::<u32>().ok()?;
            let line = String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/cmdline")).ok()?).replace('\0', " ");
            (line.contains("--dir") && line.contains(&needle)).then(|| pid.to_string())
        });
        let pid = shim.expect("the pod has a shim");
        run(Command::new("kill").args(["-STOP", &pid])).unwrap();
        Self(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // Killed by now, if all went well.
        let _ = Command::new("kill").args(["-CONT", &self.0]).output();
    }
}

/// The runtime of a pod hangs: its worker says so, who waits for its end says
/// so, and after its grace it is ended all the same.
#[test]
fn root_a_runtime_that_hangs_is_told_of_and_holds_nobody_for_ever() {
    let build = Build::from_env().unwrap();
    let mut platform = Platform::start("hangs", &build).unwrap();
    let node = platform.get("default", "node", "node1").unwrap().unwrap();
    let cpus: u64 = node["status"]["allocatable"]["cpu"].as_str().unwrap().parse().unwrap();
    platform.create(&sleeper("hung", "", cpus * 1000 - 20)).unwrap();
    platform.wait_status("default", "hung", "Running", LIMIT).unwrap();
    let hung = platform.get("default", "pod", "hung").unwrap().unwrap();
    let uid = hung["metadata"]["uid"].as_str().unwrap().to_owned();
    let _stopped = Stopped::shim(&platform, &uid);
    // Its worker looks at it from time to time.
    await_event(
        &platform,
        "hung",
        &format!("Warning FailedSync error determining status: shim of pod {uid}: the shim did not answer within 10s"),
    );

    let critical = "  nodeName: node1\n  priorityClassName: system-node-critical\n";
    platform.create(&sleeper("critical", critical, 500)).unwrap();
    await_event(
        &platform,
        "hung",
        "Warning ExceededGracePeriod Container runtime did not kill the pod within specified grace period.",
    );
    // Nobody lets the shim go on.
    let ended = platform
        .wait_pod("default", "hung", "its container's end", LIMIT, |pod| {
            let ended = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
            (ended["exitCode"].is_i64()).then(|| pod["status"].clone())
        })
        .unwrap();
    assert_eq!((&ended["phase"], &ended["reason"]), (&"Failed".into(), &"Preempting".into()));
    platform.wait_status("default", "critical", "Running", LIMIT).unwrap();
    platform.ok(&["delete", "pod", "hung", "critical", "--timeout=30s"]).unwrap();
    platform.down().unwrap();
    assert_eq!(platform.leftovers().unwrap(), Vec::<String>::new());
}

/// A Lifepod that starts anew finds a runtime that hangs: everybody else is
/// taken over as ever, and so is that pod once it answers.
#[test]
fn root_a_runtime_that_hangs_keeps_no_new_lifepod_from_starting() {
    let build = Build::from_env().unwrap();
    let mut platform = Platform::start("hangs-anew", &build).unwrap();
    for name in ["hung", "well"] {
        platform.create(&sleeper(name, "", 10)).unwrap();
        platform.wait_status("default", name, "Running", LIMIT).unwrap();
    }
    let status = |platform: &Platform, name: &str| platform.get("default", "pod", name).unwrap().unwrap()["status"].clone();
    let before = ["hung", "well"].map(|name| status(&platform, name));
    let hung = platform.get("default", "pod", "hung").unwrap().unwrap();
    let uid = hung["metadata"]["uid"].as_str().unwrap().to_owned();
    let stopped = Stopped::shim(&platform, &uid);
    platform.kill().unwrap();
    platform.up().unwrap();
    await_event(
        &platform,
        "hung",
        &format!("Warning FailedSync error determining status: shim of pod {uid}: the shim did not answer within 10s"),
    );
    platform.create(&sleeper("new", "", 10)).unwrap();
    platform.wait_status("default", "new", "Running", LIMIT).unwrap();
    assert_eq!(["hung", "well"].map(|name| status(&platform, name)), before);

    // What it can do again shows that it was taken over.
    drop(stopped);
    wait::until("an answer of the pod that hung", LIMIT, || {
        let said = platform.kubectl(&["exec", "hung", "--", "echo", "here"])?;
        Ok(if said.stdout == b"here\n" {
            Ok(())
        } else {
            Err(String::from_utf8_lossy(&said.stderr).into_owned())
        })
    })
    .unwrap();
    assert_eq!(status(&platform, "hung"), before[0], "no restart, no readiness that flips");
    platform.ok(&["delete", "pod", "hung", "well", "new", "--timeout=30s"]).unwrap();
    platform.down().unwrap();
    assert_eq!(platform.leftovers().unwrap(), Vec::<String>::new());
}

/// A file is where the pod's own directory should be, once that of its volumes
/// and once that of its records.
#[test]
fn root_a_pod_whose_directories_cannot_be_made_says_so_and_heals() {
    let build = Build::from_env().unwrap();
    let mut platform = Platform::start("directories", &build).unwrap();
    let data = platform.data_dir();
    let block = |name: &str, more: &str, parent: PathBuf| {
        let path = parent.join(hold_back(&platform, name, more));
        fs::write(&path, "in the way").unwrap();
        let_go(&platform, name);
        path
    };
    let told = |name: &str, path: &Path| {
        let path = path.display();
        await_event(
            &platform,
            name,
            &format!("Warning Failed error making pod data directories: mkdir {path}"),
        );
        platform.wait_status("default", name, "ContainerCreating", LIMIT).unwrap();
    };
    let no_volumes = "  automountServiceAccountToken: false\n";
    let volumes = block("volumes", "", data.join("volumes/disk"));
    let records = block("records", no_volumes, data.join("pods"));
    let deleted = block("deleted", "", data.join("volumes/disk"));
    for (name, path) in [("volumes", &volumes), ("records", &records), ("deleted", &deleted)] {
        told(name, path);
    }
    for (name, path) in [("volumes", &volumes), ("records", &records)] {
        fs::remove_file(path).unwrap();
        platform.wait_status("default", name, "Running", LIMIT).unwrap();
    }
    // What is in the way does not keep a pod from going.
    platform.ok(&["delete", "pod", "deleted", "--timeout=30s"]).unwrap();
    assert!(!deleted.exists());
    platform.down().unwrap();
    assert_eq!(platform.leftovers().unwrap(), Vec::<String>::new());
}

/// The cgroup of the platform, in the version 2 tree of this machine.
fn cgroup(platform: &Platform) -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let v2 = mounts.lines().find_map(|line| {
        let mut words = line.split(' ').skip(1);
        let point = words.next()?;
        (words.next()? == "cgroup2").then(|| PathBuf::from(point))
    });
    v2.expect("a version 2 tree of cgroups").join(platform.cgroup_root())
}

/// An administrator allows no more cgroups below the pods'.
#[test]
fn root_a_pod_that_may_have_no_cgroup_says_so_and_heals() {
    let build = Build::from_env().unwrap();
    let platform = Platform::start("no-cgroup", &build).unwrap();
    platform.create(&sleeper("first", "", 1)).unwrap();
    platform.wait_status("default", "first", "Running", LIMIT).unwrap();
    let limit = cgroup(&platform).join("cgroup.max.descendants");
    fs::write(&limit, "0").unwrap();
    platform.create(&sleeper("second", "", 1)).unwrap();
    await_event(
        &platform,
        "second",
        "Warning FailedCreatePodContainer unable to ensure pod container exists: making cgroup ",
    );
    platform.wait_status("default", "second", "ContainerCreating", LIMIT).unwrap();
    platform.wait_status("default", "first", "Running", LIMIT).unwrap();
    fs::write(&limit, "max").unwrap();
    platform.wait_status("default", "second", "Running", LIMIT).unwrap();
}

/// A resolver reads three name servers and 32 search domains: what a Pod adds
/// to its node's may be too much, and then the first are written.
/// Fields: spec.dnsConfig.* spec.dnsPolicy
#[test]
fn root_too_much_for_a_resolver_is_left_out_and_told() {
    let build = Build::from_env().unwrap();
    let of_node = tempfile::NamedTempFile::new().unwrap();
    fs::write(
        of_node.path(),
        "nameserver 192.0.2.1\nnameserver 192.0.2.2\nsearch node.example\noptions timeout:1\n",
    )
    .unwrap();
    let flags = ["--resolv-conf", &of_node.path().to_string_lossy()];
    let platform = Platform::start_with("resolver", &build, &flags).unwrap();
    let searches: Vec<String> = (0..32).map(|number| format!("s{number}.example")).collect();
    let config = format!(
        "  dnsPolicy: Default\n  dnsConfig:\n    nameservers: [198.51.100.1, 198.51.100.2]\n    searches: [{}]\n    options: [{{name: ndots, value: '2'}}, {{name: edns0}}, {{name: timeout, value: '3'}}]\n",
        searches.join(", ")
    );
    platform.create(&sleeper("crowded", &config, 1)).unwrap();
    platform.wait_status("default", "crowded", "Running", LIMIT).unwrap();
    let applied = format!("node.example {}", searches[..31].join(" "));
    await_event(
        &platform,
        "crowded",
        "Warning DNSConfigForming Nameserver limits were exceeded, some nameservers have been omitted, \
         the applied nameserver line is: 192.0.2.1 192.0.2.2 198.51.100.1",
    );
    await_event(
        &platform,
        "crowded",
        &format!(
            "Warning DNSConfigForming Search Line limits were exceeded, some search paths have been omitted, \
             the applied search line is: {applied}"
        ),
    );
    let written = platform.ok(&["exec", "crowded", "--", "cat", "/etc/resolv.conf"]).unwrap();
    assert_eq!(
        written,
        format!("search {applied}\nnameserver 192.0.2.1\nnameserver 192.0.2.2\nnameserver 198.51.100.1\noptions ndots:2 edns0 timeout:3\n")
    );
    // One whose settings are its own has none of its node's.
    let own = "  dnsPolicy: None\n  dnsConfig: {nameservers: [198.51.100.7], searches: [own.example]}\n";
    platform.create(&sleeper("own", own, 1)).unwrap();
    platform.wait_status("default", "own", "Running", LIMIT).unwrap();
    let written = platform.ok(&["exec", "own", "--", "cat", "/etc/resolv.conf"]).unwrap();
    assert_eq!(written, "search own.example\nnameserver 198.51.100.7\n");
    let events = platform
        .ok(&[
            "get",
            "events",
            "--field-selector",
            "involvedObject.name=own",
            "-o",
            "jsonpath={.items[*].reason}",
        ])
        .unwrap();
    assert!(events.contains("Started") && !events.contains("DNSConfigForming"), "{events}");
}
