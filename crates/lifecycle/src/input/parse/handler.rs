//! Handlers of hooks and probes: ports by name become numbers here.

use std::time::Duration;

use api::typed::{self, Container, HTTPGetAction, IntOrString, Lifecycle, LifecycleHandler, TCPSocketAction};

use crate::input::{Handler, Hooks, ParseError, Probe, Probes};

/// The hooks of a container at `path`.
pub(super) fn hooks(wire: &Container, path: &str) -> Result<Hooks, ParseError> {
    let Some(Lifecycle {
        post_start,
        pre_stop,
        stop_signal: _, // the runtime's: it is the attempt's from its making
    }) = &wire.lifecycle
    else {
        return Ok(Hooks::default());
    };
    let parse = |hook: &Option<LifecycleHandler>, name: &str| {
        hook.as_ref()
            .map(|hook| of_hook(wire, hook, &format!("{path}.lifecycle.{name}")))
            .transpose()
    };
    Ok(Hooks {
        post_start: parse(post_start, "postStart")?,
        pre_stop: parse(pre_stop, "preStop")?,
    })
}

fn of_hook(wire: &Container, hook: &LifecycleHandler, path: &str) -> Result<Handler, ParseError> {
    if let Some(exec) = &hook.exec {
        return Ok(Handler::Exec {
            command: exec.command.clone().unwrap_or_default(),
        });
    }
    if let Some(get) = &hook.http_get {
        return http_get(wire, get, path);
    }
    if let Some(tcp) = &hook.tcp_socket {
        return tcp_socket(wire, tcp, path);
    }
    let sleep = hook.sleep.as_ref().ok_or_else(|| ParseError::Missing(path.to_owned()))?;
    Ok(Handler::Sleep {
        time: Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0)),
    })
}

pub(super) fn http_get(wire: &Container, get: &HTTPGetAction, path: &str) -> Result<Handler, ParseError> {
    let page = get.path.as_deref().unwrap_or("/");
    Ok(Handler::HttpGet {
        host: get.host.clone().filter(|host| !host.is_empty()),
        port: port(wire, &get.port, &format!("{path}.httpGet.port"))?,
        path: if page.starts_with('/') {
            page.to_owned()
        } else {
            format!("/{page}")
        },
        https: get.scheme.as_deref().is_some_and(|scheme| scheme.eq_ignore_ascii_case("HTTPS")),
        headers: get
            .http_headers
            .iter()
            .flatten()
            .map(|header| (header.name.clone(), header.value.clone()))
            .collect(),
    })
}

pub(super) fn tcp_socket(wire: &Container, tcp: &TCPSocketAction, path: &str) -> Result<Handler, ParseError> {
    Ok(Handler::TcpSocket {
        host: tcp.host.clone().filter(|host| !host.is_empty()),
        port: port(wire, &tcp.port, &format!("{path}.tcpSocket.port"))?,
    })
}

/// A number, or the name of a port of the same container; a name that is a
/// number in quotes counts as one. Source: upstream `probe.ResolveContainerPort`.
fn port(wire: &Container, port: &IntOrString, field: &str) -> Result<u16, ParseError> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => wire
            .ports
            .iter()
            .flatten()
            .find(|port| port.name.as_ref() == Some(name))
            .map(|port| port.container_port)
            .or_else(|| name.parse().ok()),
    };
    number
        .and_then(|number| u16::try_from(number).ok())
        .filter(|number| *number > 0)
        .ok_or_else(|| ParseError::Unsupported {
            field: field.to_owned(),
            value: match port {
                IntOrString::Int(number) => number.to_string(),
                IntOrString::String(name) => name.clone(),
            },
        })
}

/// The probes of a container at `path`.
pub(super) fn probes(wire: &Container, path: &str) -> Result<Probes, ParseError> {
    let parse = |given: &Option<typed::Probe>, field: &str| {
        given
            .as_ref()
            .map(|given| probe(wire, given, &format!("{path}.{field}")))
            .transpose()
    };
    Ok(Probes {
        liveness: parse(&wire.liveness_probe, "livenessProbe")?,
        readiness: parse(&wire.readiness_probe, "readinessProbe")?,
        startup: parse(&wire.startup_probe, "startupProbe")?,
    })
}

/// Zero and absent numbers mean the default. Source: Pod API reference, Probe.
fn probe(wire: &Container, given: &typed::Probe, path: &str) -> Result<Probe, ParseError> {
    let handler = if let Some(exec) = &given.exec {
        Handler::Exec {
            command: exec.command.clone().unwrap_or_default(),
        }
    } else if let Some(get) = &given.http_get {
        http_get(wire, get, path)?
    } else if let Some(tcp) = &given.tcp_socket {
        tcp_socket(wire, tcp, path)?
    } else if let Some(grpc) = &given.grpc {
        Handler::Grpc {
            port: port(wire, &IntOrString::Int(grpc.port), &format!("{path}.grpc.port"))?,
            service: grpc.service.clone().unwrap_or_default(),
        }
    } else {
        return Err(ParseError::Missing(path.to_owned()));
    };
    let number = |given: Option<i32>, default: u32| given.and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0).unwrap_or(default);
    let seconds = |given: Option<i32>, default: u32| Duration::from_secs(number(given, default).into());
    Ok(Probe {
        handler,
        initial_delay: seconds(given.initial_delay_seconds, 0),
        timeout: seconds(given.timeout_seconds, 1),
        period: seconds(given.period_seconds, 10),
        success_threshold: number(given.success_threshold, 1),
        failure_threshold: number(given.failure_threshold, 3),
        grace: given
            .termination_grace_period_seconds
            .and_then(|s| u64::try_from(s).ok())
            .map(Duration::from_secs),
    })
}
