//! What `lifepod simulate` foresees of the tutorial's manifests, and what then
//! becomes of them.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use e2e::Platform;
use e2e::host::run;
use e2e::platform::Build;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(60);

fn manifest(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("manifests")
        .join(format!("{name}.yaml"))
}

/// The one prediction of a manifest with one pod, for five minutes.
fn foreseen(build: &Build, name: &str, scenario: &[&str]) -> Value {
    let mut command = Command::new(&build.binary);
    command.args(["simulate", "-o", "json", "--for", "5m", "-f"]).arg(manifest(name));
    for behaviour in scenario {
        command.args(["--scenario", behaviour]);
    }
    let output = run(&mut command).unwrap();
    let all: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(all[0]["name"], name, "{all}");
    all[0].clone()
}

/// What follows `before` in a finding, up to a space: a time in seconds.
fn found_s(prediction: &Value, before: &str) -> i64 {
    let findings = prediction["findings"].as_array().unwrap();
    let rest = findings.iter().find_map(|finding| finding.as_str()?.split_once(before));
    let (_, rest) = rest.unwrap_or_else(|| panic!("no finding says {before:?}: {findings:#?}"));
    let word = rest.split(' ').next().unwrap();
    word.strip_suffix('s')
        .and_then(|s| s.parse().ok())
        .unwrap_or_else(|| panic!("{word} is not in seconds"))
}

/// When the first moment whose text begins so happens.
fn at_s(prediction: &Value, begins: &str) -> f64 {
    let moments = prediction["timeline"].as_array().unwrap();
    let moment = moments.iter().find(|moment| moment["text"].as_str().unwrap().starts_with(begins));
    moment.unwrap_or_else(|| panic!("nothing begins with {begins:?}: {moments:#?}"))["atS"]
        .as_f64()
        .unwrap()
}

/// How long an attempt that has ended ran: whole seconds, as the API tells.
fn ran_s(terminated: &Value) -> i64 {
    let second = |field: &str| -> i64 {
        let text = terminated[field].as_str().unwrap_or_else(|| panic!("{field}: {terminated}"));
        let (_, clock) = text.trim_end_matches('Z').split_once('T').unwrap();
        clock.split(':').fold(0, |sum, part| sum * 60 + part.parse::<i64>().unwrap())
    };
    (second("finishedAt") - second("startedAt")).rem_euclid(86_400)
}

#[test]
fn root_what_is_foreseen_comes_true() {
    let build = Build::from_env().unwrap();
    let started_anew = foreseen(&build, "pod-liveness-exec", &[]);
    let ends_for_good = foreseen(&build, "pod-restartpolicy", &["answers=404"]);
    let hooked = foreseen(&build, "pod-hook-exec", &[]);
    let in_order = foreseen(&build, "pod-initcontainer", &[]);
    let ready = at_s(&in_order, "main-container #0: started");
    assert!(
        at_s(&in_order, "test-mysql #0: created") < at_s(&in_order, "test-redis #0: created"),
        "{in_order}"
    );
    assert!(at_s(&in_order, "test-redis #0: exited with code 0") < ready, "{in_order}");

    let platform = Platform::start("foreseen", &build).unwrap();
    platform.ok(&["create", "namespace", "dev"]).unwrap();
    for name in ["pod-liveness-exec", "pod-restartpolicy", "pod-hook-exec"] {
        platform.ok(&["create", "-f", &manifest(name).to_string_lossy()]).unwrap();
    }

    // Not earlier than foreseen, nor by another probe later.
    let kill_s = found_s(&started_anew, "its liveness probe, should it always fail, has it stopped ");
    let again = platform
        .wait_pod("dev", "pod-liveness-exec", "a restart", LIMIT, |pod| {
            let status = &pod["status"]["containerStatuses"][0];
            (status["restartCount"] == 1 && status["lastState"]["terminated"].is_object())
                .then(|| status["lastState"]["terminated"].clone())
        })
        .unwrap();
    let really_s = ran_s(&again);
    assert!(
        (kill_s..kill_s + 10).contains(&really_s),
        "foreseen {kill_s} s, lived {really_s} s: {again}"
    );

    let warned = ends_for_good["warnings"].to_string();
    assert!(
        warned.contains("its liveness probe ends it for good: restartPolicy is Never"),
        "{warned}"
    );
    let lives_s = at_s(&ends_for_good, "nginx #0: its stop signal was sent") - at_s(&ends_for_good, "nginx #0: started");
    let over = platform
        .wait_pod("dev", "pod-restartpolicy", "its end", LIMIT, |pod| {
            let status = &pod["status"]["containerStatuses"][0];
            status["state"]["terminated"].is_object().then(|| status.clone())
        })
        .unwrap();
    assert_eq!(over["restartCount"], 0, "{over}");
    let really_s = ran_s(&over["state"]["terminated"]);
    #[expect(clippy::cast_possible_truncation, reason = "some seconds")]
    let lives_s = lives_s.floor() as i64;
    assert!(
        (lives_s..lives_s + 10).contains(&really_s),
        "foreseen {lives_s} s, lived {really_s} s"
    );

    // It obeys, so it is gone before the worst that is foreseen.
    let worst_s = found_s(&hooked, "a deletion takes ");
    platform.wait_status("dev", "pod-hook-exec", "Running", LIMIT).unwrap();
    let limit = format!("--timeout={worst_s}s");
    platform.ok(&["delete", "pod", "pod-hook-exec", "-n", "dev", &limit]).unwrap();
}
