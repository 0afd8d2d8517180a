//! Answers that kubectl and scripts look at to the letter: refusals, tables of subresources, dry runs, text for people.

use fram_machinery::{Value, object};
use http::Request;
use http_body_util::{BodyExt, Full};

use crate::site::{Site, request};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";

async fn ask(site: &Site, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> (u16, String) {
    let client = site.client("admin", &["system:masters"]);
    let request = headers.iter().fold(Request::builder().method(method).uri(path), |request, (name, value)| request.header(*name, *value));
    let response = client.request(request.body(Full::new(body.to_string().into())).unwrap()).await.unwrap();
    let status = response.status().as_u16();
    (status, String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap())
}

fn parsed(text: &str) -> Value {
    fram_machinery::json::from_slice(text.as_bytes()).unwrap()
}

async fn message(site: &Site, method: &str, path: &str, media: &str, body: &str) -> String {
    let (_, text) = ask(site, method, path, &[("content-type", media)], body).await;
    parsed(&text).str_at(&["message"]).to_string()
}

fn deployment() -> String {
    let pod = object!({ "metadata": { "labels": { "a": "b" } }, "spec": { "containers": [{ "name": "c", "image": "i" }] } });
    let spec = object!({ "replicas": 3, "selector": { "matchLabels": { "a": "b" } }, "template": pod });
    fram_machinery::json::to_string(&object!({ "metadata": { "name": "d" }, "spec": spec }))
}

#[tokio::test]
async fn what_tells_no_kind_is_refused_with_its_beginning() {
    let site = Site::start(|server| server).await;
    let told = message(&site, "POST", "/api/v1/namespaces", "application/json", "apiVersion: v1\nkind: Pod\n").await;
    assert!(told.starts_with("the object provided is unrecognized (must be of type Namespace): "), "{told}");
    assert!(told.ends_with("(61706956657273696f6e3a2076310a6b696e643a20506f640a)"), "{told}");
    let told = message(&site, "POST", MAPS, "application/json", "{\"metadata\": {\"name\": \"aaaaaaaaaaaaaaaaaaa\"").await;
    assert!(told.ends_with("({\"metadata\": {\"name\": \"aaaaaaa ...)"), "{told}");
}

#[tokio::test]
async fn a_patch_that_leaves_another_sort_of_value_is_refused_in_the_words_of_its_decoder() {
    let site = Site::start(|server| server).await;
    assert_eq!(ask(&site, "POST", DEPLOYMENTS, &[("content-type", "application/json")], &deployment()).await.0, 201);
    let path = format!("{DEPLOYMENTS}/d");
    for (media, expect) in [
        ("application/strategic-merge-patch+json", "cannot restore map from string"),
        ("application/merge-patch+json", "json: cannot unmarshal string into Go struct field metadata.labels of type map"),
    ] {
        let told = message(&site, "PATCH", &path, media, r#"{"metadata":{"labels":"x"}}"#).await;
        assert!(told.ends_with(expect), "{told}");
    }
}

#[tokio::test]
async fn a_dry_run_finds_what_is_there() {
    let site = Site::start(|server| server).await;
    let map = r#"{"metadata":{"name":"x"}}"#;
    let dry = format!("{MAPS}?dryRun=All");
    for (path, expect) in [(dry.as_str(), 201), (dry.as_str(), 201), (MAPS, 201), (dry.as_str(), 409)] {
        assert_eq!(ask(&site, "POST", path, &[("content-type", "application/json")], map).await.0, expect, "{path}");
    }
}

#[tokio::test]
async fn a_scale_has_a_table() {
    let site = Site::start(|server| server).await;
    assert_eq!(ask(&site, "POST", DEPLOYMENTS, &[("content-type", "application/json")], &deployment()).await.0, 201);
    let (status, text) = ask(&site, "GET", &format!("{DEPLOYMENTS}/d/scale"), &[("accept", TABLE)], "").await;
    let table = parsed(&text);
    let names: Vec<&str> = table.list_at(&["columnDefinitions"]).iter().map(|c| c.str_at(&["name"])).collect();
    assert_eq!((status, names), (200, vec!["Name", "Desired", "Available", "Age"]), "{text}");
    let cells = table.list_at(&["rows"])[0].list_at(&["cells"]);
    assert_eq!(cells[..3], [Value::from("d"), Value::Int(3), Value::Int(0)]);
}

#[tokio::test]
async fn people_get_indented_json_and_programs_do_not() {
    let site = Site::start(|server| server).await;
    let path = "/api/v1/namespaces/default";
    let (_, people) = ask(&site, "GET", path, &[("user-agent", "curl/8")], "").await;
    let (_, program) = ask(&site, "GET", path, &[("user-agent", "kubectl/v1.36.2")], "").await;
    assert!(people.starts_with("{\n  \""), "{people}");
    assert!(program.starts_with("{\"") && !program.trim_end().contains('\n'), "{program}");
    assert_eq!(parsed(&people), parsed(&program));
    let (status, refused) = ask(&site, "GET", &format!("{MAPS}/nope?pretty=1"), &[], "").await;
    assert!(status == 404 && refused.contains("\n  \"reason\": \"NotFound\""), "{refused}");
}

#[tokio::test]
async fn fields_that_nobody_can_select_by_are_named() {
    let site = Site::start(|server| server).await;
    let told = message(&site, "GET", "/api/v1/pods?fieldSelector=spec.nope%3Dx", "", "").await;
    assert_eq!(told, "field label not supported: spec.nope");
    let told = message(&site, "GET", "/api/v1/configmaps?fieldSelector=data%3Dx", "", "").await;
    assert_eq!(told, "\"data\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"");
}

#[tokio::test]
async fn who_patches_an_object_may_hand_its_fields_over() {
    let site = Site::start(|server| server).await;
    let map = r#"{"metadata":{"name":"x"},"data":{"a":"b"}}"#;
    assert_eq!(ask(&site, "POST", &format!("{MAPS}?fieldManager=old"), &[("content-type", "application/json")], map).await.0, 201);
    let entry = r#"{"manager":"new","operation":"Apply","apiVersion":"v1","fieldsType":"FieldsV1","fieldsV1":{"f:data":{"f:a":{}}}}"#;
    let patch = format!(r#"[{{"op":"replace","path":"/metadata/managedFields","value":[{entry}]}}]"#);
    let path = format!("{MAPS}/x");
    let (status, text) = ask(&site, "PATCH", &path, &[("content-type", "application/json-patch+json")], &patch).await;
    let managers = |text: &str| -> Vec<String> {
        parsed(text).list_at(&["metadata", "managedFields"]).iter().map(|e| e.str_at(&["manager"]).to_string()).collect()
    };
    assert_eq!((status, managers(&text)), (200, vec!["new".to_string()]), "{text}");
    let none = r#"{"metadata":{"managedFields":[{}]}}"#;
    ask(&site, "PATCH", &path, &[("content-type", "application/merge-patch+json")], none).await;
    let (_, text) = ask(&site, "GET", &path, &[], "").await;
    assert!(managers(&text).is_empty(), "{text}");
}

#[tokio::test]
async fn who_puts_an_object_with_no_owners_takes_them_all_away() {
    let site = Site::start(|server| server).await;
    let json = [("content-type", "application/json")];
    let map = r#"{"metadata":{"name":"x"},"data":{"a":"b"}}"#;
    let (_, made) = ask(&site, "POST", &format!("{MAPS}?fieldManager=old"), &json, map).await;
    assert_eq!(parsed(&made).list_at(&["metadata", "managedFields"]).len(), 1);
    let without = r#"{"metadata":{"name":"x","managedFields":[]},"data":{"a":"c"}}"#;
    let (status, text) = ask(&site, "PUT", &format!("{MAPS}/x"), &json, without).await;
    assert!(status == 200 && parsed(&text).at(&["metadata", "managedFields"]).is_none(), "{text}");
}

#[tokio::test]
async fn who_changes_an_object_is_warned_as_who_makes_it() {
    let site = Site::start(|server| server).await;
    let client = site.client("admin", &["system:masters"]);
    let warned = async |method: &str, path: &str, media: &str, body: &str| -> usize {
        let request = Request::builder().method(method).uri(path).header("content-type", media);
        let response = client.request(request.body(Full::new(body.to_string().into())).unwrap()).await.unwrap();
        assert!(response.status().is_success(), "{method} {path}: {response:?}");
        response.headers().get_all("warning").iter().count()
    };
    let (all, one) = ("/api/v1/namespaces/default/services", "/api/v1/namespaces/default/services/x");
    let service = r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"x"},"spec":{"clusterIP":"None","selector":{"a":"b"},"ports":[{"port":80}]}}"#;
    assert_eq!(warned("POST", all, "application/json", service).await, 0);
    let patch = r#"{"spec":{"externalIPs":["192.0.2.1"]}}"#;
    assert_eq!(warned("PATCH", one, "application/merge-patch+json", patch).await, 1);
    let put = service.replace(r#""clusterIP""#, r#""externalIPs":["192.0.2.1"],"clusterIP""#);
    assert_eq!(warned("PUT", one, "application/json", &put).await, 1);
    let applied = format!("{one}?fieldManager=m&force=true");
    assert_eq!(warned("PATCH", &applied, "application/apply-patch+yaml", &put).await, 1);
}

#[tokio::test]
async fn secrets_whose_key_is_not_the_certificate_s_are_warned_of_and_so_are_odd_addresses() {
    let site = Site::start(|server| server).await;
    let client = site.client("admin", &["system:masters"]);
    let warned = async |path: &str, body: Value| {
        let response = client.request(request("POST", path, Some(&body))).await.unwrap();
        assert_eq!(response.status(), 201);
        let headers = response.headers().get_all("warning").iter();
        headers.map(|header| header.to_str().unwrap().to_string()).collect::<Vec<_>>()
    };
    let made = || rcgen::generate_simple_self_signed(["a.example".to_string()]).unwrap();
    let (one, other) = (made(), made());
    let encoded = |text: &str| base64::Engine::encode(&base64::engine::general_purpose::STANDARD, text);
    let certificate = encoded(&one.cert.pem());
    for (i, (key, wanted)) in [
        (one.signing_key.serialize_pem(), None),
        (other.signing_key.serialize_pem(), Some("299 - \"data[tls.key]: the key is not that of the certificate\"")),
        ("x".into(), Some("299 - \"data[tls.key]: there is no private key in PEM\"")),
    ]
    .into_iter()
    .enumerate()
    {
        let data = object!({ "tls.crt": (certificate.as_str()), "tls.key": (encoded(&key)) });
        let secret = object!({ "metadata": { "name": (format!("s{i}")) }, "type": "kubernetes.io/tls", "data": (data) });
        let said = warned("/api/v1/namespaces/default/secrets", secret).await;
        assert_eq!(said.first().map(String::as_str), wanted);
    }
    let slice = object!({ "metadata": { "name": "e" }, "addressType": "IPv6", "endpoints": [{ "addresses": ["fd00:0::1"] }] });
    let said = warned("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", slice).await;
    assert!(said.len() == 1 && said[0].starts_with("299 - \"endpoints[0].addresses[0]: the IPv6 address"), "{said:?}");
}

#[tokio::test]
async fn a_head_is_answered_without_a_body_over_http_2() {
    let site = Site::start(|server| server).await;
    let client = site.client("admin", &["system:masters"]);
    for path in ["/healthz", "/version", "/api/v1/namespaces", "/nosuch"] {
        let response = client.request(request("HEAD", path, None)).await.unwrap();
        assert_eq!(response.status(), if path == "/nosuch" { 404 } else { 200 }, "{path}");
        // What came of more than that would be a broken stream.
        assert!(response.into_body().collect().await.unwrap().to_bytes().is_empty(), "{path}");
    }
}

#[tokio::test]
async fn what_has_one_form_is_given_in_it_whatever_is_liked_best() {
    let site = Site::start(|server| server.with_feature_gates(&"WatchList=false".parse().unwrap())).await;
    for accept in ["text/plain", "application/json;as=Table;v=v1;g=meta.k8s.io", "*/*"] {
        let (status, text) = ask(&site, "GET", "/metrics", &[("accept", accept)], "").await;
        assert!(status == 200 && text.contains("# TYPE apiserver_storage_objects"), "{accept}: {status}");
        assert!(text.contains("kubernetes_feature_enabled{name=\"WatchList\",stage=\"BETA\"} 0"), "{text}");
        assert!(text.contains("kubernetes_feature_enabled{name=\"SidecarContainers\",stage=\"\"} 1"), "{text}");
    }
    let client = site.client("admin", &["system:masters"]);
    let keys = client.request(request("GET", "/openid/v1/jwks", None)).await.unwrap();
    assert_eq!(keys.headers()["content-type"], "application/jwk-set+json");
    let (status, text) = ask(&site, "GET", "/readyz?verbose&exclude=nosuch", &[], "").await;
    let end = "there is no such check to leave out: \"nosuch\"\nreadyz check passed\n";
    assert!(status == 200 && text.ends_with(end), "{text}");
    let watch = "/api/v1/namespaces?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan";
    assert_eq!(ask(&site, "GET", watch, &[], "").await.0, 422);
}

#[tokio::test]
async fn requests_that_make_no_sense_are_refused_with_stock_s_codes() {
    let site = Site::start(|server| server).await;
    let json = [("content-type", "application/json")];
    let map = r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"x"}}"#;
    assert_eq!(ask(&site, "POST", MAPS, &json, map).await.0, 201);
    for (method, path, body, code) in [
        ("POST", "/version", "", 405),
        ("DELETE", "/api/v1", "", 405),
        ("DELETE", "/apis/apps", "", 405),
        ("PUT", "/apis/apps/v1", "", 405),
        ("POST", "/nosuch", "", 404),
        // Who deletes all of a namespace takes 405 for a resource that is there, but not to be deleted so.
        ("POST", "/api/v1/namespaces/default/nosuches", map, 404),
        ("DELETE", "/apis/apps/v1/namespaces/default/nosuches", "", 404),
        ("DELETE", "/apis/example.com/v1/namespaces/default/things", "", 404),
        ("POST", "/apis/example.com", "", 404),
        ("GET", &*format!("{MAPS}?limit=-1"), "", 200),
        ("GET", &*format!("{MAPS}?limit=x"), "", 400),
        ("PUT", &*format!("{MAPS}/x?fieldValidation=Maybe"), map, 422),
        ("DELETE", &*format!("{MAPS}/x"), r#"{"orphanDependents":true,"propagationPolicy":"Orphan"}"#, 422),
        ("DELETE", &*format!("{MAPS}/x"), r#"{"kind":"Pod","apiVersion":"v1"}"#, 400),
        ("DELETE", &*format!("{MAPS}/x"), "[]", 400),
        ("DELETE", &*format!("{MAPS}/x"), r#"{"kind":"DeleteOptions","apiVersion":"v1"}"#, 200),
    ] {
        assert_eq!(ask(&site, method, path, &json, body).await.0, code, "{method} {path} {body}");
    }
}
