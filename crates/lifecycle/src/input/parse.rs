//! The border: a wire pod becomes a [`Desired`], or is refused by field.

mod handler;

use std::time::Duration;

use api::node::Requirements;
use api::typed::{self, Pod, VolumeMountStatus};

use crate::input::{Container, Deletion, Desired, NodeFacts, ParseError, PullPolicy, RestartPolicy, Role};

/// More is asked for than the node grants now. Source: KEP-1287.
pub const RESIZE_PENDING: &str = api::pods::RESIZE_PENDING;
/// What was granted is not in force yet.
pub const RESIZE_IN_PROGRESS: &str = "PodResizeInProgress";

/// Condition types the kubelet generates itself. Source: upstream
/// `types/pod_status.go`, `PodConditionByKubelet`.
pub const OWNED_CONDITIONS: [&str; 7] = [
    RESIZE_PENDING,
    RESIZE_IN_PROGRESS,
    "PodReadyToStartContainers",
    "Initialized",
    "Ready",
    "ContainersReady",
    "PodScheduled",
];

impl Desired {
    /// Parses a pod bound to this node. Whatever is asked for and would not be
    /// honoured is an error that names the field.
    pub fn parse(pod: &Pod, node: &NodeFacts) -> Result<Self, ParseError> {
        let meta = &pod.metadata;
        let missing = |field: &str| ParseError::Missing(field.to_owned());
        let uid = meta.uid.as_deref().ok_or_else(|| missing("metadata.uid"))?;
        let uid = uid.parse().map_err(|_| ParseError::Unsupported {
            field: "metadata.uid".to_owned(),
            value: uid.to_owned(),
        })?;
        let spec = pod.spec.as_ref().ok_or_else(|| missing("spec"))?;
        let init = containers(
            spec.init_containers.as_deref().unwrap_or_default(),
            "spec.initContainers",
            Role::Init,
        )?;
        let regular = containers(&spec.containers, "spec.containers", Role::Regular)?;
        if regular.is_empty() {
            return Err(missing("spec.containers"));
        }
        let ephemeral: Vec<_> = spec.ephemeral_containers.iter().flatten().map(api::pods::as_container).collect();
        let ephemeral = containers(&ephemeral, "spec.ephemeralContainers", Role::Ephemeral)?;
        let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
        Ok(Self {
            uid,
            namespace: meta.namespace.clone().ok_or_else(|| missing("metadata.namespace"))?,
            name: meta.name.clone().ok_or_else(|| missing("metadata.name"))?,
            generation: meta.generation.unwrap_or(0),
            restart_policy: restart_policy(spec.restart_policy.as_deref())?,
            host_network: spec.host_network.unwrap_or(false),
            grace: seconds(spec.termination_grace_period_seconds.unwrap_or(30)),
            active_deadline: spec.active_deadline_seconds.map(seconds),
            init,
            containers: regular,
            ephemeral,
            has_volumes: spec.volumes.as_ref().is_some_and(|list| !list.is_empty()),
            readiness_gates: spec
                .readiness_gates
                .iter()
                .flatten()
                .map(|gate| gate.condition_type.clone())
                .collect(),
            foreign_conditions: conditions
                .into_iter()
                .flatten()
                .filter(|c| !OWNED_CONDITIONS.contains(&c.type_.as_str()))
                .cloned()
                .collect(),
            qos_class: Some(api::pods::qos_class(pod).to_string()),
            host_ips: node.host_ips.clone(),
            deletion: meta.deletion_timestamp.as_ref().map(|at| Deletion {
                at: at.into(),
                grace: seconds(meta.deletion_grace_period_seconds.unwrap_or(30)),
            }),
            deleted_by: meta.annotations.as_ref().and_then(|all| all.get(api::pods::DELETED_BY).cloned()),
            gone: false,
            rejection: None,
            eviction: None,
            resize_pending: None,
            drain: None,
        })
    }
}

fn seconds(value: i64) -> Duration {
    Duration::from_secs(u64::try_from(value).unwrap_or(0))
}

