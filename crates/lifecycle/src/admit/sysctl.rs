//! Which kernel parameters a pod may set: those the kernel keeps per namespace,
//! and that do not reach beyond the pod.
//!
//! Source: upstream `kubelet/sysctl/{allowlist,safe_sysctls}.go`; API page
//! "Using sysctls in a Kubernetes Cluster".

use api::typed::{Pod, PodSpec};

use crate::input::Rejection;

/// What a pod may set on any node.
const SAFE: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];

/// The namespace a safe parameter is kept in.
fn namespace(name: &str) -> &'static str {
    if name.starts_with("net.") { "net" } else { "ipc" }
}

/// `a/b` is another way to write `a.b`; where `/` comes first, a dot is part
/// of a name. Source: sysctl(8).
#[must_use]
pub fn dotted(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(at) if name.as_bytes()[at] == b'/' => name
            .chars()
            .map(|c| match c {
                '/' => '.',
                '.' => '/',
                other => other,
            })
            .collect(),
        _ => name.to_owned(),
    }
}

/// Refuses a pod for the first parameter it may not set.
pub(super) fn admit(pod: &Pod) -> Result<(), Rejection> {
    let Some(spec) = &pod.spec else { return Ok(()) };
    let sysctls = spec.security_context.iter().flat_map(|context| context.sysctls.iter().flatten());
    sysctls.map(|sysctl| dotted(&sysctl.name)).try_for_each(|name| allowed(&name, spec))
}

fn allowed(name: &str, spec: &PodSpec) -> Result<(), Rejection> {
    let refused = |why: &str| {
        Err(Rejection {
            reason: "SysctlForbidden".to_owned(),
            message: format!("forbidden sysctl: {name:?} {why}"),
        })
    };
    if !SAFE.contains(&name) {
        return refused("not allowlisted");
    }
    match namespace(name) {
        "net" if spec.host_network == Some(true) => refused("not allowed with host net enabled"),
        "ipc" if spec.host_ipc == Some(true) => refused("not allowed with host ipc enabled"),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn verdict(name: &str, host_network: bool, host_ipc: bool) -> Result<(), String> {
        let pod = serde_json::from_value(json!({
            "metadata": {},
            "spec": {
                "containers": [], "hostNetwork": host_network, "hostIPC": host_ipc,
                "securityContext": { "sysctls": [{ "name": name, "value": "1" }] }
            }
        }));
        admit(&pod.unwrap()).map_err(|rejection| {
            assert_eq!(rejection.reason, "SysctlForbidden");
            rejection.message
        })
    }

    #[test]
    fn only_what_stays_inside_the_pod_may_be_set() {
        assert_eq!(verdict("net.ipv4.tcp_syncookies", false, true), Ok(()));
        assert_eq!(verdict("net/ipv4/tcp_syncookies", false, false), Ok(()));
        assert_eq!(verdict("kernel.shm_rmid_forced", true, false), Ok(()));
        for (name, network, ipc, message) in [
            ("kernel.msgmax", false, false, "forbidden sysctl: \"kernel.msgmax\" not allowlisted"),
            ("vm.swappiness", false, false, "forbidden sysctl: \"vm.swappiness\" not allowlisted"),
            (
                "net.ipv4.tcp_syncookies",
                true,
                false,
                "forbidden sysctl: \"net.ipv4.tcp_syncookies\" not allowed with host net enabled",
            ),
            (
                "kernel.shm_rmid_forced",
                false,
                true,
                "forbidden sysctl: \"kernel.shm_rmid_forced\" not allowed with host ipc enabled",
            ),
        ] {
            assert_eq!(verdict(name, network, ipc), Err(message.to_owned()));
        }
    }
}
