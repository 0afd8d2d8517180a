//! Typed views of object trees: serde in both directions, so that code which wants k8s-openapi's structs can have them.

use serde::de::{self, DeserializeOwned, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{self, Serialize};

use crate::value::{Key, List, Map, Value};

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ViewError(String);

impl de::Error for ViewError {
    fn custom<T: std::fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

impl ser::Error for ViewError {
    fn custom<T: std::fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

/// Reads a tree as a typed value.
pub fn from_value<T: DeserializeOwned>(value: &Value) -> Result<T, ViewError> {
    T::deserialize(Reader(value))
}

/// Makes a tree of a typed value.
pub fn to_value<T: Serialize + ?Sized>(typed: &T) -> Result<Value, ViewError> {
    typed.serialize(Writer)
}

struct Reader<'a>(&'a Value);

impl<'a> IntoDeserializer<'a, ViewError> for Reader<'a> {
    type Deserializer = Self;
    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> de::Deserializer<'de> for Reader<'de> {
    type Error = ViewError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ViewError> {
        match self.0 {
            Value::Null => visitor.visit_unit(),
            Value::Bool(b) => visitor.visit_bool(*b),
            Value::Int(i) => visitor.visit_i64(*i),
            Value::Float(f) => visitor.visit_f64(*f),
            Value::String(s) => visitor.visit_borrowed_str(s),
            Value::List(l) => visitor.visit_seq(Items(l.iter())),
            Value::Map(m) => visitor.visit_map(Entries { iter: Box::new(m.iter()), value: None }),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ViewError> {
        if self.0.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, ViewError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(self, _: &'static str, _: &'static [&'static str], visitor: V) -> Result<V::Value, ViewError> {
        match self.0 {
            Value::String(s) => visitor.visit_enum(de::value::BorrowedStrDeserializer::new(s)),
            Value::Map(m) if m.len() == 1 => {
                visitor.visit_enum(de::value::MapAccessDeserializer::new(Entries { iter: Box::new(m.iter()), value: None }))
            }
            other => Err(de::Error::custom(format!("expected an enum, found {}", other.kind_name()))),
        }
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct identifier ignored_any
    }
}

struct Items<'a>(std::slice::Iter<'a, Value>);

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = ViewError;
    fn next_element_seed<T: de::DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, ViewError> {
        self.0.next().map(|v| seed.deserialize(Reader(v))).transpose()
    }
}

struct Entries<'a> {
    iter: Box<dyn Iterator<Item = (&'a Key, &'a Value)> + 'a>,
    value: Option<&'a Value>,
}

impl<'de> MapAccess<'de> for Entries<'de> {
    type Error = ViewError;

    fn next_key_seed<K: de::DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, ViewError> {
        let Some((key, value)) = self.iter.next() else { return Ok(None) };
        self.value = Some(value);
        seed.deserialize(de::value::BorrowedStrDeserializer::new(key.as_str())).map(Some)
    }

    fn next_value_seed<V: de::DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, ViewError> {
        let value = self.value.take().ok_or_else(|| ViewError("value asked for before its key".into()))?;
        seed.deserialize(Reader(value))
    }
}

impl<'de> serde::Deserialize<'de> for Value {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("any value")
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_some<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
    fn visit_bool<E>(self, b: bool) -> Result<Value, E> {
        Ok(Value::Bool(b))
    }
    fn visit_i64<E>(self, i: i64) -> Result<Value, E> {
        Ok(Value::Int(i))
    }
    fn visit_u64<E>(self, i: u64) -> Result<Value, E> {
        Ok(i64::try_from(i).map_or(Value::Float(i as f64), Value::Int))
    }
    fn visit_f64<E>(self, f: f64) -> Result<Value, E> {
        Ok(Value::Float(f))
    }
    fn visit_str<E>(self, s: &str) -> Result<Value, E> {
        Ok(s.into())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut list = List::new();
        while let Some(item) = seq.next_element()? {
            list.push(item);
        }
        Ok(list.into())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = crate::value::Entries::new();
        while let Some((key, value)) = map.next_entry::<String, Value>()? {
            entries.push((Key::from(key), value));
        }
        Ok(Value::Map(Map::from_entries(entries)))
    }
}

impl Serialize for Value {
    fn serialize<S: ser::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Value::Null => serializer.serialize_unit(),
            Value::Bool(b) => serializer.serialize_bool(*b),
            Value::Int(i) => serializer.serialize_i64(*i),
            Value::Float(f) => serializer.serialize_f64(*f),
            Value::String(s) => serializer.serialize_str(s),
            Value::List(l) => serializer.collect_seq(l.iter()),
            Value::Map(m) => serializer.collect_map(m.iter().map(|(k, v)| (k.as_str(), v))),
        }
    }
}

struct Writer;

/// Collects the elements of a list.
struct ListWriter(List);

/// Collects the entries of a map, struct or struct variant.
struct MapWriter {
    variant: Option<&'static str>,
    key: Option<Key>,
    entries: crate::value::Entries,
}

impl MapWriter {
    fn new(variant: Option<&'static str>) -> Self {
        Self { variant, key: None, entries: crate::value::Entries::new() }
    }

    fn finish(self) -> Value {
        let value = Value::Map(Map::from_entries(self.entries));
        match self.variant {
            Some(name) => Value::Map([(name, value)].into_iter().collect()),
            None => value,
        }
    }
}

macro_rules! write_scalar {
    ($($method:ident: $ty:ty => |$v:ident| $make:expr;)*) => {
        $(fn $method(self, $v: $ty) -> Result<Value, ViewError> { Ok($make) })*
    };
}

