//! From a structural schema to the types of a `Schema`, by which server-side apply and field ownership work. They hold what
//! those need: fields, topologies, keys. Checks and defaults stay with the structural schema.

use std::sync::Arc;

use super::{Additional, Sort, Structural};
use crate::schema::{Field, Schema, SchemaError, StructType, Topology, Type, TypeId};
use crate::value::Key;

/// Adds the type of a kind with this schema; `name` is the kind's in OpenAPI.
pub fn root(schema: &mut Schema, name: &str, structural: Arc<Structural>) -> Result<TypeId, SchemaError> {
    let metadata = schema.id("meta.v1.ObjectMeta").ok_or_else(|| SchemaError::Missing("meta.v1.ObjectMeta".into()))?;
    let mut fields = fields(schema, &structural, name)?;
    fields.retain(|f| !matches!(f.name.as_str(), "apiVersion" | "kind" | "metadata"));
    fields.push(Field::new(Key::Static("metadata"), Type::Struct(metadata)));
    let mut ty = StructType::custom(name, fields, is_open(&structural));
    ty.structural = Some(structural);
    let id = schema.declare(name)?;
    schema.define(id, ty);
    Ok(id)
}

/// Whether fields that are not declared are kept.
fn is_open(node: &Structural) -> bool {
    node.preserve || matches!(node.additional, Additional::Any)
}

fn fields(schema: &mut Schema, node: &Structural, path: &str) -> Result<Vec<Field>, SchemaError> {
    let mut out = Vec::with_capacity(node.properties.len());
    for (name, below) in &node.properties {
        let mut field = Field::new(name.clone(), ty(schema, below, &format!("{path}.{name}"))?);
        field.topology = if matches!(field.ty, Type::List(_)) { below.topology.clone() } else { Topology::Atomic };
        field.atomic = below.atomic;
        field.default = below.default.clone();
        out.push(field);
    }
    Ok(out)
}

fn ty(schema: &mut Schema, node: &Structural, path: &str) -> Result<Type, SchemaError> {
    if node.atomic {
        return Ok(Type::Json);
    }
    Ok(match (node.sort, &node.items, &node.additional) {
        (Sort::Array, Some(items), _) => Type::List(Box::new(ty(schema, items, path)?)),
        (Sort::Object, _, Additional::Each(each)) if node.properties.is_empty() => Type::Map(Box::new(ty(schema, each, path)?)),
        (Sort::Object, _, _) if !node.properties.is_empty() => {
            let fields = fields(schema, node, path)?;
            let id = schema.declare(path)?;
            schema.define(id, StructType::custom(path, fields, is_open(node)));
            Type::Struct(id)
        }
        (Sort::String, ..) => Type::String,
        (Sort::Integer, ..) => Type::Int64,
        (Sort::Boolean, ..) => Type::Bool,
        (Sort::Number, ..) => Type::Float64,
        _ if node.int_or_string => Type::IntOrString,
        (Sort::Object, ..) | (Sort::Any, ..) => Type::Deduced,
        _ => Type::Json,
    })
}
