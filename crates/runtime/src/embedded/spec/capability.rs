//! Which capabilities a container gets, and what this host can give.

use shim::cgroup::Trees;

use super::super::app_armor::Kernel;
use crate::{ContainerConfig, Seccomp};

const ADMIN: &str = "CAP_SYS_ADMIN";

/// Source: containerd, `defaultUnixCaps`.
const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// By the kernel's number. Source: Linux `uapi/linux/capability.h`.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What the host can give to containers.
#[derive(Clone, Debug)]
pub(in crate::embedded) struct Host {
    pub(in crate::embedded) trees: Trees,
    /// Capabilities this process may pass on, one bit each.
    pub(in crate::embedded) capabilities: u64,
    /// The OOM score of this process, which containers start from.
    pub(in crate::embedded) own_oom_score: i32,
    pub(in crate::embedded) app_armor: Kernel,
}

impl Host {
    /// Capabilities in `/proc/self/status`.
    pub(in crate::embedded) fn capabilities_of(status: &str) -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
        line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0)
    }

    /// The score to set: lower than its own only what may raise limits can.
    /// Source: containerd, `restrict_oom_score_adj`; proc(5).
    pub(in crate::embedded) fn oom_score(&self, wanted: i32) -> i32 {
        if self.has("SYS_RESOURCE") {
            wanted
        } else {
            wanted.max(self.own_oom_score)
        }
    }

    /// What is missing of what containers may ask for.
    pub(in crate::embedded) fn missing(&self) -> Vec<&'static str> {
        NAMES.iter().copied().filter(|name| !self.has(name)).collect()
    }

    fn has(&self, name: &str) -> bool {
        NAMES
            .iter()
            .position(|known| *known == name)
            .is_some_and(|bit| self.capabilities >> bit & 1 == 1)
    }
}

/// The container's bounding set, as OCI names.
///
/// Source: containerd `WithAddedCapabilities`, `WithDroppedCapabilities`: `ALL`
/// is applied before single names, adding before dropping.
pub(in crate::embedded) fn bounding(container: &ContainerConfig, host: &Host) -> Result<Vec<String>, String> {
    let plain = |name: &String| {
        let upper = name.to_ascii_uppercase();
        upper.strip_prefix("CAP_").map_or(upper.clone(), str::to_owned)
    };
    let add: Vec<String> = container.capabilities_add.iter().map(plain).collect();
    let drop: Vec<String> = container.capabilities_drop.iter().map(plain).collect();
    for name in add.iter().chain(&drop).filter(|name| *name != "ALL") {
        if !NAMES.contains(&name.as_str()) {
            return Err(format!("unknown capability {name:?}"));
        }
    }
    for name in add.iter().filter(|name| *name != "ALL") {
        if !host.has(name) {
            return Err(format!(
                "capability {name} is asked for, but this host does not let it be given to containers"
            ));
        }
    }
    let all = |list: &[String]| list.iter().any(|name| name == "ALL");
    let mut names: Vec<&str> = if container.privileged {
        NAMES.to_vec()
    } else if all(&drop) {
        Vec::new()
    } else if all(&add) {
        NAMES.to_vec()
    } else {
        DEFAULT.to_vec()
    };
    names.retain(|name| host.has(name));
    if !container.privileged {
        names.extend(NAMES.iter().filter(|known| add.iter().any(|name| name == **known)));
        names.retain(|known| !drop.iter().any(|name| name == known));
    }
    names.sort_unstable();
    names.dedup();
    Ok(names.into_iter().map(|name| format!("CAP_{name}")).collect())
}

/// What its process holds before it becomes the program: `CAP_SYS_ADMIN` too if
/// it has filters to put on and may gain privileges, else the kernel refuses
/// them (seccomp(2)). Becoming the program takes it away again, since the
/// bounding set does not have it (capabilities(7)).
pub(super) fn held(container: &ContainerConfig, bounding: &[String]) -> Vec<String> {
    let mut held = bounding.to_vec();
    if seccomp(container) != &Seccomp::Unconfined && !container.no_new_privileges && !held.iter().any(|name| name == ADMIN) {
        held.push(ADMIN.to_owned());
    }
    held
}

/// Source: kubelet `getSeccompProfile`, CRI server: a privileged container is unconfined.
pub(in crate::embedded) fn seccomp(container: &ContainerConfig) -> &Seccomp {
    if container.privileged {
        &Seccomp::Unconfined
    } else {
        &container.seccomp
    }
}
