//! Types that come from OpenAPI schemas, with the most that their values can hold; see upstream's SchemaDeclType.

use std::collections::BTreeMap;
use std::sync::Arc;

use fram_machinery::Value as Tree;

use crate::parse::RESERVED;
use crate::types::{Fields, Object, Type};

/// The largest request that a server takes, in bytes; see upstream's MaxRequestSizeBytes.
pub const LARGEST_REQUEST: u64 = 3 * 1024 * 1024;
/// Texts of times and durations are no longer than this, with their quotation marks.
const LONGEST_TIME: u64 = 32;
/// `"2006-01-02"`
const DATE: u64 = 12;

/// What is declared of a variable, a field or an element.
#[derive(Debug)]
pub struct Declared {
    pub ty: Type,
    /// The most characters, elements or entries that it can have.
    pub(crate) most: u64,
    /// The fewest bytes that it takes in JSON.
    least: u64,
    pub(crate) below: Below,
}

/// What is declared of the parts of a value; those of objects stand in their type.
#[derive(Debug)]
pub(crate) enum Below {
    Nothing,
    Items(Arc<Declared>),
    Values(Arc<Declared>),
}

impl Declared {
    /// A value of which only the type is known.
    pub fn simple(ty: Type) -> Self {
        let least = match ty {
            Type::Bool => 4,
            Type::Text | Type::Bytes => 2,
            _ => 1,
        };
        Self { ty, most: 0, least, below: Below::Nothing }
    }

    pub fn list(items: Self, most: u64) -> Self {
        Self { ty: Type::list(items.ty.clone()), most, least: 2, below: Below::Items(Arc::new(items)) }
    }

    pub fn map(values: Self, most: u64) -> Self {
        Self { ty: Type::map(Type::Text, values.ty.clone()), most, least: 2, below: Below::Values(Arc::new(values)) }
    }

    fn text(ty: Type, least: u64, most: u64) -> Self {
        Self { ty, most, least, below: Below::Nothing }
    }

    /// An object with these properties.
    pub fn object(name: &str, fields: Vec<(&str, Declared)>) -> Self {
        let mut all = BTreeMap::new();
        for (name, field) in fields {
            let field = Arc::new(field);
            // Fields can be named like keywords: `request.namespace` as well as `request.__namespace__`.
            all.extend(escape(name).map(|escaped| (escaped, field.clone())));
            all.insert(name.to_string(), field);
        }
        let fields = all;
        Self { ty: Type::object(name, fields), most: 0, least: 2, below: Below::Nothing }
    }

    /// The same with another field, or with one that is declared otherwise.
    pub fn with(self, name: &str, field: Declared) -> Self {
        let Type::Object(object) = &self.ty else { return self };
        let mut fields = match &object.fields {
            Fields::Known(fields) => fields.clone(),
            Fields::Any => return self,
        };
        fields.insert(name.into(), Arc::new(field));
        Self { ty: Type::object(&object.name, fields), ..self }
    }

    /// How often a value of this size can occur in one request.
    pub fn cardinality(&self) -> u64 {
        LARGEST_REQUEST / (self.least + 1)
    }

    /// What is declared of a property, by the name that it has in its object.
    pub fn property(&self, name: &str) -> Option<&Arc<Declared>> {
        self.field(&escape(name)?)
    }

    /// What is declared of the elements of a list or the values of a map.
    pub fn element(&self) -> Option<&Arc<Declared>> {
        match &self.below {
            Below::Items(below) | Below::Values(below) => Some(below),
            Below::Nothing => None,
        }
    }

    /// What is declared of a field; its name is escaped.
    pub(crate) fn field(&self, name: &str) -> Option<&Arc<Declared>> {
        match &self.ty {
            Type::Object(object) => object.field(name),
            _ => None,
        }
    }

    /// Reads an OpenAPI schema; None where its values are nothing that expressions can be about. `name` is what objects are
    /// called in errors; `root` has the fields that each object of the API has.
    pub fn read(schema: &Tree, name: &str, root: bool) -> Option<Self> {
        let number = |field: &str| schema.int_at(&[field]).map(|n| n.max(0) as u64);
        let flag = |field: &str| schema.bool_at(&[field]) == Some(true);
        let below = |schema: &Tree, name: &str| Self::read(schema, name, schema.bool_at(&["x-kubernetes-embedded-resource"]) == Some(true));
        if flag("x-kubernetes-int-or-string") {
            return Some(Self::text(Type::Dyn, 1, number("maxLength").map_or(LARGEST_REQUEST - 2, |n| n.saturating_mul(4))));
        }
        match schema.str_at(&["type"]) {
            "array" => {
                let items = below(schema.get("items")?, &format!("{name}.@idx"))?;
                let most = number("maxItems").unwrap_or((LARGEST_REQUEST - 2) / (items.least + 1));
                Some(Self::list(items, most))
            }
            "object" if !root && schema.get("additionalProperties").is_some_and(|a| a.as_map().is_some()) => {
                let values = below(schema.get("additionalProperties")?, &format!("{name}.@elem"))?;
                let most = number("maxProperties").unwrap_or((LARGEST_REQUEST - 2) / (values.least + 6));
                Some(Self::map(values, most))
            }
            "object" => Some(Self::fields(schema, name, root, below)),
            _ if root => Some(Self::fields(schema, name, root, below)),
            "string" => Some(match schema.str_at(&["format"]) {
                "byte" => Self::text(Type::Bytes, 2, number("maxLength").unwrap_or(LARGEST_REQUEST - 2)),
                "duration" => Self::text(Type::Duration, 3, LONGEST_TIME),
                "date" => Self::text(Type::Timestamp, DATE, DATE),
                "date-time" => Self::text(Type::Timestamp, 21, LONGEST_TIME),
                _ => {
                    let longest = schema.list_at(&["enum"]).iter().filter_map(|v| v.as_str()).map(|t| t.len() as u64).max();
                    Self::text(Type::Text, 2, number("maxLength").map(|n| n.saturating_mul(4)).or(longest).unwrap_or(LARGEST_REQUEST - 2))
                }
            }),
            "boolean" => Some(Self::simple(Type::Bool)),
            "number" => Some(Self::simple(Type::Double)),
            "integer" => Some(Self::simple(Type::Int)),
            _ => None,
        }
    }

