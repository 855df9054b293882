//! What a pod's containers share: network, IPC and UTS namespaces, `/dev/shm`,
//! and a process-id namespace where that is asked for.
//!
//! There is no pause process. The shim itself moves into new network, IPC and
//! UTS namespaces, so they live as long as it does, containers are born into
//! them, and others reach them as `/proc/<shim>/ns/*`. Only a shared
//! process-id namespace needs a process: its first one, which reaps. A pod with
//! users of its own owns these namespaces, and the shim stays the node's root
//! in them; see `user_namespace.rs`.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use nix::sched::CloneFlags;
use nix::unistd::ForkResult;
use rustix::mount::{MountFlags, MountPropagationFlags};

use crate::cgroup::Trees;
use crate::process::fork_worker;
use crate::protocol::{IdRange, Limits, SandboxSpec};
use crate::record::SHM_DIR;
use crate::user_namespace::UserNamespace;

/// Source: containerd, sandbox `/dev/shm`.
const SHM_OPTIONS: &str = "mode=1777,size=65536k";

/// The group of the process that reaps, inside the pod's.
const REAPER_GROUP: &str = "sandbox";

/// The sandbox once made.
#[derive(Debug)]
pub(crate) struct Sandbox {
    pub(crate) spec: SandboxSpec,
    /// First process of a shared process-id namespace.
    pub(crate) reaper: Option<i32>,
    /// The pod's own users.
    pub(crate) users: Option<UserNamespace>,
}

/// Why it could not be made.
#[derive(Debug, thiserror::Error)]
#[error("{doing}: {cause}")]
pub(crate) struct SandboxError {
    pub(crate) doing: &'static str,
    pub(crate) cause: io::Error,
}

pub(crate) fn doing(doing: &'static str) -> impl FnOnce(io::Error) -> SandboxError {
    move |cause| SandboxError { doing, cause }
}

/// The mounts of the node, for those few that containers make there.
static NODE_MOUNTS: OnceLock<OwnedFd> = OnceLock::new();

/// The node's mount namespace, once the shim has left it.
pub(crate) fn node_mounts() -> Option<BorrowedFd<'static>> {
    NODE_MOUNTS.get().map(AsFd::as_fd)
}

/// Gives the shim a mount namespace of its own: what it mounts is seen by its
/// containers only and cannot outlive them. The node's later mounts come in.
pub(crate) fn own_mounts() -> Result<(), SandboxError> {
    let node = fs::File::open("/proc/self/ns/mnt").map_err(doing("opening the node's mounts"))?;
    // Called once, so it was empty.
    let _ = NODE_MOUNTS.set(node.into());
    nix::sched::unshare(CloneFlags::CLONE_NEWNS)
        .map_err(io::Error::from)
        .map_err(doing("unsharing mounts"))?;
    rustix::mount::mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
        .map_err(io::Error::from)
        .map_err(doing("making mounts follow the node's"))
}

impl Sandbox {
    /// Moves the calling process into the new namespaces.
    pub(crate) fn make(spec: SandboxSpec, dir: &Path, trees: &Trees, group: &Path) -> Result<Self, SandboxError> {
        let users = match spec.ids {
            None => {
                unshare(&spec)?;
                None
            }
            Some(ids) => Some(UserNamespace::make(ids, own_namespaces(&spec), || unshare(&spec))?),
        };
        if spec.own_ipc {
            mount_shm(&dir.join(SHM_DIR), spec.ids).map_err(doing("mounting /dev/shm"))?;
        }
        let reaper = if spec.shared_pid {
            Some(start_reaper(trees, &group.join(REAPER_GROUP), users.as_ref())?)
        } else {
            None
        };
        Ok(Self { spec, reaper, users })
    }
}

/// The namespaces a sandbox has of its own, but for users and process ids.
fn own_namespaces(spec: &SandboxSpec) -> CloneFlags {
    let mut flags = CloneFlags::empty();
    if spec.own_network {
        flags |= CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWUTS;
    }
    if spec.own_ipc {
        flags |= CloneFlags::CLONE_NEWIPC;
    }
    flags
}

