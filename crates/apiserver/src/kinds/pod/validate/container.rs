//! Containers of every kind.
//!
//! Source: upstream `pkg/apis/core/validation/validation.go`,
//! `validateContainers`, `validateInitContainers`, `validateEphemeralContainers`,
//! `validateContainerCommon`.

use api::status::Violation;
use api::typed::{
    ConfigMapKeySelector, Container, ContainerPort, EnvFromSource, EnvVar, EnvVarSource, ObjectFieldSelector, PodSpec, SecretKeySelector,
};
use serde_json::Value;

use super::{Around, each, handler, resources, security, text, volume};
use crate::validate::{invalid_each, names, values};

/// Fields of a container that an ephemeral one may not have.
const NOT_EPHEMERAL: [&str; 8] = [
    "lifecycle",
    "livenessProbe",
    "ports",
    "readinessProbe",
    "resizePolicy",
    "resources",
    "restartPolicy",
    "startupProbe",
];

/// `spec.containers`.
pub(super) fn regular(containers: &[Container], around: &Around<'_>) -> Vec<Violation> {
    if containers.is_empty() {
        return vec![Violation::required("spec.containers", "")];
    }
    let mut broken = Vec::new();
    for (index, container) in containers.iter().enumerate() {
        let field = format!("spec.containers[{index}]");
        broken.extend(any(&field, container, around));
        if containers[..index].iter().any(|other| other.name == container.name) {
            broken.push(Violation::duplicate(format!("{field}.name"), &container.name));
        }
        broken.extend(handlers(&field, container, around));
        if container.restart_policy.is_some() {
            broken.push(Violation::forbidden(
                format!("{field}.restartPolicy"),
                "may not be set for non-init containers",
            ));
        }
    }
    let mut taken = Vec::new();
    for (index, container) in containers.iter().enumerate() {
        broken.extend(host_ports(&format!("spec.containers[{index}]"), container, &mut taken));
    }
    broken
}

/// `spec.initContainers`, sidecars among them.
pub(super) fn init(containers: &[Container], regular: &[Container], around: &Around<'_>) -> Vec<Violation> {
    let mut broken = Vec::new();
    for (index, container) in containers.iter().enumerate() {
        let field = format!("spec.initContainers[{index}]");
        broken.extend(any(&field, container, around));
        if let Some(policy) = &container.restart_policy
            && policy != "Always"
        {
            broken.push(Violation::not_supported(format!("{field}.restartPolicy"), policy, &["Always"]));
        }
        let mut others = regular.iter().chain(&containers[..index]);
        if !container.name.is_empty() && others.any(|other| other.name == container.name) {
            broken.push(Violation::duplicate(format!("{field}.name"), &container.name));
        }
        // They run one after the other, so each is looked at alone.
        broken.extend(host_ports(&field, container, &mut Vec::new()));
        if container.restart_policy.as_deref() == Some("Always") {
            broken.extend(handlers(&field, container, around));
        } else {
            let given = [
                ("lifecycle", container.lifecycle.is_some()),
                ("livenessProbe", container.liveness_probe.is_some()),
                ("readinessProbe", container.readiness_probe.is_some()),
                ("startupProbe", container.startup_probe.is_some()),
            ];
            for (name, _) in given.iter().filter(|(_, given)| *given) {
                broken.push(Violation::forbidden(
                    format!("{field}.{name}"),
                    "may not be set for init containers without restartPolicy=Always",
                ));
            }
        }
    }
    broken
}

