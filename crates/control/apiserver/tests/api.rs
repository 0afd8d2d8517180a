//! The API as a component sees it: a server on an in-memory store, asked in process, as users with different rights.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod common {
    pub(crate) mod server;
}

use std::sync::Arc;
use std::time::Duration;

use common::server::{client_as, cluster, in_memory, server};
use fram_apiserver::User;
use fram_apiserver::registry::{ChangeKind, Place, Selection, WatchRequest};
use fram_client::resources::{CONFIG_MAPS, DEPLOYMENTS, LEASES, NAMESPACES, NODES, PODS, SECRETS, SERVICE_ACCOUNTS, SERVICES};
use fram_client::{Client, DeleteOptions, EventKind, ListOptions, PatchKind, Preconditions, Propagation, Resources};
use fram_machinery::{Reason, Value, meta, object};
use futures_util::StreamExt;

async fn admin() -> Client {
    client_as(&server(in_memory()).await, User::authenticated("admin", &["system:masters"]))
}

fn config_map(name: &str, value: &str) -> Value {
    object!({ "metadata": { "name": name, "labels": { "v": value } }, "data": { "a": value } })
}

fn deployment(name: &str) -> Value {
    object!({ "metadata": { "name": name }, "spec": { "selector": { "matchLabels": { "a": "b" } },
        "template": { "metadata": { "labels": { "a": "b" } }, "spec": { "containers": [{ "name": "c", "image": "i:1" }] } } } })
}

async fn with_account(client: &Client) {
    client.within(&SERVICE_ACCOUNTS, "default").create(object!({ "metadata": { "name": "default" } })).await.unwrap();
}

fn pod(name: &str) -> Value {
    object!({ "metadata": { "name": name }, "spec": { "containers": [{ "name": "c", "image": "i:1" }] } })
}

#[tokio::test]
async fn an_object_lives_from_creation_to_deletion() {
    let maps = admin().await.within(&CONFIG_MAPS, "default");
    let made = maps.create(config_map("x", "1")).await.unwrap();
    assert!(!meta::uid(&made).is_empty() && !meta::resource_version(&made).is_empty());
    assert!(maps.create(config_map("x", "1")).await.unwrap_err().is(Reason::AlreadyExists));
    let mut changed = (*made).clone();
    changed.set(&["data", "a"], "2");
    let updated = maps.update(changed.clone()).await.unwrap();
    assert_ne!(meta::resource_version(&updated), meta::resource_version(&made));
    // The same write again is about an old version.
    assert!(maps.update(changed.clone()).await.unwrap_err().is(Reason::Conflict));
    // Version zero says that it does not matter.
    changed.set(&["metadata", "resourceVersion"], "0");
    changed.set(&["data", "a"], "3");
    assert_eq!(maps.update(changed).await.unwrap().str_at(&["data", "a"]), "3");
    maps.delete("x", DeleteOptions::default()).await.unwrap();
    assert!(maps.get("x").await.unwrap_err().is(Reason::NotFound));
}

#[tokio::test]
async fn a_write_that_changes_nothing_leaves_the_version() {
    let maps = admin().await.within(&CONFIG_MAPS, "default");
    let made = maps.create(config_map("x", "1")).await.unwrap();
    let same = maps.update((*made).clone()).await.unwrap();
    assert_eq!(meta::resource_version(&same), meta::resource_version(&made));
}

#[tokio::test]
async fn lists_are_selected_and_paged_at_one_revision() {
    let maps = admin().await.within(&CONFIG_MAPS, "default");
    for i in 0..5 {
        maps.create(config_map(&format!("m{i}"), if i % 2 == 0 { "even" } else { "odd" })).await.unwrap();
    }
    let even = maps.list(ListOptions { label_selector: "v=even".into(), ..Default::default() }).await.unwrap();
    assert_eq!(even.items.len(), 3);
    let one = maps.list(ListOptions { field_selector: "metadata.name=m1".into(), ..Default::default() }).await.unwrap();
    assert_eq!(one.items.len(), 1);
    let first = maps.list(ListOptions { limit: 2, ..Default::default() }).await.unwrap();
    maps.delete("m4", DeleteOptions::default()).await.unwrap();
    let rest = maps.list(ListOptions { limit: 10, continue_token: first.continue_token, ..Default::default() }).await.unwrap();
    let names: Vec<&str> = rest.items.iter().map(|m| meta::name(m)).collect();
    assert_eq!(names, ["m2", "m3", "m4"]);
    assert_eq!(rest.resource_version, first.resource_version);
    let unknown = maps.list(ListOptions { field_selector: "data.a=1".into(), ..Default::default() }).await;
    assert!(unknown.unwrap_err().is(Reason::BadRequest));
}

