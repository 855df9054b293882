//! Where Go's standard base64 decoder would stop.
//!
//! Source: Go `encoding/base64`, `Encoding.decodeQuantum`.

/// Checks standard, padded base64; line breaks are skipped.
///
/// # Errors
/// The index Go's `CorruptInputError` would hold.
pub(in crate::schema) fn check(text: &[u8]) -> Result<(), usize> {
    let is_break = |b: u8| b == b'\n' || b == b'\r';
    let mut filled = 0;
    let mut bytes = text.iter().copied().enumerate().filter(|(_, b)| !is_break(*b));
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'+' | b'/' => filled = (filled + 1) % 4,
            b'=' if filled >= 2 => {
                if filled == 2 {
                    match bytes.next() {
                        None => return Err(text.len()),
                        Some((second, other)) if other != b'=' => return Err(second - 1),
                        Some(_) => {}
                    }
                }
                return bytes.next().map_or(Ok(()), |(extra, _)| Err(extra));
            }
            _ => return Err(at),
        }
    }
    if filled == 0 { Ok(()) } else { Err(text.len() - filled) }
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn stops_where_go_stops() {
        for good in ["", "YQ==", "YWI=", "YWJj", "YWJj\nYQ==\n", "+/+/"] {
            assert_eq!(check(good.as_bytes()), Ok(()), "{good}");
        }
        for (bad, at) in [
            ("hello", 4),
            ("YQ", 0),
            ("YQ=", 3),
            ("Y===", 1),
            ("YWJj!", 4),
            ("YQ==YQ==", 4),
            ("YQ=a", 2),
            ("=", 0),
            ("not base64", 3),
        ] {
            assert_eq!(check(bad.as_bytes()), Err(at), "{bad}");
        }
    }
}
