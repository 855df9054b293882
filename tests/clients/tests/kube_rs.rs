//! kube-rs over TLS: its watcher and reflector, its controller, server-side
//! apply.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use clients::Server;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config, ResourceExt};
use kube_runtime::controller::Action;
use kube_runtime::reflector::store;
use kube_runtime::{Controller, WatchStreamExt, reflector, watcher};
use serde_json::json;

/// Longest wait for something another task does.
const WAIT_MAX: Duration = Duration::from_secs(60);

async fn client(server: &Server) -> Client {
    // The process has two providers of cryptography to choose from, or one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let kubeconfig = Kubeconfig::read_from(server.kubeconfig()).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .unwrap();
    Client::try_from(config).unwrap()
}

fn map(name: &str, data: &[(&str, &str)]) -> ConfigMap {
    let data: BTreeMap<String, String> = data.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            ..ObjectMeta::default()
        },
        data: Some(data),
        ..ConfigMap::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reflector_holds_what_the_server_holds() {
    let server = Server::start().unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(client(&server).await, "default");
    maps.create(&PostParams::default(), &map("before", &[("k", "v")])).await.unwrap();
    let (reader, writer) = store();
    let changes = reflector(writer, watcher(maps.clone(), watcher::Config::default())).applied_objects();
    let mut changes = std::pin::pin!(changes);
    let mut next = async || {
        tokio::time::timeout(WAIT_MAX, changes.try_next())
            .await
            .expect("a change in time")
            .unwrap()
            .unwrap()
            .name_any()
    };
    assert_eq!(next().await, "before");
    maps.create(&PostParams::default(), &map("after", &[("k", "v")])).await.unwrap();
    assert_eq!(next().await, "after");
    maps.patch("after", &PatchParams::default(), &Patch::Merge(json!({"data": {"k": "w"}})))
        .await
        .unwrap();
    assert_eq!(next().await, "after");
    let held = reader.find(|map| map.name_any() == "after").unwrap();
    assert_eq!(held.data.as_ref().unwrap()["k"], "w");
    assert_eq!(reader.state().len(), 2);
    // With the list streamed by the watch itself, as newer clients ask for.
    let streaming = watcher(maps.clone(), watcher::Config::default().streaming_lists()).applied_objects();
    let names: Vec<String> = std::pin::pin!(streaming).take(2).map(|map| map.unwrap().name_any()).collect().await;
    assert_eq!(names, ["after", "before"]);
    maps.delete("after", &DeleteParams::default()).await.unwrap();
    assert_eq!(maps.list(&ListParams::default()).await.unwrap().items.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn server_side_apply_owns_conflicts_and_gives_up() {
    let server = Server::start().unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(client(&server).await, "default");
    let config =
        |data: serde_json::Value| Patch::Apply(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": data}));
    let (one, two) = (PatchParams::apply("one"), PatchParams::apply("two"));
    let made = maps.patch("m", &one, &config(json!({"a": "1", "b": "1"}))).await.unwrap();
    let owner = &made.managed_fields()[0];
    assert_eq!((owner.manager.as_deref(), owner.operation.as_deref()), (Some("one"), Some("Apply")));
    let again = maps.patch("m", &one, &config(json!({"a": "1", "b": "1"}))).await.unwrap();
    assert_eq!(again.resource_version(), made.resource_version());
    let refused = maps.patch("m", &two, &config(json!({"a": "2"}))).await.unwrap_err();
    let kube::Error::Api(status) = refused else { panic!("{refused}") };
    assert_eq!((status.code, status.reason.as_str()), (409, "Conflict"));
    assert_eq!(status.message, "Apply failed with 1 conflict: conflict with \"one\": .data.a");
    let forced = maps.patch("m", &two.clone().force(), &config(json!({"a": "2"}))).await.unwrap();
    assert_eq!(forced.managed_fields().len(), 2);
    let dropped = maps.patch("m", &one, &config(json!({}))).await.unwrap();
    assert_eq!(dropped.data.unwrap(), BTreeMap::from([("a".to_owned(), "2".to_owned())]));
    let dry = PatchParams { dry_run: true, ..one };
    maps.patch(
        "n",
        &dry,
        &Patch::Apply(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "n"}})),
    )
    .await
    .unwrap();
    assert!(maps.get_opt("n").await.unwrap().is_none());
}

/// Copies `spec` keys of maps named `source-*` into maps they own, by
/// server-side apply.
async fn reconcile(source: Arc<ConfigMap>, context: Arc<(Api<ConfigMap>, AtomicUsize)>) -> Result<Action, kube::Error> {
    let (maps, rounds) = &*context;
    rounds.fetch_add(1, Ordering::Relaxed);
    if let Some(name) = source.name_any().strip_prefix("source-") {
        let copy = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {
                "name": format!("copy-{name}"),
                "ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": source.name_any(), "uid": source.uid(), "controller": true}],
            },
            "data": source.data,
        });
        maps.patch(&format!("copy-{name}"), &PatchParams::apply("copier").force(), &Patch::Apply(copy))
            .await?;
    }
    Ok(Action::await_change())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_converges_and_then_rests() {
    let server = Server::start().unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(client(&server).await, "default");
    let context = Arc::new((maps.clone(), AtomicUsize::new(0)));
    let controller = Controller::new(maps.clone(), watcher::Config::default())
        .owns(maps.clone(), watcher::Config::default())
        .run(reconcile, |_, error, _| panic!("reconciling failed: {error}"), Arc::clone(&context))
        .for_each(|_| async {});
    let controller = tokio::spawn(controller);
    for name in ["source-a", "source-b"] {
        maps.create(&PostParams::default(), &map(name, &[("k", "v")])).await.unwrap();
    }
    let copied = async |name: &str, value: &str| {
        let there = async {
            loop {
                let found = maps.get_opt(name).await.unwrap().and_then(|map| map.data?.get("k").cloned());
                if found.as_deref() == Some(value) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(WAIT_MAX, there)
            .await
            .unwrap_or_else(|_| panic!("{name} is not {value} after {WAIT_MAX:?}"));
    };
    copied("copy-a", "v").await;
    copied("copy-b", "v").await;
    maps.patch("source-a", &PatchParams::default(), &Patch::Merge(json!({"data": {"k": "w"}})))
        .await
        .unwrap();
    copied("copy-a", "w").await;
    // Somebody meddles, the controller mends it.
    maps.patch("copy-b", &PatchParams::default(), &Patch::Merge(json!({"data": {"k": "meddled"}})))
        .await
        .unwrap();
    copied("copy-b", "v").await;
    // An apply that changes nothing wakes nobody: the versions stand still.
    let version = maps.get("copy-a").await.unwrap().resource_version();
    let rounds = context.1.load(Ordering::Relaxed);
    maps.patch(
        "source-a",
        &PatchParams::default(),
        &Patch::Merge(json!({"metadata": {"labels": {"touched": "yes"}}})),
    )
    .await
    .unwrap();
    let touched = async {
        while context.1.load(Ordering::Relaxed) == rounds {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(WAIT_MAX, touched)
        .await
        .expect("a round for the touched source");
    assert_eq!(maps.get("copy-a").await.unwrap().resource_version(), version);
    controller.abort();
}