/// Moves the calling process into new namespaces and sets what is in them.
fn unshare(spec: &SandboxSpec) -> Result<(), SandboxError> {
    nix::sched::unshare(own_namespaces(spec))
        .map_err(io::Error::from)
        .map_err(doing("unsharing namespaces"))?;
    if spec.own_network {
        rustix::system::sethostname(spec.hostname.as_bytes())
            .map_err(io::Error::from)
            .map_err(doing("setting the hostname"))?;
    }
    for (name, value) in &spec.sysctls {
        set_sysctl(name, value)?;
    }
    Ok(())
}

/// Sets a parameter of the namespaces the calling process is in.
fn set_sysctl(name: &str, value: &str) -> Result<(), SandboxError> {
    let swapped = |c| match c {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    let path: PathBuf = name.chars().map(swapped).collect::<String>().into();
    // The agent lets known names through only; a path of another shape would
    // be a file of the node's.
    if !path.components().all(|part| matches!(part, std::path::Component::Normal(_))) {
        return Err(SandboxError {
            doing: "setting a kernel parameter",
            cause: io::Error::other(format!("{name:?} is not the name of one")),
        });
    }
    fs::write(Path::new("/proc/sys").join(path), value).map_err(|cause| SandboxError {
        doing: "setting a kernel parameter",
        cause: io::Error::new(cause.kind(), format!("{name}={value}: {cause}")),
    })
}

fn mount_shm(at: &Path, ids: Option<IdRange>) -> io::Result<()> {
    match fs::create_dir(at) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let owner = ids.map_or_else(String::new, |ids| format!(",uid={0},gid={0}", ids.first));
    let options = CString::new(format!("{SHM_OPTIONS}{owner}"))?;
    Ok(rustix::mount::mount("shm", at, "tmpfs", flags, options.as_c_str())?)
}

/// Starts the first process of a new process-id namespace; gives its id. A
/// process in between makes the namespace and ends; the shim inherits. Where
/// the pod has users of its own, it is their root: nobody on the node.
fn start_reaper(trees: &Trees, group: &Path, users: Option<&UserNamespace>) -> Result<i32, SandboxError> {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(io::Error::from)
        .map_err(doing("making a pipe"))?;
    let number = write.as_raw_fd();
    let birthplace = trees.birthplace(group).map_err(|cause| SandboxError {
        doing: "making the sandbox's cgroup",
        cause: io::Error::other(cause),
    })?;
    let mut keep = vec![number];
    keep.extend(users.map(|users| users.number()));
    let between = fork_worker(birthplace.as_ref(), &keep, || {
        let entered = trees.settle_in(group, &Limits::default(), true).is_ok() && users.is_none_or(|users| users.enter_for_good().is_ok());
        if !entered || nix::sched::unshare(CloneFlags::CLONE_NEWPID).is_err() {
            return 1;
        }
        // SAFETY: this process has one thread.
        match unsafe { nix::unistd::fork() } {
            Ok(ForkResult::Parent { child }) => i32::from(crate::process::write_all(number, &child.as_raw().to_le_bytes()).is_err()),
            Ok(ForkResult::Child) => reap_forever(number),
            Err(_) => 1,
        }
    })
    .map_err(doing("forking the sandbox's first process"))?;
    drop(write);
    let _ = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(between), None);
    let mut id = [0; 4];
    match rustix::io::read(&read, &mut id) {
        Ok(4) => Ok(i32::from_le_bytes(id)),
        _ => Err(SandboxError {
            doing: "starting the sandbox's first process",
            cause: io::Error::other("it ended at once"),
        }),
    }
}

fn reap_forever(pipe: i32) -> i32 {
    let _ = rustix::thread::set_name(c"sandbox-init");
    // SAFETY: the number of a pipe end this process inherited and nobody owns
    // here; and ignoring SIGCHLD, which makes the kernel reap for us.
    unsafe {
        libc::close(pipe);
        libc::signal(libc::SIGCHLD, libc::SIG_IGN);
    }
    loop {
        nix::unistd::pause();
    }
}

/// Where others find the process-id namespace of a process.
pub(crate) fn pid_namespace(of: i32) -> PathBuf {
    PathBuf::from(format!("/proc/{of}/ns/pid"))
}
