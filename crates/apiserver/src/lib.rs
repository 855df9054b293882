//! The API server: registry, request chain, admission, patch, watch fan-out, HTTP.
//!
//! Reading order: [`registry`] (a resource is a row), [`serving`] (rows come and
//! go), [`server`] (the request chain: one entry for every request), [`request`], [`authn`] and [`authz`]
//! (what is asked, by whom, may they), [`tokens`] (what bearers show),
//! `verbs/create.rs` and `write.rs` (a write from body to store), `admission.rs`
//! (rules for many kinds), `allocate.rs` (what must be unique among objects),
//! `expiry.rs` (objects that live for a while), `hub.rs` and `verbs/watch.rs`
//! (from the store to watchers), [`sealed`] (what is encrypted on disk),
//! [`audit`] (what is kept of every request), `fairness.rs`, [`serve`] and [`pki`] (the HTTPS front).
//!
//! This crate does not know any other component: schedulers, controllers and
//! kubelets are callers with an identity, in this process or elsewhere. Nodes
//! are reached through [`NodeProxy`].

// A `Status` is the answer of a request that failed. It is made once per
// failure and moved a few times; a box around it would only hide that.
#![allow(clippy::result_large_err)]

mod admission;
mod allocate;
mod allow;
pub mod audit;
pub mod authn;
pub mod authz;
pub mod body;
mod call;
mod codec;
mod discovery;
mod entropy;
mod expiry;
mod fairness;
mod health;
mod hub;
pub mod kinds;
mod managed_fields;
mod metrics;
pub mod negotiate;
mod nodes;
mod openapi;
pub mod own_service;
mod patch;
pub mod pki;
pub mod registry;
pub mod request;
mod respond;
mod reviews;
pub mod sealed;
mod select;
pub mod serve;
pub mod server;
pub mod serving;
mod subresources;
pub mod table;
#[cfg(test)]
mod testing;
pub mod tokens;
mod usage;
pub mod validate;
mod verbs;
mod wish;
mod write;

pub use authn::Identity;
pub use body::Body;
pub use nodes::{Kubelets, NodeAddress};
pub use registry::{RangeError, Ranges};
pub use server::{ApiServer, Clock, Config, Limits, NodeProxy, StartError, Version};
pub use serving::AddError;
