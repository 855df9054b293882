//! JSON type errors in Go's words, as API clients know them.
//!
//! Upstream decodes into Go structs; a value of the wrong type is reported
//! with the Go struct, the path and the Go type. The first such error is kept
//! and decoding goes on; an error of a type that decodes itself (quantities,
//! times) ends it at once and wins.
//!
//! Source: Go `encoding/json` `decodeState`, `UnmarshalTypeError`; upstream
//! `Quantity`, `Time` and `IntOrString` `UnmarshalJSON`.

pub(super) mod base64;
mod named;
mod rfc3339;

#[cfg(test)]
pub(super) use named::NAMED as NAMED_STRINGS;
use serde_json::{Number, Value};

use super::{Kind, Schema};
use crate::quantity::{Quantity, QuantityError};

/// A value does not have the type its schema wants. The texts are upstream's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    /// A field of an object.
    #[error("json: cannot unmarshal {found} into Go struct field {object}.{path} of type {wanted}")]
    Field {
        /// `string`, `number 1.5`, `object`, ...
        found: String,
        /// The innermost struct: `PodSpec`.
        object: String,
        /// From the root, without indices: `spec.containers.env`.
        path: String,
        /// The Go type: `[]v1.Container`.
        wanted: String,
    },
    /// The value as a whole.
    #[error("json: cannot unmarshal {found} into Go value of type {wanted}")]
    Root {
        /// `string`, `number 1.5`, `object`, ...
        found: String,
        /// The Go type: `v1.Pod`.
        wanted: String,
    },
    /// A quantity's text. Upstream does not say where.
    #[error(transparent)]
    Quantity(QuantityError),
    /// A time's text. Upstream does not say where.
    #[error("parsing time {text:?}{problem}")]
    Time {
        /// The text.
        text: String,
        /// Begins with ` as` or `:`.
        problem: String,
    },
    /// Bytes that are not base64. Upstream does not say where.
    #[error("illegal base64 data at input byte {at}")]
    Base64 {
        /// Index of the offending byte.
        at: usize,
    },
}

/// Checks that every value has the JSON type its schema wants. Null is taken
/// for absent, unknown fields are not looked at, and required fields may be
/// missing: that is validation's business. So is what a document declares, which
/// no Go type stands for: see [`violations`](super::violations).
///
/// # Errors
/// The error upstream's decoder would report.
pub fn check(schema: Schema<'_>, value: &Value) -> Result<(), ShapeError> {
    let mut walk = Walk {
        path: Vec::new(),
        object: None,
        field: None,
        first: None,
    };
    walk.visit(schema, value)?;
    walk.first.map_or(Ok(()), Err)
}

struct Walk<'v, 't> {
    path: Vec<&'v str>,
    /// Definition whose field is being visited.
    object: Option<&'t str>,
    /// That field.
    field: Option<&'v str>,
    first: Option<ShapeError>,
}

