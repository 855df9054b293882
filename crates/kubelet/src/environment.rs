//! The environment of a container. Pure: objects and addresses in, variables
//! out.
//!
//! Reading order: [`resolve`] (where variables come from and which one wins),
//! `environment/service.rs` (addresses of Services), `environment/field.rs`
//! (fields of the pod, resources of its containers), [`expand`].
//!
//! Source: upstream `pkg/kubelet/kubelet_pods.go`, `makeEnvironmentVariables`.

pub(crate) mod field;
mod service;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use api::typed::{Container, EnvVarSource, Pod, WireQuantity};

use crate::sources::{Content, Found, Reference, SourceError};

pub use service::ServiceAddress;

/// Everything a container's variables may be taken from.
pub struct Surroundings<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// Its addresses, primary first.
    pub pod_ips: &'a [IpAddr],
    /// The node's addresses, primary first.
    pub host_ips: &'a [IpAddr],
    /// What the node can give: the limit of what has none.
    pub allocatable: &'a BTreeMap<String, WireQuantity>,
    /// The Services the pod is told of.
    pub services: &'a [Arc<ServiceAddress>],
    /// The objects its containers refer to.
    pub found: &'a Found,
}

/// A variable that cannot be given its value; the words are upstream's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvironmentError {
    /// An object is not to be had.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A ConfigMap lacks a key.
    #[error("couldn't find key {key} in ConfigMap {namespace}/{name}")]
    NoConfigMapKey {
        /// The key.
        key: String,
        /// Of the ConfigMap.
        namespace: String,
        /// Of the ConfigMap.
        name: String,
    },
    /// A Secret lacks a key.
    #[error("couldn't find key {key} in Secret {namespace}/{name}")]
    NoSecretKey {
        /// The key.
        key: String,
        /// Of the Secret.
        namespace: String,
        /// Of the Secret.
        name: String,
    },
    /// A field or resource that is not one.
    #[error("{0}")]
    Field(String),
    /// A value that no process can be given.
    #[error("environment variable {0:?} holds a NUL byte")]
    Nul(String),
}

/// Every object the variables of a container are taken from.
pub(crate) fn references(container: &Container) -> BTreeSet<Reference> {
    let mut references = BTreeSet::new();
    for from in container.env_from.iter().flatten() {
        references.extend(from.config_map_ref.as_ref().map(|r| Reference::config_map(&r.name)));
        references.extend(from.secret_ref.as_ref().map(|r| Reference::secret(&r.name)));
    }
    for source in container.env.iter().flatten().filter_map(|v| v.value_from.as_ref()) {
        references.extend(source.config_map_key_ref.as_ref().map(|r| Reference::config_map(&r.name)));
        references.extend(source.secret_key_ref.as_ref().map(|r| Reference::secret(&r.name)));
    }
    references.retain(|reference| !reference.name.is_empty());
    references
}

/// The variables of a container: `env` over `envFrom` over Services; each
/// value of `env` is expanded with what stands before it and with Services.
/// Upstream's order is a map's and so no order; here it is that of the names
/// in `env`, then the rest.
///
/// # Errors
/// The first variable that cannot be had, unless it is optional.
pub fn resolve(container: &Container, around: &Surroundings<'_>) -> Result<Vec<(String, String)>, EnvironmentError> {
    let services: BTreeMap<String, String> = around.services.iter().flat_map(|service| service.variables()).collect();
    let mut own: BTreeMap<String, String> = BTreeMap::new();
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        let (reference, optional) = match (&from.config_map_ref, &from.secret_ref) {
            (Some(map), _) => (Reference::config_map(&map.name), map.optional),
            (None, Some(secret)) => (Reference::secret(&secret.name), secret.optional),
            (None, None) => continue,
        };
        let Some(content) = around.content(&reference, optional)? else {
            continue;
        };
        own.extend(content.data.iter().map(|(key, value)| (format!("{prefix}{key}"), text(value))));
    }
    for variable in container.env.iter().flatten() {
        let given = variable.value.as_deref().unwrap_or_default();
        let value = if !given.is_empty() {
            expand(given, |name| own.get(name).or_else(|| services.get(name)).map(String::as_str))
        } else if let Some(source) = &variable.value_from {
            match around.value(container, source)? {
                Some(value) => value,
                None => continue,
            }
        } else {
            String::new()
        };
        own.insert(variable.name.clone(), value);
    }
    let mut list = Vec::with_capacity(own.len() + services.len());
    for variable in container.env.iter().flatten() {
        list.extend(own.remove_entry(&variable.name));
    }
    let taken: BTreeSet<String> = list.iter().map(|(name, _)| name.clone()).collect();
    let rest: Vec<_> = services
        .into_iter()
        .filter(|(name, _)| !taken.contains(name) && !own.contains_key(name))
        .collect();
    list.extend(own);
    list.extend(rest);
    match list.iter().find(|(name, value)| name.contains('\0') || value.contains('\0')) {
        Some((name, _)) => Err(EnvironmentError::Nul(name.clone())),
        None => Ok(list),
    }
}

