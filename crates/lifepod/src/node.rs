//! This machine as a node: its identity, network and runtime.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::{Context, Result};
use kubelet::node_status::NodeIdentity;
use net::{BridgeName, BridgeNetwork, Cidr};
use runtime::Runtime;

use crate::flags::Up;
use crate::layout::Layout;
use crate::preflight;

/// Who the node is, from flags and host.
pub fn identity(up: &Up) -> Result<NodeIdentity> {
    let name = match &up.node_name {
        Some(name) => name.clone(),
        None => preflight::host_name()?,
    };
    Ok(NodeIdentity {
        name,
        ip: up.node_ip.unwrap_or_else(preflight::host_ip),
        pod_cidr: up.pod_cidr.clone(),
        version: apiserver::server::Version::default().git_version,
        runtime_version: concat!("lifepod://", env!("CARGO_PKG_VERSION")).to_owned(),
    })
}

/// What the pod network is to be.
pub fn network_options(bridge: &str, pod_cidr: &str, layout: &Layout) -> Result<net::Options> {
    let cidr: Cidr = pod_cidr.parse().with_context(|| format!("--pod-cidr {pod_cidr}"))?;
    let bridge: BridgeName = bridge.parse().with_context(|| format!("--bridge {bridge}"))?;
    Ok(net::Options { bridge, ..net::Options::new(cidr, layout.network()) })
}
