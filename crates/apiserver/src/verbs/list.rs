//! `list`: objects of a collection, in pages that stay consistent.
//!
//! Source: Kubernetes "API concepts", "Retrieving large results sets in
//! chunks" and "Resource versions"; upstream
//! `apiserver/pkg/storage/{continue,cacher/cacher}.go`.

mod cursor;

use std::sync::Arc;

use api::status::Violation;
use api::{Object, Status, TypeMeta, protobuf};
use bytes::{BufMut, Bytes, BytesMut};
use http::{Response, StatusCode};
use store::{Page, Revision, StoreError};

use self::cursor::Cursor;
use crate::body::Body;
use crate::call::{Call, invalid_option, partial, served};
use crate::hub::Entry;
use crate::negotiate::{Encoding, Form};
use crate::respond;
use crate::select::Selection;
use crate::table::{self, ListPage};
use crate::write::{store_failed, too_large};

/// Entries read at a time when a page of the past is scanned for matches.
const SCAN: usize = 500;

/// A page on its way to the client.
pub(crate) struct Listing {
    /// Revision the whole list is read at.
    pub(crate) revision: u64,
    /// Entries of this page.
    pub(crate) entries: Vec<Arc<Entry>>,
    /// Entries after it.
    pub(crate) remaining: usize,
}

/// How fresh a list must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Freshness {
    /// Everything acknowledged before the request.
    Newest,
    /// Whatever is at hand.
    Any,
    /// At least this revision.
    NotOlderThan(u64),
    /// This revision.
    Exact(u64),
}

/// Answers with a page of the collection.
pub(crate) async fn list(call: Call) -> Result<Response<Body>, Status> {
    let selection = Selection::of(&call)?;
    let limit = limit(&call)?;
    let (listing, from_start) = page(&call, &selection, limit).await?;
    let next = (listing.remaining > 0)
        .then(|| listing.entries.last())
        .flatten()
        .map(|last| Cursor::new(listing.revision, &last.key).encode());
    // Unknown when entries that do not match are among them.
    let counted = next.is_some() && selection.is_everything() && from_start;
    let page = ListPage {
        resource_version: listing.revision.to_string(),
        remaining_item_count: counted.then_some(listing.remaining as u64),
        next,
    };
    Ok(render(&call, &listing.entries, &page))
}

fn limit(call: &Call) -> Result<Option<usize>, Status> {
    match call.query.integer("limit")? {
        None | Some(0) => Ok(None),
        Some(limit) => usize::try_from(limit)
            .map(Some)
            .map_err(|_| Status::bad_request(format!("limit={limit} must not be negative"))),
    }
}

/// A `resourceVersion`.
pub(crate) fn revision(text: &str) -> Result<u64, Status> {
    text.parse().map_err(|_| {
        let value = serde_json::Value::from(text);
        invalid_option(
            "ListOptions",
            Violation::invalid("resourceVersion", &value, "must be a number the server gave out"),
        )
    })
}

/// The revision everything acknowledged so far is visible at.
pub(crate) async fn reach_newest(call: &Call) -> Result<(), Status> {
    reach(call, call.core.store.revision().0).await
}

/// Waits until the hub has a revision that exists.
pub(crate) async fn reach(call: &Call, asked: u64) -> Result<(), Status> {
    if call.core.hub(&call.row).reach(asked, call.core.limits.fresh_timeout).await {
        return Ok(());
    }
    let newest = call.core.store.revision().0;
    if asked > newest {
        return Err(too_large(asked, newest));
    }
    Err(Status::unavailable(format!(
        "the server is behind its store: revision {asked} of {} is not read yet; try again",
        call.row.id.qualified()
    )))
}

