//! The part of Kubernetes' JSONPath that CustomResourceDefinitions use for printer columns: fields, indices, wildcards and
//! filters by equality. `kubectl`'s templates with ranges and text are not it.

use crate::json;
use crate::value::{Key, Value};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PathError(pub String);

/// A parsed path.
#[derive(Debug, Clone, PartialEq)]
pub struct JsonPath {
    steps: Vec<Step>,
}

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Field(Key),
    /// Negative from the end.
    Index(i64),
    Slice(Option<i64>, Option<i64>),
    All,
    /// Everything below, by this name.
    Descend(Key),
    /// `[?(@.a.b=="c")]`
    Filter {
        path: Vec<Key>,
        compare: Comparison,
        text: Value,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Exists,
}

impl JsonPath {
    /// Parses a path such as `.status.conditions[?(@.type=="Ready")].status`.
    pub fn parse(text: &str) -> Result<Self, PathError> {
        let text = text.strip_prefix('$').unwrap_or(text);
        if !text.is_empty() && !text.starts_with(['.', '[']) {
            return Err(PathError(format!("invalid path {text:?}: it begins with a dot")));
        }
        let mut steps = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let (step, after) = if let Some(below) = rest.strip_prefix("..") {
                let (name, after) = name(below);
                (Step::Descend(name), after)
            } else if let Some(below) = rest.strip_prefix('.') {
                if below.starts_with('[') {
                    rest = below;
                    continue;
                }
                match below.strip_prefix('*') {
                    Some(after) => (Step::All, after),
                    None => {
                        let (name, after) = name(below);
                        (Step::Field(name), after)
                    }
                }
            } else if let Some(below) = rest.strip_prefix('[') {
                let end = closing(below).ok_or_else(|| PathError("unterminated array".into()))?;
                (bracket(&below[..end])?, &below[end + 1..])
            } else {
                return Err(PathError(format!("unrecognized character in action: {rest:?}")));
            };
            if matches!(&step, Step::Field(name) if name.is_empty()) && !after.is_empty() {
                return Err(PathError(format!("invalid path {text:?}: a name is missing")));
            }
            if !matches!(&step, Step::Field(name) if name.is_empty()) {
                steps.push(step);
            }
            rest = after;
        }
        Ok(Self { steps })
    }

    /// What the path finds in an object.
    pub fn find<'a>(&self, object: &'a Value) -> Vec<&'a Value> {
        self.steps.iter().fold(vec![object], |found, step| found.into_iter().flat_map(|v| step.from(v)).collect())
    }

    /// The names of a path of plain fields; None where it has anything else.
    pub fn fields(&self) -> Option<Vec<Key>> {
        let field = |step: &Step| match step {
            Step::Field(name) => Some(name.clone()),
            _ => None,
        };
        self.steps.iter().map(field).collect()
    }
}

impl Step {
    fn from<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        let list = value.as_list().map_or(&[][..], |l| l.as_slice());
        match self {
            Step::Field(name) => value.get(name).into_iter().collect(),
            Step::Index(i) => place(*i, list.len()).and_then(|i| list.get(i)).into_iter().collect(),
            Step::Slice(from, to) => {
                let bound = |at: Option<i64>, default| at.map_or(default, |i| if i < 0 { list.len() as i64 + i } else { i });
                let from = bound(*from, 0).clamp(0, list.len() as i64) as usize;
                let to = bound(*to, list.len() as i64).clamp(from as i64, list.len() as i64) as usize;
                list[from..to].iter().collect()
            }
            Step::All => match value {
                Value::Map(map) => map.iter().map(|(_, v)| v).collect(),
                _ => list.iter().collect(),
            },
            Step::Descend(name) => {
                let mut found = Vec::new();
                descend(value, name, &mut found);
                found
            }
            Step::Filter { path, compare, text } => list.iter().filter(|v| compare.holds(path, v, text)).collect(),
        }
    }
}

impl Comparison {
    fn holds(self, path: &[Key], value: &Value, text: &Value) -> bool {
        let Some(found) = path.iter().try_fold(value, |v, step| v.get(step)) else { return false };
        let number = |v: &Value| match v {
            Value::Int(i) => Some(*i as f64),
            Value::Float(f) => Some(*f),
            _ => None,
        };
        let order = match (number(found), number(text)) {
            (Some(a), Some(b)) => a.partial_cmp(&b),
            _ => Some(json::text(found).cmp(&json::text(text))),
        };
        match self {
            Self::Exists => true,
            Self::Equal => order.is_some_and(|o| o.is_eq()),
            Self::NotEqual => order.is_some_and(|o| o.is_ne()),
            Self::Less => order.is_some_and(|o| o.is_lt()),
            Self::LessOrEqual => order.is_some_and(|o| o.is_le()),
            Self::Greater => order.is_some_and(|o| o.is_gt()),
            Self::GreaterOrEqual => order.is_some_and(|o| o.is_ge()),
        }
    }
}

