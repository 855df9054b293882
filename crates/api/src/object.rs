//! Any API object: typed metadata and a JSON body.
//!
//! Storage, watch, selectors, patch and printing work on this generic form;
//! behaviour that needs types asks for a [`view`](Object::view).

mod wire;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use self::wire::{JsonText, Metadata};
use crate::typed::ObjectMeta;

/// `apiVersion` and `kind` of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TypeMeta {
    /// `group/version`, or `version` alone for the core group.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub api_version: String,
    /// For example `Pod`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub kind: String,
}

/// Any API object. Unknown fields have already been pruned or rejected, per
/// the request's `fieldValidation`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Object {
    /// `apiVersion` and `kind`.
    pub types: TypeMeta,
    /// `metadata`, without `managedFields`.
    pub meta: ObjectMeta,
    /// `metadata.managedFields`. Few readers need it and it is as large as
    /// the rest of many objects, so it stays text until somebody writes.
    pub managed_fields: Option<JsonText>,
    /// Everything else: `spec`, `status`, `data`, ...
    pub body: Map<String, Value>,
}

/// An object's JSON did not have the shape a typed view needs.
#[derive(Debug, thiserror::Error)]
#[error("{kind} {name} does not have the shape of its kind")]
pub struct ViewError {
    /// Kind of the object.
    pub kind: String,
    /// Name of the object.
    pub name: String,
    /// What was wrong where.
    #[source]
    pub source: serde_json::Error,
}

impl Object {
    /// Decodes a typed view of the object, `managedFields` left out.
    ///
    /// # Errors
    /// Only on a shape the schema would refuse.
    pub fn view<T: DeserializeOwned>(&self) -> Result<T, ViewError> {
        wire::view(self).map_err(|source| ViewError {
            kind: self.types.kind.clone(),
            name: self.name().to_owned(),
            source,
        })
    }

    /// The object as JSON, `managedFields` left out.
    ///
    /// # Errors
    /// Never for an object that was decoded; the encoder's signature has one.
    pub fn value(&self) -> Result<Value, serde_json::Error> {
        serde_json::to_value(wire::Unmanaged(self))
    }

    /// The object as it is stored: what its revision is, the store knows.
    #[must_use]
    pub fn unversioned(&self) -> impl Serialize {
        wire::Unversioned(self)
    }

    /// `metadata` as it goes over the wire, `managedFields` included.
    #[must_use]
    pub fn metadata(&self) -> Metadata<'_> {
        Metadata::new(self)
    }

    /// An object from its JSON; what is neither `metadata` nor the type is
    /// taken as it is.
    ///
    /// # Errors
    /// When the value, its `metadata` or its type does not have the shape of
    /// an API object's.
    pub fn from_value(value: Value) -> Result<Self, serde_json::Error> {
        wire::read(value)
    }

    /// Encodes a typed object. `T` must serialize as a JSON object, as every
    /// `k8s-openapi` resource does.
    ///
    /// # Errors
    /// When `T` does not serialize as an API object.
    pub fn from_typed<T: Serialize>(typed: &T) -> Result<Self, serde_json::Error> {
        serde_json::to_value(typed).and_then(Self::from_value)
    }

    /// `metadata.name`, or the empty string.
    #[must_use]
    pub fn name(&self) -> &str {
        self.meta.name.as_deref().unwrap_or_default()
    }

    /// `metadata.namespace`, or the empty string for cluster-scoped objects.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.meta.namespace.as_deref().unwrap_or_default()
    }

    /// `metadata.uid`, or the empty string.
    #[must_use]
    pub fn uid(&self) -> &str {
        self.meta.uid.as_deref().unwrap_or_default()
    }

    /// The value at a dotted path such as `spec.nodeName` or `.status.phase`,
    /// metadata excluded. Field names that hold dots cannot be reached.
    #[must_use]
    pub fn at(&self, path: &str) -> Option<&Value> {
        let mut parts = path.trim_start_matches('.').split('.');
        let mut value = self.body.get(parts.next()?)?;
        for part in parts {
            value = value.get(part)?;
        }
        Some(value)
    }

    /// The string at a dotted path, or the empty string.
    #[must_use]
    pub fn str_at(&self, path: &str) -> &str {
        self.at(path).and_then(Value::as_str).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_keeps_what_it_does_not_know() {
        let text = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{"nodeName":"n"},"later":{"x":1}}"#;
        let object: Object = serde_json::from_str(text).unwrap();
        assert_eq!(object.name(), "a");
        assert_eq!(object.str_at("spec.nodeName"), "n");
        assert_eq!(serde_json::to_value(&object).unwrap(), serde_json::from_str::<Value>(text).unwrap());
    }

    #[test]
    fn an_object_is_read_from_a_value_as_from_text() {
        let texts = [
            r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","managedFields":[{"manager":"m"}]},"spec":{"nodeName":"n"},"later":[1]}"#,
            r#"{"metadata":{"name":null,"labels":{"a":"b"}}}"#,
            r#"{"kind":"Pod"}"#,
            r#"{"kind":7}"#,
            r#"{"metadata":"none"}"#,
            r#"{"metadata":{"labels":{"a":1}}}"#,
            r#"["no","object"]"#,
        ];
        for text in texts {
            let value: Value = serde_json::from_str(text).unwrap();
            let read = Object::from_value(value.clone()).map_err(|error| error.to_string());
            assert_eq!(read, serde_json::from_value(value).map_err(|error| error.to_string()), "{text}");
        }
    }

    #[test]
    fn a_view_is_what_its_type_reads_from_the_whole() {
        let text = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","uid":"u","managedFields":[{"manager":"m"}]},"spec":{"containers":[{"name":"c"}],"nodeName":"n"}}"#;
        let object: Object = serde_json::from_str(text).unwrap();
        let pod: crate::typed::Pod = object.view().unwrap();
        assert_eq!(pod, serde_json::from_value(object.value().unwrap()).unwrap());
        assert_eq!(pod.metadata.managed_fields, None);
        let wrong: Object = serde_json::from_str(r#"{"kind":"Pod","metadata":{"name":"a"},"spec":{"containers":3}}"#).unwrap();
        let error = wrong.view::<crate::typed::Pod>().unwrap_err();
        assert_eq!(error.to_string(), "Pod a does not have the shape of its kind");
    }

    #[test]
    fn managed_fields_stay_text_in_their_own_order() {
        let text = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"annotations":{"a":"\"b\""},"managedFields":[{"manager":"m","fieldsV1":{"k:{\"p\":80}":{".":{}},"f:b":{},"f:a":{"v:1":{}}}}],"name":"a","uid":"u"},"spec":{}}"#;
        let object: Object = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&object).unwrap(), text);
        assert_eq!(object.value().unwrap()["metadata"].get("managedFields"), None);
        let value: Value = serde_json::from_str(text).unwrap();
        let again: Object = serde_json::from_value(value.clone()).unwrap();
        assert_eq!(serde_json::to_value(&again).unwrap(), value);
        assert_eq!(serde_json::to_value(object.metadata()).unwrap(), value["metadata"]);
    }
}
