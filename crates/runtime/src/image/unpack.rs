//! A layer's archive becomes a directory that overlayfs can use.
//!
//! The archive is hostile until proven otherwise. Every path is resolved by the
//! kernel with the layer's directory as root (`openat2`, `RESOLVE_IN_ROOT`), so
//! neither `..`, nor an absolute path, nor a symbolic link made by an earlier
//! entry leads out of it; the last component is never followed. Paths that
//! would leave the layer textually are refused rather than bent, so that a
//! damaged or malicious image is noticed.
//!
//! Removals become what overlayfs understands: `.wh.NAME` a character device
//! 0/0, `.wh..wh..opq` the attribute `trusted.overlay.opaque` (kernel
//! documentation, filesystems/overlayfs, "whiteouts and opaque directories").

use std::collections::{BTreeMap, HashSet};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::archive::{Archive, Entry, Kind};

const OPAQUE_MARK: &[u8] = b".wh..wh..opq";
/// Names for aufs's own use (its hard-link directory); not content.
const AUFS_PREFIX: &[u8] = b".wh..wh.";
const WHITEOUT_PREFIX: &[u8] = b".wh.";
/// `openat2` asks to try again when a rename elsewhere raced with a `..`.
const RESOLVE_TRIES: u32 = 128;
const COPY_BYTES: usize = 256 * 1024;

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
    /// The archive is not a well-formed one.
    #[error("malformed archive: {0}")]
    Malformed(String),
    /// It holds more than is allowed.
    #[error("the archive has more than {max} {what}")]
    Limit {
        /// Of what.
        what: &'static str,
        /// How much is allowed.
        max: u64,
    },
    /// An entry or a link points out of the layer.
    #[error("entry {path:?} points outside the layer")]
    Escape {
        /// The entry or the link's target.
        path: String,
    },
    /// An entry that cannot be extracted faithfully.
    #[error("entry {path:?} is {what}, which is not supported")]
    Unsupported {
        /// The entry.
        path: String,
        /// What it is.
        what: &'static str,
    },
    /// The file system refused.
    #[error("{doing} {path:?}: {source}")]
    Write {
        /// What was being done.
        doing: &'static str,
        /// To which entry.
        path: String,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
}

impl UnpackError {
    pub(crate) fn is_disk_full(&self) -> bool {
        matches!(self, Self::Write { source, .. } if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    }
}

/// Unpacks `archive` into the empty directory `into`. `below` are the layers
/// under this one, top first: a directory the archive does not list but needs
/// gets its owner and mode from there, so that it does not change by being in
/// the way. Returns the bytes of all files.
pub(crate) fn unpack<R: Read>(archive: &mut Archive<R>, into: &Path, below: &[PathBuf]) -> Result<u64, UnpackError> {
    let open = |path: &Path| {
        rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(write("open", path.as_os_str().as_encoded_bytes()))
    };
    let mut layer = Layer {
        root: Rc::new(open(into)?),
        below: below.iter().map(|path| open(path)).collect::<Result<_, _>>()?,
        parent: None,
        directories: BTreeMap::new(),
        whiteouts: HashSet::new(),
        bytes: 0,
    };
    let mut buffer = vec![0; COPY_BYTES];
    while let Some(entry) = archive.next()? {
        layer.add(&entry, archive, &mut buffer)?;
    }
    layer.finish()?;
    Ok(layer.bytes)
}

struct Layer {
    root: Rc<OwnedFd>,
    below: Vec<OwnedFd>,
    /// The directory of the last entry: the next one is often in the same.
    parent: Option<(Vec<u8>, Rc<OwnedFd>)>,
    /// Directories and their times, set last because adding entries changes them.
    directories: BTreeMap<Vec<u8>, Timespec>,
    /// Paths this layer removes from those below.
    whiteouts: HashSet<Vec<u8>>,
    bytes: u64,
}

impl Layer {
    fn add<R: Read>(&mut self, entry: &Entry, content: &mut Archive<R>, buffer: &mut [u8]) -> Result<(), UnpackError> {
        let path = clean(&entry.path)?;
        let Some((directory, name)) = split(&path) else {
            if entry.kind != Kind::Directory {
                return Err(UnpackError::Malformed("the root is not a directory".to_owned()));
            }
            let root = Rc::clone(&self.root);
            return self.set_directory(&root, entry, path);
        };
        if name == OPAQUE_MARK {
            let parent = self.parent(directory)?;
            return set_opaque(&parent, directory);
        }
        if path.split(|byte| *byte == b'/').any(|component| component.starts_with(AUFS_PREFIX)) {
            return Ok(());
        }
        let parent = self.parent(directory)?;
        if let Some(hidden) = name.strip_prefix(WHITEOUT_PREFIX) {
            return self.whiteout(&parent, directory, hidden, entry);
        }
        match entry.kind {
            Kind::Directory => return self.add_directory(&parent, name, entry, path.clone()),
            Kind::File => self.add_file(&parent, name, entry, content, buffer)?,
            Kind::HardLink => return self.add_hard_link(&parent, name, entry),
            Kind::Symlink => {
                self.replacing(&parent, name, entry, "make symbolic link", |parent| {
                    rustix::fs::symlinkat(entry.link.as_slice(), parent, name)
                })?;
                set_node(&parent, name, entry)?;
            }
            Kind::CharDevice | Kind::BlockDevice | Kind::Fifo => {
                let file_type = match entry.kind {
                    Kind::CharDevice => FileType::CharacterDevice,
                    Kind::BlockDevice => FileType::BlockDevice,
                    _ => FileType::Fifo,
                };
                let device = rustix::fs::makedev(entry.device.0, entry.device.1);
                self.replacing(&parent, name, entry, "make device", |parent| {
                    rustix::fs::mknodat(parent, name, file_type, Mode::from_raw_mode(entry.mode), device)
                })?;
                set_node(&parent, name, entry)?;
            }
        }
        Ok(())
    }

