//! Streams through the stock `kubectl`: exec, attach, cp, port-forward, logs.
//!
//! `LIFEPOD_KUBECTLS` names further clients, separated by colons: those before
//! 1.31 speak SPDY, later ones WebSocket.

use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use e2e::platform::Build;
use e2e::{Platform, wait};

/// For anything a test waits for.
const LIMIT: Duration = Duration::from_secs(90);

const PODS: &str = "apiVersion: v1
kind: Pod
metadata: {name: box}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: 'busybox:1.30', command: ['sleep', '100000']}]
---
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: 'nginx:1.17.1'}]
";

fn clients() -> Vec<String> {
    let more = std::env::var("LIFEPOD_KUBECTLS").unwrap_or_default();
    let more = more.split(':').filter(|path| !path.is_empty()).map(str::to_owned);
    std::iter::once("kubectl".to_owned()).chain(more).collect()
}

/// The platform's kubectl, but another program.
fn client(platform: &Platform, program: &str) -> Command {
    let mut command = platform.host.command(program);
    command.env("KUBECONFIG", platform.kubeconfig()).env("HOME", platform.data_dir());
    command
}

/// The same, ended with all it started once [`LIMIT`] has passed.
fn bounded(platform: &Platform, program: &str) -> Command {
    let mut command = client(platform, "timeout");
    command.args(["--kill-after=5", &LIMIT.as_secs().to_string(), program]);
    command
}

