//! The five channels of a command, over WebSocket or SPDY. Pure.
//!
//! Over WebSocket each message begins with its channel's number; `v5` adds
//! channel 255, whose byte names the channel the client closes. Over SPDY each
//! channel is a stream with a `streamtype`.
//!
//! Source: upstream `apimachinery/pkg/util/remotecommand/constants.go`, KEP-4006.

use runtime::TerminalSize;
use serde::Deserialize;

use super::messages::{self, Form, Message, MessageError};
use super::spdy::{self, SpdyError, StreamId};
use super::websocket;

/// One stream of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Channel {
    Stdin,
    Stdout,
    Stderr,
    /// How the command ended.
    Error,
    /// Sizes of the client's terminal.
    Resize,
}

impl Channel {
    const ALL: [Self; 5] = [Self::Stdin, Self::Stdout, Self::Stderr, Self::Error, Self::Resize];

    fn name(self) -> &'static str {
        match self {
            Self::Stdin => "stdin",
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::Error => "error",
            Self::Resize => "resize",
        }
    }

    const fn number(self) -> u8 {
        self as u8
    }

    fn numbered(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }
}

/// The channel by which a client closes another.
const CLOSE_CHANNEL: u8 = 255;

/// A client that cannot be followed any further.
#[derive(Debug, thiserror::Error)]
pub(super) enum ChannelError {
    #[error(transparent)]
    WebSocket(#[from] MessageError),
    #[error(transparent)]
    Spdy(#[from] SpdyError),
}

/// What a client said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// A SPDY stream is opened for a channel, or for none that is known.
    Opened(Option<Channel>, StreamId),
    Data(Channel, Vec<u8>),
    /// The client sends nothing more on it.
    Closed(Channel),
    /// To be sent back as it is.
    Echo(Vec<u8>),
    /// The client is done with everything.
    Bye,
}

/// Turns bytes into what a client said.
#[derive(Debug)]
pub(super) struct Decoder {
    wire: Wire,
    /// Follows what was said last.
    queued: Option<Said>,
}

#[derive(Debug)]
enum Wire {
    WebSocket(messages::Decoder),
    Spdy {
        decoder: spdy::Decoder,
        channels: Vec<(StreamId, Channel)>,
    },
}

impl Decoder {
    pub(super) fn websocket(form: Form) -> Self {
        Self {
            wire: Wire::WebSocket(messages::Decoder::new(form)),
            queued: None,
        }
    }

    pub(super) fn spdy() -> Self {
        Self {
            wire: Wire::Spdy {
                decoder: spdy::Decoder::default(),
                channels: Vec::new(),
            },
            queued: None,
        }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        match &mut self.wire {
            Wire::WebSocket(decoder) => decoder.push(bytes),
            Wire::Spdy { decoder, .. } => decoder.push(bytes),
        }
    }

    /// What was said next, if it is all there.
    pub(super) fn next_said(&mut self) -> Result<Option<Said>, ChannelError> {
        if let Some(said) = self.queued.take() {
            return Ok(Some(said));
        }
        match &mut self.wire {
            Wire::WebSocket(decoder) => {
                while let Some(message) = decoder.next_message()? {
                    if let Some(said) = said_in_message(message) {
                        return Ok(Some(said));
                    }
                }
            }
            Wire::Spdy { decoder, channels } => {
                while let Some(event) = decoder.next_event()? {
                    let (said, then) = said_on_stream(event, channels);
                    if said.is_some() {
                        self.queued = then;
                        return Ok(said);
                    }
                }
            }
        }
        Ok(None)
    }
}

fn said_in_message(message: Message) -> Option<Said> {
    match message {
        Message::Data(CLOSE_CHANNEL, bytes) => bytes.first().and_then(|closed| Channel::numbered(*closed)).map(Said::Closed),
        Message::Data(number, bytes) => Channel::numbered(number).map(|channel| Said::Data(channel, bytes)),
        Message::Echo(bytes) => Some(Said::Echo(bytes)),
        Message::Bye => Some(Said::Bye),
    }
}

/// What an event says, and what follows at once.
fn said_on_stream(event: spdy::Event, channels: &mut Vec<(StreamId, Channel)>) -> (Option<Said>, Option<Said>) {
    let known = |stream: StreamId| channels.iter().find(|(id, _)| *id == stream).map(|(_, channel)| *channel);
    let said = match event {
        spdy::Event::Data { stream, bytes, fin } => {
            let data = known(stream)
                .filter(|_| !bytes.is_empty())
                .map(|channel| Said::Data(channel, bytes));
            let closed = known(stream).filter(|_| fin).map(Said::Closed);
            return match data {
                None => (closed, None),
                data => (data, closed),
            };
        }
        spdy::Event::Open { stream, headers, .. } => {
            let kind = headers.get("streamtype").unwrap_or_default();
            let free = |channel: &Channel| channel.name() == kind && !channels.iter().any(|(_, taken)| taken == channel);
            let channel = Channel::ALL.into_iter().find(free);
            channels.extend(channel.map(|channel| (stream, channel)));
            Some(Said::Opened(channel, stream))
        }
        spdy::Event::Reset { stream } => known(stream).map(Said::Closed),
        spdy::Event::Ping(id) => {
            let mut echo = Vec::new();
            spdy::Encoder::ping(id, &mut echo);
            Some(Said::Echo(echo))
        }
        spdy::Event::GoAway => Some(Said::Bye),
    };
    (said, None)
}

/// Makes the bytes of what a client is told.
#[derive(Debug)]
pub(super) enum Encoder {
    WebSocket(Form),
    Spdy {
        encoder: spdy::Encoder,
        streams: [Option<StreamId>; Channel::ALL.len()],
        last: StreamId,
    },
}

impl Encoder {
    pub(super) fn spdy() -> Self {
        Self::Spdy {
            encoder: spdy::Encoder::default(),
            streams: [None; Channel::ALL.len()],
            last: 0,
        }
    }

