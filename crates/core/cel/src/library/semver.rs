//! Semantic versions, as in version 2.0.0 of their specification, and the functions over them.

use std::cmp::Ordering;
use std::fmt;

use crate::eval::{EvalError, Result};
use crate::value::Value;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Semver {
    /// Major, minor, patch.
    numbers: [u64; 3],
    pre: Vec<Part>,
    build: String,
}

/// A part of what stands behind the numbers of a version that is not released yet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Number(u64),
    Text(String),
}

impl Semver {
    /// Reads a version; None where the text is none.
    pub fn parse(text: &str) -> Option<Self> {
        let (rest, build) = text.split_once('+').map_or((text, None), |(rest, build)| (rest, Some(build)));
        let (core, pre) = rest.split_once('-').map_or((rest, None), |(core, pre)| (core, Some(pre)));
        let mut numbers = core.splitn(3, '.').map(number);
        let numbers = [numbers.next()??, numbers.next()??, numbers.next()??];
        let is_word = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        let part = |part: &str| match part.chars().all(|c| c.is_ascii_digit()) {
            true => number(part).map(Part::Number),
            false => Some(Part::Text(part.into())),
        };
        if pre.into_iter().chain(build).any(|all| !all.split('.').all(is_word)) {
            return None;
        }
        let pre = pre.map_or(Some(Vec::new()), |pre| pre.split('.').map(part).collect())?;
        Some(Self { numbers, pre, build: build.unwrap_or_default().into() })
    }

    /// Reads what people write: with a `v` in front, with leading zeros, without minor and patch.
    fn parse_loosely(text: &str) -> Option<Self> {
        let text = text.strip_prefix('v').unwrap_or(text);
        let mut parts: Vec<String> = text.splitn(3, '.').map(without_zeros).collect();
        if parts.len() < 3 && parts.last().is_some_and(|last| last.contains(['+', '-'])) {
            return None;
        }
        parts.resize(3, "0".into());
        Self::parse(&parts.join("."))
    }

    /// What is built from does not count.
    fn order(&self, other: &Self) -> Ordering {
        let pre = match (self.pre.is_empty(), other.pre.is_empty()) {
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            _ => self.pre.cmp(&other.pre),
        };
        self.numbers.cmp(&other.numbers).then(pre)
    }
}

/// A number without leading zeros.
fn number(text: &str) -> Option<u64> {
    let plain = text.chars().all(|c| c.is_ascii_digit()) && (text.len() == 1 || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain)
}

fn without_zeros(part: &str) -> String {
    let rest = part.trim_start_matches('0');
    match rest.starts_with(|c: char| c.is_ascii_digit()) || part.len() < 2 || rest.len() == part.len() {
        true if part.len() < 2 => part.into(),
        true => rest.into(),
        false => format!("0{rest}"),
    }
}

impl fmt::Display for Semver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, patch] = self.numbers;
        write!(f, "{major}.{minor}.{patch}")?;
        for (i, part) in self.pre.iter().enumerate() {
            f.write_str(if i == 0 { "-" } else { "." })?;
            match part {
                Part::Number(n) => write!(f, "{n}")?,
                Part::Text(text) => f.write_str(text)?,
            }
        }
        if self.build.is_empty() { Ok(()) } else { write!(f, "+{}", self.build) }
    }
}

fn read(text: &str, loosely: bool) -> Option<Semver> {
    if loosely { Semver::parse_loosely(text) } else { Semver::parse(text) }
}

pub(super) fn call(name: &str, args: &[Value]) -> Result<Option<Value>> {
    let found = match (name, args) {
        ("semver" | "isSemver", [Value::Text(text)]) => read(text, false),
        ("semver" | "isSemver", [Value::Text(text), Value::Bool(loosely)]) => read(text, *loosely),
        (_, [Value::Semver(version), rest @ ..]) => return Ok(method(name, version, rest)),
        _ => return Ok(None),
    };
    match (name, found) {
        ("isSemver", found) => Ok(Some(Value::Bool(found.is_some()))),
        (_, Some(version)) => Ok(Some(Value::Semver(version.into()))),
        (_, None) => Err(EvalError::Other("no semantic version".into())),
    }
}

fn method(name: &str, version: &Semver, rest: &[Value]) -> Option<Value> {
    let number = |i: usize| Value::Int(i64::try_from(version.numbers[i]).unwrap_or(i64::MAX));
    Some(match (name, rest) {
        ("major", []) => number(0),
        ("minor", []) => number(1),
        ("patch", []) => number(2),
        ("isGreaterThan", [Value::Semver(other)]) => Value::Bool(version.order(other).is_gt()),
        ("isLessThan", [Value::Semver(other)]) => Value::Bool(version.order(other).is_lt()),
        ("compareTo", [Value::Semver(other)]) => Value::Int(version.order(other) as i64),
        _ => return None,
    })
}

impl Semver {
    /// Whether two versions are equal as values of the language.
    pub(crate) fn equals(&self, other: &Self) -> bool {
        self.order(other).is_eq()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_ordered_as_their_specification_says() {
        let rising = ["1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta.2", "1.0.0-beta.11", "1.0.0-rc.1", "1.0.0", "1.0.1"];
        for pair in rising.windows(2) {
            let [a, b] = [pair[0], pair[1]].map(|text| Semver::parse(text).unwrap());
            assert!(a.order(&b).is_lt(), "{pair:?}");
            assert_eq!(a.to_string(), pair[0]);
        }
        for text in ["200K", "1", "1.0", "v1.0.0", "01.0.0", "1.0.0-", "1.0.0-01", "1.0.0+", "1.0.0-a..b", "1.0.0.0", "-1.0.0", ""] {
            assert_eq!(Semver::parse(text), None, "{text}");
        }
        for (text, expect) in
            [("v1.0.0", Some("1.0.0")), ("1.0", Some("1.0.0")), ("01.01.01", Some("1.1.1")), ("00.1.00-a", Some("0.1.0-a")), ("1-a", None)]
        {
            assert_eq!(Semver::parse_loosely(text).map(|v| v.to_string()).as_deref(), expect, "{text}");
        }
    }
}
