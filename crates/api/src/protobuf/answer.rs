//! What a server answers: objects as it holds them, lists of them, and the
//! frames of a watch, written without a JSON value of the whole.
//!
//! Source: upstream `apimachinery/pkg/runtime/serializer/protobuf`,
//! `apimachinery/pkg/util/framer`, `apimachinery/pkg/apis/meta/v1/generated.proto`.

use serde_json::Value;

use super::encode::{self, Fields};
use super::{Fault, Located, ProtobufError, schema_of, sealed, wire};
use crate::object::{Object, TypeMeta};
use crate::schema::{Schema, named};

/// Of a list, and of `PartialObjectMetadata`.
const METADATA: u32 = 1;
/// Of a list.
const ITEMS: u32 = 2;
/// Of `metav1.WatchEvent`: `type`, `object`; of `runtime.RawExtension`: `raw`.
const EVENT: (u32, u32, u32) = (1, 2, 1);
/// The group and version of metadata alone.
const META: &str = "meta.k8s.io/v1";

/// The bytes of an object.
///
/// # Errors
/// As [`encode`](super::encode).
pub fn object(object: &Object) -> Result<Vec<u8>, ProtobufError> {
    let schema = known(&object.types)?;
    sealed(&object.types, |out| raw(schema, object, out))
}

/// The bytes of a list of `kind`, such as `PodList`. `metadata` is the list's.
///
/// # Errors
/// As [`encode`](super::encode).
pub fn list<'a>(
    types: &TypeMeta,
    metadata: &Value,
    items: impl Iterator<Item = &'a Object>,
    item_types: &TypeMeta,
) -> Result<Vec<u8>, ProtobufError> {
    let schema = known(item_types)?;
    sealed(types, |out| {
        wire::message(out, METADATA, |out| encode::message(list_meta()?, metadata, out))?;
        items
            .into_iter()
            .try_for_each(|item| wire::message(out, ITEMS, |out| raw(schema, item, out)))
    })
}

/// The bytes of an object as `PartialObjectMetadata`.
///
/// # Errors
/// As [`encode`](super::encode).
pub fn partial(object: &Object) -> Result<Vec<u8>, ProtobufError> {
    sealed(&meta_types("PartialObjectMetadata"), |out| raw_partial(object, out))
}

/// The bytes of a `PartialObjectMetadataList`.
///
/// # Errors
/// As [`encode`](super::encode).
pub fn partial_list<'a>(metadata: &Value, mut items: impl Iterator<Item = &'a Object>) -> Result<Vec<u8>, ProtobufError> {
    sealed(&meta_types("PartialObjectMetadataList"), |out| {
        wire::message(out, METADATA, |out| encode::message(list_meta()?, metadata, out))?;
        items.try_for_each(|item| wire::message(out, ITEMS, |out| raw_partial(item, out)))
    })
}

/// A frame of a watch: its length in four bytes, and an event of a type with
/// the bytes of an object, which carry their own envelope.
#[must_use]
pub fn frame(kind: &str, object: &[u8]) -> Vec<u8> {
    let mut event = vec![0; 4];
    wire::bytes(&mut event, EVENT.0, kind.as_bytes());
    let nested = wire::message(&mut event, EVENT.1, |out| {
        wire::bytes(out, EVENT.2, object);
        Ok::<(), std::convert::Infallible>(())
    });
    match nested {
        Ok(()) => {}
        Err(never) => match never {},
    }
    let length = u32::try_from(event.len() - 4).unwrap_or(u32::MAX);
    event[..4].copy_from_slice(&length.to_be_bytes());
    event
}

fn meta_types(kind: &str) -> TypeMeta {
    TypeMeta {
        api_version: META.to_owned(),
        kind: kind.to_owned(),
    }
}

fn known(types: &TypeMeta) -> Result<Schema<'static>, ProtobufError> {
    schema_of(types).ok_or_else(|| ProtobufError::Kind { types: types.clone() })
}

fn list_meta() -> Result<Schema<'static>, Fault> {
    named("io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta").ok_or(Fault::Shape { wanted: "of a known kind" })
}

