//! Reading what is stored and committing what replaces it: the steps every
//! write shares.

use std::sync::Arc;

use api::{Object, Status, schema};
use bytes::Bytes;
use store::{Compare, Op, StoreError, Txn};

use crate::admission::{self, Attributes, resource_quota};
use crate::allocate::{self, Claim};
use crate::authz::Authorizer;
use crate::call::{Call, Part, served};
use crate::hub::Entry;
use crate::managed_fields::{self, Forms, Writer};
use crate::registry::{Change, Resource, Row, Rules, Subresource};
use crate::server::Core;
use crate::validate;

/// How often a change is tried again when somebody else was faster.
///
/// Source: upstream `MaxRetryWhenPatchConflicts`.
const ATTEMPTS: u32 = 5;

/// An object as stored, and in the row's form.
pub(crate) struct Current {
    pub(crate) entry: Arc<Entry>,
    pub(crate) object: Arc<Object>,
}

/// What a change of an object came to.
pub(crate) enum Outcome {
    /// It is stored; also when nothing had to be changed.
    Stored(Arc<Entry>),
    /// The last thing that held a deleted object back is gone, and so is it.
    Removed(Arc<Entry>),
}

impl Outcome {
    pub(crate) fn entry(&self) -> &Arc<Entry> {
        match self {
            Self::Stored(entry) | Self::Removed(entry) => entry,
        }
    }
}

impl Core {
    /// The newest version of an object: from the hub when that has caught up,
    /// else from the store. Every acknowledged write is visible.
    pub(crate) async fn current(&self, row: &Row, key: &str) -> Result<Option<Current>, Status> {
        let entry = match row.hub().get(key, self.store.revision().0) {
            Some(entry) => entry,
            None => {
                let versioned = self.store.get(key).await.map_err(|error| store_failed(&error))?;
                versioned.map(|versioned| row.hub().resolve(key, &versioned)).transpose()
            }
        };
        let entry = entry.map_err(|damage| damage.status())?;
        Ok(entry.map(|entry| Current {
            object: served(row, &entry.object),
            entry,
        }))
    }
}

/// A failure of the store that is no conflict, as the client sees it.
pub(crate) fn store_failed(error: &StoreError) -> Status {
    match error {
        StoreError::Conflict { key } => Status::internal(&format!("unexpected conflict for {key}")),
        StoreError::Compacted { .. } => Status::expired("The resourceVersion for the provided list is too old."),
        StoreError::Future { asked, newest } => too_large(asked.0, newest.0),
        StoreError::Lagged { .. } | StoreError::Closed => Status::unavailable(error.to_string()),
        StoreError::Unstorable(why) => Status::request_too_large(format!("the object cannot be stored: {why}")),
        StoreError::Storage { .. } => {
            tracing::error!(%error, "the store failed");
            Status::internal(&error.to_string())
        }
    }
}

/// 504 for a revision that does not exist yet.
///
/// Source: upstream `apiserver/pkg/storage/errors.go`,
/// `NewTooLargeResourceVersionError`.
pub(crate) fn too_large(asked: u64, newest: u64) -> Status {
    let mut status = Status::timeout(format!("Timeout: Too large resource version: {asked}, current: {newest}"));
    status.details = Some(api::status::Details {
        causes: vec![api::status::Cause {
            reason: "ResourceVersionTooLarge".to_owned(),
            message: "Too large resource version".to_owned(),
            field: String::new(),
        }],
        retry_after_seconds: 1,
        ..api::status::Details::default()
    });
    status
}

/// The bytes of an object's stored form, without a revision; and that form
/// itself where it is another one.
pub(crate) fn encode(row: &Resource, object: &Object) -> Result<(Option<Object>, Bytes), Status> {
    let converted = row.convert.map(|convert| convert.to_stored(object.clone())).transpose()?;
    let bytes = serde_json::to_vec(&converted.as_ref().unwrap_or(object).unversioned())
        .map_err(|error| Status::internal(&format!("the object could not be encoded: {error}")))?;
    Ok((converted, bytes.into_boxed_slice().into()))
}

/// Commits what puts a stored form there. A failure gives it back.
pub(crate) async fn commit(
    core: &Core,
    row: &Row,
    key: &str,
    (stored, bytes): (Object, Bytes),
    txn: Txn,
) -> Result<Arc<Entry>, (StoreError, Object)> {
    let expected = row.hub().expect(stored, bytes);
    match core.store.commit(txn).await {
        Ok(revision) => Ok(expected.stored(key, revision.0)),
        Err(error) => Err((error, *expected.withdraw())),
    }
}

