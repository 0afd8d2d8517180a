//! Reads JSONPaths. Pure.

use super::{Comparison, Filter, JsonPath, Operand, PathError, Step};
use crate::json;
use crate::value::{Key, Value};

fn error(text: impl Into<String>) -> PathError {
    PathError(text.into())
}

/// How many filters may stand in one another: nobody writes so many, and each is a call of the reader by itself.
const DEPTH: usize = 16;

pub(super) fn path(text: &str, depth: usize) -> Result<JsonPath, PathError> {
    if depth > DEPTH {
        return Err(error(format!("filters are nested more than {DEPTH} deep")));
    }
    let mut rest = text.strip_prefix(['$', '@']).unwrap_or(text);
    if !rest.is_empty() && !rest.starts_with(['.', '[']) {
        return Err(error(format!("invalid path {text:?}: it begins with a dot")));
    }
    let mut steps = Vec::new();
    while !rest.is_empty() {
        let (step, after) = match rest.strip_prefix('[') {
            Some(inner) => {
                let end = closing(inner).ok_or_else(|| error("unterminated array"))?;
                (Some(bracket(inner[..end].trim(), depth)?), &inner[end + 1..])
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

/// The places of characters outside of quotes, with the characters; a backslash takes the meaning from the next one.
pub fn outside(text: &str) -> impl Iterator<Item = (usize, char)> {
    let (mut quote, mut escaped) = (None, false);
    text.char_indices().filter(move |(_, c)| {
        let was_escaped = escaped;
        escaped = !escaped && *c == '\\';
        if was_escaped || escaped {
            return false;
        }
        match quote {
            Some(q) => {
                quote = Some(q).filter(|q| q != c);
                false
            }
            None => {
                quote = Some(*c).filter(|c| matches!(c, '\'' | '"'));
                quote.is_none()
            }
        }
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

fn bracket(inner: &str, depth: usize) -> Result<Step, PathError> {
    if let Some(condition) = inner.strip_prefix("?(").and_then(|c| c.strip_suffix(')')) {
        return filter(condition.trim(), depth).map(Step::Filter);
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
        return Ok(Step::Field(name.as_str().into()));
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

/// What is between quotes, with its escapes undone; None where the text does not begin with a quote.
pub fn unquoted(text: &str) -> Result<Option<String>, PathError> {
    let unterminated = || error(format!("unterminated quoted text: {text}"));
    let mut characters = text.chars();
    let Some(quote) = characters.next().filter(|c| matches!(c, '\'' | '"')) else { return Ok(None) };
    let mut out = String::new();
    loop {
        match characters.next().ok_or_else(unterminated)? {
            '\\' => out.push(match characters.next().ok_or_else(unterminated)? {
                'n' => '\n',
                't' => '\t',
                'r' => '\r',
                'u' => {
                    let digits: String = characters.by_ref().take(4).collect();
                    let code = u32::from_str_radix(&digits, 16).ok().and_then(char::from_u32);
                    code.ok_or_else(|| error(format!("\\u{digits} is no character")))?
                }
                other => other,
            }),
            c if c == quote => break,
            c => out.push(c),
        }
    }
    if characters.as_str().is_empty() { Ok(Some(out)) } else { Err(unterminated()) }
}

fn filter(condition: &str, depth: usize) -> Result<Filter, PathError> {
    const SIGNS: [(&str, Comparison); 6] = [
        ("==", Comparison::Equal),
        ("!=", Comparison::NotEqual),
        ("<=", Comparison::LessOrEqual),
        (">=", Comparison::GreaterOrEqual),
        ("<", Comparison::Less),
        (">", Comparison::Greater),
    ];
    let unrecognized = || error(format!("unrecognized filter {condition:?}"));
    let at_object = |text: &str| if text.starts_with(['@', '$']) { path(text, depth + 1) } else { Err(unrecognized()) };
    // Brackets of the path itself may hold filters with signs of their own.
    let mut within = 0;
    let sign = outside(condition).find(|(_, c)| {
        within += i32::from(*c == '[') - i32::from(*c == ']');
        within == 0 && matches!(c, '=' | '!' | '<' | '>')
    });
    let Some((at, _)) = sign else {
        return Ok(Filter { left: at_object(condition)?, test: None });
    };
    let found = SIGNS.into_iter().find(|(sign, _)| condition[at..].starts_with(sign));
    let (sign, comparison) = found.ok_or_else(unrecognized)?;
    let right = condition[at + sign.len()..].trim();
    let operand = match unquoted(right)? {
        Some(text) => Operand::Literal(Value::from(text.as_str())),
        None if right.starts_with(['@', '$']) => Operand::Path(path(right, depth + 1)?),
        None => Operand::Literal(json::from_slice(right.as_bytes()).map_err(|_| unrecognized())?),
    };
    Ok(Filter { left: at_object(condition[..at].trim())?, test: Some((comparison, operand)) })
}
