//! A restart of Lifepod, SIGKILL included, changes nothing a user sees.

use std::time::Duration;

use e2e::Platform;
use e2e::host::run;
use e2e::platform::Build;
use e2e::wait;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(60);

const PODS: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: steady}
spec:
  initContainers:
  - {name: first, image: 'busybox:1.30', command: ['true']}
  - name: side
    image: busybox:1.30
    restartPolicy: Always
    command: ['sh', '-c', 'trap \"exit 0\" TERM; while true; do sleep 0.1; done']
    startupProbe: {periodSeconds: 1, exec: {command: ['true']}}
  containers:
  - name: web
    image: nginx:1.17.1
    lifecycle:
      postStart: {exec: {command: ['sh', '-c', 'echo hook >> /usr/share/nginx/html/hooks']}}
    readinessProbe: {periodSeconds: 1, httpGet: {port: 80}}
---
apiVersion: v1
kind: Pod
metadata: {name: ends-meanwhile}
spec:
  restartPolicy: Never
  containers:
  - {name: job, image: 'busybox:1.30', command: ['sh', '-c', 'echo begin; while [ ! -f /tmp/stop ]; do sleep 0.1; done & sleep 4; echo end; exit 7']}
---
apiVersion: v1
kind: Pod
metadata: {name: crashing}
spec:
  containers:
  - {name: loop, image: 'busybox:1.30', command: ['sh', '-c', 'exit 1']}
";

/// What must not change: identity, counts, times of containers, conditions.
fn lasting(pod: &Value) -> Value {
    let mut status = pod["status"].clone();
    if let Some(fields) = status.as_object_mut() {
        fields.retain(|name, _| {
            [
                "containerStatuses",
                "initContainerStatuses",
                "conditions",
                "podIP",
                "phase",
                "startTime",
            ]
            .contains(&name.as_str())
        });
    }
    status
}

/// Shows: 14.4.1 14.4.2
#[test]
fn root_containers_outlive_a_killed_lifepod() {
    let build = Build::from_env().unwrap();
    let mut platform = Platform::start("restart", &build).unwrap();
    platform.create(PODS).unwrap();
    platform.wait_status("default", "steady", "Running", LIMIT).unwrap();
    platform
        .ok(&["wait", "--for=condition=Ready", "--timeout=60s", "pod/steady"])
        .unwrap();
    platform.wait_status("default", "ends-meanwhile", "Running", LIMIT).unwrap();
    platform.wait_status("default", "crashing", "CrashLoopBackOff", LIMIT).unwrap();
    let before = platform.get("default", "pod", "steady").unwrap().unwrap();
    let crashed = platform.get("default", "pod", "crashing").unwrap().unwrap();
    let resource_version = before["metadata"]["resourceVersion"].clone();
    let job_before = platform.get("default", "pod", "ends-meanwhile").unwrap().unwrap();

    platform.kill().unwrap();
    let uid = job_before["metadata"]["uid"].as_str().unwrap();
    let attempts = platform.data_dir().join("pods").join(uid).join("containers");
    wait::until("the job to end while nobody is there", LIMIT, || {
        let mut dirs = std::fs::read_dir(&attempts)?.flatten();
        Ok(if dirs.any(|attempt| attempt.path().join("exit.json").is_file()) {
            Ok(())
        } else {
            Err(format!("no exit record in {}", attempts.display()))
        })
    })
    .unwrap();
    platform.up().unwrap();

    let job = platform
        .wait_pod("default", "ends-meanwhile", "Failed", LIMIT, |pod| {
            (pod["status"]["phase"] == "Failed").then(|| pod.clone())
        })
        .unwrap();
    let state = &job["status"]["containerStatuses"][0]["state"]["terminated"];
    assert_eq!((&state["exitCode"], &state["reason"]), (&Value::from(7), &Value::from("Error")));
    assert_eq!(job["status"]["containerStatuses"][0]["restartCount"], 0);
    assert_eq!(platform.ok(&["logs", "ends-meanwhile"]).unwrap(), "begin\nend\n");

    let after = platform.get("default", "pod", "steady").unwrap().unwrap();
    assert_eq!(lasting(&after), lasting(&before));
    assert_eq!(
        after["metadata"]["resourceVersion"], resource_version,
        "nothing was to be written: {after:#}"
    );

    // The hook that had completed was not run again.
    let url = format!("http://{}/hooks", after["status"]["podIP"].as_str().unwrap());
    let hooks = run(platform.host.command("curl").args(["-sSf", "--max-time", "10", &url])).unwrap();
    assert_eq!(String::from_utf8_lossy(&hooks.stdout), "hook\n");

    // The back-off goes on from where it was: one restart later it has doubled.
    let count = crashed["status"]["containerStatuses"][0]["restartCount"].as_i64().unwrap();
    let later = platform
        .wait_pod("default", "crashing", "the next back-off", LIMIT, |pod| {
            let container = &pod["status"]["containerStatuses"][0];
            let waits = container["state"]["waiting"]["reason"] == "CrashLoopBackOff";
            (waits && container["restartCount"].as_i64() == Some(count + 1)).then(|| container.clone())
        })
        .unwrap();
    let message = later["state"]["waiting"]["message"].as_str().unwrap();
    let expected = if count == 1 { "back-off 20s" } else { "back-off 40s" };
    assert!(message.starts_with(expected), "{message}");

    platform.ok(&["delete", "pods", "--all", "--timeout=40s"]).unwrap();
    platform.down().unwrap();
    assert_eq!(platform.leftovers().unwrap(), Vec::<String>::new());
}

