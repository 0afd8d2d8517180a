//! What is wrong with the rules that a definition has: expressions whose types do not go together, and those that could cost
//! more than a server gives them. The rules are not run here.

use std::sync::Arc;

use fram_cel::{Declared, Environment, Program, Type};
use fram_machinery::Value;
use fram_machinery::status::{FieldError, Problem};

/// What one rule and all rules of a definition may cost at most; see upstream's StaticEstimatedCostLimit and
/// StaticEstimatedCRDCostLimit.
const LIMIT: u64 = 10_000_000;
const TOTAL_LIMIT: u64 = 100_000_000;
/// The rules that are named where all of them together cost too much.
const MOST_NAMED: usize = 4;

const REASONS: [&str; 4] = ["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];

/// What is known from above a node of a schema.
#[derive(Clone)]
struct Above {
    /// The type of the node, where a rule above asked for it.
    declared: Option<Arc<Declared>>,
    /// How often the node can occur in an object; None where that has no limit.
    times: Option<u64>,
    /// The part of the schema in which what was before cannot be told.
    uncorrelated: Option<String>,
    root: bool,
}

/// The walk through one schema.
pub(crate) struct Checking<'a> {
    /// The schema is that of an object that is there, and did not change: its rules may cost what they did.
    pub(crate) unchanged: bool,
    pub(crate) out: &'a mut Vec<FieldError>,
}

/// What all rules cost, and the most expensive of them.
#[derive(Default)]
struct Total {
    cost: u64,
    expensive: Vec<(u64, String)>,
}

impl Total {
    fn add(&mut self, cost: u64, place: String) {
        self.cost = self.cost.saturating_add(cost);
        if cost >= TOTAL_LIMIT / 100 {
            self.expensive.push((cost, place));
        }
    }
}

/// What is wrong with the rules of a schema; `path` is where it stands in the definition.
pub(crate) fn errors(schema: &Value, path: &str, checking: Checking<'_>) {
    let mut total = Total::default();
    let above = Above { declared: None, times: Some(1), uncorrelated: None, root: true };
    let mut checking = checking;
    checking.node(schema, path, above, &mut total);
    if total.cost > TOTAL_LIMIT {
        total.expensive.sort_by_key(|(cost, _)| std::cmp::Reverse(*cost));
        for (_, place) in total.expensive.into_iter().take(MOST_NAMED) {
            let why = "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema";
            checking.out.push(FieldError::forbidden(place, why));
        }
        let why = too_expensive("x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema", total.cost, TOTAL_LIMIT);
        checking.out.push(FieldError::forbidden(path, &why));
    }
}

fn too_expensive(what: &str, cost: u64, limit: u64) -> String {
    let factor = cost as f64 / limit as f64;
    let factor = match factor {
        f if f > 100.0 => "more than 100x".to_string(),
        f if f < 1.5 => format!("{f:.6}x"),
        f => format!("{f:.1}x"),
    };
    format!(
        "{what} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where \
         arrays, maps, and strings are declared)"
    )
}

/// By how much a node multiplies what is below it; None where nothing limits that.
fn factor(schema: &Value) -> Option<u64> {
    let limit = |field: &str| schema.int_at(&[field]).map(|n| n.max(0) as u64);
    match schema.str_at(&["type"]) {
        "object" if schema.get("additionalProperties").is_some_and(|a| !a.is_null()) => limit("maxProperties"),
        "array" => limit("maxItems"),
        _ => Some(1),
    }
}

