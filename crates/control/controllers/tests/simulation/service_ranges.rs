//! Ranges of Services' addresses that come and go, and addresses that somebody writes by hand, with the whole control plane around them.

use fram_client::DeleteOptions;
use fram_client::resources::{EVENTS, IP_ADDRESSES, SERVICE_CIDRS, SERVICES};
use fram_machinery::{Status, Value, meta, object};

use crate::bad_days::{Day, run, wait};
use crate::users::NAMESPACE;

async fn make_range(day: &Day, name: &str, cidr: &str) {
    let range = object!({ "metadata": { "name": name }, "spec": { "cidrs": [cidr] } });
    day.client.all(&SERVICE_CIDRS).create(range).await.unwrap();
}

async fn make_service(day: &Day, name: &str, address: &str) -> Result<(), Status> {
    let service = object!({ "metadata": { "name": name }, "spec": { "clusterIP": address, "ports": [{ "port": 80 }] } });
    day.client.within(&SERVICES, NAMESPACE).create(service).await.map(drop)
}

/// What a range says of itself; None where there is none.
async fn readiness(day: &Day, range: &str) -> Option<[String; 2]> {
    let range = day.client.all(&SERVICE_CIDRS).find(range).await.unwrap()?;
    let ready: Value = meta::condition(&range, "Ready").cloned().unwrap_or_default();
    Some(["status", "reason"].map(|field| ready.str_at(&[field]).to_string()))
}

fn said(status: &str, reason: &str) -> Option<[String; 2]> {
    Some([status.into(), reason.into()])
}

#[test]
fn a_range_that_is_deleted_gives_nothing_more_and_goes_after_its_last_service() {
    run(async {
        let day = Day::new(0).await;
        make_range(&day, "more", "10.97.0.0/24").await;
        wait(5).await;
        assert_eq!(readiness(&day, "more").await, said("True", ""));
        make_service(&day, "a", "10.97.0.9").await.unwrap();
        day.client.all(&SERVICE_CIDRS).delete("more", DeleteOptions::default()).await.unwrap();
        wait(60).await;
        assert_eq!(readiness(&day, "more").await, said("False", "Terminating"));
        assert!(make_service(&day, "b", "10.97.0.10").await.is_err());
        day.client.within(&SERVICES, NAMESPACE).delete("a", DeleteOptions::default()).await.unwrap();
        wait(60).await;
        assert_eq!(readiness(&day, "more").await, None);
        day.end().await;
    });
}

#[test]
fn two_ranges_that_are_deleted_together_both_wait_for_who_has_their_addresses() {
    run(async {
        let day = Day::new(0).await;
        for (name, cidr) in [("one", "10.97.0.0/24"), ("other", "10.97.0.0/16")] {
            make_range(&day, name, cidr).await;
        }
        wait(5).await;
        make_service(&day, "a", "10.97.0.9").await.unwrap();
        for name in ["one", "other"] {
            day.client.all(&SERVICE_CIDRS).delete(name, DeleteOptions::default()).await.unwrap();
        }
        wait(60).await;
        let both = (readiness(&day, "one").await, readiness(&day, "other").await);
        assert_eq!(both, (said("False", "Terminating"), said("False", "Terminating")));
        make_range(&day, "third", "10.97.0.0/20").await;
        wait(60).await;
        assert_eq!((readiness(&day, "one").await, readiness(&day, "other").await), (None, None), "another one covers the address");
        day.end().await;
    });
}

/// Of which Service an address is; None where there is none.
async fn owner(day: &Day, address: &str) -> Option<String> {
    let address = day.client.all(&IP_ADDRESSES).find(address).await.unwrap()?;
    Some(address.str_at(&["spec", "parentRef", "name"]).into())
}

async fn free(day: &Day, address: &str) {
    day.client.all(&IP_ADDRESSES).delete(address, DeleteOptions::default()).await.unwrap();
}

/// An address made by hand, as the allocator's or not.
async fn make_address(day: &Day, name: &str, by_allocator: bool, parent: Value) {
    let mut address = object!({ "metadata": { "name": name }, "spec": { "parentRef": parent } });
    if by_allocator {
        let labels = object!({ "ipaddress.kubernetes.io/ip-family": "IPv4", "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io" });
        address.set(&["metadata", "labels"], labels);
    }
    day.client.all(&IP_ADDRESSES).create(address).await.unwrap();
}

/// The reasons of the events of an object, by its name.
pub(crate) async fn told(day: &Day, name: &str) -> Vec<String> {
    let all = day.client.all(&EVENTS).list(Default::default()).await.unwrap().items;
    let of_it = all.iter().filter(|event| event.str_at(&["involvedObject", "name"]) == name);
    of_it.map(|event| event.str_at(&["reason"]).to_string()).collect()
}

