//! Requests to the kernel's routing netlink, one at a time and blocking.
//!
//! The kernel answers such a request before the sending call returns, so
//! there is nothing to wait for and no task that would have to be driven.
//! Messages are `rtnetlink`'s; source: rtnetlink(7), netlink(7).

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, State};
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rtnetlink::{AddressMessageBuilder, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};

/// A reply that takes longer means a stuck kernel.
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);

/// Messages one reply may consist of; a dump of all links of a large node is
/// far below.
const REPLY_DATAGRAMS_MAX: usize = 10_000;

/// A socket into the network namespace of the thread that opened it.
pub(crate) struct RouteSocket {
    socket: Socket,
    sequence: u32,
}

/// A link as the kernel describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) alias: String,
    pub(crate) kind: Option<InfoKind>,
    /// Index of the bridge it is a port of.
    pub(crate) controller: Option<u32>,
    /// Index of a veth's other end, in that end's namespace.
    pub(crate) peer: Option<u32>,
    pub(crate) group: u32,
    pub(crate) up: bool,
    /// Up, and its carrier too: packets pass.
    pub(crate) operational: bool,
}

/// A veth pair to be made: one end up and a port of a bridge, the other down
/// and in another namespace.
pub(crate) struct Veth<'a> {
    pub(crate) host_name: &'a str,
    pub(crate) group: u32,
    pub(crate) bridge: u32,
    pub(crate) mtu_bytes: u32,
    pub(crate) pod_name: &'a str,
    pub(crate) pod_hardware_address: Vec<u8>,
    pub(crate) pod_netns: BorrowedFd<'a>,
}

