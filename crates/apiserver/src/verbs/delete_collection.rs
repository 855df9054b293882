//! `deletecollection`: every object of a collection that a selector meets.

use std::sync::Arc;

use api::{Scope, Status};
use bytes::{BufMut, BytesMut};
use futures::StreamExt;
use http::{Response, StatusCode};

use crate::body::Body;
use crate::call::Call;
use crate::respond;
use crate::select::Selection;
use crate::verbs::delete::{Options, delete_one, unreadable};
use crate::verbs::list;

/// Deletes at a time: enough for the store to commit them together.
const CONCURRENT: usize = 32;

/// Deletes what is there when the request comes, and answers with the list of
/// it. Objects that go meanwhile are no error; one that cannot be deleted is,
/// after all others were tried.
pub(crate) async fn delete_collection(mut call: Call) -> Result<Response<Body>, Status> {
    if call.row.scope == Scope::Namespaced && call.asked.namespace.is_empty() {
        return Err(call.wrong_method());
    }
    let options = Options::read(&mut call).await?;
    if options.unreadable {
        return Err(unreadable::of_collection());
    }
    let selection = Selection::of(&call)?;
    let (listing, _) = list::page(&call, &selection, None).await?;
    let (call, options) = (Arc::new(call), Arc::new(options));
    let (shared, revision) = (Arc::clone(&call), listing.revision);
    let deletes = futures::stream::iter(listing.entries).map(move |entry| {
        let (call, options) = (Arc::clone(&shared), Arc::clone(&options));
        async move { delete_one(&call, entry.object.name(), &entry.key, &options).await }
    });
    let outcomes: Vec<_> = deletes.buffered(CONCURRENT).collect().await;
    let mut items = BytesMut::new();
    for outcome in outcomes {
        match outcome {
            Ok(deleted) => {
                if !items.is_empty() {
                    items.put_u8(b',');
                }
                list::append(&call.row, &deleted.entry, &mut items);
            }
            Err(status) if status.code == 404 => {}
            Err(status) => return Err(status),
        }
    }
    let page = crate::table::ListPage {
        resource_version: revision.to_string(),
        ..crate::table::ListPage::default()
    };
    let kind = format!("{}List", call.row.id.kind);
    Ok(respond::bytes(
        StatusCode::OK,
        list::envelope(&kind, &call.row.id.api_version(), &page, items.len(), |out| {
            out.extend_from_slice(&items)
        }),
    ))
}
