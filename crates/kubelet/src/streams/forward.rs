//! The session of forwarded ports.
//!
//! Over SPDY, also when that is tunnelled, every connection to a port is a
//! pair of streams, opened at any time: one for data and one for what went
//! wrong. Over numbered WebSocket channels the ports are named by the request,
//! and each has one connection for the time of the session.
//!
//! Source: upstream `kubelet/pkg/cri/streaming/portforward`.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;

use api::Uid;
use runtime::Runtime;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::messages::{self, Form, Message};
use super::negotiate::Upgrade;
use super::spdy::{self, StreamId};
use super::tunnel::tunnel;
use super::{CHUNK_BYTES, CHUNKS_MAX, FAREWELL, IDLE};

/// Connections at a time in one session; a stream beyond them is refused.
const CONNECTIONS_MAX: usize = 256;
/// Pairs of streams of which one is missing.
const HALVES_MAX: usize = 64;
/// Chunks a connection may be behind before its session waits for it.
const BEHIND_MAX: usize = 32;
/// What a tunnelled session holds between its two layers.
const TUNNEL_BYTES: usize = 64 << 10;

/// Ports a client asked for.
pub(crate) struct Forward {
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) pod: Uid,
    /// For messages.
    pub(crate) name: String,
    /// Named by the request; only numbered channels need them.
    pub(crate) ports: Vec<u16>,
    pub(crate) upgrade: Upgrade,
}

/// What is on its way to the client.
enum Out {
    Data { stream: u32, bytes: Vec<u8>, fin: bool },
    Accept(StreamId),
    Raw(Vec<u8>),
}

/// The bytes of what a client is told.
enum Wire {
    Spdy(spdy::Encoder),
    WebSocket(Form),
}

impl Wire {
    fn encode(&mut self, out: Out) -> Vec<u8> {
        let mut wire = Vec::new();
        match (self, out) {
            (_, Out::Raw(raw)) => wire = raw,
            (Self::Spdy(encoder), Out::Accept(stream)) => encoder.reply(stream, &mut wire),
            (Self::Spdy(_), Out::Data { stream, bytes, fin }) => spdy::Encoder::data(stream, &bytes, fin, &mut wire),
            // Channels are numbered below 256: the ports are at most 127.
            (Self::WebSocket(form), Out::Data { stream, bytes, .. }) if !bytes.is_empty() => {
                form.encode(u8::try_from(stream).unwrap_or_default(), &bytes, &mut wire);
            }
            (Self::WebSocket(_), _) => {}
        }
        wire
    }
}

/// One connection to a port, and the streams it is told on.
struct Connection {
    runtime: Arc<dyn Runtime>,
    pod: Uid,
    name: String,
    port: u16,
    data: u32,
    error: u32,
    queue: mpsc::Sender<Out>,
}

impl Connection {
    /// Copies both ways until both have ended.
    async fn run(self, from_client: mpsc::Receiver<Vec<u8>>) {
        let message = match self.runtime.dial(&self.pod, self.port).await {
            Ok(stream) => {
                self.copy(stream, from_client).await;
                String::new()
            }
            Err(error) => {
                let why = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
                format!(
                    "error forwarding port {} to pod {}, uid {}: failed to execute portforward in network namespace: {why}",
                    self.port, self.name, self.pod
                )
            }
        };
        for (stream, bytes) in [(self.error, message.into_bytes()), (self.data, Vec::new())] {
            let fin = true;
            if self.queue.send(Out::Data { stream, bytes, fin }).await.is_err() {
                return;
            }
        }
    }

    async fn copy(&self, stream: TcpStream, mut from_client: mpsc::Receiver<Vec<u8>>) {
        let (mut from_pod, mut to_pod) = stream.into_split();
        let up = async {
            while let Some(bytes) = from_client.recv().await {
                if to_pod.write_all(&bytes).await.is_err() {
                    // Or the whole session would wait for this connection.
                    from_client.close();
                    return;
                }
            }
            let _ = to_pod.shutdown().await;
        };
        let down = async {
            let mut buffer = vec![0; CHUNK_BYTES];
            while let Ok(n @ 1..) = from_pod.read(&mut buffer).await {
                let out = Out::Data {
                    stream: self.data,
                    bytes: buffer[..n].to_vec(),
                    fin: false,
                };
                if self.queue.send(out).await.is_err() {
                    return;
                }
            }
        };
        let (mut up, mut down) = (pin!(up), pin!(down));
        // A server that has said everything may still listen; a client that
        // has, may still wait for the answer. Once the server's side is
        // closed nothing more can come, as upstream.
        tokio::select! {
            () = &mut down => {}
            () = &mut up => down.await,
        }
    }
}

