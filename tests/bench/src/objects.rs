//! How many objects a second: durable creates, gets, lists.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// Connections that work at the same time.
const CLIENTS: usize = 32;
/// How long each kind of request is measured.
const WINDOW: Duration = Duration::from_secs(3);
/// Where the objects live.
const NAMESPACE: &str = "bench-objects";
const PATH: &str = "/api/v1/namespaces/bench-objects/configmaps";
/// Objects in the list that is read.
const LISTED: usize = 500;

/// Each kind of request for a few seconds, from 32 connections.
pub(crate) async fn measure(client: &Client, kubeconfig: &Path) -> Result<Value> {
    let namespace: Namespace = serde_json::from_value(json!({ "metadata": { "name": NAMESPACE } }))?;
    Api::<Namespace>::all(client.clone())
        .create(&PostParams::default(), &namespace)
        .await?;
    let maps = Api::<ConfigMap>::namespaced(client.clone(), NAMESPACE);
    for index in 0..LISTED {
        maps.create(&PostParams::default(), &config_map(&format!("listed-{index}"), "listed")?)
            .await?;
    }
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        // A connection of its own each: one connection would queue in itself.
        clients.push(crate::client(kubeconfig).await?);
    }
    // By themselves first: what is written below comes beside them.
    let all = rate(&clients, || Ok(http::Request::get(PATH).body(Vec::new())?)).await?;
    let counter = Arc::new(AtomicUsize::new(0));
    let creates = rate(&clients, move || {
        let name = format!("created-{}", counter.fetch_add(1, Ordering::Relaxed));
        let body = serde_json::to_vec(&config_map(&name, "created")?)?;
        Ok(http::Request::post(PATH).header("content-type", "application/json").body(body)?)
    });
    let creates = creates.await?;
    let gets = rate(&clients, || Ok(http::Request::get(format!("{PATH}/listed-7")).body(Vec::new())?)).await?;
    let chosen = rate(&clients, || {
        Ok(http::Request::get(format!("{PATH}?labelSelector=set%3Dlisted")).body(Vec::new())?)
    })
    .await?;
    let among = maps.list_metadata(&ListParams::default()).await?.items.len();
    maps.delete_collection(&DeleteParams::default(), &ListParams::default()).await?;
    Ok(
        json!({ "clients": CLIENTS, "object_bytes": 1024, "durable_creates_per_s": creates, "gets_per_s": gets,
            "lists_of_500_per_s": all, "lists_of_500_by_label_per_s": { "among": among, "per_s": chosen } }),
    )
}

/// Requests a second over all clients, each sending the next when the last is
/// answered. Answers are read whole and not decoded: the server is measured.
async fn rate<F>(clients: &[Client], request: F) -> Result<f64>
where
    F: Fn() -> Result<http::Request<Vec<u8>>> + Clone + Send + 'static,
{
    let started = Instant::now();
    let mut workers = JoinSet::new();
    for client in clients {
        let (client, request) = (client.clone(), request.clone());
        workers.spawn(async move {
            let mut done = 0_u32;
            while started.elapsed() < WINDOW {
                client.request_text(request()?).await?;
                done += 1;
            }
            Ok::<_, anyhow::Error>(done)
        });
    }
    let mut total = 0.0;
    while let Some(done) = workers.join_next().await {
        total += f64::from(done??);
    }
    Ok((total / started.elapsed().as_secs_f64()).round())
}

/// An object of about 1 KiB.
fn config_map(name: &str, set: &str) -> Result<ConfigMap> {
    let value = json!({ "metadata": { "name": name, "labels": { "set": set } }, "data": { "content": "x".repeat(700) } });
    Ok(serde_json::from_value(value)?)
}
