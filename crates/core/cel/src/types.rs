//! The static types of expressions and how they are written in errors. How they are held against each other is in `unify`.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::schema::Declared;

/// What is known of a value before it is there.
#[derive(Debug, Clone)]
pub enum Type {
    /// Of an expression that is wrong, so that nothing else is said about it.
    Error,
    Dyn,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    Text,
    Bytes,
    Timestamp,
    Duration,
    List(Arc<Type>),
    Map(Arc<(Type, Type)>),
    Object(Arc<Object>),
    /// What has a name and perhaps parameters, as `optional_type(int)` and `kubernetes.Quantity`.
    Named(Arc<str>, Arc<[Type]>),
    /// The type of a type.
    Type(Option<Arc<Type>>),
    /// A type that is still to be found out.
    Param(u32),
}

/// A type with fields; two are the same where their names are.
#[derive(Debug)]
pub struct Object {
    pub(crate) name: String,
    pub(crate) fields: Fields,
}

#[derive(Debug)]
pub(crate) enum Fields {
    Known(BTreeMap<String, Arc<Declared>>),
    /// It has whatever fields are asked for.
    Any,
}

pub(crate) const OPTIONAL: &str = "optional_type";

/// Names of types, which are values.
const NAMES: [&str; 19] = [
    "bool",
    "int",
    "uint",
    "double",
    "string",
    "bytes",
    "list",
    "map",
    "null_type",
    "type",
    "optional_type",
    "google.protobuf.Timestamp",
    "google.protobuf.Duration",
    "net.IP",
    "net.CIDR",
    "kubernetes.Quantity",
    "kubernetes.URL",
    "kubernetes.Semver",
    "kubernetes.NamedFormat",
];

/// The name of a type, where it is one.
pub(crate) fn type_name(name: &str) -> Option<&'static str> {
    NAMES.into_iter().find(|n| *n == name)
}

/// The names of types that have dots.
pub(crate) fn dotted_types() -> impl Iterator<Item = &'static str> {
    NAMES.into_iter().filter(|name| name.contains('.'))
}

/// Longer types are cut off where they are written.
const LONGEST: usize = 1000;

impl Type {
    /// Reads a type as functions are declared with it: `map(string, list(A))`, `kubernetes.Quantity`.
    pub fn read(text: &str) -> Self {
        crate::declarations::read_type(text)
    }

    pub(crate) fn list(of: Type) -> Self {
        Self::List(Arc::new(of))
    }

    pub(crate) fn map(key: Type, value: Type) -> Self {
        Self::Map(Arc::new((key, value)))
    }

    pub fn optional(of: Type) -> Self {
        Self::Named(OPTIONAL.into(), [of].into())
    }

    pub(crate) fn named(name: &str) -> Self {
        Self::Named(name.into(), [].into())
    }

    pub(crate) fn object(name: &str, fields: BTreeMap<String, Arc<Declared>>) -> Self {
        Self::Object(Arc::new(Object { name: name.into(), fields: Fields::Known(fields) }))
    }

    pub(crate) fn any_object(name: &str) -> Self {
        Self::Object(Arc::new(Object { name: name.into(), fields: Fields::Any }))
    }

    /// What an optional has inside.
    pub(crate) fn inside(&self) -> Option<&Type> {
        match self {
            Self::Named(name, parameters) if **name == *OPTIONAL => parameters.first(),
            _ => None,
        }
    }

    /// Of a name that stands for a type: the type.
    pub(crate) fn called(name: &str) -> Option<Type> {
        Some(match type_name(name)? {
            "bool" => Self::Bool,
            "int" => Self::Int,
            "uint" => Self::Uint,
            "double" => Self::Double,
            "string" => Self::Text,
            "bytes" => Self::Bytes,
            "list" => Self::list(Self::Dyn),
            "map" => Self::map(Self::Dyn, Self::Dyn),
            "null_type" => Self::Null,
            "type" => Self::Type(None),
            "optional_type" => Self::optional(Self::Dyn),
            "google.protobuf.Timestamp" => Self::Timestamp,
            "google.protobuf.Duration" => Self::Duration,
            name => Self::named(name),
        })
    }

    fn write(&self, out: &mut String) {
        if out.len() > LONGEST {
            return;
        }
        match self {
            Self::Error => out.push_str("!error!"),
            Self::Dyn | Self::Param(_) => out.push_str("dyn"),
            Self::Null => out.push_str("null"),
            Self::Bool => out.push_str("bool"),
            Self::Int => out.push_str("int"),
            Self::Uint => out.push_str("uint"),
            Self::Double => out.push_str("double"),
            Self::Text => out.push_str("string"),
            Self::Bytes => out.push_str("bytes"),
            Self::Timestamp => out.push_str("timestamp"),
            Self::Duration => out.push_str("duration"),
            Self::Object(object) => out.push_str(&object.name),
            Self::List(of) => write_all("list", std::slice::from_ref(&**of), out),
            Self::Map(pair) => write_all("map", &[pair.0.clone(), pair.1.clone()], out),
            Self::Named(name, parameters) => write_all(name, parameters, out),
            Self::Type(of) => write_all("type", of.as_deref().map_or(&[], std::slice::from_ref), out),
        }
    }
}

fn write_all(name: &str, parameters: &[Type], out: &mut String) {
    out.push_str(name);
    for (i, parameter) in parameters.iter().enumerate() {
        out.push_str(if i == 0 { "(" } else { ", " });
        parameter.write(out);
    }
    if !parameters.is_empty() {
        out.push(')');
    }
}

/// As cel-go's FormatCELType writes it.
impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = String::new();
        self.write(&mut out);
        f.write_str(&out)
    }
}
