//! What of a write by a kubelet only the object tells: that it is the node's
//! own, and that it does not draw work to the node.
//!
//! Source: upstream `plugin/pkg/admission/noderestriction/admission.go`,
//! `k8s.io/kubelet/pkg/apis/well_known_labels.go`.

use std::collections::{BTreeMap, BTreeSet};

use api::{Object, ResourceId, Status};
use serde_json::Value;

use super::{Attributes, attributes, refusal};
use crate::authn::Identity;
use crate::hub::Hub;
use crate::request::{ResourceRequest, Verb};

/// Labels of `kubernetes.io` and `k8s.io` that a kubelet may set.
const OWN_LABELS: &[&str] = &[
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "kubernetes.io/hostname",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.kubernetes.io/zone",
    "failure-domain.kubernetes.io/region",
];
const OWN_LABEL_DOMAINS: &[&str] = &["kubelet.kubernetes.io", "node.kubernetes.io"];
const RESTRICTED_DOMAIN: &str = "node-restriction.kubernetes.io";
const MIRROR: &str = "kubernetes.io/config.mirror";

fn forbid(asked: &ResourceRequest, name: &str, why: &str) -> Status {
    let id = ResourceId::new(&asked.group, &asked.version, "", &asked.resource);
    Status::forbidden(&id, name, why)
}

/// The node a change names, whether that is there or not.
pub(super) fn named(node: &str, asked: &ResourceRequest) -> Result<(), Status> {
    let writes = !asked.verb.reads() && !asked.name.is_empty();
    if asked.group.is_empty() && asked.resource == "nodes" && writes && asked.name != node {
        let why = format!("node {node:?} is not allowed to modify node {:?}", asked.name);
        return Err(forbid(asked, &asked.name, &why));
    }
    Ok(())
}

/// The stored object of a read, change or delete; the new one of a create.
pub(super) fn existing(node: &str, asked: &ResourceRequest, object: &Object) -> Result<(), Status> {
    let why = match (asked.resource.as_str(), asked.verb) {
        ("nodes", Verb::Create) if object.name() != node => {
            format!("node {node:?} is not allowed to modify node {:?}", object.name())
        }
        ("leases", Verb::Create) if object.name() != node => {
            "can only access node lease with the same name as the requesting node".to_owned()
        }
        ("csinodes", Verb::Create) if object.name() != node => {
            "can only access CSINode with the same name as the requesting node".to_owned()
        }
        ("pods", _) if object.str_at("spec.nodeName") == node => return Ok(()),
        ("pods", Verb::Get) => {
            // It was this node's when authorization looked.
            let identity = Identity::new(&format!("system:node:{node}"), &["system:nodes"]);
            let attributes: Attributes<'_> = attributes(asked);
            return Err(refusal(&identity, &attributes, &super::node::unrelated(node)));
        }
        ("pods", Verb::Delete) => format!("node {node:?} can only delete pods with spec.nodeName set to itself"),
        ("pods", Verb::Create) if asked.subresource == "eviction" => {
            format!("node {node} can only evict pods with spec.nodeName set to itself")
        }
        // A new pod is looked at in `change`.
        ("pods", Verb::Create) => return Ok(()),
        ("pods", _) => format!("node {node:?} can only update pod status for pods with spec.nodeName set to itself"),
        _ => return Ok(()),
    };
    Err(forbid(asked, object.name(), &why))
}

/// A new version, and the stored one it replaces.
pub(super) fn change(node: &str, asked: &ResourceRequest, new: &Object, old: Option<&Object>, nodes: Option<&Hub>) -> Result<(), Status> {
    let refuse = |why: String| Err(forbid(asked, new.name(), &why));
    match (asked.resource.as_str(), old) {
        ("nodes", None) => {
            let labels = forbidden(&changed(new, None));
            if !labels.is_empty() {
                return refuse(format!("node {node:?} is not allowed to set the following labels: {labels}"));
            }
        }
        ("nodes", Some(old)) => {
            let taints = |object: &Object| {
                object
                    .at("spec.taints")
                    .filter(|taints| **taints != Value::Array(Vec::new()))
                    .cloned()
            };
            if taints(new) != taints(old) {
                return refuse(format!("node {node:?} is not allowed to modify taints"));
            }
            let labels = forbidden(&changed(new, Some(old)));
            if !labels.is_empty() {
                return refuse(format!("is not allowed to modify labels: {labels}"));
            }
        }
        ("pods", Some(old)) if asked.subresource == "status" && !changed(new, Some(old)).is_empty() => {
            return refuse(format!("node {node:?} cannot update labels through pod status"));
        }
        ("pods", None) if asked.subresource.is_empty() => {
            if let Err(why) = mirror(node, new, nodes) {
                return refuse(why);
            }
        }
        _ => {}
    }
    Ok(())
}

