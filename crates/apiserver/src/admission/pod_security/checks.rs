//! The checks of the Pod Security Standards. Pure.
//!
//! Source: Kubernetes "Pod Security Standards"; upstream
//! `staging/src/k8s.io/pod-security-admission/policy/check_*.go`.

use api::typed::{Capabilities, Container, EphemeralContainer, PodSpec, PodTemplateSpec, SELinuxOptions, SecurityContext, Volume};
use serde_json::Value;

use super::Level;

/// A check that a Pod does not pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    /// `host namespaces`.
    pub(super) reason: &'static str,
    /// `hostNetwork=true`.
    pub(super) detail: String,
}

/// What checks need of a container of any list.
struct Seen<'a> {
    name: &'a str,
    context: Option<&'a SecurityContext>,
    host_ports: Vec<i32>,
}

impl<'a> Seen<'a> {
    fn of(container: &'a Container) -> Self {
        let ports = container.ports.iter().flatten().filter_map(|port| port.host_port);
        Self {
            name: &container.name,
            context: container.security_context.as_ref(),
            host_ports: ports.filter(|port| *port != 0).collect(),
        }
    }

    fn ephemeral(container: &'a EphemeralContainer) -> Self {
        Self {
            name: &container.name,
            context: container.security_context.as_ref(),
            host_ports: Vec::new(),
        }
    }
}

/// A Pod as the checks see it.
struct Subject<'a> {
    spec: &'a PodSpec,
    annotations: Vec<(&'a str, &'a str)>,
    /// Init containers, regular ones, ephemeral ones.
    containers: Vec<Seen<'a>>,
}

type Check = fn(&Subject<'_>) -> Option<Finding>;

/// A check, the minor version it came with, and the level it belongs to.
/// `stricter`: another takes its place at the level above, from that version.
struct Row {
    level: Level,
    since: u32,
    stricter_since: Option<u32>,
    check: Check,
}

const fn baseline(since: u32, check: Check) -> Row {
    Row {
        level: Level::Baseline,
        since,
        stricter_since: None,
        check,
    }
}

const fn overridden(since: u32, stricter_since: u32, check: Check) -> Row {
    Row {
        level: Level::Baseline,
        since,
        stricter_since: Some(stricter_since),
        check,
    }
}

const fn restricted(since: u32, check: Check) -> Row {
    Row {
        level: Level::Restricted,
        since,
        stricter_since: None,
        check,
    }
}

/// In upstream's order: by level, then by the name of the check.
const CHECKS: &[Row] = &[
    baseline(0, app_armor),
    overridden(0, 22, capabilities_baseline),
    baseline(0, host_namespaces),
    overridden(0, 0, host_path_volumes),
    baseline(0, host_ports),
    baseline(0, privileged),
    baseline(0, proc_mount),
    baseline(0, se_linux),
    overridden(19, 19, seccomp_baseline),
    baseline(0, sysctls),
    baseline(0, windows_host_process),
    restricted(8, privilege_escalation),
    restricted(22, capabilities_restricted),
    restricted(0, volume_types),
    restricted(0, run_as_non_root),
    restricted(23, run_as_user),
    restricted(19, seccomp_restricted),
];

/// What a Pod does that a level, as of a minor version, does not allow.
pub(super) fn findings(level: Level, minor: u32, pod: &PodTemplateSpec) -> Vec<Finding> {
    let none = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&none);
    if level == Level::Privileged {
        return Vec::new();
    }
    let init = spec.init_containers.iter().flatten().map(Seen::of);
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(Seen::ephemeral);
    let annotations = pod.metadata.iter().filter_map(|meta| meta.annotations.as_ref()).flatten();
    let subject = Subject {
        spec,
        annotations: annotations.map(|(key, value)| (key.as_str(), value.as_str())).collect(),
        containers: init.chain(spec.containers.iter().map(Seen::of)).chain(ephemeral).collect(),
    };
    CHECKS
        .iter()
        .filter(|row| row.level <= level && row.since <= minor)
        .filter(|row| level == Level::Baseline || row.stricter_since.is_none_or(|since| since > minor))
        .filter_map(|row| (row.check)(&subject))
        .collect()
}

