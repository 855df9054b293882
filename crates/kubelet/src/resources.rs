//! What a pod's resources mean in cgroup settings and OOM scores. Pure.

use std::collections::BTreeMap;

use api::pods::{self, QosClass};
use api::typed::{Container, Pod, ResourceRequirements, WireQuantity};
use runtime::Resources;

use crate::config::ConfigError;
use crate::hugepages::HugePages;

/// Fewest and most CPU shares the kernel takes. Source: upstream
/// `cm/helpers_linux.go`, `MinShares`, `MaxShares`.
pub(crate) const CPU_SHARES_MIN: u64 = 2;
const CPU_SHARES_MAX: u64 = 262_144;

/// OOM scores. Source: upstream `qos/policy.go`.
const OOM_SCORE_GUARANTEED: i64 = -997;
const OOM_SCORE_BEST_EFFORT: i64 = 1000;
/// Pods of this priority and above are the node's own. Source: upstream
/// `scheduling.SystemCriticalPriority` and `IsNodeCriticalPod`.
const NODE_CRITICAL: &str = "system-node-critical";

/// What the node sets on every pod's cgroup.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeLimits {
    /// Most processes of a pod; `None` for as many as the node has. Source:
    /// kubelet configuration, `podPidsLimit`.
    pub pod_processes_max: Option<u64>,
    /// Huge pages it has; what a pod does not ask for it may not use.
    pub huge_pages: Vec<HugePages>,
}

impl NodeLimits {
    /// Of each size what was asked for, else nothing.
    ///
    /// Source: upstream `kuberuntime_container_linux.go`,
    /// `GetHugepageLimitsFromResources`.
    fn huge_pages(&self, limits: &pods::Resources) -> Vec<(String, u64)> {
        let of = |pages: &HugePages| limits.get(&pages.resource()).map_or(0, |q| amount(q.bytes().into()));
        self.huge_pages.iter().map(|pages| (pages.kernel_name(), of(pages))).collect()
    }
}

/// The amount of `cpu` in thousandths; none is 0.
pub(crate) fn cpu_milli(of: &pods::Resources) -> u64 {
    of.get("cpu").map_or(0, |q| amount(q.milli().into()))
}

fn amount(value: i128) -> u64 {
    u64::try_from(value.max(0)).unwrap_or(u64::MAX)
}

/// Source: upstream `cm/helpers_linux.go`, `MilliCPUToShares`.
pub(crate) fn shares(milli: u64) -> u64 {
    (milli.saturating_mul(1024) / 1000).clamp(CPU_SHARES_MIN, CPU_SHARES_MAX)
}

/// Cgroup settings of a container. Source: upstream
/// `kuberuntime_container_linux.go`, `calculateLinuxResources`.
///
/// # Errors
/// A quantity that is none.
pub fn of_container(wire: Option<&ResourceRequirements>, node: &NodeLimits) -> Result<Resources, ConfigError> {
    let empty = ResourceRequirements::default();
    let wire = wire.unwrap_or(&empty);
    let quantity = |list: &Option<BTreeMap<String, WireQuantity>>, name: &str| {
        let Some(WireQuantity(text)) = list.as_ref().and_then(|list| list.get(name)) else {
            return Ok(None);
        };
        let parsed: Result<api::quantity::Quantity, _> = text.parse();
        parsed.map(Some).map_err(|_| ConfigError::Invalid {
            field: format!("resources.{name}"),
            value: text.clone(),
        })
    };
    let cpu_limit = quantity(&wire.limits, "cpu")?;
    let cpu_request = quantity(&wire.requests, "cpu")?.or(cpu_limit);
    let memory_limit = quantity(&wire.limits, "memory")?;
    Ok(Resources {
        cpu_shares: Some(cpu_request.map_or(CPU_SHARES_MIN, |q| shares(amount(q.milli().into())))),
        cpu_limit_milli: cpu_limit.map(|q| amount(q.milli().into())).filter(|milli| *milli > 0),
        memory_limit_bytes: memory_limit.map(|q| amount(q.bytes().into())).filter(|bytes| *bytes > 0),
        processes_limit: None, // the pod has one, its containers share it
        hugepage_limits: node.huge_pages(&pods::amounts(wire.limits.as_ref())),
    })
}

