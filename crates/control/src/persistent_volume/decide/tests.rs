use serde_json::{Value, json};

use super::*;

fn object<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

/// A world in which every step is written at once.
#[derive(Default)]
struct World {
    storage: Storage,
    used: BTreeSet<ClaimKey>,
    told: Vec<String>,
}

impl World {
    fn class(&mut self, provisioner: &str, mode: &str) {
        let class = json!({ "metadata": { "name": "s" }, "provisioner": provisioner, "volumeBindingMode": mode });
        self.storage.classes.insert("s".to_owned(), object(class));
    }

    fn claim(&mut self, name: &str, spec: Value) {
        let mut claim = json!({
            "metadata": { "name": name, "namespace": "n", "uid": format!("uid-{name}"), "finalizers": ["kubernetes.io/pvc-protection"] },
            "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } } },
            "status": { "phase": "Pending" },
        });
        for (key, value) in spec.as_object().unwrap() {
            claim["spec"][key] = value.clone();
        }
        self.storage.claims.insert(("n".to_owned(), name.to_owned()), object(claim));
    }

    fn volume(&mut self, name: &str, size: &str, spec: Value) {
        let mut volume = json!({
            "metadata": { "name": name, "uid": format!("uid-{name}"), "finalizers": ["kubernetes.io/pv-protection"] },
            "spec": { "accessModes": ["ReadWriteOnce"], "capacity": { "storage": size }, "persistentVolumeReclaimPolicy": "Retain" },
            "status": { "phase": "Pending" },
        });
        for (key, value) in spec.as_object().unwrap() {
            volume["spec"][key] = value.clone();
        }
        self.storage.volumes.insert(name.to_owned(), object(volume));
    }

    /// Writes what is to be written until nothing is.
    fn settle(&mut self) {
        for _ in 0..10 {
            let steps = decide(&self.storage, &self.used);
            let mut wrote = false;
            for step in steps {
                match step {
                    Step::Volume(volume) | Step::VolumeStatus(volume) | Step::Release(volume) => {
                        wrote = true;
                        self.storage.volumes.insert(name(&volume).to_owned(), *volume);
                    }
                    Step::Claim(claim) | Step::ClaimStatus(claim) => {
                        wrote = true;
                        self.storage.claims.insert(key(&claim.metadata), *claim);
                    }
                    Step::Tell(told) => {
                        let text = format!("{} {}: {}", told.kind, told.reason, told.message);
                        if !self.told.contains(&text) {
                            self.told.push(text);
                        }
                    }
                }
            }
            if !wrote {
                return;
            }
        }
        panic!("it does not settle");
    }

    /// Phase of a claim and the volume it has.
    fn of_claim(&self, name: &str) -> (String, String) {
        let claim = &self.storage.claims[&("n".to_owned(), name.to_owned())];
        let phase = claim.status.as_ref().and_then(|status| status.phase.clone()).unwrap();
        (phase, volume_name(claim).to_owned())
    }

    fn phase(&self, volume: &str) -> String {
        self.storage.volumes[volume]
            .status
            .as_ref()
            .and_then(|status| status.phase.clone())
            .unwrap()
    }
}

fn has(phase: &str, volume: &str) -> (String, String) {
    (phase.to_owned(), volume.to_owned())
}

#[test]
fn a_claim_gets_the_smallest_volume_that_will_do() {
    let mut world = World::default();
    world.volume("large", "10Gi", json!({}));
    world.volume("small", "500Mi", json!({}));
    world.volume("right", "2Gi", json!({}));
    world.volume("other", "1Gi", json!({ "storageClassName": "x" }));
    world.claim("c", json!({}));
    world.settle();
    assert_eq!(world.of_claim("c"), has("Bound", "right"));
    let claim = &world.storage.claims[&("n".to_owned(), "c".to_owned())];
    let capacity = claim.status.as_ref().unwrap().capacity.as_ref().unwrap();
    assert_eq!(capacity["storage"].0, "2Gi");
    let phases = ["large", "small", "right", "other"].map(|volume| world.phase(volume));
    assert_eq!(phases, ["Available", "Available", "Bound", "Available"]);
    assert!(world.told.is_empty(), "{:?}", world.told);
    // A second claim does not get the same one.
    world.claim("d", json!({}));
    world.settle();
    assert_eq!(world.of_claim("d"), has("Bound", "large"));
}

#[test]
fn why_a_claim_waits_is_told_in_upstreams_words() {
    let mut world = World::default();
    world.class("own/p", "WaitForFirstConsumer");
    world.claim("late", json!({ "storageClassName": "s" }));
    world.claim("none", json!({}));
    world.claim("unknown", json!({ "storageClassName": "q" }));
    world.settle();
    assert_eq!(
        world.told,
        [
            "Normal WaitForFirstConsumer: waiting for first consumer to be created before binding",
            "Normal FailedBinding: no persistent volumes available for this claim and no storage class is set",
            "Warning ProvisioningFailed: storageclass.storage.k8s.io \"q\" not found",
        ]
    );
    assert_eq!(world.of_claim("late"), has("Pending", ""));
}

