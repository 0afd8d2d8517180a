//! Discovery and definitions tell the same of custom resources at any moment; versions on their way out are told of.

use fram_machinery::{Value, meta, object};
use fram_store::Options;
use http_body_util::BodyExt;
use tokio_util::sync::CancellationToken;

use crate::site::{Site, object_of, request};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

fn definition(group: &str) -> Value {
    object!({
        "metadata": { "name": (format!("foos.{group}")) },
        "spec": {
            "group": group, "scope": "Cluster", "names": { "plural": "foos", "kind": "Foo" },
            "versions": [{ "name": "v1", "served": true, "storage": true, "schema": { "openAPIV3Schema": { "type": "object" } } }]
        }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_finds_a_kind_finds_its_definition_established() {
    // On a real disk there is a moment between what is decided and what can be read.
    let mut site = Site::start_on(|folder| Options::new(folder), |server| server).await;
    site.tasks.spawn(site.server.clone().follow_definitions(CancellationToken::new()));
    let admin = site.client("admin", &["system:masters"]);
    for n in 0..30 {
        let group = format!("g{n}.example.com");
        let made = admin.request(request("POST", DEFINITIONS, Some(&definition(&group)))).await.unwrap();
        assert_eq!(made.status(), 201);
        while admin.request(request("GET", &format!("/apis/{group}/v1"), None)).await.unwrap().status() != 200 {}
        let found = admin.request(request("GET", &format!("{DEFINITIONS}/foos.{group}"), None)).await.unwrap();
        let found = object_of(found).await;
        assert!(meta::condition_is_true(&found, "Established"), "{found:?}");
    }
}

#[tokio::test]
async fn who_uses_a_version_on_its_way_out_is_told_and_so_is_the_administrator() {
    let site = Site::start(|server| server).await;
    let admin = site.client("admin", &["system:masters"]);
    for path in ["/api/v1/endpoints", "/api/v1/namespaces/default/endpoints?watch=true"] {
        let answer = admin.request(request("GET", path, None)).await.unwrap();
        let expect = "299 - \"v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice\"";
        assert_eq!(answer.headers()["warning"], expect, "{path}");
    }
    assert!(!admin.request(request("GET", "/api/v1/pods", None)).await.unwrap().headers().contains_key("warning"));
    let metrics = admin.request(request("GET", "/metrics", None)).await.unwrap().into_body().collect().await.unwrap().to_bytes();
    let line =
        "apiserver_requested_deprecated_apis{group=\"\",version=\"v1\",resource=\"endpoints\",subresource=\"\",removed_release=\"\"} 1\n";
    assert!(String::from_utf8_lossy(&metrics).contains(line));
}

#[tokio::test]
async fn who_may_ask_for_the_root_finds_what_can_be_read() {
    let site = Site::start(|server| server).await;
    let ask = |groups: &[&str]| site.client("somebody", groups);
    let answer = ask(&["system:masters"]).request(request("GET", "/", None)).await.unwrap();
    assert_eq!(answer.status(), 200);
    let paths = object_of(answer).await;
    assert!(paths.list_at(&["paths"]).contains(&Value::from("/apis/apps/v1")), "{paths:?}");
    assert_eq!(ask(&[]).request(request("GET", "/", None)).await.unwrap().status(), 403);
}
