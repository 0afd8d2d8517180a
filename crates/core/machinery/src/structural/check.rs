//! Whether a schema is structural and says nothing that contradicts itself: the rules that a CustomResourceDefinition's schema
//! is held to. See upstream's `ValidateStructural` and `ValidateCustomResourceDefinitionOpenAPISchema`.

use super::{Structural, compile, entries, texts};
use crate::status::FieldError;
use crate::value::{Key, Value};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Field,
    Item,
}

/// What is wrong with a schema; `path` is where it stands in the definition.
pub fn errors(schema: &Value, path: &str) -> Vec<FieldError> {
    let mut out = Vec::new();
    node(schema, Level::Root, path, &mut out);
    complete(schema, schema, path, &mut out);
    out.sort_by_key(ToString::to_string);
    out.dedup();
    out
}

fn flag(schema: &Value, name: &str) -> bool {
    schema.bool_at(&[name]) == Some(true)
}

fn node(schema: &Value, level: Level, path: &str, out: &mut Vec<FieldError>) {
    forbidden_everywhere(schema, path, out);
    let ty = schema.str_at(&["type"]);
    known_type(schema, level, ty, path, out);
    extensions(schema, ty, path, out);
    if level == Level::Root {
        if schema.get("additionalProperties").is_some_and(|a| !a.is_null()) {
            out.push(FieldError::forbidden(format!("{path}.additionalProperties"), "must not be used at the root"));
        }
        root_metadata(schema, path, out);
    }
    if ty == "array" && schema.get("items").is_none_or(Value::is_null) {
        out.push(FieldError::required(format!("{path}.items"), "must be specified"));
    }
    // Where anything may stand beside the properties, that says no more than no word of it.
    let closed = schema.get("additionalProperties").is_some_and(|a| !a.is_null() && a.as_bool() != Some(true));
    if closed && schema.get("properties").is_some_and(|p| !p.is_empty()) {
        out.push(FieldError::forbidden(format!("{path}.additionalProperties"), "additionalProperties and properties are mutual exclusive"));
    }
    lists(schema, ty, path, out);
    for (name, below) in entries(schema, "properties") {
        node(below, Level::Field, &format!("{path}.properties[{name}]"), out);
    }
    if let Some(below) = schema.get("items").filter(|i| i.as_map().is_some()) {
        node(below, Level::Item, &format!("{path}.items"), out);
    }
    if let Some(below) = schema.get("additionalProperties").filter(|i| i.as_map().is_some()) {
        node(below, Level::Field, &format!("{path}.additionalProperties"), out);
    }
    if let Some(default) = schema.get("default").filter(|d| !d.is_null()) {
        defaulted(schema, default, level, path, out);
    }
    junctors(schema, path, &mut |below, path, out| nested(below, path, out), out);
}

/// Parts of OpenAPI that no definition may use.
fn forbidden_everywhere(schema: &Value, path: &str, out: &mut Vec<FieldError>) {
    for name in ["definitions", "dependencies", "patternProperties"] {
        if schema.get(name).is_some_and(|v| !v.is_empty()) {
            out.push(FieldError::forbidden(format!("{path}.{name}"), &format!("{name} is not supported")));
        }
    }
    for name in ["id", "$ref"] {
        if !schema.str_at(&[name]).is_empty() {
            out.push(FieldError::forbidden(format!("{path}.{name}"), &format!("{name} is not supported")));
        }
    }
    if schema.get("additionalItems").is_some_and(|v| !v.is_null()) {
        out.push(FieldError::forbidden(format!("{path}.additionalItems"), "additionalItems is not supported"));
    }
    if flag(schema, "uniqueItems") {
        let why = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        out.push(FieldError::forbidden(format!("{path}.uniqueItems"), why));
    }
    if schema.get("items").is_some_and(|i| i.as_list().is_some()) {
        out.push(FieldError::forbidden(format!("{path}.items"), "items must be a schema object and not an array"));
    }
    let pattern = schema.str_at(&["pattern"]);
    if let Some(why) = Some(pattern).filter(|p| !p.is_empty()).and_then(|p| compile(p).err()) {
        let why = format!("must be a valid regular expression, but isn't: {why}");
        out.push(FieldError::invalid(format!("{path}.pattern"), pattern, why));
    }
}

