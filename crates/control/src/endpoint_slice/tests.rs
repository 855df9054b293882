use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::backend::tests::{Differs, READY, pod, service};

/// A server that does what it is told.
#[derive(Default)]
struct Server {
    slices: BTreeMap<String, EndpointSlice>,
    created: usize,
}

impl Server {
    fn plan(&self, service: &Service, backends: &[Backend]) -> Plan {
        plan(service, backends, self.slices.values())
    }

    fn sync(&mut self, service: &Service, backends: &[Backend]) -> Plan {
        let plan = self.plan(service, backends);
        for mut slice in plan.create.clone() {
            self.created += 1;
            let name = format!("{}{:04}", slice.metadata.generate_name.as_ref().unwrap(), self.created);
            slice.metadata.name = Some(name.clone());
            self.slices.insert(name, slice);
        }
        for slice in &plan.update {
            let name = slice.metadata.name.clone().unwrap();
            assert!(self.slices.insert(name.clone(), slice.clone()).is_some(), "{name} does not exist");
        }
        for slice in &plan.delete {
            let name = slice.metadata.name.as_ref().unwrap();
            assert!(self.slices.remove(name).is_some(), "{name} does not exist");
        }
        assert_eq!(self.plan(service, backends), Plan::default(), "nothing is left to do");
        plan
    }

    /// Slice, first port (0 for none) and endpoint.
    fn endpoints(&self) -> impl Iterator<Item = (&str, i32, &Endpoint)> {
        self.slices.iter().flat_map(|(name, slice)| {
            let port = slice.ports.iter().flatten().next().and_then(|port| port.port).unwrap_or(0);
            slice.endpoints.iter().map(move |endpoint| (name.as_str(), port, endpoint))
        })
    }

    fn sizes(&self) -> Vec<usize> {
        self.slices.values().map(|slice| slice.endpoints.len()).collect()
    }
}

fn address(n: usize) -> String {
    format!("10.1.{}.{}", n / 250, n % 250 + 1)
}

fn ready(range: std::ops::Range<usize>) -> Vec<Backend> {
    range.map(|n| pod(&format!("p{n:04}"), Some(&address(n)), READY)).collect()
}

fn conditions(backends: &[Backend], spec: Value) -> Vec<[bool; 3]> {
    let mut server = Server::default();
    server.sync(&service(spec), backends);
    let all = server.endpoints().map(|(_, _, endpoint)| {
        let conditions = endpoint.conditions.as_ref().unwrap();
        [conditions.ready, conditions.serving, conditions.terminating].map(Option::unwrap)
    });
    all.collect()
}

/// Shows: 14.3.5
#[test]
fn what_a_pods_state_makes_of_it() {
    let differs = |ready, deleted, phase| Differs {
        ready,
        deleted,
        phase,
        ..READY
    };
    // Address, pod; ready, serving, terminating; the first of these when all are published.
    for (address, pod_is, wanted, published) in [
        (None, differs(false, false, "Pending"), None, false),
        (Some("10.0.0.1"), differs(false, false, "Succeeded"), None, false),
        (Some("10.0.0.1"), differs(true, false, "Failed"), None, false),
        (Some("10.0.0.1"), differs(true, false, "Running"), Some([true, true, false]), true),
        (
            Some("10.0.0.1"),
            differs(false, false, "Running"),
            Some([false, false, false]),
            true,
        ),
        (Some("10.0.0.1"), differs(true, true, "Running"), Some([false, true, true]), true),
        (Some("10.0.0.1"), differs(false, true, "Running"), Some([false, false, true]), true),
    ] {
        let text = format!("{address:?} {} {} {}", pod_is.ready, pod_is.deleted, pod_is.phase);
        let backends = [pod("a", address, pod_is)];
        assert_eq!(conditions(&backends, json!({})), Vec::from_iter(wanted), "{text}");
        let wanted = wanted.map(|[_, serving, terminating]| [published, serving, terminating]);
        let all = json!({ "publishNotReadyAddresses": true });
        assert_eq!(conditions(&backends, all), Vec::from_iter(wanted), "{text}, published");
    }
}

