//! `ConfigMap`.
//!
//! Source: upstream `pkg/apis/core/validation/validation.go`,
//! `ValidateConfigMap`, `ValidateConfigMapUpdate`.

use std::sync::Arc;

use api::Object;
use api::status::Violation;
use serde_json::{Map, Value};

use super::{plain, short};
use crate::registry::{Cell, Column, Resource, Rules, Strategy};
use crate::table;
use crate::validate::{invalid_each, names};

/// Most bytes the values of a `ConfigMap` or Secret may take together.
pub(super) const MAX_BYTES: usize = 1024 * 1024;

pub(super) fn row() -> Resource {
    Resource {
        short_names: short(&["cm"]),
        strategy: Arc::new(ConfigMap),
        columns: vec![
            table::name_column(),
            Column::computed("Data", Cell::Text, |map, _| {
                Value::from(table::count(map, "data") + table::count(map, "binaryData"))
            }),
            table::age_column(),
        ],
        ..plain("", "ConfigMap", "configmaps", "configmaps")
    }
}

struct ConfigMap;

impl Strategy for ConfigMap {
    fn validate(&self, new: &Object, old: Option<&Object>, _rules: Rules) -> Vec<Violation> {
        let mut broken = old.map(|old| frozen(new, old, &["data", "binaryData"])).unwrap_or_default();
        let (data, binary) = (map(new, "data"), map(new, "binaryData"));
        broken.extend(keys("data", &data));
        for key in data.keys().filter(|key| binary.contains_key(*key)) {
            broken.push(Violation::invalid(
                format!("data[{key}]"),
                &Value::from(key.as_str()),
                "duplicate of key present in binaryData",
            ));
        }
        broken.extend(keys("binaryData", &binary));
        let text_bytes: usize = data.values().map(|value| value.as_str().unwrap_or_default().len()).sum();
        if text_bytes + decoded_bytes(&binary) > MAX_BYTES {
            broken.push(Violation::too_long("", MAX_BYTES));
        }
        broken
    }
}

/// The map in a field; empty when it is absent.
pub(super) fn map(object: &Object, field: &str) -> Map<String, Value> {
    object.body.get(field).and_then(Value::as_object).cloned().unwrap_or_default()
}

/// Bytes the base64 values of a map stand for.
pub(super) fn decoded_bytes(map: &Map<String, Value>) -> usize {
    map.values()
        .map(|value| {
            let text = value.as_str().unwrap_or_default().trim_end_matches('=');
            text.len() * 3 / 4
        })
        .sum()
}

pub(super) fn keys(field: &str, map: &Map<String, Value>) -> Vec<Violation> {
    map.keys()
        .flat_map(|key| invalid_each(&format!("{field}[{key}]"), key, names::config_key(key)))
        .collect()
}

/// What may not change once `immutable` is true; nor may that.
pub(super) fn frozen(new: &Object, old: &Object, fields: &[&str]) -> Vec<Violation> {
    const TEXT: &str = "field is immutable when `immutable` is set";
    let set = |object: &Object| object.body.get("immutable") == Some(&Value::Bool(true));
    if !set(old) {
        return Vec::new();
    }
    let mut broken = Vec::new();
    if !set(new) {
        broken.push(Violation::forbidden("immutable", TEXT));
    }
    broken.extend(
        fields
            .iter()
            .filter(|field| map(new, field) != map(old, field))
            .map(|field| Violation::forbidden(*field, TEXT)),
    );
    broken
}
