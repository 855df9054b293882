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
    let mut subsets = subsets(service, backends);
    let truncated = truncate(&mut subsets, ADDRESSES_MAX);
    let labels = labels(service);
    let old = existing.map(|endpoints| endpoints.metadata.clone()).unwrap_or_default();
    let mut annotations = old.annotations.clone().unwrap_or_default();
    if truncated {
        annotations.insert(OVER_CAPACITY_ANNOTATION.to_owned(), "truncated".to_owned());
    } else {
        annotations.remove(OVER_CAPACITY_ANNOTATION);
    }
    let is_right = |existing: &Endpoints| {
        existing.subsets.as_deref().unwrap_or_default() == subsets
            && existing.metadata.labels.as_ref() == Some(&labels)
            && existing.metadata.annotations.clone().unwrap_or_default() == annotations
    };
    if existing.is_some_and(is_right) {
        return None;
    }
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

/// The canonical form: ports with the same backends are one subset; ports by
/// name, addresses by address, subsets by ports.
fn subsets<'a>(service: &Service, backends: impl IntoIterator<Item = &'a Backend>) -> Vec<EndpointSubset> {
    let mut found: Vec<(String, &Backend)> = backends
        .into_iter()
        .filter(|backend| !backend.terminating || service.publish_not_ready_addresses)
        .filter_map(|backend| Some((backend.reachable_at()?.to_string(), backend)))
        .collect();
    // By address, then by UID; from here on an index says which.
    found.sort_by(|(address, backend), (other_address, other)| (address, &backend.uid).cmp(&(other_address, &other.uid)));
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
    let address = |index: &usize| {
        let (ip, backend) = &found[*index];
        EndpointAddress {
            ip: ip.clone(),
            hostname: backend.hostname_in(service),
            node_name: backend.node.clone(),
            target_ref: Some(backend.reference()),
        }
    };
    let is_ready = |index: &&usize| service.publish_not_ready_addresses || found[**index].1.ready;
    let subset = |(ports, backends): (Vec<BackendPort>, Vec<usize>)| {
        let (ready, not_ready): (Vec<_>, Vec<_>) = backends.iter().partition(is_ready);
        let listed = |list: Vec<&usize>| Some(list.into_iter().map(address).collect::<Vec<_>>()).filter(|list| !list.is_empty());
        EndpointSubset {
            addresses: listed(ready),
            not_ready_addresses: listed(not_ready),
            ports: Some(ports.into_iter().map(port).collect()).filter(|list: &Vec<_>| !list.is_empty()),
        }
    };
    grouped.into_iter().map(subset).collect()
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
fn truncate(subsets: &mut Vec<EndpointSubset>, max: usize) -> bool {
    let count = |list: fn(&EndpointSubset) -> &Option<Vec<EndpointAddress>>| -> Vec<usize> {
        subsets.iter().map(|subset| list(subset).as_ref().map_or(0, Vec::len)).collect()
    };
    let ready = count(|subset| &subset.addresses);
    let not_ready = count(|subset| &subset.not_ready_addresses);
    if ready.iter().sum::<usize>() + not_ready.iter().sum::<usize>() <= max {
        return false;
    }
    let ready = shares(&ready, max);
    let not_ready = shares(&not_ready, max - ready.iter().sum::<usize>());
    let cut = |list: &mut Option<Vec<EndpointAddress>>, share: usize| {
        if let Some(addresses) = list {
            addresses.truncate(share);
        }
        list.take_if(|addresses| addresses.is_empty());
    };
    for (subset, (ready, not_ready)) in subsets.iter_mut().zip(ready.into_iter().zip(not_ready)) {
        cut(&mut subset.addresses, ready);
        cut(&mut subset.not_ready_addresses, not_ready);
    }
    subsets.retain(|subset| subset.addresses.is_some() || subset.not_ready_addresses.is_some());
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
