//! Warnings that several kinds share: labels of nodes that have other names
//! now, and addresses in forms that are accepted for the sake of old objects.
//!
//! Source: upstream `pkg/api/node/util.go`,
//! `apimachinery/pkg/util/validation/ip.go`.

use std::net::{IpAddr, Ipv6Addr};

use api::{Object, Quantity};
use serde_json::Value;

use crate::validate::names;

/// Labels of nodes that have other names now.
const OLD_LABELS: [(&str, &str); 8] = [
    (
        "beta.kubernetes.io/arch",
        r#"deprecated since v1.14; use "kubernetes.io/arch" instead"#,
    ),
    ("beta.kubernetes.io/os", r#"deprecated since v1.14; use "kubernetes.io/os" instead"#),
    (
        "failure-domain.beta.kubernetes.io/region",
        r#"deprecated since v1.17; use "topology.kubernetes.io/region" instead"#,
    ),
    (
        "failure-domain.beta.kubernetes.io/zone",
        r#"deprecated since v1.17; use "topology.kubernetes.io/zone" instead"#,
    ),
    (
        "beta.kubernetes.io/instance-type",
        r#"deprecated since v1.17; use "node.kubernetes.io/instance-type" instead"#,
    ),
    ("app.kubernetes.io/created-by", "deprecated since v1.9"),
    (
        "scheduler.alpha.kubernetes.io/preferAvoidPods",
        "deprecated since v1.22; use Taints and Tolerations instead",
    ),
    (
        "node-role.kubernetes.io/master",
        r#"use "node-role.kubernetes.io/control-plane" instead"#,
    ),
];

/// What is said of a label of nodes, if it has another name now.
pub(super) fn old_label(key: &str) -> Option<&'static str> {
    OLD_LABELS.iter().find(|(old, _)| *old == key).map(|(_, message)| *message)
}

/// A list at a field of a value; an absent one is empty.
pub(super) fn list<'v>(value: &'v Value, field: &str) -> &'v [Value] {
    value[field].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// A text at a field of a value; an absent one is empty.
pub(super) fn text<'v>(value: &'v Value, field: &str) -> &'v str {
    value[field].as_str().unwrap_or_default()
}

/// A term of a selector of nodes. Values that cannot be a label's are refused
/// where the term is required, and told of where it is preferred.
pub(super) fn of_term(field: &str, term: &Value, check_values: bool) -> Vec<String> {
    let mut warnings = Vec::new();
    for (index, expression) in list(term, "matchExpressions").iter().enumerate() {
        let field = format!("{field}.matchExpressions[{index}]");
        let key = text(expression, "key");
        if let Some(message) = old_label(key) {
            warnings.push(format!("{field}.key: {key} is {message}"));
        }
        for (at, value) in list(expression, "values").iter().enumerate().filter(|_| check_values) {
            let value = value.as_str().unwrap_or_default();
            for text in names::label_value(value).err().into_iter().flatten() {
                warnings.push(format!("{field}.values[{at}]: {value} is invalid, {text}"));
            }
        }
    }
    warnings
}

/// Parts of bytes among amounts, such as requests.
pub(super) fn fractions(field: &str, amounts: &Value, names: &[&str]) -> Vec<String> {
    let of = |name: &&str| {
        let amount: Quantity = amounts[*name].as_str()?.parse().ok()?;
        let broken = amount.milli() % 1_000 != 0;
        broken.then(|| format!("{field}[{name}]: fractional byte value \"{amount}\" is invalid, must be an integer"))
    };
    names.iter().filter_map(of).collect()
}

