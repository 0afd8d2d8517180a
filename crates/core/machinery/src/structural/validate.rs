//! Checks of objects against a structural schema, in the words of kube-openapi's validation.

use super::{Additional, Rules, Sort, Structural, format};
use crate::json;
use crate::schema::Topology;
use crate::status::{FieldError, Problem};
use crate::value::Value;

impl Structural {
    /// Everything in an object that its schema does not allow. What an update leaves as it was is not held against it; see
    /// KEP-4008.
    pub fn validate(&self, object: &Value, old: Option<&Value>) -> Vec<FieldError> {
        let mut walk = Walk { path: String::new(), errors: Vec::new() };
        walk.value(self, object, old);
        walk.lists(self, object);
        walk.errors
    }
}

struct Walk {
    path: String,
    errors: Vec<FieldError>,
}

/// Go's `%v` of a number.
fn number_text(value: &Value) -> String {
    match value {
        Value::Float(f) if f.fract() != 0.0 || f.abs() >= 1e21 => {
            let text = format!("{f:e}");
            let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
            let exponent: i32 = exponent.parse().unwrap_or(0);
            if (-4..21).contains(&exponent) {
                return f.to_string();
            }
            format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
        }
        other => json::to_string(other),
    }
}

fn float(value: &Value) -> Option<f64> {
    match value {
        Value::Int(i) => Some(*i as f64),
        Value::Float(f) => Some(*f),
        _ => None,
    }
}

/// The type of a value as JSON schema names it.
fn sort_name(value: &Value) -> &'static str {
    match value {
        Value::Int(_) => "integer",
        Value::Float(_) => "number",
        Value::Bool(_) => "boolean",
        other => other.kind_name(),
    }
}

/// The element of the old list that an element of an associative list replaces.
fn same_element<'a>(node: &Structural, item: &Value, old: Option<&'a Value>) -> Option<&'a Value> {
    let Topology::Map(keys) = &node.topology else { return None };
    old?.as_list()?.iter().find(|other| keys.iter().all(|k| other.get(k) == item.get(k)))
}

impl Walk {
    /// The place as messages name it: `spec.x in body`, or nothing in front at the root.
    fn place(&self) -> String {
        format!("{} in body", self.path)
    }

    fn invalid(&mut self, value: &Value, what: String) {
        let why = format!("{} {what}", self.place());
        self.errors.push(FieldError::invalid(self.path.clone(), value.clone(), why));
    }

    fn push(&mut self, problem: Problem) {
        self.errors.push(FieldError { field: self.path.clone(), problem });
    }

    fn within(&mut self, step: &str, node: &Structural, value: &Value, old: Option<&Value>) {
        let back = self.path.len();
        if back > 0 && !step.starts_with('[') {
            self.path.push('.');
        }
        self.path.push_str(step);
        self.value(node, value, old);
        self.path.truncate(back);
    }

    fn value(&mut self, node: &Structural, value: &Value, old: Option<&Value>) {
        if old == Some(value) {
            return;
        }
        if !self.is_of_type(node, value) {
            return;
        }
        if value.is_null() {
            return;
        }
        if let Some(rules) = &node.rules {
            self.rules(node, rules, value);
        }
        match value {
            Value::Map(map) => {
                for (key, item) in map.iter() {
                    match node.below(key) {
                        Some(below) => self.within(key, below, item, old.and_then(|o| o.get(key))),
                        None if matches!(node.additional, Additional::None) => {
                            let why = format!("{}.{key} in body is a forbidden property", self.path);
                            self.push(Problem::Invalid { value: "".into(), why });
                        }
                        None => {}
                    }
                }
            }
            Value::List(list) => {
                if let Some(items) = &node.items {
                    for (i, item) in list.iter().enumerate() {
                        self.within(&format!("[{i}]"), items, item, same_element(node, item, old));
                    }
                }
            }
            _ => {}
        }
    }

    fn is_of_type(&mut self, node: &Structural, value: &Value) -> bool {
        let fits = match (node.sort, value) {
            (Sort::Any, Value::Null) => !node.int_or_string || node.nullable,
            (_, Value::Null) => node.nullable,
            (Sort::Any, Value::Int(_) | Value::String(_)) => true,
            (Sort::Any, Value::Float(f)) => !node.int_or_string || f.fract() == 0.0,
            (Sort::Any, _) => !node.int_or_string,
            (Sort::Object, Value::Map(_)) | (Sort::Array, Value::List(_)) | (Sort::String, Value::String(_)) => true,
            (Sort::Boolean, Value::Bool(_)) | (Sort::Number, Value::Int(_) | Value::Float(_)) | (Sort::Integer, Value::Int(_)) => true,
            (Sort::Integer, Value::Float(f)) => f.fract() == 0.0,
            _ => false,
        };
        if !fits {
            let wanted = if node.int_or_string { "integer,string" } else { node.sort.as_str() };
            let found = sort_name(value);
            let why = format!("{} must be of type {wanted}: {found:?}", self.place());
            self.push(Problem::TypeInvalid { value: found.into(), why });
        }
        fits
    }

