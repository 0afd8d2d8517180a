//! The addresses of Services in clusters of one family and of both, and in ranges that are added.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod common {
    pub(crate) mod server;
}

use std::sync::Arc;
use std::time::Duration;

use common::server::{client_as, cluster, in_memory, server, server_with, unprepared};
use fram_apiserver::allocate::Allocators;
use fram_apiserver::bootstrap::Cluster;
use fram_apiserver::{Environment, User};
use fram_client::resources::{IP_ADDRESSES, SERVICE_CIDRS, SERVICES};
use fram_client::{Client, DeleteOptions, PatchKind, Resources};
use fram_machinery::{Value, meta, object};
use fram_store::{Key, Operation, Store, Transaction};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// An empty text is for the ranges that a server has unasked.
async fn client_of(store: Arc<dyn Store>, ranges: &str) -> Client {
    let server = match ranges {
        "" => server(store).await,
        ranges => server_with(store, Environment::system(), Allocators::within(ranges).unwrap()).await,
    };
    client_as(&server, User::authenticated("admin", &["system:masters"]))
}

async fn services(ranges: &str) -> (Client, Resources) {
    let client = client_of(in_memory(), ranges).await;
    let services = client.within(&SERVICES, "default");
    (client, services)
}

fn service(name: &str, mut spec: Value) -> Value {
    spec.set(&["ports"], object!([{ "port": 80 }]));
    object!({ "metadata": { "name": name }, "spec": spec })
}

fn texts(service: &Value, field: &str) -> Vec<String> {
    service.list_at(&["spec", field]).iter().filter_map(Value::as_str).map(String::from).collect()
}

/// Policy and families, and the families of its addresses.
fn shape(service: &Value) -> String {
    let of_addresses: Vec<&str> = texts(service, "clusterIPs").iter().map(|ip| if ip.contains(':') { "6" } else { "4" }).collect();
    let first = service.str_at(&["spec", "clusterIP"]);
    assert_eq!(texts(service, "clusterIPs").first().map_or("", String::as_str), first);
    format!("{} {} {}", service.str_at(&["spec", "ipFamilyPolicy"]), texts(service, "ipFamilies").join(","), of_addresses.join(","))
}

async fn address_names(client: &Client) -> Vec<String> {
    let all = client.all(&IP_ADDRESSES).list(Default::default()).await.unwrap().items;
    all.iter().map(|address| meta::name(address).to_string()).collect()
}

#[tokio::test]
async fn services_have_addresses_of_the_families_that_they_ask_for() {
    let table = [
        ("", object!({}), "SingleStack IPv4 4"),
        ("10.96.0.0/16", object!({ "ipFamilyPolicy": "PreferDualStack" }), "PreferDualStack IPv4 4"),
        ("10.96.0.0/16,fd00:10:96::/112", object!({}), "SingleStack IPv4 4"),
        ("10.96.0.0/16,fd00:10:96::/112", object!({ "ipFamilies": ["IPv6"] }), "SingleStack IPv6 6"),
        ("10.96.0.0/16,fd00:10:96::/112", object!({ "ipFamilyPolicy": "PreferDualStack" }), "PreferDualStack IPv4,IPv6 4,6"),
        (
            "10.96.0.0/16,fd00:10:96::/64",
            object!({ "ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6"] }),
            "RequireDualStack IPv6,IPv4 6,4",
        ),
        ("fd00:10:96::/112,10.96.0.0/16", object!({ "ipFamilyPolicy": "RequireDualStack" }), "RequireDualStack IPv6,IPv4 6,4"),
        ("fd00:10:96::/112", object!({}), "SingleStack IPv6 6"),
    ];
    for (n, (ranges, spec, expect)) in table.into_iter().enumerate() {
        let (client, services) = services(ranges).await;
        let made = services.create(service("a", spec)).await.unwrap();
        assert_eq!(shape(&made), expect, "{n}");
        let names = address_names(&client).await;
        assert!(texts(&made, "clusterIPs").iter().all(|ip| names.contains(ip)), "{made:?} {names:?}");
        let before = names.len() - texts(&made, "clusterIPs").len();
        services.delete("a", DeleteOptions::default()).await.unwrap();
        assert_eq!(address_names(&client).await.len(), before, "{n}");
    }
}

