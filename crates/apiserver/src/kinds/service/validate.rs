//! Rules of a Service.
//!
//! Source: upstream `pkg/apis/core/validation/validation.go`, `ValidateService`
//! and `ValidateServiceUpdate`.

use api::Object;
use api::status::Violation;
use api::typed::{Service, ServicePort, ServiceSpec};
use serde_json::{Value, json};

use crate::kinds::pod::not_yet;
use crate::kinds::view;
use crate::validate::{invalid_each, labels, names, values};

const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];

/// Every broken rule of a new or changed Service.
pub(super) fn service(new: &Object, old: Option<&Object>) -> Vec<Violation> {
    let typed: Service = match view(new) {
        Ok(typed) => typed,
        Err(broken) => return broken,
    };
    let spec = typed.spec.unwrap_or_default();
    let mut broken = old.map(|old| address_change(new, old)).unwrap_or_default();
    let kind = spec.type_.as_deref().unwrap_or_default();
    let ports = spec.ports.as_deref().unwrap_or_default();
    let headless = spec.cluster_ip.as_deref() == Some("None");
    if ports.is_empty() && !headless && kind != "ExternalName" {
        broken.push(Violation::required("spec.ports", ""));
    }
    broken.extend(of_type(&spec, kind, headless));
    let mut seen: Vec<&str> = Vec::new();
    for (index, port) in ports.iter().enumerate() {
        broken.extend(port_rules(&format!("spec.ports[{index}]"), port, ports.len() > 1, &seen));
        seen.extend(port.name.as_deref());
    }
    if let Some(selector) = &spec.selector {
        broken.extend(labels("spec.selector", selector));
    }
    broken.extend(affinity(&spec));
    broken.extend(families(&spec));
    for (index, ip) in spec.external_ips.iter().flatten().enumerate() {
        broken.extend(values::ordinary_address(&format!("spec.externalIPs[{index}]"), ip));
    }
    broken.extend(values::one_of("spec.type", kind, &TYPES));
    broken.extend(unique_ports(ports, kind));
    broken.extend(traffic(&spec, kind));
    if broken.is_empty() {
        broken.extend(unsupported(kind));
    }
    broken
}

fn of_type(spec: &ServiceSpec, kind: &str, headless: bool) -> Vec<Violation> {
    let mut broken = Vec::new();
    match kind {
        "LoadBalancer" | "NodePort" if headless => {
            broken.push(Violation::invalid(
                "spec.clusterIPs[0]",
                &"None".into(),
                &format!("may not be set to 'None' for {kind} services"),
            ));
        }
        "ExternalName" => {
            const TEXT: &str = "may not be set for ExternalName services";
            if spec.cluster_ips.as_ref().is_some_and(|ips| !ips.is_empty()) {
                broken.push(Violation::forbidden("spec.clusterIPs", TEXT));
            }
            if spec.ip_families.as_ref().is_some_and(|families| !families.is_empty()) {
                broken.push(Violation::forbidden("spec.ipFamilies", TEXT));
            }
            if spec.ip_family_policy.is_some() {
                broken.push(Violation::forbidden("spec.ipFamilyPolicy", TEXT));
            }
            let name = spec.external_name.as_deref().unwrap_or_default();
            match name.strip_suffix('.').unwrap_or(name) {
                "" => broken.push(Violation::required("spec.externalName", "")),
                name => broken.extend(invalid_each("spec.externalName", name, names::dns1123_subdomain(name))),
            }
        }
        _ => {}
    }
    broken
}

fn port_rules(field: &str, port: &ServicePort, name_required: bool, seen: &[&str]) -> Vec<Violation> {
    let mut broken = Vec::new();
    let name_field = format!("{field}.name");
    match port.name.as_deref().unwrap_or_default() {
        "" if name_required => broken.push(Violation::required(name_field, "")),
        "" => {}
        name => {
            broken.extend(invalid_each(&name_field, name, names::dns1123_label(name)));
            if seen.contains(&name) {
                broken.push(Violation::duplicate(name_field, name));
            }
        }
    }
    broken.extend(values::port(&format!("{field}.port"), i64::from(port.port)));
    if let Some(target) = &port.target_port {
        broken.extend(values::port_or_name(&format!("{field}.targetPort"), target));
    }
    broken.extend(values::port_protocols(
        field,
        port.protocol.as_deref(),
        port.app_protocol.as_deref(),
    ));
    broken
}

fn unique_ports(ports: &[ServicePort], kind: &str) -> Vec<Violation> {
    let mut broken = Vec::new();
    for (index, port) in ports.iter().enumerate() {
        if kind == "ClusterIP" && port.node_port.is_some_and(|number| number != 0) {
            broken.push(Violation::forbidden(
                format!("spec.ports[{index}].nodePort"),
                "may not be used when `type` is 'ClusterIP'",
            ));
        }
    }
    for (index, port) in ports.iter().enumerate() {
        if ports[..index]
            .iter()
            .any(|other| other.port == port.port && other.protocol == port.protocol)
        {
            let shown = json!({ "protocol": port.protocol, "port": port.port });
            let mut double = Violation::duplicate(format!("spec.ports[{index}]"), "");
            double.message = format!("Duplicate value: {shown}");
            broken.push(double);
        }
    }
    broken
}

