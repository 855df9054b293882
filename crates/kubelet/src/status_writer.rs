//! Publishes a pod's status: the latest wins, and what was published is known.

use std::sync::Arc;
use std::time::Duration;

use api::Uid;
use api::typed::{Pod, PodCondition, PodStatus};
use kube::Api;
use kube::api::{Patch, PatchParams};
use lifecycle::{OWNED_CONDITIONS, RESIZE_IN_PROGRESS, RESIZE_PENDING};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Fields of a status that the kubelet owns: absent means cleared.
const CLEARED: [&str; 9] = [
    "containerStatuses",
    "ephemeralContainerStatuses",
    "hostIP",
    "hostIPs",
    "initContainerStatuses",
    "message",
    "podIP",
    "podIPs",
    "reason",
];
/// First and longest delay between tries while the API server is away.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// How long a deletion waits for the last status to be published.
const FLUSH_LIMIT: Duration = Duration::from_secs(30);

/// Where a pod's status goes.
#[derive(Clone)]
pub struct StatusWriter {
    offered: Arc<watch::Sender<(u64, Option<Arc<PodStatus>>)>>,
    written: watch::Receiver<u64>,
}

impl StatusWriter {
    /// A writer for one pod, and the task that must be run for it. The task
    /// ends on `shutdown`, or once the API server no longer knows the pod.
    pub fn new(
        client: kube::Client,
        namespace: String,
        name: String,
        uid: Uid,
        shutdown: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let (offered, latest) = watch::channel((0, None));
        let (done, written) = watch::channel(0);
        let task = run(client, namespace, name, uid, latest, done, shutdown);
        (
            Self {
                offered: Arc::new(offered),
                written,
            },
            task,
        )
    }

    /// Hands over a status; one not yet written is replaced.
    pub fn offer(&self, status: PodStatus) {
        self.offered.send_modify(|(version, latest)| {
            *version += 1;
            *latest = Some(Arc::new(status));
        });
    }

    /// Waits until the last offered status is published, or cannot be.
    pub async fn flush(&self) {
        let version = self.offered.borrow().0;
        let mut written = self.written.clone();
        // The task has ended when the pod is gone; then there is no one to tell.
        if tokio::time::timeout(FLUSH_LIMIT, written.wait_for(|done| *done >= version))
            .await
            .is_err()
        {
            tracing::warn!("the last status was not published within {FLUSH_LIMIT:?}; going on without");
        }
    }
}

async fn run(
    client: kube::Client,
    namespace: String,
    name: String,
    uid: Uid,
    mut latest: watch::Receiver<(u64, Option<Arc<PodStatus>>)>,
    written: watch::Sender<u64>,
    shutdown: CancellationToken,
) {
    let pods = Api::<Pod>::namespaced(client, &namespace);
    let mut delay = RETRY.0;
    loop {
        tokio::select! {
            changed = latest.changed() => if changed.is_err() { return },
            () = shutdown.cancelled() => return,
        }
        loop {
            let (version, status) = latest.borrow_and_update().clone();
            let Some(status) = status else { break };
            match pods
                .patch_status(&name, &PatchParams::default(), &Patch::Strategic(patch(&uid, &status)))
                .await
            {
                Ok(_) => {
                    delay = RETRY.0;
                    written.send_replace(version);
                    break;
                }
                // Gone, or another pod of that name now: nobody is left to tell.
                Err(kube::Error::Api(error)) if error.code == 404 || (error.code == 409 && is_another(&pods, &name, &uid).await) => {
                    tracing::debug!(pod = %format_args!("{namespace}/{name}"), uid = %uid, error = %error, "the pod is gone; its status is dropped");
                    return;
                }
                Err(error) => tracing::warn!(pod = %format_args!("{namespace}/{name}"), uid = %uid, error = %error, "status not written"),
            }
            tokio::select! {
                () = tokio::time::sleep(delay) => delay = (delay * 2).min(RETRY.1),
                () = shutdown.cancelled() => return,
            }
        }
    }
}

