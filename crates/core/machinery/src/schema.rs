//! Descriptions of object types: fields with their JSON names, protobuf numbers, types, list topology, patch strategy,
//! defaults and limits. Every codec, defaulting, apply, tables and OpenAPI are driven by these; built-in kinds and custom
//! resources differ only in where their description comes from.

use std::collections::HashMap;
use std::sync::Arc;

use crate::names;
use crate::structural::Structural;
use crate::value::{Key, Value};

/// Index of a struct type in its schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TypeId(pub u32);

/// The type of a field, a list element or a map value.
#[derive(Debug, Clone, PartialEq)]
pub enum Type {
    Bool,
    Int32,
    Int64,
    Float64,
    String,
    /// Base64 in JSON, bytes on the wire.
    Bytes,
    /// RFC 3339 with seconds.
    Time,
    /// RFC 3339 with microseconds.
    MicroTime,
    /// Go's duration text, such as `1h2m3s`.
    Duration,
    Quantity,
    IntOrString,
    /// Any JSON value; the three forms differ on the wire only.
    RawExtension,
    Json,
    FieldsV1,
    /// Anything, of which maps are merged by key: where a custom resource preserves unknown fields.
    Deduced,
    /// One schema or something simpler, in CustomResourceDefinitions.
    SchemaOr(SchemaOr, TypeId),
    Struct(TypeId),
    List(Box<Type>),
    Map(Box<Type>),
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum SchemaOr {
    Array,
    Bool,
    StringArray,
}

/// How the elements of a list are told apart (`x-kubernetes-list-type`).
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Topology {
    /// Replaced as a whole.
    #[default]
    Atomic,
    Set,
    /// Elements are told apart by these fields.
    Map(Vec<Key>),
}

/// How a strategic merge patch treats a field.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PatchStrategy {
    pub merge: bool,
    pub retain_keys: bool,
    pub replace: bool,
    pub key: Option<Key>,
}

/// What the value of a field has to obey; it is checked where objects are validated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// It has to be given, and not be an empty text or list.
    Nonempty,
    Minimum(i64),
    Maximum(i64),
    /// Bytes of a text.
    MaxLength(usize),
    MaxItems(usize),
    /// The form of a text, of each text of a list, or of each value of a map.
    Form(Form),
    /// The form of the keys of a map.
    Keys(Form),
    /// No two elements of the list are equal in this field; the empty name stands for the element itself.
    Unique(&'static str),
    /// No two elements of the list are equal in all of these fields, separated by commas; the later one is at fault.
    Distinct(&'static str),
    /// It does not change once the object is there.
    Immutable,
    /// The same, and of one that has changed nothing else is told.
    Frozen,
    /// The values that are allowed are not held against it here.
    Loose,
    /// What is in it is not looked at.
    Unchecked,
}

/// The forms that texts have; see [`crate::names`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Label,
    Label1035,
    Subdomain,
    PathSegment,
    Qualified,
    LabelValue,
    ConfigKey,
    Ip,
    Driver,
    Pool,
}

impl Form {
    /// As descriptions name them.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "label" => Self::Label,
            "label1035" => Self::Label1035,
            "subdomain" => Self::Subdomain,
            "segment" => Self::PathSegment,
            "qualified" => Self::Qualified,
            "label-value" => Self::LabelValue,
            "config-key" => Self::ConfigKey,
            "ip" => Self::Ip,
            "driver" => Self::Driver,
            "pool" => Self::Pool,
            _ => return None,
        })
    }

    pub fn check(self, text: &str) -> Result<(), &'static str> {
        match self {
            Self::Label => names::dns_label(text),
            Self::Label1035 => names::dns1035_label(text),
            Self::Subdomain => names::dns_subdomain(text),
            Self::PathSegment => names::path_segment(text),
            Self::Qualified => names::qualified_name(text),
            Self::LabelValue => names::label_value(text),
            Self::ConfigKey => names::config_key(text),
            Self::Ip => names::ip(text),
            Self::Driver => names::dns_subdomain(&text.to_lowercase()),
            Self::Pool => text.split('/').try_for_each(names::dns_subdomain),
        }
    }
}

