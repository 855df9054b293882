//! Every way a probe or a hook asks, against a server that answers: nginx,
//! over HTTP, HTTPS and gRPC.

use std::time::{Duration, Instant};

use e2e::Platform;
use e2e::platform::{Build, restarts};
use e2e::wait;

const LIMIT: Duration = Duration::from_secs(90);

/// Messages of gRPC: not compressed, two bytes long, `status` is 1 (SERVING)
/// or 2 (`NOT_SERVING`).
const SERVING: &str = r"\000\000\000\000\002\010\001";
const NOT_SERVING: &str = r"\000\000\000\000\002\010\002";

/// A platform with what the server is made of: its configuration, and a
/// certificate nobody vouches for.
fn platform(label: &str) -> Platform {
    let build = Build::from_env().unwrap();
    let platform = Platform::start(label, &build).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["handlers.example".to_owned()]).unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let conf = file("nginx.conf", include_str!("../manifests/handlers/nginx.conf"));
    platform
        .ok(&["create", "configmap", "conf", &format!("--from-file=nginx.conf={conf}")])
        .unwrap();
    let (cert, key) = (
        file("tls.crt", &made.cert.pem()),
        file("tls.key", &made.signing_key.serialize_pem()),
    );
    platform
        .ok(&["create", "secret", "tls", "tls", &format!("--cert={cert}"), &format!("--key={key}")])
        .unwrap();
    platform
}

/// A pod with the server. `handlers` are fields of its container; `then` is
/// what it does beside serving.
fn server(name: &str, handlers: &str, then: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 2\n  volumes:\n  - {{name: conf, configMap: {{name: conf}}}}\n  - {{name: tls, secret: {{secretName: tls}}}}\n  containers:\n  - name: c\n    image: nginx:1.17.1\n    volumeMounts: [{{name: conf, mountPath: /conf}}, {{name: tls, mountPath: /tls}}]\n    command: [sh, -c]\n    args:\n    - |\n      at=/tmp/grpc/grpc.health.v1.Health; mkdir -p $at; printf '{SERVING}' > $at/Check\n      nginx -c /conf/nginx.conf &\n      {then}\n      wait\n{handlers}"
    )
}

fn sleeper(name: &str, grace_s: u32, script: &str, handlers: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: {grace_s}\n  containers:\n  - name: c\n    image: busybox:1.30\n    command: [sh, -c, '{script}']\n{handlers}"
    )
}

fn await_event(platform: &Platform, pod: &str, wanted: &str) {
    wait::until(&format!("the event {wanted:?} of {pod}"), LIMIT, || {
        let seen = platform.events("default", pod).unwrap();
        Ok(if seen.contains(wanted) { Ok(()) } else { Err(seen) })
    })
    .unwrap();
}

fn await_restart(platform: &Platform, pod: &str) {
    platform
        .wait_pod("default", pod, "a restart", LIMIT, |pod| (restarts(pod) >= 1).then_some(()))
        .unwrap();
}

fn await_ready(platform: &Platform, pod: &str) {
    platform
        .wait_pod("default", pod, "ready", LIMIT, |pod| {
            (pod["status"]["containerStatuses"][0]["ready"] == true).then_some(())
        })
        .unwrap();
}

