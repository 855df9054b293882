//! What is on disk, and how it stays whole.
//!
//! ```text
//! index.json            names to images, images to layers; replaced as a whole
//! lock                  held (flock) around every change, by any process
//! blobs/sha256/HEX      manifests and configurations
//! layers/HEX/fs         one unpacked layer, named by its chain id
//! layers/HEX/size       bytes in it
//! downloads/HEX         compressed layers, perhaps in part; survive a failed pull
//! work/PID-N/           work in progress of one process, see `scratch`
//! ```
//!
//! A layer is unpacked under `work/` and renamed into place; an image exists
//! once `index.json` names it, which happens after everything it needs has
//! reached the disk. Layers no image names are litter of a crash and are
//! removed at the next open, unless a living process has leased them.

mod index;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};

pub(crate) use index::{Index, Key, Record};

use super::StoredImage;
use super::error::ImageError;
use super::manifest::Configuration;
use super::reference::{Digest, Reference};
use super::scratch::{self, Scratch, TempPath};
use super::unpack::Limits;

/// The longest wait for another process's change.
const LOCK_WAIT: Duration = Duration::from_secs(30);
/// Downloads untouched for this long are given up.
const DOWNLOAD_KEEP: Duration = Duration::from_secs(24 * 3600);

/// The images of a node. Cheap to clone; clones share one cache.
#[derive(Clone, Debug)]
pub struct ImageStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    limits: Limits,
    scratch: Arc<Scratch>,
    cache: RwLock<Arc<Snapshot>>,
}

/// `index.json` as last read, and the images looked up in it since.
#[derive(Debug, Default)]
struct Snapshot {
    stamp: Option<Stamp>,
    index: Index,
    images: Mutex<HashMap<Digest, StoredImage>>,
}

/// Tells one version of a file from the next: it is always replaced, never rewritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    modified_s: i64,
    modified_ns: i64,
    size: u64,
}

/// What a removal took away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Names that are gone.
    pub names: Vec<String>,
    /// The image, if that was its last name.
    pub image_id: Option<String>,
    /// Bytes of the layers that went with it.
    pub freed_bytes: u64,
}

