//! What of a Pod is allowed and rarely meant: told in `Warning` headers.
//!
//! Read from JSON as it is, since every Pod that is made passes here. Warnings
//! about volumes that are refused have nothing to warn of.
//!
//! Source: upstream `pkg/api/pod/warnings.go`.

use api::Object;
use serde_json::{Map, Value};

use super::app_armor;
use crate::kinds::warnings::{fractions, ip, list, of_term, old_label, text};
use crate::validate::names;

/// Resources that are counted in bytes.
const BYTES: [&str; 2] = ["memory", "ephemeral-storage"];

/// Annotations nobody reads any more.
const OLD_ANNOTATIONS: [(&str, &str); 3] = [
    (
        "scheduler.alpha.kubernetes.io/critical-pod",
        r#"non-functional in v1.16+; use the "priorityClassName" field instead"#,
    ),
    (
        "security.alpha.kubernetes.io/sysctls",
        r#"non-functional in v1.11+; use the "sysctls" field instead"#,
    ),
    (
        "security.alpha.kubernetes.io/unsafe-sysctls",
        r#"non-functional in v1.11+; use the "sysctls" field instead"#,
    ),
];
const SECCOMP_OF_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_OF_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
/// With the stray backslashes upstream prints.
const SECCOMP_FIELD: &str = r#"non-functional in v1.27+; use the \"seccompProfile\" field instead"#;
const NULL_SELECTOR: &str = "a null labelSelector results in matching no pod";

/// Of a new Pod. Changes are not looked at: those who make them are programs.
pub(super) fn of_new(pod: &Object) -> Vec<String> {
    let mut warnings = app_armor::warnings(pod);
    if let Err(texts) = names::dns1123_label(pod.name()) {
        warnings.push(format!(
            "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: [{}]",
            texts.join(" ")
        ));
    }
    let annotations = |key: &str| {
        pod.meta
            .annotations
            .as_ref()
            .is_some_and(|annotations| annotations.contains_key(key))
    };
    warnings.extend(of_spec("", pod.at("spec").unwrap_or(&Value::Null), &annotations));
    warnings
}

/// Of a template at `path`, such as `spec.template`, of a kind that makes Pods.
pub(in crate::kinds) fn of_template(object: &Object, path: &str) -> Vec<String> {
    let template = object.at(path).unwrap_or(&Value::Null);
    let annotations = |key: &str| template["metadata"]["annotations"].get(key).is_some();
    of_spec(&format!("{path}."), &template["spec"], &annotations)
}

/// Containers of every kind with their paths, in upstream's order.
fn containers<'v>(prefix: &str, spec: &'v Value) -> Vec<(String, &'v Value)> {
    let kinds = ["initContainers", "containers", "ephemeralContainers"];
    let named = |kind: &'static str| {
        let all = list(spec, kind).iter().enumerate();
        all.map(move |(index, container)| (format!("{prefix}spec.{kind}[{index}]"), container))
    };
    kinds.into_iter().flat_map(named).collect()
}

