//! The schema table of the built-in kinds: Kubernetes v1.33.
//!
//! Unknown fields, pruning, type checks, strategic-merge keys and
//! server-side-apply list types all come from this one table. It is generated
//! (`cargo xtask schema`) from the published OpenAPI document; what that
//! document is silent about is added in [`defaults`](apply_defaults) and in
//! the table of named string types.
//!
//! Reading order: [`Schema`], [`Field`], then `walk.rs` (unknown fields and
//! normal form), `check.rs` (type errors in Go's words), `parse.rs` (JSON with
//! duplicate keys reported), `table.rs` (the arena), `describe.rs` (what
//! people read of it).
//!
//! The table is decoded at first use. Names stay in the program image; a
//! field costs 24 bytes.

mod check;
mod defaults;
mod describe;
mod parse;
mod table;
mod walk;

pub use check::{ShapeError, check};
pub use defaults::{FieldDefault, apply_defaults};
pub use describe::{Described, Descriptions, scalar_name};
pub use parse::{ParseError, parse_strict};
pub use walk::{normalize, prune, unknown_fields};

use table::{Node, TABLE};

/// The shape of a value: a handle into the built-in table.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Schema(u32);

/// What a value of a [`Schema`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// An object with declared fields: see [`Schema::fields`].
    Object,
    /// An object with any keys and values of one schema.
    Map(Schema),
    /// A list of one schema.
    Array(Schema),
    /// Text.
    String,
    /// Bytes as base64 text.
    Bytes,
    /// A 32-bit integer.
    Int32,
    /// A 64-bit integer.
    Int64,
    /// A floating point number.
    Number,
    /// True or false.
    Boolean,
    /// A number or a text: `intstr.IntOrString`.
    IntOrString,
    /// A number or a text of the quantity grammar.
    Quantity,
    /// RFC 3339 text in whole seconds: `metav1.Time`.
    Time,
    /// RFC 3339 text with six fractional digits: `metav1.MicroTime`.
    MicroTime,
    /// Anything; nothing in it is unknown.
    Any,
}

/// How a strategic merge patch treats a field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PatchStrategy {
    /// Lists are merged by [`merge_key`](Self::merge_key), or as sets without one.
    pub merge: bool,
    /// `$retainKeys` is honoured: keys it does not name are cleared.
    pub retain_keys: bool,
    /// The value is replaced as a whole, even where objects are merged.
    pub replace: bool,
    /// The key that tells the items of a merged list apart.
    pub merge_key: Option<&'static str>,
}

/// How server-side apply owns a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListType {
    /// As a whole.
    Atomic,
    /// By item, each scalar once.
    Set,
    /// By item, each told apart by [`Field::list_map_keys`].
    Map,
}

/// A declared field of an object.
#[derive(Clone, Copy)]
pub struct Field {
    /// Shape of its value.
    pub schema: Schema,
    /// How a strategic merge patch treats it.
    pub patch: PatchStrategy,
    /// How server-side apply owns it; `None` is atomic for lists.
    pub list_type: Option<ListType>,
    /// Keys of the items of a [`ListType::Map`].
    pub list_map_keys: &'static [&'static str],
    /// Server-side apply owns the object or map as a whole.
    pub atomic: bool,
    /// What the published schema gives an absent field.
    pub default: Option<FieldDefault>,
}

/// The schema of a definition of the OpenAPI document, such as
/// `io.k8s.api.core.v1.Pod`. `None` when the table does not hold it.
#[must_use]
pub fn named(definition: &str) -> Option<Schema> {
    TABLE.find(definition)
}

/// The schema of a built-in kind. `None` when the table does not hold it.
#[must_use]
pub fn for_kind(group: &str, version: &str, kind: &str) -> Option<Schema> {
    TABLE.find_kind(group, version, kind)
}

impl Schema {
    /// What a value is.
    #[must_use]
    pub fn kind(self) -> Kind {
        match TABLE.node(self) {
            Node::Object(_) => Kind::Object,
            Node::Map(values) => Kind::Map(values),
            Node::Array(items) => Kind::Array(items),
            Node::Scalar(kind) => kind,
        }
    }

    /// Name of the definition, such as `io.k8s.api.core.v1.Pod`; objects alone
    /// have one.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        TABLE.definition(self).map(|d| d.name)
    }

    /// The declared field of this name. `None` when there is none, and for
    /// everything but objects.
    #[must_use]
    pub fn field(self, name: &str) -> Option<Field> {
        TABLE.field(self, name)
    }

    /// All declared fields, by name.
    pub fn fields(self) -> impl Iterator<Item = (&'static str, Field)> {
        TABLE.fields(self)
    }

    /// Schema of the items of an array.
    #[must_use]
    pub fn items(self) -> Option<Self> {
        if let Kind::Array(items) = self.kind() { Some(items) } else { None }
    }

    /// Schema of the values of a map.
    #[must_use]
    pub fn values(self) -> Option<Self> {
        if let Kind::Map(values) = self.kind() { Some(values) } else { None }
    }

    /// Names of the fields that must be present.
    #[must_use]
    pub fn required(self) -> &'static [&'static str] {
        TABLE.required(self)
    }

    /// Server-side apply owns objects of this definition as a whole.
    #[must_use]
    pub fn atomic(self) -> bool {
        TABLE.definition(self).is_some_and(|d| d.atomic)
    }

    /// Group, version and kind, for definitions that are API objects.
    #[must_use]
    pub fn group_version_kind(self) -> Option<(&'static str, &'static str, &'static str)> {
        TABLE.definition(self).and_then(|d| d.kind)
    }
}

impl std::fmt::Debug for Schema {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.name(), self.kind()) {
            (Some(name), _) => write!(f, "Schema({name})"),
            (None, Kind::Map(values)) => write!(f, "Schema({{}}{values:?})"),
            (None, Kind::Array(items)) => write!(f, "Schema([]{items:?})"),
            (None, scalar) => write!(f, "Schema({scalar:?})"),
        }
    }
}

#[cfg(test)]
mod tests;
