//! What a pod spec means to the runtime. Pure: wire types in, port types out.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use api::node::Requirements;
use api::typed::{AppArmorProfile, Container, EphemeralContainer, Pod, PodSpec, SeccompProfile};
use api::{Uid, pods};
use runtime::{AppArmor, ContainerConfig, LogLimits, RunAs, SandboxConfig, Seccomp};

use crate::dns;
use crate::environment::expand;
use crate::pods::log_dir;
use crate::qos;
use crate::resources::{self, NodeLimits};

/// Domain of the cluster. Source: kubeadm's default.
const CLUSTER_DOMAIN: &str = "cluster.local";
/// Most bytes the kernel takes for a host name.
const FULL_NAME_BYTES_MAX: usize = 64;

/// A pod that cannot be put in the runtime's terms.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConfigError {
    /// The full name is longer than the kernel takes.
    #[error(
        "failed to construct FQDN from pod hostname and cluster domain, FQDN {full} is too long ({FULL_NAME_BYTES_MAX} characters is the max, {length} characters requested)"
    )]
    FullName {
        /// The name.
        full: String,
        /// Its length.
        length: usize,
    },
    /// A field that must be there is not.
    #[error("{0}: required")]
    Missing(&'static str),
    /// A field's value cannot be used.
    #[error("{field}: invalid value {value:?}")]
    Invalid {
        /// Path of the field.
        field: String,
        /// Its value.
        value: String,
    },
}

/// The sandbox of a pod.
///
/// # Errors
/// When the pod lacks its identity or an address in it cannot be parsed.
pub fn sandbox(
    pod: &Pod,
    uid: &Uid,
    attempt: u32,
    log_root: &Path,
    node_resolv_conf: &str,
    limits: &NodeLimits,
) -> Result<SandboxConfig, ConfigError> {
    let name = pod.metadata.name.clone().ok_or(ConfigError::Missing("metadata.name"))?;
    let namespace = pod.metadata.namespace.clone().ok_or(ConfigError::Missing("metadata.namespace"))?;
    let spec = pod.spec.as_ref().ok_or(ConfigError::Missing("spec"))?;
    let mut host_aliases = Vec::new();
    for alias in spec.host_aliases.iter().flatten() {
        let ip: IpAddr = alias.ip.parse().map_err(|_| ConfigError::Invalid {
            field: "spec.hostAliases.ip".to_owned(),
            value: alias.ip.clone(),
        })?;
        host_aliases.push((ip, alias.hostnames.clone().unwrap_or_default()));
    }
    let short = hostname(spec, &name);
    let domain = domain(spec, &namespace);
    let hostname = if spec.set_hostname_as_fqdn == Some(true) && !domain.is_empty() {
        full_name(&short, &domain)?
    } else {
        short
    };
    Ok(SandboxConfig {
        log_dir: log_dir(log_root, &namespace, &name, uid),
        pod: uid.clone(),
        attempt,
        hostname,
        domain,
        host_network: spec.host_network.unwrap_or(false),
        host_pid: spec.host_pid.unwrap_or(false),
        host_ipc: spec.host_ipc.unwrap_or(false),
        share_process_namespace: spec.share_process_namespace.unwrap_or(false),
        own_users: spec.host_users == Some(false),
        resolv_conf: dns::form(pod, node_resolv_conf).text,
        host_aliases,
        resources: resources::of_pod(pod, limits),
        cgroup_parent: qos::parent(pod),
        sysctls: sysctls(spec),
        name,
        namespace,
    })
}

fn sysctls(spec: &PodSpec) -> Vec<(String, String)> {
    let asked = spec.security_context.iter().flat_map(|context| context.sysctls.iter().flatten());
    asked
        .map(|sysctl| (lifecycle::sysctl_name(&sysctl.name), sysctl.value.clone()))
        .collect()
}

/// `spec.hostname`, else the pod's name, cut to what a host name may be.
/// Source: upstream `kubelet_pods.go`, `GeneratePodHostNameAndDomain`.
fn hostname(spec: &PodSpec, name: &str) -> String {
    let full = spec.hostname.as_deref().filter(|h| !h.is_empty()).unwrap_or(name);
    let cut: String = full.chars().take(63).collect();
    cut.trim_end_matches(['-', '.']).to_owned()
}

/// Domain of a pod with a subdomain. Source: as above.
fn domain(spec: &PodSpec, namespace: &str) -> String {
    let subdomain = spec.subdomain.as_deref().filter(|subdomain| !subdomain.is_empty());
    subdomain.map_or_else(String::new, |subdomain| format!("{subdomain}.{namespace}.svc.{CLUSTER_DOMAIN}"))
}

