//! Who may do what.
//!
//! [`Authorizer`] is the seam; [`Builtin`] is a table of the cluster's own
//! components, as upstream's bootstrap roles and node authorizer grant them.
//!
//! Source: upstream `plugin/pkg/auth/authorizer/{node,rbac}`,
//! `plugin/pkg/auth/authorizer/rbac/bootstrappolicy/policy.go`.

use api::{Object, Status};
use http::Method;

use crate::authn::Identity;
use crate::request::{ResourceRequest, Verb};

/// Decides about requests by what they name, before anything is read.
pub trait Authorizer: Send + Sync {
    /// A request for a resource.
    ///
    /// # Errors
    /// 403, with upstream's words.
    fn resource(&self, identity: &Identity, asked: &ResourceRequest) -> Result<(), Status>;

    /// A request for another path, such as `/metrics`.
    ///
    /// # Errors
    /// 403, with upstream's words.
    fn path(&self, identity: &Identity, path: &str, method: &Method) -> Result<(), Status>;

    /// The object of a get, create or change, once it is known: the new one
    /// for a create, else the stored one.
    ///
    /// # Errors
    /// 403, with upstream's words.
    fn object(&self, identity: &Identity, asked: &ResourceRequest, object: &Object) -> Result<(), Status>;
}

/// The rights of the cluster's own components; everybody else may only look at
/// discovery and health.
#[derive(Clone, Copy, Debug, Default)]
pub struct Builtin;

/// Groups, resources (with `/subresource`), verbs; `*` is all.
struct Rule {
    groups: &'static [&'static str],
    resources: &'static [&'static str],
    verbs: &'static [Verb],
}

use Verb::{Create, Delete, DeleteCollection, Get, List, Patch, Update, Watch};

const READ: &[Verb] = &[Get, List, Watch];
const CHANGE: &[Verb] = &[Update, Patch];
const ALL: &[Verb] = &[Get, List, Watch, Create, Update, Patch, Delete, DeleteCollection];
const EVENTS: Rule = Rule {
    groups: &["", "events.k8s.io"],
    resources: &["events"],
    verbs: &[Create, Update, Patch],
};
const LEASES: Rule = Rule {
    groups: &["coordination.k8s.io"],
    resources: &["leases"],
    verbs: &[Get, List, Watch, Create, Update, Patch],
};

const SCHEDULER: &[Rule] = &[
    Rule {
        groups: &[""],
        resources: &["pods", "nodes", "namespaces", "services"],
        verbs: READ,
    },
    Rule {
        groups: &[""],
        resources: &["pods/binding", "bindings"],
        verbs: &[Create],
    },
    Rule {
        groups: &[""],
        resources: &["pods/status"],
        verbs: CHANGE,
    },
    Rule {
        groups: &[""],
        resources: &["pods"],
        verbs: &[Delete],
    },
    EVENTS,
    LEASES,
];
const CONTROLLERS: &[Rule] = &[Rule {
    groups: &["*"],
    resources: &["*"],
    verbs: ALL,
}];
const PROXY: &[Rule] = &[
    Rule {
        groups: &[""],
        resources: &["services", "endpoints", "nodes", "pods", "namespaces"],
        verbs: READ,
    },
    Rule {
        groups: &["discovery.k8s.io"],
        resources: &["endpointslices"],
        verbs: READ,
    },
    EVENTS,
];
const NODE: &[Rule] = &[
    Rule {
        groups: &[""],
        resources: &["pods", "nodes", "services"],
        verbs: READ,
    },
    Rule {
        groups: &[""],
        resources: &["configmaps", "secrets", "serviceaccounts", "namespaces"],
        verbs: READ,
    },
    Rule {
        groups: &[""],
        resources: &["nodes"],
        verbs: &[Create, Update, Patch],
    },
    Rule {
        groups: &[""],
        resources: &["nodes/status", "pods/status"],
        verbs: &[Get, Update, Patch],
    },
    Rule {
        groups: &[""],
        resources: &["serviceaccounts/token"],
        verbs: &[Create],
    },
    Rule {
        groups: &[""],
        resources: &["pods"],
        verbs: &[Delete],
    },
    EVENTS,
    LEASES,
];

/// Where the leases of nodes are.
const NODE_LEASES: &str = "kube-node-lease";

fn rules(identity: &Identity) -> &'static [Rule] {
    match identity.user.as_str() {
        "system:kube-scheduler" => SCHEDULER,
        "system:kube-controller-manager" => CONTROLLERS,
        "system:kube-proxy" => PROXY,
        _ if identity.node().is_some() => NODE,
        _ => &[],
    }
}

impl Rule {
    fn allows(&self, asked: &ResourceRequest) -> bool {
        let holds = |list: &[&str], value: &str| list.iter().any(|own| *own == "*" || *own == value);
        let resource = if asked.subresource.is_empty() {
            asked.resource.clone()
        } else {
            format!("{}/{}", asked.resource, asked.subresource)
        };
        holds(self.groups, &asked.group) && holds(self.resources, &resource) && self.verbs.contains(&asked.verb)
    }
}