/// `spec.ephemeralContainers`.
pub(super) fn ephemeral(containers: &[api::typed::EphemeralContainer], spec: &PodSpec, around: &Around<'_>) -> Vec<Violation> {
    const TEXT: &str = "cannot be set for an Ephemeral Container";
    let mut broken = Vec::new();
    let others: Vec<&str> = spec
        .containers
        .iter()
        .chain(each(&spec.init_containers))
        .map(|other| other.name.as_str())
        .collect();
    for (index, container) in containers.iter().enumerate() {
        let field = format!("spec.ephemeralContainers[{index}]");
        let Ok(Value::Object(common)) = serde_json::to_value(container) else {
            continue;
        };
        broken.extend(any(&field, &api::pods::as_container(container), around));
        if others.contains(&container.name.as_str()) || containers[..index].iter().any(|other| other.name == container.name) {
            broken.push(Violation::duplicate(format!("{field}.name"), &container.name));
        }
        let target = text(&container.target_container_name);
        if !target.is_empty() && !others.contains(&target) {
            broken.push(Violation::not_found(format!("{field}.targetContainerName"), target));
        }
        let set = |name: &&&str| {
            common
                .get(**name)
                .is_some_and(|value| *value != Value::Object(serde_json::Map::new()))
        };
        broken.extend(
            NOT_EPHEMERAL
                .iter()
                .filter(set)
                .map(|name| Violation::forbidden(format!("{field}.{name}"), TEXT)),
        );
        for (at, mount) in each(&container.volume_mounts).iter().enumerate() {
            for (name, value) in [("subPath", &mount.sub_path), ("subPathExpr", &mount.sub_path_expr)] {
                if !text(value).is_empty() {
                    broken.push(Violation::forbidden(format!("{field}.volumeMounts[{at}].{name}"), TEXT));
                }
            }
        }
    }
    broken
}

fn handlers(field: &str, container: &Container, around: &Around<'_>) -> Vec<Violation> {
    let grace_s = around.grace_s;
    let mut broken = handler::hooks(&format!("{field}.lifecycle"), container.lifecycle.as_ref(), grace_s, around.os);
    broken.extend(handler::once(
        &format!("{field}.livenessProbe"),
        container.liveness_probe.as_ref(),
        grace_s,
    ));
    broken.extend(handler::readiness(
        &format!("{field}.readinessProbe"),
        container.readiness_probe.as_ref(),
        grace_s,
    ));
    broken.extend(handler::once(
        &format!("{field}.startupProbe"),
        container.startup_probe.as_ref(),
        grace_s,
    ));
    broken
}

/// The rules all containers share.
fn any(field: &str, container: &Container, around: &Around<'_>) -> Vec<Violation> {
    let mut broken = Vec::new();
    let name_field = format!("{field}.name");
    if container.name.is_empty() {
        broken.push(Violation::required(name_field, ""));
    } else {
        broken.extend(invalid_each(&name_field, &container.name, names::dns1123_label(&container.name)));
    }
    if text(&container.image).is_empty() {
        broken.push(Violation::required(format!("{field}.image"), ""));
    }
    let policies = ["File", "FallbackToLogsOnError"];
    broken.extend(values::one_of(
        &format!("{field}.terminationMessagePolicy"),
        text(&container.termination_message_policy),
        &policies,
    ));
    broken.extend(ports(&format!("{field}.ports"), each(&container.ports)));
    broken.extend(env(&format!("{field}.env"), each(&container.env)));
    broken.extend(env_from(&format!("{field}.envFrom"), each(&container.env_from)));
    broken.extend(volume::mounts(&format!("{field}.volumeMounts"), container, around.volumes));
    let policies = ["Always", "IfNotPresent", "Never"];
    broken.extend(values::one_of(
        &format!("{field}.imagePullPolicy"),
        text(&container.image_pull_policy),
        &policies,
    ));
    if let Some(given) = &container.resources {
        broken.extend(resources::requirements(&format!("{field}.resources"), given));
    }
    broken.extend(resources::resize(
        &format!("{field}.resizePolicy"),
        each(&container.resize_policy),
        around.restart_policy,
    ));
    if let Some(context) = &container.security_context {
        broken.extend(security::container(&format!("{field}.securityContext"), context, around.host_users));
    }
    broken
}

