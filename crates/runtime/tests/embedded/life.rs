//! A container's life: made, started, seen, ended, removed.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use api::node::{ExitCause, RunState};
use runtime::Runtime;

use crate::node::{Node, script, view};

#[tokio::test(flavor = "multi_thread")]
async fn root_a_container_runs_and_leaves_its_output() {
    let node = Node::new("output").await;
    let exit = node.run(1, &script("app", "echo out; echo err >&2; printf half; exit 3")).await;
    assert_eq!((exit.code, exit.cause), (3, ExitCause::Process));
    assert!(exit.started_at.unwrap() <= exit.finished_at);
    let mut lines = node.lines(1, "app");
    lines.sort();
    assert_eq!(lines, ["stderr F err", "stdout F half", "stdout F out"]);
    let log = node.sandbox(1).log_dir.join("app/0.log");
    assert_eq!(std::fs::metadata(log).unwrap().permissions().mode() & 0o777, 0o640);
    node.runtime.remove_sandbox(&Node::uid(1)).await.unwrap();
    assert!(node.runtime.list().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn root_states_are_seen_in_order() {
    let node = Node::new("states").await;
    let uid = Node::uid(1);
    let empty = node.runtime.observe(&uid).await.unwrap();
    assert!(empty.sandbox.is_none() && empty.containers.is_empty());
    node.runtime.run_sandbox(&node.sandbox(1)).await.unwrap();
    let made = node.runtime.observe(&uid).await.unwrap();
    assert!(made.sequence > empty.sequence && made.sandbox.as_ref().unwrap().ready);
    assert_eq!(made.sandbox.unwrap().ips.len(), 1);
    let config = script("app", "sleep 1000");
    let id = node.runtime.create(&uid, &config).await.unwrap();
    assert_eq!(
        node.runtime.create(&uid, &config).await.unwrap(),
        id,
        "creating again is the same attempt"
    );
    assert_eq!(
        view(&node.runtime.observe(&uid).await.unwrap(), &id).unwrap().state,
        RunState::Created
    );
    node.runtime.start(&uid, &id).await.unwrap();
    node.runtime.start(&uid, &id).await.unwrap();
    assert!(matches!(
        view(&node.runtime.observe(&uid).await.unwrap(), &id).unwrap().state,
        RunState::Running { .. }
    ));
    node.runtime.stop(&uid, &id, None, Duration::ZERO).await.unwrap();
    assert_eq!(node.exit(1, &id).await.code, 137);
    node.runtime.remove(&uid, &id).await.unwrap();
    assert!(node.runtime.observe(&uid).await.unwrap().containers.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement: run it alone, with --ignored --nocapture"]
async fn root_timings_of_one_pod() {
    let node = Node::new("timings").await;
    let mut totals = Vec::new();
    for n in 0..20 {
        let uid = Node::uid(n);
        let t0 = Instant::now();
        node.runtime.run_sandbox(&node.sandbox(n)).await.unwrap();
        let t1 = Instant::now();
        let id = node.runtime.create(&uid, &script("app", "sleep 1000")).await.unwrap();
        let t2 = Instant::now();
        node.runtime.start(&uid, &id).await.unwrap();
        let t3 = Instant::now();
        node.runtime.observe(&uid).await.unwrap();
        let t4 = Instant::now();
        node.runtime.stop(&uid, &id, None, Duration::ZERO).await.unwrap();
        let t5 = Instant::now();
        node.runtime.remove_sandbox(&uid).await.unwrap();
        let t6 = Instant::now();
        totals.push([t1 - t0, t2 - t1, t3 - t2, t3 - t0, t4 - t3, t5 - t4, t6 - t5]);
    }
    for (column, name) in ["sandbox", "create", "start", "all three", "observe", "kill", "remove"]
        .iter()
        .enumerate()
    {
        let mut column: Vec<Duration> = totals.iter().map(|row| row[column]).collect();
        column.sort();
        println!(
            "{name:>10}: median {:?}, best {:?}, worst {:?}",
            column[column.len() / 2],
            column[0],
            column[column.len() - 1]
        );
    }
}
