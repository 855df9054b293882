//! The node's end: the bridge, forwarding, and the host side of veth pairs.
//! Everything here blocks for as long as the kernel needs.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rtnetlink::packet_route::link::InfoKind;
use runtime::NetError;
use rustix::io::Errno;

use crate::masquerade::{self, NftError};
use crate::names::{POD_LINK, hardware_address, is_host_link, link_group};
use crate::rtnl::{Link, RouteSocket, Veth, is};
use crate::{Options, netns};

const IP_FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";

/// A veth pair has its carrier as soon as both ends are up.
const CARRIER_TIMEOUT: Duration = Duration::from_secs(5);

const CARRIER_POLL: Duration = Duration::from_millis(1);

/// How much of the end of the state directory's path the bridge's alias keeps; the
/// kernel takes 255 bytes (`IFALIASZ`) and a character has at most four.
const OWNER_MAX_CHARS: usize = 50;

/// The node's network namespace, as far as it is ours.
pub(crate) struct Host {
    options: Options,
    netns: OwnedFd,
    /// The kernel does one change of links at a time, so one socket is enough.
    socket: Mutex<RouteSocket>,
}

/// For `map_err`: a refused kernel request, with what was being done.
pub(crate) fn refused(doing: impl Into<String>) -> impl FnOnce(io::Error) -> NetError {
    move |error| NetError::Kernel {
        doing: doing.into(),
        cause: error.to_string(),
    }
}

impl Host {
    /// Works in the calling thread's network namespace from here on.
    pub(crate) fn open(options: Options) -> Result<Self, NetError> {
        let netns = netns::current().map_err(refused("opening the node's network namespace"))?;
        let socket = RouteSocket::open().map_err(refused("opening a netlink socket"))?;
        Ok(Self {
            options,
            netns,
            socket: Mutex::new(socket),
        })
    }

    pub(crate) fn options(&self) -> &Options {
        &self.options
    }

    /// The socket. One left by a panic is as good as new: replies to what was
    /// given up are told by their sequence numbers.
    fn socket(&self) -> MutexGuard<'_, RouteSocket> {
        self.socket.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the bridge, or takes over the one a former run left; gives its
    /// index.
    pub(crate) fn ensure_bridge(&self) -> Result<u32, NetError> {
        let Options {
            bridge,
            pod_cidr,
            mtu_bytes,
            ..
        } = &self.options;
        let name = bridge.as_str();
        let doing = || format!("making the bridge {name}");
        let mut socket = self.socket();
        let owner = self.owner();
        if let Some(link) = socket.link(name).map_err(refused(doing()))? {
            let addresses = socket.addresses(link.index).map_err(refused(doing()))?;
            match claim(&link, &addresses, &owner, pod_cidr.gateway()) {
                Claim::Ours => {}
                Claim::OursOutdated => drop(socket.delete_link(name).map_err(refused(doing()))?),
                Claim::Foreign(cause) => return Err(NetError::Kernel { doing: doing(), cause }),
            }
        }
        match socket.add_bridge(name, hardware_address(pod_cidr.gateway()), *mtu_bytes) {
            Err(error) if !is(&error, Errno::EXIST) => return Err(refused(doing())(error)),
            _ => {}
        }
        let gone = || io::Error::new(io::ErrorKind::NotFound, "it vanished while it was set up");
        let index = socket
            .link(name)
            .and_then(|link| link.ok_or_else(gone))
            .map_err(refused(doing()))?
            .index;
        let set_up = socket
            .set_alias(index, &owner)
            .and_then(|()| socket.add_address(index, pod_cidr.gateway(), pod_cidr.prefix_bits()))
            .and_then(|()| socket.set_up(index));
        set_up.map_err(refused(doing()))?;
        Ok(index)
    }

    /// Whether the bridge is still the one of this index.
    pub(crate) fn has_bridge(&self, index: u32) -> io::Result<bool> {
        let link = self.socket().link(self.options.bridge.as_str())?;
        Ok(link.is_some_and(|link| link.index == index))
    }

    /// Text on the bridge that tells whose it is.
    fn owner(&self) -> String {
        let path = self.options.state_dir.display().to_string();
        let skip = path.chars().count().saturating_sub(OWNER_MAX_CHARS);
        format!("lifepod {}", path.chars().skip(skip).collect::<String>())
    }

    /// Switches forwarding on; gives the former value if that was another.
    pub(crate) fn enable_forwarding(&self) -> Result<Option<String>, NetError> {
        let before = netns::within(&self.netns, || {
            let before = fs::read_to_string(IP_FORWARD)?.trim().to_owned();
            if before == "1" {
                return Ok(None);
            }
            fs::write(IP_FORWARD, "1")?;
            Ok(Some(before))
        });
        before.map_err(|source| NetError::Io {
            doing: format!("switching IPv4 forwarding on in {IP_FORWARD}"),
            source,
        })
    }

