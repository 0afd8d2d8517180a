//! Discovery and definitions tell the same of custom resources at any moment.

use fram_machinery::{Value, meta, object};
use fram_store::Options;
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
