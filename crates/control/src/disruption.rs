//! Keeps the status of every PodDisruptionBudget: how many Pods it covers, how
//! many are healthy, how many may go.
//!
//! Pods are watched only while there is a budget.
//!
//! Source: upstream `pkg/controller/disruption/disruption.go`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use api::typed::policy::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use api::typed::{IntOrString, MetaCondition, Pod};
use api::{Selector, Time, pods};
use futures::StreamExt;
use futures::future::Either;
use kube::api::{DynamicObject, ListParams, PostParams};
use kube::core::GroupVersionKind;
use kube::{Api, Client, ResourceExt};
use kube_runtime::watcher::{Config, Event};
use tokio_util::sync::CancellationToken;

use crate::watch::watch;
use crate::work::{Work, code, now};

/// Budgets looked at at a time.
const MOST: usize = 8;
/// How long a Pod that was evicted may take to be deleted before it counts
/// again.
///
/// Source: upstream `DeletionTimeout`.
const DELETION_TIMEOUT: Duration = Duration::from_secs(120);

type Key = (String, String);

/// Keeps budgets' statuses until `shutdown`.
pub async fn run(client: Client, shutdown: CancellationToken) {
    let mut budgets = std::pin::pin!(watch(Api::<PodDisruptionBudget>::all(client.clone()), Config::default()));
    let pods_of = || watch(Api::<Pod>::all(client.clone()), Config::default()).boxed();
    let mut pods: Option<futures::stream::BoxStream<'static, _>> = None;
    let mut known: BTreeSet<Key> = BTreeSet::new();
    let mut work = Work::new("disruption", MOST);
    loop {
        if known.is_empty() {
            pods = None;
        } else if pods.is_none() {
            pods = Some(pods_of());
        }
        work.start(|key| sync(client.clone(), key));
        let next_pod = pods
            .as_mut()
            .map_or_else(|| Either::Left(std::future::pending()), |pods| Either::Right(pods.next()));
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = work.turn() => {}
            Some(event) = budgets.next() => match event {
                Event::Apply(budget) | Event::InitApply(budget) => {
                    known.insert(key(&budget));
                    work.ask(key(&budget));
                }
                Event::Delete(budget) => drop(known.remove(&key(&budget))),
                Event::Init => known.clear(),
                Event::InitDone => {}
            },
            Some(event) = next_pod => match event {
                Event::Apply(pod) | Event::InitApply(pod) | Event::Delete(pod) => {
                    let namespace = pod.namespace().unwrap_or_default();
                    for budget in known.iter().filter(|(of, _)| *of == namespace) {
                        work.ask(budget.clone());
                    }
                }
                Event::Init | Event::InitDone => {}
            },
        }
    }
}

fn key(budget: &PodDisruptionBudget) -> Key {
    (budget.namespace().unwrap_or_default(), budget.name_any())
}

/// Brings one budget's status up to date.
async fn sync(client: Client, (namespace, name): Key) -> Result<Option<Duration>, String> {
    let shown = |error: kube::Error| error.to_string();
    let budgets: Api<PodDisruptionBudget> = Api::namespaced(client.clone(), &namespace);
    let Some(mut budget) = budgets.get_opt(&name).await.map_err(shown)? else {
        return Ok(None);
    };
    let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let selector = match selector.map(Selector::try_from) {
        None | Some(Err(_)) => Selector::nothing(),
        Some(Ok(selector)) => selector,
    };
    let all = Api::<Pod>::namespaced(client.clone(), &namespace)
        .list(&ListParams::default())
        .await
        .map_err(shown)?;
    let none = BTreeMap::new();
    let covered: Vec<Pod> = all
        .items
        .into_iter()
        .filter(|pod| selector.matches(pod.metadata.labels.as_ref().unwrap_or(&none)))
        .collect();
    let counts_controllers = budget
        .spec
        .as_ref()
        .is_some_and(|spec| spec.max_unavailable.is_some() || matches!(spec.min_available, Some(IntOrString::String(_))));
    let expected = if counts_controllers {
        scales(&client, &namespace, &covered).await
    } else {
        Ok(i32::try_from(covered.len()).unwrap_or(i32::MAX))
    };
    let (status, again) = status(&budget, &covered, expected, now());
    if budget.status.as_ref() == Some(&status) {
        return Ok(again);
    }
    budget.status = Some(status);
    match budgets.replace_status(&name, &PostParams::default(), &budget).await {
        Ok(_) => Ok(again),
        Err(error) if code(&error) == Some(404) => Ok(None),
        Err(error) => Err(shown(error)),
    }
}

