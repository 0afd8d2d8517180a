//! OpenAPI v2 documents of several servers as one. Pure; see kube-openapi's aggregator.

use std::collections::{BTreeMap, BTreeSet};

use fram_machinery::{Map, Value, object};

const DEFINITIONS: &str = "#/definitions/";

/// The part of a document about the paths below a prefix, with the definitions that these need; see FilterSpecByPaths.
pub(crate) fn about(document: &Value, prefix: &str) -> Value {
    let nothing = Map::new();
    let members = |field: &str| document.get(field).and_then(Value::as_map).unwrap_or(&nothing);
    let mut paths = members("paths").clone();
    paths.retain(|path, _| path.as_str().starts_with(prefix));
    let paths = Value::from(paths);
    let mut needed = BTreeSet::new();
    let mut waiting = Vec::new();
    references(&paths, &mut waiting);
    while let Some(name) = waiting.pop() {
        if let (true, Some(definition)) = (needed.insert(name.clone()), members("definitions").get(&name)) {
            references(definition, &mut waiting);
        }
    }
    let mut definitions = members("definitions").clone();
    definitions.retain(|name, _| needed.contains(name.as_str()));
    object!({ "paths": paths, "definitions": definitions, "parameters": (members("parameters").clone()) })
}

/// The names of the definitions that a part of a document refers to.
fn references(value: &Value, out: &mut Vec<String>) {
    match value {
        Value::Map(map) => {
            for (key, member) in map.iter() {
                match member.as_str().and_then(|text| text.strip_prefix(DEFINITIONS)).filter(|_| key.as_str() == "$ref") {
                    Some(name) => out.push(name.to_string()),
                    None => references(member, out),
                }
            }
        }
        Value::List(list) => list.iter().for_each(|item| references(item, out)),
        _ => {}
    }
}

/// Adds a document to another one. What the other one has already stays; a definition of the same name that says something else gets
/// another name. See MergeSpecsIgnorePathConflictRenamingDefinitionsAndParameters.
pub(crate) fn add(into: &mut Value, other: &Value) {
    let nothing = Map::new();
    let theirs = other.get("definitions").and_then(Value::as_map).unwrap_or(&nothing);
    let mut renamed: BTreeMap<&str, String> = BTreeMap::new();
    {
        let own = into.get("definitions").and_then(Value::as_map).unwrap_or(&nothing);
        for (name, definition) in theirs.iter().filter(|(name, d)| own.get(name.as_str()).is_some_and(|o| o != *d)) {
            let free = |n: &u32| own.get(&format!("{name}_v{n}")).is_none_or(|o| o == definition);
            let number = (2..).find(free).unwrap_or(2);
            renamed.insert(name.as_str(), format!("{name}_v{number}"));
        }
    }
    let definitions = into.place(&["definitions"]).make_map();
    for (name, definition) in theirs.iter() {
        let name = renamed.get(name.as_str()).map_or(name.as_str(), String::as_str);
        if !definitions.contains(name) {
            definitions.insert(name.to_string(), refer(definition, &renamed));
        }
    }
    // Their names tell what they say, so that the same name is the same parameter.
    for (name, parameter) in other.get("parameters").and_then(Value::as_map).unwrap_or(&nothing).iter() {
        if into.at(&["parameters", name.as_str()]).is_none() {
            into.set(&["parameters", name.as_str()], refer(parameter, &renamed));
        }
    }
    let paths = into.place(&["paths"]).make_map();
    for (path, item) in other.get("paths").and_then(Value::as_map).unwrap_or(&nothing).iter() {
        if !paths.contains(path.as_str()) {
            paths.insert(path, refer(item, &renamed));
        }
    }
}

/// The same with references to definitions by their new names.
fn refer(value: &Value, renamed: &BTreeMap<&str, String>) -> Value {
    if renamed.is_empty() {
        return value.clone();
    }
    match value {
        Value::Map(map) => {
            let member = |(key, member): (&fram_machinery::Key, &Value)| {
                let name = member.as_str().and_then(|text| text.strip_prefix(DEFINITIONS)).filter(|_| key.as_str() == "$ref");
                match name.and_then(|name| renamed.get(name)) {
                    Some(name) => (key.clone(), Value::from(format!("{DEFINITIONS}{name}"))),
                    None => (key.clone(), refer(member, renamed)),
                }
            };
            Value::Map(map.iter().map(member).collect())
        }
        Value::List(list) => list.iter().map(|item| refer(item, renamed)).collect::<Vec<_>>().into(),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(name: &str) -> Value {
        object!({ "$ref": (format!("{DEFINITIONS}{name}")) })
    }

    #[test]
    fn only_what_the_paths_need_is_taken() {
        let document = object!({
            "paths": { "/apis/a/v1/x": { "get": (reference("A")) }, "/apis/b/v1/y": { "get": (reference("C")) } },
            "definitions": { "A": { "p": (reference("B")) }, "B": { "p": (reference("A")) }, "C": {} }
        });
        let about = about(&document, "/apis/a/v1/");
        assert_eq!(about.get("paths"), Some(&object!({ "/apis/a/v1/x": { "get": (reference("A")) } })));
        assert_eq!(about.get("definitions").and_then(Value::as_map).unwrap().keys().map(|k| k.as_str()).collect::<Vec<_>>(), ["A", "B"]);
    }

    #[test]
    fn parameters_come_along_with_the_operations_that_refer_to_them() {
        let parameter = || object!({ "in": "query", "name": "limit" });
        let theirs = object!({ "paths": { "/apis/a/v1/x": {} }, "parameters": { "limit-1": (parameter()) } });
        let mut own = object!({ "paths": {}, "definitions": {}, "parameters": { "limit": { "name": "own" } } });
        add(&mut own, &about(&theirs, "/apis/a/v1/"));
        assert_eq!(own.get("parameters"), Some(&object!({ "limit": { "name": "own" }, "limit-1": (parameter()) })));
    }

    #[test]
    fn definitions_that_differ_get_another_name() {
        let mut own = object!({ "paths": { "/p": {} }, "definitions": { "A": { "x": 1 }, "B": {}, "A_v2": { "x": 2 } } });
        let other = object!({ "paths": { "/p": { "y": 1 }, "/q": (reference("A")) },
            "definitions": { "A": { "x": 3, "p": (reference("A")) }, "B": {}, "C": (reference("A")) } });
        add(&mut own, &other);
        assert_eq!(
            own,
            object!({ "paths": { "/p": {}, "/q": (reference("A_v3")) }, "definitions": {
                "A": { "x": 1 }, "B": {}, "A_v2": { "x": 2 }, "A_v3": { "x": 3, "p": (reference("A_v3")) }, "C": (reference("A_v3")) } })
        );
    }
}
