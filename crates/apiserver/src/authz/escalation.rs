//! Nobody gives away rights they do not have.
//!
//! Source: Kubernetes "Using RBAC authorization", "Privilege escalation
//! prevention and bootstrapping"; upstream
//! `pkg/registry/rbac/*/policybased/storage.go`, `escalation_check.go`.

use api::{Object, ResourceId, Status};

use super::rules::{GROUP, Rule, missing, quoted};
use super::{Attributes, Authorizer, Decision};
use crate::authn::Identity;
use crate::request::ResourceRequest;

/// A new version of a role or binding.
pub(super) fn check(
    authorizer: &Authorizer,
    identity: &Identity,
    asked: &ResourceRequest,
    new: &Object,
    old: Option<&Object>,
) -> Result<(), Status> {
    // What only makes it go away gives nothing to anybody.
    if old.is_some_and(|old| old.body == new.body) {
        return Ok(());
    }
    match asked.resource.as_str() {
        "roles" | "clusterroles" => role(authorizer, identity, asked, new),
        "rolebindings" | "clusterrolebindings" => binding(authorizer, identity, asked, new),
        _ => Ok(()),
    }
}

fn role(authorizer: &Authorizer, identity: &Identity, asked: &ResourceRequest, new: &Object) -> Result<(), Status> {
    let escalate = Attributes::Resource {
        verb: "escalate",
        group: GROUP,
        resource: &asked.resource,
        subresource: "",
        namespace: &asked.namespace,
        name: &asked.name,
    };
    if let Decision::Allow(_) = authorizer.decide(identity, &escalate, None) {
        return Ok(());
    }
    covered(authorizer, identity, asked, new, &Rule::of(new))?;
    if asked.resource == "clusterroles" && new.body.get("aggregationRule").is_some_and(|rule| !rule.is_null()) {
        let all = || vec!["*".to_owned()];
        let everything = [
            Rule {
                verbs: all(),
                api_groups: all(),
                resources: all(),
                ..Rule::default()
            },
            Rule {
                verbs: all(),
                urls: all(),
                ..Rule::default()
            },
        ];
        if !missing(&authorizer.rbac.rules_for(identity, ""), &everything).is_empty() {
            let id = ResourceId::new(GROUP, "v1", "", &asked.resource);
            let why = "must have cluster-admin privileges to use the aggregationRule";
            return Err(Status::forbidden(&id, new.name(), why));
        }
    }
    Ok(())
}

fn binding(authorizer: &Authorizer, identity: &Identity, asked: &ResourceRequest, new: &Object) -> Result<(), Status> {
    let (kind, name) = (new.str_at("roleRef.kind"), new.str_at("roleRef.name"));
    let plural = match kind {
        "ClusterRole" => "clusterroles",
        "Role" => "roles",
        // Validation refuses it.
        _ => return Ok(()),
    };
    let bind = Attributes::Resource {
        verb: "bind",
        group: GROUP,
        resource: plural,
        subresource: "",
        namespace: &asked.namespace,
        name,
    };
    if let Decision::Allow(_) = authorizer.decide(identity, &bind, None) {
        return Ok(());
    }
    let rules = authorizer.rbac.role(kind, &asked.namespace, name);
    let rules = rules.ok_or_else(|| Status::not_found(&ResourceId::new(GROUP, "v1", "", plural), name))?;
    covered(authorizer, identity, asked, new, &rules)
}

/// The caller holds every right in `rules`.
fn covered(authorizer: &Authorizer, identity: &Identity, asked: &ResourceRequest, new: &Object, rules: &[Rule]) -> Result<(), Status> {
    let missing = missing(&authorizer.rbac.rules_for(identity, &asked.namespace), rules);
    if missing.is_empty() {
        return Ok(());
    }
    let why = format!(
        "user {:?} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
        identity.user,
        quoted(&identity.all_groups()),
        missing.join("\n")
    );
    Err(Status::forbidden(
        &ResourceId::new(GROUP, "v1", "", &asked.resource),
        new.name(),
        &why,
    ))
}
