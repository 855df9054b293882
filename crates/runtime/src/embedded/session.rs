//! Commands and attachments with streams: the agent makes pipes, the shim
//! hands their other ends to the process, and neither copies for the other.
//!
//! Each session has a connection of its own: descriptors travel on it, and its
//! end, however it comes, is the session's.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures::FutureExt;
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use rustix::termios::{Winsize, tcsetwinsize};
use shim::protocol::{
    Answer, AttachSpec, DESCRIPTORS_MAX, Decoder, ExecStreamSpec, HANDED_STDIN, HANDED_TERMINAL, Refusal, Request, encode,
};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest, ReadBuf};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::sync::oneshot;

use super::client::{ClientError, connect};
use super::files::{SOCKET_FILE, doing};
use super::pod::{PROMPT, Pod};
use crate::session::{AttachRequest, Ended, Input, Output, Session, StreamRequest, Terminal, TerminalSize};
use crate::{RuntimeError, embedded::Embedded};

/// The request on a session's connection, and the order to close its input.
const REQUEST: u64 = 1;
const CLOSE_STDIN: u64 = 2;

/// What the shim handed over.
struct Handed {
    word: u8,
    descriptor: Option<OwnedFd>,
}

impl Embedded {
    /// See [`crate::Runtime::exec_stream`].
    pub(super) async fn stream_in(&self, pod: &Arc<Pod>, id: &str, request: StreamRequest) -> Result<Session, RuntimeError> {
        pod.attempt(id)?;
        let io = |source| pipes(pod, source);
        let (mut given, mut session) = (Vec::new(), Ours::default());
        let size = request.terminal.map(|size| shim::protocol::TerminalSize {
            rows: size.rows,
            columns: size.columns,
        });
        let mut handover = None;
        if size.is_some() {
            let (ours, theirs) = socket_pair().map_err(io)?;
            handover = Some(ours);
            given.push(theirs);
        } else {
            if request.stdin {
                let (read, write) = pipe_pair().map_err(io)?;
                session.stdin = Some(Box::pin(pipe::Sender::from_owned_fd(write).map_err(io)?));
                given.push(read);
            }
            session.outputs(request.stdout, request.stderr, &mut given).map_err(io)?;
        }
        let spec = ExecStreamSpec {
            id: id.to_owned(),
            command: request.command,
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            terminal: size,
        };
        let mut connection = Connection::open(pod, &Request::ExecStream(spec), given).await?;
        if let Some(handover) = handover {
            // Without a terminal the command did not start; the answer says why.
            if let Some(Handed {
                descriptor: Some(terminal),
                ..
            }) = connection.handed(handover).await.map_err(io)?
            {
                session.terminal(terminal, request.stdin, request.stdout).map_err(io)?;
            }
        }
        Ok(session.until(connection.ended(pod.clone(), None).boxed()))
    }

    /// See [`crate::Runtime::attach`].
    pub(super) async fn attach_to(&self, pod: &Arc<Pod>, id: &str, request: AttachRequest) -> Result<Session, RuntimeError> {
        pod.attempt(id)?;
        let io = |source| pipes(pod, source);
        let (handover, theirs) = socket_pair().map_err(io)?;
        let (mut given, mut session) = (vec![theirs], Ours::default());
        session.outputs(request.stdout, request.stderr, &mut given).map_err(io)?;
        let spec = AttachSpec {
            id: id.to_owned(),
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
        };
        let mut connection = Connection::open(pod, &Request::Attach(spec), given).await?;
        let mut closed = None;
        match connection.handed(handover).await.map_err(io)? {
            Some(Handed {
                word: HANDED_TERMINAL,
                descriptor: Some(terminal),
            }) => {
                // What is shown comes through the shim, which also logs it.
                session.terminal(terminal, request.stdin, false).map_err(io)?;
            }
            Some(Handed {
                word: HANDED_STDIN,
                descriptor: Some(stdin),
            }) => {
                let (guard, told) = oneshot::channel();
                closed = Some((id.to_owned(), told));
                session.stdin = Some(Box::pin(AttachedInput {
                    pipe: pipe::Sender::from_owned_fd(stdin).map_err(io)?,
                    _closed: guard,
                }));
            }
            _ => {}
        }
        Ok(session.until(connection.ended(pod.clone(), closed).boxed()))
    }
}