impl ImageStore {
    /// Opens the store in `dir`, making it if need be, and removes what a
    /// crash left behind.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, ImageError> {
        Self::open_with(dir, Limits::default())
    }

    /// As [`open`](Self::open), with limits on what layers may contain.
    pub fn open_with(dir: impl Into<PathBuf>, limits: Limits) -> Result<Self, ImageError> {
        let root = dir.into();
        for sub in ["", "blobs/sha256", "layers", "downloads", "work"] {
            let path = root.join(sub);
            // Layers hold set-user-id files: no one but the owner may come by here.
            let mut builder = fs::DirBuilder::new();
            builder.recursive(true).mode(0o700);
            builder
                .create(&path)
                .map_err(|error| ImageError::io(format!("make {}", path.display()), error))?;
        }
        let lock = lock(&root)?;
        let work = root.join("work");
        scratch::remove_abandoned(&work)?;
        let scratch = Arc::new(Scratch::create(&work)?);
        let store = Self {
            inner: Arc::new(Inner {
                root,
                limits,
                scratch,
                cache: RwLock::default(),
            }),
        };
        let (index, _) = store.read_index()?;
        let litter = store.take_garbage(&index)?;
        store.forget_old_downloads()?;
        drop(lock);
        drop(litter);
        Ok(store)
    }

    /// The image a reference or an image id (`sha256:<hex>`) means, if it is
    /// here. Sees what other processes have added. One `stat` when nothing changed.
    pub fn lookup(&self, reference: &str) -> Result<Option<StoredImage>, ImageError> {
        let key = parse_key(reference)?;
        let snapshot = self.snapshot()?;
        let Some(id) = snapshot.index.find(&key) else { return Ok(None) };
        self.image(&snapshot, id).map(Some)
    }

    /// Every image, with and without names, by id.
    pub fn list(&self) -> Result<Vec<StoredImage>, ImageError> {
        let snapshot = self.snapshot()?;
        snapshot.index.images.keys().map(|id| self.image(&snapshot, id)).collect()
    }

    /// Takes a name away, or given an id the whole image, and removes what no
    /// other image needs. Layer directories in `in_use` stay until a later
    /// removal or [`collect`](Self::collect) no longer names them.
    pub fn remove(&self, reference: &str, in_use: &HashSet<PathBuf>) -> Result<Removed, ImageError> {
        let key = parse_key(reference)?;
        let lock = self.lock()?;
        let (mut index, _) = self.read_index()?;
        let Some((names, image)) = index.remove(&key) else {
            return Err(ImageError::NotFound(reference.to_owned()));
        };
        let litter = self.settle(index, true, in_use)?;
        drop(lock);
        Ok(Removed {
            names,
            image_id: image.map(String::from),
            freed_bytes: litter.bytes,
        })
    }

    /// Removes layers that no image and no directory in `in_use` needs, and
    /// returns their bytes. To be called once containers are known.
    pub fn collect(&self, in_use: &HashSet<PathBuf>) -> Result<u64, ImageError> {
        let lock = self.lock()?;
        let (index, _) = self.read_index()?;
        let litter = self.settle(index, false, in_use)?;
        drop(lock);
        Ok(litter.bytes)
    }

    /// Notes which layers without an image are in use, writes the index if it
    /// changed, and takes out the rest. The caller holds the lock.
    fn settle(&self, mut index: Index, mut changed: bool, in_use: &HashSet<PathBuf>) -> Result<Litter, ImageError> {
        let retained_before = std::mem::take(&mut index.retained);
        let needed: BTreeSet<Digest> = index.layers().into_iter().cloned().collect();
        for path in scratch::list(&self.layers_dir())? {
            if let Some(layer) = digest_of(&path)
                && in_use.contains(&path.join("fs"))
                && !needed.contains(&layer)
            {
                index.retained.insert(layer);
            }
        }
        changed |= index.retained != retained_before;
        if changed {
            self.write_index(&index)?;
        }
        self.take_garbage(&index)
    }

    // ---- for pulls and imports -------------------------------------------

    pub(crate) fn limits(&self) -> &Limits {
        &self.inner.limits
    }

    /// Unused path for temporary content on the store's file system.
    pub(crate) fn temp(&self, what: &str) -> TempPath {
        self.inner.scratch.path(what)
    }

    /// Where a compressed layer is collected.
    pub(crate) fn download_path(&self, digest: &Digest) -> PathBuf {
        self.inner.root.join("downloads").join(digest.hex())
    }

    /// Keeps layers from being collected while an image is being made of them.
    pub(crate) fn lease(&self, layers: &[Digest]) -> Result<TempPath, ImageError> {
        let _lock = self.lock()?;
        self.inner.scratch.lease(layers)
    }

    /// Whether a layer is unpacked.
    pub(crate) fn has_layer(&self, chain_id: &Digest) -> bool {
        self.layer_dir(chain_id).is_dir()
    }

    /// The directory overlayfs is given for a layer.
    pub(crate) fn layer_fs(&self, chain_id: &Digest) -> PathBuf {
        self.layer_dir(chain_id).join("fs")
    }

    /// Puts an unpacked layer (a directory with `fs` and `size`) in its place.
    /// Another process may have been faster; then ours goes.
    pub(crate) fn add_layer(&self, chain_id: &Digest, unpacked: &TempPath) -> Result<(), ImageError> {
        let to = self.layer_dir(chain_id);
        match fs::rename(unpacked.as_path(), &to) {
            Ok(()) => Ok(()),
            Err(_) if to.is_dir() => Ok(()),
            Err(error) => Err(ImageError::io(
                format!("rename {} to {}", unpacked.as_path().display(), to.display()),
                error,
            )),
        }
    }

    /// Makes an image of leased, unpacked layers visible under `names`;
    /// `fetched` if a registry gave it.
    pub(crate) fn add_image(
        &self,
        config: &[u8],
        manifests: &[&[u8]],
        layers: Vec<Digest>,
        names: &[Reference],
        fetched: bool,
    ) -> Result<StoredImage, ImageError> {
        let id = Digest::of(config);
        let lock = self.lock()?;
        let mut size_bytes = 0_u64;
        for layer in &layers {
            size_bytes = size_bytes.saturating_add(self.layer_size(layer)?);
        }
        self.write_blob(&id, config)?;
        for manifest in manifests {
            self.write_blob(&Digest::of(manifest), manifest)?;
        }
        // Everything the index is about to promise must be on disk before it.
        let dir = File::open(&self.inner.root).map_err(|error| ImageError::io(format!("open {}", self.inner.root.display()), error))?;
        rustix::fs::syncfs(&dir).map_err(|error| ImageError::io(format!("sync {}", self.inner.root.display()), error.into()))?;
        let (mut index, _) = self.read_index()?;
        let manifests = manifests.iter().map(|manifest| Digest::of(manifest)).collect();
        index.add(
            id.clone(),
            Record {
                layers,
                size_bytes,
                fetched,
                manifests,
            },
            names,
        );
        self.write_index(&index)?;
        drop(lock);
        let snapshot = self.snapshot()?;
        self.image(&snapshot, &id)
    }

    // ---- reading ----------------------------------------------------------

    fn snapshot(&self) -> Result<Arc<Snapshot>, ImageError> {
        let stamp = stamp(&self.index_path())?;
        {
            let cache = self.inner.cache.read().unwrap_or_else(PoisonError::into_inner);
            if cache.stamp == stamp {
                return Ok(Arc::clone(&cache));
            }
        }
        let (index, stamp) = self.read_index()?;
        let fresh = Arc::new(Snapshot {
            stamp,
            index,
            images: Mutex::default(),
        });
        *self.inner.cache.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&fresh);
        Ok(fresh)
    }

    fn image(&self, snapshot: &Snapshot, id: &Digest) -> Result<StoredImage, ImageError> {
        let mut images = snapshot.images.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(image) = images.get(id) {
            return Ok(image.clone());
        }
        let path = self.blob_path(id);
        let damaged = |reason: String| ImageError::Damaged {
            path: path.clone(),
            reason,
            remove: self.inner.root.clone(),
        };
        let record = snapshot.index.images.get(id).ok_or_else(|| ImageError::NotFound(id.to_string()))?;
        let bytes = fs::read(&path).map_err(|error| ImageError::io(format!("read {}", path.display()), error))?;
        if Digest::of(&bytes) != *id {
            return Err(damaged("its content does not have the digest it is named by".to_owned()));
        }
        let configuration = Configuration::parse(&bytes).map_err(damaged)?;
        let names = || {
            snapshot
                .index
                .names
                .iter()
                .filter(|(_, of)| *of == id)
                .map(|(name, _)| name.clone())
        };
        let image = StoredImage {
            image: crate::Image {
                id: id.to_string(),
                tags: names().filter(|name| !name.contains('@')).collect(),
                digests: names().filter(|name| name.contains('@')).collect(),
                size_bytes: record.size_bytes,
            },
            layers: record.layers.iter().map(|layer| self.layer_fs(layer)).collect(),
            config: configuration.config,
            fetched: record.fetched,
        };
        images.insert(id.clone(), image.clone());
        Ok(image)
    }

    fn read_index(&self) -> Result<(Index, Option<Stamp>), ImageError> {
        let path = self.index_path();
        let doing = || format!("read {}", path.display());
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((Index::default(), None)),
            Err(error) => return Err(ImageError::io(doing(), error)),
        };
        let metadata = file.metadata().map_err(|error| ImageError::io(doing(), error))?;
        let mut text = Vec::new();
        io::Read::read_to_end(&mut file, &mut text).map_err(|error| ImageError::io(doing(), error))?;
        let damaged = |error: serde_json::Error| ImageError::Damaged {
            path: path.clone(),
            reason: error.to_string(),
            remove: self.inner.root.clone(),
        };
        #[derive(serde::Deserialize)]
        struct Format {
            format: u32,
        }
        // The format first: the rest of a newer file need not be readable.
        let Format { format } = serde_json::from_slice(&text).map_err(damaged)?;
        if format > index::FORMAT {
            return Err(ImageError::Newer {
                path,
                found: format,
                known: index::FORMAT,
            });
        }
        let index = serde_json::from_slice(&text).map_err(damaged)?;
        Ok((index, Some(stamp_of(&metadata))))
    }

    fn layer_size(&self, chain_id: &Digest) -> Result<u64, ImageError> {
        let path = self.layer_dir(chain_id).join("size");
        let text = fs::read_to_string(&path).map_err(|error| ImageError::io(format!("read {}", path.display()), error))?;
        text.trim().parse().map_err(|_| ImageError::Damaged {
            path,
            reason: "it is not a number".to_owned(),
            remove: self.layer_dir(chain_id),
        })
    }

    // ---- changing; the caller holds the lock ----------------------------------

    fn write_index(&self, index: &Index) -> Result<(), ImageError> {
        let text = serde_json::to_vec_pretty(index).map_err(|error| ImageError::io("encode the image index", error.into()))?;
        self.replace(&self.index_path(), &text)
    }

    fn write_blob(&self, digest: &Digest, bytes: &[u8]) -> Result<(), ImageError> {
        let path = self.blob_path(digest);
        if fs::read(&path).is_ok_and(|found| found == bytes) {
            return Ok(());
        }
        self.replace(&path, bytes)
    }

    /// Replaces a file so that a reader, even after a power cut, finds the old
    /// content or the new.
    fn replace(&self, path: &Path, content: &[u8]) -> Result<(), ImageError> {
        let temp = self.temp("file");
        let write = || -> io::Result<()> {
            let mut file = File::create_new(temp.as_path())?;
            file.write_all(content)?;
            file.sync_all()?;
            fs::rename(temp.as_path(), path)?;
            let parent = path.parent().ok_or_else(|| io::Error::other("a file without a directory"))?;
            File::open(parent)?.sync_all()
        };
        write().map_err(|error| ImageError::io(format!("write {}", path.display()), error))
    }

    /// Moves out layers and blobs that nothing needs; they are deleted when the
    /// result is dropped, which may be after the lock is.
    fn take_garbage(&self, index: &Index) -> Result<Litter, ImageError> {
        let leased = scratch::leased(&self.inner.root.join("work"))?;
        let mut needed = index.layers();
        needed.extend(&leased);
        let mut litter = Litter::default();
        for path in scratch::list(&self.layers_dir())? {
            let layer = digest_of(&path);
            if layer.as_ref().is_some_and(|layer| needed.contains(layer)) {
                continue;
            }
            if let Some(layer) = &layer {
                litter.bytes = litter.bytes.saturating_add(self.layer_size(layer).unwrap_or(0));
            }
            let temp = self.temp("garbage");
            fs::rename(&path, temp.as_path()).map_err(|error| ImageError::io(format!("remove {}", path.display()), error))?;
            litter.paths.push(temp);
        }
        let blobs = index.blobs();
        for path in scratch::list(&self.inner.root.join("blobs/sha256"))? {
            if !digest_of(&path).is_some_and(|blob| blobs.contains(&blob)) {
                scratch::remove_tree(&path);
            }
        }
        Ok(litter)
    }

    fn forget_old_downloads(&self) -> Result<(), ImageError> {
        let now = SystemTime::now();
        for path in scratch::list(&self.inner.root.join("downloads"))? {
            let modified = fs::metadata(&path).and_then(|metadata| metadata.modified());
            if modified.is_ok_and(|then| now.duration_since(then).is_ok_and(|age| age > DOWNLOAD_KEEP)) {
                scratch::remove_tree(&path);
            }
        }
        Ok(())
    }

    fn lock(&self) -> Result<File, ImageError> {
        lock(&self.inner.root)
    }

    fn index_path(&self) -> PathBuf {
        self.inner.root.join("index.json")
    }

    fn layers_dir(&self) -> PathBuf {
        self.inner.root.join("layers")
    }

    fn layer_dir(&self, chain_id: &Digest) -> PathBuf {
        self.layers_dir().join(chain_id.hex())
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.inner.root.join("blobs/sha256").join(digest.hex())
    }
}

