//! `/openapi/v3`: what clients need to know of the served kinds: paths with
//! their parameters, and the shapes of the schema table.
//!
//! kubectl looks here for the query parameter `fieldValidation` before it
//! leaves validation to the server, and for the shapes that `explain` prints.
//!
//! Source: Kubernetes "The Kubernetes API", "OpenAPI V3"; KEP-2896.

pub(crate) mod v2;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use api::schema::{Field, Kind, ListType, Schema};
use api::{Scope, Status};
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Map, Value, json};

use crate::body::Body;
use crate::discovery::groups;
use crate::registry::{Resource, Subresource};
use crate::respond;
use crate::server::Core;

/// The index: where each group and version has its document. The hash in an
/// address changes when the document may have.
pub(crate) fn index(core: &Core) -> Response<Body> {
    let mut hasher = DefaultHasher::new();
    core.version.git_version.hash(&mut hasher);
    for row in core.registry.rows() {
        (
            &row.id,
            row.subresources.iter().map(|subresource| subresource.name()).collect::<Vec<_>>(),
        )
            .hash(&mut hasher);
    }
    let hash = format!("{:016X}", hasher.finish());
    let mut paths = Map::new();
    for (group, versions) in groups(&core.registry) {
        for version in versions.keys() {
            let path = if group.is_empty() {
                format!("api/{version}")
            } else {
                format!("apis/{group}/{version}")
            };
            let url = format!("/openapi/v3/{path}?hash={hash}");
            paths.insert(path, json!({"serverRelativeURL": url}));
        }
    }
    respond::json(StatusCode::OK, &json!({"paths": paths}))
}

/// The document of `api/v1` or `apis/GROUP/VERSION`.
///
/// # Errors
/// 404 for what is not served.
pub(crate) fn document(core: &Core, path: &str) -> Result<Response<Body>, Status> {
    let (group, version) = match path.split('/').collect::<Vec<_>>().as_slice() {
        ["api", version] => (String::new(), (*version).to_owned()),
        ["apis", group, version] => ((*group).to_owned(), (*version).to_owned()),
        _ => return Err(Status::no_such_path()),
    };
    let groups = groups(&core.registry);
    let rows = groups
        .get(group.as_str())
        .and_then(|versions| versions.get(version.as_str()))
        .ok_or_else(Status::no_such_path)?;
    let mut paths = Map::new();
    let mut shapes = Shapes::default();
    for row in rows {
        add_paths(row, &mut paths);
        shapes.add(row.schema);
    }
    let document = json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": core.version.git_version},
        "paths": paths,
        "components": {"schemas": shapes.done},
    });
    let mut response = respond::json(StatusCode::OK, &document);
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("private, max-age=3600"));
    Ok(response)
}

/// Paths of the row's collections; the last one is where objects are.
fn collections(row: &Resource) -> Vec<String> {
    let id = &row.id;
    let root = if id.group.is_empty() {
        format!("/api/{}", id.version)
    } else {
        format!("/apis/{}/{}", id.group, id.version)
    };
    match row.scope {
        Scope::Cluster => vec![format!("{root}/{}", id.plural)],
        Scope::Namespaced => vec![
            format!("{root}/{}", id.plural),
            format!("{root}/namespaces/{{namespace}}/{}", id.plural),
        ],
    }
}

/// Paths of the row's objects, as a pattern.
fn object_paths(row: &Resource) -> Option<String> {
    collections(row).pop().map(|base| format!("{base}/{{name}}"))
}

fn add_paths(row: &Resource, paths: &mut Map<String, Value>) {
    if row.review.is_some() {
        if let Some(base) = collections(row).pop() {
            paths.insert(base, json!({"post": operation(row, "post", CREATE)}));
        }
        return;
    }
    for base in collections(row) {
        paths.insert(base, json!({"get": operation(row, "list", LIST)}));
    }
    if let Some(base) = collections(row).pop() {
        let collection = json!({
            "get": operation(row, "list", LIST),
            "post": operation(row, "post", CREATE),
            "delete": operation(row, "deletecollection", LIST),
        });
        paths.insert(base, collection);
    }
    if let Some(path) = object_paths(row) {
        for subresource in &row.subresources {
            paths.insert(format!("{path}/{}", subresource.name()), subresource_path(row, *subresource));
        }
        paths.insert(path, object_path(row));
    }
}

fn object_path(row: &Resource) -> Value {
    json!({
        "get": operation(row, "get", &["resourceVersion"]),
        "put": operation(row, "put", UPDATE),
        "patch": operation(row, "patch", PATCH),
        "delete": operation(row, "delete", DELETE),
    })
}

fn subresource_path(row: &Resource, subresource: Subresource) -> Value {
    match subresource {
        Subresource::Status => json!({
            "get": operation(row, "get", &["resourceVersion"]),
            "put": operation(row, "put", UPDATE),
            "patch": operation(row, "patch", PATCH),
        }),
        Subresource::Finalize => json!({"put": operation(row, "put", UPDATE)}),
        Subresource::Binding | Subresource::Token => json!({"post": operation(row, "post", CREATE)}),
        Subresource::Log => json!({"get": operation(row, "connect", LOG)}),
        Subresource::Proxy => ["get", "put", "post", "delete", "head", "patch"]
            .map(|method| (method.to_owned(), operation(row, "connect", &["path"])))
            .into_iter()
            .collect::<Map<_, _>>()
            .into(),
    }
}

