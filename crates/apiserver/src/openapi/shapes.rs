//! Definitions of the schema table as JSON schemas, in the words of either
//! version of OpenAPI.
//!
//! Source: upstream `kube-openapi/pkg/generators/openapi.go` (defaults,
//! extensions), `kube-openapi/pkg/openapiconv/convert.go` (what differs).

use std::collections::BTreeMap;

use api::schema::{Described, Descriptions, Field, Kind, ListType, Schema, scalar_name};
use serde_json::{Map, Value, json};

/// The body of every patch.
pub(super) const PATCH: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";
const PATCH_DESCRIPTION: &str = "Patch is provided to give a concrete name and type to the Kubernetes PATCH request body.";

/// A version of OpenAPI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    V2,
    V3,
}

impl Dialect {
    /// A reference to a definition.
    pub(super) fn reference(self, definition: &str) -> Value {
        match self {
            Self::V2 => json!({"$ref": format!("#/definitions/{definition}")}),
            Self::V3 => json!({"$ref": format!("#/components/schemas/{definition}")}),
        }
    }
}

/// The definitions a document refers to, each once.
pub(super) struct Shapes<'t> {
    dialect: Dialect,
    descriptions: Descriptions,
    /// By name; scalar types with a name have no schema of an object.
    wanted: BTreeMap<&'t str, Option<Schema<'t>>>,
}

impl<'t> Shapes<'t> {
    pub(super) fn new(dialect: Dialect) -> Self {
        Self {
            dialect,
            descriptions: Descriptions::default(),
            wanted: BTreeMap::from([(PATCH, None)]),
        }
    }

    /// Adds a definition and all it refers to.
    pub(super) fn add(&mut self, root: Schema<'t>) {
        let mut waiting = vec![(root, "")];
        while let Some((schema, field)) = waiting.pop() {
            match schema.kind() {
                Kind::Map(inner) | Kind::Array(inner) => waiting.push((inner, field)),
                Kind::Object => {
                    // Without a name it is written where it is used.
                    if schema.name().is_none_or(|name| self.wanted.insert(name, Some(schema)).is_none()) {
                        waiting.extend(schema.fields().map(|(name, declared)| (declared.schema, name)));
                    }
                }
                _ => self.wanted.extend(scalar_name(schema, field).map(|name| (name, None))),
            }
        }
    }

    /// Each definition with its name, in order. One at a time: a document is
    /// large, and nothing of it is kept.
    pub(super) fn each(&self) -> impl Iterator<Item = (&'t str, Value)> {
        self.wanted.iter().map(|(name, schema)| (*name, self.shape(name, *schema)))
    }

    fn shape(&self, name: &str, schema: Option<Schema<'_>>) -> Value {
        if name == PATCH {
            return json!({"description": PATCH_DESCRIPTION, "type": "object"});
        }
        let Some(schema) = schema else {
            let mut shape = self.scalar(name);
            let description = self.descriptions.of(name).description;
            if !description.is_empty() {
                shape["description"] = Value::from(description);
            }
            return shape;
        };
        let described = self.descriptions.of_schema(schema);
        let mut shape = self.object(schema, &described);
        if !described.description.is_empty() {
            shape["description"] = Value::from(described.description.as_str());
        }
        shape
    }

    fn object(&self, schema: Schema<'_>, described: &Described) -> Value {
        let mut shape = json!({"type": "object"});
        let properties: Map<String, Value> = schema
            .fields()
            .map(|(name, field)| (name.to_owned(), self.property(schema, name, &field, described)))
            .collect();
        if !properties.is_empty() {
            shape["properties"] = Value::Object(properties);
        }
        if !schema.required().is_empty() {
            shape["required"] = json!(schema.required());
        }
        if let Some((group, version, kind)) = schema.group_version_kind() {
            shape["x-kubernetes-group-version-kind"] = json!([{"group": group, "kind": kind, "version": version}]);
        }
        if schema.atomic() {
            shape["x-kubernetes-map-type"] = json!("atomic");
        }
        shape
    }

    fn property(&self, of: Schema<'_>, name: &str, field: &Field, described: &Described) -> Value {
        let mut property = self.value(field.schema, name);
        let mut beside = Map::new();
        if let Some(values) = described.item_values(name)
            && let Some(items) = property.get_mut("items")
        {
            items["enum"] = json!(values);
        }
        if let Some(values) = described.values(name) {
            beside.insert("enum".to_owned(), json!(values));
        }
        if let Some(description) = described.field(name) {
            beside.insert("description".to_owned(), Value::from(description));
        }
        if self.dialect == Dialect::V3 {
            // Go has required fields by value.
            let by_value = || of.is_built_in() && of.required().iter().any(|required| required == name);
            let zero = || by_value().then(|| zero(field.schema)).flatten();
            if let Some(default) = field.default.cloned().or_else(zero) {
                beside.insert("default".to_owned(), default);
            }
        }
        extensions(field, &mut beside);
        // Beside a reference nothing else counts, so it moves into `allOf`.
        if self.dialect == Dialect::V3 && !beside.is_empty() && property.get("$ref").is_some() {
            property = json!({"allOf": [property]});
        }
        if let Some(property) = property.as_object_mut() {
            property.extend(beside);
        }
        property
    }

