//! Keeps the cgroups of the qualities of service at the share of the CPU that
//! their pods ask for together.

use std::time::Duration;

use api::pods::{self, QosClass};
use api::typed::Pod;
use runtime::CgroupParent;
use tokio_util::sync::CancellationToken;

use crate::execute::Ports;
use crate::resources;

/// Several pods that come or go together are counted once.
const SETTLE: Duration = Duration::from_millis(200);

/// The group a pod's own belongs in.
#[must_use]
pub fn parent(pod: &Pod) -> CgroupParent {
    match pods::qos_class(pod) {
        QosClass::Guaranteed => CgroupParent::Root,
        QosClass::Burstable => CgroupParent::Burstable,
        QosClass::BestEffort => CgroupParent::BestEffort,
    }
}

/// CPU shares of the group of burstable pods: what they request together.
///
/// Source: upstream `cm/qos_container_manager_linux.go`, `setCPUCgroupConfig`.
fn burstable_shares<'p>(all: impl Iterator<Item = &'p Pod>) -> u64 {
    let burstable = all.filter(|pod| !pods::is_terminal(pod) && pods::qos_class(pod) == QosClass::Burstable);
    let requested = burstable.map(|pod| resources::cpu_milli(&pods::requests(pod)));
    resources::shares(requested.fold(0, u64::saturating_add))
}

/// Sets the shares now, and whenever pods come, change or go, until `shutdown`.
pub(crate) async fn follow(ports: Ports, shutdown: CancellationToken) {
    let mut changes = ports.pods.wanted_changes();
    let mut last = None;
    loop {
        changes.borrow_and_update();
        let known = ports.pods.all();
        let shares = burstable_shares(known.iter().map(|(_, known)| known.pod.as_ref()));
        if last != Some(shares) {
            last = set(&ports, shares, last.is_none()).await.then_some(shares);
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = shutdown.cancelled() => return,
        }
        tokio::time::sleep(SETTLE).await;
    }
}

async fn set(ports: &Ports, burstable: u64, first: bool) -> bool {
    let mut weights = vec![(CgroupParent::Burstable, burstable)];
    if first {
        weights.push((CgroupParent::BestEffort, resources::CPU_SHARES_MIN));
    }
    for (parent, shares) in weights {
        if let Err(error) = ports.runtime.weigh(parent, shares).await {
            tracing::warn!(?parent, shares, error = %error, "a cgroup of pods was not weighed; it is tried again when a pod changes");
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn burstable_pods_get_what_they_request_together() {
        let pod = |requests: serde_json::Value, limits: serde_json::Value, phase: &str| -> Pod {
            serde_json::from_value(json!({
                "metadata": {},
                "spec": { "containers": [{ "name": "c", "resources": { "requests": requests, "limits": limits } }] },
                "status": { "phase": phase }
            }))
            .unwrap()
        };
        let full = json!({ "cpu": "2", "memory": "1Gi" });
        let all = [
            pod(json!({ "cpu": "500m" }), json!({}), "Running"),
            pod(json!({ "cpu": "1" }), json!({}), "Pending"),
            pod(json!({ "cpu": "4" }), json!({}), "Succeeded"),
            pod(full.clone(), full, "Running"),
            pod(json!({}), json!({}), "Running"),
        ];
        assert_eq!(burstable_shares(all.iter()), 1536);
        assert_eq!(burstable_shares(all[3..].iter()), 2);
        let parents: Vec<_> = [0, 3, 4].map(|n: usize| parent(&all[n])).to_vec();
        assert_eq!(parents, [CgroupParent::Burstable, CgroupParent::Root, CgroupParent::BestEffort]);
    }
}
