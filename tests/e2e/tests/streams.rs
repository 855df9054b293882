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

/// Resident memory of a process, in KiB.
fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// A process of this machine by its command line, and how much it has written.
fn written_bytes(args: &str) -> Option<u64> {
    let mut found = std::fs::read_dir("/proc").unwrap().flatten().filter(|entry| {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).replace('\0', " ").trim() == args
    });
    let io = std::fs::read_to_string(found.next()?.path().join("io")).ok()?;
    io.lines().find_map(|line| line.strip_prefix("wchar: ")?.trim().parse().ok())
}

/// A client that does not read makes the command wait, and nobody keep.
#[test]
fn root_a_stalled_reader_grows_no_memory() {
    let build = Build::from_env().unwrap();
    let platform = Platform::start("stalled", &build).unwrap();
    platform.create(PODS.split("---").next().unwrap()).unwrap();
    platform.wait_status("default", "box", "Running", LIMIT).unwrap();
    let lifepod = platform.pid().unwrap();
    // The first session pays for what all of them share.
    assert!(shell(&platform, "kubectl exec box -- true", "kubectl").status.success());
    let before = resident_kib(lifepod);
    let endless = format!("cat /dev/zero /no-file-{}", std::process::id());
    let mut command = vec!["exec", "box", "--"];
    command.extend(endless.split(' '));
    let mut child = client(&platform, "kubectl")
        .args(&command)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // Nobody reads what kubectl prints: at last the command cannot write.
    let mut last = (0, 0);
    let stuck = wait::until("the command to be held up", LIMIT, || {
        let written = written_bytes(&endless).unwrap_or(0);
        let same = if written > 0 && written == last.0 { last.1 + 1 } else { 0 };
        last = (written, same);
        Ok(if same == 40 {
            Ok(written)
        } else {
            Err(format!("{written} bytes are written"))
        })
    });
    let after = resident_kib(lifepod);
    child.kill().unwrap();
    child.wait().unwrap();
    let stuck = stuck.unwrap();
    assert!(stuck < 64 << 20, "{stuck} bytes were taken from a command nobody listens to");
    assert!(
        after < before + (24 << 10),
        "{before} KiB before, {after} KiB while a reader stalls"
    );
    wait::until("the command to be gone", LIMIT, || {
        Ok(if written_bytes(&endless).is_none() {
            Ok(())
        } else {
            Err(endless.clone())
        })
    })
    .unwrap();
}

/// One who talks to a program at a terminal of their own.
struct Talk {
    child: std::process::Child,
    stdin: Option<std::process::ChildStdin>,
    stdout: std::process::ChildStdout,
    heard: String,
}

