//! The addresses that load-balancer Services may be given, as the administrator wrote them. Pure.

use std::net::Ipv4Addr;
use std::str::FromStr;

/// Ranges of addresses; each end is included.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AddressPool {
    ranges: Vec<(u32, u32)>,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{text:?} is no range of IPv4 addresses such as 192.0.2.10-192.0.2.20, 192.0.2.64/28 or 192.0.2.5")]
pub struct PoolError {
    text: String,
}

impl AddressPool {
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    pub(super) fn contains(&self, address: Ipv4Addr) -> bool {
        self.ranges.iter().any(|(first, last)| (*first..=*last).contains(&address.to_bits()))
    }

    pub(super) fn addresses(&self) -> impl Iterator<Item = Ipv4Addr> {
        self.ranges.iter().flat_map(|(first, last)| (*first..=*last).map(Ipv4Addr::from_bits))
    }
}

/// One range: two addresses, a network or one address.
fn range(text: &str) -> Option<(u32, u32)> {
    let address = |text: &str| text.trim().parse::<Ipv4Addr>().ok().map(Ipv4Addr::to_bits);
    if let Some((first, last)) = text.split_once('-') {
        let (first, last) = (address(first)?, address(last)?);
        return (first <= last).then_some((first, last));
    }
    if let Some((base, length)) = text.split_once('/') {
        let length: u32 = length.parse().ok().filter(|n| *n <= 32)?;
        let hosts = u32::MAX.checked_shr(length).unwrap_or(0);
        let first = address(base)? & !hosts;
        // The network's own address and that of its broadcast are no hosts'; see RFC 3021 for the small ones.
        return Some(if length < 31 { (first + 1, first + hosts - 1) } else { (first, first + hosts) });
    }
    address(text).map(|one| (one, one))
}

impl FromStr for AddressPool {
    type Err = PoolError;

    fn from_str(text: &str) -> Result<Self, PoolError> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        let ranges = parts.map(|part| range(part).ok_or_else(|| PoolError { text: part.into() })).collect::<Result<_, _>>()?;
        Ok(Self { ranges })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_has_the_addresses_of_its_ranges_and_no_others() {
        let all = |text: &str| text.parse::<AddressPool>().unwrap().addresses().map(|a| a.to_string()).collect::<Vec<_>>();
        assert_eq!(all("192.0.2.9-192.0.2.10, 198.51.100.7"), ["192.0.2.9", "192.0.2.10", "198.51.100.7"]);
        assert_eq!(all("192.0.2.5/30"), ["192.0.2.5", "192.0.2.6"]);
        assert_eq!(all("192.0.2.4/31"), ["192.0.2.4", "192.0.2.5"]);
        assert_eq!(all("192.0.2.4/32"), ["192.0.2.4"]);
        assert!(all("").is_empty());
        for bad in ["192.0.2.10-192.0.2.9", "192.0.2.0/33", "::1", "x"] {
            assert!(bad.parse::<AddressPool>().is_err(), "{bad}");
        }
    }
}
