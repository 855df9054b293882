//! What a shim leaves on disk, so that an exit is known whoever dies next.
//!
//! Per attempt, in `containers/<id>/` of the pod's directory: `run.json` once
//! its process runs and `exit.json` once it has ended. Both are written to a
//! new name and renamed, so a reader sees all of a record or none of it.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// In a pod's directory: one directory per attempt, named by its identity.
pub const CONTAINERS_DIR: &str = "containers";
/// In a pod's directory: the tmpfs that is every container's `/dev/shm`. It is
/// mounted in the shim's mount namespace only.
pub const SHM_DIR: &str = "shm";
/// In an attempt's directory: the file mounted at `terminationMessagePath`.
pub const MESSAGE_FILE: &str = "termination-log";
/// Written when the process has been started.
pub const RUN_FILE: &str = "run.json";
/// Written when it has ended.
pub const EXIT_FILE: &str = "exit.json";

/// The process of a running attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRecord {
    /// Its process id on the node.
    pub pid: i32,
    /// When it was started, in nanoseconds since the Unix epoch.
    pub started_at_ns: i64,
}

/// How an attempt ended. Times are nanoseconds since the Unix epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// Exit code; 128 + signal when a signal ended it.
    pub code: i32,
    /// The signal that ended it.
    #[serde(default)]
    pub signal: Option<i32>,
    /// `None` when the process never ran.
    #[serde(default)]
    pub started_at_ns: Option<i64>,
    /// When it ended.
    pub finished_at_ns: i64,
    /// Why.
    pub cause: Cause,
    /// Runtime's message, then the termination message.
    #[serde(default)]
    pub message: String,
}

/// Why an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cause {
    /// The process exited or was ended by a signal.
    Process,
    /// The kernel killed it for want of memory in its cgroup.
    OutOfMemory,
    /// The process could not be started.
    StartError,
    /// The exit status was lost with the shim.
    Lost,
}

/// Writes `value` as JSON under `path`, whole or not at all, mode 0600.
/// With `durable` its content is on the disk before its name is, so a loss of
/// power leaves the old record or the new, never an empty one.
///
/// # Errors
/// The file system's; the old content, if any, is then untouched.
pub fn write<T: Serialize>(path: &Path, value: &T, durable: bool) -> io::Result<()> {
    let bytes = serde_json::to_vec(value)?;
    write_bytes(path, &bytes, 0o600, durable)
}

/// [`write`] for content that is not JSON.
///
/// # Errors
/// As [`write`].
pub fn write_bytes(path: &Path, bytes: &[u8], mode: u32, durable: bool) -> io::Result<()> {
    let mut new_name = path.as_os_str().to_owned();
    new_name.push(".new");
    let new_path = Path::new(&new_name);
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(new_path)?;
    file.write_all(bytes)?;
    if durable {
        file.sync_data()?;
    }
    drop(file);
    fs::rename(new_path, path)?;
    Ok(())
}

/// Reads a record; `None` if there is none.
///
/// # Errors
/// The file system's, and `InvalidData` for content that is not the record.
pub fn read<T: for<'a> Deserialize<'a>>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|cause| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {cause}", path.display()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Nanoseconds since the Unix epoch, now.
#[must_use]
pub fn now_ns() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    now.tv_sec.saturating_mul(1_000_000_000).saturating_add(now.tv_nsec)
}

/// When a process ended that began at `started_at_ns` and whose end was noticed
/// at `now_ns`, both in nanoseconds of the Unix epoch. Start and end of a brief
/// one are noticed together, and a host's clock may be set back between them:
/// what is recorded never ends before it began.
pub(crate) fn finish_ns(started_at_ns: Option<i64>, now_ns: i64) -> i64 {
    started_at_ns.map_or(now_ns, |started_at_ns| started_at_ns.max(now_ns))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_all_there_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(EXIT_FILE);
        assert_eq!(read::<ExitRecord>(&path).unwrap(), None);
        let exit = ExitRecord {
            code: 3,
            signal: None,
            started_at_ns: Some(1),
            finished_at_ns: 2,
            cause: Cause::Process,
            message: "bye".into(),
        };
        write(&path, &exit, true).unwrap();
        assert_eq!(read(&path).unwrap(), Some(exit));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        fs::write(&path, "{").unwrap();
        assert_eq!(read::<ExitRecord>(&path).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn nothing_ends_before_it_began() {
        assert_eq!(finish_ns(Some(5), 7), 7);
        assert_eq!(finish_ns(Some(5), 4), 5, "the clock was set back");
        assert_eq!(finish_ns(None, 4), 4, "it never began");
    }
}