/// Every broken rule about a new version, as a 422.
pub(crate) fn validate(row: &Resource, new: &Object, old: Option<&Object>, rules: Rules) -> Result<(), Status> {
    let mut violations = validate::metadata(row, new, old);
    if !row.schema().is_built_in() {
        violations.extend(schema::violations(row.schema(), &new.body));
    }
    violations.extend(row.strategy.validate(new, old, rules));
    if violations.is_empty() {
        Ok(())
    } else {
        Err(Status::invalid(&row.id, new.name(), &violations))
    }
}

/// Who owns what a write set.
pub(crate) enum Ownership {
    /// The manager of this name owns what changed.
    Recorded(String),
    /// Whoever made the new version has seen to it.
    Made,
    /// Whoever owned it before.
    Kept,
}

impl Ownership {
    /// Sets the new version's `managedFields`. Before admission, as upstream:
    /// what a plugin fills in is nobody's.
    pub(crate) fn settle(&self, call: &Call, old: Option<&Object>, new: &mut Object) -> Result<(), Status> {
        match (self, old) {
            (Self::Recorded(manager), _) => {
                let served = call.core.served();
                let forms = Forms {
                    row: &call.row,
                    registry: &served.registry,
                };
                let reset = managed_fields::reset_fields(&call.row, call.part());
                managed_fields::record(&forms, old, new, &writer(call, manager), &reset)
            }
            (Self::Kept, Some(old)) => {
                new.managed_fields.clone_from(&old.managed_fields);
                Ok(())
            }
            (Self::Made, _) | (Self::Kept, None) => Ok(()),
        }
    }
}

/// The write of a call, as `managedFields` remembers it.
pub(crate) fn writer(call: &Call, manager: &str) -> Writer {
    Writer {
        manager: manager.to_owned(),
        subresource: call.asked.subresource.clone(),
        api_version: call.row.id.api_version(),
        now: call.now.to_string(),
    }
}

/// Whether a new version is what is stored; the times of writes that changed
/// nothing do not count.
fn is_unchanged(new: &Object, old: &Object) -> bool {
    new.types == old.types
        && new.meta == old.meta
        && new.body == old.body
        && managed_fields::equal_but_for_times(new.managed_fields.as_ref(), old.managed_fields.as_ref())
}

/// Changes one stored object: `make` gets what is stored and says what it
/// should become. Tried again when somebody else was faster, unless the new
/// version names the revision it was made from.
pub(crate) async fn change(
    call: &mut Call,
    ownership: Ownership,
    mut make: impl FnMut(&Object, &mut Vec<String>) -> Result<Object, Status>,
) -> Result<Outcome, Status> {
    let dry_run = call.dry_run()?;
    let key = call.key();
    let part = call.part();
    for _ in 0..ATTEMPTS {
        let current = call.core.current(&call.row, &key).await?.ok_or_else(|| call.not_found())?;
        Authorizer::object(&call.identity, &call.asked, &current.entry.object)?;
        let mut warnings = Vec::new();
        let mut new = make(&current.object, &mut warnings)?;
        without_empty(&mut new);
        let old = current.object.as_ref();
        ownership.settle(call, Some(old), &mut new)?;
        admission::admit(&Attributes::update(call, old), &mut new).await?;
        let pinned = check_revision(call, &new, old)?;
        take_over(&mut new, old);
        restrict(&call.row, part, &mut new, old);
        call.core.served().authorizer.change(&call.identity, &call.asked, &new, Some(old))?;
        match part {
            Part::Main => {
                call.row.strategy.prepare(Change::Update { new: &mut new, old }, call.now);
                validate(&call.row, &new, Some(old), Rules::Update)?;
                warnings.extend(call.row.strategy.warnings(&new, Some(old)));
            }
            Part::Status => {
                call.row.strategy.prepare(Change::UpdateStatus { new: &mut new, old }, call.now);
                validate(&call.row, &new, Some(old), Rules::UpdateStatus)?;
            }
            Part::Ephemeral => {
                call.row.strategy.prepare(Change::Update { new: &mut new, old }, call.now);
                validate(&call.row, &new, Some(old), Rules::UpdateEphemeral)?;
            }
            Part::Resize => {
                call.row.strategy.prepare(Change::Update { new: &mut new, old }, call.now);
                validate(&call.row, &new, Some(old), Rules::UpdateResize)?;
            }
            Part::Finalize => validate(&call.row, &new, Some(old), Rules::Update)?,
            Part::Approval => {
                call.row.strategy.prepare(Change::UpdateStatus { new: &mut new, old }, call.now);
                validate(&call.row, &new, Some(old), Rules::UpdateApproval)?;
            }
            // A pod's update rules forbid exactly what a binding does.
            Part::Binding => {}
        }
        admission::validate(&Attributes::update(call, old), &new, &mut warnings).await?;
        new.meta.resource_version.clone_from(&old.meta.resource_version);
        // Nothing to write: the same object with the same revision.
        let outcome = if is_unchanged(&new, old) {
            Some(Outcome::Stored(current.entry))
        } else {
            replace(call, &key, new, &current.entry, part, dry_run).await?
        };
        match outcome {
            Some(outcome) => {
                call.warnings.extend(warnings);
                return Ok(outcome);
            }
            None if pinned => break,
            None => {}
        }
    }
    Err(Status::modified(&call.row.id, &call.asked.name))
}

