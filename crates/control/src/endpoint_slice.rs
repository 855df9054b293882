//! The EndpointSlices of a Service: which there are to be, given its pods and
//! the slices there are. No I/O; [`crate::publish`] acts on it.
//!
//! Slices change as little as can be: an endpoint stays in its slice, a new
//! one fills a gap, first in a slice that is written anyway. Unlike upstream,
//! which leaves small gaps alone, a slice is added only when all are full.
//!
//! Not here: topology hints, zones, IPv6, and the annotation of the time of
//! the last change.
//!
//! Source: KEP-752; upstream `k8s.io/endpointslice/{reconciler,utils}.go`.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use api::typed::ObjectMeta;
use api::typed::discovery::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};

use crate::backend::{Backend, BackendPort, HEADLESS_LABEL, Labels, Service};

#[cfg(test)]
mod tests;

/// Endpoints a slice holds at most.
pub const ENDPOINTS_MAX: usize = 100;
/// Names the Service of a slice.
pub const SERVICE_LABEL: &str = "kubernetes.io/service-name";
/// Names who keeps a slice.
pub const MANAGED_BY_LABEL: &str = "endpointslice.kubernetes.io/managed-by";
/// We do.
pub const MANAGED_BY: &str = "endpointslice-controller.k8s.io";

const ADDRESS_TYPE: &str = "IPv4";

/// What is to be written, in this order: a backend is never missing between.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// New slices.
    pub create: Vec<EndpointSlice>,
    /// Slices as they are to be, with the version that was seen.
    pub update: Vec<EndpointSlice>,
    /// Slices that are to go.
    pub delete: Vec<EndpointSlice>,
}

impl Plan {
    /// Whether all is as it should be.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.create.is_empty() && self.update.is_empty() && self.delete.is_empty()
    }
}

/// The key of what all endpoints of a slice have in common.
type Ports = Vec<BackendPort>;

/// An address of a pod, by its name: what makes two endpoints the same.
type Identity<'a> = (Ipv4Addr, &'a str);

/// The pods that belong into slices with the same ports.
type Wanted<'a> = BTreeMap<Identity<'a>, &'a Backend>;

/// Plans for a Service. `backends` are the pods of its namespace that it
/// selects, `existing` the slices that carry its name and [`MANAGED_BY`].
#[must_use]
pub fn plan<'a>(
    service: &Service,
    backends: impl IntoIterator<Item = &'a Backend>,
    existing: impl IntoIterator<Item = &'a EndpointSlice>,
) -> Plan {
    if service.selector.is_none() {
        // Others say where it leads; what is left of a predecessor goes.
        let mut plan = Plan::default();
        plan.delete
            .extend(existing.into_iter().filter(|slice| is_orphan(slice, service)).cloned());
        return plan;
    }
    let wanted = by_ports(service, backends);
    let labels = labels(service);
    let mut plan = Plan::default();
    let mut found: BTreeMap<Option<Ports>, Vec<&EndpointSlice>> = BTreeMap::new();
    for slice in existing {
        if is_owned(slice, service) && slice.address_type == ADDRESS_TYPE {
            found.entry(ports_of(slice)).or_default().push(slice);
        } else {
            plan.delete.push(slice.clone());
        }
    }
    let mut kept = 0;
    for (ports, endpoints) in wanted {
        let slices = found.remove(&Some(ports.clone())).unwrap_or_default();
        kept += spread(&mut plan, service, &ports, slices, endpoints, &labels);
    }
    // Slices whose ports nobody has any more.
    let unwanted = found.into_values().flatten();
    if kept == 0 && plan.create.is_empty() {
        kept_empty(&mut plan, service, unwanted.collect(), &labels);
    } else {
        plan.delete.extend(unwanted.cloned());
    }
    reuse(&mut plan, service);
    if service.terminating {
        plan.create.clear();
    }
    plan
}

/// Backends that can be reached, by the ports they have for a Service.
fn by_ports<'a>(service: &Service, backends: impl IntoIterator<Item = &'a Backend>) -> BTreeMap<Ports, Wanted<'a>> {
    let reachable = backends
        .into_iter()
        .filter_map(|backend| Some(((backend.reachable_at()?, backend.name.as_str()), backend)));
    let mut wanted: BTreeMap<Ports, Wanted<'a>> = BTreeMap::new();
    if let Some(mut ports) = service.ports_of_all() {
        ports.sort();
        let all: Wanted<'a> = reachable.collect();
        if !all.is_empty() {
            wanted.insert(ports, all);
        }
        return wanted;
    }
    for (identity, backend) in reachable {
        let mut ports = service.ports_of(backend);
        ports.sort();
        wanted.entry(ports).or_default().insert(identity, backend);
    }
    wanted
}

