//! What a Pod's numbers of seconds and of times come to, in virtual time.

use std::time::Duration;

use api::node::Uid;
use lifecycle::{ProbeKind, Probed};
use serde_json::{Value, json};
use sim::world::START;
use sim::{Faults, World};

const ALL: [ProbeKind; 3] = [ProbeKind::Liveness, ProbeKind::Readiness, ProbeKind::Startup];

/// A pod whose container `app` has these fields as well.
fn world(container: Value, spec: Value) -> (World, Uid) {
    let mut app = json!({"name": "app", "image": "x:1", "imagePullPolicy": "IfNotPresent"});
    app.as_object_mut().unwrap().extend(container.as_object().unwrap().clone());
    let mut all = json!({"containers": [app]});
    all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    let pod = json!({"metadata": {"name": "p", "namespace": "d", "uid": "u-0"}, "spec": all});
    let mut world = World::new(1, Faults::none());
    let uid = world.create_pod(serde_json::from_value(pod).unwrap());
    (world, uid)
}

fn probed(kind: ProbeKind, probe: &Value) -> Value {
    let mut container = json!({});
    container[format!("{}Probe", kind.as_str())] = probe.clone();
    container
}

/// The instants, in milliseconds since the beginning, of lines with `text`.
fn at_ms(lines: &[String], text: &str) -> Vec<u64> {
    let when = |line: &String| {
        let seconds: f64 = line.split('s').next()?.parse().ok()?;
        Some(Duration::from_secs_f64(seconds).as_millis() as u64)
    };
    lines.iter().filter(|line| line.contains(text)).filter_map(when).collect()
}

fn lines_until(world: &mut World, seconds: u64) -> Vec<String> {
    world.run_to(START + Duration::from_secs(seconds));
    world.trace.take()
}

fn close(seen_ms: u64, wanted_ms: u64) -> bool {
    seen_ms.abs_diff(wanted_ms) <= 10
}

/// When the first attempt of a probe is made, and each after it.
/// Fields: spec.containers[].livenessProbe.initialDelaySeconds spec.containers[].livenessProbe.periodSeconds
/// Fields: spec.containers[].readinessProbe.initialDelaySeconds spec.containers[].readinessProbe.periodSeconds
/// Fields: spec.containers[].startupProbe spec.containers[].startupProbe.initialDelaySeconds spec.containers[].startupProbe.periodSeconds
#[test]
fn a_probe_begins_after_its_delay_and_comes_every_period() {
    for kind in ALL {
        let probe = json!({"tcpSocket": {"port": 80}, "initialDelaySeconds": 7, "periodSeconds": 3, "failureThreshold": 1000});
        let (mut world, uid) = world(probed(kind, &probe), json!({}));
        // A startup probe that succeeds is not made again.
        world
            .probes
            .insert((uid, "app".to_owned(), kind), Probed::Failure("not yet".to_owned()));
        let lines = lines_until(&mut world, 30);
        let started = at_ms(&lines, "event Normal Started")[0];
        let mut made = at_ms(&lines, &format!("Probe {} app", kind.as_str()));
        assert!(close(made[0] - started, 7_000), "{kind:?}\n{lines:#?}");
        if kind == ProbeKind::Readiness {
            made.remove(0); // a container that is not ready at its start is asked once more out of turn
        }
        assert!(
            made.len() >= 6 && made.windows(2).all(|two| close(two[1] - two[0], 3_000)),
            "{kind:?}\n{lines:#?}"
        );
    }
}

