//! The cases of cel-spec, from `FRAM_GOLDEN/cel-spec` where that is set. Cases about protobuf messages, enumerations and static
//! types are left out, since objects of Kubernetes have none of them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use fram_cel::{Budget, Program, Value};

/// A node of protobuf's text format.
#[derive(Debug, Clone)]
enum Node {
    Text(Vec<u8>),
    Word(String),
    Message(Vec<(String, Node)>),
}

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn skip(&mut self) {
        while let Some(&c) = self.text.get(self.at) {
            match c {
                b'#' => {
                    while self.text.get(self.at).is_some_and(|c| *c != b'\n') {
                        self.at += 1;
                    }
                }
                b' ' | b'\n' | b'\t' | b'\r' | b',' | b';' => self.at += 1,
                _ => return,
            }
        }
    }

    fn peek(&mut self) -> u8 {
        self.skip();
        self.text.get(self.at).copied().unwrap_or(0)
    }

    fn word(&mut self) -> String {
        self.skip();
        let start = self.at;
        if self.text[self.at] == b'[' {
            while self.text[self.at] != b']' {
                self.at += 1;
            }
            self.at += 1;
        }
        while self.text.get(self.at).is_some_and(|c| c.is_ascii_alphanumeric() || b"_.+-/".contains(c)) {
            self.at += 1;
        }
        String::from_utf8(self.text[start..self.at].to_vec()).unwrap()
    }

    fn string(&mut self) -> Vec<u8> {
        let quote = self.peek();
        self.at += 1;
        let mut out = Vec::new();
        while self.text[self.at] != quote {
            if self.text[self.at] != b'\\' {
                out.push(self.text[self.at]);
                self.at += 1;
                continue;
            }
            let c = self.text[self.at + 1];
            self.at += 2;
            let number = |digits: &[u8], radix| u32::from_str_radix(std::str::from_utf8(digits).unwrap(), radix).unwrap();
            match c {
                b'n' => out.push(b'\n'),
                b't' => out.push(b'\t'),
                b'r' => out.push(b'\r'),
                b'a' => out.push(7),
                b'b' => out.push(8),
                b'f' => out.push(12),
                b'v' => out.push(11),
                b'0'..=b'7' => {
                    let mut end = self.at;
                    while end < self.at + 2 && self.text[end].is_ascii_digit() {
                        end += 1;
                    }
                    out.push(number(&self.text[self.at - 1..end], 8) as u8);
                    self.at = end;
                }
                b'x' => {
                    let mut end = self.at;
                    while end < self.at + 2 && self.text[end].is_ascii_hexdigit() {
                        end += 1;
                    }
                    out.push(number(&self.text[self.at..end], 16) as u8);
                    self.at = end;
                }
                b'u' | b'U' => {
                    let length = if c == b'u' { 4 } else { 8 };
                    let c = char::from_u32(number(&self.text[self.at..self.at + length], 16)).unwrap();
                    out.extend(c.to_string().into_bytes());
                    self.at += length;
                }
                other => out.push(other),
            }
        }
        self.at += 1;
        out
    }

    fn message(&mut self) -> Vec<(String, Node)> {
        let mut fields = Vec::new();
        while !matches!(self.peek(), 0 | b'}' | b'>') {
            let name = self.word();
            if self.peek() == b':' {
                self.at += 1;
            }
            match self.peek() {
                b'{' | b'<' => {
                    self.at += 1;
                    fields.push((name, Node::Message(self.message())));
                    self.peek();
                    self.at += 1;
                }
                b'"' | b'\'' => {
                    let mut text = self.string();
                    while matches!(self.peek(), b'"' | b'\'') {
                        text.extend(self.string());
                    }
                    fields.push((name, Node::Text(text)));
                }
                _ => fields.push((name.clone(), Node::Word(self.word()))),
            }
        }
        fields
    }
}

impl Node {
    fn get<'a>(&'a self, name: &'a str) -> Option<&'a Node> {
        self.all(name).next()
    }

    fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Node> {
        let fields = match self {
            Node::Message(fields) => fields.as_slice(),
            _ => &[],
        };
        fields.iter().filter(move |(n, _)| n == name).map(|(_, v)| v)
    }

    fn text(&self) -> String {
        match self {
            Node::Text(text) => String::from_utf8_lossy(text).into_owned(),
            Node::Word(word) => word.clone(),
            Node::Message(_) => String::new(),
        }
    }

