//! Label selectors in their two forms, the query string and the LabelSelector object, and field selectors.

use crate::names;
use crate::value::{Map, Value};

/// One requirement on a set of labels; see Kubernetes' labels.Requirement.
#[derive(Debug, Clone, PartialEq)]
pub enum Requirement {
    Equals(String, String),
    NotEquals(String, String),
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    DoesNotExist(String),
    GreaterThan(String, i64),
    LessThan(String, i64),
}

/// A conjunction of requirements; the empty selector matches everything.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Selector {
    pub requirements: Vec<Requirement>,
}

#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SelectorError {
    #[error("unable to parse requirement: {0}")]
    Parse(String),
    #[error("invalid label key {key:?}: {why}")]
    Key { key: String, why: String },
    #[error("invalid label value {value:?}: {why}")]
    Value { value: String, why: String },
    #[error("{0:?} is not a valid label selector operator")]
    Operator(String),
}

impl Requirement {
    fn key(&self) -> &str {
        match self {
            Self::Equals(key, _) | Self::NotEquals(key, _) | Self::In(key, _) | Self::NotIn(key, _) => key,
            Self::Exists(key) | Self::DoesNotExist(key) | Self::GreaterThan(key, _) | Self::LessThan(key, _) => key,
        }
    }

    fn matches<'a>(&self, get: &impl Fn(&str) -> Option<&'a str>) -> bool {
        match self {
            Requirement::Equals(k, v) => get(k) == Some(v),
            Requirement::NotEquals(k, v) => get(k) != Some(v),
            Requirement::In(k, vs) => get(k).is_some_and(|v| vs.iter().any(|x| x == v)),
            Requirement::NotIn(k, vs) => get(k).is_none_or(|v| vs.iter().all(|x| x != v)),
            Requirement::Exists(k) => get(k).is_some(),
            Requirement::DoesNotExist(k) => get(k).is_none(),
            Requirement::GreaterThan(k, n) => get(k).and_then(|v| v.parse::<i64>().ok()).is_some_and(|v| v > *n),
            Requirement::LessThan(k, n) => get(k).and_then(|v| v.parse::<i64>().ok()).is_some_and(|v| v < *n),
        }
    }

    fn validate(self) -> Result<Self, SelectorError> {
        let (key, values): (&String, &[String]) = match &self {
            Requirement::Equals(k, v) | Requirement::NotEquals(k, v) => (k, std::slice::from_ref(v)),
            Requirement::In(k, v) | Requirement::NotIn(k, v) => (k, v),
            Requirement::Exists(k) | Requirement::DoesNotExist(k) => (k, &[]),
            Requirement::GreaterThan(k, _) | Requirement::LessThan(k, _) => (k, &[]),
        };
        names::qualified_name(key).map_err(|why| SelectorError::Key { key: key.clone(), why: why.into() })?;
        for value in values {
            names::label_value(value).map_err(|why| SelectorError::Value { value: value.clone(), why: why.into() })?;
        }
        Ok(self)
    }
}

impl Selector {
    pub fn everything() -> Self {
        Self::default()
    }

    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Whether the labels of an object (a map of strings, or null) satisfy every requirement.
    pub fn matches(&self, labels: &Value) -> bool {
        let map = labels.as_map();
        self.matches_with(|key| map.and_then(|m| m.get(key)).and_then(Value::as_str))
    }

