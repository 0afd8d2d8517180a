//! Variables of containers, by source.

use fram_machinery::object;

use super::*;

fn pod() -> Value {
    object!({ "metadata": { "namespace": "ns", "name": "p", "uid": "u", "labels": { "app": "web" }, "annotations": { "a": "x\"y\nz" } },
        "spec": { "nodeName": "n", "containers": [{ "name": "c", "resources": { "limits": { "cpu": "1500m" } } }] } })
}

fn sources() -> Sources {
    let map = object!({ "data": { "k": "v", "l": "w" } });
    let secret = object!({ "data": { "s": "c2VjcmV0" } });
    Sources::from([(Reference::ConfigMap("m".into()), Arc::new(map)), (Reference::Secret("s".into()), Arc::new(secret))])
}

fn files() -> Files {
    Files::from([(("v".into(), "f".into()), "A='1'".into()), (("v".into(), "odd".into()), "A".into())])
}

#[test]
fn a_key_of_a_file_is_a_value_and_has_to_be_there_unless_it_is_optional() {
    let of = |file: &str, key: &str, optional: bool| {
        let reference = object!({ "volumeName": "v", "path": file, "key": key, "optional": optional });
        object!({ "env": [{ "name": "V", "valueFrom": { "fileKeyRef": reference } }] })
    };
    check(of("f", "A", false), &[("V", "1")]);
    check(of("f", "B", true), &[]);
    check(of("missing", "A", true), &[]);
    let fails = |container: Value| {
        variables(&pod(), &container, &sources(), &BTreeMap::new(), &Fields::default(), &files()).unwrap_err().to_string()
    };
    assert_eq!(fails(of("f", "B", false)), "environment variable key \"B\" not found in file \"f\" of volume \"v\"");
    assert_eq!(fails(of("missing", "A", false)), "environment variable key \"A\" not found in file \"missing\" of volume \"v\"");
    assert!(fails(of("odd", "A", true)).ends_with("line 1: missing '='"));
}

#[test]
fn limits_that_a_container_lacks_are_those_of_its_pod_and_then_the_node_s() {
    let mut pod = pod();
    pod.set(&["spec", "resources", "limits", "memory"], "64Mi");
    let fields = Fields {
        allocatable: BTreeMap::from(
            [("memory".into(), 1 << 30), ("cpu".into(), 4)]
                .map(|(name, n): (String, i64)| (name, fram_machinery::quantity::Quantity::from_milli(n * 1000))),
        ),
        ..Fields::default()
    };
    let of = |resource: &str| resource_field(&pod, &object!({ "name": "c" }), &object!({ "resource": resource }), &fields).unwrap();
    assert_eq!([of("limits.memory"), of("limits.cpu"), of("requests.memory")], ["67108864", "4", "0"]);
}

#[track_caller]
fn check(container: Value, expect: &[(&str, &str)]) {
    let fields = Fields { host_ips: vec!["192.0.2.1".into()], pod_ips: vec!["10.0.0.1".into(), "fd00::1".into()], ..Default::default() };
    let services = BTreeMap::from([("SVC_SERVICE_HOST".to_string(), "10.96.0.1".to_string())]);
    let made = variables(&pod(), &container, &sources(), &services, &fields, &files()).unwrap();
    let mut expect: Vec<(String, String)> = expect.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    if !expect.iter().any(|(k, _)| k == "SVC_SERVICE_HOST") {
        expect.push(("SVC_SERVICE_HOST".into(), "10.96.0.1".into()));
    }
    assert_eq!(made, expect);
}

#[test]
fn values_refer_to_earlier_ones_and_to_services() {
    let env = object!([{ "name": "A", "value": "1" }, { "name": "B", "value": "$(A)-$(SVC_SERVICE_HOST)-$(NO)-$$(A)" }]);
    check(object!({ "env": env }), &[("A", "1"), ("B", "1-10.96.0.1-$(NO)-$(A)")]);
}

#[test]
fn a_variable_of_the_container_beats_one_of_its_sources() {
    let from = object!([{ "prefix": "P_", "configMapRef": { "name": "m" } }, { "secretRef": { "name": "s" } }]);
    let env = object!([{ "name": "P_k", "value": "own" }, { "name": "SVC_SERVICE_HOST", "value": "mine" }]);
    let expect = [("P_l", "w"), ("s", "secret"), ("P_k", "own"), ("SVC_SERVICE_HOST", "mine")];
    check(object!({ "envFrom": from, "env": env }), &expect);
}

#[test]
fn fields_and_resources_become_text() {
    let of = |path: &str| object!({ "name": "V", "valueFrom": { "fieldRef": { "fieldPath": path } } });
    for (path, value) in [
        ("metadata.name", "p"),
        ("metadata.labels['app']", "web"),
        ("metadata.annotations['a']", "x\"y\nz"),
        ("metadata.annotations", "a=\"x\\\"y\\nz\""),
        ("status.hostIP", "192.0.2.1"),
        ("status.podIPs", "10.0.0.1,fd00::1"),
        ("spec.nodeName", "n"),
    ] {
        check(object!({ "env": [(of(path))] }), &[("V", value)]);
    }
    let cpu = object!({ "name": "V", "valueFrom": { "resourceFieldRef": { "containerName": "c", "resource": "limits.cpu" } } });
    check(object!({ "env": [cpu] }), &[("V", "2")]);
    let milli =
        object!({ "name": "V", "valueFrom": { "resourceFieldRef": { "containerName": "c", "resource": "limits.cpu", "divisor": "1m" } } });
    check(object!({ "env": [milli] }), &[("V", "1500")]);
}

#[test]
fn what_is_missing_is_an_error_unless_it_is_optional() {
    let fails = |container: Value| {
        variables(&pod(), &container, &sources(), &BTreeMap::new(), &Fields::default(), &files()).unwrap_err().to_string()
    };
    let key = |name: &str, key: &str| object!({ "env": [{ "name": "V", "valueFrom": { "secretKeyRef": { "name": name, "key": key } } }] });
    assert_eq!(fails(key("x", "k")), "secret \"x\" not found");
    assert_eq!(fails(key("s", "k")), "couldn't find key k in Secret ns/s");
    let optional = object!({ "configMapKeyRef": { "name": "x", "key": "k", "optional": true } });
    check(object!({ "env": [{ "name": "V", "valueFrom": optional }] }), &[]);
}

#[test]
fn services_are_told_by_host_port_and_link() {
    let service = |namespace: &str, name: &str, ip: &str| {
        let ports = object!([{ "name": "web-ui", "port": 80, "protocol": "TCP" }]);
        Arc::new(object!({ "metadata": { "namespace": namespace, "name": name }, "spec": { "clusterIP": ip, "ports": ports } }))
    };
    let services = [service("default", "kubernetes", "10.96.0.1"), service("ns", "my-svc", "10.96.0.2"), service("ns", "headless", "None")];
    let made = service_variables(&services, &pod());
    assert_eq!(made["KUBERNETES_SERVICE_HOST"], "10.96.0.1");
    assert_eq!((made["MY_SVC_SERVICE_PORT_WEB_UI"].as_str(), made["MY_SVC_PORT_80_TCP_ADDR"].as_str()), ("80", "10.96.0.2"));
    assert_eq!((made["MY_SVC_PORT"].as_str(), made.keys().any(|k| k.starts_with("HEADLESS"))), ("tcp://10.96.0.2:80", false));
    let mut unlinked = pod();
    unlinked.set(&["spec", "enableServiceLinks"], false);
    assert!(!service_variables(&services, &unlinked).contains_key("MY_SVC_PORT"));
}