fn known_type(schema: &Value, level: Level, ty: &str, path: &str, out: &mut Vec<FieldError>) {
    let at = format!("{path}.type");
    let open = flag(schema, "x-kubernetes-int-or-string") || flag(schema, "x-kubernetes-preserve-unknown-fields");
    if flag(schema, "x-kubernetes-embedded-resource") && ty != "object" {
        let why = "must be object if x-kubernetes-embedded-resource is true";
        out.push(if ty.is_empty() { FieldError::required(at, why) } else { FieldError::invalid(at, ty, why) });
    } else if ty.is_empty() && !open {
        let why = match level {
            Level::Root => "must not be empty at the root",
            Level::Item => "must not be empty for specified array items",
            Level::Field => "must not be empty for specified object fields",
        };
        out.push(FieldError::required(at, why));
    } else if level == Level::Root && !ty.is_empty() && ty != "object" {
        out.push(FieldError::invalid(at, ty, "must be object at the root"));
    } else if !matches!(ty, "" | "object" | "array" | "string" | "integer" | "number" | "boolean") {
        out.push(FieldError::not_supported(at, ty, &["array", "boolean", "integer", "number", "object", "string"]));
    }
}

fn extensions(schema: &Value, ty: &str, path: &str, out: &mut Vec<FieldError>) {
    let at = |name: &str| format!("{path}.{name}");
    if schema.bool_at(&["x-kubernetes-preserve-unknown-fields"]) == Some(false) {
        out.push(FieldError::invalid(at("x-kubernetes-preserve-unknown-fields"), false, "must be true or undefined"));
    }
    if flag(schema, "x-kubernetes-int-or-string") {
        if !ty.is_empty() {
            out.push(FieldError::forbidden(at("type"), "must be empty if x-kubernetes-int-or-string is true"));
        }
        for name in ["x-kubernetes-preserve-unknown-fields", "x-kubernetes-embedded-resource"] {
            if flag(schema, name) {
                out.push(FieldError::invalid(at(name), true, "must be false if x-kubernetes-int-or-string is true"));
            }
        }
    }
    if flag(schema, "x-kubernetes-embedded-resource") {
        let empty = schema.get("properties").is_none_or(Value::is_empty);
        if empty && !flag(schema, "x-kubernetes-preserve-unknown-fields") {
            let why = "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields";
            out.push(FieldError::required(at("properties"), why));
        }
        if schema.get("additionalProperties").is_some_and(|a| !a.is_null()) {
            out.push(FieldError::forbidden(at("additionalProperties"), "must not be used if x-kubernetes-embedded-resource is set"));
        }
    }
    if schema.get("x-kubernetes-map-type").is_some_and(|v| !v.is_null()) && ty != "object" {
        out.push(FieldError::invalid(at("type"), ty, "must be object if x-kubernetes-map-type is specified"));
    }
}

/// Topologies of lists: sets of scalars or atomic values, maps by keys that every element has.
fn lists(schema: &Value, ty: &str, path: &str, out: &mut Vec<FieldError>) {
    let topology = schema.str_at(&["x-kubernetes-list-type"]);
    let keys = texts(schema, "x-kubernetes-list-map-keys");
    const TOPOLOGIES: [&str; 3] = ["atomic", "map", "set"];
    if schema.get("x-kubernetes-list-type").is_some_and(|t| !t.is_null()) && !TOPOLOGIES.contains(&topology) {
        out.push(FieldError::not_supported(format!("{path}.x-kubernetes-list-type"), topology, &TOPOLOGIES));
    }
    if !topology.is_empty() && ty != "array" {
        let why = "must be array if x-kubernetes-list-type is specified";
        out.push(if ty.is_empty() {
            FieldError::required(format!("{path}.type"), why)
        } else {
            FieldError::invalid(format!("{path}.type"), ty, why)
        });
    }
    let nothing = Value::Null;
    let items = schema.get("items").unwrap_or(&nothing);
    let keys_at = format!("{path}.x-kubernetes-list-map-keys");
    if topology != "map" {
        if !keys.is_empty() {
            let wanted = if topology.is_empty() { "undefined" } else { topology };
            out.push(FieldError::forbidden(keys_at, &format!("must not be specified when x-kubernetes-list-type is {wanted}")));
        }
        let item = items.str_at(&["type"]);
        let whole = match item {
            "object" => items.str_at(&["x-kubernetes-map-type"]) == "atomic",
            "array" => matches!(items.str_at(&["x-kubernetes-list-type"]), "" | "atomic"),
            _ => true,
        };
        if topology == "set" && !whole {
            let why = "must be atomic as item of a list with x-kubernetes-list-type=set";
            out.push(FieldError::forbidden(format!("{path}.items"), why));
        }
        if topology == "set" && flag(items, "nullable") {
            let why = "cannot be nullable when x-kubernetes-list-type is set";
            out.push(FieldError::forbidden(format!("{path}.items.nullable"), why));
        }
        return;
    }
    if keys.is_empty() {
        out.push(FieldError::required(keys_at.clone(), "must not be empty if x-kubernetes-list-type is map"));
    }
    if items.str_at(&["type"]) != "object" {
        let why = "must be object if parent array's x-kubernetes-list-type is map";
        out.push(FieldError::invalid(format!("{path}.items.type"), items.str_at(&["type"]), why));
    }
    map_keys(items, &keys, path, &keys_at, out);
}

