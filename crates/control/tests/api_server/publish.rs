//! Slices and Endpoints follow services and pods.

use std::collections::BTreeMap;

use api::typed::discovery::{Endpoint, EndpointSlice};
use api::typed::{Endpoints, Service};
use futures::FutureExt;
use kube_runtime::watcher::Event as Watched;

use super::*;

const SLICE_OF: &str = "kubernetes.io/service-name=web";

impl Cluster {
    async fn web(&self) -> Service {
        let spec = json!({ "selector": { "app": "web" }, "ports": [{ "port": 80, "targetPort": 8080 }] });
        self.create(json!({ "metadata": { "name": "web" }, "spec": spec })).await
    }

    /// A pod that runs on a node, with that address.
    async fn running(&self, name: &str, address: &str) {
        let pod = json!({
            "metadata": { "name": name, "labels": { "app": "web" } },
            "spec": { "nodeName": "n1", "containers": [{ "name": "c", "image": "busybox" }] },
        });
        self.create::<Pod>(pod).await;
        let conditions = json!([{ "type": "Ready", "status": "True" }]);
        let status = json!({ "phase": "Running", "podIP": address, "podIPs": [{ "ip": address }], "conditions": conditions });
        self.patch_status(name, status).await;
    }

    async fn ready(&self, name: &str, ready: bool) {
        let status = if ready { "True" } else { "False" };
        self.patch_status(name, json!({ "conditions": [{ "type": "Ready", "status": status }] }))
            .await;
    }

    async fn patch_status(&self, name: &str, status: Value) {
        self.api::<Pod>()
            .patch_status(name, &PatchParams::default(), &Patch::Merge(json!({ "status": status })))
            .await
            .unwrap();
    }

    /// Waits until the slices of `web` are as wanted.
    async fn slices_until(&self, what: &str, wanted: impl Fn(&[&EndpointSlice]) -> bool) -> Vec<EndpointSlice> {
        let mut stream = std::pin::pin!(watcher(self.api::<EndpointSlice>(), watcher::Config::default().labels(SLICE_OF)));
        let mut found: BTreeMap<String, EndpointSlice> = BTreeMap::new();
        let mut listed = false;
        let search = async {
            loop {
                match stream.next().await.unwrap().unwrap() {
                    Watched::Apply(slice) | Watched::InitApply(slice) => drop(found.insert(slice.metadata.name.clone().unwrap(), slice)),
                    Watched::Delete(slice) => drop(found.remove(slice.metadata.name.as_ref().unwrap())),
                    Watched::Init => {}
                    Watched::InitDone => listed = true,
                }
                if listed && wanted(&found.values().collect::<Vec<_>>()) {
                    return;
                }
            }
        };
        let outcome = tokio::time::timeout(PATIENCE, search).await;
        assert!(outcome.is_ok(), "{what}: {found:#?}");
        found.into_values().collect()
    }

    async fn endpoints_until(&self, wanted: impl Fn(&Endpoints) -> bool) -> Endpoints {
        self.until(self.api(), "web", wanted).await
    }
}

/// Pod, ready, serving, terminating.
fn seen(slices: &[&EndpointSlice]) -> Vec<(String, [bool; 3])> {
    let one = |endpoint: &Endpoint| {
        let name = endpoint.target_ref.as_ref().unwrap().name.clone().unwrap();
        let conditions = endpoint.conditions.as_ref().unwrap();
        (
            name,
            [conditions.ready, conditions.serving, conditions.terminating].map(Option::unwrap),
        )
    };
    let mut all: Vec<_> = slices.iter().flat_map(|slice| &slice.endpoints).map(one).collect();
    all.sort();
    all
}

