//! How the elements of associative lists are named in paths.

use super::set::PathElement;
use crate::json;
use crate::schema::{Field, Schema, Topology, Type};
use crate::value::{Key, Map, Text, Value};

/// How a value is compared and merged.
pub(super) enum Shape<'a> {
    /// As a whole.
    Leaf,
    /// By field; of a struct the fields are declared.
    Struct(crate::schema::TypeId),
    Map(&'a Type),
    /// By element.
    List {
        item: &'a Type,
        field: &'a Field,
    },
}

/// The shape of a field's values, which may be absent. What is no map where maps are merged is a leaf.
pub(super) fn shape<'a, 'v>(
    schema: &Schema,
    ty: &'a Type,
    field: Option<&'a Field>,
    values: impl IntoIterator<Item = Option<&'v Value>>,
) -> Shape<'a> {
    if field.is_some_and(|f| f.atomic) {
        return Shape::Leaf;
    }
    match ty {
        Type::Struct(id) if schema.get(*id).wrapper || schema.get(*id).atomic && !field.is_some_and(|f| f.granular) => Shape::Leaf,
        Type::Struct(id) => Shape::Struct(*id),
        Type::Map(item) => Shape::Map(item),
        Type::Deduced if values.into_iter().flatten().all(|v| v.as_map().is_some()) => Shape::Map(ty),
        Type::List(item) => match field {
            Some(field) if field.topology != Topology::Atomic => Shape::List { item, field },
            _ => Shape::Leaf,
        },
        _ => Shape::Leaf,
    }
}

/// The name of a list element; None where it lacks all of its keys.
pub(super) fn name(schema: &Schema, field: &Field, item: &Type, value: &Value) -> Option<PathElement> {
    match &field.topology {
        Topology::Atomic => None,
        Topology::Set => Some(PathElement::Value(json::text_of(value))),
        Topology::Map(keys) => keyed(schema, keys, item, value).map(PathElement::Keys),
    }
}

/// The keys that an element is told apart by, as JSON.
fn keyed(schema: &Schema, keys: &[Key], item: &Type, value: &Value) -> Option<Text> {
    let default = |key: &Key| match item {
        Type::Struct(id) => schema.get(*id).field(key).and_then(|f| f.default.as_ref()),
        _ => None,
    };
    let found = |key: &Key| value.get(key).filter(|v| !v.is_null()).or_else(|| default(key)).map(|v| (key.clone(), v.clone()));
    let found = Map::from_entries(keys.iter().filter_map(found).collect());
    (!found.is_empty()).then(|| json::text_of(&Value::Map(found)))
}
