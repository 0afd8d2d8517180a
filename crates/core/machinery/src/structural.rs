//! Structural schemas: what a CustomResourceDefinition says about the objects of its kind. Read from the OpenAPI schema that
//! the definition carries; objects are pruned, defaulted and checked by it. See the documentation of upstream's
//! `Structural` type and KEP-606 (apiextensions.k8s.io/v1).

mod check;
mod format;
mod prune;
#[cfg(test)]
mod tests;
mod types;
mod validate;

use std::sync::OnceLock;

use regex::Regex;

pub use check::{errors as schema_errors, unknown_formats};
pub use format::matches as has_format;
pub(crate) use prune::Pruning;
pub use types::root as root_type;

use crate::schema::Topology;
use crate::value::{Key, Value};

/// The type that a schema asks for; `Any` where it asks for none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Sort {
    #[default]
    Any,
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
}

impl Sort {
    fn parse(text: &str) -> Self {
        match text {
            "object" => Self::Object,
            "array" => Self::Array,
            "string" => Self::String,
            "integer" => Self::Integer,
            "number" => Self::Number,
            "boolean" => Self::Boolean,
            _ => Self::Any,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Any => "",
            Self::Object => "object",
            Self::Array => "array",
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
        }
    }
}

/// One node of a schema.
#[derive(Debug, Clone, Default)]
pub struct Structural {
    pub sort: Sort,
    pub nullable: bool,
    /// `x-kubernetes-preserve-unknown-fields`
    pub preserve: bool,
    /// `x-kubernetes-embedded-resource`
    pub embedded: bool,
    /// `x-kubernetes-int-or-string`
    pub int_or_string: bool,
    /// `x-kubernetes-map-type: atomic`
    pub atomic: bool,
    /// `x-kubernetes-list-type`
    pub topology: Topology,
    pub default: Option<Value>,
    /// Sorted by name.
    pub properties: Vec<(Key, Structural)>,
    pub items: Option<Box<Structural>>,
    pub additional: Additional,
    rules: Option<Box<Rules>>,
}

/// What a schema says about properties that it does not name.
#[derive(Debug, Clone, Default)]
pub enum Additional {
    #[default]
    Unsaid,
    /// `additionalProperties: true`
    Any,
    /// `additionalProperties: false`
    None,
    Each(Box<Structural>),
}

/// What a schema asks of values beyond their type.
#[derive(Debug, Clone, Default)]
struct Rules {
    format: Option<Key>,
    maximum: Option<Value>,
    exclusive_maximum: bool,
    minimum: Option<Value>,
    exclusive_minimum: bool,
    multiple_of: Option<Value>,
    max_length: Option<i64>,
    min_length: Option<i64>,
    pattern: Option<Pattern>,
    max_items: Option<i64>,
    min_items: Option<i64>,
    unique: bool,
    max_properties: Option<i64>,
    min_properties: Option<i64>,
    required: Vec<Key>,
    allowed: Vec<Value>,
    all_of: Vec<Structural>,
    any_of: Vec<Structural>,
    one_of: Vec<Structural>,
    not: Option<Box<Structural>>,
}

/// A regular expression, compiled when it is first asked.
#[derive(Debug, Clone)]
struct Pattern {
    text: Key,
    compiled: OnceLock<Option<Regex>>,
}

impl Pattern {
    fn matches(&self, text: &str) -> bool {
        let compiled = self.compiled.get_or_init(|| compile(&self.text).ok());
        compiled.as_ref().is_some_and(|r| r.is_match(text))
    }
}

fn compile(pattern: &str) -> Result<Regex, String> {
    // The limit keeps a pattern from taking more memory than the rest of its schema.
    let built = regex::RegexBuilder::new(pattern).size_limit(1 << 20).build();
    built.map_err(|e| e.to_string().lines().last().unwrap_or_default().trim().to_string())
}

