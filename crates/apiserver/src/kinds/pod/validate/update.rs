//! What may change of a Pod that exists, and of its status.
//!
//! Source: upstream `pkg/apis/core/validation/validation.go`,
//! `ValidatePodUpdate`, `ValidatePodStatusUpdate`.

use api::Object;
use api::pods;
use api::status::Violation;
use api::typed::{Container, ContainerStatus, Pod, PodSpec, PodStatus, Toleration};
use serde_json::Value;

use super::super::app_armor;
use super::super::prepare::comparable;
use super::{any, each, placement, text};
use crate::kinds::values::differ;
use crate::validate::{immutable, invalid_each, names, values};

const FIELDS: &str = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// Every broken rule of a changed Pod: the rules of any Pod, and of changes.
pub(in crate::kinds::pod) fn update(pod: &Pod, before: &Pod, new: &Object, old: &Object) -> Vec<Violation> {
    let none = PodSpec::default();
    let (spec, old_spec) = (pod.spec.as_ref().unwrap_or(&none), before.spec.as_ref().unwrap_or(&none));
    let annotations = pod.metadata.annotations.as_ref();
    let mut broken = app_armor::changed(annotations, before.metadata.annotations.as_ref());
    broken.extend(app_armor::annotations("metadata.annotations", annotations, spec));
    broken.extend(any(spec));
    let lists = [
        ("containers", spec.containers.as_slice(), old_spec.containers.as_slice()),
        ("initContainers", each(&spec.init_containers), each(&old_spec.init_containers)),
    ];
    for (name, containers, old_containers) in lists {
        if containers.len() != old_containers.len() {
            broken.push(Violation::forbidden(
                format!("spec.{name}"),
                "pod updates may not add or remove containers",
            ));
            return broken;
        }
        broken.extend(images(name, containers));
    }
    let (deadline, stop) = deadline(spec.active_deadline_seconds, old_spec.active_deadline_seconds);
    broken.extend(deadline);
    if stop {
        return broken;
    }
    broken.extend(only_added(each(&spec.tolerations), each(&old_spec.tolerations)));
    for (index, gate) in each(&spec.scheduling_gates).iter().enumerate() {
        if !each(&old_spec.scheduling_gates).iter().any(|old| old.name == gate.name) {
            let rule = format!("only deletion is allowed, but found new scheduling gate '{}'", gate.name);
            broken.push(Violation::forbidden(format!("spec.schedulingGates[{index}].name"), &rule));
        }
    }
    broken.extend(rest(new, old, spec, old_spec));
    let (class, old_class) = (pods::qos_class(pod).as_str(), pods::qos_class(before).as_str());
    if class != old_class {
        broken.push(Violation::invalid("metadata", &Value::from(class), "Pod QoS is immutable"));
    }
    broken
}

/// Every broken rule of a Pod whose ephemeral containers are changed: those
/// there are stay as they are.
///
/// Source: upstream `ValidatePodEphemeralContainersUpdate`.
pub(in crate::kinds::pod) fn ephemeral(pod: &Pod, before: &Pod) -> Vec<Violation> {
    const FIELD: &str = "spec.ephemeralContainers";
    let none = PodSpec::default();
    let (spec, old_spec) = (pod.spec.as_ref().unwrap_or(&none), before.spec.as_ref().unwrap_or(&none));
    let mut broken = any(spec);
    for old in each(&old_spec.ephemeral_containers) {
        match each(&spec.ephemeral_containers).iter().find(|new| new.name == old.name) {
            None => {
                let rule = format!("existing ephemeral containers {:?} may not be removed\n", old.name);
                broken.push(Violation::forbidden(FIELD, &rule));
            }
            Some(new) if new != old => {
                let value = |container| serde_json::to_value(container).unwrap_or_default();
                let mut difference = String::new();
                differ(FIELD, &value(old), &value(new), &mut difference);
                let rule = format!("existing ephemeral containers {:?} may not be changed\n{difference}", old.name);
                broken.push(Violation::forbidden(FIELD, &rule));
            }
            Some(_) => {}
        }
    }
    broken
}

