//! Fields of a pod and resources of its containers, as text.
//!
//! Source: upstream `pkg/fieldpath/fieldpath.go`, `pkg/api/v1/resource/helpers.go`.

use std::collections::BTreeMap;
use std::fmt::Write;

use api::quantity::Quantity;
use api::typed::{Container, Pod, ResourceFieldSelector, WireQuantity};

/// A field under `metadata`.
///
/// # Errors
/// A path that names none.
pub(crate) fn of_pod(pod: &Pod, path: &str) -> Result<String, String> {
    let meta = &pod.metadata;
    let get = |map: &Option<BTreeMap<String, String>>, key: &str| map.as_ref().and_then(|m| m.get(key)).cloned().unwrap_or_default();
    if let Some((map, key)) = path.strip_suffix("']").and_then(|inner| inner.split_once("['")) {
        return match map {
            "metadata.annotations" => Ok(get(&meta.annotations, key)),
            "metadata.labels" => Ok(get(&meta.labels, key)),
            other => Err(format!("fieldPath {other:?} does not support subscript")),
        };
    }
    Ok(match path {
        "metadata.annotations" => lines(&meta.annotations),
        "metadata.labels" => lines(&meta.labels),
        "metadata.name" => meta.name.clone().unwrap_or_default(),
        "metadata.namespace" => meta.namespace.clone().unwrap_or_default(),
        "metadata.uid" => meta.uid.clone().unwrap_or_default(),
        other => return Err(format!("unsupported fieldPath: {other}")),
    })
}

/// `key="value"`, one a line, without a last line break.
fn lines(map: &Option<BTreeMap<String, String>>) -> String {
    let lines: Vec<String> = map
        .iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", quoted(value)))
        .collect();
    lines.join("\n")
}

/// A text as Go's `%q` prints it.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for char in text.chars() {
        match char {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            ' '..='~' => out.push(char),
            '\0'..='\u{7f}' => drop(write!(out, "\\x{:02x}", u32::from(char))),
            // Rust and Go agree on what is printable; a mark is only
            // escaped by Rust where nothing stands before it.
            _ if !format!("a{char}").escape_debug().to_string().contains('\\') => out.push(char),
            '\u{80}'..='\u{ffff}' => drop(write!(out, "\\u{:04x}", u32::from(char))),
            _ => drop(write!(out, "\\U{:08x}", u32::from(char))),
        }
    }
    out.push('"');
    out
}

/// A container's limit or request, in units of the divisor, rounded up. What
/// has no limit is limited by what the node can give.
///
/// # Errors
/// A container or resource that is none.
pub(crate) fn resource(
    pod: &Pod,
    own: &Container,
    selector: &ResourceFieldSelector,
    allocatable: &BTreeMap<String, WireQuantity>,
) -> Result<String, String> {
    let container = match selector.container_name.as_deref().filter(|name| !name.is_empty()) {
        None => own,
        Some(name) => pod
            .spec
            .iter()
            .flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()))
            .find(|container| container.name == name)
            .ok_or_else(|| format!("container {name} not found"))?,
    };
    let unsupported = || format!("Unsupported container resource : {}", selector.resource);
    let (list, name) = selector.resource.split_once('.').ok_or_else(unsupported)?;
    let huge = name.starts_with("hugepages-");
    if !matches!(name, "cpu" | "memory" | "ephemeral-storage") && !huge {
        return Err(unsupported());
    }
    let resources = container.resources.as_ref();
    let wire = match list {
        "limits" => resources
            .and_then(|r| r.limits.as_ref())
            .and_then(|map| map.get(name))
            .filter(|q| !Quantity::try_from(*q).is_ok_and(Quantity::is_zero))
            .or_else(|| allocatable.get(name).filter(|_| !huge)),
        "requests" => resources.and_then(|r| r.requests.as_ref()).and_then(|map| map.get(name)),
        _ => return Err(unsupported()),
    };
    let parse = |wire: &WireQuantity| Quantity::try_from(wire).map_err(|_| format!("{}: invalid quantity {:?}", selector.resource, wire.0));
    let amount = wire.map(parse).transpose()?;
    let divisor = selector.divisor.as_ref().map(parse).transpose()?.filter(|d| !d.is_zero());
    let in_units = |quantity: Quantity| if name == "cpu" { quantity.milli() } else { quantity.bytes() };
    let one = if name == "cpu" { 1_000 } else { 1 };
    let (amount, divisor) = (amount.map_or(0, in_units), divisor.map_or(one, in_units).max(1));
    Ok((amount / divisor + i64::from(amount % divisor > 0)).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_quoted_as_go_does() {
        assert_eq!(quoted("a\"b\\c\nd\u{1}é\u{7f}\u{200b}"), r#""a\"b\\c\nd\x01é\x7f\u200b""#);
        assert_eq!(quoted("\u{301}"), "\"\u{301}\"");
    }

    #[test]
    fn fields_of_metadata() {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": { "name": "p", "uid": "u", "labels": { "b": "2", "a": "1" }, "annotations": { "x.y/z": "w" } }
        }))
        .unwrap();
        assert_eq!(of_pod(&pod, "metadata.labels").unwrap(), "a=\"1\"\nb=\"2\"");
        assert_eq!(of_pod(&pod, "metadata.labels['a']").unwrap(), "1");
        assert_eq!(of_pod(&pod, "metadata.annotations['x.y/z']").unwrap(), "w");
        assert_eq!(of_pod(&pod, "metadata.annotations['none']").unwrap(), "");
        assert_eq!(of_pod(&pod, "metadata.uid").unwrap(), "u");
        assert_eq!(of_pod(&pod, "spec.x").unwrap_err(), "unsupported fieldPath: spec.x");
    }

    #[test]
    fn resources_are_rounded_up_and_limited_by_the_node() {
        let pod: Pod = serde_json::from_value(serde_json::json!({ "metadata": {}, "spec": { "containers": [
            { "name": "a", "resources": { "limits": { "cpu": "1500m", "memory": "64Mi" }, "requests": { "cpu": "100m" } } },
            { "name": "b" },
        ] } }))
        .unwrap();
        let containers = &pod.spec.as_ref().unwrap().containers;
        let allocatable = BTreeMap::from([
            ("cpu".to_owned(), WireQuantity("4".to_owned())),
            ("memory".to_owned(), WireQuantity("1Gi".to_owned())),
        ]);
        for (own, of, name, divisor, expected) in [
            (0, "", "limits.cpu", "", "2"),
            (0, "", "limits.cpu", "1m", "1500"),
            (0, "", "limits.memory", "1Mi", "64"),
            (0, "", "limits.memory", "", "67108864"),
            (0, "", "requests.cpu", "1m", "100"),
            (0, "b", "limits.cpu", "", "4"),
            (1, "", "limits.memory", "1Mi", "1024"),
            (1, "", "requests.memory", "", "0"),
            (1, "a", "limits.cpu", "0", "2"),
        ] {
            let selector = ResourceFieldSelector {
                container_name: Some(of.to_owned()),
                divisor: Some(WireQuantity(divisor.to_owned())).filter(|d| !d.0.is_empty()),
                resource: name.to_owned(),
            };
            assert_eq!(
                resource(&pod, &containers[own], &selector, &allocatable).unwrap(),
                expected,
                "{own} {of} {name}"
            );
        }
        let selector = ResourceFieldSelector {
            resource: "limits.gpu".to_owned(),
            ..ResourceFieldSelector::default()
        };
        assert_eq!(
            resource(&pod, &containers[0], &selector, &allocatable).unwrap_err(),
            "Unsupported container resource : limits.gpu"
        );
    }
}
