//! Reads the CRI-format logs that shims write: tail, since, follow.
//!
//! A line is `<RFC 3339 time> <stdout|stderr> <F|P> <text>`; `P` marks a piece
//! of a longer line. Source: the CRI logging design note; upstream
//! `kubelet/pkg/kuberuntime/logs`.

mod limits;
mod watch;

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

pub use limits::{InvalidLogLimits, limits};
pub use watch::LogWatch;

use api::Time;
use jiff::Timestamp;
use percent_encoding::percent_decode_str;

/// What of a log is wanted; the query of `pods/NAME/log`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Only the last so many lines.
    pub tail_lines: Option<usize>,
    /// Only lines written at or after this time.
    pub since: Option<Time>,
    /// Prefix each line with its time.
    pub timestamps: bool,
    /// Stop after this many bytes of output.
    pub limit_bytes: Option<u64>,
    /// Go on as the log grows.
    pub follow: bool,
    /// The attempt before the newest.
    pub previous: bool,
}

/// A query that does not say what log is wanted.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("invalid value {value:?} for {name}")]
pub struct InvalidLogOption {
    /// Query parameter.
    pub name: String,
    /// What it held.
    pub value: String,
}

impl LogOptions {
    /// Parses the query of upstream's `containerLogs` path. `now` is what
    /// `sinceSeconds` counts back from. Unknown parameters are not an error.
    ///
    /// # Errors
    /// When a value is not of its parameter's form.
    pub fn parse(query: &str, now: Time) -> Result<Self, InvalidLogOption> {
        let mut options = Self::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = &*percent_decode_str(value).decode_utf8_lossy();
            let invalid = || InvalidLogOption {
                name: name.to_owned(),
                value: value.to_owned(),
            };
            let flag = || match value {
                "true" | "1" | "" => Ok(true),
                "false" | "0" => Ok(false),
                _ => Err(invalid()),
            };
            match name {
                "tailLines" => options.tail_lines = Some(value.parse().map_err(|_| invalid())?),
                "sinceSeconds" => {
                    let seconds: u64 = value.parse().ok().filter(|s| *s > 0).ok_or_else(invalid)?;
                    options.since = Some(now - std::time::Duration::from_secs(seconds));
                }
                "sinceTime" => {
                    options.since = Some(value.parse::<Timestamp>().map_err(|_| invalid())?.into());
                }
                "limitBytes" => options.limit_bytes = Some(value.parse().ok().filter(|n| *n > 0).ok_or_else(invalid)?),
                "timestamps" => options.timestamps = flag()?,
                "follow" => options.follow = flag()?,
                "previous" => options.previous = flag()?,
                _ => {}
            }
        }
        Ok(options)
    }
}

/// Turns log lines into output. Pure: bytes in, bytes out.
#[derive(Debug)]
pub struct Renderer {
    options: LogOptions,
    written_bytes: u64,
    /// The last piece was `P`: the next one goes on with the same line.
    in_line: bool,
}

impl Renderer {
    /// A renderer that has written nothing yet.
    #[must_use]
    pub const fn new(options: LogOptions) -> Self {
        Self {
            options,
            written_bytes: 0,
            in_line: false,
        }
    }

    /// Whether `limit_bytes` has been reached.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.options.limit_bytes.is_some_and(|limit| self.written_bytes >= limit)
    }

    /// Appends what one log line, without its line end, contributes to `out`.
    /// A line that is not in CRI format is passed through as it is.
    pub fn line(&mut self, line: &[u8], out: &mut Vec<u8>) {
        let before = out.len();
        match Piece::parse(line) {
            Some(piece) => {
                if self.options.since.is_some_and(|since| piece.at < since) {
                    return;
                }
                if self.options.timestamps && !self.in_line {
                    out.extend_from_slice(piece.time_text);
                    out.push(b' ');
                }
                out.extend_from_slice(piece.text);
                self.in_line = piece.partial;
                if !piece.partial {
                    out.push(b'\n');
                }
            }
            None => {
                out.extend_from_slice(line);
                out.push(b'\n');
            }
        }
        if let Some(limit) = self.options.limit_bytes {
            let room = usize::try_from(limit.saturating_sub(self.written_bytes)).unwrap_or(usize::MAX);
            out.truncate(before.saturating_add(room).min(out.len()));
        }
        self.written_bytes += (out.len() - before) as u64;
    }
}

