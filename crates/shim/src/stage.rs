//! Volumes made ready to be mounted: one place per mount, which nobody else
//! can change, in the shim's own mount namespace.
//!
//! A path inside a volume is the container's to change at any moment, also by
//! a link to somewhere else. So it is opened once, with the kernel's word that
//! nothing on the way leads out of the volume, and what was opened is mounted
//! at a place of ours; the container is then given that place. A volume itself
//! is staged too, because there its propagation is set, which the bind mounts
//! of libcontainer take over and do not change.
//!
//! Source: upstream `pkg/volume/util/subpath`; Linux `openat2(2)`.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::mount::{MountPropagationFlags, MoveMountFlags, OpenTreeFlags};

use crate::protocol::{Refusal, Staged};
use crate::rootfs;

/// In the attempt's directory: one place per mount, named by its index.
pub const STAGE_DIR: &str = "mounts";

/// Where the mount of this index is staged.
#[must_use]
pub fn place(attempt_dir: &Path, index: usize) -> PathBuf {
    attempt_dir.join(STAGE_DIR).join(index.to_string())
}

const INSIDE: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS);

/// Stages all mounts of an attempt. The calling process has a mount namespace
/// that nobody looks into.
pub(crate) fn stage(list: &[Staged], dir: &Path) -> Result<(), (Refusal, String)> {
    if list.is_empty() {
        return Ok(());
    }
    let at = dir.join(STAGE_DIR);
    match fs::create_dir(&at) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err((Refusal::System, format!("making directory {}: {error}", at.display())));
        }
        _ => {}
    }
    for (index, staged) in list.iter().enumerate() {
        let opened = match &staged.sub_path {
            None => open_volume(&staged.source).map_err(|error| {
                let message = format!("opening {} for {}: {error}", staged.source.display(), staged.what);
                (Refusal::Start, message)
            })?,
            Some(path) => open_inside(&staged.source, path, &staged.what)?,
        };
        attach(&opened, &place(dir, index), staged.slave).map_err(|error| {
            (
                Refusal::System,
                format!("mounting {} for {}: {error}", staged.source.display(), staged.what),
            )
        })?;
    }
    Ok(())
}

/// Takes the staged mounts away; the container has its own.
pub(crate) fn clear(dir: &Path) {
    let at = dir.join(STAGE_DIR);
    for entry in fs::read_dir(&at).into_iter().flatten().flatten() {
        let _ = rootfs::unmount(&entry.path());
    }
    // Nothing is left mounted in it: had it been, it could not be removed.
    for entry in fs::read_dir(&at).into_iter().flatten().flatten() {
        let _ = fs::remove_file(entry.path()).or_else(|_| fs::remove_dir(entry.path()));
    }
    let _ = fs::remove_dir(&at);
}

fn open_volume(source: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)
}

/// Opens a path in a volume; directories that are missing are made like the
/// volume itself. What exactly failed would tell of the node's files: it goes
/// to the log only.
fn open_inside(source: &Path, path: &Path, what: &str) -> Result<OwnedFd, (Refusal, String)> {
    let refuse = |doing: &'static str| {
        move |error: io::Error| {
            eprintln!("{doing} {what}: {error}");
            (Refusal::Config, format!("failed to {doing} for {what}"))
        }
    };
    let volume = open_volume(source).map_err(refuse("prepare subPath"))?;
    match rustix::fs::openat2(&volume, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), INSIDE) {
        Ok(opened) => return Ok(opened),
        Err(rustix::io::Errno::NOENT) => {}
        Err(error) => return Err(refuse("prepare subPath")(error.into())),
    }
    make_inside(&volume, path).map_err(refuse("create subPath directory"))
}

fn make_inside(volume: &OwnedFd, path: &Path) -> io::Result<OwnedFd> {
    let like = Mode::from_raw_mode(rustix::fs::fstat(volume)?.st_mode & 0o7777);
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut reached = PathBuf::new();
    let mut parent = rustix::fs::openat2(volume, ".", directory, Mode::empty(), INSIDE)?;
    for part in path.components() {
        let Component::Normal(name) = part else { continue };
        reached.push(name);
        let made = match rustix::fs::mkdirat(&parent, name, like) {
            Ok(()) => true,
            Err(rustix::io::Errno::EXIST) => false,
            Err(error) => return Err(error.into()),
        };
        // From the volume again, so that a link inside it may be followed but
        // never leads out.
        parent = rustix::fs::openat2(volume, &reached, directory, Mode::empty(), INSIDE)?;
        if made {
            let own = format!("/proc/self/fd/{}", parent.as_raw_fd());
            fs::set_permissions(own, fs::Permissions::from_mode(like.as_raw_mode()))?;
        }
    }
    Ok(parent)
}

/// Mounts what was opened at `place`.
fn attach(opened: &OwnedFd, place: &Path, slave: bool) -> io::Result<()> {
    let about = rustix::fs::fstat(opened)?;
    let made = if rustix::fs::FileType::from_raw_mode(about.st_mode).is_dir() {
        fs::create_dir(place)
    } else {
        File::create_new(place).map(drop)
    };
    match made {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = rustix::mount::open_tree(opened.as_fd(), "", flags)?;
    rustix::mount::move_mount(tree.as_fd(), "", CWD, place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    let propagation = if slave {
        MountPropagationFlags::DOWNSTREAM
    } else {
        MountPropagationFlags::PRIVATE
    };
    rustix::mount::mount_change(place, propagation | MountPropagationFlags::REC)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn named(opened: &OwnedFd) -> PathBuf {
        fs::read_link(format!("/proc/self/fd/{}", opened.as_raw_fd())).unwrap()
    }

    #[test]
    fn no_link_leads_out_of_a_volume() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().canonicalize().unwrap().join("v");
        fs::create_dir_all(volume.join("real")).unwrap();
        fs::write(dir.path().join("secret"), "").unwrap();
        symlink("../secret", volume.join("up")).unwrap();
        symlink("/etc", volume.join("absolute")).unwrap();
        symlink("real", volume.join("inside")).unwrap();
        symlink("/proc/self/root", volume.join("magic")).unwrap();
        for path in ["up", "absolute", "absolute/passwd", "magic", "magic/etc", "real/../../secret"] {
            let (kind, message) = open_inside(&volume, Path::new(path), "volumeMount \"v\" of container \"c\"").unwrap_err();
            assert_eq!(kind, Refusal::Config, "{path}");
            assert_eq!(
                message, "failed to prepare subPath for volumeMount \"v\" of container \"c\"",
                "{path}"
            );
        }
        let inside = open_inside(&volume, Path::new("inside"), "").unwrap();
        assert_eq!(named(&inside), volume.join("real"));
    }

    #[test]
    fn what_is_missing_is_made_inside_and_like_the_volume() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().canonicalize().unwrap().join("v");
        fs::create_dir(&volume).unwrap();
        fs::set_permissions(&volume, fs::Permissions::from_mode(0o2775)).unwrap();
        let made = open_inside(&volume, Path::new("a/b"), "").unwrap();
        assert_eq!(named(&made), volume.join("a/b"));
        assert_eq!(fs::metadata(volume.join("a")).unwrap().permissions().mode() & 0o7777, 0o2775);
        symlink("/tmp", volume.join("out")).unwrap();
        let (_, message) = open_inside(&volume, Path::new("out/made"), "it").unwrap_err();
        assert_eq!(message, "failed to prepare subPath for it");
        assert!(!Path::new("/tmp/made").exists());
        symlink("/nowhere/at/all", volume.join("dangling")).unwrap();
        assert!(open_inside(&volume, Path::new("dangling/x"), "it").is_err());
    }
}
