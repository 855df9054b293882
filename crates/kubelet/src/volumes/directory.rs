//! Directories on the node: `emptyDir`, `hostPath`, and what is mounted on
//! them. Blocking.
//!
//! Source: upstream `pkg/volume/{emptydir,hostpath}`.

use std::ffi::CString;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};

use super::owner::{self, Access};

/// Every user of the pod may use an `emptyDir`.
const MODE: u32 = 0o777;

/// What a volume that begins empty is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Medium {
    /// The node's disk.
    Disk,
    /// Memory, so much of it.
    Memory { bytes: u64 },
    /// Huge pages of a size, so much of them if that is limited.
    HugePages { page_bytes: u64, bytes: Option<u64> },
}

/// Makes the directory of a volume that begins empty; what is there stays.
pub(crate) fn empty(path: &Path, medium: Medium, group: Option<u32>) -> io::Result<()> {
    let made = make(path)?;
    let mounted = medium != Medium::Disk && is_mount_point(path)?;
    match medium {
        _ if mounted => {}
        Medium::Disk => {}
        Medium::Memory { bytes } => mount_memory(path, &format!("size={bytes}"))?,
        Medium::HugePages { page_bytes, bytes } => {
            let limit = bytes.map(|bytes| format!(",size={bytes}")).unwrap_or_default();
            let options = CString::new(format!("pagesize={page_bytes}{limit}"))?;
            rustix::mount::mount("nodev", path, "hugetlbfs", MountFlags::empty(), options.as_c_str())?;
        }
    }
    if made || (medium != Medium::Disk && !mounted) {
        fs::set_permissions(path, Permissions::from_mode(MODE))?;
        if let Some(gid) = group {
            owner::give(path, gid, Access::Write)?;
        }
    }
    Ok(())
}

/// Lets a directory share what is mounted in it with whoever mounts it.
pub(crate) fn share(path: &Path) -> io::Result<()> {
    if !mount_points()?.iter().any(|point| point == path) {
        rustix::mount::mount_bind(path, path)?;
    }
    Ok(rustix::mount::mount_change(path, MountPropagationFlags::SHARED)?)
}

/// Makes a directory of our own; what else is in its place is an error.
pub(crate) fn own(path: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().recursive(true).mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(io::ErrorKind::NotADirectory.into()),
        made => made,
    }
}

/// Makes a directory and those above it, for root alone; true if it was not there.
pub(crate) fn make(path: &Path) -> io::Result<bool> {
    if let Some(parent) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
    }
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

/// Mounts a tmpfs, kept out of swap where the kernel can.
pub(crate) fn mount_memory(at: &Path, options: &str) -> io::Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    let mount = |options: String| -> io::Result<()> {
        let options = CString::new(options)?;
        Ok(rustix::mount::mount("lifepod", at, "tmpfs", flags, options.as_c_str())?)
    };
    // `noswap` arrived in Linux 6.4.
    mount(format!("noswap,{options}")).or_else(|_| mount(options.to_owned()))
}

/// Whether something is mounted on a directory.
pub(crate) fn is_mount_point(path: &Path) -> io::Result<bool> {
    let above = path.parent().unwrap_or(Path::new("/"));
    Ok(fs::metadata(path)?.dev() != fs::metadata(above)?.dev())
}

/// Where something is mounted, each as often as there is.
fn mount_points() -> io::Result<Vec<PathBuf>> {
    let table = fs::read("/proc/self/mountinfo")?;
    let lines = table.split(|byte| *byte == b'\n');
    Ok(lines
        .filter_map(|line| line.split(|byte| *byte == b' ').nth(4))
        .map(unescape)
        .collect())
}

