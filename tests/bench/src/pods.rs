//! How fast pods start, end and go, as a watcher sees it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ContainerStatus, Namespace, Pod};
use kube::api::{Api, DeleteParams, PostParams, WatchEvent, WatchParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};

use crate::{IMAGE, stats};

/// Pods posted at once.
const BURST: usize = 50;
/// Longest wait for one change.
const LIMIT: Duration = Duration::from_secs(60);
/// Where the pods live.
const NAMESPACE: &str = "bench";

type Changes = futures::stream::BoxStream<'static, kube::Result<WatchEvent<Pod>>>;

/// Starts, exits and deletions, one at a time; then a burst; then shims.
pub(crate) async fn measure(client: &Client, rounds: usize) -> Result<Value> {
    let namespace: Namespace = serde_json::from_value(json!({ "metadata": { "name": NAMESPACE } }))?;
    Api::<Namespace>::all(client.clone())
        .create(&PostParams::default(), &namespace)
        .await?;
    let pods = Api::<Pod>::namespaced(client.clone(), NAMESPACE);
    let list = pods.list(&Default::default()).await?;
    let version = list.metadata.resource_version.unwrap_or_default();
    let mut changes: Changes = pods.watch(&WatchParams::default().timeout(290), &version).await?.boxed();

    let (mut ready, mut gone, mut exits) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        let name = format!("one-{round}");
        let started = Instant::now();
        let marker = format!("99{round:04}");
        pods.create(&PostParams::default(), &obedient(&name, &marker)?).await?;
        wait(&mut changes, &name, is_ready).await?;
        ready.push(ms(started));
        obeys(&marker).await?;
        let started = Instant::now();
        pods.delete(&name, &DeleteParams::default()).await?;
        wait_deleted(&mut changes, &name).await?;
        gone.push(ms(started));
    }
    for round in 0..rounds.min(30) {
        let name = format!("exit-{round}");
        let marker = format!("98{round:04}");
        pods.create(&PostParams::default(), &marked(&name, &marker)?).await?;
        wait(&mut changes, &name, is_ready).await?;
        let pid = find_process(&marker)?;
        let started = Instant::now();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL)?;
        wait(&mut changes, &name, has_ended).await?;
        exits.push(ms(started));
        pods.delete(&name, &DeleteParams::default()).await?;
        wait_deleted(&mut changes, &name).await?;
    }
    let (burst, shims) = burst(&pods, &mut changes).await?;
    // Last: what is deleted by force is still being stopped a while later.
    let restarts = restarts(&pods, &mut changes, rounds.min(30)).await?;
    Ok(json!({
        "post_to_ready_ms": stats::summary(ready),
        "delete_to_deleted_ms": stats::summary(gone),
        "exit_to_status_ms": stats::summary(exits),
        "exit_to_running_again_ms": stats::summary(restarts),
        "burst_of_50_last_ready_ms": burst,
        "shim_private_kib": shims,
    }))
}

/// From the end of a container to the status that says it runs again: the
/// first restart, which has no back-off.
async fn restarts(pods: &Api<Pod>, changes: &mut Changes, rounds: usize) -> Result<Vec<f64>> {
    let mut times = Vec::new();
    for round in 0..rounds {
        let name = format!("again-{round}");
        let marker = format!("97{round:04}");
        let mut pod = marked(&name, &marker)?;
        if let Some(spec) = &mut pod.spec {
            spec.restart_policy = Some("Always".to_owned());
        }
        pods.create(&PostParams::default(), &pod).await?;
        wait(changes, &name, is_ready).await?;
        let pid = find_process(&marker)?;
        let started = Instant::now();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL)?;
        wait(changes, &name, runs_again).await?;
        times.push(ms(started));
        pods.delete(&name, &DeleteParams::default().grace_period(0)).await?;
        wait_deleted(changes, &name).await?;
    }
    Ok(times)
}

async fn burst(pods: &Api<Pod>, changes: &mut Changes) -> Result<(f64, Value)> {
    let started = Instant::now();
    let names: Vec<String> = (0..BURST).map(|index| format!("burst-{index}")).collect();
    let posts = futures::stream::iter(&names).map(|name| async move {
        pods.create(&PostParams::default(), &obedient(name, "1000")?)
            .await
            .map_err(anyhow::Error::from)
    });
    posts.buffer_unordered(8).try_collect::<Vec<_>>().await?;
    let mut waiting: BTreeMap<String, ()> = names.iter().map(|name| (name.clone(), ())).collect();
    while !waiting.is_empty() {
        let pod = next(changes).await?.1;
        if is_ready(&pod) {
            waiting.remove(&pod.name_any());
        }
    }
    let took = ms(started);
    let shims = shims_private_kib()?;
    for name in &names {
        pods.delete(name, &DeleteParams::default()).await?;
    }
    let mut left = names.len();
    while left > 0 {
        if next(changes).await?.0 {
            left -= 1;
        }
    }
    Ok((took, shims))
}