fn metadata(object: &Object) -> Result<Value, Fault> {
    serde_json::to_value(object.metadata()).map_err(|_| Fault::Shape { wanted: "metadata" })
}

fn raw(schema: Schema<'static>, object: &Object, out: &mut Vec<u8>) -> Result<(), Located> {
    let metadata = metadata(object)?;
    let fields = Fields {
        body: &object.body,
        metadata: Some(&metadata),
    };
    encode::fields(schema, fields, out)
}

fn raw_partial(object: &Object, out: &mut Vec<u8>) -> Result<(), Located> {
    let schema = named("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta").ok_or(Fault::Shape { wanted: "of a known kind" })?;
    let metadata = metadata(object)?;
    wire::message(out, METADATA, |out| encode::message(schema, &metadata, out))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::protobuf::{decode, wire::Reader};

    fn pod(name: &str) -> Object {
        serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "labels": {"a": "b"}, "creationTimestamp": "2026-01-02T03:04:05Z",
                "managedFields": [{"manager": "m", "fieldsV1": {"f:spec": {}}}]},
            "spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": "500m"}}}], "terminationGracePeriodSeconds": 0},
        }))
        .unwrap()
    }

    #[test]
    fn an_object_in_parts_is_the_object() {
        let pod = pod("p");
        let (types, value) = decode(&object(&pod).unwrap(), 64).unwrap();
        assert_eq!((types, value), (pod.types.clone(), serde_json::to_value(&pod).unwrap()));
    }

    #[test]
    fn a_list_holds_its_items_without_their_types() {
        let types = TypeMeta {
            api_version: "v1".to_owned(),
            kind: "PodList".to_owned(),
        };
        let pods = [pod("p"), pod("q")];
        let metadata = json!({"resourceVersion": "7", "continue": "c", "remainingItemCount": 3});
        let bytes = list(&types, &metadata, pods.iter(), &pods[0].types).unwrap();
        let (decoded, value) = decode(&bytes, 64).unwrap();
        assert_eq!((decoded.kind.as_str(), &value["metadata"]), ("PodList", &metadata));
        let mut second = serde_json::to_value(&pods[1]).unwrap();
        second
            .as_object_mut()
            .unwrap()
            .retain(|name, _| name != "kind" && name != "apiVersion");
        assert_eq!((&value["items"][1], value["items"].as_array().unwrap().len()), (&second, 2));
    }

    #[test]
    fn a_frame_says_its_length() {
        let bytes = partial(&pod("p")).unwrap();
        let frame = frame("ADDED", &bytes);
        let length = u32::from_be_bytes(frame[..4].try_into().unwrap()) as usize;
        assert_eq!(length, frame.len() - 4);
        let mut reader = Reader::new(&frame[4..]);
        let (number, wire) = reader.tag().unwrap().unwrap();
        assert_eq!((number, reader.text(wire).unwrap()), (1, "ADDED"));
        let (number, wire) = reader.tag().unwrap().unwrap();
        let mut inner = Reader::new(reader.bytes(wire).unwrap());
        let (raw, wire) = inner.tag().unwrap().unwrap();
        assert_eq!((number, raw, inner.bytes(wire).unwrap()), (2, 1, bytes.as_slice()));
        assert!(reader.is_empty());
    }

    #[test]
    fn metadata_alone_is_metadata_alone() {
        let with_spec = partial(&pod("p")).unwrap();
        let without = Object {
            body: serde_json::Map::new(),
            ..pod("p")
        };
        assert_eq!(with_spec, partial(&without).unwrap());
        // A list of it is metadata of its own, and the same message as item.
        let listed = partial_list(&json!({"resourceVersion": "7"}), [pod("p"), pod("p")].iter()).unwrap();
        let mut item = Vec::new();
        raw_partial(&pod("p"), &mut item).map_err(ProtobufError::from).unwrap();
        let found = listed.windows(item.len()).filter(|window| *window == item).count();
        assert_eq!(found, 2);
    }

    #[test]
    fn a_kind_without_numbers_has_no_bytes() {
        let mut thing = pod("p");
        thing.types.kind = "Thing".to_owned();
        assert!(matches!(object(&thing), Err(ProtobufError::Kind { .. })));
    }
}
