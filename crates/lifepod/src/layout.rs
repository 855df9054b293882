//! Where a platform keeps what: one data directory.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{FlockOperation, flock};

/// The paths below a data directory.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    root: PathBuf,
}

impl Layout {
    /// The layout of a data directory, which need not exist.
    pub(crate) fn new(root: &Path) -> Result<Self> {
        let root = std::path::absolute(root).with_context(|| format!("the data directory {} has no absolute path", root.display()))?;
        Ok(Self { root })
    }

    /// Makes the data directory, for root alone; one that is there already
    /// must not be another user's to change, since what is in it runs as root.
    pub(crate) fn create(&self) -> Result<()> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.root)
            .with_context(|| {
                format!(
                    "cannot make the data directory {}; choose another one with --data-dir",
                    self.root.display()
                )
            })?;
        let about = std::fs::metadata(&self.root).with_context(|| format!("cannot look at {}", self.root.display()))?;
        ensure!(
            about.uid() == rustix::process::geteuid().as_raw() && about.mode() & 0o022 == 0,
            "the data directory {} belongs to or can be changed by another user (owner {}, mode {:o}); \
             `chown` and `chmod go-w` it, or choose another one with --data-dir",
            self.root.display(),
            about.uid(),
            about.mode() & 0o7777
        );
        Ok(())
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn exists(&self) -> bool {
        self.root.is_dir()
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.root.join("store")
    }

    pub(crate) fn pki(&self) -> PathBuf {
        self.root.join("pki")
    }

    pub(crate) fn service_account_key(&self) -> PathBuf {
        self.pki().join("sa.key")
    }

    pub(crate) fn encryption_keys(&self) -> PathBuf {
        self.root.join("encryption.json")
    }

    pub(crate) fn audit_log(&self) -> PathBuf {
        self.root.join("audit").join("audit.log")
    }

    pub(crate) fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    pub(crate) fn network(&self) -> PathBuf {
        self.root.join("net")
    }

    pub(crate) fn pods(&self) -> PathBuf {
        self.root.join("pods")
    }

    pub(crate) fn volumes(&self) -> PathBuf {
        self.root.join("volumes")
    }

    /// Persistent volumes made for claims. They stay when the platform goes.
    pub(crate) fn local_path(&self) -> PathBuf {
        self.root.join("local-path")
    }

    pub(crate) fn pod_logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// The flight recorder's log.
    pub(crate) fn flights(&self) -> PathBuf {
        self.root.join("flights")
    }

    /// The operator's own seccomp profiles, named by `localhostProfile`.
    pub(crate) fn seccomp(&self) -> PathBuf {
        self.root.join("seccomp")
    }

    pub(crate) fn admin_kubeconfig(&self) -> PathBuf {
        self.root.join("admin.kubeconfig")
    }

    fn lock_file(&self) -> PathBuf {
        self.root.join("lifepod.lock")
    }
}

/// Held while a platform runs on a data directory. The kernel releases it
/// with the process, however that ends.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the data directory, and leaves this process' id in it.
    pub(crate) fn take(layout: &Layout) -> Result<Self> {
        match Self::try_take(layout)? {
            Ok(lock) => Ok(lock),
            Err(pid) => bail!(
                "the data directory {} is in use by process {pid}; stop it with `lifepod down`, or choose another directory with --data-dir",
                layout.root.display()
            ),
        }
    }

    /// The same, giving the holder's process id if it is taken.
    pub(crate) fn try_take(layout: &Layout) -> Result<std::result::Result<Self, u32>> {
        let path = layout.lock_file();
        let mut file = OpenOptions::new()
            .create(true)
            .read(true)
            .write(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut text = String::new();
                file.read_to_string(&mut text)
                    .with_context(|| format!("cannot read {}", path.display()))?;
                return Ok(Err(text.trim().parse().unwrap_or(0)));
            }
            Err(error) => return Err(error).with_context(|| format!("cannot lock {}", path.display())),
        }
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .with_context(|| format!("cannot write {}; is the disk full?", path.display()))?;
        Ok(Ok(Self { _file: file }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_directory_that_others_can_change_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(&dir.path().join("data")).unwrap();
        layout.create().unwrap();
        assert_eq!(std::fs::metadata(layout.root()).unwrap().mode() & 0o777, 0o700);
        for (mode, taken) in [(0o755, true), (0o775, false), (0o1777, false)] {
            std::fs::set_permissions(layout.root(), std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(layout.create().is_ok(), taken, "{mode:o}");
        }
    }

    #[test]
    fn a_data_directory_has_one_owner_who_can_be_named() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path()).unwrap();
        let held = Lock::take(&layout).unwrap();
        assert_eq!(Lock::try_take(&layout).unwrap().unwrap_err(), std::process::id());
        let refusal = Lock::take(&layout).unwrap_err().to_string();
        assert!(refusal.contains("lifepod down"), "{refusal}");
        drop(held);
        assert!(Lock::try_take(&layout).unwrap().is_ok());
    }
}
