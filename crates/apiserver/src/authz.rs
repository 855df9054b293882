//! Who may do what.
//!
//! Reading order: [`Authorizer`] (the order of decisions, and upstream's words
//! for a refusal), `rules.rs` (what a rule allows), `rbac.rs` (roles and
//! bindings as an index), `node.rs` (what a kubelet may reach), then what
//! depends on the object a write makes: `node_restriction.rs`, `escalation.rs`.
//! `bootstrap.rs` makes the roles every cluster has.
//!
//! Source: upstream `plugin/pkg/auth/authorizer/{node,rbac}`,
//! `apiserver/pkg/endpoints/filters/authorization.go`.

pub(crate) mod bootstrap;
mod escalation;
mod node;
mod node_restriction;
mod rbac;
pub(crate) mod rules;

use std::sync::Arc;

use api::{Object, Status};
use http::Method;

use self::rbac::Rbac;
use crate::authn::Identity;
use crate::hub::Hub;
use crate::registry::Registry;
use crate::request::{ResourceRequest, Verb};

/// Who may do everything, whatever the roles say.
///
/// Source: upstream `user.SystemPrivilegedGroup`.
pub const MASTERS: &str = "system:masters";

/// What authorization looks at.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Attributes<'a> {
    /// A resource.
    Resource {
        verb: &'a str,
        group: &'a str,
        resource: &'a str,
        subresource: &'a str,
        namespace: &'a str,
        /// Empty for a collection.
        name: &'a str,
    },
    /// Any other path; the verb is the method in lower case.
    Path { verb: &'a str, path: &'a str },
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Allowed, and by what.
    Allow(String),
    /// Nobody allowed it; what there is to say about that.
    NoOpinion(String),
}

/// Decides about requests, from prepared state alone.
pub(crate) struct Authorizer {
    pub(crate) rbac: Rbac,
    pods: Option<Arc<Hub>>,
    nodes: Option<Arc<Hub>>,
    /// A node may read the volumes of its pods' claims.
    volumes: Option<Arc<Hub>>,
}

impl Authorizer {
    /// Over the hubs of served rows.
    pub(crate) fn new(registry: &Registry) -> Self {
        let hub = |group: &str, plural: &str| registry.find(group, "v1", plural).map(|row| Arc::clone(row.hub()));
        Self {
            rbac: Rbac::new(["clusterroles", "roles", "clusterrolebindings", "rolebindings"].map(|plural| hub(rules::GROUP, plural))),
            pods: hub("", "pods"),
            nodes: hub("", "nodes"),
            volumes: hub("", "persistentvolumes"),
        }
    }

    /// The one decision: masters, then the node authorizer, then RBAC.
    pub(crate) fn decide(&self, identity: &Identity, asked: &Attributes<'_>, request: Option<&ResourceRequest>) -> Decision {
        if identity.is_in(MASTERS) {
            return Decision::Allow(String::new());
        }
        let by_node = match identity.node() {
            Some(name) => node::decide(name, asked, request, (self.pods.as_deref(), self.volumes.as_deref())),
            None => Decision::NoOpinion(String::new()),
        };
        let Decision::NoOpinion(first) = by_node else { return by_node };
        match self.rbac.decide(identity, asked) {
            Decision::NoOpinion(second) if first.is_empty() || second.is_empty() => Decision::NoOpinion(first + &second),
            Decision::NoOpinion(second) => Decision::NoOpinion(format!("{first}\n{second}")),
            allowed @ Decision::Allow(_) => allowed,
        }
    }

    /// A request for a resource.
    ///
    /// # Errors
    /// 403, with upstream's words.
    pub(crate) fn resource(&self, identity: &Identity, asked: &ResourceRequest) -> Result<(), Status> {
        let attributes = attributes(asked);
        match self.decide(identity, &attributes, Some(asked)) {
            Decision::Allow(_) => identity.node().map_or(Ok(()), |node| node_restriction::named(node, asked)),
            Decision::NoOpinion(why) => Err(refusal(identity, &attributes, &why)),
        }
    }

    /// A request for another path, such as `/metrics`.
    ///
    /// # Errors
    /// 403, with upstream's words.
    pub(crate) fn path(&self, identity: &Identity, path: &str, method: &Method) -> Result<(), Status> {
        let verb = method.as_str().to_ascii_lowercase();
        let attributes = Attributes::Path { verb: &verb, path };
        match self.decide(identity, &attributes, None) {
            Decision::Allow(_) => Ok(()),
            Decision::NoOpinion(why) => Err(refusal(identity, &attributes, &why)),
        }
    }

    /// The stored object of a change or delete, or the new one of a create:
    /// what only the object tells.
    ///
    /// # Errors
    /// 403, with upstream's words.
    pub(crate) fn object(identity: &Identity, asked: &ResourceRequest, object: &Object) -> Result<(), Status> {
        let Some(node) = identity.node() else { return Ok(()) };
        node_restriction::existing(node, asked, object)
    }

    /// A new version of an object, and what is stored of it.
    ///
    /// # Errors
    /// 403 when the caller would gain rights, or is a node that may not.
    pub(crate) fn change(&self, identity: &Identity, asked: &ResourceRequest, new: &Object, old: Option<&Object>) -> Result<(), Status> {
        if let Some(node) = identity.node() {
            node_restriction::change(node, asked, new, old, self.nodes.as_deref())?;
        }
        if asked.group == rules::GROUP && asked.subresource.is_empty() && !identity.is_in(MASTERS) {
            escalation::check(self, identity, asked, new, old)?;
        }
        Ok(())
    }
}

/// What authorization sees of a request. A collection narrowed to one name by
/// a field selector counts as that name.
///
/// Source: upstream `apiserver/pkg/endpoints/request/requestinfo.go`.
pub(crate) fn attributes(asked: &ResourceRequest) -> Attributes<'_> {
    let selects = matches!(asked.verb, Verb::List | Verb::Watch | Verb::DeleteCollection) && asked.name.is_empty();
    let selected = if selects { asked.fields.exact("metadata.name") } else { None };
    Attributes::Resource {
        verb: asked.verb.name(),
        group: &asked.group,
        resource: &asked.resource,
        subresource: &asked.subresource,
        namespace: &asked.namespace,
        name: selected.unwrap_or(&asked.name),
    }
}

/// `pods is forbidden: User "x" cannot list resource "pods" in API group "" in
/// the namespace "default"`, and why, where there is more to say.
///
/// Source: upstream `endpoints/handlers/responsewriters/errors.go`.
pub(crate) fn refusal(identity: &Identity, asked: &Attributes<'_>, why: &str) -> Status {
    let more = if why.is_empty() { String::new() } else { format!(": {why}") };
    let user = &identity.user;
    match *asked {
        Attributes::Path { verb, path } => Status::refused(format!("forbidden: User {user:?} cannot {verb} path {path:?}{more}")),
        Attributes::Resource {
            verb,
            group,
            resource,
            subresource,
            namespace,
            name,
        } => {
            let combined = if subresource.is_empty() {
                resource.to_owned()
            } else {
                format!("{resource}/{subresource}")
            };
            let scope = if namespace.is_empty() || resource == "namespaces" {
                " at the cluster scope".to_owned()
            } else {
                format!(" in the namespace {namespace:?}")
            };
            let why = format!("User {user:?} cannot {verb} resource {combined:?} in API group {group:?}{scope}{more}");
            Status::forbidden(&api::ResourceId::new(group, "v1", "", resource), name, &why)
        }
    }
}

#[cfg(test)]
mod tests;
