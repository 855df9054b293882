//! `SubjectAccessReview` and its kin: may somebody do something? And
//! `SelfSubjectRulesReview`: what may the caller do in a namespace?
//!
//! Source: upstream `pkg/registry/authorization/*/rest.go`,
//! `pkg/apis/authorization/validation/validation.go`.

use std::collections::BTreeMap;

use api::status::Violation;
use api::{Object, Status};
use serde_json::{Value, json};

use super::texts;
use crate::authn::Identity;
use crate::authz::rules::Rule;
use crate::authz::{Attributes, Decision};
use crate::call::Call;

/// Whose rights a review is about.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    /// The caller's.
    Own,
    /// Those of a named subject.
    Subject,
    /// The same, within the review's namespace.
    Local,
}

/// The status of an access review.
pub(super) fn status(call: &Call, review: &Object, whose: Whose) -> Result<Value, Status> {
    let broken = validate(call, review, whose);
    if !broken.is_empty() {
        return Err(Status::invalid(&call.row.id, "", &broken));
    }
    let subject;
    let identity = if whose == Whose::Own {
        &call.identity
    } else {
        subject = subject_of(review);
        &subject
    };
    let text = |path: &str| review.str_at(path);
    let attributes = if review.at("spec.resourceAttributes").is_some_and(|value| !value.is_null()) {
        Attributes::Resource {
            verb: text("spec.resourceAttributes.verb"),
            group: text("spec.resourceAttributes.group"),
            resource: text("spec.resourceAttributes.resource"),
            subresource: text("spec.resourceAttributes.subresource"),
            namespace: text("spec.resourceAttributes.namespace"),
            name: text("spec.resourceAttributes.name"),
        }
    } else {
        Attributes::Path {
            verb: text("spec.nonResourceAttributes.verb"),
            path: text("spec.nonResourceAttributes.path"),
        }
    };
    let (allowed, reason) = match call.core.served().authorizer.decide(identity, &attributes, None) {
        Decision::Allow(reason) => (true, reason),
        Decision::NoOpinion(reason) => (false, reason),
    };
    let mut status = json!({"allowed": allowed});
    if !reason.is_empty() {
        status["reason"] = json!(reason);
    }
    Ok(status)
}

fn subject_of(review: &Object) -> Identity {
    let extra: BTreeMap<String, Vec<String>> = review
        .at("spec.extra")
        .and_then(|extra| serde_json::from_value(extra.clone()).ok())
        .unwrap_or_default();
    Identity {
        user: review.str_at("spec.user").to_owned(),
        groups: texts(review, "spec.groups"),
        uid: review.str_at("spec.uid").to_owned(),
        extra,
        // A subject is what the review says and no more.
        exact: true,
    }
}

fn validate(call: &Call, review: &Object, whose: Whose) -> Vec<Violation> {
    let given = |field: &str| review.at(field).is_some_and(|value| !value.is_null());
    let (resource, path) = (given("spec.resourceAttributes"), given("spec.nonResourceAttributes"));
    let mut broken = Vec::new();
    if resource && path {
        let why = "cannot be specified in combination with resourceAttributes";
        let value = review.at("spec.nonResourceAttributes").cloned().unwrap_or_default();
        broken.push(Violation::invalid("spec.nonResourceAttributes", &value, why));
    } else if !resource && !path {
        let why = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
        broken.push(Violation::invalid("spec.resourceAttributes", &Value::Null, why));
    }
    if whose != Whose::Own && review.str_at("spec.user").is_empty() && texts(review, "spec.groups").is_empty() {
        let why = "at least one of user or group must be specified";
        broken.push(Violation::invalid("spec.user", &json!(""), why));
    }
    if whose == Whose::Local {
        let namespace = review.str_at("spec.resourceAttributes.namespace");
        if resource && namespace != call.asked.namespace {
            let why = "must match metadata.namespace";
            broken.push(Violation::invalid("spec.resourceAttributes.namespace", &json!(namespace), why));
        }
        if path {
            let why = "disallowed on this kind of request";
            broken.push(Violation::invalid("spec.nonResourceAttributes", &Value::Null, why));
        }
    }
    broken
}

