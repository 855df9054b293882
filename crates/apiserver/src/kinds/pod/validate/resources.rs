//! Requests and limits.
//!
//! Source: upstream `pkg/apis/core/validation/validation.go`,
//! `validateResourceRequirements`, `validateContainerResourceName`.

use api::quantity::Quantity;
use api::status::Violation;
use api::typed::{ContainerResizePolicy, ResourceFieldSelector, ResourceRequirements, WireQuantity};
use serde_json::Value;

use crate::validate::{invalid_each, names, values};

/// Names a resource may have without a prefix, anywhere.
const STANDARD: [&str; 19] = [
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "storage",
    "requests.storage",
    "services.nodeports",
];

fn is_huge_pages(name: &str) -> bool {
    name.starts_with("hugepages-")
}

/// A name of the platform's own: without prefix, or under `kubernetes.io/`.
fn is_native(name: &str) -> bool {
    name.split_once('/')
        .is_none_or(|(prefix, _)| prefix == "kubernetes.io" || prefix.ends_with(".kubernetes.io"))
}

fn is_extended(name: &str) -> bool {
    !is_native(name) && !name.starts_with("requests.") && names::qualified_name(&format!("requests.{name}")).is_ok()
}

/// Whether more of it may be promised than there is.
///
/// Source: upstream `helper.IsOvercommitAllowed`.
pub(in crate::kinds) fn overcommits(name: &str) -> bool {
    is_native(name) && !is_huge_pages(name)
}

/// Pages are taken whole.
///
/// Source: upstream `validateResourceQuantityHugePageValue`.
fn pages(field: &str, name: &str, amount: Quantity) -> Option<Violation> {
    let size: i64 = name.strip_prefix("hugepages-")?.parse::<Quantity>().map_or(0, Quantity::bytes);
    let whole = size > 0 && amount.bytes() % size == 0;
    (!whole).then(|| {
        let rule = format!("{amount} is not positive integer multiple of {name}");
        Violation::invalid(field, &Value::from(amount.to_string()), &rule)
    })
}

/// A name that some resource may have: qualified, or one of the standard ones.
///
/// Source: upstream `validateResourceName`.
pub(in crate::kinds) fn any_name(field: &str, name: &str) -> Vec<Violation> {
    let broken = invalid_each(field, name, names::qualified_name(name));
    if !broken.is_empty() || name.contains('/') || STANDARD.contains(&name) || is_huge_pages(name) {
        return broken;
    }
    vec![Violation::invalid(
        field,
        &Value::from(name),
        "must be a standard resource type or fully qualified",
    )]
}

fn name_rules(field: &str, name: &str) -> Vec<Violation> {
    let broken = invalid_each(field, name, names::qualified_name(name));
    if !broken.is_empty() {
        return broken;
    }
    let refuse = |text: &str| Violation::invalid(field, &Value::from(name), text);
    if name.contains('/') {
        return if is_native(name) || is_extended(name) {
            Vec::new()
        } else {
            vec![refuse("doesn't follow extended resource name standard")]
        };
    }
    let mut broken = any_name(field, name);
    if !matches!(name, "cpu" | "memory" | "ephemeral-storage") && !is_huge_pages(name) {
        broken.push(refuse("must be a standard resource for containers"));
    }
    broken
}

/// The schema has refused what does not parse.
pub(in crate::kinds) fn parsed(wire: &WireQuantity) -> Quantity {
    Quantity::try_from(wire).unwrap_or(Quantity::ZERO)
}

/// An amount that some resource may have.
pub(in crate::kinds) fn amount_rules(field: &str, name: &str, amount: Quantity) -> Vec<Violation> {
    let mut broken = Vec::new();
    let shown = Value::from(amount.to_string());
    if amount.is_negative() {
        broken.push(Violation::invalid(field, &shown, "must be greater than or equal to 0"));
    }
    if is_extended(name) && amount.milli() % 1000 != 0 {
        broken.push(Violation::invalid(field, &shown, "must be an integer"));
    }
    broken
}

