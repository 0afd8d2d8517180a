//! Kubernetes' JSONPath: the paths of printer columns and of kubectl's templates. Fields, indices, slices, wildcards, unions,
//! descent and filters. See client-go's util/jsonpath; templates with text and ranges are their users' own.

mod parse;

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
    /// What each of these gives, one after the other.
    Union(Vec<Step>),
    /// Everything below, by this name.
    Descend(Key),
    Filter(Filter),
}

/// `[?(@.a.b=="c")]`
#[derive(Debug, Clone, PartialEq)]
struct Filter {
    left: JsonPath,
    /// None asks whether there is something.
    test: Option<(Comparison, Operand)>,
}

#[derive(Debug, Clone, PartialEq)]
enum Operand {
    Literal(Value),
    Path(JsonPath),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl JsonPath {
    /// Parses a path such as `.status.conditions[?(@.type=="Ready")].status`, with or without the `$` or `@` that it begins at.
    pub fn parse(text: &str) -> Result<Self, PathError> {
        parse::path(text)
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
        let length = list.len() as i64;
        let from_start = |i: i64| if i < 0 { length.saturating_add(i) } else { i };
        match self {
            Step::Field(name) => value.get(name).into_iter().collect(),
            Step::Index(i) => usize::try_from(from_start(*i)).ok().and_then(|i| list.get(i)).into_iter().collect(),
            Step::Slice(from, to) => {
                let from = from.map_or(0, from_start).clamp(0, length);
                let to = to.map_or(length, from_start).clamp(from, length);
                list[from as usize..to as usize].iter().collect()
            }
            Step::All => children(value),
            Step::Union(steps) => steps.iter().flat_map(|step| step.from(value)).collect(),
            Step::Descend(name) => {
                let mut found = Vec::new();
                descend(value, name, &mut found);
                found
            }
            Step::Filter(filter) => list.iter().filter(|v| filter.takes(v)).collect(),
        }
    }
}

fn children(value: &Value) -> Vec<&Value> {
    match value {
        Value::List(list) => list.iter().collect(),
        Value::Map(map) => map.iter().map(|(_, v)| v).collect(),
        _ => Vec::new(),
    }
}

fn descend<'a>(value: &'a Value, name: &str, found: &mut Vec<&'a Value>) {
    found.extend(value.get(name));
    children(value).into_iter().for_each(|child| descend(child, name, found));
}

impl Filter {
    fn takes(&self, value: &Value) -> bool {
        let left = self.left.find(value);
        let Some((comparison, operand)) = &self.test else { return !left.is_empty() };
        let right = match operand {
            Operand::Literal(literal) => Some(literal),
            Operand::Path(path) => path.find(value).first().copied(),
        };
        match (left.first(), right) {
            (Some(left), Some(right)) => comparison.holds(left, right),
            // What is missing is compared with nothing.
            _ => false,
        }
    }
}

impl Comparison {
    fn holds(self, left: &Value, right: &Value) -> bool {
        let number = |v: &Value| match v {
            Value::Int(i) => Some(*i as f64),
            Value::Float(f) => Some(*f),
            _ => None,
        };
        let order = match (number(left), number(right)) {
            (Some(l), Some(r)) => l.partial_cmp(&r),
            _ => Some(json::text(left).cmp(&json::text(right))),
        };
        order.is_some_and(|o| match self {
            Self::Equal => o.is_eq(),
            Self::NotEqual => o.is_ne(),
            Self::Less => o.is_lt(),
            Self::LessOrEqual => o.is_le(),
            Self::Greater => o.is_gt(),
            Self::GreaterOrEqual => o.is_ge(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object;

    #[test]
    fn paths_find_what_kubectl_would() {
        let object = object!({
            "metadata": { "annotations": { "a.b/c": "x" } }, "spec": { "n": 3, "l": [1, 2, 3] },
            "status": { "conditions": [{ "type": "Ready", "status": "True" }, { "type": "Other", "status": "False", "size": 5, "least": 4 }] }
        });
        for (path, expect) in [
            (".spec.n", "[3]"),
            ("$.spec.n", "[3]"),
            (".spec.l[0]", "[1]"),
            (".spec.l[-1]", "[3]"),
            (".spec.l[-9]", "[]"),
            (".spec.l[1:]", "[2,3]"),
            (".spec.l[:-1]", "[1,2]"),
            (".spec.l[0,2]", "[1,3]"),
            (".spec['n','l']", "[3,[1,2,3]]"),
            (".spec.l[*]", "[1,2,3]"),
            (".spec.l.[0]", "[1]"),
            (".metadata.annotations.a\\.b/c", "[\"x\"]"),
            (".metadata.annotations['a.b/c']", "[\"x\"]"),
            (".status.conditions[?(@.type==\"Ready\")].status", "[\"True\"]"),
            (".status.conditions[?(@.type!='Ready')].status", "[\"False\"]"),
            (".status.conditions[?(@.size>=@.least)].type", "[\"Other\"]"),
            (".status.conditions[?(@.size)].type", "[\"Other\"]"),
            (".status.conditions[?(@.size<5)].type", "[]"),
            (".status..status", "[\"True\",\"False\"]"),
            (".spec.none", "[]"),
        ] {
            let found: Vec<Value> = JsonPath::parse(path).unwrap().find(&object).into_iter().cloned().collect();
            assert_eq!(json::to_string(&found.into()), expect, "{path}");
        }
        for bad in ["spec", ".a[", ".a[x]", ".a[?(b)]", ".a[?(@.b=1)]", ".a[?(@.b==c)]", ".a['b]", ".a.."] {
            assert!(JsonPath::parse(bad).is_err(), "{bad}");
        }
    }
}
