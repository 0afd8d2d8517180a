//! Strategic merge patch: a merge patch that knows by the description which lists are merged by a key, with its
//! directives. See apimachinery's strategicpatch and the community's strategic-merge-patch document.

use std::collections::{HashMap, HashSet};

use super::PatchError;
use crate::json;
use crate::schema::{Field, Schema, Type, TypeId};
use crate::value::{Key, Map, Value};

const DIRECTIVE: &str = "$patch";
const RETAIN: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const ORDER: &str = "$setElementOrder/";

/// Applies a patch to an object of a type.
pub fn apply(schema: &Schema, ty: TypeId, target: &Value, patch: &Value) -> Result<Value, PatchError> {
    let patch = patch.as_map().ok_or_else(|| PatchError::Malformed("a strategic merge patch is an object".into()))?;
    let target = target.as_map().cloned().unwrap_or_default();
    merge_map(schema, Some(ty), target, patch).map(Value::Map)
}

/// The struct type below a field's type, if there is one.
fn inner(ty: &Type) -> Option<TypeId> {
    match ty {
        Type::Struct(id) => Some(*id),
        Type::List(item) | Type::Map(item) => inner(item),
        _ => None,
    }
}

fn list_of(patch: &Map, prefix: &str, field: &str) -> Option<Vec<Value>> {
    patch.get(&format!("{prefix}{field}")).and_then(Value::as_list).map(|l| l.to_vec())
}

fn merge_map(schema: &Schema, ty: Option<TypeId>, mut target: Map, patch: &Map) -> Result<Map, PatchError> {
    match patch.get(DIRECTIVE).map(|d| d.as_str().unwrap_or_default()) {
        Some("replace") => {
            let mut out = patch.clone();
            out.remove(DIRECTIVE);
            return Ok(out);
        }
        Some("delete") => return Ok(Map::new()),
        Some("merge") | None => {}
        Some(other) => return Err(PatchError::Malformed(format!("Unknown patch type: {other:?}"))),
    }
    if let Some(retained) = patch.get(RETAIN) {
        let retained = retained.as_list().ok_or_else(|| PatchError::Malformed("$retainKeys is a list".into()))?;
        let retained: HashSet<&str> = retained.iter().filter_map(Value::as_str).collect();
        target.retain(|key, _| retained.contains(key.as_str()));
    }
    let is_directive = |key: &str| key == DIRECTIVE || key == RETAIN || key.starts_with(DELETE_FROM) || key.starts_with(ORDER);
    for (key, change) in patch.iter().filter(|(k, _)| !is_directive(k)) {
        if change.is_null() {
            target.remove(key);
            continue;
        }
        let field = ty.and_then(|id| schema.get(id).field(key));
        let before = target.get(key).cloned().unwrap_or_default();
        let value = merge_value(schema, ty, field, before, change, list_of(patch, ORDER, key))?;
        target.insert(key.clone(), value);
    }
    for (key, removed) in patch.iter().filter_map(|(k, v)| k.strip_prefix(DELETE_FROM).map(|k| (k.to_string(), v))) {
        if let Some(list) = target.get_mut(&key) {
            let removed: HashSet<String> = removed.as_list().into_iter().flat_map(|l| l.iter()).map(json::to_string).collect();
            list.make_list().retain(|v| !removed.contains(&json::to_string(v)));
        }
    }
    // An order may come without a change to the list itself.
    for (key, order) in patch.iter().filter_map(|(k, v)| k.strip_prefix(ORDER).map(|k| (k.to_string(), v))) {
        let field = ty.and_then(|id| schema.get(id).field(&key));
        if !patch.contains(&key)
            && let (Some(order), Some(list)) = (order.as_list(), target.get_mut(&key))
        {
            let items = list.make_list();
            let reordered = reorder(items.to_vec(), &[], order, field.and_then(|f| f.patch.key.as_ref()));
            *items = reordered.into();
        }
    }
    Ok(target)
}

fn merge_value(
    schema: &Schema,
    ty: Option<TypeId>,
    field: Option<&Field>,
    before: Value,
    change: &Value,
    order: Option<Vec<Value>>,
) -> Result<Value, PatchError> {
    // Below a map of strings to structs the keys are no fields: the map's own type goes on.
    let below = match field {
        Some(field) => inner(&field.ty).filter(|_| !matches!(field.ty, Type::Map(_)) || is_map_of_structs(&field.ty)),
        None => ty.filter(|_| false),
    };
    match change {
        Value::Map(change) => {
            let before = before.as_map().cloned().unwrap_or_default();
            if field.is_some_and(|f| f.patch.replace) {
                return Ok(Value::Map(change.clone()));
            }
            if field.is_some_and(|f| is_map_of_structs(&f.ty)) {
                return merge_entries(schema, below, before, change).map(Value::Map);
            }
            merge_map(schema, below, before, change).map(Value::Map)
        }
        Value::List(change) if field.is_some_and(|f| f.patch.merge) => {
            let key = field.and_then(|f| f.patch.key.clone());
            let before = before.as_list().map(|l| l.to_vec()).unwrap_or_default();
            merge_list(schema, below, key, before, change, order).map(Value::from)
        }
        other => Ok(other.clone()),
    }
}

