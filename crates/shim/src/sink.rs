//! Those who are attached to a container: what it writes, they get.
//!
//! A reader that is slow holds the container up, as upstream; one that does
//! not read at all is let go after [`STALLED_MAX`].

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::log::Stream;

/// How long an attached reader may take nothing while something waits for it.
pub(crate) const STALLED_MAX: Duration = Duration::from_secs(30);

/// One stream of one who is attached.
#[derive(Debug)]
struct Outlet {
    stream: Stream,
    pipe: Option<OwnedFd>,
    unsent: Vec<u8>,
    /// Nothing will follow what waits.
    ended: bool,
}

/// One who is attached.
#[derive(Debug)]
pub(crate) struct Sink {
    /// Connection and request.
    pub(crate) asker: (u64, u64),
    /// It feeds the container's standard input.
    pub(crate) stdin: bool,
    outlets: Vec<Outlet>,
    /// Since when it has taken nothing of what waits.
    stalled_since: Option<Instant>,
}

impl Sink {
    pub(crate) fn new(asker: (u64, u64), stdin: bool, stdout: Option<OwnedFd>, stderr: Option<OwnedFd>) -> Self {
        let outlets = [(Stream::Stdout, stdout), (Stream::Stderr, stderr)].map(|(stream, pipe)| Outlet {
            stream,
            pipe,
            unsent: Vec::new(),
            ended: false,
        });
        Self {
            asker,
            stdin,
            outlets: outlets.into_iter().filter(|outlet| outlet.pipe.is_some()).collect(),
            stalled_since: None,
        }
    }

    /// Gives it what the container wrote.
    pub(crate) fn push(&mut self, stream: Stream, bytes: &[u8], now: Instant) {
        for outlet in self.outlets.iter_mut().filter(|o| o.stream == stream && o.pipe.is_some()) {
            outlet.unsent.extend_from_slice(bytes);
        }
        self.flush(now);
    }

    /// Sends what it can take now.
    pub(crate) fn flush(&mut self, now: Instant) {
        let mut sent = false;
        for outlet in &mut self.outlets {
            while let Some(pipe) = outlet.pipe.as_ref().filter(|_| !outlet.unsent.is_empty()) {
                match rustix::io::write(pipe, &outlet.unsent) {
                    Ok(n) => {
                        outlet.unsent.drain(..n);
                        sent = true;
                    }
                    Err(Errno::INTR) => {}
                    Err(Errno::AGAIN) => break,
                    Err(_) => {
                        outlet.pipe = None;
                        outlet.unsent = Vec::new();
                    }
                }
            }
            if outlet.unsent.is_empty() {
                outlet.unsent = Vec::new(); // an idle sink holds no buffer
                outlet.pipe = outlet.pipe.take().filter(|_| !outlet.ended);
            }
        }
        self.stalled_since = match self.is_behind() {
            false => None,
            true if sent => Some(now),
            true => self.stalled_since.or(Some(now)),
        };
    }

    /// Whether something waits for it.
    pub(crate) fn is_behind(&self) -> bool {
        self.outlets.iter().any(|outlet| !outlet.unsent.is_empty())
    }

    /// When it is let go unless it takes something.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.stalled_since.map(|since| since + STALLED_MAX)
    }

    /// Pipes that something waits for.
    pub(crate) fn full(&self) -> impl Iterator<Item = &OwnedFd> {
        self.outlets
            .iter()
            .filter(|outlet| !outlet.unsent.is_empty())
            .filter_map(|outlet| outlet.pipe.as_ref())
    }

    /// Nothing more will come on this stream: its pipe is closed once it has
    /// taken what waits.
    pub(crate) fn end(&mut self, stream: Stream, now: Instant) {
        for outlet in self.outlets.iter_mut().filter(|o| o.stream == stream) {
            outlet.ended = true;
        }
        self.flush(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pipe::{PipeFlags, pipe_with};

    fn pipe() -> (OwnedFd, OwnedFd) {
        pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap()
    }

    #[test]
    fn a_slow_reader_loses_nothing_and_is_let_go_only_when_it_takes_nothing() {
        let (reader, writer) = pipe();
        let start = Instant::now();
        let mut sink = Sink::new((1, 1), false, Some(writer), None);
        let text: Vec<u8> = (0..200_000u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
        sink.push(Stream::Stderr, b"nobody asked for this", start);
        assert!(!sink.is_behind());
        sink.push(Stream::Stdout, &text, start);
        assert!(sink.is_behind(), "a pipe holds less than 200 kB");
        assert_eq!(sink.deadline(), Some(start + STALLED_MAX));
        let later = start + Duration::from_secs(20);
        sink.flush(later);
        assert_eq!(sink.deadline(), Some(start + STALLED_MAX), "nothing was taken");
        let (mut got, mut buffer) = (Vec::new(), [0; 4096]);
        while got.len() < text.len() {
            let n = rustix::io::read(&reader, &mut buffer).unwrap();
            got.extend_from_slice(&buffer[..n]);
            sink.flush(later);
        }
        assert_eq!(got, text);
        assert_eq!(sink.deadline(), None);
        sink.push(Stream::Stdout, b"last", later);
        sink.end(Stream::Stdout, later);
        assert_eq!(rustix::io::read(&reader, &mut buffer).unwrap(), 4);
        assert_eq!(rustix::io::read(&reader, &mut buffer).unwrap(), 0, "closed after the last byte");
    }

    #[test]
    fn a_reader_that_is_gone_holds_nobody_up() {
        let (reader, writer) = pipe();
        let mut sink = Sink::new((1, 1), false, Some(writer), None);
        drop(reader);
        sink.push(Stream::Stdout, b"x", Instant::now());
        assert!(!sink.is_behind());
    }
}
