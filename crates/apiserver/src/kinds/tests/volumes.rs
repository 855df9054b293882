//! Rules and columns of `PersistentVolume` and `PersistentVolumeClaim`.

use super::*;

fn volume(more: Value) -> Value {
    let mut volume = json!({
        "metadata": { "name": "v" },
        "spec": { "capacity": { "storage": "1Gi" }, "accessModes": ["ReadWriteOnce"], "hostPath": { "path": "/data", "type": "" }, "volumeMode": "Filesystem" },
    });
    for (key, value) in more.as_object().unwrap() {
        volume["spec"][key] = value.clone();
    }
    volume
}

fn claim(more: Value) -> Value {
    let mut claim = json!({
        "metadata": { "name": "c", "namespace": "default" },
        "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } }, "volumeMode": "Filesystem" },
    });
    for (key, value) in more.as_object().unwrap() {
        claim["spec"][key] = value.clone();
    }
    claim
}

#[test]
fn rules_of_a_volume() {
    let rows = [
        (json!({}), vec![]),
        (json!({ "accessModes": [] }), vec!["spec.accessModes: Required value".to_owned()]),
        (
            json!({ "accessModes": ["Sometimes"] }),
            vec![r#"spec.accessModes: Unsupported value: "Sometimes": supported values: "ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod""#.to_owned()],
        ),
        (
            json!({ "capacity": {} }),
            vec![
                "spec.capacity: Required value".to_owned(),
                r#"spec.capacity: Unsupported value: core.ResourceList{}: supported values: "storage""#.to_owned(),
            ],
        ),
        (
            json!({ "nodeAffinity": { "required": { "nodeSelectorTerms": [] } } }),
            vec!["spec.nodeAffinity.required.nodeSelectorTerms: Required value: must have at least one node selector term".to_owned()],
        ),
        (
            json!({ "capacity": { "storage": "0" } }),
            vec![r#"spec.capacity[storage]: Invalid value: "0": must be greater than zero"#.to_owned()],
        ),
        (json!({ "hostPath": null }), vec!["spec: Required value: must specify a volume type".to_owned()]),
        (
            json!({ "local": { "path": "/d" } }),
            vec![
                "spec.local: Forbidden: may not specify more than 1 volume type".to_owned(),
                "spec.nodeAffinity: Required value: Local volume requires node affinity".to_owned(),
            ],
        ),
        (json!({ "hostPath": { "path": "/a/../b" } }), vec![r#"spec.hostPath.path: Invalid value: "/a/../b": must not contain '..'"#.to_owned()]),
        (
            json!({ "persistentVolumeReclaimPolicy": "Burn" }),
            vec![r#"spec.persistentVolumeReclaimPolicy: Unsupported value: "Burn": supported values: "Delete", "Recycle", "Retain""#.to_owned()],
        ),
        (json!({ "hostPath": null, "nfs": { "server": "s", "path": "/" } }), vec![format!("spec.nfs: Forbidden: Lifepod {} does not mount volumes of this kind yet", env!("CARGO_PKG_VERSION"))]),
    ];
    for (spec, wanted) in rows {
        assert_eq!(said("persistentvolumes", volume(spec.clone()), None), wanted, "{spec}");
    }
    assert_eq!(
        said(
            "persistentvolumes",
            volume(json!({ "hostPath": { "path": "/other" } })),
            Some(volume(json!({})))
        ),
        [
            "spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable after creation\n- spec.hostPath.path: \"/data\"\n+ spec.hostPath.path: \"/other\"\n"
        ]
    );
}

#[test]
fn rules_of_a_claim() {
    let rows = [
        (json!({}), vec![]),
        (
            json!({ "resources": {} }),
            vec!["spec.resources[storage]: Required value".to_owned()],
        ),
        (json!({ "storageClassName": "A" }), vec![]),
        (
            json!({ "volumeMode": "Block" }),
            vec![format!(
                "spec.volumeMode: Forbidden: Lifepod {} does not attach volume devices yet",
                env!("CARGO_PKG_VERSION")
            )],
        ),
    ];
    for (spec, wanted) in rows {
        let texts = said("persistentvolumeclaims", claim(spec.clone()), None);
        if spec["storageClassName"] == "A" {
            assert!(
                texts[0].starts_with(r#"spec.storageClassName: Invalid value: "A": a lowercase RFC 1123 subdomain"#),
                "{texts:?}"
            );
        } else {
            assert_eq!(texts, wanted, "{spec}");
        }
    }
    let stored = || Some(claim(json!({})));
    let grown = claim(json!({ "resources": { "requests": { "storage": "2Gi" } } }));
    assert!(said("persistentvolumeclaims", grown, stored())[0].contains("only dynamically provisioned pvc can be resized"));
    assert_eq!(
        said("persistentvolumeclaims", claim(json!({ "volumeName": "v" })), stored()),
        Vec::<String>::new()
    );
    let moved = claim(json!({ "volumeName": "w" }));
    let texts = said("persistentvolumeclaims", moved, Some(claim(json!({ "volumeName": "v" }))));
    assert_eq!(
        texts,
        [
            "spec: Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n- spec.volumeName: \"v\"\n+ spec.volumeName: \"w\"\n"
        ]
    );
}

#[test]
fn cells_of_volumes_and_claims() {
    let mut bound = volume(
        json!({ "claimRef": { "namespace": "n", "name": "c" }, "storageClassName": "s", "persistentVolumeReclaimPolicy": "Delete", "volumeMode": "Filesystem" }),
    );
    bound["status"] = json!({ "phase": "Bound" });
    assert_eq!(
        cells("persistentvolumes", bound),
        json!([
            "v",
            "1Gi",
            "RWO",
            "Delete",
            "Bound",
            "n/c",
            "s",
            "<unset>",
            "",
            "<unknown>",
            "Filesystem"
        ])
    );
    let mut got = claim(json!({ "volumeName": "v", "storageClassName": "s", "volumeMode": "Filesystem" }));
    got["status"] = json!({ "phase": "Bound", "capacity": { "storage": "2Gi" }, "accessModes": ["ReadWriteMany", "ReadWriteOnce"] });
    assert_eq!(
        cells("persistentvolumeclaims", got),
        json!(["c", "Bound", "v", "2Gi", "RWO,RWX", "s", "<unset>", "<unknown>", "Filesystem"])
    );
    let mut waits = claim(json!({}));
    waits["status"] = json!({ "phase": "Pending" });
    assert_eq!(
        cells("persistentvolumeclaims", waits),
        json!(["c", "Pending", "", "", "", "", "<unset>", "<unknown>", "Filesystem"])
    );
}
