//! The rules that descriptions state about single fields: required, ranges, lengths, forms of names, enumerations, what
//! may not change. What depends on more than one field is in the strategies.

use std::collections::HashSet;
use std::fmt;

use fram_machinery::schema::{Field, Form, Rule};
use fram_machinery::status::FieldError;
use fram_machinery::{Map, Type, TypeId, Value};

use crate::kind::Kind;
use crate::strategy::{label_errors, label_selector_errors};

/// Which part of an object is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Everything but metadata and status.
    Content,
    Status,
}

/// What of an object breaks the rules of its description.
pub fn errors(kind: &Kind, object: &Value, old: Option<&Value>, part: Part) -> Vec<FieldError> {
    let mut walk = Walk { kind, errors: Vec::new() };
    let Some(map) = object.as_map() else { return Vec::new() };
    let keys: Vec<&Field> = kind.schema.get(kind.ty).json_fields().iter().collect();
    for field in keys {
        let chosen = match part {
            Part::Content => !matches!(field.name.as_str(), "metadata" | "status"),
            Part::Status => field.name == "status",
        };
        if chosen {
            walk.field(field, map.get(&field.name), old.map(|o| o.get(&field.name)), &At::Root(""));
        }
    }
    walk.errors
}

/// What of a value of a struct type breaks the rules; for parts of objects that are not of a kind's own.
pub fn errors_of(kind: &Kind, ty: TypeId, value: &Value, path: &str) -> Vec<FieldError> {
    let mut walk = Walk { kind, errors: Vec::new() };
    walk.structure(ty, value, None, &At::Root(path));
    walk.errors
}

/// Values that came before. Texts, which lists without bound are of, are found at once.
#[derive(Default)]
struct Seen<'a> {
    texts: HashSet<&'a str>,
    others: Vec<&'a Value>,
}

impl<'a> Seen<'a> {
    /// Takes a value in; says whether it was there.
    fn again(&mut self, value: &'a Value) -> bool {
        if let Some(text) = value.as_str() {
            return !self.texts.insert(text);
        }
        let again = self.others.contains(&value);
        self.others.push(value);
        again
    }
}

struct Walk<'a> {
    kind: &'a Kind,
    errors: Vec<FieldError>,
}

/// Where in an object a value stands. It is a text only where something is wrong.
#[derive(Clone, Copy)]
enum At<'a> {
    Root(&'a str),
    Field(&'a At<'a>, &'a str),
    Index(&'a At<'a>, usize),
    Entry(&'a At<'a>, &'a str),
}

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root(path) => f.write_str(path),
            Self::Field(Self::Root(""), name) => f.write_str(name),
            Self::Field(parent, name) => write!(f, "{parent}.{name}"),
            Self::Index(parent, index) => write!(f, "{parent}[{index}]"),
            Self::Entry(parent, key) => write!(f, "{parent}[{key}]"),
        }
    }
}

impl From<&At<'_>> for String {
    fn from(at: &At<'_>) -> Self {
        at.to_string()
    }
}

fn is_absent(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::String(s)) => s.is_empty(),
        Some(Value::List(l)) => l.is_empty(),
        Some(_) => false,
    }
}