struct Piece<'a> {
    time_text: &'a [u8],
    at: Time,
    partial: bool,
    text: &'a [u8],
}

impl<'a> Piece<'a> {
    fn parse(line: &'a [u8]) -> Option<Self> {
        let mut parts = line.splitn(4, |byte| *byte == b' ');
        let time_text = parts.next()?;
        let at = std::str::from_utf8(time_text).ok()?.parse::<Timestamp>().ok()?.into();
        let stream = parts.next()?;
        let tag = parts.next()?;
        let text = parts.next().unwrap_or_default();
        let known = matches!(stream, b"stdout" | b"stderr") && matches!(tag, b"F" | b"P");
        known.then_some(Self {
            time_text,
            at,
            partial: tag == b"P",
            text,
        })
    }
}

/// Reads a log from where its tail begins, whole lines at a time, through all
/// its files.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    reader: BufReader<File>,
    /// Files to be read after this one, oldest first.
    later: VecDeque<File>,
    /// A line whose end has not been written yet.
    unfinished: Vec<u8>,
    /// Files that come to be while it is read are read too.
    follow: bool,
}

/// How much of a file's end is looked at in one go when searching a tail.
const BLOCK_BYTES: u64 = 64 * 1024;
/// A log that is rotated while its files are opened is opened again.
const OPEN_ATTEMPTS: u32 = 5;

impl LogFile {
    /// Opens a log; with `tail_lines` at the first of its last so many lines.
    ///
    /// # Errors
    /// When the log does not exist or a file of it cannot be read.
    pub fn open(path: &Path, tail_lines: Option<usize>, follow: bool) -> io::Result<Self> {
        let mut files = open_all(path)?;
        let mut later = VecDeque::new();
        let mut missing = tail_lines;
        loop {
            let Some(mut file) = files.pop() else {
                return Err(io::Error::from(io::ErrorKind::NotFound));
            };
            let mut start = 0;
            if let Some(lines) = missing {
                let (offset, found) = tail_offset(&mut file, lines)?;
                start = offset;
                missing = Some(lines - found);
            }
            file.seek(SeekFrom::Start(start))?;
            if missing == Some(0) || files.is_empty() {
                return Ok(Self {
                    path: path.to_owned(),
                    reader: BufReader::new(file),
                    later,
                    unfinished: Vec::new(),
                    follow,
                });
            }
            later.push_front(file);
        }
    }

