//! `watch`: changes of a collection as they happen.
//!
//! Source: Kubernetes "API concepts", "Efficient detection of changes";
//! KEP-3157 (`sendInitialEvents`), KEP-956 (bookmarks).

mod event;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use api::Status;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use http::{HeaderValue, Response, StatusCode, header};
use tokio::sync::mpsc;
use tokio::time::Instant;

use self::event::{Chunk, Encoder, Kind, classify};
use crate::body::{self, Body};
use crate::call::Call;
use crate::entropy;
use crate::hub::{Damage, Delivery, From, Message, NoStart, Subscription};
use crate::negotiate::Encoding;
use crate::select::Selection;
use crate::verbs::list::{reach, reach_newest};
use crate::verbs::options::{self, revision};

/// Bytes of events that are sent together when more are waiting.
const CHUNK_BYTES: usize = 32 << 10;

/// What the query asks for.
struct Options {
    from: From,
    bookmarks: bool,
    /// Send a bookmark when all initial events are through.
    marks_initial: bool,
    timeout: Duration,
}

/// Answers with a stream of events.
pub(crate) async fn watch(call: Call) -> Result<Response<Body>, Status> {
    let selection = Selection::of(&call)?;
    let options = Options::of(&call)?;
    let prefix = prefix(&call, &selection);
    match options.from {
        From::After(asked) => reach(&call, asked).await?,
        From::Now | From::Later => reach_newest(&call).await?,
    }
    let encoding = call.encoding;
    let subscription = call.row.hub().subscribe(&prefix, &options.from, options.bookmarks);
    let stream = match subscription {
        Ok(subscription) => Stream::new(call, selection, &options, subscription),
        Err(NoStart::Damaged(damaged)) => return Err(Damage::of_list(&call.row.id, &damaged)),
        Err(NoStart::TooOld { asked, oldest }) => {
            // The stream is the answer; what is wrong is its only event.
            let status = Status::expired(format!("too old resource version: {asked} ({oldest})"));
            return Ok(respond_with(encoding, body::full(event::error(&status, encoding))));
        }
    };
    Ok(respond_with(
        encoding,
        // In a box: it goes in and comes out with every event.
        body::stream(futures::stream::unfold(Box::new(stream), |mut stream| async move {
            stream.next().await.map(|bytes| (Ok(bytes), stream))
        })),
    ))
}

