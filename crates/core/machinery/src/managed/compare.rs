//! Which fields an object has, and which differ between two.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use super::element::{Shape, name, shape};
use super::set::{FieldSet, PathElement};
use crate::schema::{Field, Schema, Type, TypeId};
use crate::value::{Key, List, Map, Value};

/// The paths by which two objects differ.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Difference {
    pub(super) added: FieldSet,
    pub(super) modified: FieldSet,
    pub(super) removed: FieldSet,
}

impl Difference {
    pub(super) fn is_empty(&self) -> bool {
        self.added.is_empty() && self.modified.is_empty() && self.removed.is_empty()
    }
}

struct Walk<'a> {
    schema: &'a Schema,
}

/// Compares two objects of a type.
pub(super) fn compare(schema: &Schema, ty: TypeId, old: &Value, new: &Value) -> Difference {
    let mut out = Difference::default();
    Walk { schema }.structure(ty, Some(old), Some(new), &mut out);
    out
}

fn present(value: Option<&Value>) -> Option<&Value> {
    value.filter(|v| !v.is_null())
}

impl Difference {
    /// Takes in what differs below a step that is no less than those before it.
    fn add(&mut self, step: PathElement, below: Difference) {
        // Nearly always only one of the three has anything.
        let parts = [(&mut self.added, below.added), (&mut self.modified, below.modified), (&mut self.removed, below.removed)];
        let mut parts = parts.into_iter().filter(|(_, below)| !below.is_empty()).peekable();
        while let Some((own, below)) = parts.next() {
            if parts.peek().is_none() {
                return own.push(step, below);
            }
            own.push(step.clone(), below);
        }
    }
}

impl Walk<'_> {
    fn structure(&self, id: TypeId, old: Option<&Value>, new: Option<&Value>, out: &mut Difference) {
        for (key, old, new) in pairs(old, new) {
            let below = match self.schema.get(id).type_of(key) {
                Some((ty, field)) => self.value(ty, field, old, new),
                None => leaf(old, new),
            };
            out.add(PathElement::Field(key.clone()), below);
        }
    }

    fn value(&self, ty: &Type, field: Option<&Field>, old: Option<&Value>, new: Option<&Value>) -> Difference {
        let mut out = Difference::default();
        if old == new {
            return out;
        }
        let shape = shape(self.schema, ty, field, [old, new]);
        if matches!(shape, Shape::Leaf) {
            return leaf(old, new);
        }
        // A container that came or went is itself such a path.
        (out.added.member, out.removed.member) = (old.is_none(), new.is_none());
        let filled = old.is_some_and(Value::is_null);
        let (old, new) = (present(old), present(new));
        match shape {
            Shape::Struct(id) => self.structure(id, old, new, &mut out),
            Shape::Map(item) => {
                for (key, old, new) in pairs(old, new) {
                    out.add(PathElement::Field(key.clone()), self.value(item, None, old, new));
                }
            }
            Shape::List { item, field } => self.list(item, field, old, new, &mut out),
            Shape::Leaf => {}
        }
        // An empty list is another thing than none, where that is written at all.
        out.modified.member = filled && new.is_some() && out.is_empty();
        out
    }

    fn list(&self, item: &Type, field: &Field, old: Option<&Value>, new: Option<&Value>, out: &mut Difference) {
        let elements = |value: Option<&'_ Value>| value.and_then(Value::as_list).cloned().unwrap_or_default();
        let (old, new) = (elements(old), elements(new));
        let named = |list: &[Value]| -> Vec<Option<PathElement>> { list.iter().map(|v| name(self.schema, field, item, v)).collect() };
        let (old_names, new_names) = (named(&old), named(&new));
        let (old_index, new_index) = (index(&old_names), index(&new_names));
        let (old_many, new_many) = (several(&old_names, &old_index, &old), several(&new_names, &new_index, &new));
        let mut found = Vec::with_capacity(new.len());
        let steps = old_index.keys().chain(new_index.keys().filter(|step| !old_index.contains_key(*step)));
        for step in steps.copied() {
            let (before, after) = (old_index.get(step).map(|i| &old[*i]), new_index.get(step).map(|i| &new[*i]));
            if old_many.contains_key(step) || new_many.contains_key(step) {
                let all = |many: &BTreeMap<&PathElement, List>, one: Option<&Value>| {
                    many.get(step).cloned().or_else(|| one.map(|one| List::from([one.clone()]))).map(Value::from)
                };
                found.push((step, leaf(all(&old_many, before).as_ref(), all(&new_many, after).as_ref())));
                continue;
            }
            found.push((step, self.value(item, None, before, after)));
        }
        found.sort_by_key(|(step, _)| *step);
        found.into_iter().for_each(|(step, below)| out.add(step.clone(), below));
    }
}