fn shell(platform: &Platform, script: &str, program: &str) -> Output {
    let mut command = bounded(platform, "sh");
    command.env("KUBECTL", program).args(["-c", script]).stdin(Stdio::null());
    let output = command.output().unwrap();
    // The code of `timeout` itself.
    assert_ne!(output.status.code(), Some(124), "not done within {LIMIT:?}: {script}\n{output:?}");
    output
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn running(platform: &Platform, pattern: &str) -> bool {
    let list = shell(platform, "kubectl exec box -- ps -o args", "kubectl");
    assert!(list.status.success(), "{list:?}");
    text(&list.stdout).lines().any(|line| line.starts_with(pattern))
}

/// Fields: spec.containers[].stdin spec.containers[].stdinOnce spec.containers[].tty
#[test]
fn root_streams_reach_containers_with_every_client() {
    let build = Build::from_env().unwrap();
    let mut platform = Platform::start("streams", &build).unwrap();
    platform.create(PODS).unwrap();
    for pod in ["box", "web"] {
        platform.wait_status("default", pod, "Running", LIMIT).unwrap();
    }
    for program in clients() {
        eprintln!("client {program}");
        commands(&platform, &program);
        input(&platform, &program);
        terminals(&platform, &program);
        copies(&platform, &program);
        ports(&platform, &program);
    }
    abandoned(&platform);
    attachments(&platform);
    interrupted(&mut platform);
}

/// Output, errors and exit codes.
fn commands(platform: &Platform, program: &str) {
    let ran = shell(platform, "$KUBECTL exec box -- sh -c 'echo out; echo err >&2; exit 7'", program);
    assert_eq!((text(&ran.stdout), ran.status.code()), ("out\n".to_owned(), Some(7)), "{ran:?}");
    assert!(text(&ran.stderr).starts_with("err\n"), "{ran:?}");
    assert!(text(&ran.stderr).contains("command terminated with exit code 7"), "{ran:?}");
    let missing = shell(platform, "$KUBECTL exec box -- no-such-program", program);
    assert!(!missing.status.success());
    assert!(
        text(&missing.stderr).contains("exec: \"no-such-program\": executable file not found in $PATH"),
        "{missing:?}"
    );
    let container = shell(platform, "$KUBECTL exec box -c nobody -- true", program);
    assert!(
        text(&container.stderr).contains("container nobody is not valid for pod box"),
        "{container:?}"
    );
    let many = shell(platform, "$KUBECTL exec box -- sh -c 'head -c 20000000 /dev/zero' | wc -c", program);
    assert_eq!(text(&many.stdout).trim(), "20000000");
}

/// Standard input: much of it, and its end.
fn input(platform: &Platform, program: &str) {
    let sums = shell(
        platform,
        "head -c 104857600 /dev/urandom > $HOME/big; sha256sum < $HOME/big; $KUBECTL exec -i box -- sha256sum < $HOME/big",
        program,
    );
    let sums = text(&sums.stdout);
    let lines: Vec<&str> = sums.lines().collect();
    assert!(lines.len() == 2 && lines[0] == lines[1], "{sums}");
    let back = shell(platform, "printf 'a\\nb\\n' | $KUBECTL exec -i box -- cat", program);
    assert_eq!(text(&back.stdout), "a\nb\n");
}

/// A terminal: its size, its changes, Ctrl-C.
fn terminals(platform: &Platform, program: &str) {
    // `script` reads its input until that ends, also when its command has
    // ended before: input without end would keep it for ever.
    let size = shell(
        platform,
        "script -qec 'stty rows 33 cols 77; $KUBECTL exec -it box -- stty size' /dev/null < /dev/null",
        program,
    );
    assert!(text(&size.stdout).contains("33 77"), "{size:?}");
    let mut child = bounded(platform, "script")
        .env("KUBECTL", program)
        .args([
            "-qec",
            "$KUBECTL exec -it box -- sh -c 'trap \"echo caught; exit 3\" INT; echo ready; while :; do sleep 0.1; done'",
            "/dev/null",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut seen = String::new();
    let mut buffer = [0; 1024];
    while !seen.contains("ready") {
        let n = std::io::Read::read(&mut stdout, &mut buffer).unwrap();
        assert!(n > 0, "{seen:?}");
        seen.push_str(&text(&buffer[..n]));
    }
    stdin.write_all(b"\x03").unwrap();
    while let Ok(n @ 1..) = std::io::Read::read(&mut stdout, &mut buffer) {
        seen.push_str(&text(&buffer[..n]));
    }
    assert!(seen.contains("caught"), "{seen:?}");
    assert_eq!(child.wait().unwrap().code(), Some(3), "{seen:?}");
}

fn copies(platform: &Platform, program: &str) {
    let copied = shell(
        platform,
        "$KUBECTL cp $HOME/big box:/tmp/big && $KUBECTL cp box:/tmp/big $HOME/back && cmp $HOME/big $HOME/back && echo same",
        program,
    );
    assert!(text(&copied.stdout).ends_with("same\n"), "{copied:?}");
}

fn ports(platform: &Platform, program: &str) {
    let forwarded = shell(
        platform,
        "$KUBECTL port-forward pod/web 18080:80 18081:81 > $HOME/forward.log 2>&1 & pid=$!
         for n in $(seq 200); do grep -q 18081 $HOME/forward.log && break; sleep 0.05; done
         for n in 1 2 3 4 5 6 7 8; do curl -sS --max-time 10 http://127.0.0.1:18080/ > $HOME/page$n & pages=\"$pages $!\"; done
         wait $pages
         cat $HOME/page*
         curl -sS --max-time 10 http://127.0.0.1:18081/ 2>&1
         kill $pid; wait $pid; cat $HOME/forward.log",
        program,
    );
    let said = text(&forwarded.stdout);
    assert_eq!(said.matches("<title>Welcome to nginx!</title>").count(), 8, "{said}");
    assert!(said.contains("connect: connection refused"), "{said}");
}

/// A client that is killed leaves no process behind, its jobs included.
fn abandoned(platform: &Platform) {
    let mut child = client(platform, "kubectl")
        .args(["exec", "box", "--", "sh", "-c", "sleep 7777 & sleep 8888"])
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let both = || running(platform, "sleep 7777") && running(platform, "sleep 8888");
    wait::until("the command to run", LIMIT, || Ok(both().then_some(()).ok_or_else(String::new))).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let neither = || !running(platform, "sleep 7777") && !running(platform, "sleep 8888");
    wait::until("the command to be gone", LIMIT, || {
        Ok(neither().then_some(()).ok_or_else(String::new))
    })
    .unwrap();
}

/// `kubectl run -i` and attach: input with its end, and output.
fn attachments(platform: &Platform) {
    let ran = shell(
        platform,
        "(sleep 3; echo hello) | $KUBECTL run once -i --rm --restart=Never --image=busybox:1.30 -- sh -c 'cat; echo end'",
        "kubectl",
    );
    let said = text(&ran.stdout);
    assert!(said.contains("hello\nend\n"), "{ran:?}");
    platform
        .create("apiVersion: v1\nkind: Pod\nmetadata: {name: talk}\nspec:\n  restartPolicy: Never\n  containers: [{name: c, image: 'busybox:1.30', stdin: true, tty: true, command: ['sh']}]\n")
        .unwrap();
    platform.wait_status("default", "talk", "Running", LIMIT).unwrap();
    let talked = shell(
        platform,
        "(sleep 2; echo 'tty; stty size; exit 0'; sleep 3) | script -qec 'stty rows 20 cols 90; $KUBECTL attach -it talk' /dev/null",
        "kubectl",
    );
    let said = text(&talked.stdout);
    assert!(said.contains("/dev/pts/") && said.contains("20 90"), "{talked:?}");
    let log = platform.ok(&["logs", "talk"]).unwrap();
    assert!(log.contains("20 90"), "{log}");
}

/// Lifepod restarted in the middle: the session says so, the container goes on.
fn interrupted(platform: &mut Platform) {
    let started = |platform: &Platform| {
        platform
            .ok(&["get", "pod", "box", "-o", "jsonpath={.status.containerStatuses[0]}"])
            .unwrap()
    };
    let before = started(platform);
    let child = bounded(platform, "kubectl")
        .args(["exec", "box", "--", "sleep", "6666"])
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait::until("the command to run", LIMIT, || {
        Ok(running(platform, "sleep 6666").then_some(()).ok_or_else(String::new))
    })
    .unwrap();
    platform.stop().unwrap();
    let ended = child.wait_with_output().unwrap();
    assert!(!ended.status.success());
    assert!(text(&ended.stderr).contains("the node agent is shutting down"), "{ended:?}");
    platform.up().unwrap();
    assert_eq!(started(platform), before);
    assert!(!running(platform, "sleep 6666"));
}

#[test]
fn root_logs_are_followed_across_rotation() {
    let build = Build::from_env().unwrap();
    let platform = Platform::start("rotate", &build).unwrap();
    platform
        .create("apiVersion: v1\nkind: Pod\nmetadata: {name: noisy}\nspec:\n  restartPolicy: Never\n  containers: [{name: c, image: 'busybox:1.30', command: ['sh', '-c', 'i=0; while [ $i -lt 300000 ]; do echo \"line $i of a log that is long enough to be put aside\"; i=$((i+1)); done']}]\n")
        .unwrap();
    platform
        .wait_pod("default", "noisy", "begun", LIMIT, |pod| {
            (pod["status"]["phase"] != "Pending").then_some(())
        })
        .unwrap();
    let followed = text(&shell(&platform, "kubectl logs -f noisy", "kubectl").stdout);
    let expected = |n: usize| format!("line {n} of a log that is long enough to be put aside");
    let numbers: Vec<&str> = followed.lines().collect();
    assert_eq!(numbers.len(), 300_000);
    assert!(
        numbers.iter().enumerate().all(|(n, line)| **line == expected(n)),
        "a line is missing or twice"
    );
    let tail = platform.ok(&["logs", "--tail=200000", "noisy"]).unwrap();
    assert_eq!(tail.lines().next(), Some(expected(100_000).as_str()));
    let part = platform.ok(&["logs", "--limit-bytes=100", "noisy"]).unwrap();
    assert_eq!(part.len(), 100);
    let mut aside = Vec::new();
    let mut dirs = vec![platform.data_dir().join("logs")];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap().flatten() {
            if entry.path().is_dir() {
                dirs.push(entry.path());
            } else {
                aside.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
    }
    assert!(
        aside.len() >= 2 && aside.iter().any(|name| name.starts_with("0.log.2")),
        "{aside:?}"
    );
}