impl Talk {
    /// Ended by force after [`LIMIT`].
    fn with(platform: &Platform, command: &str) -> Self {
        let mut child = bounded(platform, "script")
            .args(["-qec", command, "/dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take().unwrap());
        Self {
            child,
            stdin,
            stdout,
            heard: String::new(),
        }
    }

    fn hears(&mut self, text: &str) {
        let mut buffer = [0; 1024];
        loop {
            if let Some(at) = self.heard.find(text) {
                // What comes after it is for the next time.
                self.heard.drain(..at + text.len());
                return;
            }
            let n = std::io::Read::read(&mut self.stdout, &mut buffer).unwrap();
            assert!(n > 0, "{text:?} was not said: {:?}", self.heard);
            self.heard.push_str(&String::from_utf8_lossy(&buffer[..n]));
        }
    }

    fn says(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().unwrap();
        stdin.write_all(format!("{line}\n").as_bytes()).unwrap();
        stdin.flush().unwrap();
    }

    /// Its exit code.
    fn ends(mut self) -> Option<i32> {
        let mut rest = Vec::new();
        std::io::Read::read_to_end(&mut self.stdout, &mut rest).unwrap();
        drop(self.stdin.take());
        self.child.wait().unwrap().code()
    }
}

/// `kubectl debug -it`, `kubectl run -it --rm`, `kubectl attach -it`: a shell
/// one talks to, whose end ends the client.
#[test]
fn root_shells_in_pods_answer() {
    let build = Build::from_env().unwrap();
    let platform = Platform::start("shells", &build).unwrap();
    platform.create(PODS.split("---").next().unwrap()).unwrap();
    platform.wait_status("default", "box", "Running", LIMIT).unwrap();

    let mut debugger = Talk::with(&platform, "kubectl debug -it box --image=busybox:1.30 --target=c -c helper -- sh");
    debugger.hears("/ # ");
    debugger.says("ps -o args; echo sum=$((6*7)); tty");
    debugger.hears("sleep 100000");
    debugger.hears("sum=42");
    debugger.hears("/dev/pts/");
    debugger.says("exit 0");
    assert_eq!(debugger.ends(), Some(0));
    let ended = platform
        .wait_pod("default", "box", "the debugger to end", LIMIT, |pod| {
            let status = pod["status"]["ephemeralContainerStatuses"].as_array()?.first()?.clone();
            status["state"]["terminated"].is_object().then_some(status)
        })
        .unwrap();
    assert_eq!(ended["name"], "helper");
    assert_eq!(ended["state"]["terminated"]["exitCode"], 0);

    let mut once = Talk::with(&platform, "kubectl run once -it --rm --restart=Never --image=busybox:1.30 -- sh");
    once.hears("/ # ");
    once.says("echo product=$((6*9))");
    once.hears("product=54");
    once.says("exit 0");
    assert_eq!(once.ends(), Some(0));
    assert_eq!(platform.get("default", "pod", "once").unwrap(), None, "--rm");

    // Who detaches leaves the shell as it is; who comes next finds it so.
    platform
        .create("apiVersion: v1\nkind: Pod\nmetadata: {name: stay}\nspec:\n  terminationGracePeriodSeconds: 0\n  containers: [{name: c, image: 'busybox:1.30', stdin: true, tty: true, command: ['sh']}]\n")
        .unwrap();
    platform.wait_status("default", "stay", "Running", LIMIT).unwrap();
    let mut first = Talk::with(&platform, "kubectl attach -it stay");
    first.says("left=behind");
    first.says("echo first=$((1+1))");
    first.hears("first=2");
    // Its input stays open until then: an end of it would be a Ctrl-D for the shell.
    let pid = first.child.id();
    assert!(Command::new("kill").arg(pid.to_string()).status().unwrap().success());
    first.ends();
    let mut second = Talk::with(&platform, "kubectl attach -it stay");
    second.says("echo still=$left");
    second.hears("still=behind");
    let pid = second.child.id();
    assert!(Command::new("kill").arg(pid.to_string()).status().unwrap().success());
    second.ends();
    let pod = platform.get("default", "pod", "stay").unwrap().unwrap();
    assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0);
}

/// `kubectl top`, the node API on its port and through the API server, and a
/// service's pods through the API server.
#[test]
fn root_use_is_told_by_the_node_s_own_port() {
    let build = Build::from_env().unwrap();
    let platform = Platform::start_with(
        "use",
        &build,
        &["--container-log-max-size", "64Ki", "--container-log-max-files", "2"],
    )
    .unwrap();
    platform.create(PODS).unwrap();
    platform
        .create("apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec:\n  selector: {app: web}\n  ports: [{name: http, port: 80}]\n")
        .unwrap();
    platform.ok(&["label", "pod", "web", "app=web"]).unwrap();
    for pod in ["box", "web"] {
        platform.wait_status("default", pod, "Running", LIMIT).unwrap();
    }
    let raw = |path: &str| platform.ok(&["get", "--raw", path]);
    let page = wait::until("the service's page", LIMIT, || {
        Ok(raw("/api/v1/namespaces/default/services/web:http/proxy/").map_err(|error| format!("{error:#}")))
    })
    .unwrap();
    assert!(page.contains("Welcome to nginx!"), "{page}");
    let by_number = raw("/api/v1/namespaces/default/services/web:80/proxy/").unwrap();
    assert_eq!(by_number, page);

    let summary: serde_json::Value = serde_json::from_str(&raw("/api/v1/nodes/node1/proxy/stats/summary").unwrap()).unwrap();
    assert_eq!(summary["node"]["nodeName"], "node1");
    let pods = summary["pods"].as_array().unwrap();
    let web = pods.iter().find(|pod| pod["podRef"]["name"] == "web").unwrap();
    assert!(
        web["containers"][0]["memory"]["workingSetBytes"].as_u64().unwrap() > 100_000,
        "{web}"
    );
    assert!(web["containers"][0]["rootfs"]["inodesUsed"].is_u64(), "{web}");
    let configz: serde_json::Value = serde_json::from_str(&raw("/api/v1/nodes/node1/proxy/configz").unwrap()).unwrap();
    assert_eq!(configz["kubeletconfig"]["containerLogMaxFiles"], 2);

    // At the port itself: nobody, somebody without rights, the administrator.
    let node = platform.get("", "node", "node1").unwrap().unwrap();
    assert_eq!(node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"], 10250);
    let ip = node["status"]["addresses"][0]["address"].as_str().unwrap().to_owned();
    let script = format!(
        "kubectl config view --raw -o jsonpath='{{.users[0].user.client-certificate-data}}' | base64 -d > $HOME/crt
         kubectl config view --raw -o jsonpath='{{.users[0].user.client-key-data}}' | base64 -d > $HOME/key
         kubectl config view --raw -o jsonpath='{{.clusters[0].cluster.certificate-authority-data}}' | base64 -d > $HOME/ca
         curl -sS --max-time 10 --cacert $HOME/ca https://{ip}:10250/healthz
         token=$(kubectl create token default)
         curl -sS --max-time 10 --cacert $HOME/ca -H \"Authorization: Bearer $token\" https://{ip}:10250/pods
         curl -sS --max-time 10 --cacert $HOME/ca --cert $HOME/crt --key $HOME/key https://{ip}:10250/healthz"
    );
    let said = text(&shell(&platform, &script, "kubectl").stdout);
    assert_eq!(
        said,
        "Unauthorized\nForbidden (user=system:serviceaccount:default:default, verb=get, resource=nodes, subresource(s)=[pods proxy])\nok"
    );

    // Rates need two readings.
    for args in [
        &["top", "node", "node1", "--no-headers"][..],
        &["top", "pod", "web", "--no-headers"],
    ] {
        let line = wait::until("kubectl top to tell", LIMIT, || {
            Ok(platform.ok(args).map_err(|error| format!("{error:#}")))
        })
        .unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        assert!(words[1].ends_with('m') && words.iter().any(|word| word.ends_with("Mi")), "{line}");
    }

    // The flags of log rotation.
    platform
        .create("apiVersion: v1\nkind: Pod\nmetadata: {name: noisy}\nspec:\n  restartPolicy: Never\n  containers: [{name: c, image: 'busybox:1.30', command: ['sh', '-c', 'seq 100000']}]\n")
        .unwrap();
    platform.wait_status("default", "noisy", "Completed", LIMIT).unwrap();
    let log = platform.ok(&["logs", "noisy"]).unwrap();
    assert!(
        log.ends_with("\n100000\n") && log.lines().count() < 20_000,
        "two files of 64 KiB are kept: {}",
        log.len()
    );
}

/// The official Python client: output, input and exit codes of a command.
#[test]
fn root_the_python_client_runs_commands() {
    let python = std::env::var_os("LIFEPOD_PYTHON")
        .expect("LIFEPOD_PYTHON names a Python with the package kubernetes; `cargo xtask test` sets both up");
    let build = Build::from_env().unwrap();
    let platform = Platform::start("python", &build).unwrap();
    platform.create(PODS.split("---").next().unwrap()).unwrap();
    platform.wait_status("default", "box", "Running", LIMIT).unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../clients/python/streams.py");
    let mut command = bounded(&platform, &python.to_string_lossy());
    let output = command.arg(script).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success() && output.stdout.ends_with(b"done\n"), "{output:?}");
}
