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

fn session(stdin: Option<Input>, stdout: Option<Output>, ended: Option<Ended>) -> Session {
    Session {
        stdin,
        stdout,
        stderr: None,
        terminal: None,
        ended: match ended {
            Some(how) => std::future::ready(Ok(how)).boxed(),
            None => std::future::pending().boxed(),
        },
    }
}

async fn served(session: Session, io: tokio::io::DuplexStream) -> Ending {
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

/// With the clock of the test standing still while anybody works, it ends only
/// because nothing moves for hours.
#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_holds_the_command_up_and_grows_nothing() {
    for ended in [None, Some(Ended::Exit(0))] {
        let taken = Arc::new(AtomicUsize::new(0));
        let (io, client) = tokio::io::duplex(1 << 10);
        let ending = served(session(None, Some(Box::pin(Endless(taken.clone()))), ended), io).await;
        assert!(matches!(ending, Ending::Status(_) | Ending::Gone));
        let taken = taken.load(Ordering::Relaxed);
        assert!((1..=HELD_BYTES_MAX).contains(&taken), "{taken} bytes were taken from the command");
        drop(client);
    }
}

#[tokio::test(start_paused = true)]
async fn a_command_that_does_not_read_holds_the_client_up_and_grows_nothing() {
    let (io, mut client) = tokio::io::duplex(1 << 10);
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = sent.clone();
    tokio::spawn(async move {
        let mut message = Vec::new();
        websocket::message(&[&[0], &[b'y'; 100]], &mut message);
        message[1] |= 0x80;
        message.splice(2..2, [0; 4]);
        while let Ok(count @ 1..) = client.write(&message).await {
            // What is written in part would be followed by a broken frame.
            if client.write_all(&message[count..]).await.is_err() {
                return;
            }
            counted.fetch_add(message.len(), Ordering::Relaxed);
        }
    });
    let ending = served(session(Some(Box::pin(Stuck)), None, None), io).await;
    assert!(matches!(ending, Ending::Status(_)));
    let sent = sent.load(Ordering::Relaxed);
    assert!((1..=HELD_BYTES_MAX).contains(&sent), "{sent} bytes were taken from the client");
}
