//! A container's root file system: an overlay of image layers and one
//! writable layer, and safe access to it from outside.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, UnmountFlags};

/// A page: all that `mount(2)` takes.
const CLASSIC_OPTION_BYTES_MAX: usize = 4095;

/// Longest file read from inside a container.
const READ_BYTES_MAX: u64 = 1 << 20;

/// Mounts an overlay at `merged`, writable in `dir/upper`, which is `owner`'s.
///
/// `volatile`: nothing in this layer outlives the node's power, since a
/// container started after it begins with a new one; so nothing is synced.
pub(crate) fn mount_overlay(layers: &[PathBuf], dir: &Path, merged: &Path, owner: u32) -> io::Result<()> {
    let (upper, work) = (dir.join("upper"), dir.join("work"));
    for made in [upper.as_path(), &work, merged] {
        match std::fs::create_dir(made) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    // Layers decide what the container sees of its root directory itself.
    if let Some(top) = layers.last() {
        let like = std::fs::metadata(top)?;
        std::fs::set_permissions(&upper, like.permissions())?;
    }
    if owner != 0 {
        std::os::unix::fs::chown(&upper, Some(owner), Some(owner))?;
    }
    match mount_new_style(layers, &upper, &work, merged) {
        // `lowerdir+` arrived in Linux 6.5.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => mount_classic(layers, &upper, &work, merged),
        other => Ok(other?),
    }
}

fn mount_new_style(layers: &[PathBuf], upper: &Path, work: &Path, merged: &Path) -> rustix::io::Result<()> {
    let fs = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let set = |key: &str, value: &Path| rustix::mount::fsconfig_set_string(fs.as_fd(), key, value);
    for layer in layers.iter().rev() {
        set("lowerdir+", layer)?;
    }
    set("upperdir", upper)?;
    set("workdir", work)?;
    rustix::mount::fsconfig_set_flag(fs.as_fd(), "volatile")?;
    rustix::mount::fsconfig_create(fs.as_fd())?;
    let mount = rustix::mount::fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    rustix::mount::move_mount(mount.as_fd(), "", CWD, merged, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

/// Mounts the files of an image's layers, for reading alone. `empty` is an empty
/// directory below them: an overlay without a writable layer has two at least.
pub(crate) fn mount_read_only(layers: &[PathBuf], empty: &Path, at: &Path) -> io::Result<()> {
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOEXEC
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV;
    let lower = || layers.iter().rev().map(PathBuf::as_path).chain([empty]);
    if layers.is_empty() {
        return Ok(()); // an image without files: the empty directory it is
    }
    let new_style = || {
        let fs = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        for layer in lower() {
            rustix::mount::fsconfig_set_string(fs.as_fd(), "lowerdir+", layer)?;
        }
        rustix::mount::fsconfig_create(fs.as_fd())?;
        let mount = rustix::mount::fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
        rustix::mount::move_mount(mount.as_fd(), "", CWD, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
    };
    match new_style() {
        // `lowerdir+` arrived in Linux 6.5.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
            let mut options = b"lowerdir=".to_vec();
            for (n, layer) in lower().enumerate() {
                if n > 0 {
                    options.push(b':');
                }
                escape(layer, &mut options);
            }
            let options = std::ffi::CString::new(options)?;
            let flags = MountFlags::RDONLY | MountFlags::NOEXEC | MountFlags::NOSUID | MountFlags::NODEV;
            Ok(rustix::mount::mount("overlay", at, "overlay", flags, options.as_c_str())?)
        }
        other => Ok(other?),
    }
}

fn mount_classic(layers: &[PathBuf], upper: &Path, work: &Path, merged: &Path) -> io::Result<()> {
    // Relative to the directory the layers share, so that many fit. The
    // calling worker is about to end, its directory is nobody's concern.
    let shared = layers.first().and_then(|l| l.parent()).unwrap_or(Path::new("/"));
    std::env::set_current_dir(shared)?;
    let mut options = b"volatile,lowerdir=".to_vec();
    for (n, layer) in layers.iter().rev().enumerate() {
        if n > 0 {
            options.push(b':');
        }
        escape(layer.strip_prefix(shared).unwrap_or(layer), &mut options);
    }
    for (key, path) in [(",upperdir=", upper), (",workdir=", work)] {
        options.extend_from_slice(key.as_bytes());
        escape(path, &mut options);
    }
    if options.len() > CLASSIC_OPTION_BYTES_MAX {
        return Err(io::Error::other(format!(
            "{} layers are too many for this kernel: Linux 6.5 takes any number",
            layers.len()
        )));
    }
    let options = std::ffi::CString::new(options)?;
    rustix::mount::mount("overlay", merged, "overlay", MountFlags::empty(), options.as_c_str())?;
    Ok(())
}

fn escape(path: &Path, into: &mut Vec<u8>) {
    for byte in path.as_os_str().as_bytes() {
        if matches!(byte, b':' | b',' | b'\\') {
            into.push(b'\\');
        }
        into.push(*byte);
    }
}

/// Takes a mount away at once; its users keep it until they end.
pub(crate) fn unmount(path: &Path) -> io::Result<()> {
    match rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) | Ok(()) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// A directory that nothing resolved in it can leave, links included.
pub(crate) struct Root(OwnedFd);

const INSIDE: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);

impl Root {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::open(path, flags, Mode::empty())?))
    }

    /// A regular file's text; empty if there is none.
    pub(crate) fn read_to_string(&self, path: &str) -> io::Result<String> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = match rustix::fs::openat2(&self.0, path, flags, Mode::empty(), INSIDE) {
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(String::new()),
            opened => File::from(opened?),
        };
        if !file.metadata()?.is_file() {
            return Ok(String::new());
        }
        let mut bytes = Vec::new();
        file.take(READ_BYTES_MAX).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Makes a directory and those above it, `owner`'s, mode 0755.
    pub(crate) fn create_dir_all(&self, path: &Path, owner: u32) -> io::Result<()> {
        let mut at = PathBuf::from("/");
        for part in path.components() {
            let Component::Normal(name) = part else { continue };
            let parent = self.dir(&at)?;
            match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
                Ok(()) => {
                    let (uid, gid) = (rustix::fs::Uid::from_raw(owner), rustix::fs::Gid::from_raw(owner));
                    rustix::fs::chownat(&parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
                    at.push(OsStr::new(name));
                }
                Err(rustix::io::Errno::EXIST) => at.push(OsStr::new(name)),
                Err(error) => return Err(error.into()),
            }
        }
        self.dir(&at).map(drop)
    }

    fn dir(&self, path: &Path) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(rustix::fs::openat2(&self.0, path, flags, Mode::empty(), INSIDE)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// Escape: an image whose `/etc/passwd` is a link to a file of the host | it counts as empty
    #[test]
    fn links_cannot_lead_out() {
        let outer = tempfile::tempdir().unwrap();
        std::fs::write(outer.path().join("secret"), "host").unwrap();
        let inner = outer.path().join("root");
        std::fs::create_dir_all(inner.join("etc")).unwrap();
        symlink("../../../secret", inner.join("etc/passwd")).unwrap();
        symlink("../..", inner.join("up")).unwrap();
        let root = Root::open(&inner).unwrap();
        assert_eq!(root.read_to_string("/etc/passwd").unwrap(), "");
        root.create_dir_all(Path::new("/up/made/here"), 0).unwrap();
        assert!(inner.join("made/here").is_dir(), "an absolute climb ends at the root");
        assert!(!outer.path().join("made").exists());
    }

    #[test]
    fn paths_in_options_are_escaped() {
        let mut out = Vec::new();
        escape(Path::new("a:b,c\\d"), &mut out);
        assert_eq!(out, b"a\\:b\\,c\\\\d");
    }
}
