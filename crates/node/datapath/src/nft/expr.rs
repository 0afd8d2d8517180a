//! The expressions that Fram's rules are made of. Values pass between them in sixteen registers of four bytes.

use std::time::Duration;

use super::wire as w;
use super::{Verdict, milliseconds};
use crate::netlink::Builder;

/// One of sixteen four-byte registers, 0 to 15. Longer values occupy those that follow.
pub type Register = u32;

/// NFT_REG32_00
const FIRST_REGISTER: u32 = 8;
const VERDICT_REGISTER: u32 = 0;
const NFT_LOOKUP_F_INV: u32 = 1;
const NFT_FIB_RESULT_ADDRTYPE: u32 = 3;
const NFT_NAT_DNAT: u32 = 1;
const NFT_DYNSET_OP_UPDATE: u32 = 1;
const NFT_NG_RANDOM: u32 = 1;
/// NF_NAT_RANGE_PROTO_RANDOM_FULLY
const RANDOM_FULLY: u32 = 16;

/// Bits of `ct state`.
pub mod ct_state {
    pub const NEW: u32 = 8;
}

/// Bits of `ct status`.
pub mod ct_status {
    pub const DST_NAT: u32 = 0x20;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PayloadBase {
    Network = 1,
    Transport = 2,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetaKey {
    InputName = 6,
    OutputName = 7,
    L4Protocol = 16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CtKey {
    State = 0,
    Status = 2,
    DestinationPort = 12,
    DestinationIp = 20,
    DestinationIp6 = 22,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Original = 0,
    Reply = 1,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FibKey {
    SourceType = 1,
    DestinationType = 2,
}

impl FibKey {
    /// The address type of the machine's own addresses (RTN_LOCAL), as the expression gives it.
    pub const LOCAL: u32 = libc::RTN_LOCAL as u32;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compare {
    Equal = 0,
    NotEqual = 1,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RejectWith {
    /// ICMP port unreachable. TCP clients take it as refusal, but lose it if it comes while they still hold their socket, as it
    /// does over a veth pair.
    PortUnreachable,
    /// For TCP only.
    TcpReset,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expr {
    /// Loads bytes of a header.
    Payload {
        base: PayloadBase,
        offset: u32,
        length: u32,
        to: Register,
    },
    Meta {
        key: MetaKey,
        to: Register,
    },
    Ct {
        key: CtKey,
        direction: Option<Direction>,
        to: Register,
    },
    Fib {
        key: FibKey,
        to: Register,
    },
    /// Compares as many bytes as `value` has; a prefix of a name is a wildcard.
    Cmp {
        from: Register,
        compare: Compare,
        value: Vec<u8>,
    },
    /// Keeps the bits of a mask.
    And {
        register: Register,
        mask: Vec<u8>,
    },
    /// Goes on if the key is in the set (or not, if inverted).
    InSet {
        set: String,
        key: Register,
        inverted: bool,
    },
    /// Goes on with the map's value if the key is there.
    Map {
        map: String,
        key: Register,
        to: Register,
    },
    /// Executes the verdict that the map has for the key, if any.
    VerdictMap {
        map: String,
        key: Register,
    },
    /// A random number below `modulus`.
    Random {
        modulus: u32,
        to: Register,
    },
    /// Loads a constant.
    Immediate {
        value: Vec<u8>,
        to: Register,
    },
    /// Adds the key to a dynamic set, or renews its timeout there. (A dynamic map would do more, but nft 1.0 aborts when it lists
    /// a rule that stores what it found in another map.)
    Remember {
        set: String,
        key: Register,
        timeout: Duration,
    },
    DestinationNat {
        address: Register,
        port: Register,
    },
    Masquerade,
    Reject(RejectWith),
    Verdict(Verdict),
}

impl Expr {
    fn name(&self) -> &'static str {
        match self {
            Self::Payload { .. } => "payload",
            Self::Meta { .. } => "meta",
            Self::Ct { .. } => "ct",
            Self::Fib { .. } => "fib",
            Self::Cmp { .. } => "cmp",
            Self::And { .. } => "bitwise",
            Self::InSet { .. } | Self::Map { .. } | Self::VerdictMap { .. } => "lookup",
            Self::Random { .. } => "numgen",
            Self::Remember { .. } => "dynset",
            Self::DestinationNat { .. } => "nat",
            Self::Masquerade => "masq",
            Self::Reject(_) => "reject",
            Self::Immediate { .. } | Self::Verdict(_) => "immediate",
        }
    }

    pub(super) fn encode(&self, b: &mut Builder, family: u8) {
        b.nest(w::LIST_ELEMENT, |b| {
            b.string(w::EXPR_NAME, self.name());
            b.nest(w::EXPR_DATA, |b| self.encode_data(b, family));
        });
    }

    /// The attribute numbers are those of each expression's own enum in nf_tables.h.
    fn encode_data(&self, b: &mut Builder, family: u8) {
        let register = |r: Register| FIRST_REGISTER + r;
        match self {
            Self::Payload { base, offset, length, to } => {
                b.be32(1, register(*to));
                b.be32(2, *base as u32);
                b.be32(3, *offset);
                b.be32(4, *length);
            }
            Self::Meta { key, to } => {
                b.be32(1, register(*to));
                b.be32(2, *key as u32);
            }
            Self::Ct { key, direction, to } => {
                b.be32(1, register(*to));
                b.be32(2, *key as u32);
                if let Some(direction) = direction {
                    b.attribute(3, &[*direction as u8]);
                }
            }
            Self::Fib { key, to } => {
                b.be32(1, register(*to));
                b.be32(2, NFT_FIB_RESULT_ADDRTYPE);
                b.be32(3, *key as u32);
            }
            Self::Cmp { from, compare, value } => {
                b.be32(1, register(*from));
                b.be32(2, *compare as u32);
                b.nest(3, |b| b.attribute(w::DATA_VALUE, value));
            }
            Self::And { register: r, mask } => {
                b.be32(1, register(*r));
                b.be32(2, register(*r));
                b.be32(3, mask.len() as u32);
                b.nest(4, |b| b.attribute(w::DATA_VALUE, mask));
                b.nest(5, |b| b.attribute(w::DATA_VALUE, &vec![0; mask.len()]));
            }
            Self::InSet { set, key, inverted } => {
                lookup(b, set, *key, None);
                b.be32(5, if *inverted { NFT_LOOKUP_F_INV } else { 0 });
            }
            Self::Map { map, key, to } => lookup(b, map, *key, Some(register(*to))),
            Self::VerdictMap { map, key } => lookup(b, map, *key, Some(VERDICT_REGISTER)),
            Self::Random { modulus, to } => {
                b.be32(1, register(*to));
                b.be32(2, *modulus);
                b.be32(3, NFT_NG_RANDOM);
            }
            Self::Immediate { value, to } => {
                b.be32(1, register(*to));
                b.nest(2, |b| b.attribute(w::DATA_VALUE, value));
            }
            Self::Remember { set, key, timeout } => {
                b.string(1, set);
                b.be32(3, NFT_DYNSET_OP_UPDATE);
                b.be32(4, register(*key));
                b.attribute(6, &milliseconds(*timeout));
            }
            Self::DestinationNat { address, port } => {
                b.be32(1, NFT_NAT_DNAT);
                b.be32(2, u32::from(family));
                b.be32(3, register(*address));
                b.be32(5, register(*port));
            }
            Self::Masquerade => b.be32(1, RANDOM_FULLY),
            Self::Reject(RejectWith::PortUnreachable) => {
                // NFT_REJECT_ICMP_UNREACH in ip and ip6; ICMP and ICMPv6 number the code differently.
                b.be32(1, 0);
                b.attribute(2, &[if family == libc::AF_INET6 as u8 { 4 } else { 3 }]);
            }
            // NFT_REJECT_TCP_RST
            Self::Reject(RejectWith::TcpReset) => b.be32(1, 1),
            Self::Verdict(verdict) => {
                b.be32(1, VERDICT_REGISTER);
                b.nest(2, |b| encode_verdict(b, verdict));
            }
        }
    }
}

fn lookup(b: &mut Builder, set: &str, key: Register, to: Option<u32>) {
    b.string(1, set);
    b.be32(2, FIRST_REGISTER + key);
    if let Some(to) = to {
        b.be32(3, to);
    }
}

pub(super) fn encode_verdict(b: &mut Builder, verdict: &Verdict) {
    // NFT_JUMP, NFT_GOTO and NFT_RETURN are negative.
    let (code, chain) = match verdict {
        Verdict::Accept => (libc::NF_ACCEPT, None),
        Verdict::Drop => (libc::NF_DROP, None),
        Verdict::Return => (-5, None),
        Verdict::Jump(chain) => (-3, Some(chain)),
        Verdict::Goto(chain) => (-4, Some(chain)),
    };
    b.nest(w::DATA_VERDICT, |b| {
        b.be32(w::VERDICT_CODE, code as u32);
        if let Some(chain) = chain {
            b.string(w::VERDICT_CHAIN, chain);
        }
    });
}
