//! Schemas of kinds: the table of the built-in ones, Kubernetes v1.33, and
//! tables made at run time of the documents that declare other kinds.
//!
//! Unknown fields, pruning, type checks, strategic-merge keys and
//! server-side-apply list types all come from one table. The built-in one is
//! generated (`cargo xtask schema`) from the published OpenAPI document; what
//! that document is silent about is added in [`defaults`](apply_defaults) and
//! in the table of named string types.
//!
//! Reading order: [`Schema`], [`Field`], [`Root`] (what a kind's owner keeps),
//! then `walk.rs` (unknown fields and normal form), `check.rs` (type errors in
//! Go's words), `parse.rs` (JSON with duplicate keys reported), `table.rs` (the
//! arena), `document.rs` (a table from a document) and `declared.rs` (what that
//! document does not allow), `describe.rs` (what people read of it).
//!
//! The built-in table is decoded at first use. Its names stay in the program
//! image; a field costs 32 bytes.

mod check;
mod declared;
mod defaults;
mod describe;
mod document;
mod parse;
mod table;
mod walk;

pub use check::{ShapeError, check};
pub use declared::violations;
pub use defaults::apply_defaults;
pub use describe::{Described, Descriptions, scalar_name};
pub use document::{DocumentError, declare};
pub use parse::{ParseError, parse_strict};
pub use walk::{normalize, prune, unknown_fields};

use std::borrow::Cow;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use serde_json::Value;

use table::{Node, TABLE, Table};

/// The shape of a value: a handle into a table.
#[derive(Clone, Copy)]
pub struct Schema<'t> {
    table: &'t Table,
    node: u32,
}

/// The schema of a kind as its owner keeps it: in the built-in table, or with
/// the table that was made for it.
#[derive(Clone)]
pub struct Root(Home);

#[derive(Clone)]
enum Home {
    BuiltIn(Schema<'static>),
    Made(Arc<Table>, u32),
}

/// What a value of a [`Schema`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind<'t> {
    /// An object with declared fields: see [`Schema::fields`].
    Object,
    /// An object with any keys and values of one schema.
    Map(Schema<'t>),
    /// A list of one schema.
    Array(Schema<'t>),
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
pub struct Field<'t> {
    /// Shape of its value.
    pub schema: Schema<'t>,
    /// How a strategic merge patch treats it.
    pub patch: PatchStrategy,
    /// How server-side apply owns it; `None` is atomic for lists.
    pub list_type: Option<ListType>,
    /// Keys of the items of a [`ListType::Map`].
    pub list_map_keys: &'t [Cow<'static, str>],
    /// Server-side apply owns the object or map as a whole.
    pub atomic: bool,
    /// What an absent field is given.
    pub default: Option<&'t Value>,
}

/// The schema of a definition of the built-in table, such as
/// `io.k8s.api.core.v1.Pod`. `None` when the table does not hold it.
#[must_use]
pub fn named(definition: &str) -> Option<Schema<'static>> {
    TABLE.find(definition).map(|node| TABLE.schema(node))
}

/// The schema of a built-in kind. `None` when the table does not hold it.
#[must_use]
pub fn for_kind(group: &str, version: &str, kind: &str) -> Option<Schema<'static>> {
    TABLE.find_kind(group, version, kind).map(|node| TABLE.schema(node))
}

impl From<Schema<'static>> for Root {
    /// Of a built-in kind.
    fn from(schema: Schema<'static>) -> Self {
        Self(Home::BuiltIn(schema))
    }
}

impl Root {
    /// The schema.
    #[must_use]
    pub fn schema(&self) -> Schema<'_> {
        match &self.0 {
            Home::BuiltIn(schema) => *schema,
            Home::Made(table, node) => table.schema(*node),
        }
    }
}

impl<'t> Schema<'t> {
    /// What a value is.
    #[must_use]
    pub fn kind(self) -> Kind<'t> {
        match self.table.node(self.node) {
            Node::Object(_) => Kind::Object,
            Node::Map(values) => Kind::Map(self.table.schema(values)),
            Node::Array(items) => Kind::Array(self.table.schema(items)),
            Node::Scalar(kind) => kind,
            Node::BuiltIn(node) => TABLE.schema(node).kind(),
        }
    }

    /// Name of the definition, such as `io.k8s.api.core.v1.Pod`; objects alone
    /// have one, and of tables made at run time only those with a kind.
    #[must_use]
    pub fn name(self) -> Option<&'t str> {
        self.table
            .definition(self.node)
            .map(|d| d.name.as_ref())
            .filter(|name| !name.is_empty())
    }

    /// Whether it is of the built-in table: the one that states how lists are
    /// merged by strategic merge patches, and has a protobuf form.
    #[must_use]
    pub fn is_built_in(self) -> bool {
        std::ptr::eq(self.table, &*TABLE)
    }

    /// The declared field of this name. `None` when there is none, and for
    /// everything but objects.
    #[must_use]
    pub fn field(self, name: &str) -> Option<Field<'t>> {
        self.table.field(self.node, name)
    }

    /// All declared fields, by name.
    pub fn fields(self) -> impl Iterator<Item = (&'t str, Field<'t>)> {
        self.table.fields(self.node)
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
    pub fn required(self) -> &'t [Cow<'static, str>] {
        self.table.required(self.node)
    }

    /// Server-side apply owns objects of this definition as a whole.
    #[must_use]
    pub fn atomic(self) -> bool {
        self.table.definition(self.node).is_some_and(|d| d.atomic)
    }

    /// Group, version and kind, for definitions that are API objects.
    #[must_use]
    pub fn group_version_kind(self) -> Option<(&'t str, &'t str, &'t str)> {
        let (group, version, kind) = self.table.definition(self.node)?.kind.as_ref()?;
        Some((group, version, kind))
    }

    /// The schema of another kind: from the same table, such as the list of
    /// this kind, or else a built-in one.
    #[must_use]
    pub fn beside(self, group: &str, version: &str, kind: &str) -> Option<Self> {
        let here = self.table.find_kind(group, version, kind).map(|node| self.table.schema(node));
        here.or_else(|| for_kind(group, version, kind))
    }
}

impl PartialEq for Schema<'_> {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.table, other.table) && self.node == other.node
    }
}

impl Eq for Schema<'_> {}

impl Hash for Schema<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        std::ptr::hash(self.table, state);
        self.node.hash(state);
    }
}

impl std::fmt::Debug for Schema<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.name(), self.kind()) {
            (Some(name), _) => write!(f, "Schema({name})"),
            (None, Kind::Map(values)) => write!(f, "Schema({{}}{values:?})"),
            (None, Kind::Array(items)) => write!(f, "Schema([]{items:?})"),
            (None, scalar) => write!(f, "Schema({scalar:?})"),
        }
    }
}

impl std::fmt::Debug for Root {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.schema().fmt(f)
    }
}

#[cfg(test)]
mod tests;
