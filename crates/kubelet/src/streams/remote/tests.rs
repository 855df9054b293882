use std::pin::Pin;
use std::sync::atomic::AtomicUsize;
use std::task::{Context, Poll};

use futures::FutureExt;
use tokio::io::ReadBuf;

use super::super::messages::Form;
use super::super::websocket;
use super::*;

/// More than what a session may hold of either direction: what is on its way,
/// what is being read and what is being written.
const HELD_BYTES_MAX: usize = (CHUNKS_MAX + 4) * CHUNK_BYTES;

/// Writes without end, and counts what is taken.
struct Endless(Arc<AtomicUsize>);

impl AsyncRead for Endless {
    fn poll_read(self: Pin<&mut Self>, _cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let count = buffer.remaining();
        buffer.put_slice(&vec![b'y'; count]);
        self.0.fetch_add(count, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

/// Takes nothing.
struct Stuck;

impl AsyncWrite for Stuck {
    fn poll_write(self: Pin<&mut Self>, _cx: &mut Context<'_>, _bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Poll::Pending
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

async fn served(stdin: Option<Input>, stdout: Option<Output>, io: tokio::io::DuplexStream) -> Ending {
    let session = Session {
        stdin,
        stdout,
        stderr: None,
        terminal: None,
        ended: std::future::pending().boxed(),
    };
    let (reader, writer) = tokio::io::split(io);
    let mut incoming = Incoming {
        reader,
        decoder: Decoder::websocket(Form::Binary),
        ahead: VecDeque::new(),
        sizes: Sizes::default(),
        size: None,
    };
    let mut outgoing = Outgoing {
        writer,
        encoder: Encoder::WebSocket(Form::Binary),
    };
    let command = ["yes".to_owned()];
    serve(session, Some(&command), &mut incoming, &mut outgoing, CancellationToken::new()).await
}

/// Ends when a count stands still although everybody had many turns: all of
/// them are on this thread.
async fn still(count: &AtomicUsize) -> usize {
    let (mut seen, mut turns) = (0, 0);
    while turns < 1000 {
        tokio::task::yield_now().await;
        let now = count.load(Ordering::Relaxed);
        turns = if now == seen { turns + 1 } else { 0 };
        seen = now;
        assert!(seen <= 8 * HELD_BYTES_MAX, "{seen} bytes were taken, and there is no end to it");
    }
    seen
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_the_command_up_and_grows_nothing() {
    let taken = Arc::new(AtomicUsize::new(0));
    let (io, _client) = tokio::io::duplex(1 << 10);
    let taken = tokio::select! {
        _ = served(None, Some(Box::pin(Endless(taken.clone()))), io) => panic!("the session ended"),
        taken = still(&taken) => taken,
    };
    assert!((1..=HELD_BYTES_MAX).contains(&taken), "{taken} bytes were taken from the command");
}

#[tokio::test]
async fn a_command_that_does_not_read_holds_the_client_up_and_grows_nothing() {
    let (io, mut client) = tokio::io::duplex(1 << 10);
    let sent = Arc::new(AtomicUsize::new(0));
    let sending = async {
        let mut message = Vec::new();
        websocket::message(&[&[0], &[b'y'; 100]], &mut message);
        message[1] |= 0x80;
        message.splice(2..2, [0; 4]);
        while client.write_all(&message).await.is_ok() {
            sent.fetch_add(message.len(), Ordering::Relaxed);
        }
    };
    let sent = tokio::select! {
        _ = served(Some(Box::pin(Stuck)), None, io) => panic!("the session ended"),
        () = sending => panic!("the session does not take input"),
        sent = still(&sent) => sent,
    };
    assert!((1..=HELD_BYTES_MAX).contains(&sent), "{sent} bytes were taken from the client");
}
