//! The program that tests of the embedded backend start: a shim, or an agent
//! that makes pods until it is killed.

use std::process::ExitCode;

#[path = "node.rs"]
#[allow(dead_code)]
mod node;

/// What shims run.
const PROGRAM: &str = "/proc/self/exe";

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|role| role == shim::ROLE) {
        return shim::main();
    }
    node::agent_until_killed()
}
