//! CRI log lines: `<time> <stream> <tag> <text>`.
//!
//! Source: kubernetes/design-proposals, "CRI: Log management for container
//! stdout/stderr". `F` ends a line, `P` says that more of it follows.

mod file;

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

pub(crate) use file::LogFile;
pub use file::files_of;

/// A longer line is split into parts of this size.
pub(crate) const LINE_BYTES_MAX: usize = 16 << 10;

/// Limits of a termination message taken from the log.
/// Source: pod API reference, `terminationMessagePolicy`.
const TAIL_LINES_MAX: usize = 80;
const TAIL_BYTES_MAX: usize = 2048;
/// Enough to hold that many bytes of text with their line heads.
const TAIL_READ_BYTES: u64 = 64 << 10;

/// Which of the two outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    fn word(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// Turns what one output wrote into log lines.
#[derive(Debug)]
pub(crate) struct LineSplitter {
    stream: Stream,
    pending: Vec<u8>,
    /// The last line written was a part, and its line goes on.
    in_line: bool,
}

impl LineSplitter {
    pub(crate) fn new(stream: Stream) -> Self {
        Self {
            stream,
            pending: Vec::new(),
            in_line: false,
        }
    }

    pub(crate) fn stream(&self) -> Stream {
        self.stream
    }

    /// Whether the last line written goes on with the next one.
    pub(crate) fn is_in_line(&self) -> bool {
        self.in_line
    }

    /// Appends to `out` every line that `bytes` completes, and every full part.
    pub(crate) fn push(&mut self, now_ns: i64, bytes: &[u8], out: &mut Vec<u8>) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = LINE_BYTES_MAX - self.pending.len();
            let newline = rest.iter().take(room + 1).position(|&b| b == b'\n');
            if let Some(at) = newline {
                self.line(now_ns, 'F', &rest[..at], out);
                rest = &rest[at + 1..];
            } else if rest.len() > room {
                self.line(now_ns, 'P', &rest[..room], out);
                rest = &rest[room..];
            } else {
                self.pending.extend_from_slice(rest);
                return;
            }
        }
    }

    /// Appends what is left without a line end.
    pub(crate) fn finish(&mut self, now_ns: i64, out: &mut Vec<u8>) {
        if !self.pending.is_empty() {
            self.line(now_ns, 'F', b"", out);
        }
    }

    fn line(&mut self, now_ns: i64, tag: char, rest: &[u8], out: &mut Vec<u8>) {
        // Writing to a Vec cannot fail.
        let _ = write!(out, "{} {} {tag} ", rfc3339_nano(now_ns), self.stream.word());
        out.extend_from_slice(&self.pending);
        out.extend_from_slice(rest);
        out.push(b'\n');
        self.pending = Vec::new();
        self.in_line = tag == 'P';
    }
}

