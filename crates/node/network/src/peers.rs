//! Routes to other nodes' pods: what to add and what to delete, decided purely. Nodes must share a network segment.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use fram_datapath::address::Cidr;
use fram_datapath::route::Route;

/// Another node.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Peer {
    pub node_ip: IpAddr,
    pub pod_cidrs: Vec<Cidr>,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    pub(crate) add: Vec<Route>,
    pub(crate) delete: Vec<Route>,
}

/// What makes `present` (Fram's routes in the kernel) lead to `peers`. Routes to pods of this node are left alone.
pub(crate) fn plan(peers: &[Peer], present: &[Route]) -> Changes {
    let wanted: BTreeMap<Cidr, Route> = peers
        .iter()
        .flat_map(|peer| peer.pod_cidrs.iter().map(|cidr| (*cidr, Route::via(*cidr, peer.node_ip))))
        .filter(|(cidr, route)| route.gateway.is_some_and(|g| g.is_ipv4() == cidr.address().is_ipv4()))
        .collect();
    let of_peers = present.iter().filter(|route| route.gateway.is_some());
    let kept: BTreeSet<Cidr> = of_peers
        .clone()
        .filter(|route| wanted.get(&route.destination).is_some_and(|w| w.gateway == route.gateway))
        .map(|route| route.destination)
        .collect();
    Changes {
        // A route to the same destination is replaced, not deleted: no packet falls in between.
        add: wanted.iter().filter(|(cidr, _)| !kept.contains(cidr)).map(|(_, route)| route.clone()).collect(),
        delete: of_peers.filter(|route| !wanted.contains_key(&route.destination)).cloned().collect(),
    }
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
        let changes = plan(&peers, &present);
        assert_eq!(changes.add, [route("10.244.2.0/24", "10.0.0.9"), route("10.244.4.0/24", "10.0.0.4")]);
        assert_eq!(changes.delete, [route("10.244.3.0/24", "10.0.0.3")]);
        assert_eq!(plan(&[peer("fd00::1", "10.244.1.0/24")], &[]), Changes::default(), "families are not mixed");
    }
}
