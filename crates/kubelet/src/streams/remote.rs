//! The session of one command or attachment.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use api::Uid;
use api::node::ContainerId;
use runtime::{AttachRequest, Ended, Input, Output, Runtime, RuntimeError, Session, StreamRequest, Terminal, TerminalSize};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::channels::{Channel, ChannelError, Decoder, Encoder, Said, Sizes};
use super::negotiate::Upgrade;
use super::{CHUNK_BYTES, CHUNKS_MAX, CREATION, FAREWELL, IDLE, SHUTTING_DOWN};

/// A client that has a terminal tells its size at once; a command should not
/// run before, or its first look at the size would be wrong.
const FIRST_SIZE: Duration = Duration::from_millis(200);
/// What a command has written is read until nothing comes for so long: what it
/// left running may hold its streams open for ever.
const DRAIN: Duration = Duration::from_millis(100);

/// Which streams a client asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) stdin: bool,
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
    pub(crate) tty: bool,
}

/// A command or attachment a client asked for.
pub(crate) struct Remote {
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) pod: Uid,
    pub(crate) id: ContainerId,
    /// What to run; `None` to attach.
    pub(crate) command: Option<Vec<String>>,
    pub(crate) wanted: Wanted,
    pub(crate) upgrade: Upgrade,
}

/// How a session is to end for the client.
enum Ending {
    /// It has been told, or is gone.
    Gone,
    Status(Value),
}

impl Remote {
    /// Serves the client until the command, the container or the client ends.
    /// Dropped, it ends the command, or detaches.
    pub(crate) async fn run(self, io: impl AsyncRead + AsyncWrite, shutdown: CancellationToken) {
        let (reader, writer) = tokio::io::split(io);
        let (decoder, encoder) = match self.upgrade {
            Upgrade::Spdy { .. } => (Decoder::spdy(), Encoder::spdy()),
            Upgrade::WebSocket { .. } | Upgrade::Tunnel => {
                let form = self.upgrade.form();
                (Decoder::websocket(form), Encoder::WebSocket(form))
            }
        };
        let mut incoming = Incoming {
            reader,
            decoder,
            ahead: VecDeque::new(),
            sizes: Sizes::default(),
            size: None,
        };
        let mut outgoing = Outgoing { writer, encoder };
        let ending = match self.begin(&mut incoming, &mut outgoing).await {
            Ok(session) => serve(session, self.command.as_deref(), &mut incoming, &mut outgoing, shutdown).await,
            Err(ending) => ending,
        };
        if let Ending::Status(status) = ending {
            let text = self.told(&status);
            outgoing.finish(&text).await;
            // What the client still sends must not cut off what it is told.
            let mut rest = [0; 4096];
            let reading = async { while let Ok(1..) = incoming.reader.read(&mut rest).await {} };
            let _ = tokio::time::timeout(FAREWELL, reading).await;
        }
    }

    /// The end as the client's protocol has it: a Status, or the text of a
    /// failure. Source: upstream `remotecommand/httpstream.go`.
    fn told(&self, status: &Value) -> Vec<u8> {
        if self.upgrade.tells_status() {
            return status.to_string().into_bytes();
        }
        status["message"].as_str().unwrap_or_default().as_bytes().to_vec()
    }

