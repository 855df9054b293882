//! Which nodes a pod may run on, and why not the others.
//!
//! Every filter is a pure function of a pod and a node; the first that refuses
//! gives the node's reasons. Source: upstream scheduler plugins of the same
//! names.

use std::collections::{BTreeMap, BTreeSet};

use api::Quantity;
use api::pods::HostPort;
use api::typed::{Taint, Toleration};

use super::snapshot::{Cache, NodeView, PodFacts, Relief};
use super::{affinity, volumes};

/// A filter, by upstream's name for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Plugin {
    /// The node is cordoned.
    NodeUnschedulable,
    /// The pod names a node.
    NodeName,
    /// The node's taints and the pod's tolerations.
    TaintToleration,
    /// `nodeSelector` and required node affinity.
    NodeAffinity,
    /// Ports of the node.
    NodePorts,
    /// Room: CPU, memory, other resources, number of pods.
    NodeResourcesFit,
    /// The claims of the pod and where their volumes are.
    VolumeBinding,
}

type Check = fn(&PodFacts, NodeView<'_>) -> Vec<String>;

/// All filters, in the order they are asked. An empty answer lets a node pass.
const FILTERS: [(Plugin, Check); 6] = [
    (Plugin::NodeUnschedulable, node_unschedulable),
    (Plugin::NodeName, node_name),
    (Plugin::TaintToleration, taint_toleration),
    (Plugin::NodeAffinity, node_affinity),
    (Plugin::NodePorts, node_ports),
    (Plugin::NodeResourcesFit, node_resources_fit),
];

impl Plugin {
    /// Whether removing pods from a node could change this filter's mind.
    #[must_use]
    pub fn preemption_helps(self) -> bool {
        matches!(self, Self::NodePorts | Self::NodeResourcesFit)
    }

    /// Whether a change of the cluster could change this filter's mind.
    ///
    /// Source: upstream plugins' `EventsToRegister`.
    #[must_use]
    pub fn relieved_by(self, relief: Relief) -> bool {
        relief.node_added
            || match self {
                Self::NodeName => false,
                Self::NodeUnschedulable | Self::TaintToleration => relief.taints,
                Self::NodeAffinity => relief.labels,
                Self::NodePorts => relief.pod_left,
                Self::NodeResourcesFit => relief.pod_left || relief.allocatable,
                Self::VolumeBinding => relief.volumes || relief.labels,
            }
    }
}

/// Why no node takes a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refusal {
    /// The filters that refused, for deciding when to try again. Empty when
    /// there is no node at all.
    pub plugins: BTreeSet<Plugin>,
    /// The message of event and condition.
    pub message: String,
}

/// The nodes a pod may run on.
///
/// # Errors
/// When there is none.
pub fn feasible<'c>(pod: &PodFacts, cache: &'c Cache) -> Result<Vec<NodeView<'c>>, Refusal> {
    let total = cache.nodes().count();
    if total > 0
        && let Some(why) = volumes::unresolvable(pod, &cache.storage)
    {
        let nodes = format!("0/{total} nodes are available");
        return Err(Refusal {
            plugins: [Plugin::VolumeBinding].into(),
            message: format!("{nodes}: {why}. preemption: {nodes}: {total} Preemption is not helpful for scheduling."),
        });
    }
    let mut feasible = Vec::new();
    let mut refused = Vec::new();
    for node in cache.nodes() {
        let volumes = || (Plugin::VolumeBinding, volumes::node_volumes(pod, node.facts, &cache.storage));
        match FILTERS
            .iter()
            .map(|(plugin, check)| (*plugin, check(pod, node)))
            .chain(std::iter::once_with(volumes))
            .find(|(_, reasons)| !reasons.is_empty())
        {
            None => feasible.push(node),
            Some((plugin, reasons)) => refused.push((node, plugin, reasons)),
        }
    }
    if feasible.is_empty() {
        Err(refusal(pod, &refused))
    } else {
        Ok(feasible)
    }
}

