//! Where a Pod may run: tolerations, affinity, spread, gates.
//!
//! Source: upstream `pkg/apis/core/validation/validation.go`,
//! `ValidateTolerations`, `validateAffinity`, `validateSchedulingGates`.

use api::status::Violation;
use api::typed::{
    Affinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodAffinityTerm, PodSchedulingGate, Toleration,
    TopologySpreadConstraint, WeightedPodAffinityTerm,
};
use serde_json::Value;

use super::{each, text};
use crate::validate::{invalid_each, names, selector, values};

/// The effect of a taint, which must be named.
pub(in crate::kinds) fn taint_effect(field: &str, effect: &str) -> Option<Violation> {
    values::one_of(field, effect, &["NoSchedule", "PreferNoSchedule", "NoExecute"])
}

/// `spec.tolerations`.
pub(in crate::kinds) fn tolerations(list: &str, tolerations: &[Toleration]) -> Vec<Violation> {
    let mut broken = Vec::new();
    for (index, toleration) in tolerations.iter().enumerate() {
        let field = format!("{list}[{index}]");
        let operator_field = format!("{field}.operator");
        let (key, operator) = (text(&toleration.key), text(&toleration.operator));
        let (value, effect) = (text(&toleration.value), text(&toleration.effect));
        if !key.is_empty() {
            broken.extend(invalid_each(&format!("{field}.key"), key, names::qualified_name(key)));
        } else if operator != "Exists" {
            let rule = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            broken.push(Violation::invalid(operator_field.as_str(), &Value::from(operator), rule));
        }
        if toleration.toleration_seconds.is_some() && effect != "NoExecute" {
            let rule = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            broken.push(Violation::invalid(format!("{field}.effect"), &Value::from(effect), rule));
        }
        match operator {
            "" | "Equal" => {
                if let Err(texts) = names::label_value(value) {
                    broken.push(Violation::invalid(operator_field, &Value::from(value), &texts.join(";")));
                }
            }
            "Exists" if !value.is_empty() => {
                broken.push(Violation::invalid(
                    operator_field,
                    &Value::from(value),
                    "value must be empty when `operator` is 'Exists'",
                ));
            }
            "Exists" => {}
            other => broken.push(Violation::not_supported(operator_field, other, &["Equal", "Exists"])),
        }
        if !effect.is_empty() {
            broken.extend(taint_effect(&format!("{field}.effect"), effect));
        }
    }
    broken
}

/// `spec.schedulingGates`.
pub(super) fn gates(gates: &[PodSchedulingGate]) -> Vec<Violation> {
    let mut broken = Vec::new();
    for (index, gate) in gates.iter().enumerate() {
        let field = format!("spec.schedulingGates[{index}]");
        broken.extend(invalid_each(&field, &gate.name, names::qualified_name(&gate.name)));
        if gates[..index].iter().any(|other| other.name == gate.name) {
            broken.push(Violation::duplicate(field, &gate.name));
        }
    }
    broken
}

/// `spec.topologySpreadConstraints`.
pub(super) fn spread(constraints: &[TopologySpreadConstraint]) -> Vec<Violation> {
    let mut broken = Vec::new();
    for (index, constraint) in constraints.iter().enumerate() {
        let field = format!("spec.topologySpreadConstraints[{index}]");
        if constraint.max_skew <= 0 {
            broken.push(Violation::invalid(
                format!("{field}.maxSkew"),
                &constraint.max_skew.into(),
                "must be greater than zero",
            ));
        }
        if constraint.topology_key.is_empty() {
            broken.push(Violation::required(format!("{field}.topologyKey"), "can not be empty"));
        }
        let action = constraint.when_unsatisfiable.as_str();
        if !matches!(action, "DoNotSchedule" | "ScheduleAnyway") {
            broken.push(Violation::not_supported(
                format!("{field}.whenUnsatisfiable"),
                action,
                &["DoNotSchedule", "ScheduleAnyway"],
            ));
        }
        let same = |other: &TopologySpreadConstraint| {
            (&other.topology_key, &other.when_unsatisfiable) == (&constraint.topology_key, &constraint.when_unsatisfiable)
        };
        if constraints[index + 1..].iter().any(same) {
            let pair = format!("{{{}, {action}}}", constraint.topology_key);
            broken.push(Violation::duplicate(format!("{field}.{{topologyKey, whenUnsatisfiable}}"), &pair));
        }
        broken.extend(spread_details(&field, constraint));
    }
    broken
}

