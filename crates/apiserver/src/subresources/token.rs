//! `serviceaccounts/token`: a token for a ServiceAccount.
//!
//! Source: upstream `pkg/registry/core/serviceaccount/storage/token.go`,
//! `pkg/apis/authentication/validation/validation.go`,
//! `plugin/pkg/admission/noderestriction/admission.go` `admitServiceAccount`.

use std::sync::Arc;
use std::time::Duration;

use api::status::Violation;
use api::{Object, ResourceId, Status};
use http::{Response, StatusCode};
use serde_json::{Value, json};

use crate::authn::bearer;
use crate::body::Body;
use crate::call::Call;
use crate::kinds::reviews::token_request;
use crate::tokens::claims::{Bound, Claims};
use crate::{codec, entropy, respond};

/// Least and most seconds a token may be asked to live.
const EXPIRATION_S_MIN: i64 = 600;
const EXPIRATION_S_MAX: i64 = 1 << 32;

/// What the projected volumes of admission ask for. Such a token lives a year
/// and only warns after the time asked for: old clients do not read it anew.
///
/// Source: upstream `pkg/serviceaccount/claims.go`,
/// `WarnOnlyBoundTokenExpirationSeconds`, `ExpirationExtensionSeconds`.
const WARN_ONLY_EXPIRATION_S: i64 = 3_607;
const EXTENDED_EXPIRATION_S: i64 = 365 * 24 * 3_600;

/// What the token is to be bound to.
struct Reference {
    api_version: String,
    kind: String,
    name: String,
    uid: String,
}

/// The objects a token is bound to.
#[derive(Default)]
struct Bounds {
    pod: Option<Arc<Object>>,
    secret: Option<Arc<Object>>,
    node: Option<Bound>,
}

/// `POST .../serviceaccounts/NAME/token`.
pub(crate) async fn create(mut call: Call) -> Result<Response<Body>, Status> {
    let row = token_request();
    let dry_run = call.dry_run()?;
    let mut request = codec::read_as(&mut call, &row).await?;
    let account = call.core.current(&call.row, &call.key()).await?.ok_or_else(|| call.not_found())?;
    let account = account.object;
    place(&row.id, &account, &mut request)?;
    let expiration_s = expiration(&row.id, &request)?;
    let mut audiences = audiences(&request);
    if audiences.is_empty() {
        audiences = call.core.tokens.audiences().to_vec();
    }
    let reference = reference(&request);
    if let Some(node) = call.identity.node() {
        for_node(&call, node, &request, reference.as_ref()).await?;
    }
    let bounds = match &reference {
        Some(reference) => bind(&call, &account, reference).await?,
        None => Bounds::default(),
    };
    let own = audiences.iter().all(|audience| call.core.tokens.audiences().contains(audience));
    let warns = own && bounds.pod.is_some() && expiration_s == WARN_ONLY_EXPIRATION_S;
    let now_s = call.now.0.div_euclid(1_000_000_000);
    let lives_s = if warns { EXTENDED_EXPIRATION_S } else { expiration_s };
    let of = |object: &Arc<Object>| Bound {
        name: object.name().to_owned(),
        uid: object.uid().to_owned(),
    };
    let claims = Claims {
        audiences: audiences.clone(),
        expires_s: now_s + lives_s,
        issued_s: now_s,
        id: entropy::uid(),
        namespace: account.namespace().to_owned(),
        account: of(&account),
        pod: bounds.pod.as_ref().map(of),
        secret: bounds.secret.as_ref().map(of),
        node: bounds.node,
        warn_after_s: warns.then_some(now_s + expiration_s),
    };
    let token = if dry_run {
        String::new()
    } else {
        let issued = call.core.tokens.issue(&claims);
        issued.map_err(|error| Status::internal(&error.to_string()))?
    };
    request.meta.creation_timestamp = Some(call.now.wire());
    let expires = call.now + Duration::from_secs(expiration_s.unsigned_abs());
    if let Some(spec) = request.body.get_mut("spec").and_then(Value::as_object_mut) {
        spec.insert("audiences".to_owned(), json!(audiences));
    }
    request.body.insert(
        "status".to_owned(),
        json!({"token": token, "expirationTimestamp": expires.to_string()}),
    );
    let mut response = respond::json(StatusCode::CREATED, &request);
    respond::warn(&mut response, &call.warnings);
    Ok(response)
}

/// Name and namespace of the body are those of the path, or not stated.
fn place(id: &ResourceId, account: &Object, request: &mut Object) -> Result<(), Status> {
    let fields = [
        ("metadata.name", "service account name", request.name().to_owned(), account.name()),
        (
            "metadata.namespace",
            "service account namespace",
            request.namespace().to_owned(),
            account.namespace(),
        ),
    ];
    for (field, what, stated, wanted) in fields {
        if !stated.is_empty() && stated != wanted {
            let violation = Violation::invalid(field, &json!(stated), &format!("must match the {what} if specified"));
            return Err(Status::invalid(id, account.name(), &[violation]));
        }
    }
    request.meta.name = Some(account.name().to_owned());
    request.meta.namespace = Some(account.namespace().to_owned());
    Ok(())
}

fn expiration(id: &ResourceId, request: &Object) -> Result<i64, Status> {
    let seconds = request.at("spec.expirationSeconds").and_then(Value::as_i64).unwrap_or_default();
    let why = if seconds < EXPIRATION_S_MIN {
        "may not specify a duration less than 10 minutes"
    } else if seconds > EXPIRATION_S_MAX {
        "may not specify a duration larger than 2^32 seconds"
    } else {
        return Ok(seconds);
    };
    Err(Status::invalid(
        id,
        "",
        &[Violation::invalid("spec.expirationSeconds", &json!(seconds), why)],
    ))
}

