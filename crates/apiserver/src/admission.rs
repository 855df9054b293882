//! Admission: rules for many kinds, asked of every write between decoding and
//! the store.
//!
//! A rule is a [`Plugin`] in a file of its own and a line in [`CHAIN`]. First
//! every plugin may amend the object ([`admit`]); after the row's strategy has
//! prepared and validated it, every plugin may refuse the result
//! ([`validate`]). What one kind alone needs belongs into its strategy.
//!
//! Lookups are answered from the hubs, which are memory: see [`Lookup`].
//!
//! Source: Kubernetes "Admission Control in Kubernetes"; upstream
//! `pkg/kubeapiserver/options/plugins.go` `AllOrderedPlugins` for the order.

mod certificate_signers;
mod certificates;
mod default_storage_class;
mod default_tolerations;
mod limit_ranger;
mod pod_security;
mod priority;
pub(crate) mod resource_quota;
mod runtime_class;
mod service_account;

use std::sync::Arc;

use api::{Object, Status};
use async_trait::async_trait;

use crate::authn::Identity;
use crate::call::{Call, served};
use crate::hub::{Damage, Entry};
use crate::registry::{Resource, Row};
use crate::server::Core;
use crate::write::store_failed;

/// Every plugin, in upstream's order.
const CHAIN: &[&dyn Plugin] = &[
    &limit_ranger::LimitRanger,
    &service_account::ServiceAccount,
    &pod_security::PodSecurity,
    &priority::Priority,
    &default_tolerations::DefaultTolerations,
    &default_storage_class::DefaultStorageClass,
    &runtime_class::RuntimeClass,
    &certificates::Certificates,
    &certificate_signers::CertificateSigners,
];

/// What is done to the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// It is new.
    Create,
    /// It is there already.
    Update,
}

/// What a plugin knows of a write beside the object itself.
pub(crate) struct Attributes<'a> {
    /// What else there is.
    pub(crate) lookup: Lookup<'a>,
    /// Who writes.
    pub(crate) identity: &'a Identity,
    /// What is written.
    pub(crate) row: &'a Resource,
    /// Which part of it; empty for the object itself.
    pub(crate) subresource: &'a str,
    /// What is done to it.
    pub(crate) operation: Operation,
    /// Empty for cluster-wide objects.
    pub(crate) namespace: &'a str,
    /// As stored, for an update.
    pub(crate) old: Option<&'a Object>,
}

impl<'a> Attributes<'a> {
    /// Of a create.
    pub(crate) fn create(call: &'a Call) -> Self {
        Self::of(call, Operation::Create, None)
    }

    /// Of a change of what is stored.
    pub(crate) fn update(call: &'a Call, old: &'a Object) -> Self {
        Self::of(call, Operation::Update, Some(old))
    }

    fn of(call: &'a Call, operation: Operation, old: Option<&'a Object>) -> Self {
        Self {
            lookup: Lookup { core: &call.core },
            identity: &call.identity,
            row: &call.row,
            subresource: &call.asked.subresource,
            operation,
            namespace: call.namespace(),
            old,
        }
    }

    /// Whether an object of this resource itself is written, not a part of it.
    pub(crate) fn is(&self, group: &str, plural: &str) -> bool {
        self.subresource.is_empty() && self.row.id.plural == plural && self.row.id.group == group
    }

    /// Whether an object of this resource is made.
    pub(crate) fn creates(&self, group: &str, plural: &str) -> bool {
        self.operation == Operation::Create && self.is(group, plural)
    }

    /// Whether the containers of a Pod are to have other resources.
    pub(crate) fn resizes(&self) -> bool {
        self.operation == Operation::Update && self.subresource == "resize" && self.row.id.plural == "pods" && self.row.id.group.is_empty()
    }

