//! Lease of `coordination.k8s.io/v1`.
//!
//! Source: upstream `pkg/apis/coordination/validation/validation.go`.

use std::sync::Arc;

use api::Object;
use api::status::Violation;
use serde_json::Value;

use super::plain;
use crate::registry::{Cell, Column, Resource, Rules, Strategy};
use crate::table;
use crate::validate::values::not_negative;

pub(super) fn row() -> Resource {
    Resource {
        strategy: Arc::new(Lease),
        columns: vec![
            table::name_column(),
            Column::computed("Holder", Cell::Text, |lease, _| Value::from(lease.str_at("spec.holderIdentity"))),
            table::age_column(),
        ],
        ..plain("coordination.k8s.io", "Lease", "leases", "leases")
    }
}

struct Lease;

impl Strategy for Lease {
    fn validate(&self, new: &Object, _old: Option<&Object>, _rules: Rules) -> Vec<Violation> {
        let mut broken = Vec::new();
        let number = |path: &str| new.at(path).and_then(Value::as_i64);
        if let Some(duration_s) = number("spec.leaseDurationSeconds")
            && duration_s <= 0
        {
            broken.push(Violation::invalid(
                "spec.leaseDurationSeconds",
                &duration_s.into(),
                "must be greater than 0",
            ));
        }
        broken.extend(number("spec.leaseTransitions").and_then(|transitions| not_negative("spec.leaseTransitions", transitions)));
        broken
    }
}