impl Structural {
    /// Reads a schema; parts that structural schemas do not have are ignored, [`schema_errors`] reports them.
    pub fn read(schema: &Value) -> Self {
        let flag = |name: &str| schema.bool_at(&[name]) == Some(true);
        let mut properties: Vec<(Key, Self)> =
            entries(schema, "properties").map(|(name, below)| (name.clone(), Self::read(below))).collect();
        properties.sort_by(|a, b| a.0.cmp(&b.0));
        let topology = match schema.str_at(&["x-kubernetes-list-type"]) {
            "set" => Topology::Set,
            "map" => Topology::Map(texts(schema, "x-kubernetes-list-map-keys")),
            _ => Topology::Atomic,
        };
        Self {
            sort: Sort::parse(schema.str_at(&["type"])),
            nullable: flag("nullable"),
            preserve: flag("x-kubernetes-preserve-unknown-fields"),
            embedded: flag("x-kubernetes-embedded-resource"),
            int_or_string: flag("x-kubernetes-int-or-string"),
            atomic: schema.str_at(&["x-kubernetes-map-type"]) == "atomic",
            topology,
            default: schema.get("default").cloned().filter(|d| !d.is_null()),
            properties,
            items: schema.get("items").filter(|i| i.as_map().is_some()).map(|i| Box::new(Self::read(i))),
            additional: match schema.get("additionalProperties") {
                Some(Value::Bool(true)) => Additional::Any,
                Some(Value::Bool(false)) => Additional::None,
                Some(below @ Value::Map(_)) => Additional::Each(Box::new(Self::read(below))),
                _ => Additional::Unsaid,
            },
            rules: Rules::read(schema),
        }
    }

    pub fn property(&self, name: &str) -> Option<&Self> {
        let i = self.properties.binary_search_by(|(n, _)| crate::value::order(n, name)).ok()?;
        Some(&self.properties[i].1)
    }

    /// The format that its texts or numbers have.
    pub fn format(&self) -> Option<&str> {
        self.rules.as_ref()?.format.as_deref()
    }

    /// The schema at a path of property names.
    pub fn at(&self, path: &[Key]) -> Option<&Self> {
        path.iter().try_fold(self, |at, step| at.property(step))
    }

    /// The schema of an entry of a map: its property's, or that of all others.
    fn below(&self, name: &str) -> Option<&Self> {
        self.property(name).or(match &self.additional {
            Additional::Each(each) => Some(each),
            _ => None,
        })
    }

    /// Whether it has a default anywhere.
    pub fn has_defaults(&self) -> bool {
        self.default.is_some()
            || self.properties.iter().any(|(_, p)| p.has_defaults())
            || self.items.as_ref().is_some_and(|i| i.has_defaults())
            || matches!(&self.additional, Additional::Each(each) if each.has_defaults())
    }
}

impl Rules {
    fn read(schema: &Value) -> Option<Box<Self>> {
        let number = |name: &str| schema.get(name).filter(|v| matches!(v, Value::Int(_) | Value::Float(_))).cloned();
        let each = |name: &str| schema.list_at(&[name]).iter().map(Structural::read).collect::<Vec<_>>();
        let text = |name: &str| Some(schema.str_at(&[name])).filter(|t| !t.is_empty()).map(Key::from);
        let rules = Self {
            format: text("format"),
            maximum: number("maximum"),
            exclusive_maximum: schema.bool_at(&["exclusiveMaximum"]) == Some(true),
            minimum: number("minimum"),
            exclusive_minimum: schema.bool_at(&["exclusiveMinimum"]) == Some(true),
            multiple_of: number("multipleOf"),
            max_length: schema.int_at(&["maxLength"]),
            min_length: schema.int_at(&["minLength"]),
            pattern: text("pattern").map(|text| Pattern { text, compiled: OnceLock::new() }),
            max_items: schema.int_at(&["maxItems"]),
            min_items: schema.int_at(&["minItems"]),
            unique: schema.bool_at(&["uniqueItems"]) == Some(true),
            max_properties: schema.int_at(&["maxProperties"]),
            min_properties: schema.int_at(&["minProperties"]),
            required: texts(schema, "required"),
            allowed: schema.list_at(&["enum"]).to_vec(),
            all_of: each("allOf"),
            any_of: each("anyOf"),
            one_of: each("oneOf"),
            not: schema.get("not").filter(|n| n.as_map().is_some()).map(|n| Box::new(Structural::read(n))),
        };
        let says_something = ["format", "pattern", "required", "enum", "allOf", "anyOf", "oneOf", "not", "uniqueItems"]
            .iter()
            .chain(&["maximum", "minimum", "multipleOf", "maxLength", "minLength", "maxItems", "minItems"])
            .chain(&["maxProperties", "minProperties"])
            .any(|name| schema.get(name).is_some_and(|v| !v.is_null()));
        says_something.then(|| Box::new(rules))
    }
}

fn entries<'a>(schema: &'a Value, name: &str) -> impl Iterator<Item = (&'a Key, &'a Value)> {
    schema.get(name).and_then(Value::as_map).into_iter().flat_map(|m| m.iter())
}

fn texts(schema: &Value, name: &str) -> Vec<Key> {
    schema.list_at(&[name]).iter().filter_map(Value::as_str).map(Key::from).collect()
}
