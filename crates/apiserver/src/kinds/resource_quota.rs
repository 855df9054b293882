//! `ResourceQuota`: how much of everything a namespace may hold.
//!
//! Source: upstream `pkg/apis/core/validation/validation.go`,
//! `ValidateResourceQuota`; printer `printResourceQuota`.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::status::Violation;
use api::typed::{ResourceQuota as Typed, ScopedResourceSelectorRequirement, WireQuantity};
use api::{Object, Time};
use serde_json::{Value, json};

use super::{keep_status_apart, plain, pod, short, view};
use crate::registry::{Cell, Change, Column, Resource, Rules, Strategy, Subresource};
use crate::table;
use crate::validate::{immutable, values::one_of};

/// Resources a quota may name without a prefix.
const STANDARD: [&str; 18] = [
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.storage",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "persistentvolumeclaims",
    "configmaps",
    "services.nodeports",
];
/// What is counted, and so whole.
const WHOLE: [&str; 9] = [
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];
/// Resources Pods without requests can have.
const OF_BEST_EFFORT: [&str; 1] = ["pods"];

pub(super) fn row() -> Resource {
    Resource {
        short_names: short(&["quota"]),
        strategy: Arc::new(ResourceQuota),
        columns: vec![
            table::name_column(),
            Column::computed("Request", Cell::Text, |quota, _| Value::from(used(quota, false)))
                .described("Request represents a minimum amount of cpu/memory that a container may consume."),
            Column::computed("Limit", Cell::Text, |quota, _| Value::from(used(quota, true))).described(
                "Limits control the maximum amount of cpu/memory that a container may use independent of contention on the node.",
            ),
            table::age_column(),
        ],
        subresources: vec![Subresource::Status],
        ..plain("", "ResourceQuota", "resourcequotas", "resourcequotas")
    }
}

/// `cpu: 1/2, pods: 3/4`, of limits or of everything else.
fn used(quota: &Object, limits: bool) -> String {
    let hard = quota.at("status.hard").and_then(Value::as_object).into_iter().flatten();
    let used = quota.at("status.used").and_then(Value::as_object);
    let part = |(name, hard): (&String, &Value)| {
        let used = used.and_then(|used| used.get(name)).and_then(Value::as_str).unwrap_or("0");
        format!("{name}: {used}/{}", hard.as_str().unwrap_or_default())
    };
    let parts: Vec<String> = hard.filter(|(name, _)| name.starts_with("limits.") == limits).map(part).collect();
    parts.join(", ")
}

struct ResourceQuota;

impl Strategy for ResourceQuota {
    fn prepare(&self, change: Change<'_>, _now: Time) {
        match change {
            Change::Create { new } => {
                new.body.insert("status".to_owned(), json!({}));
            }
            other => keep_status_apart(other),
        }
    }

    fn validate(&self, new: &Object, old: Option<&Object>, rules: Rules) -> Vec<Violation> {
        let quota: Typed = match view(new) {
            Ok(quota) => quota,
            Err(broken) => return broken,
        };
        if rules == Rules::UpdateStatus {
            let status = quota.status.unwrap_or_default();
            let mut broken = amounts("status.hard", status.hard.as_ref());
            broken.extend(amounts("status.used", status.used.as_ref()));
            return broken;
        }
        let spec = quota.spec.unwrap_or_default();
        let mut broken = amounts("spec.hard", spec.hard.as_ref());
        let scopes = spec.scopes.unwrap_or_default();
        let named: Vec<&str> = spec.hard.iter().flatten().map(|(name, _)| name.as_str()).collect();
        broken.extend(scope_rules("spec.scopes", &scopes, &named, &json!(scopes)));
        let expressions = spec
            .scope_selector
            .and_then(|selector| selector.match_expressions)
            .unwrap_or_default();
        broken.extend(selector_rules(&expressions, &named));
        if let Some(old) = old {
            let text = |object: &Object, path: &str| object.at(path).cloned().unwrap_or_default();
            broken.extend(immutable("spec.scopes", &text(new, "spec.scopes"), &text(old, "spec.scopes")));
            broken.extend(immutable(
                "spec.scopeSelector",
                &text(new, "spec.scopeSelector"),
                &text(old, "spec.scopeSelector"),
            ));
        }
        broken
    }
}

