//! SIGKILL of Lifepod in a loop under fifty pods that crash, probe, hook and
//! terminate: nothing is lost, nothing is repeated, nothing is left behind.

use std::collections::BTreeMap;
use std::time::Duration;

use e2e::Platform;
use e2e::platform::Build;
use e2e::wait;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(120);
const PODS: usize = 50;
const KILLS: u64 = 6;

/// The pod of a number: five kinds, ten of each.
fn manifest(number: usize) -> String {
    let (name, container) = match number % 5 {
        0 => ("steady", "command: [sleep, '3600']".to_owned()),
        1 => ("crashes", "command: [sh, -c, 'sleep 1; exit 3']".to_owned()),
        2 => (
            "probed",
            "command: [sleep, '3600']\n    readinessProbe: {exec: {command: ['true']}, periodSeconds: 2}\n    livenessProbe: {exec: {command: ['true']}, periodSeconds: 2}".to_owned(),
        ),
        3 => (
            "hooked",
            "command: [sleep, '3600']\n    lifecycle:\n      postStart: {exec: {command: [sh, -c, 'echo ran >> /hooks; echo hook ran > /proc/1/fd/1']}}\n      preStop: {exec: {command: [sleep, '1']}}".to_owned(),
        ),
        _ => ("leaves", "command: [sleep, '3600']".to_owned()),
    };
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}-{number}, labels: {{kind: {name}}}}}\nspec:\n  terminationGracePeriodSeconds: 2\n  initContainers: [{{name: first, image: 'busybox:1.30', command: ['true']}}]\n  containers:\n  - name: c\n    image: busybox:1.30\n    {container}\n"
    )
}

/// Identity, count and start of the container of every pod, by name.
fn states(platform: &Platform) -> BTreeMap<String, (String, i64, i64, Value)> {
    let list: Value = serde_json::from_str(&platform.ok(&["get", "pods", "-o", "json"]).unwrap()).unwrap();
    let items = list["items"].as_array().cloned().unwrap_or_default();
    items
        .iter()
        .map(|pod| {
            let status = &pod["status"]["containerStatuses"][0];
            let init = &pod["status"]["initContainerStatuses"][0];
            let state = (
                status["containerID"].as_str().unwrap_or_default().to_owned(),
                status["restartCount"].as_i64().unwrap_or(-1),
                init["restartCount"].as_i64().unwrap_or(-1),
                status["ready"].clone(),
            );
            (pod["metadata"]["name"].as_str().unwrap_or_default().to_owned(), state)
        })
        .collect()
}

/// Shows: 14.4.1 14.4.2 14.4.3 14.4.4
#[test]
fn root_fifty_pods_outlive_a_lifepod_that_is_killed_again_and_again() {
    let build = Build::from_env().unwrap();
    let mut platform = Platform::start("fifty", &build).unwrap();
    let manifests: Vec<String> = (0..PODS).map(manifest).collect();
    platform.create(&manifests.join("---\n")).unwrap();
    wait::until("every pod to have started", LIMIT, || {
        let waiting: Vec<String> = states(&platform)
            .into_iter()
            .filter(|(name, (id, restarts, ..))| id.is_empty() || (name.starts_with("crashes") && *restarts < 1))
            .map(|(name, _)| name)
            .collect();
        Ok(if waiting.is_empty() { Ok(()) } else { Err(waiting.join(" ")) })
    })
    .unwrap();
    wait::until("the lasting pods to be Ready", LIMIT, || {
        let unready: Vec<String> = states(&platform)
            .into_iter()
            .filter(|(name, (.., ready))| !name.starts_with("crashes") && ready.as_bool() != Some(true))
            .map(|(name, _)| name)
            .collect();
        Ok(if unready.is_empty() { Ok(()) } else { Err(unready.join(" ")) })
    })
    .unwrap();
    let mut before = states(&platform);
    assert_eq!(before.len(), PODS);
    for round in 0..KILLS {
        // Two pods terminate while Lifepod dies, at another moment each time.
        let first = 4 + 10 * usize::try_from(round % 5).unwrap();
        let leaving = [format!("leaves-{first}"), format!("leaves-{}", first + 5)];
        let gone = round >= 5;
        if !gone {
            platform.ok(&["delete", "pod", &leaving[0], &leaving[1], "--wait=false"]).unwrap();
        }
        std::thread::sleep(Duration::from_millis(137 * round));
        platform.kill().unwrap();
        platform.up().unwrap();
        wait::until("the deleted pods to be gone", LIMIT, || {
            let after = states(&platform);
            Ok(if leaving.iter().any(|name| after.contains_key(name)) {
                Err("still there".to_owned())
            } else {
                Ok(())
            })
        })
        .unwrap();
        let after = states(&platform);
        for (name, (id, restarts, init, ready)) in &before {
            let Some((id_now, restarts_now, init_now, ready_now)) = after.get(name) else {
                assert!(name.starts_with("leaves"), "{name} is lost");
                continue;
            };
            assert_eq!((init, 0), (init_now, *init_now), "{name}: an init container ran again");
            if name.starts_with("crashes") {
                assert!(restarts_now >= restarts, "{name}: {restarts_now} restarts, {restarts} before");
            } else {
                assert_eq!(
                    (id, restarts, ready),
                    (id_now, restarts_now, ready_now),
                    "{name} changed in round {round}"
                );
            }
        }
        before = after;
    }
    for number in (3..PODS).step_by(5) {
        let log = platform.ok(&["logs", &format!("hooked-{number}")]).unwrap();
        assert_eq!(log, "hook ran\n", "the hook of hooked-{number} ran once");
    }
    platform.ok(&["delete", "pods", "--all", "--timeout=90s"]).unwrap();
    platform.down().unwrap();
    assert_eq!(platform.leftovers().unwrap(), Vec::<String>::new());
}
