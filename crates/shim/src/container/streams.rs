//! What goes into a container and comes out of it: input, terminal, log, and
//! those who are attached.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::io::Errno;
use rustix::net::{RecvFlags, recvmsg};
use rustix::pipe::PipeFlags;

use super::Watched;
use crate::log::{LineSplitter, LogFile, Stream};
use crate::protocol::{CreateSpec, HANDED_NOTHING, HANDED_STDIN, HANDED_TERMINAL};
use crate::sink::Sink;
use crate::terminal;

/// Most read from one pipe before others get their turn.
const READ_BYTES: usize = 16 << 10;
const READS_MAX: u32 = 16;
/// Attached at a time to one container.
pub(crate) const SINKS_MAX: usize = 16;

/// A pipe from the container, or its terminal.
#[derive(Debug)]
struct Output {
    pipe: Option<OwnedFd>,
    lines: LineSplitter,
}

/// Our ends of a container's streams.
#[derive(Debug)]
pub(crate) struct Streams {
    outputs: [Output; 2],
    log_path: PathBuf,
    log: Option<LogFile>,
    /// Said once.
    log_is_broken: bool,
    /// Our end of its standard input, kept open for it; of a terminal, a
    /// second descriptor.
    stdin: Option<OwnedFd>,
    stdin_once: bool,
    tty: bool,
    /// Where its terminal comes from when it starts.
    terminal: Option<OwnedFd>,
    sinks: Vec<Sink>,
}

/// The container's ends.
pub(crate) struct Ends {
    pub(crate) stdin: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
    /// It hands its terminal over this.
    pub(crate) terminal: Option<OwnedFd>,
}

fn null() -> io::Result<OwnedFd> {
    Ok(File::options().read(true).write(true).open("/dev/null")?.into())
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?)
}

impl Streams {
    pub(crate) fn open(spec: &CreateSpec) -> io::Result<(Self, Ends)> {
        let mut streams = Self {
            outputs: [Stream::Stdout, Stream::Stderr].map(|stream| Output {
                pipe: None,
                lines: LineSplitter::new(stream),
            }),
            log_path: spec.log_path.clone(),
            log: Some(LogFile::open(&spec.log_path, spec.log_limits)?),
            log_is_broken: false,
            stdin: None,
            stdin_once: spec.stdin_once,
            tty: spec.tty,
            terminal: None,
            sinks: Vec::new(),
        };
        if spec.tty {
            let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
            ours.set_nonblocking(true)?;
            streams.terminal = Some(ours.into());
            let ends = Ends {
                stdin: null()?,
                stdout: null()?,
                stderr: null()?,
                terminal: Some(theirs.into()),
            };
            return Ok((streams, ends));
        }
        let (stdout, stdout_end) = pipe()?;
        let (stderr, stderr_end) = pipe()?;
        let stdin_end = if spec.stdin {
            let (read, write) = pipe()?;
            streams.stdin = Some(write);
            read
        } else {
            null()?
        };
        for (output, pipe) in streams.outputs.iter_mut().zip([stdout, stderr]) {
            rustix::io::ioctl_fionbio(&pipe, true)?;
            output.pipe = Some(pipe);
        }
        let ends = Ends {
            stdin: stdin_end,
            stdout: stdout_end,
            stderr: stderr_end,
            terminal: None,
        };
        Ok((streams, ends))
    }

    pub(crate) fn log_path(&self) -> &Path {
        &self.log_path
    }

    /// What the loop should wait for. Nothing is read from the container while
    /// somebody attached has not taken what was read before.
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = (&OwnedFd, Watched)> {
        let behind = self.is_behind();
        let outputs = self
            .outputs
            .iter()
            .enumerate()
            .filter(move |_| !behind)
            .filter_map(|(n, output)| Some((output.pipe.as_ref()?, Watched::Output(n))));
        let terminal = self.terminal.as_ref().map(|socket| (socket, Watched::Terminal));
        let sinks = self.sinks.iter().flat_map(Sink::full).map(|pipe| (pipe, Watched::Sinks));
        outputs.chain(terminal).chain(sinks)
    }

    fn is_behind(&self) -> bool {
        self.sinks.iter().any(Sink::is_behind)
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.sinks.iter().filter_map(Sink::deadline).min()
    }

