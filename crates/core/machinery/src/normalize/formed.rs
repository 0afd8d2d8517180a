//! Whether an object has the form already that decoding would give it: most objects that are written have, and are left as they are.

use super::{format_duration, format_time, is_zero, parse_duration};
use crate::quantity::Quantity;
use crate::schema::{Field, Schema, Type, TypeId};
use crate::value::{Value, order};

/// Whether `decode`, or `decode_stored` where it is for what is stored, would return the same object and name no unknown fields. Of
/// custom resources and of schemas in definitions, which decoding looks at as a whole, it says no.
pub fn is_formed(schema: &Schema, ty: TypeId, value: &Value, stored: bool) -> bool {
    Look { schema, stored }.structure(ty, value, true)
}

struct Look<'a> {
    schema: &'a Schema,
    stored: bool,
}

impl Look<'_> {
    fn structure(&self, id: TypeId, value: &Value, root: bool) -> bool {
        let ty = self.schema.get(id);
        if ty.wrapper {
            return self.value(&ty.fields[0].ty, value);
        }
        let (None, Value::Map(map)) = (&ty.structural, value) else { return false };
        // Both are sorted by name.
        let mut fields = ty.json_fields().iter().peekable();
        for (key, item) in map.iter() {
            let mut missing = false;
            while let Some(before) = fields.next_if(|f| order(&f.name, key).is_lt()) {
                missing |= before.filled;
            }
            let fits = match fields.next_if(|f| f.name == *key) {
                Some(field) => self.field(field, item),
                None => (root || ty.typed) && matches!(key.as_str(), "apiVersion" | "kind") && matches!(item, Value::String(_)),
            };
            if missing || !fits {
                return false;
            }
        }
        fields.all(|f| !f.filled)
    }

    fn field(&self, field: &Field, item: &Value) -> bool {
        let any = matches!(field.ty, Type::Json | Type::Deduced);
        if item.is_null() && !any {
            return field.filled && !field.pointer && is_null_when_zero(&field.ty);
        }
        let zero = is_zero(field, item);
        let becomes_null = self.stored && zero && field.filled && matches!(field.ty, Type::List(_) | Type::Map(_));
        let dropped = zero && !field.filled && (!field.pointer || item.is_null());
        !becomes_null && !dropped && self.value(&field.ty, item)
    }

    fn value(&self, ty: &Type, value: &Value) -> bool {
        let element = |ty: &Type, value: &Value| if value.is_null() { is_null_when_zero(ty) } else { self.value(ty, value) };
        match (ty, value) {
            (Type::Struct(id), value) => self.structure(*id, value, false),
            (Type::List(item), Value::List(list)) => list.iter().all(|v| element(item, v)),
            (Type::Map(item), Value::Map(map)) => map.iter().all(|(_, v)| element(item, v)),
            (Type::List(_) | Type::Map(_), Value::Null) => true,
            (Type::RawExtension | Type::Json | Type::FieldsV1 | Type::Deduced, _) => true,
            (Type::SchemaOr(..), _) => false,
            (ty, value) => is_formed_scalar(ty, value),
        }
    }
}

/// Whether null is what Go writes for a field of this type that was not given.
fn is_null_when_zero(ty: &Type) -> bool {
    let told = matches!(ty, Type::Bool | Type::Int32 | Type::Int64 | Type::Float64 | Type::IntOrString | Type::String);
    !told && !matches!(ty, Type::Duration | Type::Quantity | Type::Struct(_))
}

fn is_formed_scalar(ty: &Type, value: &Value) -> bool {
    match (ty, value) {
        (Type::Bool, Value::Bool(_)) | (Type::Int64, Value::Int(_)) | (Type::Float64, Value::Int(_) | Value::Float(_)) => true,
        (Type::Int32 | Type::IntOrString, Value::Int(i)) => i32::try_from(*i).is_ok(),
        (Type::IntOrString | Type::String, Value::String(_)) => true,
        (Type::Bytes, Value::String(s)) => {
            use base64::Engine;
            base64::engine::general_purpose::STANDARD.decode(s.as_bytes()).is_ok()
        }
        (Type::Quantity, Value::String(s)) => s.parse::<Quantity>().is_ok_and(|quantity| quantity.to_string() == *s),
        (Type::Time, Value::String(s)) => s.parse().is_ok_and(|time| format_time(time, 0) == *s),
        (Type::MicroTime, Value::String(s)) => s.parse().is_ok_and(|time| format_time(time, 6) == *s),
        (Type::Duration, Value::String(s)) => parse_duration(s).is_some_and(|nanos| format_duration(nanos) == *s),
        _ => false,
    }
}
