//! A host of its own for a real Lifepod: a network namespace without an
//! uplink, a data directory, a cgroup root, and the stock `kubectl`.
//!
//! Reading order: [`host`], [`platform`], [`wait`], [`page`]. The tests are in
//! `tests/`; the demonstration and the benchmarks of `xtask` use the same
//! code.

pub mod host;
pub mod page;
pub mod platform;
pub mod registry;
pub mod wait;

pub use host::Host;
pub use platform::Platform;
