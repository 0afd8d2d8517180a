//! Values of the language. Lists and maps of object trees are taken as they are; what is below is looked at when it is asked.

use std::cmp::Ordering;
use std::net::IpAddr;
use std::sync::Arc;

use fram_machinery::quantity::Quantity;
use fram_machinery::{Text, Value as Tree, normalize};
use jiff::Timestamp;

use crate::eval::{Budget, EvalError};
use crate::library::Semver;

#[derive(Debug, Clone)]
pub enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    Text(Text),
    Bytes(Arc<[u8]>),
    List(Arc<Vec<Value>>),
    /// Pairs in the order in which they were made.
    Map(Arc<Vec<(Value, Value)>>),
    /// What was made as `Name{field: value}`, with the names of its fields as keys.
    Message(Arc<str>, Arc<Vec<(Value, Value)>>),
    /// A list or map of an object.
    Tree(Tree),
    Timestamp(Timestamp),
    /// In nanoseconds.
    Duration(i128),
    Type(&'static str),
    Optional(Option<Arc<Value>>),
    Quantity(Arc<Quantity>),
    Url(Text),
    Ip(IpAddr),
    Cidr(IpAddr, u8),
    Semver(Arc<Semver>),
    /// A form of texts, by its name.
    Format(&'static str),
    /// What only the embedder knows.
    Opaque(Arc<dyn Opaque>),
}

/// A value of the embedder, such as an authorizer. Expressions can do nothing with it but call the functions that the environment
/// declares for its type.
pub trait Opaque: std::fmt::Debug + Send + Sync {
    fn type_name(&self) -> &'static str;
    /// What one of those functions gives; None where it is none for this value and these arguments.
    fn call(&self, function: &str, arguments: &[Value], budget: &mut Budget) -> Result<Option<Value>, EvalError>;
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Value::Text(text.into())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Value::Text(text.into())
    }
}

impl From<bool> for Value {
    fn from(b: bool) -> Self {
        Value::Bool(b)
    }
}

impl From<Vec<Value>> for Value {
    fn from(items: Vec<Value>) -> Self {
        Value::List(Arc::new(items))
    }
}

impl From<&Tree> for Value {
    fn from(tree: &Tree) -> Self {
        match tree {
            Tree::Null => Value::Null,
            Tree::Bool(b) => Value::Bool(*b),
            Tree::Int(i) => Value::Int(*i),
            Tree::Float(f) => Value::Double(*f),
            Tree::String(s) => Value::Text(s.clone()),
            Tree::List(_) | Tree::Map(_) => Value::Tree(tree.clone()),
        }
    }
}

