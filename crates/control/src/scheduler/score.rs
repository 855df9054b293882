//! Which of the nodes that would do is best.
//!
//! Every score is 0 to 100, times a weight. Source: upstream scheduler plugins
//! of the same names and their default weights.

use std::collections::BTreeMap;

use api::Quantity;
use api::typed::Taint;

use super::affinity;
use super::filter::tolerates;
use super::snapshot::{NodeView, PodFacts};

/// Best score of one plugin.
const MAX: i64 = 100;

const TAINT_TOLERATION_WEIGHT: i64 = 3;
const NODE_AFFINITY_WEIGHT: i64 = 2;
const SPREAD_WEIGHT: i64 = 2;
const LEAST_ALLOCATED_WEIGHT: i64 = 1;
const BALANCED_ALLOCATION_WEIGHT: i64 = 1;

/// A seeded source of choices between equals: the same seed and the same
/// questions give the same answers.
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    /// Every seed will do.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `bound`, which must not be 0. SplitMix64.
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        let bound = bound as u64;
        usize::try_from(z % bound).unwrap_or(0)
    }
}

/// The best node, one of the best by chance. `None` without nodes.
#[must_use]
pub fn best<'c>(pod: &PodFacts, nodes: &[NodeView<'c>], chance: &mut Chance) -> Option<NodeView<'c>> {
    let totals = totals(pod, nodes);
    let top = totals.iter().max()?;
    let equals: Vec<NodeView<'c>> = nodes
        .iter()
        .zip(&totals)
        .filter(|(_, total)| *total == top)
        .map(|(node, _)| *node)
        .collect();
    if equals.len() == 1 {
        equals.first().copied()
    } else {
        equals.get(chance.below(equals.len())).copied()
    }
}

/// The weighted sum per node, in the order of `nodes`.
#[must_use]
pub fn totals(pod: &PodFacts, nodes: &[NodeView<'_>]) -> Vec<i64> {
    let per_node = |score: fn(&PodFacts, NodeView<'_>) -> i64| -> Vec<i64> { nodes.iter().map(|node| score(pod, *node)).collect() };
    let parts = [
        (TAINT_TOLERATION_WEIGHT, fewer_is_better(&per_node(avoided_taints))),
        (
            NODE_AFFINITY_WEIGHT,
            more_is_better(&per_node(|pod, node| affinity::preferred(pod, node.facts))),
        ),
        (SPREAD_WEIGHT, fewer_is_better(&per_node(alike))),
        (LEAST_ALLOCATED_WEIGHT, per_node(least_allocated)),
        (BALANCED_ALLOCATION_WEIGHT, per_node(balanced_allocation)),
    ];
    let mut totals = vec![0; nodes.len()];
    for (weight, scores) in parts {
        for (total, score) in totals.iter_mut().zip(scores) {
            *total += weight * score;
        }
    }
    totals
}

/// Scales counts to 0..100, 100 for the largest.
fn more_is_better(counts: &[i64]) -> Vec<i64> {
    let max = counts.iter().copied().max().unwrap_or(0);
    counts.iter().map(|count| if max == 0 { 0 } else { count * MAX / max }).collect()
}

/// Scales counts to 0..100, 100 for none.
fn fewer_is_better(counts: &[i64]) -> Vec<i64> {
    more_is_better(counts).into_iter().map(|score| MAX - score).collect()
}

/// `PreferNoSchedule` taints the pod does not tolerate.
fn avoided_taints(pod: &PodFacts, node: NodeView<'_>) -> i64 {
    let soft = |taint: &&Taint| taint.effect == "PreferNoSchedule" && !tolerates(&pod.tolerations, taint);
    count(node.facts.taints.iter().filter(soft).count())
}

/// Pods of the same kind that are there already: same namespace and labels,
/// as the pods of one workload have. They are spread over nodes.
fn alike(pod: &PodFacts, node: NodeView<'_>) -> i64 {
    if pod.labels.is_empty() {
        return 0;
    }
    count(
        node.usage
            .pods
            .values()
            .filter(|other| other.namespace == pod.namespace && other.labels == pod.labels)
            .count(),
    )
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX / MAX)
}

/// The share of CPU and memory that stays free, in percent, on average.
fn least_allocated(pod: &PodFacts, node: NodeView<'_>) -> i64 {
    let free = shares(pod, node).map(|share| (MAX as f64 * (1.0 - share)) as i64);
    (free[0] + free[1]) / 2
}

/// 100 when CPU and memory are used to the same share, 50 when one is full
/// and the other empty: the standard deviation of the two shares.
fn balanced_allocation(pod: &PodFacts, node: NodeView<'_>) -> i64 {
    let [cpu, memory] = shares(pod, node);
    ((1.0 - (cpu - memory).abs() / 2.0) * MAX as f64) as i64
}

/// Shares of CPU and memory in use once the pod is there, 0 to 1.
fn shares(pod: &PodFacts, node: NodeView<'_>) -> [f64; 2] {
    ["cpu", "memory"].map(|name| {
        let amount = |of: &BTreeMap<String, Quantity>| of.get(name).map_or(0, |quantity| quantity.milli()) as f64;
        let capacity = amount(&node.facts.allocatable);
        let used = amount(&node.usage.scored) + amount(&pod.scored);
        if capacity <= 0.0 { 1.0 } else { (used / capacity).clamp(0.0, 1.0) }
    })
}

#[cfg(test)]
mod tests;
