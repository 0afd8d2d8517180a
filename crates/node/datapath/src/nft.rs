//! A compact nf_tables encoder: tables, chains, sets, maps and rules, committed as one atomic batch. Names follow nft(8);
//! expressions are in `expr`. It reads back only what Fram needs to know: tables and the elements of a set.

mod batch;
mod expr;
mod wire;

use std::time::Duration;

use nix::sys::socket::SockProtocol;

pub use batch::Batch;
pub use expr::{Compare, CtKey, Direction, Expr, FibKey, MetaKey, PayloadBase, Register, RejectWith, ct_state, ct_status};

use crate::PREFIX;
use crate::netlink::{Builder, NetlinkError, Socket, attributes, find, text};
use wire as w;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    Ip,
    Ip6,
    Inet,
}

impl Family {
    fn number(self) -> u8 {
        match self {
            Self::Inet => 1,
            Self::Ip => 2,
            Self::Ip6 => 10,
        }
    }

    fn from_number(number: u8) -> Option<Self> {
        [Self::Inet, Self::Ip, Self::Ip6].into_iter().find(|f| f.number() == number)
    }
}

/// A table's name; it must start with [`PREFIX`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Table {
    pub family: Family,
    pub name: String,
}

impl Table {
    pub fn new(family: Family, name: &str) -> Self {
        debug_assert!(name.starts_with(PREFIX), "a table that purge would not find");
        Self { family, name: name.to_owned() }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChainKind {
    Filter,
    Nat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    Prerouting = 0,
    Input = 1,
    Forward = 2,
    Output = 3,
    Postrouting = 4,
}

/// Where a base chain is called from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BaseChain {
    pub kind: ChainKind,
    pub hook: Hook,
    pub priority: i32,
}

/// Priorities with names in nft(8).
pub mod priority {
    pub const RAW: i32 = -300;
    pub const DSTNAT: i32 = -100;
    pub const FILTER: i32 = 0;
    pub const SRCNAT: i32 = 100;
}

/// The types that keys and values are put together from; the number tells nft(8) how to print them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    Ipv4,
    Ipv6,
    Protocol,
    Port,
    /// Four bytes in the machine's order.
    Mark,
}

impl Type {
    fn number(self) -> u32 {
        match self {
            Self::Ipv4 => 7,
            Self::Ipv6 => 8,
            Self::Protocol => 12,
            Self::Port => 13,
            Self::Mark => 19,
        }
    }

    fn length(self) -> u32 {
        match self {
            Self::Ipv6 => 16,
            Self::Ipv4 | Self::Mark => 4,
            Self::Port => 2,
            Self::Protocol => 1,
        }
    }
}

/// The number and length of a concatenation: six bits per type, each field padded to four bytes.
fn concatenation(types: &[Type]) -> (u32, u32) {
    match types {
        [single] => (single.number(), single.length()),
        _ => types.iter().fold((0, 0), |(n, l), t| (n << 6 | t.number(), l + t.length().next_multiple_of(4))),
    }
}

/// What a set maps its keys to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MapTo {
    Verdict,
    Value(&'static [Type]),
}

/// A set, or a map if it has values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    pub name: String,
    pub key: &'static [Type],
    pub map_to: Option<MapTo>,
    /// Filled by rules, with elements that go after their timeout.
    pub dynamic: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verdict {
    Accept,
    Drop,
    Return,
    Jump(String),
    Goto(String),
}

/// The data of an element.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data<'a> {
    None,
    Value(&'a [u8]),
    Verdict(&'a Verdict),
}

/// Key and value (empty without one) of an element as the kernel has it.
pub type Element = (Vec<u8>, Vec<u8>);

/// Puts fields of a concatenated key or value together.
#[derive(Debug, Default, Clone)]
pub struct Key(Vec<u8>);

impl Key {
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a field in network order, padded to four bytes.
    pub fn field(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    pub fn ip(self, address: std::net::IpAddr) -> Self {
        self.field(&crate::address::octets(address))
    }

    pub fn port(self, port: u16) -> Self {
        self.field(&port.to_be_bytes())
    }

    pub fn number(self, number: u32) -> Self {
        self.field(&number.to_ne_bytes())
    }

    pub fn build(self) -> Vec<u8> {
        self.0
    }
}

/// An nf_tables socket, in the namespace of the thread that opened it.
pub struct Handle {
    socket: Socket,
}

impl Handle {
    pub fn open() -> Result<Self, NetlinkError> {
        Ok(Self { socket: Socket::open(SockProtocol::NetlinkNetFilter)? })
    }

    /// Makes the kernel take the whole batch, or nothing of it and say why.
    pub fn commit(&mut self, batch: Batch) -> Result<(), NetlinkError> {
        if batch.is_empty() {
            return Ok(());
        }
        let (mut messages, operations) = batch.into_parts();
        let mut whole = Builder::default();
        let frame = |b: &mut Builder| b.raw(&[0, 0, (w::SUBSYSTEM >> 8) as u8, w::SUBSYSTEM as u8]);
        whole.message(w::BATCH_BEGIN, libc::NLM_F_REQUEST as u16, 0, frame);
        // The kernel answers errors in any case; one acknowledgement tells that there were none.
        messages.flag_last(libc::NLM_F_ACK as u16);
        whole.append(&messages);
        whole.message(w::BATCH_END, libc::NLM_F_REQUEST as u16, 0, frame);
        let operation = |sequence: u32| match (sequence as usize).checked_sub(1).and_then(|i| operations.get(i)) {
            Some(operation) => operation.clone(),
            None => "commit changes of nftables".to_owned(),
        };
        self.socket.transmit(&whole, operation)
    }

    /// Fram's tables.
    pub fn tables(&mut self) -> Result<Vec<Table>, NetlinkError> {
        let all_families = |b: &mut Builder| b.raw(&[0; 4]);
        self.socket.dump(w::SUBSYSTEM << 8 | w::GETTABLE, "list nftables tables", all_families, |answer, tables| {
            let (Some(family), Some(body)) = (answer.first(), answer.get(4..)) else { return };
            let name = find(body, w::TABLE_NAME).map(text).unwrap_or_default();
            if let Some(family) = Family::from_number(*family)
                && name.starts_with(PREFIX)
            {
                tables.push(Table { family, name });
            }
        })
    }

    /// The keys and plain values of a set's elements.
    pub fn elements(&mut self, table: &Table, set: &str) -> Result<Vec<Element>, NetlinkError> {
        let request = |b: &mut Builder| {
            b.raw(&[table.family.number(), 0, 0, 0]);
            b.string(w::ELEMENTS_TABLE, &table.name);
            b.string(w::ELEMENTS_SET, set);
        };
        self.socket.dump(w::SUBSYSTEM << 8 | w::GETSETELEM, "list elements of an nftables set", request, |answer, elements| {
            let list = answer.get(4..).and_then(|body| find(body, w::ELEMENTS_LIST)).unwrap_or_default();
            for (_, element) in attributes(list) {
                let value = |kind| find(element, kind).and_then(|data| find(data, w::DATA_VALUE)).map(<[u8]>::to_vec);
                if let Some(key) = value(w::ELEMENT_KEY) {
                    elements.push((key, value(w::ELEMENT_DATA).unwrap_or_default()));
                }
            }
        })
    }
}

/// A timeout as nf_tables wants it: milliseconds, big endian.
pub(crate) fn milliseconds(timeout: Duration) -> [u8; 8] {
    u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX).to_be_bytes()
}
