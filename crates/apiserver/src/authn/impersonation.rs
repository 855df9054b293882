//! Acting as somebody else: the `Impersonate-*` headers.
//!
//! Source: Kubernetes "User impersonation"; upstream
//! `apiserver/pkg/endpoints/filters/impersonation.go`.

use std::collections::BTreeMap;

use api::Status;
use http::{HeaderMap, HeaderName};
use percent_encoding::percent_decode_str;

use super::{AUTHENTICATED, Identity, UNAUTHENTICATED};
use crate::authz::{Attributes, Authorizer, Decision, refusal};

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";
const ANONYMOUS: &str = "system:anonymous";

/// Whom the headers name; `None` when they name nobody. The headers are taken
/// out: nothing behind this may act on them again.
///
/// # Errors
/// 400 for headers that are no text, 500 (as upstream) when groups, a UID or
/// extras are named without a user.
fn wanted(headers: &mut HeaderMap) -> Result<Option<Identity>, Status> {
    let names: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().starts_with("impersonate-"))
        .cloned()
        .collect();
    if names.is_empty() {
        return Ok(None);
    }
    let mut user = String::new();
    let mut uid = String::new();
    let mut groups = Vec::new();
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for name in names {
        let mut values = Vec::new();
        for value in headers.get_all(&name) {
            let text = std::str::from_utf8(value.as_bytes());
            values.push(
                text.map_err(|_| Status::bad_request(format!("the header {name} is not valid UTF-8")))?
                    .to_owned(),
            );
        }
        headers.remove(&name);
        let first = || values.first().cloned().unwrap_or_default();
        match name.as_str() {
            USER => user = first(),
            UID => uid = first(),
            GROUP => groups = values,
            other => {
                let Some(key) = other.strip_prefix(EXTRA) else { continue };
                let key = percent_decode_str(key).decode_utf8_lossy().into_owned();
                extra.entry(key).or_default().extend(values);
            }
        }
    }
    if user.is_empty() {
        let named: Vec<String> = groups
            .iter()
            .chain(std::iter::once(&uid))
            .chain(extra.keys())
            .filter(|name| !name.is_empty())
            .cloned()
            .collect();
        if named.is_empty() {
            return Ok(None);
        }
        return Err(Status::internal(&format!("requested {named:?} without impersonating a user")));
    }
    Ok(Some(Identity {
        user,
        groups,
        uid,
        extra,
        exact: false,
    }))
}

/// The namespace and name of a ServiceAccount's user name.
pub(crate) fn service_account(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    (!namespace.is_empty() && !name.is_empty() && !name.contains(':')).then_some((namespace, name))
}

/// Whom the request is to be treated as instead of its caller: whom its
/// headers name, if the caller may act as them.
///
/// # Errors
/// 403 naming what the caller may not be.
pub(crate) fn apply(authorizer: &Authorizer, caller: &Identity, headers: &mut HeaderMap) -> Result<Option<Identity>, Status> {
    let Some(mut wanted) = wanted(headers)? else { return Ok(None) };
    let account = service_account(&wanted.user).map(|(namespace, name)| (namespace.to_owned(), name.to_owned()));
    let check = |group: &str, resource: &str, subresource: &str, namespace: &str, name: &str| {
        let attributes = Attributes::Resource {
            verb: "impersonate",
            group,
            resource,
            subresource,
            namespace,
            name,
        };
        match authorizer.decide(caller, &attributes, None) {
            Decision::Allow(_) => Ok(()),
            Decision::NoOpinion(why) => Err(refusal(caller, &attributes, &why)),
        }
    };
    match &account {
        Some((namespace, name)) => check("", "serviceaccounts", "", namespace, name)?,
        None => check("", "users", "", "", &wanted.user)?,
    }
    for group in &wanted.groups {
        check("", "groups", "", "", group)?;
    }
    for (key, values) in &wanted.extra {
        for value in values {
            check("authentication.k8s.io", "userextras", key, "", value)?;
        }
    }
    if !wanted.uid.is_empty() {
        check("authentication.k8s.io", "uids", "", "", &wanted.uid)?;
    }
    if let (Some((namespace, name)), true) = (&account, wanted.groups.is_empty()) {
        wanted.groups = Identity::service_account(namespace, name).groups;
    }
    if wanted.user == ANONYMOUS && !wanted.groups.iter().any(|group| group == AUTHENTICATED || group == UNAUTHENTICATED) {
        wanted.groups.push(UNAUTHENTICATED.to_owned());
    }
    Ok(Some(wanted))
}

