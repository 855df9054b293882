//! `delete`: an object removed, at once or when what holds it is gone.
//!
//! Source: upstream `apiserver/pkg/registry/rest/delete.go` `BeforeDelete`,
//! `apiserver/pkg/registry/generic/registry/store.go` `Delete`.

pub(crate) mod unreadable;

use std::sync::Arc;
use std::time::Duration;

use api::pods::DELETED_BY;
use api::status::Violation;
use api::{Object, ResourceId, Status, Time};
use http::{Response, StatusCode};
use serde_json::{Value, json};
use store::{Compare, Op, Revision, StoreError, Txn};

use crate::authz::Authorizer;
use crate::body::Body;
use crate::call::Call;
use crate::hub::Entry;
use crate::registry::{Resource, Subresource};
use crate::request::{Query, Verb};
use crate::{codec, respond, write};

/// How often a delete is tried again when the object changed meanwhile.
const ATTEMPTS: u32 = 10;

/// What becomes of an object's dependents. A controller sees to it; the server
/// holds the object with a finalizer until it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Propagation {
    /// They stay, without their owner.
    Orphan,
    /// They go after it.
    Background,
    /// They go before it.
    Foreground,
}

/// Finalizers of the two policies that hold an object.
const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// `metav1.DeleteOptions`, from the query and the body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) grace_s: Option<i64>,
    uid: Option<String>,
    pub(crate) revision: Option<String>,
    pub(crate) dry_run: bool,
    propagation: Option<Propagation>,
    /// What is stored is known to be unreadable, and is to go.
    pub(crate) unreadable: bool,
}

impl Options {
    /// Reads the options of a request. What the body says wins.
    pub(crate) async fn read(call: &mut Call) -> Result<Self, Status> {
        let dry_run = call.dry_run()?;
        let bytes = call.read_body().await?;
        let body = if bytes.is_empty() {
            json!({})
        } else {
            codec::parse(&call.content_type(), &bytes, call.core.limits.body_depth, "DeleteOptions")?.value
        };
        let mut options = Self::of(&call.query, &body)?;
        options.dry_run |= dry_run;
        Ok(options)
    }

    pub(crate) fn of(query: &Query, body: &Value) -> Result<Self, Status> {
        let malformed = |field: &str| Status::bad_request(format!("DeleteOptions cannot be decoded: {field} has the wrong type"));
        let text = |value: Option<&Value>, field: &str| match value {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone()).filter(|text| !text.is_empty())),
            Some(_) => Err(malformed(field)),
        };
        if !body.is_object() {
            return Err(Status::bad_request("the body of a delete must be DeleteOptions"));
        }
        match text(body.get("kind"), "kind")?.as_deref() {
            None | Some("DeleteOptions") => {}
            Some(other) => {
                return Err(Status::bad_request(format!(
                    "the body of a delete must be DeleteOptions, not {other}"
                )));
            }
        }
        let grace_s = match body.get("gracePeriodSeconds") {
            None | Some(Value::Null) => query.integer("gracePeriodSeconds")?,
            Some(value) => Some(value.as_i64().ok_or_else(|| malformed("gracePeriodSeconds"))?),
        };
        let policy = match text(body.get("propagationPolicy"), "propagationPolicy")? {
            None => query.get("propagationPolicy").map(str::to_owned),
            policy => policy,
        };
        let id = ResourceId::new("meta.k8s.io", "v1", "DeleteOptions", "");
        let orphans = match body.get("orphanDependents") {
            None | Some(Value::Null) => query.boolean("orphanDependents"),
            Some(value) => Some(value.as_bool().ok_or_else(|| malformed("orphanDependents"))?),
        };
        let refuse = |violation| Err(Status::invalid(&id, "", &[violation]));
        let propagation = match (policy.as_deref(), orphans) {
            (Some(policy), Some(_)) => {
                let why = "orphanDependents and deletionPropagation cannot be both set";
                return refuse(Violation::invalid("propagationPolicy", &Value::from(policy), why));
            }
            (Some("Orphan"), None) | (None, Some(true)) => Some(Propagation::Orphan),
            (Some("Background"), None) | (None, Some(false)) => Some(Propagation::Background),
            (Some("Foreground"), None) => Some(Propagation::Foreground),
            (Some(policy), None) => {
                let known = ["Foreground", "Background", "Orphan", "nil"];
                return refuse(Violation::not_supported("propagationPolicy", policy, &known));
            }
            (None, None) => None,
        };
        let preconditions = body.get("preconditions");
        let dry: Vec<&str> = body
            .get("dryRun")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        if dry.iter().any(|value| *value != "All") {
            return Err(Status::invalid(&id, "", &[Violation::not_supported_list("dryRun", &dry, &["All"])]));
        }
        let unreadable = match body.get(unreadable::OPTION) {
            None | Some(Value::Null) => query.boolean(unreadable::OPTION),
            Some(value) => Some(value.as_bool().ok_or_else(|| malformed(unreadable::OPTION))?),
        };
        let unreadable = unreadable.unwrap_or(false);
        if unreadable {
            let beside = [
                (".dryRun", !dry.is_empty() || query.get("dryRun").is_some()),
                (".propagationPolicy", policy.is_some()),
                (".orphanDependents", orphans.is_some()),
                (".gracePeriodSeconds", grace_s.is_some()),
                (".preconditions", preconditions.is_some_and(|value| !value.is_null())),
            ];
            unreadable::alone(&id, &beside)?;
        }
        Ok(Self {
            grace_s,
            uid: text(preconditions.and_then(|of| of.get("uid")), "preconditions.uid")?,
            revision: text(
                preconditions.and_then(|of| of.get("resourceVersion")),
                "preconditions.resourceVersion",
            )?,
            dry_run: !dry.is_empty(),
            propagation,
            unreadable,
        })
    }
}

