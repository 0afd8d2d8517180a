//! Links, addresses, neighbours and routes over rtnetlink, in the namespace of the thread that opened the handle.

mod vxlan;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd};

use nix::sys::socket::SockProtocol;

use crate::PREFIX;
use crate::address::{Cidr, octets};
use crate::namespace::Namespace;
use crate::netlink::{Builder, NetlinkError, Socket, attributes, find, ne_u32, text};

pub use vxlan::{OVERHEAD as VXLAN_OVERHEAD, Vxlan};

/// The protocol number in Fram's routes (`proto 70` in `ip route`), by which they are found again.
pub const PROTOCOL: u8 = 70;

// linux/if_link.h, linux/veth.h, linux/neighbour.h
const IFLA_GROUP: u16 = 27;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const NUD_PERMANENT: u16 = 0x80;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const RTNH_F_ONLINK: u32 = 4;

pub type Mac = [u8; 6];

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    pub mtu: u32,
    pub up: bool,
    /// None where it has no Ethernet address.
    pub mac: Option<Mac>,
}

/// An address of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    pub link: u32,
    pub address: IpAddr,
    pub prefix_length: u8,
    /// Not confined to the link or the host.
    pub global: bool,
}

/// A pair of virtual Ethernet devices, one end in another namespace.
#[derive(Debug)]
pub struct VethPair<'a> {
    /// Must start with [`PREFIX`].
    pub name: &'a str,
    pub mac: Mac,
    pub peer_name: &'a str,
    pub peer_mac: Mac,
    pub peer_namespace: &'a Namespace,
    pub mtu: u32,
}

/// A route in the main table.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Route {
    pub destination: Cidr,
    pub gateway: Option<IpAddr>,
    /// Index of the link; with a gateway it may be left to the kernel.
    pub link: Option<u32>,
    /// The source address for what this machine itself sends there.
    pub source: Option<IpAddr>,
    /// Refuse what goes there (`unreachable` in `ip route`) instead of sending it anywhere.
    pub unreachable: bool,
}

impl Route {
    /// A route over a link, without a gateway.
    pub fn direct(destination: Cidr, link: u32) -> Self {
        Self { destination, gateway: None, link: Some(link), source: None, unreachable: false }
    }

    /// A route by way of a neighbour.
    pub fn via(destination: Cidr, gateway: IpAddr) -> Self {
        Self { destination, gateway: Some(gateway), link: None, source: None, unreachable: false }
    }

    /// Only a destination: enough to delete whatever route of Fram's leads there.
    pub fn to(destination: Cidr) -> Self {
        Self { destination, gateway: None, link: None, source: None, unreachable: false }
    }

    pub fn unreachable(destination: Cidr) -> Self {
        Self { destination, gateway: None, link: None, source: None, unreachable: true }
    }
}

/// An rtnetlink socket.
pub struct Handle {
    socket: Socket,
}

impl Handle {
    pub fn open() -> Result<Self, NetlinkError> {
        Ok(Self { socket: Socket::open(SockProtocol::NetlinkRoute)? })
    }