#[cfg(test)]
mod tests {
    use http::Request;
    use serde_json::{Value, json};

    use super::*;
    use crate::body;
    use crate::testing::Rig;

    async fn whoami(rig: &Rig, caller: &Identity, headers: &[(&str, &str)]) -> (u16, Value) {
        let mut request = Request::post("/apis/authentication.k8s.io/v1/selfsubjectreviews").header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = rig.request(Some(caller.clone()), request.body(body::full("{}")).unwrap()).await;
        let value = answer.json();
        (
            answer.code,
            if answer.code == 201 {
                value["status"]["userInfo"].clone()
            } else {
                value["message"].clone()
            },
        )
    }

    #[tokio::test]
    async fn masters_may_be_anybody() {
        let rig = Rig::new().await;
        let admin = Rig::admin();
        let (_, own) = whoami(&rig, &admin, &[]).await;
        assert_eq!(
            own,
            json!({"username": "admin", "groups": ["system:masters", "system:authenticated"]})
        );
        let headers = [
            ("impersonate-user", "jane"),
            ("impersonate-group", "dev"),
            ("impersonate-group", "ops"),
            ("impersonate-uid", "u1"),
            ("impersonate-extra-scopes", "a"),
            ("Impersonate-Extra-acme.com%2Fteam", "b"),
        ];
        let expected = json!({"username": "jane", "uid": "u1", "groups": ["dev", "ops", "system:authenticated"], "extra": {"scopes": ["a"], "acme.com/team": ["b"]}});
        assert_eq!(whoami(&rig, &admin, &headers).await, (201, expected));
        let (_, account) = whoami(&rig, &admin, &[("impersonate-user", "system:serviceaccount:default:sa")]).await;
        assert_eq!(
            account["groups"],
            json!(["system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"])
        );
        let refused = whoami(&rig, &admin, &[("impersonate-user", "system:anonymous")]).await;
        assert_eq!(refused.0, 403, "nobody may ask who they are: {refused:?}");
        assert_eq!(whoami(&rig, &admin, &[("impersonate-group", "dev")]).await.0, 500);
    }

    #[tokio::test]
    async fn others_only_whom_their_roles_name() {
        let rig = Rig::new().await;
        let api = "/apis/rbac.authorization.k8s.io/v1";
        let rule = json!({"apiGroups": [""], "resources": ["users"], "resourceNames": ["jane"], "verbs": ["impersonate"]});
        rig.post(
            &format!("{api}/clusterroles"),
            &json!({"metadata": {"name": "as-jane"}, "rules": [rule]}),
        )
        .await;
        let subject = json!({"kind": "User", "name": "bob"});
        rig.post(
            &format!("{api}/clusterrolebindings"),
            &json!({"metadata": {"name": "as-jane"}, "roleRef": {"kind": "ClusterRole", "name": "as-jane"}, "subjects": [subject]}),
        )
        .await;
        let bob = Identity::new("bob", &[]);
        assert_eq!(whoami(&rig, &bob, &[("impersonate-user", "jane")]).await.1["username"], "jane");
        let table: [(&[(&str, &str)], &str); 4] = [
            (
                &[("impersonate-user", "root")],
                r#"users "root" is forbidden: User "bob" cannot impersonate resource "users" in API group "" at the cluster scope"#,
            ),
            (
                &[("impersonate-user", "jane"), ("impersonate-group", "system:masters")],
                r#"groups "system:masters" is forbidden: User "bob" cannot impersonate resource "groups" in API group "" at the cluster scope"#,
            ),
            (
                &[("impersonate-user", "system:serviceaccount:kube-system:x")],
                r#"serviceaccounts "x" is forbidden: User "bob" cannot impersonate resource "serviceaccounts" in API group "" in the namespace "kube-system""#,
            ),
            (
                &[("impersonate-user", "jane"), ("impersonate-extra-scopes", "all")],
                r#"userextras.authentication.k8s.io "all" is forbidden: User "bob" cannot impersonate resource "userextras/scopes" in API group "authentication.k8s.io" at the cluster scope"#,
            ),
        ];
        for (headers, expected) in table {
            assert_eq!(whoami(&rig, &bob, headers).await, (403, json!(expected)));
        }
    }
}