impl Value {
    /// The name of its type in errors and for `type()`.
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::Null => "null_type",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Uint(_) => "uint",
            Value::Double(_) => "double",
            Value::Text(_) => "string",
            Value::Bytes(_) => "bytes",
            Value::List(_) | Value::Tree(Tree::List(_)) => "list",
            Value::Message(..) => "message",
            Value::Map(_) | Value::Tree(_) => "map",
            Value::Timestamp(_) => "google.protobuf.Timestamp",
            Value::Duration(_) => "google.protobuf.Duration",
            Value::Type(_) => "type",
            Value::Optional(_) => "optional_type",
            Value::Quantity(_) => "kubernetes.Quantity",
            Value::Url(_) => "kubernetes.URL",
            Value::Ip(_) => "net.IP",
            Value::Cidr(..) => "net.CIDR",
            Value::Semver(_) => "kubernetes.Semver",
            Value::Format(_) => "kubernetes.NamedFormat",
            Value::Opaque(value) => value.type_name(),
        }
    }

    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Value::Bool(b) => Some(*b),
            _ => None,
        }
    }

    pub fn as_text(&self) -> Option<&str> {
        match self {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The elements of a list; None where it is none.
    pub fn items(&self) -> Option<Vec<Value>> {
        match self {
            Value::List(items) => Some(items.to_vec()),
            Value::Tree(Tree::List(list)) => Some(list.iter().map(Value::from).collect()),
            _ => None,
        }
    }

    /// The entries of a map; None where it is none.
    pub fn entries(&self) -> Option<Vec<(Value, Value)>> {
        match self {
            Value::Map(entries) | Value::Message(_, entries) => Some(entries.to_vec()),
            Value::Tree(Tree::Map(map)) => Some(map.iter().map(|(k, v)| (Value::from(k.as_str()), v.into())).collect()),
            _ => None,
        }
    }

    pub(crate) fn is_list(&self) -> bool {
        matches!(self, Value::List(_) | Value::Tree(Tree::List(_)))
    }

    pub(crate) fn is_map(&self) -> bool {
        matches!(self, Value::Map(_) | Value::Message(..) | Value::Tree(Tree::Map(_)))
    }

    /// An element of a list.
    pub(crate) fn item(&self, i: usize) -> Option<Value> {
        match self {
            Value::List(items) => items.get(i).cloned(),
            Value::Tree(Tree::List(list)) => list.get(i).map(Value::from),
            _ => None,
        }
    }

    /// The number of characters, bytes, elements or entries.
    pub(crate) fn size(&self) -> Option<usize> {
        Some(match self {
            Value::Text(text) => text.chars().count(),
            Value::Bytes(bytes) => bytes.len(),
            Value::List(items) => items.len(),
            Value::Map(entries) | Value::Message(_, entries) => entries.len(),
            Value::Tree(Tree::List(list)) => list.len(),
            Value::Tree(Tree::Map(map)) => map.len(),
            _ => return None,
        })
    }

    /// The value of a map's key.
    pub(crate) fn get(&self, key: &Value) -> Option<Value> {
        match (self, key) {
            (Value::Tree(Tree::Map(map)), Value::Text(key)) => map.get(key).map(Value::from),
            (Value::Map(entries) | Value::Message(_, entries), key) => entries.iter().find(|(k, _)| k == key).map(|(_, v)| v.clone()),
            _ => None,
        }
    }

    /// How two values are ordered; None where they are not.
    pub(crate) fn order(&self, other: &Value) -> Option<Ordering> {
        use Value::*;
        match (self, other) {
            (Bool(a), Bool(b)) => Some(a.cmp(b)),
            (Text(a), Text(b)) => Some(a.cmp(b)),
            (Bytes(a), Bytes(b)) => Some(a.cmp(b)),
            (Timestamp(a), Timestamp(b)) => Some(a.cmp(b)),
            (Duration(a), Duration(b)) => Some(a.cmp(b)),
            (Int(a), Int(b)) => Some(a.cmp(b)),
            (Uint(a), Uint(b)) => Some(a.cmp(b)),
            (Int(a), Uint(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
            (Uint(a), Int(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
            (Double(a), Double(b)) => a.partial_cmp(b),
            (Double(a), Int(b)) => mixed(*a, i128::from(*b)),
            (Double(a), Uint(b)) => mixed(*a, i128::from(*b)),
            (Int(a), Double(b)) => mixed(*b, i128::from(*a)).map(Ordering::reverse),
            (Uint(a), Double(b)) => mixed(*b, i128::from(*a)).map(Ordering::reverse),
            _ => None,
        }
    }
}

/// A double against an integer, which may lose digits, as cel-spec has it.
fn mixed(double: f64, integer: i128) -> Option<Ordering> {
    double.partial_cmp(&(integer as f64))
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        use Value::*;
        match (self, other) {
            (Null, Null) => true,
            (Type(a), Type(b)) => a == b,
            (Optional(a), Optional(b)) => a == b,
            (Quantity(a), Quantity(b)) => a.cmp(b).is_eq(),
            (Url(a), Url(b)) => a == b,
            (Ip(a), Ip(b)) => a == b,
            (Cidr(a, n), Cidr(b, m)) => a == b && n == m,
            (Semver(a), Semver(b)) => a.equals(b),
            (Format(a), Format(b)) => a == b,
            (Tree(a), Tree(b)) if a == b => true,
            (Message(a, _), Message(b, _)) if a != b => false,
            _ => {
                if let (Some(a), Some(b)) = (self.items(), other.items()) {
                    return a == b;
                }
                if let (Some(a), Some(_)) = (self.entries(), other.entries()) {
                    return self.size() == other.size() && a.iter().all(|(k, v)| other.get(k).is_some_and(|o| o == *v));
                }
                self.order(other).is_some_and(Ordering::is_eq)
            }
        }
    }
}

/// The object tree of a value; types that objects do not have are written as text.
impl From<&Value> for Tree {
    fn from(value: &Value) -> Self {
        match value {
            Value::Null => Tree::Null,
            Value::Bool(b) => Tree::Bool(*b),
            Value::Int(i) => Tree::Int(*i),
            Value::Uint(u) => i64::try_from(*u).map_or(Tree::Float(*u as f64), Tree::Int),
            Value::Double(d) => Tree::Float(*d),
            Value::Text(text) => Tree::String(text.clone()),
            Value::Tree(tree) => tree.clone(),
            Value::List(items) => items.iter().map(Tree::from).collect::<Vec<_>>().into(),
            Value::Map(entries) | Value::Message(_, entries) => {
                let map: fram_machinery::Map = entries.iter().map(|(k, v)| (text(k).to_string(), Tree::from(v))).collect();
                map.into()
            }
            Value::Optional(Some(inner)) => Tree::from(&**inner),
            Value::Optional(None) => Tree::Null,
            other => Tree::String(text(other)),
        }
    }
}

/// What `string()` makes of a value, as far as it takes it.
pub(crate) fn text(value: &Value) -> Text {
    match value {
        Value::Text(text) | Value::Url(text) => text.clone(),
        Value::Bool(b) => b.to_string().into(),
        Value::Int(i) => i.to_string().into(),
        Value::Uint(u) => u.to_string().into(),
        Value::Double(d) => double_text(*d).into(),
        Value::Bytes(bytes) => String::from_utf8_lossy(bytes).into(),
        Value::Timestamp(time) => time.to_string().into(),
        Value::Duration(nanos) => duration_text(*nanos).into(),
        Value::Type(name) => (*name).into(),
        Value::Quantity(quantity) => quantity.to_string().into(),
        Value::Ip(ip) => ip.to_string().into(),
        Value::Cidr(ip, bits) => format!("{ip}/{bits}").into(),
        Value::Semver(version) => version.to_string().into(),
        Value::Format(format) => (*format).into(),
        _ => "".into(),
    }
}

/// Go's shortest form of a double.
fn double_text(d: f64) -> String {
    if d.is_nan() {
        return "NaN".into();
    }
    if d.is_infinite() {
        return if d > 0.0 { "+Inf" } else { "-Inf" }.into();
    }
    let scientific = format!("{d:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    match exponent.parse::<i32>().unwrap_or(0) {
        e if !(-4..21).contains(&e) => format!("{digits}e{}{:02}", if e < 0 { '-' } else { '+' }, e.abs()),
        _ => d.to_string(),
    }
}

/// A duration in seconds, as protobuf's JSON has it.
fn duration_text(nanos: i128) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let n = nanos.unsigned_abs();
    let fraction = format!("{:09}", n % 1_000_000_000);
    let fraction = fraction.trim_end_matches('0');
    let dot = if fraction.is_empty() { "" } else { "." };
    format!("{sign}{}{dot}{fraction}s", n / 1_000_000_000)
}

/// Reads a duration in Go's form.
pub(crate) fn read_duration(text: &str) -> Option<Value> {
    // What does not fit is read as the longest there is.
    let nanos = normalize::parse_duration(text).filter(|nanos| nanos.unsigned_abs() < i64::MAX as u64)?;
    Some(Value::Duration(nanos.into()))
}
