use std::collections::HashSet;

use proptest::prelude::*;
use serde_json::{Map, json};

use super::*;
use crate::schema::{Kind, check};

/// What kubectl 1.33 sends for some commands, and kubectl 1.31, which did not
/// send protobuf yet, for the same ones: a command, hexadecimal, JSON.
const KUBECTL: &str = include_str!("kubectl.txt");
const MAX_DEPTH: usize = 64;

fn kubectl() -> Vec<(&'static str, Vec<u8>, Value)> {
    let lines: Vec<&str> = KUBECTL.lines().collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    lines
        .chunks(3)
        .map(|chunk| {
            let bytes = chunk[1].as_bytes().chunks(2).map(byte).collect();
            (chunk[0], bytes, serde_json::from_str(chunk[2]).unwrap())
        })
        .collect()
}

fn without_null(mut value: Value) -> Value {
    match &mut value {
        Value::Object(object) => {
            object.retain(|_, child| !child.is_null());
            object.values_mut().for_each(|child| *child = without_null(child.take()));
        }
        Value::Array(items) => items.iter_mut().for_each(|child| *child = without_null(child.take())),
        _ => {}
    }
    value
}

/// An envelope around bytes.
fn sealed(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    wire::message(&mut out, 1, |out| {
        wire::bytes(out, 1, api_version.as_bytes());
        wire::bytes(out, 2, kind.as_bytes());
        Ok::<(), Located>(())
    })
    .map_err(ProtobufError::from)
    .unwrap();
    wire::bytes(&mut out, 2, raw);
    out
}

fn pod(raw: &[u8]) -> Result<Value, ProtobufError> {
    decode(&sealed("v1", "Pod", raw), MAX_DEPTH).map(|(_, value)| value)
}

#[test]
fn kubectl_s_protobuf_says_what_its_json_said() {
    let commands = kubectl();
    assert!(commands.len() > 15);
    for (command, bytes, value) in commands {
        let (types, decoded) = decode(&bytes, MAX_DEPTH).unwrap_or_else(|error| panic!("{command}: {error}"));
        assert_eq!(decoded, without_null(value), "{command}");
        assert_eq!(decoded["kind"], types.kind.as_str(), "{command}");
        let again = encode(&decoded).unwrap_or_else(|error| panic!("{command}: {error}"));
        assert_eq!(decode(&again, MAX_DEPTH).unwrap().1, decoded, "{command}");
    }
}

#[test]
fn the_table_is_sound() {
    let table = numbers::decode(include_str!("../schema/v1_33.numbers")).unwrap();
    assert!(table.len() > 300);
    for (schema, fields) in &table {
        let name = schema.name().unwrap();
        let at: HashSet<(u32, u32)> = fields.iter().map(|field| (field.holder, field.number)).collect();
        assert_eq!(at.len(), fields.len(), "{name}: two fields in one place");
        for field in fields {
            assert!(
                !at.contains(&(0, field.holder)),
                "{name}.{}: in a message that is a field itself",
                field.name
            );
            // No wire form exists for these, and no code.
            match field.schema.kind() {
                Kind::Array(items) => assert!(!matches!(items.kind(), Kind::Array(_) | Kind::Map(_)), "{name}.{}", field.name),
                Kind::Map(values) => assert!(!matches!(values.kind(), Kind::Map(_)), "{name}.{}", field.name),
                _ => {}
            }
        }
        let types = usize::from(schema.group_version_kind().is_some()) * 2;
        assert_eq!(fields.len() + types, schema.fields().count(), "{name}: every field has a number");
    }
    let broken = [
        (
            "io.k8s.api.core.v1.Nothing a=1",
            "definition io.k8s.api.core.v1.Nothing of the field numbers is not in the schema table",
        ),
        (
            "io.k8s.api.core.v1.Pod a=1",
            "the schema table has no field for \"a\" of io.k8s.api.core.v1.Pod",
        ),
        (
            "io.k8s.api.core.v1.Pod spec=x",
            "field \"spec=x\" of io.k8s.api.core.v1.Pod has no readable number",
        ),
    ];
    for (source, message) in broken {
        assert_eq!(numbers::decode(source).unwrap_err().to_string(), message);
    }
}