async fn next(stream: &mut fram_client::WatchStream) -> (EventKind, String) {
    let event = tokio::time::timeout(std::time::Duration::from_secs(10), stream.next()).await.unwrap().unwrap().unwrap();
    (event.kind, meta::name(&event.object).to_string())
}

#[tokio::test]
async fn events_that_are_not_selected_hold_up_none_that_are() {
    let server = server(in_memory()).await;
    let maps = client_as(&server, User::authenticated("admin", &["system:masters"])).within(&CONFIG_MAPS, "default");
    let before = maps.list(ListOptions::default()).await.unwrap().resource_version;
    maps.create(config_map("x", "wanted")).await.unwrap();
    maps.create(config_map("y", "other")).await.unwrap();
    let served = server.registry.served("", "v1", "configmaps").unwrap();
    let selection = Selection::parse(&served.kind, "v=wanted", "").unwrap();
    let place = Place { served, namespace: "default".into(), name: String::new() };
    let request = WatchRequest { selection, resource_version: before, ..Default::default() };
    let mut watching = server.registry.watch(&place, request).await.unwrap();
    // Both events arrive together, and only the first is for this watcher.
    assert_eq!(watching.next().await.unwrap().kind, ChangeKind::Added);
    assert!(!watching.has_pending());
}

#[tokio::test]
async fn a_watch_tells_what_begins_and_ends_to_match() {
    let maps = admin().await.within(&CONFIG_MAPS, "default");
    let list = maps.list(ListOptions::default()).await.unwrap();
    let options = ListOptions { label_selector: "v=1".into(), resource_version: list.resource_version, ..Default::default() };
    let mut watch = maps.watch(options).await.unwrap();
    maps.create(config_map("other", "2")).await.unwrap();
    maps.create(config_map("x", "1")).await.unwrap();
    assert_eq!(next(&mut watch).await, (EventKind::Added, "x".into()));
    maps.patch("x", "", PatchKind::Merge, object!({ "metadata": { "labels": { "v": "2" } } })).await.unwrap();
    assert_eq!(next(&mut watch).await, (EventKind::Deleted, "x".into()));
    maps.patch("other", "", PatchKind::Merge, object!({ "metadata": { "labels": { "v": "1" } } })).await.unwrap();
    assert_eq!(next(&mut watch).await, (EventKind::Added, "other".into()));
    maps.delete("other", DeleteOptions::default()).await.unwrap();
    assert_eq!(next(&mut watch).await, (EventKind::Deleted, "other".into()));
}

#[tokio::test]
async fn the_generation_counts_changes_of_the_specification() {
    let deployments = admin().await.within(&DEPLOYMENTS, "default");
    let made = deployments.create(deployment("d")).await.unwrap();
    assert_eq!((meta::generation(&made), made.int_at(&["spec", "replicas"])), (1, Some(1)));
    let labelled = deployments.patch("d", "", PatchKind::Merge, object!({ "metadata": { "labels": { "x": "y" } } })).await.unwrap();
    assert_eq!(meta::generation(&labelled), 1);
    let scaled = deployments.patch("d", "scale", PatchKind::Merge, object!({ "spec": { "replicas": 3 } })).await.unwrap();
    assert_eq!(scaled.int_at(&["spec", "replicas"]), Some(3));
    let status = deployments
        .patch("d", "status", PatchKind::Merge, object!({ "status": { "replicas": 3 }, "spec": { "replicas": 9 } }))
        .await
        .unwrap();
    assert_eq!(
        (meta::generation(&status), status.int_at(&["spec", "replicas"]), status.int_at(&["status", "replicas"])),
        (2, Some(3), Some(3))
    );
    let main = deployments.patch("d", "", PatchKind::Merge, object!({ "status": { "replicas": 7 } })).await.unwrap();
    assert_eq!(main.int_at(&["status", "replicas"]), Some(3));
}

