//! The audit log: who asked for what, and what came of it, at the level
//! `Metadata`: no bodies.
//!
//! Reading order: [`Seen`] (what of a request is kept), [`policy`] (which
//! requests are), `event.rs` (the wire form), `file.rs` (the file and its
//! rotation). A request never waits for the log: its record is put into a
//! bounded queue that a thread of its own empties, and what does not fit is
//! counted.
//!
//! Source: Kubernetes "Auditing"; upstream `apiserver/pkg/apis/audit/v1`.

mod event;
mod file;
pub(crate) mod policy;

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::task::{Context, Poll};

use api::{Status, Time};
use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body::Frame;

pub use self::file::OpenError;
use self::file::Rotating;
use crate::authn::Identity;
use crate::body::{Body, BodyError};
use crate::entropy;
use crate::request::ResourceRequest;

/// How much the log may take.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Records that wait to be written; more are dropped and counted.
    pub queue: usize,
    /// Of one file; then a new one is begun.
    pub file_bytes: u64,
    /// Former files that are kept.
    pub files: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            queue: 8_192,
            file_bytes: 20 << 20,
            files: 4,
        }
    }
}

/// The address of the other end of a connection, in a request's extensions.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub std::net::IpAddr);

/// When in a request's life its record was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The head of a streamed answer is on its way.
    ResponseStarted,
    /// The answer is complete.
    ResponseComplete,
}

/// What is known of a request, filled as it is found out.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) id: String,
    pub(crate) uri: String,
    pub(crate) method: String,
    pub(crate) user_agent: String,
    pub(crate) peer: Option<std::net::IpAddr>,
    pub(crate) received: Time,
    /// The caller; nobody where authentication failed.
    pub(crate) user: Option<Identity>,
    /// Whom the caller acted as.
    pub(crate) impersonated: Option<Identity>,
    pub(crate) asked: Option<ResourceRequest>,
    pub(crate) code: u16,
    /// Reason and message of a failure.
    pub(crate) failure: Option<(String, String)>,
}

impl Seen {
    /// What a request says of itself.
    pub(crate) fn of(request: &Request<Body>, received: Time) -> Self {
        let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
        // A client's own id joins the records of several servers.
        let id = header("audit-id").filter(|id| !id.is_empty() && id.len() <= 64);
        Self {
            id: id.unwrap_or_default().to_owned(),
            uri: request
                .uri()
                .path_and_query()
                .map_or_else(String::new, |uri| uri.as_str().to_owned()),
            method: request.method().as_str().to_ascii_lowercase(),
            user_agent: header("user-agent").unwrap_or_default().to_owned(),
            peer: request.extensions().get::<Peer>().map(|peer| peer.0),
            received,
            ..Self::default()
        }
    }

    /// Notes what came of it.
    pub(crate) fn answered(&mut self, answer: &Result<Response<Body>, Status>) {
        match answer {
            Ok(response) => self.code = response.status().as_u16(),
            Err(status) => {
                self.code = status.code;
                self.failure = Some((status.reason.clone(), status.message.clone()));
            }
        }
    }
}

struct Record {
    seen: Seen,
    stage: Stage,
    at: Time,
}

/// What was done so far.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) written: AtomicU64,
    pub(crate) dropped: AtomicU64,
}

/// An open audit log. Clones share it; its thread ends with the last.
#[derive(Clone)]
pub struct Log {
    queue: SyncSender<Record>,
    counts: Arc<Counts>,
}

impl Log {
    /// Appends to the file, and starts the thread that writes.
    ///
    /// # Errors
    /// When the file cannot be opened, or the thread not be started.
    pub fn open(path: PathBuf, limits: &Limits) -> Result<Self, OpenError> {
        let file = Rotating::open(path, limits.file_bytes, limits.files)?;
        let (queue, records) = sync_channel(limits.queue.max(1));
        let counts = Arc::new(Counts::default());
        let counted = Arc::clone(&counts);
        let thread = std::thread::Builder::new().name("audit".to_owned());
        thread.spawn(move || write(file, &records, &counted)).map_err(OpenError::Thread)?;
        Ok(Self { queue, counts })
    }

    pub(crate) fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Hands a record over, or counts it as dropped.
    pub(crate) fn record(&self, seen: Seen, stage: Stage, at: Time) {
        match self.queue.try_send(Record { seen, stage, at }) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.counts.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Records an answered request, if it is one of those. The answer carries the
/// record's id; where it streams, its end is recorded too.
pub(crate) fn finish(log: &Log, mut seen: Seen, path: &str, mut response: Response<Body>, clock: &crate::server::Clock) -> Response<Body> {
    let shown = seen.impersonated.as_ref().or(seen.user.as_ref());
    if !policy::records(shown, path, seen.asked.as_ref(), seen.code) {
        return response;
    }
    if seen.id.is_empty() {
        seen.id = entropy::uid();
    }
    if let Ok(id) = HeaderValue::from_str(&seen.id) {
        response.headers_mut().insert("audit-id", id);
    }
    let streams = http_body::Body::size_hint(response.body()).exact().is_none();
    if !streams {
        log.record(seen, Stage::ResponseComplete, clock());
        return response;
    }
    log.record(seen.clone(), Stage::ResponseStarted, clock());
    response.map(|body| Watched::wrap(body, log.clone(), seen, Arc::clone(clock)))
}

/// Writes what comes, and to the disk whenever nothing more waits.
fn write(mut file: Rotating, records: &Receiver<Record>, counts: &Counts) {
    let mut told = 0;
    while let Ok(first) = records.recv() {
        let mut next = Some(first);
        while let Some(record) = next {
            let line = event::line(&record.seen, record.stage, record.at);
            match file.append(&line) {
                Ok(()) => {
                    counts.written.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => {
                    counts.dropped.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(%error, "the audit log cannot be written; is the disk full?");
                }
            }
            next = records.try_recv().ok();
        }
        if let Err(error) = file.flush() {
            tracing::warn!(%error, "the audit log cannot be written; is the disk full?");
        }
        let dropped = counts.dropped.load(Ordering::Relaxed);
        if dropped > told {
            tracing::warn!(
                dropped = dropped - told,
                "audit records were dropped: they came faster than they can be written"
            );
            told = dropped;
        }
    }
}

/// A streamed body whose end is recorded, however it ends.
pub(crate) struct Watched {
    body: Body,
    end: Option<(Log, Seen, crate::server::Clock)>,
}

impl Watched {
    /// The same body; its end is recorded.
    pub(crate) fn wrap(body: Body, log: Log, seen: Seen, clock: crate::server::Clock) -> Body {
        use http_body_util::BodyExt;
        Self {
            body,
            end: Some((log, seen, clock)),
        }
        .boxed_unsync()
    }
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if let Some((log, seen, clock)) = self.end.take() {
            let at = clock();
            log.record(seen, Stage::ResponseComplete, at);
        }
    }
}

#[cfg(test)]
mod tests;
