//! `/openapi/v2`: one document of everything, as JSON or in gnostic's protobuf
//! encoding, which is what kubectl asks for.
//!
//! Source: upstream `kube-openapi/pkg/handler/handler.go`.

use api::Status;
use bytes::{BufMut, BytesMut};
use http::{HeaderMap, Response};
use serde_json::{Value, json};

use super::gnostic::{self, Message};
use super::paths;
use super::shapes::{Dialect, Shapes};
use super::{add_shapes, hash, info, members, tagged};
use crate::body::Body;
use crate::negotiate;
use crate::server::Core;
use crate::serving::Served;

const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
const JSON: &str = "application/json";

/// The document in the encoding the client accepts.
///
/// # Errors
/// 406 when it accepts neither.
pub(crate) fn document(core: &Core, served: &Served, headers: &HeaderMap) -> Result<Response<Body>, Status> {
    let accept = negotiate::accept(headers).unwrap_or("*/*");
    let encoding = negotiate::media_types(accept).into_iter().find_map(|media| match media.as_str() {
        // Older clients write the name with an at sign.
        name if name.replace('@', ".") == PROTOBUF => Some(PROTOBUF),
        JSON | "application/*" | "*/*" => Some(JSON),
        _ => None,
    });
    let encoding =
        encoding.ok_or_else(|| Status::not_acceptable(format!("only the following media types are accepted: {JSON}, {PROTOBUF}")))?;
    let mut shapes = Shapes::new(Dialect::V2);
    for row in served.registry.rows() {
        add_shapes(row, &mut shapes);
    }
    let written = if encoding == PROTOBUF {
        protobuf(core, served, &shapes).0.into()
    } else {
        json_text(core, served, &shapes)
    };
    let etag = hash(&written);
    Ok(tagged(headers, &etag, encoding, || written))
}

fn all_paths(served: &Served) -> impl Iterator<Item = (String, Value)> {
    served.registry.rows().flat_map(|row| paths::of_row(row, Dialect::V2))
}

fn protobuf(core: &Core, served: &Served, shapes: &Shapes<'_>) -> Message {
    let paths = all_paths(served).fold(Message::default(), |paths, (path, item)| {
        paths.message(2, gnostic::named(&path, gnostic::path_item(&item)))
    });
    let definitions = shapes.each().fold(Message::default(), |all, (name, shape)| {
        all.message(1, gnostic::named(name, gnostic::schema(&shape)))
    });
    let about = Message::default().text(1, "Kubernetes").text(2, &core.version.git_version);
    Message::default()
        .text(1, "2.0")
        .message(2, about)
        .message(8, paths)
        .message(9, definitions)
}

fn json_text(core: &Core, served: &Served, shapes: &Shapes<'_>) -> bytes::Bytes {
    let mut out = BytesMut::new();
    out.put_slice(b"{\"swagger\":\"2.0\",\"info\":");
    out.put_slice(info(core).to_string().as_bytes());
    out.put_slice(b",\"paths\":{");
    members(&mut out, all_paths(served));
    out.put_slice(b"},\"definitions\":{");
    members(&mut out, shapes.each());
    let token =
        json!({"BearerToken": {"description": "Bearer Token authentication", "in": "header", "name": "authorization", "type": "apiKey"}});
    out.put_slice(format!("}},\"securityDefinitions\":{token},\"security\":[{{\"BearerToken\":[]}}]}}").as_bytes());
    out.freeze()
}
