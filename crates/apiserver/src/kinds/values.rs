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