    fn rules(&mut self, node: &Structural, rules: &Rules, value: &Value) {
        match value {
            Value::String(text) => self.text(node, rules, value, text),
            Value::Int(_) | Value::Float(_) => self.number(rules, value),
            Value::List(list) => self.list(rules, value, list),
            Value::Map(map) => self.map(rules, value, map),
            _ => {}
        }
        if !rules.allowed.is_empty() && !rules.allowed.contains(value) {
            let supported = rules.allowed.iter().map(|v| json::text(v).to_string()).collect();
            self.push(Problem::NotSupported { value: value.clone(), supported });
        }
        self.junctors(rules, value);
    }

    fn text(&mut self, node: &Structural, rules: &Rules, value: &Value, text: &str) {
        let length = text.chars().count() as i64;
        if let Some(limit) = rules.max_length.filter(|max| length > *max) {
            self.push(Problem::TooLong { limit: usize::try_from(limit).unwrap_or(0) });
        }
        if let Some(least) = rules.min_length.filter(|min| length < *min) {
            self.invalid(value, format!("should be at least {least} chars long"));
        }
        if let Some(pattern) = rules.pattern.as_ref().filter(|p| !p.matches(text)) {
            self.invalid(value, format!("should match '{}'", pattern.text));
        }
        if let Some(format) = rules.format.as_ref().filter(|_| matches!(node.sort, Sort::String | Sort::Any))
            && !format::matches(format, text)
        {
            let why = format!("{} must be of type {format}: {text:?}", self.place());
            self.push(Problem::TypeInvalid { value: value.clone(), why });
        }
    }

    fn number(&mut self, rules: &Rules, value: &Value) {
        let Some(n) = float(value) else { return };
        if let Some(max) = &rules.maximum {
            let most = float(max).unwrap_or(f64::INFINITY);
            if rules.exclusive_maximum && n >= most {
                self.invalid(value, format!("should be less than {}", number_text(max)));
            } else if n > most {
                self.invalid(value, format!("should be less than or equal to {}", number_text(max)));
            }
        }
        if let Some(min) = &rules.minimum {
            let least = float(min).unwrap_or(f64::NEG_INFINITY);
            if rules.exclusive_minimum && n <= least {
                self.invalid(value, format!("should be greater than {}", number_text(min)));
            } else if n < least {
                self.invalid(value, format!("should be greater than or equal to {}", number_text(min)));
            }
        }
        if let Some(factor) = &rules.multiple_of {
            let multiple = match (value, factor) {
                (Value::Int(n), Value::Int(f)) => *f != 0 && n % f == 0,
                _ => float(factor).is_some_and(|f| (n / f).fract() == 0.0),
            };
            if !multiple {
                self.invalid(value, format!("should be a multiple of {}", number_text(factor)));
            }
        }
        let in_range = match (rules.format.as_deref(), value) {
            (Some("int32"), Value::Int(i)) => i32::try_from(*i).is_ok(),
            _ => true,
        };
        if !in_range {
            self.invalid(value, "must be of type int32".to_string());
        }
    }

    fn list(&mut self, rules: &Rules, value: &Value, list: &[Value]) {
        let length = list.len() as i64;
        if let Some(limit) = rules.max_items.filter(|max| length > *max) {
            self.push(Problem::TooMany { actual: list.len(), limit: usize::try_from(limit).unwrap_or(0) });
        }
        if let Some(least) = rules.min_items.filter(|min| length < *min) {
            self.invalid(&Value::Int(length), format!("should have at least {least} items"));
        }
        if rules.unique && list.iter().enumerate().any(|(i, v)| list[..i].contains(v)) {
            self.invalid(value, "shouldn't contain duplicates".to_string());
        }
    }

