//! `list`: objects of a collection, in pages that stay consistent.
//!
//! Source: Kubernetes "API concepts", "Retrieving large results sets in
//! chunks" and "Resource versions"; upstream
//! `apiserver/pkg/storage/{continue,cacher/cacher}.go`.

mod cursor;

use std::sync::Arc;
use std::task::Poll;

use api::{Object, ResourceId, Status, TypeMeta, protobuf};
use bytes::{BufMut, Bytes, BytesMut};
use http::{Response, StatusCode};
use store::{Page, Revision, StoreError};

use self::cursor::Cursor;
use crate::body::{self, Body};
use crate::call::{Call, partial, served};
use crate::hub::{Damage, Entry};
use crate::negotiate::{Encoding, Form};
use crate::registry::{Resource, Row};
use crate::respond;
use crate::select::Selection;
use crate::table::{self, ListPage};
use crate::verbs::options::{self, Freshness};
use crate::wish::Finite;
use crate::write::{store_failed, too_large};

/// Entries read at a time when a page of the past is scanned for matches.
const SCAN: usize = 500;
/// Lists longer than this are written while they are sent.
const STREAMED_BYTES: usize = 128 << 10;
/// What of them is written at a time.
const CHUNK_BYTES: usize = 64 << 10;

/// A page on its way to the client.
pub(crate) struct Listing {
    /// Revision the whole list is read at.
    pub(crate) revision: u64,
    /// Entries of this page.
    pub(crate) entries: Vec<Arc<Entry>>,
    /// Entries after it.
    pub(crate) remaining: usize,
}

/// Answers with a page of the collection.
pub(crate) async fn list(call: Call) -> Result<Response<Body>, Status> {
    let selection = Selection::of(&call)?;
    let limit = options::limit(&call.query)?;
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
    Ok(render(&call, listing.entries, &page))
}

/// The revision everything acknowledged so far is visible at.
pub(crate) async fn reach_newest(call: &Call) -> Result<(), Status> {
    reach(call, call.core.store.revision().0).await
}

/// Waits until the hub has a revision that exists.
pub(crate) async fn reach(call: &Call, asked: u64) -> Result<(), Status> {
    if call.row.hub().reach(asked, call.core.limits.fresh_timeout).await {
        return Ok(());
    }
    still_served(call)?;
    let newest = call.core.store.revision().0;
    if asked > newest {
        return Err(too_large(asked, newest));
    }
    Err(Status::unavailable(format!(
        "the server is behind its store: revision {asked} of {} is not read yet; try again",
        call.row.id.qualified()
    )))
}

/// 404 once the row is removed: what its hub had is gone.
fn still_served(call: &Call) -> Result<(), Status> {
    if call.row.ends().is_cancelled() && !call.core.closing.is_cancelled() {
        return Err(Status::no_such_path());
    }
    Ok(())
}

/// Reads a page; also says whether nothing before it was left out.
pub(crate) async fn page(call: &Call, selection: &Selection, limit: Option<usize>) -> Result<(Listing, bool), Status> {
    let freshness = options::freshness(&call.query)?;
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
                .map_err(|failed| failed.of_page(&call.row.id, &cursor))?,
            None => {
                reach_newest(call).await?;
                present(call, selection, Some(&cursor.after), limit)?
            }
        };
        return Ok((listing, true));
    }
    let listing = match freshness {
        Freshness::Exact(at) => past(call, selection, at, None, limit)
            .await
            .map_err(|failed| failed.of_list(&call.row.id))?,
        Freshness::Newest => {
            reach_newest(call).await?;
            present(call, selection, None, limit)?
        }
        Freshness::NotOlderThan(at) => {
            reach(call, at).await?;
            present(call, selection, None, limit)?
        }
        // Upstream serves these whole from its cache, without pages.
        Freshness::Any => present(call, selection, None, None)?,
    };
    Ok((listing, true))
}

/// A page of what is stored now, from the hub.
fn present(call: &Call, selection: &Selection, after: Option<&str>, limit: Option<usize>) -> Result<Listing, Status> {
    let matches = |entry: &Entry| selection.chooses(&call.row, entry);
    let (hub, prefix) = (call.row.hub(), call.prefix());
    let snapshot = if selection.labels().is_everything() {
        hub.page(&prefix, after, limit, matches)
    } else {
        // No row's form has other labels than what is stored.
        hub.chosen(selection.labels(), &prefix, after, limit, matches)
    };
    still_served(call)?;
    Ok(Listing {
        revision: snapshot.revision,
        remaining: snapshot.remaining,
        entries: snapshot.whole().map_err(|damaged| Damage::of_list(&call.row.id, &damaged))?,
    })
}

