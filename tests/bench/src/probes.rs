//! Whether probes keep their schedule, and what probing costs.
//!
//! The probed server is in this program, so that what is told is when a
//! probe really arrives, not when Lifepod says it sent it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::load::account;
use crate::{IMAGE, memory_kib, stats};

/// Pods of two containers with two probes each: 500 probes a second.
const SCHEDULED_PODS: usize = 125;
/// Pods that answer their own probe.
const PROBED_PODS: usize = 300;
/// How long each fleet is watched.
const WINDOW: Duration = Duration::from_secs(20);
/// Every probe's period. The shortest the API has.
const PERIOD: Duration = Duration::from_secs(1);
/// How long a fleet may take to become ready, or to go.
const LIMIT: Duration = Duration::from_secs(120);

/// When requests arrived, by path.
type Arrivals = Arc<Mutex<BTreeMap<String, Vec<Instant>>>>;

/// The schedule of 500 probes a second, then the cost of 300 probed pods.
pub(crate) async fn measure(client: &Client, server: u32) -> Result<Value> {
    let schedule = schedule(client, server).await?;
    let idle_cpu = cpu_share(server, WINDOW / 4).await?;
    let before = memory_kib(server)?;
    let pods = fleet(client, "bench-probed", PROBED_PODS, probed_pod).await?;
    let cpu = cpu_share(server, WINDOW).await?;
    let after = memory_kib(server)?;
    clear(&pods).await?;
    Ok(json!({
        "schedule": schedule,
        "pods_with_own_http_server": {
            "pods": PROBED_PODS, "probes_per_s": PROBED_PODS,
            "cpu_percent_before": idle_cpu, "cpu_percent": cpu,
            "memory_kib_before": before, "memory_kib": after,
        },
    }))
}

/// How late probes arrive against the grid of their own period.
async fn schedule(client: &Client, server: u32) -> Result<Value> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    let arrivals = Arrivals::default();
    let answering = tokio::spawn(answer_all(listener, arrivals.clone()));
    let pods = fleet(client, "bench-schedule", SCHEDULED_PODS, |index| scheduled_pod(index, port)).await?;
    lock(&arrivals).clear();
    let cpu = cpu_share(server, WINDOW).await?;
    let seen = std::mem::take(&mut *lock(&arrivals));
    clear(&pods).await?;
    answering.abort();
    let probes: usize = seen.values().map(Vec::len).sum();
    let late: Vec<f64> = seen.values().flat_map(|series| lateness_ms(series)).collect();
    Ok(json!({
        "probes": seen.len(), "arrived": probes, "window_s": WINDOW.as_secs(),
        "lateness_ms": stats::summary(late), "cpu_percent": cpu,
    }))
}

/// How much later than its grid each arrival of a series is. The grid is the
/// period, laid through the most punctual arrival; a probe that was left out
/// shows as nothing, so what arrived is counted beside it.
fn lateness_ms(series: &[Instant]) -> Vec<f64> {
    let Some(first) = series.first() else {
        return Vec::new();
    };
    let period_ms = PERIOD.as_secs_f64() * 1e3;
    let phases: Vec<f64> = series.iter().map(|at| (*at - *first).as_secs_f64() * 1e3).collect();
    // Against the first: a little early is a small negative number.
    let offsets: Vec<f64> = phases.iter().map(|at| at - (at / period_ms).round() * period_ms).collect();
    let punctual = offsets.iter().copied().fold(f64::INFINITY, f64::min);
    offsets.iter().map(|offset| offset - punctual).collect()
}

/// Answers every request with 200 and notes when it came.
async fn answer_all(listener: TcpListener, arrivals: Arrivals) -> Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        let at = Instant::now();
        let arrivals = arrivals.clone();
        // A probe that breaks off is not an arrival; the count tells.
        tokio::spawn(async move { answer(stream, at, &arrivals).await });
    }
}

async fn answer(mut stream: TcpStream, at: Instant, arrivals: &Arrivals) -> Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
        ensure!(head.len() < 8192, "the head of the request is too long");
        ensure!(stream.read_buf(&mut head).await? > 0, "the request broke off");
    }
    let text = String::from_utf8_lossy(&head).into_owned();
    let path = text.split(' ').nth(1).context("a request without a path")?;
    lock(arrivals).entry(path.to_owned()).or_default().push(at);
    stream
        .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
        .await?;
    stream.shutdown().await?;
    Ok(())
}