/// What `resourceVersion` and `resourceVersionMatch` ask for.
fn freshness(version: Option<&str>, matching: Option<&str>, limited: bool) -> Result<Freshness, Status> {
    let invalid = |violation| Err(invalid_option("ListOptions", violation));
    let forbidden = |why: &str| invalid(Violation::forbidden("resourceVersionMatch", why));
    let version = version.map(revision).transpose()?;
    match (version, matching) {
        (None, None) => Ok(Freshness::Newest),
        (None, Some(_)) => forbidden("resourceVersionMatch is forbidden unless resourceVersion is provided"),
        (Some(0), Some("Exact")) => forbidden("resourceVersionMatch \"Exact\" is forbidden for resourceVersion \"0\""),
        (Some(0), None | Some("NotOlderThan")) => Ok(Freshness::Any),
        (Some(at), Some("Exact")) => Ok(Freshness::Exact(at)),
        // Source: the table of "API concepts": with a limit, a bare revision
        // is meant exactly.
        (Some(at), None) if limited => Ok(Freshness::Exact(at)),
        (Some(at), None | Some("NotOlderThan")) => Ok(Freshness::NotOlderThan(at)),
        (Some(_), Some(other)) => {
            let known = ["Exact", "NotOlderThan", ""];
            invalid(Violation::not_supported("resourceVersionMatch", other, &known))
        }
    }
}