/// The status of a rules review.
pub(super) fn rules(call: &Call, review: &Object) -> Result<Value, Status> {
    let namespace = review.str_at("spec.namespace");
    if namespace.is_empty() {
        return Err(Status::bad_request("no namespace on request"));
    }
    let rules = call.core.served().authorizer.rbac.rules_for(&call.identity, namespace);
    let (paths, resources): (Vec<Rule>, Vec<Rule>) = rules.into_iter().partition(|rule| !rule.urls.is_empty());
    let shown = |rules: Vec<Rule>| rules.iter().map(Rule::to_json).collect::<Vec<_>>();
    let mut status = json!({"resourceRules": shown(resources), "nonResourceRules": shown(paths), "incomplete": false});
    if call.identity.node().is_some() {
        status["incomplete"] = json!(true);
        status["evaluationError"] = json!("node authorizer does not support user rule resolution");
    }
    Ok(status)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Rig;
    use crate::{Identity, body};

    const API: &str = "/apis/authorization.k8s.io/v1";

    async fn ask(rig: &Rig, who: &Identity, path: &str, spec: Value) -> (u16, Value) {
        let request = http::Request::post(format!("{API}/{path}"))
            .header("content-type", "application/json")
            .body(body::full(json!({ "spec": spec }).to_string()))
            .unwrap();
        let answer = rig.request(Some(who.clone()), request).await;
        let value = answer.json();
        (
            answer.code,
            if answer.code == 201 {
                value["status"].clone()
            } else {
                value["message"].clone()
            },
        )
    }

    fn resource(verb: &str, resource: &str, namespace: &str) -> Value {
        json!({"resourceAttributes": {"verb": verb, "resource": resource, "namespace": namespace}})
    }

    #[tokio::test]
    async fn everybody_may_ask_about_themselves() {
        let rig = Rig::new().await;
        let user = Identity::new("u", &[]);
        let own = "selfsubjectaccessreviews";
        assert_eq!(
            ask(&rig, &user, own, resource("list", "pods", "a")).await,
            (201, json!({"allowed": false}))
        );
        assert_eq!(
            ask(&rig, &Rig::admin(), own, resource("*", "*", "")).await,
            (201, json!({"allowed": true}))
        );
        let path = json!({"nonResourceAttributes": {"verb": "get", "path": "/api"}});
        let (_, allowed) = ask(&rig, &user, own, path.clone()).await;
        assert_eq!(
            allowed,
            json!({"allowed": true, "reason": r#"RBAC: allowed by ClusterRoleBinding "system:discovery" of ClusterRole "system:discovery" to Group "system:authenticated""#})
        );
        let neither = ask(&rig, &user, own, json!({})).await;
        assert!(
            neither.0 == 422
                && neither
                    .1
                    .as_str()
                    .unwrap()
                    .ends_with("exactly one of nonResourceAttributes or resourceAttributes must be specified"),
            "{neither:?}"
        );
        let mut both = resource("get", "pods", "a");
        both["nonResourceAttributes"] = path["nonResourceAttributes"].clone();
        assert_eq!(ask(&rig, &user, own, both).await.0, 422);
    }

    #[tokio::test]
    async fn others_are_asked_about_by_those_who_may() {
        let rig = Rig::new().await;
        let user = Identity::new("u", &[]);
        let mut spec = resource("patch", "pods", "a");
        spec["resourceAttributes"]["subresource"] = json!("status");
        spec["user"] = json!("system:kube-scheduler");
        assert_eq!(ask(&rig, &user, "subjectaccessreviews", spec.clone()).await.0, 403);
        let (code, status) = ask(&rig, &Rig::admin(), "subjectaccessreviews", spec.clone()).await;
        assert_eq!((code, &status["allowed"]), (201, &json!(true)));
        let local = ask(&rig, &Rig::admin(), "namespaces/a/localsubjectaccessreviews", spec.clone()).await;
        assert_eq!(local.1["allowed"], true);
        let elsewhere = ask(&rig, &Rig::admin(), "namespaces/b/localsubjectaccessreviews", spec.clone()).await;
        assert!(
            elsewhere.0 == 422 && elsewhere.1.as_str().unwrap().ends_with("must match metadata.namespace"),
            "{elsewhere:?}"
        );
        spec.as_object_mut().unwrap().remove("user");
        assert_eq!(ask(&rig, &Rig::admin(), "subjectaccessreviews", spec).await.0, 422);
        // A subject has no group that is not named.
        let path = json!({"nonResourceAttributes": {"verb": "get", "path": "/api"}, "user": "u"});
        assert_eq!(
            ask(&rig, &Rig::admin(), "subjectaccessreviews", path).await.1,
            json!({"allowed": false})
        );
    }

    #[tokio::test]
    async fn the_rules_of_a_caller_are_listed() {
        let rig = Rig::new().await;
        let spec = json!({"namespace": "default"});
        let (code, status) = ask(&rig, &Identity::new("u", &[]), "selfsubjectrulesreviews", spec.clone()).await;
        assert_eq!((code, &status["incomplete"]), (201, &json!(false)));
        let own = json!({"apiGroups": ["authorization.k8s.io"], "resources": ["selfsubjectaccessreviews", "selfsubjectrulesreviews"], "verbs": ["create"]});
        assert!(status["resourceRules"].as_array().unwrap().contains(&own), "{status}");
        assert!(status["nonResourceRules"].to_string().contains("/openapi/*"), "{status}");
        let node = Identity::new("system:node:n1", &["system:nodes"]);
        assert_eq!(ask(&rig, &node, "selfsubjectrulesreviews", spec).await.1["incomplete"], true);
        assert_eq!(
            ask(&rig, &node, "selfsubjectrulesreviews", json!({})).await,
            (400, json!("no namespace on request"))
        );
    }
}