    pub fn matches_with<'a>(&self, get: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.requirements.iter().all(|r| r.matches(&get))
    }

    /// Requires each of these labels to have exactly its value.
    pub fn from_map(labels: &Map) -> Self {
        let requirements =
            labels.iter().map(|(k, v)| Requirement::Equals(k.to_string(), v.as_str().unwrap_or_default().to_string())).collect();
        Self { requirements }
    }

    /// Reads a LabelSelector object (`matchLabels`, `matchExpressions`). A missing selector matches nothing and is None.
    pub fn from_object(selector: Option<&Value>) -> Result<Option<Self>, SelectorError> {
        let Some(selector) = selector.filter(|s| !s.is_null()) else { return Ok(None) };
        let mut requirements = Vec::new();
        if let Some(labels) = selector.get("matchLabels").and_then(Value::as_map) {
            requirements = Self::from_map(labels).requirements;
        }
        for expression in selector.list_at(&["matchExpressions"]) {
            let key = expression.str_at(&["key"]).to_string();
            let values = expression.list_at(&["values"]).iter().filter_map(Value::as_str).map(String::from).collect();
            requirements.push(match expression.str_at(&["operator"]) {
                "In" => Requirement::In(key, values),
                "NotIn" => Requirement::NotIn(key, values),
                "Exists" => Requirement::Exists(key),
                "DoesNotExist" => Requirement::DoesNotExist(key),
                other => return Err(SelectorError::Operator(other.to_string())),
            });
        }
        let mut requirements = requirements.into_iter().map(Requirement::validate).collect::<Result<Vec<_>, _>>()?;
        // As upstream keeps them, and prints them.
        requirements.sort_by(|a, b| a.key().cmp(b.key()));
        Ok(Some(Self { requirements }))
    }

    /// Parses the query form: `a=b,c!=d,e in (f,g),h notin (i),j,!k,l>3`.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut requirements = Vec::new();
        for part in split_outside_parentheses(text) {
            let part = part.trim();
            if part.is_empty() {
                if text.trim().is_empty() {
                    break;
                }
                return Err(SelectorError::Parse(text.to_string()));
            }
            requirements.push(parse_requirement(part)?.validate()?);
        }
        Ok(Self { requirements })
    }
}

impl std::fmt::Display for Selector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, r) in self.requirements.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            match r {
                Requirement::Equals(k, v) => write!(f, "{k}={v}")?,
                Requirement::NotEquals(k, v) => write!(f, "{k}!={v}")?,
                Requirement::In(k, v) => write!(f, "{k} in ({})", v.join(","))?,
                Requirement::NotIn(k, v) => write!(f, "{k} notin ({})", v.join(","))?,
                Requirement::Exists(k) => f.write_str(k)?,
                Requirement::DoesNotExist(k) => write!(f, "!{k}")?,
                Requirement::GreaterThan(k, n) => write!(f, "{k}>{n}")?,
                Requirement::LessThan(k, n) => write!(f, "{k}<{n}")?,
            }
        }
        Ok(())
    }
}

fn split_outside_parentheses(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut depth) = (Vec::new(), 0, 0);
    for (i, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn parse_requirement(part: &str) -> Result<Requirement, SelectorError> {
    let bad = || SelectorError::Parse(part.to_string());
    if let Some(key) = part.strip_prefix('!') {
        return Ok(Requirement::DoesNotExist(key.trim().to_string()));
    }
    if let Some(inner) = part.strip_suffix(')') {
        let (head, list) = inner.split_once('(').ok_or_else(bad)?;
        let values = list.split(',').map(|v| v.trim().to_string()).collect();
        let mut words = head.split_whitespace();
        return match (words.next(), words.next(), words.next()) {
            (Some(key), Some("in"), None) => Ok(Requirement::In(key.to_string(), values)),
            (Some(key), Some("notin"), None) => Ok(Requirement::NotIn(key.to_string(), values)),
            _ => Err(bad()),
        };
    }
    let pair = |key: &str, value: &str| (key.trim().to_string(), value.trim().to_string());
    if let Some((k, v)) = part.split_once("!=") {
        let (k, v) = pair(k, v);
        return Ok(Requirement::NotEquals(k, v));
    }
    if let Some((k, v)) = part.split_once("==").or_else(|| part.split_once('=')) {
        let (k, v) = pair(k, v);
        return Ok(Requirement::Equals(k, v));
    }
    if let Some((k, v)) = part.split_once('>') {
        let (k, v) = pair(k, v);
        return Ok(Requirement::GreaterThan(k, v.parse().map_err(|_| bad())?));
    }
    if let Some((k, v)) = part.split_once('<') {
        let (k, v) = pair(k, v);
        return Ok(Requirement::LessThan(k, v.parse().map_err(|_| bad())?));
    }
    Ok(Requirement::Exists(part.to_string()))
}

/// One `path=value` or `path!=value` of a field selector.
#[derive(Debug, Clone, PartialEq)]
pub struct FieldRequirement {
    pub path: String,
    pub value: String,
    pub equal: bool,
}

/// A conjunction of field requirements; which paths a kind supports is declared by the kind.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FieldSelector {
    pub requirements: Vec<FieldRequirement>,
}

