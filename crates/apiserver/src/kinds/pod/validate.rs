//! Upstream's rules of a Pod, in upstream's words and order.
//!
//! Reading order: this file (the spec as a whole), `container.rs`,
//! `handler.rs` (probes and hooks), `volume.rs`, `placement.rs` (tolerations,
//! affinity), `security.rs`, `update.rs`.
//!
//! Source: upstream `pkg/apis/core/validation/validation.go`,
//! `ValidatePodCreate`, `ValidatePodSpec`.

mod container;
mod handler;
mod placement;
mod resize;
mod resources;
mod security;
mod update;
mod volume;

pub(in crate::kinds) use self::placement::{node_selector, taint_effect, tolerations};
pub(super) use self::resize::resized;
pub(in crate::kinds) use self::resources::{amount_rules, any_name, overcommits, parsed};
pub(in crate::kinds::pod) use self::security::app_armor as app_armor_rules;
pub(super) use self::update::{ephemeral, status, update};

use api::status::Violation;
use api::typed::{Container, Pod, PodDNSConfig, PodSpec, Volume};
use serde_json::{Value, json};

use super::app_armor;
use crate::validate::{invalid_each, labels, names, values};

/// What the rules of a container need to know of its Pod.
struct Around<'a> {
    volumes: &'a [Volume],
    grace_s: Option<i64>,
    restart_policy: &'a str,
    /// `spec.os.name`.
    os: Option<&'a str>,
    /// The Pod has no user namespace of its own.
    host_users: bool,
}

/// The items of an optional list.
fn each<T>(list: &Option<Vec<T>>) -> &[T] {
    list.as_deref().unwrap_or_default()
}

/// An optional text; absent is empty.
fn text(text: &Option<String>) -> &str {
    text.as_deref().unwrap_or_default()
}

/// Every broken rule of a new Pod. Metadata is checked elsewhere.
pub(super) fn create(pod: &Pod) -> Vec<Violation> {
    let none = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&none);
    let annotations = pod.metadata.annotations.as_ref();
    let mut broken = app_armor::annotations("metadata.annotations", annotations, spec);
    broken.extend(any(spec));
    if !each(&spec.ephemeral_containers).is_empty() {
        broken.push(Violation::forbidden("spec.ephemeralContainers", "cannot be set on create"));
    }
    if !text(&spec.node_name).is_empty() && !each(&spec.scheduling_gates).is_empty() {
        broken.push(Violation::forbidden(
            "spec.nodeName",
            "cannot be set until all schedulingGates have been cleared",
        ));
    }
    broken.extend(app_armor::contradictions(annotations, spec));
    broken
}

/// The rules of a spec, new or changed.
pub(super) fn any(spec: &PodSpec) -> Vec<Violation> {
    let mut broken = Vec::new();
    if spec.termination_grace_period_seconds.is_none() {
        broken.push(Violation::required("spec.terminationGracePeriodSeconds", ""));
    }
    let around = Around {
        volumes: each(&spec.volumes),
        grace_s: spec.termination_grace_period_seconds,
        restart_policy: text(&spec.restart_policy),
        os: spec.os.as_ref().map(|os| os.name.as_str()),
        host_users: spec.host_users.unwrap_or(true),
    };
    broken.extend(volume::volumes(around.volumes));
    broken.extend(container::regular(&spec.containers, &around));
    broken.extend(container::init(each(&spec.init_containers), &spec.containers, &around));
    broken.extend(container::ephemeral(each(&spec.ephemeral_containers), spec, &around));
    broken.extend(host_network_ports(spec));
    broken.extend(values::one_of(
        "spec.restartPolicy",
        around.restart_policy,
        &["Always", "OnFailure", "Never"],
    ));
    broken.extend(values::one_of(
        "spec.dnsPolicy",
        text(&spec.dns_policy),
        &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"],
    ));
    if let Some(selector) = &spec.node_selector {
        broken.extend(labels("spec.nodeSelector", selector));
    }
    broken.extend(security::pod(spec));
    if let Some(affinity) = &spec.affinity {
        broken.extend(placement::affinity("spec.affinity", affinity));
    }
    broken.extend(dns_config(spec.dns_config.as_ref(), text(&spec.dns_policy)));
    for (index, gate) in each(&spec.readiness_gates).iter().enumerate() {
        let field = format!("spec.readinessGates[{index}].conditionType");
        broken.extend(invalid_each(
            &field,
            &gate.condition_type,
            names::qualified_name(&gate.condition_type),
        ));
    }
    broken.extend(placement::gates(each(&spec.scheduling_gates)));
    broken.extend(placement::spread(each(&spec.topology_spread_constraints)));
    broken.extend(security::host_users(spec));
    broken.extend(names_and_numbers(spec));
    broken.extend(placement::tolerations("spec.tolerations", each(&spec.tolerations)));
    broken.extend(host_aliases(spec));
    broken.extend(classes(spec));
    for (list, containers) in [
        ("containers", spec.containers.as_slice()),
        ("initContainers", each(&spec.init_containers)),
    ] {
        broken.extend(image_padding(list, containers));
    }
    broken
}

fn image_padding(list: &str, containers: &[Container]) -> Vec<Violation> {
    let mut broken = Vec::new();
    for (index, container) in containers.iter().enumerate() {
        let image = text(&container.image);
        if image.trim() != image {
            broken.push(Violation::invalid(
                format!("spec.{list}[{index}].image"),
                &Value::from(image),
                "must not have leading or trailing whitespace",
            ));
        }
    }
    broken
}