impl Checking<'_> {
    /// Whether there was nothing wrong with the rules beside their expressions, here and below.
    fn node(&mut self, schema: &Value, path: &str, above: Above, total: &mut Total) -> bool {
        let rules = schema.list_at(&["x-kubernetes-validations"]);
        let embedded = schema.bool_at(&["x-kubernetes-embedded-resource"]) == Some(true);
        let declared = match above.declared {
            None if !rules.is_empty() => Declared::read(schema, "selfType", above.root || embedded).map(Arc::new),
            known => known,
        };
        let times = above.times.and_then(|times| Some(times.saturating_mul(factor(schema)?)));
        let below = |declared: Option<&Arc<Declared>>, uncorrelated: bool| Above {
            declared: declared.cloned(),
            times,
            uncorrelated: above.uncorrelated.clone().or_else(|| uncorrelated.then(|| path.to_string())),
            root: false,
        };
        let mut sound = true;
        let atomic_map = schema.str_at(&["x-kubernetes-map-type"]) == "atomic";
        for (name, part) in schema.get("properties").and_then(Value::as_map).into_iter().flat_map(|m| m.iter()) {
            let above = below(declared.as_ref().and_then(|d| d.property(name)), atomic_map);
            sound &= self.node(part, &format!("{path}.properties[{name}]"), above, total);
        }
        let atomic_list = schema.str_at(&["x-kubernetes-list-type"]) != "map";
        for (field, uncorrelated) in [("additionalProperties", false), ("items", atomic_list)] {
            if let Some(part) = schema.get(field).filter(|b| b.as_map().is_some()) {
                let above = below(declared.as_ref().and_then(|d| d.element()), uncorrelated);
                sound &= self.node(part, &format!("{path}.{field}"), above, total);
            }
        }
        for (i, rule) in rules.iter().enumerate() {
            sound &= self.texts(rule, schema, &format!("{path}.x-kubernetes-validations[{i}]"));
        }
        if !sound || rules.is_empty() {
            return sound;
        }
        let Some(declared) = declared else {
            let why = "failed to construct type information for x-kubernetes-validations rules";
            self.out.push(FieldError::invalid(format!("{path}.x-kubernetes-validations"), Value::Null, why));
            return sound;
        };
        for (i, rule) in rules.iter().enumerate() {
            let at = format!("{path}.x-kubernetes-validations[{i}]");
            self.rule(rule, &at, &declared, above.times, above.uncorrelated.as_deref(), total);
        }
        sound
    }

    /// Checks what a rule says beside its expressions.
    fn texts(&mut self, rule: &Value, schema: &Value, at: &str) -> bool {
        let before = self.out.len();
        let at = |field: &str| format!("{at}.{field}");
        let (text, message) = (rule.str_at(&["rule"]), rule.str_at(&["message"]));
        let breaks = |text: &str| text.trim().contains(['\n', '\r']);
        if text.trim().is_empty() {
            self.out.push(FieldError::required(at("rule"), "rule is not specified"));
        } else if !message.is_empty() && message.trim().is_empty() {
            self.out.push(FieldError::invalid(at("message"), message, "must be non-empty if specified"));
        } else if breaks(message) {
            self.out.push(FieldError::invalid(at("message"), message, "must not contain line breaks"));
        } else if breaks(text) && message.trim().is_empty() {
            self.out.push(FieldError::required(at("message"), "message must be specified if rule contains line breaks"));
        }
        let made = rule.str_at(&["messageExpression"]);
        if !made.is_empty() && made.trim().is_empty() {
            self.out.push(FieldError::required(at("messageExpression"), "messageExpression must be non-empty if specified"));
        }
        let reason = rule.get("reason").and_then(Value::as_str);
        if let Some(reason) = reason.filter(|r| !REASONS.contains(r)) {
            self.out.push(FieldError::not_supported(at("reason"), reason, &REASONS));
        }
        let field = rule.str_at(&["fieldPath"]);
        if !field.is_empty() {
            if field.trim().is_empty() {
                self.out.push(FieldError::invalid(at("fieldPath"), field, "must be non-empty if specified"));
            }
            if field.contains(['\n', '\r']) {
                self.out.push(FieldError::invalid(at("fieldPath"), field, "must not contain line breaks"));
            }
            if !is_field(schema, field) {
                self.out.push(FieldError::invalid(at("fieldPath"), field, "must be a valid path"));
            }
        }
        self.out.len() == before
    }

    fn rule(
        &mut self,
        rule: &Value,
        at: &str,
        declared: &Arc<Declared>,
        times: Option<u64>,
        uncorrelated: Option<&str>,
        total: &mut Total,
    ) {
        let at = |field: &str| format!("{at}.{field}");
        let text = rule.str_at(&["rule"]);
        let optional = rule.get("optionalOldSelf").filter(|o| !o.is_null());
        let mut environment = Environment::kubernetes().variable_of("self", declared.clone());
        environment = match optional.and_then(Value::as_bool) {
            Some(true) => environment.typed("oldSelf", Type::optional(declared.ty.clone())),
            _ => environment.variable_of("oldSelf", declared.clone()),
        };
        let (program, cost) = match Program::estimate(text, &environment, declared) {
            Ok((program, _)) if !matches!(program.result(), Type::Bool) => {
                return self.out.push(FieldError::invalid(at("rule"), text, "cel expression must evaluate to a bool"));
            }
            Ok(found) => found,
            Err(why) => return self.out.push(FieldError::invalid(at("rule"), text, format!("compilation failed: {why}"))),
        };
        let cost = cost.saturating_mul(times.unwrap_or_else(|| declared.cardinality()));
        self.afford("estimated rule cost", cost, at("rule"), total);
        let message = rule.str_at(&["messageExpression"]);
        if !message.is_empty() {
            let invalid = |why: String| FieldError::invalid(at("messageExpression"), message, why);
            match Program::estimate(message, &environment, declared) {
                Ok((program, cost)) if matches!(program.result(), Type::Text) => {
                    self.afford("estimated messageExpression cost", cost, at("messageExpression"), total);
                }
                Ok(_) => self.out.push(invalid("messageExpression must evaluate to a string".into())),
                Err(why) => self.out.push(invalid(format!("messageExpression compilation failed: {why}"))),
            }
        }
        match (program.mentions("oldSelf"), uncorrelated, optional) {
            (true, Some(part), _) => {
                let why = format!("oldSelf cannot be used on the uncorrelatable portion of the schema within {part}");
                self.out.push(FieldError::invalid(at("rule"), text, why));
            }
            (false, _, Some(optional)) => {
                let why = "may not be set if oldSelf is not used in rule";
                self.out.push(FieldError::invalid(at("optionalOldSelf"), optional.clone(), why));
            }
            _ => {}
        }
    }

    fn afford(&mut self, what: &str, cost: u64, place: String, total: &mut Total) {
        if cost > LIMIT && !self.unchanged {
            let problem = Problem::Forbidden(too_expensive(what, cost, LIMIT));
            self.out.push(FieldError { field: place.clone(), problem });
        }
        total.add(cost, place);
    }
}