/// Cgroup settings of a whole pod: a resource is bounded where every container
/// bounds it. Source: upstream `cm/helpers_linux.go`, `ResourceConfigForPod`.
#[must_use]
pub fn of_pod(pod: &Pod, node: &NodeLimits) -> Resources {
    let class = pods::qos_class(pod);
    let (requests, limits) = (pods::requests(pod), pods::limits(pod));
    let bytes = |of: &pods::Resources| of.get("memory").map_or(0, |q| amount(q.bytes().into()));
    let bounded = |name: &str| {
        let Some(spec) = &pod.spec else { return false };
        let mut all = spec.init_containers.iter().flatten().chain(&spec.containers);
        all.all(|container| pods::container_limits(container).get(name).is_some_and(|q| q.milli() > 0))
    };
    let is_bounded = |name: &str| class != QosClass::BestEffort && bounded(name);
    Resources {
        cpu_shares: Some(if class == QosClass::BestEffort {
            CPU_SHARES_MIN
        } else {
            shares(cpu_milli(&requests))
        }),
        cpu_limit_milli: Some(cpu_milli(&limits)).filter(|milli| *milli > 0 && is_bounded("cpu")),
        memory_limit_bytes: Some(bytes(&limits)).filter(|bytes| *bytes > 0 && is_bounded("memory")),
        processes_limit: node.pod_processes_max,
        hugepage_limits: node.huge_pages(&limits),
    }
}