#[tokio::test]
async fn invalid_objects_are_refused_with_every_cause() {
    let client = admin().await;
    with_account(&client).await;
    let mut bad = pod("Bad_Name");
    bad.set(&["spec", "containers"], object!([{ "name": "c" }, { "name": "c", "image": "i" }]));
    let error = client.within(&PODS, "default").create(bad).await.unwrap_err();
    let fields: Vec<&str> = error.causes.iter().map(|c| c.field.as_str()).collect();
    assert_eq!((error.code, fields), (422, vec!["metadata.name", "spec.containers[0].image", "spec.containers[1].name"]));
    let wrong_type =
        client.within(&DEPLOYMENTS, "default").create(object!({ "metadata": { "name": "x" }, "spec": { "replicas": "3" } })).await;
    assert!(wrong_type.unwrap_err().is(Reason::BadRequest));
}

#[tokio::test]
async fn finalizers_hold_an_object_until_they_are_gone() {
    let maps = admin().await.within(&CONFIG_MAPS, "default");
    let mut held = config_map("x", "1");
    held.set(&["metadata", "finalizers"], object!(["example.com/hold"]));
    let made = maps.create(held).await.unwrap();
    let wrong = Preconditions { uid: Some("other".into()), resource_version: None };
    assert!(maps.delete("x", DeleteOptions { preconditions: wrong, ..Default::default() }).await.unwrap_err().is(Reason::Conflict));
    maps.delete("x", DeleteOptions::default()).await.unwrap();
    let waiting = maps.get("x").await.unwrap();
    assert!(meta::is_terminating(&waiting) && meta::uid(&waiting) == meta::uid(&made));
    maps.patch("x", "", PatchKind::Merge, object!({ "metadata": { "finalizers": null } })).await.unwrap();
    assert!(maps.get("x").await.unwrap_err().is(Reason::NotFound));
}

#[tokio::test]
async fn propagation_becomes_a_finalizer() {
    let maps = admin().await.within(&CONFIG_MAPS, "default");
    for (policy, finalizer) in [(Propagation::Orphan, "orphan"), (Propagation::Foreground, "foregroundDeletion")] {
        maps.create(config_map("x", "1")).await.unwrap();
        maps.delete("x", DeleteOptions { propagation: Some(policy), ..Default::default() }).await.unwrap();
        let waiting = maps.get("x").await.unwrap();
        assert_eq!(meta::finalizers(&waiting).collect::<Vec<_>>(), [finalizer]);
        maps.patch("x", "", PatchKind::Merge, object!({ "metadata": { "finalizers": null } })).await.unwrap();
    }
}

#[tokio::test]
async fn a_pod_that_is_bound_ends_by_its_grace() {
    let client = admin().await;
    with_account(&client).await;
    let pods = client.within(&PODS, "default");
    pods.create(pod("free")).await.unwrap();
    pods.delete("free", DeleteOptions::default()).await.unwrap();
    assert!(pods.find("free").await.unwrap().is_none());
    pods.create(pod("bound")).await.unwrap();
    let binding = object!({ "metadata": { "name": "bound" }, "target": { "kind": "Node", "name": "n" } });
    pods.create_subresource("bound", "binding", binding.clone()).await.unwrap();
    assert!(pods.create_subresource("bound", "binding", binding).await.unwrap_err().is(Reason::Conflict));
    assert!(meta::condition_is_true(&pods.get("bound").await.unwrap(), "PodScheduled"));
    pods.delete("bound", DeleteOptions::default()).await.unwrap();
    let ending = pods.get("bound").await.unwrap();
    assert_eq!(ending.int_at(&["metadata", "deletionGracePeriodSeconds"]), Some(30));
    pods.delete("bound", DeleteOptions { grace_period_seconds: Some(0), ..Default::default() }).await.unwrap();
    assert!(pods.find("bound").await.unwrap().is_none());
}

