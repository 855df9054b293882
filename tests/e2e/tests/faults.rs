//! When things go wrong: one clear line, a non-zero exit, nothing half-made.

use std::fs;
use std::net::TcpListener;
use std::process::{Command, Output};

use e2e::Platform;
use e2e::platform::Build;

fn refused(output: &Output) -> String {
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "it should have failed: {words}");
    words.lines().last().unwrap_or_default().to_owned()
}

#[test]
fn root_what_stands_in_the_way_of_a_start_is_named() {
    let build = Build::from_env().unwrap();
    let mut platform = Platform::prepared("faults", &build, &[]).unwrap();

    // A user who may not.
    let outside = tempfile::tempdir().unwrap();
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&build.binary)
        .args(["up", "--data-dir"])
        .arg(outside.path().join("x"));
    let words = refused(&command.output().unwrap());
    assert!(words.contains("must run as root") || words.contains("Permission denied"), "{words}");
    assert!(!outside.path().join("x").exists());

    // Addresses that are none, and ones that are taken.
    let words = refused(&platform.lifepod(&["up", "--pod-cidr", "10.244.0.0/99"]).output().unwrap());
    assert!(words.contains("--pod-cidr 10.244.0.0/99"), "{words}");
    let name = platform.host.name().to_owned();
    let held = std::thread::spawn(move || {
        let file = fs::File::open(format!("/run/netns/{name}")).unwrap();
        rustix_setns(&file);
        TcpListener::bind("127.0.0.1:6443").unwrap()
    })
    .join()
    .unwrap();
    let words = refused(&platform.lifepod(&["up"]).output().unwrap());
    assert!(
        words.contains("cannot listen on 127.0.0.1:6443") && words.contains("--listen"),
        "{words}"
    );
    drop(held);

    // A data directory that is in use.
    platform.up().unwrap();
    let pid = platform.pid().unwrap().to_string();
    let words = refused(&platform.lifepod(&["up", "--listen", "127.0.0.1:7443"]).output().unwrap());
    assert!(words.contains("is in use by process") && words.contains(&pid), "{words}");
    platform.down().unwrap();
    assert_eq!(platform.leftovers().unwrap(), Vec::<String>::new());
}

/// Moves the calling thread into a network namespace.
fn rustix_setns(namespace: &fs::File) {
    use std::os::fd::AsFd;
    rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(rustix::thread::LinkNameSpaceType::Network)).unwrap();
}

#[test]
fn root_bad_manifests_and_archives_are_refused_whole() {
    let build = Build::from_env().unwrap();
    let platform = Platform::start("manifests", &build).unwrap();
    let create = |manifest: &str| format!("{:#}", platform.create(manifest).unwrap_err());
    let words = create("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: c, image: i, imagee: x}]}\n");
    assert!(words.contains("unknown field \"spec.containers[0].imagee\""), "{words}");
    let words = create("apiVersion: v1\nkind: Pod\nmetadata: {name: A_b}\nspec: {containers: []}\n");
    assert!(
        words.contains("spec.containers: Required value") && words.contains("a lowercase RFC 1123 subdomain"),
        "{words}"
    );
    let words = create("apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: nowhere}\nspec: {containers: [{name: c, image: i}]}\n");
    assert!(words.contains("namespaces \"nowhere\" not found"), "{words}");

    let junk = tempfile::NamedTempFile::new().unwrap();
    fs::write(junk.path(), b"this is no archive").unwrap();
    let words = refused(&platform.lifepod(&["images", "import"]).arg(junk.path()).output().unwrap());
    assert!(words.contains(&junk.path().to_string_lossy().into_owned()), "{words}");
    let names = platform.lifepod(&["images", "ls"]).output().unwrap();
    let names = String::from_utf8_lossy(&names.stdout).into_owned();
    assert!(names.contains("busybox") && names.contains("nginx"), "{names}");

    let words = refused(&platform.lifepod(&["run", "-f", "/no/such/manifest.yaml"]).output().unwrap());
    assert!(words.contains("/no/such/manifest.yaml"), "{words}");
}

