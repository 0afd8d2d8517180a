//! kubectl's JSONPath templates: text with `{…}`, where a path, a quoted text, or `range`/`end` stands. Pure. See client-go's
//! util/jsonpath; unions and arithmetic are not there.

mod parse;

use fram_machinery::{Value, json};

/// A template, parsed.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct JsonPath {
    nodes: Vec<Node>,
}

#[derive(Debug, Clone, PartialEq)]
enum Node {
    Text(String),
    Path(Vec<Step>),
    Range(Vec<Step>, Vec<Node>),
}

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Field(String),
    /// The field wherever it is below.
    Descend(String),
    All,
    Index(i64),
    Slice(Option<i64>, Option<i64>),
    Filter(Filter),
}

#[derive(Debug, Clone, PartialEq)]
struct Filter {
    left: Vec<Step>,
    /// None asks whether there is something.
    test: Option<(Comparison, Operand)>,
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

#[derive(Debug, Clone, PartialEq)]
enum Operand {
    Literal(Value),
    Path(Vec<Step>),
}

impl JsonPath {
    /// Reads a template; `.a.b` without braces is taken for `{.a.b}`, as kubectl does.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let relaxed = match text {
            t if t.contains('{') => t.to_string(),
            t if t.starts_with('.') => format!("{{{t}}}"),
            t => format!("{{.{t}}}"),
        };
        Ok(Self { nodes: parse::template(&relaxed)? })
    }

    /// What the template prints for a value. What is missing prints nothing.
    pub(crate) fn render(&self, root: &Value) -> String {
        let mut out = String::new();
        render(&self.nodes, root, &mut out);
        out
    }

    /// The values that the template's paths lead to.
    pub(crate) fn values<'a>(&self, root: &'a Value) -> Vec<&'a Value> {
        let path = |node: &Node| match node {
            Node::Path(steps) => walk(steps, root),
            _ => Vec::new(),
        };
        self.nodes.iter().flat_map(path).collect()
    }
}

fn render(nodes: &[Node], value: &Value, out: &mut String) {
    for node in nodes {
        match node {
            Node::Text(text) => out.push_str(text),
            Node::Path(steps) => {
                let texts: Vec<String> = walk(steps, value).into_iter().map(text).collect();
                out.push_str(&texts.join(" "));
            }
            Node::Range(steps, body) => walk(steps, value).into_iter().for_each(|one| render(body, one, out)),
        }
    }
}

/// A value as it is printed: texts bare, the rest as JSON.
pub(crate) fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.to_string(),
        other => json::to_string(other),
    }
}

fn walk<'a>(steps: &[Step], from: &'a Value) -> Vec<&'a Value> {
    steps.iter().fold(vec![from], |values, step| values.into_iter().flat_map(|v| take(step, v)).collect())
}

fn take<'a>(step: &Step, value: &'a Value) -> Vec<&'a Value> {
    let list = value.as_list().map_or(&[][..], |l| l.as_slice());
    let clamp = |i: i64| usize::try_from(if i < 0 { i + list.len() as i64 } else { i }.max(0)).unwrap_or(0).min(list.len());
    match step {
        Step::Field(name) => value.get(name).into_iter().collect(),
        Step::Descend(name) => {
            let mut found = Vec::new();
            descend(name, value, &mut found);
            found
        }
        Step::All => children(value),
        Step::Index(i) => {
            let i = if *i < 0 { i + list.len() as i64 } else { *i };
            usize::try_from(i).ok().and_then(|i| list.get(i)).into_iter().collect()
        }
        Step::Slice(from, to) => {
            let (from, to) = (clamp(from.unwrap_or(0)), to.map_or(list.len(), clamp));
            list.get(from..to.max(from)).unwrap_or_default().iter().collect()
        }
        Step::Filter(filter) => list.iter().filter(|v| filter.takes(v)).collect(),
    }
}

