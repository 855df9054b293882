//! WebSocket frames, the server's side. Pure.
//!
//! Payloads are handed on as they arrive, so a frame or message of any length
//! needs no memory. Source: RFC 6455.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// What makes a key an answer. Source: RFC 6455, section 1.3.
const ACCEPT_SUFFIX: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// Longest payload of a control frame. Source: RFC 6455, section 5.5.
const CONTROL_BYTES_MAX: usize = 125;

const CONTINUATION: u8 = 0x0;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xa;

/// `Sec-WebSocket-Accept` for a client's `Sec-WebSocket-Key`.
#[must_use]
pub fn accept(key: &str) -> String {
    let text = format!("{key}{ACCEPT_SUFFIX}");
    STANDARD.encode(ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()))
}

/// Why a connection cannot be followed any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WebSocketError {
    /// Clients mask what they send.
    #[error("a frame of the client is not masked")]
    Unmasked,
    /// Bits that mean nothing here.
    #[error("a frame has reserved bits or an unknown opcode: {0:#04x}")]
    Unknown(u8),
    /// Control frames are short and whole.
    #[error("a control frame is longer than {CONTROL_BYTES_MAX} bytes or in pieces")]
    Control,
    /// A message within a message, or the rest of none.
    #[error("the pieces of a message are out of order")]
    Order,
}

/// What a client sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A piece of a message, in order. The pieces of one message are followed
    /// by those of the next; either end may be an empty piece.
    Piece {
        /// It begins a message.
        first: bool,
        /// It ends a message.
        last: bool,
        /// Its bytes.
        bytes: Vec<u8>,
    },
    /// To be answered by [`pong`] with the same bytes.
    Ping(Vec<u8>),
    /// The client closes; nothing follows.
    Close,
}

/// A frame whose payload is being read.
#[derive(Clone, Copy, Debug)]
struct Open {
    opcode: u8,
    fin: bool,
    first: bool,
    mask: [u8; 4],
    /// Bytes of the payload that are already taken, modulo 4.
    phase: usize,
    left: u64,
}

/// Turns bytes into events.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: Vec<u8>,
    open: Option<Open>,
    /// A message has begun and not ended.
    in_message: bool,
    closed: bool,
}

impl Decoder {
    /// Takes what was read.
    pub fn push(&mut self, bytes: &[u8]) {
        if !self.closed {
            self.bytes.extend_from_slice(bytes);
        }
    }

    /// The next event, if there is one.
    ///
    /// # Errors
    /// When the bytes are not a client's frames; there is no way on.
    pub fn next_event(&mut self) -> Result<Option<Event>, WebSocketError> {
        loop {
            if self.closed {
                return Ok(None);
            }
            let open = match self.open {
                Some(open) => open,
                None => match self.head()? {
                    Some(open) => open,
                    None => return Ok(None),
                },
            };
            let event = if open.opcode >= CLOSE {
                self.control(open)
            } else {
                self.piece(open)
            };
            match event {
                Some(Some(event)) => return Ok(Some(event)),
                Some(None) => {}
                None => return Ok(None),
            }
        }
    }

    /// Reads a frame's head, once it is whole.
    fn head(&mut self) -> Result<Option<Open>, WebSocketError> {
        let [one, two, rest @ ..] = self.bytes.as_slice() else {
            return Ok(None);
        };
        let (fin, opcode) = (one & 0x80 != 0, one & 0x0f);
        if one & 0x70 != 0 || !matches!(opcode, CONTINUATION | TEXT | BINARY | CLOSE | PING | PONG) {
            return Err(WebSocketError::Unknown(*one));
        }
        if two & 0x80 == 0 {
            return Err(WebSocketError::Unmasked);
        }
        let (length, rest) = match two & 0x7f {
            126 => match rest.split_first_chunk::<2>() {
                Some((length, rest)) => (u64::from(u16::from_be_bytes(*length)), rest),
                None => return Ok(None),
            },
            127 => match rest.split_first_chunk::<8>() {
                Some((length, rest)) => (u64::from_be_bytes(*length), rest),
                None => return Ok(None),
            },
            short => (u64::from(short), rest),
        };
        let Some((mask, rest)) = rest.split_first_chunk::<4>() else {
            return Ok(None);
        };
        if opcode >= CLOSE {
            if !fin || length > CONTROL_BYTES_MAX as u64 {
                return Err(WebSocketError::Control);
            }
        } else if (opcode == CONTINUATION) != self.in_message {
            return Err(WebSocketError::Order);
        }
        let open = Open {
            opcode,
            fin,
            first: opcode != CONTINUATION,
            mask: *mask,
            phase: 0,
            left: length,
        };
        let taken = self.bytes.len() - rest.len();
        self.bytes.drain(..taken);
        if opcode < CLOSE {
            self.in_message = !fin;
        }
        self.open = Some(open);
        Ok(Some(open))
    }

    /// A control frame, once it is whole; `Some(None)` for one to ignore.
    fn control(&mut self, mut open: Open) -> Option<Option<Event>> {
        let length = usize::try_from(open.left).ok().filter(|length| *length <= self.bytes.len())?;
        let payload = self.unmasked(&mut open, length);
        self.open = None;
        Some(match open.opcode {
            PING => Some(Event::Ping(payload)),
            CLOSE => {
                self.closed = true;
                self.bytes = Vec::new();
                Some(Event::Close)
            }
            _ => None,
        })
    }

    /// As much of a data frame as there is.
    fn piece(&mut self, mut open: Open) -> Option<Option<Event>> {
        let there = usize::try_from(open.left).map_or(self.bytes.len(), |left| left.min(self.bytes.len()));
        if there == 0 && open.left > 0 {
            return None;
        }
        let bytes = self.unmasked(&mut open, there);
        let (first, whole) = (open.first, open.left == 0);
        open.first = false;
        self.open = (!whole).then_some(open);
        Some(Some(Event::Piece {
            first,
            last: whole && open.fin,
            bytes,
        }))
    }

    fn unmasked(&mut self, open: &mut Open, length: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = self.bytes.drain(..length).collect();
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte ^= open.mask[(open.phase + at) % 4];
        }
        open.phase = (open.phase + length) % 4;
        open.left -= length as u64;
        if self.bytes.is_empty() {
            self.bytes = Vec::new(); // an idle connection holds no buffer
        }
        bytes
    }
}

/// A whole frame of ours; its payload is `parts` together.
fn frame(opcode: u8, parts: &[&[u8]], out: &mut Vec<u8>) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    out.push(0x80 | opcode);
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short @ ..=125), _) => out.push(short),
        (_, Ok(medium)) => {
            out.push(126);
            out.extend_from_slice(&medium.to_be_bytes());
        }
        _ => {
            out.push(127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

/// A binary message whose content is `parts` together.
pub fn message(parts: &[&[u8]], out: &mut Vec<u8>) {
    frame(BINARY, parts, out);
}

/// A text message whose content is `parts` together.
pub fn text(parts: &[&[u8]], out: &mut Vec<u8>) {
    frame(TEXT, parts, out);
}

/// The answer to a ping.
pub fn pong(payload: &[u8], out: &mut Vec<u8>) {
    frame(PONG, &[&payload[..payload.len().min(CONTROL_BYTES_MAX)]], out);
}

/// An orderly end. Source: RFC 6455, section 7.4.1.
pub const NORMAL: u16 = 1000;

/// The end of the connection.
pub fn close(code: u16, out: &mut Vec<u8>) {
    frame(CLOSE, &[&code.to_be_bytes()], out);
}

#[cfg(test)]
mod tests;