fn affinity(spec: &ServiceSpec) -> Vec<Violation> {
    const MAX_S: i32 = 86_400;
    let kind = spec.session_affinity.as_deref().unwrap_or_default();
    let mut broken: Vec<_> = values::one_of("spec.sessionAffinity", kind, &["ClientIP", "None"])
        .into_iter()
        .collect();
    let config = "spec.sessionAffinityConfig";
    match (kind, &spec.session_affinity_config) {
        ("None", Some(_)) => broken.push(Violation::forbidden(config, "must not be set when session affinity is None")),
        ("ClientIP", given) => {
            const WHEN: &str = "when session affinity type is ClientIP";
            match given
                .as_ref()
                .map(|config| config.client_ip.as_ref().map(|client| client.timeout_seconds))
            {
                None => broken.push(Violation::required(config, WHEN)),
                Some(None) => broken.push(Violation::required(format!("{config}.clientIP"), WHEN)),
                Some(Some(None)) => broken.push(Violation::required(format!("{config}.clientIP.timeoutSeconds"), WHEN)),
                Some(Some(Some(timeout_s))) if !(1..=MAX_S).contains(&timeout_s) => {
                    let text = format!("must be greater than 0 and less than {MAX_S}");
                    broken.push(Violation::invalid(
                        format!("{config}.clientIP.timeoutSeconds"),
                        &timeout_s.into(),
                        &text,
                    ));
                }
                Some(Some(Some(_))) => {}
            }
        }
        _ => {}
    }
    broken
}

fn families(spec: &ServiceSpec) -> Vec<Violation> {
    let mut broken = Vec::new();
    let ips = spec.cluster_ips.as_deref().unwrap_or_default();
    let first = spec.cluster_ip.as_deref().unwrap_or_default();
    if let Some(listed) = ips.first()
        && listed != first
    {
        broken.push(Violation::invalid(
            "spec.clusterIPs",
            &json!(ips),
            "first value must match `clusterIP`",
        ));
    }
    for (index, family) in spec.ip_families.iter().flatten().enumerate() {
        broken.extend(values::one_of(&format!("spec.ipFamilies[{index}]"), family, &["IPv4", "IPv6"]));
    }
    if let Some(policy) = &spec.ip_family_policy {
        broken.extend(values::one_of(
            "spec.ipFamilyPolicy",
            policy,
            &["PreferDualStack", "RequireDualStack", "SingleStack"],
        ));
    }
    for (index, ip) in ips.iter().enumerate().filter(|(_, ip)| !matches!(ip.as_str(), "None" | "")) {
        broken.extend(values::address(&format!("spec.clusterIPs[{index}]"), ip));
    }
    broken
}

fn traffic(spec: &ServiceSpec, kind: &str) -> Vec<Violation> {
    const POLICIES: [&str; 2] = ["Cluster", "Local"];
    let mut broken = Vec::new();
    let reachable =
        matches!(kind, "NodePort" | "LoadBalancer") || kind == "ClusterIP" && spec.external_ips.as_ref().is_some_and(|ips| !ips.is_empty());
    let external = spec.external_traffic_policy.as_deref().unwrap_or_default();
    if reachable {
        broken.extend(values::one_of("spec.externalTrafficPolicy", external, &POLICIES));
    } else if !external.is_empty() {
        let text = "may only be set for externally-accessible services";
        broken.push(Violation::invalid("spec.externalTrafficPolicy", &Value::from(external), text));
    }
    match spec.internal_traffic_policy.as_deref() {
        None if kind != "ExternalName" && TYPES.contains(&kind) => broken.push(Violation::required("spec.internalTrafficPolicy", "")),
        None => {}
        Some(policy) => broken.extend(values::one_of("spec.internalTrafficPolicy", policy, &POLICIES)),
    }
    if let Some(distribution) = &spec.traffic_distribution
        && distribution != "PreferClose"
    {
        broken.push(Violation::not_supported("spec.trafficDistribution", distribution, &["PreferClose"]));
    }
    broken
}

/// The address is fixed, unless the Service becomes or was an `ExternalName`.
fn address_change(new: &Object, old: &Object) -> Vec<Violation> {
    let (before, after) = (old.str_at("spec.clusterIP"), new.str_at("spec.clusterIP"));
    let moved = old.str_at("spec.type") != "ExternalName" && new.str_at("spec.type") != "ExternalName";
    if !moved || before.is_empty() || before == after {
        return Vec::new();
    }
    vec![Violation::invalid(
        "spec.clusterIPs[0]",
        &Value::from(after),
        "may not change once set",
    )]
}

fn unsupported(kind: &str) -> Option<Violation> {
    match kind {
        "NodePort" | "LoadBalancer" => Some(not_yet("spec.type", &format!("allocate node ports for {kind} services"))),
        _ => None,
    }
}