impl Forward {
    /// Serves the client until it is gone. Dropped, it closes every connection.
    pub(crate) async fn run(self, io: impl AsyncRead + AsyncWrite, shutdown: CancellationToken) {
        let session = async {
            match self.upgrade {
                Upgrade::Spdy { .. } => self.spdy(io).await,
                Upgrade::WebSocket { .. } => self.channels(io).await,
                Upgrade::Tunnel => {
                    let (ours, theirs) = tokio::io::duplex(TUNNEL_BYTES);
                    let mut tunnel = pin!(tunnel(io, theirs));
                    tokio::select! {
                        () = &mut tunnel => {}
                        () = self.spdy(ours) => {
                            let _ = tokio::time::timeout(FAREWELL, tunnel).await;
                        }
                    }
                }
            }
        };
        tokio::select! {
            () = session => {}
            () = shutdown.cancelled() => {}
        }
    }

    fn connection(&self, port: u16, data: u32, error: u32, queue: &mpsc::Sender<Out>) -> Connection {
        Connection {
            runtime: self.runtime.clone(),
            pod: self.pod.clone(),
            name: self.name.clone(),
            port,
            data,
            error,
            queue: queue.clone(),
        }
    }

    async fn spdy(&self, io: impl AsyncRead + AsyncWrite) {
        let (mut reader, writer) = tokio::io::split(io);
        let (queue, queued) = mpsc::channel(CHUNKS_MAX);
        let mut writing = pin!(write(writer, queued, Wire::Spdy(spdy::Encoder::default())));
        let mut streams = Streams {
            forward: self,
            queue,
            halves: HashMap::new(),
            data: HashMap::new(),
            running: JoinSet::new(),
        };
        let mut decoder = spdy::Decoder::default();
        let reading = async {
            let mut buffer = vec![0; CHUNK_BYTES];
            loop {
                let read = tokio::select! {
                    read = tokio::time::timeout(IDLE, reader.read(&mut buffer)) => read,
                    Some(_) = streams.running.join_next(), if !streams.running.is_empty() => continue,
                };
                let Ok(Ok(n @ 1..)) = read else { return };
                decoder.push(&buffer[..n]);
                loop {
                    match decoder.next_event() {
                        Ok(Some(spdy::Event::GoAway)) => return,
                        Ok(Some(event)) => {
                            if streams.take(event).await.is_none() {
                                return;
                            }
                        }
                        Ok(None) => break,
                        Err(error) => {
                            tracing::debug!(error = %error, "a client's stream cannot be followed");
                            return;
                        }
                    }
                }
            }
        };
        tokio::select! {
            () = reading => {}
            () = &mut writing => {}
        }
    }

    async fn channels(&self, io: impl AsyncRead + AsyncWrite) {
        let (mut reader, writer) = tokio::io::split(io);
        let (queue, queued) = mpsc::channel(CHUNKS_MAX);
        let form = self.upgrade.form();
        let mut writing = pin!(write(writer, queued, Wire::WebSocket(form)));
        let mut running = JoinSet::new();
        let mut to_pods = Vec::new();
        let mut ready = Vec::new();
        for (number, port) in (0u32..).zip(&self.ports) {
            let (data, error) = (2 * number, 2 * number + 1);
            for stream in [data, error] {
                let channel = u8::try_from(stream).unwrap_or_default();
                form.encode(channel, &port.to_le_bytes(), &mut ready);
            }
            let (to_pod, from_client) = mpsc::channel(BEHIND_MAX);
            to_pods.push(to_pod);
            running.spawn(self.connection(*port, data, error, &queue).run(from_client));
        }
        let reading = async {
            if queue.send(Out::Raw(ready)).await.is_err() {
                return;
            }
            let mut decoder = messages::Decoder::new(form);
            let mut buffer = vec![0; CHUNK_BYTES];
            while let Ok(Ok(n @ 1..)) = tokio::time::timeout(IDLE, reader.read(&mut buffer)).await {
                decoder.push(&buffer[..n]);
                loop {
                    match decoder.next_message() {
                        Ok(Some(Message::Data(channel, bytes))) => {
                            // Data channels are the even ones. A connection that has ended takes nothing.
                            let to_pod = Some(usize::from(channel)).filter(|n| n % 2 == 0).and_then(|n| to_pods.get(n / 2));
                            if let Some(to_pod) = to_pod {
                                let _ = to_pod.send(bytes).await;
                            }
                        }
                        Ok(Some(Message::Echo(bytes))) => {
                            if queue.send(Out::Raw(bytes)).await.is_err() {
                                return;
                            }
                        }
                        Ok(Some(Message::Bye)) => return,
                        Ok(None) => break,
                        Err(error) => {
                            tracing::debug!(error = %error, "a client's stream cannot be followed");
                            return;
                        }
                    }
                }
            }
        };
        tokio::select! {
            () = reading => {}
            () = &mut writing => {}
        }
    }
}

