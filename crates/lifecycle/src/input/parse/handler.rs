//! Handlers of hooks and probes: ports by name become numbers here.

use std::time::Duration;

use api::typed::{Container, HTTPGetAction, IntOrString, Lifecycle, LifecycleHandler, TCPSocketAction};

use crate::input::{Handler, Hooks, ParseError};

/// The hooks of a container at `path`.
pub(super) fn hooks(wire: &Container, path: &str) -> Result<Hooks, ParseError> {
    let Some(Lifecycle {
        post_start,
        pre_stop,
        stop_signal,
    }) = &wire.lifecycle
    else {
        return Ok(Hooks::default());
    };
    if stop_signal.is_some() {
        return Err(ParseError::NotHonoured(format!("{path}.lifecycle.stopSignal")));
    }
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