/// What a delete does to an object.
#[derive(Debug, PartialEq)]
pub(crate) enum Step {
    /// It is being deleted already, and no sooner than before.
    Nothing,
    /// It stays for now, marked.
    Mark(Box<Object>),
    /// It goes.
    Remove,
}

/// The object with the finalizers of what is to become of its dependents;
/// `None` when it has them.
///
/// Source: upstream `apiserver/pkg/registry/generic/registry/store.go`,
/// `deletionFinalizersForGarbageCollection`.
fn with_propagation(row: &Resource, object: &Object, asked: Option<Propagation>) -> Option<Object> {
    let before = object.meta.finalizers.as_deref().unwrap_or_default();
    let has = |name: &str| before.iter().any(|finalizer| finalizer == name);
    let (orphan, foreground) = match asked {
        Some(policy) => (policy == Propagation::Orphan, policy == Propagation::Foreground),
        // Whoever set one of them before has said what is wanted.
        None if has(ORPHAN) || has(FOREGROUND) => return None,
        None => (row.strategy.orphans(), false),
    };
    if (orphan, foreground) == (has(ORPHAN), has(FOREGROUND)) {
        return None;
    }
    let mut finalizers: Vec<String> = before
        .iter()
        .filter(|name| *name != ORPHAN && *name != FOREGROUND)
        .cloned()
        .collect();
    finalizers.extend(orphan.then(|| ORPHAN.to_owned()));
    finalizers.extend(foreground.then(|| FOREGROUND.to_owned()));
    let mut object = object.clone();
    object.meta.finalizers = (!finalizers.is_empty()).then_some(finalizers);
    Some(object)
}

/// Decides what a delete does to an object and its dependents. Pure.
fn decide(row: &Resource, object: &Object, options: &Options, now: Time) -> Step {
    match with_propagation(row, object, options.propagation) {
        None => plan(row, object, options.grace_s, now),
        Some(changed) => match plan(row, &changed, options.grace_s, now) {
            Step::Nothing => Step::Mark(Box::new(changed)),
            step => step,
        },
    }
}

/// Decides what a delete does to an object. Pure; `now` is the request's time.
pub(crate) fn plan(row: &Resource, object: &Object, asked_s: Option<i64>, now: Time) -> Step {
    let held = write::is_held(row, object);
    if let Some(deadline) = &object.meta.deletion_timestamp {
        let pending_s = object.meta.deletion_grace_period_seconds.unwrap_or(0);
        if pending_s <= 0 {
            return if held { Step::Nothing } else { Step::Remove };
        }
        // Only a shorter grace may be asked for.
        let Some(grace_s) = asked_s
            .map(|asked_s| if asked_s < 0 { 1 } else { asked_s })
            .filter(|grace_s| *grace_s < pending_s)
        else {
            return Step::Nothing;
        };
        if grace_s == 0 && !held {
            return Step::Remove;
        }
        let requested = Time::from(deadline) - seconds(pending_s);
        return Step::Mark(Box::new(marked(row, object, (requested + seconds(grace_s)).max(now), grace_s)));
    }
    match row.strategy.grace(object, asked_s) {
        Some(grace_s) if grace_s > 0 || held => {
            let grace_s = i64::try_from(grace_s).unwrap_or(i64::MAX);
            Step::Mark(Box::new(counted(marked(row, object, now + seconds(grace_s), grace_s))))
        }
        None if held => Step::Mark(Box::new(counted(marked(row, object, now, 0)))),
        _ => Step::Remove,
    }
}

/// Kinds that count generations count the deletion too.
///
/// Source: upstream `BeforeDelete` and, for kinds without grace, `markAsDeleting`.
fn counted(mut marked: Object) -> Object {
    let generation = marked.meta.generation.filter(|generation| *generation > 0);
    marked.meta.generation = generation.map(|generation| generation.saturating_add(1)).or(marked.meta.generation);
    marked
}