    async fn begin<R: AsyncRead, W: AsyncWrite>(
        &self,
        incoming: &mut Incoming<ReadHalf<R>>,
        outgoing: &mut Outgoing<WriteHalf<W>>,
    ) -> Result<Session, Ending>
    where
        ReadHalf<R>: AsyncRead + Unpin,
        WriteHalf<W>: AsyncWrite + Unpin,
    {
        let Wanted {
            stdin,
            stdout,
            stderr,
            tty,
        } = self.wanted;
        match self.upgrade {
            Upgrade::Spdy { protocol } => {
                let resize = tty && protocol != "v2.channel.k8s.io";
                let count = [true, stdin, stdout, stderr && !tty, resize].iter().filter(|one| **one).count();
                let opening = incoming.open(count, outgoing);
                match tokio::time::timeout(CREATION, opening).await {
                    Ok(Some(())) => {}
                    Ok(None) => return Err(Ending::Gone),
                    Err(_) => return Err(failed("timed out waiting for client to create streams")),
                }
            }
            // Tells clients that the connection stands. Source: upstream
            // `remotecommand/websocket.go`.
            _ => outgoing
                .send(Out::Data(Channel::Stdout, Vec::new()))
                .await
                .map_err(|_| Ending::Gone)?,
        }
        if tty && self.command.is_some() {
            let _ = tokio::time::timeout(FIRST_SIZE, incoming.first_size(outgoing)).await;
        }
        let (pod, id) = (&self.pod, &self.id);
        match &self.command {
            Some(command) => {
                let request = StreamRequest {
                    command: command.clone(),
                    stdin,
                    stdout,
                    stderr: stderr && !tty,
                    terminal: tty.then(|| incoming.size.unwrap_or_default()),
                };
                self.runtime.exec_stream(pod, id, request).await
            }
            None => {
                let request = AttachRequest {
                    stdin,
                    stdout,
                    stderr: stderr && !tty,
                };
                self.runtime.attach(pod, id, request).await
            }
        }
        .map_err(|error| trouble(self.command.as_deref(), error))
    }
}

/// Source of the texts: upstream `remotecommand/{exec,attach}.go` and
/// containerd's CRI server.
fn trouble(command: Option<&[String]>, error: RuntimeError) -> Ending {
    let why = match error {
        RuntimeError::Start(message) => {
            format!("failed to exec in container: OCI runtime exec failed: exec failed: unable to start container process: {message}")
        }
        other => other.to_string(),
    };
    match command {
        Some(_) => failed(&format!("error executing command in container: {why}")),
        None => failed(&format!("error attaching to container: {why}")),
    }
}

fn ended(command: Option<&[String]>, how: Result<Ended, RuntimeError>) -> Ending {
    match how {
        Ok(Ended::Exit(0) | Ended::Detached) => Ending::Status(json!({"metadata": {}, "status": "Success"})),
        Ok(Ended::Exit(code)) => {
            let command = command.unwrap_or_default().join(" ");
            Ending::Status(json!({
                "metadata": {},
                "status": "Failure",
                "message": format!(
                    "command terminated with non-zero exit code: error executing command [{command}], exit code {code}"
                ),
                "reason": "NonZeroExitCode",
                "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
            }))
        }
        Err(error) => trouble(command, error),
    }
}

/// An internal error, as upstream's `NewInternalError`.
fn failed(why: &str) -> Ending {
    Ending::Status(json!({
        "metadata": {},
        "status": "Failure",
        "message": format!("Internal error occurred: {why}"),
        "reason": "InternalError",
        "details": {"causes": [{"message": why}]},
        "code": 500,
    }))
}

/// What is on its way to the client.
enum Out {
    Data(Channel, Vec<u8>),
    Raw(Vec<u8>),
}

struct Outgoing<W> {
    writer: W,
    encoder: Encoder,
}

impl<W: AsyncWrite + Unpin> Outgoing<W> {
    async fn send(&mut self, out: Out) -> std::io::Result<()> {
        let mut bytes = Vec::new();
        match out {
            Out::Data(channel, data) => self.encoder.data(channel, &data, &mut bytes),
            Out::Raw(raw) => bytes = raw,
        }
        self.writer.write_all(&bytes).await?;
        self.writer.flush().await
    }

    async fn finish(&mut self, status: &[u8]) {
        let mut bytes = Vec::new();
        self.encoder.finish(status, &mut bytes);
        let told = async {
            self.writer.write_all(&bytes).await?;
            self.writer.shutdown().await
        };
        // A client that does not take it does not get it.
        let _ = tokio::time::timeout(FAREWELL, told).await;
    }
}

struct Incoming<R> {
    reader: R,
    decoder: Decoder,
    /// Said before the command ran.
    ahead: VecDeque<Said>,
    sizes: Sizes,
    size: Option<TerminalSize>,
}

