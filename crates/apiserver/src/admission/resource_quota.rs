//! What a namespace may hold, counted as it is written.
//!
//! A write that uses something a quota limits changes the quota's status in
//! the same transaction: of two writes that would both just fit, one is
//! refused. What deletes and endings free, a controller counts again.
//!
//! Source: upstream `apiserver/pkg/admission/plugin/resourcequota/controller.go`,
//! `CheckRequest`.

use std::sync::Arc;

use api::pods::{Resources, add};
use api::quota::{amounts, concerns, counts, in_scope, shown, unstated, usage};
use api::{Object, Scope, Status, Time};
use serde_json::{Value, json};
use store::{Compare, Op, Revision};
use tokio::sync::SemaphorePermit;

use super::{Attributes, Operation};
use crate::write;

const QUOTAS: &str = "resourcequotas";

/// What is to be committed together with the object. Nobody else in this
/// process charges while it is held.
pub(crate) struct Charge<'a> {
    /// The quotas are as they were read.
    pub(crate) compare: Vec<Compare>,
    /// They then look like this.
    pub(crate) ops: Vec<Op>,
    _turn: SemaphorePermit<'a>,
}

/// Charges a write to the quotas of its namespace; `None` where none is
/// concerned.
///
/// # Errors
/// 403 when a quota would be exceeded, or cannot be counted.
pub(crate) async fn charge<'a>(asked: &Attributes<'a>, object: &Object, now: Time) -> Result<Option<Charge<'a>>, Status> {
    if !handles(asked) {
        return Ok(None);
    }
    let core = asked.lookup.core;
    if asked.lookup.objects("", QUOTAS, asked.namespace).await?.is_empty() {
        return Ok(None);
    }
    let closed = |_| Status::unavailable("the server is shutting down");
    let turn = core.charging.acquire().await.map_err(closed)?;
    let quotas = asked.lookup.objects("", QUOTAS, asked.namespace).await?;
    let Some(row) = asked.lookup.row("", QUOTAS) else { return Ok(None) };
    let (mut compare, mut ops) = (Vec::new(), Vec::new());
    for quota in spent(asked, object, &quotas, now).map_err(|why| asked.forbidden(object, &why))? {
        let key = row.key(quota.namespace(), quota.name());
        let known = quota
            .meta
            .resource_version
            .as_deref()
            .and_then(|text| text.parse().ok())
            .unwrap_or(0);
        let (_, bytes) = write::encode(&row, &quota)?;
        compare.push(Compare::ModifiedAt(key.clone(), Revision(known)));
        ops.push(Op::Put(key, bytes));
    }
    Ok((!ops.is_empty()).then_some(Charge { compare, ops, _turn: turn }))
}

/// Creates count, and updates of what can grow; a Pod grows by its `resize` alone.
///
/// Source: upstream `pkg/quota/v1/evaluator/core/pods.go`, `Handles`.
fn handles(asked: &Attributes<'_>) -> bool {
    if asked.resizes() {
        return true;
    }
    let grows = asked.is("", "services") || asked.is("", "persistentvolumeclaims");
    asked.row.scope == Scope::Namespaced
        && asked.subresource.is_empty()
        && counts(&asked.row.id.plural)
        && (asked.operation == Operation::Create || grows)
}

/// The quotas that change, or why one does not allow it. Pure but for the
/// attributes' view of who asks.
fn spent(asked: &Attributes<'_>, object: &Object, quotas: &[Arc<Object>], now: Time) -> Result<Vec<Object>, String> {
    let (group, plural) = (asked.row.id.group.as_str(), asked.row.id.plural.as_str());
    let mut concerned = Vec::new();
    for quota in quotas.iter().filter(|quota| in_scope(quota, group, plural, object)) {
        let hard = amounts(quota, "status.hard");
        let limited: Vec<&str> = hard
            .keys()
            .map(String::as_str)
            .filter(|name| concerns(group, plural, name))
            .collect();
        if limited.is_empty() {
            continue;
        }
        let used = amounts(quota, "status.used");
        let unknown: Vec<&str> = limited.iter().copied().filter(|name| !used.contains_key(*name)).collect();
        if !unknown.is_empty() {
            return Err(format!(
                "status unknown for quota: {}, resources: {}",
                quota.name(),
                unknown.join(",")
            ));
        }
        if (group, plural) == ("", "pods")
            && let Some(missing) = unstated(object, limited.iter().copied())
        {
            return Err(format!("failed quota: {}: {missing}", quota.name()));
        }
        concerned.push((quota, hard.clone(), used));
    }
    let mut delta = usage(group, plural, object, now);
    if let Some(name) = delta.iter().find(|(_, amount)| amount.is_negative()).map(|(name, _)| name) {
        return Err(format!("quota usage is negative for resource(s): {name}"));
    }
    if let Some(old) = asked.old {
        for (name, amount) in usage(group, plural, old, now) {
            *delta.entry(name).or_default() -= amount;
        }
    }
    delta.retain(|_, amount| !amount.is_zero());
    let mut changed = Vec::new();
    for (quota, hard, used) in concerned {
        let requested: Resources = delta
            .iter()
            .filter(|(name, _)| hard.contains_key(*name))
            .map(|(name, amount)| (name.clone(), *amount))
            .collect();
        if requested.is_empty() {
            continue;
        }
        let mut total = used.clone();
        add(&mut total, requested.clone());
        let exceeds = |name: &&String| total[*name] > hard[*name];
        let exceeded: Vec<&String> = requested.keys().filter(exceeds).collect();
        if !exceeded.is_empty() {
            let only = |amounts: &Resources| {
                let kept = exceeded.iter().filter_map(|name| Some(((*name).clone(), *amounts.get(*name)?)));
                shown(&kept.collect())
            };
            return Err(format!(
                "exceeded quota: {}, requested: {}, used: {}, limited: {}",
                quota.name(),
                only(&requested),
                only(&used),
                only(&hard)
            ));
        }
        let mut quota = Object::clone(quota);
        let texts: serde_json::Map<String, Value> = total
            .iter()
            .map(|(name, amount)| (name.clone(), json!(amount.to_string())))
            .collect();
        if let Some(status) = quota.body.entry("status").or_insert_with(|| json!({})).as_object_mut() {
            status.insert("used".to_owned(), Value::Object(texts));
        }
        changed.push(quota);
    }
    Ok(changed)
}
