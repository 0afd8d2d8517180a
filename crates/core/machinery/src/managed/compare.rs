//! Which fields an object has, and which differ between two.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use super::element::{Shape, name, shape};
use super::set::{FieldSet, PathElement};
use crate::schema::{Field, Schema, Type, TypeId};
use crate::value::{Key, Value};

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
    /// Takes in what differs below a step, which may have been seen before: names in lists need not be unique.
    fn add(&mut self, step: &PathElement, below: Difference) {
        for (own, below) in [(&mut self.added, below.added), (&mut self.modified, below.modified), (&mut self.removed, below.removed)] {
            if !below.is_empty() {
                own.children.entry(step.clone()).or_default().absorb(&below);
            }
        }
    }

    /// Takes in what differs below a step.
    fn put(&mut self, step: &PathElement, below: Difference) {
        for (own, below) in [(&mut self.added, below.added), (&mut self.modified, below.modified), (&mut self.removed, below.removed)] {
            if !below.is_empty() {
                own.children.insert(step.clone(), below);
            }
        }
    }
}

impl Walk<'_> {
    fn structure(&self, id: TypeId, old: Option<&Value>, new: Option<&Value>, out: &mut Difference) {
        for key in keys(old, new) {
            let (old, new) = (old.and_then(|v| v.get(key)), new.and_then(|v| v.get(key)));
            let below = match self.schema.get(id).type_of(key) {
                Some((ty, field)) => self.value(ty, field, old, new),
                None => leaf(old, new),
            };
            out.put(&PathElement::Field(key.clone()), below);
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
        let (old, new) = (present(old), present(new));
        match shape {
            Shape::Struct(id) => self.structure(id, old, new, &mut out),
            Shape::Map(item) => {
                for key in keys(old, new) {
                    let below = self.value(item, None, old.and_then(|v| v.get(key)), new.and_then(|v| v.get(key)));
                    out.put(&PathElement::Field(key.clone()), below);
                }
            }
            Shape::List { item, field } => self.list(item, field, old, new, &mut out),
            Shape::Leaf => {}
        }
        out
    }

    fn list(&self, item: &Type, field: &Field, old: Option<&Value>, new: Option<&Value>, out: &mut Difference) {
        let elements = |value: Option<&'_ Value>| value.and_then(Value::as_list).cloned().unwrap_or_default();
        let (old, new) = (elements(old), elements(new));
        let named = |list: &[Value]| -> Vec<Option<PathElement>> { list.iter().map(|v| name(self.schema, field, item, v)).collect() };
        let (old_names, new_names) = (named(&old), named(&new));
        let (old_index, new_index) = (index(&old_names), index(&new_names));
        for (step, value) in old_names.iter().zip(&**old).filter_map(|(n, v)| Some((n.as_ref()?, v))) {
            out.add(step, self.value(item, None, Some(value), new_index.get(step).map(|i| &new[*i])));
        }
        for (step, value) in new_names.iter().zip(&**new).filter_map(|(n, v)| Some((n.as_ref()?, v))) {
            if !old_index.contains_key(step) {
                out.add(step, self.value(item, None, None, Some(value)));
            }
        }
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

/// The keys of both maps, each once, in their order.
fn keys<'a>(old: Option<&'a Value>, new: Option<&'a Value>) -> impl Iterator<Item = &'a Key> {
    let of = |value: Option<&'a Value>| value.and_then(Value::as_map).map(|map| map.iter().map(|(key, _)| key));
    let (mut old, mut new) = (of(old).into_iter().flatten().peekable(), of(new).into_iter().flatten().peekable());
    std::iter::from_fn(move || {
        let order = match (old.peek(), new.peek()) {
            (Some(a), Some(b)) => a.cmp(b),
            (Some(_), None) => Ordering::Less,
            (None, _) => Ordering::Greater,
        };
        match order {
            Ordering::Less => old.next(),
            Ordering::Equal => {
                old.next();
                new.next()
            }
            Ordering::Greater => new.next(),
        }
    })
}

/// The fields that a configuration states, for server-side apply.
pub(super) fn stated(schema: &Schema, ty: TypeId, value: &Value) -> FieldSet {
    let mut set = FieldSet::default();
    state_struct(schema, ty, value, &mut Vec::new(), &mut set);
    set
}

fn state_struct(schema: &Schema, id: TypeId, value: &Value, path: &mut Vec<PathElement>, out: &mut FieldSet) {
    for (key, item) in value.as_map().into_iter().flat_map(|m| m.iter()) {
        path.push(PathElement::Field(key.clone()));
        match schema.get(id).type_of(key) {
            Some((ty, field)) => state(schema, ty, field, item, path, out),
            None => out.insert(path),
        }
        path.pop();
    }
}

fn state(schema: &Schema, ty: &Type, field: Option<&Field>, value: &Value, path: &mut Vec<PathElement>, out: &mut FieldSet) {
    let empty = value.is_null() || value.as_map().is_some_and(|m| m.is_empty());
    match shape(schema, ty, field, [Some(value)]) {
        Shape::Leaf => out.insert(path),
        _ if empty => out.insert(path),
        Shape::Struct(id) => state_struct(schema, id, value, path, out),
        Shape::Map(item) => {
            for (key, below) in value.as_map().into_iter().flat_map(|m| m.iter()) {
                path.push(PathElement::Field(key.clone()));
                state(schema, item, None, below, path, out);
                out.insert(path);
                path.pop();
            }
        }
        Shape::List { item, field } => {
            for below in value.as_list().into_iter().flat_map(|l| l.iter()) {
                let Some(name) = name(schema, field, item, below) else { continue };
                path.push(name);
                state(schema, item, None, below, path, out);
                out.insert(path);
                path.pop();
            }
        }
    }
}
