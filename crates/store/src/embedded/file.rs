//! The data file: redb as the engine's [`Journal`].
//!
//! Two tables: `entries` holds the live keys, `meta` the format and the newest
//! revision. A batch is one redb transaction: one sync.
//!
//! # When a commit fails
//!
//! redb refuses everything after an I/O error until the file is opened again,
//! and whether the failed transaction is found there depends on how far it got.
//! So the file is opened again and its revision read: if the batch did land, it
//! is taken back (no one has seen it) before anything else is committed. A
//! process that dies in between may find the batch committed: its clients were
//! told of an error, not that it did not happen.
//!
//! A failed *sync* is different: the kernel may have dropped the pages it could
//! not write, and read them back from memory as if all were well (the "fsync
//! errors are unsafe to retry" lesson of PostgreSQL, 2018). Nothing written
//! since can be trusted, so such a file takes no more commits until a restart.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Bound;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use redb::backends::FileBackend;
use redb::{BackendError, Database, DatabaseError, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition, TableError};

use super::{FILE_NAME, FORMAT, OpenError, Options};
use crate::engine::Journal;
use crate::engine::batch::Batch;
use crate::{Key, Revision, StoreError, Versioned};

/// Created, modified, value.
const ENTRIES: TableDefinition<'_, &str, (u64, u64, &[u8])> = TableDefinition::new("entries");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const META_FORMAT: &str = "format";
const META_REVISION: &str = "revision";

/// The empty store's revision, as etcd's.
const FIRST: Revision = Revision(1);

/// What the file held when it was opened.
pub(super) struct Contents {
    pub(super) live: BTreeMap<Key, Versioned>,
    pub(super) newest: Revision,
}

/// The open data file.
pub(super) struct DataFile {
    path: PathBuf,
    options: Options,
    health: Arc<Health>,
    /// `None` after a failure, until it is opened again.
    database: Option<Database>,
    /// The batch whose fate is unknown since its commit failed.
    unsettled: Option<Batch>,
    /// Held as long as the file is open.
    lock: Option<File>,
}

/// What the disk has done to us so far.
#[derive(Debug, Default)]
pub(super) struct Health {
    sync_failed: AtomicBool,
    #[cfg(test)]
    pub(super) faults: tests::Faults,
}

impl DataFile {
    /// Opens or makes the file of a locked directory.
    pub(super) fn open(directory: &Path, lock: File, options: Options) -> Result<(Self, Contents), OpenError> {
        let path = directory.join(FILE_NAME);
        let health = Arc::new(Health::default());
        let exists = path.try_exists().map_err(|source| failed("finding", &path)(source.into()))?;
        if exists {
            refuse_newer(&path, &options)?;
        } else {
            create(&path, &lock, &options)?;
        }
        let database = open(&path, &options, &health).map_err(|error| failed("opening", &path)(error.into()))?;
        let contents = load(&database, &path)?;
        Ok((
            Self {
                path,
                options,
                health,
                database: Some(database),
                unsettled: None,
                lock: Some(lock),
            },
            contents,
        ))
    }

    /// The database, opened again and settled if the last commit failed.
    fn database(&mut self) -> Result<&Database, redb::Error> {
        if self.database.is_none() {
            let database = open(&self.path, &self.options, &self.health)?;
            if let Some(batch) = self.unsettled.take() {
                if let Err(error) = self.settle(&database, &batch) {
                    self.unsettled = Some(batch);
                    return Err(error);
                }
                tracing::info!(path = %self.path.display(), revision = %batch.from, "the data file was opened again after a failed commit");
            }
            self.database = Some(database);
        }
        Ok(self.database.as_ref().expect("it was put there a line ago, or was there before"))
    }

    /// Takes a batch back that failed and landed nevertheless.
    fn settle(&self, database: &Database, batch: &Batch) -> Result<(), redb::Error> {
        let landed = database
            .begin_read()?
            .open_table(META)?
            .get(META_REVISION)?
            .map(|revision| revision.value());
        if landed == Some(batch.from.0) {
            return Ok(());
        }
        store(database, &batch.clone().reversed(), self.options.quick_repair)
    }
}

impl Journal for DataFile {
    fn commit(&mut self, batch: &Batch) -> Result<(), StoreError> {
        if self.health.sync_failed.load(Ordering::Relaxed) {
            return Err(StoreError::Storage {
                doing: "committing a transaction",
                cause: format!(
                    "an earlier sync of {} failed, so what is on the disk is uncertain; check the disk, then restart lifepod",
                    self.path.display()
                ),
            });
        }
        let quick_repair = self.options.quick_repair;
        let outcome = match self.database() {
            Ok(database) => store(database, batch, quick_repair).inspect_err(|_| {
                self.database = None;
                self.unsettled = Some(batch.clone());
                // Now, so that a restart does not find it; the next commit
                // tries again if this fails.
                if !self.health.sync_failed.load(Ordering::Relaxed) {
                    drop(self.database());
                }
            }),
            Err(error) => Err(error),
        };
        outcome.map_err(|error| self.refused("committing a transaction", &error))
    }

    fn close(&mut self) -> Result<(), StoreError> {
        let outcome = match self.database.take() {
            Some(database) => database
                .close()
                .map_err(|error| self.refused("closing the data file", &error.into())),
            None => Ok(()),
        };
        self.lock = None;
        outcome
    }
}

