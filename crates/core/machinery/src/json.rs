//! JSON in and out of the object tree: a strict, depth-limited parser that reports duplicate keys with their paths, and a
//! compact writer.

mod names;

use std::borrow::Cow;

use crate::value::{Entries, Key, List, Map, Text, Value};
pub use names::Names;

/// Nesting deeper than this is refused, as Go's decoder does at 10,000; an object tree is walked by recursion.
pub(crate) const MAX_DEPTH: usize = 500;

#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{message} at byte {offset}")]
pub struct ParseError {
    pub message: &'static str,
    pub offset: usize,
}

/// A parsed document and the paths of the keys that stood twice in their map (the last value won).
#[derive(Debug, PartialEq)]
pub struct Parsed {
    pub value: Value,
    pub duplicates: Vec<String>,
}

/// Parses one JSON document; anything but white space behind it is an error.
pub fn parse(input: &[u8]) -> Result<Parsed, ParseError> {
    parse_named(input, Names::none())
}

/// The same; keys that are among these names are borrowed from there.
pub fn parse_named(input: &[u8], names: &Names) -> Result<Parsed, ParseError> {
    // What is no text is replaced, as Go's decoder does.
    let text = match std::str::from_utf8(input) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => String::from_utf8_lossy(input),
    };
    let mut parser = Parser {
        text: &text,
        input: text.as_bytes(),
        pos: 0,
        path: Vec::new(),
        open: Vec::new(),
        items: Vec::new(),
        duplicates: Vec::new(),
        names,
    };
    parser.skip_space();
    let value = parser.value(0)?;
    parser.skip_space();
    if parser.pos < parser.input.len() {
        return parser.fail("invalid character after top-level value");
    }
    Ok(Parsed { value, duplicates: parser.duplicates })
}

/// Parses one JSON document; duplicate keys are not reported.
pub fn from_slice(input: &[u8]) -> Result<Value, ParseError> {
    parse(input).map(|p| p.value)
}

/// The same; keys that are among these names are borrowed from there.
pub fn from_slice_named(input: &[u8], names: &Names) -> Result<Value, ParseError> {
    parse_named(input, names).map(|p| p.value)
}

struct Parser<'a> {
    text: &'a str,
    /// The same, as bytes.
    input: &'a [u8],
    pos: usize,
    path: Vec<Step<'a>>,
    /// What was read of the maps around this place, one behind the other, so that each is made at once and of its size.
    open: Vec<(Key, Value)>,
    /// The same of lists.
    items: Vec<Value>,
    duplicates: Vec<String>,
    names: &'a Names,
}

enum Step<'a> {
    Key(Cow<'a, str>),
    Index(usize),
}

impl<'a> Parser<'a> {
    fn fail<T>(&self, message: &'static str) -> Result<T, ParseError> {
        Err(ParseError { message, offset: self.pos })
    }