fn amounts(list: &str, wire: Option<&BTreeMap<String, WireQuantity>>) -> Vec<Violation> {
    let mut broken = Vec::new();
    for (name, amount) in wire.into_iter().flatten() {
        let field = format!("{list}[{name}]");
        let of_name = if name == "services.loadbalancers" {
            Vec::new()
        } else {
            pod::any_name(&field, name)
        };
        if of_name.is_empty() && !name.contains('/') && !is_standard(name) {
            broken.push(Violation::invalid(
                &field,
                &Value::from(name.as_str()),
                "must be a standard resource for quota",
            ));
        }
        broken.extend(of_name);
        let amount = pod::parsed(amount);
        broken.extend(pod::amount_rules(&field, name, amount));
        if WHOLE.contains(&name.as_str()) && amount.milli() % 1_000 != 0 {
            broken.push(Violation::invalid(&field, &Value::from(amount.to_string()), "must be an integer"));
        }
    }
    broken
}

fn is_standard(name: &str) -> bool {
    STANDARD.contains(&name)
        || name == "services.loadbalancers"
        || name.starts_with("hugepages-")
        || name.starts_with("requests.hugepages-")
}

/// Whether a scope can hold for what uses the resource.
///
/// Source: upstream `IsResourceQuotaScopeValidForResource`.
fn applies(scope: &str, resource: &str) -> bool {
    let of_pods = matches!(resource, "cpu" | "memory" | "ephemeral-storage" | "pods" | "count/pods")
        || ["requests.", "limits.", "hugepages-"]
            .iter()
            .any(|prefix| resource.starts_with(prefix))
            && resource != "requests.storage"
        || resource.contains('/');
    match scope {
        "BestEffort" => OF_BEST_EFFORT.contains(&resource),
        "Terminating" | "NotTerminating" | "NotBestEffort" | "PriorityClass" | "CrossNamespacePodAffinity" => of_pods,
        _ => true,
    }
}

fn scope_rules(field: &str, scopes: &[String], resources: &[&str], shown: &Value) -> Vec<Violation> {
    const KNOWN: [&str; 6] = [
        "BestEffort",
        "CrossNamespacePodAffinity",
        "NotBestEffort",
        "NotTerminating",
        "PriorityClass",
        "Terminating",
    ];
    let mut broken = Vec::new();
    let mut refuse = |why: &str| broken.push(Violation::invalid(field, shown, why));
    for scope in scopes {
        if !KNOWN.contains(&scope.as_str()) {
            refuse("unsupported scope");
        }
        for _ in resources.iter().filter(|resource| !applies(scope, resource)) {
            refuse("unsupported scope applied to resource");
        }
    }
    let has = |name: &str| scopes.iter().any(|scope| scope == name);
    for (one, other) in [("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating")] {
        if has(one) && has(other) {
            refuse("conflicting scopes");
        }
    }
    broken
}

fn selector_rules(expressions: &[ScopedResourceSelectorRequirement], resources: &[&str]) -> Vec<Violation> {
    const FIELD: &str = "spec.scopeSelector.matchExpressions";
    let mut broken = Vec::new();
    for (index, expression) in expressions.iter().enumerate() {
        let field = format!("{FIELD}[{index}]");
        let values = expression.values.as_deref().unwrap_or_default();
        broken.extend(one_of(
            &format!("{field}.operator"),
            &expression.operator,
            &["In", "NotIn", "Exists", "DoesNotExist"],
        ));
        match expression.operator.as_str() {
            "In" | "NotIn" if values.is_empty() => broken.push(Violation::required(
                format!("{field}.values"),
                "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
            )),
            "Exists" | "DoesNotExist" if !values.is_empty() => broken.push(Violation::invalid(
                format!("{field}.values"),
                &json!(values),
                "must be no value when `operator` is 'Exists' or 'DoesNotExist' for scope selector",
            )),
            _ => {}
        }
        if expression.scope_name != "PriorityClass" && expression.operator != "Exists" {
            broken.push(Violation::invalid(
                format!("{field}.operator"),
                &Value::from(expression.operator.as_str()),
                "must be 'Exist' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity",
            ));
        }
    }
    let scopes: Vec<String> = expressions.iter().map(|expression| expression.scope_name.clone()).collect();
    broken.extend(scope_rules(FIELD, &scopes, resources, &json!(scopes)));
    broken
}
