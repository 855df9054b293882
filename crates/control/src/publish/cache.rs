//! What was seen of services, pods, slices and Endpoints, what concerns whom,
//! and what is to be done about it. No I/O, no clock.

use std::collections::{BTreeMap, BTreeSet};

use api::typed::discovery::EndpointSlice;
use api::typed::{Endpoints, ObjectMeta};

use crate::backend::{Backend, Key, Service};
use crate::publish::patch::{self, Patch};
use crate::{endpoint_slice, endpoints};

#[cfg(test)]
mod tests;

/// A thing to look at: what is kept for the Service of that name, which need
/// not exist any more.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Item {
    /// Its EndpointSlices.
    Slices(Key),
    /// Its Endpoints.
    Endpoints(Key),
}

/// Something to write.
#[derive(Debug)]
pub(super) enum Work {
    /// Slices.
    Slices(Slices),
    /// Create, or change if they have a resource version: by the patch, if
    /// there is one.
    WriteEndpoints(Box<Endpoints>, Option<Patch>),
    /// Delete.
    DeleteEndpoints(Box<Endpoints>),
}

/// The slices of a Service that are to be written, in this order.
#[derive(Debug)]
pub(super) struct Slices {
    /// New ones.
    pub(super) create: Vec<EndpointSlice>,
    /// As they are to be, with the version that was seen: by the patch, if
    /// there is one.
    pub(super) update: Vec<(EndpointSlice, Option<Patch>)>,
    /// Those that are to go.
    pub(super) delete: Vec<EndpointSlice>,
}

/// What is known. Every method that takes news gives the items it concerns.
#[derive(Debug, Default)]
pub(super) struct Cache {
    services: BTreeMap<Key, Service>,
    backends: BTreeMap<Key, Backend>,
    /// By Service, then by name.
    slices: BTreeMap<Key, BTreeMap<String, EndpointSlice>>,
    /// The Service of a slice.
    service_of: BTreeMap<Key, Key>,
    endpoints: BTreeMap<Key, Endpoints>,
    /// Services that were seen to go, and left Endpoints.
    gone: BTreeSet<Key>,
}

fn both(key: Key) -> [Item; 2] {
    [Item::Slices(key.clone()), Item::Endpoints(key)]
}

fn key_of(metadata: &ObjectMeta) -> Key {
    (
        metadata.namespace.clone().unwrap_or_default(),
        metadata.name.clone().unwrap_or_default(),
    )
}

/// Whether `seen` is older than `known`, or the same. Watches lag behind the
/// answers to our own writes.
fn is_old(known: &ObjectMeta, seen: &ObjectMeta) -> bool {
    let version = |metadata: &ObjectMeta| metadata.resource_version.as_deref().and_then(|text| text.parse::<u64>().ok());
    matches!((version(known), version(seen)), (Some(known), Some(seen)) if seen <= known)
}

impl Cache {
    /// A Service is there.
    pub(super) fn service(&mut self, service: Service) -> Vec<Item> {
        let key = service.key();
        self.gone.remove(&key);
        if self.services.get(&key) == Some(&service) {
            return Vec::new();
        }
        self.services.insert(key.clone(), service);
        both(key).into()
    }

    /// A Service is gone.
    pub(super) fn service_gone(&mut self, key: &Key) -> Vec<Item> {
        self.services.remove(key);
        if self.endpoints.contains_key(key) {
            self.gone.insert(key.clone());
        }
        both(key.clone()).into()
    }

    /// A pod is there.
    pub(super) fn backend(&mut self, backend: Backend) -> Vec<Item> {
        let key = backend.key();
        if self.backends.get(&key) == Some(&backend) {
            return Vec::new();
        }
        let mut concerned = self.selecting(&backend);
        if let Some(old) = self.backends.insert(key, backend) {
            concerned.extend(self.selecting(&old));
        }
        concerned
    }

    /// A pod is gone.
    pub(super) fn backend_gone(&mut self, key: &Key) -> Vec<Item> {
        self.backends.remove(key).map_or_else(Vec::new, |old| self.selecting(&old))
    }

    fn selecting(&self, backend: &Backend) -> Vec<Item> {
        in_namespace(&self.services, &backend.namespace)
            .filter(|(_, service)| service.selects(&backend.labels))
            .flat_map(|(key, _)| both(key.clone()))
            .collect()
    }

    /// A slice of ours is there; `listed` if this is not a change.
    pub(super) fn slice(&mut self, mut slice: EndpointSlice, listed: bool) -> Vec<Item> {
        let id = key_of(&slice.metadata);
        let labels = slice.metadata.labels.as_ref();
        let Some(service) = labels.and_then(|labels| labels.get(endpoint_slice::SERVICE_LABEL)) else {
            return self.slice_gone(&id, None);
        };
        let service = (id.0.clone(), service.clone());
        let known = self.slices.get(&service).and_then(|slices| slices.get(&id.1));
        if !listed && known.is_some_and(|known| is_old(&known.metadata, &slice.metadata)) {
            return Vec::new();
        }
        let mut concerned = Vec::new();
        if self.service_of.get(&id).is_some_and(|old| *old != service) {
            concerned.extend(self.slice_gone(&id, None));
        }
        slice.metadata.managed_fields = None;
        self.service_of.insert(id.clone(), service.clone());
        self.slices.entry(service.clone()).or_default().insert(id.1, slice);
        concerned.push(Item::Slices(service));
        concerned
    }

