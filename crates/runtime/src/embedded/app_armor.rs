//! Which AppArmor profile a container's processes are under.
//!
//! The kernel holds the profiles; the node's administrator loads those that
//! pods name, and this module the default one, by the host's `apparmor_parser`,
//! when the first container needs it. The shim asks the kernel for the change
//! at the program's start.
//!
//! Source: containerd, CRI server, `generateApparmorSpecOpts`;
//! `contrib/apparmor`, `WithDefaultProfile`; runc, `libcontainer/apparmor`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt;

use crate::{AppArmor, ContainerConfig};

/// Name of the default profile.
const DEFAULT: &str = "lifepod-default";
/// Its text.
const DEFAULT_PROFILE: &str = include_str!("app_armor/lifepod-default");
/// How long loading it may take; compiling takes a second on a slow machine.
const LOAD: Duration = Duration::from_secs(30);
/// Before every refusal, as containerd has it.
const REFUSED: &str = "failed to generate apparmor spec opts";

/// AppArmor of this host's kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kernel {
    /// It confines processes. Does not change while it runs.
    pub(super) enabled: bool,
    /// The file that lists the profiles it has.
    profiles: PathBuf,
    /// The program that loads profiles.
    parser: PathBuf,
}

/// What is to be done for one container.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Decision {
    /// Nothing confines it.
    None,
    /// A profile that is loaded.
    Use(String),
    /// The default profile, which has to be loaded first.
    Load,
}

impl Kernel {
    /// That of the host whose files are below `root`.
    pub(super) fn below(root: &Path) -> Self {
        let enabled = std::fs::read_to_string(root.join("sys/module/apparmor/parameters/enabled"));
        Self {
            enabled: enabled.is_ok_and(|text| text.starts_with('Y')),
            profiles: root.join("sys/kernel/security/apparmor/profiles"),
            parser: root.join("sbin/apparmor_parser"),
        }
    }

    /// The profile a container is to be under; loads the default one.
    ///
    /// # Errors
    /// A profile that cannot be had here, for people.
    pub(super) async fn profile(&self, container: &ContainerConfig) -> Result<Option<String>, String> {
        if !self.enabled && container.app_armor == AppArmor::Unsaid {
            return Ok(None); // most hosts without it, on every start
        }
        match decide(container, self.enabled, self.loaded().as_ref(), self.parser.exists())? {
            Decision::None => Ok(None),
            Decision::Use(name) => Ok(Some(name)),
            Decision::Load => match tokio::time::timeout(LOAD, self.load()).await {
                Ok(Ok(())) => Ok(Some(DEFAULT.to_owned())),
                Ok(Err(cause)) => Err(format!("{REFUSED}: loading the profile {DEFAULT}: {cause}")),
                Err(_) => Err(format!(
                    "{REFUSED}: loading the profile {DEFAULT}: {} did not end within {} s",
                    self.parser.display(),
                    LOAD.as_secs()
                )),
            },
        }
    }

    /// The profiles the kernel has; `None` where it does not show them.
    fn loaded(&self) -> Option<BTreeSet<String>> {
        let text = std::fs::read_to_string(&self.profiles).ok()?;
        Some(text.lines().filter_map(named).map(str::to_owned).collect())
    }

    /// Loads the default profile, or replaces it. Dropped, the parser is killed,
    /// and the kernel has the profile or not.
    async fn load(&self) -> std::io::Result<()> {
        let mut parser = tokio::process::Command::new(&self.parser)
            .arg("--skip-cache")
            .arg("--replace")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        if let Some(mut input) = parser.stdin.take() {
            input.write_all(DEFAULT_PROFILE.as_bytes()).await?;
        }
        let ended = parser.wait_with_output().await?;
        if ended.status.success() {
            return Ok(());
        }
        let complaint = String::from_utf8_lossy(&ended.stderr);
        Err(std::io::Error::other(format!(
            "{} failed ({}): {}",
            self.parser.display(),
            ended.status,
            complaint.trim()
        )))
    }
}

/// The profile a line of the kernel's list names: `name (mode)`, or
/// `:namespace://name (mode)`. A name may hold spaces and brackets.
fn named(line: &str) -> Option<&str> {
    line.rsplit_once(" (").map(|(name, _)| name)
}

/// What a container asks for, beside what there is: `loaded` profiles, and
/// whether others can be loaded.
fn decide(container: &ContainerConfig, enabled: bool, loaded: Option<&BTreeSet<String>>, has_parser: bool) -> Result<Decision, String> {
    let has = |name: &str| loaded.is_some_and(|profiles| profiles.contains(name));
    let default = || match has(DEFAULT) {
        true => Decision::Use(DEFAULT.to_owned()),
        false => Decision::Load,
    };
    match &container.app_armor {
        AppArmor::RuntimeDefault | AppArmor::Localhost(_) if !enabled => Err(format!("{REFUSED}: apparmor is not supported")),
        _ if container.privileged => Ok(Decision::None),
        AppArmor::Unconfined => Ok(Decision::None),
        // A host that could not load it is, to containerd, one without AppArmor.
        AppArmor::Unsaid if !enabled || loaded.is_none() || !(has_parser || has(DEFAULT)) => Ok(Decision::None),
        AppArmor::RuntimeDefault if !(has_parser || has(DEFAULT)) => Err(format!(
            "{REFUSED}: the profile {DEFAULT} is not loaded, and this host has no /sbin/apparmor_parser to load it: \
             install AppArmor's tools, or ask for a profile that is loaded (type: Localhost)"
        )),
        AppArmor::Unsaid | AppArmor::RuntimeDefault => Ok(default()),
        AppArmor::Localhost(name) if has(name) => Ok(Decision::Use(name.clone())),
        AppArmor::Localhost(name) => Err(format!("{REFUSED}: apparmor profile not found {name}")),
    }
}

#[cfg(test)]
mod tests;