#[tokio::test]
async fn a_service_asks_for_addresses_of_both_families_and_nobody_else_gets_them() {
    let (client, services) = services("10.96.0.0/16,fd00:10:96::/112").await;
    let both =
        object!({ "ipFamilyPolicy": "RequireDualStack", "clusterIPs": ["10.96.0.77", "fd00:10:96:0::77"], "clusterIP": "10.96.0.77" });
    let made = services.create(service("a", both)).await.unwrap();
    assert_eq!(shape(&made), "RequireDualStack IPv4,IPv6 4,6");
    let address = client.all(&IP_ADDRESSES).get("fd00:10:96::77").await.unwrap();
    assert_eq!(meta::label(&address, "ipaddress.kubernetes.io/ip-family"), Some("IPv6"));
    let taken = services.create(service("b", object!({ "clusterIP": "fd00:10:96::77" }))).await.unwrap_err();
    assert!(taken.message.contains("provided IP is already allocated"), "{}", taken.message);
    let outside = services.create(service("b", object!({ "clusterIP": "fd00:99::77" }))).await.unwrap_err();
    assert!(outside.message.contains("The range of valid IPs is fd00:10:96::/112"), "{}", outside.message);
    let two = object!({ "clusterIPs": ["10.96.0.78", "fd00:10:96::78"], "clusterIP": "10.96.0.78" });
    let single = services.create(service("b", two)).await.unwrap_err();
    assert!(single.message.contains("when multiple cluster IPs are specified"), "{}", single.message);
}

#[tokio::test]
async fn a_service_gets_a_second_address_and_gives_it_back_by_its_policy() {
    let (client, services) = services("10.96.0.0/16,fd00:10:96::/112").await;
    let made = services.create(service("a", object!({}))).await.unwrap();
    let policy = |policy: &str| object!({ "spec": { "ipFamilyPolicy": policy } });
    let grown = services.patch("a", "", PatchKind::Merge, policy("RequireDualStack")).await.unwrap();
    assert_eq!(shape(&grown), "RequireDualStack IPv4,IPv6 4,6");
    assert_eq!(grown.str_at(&["spec", "clusterIP"]), made.str_at(&["spec", "clusterIP"]));
    let second = texts(&grown, "clusterIPs")[1].clone();
    assert!(address_names(&client).await.contains(&second));

    let refused = services.patch("a", "", PatchKind::Merge, object!({ "spec": { "ipFamilies": ["IPv4"] } })).await.unwrap_err();
    assert!(refused.message.contains("must be 'SingleStack' to release the secondary IP family"), "{}", refused.message);
    let preferring = services.patch("a", "", PatchKind::Merge, policy("PreferDualStack")).await.unwrap();
    assert_eq!(texts(&preferring, "clusterIPs"), texts(&grown, "clusterIPs"));

    let shrunk = services.patch("a", "", PatchKind::Merge, policy("SingleStack")).await.unwrap();
    assert_eq!(shape(&shrunk), "SingleStack IPv4 4");
    assert_eq!(shrunk.str_at(&["spec", "clusterIP"]), made.str_at(&["spec", "clusterIP"]));
    assert!(!address_names(&client).await.contains(&second));

    let external = object!({ "spec": { "type": "ExternalName", "externalName": "example.com" } });
    services.patch("a", "", PatchKind::Merge, policy("PreferDualStack")).await.unwrap();
    let before = address_names(&client).await.len();
    services.patch("a", "", PatchKind::Merge, external).await.unwrap();
    assert_eq!(address_names(&client).await.len(), before - 2);
}