    fn add_file<R: Read>(
        &mut self,
        parent: &OwnedFd,
        name: &[u8],
        entry: &Entry,
        content: &mut Archive<R>,
        buffer: &mut [u8],
    ) -> Result<(), UnpackError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = self.replacing(parent, name, entry, "create", |parent| {
            rustix::fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR)
        })?;
        let mut file = std::fs::File::from(file);
        loop {
            let n = match content.read(buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(UnpackError::Read(error)),
            };
            file.write_all(&buffer[..n]).map_err(|source| UnpackError::Write {
                doing: "write",
                path: entry.name(),
                source,
            })?;
        }
        self.bytes = self.bytes.saturating_add(entry.size);
        set_open(&file, entry)?;
        rustix::fs::futimens(&file, &times(entry)).map_err(write("set times of", &entry.path))
    }

    fn add_directory(&mut self, parent: &OwnedFd, name: &[u8], entry: &Entry, path: Vec<u8>) -> Result<(), UnpackError> {
        let existing = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW);
        let is_directory = existing.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory);
        if !is_directory {
            self.replacing(parent, name, entry, "make directory", |parent| {
                rustix::fs::mkdirat(parent, name, Mode::RWXU)
            })?;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(parent, name, flags, Mode::empty()).map_err(write("open", &entry.path))?;
        if self.whiteouts.remove(&path) {
            // Removed and made anew: what lies below must stay hidden.
            set_opaque(&directory, &path)?;
        }
        self.set_directory(&directory, entry, path)
    }

    fn set_directory(&mut self, directory: &OwnedFd, entry: &Entry, path: Vec<u8>) -> Result<(), UnpackError> {
        set_open(directory, entry)?;
        self.directories.insert(
            path,
            Timespec {
                tv_sec: entry.mtime_s,
                tv_nsec: i64::from(entry.mtime_ns),
            },
        );
        Ok(())
    }

    fn add_hard_link(&mut self, parent: &OwnedFd, name: &[u8], entry: &Entry) -> Result<(), UnpackError> {
        let target = clean(&entry.link)?;
        let missing = || {
            UnpackError::Malformed(format!(
                "{:?} is a hard link to {:?}, which the layer does not contain",
                entry.name(),
                lossy(&entry.link)
            ))
        };
        let (directory, target_name) = split(&target).ok_or_else(missing)?;
        let from = match self.resolve(&self.root, directory) {
            Ok(from) => from,
            Err(Errno::NOENT | Errno::NOTDIR) => return Err(missing()),
            Err(errno) => return Err(write("open", &entry.link)(errno)),
        };
        let target_stat = rustix::fs::statat(&from, target_name, AtFlags::SYMLINK_NOFOLLOW);
        let target_stat = match target_stat {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Err(missing()),
            Err(errno) => return Err(write("inspect", &entry.link)(errno)),
        };
        if let Ok(stat) = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
            && (stat.st_dev, stat.st_ino) == (target_stat.st_dev, target_stat.st_ino)
        {
            return Ok(());
        }
        self.replacing(parent, name, entry, "make hard link", |parent| {
            rustix::fs::linkat(&from, target_name, parent, name, AtFlags::empty())
        })
    }

    /// Hides `name` of the layers below. What this layer itself has stays.
    fn whiteout(&mut self, parent: &OwnedFd, directory: &[u8], name: &[u8], entry: &Entry) -> Result<(), UnpackError> {
        if matches!(name, b"" | b"." | b"..") {
            return Err(UnpackError::Malformed(format!(
                "{:?} removes nothing that can be named",
                entry.name()
            )));
        }
        let path = if directory.is_empty() {
            name.to_vec()
        } else {
            [directory, b"/", name].concat()
        };
        match rustix::fs::mknodat(parent, name, FileType::CharacterDevice, Mode::empty(), 0) {
            Ok(()) => {
                self.whiteouts.insert(path);
                Ok(())
            }
            Err(Errno::EXIST) => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                match rustix::fs::openat(parent, name, flags, Mode::empty()) {
                    Ok(directory) => set_opaque(&directory, &path),
                    Err(Errno::NOTDIR | Errno::LOOP) => Ok(()),
                    Err(errno) => Err(write("open", &path)(errno)),
                }
            }
            Err(errno) => Err(write("make whiteout", &path)(errno)),
        }
    }

    /// Makes something; what an earlier entry put there gives way.
    fn replacing<T>(
        &mut self,
        parent: &OwnedFd,
        name: &[u8],
        entry: &Entry,
        doing: &'static str,
        make: impl Fn(&OwnedFd) -> rustix::io::Result<T>,
    ) -> Result<T, UnpackError> {
        match make(parent) {
            Err(Errno::EXIST) => {
                // Anything below may be the cached directory.
                self.parent = None;
                let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).map_err(write("inspect", &entry.path))?;
                if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                    std::fs::remove_dir_all(within(parent, name)).map_err(|source| UnpackError::Write {
                        doing: "replace",
                        path: entry.name(),
                        source,
                    })?;
                } else {
                    rustix::fs::unlinkat(parent, name, AtFlags::empty()).map_err(write("replace", &entry.path))?;
                }
                make(parent).map_err(write(doing, &entry.path))
            }
            other => other.map_err(write(doing, &entry.path)),
        }
    }

    /// The directory an entry goes into, made if the archive does not list it.
    fn parent(&mut self, path: &[u8]) -> Result<Rc<OwnedFd>, UnpackError> {
        if let Some((cached, directory)) = &self.parent
            && cached == path
        {
            return Ok(Rc::clone(directory));
        }
        let directory = match self.resolve(&self.root, path) {
            Ok(directory) => Rc::new(directory),
            Err(Errno::NOENT) => self.make_parents(path)?,
            Err(errno) => return Err(write("open directory", path)(errno)),
        };
        self.parent = Some((path.to_vec(), Rc::clone(&directory)));
        Ok(directory)
    }

    fn make_parents(&mut self, path: &[u8]) -> Result<Rc<OwnedFd>, UnpackError> {
        let mut above = Rc::clone(&self.root);
        let ends = path
            .iter()
            .enumerate()
            .filter(|(_, byte)| **byte == b'/')
            .map(|(at, _)| at)
            .chain([path.len()]);
        for end in ends.collect::<Vec<_>>() {
            let prefix = &path[..end];
            above = match self.resolve(&self.root, prefix) {
                Ok(directory) => Rc::new(directory),
                Err(Errno::NOENT) => {
                    let name = split(prefix).map_or(prefix, |(_, name)| name);
                    rustix::fs::mkdirat(&*above, name, Mode::RWXU).map_err(write("make directory", prefix))?;
                    let directory = self.resolve(&self.root, prefix).map_err(write("open directory", prefix))?;
                    self.inherit(&directory, prefix)?;
                    Rc::new(directory)
                }
                Err(errno) => return Err(write("open directory", prefix)(errno)),
            };
        }
        Ok(above)
    }

    /// Gives a directory the archive did not list what it has in the layer
    /// below, where overlayfs would otherwise show ours.
    fn inherit(&mut self, directory: &OwnedFd, path: &[u8]) -> Result<(), UnpackError> {
        let mut mode = Mode::from_raw_mode(0o755);
        for below in &self.below {
            let found = match self.resolve(below, path) {
                Ok(found) => found,
                Err(Errno::NOENT) => continue,
                // Removed by a layer, or something else there: nothing to inherit.
                Err(_) => break,
            };
            let stat = rustix::fs::fstat(&found).map_err(write("inspect", path))?;
            mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
            let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
            rustix::fs::fchown(directory, Some(uid), Some(gid)).map_err(write("set owner of", path))?;
            self.directories.insert(
                path.to_vec(),
                Timespec {
                    tv_sec: stat.st_mtime,
                    tv_nsec: stat.st_mtime_nsec as i64,
                },
            );
            break;
        }
        rustix::fs::fchmod(directory, mode).map_err(write("set mode of", path))
    }

    /// Opens a directory with `root` as `/`: links and `..` cannot leave it.
    fn resolve(&self, root: &OwnedFd, path: &[u8]) -> rustix::io::Result<OwnedFd> {
        let path: &[u8] = if path.is_empty() { b"." } else { path };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        for _ in 1..RESOLVE_TRIES {
            match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return other,
            }
        }
        rustix::fs::openat2(root, path, flags, Mode::empty(), resolve)
    }

    /// Sets the times of directories, after everything that changes them.
    fn finish(&mut self) -> Result<(), UnpackError> {
        for (path, mtime) in &self.directories {
            // Replaced by a link or gone since: its times went with it.
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
            let name: &[u8] = if path.is_empty() { b"." } else { path };
            let Ok(directory) = rustix::fs::openat2(&*self.root, name, flags, Mode::empty(), resolve) else {
                continue;
            };
            let times = Timestamps {
                last_access: *mtime,
                last_modification: *mtime,
            };
            rustix::fs::futimens(&directory, &times).map_err(write("set times of", path))?;
        }
        Ok(())
    }
}

