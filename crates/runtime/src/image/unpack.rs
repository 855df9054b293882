//! A layer's archive becomes a directory that overlayfs can use.

use std::io;

/// What one layer may contain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the uncompressed archive.
    pub archive_bytes: u64,
    /// Files, directories and all else.
    pub entries: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            archive_bytes: 64 << 30,
            entries: 2_000_000,
        }
    }
}

/// Why a layer cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// Reading or decompressing the archive failed.
    #[error("read archive: {0}")]
    Read(#[source] io::Error),
}

impl UnpackError {
    pub(crate) fn is_disk_full(&self) -> bool {
        false
    }
}
