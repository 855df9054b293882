//! Objects in `application/vnd.kubernetes.protobuf`, to and from JSON values.
//!
//! The schema table says what a field is, a second table under which number it
//! goes over the wire; nothing here knows any kind. Both directions follow
//! what upstream's Go types do: what [`decode`] returns is what a client would
//! have sent as JSON.
//!
//! Reading order: this file (the envelope), `numbers.rs` (the table),
//! `decode.rs`, `encode.rs`, `answer.rs` (objects, lists and watch frames as
//! the server has them), `wire.rs` (bytes), `write.rs` (other messages).
//!
//! Source: Kubernetes "API concepts", "Kubernetes Protobuf encoding";
//! upstream `apimachinery/pkg/runtime/serializer/protobuf/protobuf.go`.

mod answer;
mod decode;
mod encode;
mod numbers;
mod wire;
pub mod write;

use serde_json::Value;

use crate::TypeMeta;
use crate::quantity::QuantityError;
use crate::schema::{ParseError, Schema, for_kind, named};

pub use answer::{frame, list, object, partial, partial_list};
pub use wire::WireError;

/// The media type of these bytes.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";
/// What every body begins with.
const MAGIC: &[u8] = b"k8s\0";
/// Of `runtime.Unknown`: `typeMeta`, `raw`, `contentEncoding`, `contentType`.
const UNKNOWN: (u32, u32, u32, u32) = (1, 2, 3, 4);
/// Of `runtime.TypeMeta`: `apiVersion`, `kind`.
const TYPE_META: (u32, u32) = (1, 2);

