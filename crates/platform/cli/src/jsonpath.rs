//! kubectl's JSONPath templates: text with `{…}`, where a path, a quoted text, or `range`/`end` stands. Pure. See client-go's
//! util/jsonpath.

use fram_machinery::jsonpath::JsonPath;
use fram_machinery::{Value, json};

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
    pub(crate) fn render(&self, root: &Value) -> String {
        let mut out = String::new();
        render(&self.nodes, root, &mut out);
        out
    }

    /// The values that the template's paths lead to.
    pub(crate) fn values<'a>(&self, root: &'a Value) -> Vec<&'a Value> {
        let path = |node: &Node| match node {
            Node::Path(path) => path.find(root),
            _ => Vec::new(),
        };
        self.nodes.iter().flat_map(path).collect()
    }
}

fn render(nodes: &[Node], value: &Value, out: &mut String) {
    for node in nodes {
        match node {
            Node::Text(text) => out.push_str(text),
            Node::Path(path) => {
                let texts: Vec<String> = path.find(value).into_iter().map(text).collect();
                out.push_str(&texts.join(" "));
            }
            Node::Range(path, body) => path.find(value).into_iter().for_each(|one| render(body, one, out)),
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
            let close = closing(self.rest).ok_or("unclosed action: } is missing")?;
            let action = self.rest[..close].trim();
            self.rest = &self.rest[close + 1..];
            match action {
                "end" if inside => return Ok(nodes),
                "end" => return Err("not in range: {end} without {range}".into()),
                _ => match action.strip_prefix("range ") {
                    Some(of) => nodes.push(Node::Range(path(of.trim())?, self.nodes(true)?)),
                    None if action.starts_with(['"', '\'']) => nodes.push(Node::Text(quoted(action)?)),
                    None => nodes.push(Node::Path(path(action)?)),
                },
            }
        }
    }
}

/// Where the brace that was opened is closed, quotes aside.
fn closing(text: &str) -> Option<usize> {
    let (mut quote, mut escaped) = (None, false);
    for (i, c) in text.char_indices() {
        match quote {
            _ if escaped => escaped = false,
            _ if c == '\\' => escaped = true,
            Some(q) if c == q => quote = None,
            Some(_) => {}
            None if c == '"' || c == '\'' => quote = Some(c),
            None if c == '}' => return Some(i),
            None => {}
        }
    }
    None
}

/// A quoted text with its escapes.
fn quoted(text: &str) -> Result<String, String> {
    let quote = text.chars().next().unwrap_or('"');
    let inner = text.strip_prefix(quote).and_then(|t| t.strip_suffix(quote)).filter(|_| text.len() > 1);
    let inner = inner.ok_or_else(|| format!("unterminated quoted text: {text}"))?;
    let inner = if quote == '\'' { inner.replace("\\'", "'").replace('"', "\\\"") } else { inner.to_string() };
    let value = json::from_slice(format!("\"{inner}\"").as_bytes()).map_err(|e| e.to_string())?;
    Ok(value.as_str().unwrap_or_default().to_string())
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
        ];
        for (template, expect) in cases {
            assert_eq!(Template::parse(template).map(|p| p.render(&value)).as_deref(), Ok(expect), "{template}");
        }
    }

    #[test]
    fn malformed_templates_are_refused() {
        for template in ["{.a", "{range .a}x", "{end}", "{.a[}", "{.a[?(@.b=1)]}", "{'a}", "{.a[?(@.b=c)]}"] {
            assert!(Template::parse(template).is_err(), "{template}");
        }
    }
}
