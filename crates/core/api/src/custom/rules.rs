//! Validation rules of custom resources (`x-kubernetes-validations`): expressions over an object and what it replaces. Read
//! from a schema once; parts of a schema without rules are not looked at.

mod definition;

use std::sync::Arc;

pub(crate) use definition::{Checking, errors};
use fram_cel::{Budget, Environment, Program, Value as Cel};
use fram_machinery::schema::Topology;
use fram_machinery::status::{FieldError, Problem};
use fram_machinery::structural::{Additional, Sort, Structural};
use fram_machinery::{Key, Map, Value};

/// What all rules of an object may cost together, and each alone; see upstream's RuntimeCELCostBudget and PerCallLimit.
const BUDGET: u64 = 10_000_000;
const CALL_BUDGET: u64 = 1_000_000;

/// The rules of a schema and of what is below it.
#[derive(Debug, Default)]
pub struct Rules {
    own: Vec<Rule>,
    properties: Vec<(Key, Rules)>,
    items: Option<Box<Rules>>,
    additional: Option<Box<Rules>>,
}

#[derive(Debug)]
struct Rule {
    text: String,
    program: Result<Program, String>,
    message: String,
    message_program: Option<Program>,
    reason: String,
    field_path: String,
    /// It asks about the value before.
    transition: bool,
    optional_old: bool,
}

impl Rule {
    /// The types of a rule were checked when its definition was written; what counts here is the values.
    fn read(rule: &Value) -> Self {
        let environment = Environment::kubernetes().accepted().dynamic(&["self", "oldSelf"]);
        let text = rule.str_at(&["rule"]).to_string();
        let program = Program::compile(&text, &environment).map_err(|e| e.to_string());
        let message = rule.str_at(&["messageExpression"]);
        Self {
            transition: program.as_ref().is_ok_and(|p| p.mentions("oldSelf")),
            program,
            message: rule.str_at(&["message"]).trim().to_string(),
            message_program: Some(message).filter(|m| !m.is_empty()).and_then(|m| Program::compile(m, &environment).ok()),
            reason: rule.str_at(&["reason"]).into(),
            field_path: rule.str_at(&["fieldPath"]).into(),
            optional_old: rule.bool_at(&["optionalOldSelf"]) == Some(true),
            text,
        }
    }
}

impl Rules {
    /// The rules of a schema; None where there are none in it.
    pub(crate) fn read(schema: &Value) -> Option<Self> {
        let below = |name: &str| schema.get(name).filter(|b| b.as_map().is_some()).and_then(Self::read).map(Box::new);
        let properties = schema.get("properties").and_then(Value::as_map).into_iter().flat_map(|m| m.iter());
        let rules = Self {
            own: schema.list_at(&["x-kubernetes-validations"]).iter().map(Rule::read).collect(),
            properties: properties.filter_map(|(name, p)| Some((name.clone(), Self::read(p)?))).collect(),
            items: below("items"),
            additional: below("additionalProperties"),
        };
        let none = rules.own.is_empty() && rules.properties.is_empty() && rules.items.is_none() && rules.additional.is_none();
        (!none).then_some(rules)
    }

    /// The rules that an object breaks; one that was valid by its schema.
    pub fn validate(&self, schema: &Structural, object: &Value, old: Option<&Value>) -> Vec<FieldError> {
        let mut walk = Walk { budget: Budget::new(BUDGET), errors: Vec::new(), spent: false };
        walk.node(self, schema, &root(object), old.map(root).as_ref(), "");
        walk.errors
    }
}

/// Of the metadata rules see the name only.
fn root(object: &Value) -> Value {
    let mut out = object.clone();
    let seen = ["name", "generateName"].into_iter().filter_map(|f| Some((f, object.at(&["metadata", f])?.clone())));
    out.set(&["metadata"], seen.collect::<Map>());
    out
}

struct Walk {
    budget: Budget,
    errors: Vec<FieldError>,
    spent: bool,
}