#[tokio::test]
async fn a_pod_gets_its_account_tolerations_and_priority() {
    let client = admin().await;
    let refused = client.within(&PODS, "default").create(pod("p")).await.unwrap_err();
    assert!(refused.is(Reason::Forbidden) && refused.message.contains("serviceaccount \"default\" not found"));
    with_account(&client).await;
    let made = client.within(&PODS, "default").create(pod("p")).await.unwrap();
    assert_eq!(made.str_at(&["spec", "serviceAccountName"]), "default");
    assert_eq!(made.list_at(&["spec", "containers"])[0].list_at(&["volumeMounts"]).len(), 1);
    assert_eq!(made.list_at(&["spec", "tolerations"]).len(), 2);
    assert_eq!((made.int_at(&["spec", "priority"]), made.str_at(&["status", "qosClass"])), (Some(0), "BestEffort"));
    let absent = client.within(&PODS, "nowhere").create(pod("p")).await.unwrap_err();
    assert!(absent.is(Reason::NotFound));
}

fn service(name: &str) -> Value {
    object!({ "metadata": { "name": name }, "spec": { "type": "NodePort", "ports": [{ "port": 80 }] } })
}

async fn numbers(services: &Resources, name: &str) -> (String, i64) {
    let service = services.get(name).await.unwrap();
    let port = service.list_at(&["spec", "ports"])[0].int_at(&["nodePort"]).unwrap();
    (service.str_at(&["spec", "clusterIP"]).to_string(), port)
}

#[tokio::test]
async fn services_get_numbers_that_nobody_else_has() {
    let services = admin().await.within(&SERVICES, "default");
    services.create(service("a")).await.unwrap();
    let (ip, port) = numbers(&services, "a").await;
    let mut taken = service("b");
    taken.set(&["spec", "clusterIP"], ip.as_str());
    assert!(services.create(taken).await.unwrap_err().message.contains("already allocated"));
    let mut same_port = service("b");
    same_port.set(&["spec", "ports"], object!([{ "port": 80, "nodePort": port }]));
    assert!(services.create(same_port.clone()).await.unwrap_err().message.contains("already allocated"));
    services.delete("a", DeleteOptions::default()).await.unwrap();
    same_port.set(&["spec", "clusterIP"], ip.as_str());
    services.create(same_port).await.unwrap();
    assert_eq!(numbers(&services, "b").await, (ip, port));
    let outside = object!({ "metadata": { "name": "c" }, "spec": { "clusterIP": "192.0.2.9", "ports": [{ "port": 80 }] } });
    assert!(services.create(outside).await.unwrap_err().is(Reason::Invalid));
}

#[tokio::test]
async fn an_applied_field_of_another_manager_is_a_conflict() {
    let client = admin().await;
    let deployments = client.within(&DEPLOYMENTS, "default");
    let config = |replicas: i64| {
        let mut d = deployment("d");
        d.set(&["apiVersion"], "apps/v1");
        d.set(&["kind"], "Deployment");
        d.set(&["spec", "replicas"], replicas);
        d
    };
    let made = deployments.apply("d", "", config(1)).await.unwrap();
    assert_eq!(made.list_at(&["metadata", "managedFields"])[0].str_at(&["operation"]), "Apply");
    deployments.patch("d", "", PatchKind::Merge, object!({ "spec": { "replicas": 5 } })).await.unwrap();
    let forced = deployments.apply("d", "", config(2)).await.unwrap();
    assert_eq!(forced.int_at(&["spec", "replicas"]), Some(2));
    // What is no longer stated goes; here the server's default comes back.
    let mut without = config(0);
    without.remove(&["spec", "replicas"]);
    let released = deployments.apply("d", "", without).await.unwrap();
    assert_eq!(released.int_at(&["spec", "replicas"]), Some(1));
}

#[tokio::test]
async fn users_do_only_what_roles_allow() {
    let server = server(in_memory()).await;
    let nobody = client_as(&server, User::authenticated("nobody", &[]));
    let refused = nobody.within(&SECRETS, "default").list(ListOptions::default()).await.unwrap_err();
    assert_eq!(
        refused.message,
        "secrets is forbidden: User \"nobody\" cannot list resource \"secrets\" in API group \"\" in the namespace \"default\""
    );
    let account = client_as(&server, User::authenticated("system:serviceaccount:kube-system:replicaset-controller", &[]));
    assert!(account.all(&PODS).list(ListOptions::default()).await.is_ok());
    assert!(account.all(&NAMESPACES).delete("default", DeleteOptions::default()).await.unwrap_err().is(Reason::Forbidden));
}