impl<'v, 't> Walk<'v, 't> {
    /// An `Err` ends the walk.
    fn visit(&mut self, schema: Schema<'t>, value: &'v Value) -> Result<(), ShapeError> {
        match (schema.kind(), value) {
            (Kind::Any, _) | (_, Value::Null) => {}
            (Kind::Object, Value::Object(fields)) => {
                let outer = (self.object, self.field);
                for (name, child) in fields {
                    if let Some(field) = schema.field(name) {
                        self.object = schema.name().map(short);
                        self.field = Some(name);
                        self.path.push(name);
                        self.visit(field.schema, child)?;
                        self.path.pop();
                    }
                }
                (self.object, self.field) = outer;
            }
            (Kind::Map(values), Value::Object(entries)) => {
                for child in entries.values() {
                    self.visit(values, child)?;
                }
            }
            (Kind::Array(items), Value::Array(array)) => {
                for child in array {
                    self.visit(items, child)?;
                }
            }
            // No Go type: `violations` speaks of these.
            _ if !schema.is_built_in() => {}
            (Kind::Quantity, other) => quantity(other)?,
            (Kind::Time, Value::String(text)) => rfc3339::check(text, false)?,
            (Kind::MicroTime, Value::String(text)) => rfc3339::check(text, true)?,
            (Kind::Bytes, Value::String(text)) => {
                if let Err(at) = base64::check(text.as_bytes()) {
                    self.note(ShapeError::Base64 { at });
                }
            }
            (Kind::Int32, Value::Number(n)) if n.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) => {}
            (Kind::Int64, Value::Number(n)) if n.is_i64() => {}
            (Kind::IntOrString, Value::Number(n)) if n.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) => {}
            (Kind::Number, Value::Number(_)) | (Kind::Boolean, Value::Bool(_)) | (Kind::String | Kind::IntOrString, Value::String(_)) => {}
            // These decode themselves from an int32 or a string; their error ends the walk.
            (Kind::IntOrString, other) => return Err(self.mismatch(found(other, true), "int32".to_owned())),
            (Kind::Time | Kind::MicroTime, other) => return Err(self.mismatch(found(other, false), "string".to_owned())),
            (kind, other) => {
                let numeric = matches!(kind, Kind::Int32 | Kind::Int64);
                let error = self.mismatch(found(other, numeric), self.go_type(schema));
                self.note(error);
            }
        }
        Ok(())
    }

    fn note(&mut self, error: ShapeError) {
        self.first.get_or_insert(error);
    }

    fn mismatch(&self, found: String, wanted: String) -> ShapeError {
        match self.object {
            Some(object) => ShapeError::Field {
                found,
                object: object.to_owned(),
                path: self.path.join("."),
                wanted,
            },
            None => ShapeError::Root { found, wanted },
        }
    }

    fn go_type(&self, schema: Schema<'_>) -> String {
        match schema.kind() {
            Kind::Object => schema.name().map_or_else(|| "struct".to_owned(), qualified),
            // The only maps of quantities in the API.
            Kind::Map(values) if values.kind() == Kind::Quantity => "v1.ResourceList".to_owned(),
            Kind::Map(values) => format!("map[string]{}", self.go_type(values)),
            Kind::Array(items) => format!("[]{}", self.go_type(items)),
            Kind::String => self
                .object
                .zip(self.field)
                .and_then(|(object, field)| named::string_type(object, field))
                .unwrap_or("string")
                .to_owned(),
            Kind::Bytes => "[]uint8".to_owned(),
            Kind::Int32 => "int32".to_owned(),
            Kind::Int64 => "int64".to_owned(),
            Kind::Number => "float64".to_owned(),
            Kind::Boolean => "bool".to_owned(),
            Kind::IntOrString => "intstr.IntOrString".to_owned(),
            Kind::Quantity => "resource.Quantity".to_owned(),
            Kind::Time => "v1.Time".to_owned(),
            Kind::MicroTime => "v1.MicroTime".to_owned(),
            Kind::Any => "runtime.RawExtension".to_owned(),
        }
    }
}

/// `PodSpec` of `io.k8s.api.core.v1.PodSpec`.
fn short(definition: &str) -> &str {
    definition.rsplit_once('.').map_or(definition, |(_, name)| name)
}

/// `v1.PodSpec` of `io.k8s.api.core.v1.PodSpec`.
fn qualified(definition: &str) -> String {
    let mut parts = definition.rsplit('.');
    let name = parts.next().unwrap_or_default();
    format!("{}.{name}", parts.next().unwrap_or_default())
}

/// Go's word for a JSON value; a number that does not fit is shown.
fn found(value: &Value, show_number: bool) -> String {
    let number = |n: &Number| if show_number { format!("number {n}") } else { "number".to_owned() };
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(_) => "bool".to_owned(),
        Value::Number(n) => number(n),
        Value::String(_) => "string".to_owned(),
        Value::Array(_) => "array".to_owned(),
        Value::Object(_) => "object".to_owned(),
    }
}

fn quantity(value: &Value) -> Result<(), ShapeError> {
    let parsed = match value {
        Value::String(text) => text.trim().parse::<Quantity>(),
        Value::Number(number) => number.to_string().parse(),
        Value::Null => return Ok(()),
        // Upstream parses the JSON text, which is never a quantity.
        Value::Bool(_) | Value::Array(_) | Value::Object(_) => Err(QuantityError::Syntax),
    };
    parsed.map(drop).map_err(ShapeError::Quantity)
}
