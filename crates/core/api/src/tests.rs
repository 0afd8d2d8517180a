//! The built-in kinds, and every golden file through every encoding.

use super::*;
use fram_machinery::{json, normalize, object, protobuf};

#[test]
fn the_descriptions_are_well_formed() {
    let api = Api::builtin().unwrap();
    assert!(api.resource("", "v1", "pods").unwrap().graceful);
    assert_eq!(api.resource("apps", "v1", "deployments").unwrap().short, ["deploy"]);
    for kind in api.kinds() {
        assert!(kind.plural.is_empty() || !kind.verbs.is_empty(), "{} has no verbs", kind.kind);
    }
}

#[test]
fn a_pod_is_decoded_as_go_would_write_it() {
    let api = Api::builtin().unwrap();
    let pod = api.kind("", "v1", "Pod").unwrap();
    let input = object!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "x", "labels": {} },
        "spec": { "containers": [{ "name": "a", "bogus": 1, "resources": { "limits": { "cpu": "0.5" } } }], "hostNetwork": false } });
    let decoded = normalize::decode(&api.schema, pod.ty, input).unwrap();
    assert_eq!(decoded.unknown, ["spec.containers[0].bogus"]);
    let expect = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"x"},"spec":{"containers":[{"name":"a","resources":{"limits":{"cpu":"500m"}}}]},"status":{}}"#;
    assert_eq!(json::to_string(&decoded.value), expect);
    let mut value = decoded.value;
    normalize::apply_defaults(&api.schema, pod.ty, &mut value);
    assert_eq!(value.str_at(&["spec", "restartPolicy"]), "Always");
    assert_eq!(value.int_at(&["spec", "terminationGracePeriodSeconds"]), Some(30));
}

#[test]
fn a_value_of_the_wrong_type_is_named_with_its_path() {
    let api = Api::builtin().unwrap();
    let ty = api.kind("apps", "v1", "Deployment").unwrap().ty;
    let error = normalize::decode(&api.schema, ty, object!({ "spec": { "replicas": "3" } })).unwrap_err();
    assert_eq!(error.to_string(), "json: cannot unmarshal string into Go struct field spec.replicas of type int32");
}

/// The folder of golden files, where there is one; see CONTRIBUTING.md.
fn golden() -> Option<std::path::PathBuf> {
    let folder = std::env::var_os("FRAM_GOLDEN")?;
    Some(std::path::PathBuf::from(folder).join("api-testdata"))
}

#[test]
fn every_golden_file_of_a_served_kind_goes_through_all_encodings_without_loss() {
    let Some(folder) = golden() else {
        println!("FRAM_GOLDEN is not set: no golden file was read");
        return;
    };
    let api = Api::chosen(&"api/all=true".parse().unwrap()).unwrap();
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "json") && check_golden(&api, &path) {
            count += 1;
        }
    }
    assert!(count > 100, "only {count} golden files belong to a served kind");
}

/// Checks one object in its three encodings; false where its kind is not served.
fn check_golden(api: &Api, path: &std::path::Path) -> bool {
    let input = json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let (group, version) = input.str_at(&["apiVersion"]).split_once('/').unwrap_or(("", input.str_at(&["apiVersion"])));
    let Some(kind) = api.kind(group, version, input.str_at(&["kind"])) else { return false };
    let name = path.display();
    let decoded = normalize::decode(&api.schema, kind.ty, input.clone()).unwrap();
    assert!(decoded.unknown.is_empty(), "{name}: unknown fields {:?}", decoded.unknown);
    assert_eq!(decoded.value, input, "{name}: JSON");
    let whole = kind.is("apiextensions.k8s.io", "CustomResourceDefinition");
    assert!(whole || normalize::is_formed(&api.schema, kind.ty, &input, false), "{name}: taken for an object that decoding changes");
    let text = std::fs::read_to_string(path.with_extension("yaml")).unwrap();
    let yaml = normalize::decode(&api.schema, kind.ty, fram_machinery::yaml::from_str(&text).unwrap()).unwrap().value;
    assert_eq!(yaml, input, "{name}: YAML");
    let again = fram_machinery::yaml::from_str(&fram_machinery::yaml::to_string(&input).unwrap()).unwrap();
    assert_eq!(again, input, "{name}: YAML written and read again");
    let bytes = std::fs::read(path.with_extension("pb")).unwrap();
    let envelope = protobuf::open(&bytes).unwrap();
    let mut value = protobuf::decode(&api.schema, kind.ty, envelope.raw).unwrap();
    value.set(&["apiVersion"], envelope.api_version.as_str());
    value.set(&["kind"], envelope.kind.as_str());
    let value = normalize::decode(&api.schema, kind.ty, value).unwrap().value;
    assert_eq!(value, input, "{name}: protobuf");
    let raw = protobuf::encode(&api.schema, kind.ty, &input);
    assert!(protobuf::seal(&envelope.api_version, &envelope.kind, &raw) == bytes, "{name}: protobuf bytes differ");
    true
}
