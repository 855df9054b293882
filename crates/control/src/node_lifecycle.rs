//! Nodes that do not tell of themselves, what that means for their pods, and
//! the taints that say so.
//!
//! [`Health`] decides when a node is lost, [`taints`] what its conditions mean,
//! [`evict_at`] how long a pod stands it; all pure. The driver looks every few
//! seconds and when a node changes.
//!
//! Source: nodes page, "Node controller"; upstream
//! `pkg/controller/nodelifecycle/node_lifecycle_controller.go`,
//! `pkg/controller/tainteviction/taint_eviction.go`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use api::Time;
use api::typed::{Lease, Node, NodeCondition, ObjectReference, Pod, Taint, Toleration};
use client::recorder::Reporter;
use client::{RecordedEvent, Recorder};
use futures::StreamExt;
use jiff::Timestamp;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client};
use kube_runtime::watcher;
use serde_json::json;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::scheduler::filter::tolerates;
use crate::watch::watch;

/// How often every node is looked at. Source: upstream `--node-monitor-period`.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// A node that told nothing for so long is lost. Source: upstream
/// `--node-monitor-grace-period`, 50 s since v1.32.
const GRACE: Duration = Duration::from_secs(50);
/// One that has just been made. Source: upstream `--node-startup-grace-period`.
const STARTUP_GRACE: Duration = Duration::from_secs(60);
/// Whoever has not looked for so long cannot tell who was silent.
const SLEPT: Duration = Duration::from_secs(20);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Bounds one look, should every request hang.
const LOOK_TIMEOUT: Duration = Duration::from_secs(60);

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
const NO_EXECUTE: &str = "NoExecute";
const NO_SCHEDULE: &str = "NoSchedule";
/// Conditions that nobody vouches for once a node is lost.
const CONDITIONS: [&str; 4] = ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"];
/// Taints of pressures.
const PRESSURES: [(&str, &str); 3] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
];

/// When a node last told of itself, as far as this controller has seen.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Health {
    /// What it told: the heartbeat of its status and the renewal of its Lease.
    told: (Option<Time>, Option<Time>),
    seen_at: Time,
}

impl Health {
    /// After another look.
    fn seen(known: Option<Self>, told: (Option<Time>, Option<Time>), now: Time) -> Self {
        match known {
            Some(known) if known.told == told => known,
            Some(_) | None => Self { told, seen_at: now },
        }
    }

    /// Whether the node has been silent for too long. Times are this
    /// controller's own: clocks of nodes may be wrong.
    fn is_lost(&self, created_at: Option<Time>, now: Time) -> bool {
        let never = self.told == (None, None);
        let (since, grace) = if never {
            (created_at.unwrap_or(self.seen_at), STARTUP_GRACE)
        } else {
            (self.seen_at, GRACE)
        };
        now.since(since) > grace
    }
}

/// What a node has told last: in its status, in its Lease.
fn told(node: &Node, lease: Option<&Lease>) -> (Option<Time>, Option<Time>) {
    let heartbeat = condition(node, "Ready")
        .and_then(|ready| ready.last_heartbeat_time.as_ref())
        .map(Time::from);
    let renewed = lease
        .and_then(|lease| lease.spec.as_ref()?.renew_time.as_ref())
        .map(|time| Time::from(time.0));
    (heartbeat, renewed)
}

fn condition<'n>(node: &'n Node, kind: &str) -> Option<&'n NodeCondition> {
    node.status
        .as_ref()?
        .conditions
        .as_ref()?
        .iter()
        .find(|condition| condition.type_ == kind)
}

fn is(node: &Node, kind: &str) -> Option<String> {
    condition(node, kind).map(|condition| condition.status.clone())
}

/// The conditions of a lost node that do not say so yet.
fn unknown(node: &Node, now: Time) -> Vec<NodeCondition> {
    let silent = CONDITIONS.iter().filter(|kind| is(node, kind).as_deref() != Some("Unknown"));
    silent
        .map(|kind| {
            let old = condition(node, kind);
            let (reason, message) = if old.is_some() {
                ("NodeStatusUnknown", "Kubelet stopped posting node status.")
            } else {
                ("NodeStatusNeverUpdated", "Kubelet never posted node status.")
            };
            NodeCondition {
                type_: (*kind).to_owned(),
                status: "Unknown".to_owned(),
                reason: Some(reason.to_owned()),
                message: Some(message.to_owned()),
                last_heartbeat_time: old.and_then(|old| old.last_heartbeat_time.clone()),
                last_transition_time: Some(now.wire()),
            }
        })
        .collect()
}

