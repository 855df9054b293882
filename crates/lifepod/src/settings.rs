//! What a platform has put on this host, and where: remembered in the data
//! directory from the first `up` until `down`, which needs no flags for it.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::flags::Up;
use crate::layout::Layout;

/// Settings that pods on this host depend on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Settings {
    /// Name of the pods' bridge.
    pub bridge: String,
    /// Addresses of the pods.
    pub pod_cidr: String,
    /// Cgroup that holds all pods.
    pub cgroup_root: String,
}

impl From<&Up> for Settings {
    fn from(up: &Up) -> Self {
        Self {
            bridge: up.bridge.clone(),
            pod_cidr: up.pod_cidr.clone(),
            cgroup_root: up.cgroup_root.clone(),
        }
    }
}

fn path(layout: &Layout) -> PathBuf {
    layout.root().join("host.json")
}

impl Up {
    /// Remembers how the platform was started, for `down`.
    pub(crate) fn keep(&self, layout: &Layout) -> Result<()> {
        let text = serde_json::to_vec_pretty(self).context("encoding the flags of `lifepod up`")?;
        Ok(apiserver::pki::write_file(&layout.root().join("up.json"), &text, 0o600)?)
    }

    /// How the platform was last started.
    pub(crate) fn last(layout: &Layout) -> Result<Self> {
        let path = layout.root().join("up.json");
        let text = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("{} was written by another version", path.display()))
    }
}

impl Settings {
    /// What the last `up` has set here, if nothing was removed since.
    pub(crate) fn read(layout: &Layout) -> Result<Option<Self>> {
        let path = path(layout);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        serde_json::from_slice(&text)
            .map(Some)
            .with_context(|| format!("{} is damaged; put back what `lifepod up` wrote there", path.display()))
    }

    /// Remembers these, or refuses when pods may be here under others.
    pub(crate) fn keep(&self, layout: &Layout) -> Result<()> {
        match Self::read(layout)? {
            Some(known) if known == *self => Ok(()),
            Some(known) => bail!(
                "the pods of this host were started with --bridge {} --pod-cidr {} --cgroup-root {}; use the same again, or run `lifepod down` first",
                known.bridge,
                known.pod_cidr,
                known.cgroup_root
            ),
            None => {
                let text = serde_json::to_vec_pretty(self).context("encoding the host's settings")?;
                Ok(apiserver::pki::write_file(&path(layout), &text, 0o600)?)
            }
        }
    }

    /// Forgets them: nothing is on this host any more.
    pub(crate) fn forget(layout: &Layout) -> Result<()> {
        let path = path(layout);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", path.display()))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_hold_until_the_host_is_clean() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path()).unwrap();
        let one = Settings {
            bridge: "b".into(),
            pod_cidr: "10.0.0.0/24".into(),
            cgroup_root: "c".into(),
        };
        let other = Settings {
            bridge: "b2".into(),
            ..one.clone()
        };
        one.keep(&layout).unwrap();
        one.keep(&layout).unwrap();
        assert!(other.keep(&layout).unwrap_err().to_string().contains("lifepod down"));
        Settings::forget(&layout).unwrap();
        other.keep(&layout).unwrap();
        assert_eq!(Settings::read(&layout).unwrap(), Some(other));
    }
}
