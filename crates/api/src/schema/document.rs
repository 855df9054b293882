//! A table from the OpenAPI document of a kind, such as a custom resource
//! definition holds.
//!
//! Every keyword is understood or refused by name: one that was passed over
//! would promise what nobody keeps.
//!
//! Source: Kubernetes "Extend the Kubernetes API with CustomResourceDefinitions",
//! "Specifying a structural schema"; upstream
//! `apiextensions-apiserver/pkg/controller/openapi/builder/builder.go` (what is
//! added to it: the type, the metadata, the list).

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::table::{Draft, Extras, Name, Node, Table};
use super::{Described, Descriptions, Home, Kind, ListType, Root, named};
use crate::resource::ResourceId;

/// Levels of objects, lists and maps in each other.
const MAX_DEPTH: usize = 64;
/// A kind and a list whose fields `apiVersion`, `kind` and `metadata` every
/// other has as well.
const LIKE: [&str; 2] = ["io.k8s.api.core.v1.ConfigMap", "io.k8s.api.core.v1.ConfigMapList"];

/// Why a document declares no kind.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// A keyword that is not known, or not of its type.
    #[error("the schema of {path}")]
    Keyword {
        /// The field, from the root: `spec.size`.
        path: String,
        /// Which keyword, and what is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// Keywords that do not go together.
    #[error("the schema of {path}: {why}")]
    Contradiction {
        /// The field, from the root.
        path: String,
        /// Which, and what to write.
        why: String,
    },
    /// Too many levels.
    #[error("the schema of {path} nests deeper than {MAX_DEPTH} levels")]
    TooDeep {
        /// The field, from the root.
        path: String,
    },
}

/// One level of a document.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct Keywords {
    r#type: String,
    format: String,
    description: String,
    properties: BTreeMap<String, Value>,
    additional_properties: Option<Value>,
    items: Option<Value>,
    required: Vec<String>,
    r#enum: Vec<String>,
    default: Option<Value>,
    #[serde(rename = "x-kubernetes-list-type")]
    list_type: Option<String>,
    #[serde(rename = "x-kubernetes-list-map-keys")]
    list_map_keys: Vec<String>,
    #[serde(rename = "x-kubernetes-map-type")]
    map_type: Option<String>,
    #[serde(rename = "x-kubernetes-int-or-string")]
    int_or_string: bool,
    #[serde(rename = "x-kubernetes-preserve-unknown-fields")]
    preserve_unknown_fields: bool,
}

/// A value of a document, on its way into a table.
struct Declared {
    node: u32,
    extras: Extras,
    description: String,
    /// All values it may have; empty for any.
    values: Vec<String>,
}

/// The schema of the kind `id` names, made of the document of its objects: an
/// object with `properties` such as `spec` and `status`. What every object has
/// (`apiVersion`, `kind`, `metadata`) is added, and so is the kind's list.
///
/// # Errors
/// On keywords that are not understood, and on what is no structural schema.
pub fn declare(id: &ResourceId, document: &Value) -> Result<Root, DocumentError> {
    let mut table = Table::default();
    let kind = |kind: &str| {
        let (group, version) = (Name::from(id.group.clone()), Name::from(id.version.clone()));
        (group, version, Name::from(kind.to_owned()))
    };
    // `example.com` is `com.example`, as a Go package would be.
    let mut package: Vec<&str> = id.group.split('.').rev().collect();
    package.push(&id.version);
    let definition = |kind: &str| Name::from(format!("{}.{kind}", package.join(".")));

    let mut draft = object(&mut table, &id.kind, keywords(&id.kind, document)?, 0)?;
    draft.name = definition(&id.kind);
    draft.kind = Some(kind(&id.kind));
    add_types(&mut table, &mut draft, "ObjectMeta", LIKE[0])?;
    let root = table.object(draft);

    let list_kind = format!("{}List", id.kind);
    let mut list = Draft {
        name: definition(&list_kind),
        kind: Some(kind(&list_kind)),
        required: vec!["items".into()],
        ..Draft::default()
    };
    let mut described = Described {
        description: format!("{list_kind} is a list of {}", id.kind),
        ..Described::default()
    };
    let conventions = "https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md";
    let items = format!("List of {}. More info: {conventions}", id.plural);
    described.fields.insert("items".to_owned(), items);
    list.described = Some(Box::new(described));
    let items = table.node_of(Node::Array(root));
    list.fields.insert("items".into(), (items, Extras::default()));
    add_types(&mut table, &mut list, "ListMeta", LIKE[1])?;
    table.object(list);
    table.shrink();
    Ok(Root(Home::Made(Arc::new(table), root)))
}