/// The taints a node should have, those of others as they are; `None` when it
/// has them.
fn taints(node: &Node, now: Time) -> Option<Vec<Taint>> {
    let spec = node.spec.as_ref();
    let old: Vec<Taint> = spec.and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let mut wanted = BTreeSet::new();
    match is(node, "Ready").as_deref() {
        Some("False") => wanted.extend([(NOT_READY, NO_SCHEDULE), (NOT_READY, NO_EXECUTE)]),
        Some("Unknown") => wanted.extend([(UNREACHABLE, NO_SCHEDULE), (UNREACHABLE, NO_EXECUTE)]),
        Some(_) | None => {}
    }
    for (kind, key) in PRESSURES {
        if is(node, kind).as_deref() == Some("True") {
            wanted.insert((key, NO_SCHEDULE));
        }
    }
    if spec.and_then(|spec| spec.unschedulable).unwrap_or(false) {
        wanted.insert((UNSCHEDULABLE, NO_SCHEDULE));
    }
    let ours = |taint: &Taint| {
        let pressure = PRESSURES.iter().any(|(_, key)| *key == taint.key) || taint.key == UNSCHEDULABLE;
        matches!(taint.key.as_str(), NOT_READY | UNREACHABLE) || (pressure && taint.effect == NO_SCHEDULE)
    };
    let mut new: Vec<Taint> = (old.iter())
        .filter(|taint| !ours(taint) || wanted.contains(&(taint.key.as_str(), taint.effect.as_str())))
        .cloned()
        .collect();
    for (key, effect) in wanted {
        if !new.iter().any(|taint| taint.key == key && taint.effect == effect) {
            new.push(Taint {
                key: key.to_owned(),
                effect: effect.to_owned(),
                time_added: Some(now.wire()),
                value: None,
            });
        }
    }
    (new != old).then_some(new)
}

/// When a pod must leave a node with these taints; `None` if it need not.
fn evict_at(pod: &Pod, taints: &[Taint], now: Time) -> Option<Time> {
    let tolerations: Vec<&Toleration> = pod.spec.iter().flat_map(|spec| spec.tolerations.iter().flatten()).collect();
    let mut earliest: Option<Time> = None;
    for taint in taints.iter().filter(|taint| taint.effect == NO_EXECUTE) {
        let since = taint.time_added.as_ref().map_or(now, Time::from);
        let mut used = tolerations
            .iter()
            .filter(|toleration| tolerates(std::slice::from_ref(*toleration), taint))
            .peekable();
        if used.peek().is_none() {
            return Some(since);
        }
        let limits = used.filter_map(|toleration| toleration.toleration_seconds);
        if let Some(shortest) = limits.min() {
            let at = since + Duration::from_secs(u64::try_from(shortest).unwrap_or(0));
            earliest = Some(earliest.map_or(at, |other| other.min(at)));
        }
    }
    earliest
}

/// The driver.
struct Controller {
    client: Client,
    nodes: Recorder,
    /// Names and UIDs of the nodes there were at the last look.
    known: BTreeMap<String, Option<String>>,
    evictions: Recorder,
    health: BTreeMap<String, Health>,
    /// Pods whose eviction waits for its time: namespace, name.
    waiting: BTreeMap<String, (String, String)>,
    looked_at: Option<Time>,
}

fn now() -> Time {
    Timestamp::now().into()
}

/// Looks after nodes until `shutdown`. What a dropped call has begun is
/// finished by the next look.
pub async fn run(client: Client, shutdown: CancellationToken) {
    let mut side = JoinSet::new();
    let mut recorder = |component: &str| {
        let reporter = Reporter {
            component: component.to_owned(),
            host: String::new(),
        };
        let (recorder, recording) = Recorder::new(client.clone(), reporter, shutdown.clone());
        side.spawn(recording);
        recorder
    };
    let mut controller = Controller {
        nodes: recorder("node-controller"),
        known: BTreeMap::new(),
        evictions: recorder("taint-eviction-controller"),
        client: client.clone(),
        health: BTreeMap::new(),
        waiting: BTreeMap::new(),
        looked_at: None,
    };
    let changes = watch(Api::<Node>::all(client), watcher::Config::default());
    let mut changes = std::pin::pin!(changes);
    let mut next = LOOK_EVERY;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            Some(_) = changes.next() => {}
            () = tokio::time::sleep(next) => {}
        }
        let looked = tokio::time::timeout(LOOK_TIMEOUT, controller.look(now())).await;
        next = match looked {
            Ok(Ok(next)) => next,
            Ok(Err(error)) => {
                tracing::warn!(error = %error, "nodes were not looked after; it is tried again");
                LOOK_EVERY
            }
            Err(_) => {
                tracing::warn!("looking after the nodes did not end within {LOOK_TIMEOUT:?}; it is tried again");
                LOOK_EVERY
            }
        };
    }
    drop(controller);
    while side.join_next().await.is_some() {}
}

