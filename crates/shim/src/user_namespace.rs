//! Users of a pod's own: its user namespace, and the namespaces that belong to it.
//!
//! Who owns a namespace is decided when it is made: by the user namespace of the
//! process that makes it. So a short-lived process becomes the root of the pod's
//! users, makes the pod's network, IPC and UTS namespaces, and the shim moves
//! into these three. The shim itself stays the node's root, which may do in the
//! pod's namespaces what their own root may, and holds the user namespace by a
//! descriptor. It is gone with the shim and the pod's processes.
//!
//! Source: user_namespaces(7); KEP-127.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::PathBuf;

use nix::sched::CloneFlags;
use nix::unistd::{Gid, Uid};
use rustix::pipe::PipeFlags;

use crate::process::{fork_worker, write_all};
use crate::protocol::IdRange;
use crate::sandbox::{SandboxError, doing};

/// The maker of the namespaces has entered the new user namespace.
const ENTERED: u8 = b'U';
/// It has made the others; anything else it tells is why not.
const MADE: u8 = b'N';
/// Its ids have been set.
const GO_ON: u8 = b'G';

/// Longest reason for a failure that is told.
const REASON_BYTES_MAX: usize = 4096;

/// A pod's own users.
#[derive(Debug)]
pub(crate) struct UserNamespace {
    namespace: OwnedFd,
    pub(crate) ids: IdRange,
}

impl UserNamespace {
    /// Makes it, and in it the namespaces `make` moves a process into, which are
    /// those of `kinds`; the calling process is moved into them too.
    pub(crate) fn make(ids: IdRange, kinds: CloneFlags, make: impl FnOnce() -> Result<(), SandboxError>) -> Result<Self, SandboxError> {
        let pipe = || {
            rustix::pipe::pipe_with(PipeFlags::CLOEXEC)
                .map_err(io::Error::from)
                .map_err(doing("making a pipe"))
        };
        let ((told, telling), (hearing, say)) = (pipe()?, pipe()?);
        let (telling_number, hearing_number) = (telling.as_raw_fd(), hearing.as_raw_fd());
        let maker = fork_worker(None, &[telling_number, hearing_number], || {
            // SAFETY: the number of a pipe end this process inherited.
            let hearing = unsafe { BorrowedFd::borrow_raw(hearing_number) };
            match make_inside(telling_number, hearing, make) {
                Ok(()) => {
                    let _ = write_all(telling_number, &[MADE]);
                    // Until the shim has what it needs, and closes its end.
                    let _ = rustix::io::read(hearing, &mut [0; 1]);
                    0
                }
                Err(cause) => {
                    let _ = write_all(telling_number, cause.to_string().as_bytes());
                    1
                }
            }
        })
        .map_err(doing("forking the maker of the pod's namespaces"))?;
        drop((telling, hearing));
        let made = take_over(maker, ids, kinds, &told, &say);
        drop(say);
        let _ = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(maker), None);
        made
    }

    /// For a process that inherits descriptors by number.
    pub(crate) fn number(&self) -> RawFd {
        self.namespace.as_raw_fd()
    }

    /// As a path, for a process that has inherited the descriptor.
    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.number()))
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.namespace.as_fd()
    }

    /// Makes the calling process, which has one thread, root of the pod's users
    /// and no more; none of them may look into it.
    pub(crate) fn enter_for_good(&self) -> io::Result<()> {
        nix::sched::setns(self.as_fd(), CloneFlags::CLONE_NEWUSER)?;
        become_root()?;
        rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
        // SAFETY: a forked process that leaves by `_exit` and does not use the
        // descriptor again.
        unsafe { libc::close(self.number()) };
        Ok(())
    }
}

/// In the process that makes the namespaces.
fn make_inside(telling: RawFd, hearing: BorrowedFd<'_>, make: impl FnOnce() -> Result<(), SandboxError>) -> Result<(), SandboxError> {
    nix::sched::unshare(CloneFlags::CLONE_NEWUSER)
        .map_err(io::Error::from)
        .map_err(doing("making a user namespace"))?;
    write_all(telling, &[ENTERED]).map_err(doing("telling of the user namespace"))?;
    let mut word = [0];
    let heard = rustix::io::read(hearing, &mut word).map_err(io::Error::from);
    if heard.map_err(doing("waiting for ids"))? != 1 || word[0] != GO_ON {
        return Err(SandboxError {
            doing: "waiting for ids",
            cause: io::Error::other("the shim gave up"),
        });
    }
    become_root().map_err(doing("becoming root of the pod's users"))?;
    // The shim is to see its namespaces. Nothing of the pod runs yet.
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::Dumpable)
        .map_err(io::Error::from)
        .map_err(doing("letting the shim see the namespaces"))?;
    make()
}