fn spread_details(field: &str, constraint: &TopologySpreadConstraint) -> Vec<Violation> {
    let mut broken = Vec::new();
    if let Some(domains) = constraint.min_domains {
        let action = constraint.when_unsatisfiable.as_str();
        let mut refuse = |rule: &str| broken.push(Violation::invalid(format!("{field}.minDomains"), &domains.into(), rule));
        if domains <= 0 {
            refuse("must be greater than zero");
        }
        if action != "DoNotSchedule" {
            refuse(&format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}"));
        }
    }
    for (name, policy) in [
        ("nodeAffinityPolicy", &constraint.node_affinity_policy),
        ("nodeTaintsPolicy", &constraint.node_taints_policy),
    ] {
        if let Some(policy) = policy.as_deref().filter(|policy| !matches!(*policy, "Honor" | "Ignore")) {
            broken.push(Violation::not_supported(format!("{field}.{name}"), policy, &["Honor", "Ignore"]));
        }
    }
    let keys = each(&constraint.match_label_keys);
    let given = constraint.label_selector.as_ref();
    if !keys.is_empty() && given.is_none() {
        let rule = "must not be specified when labelSelector is not set";
        broken.push(Violation::forbidden(format!("{field}.matchLabelKeys"), rule));
    }
    let selects = |key: &String| {
        given.is_some_and(|given| {
            given.match_labels.as_ref().is_some_and(|labels| labels.contains_key(key))
                || given.match_expressions.iter().flatten().any(|expression| expression.key == *key)
        })
    };
    for (index, key) in keys.iter().enumerate() {
        let field = format!("{field}.matchLabelKeys[{index}]");
        broken.extend(invalid_each(&field, key, names::qualified_name(key)));
        if selects(key) {
            let rule = "exists in both matchLabelKeys and labelSelector";
            broken.push(Violation::invalid(field, &Value::from(key.as_str()), rule));
        }
    }
    broken.extend(given.iter().flat_map(|given| selector(&format!("{field}.labelSelector"), given)));
    broken
}

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

/// `spec.affinity`.
pub(super) fn affinity(field: &str, affinity: &Affinity) -> Vec<Violation> {
    let mut broken = Vec::new();
    if let Some(node) = &affinity.node_affinity {
        let field = format!("{field}.nodeAffinity");
        if let Some(required) = &node.required_during_scheduling_ignored_during_execution {
            broken.extend(node_selector(&format!("{field}.{REQUIRED}"), required));
        }
        for (index, term) in each(&node.preferred_during_scheduling_ignored_during_execution).iter().enumerate() {
            let field = format!("{field}.{PREFERRED}[{index}]");
            broken.extend(weight(&field, term.weight));
            broken.extend(node_term(&format!("{field}.preference"), &term.preference, false));
        }
    }
    if let Some(pods) = &affinity.pod_affinity {
        let field = format!("{field}.podAffinity");
        let required = each(&pods.required_during_scheduling_ignored_during_execution);
        broken.extend(pod_terms(
            &field,
            required,
            each(&pods.preferred_during_scheduling_ignored_during_execution),
        ));
    }
    if let Some(pods) = &affinity.pod_anti_affinity {
        let field = format!("{field}.podAntiAffinity");
        let required = each(&pods.required_during_scheduling_ignored_during_execution);
        broken.extend(pod_terms(
            &field,
            required,
            each(&pods.preferred_during_scheduling_ignored_during_execution),
        ));
    }
    broken
}

fn weight(field: &str, weight: i32) -> Option<Violation> {
    (!(1..=100).contains(&weight)).then(|| Violation::invalid(format!("{field}.weight"), &weight.into(), "must be in the range 1-100"))
}

