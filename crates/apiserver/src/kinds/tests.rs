use api::Object;
use serde_json::json;

use super::*;
use crate::registry::Rules;
use crate::table::{self, IncludeObject};

fn object(value: Value) -> Object {
    serde_json::from_value(value).unwrap()
}

fn row<'a>(registry: &'a Registry, plural: &str) -> &'a Resource {
    registry.rows().find(|row| row.id.plural == plural).unwrap()
}

/// What is said of an object of a kind, created or changed.
fn said(plural: &str, new: Value, old: Option<Value>) -> Vec<String> {
    let registry = builtin();
    let strategy = &row(&registry, plural).strategy;
    let (mut new, old) = (object(new), old.map(object));
    strategy.default(&mut new);
    let rules = if old.is_some() { Rules::Update } else { Rules::Create };
    strategy
        .validate(&new, old.as_ref(), rules)
        .iter()
        .map(|v| format!("{}: {}", v.field, v.message))
        .collect()
}

fn cells(plural: &str, value: Value) -> Value {
    let registry = builtin();
    table::single(row(&registry, plural), &object(value), IncludeObject::None, false, api::Time(0))["rows"][0]["cells"].clone()
}

#[test]
fn every_row_is_there_once() {
    let registry = builtin();
    let names: Vec<String> = registry
        .rows()
        .map(|row| format!("{} {} {}", row.id.api_version(), row.id.qualified(), row.short_names.join(",")))
        .collect();
    assert_eq!(
        names,
        [
            "v1 configmaps cm",
            "v1 endpoints ep",
            "v1 events ev",
            "v1 limitranges limits",
            "v1 namespaces ns",
            "v1 nodes no",
            "v1 persistentvolumeclaims pvc",
            "v1 persistentvolumes pv",
            "v1 pods po",
            "v1 podtemplates ",
            "v1 replicationcontrollers rc",
            "v1 resourcequotas quota",
            "v1 secrets ",
            "v1 serviceaccounts sa",
            "v1 services svc",
            "apps/v1 controllerrevisions.apps ",
            "authentication.k8s.io/v1 selfsubjectreviews.authentication.k8s.io ",
            "authentication.k8s.io/v1 tokenreviews.authentication.k8s.io ",
            "authorization.k8s.io/v1 localsubjectaccessreviews.authorization.k8s.io ",
            "authorization.k8s.io/v1 selfsubjectaccessreviews.authorization.k8s.io ",
            "authorization.k8s.io/v1 selfsubjectrulesreviews.authorization.k8s.io ",
            "authorization.k8s.io/v1 subjectaccessreviews.authorization.k8s.io ",
            "certificates.k8s.io/v1 certificatesigningrequests.certificates.k8s.io csr",
            "coordination.k8s.io/v1 leases.coordination.k8s.io ",
            "discovery.k8s.io/v1 endpointslices.discovery.k8s.io ",
            "events.k8s.io/v1 events.events.k8s.io ev",
            "metrics.k8s.io/v1beta1 nodes.metrics.k8s.io ",
            "metrics.k8s.io/v1beta1 pods.metrics.k8s.io ",
            "node.k8s.io/v1 runtimeclasses.node.k8s.io ",
            "policy/v1 poddisruptionbudgets.policy pdb",
            "rbac.authorization.k8s.io/v1 clusterrolebindings.rbac.authorization.k8s.io ",
            "rbac.authorization.k8s.io/v1 clusterroles.rbac.authorization.k8s.io ",
            "rbac.authorization.k8s.io/v1 rolebindings.rbac.authorization.k8s.io ",
            "rbac.authorization.k8s.io/v1 roles.rbac.authorization.k8s.io ",
            "scheduling.k8s.io/v1 priorityclasses.scheduling.k8s.io pc",
            "storage.k8s.io/v1 csinodes.storage.k8s.io ",
            "storage.k8s.io/v1 storageclasses.storage.k8s.io sc",
        ]
    );
    for row in registry.rows() {
        assert_eq!(
            row.schema().group_version_kind(),
            Some((row.id.group.as_str(), row.id.version.as_str(), row.id.kind.as_str()))
        );
        assert!(
            row.columns.iter().filter(|column| column.name == "Name").count() == 1,
            "{}",
            row.id.plural
        );
    }
}

