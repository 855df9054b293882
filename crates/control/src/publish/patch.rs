//! What tells an object that exists from what it is to be, as a JSON patch:
//! of five hundred addresses one changes, and a request that carries all of
//! them costs its sender and the server more than everything else. No I/O.
//!
//! Source: RFC 6902.

use api::typed::discovery::{Endpoint, EndpointSlice};
use api::typed::{EndpointAddress, EndpointSubset, Endpoints, ObjectMeta};
use serde::Serialize;
use serde_json::Value;

#[cfg(test)]
mod tests;

/// Operations there are at most: more of them are no cheaper than the object.
const OPERATIONS_MAX: usize = 64;

/// One step of a JSON patch.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub(super) enum Operation {
    /// Puts a value there; in a list, before what is there.
    Add { path: String, value: Value },
    /// Puts a value in the place of another.
    Replace { path: String, value: Value },
    /// Takes away what is there.
    Remove { path: String },
}

/// A JSON patch that fails if the object is not the version it was made for.
pub(super) type Patch = Vec<Operation>;

/// What makes `new` of a slice; `None` if it is better sent whole.
pub(super) fn of_slice(old: &EndpointSlice, new: &EndpointSlice) -> Option<Patch> {
    if old.ports != new.ports || old.address_type != new.address_type {
        return None;
    }
    let mut steps = Steps::begin(&old.metadata, &new.metadata)?;
    steps.items("/endpoints", &old.endpoints, &new.endpoints, of_pod)?;
    Some(steps.0)
}

/// What makes `new` of Endpoints; `None` if they are better sent whole.
pub(super) fn of_endpoints(old: &Endpoints, new: &Endpoints) -> Option<Patch> {
    let mut steps = Steps::begin(&old.metadata, &new.metadata)?;
    let subsets = |endpoints: &'_ Endpoints| endpoints.subsets.as_ref().map_or(0, Vec::len);
    if subsets(old) != subsets(new) {
        return None;
    }
    let pairs = old.subsets.iter().flatten().zip(new.subsets.iter().flatten());
    for (index, (old, new)) in pairs.enumerate() {
        steps.subset(index, old, new)?;
    }
    Some(steps.0)
}

/// Whose an endpoint is.
fn of_pod(endpoint: &Endpoint) -> Option<&str> {
    endpoint.target_ref.as_ref()?.uid.as_deref()
}

/// The operations so far.
struct Steps(Patch);

impl Steps {
    /// Names the version, if the metadata is otherwise the same.
    fn begin(old: &ObjectMeta, new: &ObjectMeta) -> Option<Self> {
        let ObjectMeta { labels, annotations, .. } = new;
        let same = old.labels == *labels && old.annotations == *annotations && old.uid == new.uid;
        let version = new.resource_version.clone().filter(|_| same)?;
        Some(Self(vec![Operation::Replace {
            path: "/metadata/resourceVersion".to_owned(),
            value: Value::from(version),
        }]))
    }

    fn subset(&mut self, index: usize, old: &EndpointSubset, new: &EndpointSubset) -> Option<()> {
        if old.ports != new.ports {
            return None;
        }
        let at = |list| format!("/subsets/{index}/{list}");
        self.list(&at("addresses"), old.addresses.as_deref(), new.addresses.as_deref())?;
        self.list(
            &at("notReadyAddresses"),
            old.not_ready_addresses.as_deref(),
            new.not_ready_addresses.as_deref(),
        )
    }

    /// A list that may be absent.
    fn list(&mut self, path: &str, old: Option<&[EndpointAddress]>, new: Option<&[EndpointAddress]>) -> Option<()> {
        let path = path.to_owned();
        match (old, new) {
            (None, None) => Some(()),
            (Some(_), None) => self.push(Operation::Remove { path }),
            (None, Some(new)) if new.len() > OPERATIONS_MAX => None,
            (None, Some(new)) => {
                let value = value_of(new)?;
                self.push(Operation::Add { path, value })
            }
            (Some(old), Some(new)) => self.items(&path, old, new, |address| Some(address.ip.as_str())),
        }
    }

    /// Goes along both lists. Whatever `key` says of an item, the result is
    /// `new`; it finds the shortest way where neither list repeats a key or
    /// turns the order of two around.
    fn items<'a, T, F>(&mut self, path: &str, old: &'a [T], new: &'a [T], key: F) -> Option<()>
    where
        T: PartialEq + Serialize,
        F: Fn(&'a T) -> Option<&'a str>,
    {
        let mut rest = old;
        for (index, item) in new.iter().enumerate() {
            let at = || format!("{path}/{index}");
            loop {
                match rest.split_first() {
                    Some((first, others)) if first == item => {
                        rest = others;
                        break;
                    }
                    Some((first, others)) if key(first) == key(item) => {
                        rest = others;
                        let value = value_of(item)?;
                        self.push(Operation::Replace { path: at(), value })?;
                        break;
                    }
                    Some((first, others)) if !new[index..].iter().any(|later| key(later) == key(first)) => {
                        rest = others;
                        self.push(Operation::Remove { path: at() })?;
                    }
                    _ => {
                        let value = value_of(item)?;
                        self.push(Operation::Add { path: at(), value })?;
                        break;
                    }
                }
            }
        }
        for _ in rest {
            let path = format!("{path}/{}", new.len());
            self.push(Operation::Remove { path })?;
        }
        Some(())
    }

    fn push(&mut self, operation: Operation) -> Option<()> {
        self.0.push(operation);
        (self.0.len() <= OPERATIONS_MAX).then_some(())
    }
}

/// As it goes over the wire. What cannot be told in JSON is for the whole
/// object to complain of.
fn value_of(item: impl Serialize) -> Option<Value> {
    serde_json::to_value(item).ok()
}
