//! Decoding by description: an untyped tree becomes an object of its type. Unknown fields are dropped and reported, scalars
//! are checked and brought to canonical form, and what Go's encoder would leave out or fill in is left out or filled in, so
//! that the tree's JSON is the one a Kubernetes user knows.

mod formed;

use std::fmt::Write;

use crate::quantity::Quantity;
use crate::schema::{Field, Schema, SchemaOr, StructType, Type, TypeId};
use crate::structural::{Pruning, Structural};
use crate::value::{Entries, Key, List, Map, Text, Value};

/// A value of the wrong type, in the words of Go's decoder.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum TypeError {
    /// Another sort of value than the one that belongs there.
    #[error("json: cannot unmarshal {} into Go {place}{wanted}", .found.kind_name())]
    Sort { found: Value, place: String, wanted: String, to: Sort },
    /// A text that does not have its form.
    #[error("{0}")]
    Form(String),
}

/// What a value is to become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sort {
    Struct,
    List,
    Map,
    Scalar,
    /// What reads its own JSON.
    Own,
}

impl TypeError {
    /// The same in the words of the converter that upstream's strategic merge patches go through; see FromUnstructured.
    pub fn converting(&self) -> String {
        let Self::Sort { found, wanted, to, .. } = self else { return self.to_string() };
        let (sort, name) = match found {
            Value::Null => ("invalid", "nil"),
            Value::Bool(_) => ("bool", "bool"),
            Value::Int(_) => ("int64", "int64"),
            Value::Float(_) => ("float64", "float64"),
            Value::String(_) => ("string", "string"),
            Value::List(_) => ("slice", "[]interface {}"),
            Value::Map(_) => ("map", "map[string]interface {}"),
        };
        match to {
            Sort::Struct => format!("cannot restore struct from: {sort}"),
            Sort::List => format!("cannot restore slice from {sort}"),
            Sort::Map => format!("cannot restore map from {sort}"),
            // Go turns numbers into each other, and whole ones into texts of one letter, which is refused by name.
            Sort::Scalar if matches!(found, Value::Int(_)) && wanted == "string" => format!("cannot convert {name} to {wanted}"),
            Sort::Scalar => format!("unrecognized type: {wanted}"),
            Sort::Own => self.to_string(),
        }
    }
}

/// An object of its type, and the paths of the fields that its type does not have.
#[derive(Debug, PartialEq)]
pub struct Decoded {
    pub value: Value,
    pub unknown: Vec<String>,
}

/// Decodes an object of a root type: beside its type's fields it may carry `apiVersion` and `kind`.
pub fn decode(schema: &Schema, ty: TypeId, value: Value) -> Result<Decoded, TypeError> {
    let mut walk = Walk { schema, path: String::new(), unknown: Vec::new(), sparse: false, stored: false };
    let value = walk.structure(ty, value, true)?;
    Ok(Decoded { value, unknown: walk.unknown })
}

/// As `decode`, but keeps what was given and nothing else: no zero value is filled in or left out. For configurations
/// that are applied, which state some fields of an object.
pub fn decode_sparse(schema: &Schema, ty: TypeId, value: Value) -> Result<Decoded, TypeError> {
    let mut walk = Walk { schema, path: String::new(), unknown: Vec::new(), sparse: true, stored: false };
    let value = walk.structure(ty, value, true)?;
    Ok(Decoded { value, unknown: walk.unknown })
}

/// As `decode`, for what is stored: lists and maps without elements are null where they are always written, as objects that
/// went through the protobuf encoding have them.
pub fn decode_stored(schema: &Schema, ty: TypeId, value: Value) -> Result<Decoded, TypeError> {
    let mut walk = Walk { schema, path: String::new(), unknown: Vec::new(), sparse: false, stored: true };
    let value = walk.structure(ty, value, true)?;
    Ok(Decoded { value, unknown: walk.unknown })
}

pub use formed::is_formed;