fn images(list: &str, containers: &[Container]) -> Vec<Violation> {
    let mut broken = Vec::new();
    for (index, container) in containers.iter().enumerate() {
        let (field, image) = (format!("spec.{list}[{index}].image"), text(&container.image));
        if image.is_empty() {
            broken.push(Violation::required(field.as_str(), ""));
        }
        if image.trim() != image {
            broken.push(Violation::invalid(
                field,
                &Value::from(image),
                "must not have leading or trailing whitespace",
            ));
        }
    }
    broken
}

/// A deadline may be set, and brought forward. The flag says to stop looking,
/// as upstream does.
fn deadline(new_s: Option<i64>, old_s: Option<i64>) -> (Option<Violation>, bool) {
    const FIELD: &str = "spec.activeDeadlineSeconds";
    const MAX: i64 = i32::MAX as i64;
    match (new_s, old_s) {
        (Some(new_s), _) if !(0..=MAX).contains(&new_s) => {
            (Some(Violation::invalid(FIELD, &new_s.into(), &values::inclusive(0, MAX))), true)
        }
        (Some(new_s), Some(old_s)) if new_s > old_s => (
            Some(Violation::invalid(
                FIELD,
                &new_s.into(),
                "must be less than or equal to previous value",
            )),
            true,
        ),
        (None, Some(_)) => (
            Some(Violation::invalid(
                FIELD,
                &Value::Null,
                "must not update from a positive integer to nil value",
            )),
            false,
        ),
        _ => (None, false),
    }
}

fn only_added(new: &[Toleration], old: &[Toleration]) -> Vec<Violation> {
    let same_but_seconds = |one: &Toleration, other: &Toleration| {
        text(&one.key) == text(&other.key)
            && text(&one.operator) == text(&other.operator)
            && text(&one.value) == text(&other.value)
            && text(&one.effect) == text(&other.effect)
    };
    if old.iter().all(|old| new.iter().any(|new| same_but_seconds(new, old))) {
        // The same rules have been looked at for the spec as a whole.
        return Vec::new();
    }
    vec![Violation::forbidden(
        "spec.tolerations",
        "existing toleration can not be modified except its tolerationSeconds",
    )]
}

/// Everything that has no rule of its own must stay.
fn rest(new: &Object, old: &Object, spec: &PodSpec, old_spec: &PodSpec) -> Vec<Violation> {
    let mut munged = new.body.get("spec").cloned().unwrap_or_default();
    let stored = old.body.get("spec").cloned().unwrap_or_default();
    for list in ["containers", "initContainers"] {
        let before = stored[list].as_array().map_or(&[][..], Vec::as_slice);
        for (index, container) in munged.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten().enumerate() {
            if let Some(before) = before.get(index) {
                container["image"] = before["image"].clone();
            }
        }
    }
    for field in ["activeDeadlineSeconds", "schedulingGates", "tolerations"] {
        munged[field] = stored[field].clone();
    }
    if old_spec.termination_grace_period_seconds.is_some_and(|grace_s| grace_s < 0) && spec.termination_grace_period_seconds == Some(1) {
        munged["terminationGracePeriodSeconds"] = stored["terminationGracePeriodSeconds"].clone();
    }
    let mut broken = Vec::new();
    if !each(&old_spec.scheduling_gates).is_empty() {
        broken.extend(narrowed(spec, old_spec));
        munged["nodeSelector"] = stored["nodeSelector"].clone();
        if munged["affinity"].is_object() || stored["affinity"].is_object() {
            munged["affinity"]["nodeAffinity"] = stored["affinity"]["nodeAffinity"].clone();
        }
    }
    let mut difference = String::new();
    differ("spec", &comparable(Some(&stored)), &comparable(Some(&munged)), &mut difference);
    if !difference.is_empty() {
        broken.push(Violation::forbidden(
            "spec",
            &format!("pod updates may not change fields other than {FIELDS}\n{difference}"),
        ));
    }
    broken
}