impl DataFile {
    fn refused(&self, doing: &'static str, error: &redb::Error) -> StoreError {
        StoreError::Storage {
            doing,
            cause: format!("{}: {error}", self.path.display()),
        }
    }
}

/// One durable redb transaction.
fn store(database: &Database, batch: &Batch, quick_repair: bool) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_quick_repair(quick_repair);
    {
        let mut entries = transaction.open_table(ENTRIES)?;
        for (key, change) in &batch.changes {
            match &change.after {
                Some(value) => entries.insert(key.as_str(), (value.created.0, value.modified.0, &value.value[..]))?,
                None => entries.remove(key.as_str())?,
            };
        }
        transaction.open_table(META)?.insert(META_REVISION, batch.to.0)?;
    }
    Ok(transaction.commit()?)
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(redb::Error) -> OpenError {
    move |source| OpenError::File {
        doing,
        path: path.to_owned(),
        source: Box::new(source),
    }
}

/// Makes a new, empty store. It gets its name once it is complete, so that
/// there is never half a store of that name.
fn create(path: &Path, directory: &File, options: &Options) -> Result<(), OpenError> {
    let draft = path.with_extension("redb.new");
    let failed_io = |doing, path| move |source: io::Error| failed(doing, path)(source.into());
    match std::fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed_io("removing", &draft)(error)),
        Ok(()) | Err(_) => {}
    }
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&draft)
        .map_err(failed_io("making", &draft))?;
    initialise(file, options).map_err(failed("making", &draft))?;
    std::fs::rename(&draft, path).map_err(failed_io("naming", path))?;
    directory.sync_all().map_err(failed_io("making sure of the name of", path))
}

fn initialise(file: File, options: &Options) -> Result<(), redb::Error> {
    let database = Database::builder()
        .set_cache_size(options.cache_bytes)
        .create_with_backend(FileBackend::new(file)?)?;
    let transaction = database.begin_write()?;
    {
        transaction.open_table(ENTRIES)?;
        let mut meta = transaction.open_table(META)?;
        meta.insert(META_FORMAT, FORMAT)?;
        meta.insert(META_REVISION, FIRST.0)?;
    }
    transaction.commit()?;
    Ok(database.close()?)
}

/// Looks at the format before anything can write to the file. A file that needs
/// repair cannot be looked at like this; redb's repair, which leaves our tables
/// alone, then comes before [`load`] looks.
fn refuse_newer(path: &Path, options: &Options) -> Result<(), OpenError> {
    match redb::Builder::new().set_cache_size(options.cache_bytes).open_read_only(path) {
        Ok(database) => {
            let found = format(&database).map_err(failed("reading the format of", path))?;
            database.close().map_err(|error| failed("closing", path)(error.into()))?;
            accept(found, path)
        }
        Err(DatabaseError::RepairAborted) => Ok(()),
        Err(error) => Err(failed("opening", path)(error.into())),
    }
}

fn format(database: &impl ReadableDatabase) -> Result<Option<u64>, redb::Error> {
    match database.begin_read()?.open_table(META) {
        Ok(meta) => Ok(meta.get(META_FORMAT)?.map(|format| format.value())),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn accept(found: Option<u64>, path: &Path) -> Result<(), OpenError> {
    match found {
        None => Err(OpenError::NotAStore {
            path: path.to_owned(),
            record: META_FORMAT,
        }),
        Some(found) if found > FORMAT => Err(OpenError::NewerFormat {
            path: path.to_owned(),
            found,
        }),
        Some(_) => Ok(()),
    }
}

fn open(path: &Path, options: &Options, health: &Arc<Health>) -> Result<Database, DatabaseError> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let backend = Disk {
        file: FileBackend::new(file)?,
        health: Arc::clone(health),
    };
    Database::builder().set_cache_size(options.cache_bytes).create_with_backend(backend)
}

fn load(database: &Database, path: &Path) -> Result<Contents, OpenError> {
    accept(format(database).map_err(failed("reading the format of", path))?, path)?;
    let (live, newest) = load_tables(database).map_err(failed("reading", path))?;
    let newest = newest.ok_or_else(|| OpenError::NotAStore {
        path: path.to_owned(),
        record: META_REVISION,
    })?;
    Ok(Contents { live, newest })
}

type Tables = (BTreeMap<Key, Versioned>, Option<Revision>);

fn load_tables(database: &Database) -> Result<Tables, redb::Error> {
    let transaction = database.begin_read()?;
    let newest = transaction
        .open_table(META)?
        .get(META_REVISION)?
        .map(|revision| Revision(revision.value()));
    let mut live = BTreeMap::new();
    for entry in transaction.open_table(ENTRIES)?.iter()? {
        let (key, value) = entry?;
        let (created, modified, bytes) = value.value();
        let value = Versioned {
            value: Bytes::copy_from_slice(bytes),
            created: Revision(created),
            modified: Revision(modified),
        };
        live.insert(key.value().to_owned(), value);
    }
    Ok((live, newest))
}

/// redb's own file backend, with a memory for failed syncs.
#[derive(Debug)]
struct Disk {
    file: FileBackend,
    health: Arc<Health>,
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        let synced = self.file.sync_data();
        #[cfg(test)]
        let synced = synced.and_then(|()| self.health.faults.sync());
        synced.inspect_err(|_| self.health.sync_failed.store(true, Ordering::Relaxed))
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        #[cfg(test)]
        self.health.faults.write()?;
        self.file.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.query_lock_range(start, end)
    }
}

#[cfg(test)]
pub(super) mod tests;
