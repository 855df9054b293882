//! `/openapi/v3` and `/openapi/v2`: paths with their parameters, and the shapes
//! of the schema table with their descriptions.
//!
//! kubectl looks here for the query parameter `fieldValidation` before it
//! leaves validation to the server, and for what `explain` prints. Documents
//! are written when they are asked for and not kept: only their hashes are.
//!
//! Reading order: this file (v3 and its hashes), [`paths`], [`shapes`], then
//! [`v2`] and its encoding [`gnostic`].
//!
//! Source: Kubernetes "The Kubernetes API", "OpenAPI V3"; KEP-2896; upstream
//! `kube-openapi/pkg/handler3/handler.go`.

mod gnostic;
mod parameters;
mod paths;
mod shapes;
pub(crate) mod v2;

use std::collections::BTreeMap;
use std::sync::OnceLock;

use api::Status;
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha512};

use self::shapes::{Dialect, Shapes};
use crate::body::{self, Body};
use crate::discovery::groups;
use crate::negotiate;
use crate::registry::{Registry, Resource};
use crate::request::Query;
use crate::respond;
use crate::server::Core;
use crate::serving::Served;

/// When an address with a hash in it may be asked for again: never.
///
/// Source: upstream `HandleGroupVersion`, "a year in the future".
const IMMUTABLE: &str = "public, immutable, max-age=31536000";

/// What is remembered of the documents of some rows: their hashes, which are
/// made when somebody first asks. Other rows have other hashes.
#[derive(Default)]
pub(crate) struct Hashes(OnceLock<BTreeMap<String, String>>);

impl Hashes {
    /// By path, such as `apis/apps/v1`.
    fn of(&self, core: &Core, registry: &Registry) -> &BTreeMap<String, String> {
        self.0.get_or_init(|| {
            let mut hashes = BTreeMap::new();
            for (path, rows) in documents(registry) {
                hashes.insert(path, hash(&write(core, &rows)));
            }
            hashes
        })
    }
}

fn hash(document: &[u8]) -> String {
    Sha512::digest(document).iter().map(|byte| format!("{byte:02X}")).collect()
}

/// Rows by the path of their document.
fn documents(registry: &Registry) -> BTreeMap<String, Vec<&Resource>> {
    let mut documents = BTreeMap::new();
    for (group, versions) in groups(registry) {
        for (version, rows) in versions {
            let path = if group.is_empty() {
                format!("api/{version}")
            } else {
                format!("apis/{group}/{version}")
            };
            documents.insert(path, rows.into_iter().map(|row| &***row).collect());
        }
    }
    documents
}

/// The index: where each group and version has its document. The hash in an
/// address changes when the document does.
pub(crate) fn index(core: &Core, served: &Served, headers: &HeaderMap) -> Response<Body> {
    let paths: Map<String, Value> = served
        .openapi
        .of(core, &served.registry)
        .iter()
        .map(|(path, hash)| {
            let url = format!("/openapi/v3/{path}?hash={hash}");
            (path.clone(), json!({"serverRelativeURL": url}))
        })
        .collect();
    let index = json!({"paths": paths}).to_string();
    let etag = hash(index.as_bytes());
    tagged(headers, &etag, "application/json", || index.into())
}

/// The document of `api/v1` or `apis/GROUP/VERSION`.
///
/// # Errors
/// 404 for what is not served, 406 for a client that does not take JSON.
pub(crate) fn document(core: &Core, served: &Served, path: &str, query: &Query, headers: &HeaderMap) -> Result<Response<Body>, Status> {
    let rows = documents(&served.registry).remove(path).ok_or_else(Status::no_such_path)?;
    let etag = served
        .openapi
        .of(core, &served.registry)
        .get(path)
        .ok_or_else(Status::no_such_path)?;
    if !negotiate::accepts_json(headers) {
        return Err(Status::not_acceptable(
            "only the following media types are accepted: application/json",
        ));
    }
    let asked = query.get("hash");
    if asked.is_some_and(|asked| asked != etag) {
        // An old index: the document has moved on, and says where to.
        let mut response = Response::new(body::empty());
        *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
        if let Ok(url) = HeaderValue::from_str(&format!("/openapi/v3/{path}?hash={etag}")) {
            response.headers_mut().insert(header::LOCATION, url);
        }
        return Ok(response);
    }
    let mut response = tagged(headers, etag, "application/json", || write(core, &rows));
    let caching = if asked.is_some() { IMMUTABLE } else { "no-cache, private" };
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static(caching));
    Ok(response)
}