impl Walk {
    fn node(&mut self, rules: &Rules, schema: &Structural, value: &Value, old: Option<&Value>, path: &str) {
        if value.is_null() {
            return;
        }
        for rule in &rules.own {
            // What an update leaves as it was is not held against it, but for rules about the change.
            if self.spent || !rule.transition && old == Some(value) {
                continue;
            }
            self.rule(rule, schema, value, old, path);
        }
        match value {
            Value::Map(map) => {
                for (key, item) in map.iter() {
                    let before = old.and_then(|o| o.get(key));
                    let named = rules.properties.iter().find(|(name, _)| name == key).map(|(_, r)| r);
                    if let (Some(below), Some(schema)) = (named, schema.property(key)) {
                        let at = if path.is_empty() { key.to_string() } else { format!("{path}.{key}") };
                        self.node(below, schema, item, before, &at);
                    } else if let (Some(below), Additional::Each(each), None) =
                        (&rules.additional, &schema.additional, schema.property(key))
                    {
                        self.node(below, each, item, before, &format!("{path}[{key}]"));
                    }
                }
            }
            Value::List(list) => {
                if let (Some(below), Some(items)) = (&rules.items, &schema.items) {
                    for (i, item) in list.iter().enumerate() {
                        self.node(below, items, item, correlated(schema, item, old), &format!("{path}[{i}]"));
                    }
                }
            }
            _ => {}
        }
    }

    fn rule(&mut self, rule: &Rule, schema: &Structural, value: &Value, old: Option<&Value>, path: &str) {
        let before = match (rule.transition, rule.optional_old, old) {
            (true, false, None) => return,
            (true, true, old) => Cel::Optional(old.map(|o| Arc::new(typed(schema, o)))),
            (_, _, old) => old.map_or(Cel::Null, |o| typed(schema, o)),
        };
        let variables = [("self", typed(schema, value)), ("oldSelf", before)];
        let fail = |why: String| FieldError::invalid(path, shown(schema, value), why);
        let outcome = match &rule.program {
            Ok(program) => self.call(program, &variables),
            Err(why) => return self.errors.push(fail(format!("rule compile error: {why}"))),
        };
        match outcome {
            Ok(Cel::Bool(true)) => {}
            Ok(Cel::Bool(false)) => {
                let detail = self.message(rule, &variables);
                let at = format!("{path}{}", rule.field_path);
                let at = at.trim_start_matches('.').to_string();
                let problem = match rule.reason.as_str() {
                    "FieldValueForbidden" => Problem::Forbidden(detail),
                    "FieldValueRequired" => Problem::Required(detail),
                    "FieldValueDuplicate" => Problem::Duplicate(shown(schema, value)),
                    _ => Problem::Invalid { value: shown(schema, value), why: detail },
                };
                self.errors.push(FieldError { field: at, problem });
            }
            Ok(_) => self.errors.push(fail(format!("rule gives no bool: {}", rule.text))),
            Err(fram_cel::EvalError::Budget) => {
                self.spent = true;
                let why = match self.budget.left() {
                    0 => "validation failed due to running out of cost budget, no further validation rules will be run".to_string(),
                    _ => format!(
                        "'{}': no further validation rules will be run due to call cost exceeds limit for rule: {}",
                        fram_cel::EvalError::Budget,
                        rule.text
                    ),
                };
                self.errors.push(fail(why));
            }
            Err(why) => self.errors.push(fail(format!("{why} evaluating rule: {}", rule.text))),
        }
    }

    /// Evaluates within what one rule may cost and all of them have left.
    fn call(&mut self, program: &Program, variables: &[(&str, Cel)]) -> Result<Cel, fram_cel::EvalError> {
        self.budget.limited(CALL_BUDGET, |budget| program.evaluate(variables, budget))
    }

    fn message(&mut self, rule: &Rule, variables: &[(&str, Cel)]) -> String {
        let made = rule.message_program.as_ref().and_then(|p| self.call(p, variables).ok());
        let made = made.and_then(|v| v.as_text().map(|t| t.trim().to_string())).filter(|t| !t.is_empty() && !t.contains('\n'));
        match (made, rule.message.as_str()) {
            (Some(text), _) => text,
            (None, "") => format!("failed rule: {}", rule.text),
            (None, message) => message.to_string(),
        }
    }
}

/// Objects and lists are named by their type in errors.
fn shown(schema: &Structural, value: &Value) -> Value {
    match (schema.sort, value) {
        (_, Value::Map(_)) => "object".into(),
        (_, Value::List(_)) => "array".into(),
        (_, value) => value.clone(),
    }
}

/// The element that an element of an associative list replaces; in other lists none can be told.
fn correlated<'a>(schema: &Structural, item: &Value, old: Option<&'a Value>) -> Option<&'a Value> {
    let Topology::Map(keys) = &schema.topology else { return None };
    old?.as_list()?.iter().find(|other| keys.iter().all(|k| other.get(k) == item.get(k)))
}

