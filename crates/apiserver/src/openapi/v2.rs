//! `/openapi/v2`, in the protobuf encoding clients ask for and no other.
//!
//! kubectl 1.27 and 1.28 look here, not in v3, for the query parameter
//! `fieldValidation`. The document holds the paths with their patch
//! operations, which is what they read; shapes are served in v3.
//!
//! Source: gnostic `openapiv2/OpenAPIv2.proto`; Protocol Buffers "Encoding".

use api::Status;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::json;

use super::PATCH;
use crate::body::Body;
use crate::registry::Resource;
use crate::respond;
use crate::server::Core;

const MEDIA_TYPE: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// The document, if the client accepts its encoding.
///
/// # Errors
/// 406 otherwise.
pub(crate) fn document(core: &Core, accept: Option<&str>) -> Result<Response<Body>, Status> {
    let accepts = accept.unwrap_or_default().split(',').any(|range| {
        let media = crate::negotiate::media_type(range);
        // Upstream's clients still write the name with an at sign.
        media.replace('@', ".") == MEDIA_TYPE || media == "*/*"
    });
    if !accepts {
        return Err(Status::not_acceptable(format!(
            "only the following media types are accepted: {MEDIA_TYPE}; JSON is served at /openapi/v3"
        )));
    }
    let mut paths = Message::default();
    for row in core.registry.stored() {
        if let Some(path) = super::object_paths(row) {
            paths = paths.message(2, Message::default().text(1, &path).message(2, path_item(row)));
        }
    }
    let info = Message::default().text(1, "Kubernetes").text(2, &core.version.git_version);
    let document = Message::default().text(1, "2.0").message(2, info).message(8, paths);
    let mut response = respond::bytes(StatusCode::OK, document.0);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    Ok(response)
}

/// A `PathItem` with its patch operation.
fn path_item(row: &Resource) -> Message {
    let kind = json!({"group": row.id.group, "version": row.id.version, "kind": row.id.kind});
    let mut operation = Message::default();
    for name in PATCH {
        let query = Message::default().text(2, "query").text(4, name).text(6, "string");
        let parameter = Message::default().message(2, Message::default().message(3, query));
        operation = operation.message(8, Message::default().message(1, parameter));
    }
    // JSON is valid YAML, which the extension is read as.
    let value = Message::default().text(2, &kind.to_string());
    operation = operation.message(13, Message::default().text(1, "x-kubernetes-group-version-kind").message(2, value));
    Message::default().message(8, operation)
}

/// A protobuf message: length-delimited fields in the order they are added.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn text(self, field: u8, text: &str) -> Self {
        self.bytes(field, text.as_bytes())
    }

    fn message(self, field: u8, message: Self) -> Self {
        self.bytes(field, &message.0)
    }

    fn bytes(mut self, field: u8, bytes: &[u8]) -> Self {
        const LENGTH_DELIMITED: u8 = 2;
        // Field numbers here are below 16, so that the tag is one byte.
        self.0.push(field << 3 | LENGTH_DELIMITED);
        let mut length = bytes.len();
        while length >= 0x80 {
            self.0.push(u8::try_from(length & 0x7f).unwrap_or_default() | 0x80);
            length >>= 7;
        }
        self.0.push(u8::try_from(length).unwrap_or_default());
        self.0.extend_from_slice(bytes);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_encoded_as_protobuf() {
        let message = Message::default()
            .text(1, "ab")
            .message(8, Message::default().text(2, &"x".repeat(200)));
        assert_eq!(message.0[..4], [0x0a, 2, b'a', b'b']);
        // 203 bytes inside: the field's tag, a length of two bytes, 200 bytes.
        assert_eq!(message.0[4..10], [0x42, 0xcb, 0x01, 0x12, 0xc8, 0x01]);
        assert_eq!(message.0.len(), 7 + 203);
    }
}
