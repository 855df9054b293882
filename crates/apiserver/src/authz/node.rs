//! What a kubelet may reach: its own node, its own lease, its own pods, and
//! what these refer to.
//!
//! The graph of references is not kept: the pods of a node are at hand (the
//! hub indexes them by node), and what they refer to is in their spec.
//!
//! Source: upstream `plugin/pkg/auth/authorizer/node/{node_authorizer,
//! graph_populator}.go` with the feature `AuthorizeNodeWithSelectors`, and
//! `NodeRules` of `bootstrappolicy/policy.go`.

use api::Object;
use serde_json::Value;

use super::{Attributes, Decision};
use crate::hub::Hub;
use crate::request::ResourceRequest;

/// Where the leases of nodes are.
const NODE_LEASES: &str = "kube-node-lease";

/// Groups, resources and verbs that every node may use alike.
const UNIFORM: &[(&str, &[&str], &[&str])] = &[
    ("authentication.k8s.io", &["tokenreviews"], &["create"]),
    (
        "authorization.k8s.io",
        &["subjectaccessreviews", "localsubjectaccessreviews"],
        &["create"],
    ),
    ("", &["services"], &["get", "list", "watch"]),
    ("", &["events"], &["create", "update", "patch"]),
    ("events.k8s.io", &["events"], &["create", "update", "patch"]),
    ("", &["endpoints"], &["get"]),
    (
        "certificates.k8s.io",
        &["certificatesigningrequests"],
        &["create", "get", "list", "watch"],
    ),
    ("storage.k8s.io", &["csidrivers"], &["get", "list", "watch"]),
    ("node.k8s.io", &["runtimeclasses"], &["get", "list", "watch"]),
];

/// Decides for the kubelet of `node`.
pub(super) fn decide(
    node: &str,
    asked: &Attributes<'_>,
    request: Option<&ResourceRequest>,
    (pods, volumes): (Option<&Hub>, Option<&Hub>),
) -> Decision {
    let Attributes::Resource {
        verb,
        group,
        resource,
        subresource,
        namespace,
        name,
    } = *asked
    else {
        return Decision::NoOpinion(String::new());
    };
    let related = |refers: fn(&Object, &str) -> bool| {
        let pods = pods.map(|pods| pods.indexed(node)).unwrap_or_default();
        let found = pods
            .iter()
            .any(|pod| pod.object.namespace() == namespace && refers(&pod.object, name));
        if found { Ok(()) } else { Err(unrelated(node)) }
    };
    let selects = |field: &str| request.is_some_and(|request| request.fields.exact(field) == Some(node));
    let decided = match (group, resource) {
        ("", "secrets") => single(verb, subresource, namespace, name).and_then(|()| related(refers_to_secret)),
        ("", "configmaps") => single(verb, subresource, namespace, name).and_then(|()| related(refers_to_config_map)),
        ("", "persistentvolumeclaims") => match (verb, subresource) {
            ("get", "") | ("get" | "update" | "patch", "status") => related(refers_to_claim),
            (_, "status") => Err("can only get/update/patch this type".to_owned()),
            _ => Err("can only get individual resources of this type".to_owned()),
        },
        ("", "persistentvolumes") => match (verb, subresource) {
            ("get", "") => {
                // The volumes of claims that its pods refer to.
                let found = volumes
                    .and_then(|volumes| volumes.get(&format!("/registry/persistentvolumes/{name}"), 0)?.ok())
                    .flatten();
                let claim = found.map(|volume| {
                    let text = |path: &str| volume.object.str_at(path).to_owned();
                    (text("spec.claimRef.namespace"), text("spec.claimRef.name"))
                });
                let of_pod =
                    |pod: &Object, (namespace, name): &(String, String)| pod.namespace() == namespace && refers_to_claim(pod, name);
                let pods = pods.map(|pods| pods.indexed(node)).unwrap_or_default();
                let used = claim.is_some_and(|claim| pods.iter().any(|pod| of_pod(&pod.object, &claim)));
                if used { Ok(()) } else { Err(unrelated(node)) }
            }
            _ => Err("can only get individual resources of this type".to_owned()),
        },
        ("", "serviceaccounts") => match (verb, subresource) {
            ("create", "token") if !name.is_empty() => related(|pod, name| pod.str_at("spec.serviceAccountName") == name),
            ("create", "token") => Err("can only create tokens for individual service accounts".to_owned()),
            ("create", _) => Err("can only create token subresource of serviceaccount".to_owned()),
            _ => Err("can only create tokens for individual service accounts".to_owned()),
        },
        ("coordination.k8s.io", "leases") => lease(node, verb, namespace, name),
        ("storage.k8s.io", "csinodes") => named_after(node, verb, subresource, name),
        ("", "nodes") => node_object(node, verb, subresource, name),
        ("", "pods") => match (subresource, verb) {
            ("", "get") => related(|pod, name| pod.name() == name),
            ("", "list" | "watch") if selects("spec.nodeName") => Ok(()),
            ("", "list" | "watch") if !name.is_empty() => related(|pod, name| pod.name() == name),
            ("", "list" | "watch") => Err("can only list/watch pods with spec.nodeName field selector".to_owned()),
            // Which ones is known once the object is: see `node_restriction.rs`.
            ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => Ok(()),
            _ => Err(String::new()),
        },
        _ => {
            let uniform = |(own, resources, verbs): &(&str, &[&str], &[&str])| {
                *own == group && subresource.is_empty() && resources.contains(&resource) && verbs.contains(&verb)
            };
            if UNIFORM.iter().any(uniform) { Ok(()) } else { Err(String::new()) }
        }
    };
    match decided {
        Ok(()) => Decision::Allow(String::new()),
        Err(why) => Decision::NoOpinion(why),
    }
}

