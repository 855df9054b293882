//! Forking workers, and becoming a container's program.

use std::ffi::{CString, NulError};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::unistd::{ForkResult, fork};
use serde::{Deserialize, Serialize};

use crate::seccomp::Filters;

/// Exit code of a program that could not be started. Source: containerd, StartError.
pub(crate) const CODE_NOT_STARTED: i32 = 128;

/// The exit code people know of a wait status: 128 + signal for a signal.
pub(crate) fn exit_code(wait_status: i32) -> i32 {
    if libc::WIFSIGNALED(wait_status) {
        128 + libc::WTERMSIG(wait_status)
    } else {
        libc::WEXITSTATUS(wait_status)
    }
}

/// Why a program could not be started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StartFailure {
    pub(crate) code: i32,
    pub(crate) message: String,
}

/// Forks. The child is born into the version 2 cgroup `birthplace`, runs
/// `work` with default signals and no descriptors but the standard ones and
/// `keep`, and exits; it never returns here. Gives its id.
pub(crate) fn fork_worker(birthplace: Option<&File>, keep: &[RawFd], work: impl FnOnce() -> i32) -> io::Result<i32> {
    match fork_into(birthplace)? {
        Some(child) => Ok(child),
        None => {
            let code = catch_unwind(AssertUnwindSafe(|| {
                default_signals();
                close_others(keep);
                work()
            }))
            .unwrap_or(1);
            // SAFETY: ends the child without running the parent's destructors.
            unsafe { libc::_exit(code) }
        }
    }
}

/// Source: Linux `uapi/linux/sched.h`.
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// `struct clone_args`. Source: clone3(2).
#[repr(C)]
#[derive(Default)]
struct CloneRequest {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// `fork(2)`, into a version 2 cgroup if one is given: the child's id to the
/// parent, `None` to the child.
pub(crate) fn fork_into(birthplace: Option<&File>) -> io::Result<Option<i32>> {
    if let Some(group) = birthplace {
        let request = CloneRequest {
            flags: CLONE_INTO_CGROUP,
            exit_signal: libc::SIGCHLD as u64,
            cgroup: u64::from(group.as_raw_fd().unsigned_abs()),
            ..CloneRequest::default()
        };
        // SAFETY: as for `fork` below; without a stack of its own and without
        // shared memory the child goes on as `fork`'s does.
        let child = unsafe { libc::syscall(libc::SYS_clone3, &raw const request, std::mem::size_of::<CloneRequest>()) };
        match child {
            0 => return Ok(None),
            1.. => return i32::try_from(child).map(Some).map_err(io::Error::other),
            _ => {}
        }
        let error = io::Error::last_os_error();
        // Before Linux 5.7, or where a filter forbids it: by the slow way.
        if !matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::E2BIG | libc::EINVAL | libc::EPERM)) {
            return Err(error);
        }
    }
    // SAFETY: the shim has one thread, so the child has all of its memory in a
    // consistent state and may allocate.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(Some(child.as_raw())),
        ForkResult::Child => {
            if let Some(group) = birthplace {
                let procs = format!("/proc/self/fd/{}/cgroup.procs", group.as_raw_fd());
                if let Err(cause) = std::fs::write(&procs, "0") {
                    eprintln!("entering a cgroup: {cause}");
                    // SAFETY: as above.
                    unsafe { libc::_exit(1) }
                }
            }
            Ok(None)
        }
    }
}

/// Undoes what a Rust program and the shim set up and `execve` would pass on.
fn default_signals() {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    for signal in [Signal::SIGPIPE, Signal::SIGCHLD] {
        // SAFETY: the default action is no handler of ours. It cannot fail for
        // these two signals.
        let _ = unsafe { sigaction(signal, &default) };
    }
    let _ = SigSet::empty().thread_set_mask();
}

fn close_others(keep: &[RawFd]) {
    let mut keep: Vec<RawFd> = keep.iter().copied().filter(|fd| *fd > 2).collect();
    keep.sort_unstable();
    let mut from = 3;
    for fd in keep {
        close_range(from, fd - 1);
        from = fd + 1;
    }
    close_range(from, RawFd::MAX);
}

fn close_range(from: RawFd, to: RawFd) {
    if from <= to {
        // SAFETY: only descriptors of objects that this forked child will
        // never use nor drop, since it leaves by `_exit`.
        unsafe { libc::syscall(libc::SYS_close_range, from, to, 0) };
    }
}