/// The full name as a host name. Source: upstream `util/util.go`,
/// `GetNodenameForKernel`.
fn full_name(short: &str, domain: &str) -> Result<String, ConfigError> {
    let full = format!("{short}.{domain}");
    if full.len() > FULL_NAME_BYTES_MAX {
        return Err(ConfigError::FullName { length: full.len(), full });
    }
    Ok(full)
}

/// A container of a pod by its name, ephemeral ones too.
///
/// # Errors
/// When the spec has none of that name.
pub fn wire<'a>(pod: &'a Pod, name: &str) -> Result<Cow<'a, Container>, ConfigError> {
    let spec = pod.spec.as_ref().ok_or(ConfigError::Missing("spec"))?;
    find(spec, name).ok_or_else(|| ConfigError::Invalid {
        field: "container".to_owned(),
        value: name.to_owned(),
    })
}

/// What a container's configuration takes from the node.
#[derive(Clone, Copy, Debug)]
pub struct ThisNode<'a> {
    /// Directory of the node's own seccomp profiles.
    pub seccomp_root: &'a Path,
    /// How much of a container's log is kept.
    pub log_limits: LogLimits,
    /// Memory of the node.
    pub memory_capacity_bytes: u64,
    /// What the node sets on cgroups.
    pub limits: &'a NodeLimits,
}

/// One container of a pod, with the variables it was found to have.
///
/// # Errors
/// When the spec has no container of that name, or a value of it cannot be
/// used.
pub fn container(
    pod: &Pod,
    name: &str,
    attempt: u32,
    env: Vec<(String, String)>,
    node: &ThisNode<'_>,
) -> Result<ContainerConfig, ConfigError> {
    let spec = pod.spec.as_ref().ok_or(ConfigError::Missing("spec"))?;
    let wire = &wire(pod, name)?;
    let pod_security = spec.security_context.clone().unwrap_or_default();
    let security = wire.security_context.clone().unwrap_or_default();
    let capabilities = security.capabilities.unwrap_or_default();
    let id = |field: &str, value: Option<i64>| {
        value
            .map(|id| {
                u32::try_from(id).map_err(|_| ConfigError::Invalid {
                    field: field.to_owned(),
                    value: id.to_string(),
                })
            })
            .transpose()
    };
    let mut supplemental_gids = Vec::new();
    for gid in pod_security.supplemental_groups.iter().flatten() {
        supplemental_gids.extend(id("spec.securityContext.supplementalGroups", Some(*gid))?);
    }
    // Its volumes are given to this group.
    supplemental_gids.extend(id("spec.securityContext.fsGroup", pod_security.fs_group)?);
    let known: BTreeMap<&str, &str> = env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let expand_all = |words: &Option<Vec<String>>| {
        let words = words.iter().flatten();
        words.map(|word| expand(word, |name| known.get(name).copied())).collect()
    };
    Ok(ContainerConfig {
        name: name.to_owned(),
        attempt,
        image: wire.image.clone().unwrap_or_default(),
        command: expand_all(&wire.command),
        args: expand_all(&wire.args),
        env,
        working_dir: wire.working_dir.clone().filter(|dir| !dir.is_empty()),
        run_as: RunAs {
            uid: id("securityContext.runAsUser", security.run_as_user.or(pod_security.run_as_user))?,
            gid: id("securityContext.runAsGroup", security.run_as_group.or(pod_security.run_as_group))?,
            supplemental_gids,
            only_these_groups: pod_security.supplemental_groups_policy.as_deref() == Some("Strict"),
        },
        run_as_non_root: security.run_as_non_root.or(pod_security.run_as_non_root).unwrap_or(false),
        capabilities_add: capabilities.add.unwrap_or_default(),
        capabilities_drop: capabilities.drop.unwrap_or_default(),
        privileged: security.privileged.unwrap_or(false),
        unmasked_proc: security.proc_mount.as_deref() == Some("Unmasked"),
        no_new_privileges: security.allow_privilege_escalation == Some(false),
        seccomp: seccomp(
            security.seccomp_profile.as_ref().or(pod_security.seccomp_profile.as_ref()),
            node.seccomp_root,
        ),
        app_armor: app_armor(security.app_armor_profile.as_ref().or(pod_security.app_armor_profile.as_ref())),
        read_only_root: security.read_only_root_filesystem.unwrap_or(false),
        mounts: Vec::new(),
        termination_message_path: wire
            .termination_message_path
            .clone()
            .unwrap_or_else(|| "/dev/termination-log".to_owned()),
        termination_message_from_log: wire.termination_message_policy.as_deref() == Some("FallbackToLogsOnError"),
        stdin: wire.stdin.unwrap_or(false),
        stdin_once: wire.stdin_once.unwrap_or(false),
        log_limits: node.log_limits,
        tty: wire.tty.unwrap_or(false),
        oom_score: resources::oom_score(pod, wire, node.memory_capacity_bytes),
        requirements: Requirements::of(wire.resources.as_ref()),
        resources: resources::of_container(wire.resources.as_ref(), node.limits)?,
        stop_signal: wire.lifecycle.as_ref().and_then(|lifecycle| lifecycle.stop_signal.clone()),
        target: ephemeral(spec, name).and_then(|own| own.target_container_name.clone().filter(|target| !target.is_empty())),
    })
}

