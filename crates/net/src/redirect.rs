//! The one Service every pod must reach: the API server's own address, led to
//! where the server listens.
//!
//! Source: service page, "virtual IP mechanism"; upstream
//! `pkg/proxy/nftables/proxier.go` does the same for every Service.

use std::net::SocketAddrV4;

use crate::BridgeName;

/// Where TCP connections to a Service's address go instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// Address and port of the Service.
    pub service: SocketAddrV4,
    /// An address of this node that pods reach; loopback is none.
    pub target: SocketAddrV4,
}

impl Redirect {
    /// The chains of it: for what comes from pods, and for what this node, and
    /// so a pod in its network, says itself.
    pub(crate) fn chains(&self, bridge: &BridgeName) -> String {
        let Self { service, target } = self;
        let (address, port) = (service.ip(), service.port());
        let rule = format!("ip daddr {address} tcp dport {port} dnat to {target}");
        format!(
            "\tchain prerouting {{\n\
             \t\ttype nat hook prerouting priority -100; policy accept;\n\
             \t\tiifname \"{bridge}\" {rule}\n\
             \t}}\n\
             \tchain output {{\n\
             \t\ttype nat hook output priority -100; policy accept;\n\
             \t\t{rule}\n\
             \t}}\n"
        )
    }
}