/// One field of a struct type.
#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    /// The protobuf field number.
    pub number: u32,
    pub name: Key,
    pub ty: Type,
    /// A Go pointer: its zero value is written, its absence is not.
    pub pointer: bool,
    /// Without omitempty: written even when it has its zero value.
    pub always: bool,
    /// A struct that is left out when all of it is zero.
    pub omit_zero: bool,
    /// A message of its own on the wire, the fields of which stand in the parent in JSON.
    pub inline: bool,
    pub required: bool,
    pub topology: Topology,
    /// A map or struct that is replaced as a whole.
    pub atomic: bool,
    /// Applied field by field, though its type is replaced as a whole elsewhere.
    pub granular: bool,
    pub patch: PatchStrategy,
    pub default: Option<Value>,
    /// The values that are allowed; empty where any is.
    pub allowed: Vec<&'static str>,
    /// What else a value has to obey.
    pub rules: Vec<Rule>,
    /// Written even when nothing was given for it; computed by [`Schema::finish`].
    pub filled: bool,
}

impl Field {
    /// A plain field.
    pub fn new(name: Key, ty: Type) -> Self {
        Self {
            number: 0,
            name,
            ty,
            pointer: false,
            always: false,
            omit_zero: false,
            inline: false,
            required: false,
            topology: Topology::Atomic,
            atomic: false,
            granular: false,
            patch: PatchStrategy::default(),
            default: None,
            allowed: Vec::new(),
            rules: Vec::new(),
            filled: false,
        }
    }
}

/// A message: what Kubernetes declares as one Go struct.
#[derive(Debug, Clone)]
pub struct StructType {
    /// Package and name, such as `core.v1.PodSpec`.
    pub name: Key,
    /// The name in OpenAPI documents, such as `io.k8s.api.core.v1.PodSpec`.
    pub openapi_name: String,
    /// In the order of the declaration.
    pub fields: Vec<Field>,
    /// Replaced as a whole by apply.
    pub atomic: bool,
    /// A message with one repeated field that JSON writes as the bare list.
    pub wrapper: bool,
    /// Fields that it does not declare are kept (`x-kubernetes-preserve-unknown-fields`).
    pub open: bool,
    /// Carries `apiVersion` and `kind` in JSON wherever it stands: the type of a kind that has an envelope of its own.
    pub typed: bool,
    /// The schema of a custom resource, by which its objects are decoded, defaulted and checked.
    pub structural: Option<Arc<Structural>>,
    /// All fields as JSON has them, inlined ones in their place, sorted by name.
    flat: Vec<Field>,
    /// Indices into `flat` of the fields that appear even when they are absent.
    filled: Vec<usize>,
    /// Indices into `flat` of the fields that have a default, or below which there is one.
    defaulting: Vec<usize>,
    /// Indices into `fields` by protobuf number.
    numbered: Vec<usize>,
}

impl StructType {
    pub fn new(name: impl Into<Key>, openapi_name: String, fields: Vec<Field>) -> Self {
        Self {
            name: name.into(),
            openapi_name,
            fields,
            atomic: false,
            wrapper: false,
            open: false,
            typed: false,
            structural: None,
            flat: Vec::new(),
            filled: Vec::new(),
            defaulting: Vec::new(),
            numbered: Vec::new(),
        }
    }

    /// A type of a custom resource: it has no protobuf form, and nothing is filled in.
    pub fn custom(name: &str, mut fields: Vec<Field>, open: bool) -> Self {
        fields.sort_by(|a, b| a.name.cmp(&b.name));
        Self { flat: fields, open, ..Self::new(name, name.into(), Vec::new()) }
    }

    /// The type of a field, also of one that an open type does not declare.
    pub fn type_of(&self, name: &str) -> Option<(&Type, Option<&Field>)> {
        match self.field(name) {
            Some(field) => Some((&field.ty, Some(field))),
            None if self.open => Some((&Type::Deduced, None)),
            None => None,
        }
    }

    /// The field of this JSON name.
    pub fn field(&self, name: &str) -> Option<&Field> {
        let i = self.flat.binary_search_by(|f| crate::value::order(&f.name, name)).ok()?;
        Some(&self.flat[i])
    }

    /// All fields as JSON has them, sorted by name.
    pub fn json_fields(&self) -> &[Field] {
        &self.flat
    }

    /// The fields that Go writes even when nothing was given for them.
    pub fn filled_fields(&self) -> impl Iterator<Item = &Field> {
        self.filled.iter().map(|&i| &self.flat[i])
    }

    /// The fields that have a default, or below which there is one.
    pub fn defaulting_fields(&self) -> impl Iterator<Item = &Field> {
        self.defaulting.iter().map(|&i| &self.flat[i])
    }
}

/// A closed set of struct types that refer to one another, and to those of the schema that it builds on.
#[derive(Debug, Clone, Default)]
pub struct Schema {
    base: Option<Arc<Schema>>,
    /// The ids below this one are the base's.
    first: u32,
    types: Vec<StructType>,
    by_name: HashMap<Key, TypeId>,
}

