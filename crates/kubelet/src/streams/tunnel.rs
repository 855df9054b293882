//! A byte stream within the binary messages of a WebSocket.
//!
//! Source: KEP-4006, "port-forward: tunneling SPDY through WebSockets".

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};

use super::CHUNK_BYTES;
use super::websocket::{self, Event};

/// Moves bytes between the WebSocket `outer` and the plain `inner` until both
/// directions have ended.
pub(super) async fn tunnel(outer: impl AsyncRead + AsyncWrite, inner: DuplexStream) {
    let (mut from_outer, to_outer) = tokio::io::split(outer);
    let (mut from_inner, mut to_inner) = tokio::io::split(inner);
    // Frames of the two directions and pongs share the way out.
    let (queue, queued) = tokio::sync::mpsc::channel::<Vec<u8>>(super::CHUNKS_MAX);
    let unwrap = {
        let queue = queue.clone();
        async move {
            let mut decoder = websocket::Decoder::default();
            let mut buffer = vec![0; CHUNK_BYTES];
            'connection: while let Ok(n @ 1..) = from_outer.read(&mut buffer).await {
                decoder.push(&buffer[..n]);
                loop {
                    match decoder.next_event() {
                        Ok(Some(Event::Piece { bytes, .. })) => {
                            if to_inner.write_all(&bytes).await.is_err() {
                                break 'connection;
                            }
                        }
                        Ok(Some(Event::Ping(payload))) => {
                            let mut pong = Vec::new();
                            websocket::pong(&payload, &mut pong);
                            if queue.send(pong).await.is_err() {
                                break 'connection;
                            }
                        }
                        Ok(None) => break,
                        Ok(Some(Event::Close)) | Err(_) => break 'connection,
                    }
                }
            }
            let _ = to_inner.shutdown().await;
        }
    };
    let wrap = async move {
        let mut buffer = vec![0; CHUNK_BYTES];
        while let Ok(n @ 1..) = from_inner.read(&mut buffer).await {
            let mut frame = Vec::new();
            websocket::message(&[&buffer[..n]], &mut frame);
            if queue.send(frame).await.is_err() {
                return;
            }
        }
        let mut close = Vec::new();
        websocket::close(websocket::NORMAL, &mut close);
        let _ = queue.send(close).await;
    };
    tokio::join!(unwrap, wrap, write(to_outer, queued));
}

async fn write(mut to: impl AsyncWrite + Unpin, mut queued: tokio::sync::mpsc::Receiver<Vec<u8>>) {
    while let Some(bytes) = queued.recv().await {
        if to.write_all(&bytes).await.is_err() || to.flush().await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}
