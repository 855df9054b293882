//! `lifepod run`: the one-shot job, with its life shown and nothing left.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use e2e::Platform;
use e2e::host::run;
use e2e::platform::Build;
use e2e::registry::Registry;

#[test]
fn root_a_one_shot_run_shows_a_pods_life_and_gives_its_exit_code() {
    let build = Build::from_env().unwrap();
    let platform = Platform::prepared("run", &build, &[]).unwrap();
    for archive in fs::read_dir(&build.images)
        .unwrap()
        .flatten()
        .filter(|entry| entry.path().extension().is_some_and(|e| e == "tar"))
    {
        e2e::host::run(platform.lifepod(&["images", "import"]).arg(archive.path())).unwrap();
    }
    let manifest = tempfile::NamedTempFile::new().unwrap();
    fs::write(
        manifest.path(),
        "apiVersion: v1\nkind: Pod\nmetadata: {name: job, namespace: once}\nspec:\n  restartPolicy: Never\n  containers: [{name: c, image: 'busybox:1.30', command: ['sh', '-c', 'echo hello; exit 5']}]\n",
    )
    .unwrap();
    let file = manifest.path().to_string_lossy().into_owned();
    let mut command = platform.lifepod(&["run", "-f", &file, "--node-name", "node1", "--cgroup-root", platform.cgroup_root()]);
    let output = command.output().unwrap();
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(
        output.status.code(),
        Some(5),
        "{shown}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    for text in ["pod/job  created", "Started container c", "pod/job [c]  hello", "0/1 Error"] {
        assert!(shown.contains(text), "{text}\n{shown}");
    }
    assert_eq!(platform.leftovers().unwrap(), Vec::<String>::new());
}

/// An interrupted run deletes its Pods and ends; what it pulled is shown.
#[test]
fn root_an_interrupted_run_cleans_up() {
    let build = Build::from_env().unwrap();
    let platform = Platform::prepared("ctrl-c", &build, &[]).unwrap();
    let registry = Registry::start(&platform.host, "127.0.0.1:5000").unwrap();
    registry
        .push(&platform.host, &build.images.join("busybox-1.30.tar"), "team/busybox", "1")
        .unwrap();
    let manifest = tempfile::NamedTempFile::new().unwrap();
    fs::write(
        manifest.path(),
        "apiVersion: v1\nkind: Pod\nmetadata: {name: server}\nspec:\n  containers: [{name: c, image: '127.0.0.1:5000/team/busybox:1', command: ['sh', '-c', 'trap \"exit 0\" TERM; while true; do sleep 0.1; done']}]\n",
    )
    .unwrap();
    let file = manifest.path().to_string_lossy().into_owned();
    let mut command = platform.lifepod(&["run", "-f", &file, "--node-name", "node1", "--cgroup-root", platform.cgroup_root()]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut shown = Vec::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok) {
        if line.ends_with("1/1 Running") {
            run(Command::new("kill").args(["-INT", &child.id().to_string()])).unwrap();
        }
        shown.push(line);
    }
    assert_eq!(child.wait().unwrap().code(), Some(130), "{shown:#?}");
    for text in [
        "image 127.0.0.1:5000/team/busybox:1  layer",
        "Successfully pulled image",
        "1/1 Running",
    ] {
        assert!(shown.iter().any(|line| line.contains(text)), "{text}\n{shown:#?}");
    }
    assert_eq!(platform.leftovers().unwrap(), Vec::<String>::new());
}