/// UTC with all nine digits, as CRI logs have it.
pub(crate) fn rfc3339_nano(ns: i64) -> String {
    let secs = ns.div_euclid(1_000_000_000);
    let nanos = ns.rem_euclid(1_000_000_000);
    let (days, second_of_day) = (secs.div_euclid(86_400), secs.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second_of_day / 3600, second_of_day / 60 % 60, second_of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z")
}

/// Gregorian date of a day counted from 1970-01-01. Years are counted from
/// March, so that the leap day is the last day of a year.
fn civil(days: i64) -> (i64, i64, i64) {
    const DAYS_PER_ERA: i64 = 146_097; // 400 years
    let since_march_0000 = days + 719_468;
    let era = since_march_0000.div_euclid(DAYS_PER_ERA);
    let day_of_era = since_march_0000.rem_euclid(DAYS_PER_ERA);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// The end of a log as plain text: at most 80 lines and 2048 bytes.
pub(crate) fn tail(path: &Path) -> io::Result<String> {
    let mut bytes = end_of(path, TAIL_READ_BYTES)?;
    if bytes.len() as u64 == TAIL_READ_BYTES {
        let whole_line = bytes.iter().position(|&b| b == b'\n').map_or(bytes.len(), |at| at + 1);
        bytes.drain(..whole_line);
    }
    Ok(tail_text(&bytes))
}

/// The last `max` bytes of a file, however long it is.
pub(crate) fn end_of(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(max)))?;
    let mut bytes = Vec::new();
    file.take(max).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn tail_text(log: &[u8]) -> String {
    let lines: Vec<&[u8]> = log.split(|&b| b == b'\n').filter(|line| !line.is_empty()).collect();
    let mut text = Vec::new();
    for line in &lines[lines.len().saturating_sub(TAIL_LINES_MAX)..] {
        let mut fields = line.splitn(4, |&b| b == b' ');
        let (Some(_), Some(_), Some(tag), Some(content)) = (fields.next(), fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        text.extend_from_slice(content);
        if tag == b"F" {
            text.push(b'\n');
        }
    }
    String::from_utf8_lossy(last(&text, TAIL_BYTES_MAX)).into_owned()
}

/// The last `max` bytes, cut at a character.
pub(crate) fn last(bytes: &[u8], max: usize) -> &[u8] {
    let mut start = bytes.len().saturating_sub(max);
    while start < bytes.len() && start > 0 && bytes[start] & 0b1100_0000 == 0b1000_0000 {
        start += 1;
    }
    &bytes[start..]
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: i64 = 1_700_000_000_000_000_007;

    fn split(chunks: &[&[u8]]) -> String {
        let (mut splitter, mut out) = (LineSplitter::new(Stream::Stdout), Vec::new());
        for chunk in chunks {
            splitter.push(T, chunk, &mut out);
        }
        splitter.finish(T, &mut out);
        String::from_utf8(out)
            .unwrap()
            .replace("2023-11-14T22:13:20.000000007Z stdout ", "")
    }

    #[test]
    fn lines_are_whole_whatever_the_reads() {
        assert_eq!(split(&[b"one\ntwo\n"]), "F one\nF two\n");
        assert_eq!(split(&[b"o", b"ne\nt", b"wo"]), "F one\nF two\n");
        assert_eq!(split(&[b"\n\n"]), "F \nF \n");
        assert_eq!(split(&[]), "");
    }

    #[test]
    fn a_long_line_is_split_at_16_kib() {
        let exact = vec![b'x'; LINE_BYTES_MAX];
        let line = |tag: &str, n: usize| format!("{tag} {}\n", "x".repeat(n));
        assert_eq!(split(&[&exact, b"\n"]), line("F", LINE_BYTES_MAX));
        assert_eq!(split(&[&exact, b"xx\n"]), line("P", LINE_BYTES_MAX) + &line("F", 2));
        let long = vec![b'x'; 3 * LINE_BYTES_MAX + 1];
        assert_eq!(split(&[&long]), line("P", LINE_BYTES_MAX).repeat(3) + &line("F", 1));
    }

    #[test]
    fn dates_follow_the_calendar() {
        for (secs, date) in [
            (0, "1970-01-01T00:00:00"),
            (951_782_400, "2000-02-29T00:00:00"),
            (1_709_251_199, "2024-02-29T23:59:59"),
            (1_709_251_200, "2024-03-01T00:00:00"),
            (4_107_542_400, "2100-03-01T00:00:00"),
            (-1, "1969-12-31T23:59:59"),
        ] {
            assert_eq!(rfc3339_nano(secs * 1_000_000_000), format!("{date}.000000000Z"));
        }
    }

    #[test]
    fn the_tail_is_text_without_heads() {
        let log = b"t stdout F a b\nt stderr P half\nt stderr F  done\n";
        assert_eq!(tail_text(log), "a b\nhalf done\n");
        let many = b"t stdout F x\n".repeat(200);
        assert_eq!(tail_text(&many), "x\n".repeat(80));
        let wide = [b"t stdout F ".as_slice(), "\u{e4}".repeat(2000).as_bytes(), b"\n"].concat();
        let text = tail_text(&wide);
        assert!(text.len() <= 2048 && text.starts_with('\u{e4}'));
    }
}