    fn skip_space(&mut self) {
        while matches!(self.input.get(self.pos), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.pos += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.input.get(self.pos).copied()
    }

    fn value(&mut self, depth: usize) -> Result<Value, ParseError> {
        if depth > MAX_DEPTH {
            return self.fail("exceeded max depth");
        }
        match self.peek() {
            Some(b'{') => self.map(depth),
            Some(b'[') => self.list(depth),
            Some(b'"') => Ok(Value::String(self.string()?.into())),
            Some(b't') => self.literal("true", Value::Bool(true)),
            Some(b'f') => self.literal("false", Value::Bool(false)),
            Some(b'n') => self.literal("null", Value::Null),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(_) => self.fail("invalid character looking for beginning of value"),
            None => self.fail("unexpected end of JSON input"),
        }
    }

    fn literal(&mut self, word: &'static str, value: Value) -> Result<Value, ParseError> {
        if !self.input[self.pos..].starts_with(word.as_bytes()) {
            return self.fail("invalid character in literal");
        }
        self.pos += word.len();
        Ok(value)
    }

    fn list(&mut self, depth: usize) -> Result<Value, ParseError> {
        self.pos += 1;
        let start = self.items.len();
        self.skip_space();
        if self.peek() == Some(b']') {
            self.pos += 1;
            return Ok(Value::List(List::new()));
        }
        loop {
            self.skip_space();
            self.path.push(Step::Index(self.items.len() - start));
            let item = self.value(depth + 1)?;
            self.items.push(item);
            self.path.pop();
            self.skip_space();
            match self.peek() {
                Some(b',') => self.pos += 1,
                Some(b']') => {
                    self.pos += 1;
                    return Ok(Value::List(self.items.drain(start..).collect()));
                }
                Some(_) => return self.fail("invalid character after array element"),
                None => return self.fail("unexpected end of JSON input"),
            }
        }
    }

    fn map(&mut self, depth: usize) -> Result<Value, ParseError> {
        self.pos += 1;
        let start = self.open.len();
        self.skip_space();
        if self.peek() == Some(b'}') {
            self.pos += 1;
            return Ok(Value::Map(Map::new()));
        }
        loop {
            self.skip_space();
            if self.peek() != Some(b'"') {
                return self.fail("invalid character looking for beginning of object key string");
            }
            let name = self.string()?;
            let key = self.names.key(&name);
            self.skip_space();
            if self.peek() != Some(b':') {
                return self.fail("invalid character after object key");
            }
            self.pos += 1;
            self.skip_space();
            self.path.push(Step::Key(name));
            let value = self.value(depth + 1)?;
            self.path.pop();
            self.open.push((key, value));
            self.skip_space();
            match self.peek() {
                Some(b',') => self.pos += 1,
                Some(b'}') => {
                    self.pos += 1;
                    return Ok(Value::Map(self.finish_map(start)));
                }
                Some(_) => return self.fail("invalid character after object key:value pair"),
                None => return self.fail("unexpected end of JSON input"),
            }
        }
    }

    /// The map of what is open from `start` on.
    fn finish_map(&mut self, start: usize) -> Map {
        let mut entries: Entries = self.open.drain(start..).collect();
        if !entries.is_sorted_by(|a, b| a.0 < b.0) {
            // Stable: of equal keys the last one stays the last.
            entries.make_mut().sort_by(|a, b| a.0.cmp(&b.0));
            let repeated = entries.windows(2).filter(|w| w[0].0 == w[1].0).map(|w| self.path_to(&w[1].0));
            let mut repeated: Vec<String> = repeated.collect();
            repeated.dedup();
            self.duplicates.append(&mut repeated);
        }
        Map::from_entries(entries)
    }

    fn path_to(&self, key: &str) -> String {
        let mut path = String::new();
        for step in &self.path {
            match step {
                Step::Key(k) if path.is_empty() => path.push_str(k),
                Step::Key(k) => path.extend([".", k.as_ref()]),
                Step::Index(i) => path.push_str(&format!("[{i}]")),
            }
        }
        if !path.is_empty() && !key.is_empty() {
            path.push('.');
        }
        path + key
    }

    fn number(&mut self) -> Result<Value, ParseError> {
        let start = self.pos;
        let mut float = false;
        if self.peek() == Some(b'-') {
            self.pos += 1;
        }
        let digits = self.pos;
        while let Some(c) = self.peek() {
            match c {
                b'0'..=b'9' => {}
                b'.' | b'e' | b'E' | b'+' | b'-' => float = true,
                _ => break,
            }
            self.pos += 1;
        }
        let text = &self.input[start..self.pos];
        let leading_zero = self.input[digits..self.pos].len() > 1 && self.input[digits] == b'0' && self.input[digits + 1].is_ascii_digit();
        if digits == self.pos || leading_zero || !text.last().is_some_and(u8::is_ascii_digit) {
            return self.fail("invalid character in numeric literal");
        }
        let text = std::str::from_utf8(text).map_err(|_| ParseError { message: "invalid number", offset: start })?;
        if !float && let Ok(i) = text.parse::<i64>() {
            return Ok(Value::Int(i));
        }
        match text.parse::<f64>() {
            Ok(f) if f.is_finite() && !text.starts_with('.') && !text.contains("-.") && !text.contains(".e") => Ok(Value::Float(f)),
            _ => self.fail("invalid number"),
        }
    }

    fn string(&mut self) -> Result<Cow<'a, str>, ParseError> {
        self.pos += 1;
        let start = self.pos;
        self.pos += plain(&self.input[start..]);
        match self.peek() {
            None => self.fail("unexpected end of JSON input"),
            Some(b'"') => {
                self.pos += 1;
                Ok(Cow::Borrowed(&self.text[start..self.pos - 1]))
            }
            Some(b'\\') => self.escaped_string(start).map(Into::into),
            Some(_) => self.fail("invalid character in string literal"),
        }
    }

