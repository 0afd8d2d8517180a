//! The encodings of the API over HTTPS: what a client sends and takes, and what is refused.

use std::io::Read;
use std::sync::Arc;

use super::harness::Web;
use bytes::Bytes;
use fram_apiserver::nodes::NoNodes;
use fram_machinery::{Value, cbor, json, meta, object};
use http::{HeaderMap, Method, header};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const CBOR: &str = "application/cbor";

async fn start() -> Web {
    Web::start(async |_: &_| Arc::new(NoNodes) as _).await
}

async fn ask(web: &Web, method: Method, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> (u16, HeaderMap, Bytes) {
    web.send("root", &["system:masters"], method, path, headers, body.into()).await
}

fn content_type(headers: &HeaderMap) -> &str {
    headers[header::CONTENT_TYPE].to_str().unwrap()
}

fn config_map(name: &str) -> Value {
    object!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name }, "data": { "a": "b" } })
}

#[tokio::test]
async fn an_object_goes_in_and_out_in_cbor() {
    let web = start().await;
    let both = [("content-type", CBOR), ("accept", CBOR)];
    let (code, headers, body) = ask(&web, Method::POST, MAPS, &both, cbor::to_vec(&config_map("x"))).await;
    assert_eq!((code, content_type(&headers)), (201, CBOR));
    assert_eq!(cbor::from_slice(&body).unwrap().str_at(&["data", "a"]), "b");
    let (code, headers, body) = ask(&web, Method::GET, MAPS, &both, Vec::new()).await;
    let list = cbor::from_slice(&body).unwrap();
    assert_eq!((code, content_type(&headers), list.str_at(&["kind"])), (200, CBOR, "ConfigMapList"));
    assert!(list.list_at(&["items"]).iter().any(|m| meta::name(m) == "x"));
    let apply = [("content-type", "application/apply-patch+cbor"), ("accept", CBOR)];
    let mut applied = config_map("x");
    applied.set(&["data"], object!({ "c": "d" }));
    let path = format!("{MAPS}/x?fieldManager=test");
    let (code, _, body) = ask(&web, Method::PATCH, &path, &apply, cbor::to_vec(&applied)).await;
    assert_eq!((code, cbor::from_slice(&body).unwrap().get("data")), (200, Some(&object!({ "a": "b", "c": "d" }))));
    let (code, headers, body) = ask(&web, Method::GET, &format!("{MAPS}/none"), &both, Vec::new()).await;
    assert_eq!((code, content_type(&headers)), (404, CBOR));
    assert_eq!(cbor::from_slice(&body).unwrap().str_at(&["reason"]), "NotFound");
    let (code, _, body) = ask(&web, Method::POST, MAPS, &[("content-type", CBOR)], vec![0xa2, 0x41, b'a', 1, 0x41, b'a', 2]).await;
    assert!(code == 400 && String::from_utf8_lossy(&body).contains("duplicate map key"), "{code}");
}

#[tokio::test]
async fn a_watch_in_cbor_is_a_sequence_of_documents() {
    let web = start().await;
    ask(&web, Method::POST, MAPS, &[("content-type", "application/json")], json::to_vec(&config_map("x"))).await;
    let path = format!("{MAPS}?watch=true&timeoutSeconds=1&fieldSelector=metadata.name%3Dx");
    let (code, headers, body) = ask(&web, Method::GET, &path, &[("accept", CBOR)], Vec::new()).await;
    assert_eq!((code, content_type(&headers)), (200, "application/cbor-seq"));
    let event = cbor::from_slice(&body).unwrap();
    assert_eq!((event.str_at(&["type"]), event.str_at(&["object", "data", "a"])), ("ADDED", "b"));
    let old = format!("{MAPS}?watch=true&resourceVersion=99999999&sendInitialEvents=true&resourceVersionMatch=NotOlderThan");
    let (code, _, body) = ask(&web, Method::GET, &old, &[("accept", CBOR)], Vec::new()).await;
    let event = cbor::from_slice(&body).unwrap();
    assert_eq!((code, event.str_at(&["type"]), event.int_at(&["object", "code"])), (200, "ERROR", Some(504)));
}