fn map_keys(items: &Value, keys: &[Key], path: &str, keys_at: &str, out: &mut Vec<FieldError>) {
    let required = texts(items, "required");
    for (i, key) in keys.iter().enumerate() {
        if keys[..i].contains(key) {
            out.push(FieldError::duplicate(format!("{keys_at}[{i}]"), key));
        }
        let Some(property) = items.at(&["properties", key]) else {
            let why = "entries must all be names of item properties";
            out.push(FieldError::invalid(format!("{keys_at}[{i}]"), key, why));
            continue;
        };
        let ty = property.str_at(&["type"]);
        if matches!(ty, "array" | "object") {
            let why = "must be a scalar type if parent array's x-kubernetes-list-type is map";
            out.push(FieldError::invalid(format!("{path}.items.properties[{key}].type"), ty, why));
        }
        if !required.contains(key) && property.get("default").is_none_or(Value::is_null) {
            let why = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
            out.push(FieldError::required(format!("{path}.items.properties[{key}].default"), why));
        }
    }
}

/// Metadata at the root may only restrict the name.
fn root_metadata(schema: &Value, path: &str, out: &mut Vec<FieldError>) {
    for name in ["kind", "apiVersion"] {
        if let Some(ty) = schema.at(&["properties", name]).map(|p| p.str_at(&["type"])).filter(|ty| *ty != "string") {
            out.push(FieldError::invalid(format!("{path}.properties[{name}].type"), ty, "must be string"));
        }
    }
    let Some(metadata) = schema.at(&["properties", "metadata"]) else { return };
    let at = format!("{path}.properties[metadata]");
    if metadata.str_at(&["type"]) != "object" {
        out.push(FieldError::invalid(format!("{at}.type"), metadata.str_at(&["type"]), "must be object"));
    }
    let only_names = entries(metadata, "properties").all(|(name, _)| matches!(name.as_str(), "name" | "generateName"));
    let only = metadata.as_map().is_none_or(|m| m.keys().all(|k| matches!(k.as_str(), "type" | "properties" | "description" | "title")));
    if !only_names || !only {
        out.push(FieldError::forbidden(
            at,
            "must not specify anything other than name and generateName, but metadata is implicitly specified",
        ));
    }
}

/// A default has to be what its own schema allows.
fn defaulted(schema: &Value, default: &Value, level: Level, path: &str, out: &mut Vec<FieldError>) {
    let at = format!("{path}.default");
    if level == Level::Item {
        out.push(FieldError::forbidden(at, "must not be set in items"));
        return;
    }
    let structural = Structural::read(schema);
    let mut whole = default.clone();
    structural.apply_defaults(&mut whole);
    for error in structural.validate(&whole, None) {
        let below = if error.field.is_empty() { at.clone() } else { format!("{at}.{}", error.field) };
        out.push(FieldError { field: below, ..error });
    }
    let mut unknown = Vec::new();
    let nothing = crate::Schema::new();
    let mut pruning = super::Pruning { schema: &nothing, metadata: None, path: String::new(), unknown: &mut unknown };
    if pruning.prune(&structural, default.clone()).is_ok() && !unknown.is_empty() {
        let why = format!("must be pruned: unknown field {:?}", unknown[0]);
        out.push(FieldError::invalid(at, default.clone(), why));
    }
}