/// Whether anything in a schema is more than the tree says: a number that is no integer, or a text that is a time.
fn has_types(schema: &Structural) -> bool {
    let own = schema.sort == Sort::Number || matches!(schema.format(), Some("date-time" | "date" | "duration" | "byte"));
    own || schema.properties.iter().any(|(_, p)| has_types(p))
        || schema.items.as_ref().is_some_and(|i| has_types(i))
        || matches!(&schema.additional, Additional::Each(each) if has_types(each))
}

/// A value as its schema types it.
fn typed(schema: &Structural, value: &Value) -> Cel {
    if !has_types(schema) {
        return value.into();
    }
    match (value, schema.sort, schema.format()) {
        (Value::Int(i), Sort::Number, _) => Cel::Double(*i as f64),
        (Value::String(text), _, Some("date-time")) => text.parse().map_or_else(|_| value.into(), Cel::Timestamp),
        (Value::String(text), _, Some("date")) => format!("{text}T00:00:00Z").parse().map_or_else(|_| value.into(), Cel::Timestamp),
        (Value::String(text), _, Some("duration")) => {
            fram_machinery::normalize::parse_duration(text).map_or_else(|| value.into(), |nanos| Cel::Duration(nanos.into()))
        }
        (Value::String(text), _, Some("byte")) => {
            use base64::Engine;
            let bytes = base64::engine::general_purpose::STANDARD.decode(text.as_bytes());
            bytes.map_or_else(|_| value.into(), |bytes| Cel::Bytes(bytes.into()))
        }
        (Value::List(list), ..) => match &schema.items {
            Some(items) => list.iter().map(|item| typed(items, item)).collect::<Vec<_>>().into(),
            None => value.into(),
        },
        (Value::Map(map), ..) => {
            let below = |key: &str| match (schema.property(key), &schema.additional) {
                (Some(own), _) => Some(own),
                (None, Additional::Each(each)) => Some(&**each),
                _ => None,
            };
            let entry = |(k, v): (&Key, &Value)| (Cel::from(k.as_str()), below(k).map_or_else(|| v.into(), |schema| typed(schema, v)));
            Cel::Map(Arc::new(map.iter().map(entry).collect()))
        }
        _ => value.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fram_machinery::{json, object};

    fn check(schema: &str, object: Value, old: Option<Value>) -> Vec<String> {
        let schema = json::from_slice(schema.as_bytes()).unwrap();
        let rules = Rules::read(&schema).unwrap();
        rules.validate(&Structural::read(&schema), &object, old.as_ref()).iter().map(ToString::to_string).collect()
    }

    const SPEC: &str = r#"{"type":"object","properties":{"spec":{"type":"object","properties":{"min":{"type":"integer"},"max":{"type":"integer"},
        "ratio":{"type":"number"},"name":{"type":"string","x-kubernetes-validations":[{"rule":"self == oldSelf","message":"name is immutable"}]}},
        "x-kubernetes-validations":[{"rule":"self.min <= self.max","messageExpression":"'min is %d'.format([self.min])"},
            {"rule":"!has(self.ratio) || self.ratio * 2.0 <= 2.0","reason":"FieldValueForbidden","fieldPath":".ratio"}]}}}"#;

    #[test]
    fn a_broken_rule_is_named_with_its_message_and_place() {
        let spec = |value: Value| object!({ "metadata": { "name": "x" }, "spec": value });
        assert!(check(SPEC, spec(object!({ "min": 1, "max": 2, "ratio": 1 })), None).is_empty());
        assert_eq!(check(SPEC, spec(object!({ "min": 3, "max": 2 })), None), [r#"spec: Invalid value: "object": min is 3"#]);
        let forbidden = check(SPEC, spec(object!({ "min": 1, "max": 2, "ratio": 2 })), None);
        assert_eq!(forbidden, ["spec.ratio: Forbidden: failed rule: !has(self.ratio) || self.ratio * 2.0 <= 2.0"]);
    }

    #[test]
    fn a_rule_about_the_change_runs_on_updates_only() {
        let spec = |name: &str| object!({ "spec": { "min": 1, "max": 2, "name": name } });
        assert!(check(SPEC, spec("a"), None).is_empty());
        assert_eq!(check(SPEC, spec("b"), Some(spec("a"))), [r#"spec.name: Invalid value: "b": name is immutable"#]);
    }

    #[test]
    fn what_was_broken_before_does_not_stop_other_changes() {
        let spec = |min: i64, other: i64| object!({ "spec": { "min": min, "max": 2 }, "other": other });
        assert!(check(SPEC, spec(5, 2), Some(spec(5, 1))).is_empty());
    }
}
