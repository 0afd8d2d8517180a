//! Approves the certificates of nodes' kubelet ports (the signer kubernetes.io/kubelet-serving), so that nobody has to. Upstream leaves
//! that to administrators, because a node says itself which addresses it has; here a node gets its own name and addresses that could not
//! be anybody else's. What is asked for beyond that waits for a human, as upstream. Signing is not done here.

use std::net::IpAddr;

use fram_client::resources::{NODES, SERVICE_CIDRS, SERVICES};
use fram_client::{Action, Call, Controller, Resource, Verb};
use fram_machinery::{Value, meta, object};
use rcgen::{CertificateSigningRequestParams, DnType, DnValue, SanType};

use crate::Context;

const REQUESTS: Resource = Resource::new("certificates.k8s.io", "v1", "certificatesigningrequests");
const ENDPOINTS: Resource = Resource::new("", "v1", "endpoints");
const SERVING: &str = "kubernetes.io/kubelet-serving";
const USER: &str = "system:node:";
/// Has the addresses of the API servers.
const SERVERS: &str = "default/kubernetes";

pub(crate) fn start(context: &Context) {
    let requests = context.informers.get(&REQUESTS);
    let others = [&NODES, &SERVICES, &ENDPOINTS, &SERVICE_CIDRS].map(|resource| context.informers.get(resource));
    let client = context.client("kubelet-serving-approver");
    let now = context.now.clone();
    // A node that asks before it has said its addresses is looked at again when it has.
    let (waiting, open) = (requests.clone(), requests.clone());
    let of_node = move |node: &Value| {
        let user = format!("{USER}{}", meta::name(node));
        let own = waiting.list().into_iter().filter(|request| request.str_at(&["spec", "username"]) == user);
        own.map(|request| meta::name(&request).to_owned()).collect()
    };
    // The API servers' addresses may be there later than the first node.
    let of_servers = move |endpoints: &Value| {
        let all = if meta::key(endpoints) == SERVERS { open.list() } else { Vec::new() };
        all.iter().filter(|request| is_open(request)).map(|request| meta::name(request).to_owned()).collect()
    };
    // What is not known yet would look as if nobody had it.
    let known = others[1..].iter().fold(Controller::new("kubeletservingapprover", 1), Controller::needs);
    let controller = known.owns(&requests).watches(&others[0], of_node).watches(&others[2], of_servers);
    context.run(controller, (client, requests, others, now), |context, name| async move {
        let (client, requests, [nodes, services, endpoints, ranges], now) = &*context;
        let Some(request) = requests.get(&name).filter(|request| is_open(request)) else { return Ok(Action::Done) };
        let Some(servers) = endpoints.get(SERVERS) else { return Ok(Action::Done) };
        let (nodes, services, ranges) = (nodes.list(), services.list(), ranges.list());
        let taken = Taken {
            services: services.iter().map(AsRef::as_ref).collect(),
            ranges: ranges.iter().map(AsRef::as_ref).collect(),
            servers: &servers,
            nodes: nodes.iter().map(AsRef::as_ref).collect(),
        };
        if let Err(reason) = taken.allows(&request) {
            tracing::info!(name, reason, "the certificate of a kubelet's port waits for approval");
            return Ok(Action::Done);
        }
        let object = approved((*request).clone(), &now().to_string());
        let subresource = "approval".into();
        let verb = Verb::Update { object, options: Default::default() };
        client.call(Call { resource: REQUESTS, namespace: String::new(), name, subresource, verb }).await?;
        Ok(Action::Done)
    });
}

/// A request of this signer that nobody has answered.
fn is_open(request: &Value) -> bool {
    request.str_at(&["spec", "signerName"]) == SERVING && request.list_at(&["status", "conditions"]).is_empty()
}

fn approved(mut request: Value, now: &str) -> Value {
    request.place(&["status", "conditions"]).make_list().push(object!({
        "type": "Approved", "status": "True", "reason": "AutoApproved", "lastUpdateTime": now, "lastTransitionTime": now,
        "message": "Auto approving kubelet serving certificate for the node's own name and addresses." }));
    request
}

/// What a node's certificate may not name unless it is the node's own.
struct Taken<'a> {
    nodes: Vec<&'a Value>,
    services: Vec<&'a Value>,
    /// The ServiceCIDRs: an address in one may be a Service's tomorrow.
    ranges: Vec<&'a Value>,
    /// The Endpoints of the API servers.
    servers: &'a Value,
}