/// Over gRPC and HTTPS, through redirects, at the start and with a grace of
/// its own: who is found ill is restarted, who is only sent elsewhere is not.
///
/// Shows: 14.1.6 14.1.11 14.1.12 14.1.14
#[test]
fn root_probes_ask_in_every_way() {
    let platform = platform("probe-ways");
    let every_second = "periodSeconds: 1, failureThreshold: 1";
    let becomes_ill = format!("sleep 8; printf '{NOT_SERVING}' > /tmp/ill; mv /tmp/ill $at/Check");
    let asked_over_grpc = format!(
        "    readinessProbe: {{grpc: {{port: 50051}}, periodSeconds: 1}}\n    livenessProbe: {{grpc: {{port: 50051}}, initialDelaySeconds: 3, {every_second}}}\n"
    );
    platform.create(&server("over-grpc", &asked_over_grpc, &becomes_ill)).unwrap();
    let asked_over_https = format!(
        "    readinessProbe: {{httpGet: {{scheme: HTTPS, port: 8443, path: /well}}, periodSeconds: 1}}\n    livenessProbe: {{httpGet: {{scheme: HTTPS, port: 8443, path: /ill}}, initialDelaySeconds: 8, {every_second}}}\n"
    );
    platform.create(&server("over-https", &asked_over_https, "")).unwrap();
    for (name, path) in [("sent-on", "/home"), ("sent-away", "/away")] {
        let probe = format!("    livenessProbe: {{httpGet: {{port: 8080, path: {path}}}, initialDelaySeconds: 3, {every_second}}}\n");
        platform.create(&server(name, &probe, "")).unwrap();
    }
    let never_up = format!(
        "    startupProbe: {{exec: {{command: ['false']}}, {every_second}}}\n    livenessProbe: {{exec: {{command: ['false']}}, periodSeconds: 1}}\n"
    );
    platform.create(&sleeper("never-up", 1, "exec sleep 3600", &never_up)).unwrap();
    // `sleep` heeds no signal as the first process: the pod's own grace would
    // outlast the test.
    let graced = format!("    livenessProbe: {{exec: {{command: ['false']}}, terminationGracePeriodSeconds: 1, {every_second}}}\n");
    platform.create(&sleeper("graced", 500, "exec sleep 3600", &graced)).unwrap();

    await_ready(&platform, "over-grpc");
    await_restart(&platform, "over-grpc");
    await_event(
        &platform,
        "over-grpc",
        "Warning Unhealthy Liveness probe failed: service unhealthy (responded with \"NOT_SERVING\")",
    );
    await_ready(&platform, "over-https");
    await_restart(&platform, "over-https");
    for ill in ["over-https", "sent-on"] {
        await_event(
            &platform,
            ill,
            "Warning Unhealthy Liveness probe failed: HTTP probe failed with statuscode: 404",
        );
        await_event(
            &platform,
            ill,
            "Normal Killing Container c failed liveness probe, will be restarted",
        );
        await_restart(&platform, ill);
    }
    await_event(
        &platform,
        "sent-away",
        "Warning ProbeWarning Liveness probe warning: Probe terminated redirects, Response body: <html>",
    );
    await_restart(&platform, "never-up");
    await_event(
        &platform,
        "never-up",
        "Normal Killing Container c failed startup probe, will be restarted",
    );
    assert!(
        !platform.events("default", "never-up").unwrap().contains("Liveness"),
        "it never got so far"
    );
    await_restart(&platform, "graced");
    let away = platform.get("default", "pod", "sent-away").unwrap().unwrap();
    assert_eq!(restarts(&away), 0, "{away}");
    // Its grace is nothing the deletion need wait for.
    platform.ok(&["delete", "pod", "graced", "--force", "--grace-period=0"]).unwrap();
}

/// Over HTTPS (a certificate nobody vouches for is fine), TCP and by waiting;
/// one that cannot connect has failed, and the container goes with it.
///
/// Shows: 14.1.18 14.1.20
#[test]
fn root_hooks_ask_in_every_way() {
    let platform = platform("hook-ways");
    platform.create(&server("handler", "", "")).unwrap();
    platform.wait_status("default", "handler", "Running", LIMIT).unwrap();
    let ip = platform.ok(&["get", "pod", "handler", "-o", "jsonpath={.status.podIP}"]).unwrap();
    let obeys = r#"trap "exit 0" TERM; while :; do sleep 0.1; done"#;
    let over_https = format!(
        "    lifecycle:\n      postStart: {{httpGet: {{scheme: HTTPS, host: {ip}, port: 8443, path: /began}}}}\n      preStop: {{httpGet: {{scheme: HTTPS, host: {ip}, port: 8443, path: /ends}}}}\n"
    );
    let connects =
        format!("    lifecycle:\n      postStart: {{tcpSocket: {{host: {ip}, port: 8080}}}}\n      preStop: {{sleep: {{seconds: 4}}}}\n");
    let cannot = format!("    lifecycle:\n      postStart: {{tcpSocket: {{host: {ip}, port: 8081}}}}\n");
    // Plain HTTP where HTTPS was asked for is asked again.
    let falls_back = format!("    lifecycle:\n      postStart: {{httpGet: {{scheme: HTTPS, host: {ip}, port: 8080, path: /plain}}}}\n");
    for (name, handlers) in [
        ("over-https", &over_https),
        ("connects", &connects),
        ("cannot", &cannot),
        ("falls-back", &falls_back),
    ] {
        platform.create(&sleeper(name, 20, obeys, handlers)).unwrap();
    }
    for name in ["over-https", "connects", "falls-back"] {
        platform.wait_status("default", name, "Running", LIMIT).unwrap();
    }
    await_event(
        &platform,
        "falls-back",
        &format!("Warning LifecycleHTTPFallback request to HTTPS lifecycle hook {ip}:8080 got HTTP response, retry with HTTP succeeded"),
    );
    await_event(&platform, "cannot", "Warning FailedPostStartHook PostStartHook failed");
    await_restart(&platform, "cannot");

    let asked = Instant::now();
    platform.ok(&["delete", "pod", "connects"]).unwrap();
    let took = asked.elapsed();
    assert!(took >= Duration::from_secs(4), "the hook was not waited for: {took:?}");
    platform.ok(&["delete", "pod", "over-https"]).unwrap();
    let log = platform.ok(&["logs", "handler"]).unwrap();
    for path in ["GET /began", "GET /ends", "GET /plain"] {
        assert!(log.contains(path), "{path}\n{log}");
    }
}