fn seconds(count: i64) -> Duration {
    Duration::from_secs(count.max(0).unsigned_abs())
}

fn marked(row: &Resource, object: &Object, deadline: Time, grace_s: i64) -> Object {
    let mut object = object.clone();
    object.meta.deletion_timestamp = Some(deadline.wire());
    // A namespace has no grace: upstream sets the timestamp alone.
    object.meta.deletion_grace_period_seconds = Some(grace_s).filter(|_| !row.has(Subresource::Finalize));
    if row.has(Subresource::Finalize) {
        let status = object.body.entry("status").or_insert_with(|| json!({}));
        if let Some(status) = status.as_object_mut() {
            status.insert("phase".to_owned(), Value::from("Terminating"));
        }
    }
    object
}

/// The object deleted, or marked.
pub(crate) struct Deleted {
    pub(crate) entry: Arc<Entry>,
    pub(crate) removed: bool,
}

/// Deletes the object and answers with it, or with a status once it is gone.
pub(crate) async fn delete(mut call: Call) -> Result<Response<Body>, Status> {
    let options = Options::read(&mut call).await?;
    if options.unreadable {
        return unreadable::delete(&call).await;
    }
    let name = call.asked.name.clone();
    let deleted = delete_one(&call, &name, &call.key(), &options).await?;
    if !deleted.removed {
        return Ok(call.entry(StatusCode::OK, &deleted.entry));
    }
    Ok(respond::status(&Status::deleted(&call.row.id, &name, deleted.entry.object.uid())))
}

/// Deletes one object of the row.
pub(crate) async fn delete_one(call: &Call, name: &str, key: &str, options: &Options) -> Result<Deleted, Status> {
    let row = &call.row;
    if let Some(why) = row.strategy.keeps(name) {
        return Err(Status::forbidden(&row.id, name, why));
    }
    for _ in 0..ATTEMPTS {
        let current = call.core.current(row, key).await?.ok_or_else(|| Status::not_found(&row.id, name))?;
        let object = current.object.as_ref();
        let mut asked = call.asked.clone();
        (asked.verb, asked.name) = (Verb::Delete, name.to_owned());
        Authorizer::object(&call.identity, &asked, &current.entry.object)?;
        check(row, name, object, options)?;
        let (ops, entry) = match decide(row, object, options, call.now) {
            Step::Nothing => {
                return Ok(Deleted {
                    entry: current.entry,
                    removed: false,
                });
            }
            Step::Remove => (vec![Op::Delete(key.to_owned())], None),
            Step::Mark(mut marked) => {
                if row.has(Subresource::Binding) {
                    let annotations = marked.meta.annotations.get_or_insert_default();
                    annotations.insert(DELETED_BY.to_owned(), call.identity.user.clone());
                }
                let (converted, bytes) = write::encode(row, &marked)?;
                (
                    vec![Op::Put(key.to_owned(), bytes.clone())],
                    Some((converted.unwrap_or(*marked), bytes)),
                )
            }
        };
        let removed = entry.is_none();
        let known = current.entry.revision;
        let deleted = |revision| match entry {
            Some((stored, bytes)) => Deleted {
                entry: Entry::new(key, stored, bytes, revision),
                removed,
            },
            None => Deleted {
                entry: current.entry,
                removed,
            },
        };
        if options.dry_run {
            return Ok(deleted(known));
        }
        match call
            .core
            .store
            .commit(Txn {
                compare: vec![Compare::ModifiedAt(key.to_owned(), Revision(known))],
                ops,
            })
            .await
        {
            Ok(revision) => return Ok(deleted(revision.0)),
            Err(StoreError::Conflict { .. }) => {}
            Err(error) => return Err(write::store_failed(&error)),
        }
    }
    Err(Status::modified(&row.id, name))
}

/// The preconditions.
pub(crate) fn check(row: &Resource, name: &str, object: &Object, options: &Options) -> Result<(), Status> {
    let differs = |asked: &Option<String>, is: &str| asked.as_deref().filter(|asked| *asked != is).map(str::to_owned);
    if let Some(asked) = differs(&options.uid, object.uid()) {
        let why = format!(
            "the UID in the precondition ({asked}) does not match the UID in record ({}). The object might have been deleted and then recreated",
            object.uid()
        );
        return Err(Status::conflict(&row.id, name, &why));
    }
    let revision = object.meta.resource_version.as_deref().unwrap_or_default();
    if let Some(asked) = differs(&options.revision, revision) {
        let why = format!(
            "the ResourceVersion in the precondition ({asked}) does not match the ResourceVersion in record ({revision}). The object might have been modified"
        );
        return Err(Status::conflict(&row.id, name, &why));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
