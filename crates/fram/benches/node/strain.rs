//! Memory under what clients usually ask of a cluster: an apply, the OpenAPI documents, a list and a watch of every kind.

use std::time::Duration;

use fram_client::remote::Remote;
use fram_client::{Client, ListOptions, Resource};
use fram_machinery::{Value, json};
use http_body_util::BodyExt;

use crate::cluster::Cluster;
use crate::processes;

/// How long the highest value is looked for.
const WATCHED: Duration = Duration::from_secs(60);

const APPLIED: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: { name: strain }\ndata: { a: b }\n";

async fn get(remote: &Remote, path: &str) -> Value {
    let request = http::Request::get(path).body(Default::default()).unwrap();
    let response = remote.send(request).await.unwrap();
    assert!(response.status().is_success(), "{path}: {}", response.status());
    json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap()
}

/// All that can be listed and watched.
async fn resources(remote: &Remote) -> Vec<Resource> {
    let groups = get(remote, "/apis").await;
    let versions = groups.list_at(&["groups"]).iter().flat_map(|g| g.list_at(&["versions"]).to_vec());
    let roots: Vec<String> = versions.map(|v| format!("/apis/{}", v.str_at(&["groupVersion"]))).chain(["/api/v1".into()]).collect();
    let mut all = Vec::new();
    for root in roots {
        let list = get(remote, &root).await;
        let (group, version) = list.str_at(&["groupVersion"]).split_once('/').unwrap_or(("", list.str_at(&["groupVersion"])));
        for resource in list.list_at(&["resources"]) {
            let verbs = resource.list_at(&["verbs"]);
            let can = |verb: &str| verbs.iter().any(|v| v.as_str() == Some(verb));
            if can("list") && can("watch") {
                let plural = resource.str_at(&["name"]).to_string();
                all.push(Resource { group: group.to_string().into(), version: version.to_string().into(), plural: plural.into() });
            }
        }
    }
    all
}

/// The highest memory in the time after.
pub(crate) async fn highest(cluster: &Cluster, remote: &std::sync::Arc<Remote>) -> String {
    cluster.apply(APPLIED);
    get(remote, "/openapi/v2").await;
    let index = get(remote, "/openapi/v3").await;
    let documents = index.get("paths").and_then(Value::as_map).unwrap();
    for (_, document) in documents.iter() {
        get(remote, document.str_at(&["serverRelativeURL"])).await;
    }
    let client = Client::new(remote.clone(), "bench");
    let mut watches = Vec::new();
    let all = resources(remote).await;
    for resource in &all {
        let objects = client.all(resource);
        let page = objects.list(ListOptions::default()).await.unwrap();
        watches.push(objects.watch(ListOptions { resource_version: page.resource_version, ..Default::default() }).await.unwrap());
    }
    let mut highest = 0;
    let begun = std::time::Instant::now();
    while begun.elapsed() < WATCHED {
        highest = highest.max(processes::memory());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    format!("{} MB with {} watches", highest / 1024, watches.len())
}
