//! Network namespaces: naming the caller's, and working inside another.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::thread;

use nix::sched::{CloneFlags, setns};

/// Virtual size of a namespace thread's stack; what it does is shallow.
const STACK_BYTES: usize = 256 * 1024;

/// The calling thread's network namespace.
pub(crate) fn current() -> io::Result<OwnedFd> {
    open(Path::new("/proc/thread-self/ns/net"))
}

/// The namespace behind a file of `/proc/PID/ns/net` kind, or bound to one.
pub(crate) fn open(path: &Path) -> io::Result<OwnedFd> {
    Ok(File::open(path)?.into())
}

/// Does `work` on a short-lived thread inside `netns` and waits for it.
///
/// Sockets belong to the namespace of the thread that opens them, child
/// processes and `/proc/sys/net` to that of the thread that asks; moving a
/// thread of a pool instead would leave the next user of it somewhere else.
pub(crate) fn within<T: Send>(netns: impl AsFd, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let netns = netns.as_fd();
    thread::scope(|scope| {
        let thread = thread::Builder::new()
            .name("netns".to_owned())
            .stack_size(STACK_BYTES)
            .spawn_scoped(scope, || {
                setns(netns, CloneFlags::CLONE_NEWNET)?;
                work()
            })?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
