//! Object tree to protobuf.

use base64::Engine;

use super::wire::{put_bytes, put_int, put_tag};
use crate::json;
use crate::normalize::parse_duration;
use crate::schema::{Field, Schema, SchemaOr, Type, TypeId};
use crate::value::Value;

/// The bare message of an object of its type.
pub fn encode(schema: &Schema, ty: TypeId, value: &Value) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    message(schema, ty, value, &mut out);
    out
}

/// The bare message of a list: its metadata, then its items as they were encoded.
pub fn encode_list<'a>(schema: &Schema, list_meta: TypeId, metadata: &Value, items: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024);
    put_bytes(&mut out, 1, &encode(schema, list_meta, metadata));
    items.for_each(|item| put_bytes(&mut out, 2, item));
    out
}

/// A watch frame without its length: the type and the sealed object.
pub fn encode_watch_event(ty: &str, sealed: &[u8]) -> Vec<u8> {
    let mut raw = Vec::with_capacity(sealed.len() + 8);
    put_bytes(&mut raw, 1, sealed);
    let mut out = Vec::with_capacity(raw.len() + 16);
    put_bytes(&mut out, 1, ty.as_bytes());
    put_bytes(&mut out, 2, &raw);
    out
}

fn message(schema: &Schema, id: TypeId, value: &Value, out: &mut Vec<u8>) {
    let ty = schema.get(id);
    if ty.wrapper {
        if let Some(inner) = ty.fields.first() {
            write_field(schema, inner, value, out);
        }
        return;
    }
    for field in schema.by_number(id) {
        match (&field.ty, field.inline) {
            (Type::Struct(inner), true) => nested(schema, *inner, field.number, value, out),
            _ => match value.get(&field.name).filter(|v| !v.is_null()) {
                Some(item) => write_field(schema, field, item, out),
                None if !field.pointer => write_zero(schema, field, out),
                None => {}
            },
        }
    }
}

fn nested(schema: &Schema, id: TypeId, number: u32, value: &Value, out: &mut Vec<u8>) {
    let mut inner = Vec::new();
    message(schema, id, value, &mut inner);
    put_bytes(out, number, &inner);
}

/// What is written for a plain field that is absent.
fn write_zero(schema: &Schema, field: &Field, out: &mut Vec<u8>) {
    match &field.ty {
        Type::Bool | Type::Int32 | Type::Int64 => put_int(out, field.number, 0),
        Type::Float64 => put_float(out, field.number, 0.0),
        Type::String => put_bytes(out, field.number, b""),
        Type::Struct(id) if schema.get(*id).wrapper => {}
        Type::Struct(id) => nested(schema, *id, field.number, &Value::Null, out),
        Type::Time | Type::MicroTime | Type::RawExtension | Type::Json | Type::Deduced => put_bytes(out, field.number, b""),
        Type::Duration => put_bytes(out, field.number, &[8, 0]),
        Type::Quantity => put_bytes(out, field.number, &text_message("0")),
        Type::IntOrString => write_scalar(field.number, &field.ty, &Value::Int(0), out),
        Type::Bytes | Type::FieldsV1 | Type::SchemaOr(..) | Type::List(_) | Type::Map(_) => {}
    }
}

fn text_message(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + 2);
    put_bytes(&mut out, 1, text.as_bytes());
    out
}

fn put_float(out: &mut Vec<u8>, number: u32, value: f64) {
    put_tag(out, number, 1);
    out.extend_from_slice(&value.to_le_bytes());
}

fn write_field(schema: &Schema, field: &Field, value: &Value, out: &mut Vec<u8>) {
    match (&field.ty, value) {
        (Type::List(item), Value::List(list)) => list.iter().for_each(|v| write_item(schema, field.number, item, v, out)),
        (Type::Map(item), Value::Map(map)) => {
            for (key, v) in map.iter() {
                let mut entry = Vec::new();
                put_bytes(&mut entry, 1, key.as_bytes());
                write_item(schema, 2, item, v, &mut entry);
                put_bytes(out, field.number, &entry);
            }
        }
        (ty, value) => write_item(schema, field.number, ty, value, out),
    }
}

fn write_item(schema: &Schema, number: u32, ty: &Type, value: &Value, out: &mut Vec<u8>) {
    match ty {
        Type::Struct(id) => nested(schema, *id, number, value, out),
        Type::SchemaOr(form, id) => {
            let inner = schema_or(schema, *form, *id, value);
            put_bytes(out, number, &inner);
        }
        ty => write_scalar(number, ty, value, out),
    }
}

fn schema_or(schema: &Schema, form: SchemaOr, id: TypeId, value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    match (form, value) {
        (SchemaOr::Bool, Value::Bool(b)) => put_int(&mut out, 1, i64::from(*b)),
        (SchemaOr::Bool, value) => {
            put_int(&mut out, 1, 1);
            nested(schema, id, 2, value, &mut out);
        }
        (SchemaOr::Array, Value::List(list)) => list.iter().for_each(|v| nested(schema, id, 2, v, &mut out)),
        (SchemaOr::StringArray, Value::List(list)) => {
            list.iter().filter_map(Value::as_str).for_each(|s| put_bytes(&mut out, 2, s.as_bytes()));
        }
        (_, value) => nested(schema, id, 1, value, &mut out),
    }
    out
}

fn write_scalar(number: u32, ty: &Type, value: &Value, out: &mut Vec<u8>) {
    let text = value.as_str().unwrap_or_default();
    match ty {
        Type::Bool => put_int(out, number, i64::from(value.as_bool().unwrap_or_default())),
        Type::Int32 | Type::Int64 => put_int(out, number, value.as_int().unwrap_or_default()),
        Type::Float64 => {
            let float = if let Value::Float(f) = value { *f } else { value.as_int().unwrap_or_default() as f64 };
            put_float(out, number, float);
        }
        Type::String => put_bytes(out, number, text.as_bytes()),
        Type::Bytes => {
            let raw = base64::engine::general_purpose::STANDARD.decode(text).unwrap_or_default();
            put_bytes(out, number, &raw);
        }
        Type::Time => put_bytes(out, number, &time_message(text, false)),
        Type::MicroTime => put_bytes(out, number, &time_message(text, true)),
        Type::Duration => {
            let mut inner = Vec::new();
            put_int(&mut inner, 1, parse_duration(text).unwrap_or_default());
            put_bytes(out, number, &inner);
        }
        Type::Quantity => put_bytes(out, number, &text_message(text)),
        Type::IntOrString => {
            let mut inner = Vec::new();
            put_int(&mut inner, 1, i64::from(value.as_str().is_some()));
            put_int(&mut inner, 2, value.as_int().unwrap_or_default());
            put_bytes(&mut inner, 3, text.as_bytes());
            put_bytes(out, number, &inner);
        }
        Type::RawExtension | Type::Json | Type::Deduced | Type::FieldsV1 => {
            let mut inner = Vec::new();
            put_bytes(&mut inner, 1, &json::to_vec(value));
            put_bytes(out, number, &inner);
        }
        Type::Struct(_) | Type::SchemaOr(..) | Type::List(_) | Type::Map(_) => {}
    }
}

fn time_message(text: &str, micro: bool) -> Vec<u8> {
    let Ok(time) = text.parse::<jiff::Timestamp>() else { return Vec::new() };
    let mut out = Vec::with_capacity(12);
    put_int(&mut out, 1, time.as_second());
    put_int(&mut out, 2, if micro { i64::from(time.subsec_nanosecond() / 1000 * 1000) } else { 0 });
    out
}
