//! Ranges of Services' addresses that come and go, with the whole control plane around them.

use fram_client::DeleteOptions;
use fram_client::resources::{SERVICE_CIDRS, SERVICES};
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
