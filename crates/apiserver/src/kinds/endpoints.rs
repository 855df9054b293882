//! Endpoints, the older form of what `EndpointSlice` says.
//!
//! Source: upstream `pkg/apis/core/validation/validation.go`
//! `ValidateEndpointsCreate`, printer `printEndpoints`.

use std::sync::Arc;

use api::Object;
use api::status::Violation;
use api::typed::{EndpointAddress, EndpointPort, Endpoints as Typed};
use serde_json::Value;

use super::values::{objects, set_absent};
use super::warnings::{ip, list, text};
use super::{plain, short, view};
use crate::registry::{Cell, Column, Resource, Rules, Strategy};
use crate::table;
use crate::validate::{invalid_each, names, values};

pub(super) fn row() -> Resource {
    Resource {
        short_names: short(&["ep"]),
        strategy: Arc::new(Endpoints),
        columns: vec![
            table::name_column(),
            Column::computed("Endpoints", Cell::Text, |endpoints, _| Value::from(shown(endpoints))),
            table::age_column(),
        ],
        deprecation: Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice".into()),
        ..plain("", "Endpoints", "endpoints", "services/endpoints")
    }
}

/// `ip:port` of the first three.
fn shown(endpoints: &Object) -> String {
    let mut all: Vec<String> = Vec::new();
    for subset in endpoints.body.get("subsets").and_then(Value::as_array).into_iter().flatten() {
        let addresses = || {
            subset["addresses"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|address| address["ip"].as_str())
        };
        match subset["ports"].as_array() {
            None => all.extend(addresses().map(str::to_owned)),
            Some(ports) => {
                for port in ports {
                    let number = port["port"].as_i64().unwrap_or(0);
                    all.extend(addresses().map(|ip| {
                        if ip.contains(':') {
                            format!("[{ip}]:{number}")
                        } else {
                            format!("{ip}:{number}")
                        }
                    }));
                }
            }
        }
    }
    if all.is_empty() {
        "<none>".to_owned()
    } else {
        table::first_few(&all, 3)
    }
}

struct Endpoints;

impl Strategy for Endpoints {
    /// The controller's own are as the pods' addresses are; nobody reads what
    /// it would be told.
    ///
    /// Source: upstream `registry/core/endpoint/strategy.go`, `endpointsWarnings`.
    fn warnings(&self, new: &Object, _old: Option<&Object>) -> Vec<String> {
        const BY: &str = "endpoints.kubernetes.io/managed-by";
        let labels = new.meta.labels.as_ref();
        if labels.is_some_and(|labels| labels.get(BY).is_some_and(|by| by == "endpoint-controller")) {
            return Vec::new();
        }
        let mut told = Vec::new();
        let subsets = new.at("subsets").and_then(Value::as_array);
        for (index, subset) in subsets.into_iter().flatten().enumerate() {
            for name in ["addresses", "notReadyAddresses"] {
                for (at, address) in list(subset, name).iter().enumerate() {
                    told.extend(ip(&format!("subsets[{index}].{name}[{at}].ip"), text(address, "ip")));
                }
            }
        }
        told
    }

    fn default(&self, endpoints: &mut Object) {
        for subset in objects(&mut endpoints.body, "subsets") {
            for port in objects(subset, "ports") {
                set_absent(port, "protocol", "TCP");
            }
        }
    }

    fn validate(&self, new: &Object, _old: Option<&Object>, _rules: Rules) -> Vec<Violation> {
        let endpoints: Typed = match view(new) {
            Ok(endpoints) => endpoints,
            Err(broken) => return broken,
        };
        let mut broken = Vec::new();
        for (index, subset) in endpoints.subsets.iter().flatten().enumerate() {
            let field = format!("subsets[{index}]");
            let ready = subset.addresses.as_deref().unwrap_or_default();
            let not_ready = subset.not_ready_addresses.as_deref().unwrap_or_default();
            if ready.is_empty() && not_ready.is_empty() {
                broken.push(Violation::required(
                    field.as_str(),
                    "must specify `addresses` or `notReadyAddresses`",
                ));
            }
            for (list, name) in [(ready, "addresses"), (not_ready, "notReadyAddresses")] {
                for (index, address) in list.iter().enumerate() {
                    broken.extend(address_rules(&format!("{field}.{name}[{index}]"), address));
                }
            }
            let ports = subset.ports.as_deref().unwrap_or_default();
            for (index, port) in ports.iter().enumerate() {
                broken.extend(port_rules(&format!("{field}.ports[{index}]"), port, ports.len() > 1));
            }
        }
        broken
    }
}

fn address_rules(field: &str, address: &EndpointAddress) -> Vec<Violation> {
    let mut broken = values::ordinary_address(&format!("{field}.ip"), &address.ip);
    if let Some(hostname) = address.hostname.as_deref().filter(|hostname| !hostname.is_empty()) {
        broken.extend(invalid_each(&format!("{field}.hostname"), hostname, names::dns1123_label(hostname)));
    }
    if let Some(node) = &address.node_name {
        broken.extend(invalid_each(&format!("{field}.nodeName"), node, names::dns1123_subdomain(node)));
    }
    broken
}

fn port_rules(field: &str, port: &EndpointPort, name_required: bool) -> Vec<Violation> {
    let mut broken = Vec::new();
    match port.name.as_deref().unwrap_or_default() {
        "" if name_required => broken.push(Violation::required(format!("{field}.name"), "")),
        "" => {}
        name => broken.extend(invalid_each(&format!("{field}.name"), name, names::dns1123_label(name))),
    }
    broken.extend(values::port(&format!("{field}.port"), i64::from(port.port)));
    broken.extend(values::port_protocols(
        field,
        port.protocol.as_deref(),
        port.app_protocol.as_deref(),
    ));
    broken
}