fn is_map_of_structs(ty: &Type) -> bool {
    matches!(ty, Type::Map(item) if matches!(**item, Type::Struct(_)))
}

fn merge_entries(schema: &Schema, ty: Option<TypeId>, mut target: Map, patch: &Map) -> Result<Map, PatchError> {
    for (key, change) in patch.iter() {
        match change {
            Value::Null => drop(target.remove(key)),
            Value::Map(change) => {
                let before = target.get(key).and_then(Value::as_map).cloned().unwrap_or_default();
                target.insert(key.clone(), merge_map(schema, ty, before, change)?);
            }
            other => target.insert(key.clone(), other.clone()),
        }
    }
    Ok(target)
}

/// What an element is told apart by: its key, or all of it. None where it lacks its key.
fn identity(element: &Value, key: Option<&Key>) -> Option<String> {
    match key {
        Some(key) => element.get(key).map(json::to_string),
        None => Some(json::to_string(element)),
    }
}

/// A list in which elements are found without looking at all of it, since lists are as long as a request.
struct Elements<'a> {
    key: Option<&'a Key>,
    items: Vec<Option<Value>>,
    places: HashMap<String, Vec<usize>>,
}

impl<'a> Elements<'a> {
    fn of(items: Vec<Value>, key: Option<&'a Key>) -> Self {
        let mut out = Self { key, items: Vec::with_capacity(items.len()), places: HashMap::new() };
        items.into_iter().for_each(|item| out.push(item));
        out
    }

    fn push(&mut self, item: Value) {
        if let Some(identity) = identity(&item, self.key) {
            self.places.entry(identity).or_default().push(self.items.len());
        }
        self.items.push(Some(item));
    }

    fn find(&mut self, like: &Value) -> Option<&mut Value> {
        let place = *self.places.get(&identity(like, self.key)?)?.first()?;
        self.items[place].as_mut()
    }

    fn delete(&mut self, like: &Value) {
        let places = identity(like, self.key).and_then(|identity| self.places.remove(&identity));
        places.into_iter().flatten().for_each(|place| self.items[place] = None);
    }
}

fn merge_list(
    schema: &Schema,
    ty: Option<TypeId>,
    key: Option<Key>,
    before: Vec<Value>,
    change: &[Value],
    order: Option<Vec<Value>>,
) -> Result<Vec<Value>, PatchError> {
    let directive = |v: &Value| v.get(DIRECTIVE).and_then(Value::as_str).map(String::from);
    if change.iter().any(|v| directive(v).as_deref() == Some("replace")) {
        return Ok(change.iter().filter(|v| directive(v).is_none()).cloned().collect());
    }
    let server_order = before.clone();
    // What is no map is told apart by all of it, also among elements that have a key.
    let mut plain: HashSet<String> = before.iter().filter(|v| v.as_map().is_none()).map(json::to_string).collect();
    let mut out = Elements::of(before, key.as_ref());
    for item in change {
        let Value::Map(map) = item else {
            if plain.insert(json::to_string(item)) {
                out.push(item.clone());
            }
            continue;
        };
        let Some(key) = &key else {
            out.push(item.clone());
            continue;
        };
        if map.get(key).is_none() {
            return Err(PatchError::Malformed(format!("map: {item:?} does not contain declared merge key: {key}")));
        }
        if directive(item).as_deref() == Some("delete") {
            out.delete(item);
            continue;
        }
        match out.find(item) {
            Some(found) => {
                let before = found.as_map().cloned().unwrap_or_default();
                *found = Value::Map(merge_map(schema, ty, before, map)?);
            }
            None => out.push(Value::Map(merge_map(schema, ty, Map::default(), map)?)),
        }
    }
    // Without an order of its own, a patch stands for the order of its elements; see normalizeElementOrder.
    let order = order.unwrap_or_else(|| change.iter().filter(|v| directive(v).is_none()).cloned().collect());
    Ok(reorder(out.items.into_iter().flatten().collect(), &server_order, &order, key.as_ref()))
}