fn ports(list: &str, ports: &[ContainerPort]) -> Vec<Violation> {
    let mut broken = Vec::new();
    let mut seen: Vec<&str> = Vec::new();
    for (index, port) in ports.iter().enumerate() {
        let field = format!("{list}[{index}]");
        let name = text(&port.name);
        if !name.is_empty() {
            let bad = invalid_each(&format!("{field}.name"), name, names::port_name(name));
            if bad.is_empty() && seen.contains(&name) {
                broken.push(Violation::duplicate(format!("{field}.name"), name));
            } else if bad.is_empty() {
                seen.push(name);
            }
            broken.extend(bad);
        }
        if port.container_port == 0 {
            broken.push(Violation::required(format!("{field}.containerPort"), ""));
        } else {
            broken.extend(values::port(&format!("{field}.containerPort"), i64::from(port.container_port)));
        }
        if let Some(host) = port.host_port
            && host != 0
        {
            broken.extend(values::port(&format!("{field}.hostPort"), i64::from(host)));
        }
        broken.extend(values::protocol(&format!("{field}.protocol"), text(&port.protocol)));
    }
    broken
}

fn host_ports(field: &str, container: &Container, taken: &mut Vec<String>) -> Vec<Violation> {
    let mut broken = Vec::new();
    for (index, port) in each(&container.ports).iter().enumerate() {
        let Some(host) = port.host_port.filter(|host| *host != 0) else {
            continue;
        };
        let key = format!("{}/{}/{host}", text(&port.protocol), text(&port.host_ip));
        if taken.contains(&key) {
            broken.push(Violation::duplicate(format!("{field}.ports[{index}].hostPort"), &key));
        } else {
            taken.push(key);
        }
    }
    broken
}

fn env(list: &str, variables: &[EnvVar]) -> Vec<Violation> {
    let mut broken = Vec::new();
    for (index, variable) in variables.iter().enumerate() {
        let field = format!("{list}[{index}]");
        if variable.name.is_empty() {
            broken.push(Violation::required(format!("{field}.name"), ""));
        } else {
            broken.extend(invalid_each(
                &format!("{field}.name"),
                &variable.name,
                names::env_name(&variable.name),
            ));
        }
        if let Some(source) = &variable.value_from {
            broken.extend(env_source(&format!("{field}.valueFrom"), source, text(&variable.value)));
        }
    }
    broken
}

