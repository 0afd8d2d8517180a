//! The addresses of Services in clusters of one family and of both, and in ranges that are added.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod common {
    pub(crate) mod server;
}

use std::sync::Arc;

use common::server::{client_as, in_memory, server, server_with};
use fram_apiserver::allocate::Allocators;
use fram_apiserver::{Environment, User};
use fram_client::resources::{IP_ADDRESSES, SERVICE_CIDRS, SERVICES};
use fram_client::{Client, DeleteOptions, PatchKind, Resources};
use fram_machinery::{Value, meta, object};
use fram_store::Store;

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
    assert!(made(12).await.is_err(), "nobody has said that it is ready");
    let ready = object!({ "status": { "conditions": [{ "type": "Ready", "status": "True", "reason": "", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z" }] } });
    ranges.patch("more", "status", PatchKind::Strategic, ready).await.unwrap();
    assert!(made(12).await.unwrap().str_at(&["spec", "clusterIP"]).starts_with("10.97.0."));
    let asked = services.create(service("asked", object!({ "clusterIP": "10.97.0.200" }))).await.unwrap();
    assert_eq!(asked.str_at(&["spec", "clusterIP"]), "10.97.0.200");
}