fn children(value: &Value) -> Vec<&Value> {
    match value {
        Value::List(list) => list.iter().collect(),
        Value::Map(map) => map.iter().map(|(_, v)| v).collect(),
        _ => Vec::new(),
    }
}

fn descend<'a>(name: &str, value: &'a Value, found: &mut Vec<&'a Value>) {
    found.extend(value.get(name));
    children(value).into_iter().for_each(|child| descend(name, child, found));
}

impl Filter {
    fn takes(&self, value: &Value) -> bool {
        let left = walk(&self.left, value);
        let Some((comparison, operand)) = &self.test else { return !left.is_empty() };
        let right = match operand {
            Operand::Literal(literal) => Some(literal),
            Operand::Path(steps) => walk(steps, value).first().copied(),
        };
        match (left.first(), right) {
            (Some(left), Some(right)) => compare(left, right, *comparison),
            _ => *comparison == Comparison::NotEqual,
        }
    }
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Int(i) => Some(*i as f64),
        Value::Float(f) => Some(*f),
        _ => None,
    }
}

fn compare(left: &Value, right: &Value, comparison: Comparison) -> bool {
    let order = match (number(left), number(right)) {
        (Some(l), Some(r)) => l.partial_cmp(&r),
        _ if left == right => Some(std::cmp::Ordering::Equal),
        _ => left.as_str().zip(right.as_str()).map(|(l, r)| l.cmp(r)),
    };
    match (comparison, order) {
        (Comparison::NotEqual, order) => order.is_none_or(|o| o.is_ne()),
        (_, None) => false,
        (Comparison::Equal, Some(o)) => o.is_eq(),
        (Comparison::Less, Some(o)) => o.is_lt(),
        (Comparison::LessOrEqual, Some(o)) => o.is_le(),
        (Comparison::Greater, Some(o)) => o.is_gt(),
        (Comparison::GreaterOrEqual, Some(o)) => o.is_ge(),
    }
}

#[cfg(test)]
mod tests {
    use fram_machinery::object;

    use super::*;

    #[test]
    fn templates_print_what_kubectl_prints() {
        let value = object!({ "kind": "List", "n": 3, "labels": { "a.b/c": "x" }, "items": [
            { "metadata": { "name": "one" }, "conditions": [{ "type": "Ready", "status": "True" }, { "type": "Other", "status": "False" }], "size": 1 },
            { "metadata": { "name": "two" }, "size": 5 }] });
        let cases = [
            ("{.kind}", "List"),
            (".kind", "List"),
            ("kind", "List"),
            ("{$.kind} and {@.n}", "List and 3"),
            ("{.items[*].metadata.name}", "one two"),
            ("{.items[0].metadata.name}{'\\t'}{.items[-1].metadata.name}", "one\ttwo"),
            ("{range .items[*]}{.metadata.name}={.size}{\"\\n\"}{end}", "one=1\ntwo=5\n"),
            ("{.items[?(@.size>1)].metadata.name}", "two"),
            ("{.items[?(@.metadata.name==\"one\")].size}", "1"),
            ("{.items[?(@.conditions)].metadata.name}", "one"),
            ("{.items[*].conditions[?(@.type=='Ready')].status}", "True"),
            ("{.labels.a\\.b/c}", "x"),
            ("{.labels['a.b/c']}", "x"),
            ("{..name}", "one two"),
            ("{.items[0:1].size}", "1"),
            ("{.items[1:].size}", "5"),
            ("{.items[0].metadata}", "{\"name\":\"one\"}"),
            ("{.nothing.here}", ""),
            ("plain {.n}", "plain 3"),
        ];
        for (template, expect) in cases {
            assert_eq!(JsonPath::parse(template).map(|p| p.render(&value)).as_deref(), Ok(expect), "{template}");
        }
    }

    #[test]
    fn malformed_templates_are_refused() {
        for template in ["{.a", "{range .a}x", "{end}", "{.a[}", "{.a[?(@.b=1)]}", "{'a}"] {
            assert!(JsonPath::parse(template).is_err(), "{template}");
        }
    }
}