    /// The shape of a value, without what only its field says.
    fn value(&self, schema: Schema<'_>, field: &str) -> Value {
        if let Some(name) = scalar_name(schema, field).or_else(|| schema.name()) {
            return self.dialect.reference(name);
        }
        match schema.kind() {
            Kind::Map(values) => json!({"type": "object", "additionalProperties": self.item(values, field)}),
            Kind::Array(items) => json!({"type": "array", "items": self.item(items, field)}),
            Kind::Bytes => json!({"type": "string", "format": "byte"}),
            Kind::Int32 => json!({"type": "integer", "format": "int32"}),
            Kind::Int64 => json!({"type": "integer", "format": "int64"}),
            Kind::Number => json!({"type": "number", "format": "double"}),
            Kind::Boolean => json!({"type": "boolean"}),
            Kind::String => json!({"type": "string"}),
            Kind::Object if schema.name().is_none() => self.object(schema, &self.descriptions.of_schema(schema)),
            Kind::IntOrString if !schema.is_built_in() => json!({"x-kubernetes-int-or-string": true}),
            Kind::Any if !schema.is_built_in() => json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}),
            // These have a name.
            Kind::Object | Kind::IntOrString | Kind::Quantity | Kind::Time | Kind::MicroTime | Kind::Any => json!({"type": "object"}),
        }
    }

    /// The shape of an item or of a map's value: Go has them by value, so each
    /// has the zero of its type as its default.
    fn item(&self, schema: Schema<'_>, field: &str) -> Value {
        let item = self.value(schema, field);
        if self.dialect == Dialect::V2 {
            return item;
        }
        // What a document declares has the defaults that it states.
        match schema.kind() {
            _ if !schema.is_built_in() => item,
            Kind::Object => json!({"allOf": [item], "default": {}}),
            _ => match zero(schema) {
                Some(zero) => {
                    let mut item = item;
                    item["default"] = zero;
                    item
                }
                None => item,
            },
        }
    }

    /// The shape of a scalar type with a name.
    fn scalar(&self, name: &str) -> Value {
        match (name.rsplit('.').next().unwrap_or_default(), self.dialect) {
            ("Quantity", Dialect::V3) => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
            ("IntOrString", Dialect::V3) => json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]}),
            ("Quantity", Dialect::V2) => json!({"type": "string"}),
            ("IntOrString", Dialect::V2) => json!({"type": "string", "format": "int-or-string"}),
            ("Time" | "MicroTime", _) => json!({"type": "string", "format": "date-time"}),
            _ => json!({"type": "object"}),
        }
    }
}

/// The zero of a scalar that JSON has too.
fn zero(schema: Schema<'_>) -> Option<Value> {
    match schema.kind() {
        Kind::String => Some(json!("")),
        Kind::Int32 | Kind::Int64 | Kind::Number => Some(json!(0)),
        Kind::Boolean => Some(json!(false)),
        _ => None,
    }
}

/// How a field is merged and owned.
fn extensions(field: &Field, out: &mut Map<String, Value>) {
    let mut set = |name: &str, value: Value| out.insert(name.to_owned(), value);
    if let Some(list_type) = field.list_type {
        let word = match list_type {
            ListType::Atomic => "atomic",
            ListType::Set => "set",
            ListType::Map => "map",
        };
        set("x-kubernetes-list-type", json!(word));
    }
    if !field.list_map_keys.is_empty() {
        set("x-kubernetes-list-map-keys", json!(field.list_map_keys));
    }
    // A definition that is atomic says so itself.
    if field.atomic && !field.schema.atomic() {
        set("x-kubernetes-map-type", json!("atomic"));
    }
    let strategies = [
        ("merge", field.patch.merge),
        ("replace", field.patch.replace),
        ("retainKeys", field.patch.retain_keys),
    ];
    let strategies: Vec<&str> = strategies.iter().filter(|(_, set)| *set).map(|(name, _)| *name).collect();
    if !strategies.is_empty() {
        set("x-kubernetes-patch-strategy", json!(strategies.join(",")));
    }
    if let Some(key) = field.patch.merge_key {
        set("x-kubernetes-patch-merge-key", json!(key));
    }
}
