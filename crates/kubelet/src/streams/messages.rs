//! Numbered channels in WebSocket messages: the first byte of a message names
//! its channel. In the base64 form that byte is a digit, and the rest of the
//! message is text. Pure.
//!
//! Source: upstream `apimachinery/pkg/util/httpstream/wsstream/conn.go`,
//! `binaryChannelProtocol`, `Base64ChannelWebSocketProtocol`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::websocket::{self, Event, WebSocketError};

/// A client that cannot be followed any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum MessageError {
    #[error(transparent)]
    Frame(#[from] WebSocketError),
    #[error("a message of channel {0} is not base64")]
    Base64(u8),
}

/// What a client sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// Bytes on a channel, never none.
    Data(u8, Vec<u8>),
    /// To be sent back as it is.
    Echo(Vec<u8>),
    /// The client closes; nothing follows.
    Bye,
}

/// How messages are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Form {
    #[default]
    Binary,
    Base64,
}

impl Form {
    /// Of a subprotocol by its name.
    pub(super) fn of(protocol: &str) -> Self {
        if protocol.contains("base64.") { Self::Base64 } else { Self::Binary }
    }

    /// A message of ours.
    pub(super) fn encode(self, channel: u8, bytes: &[u8], out: &mut Vec<u8>) {
        match self {
            Self::Binary => websocket::message(&[&[channel], bytes], out),
            // Upstream, too, counts on past the digit 9.
            Self::Base64 => websocket::text(&[&[b'0'.wrapping_add(channel)], STANDARD.encode(bytes).as_bytes()], out),
        }
    }
}

/// Turns bytes into messages. A message may be of any length: it is handed on
/// as it arrives.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    frames: websocket::Decoder,
    form: Form,
    /// Channel of the message being read, once its first byte is.
    channel: Option<u8>,
    /// Fewer than four characters of base64 that wait for the others.
    rest: Vec<u8>,
}

impl Decoder {
    pub(super) fn new(form: Form) -> Self {
        Self { form, ..Self::default() }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.frames.push(bytes);
    }

    /// The next message, or piece of one.
    ///
    /// # Errors
    /// When the bytes are not a client's messages; there is no way on.
    pub(super) fn next_message(&mut self) -> Result<Option<Message>, MessageError> {
        while let Some(event) = self.frames.next_event()? {
            let (last, bytes) = match event {
                Event::Piece { last, bytes, .. } => (last, bytes),
                Event::Ping(payload) => {
                    let mut echo = Vec::new();
                    websocket::pong(&payload, &mut echo);
                    return Ok(Some(Message::Echo(echo)));
                }
                Event::Close => return Ok(Some(Message::Bye)),
            };
            if let Some(message) = self.piece(bytes, last)? {
                return Ok(Some(message));
            }
        }
        Ok(None)
    }

    fn piece(&mut self, mut bytes: Vec<u8>, last: bool) -> Result<Option<Message>, MessageError> {
        if self.channel.is_none() && !bytes.is_empty() {
            let first = bytes.remove(0);
            self.channel = Some(match self.form {
                Form::Binary => first,
                Form::Base64 => first.wrapping_sub(b'0'),
            });
        }
        let Some(channel) = self.channel else { return Ok(None) };
        if last {
            self.channel = None;
        }
        if self.form == Form::Base64 {
            bytes = self.decoded(bytes, last).ok_or(MessageError::Base64(channel))?;
        }
        Ok((!bytes.is_empty()).then_some(Message::Data(channel, bytes)))
    }

    /// As many of the bytes as are known by now.
    fn decoded(&mut self, bytes: Vec<u8>, last: bool) -> Option<Vec<u8>> {
        self.rest.extend(bytes);
        let whole = if last { self.rest.len() } else { self.rest.len() / 4 * 4 };
        let text: Vec<u8> = self.rest.drain(..whole).collect();
        STANDARD.decode(text).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client's message, masked with zeros: the payload stays readable.
    fn client(text: &[u8]) -> Vec<u8> {
        let mut wire = Vec::new();
        websocket::message(&[text], &mut wire);
        wire[1] |= 0x80;
        wire.splice(2..2, [0; 4]);
        wire
    }

    fn heard(form: Form, wire: &[u8], cut: usize) -> Result<Vec<(u8, Vec<u8>)>, MessageError> {
        let mut decoder = Decoder::new(form);
        let mut heard: Vec<(u8, Vec<u8>)> = Vec::new();
        for part in wire.chunks(cut) {
            decoder.push(part);
            while let Some(message) = decoder.next_message()? {
                let Message::Data(channel, bytes) = message else {
                    panic!("{message:?}")
                };
                match heard.last_mut().filter(|(last, _)| *last == channel) {
                    Some((_, all)) => all.extend(bytes),
                    None => heard.push((channel, bytes)),
                }
            }
        }
        Ok(heard)
    }

    #[test]
    fn both_forms_carry_the_same_whatever_the_cut() {
        let binary = [client(b"\x00in\xff"), client(b"\x04{}"), client(b"\x01")].concat();
        let base64 = [client(b"0aW7/"), client(b"4e30="), client(b"1")].concat();
        let expected = vec![(0, b"in\xff".to_vec()), (4, b"{}".to_vec())];
        for cut in 1..binary.len() {
            assert_eq!(heard(Form::Binary, &binary, cut).unwrap(), expected, "{cut}");
        }
        for cut in 1..base64.len() {
            assert_eq!(heard(Form::Base64, &base64, cut).unwrap(), expected, "{cut}");
        }
    }

    #[test]
    fn what_is_not_base64_ends_the_session() {
        for text in [b"0###=".as_slice(), b"0aW7", b"0a"] {
            assert_eq!(heard(Form::Base64, &client(text), 64), Err(MessageError::Base64(0)), "{text:?}");
        }
        let mut out = Vec::new();
        Form::Base64.encode(1, b"hi", &mut out);
        assert_eq!(out, b"\x81\x051aGk=");
    }
}