/// Every field of a handler, in every place a handler may stand, asked of a
/// server that tells what it was asked.
///
/// Fields: spec.containers[].livenessProbe.httpGet.* spec.containers[].readinessProbe.httpGet.* spec.containers[].startupProbe.httpGet.*
/// Fields: spec.containers[].lifecycle.postStart.httpGet.* spec.containers[].lifecycle.preStop.httpGet.*
#[test]
fn root_every_handler_asks_over_http_what_its_fields_say() {
    let platform = platform("http-fields");
    platform.create(&server("handler", "", "")).unwrap();
    platform.wait_status("default", "handler", "Running", LIMIT).unwrap();
    let ip = platform.ok(&["get", "pod", "handler", "-o", "jsonpath={.status.podIP}"]).unwrap();
    let obeys = r#"trap "exit 0" TERM; while :; do sleep 0.1; done"#;
    for (scheme, port) in [("HTTP", 8080), ("HTTPS", 8443)] {
        let ask = |by: &str| {
            format!(
                "httpGet: {{host: {ip}, scheme: {scheme}, port: {port}, path: /{by}, httpHeaders: [{{name: Host, value: {by}.example}}, {{name: X-Asked-By, value: the {by}}}]}}"
            )
        };
        let every_second = "periodSeconds: 1, timeoutSeconds: 5";
        let fields = format!(
            "    livenessProbe: {{{}, {every_second}}}\n    readinessProbe: {{{}, {every_second}}}\n    startupProbe: {{{}, {every_second}}}\n    lifecycle:\n      postStart: {{{}}}\n      preStop: {{{}}}\n",
            ask("liveness"),
            ask("readiness"),
            ask("startup"),
            ask("poststart"),
            ask("prestop")
        );
        let name = format!("over-{}", scheme.to_lowercase());
        platform.create(&sleeper(&name, 20, obeys, &fields)).unwrap();
        await_ready(&platform, &name);
        let told = |by: &str| {
            let agent = if by.ends_with("ness") || by == "startup" {
                "kube-probe"
            } else {
                "kube-lifecycle"
            };
            let wanted = format!(
                "\"GET /{by} HTTP/1.1\" of {by}.example over {} by \"the {by}\" ({agent}/1.33)",
                scheme.to_lowercase()
            );
            wait::until(&format!("{name} to ask {wanted:?}"), LIMIT, || {
                let log = platform.ok(&["logs", "handler"])?;
                Ok(if log.contains(&wanted) { Ok(()) } else { Err(log) })
            })
            .unwrap();
        };
        for by in ["poststart", "startup", "readiness", "liveness"] {
            told(by);
        }
        platform.ok(&["delete", "pod", &name]).unwrap();
        told("prestop");
    }
}