    /// Reads whole lines that are there now, up to about `limit_bytes`, and
    /// gives each to `line`. False when the end was reached.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn read_lines(&mut self, limit_bytes: usize, mut line: impl FnMut(&[u8])) -> io::Result<bool> {
        let mut read = 0;
        while read < limit_bytes {
            let got = self.reader.read_until(b'\n', &mut self.unfinished)?;
            if got == 0 {
                if !self.next_file()? {
                    return Ok(false);
                }
                continue;
            }
            read += got;
            if self.unfinished.last() == Some(&b'\n') {
                self.unfinished.pop();
                line(&self.unfinished);
                self.unfinished.clear();
            }
        }
        Ok(true)
    }

    /// Goes on with the next file, once nothing more can come in this one.
    fn next_file(&mut self) -> io::Result<bool> {
        if self.later.is_empty() {
            if !self.follow || !self.put_aside()? {
                return Ok(false);
            }
            let own = identity(self.reader.get_ref())?;
            let mut files = open_all(&self.path)?;
            // Those after ours; all of them when ours is gone.
            let mut after = files.len();
            while after > 0 && identity(&files[after - 1])? != own {
                after -= 1;
            }
            self.later = files.split_off(after).into();
            // It was written to until it was put aside.
            if self.has_more()? {
                return Ok(true);
            }
        }
        Ok(self.step())
    }

    fn step(&mut self) -> bool {
        match self.later.pop_front() {
            Some(file) => {
                self.reader = BufReader::new(file);
                true
            }
            None => false,
        }
    }

    fn has_more(&mut self) -> io::Result<bool> {
        Ok(!self.reader.fill_buf()?.is_empty())
    }

    /// Whether the log is written to another file by now.
    fn put_aside(&self) -> io::Result<bool> {
        match std::fs::metadata(&self.path) {
            Ok(current) => Ok((current.dev(), current.ino()) != identity(self.reader.get_ref())?),
            // Between two files, or gone with its container.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn identity(file: &File) -> io::Result<(u64, u64)> {
    let about = file.metadata()?;
    Ok((about.dev(), about.ino()))
}

/// Opens every file of a log, oldest first, the one being written last.
fn open_all(path: &Path) -> io::Result<Vec<File>> {
    let mut last_error = io::Error::from(io::ErrorKind::NotFound);
    for _ in 0..OPEN_ATTEMPTS {
        let opened: io::Result<Vec<File>> = runtime::log_files(path)?.iter().map(File::open).collect();
        match opened {
            Ok(files) => return Ok(files),
            // Renamed or removed since it was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => last_error = error,
            Err(error) => return Err(error),
        }
    }
    Err(last_error)
}

/// Where the last `lines` log lines of a file begin, and how many there are of
/// them. Pieces of one long line count as
/// one line. Lines are counted and not kept: a client may ask for any number.
fn tail_offset(file: &mut File, lines: usize) -> io::Result<(u64, usize)> {
    let end = file.seek(SeekFrom::End(0))?;
    if lines == 0 {
        return Ok((end, 0));
    }
    let mut from = end;
    // Look at ever more of the end until enough line starts are in it.
    loop {
        if from > 0 {
            from = from.saturating_sub(BLOCK_BYTES.max(end - from));
        }
        let mut count = 0;
        line_starts(file, from..end, |_| {
            count += 1;
            true
        })?;
        if count < lines && from > 0 {
            continue;
        }
        let (mut left_out, mut first) = (count.saturating_sub(lines), end);
        line_starts(file, from..end, |offset| {
            let go_on = left_out > 0;
            left_out = left_out.saturating_sub(1);
            if !go_on {
                first = offset;
            }
            go_on
        })?;
        return Ok((first, count.min(lines)));
    }
}

/// Gives the offset of every line start in a part of the file to `seen`, until
/// that says false.
fn line_starts(file: &mut File, part: Range<u64>, mut seen: impl FnMut(u64) -> bool) -> io::Result<()> {
    file.seek(SeekFrom::Start(part.start))?;
    let mut reader = BufReader::new(Read::take(&*file, part.end - part.start));
    let mut offset = part.start;
    let mut line = Vec::new();
    // A part that does not begin at the file's start begins within a line.
    let mut continues = part.start > 0;
    loop {
        line.clear();
        let got = reader.read_until(b'\n', &mut line)?;
        if got == 0 || (!continues && !seen(offset)) {
            return Ok(());
        }
        continues = Piece::parse(line.strip_suffix(b"\n").unwrap_or(&line)).is_some_and(|piece| piece.partial);
        offset += got as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn rendered(log: &str, options: &LogOptions) -> String {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(log.as_bytes()).unwrap();
        let mut reader = LogFile::open(file.path(), options.tail_lines, false).unwrap();
        let mut renderer = Renderer::new(options.clone());
        let mut out = Vec::new();
        while reader.read_lines(7, |line| renderer.line(line, &mut out)).unwrap() {}
        String::from_utf8(out).unwrap()
    }

    const LOG: &str = "2026-01-01T00:00:01.000000001Z stdout F one\n\
                       2026-01-01T00:00:02.000000002Z stderr P tw\n\
                       2026-01-01T00:00:02.000000003Z stderr F o\n\
                       2026-01-01T00:00:03.000000004Z stdout F \n";

    #[test]
    fn a_rotated_log_is_one_log() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let line = |n: u32| format!("2026-01-01T00:00:0{n}.000000000Z stdout F line {n}\n");
        std::fs::write(dir.path().join("0.log.20260101-000002.000000000"), line(1) + &line(2)).unwrap();
        std::fs::write(dir.path().join("0.log.20260101-000003.000000000"), line(3)).unwrap();
        std::fs::write(&path, line(4)).unwrap();
        let read = |log: &mut LogFile| {
            let (mut renderer, mut out) = (Renderer::new(LogOptions::default()), Vec::new());
            while log.read_lines(7, |line| renderer.line(line, &mut out)).unwrap() {}
            String::from_utf8(out).unwrap()
        };
        let opened = |tail, follow| LogFile::open(&path, tail, follow).unwrap();
        assert_eq!(read(&mut opened(None, false)), "line 1\nline 2\nline 3\nline 4\n");
        assert_eq!(read(&mut opened(Some(1), false)), "line 4\n");
        assert_eq!(read(&mut opened(Some(3), false)), "line 2\nline 3\nline 4\n");
        assert_eq!(read(&mut opened(Some(0), false)), "");
        let mut followed = opened(Some(1), true);
        assert_eq!(read(&mut followed), "line 4\n");
        std::fs::write(&path, line(4) + &line(5)).unwrap();
        std::fs::rename(&path, dir.path().join("0.log.20260101-000005.000000000")).unwrap();
        std::fs::write(&path, line(6)).unwrap();
        assert_eq!(read(&mut followed), "line 5\nline 6\n", "the end of the old file and the new one");
        std::fs::rename(&path, dir.path().join("0.log.20260101-000006.000000000")).unwrap();
        std::fs::write(dir.path().join("0.log.20260101-000007.000000000"), line(7)).unwrap();
        std::fs::write(&path, line(8)).unwrap();
        assert_eq!(read(&mut followed), "line 7\nline 8\n", "two rotations between two looks");
    }

    #[test]
    fn pieces_are_joined_and_empty_lines_kept() {
        assert_eq!(rendered(LOG, &LogOptions::default()), "one\ntwo\n\n");
    }

    #[test]
    fn a_tail_counts_whole_lines() {
        for (lines, expected) in [(0, ""), (1, "\n"), (2, "two\n\n"), (3, "one\ntwo\n\n"), (9, "one\ntwo\n\n")] {
            assert_eq!(
                rendered(
                    LOG,
                    &LogOptions {
                        tail_lines: Some(lines),
                        ..LogOptions::default()
                    }
                ),
                expected,
                "{lines} lines"
            );
        }
    }

    #[test]
    fn a_tail_of_a_large_log_is_found() {
        let log: String = (0..50_000)
            .map(|n| format!("2026-01-01T00:00:01.000000001Z stdout F line {n}\n"))
            .collect();
        assert_eq!(
            rendered(
                &log,
                &LogOptions {
                    tail_lines: Some(2),
                    ..LogOptions::default()
                }
            ),
            "line 49998\nline 49999\n"
        );
        let many = rendered(
            &log,
            &LogOptions {
                tail_lines: Some(30_000),
                ..LogOptions::default()
            },
        );
        assert_eq!(many.lines().next(), Some("line 20000"));
    }

    #[test]
    fn times_and_limits() {
        let since = "2026-01-01T00:00:02Z".parse::<Timestamp>().unwrap().into();
        assert_eq!(
            rendered(
                LOG,
                &LogOptions {
                    since: Some(since),
                    ..LogOptions::default()
                }
            ),
            "two\n\n"
        );
        let stamped = rendered(
            LOG,
            &LogOptions {
                timestamps: true,
                ..LogOptions::default()
            },
        );
        assert_eq!(stamped.lines().nth(1), Some("2026-01-01T00:00:02.000000002Z two"));
        assert_eq!(
            rendered(
                LOG,
                &LogOptions {
                    limit_bytes: Some(5),
                    ..LogOptions::default()
                }
            ),
            "one\nt"
        );
    }

    #[test]
    fn the_query_is_parsed_or_refused() {
        let options = LogOptions::parse("follow=true&tailLines=5&sinceSeconds=10&timestamps=true", Time::from_secs(100)).unwrap();
        let expected = LogOptions {
            follow: true,
            tail_lines: Some(5),
            since: Some(Time::from_secs(90)),
            timestamps: true,
            ..LogOptions::default()
        };
        assert_eq!(options, expected);
        let since = LogOptions::parse("sinceTime=2026-01-01T00%3A00%3A00Z", Time::default())
            .unwrap()
            .since;
        assert_eq!(since.map(|at| at.to_string()).as_deref(), Some("2026-01-01T00:00:00Z"));
        assert!(LogOptions::parse("tailLines=-1", Time::default()).is_err());
        assert!(LogOptions::parse("sinceSeconds=0", Time::default()).is_err());
    }
}
