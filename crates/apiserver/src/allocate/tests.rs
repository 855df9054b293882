use std::collections::BTreeSet;

use http::Request;
use serde_json::{Value, json};

use crate::registry::Ranges;
use crate::testing::Rig;
use crate::{ApiServer, Limits, body};

const SERVICES: &str = "/api/v1/namespaces/default/services";

fn service(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"ports": [{"port": 80}]}})
}

async fn small() -> Rig {
    // 10.0.0.2 to 10.0.0.6.
    Rig::with_ranges(Limits::default(), "10.0.0.0/29".parse().unwrap()).await
}

/// Creates a Service and returns its address, or the refusal.
async fn create(server: ApiServer, name: String) -> Result<String, String> {
    let request = Request::post(SERVICES)
        .header("content-type", "application/json")
        .body(body::full(service(&name).to_string()))
        .unwrap();
    let response = server.handle(Some(Rig::admin()), request).await;
    let code = response.status().as_u16();
    let value: Value = serde_json::from_slice(&body::read(response.into_body(), 1 << 20).await.unwrap()).unwrap();
    match code {
        201 => Ok(value["spec"]["clusterIP"].as_str().unwrap().to_owned()),
        _ => Err(format!("{code} {}", value["message"])),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_two_services_get_the_same_address_whoever_asks_when() {
    let rig = Rig::new().await;
    let servers = [
        rig.server.clone(),
        rig.sibling(Ranges::default()).await,
        rig.sibling(Ranges::default()).await,
    ];
    let mut creates = tokio::task::JoinSet::new();
    for index in 0..50 {
        creates.spawn(create(servers[index % servers.len()].clone(), format!("s-{index}")));
    }
    let given: Vec<String> = creates.join_all().await.into_iter().map(Result::unwrap).collect();
    let distinct: BTreeSet<&String> = given.iter().collect();
    assert_eq!((given.len(), distinct.len()), (50, 50), "{given:?}");
    // The first fifty of the range, without a hole.
    assert!(distinct.contains(&"10.96.0.2".to_owned()) && distinct.contains(&"10.96.0.51".to_owned()));
    let stored = rig.get(SERVICES).await.json();
    let stored: BTreeSet<String> = stored["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|service| service["spec"]["clusterIPs"][0].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(stored, given.into_iter().collect());
}

#[tokio::test]
async fn a_full_range_refuses_until_an_address_is_free_again() {
    let rig = small().await;
    for last in 2..=6 {
        let made = create(rig.server.clone(), format!("s-{last}")).await;
        assert_eq!(made, Ok(format!("10.0.0.{last}")));
    }
    assert_eq!(
        create(rig.server.clone(), "late".to_owned()).await,
        Err(r#"500 "Internal error occurred: failed to allocate a serviceIP: range is full""#.to_owned())
    );
    assert_eq!(rig.delete(&format!("{SERVICES}/s-4"), None).await.code, 200);
    assert_eq!(create(rig.server.clone(), "late".to_owned()).await, Ok("10.0.0.4".to_owned()));
}

#[tokio::test]
async fn an_address_asked_for_is_given_once() {
    let rig = small().await;
    let asking = |name: &str, address: &str| {
        let mut asking = service(name);
        asking["spec"]["clusterIP"] = json!(address);
        asking
    };
    let made = rig.post(SERVICES, &asking("a", "10.0.0.5")).await.json();
    assert_eq!(made["spec"]["clusterIPs"], json!(["10.0.0.5"]));
    assert_eq!(
        rig.post(SERVICES, &asking("b", "10.0.0.5")).await.brief(),
        r#"422 Service "b" is invalid: spec.clusterIPs: Invalid value: ["10.0.0.5"]: failed to allocate IP 10.0.0.5: provided IP is already allocated"#
    );
    let outside = rig.post(SERVICES, &asking("b", "10.0.1.5")).await.brief();
    assert!(outside.ends_with("The range of valid IPs is 10.0.0.0/29"), "{outside}");
    let headless = rig.post(SERVICES, &asking("b", "None")).await.json();
    assert_eq!(headless["spec"]["clusterIPs"], json!(["None"]));
}

#[tokio::test]
async fn a_dry_run_is_shown_an_address_and_keeps_none() {
    let rig = small().await;
    let before = rig.store.revision();
    for _ in 0..2 {
        let shown = rig.post(&format!("{SERVICES}?dryRun=All"), &service("a")).await;
        assert_eq!((shown.code, &shown.json()["spec"]["clusterIP"]), (201, &json!("10.0.0.2")));
    }
    assert_eq!(rig.store.revision(), before);
    assert_eq!(create(rig.server.clone(), "b".to_owned()).await, Ok("10.0.0.2".to_owned()));
}

#[tokio::test]
async fn a_service_that_changes_its_type_gets_and_gives_back_its_address() {
    let rig = small().await;
    let path = format!("{SERVICES}/a");
    let named = json!({"metadata": {"name": "a"}, "spec": {"type": "ExternalName", "externalName": "example.com"}});
    let made = rig.post(SERVICES, &named).await.json();
    assert_eq!(made["spec"].get("clusterIP"), None);

    let inside = json!({"spec": {"type": "ClusterIP", "externalName": null, "ports": [{"port": 80}]}});
    let shown = rig.patch(&format!("{path}?dryRun=All"), "merge-patch", &inside).await.json();
    assert_eq!(shown["spec"]["clusterIP"], "10.0.0.2");
    assert_eq!(create(rig.server.clone(), "b".to_owned()).await, Ok("10.0.0.2".to_owned()));
    let changed = rig.patch(&path, "merge-patch", &inside).await;
    assert_eq!((changed.code, &changed.json()["spec"]["clusterIP"]), (200, &json!("10.0.0.3")));

    // A replacement that leaves the address out keeps it.
    let kept = rig.put(&path, &service("a")).await;
    assert_eq!((kept.code, &kept.json()["spec"]["clusterIP"]), (200, &json!("10.0.0.3")));
    let moved = rig
        .patch(
            &path,
            "merge-patch",
            &json!({"spec": {"clusterIP": "10.0.0.6", "clusterIPs": null}}),
        )
        .await;
    assert_eq!(moved.code, 422, "{:?}", moved.text);

    let outside = rig
        .patch(
            &path,
            "merge-patch",
            &json!({"spec": {"type": "ExternalName", "externalName": "example.com"}}),
        )
        .await;
    assert_eq!(
        (outside.code, outside.json()["spec"].get("clusterIP")),
        (200, None),
        "{:?}",
        outside.text
    );
    assert_eq!(create(rig.server.clone(), "c".to_owned()).await, Ok("10.0.0.3".to_owned()));
}
