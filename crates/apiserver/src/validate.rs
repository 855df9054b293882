//! Rules that hold for objects of every kind, and the formats they are made of.
//!
//! Reading order: [`names`] (formats of names, labels, keys), [`values`]
//! (formats of numbers and addresses), [`metadata()`] (what every object's
//! metadata must keep to). What one kind asks beyond that is its strategy's, in
//! [`crate::kinds`].

pub mod metadata;
pub mod names;
mod selector;
pub mod values;

pub use self::metadata::{labels, metadata};
pub use self::selector::selector;

use api::status::Violation;
use serde_json::Value;

/// The texts of broken rules about one value, as violations of a field.
#[must_use]
pub fn invalid_each(field: &str, value: &str, rules: Result<(), Vec<String>>) -> Vec<Violation> {
    match rules {
        Ok(()) => Vec::new(),
        Err(texts) => texts
            .iter()
            .map(|text| Violation::invalid(field, &Value::from(value), text))
            .collect(),
    }
}

/// `Invalid value: <value>: field is immutable`, if it changed.
#[must_use]
pub fn immutable<T: PartialEq + serde::Serialize>(field: &str, new: &T, old: &T) -> Option<Violation> {
    (new != old).then(|| Violation::invalid(field, &serde_json::to_value(new).unwrap_or_default(), "field is immutable"))
}

#[cfg(test)]
mod tests;
