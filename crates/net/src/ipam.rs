//! Host-local address management: who has which address of the node's range.
//!
//! [`Book`] is the pure part. [`BookFile`] keeps it on disk: a change counts
//! only once it is durable, so an address is never given twice whatever
//! crashes when.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use api::Uid;
use runtime::NetError;
use serde::{Deserialize, Serialize};

use crate::Cidr;

/// Layout of the file; a newer one is refused.
const VERSION: u32 = 1;

const FILE_NAME: &str = "addresses.json";

/// Who has which address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Book {
    version: u32,
    range: Cidr,
    /// Index of the pod address to try first. Going round, rather than taking
    /// the lowest free one, leaves a freed address alone for as long as
    /// possible: clients of its last pod may still hold connections to it.
    next: u32,
    pods: BTreeMap<Uid, Ipv4Addr>,
    /// `net.ipv4.ip_forward` before we switched it on; `None` if it was on.
    ip_forward_before: Option<String>,
}

/// No address of the range is free.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Exhausted;

impl Book {
    pub(crate) fn new(range: Cidr) -> Self {
        Self {
            version: VERSION,
            range,
            next: 0,
            pods: BTreeMap::new(),
            ip_forward_before: None,
        }
    }

    /// The pod's address: the one it has, or the next free one.
    pub(crate) fn assign(&mut self, pod: &Uid) -> Result<Ipv4Addr, Exhausted> {
        if let Some(address) = self.pods.get(pod) {
            return Ok(*address);
        }
        let taken: BTreeSet<Ipv4Addr> = self.pods.values().copied().collect();
        let count = self.range.pods();
        let start = self.next % count;
        let index = (0..count)
            .map(|step| (start + step) % count)
            .find(|index| !taken.contains(&self.range.pod(*index)))
            .ok_or(Exhausted)?;
        let address = self.range.pod(index);
        self.next = (index + 1) % count;
        self.pods.insert(pod.clone(), address);
        Ok(address)
    }

    /// Frees the pod's address; gives the one it had.
    pub(crate) fn release(&mut self, pod: &Uid) -> Option<Ipv4Addr> {
        self.pods.remove(pod)
    }

    #[cfg(test)]
    pub(crate) fn address(&self, pod: &Uid) -> Option<Ipv4Addr> {
        self.pods.get(pod).copied()
    }

    pub(crate) fn pods(&self) -> impl Iterator<Item = &Uid> {
        self.pods.keys()
    }

    pub(crate) fn len(&self) -> usize {
        self.pods.len()
    }

    pub(crate) fn ip_forward_before(&self) -> Option<&str> {
        self.ip_forward_before.as_deref()
    }

    pub(crate) fn set_ip_forward_before(&mut self, value: Option<String>) {
        self.ip_forward_before = value;
    }

    /// What is wrong with a book that was read, if anything is.
    fn fault(&self) -> Option<String> {
        if self.version != VERSION {
            return Some(format!("it has version {}, this program knows {VERSION}", self.version));
        }
        let mut seen = BTreeSet::new();
        self.pods.values().find_map(|address| {
            if self.range.pod_index(*address).is_none() {
                Some(format!("{address} is no pod address of {}", self.range))
            } else if seen.insert(*address) {
                None
            } else {
                Some(format!("{address} is given to two pods"))
            }
        })
    }
}

/// A [`Book`] and the file it lives in.
pub(crate) struct BookFile {
    path: PathBuf,
    book: Book,
}

impl BookFile {
    /// Reads the book, or begins one.
    ///
    /// # Errors
    /// When it is damaged, or is of another range and pods still have
    /// addresses of that.
    pub(crate) fn open(directory: &Path, range: Cidr) -> Result<Self, NetError> {
        fs::create_dir_all(directory).map_err(|source| NetError::Io {
            doing: format!("making {}", directory.display()),
            source,
        })?;
        let path = directory.join(FILE_NAME);
        let book = match fs::read(&path) {
            Ok(bytes) => Self::checked(&path, &bytes, range)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Book::new(range),
            Err(source) => {
                return Err(NetError::Io {
                    doing: format!("reading {}", path.display()),
                    source,
                });
            }
        };
        Ok(Self { path, book })
    }

    fn checked(path: &Path, bytes: &[u8], range: Cidr) -> Result<Book, NetError> {
        let damaged = |why: String| NetError::Io {
            doing: format!(
                "reading the address book {}; if no pod of this node runs, remove the file",
                path.display()
            ),
            source: io::Error::new(io::ErrorKind::InvalidData, why),
        };
        let book: Book = serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string()))?;
        if let Some(why) = book.fault() {
            return Err(damaged(why));
        }
        if book.range == range {
            return Ok(book);
        }
        if book.pods.is_empty() {
            return Ok(Book {
                ip_forward_before: book.ip_forward_before,
                ..Book::new(range)
            });
        }
        let count = book.pods.len();
        Err(NetError::Io {
            doing: format!("changing the pod range from {} to {range}", book.range),
            source: io::Error::new(
                io::ErrorKind::AddrInUse,
                format!("{count} pods still have addresses of the old one: remove them first, or keep the old range"),
            ),
        })
    }

    pub(crate) fn book(&self) -> &Book {
        &self.book
    }

    /// Changes the book: on disk first, and in memory only if that held.
    pub(crate) fn change<T>(&mut self, change: impl FnOnce(&mut Book) -> T) -> Result<T, NetError> {
        let mut book = self.book.clone();
        let outcome = change(&mut book);
        if book != self.book {
            self.write(&book).map_err(|source| NetError::Io {
                doing: format!("writing {}", self.path.display()),
                source,
            })?;
            self.book = book;
        }
        Ok(outcome)
    }

    /// Removes the file; the book is empty from then on.
    pub(crate) fn remove(&mut self) -> Result<(), NetError> {
        remove(&self.path)?;
        self.book = Book::new(self.book.range);
        Ok(())
    }

    /// Removes the file of a book that cannot be read.
    pub(crate) fn remove_at(directory: &Path) -> Result<(), NetError> {
        remove(&directory.join(FILE_NAME))
    }

    fn write(&self, book: &Book) -> io::Result<()> {
        let fresh = self.path.with_extension("json.new");
        let mut file = File::create(&fresh)?;
        file.write_all(&serde_json::to_vec(book)?)?;
        file.sync_data()?;
        fs::rename(&fresh, &self.path)?;
        // The directory is not synced: at worst a power loss brings back the
        // book before this change, and with it not one pod.
        Ok(())
    }
}

fn remove(path: &Path) -> Result<(), NetError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(NetError::Io {
            doing: format!("removing {}", path.display()),
            source,
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
