use std::fmt::Write as _;

use serde_json::{Value, json};

use super::*;

fn foresee(spec: Value, scenario: &[&str], horizon_s: u64) -> Prediction {
    let pod = serde_json::from_value(json!({"metadata": {"name": "web"}, "spec": spec})).unwrap();
    let behaviours: Vec<Behaviour> = scenario.iter().map(|text| text.parse().unwrap()).collect();
    predict(&pod, &behaviours, Duration::from_secs(horizon_s)).unwrap()
}

fn shown(prediction: &Prediction) -> String {
    let mut text = String::new();
    for moment in &prediction.timeline {
        let _ = writeln!(text, "{:.3} {}", moment.at_s, moment.text);
    }
    text
}

fn http(period: u64, failures: u64, delay: u64) -> Value {
    json!({"httpGet": {"port": 80}, "periodSeconds": period, "failureThreshold": failures, "initialDelaySeconds": delay})
}

#[test]
fn a_slow_start_meets_an_impatient_liveness_probe() {
    let spec = json!({"containers": [{"name": "app", "image": "x:1", "livenessProbe": http(10, 3, 0),
        "readinessProbe": {"tcpSocket": {"port": 80}, "initialDelaySeconds": 30}}]});
    let slow = foresee(spec.clone(), &["starts-in=60s"], 600);
    assert_eq!(
        slow.findings[0],
        "first Ready: not within 10m0s under this scenario; after 30s when its containers answer at once"
    );
    assert_eq!(
        slow.findings[1],
        "container app: its liveness probe, should it always fail, has it stopped 20s after its start at the earliest"
    );
    assert!(
        slow.warnings
            .iter()
            .any(|w| w.contains("its liveness probe can have it killed 20s after its start")),
        "{:?}",
        slow.warnings
    );
    assert!(
        slow.warnings
            .iter()
            .any(|w| w.contains("its liveness probe has it killed after 20s, before it ever succeeded, and ")),
        "{:?}",
        slow.warnings
    );
    let mut held = spec;
    held["containers"][0]["startupProbe"] = http(10, 12, 0);
    let held = foresee(held, &["starts-in=60s"], 600);
    assert!(held.warnings.is_empty(), "{:?}", held.warnings);
    assert!(
        held.findings[0].starts_with("first Ready: after 1m0s under this scenario"),
        "{:?}",
        held.findings
    );
}

#[test]
fn crashes_are_foreseen_with_their_back_off() {
    let crashing = foresee(
        json!({"containers": [{"name": "app", "image": "x:1"}]}),
        &["crashes-after=0s/3"],
        3600,
    );
    let text = shown(&crashing);
    assert!(text.contains("app #0: exited with code 3"), "{text}");
    assert!(text.contains("back-off 5m0s restarting failed container=app"), "{text}");
    let back_off = crashing.findings.last().unwrap();
    assert!(
        back_off.ends_with("is restarted after 0s, 10s, 20s, 40s, 1m20s, 2m40s, 5m0s"),
        "{back_off}"
    );
    let never = foresee(
        json!({"restartPolicy": "Never", "containers": [{"name": "app", "image": "x:1"}]}),
        &[],
        60,
    );
    assert_eq!(never.findings.last().unwrap(), "container app is not restarted when it crashes");
}

#[test]
fn the_worst_termination_is_grace_and_floor() {
    let spec = json!({"terminationGracePeriodSeconds": 20, "containers": [{
        "name": "app", "image": "x:1", "lifecycle": {"preStop": {"exec": {"command": ["wait"]}}},
    }]});
    let prediction = foresee(spec, &[], 60);
    assert!(
        prediction
            .findings
            .contains(&"a deletion takes 22s at worst, when nothing obeys and every preStop hook hangs".to_owned()),
        "{:?}",
        prediction.findings
    );
    let sleeps = json!({"terminationGracePeriodSeconds": 5, "containers": [{
        "name": "app", "image": "x:1", "lifecycle": {"preStop": {"sleep": {"seconds": 5}}},
        "readinessProbe": {"tcpSocket": {"port": 1}, "timeoutSeconds": 9, "periodSeconds": 3},
    }]});
    let warnings = foresee(sleeps, &[], 60).warnings.join("\n");
    assert!(warnings.contains("its preStop hook sleeps 5s and the grace is 5s"), "{warnings}");
    assert!(
        warnings.contains("its readiness probe may take 9s and is due every 3s"),
        "{warnings}"
    );
}

#[test]
fn answers_may_turn_bad_and_images_be_missing() {
    let spec = json!({
        "initContainers": [{"name": "first", "image": "y:1"}],
        "containers": [{"name": "app", "image": "x:1", "livenessProbe": http(5, 2, 0)}],
    });
    let text = shown(&foresee(spec.clone(), &["app:answers=404@60s", "app:ignores-sigterm"], 200));
    assert!(
        text.contains("app: liveness probe failed (1 in a row, 2 make it count): HTTP probe failed with statuscode: 404"),
        "{text}"
    );
    assert!(
        text.contains("it did not end within its grace and was killed: its liveness probe failed too often"),
        "{text}"
    );
    let missing = shown(&foresee(spec.clone(), &["first:image-missing"], 60));
    assert!(missing.contains("first: waits (ImagePullBackOff)"), "{missing}");
    let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "web"}, "spec": spec})).unwrap();
    let stranger = ["other:hooks-hang".parse().unwrap()];
    assert!(predict(&pod, &stranger, PATIENCE).unwrap_err().to_string().contains("\"other\""));
    for bad in [
        "",
        "sleeps",
        "answers=200",
        "starts-in=5",
        "crashes-after=5s/0",
        "app:",
        "starts-in=-1s",
    ] {
        assert!(bad.parse::<Behaviour>().is_err(), "{bad}");
    }
}

/// An hour under a probe every second is a few thousand steps: microseconds
/// each, and far from what would hide a loop.
#[test]
fn an_hour_costs_steps_by_its_events() {
    let spec = json!({"containers": [{"name": "app", "image": "x:1", "livenessProbe": http(10, 3, 0)}]});
    let steps = foresee(spec, &[], 3_600).steps;
    assert!(steps < 12_000, "{steps} steps");
}