/// The streams of a SPDY session.
struct Streams<'a> {
    forward: &'a Forward,
    queue: mpsc::Sender<Out>,
    /// Request id to its error stream or data stream, whichever came first.
    halves: HashMap<String, Half>,
    /// To the connections, by data stream.
    data: HashMap<StreamId, mpsc::Sender<Vec<u8>>>,
    running: JoinSet<()>,
}

#[derive(Clone, Copy)]
struct Half {
    stream: StreamId,
    port: u16,
    is_data: bool,
}

impl Streams<'_> {
    /// Does what an event says; `None` when the client is gone.
    async fn take(&mut self, event: spdy::Event) -> Option<()> {
        match event {
            spdy::Event::Open { stream, headers, .. } => {
                let out = match self.open(stream, &headers) {
                    true => Out::Accept(stream),
                    false => {
                        let mut refusal = Vec::new();
                        spdy::Encoder::reset(stream, spdy::REFUSED, &mut refusal);
                        Out::Raw(refusal)
                    }
                };
                self.queue.send(out).await.ok()?;
            }
            spdy::Event::Data { stream, bytes, fin } => {
                if let Some(to_pod) = self.data.get(&stream).filter(|_| !bytes.is_empty()) {
                    let _ = to_pod.send(bytes).await;
                }
                if fin {
                    self.data.remove(&stream);
                }
            }
            spdy::Event::Reset { stream } => {
                self.data.remove(&stream);
                self.halves.retain(|_, half| half.stream != stream);
            }
            spdy::Event::Ping(id) => {
                let mut echo = Vec::new();
                spdy::Encoder::ping(id, &mut echo);
                self.queue.send(Out::Raw(echo)).await.ok()?;
            }
            spdy::Event::GoAway => {}
        }
        Some(())
    }

    /// Whether a stream is taken. With its other half, a connection is made.
    fn open(&mut self, stream: StreamId, headers: &spdy::Headers) -> bool {
        let is_data = match headers.get("streamtype") {
            Some("data") => true,
            Some("error") => false,
            _ => return false,
        };
        let port = headers
            .get("port")
            .and_then(|port| port.parse::<u16>().ok())
            .filter(|port| *port != 0);
        let Some(port) = port else { return false };
        // Clients before 1.2 name no request: the two follow each other.
        let request = headers.get("requestid").map_or_else(
            || (if is_data { stream.wrapping_sub(2) } else { stream }).to_string(),
            str::to_owned,
        );
        let half = Half { stream, port, is_data };
        match self.halves.get(&request).copied() {
            Some(other) if other.is_data != is_data && other.port == port => {
                self.halves.remove(&request);
                if self.running.len() >= CONNECTIONS_MAX {
                    return false;
                }
                let (data, error) = if is_data { (stream, other.stream) } else { (other.stream, stream) };
                let (to_pod, from_client) = mpsc::channel(BEHIND_MAX);
                self.data.insert(data, to_pod);
                self.running
                    .spawn(self.forward.connection(port, data, error, &self.queue).run(from_client));
                true
            }
            Some(_) => false,
            None if self.halves.len() >= HALVES_MAX => false,
            None => {
                self.halves.insert(request, half);
                true
            }
        }
    }
}

async fn write(mut writer: impl AsyncWrite + Unpin, mut queued: mpsc::Receiver<Out>, mut wire: Wire) {
    while let Some(out) = queued.recv().await {
        let bytes = wire.encode(out);
        if writer.write_all(&bytes).await.is_err() || writer.flush().await.is_err() {
            return;
        }
    }
}
