//! The longest back-off, waited for on a real clock. A quarter of an hour:
//! `cargo test -p e2e --test ceiling -- --ignored` runs it. In virtual time the
//! same is `sim/tests/scenarios/03-crash-loop.txt`.

use std::time::Duration;

use e2e::Platform;
use e2e::platform::Build;
use serde_json::Value;

/// Seconds between the death of one attempt and the start of the next.
const DELAYS_S: [i64; 8] = [0, 10, 20, 40, 80, 160, 300, 300];
/// What a start may take on a loaded machine, and the seconds that statuses cut off.
const SLACK_S: i64 = 4;

fn seconds(time: &Value) -> i64 {
    let time = time.as_str().unwrap_or_default();
    let clock = time.split('T').nth(1).unwrap_or_default().trim_end_matches('Z');
    clock.split(':').fold(0, |sum, part| sum * 60 + part.parse::<i64>().unwrap_or(-1))
}

#[test]
#[ignore = "takes a quarter of an hour: cargo test -p e2e --test ceiling -- --ignored"]
fn root_back_off_doubles_to_five_minutes_and_no_further() {
    let build = Build::from_env().unwrap();
    let platform = Platform::start("ceiling", &build).unwrap();
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: crasher}\nspec:\n  containers: [{name: c, image: 'busybox:1.30', command: ['sh', '-c', 'sleep 3; exit 1']}]\n";
    platform.create(pod).unwrap();
    for (restarts, delay_s) in (1..).zip(DELAYS_S) {
        // kubectl watches: nothing is polled for five minutes.
        let restarted = format!("--for=jsonpath={{.status.containerStatuses[0].restartCount}}={restarts}");
        platform.ok(&["wait", "pod", "crasher", &restarted, "--timeout=400s"]).unwrap();
        let limit = Duration::from_secs(20);
        let (died, started) = platform
            .wait_pod("default", "crasher", "running again", limit, |pod| {
                let status = &pod["status"]["containerStatuses"][0];
                let started = status["state"]["running"]["startedAt"]
                    .is_string()
                    .then(|| seconds(&status["state"]["running"]["startedAt"]))?;
                Some((seconds(&status["lastState"]["terminated"]["finishedAt"]), started))
            })
            .unwrap();
        let waited = (started - died).rem_euclid(24 * 3600);
        eprintln!("restart {restarts}: {waited} s after the death");
        assert!(
            (delay_s..=delay_s + SLACK_S).contains(&waited),
            "restart {restarts} came {waited} s after the death, not {delay_s} s"
        );
    }
    let message = "--for=jsonpath={.status.containerStatuses[0].state.waiting.reason}=CrashLoopBackOff";
    platform.ok(&["wait", "pod", "crasher", message, "--timeout=30s"]).unwrap();
    let pod = platform.get("default", "pod", "crasher").unwrap().unwrap();
    let words = pod["status"]["containerStatuses"][0]["state"]["waiting"]["message"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    assert!(
        words.starts_with("back-off 5m0s restarting failed container=c pod=crasher_default("),
        "{words}"
    );
}
