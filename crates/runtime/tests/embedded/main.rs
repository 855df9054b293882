//! The embedded backend with real containers. Needs root.

mod node;

mod life;

/// What shims run.
const PROGRAM: &str = env!("CARGO_BIN_EXE_runtime-for-tests");
