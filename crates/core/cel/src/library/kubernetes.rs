//! Kubernetes' own types: quantities, URLs, addresses and networks.

use std::net::IpAddr;
use std::sync::Arc;

use fram_machinery::quantity::Quantity;

use crate::eval::{Budget, EvalError, Result};
use crate::value::Value;

pub(super) fn call(name: &str, args: &[Value], _budget: &mut Budget) -> Result<Option<Value>> {
    Ok(Some(match (name, args) {
        // RFC 6901: what stands for itself in a part of a JSON pointer.
        ("jsonpatch.escapeKey", [Value::Text(t)]) => Value::from(t.replace('~', "~0").replace('/', "~1")),
        ("quantity", [Value::Text(t)]) => Value::Quantity(Arc::new(read_quantity(t)?)),
        ("isQuantity", [Value::Text(t)]) => Value::Bool(read_quantity(t).is_ok()),
        ("url", [Value::Text(t)]) if Url::split(t).is_some() => Value::Url(t.clone()),
        ("url", [Value::Text(t)]) => return Err(EvalError::Other(format!("URL parse error during conversion from string: {t:?}"))),
        ("isURL", [Value::Text(t)]) => Value::Bool(Url::split(t).is_some()),
        ("ip", [Value::Text(t)]) => Value::Ip(read_ip(t)?),
        ("ip", [Value::Cidr(ip, _)]) => Value::Ip(*ip),
        ("isIP", [Value::Text(t)]) => Value::Bool(read_ip(t).is_ok()),
        ("ip.isCanonical", [Value::Text(t)]) => Value::Bool(read_ip(t)?.to_string() == **t),
        ("cidr", [Value::Text(t)]) => read_cidr(t).map(|(ip, bits)| Value::Cidr(ip, bits))?,
        ("isCIDR", [Value::Text(t)]) => Value::Bool(read_cidr(t).is_ok()),
        (_, [Value::Quantity(q), rest @ ..]) => return quantity(name, q, rest),
        ("getQuery", [Value::Url(url)]) => query(url),
        (_, [Value::Url(url)]) => return Ok(Url::split(url).and_then(|u| u.part(name)).map(Value::from)),
        (_, [Value::Ip(ip)]) => return Ok(address(name, *ip)),
        (_, [Value::Cidr(ip, bits), rest @ ..]) => return network(name, *ip, *bits, rest),
        _ => return Ok(None),
    }))
}

fn read_quantity(text: &str) -> Result<Quantity> {
    text.parse().map_err(|e| EvalError::Other(format!("{e}")))
}

fn quantity(name: &str, q: &Quantity, rest: &[Value]) -> Result<Option<Value>> {
    let whole = q.milli_value() % 1000 == 0;
    Ok(Some(match (name, rest) {
        ("isInteger", []) => Value::Bool(whole),
        ("asInteger", []) if whole => Value::Int(q.value()),
        ("asInteger", []) => return Err(EvalError::Other("cannot convert value to integer".into())),
        ("asApproximateFloat", []) => Value::Double(q.milli_value() as f64 / 1000.0),
        ("sign", []) => Value::Int(q.sign().into()),
        ("isGreaterThan", [Value::Quantity(o)]) => Value::Bool(q.cmp(o).is_gt()),
        ("isLessThan", [Value::Quantity(o)]) => Value::Bool(q.cmp(o).is_lt()),
        ("compareTo", [Value::Quantity(o)]) => Value::Int(q.cmp(o) as i64),
        ("add", [Value::Quantity(o)]) => Value::Quantity(Arc::new(*q + **o)),
        ("sub", [Value::Quantity(o)]) => Value::Quantity(Arc::new(*q - **o)),
        ("add", [Value::Int(i)]) => Value::Quantity(Arc::new(*q + Quantity::from_units(*i, q.format()))),
        ("sub", [Value::Int(i)]) => Value::Quantity(Arc::new(*q - Quantity::from_units(*i, q.format()))),
        _ => return Ok(None),
    }))
}

/// The parts of an absolute URL or of an absolute path.
struct Url<'a> {
    scheme: &'a str,
    host: &'a str,
    path: &'a str,
}

impl<'a> Url<'a> {
    fn split(text: &'a str) -> Option<Self> {
        let text = text.split(['?', '#']).next().unwrap_or_default();
        if text.starts_with('/') {
            return Some(Self { scheme: "", host: "", path: text });
        }
        let (scheme, rest) = text.split_once("://")?;
        let valid = scheme.starts_with(|c: char| c.is_ascii_alphabetic());
        let valid = valid && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
        let at = rest.find('/').unwrap_or(rest.len());
        let host = rest[..at].rsplit('@').next().unwrap_or_default();
        (valid && !host.contains(' ')).then_some(Self { scheme, host, path: &rest[at..] })
    }