fn lock(arrivals: &Arrivals) -> std::sync::MutexGuard<'_, BTreeMap<String, Vec<Instant>>> {
    arrivals.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Two containers, each with a liveness and a readiness probe on this program.
fn scheduled_pod(index: usize, port: u16) -> Value {
    let container = |name: &str| {
        let probe = |kind: &str| {
            let path = format!("/{index}/{name}/{kind}");
            json!({ "httpGet": { "host": "127.0.0.1", "port": port, "path": path }, "periodSeconds": 1 })
        };
        json!({ "name": name, "image": IMAGE, "command": ["sleep", "3600"],
            "livenessProbe": probe("liveness"), "readinessProbe": probe("readiness") })
    };
    json!({ "metadata": { "name": format!("scheduled-{index}") },
        "spec": { "terminationGracePeriodSeconds": 1, "containers": [container("a"), container("b")] } })
}

/// A web server with a readiness probe on itself.
fn probed_pod(index: usize) -> Value {
    let script = "mkdir /www && echo ok > /www/index.html && exec httpd -f -p 8080 -h /www";
    json!({ "metadata": { "name": format!("probed-{index}") },
        "spec": { "terminationGracePeriodSeconds": 1, "containers": [{
            "name": "web", "image": IMAGE, "command": ["sh", "-c", script],
            "readinessProbe": { "httpGet": { "port": 8080 }, "periodSeconds": 1 },
        }] } })
}

/// Makes pods in a namespace of their own and waits until all are ready.
async fn fleet(client: &Client, namespace: &str, count: usize, pod: impl Fn(usize) -> Value) -> Result<Api<Pod>> {
    let object: Namespace = serde_json::from_value(json!({ "metadata": { "name": namespace } }))?;
    Api::<Namespace>::all(client.clone())
        .create(&PostParams::default(), &object)
        .await?;
    account(client, namespace).await?;
    let pods = Api::<Pod>::namespaced(client.clone(), namespace);
    let posts = (0..count).map(|index| {
        let (pods, pod) = (&pods, serde_json::from_value::<Pod>(pod(index)));
        async move { Ok::<_, anyhow::Error>(pods.create(&PostParams::default(), &pod?).await?) }
    });
    futures::stream::iter(posts).buffer_unordered(8).try_collect::<Vec<_>>().await?;
    let begun = Instant::now();
    loop {
        let list = pods.list(&ListParams::default()).await?;
        let ready = list.items.iter().filter(|pod| crate::pods::is_ready(pod)).count();
        if ready == count {
            break;
        }
        ensure!(begun.elapsed() < LIMIT, "{ready} of {count} pods of {namespace} became ready");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    // The start itself is not what is measured.
    tokio::time::sleep(Duration::from_secs(3)).await;
    Ok(pods)
}

/// Deletes a fleet and waits until it is gone.
async fn clear(pods: &Api<Pod>) -> Result<()> {
    pods.delete_collection(&DeleteParams::default(), &ListParams::default()).await?;
    let begun = Instant::now();
    loop {
        let left = pods.list(&ListParams::default()).await?.items.len();
        if left == 0 {
            return Ok(());
        }
        ensure!(begun.elapsed() < LIMIT, "{left} pods did not go");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Processor time of a process over a while, in percent of one processor.
async fn cpu_share(pid: u32, window: Duration) -> Result<f64> {
    let before = cpu_ticks(pid)?;
    let begun = Instant::now();
    tokio::time::sleep(window).await;
    let ticks = cpu_ticks(pid)?.saturating_sub(before);
    // Linux reports hundredths of a second to programs (USER_HZ).
    let seconds = f64::from(u32::try_from(ticks)?) / 100.0;
    Ok((seconds / begun.elapsed().as_secs_f64() * 1e4).round() / 100.0)
}

/// `utime` and `stime` of `/proc/PID/stat`: fields 14 and 15, of which the
/// second, the name in parentheses, may hold spaces.
fn cpu_ticks(pid: u32) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let rest = text.rsplit_once(')').context("a process without a name")?.1;
    let mut fields = rest.split_whitespace().skip(11);
    let mut next = || -> Result<u64> { Ok(fields.next().context("a short line in /proc")?.parse()?) };
    Ok(next()? + next()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lateness_is_against_the_most_punctual_arrival() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let late: Vec<f64> = lateness_ms(&[at(5), at(1000), at(2030), at(4001)])
            .iter()
            .map(|ms| ms.round())
            .collect();
        assert_eq!(late, [5.0, 0.0, 30.0, 1.0]);
        assert!(lateness_ms(&[]).is_empty());
    }
}
