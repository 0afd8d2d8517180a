//! Kinds from definitions.

use fram_machinery::object;

use super::*;
use crate::Api;

fn definition() -> Value {
    let mut out = object!({
        "metadata": { "name": "foos.example.com", "generation": 1 },
        "spec": {
            "group": "example.com", "scope": "Namespaced", "names": { "plural": "foos", "singular": "foo", "kind": "Foo", "listKind": "FooList" },
            "versions": [{
                "name": "v1", "served": true, "storage": true, "subresources": { "status": {}, "scale": { "specReplicasPath": ".spec.n", "statusReplicasPath": ".status.n" } },
                "selectableFields": [{ "jsonPath": ".spec.color" }],
                "schema": { "openAPIV3Schema": { "type": "object", "properties": { "spec": { "type": "object", "properties": {
                    "color": { "type": "string", "default": "red" }, "n": { "type": "integer", "minimum": 1 },
                    "any": { "type": "object", "x-kubernetes-preserve-unknown-fields": true }
                } } } } }
            }]
        }
    });
    out.set(&["status"], status::plan(&out, &[], "t"));
    out
}

#[test]
fn a_definition_becomes_a_kind_that_is_found() {
    let api = Api::builtin().unwrap();
    let next = api.with(Arc::new(CustomResource::read(&api.schema, &definition()).unwrap()));
    assert!(api.resource("example.com", "v1", "foos").is_none());
    let kind = next.resource("example.com", "v1", "foos").unwrap();
    assert_eq!(kind.selectable, ["metadata.name", "metadata.namespace", "spec.color"]);
    assert_eq!(next.kind("example.com", "v1", "Foo").unwrap().plural, "foos");
    assert_eq!(next.storage_of(kind).version, "v1");
    assert!(next.without("example.com", "foos").kind("example.com", "v1", "Foo").is_none());
}

#[test]
fn objects_are_pruned_defaulted_and_checked_by_the_definition() {
    use fram_machinery::normalize;
    let api = Api::builtin().unwrap();
    let custom = CustomResource::read(&api.schema, &definition()).unwrap();
    let kind = &custom.stored;
    let object = object!({ "apiVersion": "example.com/v1", "kind": "Foo", "metadata": { "name": "x", "bad": 1 },
        "spec": { "n": 0, "other": 2, "any": { "deep": { "er": 1 } } } });
    let decoded = normalize::decode(&kind.schema, kind.ty, object).unwrap();
    assert_eq!(decoded.unknown, ["metadata.bad", "spec.other"]);
    let mut value = decoded.value;
    normalize::apply_defaults(&kind.schema, kind.ty, &mut value);
    assert_eq!(value.str_at(&["spec", "color"]), "red");
    assert_eq!(value.int_at(&["spec", "any", "deep", "er"]), Some(1));
    let errors = kind.structural().unwrap().validate(&value, None);
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(texts, ["spec.n: Invalid value: 0: spec.n in body should be greater than or equal to 1"]);
}
