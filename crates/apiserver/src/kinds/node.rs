//! Node.
//!
//! Source: upstream `pkg/registry/core/node/strategy.go`,
//! `pkg/apis/core/validation/validation.go` `ValidateNode*`,
//! `pkg/printers/internalversion/printers.go` `printNode`.

use std::sync::Arc;

use api::status::Violation;
use api::typed::{Node as Typed, NodeStatus, Taint};
use api::{Object, Scope, Time};
use serde_json::Value;

use super::pod::{self, taint_effect};
use super::{flag_field, keep_status_apart, plain, short, view};
use crate::registry::{Cell, Change, Column, Resource, Rules, Strategy, Subresource};
use crate::table;
use crate::validate::{invalid_each, names};

/// Label prefix that names a role of a node.
const ROLE_PREFIX: &str = "node-role.kubernetes.io/";
/// Label whose value names a role of a node.
const ROLE_LABEL: &str = "kubernetes.io/role";

pub(super) fn row() -> Resource {
    Resource {
        short_names: short(&["no"]),
        scope: Scope::Cluster,
        strategy: Arc::new(Node),
        fields: vec![flag_field!("spec.unschedulable")],
        columns: columns(),
        subresources: vec![Subresource::Status, Subresource::Proxy],
        ..plain("", "Node", "nodes", "minions")
    }
}

fn columns() -> Vec<Column> {
    vec![
        table::name_column(),
        Column::computed("Status", Cell::Text, |node, _| Value::from(status(node))).described("The status of the node"),
        Column::computed("Roles", Cell::Text, |node, _| Value::from(roles(node))).described("The roles of the node"),
        table::age_column(),
        Column::computed("Version", Cell::Text, |node, _| {
            Value::from(node.str_at("status.nodeInfo.kubeletVersion"))
        }),
        Column::computed("Internal-IP", Cell::Text, |node, _| address(node, "InternalIP")).wide(),
        Column::computed("External-IP", Cell::Text, |node, _| address(node, "ExternalIP")).wide(),
        Column::computed("OS-Image", Cell::Text, |node, _| known(node, "status.nodeInfo.osImage")).wide(),
        Column::computed("Kernel-Version", Cell::Text, |node, _| known(node, "status.nodeInfo.kernelVersion")).wide(),
        Column::computed("Container-Runtime", Cell::Text, |node, _| {
            known(node, "status.nodeInfo.containerRuntimeVersion")
        })
        .wide(),
    ]
}

