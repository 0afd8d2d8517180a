//! The address by which other machines know this one.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use anyhow::Context;

/// The source address of packets to the world. Nothing is sent: connecting a UDP socket only asks the routing table.
pub(crate) fn primary_address() -> anyhow::Result<IpAddr> {
    let anywhere = SocketAddr::from((Ipv4Addr::new(198, 51, 100, 1), 9));
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("cannot open a socket")?;
    socket.connect(anywhere).context("this machine has no route to others: give the node's address with --node-ip")?;
    let ip = socket.local_addr().context("cannot read a socket's address")?.ip();
    anyhow::ensure!(!ip.is_loopback() && !ip.is_unspecified(), "the node's address is not known: give it with --node-ip");
    Ok(ip)
}
