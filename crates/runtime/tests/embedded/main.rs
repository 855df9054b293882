//! The embedded backend with real containers. Needs root.

mod endings;
mod faults;
mod inside;
mod life;
mod node;
mod users;

/// What shims run.
const PROGRAM: &str = env!("CARGO_BIN_EXE_runtime-for-tests");