/// How many Pods the controllers of these want, each counted once; Pods
/// without one do not count. The error is for the budget's condition.
async fn scales(client: &Client, namespace: &str, pods: &[Pod]) -> Result<i32, String> {
    let mut seen = BTreeSet::new();
    let mut total = 0_i32;
    for pod in pods {
        let Some(owner) = pod
            .metadata
            .owner_references
            .iter()
            .flatten()
            .find(|owner| owner.controller == Some(true))
        else {
            continue;
        };
        if !seen.insert(owner.uid.clone()) {
            continue;
        }
        let (group, version) = owner.api_version.split_once('/').unwrap_or(("", &owner.api_version));
        let kind = GroupVersionKind::gvk(group, version, &owner.kind);
        let none = || format!("found no controllers for pod {:?}", pod.name_any());
        let (resource, _) = kube::discovery::pinned_kind(client, &kind).await.map_err(|_| none())?;
        let controllers: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
        let scale = controllers.get_scale(&owner.name).await.map_err(|error| match code(&error) {
            Some(404) => none(),
            _ => error.to_string(),
        })?;
        total = total.saturating_add(scale.spec.and_then(|spec| spec.replicas).unwrap_or(0));
    }
    Ok(total)
}

/// A number, or a share of all, rounded up.
fn scaled(value: &IntOrString, of: i32) -> i32 {
    match value {
        IntOrString::Int(number) => *number,
        IntOrString::String(text) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(0);
            i32::try_from((percent * i64::from(of)).div_euclid(100) + i64::from((percent * i64::from(of)) % 100 != 0)).unwrap_or(i32::MAX)
        }
    }
}

/// The status of a budget over these Pods, and when to look again without news.
/// Pure.
fn status(
    budget: &PodDisruptionBudget,
    covered: &[Pod],
    expected: Result<i32, String>,
    now: Time,
) -> (PodDisruptionBudgetStatus, Option<Duration>) {
    let before = budget.status.clone().unwrap_or_default();
    let (expected, failure) = match expected {
        Ok(expected) => (expected, None),
        Err(why) => (before.expected_pods, Some(why)),
    };
    let spec = budget.spec.clone().unwrap_or_default();
    let desired = match (&spec.max_unavailable, &spec.min_available) {
        (Some(most), _) => (expected - scaled(most, expected)).max(0),
        (None, Some(least)) => scaled(least, expected),
        (None, None) => 0,
    };
    let (mut disrupted, mut again) = (BTreeMap::new(), None);
    for (name, at) in before.disrupted_pods.iter().flatten() {
        let waits = covered
            .iter()
            .any(|pod| pod.name_any() == *name && pod.metadata.deletion_timestamp.is_none());
        let deadline = Time::from(at) + DELETION_TIMEOUT;
        if waits && deadline > now {
            disrupted.insert(name.clone(), at.clone());
            let left = deadline.since(now);
            again = Some(again.map_or(left, |other: Duration| other.min(left)));
        }
    }
    let healthy = covered
        .iter()
        .filter(|pod| pod.metadata.deletion_timestamp.is_none() && !disrupted.contains_key(&pod.name_any()) && pods::is_ready(pod))
        .count();
    let healthy = i32::try_from(healthy).unwrap_or(i32::MAX);
    let allowed = if expected <= 0 || failure.is_some() {
        0
    } else {
        (healthy - desired).max(0)
    };
    let status = PodDisruptionBudgetStatus {
        current_healthy: healthy,
        desired_healthy: desired,
        disruptions_allowed: allowed,
        expected_pods: expected,
        disrupted_pods: (!disrupted.is_empty()).then_some(disrupted),
        observed_generation: budget.metadata.generation,
        conditions: Some(vec![condition(budget, &before, allowed, failure, now)]),
    };
    (status, again)
}

