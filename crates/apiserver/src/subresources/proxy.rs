//! `nodes/proxy`, `pods/proxy` and `services/proxy`: HTTP passed on to a node's
//! API, to a pod's own server or to one of a service's, with what the client sent and what it gets streamed.
//!
//! What is decided here is pure: where a request goes ([`Destination`]) and
//! which headers go with it. [`dial`] moves the bytes.
//!
//! Links inside HTML pages are not rewritten, redirects are.
//!
//! Source: upstream `pkg/registry/core/pod/rest/subresources.go` `ProxyREST`,
//! `pkg/registry/core/{pod,node}/strategy.go` `ResourceLocation`,
//! `apimachinery/pkg/util/proxy/{upgradeaware,transport}.go`.

pub(crate) mod dial;
mod service;

use std::net::{IpAddr, SocketAddr};

use api::{Object, Status};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri, header};
use serde_json::Value;

use super::log::through;
use super::upgrade;
use crate::body::{self, Body};
use crate::call::Call;
use crate::request::proxied;

/// Where the kubelet of a node listens: naming it is asking for the node.
const KUBELET_PORT: &str = "10250";

/// Headers between two neighbours, which go no further. Source: RFC 9110,
/// section 7.6.1, and Go's `httputil.ReverseProxy`.
const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Headers in which a client says who it is: they are for this server alone.
const IDENTITY: [&str; 6] = [
    "authorization",
    "impersonate-user",
    "impersonate-group",
    "impersonate-uid",
    "x-remote-user",
    "x-remote-group",
];

/// What a proxied server may not tell a browser in this server's name.
/// Source: upstream `removeCORSHeaders`.
const CORS: [&str; 4] = [
    "access-control-allow-credentials",
    "access-control-allow-headers",
    "access-control-allow-methods",
    "access-control-allow-origin",
];

/// Where a proxied request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Destination {
    /// The API of a node, over the server's own way to it.
    NodeApi(String),
    /// A server at an address.
    Address { https: bool, address: SocketAddr },
}

/// `[scheme:]name[:port]`, the name of a proxied object.
///
/// Source: upstream `apimachinery/pkg/util/net/port_split.go`,
/// `SplitSchemeNamePort`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place<'a> {
    scheme: &'a str,
    name: &'a str,
    port: &'a str,
}

impl<'a> Place<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let parts: Vec<&str> = text.split(':').collect();
        let (scheme, name, port) = match parts.as_slice() {
            [name] => ("", *name, ""),
            [name, port] => ("", *name, *port),
            [scheme, name, port] => (*scheme, *name, *port),
            _ => return None,
        };
        (!name.is_empty() && matches!(scheme, "" | "http" | "https")).then_some(Self { scheme, name, port })
    }

    fn https(&self) -> bool {
        self.scheme == "https"
    }

    /// The port by number. Named ports are not looked up, as upstream.
    fn number(&self, default: u16) -> Result<u16, Status> {
        match self.port {
            "" => Ok(default),
            text => text
                .parse()
                .ok()
                .filter(|port| *port != 0)
                .ok_or_else(|| unreachable_at(&format!("dial tcp: lookup tcp/{text}: unknown port"))),
        }
    }
}

/// 503, as upstream's transport says it.
fn unreachable_at(why: &str) -> Status {
    Status::unavailable(format!("error trying to reach service: {why}"))
}

/// Whether an address may be asked on a user's behalf: not this host's own,
/// nor one that names no single machine. Source: upstream `IsProxyableIP`.
fn proxyable(ip: IpAddr) -> bool {
    let local = match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !(local || ip.is_unspecified() || ip.is_loopback() || ip.is_multicast())
}

fn allowed(address: &str) -> Result<IpAddr, Status> {
    let ip: Option<IpAddr> = address.parse().ok();
    ip.filter(|ip| proxyable(*ip))
        .ok_or_else(|| Status::bad_request("address not allowed"))
}

/// Where a request for a pod goes: the named port, else the first the pod
/// declares, else the scheme's own.
fn of_pod(pod: &Object, place: &Place<'_>) -> Result<Destination, Status> {
    let ports = pod.at("spec.containers").and_then(Value::as_array).into_iter().flatten();
    let declared = ports
        .filter_map(|container| container.pointer("/ports/0/containerPort")?.as_u64())
        .next();
    let scheme_port = if place.https() { 443 } else { 80 };
    let default = declared.and_then(|port| u16::try_from(port).ok()).unwrap_or(scheme_port);
    Ok(Destination::Address {
        https: place.https(),
        address: SocketAddr::new(allowed(pod.str_at("status.podIP"))?, place.number(default)?),
    })
}

/// Where a request for a node goes: its API, or another port of the machine.
fn of_node(node: &Object, place: &Place<'_>) -> Result<Destination, Status> {
    if matches!(place.port, "" | KUBELET_PORT) {
        return Ok(Destination::NodeApi(node.name().to_owned()));
    }
    let addresses = node.at("status.addresses").and_then(Value::as_array).into_iter().flatten();
    let internal = addresses
        .filter(|address| address["type"] == "InternalIP")
        .find_map(|address| address["address"].as_str());
    Ok(Destination::Address {
        https: place.https(),
        address: SocketAddr::new(allowed(internal.unwrap_or_default())?, place.number(0)?),
    })
}