/// A selector of nodes, at least one term of which must be met.
pub(in crate::kinds) fn node_selector(field: &str, selector: &NodeSelector) -> Vec<Violation> {
    let list = format!("{field}.nodeSelectorTerms");
    if selector.node_selector_terms.is_empty() {
        return vec![Violation::required(list, "must have at least one node selector term")];
    }
    selector
        .node_selector_terms
        .iter()
        .enumerate()
        .flat_map(|(index, term)| node_term(&format!("{list}[{index}]"), term, true))
        .collect()
}

/// Values of preferences are not checked, as upstream.
fn node_term(field: &str, term: &NodeSelectorTerm, check_values: bool) -> Vec<Violation> {
    let mut broken = Vec::new();
    for (index, requirement) in each(&term.match_expressions).iter().enumerate() {
        broken.extend(label_requirement(
            &format!("{field}.matchExpressions[{index}]"),
            requirement,
            check_values,
        ));
    }
    for (index, requirement) in each(&term.match_fields).iter().enumerate() {
        broken.extend(field_requirement(&format!("{field}.matchFields[{index}]"), requirement));
    }
    broken
}

fn label_requirement(field: &str, requirement: &NodeSelectorRequirement, check_values: bool) -> Vec<Violation> {
    let values = each(&requirement.values);
    let values_field = format!("{field}.values");
    let mut broken = Vec::new();
    match requirement.operator.as_str() {
        "In" | "NotIn" if values.is_empty() => broken.push(Violation::required(
            values_field.as_str(),
            "must be specified when `operator` is 'In' or 'NotIn'",
        )),
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            broken.push(Violation::forbidden(
                values_field.as_str(),
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            ));
        }
        "Gt" | "Lt" if values.len() != 1 => {
            broken.push(Violation::required(
                values_field.as_str(),
                "must be specified single value when `operator` is 'Lt' or 'Gt'",
            ));
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        other => broken.push(Violation::invalid(
            format!("{field}.operator"),
            &Value::from(other),
            "not a valid selector operator",
        )),
    }
    broken.extend(invalid_each(
        &format!("{field}.key"),
        &requirement.key,
        names::qualified_name(&requirement.key),
    ));
    if check_values {
        for (index, value) in values.iter().enumerate() {
            broken.extend(invalid_each(&format!("{values_field}[{index}]"), value, names::label_value(value)));
        }
    }
    broken
}

fn field_requirement(field: &str, requirement: &NodeSelectorRequirement) -> Vec<Violation> {
    let values = each(&requirement.values);
    let mut broken = Vec::new();
    match requirement.operator.as_str() {
        "In" | "NotIn" if values.len() != 1 => {
            let rule = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
            broken.push(Violation::required(format!("{field}.values"), rule));
        }
        "In" | "NotIn" => {}
        other => broken.push(Violation::invalid(
            format!("{field}.operator"),
            &Value::from(other),
            "not a valid selector operator",
        )),
    }
    if requirement.key == "metadata.name" {
        for (index, value) in values.iter().enumerate() {
            broken.extend(invalid_each(
                &format!("{field}.values[{index}]"),
                value,
                names::dns1123_subdomain(value),
            ));
        }
    } else {
        broken.push(Violation::invalid(
            format!("{field}.key"),
            &Value::from(requirement.key.as_str()),
            "not a valid field selector key",
        ));
    }
    broken
}

fn pod_terms(field: &str, required: &[PodAffinityTerm], preferred: &[WeightedPodAffinityTerm]) -> Vec<Violation> {
    let mut broken = Vec::new();
    for (index, term) in required.iter().enumerate() {
        broken.extend(pod_term(&format!("{field}.{REQUIRED}[{index}]"), term));
    }
    for (index, weighted) in preferred.iter().enumerate() {
        let field = format!("{field}.{PREFERRED}[{index}]");
        broken.extend(weight(&field, weighted.weight));
        broken.extend(pod_term(&format!("{field}.podAffinityTerm"), &weighted.pod_affinity_term));
    }
    broken
}

