//! The parts of an OpenAPI v2 document in the protobuf encoding of gnostic.
//!
//! Parts are made as JSON first; what JSON calls a member, a message numbers.
//! Members this file does not number are left out: the document's own parts
//! have none.
//!
//! Source: gnostic `openapiv2/OpenAPIv2.proto`; Protocol Buffers "Encoding".

use api::protobuf::write;
use serde_json::{Map, Value};

/// A protobuf message: length-delimited fields in the order they are added.
#[derive(Default)]
pub(super) struct Message(pub(super) Vec<u8>);

impl Message {
    pub(super) fn text(self, field: u32, text: &str) -> Self {
        self.bytes(field, text.as_bytes())
    }

    pub(super) fn message(self, field: u32, message: Self) -> Self {
        self.bytes(field, &message.0)
    }

    fn bytes(mut self, field: u32, bytes: &[u8]) -> Self {
        write::bytes(&mut self.0, field, bytes);
        self
    }

    fn boolean(mut self, field: u32, value: bool) -> Self {
        if value {
            write::varint(&mut self.0, field, 1);
        }
        self
    }

    /// A text member under its number, if it is there.
    fn member(self, value: &Value, name: &str, field: u32) -> Self {
        match value[name].as_str() {
            Some(text) => self.text(field, text),
            None => self,
        }
    }

    fn texts(self, value: &Value, name: &str, field: u32) -> Self {
        let texts = value[name].as_array().into_iter().flatten().filter_map(Value::as_str);
        texts.fold(self, |message, text| message.text(field, text))
    }
}

/// `Any`: JSON is valid YAML, which it is read as.
fn any(value: &Value) -> Message {
    Message::default().text(2, &value.to_string())
}

/// A `NamedX` with its value.
pub(super) fn named(name: &str, value: Message) -> Message {
    Message::default().text(1, name).message(2, value)
}

/// The vendor extensions among the members, under their number.
fn extensions(message: Message, value: &Value, field: u32) -> Message {
    let members = value.as_object().into_iter().flatten();
    members
        .filter(|(name, _)| name.starts_with("x-"))
        .fold(message, |message, (name, value)| message.message(field, named(name, any(value))))
}

/// `Schema`.
pub(super) fn schema(value: &Value) -> Message {
    let mut message = Message::default()
        .member(value, "$ref", 1)
        .member(value, "format", 2)
        .member(value, "description", 4)
        .texts(value, "required", 19);
    for item in value["enum"].as_array().into_iter().flatten() {
        message = message.message(20, any(item));
    }
    if let Some(values) = value.get("additionalProperties") {
        message = message.message(21, Message::default().message(1, schema(values)));
    }
    if let Some(kind) = value["type"].as_str() {
        message = message.message(22, Message::default().text(1, kind));
    }
    if let Some(items) = value.get("items") {
        message = message.message(23, Message::default().message(1, schema(items)));
    }
    if let Some(Value::Object(properties)) = value.get("properties") {
        let all = |properties: &Map<String, Value>| {
            properties
                .iter()
                .fold(Message::default(), |all, (name, value)| all.message(1, named(name, schema(value))))
        };
        message = message.message(25, all(properties));
    }
    extensions(message, value, 31)
}

/// `PathItem`.
pub(super) fn path_item(value: &Value) -> Message {
    let mut message = Message::default();
    for (method, field) in [("get", 2), ("put", 3), ("post", 4), ("delete", 5), ("patch", 8)] {
        if let Some(value) = value.get(method) {
            message = message.message(field, operation(value));
        }
    }
    parameters(message, value, 9)
}

fn operation(value: &Value) -> Message {
    let message = Message::default()
        .texts(value, "tags", 1)
        .member(value, "description", 3)
        .member(value, "operationId", 5)
        .texts(value, "produces", 6)
        .texts(value, "consumes", 7);
    let mut message = parameters(message, value, 8);
    let mut responses = Message::default();
    for (code, response) in value["responses"].as_object().into_iter().flatten() {
        let mut one = Message::default().member(response, "description", 1);
        if let Some(of) = response.get("schema") {
            one = one.message(2, Message::default().message(1, schema(of)));
        }
        responses = responses.message(1, named(code, Message::default().message(1, one)));
    }
    message = message.message(9, responses);
    extensions(message, value, 13)
}

fn parameters(message: Message, value: &Value, field: u32) -> Message {
    let all = value["parameters"].as_array().into_iter().flatten();
    all.fold(message, |message, one| {
        message.message(field, Message::default().message(1, parameter(one)))
    })
}

/// `Parameter`: of the body, or of the path or the query.
fn parameter(value: &Value) -> Message {
    let required = value["required"].as_bool().unwrap_or_default();
    let unique = value["uniqueItems"].as_bool().unwrap_or_default();
    match value["in"].as_str() {
        Some("body") => {
            let body = Message::default()
                .member(value, "description", 1)
                .member(value, "name", 2)
                .member(value, "in", 3)
                .boolean(4, required)
                .message(5, schema(&value["schema"]));
            Message::default().message(1, body)
        }
        // The two differ in the number of `type` and what is after it alone.
        place => {
            let (field, kind, unique_items) = if place == Some("path") { (4, 5, 19) } else { (3, 6, 20) };
            let sub = Message::default()
                .boolean(1, required)
                .member(value, "in", 2)
                .member(value, "description", 3)
                .member(value, "name", 4)
                .member(value, "type", kind)
                .boolean(unique_items, unique);
            Message::default().message(2, Message::default().message(field, sub))
        }
    }
}