/// A Service without backends keeps one empty slice, which tells those who
/// watch from one that was not seen yet.
fn kept_empty(plan: &mut Plan, service: &Service, mut unwanted: Vec<&EndpointSlice>, labels: &Labels) {
    let is_right = |slice: &&EndpointSlice| {
        slice.endpoints.is_empty() && slice.ports.iter().flatten().next().is_none() && slice.metadata.labels.as_ref() == Some(labels)
    };
    if let Some(index) = unwanted.iter().position(is_right) {
        unwanted.swap_remove(index);
    } else {
        plan.create.push(new_slice(service, &[], Vec::new(), labels));
    }
    plan.delete.extend(unwanted.into_iter().cloned());
}

/// Turns pairs of a deletion and a creation into an update.
fn reuse(plan: &mut Plan, service: &Service) {
    let mut deleted = Vec::new();
    for old in std::mem::take(&mut plan.delete) {
        let fits = is_owned(&old, service) && old.address_type == ADDRESS_TYPE;
        match plan.create.pop_if(|_| fits) {
            Some(new) => plan.update.push(EndpointSlice {
                metadata: ObjectMeta {
                    labels: new.metadata.labels,
                    ..old.metadata
                },
                ..new
            }),
            None => deleted.push(old),
        }
    }
    plan.delete = deleted;
}

/// Spreads endpoints with the same ports over slices; gives how many of those
/// that exist stay.
fn spread<'a>(
    plan: &mut Plan,
    service: &Service,
    ports: &[BackendPort],
    existing: Vec<&'a EndpointSlice>,
    mut wanted: Wanted<'a>,
    labels: &Labels,
) -> usize {
    let mut drafts: Vec<Draft<'_>> = existing
        .into_iter()
        .map(|slice| Draft::of(service, slice, &mut wanted, labels))
        .collect();
    let mut left: Vec<&Backend> = wanted.into_values().collect();
    let endpoints = |backends: &[&Backend]| backends.iter().filter_map(|backend| endpoint(service, backend)).collect();
    drafts.sort_by_key(|draft| Reverse(draft.backends.len()));
    for draft in drafts.iter_mut().filter(|draft| draft.written) {
        draft.fill(&mut left);
    }
    while !left.is_empty() {
        // The gap that takes all and is smallest, or else the largest.
        let gaps = || drafts.iter().enumerate().filter(|(_, draft)| draft.room() > 0);
        let best = gaps()
            .filter(|(_, draft)| draft.room() >= left.len())
            .min_by_key(|(_, draft)| draft.room())
            .or_else(|| gaps().max_by_key(|(_, draft)| draft.room()))
            .map(|(index, _)| index);
        let Some(index) = best else { break };
        drafts[index].fill(&mut left);
    }
    let mut kept = 0;
    for draft in drafts {
        if draft.backends.is_empty() {
            plan.delete.push(draft.slice.clone());
            continue;
        }
        kept += 1;
        if draft.written {
            plan.update.push(EndpointSlice {
                metadata: ObjectMeta {
                    labels: Some(labels.clone()),
                    ..draft.slice.metadata.clone()
                },
                endpoints: endpoints(&draft.backends),
                address_type: draft.slice.address_type.clone(),
                ports: draft.slice.ports.clone(),
            });
        }
    }
    for backends in left.chunks(ENDPOINTS_MAX) {
        plan.create.push(new_slice(service, ports, endpoints(backends), labels));
    }
    kept
}

/// A slice as it is going to be.
struct Draft<'a> {
    slice: &'a EndpointSlice,
    backends: Vec<&'a Backend>,
    written: bool,
}

impl<'a> Draft<'a> {
    /// The slice without what is not wanted any more; what it keeps is taken
    /// from `wanted`.
    fn of(service: &Service, slice: &'a EndpointSlice, wanted: &mut Wanted<'a>, labels: &Labels) -> Self {
        let mut backends = Vec::with_capacity(slice.endpoints.len());
        let mut written = slice.metadata.labels.as_ref() != Some(labels);
        for endpoint in &slice.endpoints {
            let kept = identity(endpoint)
                .filter(|_| backends.len() < ENDPOINTS_MAX)
                .and_then(|identity| wanted.remove(&identity));
            written |= kept.is_none_or(|backend| !is_right(endpoint, service, backend));
            backends.extend(kept);
        }
        Self { slice, backends, written }
    }

