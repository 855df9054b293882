//! Measures a Lifepod from outside, through its public API, as a client sees
//! it. Prints one JSON object. Run by `cargo xtask bench`, which prepares the
//! host, the binary and the images.
//!
//! Reading order: this file, [`pods`] (starts, exits, deletions), [`objects`]
//! (creates, gets, lists), [`slices`] (endpoints follow readiness), [`probes`]
//! (their schedule and cost), [`load`] (long lists, many watchers), [`http2`],
//! [`stats`].

mod http2;
mod load;
mod objects;
mod pods;
mod probes;
mod slices;
mod stats;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};

#[derive(Parser)]
#[command(about = "Measures a Lifepod from outside; run by `cargo xtask bench`")]
struct Flags {
    /// The administrator's kubeconfig; rewritten by every start.
    #[arg(long)]
    kubeconfig: PathBuf,
    /// Where the data directory is, for the disk's own speed.
    #[arg(long)]
    data_dir: PathBuf,
    /// Pods to start one at a time.
    #[arg(long)]
    rounds: usize,
    /// Measure this part alone.
    #[arg(long)]
    only: Option<Part>,
    /// The command that starts the platform.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    up: Vec<String>,
}

/// What can be measured by itself.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Starts, exits, deletions.
    Pods,
    /// Creates, gets, lists.
    Objects,
    /// Endpoints that follow readiness.
    Slices,
    /// The schedule and the cost of probes.
    Probes,
    /// Long lists, many watchers.
    Load,
    /// What ten thousand pods take.
    Memory,
}

impl Flags {
    fn wants(&self, part: Part) -> bool {
        self.only.is_none_or(|only| only == part)
    }
}

/// How long a start may take.
const START_LIMIT: Duration = Duration::from_secs(30);
/// Starts of the platform that are measured.
const STARTS: usize = 7;
/// For the work of a start to end, so that idle is idle.
const SETTLING: Duration = Duration::from_secs(3);
/// The image every pod of the benchmark uses; must be on the node.
const IMAGE: &str = "busybox:1.30";

fn main() -> Result<()> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?
        .block_on(measure(Flags::parse()))
}

async fn measure(flags: Flags) -> Result<()> {
    let yardsticks = json!({ "fsync_us": fsync_us(&flags.data_dir)?, "spawn_true_us": spawn_us()? });
    let mut ready_ms = Vec::new();
    let mut node_ms = Vec::new();
    let mut running = None;
    for start in 0..STARTS {
        let (child, ready, node) = start_platform(&flags).await?;
        ready_ms.push(ready);
        node_ms.push(node);
        if start + 1 == STARTS {
            running = Some(child);
        } else {
            stop(child)?;
        }
    }
    let child = running.context("the platform was not started")?;
    tokio::time::sleep(SETTLING).await;
    let client = client(&flags.kubeconfig).await?;
    let idle = memory_kib(child.id())?;
    let mut report = json!({
        "machine": machine(),
        "yardsticks": yardsticks,
        "startup_ms": { "readyz": stats::summary(ready_ms), "node_ready": stats::summary(node_ms) },
        "memory_idle_kib": idle,
    });
    let measured = parts(&flags, &client, child.id(), &mut report).await;
    stop(child)?;
    measured?;
    if flags.wants(Part::Memory) {
        // Anew: what earlier parts have freed would hide what this one takes.
        let (child, ..) = start_platform(&flags).await?;
        tokio::time::sleep(SETTLING).await;
        let measured = load::memory(&client, child.id()).await;
        stop(child)?;
        report["memory"] = measured?;
    }
    println!("{report:#}");
    Ok(())
}

/// Adds what was measured of each part to the report.
async fn parts(flags: &Flags, client: &Client, server: u32, report: &mut Value) -> Result<()> {
    let wanted = |part: Part| flags.wants(part);
    if wanted(Part::Pods) {
        report["pods"] = pods::measure(client, flags.rounds).await?;
    }
    if wanted(Part::Slices) {
        report["slices"] = slices::measure(client).await?;
    }
    if wanted(Part::Probes) {
        report["probes"] = probes::measure(client, server).await?;
    }
    if wanted(Part::Objects) {
        report["objects"] = objects::measure(client, &flags.kubeconfig).await?;
    }
    if wanted(Part::Load) {
        report["load"] = load::measure(client, &flags.kubeconfig).await?;
    }
    Ok(())
}

