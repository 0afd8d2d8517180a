//! kubectl's JSONPath templates: text with `{…}`, where a path, a quoted text, or `range`/`end` stands. Pure. See client-go's
//! util/jsonpath.

use fram_machinery::jsonpath::{JsonPath, PathError, outside, unquoted};
use fram_machinery::{Value, json};

use crate::output::pretty;

/// A template, parsed.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Template {
    nodes: Vec<Node>,
}

#[derive(Debug, Clone, PartialEq)]
enum Node {
    Text(String),
    Path(JsonPath),
    Range(JsonPath, Vec<Node>),
}

impl Template {
    /// Reads a template; `.a.b` without braces is taken for `{.a.b}`, as kubectl does.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let relaxed = if text.contains('{') { text.to_string() } else { format!("{{{text}}}") };
        Ok(Self { nodes: Reader { rest: &relaxed }.nodes(false)? })
    }

    /// What the template prints for a value. What is missing prints nothing.
    pub(crate) fn render(&self, root: &Value) -> Result<String, PathError> {
        let mut out = String::new();
        visit(&self.nodes, root, &mut |found| {
            let texts: Vec<String> = found.iter().map(|v| text(v)).collect();
            out.push_str(&texts.join(" "));
        })?;
        Ok(out)
    }

    /// The same as JSON: of each part of the template the list of what it gives.
    pub(crate) fn render_as_json(&self, root: &Value) -> Result<String, PathError> {
        let mut out = String::new();
        visit(&self.nodes, root, &mut |found| out.push_str(&pretty(&found.iter().map(|v| (*v).clone()).collect::<Vec<_>>().into())))?;
        Ok(out)
    }

    /// The values that the template's paths lead to.
    pub(crate) fn values<'a>(&self, root: &'a Value) -> Result<Vec<&'a Value>, PathError> {
        let mut found = Vec::new();
        for node in &self.nodes {
            if let Node::Path(path) = node {
                found.extend(path.find(root)?);
            }
        }
        Ok(found)
    }
}

/// Shows what each part of a template gives, texts among them, in order.
fn visit(nodes: &[Node], value: &Value, show: &mut dyn FnMut(&[&Value])) -> Result<(), PathError> {
    for node in nodes {
        match node {
            Node::Text(text) => show(&[&Value::from(text.as_str())]),
            Node::Path(path) => show(&path.find(value)?),
            Node::Range(path, body) => path.find(value)?.into_iter().try_for_each(|one| visit(body, one, show))?,
        }
    }
    Ok(())
}

/// A value as it is printed: texts bare, the rest as JSON.
pub(crate) fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.to_string(),
        other => json::to_string(other),
    }
}

struct Reader<'a> {
    rest: &'a str,
}

impl Reader<'_> {
    /// Nodes up to the end of the text, or to `{end}` inside of a range.
    fn nodes(&mut self, inside: bool) -> Result<Vec<Node>, String> {
        let mut nodes = Vec::new();
        loop {
            let Some(open) = self.rest.find('{') else {
                if inside {
                    return Err("unclosed range: {end} is missing".into());
                }
                if !self.rest.is_empty() {
                    nodes.push(Node::Text(std::mem::take(&mut self.rest).into()));
                }
                return Ok(nodes);
            };
            if open > 0 {
                nodes.push(Node::Text(self.rest[..open].into()));
            }
            self.rest = &self.rest[open + 1..];
            let close = outside(self.rest).find(|(_, c)| *c == '}').map(|(at, _)| at).ok_or("unclosed action: } is missing")?;
            let action = self.rest[..close].trim();
            self.rest = &self.rest[close + 1..];
            match action {
                "end" if inside => return Ok(nodes),
                "end" => return Err("not in range: {end} without {range}".into()),
                _ => match action.strip_prefix("range ") {
                    Some(of) => nodes.push(Node::Range(path(of.trim())?, self.nodes(true)?)),
                    None => nodes.push(match unquoted(action).map_err(|e| e.to_string())? {
                        Some(text) => Node::Text(text),
                        None => Node::Path(path(action)?),
                    }),
                },
            }
        }
    }
}

/// A path, which may begin with a name here.
fn path(text: &str) -> Result<JsonPath, String> {
    let begins = text.is_empty() || text.starts_with(['.', '[', '$', '@']);
    let parsed = if begins { JsonPath::parse(text) } else { JsonPath::parse(&format!(".{text}")) };
    parsed.map_err(|error| error.to_string())
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
            ("{.items[0,1].size}", "1 5"),
            ("{.items[*]['size', 'metadata']}", "1 {\"name\":\"one\"} 5 {\"name\":\"two\"}"),
            ("{.items[0:1].size}", "1"),
            ("{.items[1:].size}", "5"),
            ("{.items[0].metadata}", "{\"name\":\"one\"}"),
            ("{.nothing.here}", ""),
            ("plain {.n}", "plain 3"),
            ("{\"a}b\"}{'it\\'s'}", "a}bit's"),
        ];
        for (template, expect) in cases {
            assert_eq!(Template::parse(template).map(|p| p.render(&value).unwrap()).as_deref(), Ok(expect), "{template}");
        }
        let beyond = Template::parse("{.items[5].size}").unwrap().render(&value).unwrap_err();
        assert_eq!(beyond.to_string(), "array index out of bounds: index 5, length 2");
        let json = |template: &str| Template::parse(template).unwrap().render_as_json(&value).unwrap();
        assert_eq!(json("{.items[*].size}"), "[\n    1,\n    5\n]\n");
        assert_eq!(json("{.nothing}"), "[]\n");
    }

    #[test]
    fn malformed_templates_are_refused() {
        for template in ["{.a", "{range .a}x", "{end}", "{.a[}", "{.a[?(@.b=1)]}", "{'a}", "{.a[?(@.b=c)]}"] {
            assert!(Template::parse(template).is_err(), "{template}");
        }
    }
}