impl Surroundings<'_> {
    /// An object's content; `None` where it is missing and may be.
    fn content(&self, reference: &Reference, optional: Option<bool>) -> Result<Option<&Content>, EnvironmentError> {
        match self.found.get(reference) {
            Some(Ok(content)) => Ok(Some(content)),
            Some(Err(error)) if error.is_not_found() && optional == Some(true) => Ok(None),
            Some(Err(error)) => Err(error.clone().into()),
            None => Err(SourceError::NotSynced { kind: reference.kind }.into()),
        }
    }

    fn value(&self, container: &Container, source: &EnvVarSource) -> Result<Option<String>, EnvironmentError> {
        let namespace = || self.pod.metadata.namespace.clone().unwrap_or_default();
        if let Some(selector) = &source.field_ref {
            return self.field(&selector.field_path).map(Some);
        }
        if let Some(selector) = &source.resource_field_ref {
            let value = field::resource(self.pod, container, selector, self.allocatable);
            return value.map(Some).map_err(EnvironmentError::Field);
        }
        if let Some(selector) = &source.config_map_key_ref {
            let reference = Reference::config_map(&selector.name);
            let Some(content) = self.content(&reference, selector.optional)? else {
                return Ok(None);
            };
            return match content.data.get(&selector.key) {
                Some(value) => Ok(Some(text(value))),
                None if selector.optional == Some(true) => Ok(None),
                None => Err(EnvironmentError::NoConfigMapKey {
                    key: selector.key.clone(),
                    namespace: namespace(),
                    name: selector.name.clone(),
                }),
            };
        }
        if let Some(selector) = &source.secret_key_ref {
            let reference = Reference::secret(&selector.name);
            let Some(content) = self.content(&reference, selector.optional)? else {
                return Ok(None);
            };
            return match content.data.get(&selector.key) {
                Some(value) => Ok(Some(text(value))),
                None if selector.optional == Some(true) => Ok(None),
                None => Err(EnvironmentError::NoSecretKey {
                    key: selector.key.clone(),
                    namespace: namespace(),
                    name: selector.name.clone(),
                }),
            };
        }
        Ok(Some(String::new()))
    }

    /// A field of the pod, or of what only the node knows of it.
    fn field(&self, path: &str) -> Result<String, EnvironmentError> {
        let spec = self.pod.spec.as_ref();
        let joined = |ips: &[IpAddr]| ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        Ok(match path {
            "spec.nodeName" => spec.and_then(|s| s.node_name.clone()).unwrap_or_default(),
            "spec.serviceAccountName" => spec.and_then(|s| s.service_account_name.clone()).unwrap_or_default(),
            "spec.host" => spec.and_then(|s| s.node_name.clone()).unwrap_or_default(),
            "status.hostIP" => self.host_ips.first().map(ToString::to_string).unwrap_or_default(),
            "status.hostIPs" => joined(self.host_ips),
            "status.podIP" => self.pod_ips.first().map(ToString::to_string).unwrap_or_default(),
            "status.podIPs" => joined(self.pod_ips),
            other => field::of_pod(self.pod, other).map_err(EnvironmentError::Field)?,
        })
    }
}

/// Bytes of a Secret need not be text; a variable has to be.
fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).into_owned()
}

/// Replaces `$(NAME)` by its value where it is known, and `$$` by `$`. What is
/// not known stays as it is. Source: Pod API reference, `command`; upstream
/// `third_party/forked/golang/expansion`.
pub(crate) fn expand<'a>(text: &str, known: impl Fn(&str) -> Option<&'a str>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(tail) = after.strip_prefix('$') {
            out.push('$');
            rest = tail;
        } else if let Some((name, tail)) = after.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match known(name) {
                Some(value) => out.push_str(value),
                None => out.push_str(&rest[at..rest.len() - tail.len()]),
            }
            rest = tail;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests;
