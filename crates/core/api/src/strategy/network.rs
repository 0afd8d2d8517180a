//! NetworkPolicies, Ingresses and their classes, ranges of Services, endpoints.

use std::net::IpAddr;

use fram_machinery::status::FieldError;
use fram_machinery::{Value, names};

use super::pod::port_or_name;
use super::{Strategy, joined, printed_selector};

/// An address and the length of its prefix.
pub(super) fn cidr(text: &str) -> Option<(IpAddr, u32)> {
    let (address, length) = text.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    let length: u32 = length.parse().ok()?;
    (length <= if address.is_ipv4() { 32 } else { 128 }).then_some((address, length))
}

fn bits(address: IpAddr) -> (u128, u32) {
    match address {
        IpAddr::V4(a) => (u128::from(u32::from(a)), 32),
        IpAddr::V6(a) => (u128::from(a), 128),
    }
}

fn network(address: IpAddr, length: u32) -> u128 {
    let (bits, width) = bits(address);
    if length == 0 { 0 } else { bits >> (width - length) }
}

/// A range in its usual form: the bits behind its prefix are zero, and no IPv4 is written as IPv6.
pub(super) fn strict_cidr(text: &str) -> Option<(IpAddr, u32)> {
    let (address, length) = cidr(text)?;
    let (all, width) = bits(address);
    let kept = if length == 0 { 0 } else { all >> (width - length) << (width - length) };
    let mapped = matches!(address, IpAddr::V6(a) if a.to_ipv4_mapped().is_some());
    (kept == all && !mapped).then_some((address, length))
}

const NOT_CIDR: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";

pub(super) struct NetworkPolicy;
impl Strategy for NetworkPolicy {
    fn cell(&self, object: &Value, _: &str) -> Value {
        printed_selector(object.at(&["spec", "podSelector"]))
    }

    fn default(&self, object: &mut Value) {
        if object.list_at(&["spec", "policyTypes"]).is_empty() {
            let egress = !object.list_at(&["spec", "egress"]).is_empty();
            let types: &[&str] = if egress { &["Ingress", "Egress"] } else { &["Ingress"] };
            object.set(&["spec", "policyTypes"], types.iter().map(|t| Value::from(*t)).collect::<Vec<_>>());
        }
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        for (rules, peers) in [("ingress", "from"), ("egress", "to")] {
            for (r, rule) in object.list_at(&["spec", rules]).iter().enumerate() {
                let at = format!("spec.{rules}[{r}]");
                for (i, port) in rule.list_at(&["ports"]).iter().enumerate() {
                    policy_port(port, &format!("{at}.ports[{i}]"), &mut errors);
                }
                for (i, peer) in rule.list_at(&[peers]).iter().enumerate() {
                    policy_peer(peer, &format!("{at}.{peers}[{i}]"), &mut errors);
                }
            }
        }
        let types = object.list_at(&["spec", "policyTypes"]);
        if types.len() > 2 {
            errors.push(FieldError::invalid("spec.policyTypes", types.to_vec(), "may not specify more than two policyTypes"));
        }
        errors
    }
}

fn policy_port(port: &Value, at: &str, errors: &mut Vec<FieldError>) {
    let number = port.get("port").filter(|p| !p.is_null());
    if number.is_some() {
        port_or_name(number, format_args!("{at}.port"), errors);
    }
    let Some(end) = port.int_at(&["endPort"]) else { return };
    let at = format!("{at}.endPort");
    match number {
        None => errors.push(FieldError::required(&at, "must be specified when `endPort` is specified")),
        Some(Value::String(_)) => errors.push(FieldError::invalid(at, end, "may not be specified when `port` is non-numeric")),
        Some(start) => {
            if end < start.as_int().unwrap_or(0) {
                errors.push(FieldError::invalid(&at, end, "must be greater than or equal to `port`"));
            }
            errors.extend(names::port_number(end).err().map(|why| FieldError::invalid(at, end, why)));
        }
    }
}

