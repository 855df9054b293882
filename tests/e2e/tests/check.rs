//! `lifepod check` and the API server say the same.

use std::io::Write as _;
use std::process::{Command, Stdio};

use e2e::Platform;
use e2e::platform::Build;
use serde_json::Value;

const MANIFESTS: [&str; 4] = [
    "{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {hostUsers: false, containers: [{name: c, image: i, ports: [{containerPort: 80, hostPort: 80}]}]}}",
    "{apiVersion: v1, kind: Pod, metadata: {name: b}, spec: {volumes: [{name: v, nfs: {server: s, path: /}}], containers: [{name: c, image: i}]}}",
    "{apiVersion: v1, kind: Pod, metadata: {name: c}, spec: {restartPolicy: Sometimes, containers: [{name: c, image: i}]}}",
    "{apiVersion: v1, kind: Pod, metadata: {name: d}, spec: {nodeSelector: {no: where}, containers: [{name: c, image: i}]}}",
];

/// What the report refuses of a manifest, and its exit code.
fn refused(build: &Build, manifest: &str) -> (Vec<(String, String)>, Option<i32>) {
    let mut check = Command::new(&build.binary);
    check.args(["check", "-f", "-", "-o", "json"]);
    let mut child = check.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(manifest.as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    let report: Value = serde_json::from_slice(&out.stdout).unwrap();
    let fields = report[0]["fields"].as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let refused = fields.filter(|field| field["standing"] == "refused");
    (
        refused.map(|field| (text(&field["path"]), text(&field["reason"]))).collect(),
        out.status.code(),
    )
}

/// Fields: spec.containers[].ports[].hostPort spec.volumes[].nfs spec.restartPolicy spec.nodeSelector
#[test]
fn root_the_report_on_a_manifest_is_what_the_server_does() {
    let build = Build::from_env().unwrap();
    let platform = Platform::start("check", &build).unwrap();
    for manifest in MANIFESTS {
        let (refused, code) = refused(&build, manifest);
        assert_eq!(code, Some(i32::from(!refused.is_empty())), "{manifest}");
        match platform.create(manifest) {
            Ok(_) => assert_eq!(refused, [], "{manifest}"),
            Err(error) => {
                let said = format!("{error:#}");
                assert!(!refused.is_empty(), "{manifest}: {said}");
                for (path, reason) in refused {
                    assert!(said.contains(&format!("{path}: {reason}")), "{path}: {reason}\nin {said}");
                }
            }
        }
    }
}
