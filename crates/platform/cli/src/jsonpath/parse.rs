//! Reads JSONPath templates. Pure.

use fram_machinery::{Value, json};

use super::{Comparison, Filter, Node, Operand, Step};

/// Nodes of a whole template.
pub(super) fn template(text: &str) -> Result<Vec<Node>, String> {
    let mut reader = Reader { rest: text };
    let nodes = reader.nodes(false)?;
    Ok(nodes)
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
                    Some(path) => nodes.push(Node::Range(steps(path.trim())?, self.nodes(true)?)),
                    None if action.starts_with(['"', '\'']) => nodes.push(Node::Text(quoted(action)?)),
                    None => nodes.push(Node::Path(steps(action)?)),
                },
            }
        }
    }
}

/// Where the brace that was opened is closed, quotes and brackets aside.
fn closing(text: &str) -> Option<usize> {
    find_outside(text, |c| c == '}')
}

/// The first character outside of quotes for which `wanted` holds.
fn find_outside(text: &str, wanted: impl Fn(char) -> bool) -> Option<usize> {
    let (mut quote, mut escaped) = (None, false);
    for (i, c) in text.char_indices() {
        match quote {
            _ if escaped => escaped = false,
            _ if c == '\\' => escaped = true,
            Some(q) if c == q => quote = None,
            Some(_) => {}
            None if c == '"' || c == '\'' => quote = Some(c),
            None if wanted(c) => return Some(i),
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

fn steps(text: &str) -> Result<Vec<Step>, String> {
    let mut rest = text.strip_prefix(['$', '@']).unwrap_or(text);
    let mut steps = Vec::new();
    while !rest.is_empty() {
        rest = match rest.strip_prefix('[') {
            Some(after) => {
                let end = find_bracket(after).ok_or_else(|| format!("unterminated array: {rest}"))?;
                steps.push(bracket(after[..end].trim())?);
                &after[end + 1..]
            }
            None => dotted(rest, &mut steps)?,
        };
    }
    Ok(steps)
}

/// Where the bracket that was opened is closed; filters have brackets of their own.
fn find_bracket(text: &str) -> Option<usize> {
    let depth = std::cell::Cell::new(1);
    find_outside(text, |c| {
        depth.set(depth.get() + i32::from(c == '[') - i32::from(c == ']'));
        depth.get() == 0
    })
}

/// `.field`, `..field`, `.*`, with `\.` for a dot that belongs to the name.
fn dotted<'a>(text: &'a str, steps: &mut Vec<Step>) -> Result<&'a str, String> {
    let (descends, rest) = match (text.strip_prefix(".."), text.strip_prefix('.')) {
        (Some(rest), _) => (true, rest),
        (None, Some(rest)) => (false, rest),
        (None, None) if steps.is_empty() => (false, text),
        (None, None) => return Err(format!("unexpected text {text:?}")),
    };
    let (mut name, mut end, mut escaped) = (String::new(), rest.len(), false);
    for (i, c) in rest.char_indices() {
        match c {
            _ if escaped => {
                name.push(c);
                escaped = false;
            }
            '\\' => escaped = true,
            '.' | '[' => {
                end = i;
                break;
            }
            _ => name.push(c),
        }
    }
    match name.as_str() {
        "" => {}
        "*" => steps.push(Step::All),
        _ if descends => steps.push(Step::Descend(name)),
        _ => steps.push(Step::Field(name)),
    }
    Ok(&rest[end..])
}

fn bracket(text: &str) -> Result<Step, String> {
    if text == "*" {
        return Ok(Step::All);
    }
    if let Some(filter) = text.strip_prefix("?(").and_then(|t| t.strip_suffix(')')) {
        return filter_step(filter.trim());
    }
    if text.starts_with(['"', '\'']) {
        return Ok(Step::Field(quoted(text)?));
    }
    let number = |text: &str| text.trim().parse::<i64>().map_err(|_| format!("invalid array index {text}"));
    let optional = |text: &str| if text.trim().is_empty() { Ok(None) } else { number(text).map(Some) };
    match text.split_once(':') {
        Some((from, to)) => Ok(Step::Slice(optional(from)?, optional(to)?)),
        None => Ok(Step::Index(number(text)?)),
    }
}

fn filter_step(text: &str) -> Result<Step, String> {
    let Some(at) = find_outside(text, |c| "=!<>".contains(c)) else {
        return Ok(Step::Filter(Filter { left: steps(text)?, test: None }));
    };
    let comparisons = [
        ("==", Comparison::Equal),
        ("!=", Comparison::NotEqual),
        ("<=", Comparison::LessOrEqual),
        (">=", Comparison::GreaterOrEqual),
        ("<", Comparison::Less),
        (">", Comparison::Greater),
    ];
    let found = comparisons.into_iter().find(|(sign, _)| text[at..].starts_with(sign));
    let (sign, comparison) = found.ok_or_else(|| format!("unrecognized comparison in {text:?}"))?;
    let operand = operand(text[at + sign.len()..].trim())?;
    Ok(Step::Filter(Filter { left: steps(text[..at].trim())?, test: Some((comparison, operand)) }))
}

fn operand(text: &str) -> Result<Operand, String> {
    if text.starts_with(['@', '$', '.']) {
        return Ok(Operand::Path(steps(text)?));
    }
    if text.starts_with(['"', '\'']) {
        return Ok(Operand::Literal(Value::from(quoted(text)?)));
    }
    json::from_slice(text.as_bytes()).map(Operand::Literal).map_err(|_| format!("unrecognized value {text:?}"))
}
