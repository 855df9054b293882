//! `pods/eviction`: a pod deleted, if the budget of its kind can spare it.
//!
//! Source: upstream `pkg/registry/core/pod/storage/eviction.go`; KEP-3017 for
//! pods that are not ready.

use std::sync::Arc;

use api::status::Cause;
use api::typed::LabelSelector;
use api::{Object, Selector, Status, Time};
use http::{Response, StatusCode};
use serde_json::{Value, json};
use store::{Compare, Op, Revision, StoreError, Txn};

use crate::admission::Lookup;
use crate::body::Body;
use crate::call::Call;
use crate::registry::Row;
use crate::request::Query;
use crate::verbs::delete::{self, Options, delete_one};
use crate::{codec, respond, write};

/// How often a budget or pod that changes meanwhile is looked at again.
const ATTEMPTS: u32 = 20;
/// Most evictions a budget's controller may not have seen yet.
const UNSEEN_MAX: usize = 2_000;
const REFUSAL: &str = "Cannot evict pod as it would violate the pod's disruption budget.";

/// What a pod's budget says.
#[derive(Debug, PartialEq)]
enum Verdict {
    /// Nothing stands against it, while the pod is as it is.
    Free,
    /// It takes one from the budget, which then looks like this.
    Spend(Box<Object>),
}

/// `POST .../pods/NAME/eviction`.
pub(crate) async fn create(mut call: Call) -> Result<Response<Body>, Status> {
    let (name, mut asked) = read(&mut call).await?;
    if name != call.asked.name {
        return Err(Status::bad_request("name in URL does not match name in Eviction object"));
    }
    asked.dry_run |= call.dry_run()?;
    let mut spent = false;
    for _ in 0..ATTEMPTS {
        let found = call.core.current(&call.row, &call.key()).await?.ok_or_else(|| call.not_found())?;
        let pod = found.object;
        delete::check(&call.row, &name, &pod, &asked)?;
        if !spent {
            match verdict(&call, &pod).await? {
                (_, Verdict::Free) => {}
                (Some(_), Verdict::Spend(_)) if asked.dry_run => {}
                (Some((row, budget)), Verdict::Spend(after)) if commit(&call, &row, &budget, &after).await?.is_some() => spent = true,
                // The budget changed meanwhile.
                (_, Verdict::Spend(_)) => continue,
            }
        }
        if asked.dry_run {
            delete_one(&call, &name, &call.key(), &asked).await?;
            return Ok(respond::json(StatusCode::CREATED, &done()));
        }
        // Only the pod that was decided about is deleted.
        let Some(revision) = mark(&call, &pod).await? else { continue };
        let mut options = asked.clone();
        options.revision = Some(revision);
        match delete_one(&call, &name, &call.key(), &options).await {
            Ok(_) => return Ok(respond::json(StatusCode::CREATED, &done())),
            Err(status) if status.code == 409 => {}
            Err(status) => return Err(status),
        }
    }
    Err(Status::timeout(format!(
        "Timeout: pod {name:?} could not be evicted because it or its PodDisruptionBudget keeps changing"
    )))
}

fn done() -> Status {
    let mut status = Status::success(None);
    status.code = StatusCode::CREATED.as_u16();
    status
}

