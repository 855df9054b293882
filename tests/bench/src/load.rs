//! Many objects and many watchers: long lists, how soon a change reaches a
//! thousand watchers, what ten thousand pods take of memory.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::{AsyncBufReadExt, StreamExt, TryStreamExt};
use http_body_util::BodyStream;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, ServiceAccount};
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::http2::Connection;
use crate::{SETTLING, memory_kib, stats};

/// Objects of the long list, and pods whose memory is told.
const MANY: usize = 10_000;
/// Watchers of one collection.
const WATCHERS: usize = 1_000;
/// Of those, on one connection, as the informers of one program are.
const WATCHERS_PER_CONNECTION: usize = 20;
/// Changes a second, and for how long.
const WRITES_PER_S: u32 = 100;
const WRITING: Duration = Duration::from_secs(10);
/// How long all watchers may take to begin, and the last change to arrive.
const LIMIT: Duration = Duration::from_secs(60);
/// Creates under way at a time while filling.
const FILLING: usize = 64;
const LIST_WINDOW: Duration = Duration::from_secs(5);

/// Long lists, then watchers.
pub(crate) async fn measure(client: &Client, kubeconfig: &Path) -> Result<Value> {
    for name in ["bench-many", "bench-watch"] {
        namespace(client, name).await?;
    }
    let content = "x".repeat(700);
    fill(
        client,
        "/api/v1/namespaces/bench-many/configmaps",
        |index| json!({ "metadata": { "name": format!("many-{index}") }, "data": { "content": content } }),
    )
    .await?;
    Ok(json!({ "lists_of_10000": long_lists(client).await?, "watch_delivery": watchers(client, kubeconfig).await? }))
}

