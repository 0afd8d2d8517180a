//! Priority and fairness as clients meet it: how they are classified, who is refused, and what becomes of its objects.

use std::sync::Arc;
use std::time::Duration;

use fram_apiserver::Server;
use fram_client::remote::Remote;
use fram_flowcontrol::{FlowControl, InFlight};
use fram_machinery::{Value, meta, object};
use tokio::io::AsyncWriteExt;

use crate::site::{Site, object_of, request, until};

const SCHEMAS: &str = "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas";
const LEVELS: &str = "/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations";

/// Somebody with rights who is no master.
const SCHEDULER: &str = "system:kube-scheduler";
/// A request that is carried out for as long as its body does not come.
const SLOW: &str =
    "POST /api/v1/namespaces/default/events HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n";

async fn start() -> (Site, Remote) {
    let fair = |server: Server| server.with_flow_control(Arc::new(FlowControl::new(600, Duration::from_secs(15))));
    let mut site = Site::start(fair).await;
    site.tasks.spawn(site.server.clone().follow_flow_control(site.stop.clone()));
    let admin = site.client("admin", &["system:masters"]);
    (site, admin)
}

async fn get(client: &Remote, path: &str) -> Value {
    object_of(client.request(request("GET", path, None)).await.unwrap()).await
}

async fn post(client: &Remote, path: &str, object: &Value) -> Value {
    let made = client.request(request("POST", path, Some(object))).await.unwrap();
    assert_eq!(made.status(), 201);
    object_of(made).await
}