/// Owner, mode and attributes of something open. The owner first: changing it
/// clears set-user-id bits and file capabilities.
fn set_open(file: impl AsFd, entry: &Entry) -> Result<(), UnpackError> {
    let file = file.as_fd();
    rustix::fs::fchown(file, Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid))).map_err(write("set owner of", &entry.path))?;
    rustix::fs::fchmod(file, Mode::from_raw_mode(entry.mode)).map_err(write("set mode of", &entry.path))?;
    set_xattrs(entry, |name, value| rustix::fs::fsetxattr(file, name, value, XattrFlags::empty()))
}

/// The same for what cannot be opened: links, devices, pipes.
fn set_node(parent: &OwnedFd, name: &[u8], entry: &Entry) -> Result<(), UnpackError> {
    let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
    rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).map_err(write("set owner of", &entry.path))?;
    if entry.kind != Kind::Symlink {
        // Made by us just now and not a link; mknod's mode was cut by the umask.
        rustix::fs::chmodat(parent, name, Mode::from_raw_mode(entry.mode), AtFlags::empty()).map_err(write("set mode of", &entry.path))?;
    }
    let path = within(parent, name);
    set_xattrs(entry, |attribute, value| {
        rustix::fs::lsetxattr(&path, attribute, value, XattrFlags::empty())
    })?;
    rustix::fs::utimensat(parent, name, &times(entry), AtFlags::SYMLINK_NOFOLLOW).map_err(write("set times of", &entry.path))
}

