use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::backend::tests::{Differs, READY, pod, service};

fn subsets_of(spec: Value, backends: &[Backend]) -> Value {
    let endpoints = plan(&service(spec), backends, None).unwrap();
    let mut subsets = serde_json::to_value(endpoints.subsets.unwrap_or_default()).unwrap();
    for subset in subsets.as_array_mut().unwrap() {
        for list in ["addresses", "notReadyAddresses"] {
            for address in subset[list].as_array_mut().into_iter().flatten() {
                *address = address["ip"].take();
            }
        }
        let subset = subset.as_object_mut().unwrap();
        subset.retain(|_, value| !value.is_null());
    }
    subsets
}

#[test]
fn what_a_pods_state_makes_of_it() {
    let differs = |ready, deleted, phase| Differs {
        ready,
        deleted,
        phase,
        ..READY
    };
    let ip = Some("10.0.0.1");
    for (address, pod_is, wanted, published) in [
        (None, differs(false, false, "Pending"), None, None),
        (ip, differs(false, false, "Succeeded"), None, None),
        (ip, differs(true, false, "Failed"), None, None),
        (ip, differs(true, false, "Running"), Some("addresses"), Some("addresses")),
        (ip, differs(false, false, "Running"), Some("notReadyAddresses"), Some("addresses")),
        (ip, differs(true, true, "Running"), None, Some("addresses")),
        (ip, differs(false, true, "Running"), None, Some("addresses")),
    ] {
        let text = format!("{address:?} {} {} {}", pod_is.ready, pod_is.deleted, pod_is.phase);
        let backends = [pod("a", address, pod_is)];
        let subsets = |list: Option<&str>| {
            let ports = json!([{ "port": 8080, "protocol": "TCP" }]);
            list.map_or(json!([]), |list| json!([{ list: ["10.0.0.1"], "ports": ports }]))
        };
        assert_eq!(subsets_of(json!({}), &backends), subsets(wanted), "{text}");
        let all = json!({ "publishNotReadyAddresses": true });
        assert_eq!(subsets_of(all, &backends), subsets(published), "{text}, published");
    }
}

/// What is not made anew is looked at; both ways must see the same.
#[test]
fn endpoints_are_right_if_they_would_be_made_so() {
    let web = service(json!({}));
    let backends = [
        pod("a", Some("10.0.0.1"), READY),
        pod("b", Some("10.0.0.2"), Differs { ready: false, ..READY }),
    ];
    let made = plan(&web, &backends, None).unwrap();
    assert_eq!(plan(&web, &backends, Some(&made)), None);
    let address: fn(&mut EndpointSubset) -> &mut EndpointAddress = |subset| &mut subset.addresses.as_mut().unwrap()[0];
    let wrong: [&dyn Fn(&mut EndpointSubset); 11] = [
        &|subset| address(subset).ip = "10.0.0.9".to_owned(),
        &|subset| address(subset).hostname = Some("other".to_owned()),
        &|subset| address(subset).node_name = None,
        &|subset| address(subset).target_ref = None,
        &|subset| address(subset).target_ref.as_mut().unwrap().uid = Some("other".to_owned()),
        &|subset| address(subset).target_ref.as_mut().unwrap().resource_version = Some("1".to_owned()),
        &|subset| subset.addresses = None,
        &|subset| subset.not_ready_addresses = None,
        &|subset| std::mem::swap(&mut subset.addresses, &mut subset.not_ready_addresses),
        &|subset| subset.ports = None,
        &|subset| subset.ports.as_mut().unwrap()[0].port += 1,
    ];
    for (index, change) in wrong.into_iter().enumerate() {
        let mut endpoints = made.clone();
        change(&mut endpoints.subsets.as_mut().unwrap()[0]);
        let again = plan(&web, &backends, Some(&endpoints)).map(|again| again.subsets);
        assert_eq!(again.as_ref(), Some(&made.subsets), "change {index}");
    }
}

