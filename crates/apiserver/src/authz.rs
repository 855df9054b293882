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

    /// A change of an object that exists, once it has been read.
    ///
    /// # Errors
    /// 403, with upstream's words.
    fn change(&self, identity: &Identity, asked: &ResourceRequest, stored: &Object) -> Result<(), Status>;
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
        resources: &["pods"],
        verbs: &[Delete],
    },
    EVENTS,
    LEASES,
];

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

/// A kubelet may write only its own node and its own lease.
fn own(node: &str, asked: &ResourceRequest) -> bool {
    if asked.verb.reads() {
        return true;
    }
    match asked.resource.as_str() {
        "nodes" => asked.name == node || asked.verb == Create,
        "leases" => asked.namespace == "kube-node-lease" && (asked.name == node || asked.verb == Create),
        _ => true,
    }
}

impl Authorizer for Builtin {
    fn resource(&self, identity: &Identity, asked: &ResourceRequest) -> Result<(), Status> {
        let allowed = identity.is_in("system:masters")
            || rules(identity).iter().any(|rule| rule.allows(asked)) && identity.node().is_none_or(|node| own(node, asked));
        if allowed { Ok(()) } else { Err(refusal(identity, asked)) }
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

    fn change(&self, identity: &Identity, asked: &ResourceRequest, stored: &Object) -> Result<(), Status> {
        let Some(node) = identity.node() else { return Ok(()) };
        if asked.resource != "pods" || stored.str_at("spec.nodeName") == node {
            return Ok(());
        }
        // Source: upstream `plugin/pkg/admission/noderestriction/admission.go`.
        let what = if asked.verb == Delete {
            "delete pods"
        } else {
            "update pod status for pods"
        };
        let why = format!("node {node:?} can only {what} with spec.nodeName set to itself");
        Err(Status::refused(format!("pods {:?} is forbidden: {why}", asked.name)))
    }
}

/// `pods is forbidden: User "x" cannot list resource "pods" in API group "" in
/// the namespace "default"`.
///
/// Source: upstream `endpoints/handlers/responsewriters/errors.go`.
fn refusal(identity: &Identity, asked: &ResourceRequest) -> Status {
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
        "User {:?} cannot {} resource {resource:?} in API group {:?}{scope}",
        identity.user,
        asked.verb.name(),
        asked.group
    );
    let id = api::ResourceId::new(&asked.group, &asked.version, "", &asked.resource);
    Status::forbidden(&id, &asked.name, &why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::{Query, Target, target};

    fn asked(method: Method, path: &str) -> ResourceRequest {
        match target(&method, path, &Query::default()).unwrap() {
            Target::Resource(asked) => asked,
            Target::Path(path) => panic!("{path} is not a resource"),
        }
    }

    #[test]
    fn the_refusal_is_in_upstream_s_words() {
        let who = Identity::new("x", &[]);
        let message = |path| Builtin.resource(&who, &asked(Method::GET, path)).unwrap_err().message;
        assert_eq!(
            message("/api/v1/namespaces/default/pods"),
            r#"pods is forbidden: User "x" cannot list resource "pods" in API group "" in the namespace "default""#
        );
        assert_eq!(
            message("/api/v1/namespaces/default/pods/a/log"),
            r#"pods "a" is forbidden: User "x" cannot get resource "pods/log" in API group "" in the namespace "default""#
        );
        assert_eq!(
            message("/api/v1/nodes"),
            r#"nodes is forbidden: User "x" cannot list resource "nodes" in API group "" at the cluster scope"#
        );
        let error = Builtin.path(&who, "/metrics", &Method::GET).unwrap_err();
        assert_eq!(
            (error.code, error.message.as_str()),
            (403, r#"forbidden: User "x" cannot get path "/metrics""#)
        );
    }

    #[test]
    fn components_have_their_own_rights_and_no_others() {
        let admin = Identity::new("admin", &["system:masters"]);
        let scheduler = Identity::new("system:kube-scheduler", &[]);
        let node = Identity::new("system:node:n1", &["system:nodes"]);
        let pretender = Identity::new("system:node:n1", &[]);
        let table = [
            (&admin, Method::DELETE, "/api/v1/namespaces/a/secrets", true),
            (&scheduler, Method::POST, "/api/v1/namespaces/a/pods/p/binding", true),
            (&scheduler, Method::PATCH, "/api/v1/namespaces/a/pods/p/status", true),
            (&scheduler, Method::PATCH, "/api/v1/namespaces/a/pods/p", false),
            (&scheduler, Method::GET, "/api/v1/secrets", false),
            (&node, Method::POST, "/api/v1/nodes", true),
            (&node, Method::PATCH, "/api/v1/nodes/n1/status", true),
            (&node, Method::PATCH, "/api/v1/nodes/n2/status", false),
            (
                &node,
                Method::PUT,
                "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n1",
                true,
            ),
            (
                &node,
                Method::PUT,
                "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n2",
                false,
            ),
            (
                &node,
                Method::PUT,
                "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/n1",
                false,
            ),
            (&node, Method::DELETE, "/api/v1/namespaces/a/pods/p", true),
            (&node, Method::POST, "/api/v1/namespaces/a/pods", false),
            (&pretender, Method::GET, "/api/v1/pods", false),
        ];
        for (identity, method, path, allowed) in table {
            assert_eq!(
                Builtin.resource(identity, &asked(method.clone(), path)).is_ok(),
                allowed,
                "{} {method} {path}",
                identity.user
            );
        }
    }

    #[test]
    fn a_node_changes_only_its_own_pods() {
        let node = Identity::new("system:node:n1", &["system:nodes"]);
        let asked = asked(Method::PATCH, "/api/v1/namespaces/a/pods/p/status");
        let pod = |name: &str| serde_json::from_value::<Object>(serde_json::json!({"spec": {"nodeName": name}})).unwrap();
        assert!(Builtin.change(&node, &asked, &pod("n1")).is_ok());
        assert_eq!(Builtin.change(&node, &asked, &pod("n2")).unwrap_err().code, 403);
        assert!(
            Builtin
                .change(&Identity::new("admin", &["system:masters"]), &asked, &pod("n2"))
                .is_ok()
        );
    }
}
