//! A compact nf_tables encoder: tables, chains, sets, maps and rules, committed as one atomic batch. Names follow nft(8);
//! expressions are in `expr`. It reads back only what Fram needs to know: tables and the elements of a set.

mod expr;
mod wire;

use std::time::Duration;

use nix::sys::socket::SockProtocol;

pub use expr::{Compare, CtKey, Direction, Expr, FibKey, MetaKey, PayloadBase, Register, RejectWith, ct_state, ct_status};

use crate::PREFIX;
use crate::netlink::{Builder, NetlinkError, Socket, attributes, find, text};
use wire as w;

/// Elements are split into messages of about this size: an attribute holds at most 64 KiB.
const ELEMENTS_PER_MESSAGE: usize = 48 << 10;

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

/// Changes that happen all or not at all, in the order they were added.
pub struct Batch {
    messages: Builder,
    /// What message number n does, for errors.
    operations: Vec<String>,
    sets: u32,
}

impl Default for Batch {
    fn default() -> Self {
        Self::new()
    }
}

impl Batch {
    pub fn new() -> Self {
        Self { messages: Builder::default(), operations: Vec::new(), sets: 0 }
    }

    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// How many bytes the kernel gets to read.
    pub fn size(&self) -> usize {
        self.messages.len()
    }

    fn add(&mut self, kind: u16, flags: i32, family: Family, operation: String, body: impl FnOnce(&mut Builder)) {
        self.operations.push(operation);
        // The sequence number is the operation's position; zero is the batch's own frame.
        let sequence = self.operations.len() as u32;
        self.messages.message(w::SUBSYSTEM << 8 | kind, (libc::NLM_F_REQUEST | flags) as u16, sequence, |b| {
            b.raw(&[family.number(), 0, 0, 0]);
            body(b);
        });
    }

    pub fn add_table(&mut self, table: &Table) {
        let operation = format!("add table {}", table.name);
        self.add(w::NEWTABLE, libc::NLM_F_CREATE, table.family, operation, |b| {
            b.string(w::TABLE_NAME, &table.name);
            b.be32(w::TABLE_FLAGS, 0);
        });
    }

    /// Deletes a table with all that is in it. It must exist: add it first if that is not known.
    pub fn delete_table(&mut self, table: &Table) {
        let operation = format!("delete table {}", table.name);
        self.add(w::DELTABLE, 0, table.family, operation, |b| b.string(w::TABLE_NAME, &table.name));
    }

    pub fn add_chain(&mut self, table: &Table, name: &str, base: Option<BaseChain>) {
        let operation = format!("add chain {name} of table {}", table.name);
        self.add(w::NEWCHAIN, libc::NLM_F_CREATE, table.family, operation, |b| {
            b.string(w::CHAIN_TABLE, &table.name);
            b.string(w::CHAIN_NAME, name);
            let Some(base) = base else { return };
            b.nest(w::CHAIN_HOOK, |b| {
                b.be32(w::HOOK_NUMBER, base.hook as u32);
                b.be32(w::HOOK_PRIORITY, base.priority as u32);
            });
            b.be32(w::CHAIN_POLICY, libc::NF_ACCEPT as u32);
            b.string(w::CHAIN_TYPE, if base.kind == ChainKind::Nat { "nat" } else { "filter" });
        });
    }

    /// Deletes all rules of a chain.
    pub fn flush_chain(&mut self, table: &Table, name: &str) {
        let operation = format!("flush chain {name} of table {}", table.name);
        self.add(w::DELRULE, 0, table.family, operation, |b| {
            b.string(w::RULE_TABLE, &table.name);
            b.string(w::RULE_CHAIN, name);
        });
    }

    pub fn delete_chain(&mut self, table: &Table, name: &str) {
        let operation = format!("delete chain {name} of table {}", table.name);
        self.add(w::DELCHAIN, 0, table.family, operation, |b| {
            b.string(w::CHAIN_TABLE, &table.name);
            b.string(w::CHAIN_NAME, name);
        });
    }

    /// Appends a rule.
    pub fn add_rule(&mut self, table: &Table, chain: &str, expressions: &[Expr]) {
        let operation = format!("add rule to chain {chain} of table {}", table.name);
        let family = table.family.number();
        self.add(w::NEWRULE, libc::NLM_F_CREATE | libc::NLM_F_APPEND, table.family, operation, |b| {
            b.string(w::RULE_TABLE, &table.name);
            b.string(w::RULE_CHAIN, chain);
            b.nest(w::RULE_EXPRESSIONS, |b| expressions.iter().for_each(|e| e.encode(b, family)));
        });
    }

