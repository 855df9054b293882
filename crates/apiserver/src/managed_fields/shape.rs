//! What the schema says about who may own a value: as a whole, or in parts.

use std::borrow::Cow;
use std::sync::LazyLock;

use api::schema::{Field, Kind, ListType, Schema};
use serde_json::{Map, Value};

use super::element::{Element, Scalar};

/// A schema, and how the field that holds the value is owned.
#[derive(Clone, Copy)]
pub(crate) struct Shape<'t> {
    pub(crate) schema: Schema<'t>,
    list: Option<ListType>,
    keys: &'t [Cow<'static, str>],
    atomic: bool,
}

/// The parts a value is owned in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parts {
    /// None: scalars, atomic lists and atomic objects.
    Leaf,
    /// Declared fields, or the keys of a map.
    Fields,
    /// Items.
    Items,
}

/// Why an item of a list has no path element.
///
/// The texts are upstream's `listItemToPathElement`.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoElement {
    #[error("associative list with keys may not have a null element")]
    Null,
    #[error("associative list with keys may not have non-map elements")]
    NotAnObject,
    #[error("associative list with keys has an element that omits all key fields {0} (and doesn't have default values for any key fields)")]
    NoKeys(String),
    #[error("associative list without keys has an element that's a map type")]
    SetOfObjects,
    #[error("not supported: associative list with lists as elements")]
    SetOfLists,
    #[error("associative list without keys has an element that's an explicit null")]
    SetOfNull,
}

/// Objects and lists that are part of every value of their definition: upstream
/// serves them empty where we leave them out. Whoever fills one adds what is in
/// it, not the object itself.
///
/// Source: the Go types of `k8s.io/api`: fields that are structs, not pointers,
/// and lists without `omitempty`.
const ALWAYS: [(&str, &str); 22] = [
    ("apps.v1.DaemonSetSpec", "template"),
    ("apps.v1.DaemonSetSpec", "updateStrategy"),
    ("apps.v1.DeploymentSpec", "strategy"),
    ("apps.v1.DeploymentSpec", "template"),
    ("apps.v1.ReplicaSetSpec", "template"),
    ("apps.v1.StatefulSetSpec", "template"),
    ("apps.v1.StatefulSetSpec", "updateStrategy"),
    ("batch.v1.JobSpec", "template"),
    ("core.v1.Container", "resources"),
    ("core.v1.EphemeralContainer", "resources"),
    ("core.v1.Event", "involvedObject"),
    ("core.v1.Event", "source"),
    ("core.v1.NodeDaemonEndpoints", "kubeletEndpoint"),
    ("core.v1.NodeStatus", "daemonEndpoints"),
    ("core.v1.NodeStatus", "nodeInfo"),
    ("core.v1.PersistentVolumeClaimSpec", "resources"),
    ("core.v1.PodSpec", "containers"),
    ("core.v1.PodTemplate", "template"),
    ("core.v1.PodTemplateSpec", "metadata"),
    ("core.v1.PodTemplateSpec", "spec"),
    ("core.v1.ServiceStatus", "loadBalancer"),
    ("events.v1.Event", "regarding"),
];

static EMPTY_OBJECT: LazyLock<Value> = LazyLock::new(|| Value::Object(Map::new()));
static EMPTY_LIST: Value = Value::Array(Vec::new());

impl<'t> Shape<'t> {
    /// A value of a schema that no field says anything about.
    pub(crate) fn of(schema: Schema<'t>) -> Self {
        Self {
            schema,
            list: None,
            keys: &[],
            atomic: false,
        }
    }

    fn field(field: Field<'t>) -> Self {
        Self {
            schema: field.schema,
            list: field.list_type,
            keys: field.list_map_keys,
            atomic: field.atomic,
        }
    }

    /// The parts a value is owned in.
    pub(crate) fn parts(self) -> Parts {
        match self.schema.kind() {
            Kind::Object if !self.atomic && !self.schema.atomic() => Parts::Fields,
            Kind::Map(_) if !self.atomic => Parts::Fields,
            Kind::Array(_) if matches!(self.list, Some(ListType::Set | ListType::Map)) => Parts::Items,
            _ => Parts::Leaf,
        }
    }

    /// Whether the schema declares a field of this name; keys of maps are not
    /// declared.
    pub(crate) fn declares(self, name: &str) -> bool {
        self.schema.field(name).is_some()
    }

    /// The shape of a field or of a map's value; `None` for a field nobody
    /// declared.
    pub(crate) fn named(self, name: &str) -> Option<Self> {
        self.schema
            .field(name)
            .map(Self::field)
            .or_else(|| self.schema.values().map(Self::of))
    }

    /// The shape of a list's items.
    pub(crate) fn item(self) -> Option<Self> {
        self.schema.items().map(Self::of)
    }

    /// The shape at an element.
    pub(crate) fn child(self, at: &Element) -> Option<Self> {
        match at {
            Element::Field(name) => self.named(name),
            Element::Key(_) => self.item(),
            Element::Value(_) | Element::Index(_) => None,
        }
    }

    /// A field of an object, empty where upstream would serve it empty.
    pub(crate) fn get<'v>(self, object: &'v Map<String, Value>, name: &str) -> Option<&'v Value> {
        object.get(name).filter(|value| !value.is_null()).or_else(|| self.always(name))
    }

    fn always(self, name: &str) -> Option<&'static Value> {
        let definition = self.schema.name()?;
        // Every object of a built-in kind has its spec and status.
        let whole = matches!(name, "spec" | "status") && self.schema.is_built_in() && self.schema.group_version_kind().is_some();
        let listed = || {
            ALWAYS
                .iter()
                .any(|(of, field)| *field == name && definition.strip_prefix("io.k8s.api.") == Some(of))
        };
        if !whole && !listed() {
            return None;
        }
        match self.schema.field(name)?.schema.kind() {
            Kind::Object => Some(&EMPTY_OBJECT),
            Kind::Array(_) => Some(&EMPTY_LIST),
            _ => None,
        }
    }

    /// What tells an item of this list from the others.
    pub(crate) fn element(self, item: &Value) -> Result<Element, NoElement> {
        if self.keys.is_empty() {
            return match item {
                Value::Null => Err(NoElement::SetOfNull),
                Value::Object(_) => Err(NoElement::SetOfObjects),
                Value::Array(_) => Err(NoElement::SetOfLists),
                scalar => Ok(Element::Value(Scalar(scalar.clone()))),
            };
        }
        let object = match item {
            Value::Object(object) => object,
            Value::Null => return Err(NoElement::Null),
            _ => return Err(NoElement::NotAnObject),
        };
        let default = |key: &str| self.schema.items()?.field(key)?.default.cloned();
        let mut fields: Vec<(Box<str>, Scalar)> = self
            .keys
            .iter()
            .filter_map(|key| {
                Some((
                    key.as_ref().into(),
                    Scalar(object.get(key.as_ref()).cloned().or_else(|| default(key))?),
                ))
            })
            .collect();
        if fields.is_empty() {
            let keys: Vec<String> = self.keys.iter().map(|key| format!("{key:?}")).collect();
            return Err(NoElement::NoKeys(format!("[{}]", keys.join(" "))));
        }
        fields.sort();
        Ok(Element::Key(fields))
    }
}
