//! The Endpoints of a Service, the older form of what its EndpointSlices say:
//! what they are to be, given its pods and what they are. No I/O;
//! [`crate::publish`] acts on it.
//!
//! Source: upstream `pkg/controller/endpoint/endpoints_controller.go`,
//! `pkg/api/v1/endpoints/util.go` `RepackSubsets`.

use std::collections::BTreeMap;

use api::typed::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, ObjectMeta};

use crate::backend::{Backend, BackendPort, HEADLESS_LABEL, Labels, Service};

#[cfg(test)]
mod tests;

/// Addresses there are at most, ready or not.
pub const ADDRESSES_MAX: usize = 1000;
/// Tells that there would be more addresses than are named.
pub const OVER_CAPACITY_ANNOTATION: &str = "endpoints.kubernetes.io/over-capacity";
/// Names who keeps Endpoints.
pub const MANAGED_BY_LABEL: &str = "endpoints.kubernetes.io/managed-by";
/// We do.
pub const MANAGED_BY: &str = "endpoint-controller";

/// What is to be written for a Service, if anything; with a resource version
/// it takes the place of `existing`. `backends` are the pods of its namespace
/// that it selects.
#[must_use]
pub fn plan<'a>(service: &Service, backends: impl IntoIterator<Item = &'a Backend>, existing: Option<&Endpoints>) -> Option<Endpoints> {
    if service.selector.is_none() || (service.terminating && existing.is_none()) {
        return None;
    }
    let found = found(service, backends);
    let mut drafts = drafts(service, &found);
    let truncated = truncate(&mut drafts, ADDRESSES_MAX);
    let labels = labels(service);
    let old = existing.map(|endpoints| endpoints.metadata.clone()).unwrap_or_default();
    let mut annotations = old.annotations.clone().unwrap_or_default();
    if truncated {
        annotations.insert(OVER_CAPACITY_ANNOTATION.to_owned(), "truncated".to_owned());
    } else {
        annotations.remove(OVER_CAPACITY_ANNOTATION);
    }
    let is_right = |existing: &Endpoints| {
        let subsets = existing.subsets.as_deref().unwrap_or_default();
        subsets.len() == drafts.len()
            && drafts
                .iter()
                .zip(subsets)
                .all(|(draft, subset)| draft.is_right(subset, service, &found))
            && existing.metadata.labels.as_ref() == Some(&labels)
            && existing.metadata.annotations.clone().unwrap_or_default() == annotations
    };
    if existing.is_some_and(is_right) {
        return None;
    }
    let subsets: Vec<_> = drafts.iter().map(|draft| draft.subset(service, &found)).collect();
    Some(Endpoints {
        metadata: ObjectMeta {
            name: Some(service.name.clone()),
            namespace: Some(service.namespace.clone()),
            labels: Some(labels),
            annotations: Some(annotations).filter(|annotations| !annotations.is_empty()),
            ..old
        },
        subsets: Some(subsets).filter(|subsets| !subsets.is_empty()),
    })
}

/// Whether we keep these Endpoints.
#[must_use]
pub fn is_managed(endpoints: &Endpoints) -> bool {
    let labels = endpoints.metadata.labels.as_ref();
    labels
        .and_then(|labels| labels.get(MANAGED_BY_LABEL))
        .is_some_and(|by| by == MANAGED_BY)
}

fn labels(service: &Service) -> Labels {
    let mut labels = service.labels.clone();
    labels.remove(HEADLESS_LABEL);
    if service.headless {
        labels.insert(HEADLESS_LABEL.to_owned(), String::new());
    }
    labels.insert(MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned());
    labels
}

/// A backend and its address as text.
type Found<'a> = (String, &'a Backend);

/// The backends that have an address here, by address, then by UID.
fn found<'a>(service: &Service, backends: impl IntoIterator<Item = &'a Backend>) -> Vec<Found<'a>> {
    let mut found: Vec<Found<'a>> = backends
        .into_iter()
        .filter(|backend| !backend.terminating || service.publish_not_ready_addresses)
        .filter_map(|backend| Some((backend.reachable_at()?.to_string(), backend)))
        .collect();
    found.sort_by(|(address, backend), (other_address, other)| (address, &backend.uid).cmp(&(other_address, &other.uid)));
    found
}

/// A subset as it is to be; an index says which of those that were found.
struct Draft {
    ports: Vec<EndpointPort>,
    ready: Vec<usize>,
    not_ready: Vec<usize>,
}