fn policy_peer(peer: &Value, at: &str, errors: &mut Vec<FieldError>) {
    let given = |f: &str| peer.get(f).is_some_and(|v| !v.is_null());
    let selects = given("podSelector") || given("namespaceSelector");
    if !selects && !given("ipBlock") {
        errors.push(FieldError::required(at, "must specify a peer"));
    } else if selects && given("ipBlock") {
        errors.push(FieldError::forbidden(at, "may not specify both ipBlock and another peer"));
    }
    let Some(block) = peer.get("ipBlock") else { return };
    let at = format!("{at}.ipBlock");
    let text = block.str_at(&["cidr"]);
    if text.is_empty() {
        return errors.push(FieldError::required(format!("{at}.cidr"), ""));
    }
    let Some((address, length)) = strict_cidr(text) else {
        return errors.push(FieldError::invalid(format!("{at}.cidr"), text, NOT_CIDR));
    };
    for (i, except) in block.list_at(&["except"]).iter().enumerate() {
        let text = except.as_str().unwrap_or_default();
        let at = format!("{at}.except[{i}]");
        match strict_cidr(text) {
            None => errors.push(FieldError::invalid(at, text, NOT_CIDR)),
            Some((inner, inner_length)) => {
                let within =
                    inner.is_ipv4() == address.is_ipv4() && inner_length > length && network(inner, length) == network(address, length);
                if !within {
                    errors.push(FieldError::invalid(at, text, "must be a strict subset of `cidr`"));
                }
            }
        }
    }
}

pub(super) struct ServiceCidr;
impl Strategy for ServiceCidr {
    fn cell(&self, object: &Value, _: &str) -> Value {
        joined(object.list_at(&["spec", "cidrs"]).iter().filter_map(Value::as_str).map(String::from), "")
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let ranges = object.list_at(&["spec", "cidrs"]);
        if ranges.is_empty() {
            errors.push(FieldError::required("spec.cidrs", "at least one CIDR required"));
        }
        if ranges.len() > 2 {
            errors.push(FieldError::invalid("spec.cidrs", ranges.to_vec(), "may only hold up to 2 values"));
        }
        let found: Vec<_> = ranges.iter().map(|r| cidr(r.as_str().unwrap_or_default())).collect();
        if let [Some((one, _)), Some((other, _))] = found.as_slice()
            && one.is_ipv4() == other.is_ipv4()
        {
            let why = "may specify no more than one IP for each IP family";
            errors.push(FieldError::invalid("spec.cidrs", ranges.to_vec(), why));
        }
        for (i, (range, found)) in ranges.iter().zip(&found).enumerate() {
            let at = format!("spec.cidrs[{i}]");
            let same = |(address, length): (IpAddr, u32)| range.as_str() == Some(format!("{address}/{length}").as_str());
            let canonical = found.is_some_and(same) && strict_cidr(range.as_str().unwrap_or_default()).is_some();
            if !canonical {
                errors.push(FieldError::invalid(at, range.clone(), NOT_CIDR));
            }
        }
        errors
    }

    /// Ranges do not change; one of the other family may come to one.
    fn validate_update(&self, object: &Value, old: &Value) -> Vec<FieldError> {
        let (now, before) = (object.list_at(&["spec", "cidrs"]), old.list_at(&["spec", "cidrs"]));
        let grows = before.len() == 1 && now.len() == 2;
        if now.len() != before.len() && !grows {
            return vec![FieldError::invalid("spec.cidrs", now.to_vec(), "field is immutable")];
        }
        let changed = now.iter().zip(before).enumerate().filter(|(_, (now, before))| now != before);
        let mut errors: Vec<FieldError> =
            changed.map(|(i, (now, _))| FieldError::invalid(format!("spec.cidrs[{i}]"), now.clone(), "field is immutable")).collect();
        if grows {
            errors.extend(self.validate_create(object));
        }
        errors
    }
}

/// Whether an address, of one host or of many, is of the link alone.
pub fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => a.is_link_local() || a.octets()[..3] == [224, 0, 0],
        IpAddr::V6(a) => a.segments()[0] & 0xffc0 == 0xfe80 || a.segments()[0] & 0xff0f == 0xff02,
    }
}

/// Upstream refuses addresses that mean the node itself or its link.
pub(super) fn special_address(text: &str, at: &str, errors: &mut Vec<FieldError>) {
    let Some(address) = text.parse::<IpAddr>().ok().filter(|a| !matches!(a, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some())) else {
        let why = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
        return errors.push(FieldError::invalid(at, text, why));
    };
    if address.is_unspecified() {
        errors.push(FieldError::invalid(at, text, "may not be unspecified (0.0.0.0 or ::)"));
    }
    if address.is_loopback() {
        errors.push(FieldError::invalid(at, text, "may not be in the loopback range (127.0.0.0/8, ::1/128)"));
    }
    if is_link_local(address) {
        errors.push(FieldError::invalid(at, text, "may not be in the link-local range (169.254.0.0/16, fe80::/10)"));
    }
}