/// Keys of labels that differ.
fn changed<'a>(new: &'a Object, old: Option<&'a Object>) -> BTreeSet<&'a str> {
    static NONE: BTreeMap<String, String> = BTreeMap::new();
    let labels = |object: Option<&'a Object>| object.and_then(|object| object.meta.labels.as_ref()).unwrap_or(&NONE);
    let (new, old) = (labels(Some(new)), labels(old));
    let differs = |key: &&String| new.get(*key) != old.get(*key);
    new.keys().chain(old.keys()).filter(differs).map(String::as_str).collect()
}

/// Those of some labels that a kubelet may not touch, as a list.
fn forbidden(keys: &BTreeSet<&str>) -> String {
    let within = |domain: &str, of: &str| domain == of || domain.strip_suffix(of).is_some_and(|rest| rest.ends_with('.'));
    let keys = keys.iter().copied().filter(|key| {
        let domain = key.split_once('/').map_or("", |(domain, _)| domain);
        let kubernetes = within(domain, "kubernetes.io") || within(domain, "k8s.io");
        let own = OWN_LABELS.contains(key) || OWN_LABEL_DOMAINS.iter().any(|of| within(domain, of));
        within(domain, RESTRICTED_DOMAIN) || kubernetes && !own
    });
    keys.collect::<Vec<_>>().join(", ")
}

/// A kubelet makes no pods but the mirrors of its static ones.
fn mirror(node: &str, pod: &Object, nodes: Option<&Hub>) -> Result<(), String> {
    let annotated = pod
        .meta
        .annotations
        .as_ref()
        .is_some_and(|annotations| annotations.contains_key(MIRROR));
    if !annotated {
        return Err(format!(
            "pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"
        ));
    }
    if pod.str_at("spec.nodeName") != node {
        return Err(format!("node {node:?} can only create pods with spec.nodeName set to itself"));
    }
    let owner = match pod.meta.owner_references.as_deref().unwrap_or_default() {
        [owner] if owner.api_version == "v1" && owner.kind == "Node" && owner.name == node => owner,
        [_, _, ..] => {
            return Err(format!(
                "node {node:?} can only create pods with a single owner reference set to itself"
            ));
        }
        _ => return Err(format!("node {node:?} can only create pods with an owner reference set to itself")),
    };
    if owner.controller != Some(true) {
        return Err(format!(
            "node {node:?} can only create pods with a controller owner reference set to itself"
        ));
    }
    if owner.block_owner_deletion == Some(true) {
        return Err(format!("node {node:?} must not set blockOwnerDeletion on an owner reference"));
    }
    let known = nodes.and_then(|nodes| nodes.page("", None, None, |entry| entry.object.name() == node).entries.pop());
    match known {
        None => return Err(format!("nodes {node:?} not found")),
        Some(known) if known.object.uid() != owner.uid => {
            return Err(format!(
                "node {node} UID mismatch: expected {} got {}",
                owner.uid,
                known.object.uid()
            ));
        }
        Some(_) => {}
    }
    if !pod.str_at("spec.serviceAccountName").is_empty() {
        return Err(format!("node {node:?} can not create pods that reference a service account"));
    }
    // Whatever in its spec names another object would let the node read that.
    let spec = pod.body.get("spec").map(Value::to_string).unwrap_or_default();
    let names = [
        (
            &["\"secret\":", "\"secretRef\":", "\"secretKeyRef\":", "\"imagePullSecrets\":"][..],
            "secrets",
        ),
        (&["\"configMap\":", "\"configMapRef\":", "\"configMapKeyRef\":"], "configmaps"),
        (&["\"clusterTrustBundle\":"], "clustertrustbundles"),
        (&["\"persistentVolumeClaim\":"], "persistentvolumeclaims"),
    ];
    for (fields, what) in names {
        if fields.iter().any(|field| spec.contains(field)) {
            return Err(format!("node {node:?} can not create pods that reference {what}"));
        }
    }
    Ok(())
}