/// While a Pod is gated, its choice of nodes may become narrower.
/// Source: KEP-3838; upstream `validateNodeSelectorMutation`.
fn narrowed(spec: &PodSpec, old_spec: &PodSpec) -> Vec<Violation> {
    let mut broken = Vec::new();
    for (key, value) in old_spec.node_selector.iter().flatten() {
        if spec.node_selector.as_ref().and_then(|selector| selector.get(key)) != Some(value) {
            let rule = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
            broken.push(Violation::invalid(
                "spec.nodeSelector",
                &serde_json::to_value(&spec.node_selector).unwrap_or_default(),
                rule,
            ));
            break;
        }
    }
    broken.extend(placement::narrowed_affinity(spec.affinity.as_ref(), old_spec.affinity.as_ref()));
    broken
}

/// Every broken rule of a changed status.
pub(in crate::kinds::pod) fn status(pod: &Pod, before: &Pod) -> Vec<Violation> {
    let (no_spec, no_status) = (PodSpec::default(), PodStatus::default());
    let (spec, old_spec) = (pod.spec.as_ref().unwrap_or(&no_spec), before.spec.as_ref().unwrap_or(&no_spec));
    let (status, old_status) = (
        pod.status.as_ref().unwrap_or(&no_status),
        before.status.as_ref().unwrap_or(&no_status),
    );
    let mut broken = Vec::new();
    for (index, condition) in each(&status.conditions).iter().enumerate() {
        // Upstream puts these below metadata.
        broken.extend(invalid_each(
            &format!("metadata.conditions[{index}].Type"),
            &condition.type_,
            names::qualified_name(&condition.type_),
        ));
    }
    if spec.node_name != old_spec.node_name {
        broken.push(Violation::forbidden("status.nodeName", "may not be changed directly"));
    }
    let nominated = text(&status.nominated_node_name);
    if !nominated.is_empty() && nominated != text(&old_status.nominated_node_name) {
        broken.extend(invalid_each(
            "status.nominatedNodeName",
            nominated,
            names::dns1123_subdomain(nominated),
        ));
    }
    broken.extend(immutable("status.qosClass", &text(&status.qos_class), &text(&old_status.qos_class)));
    let policy = text(&old_spec.restart_policy);
    let sidecar = |name: &str| {
        each(&old_spec.init_containers)
            .iter()
            .any(|container| container.name == name && pods::is_sidecar(container))
    };
    let lists = [
        (
            "containerStatuses",
            &status.container_statuses,
            &old_status.container_statuses,
            policy,
        ),
        (
            "initContainerStatuses",
            &status.init_container_statuses,
            &old_status.init_container_statuses,
            policy,
        ),
        (
            "ephemeralContainerStatuses",
            &status.ephemeral_container_statuses,
            &old_status.ephemeral_container_statuses,
            "Never",
        ),
    ];
    for (name, new, old, policy) in lists {
        let restarts = |container: &str| name == "initContainerStatuses" && sidecar(container);
        broken.extend(revived(name, each(new), each(old), policy, &restarts));
    }
    for (index, ip) in each(&status.pod_ips).iter().enumerate() {
        broken.extend(values::address(&format!("status.podIPs[{index}]"), &ip.ip));
    }
    for (index, ip) in each(&status.host_ips).iter().enumerate() {
        if index == 0 && ip.ip != text(&status.host_ip) {
            broken.push(Violation::invalid(
                "status.hostIPs[0].ip",
                &Value::from(ip.ip.as_str()),
                "must be equal to `hostIP`",
            ));
        }
        broken.extend(values::address(&format!("status.hostIPs[{index}]"), &ip.ip));
    }
    broken
}

/// A container that ended for good stays so.
fn revived(list: &str, new: &[ContainerStatus], old: &[ContainerStatus], policy: &str, restarts: &dyn Fn(&str) -> bool) -> Vec<Violation> {
    let mut broken = Vec::new();
    if policy == "Always" {
        return broken;
    }
    let ended = |status: &ContainerStatus| {
        status
            .state
            .as_ref()
            .and_then(|state| state.terminated.as_ref())
            .map(|terminated| terminated.exit_code)
    };
    for (index, before) in old.iter().enumerate() {
        let Some(code) = ended(before) else { continue };
        if code != 0 && policy == "OnFailure" || restarts(&before.name) {
            continue;
        }
        if new.iter().any(|after| after.name == before.name && ended(after).is_none()) {
            broken.push(Violation::forbidden(
                format!("status.{list}[{index}].state"),
                "may not be transitioned to non-terminated state",
            ));
        }
    }
    broken
}