/// An answer that a client may have already: 304 then.
fn tagged(headers: &HeaderMap, etag: &str, content_type: &'static str, make: impl FnOnce() -> Bytes) -> Response<Body> {
    let quoted = format!("\"{etag}\"");
    let known = headers
        .get(header::IF_NONE_MATCH)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|known| {
            known
                .split(',')
                .any(|known| matches!(known.trim().trim_start_matches("W/"), "*") || known.trim().trim_start_matches("W/") == quoted)
        });
    let mut response = if known {
        let mut response = Response::new(body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        respond::bytes(StatusCode::OK, make())
    };
    let answer = response.headers_mut();
    answer.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer.insert(header::VARY, HeaderValue::from_static("Accept"));
    if let Ok(value) = HeaderValue::from_str(&quoted) {
        answer.insert(header::ETAG, value);
    }
    response
}

/// Writes the document of some rows. Piece by piece: as one value it would
/// take ten times the memory of its text.
fn write(core: &Core, rows: &[&Resource]) -> Bytes {
    let mut shapes = Shapes::new(Dialect::V3);
    let mut out = BytesMut::new();
    out.put_slice(b"{\"openapi\":\"3.0.0\",\"info\":");
    out.put_slice(info(core).to_string().as_bytes());
    out.put_slice(b",\"paths\":{");
    members(&mut out, rows.iter().flat_map(|row| paths::of_row(row, Dialect::V3)));
    for row in rows {
        add_shapes(row, &mut shapes);
    }
    out.put_slice(b"},\"components\":{\"schemas\":{");
    members(&mut out, shapes.each());
    out.put_slice(b"},\"securitySchemes\":");
    let token =
        json!({"BearerToken": {"description": "Bearer Token authentication", "in": "header", "name": "authorization", "type": "apiKey"}});
    out.put_slice(token.to_string().as_bytes());
    out.put_slice(b"}}");
    out.freeze()
}

fn info(core: &Core) -> Value {
    json!({"title": "Kubernetes", "version": core.version.git_version})
}

/// Everything the paths of a row refer to.
fn add_shapes<'t>(row: &'t Resource, shapes: &mut Shapes<'t>) {
    let (id, schema) = (&row.id, row.schema());
    shapes.add(schema);
    let list = schema.beside(&id.group, &id.version, &format!("{}List", id.kind));
    let common = ["DeleteOptions", "Status"].map(|name| api::schema::named(&format!("io.k8s.apimachinery.pkg.apis.meta.v1.{name}")));
    let of_subresources = row.subresources.iter().map(|subresource| {
        let (group, version) = crate::discovery::foreign(*subresource).unwrap_or((&id.group, &id.version));
        schema.beside(group, version, crate::discovery::kind(row, *subresource))
    });
    for schema in common.into_iter().chain([list]).chain(of_subresources).flatten() {
        shapes.add(schema);
    }
}

/// Writes the members of a JSON object, without its braces.
fn members(out: &mut BytesMut, members: impl Iterator<Item = (impl Into<String>, Value)>) {
    for (index, (name, value)) in members.enumerate() {
        if index > 0 {
            out.put_u8(b',');
        }
        out.put_slice(Value::from(name.into()).to_string().as_bytes());
        out.put_u8(b':');
        out.put_slice(value.to_string().as_bytes());
    }
}

#[cfg(test)]
mod tests;