/// Adds `apiVersion`, `kind` and `metadata`, described as for built-in kinds.
fn add_types(table: &mut Table, draft: &mut Draft, metadata: &str, like: &str) -> Result<(), DocumentError> {
    let definition = format!("io.k8s.apimachinery.pkg.apis.meta.v1.{metadata}");
    let metadata = named(&definition).ok_or_else(|| contradiction("metadata", format!("the built-in table has no {definition}")))?;
    let text = table.node_of(Node::Scalar(Kind::String));
    let metadata = table.node_of(Node::BuiltIn(metadata.node));
    let built_in = Descriptions::default().of(like);
    for (name, node) in [("apiVersion", text), ("kind", text), ("metadata", metadata)] {
        draft.fields.insert(name.into(), (node, Extras::default()));
        if let (Some(described), Some(text)) = (&mut draft.described, built_in.field(name)) {
            described.fields.insert(name.to_owned(), text.to_owned());
        }
    }
    Ok(())
}

fn contradiction(path: &str, why: impl Into<String>) -> DocumentError {
    DocumentError::Contradiction {
        path: path.to_owned(),
        why: why.into(),
    }
}

fn keywords(path: &str, document: &Value) -> Result<Keywords, DocumentError> {
    Keywords::deserialize(document).map_err(|source| DocumentError::Keyword {
        path: path.to_owned(),
        source,
    })
}

/// The value at `path`.
fn value(table: &mut Table, path: &str, document: &Value, depth: usize) -> Result<Declared, DocumentError> {
    if depth > MAX_DEPTH {
        return Err(DocumentError::TooDeep { path: path.to_owned() });
    }
    let mut keywords = keywords(path, document)?;
    let declared = Declared {
        node: 0,
        extras: Extras {
            list_type: list_type(path, &keywords)?,
            keys: keywords.list_map_keys.iter().cloned().map(Name::from).collect(),
            atomic: map_type(path, &keywords)?,
            default: keywords.default.take(),
            ..Extras::default()
        },
        description: std::mem::take(&mut keywords.description),
        values: std::mem::take(&mut keywords.r#enum),
    };
    if !declared.values.is_empty() && keywords.r#type != "string" {
        return Err(contradiction(path, "enum is understood of strings alone"));
    }
    let node = node(table, path, keywords, depth)?;
    Ok(Declared { node, ..declared })
}

fn node(table: &mut Table, path: &str, keywords: Keywords, depth: usize) -> Result<u32, DocumentError> {
    let has_fields = !keywords.properties.is_empty() || !keywords.required.is_empty();
    let scalar = |kind| Ok(Node::Scalar(kind));
    let node = match (keywords.r#type.as_str(), keywords.format.as_str()) {
        _ if (has_fields || keywords.additional_properties.is_some()) && keywords.r#type != "object" => {
            Err(contradiction(path, "what has properties is of the type object"))
        }
        _ if keywords.items.is_some() && keywords.r#type != "array" => Err(contradiction(path, "what has items is of the type array")),
        ("" | "object", "") if keywords.preserve_unknown_fields => match has_fields || keywords.additional_properties.is_some() {
            true => Err(contradiction(
                path,
                "x-kubernetes-preserve-unknown-fields does not go with properties here",
            )),
            false => scalar(Kind::Any),
        },
        (_, _) if keywords.preserve_unknown_fields => Err(contradiction(path, "only objects preserve unknown fields")),
        ("", "") if keywords.int_or_string => scalar(Kind::IntOrString),
        (_, _) if keywords.int_or_string => Err(contradiction(path, "x-kubernetes-int-or-string goes with no type and no format")),
        ("object", "") => match &keywords.additional_properties {
            Some(_) if has_fields => Err(contradiction(path, "properties and additionalProperties exclude each other")),
            Some(values) => Ok(Node::Map(value(table, &format!("{path}.*"), values, depth + 1)?.node)),
            None => {
                let draft = object(table, path, keywords, depth)?;
                return Ok(table.object(draft));
            }
        },
        ("array", "") => match &keywords.items {
            Some(items) => Ok(Node::Array(value(table, &format!("{path}[]"), items, depth + 1)?.node)),
            None => Err(contradiction(path, "an array has to state its items")),
        },
        ("string", "") => scalar(Kind::String),
        ("string", "byte") => scalar(Kind::Bytes),
        ("integer", "int32") => scalar(Kind::Int32),
        ("integer", "" | "int64") => scalar(Kind::Int64),
        ("number", "" | "double") => scalar(Kind::Number),
        ("boolean", "") => scalar(Kind::Boolean),
        ("", _) => Err(contradiction(path, "the type is missing")),
        (named, "") => Err(contradiction(path, format!("the type {named:?} is not known"))),
        (named, format) => Err(contradiction(
            path,
            format!("the format {format:?} of the type {named:?} is not understood"),
        )),
    }?;
    Ok(table.node_of(node))
}