fn host_network_ports(spec: &PodSpec) -> Vec<Violation> {
    if spec.host_network != Some(true) {
        return Vec::new();
    }
    let mut broken = Vec::new();
    for (index, container) in spec.containers.iter().enumerate() {
        for (port_index, port) in each(&container.ports).iter().enumerate() {
            let host = port.host_port.unwrap_or(0);
            if host != port.container_port {
                let field = format!("spec.containers[{index}].ports[{port_index}].hostPort");
                broken.push(Violation::invalid(
                    field,
                    &host.into(),
                    "must match `containerPort` when `hostNetwork` is true",
                ));
            }
        }
    }
    broken
}

fn names_and_numbers(spec: &PodSpec) -> Vec<Violation> {
    const DEADLINE_MAX: i64 = i32::MAX as i64;
    type Format = fn(&str) -> names::Checked;
    let mut broken = Vec::new();
    let mut named = |field: &str, value: &str, format: Format| {
        if !value.is_empty() {
            broken.extend(invalid_each(field, value, format(value)));
        }
    };
    named(
        "spec.serviceAccountName",
        text(&spec.service_account_name),
        names::dns1123_subdomain,
    );
    named("spec.nodeName", text(&spec.node_name), names::dns1123_subdomain);
    if let Some(deadline_s) = spec.active_deadline_seconds
        && !(1..=DEADLINE_MAX).contains(&deadline_s)
    {
        broken.push(Violation::invalid(
            "spec.activeDeadlineSeconds",
            &deadline_s.into(),
            &values::inclusive(1, DEADLINE_MAX),
        ));
    }
    let mut named = |field: &str, value: &str, format: Format| {
        if !value.is_empty() {
            broken.extend(invalid_each(field, value, format(value)));
        }
    };
    named("spec.hostname", text(&spec.hostname), names::dns1123_label);
    named("spec.subdomain", text(&spec.subdomain), names::dns1123_label);
    broken
}

fn dns_config(config: Option<&PodDNSConfig>, policy: &str) -> Vec<Violation> {
    const FIELD: &str = "spec.dnsConfig";
    let servers = config.map(|config| each(&config.nameservers)).unwrap_or_default();
    if policy == "None" && config.is_none() {
        return vec![Violation::required(FIELD, "must provide `dnsConfig` when `dnsPolicy` is None")];
    }
    if policy == "None" && servers.is_empty() {
        return vec![Violation::required(
            format!("{FIELD}.nameservers"),
            "must provide at least one DNS nameserver when `dnsPolicy` is None",
        )];
    }
    let Some(config) = config else { return Vec::new() };
    let mut broken = Vec::new();
    if servers.len() > 3 {
        broken.push(Violation::invalid(
            format!("{FIELD}.nameservers"),
            &json!(servers),
            "must not have more than 3 nameservers",
        ));
    }
    for (index, server) in servers.iter().enumerate() {
        broken.extend(values::address(&format!("{FIELD}.nameservers[{index}]"), server));
    }
    let searches = each(&config.searches);
    if searches.len() > 32 {
        broken.push(Violation::invalid(
            format!("{FIELD}.searches"),
            &json!(searches),
            "must not have more than 32 search paths",
        ));
    }
    if searches.join(" ").len() > 2048 {
        let rule = "must not have more than 2048 characters (including spaces) in the search list";
        broken.push(Violation::invalid(format!("{FIELD}.searches"), &json!(searches), rule));
    }
    for (index, search) in searches.iter().enumerate().filter(|(_, search)| *search != ".") {
        let search = search.strip_suffix('.').unwrap_or(search);
        broken.extend(invalid_each(
            &format!("{FIELD}.searches[{index}]"),
            search,
            names::dns1123_subdomain_with_underscore(search),
        ));
    }
    for (index, option) in each(&config.options).iter().enumerate() {
        if text(&option.name).is_empty() {
            broken.push(Violation::required(format!("{FIELD}.options[{index}]"), "must not be empty"));
        }
    }
    broken
}

fn host_aliases(spec: &PodSpec) -> Vec<Violation> {
    let mut broken = Vec::new();
    for (index, alias) in each(&spec.host_aliases).iter().enumerate() {
        let field = format!("spec.hostAliases[{index}]");
        broken.extend(values::address(&format!("{field}.ip"), &alias.ip));
        for (name_index, name) in each(&alias.hostnames).iter().enumerate() {
            broken.extend(invalid_each(
                &format!("{field}.hostnames[{name_index}]"),
                name,
                names::dns1123_subdomain(name),
            ));
        }
    }
    broken
}

fn classes(spec: &PodSpec) -> Vec<Violation> {
    let mut broken = Vec::new();
    let priority = text(&spec.priority_class_name);
    if !priority.is_empty() {
        broken.extend(invalid_each("spec.priorityClassName", priority, names::dns1123_subdomain(priority)));
    }
    if let Some(runtime) = &spec.runtime_class_name {
        broken.extend(invalid_each("spec.runtimeClassName", runtime, names::dns1123_subdomain(runtime)));
    }
    if let Some(policy) = &spec.preemption_policy {
        broken.extend(values::one_of("spec.preemptionPolicy", policy, &["PreemptLowerPriority", "Never"]));
    }
    if let Some(os) = &spec.os {
        match os.name.as_str() {
            "linux" | "windows" => {}
            "" => broken.push(Violation::required("spec.os.name", "cannot be empty")),
            // Upstream names the parent here.
            other => broken.push(Violation::not_supported("spec.os", other, &["linux", "windows"])),
        }
    }
    broken
}
