//! Frames of many streams that leave together.
//!
//! HTTP/2 hands every frame to its connection at once, which makes each of
//! them a TLS record, a system call and a packet. A change that twenty
//! watchers of one connection are told of would be twenty of each. A cork
//! keeps what is written until the connection has been let run, then
//! everybody else who was ready, then the connection again: what they all had
//! to say by then is one write.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes kept back at most; whoever writes more waits for the socket.
const HELD_BYTES: usize = 64 << 10;
/// A write of this size fills a TLS record and gains nothing by waiting.
const RECORD_BYTES: usize = 16 << 10;
/// For the last frames of a connection that has ended with an error.
const FAREWELL: Duration = Duration::from_secs(1);

struct Shared<IO> {
    io: IO,
    /// Written by the connection, not yet by us.
    held: BytesMut,
    /// Whether anything is kept back at all.
    holds: bool,
    /// Why the last write failed, until the connection is told.
    broken: Option<io::Error>,
}

/// What the connection reads from and writes to.
pub(super) struct Corked<IO>(Arc<Mutex<Shared<IO>>>);

/// Lets go of what was held.
pub(super) struct Cork<IO>(Arc<Mutex<Shared<IO>>>);

/// A cork for a stream; one that `holds` nothing lets everything through, as
/// HTTP/1.1 needs it, whose streams outlive their connection.
pub(super) fn cork<IO>(io: IO, holds: bool) -> (Corked<IO>, Cork<IO>) {
    let shared = Arc::new(Mutex::new(Shared {
        io,
        held: BytesMut::new(),
        holds,
        broken: None,
    }));
    (Corked(Arc::clone(&shared)), Cork(shared))
}

// Whoever panicked while holding it only moved bytes.
fn lock<IO>(shared: &Mutex<Shared<IO>>) -> MutexGuard<'_, Shared<IO>> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A connection on its run; dropped, it can be run on.
pub(super) struct Drive<'a, C, IO> {
    connection: Pin<&'a mut C>,
    cork: &'a Cork<IO>,
    /// The others have been let run since something is held.
    waited: bool,
}

impl<IO: AsyncWrite + Unpin> Cork<IO> {
    /// Runs a connection to its end.
    pub(super) fn drive<'a, C: Future>(&'a self, connection: Pin<&'a mut C>) -> Drive<'a, C, IO> {
        Drive {
            connection,
            cork: self,
            waited: false,
        }
    }

    /// Sends what is left of a connection that has ended. One that ended well
    /// has shut its stream down, and left nothing.
    pub(super) async fn finish(&self) {
        let rest = poll_fn(|cx| lock(&self.0).release(cx));
        if let Ok(Err(error)) = tokio::time::timeout(FAREWELL, rest).await {
            tracing::trace!(%error, "the last frames of a connection were lost");
        }
    }
}

impl<C: Future, IO: AsyncWrite + Unpin> Future for Drive<'_, C, IO> {
    type Output = C::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<C::Output> {
        if let Poll::Ready(ended) = self.connection.as_mut().poll(cx) {
            return Poll::Ready(ended);
        }
        let mut shared = lock(&self.cork.0);
        let holds = !shared.held.is_empty();
        let lets_go = holds && self.waited;
        if lets_go && let Poll::Ready(Err(error)) = shared.release(cx) {
            shared.broken = Some(error);
            cx.waker().wake_by_ref();
        }
        drop(shared);
        self.waited = holds && !lets_go;
        if self.waited {
            // To the end of the queue: who is in it may have more to say.
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

impl<IO: AsyncWrite + Unpin> Shared<IO> {
    /// Writes what is held.
    fn release(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.held.is_empty() {
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, &self.held))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.held.advance(written);
        }
        // An idle connection keeps no buffer.
        self.held = BytesMut::new();
        Pin::new(&mut self.io).poll_flush(cx)
    }

    /// Makes room for a write; `false` when it is to go straight to the
    /// stream.
    fn make_room(&mut self, cx: &mut Context<'_>, bytes: usize) -> Poll<io::Result<bool>> {
        if let Some(error) = self.broken.take() {
            return Poll::Ready(Err(error));
        }
        if !self.holds {
            return Poll::Ready(Ok(false));
        }
        if self.held.len() + bytes > HELD_BYTES {
            ready!(self.release(cx))?;
        }
        Poll::Ready(Ok(!self.held.is_empty() || bytes < RECORD_BYTES))
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Corked<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut shared = lock(&self.0);
        if let Some(error) = shared.broken.take() {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut shared.io).poll_read(cx, into)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Corked<IO> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut shared = lock(&self.0);
        if !ready!(shared.make_room(cx, bytes.len()))? {
            return Pin::new(&mut shared.io).poll_write(cx, bytes);
        }
        shared.held.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, parts: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let mut shared = lock(&self.0);
        let bytes = parts.iter().map(|part| part.len()).sum();
        if !ready!(shared.make_room(cx, bytes))? {
            return Pin::new(&mut shared.io).poll_write_vectored(cx, parts);
        }
        parts.iter().for_each(|part| shared.held.extend_from_slice(part));
        Poll::Ready(Ok(bytes))
    }

    fn is_write_vectored(&self) -> bool {
        let shared = lock(&self.0);
        shared.holds || shared.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut shared = lock(&self.0);
        if shared.holds {
            // The cork's affair.
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut shared.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut shared = lock(&self.0);
        ready!(shared.release(cx))?;
        Pin::new(&mut shared.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
