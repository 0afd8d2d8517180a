//! Connection tracking: listing UDP entries and deleting those whose destination is gone, since a UDP flow that goes on
//! would otherwise keep its old backend (upstream: pkg/proxy/conntrack).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nix::sys::socket::SockProtocol;

use crate::address::octets;
use crate::netlink::{Builder, NetlinkError, Socket, find};

// linux/netfilter/nfnetlink_conntrack.h
const SUBSYSTEM: u16 = 1;
const IPCTNL_MSG_CT_GET: u16 = 1;
const IPCTNL_MSG_CT_DELETE: u16 = 2;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;

/// One direction of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tuple {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: u8,
    pub source_port: u16,
    pub destination_port: u16,
}

/// A tracked connection: as the client sent it, and as the answer comes back (from the backend, after translation).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Connection {
    pub original: Tuple,
    pub reply: Tuple,
}

/// A ctnetlink socket, in the namespace of the thread that opened it.
pub struct Handle {
    socket: Socket,
}

impl Handle {
    pub fn open() -> Result<Self, NetlinkError> {
        Ok(Self { socket: Socket::open(SockProtocol::NetlinkNetFilter)? })
    }

    /// The connections of a protocol (`IPPROTO_UDP`) that `wanted` picks.
    pub fn list(&mut self, protocol: u8, wanted: impl Fn(&Connection) -> bool) -> Result<Vec<Connection>, NetlinkError> {
        let header = |b: &mut Builder| b.raw(&[0; 4]);
        self.socket.dump(SUBSYSTEM << 8 | IPCTNL_MSG_CT_GET, "list tracked connections", header, |body, connections| {
            let connection = body.get(4..).and_then(parse);
            connections.extend(connection.filter(|c| c.original.protocol == protocol && wanted(c)));
        })
    }

    /// Forgets a connection; gives whether it was still there.
    pub fn delete(&mut self, connection: &Connection) -> Result<bool, NetlinkError> {
        let tuple = &connection.original;
        let operation = || format!("delete tracked connection to {}:{}", tuple.destination, tuple.destination_port);
        let result = self.socket.request(SUBSYSTEM << 8 | IPCTNL_MSG_CT_DELETE, 0, operation, |b| {
            b.raw(&[if tuple.source.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 } as u8, 0, 0, 0]);
            encode(b, tuple);
        });
        match result {
            Ok(()) => Ok(true),
            Err(error) if error.is_absent() => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn encode(b: &mut Builder, tuple: &Tuple) {
    let (source, destination) = if tuple.source.is_ipv4() { (CTA_IP_V4_SRC, CTA_IP_V4_DST) } else { (CTA_IP_V6_SRC, CTA_IP_V6_DST) };
    b.nest(CTA_TUPLE_ORIG, |b| {
        b.nest(CTA_TUPLE_IP, |b| {
            b.attribute(source, &octets(tuple.source));
            b.attribute(destination, &octets(tuple.destination));
        });
        b.nest(CTA_TUPLE_PROTO, |b| {
            b.attribute(CTA_PROTO_NUM, &[tuple.protocol]);
            b.attribute(CTA_PROTO_SRC_PORT, &tuple.source_port.to_be_bytes());
            b.attribute(CTA_PROTO_DST_PORT, &tuple.destination_port.to_be_bytes());
        });
    });
}

fn parse(attributes: &[u8]) -> Option<Connection> {
    Some(Connection { original: tuple(find(attributes, CTA_TUPLE_ORIG)?)?, reply: tuple(find(attributes, CTA_TUPLE_REPLY)?)? })
}

fn tuple(attributes: &[u8]) -> Option<Tuple> {
    let (ip, proto) = (find(attributes, CTA_TUPLE_IP)?, find(attributes, CTA_TUPLE_PROTO)?);
    let v4 = |kind| Some(IpAddr::from(Ipv4Addr::from(<[u8; 4]>::try_from(find(ip, kind)?).ok()?)));
    let v6 = |kind| Some(IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(find(ip, kind)?).ok()?)));
    // ICMP has no ports.
    let port = |kind| find(proto, kind).and_then(|p| p.try_into().ok()).map_or(0, u16::from_be_bytes);
    Some(Tuple {
        source: v4(CTA_IP_V4_SRC).or_else(|| v6(CTA_IP_V6_SRC))?,
        destination: v4(CTA_IP_V4_DST).or_else(|| v6(CTA_IP_V6_DST))?,
        protocol: *find(proto, CTA_PROTO_NUM)?.first()?,
        source_port: port(CTA_PROTO_SRC_PORT),
        destination_port: port(CTA_PROTO_DST_PORT),
    })
}
