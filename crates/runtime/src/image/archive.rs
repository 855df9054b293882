//! Reads a tar archive entry by entry, in bounded memory.
//!
//! The `tar` crate's own iterator collects long names and extension records of
//! any size and refuses numeric fields left blank. An image comes from a
//! stranger, and Go's tools write blank fields, so this reader uses only that
//! crate's header layout: extension records have Go's limit of 1 MiB, blank
//! numbers are zero, entries are counted, and what cannot be honoured (sparse
//! files) is refused instead of being extracted wrongly.

use std::io::{self, Read};

use super::unpack::UnpackError;

const BLOCK: u64 = 512;
/// Largest long name or extension record, as `maxSpecialFileSize` of Go's archive/tar.
const RECORD_BYTES_MAX: u64 = 1 << 20;
/// Longest path the kernel takes.
const PATH_BYTES_MAX: usize = 4096;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    HardLink,
    Symlink,
    CharDevice,
    BlockDevice,
    Directory,
    Fifo,
}

/// An entry's header, with its extensions applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) path: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime_s: i64,
    pub(crate) mtime_ns: u32,
    pub(crate) size: u64,
    pub(crate) device: (u32, u32),
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Entry {
    /// The path, for people.
    pub(crate) fn name(&self) -> String {
        String::from_utf8_lossy(&self.path).into_owned()
    }
}

/// Extension records seen before the entry they belong to.
#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<(i64, u32)>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// An archive being read. Between entries it is itself a reader of the current
/// entry's content.
pub(crate) struct Archive<R> {
    source: R,
    /// Bytes of the current entry's content not read yet, and of padding after it.
    content: u64,
    padding: u64,
    position: u64,
    entries_left: u64,
    entries_max: u64,
}

impl<R: Read> Archive<R> {
    /// Reads at most `entries_max` headers, extension records included.
    pub(crate) fn new(source: R, entries_max: u64) -> Self {
        Self {
            source,
            content: 0,
            padding: 0,
            position: 0,
            entries_left: entries_max,
            entries_max,
        }
    }

    /// Where in the source the next byte comes from; right after
    /// [`next`](Self::next), where the entry's content begins.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// The rest of the source, after the last entry.
    pub(crate) fn into_rest(self) -> R {
        self.source
    }

