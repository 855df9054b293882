//! Work in progress: temporary directories and leases of one process.
//!
//! Every open store has a directory of its own under `work/`, whose `lock` file
//! it holds locked (flock) for as long as it lives. A directory whose lock is free
//! belongs to a process that is gone, and is removed by the next one to open
//! the store. A lease is a file in that directory naming layers that must not
//! be collected though no image refers to them yet.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::error::ImageError;
use super::reference::Digest;

/// Directories tried before giving up on finding an unused name.
const NAMES_MAX: u32 = 10_000;

/// This process's work directory; removed with its content when dropped.
#[derive(Debug)]
pub(crate) struct Scratch {
    dir: PathBuf,
    next: AtomicU64,
    // Held, not read: closing it frees the lock.
    _lock: File,
}

impl Scratch {
    /// Makes one under `work`. The caller holds the store's lock, so that no
    /// other process takes the directory for an abandoned one before it is locked.
    pub(crate) fn create(work: &Path) -> Result<Self, ImageError> {
        for n in 0..NAMES_MAX {
            let dir = work.join(format!("{}-{n}", std::process::id()));
            match fs::create_dir(&dir) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(ImageError::io(format!("make {}", dir.display()), error)),
            }
            let doing = || format!("lock {}", dir.join("lock").display());
            let lock = File::create(dir.join("lock")).map_err(|error| ImageError::io(doing(), error))?;
            lock.try_lock().map_err(|error| ImageError::io(doing(), error.into()))?;
            return Ok(Self {
                dir,
                next: AtomicU64::new(0),
                _lock: lock,
            });
        }
        let full = io::Error::other(format!("{NAMES_MAX} work directories of this process id exist already"));
        Err(ImageError::io(format!("make a directory in {}", work.display()), full))
    }

    /// A path in the work directory that nothing else uses. It goes with the
    /// returned value, unless it was renamed away before.
    pub(crate) fn path(self: &Arc<Self>, what: &str) -> TempPath {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        TempPath {
            path: self.dir.join(format!("{what}-{n}")),
            _within: Arc::clone(self),
        }
    }

    /// Protects layers from collection while the returned value lives. The
    /// caller holds the store's lock.
    pub(crate) fn lease(self: &Arc<Self>, layers: &[Digest]) -> Result<TempPath, ImageError> {
        let lease = self.path("lease");
        let text: Vec<&str> = layers.iter().map(Digest::as_str).collect();
        fs::write(&lease.path, text.join("\n")).map_err(|error| ImageError::io(format!("write {}", lease.path.display()), error))?;
        Ok(lease)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        remove_tree(&self.dir);
    }
}

/// A file or directory that is removed when dropped.
#[derive(Debug)]
pub(crate) struct TempPath {
    path: PathBuf,
    // Keeps the work directory, and its lock, until the last path in it is gone.
    _within: Arc<Scratch>,
}

impl TempPath {
    pub(crate) fn as_path(&self) -> &Path {
        &self.path
    }
}

impl Drop for TempPath {
    fn drop(&mut self) {
        remove_tree(&self.path);
    }
}

/// Removes the directories of processes that are gone. The caller holds the
/// store's lock.
pub(crate) fn remove_abandoned(work: &Path) -> Result<(), ImageError> {
    for dir in list(work)? {
        if !is_alive(&dir) {
            remove_tree(&dir);
        }
    }
    Ok(())
}

/// Layers leased by living processes. The caller holds the store's lock.
pub(crate) fn leased(work: &Path) -> Result<Vec<Digest>, ImageError> {
    let mut layers = Vec::new();
    for dir in list(work)? {
        if !is_alive(&dir) {
            continue;
        }
        for file in list(&dir)? {
            if !file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("lease-")) {
                continue;
            }
            match fs::read_to_string(&file) {
                Ok(text) => layers.extend(text.lines().filter_map(|line| line.parse().ok())),
                // Its owner dropped it just now.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(ImageError::io(format!("read {}", file.display()), error)),
            }
        }
    }
    Ok(layers)
}

/// The entries of a directory; none if it has gone.
pub(crate) fn list(dir: &Path) -> Result<Vec<PathBuf>, ImageError> {
    let read = || -> io::Result<Vec<PathBuf>> { fs::read_dir(dir)?.map(|entry| entry.map(|entry| entry.path())).collect() };
    match read() {
        Ok(paths) => Ok(paths),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(ImageError::io(format!("list {}", dir.display()), error)),
    }
}

fn is_alive(dir: &Path) -> bool {
    match File::open(dir.join("lock")) {
        Ok(lock) => matches!(lock.try_lock(), Err(TryLockError::WouldBlock)),
        Err(_) => false,
    }
}

/// Removes whatever is at `path`. A failure only leaves litter, which the next
/// open removes, so it is logged and not returned.
pub(crate) fn remove_tree(path: &Path) {
    let outcome = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return,
        Err(error) => Err(error),
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
    };
    if let Err(error) = outcome
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "cannot remove temporary files; they stay until the next start");
    }
}
