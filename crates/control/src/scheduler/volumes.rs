//! The claims of a pod: whether they can have volumes where its node is, and
//! what is to be done for that. Pure.
//!
//! Source: upstream scheduler plugin `VolumeBinding` (`volume_binding.go`,
//! `binder.go`).

use api::typed::PersistentVolumeClaim;

use super::affinity;
use super::snapshot::{Cache, NodeFacts, PodFacts};
use crate::storage::{Storage, is_bound, is_for, volume_name};

/// A claim whose volume is chosen with the node of its first pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Name of the claim.
    pub claim: String,
    /// How it gets its volume.
    pub how: How,
}

/// How a claim gets a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum How {
    /// A free one is set aside for it.
    SetAside {
        /// Name of the volume.
        volume: String,
        /// Its version, so that nobody else is given it meanwhile.
        revision: String,
        /// UID of the claim.
        uid: String,
    },
    /// Its provisioner makes one.
    Made {
        /// Name of the node.
        node: String,
    },
    /// One is set aside already.
    Awaited,
}

fn claim_of<'s>(pod: &PodFacts, name: &str, storage: &'s Storage) -> Option<&'s PersistentVolumeClaim> {
    storage.claims.get(&(pod.namespace.clone(), name.to_owned()))
}

/// Why no node at all would do; `None` when it depends on the node.
#[must_use]
pub fn unresolvable(pod: &PodFacts, storage: &Storage) -> Option<String> {
    let mut unbound = false;
    for name in &pod.claims {
        let Some(claim) = claim_of(pod, name, storage) else {
            return Some(format!("persistentvolumeclaim {name:?} not found"));
        };
        if claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Lost") {
            let volume = volume_name(claim);
            return Some(format!(
                "persistentvolumeclaim {name:?} bound to non-existent persistentvolume {volume:?}"
            ));
        }
        if claim.metadata.deletion_timestamp.is_some() {
            return Some(format!("persistentvolumeclaim {name:?} is being deleted"));
        }
        unbound |= !is_bound(claim) && !storage.waits_for_consumer(claim);
    }
    unbound.then(|| "pod has unbound immediate PersistentVolumeClaims".to_owned())
}

/// Why one node would not do.
#[must_use]
pub fn node_volumes(pod: &PodFacts, node: &NodeFacts, storage: &Storage) -> Vec<String> {
    let mut reasons = Vec::new();
    for claim in pod.claims.iter().filter_map(|name| claim_of(pod, name, storage)) {
        let reason = if is_bound(claim) {
            match storage.volumes.get(volume_name(claim)) {
                None => Some("node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)"),
                Some(volume) => {
                    let affinity = volume.spec.as_ref().and_then(|spec| spec.node_affinity.as_ref());
                    let required = affinity.and_then(|affinity| affinity.required.as_ref());
                    let reached = required.is_none_or(|selector| affinity::selects(selector, node));
                    (!reached).then_some("node(s) had volume node affinity conflict")
                }
            }
        } else {
            choice(claim, node, storage)
                .is_none()
                .then_some("node(s) didn't find available persistent volumes to bind")
        };
        reasons.extend(reason.map(str::to_owned).filter(|reason| !reasons.contains(reason)));
    }
    reasons
}

fn choice(claim: &PersistentVolumeClaim, node: &NodeFacts, storage: &Storage) -> Option<How> {
    if storage.volumes.values().any(|volume| is_for(volume, claim)) {
        return Some(How::Awaited);
    }
    let best = storage.best(claim, |selector| selector.is_none_or(|selector| affinity::selects(selector, node)));
    if let Some(volume) = best {
        return Some(How::SetAside {
            volume: volume.metadata.name.clone()?,
            revision: volume.metadata.resource_version.clone()?,
            uid: claim.metadata.uid.clone()?,
        });
    }
    let made = !storage.provisioner(claim).is_empty();
    made.then(|| How::Made { node: node.name.clone() })
}

