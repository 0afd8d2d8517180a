//! The OpenAPI v2 document in protobuf, as clients that are written in Go ask for it: the messages of gnostic's
//! `openapi.v2` (field numbers from its OpenAPIv2.proto), filled from the JSON form. Only what Kubernetes' documents hold
//! is known here.

use fram_machinery::{Map, Value, json, protobuf::wire};

/// How the value of a JSON field is written.
enum Form {
    Text,
    Flag,
    Integer,
    Texts,
    /// A message of this form.
    One(&'static Message),
    /// A list of messages.
    Many(&'static Message),
    /// An object whose members become a message with a list of pairs of name and message.
    Named(&'static Message),
    /// Any value: gnostic keeps it as YAML.
    Any,
    Anys,
    /// One text in a message that holds a list of texts.
    TypeItem,
    /// One schema in a message that holds a list of schemas.
    Items,
    /// A schema, or a boolean.
    SchemaOrBool,
    /// Parameters, which differ by where they stand in the request.
    Parameters,
    /// Parameters that others refer to by their names.
    Shared,
    /// Responses by their code.
    Responses,
    /// The schema of a response.
    SchemaItem,
    /// Paths, the one list of pairs that is not the first field of its message.
    Paths,
}

/// The fields of a message by their JSON names, and the number of its vendor extensions.
struct Message {
    fields: &'static [(&'static str, u32, Form)],
    extensions: u32,
}

static DOCUMENT: Message = Message {
    fields: &[
        ("swagger", 1, Form::Text),
        ("info", 2, Form::One(&INFO)),
        ("paths", 8, Form::Paths),
        ("definitions", 9, Form::Named(&SCHEMA)),
        ("parameters", 10, Form::Shared),
    ],
    extensions: 16,
};

static INFO: Message = Message { fields: &[("title", 1, Form::Text), ("version", 2, Form::Text)], extensions: 7 };

static PATH: Message = Message {
    fields: &[
        ("get", 2, Form::One(&OPERATION)),
        ("put", 3, Form::One(&OPERATION)),
        ("post", 4, Form::One(&OPERATION)),
        ("delete", 5, Form::One(&OPERATION)),
        ("options", 6, Form::One(&OPERATION)),
        ("head", 7, Form::One(&OPERATION)),
        ("patch", 8, Form::One(&OPERATION)),
        ("parameters", 9, Form::Parameters),
    ],
    extensions: 10,
};

static OPERATION: Message = Message {
    fields: &[
        ("tags", 1, Form::Texts),
        ("description", 3, Form::Text),
        ("operationId", 5, Form::Text),
        ("produces", 6, Form::Texts),
        ("consumes", 7, Form::Texts),
        ("parameters", 8, Form::Parameters),
        ("responses", 9, Form::Responses),
        ("schemes", 10, Form::Texts),
    ],
    extensions: 13,
};

static BODY_PARAMETER: Message = Message {
    fields: &[
        ("description", 1, Form::Text),
        ("name", 2, Form::Text),
        ("in", 3, Form::Text),
        ("required", 4, Form::Flag),
        ("schema", 5, Form::One(&SCHEMA)),
    ],
    extensions: 6,
};

static QUERY_PARAMETER: Message = Message {
    fields: &[
        ("required", 1, Form::Flag),
        ("in", 2, Form::Text),
        ("description", 3, Form::Text),
        ("name", 4, Form::Text),
        ("type", 6, Form::Text),
        ("uniqueItems", 20, Form::Flag),
    ],
    extensions: 23,
};

static PATH_PARAMETER: Message = Message {
    fields: &[
        ("required", 1, Form::Flag),
        ("in", 2, Form::Text),
        ("description", 3, Form::Text),
        ("name", 4, Form::Text),
        ("type", 5, Form::Text),
        ("uniqueItems", 19, Form::Flag),
    ],
    extensions: 22,
};

static RESPONSE: Message = Message { fields: &[("description", 1, Form::Text), ("schema", 2, Form::SchemaItem)], extensions: 5 };

static SCHEMA: Message = Message {
    fields: &[
        ("$ref", 1, Form::Text),
        ("format", 2, Form::Text),
        ("title", 3, Form::Text),
        ("description", 4, Form::Text),
        ("default", 5, Form::Any),
        ("maxLength", 11, Form::Integer),
        ("minLength", 12, Form::Integer),
        ("pattern", 13, Form::Text),
        ("maxItems", 14, Form::Integer),
        ("minItems", 15, Form::Integer),
        ("uniqueItems", 16, Form::Flag),
        ("maxProperties", 17, Form::Integer),
        ("minProperties", 18, Form::Integer),
        ("required", 19, Form::Texts),
        ("enum", 20, Form::Anys),
        ("additionalProperties", 21, Form::SchemaOrBool),
        ("type", 22, Form::TypeItem),
        ("items", 23, Form::Items),
        ("allOf", 24, Form::Many(&SCHEMA)),
        ("properties", 25, Form::Named(&SCHEMA)),
        ("example", 30, Form::Any),
    ],
    extensions: 31,
};

/// The whole document.
pub(super) fn document(value: &Value) -> Vec<u8> {
    message(value, &DOCUMENT)
}

/// The same of a document without paths, and of the paths, which are given some at a time.
pub(super) fn document_of(rest: &Value, paths: impl Iterator<Item = Map>) -> Vec<u8> {
    let mut out = message(rest, &DOCUMENT);
    let mut all = Vec::new();
    for some in paths {
        for (name, item) in some.iter() {
            wire::put_bytes(&mut all, 2, &named(name.as_str(), &message(item, &PATH)));
        }
    }
    wire::put_bytes(&mut out, 8, &all);
    out
}

fn message(value: &Value, description: &Message) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, member) in value.as_map().into_iter().flat_map(|m| m.iter()) {
        let name = name.as_str();
        match description.fields.iter().find(|(field, ..)| *field == name) {
            Some((_, number, form)) => field(&mut out, *number, member, form),
            None if name.starts_with("x-") => wire::put_bytes(&mut out, description.extensions, &named(name, &any(member))),
            // Limits in numbers with a fraction and the like: no client reads them here.
            None => {}
        }
    }
    out
}

