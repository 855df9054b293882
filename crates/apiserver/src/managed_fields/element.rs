//! One step of a field's path.

use std::cmp::Ordering;
use std::fmt;

use serde_json::Value;

/// One step of a field's path.
///
/// The order of the variants is that of upstream's `PathElement.Compare`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Element {
    /// A field of an object, or a key of a map.
    Field(Box<str>),
    /// An item of a list whose items are told apart by some of their fields,
    /// sorted by name.
    Key(Vec<(Box<str>, Scalar)>),
    /// An item of a list of scalars.
    Value(Scalar),
    /// An item of a list by its place. We write none; others may have.
    Index(i64),
}

/// A JSON value in a path, ordered as upstream's `value.Compare` does: numbers,
/// texts, booleans, lists, objects, null.
#[derive(Clone, Debug)]
pub(crate) struct Scalar(pub(crate) Value);

/// A path element that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the path element {0:?} of managedFields cannot be read")]
pub(crate) struct Unreadable(String);

impl PartialEq for Scalar {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Scalar {}

impl PartialOrd for Scalar {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scalar {
    fn cmp(&self, other: &Self) -> Ordering {
        compare(&self.0, &other.0)
    }
}

fn rank(value: &Value) -> u8 {
    match value {
        Value::Number(_) => 0,
        Value::String(_) => 1,
        Value::Bool(_) => 2,
        Value::Array(_) => 3,
        Value::Object(_) => 4,
        Value::Null => 5,
    }
}

fn compare(left: &Value, right: &Value) -> Ordering {
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => match (left.as_i64(), right.as_i64()) {
            (Some(left), Some(right)) => left.cmp(&right),
            _ => left.as_f64().unwrap_or(0.0).total_cmp(&right.as_f64().unwrap_or(0.0)),
        },
        (Value::String(left), Value::String(right)) => left.cmp(right),
        (Value::Bool(left), Value::Bool(right)) => left.cmp(right),
        (Value::Array(left), Value::Array(right)) => {
            let items = left.iter().zip(right).map(|(left, right)| compare(left, right));
            items.fold(Ordering::Equal, Ordering::then).then(left.len().cmp(&right.len()))
        }
        (Value::Object(left), Value::Object(right)) => {
            let entries = left
                .iter()
                .zip(right)
                .map(|(left, right)| left.0.cmp(right.0).then_with(|| compare(left.1, right.1)));
            entries.fold(Ordering::Equal, Ordering::then).then(left.len().cmp(&right.len()))
        }
        _ => rank(left).cmp(&rank(right)),
    }
}

impl Element {
    /// A field of an object, or a key of a map.
    pub(crate) fn field(name: &str) -> Self {
        Self::Field(name.into())
    }

    /// As a key of `fieldsV1`.
    pub(crate) fn wire(&self) -> String {
        match self {
            Self::Field(name) => format!("f:{name}"),
            Self::Key(fields) => {
                let mut text = "k:{".to_owned();
                for (place, (name, value)) in fields.iter().enumerate() {
                    let comma = if place == 0 { "" } else { "," };
                    text.push_str(&format!("{comma}{}:{}", Value::from(&**name), value.0));
                }
                text.push('}');
                text
            }
            Self::Value(value) => format!("v:{}", value.0),
            Self::Index(index) => format!("i:{index}"),
        }
    }

    /// Reads a key of `fieldsV1`; `None` for a kind of element that is not
    /// known, which upstream skips for the sake of later versions.
    pub(crate) fn read(text: &str) -> Result<Option<Self>, Unreadable> {
        let unreadable = || Unreadable(text.to_owned());
        let (kind, rest) = text
            .split_at_checked(2)
            .filter(|(kind, _)| kind.ends_with(':'))
            .ok_or_else(unreadable)?;
        Ok(match kind {
            "f:" => Some(Self::field(rest)),
            "v:" => Some(Self::Value(Scalar(serde_json::from_str(rest).map_err(|_| unreadable())?))),
            "i:" => Some(Self::Index(rest.parse().map_err(|_| unreadable())?)),
            "k:" => {
                let fields: serde_json::Map<String, Value> = serde_json::from_str(rest).map_err(|_| unreadable())?;
                let mut fields: Vec<_> = fields.into_iter().map(|(name, value)| (name.into(), Scalar(value))).collect();
                fields.sort();
                Some(Self::Key(fields))
            }
            _ => None,
        })
    }
}

impl fmt::Display for Element {
    /// As conflicts and errors name it: `.spec`, `[name="a"]`, `[="x"]`, `[3]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(name) => write!(f, ".{name}"),
            Self::Key(fields) => {
                f.write_str("[")?;
                for (place, (name, value)) in fields.iter().enumerate() {
                    let comma = if place == 0 { "" } else { "," };
                    write!(f, "{comma}{name}={}", value.0)?;
                }
                f.write_str("]")
            }
            Self::Value(value) => write!(f, "[={}]", value.0),
            Self::Index(index) => write!(f, "[{index}]"),
        }
    }
}