/// Whether a path such as `.spec['a.b'].c` names a field of a schema; see upstream's ValidFieldPath.
fn is_field(schema: &Value, path: &str) -> bool {
    let (mut at, mut rest) = (schema, path);
    while !rest.is_empty() {
        let (name, after) = if let Some(quoted) = rest.strip_prefix("['") {
            match quoted.split_once("']") {
                Some((name, after)) => (name, after),
                None => return false,
            }
        } else if let Some(plain) = rest.strip_prefix('.') {
            plain.split_at(plain.find(['.', '[']).unwrap_or(plain.len()))
        } else {
            return false;
        };
        let quoted = rest.starts_with('[');
        let property = at.get("properties").and_then(|p| p.get(name));
        let each = at.get("additionalProperties").filter(|a| a.as_map().is_some() && quoted);
        match property.or(each).filter(|_| !name.is_empty()) {
            Some(below) => at = below,
            None => return false,
        }
        rest = after;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use fram_machinery::{json, object};

    fn found(schema: &Value) -> Vec<String> {
        let mut out = Vec::new();
        errors(schema, "s", Checking { unchanged: false, out: &mut out });
        out.iter().map(ToString::to_string).collect()
    }

    /// What is wrong with a rule over an object that has a field of most types.
    fn of_rule(rule: &str) -> String {
        let properties = r#"{"i":{"type":"integer"},"n":{"type":"number"},"s":{"type":"string","maxLength":10},"b":{"type":"boolean"},
            "t":{"type":"string","format":"date-time"},"d":{"type":"string","format":"duration"},"y":{"type":"string","format":"byte"},
            "ios":{"x-kubernetes-int-or-string":true},"x-y":{"type":"string"},"namespace":{"type":"string"},
            "any":{"type":"object","x-kubernetes-preserve-unknown-fields":true},"untyped":{"x-kubernetes-preserve-unknown-fields":true},
            "l":{"type":"array","maxItems":10,"items":{"type":"string","maxLength":10}},
            "m":{"type":"object","maxProperties":10,"additionalProperties":{"type":"integer"}},
            "o":{"type":"object","properties":{"a":{"type":"integer"}}},
            "e":{"type":"object","x-kubernetes-embedded-resource":true}}"#;
        let mut schema = object!({ "type": "object", "x-kubernetes-validations": [{ "rule": rule }] });
        schema.set(&["properties"], json::from_slice(properties.as_bytes()).unwrap());
        found(&schema).join("; ")
    }

    #[test]
    fn a_rule_goes_together_with_the_types_of_its_schema() {
        for rule in [
            "self.i > 0 && self.n < 2.0 && self.i < 2.5 && self.s.startsWith('a') && self.b",
            "self.t < timestamp('2020-01-01T00:00:00Z') && self.d > duration('1s') && self.y == b'x'",
            "type(self.ios) == int ? self.ios > 1 : self.ios.startsWith('a')",
            "self.x__dash__y == self.__namespace__ && has(self.any) && self.l.all(x, x.size() > 0) && self.m['a'] in [1, 2]",
            "self.o.a == self.m['b'] && self.e.metadata.name == self.metadata.name && self.e.kind != self.apiVersion",
            "!has(self.s) || self.?s.orValue('') == '' || self.l.map(x, x + 'y').exists_one(x, x == 'z')",
            "self.m.all(k, v, k != '' && v > 0) && self.l.transformMap(i, x, i + x.size())[0] == 1 && self.l.sort().reverse()[0] == ''",
            "quantity('1Gi').isGreaterThan(quantity('1Mi')) && ip('::1').family() == 6 && url('a:b').getHost() == ''",
            "format.dns1123Label().validate(self.s).hasValue() || isSemver(self.s) || sets.contains(self.l, ['a'])",
            "self.i == oldSelf.i",
        ] {
            assert_eq!(of_rule(rule), "", "{rule}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_rule_is_said_with_its_place() {
        let at = |place: &str, what: &str, rule: &str, dots: usize| {
            let mark = ".".repeat(dots);
            let shown = json::to_string(&Value::from(rule));
            format!(
                "s.x-kubernetes-validations[0].rule: Invalid value: {shown}: compilation failed: ERROR: <input>:{place}: {what}\n | {rule}\n | {mark}^"
            )
        };
        let overload = |name: &str, with: &str| format!("found no matching overload for '{name}' applied to '{with}'");
        for (rule, column, what) in [
            ("self.i == 'a'", 8, overload("_==_", "(int, string)")),
            ("self.s.size() + self.b > 1", 15, overload("_+_", "(int, bool)")),
            ("self.s.contains(1)", 16, overload("contains", "string.(int)")),
            ("self.nope == 1", 5, "undefined field 'nope'".into()),
            ("self.untyped == 1", 5, "undefined field 'untyped'".into()),
            ("has(self.nope)", 4, "undefined field 'nope'".into()),
            ("this.i == 1", 1, "undeclared reference to 'this' (in container '')".into()),
            ("nofunction(self.i)", 11, "undeclared reference to 'nofunction' (in container '')".into()),
            ("self.i.x == 1", 7, "type 'int' does not support field selection".into()),
            (
                "self.i.all(x, true)",
                5,
                "expression of type 'int' cannot be range of a comprehension (must be list, map, or dynamic)".into(),
            ),
            ("self.l.all(x, 1)", 15, "expected type 'bool' but found 'int'".into()),
            ("self.i in [1, 'a']", 15, "expected type 'int' but found 'string'".into()),
            ("self.i && self.b", 5, "expected type 'bool' but found 'int'".into()),
            ("self.b ? 1 : 'a'", 8, overload("_?_:_", "(bool, int, string)")),
            ("self.d > duration('x')", 19, "invalid duration argument".into()),
            ("self.s.matches('(')", 16, "invalid matches argument".into()),
            ("self.o == self.e", 8, overload("_==_", "(selfType.o, selfType.e)")),
            ("math.greatest(self.i, 1) == 1", 14, "undeclared reference to 'math' (in container '')".into()),
        ] {
            assert_eq!(of_rule(rule), at(&format!("1:{column}"), &what, rule, column - 1), "{rule}");
        }
        assert!(of_rule("self.i").ends_with("cel expression must evaluate to a bool"));
    }

    #[test]
    fn a_rule_may_cost_no_more_than_a_server_gives_it() {
        let list = |limits: &str, rule: &str| {
            let text = format!(
                r#"{{"type":"object","properties":{{"l":{{"type":"array",{limits}"items":{{"type":"string"}}}}}},
                    "x-kubernetes-validations":[{{"rule":"{rule}"}}]}}"#
            );
            found(&json::from_slice(text.as_bytes()).unwrap())
        };
        let exists = "self.l.all(x, self.l.exists(y, x == y))";
        assert_eq!(list(r#""maxItems":5,"#, "self.l.all(x, x == 'a')"), Vec::<String>::new());
        let errors = list("", exists);
        assert_eq!(
            errors[0],
            "s.x-kubernetes-validations[0].rule: Forbidden: estimated rule cost exceeds budget by factor of more than 100x (try simplifying \
             the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)"
        );
        assert!(errors[1].contains("contributed to estimated rule cost total") && errors[2].starts_with("s: Forbidden: x-kubernetes"));
    }

    #[test]
    fn what_was_before_is_asked_only_where_it_can_be_told() {
        let schema = |list: &str| {
            let text = format!(
                r#"{{"type":"object","properties":{{"l":{{"type":"array","maxItems":3,{list}"items":{{"type":"object",
                    "properties":{{"k":{{"type":"string","maxLength":3}}}},"x-kubernetes-validations":[{{"rule":"self.k == oldSelf.k"}}]}}}}}}}}"#
            );
            found(&json::from_slice(text.as_bytes()).unwrap())
        };
        assert_eq!(schema(r#""x-kubernetes-list-type":"map","x-kubernetes-list-map-keys":["k"],"#), Vec::<String>::new());
        assert!(schema("")[0].ends_with("oldSelf cannot be used on the uncorrelatable portion of the schema within s.properties[l]"));
        let optional = |rule: &str| {
            let field = object!({ "type": "string", "x-kubernetes-validations": [{ "rule": rule, "optionalOldSelf": true }] });
            found(&object!({ "type": "object", "properties": { "s": field } }))
        };
        assert!(optional("self != ''")[0].ends_with("may not be set if oldSelf is not used in rule"));
        assert_eq!(optional("oldSelf.hasValue() || oldSelf.value() == self"), Vec::<String>::new());
    }

    #[test]
    fn a_path_names_a_field_of_the_schema() {
        let schema = object!({ "properties": { "a": { "properties": { "b.c": { "additionalProperties": { "type": "string" } } } } } });
        for (path, expect) in
            [(".a", true), (".a['b.c']", true), (".a['b.c']['x']", true), (".b", false), (".a.b", false), ("a", false), (".a['x", false)]
        {
            assert_eq!(is_field(&schema, path), expect, "{path}");
        }
    }
}