fn condition(
    budget: &PodDisruptionBudget,
    before: &PodDisruptionBudgetStatus,
    allowed: i32,
    failure: Option<String>,
    now: Time,
) -> MetaCondition {
    let (status, reason) = match (&failure, allowed) {
        (Some(_), _) => ("False", "SyncFailed"),
        (None, 1..) => ("True", "SufficientPods"),
        (None, _) => ("False", "InsufficientPods"),
    };
    let known = before
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == "DisruptionAllowed");
    let since = known
        .filter(|known| known.status == status)
        .map(|known| known.last_transition_time.clone());
    MetaCondition {
        type_: "DisruptionAllowed".to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: failure.unwrap_or_default(),
        observed_generation: budget.metadata.generation,
        last_transition_time: since.unwrap_or_else(|| now.wire()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, ready: bool) -> Pod {
        let status = if ready { "True" } else { "False" };
        serde_json::from_value(json!({ "metadata": { "name": name }, "status": { "conditions": [{ "type": "Ready", "status": status }] } }))
            .unwrap()
    }

    fn counted(spec: Value, pods: &[Pod], expected: i32) -> (i32, i32, i32) {
        let budget = serde_json::from_value(json!({ "metadata": { "name": "b", "generation": 2 }, "spec": spec })).unwrap();
        let (status, _) = status(&budget, pods, Ok(expected), Time::from_secs(0));
        assert_eq!(status.observed_generation, Some(2));
        (status.desired_healthy, status.current_healthy, status.disruptions_allowed)
    }

    #[test]
    fn how_many_may_go() {
        let pods = [pod("a", true), pod("b", true), pod("c", false)];
        assert_eq!(counted(json!({ "minAvailable": 1 }), &pods, 3), (1, 2, 1));
        assert_eq!(counted(json!({ "minAvailable": 3 }), &pods, 3), (3, 2, 0));
        assert_eq!(
            counted(json!({ "minAvailable": "34%" }), &pods, 3),
            (2, 2, 0),
            "shares are rounded up"
        );
        assert_eq!(counted(json!({ "maxUnavailable": 2 }), &pods, 3), (1, 2, 1));
        assert_eq!(counted(json!({ "maxUnavailable": "100%" }), &pods, 3), (0, 2, 2));
        assert_eq!(counted(json!({ "minAvailable": 0 }), &[], 0), (0, 0, 0));
    }

    #[test]
    fn an_evicted_pod_counts_again_when_it_is_not_deleted() {
        let at = Time::from_secs(1_000);
        let budget: PodDisruptionBudget = serde_json::from_value(json!({
            "metadata": { "name": "b" }, "spec": { "minAvailable": 1 },
            "status": { "disruptedPods": { "a": at.to_string(), "gone": at.to_string() },
                        "disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0 },
        }))
        .unwrap();
        let pods = [pod("a", true), pod("b", true)];
        let (soon, again) = status(&budget, &pods, Ok(2), at + Duration::from_secs(20));
        assert_eq!((soon.current_healthy, soon.disruptions_allowed), (1, 0));
        assert_eq!(soon.disrupted_pods.unwrap().into_keys().collect::<Vec<_>>(), ["a"]);
        assert_eq!(again, Some(Duration::from_secs(100)));
        let (late, again) = status(&budget, &pods, Ok(2), at + Duration::from_secs(121));
        assert_eq!(
            (late.current_healthy, late.disruptions_allowed, late.disrupted_pods, again),
            (2, 1, None, None)
        );
    }

    #[test]
    fn what_cannot_be_counted_allows_nothing() {
        let budget = serde_json::from_value(json!({ "spec": { "maxUnavailable": 1 } })).unwrap();
        let why = "found no controllers for pod \"a\"".to_owned();
        let (status, _) = status(&budget, &[pod("a", true)], Err(why.clone()), Time::from_secs(0));
        let condition = &status.conditions.unwrap()[0];
        assert_eq!(
            (status.disruptions_allowed, condition.reason.as_str(), &condition.message),
            (0, "SyncFailed", &why)
        );
    }
}
