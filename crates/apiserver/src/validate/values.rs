//! Formats of numbers, addresses and paths, in upstream's words.
//!
//! Source: upstream `apimachinery/pkg/util/validation` and
//! `pkg/apis/core/validation/validation.go`.

use std::net::IpAddr;

use api::status::Violation;
use api::typed::IntOrString;
use serde_json::Value;

use super::{invalid_each, names};

/// `must be between <low> and <high>, inclusive`.
#[must_use]
pub fn inclusive(low: i64, high: i64) -> String {
    format!("must be between {low} and {high}, inclusive")
}

/// A port number, 1 to 65535.
#[must_use]
pub fn port(field: &str, value: i64) -> Option<Violation> {
    (!(1..=65535).contains(&value)).then(|| Violation::invalid(field, &value.into(), &inclusive(1, 65535)))
}

/// A port number or the name of one.
#[must_use]
pub fn port_or_name(field: &str, value: &IntOrString) -> Vec<Violation> {
    match value {
        IntOrString::Int(number) => port(field, i64::from(*number)).into_iter().collect(),
        IntOrString::String(name) => invalid_each(field, name, names::port_name(name)),
    }
}

/// A transport protocol.
#[must_use]
pub fn protocol(field: &str, value: &str) -> Option<Violation> {
    match value {
        "" => Some(Violation::required(field, "")),
        "SCTP" | "TCP" | "UDP" => None,
        other => Some(Violation::not_supported(field, other, &["SCTP", "TCP", "UDP"])),
    }
}

/// The protocols of a port of a Service or of its endpoints, in the object at
/// `field`: the transport's, and what is spoken over it.
#[must_use]
pub fn port_protocols(field: &str, transport: Option<&str>, app: Option<&str>) -> Vec<Violation> {
    let mut broken: Vec<_> = protocol(&format!("{field}.protocol"), transport.unwrap_or_default())
        .into_iter()
        .collect();
    if let Some(app) = app {
        broken.extend(invalid_each(&format!("{field}.appProtocol"), app, names::qualified_name(app)));
    }
    broken
}

/// A number that may not be negative.
#[must_use]
pub fn not_negative(field: &str, value: i64) -> Option<Violation> {
    (value < 0).then(|| Violation::invalid(field, &value.into(), "must be greater than or equal to 0"))
}

/// A user or group id.
#[must_use]
pub fn user_or_group(field: &str, value: i64) -> Option<Violation> {
    (!(0..=i64::from(i32::MAX)).contains(&value)).then(|| Violation::invalid(field, &value.into(), &inclusive(0, i64::from(i32::MAX))))
}

/// An IPv4 or IPv6 address.
#[must_use]
pub fn address(field: &str, value: &str) -> Option<Violation> {
    value.parse::<IpAddr>().is_err().then(|| {
        Violation::invalid(
            field,
            &Value::from(value),
            "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        )
    })
}

/// An address that other hosts may reach: not unspecified, loopback or
/// link-local.
#[must_use]
pub fn ordinary_address(field: &str, value: &str) -> Vec<Violation> {
    let Ok(ip) = value.parse::<IpAddr>() else {
        return address(field, value).into_iter().collect();
    };
    let mut broken = Vec::new();
    let mut refuse = |text: &str| broken.push(Violation::invalid(field, &Value::from(value), text));
    if ip.is_unspecified() {
        refuse(&format!("may not be unspecified ({value})"));
    }
    if ip.is_loopback() {
        refuse("may not be in the loopback range (127.0.0.0/8, ::1/128)");
    }
    let (link_local, link_local_multicast) = match ip {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(v6) => (v6.segments()[0] & 0xffc0 == 0xfe80, v6.segments()[0] & 0xff0f == 0xff02),
    };
    if link_local {
        refuse("may not be in the link-local range (169.254.0.0/16, fe80::/10)");
    }
    if link_local_multicast {
        refuse("may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)");
    }
    broken
}

/// A path inside something: relative, without `..`.
#[must_use]
pub fn descending_path(field: &str, value: &str) -> Vec<Violation> {
    let mut broken = Vec::new();
    if value.starts_with('/') {
        broken.push(Violation::invalid(field, &Value::from(value), "must be a relative path"));
    }
    broken.extend(no_backsteps(field, value));
    broken
}

/// A path without `..` elements.
#[must_use]
pub fn no_backsteps(field: &str, value: &str) -> Option<Violation> {
    value
        .split('/')
        .any(|part| part == "..")
        .then(|| Violation::invalid(field, &Value::from(value), "must not contain '..'"))
}

/// `Unsupported value` unless it is one of `supported`; `Required value` when
/// empty.
#[must_use]
pub fn one_of(field: &str, value: &str, supported: &[&str]) -> Option<Violation> {
    if value.is_empty() {
        return Some(Violation::required(field, ""));
    }
    (!supported.contains(&value)).then(|| Violation::not_supported(field, value, supported))
}
