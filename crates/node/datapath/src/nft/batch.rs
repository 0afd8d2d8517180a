//! A transaction being put together: messages in order, and what each does, for errors.

use super::wire as w;
use super::{BaseChain, ChainKind, Data, Expr, Family, MapTo, Set, Table, concatenation, expr};
use crate::netlink::Builder;

/// Elements are split into messages of about this size: an attribute holds at most 64 KiB.
const ELEMENTS_PER_MESSAGE: usize = 48 << 10;

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

    pub(super) fn into_parts(self) -> (Builder, Vec<String>) {
        (self.messages, self.operations)
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