struct Walk<'a> {
    schema: &'a Schema,
    path: String,
    unknown: Vec<String>,
    sparse: bool,
    stored: bool,
}

impl Walk<'_> {
    fn mismatch<T>(&self, value: Value, go_type: &str, to: Sort) -> Result<T, TypeError> {
        let place = if self.path.is_empty() { String::new() } else { format!("struct field {} of type ", self.path) };
        Err(TypeError::Sort { found: value, place, wanted: go_type.into(), to })
    }

    fn structure(&mut self, id: TypeId, value: Value, root: bool) -> Result<Value, TypeError> {
        let ty = self.schema.get(id);
        if ty.wrapper {
            return self.value(&ty.fields[0].ty, value);
        }
        if let Some(structural) = &ty.structural {
            return self.custom(ty, structural, value);
        }
        let map = match value {
            Value::Map(map) => map,
            Value::Null => Map::new(),
            other => return self.mismatch(other, &ty.name, Sort::Struct),
        };
        let mut entries = map.into_entries();
        // What is kept moves up to what was kept before it: no second list is made.
        let mut kept = 0;
        let places = entries.make_mut();
        for i in 0..places.len() {
            let (key, item) = std::mem::replace(&mut places[i], (Key::Static(""), Value::Null));
            let item = match ty.field(&key) {
                Some(field) => {
                    let back = self.step(&key);
                    let item = self.field(field, item)?;
                    self.path.truncate(back);
                    item.map(|item| (field.name.clone(), item))
                }
                None => self.unknown_or_type_meta(key, item, root || ty.typed)?,
            };
            if let Some(item) = item {
                places[kept] = item;
                kept += 1;
            }
        }
        entries.truncate(kept);
        let sparse = self.sparse;
        for field in ty.filled_fields().filter(|_| !sparse) {
            let present = entries.iter().any(|(k, _)| *k == field.name);
            if !present {
                entries.push((field.name.clone(), self.zero(field)?));
            }
        }
        Ok(Value::Map(Map::from_entries(entries)))
    }

    /// A custom resource: its metadata is decoded as everyone's, the rest is pruned and otherwise left as it is.
    fn custom(&mut self, ty: &StructType, structural: &Structural, value: Value) -> Result<Value, TypeError> {
        let metadata = ty.field("metadata");
        let metadata_type = metadata.and_then(|f| match f.ty {
            Type::Struct(id) => Some(id),
            _ => None,
        });
        let map = match value {
            Value::Map(map) => map,
            Value::Null => Map::new(),
            other => return self.mismatch(other, &ty.name, Sort::Struct),
        };
        let (mut own, mut rest) = (Entries::new(), Entries::new());
        for (key, item) in map.into_entries() {
            match (key.as_str(), metadata) {
                ("apiVersion" | "kind", _) => own.extend(self.unknown_or_type_meta(key, item, true)?),
                ("metadata", Some(field)) => {
                    let back = self.step(&key);
                    let item = self.field(field, item)?;
                    self.path.truncate(back);
                    own.extend(item.map(|item| (key, item)));
                }
                _ => rest.push((key, item)),
            }
        }
        let mut pruning = Pruning { schema: self.schema, metadata: metadata_type, path: self.path.clone(), unknown: &mut self.unknown };
        let rest = pruning.prune(structural, Value::Map(Map::from_entries(rest)))?;
        own.extend(rest.as_map().cloned().unwrap_or_default().into_entries());
        if let Some(field) = metadata.filter(|_| !self.sparse && own.iter().all(|(k, _)| *k != "metadata")) {
            own.push((field.name.clone(), self.zero(field)?));
        }
        Ok(Value::Map(Map::from_entries(own)))
    }

    fn step(&mut self, key: &str) -> usize {
        let back = self.path.len();
        if back > 0 {
            self.path.push('.');
        }
        self.path.push_str(key);
        back
    }

    fn unknown_or_type_meta(&mut self, key: Key, item: Value, root: bool) -> Result<Option<(Key, Value)>, TypeError> {
        let back = self.step(&key);
        let entry = match item {
            _ if !root || !matches!(key.as_str(), "apiVersion" | "kind") => {
                self.unknown.push(self.path.clone());
                None
            }
            Value::String(_) => Some((key, item)),
            Value::Null => None,
            other => return self.mismatch(other, "string", Sort::Scalar),
        };
        self.path.truncate(back);
        Ok(entry)
    }

    /// The value of a present field, or None where Go would leave it out.
    fn field(&mut self, field: &Field, item: Value) -> Result<Option<Value>, TypeError> {
        if item.is_null() && !matches!(field.ty, Type::Json | Type::Deduced) {
            return if self.sparse {
                Ok(Some(Value::Null))
            } else if field.filled && !field.pointer {
                self.zero(field).map(Some)
            } else {
                Ok(None)
            };
        }
        let item = self.value(&field.ty, item)?;
        let zero = is_zero(field, &item);
        if self.stored && zero && field.filled && matches!(field.ty, Type::List(_) | Type::Map(_)) {
            return Ok(Some(Value::Null));
        }
        let drop = zero && !self.sparse && !field.filled && (!field.pointer || item.is_null());
        Ok((!drop).then_some(item))
    }

    /// What Go writes for a field that was not given.
    fn zero(&mut self, field: &Field) -> Result<Value, TypeError> {
        Ok(match &field.ty {
            _ if field.pointer => Value::Null,
            Type::Bool => Value::Bool(false),
            Type::Int32 | Type::Int64 | Type::Float64 | Type::IntOrString => Value::Int(0),
            Type::String => "".into(),
            Type::Duration => "0s".into(),
            Type::Quantity => "0".into(),
            Type::Struct(id) => self.structure(*id, Value::Null, false)?,
            _ => Value::Null,
        })
    }

    fn value(&mut self, ty: &Type, value: Value) -> Result<Value, TypeError> {
        match (ty, value) {
            (Type::Struct(id), value) => self.structure(*id, value, false),
            (Type::List(item), Value::List(list)) => self.list(item, list),
            (Type::List(_) | Type::Map(_), Value::Null) => Ok(Value::Null),
            (Type::Map(item), Value::Map(map)) => self.map(item, map),
            (Type::RawExtension | Type::Json | Type::FieldsV1 | Type::Deduced, value) => Ok(value),
            (Type::SchemaOr(form, id), value) => self.schema_or(*form, *id, value),
            (ty, value) => self.scalar(ty, value),
        }
    }

    fn list(&mut self, item: &Type, list: List) -> Result<Value, TypeError> {
        let mut list = list;
        for (i, place) in list.make_mut().iter_mut().enumerate() {
            let back = self.path.len();
            // Writing to a String cannot fail.
            let _ = write!(self.path, "[{i}]");
            *place = match std::mem::take(place) {
                Value::Null => self.zero(&element(item))?,
                value => self.value(item, value)?,
            };
            self.path.truncate(back);
        }
        Ok(Value::List(list))
    }

    fn map(&mut self, item: &Type, map: Map) -> Result<Value, TypeError> {
        let mut map = map;
        for (key, place) in map.iter_mut() {
            let back = self.step(key);
            *place = match std::mem::take(place) {
                Value::Null => self.zero(&element(item))?,
                value => self.value(item, value)?,
            };
            self.path.truncate(back);
        }
        Ok(Value::Map(map))
    }

    fn schema_or(&mut self, form: SchemaOr, id: TypeId, value: Value) -> Result<Value, TypeError> {
        match (form, value) {
            (_, Value::Map(map)) => self.structure(id, Value::Map(map), false),
            (SchemaOr::Bool, value @ Value::Bool(_)) => Ok(value),
            (SchemaOr::Array, Value::List(list)) => self.list(&Type::Struct(id), list),
            (SchemaOr::StringArray, Value::List(list)) => self.list(&Type::String, list),
            (_, other) => self.mismatch(other, "JSONSchemaProps", Sort::Own),
        }
    }

    fn scalar(&self, ty: &Type, value: Value) -> Result<Value, TypeError> {
        match (ty, value) {
            (Type::Bool, value @ Value::Bool(_)) => Ok(value),
            (Type::Int32, Value::Int(i)) if i32::try_from(i).is_ok() => Ok(Value::Int(i)),
            (Type::Int64, value @ Value::Int(_)) => Ok(value),
            (Type::IntOrString, Value::Int(i)) if i32::try_from(i).is_ok() => Ok(Value::Int(i)),
            (Type::IntOrString | Type::String, value @ Value::String(_)) => Ok(value),
            (Type::Float64, value @ (Value::Int(_) | Value::Float(_))) => Ok(value),
            (Type::Bytes, Value::String(s)) => self.bytes(s),
            (Type::Quantity, Value::String(s)) => self.quantity(&s),
            (Type::Quantity, value @ (Value::Int(_) | Value::Float(_))) => self.quantity(&crate::json::to_string(&value)),
            (Type::Time, Value::String(s)) => self.time(&s, 0),
            (Type::MicroTime, Value::String(s)) => self.time(&s, 6),
            (Type::Duration, Value::String(s)) => self.duration(&s),
            (ty, value) => self.mismatch(value, go_name(ty), sort(ty)),
        }
    }

    fn bytes(&self, text: Text) -> Result<Value, TypeError> {
        use base64::Engine;
        if let Err(e) = base64::engine::general_purpose::STANDARD.decode(text.as_bytes()) {
            let at = match e {
                base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _) => at,
                _ => text.len(),
            };
            return Err(TypeError::Form(format!("illegal base64 data at input byte {at}")));
        }
        Ok(Value::String(text))
    }

    fn quantity(&self, text: &str) -> Result<Value, TypeError> {
        let quantity: Quantity = text.trim().parse().map_err(|e| TypeError::Form(format!("{e}")))?;
        Ok(quantity.to_string().into())
    }

    fn time(&self, text: &str, digits: u8) -> Result<Value, TypeError> {
        let bad = || TypeError::Form(format!("parsing time {text:?}: {}: not RFC 3339", self.path));
        let time: jiff::Timestamp = text.parse().map_err(|_| bad())?;
        Ok(format_time(time, digits).into())
    }

    fn duration(&self, text: &str) -> Result<Value, TypeError> {
        let nanos = parse_duration(text).ok_or_else(|| TypeError::Form(format!("time: invalid duration {text:?}")))?;
        Ok(format_duration(nanos).into())
    }
}