fn env_source(field: &str, source: &EnvVarSource, value: &str) -> Vec<Violation> {
    let mut broken = Vec::new();
    let mut sources = 0;
    if let Some(from) = &source.field_ref {
        sources += 1;
        broken.extend(field_ref(&format!("{field}.fieldRef"), from));
    }
    if let Some(from) = &source.resource_field_ref {
        sources += 1;
        broken.extend(resources::field_ref(&format!("{field}.resourceFieldRef"), from));
    }
    if let Some(ConfigMapKeySelector { name, key, .. }) = &source.config_map_key_ref {
        sources += 1;
        broken.extend(key_ref(&format!("{field}.configMapKeyRef"), name, key));
    }
    if let Some(SecretKeySelector { name, key, .. }) = &source.secret_key_ref {
        sources += 1;
        broken.extend(key_ref(&format!("{field}.secretKeyRef"), name, key));
    }
    let empty = Value::from("");
    match sources {
        0 => {
            let rule = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`";
            broken.push(Violation::invalid(field, &empty, rule));
        }
        _ if !value.is_empty() => broken.push(Violation::invalid(field, &empty, "may not be specified when `value` is not empty")),
        1 => {}
        _ => broken.push(Violation::invalid(
            field,
            &empty,
            "may not have more than one field specified at a time",
        )),
    }
    broken
}

fn key_ref(field: &str, name: &str, key: &str) -> Vec<Violation> {
    let mut broken = invalid_each(&format!("{field}.name"), name, names::dns1123_subdomain(name));
    if key.is_empty() {
        broken.push(Violation::required(format!("{field}.key"), ""));
    } else {
        broken.extend(invalid_each(&format!("{field}.key"), key, names::config_key(key)));
    }
    broken
}

/// Fields of a Pod an environment variable may show.
const SHOWN: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// Fields of a Pod a file of a volume may show.
const SHOWN_IN_VOLUMES: [&str; 5] = [
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
];

/// `fieldRef` of a file of a volume.
pub(super) fn volume_field(field: &str, from: &ObjectFieldSelector) -> Vec<Violation> {
    let path = from.field_path.as_str();
    if SHOWN_IN_VOLUMES.contains(&path) && text(&from.api_version) == "v1" {
        return Vec::new();
    }
    if SHOWN.contains(&path) {
        return vec![Violation::not_supported(format!("{field}.fieldPath"), path, &SHOWN_IN_VOLUMES)];
    }
    field_ref(field, from)
}

fn field_ref(field: &str, from: &ObjectFieldSelector) -> Vec<Violation> {
    if text(&from.api_version).is_empty() {
        return vec![Violation::required(format!("{field}.apiVersion"), "")];
    }
    let path = from.field_path.as_str();
    if path.is_empty() {
        return vec![Violation::required(format!("{field}.fieldPath"), "")];
    }
    let path_field = format!("{field}.fieldPath");
    let refuse = |text: &str| vec![Violation::invalid(path_field.as_str(), &Value::from(path), text)];
    if text(&from.api_version) != "v1" {
        return refuse(&format!(
            "error converting fieldPath: unsupported pod version: {}",
            text(&from.api_version)
        ));
    }
    if let Some((map, key)) = path.strip_suffix("']").and_then(|path| path.split_once("['")) {
        return match map {
            "metadata.annotations" => invalid_each(field, &key.to_lowercase(), names::qualified_name(&key.to_lowercase())),
            "metadata.labels" => invalid_each(field, key, names::qualified_name(key)),
            _ => refuse(&format!(
                "error converting fieldPath: field label does not support subscript: {path}"
            )),
        };
    }
    match path {
        path if SHOWN.contains(&path) => Vec::new(),
        // Upstream knows these, but not as variables.
        "metadata.annotations" | "metadata.labels" | "spec.restartPolicy" | "spec.schedulerName" | "status.phase" | "spec.hostname" => {
            vec![Violation::not_supported(path_field, path, &SHOWN)]
        }
        _ => refuse(&format!("error converting fieldPath: field label not supported: {path}")),
    }
}

fn env_from(field: &str, sources: &[EnvFromSource]) -> Vec<Violation> {
    let mut broken = Vec::new();
    for (index, source) in sources.iter().enumerate() {
        let item = format!("{field}[{index}]");
        let prefix = text(&source.prefix);
        if !prefix.is_empty() {
            broken.extend(invalid_each(&format!("{item}.prefix"), prefix, names::env_name(prefix)));
        }
        let named = [
            ("configMapRef", source.config_map_ref.as_ref().map(|from| from.name.as_str())),
            ("secretRef", source.secret_ref.as_ref().map(|from| from.name.as_str())),
        ];
        let mut given = 0;
        for (kind, name) in named {
            let Some(name) = name else { continue };
            given += 1;
            if name.is_empty() {
                broken.push(Violation::required(format!("{item}.{kind}.name"), ""));
            } else {
                broken.extend(invalid_each(&format!("{item}.{kind}.name"), name, names::dns1123_subdomain(name)));
            }
        }
        // Upstream leaves the index out here.
        match given {
            0 => broken.push(Violation::invalid(
                field,
                &Value::from(""),
                "must specify one of: `configMapRef` or `secretRef`",
            )),
            1 => {}
            _ => broken.push(Violation::invalid(
                field,
                &Value::from(""),
                "may not have more than one field specified at a time",
            )),
        }
    }
    broken
}