#[test]
fn root_nothing_is_answered_without_credentials_but_health_and_version() {
    let build = Build::from_env().unwrap();
    let platform = Platform::start("anonymous", &build).unwrap();
    let code = |path: &str| {
        let url = format!("https://127.0.0.1:6443{path}");
        let output = platform
            .host
            .command("curl")
            .args(["-sk", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "10", &url])
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    for path in ["/livez", "/readyz", "/healthz", "/version"] {
        assert_eq!(code(path), "200", "{path}");
    }
    for path in [
        "/",
        "/api",
        "/api/v1/pods",
        "/apis",
        "/metrics",
        "/openapi/v3",
        "/api/v1/nodes/node1/proxy/pods",
        "/nowhere",
    ] {
        assert_eq!(code(path), "401", "{path}");
    }
    let mode = fs::metadata(platform.kubeconfig()).unwrap();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode.permissions()) & 0o777, 0o600);
}

/// Runs `lifepod up` where `hide` has hidden something of the kernel's.
fn up_without(platform: &Platform, build: &Build, hide: &str) -> String {
    let mut command = platform.host.command("unshare");
    let script = format!("{hide} && exec \"$0\" up --data-dir \"$1\" --cgroup-root \"$2\"");
    command
        .args(["--mount", "sh", "-c", &script])
        .arg(&build.binary)
        .arg(platform.data_dir())
        .arg(platform.cgroup_root());
    refused(&command.output().unwrap())
}

#[test]
fn root_a_kernel_that_lacks_something_is_told_apart() {
    let build = Build::from_env().unwrap();
    let platform = Platform::prepared("kernel", &build, &[]).unwrap();
    let words = up_without(
        &platform,
        &build,
        "echo 'nodev proc' > /dev/shm/$$ && mount --bind /dev/shm/$$ /proc/filesystems && rm /dev/shm/$$",
    );
    assert!(words.contains("overlayfs") && words.contains("modprobe overlay"), "{words}");
    let words = up_without(&platform, &build, "umount --recursive --lazy /sys/fs/cgroup");
    assert!(words.contains("cgroup"), "{words}");
}

/// A small file system of its own for a data directory. Unmounted when dropped.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn mount(at: &std::path::Path, size: &str) -> Self {
        fs::create_dir_all(at).unwrap();
        e2e::host::run(
            Command::new("mount")
                .args(["-t", "tmpfs", "-o", &format!("size={size},mode=700"), "tmpfs"])
                .arg(at),
        )
        .unwrap();
        Self(at.to_owned())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn root_a_full_disk_refuses_writes_and_loses_nothing() {
    let build = Build::from_env().unwrap();
    let mut platform = Platform::prepared("full", &build, &[]).unwrap();
    let disk = SmallDisk::mount(&platform.data_dir(), "24m");
    platform.up().unwrap();
    let object = |name: &str| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata: {{text: '{}'}}\n",
            "x".repeat(200_000)
        )
    };
    platform.create(&object("before")).unwrap();
    // Everything that is left, by something that is not Lifepod.
    let filler = platform.data_dir().join("filler");
    let _ = Command::new("dd")
        .args(["if=/dev/zero", "bs=64k"])
        .arg(format!("of={}", filler.display()))
        .output()
        .unwrap();
    let mut refusal = None;
    for number in 0..20 {
        if let Err(error) = platform.create(&object(&format!("during-{number}"))) {
            refusal = Some(format!("{error:#}"));
            break;
        }
    }
    let refusal = refusal.expect("20 large objects cannot fit a full disk");
    assert!(refusal.contains("No space left on device"), "{refusal}");
    assert!(platform.get("default", "configmap", "before").unwrap().is_some(), "reads go on");

    fs::remove_file(filler).unwrap();
    platform.create(&object("after")).unwrap();
    platform.kill().unwrap();
    platform.up().unwrap();
    for name in ["before", "after"] {
        assert!(platform.get("default", "configmap", name).unwrap().is_some(), "{name}");
    }
    platform.down().unwrap();
    drop(disk);
}