/// Whether the name is no longer this pod's. A conflict may also mean that
/// others write at the same time; then it is tried again.
pub(crate) async fn is_another(pods: &Api<Pod>, name: &str, uid: &Uid) -> bool {
    match pods.get_metadata_opt(name).await {
        Ok(found) => found.is_none_or(|found| found.metadata.uid.as_deref() != Some(uid.as_str())),
        Err(_) => false,
    }
}

/// Conditions that are there while there is something to say, and no longer.
const PASSING: [&str; 2] = [RESIZE_PENDING, RESIZE_IN_PROGRESS];

/// A strategic merge patch that makes the stored status this one, but for
/// conditions of other owners. Source: upstream `status_manager.go`,
/// `syncPod`, and `util/pod`, `PatchPodStatus`.
fn patch(uid: &Uid, status: &PodStatus) -> Value {
    let mut fields = match serde_json::to_value(status) {
        Ok(Value::Object(fields)) => fields,
        _ => serde_json::Map::new(),
    };
    for name in CLEARED {
        fields.entry(name).or_insert(Value::Null);
    }
    let conditions: &[PodCondition] = status.conditions.as_deref().unwrap_or_default();
    let order: Vec<_> = conditions.iter().map(|condition| json!({ "type": condition.type_ })).collect();
    let owned: Vec<_> = conditions
        .iter()
        .filter(|condition| OWNED_CONDITIONS.contains(&condition.type_.as_str()) || is_our_disruption(condition))
        .map(explicit)
        .collect();
    let gone = PASSING
        .iter()
        .filter(|name| !conditions.iter().any(|condition| condition.type_ == **name));
    let gone = gone.map(|name| json!({ "$patch": "delete", "type": name }));
    let owned: Vec<_> = owned.into_iter().chain(gone).collect();
    fields.insert("conditions".to_owned(), Value::Array(owned));
    fields.insert("$setElementOrder/conditions".to_owned(), Value::Array(order));
    for name in ["podIPs", "hostIPs"] {
        if let Some(Value::Array(list)) = fields.get_mut(name) {
            // Merged by address otherwise, and an old address would stay.
            list.insert(0, json!({ "$patch": "replace" }));
        }
    }
    json!({ "metadata": { "uid": uid.as_str() }, "status": fields })
}

/// `DisruptionTarget` is written by many; the kubelet's is told by its reason.
///
/// Source: upstream `types/pod_status.go`, `PodConditionSharedByKubelet`.
fn is_our_disruption(condition: &PodCondition) -> bool {
    condition.type_ == "DisruptionTarget" && condition.reason.as_deref() == Some("TerminationByKubelet")
}

/// A condition with its absent texts as nulls, so that old texts do not stay.
fn explicit(condition: &PodCondition) -> Value {
    let mut value = serde_json::to_value(condition).unwrap_or_default();
    if let Value::Object(fields) = &mut value {
        for name in ["reason", "message", "lastProbeTime"] {
            fields.entry(name).or_insert(Value::Null);
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_conditions_are_not_written_and_old_fields_are_cleared() {
        let condition = |type_: &str| PodCondition {
            type_: type_.into(),
            status: "True".into(),
            ..PodCondition::default()
        };
        let status = PodStatus {
            conditions: Some(vec![
                condition("example.com/gate"),
                condition("DisruptionTarget"),
                condition("Ready"),
            ]),
            phase: Some("Running".into()),
            ..PodStatus::default()
        };
        let patch = patch(&"u".parse().unwrap(), &status);
        let written = patch["status"]["conditions"].as_array().unwrap();
        assert_eq!(written.iter().filter(|condition| condition.get("$patch").is_none()).count(), 1);
        assert_eq!(written[1], json!({ "$patch": "delete", "type": "PodResizePending" }));
        assert_eq!(patch["status"]["conditions"][0]["message"], Value::Null);
        assert_eq!(patch["status"]["$setElementOrder/conditions"][0]["type"], "example.com/gate");
        assert!(patch["status"].get("reason").is_some_and(Value::is_null));
        assert_eq!(patch["status"]["phase"], "Running");
    }
}