fn list<'a>(node: &'a Object, path: &str) -> &'a [Value] {
    node.at(path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn status(node: &Object) -> String {
    let ready = list(node, "status.conditions")
        .iter()
        .find(|condition| condition["type"] == "Ready");
    let mut text = match ready {
        None => "Unknown",
        Some(condition) if condition["status"] == "True" => "Ready",
        Some(_) => "NotReady",
    }
    .to_owned();
    if node.at("spec.unschedulable") == Some(&Value::Bool(true)) {
        text.push_str(",SchedulingDisabled");
    }
    text
}

fn roles(node: &Object) -> String {
    let mut roles: Vec<&str> = Vec::new();
    for (key, value) in node.meta.labels.iter().flatten() {
        match key.strip_prefix(ROLE_PREFIX) {
            Some(role) if !role.is_empty() => roles.push(role),
            _ if key == ROLE_LABEL && !value.is_empty() => roles.push(value),
            _ => {}
        }
    }
    roles.sort_unstable();
    roles.dedup();
    if roles.is_empty() { "<none>".to_owned() } else { roles.join(",") }
}

fn address(node: &Object, kind: &str) -> Value {
    let found = list(node, "status.addresses").iter().find(|address| address["type"] == kind);
    found.map_or_else(|| Value::from("<none>"), |address| address["address"].clone())
}

fn known(node: &Object, path: &str) -> Value {
    match node.str_at(path) {
        "" => Value::from("<unknown>"),
        text => Value::from(text),
    }
}

struct Node;

impl Strategy for Node {
    /// Source: upstream `registry/core/node/strategy.go`, `fieldIsDeprecatedWarnings`.
    fn warnings(&self, new: &Object, _old: Option<&Object>) -> Vec<String> {
        let mut told = Vec::new();
        if new.at("spec.configSource").is_some_and(|source| !source.is_null()) {
            told.push("spec.configSource: the feature is removed".to_owned());
        }
        if !new.str_at("spec.externalID").is_empty() {
            told.push("spec.externalID: this field is deprecated, and is unused by Kubernetes".to_owned());
        }
        told
    }

    /// A node registers itself together with its status, so a create keeps it.
    fn prepare(&self, change: Change<'_>, _now: Time) {
        match change {
            Change::Create { .. } => {}
            change @ (Change::Update { .. } | Change::UpdateStatus { .. }) => keep_status_apart(change),
        }
    }

    fn validate(&self, new: &Object, old: Option<&Object>, rules: Rules) -> Vec<Violation> {
        let node: Typed = match view(new) {
            Ok(node) => node,
            Err(broken) => return broken,
        };
        let of_status = status_rules(&node.status.unwrap_or_default());
        if rules == Rules::UpdateStatus {
            return of_status;
        }
        let spec = node.spec.unwrap_or_default();
        let mut broken = taints(spec.taints.as_deref().unwrap_or_default());
        let cidrs = spec.pod_cidrs.as_deref().unwrap_or_default();
        for (index, cidr) in cidrs.iter().enumerate() {
            broken.extend(range(&format!("spec.podCIDRs[{index}]"), cidr));
        }
        let of_v6 = |cidr: &String| cidr.contains(':');
        if cidrs.len() > 2 || matches!(cidrs, [one, other] if of_v6(one) == of_v6(other)) {
            let rule = "may specify no more than one CIDR for each IP family";
            broken.push(Violation::invalid("spec.podCIDRs", &Value::from(cidrs), rule));
        }
        broken.extend(of_status);
        if let Some(old) = old {
            broken.extend(fixed_once_set(new, old, "spec.podCIDR", "podCIDR"));
            broken.extend(fixed_once_set(new, old, "spec.providerID", "providerID"));
        }
        broken
    }
}

/// Source: upstream `ValidateNodeResources` and, of addresses, `ValidateNodeUpdate`.
fn status_rules(status: &NodeStatus) -> Vec<Violation> {
    let mut broken = Vec::new();
    for (list, amounts) in [("capacity", &status.capacity), ("allocatable", &status.allocatable)] {
        for (name, amount) in amounts.iter().flatten() {
            broken.extend(pod::amount_rules(&format!("status.{list}.{name}"), name, pod::parsed(amount)));
        }
    }
    let addresses = status.addresses.as_deref().unwrap_or_default();
    for (index, address) in addresses.iter().enumerate() {
        if addresses[..index].contains(address) {
            let shown = serde_json::to_value(address).unwrap_or_default();
            broken.push(Violation::duplicate_value(format!("status.addresses[{index}]"), &shown));
        }
    }
    broken
}

fn fixed_once_set(new: &Object, old: &Object, path: &str, name: &str) -> Option<Violation> {
    let (before, after) = (old.str_at(path), new.str_at(path));
    // Upstream names the list for the pod range.
    let field = if name == "podCIDR" { "spec.podCIDRs" } else { path };
    (!before.is_empty() && before != after)
        .then(|| Violation::forbidden(field, &format!("node updates may not change {name} except from \"\" to valid")))
}

fn range(field: &str, text: &str) -> Option<Violation> {
    let fits = text.split_once('/').is_some_and(|(ip, bits)| {
        let most = match ip.parse::<std::net::IpAddr>() {
            Ok(std::net::IpAddr::V4(_)) => 32,
            Ok(std::net::IpAddr::V6(_)) => 128,
            Err(_) => return false,
        };
        bits.parse::<u8>().is_ok_and(|bits| bits <= most)
    });
    (!fits).then(|| {
        Violation::invalid(
            field,
            &Value::from(text),
            "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
        )
    })
}

fn taints(taints: &[Taint]) -> Vec<Violation> {
    let mut broken = Vec::new();
    for (index, taint) in taints.iter().enumerate() {
        let field = format!("spec.taints[{index}]");
        broken.extend(invalid_each(&format!("{field}.key"), &taint.key, names::qualified_name(&taint.key)));
        let value = taint.value.as_deref().unwrap_or_default();
        if let Err(texts) = names::label_value(value) {
            broken.push(Violation::invalid(format!("{field}.value"), &Value::from(value), &texts.join(";")));
        }
        broken.extend(taint_effect(&format!("{field}.effect"), &taint.effect));
        if taints[..index]
            .iter()
            .any(|other| other.key == taint.key && other.effect == taint.effect)
        {
            let shown = format!("{}:{}", taint.key, taint.effect);
            let mut double = Violation::duplicate(field, &shown);
            double.message.push_str(": taints must be unique by key and effect pair");
            broken.push(double);
        }
    }
    broken
}
