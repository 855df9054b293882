//! Service: defaults, the address it gets, and its columns. The rules are in
//! `service/validate.rs`.
//!
//! Source: upstream `pkg/apis/core/v1/defaults.go` `SetDefaults_Service`,
//! `pkg/registry/core/service/storage/{storage,alloc}.go`.

mod validate;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

use api::status::Violation;
use api::{Object, Time};
use serde_json::{Map, Value, json};

use super::values::{objects, set_absent, text};
use super::warnings::{annotated, cidr, ip};
use super::{keep_status_apart, plain, short, text_field};
use crate::registry::{Cell, Change, Column, Ranges, Resource, Rules, Strategy, Subresource, Unallocated};
use crate::table;
use crate::validate::names;

pub(super) fn row() -> Resource {
    Resource {
        short_names: short(&["svc"]),
        categories: short(&["all"]),
        strategy: Arc::new(Service),
        fields: vec![text_field!("spec.clusterIP"), text_field!("spec.type")],
        columns: columns(),
        subresources: vec![Subresource::Status, Subresource::Proxy],
        ..plain("", "Service", "services", "services/specs")
    }
}

fn columns() -> Vec<Column> {
    vec![
        table::name_column(),
        Column::computed("Type", Cell::Text, |service, _| Value::from(service.str_at("spec.type"))),
        Column::computed("Cluster-IP", Cell::Text, |service, _| {
            table::text_or_none(service, "spec.clusterIP")
        }),
        Column::computed("External-IP", Cell::Text, |service, _| Value::from(external(service))),
        Column::computed("Port(s)", Cell::Text, |service, _| Value::from(ports(service))),
        table::age_column(),
        Column::computed("Selector", Cell::Text, |service, _| Value::from(selector(service))).wide(),
    ]
}

fn texts(service: &Object, path: &str) -> Vec<String> {
    service
        .at(path)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}

fn joined(parts: &[String]) -> String {
    if parts.is_empty() { "<none>".to_owned() } else { parts.join(",") }
}

fn external(service: &Object) -> String {
    let own = texts(service, "spec.externalIPs");
    match service.str_at("spec.type") {
        "ExternalName" => service.str_at("spec.externalName").to_owned(),
        "LoadBalancer" => {
            let ingress = service
                .at("status.loadBalancer.ingress")
                .and_then(Value::as_array)
                .into_iter()
                .flatten();
            let mut all: Vec<String> = ingress
                .filter_map(|point| point["ip"].as_str().or(point["hostname"].as_str()))
                .map(str::to_owned)
                .collect();
            all.extend(own);
            if all.is_empty() { "<pending>".to_owned() } else { all.join(",") }
        }
        _ => joined(&own),
    }
}

fn ports(service: &Object) -> String {
    let all = service.at("spec.ports").and_then(Value::as_array).into_iter().flatten();
    let parts: Vec<String> = all
        .map(|port| {
            let (number, protocol) = (port["port"].as_i64().unwrap_or(0), port["protocol"].as_str().unwrap_or_default());
            match port["nodePort"].as_i64().unwrap_or(0) {
                0 => format!("{number}/{protocol}"),
                node => format!("{number}:{node}/{protocol}"),
            }
        })
        .collect();
    joined(&parts)
}

fn selector(service: &Object) -> String {
    let pairs = service.at("spec.selector").and_then(Value::as_object).into_iter().flatten();
    let parts: Vec<String> = pairs
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    joined(&parts)
}

/// Addresses that are written as they should not be.
fn unusual_addresses(service: &Object) -> Vec<String> {
    let all = |field: &'static str| {
        let list = service.at(field).and_then(Value::as_array).into_iter().flatten().enumerate();
        list.map(move |(index, value)| (format!("{field}[{index}]"), value.as_str().unwrap_or_default()))
    };
    let mut told = Vec::new();
    for (field, value) in all("spec.clusterIPs").chain(all("spec.externalIPs")) {
        told.extend(ip(&field, value));
    }
    told.extend(ip("spec.loadBalancerIP", service.str_at("spec.loadBalancerIP")));
    for (field, value) in all("spec.loadBalancerSourceRanges") {
        told.extend(cidr(&field, value));
    }
    told
}

struct Service;

