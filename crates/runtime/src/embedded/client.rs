//! The agent's end of the connection to one shim.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream as StdStream;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use shim::protocol::{Answer, Decoder, Envelope, FrameError, Refusal, Request, encode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

/// Requests on their way to a shim, which takes them at once.
const FRAMES_MAX: usize = 16;

/// Why a request got no good answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    #[error("the shim is gone")]
    Gone,
    #[error("the shim did not answer within {0:?}")]
    Late(Duration),
    #[error("{1}")]
    Refused(Refusal, String),
    #[error("the shim's answer does not fit the question")]
    Confused,
    #[error("the request cannot be sent: {0}")]
    Frame(#[from] FrameError),
}

type Pending = Mutex<Option<HashMap<u64, oneshot::Sender<Answer>>>>;

/// A connection. Dropping it hangs up; the shim and its containers live on.
#[derive(Debug)]
pub(super) struct Client {
    /// To the task that writes: a caller who loses patience must not leave
    /// half a frame behind.
    frames: mpsc::Sender<Vec<u8>>,
    /// `None` once the shim has hung up.
    pending: Arc<Pending>,
    next: AtomicU64,
    /// Grows with every event; closes when the shim is gone.
    changes: watch::Receiver<u64>,
    _tasks: JoinSet<()>,
}

/// Connects to the socket in `dir`, whose path may be longer than an address.
pub(super) fn connect(dir: &Path, socket: &str) -> io::Result<StdStream> {
    let dir = std::fs::File::open(dir)?;
    let stream = StdStream::connect(format!("/proc/self/fd/{}/{socket}", dir.as_raw_fd()))?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

impl Client {
    /// Takes over a connection. `on_event` is called for every event and once
    /// when the shim is gone; it must not block.
    pub(super) fn new(stream: StdStream, on_event: impl Fn() + Send + 'static) -> io::Result<Self> {
        let (read, write) = UnixStream::from_std(stream)?.into_split();
        let pending = Arc::new(Mutex::new(Some(HashMap::new())));
        let (changed, changes) = watch::channel(0);
        let (frames, queue) = mpsc::channel(FRAMES_MAX);
        let mut tasks = JoinSet::new();
        tasks.spawn(listen(read, pending.clone(), changed, on_event));
        tasks.spawn(speak(write, queue));
        Ok(Self {
            frames,
            pending,
            next: AtomicU64::new(1),
            changes,
            _tasks: tasks,
        })
    }

    pub(super) fn is_gone(&self) -> bool {
        lock(&self.pending).is_none()
    }

    /// Counts events; fails to wait when the shim is gone.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }

    /// Asks and waits for the answer. Dropped, it leaves the request under way.
    pub(super) async fn ask(&self, request: &Request, patience: Duration) -> Result<Answer, ClientError> {
        let (_, answer) = self.send(request, patience).await?;
        self.wait(answer, patience).await
    }

    /// Asks; gives the request's id and where its answer will come. Dropped
    /// while it waits, it has not asked.
    pub(super) async fn send(&self, request: &Request, patience: Duration) -> Result<(u64, oneshot::Receiver<Answer>), ClientError> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let frame = encode(id, request)?;
        let place = match tokio::time::timeout(patience, self.frames.reserve()).await {
            Err(_) => return Err(ClientError::Late(patience)),
            Ok(Err(_)) => return Err(ClientError::Gone),
            Ok(Ok(place)) => place,
        };
        let (answered, answer) = oneshot::channel();
        match lock(&self.pending).as_mut() {
            Some(pending) => drop(pending.insert(id, answered)),
            None => return Err(ClientError::Gone),
        }
        place.send(frame);
        Ok((id, answer))
    }

    pub(super) async fn wait(&self, answer: oneshot::Receiver<Answer>, patience: Duration) -> Result<Answer, ClientError> {
        match tokio::time::timeout(patience, answer).await {
            Err(_) => Err(ClientError::Late(patience)),
            Ok(Err(_)) => Err(ClientError::Gone),
            Ok(Ok(Answer::Refused { kind, message })) => Err(ClientError::Refused(kind, message)),
            Ok(Ok(answer)) => Ok(answer),
        }
    }

    /// Asks for something whose only good answer is that it is done.
    pub(super) async fn order(&self, request: &Request, patience: Duration) -> Result<(), ClientError> {
        match self.ask(request, patience).await? {
            Answer::Done => Ok(()),
            _ => Err(ClientError::Confused),
        }
    }
}

fn lock(pending: &Pending) -> std::sync::MutexGuard<'_, Option<HashMap<u64, oneshot::Sender<Answer>>>> {
    // No code that holds it can panic halfway through a change.
    pending.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn speak(mut write: OwnedWriteHalf, mut frames: mpsc::Receiver<Vec<u8>>) {
    while let Some(frame) = frames.recv().await {
        if write.write_all(&frame).await.is_err() {
            return; // whoever listens sees that the shim is gone
        }
    }
}

async fn listen(mut read: OwnedReadHalf, pending: Arc<Pending>, changed: watch::Sender<u64>, on_event: impl Fn()) {
    let mut decoder = Decoder::default();
    let mut buffer = vec![0; 8 << 10];
    'connection: while let Ok(n @ 1..) = read.read(&mut buffer).await {
        decoder.push(&buffer[..n]);
        loop {
            match decoder.take::<Answer>() {
                Ok(None) => break,
                Ok(Some(Envelope { id: 0, .. })) => {
                    changed.send_modify(|count| *count += 1);
                    on_event();
                }
                Ok(Some(Envelope { id, body })) => {
                    if let Some(asked) = lock(&pending).as_mut().and_then(|p| p.remove(&id)) {
                        let _ = asked.send(body); // nobody waits any more
                    }
                }
                // A newer shim's answer: whoever asked is told below.
                Err(FrameError::Malformed { id, .. }) => drop(lock(&pending).as_mut().and_then(|p| p.remove(&id))),
                Err(FrameError::TooLong(_)) => break 'connection,
            }
        }
    }
    *lock(&pending) = None;
    drop(changed);
    on_event();
}
