//! Requests that are made from an object and the description of its kind: each field once taken away, emptied, out of
//! range, of the wrong form; names of every shape; every verb and subresource.

use std::collections::HashSet;

use fram_api::Kind;
use fram_machinery::schema::Field;
use fram_machinery::{Schema, Type, TypeId, Value, json};

use crate::path::below;

#[derive(Clone, Copy, PartialEq)]
enum How {
    /// The object is created with another value.
    Create,
    /// The object is created, then written with another value.
    Update,
    /// The status is written with another value.
    Status,
}

/// The requests that vary an object: `update` in writes that change it, `status` in its status, `metadata` in its metadata.
pub(crate) fn vary(kind: &Kind, name: &str, object: &Value, how: &[&str]) -> Result<Vec<String>, String> {
    let (mode, prefix) = match how {
        [] | ["metadata"] => (How::Create, format!("{name}; ")),
        ["update"] | ["update", "metadata"] => (How::Update, format!("{name} > put ")),
        ["status"] => (How::Status, format!("{name} > put/status @{name}; ")),
        other => return Err(format!("cannot vary {other:?}")),
    };
    let mut walk = Walk { schema: &kind.schema, mode, seen: HashSet::new(), types: HashSet::new(), changes: Vec::new() };
    let roots: Vec<&str> = match how.last() {
        Some(&"metadata") => vec!["metadata"],
        Some(&"status") => vec!["status"],
        _ => object.as_map().into_iter().flat_map(|m| m.keys()).map(|k| k.as_str()).collect(),
    };
    let chosen = |key: &str| match how.last() {
        Some(&("metadata" | "status")) => true,
        _ => !matches!(key, "apiVersion" | "kind" | "metadata" | "status"),
    };
    for root in roots.into_iter().filter(|r| chosen(r)) {
        let (Some(field), Some(value)) = (kind.schema.get(kind.ty).field(root), object.get(root)) else {
            return Err(format!("the kind has no field {root}"));
        };
        walk.field(field, value, root);
    }
    let lines = walk.changes.into_iter().map(|c| format!("{prefix}{c}"));
    Ok(match mode {
        How::Status => std::iter::once(format!("{name} > put/status @{name}")).chain(lines).collect(),
        _ => lines.collect(),
    })
}

struct Walk<'a> {
    schema: &'a Schema,
    mode: How,
    /// Fields that have been varied, by type and name.
    seen: HashSet<(TypeId, String)>,
    /// Types of which a wrong one was tried.
    types: HashSet<std::mem::Discriminant<Type>>,
    changes: Vec<String>,
}

impl Walk<'_> {
    fn set(&mut self, path: &str, value: &str) {
        self.changes.push(format!("{path} = {value}"));
    }

    fn field(&mut self, field: &Field, value: &Value, path: &str) {
        match self.mode {
            How::Update => self.updates(field, value, path),
            How::Create | How::Status => self.variants(field, value, path),
        }
        self.inside(&field.ty, value, path);
    }

    fn inside(&mut self, ty: &Type, value: &Value, path: &str) {
        match (ty, value) {
            (Type::Struct(id), Value::Map(map)) => {
                let schema = self.schema;
                for (key, item) in map.iter() {
                    let Some(field) = schema.get(*id).field(key) else { continue };
                    if self.seen.insert((*id, key.to_string())) {
                        self.field(field, item, &below(path, key));
                    } else {
                        self.inside(&field.ty, item, &below(path, key));
                    }
                }
            }
            (Type::List(item), Value::List(list)) => {
                list.iter().enumerate().for_each(|(i, v)| self.inside(item, v, &format!("{path}[{i}]")));
            }
            (Type::Map(item), Value::Map(map)) => map.iter().for_each(|(k, v)| self.inside(item, v, &below(path, k))),
            _ => {}
        }
    }

    fn variants(&mut self, field: &Field, value: &Value, path: &str) {
        self.changes.push(format!("-{path}"));
        let values: &[&str] = match &field.ty {
            Type::String if !field.allowed.is_empty() => &["\"Not_Valid !\""],
            Type::String => &["\"Not_Valid !\"", "x*300"],
            Type::Int32 => &["-1", "0", "2000000000"],
            Type::Int64 => &["-1", "0", "20000000000"],
            Type::Quantity => &["\"-1\"", "\"0\"", "1500m"],
            Type::IntOrString => &["-1", "0", "\"Not_Valid !\"", "150%"],
            Type::Duration => &["-1s", "0s"],
            Type::Bytes => &["AAAA"],
            Type::Struct(_) if field.pointer => &["{}"],
            _ => &[],
        };
        values.iter().for_each(|v| self.set(path, v));
        match (&field.ty, value) {
            (Type::String, _) if field.pointer => self.set(path, "\"\""),
            (Type::Bool, Value::Bool(b)) => self.set(path, if *b { "false" } else { "true" }),
            (Type::List(_), Value::List(list)) if !list.is_empty() => self.set(&format!("{path}[+]"), &json::to_string(&list[0])),
            (Type::Map(item), Value::Map(map)) => {
                let Some((key, first)) = map.iter().next() else { return };
                self.set(&below(path, "not valid!"), &json::to_string(first));
                match **item {
                    Type::String => self.set(&below(path, key), "\"Not_Valid !\""),
                    Type::Quantity => self.set(&below(path, key), "\"-1\""),
                    _ => {}
                }
            }
            _ => {}
        }
        if self.types.insert(std::mem::discriminant(&field.ty)) {
            self.wrong_type(&field.ty, path);
        }
    }

    fn wrong_type(&mut self, ty: &Type, path: &str) {
        let value = match ty {
            Type::String | Type::Bytes | Type::Time | Type::MicroTime | Type::Duration => "7",
            Type::IntOrString => "true",
            Type::Map(_) | Type::Struct(_) => "[]",
            Type::List(_) => "{}",
            Type::Json | Type::RawExtension | Type::FieldsV1 | Type::Deduced | Type::SchemaOr(..) => return,
            _ => "\"x\"",
        };
        self.set(path, value);
    }

    /// One other value that could be right.
    fn updates(&mut self, field: &Field, value: &Value, path: &str) {
        if !matches!(field.ty, Type::Int32 | Type::Int64 | Type::Bool) {
            self.changes.push(format!("-{path}"));
        }
        match (&field.ty, value) {
            (Type::String, Value::String(now)) => {
                let other = field.allowed.iter().find(|a| **a != &**now).map_or("changed", |a| a);
                self.set(path, &format!("{:?}", other.replace('_', " ")));
            }
            (Type::Int32 | Type::Int64 | Type::IntOrString, Value::Int(n)) => self.set(path, &(n + 1).to_string()),
            (Type::Bool, Value::Bool(b)) => self.set(path, if *b { "false" } else { "true" }),
            (Type::Quantity, _) => self.set(path, "\"7\""),
            (Type::Bytes, _) => self.set(path, "AAAA"),
            (Type::Map(item), Value::Map(map)) => {
                let Some((_, first)) = map.iter().next() else { return };
                if matches!(**item, Type::String | Type::Bytes | Type::Quantity) {
                    self.set(&below(path, "added"), &json::to_string(first));
                }
            }
            _ => {}
        }
    }
}