/// The same over TCP, where it is the end of the attempt that tells, and over
/// gRPC, where what arrived at the port is looked at.
///
/// Fields: spec.containers[].livenessProbe.tcpSocket.* spec.containers[].readinessProbe.tcpSocket.* spec.containers[].startupProbe.tcpSocket.*
/// Fields: spec.containers[].lifecycle.postStart.tcpSocket.* spec.containers[].lifecycle.preStop.tcpSocket.*
/// Fields: spec.containers[].livenessProbe.grpc.* spec.containers[].readinessProbe.grpc.* spec.containers[].startupProbe.grpc.*
#[test]
fn root_every_handler_asks_over_tcp_and_grpc_what_its_fields_say() {
    let platform = platform("tcp-fields");
    platform.create(&server("handler", "", "")).unwrap();
    platform.wait_status("default", "handler", "Running", LIMIT).unwrap();
    let ip = platform.ok(&["get", "pod", "handler", "-o", "jsonpath={.status.podIP}"]).unwrap();
    let obeys = r#"trap "exit 0" TERM; while :; do sleep 0.1; done"#;
    let at = |port: u16| format!("tcpSocket: {{host: {ip}, port: {port}}}");
    let probe = |kind: &str, port: u16| format!("    {kind}Probe: {{{}, periodSeconds: 1}}\n", at(port));
    // Nothing of the pod itself listens: it is the other's port that is open.
    let open = ["liveness", "readiness", "startup"].map(|kind| probe(kind, 8080)).concat();
    let hooks = |port: u16| {
        format!(
            "    lifecycle:\n      postStart: {{{}}}\n      preStop: {{{}}}\n",
            at(8080),
            at(port)
        )
    };
    platform.create(&sleeper("open", 20, obeys, &(open + &hooks(8080)))).unwrap();
    let closed = probe("liveness", 1) + &probe("readiness", 2) + &hooks(4);
    platform.create(&sleeper("closed", 20, obeys, &closed)).unwrap();
    platform.create(&sleeper("unstarted", 20, obeys, &probe("startup", 3))).unwrap();
    for (pod, kind, port) in [("closed", "Liveness", 1), ("closed", "Readiness", 2), ("unstarted", "Startup", 3)] {
        await_event(
            &platform,
            pod,
            &format!("Warning Unhealthy {kind} probe failed: dial tcp {ip}:{port}: connect: connection refused"),
        );
    }
    await_ready(&platform, "open");
    // This one's hook ends the container, and itself with it.
    let ends = "    lifecycle: {preStop: {exec: {command: [sh, -c, 'kill -TERM 1; sleep 60']}}}\n";
    platform.create(&sleeper("ends", 20, obeys, ends)).unwrap();
    platform.wait_status("default", "ends", "Running", LIMIT).unwrap();
    platform.ok(&["delete", "pod", "open", "closed", "ends"]).unwrap();
    await_event(&platform, "closed", "Warning FailedPreStopHook PreStopHook failed");
    for pod in ["open", "ends"] {
        let seen = platform.events("default", pod).unwrap();
        assert!(seen.contains("Killing") && !seen.contains("Warning"), "{pod}: {seen}");
    }

    let listen = |port: u16| format!("(sleep 3600 | nc -l -p {port} > /tmp/{port}) & ");
    let asks = |kind: &str, port: u16| {
        format!(
            "    {kind}Probe: {{grpc: {{port: {port}, service: the-{kind}}}, periodSeconds: 1, timeoutSeconds: 2, failureThreshold: 100}}\n"
        )
    };
    let listens = |ports: &[u16]| ports.iter().map(|port| listen(*port)).collect::<String>() + "wait";
    let live = sleeper(
        "live",
        1,
        &listens(&[5001, 5002]),
        &(asks("liveness", 5001) + &asks("readiness", 5002)),
    );
    platform.create(&live).unwrap();
    platform
        .create(&sleeper("starts", 1, &listens(&[5003]), &asks("startup", 5003)))
        .unwrap();
    for (pod, kind, port) in [("live", "liveness", 5001), ("live", "readiness", 5002), ("starts", "startup", 5003)] {
        wait::until(&format!("{kind} to ask at {port}"), LIMIT, || {
            let file = format!("/tmp/{port}");
            let found = platform.kubectl(&["exec", pod, "--", "grep", "-c", &format!("the-{kind}"), &file])?;
            Ok(if found.status.success() {
                Ok(())
            } else {
                Err(String::from_utf8_lossy(&found.stderr).into_owned())
            })
        })
        .unwrap();
    }
}