#[tokio::test]
async fn what_cannot_be_had_or_read_is_refused_with_what_can() {
    let web = start().await;
    let message = |body: &[u8]| json::from_slice(body).unwrap().str_at(&["message"]).to_string();
    let all = "application/json, application/yaml, application/vnd.kubernetes.protobuf, application/cbor";
    let (code, headers, body) = ask(&web, Method::GET, MAPS, &[("accept", "text/html")], Vec::new()).await;
    assert_eq!((code, content_type(&headers)), (406, "application/json"));
    assert_eq!(message(&body), format!("only the following media types are accepted: {all}"));
    let (code, _, body) = ask(&web, Method::GET, &format!("{MAPS}?watch=1"), &[("accept", "application/yaml")], Vec::new()).await;
    // The refusal itself is had in YAML.
    let text = String::from_utf8_lossy(&body);
    assert!(code == 406 && text.contains("kind: Status") && text.contains("application/cbor-seq"), "{text}");
    let (code, _, body) = ask(&web, Method::POST, MAPS, &[("content-type", "text/plain")], b"x".to_vec()).await;
    let unknown = "the body of the request was in an unknown format - accepted media types include:";
    assert_eq!((code, message(&body)), (415, format!("{unknown} {all}")));
    let (code, _, body) = ask(&web, Method::PATCH, &format!("{MAPS}/x"), &[("content-type", "application/json")], b"{}".to_vec()).await;
    let patches = "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, application/apply-patch+yaml, application/apply-patch+cbor";
    assert_eq!((code, message(&body)), (415, format!("{unknown} {patches}")));
    let (code, _, body) = ask(&web, Method::GET, &format!("{MAPS}?resourceVersionMatch=Exact"), &[], Vec::new()).await;
    assert!(code == 422 && message(&body).contains("resourceVersionMatch: Forbidden"), "{}", message(&body));
    // Who may not is told that, whatever the body is.
    let (code, ..) = web.send("jane", &[], Method::PATCH, &format!("{MAPS}/x"), &[("content-type", "text/plain")], Bytes::new()).await;
    assert_eq!(code, 403);
}

#[tokio::test]
async fn large_lists_are_compressed_for_who_takes_it() {
    let web = start().await;
    for i in 0..20 {
        let mut map = config_map(&format!("m{i}"));
        map.set(&["data", "a"], "x".repeat(10_000));
        ask(&web, Method::POST, MAPS, &[("content-type", "application/json")], json::to_vec(&map)).await;
    }
    for accept in ["application/json", CBOR] {
        let (_, _, plain) = ask(&web, Method::GET, MAPS, &[("accept", accept)], Vec::new()).await;
        let (_, headers, zipped) = ask(&web, Method::GET, MAPS, &[("accept", accept), ("accept-encoding", "gzip")], Vec::new()).await;
        assert_eq!(headers[header::CONTENT_ENCODING], "gzip");
        assert!(zipped.len() < plain.len() / 10, "{} of {}", zipped.len(), plain.len());
        let mut out = Vec::new();
        flate2::read::GzDecoder::new(&zipped[..]).read_to_end(&mut out).unwrap();
        assert_eq!(out, plain);
    }
    let (_, headers, _) = ask(&web, Method::GET, &format!("{MAPS}/m1"), &[("accept-encoding", "gzip")], Vec::new()).await;
    assert!(!headers.contains_key(header::CONTENT_ENCODING));
}

#[tokio::test]
async fn a_page_at_a_version_is_that_versions() {
    let web = start().await;
    let json_type = [("content-type", "application/json")];
    ask(&web, Method::POST, MAPS, &json_type, json::to_vec(&config_map("a"))).await;
    let (_, _, body) = ask(&web, Method::GET, MAPS, &[], Vec::new()).await;
    let before = json::from_slice(&body).unwrap().str_at(&["metadata", "resourceVersion"]).to_string();
    ask(&web, Method::POST, MAPS, &json_type, json::to_vec(&config_map("b"))).await;
    let count = async |query: String| {
        let (code, _, body) = ask(&web, Method::GET, &format!("{MAPS}?{query}"), &[], Vec::new()).await;
        (code, json::from_slice(&body).unwrap().list_at(&["items"]).len())
    };
    assert_eq!(count(format!("resourceVersion={before}&limit=10")).await, (200, 1));
    assert_eq!(count(format!("resourceVersion={before}&resourceVersionMatch=Exact")).await, (200, 1));
    assert_eq!(count(format!("resourceVersion={before}")).await, (200, 2));
    assert_eq!(count(format!("resourceVersion={before}&limit=10&resourceVersionMatch=NotOlderThan")).await, (200, 2));
    assert_eq!(count("resourceVersion=0&limit=10".into()).await, (200, 2));
    assert_eq!(count("resourceVersion=99999999".into()).await.0, 504);
}
