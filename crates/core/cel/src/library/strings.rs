//! Strings: the language's own functions, the extension `strings`, and regular expressions.

use regex::Regex;

use crate::eval::{Budget, EvalError, Result};
use crate::value::{Value, text};

pub(super) fn call(name: &str, args: &[Value], budget: &mut Budget) -> Result<Option<Value>> {
    if name == "join" {
        return join(args, budget);
    }
    if name == "strings.quote" {
        return Ok(args.first().and_then(Value::as_text).map(|t| quote(t).into()));
    }
    let Some((Value::Text(subject), rest)) = args.split_first() else { return Ok(None) };
    super::traversal(budget, subject.len())?;
    let subject = &**subject;
    Ok(Some(match (name, rest) {
        ("contains", [Value::Text(part)]) => {
            // As upstream counts it: the product of both.
            budget.take((subject.len() / 10 * (part.len() / 10)) as u64)?;
            subject.contains(&**part).into()
        }
        ("startsWith", [Value::Text(part)]) => subject.starts_with(&**part).into(),
        ("endsWith", [Value::Text(part)]) => subject.ends_with(&**part).into(),
        ("matches", [Value::Text(pattern)]) => compile(pattern, subject, budget)?.is_match(subject).into(),
        ("find", [Value::Text(pattern)]) => compile(pattern, subject, budget)?.find(subject).map_or("", |m| m.as_str()).into(),
        ("findAll", [Value::Text(pattern), limit @ ..]) => {
            let regex = compile(pattern, subject, budget)?;
            let limit = match limit {
                [] => usize::MAX,
                [Value::Int(n)] => usize::try_from(*n).unwrap_or(usize::MAX),
                _ => return Ok(None),
            };
            regex.find_iter(subject).take(limit).map(|m| Value::from(m.as_str())).collect::<Vec<_>>().into()
        }
        ("charAt", [Value::Int(at)]) => char_at(subject, *at)?,
        ("indexOf" | "lastIndexOf", [Value::Text(part), from @ ..]) => return index_of(name, subject, part, from),
        ("lowerAscii", []) => subject.to_ascii_lowercase().into(),
        ("upperAscii", []) => subject.to_ascii_uppercase().into(),
        ("replace", [Value::Text(from), Value::Text(to), limit @ ..]) => {
            let most = match limit {
                [] => usize::MAX,
                [Value::Int(n)] => usize::try_from(*n).unwrap_or(usize::MAX),
                _ => return Ok(None),
            };
            // The result may be far longer than what it is made of.
            let times = subject.matches(&**from).take(most).count();
            super::traversal(budget, times.saturating_mul(to.len()))?;
            subject.replacen(&**from, to, most).into()
        }
        ("split", [Value::Text(by), limit @ ..]) => return split(subject, by, limit),
        ("substring", [Value::Int(from), to @ ..]) => return substring(subject, *from, to),
        ("trim", []) => subject.trim().into(),
        ("reverse", []) => subject.chars().rev().collect::<String>().into(),
        ("format", [list]) if list.is_list() => {
            super::weigh(budget, list)?;
            format(subject, &list.items().unwrap_or_default())?.into()
        }
        _ => return Ok(None),
    }))
}

/// A regular expression; what it costs is its own length times that of what it is asked about.
fn compile(pattern: &str, subject: &str, budget: &mut Budget) -> Result<Regex> {
    budget.take((subject.len().div_ceil(10) * pattern.len().div_ceil(4)) as u64)?;
    let built = regex::RegexBuilder::new(pattern).size_limit(1 << 20).build();
    built.map_err(|e| EvalError::Other(format!("error parsing regexp: {}", e.to_string().lines().last().unwrap_or_default())))
}

fn out_of_range(at: i64) -> EvalError {
    EvalError::Other(format!("index out of range: {at}"))
}

/// The place of a character in bytes; the end counts as one.
fn offset(text: &str, at: i64) -> Result<usize> {
    let at = usize::try_from(at).map_err(|_| out_of_range(at))?;
    let mut places = text.char_indices().map(|(i, _)| i).chain([text.len()]);
    places.nth(at).ok_or_else(|| out_of_range(at as i64))
}

fn char_at(text: &str, at: i64) -> Result<Value> {
    let from = offset(text, at)?;
    Ok(text[from..].chars().next().map_or_else(String::new, |c| c.to_string()).into())
}

fn substring(text: &str, from: i64, to: &[Value]) -> Result<Option<Value>> {
    let end = match to {
        [] => text.len(),
        [Value::Int(to)] if *to < from => return Err(EvalError::Other(format!("invalid substring range. start: {from}, end: {to}"))),
        [Value::Int(to)] => offset(text, *to)?,
        _ => return Ok(None),
    };
    Ok(Some(text[offset(text, from)?..end].into()))
}

fn index_of(name: &str, text: &str, part: &str, from: &[Value]) -> Result<Option<Value>> {
    let place = |byte: usize| Value::Int(text[..byte].chars().count() as i64);
    let found = match (name, from) {
        ("indexOf", []) => text.find(part),
        ("indexOf", [Value::Int(from)]) => {
            let start = offset(text, *from)?;
            text[start..].find(part).map(|i| i + start)
        }
        (_, []) => text.rfind(part),
        (_, [Value::Int(from)]) => {
            let start = offset(text, *from)?;
            text.match_indices(part).map(|(i, _)| i).filter(|i| *i <= start).last()
        }
        _ => return Ok(None),
    };
    Ok(Some(found.map_or(Value::Int(-1), place)))
}