    fn room(&self) -> usize {
        ENDPOINTS_MAX - self.backends.len() // never longer
    }

    fn fill(&mut self, left: &mut Vec<&'a Backend>) {
        let count = self.room().min(left.len());
        self.written |= count > 0;
        self.backends.extend(left.drain(..count));
    }
}

/// Of an endpoint that we may have written: it has one address.
fn identity(endpoint: &Endpoint) -> Option<Identity<'_>> {
    let [address] = endpoint.addresses.as_slice() else { return None };
    let pod = endpoint.target_ref.as_ref().and_then(|reference| reference.name.as_deref());
    Some((address.parse().ok()?, pod.unwrap_or_default()))
}

/// The endpoint of a pod, if it can be reached.
fn endpoint(service: &Service, backend: &Backend) -> Option<Endpoint> {
    Some(Endpoint {
        addresses: vec![backend.reachable_at()?.to_string()],
        conditions: Some(conditions(service, backend)),
        hostname: backend.hostname_in(service),
        node_name: backend.node.clone(),
        target_ref: Some(backend.reference()),
        ..Endpoint::default()
    })
}

/// Whether an endpoint is what [`endpoint`] would make of the pod, whose
/// address and name it has. Most of them are, and making them to find out
/// costs more than all the rest.
fn is_right(given: &Endpoint, service: &Service, backend: &Backend) -> bool {
    let Endpoint {
        addresses: _, // it has that
        conditions: given_conditions,
        deprecated_topology: None,
        hints: None,
        hostname,
        node_name,
        target_ref: Some(reference),
        zone: None,
    } = given
    else {
        return false;
    };
    *given_conditions == Some(conditions(service, backend))
        && *hostname == backend.hostname_in(service)
        && *node_name == backend.node
        && backend.is_referred_to_by(reference)
}

fn conditions(service: &Service, backend: &Backend) -> EndpointConditions {
    let ready = service.publish_not_ready_addresses || (backend.ready && !backend.terminating);
    EndpointConditions {
        ready: Some(ready),
        serving: Some(backend.ready),
        terminating: Some(backend.terminating),
    }
}

/// The labels of all slices of a Service: its own, and whose and what they are.
fn labels(service: &Service) -> Labels {
    let mut labels = service.labels.clone();
    labels.remove(HEADLESS_LABEL);
    if service.headless {
        labels.insert(HEADLESS_LABEL.to_owned(), String::new());
    }
    labels.insert(SERVICE_LABEL.to_owned(), service.name.clone());
    labels.insert(MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned());
    labels
}

fn new_slice(service: &Service, ports: &[BackendPort], endpoints: Vec<Endpoint>, labels: &Labels) -> EndpointSlice {
    let port = |port: &BackendPort| EndpointPort {
        name: Some(port.name.clone()),
        port: Some(port.number),
        protocol: Some(port.protocol.clone()),
        app_protocol: port.app_protocol.clone(),
    };
    EndpointSlice {
        address_type: ADDRESS_TYPE.to_owned(),
        endpoints,
        metadata: ObjectMeta {
            namespace: Some(service.namespace.clone()),
            generate_name: Some(format!("{}-", service.name)),
            labels: Some(labels.clone()),
            owner_references: Some(vec![service.owner_reference()]),
            ..ObjectMeta::default()
        },
        ports: Some(ports.iter().map(port).collect()),
    }
}

/// The ports of a slice; `None` if we would not have written them.
fn ports_of(slice: &EndpointSlice) -> Option<Ports> {
    let port = |port: &EndpointPort| {
        Some(BackendPort {
            name: port.name.clone().unwrap_or_default(),
            protocol: port.protocol.clone()?,
            number: port.port?,
            app_protocol: port.app_protocol.clone(),
        })
    };
    let mut ports = slice.ports.iter().flatten().map(port).collect::<Option<Ports>>()?;
    ports.sort();
    Some(ports)
}

fn is_owned(slice: &EndpointSlice, service: &Service) -> bool {
    let mut owners = slice.metadata.owner_references.iter().flatten();
    owners.any(|owner| owner.controller == Some(true) && owner.uid == service.uid)
}

/// Whether a slice belongs to a Service that is no more, of the same name.
fn is_orphan(slice: &EndpointSlice, service: &Service) -> bool {
    let mut owners = slice.metadata.owner_references.iter().flatten();
    owners.any(|owner| owner.kind == "Service" && owner.name == service.name) && !is_owned(slice, service)
}