#[tokio::test]
async fn a_node_reads_what_its_pods_refer_to_and_nothing_else() {
    let server = server(in_memory()).await;
    let root = client_as(&server, User::authenticated("admin", &["system:masters"]));
    with_account(&root).await;
    for name in ["used", "other"] {
        root.within(&SECRETS, "default").create(object!({ "metadata": { "name": name } })).await.unwrap();
    }
    let mut user = pod("p");
    user.set(&["spec", "volumes"], object!([{ "name": "v", "secret": { "secretName": "used" } }]));
    root.within(&PODS, "default").create(user).await.unwrap();
    let binding = object!({ "metadata": { "name": "p" }, "target": { "kind": "Node", "name": "n1" } });
    root.within(&PODS, "default").create_subresource("p", "binding", binding).await.unwrap();
    let node = |name: &str| client_as(&server, User::authenticated(&format!("system:node:{name}"), &["system:nodes"]));
    let secrets = node("n1").within(&SECRETS, "default");
    assert!(secrets.get("used").await.is_ok());
    assert!(secrets.get("other").await.unwrap_err().is(Reason::Forbidden));
    assert!(node("n2").within(&SECRETS, "default").get("used").await.unwrap_err().is(Reason::Forbidden));
    let register = |name: &str| object!({ "metadata": { "name": name } });
    assert!(node("n1").all(&NODES).create(register("n1")).await.is_ok());
    assert!(node("n1").all(&NODES).create(register("n2")).await.unwrap_err().is(Reason::Forbidden));
}

#[tokio::test]
async fn the_systems_namespaces_stay() {
    let namespaces = admin().await.all(&NAMESPACES);
    assert!(namespaces.delete("kube-system", DeleteOptions::default()).await.unwrap_err().is(Reason::Forbidden));
    namespaces.create(object!({ "metadata": { "name": "t" } })).await.unwrap();
    let ending = namespaces.delete("t", DeleteOptions::default()).await.unwrap();
    assert_eq!(ending.str_at(&["status", "phase"]), "Terminating");
}

#[tokio::test]
async fn a_server_has_a_lease_and_takes_away_those_of_servers_that_are_gone() {
    let server = server(in_memory()).await;
    let leases = client_as(&server, User::authenticated("admin", &["system:masters"])).within(&LEASES, "kube-system");
    let label = "apiserver.kubernetes.io/identity";
    let lease = |name: &str, component: &str, renewed: &str| {
        object!({ "metadata": { "name": name, "labels": { "apiserver.kubernetes.io/identity": component } }, "spec": { "holderIdentity": name,
            "leaseDurationSeconds": 3600, "renewTime": renewed } })
    };
    let (past, future) = ("2020-01-01T00:00:00.000000Z", "2999-01-01T00:00:00.000000Z");
    for (name, component, renewed) in [("gone", "kube-apiserver", past), ("there", "kube-apiserver", future), ("other", "another", past)] {
        leases.create(lease(name, component, renewed)).await.unwrap();
    }
    let stop = tokio_util::sync::CancellationToken::new();
    let mut keeping = tokio::task::JoinSet::new();
    keeping.spawn(server.clone().keep_identity("host".into(), Arc::new(cluster()), stop.clone()));
    let settled = async {
        loop {
            let all = leases.list(ListOptions::default()).await.unwrap().items;
            if all.len() == 3 && all.iter().all(|l| meta::name(l) != "gone") {
                return all;
            }
            tokio::task::yield_now().await;
        }
    };
    let all = tokio::time::timeout(Duration::from_secs(10), settled).await.expect("the Leases did not become those that they should be");
    let own = all.iter().find(|l| meta::name(l).starts_with("apiserver-")).unwrap();
    assert_eq!((meta::label(own, label), meta::label(own, "kubernetes.io/hostname")), (Some("kube-apiserver"), Some("host")));
    assert!(own.str_at(&["spec", "holderIdentity"]).starts_with(&format!("{}_", meta::name(own))), "{own:?}");
    assert_eq!((meta::name(own).len(), own.int_at(&["spec", "leaseDurationSeconds"])), (36, Some(3600)));
    stop.cancel();
    keeping.join_all().await;
}