/// What many pods take of the server's memory, and what is left of it when
/// they are gone.
pub(crate) async fn memory(client: &Client, server: u32) -> Result<Value> {
    namespace(client, "bench-pods").await?;
    account(client, "bench-pods").await?;
    let before = memory_kib(server)?;
    fill(client, "/api/v1/namespaces/bench-pods/pods", pending_pod).await?;
    let with = memory_kib(server)?;
    let pods = Api::<Pod>::namespaced(client.clone(), "bench-pods");
    pods.delete_collection(&DeleteParams::default().grace_period(0), &ListParams::default())
        .await?;
    let begun = Instant::now();
    while !pods.list_metadata(&ListParams::default().limit(1)).await?.items.is_empty() {
        ensure!(begun.elapsed() < LIMIT, "the pods were not deleted");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    tokio::time::sleep(SETTLING).await;
    Ok(json!({ "before_kib": before, "with_10000_pods_kib": with, "after_their_deletion_kib": memory_kib(server)? }))
}

async fn namespace(client: &Client, name: &str) -> Result<()> {
    let namespace: Namespace = serde_json::from_value(json!({ "metadata": { "name": name } }))?;
    Api::<Namespace>::all(client.clone())
        .create(&PostParams::default(), &namespace)
        .await?;
    Ok(())
}

/// A pod no node takes: what is measured is what the server keeps of it.
fn pending_pod(index: usize) -> Value {
    json!({
        "metadata": { "name": format!("pending-{index}"), "labels": { "app": "bench", "pod-template-hash": "6b7f6cd9d5" } },
        "spec": {
            "schedulerName": "nobody",
            "containers": [{ "name": "main", "image": "busybox:1.30", "command": ["sleep", "3600"],
                "resources": { "requests": { "cpu": "10m", "memory": "16Mi" } } }],
        },
    })
}

/// Waits for what every pod of a namespace needs: its ServiceAccount.
pub(crate) async fn account(client: &Client, namespace: &str) -> Result<()> {
    let accounts = Api::<ServiceAccount>::namespaced(client.clone(), namespace);
    let begun = Instant::now();
    while accounts.get_opt("default").await?.is_none() {
        ensure!(begun.elapsed() < LIMIT, "the namespace {namespace} got no ServiceAccount");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// Creates many objects, some at a time.
async fn fill(client: &Client, path: &str, object: impl Fn(usize) -> Value) -> Result<()> {
    let requests = (0..MANY).map(|index| {
        let body = serde_json::to_vec(&object(index)).map_err(anyhow::Error::from);
        async move {
            let request = http::Request::post(path).header("content-type", "application/json").body(body?)?;
            client.request_text(request).await.map(|_| ()).map_err(anyhow::Error::from)
        }
    });
    futures::stream::iter(requests).buffer_unordered(FILLING).try_collect::<()>().await
}

/// Whole lists of everything, one after the other on one connection.
async fn long_lists(client: &Client) -> Result<Value> {
    let mut times = Vec::new();
    let mut bytes = 0;
    let started = Instant::now();
    while started.elapsed() < LIST_WINDOW {
        let begun = Instant::now();
        let request = http::Request::get("/api/v1/namespaces/bench-many/configmaps").body(Vec::new())?;
        bytes = client.request_text(request).await?.len();
        times.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    Ok(json!({ "bytes": bytes, "ms": stats::summary(times) }))
}

/// From the answer of a write to its event in each of the watchers. A change
/// carries when it was sent, so what is told includes the write itself.
async fn watchers(client: &Client, kubeconfig: &Path) -> Result<Value> {
    let path = "/api/v1/namespaces/bench-watch/configmaps";
    let begun = Instant::now();
    let (delivered, mut delays) = mpsc::channel::<u32>(WATCHERS * 4);
    let ready = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    let mut shared = Connection::open(kubeconfig).await?;
    for index in 0..WATCHERS {
        if index % WATCHERS_PER_CONNECTION == 0 {
            shared = Connection::open(kubeconfig).await?;
        }
        let mut connection = shared.clone();
        let (delivered, ready) = (delivered.clone(), Arc::clone(&ready));
        tasks.spawn(async move {
            let body = connection.get(&format!("{path}?watch=1&timeoutSeconds=290")).await?;
            let mut lines = BodyStream::new(body)
                .map_ok(|frame| frame.into_data().unwrap_or_default())
                .map_err(std::io::Error::other)
                .into_async_read()
                .lines();
            while let Some(line) = lines.next().await {
                let line = line?;
                if line.contains("\"first\"") {
                    ready.fetch_add(1, Ordering::Relaxed);
                } else if let Some(sent) = line.split("\"sent_us\":\"").nth(1).and_then(|rest| rest.split('"').next()) {
                    let now = u64::try_from(begun.elapsed().as_micros())?;
                    delivered.send(u32::try_from(now.saturating_sub(sent.parse()?))?).await?;
                }
            }
            Ok::<(), anyhow::Error>(())
        });
    }
    let maps = Api::<ConfigMap>::namespaced(client.clone(), "bench-watch");
    let first = serde_json::from_value(json!({ "metadata": { "name": "first" } }))?;
    maps.create(&PostParams::default(), &first).await?;
    while ready.load(Ordering::Relaxed) < WATCHERS as u64 {
        ensure!(
            begun.elapsed() < LIMIT,
            "{} of {WATCHERS} watchers began",
            ready.load(Ordering::Relaxed)
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let writes = WRITES_PER_S * u32::try_from(WRITING.as_secs())?;
    let writer = client.clone();
    tasks.spawn(async move {
        let mut tick = tokio::time::interval(Duration::from_secs(1) / WRITES_PER_S);
        for index in 0..writes {
            tick.tick().await;
            let sent = begun.elapsed().as_micros().to_string();
            let map = json!({ "metadata": { "name": format!("w-{index}") }, "data": { "sent_us": sent, "content": "x".repeat(700) } });
            let request = http::Request::post(path).header("content-type", "application/json");
            writer.request_text(request.body(serde_json::to_vec(&map)?)?).await?;
        }
        Ok(())
    });
    let wanted = writes as usize * WATCHERS;
    let mut times = Vec::with_capacity(wanted);
    while times.len() < wanted {
        let delay = tokio::time::timeout(LIMIT, delays.recv()).await;
        let delay = delay
            .ok()
            .flatten()
            .with_context(|| format!("{} of {wanted} deliveries came", times.len()))?;
        times.push(f64::from(delay) / 1e3);
    }
    tasks.shutdown().await;
    Ok(
        json!({ "watchers": WATCHERS, "connections": WATCHERS / WATCHERS_PER_CONNECTION, "writes_per_s": WRITES_PER_S, "post_to_event_ms": stats::summary(times) }),
    )
}
