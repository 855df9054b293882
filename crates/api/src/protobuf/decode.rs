//! From messages to JSON values.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Number, Value};

use super::numbers::{self, Numbered};
use super::wire::{Reader, WireError, WireType};
use super::{Fault, Located, MAGIC, ProtobufError};
use crate::quantity::Quantity;
use crate::schema::{Kind, Schema, parse_strict};

/// The fields of an object's message.
pub(super) fn root(schema: Schema<'static>, bytes: &[u8], max_depth: usize) -> Result<Map<String, Value>, ProtobufError> {
    let mut object = Map::new();
    let depth = Depth {
        left: max_depth,
        max_depth,
    };
    fill(schema, bytes, depth.enter()?, &mut object)?;
    Ok(object)
}

/// How deep the object may go on nesting.
#[derive(Clone, Copy)]
struct Depth {
    left: usize,
    max_depth: usize,
}

impl Depth {
    fn enter(self) -> Result<Self, Located> {
        let left = self.left.checked_sub(1).ok_or(Fault::TooDeep { max_depth: self.max_depth })?;
        Ok(Self { left, ..self })
    }
}

/// Reads the fields of a message into an object. A message that comes in
/// parts is one: later scalars win, lists grow.
fn fill(schema: Schema<'static>, bytes: &[u8], depth: Depth, object: &mut Map<String, Value>) -> Result<(), Located> {
    fill_held(numbers::of(schema), 0, bytes, depth, object)
}

/// The same for the fields of one holder.
fn fill_held(fields: &[Numbered], holder: u32, bytes: &[u8], depth: Depth, object: &mut Map<String, Value>) -> Result<(), Located> {
    let mut reader = Reader::new(bytes);
    while let Some((number, wire)) = reader.tag()? {
        if let Ok(index) = fields.binary_search_by_key(&(holder, number), |field| (field.holder, field.number)) {
            let field = &fields[index];
            one(field, wire, &mut reader, depth, object).map_err(|error| error.inside(field.name))?;
        } else if holder == 0 && fields.iter().any(|field| field.holder == number) {
            fill_held(fields, number, reader.bytes(wire)?, depth, object)?;
        } else {
            reader.skip(wire)?;
        }
    }
    Ok(())
}

/// Reads one occurrence of a field.
fn one(field: &Numbered, wire: WireType, reader: &mut Reader<'_>, depth: Depth, object: &mut Map<String, Value>) -> Result<(), Located> {
    match field.schema.kind() {
        Kind::Array(items) => {
            let depth = depth.enter()?;
            let list = object.entry(field.name).or_insert_with(|| Value::Array(Vec::new()));
            if let Value::Array(list) = list {
                append(items, wire, reader, depth, list)?;
            }
        }
        Kind::Map(values) => {
            let (key, value) = entry(values, reader.bytes(wire)?, depth.enter()?)?;
            let map = object.entry(field.name).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(map) = map {
                map.insert(key, value);
            }
        }
        Kind::Object => {
            let inner = object.entry(field.name).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(inner) = inner {
                fill(field.schema, reader.bytes(wire)?, depth.enter()?, inner)?;
            }
        }
        _ => {
            let value = scalar(field.schema, wire, reader, depth)?;
            if value.is_null() || (!field.keeps_zero && is_zero(field.schema, &value)) {
                object.remove(field.name);
            } else {
                object.insert(field.name.to_owned(), value);
            }
        }
    }
    Ok(())
}

/// Whether Go's JSON leaves out this value of a field that may be absent.
/// Structs are never left out, and an `IntOrString` and a quantity are structs.
fn is_zero(schema: Schema<'static>, value: &Value) -> bool {
    match (schema.kind(), value) {
        (Kind::String | Kind::Bytes, Value::String(text)) => text.is_empty(),
        (Kind::Boolean, Value::Bool(set)) => !set,
        (Kind::Int32 | Kind::Int64, Value::Number(number)) => number.as_i64() == Some(0),
        (Kind::Number, Value::Number(number)) => number.as_f64() == Some(0.0),
        _ => false,
    }
}