/// Passes the request on and streams the answer back.
pub(crate) async fn connect(mut call: Call) -> Result<Response<Body>, Status> {
    let asked = call.asked.name.clone();
    let kind = call.row.id.singular.clone();
    let place = Place::parse(&asked).ok_or_else(|| Status::bad_request(format!("invalid {kind} request {asked:?}")))?;
    place.name.clone_into(&mut call.asked.name);
    let current = call.core.current(&call.row, &call.key()).await?.ok_or_else(|| call.not_found())?;
    let destination = match kind.as_str() {
        "node" => of_node(&current.object, &place)?,
        "service" => service::destination(&call, &current.object, &place).await?,
        _ => of_pod(&current.object, &place)?,
    };
    let (_, tail) = proxied(call.uri.path()).ok_or_else(Status::no_such_path)?;
    let tail = match (tail, call.query.get("path")) {
        ("", None) => return Ok(to_the_slash(&call.uri)),
        ("", Some(path)) => format!("/{}", path.trim_start_matches('/')),
        (tail, _) => tail.to_owned(),
    };
    let prefix = call.uri.path().strip_suffix(tail.as_str()).unwrap_or_default().to_owned();
    let request = onward(&call, &tail)?;
    let their_host = match &destination {
        Destination::NodeApi(_) => String::new(),
        Destination::Address { address, .. } => address.to_string(),
    };
    let response = match destination {
        Destination::NodeApi(node) => call.core.ask_node(&node, request).await?,
        Destination::Address { https, address } => dial::exchange(https, address, request)
            .await
            .map_err(|error| unreachable_at(&error.to_string()))?,
    };
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Ok(upgrade::pass(call, response));
    }
    let (mut head, body) = response.into_parts();
    drop_headers(&mut head.headers, &HOP_BY_HOP);
    drop_headers(&mut head.headers, &CORS);
    if let Some(location) = head.headers.get(header::LOCATION).and_then(|value| value.to_str().ok()) {
        let own_host = host(&call).unwrap_or_default();
        let kept = rewritten(location, &prefix, &[&own_host, &their_host]);
        if let Ok(kept) = HeaderValue::from_str(&kept) {
            head.headers.insert(header::LOCATION, kept);
        }
    }
    Ok(Response::from_parts(head, through(call, body)))
}

/// The request as the other side gets it.
fn onward(call: &Call, tail: &str) -> Result<Request<Body>, Status> {
    let query = call.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let path: PathAndQuery = format!("{tail}{query}")
        .parse()
        .map_err(|error| Status::bad_request(format!("the proxied path {tail:?} is not one: {error}")))?;
    let mut request = Request::new(call.take_body());
    *request.method_mut() = call.method.clone();
    *request.uri_mut() = Uri::from(path);
    let mut headers = call.headers.clone();
    let upgrade = headers.get(header::UPGRADE).filter(|_| call.upgrade.is_some()).cloned();
    drop_headers(&mut headers, &HOP_BY_HOP);
    if let Some(upgrade) = upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, upgrade);
    }
    drop_headers(&mut headers, &IDENTITY);
    let extra: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().starts_with("impersonate-extra-"))
        .cloned()
        .collect();
    for name in extra {
        headers.remove(name);
    }
    if let Some(host) = host(call)
        && let Ok(host) = HeaderValue::from_str(&host)
    {
        headers.insert(header::HOST, host);
    }
    if let Ok(uri) = HeaderValue::from_str(call.uri.path()) {
        headers.insert("x-forwarded-uri", uri);
    }
    *request.headers_mut() = headers;
    Ok(request)
}

/// The host the client asked for; in HTTP/2 it stands in the URI.
fn host(call: &Call) -> Option<String> {
    let header = call.headers.get(header::HOST).and_then(|value| value.to_str().ok());
    header
        .or_else(|| call.uri.authority().map(http::uri::Authority::as_str))
        .map(str::to_owned)
}

/// Drops these headers, and those a `Connection` header names.
fn drop_headers(headers: &mut HeaderMap, names: &[&str]) {
    let named: Vec<String> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .collect();
    for name in named.iter().map(String::as_str).chain(names.iter().copied()) {
        headers.remove(name);
    }
}

/// Relative links of the other side need the slash at the end of its root.
fn to_the_slash(uri: &Uri) -> Response<Body> {
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let mut response = Response::new(body::empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    if let Ok(location) = HeaderValue::from_str(&format!("{}/{query}", uri.path())) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

/// A redirect of the other side, as a path of this server: absolute paths get
/// the prefix, other hosts and relative paths are left alone.
///
/// Source: upstream `transport.go`, `rewriteURL`.
fn rewritten(location: &str, prefix: &str, own_hosts: &[&str]) -> String {
    let Ok(target) = location.parse::<Uri>() else {
        return location.to_owned();
    };
    let elsewhere = target.authority().is_some_and(|host| !own_hosts.contains(&host.as_str()));
    let path = target.path();
    if elsewhere || !path.starts_with('/') || path.starts_with(prefix) && !prefix.is_empty() {
        return location.to_owned();
    }
    let query = target.query().map(|query| format!("?{query}")).unwrap_or_default();
    format!("{prefix}{path}{query}")
}

#[cfg(test)]
mod tests;
