//! Ranges of addresses: those of Services and of pods. Pure.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;
use std::str::FromStr;

/// Addresses with a common beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AddressRange {
    first: IpAddr,
    prefix: u32,
}

/// Why a text is no range, or ranges do not go together.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RangeError {
    #[error("{0:?} is no range of addresses, such as 10.96.0.0/16 or fd00:10:96::/112")]
    Form(String),
    #[error("a range has to begin at a multiple of its size: {0}")]
    Unaligned(String),
    #[error("there have to be one or two ranges, which are of different families: {0}")]
    Families(String),
}

impl AddressRange {
    /// A range of IPv4; `first` is a multiple of its size.
    pub const fn v4(first: Ipv4Addr, prefix: u32) -> Self {
        Self { first: IpAddr::V4(first), prefix }
    }

    /// One range, or two of different families, separated by a comma.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, RangeError> {
        let ranges: Vec<Self> = text.split(',').map(|range| range.trim().parse()).collect::<Result<_, _>>()?;
        match ranges.as_slice() {
            [_] => Ok(ranges),
            [one, other] if one.is_ipv4() != other.is_ipv4() => Ok(ranges),
            _ => Err(RangeError::Families(text.into())),
        }
    }

    /// Of which family it is.
    pub fn is_ipv4(self) -> bool {
        self.first.is_ipv4()
    }

    /// Its first address.
    pub fn first(self) -> IpAddr {
        self.first
    }

    /// How many bits its addresses have in common: 1 to 32, or to 128.
    pub fn prefix(self) -> u32 {
        self.prefix
    }

    fn width(self) -> u32 {
        if self.is_ipv4() { 32 } else { 128 }
    }

    /// How many of an address' bits tell it from others of the range.
    pub fn host_bits(self) -> u32 {
        self.width() - self.prefix
    }

    /// The address at this place of the range.
    pub fn at(self, offset: u128) -> IpAddr {
        match self.first {
            IpAddr::V4(first) => Ipv4Addr::from(u32::from(first).wrapping_add(offset as u32)).into(),
            IpAddr::V6(first) => Ipv6Addr::from(u128::from(first).wrapping_add(offset)).into(),
        }
    }

    /// The place of an address in the range; None where it is not in it.
    pub fn offset(self, address: IpAddr) -> Option<u128> {
        let offset = match (self.first, address) {
            (IpAddr::V4(first), IpAddr::V4(address)) => u32::from(address).checked_sub(first.into()).map(u128::from),
            (IpAddr::V6(first), IpAddr::V6(address)) => u128::from(address).checked_sub(first.into()),
            _ => None,
        };
        offset.filter(|offset| 1u128.checked_shl(self.host_bits()).is_none_or(|size| *offset < size))
    }

    /// Whether a Service may have an address of the range: the first is nobody's, nor is the last of IPv4.
    pub fn lends(self, address: IpAddr) -> bool {
        let Some(offset) = self.offset(address) else { return false };
        offset > 0 && (!self.is_ipv4() || offset + 1 < 1 << self.host_bits())
    }

    /// Whether all of another range is in this one.
    pub fn covers(self, other: Self) -> bool {
        self.prefix <= other.prefix && self.offset(other.first).is_some()
    }

    /// Whether they have addresses in common.
    pub fn overlaps(self, other: Self) -> bool {
        self.covers(other) || other.covers(self)
    }

    /// The part with this number of those parts that have this prefix.
    #[must_use]
    pub fn part(self, prefix: u32, number: u128) -> Self {
        Self { first: self.at(number << (self.width() - prefix)), prefix }
    }

    /// The numbers of those parts with this prefix that have addresses in common with another range: more than one where that is larger
    /// than they are. Empty where it has none in common with the whole.
    pub fn numbers(self, prefix: u32, other: Self) -> Range<u128> {
        if other.covers(self) {
            return 0..1 << (prefix - self.prefix);
        }
        let Some(offset) = self.offset(other.first) else { return 0..0 };
        let first = offset >> (self.width() - prefix);
        first..first + (1 << prefix.saturating_sub(other.prefix))
    }
}