/// Appends an item of a list, or all of a packed list of numbers.
fn append(items: Schema<'static>, wire: WireType, reader: &mut Reader<'_>, depth: Depth, list: &mut Vec<Value>) -> Result<(), Located> {
    let unpacked = match items.kind() {
        Kind::Int32 | Kind::Int64 | Kind::Boolean => WireType::Varint,
        Kind::Number => WireType::Fixed64,
        _ => WireType::Bytes,
    };
    if wire == WireType::Bytes && unpacked != WireType::Bytes {
        let mut packed = Reader::new(reader.bytes(wire)?);
        while !packed.is_empty() {
            list.push(scalar(items, unpacked, &mut packed, depth)?);
        }
    } else {
        list.push(element(items, wire, reader, depth)?);
    }
    Ok(())
}

/// Key and value of a map: a message with the two as fields 1 and 2.
fn entry(values: Schema<'static>, bytes: &[u8], depth: Depth) -> Result<(String, Value), Located> {
    let (mut key, mut value) = (String::new(), None);
    let mut reader = Reader::new(bytes);
    while let Some((number, wire)) = reader.tag()? {
        match number {
            1 => reader.text(wire)?.clone_into(&mut key),
            2 => value = Some(element(values, wire, &mut reader, depth).map_err(|error| error.inside(&key))?),
            _ => reader.skip(wire)?,
        }
    }
    let value = match value {
        Some(value) => value,
        None => absent(values, depth)?,
    };
    Ok((key, value))
}

/// What an entry without a value holds: the zero of its type.
fn absent(schema: Schema<'static>, depth: Depth) -> Result<Value, Located> {
    match schema.kind() {
        Kind::Int32 | Kind::Int64 => Ok(Value::from(0)),
        Kind::Number => Ok(Value::from(0.0)),
        Kind::Boolean => Ok(Value::Bool(false)),
        // Of all others it is the empty run of bytes, here with its length.
        _ => element(schema, WireType::Bytes, &mut Reader::new(&[0]), depth),
    }
}

/// An item of a list or a value of a map.
fn element(schema: Schema<'static>, wire: WireType, reader: &mut Reader<'_>, depth: Depth) -> Result<Value, Located> {
    match schema.kind() {
        Kind::Object => {
            let mut object = Map::new();
            fill(schema, reader.bytes(wire)?, depth.enter()?, &mut object)?;
            Ok(Value::Object(object))
        }
        // A list in a map is wrapped into a message, as its field 1.
        Kind::Array(items) => {
            let depth = depth.enter()?;
            let mut list = Vec::new();
            let mut wrapped = Reader::new(reader.bytes(wire)?);
            while let Some((number, wire)) = wrapped.tag()? {
                if number == 1 {
                    append(items, wire, &mut wrapped, depth, &mut list)?;
                } else {
                    wrapped.skip(wire)?;
                }
            }
            Ok(Value::Array(list))
        }
        // The wire has no maps in lists and maps; the table's test asserts it.
        Kind::Map(_) => Err(Fault::Shape {
            wanted: "something that can be in a list or a map",
        }
        .into()),
        _ => scalar(schema, wire, reader, depth),
    }
}

