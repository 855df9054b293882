//! JSON with duplicate keys reported.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fmt;

use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::map::Entry;
use serde_json::{Map, Number, Value};

use super::walk::{MAX_STRICT_ERRORS, push_field, push_index};

/// A body that could not be read as JSON.
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    /// Not JSON.
    #[error("the body is not JSON: {0}")]
    Syntax(serde_json::Error),
    /// Objects and arrays nested too deep.
    #[error("the body nests objects and arrays deeper than {max_depth} levels")]
    TooDeep {
        /// The limit.
        max_depth: usize,
    },
}

/// Reads JSON. Beside the value, in which the last of several equal keys wins,
/// it returns upstream's errors for duplicates: `duplicate field "spec.x"`, at
/// most 100.
///
/// # Errors
/// On bytes that are not one JSON value, and on objects and arrays nested
/// deeper than `max_depth`, or than 127 in any case.
pub fn parse_strict(bytes: &[u8], max_depth: usize) -> Result<(Value, Vec<String>), ParseError> {
    let reader = Reader {
        path: RefCell::default(),
        duplicates: RefCell::default(),
        too_deep: Cell::new(false),
    };
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = Element {
        reader: &reader,
        levels_left: max_depth,
    }
    .deserialize(&mut deserializer)
    .and_then(|value| deserializer.end().map(|()| value));
    match value {
        Ok(value) => Ok((value, reader.duplicates.into_inner())),
        Err(_) if reader.too_deep.get() => Err(ParseError::TooDeep { max_depth }),
        Err(error) => Err(ParseError::Syntax(error)),
    }
}

struct Reader {
    path: RefCell<String>,
    duplicates: RefCell<Vec<String>>,
    too_deep: Cell<bool>,
}

impl Reader {
    fn duplicate(&self) {
        let mut duplicates = self.duplicates.borrow_mut();
        let text = format!("duplicate field \"{}\"", self.path.borrow());
        if duplicates.len() < MAX_STRICT_ERRORS && !duplicates.contains(&text) {
            duplicates.push(text);
        }
    }
}

#[derive(Clone, Copy)]
struct Element<'r> {
    reader: &'r Reader,
    levels_left: usize,
}

impl Element<'_> {
    fn descend<E: serde::de::Error>(self) -> Result<Self, E> {
        let levels_left = self.levels_left.checked_sub(1).ok_or_else(|| {
            self.reader.too_deep.set(true);
            E::custom("nested too deep")
        })?;
        Ok(Self { levels_left, ..self })
    }
}

impl<'de> DeserializeSeed<'de> for Element<'_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Element<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value)
            .map(Value::Number)
            .ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let element = self.descend()?;
        let length = self.reader.path.borrow().len();
        let mut items = Vec::new();
        loop {
            push_index(&mut self.reader.path.borrow_mut(), items.len());
            let item = seq.next_element_seed(element)?;
            self.reader.path.borrow_mut().truncate(length);
            match item {
                Some(item) => items.push(item),
                None => return Ok(Value::Array(items)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let element = self.descend()?;
        let length = self.reader.path.borrow().len();
        let mut object = Map::new();
        let mut seen = BTreeSet::new();
        while let Some(key) = map.next_key::<String>()? {
            push_field(&mut self.reader.path.borrow_mut(), &key);
            let entry = object.entry(key);
            if let Entry::Occupied(known) = &entry
                && seen.insert(known.key().clone())
            {
                self.reader.duplicate();
            }
            let value = map.next_value_seed(element)?;
            self.reader.path.borrow_mut().truncate(length);
            match entry {
                Entry::Vacant(place) => drop(place.insert(value)),
                Entry::Occupied(mut known) => drop(known.insert(value)),
            }
        }
        Ok(Value::Object(object))
    }
}

impl ParseError {
    /// Whether the body was cut off: it ended inside a value.
    #[must_use]
    pub fn is_eof(&self) -> bool {
        matches!(self, Self::Syntax(error) if error.is_eof())
    }
}