/// Commits a new version; `None` when somebody else was faster.
async fn replace(call: &Call, key: &str, mut new: Object, current: &Entry, part: Part, dry_run: bool) -> Result<Option<Outcome>, Status> {
    let removes =
        new.meta.deletion_timestamp.is_some() && !is_held(&call.row, &new) && new.meta.deletion_grace_period_seconds.unwrap_or(0) <= 0;
    for _ in 0..allocate::ATTEMPTS {
        let claim = match part {
            Part::Main if !removes => call.core.allocate(&call.row, &new, Some(&current.object)).await?,
            Part::Main | Part::Status | Part::Approval | Part::Finalize | Part::Ephemeral | Part::Resize | Part::Binding => None,
        };
        let charge = match part {
            Part::Main | Part::Resize if !removes => {
                resource_quota::charge(&Attributes::update(call, &current.object), &new, call.now).await?
            }
            _ => None,
        };
        let (converted, bytes) = encode(&call.row, claim.as_ref().map_or(&new, |claim| &claim.object))?;
        if dry_run {
            let stored = converted.or(claim.map(|claim| claim.object)).unwrap_or(new);
            return Ok(Some(Outcome::Stored(Entry::new(key, stored, bytes, current.revision))));
        }
        let op = if removes {
            Op::Delete(key.to_owned())
        } else {
            Op::Put(key.to_owned(), bytes.clone())
        };
        let mut txn = Txn {
            compare: vec![Compare::ModifiedAt(key.to_owned(), store::Revision(current.revision))],
            ops: vec![op],
        };
        txn.compare.extend(claim.as_ref().map(Claim::compare));
        txn.ops.extend(claim.as_ref().map(|claim| claim.op(key)));
        if let Some(charge) = &charge {
            txn.compare.extend(charge.compare.iter().cloned());
            txn.ops.extend(charge.ops.iter().cloned());
        }
        let (claimed, _turn) = claim.map(Claim::into_parts).unzip();
        let (stored, kept) = match converted.or(claimed) {
            Some(other) => (other, Some(new)),
            None => (new, None),
        };
        match commit(&call.core, &call.row, key, (stored, bytes), txn).await {
            Ok(entry) if removes => return Ok(Some(Outcome::Removed(entry))),
            Ok(entry) => return Ok(Some(Outcome::Stored(entry))),
            Err((StoreError::Conflict { key: lost }, _)) if lost == key => return Ok(None),
            // Something was given away meanwhile; the object is as it was.
            Err((StoreError::Conflict { .. }, stored)) => new = kept.unwrap_or(stored),
            Err((error, _)) => return Err(store_failed(&error)),
        }
    }
    Err(allocate::contended(&call.row, new.name()))
}

/// Whether finalizers keep a deleted object; those of a namespace's `spec` do
/// where the row has the `finalize` subresource.
pub(crate) fn is_held(row: &Resource, object: &Object) -> bool {
    let own = object.meta.finalizers.as_ref().is_some_and(|finalizers| !finalizers.is_empty());
    let of_spec = || {
        object
            .at("spec.finalizers")
            .and_then(serde_json::Value::as_array)
            .is_some_and(|finalizers| !finalizers.is_empty())
    };
    own || row.has(Subresource::Finalize) && of_spec()
}

/// Optimistic concurrency. Returns whether the new version names a revision.
fn check_revision(call: &Call, new: &Object, old: &Object) -> Result<bool, Status> {
    if let (Some(asked), Some(stored)) = (new.meta.uid.as_deref().filter(|uid| !uid.is_empty()), old.meta.uid.as_deref())
        && asked != stored
    {
        let why = format!("Precondition failed: UID in precondition: {asked}, UID in object meta: {stored}");
        return Err(Status::conflict(&call.row.id, &call.asked.name, &why));
    }
    if !names_revision(new) {
        return Ok(false);
    }
    if new.meta.resource_version == old.meta.resource_version {
        Ok(true)
    } else {
        Err(Status::modified(&call.row.id, &call.asked.name))
    }
}