fn set_xattrs(entry: &Entry, set: impl Fn(&[u8], &[u8]) -> rustix::io::Result<()>) -> Result<(), UnpackError> {
    for (name, value) in &entry.xattrs {
        // Overlayfs takes orders through these; only we may give them.
        if name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.") {
            continue;
        }
        match set(name, value) {
            // The file system keeps none of this kind, as containerd ignores it too.
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(errno) => return Err(write("set an extended attribute of", &entry.path)(errno)),
        }
    }
    Ok(())
}

fn set_opaque(directory: &OwnedFd, path: &[u8]) -> Result<(), UnpackError> {
    rustix::fs::fsetxattr(directory, "trusted.overlay.opaque", b"y", XattrFlags::empty()).map_err(write("make opaque", path))
}

fn times(entry: &Entry) -> Timestamps {
    let mtime = Timespec {
        tv_sec: entry.mtime_s,
        tv_nsec: i64::from(entry.mtime_ns),
    };
    Timestamps {
        last_access: mtime,
        last_modification: mtime,
    }
}

/// A path for calls that take none relative to a directory. The directory is
/// named by its descriptor; the last component is ours to not follow.
fn within(parent: &OwnedFd, name: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    PathBuf::from(format!("/proc/self/fd/{}", parent.as_raw_fd())).join(std::ffi::OsStr::from_bytes(name))
}

/// Relative, without `.` and `..`. Absolute means from the layer's root.
fn clean(path: &[u8]) -> Result<Vec<u8>, UnpackError> {
    let mut components: Vec<&[u8]> = Vec::new();
    for component in path.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => {
                components.pop().ok_or_else(|| UnpackError::Escape { path: lossy(path) })?;
            }
            name => components.push(name),
        }
    }
    Ok(components.join(&b'/'))
}

/// Directory and last component; `None` for the root.
fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.is_empty() {
        return None;
    }
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => Some((&path[..at], &path[at + 1..])),
        None => Some((b"", path)),
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn write(doing: &'static str, path: &[u8]) -> impl FnOnce(Errno) -> UnpackError {
    move |errno| UnpackError::Write {
        doing,
        path: lossy(path),
        source: errno.into(),
    }
}

#[cfg(test)]
mod tests;
