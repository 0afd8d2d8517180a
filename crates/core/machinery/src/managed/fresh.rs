//! What the maker of an object owns, in the form of `fieldsV1`: the same as comparing it with nothing says, in one walk.

use super::element::{Shape, name, shape};
use super::set::PathElement;
use crate::schema::{Field, Schema, Type, TypeId};
use crate::value::{Entries, Key, Map, Value};

/// The fields of a new object, but for those that an object has before anyone has written to it.
pub(super) fn everything(schema: &Schema, ty: TypeId, nothing: &Value, new: &Value) -> Value {
    let mut open = Open::new();
    Walk { schema }.structure(ty, Some(nothing), new, &mut open);
    Value::Map(Map::from_entries(open.into()))
}

/// What is found below the maps around a place, one behind the other, so that each map is made at once and of its size.
type Open = Vec<(Key, Value)>;

struct Walk<'a> {
    schema: &'a Schema,
}

fn leaf() -> Value {
    Value::Map(Map::new())
}

impl Walk<'_> {
    fn structure(&self, id: TypeId, old: Option<&Value>, new: &Value, open: &mut Open) {
        let ty = self.schema.get(id);
        for (key, item) in new.as_map().into_iter().flat_map(|m| m.iter()) {
            let old = old.and_then(|o| o.get(key));
            let owned = match ty.type_of(key) {
                Some((ty, field)) => self.value(ty, field, old, item, open),
                None => (old != Some(item)).then(leaf),
            };
            open.extend(owned.map(|owned| (PathElement::Field(key.clone()).text().into(), owned)));
        }
    }

    fn value(&self, ty: &Type, field: Option<&Field>, old: Option<&Value>, new: &Value, open: &mut Open) -> Option<Value> {
        if old == Some(new) {
            return None;
        }
        let shape = shape(self.schema, ty, field, [old, Some(new)]);
        if matches!(shape, Shape::Leaf) {
            return Some(leaf());
        }
        // A container that was not there is itself such a path, and where it has others below it, it says so.
        let member = usize::from(old.is_none());
        let start = open.len();
        open.extend((member > 0).then(|| (Key::Static("."), leaf())));
        let filled = old.is_some_and(Value::is_null) && !new.is_null();
        let old = old.filter(|v| !v.is_null());
        match shape {
            Shape::Struct(id) => self.structure(id, old, new, open),
            Shape::Map(item) => {
                for (key, below) in new.as_map().into_iter().flat_map(|m| m.iter()) {
                    let owned = self.value(item, None, old.and_then(|o| o.get(key)), below, open);
                    open.extend(owned.map(|owned| (PathElement::Field(key.clone()).text().into(), owned)));
                }
            }
            Shape::List { item, field } => self.list(item, field, new, open),
            Shape::Leaf => {}
        }
        let found: Entries = open.drain(start..).collect();
        match found.len() {
            n if n > member => Some(Value::Map(Map::from_entries(found))),
            n => (n > 0 || filled).then(leaf),
        }
    }

    /// Objects that nobody has written to have no elements.
    fn list(&self, item: &Type, field: &Field, new: &Value, open: &mut Open) {
        let before = open.len();
        for element in new.as_list().into_iter().flat_map(|l| l.iter()) {
            let Some(step) = name(self.schema, field, item, element) else { continue };
            let owned = self.value(item, None, None, element, open);
            open.extend(owned.map(|owned| (Key::from(step.text()), owned)));
        }
        let elements = &mut open[before..];
        elements.sort_by(|a, b| a.0.cmp(&b.0));
        if elements.windows(2).all(|w| w[0].0 != w[1].0) {
            return;
        }
        // Names in lists need not be unique: of several with one name nothing but that name is owned.
        let mut elements = open.split_off(before);
        elements.dedup_by(|later, first| {
            let same = later.0 == first.0;
            if same {
                first.1 = leaf();
            }
            same
        });
        open.append(&mut elements);
    }
}

#[cfg(test)]
mod tests {
    use super::super::compare::compare;
    use super::super::tests::schema;
    use super::*;
    use crate::object;

    #[test]
    fn it_is_what_comparing_with_nothing_says() {
        let (schema, root) = schema();
        let nothing = object!({ "spec": { "replicas": 0, "tags": null } });
        for new in [
            object!({}),
            object!({ "spec": {} }),
            object!({ "spec": { "replicas": 0, "tags": null } }),
            object!({ "spec": { "tags": [] } }),
            object!({ "spec": { "replicas": 1, "labels": {}, "items": [], "tags": [] } }),
            object!({ "spec": { "labels": { "b": "1", "a": null }, "args": ["x"], "unknown": { "a": 1 } } }),
            object!({ "spec": { "items": [{ "name": "b", "v": 1 }, { "name": "a" }, { "v": 2 }, { "name": "b", "w": 3 }, {}], "tags": ["y", "x", "x"] } }),
        ] {
            let difference = compare(&schema, root, &nothing, &new);
            let expect = difference.added.union(&difference.modified).to_value();
            assert_eq!(everything(&schema, root, &nothing, &new), expect, "{new:?}");
        }
    }
}