fn quoted(texts: &[&str]) -> String {
    let texts: Vec<String> = texts.iter().map(|text| format!("{text:?}")).collect();
    texts.join(", ")
}

/// `container "a"`, `containers "a", "b"`.
fn containers(names: &[&str]) -> String {
    format!("container{} {}", plural(names.len()), quoted(names))
}

const fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

/// Names of the containers whose security context is like that.
fn bad<'a>(pod: &Subject<'a>, is_bad: impl Fn(Option<&SecurityContext>) -> bool) -> Vec<&'a str> {
    pod.containers
        .iter()
        .filter(|container| is_bad(container.context))
        .map(|container| container.name)
        .collect()
}

fn finding(reason: &'static str, details: &[String]) -> Option<Finding> {
    (!details.is_empty()).then(|| Finding {
        reason,
        detail: details.join("; "),
    })
}

/// `pod`, `container "a"`, or both: who sets something.
fn setters(pod: bool, names: &[&str]) -> String {
    match (pod, names.is_empty()) {
        (true, true) => "pod".to_owned(),
        (true, false) => format!("pod and {}", containers(names)),
        (false, _) => containers(names),
    }
}

fn app_armor(pod: &Subject<'_>) -> Option<Finding> {
    const PREFIX: &str = "container.apparmor.security.beta.kubernetes.io/";
    let allowed = |kind: &str| matches!(kind, "RuntimeDefault" | "Localhost" | "");
    let of_pod = pod
        .spec
        .security_context
        .as_ref()
        .and_then(|context| context.app_armor_profile.as_ref());
    let pod_bad = of_pod.is_some_and(|profile| !allowed(&profile.type_));
    let names = bad(pod, |context| {
        context
            .and_then(|context| context.app_armor_profile.as_ref())
            .is_some_and(|profile| !allowed(&profile.type_))
    });
    let mut details = Vec::new();
    if pod_bad || !names.is_empty() {
        details.push(format!(
            "{} must not set AppArmor profile type to {:?}",
            setters(pod_bad, &names),
            "Unconfined"
        ));
    }
    let annotated: Vec<String> = pod
        .annotations
        .iter()
        .filter(|(key, value)| key.starts_with(PREFIX) && !matches!(*value, "" | "runtime/default") && !value.starts_with("localhost/"))
        .map(|(key, value)| format!("{key}={value:?}"))
        .collect();
    if !annotated.is_empty() {
        details.push(format!("annotation{} {}", plural(annotated.len()), annotated.join(", ")));
    }
    let reason = if annotated.len() + names.len() + usize::from(pod_bad) == 1 {
        "forbidden AppArmor profile"
    } else {
        "forbidden AppArmor profiles"
    };
    finding(reason, &details)
}

fn added(context: Option<&SecurityContext>) -> &[String] {
    let capabilities: Option<&Capabilities> = context.and_then(|context| context.capabilities.as_ref());
    capabilities
        .and_then(|capabilities| capabilities.add.as_deref())
        .unwrap_or_default()
}

/// Containers that add a capability not allowed, and these capabilities.
fn additions<'a>(pod: &'a Subject<'_>, allowed: &[&str]) -> Option<(Vec<&'a str>, Vec<&'a str>)> {
    let mut names = Vec::new();
    let mut capabilities = std::collections::BTreeSet::new();
    for container in &pod.containers {
        let more: Vec<&str> = added(container.context)
            .iter()
            .map(String::as_str)
            .filter(|name| !allowed.contains(name))
            .collect();
        if !more.is_empty() {
            names.push(container.name);
            capabilities.extend(more);
        }
    }
    (!names.is_empty()).then(|| (names, capabilities.into_iter().collect()))
}

fn capabilities_baseline(pod: &Subject<'_>) -> Option<Finding> {
    const ALLOWED: [&str; 14] = [
        "AUDIT_WRITE",
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "MKNOD",
        "NET_BIND_SERVICE",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
        "",
    ];
    let (names, capabilities) = additions(pod, &ALLOWED)?;
    let detail = format!(
        "{} must not include {} in securityContext.capabilities.add",
        containers(&names),
        quoted(&capabilities)
    );
    finding("non-default capabilities", &[detail])
}