#[test]
fn they_say_whose_they_are_and_keep_what_others_noted() {
    let web = service(json!({ "clusterIP": "None" }));
    let spec = json!({ "hostname": "a-0", "subdomain": "web" });
    let backend = pod("a", Some("10.0.0.1"), Differs { spec, ..READY });
    let mut made = plan(&web, [&backend], None).unwrap();
    assert_eq!(
        serde_json::to_value(&made).unwrap(),
        json!({
            "apiVersion": "v1",
            "kind": "Endpoints",
            "metadata": {
                "name": "web",
                "namespace": "default",
                "labels": { "team": "a", "service.kubernetes.io/headless": "", "endpoints.kubernetes.io/managed-by": "endpoint-controller" },
            },
            "subsets": [{
                "addresses": [{
                    "ip": "10.0.0.1", "hostname": "a-0", "nodeName": "n1",
                    "targetRef": { "kind": "Pod", "namespace": "default", "name": "a", "uid": "uid-a" },
                }],
                "ports": [{ "port": 8080, "protocol": "TCP" }],
            }],
        })
    );
    assert!(is_managed(&made));
    made.metadata.resource_version = Some("7".to_owned());
    made.metadata.annotations = Some(Labels::from([("note".to_owned(), "x".to_owned())]));
    assert_eq!(plan(&web, [&backend], Some(&made)), None, "nothing is left to do");
    let emptied = plan(&web, [], Some(&made)).unwrap();
    assert_eq!((emptied.subsets, emptied.metadata), (None, made.metadata.clone()));
    made.metadata.labels = None;
    assert!(plan(&web, [&backend], Some(&made)).is_some(), "labels are set right");
}

#[test]
fn ports_with_the_same_backends_are_one_subset() {
    let with = |name: &str, address: &str, ready: bool, ports: Value| {
        let spec = json!({ "containers": [{ "name": "c", "ports": ports }] });
        pod(name, Some(address), Differs { spec, ready, ..READY })
    };
    let admin = json!([{ "name": "admin", "containerPort": 9000 }]);
    let backends = [
        with("b", "10.0.0.2", true, json!([])),
        with("a", "10.0.0.1", false, admin.clone()),
        with("c", "10.0.0.10", true, admin),
    ];
    let spec = json!({ "ports": [
        { "name": "web", "port": 80, "protocol": "TCP", "targetPort": 8080 },
        { "name": "admin", "port": 90, "protocol": "TCP", "targetPort": "admin" },
        { "name": "alt", "port": 81, "protocol": "TCP", "targetPort": 8081 },
    ] });
    let wanted = json!([
        { "addresses": ["10.0.0.10"], "notReadyAddresses": ["10.0.0.1"], "ports": [{ "name": "admin", "port": 9000, "protocol": "TCP" }] },
        {
            "addresses": ["10.0.0.10", "10.0.0.2"], "notReadyAddresses": ["10.0.0.1"],
            "ports": [{ "name": "alt", "port": 8081, "protocol": "TCP" }, { "name": "web", "port": 8080, "protocol": "TCP" }],
        },
    ]);
    assert_eq!(subsets_of(spec, &backends), wanted);
}

#[test]
fn without_ports_only_a_headless_service_has_addresses() {
    let backends = [pod("a", Some("10.0.0.1"), READY)];
    let spec = |address: &str| json!({ "ports": [], "clusterIP": address });
    assert_eq!(subsets_of(spec("None"), &backends), json!([{ "addresses": ["10.0.0.1"] }]));
    assert_eq!(subsets_of(spec("10.96.0.9"), &backends), json!([]));
}

#[test]
fn without_selector_they_are_left_alone() {
    let backends = [pod("a", Some("10.0.0.1"), READY)];
    for spec in [json!({ "selector": null }), json!({ "type": "ExternalName" })] {
        assert_eq!(plan(&service(spec.clone()), &backends, None), None, "{spec}");
    }
}

