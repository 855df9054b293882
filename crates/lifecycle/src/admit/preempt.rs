//! Who must go so that a critical pod may run here.
//!
//! Source: upstream `pkg/kubelet/preemption/preemption.go`.

use std::collections::BTreeMap;

use api::pods;
use api::typed::Pod;

use crate::evict::is_critical;
use crate::input::Eviction;

/// `status.reason` of a pod that went, and the event's.
pub(crate) const PREEMPTING: &str = "Preempting";
/// What its condition `DisruptionTarget` says.
pub(crate) const PREEMPTED: &str = "Pod was preempted by Kubelet to accommodate a critical pod.";
const MESSAGE: &str = "Preempted in order to admit critical pod";

/// How much is missing of each resource; CPU in thousandths, as `admit` counts.
pub(super) type Missing = BTreeMap<String, i64>;

/// What becomes of a pod that goes for a critical one: it stops by its own
/// grace and is Failed.
#[must_use]
pub fn preemption() -> Eviction {
    Eviction {
        reason: PREEMPTING.to_owned(),
        message: MESSAGE.to_owned(),
        grace: None,
    }
}

/// The fewest pods, by their places among `others`, that free what is missing:
/// those that asked for nothing rather than burstable ones, and these rather
/// than guaranteed ones. `None` where all of them would not be enough.
pub(super) fn victims(pod: &Pod, others: &[&Pod], missing: &Missing) -> Option<Vec<usize>> {
    let mut classes: [Vec<usize>; 3] = Default::default();
    for (place, other) in others.iter().enumerate().filter(|(_, other)| yields(other, pod)) {
        let class = match pods::qos_class(other) {
            pods::QosClass::BestEffort => 0,
            pods::QosClass::Burstable => 1,
            pods::QosClass::Guaranteed => 2,
        };
        classes[class].push(place);
    }
    let [best_effort, burstable, guaranteed] = classes;
    let without = |places: &[&[usize]]| {
        let gone = places.iter().flat_map(|places| places.iter().copied());
        gone.fold(missing.clone(), |left, place| after(left, others[place]))
    };
    // First whom nothing spares, should all the cheaper ones go.
    let mut chosen_guaranteed = nearest(guaranteed, others, without(&[&best_effort, &burstable]))?;
    let mut chosen_burstable = nearest(burstable, others, without(&[&best_effort, &chosen_guaranteed]))?;
    let mut chosen = nearest(best_effort, others, without(&[&chosen_burstable, &chosen_guaranteed]))?;
    chosen.append(&mut chosen_burstable);
    chosen.append(&mut chosen_guaranteed);
    Some(chosen)
}

fn priority(pod: &Pod) -> i32 {
    pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0)
}

/// Whether a pod may be stopped for another.
fn yields(pod: &Pod, to: &Pod) -> bool {
    (is_critical(to) && !is_critical(pod)) || priority(to) > priority(pod)
}

fn asks(pod: &Pod, name: &str) -> i64 {
    if name == "pods" {
        return 1;
    }
    super::in_units(&pods::requests(pod), name)
}

/// What is still missing once a pod is gone.
fn after(missing: Missing, gone: &Pod) -> Missing {
    let left = missing.into_iter().map(|(name, amount)| {
        let amount = amount - asks(gone, &name);
        (name, amount)
    });
    left.filter(|(_, amount)| *amount > 0).collect()
}

/// Chooses, again and again, the pod that leaves least to be freed; of two
/// equals the one that asks for less.
fn nearest(mut places: Vec<usize>, others: &[&Pod], mut missing: Missing) -> Option<Vec<usize>> {
    let mut chosen = Vec::new();
    while !missing.is_empty() {
        let rank = |place: &usize| {
            let pod = others[*place];
            (distance(&missing, pod), asks(pod, "memory"), asks(pod, "cpu"))
        };
        let (index, _) = places.iter().enumerate().min_by(|(_, a), (_, b)| {
            let (a, b) = (rank(a), rank(b));
            a.0.total_cmp(&b.0).then((a.1, a.2).cmp(&(b.1, b.2)))
        })?;
        let place = places.remove(index);
        missing = after(missing, others[place]);
        chosen.push(place);
    }
    Some(chosen)
}

/// The part of each missing amount that would still be missing, squared and
/// summed: every resource weighs the same.
#[expect(clippy::cast_precision_loss, reason = "a weight, compared with other weights")]
fn distance(missing: &Missing, gone: &Pod) -> f64 {
    let parts = missing.iter().map(|(name, amount)| {
        let left = (amount - asks(gone, name)).max(0);
        (left as f64 / *amount as f64).powi(2)
    });
    parts.sum()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(priority: i32, requests: Value, limits: Value) -> Pod {
        let resources = json!({"requests": requests, "limits": limits});
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {
            "priority": priority, "containers": [{"name": "a", "resources": resources}]}}))
        .unwrap()
    }

    fn burstable(cpu: &str) -> Pod {
        pod(0, json!({"cpu": cpu}), json!({}))
    }

    fn chosen(others: &[Pod], missing: &[(&str, i64)]) -> Option<Vec<usize>> {
        let critical = pod(2_000_000_000, json!({}), json!({}));
        let missing = missing.iter().map(|(name, amount)| ((*name).to_owned(), *amount)).collect();
        victims(&critical, &others.iter().collect::<Vec<_>>(), &missing)
    }

    #[test]
    fn the_fewest_and_cheapest_go() {
        let all = json!({"cpu": "500m", "memory": "1Gi"});
        let others = [
            pod(0, all.clone(), all),
            burstable("100m"),
            burstable("300m"),
            burstable("200m"),
            pod(0, json!({}), json!({})),
        ];
        assert_eq!(chosen(&others, &[("cpu", 150)]), Some(vec![3]), "the smallest that is enough");
        assert_eq!(chosen(&others, &[("cpu", 250)]), Some(vec![2]));
        assert_eq!(chosen(&others, &[("cpu", 450)]), Some(vec![2, 3]));
        assert_eq!(
            chosen(&others, &[("cpu", 700)]),
            Some(vec![3, 0]),
            "no other class can spare the guaranteed one"
        );
        assert_eq!(chosen(&others, &[("pods", 1)]), Some(vec![4]), "who asked for nothing goes first");
        assert_eq!(chosen(&others, &[("cpu", 5_000)]), None, "nobody goes in vain");
    }

    #[test]
    fn nobody_of_the_same_rank_goes() {
        let critical = pod(2_000_000_000, json!({"cpu": "1"}), json!({}));
        assert_eq!(chosen(std::slice::from_ref(&critical), &[("cpu", 10)]), None);
        let lesser = pod(1_999_999_999, json!({"cpu": "1"}), json!({}));
        assert_eq!(chosen(&[critical, lesser], &[("cpu", 10)]), Some(vec![1]));
    }
}
