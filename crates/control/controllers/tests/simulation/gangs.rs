//! Pods that run together or not at all, with the whole control plane around the scheduler.

use fram_api::Api;
use fram_client::DeleteOptions;
use fram_client::resources::{POD_GROUPS, PODS, PRIORITY_CLASSES};
use fram_machinery::{Value, meta, object};

use crate::bad_days::{Day, run, wait};
use crate::bad_input::{make, template};
use crate::users::NAMESPACE;
use crate::world::World;

fn gang(minimum: i64) -> Value {
    object!({ "spec": { "podGroupTemplateRef": null, "schedulingPolicy": { "gang": { "minCount": minimum } } } })
}

/// Four of these fit on a node.
fn member(group: &str) -> Value {
    let mut pod = template(object!({ "group": group }), "serve");
    pod.set(&["spec", "schedulingGroup"], object!({ "podGroupName": group }));
    let container = object!({ "name": "c", "image": "i", "resources": { "requests": { "cpu": "16" } } });
    pod.set(&["spec", "containers"], object!([container]));
    pod
}

/// The pods of a group that have a node.
async fn placed(day: &Day, group: &str) -> usize {
    let pods = day.list(&PODS).await;
    pods.iter().filter(|p| meta::label(p, "group") == Some(group) && !p.str_at(&["spec", "nodeName"]).is_empty()).count()
}

async fn condition(day: &Day, group: &str) -> String {
    let object = day.client.within(&POD_GROUPS, NAMESPACE).get(group).await.unwrap();
    let condition = meta::condition(&object, "PodGroupScheduled").cloned().unwrap_or_default();
    format!("{} {}", condition.str_at(&["status"]), condition.str_at(&["reason"]))
}

#[test]
fn of_two_gangs_that_do_not_both_fit_one_runs_and_the_other_holds_nothing() {
    run(async {
        let api = Api::chosen(&"scheduling.k8s.io/v1alpha2=true".parse().unwrap()).unwrap();
        let day = Day::in_world(World::serving(1, api).await, 2).await;
        for member_of in 0..5 {
            for group in ["one", "two"] {
                make(&day.client, &PODS, &format!("{group}-{member_of}"), member(group)).await;
            }
        }
        // Neither has its PodGroup, then neither has all of its pods.
        wait(20).await;
        make(&day.client, &POD_GROUPS, "one", gang(6)).await;
        make(&day.client, &POD_GROUPS, "two", gang(6)).await;
        wait(20).await;
        assert_eq!((placed(&day, "one").await, placed(&day, "two").await), (0, 0));
        make(&day.client, &PODS, "two-5", member("two")).await;
        wait(2).await;
        make(&day.client, &PODS, "one-5", member("one")).await;
        wait(20).await;
        assert_eq!((placed(&day, "one").await, placed(&day, "two").await), (0, 6));
        assert_eq!((condition(&day, "one").await, condition(&day, "two").await), ("False Unschedulable".into(), "True Scheduled".into()));
        // Room for two more is no room for six.
        wait(600).await;
        assert_eq!(placed(&day, "one").await, 0);
        for pod in day.list(&PODS).await.iter().filter(|p| meta::label(p, "group") == Some("two")) {
            day.client.within(&PODS, NAMESPACE).delete(meta::name(pod), DeleteOptions::default()).await.unwrap();
        }
        // What its pods use stays until they are gone.
        day.client.within(&POD_GROUPS, NAMESPACE).delete("two", DeleteOptions::default()).await.unwrap();
        wait(1).await;
        assert!(day.client.within(&POD_GROUPS, NAMESPACE).find("two").await.unwrap().is_some());
        wait(120).await;
        assert!(day.client.within(&POD_GROUPS, NAMESPACE).find("two").await.unwrap().is_none());
        assert_eq!((placed(&day, "one").await, condition(&day, "one").await), (6, "True Scheduled".into()));
        day.end().await;
    });
}

/// A pod that has a node of 64 nearly to itself.
fn large(behaviour: &str) -> Value {
    let mut pod = template(object!({}), behaviour);
    let container = object!({ "name": "c", "image": "i", "resources": { "requests": { "cpu": "40" } } });
    pod.set(&["spec", "containers"], object!([container]));
    pod
}