/// Whether a field's value is the one that Go takes for none.
fn is_zero(field: &Field, item: &Value) -> bool {
    match item {
        Value::Bool(b) => !b,
        Value::Int(i) => *i == 0,
        Value::Float(f) => *f == 0.0,
        Value::String(s) => s.is_empty(),
        Value::List(l) => l.is_empty(),
        Value::Map(m) => m.is_empty() && (matches!(field.ty, Type::Map(_)) || field.omit_zero),
        Value::Null => true,
    }
}

/// A list element or map value has no flags of its own.
fn element(ty: &Type) -> Field {
    Field { always: true, filled: true, ..Field::new(Key::Static(""), ty.clone()) }
}

fn sort(ty: &Type) -> Sort {
    match ty {
        Type::List(_) | Type::Bytes => Sort::List,
        Type::Map(_) => Sort::Map,
        Type::Bool | Type::Int32 | Type::Int64 | Type::Float64 | Type::String => Sort::Scalar,
        _ => Sort::Own,
    }
}

fn go_name(ty: &Type) -> &'static str {
    match ty {
        Type::Bool => "bool",
        Type::Int32 => "int32",
        Type::Int64 => "int64",
        Type::Float64 => "float64",
        Type::String => "string",
        Type::Bytes => "[]uint8",
        Type::Time => "v1.Time",
        Type::MicroTime => "v1.MicroTime",
        Type::Duration => "v1.Duration",
        Type::Quantity => "resource.Quantity",
        Type::IntOrString => "intstr.IntOrString",
        Type::List(_) => "slice",
        Type::Map(_) => "map",
        _ => "struct",
    }
}

