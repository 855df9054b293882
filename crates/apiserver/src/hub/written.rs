//! Versions on their way into the store. Who wrote one has it decoded, and who
//! reads the store's news of it would decode it again: whichever of the two
//! learns first that it is stored makes its entry, and leaves it to the other.
//!
//! A version is known by where its bytes are: the store hands on what it was
//! given. Where it does not (values that are sealed, a store on another host)
//! nothing is found here, and the news are decoded.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use api::Object;
use bytes::Bytes;

use super::Entry;

/// The versions, by the address of their bytes, which they keep alive.
#[derive(Debug, Default)]
pub(super) struct Written(Mutex<HashMap<usize, Version>>);

#[derive(Debug)]
enum Version {
    /// Not known to be stored.
    Pending(Box<Object>, Bytes),
    /// The news were first. Taken by the writer, or dropped when that ends.
    ForWriter(Arc<Entry>),
    /// The writer was first. Taken by the news, or dropped when newer ones
    /// have come.
    ForNews(Arc<Entry>),
}

fn address(stored: &Bytes) -> usize {
    stored.as_ptr() as usize
}

impl Written {
    // Whoever held the lock only moved values.
    fn versions(&self) -> MutexGuard<'_, HashMap<usize, Version>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The entry of what the store says is stored now, if its writer is known.
    pub(super) fn news(&self, key: &str, stored: &Bytes, revision: u64) -> Option<Arc<Entry>> {
        let mut versions = self.versions();
        match versions.remove(&address(stored))? {
            Version::Pending(object, stored) => {
                let entry = Entry::new(key, *object, stored, revision);
                versions.insert(address(&entry.stored), Version::ForWriter(Arc::clone(&entry)));
                Some(entry)
            }
            Version::ForWriter(entry) | Version::ForNews(entry) => Some(entry),
        }
    }

    /// All news up to this revision have come: nobody asks for older ones.
    pub(super) fn reached(&self, revision: u64) {
        self.versions()
            .retain(|_, version| !matches!(version, Version::ForNews(entry) if entry.revision <= revision));
    }

    /// How many versions are on their way.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.versions().len()
    }
}

/// A version that its writer is about to store. Dropped, it is forgotten.
#[derive(Debug)]
pub(crate) struct Expected {
    written: Arc<Written>,
    stored: Bytes,
}

impl Expected {
    pub(super) fn new(written: &Arc<Written>, object: Object, stored: Bytes) -> Self {
        let version = Version::Pending(Box::new(object), stored.clone());
        written.versions().insert(address(&stored), version);
        Self {
            written: Arc::clone(written),
            stored,
        }
    }

    fn take(&self, versions: &mut HashMap<usize, Version>) -> Version {
        let version = versions.remove(&address(&self.stored));
        version.expect("only this guard takes a version away for good before it was stored")
    }

    /// The version was stored, with this revision.
    pub(crate) fn stored(self, key: &str, revision: u64) -> Arc<Entry> {
        let mut versions = self.written.versions();
        match self.take(&mut versions) {
            Version::Pending(object, stored) => {
                let entry = Entry::new(key, *object, stored, revision);
                versions.insert(address(&self.stored), Version::ForNews(Arc::clone(&entry)));
                entry
            }
            Version::ForWriter(entry) | Version::ForNews(entry) => entry,
        }
    }

    /// The version was not stored: the object, to try again.
    pub(crate) fn withdraw(self) -> Box<Object> {
        let mut versions = self.written.versions();
        match self.take(&mut versions) {
            Version::Pending(object, _) => object,
            // A store that fails after it told of its success.
            Version::ForWriter(entry) | Version::ForNews(entry) => Box::new(entry.object.as_ref().clone()),
        }
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        let mut versions = self.written.versions();
        if !matches!(versions.get(&address(&self.stored)), Some(Version::ForNews(_))) {
            versions.remove(&address(&self.stored));
        }
    }
}
