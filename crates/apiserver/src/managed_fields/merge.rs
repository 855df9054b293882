//! An applied configuration on top of what is stored.
//!
//! Source: upstream `structured-merge-diff/v4/typed/merge.go`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde_json::{Map, Value};

use super::element::Element;
use super::shape::{Parts, Shape};

/// The stored object with what the configuration states.
pub(crate) fn objects(shape: Shape<'_>, live: &Map<String, Value>, config: &Map<String, Value>) -> Map<String, Value> {
    let mut out = Map::new();
    for (name, value) in live {
        let merged = match (config.get(name), shape.named(name)) {
            (Some(stated), Some(child)) => values(child, value, stated),
            (stated, _) => Some(stated.unwrap_or(value).clone()),
        };
        out.extend(merged.map(|merged| (name.clone(), merged)));
    }
    for (name, value) in config {
        if !live.contains_key(name) {
            out.insert(name.clone(), value.clone());
        }
    }
    out
}

/// Both of one path; `None` when nothing is left.
fn values(shape: Shape<'_>, live: &Value, config: &Value) -> Option<Value> {
    match (shape.parts(), live, config) {
        (Parts::Fields, Value::Object(live), Value::Object(stated)) if !live.is_empty() || !stated.is_empty() => {
            let merged = objects(shape, live, stated);
            (!merged.is_empty()).then_some(Value::Object(merged))
        }
        (Parts::Items, Value::Array(live), Value::Array(stated)) if !live.is_empty() || !stated.is_empty() => {
            let merged = items(shape, live, stated);
            (!merged.is_empty()).then_some(Value::Array(merged))
        }
        // Null says nothing about the parts of something that has parts.
        (Parts::Fields, Value::Object(object), Value::Null) if !object.is_empty() => Some(live.clone()),
        (Parts::Items, Value::Array(array), Value::Null) if !array.is_empty() => Some(live.clone()),
        _ => Some(config.clone()),
    }
}

/// Items in an order that keeps that of the configuration, and as far as that
/// allows the stored one.
fn items(shape: Shape<'_>, live: &[Value], config: &[Value]) -> Vec<Value> {
    let Some(item) = shape.item() else { return config.to_vec() };
    let elements = |values: &[Value]| -> Vec<Option<Element>> { values.iter().map(|value| shape.element(value).ok()).collect() };
    let (live_at, config_at) = (elements(live), elements(config));
    let stored: BTreeMap<&Element, &Value> = live_at
        .iter()
        .zip(live)
        .rev()
        .filter_map(|(at, value)| Some((at.as_ref()?, value)))
        .collect();
    let stated: BTreeSet<&Element> = config_at.iter().flatten().collect();
    // Items of both, in the order they must come.
    let mut shared: VecDeque<&Element> = config_at.iter().flatten().filter(|at| stored.contains_key(at)).collect();
    let mut placed: BTreeSet<&Element> = BTreeSet::new();
    let mut out = Vec::with_capacity(live.len().max(config.len()));
    let (mut left, mut right) = (0, 0);
    while left < live.len() || right < config.len() {
        let next_live = live_at.get(left).and_then(Option::as_ref);
        if left < live.len() {
            match next_live {
                // Stored alone: it stays where it is.
                None => {
                    out.push(live[left].clone());
                    left += 1;
                    continue;
                }
                Some(at) if !stated.contains(at) => {
                    out.push(live[left].clone());
                    left += 1;
                    continue;
                }
                // Of both, and either done already or to come later.
                Some(at) if placed.contains(at) || shared.front() != Some(&at) => {
                    left += 1;
                    continue;
                }
                Some(_) => {}
            }
        }
        let Some(at) = config_at.get(right).and_then(Option::as_ref) else {
            right += 1;
            if right > config.len() {
                break;
            }
            continue;
        };
        let merged = match stored.get(at) {
            Some(live) => values(item, live, &config[right]),
            None => Some(config[right].clone()),
        };
        out.extend(merged);
        placed.insert(at);
        if shared.front() == Some(&at) {
            shared.pop_front();
        }
        if next_live == Some(at) {
            left += 1;
        }
        right += 1;
    }
    out
}
