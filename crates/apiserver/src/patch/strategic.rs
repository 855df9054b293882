//! Strategic merge patch: objects are merged field by field, lists by the
//! merge key the schema states, or replaced where it states none.
//!
//! Directives: `$patch` (`merge`, `replace`, `delete`) in an object or a list
//! item, `$retainKeys`, `$deleteFromPrimitiveList/FIELD`,
//! `$setElementOrder/FIELD`.
//!
//! Source: Kubernetes "Update API objects in place using kubectl patch";
//! the contributors' "Strategic merge patch" page; upstream
//! `apimachinery/pkg/util/strategicpatch`.

use std::collections::{BTreeMap, BTreeSet};

use api::schema::{Field, PatchStrategy, Schema};
use serde_json::{Map, Value};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const SET_ORDER: &str = "$setElementOrder/";

/// A patch that cannot be applied.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StrategicError {
    /// A `$patch` of another value.
    #[error("unknown patch type {found:?} in {field:?}: replace, delete and merge are known")]
    Directive {
        /// Where.
        field: String,
        /// What it said.
        found: String,
    },
    /// An item of a merged list without the key.
    #[error("an item of {field:?} does not contain the declared merge key {key}")]
    MergeKey {
        /// Which list.
        field: String,
        /// Which key.
        key: String,
    },
    /// A directive of the wrong shape.
    #[error("invalid patch format: {directive} must be {wanted}")]
    Shape {
        /// Which directive.
        directive: String,
        /// What it has to be.
        wanted: &'static str,
    },
}

type Applied<T> = Result<T, StrategicError>;

/// What is left of a value, and whether it is left at all.
pub(super) fn apply(schema: Schema<'_>, original: Value, patch: &Value) -> Applied<Value> {
    match (original, patch) {
        (Value::Object(original), Value::Object(patch)) => merge(Some(schema), original, patch, "").map(Value::Object),
        // The caller hands in an object, and so is every patch that was read.
        (original, _) => Ok(original),
    }
}

/// Merges a patch into an object. `at` is the field it is in, for messages.
fn merge(
    schema: Option<Schema<'_>>,
    mut original: Map<String, Value>,
    patch: &Map<String, Value>,
    at: &str,
) -> Applied<Map<String, Value>> {
    match directive(patch, at)? {
        Directive::Merge => {}
        Directive::Replace => return Ok(without_directives(patch)),
        Directive::Delete => return Ok(Map::new()),
    }
    retain_keys(&mut original, patch)?;
    let declared = |name: &str| -> Option<Field> { schema.and_then(|schema| schema.field(name)) };
    // The values of a map all have one schema.
    let values = schema.and_then(Schema::values);
    for (name, change) in patch {
        if name == DIRECTIVE || name == RETAIN_KEYS || name.starts_with(DELETE_FROM) || name.starts_with(SET_ORDER) {
            continue;
        }
        if change.is_null() {
            original.remove(name);
            continue;
        }
        let field = declared(name);
        let strategy = field.map(|field| field.patch).unwrap_or_default();
        let inner = field.map(|field| field.schema).or(values);
        let merged = match (original.remove(name), change) {
            (_, Value::Object(change)) if strategy.replace && !strategy.merge => Value::Object(without_directives(change)),
            (Some(Value::Object(before)), Value::Object(change)) => Value::Object(merge(inner, before, change, name)?),
            (_, Value::Object(change)) => Value::Object(merge(inner, Map::new(), change, name)?),
            (before, Value::Array(change)) if strategy.merge => {
                let before = if let Some(Value::Array(before)) = before {
                    before
                } else {
                    Vec::new()
                };
                let order = list(patch, SET_ORDER, name)?;
                Value::Array(merge_list(inner, strategy, before, change, order, name)?)
            }
            (_, change) => without_directives_in(change),
        };
        original.insert(name.clone(), merged);
    }
    lists_without_items(schema, &mut original, patch)?;
    Ok(original)
}

