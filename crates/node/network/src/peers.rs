//! Routes to other nodes' pods: what to add and what to delete, decided purely. Nodes that share a segment are each other's
//! gateways; with an overlay, each pod range's first address is its node's end of the tunnel.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use fram_datapath::address::Cidr;
use fram_datapath::route::{Mac, Route};

/// Another node.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Peer {
    pub node_ip: IpAddr,
    pub pod_cidrs: Vec<Cidr>,
}

/// The tunnel to other nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tunnel {
    /// The index of its link.
    pub(crate) link: u32,
    /// This node's end.
    pub(crate) own: IpAddr,
}

/// The tunnel address of the node that has a pod range: the range's first, which no pod gets.
pub(crate) fn tunnel_address(pod_cidr: Cidr) -> IpAddr {
    pod_cidr.address()
}

/// The hardware address of a node's end of the tunnel, known to every other node from its address.
pub(crate) fn tunnel_mac(node_ip: IpAddr) -> Mac {
    let octets = fram_datapath::address::octets(node_ip);
    let [.., a, b, c, d] = octets.as_slice() else { return [0x0a, 0x59, 0, 0, 0, 0] };
    [0x0a, 0x59, *a, *b, *c, *d]
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    pub(crate) add: Vec<Route>,
    pub(crate) delete: Vec<Route>,
}

/// What makes `present` (Fram's routes in the kernel) lead to `peers`. Routes to pods of this node are left alone.
pub(crate) fn plan(peers: &[Peer], tunnel: Option<Tunnel>, present: &[Route]) -> Changes {
    let route = |peer: &Peer, cidr: Cidr| match tunnel {
        None => Route::via(cidr, peer.node_ip),
        Some(tunnel) => Route { link: Some(tunnel.link), source: Some(tunnel.own), ..Route::via(cidr, tunnel_address(cidr)) },
    };
    let wanted: BTreeMap<Cidr, Route> = peers
        .iter()
        .flat_map(|peer| peer.pod_cidrs.iter().map(move |cidr| (*cidr, route(peer, *cidr))))
        .filter(|(cidr, route)| route.gateway.is_some_and(|g| g.is_ipv4() == cidr.address().is_ipv4()))
        .collect();
    let of_peers = present.iter().filter(|route| route.gateway.is_some());
    let kept: BTreeSet<Cidr> = of_peers
        .clone()
        .filter(|route| wanted.get(&route.destination).is_some_and(|w| leads_alike(w, route)))
        .map(|route| route.destination)
        .collect();
    Changes {
        // A route to the same destination is replaced, not deleted: no packet falls in between.
        add: wanted.iter().filter(|(cidr, _)| !kept.contains(cidr)).map(|(_, route)| route.clone()).collect(),
        delete: of_peers.filter(|route| !wanted.contains_key(&route.destination)).cloned().collect(),
    }
}

/// The kernel fills in the link of a route that named only its gateway.
fn leads_alike(wanted: &Route, present: &Route) -> bool {
    wanted.gateway == present.gateway && wanted.link.is_none_or(|link| present.link == Some(link)) && wanted.source == present.source
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_changed() {
        let route = |cidr: &str, gateway: &str| Route::via(cidr.parse().unwrap(), gateway.parse().unwrap());
        let peer = |ip: &str, cidr: &str| Peer { node_ip: ip.parse().unwrap(), pod_cidrs: vec![cidr.parse().unwrap()] };
        let own = Route::direct("10.244.0.2/32".parse().unwrap(), 7);
        let present = [route("10.244.1.0/24", "10.0.0.1"), route("10.244.2.0/24", "10.0.0.2"), route("10.244.3.0/24", "10.0.0.3"), own];
        let peers = [peer("10.0.0.1", "10.244.1.0/24"), peer("10.0.0.9", "10.244.2.0/24"), peer("10.0.0.4", "10.244.4.0/24")];
        let changes = plan(&peers, None, &present);
        assert_eq!(changes.add, [route("10.244.2.0/24", "10.0.0.9"), route("10.244.4.0/24", "10.0.0.4")]);
        assert_eq!(changes.delete, [route("10.244.3.0/24", "10.0.0.3")]);
        assert_eq!(plan(&[peer("fd00::1", "10.244.1.0/24")], None, &[]), Changes::default(), "families are not mixed");
    }

    #[test]
    fn through_a_tunnel_the_gateway_is_the_other_end() {
        let tunnel = Tunnel { link: 5, own: "10.244.0.0".parse().unwrap() };
        let peers = [Peer { node_ip: "192.168.9.9".parse().unwrap(), pod_cidrs: vec!["10.244.1.0/24".parse().unwrap()] }];
        let direct = [Route::via("10.244.1.0/24".parse().unwrap(), "192.168.9.9".parse().unwrap())];
        let changes = plan(&peers, Some(tunnel), &direct);
        let [route] = changes.add.as_slice() else { panic!("{changes:?}") };
        assert_eq!((route.gateway, route.link, route.source), (Some("10.244.1.0".parse().unwrap()), Some(5), Some(tunnel.own)));
        assert!(changes.delete.is_empty(), "replaced, not deleted");
        assert_eq!(plan(&peers, Some(tunnel), &changes.add), Changes::default());
    }
}
