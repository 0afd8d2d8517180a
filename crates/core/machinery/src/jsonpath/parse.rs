//! Reads JSONPaths. Pure.

use super::{Comparison, Filter, JsonPath, Operand, PathError, Step};
use crate::json;
use crate::value::{Key, Value};

fn error(text: impl Into<String>) -> PathError {
    PathError(text.into())
}

pub(super) fn path(text: &str) -> Result<JsonPath, PathError> {
    let mut rest = text.strip_prefix(['$', '@']).unwrap_or(text);
    if !rest.is_empty() && !rest.starts_with(['.', '[']) {
        return Err(error(format!("invalid path {text:?}: it begins with a dot")));
    }
    let mut steps = Vec::new();
    while !rest.is_empty() {
        let (step, after) = match rest.strip_prefix('[') {
            Some(inner) => {
                let end = closing(inner).ok_or_else(|| error("unterminated array"))?;
                (Some(bracket(inner[..end].trim())?), &inner[end + 1..])
            }
            None => dotted(rest)?,
        };
        steps.extend(step);
        rest = after;
    }
    Ok(JsonPath { steps })
}

/// `.field`, `..field`, `.*`; a dot alone is the object itself, and one before a bracket says nothing.
fn dotted(text: &str) -> Result<(Option<Step>, &str), PathError> {
    let (descends, below) = match (text.strip_prefix(".."), text.strip_prefix('.')) {
        (Some(below), _) => (true, below),
        (None, Some(below)) => (false, below),
        (None, None) => return Err(error(format!("unrecognized character in action: {text:?}"))),
    };
    let (name, after) = name(below);
    let step = match (name.as_str(), descends) {
        ("", false) if after.is_empty() || after.starts_with('[') => None,
        ("", _) => return Err(error(format!("invalid path {text:?}: a name is missing"))),
        ("*", false) => Some(Step::All),
        (_, true) => Some(Step::Descend(name)),
        (_, false) => Some(Step::Field(name)),
    };
    Ok((step, after))
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

/// The places of characters outside of quotes, with the characters.
fn outside(text: &str) -> impl Iterator<Item = (usize, char)> {
    let mut quote = None;
    text.char_indices().filter(move |(_, c)| match quote {
        Some(q) if q == *c => {
            quote = None;
            false
        }
        Some(_) => false,
        None if matches!(c, '\'' | '"') => {
            quote = Some(*c);
            false
        }
        None => true,
    })
}

/// The place of the bracket that closes this one, outside of quotes and inner brackets.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0;
    outside(text).find_map(|(i, c)| {
        match c {
            '[' => depth += 1,
            ']' if depth == 0 => return Some(i),
            ']' => depth -= 1,
            _ => {}
        }
        None
    })
}

fn bracket(inner: &str) -> Result<Step, PathError> {
    if let Some(condition) = inner.strip_prefix("?(").and_then(|c| c.strip_suffix(')')) {
        return filter(condition.trim()).map(Step::Filter);
    }
    let commas: Vec<usize> = outside(inner).filter(|(_, c)| *c == ',').map(|(i, _)| i).collect();
    if commas.is_empty() {
        return element(inner);
    }
    let starts = std::iter::once(0).chain(commas.iter().map(|i| i + 1));
    let ends = commas.iter().copied().chain([inner.len()]);
    starts.zip(ends).map(|(from, to)| element(inner[from..to].trim())).collect::<Result<_, _>>().map(Step::Union)
}

fn element(text: &str) -> Result<Step, PathError> {
    if text == "*" {
        return Ok(Step::All);
    }
    if let Some(name) = unquoted(text)? {
        return Ok(Step::Field(name.into()));
    }
    let number = |text: &str| match text.trim() {
        "" => Ok(None),
        number => number.parse().map(Some).map_err(|_| error(format!("invalid array index {text}"))),
    };
    match text.split_once(':') {
        Some((from, to)) => Ok(Step::Slice(number(from)?, number(to)?)),
        None => number(text)?.map(Step::Index).ok_or_else(|| error(format!("invalid array index {text}"))),
    }
}

/// What is between quotes; None where the text does not begin with one.
fn unquoted(text: &str) -> Result<Option<&str>, PathError> {
    let Some(quote) = text.chars().next().filter(|c| matches!(c, '\'' | '"')) else { return Ok(None) };
    let inner = text[1..].strip_suffix(quote).filter(|inner| !inner.contains(quote));
    inner.map(Some).ok_or_else(|| error(format!("unterminated quoted text: {text}")))
}

fn filter(condition: &str) -> Result<Filter, PathError> {
    const SIGNS: [(&str, Comparison); 6] = [
        ("==", Comparison::Equal),
        ("!=", Comparison::NotEqual),
        ("<=", Comparison::LessOrEqual),
        (">=", Comparison::GreaterOrEqual),
        ("<", Comparison::Less),
        (">", Comparison::Greater),
    ];
    let unrecognized = || error(format!("unrecognized filter {condition:?}"));
    let at_object = |text: &str| if text.starts_with(['@', '$']) { path(text) } else { Err(unrecognized()) };
    let Some((at, _)) = outside(condition).find(|(_, c)| matches!(c, '=' | '!' | '<' | '>')) else {
        return Ok(Filter { left: at_object(condition)?, test: None });
    };
    let found = SIGNS.into_iter().find(|(sign, _)| condition[at..].starts_with(sign));
    let (sign, comparison) = found.ok_or_else(unrecognized)?;
    let right = condition[at + sign.len()..].trim();
    let operand = match unquoted(right)? {
        Some(text) => Operand::Literal(Value::from(text)),
        None if right.starts_with(['@', '$']) => Operand::Path(path(right)?),
        None => Operand::Literal(json::from_slice(right.as_bytes()).map_err(|_| unrecognized())?),
    };
    Ok(Filter { left: at_object(condition[..at].trim())?, test: Some((comparison, operand)) })
}
