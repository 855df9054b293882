//! The program that tests of the embedded backend start: a shim, or an agent
//! that makes pods until it is killed.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use node::{AddressBook, Node, Place, sandbox, script};
use runtime::embedded::Embedded;
use runtime::{ContainerConfig, Runtime};

#[path = "node.rs"]
#[allow(dead_code)] // the agent needs less of a node than the tests do
mod node;

/// What shims run.
const PROGRAM: &str = "/proc/self/exe";

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|role| role == shim::ROLE) {
        return shim::main();
    }
    agent_until_killed()
}

/// Makes and removes pods at the place given by the arguments, as fast as it
/// can, until it is killed.
fn agent_until_killed() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let (Some(root), Some(cgroup_root)) = (args.next(), args.next()) else {
        return ExitCode::FAILURE;
    };
    let place = Place {
        root: root.into(),
        cgroup_root: cgroup_root.into(),
    };
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    tokio.block_on(async {
        let options = place.options(Arc::new(place.image()), Arc::new(AddressBook::default()));
        let runtime = Embedded::open(options).await.unwrap();
        // Attempts of an earlier agent may still be there.
        let first = std::process::id() % 1_000_000 * 1000;
        for round in first.. {
            let pods = (0..3).map(|n| {
                let (runtime, place) = (&runtime, &place);
                async move {
                    let uid = Node::uid(n);
                    runtime.run_sandbox(&sandbox(&place.root, n)).await?;
                    let id = runtime
                        .create(
                            &uid,
                            &ContainerConfig {
                                attempt: round,
                                ..script("app", "sleep 1000")
                            },
                        )
                        .await?;
                    runtime.start(&uid, &id).await?;
                    runtime.stop(&uid, &id, None, Duration::ZERO).await?;
                    if round % 2 == 1 {
                        runtime.remove_sandbox(&uid).await
                    } else {
                        Ok(())
                    }
                }
            });
            for result in futures::future::join_all(pods).await {
                result.unwrap();
            }
        }
    });
    ExitCode::SUCCESS
}
