//! A store killed in the middle of concurrent commits keeps every write it
//! acknowledged.
//!
//! The test starts itself again as a child that commits from 32 tasks and says
//! which commits were acknowledged, kills the child, opens the store, and looks.
//! The operating system survives, so this shows what a process leaves behind,
//! not what a disk does when the power goes.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use store::{Embedded, Op, Options, Revision, Store, Txn};

/// Names the data directory to the child.
const DIRECTORY: &str = "STORE_CRASH_DIRECTORY";
const TASKS: usize = 32;
const ROUNDS: u64 = 20;
const VALUE_BYTES: usize = 1_024;
/// What the platform promises: it is back within a second.
const REOPEN_LIMIT: Duration = Duration::from_secs(1);

#[test]
fn no_acknowledged_write_is_lost_when_the_process_is_killed() {
    let directory = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut acknowledged: BTreeMap<String, Revision> = BTreeMap::new();
    let mut newest = Revision(1);
    let mut slowest = Duration::ZERO;
    let mut chance = seed();
    println!("seed {chance}");
    for round in 0..ROUNDS {
        let kill_after = next(&mut chance) % 160;
        let delay = Duration::from_micros(next(&mut chance) % 3_000);
        for (key, revision) in kill_mid_commit(directory.path(), kill_after, delay) {
            assert!(revision > newest, "revision {revision} was given before: {newest} had been seen");
            acknowledged.insert(key, revision);
        }
        let started = Instant::now();
        let store = Embedded::open(directory.path(), Options::default()).expect("the store opens after a kill");
        let took = started.elapsed();
        slowest = slowest.max(took);
        let reached = acknowledged.values().max().copied().unwrap_or(newest);
        assert!(
            store.revision() >= reached.max(newest),
            "at {} after {reached} was acknowledged",
            store.revision()
        );
        newest = store.revision();
        runtime.block_on(check(&store, &acknowledged));
        println!(
            "round {round}: {} acknowledged in all, revision {newest}, opened in {took:?}",
            acknowledged.len()
        );
        assert!(took < REOPEN_LIMIT, "opening took {took:?}");
        // Every other round the child finds a file that was closed cleanly; in
        // the rounds between, one that was opened and then left by a drop.
        if round % 2 == 0 {
            runtime.block_on(store.close()).unwrap();
        } else {
            drop(store);
        }
    }
    println!("slowest opening: {slowest:?}");
    assert!(
        acknowledged.len() > 100,
        "only {} writes were acknowledged: the kills came too early",
        acknowledged.len()
    );
}

async fn check(store: &Embedded, acknowledged: &BTreeMap<String, Revision>) {
    for (key, revision) in acknowledged {
        let found = store
            .get(key)
            .await
            .unwrap()
            .unwrap_or_else(|| panic!("{key}, acknowledged at {revision}, is missing"));
        if key.starts_with("new/") {
            assert_eq!(found.modified, *revision, "{key}");
            assert_eq!(found.value.len(), VALUE_BYTES);
        } else {
            // The last writes of a round may have landed without being heard of.
            assert!(
                found.modified >= *revision,
                "{key}, acknowledged at {revision}, is at {}",
                found.modified
            );
        }
    }
}

/// Runs the child until it has acknowledged so many writes and a moment longer,
/// kills it, and returns all it acknowledged.
fn kill_mid_commit(directory: &Path, kill_after: u64, delay: Duration) -> Vec<(String, Revision)> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "commit_until_killed", "--nocapture"])
        .env(DIRECTORY, directory)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let mut acknowledged = Vec::new();
    let mut parse = |line: String| {
        let mut words = line.split(' ');
        if words.next() == Some("acknowledged") {
            let (key, revision) = (words.next().unwrap(), words.next().unwrap());
            acknowledged.push((key.to_owned(), Revision(revision.parse().unwrap())));
        }
        acknowledged.len() as u64
    };
    for line in lines.by_ref() {
        if parse(line) > kill_after {
            break;
        }
    }
    // Not a wait for anything: it moves the kill to another instant of a commit.
    std::thread::sleep(delay);
    child.kill().unwrap();
    // What it said before it died counts.
    for line in lines {
        parse(line);
    }
    let status = child.wait().unwrap();
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&status),
        Some(9),
        "the child ended by itself: {status}"
    );
    acknowledged.sort_by_key(|(_, revision)| *revision);
    let twice = acknowledged.windows(2).find(|pair| pair[0].1 == pair[1].1);
    assert!(twice.is_none(), "one revision, two transactions: {twice:?}");
    acknowledged
}

/// The child. Each task creates keys of its own and updates one, in turns.
#[test]
#[ignore = "runs until it is killed; started by the test above"]
fn commit_until_killed() {
    let directory = std::env::var_os(DIRECTORY).expect("started by the test above");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let store = Arc::new(open_once_free(Path::new(&directory)).await);
        // The test harness has begun a line of its own.
        std::io::stdout().lock().write_all(b"\n").unwrap();
        let start = store.revision();
        let mut tasks = tokio::task::JoinSet::new();
        for task in 0..TASKS {
            let store = Arc::clone(&store);
            tasks.spawn(async move {
                for number in 0_u64.. {
                    let key = if number % 2 == 0 {
                        format!("new/{start}/{task}/{number}")
                    } else {
                        format!("updated/{task}")
                    };
                    let op = Op::Put(key.clone(), vec![b'x'; VALUE_BYTES].into());
                    let revision = store
                        .commit(Txn {
                            compare: Vec::new(),
                            ops: vec![op],
                        })
                        .await
                        .unwrap();
                    // One write of a short line: whole or not at all.
                    let line = format!("acknowledged {key} {revision}\n");
                    std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
                }
            });
        }
        while let Some(ended) = tasks.join_next().await {
            ended.unwrap();
        }
    });
}

/// The parent's store may still be closing in the background.
async fn open_once_free(directory: &Path) -> Embedded {
    for _ in 0..3_000 {
        match Embedded::open(directory, Options::default()) {
            Err(store::OpenError::InUse { .. }) => tokio::time::sleep(Duration::from_millis(10)).await,
            other => return other.expect("the store opens"),
        }
    }
    panic!("{} stays in use", directory.display());
}

fn seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::hash::RandomState::new().build_hasher().finish() | 1
}

/// Marsaglia's xorshift64.
fn next(chance: &mut u64) -> u64 {
    *chance ^= *chance << 13;
    *chance ^= *chance >> 7;
    *chance ^= *chance << 17;
    *chance
}
