//! Label selectors of specs.
//!
//! Source: upstream `apimachinery/pkg/apis/meta/v1/validation/validation.go`,
//! `ValidateLabelSelector`.

use api::status::Violation;
use api::typed::{LabelSelector, LabelSelectorRequirement};
use serde_json::Value;

use super::{invalid_each, labels, names};

/// Every broken rule of a selector.
#[must_use]
pub fn selector(field: &str, selector: &LabelSelector) -> Vec<Violation> {
    let mut broken = Vec::new();
    if let Some(map) = &selector.match_labels {
        broken.extend(labels(&format!("{field}.matchLabels"), map));
    }
    for (index, requirement) in selector.match_expressions.iter().flatten().enumerate() {
        broken.extend(expression(&format!("{field}.matchExpressions[{index}]"), requirement));
    }
    broken
}

fn expression(field: &str, requirement: &LabelSelectorRequirement) -> Vec<Violation> {
    let values = requirement.values.as_deref().unwrap_or_default();
    let mut broken = Vec::new();
    match requirement.operator.as_str() {
        "In" | "NotIn" if values.is_empty() => broken.push(Violation::required(
            format!("{field}.values"),
            "must be specified when `operator` is 'In' or 'NotIn'",
        )),
        "Exists" | "DoesNotExist" if !values.is_empty() => broken.push(Violation::forbidden(
            format!("{field}.values"),
            "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
        )),
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
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
    for (index, value) in values.iter().enumerate() {
        broken.extend(invalid_each(&format!("{field}.values[{index}]"), value, names::label_value(value)));
    }
    broken
}