/// Why bytes are no object, or an object has no bytes.
#[derive(Debug, thiserror::Error)]
pub enum ProtobufError {
    /// The first four bytes are something else.
    #[error("the body does not begin with the four bytes \"k8s\\0\" of Kubernetes protobuf")]
    Magic,
    /// The message around the object.
    #[error("the envelope of the body is not a runtime.Unknown: {0}")]
    Envelope(#[source] WireError),
    /// The object's bytes are compressed, or of another format.
    #[error("the object in the envelope is of the content encoding {encoding:?} and content type {content_type:?}; send plain protobuf")]
    Content {
        /// `contentEncoding`.
        encoding: String,
        /// `contentType`.
        content_type: String,
    },
    /// A kind without field numbers.
    #[error("the kind {:?} of {:?} has no protobuf form here; send JSON", types.kind, types.api_version)]
    Kind {
        /// What the object says it is.
        types: TypeMeta,
    },
    /// A field.
    #[error("{}{fault}", if path.is_empty() { String::new() } else { format!("{path}: ") })]
    Field {
        /// Its path in JSON; items of lists are not told apart.
        path: String,
        /// What is wrong with it.
        #[source]
        fault: Fault,
    },
}

/// What is wrong with a field.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// Its bytes.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// Too many levels of messages, lists and maps.
    #[error("the object nests deeper than {max_depth} levels")]
    TooDeep {
        /// The limit.
        max_depth: usize,
    },
    /// An `IntOrString` that is neither.
    #[error("the type {0} of an IntOrString is neither 0 (a number) nor 1 (a text)")]
    IntOrString(i64),
    /// A text that is no quantity.
    #[error("{0}")]
    Quantity(#[source] QuantityError),
    /// A time before year -9999 or after 9999.
    #[error("{seconds} seconds since 1970 is not a time that can be written down")]
    Time {
        /// Seconds since the epoch.
        seconds: i64,
    },
    /// Infinite, or not a number.
    #[error("the number {0} cannot be expressed in JSON")]
    Number(f64),
    /// JSON within the message.
    #[error("the embedded object: {0}")]
    Embedded(#[source] ParseError),
    /// An object in its own envelope within the message.
    #[error("the embedded object: {0}")]
    Nested(#[source] Box<ProtobufError>),
    /// A value that is not of its field's type.
    #[error("the value is not {wanted}")]
    Shape {
        /// What it should be.
        wanted: &'static str,
    },
    /// A field the schema does not declare.
    #[error("the field {0:?} is not known")]
    UnknownField(String),
}

/// A fault, and the path to it so far.
struct Located {
    path: String,
    fault: Fault,
}

impl<F: Into<Fault>> From<F> for Located {
    fn from(fault: F) -> Self {
        Self {
            path: String::new(),
            fault: fault.into(),
        }
    }
}

impl Located {
    fn inside(mut self, name: &str) -> Self {
        if !self.path.is_empty() {
            self.path.insert(0, '.');
        }
        self.path.insert_str(0, name);
        self
    }
}

impl From<Located> for ProtobufError {
    fn from(Located { path, fault }: Located) -> Self {
        Self::Field { path, fault }
    }
}

/// The schema of a kind that has field numbers. `DeleteOptions` belongs to
/// every group.
fn schema_of(types: &TypeMeta) -> Option<Schema<'static>> {
    let (group, version) = types.api_version.split_once('/').unwrap_or(("", &types.api_version));
    let anywhere = || (types.kind == "DeleteOptions").then(|| named("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions"))?;
    for_kind(group, version, &types.kind)
        .or_else(anywhere)
        .filter(|schema| !numbers::of(*schema).is_empty())
}

/// Whether [`encode`] knows the kind.
#[must_use]
pub fn knows(types: &TypeMeta) -> bool {
    schema_of(types).is_some()
}

/// The object of a request body, with `apiVersion` and `kind` in it.
///
/// Absent fields are absent. So are zero values where Go writes a field
/// whatever it holds and JSON would leave it out. Numbers nobody knows are
/// skipped.
///
/// # Errors
/// On bytes that are not an object of a known kind, and on messages, lists and
/// maps nested deeper than `max_depth`.
pub fn decode(bytes: &[u8], max_depth: usize) -> Result<(TypeMeta, Value), ProtobufError> {
    let envelope = Envelope::read(bytes)?;
    let types = envelope.types;
    let Some(schema) = schema_of(&types) else {
        return Err(ProtobufError::Kind { types });
    };
    let mut object = decode::root(schema, envelope.raw, max_depth)?;
    for (name, text) in [("apiVersion", &types.api_version), ("kind", &types.kind)] {
        if !text.is_empty() {
            object.insert(name.to_owned(), Value::from(text.as_str()));
        }
    }
    Ok((types, Value::Object(object)))
}

/// The bytes of an object, which says its `apiVersion` and `kind`. Null and
/// absent are the same; empty lists and maps are not written.
///
/// # Errors
/// On a kind without field numbers, and on values that are not of their type.
pub fn encode(object: &Value) -> Result<Vec<u8>, ProtobufError> {
    let text = |name: &str| object.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let types = TypeMeta {
        api_version: text("apiVersion"),
        kind: text("kind"),
    };
    let Some(schema) = schema_of(&types) else {
        return Err(ProtobufError::Kind { types });
    };
    sealed(&types, |out| encode::message(schema, object, out))
}

/// An envelope around what `raw` writes.
fn sealed(types: &TypeMeta, raw: impl FnOnce(&mut Vec<u8>) -> Result<(), Located>) -> Result<Vec<u8>, ProtobufError> {
    let mut out = MAGIC.to_vec();
    wire::message(&mut out, UNKNOWN.0, |out| {
        wire::bytes(out, TYPE_META.0, types.api_version.as_bytes());
        wire::bytes(out, TYPE_META.1, types.kind.as_bytes());
        Ok::<(), Located>(())
    })?;
    wire::message(&mut out, UNKNOWN.1, raw)?;
    wire::bytes(&mut out, UNKNOWN.2, b"");
    wire::bytes(&mut out, UNKNOWN.3, b"");
    Ok(out)
}

/// `runtime.Unknown`, which carries every object.
struct Envelope<'a> {
    types: TypeMeta,
    raw: &'a [u8],
}

impl<'a> Envelope<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, ProtobufError> {
        let bytes = bytes.strip_prefix(MAGIC).ok_or(ProtobufError::Magic)?;
        let mut envelope = Self {
            types: TypeMeta::default(),
            raw: &[],
        };
        let (mut encoding, mut content_type) = (String::new(), String::new());
        envelope
            .fill(bytes, &mut encoding, &mut content_type)
            .map_err(ProtobufError::Envelope)?;
        if encoding.is_empty() && matches!(content_type.as_str(), "" | MEDIA_TYPE) {
            Ok(envelope)
        } else {
            Err(ProtobufError::Content { encoding, content_type })
        }
    }

    fn fill(&mut self, bytes: &'a [u8], encoding: &mut String, content_type: &mut String) -> Result<(), WireError> {
        let mut reader = wire::Reader::new(bytes);
        while let Some((number, wire)) = reader.tag()? {
            if number == UNKNOWN.0 {
                let mut reader = wire::Reader::new(reader.bytes(wire)?);
                while let Some((number, wire)) = reader.tag()? {
                    if number == TYPE_META.0 {
                        reader.text(wire)?.clone_into(&mut self.types.api_version);
                    } else if number == TYPE_META.1 {
                        reader.text(wire)?.clone_into(&mut self.types.kind);
                    } else {
                        reader.skip(wire)?;
                    }
                }
            } else if number == UNKNOWN.1 {
                self.raw = reader.bytes(wire)?;
            } else if number == UNKNOWN.2 {
                reader.text(wire)?.clone_into(encoding);
            } else if number == UNKNOWN.3 {
                reader.text(wire)?.clone_into(content_type);
            } else {
                reader.skip(wire)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
