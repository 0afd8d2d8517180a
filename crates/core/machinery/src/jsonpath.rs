//! Kubernetes' JSONPath: the paths of printer columns and of kubectl's templates. Fields, indices, slices, wildcards, unions,
//! descent and filters. See client-go's util/jsonpath; templates with text and ranges are their users' own.

mod parse;

pub use parse::{outside, unquoted};

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
        parse::path(text, 0)
    }

    /// What the path finds in an object; an error where it names an element that a list has not. What is missing is no error.
    pub fn find<'a>(&self, object: &'a Value) -> Result<Vec<&'a Value>, PathError> {
        self.steps.iter().try_fold(vec![object], |found, step| {
            let mut next = Vec::new();
            found.into_iter().try_for_each(|value| step.from(value).map(|more| next.extend(more)))?;
            Ok(next)
        })
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
    fn from<'a>(&self, value: &'a Value) -> Result<Vec<&'a Value>, PathError> {
        Ok(match self {
            Step::Field(name) => value.get(name).into_iter().collect(),
            Step::Index(i) => match elements(value)? {
                Some(list) => vec![&list[at(*i, list.len(), list.len())?]],
                None => Vec::new(),
            },
            Step::Slice(from, to) => elements(value)?.map_or(Ok(&[][..]), |list| slice(list, *from, *to))?.iter().collect(),
            Step::All => children(value),
            Step::Union(steps) => {
                let parts = steps.iter().map(|step| step.from(value)).collect::<Result<Vec<_>, _>>()?;
                parts.into_iter().flatten().collect()
            }
            Step::Descend(name) => {
                let mut found = Vec::new();
                descend(value, name, &mut found);
                found
            }
            Step::Filter(filter) => {
                let mut taken = Vec::new();
                for element in elements(value)?.unwrap_or_default() {
                    taken.extend(filter.takes(element)?.then_some(element));
                }
                taken
            }
        })
    }
}

/// A list's elements; None where there is nothing.
fn elements(value: &Value) -> Result<Option<&[Value]>, PathError> {
    match value {
        Value::Null => Ok(None),
        Value::List(list) => Ok(Some(list.as_slice())),
        other => Err(PathError(format!("{} is not array or slice", json::text(other)))),
    }
}

/// The place that an index means, negative from the end; it lies below `limit`.
fn at(index: i64, length: usize, limit: usize) -> Result<usize, PathError> {
    let place = if index < 0 { index.saturating_add(length as i64) } else { index };
    let found = usize::try_from(place).ok().filter(|place| *place < limit);
    found.ok_or_else(|| PathError(format!("array index out of bounds: index {place}, length {length}")))
}

/// See client-go's evalArray: a slice without elements is one, a bound beyond the list's end is not.
fn slice(list: &[Value], from: Option<i64>, to: Option<i64>) -> Result<&[Value], PathError> {
    let length = list.len();
    let place = |index: i64| if index < 0 { index.saturating_add(length as i64) } else { index };
    if from.map_or(0, place) == to.map_or(length as i64, place) {
        return Ok(&[]);
    }
    let (from, to) = (at(from.unwrap_or(0), length, length)?, to.map_or(Ok(length), |to| at(to, length, length + 1))?);
    list.get(from..to).ok_or_else(|| PathError(format!("starting index {from} is greater than ending index {to}")))
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
    fn takes(&self, value: &Value) -> Result<bool, PathError> {
        let Some((comparison, operand)) = &self.test else {
            // Whether something is there can be asked of any value.
            return Ok(self.left.find(value).is_ok_and(|found| !found.is_empty()));
        };
        let left = self.left.find(value)?;
        let right = match operand {
            Operand::Literal(literal) => Some(literal),
            Operand::Path(path) => path.find(value)?.first().copied(),
        };
        Ok(match (left.first(), right) {
            (Some(left), Some(right)) => comparison.holds(left, right),
            // What is missing is compared with nothing.
            _ => false,
        })
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
            (".spec.none[3]", "[]"),
            (".spec.l[3:]", "[]"),
            (".status.conditions[?(@.type==\"Re\\u0061dy\")].status", "[\"True\"]"),
            (".status.conditions[?(@.type!=\"a\\\"]b\")].size", "[5]"),
            (".metadata.annotations['a\\.b/c']", "[\"x\"]"),
            (".status[?(@.x)]", "not array or slice"),
            (".spec.l[3]", "array index out of bounds: index 3, length 3"),
            (".spec.l[-9]", "array index out of bounds: index -6, length 3"),
            (".spec.l[0,7]", "array index out of bounds: index 7, length 3"),
            (".spec.l[1:5]", "array index out of bounds: index 5, length 3"),
            (".spec.l[2:1]", "starting index 2 is greater than ending index 1"),
        ] {
            let found = JsonPath::parse(path).unwrap().find(&object);
            if let Err(error) = &found {
                assert!(error.to_string().contains(expect), "{path}: {error}");
                continue;
            }
            let found: Vec<Value> = found.unwrap().into_iter().cloned().collect();
            assert_eq!(json::to_string(&found.into()), expect, "{path}");
        }
        for bad in ["spec", ".a[", ".a[x]", ".a[?(b)]", ".a[?(@.b=1)]", ".a[?(@.b==c)]", ".a['b]", ".a.."] {
            assert!(JsonPath::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_filters_sign_is_its_own_and_not_that_of_an_inner_one() {
        let object = object!({ "pods": [{ "n": 1, "c": [{ "t": "a", "s": "x" }] }, { "n": 2, "c": [{ "t": "a", "s": "y" }] }] });
        let path = JsonPath::parse(".pods[?(@.c[?(@.t==\"a\")].s==\"y\")].n").unwrap();
        assert_eq!(path.find(&object).unwrap(), [&Value::from(2)]);
        assert_eq!(JsonPath::parse(".pods[?(@.c[?(@.t!=\"b\")])].n").unwrap().find(&object).unwrap().len(), 2);
    }

    #[test]
    fn filters_are_not_nested_without_end() {
        let nested = |depth: usize| format!("{}@.a{}", "@.a[?(".repeat(depth), ")]".repeat(depth));
        assert!(JsonPath::parse(&nested(16)).is_ok());
        for depth in [17, 10_000] {
            assert!(JsonPath::parse(&nested(depth)).is_err(), "{depth}");
        }
    }
}