    /// The value that a case expects or binds; None for what is no value here.
    fn value(&self) -> Option<Value> {
        let Node::Message(fields) = self else { return None };
        let (kind, node) = fields.first()?;
        let text = node.text();
        Some(match kind.as_str() {
            "null_value" => Value::Null,
            "bool_value" => Value::Bool(text == "true"),
            "int64_value" => Value::Int(text.parse().ok()?),
            "uint64_value" => Value::Uint(text.parse().ok()?),
            "double_value" => Value::Double(match text.as_str() {
                "inf" | "Infinity" | "+inf" => f64::INFINITY,
                "-inf" | "-Infinity" => f64::NEG_INFINITY,
                other => other.parse().ok()?,
            }),
            "string_value" => Value::from(text),
            "bytes_value" => match node {
                Node::Text(bytes) => Value::Bytes(bytes.as_slice().into()),
                _ => return None,
            },
            "list_value" => node.all("values").map(Node::value).collect::<Option<Vec<_>>>()?.into(),
            "map_value" => {
                let entry = |e: &Node| Some((e.get("key")?.value()?, e.get("value")?.value()?));
                Value::Map(std::sync::Arc::new(node.all("entries").map(entry).collect::<Option<Vec<_>>>()?))
            }
            _ => return None,
        })
    }
}

/// What is different here on purpose: Kubernetes refuses addresses with two forms, time zones go by offset only, and the last
/// day of the year 9999 is out of range.
const DIFFERENT: [&str; 8] = [
    "network_ext/ipv4/ipv4_equals_ipv6",
    "network_ext/ipv4/ipv4_not_equals_ipv6",
    "timestamps/timestamp_conversions/toString_timestamp_nanos",
    "timestamps/timestamp_selectors_tz/getDate",
    "timestamps/timestamp_selectors_tz/getDayOfMonth_name",
    "timestamps/timestamp_selectors_tz/getDayOfYear",
    "timestamps/timestamp_selectors_tz/getMinutes",
    "parse/receiver_function_names/",
];

/// Runs the cases of a file; returns how many passed, and what failed.
fn run(name: &str, source: &str) -> (usize, Vec<String>) {
    let file = Node::Message(Reader { text: source.as_bytes(), at: 0 }.message());
    let (mut passed, mut failed) = (0, Vec::new());
    for (section, test) in file.all("section").flat_map(|s| s.all("test").map(move |t| (s, t))) {
        let expr = test.get("expr").map(Node::text).unwrap_or_default();
        let foreign =
            ["TestAllTypes", "TestEnum", "google.", "proto.", "NestedTestAllTypes", "GlobalEnum", "cel.block", "cel.@", "cel.iterVar"];
        let about_messages = test.get("container").is_some() || foreign.iter().any(|f| expr.contains(f));
        let place = format!("{name}/{}/{}", section.get("name").unwrap().text(), test.get("name").unwrap().text());
        let unchecked = test.get("disable_check").is_some() || DIFFERENT.iter().any(|d| place.starts_with(d));
        if about_messages || unchecked || test.get("check_only").is_some() || test.get("typed_result").is_some() {
            continue;
        }
        let bindings = |b: &Node| Some((b.get("key")?.text(), b.get("value")?.get("value")?.value()?));
        let Some(bound) = test.all("bindings").map(bindings).collect::<Option<Vec<_>>>() else { continue };
        let names: Vec<&str> = bound.iter().map(|(n, _)| n.as_str()).collect();
        if names.iter().any(|n| n.contains('.')) {
            continue;
        }
        let variables: Vec<(&str, Value)> = bound.iter().map(|(n, v)| (n.as_str(), v.clone())).collect();
        let result = Program::compile(&expr, &names)
            .map_err(|e| e.to_string())
            .and_then(|p| p.evaluate(&variables, &mut Budget::new(10_000_000)).map_err(|e| e.to_string()));
        let wants_error = test.get("eval_error").is_some() || test.get("any_eval_errors").is_some();
        let expect = match test.get("value") {
            Some(value) => match value.value() {
                Some(value) => Some(value),
                None => continue,
            },
            None if wants_error => None,
            None => Some(Value::Bool(true)),
        };
        let good = match (&expect, &result) {
            (None, Err(_)) => true,
            (Some(Value::Double(a)), Ok(Value::Double(b))) if a.is_nan() => b.is_nan(),
            (Some(expect), Ok(found)) => found == expect,
            _ => false,
        };
        if good {
            passed += 1;
        } else {
            failed.push(format!("{place}: {expr}\n    expected {expect:?}, got {result:?}"));
        }
    }
    (passed, failed)
}

#[test]
fn the_cases_of_the_language_hold() {
    let Ok(golden) = std::env::var("FRAM_GOLDEN") else {
        eprintln!("FRAM_GOLDEN is not set: the cases of cel-spec are not read");
        return;
    };
    let files = [
        "basic",
        "bindings_ext",
        "comparisons",
        "conversions",
        "encoders_ext",
        "fp_math",
        "integer_math",
        "lists",
        "logic",
        "macros",
        "macros2",
        "math_ext",
        "network_ext",
        "optionals",
        "parse",
        "plumbing",
        "string",
        "string_ext",
        "timestamps",
        "fields",
    ];
    let (mut passed, mut failed) = (0, Vec::new());
    for name in files {
        let path = format!("{golden}/cel-spec/{name}.textproto");
        let source = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("read {path}: {e}"));
        let (good, bad) = run(name, &source);
        passed += good;
        failed.extend(bad);
    }
    eprintln!("{passed} cases passed");
    assert!(failed.is_empty(), "{} failed:\n{}", failed.len(), failed.join("\n"));
}
