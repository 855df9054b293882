//! Deletes pods nobody will look after any more: too many that have ended,
//! those of nodes that are gone or out of service, those deleted before a node
//! had them.
//!
//! [`excess`] and [`Quarantine`] decide, pure; the driver looks every so often
//! and asks the API server only for the pods concerned. Nothing waits for a
//! node: every pod is marked Failed, then deleted without grace.
//!
//! Source: pod lifecycle page, "Garbage collection of Pods"; upstream
//! `pkg/controller/podgc/gc_controller.go`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use api::Time;
use api::typed::{Node, Pod};
use jiff::Timestamp;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client};
use serde_json::json;
use tokio_util::sync::CancellationToken;

/// Bounds one look, should every request hang.
const LOOK_TIMEOUT: Duration = Duration::from_secs(60);
/// What people put on a node to say that it does not run.
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";
const ENDED: &str = "status.phase!=Pending,status.phase!=Running,status.phase!=Unknown";

/// When, and how much.
#[derive(Clone, Debug)]
pub struct Options {
    /// Ended pods that are kept; 0 for all. Source: upstream
    /// `--terminated-pod-gc-threshold`.
    pub ended_max: usize,
    /// Between two looks. Source: upstream `gcCheckPeriod`.
    pub look_every: Duration,
    /// How long a node must have been gone before its pods are. Source:
    /// upstream `quarantineTime`.
    pub quarantine: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            ended_max: 12_500,
            look_every: Duration::from_secs(20),
            quarantine: Duration::from_secs(40),
        }
    }
}

/// Which of the pods that have ended are too many: evicted ones first, then
/// the oldest.
fn excess(mut ended: Vec<Pod>, max: usize) -> Vec<Pod> {
    let surplus = ended.len().saturating_sub(max);
    let evicted = |pod: &Pod| pod.status.as_ref().and_then(|status| status.reason.as_deref()) == Some("Evicted");
    ended.sort_by_cached_key(|pod| {
        let meta = &pod.metadata;
        (!evicted(pod), meta.creation_timestamp.as_ref().map(Time::from), meta.name.clone())
    });
    ended.truncate(surplus);
    ended
}

/// Nodes that pods name and that are not there, and since when.
#[derive(Debug, Default)]
struct Quarantine(BTreeMap<String, Time>);

impl Quarantine {
    /// Those that have been missing for long enough.
    fn due(&mut self, missing: &BTreeSet<String>, now: Time, quarantine: Duration) -> BTreeSet<String> {
        self.0.retain(|name, _| missing.contains(name));
        for name in missing {
            self.0.entry(name.clone()).or_insert(now);
        }
        let long = self.0.iter().filter(|(_, since)| now.since(**since) >= quarantine);
        long.map(|(name, _)| name.clone()).collect()
    }
}

/// Whether somebody has said that a node which is not ready does not run.
fn out_of_service(node: &Node) -> bool {
    let ready = node
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten())
        .any(|condition| condition.type_ == "Ready" && condition.status == "True");
    let mut taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    !ready && taints.any(|taint| taint.key == OUT_OF_SERVICE && taint.effect == "NoExecute")
}

fn node_of(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default()
}

/// The driver.
struct Collector {
    client: Client,
    options: Options,
    quarantine: Quarantine,
}

/// Looks again and again until `shutdown`. What a dropped call has begun is
/// continued by the next run.
pub async fn run(client: Client, options: Options, shutdown: CancellationToken) {
    let mut timer = tokio::time::interval(options.look_every);
    timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut collector = Collector {
        client,
        options,
        quarantine: Quarantine::default(),
    };
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = timer.tick() => {}
        }
        match tokio::time::timeout(LOOK_TIMEOUT, collector.look(Timestamp::now().into())).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(error = %error, "pods to be collected were not all found; it is tried again"),
            Err(_) => tracing::warn!("collecting pods did not end within {LOOK_TIMEOUT:?}; it is tried again"),
        }
    }
}

impl Collector {
    async fn look(&mut self, now: Time) -> Result<(), kube::Error> {
        if self.options.ended_max > 0 {
            self.collect_ended().await?;
        }
        let nodes = Api::<Node>::all(self.client.clone()).list(&ListParams::default()).await?.items;
        for node in nodes.iter().filter(|node| out_of_service(node)) {
            let name = node.metadata.name.as_deref().unwrap_or_default();
            let pods = self.pods(&format!("spec.nodeName={name}")).await?;
            for pod in pods.iter().filter(|pod| api::pods::is_terminating(pod)) {
                self.collect(pod, None).await;
            }
        }
        self.collect_orphans(&nodes, now).await?;
        for pod in self
            .pods("spec.nodeName=")
            .await?
            .iter()
            .filter(|pod| api::pods::is_terminating(pod))
        {
            self.collect(pod, None).await;
        }
        Ok(())
    }

    async fn collect_ended(&self) -> Result<(), kube::Error> {
        let pods = Api::<Pod>::all(self.client.clone());
        // How many there are is cheap to know.
        let counted = pods.list_metadata(&ListParams::default().fields(ENDED)).await?;
        if counted.items.len() <= self.options.ended_max {
            return Ok(());
        }
        let surplus = excess(self.pods(ENDED).await?, self.options.ended_max);
        tracing::info!(pods = surplus.len(), "more pods have ended than are kept; the oldest are deleted");
        for pod in &surplus {
            self.collect(pod, None).await;
        }
        Ok(())
    }