/// In the shim: sets the ids, and goes where the maker is.
fn take_over(maker: i32, ids: IdRange, kinds: CloneFlags, told: &OwnedFd, say: &OwnedFd) -> Result<UserNamespace, SandboxError> {
    let mut words = Words { told, said: Vec::new() };
    words.expect(ENTERED)?;
    let map = format!("0 {} {}\n", ids.first, ids.length);
    for file in ["uid_map", "gid_map"] {
        fs::write(format!("/proc/{maker}/{file}"), &map).map_err(doing("setting the ids of the user namespace"))?;
    }
    write_all(say.as_raw_fd(), &[GO_ON]).map_err(doing("setting the ids of the user namespace"))?;
    words.expect(MADE)?;
    let open = |kind: &str| File::open(format!("/proc/{maker}/ns/{kind}")).map_err(doing("opening a namespace of the pod"));
    for (kind, flag) in [
        ("net", CloneFlags::CLONE_NEWNET),
        ("uts", CloneFlags::CLONE_NEWUTS),
        ("ipc", CloneFlags::CLONE_NEWIPC),
    ] {
        if kinds.contains(flag) {
            nix::sched::setns(open(kind)?, flag)
                .map_err(io::Error::from)
                .map_err(doing("entering a namespace of the pod"))?;
        }
    }
    Ok(UserNamespace {
        namespace: open("user")?.into(),
        ids,
    })
}

/// What the maker tells: one letter each time, or why it ended.
struct Words<'a> {
    told: &'a OwnedFd,
    said: Vec<u8>,
}

impl Words<'_> {
    fn expect(&mut self, word: u8) -> Result<(), SandboxError> {
        let mut byte = [0];
        let mut first = true;
        while self.said.len() < REASON_BYTES_MAX {
            match rustix::io::read(self.told, &mut byte) {
                Ok(1) if first && byte[0] == word => return Ok(()),
                Ok(1) => self.said.push(byte[0]),
                Err(rustix::io::Errno::INTR) => continue,
                Ok(_) | Err(_) => break,
            }
            first = false;
        }
        let said = String::from_utf8_lossy(&self.said).into_owned();
        let reason = if said.is_empty() { "it ended at once".to_owned() } else { said };
        Err(SandboxError {
            doing: "making the pod's namespaces",
            cause: io::Error::other(reason),
        })
    }
}

/// Root of the user namespace the process is in, of no other group.
pub(crate) fn become_root() -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
    nix::unistd::setgroups(&[])?;
    nix::unistd::setresgid(gid, gid, gid)?;
    nix::unistd::setresuid(uid, uid, uid)?;
    Ok(())
}

/// Whether the kernel gives pods users of their own and shows them files below
/// `dir`, and of memory file systems, as theirs. Makes nothing that stays. The
/// calling process has one thread.
///
/// # Errors
/// What it does not do.
pub(crate) fn try_out(dir: &std::path::Path) -> Result<(), SandboxError> {
    const TRIED: IdRange = IdRange {
        first: 1 << 16,
        length: 1 << 16,
    };
    let users = UserNamespace::make(TRIED, CloneFlags::CLONE_NEWIPC, || {
        nix::sched::unshare(CloneFlags::CLONE_NEWIPC)
            .map_err(io::Error::from)
            .map_err(doing("unsharing namespaces"))
    })?;
    crate::mapped::try_out(dir, users.as_fd())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_a_pod_are_ids_of_the_node() {
        let ids = IdRange {
            first: 131_072,
            length: 65_536,
        };
        assert_eq!(ids.on_node(0), Some(131_072));
        assert_eq!(ids.on_node(65_535), Some(196_607));
        assert_eq!(ids.on_node(65_536), None);
    }
}