    fn escaped_string(&mut self, start: usize) -> Result<String, ParseError> {
        let mut out = self.input[start..self.pos].to_vec();
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.pos += 1;
                    return Ok(String::from_utf8(out).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()));
                }
                Some(b'\\') => self.escape(&mut out)?,
                Some(0..=0x1f) => return self.fail("invalid character in string literal"),
                Some(c) => {
                    out.push(c);
                    self.pos += 1;
                }
                None => return self.fail("unexpected end of JSON input"),
            }
        }
    }

    fn escape(&mut self, out: &mut Vec<u8>) -> Result<(), ParseError> {
        self.pos += 1;
        let c = match self.peek() {
            Some(c @ (b'"' | b'\\' | b'/')) => c,
            Some(b'b') => 8,
            Some(b'f') => 12,
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(b'u') => {
                self.pos += 1;
                let c = self.code_point()?;
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                return Ok(());
            }
            _ => return self.fail("invalid character in string escape code"),
        };
        out.push(c);
        self.pos += 1;
        Ok(())
    }

    /// A `\uXXXX` escape or a pair of surrogates; a lone surrogate becomes U+FFFD, as in Go.
    fn code_point(&mut self) -> Result<char, ParseError> {
        let first = self.hex4()?;
        if (0xD800..0xDC00).contains(&first) && self.input[self.pos..].starts_with(b"\\u") {
            let back = self.pos;
            self.pos += 2;
            let second = self.hex4()?;
            if (0xDC00..0xE000).contains(&second) {
                let c = 0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00);
                return Ok(char::from_u32(c).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            self.pos = back;
        }
        Ok(char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER))
    }

    fn hex4(&mut self) -> Result<u32, ParseError> {
        let digits = self.input.get(self.pos..self.pos + 4).and_then(|d| std::str::from_utf8(d).ok());
        match digits.and_then(|d| u32::from_str_radix(d, 16).ok()) {
            Some(c) => {
                self.pos += 4;
                Ok(c)
            }
            None => self.fail("invalid character in \\u hexadecimal character escape"),
        }
    }
}

/// The compact JSON of a value.
pub fn to_vec(value: &Value) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    write(&mut out, value);
    out
}

/// The compact JSON of a value, as text.
pub fn to_string(value: &Value) -> String {
    String::from_utf8(to_vec(value)).unwrap_or_default()
}

/// The same, with these keys before all others wherever they are, in their order, for clients that read text.
pub fn to_vec_in_order(value: &Value, order: &[&str]) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 << 10);
    write_in_order(&mut out, value, order);
    out
}

fn write_in_order(out: &mut Vec<u8>, value: &Value, order: &[&str]) {
    let (entries, ends): (Vec<(Option<&Key>, &Value)>, _) = match value {
        Value::List(list) => (list.iter().map(|item| (None, item)).collect(), b"[]"),
        Value::Map(map) => {
            let mut entries: Vec<_> = map.iter().map(|(key, item)| (Some(key), item)).collect();
            entries.sort_by_cached_key(|(key, _)| {
                order.iter().position(|own| key.is_some_and(|key| key.as_str() == *own)).unwrap_or(order.len())
            });
            (entries, b"{}")
        }
        scalar => return write(out, scalar),
    };
    out.push(ends[0]);
    for (i, (key, item)) in entries.into_iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        if let Some(key) = key {
            write_string(out, key);
            out.push(b':');
        }
        write_in_order(out, item, order);
    }
    out.push(ends[1]);
}

/// Appends the compact JSON of a value.
pub fn write(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Int(i) => out.extend_from_slice(itoa::Buffer::new().format(*i).as_bytes()),
        Value::Float(f) => write_float(out, *f),
        Value::String(s) => write_string(out, s),
        Value::List(list) => {
            out.push(b'[');
            for (i, item) in list.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                write(out, item);
            }
            out.push(b']');
        }
        Value::Map(map) => {
            out.push(b'{');
            for (i, (key, item)) in map.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                write_string(out, key);
                out.push(b':');
                write(out, item);
            }
            out.push(b'}');
        }
    }
}

fn write_float(out: &mut Vec<u8>, f: f64) {
    if f.is_finite() && f.fract() == 0.0 && f.abs() < 1e15 {
        // Go writes whole floats without a fraction.
        out.extend_from_slice(itoa::Buffer::new().format(f as i64).as_bytes());
    } else {
        out.extend_from_slice(ryu::Buffer::new().format(f).as_bytes());
    }
}

