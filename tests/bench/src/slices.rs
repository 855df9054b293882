//! How soon an `EndpointSlice` follows the readiness of a pod among 500.
//!
//! The benchmark plays the kubelet: pods of a node that has no agent, whose
//! readiness it writes itself. What is measured is the API server, the
//! controller and the watches between them.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
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
    let mut times = Vec::new();
    let mut pace = tokio::time::interval(PACE);
    for round in 0..CHANGES {
        pace.tick().await;
        // Another slice and another pod each time, off and on again.
        let index = (round / 2 * 37) % PODS;
        let ready = round % 2 == 1;
        let begun = Instant::now();
        set_ready(&pods, index, ready).await?;
        loop {
            ensure!(begun.elapsed() < LIMIT, "the slices did not follow pod web-{index}");
            let change = tokio::time::timeout(LIMIT, changes.try_next())
                .await
                .context("no slice changed in time")??;
            match change.context("the watch ended")? {
                WatchEvent::Modified(slice) if says(&slice, index, ready) => break,
                WatchEvent::Error(status) => bail!("the watch failed: {}", status.message),
                _ => {}
            }
        }
        times.push(ms(begun));
    }
    // No agent would confirm their deletion.
    pods.delete_collection(&DeleteParams::default().grace_period(0), &ListParams::default())
        .await?;
    nodes.delete(NAMESPACE, &DeleteParams::default()).await?;
    Ok(json!({ "endpoints": PODS, "changes_per_s": 1000 / PACE.as_millis(), "readiness_patch_to_slice_event_ms": stats::summary(times) }))
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

type Changes = futures::stream::BoxStream<'static, kube::Result<WatchEvent<EndpointSlice>>>;

/// Waits until all pods are ready in the slices; gives the changes after that.
async fn filled(slices: &Api<EndpointSlice>) -> Result<Changes> {
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