    /// Makes both ends, neither of them up; the peer is born in its namespace.
    pub fn create_veth(&mut self, pair: &VethPair<'_>) -> Result<(), NetlinkError> {
        debug_assert!(pair.name.starts_with(PREFIX), "a link that purge would not find");
        let flags = (libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16;
        self.socket.request(
            libc::RTM_NEWLINK,
            flags,
            || format!("create link {}", pair.name),
            |b| {
                link_header(b, 0, 0, 0);
                b.string(libc::IFLA_IFNAME, pair.name);
                b.attribute(libc::IFLA_ADDRESS, &pair.mac);
                b.ne32(libc::IFLA_MTU, pair.mtu);
                b.nest(libc::IFLA_LINKINFO, |b| {
                    b.string(IFLA_INFO_KIND, "veth");
                    b.nest(IFLA_INFO_DATA, |b| {
                        b.nest(VETH_INFO_PEER, |b| {
                            link_header(b, 0, 0, 0);
                            b.string(libc::IFLA_IFNAME, pair.peer_name);
                            b.attribute(libc::IFLA_ADDRESS, &pair.peer_mac);
                            b.ne32(libc::IFLA_MTU, pair.mtu);
                            b.ne32(libc::IFLA_NET_NS_FD, pair.peer_namespace.as_fd().as_raw_fd() as u32);
                        });
                    });
                });
            },
        )
    }

    pub fn link(&mut self, name: &str) -> Result<Option<Link>, NetlinkError> {
        let answer = self.socket.query(
            libc::RTM_GETLINK,
            || format!("look up link {name}"),
            |b| {
                link_header(b, 0, 0, 0);
                b.string(libc::IFLA_IFNAME, name);
            },
        );
        match answer {
            Ok(body) => Ok(parse_link(&body)),
            Err(error) if error.is_absent() => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub fn links(&mut self) -> Result<Vec<Link>, NetlinkError> {
        self.socket.dump(libc::RTM_GETLINK, "list links", |b| link_header(b, 0, 0, 0), |body, links| links.extend(parse_link(body)))
    }

    pub fn set_up(&mut self, link: u32) -> Result<(), NetlinkError> {
        let up = libc::IFF_UP as u32;
        self.socket.request(libc::RTM_NEWLINK, 0, || format!("bring up link {link}"), |b| link_header(b, link, up, up))
    }

    /// Deletes a link and, with a veth, its peer; gives whether there was one.
    pub fn delete_link(&mut self, name: &str) -> Result<bool, NetlinkError> {
        let deleted = self.socket.request(
            libc::RTM_DELLINK,
            0,
            || format!("delete link {name}"),
            |b| {
                link_header(b, 0, 0, 0);
                b.string(libc::IFLA_IFNAME, name);
            },
        );
        present(deleted)
    }

    /// Puts a link into a group; gives whether there is such a link.
    pub fn set_group(&mut self, name: &str, group: u32) -> Result<bool, NetlinkError> {
        let set = self.socket.request(
            libc::RTM_NEWLINK,
            0,
            || format!("change group of link {name}"),
            |b| {
                link_header(b, 0, 0, 0);
                b.string(libc::IFLA_IFNAME, name);
                b.ne32(IFLA_GROUP, group);
            },
        );
        present(set)
    }

    /// Deletes all links of a group at once. One by one, each would wait for the kernel's grace period, tens of milliseconds,
    /// with all other changes of links held up.
    pub fn delete_group(&mut self, group: u32) -> Result<bool, NetlinkError> {
        let deleted = self.socket.request(
            libc::RTM_DELLINK,
            0,
            || format!("delete links of group {group}"),
            |b| {
                link_header(b, 0, 0, 0);
                b.ne32(IFLA_GROUP, group);
            },
        );
        present(deleted)
    }

    /// Gives a link an address; that it has it already is fine.
    pub fn add_address(&mut self, link: u32, address: IpAddr, prefix_length: u8) -> Result<(), NetlinkError> {
        self.add_scoped_address(link, address, prefix_length, libc::RT_SCOPE_UNIVERSE)
    }

    /// Like [`Self::add_address`], for an address that nothing may choose as its source by itself: neither connections nor
    /// masquerading.
    pub fn add_passive_address(&mut self, link: u32, address: IpAddr) -> Result<(), NetlinkError> {
        self.add_scoped_address(link, address, Cidr::host(address).prefix_length(), libc::RT_SCOPE_HOST)
    }

    fn add_scoped_address(&mut self, link: u32, address: IpAddr, prefix_length: u8, scope: u8) -> Result<(), NetlinkError> {
        let flags = (libc::NLM_F_CREATE | libc::NLM_F_REPLACE) as u16;
        self.socket.request(
            libc::RTM_NEWADDR,
            flags,
            || format!("add address {address}/{prefix_length}"),
            |b| {
                b.raw(&[&[family(address), prefix_length, 0, scope][..], &link.to_ne_bytes()].concat());
                b.attribute(libc::IFA_LOCAL, &octets(address));
                b.attribute(libc::IFA_ADDRESS, &octets(address));
            },
        )
    }

    /// Takes an address from a link; gives whether it had it.
    pub fn delete_address(&mut self, link: u32, address: IpAddr) -> Result<bool, NetlinkError> {
        let prefix_length = Cidr::host(address).prefix_length();
        present(self.socket.request(
            libc::RTM_DELADDR,
            0,
            || format!("delete address {address}"),
            |b| {
                b.raw(&[&[family(address), prefix_length, 0, 0][..], &link.to_ne_bytes()].concat());
                b.attribute(libc::IFA_LOCAL, &octets(address));
            },
        ))
    }

    pub fn addresses(&mut self) -> Result<Vec<Address>, NetlinkError> {
        self.socket.dump(libc::RTM_GETADDR, "list addresses", |b| b.raw(&[0; 8]), |body, addresses| addresses.extend(parse_address(body)))
    }

    /// Adds a route or replaces the one to the same destination.
    pub fn replace_route(&mut self, route: &Route) -> Result<(), NetlinkError> {
        let flags = (libc::NLM_F_CREATE | libc::NLM_F_REPLACE) as u16;
        self.socket.request(libc::RTM_NEWROUTE, flags, || format!("add route to {}", route.destination), |b| encode_route(b, route))
    }

    /// Deletes a route; gives whether there was one.
    pub fn delete_route(&mut self, route: &Route) -> Result<bool, NetlinkError> {
        let operation = || format!("delete route to {}", route.destination);
        present(self.socket.request(libc::RTM_DELROUTE, 0, operation, |b| encode_route(b, route)))
    }

    /// The routes of the main table that carry [`PROTOCOL`].
    pub fn routes(&mut self) -> Result<Vec<Route>, NetlinkError> {
        self.socket.dump(
            libc::RTM_GETROUTE,
            "list routes",
            |b| b.raw(&[0; 12]),
            |body, routes| {
                routes.extend(parse_route(body).filter(|(_, protocol)| *protocol == PROTOCOL).map(|(route, _)| route));
            },
        )
    }

    /// The link that the kernel would use towards an address; an error if it knows no way.
    pub fn link_towards(&mut self, address: IpAddr) -> Result<Option<Route>, NetlinkError> {
        let body = self.socket.query(
            libc::RTM_GETROUTE,
            || format!("find the way to {address}"),
            |b| {
                let length = if address.is_ipv4() { 32 } else { 128 };
                b.raw(&[family(address), length, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
                b.attribute(libc::RTA_DST, &octets(address));
            },
        )?;
        Ok(parse_route(&body).map(|(route, _)| route))
    }

    /// A fixed neighbour entry, so that no ARP is needed.
    pub fn replace_neighbour(&mut self, link: u32, address: IpAddr, mac: Mac) -> Result<(), NetlinkError> {
        let flags = (libc::NLM_F_CREATE | libc::NLM_F_REPLACE) as u16;
        self.socket.request(
            libc::RTM_NEWNEIGH,
            flags,
            || format!("add neighbour {address}"),
            |b| {
                let state = NUD_PERMANENT.to_ne_bytes();
                b.raw(&[&[family(address), 0, 0, 0][..], &link.to_ne_bytes(), &state, &[0, 0]].concat());
                b.attribute(NDA_DST, &octets(address));
                b.attribute(NDA_LLADDR, &mac);
            },
        )
    }
}

/// Whether a deletion found anything; that it did not is no error.
fn present(result: Result<(), NetlinkError>) -> Result<bool, NetlinkError> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.is_absent() => Ok(false),
        Err(error) => Err(error),
    }
}

fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { libc::AF_INET as u8 } else { libc::AF_INET6 as u8 }
}

/// `struct ifinfomsg`
fn link_header(b: &mut Builder, index: u32, flags: u32, change: u32) {
    b.raw(&[&[0; 4][..], &index.to_ne_bytes(), &flags.to_ne_bytes(), &change.to_ne_bytes()].concat());
}

fn parse_link(body: &[u8]) -> Option<Link> {
    let (index, flags) = (ne_u32(body.get(4..)?)?, ne_u32(body.get(8..)?)?);
    let attributes = body.get(16..)?;
    Some(Link {
        index,
        name: find(attributes, libc::IFLA_IFNAME).map(text)?,
        mtu: find(attributes, libc::IFLA_MTU).and_then(ne_u32).unwrap_or(0),
        up: flags & libc::IFF_UP as u32 != 0,
        mac: find(attributes, libc::IFLA_ADDRESS).and_then(|bytes| bytes.try_into().ok()),
    })
}

fn parse_ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into()),
        _ => None,
    }
}

