//! Protobuf to object tree. The tree still has what the wire writes and JSON leaves out: `normalize` drops it.

use std::collections::BTreeMap;

use base64::Engine;

use super::wire::{Item, Reader, WireError};
use crate::json;
use crate::normalize::{format_duration, format_time};
use crate::schema::{Schema, SchemaOr, Type, TypeId};
use crate::value::{Entries, Key, List, Map, Value};

const MAX_DEPTH: usize = 200;

/// Decodes the bare message of a type. Fields that the type does not have are passed over, as gogo does.
pub fn decode(schema: &Schema, ty: TypeId, bytes: &[u8]) -> Result<Value, WireError> {
    structure(schema, ty, bytes, 0)
}

/// What has been read of one field: a repeated field comes in pieces.
#[derive(Default)]
struct Fields {
    single: BTreeMap<Key, Value>,
    lists: BTreeMap<Key, List>,
    maps: BTreeMap<Key, Entries>,
}

impl Fields {
    fn into_map(self) -> Map {
        let lists = self.lists.into_iter().map(|(k, v)| (k, Value::from(v)));
        let maps = self.maps.into_iter().map(|(k, v)| (k, Value::Map(Map::from_entries(v))));
        Map::from_entries(self.single.into_iter().chain(lists).chain(maps).collect())
    }
}

fn structure(schema: &Schema, id: TypeId, bytes: &[u8], depth: usize) -> Result<Value, WireError> {
    let ty = schema.get(id);
    let mut fields = Fields::default();
    read_fields(schema, id, bytes, depth, &mut fields)?;
    if ty.wrapper {
        let name = ty.fields.first().map(|f| f.name.clone());
        let list = name.and_then(|n| fields.lists.remove(&n)).unwrap_or_default();
        return Ok(list.into());
    }
    Ok(Value::Map(fields.into_map()))
}

fn read_fields(schema: &Schema, id: TypeId, bytes: &[u8], depth: usize, out: &mut Fields) -> Result<(), WireError> {
    if depth > MAX_DEPTH {
        return Err(WireError::Depth);
    }
    let ty = schema.get(id);
    let mut reader = Reader::new(bytes);
    while let Some((number, item)) = reader.next()? {
        let Some(field) = ty.fields.iter().find(|f| f.number == number) else { continue };
        let name = field.name.clone();
        match &field.ty {
            Type::Struct(inner) if field.inline => read_fields(schema, *inner, item.bytes()?, depth + 1, out)?,
            Type::List(element) => {
                let value = one(schema, element, item, depth)?;
                out.lists.entry(name).or_default().push(value);
            }
            Type::Map(element) => {
                let entry = map_entry(schema, element, item.bytes()?, depth)?;
                out.maps.entry(name).or_default().push(entry);
            }
            ty => {
                let value = one(schema, ty, item, depth)?;
                out.single.insert(name, value);
            }
        }
    }
    Ok(())
}

fn map_entry(schema: &Schema, element: &Type, bytes: &[u8], depth: usize) -> Result<(Key, Value), WireError> {
    let (mut key, mut value) = (Key::Static(""), None);
    let mut reader = Reader::new(bytes);
    while let Some((number, item)) = reader.next()? {
        match number {
            1 => key = item.text()?.into(),
            2 => value = Some(one(schema, element, item, depth)?),
            _ => {}
        }
    }
    Ok((key, value.unwrap_or(Value::Null)))
}

fn one(schema: &Schema, ty: &Type, item: Item<'_>, depth: usize) -> Result<Value, WireError> {
    Ok(match ty {
        Type::Bool => Value::Bool(item.varint()? != 0),
        Type::Int32 | Type::Int64 => Value::Int(item.varint()? as i64),
        Type::Float64 => match item {
            Item::Fixed64(bits) => Value::Float(f64::from_bits(bits)),
            _ => return Err(WireError::Mismatch),
        },
        Type::String => item.text()?.into(),
        Type::Bytes => base64::engine::general_purpose::STANDARD.encode(item.bytes()?).into(),
        Type::Struct(id) => structure(schema, *id, item.bytes()?, depth + 1)?,
        Type::Time | Type::MicroTime => time(item.bytes()?, *ty == Type::MicroTime)?,
        Type::Duration => Value::from(format_duration(Message::read(item)?.int(1)?)),
        Type::Quantity => Message::read(item)?.text(1)?.into(),
        Type::IntOrString => {
            let message = Message::read(item)?;
            if message.int(1)? == 0 { Value::Int(message.int(2)?) } else { message.text(3)?.into() }
        }
        Type::RawExtension | Type::Json | Type::Deduced | Type::FieldsV1 => match Message::read(item)?.find(1) {
            Some(raw) if !raw.bytes()?.is_empty() => json::from_slice(raw.bytes()?)?,
            _ => Value::Null,
        },
        Type::SchemaOr(form, id) => schema_or(schema, *form, *id, item, depth)?,
        // Lists of lists do not exist on the wire.
        Type::List(_) | Type::Map(_) => return Err(WireError::Mismatch),
    })
}

/// The fields of a small message.
struct Message<'a>(Vec<(u32, Item<'a>)>);

impl<'a> Message<'a> {
    fn read(item: Item<'a>) -> Result<Self, WireError> {
        let mut reader = Reader::new(item.bytes()?);
        let mut all = Vec::new();
        while let Some(field) = reader.next()? {
            all.push(field);
        }
        Ok(Self(all))
    }

    fn find(&self, number: u32) -> Option<Item<'a>> {
        self.0.iter().rev().find(|(n, _)| *n == number).map(|(_, i)| *i)
    }

    fn int(&self, number: u32) -> Result<i64, WireError> {
        self.find(number).map_or(Ok(0), |i| i.varint().map(|n| n as i64))
    }

    fn text(&self, number: u32) -> Result<&'a str, WireError> {
        self.find(number).map_or(Ok(""), |i| i.text())
    }
}

fn time(bytes: &[u8], micro: bool) -> Result<Value, WireError> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let message = Message::read(Item::Bytes(bytes))?;
    let nanos = if micro { message.int(2)? } else { 0 };
    let time = jiff::Timestamp::new(message.int(1)?, i32::try_from(nanos).unwrap_or(0));
    Ok(time.map_or(Value::Null, |t| format_time(t, if micro { 6 } else { 0 }).into()))
}

fn schema_or(schema: &Schema, form: SchemaOr, id: TypeId, item: Item<'_>, depth: usize) -> Result<Value, WireError> {
    let message = Message::read(item)?;
    let nested = |item: Item<'_>| structure(schema, id, item.bytes()?, depth + 1);
    match form {
        SchemaOr::Bool => match message.find(2) {
            Some(inner) => nested(inner),
            None => Ok(Value::Bool(message.int(1)? != 0)),
        },
        SchemaOr::Array | SchemaOr::StringArray => {
            if let Some(inner) = message.find(1) {
                return nested(inner);
            }
            let parts = message.0.iter().filter(|(n, _)| *n == 2).map(|(_, i)| *i);
            let list: Result<Vec<Value>, WireError> = match form {
                SchemaOr::StringArray => parts.map(|i| i.text().map(Value::from)).collect(),
                _ => parts.map(nested).collect(),
            };
            list.map(Value::from)
        }
    }
}
