//! Streams of a running command or container, in the hands of the caller.

use std::io;
use std::pin::Pin;

use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::RuntimeError;

/// What is written to a process.
pub type Input = Pin<Box<dyn AsyncWrite + Send>>;
/// What a process writes.
pub type Output = Pin<Box<dyn AsyncRead + Send>>;

/// Rows and columns of a terminal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}

/// A terminal that can be told its size.
pub trait Terminal: Send + Sync {
    /// Changes the size; the foreground process is told by `SIGWINCH`.
    ///
    /// # Errors
    /// The system's.
    fn resize(&self, size: TerminalSize) -> io::Result<()>;
}

/// A command to run in a running container, with streams.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamRequest {
    /// Program and arguments.
    pub command: Vec<String>,
    /// It gets standard input.
    pub stdin: bool,
    /// Its standard output is wanted.
    pub stdout: bool,
    /// Its standard error is wanted.
    pub stderr: bool,
    /// It gets a terminal of this size; input and output are then the
    /// terminal's, and there is no standard error.
    pub terminal: Option<TerminalSize>,
}

/// Which streams of a running container to join.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AttachRequest {
    /// Its standard input, if it has one.
    pub stdin: bool,
    /// Its standard output, from now on.
    pub stdout: bool,
    /// Its standard error, from now on.
    pub stderr: bool,
}

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The command exited; 128 + signal when a signal ended it.
    Exit(i32),
    /// The container one was attached to has ended, or it let go of one who
    /// did not read.
    Detached,
}

/// A command or an attachment. Dropping it kills the command with its session,
/// or detaches; the container goes on.
pub struct Session {
    /// Dropped, it is closed; of a container that has `stdinOnce`, for good.
    pub stdin: Option<Input>,
    /// Ends when nobody holds it open any more, which may be after the command.
    pub stdout: Option<Output>,
    /// As `stdout`.
    pub stderr: Option<Output>,
    /// Present when it has a terminal.
    pub terminal: Option<Box<dyn Terminal>>,
    /// Resolves when it has ended.
    pub ended: BoxFuture<'static, Result<Ended, RuntimeError>>,
}