    pub fn add_set(&mut self, table: &Table, set: &Set) {
        self.sets += 1;
        let id = self.sets;
        let mut flags = if set.dynamic { w::SET_FLAG_TIMEOUT | w::SET_FLAG_EVAL } else { 0 };
        flags |= if set.map_to.is_some() { w::SET_FLAG_MAP } else { 0 };
        let operation = format!("add set {} of table {}", set.name, table.name);
        self.add(w::NEWSET, libc::NLM_F_CREATE, table.family, operation, |b| {
            b.string(w::SET_TABLE, &table.name);
            b.string(w::SET_NAME, &set.name);
            b.be32(w::SET_ID, id);
            b.be32(w::SET_FLAGS, flags);
            let (kind, length) = concatenation(set.key);
            b.be32(w::SET_KEY_TYPE, kind);
            b.be32(w::SET_KEY_LENGTH, length);
            match &set.map_to {
                None => {}
                Some(MapTo::Verdict) => {
                    b.be32(w::SET_DATA_TYPE, w::DATA_TYPE_VERDICT);
                    b.be32(w::SET_DATA_LENGTH, 0);
                }
                Some(MapTo::Value(types)) => {
                    let (kind, length) = concatenation(types);
                    b.be32(w::SET_DATA_TYPE, kind);
                    b.be32(w::SET_DATA_LENGTH, length);
                }
            }
            if set.dynamic {
                b.nest(w::SET_DESCRIPTION, |b| b.be32(w::SET_DESCRIPTION_SIZE, 1 << 20));
            }
        });
    }

    pub fn add_elements<'a>(&mut self, table: &Table, set: &str, elements: impl IntoIterator<Item = (Vec<u8>, Data<'a>)>) {
        self.elements(w::NEWSETELEM, libc::NLM_F_CREATE, table, set, "add elements to", elements);
    }

    /// Deletes elements by key; each must exist.
    pub fn delete_elements(&mut self, table: &Table, set: &str, keys: impl IntoIterator<Item = Vec<u8>>) {
        let elements = keys.into_iter().map(|key| (key, Data::None));
        self.elements(w::DELSETELEM, 0, table, set, "delete elements of", elements);
    }

    /// Empties a set.
    pub fn flush_set(&mut self, table: &Table, set: &str) {
        let operation = format!("flush set {set} of table {}", table.name);
        self.add(w::DELSETELEM, 0, table.family, operation, |b| {
            b.string(w::ELEMENTS_TABLE, &table.name);
            b.string(w::ELEMENTS_SET, set);
        });
    }

    fn elements<'a>(
        &mut self,
        kind: u16,
        flags: i32,
        table: &Table,
        set: &str,
        verb: &str,
        elements: impl IntoIterator<Item = (Vec<u8>, Data<'a>)>,
    ) {
        let mut elements = elements.into_iter().peekable();
        while elements.peek().is_some() {
            let mut list = Builder::default();
            while list.len() < ELEMENTS_PER_MESSAGE
                && let Some((key, data)) = elements.next()
            {
                list.nest(w::LIST_ELEMENT, |b| {
                    b.nest(w::ELEMENT_KEY, |b| b.attribute(w::DATA_VALUE, &key));
                    match data {
                        Data::None => {}
                        Data::Value(value) => b.nest(w::ELEMENT_DATA, |b| b.attribute(w::DATA_VALUE, value)),
                        Data::Verdict(verdict) => b.nest(w::ELEMENT_DATA, |b| expr::encode_verdict(b, verdict)),
                    }
                });
            }
            let operation = format!("{verb} set {set} of table {}", table.name);
            self.add(kind, flags, table.family, operation, |b| {
                b.string(w::ELEMENTS_TABLE, &table.name);
                b.string(w::ELEMENTS_SET, set);
                b.nest(w::ELEMENTS_LIST, |b| b.append(&list));
            });
        }
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
        let Batch { mut messages, operations, .. } = batch;
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
        let mut tables = Vec::new();
        self.dump(
            w::GETTABLE,
            "list nftables tables",
            0,
            |_| {},
            |family, body| {
                let name = find(body, w::TABLE_NAME).map(text).unwrap_or_default();
                if let Some(family) = Family::from_number(family)
                    && name.starts_with(PREFIX)
                {
                    tables.push(Table { family, name });
                }
            },
        )?;
        Ok(tables)
    }

    /// The keys and plain values of a set's elements.
    pub fn elements(&mut self, table: &Table, set: &str) -> Result<Vec<Element>, NetlinkError> {
        let mut elements = Vec::new();
        let request = |b: &mut Builder| {
            b.string(w::ELEMENTS_TABLE, &table.name);
            b.string(w::ELEMENTS_SET, set);
        };
        self.dump(w::GETSETELEM, "list elements of an nftables set", table.family.number(), request, |_, body| {
            let list = find(body, w::ELEMENTS_LIST).unwrap_or_default();
            for (_, element) in attributes(list) {
                let value = |kind| find(element, kind).and_then(|data| find(data, w::DATA_VALUE)).map(<[u8]>::to_vec);
                if let Some(key) = value(w::ELEMENT_KEY) {
                    elements.push((key, value(w::ELEMENT_DATA).unwrap_or_default()));
                }
            }
        })?;
        Ok(elements)
    }

    fn dump(
        &mut self,
        kind: u16,
        operation: &str,
        family: u8,
        request: impl FnOnce(&mut Builder),
        mut each: impl FnMut(u8, &[u8]),
    ) -> Result<(), NetlinkError> {
        let body = |b: &mut Builder| {
            b.raw(&[family, 0, 0, 0]);
            request(b);
        };
        self.socket.dump(w::SUBSYSTEM << 8 | kind, operation, body, |answer| {
            if let (Some(family), Some(attributes)) = (answer.first(), answer.get(4..)) {
                each(*family, attributes);
            }
        })
    }
}

/// A timeout as nf_tables wants it: milliseconds, big endian.
pub(crate) fn milliseconds(timeout: Duration) -> [u8; 8] {
    u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX).to_be_bytes()
}
