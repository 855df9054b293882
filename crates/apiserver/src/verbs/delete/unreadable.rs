//! The delete of an object that cannot be read from the store any more.
//!
//! Nobody knows its finalizers, its dependents or its version, so none of them
//! count; that may break what relied on them. Hence a right of its own, and no
//! other option beside it. Upstream has this behind the gate
//! `AllowUnsafeMalformedObjectDeletion`, which is off in v1.33; here it is on:
//! there is no other way to such an object short of editing the store.
//!
//! Source: KEP-3926; upstream `apiserver/pkg/registry/generic/registry/corrupt_obj_deleter.go`,
//! `apiserver/pkg/endpoints/handlers/delete.go`,
//! `apimachinery/pkg/apis/meta/v1/validation` (`ValidateIgnoreStoreReadError`).

use api::status::{Details, Violation};
use api::{ResourceId, Status};
use http::Response;
use store::{Compare, Op, StoreError, Txn};

use crate::authz::{self, Decision};
use crate::body::Body;
use crate::call::Call;
use crate::{respond, write};

/// The option, in the query or in `DeleteOptions`.
pub(super) const OPTION: &str = "ignoreStoreReadErrorWithClusterBreakingPotential";
/// The verb it takes, beside `delete`.
const VERB: &str = "unsafe-delete-ignore-read-errors";

fn refused(id: &ResourceId, name: &str, why: &[String]) -> Status {
    let violation = |why: &String| Violation::invalid(OPTION, &true.into(), why);
    Status::invalid(id, name, &why.iter().map(violation).collect::<Vec<_>>())
}

/// Refuses options that would need to know the object.
pub(super) fn alone(options: &ResourceId, beside: &[(&str, bool)]) -> Result<(), Status> {
    let set = beside.iter().filter(|(_, set)| *set);
    let why: Vec<String> = set.map(|(option, _)| format!("cannot be set together with {option}")).collect();
    if why.is_empty() { Ok(()) } else { Err(refused(options, "", &why)) }
}

/// 422: a collection may hold objects that are well.
pub(crate) fn of_collection() -> Status {
    let id = ResourceId::new("meta.k8s.io", "v1", "DeleteOptions", "");
    let why = "is not allowed with DELETECOLLECTION, try again after removing the option";
    refused(&id, "", &[why.to_owned()])
}

/// Removes the value under the key, if it cannot be decoded.
pub(super) async fn delete(call: &Call) -> Result<Response<Body>, Status> {
    let (id, name) = (&call.row.id, call.asked.name.as_str());
    if let Some(why) = call.row.strategy.keeps(name) {
        return Err(Status::forbidden(id, name, why));
    }
    let attributes = match authz::attributes(&call.asked) {
        authz::Attributes::Resource {
            group,
            resource,
            subresource,
            namespace,
            name,
            ..
        } => authz::Attributes::Resource {
            verb: VERB,
            group,
            resource,
            subresource,
            namespace,
            name,
        },
        path @ authz::Attributes::Path { .. } => path,
    };
    if let Decision::NoOpinion(why) = call.core.served().authorizer.decide(&call.identity, &attributes, None) {
        return Err(Status::forbidden(id, name, &format!("not permitted to do {VERB:?}, reason: {why}")));
    }
    let key = call.key();
    let stored = call.core.store.get(&key).await.map_err(|error| write::store_failed(&error))?;
    let damage = stored.and_then(|stored| call.row.hub().resolve(&key, &stored).err());
    let Some(damage) = damage else {
        let why = "is exclusively used to delete corrupt object(s), try again by removing this option";
        let about = ResourceId::new(&id.group, &id.version, &id.plural, &id.plural);
        return Err(refused(&about, name, &[why.to_owned()]));
    };
    let txn = Txn {
        compare: vec![Compare::ModifiedAt(key.clone(), store::Revision(damage.revision))],
        ops: vec![Op::Delete(key.clone())],
    };
    match call.core.store.commit(txn).await {
        Ok(_) => {}
        Err(StoreError::Conflict { .. }) => return Err(Status::modified(id, name)),
        Err(error) => return Err(write::store_failed(&error)),
    }
    tracing::warn!(key, user = call.identity.user, "a stored object that cannot be decoded was deleted");
    Ok(respond::status(&Status::success(Some(Details {
        name: name.to_owned(),
        kind: id.kind.clone(),
        ..Details::default()
    }))))
}
