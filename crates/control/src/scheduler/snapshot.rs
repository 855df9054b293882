//! The cluster as the scheduler sees it: nodes, and the pods that occupy them.
//!
//! A pod counts from the moment it is assumed, before its binding is written,
//! so that two pods are never given the same room.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::pods::{self, HostPort, Resources};
use api::typed::{Node, NodeAffinity, Pod, PodCondition, Taint, Toleration};
use api::{Quantity, Uid};

use crate::storage::Storage;

/// CPU a container without a request is taken to use, for scoring only.
/// Source: upstream scheduler `util.DefaultMilliCPURequest`.
const UNASKED_CPU: Quantity = Quantity::from_milli(100);
/// Memory a container without a request is taken to use, for scoring only.
/// Source: upstream scheduler `util.DefaultMemoryRequest`, 200 MiB.
const UNASKED_MEMORY: Quantity = Quantity::from_bytes(200 * 1024 * 1024);

/// What scheduling needs to know of a pod.
#[derive(Clone, Debug, PartialEq)]
pub struct PodFacts {
    /// Identity.
    pub uid: Uid,
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.resourceVersion` as last seen, for events.
    pub resource_version: String,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// `spec.priority`; 0 when absent.
    pub priority: i32,
    /// `spec.preemptionPolicy` is `Never`.
    pub never_preempts: bool,
    /// `spec.nodeName`, unless empty.
    pub node_name: Option<String>,
    /// `spec.nodeSelector`.
    pub node_selector: BTreeMap<String, String>,
    /// `spec.affinity.nodeAffinity`.
    pub node_affinity: Option<NodeAffinity>,
    /// `spec.tolerations`.
    pub tolerations: Vec<Toleration>,
    /// Ports of the node its containers ask for.
    pub host_ports: Vec<HostPort>,
    /// What it requests of a node.
    pub requests: Resources,
    /// CPU and memory it is scored with: requests, or a guess where there are none.
    pub scored: Resources,
    /// Names of the claims its volumes are.
    pub claims: Vec<String>,
    /// `metadata.generation`.
    pub generation: Option<i64>,
    /// The condition `PodScheduled` as last seen.
    pub pod_scheduled: Option<PodCondition>,
}

impl PodFacts {
    /// `namespace/name`, as messages and logs name it.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// Whether both want the same of the scheduler; status does not count.
    #[must_use]
    pub fn same_wishes(&self, other: &Self) -> bool {
        let Self {
            resource_version,
            pod_scheduled,
            ..
        } = other;
        *other
            == Self {
                resource_version: resource_version.clone(),
                pod_scheduled: pod_scheduled.clone(),
                ..self.clone()
            }
    }
}

/// What a pod is to the scheduler.
#[derive(Clone, Debug, PartialEq)]
pub enum Standing {
    /// Waits for a node, and for this scheduler.
    Pending(PodFacts),
    /// Occupies a node; may be terminating.
    Placed(String, PodFacts),
    /// Occupies nothing and wants nothing of us: ended, gated, being deleted
    /// before it was placed, another scheduler's, or without an identity.
    Neither,
}

/// Sorts a pod.
///
/// Source: upstream scheduler `eventhandlers.go` (`assignedPod`,
/// `responsibleForPod`) and plugin `SchedulingGates`.
#[must_use]
pub fn standing(pod: &Pod, scheduler_name: &str) -> Standing {
    let Some(facts) = facts(pod) else { return Standing::Neither };
    let spec = pod.spec.as_ref();
    let gated = spec
        .and_then(|s| s.scheduling_gates.as_ref())
        .is_some_and(|gates| !gates.is_empty());
    let scheduler = spec.and_then(|s| s.scheduler_name.as_deref()).unwrap_or("default-scheduler");
    match facts.node_name.clone() {
        _ if pods::is_terminal(pod) => Standing::Neither,
        Some(node) => Standing::Placed(node, facts),
        None if pods::is_terminating(pod) || gated || scheduler != scheduler_name => Standing::Neither,
        None => Standing::Pending(facts),
    }
}

/// The identity of a pod, if it has a sound one.
#[must_use]
pub fn uid(pod: &Pod) -> Option<Uid> {
    pod.metadata.uid.as_deref()?.parse().ok()
}

fn facts(pod: &Pod) -> Option<PodFacts> {
    let spec = pod.spec.as_ref()?;
    let meta = &pod.metadata;
    Some(PodFacts {
        uid: uid(pod)?,
        namespace: meta.namespace.clone()?,
        name: meta.name.clone()?,
        resource_version: meta.resource_version.clone().unwrap_or_default(),
        labels: meta.labels.clone().unwrap_or_default(),
        priority: spec.priority.unwrap_or(0),
        never_preempts: spec.preemption_policy.as_deref() == Some("Never"),
        node_name: spec.node_name.clone().filter(|name| !name.is_empty()),
        node_selector: spec.node_selector.clone().unwrap_or_default(),
        node_affinity: spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.clone()),
        tolerations: spec.tolerations.clone().unwrap_or_default(),
        host_ports: pods::host_ports(pod),
        requests: pods::requests_in_force(pod),
        scored: scored(pod),
        claims: pods::claims(pod).map(str::to_owned).collect(),
        generation: meta.generation,
        pod_scheduled: pods::condition(pod, "PodScheduled").cloned(),
    })
}

/// Requests for scoring: each container without one counts as a small one, or
/// a node full of such pods would look empty.
///
/// Source: upstream scheduler `calculatePodResourceRequest` with
/// `useRequested` off.
fn scored(pod: &Pod) -> Resources {
    let mut guessed = pod.clone();
    let spec = guessed.spec.iter_mut();
    for container in spec.flat_map(|spec| spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten())) {
        let requests = container.resources.get_or_insert_default().requests.get_or_insert_default();
        requests.entry("cpu".to_owned()).or_insert_with(|| UNASKED_CPU.into());
        requests.entry("memory".to_owned()).or_insert_with(|| UNASKED_MEMORY.into());
    }
    let mut requests = pods::requests(&guessed);
    requests.retain(|name, _| name == "cpu" || name == "memory");
    requests
}

/// What scheduling needs to know of a node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeFacts {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// `spec.unschedulable`.
    pub unschedulable: bool,
    /// `spec.taints`.
    pub taints: Vec<Taint>,
    /// `status.allocatable`.
    pub allocatable: Resources,
}

impl From<&Node> for NodeFacts {
    fn from(node: &Node) -> Self {
        let spec = node.spec.as_ref();
        Self {
            name: node.metadata.name.clone().unwrap_or_default(),
            labels: node.metadata.labels.clone().unwrap_or_default(),
            unschedulable: spec.and_then(|s| s.unschedulable).unwrap_or(false),
            taints: spec.and_then(|s| s.taints.clone()).unwrap_or_default(),
            allocatable: pods::amounts(node.status.as_ref().and_then(|s| s.allocatable.as_ref())),
        }
    }
}

/// What the pods of a node take of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Usage {
    /// Sum of their requests.
    pub requested: Resources,
    /// Sum of what they are scored with.
    pub scored: Resources,
    /// The pods.
    pub pods: BTreeMap<Uid, Arc<PodFacts>>,
}

impl Usage {
    fn add(&mut self, pod: Arc<PodFacts>) {
        pods::add(&mut self.requested, pod.requests.clone());
        pods::add(&mut self.scored, pod.scored.clone());
        self.pods.insert(pod.uid.clone(), pod);
    }

    fn remove(&mut self, uid: &Uid) {
        let Some(pod) = self.pods.remove(uid) else { return };
        subtract(&mut self.requested, &pod.requests);
        subtract(&mut self.scored, &pod.scored);
    }
}

fn subtract(total: &mut Resources, less: &Resources) {
    for (name, quantity) in less {
        if let Some(sum) = total.get_mut(name) {
            *sum -= *quantity;
        }
    }
    total.retain(|_, sum| !sum.is_zero());
}

/// One node with its pods.
#[derive(Clone, Copy, Debug)]
pub struct NodeView<'c> {
    /// The node.
    pub facts: &'c NodeFacts,
    /// What is taken of it.
    pub usage: &'c Usage,
}

/// What a change of the cluster may make possible for a waiting pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Relief {
    /// A node appeared.
    pub node_added: bool,
    /// Labels of a node changed.
    pub labels: bool,
    /// Taints, or whether a node takes pods at all, changed.
    pub taints: bool,
    /// A node has more, or other, resources.
    pub allocatable: bool,
    /// A pod left a node.
    pub pod_left: bool,
    /// A claim, a volume or a class changed.
    pub volumes: bool,
}

impl Relief {
    /// Nothing that would help anybody, such as a heartbeat.
    #[must_use]
    pub fn is_none(self) -> bool {
        self == Self::default()
    }
}

#[derive(Debug, Default)]
struct Slot {
    facts: Option<NodeFacts>,
    usage: Usage,
}

/// Nodes and the pods that occupy them.
#[derive(Debug, Default)]
pub struct Cache {
    slots: BTreeMap<String, Slot>,
    placed: BTreeMap<Uid, String>,
    /// Claims, volumes and classes.
    pub storage: Storage,
}

impl Cache {
    /// Every node that exists, by name.
    pub fn nodes(&self) -> impl Iterator<Item = NodeView<'_>> {
        self.slots.values().filter_map(|slot| {
            Some(NodeView {
                facts: slot.facts.as_ref()?,
                usage: &slot.usage,
            })
        })
    }

    /// Names of all nodes.
    pub fn node_names(&self) -> impl Iterator<Item = &str> {
        self.nodes().map(|node| node.facts.name.as_str())
    }

    /// Every pod that occupies a node.
    pub fn pods(&self) -> impl Iterator<Item = &Uid> {
        self.placed.keys()
    }

    /// Where a pod is, or is assumed to be.
    #[must_use]
    pub fn place(&self, pod: &Uid) -> Option<&str> {
        self.placed.get(pod).map(String::as_str)
    }

    /// A node appeared or changed.
    pub fn set_node(&mut self, node: NodeFacts) -> Relief {
        let slot = self.slots.entry(node.name.clone()).or_default();
        let relief = match &slot.facts {
            None => Relief {
                node_added: true,
                ..Relief::default()
            },
            Some(old) => Relief {
                labels: old.labels != node.labels,
                taints: old.taints != node.taints || old.unschedulable != node.unschedulable,
                allocatable: old.allocatable != node.allocatable,
                ..Relief::default()
            },
        };
        slot.facts = Some(node);
        relief
    }

    /// A node is gone. Its pods still count, should it come back.
    pub fn remove_node(&mut self, name: &str) {
        if let Some(slot) = self.slots.get_mut(name) {
            slot.facts = None;
            self.drop_empty(name);
        }
    }

    /// A pod occupies a node: seen there, or about to be bound to it.
    pub fn place_pod(&mut self, node: &str, pod: Arc<PodFacts>) -> Relief {
        let uid = pod.uid.clone();
        let shrunk = self.placed.get(&uid).is_some_and(|old| {
            let before = self.slots.get(old).and_then(|slot| slot.usage.pods.get(&uid));
            old != node || before.is_some_and(|before| before.requests != pod.requests)
        });
        self.take_out(&uid);
        self.slots.entry(node.to_owned()).or_default().usage.add(pod);
        self.placed.insert(uid, node.to_owned());
        Relief {
            pod_left: shrunk,
            ..Relief::default()
        }
    }

    /// A pod occupies nothing any more.
    pub fn remove_pod(&mut self, uid: &Uid) -> Relief {
        Relief {
            pod_left: self.take_out(uid),
            ..Relief::default()
        }
    }

    fn take_out(&mut self, uid: &Uid) -> bool {
        let Some(node) = self.placed.remove(uid) else { return false };
        if let Some(slot) = self.slots.get_mut(&node) {
            slot.usage.remove(uid);
        }
        self.drop_empty(&node);
        true
    }

    fn drop_empty(&mut self, name: &str) {
        if self
            .slots
            .get(name)
            .is_some_and(|slot| slot.facts.is_none() && slot.usage.pods.is_empty())
        {
            self.slots.remove(name);
        }
    }
}