impl Controller {
    /// One look at every node; when to look again.
    async fn look(&mut self, now: Time) -> Result<Duration, kube::Error> {
        let nodes = Api::<Node>::all(self.client.clone()).list(&ListParams::default()).await?.items;
        let leases = Api::<Lease>::namespaced(self.client.clone(), "kube-node-lease");
        let leases = leases.list(&ListParams::default()).await?.items;
        if self.looked_at.is_some_and(|at| now.since(at) > SLEPT) {
            self.health.clear();
        }
        self.looked_at = Some(now);
        self.tell_of_changes(&nodes, now);
        self.health.retain(|name, _| self.known.contains_key(name));
        let mut wake = LOOK_EVERY;
        for node in nodes {
            let Some(name) = node.metadata.name.clone() else { continue };
            let lease = leases.iter().find(|lease| lease.metadata.name.as_ref() == Some(&name));
            let node = self.judge(&name, node, lease, now).await?;
            let tainted = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
            if let Some(at) = self.evict(&name, tainted, now).await? {
                wake = wake.min(at.since(now).max(Duration::from_millis(10)));
            }
        }
        Ok(wake)
    }

    /// Nodes that have come and gone since the last look.
    fn tell_of_changes(&mut self, nodes: &[Node], now: Time) {
        let present = nodes.iter().map(|node| &node.metadata);
        let present: BTreeMap<_, _> = present.filter_map(|meta| Some((meta.name.clone()?, meta.uid.clone()))).collect();
        let before = std::mem::replace(&mut self.known, present);
        let tell = |name: &str, uid: &Option<String>, reason: &str, what: String| {
            let message = format!("Node {name} event: {what}");
            record(&self.nodes, node_reference(name, uid.as_ref()), reason, "Normal", message, now);
        };
        for (name, uid) in before.iter().filter(|(name, _)| !self.known.contains_key(*name)) {
            tell(name, uid, "RemovingNode", format!("Removing Node {name} from Controller"));
        }
        for (name, uid) in self.known.iter().filter(|(name, _)| !before.contains_key(*name)) {
            tell(name, uid, "RegisteredNode", format!("Registered Node {name} in Controller"));
        }
    }

    /// Says what is to be said of a node; the node afterwards.
    async fn judge(&mut self, name: &str, mut node: Node, lease: Option<&Lease>, now: Time) -> Result<Node, kube::Error> {
        let api = Api::<Node>::all(self.client.clone());
        let health = Health::seen(self.health.remove(name), told(&node, lease), now);
        let created_at = node.metadata.creation_timestamp.as_ref().map(Time::from);
        let silent = if health.is_lost(created_at, now) {
            unknown(&node, now)
        } else {
            Vec::new()
        };
        self.health.insert(name.to_owned(), health);
        if !silent.is_empty() {
            let was_ready = is(&node, "Ready").as_deref() == Some("True");
            tracing::warn!(node = name, "the node has not told of itself for a while and counts as lost");
            let patch = json!({ "status": { "conditions": silent } });
            node = api.patch_status(name, &PatchParams::default(), &Patch::Strategic(patch)).await?;
            if was_ready {
                let text = format!("Node {name} status is now: NodeNotReady");
                record(
                    &self.nodes,
                    node_reference(name, node.metadata.uid.as_ref()),
                    "NodeNotReady",
                    "Normal",
                    text,
                    now,
                );
                self.pods_not_ready(name, now).await?;
            }
        }
        if let Some(taints) = taints(&node, now) {
            let patch = json!({
                "metadata": { "resourceVersion": node.metadata.resource_version },
                "spec": { "taints": taints },
            });
            match api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await {
                Ok(changed) => node = changed,
                // Somebody was faster: the change brings the next look.
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                Err(error) => return Err(error),
            }
        }
        Ok(node)
    }

