//! The node agent: brings pods bound to this node to what their objects say,
//! and reports how they are.
//!
//! Reading order: [`kubelet`] (which pods there are), [`pod_worker`] (the
//! driver around the state machine of one pod), [`execute`] (effects),
//! [`config`] (what a pod spec means to the runtime), [`sources`] (the objects
//! pods take content from), [`environment`] (a container's variables), [`volumes`], [`local_path`] (who makes persistent ones),
//! [`status_writer`], [`node_status`], [`flight`] (what happened and why),
//! [`server`] (the node API), [`streams`] (exec, attach, port-forward).
//!
//! This crate deliberately does not know the store, how a network is made, or
//! which runtime runs the containers. It decides nothing about a pod's life:
//! that is the `lifecycle` crate.

pub mod clock;
pub mod config;
mod confirm;
mod create;
mod dns;
pub mod environment;
pub mod eviction;
pub mod execute;
pub mod flight;
mod grpc;
mod handler;
mod hook;
pub mod hugepages;
pub mod image_gc;
pub mod kubelet;
pub mod local_path;
pub mod logs;
pub mod machine_usage;
mod node_events;
pub mod node_status;
pub mod pod_worker;
pub mod pods;
mod prober;
mod pull_secret;
pub mod qos;
mod redirect;
pub mod resources;
pub mod server;
mod sources;
pub mod status_writer;
mod storage;
pub mod streams;
mod system_oom;
pub mod usage;
pub mod volumes;

pub use clock::{Clock, SystemClock};
pub use kubelet::{Drain, Kubelet, KubeletError, Options};
pub use server::NodeApi;
