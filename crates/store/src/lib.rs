//! Revisioned key-value storage with transactions and watch.
//!
//! Reading order: this file (what a revision is and what the [`Store`] port
//! promises), `engine.rs` (one writer, group commit), `engine/batch.rs` (what a
//! batch of transactions does, a pure function), `engine/state.rs` (live keys,
//! history, reads at a revision), `watch.rs` (how a change reaches watchers),
//! `embedded.rs` (opening the data directory), `embedded/file.rs` (redb).
//! `contract.rs` is the suite every backend passes.
//!
//! This crate deliberately does not know Kubernetes: keys are text, values are
//! bytes. It does not know what a resource, a namespace or an API version is.
//!
//! # Revisions
//!
//! One counter for the whole store. Every committed transaction takes the next
//! number; every key it changes carries that number. A transaction that changes
//! nothing (no operations, or only removals of keys that do not exist) takes no
//! number, as in etcd. The empty store is at revision 1, as etcd's is.

#[cfg(any(test, feature = "contract"))]
pub mod contract;
pub mod embedded;
pub mod engine;
mod watch;

use async_trait::async_trait;
use bytes::Bytes;

pub use embedded::{Embedded, OpenError, Options};

/// The longest key the store takes, in bytes.
pub const KEY_BYTES_MAX: usize = 1_024;

/// The largest transaction the store takes: the bytes of all keys and values it
/// compares or writes. etcd's default (`--max-request-bytes`), so that data can
/// move to it.
pub const TXN_BYTES_MAX: usize = 1_572_864;

/// The most comparisons, and the most operations, of one transaction. etcd's
/// default (`--max-txn-ops`).
pub const TXN_OPS_MAX: usize = 128;

/// A point in the store's history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

impl std::fmt::Display for Revision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// A key; compared byte by byte. At most 1,024 bytes.
pub type Key = String;

/// A value and when it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned {
    /// The stored bytes.
    pub value: Bytes,
    /// Revision that created the key (since it last did not exist).
    pub created: Revision,
    /// Revision that last changed it.
    pub modified: Revision,
}

/// Which part of a range to return.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// Start strictly after this key.
    pub after: Option<Key>,
    /// At most this many entries; `None` is all.
    pub limit: Option<usize>,
}

/// A consistent page of a range.
#[derive(Clone, Debug)]
pub struct Range {
    /// The revision the page was read at.
    pub revision: Revision,
    /// Entries in key order.
    pub entries: Vec<(Key, Versioned)>,
    /// Whether entries after the last one exist.
    pub more: bool,
    /// How many entries exist after the last one returned.
    pub remaining: usize,
}

/// A comparison a transaction depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compare {
    /// The key does not exist.
    Absent(Key),
    /// The key was last modified at exactly this revision.
    ModifiedAt(Key, Revision),
    /// The key exists.
    Present(Key),
}

/// A change a transaction makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Create or replace. The embedded store keeps these very bytes, for as
    /// long as they are stored, and hands them on: no small part of a large
    /// buffer, and no room to spare.
    Put(Key, Bytes),
    /// Remove; nothing happens if it does not exist.
    Delete(Key),
}

/// An atomic transaction: all comparisons hold, or nothing happens. Each key
/// may be changed at most once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// What must hold.
    pub compare: Vec<Compare>,
    /// What then changes.
    pub ops: Vec<Op>,
}

/// One change, as a watch delivers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Revision of the change.
    pub revision: Revision,
    /// Key that changed.
    pub key: Key,
    /// The new value; `None` for a removal.
    pub value: Option<Versioned>,
    /// The value before; `None` for a creation.
    pub previous: Option<Versioned>,
}

/// What a watch delivers: changes in order, none missing, none twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchMessage {
    /// All changes of one or more whole transactions, in revision order.
    Events(Vec<Event>),
    /// Nothing of this prefix changed up to and including this revision.
    Progress(Revision),
}

/// A running watch. Dropping it ends it.
pub type Watch = futures::stream::BoxStream<'static, Result<WatchMessage, StoreError>>;

/// Why the store could not do as asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// A comparison of the transaction did not hold.
    #[error("a comparison of the transaction does not hold for key {key}")]
    Conflict {
        /// The key of the first comparison that failed.
        key: Key,
    },
    /// The revision asked for has been compacted away.
    #[error("revision {asked} has been compacted; the oldest kept is {oldest}")]
    Compacted {
        /// What was asked for.
        asked: Revision,
        /// The oldest revision that can still be read.
        oldest: Revision,
    },
    /// The revision asked for does not exist yet.
    #[error("revision {asked} is in the future; the newest is {newest}")]
    Future {
        /// What was asked for.
        asked: Revision,
        /// The newest revision.
        newest: Revision,
    },
    /// A watcher did not read fast enough and was dropped.
    #[error("the watcher fell behind at revision {at} and was dropped")]
    Lagged {
        /// The last revision that was delivered.
        at: Revision,
    },
    /// A key or value is larger than the store takes, or a key is changed twice.
    #[error("the transaction cannot be stored: {0}")]
    Unstorable(String),
    /// The disk refused; nothing of the transaction is visible.
    #[error("storage failed while {doing}: {cause}")]
    Storage {
        /// What was being done.
        doing: &'static str,
        /// The engine's own words.
        cause: String,
    },
    /// The store is shutting down.
    #[error("the store is closed")]
    Closed,
}

/// Revisioned, ordered, transactional key-value storage. Values are opaque.
#[async_trait]
pub trait Store: Send + Sync {
    /// The newest value of a key.
    async fn get(&self, key: &str) -> Result<Option<Versioned>, StoreError>;

    /// A consistent page of all keys that start with `prefix`, at `at` or at
    /// the newest revision.
    async fn range(&self, prefix: &str, at: Option<Revision>, page: Page) -> Result<Range, StoreError>;

    /// All or nothing, durable when it returns. Fails with
    /// [`StoreError::Conflict`] when a comparison does not hold. Returns the
    /// revision the transaction took, or the newest one if it changed nothing.
    ///
    /// A call that is dropped before it returns may or may not have committed.
    async fn commit(&self, txn: Txn) -> Result<Revision, StoreError>;

    /// Every change of keys that start with `prefix` after `after`, in order,
    /// none missing; [`StoreError::Compacted`] if that is too old and
    /// [`StoreError::Future`] if it does not exist yet. The stream ends after
    /// its first error.
    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, StoreError>;

    /// Forgets history up to and including `through`: reads at and watches
    /// after an older revision fail with [`StoreError::Compacted`]. Reading at
    /// and watching after `through` itself still work. Compacting what is
    /// already compacted does nothing.
    async fn compact(&self, through: Revision) -> Result<(), StoreError>;

    /// The newest committed revision.
    fn revision(&self) -> Revision;
}
