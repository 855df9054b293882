//! Handlers of hooks and probes: ports by name become numbers here.

use std::time::Duration;

use api::typed::{self, Container, HTTPGetAction, IntOrString, Lifecycle, LifecycleHandler, TCPSocketAction};

use crate::input::{Handler, Hooks, ParseError, Port, Probe, Probes};

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
        return Ok(http_get(wire, get));
    }
    if let Some(tcp) = &hook.tcp_socket {
        return Ok(tcp_socket(wire, tcp));
    }
    let sleep = hook.sleep.as_ref().ok_or_else(|| ParseError::Missing(path.to_owned()))?;
    Ok(Handler::Sleep {
        time: Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0)),
    })
}

fn http_get(wire: &Container, get: &HTTPGetAction) -> Handler {
    let page = get.path.as_deref().unwrap_or("/");
    Handler::HttpGet {
        host: get.host.clone().filter(|host| !host.is_empty()),
        port: port(wire, &get.port),
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
    }
}

fn tcp_socket(wire: &Container, tcp: &TCPSocketAction) -> Handler {
    Handler::TcpSocket {
        host: tcp.host.clone().filter(|host| !host.is_empty()),
        port: port(wire, &tcp.port),
    }
}

/// A number, or the name of a port of the same container; a name that is a
/// number in quotes counts as one. Source: upstream `probe.ResolveContainerPort`.
fn port(wire: &Container, port: &IntOrString) -> Port {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            let named = wire.ports.iter().flatten().find(|port| port.name.as_ref() == Some(name));
            match named.map(|port| port.container_port).or_else(|| name.parse().ok()) {
                Some(number) => number,
                None => return Err(format!("strconv.Atoi: parsing {name:?}: invalid syntax")),
            }
        }
    };
    u16::try_from(number)
        .ok()
        .filter(|number| *number > 0)
        .ok_or_else(|| format!("invalid port number: {number}"))
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
        http_get(wire, get)
    } else if let Some(tcp) = &given.tcp_socket {
        tcp_socket(wire, tcp)
    } else if let Some(grpc) = &given.grpc {
        Handler::Grpc {
            port: u16::try_from(grpc.port).map_err(|_| ParseError::Unsupported {
                field: format!("{path}.grpc.port"),
                value: grpc.port.to_string(),
            })?,
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
