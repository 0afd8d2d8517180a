//! Which fields an object has, and which differ between two.

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
    path: Vec<PathElement>,
    out: Difference,
}

/// Compares two objects of a type.
pub(super) fn compare(schema: &Schema, ty: TypeId, old: &Value, new: &Value) -> Difference {
    let mut walk = Walk { schema, path: Vec::new(), out: Difference::default() };
    walk.structure(ty, Some(old), Some(new));
    walk.out
}

fn present(value: Option<&Value>) -> Option<&Value> {
    value.filter(|v| !v.is_null())
}

impl Walk<'_> {
    fn structure(&mut self, id: TypeId, old: Option<&Value>, new: Option<&Value>) {
        let schema = self.schema;
        for key in keys(old, new) {
            let ty = schema.get(id).type_of(&key);
            let (old, new) = (old.and_then(|v| v.get(&key)), new.and_then(|v| v.get(&key)));
            self.path.push(PathElement::Field(key));
            match ty {
                Some((ty, field)) => self.value(ty, field, old, new),
                None => self.leaf(old, new),
            }
            self.path.pop();
        }
    }

    fn leaf(&mut self, old: Option<&Value>, new: Option<&Value>) {
        let set = match (old, new) {
            (None, Some(_)) => &mut self.out.added,
            (Some(_), None) => &mut self.out.removed,
            (Some(a), Some(b)) if a != b => &mut self.out.modified,
            _ => return,
        };
        set.insert(&self.path);
    }

    fn value(&mut self, ty: &Type, field: Option<&Field>, old: Option<&Value>, new: Option<&Value>) {
        let shape = shape(self.schema, ty, field, [old, new]);
        if matches!(shape, Shape::Leaf) {
            return self.leaf(old, new);
        }
        // A container that came or went is itself such a path.
        match (old, new) {
            (None, Some(_)) => self.out.added.insert(&self.path),
            (Some(_), None) => self.out.removed.insert(&self.path),
            _ => {}
        }
        let (old, new) = (present(old), present(new));
        match shape {
            Shape::Struct(id) => self.structure(id, old, new),
            Shape::Map(item) => {
                for key in keys(old, new) {
                    let (old, new) = (old.and_then(|v| v.get(&key)), new.and_then(|v| v.get(&key)));
                    self.path.push(PathElement::Field(key));
                    self.value(item, None, old, new);
                    self.path.pop();
                }
            }
            Shape::List { item, field } => self.list(item, field, old, new),
            Shape::Leaf => {}
        }
    }

    fn list(&mut self, item: &Type, field: &Field, old: Option<&Value>, new: Option<&Value>) {
        let (schema, elements) = (self.schema, |value: Option<&Value>| value.and_then(Value::as_list).map_or(Vec::new(), |l| l.to_vec()));
        let (old, new) = (elements(old), elements(new));
        let named = |list: &[Value]| -> Vec<Option<PathElement>> { list.iter().map(|v| name(schema, field, item, v)).collect() };
        let (old_names, new_names) = (named(&old), named(&new));
        let (old_index, new_index) = (index(&old_names), index(&new_names));
        for (step, value) in old_names.iter().zip(&old).filter_map(|(n, v)| Some((n.as_ref()?, v))) {
            self.path.push(step.clone());
            self.value(item, None, Some(value), new_index.get(step).map(|i| &new[*i]));
            self.path.pop();
        }
        for (step, value) in new_names.iter().zip(&new).filter_map(|(n, v)| Some((n.as_ref()?, v))) {
            if !old_index.contains_key(step) {
                self.path.push(step.clone());
                self.value(item, None, None, Some(value));
                self.path.pop();
            }
        }
    }
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

/// The keys of both maps, each once.
fn keys(old: Option<&Value>, new: Option<&Value>) -> Vec<Key> {
    let of =
        |v: Option<&Value>| v.and_then(Value::as_map).into_iter().flat_map(|m| m.keys().cloned().collect::<Vec<_>>()).collect::<Vec<_>>();
    let mut all = of(old);
    all.extend(of(new));
    all.sort();
    all.dedup();
    all
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