pub(crate) fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

/// A pod whose process obeys SIGTERM from when its child runs, which can be
/// found by its argument.
fn obedient(name: &str, marker: &str) -> Result<Pod> {
    pod(name, &["sh", "-c", &format!("trap 'exit 0' TERM; sleep {marker} & wait")])
}

/// Waits until an obedient pod's child runs: before its shell has set the trap,
/// a signal to the first process of a container is nothing.
async fn obeys(marker: &str) -> Result<()> {
    let begun = Instant::now();
    while find_process(marker).is_err() {
        ensure!(begun.elapsed() < LIMIT, "`sleep {marker}` did not start");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}

/// A pod whose process can be found by its argument.
fn marked(name: &str, marker: &str) -> Result<Pod> {
    pod(name, &["sleep", marker])
}

fn pod(name: &str, command: &[&str]) -> Result<Pod> {
    let container = json!({ "name": "c", "image": IMAGE, "command": command });
    let spec = json!({ "restartPolicy": "Never", "terminationGracePeriodSeconds": 5, "containers": [container] });
    Ok(serde_json::from_value(json!({ "metadata": { "name": name }, "spec": spec }))?)
}

pub(crate) fn is_ready(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_deref())
        .unwrap_or_default();
    conditions
        .iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn container_statuses(pod: &Pod) -> &[ContainerStatus] {
    pod.status
        .as_ref()
        .and_then(|status| status.container_statuses.as_deref())
        .unwrap_or_default()
}

fn runs_again(pod: &Pod) -> bool {
    container_statuses(pod)
        .iter()
        .any(|status| status.restart_count == 1 && status.state.as_ref().is_some_and(|state| state.running.is_some()))
}

fn has_ended(pod: &Pod) -> bool {
    container_statuses(pod)
        .iter()
        .any(|status| status.state.as_ref().is_some_and(|state| state.terminated.is_some()))
}

/// The next change: whether it is a deletion, and the pod.
async fn next(changes: &mut Changes) -> Result<(bool, Pod)> {
    let change = tokio::time::timeout(LIMIT, changes.try_next())
        .await
        .context("no change came in time")??;
    match change.context("the watch ended")? {
        WatchEvent::Added(pod) | WatchEvent::Modified(pod) => Ok((false, pod)),
        WatchEvent::Deleted(pod) => Ok((true, pod)),
        WatchEvent::Bookmark(_) => Box::pin(next(changes)).await,
        WatchEvent::Error(status) => bail!("the watch failed: {}", status.message),
    }
}

async fn wait(changes: &mut Changes, name: &str, reached: fn(&Pod) -> bool) -> Result<()> {
    loop {
        let (_, pod) = next(changes).await.with_context(|| format!("waiting for pod {name}"))?;
        if pod.name_any() == name && reached(&pod) {
            return Ok(());
        }
    }
}

async fn wait_deleted(changes: &mut Changes, name: &str) -> Result<()> {
    loop {
        let (deleted, pod) = next(changes).await.with_context(|| format!("waiting for pod {name} to go"))?;
        if deleted && pod.name_any() == name {
            return Ok(());
        }
    }
}

/// The container process that was started as `sleep MARKER`.
fn find_process(marker: &str) -> Result<rustix::process::Pid> {
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else {
            continue;
        };
        if std::fs::read(entry.path().join("cmdline")).is_ok_and(|line| line == format!("sleep\0{marker}\0").as_bytes()) {
            return rustix::process::Pid::from_raw(pid).context("a process without an id");
        }
    }
    bail!("no process `sleep {marker}`")
}

/// Private memory of every shim on this machine.
fn shims_private_kib() -> Result<Value> {
    let mut values = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if line.split(|byte| *byte == 0).nth(1) != Some(b"shim") {
            continue;
        }
        let Ok(text) = std::fs::read_to_string(entry.path().join("smaps_rollup")) else {
            continue;
        };
        let private: u32 = text
            .lines()
            .filter(|line| line.starts_with("Private_"))
            .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u32>().ok())
            .sum();
        values.push(f64::from(private));
    }
    Ok(stats::summary(values))
}