fn pod_term(field: &str, term: &PodAffinityTerm) -> Vec<Violation> {
    let mut broken = Vec::new();
    for (name, given) in [
        ("labelSelector", &term.label_selector),
        ("namespaceSelector", &term.namespace_selector),
    ] {
        broken.extend(given.iter().flat_map(|given| selector(&format!("{field}.{name}"), given)));
    }
    for namespace in each(&term.namespaces) {
        broken.extend(invalid_each(
            &format!("{field}.namespace"),
            namespace,
            names::dns1123_label(namespace),
        ));
    }
    broken.extend(label_keys(field, term));
    if term.topology_key.is_empty() {
        broken.push(Violation::required(format!("{field}.topologyKey"), "can not be empty"));
    }
    broken.extend(invalid_each(
        &format!("{field}.topologyKey"),
        &term.topology_key,
        names::qualified_name(&term.topology_key),
    ));
    broken
}

/// `matchLabelKeys` and `mismatchLabelKeys` of a term.
///
/// Source: upstream `validateMatchLabelKeysAndMismatchLabelKeys`.
fn label_keys(field: &str, term: &PodAffinityTerm) -> Vec<Violation> {
    let (matching, mismatching) = (each(&term.match_label_keys), each(&term.mismatch_label_keys));
    let mut broken = Vec::new();
    for (name, keys) in [("matchLabelKeys", matching), ("mismatchLabelKeys", mismatching)] {
        if !keys.is_empty() && term.label_selector.is_none() {
            let rule = "must not be specified when labelSelector is not set";
            broken.push(Violation::forbidden(format!("{field}.{name}"), rule));
            continue;
        }
        for (index, key) in keys.iter().enumerate() {
            broken.extend(invalid_each(&format!("{field}.{name}[{index}]"), key, names::qualified_name(key)));
        }
    }
    for (index, key) in matching.iter().enumerate().filter(|(_, key)| mismatching.contains(key)) {
        let rule = "exists in both matchLabelKeys and mismatchLabelKeys";
        let field = format!("{field}.matchLabelKeys[{index}]");
        broken.push(Violation::invalid(field, &Value::from(key.as_str()), rule));
    }
    broken
}

/// While a Pod is gated, its required node affinity may become narrower: terms
/// stay, each may gain requirements.
/// Source: KEP-3838; upstream `validateNodeAffinityMutation`.
pub(super) fn narrowed_affinity(new: Option<&Affinity>, old: Option<&Affinity>) -> Vec<Violation> {
    fn required(affinity: Option<&Affinity>) -> &[NodeSelectorTerm] {
        affinity
            .and_then(|affinity| affinity.node_affinity.as_ref())
            .and_then(|node| node.required_during_scheduling_ignored_during_execution.as_ref())
            .map_or(&[], |selector| selector.node_selector_terms.as_slice())
    }
    let (new, old) = (required(new), required(old));
    if old.is_empty() {
        return Vec::new();
    }
    let list = format!("spec.affinity.nodeAffinity.{REQUIRED}.nodeSelectorTerms");
    if new.len() != old.len() {
        let rule = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        return vec![Violation::invalid(list, &serde_json::to_value(new).unwrap_or_default(), rule)];
    }
    let begins = |new: &[NodeSelectorRequirement], old: &[NodeSelectorRequirement]| new.get(..old.len()) == Some(old);
    let mut broken = Vec::new();
    for (index, (new, old)) in new.iter().zip(old).enumerate() {
        let keeps =
            begins(each(&new.match_expressions), each(&old.match_expressions)) && begins(each(&new.match_fields), each(&old.match_fields));
        let was_empty = each(&old.match_expressions).is_empty() && each(&old.match_fields).is_empty();
        if new != old && (was_empty || !keeps) {
            let rule = "only additions are allowed (no mutations or deletions)";
            broken.push(Violation::invalid(
                format!("{list}[{index}]"),
                &serde_json::to_value(new).unwrap_or_default(),
                rule,
            ));
        }
    }
    broken
}
