//! What is told in `Warning` headers, in upstream's words.

use super::*;

fn told(plural: &str, new: Value, old: Option<Value>) -> Vec<String> {
    let registry = builtin();
    row(&registry, plural).strategy.warnings(&object(new), old.map(object).as_ref())
}

#[test]
fn what_is_deprecated_is_told() {
    let beta = json!({"volume.beta.kubernetes.io/storage-class": "fast"});
    let class =
        r#"metadata.annotations[volume.beta.kubernetes.io/storage-class]: deprecated since v1.8; use "storageClassName" attribute instead"#;
    let zone = r#"deprecated since v1.17; use "topology.kubernetes.io/zone" instead"#;
    let term = json!({"matchExpressions": [{"key": "failure-domain.beta.kubernetes.io/zone", "operator": "Exists"}]});
    let table: [(&str, Value, Vec<String>); 6] = [
        (
            "persistentvolumes",
            json!({
                "metadata": {"name": "v", "annotations": beta},
                "spec": {
                    "persistentVolumeReclaimPolicy": "Recycle",
                    "nodeAffinity": {"required": {"nodeSelectorTerms": [term]}},
                },
            }),
            vec![
                class.to_owned(),
                "spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.".to_owned(),
                format!("spec.nodeAffinity.required.nodeSelectorTerms[0].matchExpressions[0].key: failure-domain.beta.kubernetes.io/zone is {zone}"),
            ],
        ),
        (
            "persistentvolumeclaims",
            json!({
                "metadata": {"name": "c", "annotations": beta},
                "spec": {"resources": {"limits": {"storage": "2500m"}, "requests": {"storage": "500m"}}},
            }),
            vec![
                class.to_owned(),
                r#"spec.resources.requests[storage]: fractional byte value "500m" is invalid, must be an integer"#.to_owned(),
                r#"spec.resources.limits[storage]: fractional byte value "2500m" is invalid, must be an integer"#.to_owned(),
            ],
        ),
        (
            "runtimeclasses",
            json!({"metadata": {"name": "r"}, "scheduling": {"nodeSelector": {"failure-domain.beta.kubernetes.io/zone": "a", "b": "c"}}}),
            vec![format!("scheduling.nodeSelector: {zone}")],
        ),
        (
            "storageclasses",
            json!({
                "metadata": {"name": "s"},
                "allowedTopologies": [{"matchLabelExpressions": [{"key": "a"}, {"key": "failure-domain.beta.kubernetes.io/zone"}]}],
            }),
            vec![format!("allowedTopologies[0].matchLabelExpressions[1].key: {zone}")],
        ),
        (
            "nodes",
            json!({"metadata": {"name": "n"}, "spec": {"configSource": {"configMap": {}}, "externalID": "x"}}),
            vec![
                "spec.configSource: the feature is removed".to_owned(),
                "spec.externalID: this field is deprecated, and is unused by Kubernetes".to_owned(),
            ],
        ),
        (
            "endpointslices",
            json!({"metadata": {"name": "s"}, "addressType": "FQDN", "endpoints": []}),
            vec!["spec.addressType: FQDN endpoints are deprecated".to_owned()],
        ),
    ];
    for (plural, object, wanted) in table {
        assert_eq!(told(plural, object.clone(), None), wanted, "{plural} {object}");
    }
}

#[test]
fn unusual_addresses_are_told_of() {
    let table: [(&str, Value, Vec<String>); 4] = [
        (
            "endpointslices",
            json!({"metadata": {"name": "s"}, "addressType": "IPv6", "endpoints": [{"addresses": ["fd00::1", "FD00::2"]}]}),
            vec![r#"endpoints[0].addresses[1]: IPv6 address "FD00::2" should be in RFC 5952 canonical format ("fd00::2")"#.to_owned()],
        ),
        (
            "endpoints",
            json!({"metadata": {"name": "e"}, "subsets": [{"notReadyAddresses": [{"ip": "::ffff:10.0.0.1"}]}]}),
            vec![
                r#"subsets[0].notReadyAddresses[0].ip: non-standard IP address "::ffff:10.0.0.1" will be considered invalid in a future Kubernetes release: use "10.0.0.1""#
                    .to_owned(),
            ],
        ),
        (
            "services",
            json!({
                "metadata": {"name": "s"},
                "spec": {
                    "type": "LoadBalancer", "externalIPs": ["FD00::1"], "clusterIPs": ["None"],
                    "loadBalancerIP": "FD00::2", "loadBalancerSourceRanges": ["10.1.2.3/8"],
                },
            }),
            vec![
                r#"spec.externalIPs[0]: IPv6 address "FD00::1" should be in RFC 5952 canonical format ("fd00::1")"#.to_owned(),
                r#"spec.loadBalancerIP: IPv6 address "FD00::2" should be in RFC 5952 canonical format ("fd00::2")"#.to_owned(),
                r#"spec.loadBalancerSourceRanges[0]: CIDR value "10.1.2.3/8" is ambiguous in this context (should be "10.0.0.0/8" or "10.1.2.3/32"?)"#
                    .to_owned(),
            ],
        ),
        (
            "pods",
            json!({
                "metadata": {"name": "p"},
                "spec": {"containers": [], "hostAliases": [{"ip": "FD00::1"}], "dnsConfig": {"nameservers": ["FD00::2"]}},
            }),
            vec![
                r#"spec.dnsConfig.nameservers[0]: IPv6 address "FD00::2" should be in RFC 5952 canonical format ("fd00::2")"#.to_owned(),
                r#"spec.hostAliases[0].ip: IPv6 address "FD00::1" should be in RFC 5952 canonical format ("fd00::1")"#.to_owned(),
            ],
        ),
    ];
    for (plural, object, wanted) in table {
        assert_eq!(told(plural, object.clone(), None), wanted, "{plural} {object}");
    }
}

#[test]
fn who_sets_an_old_annotation_is_told_once() {
    let account = |annotations: Value| json!({"metadata": {"name": "a", "annotations": annotations}});
    let old = || account(json!({"kubernetes.io/enforce-mountable-secrets": "true"}));
    let text = "metadata.annotations[kubernetes.io/enforce-mountable-secrets]: deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets";
    assert_eq!(told("serviceaccounts", old(), None), [text]);
    assert_eq!(told("serviceaccounts", old(), Some(account(json!({})))), [text]);
    assert!(told("serviceaccounts", old(), Some(old())).is_empty());
}

#[test]
fn controllers_are_not_told_of_addresses_they_take_from_pods() {
    let labels = json!({"endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"});
    let slice = json!({"metadata": {"name": "s", "labels": labels}, "addressType": "IPv6", "endpoints": [{"addresses": ["FD00::2"]}]});
    assert!(told("endpointslices", slice, None).is_empty());
    let labels = json!({"endpoints.kubernetes.io/managed-by": "endpoint-controller"});
    let endpoints = json!({"metadata": {"name": "e", "labels": labels}, "subsets": [{"addresses": [{"ip": "FD00::2"}]}]});
    assert!(told("endpoints", endpoints, None).is_empty());
}