fn audiences(request: &Object) -> Vec<String> {
    let list = request.at("spec.audiences").and_then(Value::as_array).into_iter().flatten();
    list.filter_map(Value::as_str).map(str::to_owned).collect()
}

fn reference(request: &Object) -> Option<Reference> {
    let value = request.at("spec.boundObjectRef")?;
    let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    Some(Reference {
        api_version: text("apiVersion"),
        kind: text("kind"),
        name: text("name"),
        uid: text("uid"),
    })
}

/// Reads the object the token is to be bound to.
async fn bind(call: &Call, account: &Object, reference: &Reference) -> Result<Bounds, Status> {
    let read = |plural: &'static str, namespace: String| async move {
        let found = bearer::find(&call.core, plural, &namespace, &reference.name).await;
        let found = found.map_err(|error| Status::internal(&error.to_string()))?;
        found.ok_or_else(|| Status::not_found(&ResourceId::new("", "v1", "", plural), &reference.name))
    };
    let namespace = account.namespace().to_owned();
    let mut bounds = Bounds::default();
    let core_group = !reference.api_version.contains('/');
    let uid = match reference.kind.as_str() {
        "Pod" if core_group => {
            let pod = read("pods", namespace).await?;
            if pod.str_at("spec.serviceAccountName") != account.name() {
                return Err(Status::bad_request(format!(
                    "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
                    account.name()
                )));
            }
            bounds.node = node_of(call, &pod).await?;
            let uid = pod.uid().to_owned();
            bounds.pod = Some(pod);
            uid
        }
        "Secret" if core_group => {
            let secret = read("secrets", namespace).await?;
            let uid = secret.uid().to_owned();
            bounds.secret = Some(secret);
            uid
        }
        "Node" if core_group => {
            let node = read("nodes", String::new()).await?;
            bounds.node = Some(Bound {
                name: node.name().to_owned(),
                uid: node.uid().to_owned(),
            });
            node.uid().to_owned()
        }
        kind => {
            let (group, version) = reference.api_version.split_once('/').unwrap_or(("", &reference.api_version));
            return Err(Status::bad_request(format!(
                "cannot bind token to object of type {group}/{version}, Kind={kind}"
            )));
        }
    };
    if !reference.uid.is_empty() && reference.uid != uid {
        let id = ResourceId::new("", "v1", "", &reference.kind);
        return Err(Status::conflict(&id, &reference.name, &other_uid(&reference.uid)));
    }
    Ok(bounds)
}

fn other_uid(uid: &str) -> String {
    format!(
        "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
    )
}

/// The node a pod runs on; without a UID when its Node object is not there.
async fn node_of(call: &Call, pod: &Object) -> Result<Option<Bound>, Status> {
    let name = pod.str_at("spec.nodeName");
    if name.is_empty() {
        return Ok(None);
    }
    let node = bearer::find(&call.core, "nodes", "", name).await;
    let node = node.map_err(|error| Status::internal(&error.to_string()))?;
    Ok(Some(Bound {
        name: name.to_owned(),
        uid: node.map(|node| node.uid().to_owned()).unwrap_or_default(),
    }))
}

/// A node gets tokens for the pods that run on it, for audiences their volumes
/// ask for.
async fn for_node(call: &Call, node: &str, request: &Object, reference: Option<&Reference>) -> Result<(), Status> {
    let id = ResourceId::new("", "v1", "", "serviceaccounts");
    let refuse = |why: &str| Err(Status::forbidden(&id, &call.asked.name, why));
    let Some(reference) = reference.filter(|r| r.api_version == "v1" && r.kind == "Pod" && !r.name.is_empty()) else {
        return refuse("node requested token not bound to a pod");
    };
    if reference.uid.is_empty() {
        return refuse("node requested token with a pod binding without a uid");
    }
    let pod = bearer::find(&call.core, "pods", &call.asked.namespace, &reference.name).await;
    let pod = pod.map_err(|error| Status::internal(&error.to_string()))?;
    let Some(pod) = pod else {
        return Err(Status::not_found(&ResourceId::new("", "v1", "", "pods"), &reference.name));
    };
    if pod.uid() != reference.uid {
        return refuse(&other_uid(&reference.uid));
    }
    if pod.str_at("spec.nodeName") != node {
        return refuse("node requested token bound to a pod scheduled on a different node");
    }
    let asked = audiences(request);
    let audience = match asked.as_slice() {
        [] => "",
        [one] => one,
        _ => return refuse("node may only request 0 or 1 audiences"),
    };
    if projected_audiences(&pod).any(|projected| projected == audience) {
        return Ok(());
    }
    let user = &call.identity.user;
    refuse(&format!(
        "audience {audience:?} not found in pod spec volume, {user} is not authorized to request tokens for this audience"
    ))
}

/// The audiences of a pod's projected tokens; empty for this API server's.
fn projected_audiences(pod: &Object) -> impl Iterator<Item = &str> {
    fn list(value: Option<&Value>) -> impl Iterator<Item = &Value> {
        value.and_then(Value::as_array).into_iter().flatten()
    }
    let sources = list(pod.at("spec.volumes")).flat_map(|volume| list(volume.pointer("/projected/sources")));
    sources
        .filter_map(|source| source.get("serviceAccountToken"))
        .map(|token| token.get("audience").and_then(Value::as_str).unwrap_or_default())
}

#[cfg(test)]
mod tests;
