//! Security contexts.
//!
//! Source: upstream `pkg/apis/core/validation/validation.go`,
//! `validatePodSpecSecurityContext`, `ValidateSecurityContext`.

use api::status::Violation;
use api::typed::{AppArmorProfile, PodSecurityContext, PodSpec, SeccompProfile, SecurityContext};
use serde_json::{Value, json};

use super::{each, text};
use crate::validate::values;

const PROFILES: [&str; 3] = ["Localhost", "RuntimeDefault", "Unconfined"];

/// `spec.securityContext`, and what it must agree with.
pub(super) fn pod(spec: &PodSpec) -> Vec<Violation> {
    let none = PodSecurityContext::default();
    let context = spec.security_context.as_ref().unwrap_or(&none);
    let field = "spec.securityContext";
    let mut broken = Vec::new();
    for (name, id) in [
        ("fsGroup", context.fs_group),
        ("runAsUser", context.run_as_user),
        ("runAsGroup", context.run_as_group),
    ] {
        broken.extend(id.and_then(|id| values::user_or_group(&format!("{field}.{name}"), id)));
    }
    for (index, id) in each(&context.supplemental_groups).iter().enumerate() {
        broken.extend(values::user_or_group(&format!("{field}.supplementalGroups[{index}]"), *id));
    }
    if spec.share_process_namespace == Some(true) && spec.host_pid == Some(true) {
        let rule = "ShareProcessNamespace and HostPID cannot both be enabled";
        broken.push(Violation::invalid(format!("{field}.shareProcessNamespace"), &true.into(), rule));
    }
    broken.extend(sysctls(context, field));
    let known = ["Always", "OnRootMismatch"];
    // Upstream has no word of its own for an empty one.
    if let Some(policy) = context.fs_group_change_policy.as_deref().filter(|policy| !known.contains(policy)) {
        broken.push(Violation::not_supported(format!("{field}.fsGroupChangePolicy"), policy, &known));
    }
    broken.extend(seccomp(&format!("{field}.seccompProfile"), context.seccomp_profile.as_ref()));
    broken.extend(app_armor(&format!("{field}.appArmorProfile"), context.app_armor_profile.as_ref()));
    if let Some(policy) = &context.supplemental_groups_policy {
        broken.extend(values::one_of(
            &format!("{field}.supplementalGroupsPolicy"),
            policy,
            &["Merge", "Strict"],
        ));
    }
    // `MountOption` comes with the gate SELinuxMount, which is off in v1.33.
    if let Some(policy) = context.se_linux_change_policy.as_deref().filter(|policy| *policy != "Recursive") {
        broken.push(Violation::not_supported(
            format!("{field}.seLinuxChangePolicy"),
            policy,
            &["Recursive"],
        ));
    }
    broken
}

fn sysctls(context: &PodSecurityContext, field: &str) -> Vec<Violation> {
    const RULE: &str =
        "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
    let list = each(&context.sysctls);
    let mut broken = Vec::new();
    for (index, sysctl) in list.iter().enumerate() {
        let field = format!("{field}.sysctls[{index}].name");
        let name = sysctl.name.as_str();
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let segment = |part: &str| {
            let bytes = part.as_bytes();
            bytes.first().is_some_and(|b| plain(*b))
                && bytes.last().is_some_and(|b| plain(*b))
                && bytes.iter().all(|b| plain(*b) || matches!(b, b'-' | b'_'))
        };
        if name.is_empty() {
            broken.push(Violation::required(field, ""));
        } else if name.len() > 253 || !name.split(['.', '/']).all(segment) {
            broken.push(Violation::invalid(field, &Value::from(name), RULE));
        } else if list[..index].iter().any(|other| other.name == name) {
            broken.push(Violation::duplicate(field, name));
        }
    }
    broken
}