/// What upstream's Go types write for a Pod, byte by byte: fields of structs
/// that are embedded, zeros that mean nothing and zeros that mean zero.
#[test]
fn values_are_those_of_upstream_s_json() {
    let table: &[(&[u8], Value)] = &[
        // hostNetwork false and nodeName "" are not set; terminationGracePeriodSeconds is a pointer.
        (
            b"\x12\x06\x58\x00\x52\x00\x20\x00",
            json!({"spec": {"terminationGracePeriodSeconds": 0}}),
        ),
        // A volume's source is embedded in field 2; emptyDir is an empty message there.
        (
            b"\x12\x0b\x0a\x09\x0a\x01v\x12\x04\x12\x02\x0a\x00",
            json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}}),
        ),
        // A required text stays, an optional one goes.
        (b"\x12\x06\x12\x04\x0a\x00\x12\x00", json!({"spec": {"containers": [{"name": ""}]}})),
        // No time; half a second past the epoch; before it.
        (b"\x0a\x02\x42\x00", json!({"metadata": {}})),
        (
            b"\x0a\x0a\x42\x08\x08\x00\x10\x80\xca\xb5\xee\x01",
            json!({"metadata": {"creationTimestamp": "1970-01-01T00:00:00Z"}}),
        ),
        (
            b"\x0a\x0d\x42\x0b\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
            json!({"metadata": {"creationTimestamp": "1969-12-31T23:59:59Z"}}),
        ),
        // A map entry without a value.
        (b"\x0a\x05\x5a\x03\x0a\x01k", json!({"metadata": {"labels": {"k": ""}}})),
        // supplementalGroups one by one and packed; int32 of ten bytes.
        (
            b"\x12\x0a\x72\x08\x20\x01\x22\x02\x02\x03\x20\x04",
            json!({"spec": {"securityContext": {"supplementalGroups": [1, 2, 3, 4]}}}),
        ),
        (
            b"\x12\x0c\xc8\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
            json!({"spec": {"priority": -1}}),
        ),
        // A message in two parts is one; field 1000 is of the future.
        (
            b"\x12\x07\x52\x01n\xc2\x3e\x01x\x12\x04\x82\x01\x01h",
            json!({"spec": {"nodeName": "n", "hostname": "h"}}),
        ),
    ];
    for (raw, value) in table {
        let mut decoded = pod(raw).unwrap_or_else(|error| panic!("{raw:x?}: {error}"));
        let object = decoded.as_object_mut().unwrap();
        assert_eq!(
            (object.remove("apiVersion"), object.remove("kind")),
            (Some(json!("v1")), Some(json!("Pod")))
        );
        assert_eq!(&decoded, value, "{raw:x?}");
    }
}

#[test]
fn special_types_both_ways() {
    let objects = [
        json!({"apiVersion": "v1", "kind": "Service", "spec": {"ports": [
            {"port": 80, "targetPort": "http"}, {"port": 81, "targetPort": 0}, {"port": 82, "targetPort": -5}]}}),
        json!({"apiVersion": "v1", "kind": "Secret", "data": {"a": "AAH/", "b": ""}}),
        json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l"},
            "spec": {"renewTime": "1969-12-31T23:59:59.000001Z", "leaseDurationSeconds": 0}}),
        json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
            "spec": {"extra": {"scopes": ["a", "b"], "none": []}}, "status": {"allowed": false}}),
        json!({"apiVersion": "apps/v1", "kind": "ControllerRevision", "data": {"spec": [1, null, {"a": 1.5}]}, "revision": 0}),
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"managedFields": [{"fieldsV1": {"f:spec": {}}}]}}),
        json!({"apiVersion": "v1", "kind": "PodList", "metadata": {"resourceVersion": "5", "remainingItemCount": 0},
            "items": [{"metadata": {"name": "a"}, "spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": "500m"}}}]}}]}),
        json!({"apiVersion": "apps/v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0, "preconditions": {"uid": "u"}}),
        json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "code": 404, "details": {"causes": [{"field": "f"}]}}),
    ];
    for object in objects {
        let (_, decoded) = decode(&encode(&object).unwrap(), MAX_DEPTH).unwrap();
        assert_eq!(decoded, object);
    }
}

#[test]
fn an_object_in_its_own_envelope_is_unwrapped() {
    let inner = encode(&json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}})).unwrap();
    let mut raw = Vec::new();
    wire::message(&mut raw, 2, |out| {
        wire::bytes(out, 1, &inner);
        Ok::<(), Located>(())
    })
    .map_err(ProtobufError::from)
    .unwrap();
    let (_, revision) = decode(&sealed("apps/v1", "ControllerRevision", &raw), MAX_DEPTH).unwrap();
    assert_eq!(
        revision["data"],
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}})
    );
    let error = decode(&sealed("apps/v1", "ControllerRevision", &raw), 2).unwrap_err();
    assert_eq!(
        error.to_string(),
        "data: the embedded object: metadata: the object nests deeper than 1 levels"
    );
}