/// How many failures in a row it takes, and with which grace the container is
/// killed for them; readiness kills nobody.
/// Fields: spec.containers[].livenessProbe.failureThreshold spec.containers[].livenessProbe.terminationGracePeriodSeconds
/// Fields: spec.containers[].startupProbe.failureThreshold spec.containers[].startupProbe.terminationGracePeriodSeconds
/// Fields: spec.containers[].readinessProbe.failureThreshold spec.terminationGracePeriodSeconds
#[test]
fn a_probe_acts_after_so_many_failures_in_a_row() {
    for kind in ALL {
        for (own_s, grace_s) in [(Some(50), 50), (None, 40)] {
            let mut probe = json!({"tcpSocket": {"port": 80}, "periodSeconds": 2, "failureThreshold": 4});
            if let Some(own_s) = own_s.filter(|_| kind != ProbeKind::Readiness) {
                probe["terminationGracePeriodSeconds"] = json!(own_s);
            }
            let (mut world, uid) = world(probed(kind, &probe), json!({"terminationGracePeriodSeconds": 40}));
            let key = (uid.clone(), "app".to_owned(), kind);
            if kind == ProbeKind::Readiness {
                lines_until(&mut world, 5);
                assert!(is_ready(&world, &uid));
            }
            world.probes.insert(key, Probed::Failure("no".to_owned()));
            let begun = if kind == ProbeKind::Readiness { 5 } else { 0 };
            let mut lines = lines_until(&mut world, begun + 5);
            let failed = at_ms(&lines, "event Warning Unhealthy").len();
            assert!((2..4).contains(&failed), "{lines:#?}");
            assert!(at_ms(&lines, "event Normal Killing").is_empty(), "{lines:#?}");
            assert!(kind != ProbeKind::Readiness || is_ready(&world, &uid), "{lines:#?}");
            lines.extend(lines_until(&mut world, begun + 20));
            let failed = at_ms(&lines, "event Warning Unhealthy");
            if kind == ProbeKind::Readiness {
                assert!(!is_ready(&world, &uid) && at_ms(&lines, " Stop ").is_empty(), "{lines:#?}");
            } else {
                let killed = at_ms(&lines, &format!("Stop grace={grace_s}s app"));
                assert!(close(killed[0], failed[3]), "{kind:?} {own_s:?}\n{lines:#?}");
            }
        }
    }
}

fn is_ready(world: &World, uid: &Uid) -> bool {
    let statuses = world.status(uid).and_then(|status| status.container_statuses.as_ref());
    statuses.is_some_and(|statuses| statuses[0].ready)
}

/// Fields: spec.containers[].readinessProbe.successThreshold
#[test]
fn a_container_is_ready_after_so_many_successes_in_a_row() {
    let probe = json!({"tcpSocket": {"port": 80}, "periodSeconds": 2, "successThreshold": 3});
    let (mut world, uid) = world(probed(ProbeKind::Readiness, &probe), json!({}));
    world.run_to(START + Duration::from_secs(3));
    assert!(!is_ready(&world, &uid), "two are not three");
    // One failure between, and counting begins anew.
    let key = (uid.clone(), "app".to_owned(), ProbeKind::Readiness);
    world.probes.insert(key.clone(), Probed::Failure("no".to_owned()));
    world.run_to(START + Duration::from_secs(5));
    world.probes.remove(&key);
    let lines = lines_until(&mut world, 9);
    assert!(!is_ready(&world, &uid), "{lines:#?}");
    let lines = lines_until(&mut world, 11);
    assert!(is_ready(&world, &uid), "{lines:#?}");
}

/// A hook that waits is waited for: before others start, and before the
/// process is told to stop.
/// Fields: spec.containers[].lifecycle.postStart.sleep.* spec.containers[].lifecycle.preStop.sleep.*
#[test]
fn a_hook_that_sleeps_takes_its_seconds() {
    let hooks = json!({"lifecycle": {"postStart": {"sleep": {"seconds": 11}}, "preStop": {"sleep": {"seconds": 6}}}});
    let (mut world, uid) = world(hooks, json!({}));
    let lines = lines_until(&mut world, 20);
    let started = at_ms(&lines, "event Normal Started")[0];
    let running = at_ms(&lines, "status Running")[0];
    assert!(close(running - started, 11_000), "{lines:#?}");
    world.delete(&uid, None);
    let lines = lines_until(&mut world, 40);
    assert!(close(at_ms(&lines, " Stop grace=")[0], 26_000), "{lines:#?}");
}

/// Fields: spec.activeDeadlineSeconds status.reason status.message
#[test]
fn a_pod_ends_at_its_deadline() {
    let (mut world, uid) = world(json!({}), json!({"activeDeadlineSeconds": 25, "terminationGracePeriodSeconds": 3}));
    world.run_to(START + Duration::from_secs(24));
    assert_eq!(world.status(&uid).unwrap().phase.as_deref(), Some("Running"));
    world.run_to(START + Duration::from_secs(32));
    let status = world.status(&uid).unwrap();
    assert_eq!(
        (status.phase.as_deref(), status.reason.as_deref(), status.message.as_deref()),
        (
            Some("Failed"),
            Some("DeadlineExceeded"),
            Some("Pod was active on the node longer than the specified deadline")
        )
    );
}
