//! A set of field paths as a trie, and its form in `fieldsV1`.

use std::collections::BTreeMap;

use crate::json;
use crate::value::{Key, Map, Value};

/// One step of a field path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum PathElement {
    Field(Key),
    /// An element of a list by its keys: compact JSON with sorted keys.
    Keys(String),
    /// An element of a set by its value: compact JSON.
    Value(String),
}

impl PathElement {
    /// The form in `fieldsV1`.
    fn text(&self) -> String {
        match self {
            PathElement::Field(name) => ["f:", name.as_str()].concat(),
            PathElement::Keys(keys) => ["k:", keys].concat(),
            PathElement::Value(value) => ["v:", value].concat(),
        }
    }

    fn parse(key: &Key) -> Option<Self> {
        let (form, rest) = key.as_str().split_once(':')?;
        match form {
            "f" => Some(PathElement::Field(key.part(2).unwrap_or_else(|| rest.into()))),
            "k" => Some(PathElement::Keys(rest.to_string())),
            "v" => Some(PathElement::Value(rest.to_string())),
            _ => None,
        }
    }
}

impl std::fmt::Display for PathElement {
    /// As conflicts name it: `.spec`, `[name="a"]`, `[="x"]`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            PathElement::Field(name) => write!(f, ".{name}"),
            PathElement::Keys(keys) => {
                let map = json::from_slice(keys.as_bytes()).unwrap_or_default();
                let pairs: Vec<String> = map.as_map().into_iter().flat_map(|m| m.iter()).map(|(k, v)| format!("{k}={v:?}")).collect();
                write!(f, "[{}]", pairs.join(","))
            }
            PathElement::Value(value) => write!(f, "[={value}]"),
        }
    }
}

/// A set of paths. A path is in the set where its node is a member.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSet {
    pub member: bool,
    pub children: BTreeMap<PathElement, FieldSet>,
}

impl FieldSet {
    pub fn is_empty(&self) -> bool {
        !self.member && self.children.is_empty()
    }

    pub fn insert(&mut self, path: &[PathElement]) {
        let node = path.iter().fold(self, |node, step| node.children.entry(step.clone()).or_default());
        node.member = true;
    }

    pub fn child(&self, step: &PathElement) -> Option<&FieldSet> {
        self.children.get(step)
    }

    #[must_use]
    pub fn union(&self, other: &FieldSet) -> FieldSet {
        let mut out = self.clone();
        out.absorb(other);
        out
    }

    /// Adds the paths of another set.
    pub fn absorb(&mut self, other: &FieldSet) {
        self.member |= other.member;
        for (step, node) in &other.children {
            match self.children.get_mut(step) {
                Some(own) => own.absorb(node),
                None => drop(self.children.insert(step.clone(), node.clone())),
            }
        }
    }

    #[must_use]
    pub fn difference(&self, other: &FieldSet) -> FieldSet {
        let children = self.children.iter().map(|(step, node)| {
            let left = other.children.get(step).map_or_else(|| node.clone(), |o| node.difference(o));
            (step.clone(), left)
        });
        FieldSet { member: self.member && !other.member, children: children.filter(|(_, n)| !n.is_empty()).collect() }
    }

    #[must_use]
    pub fn intersection(&self, other: &FieldSet) -> FieldSet {
        let children = self.children.iter().filter_map(|(step, node)| {
            let common = node.intersection(other.children.get(step)?);
            (!common.is_empty()).then(|| (step.clone(), common))
        });
        FieldSet { member: self.member && other.member, children: children.collect() }
    }

    /// Every path of the set, as text.
    pub fn paths(&self) -> Vec<String> {
        let mut out = Vec::new();
        self.collect("", &mut out);
        out
    }

    fn collect(&self, prefix: &str, out: &mut Vec<String>) {
        if self.member {
            out.push(prefix.to_string());
        }
        for (step, node) in &self.children {
            node.collect(&format!("{prefix}{step}"), out);
        }
    }

    /// The form in `fieldsV1`.
    pub fn to_value(&self) -> Value {
        let mut entries = Vec::with_capacity(self.children.len() + 1);
        if self.member && !self.children.is_empty() {
            entries.push((Key::Static("."), Value::Map(Map::new())));
        }
        entries.extend(self.children.iter().map(|(step, node)| (step.text().into(), node.to_value())));
        Value::Map(Map::from_entries(entries))
    }

    /// Reads the form in `fieldsV1`; what is not understood is left out.
    pub fn from_value(value: &Value) -> FieldSet {
        Self::read(value, true)
    }

    fn read(value: &Value, root: bool) -> FieldSet {
        let mut out = FieldSet::default();
        for (key, below) in value.as_map().into_iter().flat_map(|m| m.iter()) {
            if key.as_str() == "." {
                out.member = true;
            } else if let Some(step) = PathElement::parse(key) {
                out.children.insert(step, Self::read(below, false));
            }
        }
        // A leaf is a member without saying so.
        out.member |= out.children.is_empty() && !root;
        out
    }
}
