//! Fields nobody declared, and the normal form of a value.

use std::fmt::Write;

use serde_json::Value;

use super::{Kind, Schema};
use crate::Time;
use crate::quantity::Quantity;

/// Upstream stops collecting here. Source: `sigs.k8s.io/json`,
/// `decodeState.saveStrictError`.
pub(super) const MAX_STRICT_ERRORS: usize = 100;

/// Errors for fields of `value` the schema does not declare, in upstream's
/// words: `unknown field "spec.containers[0].foo"`. At most 100.
#[must_use]
pub fn unknown_fields(schema: Schema<'_>, value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    collect_unknown(schema, value, &mut String::new(), &mut found);
    found
}

fn collect_unknown(schema: Schema<'_>, value: &Value, path: &mut String, found: &mut Vec<String>) {
    let length = path.len();
    match (schema.kind(), value) {
        (Kind::Object, Value::Object(object)) => {
            for (name, child) in object {
                push_field(path, name);
                match schema.field(name) {
                    Some(field) => collect_unknown(field.schema, child, path, found),
                    None if found.len() < MAX_STRICT_ERRORS => found.push(format!("unknown field \"{path}\"")),
                    None => return,
                }
                path.truncate(length);
            }
        }
        (Kind::Map(values), Value::Object(object)) => {
            for (name, child) in object {
                push_field(path, name);
                collect_unknown(values, child, path, found);
                path.truncate(length);
            }
        }
        (Kind::Array(items), Value::Array(array)) => {
            for (index, child) in array.iter().enumerate() {
                push_index(path, index);
                collect_unknown(items, child, path, found);
                path.truncate(length);
            }
        }
        // Scalars have no fields, and a wrong shape is `check`'s to report.
        _ => {}
    }
}

pub(super) fn push_field(path: &mut String, name: &str) {
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(name);
}

pub(super) fn push_index(path: &mut String, index: usize) {
    // Writing to a String cannot fail.
    let _ = write!(path, "[{index}]");
}

/// Removes the fields of `value` the schema does not declare.
pub fn prune(schema: Schema<'_>, value: &mut Value) {
    match (schema.kind(), value) {
        (Kind::Object, Value::Object(object)) => object.retain(|name, child| match schema.field(name) {
            Some(field) => {
                prune(field.schema, child);
                true
            }
            None => false,
        }),
        (Kind::Map(values), Value::Object(object)) => object.values_mut().for_each(|child| prune(values, child)),
        (Kind::Array(items), Value::Array(array)) => array.iter_mut().for_each(|child| prune(items, child)),
        // Scalars have no fields, and a wrong shape is `check`'s to report.
        _ => {}
    }
}

/// Puts a value that passed [`check`](super::check) into the form a typed
/// round trip would give it: null fields are gone, null items and map values
/// are the zero of their type, quantities are canonical (`0.5` is `500m`,
/// numbers are text), times are UTC in the wire's precision.
pub fn normalize(schema: Schema<'_>, value: &mut Value) {
    match (schema.kind(), &mut *value) {
        (Kind::Object, Value::Object(object)) => object.retain(|name, child| {
            if child.is_null() {
                return false;
            }
            if let Some(field) = schema.field(name) {
                normalize(field.schema, child);
            }
            true
        }),
        (Kind::Map(inner), Value::Object(object)) => object.values_mut().for_each(|child| normalize_element(inner, child)),
        (Kind::Array(inner), Value::Array(array)) => array.iter_mut().for_each(|child| normalize_element(inner, child)),
        (Kind::Quantity, Value::String(_) | Value::Number(_)) => {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            if let Ok(quantity) = text.parse::<Quantity>() {
                *value = Value::String(quantity.to_string());
            }
        }
        (kind @ (Kind::Time | Kind::MicroTime), Value::String(text)) => {
            if let Ok(timestamp) = text.parse::<jiff::Timestamp>() {
                *text = if kind == Kind::Time {
                    Time::from(timestamp).to_string()
                } else {
                    format!("{timestamp:.6}")
                };
            }
        }
        // Other scalars have one form, and a wrong shape is `check`'s to report.
        _ => {}
    }
}

fn normalize_element(schema: Schema<'_>, value: &mut Value) {
    if !value.is_null() {
        return normalize(schema, value);
    }
    *value = match schema.kind() {
        Kind::String | Kind::Bytes => Value::String(String::new()),
        Kind::Int32 | Kind::Int64 | Kind::Number | Kind::IntOrString => Value::from(0),
        Kind::Boolean => Value::Bool(false),
        Kind::Quantity => Value::String("0".to_owned()),
        Kind::Object => Value::Object(serde_json::Map::new()),
        // Go keeps these null.
        Kind::Map(_) | Kind::Array(_) | Kind::Time | Kind::MicroTime | Kind::Any => Value::Null,
    };
}
