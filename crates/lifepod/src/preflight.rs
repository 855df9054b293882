//! What the host must offer, checked before anything is made on it.

use std::net::{IpAddr, UdpSocket};
use std::path::Path;

use anyhow::{Context, Result, bail};

/// Checks everything; the error is one line that says what to do.
pub(crate) fn check() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("lifepod makes namespaces, mounts and cgroups and must run as root: try `sudo lifepod ...`");
    }
    let filesystems = std::fs::read_to_string("/proc/filesystems").context("cannot read /proc/filesystems; is /proc mounted?")?;
    if !filesystems.split_whitespace().any(|name| name == "overlay") {
        bail!("the kernel has no overlayfs, which containers' file systems need: try `modprobe overlay`");
    }
    if !Path::new("/proc/self/ns/net").exists() {
        bail!("the kernel has no network namespaces, which pods need: a kernel with CONFIG_NET_NS is required");
    }
    Ok(())
}

/// The host name, as a node may be called: lower case.
pub(crate) fn host_name() -> Result<String> {
    let name = rustix::system::uname().nodename().to_string_lossy().to_lowercase();
    if name.is_empty() || name == "(none)" {
        bail!("this host has no name; give the node one with --node-name");
    }
    Ok(name)
}

/// The address others reach this host by: the source address of its default
/// route, else loopback. Nothing is sent to find out.
pub(crate) fn host_ip() -> IpAddr {
    let probe = || -> std::io::Result<IpAddr> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        // Connecting a datagram socket only chooses a route. The address is
        // reserved for documentation, RFC 5737.
        socket.connect("192.0.2.1:9")?;
        Ok(socket.local_addr()?.ip())
    };
    probe().unwrap_or(IpAddr::from([127, 0, 0, 1]))
}
