//! The program shims run: a sealed copy in memory.
//!
//! Replacing or writing the file on disk cannot hurt pods that run, nor can a
//! container that reaches the program of the process entering it (the reason
//! runc copies itself, CVE-2019-5736).

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::fs::{MemfdFlags, SealFlags};

use crate::RuntimeError;

/// The program, ready to be run.
#[derive(Debug)]
pub struct ShimExe {
    memory: OwnedFd,
}

impl ShimExe {
    /// This very program; its `main` must give way to [`shim::main`] when the
    /// first argument is [`shim::ROLE`].
    ///
    /// # Errors
    /// A program that cannot be read, or no memory for the copy.
    pub fn of_this_process() -> Result<Self, RuntimeError> {
        Self::from_file(Path::new("/proc/self/exe"))
    }

    /// Another program that does so.
    ///
    /// # Errors
    /// As [`of_this_process`](Self::of_this_process).
    pub fn from_file(path: &Path) -> Result<Self, RuntimeError> {
        Self::copy(path).map_err(|source| RuntimeError::Io {
            doing: format!("copying {} into memory", path.display()),
            source,
        })
    }

    fn copy(path: &Path) -> io::Result<Self> {
        let memory = rustix::fs::memfd_create("lifepod-shim", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        let mut memory = File::from(memory);
        io::copy(&mut File::open(path)?, &mut memory)?;
        let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
        rustix::fs::fcntl_add_seals(memory.as_fd(), seals)?;
        Ok(Self { memory: memory.into() })
    }

    fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.memory.as_raw_fd()))
    }

    /// Tries whether pods can have users of their own who own files in `dir`;
    /// gives why not. In a process of its own, since this one has threads.
    pub(super) fn try_users(&self, dir: &Path) -> io::Result<Option<String>> {
        let tried = std::process::Command::new(self.path())
            .arg0("lifepod")
            .args([shim::ROLE, shim::TRY_USERS])
            .arg(dir)
            .env_clear()
            .stdin(Stdio::null())
            .output()?;
        let why = String::from_utf8_lossy(&tried.stderr).trim().to_owned();
        Ok((!tried.status.success()).then_some(why))
    }

    /// Starts it, listening on `socket`. It belongs to nobody: it is reaped
    /// when it ends, and lives on when this process ends.
    pub(super) fn start(&self, socket: OwnedFd, log: File, args: impl IntoIterator<Item = OsString>) -> io::Result<()> {
        tokio::process::Command::new(self.path())
            .arg0("lifepod")
            .arg(shim::ROLE)
            .args(args)
            .env_clear()
            .stdin(Stdio::from(socket))
            .stdout(Stdio::null())
            .stderr(Stdio::from(log))
            .spawn()
            .map(drop)
    }
}