/// RFC 3339 in UTC with a fixed number of digits behind the second.
pub fn format_time(time: jiff::Timestamp, digits: u8) -> String {
    let civil = jiff::tz::Offset::UTC.to_datetime(time);
    let mut out = String::with_capacity(20 + usize::from(digits));
    push_number(&mut out, i64::from(civil.year().max(0)), 4);
    for (sign, part) in [('-', civil.month()), ('-', civil.day()), ('T', civil.hour()), (':', civil.minute()), (':', civil.second())] {
        out.push(sign);
        push_number(&mut out, i64::from(part), 2);
    }
    if digits > 0 {
        out.push('.');
        let cut = 10_i64.pow(9 - u32::from(digits.min(9)));
        push_number(&mut out, i64::from(civil.subsec_nanosecond()) / cut, digits.min(9));
    }
    out.push('Z');
    out
}

/// A number with zeros before it, where it has fewer digits.
fn push_number(out: &mut String, number: i64, digits: u8) {
    let mut rest = number;
    let mut text = [b'0'; 20];
    for place in text.iter_mut().rev() {
        *place = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    let first = text.iter().position(|d| *d != b'0').unwrap_or(text.len()).min(text.len() - usize::from(digits));
    out.extend(text[first..].iter().map(|d| char::from(*d)));
}

/// Reads Go's duration text into nanoseconds; None where it is malformed.
pub fn parse_duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    let mut total = 0f64;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        let after = &rest[digits..];
        let unit_len = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let scale = match &after[..unit_len] {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return None,
        };
        total += number * scale;
        rest = &after[unit_len..];
    }
    let nanos = total.round() as i64;
    Some(if negative { -nanos } else { nanos })
}