impl Strategy for Service {
    /// Source: upstream `pkg/api/service/warnings.go`.
    fn warnings(&self, new: &Object, _old: Option<&Object>) -> Vec<String> {
        const HINTS: &str = "service.kubernetes.io/topology-aware-hints";
        let kind = new.str_at("spec.type");
        let some = |field: &str| new.at(field).and_then(Value::as_array).is_some_and(|list| !list.is_empty());
        let headless = kind == "ClusterIP" && new.str_at("spec.clusterIP") == "None";
        let told = [
            (
                annotated(new, HINTS),
                "annotation service.kubernetes.io/topology-aware-hints is deprecated, please use service.kubernetes.io/topology-mode instead",
            ),
            (
                headless && !new.str_at("spec.loadBalancerIP").is_empty(),
                "spec.loadBalancerIP is ignored for headless services",
            ),
            (
                headless && some("spec.externalIPs"),
                "spec.externalIPs is ignored for headless services",
            ),
            (
                headless && new.str_at("spec.sessionAffinity") == "ClientIP",
                "spec.SessionAffinity is ignored for headless services",
            ),
            (
                kind == "ExternalName" && some("spec.externalIPs"),
                r#"spec.externalIPs is ignored when spec.type is "ExternalName""#,
            ),
            (
                kind != "ExternalName" && !new.str_at("spec.externalName").is_empty(),
                r#"spec.externalName is ignored when spec.type is not "ExternalName""#,
            ),
        ];
        told.into_iter()
            .filter(|(holds, _)| *holds)
            .map(|(_, text)| text.to_owned())
            .chain(unusual_addresses(new))
            .collect()
    }

    fn default(&self, service: &mut Object) {
        if let Some(Value::Object(spec)) = service.body.get_mut("spec") {
            fill(spec);
        }
    }

    fn prepare(&self, change: Change<'_>, _now: Time) {
        match change {
            Change::Create { new } => {
                new.body.insert("status".to_owned(), json!({ "loadBalancer": {} }));
            }
            Change::Update { new, old } => {
                keep_allocated(new, old);
                keep_status_apart(Change::Update { new, old });
            }
            status @ Change::UpdateStatus { .. } => keep_status_apart(status),
        }
    }

    fn validate(&self, new: &Object, old: Option<&Object>, rules: Rules) -> Vec<Violation> {
        match rules {
            Rules::Create | Rules::Update => validate::service(new, old),
            Rules::UpdateStatus | Rules::UpdateEphemeral | Rules::UpdateResize | Rules::UpdateApproval => Vec::new(),
        }
    }

    fn allocates(&self, new: &Object, old: Option<&Object>) -> bool {
        let address = new.str_at("spec.clusterIP");
        new.str_at("spec.type") != "ExternalName"
            && address != "None"
            && old.is_none_or(|old| old.str_at("spec.clusterIP") != address || address.is_empty())
    }

    fn allocate(&self, new: &mut Object, existing: &[Arc<Object>], ranges: &Ranges) -> Result<(), Unallocated> {
        let taken: BTreeSet<Ipv4Addr> = existing
            .iter()
            .filter(|other| other.uid() != new.uid() || new.uid().is_empty())
            .flat_map(|other| std::iter::once(other.str_at("spec.clusterIP").to_owned()).chain(texts(other, "spec.clusterIPs")))
            .filter_map(|text| text.parse().ok())
            .collect();
        let address = choose(new.str_at("spec.clusterIP"), &taken, ranges)?;
        if let Some(Value::Object(spec)) = new.body.get_mut("spec") {
            spec.insert("clusterIP".to_owned(), Value::from(address.to_string()));
            spec.insert("clusterIPs".to_owned(), json!([address.to_string()]));
        }
        Ok(())
    }

    fn check_name(&self, name: &str) -> Result<(), Vec<String>> {
        names::dns1035_label(name)
    }
}

/// The address asked for if it is free, else the first free one. The first of
/// the range is the API server's own.
fn choose(asked: &str, taken: &BTreeSet<Ipv4Addr>, ranges: &Ranges) -> Result<Ipv4Addr, Unallocated> {
    let (network, size) = (u32::from(ranges.service_network()), ranges.service_size());
    let refuse = |text: &str| Unallocated::Refused(Violation::invalid("spec.clusterIPs", &json!([asked]), text));
    if asked.is_empty() {
        // Without the network's own address, the API server's and broadcast.
        return (2..size.saturating_sub(1))
            .map(|offset| Ipv4Addr::from(network + offset))
            .find(|address| !taken.contains(address))
            .ok_or_else(|| Unallocated::Exhausted("failed to allocate a serviceIP: range is full".to_owned()));
    }
    let Ok(address) = asked.parse::<Ipv4Addr>() else {
        return Err(refuse(&format!("failed to allocate IP {asked}: it is not an IPv4 address")));
    };
    let offset = u32::from(address).wrapping_sub(network);
    if offset == 0 || offset >= size.saturating_sub(1) {
        return Err(refuse(&format!(
            "failed to allocate IP {asked}: the provided IP ({asked}) is not in the valid range. The range of valid IPs is {}/{}",
            ranges.service_network(),
            ranges.service_prefix
        )));
    }
    if taken.contains(&address) {
        return Err(refuse(&format!("failed to allocate IP {asked}: provided IP is already allocated")));
    }
    Ok(address)
}