/// Unmounts everything at and below `root`, innermost first.
pub(crate) fn unmount_all(root: &Path) -> io::Result<()> {
    let mut points = mount_points()?;
    points.retain(|point| point.starts_with(root));
    points.sort();
    for point in points.iter().rev() {
        match rustix::mount::unmount(point, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The kernel writes blanks and the like as `\040`.
fn unescape(field: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        if *first == b'\\'
            && let Some(code) = tail.get(..3).and_then(|digits| std::str::from_utf8(digits).ok())
            && let Ok(byte) = u8::from_str_radix(code, 8)
        {
            out.push(byte);
            rest = &tail[3..];
        } else {
            out.push(*first);
            rest = tail;
        }
    }
    PathBuf::from(std::ffi::OsStr::from_bytes(&out))
}

/// Removes a tree and unmounts what is in it; what is gone is success.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    unmount_all(path)?;
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // Nothing of ours, but in the place of it: it would stay for ever.
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => fs::remove_file(path),
        removed => removed,
    }
}

/// The platform's own directory. It holds the cluster's keys, and the secrets and
/// files of every pod, so no pod mounts it or a part of it by its path.
#[derive(Debug)]
pub(crate) struct Own {
    data_dir: PathBuf,
    /// In it: the persistent volumes it has made for claims.
    local: PathBuf,
}

impl Own {
    pub(crate) fn new(data_dir: &Path, local: &Path) -> io::Result<Self> {
        Ok(Self {
            data_dir: fs::canonicalize(data_dir)?,
            local: local.to_path_buf(),
        })
    }

    /// With all links resolved.
    pub(crate) fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Whether a path is one of those made for claims.
    pub(crate) fn is_local(&self, path: &Path) -> bool {
        path != self.local && path.starts_with(&self.local)
    }

    /// Refuses a path that is, or through links leads to, anything in the
    /// directory. What lies above it is the node's, and whoever mounts that has
    /// the node; the directory itself is still looked for when a path inside a
    /// mount is (`shim/src/stage.rs`).
    pub(crate) fn keep_out(&self, path: &Path) -> Result<(), String> {
        let known = path
            .ancestors()
            .find_map(|above| Some((fs::canonicalize(above).ok()?, path.strip_prefix(above).ok()?)));
        let real = known.map_or_else(|| path.to_path_buf(), |(above, rest)| above.join(rest));
        if real.starts_with(&self.data_dir) {
            let (path, own) = (path.display(), self.data_dir.display());
            return Err(format!("{path} lies in Lifepod's own directory {own}, which no pod may mount"));
        }
        Ok(())
    }
}

/// Checks, and for some types makes, a path of the node. A path without a type
/// that is not there becomes a directory, as containerd does. Whatever is no
/// directory counts as a file.
///
/// Source: upstream `pkg/volume/hostpath/host_path.go`, `checkTypeInternal`.
///
/// # Errors
/// In upstream's words.
pub(crate) fn host_path(path: &Path, kind: &str) -> Result<(), String> {
    let about = fs::metadata(path).ok().map(|about| about.file_type());
    let refuse = |what: &str| Err(format!("hostPath type check failed: {} is not {what}", path.display()));
    let check = |is: fn(&fs::FileType) -> bool, what: &str| if about.as_ref().is_some_and(is) { Ok(()) } else { refuse(what) };
    match kind {
        "" | "DirectoryOrCreate" if about.is_none() => make_host_dir(path),
        "FileOrCreate" if about.is_none() => make_host_file(path),
        "Directory" | "DirectoryOrCreate" => check(fs::FileType::is_dir, "a directory"),
        "File" | "FileOrCreate" => check(|kind| !kind.is_dir(), "a file"),
        "Socket" => check(fs::FileType::is_socket, "a socket file"),
        "CharDevice" => check(fs::FileType::is_char_device, "a character device"),
        "BlockDevice" => check(fs::FileType::is_block_device, "a block device"),
        _ => Ok(()),
    }
}

fn make_host_dir(path: &Path) -> Result<(), String> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o755).create(path);
    made.map_err(|error| {
        // Go names the first that is in the way.
        let blocked = path
            .ancestors()
            .find(|above| above.symlink_metadata().is_ok_and(|about| !about.is_dir()));
        format!("mkdir {}: {}", blocked.unwrap_or(path).display(), words(&error))
    })
}

fn make_host_file(path: &Path) -> Result<(), String> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = fs::OpenOptions::new();
    let made = options.write(true).create(true).truncate(false).mode(0o644).open(path);
    made.map(drop)
        .map_err(|error| format!("open {}: {}", path.display(), words(&error)))
}