async fn client(kubeconfig: &Path) -> Result<Client> {
    let config = Config::from_custom_kubeconfig(Kubeconfig::read_from(kubeconfig)?, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

/// Starts the platform; gives milliseconds until `/readyz` answers and until
/// the node is Ready.
async fn start_platform(flags: &Flags) -> Result<(std::process::Child, f64, f64)> {
    let (program, args) = flags.up.split_first().context("no command to start")?;
    let started = Instant::now();
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()?;
    let client = client(&flags.kubeconfig).await?;
    let mut ready = None;
    loop {
        ensure!(started.elapsed() < START_LIMIT, "the platform was not ready after {START_LIMIT:?}");
        if let Some(status) = child.try_wait()? {
            anyhow::bail!("the platform ended with {status}");
        }
        if ready.is_none() && get(&client, "/readyz").await.is_ok() {
            ready = Some(started.elapsed().as_secs_f64() * 1e3);
        }
        if let Some(ready) = ready
            && node_is_ready(&client, started).await
        {
            return Ok((child, ready, started.elapsed().as_secs_f64() * 1e3));
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Whether a node has renewed its heartbeat since `started`.
async fn node_is_ready(client: &Client, started: Instant) -> bool {
    let Ok(text) = get(client, "/api/v1/nodes").await else {
        return false;
    };
    let Ok(list) = serde_json::from_str::<Value>(&text) else {
        return false;
    };
    let conditions = list["items"][0]["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let ready = conditions
        .iter()
        .any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
    // A Ready from the run before is told apart by the Lease, which the agent
    // renews right after it has registered.
    let Ok(lease) = get(client, "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases").await else {
        return false;
    };
    let Ok(list) = serde_json::from_str::<Value>(&lease) else {
        return false;
    };
    let renewed = list["items"][0]["spec"]["renewTime"]
        .as_str()
        .unwrap_or_default()
        .parse::<k8s_openapi::jiff::Timestamp>();
    let since = k8s_openapi::jiff::Timestamp::now().as_microsecond() - i64::try_from(started.elapsed().as_micros()).unwrap_or(i64::MAX);
    ready && renewed.is_ok_and(|renewed| renewed.as_microsecond() >= since)
}

async fn get(client: &Client, path: &str) -> Result<String> {
    Ok(client.request_text(http::Request::get(path).body(Vec::new())?).await?)
}

fn stop(mut child: std::process::Child) -> Result<()> {
    let pid = i32::try_from(child.id())
        .ok()
        .and_then(rustix::process::Pid::from_raw)
        .context("the platform has no process id")?;
    rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
    child.wait()?;
    Ok(())
}

/// Resident and private memory of the platform, and of its shims on average.
fn memory_kib(pid: u32) -> Result<Value> {
    let field = |pid: u32, name: &str| -> Option<u64> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
        Some(
            text.lines()
                .filter(|line| line.starts_with(name))
                .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
                .sum(),
        )
    };
    Ok(json!({ "resident": field(pid, "Rss:").context("the platform's memory cannot be read")?, "private": field(pid, "Private_") }))
}

/// Median time of one durable 4 KiB append on the data directory's disk.
fn fsync_us(dir: &Path) -> Result<f64> {
    use std::io::Write;
    let path = dir.join("bench-fsync");
    let mut file = std::fs::File::create(&path)?;
    let mut times = Vec::new();
    for _ in 0..100 {
        let started = Instant::now();
        file.write_all(&[0; 4096])?;
        file.sync_data()?;
        times.push(started.elapsed().as_secs_f64() * 1e6);
    }
    std::fs::remove_file(path)?;
    Ok(stats::median(&mut times))
}

/// Median time to run `/bin/true`.
fn spawn_us() -> Result<f64> {
    let mut times = Vec::new();
    for _ in 0..50 {
        let started = Instant::now();
        Command::new("/bin/true").status()?;
        times.push(started.elapsed().as_secs_f64() * 1e6);
    }
    Ok(stats::median(&mut times))
}

fn machine() -> Value {
    let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = text("/proc/cpuinfo");
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("", |rest| rest.trim_start_matches([' ', '\t', ':']));
    json!({
        "cpu": model,
        "cpus": std::thread::available_parallelism().map_or(0, usize::from),
        "kernel": text("/proc/sys/kernel/osrelease").trim(),
    })
}
