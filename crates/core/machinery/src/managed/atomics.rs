//! Merging without ownership, as mutating admission policies apply configurations; see upstream's ApplyStructuredMergeDiff.

use super::apply::merge_struct;
use crate::schema::{Field, Schema, Topology, Type, TypeId};
use crate::value::Value;

/// Merges a configuration into an object without regard to who owns what. Lists, maps and structs that would be replaced as a
/// whole are refused; the error names them.
pub fn merge(schema: &Schema, ty: TypeId, live: &Value, config: &Value) -> Result<Value, String> {
    let mut found = Vec::new();
    of_struct(schema, ty, config, "", &mut found);
    if found.is_empty() { Ok(merge_struct(schema, ty, live, config)) } else { Err(found.join(", ")) }
}

fn of_struct(schema: &Schema, id: TypeId, value: &Value, path: &str, out: &mut Vec<String>) {
    for (key, below) in value.as_map().into_iter().flat_map(|m| m.iter()) {
        if let Some((ty, field)) = schema.get(id).type_of(key) {
            of_value(schema, ty, field, below, &format!("{path}.{key}"), out);
        }
    }
}

fn of_value(schema: &Schema, ty: &Type, field: Option<&Field>, value: &Value, path: &str, out: &mut Vec<String>) {
    let whole = field.is_some_and(|f| f.atomic);
    let atomic = match (ty, value) {
        (_, Value::Map(_)) if whole => true,
        (Type::Struct(id), Value::Map(_)) => schema.get(*id).atomic && !field.is_some_and(|f| f.granular) || schema.get(*id).wrapper,
        (Type::RawExtension | Type::Json | Type::FieldsV1, Value::Map(_) | Value::List(_)) => true,
        (Type::List(_), Value::List(_)) => field.is_none_or(|f| f.topology == Topology::Atomic),
        (_, Value::List(_)) => true,
        _ => false,
    };
    if atomic {
        out.push(path.to_string());
    }
    match (ty, value) {
        (Type::Struct(id), Value::Map(_)) => of_struct(schema, *id, value, path, out),
        (Type::Map(item), Value::Map(map)) => {
            map.iter().for_each(|(key, below)| of_value(schema, item, None, below, &format!("{path}.{key}"), out));
        }
        (Type::List(item), Value::List(list)) => {
            let below = list.iter().enumerate();
            below.for_each(|(i, element)| of_value(schema, item, None, element, &format!("{path}[{i}]"), out));
        }
        _ => {}
    }
}