impl Taken<'_> {
    /// Whether a request asks for what only its author is.
    fn allows(&self, request: &Value) -> Result<(), String> {
        let user = request.str_at(&["spec", "username"]);
        let name = user.strip_prefix(USER).filter(|name| !name.is_empty()).ok_or("its author is not a node")?;
        let is = |node: &&&Value| meta::name(node) == name;
        let node = self.nodes.iter().find(is).ok_or("there is no such node")?;
        let params = decoded(request).ok_or("it cannot be read")?;
        if common_name(&params) != Some(user) {
            return Err("it is for somebody else than its author".into());
        }
        let usages = request.list_at(&["spec", "usages"]);
        let known = ["digital signature", "key encipherment", "server auth"];
        if usages.iter().any(|usage| !usage.as_str().is_some_and(|usage| known.contains(&usage))) {
            return Err("it is for more than serving".into());
        }
        if params.params.subject_alt_names.is_empty() {
            return Err("it names nothing".into());
        }
        params.params.subject_alt_names.iter().try_for_each(|alternative| match alternative {
            SanType::DnsName(dns) if dns.as_str() == name && !is_special(name) => Ok(()),
            SanType::DnsName(dns) => Err(format!("{:?} is not the node's name", dns.as_str())),
            SanType::IpAddress(address) => self.allows_address(node, *address),
            _ => Err("it names something that is neither a name nor an address".into()),
        })
    }

    fn allows_address(&self, node: &Value, address: IpAddr) -> Result<(), String> {
        // Clients take an IPv4 address in the form of an IPv6 one for the same.
        if address.to_canonical() != address {
            return Err(format!("{address} is an address of IPv4 in another form"));
        }
        if address.is_loopback() || address.is_unspecified() || address.is_multicast() {
            return Err(format!("{address} is nobody's own"));
        }
        if !addresses(node).any(|own| own == address) {
            return Err(format!("{address} is not an address of the node"));
        }
        let other_nodes = self.nodes.iter().filter(|other| meta::name(other) != meta::name(node));
        if other_nodes.flat_map(|other| addresses(other)).any(|other| other == address) {
            return Err(format!("{address} is another node's too"));
        }
        if self.services.iter().flat_map(|service| service_addresses(service)).any(|taken| taken == address) {
            return Err(format!("{address} is a Service's"));
        }
        if self.ranges.iter().flat_map(|range| range.list_at(&["spec", "cidrs"])).any(|cidr| holds(cidr.as_str(), address)) {
            return Err(format!("{address} is in a range of Services"));
        }
        if server_addresses(self.servers).any(|server| server == address) {
            return Err(format!("{address} is an API server's"));
        }
        Ok(())
    }
}

/// Names by which clients know the API server, which the cluster's authority vouches for too.
fn is_special(name: &str) -> bool {
    let service = name.ends_with(".svc") || name.contains(".svc.");
    name == "localhost" || name == "kubernetes" || name.starts_with("kubernetes.") || service
}

/// Whether an address is in a range. One that cannot be read holds every address.
fn holds(range: Option<&str>, address: IpAddr) -> bool {
    let parts = range.and_then(|range| range.split_once('/'));
    let parts = parts.and_then(|(first, length)| Some((first.parse::<IpAddr>().ok()?, length.parse::<u32>().ok()?)));
    match (parts, address) {
        (Some((IpAddr::V4(first), length)), IpAddr::V4(address)) => {
            let apart = u32::from(first) ^ u32::from(address);
            apart.checked_shr(32u32.saturating_sub(length)).unwrap_or(0) == 0
        }
        (Some((IpAddr::V6(first), length)), IpAddr::V6(address)) => {
            let apart = u128::from(first) ^ u128::from(address);
            apart.checked_shr(128u32.saturating_sub(length)).unwrap_or(0) == 0
        }
        (Some(_), _) => false,
        (None, _) => true,
    }
}

fn decoded(request: &Value) -> Option<CertificateSigningRequestParams> {
    let raw = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, request.str_at(&["spec", "request"])).ok()?;
    CertificateSigningRequestParams::from_pem(std::str::from_utf8(&raw).ok()?).ok()
}

fn common_name(params: &CertificateSigningRequestParams) -> Option<&str> {
    match params.params.distinguished_name.get(&DnType::CommonName)? {
        DnValue::Utf8String(text) => Some(text),
        DnValue::PrintableString(text) => Some(text.as_str()),
        _ => None,
    }
}

fn parsed<'a>(texts: impl Iterator<Item = &'a Value> + 'a, path: &'static [&'static str]) -> impl Iterator<Item = IpAddr> + 'a {
    texts.filter_map(move |value| if path.is_empty() { value.as_str() } else { Some(value.str_at(path)) }.and_then(address))
}

/// In the form in which clients compare them.
fn address(text: &str) -> Option<IpAddr> {
    text.parse::<IpAddr>().ok().map(|address| address.to_canonical())
}

fn addresses(node: &Value) -> impl Iterator<Item = IpAddr> + '_ {
    parsed(node.list_at(&["status", "addresses"]).iter(), &["address"])
}

fn service_addresses(service: &Value) -> impl Iterator<Item = IpAddr> + '_ {
    let lists = [&["spec", "clusterIPs"], &["spec", "externalIPs"]].map(|path| service.list_at(path).iter());
    let balanced = service.list_at(&["status", "loadBalancer", "ingress"]).iter();
    parsed(lists.into_iter().flatten(), &[]).chain(parsed(balanced, &["ip"]))
}