/// `struct ifaddrmsg`
fn parse_address(body: &[u8]) -> Option<Address> {
    let attributes = body.get(8..)?;
    let address = find(attributes, libc::IFA_LOCAL).or_else(|| find(attributes, libc::IFA_ADDRESS)).and_then(parse_ip)?;
    let global = body[3] == libc::RT_SCOPE_UNIVERSE;
    Some(Address { link: ne_u32(&body[4..])?, address, prefix_length: body[1], global })
}

/// `struct rtmsg`
fn encode_route(b: &mut Builder, route: &Route) {
    let destination = route.destination.address();
    let kind = if route.unreachable { libc::RTN_UNREACHABLE } else { libc::RTN_UNICAST };
    let scope = if route.gateway.is_some() || route.unreachable { libc::RT_SCOPE_UNIVERSE } else { libc::RT_SCOPE_LINK };
    // A gateway that no address of the link covers (169.254.1.1) has to be taken as on the link.
    let onlink = if route.gateway.is_some() && route.link.is_some() { RTNH_F_ONLINK } else { 0 };
    let header = [family(destination), route.destination.prefix_length(), 0, 0, libc::RT_TABLE_MAIN, PROTOCOL, scope, kind];
    b.raw(&[&header[..], &onlink.to_ne_bytes()].concat());
    if route.destination.prefix_length() > 0 {
        b.attribute(libc::RTA_DST, &octets(destination));
    }
    if let Some(gateway) = route.gateway {
        b.attribute(libc::RTA_GATEWAY, &octets(gateway));
    }
    if let Some(link) = route.link {
        b.ne32(libc::RTA_OIF, link);
    }
    if let Some(source) = route.source {
        b.attribute(libc::RTA_PREFSRC, &octets(source));
    }
}

/// A route and its protocol number.
fn parse_route(body: &[u8]) -> Option<(Route, u8)> {
    let (family, length, protocol) = (*body.first()?, *body.get(1)?, *body.get(5)?);
    let attributes_of = body.get(12..)?;
    let any = if i32::from(family) == libc::AF_INET6 { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { Ipv4Addr::UNSPECIFIED.into() };
    let mut route = Route {
        destination: Cidr::new(any, 0)?,
        gateway: None,
        link: None,
        source: None,
        unreachable: *body.get(7)? == libc::RTN_UNREACHABLE,
    };
    let mut destination = any;
    for (kind, data) in attributes(attributes_of) {
        match kind {
            libc::RTA_DST => destination = parse_ip(data)?,
            libc::RTA_GATEWAY => route.gateway = parse_ip(data),
            libc::RTA_OIF => route.link = ne_u32(data),
            libc::RTA_PREFSRC => route.source = parse_ip(data),
            _ => {}
        }
    }
    route.destination = Cidr::new(destination, length)?;
    Some((route, protocol))
}