/// Absent means `Always`. Source: Pod API reference, `spec.restartPolicy`.
fn restart_policy(wire: Option<&str>) -> Result<RestartPolicy, ParseError> {
    match wire {
        None | Some("Always") => Ok(RestartPolicy::Always),
        Some("OnFailure") => Ok(RestartPolicy::OnFailure),
        Some("Never") => Ok(RestartPolicy::Never),
        Some(other) => Err(ParseError::Unsupported {
            field: "spec.restartPolicy".to_owned(),
            value: other.to_owned(),
        }),
    }
}

fn containers(wire: &[typed::Container], path: &str, role: Role) -> Result<Vec<Container>, ParseError> {
    wire.iter()
        .enumerate()
        .map(|(index, c)| container(c, &format!("{path}[{index}]"), role))
        .collect()
}

fn container(wire: &typed::Container, path: &str, role: Role) -> Result<Container, ParseError> {
    let role = match (role, wire.restart_policy.as_deref()) {
        (Role::Init, Some("Always")) => Role::Sidecar,
        (role, None) => role,
        (_, Some(_)) => return Err(ParseError::NotHonoured(format!("{path}.restartPolicy"))),
    };
    let asked = [
        (wire.liveness_probe.is_some(), "livenessProbe"),
        (wire.readiness_probe.is_some(), "readinessProbe"),
        (wire.startup_probe.is_some(), "startupProbe"),
        (wire.lifecycle.is_some(), "lifecycle"),
    ];
    if let Some((_, field)) = asked
        .iter()
        .find(|(there, _)| *there && matches!(role, Role::Init | Role::Ephemeral))
    {
        return Err(ParseError::NotHonoured(format!("{path}.{field}")));
    }
    let image = wire
        .image
        .clone()
        .filter(|i| !i.is_empty())
        .ok_or_else(|| ParseError::Missing(format!("{path}.image")))?;
    Ok(Container {
        hooks: handler::hooks(wire, path)?,
        probes: handler::probes(wire, path)?,
        name: wire.name.clone(),
        pull_policy: pull_policy(wire.image_pull_policy.as_deref(), &image, path)?,
        image,
        role,
        volume_mounts: wire.volume_mounts.iter().flatten().map(mount_status).collect(),
        resources: Requirements::of(wire.resources.as_ref()),
        restarts_for: wire
            .resize_policy
            .iter()
            .flatten()
            .filter(|policy| policy.restart_policy == "RestartContainer")
            .map(|policy| policy.resource_name.clone())
            .collect(),
    })
}

/// Absent means `Always` for `:latest` or no tag, else `IfNotPresent`.
/// Source: Pod API reference, `imagePullPolicy`.
fn pull_policy(wire: Option<&str>, image: &str, path: &str) -> Result<PullPolicy, ParseError> {
    match wire {
        Some("Always") => Ok(PullPolicy::Always),
        Some("IfNotPresent") => Ok(PullPolicy::IfNotPresent),
        Some("Never") => Ok(PullPolicy::Never),
        None => {
            let name = image.rsplit('/').next().unwrap_or(image);
            let latest = !name.contains('@') && (!name.contains(':') || name.ends_with(":latest"));
            Ok(if latest { PullPolicy::Always } else { PullPolicy::IfNotPresent })
        }
        Some(other) => Err(ParseError::Unsupported {
            field: format!("{path}.imagePullPolicy"),
            value: other.to_owned(),
        }),
    }
}

/// Source: upstream `kubelet_pods.go`, `convertToAPIContainerStatuses`; every
/// kernel this runs on can, so that what is possible is so.
fn mount_status(mount: &typed::VolumeMount) -> VolumeMountStatus {
    let read_only = mount.read_only.unwrap_or(false);
    let recursively = match mount.recursive_read_only.as_deref() {
        Some("IfPossible" | "Enabled") => "Enabled",
        _ => "Disabled", // said, or nothing said
    };
    VolumeMountStatus {
        name: mount.name.clone(),
        mount_path: mount.mount_path.clone(),
        read_only: read_only.then_some(true),
        recursive_read_only: read_only.then(|| recursively.to_owned()),
    }
}

#[cfg(test)]
mod tests;