    fn fields(schema: &Tree, name: &str, root: bool, below: impl Fn(&Tree, &str) -> Option<Self>) -> Self {
        let required = schema.list_at(&["required"]);
        let mut least = 2;
        let mut fields = BTreeMap::new();
        let properties = schema.get("properties").and_then(Tree::as_map).into_iter().flat_map(|m| m.iter());
        for (property, schema) in properties.filter(|(p, _)| !(root && matches!(p.as_str(), "apiVersion" | "kind" | "metadata"))) {
            let escaped = escape(property);
            let Some(field) = below(schema, &format!("{name}.{}", escaped.as_deref().unwrap_or_default())) else { continue };
            let is_required = required.iter().any(|r| r.as_str() == Some(property.as_str()));
            if is_required && schema.get("default").is_none_or(Tree::is_null) {
                least += property.len() as u64 + field.least + 4;
            }
            fields.extend(escaped.map(|name| (name, Arc::new(field))));
        }
        if root {
            let text = || Self::text(Type::Text, 2, LARGEST_REQUEST - 2);
            let metadata = Self::object(&format!("{name}.metadata"), vec![("name", text()), ("generateName", text())]);
            fields.extend([("apiVersion", text()), ("kind", text()), ("metadata", metadata)].map(|(n, f)| (n.to_string(), Arc::new(f))));
        }
        Self { ty: Type::object(name, fields), most: 0, least, below: Below::Nothing }
    }
}

impl Object {
    pub(crate) fn field(&self, name: &str) -> Option<&Arc<Declared>> {
        match &self.fields {
            Fields::Known(fields) => fields.get(name),
            Fields::Any => None,
        }
    }
}

/// Words that expressions cannot name a property by.
fn is_keyword(word: &str) -> bool {
    RESERVED.contains(&word) || matches!(word, "true" | "false" | "null" | "in")
}

const ESCAPES: [(&str, &str); 4] = [("__underscores__", "__"), ("__dot__", "."), ("__dash__", "-"), ("__slash__", "/")];

/// The identifier by which expressions name a property; None where there is none. See the documentation of
/// x-kubernetes-validations.
pub(crate) fn escape(property: &str) -> Option<String> {
    if property.is_empty() || property.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    if is_keyword(property) {
        return Some(format!("__{property}__"));
    }
    let mut out = String::with_capacity(property.len());
    let mut rest = property;
    while let Some(c) = rest.chars().next() {
        match ESCAPES.iter().find(|(_, plain)| rest.starts_with(plain)) {
            Some((escaped, plain)) => {
                out.push_str(escaped);
                rest = &rest[plain.len()..];
            }
            None if c.is_ascii_alphanumeric() || c == '_' => {
                out.push(c);
                rest = &rest[1..];
            }
            None => return None,
        }
    }
    Some(out)
}

/// The property that an identifier names.
pub(crate) fn unescape(field: &str) -> String {
    if let Some(keyword) = field.strip_prefix("__").and_then(|f| f.strip_suffix("__")).filter(|k| is_keyword(k)) {
        return keyword.into();
    }
    let mut out = String::with_capacity(field.len());
    let mut rest = field;
    while let Some(c) = rest.chars().next() {
        match ESCAPES.iter().find(|(escaped, _)| rest.starts_with(escaped)) {
            Some((escaped, plain)) => {
                out.push_str(plain);
                rest = &rest[escaped.len()..];
            }
            None => {
                out.push(c);
                rest = &rest[c.len_utf8()..];
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_property_is_named_by_an_identifier_and_back() {
        for (property, identifier) in [
            ("plain", "plain"),
            ("namespace", "__namespace__"),
            ("x-prop", "x__dash__prop"),
            ("a.b/c", "a__dot__b__slash__c"),
            ("redact__d", "redact__underscores__d"),
            ("___", "__underscores___"),
            ("a__dot__b", "a__underscores__dot__underscores__b"),
        ] {
            assert_eq!(escape(property).as_deref(), Some(identifier), "{property}");
            assert_eq!(unescape(identifier), property, "{identifier}");
        }
        for property in ["", "1a", "a$b", "ä"] {
            assert_eq!(escape(property), None, "{property}");
        }
    }
}
