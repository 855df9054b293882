//! The shim: synchronous parent of one pod's containers.
//!
//! Reading order: `protocol.rs` (what an agent may ask and what it is told),
//! `serve.rs` (the one loop), `sandbox.rs` (the namespaces a pod shares),
//! `user_namespace.rs` (the users it may have of its own), `mapped.rs` (mounts in their terms),
//! `container.rs` (one attempt: made, started, ended), `create.rs` (the worker
//! that makes it through libcontainer), `exec.rs` (further commands), `app_armor.rs` (under their container's profile),
//! `sink.rs` (who is attached), `terminal.rs`, `seccomp.rs` (filters on system
//! calls), `log.rs` (CRI log lines), `record.rs` (what is left on disk),
//! `cgroup.rs` (v1, hybrid and v2 trees).
//!
//! One shim serves one pod. It holds the pod's network, IPC and UTS namespaces
//! by living in them, reaps everything the pod leaves, copies its output into
//! log files, and writes every exit to disk before it tells anyone. It is
//! single-threaded because it forks: everything that may block runs in a
//! short-lived forked worker, so the loop never waits for one container.
//!
//! This crate deliberately does not know the API, pods' desired state, images,
//! restart policies, the network, tokio or threads.

// A process that forks, mounts and enters namespaces needs what `unsafe` guards;
// every block says why it is sound.
#![allow(unsafe_code)]

mod app_armor;
pub mod cgroup;
mod container;
mod create;
mod exec;
mod log;
mod mapped;
mod process;
pub mod protocol;
pub mod record;
mod rootfs;
mod sandbox;
pub mod seccomp;
mod serve;
mod sink;
pub mod stage;
mod terminal;
mod user_namespace;
mod users;

pub use log::files_of as log_files;
pub use serve::{ROLE, TRY_USERS, main};
