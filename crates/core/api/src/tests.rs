use super::*;
use fram_machinery::{json, normalize, object};

#[test]
fn the_descriptions_are_well_formed() {
    let api = Api::builtin().unwrap();
    assert!(api.resource("", "v1", "pods").unwrap().graceful);
    assert_eq!(api.resource("apps", "v1", "deployments").unwrap().short, ["deploy"]);
    for kind in &api.kinds {
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