    /// Sets forwarding back to what [`enable_forwarding`](Self::enable_forwarding) found.
    pub(crate) fn restore_forwarding(&self, before: &str) -> Result<(), NetError> {
        netns::within(&self.netns, || fs::write(IP_FORWARD, before)).map_err(|source| NetError::Io {
            doing: format!("restoring {IP_FORWARD}"),
            source,
        })
    }

    /// Makes or removes the masquerade table, as the options ask.
    pub(crate) fn set_masquerade(&self, on: bool) -> Result<(), NftError> {
        let Options {
            bridge,
            pod_cidr,
            redirect,
            ..
        } = &self.options;
        let transaction = if on {
            masquerade::rules(bridge, *pod_cidr, redirect.as_ref())
        } else {
            masquerade::removal(bridge)
        };
        netns::within(&self.netns, || Ok(masquerade::apply(&transaction))).map_err(NftError::Run)?
    }

    fn has_masquerade(&self) -> Result<bool, NftError> {
        netns::within(&self.netns, || Ok(masquerade::exists(&self.options.bridge))).map_err(NftError::Run)?
    }

    /// Whether this is the node's own namespace.
    pub(crate) fn is_own(&self, netns: impl AsFd) -> io::Result<bool> {
        let (own, other) = (rustix::fs::fstat(&self.netns)?, rustix::fs::fstat(netns)?);
        Ok((own.st_dev, own.st_ino) == (other.st_dev, other.st_ino))
    }

    /// Makes the veth pair of a pod, or completes what an attach that was cut
    /// short has left.
    pub(crate) fn connect(
        &self,
        host_link: &str,
        bridge: u32,
        address: Ipv4Addr,
        pod_netns: BorrowedFd<'_>,
        inside: &mut RouteSocket,
    ) -> io::Result<()> {
        let veth = || Veth {
            host_name: host_link,
            group: link_group(&self.options.bridge),
            bridge,
            mtu_bytes: self.options.mtu_bytes,
            pod_name: POD_LINK,
            pod_hardware_address: hardware_address(address),
            pod_netns,
        };
        let mut socket = self.socket();
        match socket.add_veth(veth()) {
            Err(error) if is(&error, Errno::EXIST) => {}
            other => return other,
        }
        let (outer, inner) = (socket.link(host_link)?, inside.link(POD_LINK)?);
        if let (Some(outer), Some(inner)) = (&outer, &inner)
            && is_pair(outer, inner)
        {
            if outer.controller != Some(bridge) {
                socket.set_controller(outer.index, bridge)?;
            }
            return socket.set_up(outer.index);
        }
        // A pair to a sandbox that is no more, or half of one.
        socket.delete_link(host_link)?;
        inside.delete_link(POD_LINK)?;
        socket.add_veth(veth())
    }

