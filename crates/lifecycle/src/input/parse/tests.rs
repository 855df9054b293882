use serde_json::json;

use super::*;

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
    let refused = parse(json!({"containers": [{"name": "a", "image": "x:1", "livenessProbe": {"grpc": {"port": 80}}}]}));
    assert_eq!(
        refused,
        Err(ParseError::NotHonoured("spec.containers[0].livenessProbe.grpc".to_owned()))
    );
    let refused = parse(json!({"containers": [{"name": "a", "image": "x:1", "lifecycle": {"stopSignal": "SIGUSR1"}}]}));
    assert_eq!(
        refused,
        Err(ParseError::NotHonoured("spec.containers[0].lifecycle.stopSignal".to_owned()))
    );
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
