//! The arena of a table: the built-in one is decoded into it, others are built
//! by [`document`](super::document).

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::LazyLock;

use serde::Deserialize;
use serde_json::Value;

use super::{Described, Field, Kind, ListType, PatchStrategy, Schema, defaults};

const SOURCE: &str = include_str!("v1_33.jsonl");

/// The built-in table.
pub(super) static TABLE: LazyLock<Table> = LazyLock::new(|| {
    // The file is generated, committed and decoded by this crate's tests.
    Table::decode(SOURCE).expect("the committed schema table decodes: its test does it")
});

/// A name: in the program image, or of a table that was made at run time.
pub(super) type Name = Cow<'static, str>;

/// Group, version and kind.
pub(super) type GroupVersionKind = (Name, Name, Name);

/// What a [`Schema`] stands for. Indices are into the nodes of the same table,
/// unless they say otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Node {
    /// Index into the definitions.
    Object(u32),
    Map(u32),
    Array(u32),
    Scalar(Kind<'static>),
    /// A node of the built-in table.
    BuiltIn(u32),
}

/// An object with declared fields.
#[derive(Default)]
pub(super) struct Definition {
    /// Empty for an object that is written where it is used.
    pub(super) name: Name,
    pub(super) kind: Option<GroupVersionKind>,
    pub(super) atomic: bool,
    /// Into `Table::fields`, sorted by name.
    fields: Range<u32>,
    /// Into `Table::names`.
    required: Range<u32>,
    /// What people read of it; the built-in table has that elsewhere.
    pub(super) described: Option<Box<Described>>,
}

/// A declared field; most have no extras.
struct Row {
    name: Name,
    node: u32,
    /// One more than the index into `Table::extras`; 0 is none.
    extras: u32,
}

/// What few fields have.
#[derive(Default)]
pub(super) struct Extras {
    pub(super) patch: PatchStrategy,
    pub(super) list_type: Option<ListType>,
    /// Names of the keys of a list that is a map.
    pub(super) keys: Box<[Name]>,
    pub(super) atomic: bool,
    pub(super) default: Option<Value>,
}

impl Extras {
    fn is_empty(&self) -> bool {
        self.patch == PatchStrategy::default() && self.list_type.is_none() && self.keys.is_empty() && !self.atomic && self.default.is_none()
    }
}

/// An object on its way into a table.
#[derive(Default)]
pub(super) struct Draft {
    pub(super) name: Name,
    pub(super) kind: Option<GroupVersionKind>,
    pub(super) atomic: bool,
    /// The node of each field, and what else is known of it.
    pub(super) fields: BTreeMap<Name, (u32, Extras)>,
    pub(super) required: Vec<Name>,
    pub(super) described: Option<Box<Described>>,
}

/// Definitions with their fields. Of the built-in table they are sorted by
/// name, and definition `i` is node `i`.
#[derive(Default)]
pub(super) struct Table {
    definitions: Vec<Definition>,
    nodes: Vec<Node>,
    interned: HashMap<Node, u32>,
    fields: Vec<Row>,
    extras: Vec<Extras>,
    names: Vec<Name>,
}