fn split(text: &str, by: &str, limit: &[Value]) -> Result<Option<Value>> {
    let limit = match limit {
        [] => -1,
        [Value::Int(n)] => *n,
        _ => return Ok(None),
    };
    let all = |parts: Vec<&str>| Some(parts.into_iter().map(Value::from).collect::<Vec<_>>().into());
    if limit == 0 {
        return Ok(all(Vec::new()));
    }
    let most = usize::try_from(limit).unwrap_or(usize::MAX);
    if by.is_empty() {
        // Between all characters, and none at the ends.
        let mut parts: Vec<&str> = Vec::new();
        let mut rest = text;
        while let Some(c) = rest.chars().next().filter(|_| parts.len() + 1 < most) {
            parts.push(&rest[..c.len_utf8()]);
            rest = &rest[c.len_utf8()..];
        }
        parts.extend(Some(rest).filter(|r| !r.is_empty()));
        return Ok(all(parts));
    }
    Ok(all(text.splitn(most, by).collect()))
}

fn join(args: &[Value], budget: &mut Budget) -> Result<Option<Value>> {
    let (list, by) = match args {
        [list] => (list, ""),
        [list, Value::Text(by)] => (list, &**by),
        _ => return Ok(None),
    };
    let Some(items) = list.items() else { return Ok(None) };
    let texts: Option<Vec<&str>> = items.iter().map(Value::as_text).collect();
    let Some(texts) = texts else { return Ok(None) };
    super::traversal(budget, texts.iter().map(|t| t.len()).sum())?;
    Ok(Some(texts.join(by).into()))
}

fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            '\x0b' => out.push_str("\\v"),
            c => out.push(c),
        }
    }
    out + "\""
}

/// No number has more digits behind its point than this.
const MAX_PRECISION: usize = 1100;

/// `"%s is %d".format([...])`
fn format(pattern: &str, args: &[Value]) -> Result<String> {
    let mut out = String::new();
    let mut args = args.iter();
    let mut rest = pattern;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            out.push('%');
            rest = after;
            continue;
        }
        let mut precision = 6;
        if let Some(after) = rest.strip_prefix('.') {
            let end = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
            let asked = after[..end].parse().ok().filter(|p| *p <= MAX_PRECISION);
            precision = asked.ok_or_else(|| EvalError::Other("invalid precision in format".into()))?;
            rest = &after[end..];
        }
        let Some(verb) = rest.chars().next() else { return Err(EvalError::Other("unexpected end of string".into())) };
        rest = &rest[verb.len_utf8()..];
        let value = args.next().ok_or_else(|| EvalError::Other("index out of range in format".into()))?;
        out.push_str(&formatted(verb, precision, value)?);
    }
    Ok(out + rest)
}

fn formatted(verb: char, precision: usize, value: &Value) -> Result<String> {
    use Value::*;
    let bad = || EvalError::Other(format!("error during formatting: verb %{verb} does not take {}", value.type_name()));
    Ok(match (verb, value) {
        ('s', value) => shown(value),
        ('d', Int(i)) => i.to_string(),
        ('d', Uint(u)) => u.to_string(),
        ('d' | 'e' | 'f', Double(d)) if !d.is_finite() => shown(value),
        ('f', Double(d)) => format!("{d:.precision$}"),
        ('f' | 'e', Int(i)) => formatted(verb, precision, &Double(*i as f64))?,
        ('f' | 'e', Uint(u)) => formatted(verb, precision, &Double(*u as f64))?,
        ('e', Double(d)) => {
            let text = format!("{d:.precision$e}");
            let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
            let exponent: i32 = exponent.parse().unwrap_or(0);
            format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
        }
        ('b', Int(i)) if *i < 0 => format!("-{:b}", i.unsigned_abs()),
        ('b', Int(i)) => format!("{i:b}"),
        ('b', Uint(u)) => format!("{u:b}"),
        ('b', Bool(b)) => u8::from(*b).to_string(),
        ('o', Int(i)) if *i < 0 => format!("-{:o}", i.unsigned_abs()),
        ('o', Int(i)) => format!("{i:o}"),
        ('o', Uint(u)) => format!("{u:o}"),
        ('x', Int(i)) if *i < 0 => format!("-{:x}", i.unsigned_abs()),
        ('x', Int(i)) => format!("{i:x}"),
        ('x', Uint(u)) => format!("{u:x}"),
        ('X', Int(i)) if *i < 0 => format!("-{:X}", i.unsigned_abs()),
        ('X', Int(i)) => format!("{i:X}"),
        ('X', Uint(u)) => format!("{u:X}"),
        ('x', Text(t)) => t.bytes().map(|b| format!("{b:02x}")).collect(),
        ('X', Text(t)) => t.bytes().map(|b| format!("{b:02X}")).collect(),
        ('x', Bytes(b)) => b.iter().map(|b| format!("{b:02x}")).collect(),
        ('X', Bytes(b)) => b.iter().map(|b| format!("{b:02X}")).collect(),
        _ => return Err(bad()),
    })
}

/// What `%s` shows.
fn shown(value: &Value) -> String {
    if let Some(items) = value.items() {
        return format!("[{}]", items.iter().map(shown).collect::<Vec<_>>().join(", "));
    }
    if let Some(entries) = value.entries() {
        let mut texts: Vec<String> = entries.iter().map(|(k, v)| format!("{}: {}", shown(k), shown(v))).collect();
        texts.sort();
        return format!("{{{}}}", texts.join(", "));
    }
    match value {
        Value::Null => "null".into(),
        Value::Double(d) if d.is_infinite() => if *d > 0.0 { "Infinity" } else { "-Infinity" }.into(),
        other => text(other).to_string(),
    }
}