fn leaf(old: Option<&Value>, new: Option<&Value>) -> Difference {
    let mut out = Difference::default();
    match (old, new) {
        (None, Some(_)) => out.added.member = true,
        (Some(_), None) => out.removed.member = true,
        (Some(a), Some(b)) if a != b => out.modified.member = true,
        _ => {}
    }
    out
}

/// The elements of the names that stand more than once: what they have is told apart by nothing, and changes as a whole.
fn several<'a>(
    names: &'a [Option<PathElement>],
    index: &BTreeMap<&'a PathElement, usize>,
    list: &[Value],
) -> BTreeMap<&'a PathElement, List> {
    let mut out: BTreeMap<&PathElement, List> = BTreeMap::new();
    if names.iter().flatten().count() == index.len() {
        return out;
    }
    for (i, (name, value)) in names.iter().zip(list).enumerate() {
        let Some((name, first)) = name.as_ref().and_then(|name| Some((name, *index.get(name)?))) else { continue };
        if first != i {
            out.entry(name).or_insert_with(|| List::from([list[first].clone()])).push(value.clone());
        }
    }
    out
}

/// Where each name stands first. Lists are as long as a request, so nothing is searched for from their beginning.
pub(super) fn index(names: &[Option<PathElement>]) -> BTreeMap<&PathElement, usize> {
    let mut out = BTreeMap::new();
    for (i, name) in names.iter().enumerate() {
        if let Some(name) = name {
            out.entry(name).or_insert(i);
        }
    }
    out
}

/// The keys of both maps, each once and in their order, with what each map has there.
fn pairs<'a>(old: Option<&'a Value>, new: Option<&'a Value>) -> impl Iterator<Item = (&'a Key, Option<&'a Value>, Option<&'a Value>)> {
    let of = |value: Option<&'a Value>| value.and_then(Value::as_map).map(Map::iter).into_iter().flatten().peekable();
    let (mut old, mut new) = (of(old), of(new));
    std::iter::from_fn(move || {
        let order = match (old.peek(), new.peek()) {
            (Some((a, _)), Some((b, _))) => a.cmp(b),
            (Some(_), None) => Ordering::Less,
            (None, _) => Ordering::Greater,
        };
        let before = if order.is_le() { old.next() } else { None };
        let after = if order.is_ge() { new.next() } else { None };
        let (key, _) = before.or(after)?;
        Some((key, before.map(|(_, v)| v), after.map(|(_, v)| v)))
    })
}

/// The fields that a configuration states, for server-side apply.
pub(super) fn stated(schema: &Schema, ty: TypeId, value: &Value) -> FieldSet {
    let mut set = FieldSet::default();
    for (key, item) in value.as_map().into_iter().flat_map(|m| m.iter()) {
        let below = match schema.get(ty).type_of(key) {
            Some((ty, field)) => state(schema, ty, field, item),
            None => FieldSet::leaf(),
        };
        set.push(PathElement::Field(key.clone()), below);
    }
    set
}

fn state(schema: &Schema, ty: &Type, field: Option<&Field>, value: &Value) -> FieldSet {
    let empty = value.is_null() || value.as_map().is_some_and(|m| m.is_empty());
    // An entry of a map and an element of a list are stated themselves.
    let entry = |item: &Type, below: &Value| FieldSet { member: true, ..state(schema, item, None, below) };
    let mut out = FieldSet::default();
    match shape(schema, ty, field, [Some(value)]) {
        Shape::Leaf => return FieldSet::leaf(),
        _ if empty => return FieldSet::leaf(),
        Shape::Struct(id) => return stated(schema, id, value),
        Shape::Map(item) => {
            let entries = value.as_map().into_iter().flat_map(|m| m.iter());
            entries.for_each(|(key, below)| out.push(PathElement::Field(key.clone()), entry(item, below)));
        }
        Shape::List { item, field } => {
            let elements = value.as_list().into_iter().flat_map(|l| l.iter());
            let named = |below: &Value| Some((name(schema, field, item, below)?, entry(item, below)));
            let mut found: Vec<(PathElement, FieldSet)> = elements.filter_map(named).collect();
            found.sort_by(|(a, _), (b, _)| a.cmp(b));
            found.into_iter().for_each(|(step, below)| out.push(step, below));
        }
    }
    out
}