fn field(out: &mut Vec<u8>, number: u32, value: &Value, form: &Form) {
    let list = || value.as_list().into_iter().flat_map(|l| l.iter());
    let mut put = |bytes: &[u8]| wire::put_bytes(out, number, bytes);
    match form {
        Form::Text => put(value.as_str().unwrap_or_default().as_bytes()),
        Form::Texts => list().for_each(|v| put(v.as_str().unwrap_or_default().as_bytes())),
        Form::Flag => wire::put_int(out, number, value.as_bool().unwrap_or_default().into()),
        Form::Integer => wire::put_int(out, number, value.as_int().unwrap_or_default()),
        Form::One(inner) => put(&message(value, inner)),
        Form::Many(inner) => list().for_each(|v| put(&message(v, inner))),
        Form::Named(inner) => put(&pairs(value, 1, |v| message(v, inner))),
        Form::Any => put(&any(value)),
        Form::Anys => list().for_each(|v| put(&any(v))),
        Form::TypeItem => put(&wrapped(1, value.as_str().unwrap_or_default().as_bytes())),
        Form::Items | Form::SchemaItem => put(&wrapped(1, &message(value, &SCHEMA))),
        Form::SchemaOrBool => match value.as_bool() {
            Some(flag) => {
                let mut inner = Vec::new();
                wire::put_int(&mut inner, 2, flag.into());
                put(&inner);
            }
            None => put(&wrapped(1, &message(value, &SCHEMA))),
        },
        Form::Parameters => list().for_each(|v| put(&parameter_or_reference(v))),
        Form::Shared => put(&pairs(value, 1, parameter)),
        Form::Responses => put(&pairs(value, 1, |v| wrapped(1, &message(v, &RESPONSE)))),
        Form::Paths => put(&pairs(value, 2, |v| message(v, &PATH))),
    }
}

fn parameter_or_reference(value: &Value) -> Vec<u8> {
    match value.get("$ref").and_then(Value::as_str) {
        Some(reference) => wrapped(2, &wrapped(1, reference.as_bytes())),
        None => wrapped(1, &parameter(value)),
    }
}

/// A parameter within the two alternatives in which gnostic wraps it.
fn parameter(value: &Value) -> Vec<u8> {
    match value.str_at(&["in"]) {
        "body" => wrapped(1, &message(value, &BODY_PARAMETER)),
        "path" => wrapped(2, &wrapped(4, &message(value, &PATH_PARAMETER))),
        _ => wrapped(2, &wrapped(3, &message(value, &QUERY_PARAMETER))),
    }
}

fn pairs(value: &Value, number: u32, inner: impl Fn(&Value) -> Vec<u8>) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, member) in value.as_map().into_iter().flat_map(|m| m.iter()) {
        wire::put_bytes(&mut out, number, &named(name.as_str(), &inner(member)));
    }
    out
}

fn named(name: &str, inner: &[u8]) -> Vec<u8> {
    let mut out = wrapped(1, name.as_bytes());
    wire::put_bytes(&mut out, 2, inner);
    out
}

/// JSON is YAML.
fn any(value: &Value) -> Vec<u8> {
    wrapped(2, &json::to_vec(value))
}

fn wrapped(number: u32, inner: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    wire::put_bytes(&mut out, number, inner);
    out
}

#[cfg(test)]
mod tests {
    use fram_machinery::object;

    use super::*;

    #[test]
    fn a_definition_has_its_name_its_type_and_its_extensions() {
        let document = document(&object!({ "definitions": { "A": { "type": "object", "x-k": ["b"] } } }));
        let schema = [&[0xb2, 1, 8, 10, 6][..], b"object", &[0xfa, 1, 14, 10, 3], b"x-k", &[18, 7, 18, 5], b"[\"b\"]"].concat();
        let pair = [&[10, 1, b'A', 18, schema.len() as u8][..], &schema].concat();
        let definitions = [&[10, pair.len() as u8][..], &pair].concat();
        assert_eq!(document, [&[74, definitions.len() as u8][..], &definitions].concat());
    }

    #[test]
    fn parameters_are_told_apart_by_their_place() {
        let query = parameter(&object!({ "in": "query", "name": "dryRun" }));
        assert_eq!(query, [&[18, 17, 26, 15, 18, 5][..], b"query", &[34, 6], b"dryRun"].concat());
        let reference = parameter_or_reference(&object!({ "$ref": "#/p" }));
        assert_eq!(reference, [&[18, 5, 10, 3][..], b"#/p"].concat());
        assert_eq!(parameter(&object!({ "in": "body" })), [&[10, 6, 26, 4][..], b"body"].concat());
    }
}