impl<R: AsyncRead + Unpin> Incoming<R> {
    /// What the client says next; `None` when it is gone.
    async fn said(&mut self) -> Option<Said> {
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            match self.decoder.next_said() {
                Ok(Some(Said::Bye)) => return None,
                Ok(Some(Said::Data(Channel::Resize, bytes))) => {
                    if let Some(size) = self.sizes.push(&bytes) {
                        self.size = Some(size);
                        return Some(Said::Data(Channel::Resize, bytes));
                    }
                }
                Ok(Some(said)) => return Some(said),
                Ok(None) => match self.reader.read(&mut buffer).await {
                    Ok(n @ 1..) => self.decoder.push(&buffer[..n]),
                    Ok(_) | Err(_) => return None,
                },
                Err(error) => {
                    let error: ChannelError = error;
                    tracing::debug!(error = %error, "a client's stream cannot be followed");
                    return None;
                }
            }
        }
    }

    /// Accepts streams until there are `count`; `None` when the client is gone.
    async fn open<W: AsyncWrite + Unpin>(&mut self, count: usize, outgoing: &mut Outgoing<W>) -> Option<()> {
        let mut open = 0;
        while open < count {
            match self.said().await? {
                Said::Opened(channel, stream) => {
                    open += usize::from(channel.is_some());
                    let mut bytes = Vec::new();
                    outgoing.encoder.opened(channel, stream, &mut bytes);
                    outgoing.send(Out::Raw(bytes)).await.ok()?;
                }
                Said::Echo(bytes) => outgoing.send(Out::Raw(bytes)).await.ok()?,
                said => self.keep(said),
            }
        }
        Some(())
    }

    /// Waits for a size; what comes before it is kept for later.
    async fn first_size<W: AsyncWrite + Unpin>(&mut self, outgoing: &mut Outgoing<W>) -> Option<()> {
        while self.size.is_none() && self.ahead.len() < CHUNKS_MAX {
            match self.said().await? {
                Said::Echo(bytes) => outgoing.send(Out::Raw(bytes)).await.ok()?,
                said => self.keep(said),
            }
        }
        Some(())
    }

    fn keep(&mut self, said: Said) {
        if !matches!(said, Said::Data(Channel::Resize, _)) {
            self.ahead.push_back(said);
        }
    }
}

/// What moves, for those who wait for nothing to.
#[derive(Default)]
struct Progress {
    chunks: AtomicU64,
    /// Something read waits to be taken by the client.
    waiting: AtomicBool,
}

async fn serve<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
    session: Session,
    command: Option<&[String]>,
    incoming: &mut Incoming<R>,
    outgoing: &mut Outgoing<W>,
    shutdown: CancellationToken,
) -> Ending {
    let Session {
        stdin,
        stdout,
        stderr,
        terminal,
        mut ended,
    } = session;
    let progress = Progress::default();
    let (queue, mut queued) = mpsc::channel(CHUNKS_MAX);
    let mut outputs = Box::pin({
        let (out, err) = (queue.clone(), queue.clone());
        let progress = &progress;
        async move {
            tokio::join!(
                pump(stdout, Channel::Stdout, out, progress),
                pump(stderr, Channel::Stderr, err, progress)
            );
        }
    });
    let mut input = Box::pin(feed(incoming, stdin, terminal, queue, &progress));
    let mut writing = pin!(async {
        while let Some(out) = queued.recv().await {
            if outgoing.send(out).await.is_err() {
                return false;
            }
            progress.chunks.fetch_add(1, Ordering::Relaxed);
        }
        true
    });
    let mut idle = pin!(idle(&progress));
    let mut outputs_run = true;
    let ending = loop {
        tokio::select! {
            // What has ended is told, even to a client that says goodbye.
            biased;
            how = &mut ended => break self::ended(command, how),
            () = &mut outputs, if outputs_run => outputs_run = false,
            _ = &mut writing => return Ending::Gone,
            () = &mut input => return Ending::Gone,
            () = shutdown.cancelled() => break failed(SHUTTING_DOWN),
            () = &mut idle => break failed(&format!("nothing was sent or received for {} hours", IDLE.as_secs() / 3600)),
        }
    };
    if outputs_run
        && drained(&mut outputs, &mut input, &mut writing, &mut idle, &progress, &shutdown)
            .await
            .is_none()
    {
        return Ending::Gone;
    }
    // With these go the last senders, and writing ends once all is sent.
    drop(outputs);
    drop(input);
    tokio::select! {
        sent = &mut writing => if !sent { return Ending::Gone },
        () = &mut idle => return Ending::Gone,
        () = shutdown.cancelled() => {}
    }
    ending
}