/// Calls `each` for the schemas under `allOf`, `anyOf`, `oneOf` and `not`, but for the alternative of integer and string.
fn junctors(schema: &Value, path: &str, each: &mut dyn FnMut(&Value, &str, &mut Vec<FieldError>), out: &mut Vec<FieldError>) {
    for name in ["allOf", "anyOf", "oneOf"] {
        let all = schema.list_at(&[name]);
        if name == "anyOf" && is_int_or_string(all) {
            continue;
        }
        for (i, below) in all.iter().enumerate() {
            each(below, &format!("{path}.{name}[{i}]"), out);
        }
    }
    if let Some(below) = schema.get("not").filter(|n| n.as_map().is_some()) {
        each(below, &format!("{path}.not"), out);
    }
}

/// Whether a junctor says nothing but that a value is an integer or a string.
fn is_int_or_string(any_of: &[Value]) -> bool {
    let only = |v: &Value, ty: &str| v.as_map().is_some_and(|m| m.len() == 1) && v.str_at(&["type"]) == ty;
    matches!(any_of, [a, b] if only(a, "integer") && only(b, "string"))
}

/// A schema below a junctor only checks values; it describes nothing.
fn nested(schema: &Value, path: &str, out: &mut Vec<FieldError>) {
    let at = |name: &str| format!("{path}.{name}");
    forbidden_everywhere(schema, path, out);
    if !schema.str_at(&["type"]).is_empty() {
        out.push(FieldError::forbidden(at("type"), "must be empty to be structural"));
    }
    for name in ["additionalProperties", "default"] {
        if schema.get(name).is_some_and(|v| !v.is_null()) {
            out.push(FieldError::forbidden(at(name), "must be undefined to be structural"));
        }
    }
    for name in ["title", "description"] {
        if !schema.str_at(&[name]).is_empty() {
            out.push(FieldError::forbidden(at(name), "must be empty to be structural"));
        }
    }
    for name in ["nullable", "x-kubernetes-preserve-unknown-fields", "x-kubernetes-embedded-resource", "x-kubernetes-int-or-string"] {
        if flag(schema, name) {
            out.push(FieldError::forbidden(at(name), "must be false to be structural"));
        }
    }
    for name in ["x-kubernetes-list-map-keys", "x-kubernetes-list-type", "x-kubernetes-map-type"] {
        if schema.get(name).is_some_and(|v| !v.is_empty()) {
            out.push(FieldError::forbidden(at(name), "must be undefined to be structural"));
        }
    }
    for (name, below) in entries(schema, "properties") {
        nested(below, &format!("{path}.properties[{name}]"), out);
    }
    if let Some(below) = schema.get("items").filter(|i| i.as_map().is_some()) {
        nested(below, &at("items"), out);
    }
    junctors(schema, path, &mut nested, out);
}

/// What a junctor checks must be described outside of it as well.
fn complete(described: &Value, schema: &Value, path: &str, out: &mut Vec<FieldError>) {
    for (name, below) in entries(schema, "properties") {
        let at = format!("{path}.properties[{name}]");
        match described.at(&["properties", name]).or_else(|| described.get("additionalProperties").filter(|a| a.as_map().is_some())) {
            Some(own) => complete(own, below, &at, out),
            None => out.push(FieldError::required(at, "because it is defined in a value validation")),
        }
    }
    if let Some(below) = schema.get("items").filter(|i| i.as_map().is_some()) {
        match described.get("items") {
            Some(own) => complete(own, below, &format!("{path}.items"), out),
            None => out.push(FieldError::required(format!("{path}.items"), "because it is defined in a value validation")),
        }
    }
    if let Some(below) = schema.get("additionalProperties").filter(|i| i.as_map().is_some())
        && std::ptr::eq(described, schema)
    {
        complete(below, below, &format!("{path}.additionalProperties"), out);
    }
    junctors(schema, path, &mut |below, path, out| complete(described, below, path, out), out);
}

/// The formats in a schema that are not checked, of which the author is warned.
pub fn unknown_formats(schema: &Value, out: &mut Vec<String>) {
    let format = schema.str_at(&["format"]);
    if !format.is_empty() && !super::format::is_known(format) && !out.iter().any(|f| f == format) {
        out.push(format.to_string());
    }
    entries(schema, "properties").for_each(|(_, below)| unknown_formats(below, out));
    for name in ["items", "additionalProperties", "not"] {
        if let Some(below) = schema.get(name).filter(|b| b.as_map().is_some()) {
            unknown_formats(below, out);
        }
    }
    for name in ["allOf", "anyOf", "oneOf"] {
        schema.list_at(&[name]).iter().for_each(|below| unknown_formats(below, out));
    }
}
