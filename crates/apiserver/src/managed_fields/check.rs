//! Whether an applied configuration has the shape of its kind, in upstream's
//! words.
//!
//! Source: upstream `structured-merge-diff/v4/typed/{validate,helpers}.go`.

use std::collections::BTreeSet;

use api::schema::Kind;
use serde_json::{Map, Value};

use super::shape::Shape;

/// Errors kept; a configuration may have any number.
const ERRORS_MAX: usize = 100;

/// Everything that is wrong, as `<path>: <why>`.
pub(crate) fn errors(shape: Shape<'_>, object: &Map<String, Value>) -> Vec<String> {
    let mut found = Vec::new();
    fields(shape, object, &mut String::new(), &mut found);
    found
}

/// As upstream joins them.
pub(crate) fn joined(errors: &[String]) -> String {
    match errors {
        [one] => one.clone(),
        many => {
            let lines: Vec<String> = many.iter().map(|error| format!("\n  {error}")).collect();
            format!("errors:{}", lines.concat())
        }
    }
}

fn complain(path: &str, why: &str, found: &mut Vec<String>) {
    if found.len() < ERRORS_MAX {
        found.push(if path.is_empty() {
            why.to_owned()
        } else {
            format!("{path}: {why}")
        });
    }
}

fn fields(shape: Shape<'_>, object: &Map<String, Value>, path: &mut String, found: &mut Vec<String>) {
    let length = path.len();
    for (name, value) in object {
        path.push('.');
        path.push_str(name);
        match shape.named(name) {
            Some(child) => visit(child, value, path, found),
            None => complain(path, "field not declared in schema", found),
        }
        path.truncate(length);
    }
}

fn visit(shape: Shape<'_>, value: &Value, path: &mut String, found: &mut Vec<String>) {
    match (shape.schema.kind(), value) {
        (_, Value::Null) | (Kind::Any, _) => {}
        (Kind::Object | Kind::Map(_), Value::Object(object)) => fields(shape, object, path, found),
        (Kind::Object | Kind::Map(_), other) => complain(path, &format!("expected map, got {}", go_pointer(other)), found),
        (Kind::Array(_), Value::Array(items)) => list(shape, items, path, found),
        (Kind::Array(_), other) => complain(path, &format!("expected list, got {}", go_pointer(other)), found),
        (Kind::Int32 | Kind::Int64 | Kind::Number, Value::Number(_)) | (Kind::Boolean, Value::Bool(_)) => {}
        (Kind::Int32 | Kind::Int64 | Kind::Number, other) => {
            complain(path, &format!("expected numeric (int or float), got {}", go_type(other)), found);
        }
        (Kind::Boolean, other) => complain(path, &format!("expected boolean, got {}", go_pointer(other)), found),
        (Kind::String | Kind::Bytes | Kind::Time | Kind::MicroTime, Value::String(_)) => {}
        (Kind::String | Kind::Bytes | Kind::Time | Kind::MicroTime, other) => {
            let why = format!("expected string, got &value.valueUnstructured{{Value:{}}}", go_syntax(other));
            complain(path, &why, found);
        }
        (Kind::IntOrString | Kind::Quantity, Value::Array(_) | Value::Object(_)) => {
            complain(path, &format!("expected any scalar, got {}", go_pointer(value)), found);
        }
        (Kind::IntOrString | Kind::Quantity, _) => {}
    }
}

fn list(shape: Shape<'_>, items: &[Value], path: &mut String, found: &mut Vec<String>) {
    let length = path.len();
    let Some(item) = shape.item() else { return };
    let keyed = shape.parts() == super::shape::Parts::Items;
    let mut seen = BTreeSet::new();
    for (index, value) in items.iter().enumerate() {
        if !keyed {
            path.push_str(&format!("[{index}]"));
            visit(item, value, path, found);
            path.truncate(length);
            continue;
        }
        match shape.element(value) {
            Ok(at) => {
                let shown = at.to_string();
                if !seen.insert(at) {
                    complain(path, &format!("duplicate entries for key {shown}"), found);
                }
                path.push_str(&shown);
                visit(item, value, path, found);
                path.truncate(length);
            }
            Err(why) => complain(path, &format!("element {index}: {why}"), found),
        }
    }
}

/// Go's `%T` of a decoded value.
fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_i64() => "int64",
        Value::Number(_) => "float64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

/// Go's `%#v` of a decoded value.
fn go_syntax(value: &Value) -> String {
    match value {
        Value::Array(items) => format!("[]interface {{}}{{{}}}", items.iter().map(go_syntax).collect::<Vec<_>>().join(", ")),
        Value::Object(object) => {
            let entries: Vec<String> = object.iter().map(|(key, value)| format!("{key:?}:{}", go_syntax(value))).collect();
            format!("map[string]interface {{}}{{{}}}", entries.join(", "))
        }
        Value::Null => "interface {}(nil)".to_owned(),
        scalar => scalar.to_string(),
    }
}

/// Go's `%v` of a pointer to a decoded value.
fn go_pointer(value: &Value) -> String {
    format!("&{{{}}}", go_plain(value))
}

fn go_plain(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(go_plain).collect::<Vec<_>>().join(" ")),
        Value::Object(object) => {
            let entries: Vec<String> = object.iter().map(|(key, value)| format!("{key}:{}", go_plain(value))).collect();
            format!("map[{}]", entries.join(" "))
        }
        scalar => scalar.to_string(),
    }
}
