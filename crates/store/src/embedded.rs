//! The embedded backend: [`Engine`] over one redb file in a data directory.
//!
//! ```text
//! DIRECTORY/store.redb       everything; readable by its owner only
//! DIRECTORY/store.redb.new   only while a new store is being made
//! ```
//!
//! The directory is locked (`flock`) for as long as the store is open; the lock
//! goes with the process, however it ends.
//!
//! # After an unclean stop
//!
//! Opening reads every entry into memory anyway, so redb's full check of an
//! uncleanly closed file (all pages, checksums) adds less than it costs to
//! avoid: [`Options::quick_repair`] makes every commit write the allocator's
//! state and sync twice. With values of 2 KiB on ext4 on a virtio disk that
//! syncs in 0.3 ms (`examples/store_bench.rs`, optimised, repeated runs):
//!
//! ```text
//!                                   quick_repair off     on
//! creates per second,  1 client     1,240 ... 1,480      570 ... 1,180
//! creates per second, 32 clients    9,980 ... 10,450     4,590 ... 10,530
//! opening after a kill,  20,000     0.18 ... 0.21 s      0.09 ... 0.21 s
//! opening after a kill,  50,000     0.34 ... 0.44 s      0.28 ... 0.45 s
//! ```
//!
//! So it is off. Either way opening takes a second at somewhat over 100,000
//! such values.
//!
//! # When the disk refuses
//!
//! Reads go on from memory. A commit that fails is undone on disk before the
//! next one, see `file.rs`.

mod file;

use std::fs::{DirBuilder, File, TryLockError};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use async_trait::async_trait;

use crate::engine::{Engine, Limits};
use crate::{Page, Range, Revision, Store, StoreError, Txn, Versioned, Watch};
use file::DataFile;

/// The format this version writes, and the newest it reads.
pub const FORMAT: u64 = 1;

/// The data file's name in the data directory.
pub const FILE_NAME: &str = "store.redb";

/// How an embedded store is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Queue, batch and history bounds.
    pub limits: Limits,
    /// redb's page cache, in bytes. Small by default: reads are answered from
    /// memory of our own, and commits were no faster with 32 MiB than with 1.
    pub cache_bytes: usize,
    /// Whether to make commits dearer so that opening after an unclean stop
    /// need not check the file.
    pub quick_repair: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            cache_bytes: 1 << 20,
            quick_repair: false,
        }
    }
}

/// Why an embedded store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process, or another part of this one, has it open.
    #[error("the data directory {directory} is in use; is another lifepod running? Stop it, or name another directory")]
    InUse {
        /// The data directory.
        directory: PathBuf,
    },
    /// The data directory cannot be made, opened or locked.
    #[error("{doing} the data directory {directory}")]
    Directory {
        /// What was being done.
        doing: &'static str,
        /// The data directory.
        directory: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// The file was written by a newer version.
    #[error(
        "{path} has format {found}, this version reads up to {FORMAT}; run the version that wrote it, or a newer one. Nothing was changed"
    )]
    NewerFormat {
        /// The data file.
        path: PathBuf,
        /// The format it has.
        found: u64,
    },
    /// The file is a redb file, but not one of ours.
    #[error("{path} has no {record} record, so it is not a store's data file; move it away, or restore it from a backup")]
    NotAStore {
        /// The data file.
        path: PathBuf,
        /// What is missing.
        record: &'static str,
    },
    /// The file cannot be made, read or repaired.
    #[error("{doing} the data file {path}; if the disk is healthy, restore the file from a backup")]
    File {
        /// What was being done.
        doing: &'static str,
        /// The data file.
        path: PathBuf,
        /// The engine's reason.
        source: Box<redb::Error>,
    },
    /// The writer's thread cannot be started.
    #[error("starting the writer of the store")]
    Writer {
        /// The operating system's reason.
        source: std::io::Error,
    },
}

/// A store in a directory of this machine.
#[derive(Debug)]
pub struct Embedded {
    engine: Engine,
}

impl Embedded {
    /// Opens the store in `directory`, making both if they do not exist. Blocks
    /// on the disk: call it at start-up, or from `spawn_blocking`.
    ///
    /// The oldest revision that can be read is the one the store was at when it
    /// was closed: history is not kept across a restart.
    ///
    /// # Errors
    ///
    /// [`OpenError`]; the files are as they were.
    pub fn open(directory: &Path, options: Options) -> Result<Self, OpenError> {
        let lock = lock(directory)?;
        let (file, contents) = DataFile::open(directory, lock, options)?;
        let engine = Engine::start(file, contents.live, contents.newest, options.limits).map_err(|source| OpenError::Writer { source })?;
        Ok(Self { engine })
    }

    /// Commits what is queued, ends all watches, closes the file and unlocks
    /// the directory. Dropping the store does the same in the background.
    ///
    /// # Errors
    ///
    /// [`StoreError::Closed`] if it is closed already, [`StoreError::Storage`]
    /// if the file could not be closed cleanly; it is then checked when it is
    /// opened next.
    pub async fn close(&self) -> Result<(), StoreError> {
        self.engine.close().await
    }
}

/// Makes the directory if need be, and takes it.
fn lock(directory: &Path) -> Result<File, OpenError> {
    let failed = |doing| {
        move |source| OpenError::Directory {
            doing,
            directory: directory.to_owned(),
            source,
        }
    };
    // Only its owner looks inside: the store holds every Secret.
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(failed("making"))?;
    let lock = File::open(directory).map_err(failed("opening"))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse {
            directory: directory.to_owned(),
        }),
        Err(TryLockError::Error(source)) => Err(failed("locking")(source)),
    }
}

#[async_trait]
impl Store for Embedded {
    async fn get(&self, key: &str) -> Result<Option<Versioned>, StoreError> {
        self.engine.get(key).await
    }

    async fn range(&self, prefix: &str, at: Option<Revision>, page: Page) -> Result<Range, StoreError> {
        self.engine.range(prefix, at, page).await
    }

    async fn commit(&self, txn: Txn) -> Result<Revision, StoreError> {
        self.engine.commit(txn).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, StoreError> {
        self.engine.watch(prefix, after).await
    }

    async fn compact(&self, through: Revision) -> Result<(), StoreError> {
        self.engine.compact(through).await
    }

    fn revision(&self) -> Revision {
        self.engine.revision()
    }
}

#[cfg(test)]
mod tests;
