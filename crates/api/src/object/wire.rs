//! The JSON of an object, and a part of it that stays text.

use std::cell::Cell;
use std::fmt;
use std::sync::Arc;

use serde::de::value::MapDeserializer;
use serde::de::{DeserializeOwned, DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::ser::{Error as _, SerializeMap, SerializeSeq};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use super::{Object, TypeMeta};
use crate::typed::ObjectMeta;

/// Compact JSON that is kept as it was written, order of keys included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonText(Arc<str>);

impl JsonText {
    /// The JSON of a value.
    ///
    /// # Errors
    /// When the value does not serialize as JSON.
    pub fn of(value: &impl Serialize) -> Result<Self, serde_json::Error> {
        serde_json::to_string(value).map(|text| Self(text.into()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Serialize for JsonText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = serde_json::Deserializer::from_str(&self.0);
        Pipe(Cell::new(Some(&mut text))).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for JsonText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::of(&Pipe(Cell::new(Some(deserializer)))).map_err(D::Error::custom)
    }
}

/// Serializes what a deserializer reads, once.
struct Pipe<D>(Cell<Option<D>>);

impl<'de, D: Deserializer<'de>> Serialize for Pipe<D> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let deserializer = self.0.take().ok_or_else(|| S::Error::custom("a pipe is read once"))?;
        deserializer.deserialize_any(Emit(serializer)).map_err(S::Error::custom)
    }
}

/// Hands every value it visits to a serializer.
struct Emit<S>(S);

impl<'de, S: Serializer> Visitor<'de> for Emit<S> {
    type Value = S::Ok;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<S::Ok, E> {
        self.0.serialize_bool(value).map_err(E::custom)
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<S::Ok, E> {
        self.0.serialize_i64(value).map_err(E::custom)
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<S::Ok, E> {
        self.0.serialize_u64(value).map_err(E::custom)
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<S::Ok, E> {
        self.0.serialize_f64(value).map_err(E::custom)
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<S::Ok, E> {
        self.0.serialize_str(value).map_err(E::custom)
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<S::Ok, E> {
        self.0.serialize_unit().map_err(E::custom)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<S::Ok, A::Error> {
        let mut out = self.0.serialize_seq(None).map_err(A::Error::custom)?;
        while items.next_element_seed(Item(&mut out))?.is_some() {}
        out.end().map_err(A::Error::custom)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<S::Ok, A::Error> {
        let mut out = self.0.serialize_map(None).map_err(A::Error::custom)?;
        while let Some(key) = entries.next_key::<String>()? {
            out.serialize_key(&key).map_err(A::Error::custom)?;
            entries.next_value_seed(EntryValue(&mut out))?;
        }
        out.end().map_err(A::Error::custom)
    }
}

struct Item<'a, S>(&'a mut S);

impl<'de, S: SerializeSeq> DeserializeSeed<'de> for Item<'_, S> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        self.0
            .serialize_element(&Pipe(Cell::new(Some(deserializer))))
            .map_err(D::Error::custom)
    }
}

struct EntryValue<'a, S>(&'a mut S);

impl<'de, S: SerializeMap> DeserializeSeed<'de> for EntryValue<'_, S> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        self.0
            .serialize_value(&Pipe(Cell::new(Some(deserializer))))
            .map_err(D::Error::custom)
    }
}

/// `metadata` as it goes over the wire.
pub struct Metadata<'a> {
    meta: &'a ObjectMeta,
    managed_fields: Option<&'a JsonText>,
    revision: bool,
}

impl<'a> Metadata<'a> {
    pub(super) fn new(object: &'a Object) -> Self {
        Self {
            meta: &object.meta,
            managed_fields: object.managed_fields.as_ref(),
            revision: true,
        }
    }
}

impl Serialize for Metadata<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        fn entry<M: SerializeMap>(out: &mut M, key: &str, value: Option<&impl Serialize>) -> Result<(), M::Error> {
            value.map_or(Ok(()), |value| out.serialize_entry(key, value))
        }
        let meta = self.meta;
        let mut out = serializer.serialize_map(None)?;
        entry(&mut out, "annotations", meta.annotations.as_ref())?;
        entry(&mut out, "creationTimestamp", meta.creation_timestamp.as_ref())?;
        entry(&mut out, "deletionGracePeriodSeconds", meta.deletion_grace_period_seconds.as_ref())?;
        entry(&mut out, "deletionTimestamp", meta.deletion_timestamp.as_ref())?;
        entry(&mut out, "finalizers", meta.finalizers.as_ref())?;
        entry(&mut out, "generateName", meta.generate_name.as_ref())?;
        entry(&mut out, "generation", meta.generation.as_ref())?;
        entry(&mut out, "labels", meta.labels.as_ref())?;
        entry(&mut out, "managedFields", self.managed_fields)?;
        entry(&mut out, "name", meta.name.as_ref())?;
        entry(&mut out, "namespace", meta.namespace.as_ref())?;
        entry(&mut out, "ownerReferences", meta.owner_references.as_ref())?;
        entry(
            &mut out,
            "resourceVersion",
            meta.resource_version.as_ref().filter(|_| self.revision),
        )?;
        entry(&mut out, "selfLink", meta.self_link.as_ref())?;
        entry(&mut out, "uid", meta.uid.as_ref())?;
        out.end()
    }
}