/// Why a table could not be decoded.
#[derive(Debug, thiserror::Error)]
pub(super) enum TableError {
    #[error("line {line} of the schema table")]
    Line {
        line: usize,
        #[source]
        source: serde_json::Error,
    },
    #[error("definition {name} of the schema table is out of order")]
    Order { name: &'static str },
    #[error("field {field} of {definition} has the type {type_name:?}, which is neither a scalar nor a definition")]
    Type {
        definition: &'static str,
        field: &'static str,
        type_name: &'static str,
    },
    #[error("field {field} of {definition} has the list type or patch strategy {word:?}")]
    Word {
        definition: &'static str,
        field: &'static str,
        word: &'static str,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    definition: &'a str,
    #[serde(borrow)]
    fields: BTreeMap<&'a str, LineField<'a>>,
    #[serde(borrow, default)]
    kind: Option<(&'a str, &'a str, &'a str)>,
    #[serde(borrow, default)]
    required: Vec<&'a str>,
    #[serde(default)]
    atomic: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct LineField<'a> {
    r#type: &'a str,
    #[serde(borrow, default)]
    patch: Option<&'a str>,
    #[serde(borrow, default)]
    merge_key: Option<&'a str>,
    #[serde(borrow, default)]
    list: Option<&'a str>,
    #[serde(borrow, default)]
    keys: Vec<&'a str>,
    #[serde(default)]
    atomic: bool,
}

fn index(len: usize) -> u32 {
    u32::try_from(len).expect("a table is a few thousand rows: compiled in, or made of a document of limited size")
}

impl Table {
    pub(super) fn decode(source: &'static str) -> Result<Self, TableError> {
        #[derive(Deserialize)]
        struct DefinitionName<'a> {
            definition: &'a str,
        }
        let mut table = Self::default();
        for (number, line) in source.lines().enumerate() {
            let DefinitionName { definition: name } =
                serde_json::from_str(line).map_err(|source| TableError::Line { line: number + 1, source })?;
            if table.definitions.last().is_some_and(|last| last.name.as_ref() >= name) {
                return Err(TableError::Order { name });
            }
            table.nodes.push(Node::Object(index(number)));
            table.definitions.push(Definition {
                name: name.into(),
                ..Definition::default()
            });
        }
        for (number, line) in source.lines().enumerate() {
            let line: Line<'static> = serde_json::from_str(line).map_err(|source| TableError::Line { line: number + 1, source })?;
            let mut fields = BTreeMap::new();
            for (name, field) in line.fields {
                fields.insert(name.into(), table.draft(line.definition, name, field)?);
            }
            table.definitions[number] = table.define(Draft {
                name: line.definition.into(),
                kind: line.kind.map(|(group, version, kind)| (group.into(), version.into(), kind.into())),
                atomic: line.atomic,
                fields,
                required: line.required.into_iter().map(Name::from).collect(),
                described: None,
            });
        }
        table.shrink();
        Ok(table)
    }

    /// Gives back what building needed.
    pub(super) fn shrink(&mut self) {
        self.interned = HashMap::new();
        self.definitions.shrink_to_fit();
        self.nodes.shrink_to_fit();
        self.fields.shrink_to_fit();
        self.extras.shrink_to_fit();
        self.names.shrink_to_fit();
    }

    /// The node of an object.
    pub(super) fn object(&mut self, draft: Draft) -> u32 {
        let definition = self.define(draft);
        self.definitions.push(definition);
        self.nodes.push(Node::Object(index(self.definitions.len() - 1)));
        index(self.nodes.len() - 1)
    }

    /// The node of anything but an object.
    pub(super) fn node_of(&mut self, node: Node) -> u32 {
        let nodes = &mut self.nodes;
        *self.interned.entry(node).or_insert_with(|| {
            nodes.push(node);
            index(nodes.len() - 1)
        })
    }

    fn define(&mut self, draft: Draft) -> Definition {
        let first = index(self.fields.len());
        for (name, (node, extras)) in draft.fields {
            let extras = if extras.is_empty() {
                0
            } else {
                self.extras.push(extras);
                index(self.extras.len())
            };
            self.fields.push(Row { name, node, extras });
        }
        let names = index(self.names.len());
        self.names.extend(draft.required);
        Definition {
            name: draft.name,
            kind: draft.kind,
            atomic: draft.atomic,
            fields: first..index(self.fields.len()),
            required: names..index(self.names.len()),
            described: draft.described,
        }
    }

    fn draft(&mut self, definition: &'static str, name: &'static str, field: LineField<'static>) -> Result<(u32, Extras), TableError> {
        let node = self.type_of(field.r#type).ok_or(TableError::Type {
            definition,
            field: name,
            type_name: field.r#type,
        })?;
        let word = |word| TableError::Word {
            definition,
            field: name,
            word,
        };
        let mut patch = PatchStrategy {
            merge_key: field.merge_key,
            ..PatchStrategy::default()
        };
        for strategy in field.patch.unwrap_or_default().split(',').filter(|s| !s.is_empty()) {
            match strategy {
                "merge" => patch.merge = true,
                "retainKeys" => patch.retain_keys = true,
                "replace" => patch.replace = true,
                other => return Err(word(other)),
            }
        }
        let list_type = match field.list {
            None => None,
            Some("atomic") => Some(ListType::Atomic),
            Some("set") => Some(ListType::Set),
            Some("map") => Some(ListType::Map),
            Some(other) => return Err(word(other)),
        };
        let extras = Extras {
            patch,
            list_type,
            keys: field.keys.into_iter().map(Name::from).collect(),
            atomic: field.atomic,
            default: defaults::of(definition, name).map(defaults::FieldDefault::value),
        };
        Ok((node, extras))
    }

    /// `[]T`, `{}T`, a scalar, or the name of a definition.
    fn type_of(&mut self, text: &str) -> Option<u32> {
        let node = if let Some(items) = text.strip_prefix("[]") {
            Node::Array(self.type_of(items)?)
        } else if let Some(values) = text.strip_prefix("{}") {
            Node::Map(self.type_of(values)?)
        } else {
            match text {
                "string" => Node::Scalar(Kind::String),
                "bytes" => Node::Scalar(Kind::Bytes),
                "int32" => Node::Scalar(Kind::Int32),
                "int64" => Node::Scalar(Kind::Int64),
                "number" => Node::Scalar(Kind::Number),
                "boolean" => Node::Scalar(Kind::Boolean),
                "any" => Node::Scalar(Kind::Any),
                "quantity" => Node::Scalar(Kind::Quantity),
                "int-or-string" => Node::Scalar(Kind::IntOrString),
                "time" => Node::Scalar(Kind::Time),
                "micro-time" => Node::Scalar(Kind::MicroTime),
                definition => return self.find(definition),
            }
        };
        Some(self.node_of(node))
    }

    /// The node of a definition of the built-in table.
    pub(super) fn find(&self, name: &str) -> Option<u32> {
        self.definitions.binary_search_by(|d| d.name.as_ref().cmp(name)).ok().map(index)
    }

    /// The node of an API object.
    pub(super) fn find_kind(&self, group: &str, version: &str, kind: &str) -> Option<u32> {
        let wanted = |node: &Node| match node {
            Node::Object(definition) => self.definitions[*definition as usize]
                .kind
                .as_ref()
                .is_some_and(|(g, v, k)| g == group && v == version && k == kind),
            Node::Map(_) | Node::Array(_) | Node::Scalar(_) | Node::BuiltIn(_) => false,
        };
        self.nodes.iter().position(wanted).map(index)
    }

    /// The handle of a node.
    pub(super) fn schema(&self, node: u32) -> Schema<'_> {
        match self.nodes[node as usize] {
            Node::BuiltIn(node) => Schema { table: &TABLE, node },
            _ => Schema { table: self, node },
        }
    }

