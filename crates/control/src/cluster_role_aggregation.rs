//! Keeps the rules of cluster roles that are made of others.
//!
//! Source: Kubernetes "Using RBAC authorization", "Aggregated ClusterRoles";
//! upstream `pkg/controller/clusterroleaggregation`.

use std::collections::BTreeMap;
use std::time::Duration;

use api::Selector;
use api::typed::rbac::{ClusterRole, PolicyRule};
use futures::StreamExt;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use kube_runtime::watcher::{self, Event};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::watch::watch;

const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Between attempts at a write that failed.
const RETRY: Duration = Duration::from_secs(5);

/// The rules a role should have; `None` when it has them, or has its own.
fn aggregated(role: &ClusterRole, all: &BTreeMap<String, ClusterRole>) -> Option<Vec<PolicyRule>> {
    let selectors = role
        .aggregation_rule
        .as_ref()?
        .cluster_role_selectors
        .as_deref()
        .unwrap_or_default();
    let own = role.name_any();
    let mut rules: Vec<PolicyRule> = Vec::new();
    for selector in selectors {
        // One that cannot be read selects nothing.
        let Ok(selector) = Selector::try_from(selector) else { continue };
        let parts = all
            .values()
            .filter(|part| part.name_any() != own && selector.matches(part.labels()));
        for rule in parts.filter_map(|part| part.rules.as_ref()).flatten() {
            if !rules.contains(rule) {
                rules.push(rule.clone());
            }
        }
    }
    (role.rules.as_deref().unwrap_or_default() != rules).then_some(rules)
}

/// Keeps aggregated roles as they should be until `shutdown`.
pub async fn run(client: Client, shutdown: CancellationToken) {
    let roles: Api<ClusterRole> = Api::all(client);
    let mut events = std::pin::pin!(watch(roles.clone(), watcher::Config::default()));
    let mut all: BTreeMap<String, ClusterRole> = BTreeMap::new();
    let mut listed = false;
    let mut failed = false;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(RETRY), if failed => {}
            Some(event) = events.next() => match event {
                Event::Apply(role) | Event::InitApply(role) => {
                    all.insert(role.name_any(), role);
                }
                Event::Delete(role) => {
                    all.remove(&role.name_any());
                }
                Event::Init => {
                    all.clear();
                    listed = false;
                }
                Event::InitDone => listed = true,
            },
        }
        failed = false;
        let due = all.values().filter(|_| listed);
        let due: Vec<_> = due.filter_map(|role| Some((role.name_any(), aggregated(role, &all)?))).collect();
        for (name, rules) in due {
            let patch = Patch::Merge(json!({ "rules": rules }));
            let params = PatchParams::default();
            let writing = roles.patch(&name, &params, &patch);
            match tokio::time::timeout(REQUEST_TIMEOUT, writing).await {
                // What was written is known before the watch shows it: it may
                // be part of another one.
                Ok(Ok(role)) => {
                    all.insert(name, role);
                }
                Ok(Err(kube::Error::Api(status))) if status.code == 404 => {}
                Ok(Err(error)) => {
                    failed = true;
                    tracing::debug!(role = name, error = %error, "not aggregated; it is tried again");
                }
                Err(_) => failed = true,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(name: &str, labels: serde_json::Value, aggregates: Option<&str>, verbs: &[&str]) -> ClusterRole {
        let mut value = json!({"metadata": {"name": name, "labels": labels}, "rules": []});
        if !verbs.is_empty() {
            value["rules"] = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": verbs}]);
        }
        if let Some(label) = aggregates {
            value["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": {label: "true"}}]});
        }
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_role_is_made_of_what_its_selectors_find() {
        let roles = [
            role("all", json!({"to": "true"}), Some("to"), &[]),
            role("b", json!({"to": "true"}), None, &["get"]),
            role("a", json!({"to": "true"}), None, &["list"]),
            role("same", json!({"to": "true"}), None, &["get"]),
            role("other", json!({"to": "false"}), None, &["delete"]),
        ];
        let all: BTreeMap<String, ClusterRole> = roles.into_iter().map(|role| (role.name_any(), role)).collect();
        let rules = aggregated(&all["all"], &all).unwrap();
        let verbs: Vec<&str> = rules.iter().map(|rule| rule.verbs[0].as_str()).collect();
        assert_eq!(verbs, ["list", "get"], "by name, each rule once, never itself");
        let mut settled = all["all"].clone();
        settled.rules = Some(rules);
        assert_eq!(aggregated(&settled, &all), None);
        assert_eq!(aggregated(&all["a"], &all), None);
        let nobody = role("none", json!({}), Some("nobody"), &["get"]);
        assert_eq!(aggregated(&nobody, &all), Some(Vec::new()));
    }
}