impl FieldSelector {
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut requirements = Vec::new();
        for part in split_unescaped(text) {
            if part.is_empty() {
                continue;
            }
            let bad = || SelectorError::Parse(part.clone());
            let (path, value, equal) = if let Some((p, v)) = part.split_once("!=") {
                (p, v, false)
            } else {
                let (p, v) = part.split_once("==").or_else(|| part.split_once('=')).ok_or_else(bad)?;
                (p, v, true)
            };
            requirements.push(FieldRequirement { path: path.into(), value: unescape(value), equal });
        }
        Ok(Self { requirements })
    }

    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty()
    }

    /// The value that `path` is required to have, if there is such a requirement.
    pub fn exact(&self, path: &str) -> Option<&str> {
        self.requirements.iter().find(|r| r.equal && r.path == path).map(|r| r.value.as_str())
    }

    pub fn matches_with(&self, get: impl Fn(&str) -> String) -> bool {
        self.requirements.iter().all(|r| (get(&r.path) == r.value) == r.equal)
    }
}

fn split_unescaped(text: &str) -> Vec<String> {
    let (mut parts, mut current, mut escaped) = (Vec::new(), String::new(), false);
    for c in text.chars() {
        match c {
            ',' if !escaped => parts.push(std::mem::take(&mut current)),
            _ => current.push(c),
        }
        escaped = c == '\\' && !escaped;
    }
    parts.push(current);
    parts
}

fn unescape(text: &str) -> String {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => out.extend(chars.next()),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object;

    #[track_caller]
    fn check(selector: &str, expect: bool) {
        let labels = object!({ "app": "web", "tier": "front", "n": "5" });
        assert_eq!(Selector::parse(selector).unwrap().matches(&labels), expect, "{selector}");
    }

    #[test]
    fn requirements_match_labels() {
        for yes in ["", "app=web", "app==web", "app in (web, db)", "app,!x", "x!=1", "x notin (a)", "n>4", "n<6", "app=web,tier=front"] {
            check(yes, true);
        }
        for no in ["app=db", "app!=web", "app in (db)", "app notin (web)", "!app", "x", "n>5", "app=web,x"] {
            check(no, false);
        }
    }

    #[test]
    fn malformed_selectors_are_refused() {
        for bad in ["a in b)", "a=b=c d", "=x", "a in (b", "app=web,,x", "a/b/c=d", "x>y"] {
            assert!(Selector::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_missing_object_selector_is_none_and_an_empty_one_is_everything() {
        assert_eq!(Selector::from_object(None), Ok(None));
        assert_eq!(Selector::from_object(Some(&object!({}))), Ok(Some(Selector::everything())));
        let s = Selector::from_object(Some(&object!({ "matchExpressions": [{ "key": "a", "operator": "In", "values": ["b"] }] })));
        assert!(s.unwrap().unwrap().matches(&object!({ "a": "b" })));
    }

    #[test]
    fn field_selectors_compare_text() {
        let s = FieldSelector::parse(r"metadata.name=a\,b,status.phase!=Running").unwrap();
        assert_eq!(s.exact("metadata.name"), Some("a,b"));
        assert!(s.matches_with(|p| if p == "metadata.name" { "a,b".into() } else { "Failed".into() }));
        assert!(FieldSelector::parse("metadata.name").is_err());
    }
}