/// How soon the kernel kills a container when the node runs out of memory:
/// those that take more than they asked for first.
///
/// Source: upstream `qos/policy.go`, `GetContainerOOMScoreAdjust`.
#[must_use]
pub fn oom_score(pod: &Pod, container: &Container, capacity_bytes: u64) -> i32 {
    let spec = pod.spec.as_ref();
    let is_node_critical = spec.and_then(|spec| spec.priority_class_name.as_deref()) == Some(NODE_CRITICAL);
    let score = match pods::qos_class(pod) {
        _ if is_node_critical => OOM_SCORE_GUARANTEED,
        QosClass::Guaranteed => OOM_SCORE_GUARANTEED,
        QosClass::BestEffort => OOM_SCORE_BEST_EFFORT,
        QosClass::Burstable => {
            let asked = |container: &Container| {
                let requests = pods::container_requests(container);
                requests.get("memory").map_or(0, |q| q.bytes().max(0))
            };
            let capacity = i64::try_from(capacity_bytes).unwrap_or(i64::MAX).max(1);
            let of = |container: &Container| {
                let share = i128::from(asked(container)) * 1000 / i128::from(capacity);
                let score = 1000 - i64::try_from(share).unwrap_or(1000);
                // Above every guaranteed container, below every best-effort one.
                score.clamp(1000 + OOM_SCORE_GUARANTEED, OOM_SCORE_BEST_EFFORT - 1)
            };
            // A sidecar dies no sooner than what it serves.
            let served = spec.filter(|spec| {
                spec.init_containers
                    .iter()
                    .flatten()
                    .any(|c| c.name == container.name && pods::is_sidecar(c))
            });
            let least = served.and_then(|spec| spec.containers.iter().map(of).min()).unwrap_or(i64::MAX);
            of(container).min(least)
        }
    };
    i32::try_from(score).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(spec: Value) -> Pod {
        serde_json::from_value(json!({ "metadata": {}, "spec": spec })).unwrap()
    }

    fn asking(requests: Value, limits: Value) -> Value {
        json!({ "name": "c", "resources": { "requests": requests, "limits": limits } })
    }

    fn bare(pod: &Pod) -> Resources {
        of_pod(pod, &NodeLimits::default())
    }

    #[test]
    fn the_node_bounds_processes_and_huge_pages_nobody_asked_for() {
        let node = NodeLimits {
            pod_processes_max: Some(99),
            huge_pages: [2048, 1 << 20].map(|size_kib| HugePages { size_kib, count: 8 }).to_vec(),
        };
        let asked = asking(json!({}), json!({ "cpu": "1", "hugepages-2Mi": "4Mi" }));
        let (pod, sizes) = (pod(json!({ "containers": [asked, { "name": "d" }] })), |small| {
            vec![("2MB".to_owned(), small), ("1GB".to_owned(), 0)]
        });
        let whole = of_pod(&pod, &node);
        assert_eq!((whole.processes_limit, whole.hugepage_limits), (Some(99), sizes(4 << 20)));
        let containers = &pod.spec.as_ref().unwrap().containers;
        let of = |at: usize| of_container(containers[at].resources.as_ref(), &node).unwrap();
        assert_eq!((of(0).processes_limit, of(0).hugepage_limits), (None, sizes(4 << 20)));
        assert_eq!(of(1).hugepage_limits, sizes(0));
    }

    #[test]
    fn a_pod_is_bounded_where_all_of_it_is() {
        let full = || asking(json!({}), json!({ "cpu": "500m", "memory": "64Mi" }));
        let resources = bare(&pod(json!({ "containers": [full(), full()] })));
        assert_eq!(
            resources,
            Resources {
                cpu_shares: Some(2), // defaulting has not put the limits in as requests
                cpu_limit_milli: Some(1000),
                memory_limit_bytes: Some(128 << 20),
                ..Resources::default()
            }
        );
        let half = asking(json!({ "cpu": "250m" }), json!({ "memory": "64Mi" }));
        let resources = bare(&pod(json!({ "containers": [full(), half] })));
        assert_eq!(
            (resources.cpu_shares, resources.cpu_limit_milli, resources.memory_limit_bytes),
            (Some(256), None, Some(128 << 20))
        );
        let none = json!({ "name": "d" });
        assert_eq!(bare(&pod(json!({ "containers": [full(), none] }))).memory_limit_bytes, None);
        assert_eq!(
            bare(&pod(json!({ "containers": [none] }))),
            Resources {
                cpu_shares: Some(2),
                ..Resources::default()
            }
        );
    }

    #[test]
    fn those_that_asked_for_less_die_first() {
        const GIB: u64 = 1 << 30;
        let score = |spec: Value, at: usize| {
            let pod = pod(spec);
            let container = pod.spec.as_ref().unwrap().containers[at].clone();
            oom_score(&pod, &container, GIB)
        };
        let same = json!({ "cpu": "1", "memory": "512Mi" });
        let guaranteed = json!({ "containers": [asking(same.clone(), same)] });
        assert_eq!(score(guaranteed, 0), -997);
        assert_eq!(score(json!({ "containers": [{ "name": "c" }] }), 0), 1000);
        let critical = json!({ "priorityClassName": "system-node-critical", "containers": [{ "name": "c" }] });
        assert_eq!(score(critical, 0), -997);
        for (memory, expected) in [("512Mi", 500), ("1Ki", 999), ("1Gi", 3), ("9Gi", 3)] {
            let burstable = json!({ "containers": [asking(json!({ "memory": memory }), json!({}))] });
            assert_eq!(score(burstable, 0), expected, "{memory}");
        }
    }

    #[test]
    fn a_sidecar_outlives_what_it_serves() {
        let pod = pod(json!({
            "initContainers": [{ "name": "proxy", "restartPolicy": "Always", "resources": { "requests": { "memory": "1Mi" } } }],
            "containers": [asking(json!({ "memory": "512Mi" }), json!({}))]
        }));
        let sidecar = pod.spec.as_ref().unwrap().init_containers.as_ref().unwrap()[0].clone();
        assert_eq!(oom_score(&pod, &sidecar, 1 << 30), 500);
    }
}