/// The object without `managedFields`.
pub(super) struct Unmanaged<'a>(pub(super) &'a Object);

impl Serialize for Unmanaged<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let metadata = Metadata {
            meta: &self.0.meta,
            managed_fields: None,
            revision: true,
        };
        whole(self.0, &metadata, serializer)
    }
}

/// The object without `resourceVersion`.
pub(super) struct Unversioned<'a>(pub(super) &'a Object);

impl Serialize for Unversioned<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let metadata = Metadata {
            revision: false,
            ..self.0.metadata()
        };
        whole(self.0, &metadata, serializer)
    }
}

impl Serialize for Object {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        whole(self, &self.metadata(), serializer)
    }
}

fn whole<S: Serializer>(object: &Object, metadata: &Metadata<'_>, serializer: S) -> Result<S::Ok, S::Error> {
    let mut out = serializer.serialize_map(None)?;
    let TypeMeta { api_version, kind } = &object.types;
    for (key, text) in [("apiVersion", api_version), ("kind", kind)] {
        if !text.is_empty() {
            out.serialize_entry(key, text)?;
        }
    }
    out.serialize_entry("metadata", metadata)?;
    for (key, value) in &object.body {
        out.serialize_entry(key, value)?;
    }
    out.end()
}

/// A typed object from this one's parts, `managedFields` left out. The body is
/// read where it is: it may be long, and most of it is not kept.
pub(super) fn view<T: DeserializeOwned>(object: &Object) -> Result<T, serde_json::Error> {
    let metadata = serde_json::to_value(Metadata {
        meta: &object.meta,
        managed_fields: None,
        revision: true,
    })?;
    let types = [&object.types.api_version, &object.types.kind].map(|text| Value::from(text.as_str()));
    let head = [("apiVersion", &types[0]), ("kind", &types[1]), ("metadata", &metadata)];
    let given = head.into_iter().filter(|(_, value)| value.as_str() != Some(""));
    let body = object.body.iter().map(|(key, value)| (key.as_str(), value));
    T::deserialize(MapDeserializer::new(given.chain(body)))
}

/// An object from its JSON. What becomes the body is moved, not read.
pub(super) fn read(value: Value) -> Result<Object, serde_json::Error> {
    let Value::Object(mut body) = value else {
        return serde_json::from_value(value);
    };
    let head: Map<String, Value> = ["apiVersion", "kind", "metadata"]
        .into_iter()
        .filter_map(|key| body.remove_entry(key))
        .collect();
    let mut object: Object = serde_json::from_value(Value::Object(head))?;
    object.body = body;
    Ok(object)
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor)
    }
}

struct ObjectVisitor;

impl<'de> Visitor<'de> for ObjectVisitor {
    type Value = Object;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an API object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Object, A::Error> {
        let mut object = Object::default();
        let mut body = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            match key.as_str() {
                "apiVersion" => object.types.api_version = entries.next_value()?,
                "kind" => object.types.kind = entries.next_value()?,
                "metadata" => entries.next_value_seed(MetadataOf(&mut object))?,
                _ => {
                    body.insert(key, entries.next_value::<Value>()?);
                }
            }
        }
        object.body = body;
        Ok(object)
    }
}

/// Reads `metadata` into an object.
struct MetadataOf<'a>(&'a mut Object);

impl<'de> DeserializeSeed<'de> for MetadataOf<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for MetadataOf<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ObjectMeta")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let meta = &mut self.0.meta;
        while let Some(key) = entries.next_key::<String>()? {
            match key.as_str() {
                "annotations" => meta.annotations = entries.next_value()?,
                "creationTimestamp" => meta.creation_timestamp = entries.next_value()?,
                "deletionGracePeriodSeconds" => meta.deletion_grace_period_seconds = entries.next_value()?,
                "deletionTimestamp" => meta.deletion_timestamp = entries.next_value()?,
                "finalizers" => meta.finalizers = entries.next_value()?,
                "generateName" => meta.generate_name = entries.next_value()?,
                "generation" => meta.generation = entries.next_value()?,
                "labels" => meta.labels = entries.next_value()?,
                "managedFields" => self.0.managed_fields = Some(entries.next_value::<JsonText>()?).filter(|text| text.as_str() != "null"),
                "name" => meta.name = entries.next_value()?,
                "namespace" => meta.namespace = entries.next_value()?,
                "ownerReferences" => meta.owner_references = entries.next_value()?,
                "resourceVersion" => meta.resource_version = entries.next_value()?,
                "selfLink" => meta.self_link = entries.next_value()?,
                "uid" => meta.uid = entries.next_value()?,
                _ => {
                    entries.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}