/// The class of a volume or a claim, where it stood before there was a field.
pub(super) fn old_class(object: &Object) -> Option<String> {
    const CLASS: &str = "volume.beta.kubernetes.io/storage-class";
    annotated(object, CLASS)
        .then(|| format!(r#"metadata.annotations[{CLASS}]: deprecated since v1.8; use "storageClassName" attribute instead"#))
}

/// Whether an object has an annotation.
pub(super) fn annotated(object: &Object, key: &str) -> bool {
    object.meta.annotations.as_ref().is_some_and(|all| all.contains_key(key))
}

/// An address that is written as it should not be. What is no address has been
/// refused, and is not told of again.
pub(super) fn ip(field: &str, value: &str) -> Option<String> {
    let Ok(IpAddr::V6(ip)) = value.parse::<IpAddr>() else {
        return None;
    };
    if let Some(v4) = ip.to_ipv4_mapped() {
        return Some(format!(
            "{field}: non-standard IP address {value:?} will be considered invalid in a future Kubernetes release: use \"{v4}\""
        ));
    }
    let canonical = ip.to_string();
    (canonical != value).then(|| format!("{field}: IPv6 address {value:?} should be in RFC 5952 canonical format ({canonical:?})"))
}

/// A range of addresses that is written as it should not be.
pub(super) fn cidr(field: &str, value: &str) -> Vec<String> {
    let Some((address, bits)) = value.split_once('/') else {
        return Vec::new();
    };
    let (Ok(address), Ok(bits)) = (address.parse::<IpAddr>(), bits.parse::<u32>()) else {
        return Vec::new();
    };
    let (mapped, address, bits, most) = match address {
        IpAddr::V4(_) => (false, address, bits, 32),
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) if (96..=128).contains(&bits) => (true, IpAddr::V4(v4), bits - 96, 32),
            _ => (false, address, bits, 128),
        },
    };
    if bits > most {
        return Vec::new();
    }
    let network = format!("{}/{bits}", masked(address, bits));
    let mut warnings = Vec::new();
    if masked(address, bits) != address {
        warnings.push(format!(
            "{field}: CIDR value {value:?} is ambiguous in this context (should be {network:?} or \"{address}/{most}\"?)"
        ));
    }
    if mapped {
        warnings.push(format!(
            "{field}: non-standard CIDR value {value:?} will be considered invalid in a future Kubernetes release: use {network:?}"
        ));
    }
    if warnings.is_empty() && address.is_ipv6() && network != value {
        warnings.push(format!(
            "{field}: IPv6 CIDR value {value:?} should be in RFC 5952 canonical format ({network:?})"
        ));
    }
    warnings
}

/// The address with all bits past the first `bits` cleared.
fn masked(address: IpAddr, bits: u32) -> IpAddr {
    match address {
        IpAddr::V4(v4) => IpAddr::V4((v4.to_bits() & u32::MAX.checked_shl(32 - bits).unwrap_or(0)).into()),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & u128::MAX.checked_shl(128 - bits).unwrap_or(0))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_in_unusual_forms_are_told_of() {
        let table = [
            ("10.0.0.1", None),
            ("2001:db8::1", None),
            ("x", None),
            (
                "::ffff:10.0.0.1",
                Some(
                    r#"f: non-standard IP address "::ffff:10.0.0.1" will be considered invalid in a future Kubernetes release: use "10.0.0.1""#,
                ),
            ),
            (
                "2001:DB8:0::1",
                Some(r#"f: IPv6 address "2001:DB8:0::1" should be in RFC 5952 canonical format ("2001:db8::1")"#),
            ),
        ];
        for (value, wanted) in table {
            assert_eq!(ip("f", value).as_deref(), wanted, "{value}");
        }
    }

    #[test]
    fn ranges_in_unusual_forms_are_told_of() {
        let table: [(&str, &[&str]); 7] = [
            ("10.0.0.0/8", &[]),
            ("0.0.0.0/0", &[]),
            ("::/0", &[]),
            ("10.0.0.0/99", &[]),
            (
                "10.0.0.5/8",
                &[r#"f: CIDR value "10.0.0.5/8" is ambiguous in this context (should be "10.0.0.0/8" or "10.0.0.5/32"?)"#],
            ),
            (
                "::ffff:10.0.0.0/104",
                &[
                    r#"f: non-standard CIDR value "::ffff:10.0.0.0/104" will be considered invalid in a future Kubernetes release: use "10.0.0.0/8""#,
                ],
            ),
            (
                "2001:DB8::/32",
                &[r#"f: IPv6 CIDR value "2001:DB8::/32" should be in RFC 5952 canonical format ("2001:db8::/32")"#],
            ),
        ];
        for (value, wanted) in table {
            assert_eq!(cidr("f", value), wanted, "{value}");
        }
    }
}