/// Puts the elements that `order` names into its order; the others keep their place among what the server had.
fn reorder(items: Vec<Value>, server_order: &[Value], order: &[Value], key: Option<&Key>) -> Vec<Value> {
    let places = |list: &[Value]| {
        let mut out = HashMap::new();
        for (place, identity) in list.iter().enumerate().filter_map(|(i, v)| Some((i, identity(v, key)?))) {
            out.entry(identity).or_insert(place);
        }
        out
    };
    let (ordered, before) = (places(order), places(if server_order.is_empty() { &items } else { server_order }));
    let position = |places: &HashMap<String, usize>, v: &Value| identity(v, key).and_then(|identity| places.get(&identity).copied());
    let (mut listed, unlisted): (Vec<Value>, Vec<Value>) = items.into_iter().partition(|v| position(&ordered, v).is_some());
    listed.sort_by_cached_key(|v| position(&ordered, v));
    let mut out = Vec::with_capacity(listed.len() + unlisted.len());
    let (mut listed, mut unlisted) = (listed.into_iter().peekable(), unlisted.into_iter().peekable());
    loop {
        let first = match (unlisted.peek(), listed.peek()) {
            (Some(own), Some(named)) => match (position(&before, own), position(&before, named)) {
                (Some(a), Some(b)) => a < b,
                _ => false,
            },
            (own, _) => own.is_some(),
        };
        match if first { unlisted.next() } else { listed.next() } {
            Some(item) => out.push(item),
            None => return out,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object;
    use crate::schema::{PatchStrategy, StructType, Topology};

    fn field(number: u32, name: &'static str, ty: Type, merge: bool, key: Option<&'static str>) -> Field {
        Field {
            number,
            name: Key::Static(name),
            ty,
            pointer: false,
            always: false,
            omit_zero: false,
            inline: false,
            required: false,
            topology: Topology::Atomic,
            atomic: false,
            granular: false,
            patch: PatchStrategy { merge, key: key.map(Key::Static), ..Default::default() },
            default: None,
            allowed: vec![],
            rules: vec![],
            filled: false,
        }
    }

    fn schema() -> (Schema, TypeId) {
        let mut schema = Schema::new();
        let (root, item) = (schema.declare("Root").unwrap(), schema.declare("Item").unwrap());
        let items = Type::List(Box::new(Type::Struct(item)));
        let fields = vec![
            field(1, "items", items.clone(), true, Some("name")),
            field(2, "tags", Type::List(Box::new(Type::String)), true, None),
            field(3, "plain", items, false, None),
        ];
        schema.define(root, StructType::new("Root", String::new(), fields));
        schema.define(
            item,
            StructType::new(
                "Item",
                String::new(),
                vec![field(1, "name", Type::String, false, None), field(2, "v", Type::Int32, false, None)],
            ),
        );
        schema.finish();
        (schema, root)
    }

    #[track_caller]
    fn check(target: Value, patch: Value, expect: Value) {
        let (schema, root) = schema();
        assert_eq!(apply(&schema, root, &target, &patch).unwrap(), expect);
    }

    #[test]
    fn lists_with_a_key_are_merged_and_others_replaced() {
        check(
            object!({ "items": [{ "name": "a", "v": 1 }, { "name": "b", "v": 2 }], "plain": [{ "name": "a" }], "tags": ["x"] }),
            object!({ "items": [{ "name": "b", "v": 3 }, { "name": "c" }], "plain": [{ "name": "z" }], "tags": ["y", "x"] }),
            object!({ "items": [{ "name": "a", "v": 1 }, { "name": "b", "v": 3 }, { "name": "c" }], "plain": [{ "name": "z" }], "tags": ["y", "x"] }),
        );
        check(
            object!({ "items": [{ "name": "a" }] }),
            object!({ "items": [{ "name": "b" }] }),
            object!({ "items": [{ "name": "b" }, { "name": "a" }] }),
        );
    }

    #[test]
    fn directives_delete_replace_and_retain() {
        let target = || object!({ "items": [{ "name": "a", "v": 1 }, { "name": "b" }], "tags": ["x", "y"] });
        check(
            target(),
            object!({ "items": [{ "name": "a", "$patch": "delete" }] }),
            object!({ "items": [{ "name": "b" }], "tags": ["x", "y"] }),
        );
        check(
            target(),
            object!({ "items": [{ "name": "z" }, { "$patch": "replace" }] }),
            object!({ "items": [{ "name": "z" }], "tags": ["x", "y"] }),
        );
        check(
            target(),
            object!({ "$deleteFromPrimitiveList/tags": ["x"] }),
            object!({ "items": [{ "name": "a", "v": 1 }, { "name": "b" }], "tags": ["y"] }),
        );
        check(target(), object!({ "$retainKeys": ["tags"], "items": null }), object!({ "tags": ["x", "y"] }));
        check(target(), object!({ "$patch": "replace", "tags": ["q"] }), object!({ "tags": ["q"] }));
    }

    #[test]
    fn an_element_order_is_followed_and_what_it_does_not_name_keeps_its_place() {
        check(
            object!({ "items": [{ "name": "s" }, { "name": "a" }, { "name": "b" }] }),
            object!({ "$setElementOrder/items": [{ "name": "b" }, { "name": "c" }, { "name": "a" }], "items": [{ "name": "c" }] }),
            object!({ "items": [{ "name": "s" }, { "name": "b" }, { "name": "c" }, { "name": "a" }] }),
        );
    }

    #[test]
    fn an_element_without_its_key_is_refused() {
        let (schema, root) = schema();
        assert!(apply(&schema, root, &object!({}), &object!({ "items": [{ "v": 1 }] })).is_err());
    }
}
