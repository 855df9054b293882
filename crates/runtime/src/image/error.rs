//! Why an image could not be had.

use std::io;
use std::path::PathBuf;

use super::pull::PullError;
use super::reference::InvalidReference;
use super::unpack::UnpackError;

/// Why an image operation failed.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The text is not an image reference.
    #[error("couldn't parse image name {reference:?}: {source}")]
    InvalidReference {
        /// What was given.
        reference: String,
        /// What is wrong with it.
        #[source]
        source: InvalidReference,
    },
    /// No image of that name is stored.
    #[error("image {0:?} is not on this node")]
    NotFound(String),
    /// A file operation failed.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done, with the path.
        doing: String,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The file system is full; what was begun has been removed.
    #[error("{doing}: no space left on device; remove images that are not needed (lifepod images rm) or move the data directory")]
    DiskFull {
        /// What was being done, with the path.
        doing: String,
    },
    /// A file of the store does not hold what it must.
    #[error("image store file {path} is damaged: {reason}; remove {remove} and pull or import the images again")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
        /// What to remove to go on.
        remove: PathBuf,
    },
    /// The store was written by a newer version.
    #[error("image store {path} has format {found}, this version knows up to {known}; use the newer lifepod")]
    Newer {
        /// The index file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest this version reads.
        known: u32,
    },
    /// Another process holds the store's lock for too long.
    #[error("another process has held the image store's lock {path} for {waited_s} s; end it and try again")]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// How long was waited.
        waited_s: u64,
    },
    /// A layer could not be unpacked.
    #[error("failed to extract layer {layer}: {source}")]
    Unpack {
        /// Its digest or path.
        layer: String,
        /// What is wrong with it.
        #[source]
        source: UnpackError,
    },
    /// Content does not have the digest it is named by.
    #[error("{what}: content has digest {found}, but {expected} was promised; the source is damaged or was tampered with")]
    DigestMismatch {
        /// Which content.
        what: String,
        /// What it must be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// A manifest or configuration cannot be used.
    #[error("{what}: {reason}")]
    Manifest {
        /// Which document.
        what: String,
        /// What is wrong.
        reason: String,
    },
    /// The image is for other machines.
    #[error("no match for platform in manifest {what}: not found; this node is {wanted}, it offers {offered}")]
    Platform {
        /// The index or archive.
        what: String,
        /// This machine's platform.
        wanted: String,
        /// Those it has.
        offered: String,
    },
    /// A file to import is not an image archive.
    #[error("cannot import {path}: {reason}")]
    Archive {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The configuration of registries cannot be used.
    #[error("registries configuration {path}: {reason}")]
    Registries {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A pull failed, in containerd's words.
    #[error("failed to pull and unpack image \"{reference}\": {source}")]
    Pull {
        /// The normalized reference.
        reference: String,
        /// What happened.
        #[source]
        source: Box<PullError>,
    },
    /// A task was cancelled or panicked; the runtime is shutting down or there is a bug.
    #[error("{doing} was interrupted: {reason}")]
    Interrupted {
        /// What was being done.
        doing: String,
        /// The executor's reason.
        reason: String,
    },
}

impl ImageError {
    /// Wraps an I/O error, giving a full disk its own words.
    pub(crate) fn io(doing: impl Into<String>, source: io::Error) -> Self {
        if source.kind() == io::ErrorKind::StorageFull || source.kind() == io::ErrorKind::QuotaExceeded {
            Self::DiskFull { doing: doing.into() }
        } else {
            Self::Io {
                doing: doing.into(),
                source,
            }
        }
    }

    /// Whether the disk was full, at whatever depth.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::DiskFull { .. } => true,
            Self::Unpack { source, .. } => source.is_disk_full(),
            Self::Pull { source, .. } => matches!(&**source, PullError::Image(inner) if inner.is_disk_full()),
            _ => false,
        }
    }
}