/// Source: upstream `apiserver/pkg/endpoints/handlers/watch.go`: JSON is named
/// without its stream parameter.
fn respond_with(encoding: Encoding, body: Body) -> Response<Body> {
    let media_type = match encoding {
        Encoding::Json => "application/json",
        Encoding::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
    };
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::OK;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// The hub sends only what is under the prefix: one key, when a single object
/// is watched.
fn prefix(call: &Call, selection: &Selection) -> String {
    // A name that is a prefix of another still is: the selection decides.
    match selection.name() {
        Some(name) if call.row.scope == api::Scope::Cluster || !call.namespace().is_empty() => call.row.key(call.namespace(), name),
        _ => call.prefix(),
    }
}

impl Options {
    fn of(call: &Call) -> Result<Self, Status> {
        let version = call.query.get("resourceVersion").map(revision).transpose()?;
        let initial = options::initial_events(&call.query)?;
        let from = match (initial, version) {
            // Objects as of now are not older than any revision that exists.
            (Some(true), _) | (None, None | Some(0)) => From::Now,
            (Some(false), None | Some(0)) => From::Later,
            (_, Some(at)) => From::After(at),
        };
        let timeout = match call.query.integer("timeoutSeconds")? {
            Some(seconds) if seconds > 0 => Duration::from_secs(seconds.unsigned_abs()),
            // Spread, so that watches that began together do not end together.
            _ => call.core.limits.watch_timeout.mul_f64(1.0 + entropy::fraction()),
        };
        let bookmarks = call.query.boolean("allowWatchBookmarks").unwrap_or(false);
        Ok(Self {
            from,
            bookmarks,
            marks_initial: bookmarks && initial == Some(true),
            timeout,
        })
    }
}

/// A watch on its way to one client.
struct Stream {
    encoder: Encoder,
    selection: Selection,
    /// Encoded lazily, so that a large collection is not held twice.
    initial: VecDeque<Arc<crate::hub::Entry>>,
    backlog: VecDeque<Message>,
    changes: mpsc::Receiver<Message>,
    /// Everything up to here has been sent.
    revision: u64,
    bookmarks: bool,
    marks_initial: bool,
    /// What ends the watch from here: one future, in a set because a set asks
    /// only those that have something to say. The others take locks that all
    /// watches share, and a watch waits often.
    ends: FuturesUnordered<BoxFuture<'static, Next>>,
    ended: bool,
}

/// What ends a wait.
enum Next {
    Message(Message),
    /// The time is over: say goodbye with a bookmark.
    TimedOut,
    /// The hub let go, the row, the server or the client's front ends.
    Ended,
}

impl Stream {
    fn new(call: Call, selection: Selection, options: &Options, subscription: Subscription) -> Self {
        let (removed, ends) = (call.row.ends().clone(), call.ends.clone());
        let deadline = Instant::now() + options.timeout;
        let end = async move {
            tokio::select! {
                () = removed.cancelled() => Next::Ended,
                () = cancelled(ends.as_ref()) => Next::Ended,
                () = tokio::time::sleep_until(deadline) => Next::TimedOut,
            }
        };
        Self {
            encoder: Encoder::new(call),
            selection,
            initial: subscription.objects.into(),
            backlog: subscription
                .backlog
                .into_iter()
                .map(|change| Message::Change(Arc::new(Delivery::new(change))))
                .collect(),
            changes: subscription.changes,
            revision: subscription.revision,
            bookmarks: options.bookmarks,
            marks_initial: options.marks_initial,
            ends: FuturesUnordered::from_iter([end.boxed()]),
            ended: false,
        }
    }

    /// The next bytes; `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        let mut out = Chunk::default();
        while out.is_empty() {
            if self.ended {
                return None;
            }
            self.start(&mut out);
            if !out.is_empty() {
                break;
            }
            match self.wait().await {
                Next::Message(message) => self.write(&message, &mut out),
                Next::TimedOut => {
                    if self.bookmarks {
                        self.encoder.bookmark(self.revision, false, out.own());
                    }
                    self.ended = true;
                }
                Next::Ended => self.ended = true,
            }
            // What is waiting already goes with it.
            while out.len() < CHUNK_BYTES && !self.ended {
                let Some(message) = self.backlog.pop_front().or_else(|| self.changes.try_recv().ok()) else {
                    break;
                };
                self.write(&message, &mut out);
            }
        }
        (!out.is_empty()).then(|| out.into_bytes())
    }

    /// The next part of the initial objects, if there are any left.
    fn start(&mut self, out: &mut Chunk) {
        while out.len() < CHUNK_BYTES {
            let Some(entry) = self.initial.pop_front() else { break };
            self.encoder.initial(&entry, &self.selection, out.own());
        }
        if self.initial.is_empty() && std::mem::take(&mut self.marks_initial) {
            self.encoder.bookmark(self.revision, true, out.own());
        }
    }

    async fn wait(&mut self) -> Next {
        if let Some(message) = self.backlog.pop_front() {
            return Next::Message(message);
        }
        tokio::select! {
            biased;
            Some(end) = self.ends.next() => end,
            message = self.changes.recv() => message.map_or(Next::Ended, Next::Message),
        }
    }

    /// Whether this watcher would have been told of an object that nobody can
    /// read: it may only have listed it, or asked for one other by its name.
    fn is_about(&self, damage: &Damage) -> bool {
        let name = damage.key.rsplit('/').next();
        self.selection.name().is_none_or(|asked| Some(asked) == name)
    }

    fn write(&mut self, message: &Message, out: &mut Chunk) {
        match message {
            Message::Change(delivery) => {
                if let Some(damage) = delivery.change.damage.as_ref().filter(|damage| self.is_about(damage)) {
                    out.own()
                        .extend_from_slice(&event::error(&damage.status(), self.encoder.call.encoding));
                    self.ended = true;
                    return;
                }
                if let Some(kind) = classify(&delivery.change, &self.selection, &self.encoder.call.row) {
                    self.encoder.change(kind, delivery, out);
                }
                self.revision = self.revision.max(delivery.change.revision);
            }
            Message::Progress(revision) => {
                self.revision = self.revision.max(*revision);
                self.encoder.bookmark(self.revision, false, out.own());
            }
        }
    }
}

async fn cancelled(token: Option<&tokio_util::sync::CancellationToken>) {
    match token {
        Some(token) => token.cancelled().await,
        None => std::future::pending().await,
    }
}

impl Kind {
    /// As the event's `type`.
    const fn name(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}