#[test]
fn a_provisioner_is_asked_and_what_it_makes_is_taken() {
    let mut world = World::default();
    world.class("own/p", "WaitForFirstConsumer");
    world.claim("c", json!({ "storageClassName": "s" }));
    let claim = world.storage.claims.values_mut().next().unwrap();
    claim
        .metadata
        .annotations
        .get_or_insert_default()
        .insert(SELECTED_NODE.to_owned(), "n1".to_owned());
    world.settle();
    let claim = world.storage.claims.values().next().unwrap();
    assert_eq!(annotation(&claim.metadata, PROVISIONER), Some("own/p"));
    assert!(
        world.told[0]
            .starts_with("Normal ExternalProvisioning: Waiting for a volume to be created either by the external provisioner 'own/p'")
    );
    let reference = json!({ "namespace": "n", "name": "c", "uid": "uid-c" });
    world.volume("made", "1Gi", json!({ "claimRef": reference, "storageClassName": "s" }));
    world.settle();
    assert_eq!(
        (world.of_claim("c"), world.phase("made")),
        (has("Bound", "made"), "Bound".to_owned())
    );
}

#[test]
fn a_volume_outlives_its_claim_and_a_claim_tells_of_a_lost_volume() {
    let mut world = World::default();
    world.volume("v", "1Gi", json!({}));
    world.claim("c", json!({}));
    world.settle();
    let claim = world.storage.claims.pop_first().unwrap();
    world.settle();
    assert_eq!(world.phase("v"), "Released");
    // A new claim of the same name is another one.
    world.claim("c", json!({}));
    world.storage.claims.values_mut().next().unwrap().metadata.uid = Some("new".to_owned());
    world.settle();
    assert_eq!((world.of_claim("c"), world.phase("v")), (has("Pending", ""), "Released".to_owned()));

    let mut other = World::default();
    other.storage.claims.insert(claim.0, claim.1);
    other.settle();
    assert_eq!(other.of_claim("c"), has("Lost", "v"));
    assert_eq!(
        other.told,
        ["Warning ClaimLost: Bound claim has lost its PersistentVolume. Data on the volume is lost!"]
    );
}

#[test]
fn what_nobody_can_remove_fails_and_says_so() {
    let mut world = World::default();
    let reference = json!({ "namespace": "n", "name": "gone", "uid": "x" });
    world.volume(
        "v",
        "1Gi",
        json!({ "persistentVolumeReclaimPolicy": "Delete", "claimRef": reference }),
    );
    world.settle();
    assert_eq!(world.phase("v"), "Failed");
    assert_eq!(
        world.told,
        ["Warning VolumeFailedDelete: error getting deleter volume plugin for volume \"v\": no deletable volume plugin matched"]
    );
}

#[test]
fn a_claim_may_name_its_volume_and_a_volume_its_claim() {
    let mut world = World::default();
    world.volume("v", "1Gi", json!({}));
    world.volume("mine", "5Gi", json!({ "claimRef": { "namespace": "n", "name": "d" } }));
    world.volume("tiny", "1Mi", json!({}));
    world.claim("c", json!({ "volumeName": "v" }));
    world.claim("d", json!({}));
    world.claim("e", json!({ "volumeName": "v" }));
    world.claim("f", json!({ "volumeName": "tiny" }));
    world.settle();
    assert_eq!(world.of_claim("c"), has("Bound", "v"));
    assert_eq!(world.of_claim("d"), has("Bound", "mine"));
    assert_eq!(world.of_claim("e"), has("Pending", "v"));
    assert!(
        world
            .told
            .contains(&"Warning FailedBinding: volume \"v\" already bound to a different claim.".to_owned())
    );
    assert!(
        world
            .told
            .contains(&"Warning VolumeMismatch: Cannot bind to requested volume \"tiny\": requested PV is too small".to_owned())
    );
}

#[test]
fn what_is_used_stays_until_it_is_not() {
    let mut world = World::default();
    world.volume("v", "1Gi", json!({}));
    world.claim("c", json!({}));
    world.settle();
    let deleted: api::typed::WireTime = object(json!("2026-01-01T00:00:00Z"));
    world.storage.claims.values_mut().next().unwrap().metadata.deletion_timestamp = Some(deleted.clone());
    world.storage.volumes.get_mut("v").unwrap().metadata.deletion_timestamp = Some(deleted);
    world.used.insert(("n".to_owned(), "c".to_owned()));
    world.settle();
    let held = |world: &World| {
        let claim = world
            .storage
            .claims
            .values()
            .next()
            .map(|claim| claim.metadata.finalizers.clone().unwrap());
        (claim, world.storage.volumes["v"].metadata.finalizers.clone().unwrap())
    };
    assert_eq!(
        held(&world),
        (Some(vec![CLAIM_PROTECTION.to_owned()]), vec![VOLUME_PROTECTION.to_owned()])
    );
    world.used.clear();
    world.settle();
    assert_eq!(held(&world).0, Some(Vec::new()));
    world.storage.claims.clear();
    world.settle();
    assert_eq!(held(&world).1, Vec::<String>::new());
}