/// Reads a page; also says whether nothing before it was left out.
pub(crate) async fn page(call: &Call, selection: &Selection, limit: Option<usize>) -> Result<(Listing, bool), Status> {
    let version = call.query.get("resourceVersion");
    if let Some(token) = call.query.get("continue") {
        if version.is_some_and(|version| version != "0") {
            return Err(Status::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        let cursor = Cursor::decode(token, &call.prefix())?;
        let listing = match cursor.revision {
            Some(at) => past(call, selection, at, Some(cursor.after.clone()), limit)
                .await
                .map_err(|failed| failed.of_page(&cursor))?,
            None => {
                reach_newest(call).await?;
                present(call, selection, Some(&cursor.after), limit)
            }
        };
        return Ok((listing, true));
    }
    let listing = match freshness(version, call.query.get("resourceVersionMatch"), limit.is_some())? {
        Freshness::Exact(at) => past(call, selection, at, None, limit).await.map_err(PastError::of_list)?,
        Freshness::Newest => {
            reach_newest(call).await?;
            present(call, selection, None, limit)
        }
        Freshness::NotOlderThan(at) => {
            reach(call, at).await?;
            present(call, selection, None, limit)
        }
        // Upstream serves these whole from its cache, without pages.
        Freshness::Any => present(call, selection, None, None),
    };
    Ok((listing, true))
}

/// A page of what is stored now, from the hub.
fn present(call: &Call, selection: &Selection, after: Option<&str>, limit: Option<usize>) -> Listing {
    let matches = |entry: &Entry| selection.is_everything() || selection.matches(&call.row, &served(&call.row, &entry.object));
    let snapshot = call.core.hub(&call.row).page(&call.prefix(), after, limit, matches);
    Listing {
        revision: snapshot.revision,
        entries: snapshot.entries,
        remaining: snapshot.remaining,
    }
}

/// Why a page of the past could not be read.
struct PastError(StoreError);

impl PastError {
    fn of_list(self) -> Status {
        match self.0 {
            StoreError::Compacted { .. } => Status::expired("The resourceVersion for the provided list is too old."),
            other => store_failed(&other),
        }
    }

    /// The client may go on with what is there now, if it can live with that.
    fn of_page(self, cursor: &Cursor) -> Status {
        match self.0 {
            StoreError::Compacted { .. } => cursor.expired(),
            other => store_failed(&other),
        }
    }
}

/// A page as of a revision, from the store.
async fn past(call: &Call, selection: &Selection, at: u64, after: Option<String>, limit: Option<usize>) -> Result<Listing, PastError> {
    let prefix = call.prefix();
    let hub = call.core.hub(&call.row);
    let limit = limit.unwrap_or(usize::MAX);
    let mut after = after;
    let mut entries: Vec<Arc<Entry>> = Vec::new();
    loop {
        let wanted = limit - entries.len();
        // Without a selector every entry counts; with one, more are looked at.
        let read = if selection.is_everything() { wanted } else { wanted.max(SCAN) };
        let page = Page {
            after: after.clone(),
            limit: Some(read.min(SCAN)),
        };
        let range = call.core.store.range(&prefix, Some(Revision(at)), page).await.map_err(PastError)?;
        let count = range.entries.len();
        for (index, (key, versioned)) in range.entries.into_iter().enumerate() {
            if let Some(entry) = hub.resolve(&key, &versioned)
                && (selection.is_everything() || selection.matches(&call.row, &served(&call.row, &entry.object)))
            {
                entries.push(entry);
                if entries.len() == limit {
                    return Ok(Listing {
                        revision: at,
                        entries,
                        remaining: count - index - 1 + range.remaining,
                    });
                }
            }
            after = Some(key);
        }
        if !range.more {
            return Ok(Listing {
                revision: at,
                entries,
                remaining: 0,
            });
        }
    }
}

fn render(call: &Call, entries: &[Arc<Entry>], page: &ListPage) -> Response<Body> {
    let whole = call.form == Form::Whole;
    let api_version = call.row.id.api_version();
    if whole && call.encoding == Encoding::Json {
        let list = format!("{}List", call.row.id.kind);
        // What a splice adds, and a comma.
        let size: usize = entries.iter().map(|entry| entry.stored.len() + 48).sum();
        let items = |out: &mut BytesMut| {
            for (index, entry) in entries.iter().enumerate() {
                if index > 0 {
                    out.put_u8(b',');
                }
                append(call, entry, out);
            }
        };
        return respond::bytes(StatusCode::OK, envelope(&list, &api_version, page, size, items));
    }
    let objects: Vec<Arc<Object>> = entries.iter().map(|entry| served(&call.row, &entry.object)).collect();
    let objects = objects.iter().map(AsRef::as_ref);
    match (call.form, call.encoding) {
        (Form::Table, _) => respond::json(StatusCode::OK, &table::list(&call.row, objects, page, call.include, call.now)),
        (Form::Metadata, Encoding::Protobuf) => respond::protobuf(StatusCode::OK, protobuf::partial_list(&metadata(page), objects)),
        (Form::Whole, _) => {
            let types = TypeMeta {
                api_version,
                kind: format!("{}List", call.row.id.kind),
            };
            let list = protobuf::list(&types, &metadata(page), objects, &call.row.id.types());
            respond::protobuf(StatusCode::OK, list)
        }
        (Form::Metadata, Encoding::Json) => {
            let items: Vec<_> = objects.map(partial).collect();
            let items = serde_json::to_vec(&items).unwrap_or_default();
            // Without the brackets, which the envelope brings.
            let items = items.get(1..items.len().saturating_sub(1)).unwrap_or_default();
            let list = envelope("PartialObjectMetadataList", "meta.k8s.io/v1", page, items.len(), |out| {
                out.extend_from_slice(items);
            });
            respond::bytes(StatusCode::OK, list)
        }
    }
}

/// Appends an entry's JSON in the row's form.
pub(crate) fn append(call: &Call, entry: &Entry, out: &mut BytesMut) {
    if call.row.convert.is_none() {
        respond::splice(&entry.stored, entry.revision, out);
    } else {
        // An object came from JSON, so it goes back into it.
        out.extend_from_slice(&serde_json::to_vec(served(&call.row, &entry.object).as_ref()).unwrap_or_default());
    }
}

/// The metadata of a list.
fn metadata(page: &ListPage) -> serde_json::Value {
    let mut metadata = serde_json::json!({"resourceVersion": page.resource_version});
    if let Some(next) = &page.next {
        metadata["continue"] = serde_json::Value::from(next.as_str());
    }
    if let Some(count) = page.remaining_item_count {
        metadata["remainingItemCount"] = serde_json::Value::from(count);
    }
    metadata
}

/// A list around the items that `items` writes, of about `size` bytes.
pub(crate) fn envelope(kind: &str, api_version: &str, page: &ListPage, size: usize, items: impl FnOnce(&mut BytesMut)) -> Bytes {
    let mut out = BytesMut::with_capacity(size + 256);
    let metadata = metadata(page);
    out.extend_from_slice(format!("{{\"kind\":\"{kind}\",\"apiVersion\":\"{api_version}\",\"metadata\":{metadata},\"items\":[").as_bytes());
    items(&mut out);
    out.extend_from_slice(b"]}");
    out.freeze()
}