/// Source: upstream scheduler `framework.FitError.Error`.
fn refusal(pod: &PodFacts, refused: &[(NodeView<'_>, Plugin, Vec<String>)]) -> Refusal {
    if refused.is_empty() {
        return Refusal {
            plugins: BTreeSet::new(),
            message: "no nodes available to schedule pods".to_owned(),
        };
    }
    let total = refused.len();
    let reasons = tally(refused.iter().flat_map(|(_, _, reasons)| reasons.iter().map(String::as_str)));
    let message = format!("0/{total} nodes are available: {reasons}. {}", preemption(pod, refused));
    Refusal {
        plugins: refused.iter().map(|(_, plugin, _)| *plugin).collect(),
        message,
    }
}

/// What removing other pods would do. Preemption itself is not done: where
/// it could help, the message says so rather than claim there is no victim.
///
/// Source: upstream scheduler `preemption.go`, `Evaluator.Preempt`.
fn preemption(pod: &PodFacts, refused: &[(NodeView<'_>, Plugin, Vec<String>)]) -> String {
    if pod.never_preempts {
        return "preemption: not eligible due to preemptionPolicy=Never.".to_owned();
    }
    let outlook = refused.iter().map(|(node, plugin, _)| {
        let victims = node.usage.pods.values().any(|other| other.priority < pod.priority);
        match (plugin.preemption_helps(), victims) {
            (false, _) => "Preemption is not helpful for scheduling",
            (true, false) => "No preemption victims found for incoming pod",
            (true, true) => "Preemption of lower-priority pods is not supported",
        }
    });
    format!("preemption: 0/{} nodes are available: {}.", refused.len(), tally(outlook))
}

/// `<count> <reason>, ...`, sorted as text.
fn tally<'r>(reasons: impl Iterator<Item = &'r str>) -> String {
    let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
    for reason in reasons {
        *counts.entry(reason).or_default() += 1;
    }
    let mut entries: Vec<String> = counts.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    entries.sort();
    entries.join(", ")
}

fn refuse_if(condition: bool, reason: &str) -> Vec<String> {
    if condition { vec![reason.to_owned()] } else { Vec::new() }
}

fn node_unschedulable(pod: &PodFacts, node: NodeView<'_>) -> Vec<String> {
    let cordon = Taint {
        key: "node.kubernetes.io/unschedulable".to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Taint::default()
    };
    refuse_if(
        node.facts.unschedulable && !tolerates(&pod.tolerations, &cordon),
        "node(s) were unschedulable",
    )
}

fn node_name(pod: &PodFacts, node: NodeView<'_>) -> Vec<String> {
    let other = pod.node_name.as_ref().is_some_and(|name| *name != node.facts.name);
    refuse_if(other, "node(s) didn't match the requested node name")
}

fn taint_toleration(pod: &PodFacts, node: NodeView<'_>) -> Vec<String> {
    let hard = node
        .facts
        .taints
        .iter()
        .filter(|taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute"));
    let untolerated = hard.into_iter().find(|taint| !tolerates(&pod.tolerations, taint));
    untolerated
        .map(|taint| {
            format!(
                "node(s) had untolerated taint {{{}: {}}}",
                taint.key,
                taint.value.as_deref().unwrap_or_default()
            )
        })
        .into_iter()
        .collect()
}

fn node_affinity(pod: &PodFacts, node: NodeView<'_>) -> Vec<String> {
    refuse_if(
        !affinity::required(pod, node.facts),
        "node(s) didn't match Pod's node affinity/selector",
    )
}

fn node_ports(pod: &PodFacts, node: NodeView<'_>) -> Vec<String> {
    let taken = |wanted: &HostPort| {
        node.usage
            .pods
            .values()
            .flat_map(|other| &other.host_ports)
            .any(|port| port.conflicts(wanted))
    };
    refuse_if(
        pod.host_ports.iter().any(taken),
        "node(s) didn't have free ports for the requested pod ports",
    )
}

/// Resources are told in upstream's order: pods, CPU, memory, ephemeral
/// storage, then others by name. The text sorts them again.
fn node_resources_fit(pod: &PodFacts, node: NodeView<'_>) -> Vec<String> {
    let amount = |of: &BTreeMap<String, Quantity>, name: &str| of.get(name).copied().unwrap_or_default();
    let allowed = amount(&node.facts.allocatable, "pods").units();
    let count = i64::try_from(node.usage.pods.len()).unwrap_or(i64::MAX);
    let mut reasons = refuse_if(count.saturating_add(1) > allowed, "Too many pods");
    for (name, wanted) in &pod.requests {
        let free = amount(&node.facts.allocatable, name) - amount(&node.usage.requested, name);
        if *wanted > Quantity::ZERO && *wanted > free {
            reasons.push(format!("Insufficient {name}"));
        }
    }
    reasons
}

/// Whether any of the tolerations covers a taint.
///
/// Source: taints and tolerations page; upstream `Toleration.ToleratesTaint`.
#[must_use]
pub fn tolerates(tolerations: &[Toleration], taint: &Taint) -> bool {
    let given = |text: &Option<String>| text.clone().filter(|t| !t.is_empty());
    tolerations.iter().any(|toleration| {
        let effect = given(&toleration.effect).is_none_or(|effect| effect == taint.effect);
        let key = given(&toleration.key).is_none_or(|key| key == taint.key);
        let value = match given(&toleration.operator).as_deref() {
            None | Some("Equal") => {
                toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default()
                    && given(&toleration.key).is_some()
            }
            Some("Exists") => true,
            Some(_) => false, // the API server admits no others
        };
        effect && key && value
    })
}

#[cfg(test)]
mod tests;