fn is_headless(spec: &Map<String, Value>) -> bool {
    text(spec, "clusterIP") == "None"
        || spec.get("clusterIPs").and_then(Value::as_array).and_then(|ips| ips.first()) == Some(&Value::from("None"))
}

fn fill(spec: &mut Map<String, Value>) {
    set_absent(spec, "sessionAffinity", "None");
    set_absent(spec, "type", "ClusterIP");
    if text(spec, "sessionAffinity") == "ClientIP" {
        set_absent(spec, "sessionAffinityConfig", json!({ "clientIP": { "timeoutSeconds": 10_800 } }));
    }
    for port in objects(spec, "ports") {
        set_absent(port, "protocol", "TCP");
        if port.get("targetPort") == Some(&Value::from(0)) {
            port.remove("targetPort");
        }
        if let Some(number) = port.get("port").cloned() {
            set_absent(port, "targetPort", number);
        }
    }
    let kind = text(spec, "type").to_owned();
    let external = matches!(kind.as_str(), "NodePort" | "LoadBalancer")
        || kind == "ClusterIP" && spec.get("externalIPs").and_then(Value::as_array).is_some_and(|ips| !ips.is_empty());
    if external {
        set_absent(spec, "externalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        set_absent(spec, "allocateLoadBalancerNodePorts", true);
    }
    if kind == "ExternalName" {
        return;
    }
    set_absent(spec, "internalTrafficPolicy", "Cluster");
    fill_addresses(spec);
}

/// The older single field and the newer list say the same.
fn fill_addresses(spec: &mut Map<String, Value>) {
    let first = spec
        .get("clusterIPs")
        .and_then(Value::as_array)
        .and_then(|ips| ips.first())
        .cloned();
    match first {
        Some(first) => set_absent(spec, "clusterIP", first),
        None if !text(spec, "clusterIP").is_empty() => {
            let ip = Value::from(text(spec, "clusterIP"));
            spec.insert("clusterIPs".to_owned(), Value::Array(vec![ip]));
        }
        None => {}
    }
    let without_selector = spec.get("selector").and_then(Value::as_object).is_none_or(Map::is_empty);
    if is_headless(spec) && without_selector {
        // Endpoints made by hand may be of either family.
        set_absent(spec, "ipFamilyPolicy", "RequireDualStack");
        set_absent(spec, "ipFamilies", json!(["IPv4", "IPv6"]));
    } else {
        set_absent(spec, "ipFamilyPolicy", "SingleStack");
        set_absent(spec, "ipFamilies", json!(["IPv4"]));
    }
}

/// An update that leaves the address out keeps it. One that turns the Service
/// into an `ExternalName` gives it back with what belongs to it, unless it asks
/// for something else, which validation refuses.
///
/// Source: upstream `pkg/registry/core/service/strategy.go`,
/// `patchAllocatedValues` and `dropTypeDependentFields`.
fn keep_allocated(new: &mut Object, old: &Object) {
    let (before, after) = (old.str_at("spec.clusterIP"), new.str_at("spec.clusterIP"));
    let named = new.str_at("spec.type") == "ExternalName";
    let keeps = !named && !before.is_empty() && after.is_empty();
    let gives_back = named && old.str_at("spec.type") != "ExternalName" && before == after;
    let Some(Value::Object(spec)) = new.body.get_mut("spec") else {
        return;
    };
    if gives_back {
        for field in ["clusterIP", "clusterIPs"] {
            spec.remove(field);
        }
        for field in ["ipFamilies", "ipFamilyPolicy"] {
            if spec.get(field) == old.at(&format!("spec.{field}")) {
                spec.remove(field);
            }
        }
    } else if keeps {
        spec.insert("clusterIP".to_owned(), Value::from(before));
        spec.insert(
            "clusterIPs".to_owned(),
            old.at("spec.clusterIPs").cloned().unwrap_or_else(|| json!([before])),
        );
    }
}

#[cfg(test)]
mod tests;