impl ser::Serializer for Writer {
    type Ok = Value;
    type Error = ViewError;
    type SerializeSeq = ListWriter;
    type SerializeTuple = ListWriter;
    type SerializeTupleStruct = ListWriter;
    type SerializeTupleVariant = ser::Impossible<Value, ViewError>;
    type SerializeMap = MapWriter;
    type SerializeStruct = MapWriter;
    type SerializeStructVariant = MapWriter;

    write_scalar! {
        serialize_bool: bool => |v| Value::Bool(v);
        serialize_i8: i8 => |v| Value::Int(v.into());
        serialize_i16: i16 => |v| Value::Int(v.into());
        serialize_i32: i32 => |v| Value::Int(v.into());
        serialize_i64: i64 => |v| Value::Int(v);
        serialize_u8: u8 => |v| Value::Int(v.into());
        serialize_u16: u16 => |v| Value::Int(v.into());
        serialize_u32: u32 => |v| Value::Int(v.into());
        serialize_u64: u64 => |v| i64::try_from(v).map_or(Value::Float(v as f64), Value::Int);
        serialize_f32: f32 => |v| Value::Float(v.into());
        serialize_f64: f64 => |v| Value::Float(v);
        serialize_char: char => |v| Value::from(v.to_string());
        serialize_str: &str => |v| Value::from(v);
        serialize_bytes: &[u8] => |v| Value::from(v.iter().map(|b| Value::Int((*b).into())).collect::<Vec<_>>());
    }

    fn serialize_none(self) -> Result<Value, ViewError> {
        Ok(Value::Null)
    }
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<Value, ViewError> {
        value.serialize(self)
    }
    fn serialize_unit(self) -> Result<Value, ViewError> {
        Ok(Value::Null)
    }
    fn serialize_unit_struct(self, _: &'static str) -> Result<Value, ViewError> {
        Ok(Value::Null)
    }
    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Result<Value, ViewError> {
        Ok(variant.into())
    }
    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result<Value, ViewError> {
        value.serialize(self)
    }
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<Value, ViewError> {
        Ok(Value::Map([(variant, value.serialize(Writer)?)].into_iter().collect()))
    }
    fn serialize_seq(self, len: Option<usize>) -> Result<ListWriter, ViewError> {
        Ok(ListWriter(List::with_capacity(len.unwrap_or(0))))
    }
    fn serialize_tuple(self, len: usize) -> Result<ListWriter, ViewError> {
        self.serialize_seq(Some(len))
    }
    fn serialize_tuple_struct(self, _: &'static str, len: usize) -> Result<ListWriter, ViewError> {
        self.serialize_seq(Some(len))
    }
    fn serialize_tuple_variant(
        self,
        name: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleVariant, ViewError> {
        Err(ViewError(format!("{name}: tuple variants have no form in the API")))
    }
    fn serialize_map(self, _: Option<usize>) -> Result<MapWriter, ViewError> {
        Ok(MapWriter::new(None))
    }
    fn serialize_struct(self, _: &'static str, _: usize) -> Result<MapWriter, ViewError> {
        Ok(MapWriter::new(None))
    }
    fn serialize_struct_variant(self, _: &'static str, _: u32, variant: &'static str, _: usize) -> Result<MapWriter, ViewError> {
        Ok(MapWriter::new(Some(variant)))
    }
}

macro_rules! write_list {
    ($($trait:ident :: $method:ident),*) => {
        $(impl ser::$trait for ListWriter {
            type Ok = Value;
            type Error = ViewError;
            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), ViewError> {
                self.0.push(value.serialize(Writer)?);
                Ok(())
            }
            fn end(self) -> Result<Value, ViewError> {
                Ok(self.0.into())
            }
        })*
    };
}
write_list!(SerializeSeq::serialize_element, SerializeTuple::serialize_element, SerializeTupleStruct::serialize_field);

impl ser::SerializeMap for MapWriter {
    type Ok = Value;
    type Error = ViewError;
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), ViewError> {
        let key = key.serialize(Writer)?;
        self.key = Some(crate::json::text(&key).into());
        Ok(())
    }
    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), ViewError> {
        let key = self.key.take().ok_or_else(|| ViewError("value written before its key".into()))?;
        self.entries.push((key, value.serialize(Writer)?));
        Ok(())
    }
    fn end(self) -> Result<Value, ViewError> {
        Ok(self.finish())
    }
}

macro_rules! write_struct {
    ($($trait:ident),*) => {
        $(impl ser::$trait for MapWriter {
            type Ok = Value;
            type Error = ViewError;
            fn serialize_field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result<(), ViewError> {
                self.entries.push((Key::Static(key), value.serialize(Writer)?));
                Ok(())
            }
            fn end(self) -> Result<Value, ViewError> {
                Ok(self.finish())
            }
        })*
    };
}
write_struct!(SerializeStruct, SerializeStructVariant);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object;

    #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
    struct Typed {
        name: String,
        count: Option<i32>,
        tags: std::collections::BTreeMap<String, f64>,
        list: Vec<bool>,
    }

    #[test]
    fn a_typed_view_and_its_tree_are_the_same() {
        let tree = object!({ "name": "x", "count": 3, "tags": { "a": 1.5 }, "list": [true] });
        let typed: Typed = from_value(&tree).unwrap();
        assert_eq!(typed.count, Some(3));
        assert_eq!(to_value(&typed).unwrap(), tree);
    }

    #[test]
    fn a_view_of_the_wrong_shape_is_an_error() {
        assert!(from_value::<Typed>(&object!({ "name": 1 })).is_err());
    }
}
