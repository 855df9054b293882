//! `ServiceAccount`.

use serde_json::Value;

use super::{plain, short};
use crate::registry::{Cell, Column, Resource, Subresource};
use crate::table;

pub(super) fn row() -> Resource {
    Resource {
        short_names: short(&["sa"]),
        columns: vec![
            table::name_column(),
            Column::computed("Secrets", Cell::Text, |account, _| Value::from(table::count(account, "secrets"))),
            table::age_column(),
        ],
        subresources: vec![Subresource::Token],
        ..plain("", "ServiceAccount", "serviceaccounts", "serviceaccounts")
    }
}
