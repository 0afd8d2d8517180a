//! Elements that stand twice in a list whose elements are told apart; see structured-merge-diff's validation of lists.

use std::collections::BTreeSet;

use super::element::{Shape, name, shape};
use super::set::PathElement;
use crate::schema::{Field, Schema, Topology, Type, TypeId};
use crate::value::Value;

/// The first of them in an object, as it is refused.
pub(super) fn duplicate(schema: &Schema, ty: TypeId, value: &Value) -> Option<String> {
    of_struct(schema, ty, value, "")
}

fn of_struct(schema: &Schema, id: TypeId, value: &Value, path: &str) -> Option<String> {
    value.as_map()?.iter().find_map(|(key, below)| {
        let (ty, field) = schema.get(id).type_of(key)?;
        of_value(schema, ty, field, below, &format!("{path}.{key}"))
    })
}

fn of_value(schema: &Schema, ty: &Type, field: Option<&Field>, value: &Value, path: &str) -> Option<String> {
    match shape(schema, ty, field, [Some(value)]) {
        Shape::Leaf => None,
        Shape::Struct(id) => of_struct(schema, id, value, path),
        Shape::Map(item) => {
            let mut entries = value.as_map()?.iter();
            entries.find_map(|(key, below)| of_value(schema, item, None, below, &format!("{path}.{key}")))
        }
        Shape::List { item, field } => {
            let list = value.as_list()?;
            let mut seen = BTreeSet::new();
            for element in list.iter() {
                let Some(step) = name(schema, field, item, element) else { continue };
                let place = format!("{path}{step}");
                if !seen.insert(step.clone()) {
                    let what = match (&field.topology, &step) {
                        (Topology::Set, PathElement::Value(value)) => format!("[{value}]"),
                        _ => step.to_string(),
                    };
                    return Some(format!("{path}: duplicate entries for key {what}"));
                }
                if let Some(found) = of_value(schema, item, None, element, &place) {
                    return Some(found);
                }
            }
            None
        }
    }
}