fn server_addresses(endpoints: &Value) -> impl Iterator<Item = IpAddr> + '_ {
    endpoints.list_at(&["subsets"]).iter().flat_map(|subset| parsed(subset.list_at(&["addresses"]).iter(), &["ip"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(author: &str, common: &str, names: &[&str], usage: &str) -> Value {
        let mut params = rcgen::CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
        params.distinguished_name.push(DnType::CommonName, common);
        let pem = params.serialize_request(&rcgen::KeyPair::generate().unwrap()).unwrap().pem().unwrap();
        let encoded = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, pem);
        object!({ "spec": { "signerName": SERVING, "username": author, "request": encoded, "usages": ["digital signature", usage] } })
    }

    fn node(name: &str, addresses: &[&str]) -> Value {
        let addresses: Vec<Value> = addresses.iter().map(|a| object!({ "type": "InternalIP", "address": (*a) })).collect();
        object!({ "metadata": { "name": name }, "status": { "addresses": addresses } })
    }

    #[test]
    fn a_node_gets_its_own_name_and_addresses_and_nothing_else() {
        let own = ["192.0.2.1", "192.0.2.2", "10.96.0.1", "10.96.0.9", "10.97.3.4", "::ffff:10.96.0.1", "192.0.2.100", "127.0.0.1", "a"];
        let nodes = [node("a", &own), node("b", &["192.0.2.2"]), node("kubernetes", &["192.0.2.3"])];
        let services = [object!({ "spec": { "clusterIPs": ["10.96.0.1"] } }), object!({ "spec": { "externalIPs": ["10.96.0.9"] } })];
        let range = object!({ "spec": { "cidrs": ["10.97.0.0/16", "fd00::/112"] } });
        let servers = object!({ "subsets": [{ "addresses": [{ "ip": "192.0.2.100" }] }] });
        let taken = Taken { nodes: nodes.iter().collect(), services: services.iter().collect(), ranges: vec![&range], servers: &servers };
        let of = |names: &[&str]| request("system:node:a", "system:node:a", names, "server auth");
        let check = |request: Value, expect: Result<(), &str>| assert_eq!(taken.allows(&request), expect.map_err(str::to_owned));
        check(of(&["a", "192.0.2.1"]), Ok(()));
        check(of(&["a", "192.0.2.2"]), Err("192.0.2.2 is another node's too"));
        check(of(&["10.96.0.1"]), Err("10.96.0.1 is a Service's"));
        check(of(&["10.96.0.9"]), Err("10.96.0.9 is a Service's"));
        check(of(&["10.97.3.4"]), Err("10.97.3.4 is in a range of Services"));
        check(of(&["::ffff:10.96.0.1"]), Err("::ffff:10.96.0.1 is an address of IPv4 in another form"));
        check(of(&["192.0.2.100"]), Err("192.0.2.100 is an API server's"));
        check(of(&["127.0.0.1"]), Err("127.0.0.1 is nobody's own"));
        check(of(&["192.0.2.9"]), Err("192.0.2.9 is not an address of the node"));
        check(of(&["a", "b"]), Err("\"b\" is not the node's name"));
        check(of(&[]), Err("it names nothing"));
        check(request("system:node:b", "system:node:a", &["a"], "server auth"), Err("it is for somebody else than its author"));
        check(request("system:node:c", "system:node:c", &["c"], "server auth"), Err("there is no such node"));
        check(request("jane", "system:node:a", &["a"], "server auth"), Err("its author is not a node"));
        check(request("system:node:a", "system:node:a", &["a"], "client auth"), Err("it is for more than serving"));
        let name = "kubernetes";
        let special = request("system:node:kubernetes", "system:node:kubernetes", &[name], "server auth");
        check(special, Err("\"kubernetes\" is not the node's name"));
    }

    #[test]
    fn a_range_holds_what_begins_as_it_does() {
        let held = |range: &str, address: &str| holds(Some(range), address.parse().unwrap());
        assert!(held("10.96.0.0/12", "10.111.255.255") && !held("10.96.0.0/12", "10.112.0.0"));
        assert!(held("fd00::/112", "fd00::ffff") && !held("fd00::/112", "fd00::1:0"));
        assert!(held("10.0.0.1/32", "10.0.0.1") && !held("10.0.0.1/32", "10.0.0.2") && held("0.0.0.0/0", "10.0.0.2"));
        assert!(!held("fd00::/112", "10.0.0.1") && held("nonsense", "10.0.0.1"));
    }

    #[test]
    fn only_what_nobody_has_answered_is_looked_at() {
        let open = request("system:node:a", "system:node:a", &["a"], "server auth");
        assert!(is_open(&open));
        assert!(!is_open(&approved(open.clone(), "2030-01-01T00:00:00Z")));
        let mut other = open;
        other.set(&["spec", "signerName"], "kubernetes.io/kube-apiserver-client");
        assert!(!is_open(&other));
    }
}