/// Applies `$deleteFromPrimitiveList`, and the orders of lists of which the
/// patch has no items.
fn lists_without_items(schema: Option<Schema<'_>>, original: &mut Map<String, Value>, patch: &Map<String, Value>) -> Applied<()> {
    for (name, _) in patch {
        if let Some(field) = name.strip_prefix(DELETE_FROM) {
            let gone: BTreeSet<String> = list(patch, DELETE_FROM, field)?
                .unwrap_or_default()
                .iter()
                .map(ToString::to_string)
                .collect();
            if let Some(Value::Array(items)) = original.get_mut(field) {
                items.retain(|item| !gone.contains(&item.to_string()));
            }
        }
    }
    for (name, _) in patch {
        let Some(field) = name.strip_prefix(SET_ORDER).filter(|field| !patch.contains_key(*field)) else {
            continue;
        };
        let order = list(patch, SET_ORDER, field)?.unwrap_or_default();
        let key = schema
            .and_then(|schema| schema.field(field))
            .and_then(|field| field.patch.merge_key);
        if let Some(Value::Array(items)) = original.get_mut(field) {
            let before = identities(items, key);
            let listed = std::mem::take(items);
            *items = arrange(listed, &before, &identities(order, key), key);
        }
    }
    Ok(())
}

enum Directive {
    Merge,
    Replace,
    Delete,
}

fn directive(patch: &Map<String, Value>, at: &str) -> Applied<Directive> {
    match patch.get(DIRECTIVE) {
        None => Ok(Directive::Merge),
        Some(Value::String(text)) if text == "merge" => Ok(Directive::Merge),
        Some(Value::String(text)) if text == "replace" => Ok(Directive::Replace),
        Some(Value::String(text)) if text == "delete" => Ok(Directive::Delete),
        Some(other) => Err(StrategicError::Directive {
            field: at.to_owned(),
            found: other.as_str().map_or_else(|| other.to_string(), str::to_owned),
        }),
    }
}

/// The list a directive of a field holds.
fn list<'p>(patch: &'p Map<String, Value>, directive: &str, field: &str) -> Applied<Option<&'p [Value]>> {
    let name = format!("{directive}{field}");
    match patch.get(&name) {
        None => Ok(None),
        Some(Value::Array(items)) => Ok(Some(items)),
        Some(_) => Err(StrategicError::Shape {
            directive: name,
            wanted: "a list",
        }),
    }
}

/// Clears every key `$retainKeys` does not name. Keys of the patch itself must
/// be named.
fn retain_keys(original: &mut Map<String, Value>, patch: &Map<String, Value>) -> Applied<()> {
    let Some(keys) = patch.get(RETAIN_KEYS) else { return Ok(()) };
    let wrong = || StrategicError::Shape {
        directive: RETAIN_KEYS.to_owned(),
        wanted: "a list of keys that names every key of the patch",
    };
    let keys = keys.as_array().ok_or_else(wrong)?;
    let keys: BTreeSet<&str> = keys.iter().map(|key| key.as_str().ok_or_else(wrong)).collect::<Applied<_>>()?;
    if patch
        .iter()
        .any(|(name, value)| !name.starts_with('$') && !value.is_null() && !keys.contains(name.as_str()))
    {
        return Err(wrong());
    }
    original.retain(|name, _| keys.contains(name.as_str()));
    Ok(())
}

/// Merges a list: by key, or as a set of scalars when the schema states none.
fn merge_list(
    schema: Option<Schema<'_>>,
    strategy: PatchStrategy,
    before: Vec<Value>,
    patch: &[Value],
    order: Option<&[Value]>,
    at: &str,
) -> Applied<Vec<Value>> {
    let items = schema.and_then(Schema::items);
    let key = strategy.merge_key;
    let original_order = identities(&before, key);
    let mut merged = before;
    let mut places: BTreeMap<String, usize> = identities(&merged, key)
        .into_iter()
        .enumerate()
        .map(|(at, identity)| (identity, at))
        .collect();
    let mut removed: BTreeSet<String> = BTreeSet::new();
    let mut listed = Vec::new();
    if let Some(key) = key {
        if let Some(kept) = replaced(patch, at)? {
            return Ok(kept);
        }
        for item in patch {
            let identity = item.get(key).map(ToString::to_string);
            let identity = identity.ok_or_else(|| StrategicError::MergeKey {
                field: at.to_owned(),
                key: key.to_owned(),
            })?;
            let Value::Object(change) = item else { continue };
            if matches!(directive(change, at)?, Directive::Delete) {
                removed.insert(identity);
                continue;
            }
            listed.push(identity.clone());
            match places.get(&identity) {
                Some(place) => {
                    let item = std::mem::take(&mut merged[*place]);
                    let item = if let Value::Object(item) = item { item } else { Map::new() };
                    merged[*place] = Value::Object(merge(items, item, change, at)?);
                }
                None => {
                    places.insert(identity, merged.len());
                    merged.push(Value::Object(merge(items, Map::new(), change, at)?));
                }
            }
        }
        // An item both deleted and stated comes back as stated.
        let stated: BTreeSet<&String> = listed.iter().collect();
        removed.retain(|identity| !stated.contains(identity));
        merged.retain(|item| !removed.contains(&identity(item, Some(key))));
    } else {
        for item in patch {
            let identity = item.to_string();
            if places.insert(identity.clone(), merged.len()).is_none() {
                merged.push(item.clone());
            }
            listed.push(identity);
        }
    }
    let order = order.map_or(listed, |order| identities(order, key));
    Ok(arrange(merged, &original_order, &order, key))
}

