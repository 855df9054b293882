//! A container's log as files: the one being written, and those put aside.
//!
//! A file that has grown to its limit is renamed to
//! `<name>.<YYYYMMDD-HHMMSS>.<nanoseconds>`, so that names sort by age, and a
//! new one is begun; the oldest go. Upstream's kubelet does this from outside
//! (`pkg/kubelet/logs/container_log_manager.go`) and compresses what is put
//! aside; here whoever writes rotates, and nothing is compressed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::rfc3339_nano;
use crate::protocol::LogLimits;

/// A log being written.
#[derive(Debug)]
pub(crate) struct LogFile {
    path: PathBuf,
    file: File,
    bytes: u64,
    limits: LogLimits,
}

impl LogFile {
    /// Opens a log for appending, mode 0640; makes its directory.
    pub(crate) fn open(path: &Path, limits: LogLimits) -> io::Result<Self> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let file = append(path)?;
        let bytes = file.metadata()?.len();
        Ok(Self {
            path: path.to_owned(),
            file,
            bytes,
            limits,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Appends whole lines. `in_line`: the last of them goes on in the next
    /// call, so the file is put aside later, unless it is twice too long.
    pub(crate) fn write(&mut self, lines: &[u8], in_line: bool, now_ns: i64) -> io::Result<()> {
        self.file.write_all(lines)?;
        self.bytes += lines.len() as u64;
        let limit = self.limits.file_bytes_max.max(1);
        if self.bytes >= limit && (!in_line || self.bytes >= limit.saturating_mul(2)) {
            self.rotate(now_ns)?;
        }
        Ok(())
    }

    fn rotate(&mut self, now_ns: i64) -> io::Result<()> {
        let mut aside = self.path.clone().into_os_string();
        aside.push(".");
        aside.push(stamp(now_ns));
        fs::rename(&self.path, &aside)?;
        self.file = append(&self.path)?;
        self.bytes = 0;
        let all = files_of(&self.path)?;
        let kept = self.limits.files_max.max(2) as usize;
        for old in &all[..all.len().saturating_sub(kept)] {
            fs::remove_file(old)?;
        }
        Ok(())
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

/// `20231114-221320.000000007`: sorts by time.
fn stamp(now_ns: i64) -> String {
    rfc3339_nano(now_ns)
        .chars()
        .filter(|c| !matches!(c, '-' | ':' | 'Z'))
        .map(|c| if c == 'T' { '-' } else { c })
        .collect()
}

/// The files of the log at `path`, oldest first, the one being written last.
///
/// # Errors
/// When its directory cannot be read.
pub fn files_of(path: &Path) -> io::Result<Vec<PathBuf>> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return Ok(Vec::new());
    };
    let mut aside: Vec<PathBuf> = fs::read_dir(dir)?
        .filter_map(Result::ok)
        .filter(|entry| {
            let entry = entry.file_name();
            let rest = entry.to_str().and_then(|entry| entry.strip_prefix(name)?.strip_prefix('.'));
            rest.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        })
        .map(|entry| entry.path())
        .collect();
    aside.sort();
    if path.exists() {
        aside.push(path.to_owned());
    }
    Ok(aside)
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: i64 = 1_700_000_000_000_000_007;

    #[test]
    fn a_full_file_is_put_aside_and_the_oldest_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        fs::write(dir.path().join("0.logs"), "another's").unwrap();
        let limits = LogLimits {
            file_bytes_max: 10,
            files_max: 3,
        };
        let mut log = LogFile::open(&path, limits).unwrap();
        for n in 0..7 {
            log.write(format!("line {n}\n").as_bytes(), false, T + n).unwrap();
        }
        let texts: Vec<String> = files_of(&path)
            .unwrap()
            .iter()
            .map(|file| fs::read_to_string(file).unwrap())
            .collect();
        assert_eq!(texts, ["line 2\nline 3\n", "line 4\nline 5\n", "line 6\n"]);
        assert!(dir.path().join("0.log.20231114-221320.000000012").exists());
    }

    #[test]
    fn a_line_stays_in_one_file_unless_it_never_ends() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let limits = LogLimits {
            file_bytes_max: 10,
            files_max: 9,
        };
        let mut log = LogFile::open(&path, limits).unwrap();
        log.write(b"0123456789", true, T).unwrap();
        assert_eq!(files_of(&path).unwrap().len(), 1);
        log.write(b"0123456789", true, T).unwrap();
        assert_eq!(files_of(&path).unwrap().len(), 2);
    }

    #[test]
    fn an_opened_log_goes_on_where_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let limits = LogLimits {
            file_bytes_max: 10,
            files_max: 2,
        };
        LogFile::open(&path, limits).unwrap().write(b"12345\n", false, T).unwrap();
        LogFile::open(&path, limits).unwrap().write(b"67890\n", false, T).unwrap();
        let all = files_of(&path).unwrap();
        assert_eq!(fs::read_to_string(&all[0]).unwrap(), "12345\n67890\n");
    }
}
