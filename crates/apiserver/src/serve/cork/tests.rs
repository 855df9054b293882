use std::pin::pin;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

/// What reached the wire, write by write; it takes at most `room` bytes.
#[derive(Default)]
struct Wire {
    writes: Vec<Vec<u8>>,
    room: usize,
    down: bool,
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.room == 0 {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let taken = bytes.len().min(self.room);
        self.room -= taken;
        self.writes.push(bytes[..taken].to_vec());
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.down = true;
        Poll::Ready(Ok(()))
    }
}

fn corked(room: usize, holds: bool) -> (Corked<Wire>, Cork<Wire>) {
    let wire = Wire { room, ..Wire::default() };
    cork(wire, holds)
}

fn writes(cork: &Cork<Wire>) -> Vec<Vec<u8>> {
    std::mem::take(&mut lock(&cork.0).io.writes)
}

/// A connection that writes what streams send it, and flushes every time.
async fn connection(mut io: Corked<Wire>, mut frames: tokio::sync::mpsc::UnboundedReceiver<Vec<u8>>) -> Corked<Wire> {
    while let Some(frame) = frames.recv().await {
        io.write_all(&frame).await.unwrap();
        io.flush().await.unwrap();
    }
    io
}

#[tokio::test]
async fn what_many_have_to_say_at_a_time_is_one_write() {
    let (io, cork) = corked(usize::MAX, true);
    let (send, frames) = tokio::sync::mpsc::unbounded_channel();
    let mut connection = pin!(connection(io, frames));
    for index in 0..20_u8 {
        let send = send.clone();
        tokio::spawn(async move { send.send(vec![index; 10]) });
    }
    // The twenty are in the queue behind this task.
    let running = cork.drive(connection.as_mut());
    assert!(
        tokio::time::timeout(Duration::from_millis(100), running).await.is_err(),
        "it goes on"
    );
    let wanted: Vec<u8> = (0..20).flat_map(|index| [index; 10]).collect();
    assert_eq!(writes(&cork), [wanted]);
    // One alone does not wait for others.
    send.send(b"alone".to_vec()).unwrap();
    let running = cork.drive(connection.as_mut());
    assert!(tokio::time::timeout(Duration::from_millis(100), running).await.is_err());
    assert_eq!(writes(&cork), [b"alone"]);
}

#[tokio::test]
async fn large_writes_are_not_copied_and_nothing_overtakes() {
    let (mut io, cork) = corked(usize::MAX, true);
    io.write_all(b"first").await.unwrap();
    io.write_all(&vec![b'a'; RECORD_BYTES]).await.unwrap();
    assert_eq!(writes(&cork), Vec::<Vec<u8>>::new(), "both are held");
    let rest = vec![b'b'; HELD_BYTES - RECORD_BYTES];
    io.write_all(&rest).await.unwrap();
    let written = writes(&cork);
    assert_eq!(written.len(), 2, "what was held, then what did not fit beside it");
    assert!(written[0].starts_with(b"firsta") && written[1] == rest);
    let both = [io::IoSlice::new(b"one, "), io::IoSlice::new(b"two")];
    assert_eq!(io.write_vectored(&both).await.unwrap(), 8);
    io.shutdown().await.unwrap();
    assert_eq!(writes(&cork), [b"one, two"]);
    assert!(lock(&cork.0).io.down);
}

#[tokio::test]
async fn a_broken_stream_is_told_to_the_connection() {
    let (mut io, cork) = corked(3, true);
    let ended = cork
        .drive(pin!(async move {
            io.write_all(b"too much").await.unwrap();
            let error = io.read(&mut [0; 8]).await.unwrap_err();
            error.kind()
        }))
        .await;
    assert_eq!((ended, writes(&cork)), (io::ErrorKind::BrokenPipe, vec![b"too".to_vec()]));
}

#[tokio::test]
async fn what_is_held_when_a_connection_ends_is_sent() {
    let (mut io, cork) = corked(usize::MAX, true);
    cork.drive(pin!(async { io.write_all(b"farewell").await })).await.unwrap();
    cork.finish().await;
    assert_eq!(writes(&cork), [b"farewell"]);
}

#[tokio::test]
async fn without_holding_every_write_goes_through() {
    let (mut io, cork) = corked(usize::MAX, false);
    for _ in 0..2 {
        io.write_all(b"now").await.unwrap();
    }
    assert_eq!(writes(&cork), [b"now", b"now"]);
}
