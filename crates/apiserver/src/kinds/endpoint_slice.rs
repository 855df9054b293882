//! `EndpointSlice` of `discovery.k8s.io/v1`.
//!
//! Source: upstream `pkg/apis/discovery/validation/validation.go`,
//! `pkg/apis/discovery/v1/defaults.go`, printer `printEndpointSlice`.

use std::net::IpAddr;
use std::sync::Arc;

use api::Object;
use api::status::Violation;
use api::typed::discovery::{Endpoint, EndpointPort, EndpointSlice as Typed};
use serde_json::Value;

use super::values::objects;
use super::warnings;
use super::{plain, view};
use crate::registry::{Cell, Column, Resource, Rules, Strategy};
use crate::table;
use crate::validate::{immutable, invalid_each, names, values};

const ENDPOINTS_MAX: usize = 1000;
const ADDRESSES_MAX: usize = 100;
const PORTS_MAX: usize = 20_000;

pub(super) fn row() -> Resource {
    Resource {
        strategy: Arc::new(EndpointSlice),
        columns: vec![
            table::name_column(),
            Column::computed("AddressType", Cell::Text, |slice, _| Value::from(slice.str_at("addressType"))),
            Column::computed("Ports", Cell::Text, |slice, _| Value::from(ports(slice))),
            Column::computed("Endpoints", Cell::Text, |slice, _| Value::from(addresses(slice))),
            table::age_column(),
        ],
        ..plain("discovery.k8s.io", "EndpointSlice", "endpointslices", "endpointslices")
    }
}

fn list<'a>(slice: &'a Object, field: &str) -> &'a [Value] {
    slice.body.get(field).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn or_unset(all: &[String]) -> String {
    if all.is_empty() {
        "<unset>".to_owned()
    } else {
        table::first_few(all, 3)
    }
}

fn ports(slice: &Object) -> String {
    let all: Vec<_> = list(slice, "ports")
        .iter()
        .map(|port| port["port"].as_i64().map_or_else(|| "*".to_owned(), |n| n.to_string()))
        .collect();
    or_unset(&all)
}

fn addresses(slice: &Object) -> String {
    let all: Vec<_> = list(slice, "endpoints")
        .iter()
        .flat_map(|endpoint| endpoint["addresses"].as_array().into_iter().flatten())
        .filter_map(|address| address.as_str().map(str::to_owned))
        .collect();
    or_unset(&all)
}

struct EndpointSlice;

fn too_many(field: &str, count: usize, max: usize) -> Option<Violation> {
    (count > max).then(|| Violation {
        field: field.to_owned(),
        reason: "FieldValueTooMany",
        message: format!("Too many: {count}: must have at most {max} items"),
    })
}

impl Strategy for EndpointSlice {
    /// Slices of controllers are as the pods' addresses are; nobody reads what
    /// they would be told.
    ///
    /// Source: upstream `registry/discovery/endpointslice/strategy.go`,
    /// `warnOnDeprecatedAddressType`, `warnOnBadIPs`.
    fn warnings(&self, new: &Object, _old: Option<&Object>) -> Vec<String> {
        const BY: &str = "endpointslice.kubernetes.io/managed-by";
        const CONTROLLERS: [&str; 2] = ["endpointslice-controller.k8s.io", "endpointslicemirroring-controller.k8s.io"];
        if new.str_at("addressType") == "FQDN" {
            // A slice has no spec; upstream says so all the same.
            return vec!["spec.addressType: FQDN endpoints are deprecated".to_owned()];
        }
        let by = new.meta.labels.as_ref().and_then(|labels| labels.get(BY));
        if by.is_some_and(|by| CONTROLLERS.contains(&by.as_str())) {
            return Vec::new();
        }
        let mut told = Vec::new();
        let endpoints = new.at("endpoints").and_then(Value::as_array);
        for (index, endpoint) in endpoints.into_iter().flatten().enumerate() {
            for (at, address) in warnings::list(endpoint, "addresses").iter().enumerate() {
                let field = format!("endpoints[{index}].addresses[{at}]");
                told.extend(warnings::ip(&field, address.as_str().unwrap_or_default()));
            }
        }
        told
    }

