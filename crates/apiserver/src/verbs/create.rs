//! `create`: a new object.
//!
//! Source: upstream `apiserver/pkg/registry/rest/create.go`,
//! `apiserver/pkg/registry/generic/registry/store.go`.

use std::sync::Arc;

use api::status::Cause;
use api::{Object, Scope, Status};
use http::{Response, StatusCode};
use store::{Compare, Op, Revision, StoreError, Txn};

use crate::admission::{self, Attributes, resource_quota};
use crate::allocate::{self, Claim};
use crate::authz::Authorizer;
use crate::body::Body;
use crate::call::Call;
use crate::hub::Entry;
use crate::managed_fields::manager_name;
use crate::registry::{Change, Rules};
use crate::write::Ownership;
use crate::{codec, entropy, write};

/// How often another name is tried when a generated one is taken.
const NAME_ATTEMPTS: u32 = 8;

/// Stores a new object and answers with it.
pub(crate) async fn create(mut call: Call) -> Result<Response<Body>, Status> {
    if call.row.scope == Scope::Namespaced && call.asked.namespace.is_empty() {
        return Err(call.wrong_method());
    }
    let mut object = codec::read(&mut call).await?;
    place(&call, &mut object)?;
    let ownership = Ownership::Recorded(manager_name(&call, false)?);
    let entry = store(&mut call, object, &ownership).await?;
    Ok(call.entry(StatusCode::CREATED, &entry))
}