/// What is to be done before a pod is bound to a node.
#[must_use]
pub fn wanted(pod: &PodFacts, node: &str, cache: &Cache) -> Vec<Wanted> {
    let Some(node) = cache.nodes().find(|view| view.facts.name == node) else {
        return Vec::new();
    };
    let unbound = pod
        .claims
        .iter()
        .filter_map(|name| claim_of(pod, name, &cache.storage).map(|claim| (name, claim)));
    let wanted = unbound.filter(|(_, claim)| !is_bound(claim)).filter_map(|(name, claim)| {
        let how = choice(claim, node.facts, &cache.storage)?;
        Some(Wanted { claim: name.clone(), how })
    });
    wanted.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::scheduler::filter::feasible;
    use crate::scheduler::snapshot::{Standing, standing};

    fn object<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    fn cache(claim: Value, volume: Option<Value>, mode: &str) -> Cache {
        let mut cache = Cache::default();
        let _ = cache.set_node(NodeFacts {
            name: "n1".to_owned(),
            labels: [("host".to_owned(), "n1".to_owned())].into(),
            allocatable: [("pods".to_owned(), "10".parse().unwrap())].into(),
            ..NodeFacts::default()
        });
        if !claim.is_null() {
            let mut claim = claim;
            claim["metadata"]["name"] = json!("c");
            claim["metadata"]["uid"] = json!("u");
            claim["metadata"]["namespace"] = json!("default");
            claim["spec"]["storageClassName"] = json!("s");
            claim["spec"]["resources"] = json!({ "requests": { "storage": "1Gi" } });
            cache.storage.claims.insert(("default".to_owned(), "c".to_owned()), object(claim));
        }
        if let Some(volume) = volume {
            cache.storage.volumes.insert("v".to_owned(), object(volume));
        }
        let class = json!({ "metadata": { "name": "s" }, "provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": mode });
        cache.storage.classes.insert("s".to_owned(), object(class));
        cache
    }

    fn pod() -> PodFacts {
        let pod = json!({
            "metadata": { "name": "p", "namespace": "default", "uid": "11111111-1111-1111-1111-111111111111" },
            "spec": { "containers": [], "volumes": [{ "name": "v", "persistentVolumeClaim": { "claimName": "c" } }] },
        });
        match standing(&object(pod), "default-scheduler") {
            Standing::Pending(facts) => facts,
            other => panic!("{other:?}"),
        }
    }

    fn volume(host: &str) -> Value {
        let term = json!({ "matchExpressions": [{ "key": "host", "operator": "In", "values": [host] }] });
        json!({
            "metadata": { "name": "v", "resourceVersion": "7" },
            "spec": { "storageClassName": "s", "capacity": { "storage": "2Gi" }, "nodeAffinity": { "required": { "nodeSelectorTerms": [term] } } },
        })
    }

    fn bound() -> Value {
        json!({ "metadata": { "annotations": { "pv.kubernetes.io/bind-completed": "yes" } }, "spec": { "volumeName": "v" } })
    }

    #[test]
    fn what_keeps_a_pod_from_every_node_is_said_in_upstreams_words() {
        let end = "preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.";
        let late = "WaitForFirstConsumer";
        let deleted = json!({ "metadata": { "deletionTimestamp": "2026-01-01T00:00:00Z" } });
        let lost = json!({ "spec": { "volumeName": "v" }, "status": { "phase": "Lost" } });
        for (claim, volume, mode, why) in [
            (Value::Null, None, late, "persistentvolumeclaim \"c\" not found"),
            (deleted, None, late, "persistentvolumeclaim \"c\" is being deleted"),
            (
                lost,
                None,
                late,
                "persistentvolumeclaim \"c\" bound to non-existent persistentvolume \"v\"",
            ),
            (json!({}), None, "Immediate", "pod has unbound immediate PersistentVolumeClaims"),
            (json!({}), None, late, "1 node(s) didn't find available persistent volumes to bind"),
            (
                json!({}),
                Some(volume("n2")),
                late,
                "1 node(s) didn't find available persistent volumes to bind",
            ),
            (bound(), Some(volume("n2")), late, "1 node(s) had volume node affinity conflict"),
            (
                bound(),
                None,
                late,
                "1 node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)",
            ),
        ] {
            let refusal = feasible(&pod(), &cache(claim, volume, mode)).unwrap_err();
            assert_eq!(refusal.message, format!("0/1 nodes are available: {why}. {end}"));
        }
    }

    #[test]
    fn a_claim_gets_a_volume_where_its_pod_will_be() {
        let late = "WaitForFirstConsumer";
        let free = cache(json!({}), Some(volume("n1")), late);
        assert!(feasible(&pod(), &free).is_ok());
        let how = |cache: &Cache| wanted(&pod(), "n1", cache).into_iter().map(|wanted| wanted.how).collect::<Vec<_>>();
        let set_aside = How::SetAside {
            volume: "v".to_owned(),
            revision: "7".to_owned(),
            uid: "u".to_owned(),
        };
        assert_eq!(how(&free), [set_aside]);
        let mut dynamic = cache(json!({}), None, late);
        dynamic.storage.classes.get_mut("s").unwrap().provisioner = "a/b".to_owned();
        assert_eq!(how(&dynamic), [How::Made { node: "n1".to_owned() }]);
        let mut taken = volume("n1");
        taken["spec"]["claimRef"] = json!({ "namespace": "default", "name": "c", "uid": "u" });
        assert_eq!(how(&cache(json!({}), Some(taken), late)), [How::Awaited]);
        assert_eq!(how(&cache(bound(), Some(volume("n1")), late)), []);
    }
}