fn capabilities_restricted(pod: &Subject<'_>) -> Option<Finding> {
    let keeps = bad(pod, |context| {
        let dropped = context.and_then(|context| context.capabilities.as_ref()?.drop.as_ref());
        !dropped.is_some_and(|dropped| dropped.iter().any(|name| name == "ALL"))
    });
    let mut details = Vec::new();
    if !keeps.is_empty() {
        details.push(format!(
            r#"{} must set securityContext.capabilities.drop=["ALL"]"#,
            containers(&keeps)
        ));
    }
    if let Some((names, capabilities)) = additions(pod, &["NET_BIND_SERVICE"]) {
        details.push(format!(
            "{} must not include {} in securityContext.capabilities.add",
            containers(&names),
            quoted(&capabilities)
        ));
    }
    finding("unrestricted capabilities", &details)
}

fn host_namespaces(pod: &Subject<'_>) -> Option<Finding> {
    let all = [
        ("hostNetwork", pod.spec.host_network),
        ("hostPID", pod.spec.host_pid),
        ("hostIPC", pod.spec.host_ipc),
    ];
    let set: Vec<String> = all
        .iter()
        .filter(|(_, set)| *set == Some(true))
        .map(|(name, _)| format!("{name}=true"))
        .collect();
    (!set.is_empty()).then(|| Finding {
        reason: "host namespaces",
        detail: set.join(", "),
    })
}

fn host_path_volumes(pod: &Subject<'_>) -> Option<Finding> {
    let volumes = pod.spec.volumes.iter().flatten().filter(|volume| volume.host_path.is_some());
    let names: Vec<&str> = volumes.map(|volume| volume.name.as_str()).collect();
    let detail = format!("volume{} {}", plural(names.len()), quoted(&names));
    (!names.is_empty()).then_some(Finding {
        reason: "hostPath volumes",
        detail,
    })
}

fn host_ports(pod: &Subject<'_>) -> Option<Finding> {
    let using: Vec<&Seen<'_>> = pod.containers.iter().filter(|container| !container.host_ports.is_empty()).collect();
    let names: Vec<&str> = using.iter().map(|container| container.name).collect();
    let ports: std::collections::BTreeSet<String> = using
        .iter()
        .flat_map(|container| &container.host_ports)
        .map(ToString::to_string)
        .collect();
    let listed: Vec<String> = ports.into_iter().collect();
    let verb = if names.len() == 1 { "uses" } else { "use" };
    let detail = format!(
        "{} {verb} hostPort{} {}",
        containers(&names),
        plural(listed.len()),
        listed.join(", ")
    );
    (!names.is_empty()).then_some(Finding {
        reason: "hostPort",
        detail,
    })
}

fn privileged(pod: &Subject<'_>) -> Option<Finding> {
    let names = bad(pod, |context| context.is_some_and(|context| context.privileged == Some(true)));
    let detail = format!("{} must not set securityContext.privileged=true", containers(&names));
    (!names.is_empty()).then_some(Finding {
        reason: "privileged",
        detail,
    })
}

fn proc_mount(pod: &Subject<'_>) -> Option<Finding> {
    let mut kinds = std::collections::BTreeSet::new();
    let mut names = Vec::new();
    for container in &pod.containers {
        let kind = container.context.and_then(|context| context.proc_mount.as_deref());
        if let Some(kind) = kind.filter(|kind| *kind != "Default") {
            kinds.insert(kind);
            names.push(container.name);
        }
    }
    let kinds: Vec<&str> = kinds.into_iter().collect();
    let detail = format!(
        "{} must not set securityContext.procMount to {}",
        containers(&names),
        quoted(&kinds)
    );
    (!names.is_empty()).then_some(Finding {
        reason: "procMount",
        detail,
    })
}