fn place(index: i64, len: usize) -> Option<usize> {
    usize::try_from(if index < 0 { len as i64 + index } else { index }).ok()
}

fn descend<'a>(value: &'a Value, name: &str, found: &mut Vec<&'a Value>) {
    found.extend(value.get(name));
    match value {
        Value::Map(map) => map.iter().for_each(|(_, v)| descend(v, name, found)),
        Value::List(list) => list.iter().for_each(|v| descend(v, name, found)),
        _ => {}
    }
}

/// A field's name, in which a backslash takes the special meaning from the next character, and what follows it.
fn name(text: &str) -> (Key, &str) {
    let mut out = String::new();
    let mut chars = text.char_indices();
    while let Some((i, c)) = chars.next() {
        match c {
            '\\' => out.extend(chars.next().map(|(_, c)| c)),
            '.' | '[' => return (out.into(), &text[i..]),
            c => out.push(c),
        }
    }
    (out.into(), "")
}

/// The place of the bracket that closes this one, outside of quotes and inner brackets.
fn closing(text: &str) -> Option<usize> {
    let (mut depth, mut quote) = (0, None);
    for (i, c) in text.char_indices() {
        match (quote, c) {
            (Some(q), c) if q == c => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, '[') => depth += 1,
            (None, ']') if depth == 0 => return Some(i),
            (None, ']') => depth -= 1,
            _ => {}
        }
    }
    None
}

fn unquoted(text: &str) -> Option<&str> {
    ['\'', '"'].into_iter().find_map(|q| text.strip_prefix(q)?.strip_suffix(q))
}

fn bracket(inner: &str) -> Result<Step, PathError> {
    let inner = inner.trim();
    if inner == "*" {
        return Ok(Step::All);
    }
    if let Some(name) = unquoted(inner) {
        return Ok(Step::Field(name.into()));
    }
    if let Some(condition) = inner.strip_prefix("?(").and_then(|c| c.strip_suffix(')')) {
        return filter(condition);
    }
    let number = |text: &str| match text.trim() {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|_| PathError(format!("invalid array index {inner}"))),
    };
    match inner.split_once(':') {
        Some((from, to)) => Ok(Step::Slice(number(from)?, number(to)?)),
        None => number(inner)?.map(Step::Index).ok_or_else(|| PathError(format!("invalid array index {inner}"))),
    }
}

fn filter(condition: &str) -> Result<Step, PathError> {
    const SIGNS: [(&str, Comparison); 6] = [
        ("==", Comparison::Equal),
        ("!=", Comparison::NotEqual),
        ("<=", Comparison::LessOrEqual),
        (">=", Comparison::GreaterOrEqual),
        ("<", Comparison::Less),
        (">", Comparison::Greater),
    ];
    let sign = SIGNS.iter().find_map(|(sign, c)| condition.split_once(sign).map(|(l, r)| (l, *c, r)));
    let (left, compare, right) = sign.unwrap_or((condition, Comparison::Exists, "''"));
    let path = left.trim().strip_prefix('@').ok_or_else(|| PathError(format!("unrecognized filter {condition:?}")))?;
    let path = JsonPath::parse(path)?.fields().ok_or_else(|| PathError(format!("unrecognized filter {condition:?}")))?;
    let right = right.trim();
    let text = match unquoted(right) {
        Some(text) => text.into(),
        None => json::from_slice(right.as_bytes()).map_err(|_| PathError(format!("unrecognized filter {condition:?}")))?,
    };
    Ok(Step::Filter { path, compare, text })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object;

    #[test]
    fn paths_find_what_kubectl_would() {
        let object = object!({
            "metadata": { "annotations": { "a.b/c": "x" } }, "spec": { "n": 3, "l": [1, 2, 3] },
            "status": { "conditions": [{ "type": "Ready", "status": "True" }, { "type": "Other", "status": "False" }] }
        });
        for (path, expect) in [
            (".spec.n", "[3]"),
            ("$.spec.n", "[3]"),
            (".spec.l[0]", "[1]"),
            (".spec.l[-1]", "[3]"),
            (".spec.l[1:]", "[2,3]"),
            (".spec.l[*]", "[1,2,3]"),
            (".metadata.annotations.a\\.b/c", "[\"x\"]"),
            (".metadata.annotations['a.b/c']", "[\"x\"]"),
            (".status.conditions[?(@.type==\"Ready\")].status", "[\"True\"]"),
            (".status.conditions[?(@.type!='Ready')].status", "[\"False\"]"),
            (".status..status", "[\"True\",\"False\"]"),
            (".spec.none", "[]"),
        ] {
            let found: Vec<Value> = JsonPath::parse(path).unwrap().find(&object).into_iter().cloned().collect();
            assert_eq!(json::to_string(&found.into()), expect, "{path}");
        }
        for bad in ["spec", ".a[", ".a[x]", ".a[?(b)]"] {
            assert!(JsonPath::parse(bad).is_err(), "{bad}");
        }
    }
}