    pub(super) fn node(&self, node: u32) -> Node {
        self.nodes[node as usize]
    }

    pub(super) fn definition(&self, node: u32) -> Option<&Definition> {
        match self.node(node) {
            Node::Object(definition) => Some(&self.definitions[definition as usize]),
            Node::Map(_) | Node::Array(_) | Node::Scalar(_) | Node::BuiltIn(_) => None,
        }
    }

    fn rows(&self, node: u32) -> &[Row] {
        self.definition(node)
            .map_or(&[], |d| &self.fields[d.fields.start as usize..d.fields.end as usize])
    }

    pub(super) fn field(&self, node: u32, name: &str) -> Option<Field<'_>> {
        let rows = self.rows(node);
        rows.binary_search_by(|r| r.name.as_ref().cmp(name))
            .ok()
            .map(|i| self.expand(&rows[i]))
    }

    pub(super) fn fields(&self, node: u32) -> impl Iterator<Item = (&str, Field<'_>)> {
        self.rows(node).iter().map(|row| (row.name.as_ref(), self.expand(row)))
    }

    pub(super) fn required(&self, node: u32) -> &[Name] {
        self.definition(node)
            .map_or(&[], |d| &self.names[d.required.start as usize..d.required.end as usize])
    }

    fn expand(&self, row: &Row) -> Field<'_> {
        let extras = (row.extras as usize).checked_sub(1).map(|i| &self.extras[i]);
        let schema = self.schema(row.node);
        Field {
            schema,
            patch: extras.map_or_else(PatchStrategy::default, |e| e.patch),
            list_type: extras.and_then(|e| e.list_type),
            list_map_keys: extras.map_or(&[], |e| &e.keys),
            atomic: extras.is_some_and(|e| e.atomic) || schema.atomic(),
            default: extras.and_then(|e| e.default.as_ref()),
        }
    }
}