/// `resources` of a container.
pub(super) fn requirements(field: &str, given: &ResourceRequirements) -> Vec<Violation> {
    let mut broken = Vec::new();
    let limits = given.limits.as_ref();
    for (name, limit) in limits.into_iter().flatten() {
        let field = format!("{field}.limits[{name}]");
        broken.extend(name_rules(&field, name));
        broken.extend(amount_rules(&field, name, parsed(limit)));
        broken.extend(pages(&field, name, parsed(limit)));
    }
    for (name, request) in given.requests.as_ref().into_iter().flatten() {
        let item = format!("{field}.requests[{name}]");
        let request = parsed(request);
        broken.extend(name_rules(&item, name));
        broken.extend(amount_rules(&item, name, request));
        let exact = is_extended(name) || is_huge_pages(name);
        let shown = Value::from(request.to_string());
        let requests = format!("{field}.requests");
        match limits.and_then(|limits| limits.get(name)).map(parsed) {
            Some(limit) if exact && request != limit => {
                broken.push(Violation::invalid(
                    requests,
                    &shown,
                    &format!("must be equal to {name} limit of {limit}"),
                ));
            }
            Some(limit) if request > limit => {
                broken.push(Violation::invalid(
                    requests,
                    &shown,
                    &format!("must be less than or equal to {name} limit of {limit}"),
                ));
            }
            None if exact => broken.push(Violation::required(
                format!("{field}.limits"),
                "Limit must be set for non overcommitable resources",
            )),
            _ => {}
        }
        broken.extend(pages(&item, name, request));
    }
    let names = || {
        limits
            .into_iter()
            .flatten()
            .chain(given.requests.as_ref().into_iter().flatten())
            .map(|(name, _)| name.as_str())
    };
    if names().any(is_huge_pages) && !names().any(|name| matches!(name, "cpu" | "memory")) {
        broken.push(Violation::forbidden(field, "HugePages require cpu or memory"));
    }
    broken
}

/// `resizePolicy` of a container.
pub(super) fn resize(field: &str, policies: &[ContainerResizePolicy], restart_policy: &str) -> Vec<Violation> {
    let mut broken = Vec::new();
    for (index, policy) in policies.iter().enumerate() {
        if policies[..index].iter().any(|other| other.resource_name == policy.resource_name) {
            broken.push(Violation::duplicate(format!("{field}[{index}]"), &policy.resource_name));
        }
        broken.extend(values::one_of(field, &policy.resource_name, &["cpu", "memory"]));
        broken.extend(values::one_of(field, &policy.restart_policy, &["NotRequired", "RestartContainer"]));
        if restart_policy == "Never" && policy.restart_policy != "NotRequired" {
            let rule = "must be 'NotRequired' when `restartPolicy` is 'Never'";
            broken.push(Violation::invalid(field, &Value::from(policy.restart_policy.as_str()), rule));
        }
    }
    broken
}

/// Resources of a container that an environment variable may show.
const SHOWN: [&str; 6] = [
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

/// `resourceFieldRef` of an environment variable.
pub(super) fn field_ref(field: &str, from: &ResourceFieldSelector) -> Vec<Violation> {
    let resource = from.resource.as_str();
    let huge = resource
        .strip_prefix("limits.")
        .or_else(|| resource.strip_prefix("requests."))
        .is_some_and(is_huge_pages);
    let mut broken = Vec::new();
    if resource.is_empty() {
        broken.push(Violation::required(format!("{field}.resource"), ""));
    } else if !SHOWN.contains(&resource) && !huge {
        broken.push(Violation::not_supported(format!("{field}.resource"), resource, &SHOWN));
    }
    let divisor = from.divisor.as_ref().map_or("", |divisor| divisor.0.as_str());
    let cpu = resource.ends_with(".cpu");
    let fits = match divisor {
        "" | "0" | "1" => true,
        "1m" => cpu,
        "1k" | "1M" | "1G" | "1T" | "1P" | "1E" | "1Ki" | "1Mi" | "1Gi" | "1Ti" | "1Pi" | "1Ei" => !cpu,
        _ => false,
    };
    if !fits {
        let kind = match resource.rsplit('.').next() {
            Some("cpu") => "cpu",
            Some("memory") => "memory",
            Some("ephemeral-storage") => "local ephemeral storage",
            _ => "hugepages",
        };
        let values = if cpu {
            "1m and 1"
        } else {
            "1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei"
        };
        let rule = format!("only divisor's values {values} are supported with the {kind} resource");
        broken.push(Violation::invalid(format!("{field}.divisor"), &Value::from(resource), &rule));
    }
    broken
}
