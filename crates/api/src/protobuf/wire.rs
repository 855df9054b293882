//! The protobuf wire format: tags, varints, fixed numbers, runs of bytes.
//!
//! Reading borrows from the body and never allocates, so a length that lies
//! costs nothing.
//!
//! Source: protobuf.dev, "Encoding".

/// Bytes that are no protobuf message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A value goes on behind the end.
    #[error("the message ends inside a value")]
    Truncated,
    /// More than 64 bits.
    #[error("a number is longer than 64 bits")]
    Overlong,
    /// Zero, or beyond 2^29.
    #[error("the field number {0} is out of range")]
    Number(u64),
    /// A group, or nothing at all.
    #[error("the wire type {0} is not in use")]
    Type(u8),
    /// Not what the field is sent as.
    #[error("it was sent as {got}, not as {wanted}")]
    Mismatch {
        /// What the message has.
        got: WireType,
        /// What the field needs.
        wanted: WireType,
    },
    /// Text in another encoding.
    #[error("the text is not UTF-8")]
    Utf8,
}

/// How a value is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireType {
    /// Integers and booleans.
    Varint,
    /// Eight bytes.
    Fixed64,
    /// Text, bytes, messages, packed lists.
    Bytes,
    /// Four bytes.
    Fixed32,
}

impl std::fmt::Display for WireType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Varint => "a varint",
            Self::Fixed64 => "eight bytes",
            Self::Bytes => "a run of bytes",
            Self::Fixed32 => "four bytes",
        })
    }
}

/// Reads a message.
pub(super) struct Reader<'a> {
    left: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(message: &'a [u8]) -> Self {
        Self { left: message }
    }

    /// Number and form of the next field; `None` at the end.
    pub(super) fn tag(&mut self) -> Result<Option<(u32, WireType)>, WireError> {
        if self.left.is_empty() {
            return Ok(None);
        }
        let tag = self.any_varint()?;
        let number = u32::try_from(tag >> 3).ok().filter(|number| (1..1 << 29).contains(number));
        let number = number.ok_or(WireError::Number(tag >> 3))?;
        let wire = match tag & 7 {
            0 => WireType::Varint,
            1 => WireType::Fixed64,
            2 => WireType::Bytes,
            5 => WireType::Fixed32,
            other => return Err(WireError::Type(other as u8)),
        };
        Ok(Some((number, wire)))
    }

    /// Whether everything was read.
    pub(super) fn is_empty(&self) -> bool {
        self.left.is_empty()
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], WireError> {
        let (taken, left) = self.left.split_at_checked(length).ok_or(WireError::Truncated)?;
        self.left = left;
        Ok(taken)
    }

    fn any_varint(&mut self) -> Result<u64, WireError> {
        let mut value = 0;
        for (index, byte) in self.left.iter().enumerate().take(10) {
            let bits = u64::from(byte & 0x7f);
            if index == 9 && bits > 1 {
                return Err(WireError::Overlong);
            }
            value |= bits << (7 * index);
            if byte & 0x80 == 0 {
                self.left = &self.left[index + 1..];
                return Ok(value);
            }
        }
        Err(if self.left.len() < 10 {
            WireError::Truncated
        } else {
            WireError::Overlong
        })
    }

    /// An integer. Negative ones are sent as their two's complement.
    #[allow(clippy::cast_possible_wrap)] // two's complement, as the format defines
    pub(super) fn varint(&mut self, got: WireType) -> Result<i64, WireError> {
        expect(got, WireType::Varint)?;
        self.any_varint().map(|value| value as i64)
    }

    pub(super) fn double(&mut self, got: WireType) -> Result<f64, WireError> {
        expect(got, WireType::Fixed64)?;
        let bytes = self.take(8)?.first_chunk().copied().ok_or(WireError::Truncated)?;
        Ok(f64::from_le_bytes(bytes))
    }

    pub(super) fn bytes(&mut self, got: WireType) -> Result<&'a [u8], WireError> {
        expect(got, WireType::Bytes)?;
        let length = self.any_varint()?;
        self.take(usize::try_from(length).map_err(|_| WireError::Truncated)?)
    }

    pub(super) fn text(&mut self, got: WireType) -> Result<&'a str, WireError> {
        std::str::from_utf8(self.bytes(got)?).map_err(|_| WireError::Utf8)
    }

    /// Passes over a field nobody knows.
    pub(super) fn skip(&mut self, wire: WireType) -> Result<(), WireError> {
        match wire {
            WireType::Varint => self.any_varint().map(drop),
            WireType::Fixed64 => self.take(8).map(drop),
            WireType::Bytes => self.bytes(wire).map(drop),
            WireType::Fixed32 => self.take(4).map(drop),
        }
    }
}

fn expect(got: WireType, wanted: WireType) -> Result<(), WireError> {
    if got == wanted {
        Ok(())
    } else {
        Err(WireError::Mismatch { got, wanted })
    }
}

fn push_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn push_tag(out: &mut Vec<u8>, number: u32, wire: u64) {
    push_varint(out, u64::from(number) << 3 | wire);
}

/// Appends an integer.
#[allow(clippy::cast_sign_loss)] // two's complement, as the format defines
pub(super) fn varint(out: &mut Vec<u8>, number: u32, value: i64) {
    push_tag(out, number, 0);
    push_varint(out, value as u64);
}

/// Appends a floating point number.
pub(super) fn double(out: &mut Vec<u8>, number: u32, value: f64) {
    push_tag(out, number, 1);
    out.extend_from_slice(&value.to_le_bytes());
}

/// Appends text or bytes.
pub(super) fn bytes(out: &mut Vec<u8>, number: u32, value: &[u8]) {
    push_tag(out, number, 2);
    push_varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

/// Appends what `fill` writes as a message.
pub(super) fn message<E>(out: &mut Vec<u8>, number: u32, fill: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Result<(), E> {
    push_tag(out, number, 2);
    let at = out.len();
    // Most messages are short: one byte of length, written afterwards.
    out.push(0);
    fill(out)?;
    let mut length = (out.len() - at - 1) as u64;
    let mut bytes = [0_u8; 10];
    let mut used = 0;
    loop {
        bytes[used] = (length & 0x7f) as u8 | if length >= 0x80 { 0x80 } else { 0 };
        used += 1;
        length >>= 7;
        if length == 0 {
            break;
        }
    }
    out[at] = bytes[0];
    if used > 1 {
        out.splice(at + 1..at + 1, bytes[1..used].iter().copied());
    }
    Ok(())
}