fn se_linux(pod: &Subject<'_>) -> Option<Finding> {
    const ALLOWED: [&str; 5] = ["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"];
    let (mut types, mut user, mut role) = (Vec::new(), false, false);
    let mut is_bad = |options: Option<&SELinuxOptions>| -> bool {
        let Some(options) = options else { return false };
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let kind = text(&options.type_);
        let (bad_user, bad_role) = (!text(&options.user).is_empty(), !text(&options.role).is_empty());
        let bad_type = !ALLOWED.contains(&kind.as_str());
        if bad_type && !types.contains(&kind) {
            types.push(kind);
        }
        user |= bad_user;
        role |= bad_role;
        bad_type || bad_user || bad_role
    };
    let pod_bad = is_bad(
        pod.spec
            .security_context
            .as_ref()
            .and_then(|context| context.se_linux_options.as_ref()),
    );
    let mut names = Vec::new();
    for container in &pod.containers {
        if is_bad(container.context.and_then(|context| context.se_linux_options.as_ref())) {
            names.push(container.name);
        }
    }
    if !pod_bad && names.is_empty() {
        return None;
    }
    let mut what = Vec::new();
    if !types.is_empty() {
        let listed: Vec<&str> = types.iter().map(String::as_str).collect();
        what.push(format!("type{} {}", plural(listed.len()), quoted(&listed)));
    }
    what.extend(user.then(|| "user may not be set".to_owned()));
    what.extend(role.then(|| "role may not be set".to_owned()));
    Some(Finding {
        reason: "seLinuxOptions",
        detail: format!(
            "{} set forbidden securityContext.seLinuxOptions: {}",
            setters(pod_bad, &names),
            what.join("; ")
        ),
    })
}

fn seccomp_of(context: Option<&SecurityContext>) -> Option<&str> {
    Some(context?.seccomp_profile.as_ref()?.type_.as_str())
}

fn pod_seccomp<'a>(pod: &Subject<'a>) -> Option<&'a str> {
    Some(pod.spec.security_context.as_ref()?.seccomp_profile.as_ref()?.type_.as_str())
}

fn seccomp_baseline(pod: &Subject<'_>) -> Option<Finding> {
    let pod_bad = pod_seccomp(pod) == Some("Unconfined");
    let names = bad(pod, |context| seccomp_of(context) == Some("Unconfined"));
    if !pod_bad && names.is_empty() {
        return None;
    }
    Some(Finding {
        reason: "seccompProfile",
        detail: format!(
            "{} must not set securityContext.seccompProfile.type to \"Unconfined\"",
            setters(pod_bad, &names)
        ),
    })
}

fn seccomp_restricted(pod: &Subject<'_>) -> Option<Finding> {
    let fits = |kind: &str| matches!(kind, "RuntimeDefault" | "Localhost");
    let of_pod = pod_seccomp(pod);
    let wrong = bad(pod, |context| seccomp_of(context).is_some_and(|kind| !fits(kind)));
    let pod_wrong = of_pod.is_some_and(|kind| !fits(kind));
    let detail = if pod_wrong || !wrong.is_empty() {
        let own = pod.containers.iter().filter_map(|container| seccomp_of(container.context));
        let kinds: std::collections::BTreeSet<&str> = of_pod.into_iter().chain(own).filter(|kind| !fits(kind)).collect();
        let kinds: Vec<&str> = kinds.into_iter().collect();
        format!(
            "{} must not set securityContext.seccompProfile.type to {}",
            setters(pod_wrong, &wrong),
            quoted(&kinds)
        )
    } else if of_pod.is_none() {
        let unset = bad(pod, |context| seccomp_of(context).is_none());
        if unset.is_empty() {
            return None;
        }
        format!(
            "pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"",
            containers(&unset)
        )
    } else {
        return None;
    };
    finding("seccompProfile", &[detail])
}

fn sysctls(pod: &Subject<'_>) -> Option<Finding> {
    // The levels' own list, by the version of the standard. What a node lets
    // through by itself (`lifecycle::admit::sysctl`) is another, and longer.
    const ALLOWED: [&str; 10] = [
        "kernel.shm_rmid_forced",
        "net.ipv4.ip_local_port_range",
        "net.ipv4.ip_local_reserved_ports",
        "net.ipv4.ip_unprivileged_port_start",
        "net.ipv4.ping_group_range",
        "net.ipv4.tcp_fin_timeout",
        "net.ipv4.tcp_keepalive_intvl",
        "net.ipv4.tcp_keepalive_probes",
        "net.ipv4.tcp_keepalive_time",
        "net.ipv4.tcp_syncookies",
    ];
    let context = pod.spec.security_context.as_ref();
    let all = context.and_then(|context| context.sysctls.as_ref()).into_iter().flatten();
    let names: Vec<&str> = all
        .map(|sysctl| sysctl.name.as_str())
        .filter(|name| !ALLOWED.contains(name))
        .collect();
    (!names.is_empty()).then(|| Finding {
        reason: "forbidden sysctls",
        detail: names.join(", "),
    })
}

