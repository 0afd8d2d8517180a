//! What expressions may cost at worst, against the numbers that upstream's estimator gives for the same schemas, without and
//! with limits in them. Definitions are refused by these numbers.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::sync::Arc;

use fram_cel::{Declared, Environment, Program};
use fram_machinery::json;

/// The estimate for a schema in which `#` stands for a keyword and its limit, or for nothing.
fn cost(schema: &str, limit: Option<u64>, rule: &str) -> u64 {
    let mut text = schema.to_string();
    for (mark, keyword) in [("#items", "maxItems"), ("#props", "maxProperties"), ("#len", "maxLength")] {
        text = text.replace(mark, &limit.map_or(String::new(), |n| format!(r#","{keyword}":{n}"#)));
    }
    let schema = json::from_slice(text.as_bytes()).unwrap();
    let declared = Arc::new(Declared::read(&schema, "selfType", false).unwrap());
    let environment = Environment::kubernetes().variable_of("self", declared.clone()).variable_of("oldSelf", declared.clone());
    Program::estimate(rule, &environment, &declared).unwrap_or_else(|e| panic!("{rule}: {e}")).1
}

fn scalar(ty: &str) -> String {
    match ty {
        "duration" | "date" | "date-time" => format!(r#"{{"type":"string","format":"{ty}"}}"#),
        "int-or-string" => r#"{"x-kubernetes-int-or-string":true}"#.into(),
        "limited" => r##"{"type":"string"#len}"##.into(),
        "arrays" => r#"{"type":"array","items":{"type":"number"}}"#.into(),
        "maps" => r#"{"type":"object","additionalProperties":{"type":"number"}}"#.into(),
        "objects" => {
            let fields = r#""properties":{"required":{"type":"string"},"optional":{"type":"string"}},"required":["required"]"#;
            format!(r#"{{"type":"object",{fields}}}"#)
        }
        ty => format!(r#"{{"type":"{ty}"}}"#),
    }
}

fn array(of: &str) -> String {
    format!(r##"{{"type":"array","items":{}#items}}"##, scalar(of))
}

fn map(of: &str) -> String {
    format!(r##"{{"type":"object","additionalProperties":{}#props}}"##, scalar(of))
}

#[test]
fn estimates_are_those_of_upstream() {
    let text = scalar("limited");
    let enumeration = r##"{"type":"string","enum":["A","B","C","LongValue"]#len}"##.to_string();
    let bytes = r##"{"type":"string","format":"byte"#len}"##.to_string();
    let pair = r##"{"type":"object","properties":{"str":{"type":"string"#len},"separator":{"type":"string"#len},
        "before":{"type":"string","maxLength":2},"after":{"type":"string","maxLength":4}}}"##
        .to_string();
    let int_or_string = r##"{"x-kubernetes-int-or-string":true#len}"##.to_string();
    for (schema, rule, open, limit, limited) in [
        (array("number"), "self.all(x, true)", 4718591, 10, 32),
        (array("string"), "self.all(x, true)", 3145727, 20, 62),
        (array("boolean"), "self.all(x, true)", 1887437, 5, 17),
        (array("arrays"), "self.all(x, true)", 3145727, 100, 302),
        (map("number"), "self.all(x, true)", 1348169, 10, 32),
        (map("number"), "has(self.x)", 1, 100, 1),
        (map("string"), "self.all(x, true)", 1179647, 3, 11),
        (map("boolean"), "self.all(x, true)", 943718, 100, 302),
        (text.clone(), "self.contains('test')", 314574, 10, 5),
        (text.clone(), "self.startsWith('test')", 2, 15, 2),
        (text.clone(), r#"size(self + "hello") > size("hello")"#, 314578, 4, 7),
        (array("number"), "self[1] == 0.0", 2, 5000, 2),
        (array("string"), "self[1] == self[1]", 314577, 8, 314577),
        (array("number"), "self.all(x, self.all(y, true))", 7421701914624, 10, 352),
        (text.clone(), r#"self.matches("x")"#, 314574, 50, 22),
        (text.clone(), r#""".matches("(((((((((())))))))))[0-9]")"#, 7, 10, 7),
        (text.clone(), r#"self.matches("")"#, 1, 100, 1),
        (map("limited"), "self.all(x, x.contains(self[x]))", 2752507, 10, 72),
        (map("number"), r#"self["x"] == 0.0"#, 2, 0, 2),
        (text.clone(), r#"self == "x""#, 2, 0, 1),
        (bytes, r#"self == b"x""#, 2, 0, 1),
        (array("number"), "self.all(x, x == 0.0)", 6291454, 3 * 1024 * 2048, 25165826),
        (array("int-or-string"), "self.all(x, true)", 4718591, 10, 32),
        (array("int-or-string"), "self[0] == 5", 3, 10, 3),
        (array("boolean"), "self[0] == false", 2, 25, 2),
        (array("arrays"), "self[0][0] == -1.0", 3, 51, 3),
        (array("maps"), "self.all(x, x.y == 25.2)", 6291452, 12, 74),
        (array("maps"), "self[0].x > 2.0", 4, 3000, 4),
        (array("objects"), "self[0] == null", 2, 422, 2),
        (array("duration"), "self.all(x, true)", 2359295, 5, 17),
        (array("duration"), "self[0].getHours() == 2", 4, 525, 4),
        (array("date"), "self.all(x, true)", 725936, 15, 47),
        (array("date-time"), "self.all(x, true)", 428963, 25, 77),
        (map("int-or-string"), "self.all(x, true)", 1348169, 15, 47),
        (map("maps"), "self.all(x, true)", 1179647, 10, 32),
        (map("duration"), "self.all(x, true)", 1048577, 5, 17),
        (map("date"), "self.all(x, true)", 524288, 10, 32),
        (map("date-time"), "self.all(x, true)", 349526, 25, 77),
        (text.clone(), "self.find('[0-9]+') == ''", 629147, 10, 11),
        (array("limited"), "self.join(' ') == 'aa bb'", 329853068905, 10, 43),
        (array("limited"), "self.isSorted() == true", 329854432052, 10, 52),
        (pair.clone(), "self.str.replace(self.before, self.after) == 'does not matter'", 629154, 4, 12),
        (pair, "self.str.split(self.separator) == []", 629160, 10, 22),
        (text, "self.lowerAscii() == 'lower!'", 314575, 10, 6),
        (map("integer"), "oldSelf.size() == self.size()", 5, 10, 5),
        (map("date-time"), r#"self["a"] == self["b"]"#, 8, 7, 8),
        (map("duration"), r#"self["c"] == self["d"]"#, 8, 42, 8),
        (enumeration, "self.contains('A')", 2, 1000, 401),
        (int_or_string, "isQuantity(self)", 314574, 20, 9),
    ] {
        assert_eq!((cost(&schema, None, rule), cost(&schema, Some(limit), rule)), (open, limited), "{rule} over {schema}");
    }
}