/// Why a page of the past could not be read.
enum PastError {
    Store(StoreError),
    Damaged(Damage),
}

impl PastError {
    fn of_list(self, id: &ResourceId) -> Status {
        match self {
            Self::Store(StoreError::Compacted { .. }) => Status::expired("The resourceVersion for the provided list is too old."),
            Self::Store(other) => store_failed(&other),
            Self::Damaged(damage) => Damage::of_list(id, &[damage]),
        }
    }

    /// The client may go on with what is there now, if it can live with that.
    fn of_page(self, id: &ResourceId, cursor: &Cursor) -> Status {
        match self {
            Self::Store(StoreError::Compacted { .. }) => cursor.expired(),
            other => other.of_list(id),
        }
    }
}

/// A page as of a revision, from the store.
async fn past(call: &Call, selection: &Selection, at: u64, after: Option<String>, limit: Option<usize>) -> Result<Listing, PastError> {
    let prefix = call.prefix();
    let hub = call.row.hub();
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
        let range = call
            .core
            .store
            .range(&prefix, Some(Revision(at)), page)
            .await
            .map_err(PastError::Store)?;
        let count = range.entries.len();
        for (index, (key, versioned)) in range.entries.into_iter().enumerate() {
            let entry = hub.resolve(&key, &versioned);
            let entry = entry.map_err(PastError::Damaged)?;
            if selection.chooses(&call.row, &entry) {
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

fn render(call: &Call, entries: Vec<Arc<Entry>>, page: &ListPage) -> Response<Body> {
    let whole = call.form == Form::Whole;
    let api_version = call.row.id.api_version();
    if whole && call.encoding == Encoding::Json {
        let list = format!("{}List", call.row.id.kind);
        // What a splice adds, and a comma.
        let size: usize = entries.iter().map(|entry| entry.stored.len() + 48).sum();
        if size > STREAMED_BYTES {
            return stream(head(&list, &api_version, page), entries, Arc::clone(&call.row));
        }
        let items = |out: &mut BytesMut| {
            for (index, entry) in entries.iter().enumerate() {
                if index > 0 {
                    out.put_u8(b',');
                }
                append(&call.row, entry, out);
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

/// A list that is written while it is sent: however long it is, a part of it
/// is in memory at a time.
fn stream(head: String, entries: Vec<Arc<Entry>>, row: Arc<Row>) -> Response<Body> {
    let mut entries = entries.into_iter();
    let mut first = Some(head);
    let mut ended = false;
    let chunks = futures::stream::poll_fn(move |_| {
        if ended {
            return Poll::Ready(None);
        }
        let mut out = BytesMut::with_capacity(CHUNK_BYTES + CHUNK_BYTES / 4);
        let mut comma = first.is_none();
        if let Some(head) = first.take() {
            out.extend_from_slice(head.as_bytes());
        }
        while out.len() < CHUNK_BYTES {
            let Some(entry) = entries.next() else {
                out.extend_from_slice(b"]}");
                ended = true;
                break;
            };
            if std::mem::replace(&mut comma, true) {
                out.put_u8(b',');
            }
            append(&row, &entry, &mut out);
        }
        Poll::Ready(Some(Ok(out.freeze())))
    });
    let mut response = respond::bytes(StatusCode::OK, Bytes::new());
    *response.body_mut() = body::stream(chunks);
    // Not a watch: the end of it comes by itself.
    response.extensions_mut().insert(Finite);
    response
}

/// Appends an entry's JSON in the row's form.
pub(crate) fn append(row: &Resource, entry: &Entry, out: &mut BytesMut) {
    if row.convert.is_none() {
        respond::splice(&entry.stored, entry.revision, out);
    } else {
        // An object came from JSON, so it goes back into it.
        out.extend_from_slice(&serde_json::to_vec(served(row, &entry.object).as_ref()).unwrap_or_default());
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

/// A list up to its first item.
fn head(kind: &str, api_version: &str, page: &ListPage) -> String {
    let metadata = metadata(page);
    format!("{{\"kind\":\"{kind}\",\"apiVersion\":\"{api_version}\",\"metadata\":{metadata},\"items\":[")
}

/// A list around the items that `items` writes, of about `size` bytes.
pub(crate) fn envelope(kind: &str, api_version: &str, page: &ListPage, size: usize, items: impl FnOnce(&mut BytesMut)) -> Bytes {
    let mut out = BytesMut::with_capacity(size + 256);
    out.extend_from_slice(head(kind, api_version, page).as_bytes());
    items(&mut out);
    out.extend_from_slice(b"]}");
    out.freeze()
}