/// An object with its fields.
fn object(table: &mut Table, path: &str, keywords: Keywords, depth: usize) -> Result<Draft, DocumentError> {
    // The object's own, which `add_types` adds and everybody checks.
    let own = |name: &str| depth == 0 && matches!(name, "apiVersion" | "kind" | "metadata");
    let mut draft = Draft {
        atomic: map_type(path, &keywords)?,
        required: keywords
            .required
            .iter()
            .filter(|name| !own(name))
            .cloned()
            .map(Name::from)
            .collect(),
        ..Draft::default()
    };
    if keywords.r#type != "object" {
        return Err(contradiction(path, "an object has to be of the type object"));
    }
    let mut described = Described {
        description: keywords.description,
        ..Described::default()
    };
    for (name, document) in keywords.properties {
        let declared = match depth {
            0 if own(&name) => continue,
            0 => value(table, &name, &document, 1)?,
            _ => value(table, &format!("{path}.{name}"), &document, depth + 1)?,
        };
        if !declared.description.is_empty() {
            described.fields.insert(name.clone(), declared.description);
        }
        if !declared.values.is_empty() {
            described.enums.insert(name.clone(), declared.values);
        }
        draft.fields.insert(name.into(), (declared.node, declared.extras));
    }
    if let Some(missing) = draft.required.iter().find(|name| !draft.fields.contains_key(*name)) {
        return Err(contradiction(
            path,
            format!("the required field {missing:?} is not among the properties"),
        ));
    }
    draft.described = Some(Box::new(described));
    Ok(draft)
}

fn list_type(path: &str, keywords: &Keywords) -> Result<Option<ListType>, DocumentError> {
    let list_type = match keywords.list_type.as_deref() {
        None => None,
        Some("atomic") => Some(ListType::Atomic),
        Some("set") => Some(ListType::Set),
        Some("map") => Some(ListType::Map),
        Some(other) => {
            return Err(contradiction(
                path,
                format!("x-kubernetes-list-type is atomic, set or map, not {other:?}"),
            ));
        }
    };
    if list_type.is_some() && keywords.r#type != "array" {
        return Err(contradiction(path, "x-kubernetes-list-type goes with the type array"));
    }
    match (list_type == Some(ListType::Map), keywords.list_map_keys.is_empty()) {
        (true, true) => Err(contradiction(path, "a list that is a map has to state x-kubernetes-list-map-keys")),
        (false, false) => Err(contradiction(
            path,
            "x-kubernetes-list-map-keys goes with x-kubernetes-list-type map",
        )),
        _ => Ok(list_type),
    }
}

/// Whether an object or a map is owned as a whole.
fn map_type(path: &str, keywords: &Keywords) -> Result<bool, DocumentError> {
    match keywords.map_type.as_deref() {
        None | Some("granular") => Ok(false),
        Some("atomic") if keywords.r#type == "object" => Ok(true),
        Some("atomic") => Err(contradiction(path, "x-kubernetes-map-type goes with the type object")),
        Some(other) => Err(contradiction(
            path,
            format!("x-kubernetes-map-type is atomic or granular, not {other:?}"),
        )),
    }
}

#[cfg(test)]
mod tests;