/// A value without declared fields.
fn scalar(schema: Schema<'static>, wire: WireType, reader: &mut Reader<'_>, depth: Depth) -> Result<Value, Located> {
    Ok(match schema.kind() {
        Kind::String => Value::from(reader.text(wire)?),
        Kind::Bytes => Value::from(STANDARD.encode(reader.bytes(wire)?)),
        #[allow(clippy::cast_possible_truncation)] // as every reader of the format does
        Kind::Int32 => Value::from(reader.varint(wire)? as i32),
        Kind::Int64 => Value::from(reader.varint(wire)?),
        Kind::Boolean => Value::from(reader.varint(wire)? != 0),
        Kind::Number => {
            let number = reader.double(wire)?;
            Value::Number(Number::from_f64(number).ok_or(Fault::Number(number))?)
        }
        Kind::IntOrString => int_or_string(reader.bytes(wire)?)?,
        Kind::Quantity => match text_field(reader.bytes(wire)?)? {
            "" => Value::from("0"),
            text => {
                text.parse::<Quantity>().map_err(Fault::Quantity)?;
                Value::from(text)
            }
        },
        kind @ (Kind::Time | Kind::MicroTime) => time(reader.bytes(wire)?, kind)?,
        Kind::Any => embedded(reader.bytes(wire)?, depth)?,
        Kind::Object | Kind::Map(_) | Kind::Array(_) => return Err(Fault::Shape { wanted: "a scalar" }.into()),
    })
}

/// `resource.Quantity`: its text, in field 1.
fn text_field(bytes: &[u8]) -> Result<&str, WireError> {
    let (mut reader, mut text) = (Reader::new(bytes), "");
    while let Some((number, wire)) = reader.tag()? {
        if number == 1 {
            text = reader.text(wire)?;
        } else {
            reader.skip(wire)?;
        }
    }
    Ok(text)
}

/// `intstr.IntOrString`: `type`, `intVal`, `strVal`.
fn int_or_string(bytes: &[u8]) -> Result<Value, Fault> {
    let (mut reader, mut which, mut integer, mut text) = (Reader::new(bytes), 0, 0, "");
    while let Some((number, wire)) = reader.tag()? {
        match number {
            1 => which = reader.varint(wire)?,
            2 => integer = reader.varint(wire)?,
            3 => text = reader.text(wire)?,
            _ => reader.skip(wire)?,
        }
    }
    match which {
        #[allow(clippy::cast_possible_truncation)] // as every reader of the format does
        0 => Ok(Value::from(integer as i32)),
        1 => Ok(Value::from(text)),
        other => Err(Fault::IntOrString(other)),
    }
}

/// `metav1.Time` and `MicroTime`: seconds and nanoseconds. No bytes at all are
/// no time. Source: upstream `meta/v1/time_proto.go`, `micro_time_proto.go`.
fn time(bytes: &[u8], kind: Kind) -> Result<Value, Fault> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let (mut reader, mut seconds, mut nanos) = (Reader::new(bytes), 0, 0);
    while let Some((number, wire)) = reader.tag()? {
        match number {
            1 => seconds = reader.varint(wire)?,
            2 => nanos = reader.varint(wire)?,
            _ => reader.skip(wire)?,
        }
    }
    let micros = if kind == Kind::Time {
        0
    } else {
        nanos.clamp(0, 999_999_999) / 1_000
    };
    #[allow(clippy::cast_possible_truncation)] // less than a second by the clamp
    let timestamp = Timestamp::new(seconds, (micros * 1_000) as i32).map_err(|_| Fault::Time { seconds })?;
    Ok(Value::from(if kind == Kind::Time {
        format!("{timestamp:.0}")
    } else {
        format!("{timestamp:.6}")
    }))
}

/// `RawExtension` and `FieldsV1`: JSON, or an object in its own envelope, in
/// field 1.
fn embedded(bytes: &[u8], depth: Depth) -> Result<Value, Fault> {
    let (mut reader, mut raw): (_, &[u8]) = (Reader::new(bytes), &[]);
    while let Some((number, wire)) = reader.tag()? {
        if number == 1 {
            raw = reader.bytes(wire)?;
        } else {
            reader.skip(wire)?;
        }
    }
    if raw.is_empty() {
        return Ok(Value::Null);
    }
    if raw.starts_with(MAGIC) {
        let nested = super::decode(raw, depth.left).map_err(|error| Fault::Nested(Box::new(error)))?;
        return Ok(nested.1);
    }
    let (value, _) = parse_strict(raw, depth.left).map_err(Fault::Embedded)?;
    Ok(value)
}
