//! `meta.k8s.io/v1` tables: what `kubectl get` prints.
//!
//! A row of the registry names its columns; this file turns objects into
//! cells. Reading order: [`list`] and [`single`], then [`age`] (how old
//! something is), then [`pod`] (the STATUS column).
//!
//! Source: API concepts page, "Receiving resources as Tables"; KEP-291.

pub mod age;
pub mod pod;

use api::{Object, Time};
use serde_json::{Value, json};

use crate::registry::{Cell, CellValue, Column, Resource};

/// How much of each object a row of a table carries: `includeObject`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IncludeObject {
    /// Nothing.
    None,
    /// `PartialObjectMetadata`, the default.
    #[default]
    Metadata,
    /// The whole object.
    Object,
}

impl IncludeObject {
    /// From the query parameter `includeObject`.
    ///
    /// # Errors
    /// The text of a 400, for a value that is none of the three.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "None" => Ok(Self::None),
            "" | "Metadata" => Ok(Self::Metadata),
            "Object" => Ok(Self::Object),
            other => Err(format!(
                "unrecognized includeObject value: {other:?}, expected None, Metadata or Object"
            )),
        }
    }
}

/// Metadata of a list, as a table repeats it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListPage {
    /// Revision the list was read at.
    pub resource_version: String,
    /// Token of the next page, if there is one.
    pub next: Option<String>,
    /// Objects after this page, if that is known.
    pub remaining_item_count: Option<u64>,
}

/// The table of a list.
#[must_use]
pub fn list<'a>(
    row: &Resource,
    objects: impl IntoIterator<Item = &'a Object>,
    page: &ListPage,
    include: IncludeObject,
    now: Time,
) -> Value {
    let mut metadata = json!({ "resourceVersion": page.resource_version });
    if let Some(next) = &page.next {
        metadata["continue"] = Value::from(next.as_str());
    }
    if let Some(count) = page.remaining_item_count {
        metadata["remainingItemCount"] = Value::from(count);
    }
    let rows = objects.into_iter().map(|object| table_row(row, object, include, now)).collect();
    table(metadata, definitions(row), rows)
}

/// The table of one object: a get, or the object of a watch event. Only the
/// first event of a watch carries the column definitions (`with_definitions`).
#[must_use]
pub fn single(row: &Resource, object: &Object, include: IncludeObject, with_definitions: bool, now: Time) -> Value {
    let metadata = json!({ "resourceVersion": object.meta.resource_version.as_deref().unwrap_or_default() });
    let definitions = if with_definitions { definitions(row) } else { Value::Null };
    table(metadata, definitions, vec![table_row(row, object, include, now)])
}

fn table(metadata: Value, definitions: Value, rows: Vec<Value>) -> Value {
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": definitions,
        "rows": rows,
    })
}

fn definitions(row: &Resource) -> Value {
    row.columns.iter().map(definition).collect()
}

fn definition(column: &Column) -> Value {
    let (kind, format) = match column.cell {
        Cell::Text => ("string", ""),
        Cell::Name => ("string", "name"),
        Cell::Integer => ("integer", ""),
        Cell::Boolean => ("boolean", ""),
    };
    json!({ "name": column.name, "type": kind, "format": format, "description": column.description, "priority": column.priority })
}

fn table_row(row: &Resource, object: &Object, include: IncludeObject, now: Time) -> Value {
    let mut out = json!({ "cells": row.columns.iter().map(|column| cell(column, object, now)).collect::<Vec<_>>() });
    let conditions = (row.row_conditions)(object);
    if !conditions.is_empty() {
        out["conditions"] = Value::from(conditions);
    }
    match include {
        IncludeObject::None => {}
        IncludeObject::Metadata => {
            out["object"] = json!({ "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object.metadata() });
        }
        // An object came from JSON, so it goes back into it.
        IncludeObject::Object => out["object"] = serde_json::to_value(object).unwrap_or_default(),
    }
    out
}

fn cell(column: &Column, object: &Object, now: Time) -> Value {
    match &column.value {
        CellValue::Computed(value) => value(object, now),
        CellValue::Path(path) => object
            .at(path)
            .filter(|value| !value.is_null())
            .cloned()
            .unwrap_or_else(|| Value::from("<none>")),
    }
}

/// The `Name` column every kind begins with.
#[must_use]
pub fn name_column() -> Column {
    Column::computed("Name", Cell::Name, |object, _| Value::from(object.name()))
        .described("Name of the object, unique within its namespace.")
}

/// The `Age` column.
#[must_use]
pub fn age_column() -> Column {
    Column::computed("Age", Cell::Text, |object, now| {
        Value::from(age::age(object.meta.creation_timestamp.as_ref().map(Time::from), now))
    })
    .described("Time since the object was created.")
}

/// The string at a path, or `<none>`.
#[must_use]
pub fn text_or_none(object: &Object, path: &str) -> Value {
    match object.str_at(path) {
        "" => Value::from("<none>"),
        text => Value::from(text),
    }
}

/// The number of entries of the list or map at a path.
#[must_use]
pub fn count(object: &Object, path: &str) -> u64 {
    match object.at(path) {
        Some(Value::Array(list)) => list.len() as u64,
        Some(Value::Object(map)) => map.len() as u64,
        _ => 0,
    }
}

/// A time in its wire form, as in `status`; `None` if absent or malformed.
#[must_use]
pub fn time(value: Option<&Value>) -> Option<Time> {
    value?.as_str()?.parse::<jiff::Timestamp>().ok().map(Time::from)
}

/// Labels, or a selector that asks for equal ones, as `a=b,c=d`.
#[must_use]
pub fn labels(map: Option<&Value>) -> String {
    let pairs = map.and_then(Value::as_object).into_iter().flatten();
    let texts: Vec<String> = pairs
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    if texts.is_empty() { "<none>".to_owned() } else { texts.join(",") }
}

/// The first few of a list, and how many more there are.
#[must_use]
pub fn first_few(all: &[String], most: usize) -> String {
    match all.len().checked_sub(most) {
        None | Some(0) => all.join(","),
        Some(more) => format!("{} + {more} more...", all[..most].join(",")),
    }
}

#[cfg(test)]
mod tests;
