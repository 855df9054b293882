//! Watch events: what a change is to one watcher, and its JSON.

use std::sync::Arc;

use api::{Object, Status, protobuf};
use bytes::{Bytes, BytesMut};
use serde_json::{Value, json};

use crate::call::{Call, partial, served};
use crate::hub::{Change, Delivery, Entry};
use crate::metrics::WatchLabels;
use crate::negotiate::{Encoding, Form};
use crate::registry::Resource;
use crate::respond;
use crate::select::Selection;
use crate::table;

/// The annotation of the bookmark after the initial objects (KEP-3157).
const INITIAL_END: &str = "k8s.io/initial-events-end";

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
    let matches = |entry: &Option<Arc<Entry>>| entry.as_ref().is_some_and(|entry| selection.chooses(row, entry));
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
        if selection.chooses(&self.call.row, entry) {
            self.event(Kind::Added, entry, entry.revision, out);
        }
    }

    /// A change. A deletion shows the object as it last was, at the revision
    /// of the deletion.
    pub(super) fn change(&mut self, kind: Kind, delivery: &Delivery, out: &mut Chunk) {
        let change = &delivery.change;
        let shown = if kind == Kind::Deleted { &change.old } else { &change.new };
        let Some(entry) = shown else { return };
        if self.shares() {
            self.sent.inc();
            let event = delivery.events[kind as usize].get_or_init(|| stored_event(kind, entry, change.revision));
            out.share(event);
        } else {
            self.event(kind, entry, change.revision, out.own());
        }
    }

    /// Whether every watcher like this one is sent the same bytes.
    fn shares(&self) -> bool {
        self.call.form == Form::Whole && self.call.encoding == Encoding::Json && self.call.row.convert.is_none()
    }

    fn event(&mut self, kind: Kind, entry: &Entry, revision: u64, out: &mut BytesMut) {
        self.sent.inc();
        if self.shares() {
            write_stored(kind, entry, revision, out);
            return;
        }
        let mut object = served(&self.call.row, &entry.object);
        // Only a deletion has another revision than its object.
        if revision != entry.revision {
            Arc::make_mut(&mut object).meta.resource_version = Some(revision.to_string());
        }
        if self.call.encoding == Encoding::Protobuf {
            self.framed(kind.name(), &object, out);
            return;
        }
        let shown = match self.call.form {
            Form::Whole => serde_json::to_vec(object.as_ref()),
            Form::Metadata => serde_json::to_vec(&partial(&object)),
            Form::Table => serde_json::to_vec(&self.tabled(&object)),
        };
        open(kind.name(), out);
        // All three came from JSON, so they go back into it.
        out.extend_from_slice(&shown.unwrap_or_default());
        out.extend_from_slice(b"}\n");
    }

    /// The table of an event: one row. A bookmark is no exception: its row is
    /// that of an object with nothing but a revision.
    ///
    /// Source: upstream `endpoints/handlers/response.go`, `asTable`.
    fn tabled(&mut self, object: &Object) -> Value {
        let described = std::mem::replace(&mut self.described, true);
        let now = (self.call.core.clock)();
        table::single(&self.call.row, object, self.call.include, !described, now)
    }

    /// An event in protobuf. An object that has none is an error of this
    /// server, and the watcher is told.
    fn framed(&self, kind: &str, object: &Object, out: &mut BytesMut) {
        let encoded = if self.call.form == Form::Metadata {
            protobuf::partial(object)
        } else {
            protobuf::object(object)
        };
        match encoded {
            Ok(encoded) => out.extend_from_slice(&protobuf::frame(kind, &encoded)),
            Err(why) => {
                let status = Status::internal(&format!("the event could not be encoded: {why}"));
                out.extend_from_slice(&error(&status, Encoding::Protobuf));
            }
        }
    }

    /// Everything up to `revision` has been sent.
    pub(super) fn bookmark(&mut self, revision: u64, initial_end: bool, out: &mut BytesMut) {
        let id = self.call.row.id.clone();
        let mut object = Object {
            types: id.types(),
            ..Object::default()
        };
        object.meta.resource_version = Some(revision.to_string());
        if initial_end {
            object.meta.annotations = Some([(INITIAL_END.to_owned(), "true".to_owned())].into());
        }
        if self.call.encoding == Encoding::Protobuf {
            self.framed("BOOKMARK", &object, out);
            return;
        }
        let mut shown = match self.call.form {
            Form::Whole => json!({"kind": id.kind, "apiVersion": id.api_version(), "metadata": object.metadata()}),
            Form::Metadata => json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object.metadata()}),
            Form::Table => self.tabled(&object),
        };
        if self.call.form != Form::Table {
            shown["metadata"]["creationTimestamp"] = Value::Null;
        }
        open("BOOKMARK", out);
        out.extend_from_slice(shown.to_string().as_bytes());
        out.extend_from_slice(b"}\n");
    }
}

/// The event of an object in its stored form.
fn stored_event(kind: Kind, entry: &Entry, revision: u64) -> Bytes {
    // The type, the revision, and what is around them.
    let mut out = BytesMut::with_capacity(entry.stored.len() + 96);
    write_stored(kind, entry, revision, &mut out);
    out.freeze()
}

fn write_stored(kind: Kind, entry: &Entry, revision: u64, out: &mut BytesMut) {
    open(kind.name(), out);
    respond::splice(&entry.stored, revision, out);
    out.extend_from_slice(b"}\n");
}

/// Bytes on their way to a client: one event that is shared, or several that
/// were copied together.
#[derive(Default)]
pub(super) struct Chunk {
    shared: Option<Bytes>,
    own: BytesMut,
}

impl Chunk {
    /// Adds an event that others are sent too; alone it is not copied.
    fn share(&mut self, event: &Bytes) {
        if self.is_empty() {
            self.shared = Some(event.clone());
        } else {
            self.own().extend_from_slice(event);
        }
    }

    /// Where to write.
    pub(super) fn own(&mut self) -> &mut BytesMut {
        if let Some(shared) = self.shared.take() {
            self.own.extend_from_slice(&shared);
        }
        &mut self.own
    }

    pub(super) fn len(&self) -> usize {
        self.shared.as_ref().map_or(0, Bytes::len) + self.own.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn into_bytes(self) -> Bytes {
        self.shared.unwrap_or_else(|| self.own.freeze())
    }
}

fn open(kind: &str, out: &mut BytesMut) {
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\",\"object\":");
}

/// An `ERROR` event.
pub(super) fn error(status: &Status, encoding: Encoding) -> Vec<u8> {
    match encoding {
        Encoding::Json => format!("{}\n", json!({"type": "ERROR", "object": status})).into_bytes(),
        Encoding::Protobuf => {
            // A status is made of texts and numbers; it always encodes.
            let encoded = protobuf::encode(&json!(status)).unwrap_or_default();
            protobuf::frame("ERROR", &encoded)
        }
    }
}
