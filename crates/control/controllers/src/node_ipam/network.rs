//! What nodes are given parts of: one range or two, and how large a part is. Pure.

use std::net::Ipv4Addr;

use fram_api::AddressRange;

/// A range has at most two to this power of parts; see clusterSubnetMaxDiff.
const MOST_BITS: u32 = 16;

/// The ranges of pods, each with the prefix of a node's part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodNetwork {
    pub(super) ranges: Vec<(AddressRange, u32)>,
}

/// The prefixes that were asked for: where one range is all, of the parts of either family; of those of IPv4 and of IPv6.
#[derive(Debug, Clone, Copy, Default)]
pub struct NodeMasks {
    pub any: Option<u32>,
    pub v4: Option<u32>,
    pub v6: Option<u32>,
}

/// Why ranges and prefixes do not go together.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PodNetworkError {
    #[error("usage of --node-cidr-mask-size is not allowed with dual-stack clusters")]
    AnyOfTwo,
    #[error(
        "usage of --node-cidr-mask-size-ipv4 and --node-cidr-mask-size-ipv6 is not allowed if --node-cidr-mask-size is set. For dual-stack clusters please unset it and use IPFamily specific flags"
    )]
    Both,
    #[error("usage of --node-cidr-mask-size-ipv4 is not allowed for a single-stack IPv6 cluster")]
    V4InV6,
    #[error("usage of --node-cidr-mask-size-ipv6 is not allowed for a single-stack IPv4 cluster")]
    V6InV4,
    #[error("a node's part of {0} cannot have the prefix {1}: there have to be 1 to 65536 parts")]
    Size(AddressRange, u32),
}

impl Default for PodNetwork {
    fn default() -> Self {
        Self { ranges: vec![(AddressRange::v4(Ipv4Addr::new(10, 244, 0, 0), 16), 24)] }
    }
}

impl PodNetwork {
    /// These ranges, one or two of different families, in parts as large as is asked for; see setNodeCIDRMaskSizes.
    pub fn new(ranges: &[AddressRange], masks: NodeMasks) -> Result<Self, PodNetworkError> {
        let (two, v6) = (ranges.len() > 1, ranges.first().is_some_and(|range| !range.is_ipv4()));
        match (masks.any, masks.v4, masks.v6) {
            (Some(_), ..) if two => return Err(PodNetworkError::AnyOfTwo),
            (Some(_), Some(_), _) | (Some(_), _, Some(_)) => return Err(PodNetworkError::Both),
            (_, Some(_), _) if !two && v6 => return Err(PodNetworkError::V4InV6),
            (_, _, Some(_)) if !two && !v6 => return Err(PodNetworkError::V6InV4),
            _ => {}
        }
        let part = |range: &AddressRange| {
            let (own, unasked, width) = if range.is_ipv4() { (masks.v4, 24, 32) } else { (masks.v6, 64, 128) };
            let prefix = masks.any.or(own).unwrap_or(unasked);
            let fits = prefix <= width && prefix >= range.prefix() && prefix - range.prefix() <= MOST_BITS;
            if fits { Ok((*range, prefix)) } else { Err(PodNetworkError::Size(*range, prefix)) }
        };
        Ok(Self { ranges: ranges.iter().map(part).collect::<Result<_, _>>()? })
    }

    /// The ranges.
    pub fn ranges(&self) -> impl Iterator<Item = AddressRange> {
        self.ranges.iter().map(|(range, _)| *range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_of_parts_is_said_by_family() {
        let with = |ranges: &str, any: Option<u32>, v4: Option<u32>, v6: Option<u32>| {
            let network = PodNetwork::new(&AddressRange::parse_list(ranges).unwrap(), NodeMasks { any, v4, v6 })?;
            Ok(network.ranges.iter().map(|(_, prefix)| *prefix).collect::<Vec<_>>())
        };
        let (four, six, both) = ("10.244.0.0/16", "fd00:10:244::/56", "10.244.0.0/16,fd00:10:244::/56");
        assert_eq!(with(four, None, None, None), Ok(vec![24]));
        assert_eq!(with(six, None, None, None), Ok(vec![64]));
        assert_eq!(with(both, None, None, None), Ok(vec![24, 64]));
        assert_eq!(with("fd00:10:244::/56,10.244.0.0/16", None, Some(25), Some(72)), Ok(vec![72, 25]));
        assert_eq!(with(four, Some(20), None, None), Ok(vec![20]));
        assert_eq!(with(six, Some(60), None, None), Ok(vec![60]));
        assert_eq!(with(four, None, Some(20), None), Ok(vec![20]));
        assert_eq!(with(both, Some(20), None, None), Err(PodNetworkError::AnyOfTwo));
        assert_eq!(with(four, Some(20), Some(20), None), Err(PodNetworkError::Both));
        assert_eq!(with(six, None, Some(20), None), Err(PodNetworkError::V4InV6));
        assert_eq!(with(four, None, None, Some(64)), Err(PodNetworkError::V6InV4));
        for (range, prefix) in [(four, 15), (four, 33), ("10.0.0.0/8", 25), ("fd00::/32", 64)] {
            assert!(matches!(with(range, Some(prefix), None, None), Err(PodNetworkError::Size(..))), "{range} {prefix}");
        }
    }
}