fn windows_host_process(pod: &Subject<'_>) -> Option<Finding> {
    let of_pod = pod
        .spec
        .security_context
        .as_ref()
        .and_then(|context| context.windows_options.as_ref());
    let pod_bad = of_pod.is_some_and(|options| options.host_process == Some(true));
    let names = bad(pod, |context| {
        context
            .and_then(|context| context.windows_options.as_ref())
            .is_some_and(|options| options.host_process == Some(true))
    });
    if !pod_bad && names.is_empty() {
        return None;
    }
    Some(Finding {
        reason: "hostProcess",
        detail: format!(
            "{} must not set securityContext.windowsOptions.hostProcess=true",
            setters(pod_bad, &names)
        ),
    })
}

fn privilege_escalation(pod: &Subject<'_>) -> Option<Finding> {
    let names = bad(pod, |context| {
        context.and_then(|context| context.allow_privilege_escalation) != Some(false)
    });
    let detail = format!("{} must set securityContext.allowPrivilegeEscalation=false", containers(&names));
    (!names.is_empty()).then_some(Finding {
        reason: "allowPrivilegeEscalation != false",
        detail,
    })
}

/// The type of a volume that is not among those allowed.
fn forbidden_type(volume: &Volume) -> Option<String> {
    const ALLOWED: [&str; 8] = [
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    ];
    let fields = serde_json::to_value(volume).unwrap_or_default();
    let set: Vec<&String> = fields
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(key, value): &(&String, &Value)| *key != "name" && !value.is_null())
        .map(|(key, _)| key)
        .collect();
    if set.iter().any(|key| ALLOWED.contains(&key.as_str())) {
        return None;
    }
    Some(set.first().map_or_else(|| "unknown".to_owned(), |key| (*key).clone()))
}

fn volume_types(pod: &Subject<'_>) -> Option<Finding> {
    let mut kinds = std::collections::BTreeSet::new();
    let mut names = Vec::new();
    for volume in pod.spec.volumes.iter().flatten() {
        if let Some(kind) = forbidden_type(volume) {
            kinds.insert(kind);
            names.push(volume.name.as_str());
        }
    }
    let kinds: Vec<&str> = kinds.iter().map(String::as_str).collect();
    let verb = if names.len() == 1 { "uses" } else { "use" };
    let detail = format!(
        "volume{} {} {verb} restricted volume type{} {}",
        plural(names.len()),
        quoted(&names),
        plural(kinds.len()),
        quoted(&kinds)
    );
    (!names.is_empty()).then_some(Finding {
        reason: "restricted volume types",
        detail,
    })
}

fn run_as_non_root(pod: &Subject<'_>) -> Option<Finding> {
    let of_pod = pod.spec.security_context.as_ref().and_then(|context| context.run_as_non_root);
    let own = |context: Option<&SecurityContext>| context.and_then(|context| context.run_as_non_root);
    let wrong = bad(pod, |context| own(context) == Some(false));
    let unset = bad(pod, |context| own(context).is_none());
    let detail = if of_pod == Some(false) || !wrong.is_empty() {
        format!(
            "{} must not set securityContext.runAsNonRoot=false",
            setters(of_pod == Some(false), &wrong)
        )
    } else if of_pod.is_none() && !unset.is_empty() {
        format!("pod or {} must set securityContext.runAsNonRoot=true", containers(&unset))
    } else {
        return None;
    };
    finding("runAsNonRoot != true", &[detail])
}

fn run_as_user(pod: &Subject<'_>) -> Option<Finding> {
    let pod_bad = pod.spec.security_context.as_ref().and_then(|context| context.run_as_user) == Some(0);
    let names = bad(pod, |context| context.and_then(|context| context.run_as_user) == Some(0));
    if !pod_bad && names.is_empty() {
        return None;
    }
    Some(Finding {
        reason: "runAsUser=0",
        detail: format!("{} must not set runAsUser=0", setters(pod_bad, &names)),
    })
}