impl Walk<'_> {
    fn structure(&mut self, id: TypeId, value: &Value, old: Option<&Value>, path: &At<'_>) {
        let Some(map) = value.as_map() else { return };
        match self.kind.schema.get(id).name.as_str() {
            "meta.v1.LabelSelector" => return label_selector_errors(value, &path.to_string(), &mut self.errors),
            // Upstream leaves the metadata of templates out of the field's name.
            "core.v1.PodTemplateSpec" => label_errors(map.get("metadata").unwrap_or(&Value::Null), &path.to_string(), &mut self.errors),
            _ => {}
        }
        for field in self.kind.schema.get(id).json_fields() {
            let now = map.get(&field.name);
            if now.is_some() || field.rules.iter().any(|r| matches!(r, Rule::Nonempty | Rule::Immutable | Rule::Frozen)) {
                self.field(field, now, old.map(|o| o.get(&field.name)), path);
            }
        }
    }

    /// `old` is None where there is no former object, and Some(None) where it lacked the field.
    fn field(&mut self, field: &Field, value: Option<&Value>, old: Option<Option<&Value>>, path: &At<'_>) {
        let at = &At::Field(path, &field.name);
        let fixed = field.rules.iter().find(|r| matches!(r, Rule::Immutable | Rule::Frozen));
        if let Some(fixed) = fixed
            && let Some(before) = old
            && before.filter(|v| !v.is_null()) != value.filter(|v| !v.is_null())
        {
            self.errors.push(FieldError::invalid(at, value.cloned(), "field is immutable"));
            if *fixed == Rule::Frozen {
                return;
            }
        }
        if field.pointer
            && !field.allowed.is_empty()
            && !field.rules.contains(&Rule::Loose)
            && value.and_then(Value::as_str) == Some("")
            && !field.allowed.contains(&"")
        {
            return self.errors.push(FieldError::not_supported(at, "", &field.allowed));
        }
        if is_absent(value) {
            if field.rules.contains(&Rule::Nonempty) {
                self.errors.push(FieldError::required(at, ""));
            }
            return;
        }
        let value = value.unwrap_or(&Value::Null);
        self.enumerated(field, value, at);
        field.rules.iter().for_each(|rule| self.rule(rule, value, at));
        if !field.rules.contains(&Rule::Unchecked) {
            self.inside(&field.ty, value, old.flatten(), at);
        }
    }

    fn enumerated(&mut self, field: &Field, value: &Value, at: &At<'_>) {
        if field.allowed.is_empty() || field.rules.contains(&Rule::Loose) {
            return;
        }
        let is_known = |text: &str| field.allowed.iter().any(|a| *a == text || a.replace('_', " ") == text);
        match value {
            Value::List(list) => {
                for (i, text) in list.iter().enumerate().filter_map(|(i, v)| Some((i, v.as_str()?))) {
                    if !is_known(text) {
                        self.errors.push(FieldError::not_supported(format!("{at}[{i}]"), text, &field.allowed));
                    }
                }
            }
            Value::String(text) if !is_known(text) => self.errors.push(FieldError::not_supported(at, &**text, &field.allowed)),
            _ => {}
        }
    }

    fn rule(&mut self, rule: &Rule, value: &Value, at: &At<'_>) {
        match (rule, value) {
            (Rule::Minimum(least), Value::Int(n)) if n < least => {
                self.errors.push(FieldError::invalid(at, *n, format!("must be greater than or equal to {least}")));
            }
            (Rule::Maximum(most), Value::Int(n)) if n > most => {
                self.errors.push(FieldError::invalid(at, *n, format!("must be less than or equal to {most}")));
            }
            (Rule::MaxLength(most), Value::String(s)) if s.len() > *most => self.errors.push(FieldError::too_long(at, *most)),
            (Rule::MaxItems(most), Value::List(l)) if l.len() > *most => self.errors.push(FieldError::too_many(at, l.len(), *most)),
            (Rule::Form(form), Value::String(text)) => self.form(*form, text, at),
            (Rule::Form(form), Value::List(list)) => {
                for (i, text) in list.iter().enumerate().filter_map(|(i, v)| Some((i, v.as_str()?))) {
                    self.form(*form, text, &At::Index(at, i));
                }
            }
            (Rule::Form(form), Value::Map(map)) => self.values(*form, map, at),
            (Rule::Keys(form), Value::Map(map)) => {
                for key in map.keys() {
                    self.form(*form, key, at);
                }
            }
            (Rule::Unique(key), Value::List(list)) => self.unique(key, list, at),
            (Rule::Distinct(keys), Value::List(list)) => self.distinct(keys, list, at),
            _ => {}
        }
    }

    fn form(&mut self, form: Form, text: &str, at: &At<'_>) {
        if let Err(why) = form.check(text) {
            self.errors.push(FieldError::invalid(at, text, why));
        }
    }

    fn values(&mut self, form: Form, map: &Map, at: &At<'_>) {
        for (key, value) in map.iter() {
            self.form(form, value.as_str().unwrap_or_default(), &At::Entry(at, key));
        }
    }

    /// No two elements may have the same value, or the same value in the field `key`.
    fn unique(&mut self, key: &str, list: &[Value], at: &At<'_>) {
        let mut seen = Seen::default();
        for (i, item) in list.iter().enumerate() {
            let value = if key.is_empty() { Some(item) } else { item.get(key) };
            let Some(value) = value.filter(|v| v.as_str() != Some("")) else { continue };
            if seen.again(value) {
                let at = if key.is_empty() { format!("{at}[{i}]") } else { format!("{at}[{i}].{key}") };
                self.errors.push(FieldError::duplicate(at, value.clone()));
            }
        }
    }

    /// No two elements may have the same values in all of these fields.
    fn distinct<'v>(&mut self, keys: &str, list: &'v [Value], at: &At<'_>) {
        // The fields that tell elements apart are texts.
        let mut seen: HashSet<Vec<Option<&'v str>>> = HashSet::new();
        let mut again = |item: &'v Value| !seen.insert(keys.split(',').map(|k| item.get(k).and_then(Value::as_str)).collect());
        for (i, item) in list.iter().enumerate().filter(|(_, item)| again(item)) {
            let shown = if keys.contains(',') { item.clone() } else { item.get(keys).cloned().unwrap_or_default() };
            self.errors.push(FieldError::duplicate(format!("{at}[{i}]"), shown));
        }
    }

    fn inside(&mut self, ty: &Type, value: &Value, old: Option<&Value>, at: &At<'_>) {
        match (ty, value) {
            (Type::Struct(id), value) => self.structure(*id, value, old, at),
            (Type::List(item), Value::List(list)) => {
                list.iter().enumerate().for_each(|(i, v)| self.inside(item, v, None, &At::Index(at, i)));
            }
            (Type::Map(item), Value::Map(map)) => map.iter().for_each(|(k, v)| self.inside(item, v, None, &At::Entry(at, k))),
            _ => {}
        }
    }
}
