use serde_json::{Value, json};

use super::*;
use crate::backend::tests::{Differs, READY, pod, service};

fn key(name: &str) -> Key {
    ("default".to_owned(), name.to_owned())
}

fn slice(name: &str, of: &str, version: u64) -> EndpointSlice {
    let labels = json!({ "kubernetes.io/service-name": of });
    let metadata = json!({ "name": name, "namespace": "default", "uid": format!("uid-{name}"), "resourceVersion": version.to_string(), "labels": labels });
    serde_json::from_value(json!({ "metadata": metadata, "addressType": "IPv4", "endpoints": [] })).unwrap()
}

fn endpoints(uid: &str, version: u64, labels: Value) -> Endpoints {
    let metadata = json!({ "name": "web", "namespace": "default", "uid": uid, "resourceVersion": version.to_string(), "labels": labels });
    serde_json::from_value(json!({ "metadata": metadata })).unwrap()
}

#[test]
fn only_what_matters_of_a_pod_concerns_its_services_before_and_after() {
    let mut cache = Cache::default();
    assert_eq!(cache.service(service(json!({}))), both(key("web")));
    assert_eq!(cache.service(service(json!({}))), [], "nothing new");
    let a = pod("a", Some("10.0.0.1"), READY);
    assert_eq!(cache.backend(a.clone()), both(key("web")));
    assert_eq!(cache.backend(a.clone()), [], "nothing new");
    let mut other = a.clone();
    other.labels.clear();
    assert_eq!(cache.backend(other.clone()), both(key("web")), "it has left");
    other.ready = false;
    assert_eq!(cache.backend(other.clone()), [], "it concerns nobody");
    assert_eq!(cache.backend(a), both(key("web")), "it is back");
    assert_eq!(cache.backend_gone(&key("a")), both(key("web")));
    assert_eq!(cache.backend_gone(&key("a")), []);
    let elsewhere = Backend {
        namespace: "default2".to_owned(),
        ..pod("b", Some("10.0.0.2"), READY)
    };
    assert_eq!(cache.backend(elsewhere), [], "another namespace");
}

#[test]
fn a_watch_that_lags_does_not_undo_what_an_answer_has_told() {
    let mut cache = Cache::default();
    assert_eq!(cache.slice(slice("s", "web", 9), false), [Item::Slices(key("web"))]);
    assert_eq!(cache.slice(slice("s", "web", 9), false), [], "the same");
    assert_eq!(cache.slice(slice("s", "web", 10), false), [Item::Slices(key("web"))]);
    assert_eq!(
        cache.slice(slice("s", "web", 8), true),
        [Item::Slices(key("web"))],
        "a list is the truth"
    );
    assert_eq!(cache.slice_gone(&key("s"), Some("another")), [], "one of the same name before it");
    assert_eq!(cache.slice_gone(&key("s"), Some("uid-s")), [Item::Slices(key("web"))]);
    assert!(cache.slices().is_empty());

    assert_eq!(cache.endpoints(endpoints("1", 10, json!({})), false), [Item::Endpoints(key("web"))]);
    assert_eq!(cache.endpoints(endpoints("1", 9, json!({})), false), []);
    assert_eq!(cache.endpoints_gone(&key("web"), Some("0")), []);
    assert_eq!(cache.endpoints_gone(&key("web"), None), [Item::Endpoints(key("web"))]);
}

#[test]
fn a_slice_that_changes_hands_concerns_both() {
    let mut cache = Cache::default();
    cache.slice(slice("s", "web", 1), false);
    assert_eq!(
        cache.slice(slice("s", "db", 2), false),
        [Item::Slices(key("web")), Item::Slices(key("db"))]
    );
    let mut nobodys = slice("s", "db", 3);
    nobodys.metadata.labels = None;
    assert_eq!(cache.slice(nobodys, false), [Item::Slices(key("db"))]);
    assert!(cache.slices().is_empty());
}

#[test]
fn endpoints_without_service_go_if_ours_or_if_it_was_seen_to_go() {
    let ours = json!({ endpoints::MANAGED_BY_LABEL: endpoints::MANAGED_BY });
    let deletes = |cache: &Cache| matches!(cache.work(&Item::Endpoints(key("web"))), Some(Work::DeleteEndpoints(_)));
    let mut cache = Cache::default();
    cache.endpoints(endpoints("1", 1, ours), false);
    assert!(deletes(&cache));
    cache.endpoints(endpoints("1", 2, json!({})), false);
    assert!(!deletes(&cache), "made by hand");
    let manual = service(json!({ "selector": null }));
    cache.service(manual.clone());
    assert!(cache.work(&Item::Endpoints(key("web"))).is_none());
    cache.service_gone(&key("web"));
    assert!(deletes(&cache));
    cache.service(manual);
    assert!(!deletes(&cache), "it is there again");
}

#[test]
fn work_is_done_only_where_something_differs() {
    let mut cache = Cache::default();
    cache.service(service(json!({})));
    cache.backend(pod("a", Some("10.0.0.1"), Differs { ready: false, ..READY }));
    let Some(Work::Slices(plan)) = cache.work(&Item::Slices(key("web"))) else {
        panic!("a slice is missing");
    };
    let mut made = plan.create.into_iter().next().unwrap();
    made.metadata.name = Some("web-1".to_owned());
    cache.slice(made, false);
    assert!(cache.work(&Item::Slices(key("web"))).is_none());
    assert!(matches!(cache.work(&Item::Endpoints(key("web"))), Some(Work::WriteEndpoints(..))));
    cache.service_gone(&key("web"));
    assert!(matches!(cache.work(&Item::Slices(key("web"))), Some(Work::Slices(plan)) if plan.delete.len() == 1));
}
