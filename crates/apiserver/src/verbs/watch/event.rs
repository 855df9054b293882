//! Watch events: what a change is to one watcher, and its JSON.

use std::sync::Arc;

use api::{Object, Status};
use bytes::BytesMut;
use serde_json::json;

use crate::call::{Call, partial, served};
use crate::hub::{Change, Entry};
use crate::metrics::WatchLabels;
use crate::negotiate::Form;
use crate::registry::Resource;
use crate::respond;
use crate::select::Selection;
use crate::table;

/// What a change is to one watcher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Added,
    Modified,
    Deleted,
}

/// An object that begins to match was added, one that stops matching was
/// deleted, whatever really happened. `None`: not this watcher's business.
///
/// Source: upstream `storage/cacher/cache_watcher.go`,
/// `convertToWatchEvent`.
pub(super) fn classify(change: &Change, selection: &Selection, row: &Resource) -> Option<Kind> {
    let matches = |entry: &Option<Arc<Entry>>| {
        entry
            .as_ref()
            .is_some_and(|entry| selection.is_everything() || selection.matches(row, &served(row, &entry.object)))
    };
    match (matches(&change.old), matches(&change.new)) {
        (false, true) => Some(Kind::Added),
        (true, true) => Some(Kind::Modified),
        (true, false) => Some(Kind::Deleted),
        (false, false) => None,
    }
}

/// Writes events in the form a client asked for.
pub(super) struct Encoder {
    pub(super) call: Call,
    /// A table's first event describes the columns, later ones do not.
    described: bool,
    sent: prometheus_client::metrics::counter::Counter,
}

impl Encoder {
    pub(super) fn new(call: Call) -> Self {
        let id = &call.row.id;
        let labels = WatchLabels {
            group: id.group.clone(),
            version: id.version.clone(),
            kind: id.kind.clone(),
        };
        let sent = call.core.metrics.watch_events.get_or_create(&labels).clone();
        Self {
            call,
            described: false,
            sent,
        }
    }

    /// An object that was there before the watch began.
    pub(super) fn initial(&mut self, entry: &Entry, selection: &Selection, out: &mut BytesMut) {
        if selection.is_everything() || selection.matches(&self.call.row, &served(&self.call.row, &entry.object)) {
            self.event(Kind::Added, entry, entry.revision, out);
        }
    }

    /// A change. A deletion shows the object as it last was, at the revision
    /// of the deletion.
    pub(super) fn change(&mut self, kind: Kind, change: &Change, out: &mut BytesMut) {
        let shown = if kind == Kind::Deleted { &change.old } else { &change.new };
        if let Some(entry) = shown {
            self.event(kind, entry, change.revision, out);
        }
    }

    fn event(&mut self, kind: Kind, entry: &Entry, revision: u64, out: &mut BytesMut) {
        self.sent.inc();
        open(kind.name(), out);
        if self.call.form == Form::Whole && self.call.row.convert.is_none() {
            respond::splice(&entry.stored, revision, out);
        } else {
            let mut object = Object::clone(&served(&self.call.row, &entry.object));
            object.meta.resource_version = Some(revision.to_string());
            let shown = match self.call.form {
                Form::Whole => serde_json::to_vec(&object),
                Form::Metadata => serde_json::to_vec(&partial(&object)),
                Form::Table => {
                    let described = std::mem::replace(&mut self.described, true);
                    let now = (self.call.core.clock)();
                    serde_json::to_vec(&table::single(&self.call.row, &object, self.call.include, !described, now))
                }
            };
            // All three came from JSON, so they go back into it.
            out.extend_from_slice(&shown.unwrap_or_default());
        }
        out.extend_from_slice(b"}\n");
    }

    /// Everything up to `revision` has been sent.
    pub(super) fn bookmark(&mut self, revision: u64, initial_end: bool, out: &mut BytesMut) {
        let mut metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if initial_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let id = &self.call.row.id;
        let object = match self.call.form {
            Form::Whole => json!({"kind": id.kind, "apiVersion": id.api_version(), "metadata": metadata}),
            Form::Metadata => json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata}),
            Form::Table => {
                json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "columnDefinitions": null, "rows": []})
            }
        };
        open("BOOKMARK", out);
        out.extend_from_slice(object.to_string().as_bytes());
        out.extend_from_slice(b"}\n");
    }
}

fn open(kind: &str, out: &mut BytesMut) {
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\",\"object\":");
}

/// An `ERROR` event.
pub(super) fn error(status: &Status) -> String {
    format!("{}\n", json!({"type": "ERROR", "object": status}))
}