#[test]
fn a_new_slice_says_whose_it_is() {
    let mut web = service(
        json!({ "clusterIP": "None", "ports": [{ "name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080, "appProtocol": "http" }] }),
    );
    let spec = json!({ "hostname": "a-0", "subdomain": "web" });
    let backend = pod("a", Some("10.0.0.1"), Differs { spec, ..READY });
    let plan = plan(&web, [&backend], []);
    assert_eq!(
        serde_json::to_value(&plan.create[0]).unwrap(),
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "namespace": "default",
                "generateName": "web-",
                "labels": {
                    "team": "a",
                    "kubernetes.io/service-name": "web",
                    "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
                    "service.kubernetes.io/headless": "",
                },
                "ownerReferences": [{
                    "apiVersion": "v1", "kind": "Service", "name": "web", "uid": "service-uid", "controller": true, "blockOwnerDeletion": true,
                }],
            },
            "addressType": "IPv4",
            "ports": [{ "name": "http", "port": 8080, "protocol": "TCP", "appProtocol": "http" }],
            "endpoints": [{
                "addresses": ["10.0.0.1"],
                "conditions": { "ready": true, "serving": true, "terminating": false },
                "hostname": "a-0",
                "nodeName": "n1",
                "targetRef": { "kind": "Pod", "namespace": "default", "name": "a", "uid": "uid-a" },
            }],
        })
    );
    web.terminating = true;
    assert!(super::plan(&web, [&backend], []).is_empty(), "nothing is made for what is going");
}

#[test]
fn a_hostname_is_given_only_under_the_services_name() {
    for (spec, wanted) in [
        (json!({ "hostname": "h", "subdomain": "web" }), Some("h")),
        (json!({ "hostname": "h", "subdomain": "other" }), None),
        (json!({ "hostname": "h" }), None),
        (json!({ "subdomain": "web" }), None),
    ] {
        let backend = pod(
            "a",
            Some("10.0.0.1"),
            Differs {
                spec: spec.clone(),
                ..READY
            },
        );
        let slice = plan(&service(json!({})), [&backend], []).create.remove(0);
        assert_eq!(slice.endpoints[0].hostname.as_deref(), wanted, "{spec}");
    }
}

#[test]
fn pods_whose_named_port_differs_are_in_slices_of_their_own() {
    let web = service(json!({ "ports": [{ "port": 80, "protocol": "TCP", "targetPort": "http" }] }));
    let with = |name: &str, n: usize, port: Value| {
        let spec = json!({ "containers": [{ "name": "c", "ports": [port] }] });
        pod(name, Some(&address(n)), Differs { spec, ..READY })
    };
    let backends = [
        with("a", 1, json!({ "name": "http", "containerPort": 8080 })),
        with("b", 2, json!({ "name": "http", "containerPort": 9090 })),
        with("c", 3, json!({ "name": "other", "containerPort": 7070 })),
    ];
    let mut server = Server::default();
    server.sync(&web, &backends);
    let found: BTreeSet<(i32, String)> = server
        .endpoints()
        .map(|(_, port, endpoint)| (port, identity(endpoint).unwrap().1.to_owned()))
        .collect();
    assert_eq!(found, BTreeSet::from([(0, "c".into()), (8080, "a".into()), (9090, "b".into())]));
    assert_eq!(server.slices.len(), 3);
}

#[test]
fn without_backends_one_empty_slice_stays_and_is_used_again() {
    let mut server = Server::default();
    let web = service(json!({}));
    assert_eq!(server.sync(&web, &[]).create.len(), 1);
    let first: Vec<String> = server.slices.keys().cloned().collect();
    let plan = server.sync(&web, &ready(0..5));
    assert_eq!((plan.create.len(), plan.update.len(), plan.delete.len()), (0, 1, 0));
    server.sync(&web, &[]);
    assert_eq!(server.slices.keys().cloned().collect::<Vec<_>>(), first);
    assert_eq!(server.sizes(), [0]);
    let slice = server.slices.values().next().unwrap();
    assert_eq!(slice.ports.as_deref(), Some(&[][..]));
}

#[test]
fn gaps_are_filled_before_a_slice_is_added() {
    let mut server = Server::default();
    let web = service(json!({}));
    assert_eq!(server.sync(&web, &ready(0..250)).create.len(), 3);
    assert_eq!(server.sizes(), [100, 100, 50]);
    // A gap in the first, which is written anyway: the new one goes there.
    let mut backends = ready(0..251);
    backends.remove(7);
    let plan = server.sync(&web, &backends);
    assert_eq!((plan.create.len(), plan.update.len(), plan.delete.len()), (0, 1, 0));
    assert_eq!(server.sizes(), [100, 100, 50]);
    // Only one slice is written for one pod more.
    backends.push(ready(251..252).remove(0));
    assert_eq!(server.sync(&web, &backends).update.len(), 1);
    assert_eq!(server.sizes(), [100, 100, 51]);
    // And for one that changes.
    backends[42].ready = false;
    let plan = server.sync(&web, &backends);
    assert_eq!((plan.create.len(), plan.update.len(), plan.delete.len()), (0, 1, 0));
    backends.extend(ready(252..302));
    assert_eq!(server.sync(&web, &backends).create.len(), 1);
    assert_eq!(server.sizes(), [100, 100, 100, 1]);
}

#[test]
fn slices_that_are_wrong_are_set_right() {
    let web = service(json!({}));
    let backends = ready(0..150);
    let mut server = Server::default();
    server.sync(&web, &backends);
    let names: Vec<String> = server.slices.keys().cloned().collect();
    // Too long, with doubles and one that nobody asked for.
    let all: Vec<Endpoint> = server.endpoints().map(|(_, _, endpoint)| endpoint.clone()).collect();
    server.slices.get_mut(&names[0]).unwrap().endpoints = all;
    server.slices.get_mut(&names[1]).unwrap().endpoints[0].addresses = vec!["10.9.9.9".to_owned()];
    server.sync(&web, &backends);
    let found: Vec<String> = server
        .endpoints()
        .map(|(_, _, endpoint)| identity(endpoint).unwrap().1.to_owned())
        .collect();
    assert_eq!((found.len(), BTreeSet::from_iter(found).len()), (150, 150));
    assert!(server.sizes().iter().all(|size| *size <= ENDPOINTS_MAX));
    // Labels of the Service are carried over, strangers' go.
    server
        .slices
        .get_mut(&names[0])
        .unwrap()
        .metadata
        .labels
        .as_mut()
        .unwrap()
        .remove("team");
    assert_eq!(server.sync(&web, &backends).update.len(), 1);
}

#[test]
fn slices_of_a_predecessor_and_other_address_types_go() {
    let mut web = service(json!({}));
    let backends = ready(0..1);
    let mut server = Server::default();
    server.sync(&web, &backends);
    web.uid = "another".to_owned();
    let plan = server.sync(&web, &backends);
    assert_eq!((plan.create.len(), plan.update.len(), plan.delete.len()), (1, 0, 1));
    server.slices.values_mut().for_each(|slice| slice.address_type = "IPv6".to_owned());
    let plan = server.sync(&web, &backends);
    assert_eq!((plan.create.len(), plan.update.len(), plan.delete.len()), (1, 0, 1));
}

#[test]
fn a_service_without_selector_is_left_alone() {
    let mut web = service(json!({ "selector": null }));
    let selecting = service(json!({}));
    let mut server = Server::default();
    server.sync(&selecting, &ready(0..3));
    assert!(server.plan(&web, &[]).is_empty(), "it is still the same Service");
    web.uid = "another".to_owned();
    assert_eq!(server.sync(&web, &[]).delete.len(), 1, "a predecessor's");
    assert!(server.plan(&web, &[]).is_empty());
}

/// What a pod is in one step of a history; `None` is absent.
type State = Option<(bool, bool, bool, u8)>;

fn backend(n: usize, (ready, terminating, terminal, port): (bool, bool, bool, u8)) -> Backend {
    let octets = [10, 1, u8::try_from(n / 250).unwrap(), u8::try_from(n % 250 + 1).unwrap()];
    Backend {
        namespace: "default".to_owned(),
        name: format!("p{n}"),
        uid: format!("u{n}"),
        labels: Labels::new(),
        address: Some(Ipv4Addr::from(octets)),
        ready,
        terminating,
        terminal,
        node: None,
        hostname: None,
        subdomain: None,
        named_ports: vec![("http".to_owned(), "TCP".to_owned(), 8000 + i32::from(port))],
    }
}

/// What is not made anew is looked at; both ways must see the same.
#[test]
fn an_endpoint_is_right_if_it_would_be_made_so() {
    let web = service(json!({}));
    let pod = backend(1, (true, false, false, 0));
    let made = endpoint(&web, &pod).unwrap();
    assert!(is_right(&made, &web, &pod));
    let wrong: [fn(&mut Endpoint); 12] = [
        |endpoint| endpoint.conditions = None,
        |endpoint| endpoint.conditions.as_mut().unwrap().ready = Some(false),
        |endpoint| endpoint.deprecated_topology = Some(Labels::default()),
        |endpoint| endpoint.hints = Some(api::typed::discovery::EndpointHints::default()),
        |endpoint| endpoint.hostname = Some("other".to_owned()),
        |endpoint| endpoint.node_name = Some("other".to_owned()),
        |endpoint| endpoint.target_ref = None,
        |endpoint| endpoint.target_ref.as_mut().unwrap().uid = Some("other".to_owned()),
        |endpoint| endpoint.target_ref.as_mut().unwrap().namespace = None,
        |endpoint| endpoint.target_ref.as_mut().unwrap().kind = Some("Node".to_owned()),
        |endpoint| endpoint.target_ref.as_mut().unwrap().field_path = Some(String::new()),
        |endpoint| endpoint.zone = Some("a".to_owned()),
    ];
    for (index, change) in wrong.into_iter().enumerate() {
        let mut endpoint = made.clone();
        change(&mut endpoint);
        assert!(!is_right(&endpoint, &web, &pod), "change {index}: {endpoint:?}");
    }
}

/// Mostly all-present or all-absent runs of pods, so that slices fill and empty.
fn history() -> impl Strategy<Value = Vec<Vec<(usize, usize, State)>>> {
    let state = prop_oneof![
        4 => Just(Some((true, false, false, 0))),
        1 => (any::<bool>(), any::<bool>(), prop::bool::weighted(0.1), 0_u8..2).prop_map(Some),
        2 => Just(None),
    ];
    prop::collection::vec(prop::collection::vec((0_usize..450, 1_usize..150, state), 1..6), 1..8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn slices_follow_the_pods_and_endpoints_stay_where_they_are(steps in history()) {
        let web = service(json!({ "ports": [{ "port": 80, "protocol": "TCP", "targetPort": "http" }] }));
        let mut pods: BTreeMap<usize, (bool, bool, bool, u8)> = BTreeMap::new();
        let mut server = Server::default();
        for step in steps {
            for (first, count, state) in step {
                for n in first..first + count {
                    match state {
                        Some(state) => drop(pods.insert(n, state)),
                        None => drop(pods.remove(&n)),
                    }
                }
            }
            let place = |server: &Server| -> BTreeMap<(String, i32), String> {
                server.endpoints().map(|(slice, port, endpoint)| ((identity(endpoint).unwrap().1.to_owned(), port), slice.to_owned())).collect()
            };
            let before = place(&server);
            let old_slices: BTreeSet<String> = before.values().cloned().collect();
            let backends: Vec<Backend> = pods.iter().map(|(n, state)| backend(*n, *state)).collect();
            server.sync(&web, &backends);

            let found: Vec<(String, i32, [Option<bool>; 3])> = server.endpoints().map(|(_, port, endpoint)| {
                let conditions = endpoint.conditions.as_ref().unwrap();
                (endpoint.addresses.join(","), port, [conditions.ready, conditions.serving, conditions.terminating])
            }).collect();
            let count = found.len();
            let found: BTreeSet<_> = found.into_iter().collect();
            prop_assert_eq!(found.len(), count, "no endpoint twice");
            let wanted: BTreeSet<_> = pods.iter().filter(|(_, state)| !state.2).map(|(n, (ready, terminating, _, port))| {
                (address(*n), 8000 + i32::from(*port), [Some(*ready && !*terminating), Some(*ready), Some(*terminating)])
            }).collect();
            prop_assert_eq!(found, wanted);

            prop_assert!(server.sizes().iter().all(|size| *size <= ENDPOINTS_MAX));
            prop_assert_eq!(server.sizes().iter().filter(|size| **size == 0).count(), usize::from(wanted_is_empty(&pods)));
            let after = place(&server);
            for (endpoint, slice) in &before {
                prop_assert!(after.get(endpoint).is_none_or(|now| now == slice), "{:?} moved", endpoint);
            }
            for port in [8000, 8001] {
                let of_port = |slice: &&EndpointSlice| slice.ports.iter().flatten().any(|own| own.port == Some(port));
                let (old, new): (Vec<_>, Vec<_>) = server.slices.values().filter(of_port)
                    .partition(|slice| old_slices.contains(slice.metadata.name.as_ref().unwrap()));
                let kept = before.keys().any(|(_, own)| *own == port);
                prop_assert!(!kept || new.is_empty() || old.iter().all(|slice| slice.endpoints.len() == ENDPOINTS_MAX || was_other(&before, slice, port)));
                prop_assert!(new.iter().filter(|slice| slice.endpoints.len() < ENDPOINTS_MAX).count() <= 1);
            }
        }
    }
}

fn wanted_is_empty(pods: &BTreeMap<usize, (bool, bool, bool, u8)>) -> bool {
    pods.values().all(|state| state.2)
}

/// Whether a slice had other ports before: it was to go, and was used again.
fn was_other(before: &BTreeMap<(String, i32), String>, slice: &EndpointSlice, port: i32) -> bool {
    let name = slice.metadata.name.as_ref().unwrap();
    before.iter().any(|((_, own), held_by)| held_by == name && *own != port)
}