/// Addresses that are ready, and that are not.
fn listed(endpoints: &Endpoints) -> (Vec<&str>, Vec<&str>) {
    let subsets = || endpoints.subsets.iter().flatten();
    (
        subsets()
            .flat_map(|s| s.addresses.iter().flatten())
            .map(|a| a.ip.as_str())
            .collect(),
        subsets()
            .flat_map(|s| s.not_ready_addresses.iter().flatten())
            .map(|a| a.ip.as_str())
            .collect(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn slices_and_endpoints_follow_a_pod_from_start_to_end() {
    let cluster = Cluster::start().await;
    let service = cluster.web().await;
    let first = cluster.slices_until("one empty slice", |slices| slices.len() == 1).await.remove(0);
    assert_eq!(
        first.metadata.owner_references.as_ref().unwrap()[0].uid,
        service.metadata.uid.unwrap()
    );
    assert!(first.metadata.name.as_ref().unwrap().starts_with("web-"), "{first:?}");
    cluster.endpoints_until(|endpoints| listed(endpoints) == (vec![], vec![])).await;

    cluster.running("a", "10.1.0.1").await;
    cluster.running("b", "10.1.0.2").await;
    let up = [true, true, false];
    let is = |a: [bool; 3], b: [bool; 3]| vec![("a".to_owned(), a), ("b".to_owned(), b)];
    let slices = cluster.slices_until("both ready", |slices| seen(slices) == is(up, up)).await;
    assert_eq!(
        (slices.len(), &slices[0].metadata.name),
        (1, &first.metadata.name),
        "the empty one is used"
    );
    cluster
        .endpoints_until(|endpoints| listed(endpoints) == (vec!["10.1.0.1", "10.1.0.2"], vec![]))
        .await;
    cluster.ready("b", false).await;
    cluster
        .slices_until("b not ready", |slices| seen(slices) == is(up, [false; 3]))
        .await;
    cluster
        .endpoints_until(|endpoints| listed(endpoints) == (vec!["10.1.0.1"], vec!["10.1.0.2"]))
        .await;

    cluster.api::<Pod>().delete("a", &DeleteParams::default()).await.unwrap();
    cluster
        .slices_until("a terminating", |slices| seen(slices) == is([false, true, true], [false; 3]))
        .await;
    cluster
        .endpoints_until(|endpoints| listed(endpoints) == (vec![], vec!["10.1.0.2"]))
        .await;
    assert!(cluster.api::<Pod>().get_opt("a").await.unwrap().is_some(), "it has not ended yet");
    let now = DeleteParams::default().grace_period(0);
    cluster.api::<Pod>().delete("a", &now).await.unwrap();
    cluster
        .slices_until("a gone", |slices| seen(slices) == is(up, [false; 3])[1..])
        .await;

    // Relabelled, and back; then the Service selects others.
    for (label, count) in [("other", 0), ("web", 1)] {
        let labels = json!({ "metadata": { "labels": { "app": label } } });
        cluster
            .api::<Pod>()
            .patch("b", &PatchParams::default(), &Patch::Merge(labels))
            .await
            .unwrap();
        cluster.slices_until(label, |slices| seen(slices).len() == count).await;
    }
    let selector = json!({ "spec": { "selector": { "app": "db" } } });
    cluster
        .api::<Service>()
        .patch("web", &PatchParams::default(), &Patch::Merge(selector))
        .await
        .unwrap();
    cluster.slices_until("others selected", |slices| seen(slices).is_empty()).await;
    cluster.endpoints_until(|endpoints| listed(endpoints) == (vec![], vec![])).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_else_changes_or_deletes_is_set_right() {
    let cluster = Cluster::start().await;
    cluster.web().await;
    cluster.running("a", "10.1.0.1").await;
    let right = |slices: &[&EndpointSlice]| seen(slices) == [("a".to_owned(), [true, true, false])];
    let first = cluster.slices_until("a ready", right).await.remove(0);
    let name = first.metadata.name.clone().unwrap();
    let slices = cluster.api::<EndpointSlice>();
    let emptied = json!({ "endpoints": [] });
    slices.patch(&name, &PatchParams::default(), &Patch::Merge(&emptied)).await.unwrap();
    let again = cluster.slices_until("set right", right).await.remove(0);
    assert_ne!(again.metadata.resource_version, first.metadata.resource_version);
    slices.delete(&name, &DeleteParams::default()).await.unwrap();
    let new = cluster
        .slices_until("made anew", |slices| {
            right(slices) && slices[0].metadata.name.as_ref() != Some(&name)
        })
        .await;
    assert_eq!(new.len(), 1);

    let whole = |endpoints: &Endpoints| listed(endpoints) == (vec!["10.1.0.1"], vec![]);
    let first = cluster.endpoints_until(whole).await.metadata.uid;
    let endpoints = cluster.api::<Endpoints>();
    endpoints
        .patch("web", &PatchParams::default(), &Patch::Merge(json!({ "subsets": null })))
        .await
        .unwrap();
    cluster.endpoints_until(whole).await;
    endpoints.delete("web", &DeleteParams::default()).await.unwrap();
    cluster
        .endpoints_until(|endpoints| whole(endpoints) && endpoints.metadata.uid != first)
        .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_service_leaves_goes_even_if_nobody_was_looking() {
    let mut cluster = Cluster::start().await;
    let services = cluster.api::<Service>();
    // Kept by hand: none of our business.
    let ports = json!([{ "port": 80 }]);
    cluster
        .create::<Service>(json!({ "metadata": { "name": "manual" }, "spec": { "ports": ports } }))
        .await;
    let subsets = json!([{ "addresses": [{ "ip": "192.0.2.1" }], "ports": ports }]);
    let by_hand = cluster
        .create::<Endpoints>(json!({ "metadata": { "name": "manual" }, "subsets": subsets }))
        .await;
    let own = json!({ "name": "manual-1", "labels": { "kubernetes.io/service-name": "manual" } });
    let slice = cluster
        .create::<EndpointSlice>(
            json!({ "metadata": own, "addressType": "IPv4", "endpoints": [{ "addresses": ["192.0.2.1"] }], "ports": ports }),
        )
        .await;

    cluster.running("a", "10.1.0.1").await;
    for looking in [true, false] {
        cluster.web().await;
        cluster.slices_until("a ready", |slices| seen(slices).len() == 1).await;
        cluster.endpoints_until(|endpoints| listed(endpoints).0.len() == 1).await;
        if !looking {
            cluster.pause().await;
        }
        services.delete("web", &DeleteParams::default()).await.unwrap();
        if !looking {
            cluster.resume();
        }
        cluster.slices_until("no slices", |slices| slices.is_empty()).await;
        cluster.until_gone(cluster.api::<Endpoints>(), "web").await;
    }
    let found = cluster.api::<Endpoints>().get("manual").await.unwrap();
    assert_eq!(found, by_hand, "untouched");
    assert_eq!(cluster.api::<EndpointSlice>().get("manual-1").await.unwrap(), slice, "untouched");
    let all = cluster.api::<EndpointSlice>().list(&ListParams::default()).await.unwrap();
    assert_eq!(all.items.len(), 1);
    // Made by hand for a Service that goes: they go with it.
    services.delete("manual", &DeleteParams::default()).await.unwrap();
    cluster.until_gone(cluster.api::<Endpoints>(), "manual").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_that_fail_are_tried_again_and_nothing_is_written_twice() {
    use Fault::{AnswerLost, Refused};
    let cluster = Cluster::start().await;
    cluster.running("a", "10.1.0.1").await;
    // The accounts and certificates of all namespaces are written by then.
    for namespace in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        let maps: Api<ConfigMap> = Api::namespaced(cluster.admin.clone(), namespace);
        let accounts: Api<ServiceAccount> = Api::namespaced(cluster.admin.clone(), namespace);
        cluster.until(maps, "kube-root-ca.crt", |_| true).await;
        cluster.until(accounts, "default", |_| true).await;
    }
    let right =
        |ready: bool| move |slices: &[&EndpointSlice]| slices.len() == 1 && seen(slices) == [("a".to_owned(), [ready, ready, false])];
    let goes_wrong = [
        Refused(500),
        AnswerLost,
        Refused(409),
        AnswerLost,
        Refused(429),
        Refused(404),
        AnswerLost,
    ];
    cluster.faults.lock().unwrap().extend(goes_wrong);
    cluster.web().await;
    cluster.slices_until("one slice", right(true)).await;
    cluster.endpoints_until(|endpoints| listed(endpoints).0.len() == 1).await;
    for ready in [false, true] {
        cluster.faults.lock().unwrap().extend(goes_wrong);
        cluster.ready("a", ready).await;
        cluster.slices_until("changed", right(ready)).await;
        cluster
            .endpoints_until(|endpoints| listed(endpoints).0.len() == usize::from(ready))
            .await;
    }
    cluster.faults.lock().unwrap().extend(goes_wrong);
    cluster.api::<Service>().delete("web", &DeleteParams::default()).await.unwrap();
    cluster.slices_until("gone", |slices| slices.is_empty()).await;
    cluster.until_gone(cluster.api::<Endpoints>(), "web").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_pods_fill_five_slices_and_each_change_is_one_write() {
    let cluster = Cluster::start().await;
    cluster.web().await;
    let address = |n: usize| format!("10.1.{}.{}", n / 250, n % 250 + 1);
    let started = Instant::now();
    futures::stream::iter(0..500)
        .for_each_concurrent(8, |n| {
            let cluster = &cluster;
            async move { cluster.running(&format!("p{n:03}"), &address(n)).await }
        })
        .await;
    println!("500 pods started: {:.0} ms", started.elapsed().as_secs_f64() * 1e3);
    let all_up = |slices: &[&EndpointSlice]| {
        let seen = seen(slices);
        seen.len() == 500 && seen.iter().all(|(_, conditions)| *conditions == [true, true, false])
    };
    let before = cluster.slices_until("500 ready", all_up).await;
    println!("all in slices: {:.0} ms", started.elapsed().as_secs_f64() * 1e3);
    assert_eq!(before.iter().map(|slice| slice.endpoints.len()).collect::<Vec<_>>(), [100; 5]);
    cluster.endpoints_until(|endpoints| listed(endpoints).0.len() == 500).await;

    let mut delays_ms = Vec::new();
    for n in 0..40 {
        let name = format!("p{:03}", n / 2);
        let wanted = n % 2 == 1;
        let state = |slices: &[&EndpointSlice]| seen(slices).iter().any(|(pod, conditions)| *pod == name && conditions[0] == wanted);
        let mut waiting = std::pin::pin!(cluster.slices_until(&name, state));
        let pods = cluster.api::<Pod>();
        // The watch is there before the change.
        tokio::select! {
            biased;
            _ = &mut waiting => panic!("{name} has changed before it was changed"),
            () = pods.get(&name).map(drop) => {}
        }
        cluster.ready(&name, wanted).await;
        let changed = Instant::now();
        waiting.await;
        delays_ms.push(changed.elapsed().as_secs_f64() * 1e3);
    }
    delays_ms.sort_by(f64::total_cmp);
    println!(
        "pod changed to slice seen, 500 pods: p50 {:.1} ms, max {:.1} ms",
        delays_ms[20], delays_ms[39]
    );
    let after = cluster.slices_until("500 ready again", all_up).await;
    let homes = |slices: &[EndpointSlice]| -> BTreeMap<String, String> {
        let home = |slice: &EndpointSlice| {
            let name = slice.metadata.name.clone().unwrap();
            seen(&[slice])
                .into_iter()
                .map(move |(pod, _)| (pod, name.clone()))
                .collect::<Vec<_>>()
        };
        slices.iter().flat_map(home).collect()
    };
    assert_eq!(homes(&before), homes(&after), "nobody has moved");
    let is_same = |(old, new): &(&EndpointSlice, &EndpointSlice)| old.metadata.resource_version == new.metadata.resource_version;
    assert!(
        before.iter().zip(&after).filter(is_same).count() >= 1,
        "only the slices of pods that changed are written"
    );
    cluster.stop().await;
}
