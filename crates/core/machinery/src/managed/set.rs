//! A set of field paths as a trie, and its form in `fieldsV1`.

use crate::json;
use crate::value::{Entries, Key, Map, Text, TextBuilder, Value};

/// One step of a field path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum PathElement {
    Field(Key),
    /// An element of a list by its keys: compact JSON with sorted keys.
    Keys(Text),
    /// An element of a set by its value: compact JSON.
    Value(Text),
}

impl PathElement {
    /// The form in `fieldsV1`.
    pub(super) fn text(&self) -> Text {
        let (form, rest) = match self {
            PathElement::Field(name) => ("f:", name.as_str()),
            PathElement::Keys(keys) => ("k:", keys.as_str()),
            PathElement::Value(value) => ("v:", value.as_str()),
        };
        // A short one is put together where it will stand.
        let mut text = TextBuilder::new();
        text.push_str(form);
        text.push_str(rest);
        text.finish()
    }

    fn parse(key: &Key) -> Option<Self> {
        let (form, rest) = key.as_str().split_once(':')?;
        match form {
            "f" => Some(PathElement::Field(key.part(2).unwrap_or_else(|| rest.into()))),
            "k" => Some(PathElement::Keys(rest.into())),
            "v" => Some(PathElement::Value(rest.into())),
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
    /// By their step, each step once.
    pub(super) children: Vec<(PathElement, FieldSet)>,
}

impl FieldSet {
    /// A path that nothing is below.
    pub(super) fn leaf() -> Self {
        Self { member: true, children: Vec::new() }
    }

    pub fn is_empty(&self) -> bool {
        !self.member && self.children.is_empty()
    }

    pub fn child(&self, step: &PathElement) -> Option<&FieldSet> {
        let at = self.children.binary_search_by(|(own, _)| own.cmp(step)).ok()?;
        Some(&self.children[at].1)
    }

    pub fn children(&self) -> impl Iterator<Item = (&PathElement, &FieldSet)> {
        self.children.iter().map(|(step, node)| (step, node))
    }

    pub(super) fn retain_children(&mut self, keep: impl Fn(&PathElement) -> bool) {
        self.children.retain(|(step, _)| keep(step));
    }

    /// Takes in what is below a step that is no less than those before it. A step may come twice: names in lists need not be unique.
    pub(super) fn push(&mut self, step: PathElement, below: FieldSet) {
        debug_assert!(self.children.last().is_none_or(|(last, _)| *last <= step), "{step} comes too late");
        match self.children.last_mut() {
            _ if below.is_empty() => {}
            Some((last, known)) if *last == step => known.absorb(&below),
            _ => self.children.push((step, below)),
        }
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
        if other.children.is_empty() {
            return;
        }
        let mut own = std::mem::take(&mut self.children).into_iter().peekable();
        let mut out = Vec::with_capacity(own.len().max(other.children.len()));
        for (step, node) in &other.children {
            out.extend(std::iter::from_fn(|| own.next_if(|(own, _)| own < step)));
            match own.next_if(|(own, _)| own == step) {
                Some((step, mut known)) => {
                    known.absorb(node);
                    out.push((step, known));
                }
                None => out.push((step.clone(), node.clone())),
            }
        }
        out.extend(own);
        self.children = out;
    }

    #[must_use]
    pub fn difference(&self, other: &FieldSet) -> FieldSet {
        let children = self.children.iter().map(|(step, node)| {
            let left = other.child(step).map_or_else(|| node.clone(), |o| node.difference(o));
            (step.clone(), left)
        });
        FieldSet { member: self.member && !other.member, children: children.filter(|(_, n)| !n.is_empty()).collect() }
    }

    #[must_use]
    pub fn intersection(&self, other: &FieldSet) -> FieldSet {
        let children = self.children.iter().filter_map(|(step, node)| {
            let common = node.intersection(other.child(step)?);
            (!common.is_empty()).then(|| (step.clone(), common))
        });
        FieldSet { member: self.member && other.member, children: children.collect() }
    }

    /// Whether any of the paths is in a set that has the form of `fieldsV1`.
    pub(super) fn meets(&self, fields: &Value) -> bool {
        self.meets_below(fields, true)
    }

    fn meets_below(&self, fields: &Value, root: bool) -> bool {
        let below = |(step, node): &(PathElement, FieldSet)| fields.get(&step.text()).is_some_and(|f| node.meets_below(f, false));
        self.member && is_member(fields, root) || self.children.iter().any(below)
    }

    /// Whether all of the paths are in a set that has the form of `fieldsV1`.
    pub(super) fn is_within(&self, fields: &Value) -> bool {
        self.is_within_below(fields, true)
    }

    fn is_within_below(&self, fields: &Value, root: bool) -> bool {
        let below = |(step, node): &(PathElement, FieldSet)| fields.get(&step.text()).is_some_and(|f| node.is_within_below(f, false));
        (!self.member || is_member(fields, root)) && self.children.iter().all(below)
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
        let mut entries = Entries::with_capacity(self.children.len() + 1);
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

    /// Whether a value has the form of `fieldsV1`.
    pub(super) fn is_form(value: &Value) -> bool {
        let is_step = |key: &str| match key.split_once(':') {
            Some(("f", _)) => true,
            Some(("k", keys)) => json::from_slice(keys.as_bytes()).is_ok_and(|keys| keys.as_map().is_some()),
            Some(("v", value)) => json::from_slice(value.as_bytes()).is_ok(),
            _ => key == ".",
        };
        value.as_map().is_some_and(|map| map.iter().all(|(key, below)| is_step(key.as_str()) && Self::is_form(below)))
    }

    fn read(value: &Value, root: bool) -> FieldSet {
        let mut out = FieldSet::default();
        for (key, below) in value.as_map().into_iter().flat_map(|m| m.iter()) {
            if key.as_str() == "." {
                out.member = true;
            } else if let Some(step) = PathElement::parse(key) {
                out.children.push((step, Self::read(below, false)));
            }
        }
        // The forms stand in the order of their letters, as the keys do.
        debug_assert!(out.children.is_sorted_by(|(a, _), (b, _)| a < b));
        // A leaf is a member without saying so.
        out.member |= out.children.is_empty() && !root;
        out
    }
}

/// Whether a node in the form of `fieldsV1` is a path of the set; a leaf is one without saying so.
fn is_member(fields: &Value, root: bool) -> bool {
    fields.get(".").is_some() || !root && fields.is_empty()
}