impl FromStr for AddressRange {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Self, RangeError> {
        let form = || RangeError::Form(text.into());
        let (first, prefix) = text.split_once('/').ok_or_else(form)?;
        let (first, prefix): (IpAddr, u32) = (first.parse().map_err(|_| form())?, prefix.parse().map_err(|_| form())?);
        let (bits, width) = match first {
            IpAddr::V4(first) => (u128::from(u32::from(first)), 32),
            IpAddr::V6(first) => (u128::from(first), 128),
        };
        // Of all addresses nobody has a part.
        if prefix > width || prefix == 0 {
            return Err(form());
        }
        if bits & ((1 << (width - prefix)) - 1) != 0 {
            return Err(RangeError::Unaligned(text.into()));
        }
        Ok(Self { first, prefix })
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> AddressRange {
        text.parse().unwrap()
    }

    #[test]
    fn ranges_are_read_as_they_are_written_and_bad_ones_refused() {
        for text in ["10.96.0.0/16", "10.0.0.0/28", "10.0.0.1/32", "fd00:10:96::/112", "fd00::/8", "2001:db8::/64"] {
            assert_eq!(range(text).to_string(), text);
        }
        for text in ["10.96.0.0", "10.96.0.0/33", "10.96.0.1/16", "::/0", "x/16", "fd00::1/112", "fd00::/129"] {
            assert!(text.parse::<AddressRange>().is_err(), "{text}");
        }
        assert_eq!(AddressRange::parse_list("10.96.0.0/16,fd00::/112").unwrap().len(), 2);
        for text in ["10.96.0.0/16,10.97.0.0/16", "10.96.0.0/16,fd00::/112,10.97.0.0/16", ""] {
            assert!(AddressRange::parse_list(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_first_address_of_a_range_and_the_last_of_ipv4_are_nobodys() {
        let table = [
            ("10.0.0.0/24", "10.0.0.0", false),
            ("10.0.0.0/24", "10.0.0.1", true),
            ("10.0.0.0/24", "10.0.0.254", true),
            ("10.0.0.0/24", "10.0.0.255", false),
            ("10.0.0.0/24", "10.0.1.1", false),
            ("10.0.0.0/24", "fd00::1", false),
            ("fd00::/120", "fd00::", false),
            ("fd00::/120", "fd00::ff", true),
            ("fd00::/120", "fd00::100", false),
            ("fd00::/64", "fd00::ffff:ffff:ffff:ffff", true),
            ("fd00::/32", "fd00:0:ffff::1", true),
            ("fd00::/32", "fd00:1::1", false),
        ];
        for (text, address, expect) in table {
            assert_eq!(range(text).lends(address.parse().unwrap()), expect, "{address} of {text}");
        }
        assert_eq!(
            (range("10.0.0.0/24").at(10).to_string(), range("fd00::/112").at(258).to_string()),
            ("10.0.0.10".into(), "fd00::102".into())
        );
    }

    #[test]
    fn ranges_have_parts_and_cover_others() {
        assert_eq!(range("10.244.0.0/16").part(24, 3).to_string(), "10.244.3.0/24");
        assert_eq!(range("fd00::/48").part(64, 6425).to_string(), "fd00:0:0:1919::/64");
        let parts = [
            ("fd00::/48", 64, "fd00:0:0:1919::/64", 6425..6426),
            ("10.244.0.0/16", 24, "10.244.3.128/25", 3..4),
            ("10.244.0.0/16", 24, "10.244.4.0/22", 4..8),
            ("10.244.0.0/16", 24, "10.244.0.0/16", 0..256),
            ("10.244.0.0/16", 24, "10.0.0.0/8", 0..256),
            ("10.244.0.0/16", 24, "10.245.3.0/24", 0..0),
            ("10.244.0.0/16", 24, "10.243.0.0/16", 0..0),
            ("10.244.0.0/16", 24, "fd00::/64", 0..0),
        ];
        for (whole, prefix, other, expect) in parts {
            assert_eq!(range(whole).numbers(prefix, range(other)), expect, "{other} of {whole}");
        }
        let table = [
            ("10.0.0.0/8", "10.1.0.0/16", true, true),
            ("10.1.0.0/16", "10.0.0.0/8", false, true),
            ("10.1.0.0/16", "10.2.0.0/16", false, false),
            ("10.0.0.0/8", "fd00::/8", false, false),
            ("fd00::/112", "fd00::/112", true, true),
        ];
        for (one, other, covers, overlaps) in table {
            assert_eq!((range(one).covers(range(other)), range(one).overlaps(range(other))), (covers, overlaps), "{one} {other}");
        }
    }
}