/// How many bytes from the beginning on stand in a JSON string as they are: eight of them are looked at at once.
fn plain(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const TOPS: u64 = ONES << 7;
    // The top bits of the bytes that are zero; above the lowest of them others may be set too.
    let zeros = |word: u64| word.wrapping_sub(ONES) & !word & TOPS;
    let (words, rest) = bytes.as_chunks::<8>();
    for (i, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let controls = word.wrapping_sub(ONES * 0x20) & !word & TOPS;
        let special = controls | zeros(word ^ (ONES * u64::from(b'"'))) | zeros(word ^ (ONES * u64::from(b'\\')));
        if special != 0 {
            return 8 * i + special.trailing_zeros() as usize / 8;
        }
    }
    let special = |c: &u8| *c == b'"' || *c == b'\\' || *c < 0x20;
    8 * words.len() + rest.iter().position(special).unwrap_or(rest.len())
}

/// Appends a JSON string literal.
pub fn write_string(out: &mut Vec<u8>, s: &str) {
    out.push(b'"');
    let mut rest = s.as_bytes();
    loop {
        let (as_it_is, behind) = rest.split_at(plain(rest));
        out.extend_from_slice(as_it_is);
        let Some((c, behind)) = behind.split_first() else { break };
        rest = behind;
        match c {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            _ => out.extend_from_slice(format!("\\u{c:04x}").as_bytes()),
        }
    }
    out.push(b'"');
}

/// Shared text of a value: the string itself, or its JSON.
pub fn text(value: &Value) -> Text {
    match value {
        Value::String(s) => s.clone(),
        other => text_of(other),
    }
}

/// The compact JSON of a value, as a text of an object.
pub(crate) fn text_of(value: &Value) -> Text {
    let mut out = Vec::with_capacity(32);
    write(&mut out, value);
    std::str::from_utf8(&out).unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(input: &str, expect: &str) {
        assert_eq!(to_string(&from_slice(input.as_bytes()).unwrap()), expect);
    }

    #[test]
    fn special_characters_are_found_at_every_place_of_a_text() {
        for special in ['"', '\\', '\n', '\u{0}', '\u{1f}'] {
            for before in 0..20 {
                for behind in ["", "x", " !#[]~\u{7f}ü€", "\"\\\n and more"] {
                    let text = format!("{}{special}{behind}", "ü~".repeat(before));
                    assert_eq!(plain(text.as_bytes()), 3 * before, "{text:?}");
                    let written = to_string(&Value::from(text.as_str()));
                    assert_eq!(from_slice(written.as_bytes()).unwrap().as_str(), Some(text.as_str()));
                }
            }
        }
        assert_eq!(plain(" !#[]~\u{7f}\u{80}ü€\u{10ffff}".as_bytes()), 18);
    }

    #[track_caller]
    fn refuse(input: &str) {
        assert!(from_slice(input.as_bytes()).is_err(), "{input} should not parse");
    }

    #[test]
    fn values_come_back_in_compact_form() {
        check(r#" { "b" : [1, -2.5, 1e3, true, null], "a":"\u00e9\n\ud83d\ude00" } "#, "{\"a\":\"é\\n😀\",\"b\":[1,-2.5,1000,true,null]}");
        check("9223372036854775807", "9223372036854775807");
        check(r#""\ud800x""#, "\"\u{FFFD}x\"");
    }

    #[test]
    fn malformed_documents_are_refused() {
        for input in ["", "{", "[1,]", "{\"a\":}", "01", "1.", "-", "tru", "\"\u{1}\"", "{} {}", "{'a':1}", "\"\\u12\"", "+1", "[1 2]"] {
            refuse(input);
        }
        refuse(&"[".repeat(100_000));
    }

    #[test]
    fn duplicate_keys_are_reported_with_their_path() {
        let parsed = parse(br#"{"spec":{"list":[{"a":1,"a":2}]},"x":1,"x":1}"#).unwrap();
        assert_eq!(parsed.duplicates, ["spec.list[0].a", "x"]);
        assert_eq!(parsed.value.at(&["spec"]).unwrap().list_at(&["list"])[0].int_at(&["a"]), Some(2));
    }
}
