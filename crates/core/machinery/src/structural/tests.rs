//! Objects and schemas against the rules of structural schemas.

use super::*;
use crate::{json, object};

fn schema(text: &str) -> Value {
    json::from_slice(text.as_bytes()).unwrap()
}

#[track_caller]
fn refused(schema_text: &str, value: &str, expect: &[&str]) {
    let structural = Structural::read(&schema(&format!(r#"{{"type":"object","properties":{{"x":{schema_text}}}}}"#)));
    let object = schema(&format!(r#"{{"x":{value}}}"#));
    let texts: Vec<String> = structural.validate(&object, None).iter().map(ToString::to_string).collect();
    assert_eq!(texts, expect, "{schema_text} {value}");
}

#[test]
fn values_are_checked_in_upstreams_words() {
    for (rule, good, bad, expect) in [
        (r#"{"type":"integer"}"#, "1", r#""a""#, r#"x: Invalid value: "string": x in body must be of type integer: "string""#),
        (r#"{"type":"integer"}"#, "1.0", "1.5", r#"x: Invalid value: "number": x in body must be of type integer: "number""#),
        (r#"{"type":"string"}"#, r#""""#, "null", r#"x: Invalid value: "null": x in body must be of type string: "null""#),
        (r#"{"type":"string","minLength":2}"#, r#""ab""#, r#""a""#, r#"x: Invalid value: "a": x in body should be at least 2 chars long"#),
        (r#"{"type":"string","maxLength":1}"#, r#""ä""#, r#""ab""#, "x: Too long: may not be more than 1 bytes"),
        (r#"{"type":"string","pattern":"^a+$"}"#, r#""aa""#, r#""b""#, r#"x: Invalid value: "b": x in body should match '^a+$'"#),
        (r#"{"type":"string","enum":["a","b"]}"#, r#""a""#, r#""c""#, r#"x: Unsupported value: "c": supported values: "a", "b""#),
        (r#"{"type":"integer","minimum":1}"#, "1", "0", "x: Invalid value: 0: x in body should be greater than or equal to 1"),
        (r#"{"type":"integer","maximum":3,"exclusiveMaximum":true}"#, "2", "3", "x: Invalid value: 3: x in body should be less than 3"),
        (r#"{"type":"number","multipleOf":0.5}"#, "1.5", "1.2", "x: Invalid value: 1.2: x in body should be a multiple of 0.5"),
        (
            r#"{"type":"array","maxItems":1,"items":{"type":"string"}}"#,
            r#"["a"]"#,
            r#"["a","b"]"#,
            "x: Too many: 2: must have at most 1 items",
        ),
        (r#"{"type":"object","required":["a"],"properties":{"a":{"type":"string"}}}"#, r#"{"a":""}"#, "{}", "x.a: Required value"),
        (
            r#"{"x-kubernetes-int-or-string":true}"#,
            "1",
            "true",
            r#"x: Invalid value: "boolean": x in body must be of type integer,string: "boolean""#,
        ),
        (
            r#"{"type":"string","not":{"enum":["a"]}}"#,
            r#""b""#,
            r#""a""#,
            r#"x: Invalid value: "": "x" must not validate the schema (not)"#,
        ),
        (
            r#"{"type":"array","x-kubernetes-list-type":"set","items":{"type":"string"}}"#,
            r#"["a","b"]"#,
            r#"["a","a"]"#,
            r#"x[1]: Duplicate value: "a""#,
        ),
        (
            r#"{"type":"object","additionalProperties":{"type":"integer"}}"#,
            r#"{"a":1}"#,
            r#"{"a":"b"}"#,
            r#"x.a: Invalid value: "string": x.a in body must be of type integer: "string""#,
        ),
    ] {
        refused(rule, good, &[]);
        refused(rule, bad, &[expect]);
    }
}

#[test]
fn one_of_counts_the_schemas_that_hold() {
    let rule =
        r#"{"type":"object","properties":{"a":{"type":"integer"},"b":{"type":"integer"}},"oneOf":[{"required":["a"]},{"required":["b"]}]}"#;
    refused(rule, r#"{"a":1}"#, &[]);
    let both = r#"x: Invalid value: "": "x" must validate one and only one schema (oneOf). Found 2 valid alternatives"#;
    refused(rule, r#"{"a":1,"b":1}"#, &[both]);
    let none = r#"x: Invalid value: "": "x" must validate one and only one schema (oneOf). Found none valid"#;
    refused(rule, "{}", &[none, "x.a: Required value"]);
}

#[test]
fn what_an_update_leaves_alone_is_not_held_against_it() {
    let structural =
        Structural::read(&schema(r#"{"type":"object","properties":{"a":{"type":"integer","minimum":5},"b":{"type":"integer"}}}"#));
    let old = object!({ "a": 1, "b": 1 });
    assert!(structural.validate(&object!({ "a": 1, "b": 2 }), Some(&old)).is_empty());
    assert_eq!(structural.validate(&object!({ "a": 2, "b": 1 }), Some(&old)).len(), 1);
}

#[test]
fn defaults_replace_what_is_absent_and_nulls_that_may_not_be() {
    let structural = Structural::read(&schema(
        r#"{"type":"object","properties":{"a":{"type":"string","default":"d"},"n":{"type":"string","nullable":true,"default":"d"},
            "o":{"type":"object","default":{},"properties":{"b":{"type":"integer","default":1}}},"z":{"type":"string"}}}"#,
    ));
    let mut value = object!({ "a": null, "n": null, "z": null });
    structural.apply_defaults(&mut value);
    assert_eq!(value, object!({ "a": "d", "n": null, "o": { "b": 1 } }));
}

#[track_caller]
fn flawed(text: &str, expect: &str) {
    let found: Vec<String> = schema_errors(&schema(text), "s").iter().map(ToString::to_string).collect();
    assert!(found.iter().any(|e| e == expect), "{text}: {found:?}");
}

#[test]
fn schemas_that_are_not_structural_are_refused() {
    assert!(schema_errors(&schema(r#"{"type":"object","properties":{"a":{"type":"string"}}}"#), "s").is_empty());
    let int_or_string =
        r#"{"type":"object","properties":{"a":{"x-kubernetes-int-or-string":true,"anyOf":[{"type":"integer"},{"type":"string"}]}}}"#;
    assert!(schema_errors(&schema(int_or_string), "s").is_empty());
    let open = r#"{"type":"object","properties":{"a":{"type":"object","properties":{"b":{"type":"string"}},"additionalProperties":true}}}"#;
    assert!(schema_errors(&schema(open), "s").is_empty());
    for (text, expect) in [
        (
            r#"{"type":"object","properties":{"a":{"type":"object","properties":{"b":{"type":"string"}},"additionalProperties":false}}}"#,
            "s.properties[a].additionalProperties: Forbidden: additionalProperties and properties are mutual exclusive",
        ),
        ("{}", "s.type: Required value: must not be empty at the root"),
        (r#"{"type":"string"}"#, r#"s.type: Invalid value: "string": must be object at the root"#),
        (
            r#"{"type":"object","properties":{"a":{}}}"#,
            "s.properties[a].type: Required value: must not be empty for specified object fields",
        ),
        (
            r#"{"type":"object","anyOf":[{"properties":{"a":{"type":"string"}}}]}"#,
            "s.anyOf[0].properties[a].type: Forbidden: must be empty to be structural",
        ),
        (
            r#"{"type":"object","anyOf":[{"properties":{"a":{"minLength":1}}}]}"#,
            "s.anyOf[0].properties[a]: Required value: because it is defined in a value validation",
        ),
        (r#"{"type":"object","properties":{"a":{"type":"array"}}}"#, "s.properties[a].items: Required value: must be specified"),
        (
            r#"{"type":"object","properties":{"a":{"type":"integer","default":"x"}}}"#,
            r#"s.properties[a].default: Invalid value: "string":  in body must be of type integer: "string""#,
        ),
    ] {
        flawed(text, expect);
    }
}

#[test]
fn who_applies_fields_that_a_schema_leaves_open_leaves_those_of_others() {
    use crate::managed::{Manager, Operation, apply};
    use crate::schema::{Schema, StructType};
    let written =
        r#"{"type":"object","properties":{"spec":{"type":"object","properties":{"a":{"type":"string"}},"additionalProperties":true}}}"#;
    let mut types = Schema::new();
    let metadata = types.declare("meta.v1.ObjectMeta").unwrap();
    types.define(metadata, StructType::custom("meta.v1.ObjectMeta", Vec::new(), false));
    let root = types::root(&mut types, "Kind", std::sync::Arc::new(Structural::read(&schema(written)))).unwrap();
    let applied = |live: &Value, config: Value, name: &str| {
        let manager = Manager { name: name.into(), operation: Operation::Apply, api_version: "g/v1".into(), subresource: String::new() };
        apply(&types, root, live, &config, &manager, false, false, "t").unwrap()
    };
    let one = applied(&object!({}), object!({ "spec": { "free": { "x": "1" } } }), "one");
    let both = applied(&one, object!({ "spec": { "free": { "y": "2" } } }), "two");
    assert_eq!(both.get("spec"), Some(&object!({ "free": { "x": "1", "y": "2" } })));
}
