//! The cases of cel-spec, from `FRAM_GOLDEN/cel-spec` where that is set, with the types that the checker deduces. Cases about
//! protobuf messages and enumerations are left out, since objects of Kubernetes have none of them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use fram_cel::{Budget, Declared, Environment, Program, Type, Value};

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

/// The variables and functions that a case declares.
fn environment(test: &Node) -> Environment {
    let mut functions = Vec::new();
    let mut environment = Environment::complete();
    for declared in test.all("type_env") {
        let name = declared.get("name").map(Node::text).unwrap_or_default();
        match declared.get("ident").and_then(|i| i.get("type")) {
            Some(ty) if ty.get("message_type").is_some() => environment = environment.variable_of(&name, message().into()),
            Some(ty) => environment = environment.typed(&name, Type::read(&written(ty))),
            None => {
                let overloads = declared.get("function").into_iter().flat_map(|f| f.all("overloads"));
                let signature = |o: &Node| {
                    let taken: Vec<String> = o.all("params").map(written).collect();
                    format!("({}) -> {}", taken.join(", "), o.get("result_type").map(written).unwrap_or_default())
                };
                functions.push(format!("{name}: {}", overloads.map(signature).collect::<Vec<_>>().join(" | ")));
            }
        }
    }
    environment.functions(&functions.join("\n"))
}

/// What the cases ask of the message TestAllTypes.
fn message() -> Declared {
    let simple = |ty: &str| Declared::simple(Type::read(ty));
    let nested = Declared::object("cel.expr.conformance.proto3.NestedMessage", vec![("bb", simple("int"))]);
    let fields = vec![
        ("single_int64", simple("int")),
        ("single_duration", simple("duration")),
        ("single_timestamp", simple("timestamp")),
        ("repeated_nested_message", Declared::list(nested, 10)),
    ];
    Declared::object("cel.expr.conformance.proto3.TestAllTypes", fields)
}

/// A type as the checker writes it.
fn written(ty: &Node) -> String {
    let Node::Message(fields) = ty else { return String::new() };
    let Some((kind, node)) = fields.first() else { return "dyn".into() };
    let part = |name: &str| node.get(name).map(written).unwrap_or_default();
    match kind.as_str() {
        "primitive" => match node.text().as_str() {
            "INT64" => "int".into(),
            "UINT64" => "uint".into(),
            other => other.to_ascii_lowercase(),
        },
        "list_type" => format!("list({})", part("elem_type")),
        "map_type" => format!("map({}, {})", part("key_type"), part("value_type")),
        "abstract_type" => {
            let parameters: Vec<String> = node.all("parameter_types").map(written).collect();
            format!("{}({})", node.get("name").map(Node::text).unwrap_or_default(), parameters.join(", "))
        }
        "well_known" => node.text().to_ascii_lowercase(),
        "null" | "dyn" => kind.clone(),
        "type" => "type".into(),
        _ => node.text(),
    }
}

/// What no expression of Kubernetes has: wrappers of protobuf, as values and as fields, and messages that a case makes itself.
const FOREIGN_TYPES: [&str; 2] = ["_wrapper", "TestAllTypes{"];

#[test]
fn types_are_deduced() {
    let Ok(golden) = std::env::var("FRAM_GOLDEN") else {
        eprintln!("FRAM_GOLDEN is not set: the cases of cel-spec are not read");
        return;
    };
    let source = std::fs::read_to_string(format!("{golden}/cel-spec/type_deduction.textproto")).unwrap();
    let file = Node::Message(Reader { text: source.as_bytes(), at: 0 }.message());
    let (mut passed, mut failed) = (0, Vec::new());
    for (section, test) in file.all("section").flat_map(|s| s.all("test").map(move |t| (s, t))) {
        let name = section.get("name").unwrap().text();
        let expr = test.get("expr").unwrap().text();
        if FOREIGN_TYPES.iter().any(|f| expr.contains(f)) {
            continue;
        }
        let expect = written(test.get("typed_result").unwrap().get("deduced_type").unwrap());
        let found = Program::compile(&expr, &environment(test)).map(|p| p.result().to_string()).map_err(|e| e.to_string());
        match found {
            Ok(found) if found == expect => passed += 1,
            found => failed.push(format!("{name}: {expr}\n    expected {expect}, got {found:?}")),
        }
    }
    eprintln!("{passed} types deduced");
    assert!(failed.is_empty(), "{} failed:\n{}", failed.len(), failed.join("\n"));
}

/// Runs the cases of a file; returns how many passed, and what failed.
fn run(name: &str, source: &str) -> (usize, Vec<String>) {
    let file = Node::Message(Reader { text: source.as_bytes(), at: 0 }.message());
    let (mut passed, mut failed) = (0, Vec::new());
    for (section, test) in file.all("section").flat_map(|s| s.all("test").map(move |t| (s, t))) {
        let expr = test.get("expr").map(Node::text).unwrap_or_default();
        let foreign =
            ["TestAllTypes", "TestEnum", "google.", "proto.", "NestedTestAllTypes", "GlobalEnum", "cel.block", "cel.@", "cel.iterVar"];
        if test.get("typed_result").is_some() {
            continue;
        }
        let about_messages = test.get("container").is_some() || foreign.iter().any(|f| expr.contains(f));
        let place = format!("{name}/{}/{}", section.get("name").unwrap().text(), test.get("name").unwrap().text());
        let unchecked = test.get("disable_check").is_some() || DIFFERENT.iter().any(|d| place.starts_with(d));
        if about_messages || unchecked {
            continue;
        }
        let bindings = |b: &Node| Some((b.get("key")?.text(), b.get("value")?.get("value")?.value()?));
        let Some(bound) = test.all("bindings").map(bindings).collect::<Option<Vec<_>>>() else { continue };
        let names: Vec<&str> = bound.iter().map(|(n, _)| n.as_str()).collect();
        if names.iter().any(|n| n.contains('.')) {
            continue;
        }
        let declared = |n: &&str| test.all("type_env").any(|e| e.get("name").is_some_and(|d| d.text() == *n));
        let undeclared: Vec<&str> = names.iter().copied().filter(|n| !declared(n)).collect();
        let variables: Vec<(&str, Value)> = bound.iter().map(|(n, v)| (n.as_str(), v.clone())).collect();
        let result = Program::compile(&expr, &environment(test).dynamic(&undeclared))
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