    /// The next entry; `None` at the end of the archive.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>, UnpackError> {
        let mut extensions = Extensions::default();
        let mut announced = false;
        loop {
            self.skip()?;
            let Some(header) = self.header()? else {
                return if announced {
                    Err(malformed("it ends after an extension record"))
                } else {
                    Ok(None)
                };
            };
            self.entries_left = self.entries_left.checked_sub(1).ok_or(UnpackError::Limit {
                what: "entries",
                max: self.entries_max,
            })?;
            let flag = header.entry_type().as_byte();
            let header_size = unsigned(&header.as_old().size, "size")?;
            match flag {
                b'x' | b'L' | b'K' => {
                    announced = true;
                    let record = self.record(header_size)?;
                    match flag {
                        b'L' => extensions.path = Some(until_nul(&record).to_vec()),
                        b'K' => extensions.link = Some(until_nul(&record).to_vec()),
                        _ => extensions.read_pax(&record)?,
                    }
                }
                // Global records carry comments; containerd ignores them too.
                b'g' => {
                    self.record(header_size)?;
                }
                _ => return self.entry(&header, flag, header_size, extensions).map(Some),
            }
        }
    }

    fn entry(&mut self, header: &tar::Header, flag: u8, header_size: u64, extensions: Extensions) -> Result<Entry, UnpackError> {
        let path = extensions.path.unwrap_or_else(|| header.path_bytes().into_owned());
        if path.len() > PATH_BYTES_MAX || path.contains(&0) {
            return Err(malformed(format!("a path of {} bytes", path.len())));
        }
        let link = match extensions.link {
            Some(link) => link,
            None => until_nul(&header.as_old().linkname).to_vec(),
        };
        if link.len() > PATH_BYTES_MAX || link.contains(&0) {
            return Err(malformed(format!("a link target of {} bytes", link.len())));
        }
        let kind = match flag {
            b'0' | 0 if path.ends_with(b"/") => Kind::Directory,
            b'0' | 0 | b'7' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => Kind::CharDevice,
            b'4' => Kind::BlockDevice,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            b'S' => {
                return Err(UnpackError::Unsupported {
                    path: lossy(&path),
                    what: "a sparse file",
                });
            }
            _ => {
                return Err(UnpackError::Unsupported {
                    path: lossy(&path),
                    what: "of an unknown type",
                });
            }
        };
        let size = if kind == Kind::File {
            extensions.size.unwrap_or(header_size)
        } else {
            0
        };
        self.content = size;
        self.padding = size.wrapping_neg() % BLOCK;
        let old = header.as_old();
        let (mtime_s, mtime_ns) = match extensions.mtime {
            Some(mtime) => mtime,
            None => (number(&old.mtime, "mtime")?, 0),
        };
        let device = match kind {
            Kind::CharDevice | Kind::BlockDevice => device(header)?,
            _ => (0, 0),
        };
        let id = |extension: Option<u64>, field: &[u8], what: &'static str| -> Result<u32, UnpackError> {
            let value = extension.map_or_else(|| unsigned(field, what), Ok)?;
            // The largest value means "leave as it is" to chown.
            u32::try_from(value)
                .ok()
                .filter(|id| *id != u32::MAX)
                .ok_or_else(|| malformed(format!("{what} {value}")))
        };
        Ok(Entry {
            uid: id(extensions.uid, &old.uid, "uid")?,
            gid: id(extensions.gid, &old.gid, "gid")?,
            mode: (unsigned(&old.mode, "mode")? & 0o7777) as u32,
            path,
            link,
            kind,
            mtime_s,
            mtime_ns,
            size,
            device,
            xattrs: extensions.xattrs,
        })
    }

    /// Skips what is left of the current entry.
    fn skip(&mut self) -> Result<(), UnpackError> {
        let left = self
            .content
            .checked_add(self.padding)
            .ok_or_else(|| malformed("an entry larger than any file"))?;
        let skipped = io::copy(&mut (&mut self.source).take(left), &mut io::sink()).map_err(UnpackError::Read)?;
        self.position += skipped;
        if skipped < left {
            return Err(UnpackError::Read(io::ErrorKind::UnexpectedEof.into()));
        }
        self.content = 0;
        self.padding = 0;
        Ok(())
    }

    /// The next header block; `None` at the end mark or the end of the source.
    fn header(&mut self) -> Result<Option<tar::Header>, UnpackError> {
        let mut header = tar::Header::new_old();
        let block = header.as_mut_bytes();
        let mut have = 0;
        while have < block.len() {
            match self.source.read(&mut block[have..]) {
                Ok(0) if have == 0 => return Ok(None),
                Ok(0) => return Err(UnpackError::Read(io::ErrorKind::UnexpectedEof.into())),
                Ok(n) => have += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(UnpackError::Read(error)),
            }
        }
        self.position += BLOCK;
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let sum = |block: &[u8]| -> u64 { block.iter().map(|byte| u64::from(*byte)).sum() };
        let actual = sum(&block[..148]) + 8 * u64::from(b' ') + sum(&block[156..]);
        if unsigned(&header.as_old().cksum, "checksum")? != actual {
            return Err(malformed("a header's checksum is wrong"));
        }
        Ok(Some(header))
    }

    /// The content of an extension record.
    fn record(&mut self, size: u64) -> Result<Vec<u8>, UnpackError> {
        if size > RECORD_BYTES_MAX {
            return Err(UnpackError::Limit {
                what: "bytes in an extension record",
                max: RECORD_BYTES_MAX,
            });
        }
        self.content = size;
        self.padding = size.wrapping_neg() % BLOCK;
        let mut record = Vec::new();
        self.read_to_end(&mut record).map_err(UnpackError::Read)?;
        Ok(record)
    }
}

/// Reads the current entry's content.
impl<R: Read> Read for Archive<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = usize::try_from(self.content).unwrap_or(usize::MAX).min(buffer.len());
        if want == 0 {
            return Ok(0);
        }
        let n = self.source.read(&mut buffer[..want])?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.content -= n as u64;
        self.position += n as u64;
        Ok(n)
    }
}