const LIST: &[&str] = &[
    "allowWatchBookmarks",
    "continue",
    "fieldSelector",
    "labelSelector",
    "limit",
    "resourceVersion",
    "resourceVersionMatch",
    "sendInitialEvents",
    "timeoutSeconds",
    "watch",
];
const CREATE: &[&str] = &["dryRun", "fieldManager", "fieldValidation"];
const UPDATE: &[&str] = CREATE;
const PATCH: &[&str] = CREATE;
const DELETE: &[&str] = &["dryRun", "gracePeriodSeconds", "orphanDependents", "propagationPolicy"];
const LOG: &[&str] = &[
    "container",
    "follow",
    "limitBytes",
    "previous",
    "sinceSeconds",
    "tailLines",
    "timestamps",
];

fn operation(row: &Resource, action: &str, parameters: &[&str]) -> Value {
    let kind = json!({"group": row.id.group, "version": row.id.version, "kind": row.id.kind});
    let parameters: Vec<Value> = parameters
        .iter()
        .map(|name| json!({"name": name, "in": "query", "schema": parameter(name)}))
        .collect();
    let content = row
        .schema
        .name()
        .map(|name| json!({"application/json": {"schema": reference(name)}}));
    let mut operation = json!({
        "parameters": parameters,
        "responses": {"200": {"description": "OK", "content": content}},
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": kind,
    });
    if matches!(action, "post" | "put") {
        operation["requestBody"] = json!({"required": true, "content": content});
    }
    operation
}

fn parameter(name: &str) -> Value {
    match name {
        "allowWatchBookmarks" | "follow" | "orphanDependents" | "previous" | "sendInitialEvents" | "timestamps" | "watch" => {
            json!({"type": "boolean"})
        }
        "gracePeriodSeconds" | "limit" | "limitBytes" | "sinceSeconds" | "tailLines" | "timeoutSeconds" => json!({"type": "integer"}),
        _ => json!({"type": "string"}),
    }
}

fn reference(definition: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{definition}")})
}

/// The shapes a document refers to, each once.
#[derive(Default)]
struct Shapes {
    done: BTreeMap<&'static str, Value>,
    /// Named and on its way: definitions refer to each other in circles.
    begun: BTreeSet<&'static str>,
}

impl Shapes {
    /// Adds a definition and all it refers to.
    fn add(&mut self, root: Schema) {
        let mut waiting = vec![root];
        while let Some(schema) = waiting.pop() {
            let Some(name) = schema.name() else { continue };
            if !self.begun.insert(name) {
                continue;
            }
            let mut properties = Map::new();
            for (field, declared) in schema.fields() {
                properties.insert(field.to_owned(), property(&declared, &mut waiting));
            }
            let mut shape = json!({"type": "object", "properties": properties});
            if !schema.required().is_empty() {
                shape["required"] = json!(schema.required());
            }
            if let Some((group, version, kind)) = schema.group_version_kind() {
                shape["x-kubernetes-group-version-kind"] = json!([{"group": group, "version": version, "kind": kind}]);
            }
            if schema.atomic() {
                shape["x-kubernetes-map-type"] = json!("atomic");
            }
            self.done.insert(name, shape);
        }
    }
}

fn property(field: &Field, waiting: &mut Vec<Schema>) -> Value {
    let mut property = shape(field.schema, waiting);
    // Beside a reference nothing else counts, so it moves into `allOf`.
    let extended = field.list_type.is_some()
        || field.patch.merge
        || field.patch.retain_keys
        || field.patch.replace
        || field.atomic
        || field.default.is_some();
    if extended && property.get("$ref").is_some() {
        property = json!({"allOf": [property]});
    }
    if let Some(default) = field.default {
        property["default"] = default.value();
    }
    if let Some(list_type) = field.list_type {
        property["x-kubernetes-list-type"] = json!(match list_type {
            ListType::Atomic => "atomic",
            ListType::Set => "set",
            ListType::Map => "map",
        });
    }
    if !field.list_map_keys.is_empty() {
        property["x-kubernetes-list-map-keys"] = json!(field.list_map_keys);
    }
    if field.atomic {
        property["x-kubernetes-map-type"] = json!("atomic");
    }
    let strategies = [
        ("merge", field.patch.merge),
        ("replace", field.patch.replace),
        ("retainKeys", field.patch.retain_keys),
    ];
    let strategies: Vec<&str> = strategies.iter().filter(|(_, set)| *set).map(|(name, _)| *name).collect();
    if !strategies.is_empty() {
        property["x-kubernetes-patch-strategy"] = json!(strategies.join(","));
    }
    if let Some(key) = field.patch.merge_key {
        property["x-kubernetes-patch-merge-key"] = json!(key);
    }
    property
}

fn shape(schema: Schema, waiting: &mut Vec<Schema>) -> Value {
    match schema.kind() {
        Kind::Object => {
            waiting.push(schema);
            schema.name().map_or_else(|| json!({"type": "object"}), reference)
        }
        Kind::Map(values) => json!({"type": "object", "additionalProperties": shape(values, waiting)}),
        Kind::Array(items) => json!({"type": "array", "items": shape(items, waiting)}),
        Kind::String => json!({"type": "string"}),
        Kind::Bytes => json!({"type": "string", "format": "byte"}),
        Kind::Int32 => json!({"type": "integer", "format": "int32"}),
        Kind::Int64 => json!({"type": "integer", "format": "int64"}),
        Kind::Number => json!({"type": "number", "format": "double"}),
        Kind::Boolean => json!({"type": "boolean"}),
        Kind::IntOrString => json!({"oneOf": [{"type": "integer"}, {"type": "string"}], "format": "int-or-string"}),
        Kind::Quantity => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
        Kind::Time | Kind::MicroTime => json!({"type": "string", "format": "date-time"}),
        Kind::Any => json!({}),
    }
}