/// `RuntimeDefault` where nothing is said: what the kubelet of upstream does with
/// `seccompDefault`. Source: KEP-2413.
fn seccomp(profile: Option<&SeccompProfile>, root: &Path) -> Seccomp {
    match profile.map(|profile| (profile.type_.as_str(), profile.localhost_profile.as_deref())) {
        Some(("Unconfined", _)) => Seccomp::Unconfined,
        Some(("Localhost", path)) => Seccomp::Localhost(root.join(path.unwrap_or_default())),
        _ => Seccomp::RuntimeDefault,
    }
}

/// Source: upstream `kuberuntime/security_context.go`, `getAppArmorProfile`.
fn app_armor(profile: Option<&AppArmorProfile>) -> AppArmor {
    match profile.map(|profile| (profile.type_.as_str(), profile.localhost_profile.as_deref())) {
        None => AppArmor::Unsaid,
        Some(("Unconfined", _)) => AppArmor::Unconfined,
        Some(("Localhost", name)) => AppArmor::Localhost(name.unwrap_or_default().to_owned()),
        Some(_) => AppArmor::RuntimeDefault,
    }
}

fn find<'a>(spec: &'a PodSpec, name: &str) -> Option<Cow<'a, Container>> {
    let mut others = spec.init_containers.iter().flatten().chain(&spec.containers);
    let found = others.find(|container| container.name == name).map(Cow::Borrowed);
    found.or_else(|| ephemeral(spec, name).map(|own| Cow::Owned(pods::as_container(own))))
}

fn ephemeral<'a>(spec: &'a PodSpec, name: &str) -> Option<&'a EphemeralContainer> {
    spec.ephemeral_containers.iter().flatten().find(|container| container.name == name)
}

/// A command to run in a container, with the variables its spec gives a value.
/// Source: upstream `container/helpers.go`, `ExpandContainerCommandOnlyStatic`.
#[must_use]
pub fn expand_in(pod: &Pod, container: &str, command: &[String]) -> Vec<String> {
    let wire = pod.spec.as_ref().and_then(|spec| find(spec, container));
    let variables = wire.iter().flat_map(|wire| wire.env.iter().flatten());
    let known: BTreeMap<&str, &str> = variables
        .map(|variable| (variable.name.as_str(), variable.value.as_deref().unwrap_or_default()))
        .collect();
    command.iter().map(|word| expand(word, |name| known.get(name).copied())).collect()
}

#[cfg(test)]
mod tests {
    use runtime::Resources;

    use super::*;

