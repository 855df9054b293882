//! Making one attempt of a container: what it is to be, then the runtime.

use std::net::IpAddr;

use api::Uid;
use api::node::{ContainerId, Requirements};
use api::pods;
use api::typed::{Node, Pod};
use lifecycle::{Failure, FailureClass, Outcome};
use runtime::{ContainerConfig, Resize, RuntimeError};

use crate::config::{self, ThisNode};
use crate::environment::{self, Surroundings};
use crate::execute::{Ports, failure};
use crate::resources;
use crate::volumes::mounts;

/// Makes an attempt, with its variables resolved now.
///
/// # Errors
/// `CreateContainerConfigError` for what the pod's author can mend.
pub(crate) async fn container(ports: &Ports, uid: &Uid, pod: &Pod, name: &str, attempt: u32) -> Result<Outcome, Failure> {
    let unusable = |error: &dyn std::error::Error| Failure::new(FailureClass::CreateContainerConfigError, error.to_string());
    let variables = variables(ports, uid, pod, name).await?;
    let wire = config::wire(pod, name).map_err(|error| unusable(&error))?;
    let mounts = mounts::of(pod, &wire, &variables, |volume| ports.volumes.source(uid, volume))
        .map_err(|error| Failure::new(FailureClass::CreateContainerConfigError, error))?;
    let node = ThisNode {
        seccomp_root: &ports.seccomp_root,
        log_limits: ports.log_limits,
        memory_capacity_bytes: memory_capacity_bytes(&ports.node.borrow()),
        limits: &ports.limits,
    };
    let config = config::container(pod, name, attempt, variables, &node).map_err(|error| unusable(&error))?;
    let config = ContainerConfig { mounts, ..config };
    // It may have been given other resources since its sandbox was made.
    let whole = resources::of_pod(pod, &ports.limits);
    let room = ports.runtime.resize(uid, &whole, None).await;
    room.map_err(|error| failure(&error, FailureClass::CreateContainerError))?;
    let created = ports.runtime.create(uid, &config).await;
    created.map(|_| Outcome::Done).map_err(|error| {
        let class = match error {
            RuntimeError::Config(_) => FailureClass::CreateContainerConfigError,
            _ => FailureClass::CreateContainerError,
        };
        failure(&error, class)
    })
}

/// Gives a running attempt what its container may use by now.
///
/// # Errors
/// What the kernel refused.
pub(crate) async fn resize(ports: &Ports, uid: &Uid, pod: &Pod, id: &ContainerId) -> Result<Outcome, Failure> {
    let refused = |error: &dyn std::error::Error| Failure::new(FailureClass::Unavailable, error.to_string());
    let known = ports.pods.get(uid);
    let view = known
        .iter()
        .flat_map(|known| &known.observed.containers)
        .find(|view| view.id == *id);
    let Some(view) = view else { return Ok(Outcome::Done) };
    let wire = config::wire(pod, &view.name).map_err(|error| refused(&error))?;
    let one = Resize {
        id: id.clone(),
        resources: resources::of_container(wire.resources.as_ref(), &ports.limits).map_err(|error| refused(&error))?,
        requirements: Requirements::of(wire.resources.as_ref()),
    };
    let resized = ports.runtime.resize(uid, &resources::of_pod(pod, &ports.limits), Some(&one)).await;
    resized
        .map(|()| Outcome::Done)
        .map_err(|error| failure(&error, FailureClass::Unavailable))
}

fn memory_capacity_bytes(node: &Node) -> u64 {
    let capacity = pods::amounts(node.status.as_ref().and_then(|status| status.capacity.as_ref()));
    capacity
        .get("memory")
        .map_or(0, |quantity| u64::try_from(quantity.bytes()).unwrap_or(0))
}

async fn variables(ports: &Ports, uid: &Uid, pod: &Pod, name: &str) -> Result<Vec<(String, String)>, Failure> {
    let unusable = |error: String| Failure::new(FailureClass::CreateContainerConfigError, error);
    let wire = config::wire(pod, name).map_err(|error| unusable(error.to_string()))?;
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let links = pod.spec.as_ref().and_then(|spec| spec.enable_service_links).unwrap_or(true);
    let services = ports.sources.services(namespace, links).await;
    let found = ports.sources.find(namespace, environment::references(&wire)).await;
    let pod_ips: Vec<IpAddr> = ports
        .pods
        .get(uid)
        .and_then(|known| known.observed.sandbox.as_ref().map(|sandbox| sandbox.ips.clone()))
        .unwrap_or_default();
    let around = Surroundings {
        pod,
        pod_ips: &pod_ips,
        host_ips: &ports.host_ips,
        allocatable: &ports.allocatable(),
        services: &services.map_err(|error| unusable(error.to_string()))?,
        found: &found,
    };
    environment::resolve(&wire, &around).map_err(|error| unusable(error.to_string()))
}