/// The name in the body, and its delete options.
async fn read(call: &mut Call) -> Result<(String, Options), Status> {
    let bytes = call.read_body().await?;
    let value = codec::parse(&call.content_type(), &bytes, call.core.limits.body_depth, "Eviction")?.value;
    let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    if !matches!(text("/kind").as_str(), "" | "Eviction") {
        return Err(Status::bad_request(format!(
            "the object provided is a {}, not an Eviction",
            text("/kind")
        )));
    }
    let namespace = text("/metadata/namespace");
    if !namespace.is_empty() && namespace != call.asked.namespace {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    let none = json!({});
    let options = value.get("deleteOptions").filter(|options| !options.is_null()).unwrap_or(&none);
    Ok((text("/metadata/name"), Options::of(&Query::default(), options)?))
}

/// What the budget of the pod says, and which that is.
async fn verdict(call: &Call, pod: &Object) -> Result<(Option<(Arc<Row>, Arc<Object>)>, Verdict), Status> {
    let lookup = Lookup { core: &call.core };
    let Some(row) = lookup.row("policy", "poddisruptionbudgets").filter(|_| !is_over(pod)) else {
        return Ok((None, Verdict::Free));
    };
    let budgets = lookup.objects("policy", "poddisruptionbudgets", pod.namespace()).await?;
    let mut budgets = budgets.into_iter().filter(|budget| covers(budget, pod));
    let Some(budget) = budgets.next() else {
        return Ok((None, Verdict::Free));
    };
    if budgets.next().is_some() {
        let mut status = Status::internal("");
        status.reason.clear();
        "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.".clone_into(&mut status.message);
        return Err(status);
    }
    let verdict = decide(&budget, pod, call.now)?;
    Ok((Some((row, budget)), verdict))
}

/// Whether it runs no more, or not yet: nothing is disrupted.
fn is_over(pod: &Object) -> bool {
    matches!(pod.str_at("status.phase"), "Succeeded" | "Failed" | "Pending") || pod.meta.deletion_timestamp.is_some()
}

/// Whether the budget is about the pod. An empty selector is about none here.
fn covers(budget: &Object, pod: &Object) -> bool {
    let typed = budget.at("spec.selector").cloned().map(serde_json::from_value::<LabelSelector>);
    let Some(Ok(selector)) = typed.map(|typed| typed.map_err(drop).and_then(|typed| Selector::try_from(&typed).map_err(drop))) else {
        return false;
    };
    let none = std::collections::BTreeMap::new();
    !selector.is_everything() && selector.matches(pod.meta.labels.as_ref().unwrap_or(&none))
}

fn number(budget: &Object, field: &str) -> i64 {
    budget.at(&format!("status.{field}")).and_then(Value::as_i64).unwrap_or(0)
}

/// What the budget says about the pod. Pure.
fn decide(budget: &Object, pod: &Object, now: Time) -> Result<Verdict, Status> {
    let (healthy, desired) = (number(budget, "currentHealthy"), number(budget, "desiredHealthy"));
    if !is_ready(pod) {
        let always = budget.str_at("spec.unhealthyPodEvictionPolicy") == "AlwaysAllow";
        if always || (healthy >= desired && desired > 0) {
            return Ok(Verdict::Free);
        }
    }
    if number(budget, "observedGeneration") < budget.meta.generation.unwrap_or(0) {
        return Err(busy(budget.name()));
    }
    let allowed = number(budget, "disruptionsAllowed");
    // Upstream names the resource in the singular.
    let refuse = |why: &str| {
        let id = api::ResourceId::new("policy", "v1", "PodDisruptionBudget", "poddisruptionbudget");
        Err(Status::forbidden(&id, budget.name(), why))
    };
    if allowed < 0 {
        return refuse("pdb disruptions allowed is negative");
    }
    let unseen = budget
        .at("status.disruptedPods")
        .and_then(Value::as_object)
        .map_or(0, serde_json::Map::len);
    if unseen > UNSEEN_MAX {
        return refuse("DisruptedPods map too big - too many evictions not confirmed by PDB controller");
    }
    if allowed == 0 {
        let why = format!(
            "The disruption budget {} needs {desired} healthy pods and has {healthy} currently",
            budget.name()
        );
        return Err(exhausted(&why, 0));
    }
    let mut spent = budget.clone();
    let status = spent.body.entry("status").or_insert_with(|| json!({}));
    status["disruptionsAllowed"] = json!(allowed - 1);
    if !status["disruptedPods"].is_object() {
        status["disruptedPods"] = json!({});
    }
    status["disruptedPods"][pod.name()] = json!(now.to_string());
    if allowed == 1 {
        let condition = json!({
            "type": "DisruptionAllowed", "status": "False", "reason": "InsufficientPods", "message": "",
            "observedGeneration": budget.meta.generation, "lastTransitionTime": now.to_string(),
        });
        set_condition(status, condition);
    }
    Ok(Verdict::Spend(Box::new(spent)))
}

fn is_ready(pod: &Object) -> bool {
    let conditions = pod.at("status.conditions").and_then(Value::as_array).into_iter().flatten();
    conditions
        .into_iter()
        .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

fn set_condition(status: &mut Value, condition: Value) {
    if !status["conditions"].is_array() {
        status["conditions"] = json!([]);
    }
    if let Some(conditions) = status["conditions"].as_array_mut() {
        conditions.retain(|other| other["type"] != condition["type"]);
        conditions.push(condition);
    }
}

/// 429 with the cause that tells clients of a budget.
fn exhausted(why: &str, retry_after_s: u32) -> Status {
    let mut status = Status::too_many_requests(REFUSAL, retry_after_s);
    if let Some(details) = &mut status.details {
        details.causes.push(Cause {
            reason: "DisruptionBudget".to_owned(),
            message: why.to_owned(),
            field: String::new(),
        });
    }
    status
}

/// 429 while the budget's controller has to catch up.
fn busy(budget: &str) -> Status {
    exhausted(
        &format!("The disruption budget {budget} is still being processed by the server."),
        10,
    )
}

/// Stores a new version of an object; `None` when somebody else was faster.
async fn commit(call: &Call, row: &Row, old: &Object, new: &Object) -> Result<Option<String>, Status> {
    let key = row.key(old.namespace(), old.name());
    let known = old.meta.resource_version.as_deref().and_then(|text| text.parse().ok()).unwrap_or(0);
    let (_, bytes) = write::encode(row, new)?;
    let txn = Txn {
        compare: vec![Compare::ModifiedAt(key.clone(), Revision(known))],
        ops: vec![Op::Put(key, bytes)],
    };
    match call.core.store.commit(txn).await {
        Ok(revision) => Ok(Some(revision.to_string())),
        Err(StoreError::Conflict { .. }) => Ok(None),
        Err(error) => Err(write::store_failed(&error)),
    }
}

/// Says in the pod's status why it is going to end, and returns its revision
/// then; `None` when it changed meanwhile.
async fn mark(call: &Call, pod: &Object) -> Result<Option<String>, Status> {
    if pod.meta.deletion_timestamp.is_some() || matches!(pod.str_at("status.phase"), "Succeeded" | "Failed") {
        return Ok(pod.meta.resource_version.clone());
    }
    let mut marked = pod.clone();
    let condition = json!({
        "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting",
        "lastProbeTime": null, "lastTransitionTime": call.now.to_string(), "observedGeneration": pod.meta.generation,
    });
    set_condition(marked.body.entry("status").or_insert_with(|| json!({})), condition);
    commit(call, &call.row, pod, &marked).await
}

#[cfg(test)]
mod tests;
