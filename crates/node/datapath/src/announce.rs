//! Tells the machines of a link that an address is here now, unasked (gratuitous ARP, RFC 5227 section 3). It answers no
//! questions: the kernel does, for every address that it has.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;

use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

use crate::netlink::NetlinkError;
use crate::route::Mac;

const BROADCAST: Mac = [0xff; 6];
const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];
/// Ethernet, IPv4, the lengths of their addresses, and a request: what most neighbours heed.
const REQUEST: [u8; 8] = [0, 1, 8, 0, 6, 4, 0, 1];

/// The frame that says so.
fn frame(mac: Mac, address: Ipv4Addr) -> Vec<u8> {
    let own = address.octets();
    [&BROADCAST[..], &mac, &ETHERTYPE_ARP, &REQUEST, &mac, &own, &[0; 6], &own].concat()
}

/// Sends it on a link of the calling thread's namespace.
pub fn announce(link: u32, mac: Mac, address: Ipv4Addr) -> Result<(), NetlinkError> {
    let fail = |operation| move |source: io::Error| NetlinkError::Socket { operation, source };
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None::<SockProtocol>)
        .map_err(|errno| fail("open a packet socket")(errno.into()))?;
    let to = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: u16::from_ne_bytes(ETHERTYPE_ARP),
        sll_ifindex: i32::try_from(link).unwrap_or_default(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0],
    };
    let frame = frame(mac, address);
    // SAFETY: the frame and the address live through the call, and their lengths are theirs.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            0,
            (&raw const to).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    if sent < 0 { Err(fail("announce an address")(io::Error::last_os_error())) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sender_and_target_are_the_address_itself() {
        let frame = frame([2, 0, 0, 0, 0, 1], Ipv4Addr::new(192, 0, 2, 7));
        assert_eq!(frame.len(), 42);
        assert_eq!((&frame[..6], &frame[12..14]), (&BROADCAST[..], &ETHERTYPE_ARP[..]));
        assert_eq!((&frame[28..32], &frame[38..42]), (&[192, 0, 2, 7][..], &[192, 0, 2, 7][..]));
    }
}