/// One of the gang that sends such pods away.
fn important() -> Value {
    let mut pod = large("serve");
    pod.set(&["metadata", "labels"], object!({ "group": "gang" }));
    pod.set(&["spec", "schedulingGroup"], object!({ "podGroupName": "gang" }));
    pod.set(&["spec", "priorityClassName"], "high");
    pod
}

async fn node_of(day: &Day, pod: &str) -> String {
    day.client.within(&PODS, NAMESPACE).get(pod).await.unwrap().str_at(&["spec", "nodeName"]).to_string()
}

async fn nominated(day: &Day, pod: &str) -> String {
    day.client.within(&PODS, NAMESPACE).get(pod).await.unwrap().str_at(&["status", "nominatedNodeName"]).to_string()
}

/// Two nodes with a pod each, `quick` and `slow`, that a gang of two has sent away. One of them is gone after seconds, the other after
/// two minutes.
async fn half_way() -> Day {
    let api = Api::chosen(&"scheduling.k8s.io/v1alpha2=true".parse().unwrap()).unwrap();
    let day = Day::in_world(World::serving(1, api).await, 2).await;
    let class = object!({ "metadata": { "name": "high" }, "value": 1000 });
    day.client.all(&PRIORITY_CLASSES).create(class).await.unwrap();
    make(&day.client, &PODS, "quick", large("serve")).await;
    make(&day.client, &PODS, "slow", large("linger:120")).await;
    wait(10).await;
    make(&day.client, &POD_GROUPS, "gang", gang(2)).await;
    for name in ["gang-0", "gang-1"] {
        make(&day.client, &PODS, name, important()).await;
    }
    day
}

#[test]
fn a_gang_keeps_the_rooms_that_are_made_for_it_until_the_last_is_free() {
    run(async {
        let day = half_way().await;
        make(&day.client, &PODS, "low", large("serve")).await;
        wait(60).await;
        assert!(day.client.within(&PODS, NAMESPACE).find("quick").await.unwrap().is_none());
        assert_eq!((placed(&day, "gang").await, node_of(&day, "low").await), (0, String::new()));
        let rooms = [nominated(&day, "gang-0").await, nominated(&day, "gang-1").await];
        assert!(rooms[0] != rooms[1] && rooms.iter().all(|room| !room.is_empty()), "{rooms:?}");
        wait(90).await;
        assert_eq!((placed(&day, "gang").await, condition(&day, "gang").await), (2, "True Scheduled".into()));
        assert_eq!([node_of(&day, "gang-0").await, node_of(&day, "gang-1").await], rooms);
        assert_eq!(node_of(&day, "low").await, "");
        day.end().await;
    });
}

#[test]
fn a_room_that_a_gang_gives_up_goes_to_who_waits_for_it() {
    run(async {
        let day = half_way().await;
        wait(10).await;
        let slow = node_of(&day, "slow").await;
        let (lost, kept) = if nominated(&day, "gang-0").await == slow { ("gang-0", "gang-1") } else { ("gang-1", "gang-0") };
        let free = nominated(&day, kept).await;
        let delete = async |name| {
            let at_once = DeleteOptions { grace_period_seconds: Some(0), ..Default::default() };
            day.client.within(&PODS, NAMESPACE).delete(name, at_once).await.unwrap();
        };
        // Who was to have the other room goes, and somebody takes it past the scheduler, for good.
        delete(lost).await;
        let mut taken = large("serve");
        taken.set(&["spec", "priorityClassName"], "high");
        taken.set(&["spec", "nodeName"], slow.as_str());
        make(&day.client, &PODS, "taken", taken).await;
        delete("slow").await;
        wait(10).await;
        make(&day.client, &PODS, "low", large("serve")).await;
        wait(10).await;
        assert_eq!((nominated(&day, kept).await, node_of(&day, "low").await), (free.clone(), String::new()));
        // There is no room for its successor, so there is none for the gang.
        make(&day.client, &PODS, "gang-2", important()).await;
        wait(10).await;
        assert_eq!((placed(&day, "gang").await, node_of(&day, "low").await), (0, free));
        assert_eq!(nominated(&day, kept).await, "");
        day.end().await;
    });
}