    fn node() -> ThisNode<'static> {
        ThisNode {
            seccomp_root: Path::new("/profiles"),
            log_limits: LogLimits::default(),
            memory_capacity_bytes: 1 << 30,
            limits: &NOTHING,
        }
    }

    static NOTHING: NodeLimits = NodeLimits {
        pod_processes_max: None,
        huge_pages: Vec::new(),
    };

    fn pod(spec: &serde_json::Value) -> Pod {
        let text = serde_json::json!({ "metadata": { "name": "a", "namespace": "dev" }, "spec": spec });
        serde_json::from_value(text).unwrap()
    }

    #[test]
    fn a_containers_own_profile_comes_before_the_pods() {
        let app_armor = |of_pod: serde_json::Value, own: serde_json::Value| {
            let pod = pod(&serde_json::json!({
                "securityContext": { "appArmorProfile": of_pod },
                "containers": [{ "name": "c", "image": "i", "securityContext": { "appArmorProfile": own } }]
            }));
            container(&pod, "c", 0, Vec::new(), &node()).unwrap().app_armor
        };
        let (of, none) = (|kind: &str| serde_json::json!({ "type": kind }), serde_json::Value::Null);
        assert_eq!(app_armor(none.clone(), none.clone()), AppArmor::Unsaid);
        assert_eq!(app_armor(of("RuntimeDefault"), none.clone()), AppArmor::RuntimeDefault);
        assert_eq!(app_armor(of("RuntimeDefault"), of("Unconfined")), AppArmor::Unconfined);
        let own = serde_json::json!({ "type": "Localhost", "localhostProfile": "own" });
        assert_eq!(app_armor(of("Unconfined"), own), AppArmor::Localhost("own".into()));
    }

    #[test]
    fn a_container_is_filtered_unless_it_or_its_pod_says_otherwise() {
        let seccomp = |of_pod: serde_json::Value, own: serde_json::Value| {
            let pod = pod(&serde_json::json!({
                "securityContext": { "seccompProfile": of_pod },
                "containers": [{ "name": "c", "image": "i", "securityContext": { "seccompProfile": own } }]
            }));
            container(&pod, "c", 0, Vec::new(), &node()).unwrap().seccomp
        };
        let of = |kind: &str| serde_json::json!({ "type": kind });
        let null = || serde_json::Value::Null;
        assert_eq!(seccomp(null(), null()), Seccomp::RuntimeDefault);
        assert_eq!(seccomp(of("Unconfined"), null()), Seccomp::Unconfined);
        assert_eq!(seccomp(of("Unconfined"), of("RuntimeDefault")), Seccomp::RuntimeDefault);
        let own = serde_json::json!({ "type": "Localhost", "localhostProfile": "audit/a.json" });
        assert_eq!(seccomp(null(), own), Seccomp::Localhost("/profiles/audit/a.json".into()));
    }

    #[test]
    fn a_container_takes_what_the_pod_sets_unless_it_says_otherwise() {
        let pod = pod(&serde_json::json!({
            "securityContext": { "runAsUser": 7, "runAsGroup": 8, "supplementalGroups": [9] },
            "containers": [{
                "name": "c", "image": "i", "command": ["echo", "$(B)"],
                "env": [{ "name": "A", "value": "1" }, { "name": "B", "value": "$(A)2" }],
                "securityContext": { "runAsUser": 10 },
                "resources": { "limits": { "cpu": "500m", "memory": "64Mi" }, "requests": { "cpu": "250m" } }
            }]
        }));
        let env = vec![("A".to_owned(), "1".to_owned()), ("B".to_owned(), "12".to_owned())];
        let config = container(&pod, "c", 3, env, &node()).unwrap();
        assert_eq!(
            config.run_as,
            RunAs {
                uid: Some(10),
                gid: Some(8),
                supplemental_gids: vec![9],
                only_these_groups: false,
            }
        );
        assert_eq!(config.command, ["echo", "12"]);
        let expected = Resources {
            cpu_shares: Some(256),
            cpu_limit_milli: Some(500),
            memory_limit_bytes: Some(64 << 20),
            ..Resources::default()
        };
        assert_eq!(config.resources, expected);
        assert!(container(&pod, "d", 0, Vec::new(), &node()).is_err());
    }

    #[test]
    fn a_subdomain_makes_a_full_name() {
        let of = |spec: serde_json::Value| {
            let uid: Uid = "u".parse().unwrap();
            sandbox(&pod(&spec), &uid, 0, Path::new("/logs"), "", &NodeLimits::default()).map(|config| (config.hostname, config.domain))
        };
        let spec = |full: bool, subdomain: &str| serde_json::json!({ "subdomain": subdomain, "setHostnameAsFQDN": full, "containers": [] });
        let domain = "s.dev.svc.cluster.local".to_owned();
        assert_eq!(of(spec(false, "s")).unwrap(), ("a".to_owned(), domain.clone()));
        assert_eq!(of(spec(true, "s")).unwrap(), (format!("a.{domain}"), domain));
        assert_eq!(of(spec(true, "")).unwrap(), ("a".to_owned(), String::new()));
        let error = of(spec(true, &"s".repeat(60))).unwrap_err().to_string();
        assert!(
            error.ends_with("is too long (64 characters is the max, 84 characters requested)"),
            "{error}"
        );
    }

    #[test]
    fn a_long_name_is_cut_to_a_host_name() {
        let mut long = pod(&serde_json::json!({ "containers": [] }));
        long.metadata.name = Some(format!("{}-b", "a".repeat(62)));
        let uid: Uid = "u".parse().unwrap();
        let config = sandbox(&long, &uid, 0, Path::new("/logs"), "", &NodeLimits::default()).unwrap();
        assert_eq!(config.hostname, "a".repeat(62));
    }
}
