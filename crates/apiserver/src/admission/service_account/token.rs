//! The volume through which a Pod shows who it is: a token of its account, the
//! CA of the cluster, and its namespace.
//!
//! Source: upstream `plugin/pkg/admission/serviceaccount/admission.go`,
//! `mountServiceAccountToken`, `TokenVolumeSource`.

use api::Object;
use serde_json::{Map, Value, json};

use crate::entropy;
use crate::kinds::values::{objects, text};

/// Where every container finds it.
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Begins the name of the volume.
const VOLUME_PREFIX: &str = "kube-api-access-";
/// How long a token is asked to live: an hour, and the seconds by which the
/// issuer knows that old clients may not read it anew.
const EXPIRATION_S: u64 = 3_607;

/// Whether the volume is wanted: the Pod says so, or else its account.
fn is_wanted(pod: &Object, account: &Object) -> bool {
    let of_pod = pod.at("spec.automountServiceAccountToken").and_then(Value::as_bool);
    let of_account = account.body.get("automountServiceAccountToken").and_then(Value::as_bool);
    of_pod.or(of_account).unwrap_or(true)
}

/// Adds the volume, and a mount in each container that has none at that path.
/// Ephemeral containers come later and get none, as upstream.
pub(super) fn mount(pod: &mut Object, account: &Object) {
    if !is_wanted(pod, account) {
        return;
    }
    let Some(Value::Object(spec)) = pod.body.get_mut("spec") else {
        return;
    };
    let own = objects(spec, "volumes")
        .map(|volume| text(volume, "name").to_owned())
        .find(|name| name.starts_with(VOLUME_PREFIX));
    let name = own.clone().unwrap_or_else(|| entropy::name(VOLUME_PREFIX));
    let mut needed = false;
    for list in ["initContainers", "containers"] {
        for container in objects(spec, list) {
            needed |= mount_in(container, &name);
        }
    }
    if needed && own.is_none() {
        push(spec, "volumes", volume(&name));
    }
}

/// Whether the container was given a mount.
fn mount_in(container: &mut Map<String, Value>, volume: &str) -> bool {
    if objects(container, "volumeMounts").any(|mount| text(mount, "mountPath") == MOUNT_PATH) {
        return false;
    }
    push(
        container,
        "volumeMounts",
        json!({ "name": volume, "readOnly": true, "mountPath": MOUNT_PATH }),
    );
    true
}

fn push(map: &mut Map<String, Value>, list: &str, item: Value) {
    if !matches!(map.get(list), Some(Value::Array(_))) {
        map.insert(list.to_owned(), json!([]));
    }
    if let Some(Value::Array(items)) = map.get_mut(list) {
        items.push(item);
    }
}

fn volume(name: &str) -> Value {
    json!({
        "name": name,
        "projected": {
            "defaultMode": 0o644,
            "sources": [
                { "serviceAccountToken": { "path": "token", "expirationSeconds": EXPIRATION_S } },
                { "configMap": { "name": "kube-root-ca.crt", "items": [{ "key": "ca.crt", "path": "ca.crt" }] } },
                { "downwardAPI": { "items": [{ "path": "namespace", "fieldRef": { "apiVersion": "v1", "fieldPath": "metadata.namespace" } }] } },
            ],
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mounted(spec: Value, account: Value) -> Value {
        let mut pod: Object = serde_json::from_value(json!({ "spec": spec })).unwrap();
        mount(&mut pod, &serde_json::from_value(account).unwrap());
        Value::Object(pod.body)["spec"].clone()
    }

    #[test]
    fn every_container_finds_its_token() {
        let spec = mounted(
            json!({ "containers": [{ "name": "a" }], "initContainers": [{ "name": "i" }], "ephemeralContainers": [{ "name": "e" }] }),
            json!({}),
        );
        let name = spec["volumes"][0]["name"].as_str().unwrap();
        assert!(name.starts_with("kube-api-access-") && name.len() == 21, "{name}");
        for list in ["containers", "initContainers"] {
            let mount = json!({ "name": name, "readOnly": true, "mountPath": MOUNT_PATH });
            assert_eq!(spec[list][0]["volumeMounts"], json!([mount]));
        }
        assert_eq!(spec["ephemeralContainers"][0].get("volumeMounts"), None);
        assert_eq!(
            spec["volumes"][0]["projected"]["sources"][0]["serviceAccountToken"]["expirationSeconds"],
            3607
        );
    }

    #[test]
    fn who_wants_none_gets_none() {
        let none = |pod: Value, account: Value| mounted(pod, account).get("volumes").is_none();
        let pod = |more: Value| {
            let mut spec = json!({ "containers": [{ "name": "a" }] });
            for (key, value) in more.as_object().unwrap() {
                spec[key] = value.clone();
            }
            spec
        };
        assert!(none(pod(json!({})), json!({ "automountServiceAccountToken": false })));
        assert!(none(
            pod(json!({ "automountServiceAccountToken": false })),
            json!({ "automountServiceAccountToken": true })
        ));
        assert!(!none(
            pod(json!({ "automountServiceAccountToken": true })),
            json!({ "automountServiceAccountToken": false })
        ));
    }

    #[test]
    fn what_is_mounted_there_stays() {
        let own = json!([{ "name": "mine", "mountPath": MOUNT_PATH }]);
        let spec = mounted(json!({ "containers": [{ "name": "a", "volumeMounts": own }] }), json!({}));
        assert_eq!((&spec["containers"][0]["volumeMounts"], spec.get("volumes")), (&own, None));
        let given = json!({ "containers": [{ "name": "a" }], "volumes": [{ "name": "kube-api-access-mine", "emptyDir": {} }] });
        let spec = mounted(given, json!({}));
        assert_eq!(spec["containers"][0]["volumeMounts"][0]["name"], "kube-api-access-mine");
        assert_eq!(spec["volumes"].as_array().unwrap().len(), 1);
    }
}