impl Extensions {
    /// Records of the form `LENGTH KEY=VALUE\n` (pax, POSIX.1-2001).
    fn read_pax(&mut self, mut rest: &[u8]) -> Result<(), UnpackError> {
        while !rest.is_empty() {
            let bad = || malformed("an extension record is damaged");
            let space = rest.iter().position(|byte| *byte == b' ').ok_or_else(bad)?;
            let length: usize = std::str::from_utf8(&rest[..space])
                .ok()
                .and_then(|text| text.parse().ok())
                .ok_or_else(bad)?;
            let record = rest
                .get(space + 1..length)
                .and_then(|record| record.strip_suffix(b"\n"))
                .ok_or_else(bad)?;
            let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(bad)?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            let integer = || {
                std::str::from_utf8(value)
                    .ok()
                    .and_then(|text| text.parse::<u64>().ok())
                    .ok_or_else(bad)
            };
            match key {
                b"path" => self.path = Some(value.to_vec()),
                b"linkpath" => self.link = Some(value.to_vec()),
                b"size" => self.size = Some(integer()?),
                b"uid" => self.uid = Some(integer()?),
                b"gid" => self.gid = Some(integer()?),
                b"mtime" => self.mtime = Some(std::str::from_utf8(value).ok().and_then(seconds).ok_or_else(bad)?),
                _ if key.starts_with(b"GNU.sparse.") => {
                    return Err(UnpackError::Unsupported {
                        path: lossy(self.path.as_deref().unwrap_or_default()),
                        what: "a sparse file",
                    });
                }
                _ => {
                    if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                        self.xattrs.push((name.to_vec(), value.to_vec()));
                    }
                }
            }
            rest = &rest[length..];
        }
        Ok(())
    }
}

/// `SECONDS[.FRACTION]`, to the nanosecond.
fn seconds(text: &str) -> Option<(i64, u32)> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let whole_s: i64 = whole.parse().ok()?;
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let fraction_ns: u32 = format!("{:0<9.9}", fraction).parse().ok()?;
    match (whole.starts_with('-'), fraction_ns) {
        (true, 1..) => Some((whole_s.checked_sub(1)?, 1_000_000_000 - fraction_ns)),
        (_, fraction_ns) => Some((whole_s, fraction_ns)),
    }
}

/// A header's numeric field: octal text, or two's complement after a set top
/// bit. Blank is zero, as in Go.
fn number(field: &[u8], what: &'static str) -> Result<i64, UnpackError> {
    let bad = || malformed(format!("field {what} is not a number"));
    if field.first().is_some_and(|byte| byte & 0x80 != 0) {
        let negative = field[0] & 0x40 != 0;
        let mut value: i128 = if negative { -1 } else { 0 };
        for (at, byte) in field.iter().enumerate() {
            let byte = if at == 0 && !negative { byte & 0x7f } else { *byte };
            value = value << 8 | i128::from(byte);
        }
        return i64::try_from(value).map_err(|_| bad());
    }
    let text: &[u8] = field.trim_ascii();
    let text = until_nul(text).trim_ascii();
    if text.is_empty() {
        // Leading NULs before digits would be damage; only blanks are zero.
        return if field.iter().all(|byte| matches!(byte, 0 | b' ')) {
            Ok(0)
        } else {
            Err(bad())
        };
    }
    let text = std::str::from_utf8(text).map_err(|_| bad())?;
    i64::from_str_radix(text, 8).ok().filter(|value| *value >= 0).ok_or_else(bad)
}

fn unsigned(field: &[u8], what: &'static str) -> Result<u64, UnpackError> {
    u64::try_from(number(field, what)?).map_err(|_| malformed(format!("field {what} is negative")))
}

fn device(header: &tar::Header) -> Result<(u32, u32), UnpackError> {
    // Both newer layouts have the device numbers at the same place.
    let fields = match (header.as_ustar(), header.as_gnu()) {
        (Some(ustar), _) => Some((&ustar.dev_major, &ustar.dev_minor)),
        (None, Some(gnu)) => Some((&gnu.dev_major, &gnu.dev_minor)),
        (None, None) => None,
    };
    let Some((major, minor)) = fields else { return Ok((0, 0)) };
    let narrow = |field: &[u8], what| u32::try_from(unsigned(field, what)?).map_err(|_| malformed(format!("field {what} is too large")));
    Ok((narrow(major, "device major")?, narrow(minor, "device minor")?))
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    &bytes[..end]
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn malformed(what: impl Into<String>) -> UnpackError {
    UnpackError::Malformed(what.into())
}

#[cfg(test)]
mod tests;