    /// Accepts a stream, or refuses one that is for no channel.
    pub(super) fn opened(&mut self, channel: Option<Channel>, stream: StreamId, out: &mut Vec<u8>) {
        if let Self::Spdy { encoder, streams, last } = self {
            match channel {
                Some(channel) => {
                    streams[usize::from(channel.number())] = Some(stream);
                    *last = stream;
                    encoder.reply(stream, out);
                }
                None => spdy::Encoder::reset(stream, spdy::REFUSED, out),
            }
        }
    }

    /// Bytes on a channel.
    pub(super) fn data(&self, channel: Channel, bytes: &[u8], out: &mut Vec<u8>) {
        match self {
            Self::WebSocket(form) => form.encode(channel.number(), bytes, out),
            Self::Spdy { streams, .. } => {
                if let Some(stream) = streams[usize::from(channel.number())] {
                    spdy::Encoder::data(stream, bytes, false, out);
                }
            }
        }
    }

    /// The end: `status` on the error channel, then of everything.
    pub(super) fn finish(&self, status: &[u8], out: &mut Vec<u8>) {
        match self {
            Self::WebSocket(_) => {
                if !status.is_empty() {
                    self.data(Channel::Error, status, out);
                }
                websocket::close(websocket::NORMAL, out);
            }
            Self::Spdy { streams, last, .. } => {
                self.data(Channel::Error, status, out);
                for stream in streams.iter().flatten() {
                    spdy::Encoder::data(*stream, b"", true, out);
                }
                spdy::Encoder::go_away(*last, out);
            }
        }
    }
}

/// Collects sizes of the client's terminal: JSON, one after the other.
#[derive(Debug, Default)]
pub(super) struct Sizes(Vec<u8>);

/// More than any size takes.
const SIZE_BYTES_MAX: usize = 4 << 10;

#[derive(Deserialize)]
struct WireSize {
    #[serde(rename = "Width", default)]
    width: u16,
    #[serde(rename = "Height", default)]
    height: u16,
}

impl Sizes {
    /// The newest size in what has come so far; what is no size is dropped.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Option<TerminalSize> {
        if self.0.len() + bytes.len() > SIZE_BYTES_MAX {
            self.0.clear();
            return None;
        }
        self.0.extend_from_slice(bytes);
        let mut newest = None;
        let mut sizes = serde_json::Deserializer::from_slice(&self.0).into_iter::<WireSize>();
        let mut used = 0;
        loop {
            match sizes.next() {
                Some(Ok(size)) => {
                    used = sizes.byte_offset();
                    newest = Some(TerminalSize {
                        rows: size.height,
                        columns: size.width,
                    });
                }
                Some(Err(error)) if !error.is_eof() => used = self.0.len(),
                Some(Err(_)) | None => break,
            }
            if used == self.0.len() {
                break;
            }
        }
        self.0.drain(..used);
        newest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(parts: &[&[u8]]) -> Vec<u8> {
        let mut wire = Vec::new();
        websocket::message(parts, &mut wire);
        // Masked with zeros: the payload stays readable.
        wire[1] |= 0x80;
        wire.splice(2..2, [0; 4]);
        wire
    }

    #[test]
    fn messages_name_their_channel_whatever_the_cut() {
        let wire = [
            client(&[&[0], b"in"]),
            client(&[&[4], b"{}"]),
            client(&[&[255], &[0]]),
            client(&[&[9], b"?"]),
        ]
        .concat();
        for cut in 1..wire.len() {
            let mut decoder = Decoder::websocket(Form::Binary);
            let (mut stdin, mut others) = (Vec::new(), Vec::new());
            for part in wire.chunks(cut) {
                decoder.push(part);
                while let Some(said) = decoder.next_said().unwrap() {
                    match said {
                        Said::Data(Channel::Stdin, bytes) => stdin.extend(bytes),
                        Said::Data(Channel::Resize, _) => {}
                        other => others.push(other),
                    }
                }
            }
            assert_eq!(
                (stdin.as_slice(), others.as_slice()),
                (b"in".as_slice(), [Said::Closed(Channel::Stdin)].as_slice())
            );
        }
    }

    #[test]
    fn sizes_are_taken_as_they_come() {
        let size = |rows, columns| Some(TerminalSize { rows, columns });
        let mut sizes = Sizes::default();
        assert_eq!(sizes.push(b"{\"Width\":80,\"Hei"), None);
        assert_eq!(sizes.push(b"ght\":24}\n"), size(24, 80));
        assert_eq!(sizes.push(b"{\"Width\":1,\"Height\":2}{\"Width\":3,\"Height\":4}"), size(4, 3));
        assert_eq!(sizes.push(b"nonsense"), None);
        assert_eq!(sizes.push(b"{\"Width\":5,\"Height\":6}"), size(6, 5));
    }
}