/// A kubelet sees and changes its own node, its own lease, and its own pods;
/// else why it does not.
///
/// Source: upstream `plugin/pkg/auth/authorizer/node/node_authorizer.go`,
/// `authorizeNode`, `authorizeLease` and `authorizePod`, with the feature
/// `AuthorizeNodeWithSelectors`.
fn own(node: &str, asked: &ResourceRequest) -> Result<(), String> {
    let selects = |field: &str| asked.fields.exact(field) == Some(node);
    // What a create names is known only once its body is read.
    let named = asked.name == node || asked.verb == Create;
    match (asked.resource.as_str(), asked.verb) {
        ("nodes", List | Watch) if !named && !selects("metadata.name") => {
            Err("can only list/watch its own Node object, with a metadata.name field selector".to_owned())
        }
        ("nodes", Get) if !named => Err(format!("node '{node}' cannot read '{}', only its own Node object", asked.name)),
        ("nodes", Update | Patch) if !named => Err(format!("node {node:?} is not allowed to modify node {:?}", asked.name)),
        ("leases", _) if asked.namespace != NODE_LEASES => Err(format!("can only access leases in the {NODE_LEASES:?} system namespace")),
        ("leases", _) if !named => Err("can only access node lease with the same name as the requesting node".to_owned()),
        ("pods", List | Watch) if !selects("spec.nodeName") => Err("can only list/watch pods with spec.nodeName field selector".to_owned()),
        _ => Ok(()),
    }
}

impl Authorizer for Builtin {
    fn resource(&self, identity: &Identity, asked: &ResourceRequest) -> Result<(), Status> {
        if identity.is_in("system:masters") {
            return Ok(());
        }
        if !rules(identity).iter().any(|rule| rule.allows(asked)) {
            return Err(refusal(identity, asked, ""));
        }
        let owned = identity.node().map_or(Ok(()), |node| own(node, asked));
        owned.map_err(|why| refusal(identity, asked, &why))
    }

    fn path(&self, identity: &Identity, path: &str, method: &Method) -> Result<(), Status> {
        let open = path == "/"
            || ["/api", "/apis", "/openapi"]
                .iter()
                .any(|root| path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')));
        if open || identity.is_in("system:masters") {
            return Ok(());
        }
        let verb = method.as_str().to_ascii_lowercase();
        Err(Status::refused(format!(
            "forbidden: User {:?} cannot {verb} path {path:?}",
            identity.user
        )))
    }

    // Source: upstream `plugin/pkg/admission/noderestriction/admission.go`, and
    // for reads `node_authorizer.go`, `authorizeGet`.
    fn object(&self, identity: &Identity, asked: &ResourceRequest, object: &Object) -> Result<(), Status> {
        let Some(node) = identity.node() else { return Ok(()) };
        let why = match (asked.resource.as_str(), asked.verb) {
            ("nodes", Create) if object.name() != node => {
                format!("node {node:?} is not allowed to modify node {:?}", object.name())
            }
            ("leases", Create) if object.name() != node => {
                "can only access node lease with the same name as the requesting node".to_owned()
            }
            ("pods", _) if object.str_at("spec.nodeName") == node => return Ok(()),
            ("pods", Get) => {
                let why = format!("no relationship found between node '{node}' and this object");
                return Err(refusal(identity, asked, &why));
            }
            ("pods", Delete) => format!("node {node:?} can only delete pods with spec.nodeName set to itself"),
            ("pods", _) => format!("node {node:?} can only update pod status for pods with spec.nodeName set to itself"),
            _ => return Ok(()),
        };
        let id = api::ResourceId::new(&asked.group, &asked.version, "", &asked.resource);
        Err(Status::forbidden(&id, object.name(), &why))
    }
}

/// `pods is forbidden: User "x" cannot list resource "pods" in API group "" in
/// the namespace "default"`, and why, where there is more to say.
///
/// Source: upstream `endpoints/handlers/responsewriters/errors.go`.
fn refusal(identity: &Identity, asked: &ResourceRequest, why: &str) -> Status {
    let more = if why.is_empty() { String::new() } else { format!(": {why}") };
    let resource = if asked.subresource.is_empty() {
        asked.resource.clone()
    } else {
        format!("{}/{}", asked.resource, asked.subresource)
    };
    let scope = if asked.namespace.is_empty() || asked.resource == "namespaces" {
        " at the cluster scope".to_owned()
    } else {
        format!(" in the namespace {:?}", asked.namespace)
    };
    let why = format!(
        "User {:?} cannot {} resource {resource:?} in API group {:?}{scope}{more}",
        identity.user,
        asked.verb.name(),
        asked.group
    );
    let id = api::ResourceId::new(&asked.group, &asked.version, "", &asked.resource);
    Status::forbidden(&id, &asked.name, &why)
}

#[cfg(test)]
mod tests;
