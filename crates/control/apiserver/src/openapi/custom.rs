//! Schemas of custom resources: what the author of the definition wrote, with what every object has, and in version 2 without
//! what that version cannot say. See upstream's builder of CRD OpenAPI and ToStructuralOpenAPIV2.

use fram_api::Custom;
use fram_machinery::{Map, Value, json, object};

use super::schema::Dialect;

/// The schema of a kind; `metadata` is a reference to that of ObjectMeta, `own` the schemas of `apiVersion` and `kind`.
pub(super) fn schema(custom: &Custom, dialect: Dialect, metadata: Value, own: [Value; 2]) -> Value {
    let written = json::from_slice(&custom.openapi).unwrap_or_default();
    let open = written.bool_at(&[PRESERVE]) == Some(true);
    if written.is_null() || matches!(dialect, Dialect::V2) && open {
        return object!({ "type": "object" });
    }
    let mut schema = match dialect {
        Dialect::V2 => version_2(&written),
        Dialect::V3 => written,
    };
    embedded(&mut schema, dialect, &metadata, &own);
    let mut metadata_here = match dialect {
        Dialect::V2 => metadata,
        Dialect::V3 => object!({ "allOf": [metadata] }),
    };
    metadata_here.set(&["description"], METADATA);
    schema.set(&["properties", "metadata"], metadata_here);
    schema
}

const PRESERVE: &str = "x-kubernetes-preserve-unknown-fields";
/// Its first words are what upstream's conformance test of `kubectl explain` looks for.
const METADATA: &str = "Standard object's metadata: its name, labels, owners and more.";

/// Changes every schema below a schema, and that itself.
fn each(schema: &mut Value, change: &mut dyn FnMut(&mut Value)) {
    if let Some(Value::Map(properties)) = schema.get("properties").cloned() {
        let mut changed = Map::new();
        for (name, mut below) in properties.into_entries() {
            each(&mut below, change);
            changed.insert(name, below);
        }
        schema.set(&["properties"], changed);
    }
    for name in ["items", "additionalProperties"] {
        if let Some(mut below) = schema.get(name).filter(|b| b.as_map().is_some()).cloned() {
            each(&mut below, change);
            schema.set(&[name], below);
        }
    }
    change(schema);
}

/// Adds to embedded resources what they are expected to have.
fn embedded(schema: &mut Value, dialect: Dialect, metadata: &Value, own: &[Value; 2]) {
    each(schema, &mut |schema| {
        let open = schema.bool_at(&[PRESERVE]) == Some(true);
        if schema.bool_at(&["x-kubernetes-embedded-resource"]) != Some(true) || open && matches!(dialect, Dialect::V2) {
            return;
        }
        schema.set(&["properties", "apiVersion"], own[0].clone());
        schema.set(&["properties", "kind"], own[1].clone());
        schema.set(&["properties", "metadata"], metadata.clone());
        let required = schema.place(&["required"]).make_list();
        for name in ["kind", "apiVersion"] {
            if !required.iter().any(|r| r.as_str() == Some(name)) {
                required.push(name.into());
            }
        }
    });
}

/// A schema as version 2 can say it, so that clients of that version do not refuse what the server takes.
fn version_2(schema: &Value) -> Value {
    let mut out = schema.clone();
    each(&mut out, &mut |schema| {
        let nullable: Vec<String> = schema
            .get("properties")
            .and_then(Value::as_map)
            .into_iter()
            .flat_map(|m| m.iter())
            .filter(|(_, below)| below.bool_at(&["x-was-nullable"]) == Some(true))
            .map(|(name, _)| name.to_string())
            .collect();
        let Value::Map(map) = schema else { return };
        ["allOf", "oneOf", "anyOf", "not"].iter().for_each(|name| drop(map.remove(name)));
        let is = |map: &Map, name: &str| map.get(name).and_then(Value::as_bool) == Some(true);
        let is_nullable = is(map, "nullable");
        if is_nullable {
            ["type", "nullable", "items", "properties"].iter().for_each(|name| drop(map.remove(name)));
        }
        if is(map, PRESERVE) {
            ["items", "properties"].iter().for_each(|name| drop(map.remove(name)));
        }
        let ty = map.get("type").and_then(Value::as_str).unwrap_or_default().to_string();
        if ty == "array" && !map.contains("items") || ty == "object" && is(map, PRESERVE) {
            map.remove("type");
        }
        if let Some(Value::List(required)) = map.get("required").cloned().filter(|_| !nullable.is_empty()) {
            let kept: Vec<Value> = required.iter().filter(|r| !nullable.iter().any(|n| r.as_str() == Some(n.as_str()))).cloned().collect();
            if kept.is_empty() { drop(map.remove("required")) } else { map.insert("required", kept) }
        }
        if is_nullable {
            map.insert("x-was-nullable", true);
        }
    });
    // The mark was for the schema around it only.
    each(&mut out, &mut |schema| drop(schema.remove(&["x-was-nullable"])));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_2_forgets_what_it_cannot_say() {
        let schema = object!({ "type": "object", "required": ["a", "b"], "properties": {
            "a": { "type": "array", "nullable": true, "items": { "type": "string" } },
            "b": { "type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": { "c": { "type": "string" } } },
            "c": { "type": "string", "anyOf": [{ "minLength": 1 }] } } });
        let expect = object!({ "type": "object", "required": ["b"], "properties": {
            "a": {}, "b": { "x-kubernetes-preserve-unknown-fields": true }, "c": { "type": "string" } } });
        assert_eq!(version_2(&schema), expect);
    }
}
