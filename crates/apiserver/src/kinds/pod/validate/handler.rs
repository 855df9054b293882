//! Probes and lifecycle hooks.
//!
//! Source: upstream `pkg/apis/core/validation/validation.go`,
//! `validateHandler`, `validateProbe`, `validateLifecycle`.

use api::status::Violation;
use api::typed::{ExecAction, HTTPGetAction, Lifecycle, Probe, SleepAction, TCPSocketAction};

use super::{each, text};
use crate::validate::{invalid_each, names, values};

/// The kinds of handler, in the order upstream looks at them.
#[derive(Default)]
struct Handler<'a> {
    exec: Option<&'a ExecAction>,
    http_get: Option<&'a HTTPGetAction>,
    tcp_socket: Option<&'a TCPSocketAction>,
    grpc_port: Option<i32>,
    sleep: Option<&'a SleepAction>,
}

fn handler(field: &str, handler: &Handler<'_>, grace_s: Option<i64>) -> Vec<Violation> {
    let mut broken = Vec::new();
    let mut one = false;
    let mut next = |name: &str, given: bool, rules: &dyn Fn(&str) -> Vec<Violation>| {
        let field = format!("{field}.{name}");
        if given && one {
            broken.push(Violation::forbidden(field, "may not specify more than 1 handler type"));
        } else if given {
            one = true;
            broken.extend(rules(&field));
        }
    };
    next("exec", handler.exec.is_some(), &|field| {
        let empty = handler.exec.is_none_or(|exec| each(&exec.command).is_empty());
        if empty {
            vec![Violation::required(format!("{field}.command"), "")]
        } else {
            Vec::new()
        }
    });
    next("httpGet", handler.http_get.is_some(), &|field| {
        handler.http_get.map(|get| http_get(field, get)).unwrap_or_default()
    });
    next("tcpSocket", handler.tcp_socket.is_some(), &|field| {
        handler
            .tcp_socket
            .map(|tcp| values::port_or_name(&format!("{field}.port"), &tcp.port))
            .unwrap_or_default()
    });
    next("grpc", handler.grpc_port.is_some(), &|field| {
        handler
            .grpc_port
            .and_then(|port| values::port(&format!("{field}.port"), i64::from(port)))
            .into_iter()
            .collect()
    });
    next("sleep", handler.sleep.is_some(), &|field| {
        handler.sleep.and_then(|action| sleep(field, action, grace_s)).into_iter().collect()
    });
    if !one {
        broken.push(Violation::required(field, "must specify a handler type"));
    }
    broken
}

fn http_get(field: &str, get: &HTTPGetAction) -> Vec<Violation> {
    let mut broken = Vec::new();
    if text(&get.path).is_empty() {
        broken.push(Violation::required(format!("{field}.path"), ""));
    }
    broken.extend(values::port_or_name(&format!("{field}.port"), &get.port));
    let scheme = text(&get.scheme);
    if !matches!(scheme, "HTTP" | "HTTPS") {
        broken.push(Violation::not_supported(format!("{field}.scheme"), scheme, &["HTTP", "HTTPS"]));
    }
    for header in each(&get.http_headers) {
        broken.extend(invalid_each(
            &format!("{field}.httpHeaders"),
            &header.name,
            names::http_header(&header.name),
        ));
    }
    broken
}

fn sleep(field: &str, action: &SleepAction, grace_s: Option<i64>) -> Option<Violation> {
    let grace_s = grace_s?;
    (action.seconds < 0 || action.seconds > grace_s).then(|| {
        let rule = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace_s})");
        Violation::invalid(field, &action.seconds.into(), &rule)
    })
}

fn probe(field: &str, probe: &Probe, grace_s: Option<i64>) -> Vec<Violation> {
    let kinds = Handler {
        exec: probe.exec.as_ref(),
        http_get: probe.http_get.as_ref(),
        tcp_socket: probe.tcp_socket.as_ref(),
        grpc_port: probe.grpc.as_ref().map(|grpc| grpc.port),
        sleep: None,
    };
    let mut broken = handler(field, &kinds, grace_s);
    let numbers = [
        ("initialDelaySeconds", probe.initial_delay_seconds),
        ("timeoutSeconds", probe.timeout_seconds),
        ("periodSeconds", probe.period_seconds),
        ("successThreshold", probe.success_threshold),
        ("failureThreshold", probe.failure_threshold),
    ];
    for (name, number) in numbers {
        broken.extend(values::not_negative(&format!("{field}.{name}"), i64::from(number.unwrap_or(0))));
    }
    if let Some(grace_s) = probe.termination_grace_period_seconds
        && grace_s <= 0
    {
        broken.push(Violation::invalid(
            format!("{field}.terminationGracePeriodSeconds"),
            &grace_s.into(),
            "must be greater than 0",
        ));
    }
    broken
}

/// A liveness or startup probe: one success is enough.
pub(super) fn once(field: &str, given: Option<&Probe>, grace_s: Option<i64>) -> Vec<Violation> {
    let Some(given) = given else { return Vec::new() };
    let mut broken = probe(field, given, grace_s);
    let threshold = given.success_threshold.unwrap_or(0);
    if threshold != 1 {
        broken.push(Violation::invalid(
            format!("{field}.successThreshold"),
            &threshold.into(),
            "must be 1",
        ));
    }
    broken
}

/// A readiness probe: nothing is killed by it.
pub(super) fn readiness(field: &str, given: Option<&Probe>, grace_s: Option<i64>) -> Vec<Violation> {
    let Some(given) = given else { return Vec::new() };
    let mut broken = probe(field, given, grace_s);
    if let Some(grace_s) = given.termination_grace_period_seconds {
        let field = format!("{field}.terminationGracePeriodSeconds");
        broken.push(Violation::invalid(field, &grace_s.into(), "must not be set for readinessProbes"));
    }
    broken
}

/// Hooks of a container.
pub(super) fn hooks(field: &str, hooks: Option<&Lifecycle>, grace_s: Option<i64>, os: Option<&str>) -> Vec<Violation> {
    let Some(hooks) = hooks else { return Vec::new() };
    let mut broken = Vec::new();
    for (name, hook) in [("postStart", &hooks.post_start), ("preStop", &hooks.pre_stop)] {
        if let Some(hook) = hook {
            let kinds = Handler {
                exec: hook.exec.as_ref(),
                http_get: hook.http_get.as_ref(),
                tcp_socket: hook.tcp_socket.as_ref(),
                grpc_port: None,
                sleep: hook.sleep.as_ref(),
            };
            broken.extend(handler(&format!("{field}.{name}"), &kinds, grace_s));
        }
    }
    broken.extend(
        hooks
            .stop_signal
            .as_deref()
            .and_then(|signal| stop_signal(&format!("{field}.stopSignal"), signal, os)),
    );
    broken
}

/// Which signals there are depends on the system, so that must be named.
///
/// Source: upstream `validateStopSignal`; KEP-4960.
fn stop_signal(field: &str, signal: &str, os: Option<&str>) -> Option<Violation> {
    let supported = match os {
        None => {
            return Some(Violation::forbidden(
                field,
                "may not be set for containers with empty `spec.os.name`",
            ));
        }
        Some("windows") => vec!["SIGKILL".to_owned(), "SIGTERM".to_owned()],
        Some(_) => api::signal::names(),
    };
    let supported: Vec<&str> = supported.iter().map(String::as_str).collect();
    (!supported.contains(&signal)).then(|| Violation::not_supported(field, signal, &supported))
}