#[test]
fn more_than_a_thousand_are_cut_ready_ones_last_and_that_is_said() {
    let mut backends: Vec<Backend> = (0..1000_usize)
        .map(|n| pod(&format!("p{n}"), Some(&format!("10.1.{}.{}", n / 250, n % 250 + 1)), READY))
        .collect();
    let web = service(json!({}));
    let said = |endpoints: &Endpoints| {
        let annotations = endpoints.metadata.annotations.as_ref();
        annotations.and_then(|all| all.get(OVER_CAPACITY_ANNOTATION)).cloned()
    };
    let full = plan(&web, &backends, None).unwrap();
    assert_eq!(said(&full), None);
    for n in 0..5 {
        backends[n].ready = false;
        backends.push(pod(&format!("more{n}"), Some(&format!("10.2.0.{}", n + 1)), READY));
    }
    let cut = plan(&web, &backends, Some(&full)).unwrap();
    assert_eq!(said(&cut).as_deref(), Some("truncated"));
    let subset = &cut.subsets.as_ref().unwrap()[0];
    assert_eq!(
        (subset.addresses.as_ref().map(Vec::len), &subset.not_ready_addresses),
        (Some(1000), &None)
    );
    assert_eq!(plan(&web, &backends, Some(&cut)), None, "nothing is left to do");
    backends.truncate(900);
    let whole = plan(&web, &backends, Some(&cut)).unwrap();
    assert_eq!(said(&whole), None);
}

#[test]
fn a_cut_leaves_every_subset_its_share() {
    assert_eq!(shares(&[3, 4], 10), [3, 4]);
    assert_eq!(shares(&[1500, 500], 1000), [750, 250]);
    assert_eq!(shares(&[1, 1, 1], 2), [1, 1, 0]);
    assert_eq!(shares(&[7], 0), [0]);
}

proptest! {
    #[test]
    fn shares_use_all_room_and_exceed_no_count(counts in prop::collection::vec(0_usize..2000, 0..6), room in 0_usize..1500) {
        let shares = shares(&counts, room);
        prop_assert!(shares.iter().zip(&counts).all(|(share, count)| share <= count));
        prop_assert_eq!(shares.iter().sum::<usize>(), room.min(counts.iter().sum()));
    }

    #[test]
    fn every_backend_is_named_once_for_every_port_whatever_the_order(
        states in prop::collection::vec((any::<bool>(), any::<bool>(), any::<bool>(), 0_i32..3), 0..40),
        published: bool,
        turn in 0_usize..40,
    ) {
        let named = |port: i32| vec![("http".to_owned(), "TCP".to_owned(), 8000 + port)];
        let mut backends: Vec<Backend> = states.iter().enumerate().map(|(n, (ready, terminating, _, port))| Backend {
            ready: *ready,
            terminating: *terminating,
            named_ports: if *port == 2 { Vec::new() } else { named(*port) },
            ..pod(&format!("p{n}"), Some(&format!("10.0.0.{}", n + 1)), READY)
        }).collect();
        let web = service(json!({ "publishNotReadyAddresses": published, "ports": [
            { "name": "fixed", "port": 1, "protocol": "TCP", "targetPort": 1 },
            { "name": "named", "port": 2, "protocol": "TCP", "targetPort": "http" },
        ] }));
        let made = plan(&web, &backends, None).unwrap();
        prop_assert_eq!(plan(&web, &backends, Some(&made)), None);
        let mut found = BTreeSet::new();
        for subset in made.subsets.iter().flatten() {
            for (ready, list) in [(true, &subset.addresses), (false, &subset.not_ready_addresses)] {
                for address in list.iter().flatten() {
                    for port in subset.ports.iter().flatten() {
                        prop_assert!(found.insert((address.ip.clone(), port.port, ready)), "named twice");
                    }
                }
            }
        }
        let wanted: BTreeSet<_> = backends.iter().filter(|backend| published || !backend.terminating).flat_map(|backend| {
            let ports = backend.named_ports.iter().map(|(_, _, number)| *number).chain([1]);
            ports.map(|port| (backend.address.unwrap().to_string(), port, published || backend.ready)).collect::<Vec<_>>()
        }).collect();
        prop_assert_eq!(found, wanted);
        let middle = turn.min(backends.len());
        backends.rotate_left(middle);
        prop_assert_eq!(plan(&web, &backends, Some(&made)), None, "the order pods are seen in does not matter");
    }
}
