//! What the embedded store does on this disk.
//!
//! ```text
//! cargo run --release -p store --example store_bench [DIRECTORY [CACHE_MIB]]
//! ```
//!
//! Makes its files in a temporary directory inside DIRECTORY (the current one
//! unless named: a temporary directory may be memory) and removes them.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use store::embedded::FILE_NAME;
use store::{Compare, Embedded, Op, Options, Page, Revision, Store, Txn};
use tokio::task::JoinSet;

type Failure = Box<dyn std::error::Error + Send + Sync>;

const VALUE_BYTES: usize = 2_048;
const TASKS: usize = 32;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let parent = std::env::args_os().nth(1).map_or_else(|| PathBuf::from("."), PathBuf::from);
    let directory = tempfile::tempdir_in(&parent)?;
    let cache_bytes = match std::env::args().nth(2) {
        Some(mib) => mib.parse::<usize>()? << 20,
        None => Options::default().cache_bytes,
    };
    println!(
        "values of {VALUE_BYTES} bytes, a cache of {cache_bytes}, in {}",
        parent.canonicalize()?.display()
    );
    report("append 4 KiB and sync", &mut syncs(&directory.path().join("syncs"), 300)?);
    for quick_repair in [false, true] {
        println!("\nquick_repair = {quick_repair}");
        let options = Options {
            quick_repair,
            ..Options::default()
        };
        let home = directory.path().join(format!("store-{quick_repair}"));
        let store = Arc::new(Embedded::open(&home, options)?);
        report("durable creates, 1 client", &mut creates(&store, "one", 1, 500).await?);
        report("durable creates, 32 clients", &mut creates(&store, "many", TASKS, 8_000).await?);
        let watching = watch(&store, 1_000).await?;
        report(
            "the same beside 1,000 idle watches",
            &mut creates(&store, "watched", TASKS, 8_000).await?,
        );
        drop(watching);
        reads(&*store).await?;
        for total in [20_000, 50_000] {
            fill(&store, total).await?;
            reopen(&home, &directory.path().join(format!("killed-{quick_repair}-{total}")), options)?;
        }
        println!("{:<40} {}", "memory of this process", resident()?);
        store.close().await?;
    }
    Ok(())
}

/// How long one append with its sync takes, as often as asked.
fn syncs(path: &Path, count: usize) -> Result<Vec<Duration>, Failure> {
    let mut file = OpenOptions::new().create_new(true).append(true).open(path)?;
    let page = [b'x'; 4_096];
    let mut took = Vec::with_capacity(count);
    for _ in 0..count {
        let started = Instant::now();
        file.write_all(&page)?;
        file.sync_data()?;
        took.push(started.elapsed());
    }
    Ok(took)
}

/// Creates `count` keys from `tasks` tasks; returns each commit's time. The
/// rate is printed here, as only the wall clock tells it.
async fn creates(store: &Arc<Embedded>, name: &str, tasks: usize, count: usize) -> Result<Vec<Duration>, Failure> {
    let started = Instant::now();
    let mut clients = JoinSet::new();
    for task in 0..tasks {
        let (store, name) = (Arc::clone(store), name.to_owned());
        clients.spawn(async move {
            let mut took = Vec::new();
            for number in 0..count / tasks {
                let key = format!("/registry/pods/{name}/{task:03}-{number:06}");
                let started = Instant::now();
                store
                    .commit(Txn {
                        compare: vec![Compare::Absent(key.clone())],
                        ops: vec![Op::Put(key, value())],
                    })
                    .await?;
                took.push(started.elapsed());
            }
            Ok::<_, Failure>(took)
        });
    }
    let mut took = Vec::new();
    while let Some(ended) = clients.join_next().await {
        took.extend(ended??);
    }
    let rate = u128::try_from(took.len())? * 1_000_000 / started.elapsed().as_micros().max(1);
    print!("{rate:>7}/s ");
    Ok(took)
}

fn value() -> bytes::Bytes {
    vec![b'x'; VALUE_BYTES].into()
}

/// Watches that hear of progress only; each is read by a task.
async fn watch(store: &Embedded, count: usize) -> Result<JoinSet<()>, Failure> {
    let mut watching = JoinSet::new();
    for number in 0..count {
        let mut watch = store.watch(&format!("/registry/idle/{number}/"), store.revision()).await?;
        watching.spawn(async move { while let Some(Ok(_)) = watch.next().await {} });
    }
    Ok(watching)
}

async fn reads(store: &dyn Store) -> Result<(), Failure> {
    let started = Instant::now();
    let range = store.range("/registry/pods/", None, Page::default()).await?;
    println!("{:<40} {:?} for {} entries", "range, whole", started.elapsed(), range.entries.len());
    let at = Some(Revision(store.revision().0.saturating_sub(1_000)));
    let started = Instant::now();
    let range = store
        .range(
            "/registry/pods/",
            at,
            Page {
                after: None,
                limit: Some(500),
            },
        )
        .await?;
    println!(
        "{:<40} {:?} for {} entries",
        "range, a page, 1,000 revisions ago",
        started.elapsed(),
        range.entries.len()
    );
    Ok(())
}

/// Adds keys until the store holds `total`.
async fn fill(store: &Embedded, total: usize) -> Result<(), Failure> {
    let held = store
        .range(
            "",
            None,
            Page {
                after: None,
                limit: Some(0),
            },
        )
        .await?
        .remaining;
    let keys: Vec<usize> = (held..total).collect();
    for chunk in keys.chunks(100) {
        let ops = chunk
            .iter()
            .map(|number| Op::Put(format!("/registry/filler/{number:08}"), value()))
            .collect();
        store.commit(Txn { compare: Vec::new(), ops }).await?;
    }
    Ok(())
}

/// Opens a copy of an open, quiet store: what a kill would have left.
fn reopen(home: &Path, killed: &Path, options: Options) -> Result<(), Failure> {
    std::fs::create_dir(killed)?;
    let bytes = std::fs::copy(home.join(FILE_NAME), killed.join(FILE_NAME))?;
    // Else opening would be charged for writing the copy out.
    OpenOptions::new().write(true).open(killed.join(FILE_NAME))?.sync_all()?;
    let started = Instant::now();
    let store = Embedded::open(killed, options)?;
    let took = started.elapsed();
    println!(
        "{:<40} {took:?} for {} MB at revision {}",
        "opening after a kill",
        bytes / 1_000_000,
        store.revision()
    );
    Ok(())
}

fn report(what: &str, took: &mut [Duration]) {
    took.sort_unstable();
    let at = |percent: usize| took.get(took.len().saturating_sub(1) * percent / 100).copied().unwrap_or_default();
    println!("{what:<40} p50 {:?}, p99 {:?}, slowest {:?}", at(50), at(99), at(100));
}

fn resident() -> Result<String, Failure> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS"))
        .ok_or("no VmRSS in /proc/self/status")?;
    Ok(line.trim_start_matches("VmRSS:").trim().to_owned())
}