#[test]
fn fields_of_a_pod_can_be_selected() {
    let registry = builtin();
    let pod = object(json!({ "spec": { "nodeName": "n", "hostNetwork": true }, "status": { "phase": "Running" } }));
    let value = |name: &str| {
        row(&registry, "pods")
            .fields
            .iter()
            .find(|field| field.name == name)
            .unwrap()
            .of(&pod)
    };
    assert_eq!(
        (
            value("spec.nodeName"),
            value("spec.hostNetwork"),
            value("status.phase"),
            value("status.podIP")
        ),
        ("n".into(), "true".into(), "Running".into(), String::new())
    );
    let node = object(json!({ "spec": {} }));
    assert_eq!(row(&registry, "nodes").fields[0].of(&node), "false");
}

#[test]
fn config_maps() {
    let name = json!({ "name": "m" });
    assert_eq!(
        said("configmaps", json!({ "metadata": name, "data": { "a.b": "1" } }), None),
        Vec::<String>::new()
    );
    let bad = said("configmaps", json!({ "metadata": name, "data": { "a b": "1" } }), None);
    assert!(
        bad.len() == 1 && bad[0].starts_with(r#"data[a b]: Invalid value: "a b": a valid config key must consist of"#),
        "{bad:?}"
    );
    assert_eq!(
        said("configmaps", json!({ "data": { "a": "1" }, "binaryData": { "a": "AA==" } }), None),
        [r#"data[a]: Invalid value: "a": duplicate of key present in binaryData"#]
    );
    let big = json!({ "data": { "a": "x".repeat(1024 * 1024) }, "binaryData": { "b": "AAAA" } });
    assert_eq!(said("configmaps", big, None), [": Too long: may not be more than 1048576 bytes"]);
    let old = json!({ "immutable": true, "data": { "a": "1" } });
    assert_eq!(said("configmaps", old.clone(), Some(old.clone())), Vec::<String>::new());
    assert_eq!(
        said("configmaps", json!({ "data": { "a": "2" } }), Some(old)),
        [
            "immutable: Forbidden: field is immutable when `immutable` is set",
            "data: Forbidden: field is immutable when `immutable` is set"
        ]
    );
    assert_eq!(
        cells(
            "configmaps",
            json!({ "metadata": name, "data": { "a": "1" }, "binaryData": { "b": "" } })
        ),
        json!(["m", 2, "<unknown>"])
    );
}

#[test]
fn secrets() {
    let registry = builtin();
    let mut secret = object(json!({ "data": { "a": "MQ==", "b": "Mg==" }, "stringData": { "b": "3" } }));
    row(&registry, "secrets").strategy.default(&mut secret);
    assert_eq!(
        Value::Object(secret.body),
        json!({ "type": "Opaque", "data": { "a": "MQ==", "b": "Mw==" } })
    );
    let rows = [
        (
            json!({ "type": "kubernetes.io/tls" }),
            vec!["data[tls.crt]: Required value", "data[tls.key]: Required value"],
        ),
        (
            json!({ "type": "kubernetes.io/ssh-auth" }),
            vec!["data[ssh-privatekey]: Required value"],
        ),
        (
            json!({ "type": "kubernetes.io/basic-auth" }),
            vec!["data[username]: Required value", "data[password]: Required value"],
        ),
        (
            json!({ "type": "kubernetes.io/basic-auth", "stringData": { "password": "x" } }),
            vec![],
        ),
        (
            json!({ "type": "kubernetes.io/dockerconfigjson" }),
            vec!["data[.dockerconfigjson]: Required value"],
        ),
        (
            json!({ "type": "kubernetes.io/dockerconfigjson", "stringData": { ".dockerconfigjson": "{}" } }),
            vec![],
        ),
        (
            json!({ "type": "kubernetes.io/service-account-token" }),
            vec!["metadata.annotations[kubernetes.io/service-account.name]: Required value"],
        ),
        (json!({ "type": "own", "stringData": { "k": "v" } }), vec![]),
    ];
    for (secret, wanted) in rows {
        assert_eq!(said("secrets", secret.clone(), None), wanted, "{secret}");
    }
    let bad = said(
        "secrets",
        json!({ "type": "kubernetes.io/dockercfg", "stringData": { ".dockercfg": "[" } }),
        None,
    );
    assert!(bad.len() == 1 && bad[0].contains("<secret contents redacted>"), "{bad:?}");
    assert_eq!(
        said("secrets", json!({ "type": "b" }), Some(json!({ "type": "a" }))),
        [r#"type: Invalid value: "b": field is immutable"#]
    );
    assert_eq!(
        cells(
            "secrets",
            json!({ "metadata": { "name": "s" }, "type": "Opaque", "data": { "a": "" } })
        ),
        json!(["s", "Opaque", 1, "<unknown>"])
    );
}

#[test]
fn namespaces() {
    let registry = builtin();
    let strategy = &row(&registry, "namespaces").strategy;
    let mut new = object(json!({ "metadata": { "name": "n" }, "status": { "phase": "Odd" } }));
    strategy.default(&mut new);
    strategy.prepare(Change::Create { new: &mut new }, api::Time(0));
    assert_eq!(new.at("spec.finalizers"), Some(&json!(["kubernetes"])));
    assert_eq!(new.str_at("status.phase"), "Active");
    assert_eq!(new.meta.labels.as_ref().unwrap()["kubernetes.io/metadata.name"], "n");
    let mut update = object(json!({ "metadata": { "name": "n" } }));
    strategy.prepare(
        Change::Update {
            new: &mut update,
            old: &new,
        },
        api::Time(0),
    );
    assert_eq!(update.body, new.body);
    assert!(strategy.check_name("a.b").is_err());
    let mut odd = new.clone();
    odd.body["status"]["phase"] = json!("Terminating");
    assert_eq!(strategy.validate(&odd, Some(&new), Rules::UpdateStatus).len(), 1);
    assert_eq!(
        cells(
            "namespaces",
            json!({ "metadata": { "name": "n" }, "status": { "phase": "Active" } })
        ),
        json!(["n", "Active", "<unknown>"])
    );
}

#[test]
fn nodes() {
    let name = json!({ "name": "n" });
    assert_eq!(
        said(
            "nodes",
            json!({ "metadata": name, "spec": { "podCIDR": "10.0.0.0/24", "podCIDRs": ["10.0.0.0/24"] } }),
            None
        ),
        Vec::<String>::new()
    );
    assert_eq!(
        said("nodes", json!({ "spec": { "podCIDRs": ["10.0.0.0"] } }), None),
        [r#"spec.podCIDRs[0]: Invalid value: "10.0.0.0": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"#]
    );
    assert_eq!(
        said("nodes", json!({ "spec": { "podCIDR": "a" } }), Some(json!({ "spec": {} }))),
        Vec::<String>::new()
    );
    assert_eq!(
        said(
            "nodes",
            json!({ "spec": { "podCIDR": "10.0.1.0/24" } }),
            Some(json!({ "spec": { "podCIDR": "10.0.0.0/24" } }))
        ),
        [r#"spec.podCIDRs: Forbidden: node updates may not change podCIDR except from "" to valid"#]
    );
    let taint = json!({ "key": "a", "effect": "NoSchedule" });
    assert_eq!(
        said("nodes", json!({ "spec": { "taints": [taint, taint] } }), None),
        [r#"spec.taints[1]: Duplicate value: "a:NoSchedule": taints must be unique by key and effect pair"#]
    );
    assert_eq!(
        said("nodes", json!({ "spec": { "taints": [{ "key": "a" }] } }), None),
        ["spec.taints[0].effect: Required value"]
    );
    let registry = builtin();
    let mut registered = object(json!({ "metadata": name, "status": { "capacity": { "cpu": "2" } } }));
    row(&registry, "nodes")
        .strategy
        .prepare(Change::Create { new: &mut registered }, api::Time(0));
    assert_eq!(registered.str_at("status.capacity.cpu"), "2");
}

#[test]
fn node_cells() {
    let node = |ready: Value, more: Value| {
        let mut node = json!({
            "metadata": { "name": "n", "labels": { "node-role.kubernetes.io/worker": "", "node-role.kubernetes.io/control-plane": "", "kubernetes.io/role": "x" } },
            "spec": more,
            "status": {
                "conditions": ready, "nodeInfo": { "kubeletVersion": "v1.33.0", "osImage": "Debian", "kernelVersion": "6.1" },
                "addresses": [{ "type": "Hostname", "address": "n" }, { "type": "InternalIP", "address": "10.0.0.1" }],
            },
        });
        node["kind"] = json!("Node");
        cells("nodes", node)
    };
    let ready = json!([{ "type": "Ready", "status": "True" }]);
    assert_eq!(
        node(ready.clone(), json!({})),
        json!([
            "n",
            "Ready",
            "control-plane,worker,x",
            "<unknown>",
            "v1.33.0",
            "10.0.0.1",
            "<none>",
            "Debian",
            "6.1",
            "<unknown>"
        ])
    );
    assert_eq!(node(ready, json!({ "unschedulable": true }))[1], "Ready,SchedulingDisabled");
    assert_eq!(node(json!([{ "type": "Ready", "status": "Unknown" }]), json!({}))[1], "NotReady");
    assert_eq!(node(json!([]), json!({}))[1], "Unknown");
}

#[test]
fn leases() {
    let lease = |spec: Value| json!({ "metadata": { "name": "l" }, "spec": spec });
    assert_eq!(
        said("leases", lease(json!({ "leaseDurationSeconds": 40, "leaseTransitions": 0 })), None),
        Vec::<String>::new()
    );
    assert_eq!(
        said("leases", lease(json!({ "leaseDurationSeconds": 0, "leaseTransitions": -1 })), None),
        [
            "spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0",
            "spec.leaseTransitions: Invalid value: -1: must be greater than or equal to 0"
        ]
    );
    assert_eq!(
        cells("leases", lease(json!({ "holderIdentity": "h" }))),
        json!(["l", "h", "<unknown>"])
    );
}

#[test]
fn endpoints() {
    let subset = |subset: Value| json!({ "metadata": { "name": "e" }, "subsets": [subset] });
    assert_eq!(
        said(
            "endpoints",
            subset(json!({ "addresses": [{ "ip": "10.0.0.1" }], "ports": [{ "port": 80 }] })),
            None
        ),
        Vec::<String>::new()
    );
    assert_eq!(
        said("endpoints", subset(json!({})), None),
        ["subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`"]
    );
    assert_eq!(
        said(
            "endpoints",
            subset(json!({ "addresses": [{ "ip": "10.0.0.1" }], "ports": [{ "port": 80 }, { "port": 81, "name": "b" }] })),
            None
        ),
        ["subsets[0].ports[0].name: Required value"]
    );
    let many = json!({ "addresses": [{ "ip": "10.0.0.1" }, { "ip": "fd00::1" }], "ports": [{ "port": 80 }, { "port": 81 }] });
    assert_eq!(
        cells("endpoints", subset(many)),
        json!(["e", "10.0.0.1:80,[fd00::1]:80,10.0.0.1:81 + 1 more...", "<unknown>"])
    );
    assert_eq!(
        cells("endpoints", json!({ "metadata": { "name": "e" } })),
        json!(["e", "<none>", "<unknown>"])
    );
}

#[test]
fn endpoint_slices() {
    let slice = |more: Value| {
        let mut slice = json!({ "metadata": { "name": "s" }, "addressType": "IPv4", "endpoints": [{ "addresses": ["10.0.0.1"] }] });
        for (key, value) in more.as_object().unwrap() {
            slice[key] = value.clone();
        }
        slice
    };
    let rows = [
        (json!({ "ports": [{ "port": 80 }] }), vec![]),
        (json!({ "addressType": "" }), vec!["addressType: Required value"]),
        (
            json!({ "addressType": "X" }),
            vec![r#"addressType: Unsupported value: "X": supported values: "FQDN", "IPv4", "IPv6""#],
        ),
        (
            json!({ "addressType": "IPv6" }),
            vec![r#"endpoints[0].addresses[0]: Invalid value: "10.0.0.1": must be a valid IPv6 address"#],
        ),
        (
            json!({ "endpoints": [{ "addresses": [] }] }),
            vec!["endpoints[0].addresses: Required value: must contain at least 1 address"],
        ),
        (
            json!({ "ports": [{ "port": 80 }, { "port": 81 }] }),
            vec![r#"ports[1].name: Duplicate value: """#],
        ),
    ];
    for (more, wanted) in rows {
        assert_eq!(said("endpointslices", slice(more.clone()), None), wanted, "{more}");
    }
    let crowd: Vec<Value> = (0..1001).map(|_| json!({ "addresses": ["10.0.0.1"] })).collect();
    assert_eq!(
        said("endpointslices", slice(json!({ "endpoints": crowd })), None),
        ["endpoints: Too many: 1001: must have at most 1000 items"]
    );
    let old = slice(json!({ "addressType": "FQDN" }));
    assert_eq!(
        said("endpointslices", slice(json!({})), Some(old)),
        [r#"addressType: Invalid value: "IPv4": field is immutable"#]
    );
    assert_eq!(
        cells("endpointslices", slice(json!({ "ports": [{ "port": 80 }, {}] }))),
        json!(["s", "IPv4", "80,*", "10.0.0.1", "<unknown>"])
    );
    assert_eq!(
        cells("endpointslices", slice(json!({ "endpoints": [] }))),
        json!(["s", "IPv4", "<unset>", "<unset>", "<unknown>"])
    );
}

#[test]
fn service_accounts() {
    assert_eq!(
        cells(
            "serviceaccounts",
            json!({ "metadata": { "name": "a" }, "secrets": [{ "name": "x" }] })
        ),
        json!(["a", 1, "<unknown>"])
    );
}

mod refusals;
mod rows;
mod volumes;
mod warnings;
