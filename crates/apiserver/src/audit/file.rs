//! The file of the audit log: appended to, and begun anew when it is full.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Why the log could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file.
    #[error("cannot open the audit log {path}")]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its thread.
    #[error("cannot start the thread that writes the audit log")]
    Thread(#[source] io::Error),
}

/// A file with its former ones: `audit.log`, `audit.log.1`, `audit.log.2`, ...
pub(super) struct Rotating {
    path: PathBuf,
    file: BufWriter<File>,
    bytes: u64,
    bytes_max: u64,
    kept: usize,
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

fn former(path: &Path, number: usize) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(format!(".{number}"));
    name.into()
}

impl Rotating {
    pub(super) fn open(path: PathBuf, bytes_max: u64, kept: usize) -> Result<Self, OpenError> {
        let failed = |source| OpenError::File {
            path: path.clone(),
            source,
        };
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(failed)?;
        }
        let file = append(&path).map_err(failed)?;
        let bytes = file.metadata().map_err(failed)?.len();
        Ok(Self {
            file: BufWriter::with_capacity(64 << 10, file),
            path,
            bytes,
            bytes_max,
            kept,
        })
    }

    /// Appends a line; begins a new file before it if this one is full.
    pub(super) fn append(&mut self, line: &[u8]) -> io::Result<()> {
        if self.bytes > 0 && self.bytes + line.len() as u64 > self.bytes_max {
            self.rotate()?;
        }
        self.file.write_all(line)?;
        self.bytes += line.len() as u64;
        Ok(())
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.file.flush()?;
        if self.kept == 0 {
            std::fs::remove_file(&self.path)?;
        }
        for number in (0..self.kept).rev() {
            let from = if number == 0 {
                self.path.clone()
            } else {
                former(&self.path, number)
            };
            match std::fs::rename(&from, former(&self.path, number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        self.file = BufWriter::with_capacity(64 << 10, append(&self.path)?);
        self.bytes = 0;
        Ok(())
    }
}