/// The items of a list that is replaced as a whole: one of its items is
/// `$patch: replace` alone.
fn replaced(patch: &[Value], at: &str) -> Applied<Option<Vec<Value>>> {
    let mut replaces = false;
    for item in patch {
        if let Value::Object(item) = item {
            replaces |= matches!(directive(item, at)?, Directive::Replace);
        }
    }
    let plain = |item: &&Value| item.get(DIRECTIVE).is_none();
    Ok(replaces.then(|| patch.iter().filter(plain).map(without_directives_in).collect()))
}

fn identity(item: &Value, key: Option<&str>) -> String {
    match key {
        Some(key) => item.get(key).unwrap_or(&Value::Null).to_string(),
        None => item.to_string(),
    }
}

fn identities(items: &[Value], key: Option<&str>) -> Vec<String> {
    items.iter().map(|item| identity(item, key)).collect()
}

/// Orders a merged list: items the patch lists in its order, the others in
/// theirs, and the two interleaved as they were before, where that is known.
/// An item the patch does not list comes before the first listed one that
/// followed it.
fn arrange(items: Vec<Value>, before: &[String], order: &[String], key: Option<&str>) -> Vec<Value> {
    let rank = |identities: &[String]| -> BTreeMap<String, usize> {
        let mut ranks = BTreeMap::new();
        for (rank, identity) in identities.iter().enumerate() {
            ranks.entry(identity.clone()).or_insert(rank);
        }
        ranks
    };
    let (was, will) = (rank(before), rank(order));
    let named = |item: &Value| identity(item, key);
    let (mut listed, mut others): (Vec<Value>, Vec<Value>) = items.into_iter().partition(|item| will.contains_key(&named(item)));
    listed.sort_by_key(|item| will.get(&named(item)).copied());
    others.sort_by_key(|item| was.get(&named(item)).copied().unwrap_or(usize::MAX));
    let mut arranged = Vec::with_capacity(listed.len() + others.len());
    let mut others = others.into_iter().peekable();
    for item in listed {
        let place = was.get(&named(&item)).copied();
        while let (Some(place), Some(other)) = (place, others.peek()) {
            match was.get(&named(other)) {
                Some(other_place) if *other_place < place => arranged.extend(others.next()),
                _ => break,
            }
        }
        arranged.push(item);
    }
    arranged.extend(others);
    arranged
}

/// A part of a patch as a value of its own: without directives and nulls.
fn without_directives_in(value: &Value) -> Value {
    match value {
        Value::Object(object) => Value::Object(without_directives(object)),
        Value::Array(items) => Value::Array(items.iter().map(without_directives_in).collect()),
        scalar => scalar.clone(),
    }
}

fn without_directives(object: &Map<String, Value>) -> Map<String, Value> {
    let is_directive =
        |name: &str| name == DIRECTIVE || name == RETAIN_KEYS || name.starts_with(DELETE_FROM) || name.starts_with(SET_ORDER);
    object
        .iter()
        .filter(|(name, value)| !is_directive(name) && !value.is_null())
        .map(|(name, value)| (name.clone(), without_directives_in(value)))
        .collect()
}
