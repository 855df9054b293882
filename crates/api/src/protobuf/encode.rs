//! From JSON values to messages.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::numbers::{self, Numbered};
use super::{Fault, Located, wire};
use crate::schema::{Kind, Schema};

/// The fields of an object: a map, and metadata where it is kept apart.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a> {
    pub(super) body: &'a Map<String, Value>,
    pub(super) metadata: Option<&'a Value>,
}

impl<'a> Fields<'a> {
    fn get(&self, name: &str) -> Option<&'a Value> {
        match self.metadata {
            Some(metadata) if name == "metadata" => Some(metadata),
            _ => self.body.get(name),
        }
    }

    fn names(&self) -> impl Iterator<Item = &'a String> {
        self.body.keys()
    }
}

/// Writes the fields of an object.
pub(super) fn message(schema: Schema<'static>, value: &Value, out: &mut Vec<u8>) -> Result<(), Located> {
    let body = value.as_object().ok_or(Fault::Shape { wanted: "an object" })?;
    fields(schema, Fields { body, metadata: None }, out)
}

/// The same, from an object in parts.
pub(super) fn fields(schema: Schema<'static>, object: Fields<'_>, out: &mut Vec<u8>) -> Result<(), Located> {
    let fields = numbers::of(schema);
    let mut known = 0;
    for held in fields.chunk_by(|left, right| left.holder == right.holder) {
        let present = held.iter().filter(|field| object.get(field.name).is_some()).count();
        known += present;
        match held.first() {
            Some(first) if first.holder != 0 && present > 0 => wire::message(out, first.holder, |out| write_all(held, object, out))?,
            _ => write_all(held, object, out)?,
        }
    }
    // `apiVersion` and `kind` of an object are sent beside it, or not at all.
    let types = |name: &str| schema.group_version_kind().is_some() && matches!(name, "apiVersion" | "kind");
    if known < object.body.len() + usize::from(object.metadata.is_some())
        && let Some(unknown) = object
            .names()
            .find(|name| !types(name) && fields.iter().all(|field| field.name != *name))
    {
        return Err(Fault::UnknownField(unknown.clone()).into());
    }
    Ok(())
}

fn write_all(fields: &[Numbered], object: Fields<'_>, out: &mut Vec<u8>) -> Result<(), Located> {
    for field in fields {
        if let Some(value) = object.get(field.name).filter(|value| !value.is_null()) {
            write(field.number, field.schema, value, out).map_err(|error| error.inside(field.name))?;
        }
    }
    Ok(())
}

/// Writes a field, once for each item and entry.
fn write(number: u32, schema: Schema<'static>, value: &Value, out: &mut Vec<u8>) -> Result<(), Located> {
    match schema.kind() {
        Kind::Array(items) => {
            for item in value.as_array().ok_or(Fault::Shape { wanted: "a list" })? {
                element(number, items, item, out)?;
            }
        }
        Kind::Map(values) => {
            for (key, value) in value.as_object().ok_or(Fault::Shape { wanted: "a map" })? {
                wire::message(out, number, |out| {
                    wire::bytes(out, 1, key.as_bytes());
                    // A list in a map is wrapped into a message, as its field 1.
                    match values.kind() {
                        Kind::Array(_) => wire::message(out, 2, |out| write(1, values, value, out)),
                        _ => element(2, values, value, out),
                    }
                })
                .map_err(|error| error.inside(key))?;
            }
        }
        _ => element(number, schema, value, out)?,
    }
    Ok(())
}

/// Writes an item of a list, the value of a map, or a field that occurs once.
/// Null is the zero of its type.
fn element(number: u32, schema: Schema<'static>, value: &Value, out: &mut Vec<u8>) -> Result<(), Located> {
    let kind = schema.kind();
    if value.is_null() {
        match kind {
            Kind::Int32 | Kind::Int64 | Kind::Boolean => wire::varint(out, number, 0),
            Kind::Number => wire::double(out, number, 0.0),
            _ => wire::bytes(out, number, &[]),
        }
        return Ok(());
    }
    match kind {
        Kind::Object => wire::message(out, number, |out| message(schema, value, out))?,
        Kind::String => wire::bytes(out, number, text(value, "a text")?.as_bytes()),
        Kind::Bytes => {
            let wanted = "base64";
            let bytes = STANDARD.decode(text(value, wanted)?).map_err(|_| Fault::Shape { wanted })?;
            wire::bytes(out, number, &bytes);
        }
        Kind::Int32 => {
            let integer = value.as_i64().and_then(|integer| i32::try_from(integer).ok());
            wire::varint(
                out,
                number,
                integer
                    .ok_or(Fault::Shape {
                        wanted: "a 32-bit integer",
                    })?
                    .into(),
            );
        }
        Kind::Int64 => wire::varint(
            out,
            number,
            value.as_i64().ok_or(Fault::Shape {
                wanted: "a 64-bit integer",
            })?,
        ),
        Kind::Boolean => wire::varint(out, number, value.as_bool().ok_or(Fault::Shape { wanted: "a boolean" })?.into()),
        Kind::Number => wire::double(out, number, value.as_f64().ok_or(Fault::Shape { wanted: "a number" })?),
        Kind::IntOrString => wire::message(out, number, |out| int_or_string(value, out))?,
        Kind::Quantity => {
            let quantity = match value {
                Value::Number(number) => number.to_string(),
                _ => text(value, "a quantity")?.to_owned(),
            };
            wire::message(out, number, |out| {
                wire::bytes(out, 1, quantity.as_bytes());
                Ok::<(), Located>(())
            })?;
        }
        Kind::Time | Kind::MicroTime => wire::message(out, number, |out| time(value, out))?,
        Kind::Any => wire::message(out, number, |out| {
            wire::bytes(out, 1, value.to_string().as_bytes());
            Ok::<(), Located>(())
        })?,
        // The wire has no lists and maps here; the table's test asserts it.
        Kind::Array(_) | Kind::Map(_) => {
            return Err(Fault::Shape {
                wanted: "something that can be in a list or a map",
            }
            .into());
        }
    }
    Ok(())
}

fn text<'a>(value: &'a Value, wanted: &'static str) -> Result<&'a str, Fault> {
    value.as_str().ok_or(Fault::Shape { wanted })
}

fn int_or_string(value: &Value, out: &mut Vec<u8>) -> Result<(), Located> {
    if let Some(text) = value.as_str() {
        wire::varint(out, 1, 1);
        wire::bytes(out, 3, text.as_bytes());
        return Ok(());
    }
    let integer = value.as_i64().and_then(|integer| i32::try_from(integer).ok());
    let integer = integer.ok_or(Fault::Shape {
        wanted: "a 32-bit integer or a text",
    })?;
    wire::varint(out, 1, 0);
    wire::varint(out, 2, integer.into());
    Ok(())
}

fn time(value: &Value, out: &mut Vec<u8>) -> Result<(), Located> {
    let wanted = "a time as of RFC 3339";
    let timestamp: Timestamp = text(value, wanted)?.parse().map_err(|_| Fault::Shape { wanted })?;
    // Seconds are rounded down and nanoseconds count up from there.
    let nanos = timestamp.as_nanosecond();
    let seconds = nanos.div_euclid(1_000_000_000);
    #[allow(clippy::cast_possible_truncation)] // a jiff timestamp's seconds fit easily
    wire::varint(out, 1, seconds as i64);
    #[allow(clippy::cast_possible_truncation)] // less than a second
    wire::varint(out, 2, nanos.rem_euclid(1_000_000_000) as i64);
    Ok(())
}