/// Names of every shape.
pub(crate) fn names(object: &str) -> Vec<String> {
    let shapes = ["Not_Valid", "a:b", "a.b", "1a", "a-", "a/b", "\"..\"", "a%b", "a*64", "a*254"];
    let mut lines: Vec<String> = shapes.iter().map(|s| format!("{object}; metadata.name = {s}")).collect();
    lines.push(format!("{object}; -metadata.name"));
    lines.push(format!("{object}; -metadata.name; metadata.generateName = gen-"));
    lines.push(format!("{object}; -metadata.name; metadata.generateName = Gen_"));
    lines.push(format!("{object}; metadata.namespace = elsewhere"));
    lines.push(format!("{object}; metadata.resourceVersion = \"5\""));
    lines.push(format!("{object}; metadata.labels = {{\"not valid\": x}}"));
    lines.push(format!("{object}; metadata.generation = 7; metadata.uid = mine"));
    lines.push(format!("{object}; kind = Other"));
    lines.push(format!("{object}; apiVersion = other/v1"));
    lines
}

/// Every verb of the kind, about an object that is there and one that is not.
pub(crate) fn verbs(kind: &Kind, object: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut add = |verb: &str, texts: &[&str]| {
        if kind.has_verb(verb) {
            lines.extend(texts.iter().map(|t| t.replace('@', object)));
        }
    };
    add(
        "create",
        &["@?dryRun=All", "@?dryRun=Some", "@ > create @", "@?fieldValidation=Strict; nosuch = 1", "@?fieldValidation=Ignore; nosuch = 1"],
    );
    add("get", &["@ > get", "!@ > get"]);
    add(
        "update",
        &[
            "!@ > put",
            "@ > put",
            "@ > put metadata.labels.x = z",
            "@ > put metadata.annotations.x = z",
            "@ > put metadata.labels.x = \"not valid\"",
            "@ > put -metadata.resourceVersion; metadata.labels.x = z",
            "@ > put metadata.resourceVersion = \"1\"",
            "@ > put metadata.name = other",
            "@ > put metadata.uid = other",
            "@ > put metadata.generation = 7",
            "@ > put?dryRun=All metadata.labels.x = z",
        ],
    );
    add(
        "patch",
        &[
            "@ > merge {metadata: {labels: {x: z}}}",
            "@ > merge {metadata: {labels: {x: [z]}}}",
            "!@ > merge {metadata: {labels: {x: z}}}",
            "@ > strategic {metadata: {labels: {x: z}}}",
            "@ > json [{op: add, path: /metadata/labels, value: {x: z}}]",
            "@ > json [{op: test, path: /metadata/name, value: other}]",
            "@ > json [{op: nothing, path: /metadata/name}]",
            "@ > apply?fieldManager=corpus {metadata: {labels: {x: z}}}",
            "@ > apply {metadata: {labels: {x: z}}}",
        ],
    );
    add("delete", &["@ > delete", "!@ > delete", "@ > delete {preconditions: {uid: other}}", "@ > delete {propagationPolicy: Other}"]);
    // Of definitions it is left to chance whether they are still there.
    if kind.kind != "CustomResourceDefinition" {
        add("delete", &["@ > delete > get"]);
    }
    add("deletecollection", &["@ > deletecollection?labelSelector=no%3Dthing"]);
    for sub in kind.subresources.iter().filter(|s| s.kind.is_none() || s.name == "scale") {
        for (verb, step) in [("get", "get"), ("update", "put"), ("patch", "merge")] {
            if sub.verbs.contains(&verb) && sub.name != "log" {
                let body = if verb == "patch" { " {metadata: {labels: {x: z}}}" } else { "" };
                lines.push(format!("{object} > {step}/{}{body}", sub.name));
                lines.push(format!("!{object} > {step}/{}{body}", sub.name));
            }
        }
    }
    lines
}