    fn default(&self, slice: &mut Object) {
        for port in objects(&mut slice.body, "ports") {
            for (field, value) in [("name", ""), ("protocol", "TCP")] {
                if port.get(field).is_none_or(Value::is_null) {
                    port.insert(field.to_owned(), Value::from(value));
                }
            }
        }
    }

    fn validate(&self, new: &Object, old: Option<&Object>, _rules: Rules) -> Vec<Violation> {
        let slice: Typed = match view(new) {
            Ok(slice) => slice,
            Err(broken) => return broken,
        };
        let mut broken: Vec<Violation> = values::one_of("addressType", &slice.address_type, &["FQDN", "IPv4", "IPv6"])
            .into_iter()
            .collect();
        broken.extend(too_many("endpoints", slice.endpoints.len(), ENDPOINTS_MAX));
        for (index, endpoint) in slice.endpoints.iter().enumerate().take(ENDPOINTS_MAX) {
            broken.extend(endpoint_rules(&format!("endpoints[{index}]"), endpoint, &slice.address_type));
        }
        let ports = slice.ports.as_deref().unwrap_or_default();
        broken.extend(too_many("ports", ports.len(), PORTS_MAX));
        let mut seen: Vec<&str> = Vec::new();
        for (index, port) in ports.iter().enumerate().take(PORTS_MAX) {
            broken.extend(port_rules(&format!("ports[{index}]"), port, &seen));
            seen.push(port.name.as_deref().unwrap_or_default());
        }
        if let Some(old) = old {
            broken.extend(immutable("addressType", &slice.address_type.as_str(), &old.str_at("addressType")));
        }
        broken
    }
}

fn endpoint_rules(field: &str, endpoint: &Endpoint, kind: &str) -> Vec<Violation> {
    let mut broken = Vec::new();
    let list = format!("{field}.addresses");
    if endpoint.addresses.is_empty() {
        broken.push(Violation::required(list.as_str(), "must contain at least 1 address"));
    }
    broken.extend(too_many(&list, endpoint.addresses.len(), ADDRESSES_MAX));
    for (index, address) in endpoint.addresses.iter().enumerate().take(ADDRESSES_MAX) {
        broken.extend(address_rules(&format!("{list}[{index}]"), address, kind));
    }
    if let Some(node) = &endpoint.node_name {
        broken.extend(invalid_each(&format!("{field}.nodeName"), node, names::dns1123_subdomain(node)));
    }
    if let Some(hostname) = &endpoint.hostname {
        broken.extend(invalid_each(&format!("{field}.hostname"), hostname, names::dns1123_label(hostname)));
    }
    broken
}

fn address_rules(field: &str, address: &str, kind: &str) -> Vec<Violation> {
    let parsed = address.parse::<IpAddr>();
    let refuse = |text: &str| vec![Violation::invalid(field, &Value::from(address), text)];
    match kind {
        "IPv4" if !matches!(parsed, Ok(IpAddr::V4(_))) => refuse("must be a valid IPv4 address"),
        "IPv6" if !matches!(parsed, Ok(IpAddr::V6(_))) => refuse("must be a valid IPv6 address"),
        "IPv4" | "IPv6" => values::ordinary_address(field, address),
        "FQDN" => invalid_each(field, address, names::dns1123_subdomain(address)),
        // An unknown type has been reported; its addresses follow no rule.
        _ => Vec::new(),
    }
}

fn port_rules(field: &str, port: &EndpointPort, seen: &[&str]) -> Vec<Violation> {
    let mut broken = Vec::new();
    let name = port.name.as_deref().unwrap_or_default();
    if !name.is_empty() {
        broken.extend(invalid_each(&format!("{field}.name"), name, names::dns1123_label(name)));
    }
    if seen.contains(&name) {
        broken.push(Violation::duplicate(format!("{field}.name"), name));
    }
    broken.extend(values::port_protocols(
        field,
        port.protocol.as_deref(),
        port.app_protocol.as_deref(),
    ));
    broken
}