fn of_spec(prefix: &str, spec: &Value, annotated: &dyn Fn(&str) -> bool) -> Vec<String> {
    let mut warnings = labels_of_nodes(prefix, spec);
    for (key, message) in OLD_ANNOTATIONS.iter().filter(|(key, _)| annotated(key)) {
        warnings.push(format!("{prefix}metadata.annotations[{key}]: {message}"));
    }
    for (field, item, what) in [("hostAliases", "ip", "ip"), ("imagePullSecrets", "name", "name")] {
        for (index, value) in repeated(list(spec, field), item) {
            warnings.push(format!("{prefix}spec.{field}[{index}].{item}: duplicate {what} {value:?}"));
        }
    }
    for (index, _) in list(spec, "imagePullSecrets")
        .iter()
        .enumerate()
        .filter(|(_, secret)| text(secret, "name").is_empty())
    {
        warnings.push(format!("{prefix}spec.imagePullSecrets[{index}].name: invalid empty name \"\""));
    }
    warnings.extend(fractions(&format!("{prefix}spec.overhead"), &spec["overhead"], &BYTES));
    if spec["securityContext"]["seccompProfile"].is_null() && annotated(SECCOMP_OF_POD) {
        warnings.push(format!("{prefix}metadata.annotations[{SECCOMP_OF_POD}]: {SECCOMP_FIELD}"));
    }
    let containers = containers(prefix, spec);
    for (field, container) in &containers {
        let seccomp = format!("{SECCOMP_OF_CONTAINER}{}", text(container, "name"));
        if container["securityContext"]["seccompProfile"].is_null() && annotated(&seccomp) {
            warnings.push(format!("{prefix}metadata.annotations[{seccomp}]: {SECCOMP_FIELD}"));
        }
        // Those of a Pod are told of by `app_armor::warnings`.
        let app_armor = format!("{}{}", app_armor::PREFIX, text(container, "name"));
        if !prefix.is_empty() && container["securityContext"]["appArmorProfile"].is_null() && annotated(&app_armor) {
            warnings.push(app_armor::deprecated(&format!("{prefix}metadata.annotations[{app_armor}]")));
        }
        for kind in ["limits", "requests"] {
            warnings.extend(fractions(
                &format!("{field}.resources.{kind}"),
                &container["resources"][kind],
                &BYTES,
            ));
        }
        warnings.extend(hidden(field, list(container, "env")));
    }
    warnings.extend(ports(&containers));
    if spec["terminationGracePeriodSeconds"].as_i64().is_some_and(|grace_s| grace_s < 0) {
        warnings.push(format!(
            "{prefix}spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1"
        ));
    }
    warnings.extend(selectors_of_nothing(prefix, spec));
    for (index, server) in list(&spec["dnsConfig"], "nameservers").iter().enumerate() {
        let field = format!("{prefix}spec.dnsConfig.nameservers[{index}]");
        warnings.extend(ip(&field, server.as_str().unwrap_or_default()));
    }
    for (index, alias) in list(spec, "hostAliases").iter().enumerate() {
        warnings.extend(ip(&format!("{prefix}spec.hostAliases[{index}].ip"), text(alias, "ip")));
    }
    warnings
}

/// Where a value of a field comes again.
fn repeated<'v>(items: &'v [Value], field: &str) -> Vec<(usize, &'v str)> {
    let again = |(index, item): (usize, &'v Value)| {
        let value = text(item, field);
        items[..index]
            .iter()
            .any(|other| text(other, field) == value)
            .then_some((index, value))
    };
    items.iter().enumerate().filter_map(again).collect()
}

fn labels_of_nodes(prefix: &str, spec: &Value) -> Vec<String> {
    let mut warnings = Vec::new();
    for key in spec["nodeSelector"].as_object().into_iter().flat_map(Map::keys) {
        if let Some(message) = old_label(key) {
            warnings.push(format!("{prefix}spec.nodeSelector[{key}]: {message}"));
        }
    }
    let affinity = format!("{prefix}spec.affinity.nodeAffinity");
    let node = &spec["affinity"]["nodeAffinity"];
    let required = "requiredDuringSchedulingIgnoredDuringExecution";
    for (index, term) in list(&node[required], "nodeSelectorTerms").iter().enumerate() {
        warnings.extend(of_term(&format!("{affinity}.{required}.nodeSelectorTerms[{index}]"), term, false));
    }
    let preferred = "preferredDuringSchedulingIgnoredDuringExecution";
    for (index, weighted) in list(node, preferred).iter().enumerate() {
        let field = format!("{affinity}.{preferred}[{index}].preference");
        warnings.extend(of_term(&field, &weighted["preference"], true));
    }
    for (index, constraint) in list(spec, "topologySpreadConstraints").iter().enumerate() {
        let field = format!("{prefix}spec.topologySpreadConstraints[{index}]");
        let key = text(constraint, "topologyKey");
        if let Some(message) = old_label(key) {
            warnings.push(format!("{field}.topologyKey: {key} is {message}"));
        }
        if constraint["labelSelector"].is_null() {
            warnings.push(format!("{field}.labelSelector: {NULL_SELECTOR}"));
        }
    }
    warnings
}