#[tokio::test]
async fn a_cluster_that_gets_a_second_family_gives_it_to_those_who_ask_from_then_on() {
    let store = in_memory();
    let before = client_of(store.clone(), "10.96.0.0/16").await.within(&SERVICES, "default");
    before.create(service("a", object!({ "ipFamilyPolicy": "PreferDualStack" }))).await.unwrap();
    let client = client_of(store.clone(), "10.96.0.0/16,fd00:10:96::/112").await;
    let range = client.all(&SERVICE_CIDRS).get("kubernetes").await.unwrap();
    assert_eq!(texts(&range, "cidrs"), ["10.96.0.0/16", "fd00:10:96::/112"]);
    let services = client.within(&SERVICES, "default");
    let labelled = object!({ "metadata": { "labels": { "a": "b" } } });
    assert_eq!(shape(&services.patch("a", "", PatchKind::Merge, labelled.clone()).await.unwrap()), "PreferDualStack IPv4 4");
    let requiring = object!({ "spec": { "ipFamilyPolicy": "RequireDualStack" } });
    assert_eq!(shape(&services.patch("a", "", PatchKind::Merge, requiring).await.unwrap()), "RequireDualStack IPv4,IPv6 4,6");
    // And one that loses it leaves Services as they are.
    let after = client_of(store, "10.96.0.0/16").await.within(&SERVICES, "default");
    let other = object!({ "metadata": { "labels": { "a": "c" } } });
    assert_eq!(shape(&after.patch("a", "", PatchKind::Merge, other).await.unwrap()), "RequireDualStack IPv4,IPv6 4,6");
}

#[tokio::test]
async fn ranges_that_are_added_are_used_when_they_are_ready() {
    let (client, services) = services("10.96.0.0/28").await;
    let made = |n: usize| services.create(service(&format!("s{n}"), object!({})));
    // Two are the API's and the DNS' own.
    for n in 0..12 {
        made(n).await.unwrap();
    }
    assert!(made(12).await.unwrap_err().message.contains("range is full"));
    let ranges = client.all(&SERVICE_CIDRS);
    ranges.create(object!({ "metadata": { "name": "more" }, "spec": { "cidrs": ["10.97.0.0/24"] } })).await.unwrap();
    say_ready(&client, "more", "False").await;
    assert!(made(12).await.unwrap_err().message.contains("range is full"));
    say_ready(&client, "more", "True").await;
    assert!(made(12).await.unwrap().str_at(&["spec", "clusterIP"]).starts_with("10.97.0."));
    let asked = services.create(service("asked", object!({ "clusterIP": "10.97.0.200" }))).await.unwrap();
    assert_eq!(asked.str_at(&["spec", "clusterIP"]), "10.97.0.200");
}

