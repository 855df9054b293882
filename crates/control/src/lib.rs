//! Scheduler and controllers: loops that need only the API.
//!
//! Reading order: `scheduler.rs`, `namespace.rs`, `namespace_content.rs`.
//!
//! This crate deliberately does not know the store, the node, its runtime or
//! its network: it is handed clients of the API server, which may be in this
//! process or elsewhere.

pub mod scheduler;
