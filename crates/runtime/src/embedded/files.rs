//! What the agent keeps on disk of a pod, beside what the shim leaves there.
//!
//! ```text
//! <state>/<uid>/sandbox.json            written before anything else is made
//!               shim.sock  shim.log
//!               hosts  hostname  resolv.conf
//!               containers/<id>/attempt.json   written before the attempt is made
//!                               notes.json
//!                               run.json  exit.json            (by the shim)
//!                               config.json  oci/  upper/  work/  merged/
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use api::node::{Requirements, Uid};
use serde::{Deserialize, Serialize};
use shim::protocol::IdRange;
use shim::record;

use crate::{RuntimeError, SandboxConfig};

pub(super) const SANDBOX_FILE: &str = "sandbox.json";
pub(super) const SOCKET_FILE: &str = "shim.sock";
pub(super) const SHIM_LOG_FILE: &str = "shim.log";
pub(super) const HOSTS_FILE: &str = "hosts";
pub(super) const HOSTNAME_FILE: &str = "hostname";
pub(super) const RESOLV_CONF_FILE: &str = "resolv.conf";
pub(super) const ATTEMPT_FILE: &str = "attempt.json";
pub(super) const NOTES_FILE: &str = "notes.json";

/// How far a sandbox has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Phase {
    /// Begun; anything of it may or may not exist.
    Making,
    /// Its shim runs and its network is attached.
    Ready,
    /// Nothing of it runs.
    Stopped,
}

/// The pod's sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SandboxRecord {
    pub(super) config: SandboxConfig,
    pub(super) created_at_ns: i64,
    pub(super) phase: Phase,
    pub(super) ips: Vec<IpAddr>,
    /// The shim, to end it should it not listen any more.
    pub(super) shim_pid: Option<i32>,
    /// What the agent noted on it.
    #[serde(default)]
    pub(super) notes: Notes,
    /// The node's ids that are the pod's own users.
    #[serde(default)]
    pub(super) ids: Option<IdRange>,
}

/// What the agent noted on an attempt.
pub(super) type Notes = BTreeMap<String, String>;

/// One attempt of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct AttemptRecord {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) attempt: u32,
    pub(super) image: String,
    pub(super) image_id: String,
    pub(super) created_at_ns: i64,
    /// The sandbox it was made in.
    pub(super) sandbox_attempt: u32,
    /// Sent by `stop` when the pod names none.
    pub(super) stop_signal: i32,
    /// What it may use, as last set.
    #[serde(default)]
    pub(super) resources: Option<Requirements>,
}

/// The directory of one pod.
#[derive(Clone, Debug)]
pub(super) struct PodDir(pub(super) PathBuf);

/// Wraps a system error with what was being done.
pub(super) fn doing(what: &str, path: &Path) -> impl FnOnce(io::Error) -> RuntimeError {
    let doing = format!("{what} {}", path.display());
    move |source| RuntimeError::Io { doing, source }
}

impl PodDir {
    pub(super) fn new(state_dir: &Path, uid: &Uid) -> Self {
        Self(state_dir.join(uid.as_str()))
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(super) fn attempt_dir(&self, id: &str) -> PathBuf {
        self.0.join(record::CONTAINERS_DIR).join(id)
    }

    pub(super) fn create(&self) -> Result<(), RuntimeError> {
        use std::os::unix::fs::DirBuilderExt;
        let containers = self.0.join(record::CONTAINERS_DIR);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&containers)
            .map_err(|error| RuntimeError::PodDirectory(format!("mkdir {}: {error}", containers.display())))
    }

    pub(super) fn read_sandbox(&self) -> Result<Option<SandboxRecord>, RuntimeError> {
        let path = self.file(SANDBOX_FILE);
        record::read(&path).map_err(doing("reading", &path))
    }

    pub(super) fn write_sandbox(&self, sandbox: &SandboxRecord) -> Result<(), RuntimeError> {
        let path = self.file(SANDBOX_FILE);
        record::write(&path, sandbox, false).map_err(doing("writing", &path))
    }

    /// Every attempt with a whole record, oldest first, and its notes.
    pub(super) fn read_attempts(&self) -> Result<Vec<(AttemptRecord, Notes)>, RuntimeError> {
        let containers = self.0.join(record::CONTAINERS_DIR);
        let entries = match fs::read_dir(&containers) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(doing("listing", &containers)(error)),
        };
        let mut attempts = Vec::new();
        for entry in entries {
            let dir = entry.map_err(doing("listing", &containers))?.path();
            let Some(attempt) = record::read::<AttemptRecord>(&dir.join(ATTEMPT_FILE)).map_err(doing("reading", &dir))? else {
                // Begun, and the agent died before the record was whole.
                fs::remove_dir_all(&dir).map_err(doing("removing", &dir))?;
                continue;
            };
            let notes = record::read(&dir.join(NOTES_FILE))
                .map_err(doing("reading", &dir))?
                .unwrap_or_default();
            attempts.push((attempt, notes));
        }
        attempts.sort_by(|(a, _), (b, _)| (a.created_at_ns, &a.id).cmp(&(b.created_at_ns, &b.id)));
        Ok(attempts)
    }
}

/// Removes a directory tree; what is gone is success.
pub(super) fn remove_tree(path: &Path) -> Result<(), RuntimeError> {
    let removed = match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // Nothing of ours, but in the place of it: it would stay for ever.
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => fs::remove_file(path),
        removed => removed,
    };
    removed.map_err(doing("removing", path))
}
