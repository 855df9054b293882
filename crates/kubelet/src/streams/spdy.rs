//! SPDY/3.1 frames, the server's side. Pure.
//!
//! What kubectl before 1.31 speaks for every stream, and every kubectl for
//! forwarded ports. Data is handed on as it arrives; a control frame is kept
//! until it is whole, which its limit bounds.
//!
//! Source: draft-mbelshe-httpbis-spdy-00, and `moby/spdystream`, whose habits
//! are every client's: no window updates, no settings, pings to be echoed.

mod headers;

use headers::{Deflater, Inflater};
pub use headers::{HeaderError, Headers};

/// Longest control frame.
const CONTROL_BYTES_MAX: usize = 64 << 10;
/// Source: the draft, section 2.2.1: control bit and version 3.
const CONTROL: u16 = 0x8003;
/// Longest payload of a data frame of ours, far below the format's 16 MiB.
const DATA_BYTES_MAX: usize = 64 << 10;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;

const FLAG_FIN: u8 = 1;

/// Status of a stream that is not taken. Source: the draft, section 2.6.3.
pub const REFUSED: u32 = 3;

/// Identity of a stream; a client's are odd.
pub type StreamId = u32;

/// Why a connection cannot be followed any further.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SpdyError {
    /// Another version, or not SPDY at all.
    #[error("a control frame begins with {0:#06x}, not with SPDY version 3")]
    Version(u16),
    /// A control frame of no sensible size.
    #[error("a control frame of {0} bytes is longer than {CONTROL_BYTES_MAX}")]
    TooLong(usize),
    /// A control frame without what it must hold.
    #[error("a control frame of type {0} is cut short")]
    Short(u16),
    /// A header block that cannot be read.
    #[error("a header block cannot be read: {0}")]
    Headers(#[from] HeaderError),
}

/// What a client sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A stream is opened.
    Open {
        /// Which.
        stream: StreamId,
        /// Its headers.
        headers: Headers,
        /// The client sends nothing on it.
        fin: bool,
    },
    /// Bytes on a stream.
    Data {
        /// Which.
        stream: StreamId,
        /// Some of them.
        bytes: Vec<u8>,
        /// The client sends nothing more on it.
        fin: bool,
    },
    /// The client abandons a stream.
    Reset {
        /// Which.
        stream: StreamId,
    },
    /// To be echoed by [`Encoder::ping`].
    Ping(u32),
    /// The client opens no more streams.
    GoAway,
}

/// A data frame whose payload is being read.
#[derive(Clone, Copy, Debug)]
struct Open {
    stream: StreamId,
    fin: bool,
    left: usize,
}

/// Turns bytes into events.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: Vec<u8>,
    open: Option<Open>,
    inflater: Inflater,
}

impl Decoder {
    /// Takes what was read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next event, if there is one.
    ///
    /// # Errors
    /// When the bytes are not a client's frames; there is no way on.
    pub fn next_event(&mut self) -> Result<Option<Event>, SpdyError> {
        loop {
            if let Some(open) = self.open {
                return Ok(self.data(open));
            }
            let Some(head) = self.bytes.first_chunk::<8>().copied() else {
                return Ok(None);
            };
            let [a, b, c, d, flags, e, f, g] = head;
            let length = u32::from_be_bytes([0, e, f, g]) as usize;
            if a & 0x80 == 0 {
                self.take(8);
                let open = Open {
                    stream: u32::from_be_bytes([a, b, c, d]),
                    fin: flags & FLAG_FIN != 0,
                    left: length,
                };
                if length == 0 {
                    return Ok(Some(Event::Data {
                        stream: open.stream,
                        bytes: Vec::new(),
                        fin: open.fin,
                    }));
                }
                self.open = Some(open);
                continue;
            }
            let version = u16::from_be_bytes([a, b]);
            if version != CONTROL {
                return Err(SpdyError::Version(version));
            }
            if length > CONTROL_BYTES_MAX {
                return Err(SpdyError::TooLong(length));
            }
            if self.bytes.len() < 8 + length {
                return Ok(None);
            }
            let body = self.take(8 + length).split_off(8);
            if let Some(event) = self.control(u16::from_be_bytes([c, d]), flags, &body)? {
                return Ok(Some(event));
            }
        }
    }

