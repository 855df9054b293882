//! Which requests are recorded. Pure.
//!
//! All are, but what would bury the rest: health and discovery, Events, and
//! what the cluster's own parts read and the leases they renew. What was
//! refused to them is recorded.
//!
//! Source: in the manner of upstream `cluster/gce/gci/configure-helper.sh`,
//! `create-master-audit-policy`.

use crate::authn::Identity;
use crate::fairness::is_own;
use crate::request::ResourceRequest;

/// A request by what it is for; `None` is a path that is no resource.
pub(crate) fn records(user: Option<&Identity>, path: &str, asked: Option<&ResourceRequest>, code: u16) -> bool {
    let refused = matches!(code, 401 | 403);
    match asked {
        None => refused && !is_public(path) || !is_public(path) && !is_discovery(path),
        Some(asked) if asked.resource == "events" => refused,
        Some(asked) => {
            let noise = asked.verb.reads() || asked.resource == "leases";
            refused || !(noise && user.is_some_and(is_own))
        }
    }
}

fn is_public(path: &str) -> bool {
    ["/healthz", "/livez", "/readyz", "/version"]
        .iter()
        .any(|public| path.starts_with(public))
}

fn is_discovery(path: &str) -> bool {
    path == "/" || ["/api", "/apis", "/openapi"].iter().any(|root| path.starts_with(root))
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;
    use crate::request::{Query, Target, target};

    #[test]
    fn what_would_bury_the_rest_is_left_out() {
        let admin = Identity::new("admin", &["system:masters"]);
        let node = Identity::new("system:node:n1", &["system:nodes"]);
        let controller = Identity::service_account("kube-system", "namespace-controller");
        let account = Identity::service_account("default", "app");
        let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n1";
        let table = [
            (Some(&admin), Method::GET, "/api/v1/pods", 200, true),
            (Some(&account), Method::GET, "/api/v1/pods", 200, true),
            (Some(&node), Method::GET, "/api/v1/pods", 200, false),
            (Some(&node), Method::GET, "/api/v1/secrets", 403, true),
            (Some(&node), Method::PATCH, "/api/v1/namespaces/a/pods/p/status", 200, true),
            (Some(&node), Method::PATCH, leases, 200, false),
            (Some(&controller), Method::GET, "/api/v1/pods", 200, false),
            (Some(&controller), Method::DELETE, "/api/v1/namespaces/a/pods/p", 200, true),
            (Some(&admin), Method::POST, "/api/v1/namespaces/a/events", 201, false),
            (Some(&account), Method::POST, "/api/v1/namespaces/a/events", 403, true),
            (None, Method::GET, "/api/v1/pods", 401, true),
            (None, Method::GET, "/apis", 401, true),
            (Some(&admin), Method::GET, "/apis", 200, false),
            (Some(&admin), Method::GET, "/metrics", 200, true),
            (None, Method::GET, "/readyz", 200, false),
        ];
        for (user, method, path, code, recorded) in table {
            let asked = match target(&method, path, &Query::default()).unwrap() {
                Target::Resource(asked) => Some(asked),
                Target::Path(_) => None,
            };
            assert_eq!(records(user, path, asked.as_ref(), code), recorded, "{user:?} {method} {path}");
        }
    }
}