/// Variables that replace an earlier one of the name without using it.
fn hidden(field: &str, variables: &[Value]) -> Vec<String> {
    let loses = |index: &usize, name: &str| {
        let variable = &variables[*index];
        let reference = format!("$({name})");
        let value = text(variable, "value");
        !variable["valueFrom"].is_null() || value == reference || !value.contains(&reference)
    };
    let again = repeated(variables, "name").into_iter();
    again
        .filter(|(index, name)| loses(index, name))
        .map(|(index, name)| format!("{field}.env[{index}]: hides previous definition of {name:?}, which may be dropped when using apply"))
        .collect()
}

/// Ports that are stated twice, in one container or in two.
fn ports(containers: &[(String, &Value)]) -> Vec<String> {
    struct Port<'v> {
        field: String,
        number: i64,
        protocol: &'v str,
        host: i64,
        ip: &'v str,
        name: &'v str,
    }
    let mut warnings = Vec::new();
    let mut seen: Vec<Port<'_>> = Vec::new();
    let all = containers.iter().flat_map(|(field, container)| {
        let ports = list(container, "ports").iter().enumerate();
        ports.map(move |(index, port)| Port {
            field: format!("{field}.ports[{index}]"),
            number: port["containerPort"].as_i64().unwrap_or(0),
            protocol: text(port, "protocol"),
            host: port["hostPort"].as_i64().unwrap_or(0),
            ip: text(port, "hostIP"),
            name: text(port, "name"),
        })
    });
    for port in all {
        if !port.ip.is_empty() && port.host == 0 {
            let (name, number, protocol, ip) = (port.name, port.number, port.protocol, port.ip);
            warnings.push(format!(
                "{}: hostIP set without hostPort: {{Name:{name} HostPort:0 ContainerPort:{number} Protocol:{protocol} HostIP:{ip}}}",
                port.field
            ));
        }
        for other in seen
            .iter()
            .filter(|other| (other.number, other.protocol) == (port.number, port.protocol))
        {
            let how = if (port.ip, port.host) == (other.ip, other.host) {
                "duplicate"
            } else if port.host == 0 || other.host == 0 {
                "overlapping"
            } else if port.host == other.host && (port.ip.is_empty() != other.ip.is_empty()) {
                "dangerously ambiguous"
            } else {
                continue;
            };
            warnings.push(format!("{}: {how} port definition with {}", port.field, other.field));
        }
        seen.push(port);
    }
    warnings
}

