//! The built-in kinds, and every golden file through every encoding.

use super::*;
use fram_machinery::{Value, json, normalize, object, protobuf};

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

/// The cells that a kind works out itself, in the order of its columns.
fn cells(group: &str, version: &str, kind: &str, object: &Value) -> Vec<String> {
    let api = Api::chosen(&"api/all=true".parse().unwrap()).unwrap();
    let kind = api.kind(group, version, kind).unwrap();
    let computed = kind.columns.iter().filter(|column| matches!(column.cell, Cell::Computed));
    let text = |value: Value| value.as_str().map_or_else(|| json::to_string(&value), String::from);
    computed.map(|column| text(strategy(kind).cell(object, &column.name))).collect()
}

#[test]
fn cells_of_tables_say_what_upstreams_printers_say() {
    let selector = object!({ "matchLabels": { "a": "b" }, "matchExpressions": [{ "key": "A", "operator": "Exists" }] });
    let rules = object!([{ "host": "a" }, { "host": "b" }, { "host": "c" }, { "host": "d" }]);
    let pods = object!({ "type": "Pods", "pods": { "metric": { "name": "x" }, "target": { "averageValue": "10" } } });
    let external = object!({ "type": "External", "external": { "target": { "averageValue": "5" } } });
    let now = object!([{ "type": "Pods", "pods": { "current": { "averageValue": "7" } } }]);
    let event = object!({ "involvedObject": { "kind": "Pod", "name": "p" }, "message": " m\n", "reportingComponent": "c", "reportingInstance": "i",
        "firstTimestamp": "t1", "count": 0 });
    let new_event = object!({ "regarding": { "kind": "Pod", "name": "p" }, "note": "m", "deprecatedSource": { "component": "c" },
        "deprecatedLastTimestamp": "t2", "deprecatedFirstTimestamp": "t1", "deprecatedCount": 3 });
    let classes = object!({ "metadata": { "name": "c", "annotations": { "ingressclass.kubernetes.io/is-default-class": "true" } },
        "spec": { "parameters": { "apiGroup": "g.io", "kind": "P", "name": "n" } } });
    let quota = object!({ "status": { "hard": { "limits.cpu": "2", "pods": "3", "requests.cpu": "1" }, "used": { "pods": "1" } } });
    let template = object!({ "template": { "metadata": { "labels": { "a": "b", "c": "d" } },
        "spec": { "containers": [{ "name": "x", "image": "i" }, { "name": "y", "image": "j" }] } } });
    let owned =
        object!({ "metadata": { "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "DaemonSet", "name": "d", "controller": true }] } });
    let driver =
        object!({ "spec": { "tokenRequests": [{ "audience": "a" }, { "audience": "b" }], "volumeLifecycleModes": ["Persistent"] } });
    let node = object!({ "metadata": { "labels": { "node-role.kubernetes.io/z": "", "kubernetes.io/role": "a" } } });
    for (group, version, kind, object, expect) in [
        (
            "networking.k8s.io",
            "v1",
            "Ingress",
            object!({ "spec": { "rules": rules, "tls": [{}] } }),
            &["a,b,c + 1 more...", "", "80, 443"] as &[&str],
        ),
        (
            "networking.k8s.io",
            "v1",
            "Ingress",
            object!({ "status": { "loadBalancer": { "ingress": [{ "ip": "1" }, { "hostname": "h" }] } } }),
            &["*", "1,h", "80"],
        ),
        ("networking.k8s.io", "v1", "IngressClass", classes, &["c (default)", "P.g.io/n"]),
        ("networking.k8s.io", "v1", "NetworkPolicy", object!({ "spec": { "podSelector": selector } }), &["A,a=b"]),
        ("networking.k8s.io", "v1", "ServiceCIDR", object!({ "spec": { "cidrs": ["a", "b"] } }), &["a,b"]),
        ("", "v1", "ResourceQuota", quota, &["pods: 1/3, requests.cpu: 0/1", "limits.cpu: 0/2"]),
        ("", "v1", "ResourceQuota", object!({}), &["", ""]),
        ("", "v1", "PodTemplate", template, &["x,y", "i,j", "a=b,c=d"]),
        ("", "v1", "Node", node, &["Unknown", "a,z", "<none>", "<none>", "<unknown>"]),
        ("", "v1", "Event", event, &["t1", "pod/p", "c, i", "m", "t1", "1"]),
        ("events.k8s.io", "v1", "Event", new_event, &["t2", "pod/p", "c", "m", "t1", "3"]),
        ("apps", "v1", "ControllerRevision", owned, &["daemonset.apps/d"]),
        ("batch", "v1", "CronJob", object!({ "spec": { "suspend": true } }), &["True", "0", "<none>", "", "", "<none>"]),
        ("storage.k8s.io", "v1", "CSIDriver", driver, &["a,b", "Persistent"]),
        ("storage.k8s.io", "v1", "CSIDriver", object!({}), &["<unset>", "<none>"]),
        ("storage.k8s.io", "v1", "CSINode", object!({ "spec": { "drivers": [{}] } }), &["1"]),
        (
            "flowcontrol.apiserver.k8s.io",
            "v1",
            "FlowSchema",
            object!({ "status": { "conditions": [{ "type": "Dangling", "status": "True" }] } }),
            &["True"],
        ),
        ("flowcontrol.apiserver.k8s.io", "v1", "FlowSchema", object!({}), &["?"]),
        (
            "",
            "v1",
            "Node",
            object!({ "status": { "nodeInfo": { "kernelVersion": "6.1", "architecture": "amd64" } } }),
            &["Unknown", "<none>", "<none>", "<none>", "6.1 (amd64)"],
        ),
        (
            "autoscaling",
            "v2",
            "HorizontalPodAutoscaler",
            object!({ "spec": { "metrics": [pods, external] }, "status": { "currentMetrics": now } }),
            &["/", "7/10, <unknown>/5 (avg)"],
        ),
    ] {
        assert_eq!(cells(group, version, kind, &object), expect, "{kind}");
    }
}

#[test]
fn what_has_no_effect_is_warned_of() {
    let api = Api::builtin().unwrap();
    let warned = |group: &str, kind: &str, object: Value| strategy(api.kind(group, "v1", kind).unwrap()).warnings(&object, None);
    let service = |spec: Value| warned("", "Service", object!({ "spec": spec }));
    let ips = || object!(["1.2.3.4"]);
    assert_eq!(
        service(object!({ "type": "ClusterIP", "clusterIP": "None", "externalIPs": (ips()) })),
        ["spec.externalIPs is ignored for headless services"]
    );
    let deprecated = "spec.externalIPs is deprecated and may no longer be implemented in some clusters";
    assert_eq!(service(object!({ "type": "LoadBalancer", "externalIPs": (ips()) })), [deprecated]);
    assert_eq!(service(object!({ "type": "ExternalName", "externalName": "a", "externalIPs": (ips()) })).len(), 1);
    assert!(service(object!({ "type": "ClusterIP", "clusterIP": "10.0.0.1" })).is_empty());
    assert_eq!(warned("storage.k8s.io", "CSIDriver", object!({ "spec": { "tokenRequests": [{ "audience": "a" }] } })).len(), 1);
    assert!(warned("storage.k8s.io", "CSIDriver", object!({ "spec": {} })).is_empty());
    let driver = strategy(api.kind("storage.k8s.io", "v1", "CSIDriver").unwrap());
    let asks = |audience: &str| object!({ "spec": { "tokenRequests": [{ "audience": audience }] } });
    assert_eq!([asks("a"), asks("b")].map(|old| driver.warnings(&asks("a"), Some(&old)).len()), [0, 1]);
}
