use serde_json::json;

use super::*;
use crate::input::Handler;

fn pod(spec: serde_json::Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "dev", "uid": "u-1", "generation": 3}, "spec": spec})).unwrap()
}

fn parse(spec: serde_json::Value) -> Result<Desired, ParseError> {
    Desired::parse(&pod(spec), &NodeFacts::default())
}

#[test]
fn defaults_are_the_api_references() {
    let desired = parse(json!({"containers": [{"name": "a", "image": "nginx"}, {"name": "b", "image": "reg:5000/x:1"}]})).unwrap();
    assert_eq!(desired.restart_policy, RestartPolicy::Always);
    assert_eq!(desired.grace, Duration::from_secs(30));
    assert_eq!(desired.containers[0].pull_policy, PullPolicy::Always);
    assert_eq!(desired.containers[1].pull_policy, PullPolicy::IfNotPresent);
    assert_eq!(desired.pod(), "web_dev(u-1)");
}

#[test]
fn what_is_not_honoured_is_refused_by_name() {
    let refused = parse(json!({"containers": [{"name": "a", "image": "x:1", "restartPolicy": "Never"}]}));
    assert_eq!(refused, Err(ParseError::NotHonoured("spec.containers[0].restartPolicy".to_owned())));
    let refused = parse(json!({"restartPolicy": "Sometimes", "containers": [{"name": "a", "image": "x:1"}]}));
    assert_eq!(
        refused.unwrap_err().to_string(),
        "spec.restartPolicy: unsupported value \"Sometimes\""
    );
    assert_eq!(
        parse(json!({"containers": []})),
        Err(ParseError::Missing("spec.containers".to_owned()))
    );
}

#[test]
fn an_init_container_that_always_restarts_is_a_sidecar() {
    let desired = parse(json!({
        "initContainers": [{"name": "s", "image": "x:1", "restartPolicy": "Always"}, {"name": "i", "image": "x:1"}],
        "containers": [{"name": "a", "image": "x:1"}],
    }));
    let roles: Vec<_> = desired.unwrap().all().map(|c| c.role).collect();
    assert_eq!(roles, [Role::Sidecar, Role::Init, Role::Regular]);
}

#[test]
fn probes_and_hooks_take_the_api_references_defaults() {
    let desired = parse(json!({"containers": [{
        "name": "a", "image": "x:1", "ports": [{"name": "web", "containerPort": 8080}],
        "livenessProbe": {"httpGet": {"port": "web", "path": "x"}, "timeoutSeconds": 0},
        "readinessProbe": {"grpc": {"port": 9}, "periodSeconds": 3, "initialDelaySeconds": 4, "successThreshold": 2},
        "startupProbe": {"tcpSocket": {"port": "81", "host": ""}, "terminationGracePeriodSeconds": 7, "failureThreshold": 9},
        "lifecycle": {"preStop": {"sleep": {"seconds": 5}}},
    }]}))
    .unwrap();
    let container = &desired.containers[0];
    let s = Duration::from_secs;
    let liveness = container.probes.liveness.clone().unwrap();
    let page = Handler::HttpGet {
        host: None,
        port: Ok(8080),
        path: "/x".to_owned(),
        https: false,
        headers: Vec::new(),
    };
    assert_eq!((liveness.handler, liveness.timeout, liveness.period), (page, s(1), s(10)));
    assert_eq!(
        (liveness.failure_threshold, liveness.success_threshold, liveness.grace),
        (3, 1, None)
    );
    let readiness = container.probes.readiness.clone().unwrap();
    let grpc = Handler::Grpc {
        port: 9,
        service: String::new(),
    };
    assert_eq!(
        (
            readiness.handler,
            readiness.period,
            readiness.initial_delay,
            readiness.success_threshold
        ),
        (grpc, s(3), s(4), 2)
    );
    let startup = container.probes.startup.clone().unwrap();
    assert_eq!(startup.handler, Handler::TcpSocket { host: None, port: Ok(81) });
    assert_eq!((startup.grace, startup.failure_threshold), (Some(s(7)), 9));
    assert_eq!(container.hooks.pre_stop, Some(Handler::Sleep { time: s(5) }));
}

#[test]
fn a_mount_says_whether_what_is_below_it_is_read_only_too() {
    for (mode, wanted) in [
        (json!(null), "Disabled"),
        (json!("Disabled"), "Disabled"),
        (json!("IfPossible"), "Enabled"),
        (json!("Enabled"), "Enabled"),
    ] {
        let mount = json!({"name": "v", "mountPath": "/v", "readOnly": true, "recursiveReadOnly": mode});
        let desired = parse(json!({"containers": [{"name": "a", "image": "x:1", "volumeMounts": [mount]}]})).unwrap();
        let told = &desired.containers[0].volume_mounts[0];
        assert_eq!((told.read_only, told.recursive_read_only.as_deref()), (Some(true), Some(wanted)));
    }
}

#[test]
fn a_port_name_nobody_has_fails_whoever_asks() {
    let probe = json!({"httpGet": {"port": "nope"}});
    let desired = parse(
        json!({"containers": [{"name": "a", "image": "x:1", "readinessProbe": probe, "livenessProbe": {"tcpSocket": {"port": "70000"}}}]}),
    )
    .unwrap();
    let probes = &desired.containers[0].probes;
    let port = |handler: &Handler| match handler {
        Handler::HttpGet { port, .. } | Handler::TcpSocket { port, .. } => port.clone().unwrap_err(),
        other => panic!("{other}"),
    };
    assert_eq!(
        port(&probes.readiness.as_ref().unwrap().handler),
        "strconv.Atoi: parsing \"nope\": invalid syntax"
    );
    assert_eq!(port(&probes.liveness.as_ref().unwrap().handler), "invalid port number: 70000");
}