fn selectors_of_nothing(prefix: &str, spec: &Value) -> Vec<String> {
    let mut warnings = Vec::new();
    for kind in ["podAffinity", "podAntiAffinity"] {
        let terms = &spec["affinity"][kind];
        for (list_name, below) in [
            ("requiredDuringSchedulingIgnoredDuringExecution", ""),
            ("preferredDuringSchedulingIgnoredDuringExecution", "podAffinityTerm"),
        ] {
            for (index, term) in list(terms, list_name).iter().enumerate() {
                let (term, dot) = if below.is_empty() { (term, "") } else { (&term[below], ".") };
                if term["labelSelector"].is_null() {
                    warnings.push(format!(
                        "{prefix}spec.affinity.{kind}.{list_name}[{index}]{dot}{below}.labelSelector: {NULL_SELECTOR}"
                    ));
                }
            }
        }
    }
    warnings
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn warned(name: &str, spec: &Value, annotations: &Value) -> Vec<String> {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "annotations": annotations}, "spec": spec});
        of_new(&serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn what_is_rarely_meant_is_told_in_upstream_s_words() {
        let none = json!({});
        let of = |spec: Value| warned("p", &spec, &none);
        let container = |more: Value| {
            let mut container = json!({"name": "c", "image": "i"});
            container.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            json!({"containers": [container]})
        };
        let port = |host: i64, ip: &str| json!({"containerPort": 80, "protocol": "TCP", "hostPort": host, "hostIP": ip});
        let table = [
            (container(none.clone()), vec![]),
            (
                json!({"nodeSelector": {"beta.kubernetes.io/os": "linux"}}),
                vec![r#"spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use "kubernetes.io/os" instead"#],
            ),
            (
                json!({"hostAliases": [{"ip": "1.2.3.4"}, {"ip": "1.2.3.4"}], "imagePullSecrets": [{"name": "s"}, {"name": "s"}, {}]}),
                vec![
                    r#"spec.hostAliases[1].ip: duplicate ip "1.2.3.4""#,
                    r#"spec.imagePullSecrets[1].name: duplicate name "s""#,
                    r#"spec.imagePullSecrets[2].name: invalid empty name """#,
                ],
            ),
            (
                container(json!({"resources": {"limits": {"memory": "100m", "cpu": "100m"}}})),
                vec![r#"spec.containers[0].resources.limits[memory]: fractional byte value "100m" is invalid, must be an integer"#],
            ),
            (
                container(json!({"env": [{"name": "A", "value": "1"}, {"name": "A", "value": "$(A)2"}, {"name": "A", "value": "3"}]})),
                vec![r#"spec.containers[0].env[2]: hides previous definition of "A", which may be dropped when using apply"#],
            ),
            (
                container(json!({"ports": [port(0, ""), port(0, ""), port(81, "")]})),
                vec![
                    "spec.containers[0].ports[1]: duplicate port definition with spec.containers[0].ports[0]",
                    "spec.containers[0].ports[2]: overlapping port definition with spec.containers[0].ports[0]",
                    "spec.containers[0].ports[2]: overlapping port definition with spec.containers[0].ports[1]",
                ],
            ),
            (
                container(
                    json!({"ports": [port(81, ""), port(81, "10.0.0.1"), {"containerPort": 90, "protocol": "TCP", "hostIP": "10.0.0.1"}]}),
                ),
                vec![
                    "spec.containers[0].ports[1]: dangerously ambiguous port definition with spec.containers[0].ports[0]",
                    "spec.containers[0].ports[2]: hostIP set without hostPort: {Name: HostPort:0 ContainerPort:90 Protocol:TCP HostIP:10.0.0.1}",
                ],
            ),
            (
                json!({"terminationGracePeriodSeconds": -1}),
                vec!["spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1"],
            ),
            (
                json!({"affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "podAffinityTerm": {"topologyKey": "k"}}]}}}),
                vec![
                    "spec.affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].podAffinityTerm.labelSelector: a null labelSelector results in matching no pod",
                ],
            ),
        ];
        for (spec, wanted) in table {
            assert_eq!(of(spec.clone()), wanted, "{spec}");
        }
        assert_eq!(
            warned("a.b", &none, &json!({"scheduler.alpha.kubernetes.io/critical-pod": ""})),
            [
                "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: [must not contain dots]",
                r#"metadata.annotations[scheduler.alpha.kubernetes.io/critical-pod]: non-functional in v1.16+; use the "priorityClassName" field instead"#,
            ]
        );
    }

    #[test]
    fn a_template_is_looked_at_where_it_is() {
        let controller = json!({
            "apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": "r"},
            "spec": {"template": {"spec": {"nodeSelector": {"node-role.kubernetes.io/master": ""}}}},
        });
        assert_eq!(
            of_template(&serde_json::from_value(controller).unwrap(), "spec.template"),
            [r#"spec.template.spec.nodeSelector[node-role.kubernetes.io/master]: use "node-role.kubernetes.io/control-plane" instead"#]
        );
    }
}