/// Becomes the program: looks it up, puts the filters on, which are not to be
/// in the way before, and executes it. Returns only on failure.
pub(crate) fn exec(args: &[String], env: &[String], filters: &Filters) -> StartFailure {
    let Some(name) = args.first() else {
        return StartFailure {
            code: CODE_NOT_STARTED,
            message: "no command specified: neither the container nor its image names one".into(),
        };
    };
    let path = env.iter().rev().find_map(|e| e.strip_prefix("PATH=")).unwrap_or_default();
    let program = match look_up(name, path, probe) {
        Ok(program) => program,
        Err(failure) => return failure,
    };
    let strings = |list: &[String]| list.iter().map(|s| CString::new(s.as_str())).collect::<Result<Vec<_>, NulError>>();
    let (Ok(file), Ok(args), Ok(env)) = (CString::new(program.as_str()), strings(args), strings(env)) else {
        return StartFailure {
            code: CODE_NOT_STARTED,
            message: format!("exec {name:?}: an argument or variable holds a NUL byte"),
        };
    };
    if let Err(cause) = filters.put_on() {
        return StartFailure {
            code: CODE_NOT_STARTED,
            message: format!("applying the seccomp profile: {}", plain(&cause)),
        };
    }
    let Err(errno) = nix::unistd::execve(&file, &args, &env);
    let reason = io::Error::from(errno);
    StartFailure {
        code: CODE_NOT_STARTED,
        message: format!("exec {program}: {}", plain(&reason)),
    }
}

/// What `exec` needs to know of a path: an executable file, or why not.
fn probe(path: &str) -> io::Result<()> {
    let meta = std::fs::metadata(path)?;
    if meta.is_dir() {
        Err(io::Error::from_raw_os_error(libc::EISDIR))
    } else if meta.permissions().mode() & 0o111 == 0 {
        Err(io::Error::from_raw_os_error(libc::EACCES))
    } else {
        Ok(())
    }
}

/// Source: Go's `exec.LookPath`, whose texts users of kubectl know.
fn look_up(name: &str, path: &str, probe: impl Fn(&str) -> io::Result<()>) -> Result<String, StartFailure> {
    let failed = |code, why: &str| StartFailure {
        code,
        message: format!("exec: {name:?}: {why}"),
    };
    if name.contains('/') {
        return match probe(name) {
            Ok(()) => Ok(name.to_owned()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(failed(CODE_NOT_STARTED, &format!("stat {name}: {}", plain(&error))))
            }
            Err(error) => Err(failed(CODE_NOT_STARTED, &plain(&error))),
        };
    }
    path.split(':')
        .map(|dir| format!("{}/{name}", if dir.is_empty() { "." } else { dir }))
        .find(|candidate| probe(candidate).is_ok())
        .ok_or_else(|| failed(CODE_NOT_STARTED, "executable file not found in $PATH"))
}

/// The system's reason without Rust's "(os error 2)", in lower case as Go has it.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}

/// Writes all of `bytes` to a descriptor known by number only.
pub(crate) fn write_all(fd: RawFd, mut bytes: &[u8]) -> io::Result<()> {
    // SAFETY: callers pass a number they have just been given as open.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    while !bytes.is_empty() {
        match rustix::io::write(fd, bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Gives a pipe to the user at its other end, who may open it by its name in
/// `/proc`; anything else stays whose it is. Source: runc, `fixStdioPermissions`.
pub(crate) fn give_pipe(stream: BorrowedFd<'_>, owner: u32) -> io::Result<()> {
    let about = rustix::fs::fstat(stream)?;
    if rustix::fs::FileType::from_raw_mode(about.st_mode) == rustix::fs::FileType::Fifo {
        rustix::fs::fchown(stream, Some(rustix::fs::Uid::from_raw(owner)), None)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(name: &str, path: &str) -> Result<String, StartFailure> {
        look_up(name, path, |at| match at {
            "/bin/sh" | "./here" => Ok(()),
            "/etc/passwd" => Err(io::Error::from_raw_os_error(libc::EACCES)),
            _ => Err(io::Error::from_raw_os_error(libc::ENOENT)),
        })
    }

    #[test]
    fn programs_are_looked_up_as_users_expect() {
        assert_eq!(look("sh", "/usr/bin:/bin").unwrap(), "/bin/sh");
        assert_eq!(look("here", "/bin:").unwrap(), "./here");
        assert_eq!(look("/bin/sh", "").unwrap(), "/bin/sh");
        let missing = look("foo", "/bin").unwrap_err();
        assert_eq!(
            (missing.code, missing.message.as_str()),
            (128, "exec: \"foo\": executable file not found in $PATH")
        );
        let missing = look("/foo", "/bin").unwrap_err();
        assert_eq!(
            (missing.code, missing.message.as_str()),
            (128, "exec: \"/foo\": stat /foo: no such file or directory")
        );
        let forbidden = look("/etc/passwd", "/bin").unwrap_err();
        assert_eq!(
            (forbidden.code, forbidden.message.as_str()),
            (128, "exec: \"/etc/passwd\": permission denied")
        );
    }

    #[test]
    fn nothing_to_run_is_said_so() {
        assert!(exec(&[], &[], &Filters::default()).message.starts_with("no command specified"));
    }
}