impl Draft {
    fn subset(&self, service: &Service, found: &[Found<'_>]) -> EndpointSubset {
        let listed = |list: &[usize]| {
            let made = list.iter().map(|index| address(service, &found[*index]));
            Some(made.collect::<Vec<_>>()).filter(|list| !list.is_empty())
        };
        EndpointSubset {
            addresses: listed(&self.ready),
            not_ready_addresses: listed(&self.not_ready),
            ports: Some(self.ports.clone()).filter(|ports| !ports.is_empty()),
        }
    }

    /// Whether a subset is what [`Self::subset`] would make. Most addresses
    /// are, and making them to find out costs more than all the rest.
    fn is_right(&self, given: &EndpointSubset, service: &Service, found: &[Found<'_>]) -> bool {
        let same = |given: &Option<Vec<EndpointAddress>>, wanted: &[usize]| {
            let given = given.as_deref().unwrap_or_default();
            let mut pairs = given.iter().zip(wanted);
            given.len() == wanted.len() && pairs.all(|(given, index)| is_right(given, service, &found[*index]))
        };
        given.ports.as_deref().unwrap_or_default() == self.ports
            && same(&given.addresses, &self.ready)
            && same(&given.not_ready_addresses, &self.not_ready)
    }
}

/// The canonical form: ports with the same backends are one subset; ports by
/// name, addresses by address, subsets by ports.
fn drafts(service: &Service, found: &[Found<'_>]) -> Vec<Draft> {
    // `None` is the port of a headless Service without ports.
    let mut by_port: BTreeMap<Option<BackendPort>, Vec<usize>> = BTreeMap::new();
    let all = || (0..found.len()).collect::<Vec<_>>();
    if found.is_empty() {
        return Vec::new();
    } else if service.ports.is_empty() && service.cluster_ip_none {
        by_port.insert(None, all());
    } else if let Some(ports) = service.ports_of_all() {
        by_port.extend(ports.into_iter().map(|port| (Some(port), all())));
    } else {
        for (index, (_, backend)) in found.iter().enumerate() {
            for port in service.ports_of(backend) {
                by_port.entry(Some(port)).or_default().push(index);
            }
        }
    }
    let mut by_backends: BTreeMap<Vec<usize>, Vec<BackendPort>> = BTreeMap::new();
    for (port, backends) in by_port {
        by_backends.entry(backends).or_default().extend(port);
    }
    let mut grouped: Vec<(Vec<BackendPort>, Vec<usize>)> = by_backends.into_iter().map(|(backends, ports)| (ports, backends)).collect();
    grouped.sort();
    let is_ready = |index: &usize| service.publish_not_ready_addresses || found[*index].1.ready;
    let draft = |(ports, backends): (Vec<BackendPort>, Vec<usize>)| {
        let (ready, not_ready) = backends.into_iter().partition(is_ready);
        Draft {
            ports: ports.into_iter().map(port).collect(),
            ready,
            not_ready,
        }
    };
    grouped.into_iter().map(draft).collect()
}

fn address(service: &Service, (ip, backend): &Found<'_>) -> EndpointAddress {
    EndpointAddress {
        ip: ip.clone(),
        hostname: backend.hostname_in(service),
        node_name: backend.node.clone(),
        target_ref: Some(backend.reference()),
    }
}

/// Whether an address is what [`address`] would make.
fn is_right(given: &EndpointAddress, service: &Service, (ip, backend): &Found<'_>) -> bool {
    let EndpointAddress {
        ip: given_ip,
        hostname,
        node_name,
        target_ref: Some(reference),
    } = given
    else {
        return false;
    };
    given_ip == ip && *hostname == backend.hostname_in(service) && *node_name == backend.node && backend.is_referred_to_by(reference)
}

fn port(port: BackendPort) -> EndpointPort {
    EndpointPort {
        name: Some(port.name).filter(|name| !name.is_empty()),
        port: port.number,
        protocol: Some(port.protocol),
        app_protocol: port.app_protocol,
    }
}

/// Cuts to `max` addresses: those that are not ready go first, and every
/// subset keeps its share. Gives whether there were more.
///
/// Source: upstream `truncateEndpoints`.
fn truncate(drafts: &mut Vec<Draft>, max: usize) -> bool {
    let count = |list: fn(&Draft) -> &Vec<usize>| -> Vec<usize> { drafts.iter().map(|draft| list(draft).len()).collect() };
    let ready = count(|draft| &draft.ready);
    let not_ready = count(|draft| &draft.not_ready);
    if ready.iter().sum::<usize>() + not_ready.iter().sum::<usize>() <= max {
        return false;
    }
    let ready = shares(&ready, max);
    let not_ready = shares(&not_ready, max - ready.iter().sum::<usize>());
    for (draft, (ready, not_ready)) in drafts.iter_mut().zip(ready.into_iter().zip(not_ready)) {
        draft.ready.truncate(ready);
        draft.not_ready.truncate(not_ready);
    }
    drafts.retain(|draft| !draft.ready.is_empty() || !draft.not_ready.is_empty());
    true
}

/// Splits `room` in proportion to `counts`; what rounding leaves goes to the
/// first that can use it. Nobody gets more than its count.
fn shares(counts: &[usize], room: usize) -> Vec<usize> {
    let total: usize = counts.iter().sum();
    if total <= room {
        return counts.to_vec();
    }
    let mut shares: Vec<usize> = counts.iter().map(|count| count * room / total).collect();
    let mut left = room - shares.iter().sum::<usize>();
    for (share, count) in shares.iter_mut().zip(counts) {
        let more = left.min(count - *share);
        *share += more;
        left -= more;
    }
    shares
}