    /// A slice is gone; with a UID, only if it is that one.
    pub(super) fn slice_gone(&mut self, id: &Key, uid: Option<&str>) -> Vec<Item> {
        let Some(service) = self.service_of.get(id).cloned() else {
            return Vec::new();
        };
        if let Some(slices) = self.slices.get_mut(&service) {
            let other = |slice: &EndpointSlice| uid.is_some() && slice.metadata.uid.as_deref() != uid;
            if slices.get(&id.1).is_some_and(other) {
                return Vec::new();
            }
            slices.remove(&id.1);
            if slices.is_empty() {
                self.slices.remove(&service);
            }
        }
        self.service_of.remove(id);
        vec![Item::Slices(service)]
    }

    /// Endpoints are there; `listed` if this is not a change.
    pub(super) fn endpoints(&mut self, mut endpoints: Endpoints, listed: bool) -> Vec<Item> {
        let key = key_of(&endpoints.metadata);
        let known = self.endpoints.get(&key);
        if !listed && known.is_some_and(|known| is_old(&known.metadata, &endpoints.metadata)) {
            return Vec::new();
        }
        endpoints.metadata.managed_fields = None;
        self.endpoints.insert(key.clone(), endpoints);
        vec![Item::Endpoints(key)]
    }

    /// Endpoints are gone; with a UID, only if it is those.
    pub(super) fn endpoints_gone(&mut self, key: &Key, uid: Option<&str>) -> Vec<Item> {
        let other = |endpoints: &Endpoints| uid.is_some() && endpoints.metadata.uid.as_deref() != uid;
        if self.endpoints.get(key).is_none_or(other) {
            return Vec::new();
        }
        self.endpoints.remove(key);
        self.gone.remove(key);
        vec![Item::Endpoints(key.clone())]
    }

    /// Names of all services.
    pub(super) fn services(&self) -> BTreeSet<Key> {
        self.services.keys().cloned().collect()
    }

    /// Names of all pods.
    pub(super) fn backends(&self) -> BTreeSet<Key> {
        self.backends.keys().cloned().collect()
    }

    /// Names of all slices.
    pub(super) fn slices(&self) -> BTreeSet<Key> {
        self.service_of.keys().cloned().collect()
    }

    /// Names of all Endpoints.
    pub(super) fn all_endpoints(&self) -> BTreeSet<Key> {
        self.endpoints.keys().cloned().collect()
    }

    /// What is to be written about an item, if anything.
    pub(super) fn work(&self, item: &Item) -> Option<Work> {
        match item {
            Item::Slices(key) => self.slices_to_write(key).map(Work::Slices),
            Item::Endpoints(key) => {
                let existing = self.endpoints.get(key);
                let Some(service) = self.services.get(key) else {
                    return existing
                        .filter(|endpoints| self.gone.contains(key) || endpoints::is_managed(endpoints))
                        .map(|old| Work::DeleteEndpoints(old.clone().into()));
                };
                let new = endpoints::plan(service, self.backends_of(service), existing)?;
                let patch = existing.and_then(|old| patch::of_endpoints(old, &new));
                Some(Work::WriteEndpoints(new.into(), patch))
            }
        }
    }

    fn slices_to_write(&self, key: &Key) -> Option<Slices> {
        let existing = self.slices.get(key);
        let all = existing.into_iter().flat_map(BTreeMap::values);
        let plan = match self.services.get(key) {
            Some(service) => endpoint_slice::plan(service, self.backends_of(service), all),
            None => endpoint_slice::Plan {
                delete: all.cloned().collect(),
                ..endpoint_slice::Plan::default()
            },
        };
        let patch = |new: &EndpointSlice| {
            let old = existing?.get(new.metadata.name.as_ref()?)?;
            patch::of_slice(old, new)
        };
        (!plan.is_empty()).then(|| Slices {
            create: plan.create,
            update: plan
                .update
                .into_iter()
                .map(|new| (patch(&new), new))
                .map(|(patch, new)| (new, patch))
                .collect(),
            delete: plan.delete,
        })
    }

    fn backends_of(&self, service: &Service) -> impl Iterator<Item = &Backend> {
        in_namespace(&self.backends, &service.namespace)
            .map(|(_, backend)| backend)
            .filter(|backend| service.selects(&backend.labels))
    }
}

fn in_namespace<'a, T>(all: &'a BTreeMap<Key, T>, namespace: &str) -> impl Iterator<Item = (&'a Key, &'a T)> {
    let from = (namespace.to_owned(), String::new());
    let namespace = namespace.to_owned();
    all.range(from..).take_while(move |(key, _)| key.0 == namespace)
}
