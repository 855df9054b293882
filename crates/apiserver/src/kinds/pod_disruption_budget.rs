//! `PodDisruptionBudget` of `policy/v1`.
//!
//! Source: upstream `pkg/apis/policy/validation/validation.go`,
//! `pkg/registry/policy/poddisruptionbudget/strategy.go`.

use std::sync::Arc;

use api::status::Violation;
use api::typed::IntOrString;
use api::typed::policy::PodDisruptionBudget as Typed;
use api::{Object, Time};
use serde_json::Value;

use super::{plain, prepare_counted, short, view};
use crate::registry::{Cell, Change, Column, Resource, Rules, Strategy, Subresource};
use crate::table;
use crate::validate::selector;
use crate::validate::values::{not_negative, one_of};

pub(super) fn row() -> Resource {
    Resource {
        short_names: short(&["pdb"]),
        strategy: Arc::new(PodDisruptionBudget),
        columns: vec![
            table::name_column(),
            Column::computed("Min Available", Cell::Text, |budget, _| share(budget, "spec.minAvailable"))
                .described("The minimum number of pods that must be available."),
            Column::computed("Max Unavailable", Cell::Text, |budget, _| share(budget, "spec.maxUnavailable"))
                .described("The maximum number of pods that may be unavailable."),
            Column::computed("Allowed Disruptions", Cell::Integer, |budget, _| {
                budget.at("status.disruptionsAllowed").cloned().unwrap_or_else(|| Value::from(0))
            })
            .described("Calculated number of pods that may be disrupted at this time."),
            table::age_column(),
        ],
        subresources: vec![Subresource::Status],
        ..plain("policy", "PodDisruptionBudget", "poddisruptionbudgets", "poddisruptionbudgets")
    }
}

/// A number or a percentage, or `N/A`.
fn share(budget: &Object, path: &str) -> Value {
    match budget.at(path) {
        Some(Value::String(text)) => Value::from(text.as_str()),
        Some(Value::Number(number)) => Value::from(number.to_string()),
        _ => Value::from("N/A"),
    }
}

struct PodDisruptionBudget;

impl Strategy for PodDisruptionBudget {
    fn prepare(&self, change: Change<'_>, _now: Time) {
        // Only the server knows how many Pods there are.
        let none = serde_json::json!({"disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0});
        prepare_counted(change, none);
    }

    fn validate(&self, new: &Object, _old: Option<&Object>, rules: Rules) -> Vec<Violation> {
        let typed: Typed = match view(new) {
            Ok(typed) => typed,
            Err(broken) => return broken,
        };
        if rules == Rules::UpdateStatus {
            let status = typed.status.unwrap_or_default();
            let counts = [
                ("disruptionsAllowed", status.disruptions_allowed),
                ("currentHealthy", status.current_healthy),
                ("desiredHealthy", status.desired_healthy),
                ("expectedPods", status.expected_pods),
            ];
            let broken = counts.map(|(field, count)| not_negative(&format!("status.{field}"), i64::from(count)));
            return broken.into_iter().flatten().collect();
        }
        let spec = typed.spec.unwrap_or_default();
        let mut broken = Vec::new();
        if spec.min_available.is_some() && spec.max_unavailable.is_some() {
            broken.push(Violation::invalid(
                "spec",
                new.at("spec").unwrap_or(&Value::Null),
                "minAvailable and maxUnavailable cannot be both set",
            ));
        }
        for (field, value) in [
            ("spec.minAvailable", &spec.min_available),
            ("spec.maxUnavailable", &spec.max_unavailable),
        ] {
            broken.extend(value.iter().flat_map(|value| number_or_percentage(field, value)));
        }
        if let Some(of_pods) = &spec.selector {
            broken.extend(selector("spec.selector", of_pods));
        }
        if let Some(policy) = &spec.unhealthy_pod_eviction_policy {
            broken.extend(one_of(
                "spec.unhealthyPodEvictionPolicy",
                policy,
                &["AlwaysAllow", "IfHealthyBudget"],
            ));
        }
        broken
    }
}

/// Source: upstream `pkg/apis/apps/validation`, `ValidatePositiveIntOrPercent`,
/// `IsNotMoreThan100Percent`.
fn number_or_percentage(field: &str, value: &IntOrString) -> Vec<Violation> {
    match value {
        IntOrString::Int(number) => not_negative(field, i64::from(*number)).into_iter().collect(),
        IntOrString::String(text) => {
            let percent = text
                .strip_suffix('%')
                .filter(|digits| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()));
            let why = match percent.map(str::parse::<u64>) {
                None => {
                    "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')"
                }
                Some(Ok(0..=100)) => return Vec::new(),
                Some(_) => "must not be greater than 100%",
            };
            vec![Violation::invalid(field, &Value::from(text.as_str()), why)]
        }
    }
}
