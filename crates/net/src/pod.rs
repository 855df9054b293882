//! The pod's end: what is set inside its network namespace.

use std::io;
use std::net::Ipv4Addr;

use crate::Cidr;
use crate::names::POD_LINK;
use crate::rtnl::RouteSocket;

/// Index of `lo`, the first link of every network namespace. Source: the
/// kernel's `LOOPBACK_IFINDEX`.
const LOOPBACK_INDEX: u32 = 1;

/// Brings `lo` and `eth0` up and gives `eth0` its address and the default route. May be
/// repeated.
pub(crate) fn configure(inside: &mut RouteSocket, address: Ipv4Addr, range: Cidr) -> io::Result<()> {
    inside.set_up(LOOPBACK_INDEX)?;
    let link = inside
        .link(POD_LINK)?
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("{POD_LINK} has vanished")))?;
    inside.set_up(link.index)?;
    inside.add_address(link.index, address, range.prefix_bits())?;
    inside.set_default_route(range.gateway(), link.index)
}
