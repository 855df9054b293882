//! `lifepod why`: the true cause of what happened to real containers, in plain
//! words and as JSON, read with the kubeconfig's rights.

use std::process::Stdio;
use std::time::Duration;

use e2e::Platform;
use e2e::platform::Build;
use e2e::wait;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(60);

/// What `lifepod why` prints; `Err` with its exit code and what it said else.
fn why(platform: &Platform, args: &[&str]) -> Result<String, String> {
    let output = platform
        .lifepod(&[&["why"], args].concat())
        .env("KUBECONFIG", platform.kubeconfig())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// Waits until the explanation says everything that is wanted of it.
fn says(platform: &Platform, pod: &str, wanted: &[&str]) -> String {
    wait::until(&format!("lifepod why pod/{pod} to say {wanted:?}"), LIMIT, || {
        let said = why(platform, &[&format!("pod/{pod}")]);
        Ok(match said {
            Ok(text) if wanted.iter().all(|part| text.contains(part)) => Ok(text),
            Ok(text) | Err(text) => Err(text),
        })
    })
    .unwrap()
}

fn pod(name: &str, spec: &str) -> String {
    format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 2\n{spec}")
}

fn shell(script: &str, more: &str) -> String {
    format!("  containers:\n  - name: app\n    image: busybox:1.30\n    command: ['sh', '-c', '{script}']\n{more}")
}

/// Shows: 14.1.43
#[test]
fn root_every_trouble_is_told_with_its_cause_and_what_comes_next() {
    let build = Build::from_env().unwrap();
    let platform = Platform::start("why", &build).unwrap();
    let trap = "trap : TERM; while true; do sleep 1; done";
    for (name, spec) in [
        ("loops", shell("sleep 1; exit 7", "")),
        (
            "sick",
            shell(
                "trap \"\" TERM; while true; do sleep 1; done",
                "    livenessProbe: {exec: {command: [sh, -c, 'echo the engine is cold; exit 1']}, periodSeconds: 1, failureThreshold: 2}\n",
            ),
        ),
        (
            "hungry",
            shell(
                "x=a; while true; do x=$x$x; done",
                "    resources: {limits: {memory: 20Mi}}\n",
            ) + "  restartPolicy: Never\n",
        ),
        ("pulls", "  containers: [{name: app, image: 'registry.invalid/nothing:1', imagePullPolicy: Always}]\n".to_owned()),
        ("big", shell("true", "    resources: {requests: {cpu: '900'}}\n")),
        (
            "hangs",
            shell(trap, "    lifecycle: {preStop: {exec: {command: [sleep, '3600']}}}\n").replace("  containers", "  terminationGracePeriodSeconds: 30\n  containers"),
        ),
        (
            "init",
            "  initContainers: [{name: first, image: 'busybox:1.30', command: [sh, -c, 'exit 3']}]\n  containers: [{name: app, image: 'busybox:1.30'}]\n".to_owned(),
        ),
        ("deleted", shell(trap, "")),
    ] {
        let manifest = pod(name, &spec);
        let manifest = if name == "hangs" { manifest.replacen("  terminationGracePeriodSeconds: 2\n", "", 1) } else { manifest };
        platform.create(&manifest).unwrap();
    }

    crash_loops_and_probes(&platform);
    images_nodes_and_init_containers(&platform);
    endings(&platform);

    for (args, said) in [
        (
            &["pod/none"][..],
            "pod \"none\" is not in namespace \"default\", and no node remembers one of that name",
        ),
        (&["deployment/x"], "only pods can"),
        (&["pod/loops", "-o", "yaml"], "possible values: text, json"),
    ] {
        let error = why(&platform, args).unwrap_err();
        assert!(error.contains(said), "{error}");
    }
}

fn crash_loops_and_probes(platform: &Platform) {
    says(
        platform,
        "loops",
        &[
            "Container app: waiting (CrashLoopBackOff) since ",
            "exited with code 7 after 1",
            "; on its own",
            "starts: the back-off after the last crash is 10s",
        ],
    );
    let json: Value = serde_json::from_str(&why(platform, &["loops", "-o", "json"]).unwrap()).unwrap();
    assert_eq!(
        (&json["kind"], &json["node"]),
        (&Value::from("PodExplanation"), &Value::from("node1"))
    );
    let exit = json["transitions"]
        .as_array()
        .unwrap()
        .iter()
        .find(|line| line["change"] == "exited")
        .unwrap();
    assert_eq!(
        (&exit["code"], &exit["because"]["cause"]),
        (&Value::from(7), &Value::from("itself")),
        "{exit}"
    );

    let killed = "it did not end within its grace and was killed: its liveness probe failed too often, last: the engine is cold";
    says(platform, "sick", &["ended by SIGKILL (exit code 137)", killed]);
    says(
        platform,
        "hungry",
        &[
            "Container app: ended (OOMKilled, exit code 137)",
            "the kernel killed it: it used more memory than its limit",
        ],
    );
}

fn images_nodes_and_init_containers(platform: &Platform) {
    says(
        platform,
        "pulls",
        &[
            "Container app: waiting (ImagePullBackOff)",
            "Back-off pulling image \"registry.invalid/nothing:1\": ErrImagePull: ",
            ": image registry.invalid/nothing:1 is pulled again; 1 failure so far",
        ],
    );
    says(
        platform,
        "big",
        &[
            "it is Pending: no node has been found for it",
            "the scheduler says: 0/1 nodes are available: 1 Insufficient cpu. preemption:",
            "next: the scheduler tries again when ",
        ],
    );
    says(
        platform,
        "init",
        &[
            "Init container first: waiting (CrashLoopBackOff)",
            "exited with code 3",
            "next: it starts once init container first has ended well",
        ],
    );
}

fn endings(platform: &Platform) {
    platform.wait_status("default", "hangs", "Running", LIMIT).unwrap();
    platform.wait_status("default", "deleted", "Running", LIMIT).unwrap();
    platform.ok(&["delete", "pod", "hangs", "--wait=false"]).unwrap();
    says(
        platform,
        "hangs",
        &[
            "it is being deleted by user kubernetes-admin; its grace ends at ",
            "preStop hook runs, for at most ",
            "the preStop hook, which runs now, is given up, should it not have ended",
        ],
    );
    platform.ok(&["delete", "pod", "deleted"]).unwrap();
    says(
        platform,
        "deleted",
        &[
            "it is gone since ",
            "it ended because user kubernetes-admin deleted the pod",
            "ended by SIGKILL (exit code 137)",
            "it did not end within its grace and was killed: user kubernetes-admin deleted the pod",
        ],
    );
}

/// What was recorded outlives the platform's own death; what happened while it
/// was away is in it; and it takes the right to the node's proxy to read it.
#[test]
fn root_the_flight_recorder_outlives_lifepod_and_asks_for_rights() {
    let build = Build::from_env().unwrap();
    let mut platform = Platform::start("flights", &build).unwrap();
    platform.create(&pod("stays", &shell("while true; do sleep 1; done", ""))).unwrap();
    platform
        .create(&pod("goes", &shell("sleep 4; exit 5", "  restartPolicy: Never\n")))
        .unwrap();
    platform.create(&pod("gone", &shell("while true; do sleep 1; done", ""))).unwrap();
    for name in ["stays", "goes", "gone"] {
        platform.wait_status("default", name, "Running", LIMIT).unwrap();
    }
    platform.ok(&["delete", "pod", "gone"]).unwrap();
    says(&platform, "gone", &["it is gone since "]);
    // The log is written soon after, not at once.
    let logged = || {
        std::fs::read_dir(platform.data_dir().join("flights"))
            .unwrap()
            .flatten()
            .map(|file| std::fs::read_to_string(file.path()).unwrap_or_default())
            .collect::<String>()
    };
    wait::until("the flights to be logged", LIMIT, || {
        let text = logged();
        Ok(if text.contains("goneAt") && text.matches("\"running\"").count() >= 3 {
            Ok(())
        } else {
            Err(text)
        })
    })
    .unwrap();
    platform.kill().unwrap();
    let ended = std::time::Instant::now() + Duration::from_secs(5);
    wait::until("the container to end alone", LIMIT, || {
        Ok(if std::time::Instant::now() > ended {
            Ok(())
        } else {
            Err("not yet".to_owned())
        })
    })
    .unwrap();
    platform.up().unwrap();
    says(
        &platform,
        "stays",
        &[
            "app #0: created; it was its turn",
            "the node agent was restarted and took the pod over as it was",
        ],
    );
    says(
        &platform,
        "goes",
        &["exited with code 5 after 4", "app #0: created; it was its turn"],
    );
    says(&platform, "gone", &["it is gone since ", "user kubernetes-admin deleted the pod"]);

    let flights = "/api/v1/nodes/node1/proxy/flightRecorder/default/stays";
    let list: Value = serde_json::from_str(&platform.ok(&["get", "--raw", flights]).unwrap()).unwrap();
    assert_eq!(
        (&list["kind"], &list["items"][0]["name"]),
        (&Value::from("FlightList"), &Value::from("stays"))
    );
    rights(&platform);
}

/// Who may read pods and not nodes/proxy gets what the API alone tells.
fn rights(platform: &Platform) {
    platform.ok(&["create", "serviceaccount", "reader"]).unwrap();
    let token = platform.ok(&["create", "token", "reader"]).unwrap();
    let mut kubeconfig: Value = serde_json::from_slice(&std::fs::read(platform.kubeconfig()).unwrap()).unwrap();
    kubeconfig["users"][0]["user"] = serde_json::json!({"token": token.trim()});
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), kubeconfig.to_string()).unwrap();
    let asked = ["stays", "--kubeconfig", file.path().to_str().unwrap()];
    let refused = why(platform, &asked).unwrap_err();
    assert!(
        refused.contains("User \"system:serviceaccount:default:reader\" cannot get resource \"pods\""),
        "{refused}"
    );
    platform.ok(&["create", "role", "reader", "--verb=get", "--resource=pods"]).unwrap();
    platform
        .ok(&[
            "create",
            "rolebinding",
            "reader",
            "--role=reader",
            "--serviceaccount=default:reader",
        ])
        .unwrap();
    let told = wait::until("the role to take effect", LIMIT, || Ok(why(platform, &asked))).unwrap();
    assert!(told.contains("Container app: running, ready since "), "{told}");
    assert!(told.contains("cannot get resource \"nodes/proxy\""), "{told}");
    assert!(!told.contains("What happened"), "{told}");
}