fn pipes(pod: &Pod, source: io::Error) -> RuntimeError {
    doing("making streams to the processes of", &pod.dir.0)(source)
}

fn pipe_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?)
}

fn socket_pair() -> io::Result<(UnixStream, OwnedFd)> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    Ok((UnixStream::from_std(ours)?, theirs.into()))
}

/// Our ends while a session is being made.
#[derive(Default)]
struct Ours {
    stdin: Option<Input>,
    stdout: Option<Output>,
    stderr: Option<Output>,
    terminal: Option<Box<dyn Terminal>>,
}

impl Ours {
    fn outputs(&mut self, stdout: bool, stderr: bool, given: &mut Vec<OwnedFd>) -> io::Result<()> {
        for (wanted, output) in [(stdout, &mut self.stdout), (stderr, &mut self.stderr)] {
            if wanted {
                let (read, write) = pipe_pair()?;
                *output = Some(Box::pin(pipe::Receiver::from_owned_fd(read)?));
                given.push(write);
            }
        }
        Ok(())
    }

    fn terminal(&mut self, terminal: OwnedFd, stdin: bool, stdout: bool) -> io::Result<()> {
        rustix::io::ioctl_fionbio(&terminal, true)?;
        // Its successor is unsafe, for descriptors that may change their number;
        // an owned one does not.
        #[allow(deprecated)]
        let terminal = Console(Arc::new(AsyncFd::new(terminal)?));
        if stdin {
            self.stdin = Some(Box::pin(terminal.clone()));
        }
        if stdout {
            self.stdout = Some(Box::pin(terminal.clone()));
        }
        self.terminal = Some(Box::new(terminal));
        Ok(())
    }

    fn until(self, ended: futures::future::BoxFuture<'static, Result<Ended, RuntimeError>>) -> Session {
        Session {
            stdin: self.stdin,
            stdout: self.stdout,
            stderr: self.stderr,
            terminal: self.terminal,
            ended,
        }
    }
}

/// A session's connection to the shim.
struct Connection {
    stream: UnixStream,
    decoder: Decoder,
}

impl Connection {
    /// Connects, and sends the request with its descriptors.
    async fn open(pod: &Pod, request: &Request, given: Vec<OwnedFd>) -> Result<Self, RuntimeError> {
        pod.need_client()?;
        let frame = encode(REQUEST, request).map_err(|error| pod.trouble(error.into()))?;
        let sending = async {
            let mut stream = UnixStream::from_std(connect(&pod.dir.0, SOCKET_FILE)?)?;
            let sent = stream.async_io(Interest::WRITABLE, || send_with(&stream, &frame, &given)).await?;
            stream.write_all(&frame[sent..]).await?;
            io::Result::Ok(stream)
        };
        match tokio::time::timeout(PROMPT, sending).await {
            Ok(Ok(stream)) => Ok(Self {
                stream,
                decoder: Decoder::default(),
            }),
            Ok(Err(source)) => Err(doing("asking the shim of", &pod.dir.0)(source)),
            Err(_) => Err(pod.trouble(ClientError::Late(PROMPT))),
        }
    }

    /// What the shim hands over; `None` when it answers otherwise.
    async fn handed(&mut self, socket: UnixStream) -> io::Result<Option<Handed>> {
        let receiving = socket.async_io(Interest::READABLE, || receive(&socket));
        tokio::time::timeout(PROMPT, receiving)
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the container did not hand over its terminal"))?
    }

