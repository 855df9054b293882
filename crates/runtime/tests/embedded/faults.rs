//! Agents and shims that die, many pods at once, and what must be left: nothing.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::node::{ExitCause, RunState};
use runtime::embedded::Embedded;
use runtime::{ContainerConfig, Runtime, SandboxConfig};

use crate::node::{AddressBook, Node, Place, assert_nothing_left, script, view};

/// The shim of a pod: the process whose arguments name its directory.
fn shim_of(node: &Node, n: u32) -> i32 {
    let dir = node.place.root.join("pods").join(Node::uid(n).as_str());
    let wanted = format!("--dir\0{}\0", dir.display());
    let pids = std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|p| p.file_name().to_str()?.parse::<i32>().ok());
    let is_it = |pid: &i32| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|c| String::from_utf8_lossy(&c).contains(&wanted));
    pids.into_iter().find(is_it).expect("a shim")
}

fn kill(pid: i32) {
    signal(pid, rustix::process::Signal::KILL);
}

fn signal(pid: i32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_new_agent_finds_everything() {
    let mut node = Node::new("adopt").await;
    let uid = Node::uid(1);
    node.runtime.run_sandbox(&node.sandbox(1)).await.unwrap();
    let running = node.start(1, &script("running", "echo before; sleep 1000")).await;
    let ending = node.start(1, &script("ending", "exit 9")).await;
    node.exit(1, &ending).await;
    let created = node.runtime.create(&uid, &script("created", "exit 4")).await.unwrap();
    node.runtime.note(&uid, &running, "postStart", "done").await.unwrap();
    let before = node.runtime.observe(&uid).await.unwrap();

    node.replace_agent().await;
    let after = node.runtime.observe(&uid).await.unwrap();
    assert!(after.sequence > before.sequence);
    assert_eq!((after.sandbox, after.containers), (before.sandbox, before.containers));
    assert_eq!(
        view(&node.runtime.observe(&uid).await.unwrap(), &running).unwrap().notes["postStart"],
        "done"
    );
    node.runtime.start(&uid, &created).await.unwrap();
    assert_eq!(node.exit(1, &created).await.code, 4);
    node.runtime.run_sandbox(&node.sandbox(1)).await.unwrap();
    node.runtime.stop(&uid, &running, None, Duration::ZERO).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn root_an_exit_without_an_agent_is_not_lost() {
    let mut node = Node::new("orphan").await;
    let uid = Node::uid(1);
    node.runtime.run_sandbox(&node.sandbox(1)).await.unwrap();
    let id = node
        .start(1, &script("app", "while [ ! -e /tmp/go ]; do sleep 0.01; done; exit 42"))
        .await;
    let upper = node
        .place
        .root
        .join("pods")
        .join(uid.as_str())
        .join("containers")
        .join(&id.0)
        .join("upper/tmp");
    let options = node.place.options(node.images.clone(), node.network.clone());
    // No agent: the old one is gone before the container ends.
    let old = std::mem::replace(&mut node.runtime, Embedded::open(options).await.unwrap());
    drop(old);
    std::fs::create_dir_all(&upper).unwrap();
    node.runtime
        .exec(
            &uid,
            &id,
            runtime::ExecRequest {
                command: vec!["touch".into(), "/tmp/go".into()],
                timeout: None,
            },
        )
        .await
        .unwrap();
    node.replace_agent().await;
    assert_eq!(node.exit(1, &id).await.code, 42);
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_dead_shim_loses_its_containers_only() {
    let node = Node::new("deadshim").await;
    let uid = Node::uid(1);
    node.runtime.run_sandbox(&node.sandbox(1)).await.unwrap();
    node.runtime.run_sandbox(&node.sandbox(2)).await.unwrap();
    let ended = node.start(1, &script("ended", "exit 9")).await;
    node.exit(1, &ended).await;
    let running = node.start(1, &script("app", "sleep 1000")).await;
    let neighbour = node.start(2, &script("app", "sleep 1000")).await;
    kill(shim_of(&node, 1));
    let seen = node.until(1, |seen| seen.sandbox.as_ref().is_some_and(|s| !s.ready)).await;
    match &view(&seen, &running).unwrap().state {
        RunState::Exited(exit) => {
            assert_eq!((exit.code, exit.cause), (255, ExitCause::Lost));
            assert!(exit.started_at.is_some() && exit.message.contains("shim"), "{exit:?}");
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(&view(&seen, &ended).unwrap().state, RunState::Exited(exit) if exit.code == 9));
    let trees = shim::cgroup::Trees::detect().unwrap();
    assert!(
        trees.processes(&node.place.cgroup_root.join(format!("pod{uid}"))).is_empty(),
        "its processes are gone"
    );
    assert!(matches!(
        view(&node.runtime.observe(&Node::uid(2)).await.unwrap(), &neighbour).unwrap().state,
        RunState::Running { .. }
    ));

    // The next sandbox keeps the history.
    node.runtime
        .run_sandbox(&SandboxConfig {
            attempt: 1,
            ..node.sandbox(1)
        })
        .await
        .unwrap();
    let again = node
        .start(
            1,
            &ContainerConfig {
                attempt: 1,
                ..script("app", "exit 0")
            },
        )
        .await;
    assert_eq!(node.exit(1, &again).await.code, 0);
    let seen = node.runtime.observe(&uid).await.unwrap();
    assert_eq!(seen.sandbox.as_ref().map(|s| (s.attempt, s.ready)), Some((1, true)));
    assert_eq!(seen.containers.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_shim_that_died_unseen_is_noticed_by_the_next_agent() {
    let mut node = Node::new("unseen").await;
    node.runtime.run_sandbox(&node.sandbox(1)).await.unwrap();
    let id = node.start(1, &script("app", "sleep 1000")).await;
    kill(shim_of(&node, 1));
    node.replace_agent().await;
    assert_eq!(node.exit(1, &id).await.cause, ExitCause::Lost);
    node.runtime.remove_sandbox(&Node::uid(1)).await.unwrap();
    node.runtime.remove_sandbox(&Node::uid(1)).await.unwrap();
}

/// An agent that died after it wrote an attempt down and before it asked for
/// it, beside a shim that hangs when the next agent comes.
#[tokio::test(flavor = "multi_thread")]
async fn root_an_attempt_never_made_is_dropped_once_a_late_shim_answers() {
    let mut node = Node::new("late").await;
    let uid = Node::uid(1);
    node.runtime.run_sandbox(&node.sandbox(1)).await.unwrap();
    let made = node.start(1, &script("made", "sleep 1000")).await;
    let attempts = node.place.root.join("pods").join(uid.as_str()).join("containers");
    let record = std::fs::read_to_string(attempts.join(&made.0).join("attempt.json")).unwrap();
    let unmade = "f".repeat(made.0.len());
    let mut record: serde_json::Value = serde_json::from_str(&record).unwrap();
    record["id"] = unmade.as_str().into();
    record["name"] = "unmade".into();
    std::fs::create_dir(attempts.join(&unmade)).unwrap();
    std::fs::write(attempts.join(&unmade).join("attempt.json"), record.to_string()).unwrap();

    let shim = shim_of(&node, 1);
    signal(shim, rustix::process::Signal::STOP);
    node.replace_agent().await;
    assert!(attempts.join(&unmade).exists(), "nobody could say what became of it");
    signal(shim, rustix::process::Signal::CONT);
    let seen = node.runtime.observe(&uid).await.unwrap();
    assert!(matches!(view(&seen, &made).unwrap().state, RunState::Running { .. }));
    assert_eq!(seen.containers.len(), 1);
    assert!(!attempts.join(&unmade).exists(), "it was never made");
    // Its name is free again.
    let again = node.start(1, &script("unmade", "exit 3")).await;
    assert_eq!(node.exit(1, &again).await.code, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_stopped_sandbox_still_tells() {
    let mut node = Node::new("stopped").await;
    let uid = Node::uid(1);
    node.runtime.run_sandbox(&node.sandbox(1)).await.unwrap();
    let id = node.start(1, &script("app", "exit 6")).await;
    node.exit(1, &id).await;
    let sleeper = node.start(1, &script("sleeper", "sleep 1000")).await;
    node.runtime.stop_sandbox(&uid).await.unwrap();
    node.runtime.stop_sandbox(&uid).await.unwrap();
    for _ in 0..2 {
        let seen = node.runtime.observe(&uid).await.unwrap();
        let sandbox = seen.sandbox.as_ref().unwrap();
        assert!(!sandbox.ready && sandbox.ips.len() == 1);
        assert!(matches!(&view(&seen, &id).unwrap().state, RunState::Exited(exit) if exit.code == 6));
        assert!(matches!(&view(&seen, &sleeper).unwrap().state, RunState::Exited(exit) if exit.code == 137));
        node.replace_agent().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn root_twenty_pods_at_once() {
    let node = Node::new("twenty").await;
    let begun = Instant::now();
    let pods = (0..20).map(|n| {
        let node = &node;
        async move {
            node.runtime.run_sandbox(&node.sandbox(n)).await.unwrap();
            node.start(n, &script("app", "sleep 1000")).await
        }
    });
    let ids = futures::future::join_all(pods).await;
    println!("20 pods running after {:?}", begun.elapsed());
    let memory: Vec<u64> = (0..20).map(|n| private_kib(shim_of(&node, n))).collect();
    println!(
        "private memory of a shim: {} to {} KiB",
        memory.iter().min().unwrap(),
        memory.iter().max().unwrap()
    );
    for (n, id) in (0..20).zip(&ids) {
        assert!(matches!(
            view(&node.runtime.observe(&Node::uid(n)).await.unwrap(), id).unwrap().state,
            RunState::Running { .. }
        ));
    }
    let begun = Instant::now();
    let purged = node.runtime.purge().await.unwrap();
    println!("purged after {:?}", begun.elapsed());
    assert_eq!((purged.pods, purged.containers, purged.stray_cgroups), (20, 20, 0));
    node.assert_nothing_left();
}

fn private_kib(pid: i32) -> u64 {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let lines = rollup
        .lines()
        .filter(|line| line.starts_with("Private_Dirty") || line.starts_with("Private_Clean"));
    lines
        .map(|line| line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap())
        .sum()
}

/// An agent busy making and removing pods is killed at many different
/// moments; whatever it left is adopted or removed by the next.
#[tokio::test(flavor = "multi_thread")]
async fn root_an_agent_may_die_at_any_moment() {
    let node = Node::new("anymoment").await;
    let root = node.place.root.join("agent");
    std::fs::create_dir(&root).unwrap();
    let place = Place {
        root: root.clone(),
        cgroup_root: node.place.cgroup_root.join("agent"),
    };
    let images = Arc::new(place.image());
    for round in 0..12_u64 {
        let mut agent = Command::new(crate::PROGRAM)
            .args([root.clone(), PathBuf::from(&place.cgroup_root)])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        // Not a wait for something to happen: the moment is meant to be any.
        tokio::time::sleep(Duration::from_millis(40 + round * 37)).await;
        assert_eq!(agent.try_wait().unwrap(), None, "the agent fails by itself");
        agent.kill().unwrap();
        agent.wait().unwrap();
        if round % 3 == 2 {
            let next = Embedded::open(place.options(images.clone(), Arc::new(AddressBook::default())))
                .await
                .unwrap();
            for uid in next.list().await.unwrap() {
                next.observe(&uid).await.unwrap();
            }
            next.purge().await.unwrap();
            assert_nothing_left(&place);
        }
    }
}

/// Somebody may have named a cgroup that is not Lifepod's alone.
#[tokio::test(flavor = "multi_thread")]
async fn root_a_purge_leaves_the_cgroups_of_others() {
    let node = Node::new("others").await;
    let trees = shim::cgroup::Trees::detect().unwrap();
    let theirs = node.place.cgroup_root.join("theirs");
    trees.make(&theirs, &shim::protocol::Limits::default()).unwrap();
    node.runtime.run_sandbox(&node.sandbox(1)).await.unwrap();
    let purged = node.runtime.purge().await.unwrap();
    let (is_theirs_left, groups) = (trees.exists(&theirs), trees.children(&node.place.cgroup_root));
    trees.remove(&node.place.cgroup_root).unwrap();
    assert_eq!((purged.pods, purged.stray_cgroups), (1, 0));
    assert!(is_theirs_left);
    assert_eq!(groups, ["theirs"]);
}