/// Shows: 14.4.3
#[test]
fn root_a_pod_deleted_while_lifepod_was_away_is_finished_on_return() {
    let build = Build::from_env().unwrap();
    let mut platform = Platform::start("away", &build).unwrap();
    platform.create("apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  terminationGracePeriodSeconds: 20\n  containers: [{name: c, image: 'busybox:1.30', command: ['sh', '-c', 'trap \"sleep 1; exit 0\" TERM; while true; do sleep 0.1; done']}]\n").unwrap();
    platform.wait_status("default", "p", "Running", LIMIT).unwrap();
    platform.ok(&["delete", "pod", "p", "--wait=false"]).unwrap();
    platform.kill().unwrap();
    platform.up().unwrap();
    e2e::wait::until("the pod to be gone", LIMIT, || {
        Ok(platform
            .get("default", "pod", "p")?
            .map_or(Ok(()), |pod| Err(pod["status"].to_string())))
    })
    .unwrap();
    platform.stop().unwrap();
    platform.down().unwrap();
    assert_eq!(platform.leftovers().unwrap(), Vec::<String>::new());
}

/// SIGKILL while pods are being made, and while they are being removed: each
/// time the next start brings them to what their objects say.
/// Shows: 14.4.4
#[test]
fn root_sigkill_at_any_instant_is_recovered_from() {
    let build = Build::from_env().unwrap();
    let mut platform = Platform::start("chaos", &build).unwrap();
    let seed = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .subsec_nanos();
    println!("seed {seed}");
    let mut state = u64::from(seed) | 1;
    let mut instant = move || {
        // xorshift64: enough to spread kills over the first 400 ms.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        Duration::from_micros(state % 400_000)
    };
    let pods = |round: u32| (0..4).map(|n| format!("p{round}-{n}")).collect::<Vec<_>>();
    for round in 0..6 {
        let manifests: Vec<String> = pods(round)
            .iter()
            .map(|name| {
                format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  initContainers: [{{name: i, image: 'busybox:1.30', command: ['true']}}]\n  containers: [{{name: c, image: 'busybox:1.30', command: ['sh', '-c', 'echo once; exec sleep 1000']}}]\n")
            })
            .collect();
        platform.create(&manifests.join("---\n")).unwrap();
        std::thread::sleep(instant());
        platform.kill().unwrap();
        platform.up().unwrap();
        for name in pods(round) {
            platform.wait_status("default", &name, "Running", LIMIT).unwrap();
            assert_eq!(platform.ok(&["logs", &name]).unwrap(), "once\n", "one process was started");
        }
        platform.ok(&["delete", "pods", "--all", "--wait=false"]).unwrap();
        std::thread::sleep(instant());
        platform.kill().unwrap();
        platform.up().unwrap();
        e2e::wait::until("all pods to be gone", LIMIT, || {
            let left = platform.ok(&["get", "pods", "-o", "name"])?;
            Ok(if left.is_empty() { Ok(()) } else { Err(left) })
        })
        .unwrap();
    }
    e2e::wait::until("every pod's traces to be gone", LIMIT, || {
        let left: Vec<String> = platform
            .leftovers()?
            .into_iter()
            .filter(|item| item.contains(" shim ") || item.contains("/pods/"))
            .collect();
        Ok(if left.is_empty() { Ok(()) } else { Err(left.join("\n")) })
    })
    .unwrap();
    platform.down().unwrap();
    assert_eq!(platform.leftovers().unwrap(), Vec::<String>::new());
}