fn schema(name: &str, level: &str, user: &str) -> Value {
    let rule = object!({ "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true, "namespaces": ["*"] });
    let subject = object!({ "kind": "User", "user": { "name": user } });
    object!({ "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "FlowSchema", "metadata": { "name": name }, "spec": {
        "matchingPrecedence": 500_i64, "priorityLevelConfiguration": { "name": level }, "distinguisherMethod": { "type": "ByUser" },
        "rules": [{ "subjects": [subject], "resourceRules": [rule] }] } })
}

fn level(name: &str, response: Value) -> Value {
    object!({ "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "PriorityLevelConfiguration", "metadata": { "name": name },
        "spec": { "type": "Limited", "limited": { "nominalConcurrencyShares": 0_i64, "borrowingLimitPercent": 0_i64, "limitResponse": response } } })
}

/// The UIDs by which a user's requests are classified.
async fn class_of(client: &Remote) -> [String; 2] {
    let answer = client.request(request("GET", "/api/v1/namespaces/default/pods", None)).await.unwrap();
    ["x-kubernetes-pf-flowschema-uid", "x-kubernetes-pf-prioritylevel-uid"]
        .map(|name| answer.headers().get(name).map(|v| v.to_str().unwrap().to_string()).unwrap_or_default())
}

#[tokio::test]
async fn requests_carry_the_uids_of_their_schema_and_level() {
    let (site, admin) = start().await;
    let made = [
        post(&admin, SCHEMAS, &schema("mine", "small", "noxu")).await,
        post(&admin, LEVELS, &level("small", object!({ "type": "Reject" }))).await,
    ];
    let wanted = made.each_ref().map(|o| meta::uid(o).to_string());
    let (noxu, foo) = (site.client("noxu", &[]), site.client("foo", &[]));
    until(async || class_of(&noxu).await == wanted).await;
    let other = class_of(&foo).await;
    assert_eq!(other[0], meta::uid(&get(&admin, &format!("{SCHEMAS}/global-default")).await));
    let exempt = class_of(&admin).await;
    assert_eq!(exempt[1], meta::uid(&get(&admin, &format!("{LEVELS}/exempt")).await));
}

#[tokio::test]
async fn what_is_too_much_is_refused_and_others_are_not() {
    let (site, admin) = start().await;
    let made = post(&admin, LEVELS, &level("small", object!({ "type": "Reject" }))).await;
    post(&admin, SCHEMAS, &schema("mine", "small", SCHEDULER)).await;
    let (scheduler, foo) = (site.client(SCHEDULER, &[]), site.client("foo", &[]));
    until(async || class_of(&scheduler).await[1] == meta::uid(&made)).await;
    // It takes the one seat for as long as its body does not come.
    let mut slow = site.raw(SCHEDULER, &[]).await;
    slow.write_all(SLOW.as_bytes()).await.unwrap();
    slow.flush().await.unwrap();
    until(async || scheduler.request(request("GET", "/api/v1/nodes", None)).await.unwrap().status() == 429).await;
    let refused = scheduler.request(request("GET", "/api/v1/nodes", None)).await.unwrap();
    assert_eq!(refused.headers()["retry-after"], "1");
    assert!(refused.headers().contains_key("x-kubernetes-pf-flowschema-uid"));
    assert_eq!(object_of(refused).await.str_at(&["reason"]), "TooManyRequests");
    assert_eq!(foo.request(request("GET", "/api/v1/nodes", None)).await.unwrap().status(), 403);
    let table = "/debug/api_priority_and_fairness/dump_priority_levels";
    let table = admin.request(request("GET", table, None)).await.unwrap();
    let text = http_body_util::BodyExt::collect(table.into_body()).await.unwrap().to_bytes();
    assert!(String::from_utf8_lossy(&text).contains("small, 1, false, false, 0, 1,"), "{text:?}");
    drop(slow);
    until(async || scheduler.request(request("GET", "/api/v1/nodes", None)).await.unwrap().status() == 200).await;
}

#[tokio::test]
async fn what_must_be_there_comes_back_and_is_put_right() {
    let (_site, admin) = start().await;
    let path = format!("{LEVELS}/catch-all");
    let former = meta::uid(&get(&admin, &path).await).to_string();
    admin.request(request("DELETE", &path, None)).await.unwrap();
    until(async || ![String::new(), former.clone()].contains(&meta::uid(&get(&admin, &path).await).to_string())).await;
    let path = format!("{LEVELS}/system");
    let mut changed = get(&admin, &path).await;
    changed.set(&["spec", "limited", "nominalConcurrencyShares"], 99_i64);
    assert_eq!(admin.request(request("PUT", &path, Some(&changed))).await.unwrap().status(), 200);
    let shares = async || get(&admin, &path).await.int_at(&["spec", "limited", "nominalConcurrencyShares"]);
    until(async || shares().await == Some(30)).await;
    // The user says that it is theirs.
    let mut kept = get(&admin, &path).await;
    kept.set(&["spec", "limited", "nominalConcurrencyShares"], 99_i64);
    meta::set_annotation(&mut kept, "apf.kubernetes.io/autoupdate-spec", "false");
    assert_eq!(admin.request(request("PUT", &path, Some(&kept))).await.unwrap().status(), 200);
    post(&admin, SCHEMAS, &schema("later", "system", "u")).await;
    until(async || !get(&admin, &format!("{SCHEMAS}/later")).await.list_at(&["status", "conditions"]).is_empty()).await;
    assert_eq!(shares().await, Some(99));
}

#[tokio::test]
async fn a_schema_without_its_level_says_so() {
    let (_site, admin) = start().await;
    post(&admin, SCHEMAS, &schema("mine", "late", "noxu")).await;
    let path = format!("{SCHEMAS}/mine");
    let dangling = async |status: &str| {
        let object = get(&admin, &path).await;
        object.list_at(&["status", "conditions"]).iter().any(|c| c.str_at(&["type"]) == "Dangling" && c.str_at(&["status"]) == status)
    };
    until(async || dangling("True").await).await;
    post(&admin, LEVELS, &level("late", object!({ "type": "Reject" }))).await;
    until(async || dangling("False").await).await;
}

#[tokio::test]
async fn without_fairness_so_many_requests_are_let_in_and_masters_always() {
    let site = Site::start(|server| server.with_in_flight_limits(InFlight::new(10, 1))).await;
    let mut slow = site.raw(SCHEDULER, &[]).await;
    slow.write_all(SLOW.as_bytes()).await.unwrap();
    slow.flush().await.unwrap();
    let (foo, admin) = (site.client("foo", &[]), site.client("admin", &["system:masters"]));
    let delete = || request("DELETE", "/api/v1/namespaces/default/pods/x", None);
    until(async || foo.request(delete()).await.unwrap().status() == 429).await;
    assert_eq!(foo.request(request("GET", "/api/v1/nodes", None)).await.unwrap().status(), 403);
    assert_eq!(admin.request(delete()).await.unwrap().status(), 404);
}