    /// The answer, which is the end of the session.
    async fn ended(mut self, pod: Arc<Pod>, stdin: Option<(String, oneshot::Receiver<()>)>) -> Result<Ended, RuntimeError> {
        let gone = || pod.trouble(ClientError::Gone);
        let mut closing = std::pin::pin!(
            async move {
                match stdin {
                    // Never sent: the sender is dropped with the input.
                    Some((id, closed)) => {
                        let _ = closed.await;
                        id
                    }
                    None => std::future::pending().await,
                }
            }
            .fuse()
        );
        let mut buffer = [0; 1024];
        loop {
            while let Some(answer) = self
                .decoder
                .take::<Answer>()
                .map_err(|error| pod.trouble(ClientError::Frame(error)))?
            {
                match (answer.id, answer.body) {
                    (REQUEST, Answer::Exec { code, .. }) => return Ok(Ended::Exit(code)),
                    (REQUEST, Answer::Done) => return Ok(Ended::Detached),
                    (REQUEST, Answer::Refused { kind, message }) => return Err(refused(&pod, kind, message)),
                    _ => {}
                }
            }
            tokio::select! {
                read = self.stream.read(&mut buffer) => match read {
                    Ok(n @ 1..) => self.decoder.push(&buffer[..n]),
                    Ok(_) | Err(_) => return Err(gone()),
                },
                id = &mut closing => {
                    let frame = encode(CLOSE_STDIN, &Request::CloseStdin { id }).map_err(|error| pod.trouble(error.into()))?;
                    self.stream.write_all(&frame).await.map_err(|_| gone())?;
                }
            }
        }
    }
}

fn refused(pod: &Pod, kind: Refusal, message: String) -> RuntimeError {
    pod.trouble(ClientError::Refused(kind, message))
}

fn send_with(stream: &UnixStream, bytes: &[u8], descriptors: &[OwnedFd]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut attached = SendAncillaryBuffer::new(&mut space);
    let descriptors: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
    if !descriptors.is_empty() {
        attached.push(SendAncillaryMessage::ScmRights(&descriptors));
    }
    Ok(sendmsg(stream, &[IoSlice::new(bytes)], &mut attached, SendFlags::NOSIGNAL)?)
}

fn receive(socket: &UnixStream) -> io::Result<Option<Handed>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut attached = RecvAncillaryBuffer::new(&mut space);
    let mut word = [0];
    let got = recvmsg(socket, &mut [IoSliceMut::new(&mut word)], &mut attached, RecvFlags::CMSG_CLOEXEC)?;
    let descriptor = attached.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    Ok((got.bytes > 0).then_some(Handed { word: word[0], descriptor }))
}

/// The controlling side of a terminal.
#[derive(Clone, Debug)]
struct Console(Arc<AsyncFd<OwnedFd>>);

impl Terminal for Console {
    fn resize(&self, size: TerminalSize) -> io::Result<()> {
        let size = Winsize {
            ws_row: size.rows,
            ws_col: size.columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        Ok(tcsetwinsize(self.0.get_ref(), size)?)
    }
}

impl AsyncRead for Console {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(cx))?;
            let read = guard.try_io(|console| Ok(rustix::io::read(console.get_ref(), buffer.initialize_unfilled())?));
            match read {
                Ok(Ok(n)) => {
                    buffer.advance(n);
                    return Poll::Ready(Ok(()));
                }
                // Nobody has the other side open any more.
                Ok(Err(error)) if error.raw_os_error() == Some(Errno::IO.raw_os_error()) => return Poll::Ready(Ok(())),
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for Console {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.poll_write_ready(cx))?;
            if let Ok(written) = guard.try_io(|console| Ok(rustix::io::write(console.get_ref(), bytes)?)) {
                return Poll::Ready(written);
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A container's input, and the news that it is dropped.
struct AttachedInput {
    pipe: pipe::Sender,
    _closed: oneshot::Sender<()>,
}

impl AsyncWrite for AttachedInput {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.pipe).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_shutdown(cx)
    }
}
