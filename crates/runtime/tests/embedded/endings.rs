//! How containers end: by themselves, stopped, killed, out of memory, or not
//! having begun.

use std::time::{Duration, Instant};

use api::node::{ExitCause, RunState};
use futures::StreamExt;
use runtime::{ContainerConfig, Resources, Runtime, RuntimeError, SandboxConfig};

use crate::node::{Node, script, view};

#[tokio::test(flavor = "multi_thread")]
async fn root_a_signal_ends_a_process_that_obeys() {
    let node = Node::new("sigterm").await;
    // Not process 1, which the kernel shields from signals it does not handle.
    let shared = SandboxConfig {
        share_process_namespace: true,
        ..node.sandbox(1)
    };
    node.runtime.run_sandbox(&shared).await.unwrap();
    let id = node
        .start(
            1,
            &ContainerConfig {
                command: vec!["sleep".into(), "1000".into()],
                ..script("app", "")
            },
        )
        .await;
    node.runtime.stop(&Node::uid(1), &id, None, Duration::from_secs(60)).await.unwrap();
    let exit = node.exit(1, &id).await;
    assert_eq!((exit.code, exit.cause), (143, ExitCause::Process));
    node.runtime.stop(&Node::uid(1), &id, None, Duration::from_secs(60)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_handler_has_the_last_word() {
    let node = Node::new("handler").await;
    node.runtime.run_sandbox(&node.sandbox(1)).await.unwrap();
    let id = node
        .start(
            1,
            &script("app", "trap 'echo bye; exit 7' TERM; echo up; while true; do sleep 0.01; done"),
        )
        .await;
    node.until_log(1, "app", "up").await;
    node.runtime.stop(&Node::uid(1), &id, None, Duration::from_secs(60)).await.unwrap();
    assert_eq!(node.exit(1, &id).await.code, 7);
    assert_eq!(node.lines(1, "app"), ["stdout F up", "stdout F bye"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_shorter_grace_shortens_the_first() {
    let node = Node::new("shorter").await;
    node.runtime.run_sandbox(&node.sandbox(1)).await.unwrap();
    let id = node.start(1, &script("app", "trap '' TERM; while true; do sleep 1; done")).await;
    let uid = Node::uid(1);
    let long = node.runtime.stop(&uid, &id, None, Duration::from_secs(3600));
    let short = async {
        // Once the first call has been polled, it waits for its hour.
        tokio::task::yield_now().await;
        node.runtime.stop(&uid, &id, None, Duration::from_millis(50)).await
    };
    let both = async { tokio::join!(long, short) };
    let (long, short) = tokio::time::timeout(Duration::from_secs(30), both)
        .await
        .expect("both calls end with the shorter grace");
    long.unwrap();
    short.unwrap();
    assert_eq!(node.exit(1, &id).await.code, 137);
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_stop_kills_what_the_container_started() {
    let node = Node::new("children").await;
    let shared = SandboxConfig {
        share_process_namespace: true,
        ..node.sandbox(1)
    };
    node.runtime.run_sandbox(&shared).await.unwrap();
    let id = node.start(1, &script("app", "sleep 1000 & sleep 1001 & echo up; exit 0")).await;
    assert_eq!(node.exit(1, &id).await.code, 0);
    // Seen from another container of the pod, which shares its processes.
    let other = node
        .start(
            1,
            &script("other", "while ps | grep -q '[s]leep 100'; do sleep 0.01; done; echo gone"),
        )
        .await;
    assert_eq!(node.exit(1, &other).await.code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn root_too_much_memory_is_told_apart_from_a_kill() {
    let node = Node::new("oom").await;
    let resources = Resources {
        memory_limit_bytes: Some(16 << 20),
        ..Resources::default()
    };
    let exit = node
        .run(
            1,
            &ContainerConfig {
                resources,
                command: vec!["tail".into(), "/dev/zero".into()],
                ..script("app", "")
            },
        )
        .await;
    assert_eq!((exit.code, exit.cause), (137, ExitCause::OutOfMemory));
}

#[tokio::test(flavor = "multi_thread")]
async fn root_the_pods_memory_limit_holds_for_all() {
    let node = Node::new("oompod").await;
    let resources = Resources {
        memory_limit_bytes: Some(16 << 20),
        ..Resources::default()
    };
    node.runtime
        .run_sandbox(&SandboxConfig {
            resources,
            ..node.sandbox(1)
        })
        .await
        .unwrap();
    let id = node
        .start(
            1,
            &ContainerConfig {
                command: vec!["tail".into(), "/dev/zero".into()],
                ..script("app", "")
            },
        )
        .await;
    let exit = node.exit(1, &id).await;
    assert_eq!((exit.code, exit.cause), (137, ExitCause::OutOfMemory));
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_program_that_is_not_there_is_a_start_error() {
    let node = Node::new("notfound").await;
    node.runtime.run_sandbox(&node.sandbox(1)).await.unwrap();
    let uid = Node::uid(1);
    for (attempt, program, code, text) in [
        (0, "foo", 128, "exec: \"foo\": executable file not found in $PATH"),
        (1, "/foo/bar", 128, "exec: \"/foo/bar\": stat /foo/bar: no such file or directory"),
        (2, "/etc/passwd", 128, "exec: \"/etc/passwd\": permission denied"),
    ] {
        let config = ContainerConfig {
            attempt,
            command: vec![program.into()],
            ..script("app", "")
        };
        let id = node.runtime.create(&uid, &config).await.unwrap();
        match node.runtime.start(&uid, &id).await {
            Err(RuntimeError::Start(message)) => assert_eq!(message, text),
            other => panic!("{other:?}"),
        }
        let exit = node.exit(1, &id).await;
        assert_eq!(
            (exit.code, exit.cause, exit.started_at, exit.message.as_str()),
            (code, ExitCause::StartError, None, text)
        );
    }
}

/// Shows: 14.1.26
#[tokio::test(flavor = "multi_thread")]
async fn root_last_words_are_kept() {
    let node = Node::new("words").await;
    let said = node
        .run(1, &script("app", "echo why > /dev/termination-log; echo log; exit 1"))
        .await;
    assert_eq!(said.message, "why\n");
    let fallback = ContainerConfig {
        termination_message_from_log: true,
        ..script("app", "echo one; echo two >&2; exit 1")
    };
    let message = node.run(2, &fallback).await.message;
    assert!(message == "one\ntwo\n" || message == "two\none\n", "{message:?}");
    let success = ContainerConfig {
        termination_message_from_log: true,
        ..script("app", "echo one")
    };
    assert_eq!(node.run(3, &success).await.message, "");
    let long = node
        .run(4, &script("app", "yes 0123456789 | head -c 9000 > /dev/termination-log"))
        .await;
    assert_eq!(long.message.len(), 4096);
    // A file without end: the shim reads only what it keeps.
    let text = "head -c 0 /dev/zero | dd of=/dev/termination-log bs=1M seek=1000000; echo bye >> /dev/termination-log";
    let sparse = node.run(5, &script("app", text)).await;
    assert!(sparse.message.len() == 4096 && sparse.message.ends_with("\0bye\n"));
}

/// Nobody has to look now and then: every exit is hinted at.
#[tokio::test(flavor = "multi_thread")]
async fn root_exits_are_told() {
    let node = Node::new("prompt").await;
    let uid = Node::uid(1);
    node.runtime.run_sandbox(&node.sandbox(1)).await.unwrap();
    for attempt in 0..20 {
        let mut hints = node.runtime.hints();
        let config = ContainerConfig {
            attempt,
            ..script("app", "sleep 0.05")
        };
        let id = node.start(1, &config).await;
        let told = async {
            loop {
                let seen = node.runtime.observe(&uid).await.unwrap();
                if matches!(view(&seen, &id).unwrap().state, RunState::Exited(_)) {
                    return;
                }
                hints.next().await.unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(30), told)
            .await
            .expect("a hint of the exit");
        node.runtime.remove(&uid, &id).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_flood_of_output_is_all_there() {
    let node = Node::new("flood").await;
    let begun = Instant::now();
    let exit = node.run(1, &script("app", "yes 0123456789abcdef | head -n 200000; exit 5")).await;
    println!("200000 lines in {:?}", begun.elapsed());
    assert_eq!(exit.code, 5);
    assert_eq!(node.lines(1, "app").len(), 200_000);
}
