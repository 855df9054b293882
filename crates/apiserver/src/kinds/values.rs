//! Reading and filling the JSON form of an object.

use serde_json::{Map, Value};

/// Sets a field that is absent, null or empty text.
pub(crate) fn set_absent(map: &mut Map<String, Value>, key: &str, value: impl Into<Value>) {
    if matches!(map.get(key), None | Some(Value::Null)) || map.get(key).and_then(Value::as_str) == Some("") {
        map.insert(key.to_owned(), value.into());
    }
}

/// Removes fields that hold `false`, which upstream does not tell from absent.
pub(crate) fn drop_zero(map: &mut Map<String, Value>, keys: &[&str]) {
    for key in keys {
        if map.get(*key) == Some(&Value::Bool(false)) {
            map.remove(*key);
        }
    }
}

/// The text of a field, or the empty string.
pub(crate) fn text<'a>(map: &'a Map<String, Value>, key: &str) -> &'a str {
    map.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// The object in a field.
pub(crate) fn object<'a>(map: &'a mut Map<String, Value>, key: &str) -> Option<&'a mut Map<String, Value>> {
    map.get_mut(key)?.as_object_mut()
}

/// The objects in a list field; none when it is absent.
pub(crate) fn objects<'a>(map: &'a mut Map<String, Value>, key: &str) -> impl Iterator<Item = &'a mut Map<String, Value>> {
    map.get_mut(key)
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
        .filter_map(Value::as_object_mut)
}

/// The differing leaves of two values, one line each: `-` as stored, `+` as
/// asked.
pub(crate) fn differ(path: &str, old: &Value, new: &Value, out: &mut String) {
    use std::fmt::Write;
    match (old, new) {
        (old, new) if old == new => {}
        (Value::Object(before), Value::Object(after)) => {
            let mut keys: Vec<&String> = before.keys().chain(after.keys()).collect();
            keys.sort_unstable();
            keys.dedup();
            for key in keys {
                differ(&format!("{path}.{key}"), &old[key.as_str()], &new[key.as_str()], out);
            }
        }
        (Value::Array(before), Value::Array(after)) => {
            for index in 0..before.len().max(after.len()) {
                let part = |list: &[Value]| list.get(index).cloned().unwrap_or_default();
                differ(&format!("{path}[{index}]"), &part(before), &part(after), out);
            }
        }
        (old, new) => {
            for (sign, value) in [('-', old), ('+', new)] {
                if !value.is_null() {
                    // Writing to a String cannot fail.
                    let _ = writeln!(out, "{sign} {path}: {value}");
                }
            }
        }
    }
}
