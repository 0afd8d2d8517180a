//! IP prefixes: parsing, masks and membership. Pure; the standard library has addresses but no prefixes.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
#[error("invalid CIDR {0:?}")]
pub struct CidrError(String);

/// An address and a prefix length. Host bits are zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cidr {
    address: IpAddr,
    length: u8,
}

impl Cidr {
    /// Clears the host bits; `None` if the length is too large for the family.
    pub fn new(address: IpAddr, length: u8) -> Option<Self> {
        let address = match address {
            IpAddr::V4(v4) if length <= 32 => IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask32(length))),
            IpAddr::V6(v6) if length <= 128 => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask128(length))),
            _ => return None,
        };
        Some(Self { address, length })
    }

    /// The prefix that holds one address only.
    pub fn host(address: IpAddr) -> Self {
        Self { address, length: if address.is_ipv4() { 32 } else { 128 } }
    }

    pub fn address(&self) -> IpAddr {
        self.address
    }

    pub fn prefix_length(&self) -> u8 {
        self.length
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        Self::new(address, self.length).is_some_and(|other| other == *self)
    }

    /// The netmask as bytes in network order.
    pub fn mask(&self) -> Vec<u8> {
        match self.address {
            IpAddr::V4(_) => mask32(self.length).to_be_bytes().to_vec(),
            IpAddr::V6(_) => mask128(self.length).to_be_bytes().to_vec(),
        }
    }
}

fn mask32(length: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0)
}

fn mask128(length: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0)
}

/// An address as bytes in network order.
pub fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let error = || CidrError(text.chars().take(64).collect());
        let (address, length) = text.split_once('/').ok_or_else(error)?;
        let (address, length) = (address.parse().map_err(|_| error())?, length.parse().map_err(|_| error())?);
        Self::new(address, length).ok_or_else(error)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl fmt::Debug for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_parsed_normalised_and_tested_for_membership() {
        for (text, printed, inside, outside) in [
            ("10.244.1.7/24", "10.244.1.0/24", "10.244.1.255", "10.244.2.0"),
            ("0.0.0.0/0", "0.0.0.0/0", "1.2.3.4", "::1"),
            ("10.0.0.1/32", "10.0.0.1/32", "10.0.0.1", "10.0.0.2"),
            ("fd00:1::5/64", "fd00:1::/64", "fd00:1::ffff", "fd00:2::"),
            ("::/0", "::/0", "::1", "1.2.3.4"),
        ] {
            let cidr: Cidr = text.parse().unwrap();
            assert_eq!(cidr.to_string(), printed);
            assert!(cidr.contains(inside.parse().unwrap()) && !cidr.contains(outside.parse().unwrap()), "{text}");
        }
        for text in ["", "10.0.0.0", "10.0.0.0/33", "x/8", "10.0.0.0/-1", "::/129"] {
            assert!(text.parse::<Cidr>().is_err(), "{text}");
        }
    }
}