    async fn collect_orphans(&mut self, nodes: &[Node], now: Time) -> Result<(), kube::Error> {
        let names = nodes.iter().filter_map(|node| node.metadata.name.as_deref());
        let elsewhere: Vec<String> = names.map(|name| format!("spec.nodeName!={name}")).collect();
        let fields = format!("spec.nodeName!=,{}", elsewhere.join(","));
        let orphans = self.pods(fields.trim_end_matches(',')).await?;
        let missing = orphans.iter().map(|pod| node_of(pod).to_owned()).collect();
        let due = self.quarantine.due(&missing, now, self.options.quarantine);
        for name in due {
            // Asked once more: a pod must not go because a list was old.
            if Api::<Node>::all(self.client.clone()).get_opt(&name).await?.is_some() {
                continue;
            }
            for pod in orphans.iter().filter(|pod| node_of(pod) == name) {
                let condition = json!({
                    "type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC",
                    "message": "PodGC: node no longer exists", "lastTransitionTime": now.wire(),
                    "observedGeneration": pod.metadata.generation,
                });
                tracing::info!(pod = api::pods::label(pod), node = name, "the pod's node is gone; it is deleted");
                self.collect(pod, Some(&condition)).await;
            }
        }
        Ok(())
    }

    async fn pods(&self, fields: &str) -> Result<Vec<Pod>, kube::Error> {
        let params = ListParams::default().fields(fields);
        Ok(Api::<Pod>::all(self.client.clone()).list(&params).await?.items)
    }

    /// Marks a pod Failed unless it has ended, and deletes it. What fails is
    /// found again by the next look.
    async fn collect(&self, pod: &Pod, condition: Option<&serde_json::Value>) {
        match self.fail_and_delete(pod, condition).await {
            Ok(()) => {}
            // Gone, or another one by now.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
            Err(error) => tracing::warn!(pod = api::pods::label(pod), error = %error, "the pod was not deleted; it is tried again"),
        }
    }

    async fn fail_and_delete(&self, pod: &Pod, condition: Option<&serde_json::Value>) -> Result<(), kube::Error> {
        let meta = &pod.metadata;
        let (namespace, name) = (
            meta.namespace.as_deref().unwrap_or_default(),
            meta.name.as_deref().unwrap_or_default(),
        );
        let pods = Api::<Pod>::namespaced(self.client.clone(), namespace);
        if !api::pods::is_terminal(pod) {
            let mut status = json!({ "phase": "Failed" });
            if let Some(condition) = condition {
                status["conditions"] = json!([condition]);
            }
            let patch = Patch::Strategic(json!({ "metadata": { "uid": meta.uid }, "status": status }));
            pods.patch_status(name, &PatchParams::default(), &patch).await?;
        }
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions {
                uid: meta.uid.clone(),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        pods.delete(name, &params).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn at(seconds: i64) -> Time {
        Time::from_secs(seconds)
    }

    #[test]
    fn evicted_pods_go_first_and_then_the_oldest() {
        let pod = |name: &str, day: u32, reason: &str| -> Pod {
            let created = format!("2024-01-{day:02}T00:00:00Z");
            let value = json!({"metadata": {"name": name, "creationTimestamp": created}, "status": {"phase": "Failed", "reason": reason}});
            serde_json::from_value(value).unwrap()
        };
        let ended = || {
            vec![
                pod("young", 3, ""),
                pod("old", 1, ""),
                pod("evicted", 4, "Evicted"),
                pod("middle", 2, ""),
            ]
        };
        let names = |max| {
            excess(ended(), max)
                .iter()
                .map(|pod| pod.metadata.name.clone().unwrap())
                .collect::<Vec<_>>()
        };
        assert_eq!(names(4), Vec::<String>::new());
        assert_eq!(names(2), ["evicted", "old"]);
        assert_eq!(names(0), ["evicted", "old", "middle", "young"]);
    }

    #[test]
    fn a_node_must_have_been_gone_for_a_while() {
        let mut quarantine = Quarantine::default();
        let missing = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        let mut due = |names: &[&str], s| quarantine.due(&missing(names), at(s), Duration::from_secs(40));
        assert!(due(&["a"], 0).is_empty() && due(&["a", "b"], 39).is_empty());
        assert_eq!(due(&["a", "b"], 40), missing(&["a"]));
        // Back for a moment: it begins anew.
        assert!(due(&["b"], 41).is_empty() && due(&["a", "b"], 60).is_empty());
        assert_eq!(due(&["a", "b"], 79), missing(&["b"]));
    }

    #[test]
    fn only_a_person_says_that_a_node_is_out_of_service() {
        let node = |ready: &str, taints: Value| -> Node {
            let conditions = json!([{ "type": "Ready", "status": ready }]);
            serde_json::from_value(json!({"metadata": {}, "spec": {"taints": taints}, "status": {"conditions": conditions}})).unwrap()
        };
        let said = json!([{ "key": OUT_OF_SERVICE, "effect": "NoExecute" }]);
        assert!(out_of_service(&node("Unknown", said.clone())));
        assert!(!out_of_service(&node("True", said)));
        assert!(!out_of_service(&node(
            "False",
            json!([{ "key": OUT_OF_SERVICE, "effect": "NoSchedule" }])
        )));
    }
}