    /// Pods of a lost node do not count as ready; nothing else is said of them.
    async fn pods_not_ready(&self, node: &str, now: Time) -> Result<(), kube::Error> {
        for pod in self.pods_on(node).await? {
            if !api::pods::is_ready(&pod) {
                continue;
            }
            let ready = json!([{ "type": "Ready", "status": "False", "lastTransitionTime": now.wire() }]);
            let patch = json!({ "status": { "conditions": ready } });
            self.patch_status(&pod, patch).await?;
            record(
                &self.nodes,
                pod_reference(&pod),
                "NodeNotReady",
                "Warning",
                "Node is not ready".to_owned(),
                now,
            );
        }
        Ok(())
    }

    /// Deletes the pods whose time on a tainted node is up; when the next one's is.
    async fn evict(&mut self, node: &str, taints: &[Taint], now: Time) -> Result<Option<Time>, kube::Error> {
        let no_execute = taints.iter().any(|taint| taint.effect == NO_EXECUTE);
        if !no_execute && self.waiting.is_empty() {
            return Ok(None);
        }
        let mut next: Option<Time> = None;
        for pod in self.pods_on(node).await? {
            let uid = pod.metadata.uid.clone().unwrap_or_default();
            if api::pods::is_terminating(&pod) || api::pods::is_terminal(&pod) {
                self.waiting.remove(&uid);
                continue;
            }
            let name = (
                pod.metadata.namespace.clone().unwrap_or_default(),
                pod.metadata.name.clone().unwrap_or_default(),
            );
            match evict_at(&pod, taints, now) {
                Some(at) if at <= now => {
                    self.waiting.remove(&uid);
                    self.delete(&pod, &name, now).await?;
                }
                Some(at) => {
                    next = Some(next.map_or(at, |other| other.min(at)));
                    self.waiting.insert(uid, name);
                }
                None => {
                    if self.waiting.remove(&uid).is_some() {
                        let text = format!("Cancelling deletion of Pod {}/{}", name.0, name.1);
                        record(&self.evictions, pod_reference(&pod), "TaintManagerEviction", "Normal", text, now);
                    }
                }
            }
        }
        Ok(next)
    }

    async fn delete(&self, pod: &Pod, (namespace, name): &(String, String), now: Time) -> Result<(), kube::Error> {
        let text = format!("Marking for deletion Pod {namespace}/{name}");
        record(&self.evictions, pod_reference(pod), "TaintManagerEviction", "Normal", text, now);
        let target = json!([{
            "type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager",
            "message": "Taint manager: deleting due to NoExecute taint", "lastTransitionTime": now.wire(),
            "observedGeneration": pod.metadata.generation,
        }]);
        self.patch_status(pod, json!({ "status": { "conditions": target } })).await?;
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: pod.metadata.uid.clone(),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        let pods = Api::<Pod>::namespaced(self.client.clone(), namespace);
        gone_is_fine(pods.delete(name, &params).await.map(drop))
    }

    async fn patch_status(&self, pod: &Pod, mut patch: serde_json::Value) -> Result<(), kube::Error> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        patch["metadata"] = json!({ "uid": pod.metadata.uid });
        let pods = Api::<Pod>::namespaced(self.client.clone(), namespace);
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let (params, patch) = (PatchParams::default(), Patch::Strategic(patch));
        let patched = pods.patch_status(name, &params, &patch);
        match tokio::time::timeout(REQUEST_TIMEOUT, patched).await {
            Ok(result) => gone_is_fine(result.map(drop)),
            // The look that comes next tries again.
            Err(_) => Ok(()),
        }
    }

    async fn pods_on(&self, node: &str) -> Result<Vec<Pod>, kube::Error> {
        let params = ListParams::default().fields(&format!("spec.nodeName={node}"));
        Ok(Api::<Pod>::all(self.client.clone()).list(&params).await?.items)
    }
}

/// Who is gone, or is another one now, needs nothing any more.
fn gone_is_fine(result: Result<(), kube::Error>) -> Result<(), kube::Error> {
    match result {
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
        other => other,
    }
}

fn record(recorder: &Recorder, involved: ObjectReference, reason: &str, kind: &'static str, message: String, at: Time) {
    recorder.record(RecordedEvent {
        involved,
        kind,
        reason: reason.to_owned(),
        message,
        at,
    });
}

fn node_reference(name: &str, uid: Option<&String>) -> ObjectReference {
    ObjectReference {
        kind: Some("Node".to_owned()),
        api_version: Some("v1".to_owned()),
        name: Some(name.to_owned()),
        uid: uid.cloned(),
        ..ObjectReference::default()
    }
}

fn pod_reference(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".to_owned()),
        api_version: Some("v1".to_owned()),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}

#[cfg(test)]
mod tests;