/// The body's namespace must be the request's; absent, it becomes that.
pub(super) fn place(call: &Call, object: &mut Object) -> Result<(), Status> {
    let asked = call.namespace();
    if call.row.scope == Scope::Cluster {
        object.meta.namespace = None;
    } else if object.namespace().is_empty() {
        object.meta.namespace = Some(asked.to_owned());
    } else if object.namespace() != asked {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    Ok(())
}

/// Stores a decoded object that is in its place.
pub(super) async fn store(call: &mut Call, mut object: Object, ownership: &Ownership) -> Result<Arc<Entry>, Status> {
    if object
        .meta
        .resource_version
        .as_deref()
        .is_some_and(|revision| !revision.is_empty() && revision != "0")
    {
        return Err(Status::bad_request("resourceVersion should not be set on objects to be created"));
    }
    let dry_run = call.dry_run()?;
    let generated = object.name().is_empty() && object.meta.generate_name.as_deref().is_some_and(|prefix| !prefix.is_empty());
    own(&mut object, call);
    write::without_empty(&mut object);
    // What is wrong with the place comes before what is wrong with the object.
    namespace(call, &object).await?;
    ownership.settle(call, None, &mut object)?;
    admission::admit(&Attributes::create(call), &mut object).await?;
    let mut attempts = if generated { NAME_ATTEMPTS } else { 1 };
    loop {
        attempts -= 1;
        let mut new = if attempts == 0 {
            std::mem::take(&mut object)
        } else {
            object.clone()
        };
        if generated {
            new.meta.name = Some(entropy::name(new.meta.generate_name.as_deref().unwrap_or_default()));
        }
        // Of what was asked for, before the server adds its own.
        let told = call.row.strategy.warnings(&new, None);
        call.row.strategy.prepare(Change::Create { new: &mut new }, call.now);
        let mut warnings = Vec::new();
        let name = new.name().to_owned();
        match commit(call, new, dry_run, &mut warnings).await? {
            Some(entry) => {
                call.warnings.extend(told);
                call.warnings.append(&mut warnings);
                return Ok(entry);
            }
            None if attempts == 0 => return Err(Status::already_exists(&call.row.id, &name)),
            None => {}
        }
    }
}

/// Metadata the server owns.
fn own(object: &mut Object, call: &Call) {
    let meta = &mut object.meta;
    meta.uid = Some(entropy::uid());
    meta.creation_timestamp = Some(call.now.wire());
    meta.deletion_timestamp = None;
    meta.deletion_grace_period_seconds = None;
    meta.generation = None;
    meta.resource_version = None;
    meta.self_link = None;
}

/// Validates and commits; `None` when the name is taken.
async fn commit(call: &Call, mut new: Object, dry_run: bool, warnings: &mut Vec<String>) -> Result<Option<Arc<Entry>>, Status> {
    Authorizer::object(&call.identity, &call.asked, &new)?;
    call.core.served().authorizer.change(&call.identity, &call.asked, &new, None)?;
    let key = call.row.key(new.namespace(), new.name());
    write::validate(&call.row, &new, None, Rules::Create)?;
    admission::validate(&Attributes::create(call), &new, warnings).await?;
    for _ in 0..allocate::ATTEMPTS {
        let namespace = namespace(call, &new).await?;
        let claim = call.core.allocate(&call.row, &new, None).await?;
        let charge = resource_quota::charge(&Attributes::create(call), &new, call.now).await?;
        let (converted, encoded) = write::encode(&call.row, claim.as_ref().map_or(&new, |claim| &claim.object))?;
        if dry_run {
            let taken = call.core.current(&call.row, &key).await?.is_some();
            let object = converted.or(claim.map(|claim| claim.object)).unwrap_or(new);
            return Ok((!taken).then(|| Entry::new(&key, object, encoded, 0)));
        }
        let mut txn = Txn {
            compare: vec![Compare::Absent(key.clone())],
            ops: vec![Op::Put(key.clone(), encoded.clone())],
        };
        // The namespace is part of the transaction: nothing slips into one
        // that begins to terminate at this moment.
        txn.compare
            .extend(namespace.map(|(key, revision)| Compare::ModifiedAt(key, Revision(revision))));
        txn.compare.extend(claim.as_ref().map(Claim::compare));
        txn.ops.extend(claim.as_ref().map(|claim| claim.op(&key)));
        if let Some(charge) = &charge {
            txn.compare.extend(charge.compare.iter().cloned());
            txn.ops.extend(charge.ops.iter().cloned());
        }
        let (claimed, _turn) = claim.map(Claim::into_parts).unzip();
        let (stored, kept) = match converted.or(claimed) {
            Some(other) => (other, Some(new)),
            None => (new, None),
        };
        match write::commit(&call.core, &call.row, &key, (stored, encoded), txn).await {
            Ok(entry) => return Ok(Some(entry)),
            Err((StoreError::Conflict { key: lost }, _)) if lost == key => return Ok(None),
            // The namespace or a quota changed, or something was given away.
            Err((StoreError::Conflict { .. }, stored)) => new = kept.unwrap_or(stored),
            Err((error, _)) => return Err(write::store_failed(&error)),
        }
    }
    Err(allocate::contended(&call.row, new.name()))
}

/// Key and revision of the object's namespace, which must exist and stay.
///
/// Source: upstream `plugin/namespace/lifecycle/admission.go`.
async fn namespace(call: &Call, new: &Object) -> Result<Option<(String, u64)>, Status> {
    if call.row.scope != Scope::Namespaced {
        return Ok(None);
    }
    let Some(row) = call.core.row("", "v1", "namespaces") else {
        return Ok(None);
    };
    let key = row.key("", new.namespace());
    let Some(namespace) = call.core.current(&row, &key).await? else {
        return Err(Status::not_found(&row.id, new.namespace()));
    };
    if namespace.object.meta.deletion_timestamp.is_some() {
        let why = format!(
            "unable to create new content in namespace {} because it is being terminated",
            new.namespace()
        );
        let mut status = Status::forbidden(&call.row.id, new.name(), &why);
        if let Some(details) = &mut status.details {
            details.causes.push(Cause {
                reason: "NamespaceTerminating".to_owned(),
                message: format!("namespace {} is being terminated", new.namespace()),
                field: "metadata.namespace".to_owned(),
            });
        }
        return Err(status);
    }
    Ok(Some((key, namespace.entry.revision)))
}