/// The system's reason as Go has it.
fn words(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}

/// Bytes a tree occupies on its own file system; links are not followed.
pub(crate) fn usage_bytes(path: &Path) -> io::Result<u64> {
    fn add(path: &Path, device: u64, total: &mut u64) -> io::Result<()> {
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let about = match entry.metadata() {
                Ok(about) => about,
                // Removed meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            if about.dev() != device {
                continue;
            }
            *total = total.saturating_add(about.blocks().saturating_mul(512));
            if about.is_dir() {
                match add(&entry.path(), device, total) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
        }
        Ok(())
    }
    let root = fs::metadata(path)?;
    let mut total = root.blocks().saturating_mul(512);
    add(path, root.dev(), &mut total)?;
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_paths_are_checked_in_upstreams_words() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("file"), "").unwrap();
        let file = at("file").display().to_string();
        for (kind, what) in [
            ("Directory", "a directory"),
            ("DirectoryOrCreate", "a directory"),
            ("Socket", "a socket file"),
            ("CharDevice", "a character device"),
            ("BlockDevice", "a block device"),
        ] {
            let said = host_path(&at("file"), kind).unwrap_err();
            assert_eq!(said, format!("hostPath type check failed: {file} is not {what}"));
        }
        host_path(&at("file"), "File").unwrap();
        assert!(host_path(&at("none"), "File").unwrap_err().ends_with("is not a file"));
        assert!(host_path(&at("none"), "Directory").unwrap_err().ends_with("is not a directory"));
        host_path(&at("made/dir"), "DirectoryOrCreate").unwrap();
        assert!(at("made/dir").is_dir());
        host_path(&at("made/file"), "FileOrCreate").unwrap();
        assert!(at("made/file").is_file());
        host_path(&at("any"), "").unwrap();
        assert!(at("any").is_dir());
        host_path(Path::new("/dev/null"), "CharDevice").unwrap();
        host_path(Path::new("/dev/null"), "File").unwrap();
        let below = host_path(&at("file/dir"), "DirectoryOrCreate").unwrap_err();
        assert_eq!(below, format!("mkdir {file}: not a directory"));
        let none = host_path(&at("none/file"), "FileOrCreate").unwrap_err();
        assert_eq!(none, format!("open {}: no such file or directory", at("none/file").display()));
    }

    #[test]
    fn no_path_leads_into_the_platforms_own_directory() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        fs::create_dir_all(data.join("local-path/one")).unwrap();
        std::os::unix::fs::symlink(&data, dir.path().join("door")).unwrap();
        let own = Own::new(&dir.path().join("door"), &data.join("local-path")).unwrap();
        for path in [
            "data",
            "data/",
            "data/pki",
            "data/not/there",
            "door",
            "door/pki/x",
            "data/local-path",
        ] {
            let said = own.keep_out(&dir.path().join(path)).unwrap_err();
            assert!(said.contains("lies in Lifepod's own directory"), "{path}: {said}");
        }
        for path in ["", "data2", "elsewhere/data"] {
            own.keep_out(&dir.path().join(path)).unwrap();
        }
        assert!(own.is_local(&data.join("local-path/one")) && !own.is_local(&data.join("local-path")));
    }

    #[test]
    fn a_tree_occupies_its_blocks() {
        let dir = tempfile::tempdir().unwrap();
        let before = usage_bytes(dir.path()).unwrap();
        fs::create_dir(dir.path().join("d")).unwrap();
        fs::write(dir.path().join("d/f"), vec![1; 100_000]).unwrap();
        std::os::unix::fs::symlink("/", dir.path().join("link")).unwrap();
        let after = usage_bytes(dir.path()).unwrap();
        assert!((100_000..1 << 20).contains(&(after - before)), "{before} {after}");
    }

    #[test]
    fn the_kernels_escapes_are_undone() {
        assert_eq!(unescape(br"/a\040b\134c"), Path::new("/a b\\c"));
        assert_eq!(unescape(br"/a\04"), Path::new("/a\\04"));
    }
}