pub(super) fn unrelated(node: &str) -> String {
    format!("no relationship found between node '{node}' and this object")
}

/// A read of one namespaced object.
fn single(verb: &str, subresource: &str, namespace: &str, name: &str) -> Result<(), String> {
    let why = match verb {
        "get" | "list" | "watch" if !subresource.is_empty() => "cannot read subresource",
        "get" | "list" | "watch" if namespace.is_empty() => "can only read namespaced object of this type",
        "get" | "list" | "watch" if name.is_empty() => "No Object name found",
        "get" | "list" | "watch" => return Ok(()),
        _ => "can only read resources of this type",
    };
    Err(why.to_owned())
}

fn lease(node: &str, verb: &str, namespace: &str, name: &str) -> Result<(), String> {
    if !matches!(verb, "get" | "create" | "update" | "patch" | "delete") {
        return Err("can only get, create, update, patch, or delete a node lease".to_owned());
    }
    if namespace != NODE_LEASES {
        return Err(format!("can only access leases in the {NODE_LEASES:?} system namespace"));
    }
    if verb != "create" && name != node {
        return Err("can only access node lease with the same name as the requesting node".to_owned());
    }
    Ok(())
}

fn named_after(node: &str, verb: &str, subresource: &str, name: &str) -> Result<(), String> {
    if !matches!(verb, "get" | "create" | "update" | "patch" | "delete") {
        return Err("can only get, create, update, patch, or delete a CSINode".to_owned());
    }
    if !subresource.is_empty() {
        return Err("cannot authorize CSINode subresources".to_owned());
    }
    if verb != "create" && name != node {
        return Err("can only access CSINode with the same name as the requesting node".to_owned());
    }
    Ok(())
}

fn node_object(node: &str, verb: &str, subresource: &str, name: &str) -> Result<(), String> {
    match (subresource, verb) {
        // Which one is for `node_restriction.rs`.
        ("", "create" | "update" | "patch") | ("status", "update" | "patch") => Ok(()),
        ("", "get" | "list" | "watch") if name == node => Ok(()),
        ("", "get" | "list" | "watch") if name.is_empty() => Err(format!("node '{node}' cannot read all nodes, only its own Node object")),
        ("", "get" | "list" | "watch") => Err(format!("node '{node}' cannot read '{name}', only its own Node object")),
        _ => Err(String::new()),
    }
}

fn list<'a>(value: Option<&'a Value>) -> impl Iterator<Item = &'a Value> + use<'a> {
    value.and_then(Value::as_array).into_iter().flatten()
}

fn is(value: &Value, pointer: &str, name: &str) -> bool {
    value.pointer(pointer).and_then(Value::as_str) == Some(name)
}

fn containers(pod: &Object) -> impl Iterator<Item = &Value> {
    let lists = ["spec.initContainers", "spec.containers", "spec.ephemeralContainers"];
    lists.into_iter().flat_map(|path| list(pod.at(path)))
}

/// Whether a container of the pod takes its environment from an object.
fn environment(pod: &Object, of_one: &str, of_all: &str, name: &str) -> bool {
    containers(pod).any(|container| {
        list(container.get("env")).any(|variable| is(variable, of_one, name))
            || list(container.get("envFrom")).any(|source| is(source, of_all, name))
    })
}

/// Source: upstream `pkg/api/v1/pod/util.go`, `VisitPodSecretNames`.
fn refers_to_secret(pod: &Object, name: &str) -> bool {
    list(pod.at("spec.imagePullSecrets")).any(|reference| is(reference, "/name", name))
        || environment(pod, "/valueFrom/secretKeyRef/name", "/secretRef/name", name)
        || list(pod.at("spec.volumes")).any(|volume| {
            ["/secret/secretName", "/csi/nodePublishSecretRef/name", "/iscsi/secretRef/name"]
                .iter()
                .any(|pointer| is(volume, pointer, name))
                || list(volume.pointer("/projected/sources")).any(|source| is(source, "/secret/name", name))
        })
}

/// Source: upstream `pkg/api/v1/pod/util.go`, `VisitPodConfigmapNames`.
fn refers_to_config_map(pod: &Object, name: &str) -> bool {
    environment(pod, "/valueFrom/configMapKeyRef/name", "/configMapRef/name", name)
        || list(pod.at("spec.volumes")).any(|volume| {
            is(volume, "/configMap/name", name)
                || list(volume.pointer("/projected/sources")).any(|source| is(source, "/configMap/name", name))
        })
}

fn refers_to_claim(pod: &Object, name: &str) -> bool {
    list(pod.at("spec.volumes")).any(|volume| {
        let ephemeral = volume.get("ephemeral").is_some_and(|source| !source.is_null());
        let own = volume.get("name").and_then(Value::as_str).unwrap_or_default();
        is(volume, "/persistentVolumeClaim/claimName", name) || ephemeral && name == format!("{}-{own}", pod.name())
    })
}