#[test]
fn bytes_that_are_no_object_are_refused() {
    let refused = |bytes: &[u8]| decode(bytes, MAX_DEPTH).unwrap_err().to_string();
    assert_eq!(
        refused(b"{}"),
        "the body does not begin with the four bytes \"k8s\\0\" of Kubernetes protobuf"
    );
    assert_eq!(
        refused(b"k8s\0\x0a\x05v1"),
        "the envelope of the body is not a runtime.Unknown: the message ends inside a value"
    );
    assert_eq!(refused(b"k8s\0"), "the kind \"\" of \"\" has no protobuf form here; send JSON");
    assert_eq!(
        refused(&sealed("metrics.k8s.io/v1beta1", "PodMetrics", b"")),
        "the kind \"PodMetrics\" of \"metrics.k8s.io/v1beta1\" has no protobuf form here; send JSON"
    );
    let mut zipped = sealed("v1", "Pod", b"");
    wire::bytes(&mut zipped, 3, b"gzip");
    assert_eq!(
        refused(&zipped),
        "the object in the envelope is of the content encoding \"gzip\" and content type \"\"; send plain protobuf"
    );
    let table: &[(&[u8], &str)] = &[
        (
            b"\x12\x02\x10\x01",
            "spec.containers: it was sent as a varint, not as a run of bytes",
        ),
        (b"\x12\x03\x52\x01\xff", "spec.nodeName: the text is not UTF-8"),
        (
            b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
            "spec: the message ends inside a value",
        ),
        (
            b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02",
            "spec: a number is longer than 64 bits",
        ),
        (b"\x13", "the wire type 3 is not in use"),
        (b"\x02\x00", "the field number 0 is out of range"),
        (b"\x80\x80\x80\x80\x80\x80\x01\x00", "the field number 549755813888 is out of range"),
        (
            b"\x0a\x0c\x42\x0a\x08\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
            "metadata.creationTimestamp: 9223372036854775807 seconds since 1970 is not a time that can be written down",
        ),
    ];
    for (raw, message) in table {
        assert_eq!(pod(raw).unwrap_err().to_string(), *message, "{raw:x?}");
    }
    let service = decode(&sealed("v1", "Service", b"\x12\x08\x0a\x06\x22\x02\x08\x02\x18\x50"), MAX_DEPTH);
    assert_eq!(
        service.unwrap_err().to_string(),
        "spec.ports.targetPort: the type 2 of an IntOrString is neither 0 (a number) nor 1 (a text)"
    );
    let revision = decode(&sealed("apps/v1", "ControllerRevision", b"\x12\x03\x0a\x01{"), MAX_DEPTH).unwrap_err();
    assert!(
        revision.to_string().starts_with("data: the embedded object: the body is not JSON"),
        "{revision}"
    );
    let node = decode(&sealed("v1", "Node", b"\x1a\x0d\x0a\x0b\x0a\x03cpu\x12\x04\x0a\x021x"), MAX_DEPTH);
    assert!(
        node.unwrap_err()
            .to_string()
            .starts_with("status.capacity.cpu: quantities must match")
    );
    let deep = decode(&sealed("v1", "Pod", b"\x12\x02\x12\x00"), 3).unwrap_err();
    assert_eq!(deep.to_string(), "spec.containers: the object nests deeper than 3 levels");
}

#[test]
fn values_that_are_not_of_their_type_are_refused() {
    let table = [
        (
            json!({"kind": "Pod", "apiVersion": "v9"}),
            "the kind \"Pod\" of \"v9\" has no protobuf form here; send JSON",
        ),
        (json!([]), "the kind \"\" of \"\" has no protobuf form here; send JSON"),
        (
            json!({"kind": "Pod", "apiVersion": "v1", "spec": []}),
            "spec: the value is not an object",
        ),
        (
            json!({"kind": "Pod", "apiVersion": "v1", "spec": {"x": 1}}),
            "spec: the field \"x\" is not known",
        ),
        (
            json!({"kind": "Pod", "apiVersion": "v1", "spec": {"priority": 1_u64 << 31}}),
            "spec.priority: the value is not a 32-bit integer",
        ),
        (
            json!({"kind": "Secret", "apiVersion": "v1", "data": {"a": "?"}}),
            "data.a: the value is not base64",
        ),
        (
            json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"creationTimestamp": "now"}}),
            "metadata.creationTimestamp: the value is not a time as of RFC 3339",
        ),
    ];
    for (object, message) in table {
        assert_eq!(encode(&object).unwrap_err().to_string(), message);
    }
}

/// Makes values of a schema out of random words.
struct Maker(Vec<u32>);

impl Maker {
    fn pick(&mut self, below: u32) -> u32 {
        self.0.pop().unwrap_or(0) % below
    }

    fn object(&mut self, schema: Schema<'static>, root: bool, depth: usize) -> Value {
        let mut object = Map::new();
        let types = schema.group_version_kind();
        if let (true, Some((group, version, kind))) = (root, types) {
            let api_version = if group.is_empty() {
                version.to_owned()
            } else {
                format!("{group}/{version}")
            };
            object.insert("apiVersion".to_owned(), Value::from(api_version));
            object.insert("kind".to_owned(), Value::from(kind));
        }
        for field in numbers::of(schema) {
            // Sparse where objects are large, so that they stay small.
            if depth > 0 && self.pick(if root { 2 } else { 4 }) == 1 {
                let value = self.value(field.schema, depth - 1, field.keeps_zero);
                object.insert(field.name.to_owned(), value);
            }
        }
        Value::Object(object)
    }

