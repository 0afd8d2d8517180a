//! Wiring one pod: a veth pair whose ends know each other's hardware address, so that neither a bridge nor ARP is needed,
//! and a route to the pod on the node. The pod's gateway is a link-local address that only its neighbour table knows.

use std::net::{IpAddr, Ipv4Addr};

use fram_datapath::address::Cidr;
use fram_datapath::namespace::Namespace;
use fram_datapath::route::{Handle, Mac, Route, VethPair};
use fram_datapath::{NetlinkError, sysctl};

/// The gateway in every pod's routing table; it exists nowhere else.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The name of the pod's own interface.
pub const POD_INTERFACE: &str = "eth0";
const LOCAL_LINK: &str = "fram-local";
const LOCAL_LINK_PEER: &str = "fram-local-peer";
/// The same on all of the node's ends: each is alone with its pod.
const NODE_MAC: Mac = [0xee, 0xee, 0xee, 0xee, 0xee, 0xee];

/// What to wire.
pub(crate) struct Attachment<'a> {
    pub(crate) ip: IpAddr,
    /// The node's end.
    pub(crate) link: &'a str,
    pub(crate) mtu: u32,
    /// The address that the node itself uses towards the pod.
    pub(crate) node_ip: Option<IpAddr>,
}

/// A locally administered hardware address made from the pod's address.
fn pod_mac(ip: IpAddr) -> Mac {
    let octets = fram_datapath::address::octets(ip);
    let [.., a, b, c, d] = octets.as_slice() else { return NODE_MAC };
    [0x0a, 0x58, *a, *b, *c, *d]
}

/// Makes the pair with the pod's end in its namespace, replacing what an interrupted attempt left.
pub(crate) fn create(node: &mut Handle, pod: &Namespace, attachment: &Attachment<'_>) -> Result<(), NetlinkError> {
    node.delete_link(attachment.link)?;
    node.create_veth(&VethPair {
        name: attachment.link,
        mac: NODE_MAC,
        peer_name: POD_INTERFACE,
        peer_mac: pod_mac(attachment.ip),
        peer_namespace: pod,
        mtu: attachment.mtu,
    })
}

/// The pod's side; runs inside its namespace.
pub(crate) fn configure_pod(ip: IpAddr) -> Result<(), NetlinkError> {
    let mut handle = Handle::open()?;
    for name in ["lo", POD_INTERFACE] {
        let link = find(&mut handle, name)?;
        handle.set_up(link)?;
    }
    let link = find(&mut handle, POD_INTERFACE)?;
    handle.add_address(link, ip, Cidr::host(ip).prefix_length())?;
    handle.replace_neighbour(link, GATEWAY.into(), NODE_MAC)?;
    handle.replace_route(&Route::direct(Cidr::host(GATEWAY.into()), link))?;
    let everywhere = Cidr::new(Ipv4Addr::UNSPECIFIED.into(), 0).unwrap_or(Cidr::host(ip));
    handle.replace_route(&Route { link: Some(link), ..Route::via(everywhere, GATEWAY.into()) })
}

/// The node's side. Settings of the link are written by [`configure_node_link`], in the node's namespace.
pub(crate) fn configure_node(node: &mut Handle, attachment: &Attachment<'_>) -> Result<(), NetlinkError> {
    let link = find(node, attachment.link)?;
    node.set_up(link)?;
    node.replace_neighbour(link, attachment.ip, pod_mac(attachment.ip))?;
    node.replace_route(&Route { source: attachment.node_ip, ..Route::direct(Cidr::host(attachment.ip), link) })
}

/// Kernel settings of the node's end; runs in the node's namespace.
pub(crate) fn configure_node_link(link: &str) -> Result<(), NetlinkError> {
    // Host ports answer on 127.0.0.1 too; the guard chain keeps pods from reaching the node's loopback (CVE-2020-8558).
    sysctl::set(&format!("ipv4/conf/{link}/route_localnet"), "1")?;
    // Without IPv6 in the pod network, link-local chatter on each veth would only cost. A kernel may come without IPv6.
    match sysctl::set(&format!("ipv6/conf/{link}/disable_ipv6"), "1") {
        Err(NetlinkError::File { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Puts an address on a link that exists for such addresses alone, so that purging finds it; a veth pair, because pods need
/// those anyway and not every kernel has dummy links. Runs in the node's namespace.
pub(crate) fn add_local_address(node: &mut Handle, ip: IpAddr) -> Result<(), NetlinkError> {
    if node.link(LOCAL_LINK)?.is_none() {
        node.create_veth(&VethPair {
            name: LOCAL_LINK,
            mac: [0x0a, 0x58, 0, 0, 0, 1],
            peer_name: LOCAL_LINK_PEER,
            peer_mac: [0x0a, 0x58, 0, 0, 0, 2],
            peer_namespace: &Namespace::current()?,
            mtu: 1500,
        })?;
    }
    let link = find(node, LOCAL_LINK)?;
    node.add_passive_address(link, ip)?;
    node.set_up(link)
}

/// The addresses of the link that exists for such alone.
pub(crate) fn local_addresses(node: &mut Handle) -> Result<Vec<IpAddr>, NetlinkError> {
    let Some(link) = node.link(LOCAL_LINK)? else { return Ok(Vec::new()) };
    Ok(node.addresses()?.into_iter().filter(|a| a.link == link.index && a.address.is_ipv4()).map(|a| a.address).collect())
}

pub(crate) fn delete_local_address(node: &mut Handle, ip: IpAddr) -> Result<(), NetlinkError> {
    let link = find(node, LOCAL_LINK)?;
    node.delete_address(link, ip).map(drop)
}

/// Tells the neighbours on the link of the node's own address that another address is here too.
pub(crate) fn announce(node: &mut Handle, own: IpAddr, ip: IpAddr) -> Result<(), NetlinkError> {
    let IpAddr::V4(address) = ip else { return Ok(()) };
    let Some(link) = node.addresses()?.into_iter().find(|a| a.address == own).map(|a| a.link) else { return Ok(()) };
    let mac = node.links()?.into_iter().find(|l| l.index == link).and_then(|l| l.mac);
    mac.map_or(Ok(()), |mac| fram_datapath::announce::announce(link, mac, address))
}

fn find(handle: &mut Handle, name: &str) -> Result<u32, NetlinkError> {
    match handle.link(name)? {
        Some(link) => Ok(link.index),
        None => Err(NetlinkError::File {
            operation: "find link",
            path: name.to_owned(),
            source: std::io::Error::from(std::io::ErrorKind::NotFound),
        }),
    }
}
