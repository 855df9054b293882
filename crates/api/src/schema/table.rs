//! The arena the table is decoded into.

use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;

use serde::Deserialize;

use super::{Field, FieldDefault, Kind, ListType, PatchStrategy, Schema, defaults};

const SOURCE: &str = include_str!("v1_33.jsonl");

/// The built-in table.
pub(super) static TABLE: LazyLock<Table> = LazyLock::new(|| {
    // The file is generated, committed and decoded by this crate's tests.
    Table::decode(SOURCE).expect("the committed schema table decodes: its test does it")
});

/// What a [`Schema`] stands for.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Node {
    /// Index into the definitions.
    Object(u32),
    Map(Schema),
    Array(Schema),
    Scalar(Kind),
}

/// An object with declared fields.
pub(super) struct Definition {
    pub(super) name: &'static str,
    pub(super) kind: Option<(&'static str, &'static str, &'static str)>,
    pub(super) atomic: bool,
    /// Into `Table::fields`, sorted by name.
    fields: std::ops::Range<u32>,
    /// Into `Table::names`.
    required: std::ops::Range<u32>,
}

/// A declared field; most have no extras.
struct Row {
    name: &'static str,
    schema: Schema,
    /// One more than the index into `Table::extras`; 0 is none.
    extras: u32,
}

/// What few fields have.
struct Extras {
    patch: PatchStrategy,
    list_type: Option<ListType>,
    /// Into `Table::names`.
    keys: std::ops::Range<u32>,
    atomic: bool,
    default: Option<FieldDefault>,
}

/// All definitions, sorted by name: definition `i` is node `i`.
#[derive(Default)]
pub(super) struct Table {
    definitions: Vec<Definition>,
    nodes: Vec<Node>,
    fields: Vec<Row>,
    extras: Vec<Extras>,
    names: Vec<&'static str>,
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
    u32::try_from(len).expect("the table is a few thousand rows, compiled in")
}

impl Table {
    pub(super) fn decode(source: &'static str) -> Result<Self, TableError> {
        #[derive(Deserialize)]
        struct Name<'a> {
            definition: &'a str,
        }
        let mut table = Self::default();
        for (number, line) in source.lines().enumerate() {
            let Name { definition: name } = serde_json::from_str(line).map_err(|source| TableError::Line { line: number + 1, source })?;
            if table.definitions.last().is_some_and(|last| last.name >= name) {
                return Err(TableError::Order { name });
            }
            table.nodes.push(Node::Object(index(number)));
            table.definitions.push(Definition {
                name,
                kind: None,
                atomic: false,
                fields: 0..0,
                required: 0..0,
            });
        }
        let mut interned = HashMap::new();
        for (number, line) in source.lines().enumerate() {
            let line: Line<'static> = serde_json::from_str(line).map_err(|source| TableError::Line { line: number + 1, source })?;
            let first = index(table.fields.len());
            for (name, field) in line.fields {
                let row = table.row(line.definition, name, field, &mut interned)?;
                table.fields.push(row);
            }
            let fields = first..index(table.fields.len());
            let required = table.intern(line.required);
            table.definitions[number] = Definition {
                name: line.definition,
                kind: line.kind,
                atomic: line.atomic,
                fields,
                required,
            };
        }
        table.nodes.shrink_to_fit();
        table.fields.shrink_to_fit();
        table.extras.shrink_to_fit();
        table.names.shrink_to_fit();
        Ok(table)
    }

    fn intern(&mut self, names: Vec<&'static str>) -> std::ops::Range<u32> {
        let first = index(self.names.len());
        self.names.extend(names);
        first..index(self.names.len())
    }

    fn row(
        &mut self,
        definition: &'static str,
        name: &'static str,
        field: LineField<'static>,
        interned: &mut HashMap<Node, Schema>,
    ) -> Result<Row, TableError> {
        let schema = self.type_of(field.r#type, interned).ok_or(TableError::Type {
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
        let default = defaults::of(definition, name);
        if patch == PatchStrategy::default() && list_type.is_none() && field.keys.is_empty() && !field.atomic && default.is_none() {
            return Ok(Row { name, schema, extras: 0 });
        }
        let keys = self.intern(field.keys);
        self.extras.push(Extras {
            patch,
            list_type,
            keys,
            atomic: field.atomic,
            default,
        });
        Ok(Row {
            name,
            schema,
            extras: index(self.extras.len()),
        })
    }

    /// `[]T`, `{}T`, a scalar, or the name of a definition.
    fn type_of(&mut self, text: &str, interned: &mut HashMap<Node, Schema>) -> Option<Schema> {
        let node = if let Some(items) = text.strip_prefix("[]") {
            Node::Array(self.type_of(items, interned)?)
        } else if let Some(values) = text.strip_prefix("{}") {
            Node::Map(self.type_of(values, interned)?)
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
        let nodes = &mut self.nodes;
        Some(*interned.entry(node).or_insert_with(|| {
            nodes.push(node);
            Schema(index(nodes.len() - 1))
        }))
    }

    pub(super) fn find(&self, name: &str) -> Option<Schema> {
        self.definitions
            .binary_search_by(|d| d.name.cmp(name))
            .ok()
            .map(|i| Schema(index(i)))
    }

    pub(super) fn find_kind(&self, group: &str, version: &str, kind: &str) -> Option<Schema> {
        self.definitions
            .iter()
            .position(|d| d.kind == Some((group, version, kind)))
            .map(|i| Schema(index(i)))
    }

    pub(super) fn node(&self, schema: Schema) -> Node {
        self.nodes[schema.0 as usize]
    }

    pub(super) fn definition(&self, schema: Schema) -> Option<&Definition> {
        match self.node(schema) {
            Node::Object(definition) => Some(&self.definitions[definition as usize]),
            Node::Map(_) | Node::Array(_) | Node::Scalar(_) => None,
        }
    }

    fn rows(&self, schema: Schema) -> &[Row] {
        self.definition(schema)
            .map_or(&[], |d| &self.fields[d.fields.start as usize..d.fields.end as usize])
    }

    pub(super) fn field(&'static self, schema: Schema, name: &str) -> Option<Field> {
        let rows = self.rows(schema);
        rows.binary_search_by(|r| r.name.cmp(name)).ok().map(|i| self.expand(&rows[i]))
    }

    pub(super) fn fields(&'static self, schema: Schema) -> impl Iterator<Item = (&'static str, Field)> {
        self.rows(schema).iter().map(|row| (row.name, self.expand(row)))
    }

    pub(super) fn required(&'static self, schema: Schema) -> &'static [&'static str] {
        self.definition(schema)
            .map_or(&[], |d| &self.names[d.required.start as usize..d.required.end as usize])
    }

    fn expand(&'static self, row: &Row) -> Field {
        let extras = (row.extras as usize).checked_sub(1).map(|i| &self.extras[i]);
        Field {
            schema: row.schema,
            patch: extras.map_or_else(PatchStrategy::default, |e| e.patch),
            list_type: extras.and_then(|e| e.list_type),
            list_map_keys: extras.map_or(&[], |e| &self.names[e.keys.start as usize..e.keys.end as usize]),
            atomic: extras.is_some_and(|e| e.atomic) || self.definition(row.schema).is_some_and(|d| d.atomic),
            default: extras.and_then(|e| e.default),
        }
    }
}
