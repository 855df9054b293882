//! Files for a container whose users are its pod's own.
//!
//! Its first process is nobody on the node when it mounts what the container
//! sees: it cannot search the node's private directories, and files of the
//! node's users would not be its users'. So the worker that makes the container
//! prepares everything in a mount namespace of its own, on a memory file system
//! anybody may search: the layers of the image and the volumes each through a
//! mount that maps owners (the file on disk has the number the container sees),
//! and an overlay of those layers. When the worker ends, all of it is gone but
//! what the container holds.
//!
//! Source: mount_setattr(2), `MOUNT_ATTR_IDMAP`; KEP-127.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::sched::CloneFlags;
use oci_spec::runtime::Spec;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags};

use crate::protocol::Refusal;
use crate::sandbox::{SandboxError, doing};
use crate::user_namespace::UserNamespace;

/// Where everything is prepared. Every host has it, everybody may search it,
/// and in a shim nothing is there; see `cgroup/enter.rs`.
const PLACE: &str = "/sys/fs/cgroup";

/// `struct mount_attr`. Source: mount_setattr(2).
#[repr(C)]
#[derive(Default)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

/// Source: Linux `uapi/linux/mount.h`.
const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;

/// The files of one container, while its worker prepares them.
pub(crate) struct Mapped<'a> {
    users: &'a UserNamespace,
}

impl<'a> Mapped<'a> {
    /// Gives the calling worker a mount namespace of its own, with room in it.
    pub(crate) fn begin(users: &'a UserNamespace) -> io::Result<Self> {
        nix::sched::unshare(CloneFlags::CLONE_NEWNS)?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        rustix::mount::mount("prepared", PLACE, "tmpfs", flags, c"mode=711,size=1m")?;
        rustix::mount::mount_change(PLACE, MountPropagationFlags::PRIVATE)?;
        Ok(Self { users })
    }

    /// Where mounts are staged.
    pub(crate) fn place(&self) -> &'static Path {
        Path::new(PLACE)
    }

    /// Where the root file system is mounted.
    pub(crate) fn root(&self) -> PathBuf {
        self.place().join("root")
    }

    pub(crate) fn users(&self) -> &UserNamespace {
        self.users
    }

    /// The layers of an image with owners mapped, in the same order.
    pub(crate) fn layers(&self, layers: &[PathBuf], name: &str) -> io::Result<Vec<PathBuf>> {
        let all = self.place().join(name);
        make_dir(&all)?;
        let mapped = layers.iter().enumerate().map(|(n, layer)| {
            let at = all.join(n.to_string());
            make_dir(&at)?;
            let opened = rustix::fs::open(layer, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
            let tree = clone_tree(&opened, false)?;
            map_owners(&tree, self.users.as_fd(), false)?;
            put(&tree, &at)?;
            Ok(at)
        });
        mapped.collect()
    }

    /// Brings the bind mounts of a configuration that are not staged volumes,
    /// which are files of the pod's own and directories of the kernel's, to
    /// where the container's first process can open them; and names its root
    /// and its user namespace.
    pub(crate) fn settle(&self, spec: &mut Spec, staged_in: &Path) -> Result<(), (Refusal, String)> {
        let failed = |path: &Path, cause: io::Error| (Refusal::System, format!("preparing {}: {cause}", path.display()));
        let beside = self.place().join("beside");
        make_dir(&beside).map_err(|cause| failed(&beside, cause))?;
        for (n, mount) in spec.mounts_mut().iter_mut().flatten().enumerate() {
            let Some(source) = mount.source().clone().filter(|_| mount.typ().as_deref() == Some("bind")) else {
                continue;
            };
            let at = match source.strip_prefix(staged_in) {
                Ok(staged) => crate::stage::in_place(self.place()).join(staged),
                Err(_) => {
                    let at = beside.join(n.to_string());
                    self.bring(&source, &at).map_err(|cause| failed(&source, cause))?;
                    at
                }
            };
            mount.set_source(Some(at));
        }
        if let Some(root) = spec.root_mut() {
            root.set_path(self.root());
        }
        Ok(())
    }

    /// One file or directory. Files are the pod's and get its owners;
    /// directories are of file systems that belong to no user.
    fn bring(&self, source: &Path, at: &Path) -> io::Result<()> {
        let opened = rustix::fs::open(source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let is_file = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&opened)?.st_mode).is_file();
        let tree = clone_tree(&opened, true)?;
        if is_file {
            map_owners(&tree, self.users.as_fd(), false)?;
            File::create_new(at)?;
        } else {
            make_dir(at)?;
        }
        put(&tree, at)
    }
}

/// A directory everybody may search, whatever the calling process' mask.
pub(crate) fn make_dir(at: &Path) -> io::Result<()> {
    match fs::create_dir(at) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    fs::set_permissions(at, Permissions::from_mode(0o711))
}

/// A copy of the mount of what is open, of those below it too if `whole`;
/// mounted nowhere yet.
pub(crate) fn clone_tree(opened: &OwnedFd, whole: bool) -> rustix::io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    if whole {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    rustix::mount::open_tree(opened.as_fd(), "", flags)
}

fn put(tree: &OwnedFd, at: &Path) -> io::Result<()> {
    rustix::mount::move_mount(tree.as_fd(), "", CWD, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    rustix::mount::mount_change(at, MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    Ok(())
}

/// Maps the owners in a tree of mounts that is mounted nowhere. With `whole`,
/// mounts below it too, if all of them can be; those that cannot are shown with
/// the node's owners, who are nobody in the container.
pub(crate) fn map_owners(tree: &OwnedFd, users: BorrowedFd<'_>, whole: bool) -> io::Result<()> {
    let set = |recursive: i32| {
        let attributes = MountAttributes {
            set: MOUNT_ATTR_IDMAP,
            userns_fd: u64::from(users.as_raw_fd().unsigned_abs()),
            ..MountAttributes::default()
        };
        // SAFETY: both descriptors are open, the path is empty and ends with a
        // zero byte, and the structure is of the size that is given.
        let done = unsafe {
            libc::syscall(
                libc::SYS_mount_setattr,
                tree.as_raw_fd(),
                c"".as_ptr(),
                libc::AT_EMPTY_PATH | recursive,
                &raw const attributes,
                std::mem::size_of::<MountAttributes>(),
            )
        };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    match set(if whole { libc::AT_RECURSIVE } else { 0 }) {
        Err(error) if whole && matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EPERM)) => set(0),
        done => done,
    }
    .map_err(|cause| {
        io::Error::new(
            cause.kind(),
            format!("mapping the owners of its files, which its file system may not support: {cause}"),
        )
    })
}

/// See [`crate::user_namespace::try_out`].
pub(crate) fn try_out(dir: &Path, users: BorrowedFd<'_>) -> Result<(), SandboxError> {
    let of_dir = || {
        let opened = rustix::fs::open(dir, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        map_owners(&clone_tree(&opened, false)?, users, false)
    };
    of_dir().map_err(doing("mapping the owners of files in the data directory"))?;
    let of_memory = || {
        let fs = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        rustix::mount::fsconfig_create(fs.as_fd())?;
        let mount = rustix::mount::fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
        map_owners(&mount, users, false)
    };
    of_memory().map_err(doing("mapping the owners of files in a tmpfs"))
}