    fn data(&mut self, open: Open) -> Option<Event> {
        let there = open.left.min(self.bytes.len());
        if there == 0 {
            return None;
        }
        let bytes = self.take(there);
        let left = open.left - there;
        self.open = (left > 0).then_some(Open { left, ..open });
        Some(Event::Data {
            stream: open.stream,
            bytes,
            fin: open.fin && left == 0,
        })
    }

    fn control(&mut self, kind: u16, flags: u8, body: &[u8]) -> Result<Option<Event>, SpdyError> {
        let word = |at: usize| -> Result<u32, SpdyError> {
            let bytes = body.get(at..at + 4).and_then(|bytes| bytes.first_chunk::<4>());
            bytes.map(|bytes| u32::from_be_bytes(*bytes)).ok_or(SpdyError::Short(kind))
        };
        let stream = |at: usize| word(at).map(|word| word & 0x7fff_ffff);
        let fin = flags & FLAG_FIN != 0;
        Ok(match kind {
            // Stream, associated stream, priority and slot, headers.
            SYN_STREAM => Some(Event::Open {
                stream: stream(0)?,
                headers: self.inflater.headers(body.get(10..).ok_or(SpdyError::Short(kind))?)?,
                fin,
            }),
            // Read although nobody needs them: one zlib stream holds them all.
            SYN_REPLY | HEADERS => {
                let stream = stream(0)?;
                self.inflater.headers(body.get(4..).ok_or(SpdyError::Short(kind))?)?;
                fin.then_some(Event::Data {
                    stream,
                    bytes: Vec::new(),
                    fin,
                })
            }
            RST_STREAM => Some(Event::Reset { stream: stream(0)? }),
            PING => Some(Event::Ping(word(0)?)),
            GOAWAY => Some(Event::GoAway),
            // Settings, window updates, credentials: nothing is done by them.
            _ => None,
        })
    }

    fn take(&mut self, length: usize) -> Vec<u8> {
        if length == self.bytes.len() {
            return std::mem::take(&mut self.bytes);
        }
        self.bytes.drain(..length).collect()
    }
}

fn control(kind: u16, flags: u8, parts: &[&[u8]], out: &mut Vec<u8>) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    out.extend_from_slice(&CONTROL.to_be_bytes());
    out.extend_from_slice(&kind.to_be_bytes());
    head_end(flags, length, out);
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

fn head_end(flags: u8, length: usize, out: &mut Vec<u8>) {
    // No frame of ours is near 16 MiB.
    let word = (u32::from(flags) << 24) | (u32::try_from(length).unwrap_or(u32::MAX) & 0x00ff_ffff);
    out.extend_from_slice(&word.to_be_bytes());
}

/// Makes frames. One per connection: header blocks are one compressed stream.
#[derive(Debug, Default)]
pub struct Encoder {
    deflater: Deflater,
}

impl Encoder {
    /// Accepts a stream.
    pub fn reply(&mut self, stream: StreamId, out: &mut Vec<u8>) {
        let block = self.deflater.block(&Headers::default());
        control(SYN_REPLY, 0, &[&stream.to_be_bytes(), &block], out);
    }

    /// Bytes on a stream; with `fin`, its end.
    pub fn data(stream: StreamId, bytes: &[u8], fin: bool, out: &mut Vec<u8>) {
        let mut chunks = bytes.chunks(DATA_BYTES_MAX).peekable();
        if chunks.peek().is_none() && fin {
            out.extend_from_slice(&stream.to_be_bytes());
            head_end(FLAG_FIN, 0, out);
        }
        while let Some(chunk) = chunks.next() {
            let last = fin && chunks.peek().is_none();
            out.extend_from_slice(&stream.to_be_bytes());
            head_end(u8::from(last) * FLAG_FIN, chunk.len(), out);
            out.extend_from_slice(chunk);
        }
    }

    /// Abandons a stream.
    pub fn reset(stream: StreamId, status: u32, out: &mut Vec<u8>) {
        control(RST_STREAM, 0, &[&stream.to_be_bytes(), &status.to_be_bytes()], out);
    }

    /// The echo of a ping.
    pub fn ping(id: u32, out: &mut Vec<u8>) {
        control(PING, 0, &[&id.to_be_bytes()], out);
    }

    /// No more streams are taken; `last` was.
    pub fn go_away(last: StreamId, out: &mut Vec<u8>) {
        control(GOAWAY, 0, &[&last.to_be_bytes(), &0u32.to_be_bytes()], out);
    }
}

#[cfg(test)]
mod tests;
