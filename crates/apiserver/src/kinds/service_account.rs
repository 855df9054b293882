//! `ServiceAccount`.

use std::sync::Arc;

use api::Object;
use serde_json::Value;

use super::warnings::annotated;
use super::{plain, short};
use crate::registry::{Cell, Column, Resource, Strategy, Subresource};
use crate::table;

pub(super) fn row() -> Resource {
    Resource {
        short_names: short(&["sa"]),
        strategy: Arc::new(ServiceAccount),
        columns: vec![
            table::name_column(),
            Column::computed("Secrets", Cell::Text, |account, _| Value::from(table::count(account, "secrets"))),
            table::age_column(),
        ],
        subresources: vec![Subresource::Token],
        ..plain("", "ServiceAccount", "serviceaccounts", "serviceaccounts")
    }
}

struct ServiceAccount;

impl Strategy for ServiceAccount {
    /// Told once, to who sets it.
    ///
    /// Source: upstream `registry/core/serviceaccount/strategy.go`.
    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        const MOUNTABLE: &str = "kubernetes.io/enforce-mountable-secrets";
        let set = annotated(new, MOUNTABLE) && !old.is_some_and(|old| annotated(old, MOUNTABLE));
        let told = || {
            format!(
                "metadata.annotations[{MOUNTABLE}]: deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets"
            )
        };
        set.then(told).into_iter().collect()
    }
}
