//! What several components ask of a pod: small pure functions.
//!
//! Quantities that do not parse count as absent; the API server admits none.

use std::collections::BTreeMap;
use std::fmt;

use crate::Quantity;
use crate::typed::{Container, ContainerStatus, EphemeralContainer, Pod, PodCondition, PodSpec, WireQuantity};

/// Annotation in which the API server says who asked for a pod's deletion, for
/// the flight recorder of its node. Whoever may change the pod may change it.
pub const DELETED_BY: &str = "lifepod.dev/deleted-by";

/// Condition of a pod that does not have the resources it was given last, and the
/// reason of one that never can on its node.
///
/// Source: upstream `core/v1/types.go`, `PodResizePending`, `PodReasonInfeasible`.
pub const RESIZE_PENDING: &str = "PodResizePending";
/// See [`RESIZE_PENDING`].
pub const RESIZE_INFEASIBLE: &str = "Infeasible";

/// Amounts by resource name, such as `cpu`.
pub type Resources = BTreeMap<String, Quantity>;

/// How kubelet messages name a pod: `name_namespace(uid)`.
///
/// Source: upstream kubelet `format.Pod`.
#[must_use]
pub fn label(pod: &Pod) -> String {
    let meta = &pod.metadata;
    let part = |p: &Option<String>| p.clone().unwrap_or_default();
    format!("{}_{}({})", part(&meta.name), part(&meta.namespace), part(&meta.uid))
}

/// `status.phase`, or the empty string.
#[must_use]
pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default()
}

/// Whether the phase is `Succeeded` or `Failed`: it will never run again.
#[must_use]
pub fn is_terminal(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Names of the claims a pod's volumes are.
pub fn claims(pod: &Pod) -> impl Iterator<Item = &str> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(|volume| volume.persistent_volume_claim.as_ref().map(|claim| claim.claim_name.as_str()))
}

/// Whether deletion was asked for.
#[must_use]
pub fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// The condition of a type such as `Ready`.
#[must_use]
pub fn condition<'p>(pod: &'p Pod, condition_type: &str) -> Option<&'p PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == condition_type)
}

/// Whether the condition `Ready` is true.
#[must_use]
pub fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|c| c.status == "True")
}

/// An ephemeral container in the form of the others; its target apart, they
/// have the same fields.
#[must_use]
pub fn as_container(ephemeral: &EphemeralContainer) -> Container {
    let EphemeralContainer {
        args,
        command,
        env,
        env_from,
        image,
        image_pull_policy,
        lifecycle,
        liveness_probe,
        name,
        ports,
        readiness_probe,
        resize_policy,
        resources,
        restart_policy,
        security_context,
        startup_probe,
        stdin,
        stdin_once,
        target_container_name: _,
        termination_message_path,
        termination_message_policy,
        tty,
        volume_devices,
        volume_mounts,
        working_dir,
    } = ephemeral.clone();
    Container {
        args,
        command,
        env,
        env_from,
        image,
        image_pull_policy,
        lifecycle,
        liveness_probe,
        name,
        ports,
        readiness_probe,
        resize_policy,
        resources,
        restart_policy,
        security_context,
        startup_probe,
        stdin,
        stdin_once,
        termination_message_path,
        termination_message_policy,
        tty,
        volume_devices,
        volume_mounts,
        working_dir,
    }
}

/// Whether an init container is a sidecar: it runs beside the others.
///
/// Source: KEP-753.
#[must_use]
pub fn is_sidecar(init_container: &Container) -> bool {
    init_container.restart_policy.as_deref() == Some("Always")
}

/// The containers that run at the same time once the pod is initialized:
/// sidecars, then regular containers.
pub fn long_running(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.init_containers
        .iter()
        .flatten()
        .filter(|c| is_sidecar(c))
        .chain(&spec.containers)
}

/// Amounts of a `requests` or `limits` map.
#[must_use]
pub fn amounts(wire: Option<&BTreeMap<String, WireQuantity>>) -> Resources {
    wire.into_iter()
        .flatten()
        .filter_map(|(name, quantity)| Some((name.clone(), Quantity::try_from(quantity).ok()?)))
        .collect()
}

/// What a container requests.
#[must_use]
pub fn container_requests(container: &Container) -> Resources {
    amounts(container.resources.as_ref().and_then(|r| r.requests.as_ref()))
}

/// What a container is limited to.
#[must_use]
pub fn container_limits(container: &Container) -> Resources {
    amounts(container.resources.as_ref().and_then(|r| r.limits.as_ref()))
}

/// What a pod requests of a node: the most it needs at any time of its life,
/// plus overhead. An init container runs beside the sidecars listed before it.
///
/// Source: KEP-753, "Resources calculation"; upstream
/// `component-helpers/resource.PodRequests`.
#[must_use]
pub fn requests(pod: &Pod) -> Resources {
    with_overhead(pod, container_requests)
}

