//! VXLAN links (RFC 7348) and their forwarding tables, for nodes that do not share a network segment.

use std::net::IpAddr;

use super::{Handle, IFLA_INFO_DATA, IFLA_INFO_KIND, Mac, NDA_DST, NDA_LLADDR, NUD_PERMANENT, link_header};
use crate::PREFIX;
use crate::address::octets;
use crate::netlink::NetlinkError;

// linux/if_link.h, linux/neighbour.h
const IFLA_VXLAN_ID: u16 = 1;
const IFLA_VXLAN_LOCAL: u16 = 4;
const IFLA_VXLAN_LEARNING: u16 = 7;
const IFLA_VXLAN_PORT: u16 = 15;
const IFLA_VXLAN_LOCAL6: u16 = 17;
const NTF_SELF: u8 = 2;

/// What the outer IPv4, UDP, VXLAN and inner Ethernet headers take of each packet.
pub const OVERHEAD: u32 = 50;

/// A VXLAN link that learns nothing: where each hardware address is, is said by [`Handle::replace_forwarding`].
#[derive(Debug)]
pub struct Vxlan<'a> {
    /// Must start with [`PREFIX`].
    pub name: &'a str,
    pub mac: Mac,
    pub mtu: u32,
    pub id: u32,
    /// UDP port; 4789 by standard, 8472 by Linux' and flannel's custom.
    pub port: u16,
    /// The node's address towards its peers.
    pub local: IpAddr,
}

impl Handle {
    /// Makes the link, not yet up.
    pub fn create_vxlan(&mut self, vxlan: &Vxlan<'_>) -> Result<(), NetlinkError> {
        debug_assert!(vxlan.name.starts_with(PREFIX), "a link that purge would not find");
        let flags = (libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16;
        self.socket.request(
            libc::RTM_NEWLINK,
            flags,
            || format!("create link {}", vxlan.name),
            |b| {
                link_header(b, 0, 0, 0);
                b.string(libc::IFLA_IFNAME, vxlan.name);
                b.attribute(libc::IFLA_ADDRESS, &vxlan.mac);
                b.ne32(libc::IFLA_MTU, vxlan.mtu);
                b.nest(libc::IFLA_LINKINFO, |b| {
                    b.string(IFLA_INFO_KIND, "vxlan");
                    b.nest(IFLA_INFO_DATA, |b| {
                        b.ne32(IFLA_VXLAN_ID, vxlan.id);
                        let local = if vxlan.local.is_ipv4() { IFLA_VXLAN_LOCAL } else { IFLA_VXLAN_LOCAL6 };
                        b.attribute(local, &octets(vxlan.local));
                        b.attribute(IFLA_VXLAN_LEARNING, &[0]);
                        b.attribute(IFLA_VXLAN_PORT, &vxlan.port.to_be_bytes());
                    });
                });
            },
        )
    }

    /// Says behind which machine a hardware address is.
    pub fn replace_forwarding(&mut self, link: u32, mac: Mac, remote: IpAddr) -> Result<(), NetlinkError> {
        let flags = (libc::NLM_F_CREATE | libc::NLM_F_REPLACE) as u16;
        self.socket.request(
            libc::RTM_NEWNEIGH,
            flags,
            || format!("add forwarding entry for {remote}"),
            |b| {
                let state = NUD_PERMANENT.to_ne_bytes();
                b.raw(&[&[libc::AF_BRIDGE as u8, 0, 0, 0][..], &link.to_ne_bytes(), &state, &[NTF_SELF, 0]].concat());
                b.attribute(NDA_LLADDR, &mac);
                b.attribute(NDA_DST, &octets(remote));
            },
        )
    }
}