impl RouteSocket {
    /// Opens a socket into the calling thread's network namespace.
    pub(crate) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        set_socket_timeout(socket.as_fd(), Timeout::Recv, Some(REPLY_TIMEOUT))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// The link of that name, if there is one.
    pub(crate) fn link(&mut self, name: &str) -> io::Result<Option<Link>> {
        let message = LinkUnspec::new_with_name(name).build();
        match self.request(RouteNetlinkMessage::GetLink(message), 0) {
            Ok(replies) => Ok(links(replies).next()),
            Err(error) if is(&error, Errno::NODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Every link of the namespace.
    pub(crate) fn links(&mut self) -> io::Result<Vec<Link>> {
        let replies = self.request(RouteNetlinkMessage::GetLink(LinkMessage::default()), NLM_F_DUMP)?;
        Ok(links(replies).collect())
    }

    /// Makes a bridge that is up. Its hardware address is given, lest it
    /// change with every port that comes and goes.
    pub(crate) fn add_bridge(&mut self, name: &str, hardware_address: Vec<u8>, mtu_bytes: u32) -> io::Result<()> {
        let message = LinkBridge::new(name).address(hardware_address).mtu(mtu_bytes).build();
        self.change(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Makes a veth pair in one request: names, namespaces, bridge port, host
    /// end up. The pod's end cannot be up before its peer is known (the
    /// kernel's `veth_open`).
    pub(crate) fn add_veth(&mut self, veth: Veth<'_>) -> io::Result<()> {
        let peer = LinkMessageBuilder::<LinkUnspec>::new()
            .name(veth.pod_name)
            .address(veth.pod_hardware_address)
            .mtu(veth.mtu_bytes)
            .setns_by_fd(veth.pod_netns.as_raw_fd())
            .build();
        let message = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
            .name(veth.host_name)
            .mtu(veth.mtu_bytes)
            .link_group(veth.group)
            .controller(veth.bridge)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .up()
            .build();
        self.change(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Brings a link up.
    pub(crate) fn set_up(&mut self, index: u32) -> io::Result<()> {
        self.change(RouteNetlinkMessage::SetLink(LinkUnspec::new_with_index(index).up().build()), 0)
    }

    /// Takes a link down.
    #[cfg(test)]
    pub(crate) fn set_down(&mut self, index: u32) -> io::Result<()> {
        self.change(RouteNetlinkMessage::SetLink(LinkUnspec::new_with_index(index).down().build()), 0)
    }

    /// Takes an address from a link.
    #[cfg(test)]
    pub(crate) fn delete_address(&mut self, index: u32, address: Ipv4Addr, prefix_bits: u8) -> io::Result<()> {
        let message = AddressMessageBuilder::<Ipv4Addr>::new()
            .index(index)
            .address(address, prefix_bits)
            .build();
        self.change(RouteNetlinkMessage::DelAddress(message), 0)
    }

    /// Makes a link a port of a bridge.
    pub(crate) fn set_controller(&mut self, index: u32, bridge: u32) -> io::Result<()> {
        self.change(
            RouteNetlinkMessage::SetLink(LinkUnspec::new_with_index(index).controller(bridge).build()),
            0,
        )
    }

    /// Sets the text `ip link` shows with a link.
    pub(crate) fn set_alias(&mut self, index: u32, alias: &str) -> io::Result<()> {
        self.change(
            RouteNetlinkMessage::SetLink(LinkUnspec::new_with_index(index).alias(alias).build()),
            0,
        )
    }

    /// Deletes a link; `false` when there was none of that name.
    pub(crate) fn delete_link(&mut self, name: &str) -> io::Result<bool> {
        match self.change(RouteNetlinkMessage::DelLink(LinkUnspec::new_with_name(name).build()), 0) {
            Ok(()) => Ok(true),
            Err(error) if is(&error, Errno::NODEV) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Deletes all links of a group together, which waits only once for the
    /// kernel's readers. There must be at least one.
    pub(crate) fn delete_group(&mut self, group: u32) -> io::Result<()> {
        let message = LinkMessageBuilder::<LinkUnspec>::new().link_group(group).build();
        self.change(RouteNetlinkMessage::DelLink(message), 0)
    }

    /// The IPv4 addresses of a link.
    pub(crate) fn addresses(&mut self, index: u32) -> io::Result<Vec<Ipv4Addr>> {
        let message = AddressMessageBuilder::<Ipv4Addr>::new().build();
        let replies = self.request(RouteNetlinkMessage::GetAddress(message), NLM_F_DUMP)?;
        let mut addresses = Vec::new();
        for reply in replies {
            if let RouteNetlinkMessage::NewAddress(found) = reply
                && found.header.index == index
            {
                addresses.extend(found.attributes.iter().find_map(|attribute| match attribute {
                    AddressAttribute::Local(std::net::IpAddr::V4(address)) => Some(*address),
                    _ => None,
                }));
            }
        }
        Ok(addresses)
    }

    /// Gives a link an address; it may have it already.
    pub(crate) fn add_address(&mut self, index: u32, address: Ipv4Addr, prefix_bits: u8) -> io::Result<()> {
        let message = AddressMessageBuilder::<Ipv4Addr>::new()
            .index(index)
            .address(address, prefix_bits)
            .build();
        self.change(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Sets the default route, in place of any other.
    pub(crate) fn set_default_route(&mut self, gateway: Ipv4Addr, index: u32) -> io::Result<()> {
        let message = RouteMessageBuilder::<Ipv4Addr>::new()
            .gateway(gateway)
            .output_interface(index)
            .build();
        self.change(RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_REPLACE)
    }

    fn change(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.request(message, NLM_F_ACK | flags).map(drop)
    }

    /// Sends one request and collects its replies. Replies to an earlier
    /// request that was given up are skipped.
    fn request(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | flags;
        request.header.sequence_number = self.sequence;
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;

        let mut replies = Vec::new();
        for _ in 0..REPLY_DATAGRAMS_MAX {
            let (datagram, _) = self.socket.recv_from_full()?;
            if self.collect(&datagram, flags, &mut replies)? {
                return Ok(replies);
            }
        }
        Err(io::Error::other(format!(
            "the kernel's reply has more than {REPLY_DATAGRAMS_MAX} parts"
        )))
    }

    /// Reads the messages of one datagram; `true` when the reply is complete.
    fn collect(&self, datagram: &[u8], flags: u16, replies: &mut Vec<RouteNetlinkMessage>) -> io::Result<bool> {
        let mut rest = datagram;
        while !rest.is_empty() {
            let reply = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                .map_err(|error| io::Error::other(format!("the kernel's reply cannot be read: {error}")))?;
            let length = usize::try_from(reply.header.length)
                .unwrap_or(rest.len())
                .next_multiple_of(4)
                .clamp(4, rest.len());
            rest = &rest[length..];
            if reply.header.sequence_number != self.sequence {
                continue;
            }
            match reply.payload {
                NetlinkPayload::Error(error) if error.code.is_none() => return Ok(true),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                NetlinkPayload::Done(_) => return Ok(true),
                NetlinkPayload::InnerMessage(inner) => {
                    replies.push(inner);
                    if flags & (NLM_F_ACK | NLM_F_DUMP) == 0 {
                        return Ok(true);
                    }
                }
                _ => {} // no-ops and overruns carry nothing; the type is open
            }
        }
        Ok(false)
    }
}

/// Whether an error is that one of the kernel's.
pub(crate) fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}

fn links(replies: Vec<RouteNetlinkMessage>) -> impl Iterator<Item = Link> {
    replies.into_iter().filter_map(|reply| match reply {
        RouteNetlinkMessage::NewLink(message) => Some(describe(message)),
        _ => None,
    })
}

fn describe(message: LinkMessage) -> Link {
    let up = message.header.flags.contains(LinkFlags::Up);
    let mut link = Link {
        index: message.header.index,
        up,
        ..Link::default()
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::IfAlias(alias) => link.alias = alias,
            LinkAttribute::Controller(index) => link.controller = Some(index),
            LinkAttribute::Link(index) => link.peer = Some(index),
            LinkAttribute::Group(group) => link.group = group,
            LinkAttribute::OperState(state) => link.operational = up && matches!(state, State::Up),
            LinkAttribute::LinkInfo(parts) => {
                link.kind = parts.into_iter().find_map(|part| match part {
                    LinkInfo::Kind(kind) => Some(kind),
                    _ => None,
                });
            }
            _ => {} // dozens more describe what we do not ask
        }
    }
    link
}