    /// Waits until packets pass a pod's veth pair.
    ///
    /// The bridge forwards to a port only once the kernel's deferred link watch
    /// has seen its carrier; a pod's first packets would be lost until then,
    /// and asked for again a second later. Asking for a link runs the watch at
    /// once (the kernel's `rtnl_getlink`); kernels before 6.1 need the wait.
    pub(crate) fn await_carrier(&self, host_link: &str, inside: &mut RouteSocket) -> io::Result<()> {
        let deadline = Instant::now() + CARRIER_TIMEOUT;
        loop {
            let passes = |link: Option<Link>| link.is_some_and(|link| link.operational);
            if passes(inside.link(POD_LINK)?) && passes(self.socket().link(host_link)?) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("the link {host_link} has no carrier after {} s", CARRIER_TIMEOUT.as_secs()),
                ));
            }
            thread::sleep(CARRIER_POLL);
        }
    }

    /// Removes a pod's veth pair; both ends go. `false` when there was none.
    pub(crate) fn disconnect(&self, host_link: &str) -> io::Result<bool> {
        self.socket().delete_link(host_link)
    }

    /// Removes every pod's veth pair.
    fn disconnect_all(&self) -> io::Result<()> {
        let group = link_group(&self.options.bridge);
        let (ours, others): (Vec<_>, Vec<_>) = self
            .socket()
            .links()?
            .into_iter()
            .filter(|link| link.group == group)
            .partition(|link| is_host_link(&link.name));
        if !ours.is_empty() && others.is_empty() {
            return self.socket().delete_group(group);
        }
        ours.iter().try_for_each(|link| self.disconnect(&link.name).map(drop))
    }

    /// The names of all host ends that are ours.
    pub(crate) fn host_links(&self) -> io::Result<Vec<String>> {
        let group = link_group(&self.options.bridge);
        Ok(self
            .socket()
            .links()?
            .into_iter()
            .filter(|link| link.group == group && is_host_link(&link.name))
            .map(|link| link.name)
            .collect())
    }

    /// Removes links and rules. What is already gone is success.
    pub(crate) fn remove_all(&self) -> Result<(), NetError> {
        let bridge = &self.options.bridge;
        self.disconnect_all()
            .map_err(refused(format!("removing the pods' links of {bridge}")))?;
        let ours = self.own_bridge().map_err(refused(format!("looking at the bridge {bridge}")))?;
        if ours {
            self.socket()
                .delete_link(bridge.as_str())
                .map_err(refused(format!("removing the bridge {bridge}")))?;
        }
        match self.set_masquerade(false) {
            Ok(()) | Err(NftError::Missing) => Ok(()), // without nft no table was ever made
            Err(error) => Err(NetError::Kernel {
                doing: format!("removing the table {}", masquerade::table(bridge)),
                cause: error.to_string(),
            }),
        }
    }

    fn own_bridge(&self) -> io::Result<bool> {
        let owner = self.owner();
        Ok(self
            .socket()
            .link(self.options.bridge.as_str())?
            .is_some_and(|link| link.alias == owner))
    }

    /// How many links and tables of ours exist.
    pub(crate) fn leftovers(&self) -> Result<usize, NetError> {
        let links = self.host_links().map_err(refused("listing links"))?.len();
        let bridge = usize::from(self.own_bridge().map_err(refused("looking for the bridge"))?);
        let table = match self.has_masquerade() {
            Ok(found) => usize::from(found),
            Err(NftError::Missing) => 0,
            Err(error) => {
                return Err(NetError::Kernel {
                    doing: "listing nftables tables".to_owned(),
                    cause: error.to_string(),
                });
            }
        };
        Ok(links + bridge + table)
    }
}

/// Whose an existing link of the bridge's name is.
#[derive(Debug, PartialEq, Eq)]
enum Claim {
    Ours,
    /// Ours, of an address range that is no longer ours.
    OursOutdated,
    /// Not ours, and what to do.
    Foreign(String),
}

fn claim(link: &Link, addresses: &[Ipv4Addr], owner: &str, gateway: Ipv4Addr) -> Claim {
    let strange = addresses.iter().any(|address| *address != gateway);
    let advice = format!("choose another bridge name, or remove it: ip link delete {}", link.name);
    if link.kind != Some(InfoKind::Bridge) {
        return Claim::Foreign(format!("a link of that name exists and is no bridge; {advice}"));
    }
    match (link.alias.as_str(), strange) {
        (alias, false) if alias == owner => Claim::Ours,
        (alias, true) if alias == owner => Claim::OursOutdated,
        ("", false) => Claim::Ours, // cut short between being made and being marked
        ("", true) => Claim::Foreign(format!("it exists with the address {}; {advice}", addresses[0])),
        (other, _) => Claim::Foreign(format!("it exists and is marked {other:?}, another network's; {advice}")),
    }
}

fn is_pair(outer: &Link, inner: &Link) -> bool {
    inner.kind == Some(InfoKind::Veth) && outer.peer == Some(inner.index) && inner.peer == Some(outer.index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_bridge_is_taken_over() {
        let gateway = Ipv4Addr::new(10, 0, 0, 1);
        let other = Ipv4Addr::new(172, 17, 0, 1);
        let bridge = |alias: &str| Link {
            name: "br0".into(),
            alias: alias.into(),
            kind: Some(InfoKind::Bridge),
            ..Link::default()
        };
        assert_eq!(claim(&bridge("lifepod /a"), &[gateway], "lifepod /a", gateway), Claim::Ours);
        assert_eq!(claim(&bridge(""), &[], "lifepod /a", gateway), Claim::Ours);
        assert_eq!(claim(&bridge("lifepod /a"), &[other], "lifepod /a", gateway), Claim::OursOutdated);
        for (link, why) in [
            (bridge("lifepod /b"), "another network's"),
            (bridge(""), "with the address 172.17.0.1"),
            (
                Link {
                    kind: Some(InfoKind::Veth),
                    ..bridge("lifepod /a")
                },
                "no bridge",
            ),
        ] {
            let Claim::Foreign(text) = claim(&link, &[other], "lifepod /a", gateway) else {
                panic!("{link:?} was taken over")
            };
            assert!(text.contains(why) && text.contains("ip link delete br0"), "{text}");
        }
    }
}