    /// Takes the terminal the container's process has made.
    pub(crate) fn take_terminal(&mut self) {
        let Some(socket) = &self.terminal else { return };
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut attached = rustix::net::RecvAncillaryBuffer::new(&mut space);
        let mut word = [0];
        match recvmsg(
            socket,
            &mut [io::IoSliceMut::new(&mut word)],
            &mut attached,
            RecvFlags::CMSG_CLOEXEC,
        ) {
            Err(Errno::AGAIN | Errno::INTR) => return,
            Ok(_) | Err(_) => self.terminal = None,
        }
        let ours = attached.drain().find_map(|message| match message {
            rustix::net::RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        let Some(ours) = ours else { return };
        let copy = ours.try_clone();
        if rustix::io::ioctl_fionbio(&ours, true).is_ok() {
            self.stdin = copy.ok();
            self.outputs[0].pipe = Some(ours);
        }
    }

    /// Copies what it wrote into its log and to those attached. Gives up its
    /// turn after a while.
    pub(crate) fn on_output(&mut self, which: usize, now_ns: i64, now: Instant) {
        let mut buffer = [0; READ_BYTES];
        let output = &mut self.outputs[which];
        let stream = output.lines.stream();
        let mut lines = Vec::new();
        for _ in 0..READS_MAX {
            let Some(pipe) = &output.pipe else { break };
            match rustix::io::read(pipe, &mut buffer) {
                Ok(n @ 1..) => {
                    output.lines.push(now_ns, &buffer[..n], &mut lines);
                    self.sinks.iter_mut().for_each(|sink| sink.push(stream, &buffer[..n], now));
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                // A terminal nobody has open any more is an error, not an end.
                Ok(_) | Err(_) => {
                    output.lines.finish(now_ns, &mut lines);
                    output.pipe = None;
                    self.sinks.iter_mut().for_each(|sink| sink.end(stream, now));
                }
            }
        }
        let in_line = self.outputs.iter().any(|output| output.lines.is_in_line());
        if let Some(log) = self.log.as_mut().filter(|_| !lines.is_empty())
            && let Err(cause) = log.write(&lines, in_line, now_ns)
            && !std::mem::replace(&mut self.log_is_broken, true)
        {
            eprintln!("writing {}: {cause}; output is lost as long as this lasts", log.path().display());
        }
        if self.terminal.is_none() && self.outputs.iter().all(|output| output.pipe.is_none()) {
            self.log = None;
        }
    }

    /// Everything it wrote is read, and nothing more will be.
    pub(crate) fn end(&mut self, now_ns: i64, now: Instant) {
        self.take_terminal();
        self.terminal = None;
        for which in 0..self.outputs.len() {
            self.on_output(which, now_ns, now);
        }
        for output in &mut self.outputs {
            let stream = output.lines.stream();
            // Somebody outside may hold the other end.
            output.pipe = None;
            self.sinks.iter_mut().for_each(|sink| sink.end(stream, now));
        }
        self.log = None;
        self.stdin = None;
    }

    /// Somebody joins. Their input's descriptor goes over `socket`.
    pub(crate) fn attach(&mut self, sink: Sink, socket: &OwnedFd) -> io::Result<()> {
        let (word, descriptor) = match &self.stdin {
            Some(terminal) if self.tty => (HANDED_TERMINAL, Some(terminal)),
            Some(stdin) if sink.stdin => (HANDED_STDIN, Some(stdin)),
            _ => (HANDED_NOTHING, None),
        };
        terminal::hand_over(socket.as_fd(), word, descriptor.map(AsFd::as_fd))?;
        self.sinks.push(sink);
        Ok(())
    }

    pub(crate) fn is_crowded(&self) -> bool {
        self.sinks.len() >= SINKS_MAX
    }

    /// Those of a connection have gone.
    pub(crate) fn detach(&mut self, client: u64) {
        self.close_stdin(client);
        self.sinks.retain(|sink| sink.asker.0 != client);
    }

    /// The input of somebody attached has ended.
    pub(crate) fn close_stdin(&mut self, client: u64) {
        let feeds = self.sinks.iter().any(|sink| sink.asker.0 == client && sink.stdin);
        if feeds && self.stdin_once && !self.tty {
            self.stdin = None;
        }
    }

    /// Sends those attached what they can take; gives those that have nothing
    /// more to come, and lets go those that have stalled.
    pub(crate) fn flush(&mut self, now: Instant, ended: bool) -> Vec<(u64, u64)> {
        let mut done = Vec::new();
        self.sinks.retain_mut(|sink| {
            sink.flush(now);
            let stalled = sink.deadline().is_some_and(|at| at <= now);
            let over = stalled || (ended && !sink.is_behind());
            if over {
                done.push(sink.asker);
            }
            !over
        });
        done
    }
}