    /// 403: `pods "x" is forbidden: <why>`. An object that has no name yet goes
    /// by the prefix of the name it will be given.
    ///
    /// Source: upstream `apiserver/pkg/admission/errors.go`, `NewForbidden`.
    pub(crate) fn forbidden(&self, object: &Object, why: &str) -> Status {
        let name = match (object.name(), object.meta.generate_name.as_deref()) {
            ("", Some(prefix)) if !prefix.is_empty() => prefix,
            ("", _) => "Unknown",
            (name, _) => name,
        };
        Status::forbidden(&self.row.id, name, why)
    }
}

/// Reads of other objects: from the hub of their row, where that has caught up
/// with the store, and only else from the store. Every acknowledged write is
/// seen.
#[derive(Clone, Copy)]
pub(crate) struct Lookup<'a> {
    pub(crate) core: &'a Core,
}

impl Lookup<'_> {
    /// The row of a resource this server serves.
    pub(crate) fn row(&self, group: &str, plural: &str) -> Option<Arc<Row>> {
        self.core.row(group, "v1", plural)
    }

    /// One object.
    pub(crate) async fn object(&self, group: &str, plural: &str, namespace: &str, name: &str) -> Result<Option<Arc<Object>>, Status> {
        let Some(row) = self.row(group, plural) else { return Ok(None) };
        let current = self.core.current(&row, &row.key(namespace, name)).await?;
        Ok(current.map(|current| current.object))
    }

    /// Every object of a namespace, or of the cluster where none is named.
    pub(crate) async fn objects(&self, group: &str, plural: &str, namespace: &str) -> Result<Vec<Arc<Object>>, Status> {
        let Some(row) = self.row(group, plural) else {
            return Ok(Vec::new());
        };
        let entries = self.core.current_all(&row, Some(namespace).filter(|name| !name.is_empty())).await?;
        Ok(entries.iter().map(|entry| served(&row, &entry.object)).collect())
    }
}

impl Core {
    /// The newest version of every object of a row, or of one namespace of it.
    pub(crate) async fn current_all(&self, row: &Row, namespace: Option<&str>) -> Result<Vec<Arc<Entry>>, Status> {
        let (hub, prefix) = (row.hub(), row.prefix(namespace));
        let entries = match hub.all(&prefix, self.store.revision().0) {
            Some(snapshot) => snapshot.whole(),
            None => {
                let range = self.store.range(&prefix, None, store::Page::default()).await;
                let range = range.map_err(|error| store_failed(&error))?;
                let entries = range.entries.iter().map(|(key, versioned)| hub.resolve(key, versioned));
                entries.collect::<Result<_, _>>().map_err(|damage| vec![damage])
            }
        };
        entries.map_err(|damaged| Damage::of_list(&row.id, &damaged))
    }
}

/// A rule for many kinds.
#[async_trait]
pub(crate) trait Plugin: Sync {
    /// Whether it has anything to say about such a write.
    fn handles(&self, asked: &Attributes<'_>) -> bool;

    /// Amends the object, or refuses it.
    async fn admit(&self, _asked: &Attributes<'_>, _object: &mut Object) -> Result<(), Status> {
        Ok(())
    }

    /// Refuses what the object has become, or adds warnings.
    async fn validate(&self, _asked: &Attributes<'_>, _object: &Object, _warnings: &mut Vec<String>) -> Result<(), Status> {
        Ok(())
    }
}

/// Lets every plugin amend the object, up to the first that refuses it.
pub(crate) async fn admit(asked: &Attributes<'_>, object: &mut Object) -> Result<(), Status> {
    for plugin in CHAIN.iter().filter(|plugin| plugin.handles(asked)) {
        plugin.admit(asked, object).await?;
    }
    Ok(())
}

/// Asks every plugin about what the object has become, up to the first that
/// refuses it.
pub(crate) async fn validate(asked: &Attributes<'_>, object: &Object, warnings: &mut Vec<String>) -> Result<(), Status> {
    for plugin in CHAIN.iter().filter(|plugin| plugin.handles(asked)) {
        plugin.validate(asked, object, warnings).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