    /// Host and port, the brackets of an address taken off.
    fn host_and_port(&self) -> (&'a str, &'a str) {
        if let Some((inner, rest)) = self.host.strip_prefix('[').and_then(|h| h.split_once(']')) {
            return (inner, rest.strip_prefix(':').unwrap_or_default());
        }
        self.host.rsplit_once(':').unwrap_or((self.host, ""))
    }

    fn part(&self, name: &str) -> Option<&'a str> {
        Some(match name {
            "getScheme" => self.scheme,
            "getHost" => self.host,
            "getHostname" => self.host_and_port().0,
            "getPort" => self.host_and_port().1,
            "getEscapedPath" => self.path,
            _ => return None,
        })
    }
}

/// The values of each key behind the question mark, in the order of the keys.
fn query(url: &str) -> Value {
    let written = url.split('#').next().unwrap_or_default().split_once('?').map_or("", |(_, query)| query);
    let plain = |text: &str| percent_decoded(&text.replace('+', " "));
    let mut keys: std::collections::BTreeMap<String, Vec<Value>> = std::collections::BTreeMap::new();
    // A pair with a semicolon or a broken escape is left out.
    for pair in written.split('&').filter(|p| !p.is_empty() && !p.contains(';')) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        if let (Some(key), Some(value)) = (plain(key), plain(value)) {
            keys.entry(key).or_default().push(value.into());
        }
    }
    Value::Map(Arc::new(keys.into_iter().map(|(key, values)| (key.into(), values.into())).collect()))
}

/// None where an escape is none.
fn percent_decoded(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let digits = [bytes.next()?, bytes.next()?].map(|d| char::from(d).to_digit(16));
                out.push((digits[0]? * 16 + digits[1]?) as u8);
            }
            other => out.push(other),
        }
    }
    String::from_utf8(out).ok()
}

fn read_ip(text: &str) -> Result<IpAddr> {
    let bad = || EvalError::Other(format!("IP Address {text:?} parse error during conversion from string"));
    let ip: IpAddr = text.parse().map_err(|_| bad())?;
    // An address of version 4 within one of version 6 has two forms, and is refused.
    match ip {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => Err(bad()),
        ip => Ok(ip),
    }
}

fn read_cidr(text: &str) -> Result<(IpAddr, u8)> {
    let bad = || EvalError::Other(format!("CIDR {text:?} parse error during conversion from string"));
    let (ip, bits) = text.split_once('/').ok_or_else(bad)?;
    let ip = read_ip(ip).map_err(|_| bad())?;
    let number: u8 = bits.parse().map_err(|_| bad())?;
    let most = if ip.is_ipv4() { 32 } else { 128 };
    if number > most || number.to_string() != bits { Err(bad()) } else { Ok((ip, number)) }
}

fn address(name: &str, ip: IpAddr) -> Option<Value> {
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.segments()[0] & 0xffc0 == 0xfe80,
    };
    let local_multicast = match ip {
        IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
        IpAddr::V6(v6) => v6.segments()[0] & 0xff0f == 0xff02,
    };
    let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    Some(match name {
        "family" => Value::Int(if ip.is_ipv4() { 4 } else { 6 }),
        "isUnspecified" => Value::Bool(ip.is_unspecified()),
        "isLoopback" => Value::Bool(ip.is_loopback()),
        "isLinkLocalUnicast" => Value::Bool(link_local),
        "isLinkLocalMulticast" => Value::Bool(local_multicast),
        "isGlobalUnicast" => Value::Bool(!ip.is_unspecified() && !ip.is_loopback() && !ip.is_multicast() && !link_local && !broadcast),
        _ => return None,
    })
}

/// The first bits of an address; all others are zero.
fn mask(ip: IpAddr, bits: u8) -> IpAddr {
    match ip {
        IpAddr::V4(v4) => IpAddr::V4((u32::from(v4) & u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0)).into()),
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) & u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0)).into()),
    }
}

fn network(name: &str, ip: IpAddr, bits: u8, rest: &[Value]) -> Result<Option<Value>> {
    let within = |other: IpAddr| other.is_ipv4() == ip.is_ipv4() && mask(other, bits) == mask(ip, bits);
    Ok(Some(match (name, rest) {
        ("prefixLength", []) => Value::Int(bits.into()),
        ("masked", []) => Value::Cidr(mask(ip, bits), bits),
        ("containsIP", [Value::Ip(other)]) => Value::Bool(within(*other)),
        ("containsIP", [Value::Text(t)]) => Value::Bool(within(read_ip(t)?)),
        ("containsCIDR", [Value::Cidr(other, n)]) => Value::Bool(*n >= bits && within(*other)),
        ("containsCIDR", [Value::Text(t)]) => {
            let (other, n) = read_cidr(t)?;
            Value::Bool(n >= bits && within(other))
        }
        _ => return Ok(None),
    }))
}