/// `securityContext` of a container.
pub(super) fn container(field: &str, context: &SecurityContext, host_users: bool) -> Vec<Violation> {
    let mut broken = Vec::new();
    for (name, id) in [("runAsUser", context.run_as_user), ("runAsGroup", context.run_as_group)] {
        broken.extend(id.and_then(|id| values::user_or_group(&format!("{field}.{name}"), id)));
    }
    if let Some(mount) = &context.proc_mount {
        if !matches!(mount.as_str(), "Default" | "Unmasked") {
            let field = format!("{field}.procMount");
            broken.push(Violation::not_supported(field, mount, &["Default", "Unmasked"]));
        }
        if mount == "Unmasked" && host_users {
            let rule = "`hostUsers` must be false to use `Unmasked`";
            broken.push(Violation::invalid(format!("{field}.procMount"), &Value::from(mount.as_str()), rule));
        }
    }
    broken.extend(seccomp(&format!("{field}.seccompProfile"), context.seccomp_profile.as_ref()));
    if context.allow_privilege_escalation == Some(false) {
        let shown = json!(context);
        if context.privileged == Some(true) {
            broken.push(Violation::invalid(
                field,
                &shown,
                "cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
            ));
        }
        let added = context
            .capabilities
            .as_ref()
            .map(|capabilities| each(&capabilities.add))
            .unwrap_or_default();
        if added.iter().any(|capability| capability == "CAP_SYS_ADMIN") {
            broken.push(Violation::invalid(
                field,
                &shown,
                "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN",
            ));
        }
    }
    broken.extend(app_armor(&format!("{field}.appArmorProfile"), context.app_armor_profile.as_ref()));
    broken
}

fn seccomp(field: &str, profile: Option<&SeccompProfile>) -> Vec<Violation> {
    let Some(profile) = profile else { return Vec::new() };
    let mut broken = Vec::new();
    match profile.type_.as_str() {
        "" => broken.push(Violation::required(
            format!("{field}.type"),
            "type is required when seccompProfile is set",
        )),
        kind => broken.extend(values::one_of(&format!("{field}.type"), kind, &PROFILES)),
    }
    let path_field = format!("{field}.localhostProfile");
    match (profile.type_.as_str(), &profile.localhost_profile) {
        ("Localhost", None) => broken.push(Violation::required(path_field, "must be set when seccomp type is Localhost")),
        ("Localhost", Some(path)) => broken.extend(values::descending_path(&path_field, path)),
        (_, Some(_)) => broken.push(Violation::invalid(
            path_field,
            &json!(profile),
            "can only be set when seccomp type is Localhost",
        )),
        (_, None) => {}
    }
    broken
}

/// Source: upstream `ValidateAppArmorProfileField`.
pub(in crate::kinds::pod) fn app_armor(field: &str, profile: Option<&AppArmorProfile>) -> Vec<Violation> {
    let Some(profile) = profile else { return Vec::new() };
    let path_field = format!("{field}.localhostProfile");
    let path = text(&profile.localhost_profile);
    match profile.type_.as_str() {
        "Localhost" if path.trim().is_empty() && path.is_empty() => {
            vec![Violation::required(path_field, "must be set when AppArmor type is Localhost")]
        }
        "Localhost" if path.trim() != path => vec![Violation::invalid(
            path_field,
            &Value::from(path),
            "must not be padded with whitespace",
        )],
        "Localhost" if path.len() > 4095 => vec![Violation::too_long(path_field, 4095)],
        "Localhost" => Vec::new(),
        "RuntimeDefault" | "Unconfined" if profile.localhost_profile.is_some() => {
            vec![Violation::invalid(
                path_field,
                &Value::from(path),
                "can only be set when AppArmor type is Localhost",
            )]
        }
        "RuntimeDefault" | "Unconfined" => Vec::new(),
        "" => vec![Violation::required(
            format!("{field}.type"),
            "type is required when appArmorProfile is set",
        )],
        other => vec![Violation::not_supported(format!("{field}.type"), other, &PROFILES)],
    }
}

/// A user namespace of the Pod's own goes with no other namespace of the host.
pub(super) fn host_users(spec: &PodSpec) -> Vec<Violation> {
    if spec.host_users != Some(false) {
        return Vec::new();
    }
    // Upstream spells two of the paths with a capital.
    [
        ("hostNetwork", spec.host_network),
        ("HostPID", spec.host_pid),
        ("HostIPC", spec.host_ipc),
    ]
    .into_iter()
    .filter(|(_, shared)| *shared == Some(true))
    .map(|(name, _)| Violation::forbidden(format!("spec.{name}"), "when `pod.Spec.HostUsers` is false"))
    .collect()
}