/// Go's duration text: `1h0m5.5s`, `15ms`, `0s`.
pub fn format_duration(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let n = nanos.unsigned_abs();
    let fraction = |value: u64, scale: u64| {
        let text = format!("{}.{:0width$}", value / scale, value % scale, width = scale.ilog10() as usize);
        text.trim_end_matches('0').trim_end_matches('.').to_string()
    };
    match n {
        0 => "0s".into(),
        1..1_000 => format!("{sign}{n}ns"),
        1_000..1_000_000 => format!("{sign}{}µs", fraction(n, 1_000)),
        1_000_000..1_000_000_000 => format!("{sign}{}ms", fraction(n, 1_000_000)),
        _ => {
            let seconds = n / 1_000_000_000;
            let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
            let rest = fraction(n % 60_000_000_000, 1_000_000_000);
            match (hours, minutes) {
                (0, 0) => format!("{sign}{rest}s"),
                (0, m) => format!("{sign}{m}m{rest}s"),
                (h, m) => format!("{sign}{h}h{m}m{rest}s"),
            }
        }
    }
}

/// Fills in the unconditional defaults of the description wherever a field is absent.
pub fn apply_defaults(schema: &Schema, ty: TypeId, value: &mut Value) {
    if let Some(structural) = &schema.get(ty).structural {
        structural.apply_defaults(value);
    } else if lacks_default(schema, ty, value) {
        default_struct(schema, ty, value);
    }
}

/// Whether a default of this field is missing among these.
fn is_missing(field: &Field, map: &Map) -> bool {
    field.default.is_some() && map.get(&field.name).is_none_or(|v| v.is_null() || (!field.pointer && v.as_str() == Some("")))
}

/// Whether anything is to be filled in. What shares its parts with a former object, as nearly every update does, goes on sharing them
/// where nothing is.
fn lacks_default(schema: &Schema, ty: TypeId, value: &Value) -> bool {
    let Value::Map(map) = value else { return false };
    let lacks = |field: &Field| is_missing(field, map) || map.get(&field.name).is_some_and(|item| lacks_below(schema, &field.ty, item));
    schema.get(ty).defaulting_fields().any(lacks)
}