/// Things to delete.
#[derive(Debug, Default)]
struct Litter {
    paths: Vec<TempPath>,
    bytes: u64,
}

fn parse_key(text: &str) -> Result<Key, ImageError> {
    if text.starts_with("sha256:")
        && let Ok(id) = text.parse()
    {
        return Ok(Key::Id(id));
    }
    parse_reference(text).map(Key::Name)
}

/// Reads a reference, keeping the text for the error.
pub(crate) fn parse_reference(text: &str) -> Result<Reference, ImageError> {
    text.parse().map_err(|source| ImageError::InvalidReference {
        reference: text.to_owned(),
        source,
    })
}

fn digest_of(path: &Path) -> Option<Digest> {
    format!("sha256:{}", path.file_name()?.to_str()?).parse().ok()
}

fn stamp(path: &Path) -> Result<Option<Stamp>, ImageError> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(Some(stamp_of(&metadata))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(ImageError::io(format!("read {}", path.display()), error)),
    }
}

fn stamp_of(metadata: &fs::Metadata) -> Stamp {
    Stamp {
        inode: metadata.ino(),
        modified_s: metadata.mtime(),
        modified_ns: metadata.mtime_nsec(),
        size: metadata.size(),
    }
}

/// Takes the store's lock; dropping the file frees it. Changes take
/// milliseconds, so a wait is short unless the other process was stopped.
fn lock(root: &Path) -> Result<File, ImageError> {
    let path = root.join("lock");
    let doing = || format!("lock {}", path.display());
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|error| ImageError::io(doing(), error))?;
    let began = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if began.elapsed() < LOCK_WAIT => std::thread::sleep(Duration::from_millis(5)),
            Err(TryLockError::WouldBlock) => {
                return Err(ImageError::Locked {
                    path,
                    waited_s: LOCK_WAIT.as_secs(),
                });
            }
            Err(TryLockError::Error(error)) => return Err(ImageError::io(doing(), error)),
        }
    }
}

#[cfg(test)]
mod tests;
