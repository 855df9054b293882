//! How soon an `EndpointSlice` and the Endpoints follow the readiness and the
//! termination of a pod among 500.
//!
//! The benchmark plays the kubelet: pods of a node that has no agent, whose
//! readiness it writes itself. What is measured is the API server, the
//! controller and the watches between them.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Endpoints, Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use serde_json::{Value, json};

use crate::load::account;
use crate::pods::ms;
use crate::stats;

const NAMESPACE: &str = "bench-slices";
/// Pods behind the Service.
const PODS: usize = 500;
/// Changes of readiness that are measured, and how often one is made.
const CHANGES: usize = 200;
const PACE: Duration = Duration::from_millis(50);
/// Pods whose termination is measured.
const ENDINGS: usize = 50;
/// Longest wait for one change.
const LIMIT: Duration = Duration::from_secs(30);

/// Fills a Service with pods and changes the readiness of one after another.
pub(crate) async fn measure(client: &Client) -> Result<Value> {
    let namespace: Namespace = serde_json::from_value(json!({ "metadata": { "name": NAMESPACE } }))?;
    Api::<Namespace>::all(client.clone())
        .create(&PostParams::default(), &namespace)
        .await?;
    account(client, NAMESPACE).await?;
    let nodes = Api::<Node>::all(client.clone());
    let node: Node = serde_json::from_value(json!({ "metadata": { "name": NAMESPACE } }))?;
    nodes.create(&PostParams::default(), &node).await?;
    let service: Service = serde_json::from_value(json!({
        "metadata": { "name": "web" },
        "spec": { "clusterIP": "None", "selector": { "app": "web" }, "ports": [{ "port": 80 }] },
    }))?;
    Api::<Service>::namespaced(client.clone(), NAMESPACE)
        .create(&PostParams::default(), &service)
        .await?;
    let pods = Api::<Pod>::namespaced(client.clone(), NAMESPACE);
    futures::stream::iter((0..PODS).map(|index| start(&pods, index)))
        .buffer_unordered(32)
        .try_collect::<()>()
        .await?;
    let slices = Api::<EndpointSlice>::namespaced(client.clone(), NAMESPACE);
    let mut changes = filled(&slices).await?;
    let endpoints = Api::<Endpoints>::namespaced(client.clone(), NAMESPACE);
    let mut older = complete(&endpoints).await?;
    let mut readiness = Follows::default();
    let mut endings = Follows::default();
    let mut pace = tokio::time::interval(PACE);
    for round in 0..CHANGES + ENDINGS {
        pace.tick().await;
        let begun = Instant::now();
        // Another slice and another pod each time, off and on again.
        let index = (round / 2 * 37) % PODS;
        let ready = round % 2 == 1;
        let (follows, index, ready) = if round < CHANGES {
            set_ready(&pods, index, ready).await?;
            (&mut readiness, index, ready)
        } else {
            // These the loop above has left as they were; nobody ends them.
            let index = (CHANGES / 2 + round - CHANGES) * 37 % PODS;
            pods.delete(&name(index), &DeleteParams::default()).await?;
            (&mut endings, index, false)
        };
        tokio::try_join!(
            told(&mut changes, begun, &mut follows.slices, |slice| says(slice, index, ready)),
            told(&mut older, begun, &mut follows.endpoints, |all| lists(all, index) == ready),
        )?;
    }
    // No agent would confirm their deletion.
    pods.delete_collection(&DeleteParams::default().grace_period(0), &ListParams::default())
        .await?;
    nodes.delete(NAMESPACE, &DeleteParams::default()).await?;
    Ok(
        json!({ "endpoints": PODS, "changes_per_s": 1000 / PACE.as_millis(), "readiness_patch_ms": readiness.summary(), "delete_ms": endings.summary() }),
    )
}

/// How long the objects took to follow.
#[derive(Default)]
struct Follows {
    slices: Vec<f64>,
    endpoints: Vec<f64>,
}

impl Follows {
    fn summary(self) -> Value {
        json!({ "to_slice_event": stats::summary(self.slices), "to_endpoints_event": stats::summary(self.endpoints) })
    }
}