#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SchemaError {
    #[error("type {0} is declared twice")]
    Duplicate(String),
    #[error("type {0} is used but not declared")]
    Missing(String),
}

impl Schema {
    pub fn new() -> Self {
        Self::default()
    }

    /// A schema whose types may refer to those of another one, which it shares.
    pub fn over(base: Arc<Schema>) -> Self {
        let first = base.first + base.types.len() as u32;
        Self { base: Some(base), first, ..Self::default() }
    }

    /// Reserves the id of a type that is defined later, so that types can refer to one another.
    pub fn declare(&mut self, name: impl Into<Key>) -> Result<TypeId, SchemaError> {
        let name = name.into();
        let id = TypeId(self.first + self.types.len() as u32);
        if self.by_name.insert(name.clone(), id).is_some() {
            return Err(SchemaError::Duplicate(name.to_string()));
        }
        self.types.push(StructType::new(name, String::new(), Vec::new()));
        Ok(id)
    }

    pub fn define(&mut self, id: TypeId, definition: StructType) {
        self.types[(id.0 - self.first) as usize] = definition;
    }

    /// Computes what is derived from the definitions of built-in types; call it when all are there.
    pub fn finish(&mut self) {
        for i in 0..self.types.len() {
            let mut flat = Vec::new();
            self.flatten(&self.types[i], &mut flat);
            flat.sort_by(|a: &Field, b| a.name.cmp(&b.name));
            flat.iter_mut().for_each(|f| f.filled = self.is_filled(f));
            let filled = flat.iter().enumerate().filter(|(_, f)| f.filled).map(|(i, _)| i).collect();
            self.types[i].flat = flat;
            self.types[i].filled = filled;
            let mut numbered: Vec<usize> = (0..self.types[i].fields.len()).collect();
            numbered.sort_by_key(|&f| self.types[i].fields[f].number);
            self.types[i].numbered = numbered;
        }
        self.find_defaulting();
    }

    /// Types refer to one another, also in circles: what is found of one type is told to the others until nothing new is found.
    fn find_defaulting(&mut self) {
        loop {
            let found = |ty: &StructType| {
                let fields = ty.flat.iter().enumerate();
                fields.filter(|(_, f)| f.default.is_some() || self.has_defaults(&f.ty)).map(|(i, _)| i).collect::<Vec<usize>>()
            };
            let all: Vec<Vec<usize>> = self.types.iter().map(found).collect();
            if self.types.iter().zip(&all).all(|(ty, found)| ty.defaulting == *found) {
                return;
            }
            self.types.iter_mut().zip(all).for_each(|(ty, found)| ty.defaulting = found);
        }
    }

    fn has_defaults(&self, ty: &Type) -> bool {
        match ty {
            Type::Struct(id) => !self.get(*id).defaulting.is_empty(),
            Type::List(item) | Type::Map(item) => self.has_defaults(item),
            _ => false,
        }
    }

    fn flatten(&self, ty: &StructType, out: &mut Vec<Field>) {
        for field in &ty.fields {
            match field.ty {
                Type::Struct(id) if field.inline => self.flatten(self.get(id), out),
                _ => out.push(field.clone()),
            }
        }
    }

    fn is_filled(&self, field: &Field) -> bool {
        // Go's omitempty never leaves out a struct, and these scalars are structs in Go.
        let go_struct = match field.ty {
            Type::Struct(id) => !self.get(id).wrapper,
            Type::Time | Type::MicroTime | Type::Quantity | Type::IntOrString | Type::Duration => true,
            Type::RawExtension | Type::Json => true,
            _ => false,
        };
        field.always || (go_struct && !field.pointer && !field.omit_zero)
    }

    pub fn get(&self, id: TypeId) -> &StructType {
        match &self.base {
            Some(base) if id.0 < self.first => base.get(id),
            _ => &self.types[(id.0 - self.first) as usize],
        }
    }

    /// The fields of a message in the order of their numbers.
    pub fn by_number(&self, id: TypeId) -> impl Iterator<Item = &Field> {
        let ty = self.get(id);
        ty.numbered.iter().map(|&i| &ty.fields[i])
    }

    pub fn id(&self, name: &str) -> Option<TypeId> {
        self.by_name.get(name).copied().or_else(|| self.base.as_ref()?.id(name))
    }

    pub fn by_name(&self, name: &str) -> Option<&StructType> {
        self.id(name).map(|id| self.get(id))
    }

    /// The types that it declares itself.
    pub fn types(&self) -> impl Iterator<Item = (TypeId, &StructType)> {
        self.types.iter().enumerate().map(|(i, t)| (TypeId(self.first + i as u32), t))
    }
}