async fn say_ready(client: &Client, range: &str, status: &str) {
    let ready = object!({ "status": { "conditions": [{ "type": "Ready", "status": status, "reason": "", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z" }] } });
    client.all(&SERVICE_CIDRS).patch(range, "status", PatchKind::Strategic, ready).await.unwrap();
}

#[tokio::test]
async fn the_ranges_that_a_cluster_began_with_are_given_from_as_their_object_says() {
    let (client, services) = services("10.96.0.0/24").await;
    let asked = |name: &str| services.create(service(name, object!({ "clusterIP": "10.96.0.77" })));
    say_ready(&client, "kubernetes", "False").await;
    assert!(asked("a").await.unwrap_err().message.contains("not in the valid range"));
    assert!(services.create(service("a", object!({}))).await.is_err());
    say_ready(&client, "kubernetes", "True").await;
    asked("a").await.unwrap();
    let held = object!({ "metadata": { "finalizers": ["a.b/c"] } });
    client.all(&SERVICE_CIDRS).patch("kubernetes", "", PatchKind::Merge, held).await.unwrap();
    client.all(&SERVICE_CIDRS).delete("kubernetes", DeleteOptions::default()).await.unwrap();
    assert!(services.create(service("b", object!({}))).await.is_err(), "it goes");
    let more = object!({ "metadata": { "name": "more" }, "spec": { "cidrs": ["10.97.0.0/24"] } });
    client.all(&SERVICE_CIDRS).create(more).await.unwrap();
    let other = services.create(service("b", object!({}))).await.unwrap();
    assert!(other.str_at(&["spec", "clusterIP"]).starts_with("10.97.0."), "{other:?}");
}

#[tokio::test]
async fn the_object_of_the_ranges_that_a_cluster_began_with_comes_back() {
    let server = server(in_memory()).await;
    let client = client_as(&server, User::authenticated("admin", &["system:masters"]));
    let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
    tasks.spawn(server.clone().keep_own_service(Arc::new(cluster()), stop.clone()));
    let ranges = client.all(&SERVICE_CIDRS);
    let before = ranges.get("kubernetes").await.unwrap();
    ranges.delete("kubernetes", DeleteOptions::default()).await.unwrap();
    let again = async {
        loop {
            match ranges.find("kubernetes").await.unwrap() {
                Some(range) => break range,
                None => tokio::task::yield_now().await,
            }
        }
    };
    let after = tokio::time::timeout(Duration::from_secs(30), again).await.unwrap();
    assert_ne!(meta::uid(&after), meta::uid(&before));
    assert_eq!(texts(&after, "cidrs"), ["10.96.0.0/16"]);
    stop.cancel();
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
}

#[tokio::test]
async fn a_service_gives_back_no_address_that_is_anothers_by_now() {
    let (client, services) = services("10.96.0.0/16").await;
    let asking = |name: &str| service(name, object!({ "clusterIP": "10.96.0.77" }));
    services.create(asking("a")).await.unwrap();
    client.all(&IP_ADDRESSES).delete("10.96.0.77", DeleteOptions::default()).await.unwrap();
    services.create(asking("b")).await.unwrap();
    let owner = || async { client.all(&IP_ADDRESSES).get("10.96.0.77").await.unwrap().str_at(&["spec", "parentRef", "name"]).to_string() };
    let external = object!({ "spec": { "type": "ExternalName", "externalName": "example.com" } });
    services.patch("a", "", PatchKind::Merge, external).await.unwrap();
    assert_eq!(owner().await, "b");
    services.delete("a", DeleteOptions::default()).await.unwrap();
    assert_eq!(owner().await, "b");
    services.delete("b", DeleteOptions::default()).await.unwrap();
    assert!(!address_names(&client).await.contains(&"10.96.0.77".to_string()));
}

#[tokio::test]
async fn the_only_address_of_a_range_is_nobodys() {
    let (client, services) = services("10.96.0.0/16,fd00:10:96::/112").await;
    say_ready(&client, "kubernetes", "False").await;
    let one = object!({ "metadata": { "name": "one" }, "spec": { "cidrs": ["fd00:10:97::/128"] } });
    client.all(&SERVICE_CIDRS).create(one).await.unwrap();
    assert!(services.create(service("a", object!({ "ipFamilies": ["IPv6"] }))).await.is_err());
}

#[tokio::test]
async fn a_server_that_is_told_another_range_than_its_cluster_was_made_with_does_not_start() {
    let store = in_memory();
    client_of(store.clone(), "10.96.0.0/16").await;
    let starts = async |ranges: &str| {
        let server = unprepared(store.clone(), Environment::system(), Allocators::within(ranges).unwrap());
        server.bootstrap(&cluster()).await.map_err(|error| error.to_string())
    };
    let refused = starts("10.97.0.0/16").await.unwrap_err();
    for part in ["10.96.0.1", "10.97.0.0/16", "10.97.0.1"] {
        assert!(refused.contains(part), "{refused}");
    }
    assert!(starts("10.0.0.0/8").await.is_err(), "the range is larger, but the address is another one");
    assert_eq!(starts("10.96.0.0/12").await, Ok(()));
}

#[tokio::test]
async fn a_cluster_moves_to_a_range_that_a_service_cidr_announces() {
    let store = in_memory();
    let client = client_of(store.clone(), "10.96.0.0/16").await;
    let (ranges, services) = (client.all(&SERVICE_CIDRS), client.within(&SERVICES, "default"));
    services.create(service("stays", object!({ "clusterIP": "10.96.0.77" }))).await.unwrap();
    // As the controller holds it.
    let held = object!({ "metadata": { "finalizers": ["networking.k8s.io/service-cidr-finalizer"] } });
    ranges.patch("kubernetes", "", PatchKind::Merge, held).await.unwrap();
    let next = object!({ "metadata": { "name": "next" }, "spec": { "cidrs": ["10.97.0.0/16"] } });
    ranges.create(next).await.unwrap();
    say_ready(&client, "next", "False").await;
    let unready = unprepared(store.clone(), Environment::system(), Allocators::within("10.97.0.0/16").unwrap());
    assert!(unready.bootstrap(&cluster()).await.is_err(), "nothing is given from it yet");
    say_ready(&client, "next", "True").await;
    // Once more changes nothing.
    for _ in 0..2 {
        let client = client_of(store.clone(), "10.97.0.0/16").await;
        let address = async |namespace: &str, name: &str| {
            client.within(&SERVICES, namespace).get(name).await.unwrap().str_at(&["spec", "clusterIP"]).to_string()
        };
        assert_eq!([address("default", "kubernetes").await, address("kube-system", "kube-dns").await], ["10.97.0.1", "10.97.0.10"]);
        assert_eq!(address("default", "stays").await, "10.96.0.77");
        let made = client.within(&SERVICES, "default").create(service("new", object!({}))).await.unwrap();
        assert!(made.str_at(&["spec", "clusterIP"]).starts_with("10.97."));
        client.within(&SERVICES, "default").delete("new", DeleteOptions::default()).await.unwrap();
        assert!(meta::is_terminating(&client.all(&SERVICE_CIDRS).get("kubernetes").await.unwrap()));
    }
}

/// A cluster that begins with 10.96.0.0/16 and has a ServiceCIDR of 10.97.0.0/16.
async fn about_to_move(store: &Arc<dyn Store>) -> Client {
    let client = client_of(store.clone(), "10.96.0.0/16").await;
    let held = object!({ "metadata": { "finalizers": ["networking.k8s.io/service-cidr-finalizer"] } });
    client.all(&SERVICE_CIDRS).patch("kubernetes", "", PatchKind::Merge, held).await.unwrap();
    client.all(&SERVICE_CIDRS).create(object!({ "metadata": { "name": "next" }, "spec": { "cidrs": ["10.97.0.0/16"] } })).await.unwrap();
    client
}

async fn starts(store: &Arc<dyn Store>, ranges: &str, cluster: Cluster) -> Result<(), String> {
    let server = unprepared(store.clone(), Environment::system(), Allocators::within(ranges).unwrap());
    server.bootstrap(&cluster).await.map_err(|error| error.to_string())
}

async fn address_of(client: &Client, namespace: &str, name: &str) -> String {
    client.within(&SERVICES, namespace).get(name).await.unwrap().str_at(&["spec", "clusterIP"]).to_string()
}

#[tokio::test]
async fn a_cluster_stays_where_it_is_while_somebody_has_the_addresses_that_its_own_services_would_get() {
    let store = in_memory();
    let client = about_to_move(&store).await;
    let services = client.within(&SERVICES, "default");
    for (name, address) in [("first", "10.97.0.1"), ("tenth", "10.97.0.10")] {
        services.create(service(name, object!({ "clusterIP": address }))).await.unwrap();
        let refused = starts(&store, "10.97.0.0/16", cluster()).await.unwrap_err();
        assert!(refused.contains(&format!("default/{name}")) && refused.contains(address), "{refused}");
        assert_eq!(address_of(&client, "default", "kubernetes").await, "10.96.0.1");
        assert_eq!(address_of(&client, "kube-system", "kube-dns").await, "10.96.0.10");
        assert_eq!(starts(&store, "10.96.0.0/16", cluster()).await, Ok(()));
        services.delete(name, DeleteOptions::default()).await.unwrap();
    }
    assert_eq!(starts(&store, "10.97.0.0/16", cluster()).await, Ok(()));
    // A move that was cut off is gone on with, and not back.
    services.delete("kubernetes", DeleteOptions::default()).await.unwrap();
    let back = starts(&store, "10.96.0.0/16", cluster()).await.unwrap_err();
    assert!(back.contains("moved out of 10.96.0.0/16"), "{back}");
    assert_eq!(starts(&store, "10.97.0.0/16", cluster()).await, Ok(()));
    assert_eq!(address_of(&client, "default", "kubernetes").await, "10.97.0.1");
}

#[tokio::test]
async fn a_dns_service_of_somebody_else_moves_with_all_that_it_has_or_stays_where_it_is() {
    let store = in_memory();
    let client = about_to_move(&store).await;
    let dns = client.within(&SERVICES, "kube-system");
    let own = object!({ "metadata": { "labels": { "mine": "yes" } }, "spec": { "selector": { "k8s-app": "coredns" } } });
    dns.patch("kube-dns", "", PatchKind::Merge, own).await.unwrap();
    assert_eq!(starts(&store, "10.97.0.0/16", cluster()).await, Ok(()));
    let moved = dns.get("kube-dns").await.unwrap();
    assert_eq!(texts(&moved, "clusterIPs"), ["10.97.0.10"]);
    assert_eq!((meta::label(&moved, "mine"), moved.str_at(&["spec", "selector", "k8s-app"])), (Some("yes"), "coredns"));
    assert_eq!(moved.list_at(&["spec", "ports"]).len(), 2);

    let store = in_memory();
    let client = about_to_move(&store).await;
    let dns = client.within(&SERVICES, "kube-system");
    dns.delete("kube-dns", DeleteOptions::default()).await.unwrap();
    let elsewhere = dns.create(service("kube-dns", object!({ "clusterIP": "10.97.0.53" }))).await.unwrap();
    assert_eq!(starts(&store, "10.97.0.0/16", cluster()).await, Ok(()));
    assert_eq!(meta::uid(&dns.get("kube-dns").await.unwrap()), meta::uid(&elsewhere));
    assert_eq!(address_of(&client, "default", "kubernetes").await, "10.97.0.1");
}

#[tokio::test]
async fn servers_that_are_told_different_ranges_do_not_move_the_cluster_from_each_other() {
    let store = in_memory();
    let client = about_to_move(&store).await;
    let shared = || Cluster { shared: true, ..cluster() };
    let other = Key::from("/registry/masterleases/192.0.2.2");
    let there = |operation: Operation| store.commit(Transaction::new(vec![operation]));
    there(Operation::put(other.clone(), "")).await.unwrap();
    let refused = starts(&store, "10.97.0.0/16", shared()).await.unwrap_err();
    assert!(refused.contains("192.0.2.2"), "{refused}");
    there(Operation::delete(other.clone())).await.unwrap();
    let left = unprepared(store.clone(), Environment::system(), Allocators::within("10.96.0.0/16").unwrap());
    assert_eq!(starts(&store, "10.97.0.0/16", shared()).await, Ok(()));
    // The old range goes, and one that still has the old flag does not bring it back.
    there(Operation::put(other, "")).await.unwrap();
    let ranges = client.all(&SERVICE_CIDRS);
    ranges.patch("kubernetes", "", PatchKind::Merge, object!({ "metadata": { "finalizers": null } })).await.unwrap();
    let (mut tasks, stop) = (JoinSet::new(), CancellationToken::new());
    tasks.spawn(left.keep_own_service(Arc::new(shared()), stop.clone()));
    let endpoints = client.within(&fram_client::resources::ENDPOINT_SLICES, "default");
    let looked = async {
        while endpoints.get("kubernetes").await.unwrap().list_at(&["endpoints"]).len() != 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), looked).await.unwrap();
    assert!(ranges.find("kubernetes").await.unwrap().is_none());
    stop.cancel();
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
}