/// Whether a new version says which one it was made from.
pub(crate) fn names_revision(new: &Object) -> bool {
    let revision = new.meta.resource_version.as_deref().unwrap_or_default();
    !revision.is_empty() && revision != "0"
}

/// Empty lists and maps of metadata are as good as none, and not stored.
///
/// Source: upstream `ObjectMeta`, whose fields are `omitempty`.
pub(crate) fn without_empty(object: &mut Object) {
    let meta = &mut object.meta;
    meta.labels.take_if(|labels| labels.is_empty());
    meta.annotations.take_if(|annotations| annotations.is_empty());
    meta.finalizers.take_if(|finalizers| finalizers.is_empty());
    meta.owner_references.take_if(|owners| owners.is_empty());
}

/// Metadata the server owns stays as it was, whatever was sent.
///
/// Source: upstream `apiserver/pkg/registry/rest/update.go`, `BeforeUpdate`.
fn take_over(new: &mut Object, old: &Object) {
    let (new, old) = (&mut new.meta, &old.meta);
    if new.uid.as_deref().unwrap_or_default().is_empty() {
        new.uid.clone_from(&old.uid);
    }
    if new.creation_timestamp.is_none() {
        new.creation_timestamp.clone_from(&old.creation_timestamp);
    }
    new.generation = old.generation;
    new.generate_name.clone_from(&old.generate_name);
    new.self_link = None;
    // A deletion is asked for by DELETE alone, and never taken back.
    new.deletion_timestamp.clone_from(&old.deletion_timestamp);
    new.deletion_grace_period_seconds = old.deletion_grace_period_seconds;
}

/// Puts back what this part of the object may not change.
fn restrict(row: &Resource, part: Part, new: &mut Object, old: &Object) {
    match part {
        Part::Main if row.has(Subresource::Status) => keep(new, old, "status"),
        Part::Main | Part::Binding => {}
        Part::Status | Part::Approval => {
            let status = new.body.remove("status");
            new.body.clone_from(&old.body);
            new.meta.owner_references.clone_from(&old.meta.owner_references);
            new.meta.finalizers.clone_from(&old.meta.finalizers);
            match status {
                Some(status) => new.body.insert("status".to_owned(), status),
                None => new.body.remove("status"),
            };
        }
        Part::Finalize => only(new, old, "finalizers"),
        Part::Ephemeral => only(new, old, "ephemeralContainers"),
        Part::Resize => only_resources(new, old),
    }
}

/// Everything but what containers of the same names may use stays.
///
/// Source: upstream `pkg/registry/core/pod/strategy.go`, `dropNonResizeUpdates`.
fn only_resources(new: &mut Object, old: &Object) {
    let given = std::mem::replace(&mut new.body, old.body.clone());
    new.meta.clone_from(&old.meta);
    for list in ["containers", "initContainers"] {
        let given = given.get("spec").and_then(|spec| spec[list].as_array()).into_iter().flatten();
        let stored = new.body.get_mut("spec").and_then(|spec| spec.get_mut(list)?.as_array_mut());
        let Some(stored) = stored else { continue };
        for container in given {
            let same = stored.iter_mut().find(|stored| stored["name"] == container["name"]);
            let Some(same) = same.and_then(serde_json::Value::as_object_mut) else {
                continue;
            };
            for field in ["resources", "resizePolicy"] {
                match container.get(field) {
                    Some(value) => same.insert(field.to_owned(), value.clone()),
                    None => same.remove(field),
                };
            }
        }
    }
}

/// Everything but one field of the spec stays.
fn only(new: &mut Object, old: &Object, field: &str) {
    let spec_of = |object: &mut Object| {
        object
            .body
            .get_mut("spec")
            .and_then(serde_json::Value::as_object_mut)
            .map(std::mem::take)
    };
    let value = spec_of(new).and_then(|mut spec| spec.remove(field));
    new.body.clone_from(&old.body);
    new.meta.clone_from(&old.meta);
    if let Some(spec) = new.body.get_mut("spec").and_then(|spec| spec.as_object_mut()) {
        match value {
            Some(value) => spec.insert(field.to_owned(), value),
            None => spec.remove(field),
        };
    }
}

fn keep(new: &mut Object, old: &Object, field: &str) {
    match old.body.get(field) {
        Some(value) => new.body.insert(field.to_owned(), value.clone()),
        None => new.body.remove(field),
    };
}