    fn value(&mut self, schema: Schema<'static>, depth: usize, zero: bool) -> Value {
        let least = i32::from(!zero);
        let number = |maker: &mut Self| match maker.pick(3) {
            0 => least,
            1 => i32::MIN,
            _ => i32::MAX,
        };
        match schema.kind() {
            Kind::Object => self.object(schema, false, depth),
            Kind::Array(items) => (0..=self.pick(2)).map(|_| self.value(items, depth, true)).collect(),
            Kind::Map(values) => {
                let keys = ["", "a", "b.c/d"].into_iter().take(1 + self.pick(3) as usize);
                Value::Object(keys.map(|key| (key.to_owned(), self.value(values, depth, true))).collect())
            }
            Kind::String => Value::from(["", "x", "ä\u{0}\n"][least as usize + self.pick(2) as usize]),
            Kind::Bytes => Value::from(["", "AA==", "/+8="][least as usize + self.pick(2) as usize]),
            Kind::Int32 => Value::from(number(self)),
            Kind::Int64 => Value::from(i64::from(number(self)) << 16),
            Kind::Number => Value::from(f64::from(number(self)) / 4.0),
            Kind::Boolean => Value::from(!zero || self.pick(2) == 1),
            Kind::IntOrString => [json!(0), json!(-1), json!(""), json!("50%")][self.pick(4) as usize].clone(),
            Kind::Quantity => Value::from(["0", "100m", "1Gi"][self.pick(3) as usize]),
            Kind::Time => Value::from(["1970-01-01T00:00:00Z", "0001-01-01T00:00:00Z", "9999-12-30T22:00:00Z"][self.pick(3) as usize]),
            Kind::MicroTime => Value::from(["1970-01-01T00:00:00.000001Z", "1902-02-03T04:05:06.999999Z"][self.pick(2) as usize]),
            Kind::Any => [json!({}), json!({"f:a": {".": {}}}), json!([null, 1.5])][self.pick(3) as usize].clone(),
        }
    }
}

fn roots() -> Vec<Schema<'static>> {
    let definitions = include_str!("../schema/v1_33.numbers").lines();
    definitions
        .filter_map(|line| named(line.split(' ').next()?))
        .filter(|schema| schema.group_version_kind().is_some())
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_kind_survives_the_way_there_and_back(words in prop::collection::vec(any::<u32>(), 400)) {
        for schema in roots() {
            let object = Maker(words.clone()).object(schema, true, 8);
            prop_assert!(check(schema, &object).is_ok(), "{object}");
            let bytes = encode(&object).map_err(|error| TestCaseError::fail(format!("{error}: {object}")))?;
            let (_, decoded) = decode(&bytes, MAX_DEPTH).map_err(|error| TestCaseError::fail(format!("{error}: {object}")))?;
            prop_assert_eq!(decoded, object);
        }
    }

    /// Any answer but a panic is right; an object must have its kind's shape.
    #[test]
    fn hostile_bytes_are_refused_or_read(raw in prop::collection::vec(any::<u8>(), 0..200), at in any::<prop::sample::Index>()) {
        let _ = decode(&raw, MAX_DEPTH);
        for schema in roots() {
            let (group, version, kind) = schema.group_version_kind().unwrap();
            let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
            if let Ok((_, value)) = decode(&sealed(&api_version, kind, &raw), MAX_DEPTH) {
                prop_assert!(check(schema, &value).is_ok(), "{}", value);
            }
        }
        for (command, mut bytes, _) in kubectl() {
            let start = at.index(bytes.len());
            for (byte, noise) in bytes[start..].iter_mut().zip(raw.iter().take(3)) {
                *byte ^= noise;
            }
            if let Ok((types, value)) = decode(&bytes, MAX_DEPTH) {
                let schema = schema_of(&types).unwrap();
                prop_assert!(check(schema, &value).is_ok(), "{}: {}", command, value);
                let again = encode(&value).map_err(|error| TestCaseError::fail(format!("{error}: {value}")))?;
                prop_assert!(decode(&again, MAX_DEPTH).is_ok());
            }
        }
    }
}

#[test]
fn every_cut_of_a_body_is_refused_or_read() {
    for (command, bytes, value) in kubectl() {
        for length in 0..bytes.len() {
            if let Ok((_, cut)) = decode(&bytes[..length], MAX_DEPTH) {
                assert_eq!(cut["kind"], value["kind"], "{command} cut to {length} bytes");
            }
        }
    }
}