    fn map(&mut self, rules: &Rules, value: &Value, map: &crate::Map) {
        let length = map.len() as i64;
        if let Some(limit) = rules.max_properties.filter(|max| length > *max) {
            self.push(Problem::TooMany { actual: map.len(), limit: usize::try_from(limit).unwrap_or(0) });
        }
        if let Some(least) = rules.min_properties.filter(|min| length < *min) {
            self.invalid(value, format!("should have at least {least} properties"));
        }
        for name in rules.required.iter().filter(|name| !map.contains(name)) {
            let path = if self.path.is_empty() { name.to_string() } else { format!("{}.{name}", self.path) };
            self.errors.push(FieldError::required(path, ""));
        }
    }

    /// The errors of a value against a schema on its own.
    fn tried(&self, node: &Structural, value: &Value) -> Vec<FieldError> {
        let mut walk = Walk { path: self.path.clone(), errors: Vec::new() };
        walk.value(node, value, None);
        walk.errors
    }

    fn junctors(&mut self, rules: &Rules, value: &Value) {
        let path = self.path.clone();
        if !rules.any_of.is_empty() {
            let tried: Vec<Vec<FieldError>> = rules.any_of.iter().map(|n| self.tried(n, value)).collect();
            if tried.iter().all(|errors| !errors.is_empty()) {
                self.push(Problem::Invalid { value: "".into(), why: format!("{path:?} must validate at least one schema (anyOf)") });
                // The errors of the schema that came closest say what is wrong.
                self.errors.extend(tried.into_iter().min_by_key(Vec::len).unwrap_or_default());
            }
        }
        if !rules.one_of.is_empty() {
            let tried: Vec<Vec<FieldError>> = rules.one_of.iter().map(|n| self.tried(n, value)).collect();
            let valid = tried.iter().filter(|errors| errors.is_empty()).count();
            if valid != 1 {
                let found = if valid == 0 { "Found none valid".to_string() } else { format!("Found {valid} valid alternatives") };
                let why = format!("{path:?} must validate one and only one schema (oneOf). {found}");
                self.push(Problem::Invalid { value: "".into(), why });
                if valid == 0 {
                    self.errors.extend(tried.into_iter().min_by_key(Vec::len).unwrap_or_default());
                }
            }
        }
        if !rules.all_of.is_empty() {
            let tried: Vec<Vec<FieldError>> = rules.all_of.iter().map(|n| self.tried(n, value)).collect();
            let valid = tried.iter().filter(|errors| errors.is_empty()).count();
            if valid != tried.len() {
                let more = if valid == 0 { ". None validated" } else { "" };
                self.errors.extend(tried.into_iter().flatten());
                self.push(Problem::Invalid { value: "".into(), why: format!("{path:?} must validate all the schemas (allOf){more}") });
            }
        }
        if let Some(not) = &rules.not
            && self.tried(not, value).is_empty()
        {
            self.push(Problem::Invalid { value: "".into(), why: format!("{path:?} must not validate the schema (not)") });
        }
    }

    /// Elements of sets and associative lists that stand twice; see upstream's listtype.ValidateListSetsAndMaps.
    fn lists(&mut self, node: &Structural, value: &Value) {
        match value {
            Value::List(list) => {
                self.duplicates(node, list);
                if let Some(items) = &node.items {
                    for (i, item) in list.iter().enumerate() {
                        let back = self.path.len();
                        self.path.push_str(&format!("[{i}]"));
                        self.lists(items, item);
                        self.path.truncate(back);
                    }
                }
            }
            Value::Map(map) => {
                for (key, item) in map.iter() {
                    let Some(below) = node.below(key) else { continue };
                    let back = self.path.len();
                    let named = node.property(key).is_some();
                    self.path.push_str(&match (named, back) {
                        (true, 0) => key.to_string(),
                        (true, _) => format!(".{key}"),
                        (false, _) => format!("[{key}]"),
                    });
                    self.lists(below, item);
                    self.path.truncate(back);
                }
            }
            _ => {}
        }
    }

    fn duplicates(&mut self, node: &Structural, list: &[Value]) {
        let names: Vec<Value> = match &node.topology {
            Topology::Atomic => return,
            Topology::Set => list.to_vec(),
            Topology::Map(keys) => {
                let of = |item: &Value| {
                    let found = keys.iter().filter_map(|k| Some((k.clone(), item.get(k)?.clone())));
                    Value::Map(found.collect())
                };
                list.iter().map(of).collect()
            }
        };
        for (i, name) in names.iter().enumerate() {
            if names[..i].contains(name) {
                self.errors.push(FieldError::duplicate(format!("{}[{i}]", self.path), name.clone()));
            }
        }
    }
}
