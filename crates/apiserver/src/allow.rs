//! `Allow`: what a path can be asked, said with every 405.
//!
//! Read from the verbs discovery tells, so that the two agree.
//!
//! Source: RFC 9110, section 15.5.6, which wants the header; upstream's router
//! (`apiserver/pkg/server/handler.go`, `serviceErrorHandler`) leaves it out.

use http::{HeaderValue, Method};

use crate::discovery;
use crate::registry::Registry;
use crate::request::{self, Query, Target};

/// The methods a path takes; `None` for one that is not served at all.
pub(crate) fn methods(registry: &Registry, path: &str) -> Option<HeaderValue> {
    let target = request::target(&Method::GET, path, &Query::default()).ok()?;
    let asked = match target {
        Target::Path(_) => return Some(HeaderValue::from_static("GET, HEAD")),
        Target::Resource(asked) => asked,
    };
    let row = registry.find(&asked.group, &asked.version, &asked.resource)?;
    let one = !asked.name.is_empty();
    let verbs = match asked.subresource.as_str() {
        "" => discovery::row_verbs(row),
        name => discovery::verbs(*row.subresources.iter().find(|subresource| subresource.name() == name)?),
    };
    let everywhere = row.scope == api::Scope::Namespaced && asked.namespace.is_empty();
    let method = |verb: &&str| match *verb {
        "get" => one.then_some("GET"),
        "update" => one.then_some("PUT"),
        "patch" => one.then_some("PATCH"),
        "delete" => one.then_some("DELETE"),
        "create" => (one != asked.subresource.is_empty() && !everywhere).then_some("POST"),
        "list" => (!one).then_some("GET"),
        "deletecollection" => (!one && !everywhere).then_some("DELETE"),
        // A watch is a GET too.
        _ => None,
    };
    let mut methods: Vec<&str> = verbs.iter().filter_map(method).collect();
    methods.sort_unstable();
    methods.dedup();
    HeaderValue::from_str(&methods.join(", ")).ok()
}

#[cfg(test)]
mod tests {
    use http::header;

    use super::*;
    use crate::testing::Rig;

    #[tokio::test]
    async fn a_405_says_what_is_allowed() {
        let rig = Rig::new().await;
        let table = [
            (Method::PUT, "/api/v1/namespaces/default/pods", "DELETE, GET, POST"),
            (Method::POST, "/api/v1/pods", "GET"),
            (Method::DELETE, "/api/v1/pods", "GET"),
            (Method::POST, "/api/v1/namespaces/default/pods/a", "DELETE, GET, PATCH, PUT"),
            (Method::OPTIONS, "/api/v1/namespaces/default/pods/a", "DELETE, GET, PATCH, PUT"),
            (Method::HEAD, "/api/v1/nodes", "DELETE, GET, POST"),
            (Method::DELETE, "/api/v1/namespaces", "GET, POST"),
            (Method::DELETE, "/api/v1/namespaces/default/pods/a/status", "GET, PATCH, PUT"),
            (Method::GET, "/api/v1/namespaces/default/pods/a/binding", "POST"),
            (Method::POST, "/api/v1/namespaces/default/pods/a/log", "GET"),
            (Method::DELETE, "/api/v1/namespaces/default/pods/a/exec", "GET, POST"),
            (Method::GET, "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", "POST"),
            (Method::POST, "/apis/metrics.k8s.io/v1beta1/nodes", "GET"),
            (Method::POST, "/api", "GET, HEAD"),
        ];
        for (method, path, allowed) in table {
            let answer = rig.send(method.clone(), path, "application/json", String::new()).await;
            assert_eq!(answer.code, 405, "{method} {path}: {:?}", answer.text);
            assert_eq!(answer.headers[header::ALLOW], allowed, "{method} {path}");
            if method != Method::HEAD {
                let status = answer.json();
                assert_eq!(status["message"], "the server does not allow this method on the requested resource");
                assert_eq!(
                    (&status["reason"], &status["details"]),
                    (&"MethodNotAllowed".into(), &serde_json::json!({}))
                );
            }
        }
    }
}
