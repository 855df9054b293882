//! Giving the files of a volume to the pod's group. Blocking.
//!
//! Source: upstream `pkg/volume/volume_linux.go`, `SetVolumeOwnership`.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags};

/// What the group may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Read.
    Read,
    /// Read and write.
    Write,
}

impl Access {
    fn bits(self) -> u32 {
        match self {
            Self::Read => 0o440,
            Self::Write => 0o660,
        }
    }
}

/// Set on directories, so that new files are the group's too.
const DIRECTORY: u32 = 0o2110;

/// Gives a tree to a group. A link is given away itself, never followed.
///
/// # Errors
/// The first file that cannot be changed.
pub(crate) fn give(path: &Path, gid: u32, access: Access) -> io::Result<()> {
    // Opened once and changed through the descriptor: what a container puts
    // in its place meanwhile is not touched.
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
    let own = format!("/proc/self/fd/{}", opened.as_raw_fd());
    let group = Some(Gid::from_raw(gid));
    rustix::fs::chownat(&opened, "", None, group, AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW)?;
    let about = rustix::fs::statat(&opened, "", AtFlags::EMPTY_PATH)?;
    let kind = rustix::fs::FileType::from_raw_mode(about.st_mode);
    if kind.is_symlink() {
        return Ok(());
    }
    let directory = if kind.is_dir() { DIRECTORY } else { 0 };
    let mode = (about.st_mode & 0o7777) | access.bits() | directory;
    fs::set_permissions(&own, fs::Permissions::from_mode(mode))?;
    if kind.is_dir() {
        for entry in fs::read_dir(&own)? {
            give(&Path::new(&own).join(entry?.file_name()), gid, access)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn root_a_tree_is_given_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (tree, outside) = (dir.path().join("tree"), dir.path().join("outside"));
        fs::create_dir_all(tree.join("d")).unwrap();
        for file in [&tree.join("d/f"), &outside] {
            fs::write(file, "").unwrap();
            fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
        }
        std::os::unix::fs::symlink(&outside, tree.join("link")).unwrap();
        give(&tree, 4711, Access::Write).unwrap();
        let about = |path: &Path| fs::symlink_metadata(path).map(|m| (m.gid(), m.mode() & 0o7777)).unwrap();
        assert_eq!(about(&tree.join("d/f")), (4711, 0o660));
        assert_eq!(about(&tree.join("d")).0, 4711);
        assert_eq!(about(&tree.join("d")).1 & 0o2770, 0o2770);
        assert_eq!(about(&tree.join("link")).0, 4711);
        assert_eq!(about(&outside).1, 0o600);
        assert_ne!(about(&outside).0, 4711);
    }
}