fn lacks_below(schema: &Schema, ty: &Type, value: &Value) -> bool {
    match (ty, value) {
        (Type::Struct(id), value) if !schema.get(*id).wrapper => lacks_default(schema, *id, value),
        (Type::List(item), Value::List(list)) => list.iter().any(|v| lacks_below(schema, item, v)),
        (Type::Map(item), Value::Map(map)) => map.iter().any(|(_, v)| lacks_below(schema, item, v)),
        _ => false,
    }
}

fn default_struct(schema: &Schema, ty: TypeId, value: &mut Value) {
    let Value::Map(map) = value else { return };
    for field in schema.get(ty).defaulting_fields() {
        if is_missing(field, map) {
            map.insert(field.name.clone(), field.default.clone());
        }
        if map.get(&field.name).is_some_and(|item| matches!(item, Value::Map(_) | Value::List(_)))
            && let Some(item) = map.get_mut(&field.name)
        {
            default_type(schema, &field.ty, item);
        }
    }
}

fn default_type(schema: &Schema, ty: &Type, value: &mut Value) {
    match (ty, value) {
        (Type::Struct(id), value) if !schema.get(*id).wrapper => default_struct(schema, *id, value),
        (Type::List(item), value @ Value::List(_)) => value.make_list().make_mut().iter_mut().for_each(|v| default_type(schema, item, v)),
        (Type::Map(item), Value::Map(map)) => map.iter_mut().for_each(|(_, value)| default_type(schema, item, value)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object;
    use crate::schema::{Schema, StructType};

    #[test]
    fn a_value_of_another_sort_is_told_of_in_the_words_of_both_decoders() {
        let mut schema = Schema::new();
        let id = schema.declare("Pod").unwrap();
        schema.define(id, StructType::new("Pod", String::new(), Vec::new()));
        let mut walk = Walk { schema: &schema, path: "metadata.labels".into(), unknown: Vec::new(), sparse: false, stored: false };
        let mut check = |ty: &Type, value: Value, decoding: &str, converting: &str| {
            let error = walk.value(ty, value).unwrap_err();
            assert_eq!(error.to_string(), format!("json: cannot unmarshal {decoding}"));
            assert_eq!(error.converting(), converting);
        };
        let texts = || Box::new(Type::String);
        let field = "into Go struct field metadata.labels of type";
        check(&Type::Map(texts()), "x".into(), &format!("string {field} map"), "cannot restore map from string");
        check(&Type::List(texts()), object!({}), &format!("object {field} slice"), "cannot restore slice from map");
        check(&Type::Struct(id), Value::Int(1), &format!("number {field} Pod"), "cannot restore struct from: int64");
        check(&Type::Int32, "x".into(), &format!("string {field} int32"), "unrecognized type: int32");
        check(&Type::String, Value::Int(1), &format!("number {field} string"), "cannot convert int64 to string");
        let time = format!("number {field} v1.Time");
        check(&Type::Time, Value::Int(1), &time, &format!("json: cannot unmarshal {time}"));
    }

    #[test]
    fn durations_are_written_as_go_writes_them() {
        for (input, expect) in [("1h", "1h0m0s"), ("90s", "1m30s"), ("1.5s", "1.5s"), ("15ms", "15ms"), ("0", "0s"), ("-2m", "-2m0s")] {
            assert_eq!(format_duration(parse_duration(input).unwrap()), expect);
        }
        for bad in ["", "1", "1x", "s", "--1s"] {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn times_are_written_in_utc() {
        let time: jiff::Timestamp = "2026-01-02T05:04:05.123456789+02:00".parse().unwrap();
        assert_eq!(format_time(time, 0), "2026-01-02T03:04:05Z");
        assert_eq!(format_time(time, 6), "2026-01-02T03:04:05.123456Z");
    }
}