#[test]
fn an_address_that_somebody_deletes_is_its_services_again() {
    run(async {
        let day = Day::new(0).await;
        make_service(&day, "a", "10.96.0.77").await.unwrap();
        wait(5).await;
        free(&day, "10.96.0.77").await;
        wait(5).await;
        assert_eq!(owner(&day, "10.96.0.77").await.as_deref(), Some("a"));
        assert_eq!(told(&day, "a").await, ["ClusterIPNotAllocated"]);
        assert!(make_service(&day, "b", "10.96.0.77").await.is_err());
        day.client.within(&SERVICES, NAMESPACE).delete("a", DeleteOptions::default()).await.unwrap();
        wait(5).await;
        assert_eq!(owner(&day, "10.96.0.77").await, None);
        day.end().await;
    });
}

#[test]
fn an_address_under_another_parent_is_taken_back() {
    run(async {
        let day = Day::new(0).await;
        make_service(&day, "a", "10.96.0.77").await.unwrap();
        wait(5).await;
        free(&day, "10.96.0.77").await;
        make_address(&day, "10.96.0.77", false, object!({ "group": "g.example", "resource": "gateways", "name": "z" })).await;
        wait(5).await;
        assert_eq!(owner(&day, "10.96.0.77").await.as_deref(), Some("a"));
        assert_eq!(told(&day, "a").await, ["ClusterIPNotAllocated"]);
        day.end().await;
    });
}

#[test]
fn of_two_services_with_one_address_the_second_has_it_and_the_first_is_told_until_it_is_free() {
    run(async {
        let day = Day::new(0).await;
        make_service(&day, "a", "10.96.0.77").await.unwrap();
        wait(5).await;
        free(&day, "10.96.0.77").await;
        make_service(&day, "b", "10.96.0.77").await.unwrap();
        wait(5).await;
        assert_eq!(owner(&day, "10.96.0.77").await.as_deref(), Some("b"));
        assert_eq!(told(&day, "a").await, ["ClusterIPAlreadyAllocated"]);
        day.client.within(&SERVICES, NAMESPACE).delete("b", DeleteOptions::default()).await.unwrap();
        wait(5).await;
        assert_eq!(owner(&day, "10.96.0.77").await.as_deref(), Some("a"));
        day.end().await;
    });
}

#[test]
fn an_address_of_the_allocator_that_no_service_has_goes() {
    run(async {
        let day = Day::new(0).await;
        make_service(&day, "a", "10.96.0.77").await.unwrap();
        let service = |name: &str| object!({ "resource": "services", "namespace": NAMESPACE, "name": name });
        make_address(&day, "10.96.0.78", true, service("nobody")).await;
        make_address(&day, "10.96.0.79", true, service("a")).await;
        make_address(&day, "10.96.0.80", false, service("nobody")).await;
        wait(5).await;
        for (address, expect) in [("77", Some("a")), ("78", None), ("79", None), ("80", Some("nobody"))] {
            assert_eq!(owner(&day, &format!("10.96.0.{address}")).await.as_deref(), expect, "{address}");
        }
        assert_eq!(told(&day, "10.96.0.78").await, ["IPAddressNotAllocated"]);
        assert_eq!(told(&day, "10.96.0.79").await, ["IPAddressWrongReference"]);
        day.end().await;
    });
}

#[test]
fn services_outside_of_all_ranges_are_told_so_and_have_their_addresses_again_with_a_range() {
    run(async {
        let day = Day::new(0).await;
        make_range(&day, "more", "10.97.0.0/24").await;
        wait(5).await;
        make_service(&day, "a", "10.97.0.9").await.unwrap();
        let ranges = day.client.all(&SERVICE_CIDRS);
        ranges.delete("more", DeleteOptions::default()).await.unwrap();
        wait(60).await;
        assert_eq!(told(&day, "a").await, [""; 0]);
        let released = object!({ "metadata": { "finalizers": null } });
        ranges.patch("more", "", fram_client::PatchKind::Merge, released).await.unwrap();
        wait(5).await;
        assert_eq!(told(&day, "a").await, ["ClusterIPOutOfRange"]);
        free(&day, "10.97.0.9").await;
        wait(5).await;
        assert_eq!(owner(&day, "10.97.0.9").await, None);
        make_range(&day, "again", "10.97.0.0/20").await;
        wait(5).await;
        assert_eq!(owner(&day, "10.97.0.9").await.as_deref(), Some("a"));
        day.end().await;
    });
}