/// What is counted for a pod on its node, by the same rule: of a container that
/// is being resized the most of what it is to have, was granted and has; once
/// the node has said that it can never have it, what it is to have no more.
///
/// Source: upstream `component-helpers/resource.PodRequests` with
/// `UseStatusResources`, `determineContainerReqs`.
#[must_use]
pub fn requests_in_force(pod: &Pod) -> Resources {
    let Some(status) = &pod.status else { return requests(pod) };
    let refused = condition(pod, RESIZE_PENDING).is_some_and(|pending| pending.reason.as_deref() == Some(RESIZE_INFEASIBLE));
    let inits = status.init_container_statuses.iter().flatten();
    let known: BTreeMap<&str, &ContainerStatus> = inits
        .chain(status.container_statuses.iter().flatten())
        .map(|one| (one.name.as_str(), one))
        .collect();
    with_overhead(pod, |container| {
        let Some(known) = known.get(container.name.as_str()) else {
            return container_requests(container);
        };
        let mut counted = amounts(known.resources.as_ref().and_then(|has| has.requests.as_ref()));
        raise(&mut counted, amounts(known.allocated_resources.as_ref()));
        if !refused {
            raise(&mut counted, container_requests(container));
        }
        counted
    })
}

fn with_overhead(pod: &Pod, of: impl Fn(&Container) -> Resources) -> Resources {
    let Some(spec) = &pod.spec else { return Resources::new() };
    let mut peak = most_at_any_time(spec, of);
    add(&mut peak, amounts(spec.overhead.as_ref()));
    peak
}

/// What a pod is limited to, by the same rule. A resource some container has
/// no limit for is not bounded, though it may appear here; overhead raises a
/// limit and makes none.
#[must_use]
pub fn limits(pod: &Pod) -> Resources {
    let Some(spec) = &pod.spec else { return Resources::new() };
    let mut peak = most_at_any_time(spec, container_limits);
    let mut overhead = amounts(spec.overhead.as_ref());
    overhead.retain(|name, _| peak.contains_key(name));
    add(&mut peak, overhead);
    peak
}

fn most_at_any_time(spec: &PodSpec, of: impl Fn(&Container) -> Resources) -> Resources {
    let mut sidecars = Resources::new();
    let mut peak = Resources::new();
    for container in spec.init_containers.iter().flatten() {
        if is_sidecar(container) {
            add(&mut sidecars, of(container));
            raise(&mut peak, sidecars.clone());
        } else {
            let mut now = of(container);
            add(&mut now, sidecars.clone());
            raise(&mut peak, now);
        }
    }
    let mut running = sidecars;
    for container in &spec.containers {
        add(&mut running, of(container));
    }
    raise(&mut peak, running);
    peak
}

/// Adds `more` to `total`, resource by resource.
pub fn add(total: &mut Resources, more: Resources) {
    for (name, quantity) in more {
        *total.entry(name).or_default() += quantity;
    }
}

fn raise(peak: &mut Resources, other: Resources) {
    for (name, quantity) in other {
        let entry = peak.entry(name).or_insert(quantity);
        *entry = (*entry).max(quantity);
    }
}

/// Quality of service: who is squeezed first when a node runs short.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum QosClass {
    /// Asks for nothing.
    BestEffort,
    /// Neither of the others.
    Burstable,
    /// Every container has CPU and memory limits equal to its requests.
    Guaranteed,
}

impl QosClass {
    /// As `status.qosClass` holds it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BestEffort => "BestEffort",
            Self::Burstable => "Burstable",
            Self::Guaranteed => "Guaranteed",
        }
    }
}

impl fmt::Display for QosClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The QoS class a pod's spec gives it; `status.qosClass` is not looked at.
///
/// Source: upstream `component-helpers` and `qos.ComputePodQOS`.
#[must_use]
pub fn qos_class(pod: &Pod) -> QosClass {
    let Some(spec) = &pod.spec else { return QosClass::BestEffort };
    let counted = |resources: Resources| -> Resources {
        resources
            .into_iter()
            .filter(|(name, quantity)| matches!(name.as_str(), "cpu" | "memory") && *quantity > Quantity::ZERO)
            .collect()
    };
    let (mut requested, mut limited) = (Resources::new(), Resources::new());
    let mut all_limited = true;
    for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
        add(&mut requested, counted(container_requests(container)));
        let limits = counted(container_limits(container));
        all_limited &= limits.len() == 2;
        add(&mut limited, limits);
    }
    if requested.is_empty() && limited.is_empty() {
        QosClass::BestEffort
    } else if all_limited && requested == limited {
        QosClass::Guaranteed
    } else {
        QosClass::Burstable
    }
}

/// A port of the node that a pod occupies.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// Empty for every address of the node.
    pub ip: String,
    /// 1 to 65535.
    pub port: i32,
}

impl HostPort {
    /// Whether both cannot be had on one node: same protocol and port, and the
    /// same address or one of them for all addresses.
    ///
    /// Source: upstream scheduler `HostPortInfo.CheckConflict`.
    #[must_use]
    pub fn conflicts(&self, other: &Self) -> bool {
        let any = |ip: &str| matches!(ip, "" | "0.0.0.0" | "::");
        self.protocol == other.protocol && self.port == other.port && (any(&self.ip) || any(&other.ip) || self.ip == other.ip)
    }
}

/// The node ports a pod's long-running containers ask for.
#[must_use]
pub fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let ports = pod.spec.iter().flat_map(long_running).flat_map(|c| c.ports.iter().flatten());
    ports
        .filter_map(|port| {
            Some(HostPort {
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                ip: port.host_ip.clone().unwrap_or_default(),
                port: port.host_port.filter(|p| *p > 0)?,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests;