/// Waits for the change that says it.
async fn told<K: Clone>(changes: &mut Changes<K>, begun: Instant, times: &mut Vec<f64>, says: impl Fn(&K) -> bool) -> Result<()> {
    loop {
        let change = tokio::time::timeout(LIMIT, changes.try_next())
            .await
            .context("nothing changed in time")??;
        match change.context("the watch ended")? {
            WatchEvent::Modified(object) if says(&object) => {
                times.push(ms(begun));
                return Ok(());
            }
            WatchEvent::Error(status) => bail!("the watch failed: {}", status.message),
            _ => {}
        }
    }
}

fn name(index: usize) -> String {
    format!("web-{index}")
}

/// A pod that runs, as far as the API knows.
async fn start(pods: &Api<Pod>, index: usize) -> Result<()> {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": { "name": name(index), "labels": { "app": "web" } },
        "spec": { "nodeName": NAMESPACE, "containers": [{ "name": "c", "image": crate::IMAGE }] },
    }))?;
    pods.create(&PostParams::default(), &pod).await?;
    let ip = format!("10.250.{}.{}", index / 250, index % 250 + 1);
    let status = json!({ "status": { "phase": "Running", "podIP": ip, "podIPs": [{ "ip": ip }] } });
    pods.patch_status(&name(index), &PatchParams::default(), &Patch::Strategic(status))
        .await?;
    set_ready(pods, index, true).await
}

async fn set_ready(pods: &Api<Pod>, index: usize, ready: bool) -> Result<()> {
    let status = if ready { "True" } else { "False" };
    let status = json!({ "status": { "conditions": [{ "type": "Ready", "status": status }] } });
    pods.patch_status(&name(index), &PatchParams::default(), &Patch::Strategic(status))
        .await?;
    Ok(())
}

/// Whether a slice says this of a pod.
fn says(slice: &EndpointSlice, index: usize, ready: bool) -> bool {
    let name = name(index);
    slice.endpoints.iter().any(|endpoint| {
        endpoint.target_ref.as_ref().and_then(|target| target.name.as_deref()) == Some(&name)
            && endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) == Some(ready)
    })
}

/// Whether a pod is among those that are ready.
fn lists(endpoints: &Endpoints, index: usize) -> bool {
    let name = name(index);
    let ready = endpoints
        .subsets
        .iter()
        .flatten()
        .flat_map(|subset| subset.addresses.iter().flatten());
    ready
        .filter_map(|address| address.target_ref.as_ref()?.name.as_ref())
        .any(|target| *target == name)
}

type Changes<K> = futures::stream::BoxStream<'static, kube::Result<WatchEvent<K>>>;

/// Waits until all pods are among the Endpoints; gives the changes after that.
async fn complete(endpoints: &Api<Endpoints>) -> Result<Changes<Endpoints>> {
    let begun = Instant::now();
    loop {
        let web = endpoints.get("web").await?;
        if (0..PODS).all(|index| lists(&web, index)) {
            let version = web.metadata.resource_version.unwrap_or_default();
            return Ok(endpoints.watch(&WatchParams::default().timeout(290), &version).await?.boxed());
        }
        ensure!(begun.elapsed() < LIMIT, "some of {PODS} pods are missing from the Endpoints");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until all pods are ready in the slices; gives the changes after that.
async fn filled(slices: &Api<EndpointSlice>) -> Result<Changes<EndpointSlice>> {
    let begun = Instant::now();
    loop {
        let list = slices.list(&ListParams::default()).await?;
        let ready: BTreeSet<_> = list
            .items
            .iter()
            .flat_map(|slice| &slice.endpoints)
            .filter(|endpoint| endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) == Some(true))
            .filter_map(|endpoint| endpoint.target_ref.as_ref()?.name.clone())
            .collect();
        if ready.len() == PODS {
            let version = list.metadata.resource_version.unwrap_or_default();
            return Ok(slices.watch(&WatchParams::default().timeout(290), &version).await?.boxed());
        }
        ensure!(
            begun.elapsed() < LIMIT,
            "{} of {PODS} endpoints are ready in the slices",
            ready.len()
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
