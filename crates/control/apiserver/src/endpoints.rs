//! Where a Service leads: the node and address of one of its ready endpoints, for proxies and webhooks.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use fram_machinery::{Status, Value, meta};

use crate::nodes::{Nodes, Stream};
use crate::registry::{ListRequest, Place, Registry, Selection};

/// How long an endpoint may take to be connected to.
const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) fn address(ip: &str, port: i64) -> Result<SocketAddr, Status> {
    let ip: IpAddr = ip.parse().map_err(|_| Status::bad_request("address not allowed: there is none yet"))?;
    // Whoever dials would reach itself, or what is beside it, on somebody else's word; see IsProxyableIP.
    let there = ip.to_canonical();
    if there.is_loopback() || there.is_unspecified() || there.is_multicast() || fram_api::is_link_local(there) {
        return Err(Status::bad_request("address not allowed"));
    }
    let port = u16::try_from(port).map_err(|_| Status::bad_request(format!("invalid port {port}")))?;
    Ok(SocketAddr::new(ip, port))
}

/// A stream to an endpoint, by the connection that its node's agent holds; one that is on no node, or on one without an agent, is reached
/// by this machine itself.
pub(crate) async fn dial(nodes: &dyn Nodes, node: &str, address: SocketAddr) -> Result<Box<dyn Stream>, Status> {
    if !node.is_empty()
        && let Some(reached) = nodes.dial(node, address).await
    {
        return reached;
    }
    let failed = |e| Status::new(fram_machinery::Reason::ServiceUnavailable, format!("error trying to reach {address}: {e}"));
    let connected = tokio::time::timeout(PATIENCE, tokio::net::TcpStream::connect(address)).await;
    Ok(Box::new(connected.map_err(|_| failed(std::io::ErrorKind::TimedOut.into()))?.map_err(failed)?))
}

/// A ready endpoint of the Service; which one changes from call to call.
pub(crate) async fn of_service(registry: &Registry, service: &Value, port: &str) -> Result<(String, SocketAddr), Status> {
    let (namespace, name) = (meta::namespace(service), meta::name(service));
    let unavailable = |why: &str| Status::new(fram_machinery::Reason::ServiceUnavailable, format!("{why} for service {name:?}"));
    let ports = service.list_at(&["spec", "ports"]);
    let asked = |p: &&Value| p.str_at(&["name"]) == port || p.int_at(&["port"]).is_some_and(|n| n.to_string() == port);
    let wanted = if port.is_empty() && ports.len() == 1 { ports.first() } else { ports.iter().find(asked) };
    let wanted = wanted.ok_or_else(|| unavailable(&format!("no service port {port:?} found")))?.str_at(&["name"]).to_string();
    let served = registry.served("discovery.k8s.io", "v1", "endpointslices").ok_or_else(Status::no_such_path)?;
    let selection = Selection::parse(&served.kind, &format!("kubernetes.io/service-name={name}"), "")?;
    let place = Place { served, namespace: namespace.into(), name: String::new() };
    let mut found = Vec::new();
    for entry in registry.list(&place, &ListRequest { selection, ..Default::default() }).await?.items {
        let slice = registry.decode(&place.served, &entry)?;
        let number = slice.list_at(&["ports"]).iter().find(|p| p.str_at(&["name"]) == wanted).and_then(|p| p.int_at(&["port"]));
        let ready = slice.list_at(&["endpoints"]).iter().filter(|e| e.bool_at(&["conditions", "ready"]) != Some(false));
        for endpoint in ready {
            let ip = endpoint.list_at(&["addresses"]).first().and_then(Value::as_str);
            // A name, or an address that none may dial, is not where it leads while there are others.
            if let (Some(ip), Some(number)) = (ip, number)
                && let Ok(address) = address(ip, number)
            {
                found.push((endpoint.str_at(&["nodeName"]).to_string(), address));
            }
        }
    }
    if found.is_empty() {
        return Err(unavailable("no endpoints available"));
    }
    let turn = (registry.environment.random.u64() % found.len() as u64) as usize;
    Ok(found.swap_remove(turn))
}
