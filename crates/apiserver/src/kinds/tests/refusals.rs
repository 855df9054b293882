//! Refusals that few objects meet, in upstream's words.

use super::*;

#[track_caller]
fn check(plural: &str, rows: &[(Value, &[&str])]) {
    for (object, wanted) in rows {
        assert_eq!(said(plural, object.clone(), None), *wanted, "{plural} {object}");
    }
}

#[test]
fn ratios_and_what_is_not_overcommitted() {
    let range = |item: Value| json!({"metadata": {"name": "l"}, "spec": {"limits": [item]}});
    check(
        "limitranges",
        &[
            (
                range(json!({"type": "Pod", "min": {"cpu": "1"}, "max": {"cpu": "2"}, "maxLimitRequestRatio": {"cpu": "2"}})),
                &[],
            ),
            (
                range(json!({"type": "Pod", "min": {"cpu": "500m"}, "max": {"cpu": "2"}, "maxLimitRequestRatio": {"cpu": "5"}})),
                &[r#"spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: "5": ratio 5 is greater than max/min = 4.000000"#],
            ),
            (
                range(json!({"type": "Container", "default": {"example.com/gpu": "2"}, "defaultRequest": {"example.com/gpu": "1"}})),
                &[
                    r#"spec.limits[0].defaultRequest[example.com/gpu]: Invalid value: "1": default value 2 must equal to defaultRequest value 1 in example.com/gpu"#,
                ],
            ),
        ],
    );
}

#[test]
fn parameters_and_topologies_of_a_class() {
    let class = |more: Value| {
        let mut class = json!({"metadata": {"name": "s"}, "provisioner": "example.com/p"});
        class.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        class
    };
    let many: serde_json::Map<String, Value> = (0..513).map(|number| (format!("p{number}"), json!("v"))).collect();
    let zone = |values: Value| json!({"key": "zone", "values": values});
    check(
        "storageclasses",
        &[
            (class(json!({})), &[]),
            (
                class(json!({"parameters": many})),
                &["parameters: Too long: may not be more than 512 bytes"],
            ),
            (
                class(json!({"parameters": {"": "v"}})),
                &[r#"parameters: Invalid value: "": field can not be empty."#],
            ),
            (
                class(json!({"parameters": {"k": "v".repeat(262_144)}})),
                &["parameters: Too long: may not be more than 262144 bytes"],
            ),
            (
                class(json!({"allowedTopologies": [{"matchLabelExpressions": [zone(json!(["a", "b"]))]}, {}]})),
                &["allowedTopologies[1]: Required value"],
            ),
            (
                class(json!({"allowedTopologies": [
                    {"matchLabelExpressions": [zone(json!(["a", "a"])), {"key": "rack", "values": []}, zone(json!(["c"]))]},
                ]})),
                &[
                    r#"allowedTopologies[0].matchLabelExpressions[0].values[1]: Duplicate value: "a""#,
                    "allowedTopologies[0].matchLabelExpressions[1].values: Required value",
                    r#"allowedTopologies[0].matchLabelExpressions[2].key: Duplicate value: "zone""#,
                ],
            ),
            (
                class(json!({"allowedTopologies": [
                    {"matchLabelExpressions": [zone(json!(["a", "b"]))]},
                    {"matchLabelExpressions": [zone(json!(["b", "a"]))]},
                ]})),
                &[r#"allowedTopologies[1].matchLabelExpressions: Duplicate value: """#],
            ),
        ],
    );
}

#[test]
fn names_of_signers() {
    let said = |name: &str| {
        let request = json!({"metadata": {"name": "r"}, "spec": {"signerName": name, "usages": ["client auth"], "request": ""}});
        let mut told = said("certificatesigningrequests", request, None);
        told.retain(|text| text.starts_with("spec.signerName"));
        told
    };
    let label = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
    let subdomain = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
    let whole = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
    let invalid = |value: &str, why: &str| format!("spec.signerName: Invalid value: {value:?}: {why}");
    let rows: [(&str, Vec<String>); 8] = [
        ("example.com/signer", vec![]),
        ("", vec!["spec.signerName: Required value".to_owned()]),
        (
            "kubernetes.io/legacy-unknown",
            vec![invalid(
                "kubernetes.io/legacy-unknown",
                "the legacy signerName is not allowed via this API version",
            )],
        ),
        ("signer", vec![invalid("signer", whole)]),
        ("a.b/c/d", vec![invalid("a.b/c/d", whole)]),
        (
            "example/signer",
            vec![invalid(
                "example",
                "should be a domain with at least two segments separated by dots",
            )],
        ),
        (
            "EXAMPLE.com/signer",
            vec![invalid("EXAMPLE.com", &format!("validating label \"EXAMPLE\": {label}"))],
        ),
        (
            "example.com/Signer",
            vec![invalid("Signer", &format!("validating label \"Signer\": {subdomain}"))],
        ),
    ];
    for (name, wanted) in rows {
        assert_eq!(said(name), wanted, "{name}");
    }
}

#[test]
fn huge_pages_are_taken_whole() {
    let pod = |resources: Value| json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i", "resources": resources}]}});
    let said = |resources: Value| {
        let mut told = said("pods", pod(resources), None);
        told.retain(|text| text.contains("multiple"));
        told
    };
    let both = |amount: &str| json!({"limits": {"cpu": "1", "hugepages-2Mi": amount}, "requests": {"cpu": "1", "hugepages-2Mi": amount}});
    assert_eq!(said(both("4Mi")), Vec::<String>::new());
    assert_eq!(
        said(both("3Mi")),
        ["limits", "requests"].map(|kind| {
            format!(r#"spec.containers[0].resources.{kind}[hugepages-2Mi]: Invalid value: "3Mi": 3Mi is not positive integer multiple of hugepages-2Mi"#)
        })
    );
}

#[test]
fn what_a_node_has_and_where_it_is() {
    let node = |spec: Value, status: Value| json!({"metadata": {"name": "n"}, "spec": spec, "status": status});
    let none = || json!({});
    let families = "may specify no more than one CIDR for each IP family";
    let two = json!(["10.0.0.0/24", "10.0.1.0/24"]);
    let here = json!({"type": "InternalIP", "address": "10.0.0.1"});
    let rows: [(Value, Vec<String>); 5] = [
        (node(json!({"podCIDRs": ["10.0.0.0/24", "fd00::/64"]}), none()), vec![]),
        (
            node(json!({"podCIDRs": two}), none()),
            vec![format!("spec.podCIDRs: Invalid value: {two}: {families}")],
        ),
        (
            node(json!({"podCIDRs": ["10.0.0.0/99"]}), none()),
            vec![
                r#"spec.podCIDRs[0]: Invalid value: "10.0.0.0/99": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"#
                    .to_owned(),
            ],
        ),
        (
            node(
                none(),
                json!({"capacity": {"cpu": "-1"}, "allocatable": {"example.com/gpu": "500m"}}),
            ),
            vec![
                r#"status.capacity.cpu: Invalid value: "-1": must be greater than or equal to 0"#.to_owned(),
                r#"status.allocatable.example.com/gpu: Invalid value: "500m": must be an integer"#.to_owned(),
            ],
        ),
        (
            node(none(), json!({"addresses": [here, {"type": "Hostname", "address": "n"}, here]})),
            vec![format!("status.addresses[2]: Duplicate value: {here}")],
        ),
    ];
    for (node, wanted) in rows {
        assert_eq!(said("nodes", node.clone(), None), wanted, "{node}");
    }
}
