//! The pod network: one bridge per node, a veth pair per sandbox, addresses
//! out of the node's podCIDR, masquerade for what leaves it.
//!
//! Reading order: `cidr.rs` (a range of addresses), `ipam.rs` (who has which),
//! `bridge.rs` (the [`runtime::Network`] port over both), `host.rs` and
//! `pod.rs` (its two ends), then `rtnl.rs`, `netns.rs` and `masquerade.rs`
//! (the kernel's side) and `redirect.rs` (the way to the API server).
//!
//! This crate deliberately does not know containers, images, or how the
//! network namespaces it is handed were made.

mod bridge;
mod cidr;
mod host;
mod ipam;
mod masquerade;
mod names;
mod netns;
mod pod;
mod redirect;
mod rtnl;

pub use bridge::{BridgeNetwork, Options, purge};
pub use cidr::{Cidr, InvalidCidr};
pub use names::{BridgeName, HOST_LINK_PREFIX, InvalidBridgeName};
pub use redirect::Redirect;
