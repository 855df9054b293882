//! What a document says of values, and a value breaks: types, required fields,
//! closed sets. For schemas made at run time; built-in kinds have types of
//! their own that fail first, see [`check`](super::check()).
//!
//! Source: upstream `kube-openapi/pkg/validation/{validate,errors}`;
//! `apiextensions-apiserver/pkg/apiserver/validation/validation.go`,
//! `ValidateCustomResource`.

use serde_json::{Map, Value};

use super::check::base64;
use super::walk::{MAX_STRICT_ERRORS, push_field, push_index};
use super::{Descriptions, Kind, Schema};
use crate::status::Violation;

/// Everything in the fields of an object that its document does not allow; at
/// most 100. `apiVersion`, `kind` and `metadata` are not looked at.
#[must_use]
pub fn violations(schema: Schema<'_>, body: &Map<String, Value>) -> Vec<Violation> {
    let mut found = Found {
        descriptions: Descriptions::default(),
        path: String::new(),
        violations: Vec::new(),
    };
    found.fields(schema, body);
    found.violations.truncate(MAX_STRICT_ERRORS);
    found.violations
}

struct Found {
    descriptions: Descriptions,
    path: String,
    violations: Vec<Violation>,
}

impl Found {
    fn at(&mut self, push: impl FnOnce(&mut String), visit: impl FnOnce(&mut Self)) {
        let length = self.path.len();
        push(&mut self.path);
        visit(self);
        self.path.truncate(length);
    }

    fn fields(&mut self, schema: Schema<'_>, object: &Map<String, Value>) {
        for name in schema.required() {
            if !object.contains_key(name.as_ref()) {
                self.at(
                    |path| push_field(path, name),
                    |found| found.violations.push(Violation::required(&found.path, "")),
                );
            }
        }
        let described = self.descriptions.of_schema(schema);
        for (name, value) in object {
            let Some(field) = schema.field(name) else { continue };
            self.at(
                |path| push_field(path, name),
                |found| {
                    found.visit(field.schema, value);
                    if let (Some(values), Value::String(text)) = (described.values(name), value)
                        && !values.contains(text)
                    {
                        let values: Vec<&str> = values.iter().map(String::as_str).collect();
                        found.violations.push(Violation::not_supported(&found.path, text, &values));
                    }
                },
            );
        }
    }

    fn visit(&mut self, schema: Schema<'_>, value: &Value) {
        match (schema.kind(), value) {
            (Kind::Any, _) => {}
            _ if schema.is_built_in() => {}
            (Kind::Object, Value::Object(object)) => self.fields(schema, object),
            (Kind::Map(values), Value::Object(object)) => {
                for (name, value) in object {
                    self.at(|path| push_field(path, name), |found| found.visit(values, value));
                }
            }
            (Kind::Array(items), Value::Array(array)) => {
                for (index, value) in array.iter().enumerate() {
                    self.at(|path| push_index(path, index), |found| found.visit(items, value));
                }
            }
            (kind, value) => {
                if let Some((wanted, found)) = mismatch(kind, value) {
                    let why = format!("{} in body must be of type {wanted}: {found:?}", self.path);
                    self.violations.push(Violation::type_invalid(&self.path, found, &why));
                }
            }
        }
    }
}

/// The type that is wanted and what is there instead.
fn mismatch<'v>(kind: Kind<'_>, value: &'v Value) -> Option<(&'static str, &'v str)> {
    let found = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let fits_32 = || value.as_i64().is_some_and(|number| i32::try_from(number).is_ok());
    let wanted = match kind {
        Kind::Object | Kind::Map(_) => "object",
        Kind::Array(_) => "array",
        Kind::Int32 if found == "integer" && !fits_32() => "int32",
        Kind::Int64 if found == "integer" && !value.is_i64() => "int64",
        Kind::Int32 | Kind::Int64 => "integer",
        Kind::Number if found == "integer" => return None,
        Kind::Number => "number",
        Kind::Boolean => "boolean",
        Kind::IntOrString if matches!(found, "integer" | "string") => return None,
        Kind::IntOrString => "integer,string",
        Kind::Bytes => match value {
            Value::String(text) => return base64::check(text.as_bytes()).is_err().then_some(("byte", text)),
            _ => "string",
        },
        // No document declares the latter three.
        Kind::String | Kind::Quantity | Kind::Time | Kind::MicroTime => "string",
        Kind::Any => return None,
    };
    (wanted != found).then_some((wanted, found))
}