/// Waits until what a command has written is on its way; `None` when the
/// client is gone, or takes nothing for too long.
async fn drained(
    outputs: &mut (impl Future<Output = ()> + Unpin),
    input: &mut (impl Future<Output = ()> + Unpin),
    writing: &mut (impl Future<Output = bool> + Unpin),
    idle: &mut (impl Future<Output = ()> + Unpin),
    progress: &Progress,
    shutdown: &CancellationToken,
) -> Option<()> {
    loop {
        let before = progress.chunks.load(Ordering::Relaxed);
        tokio::select! {
            () = &mut *outputs => return Some(()),
            _ = &mut *writing => return None,
            () = &mut *input => return None,
            () = &mut *idle => return None,
            () = tokio::time::sleep(DRAIN) => {
                let waits = progress.waiting.load(Ordering::Relaxed) && !shutdown.is_cancelled();
                if !waits && progress.chunks.load(Ordering::Relaxed) == before {
                    return Some(());
                }
            }
        }
    }
}

/// Sends what a process writes, until it writes no more.
async fn pump(output: Option<Output>, channel: Channel, queue: mpsc::Sender<Out>, progress: &Progress) {
    let Some(mut output) = output else { return };
    let mut buffer = vec![0; CHUNK_BYTES];
    while let Ok(n @ 1..) = output.read(&mut buffer).await {
        progress.waiting.store(true, Ordering::Relaxed);
        if queue.send(Out::Data(channel, buffer[..n].to_vec())).await.is_err() {
            return;
        }
        progress.waiting.store(false, Ordering::Relaxed);
    }
}

/// Gives a process what the client sends, until the client is gone.
async fn feed<R: AsyncRead + Unpin>(
    incoming: &mut Incoming<R>,
    mut stdin: Option<Input>,
    terminal: Option<Box<dyn Terminal>>,
    queue: mpsc::Sender<Out>,
    progress: &Progress,
) {
    if let (Some(terminal), Some(size)) = (&terminal, incoming.size) {
        let _ = terminal.resize(size);
    }
    loop {
        let said = match incoming.ahead.pop_front() {
            Some(said) => said,
            None => match incoming.said().await {
                Some(said) => said,
                None => return,
            },
        };
        progress.chunks.fetch_add(1, Ordering::Relaxed);
        match said {
            Said::Data(Channel::Stdin, bytes) => {
                if let Some(open) = &mut stdin
                    && open.write_all(&bytes).await.is_err()
                {
                    stdin = None; // the process takes no more; it may still say something
                }
            }
            Said::Closed(Channel::Stdin) => stdin = None,
            Said::Data(Channel::Resize, _) => {
                if let (Some(terminal), Some(size)) = (&terminal, incoming.size) {
                    let _ = terminal.resize(size);
                }
            }
            Said::Echo(bytes) => match queue.send(Out::Raw(bytes)).await {
                Ok(()) => {}
                Err(_) => return,
            },
            _ => {}
        }
    }
}

/// Resolves when nothing has moved for [`IDLE`].
async fn idle(progress: &Progress) {
    let mut seen = None;
    loop {
        let now = progress.chunks.load(Ordering::Relaxed);
        if seen == Some(now) {
            return;
        }
        seen = Some(now);
        tokio::time::sleep(IDLE).await;
    }
}

#[cfg(test)]
mod tests;
