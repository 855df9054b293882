//! Kinds that are questions: created, answered, never stored; and
//! `TokenRequest`, the kind of a subresource.

use std::sync::Arc;

use super::plain;
use crate::registry::{Resource, Review};
use api::{Object, Scope};
use serde_json::Value;

use crate::registry::Strategy;

/// Source: upstream `pkg/apis/authentication/v1/defaults.go`.
const EXPIRATION_S: u64 = 3_600;

fn review(group: &str, kind: &str, plural: &str, scope: Scope, review: Review) -> Resource {
    Resource {
        scope,
        review: Some(review),
        ..plain(group, kind, plural, "")
    }
}

pub(super) fn rows() -> [Resource; 6] {
    use Scope::{Cluster, Namespaced};
    let (authn, authz) = ("authentication.k8s.io", "authorization.k8s.io");
    [
        review(authn, "TokenReview", "tokenreviews", Cluster, Review::Token),
        review(authn, "SelfSubjectReview", "selfsubjectreviews", Cluster, Review::SelfSubject),
        review(authz, "SubjectAccessReview", "subjectaccessreviews", Cluster, Review::SubjectAccess),
        review(
            authz,
            "LocalSubjectAccessReview",
            "localsubjectaccessreviews",
            Namespaced,
            Review::LocalSubjectAccess,
        ),
        review(
            authz,
            "SelfSubjectAccessReview",
            "selfsubjectaccessreviews",
            Cluster,
            Review::SelfSubjectAccess,
        ),
        review(
            authz,
            "SelfSubjectRulesReview",
            "selfsubjectrulesreviews",
            Cluster,
            Review::SelfSubjectRules,
        ),
    ]
}

/// What the subresource `token` of service accounts takes. Not a row of the
/// registry: it has no collection.
pub(crate) fn token_request() -> Resource {
    Resource {
        strategy: Arc::new(TokenRequest),
        ..plain("authentication.k8s.io", "TokenRequest", "tokenrequests", "")
    }
}

struct TokenRequest;

impl Strategy for TokenRequest {
    fn default(&self, request: &mut Object) {
        let spec = request.body.entry("spec").or_insert_with(|| Value::Object(serde_json::Map::new()));
        if let Some(spec) = spec.as_object_mut() {
            spec.entry("expirationSeconds").or_insert_with(|| Value::from(EXPIRATION_S));
        }
    }
}
