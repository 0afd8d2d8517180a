//! Custom resources that come and go while others depend on them, and kinds that other servers do not tell of.

use fram_client::resources::{CONFIG_MAPS, NAMESPACES, SECRETS};
use fram_client::{DeleteOptions, Resource};
use fram_controllers::KindInfo;
use fram_machinery::{Value, meta, object};

use crate::bad_days::{Day, run, wait};
use crate::users::NAMESPACE;

const DEFINITIONS: Resource = Resource::new("apiextensions.k8s.io", "v1", "customresourcedefinitions");
const THINGS: Resource = Resource::new("x.example", "v1", "things");

fn definition() -> Value {
    object!({ "metadata": { "name": "things.x.example" }, "spec": { "group": "x.example", "scope": "Namespaced",
        "names": { "plural": "things", "kind": "Thing" },
        "versions": [{ "name": "v1", "served": true, "storage": true, "schema": { "openAPIV3Schema": { "type": "object" } } }] } })
}

fn owned(name: &str, api_version: &str, kind: &str, owner: &Value) -> Value {
    let reference = object!({ "apiVersion": api_version, "kind": kind, "name": (meta::name(owner)), "uid": (meta::uid(owner)),
        "blockOwnerDeletion": true });
    object!({ "metadata": { "name": name, "ownerReferences": [reference] } })
}

/// A day on which definitions are served, and controllers hear of their kinds.
async fn day() -> Day {
    let day = Day::new(0).await;
    let (server, stop) = (day.world.server.clone(), day.stop.clone());
    day.tasks.spawn(server.clone().follow_definitions(stop.clone()));
    let (mut api, sender) = (server.registry.follow_api(), day.world.custom_kinds.clone());
    day.tasks.spawn(stop.run_until_cancelled_owned(async move {
        loop {
            let kinds = api.borrow_and_update().custom().flat_map(|c| c.served.iter().map(|kind| KindInfo::of(kind))).collect();
            sender.send_replace(kinds);
            if api.changed().await.is_err() {
                return;
            }
        }
    }));
    day
}

#[test]
fn what_a_custom_resource_owns_goes_with_its_definition() {
    run(async {
        let day = day().await;
        let (definitions, maps) = (day.client.all(&DEFINITIONS), day.client.within(&CONFIG_MAPS, NAMESPACE));
        for round in 0..30 {
            definitions.create(definition()).await.unwrap();
            wait(5).await;
            for n in 0..5 {
                let thing = object!({ "apiVersion": "x.example/v1", "kind": "Thing", "metadata": { "name": (format!("t-{n}")) } });
                let thing = day.client.within(&THINGS, NAMESPACE).create(thing).await.unwrap();
                maps.create(owned(&format!("m-{round}-{n}"), "x.example/v1", "Thing", &thing)).await.unwrap();
            }
            wait(5).await;
            // What followers hear of may be late.
            day.world.faults.set(round > 0);
            definitions.delete("things.x.example", DeleteOptions::default()).await.unwrap();
            wait(60).await;
            day.world.faults.set(false);
            wait(60).await;
            assert!(definitions.find("things.x.example").await.unwrap().is_none());
            let left: Vec<String> = day.list(&CONFIG_MAPS).await.iter().map(|m| meta::name(m).to_string()).collect();
            assert!(left.iter().all(|name| !name.starts_with("m-")), "round {round}: {left:?}");
        }
        day.end().await;
    });
}

#[test]
fn an_owner_whose_definition_comes_later_is_judged_then() {
    run(async {
        let day = day().await;
        let maps = day.client.within(&CONFIG_MAPS, NAMESPACE);
        let nobody = object!({ "metadata": { "name": "nobody", "uid": "11111111-1111-1111-1111-111111111111" } });
        maps.create(owned("early", "x.example/v1", "Thing", &nobody)).await.unwrap();
        wait(600).await;
        assert!(maps.find("early").await.unwrap().is_some());
        day.client.all(&DEFINITIONS).create(definition()).await.unwrap();
        wait(10).await;
        assert!(maps.find("early").await.unwrap().is_none());
        day.end().await;
    });
}

#[test]
fn what_a_kind_that_went_owned_stays_while_another_server_of_its_group_is_not_heard_of() {
    run(async {
        let day = day().await;
        let (definitions, maps) = (day.client.all(&DEFINITIONS), day.client.within(&CONFIG_MAPS, NAMESPACE));
        definitions.create(definition()).await.unwrap();
        wait(5).await;
        let thing = object!({ "apiVersion": "x.example/v1", "kind": "Thing", "metadata": { "name": "t" } });
        let thing = day.client.within(&THINGS, NAMESPACE).create(thing).await.unwrap();
        maps.create(owned("m", "x.example/v1", "Thing", &thing)).await.unwrap();
        wait(5).await;
        day.world.undiscovered.send_replace(["x.example/v2".to_string()].into());
        definitions.delete("things.x.example", DeleteOptions::default()).await.unwrap();
        wait(60).await;
        maps.create(owned("late", "x.example/v1", "Thing", &thing)).await.unwrap();
        wait(600).await;
        assert!(definitions.find("things.x.example").await.unwrap().is_none());
        assert!(maps.find("late").await.unwrap().is_some());
        day.world.undiscovered.send_replace(Default::default());
        wait(60).await;
        assert!(maps.find("late").await.unwrap().is_none() && maps.find("m").await.unwrap().is_none());
        day.end().await;
    });
}

#[test]
fn a_namespace_waits_for_kinds_that_nobody_tells_of_and_loses_the_rest_meanwhile() {
    run(async {
        let mut day = Day::new(0).await;
        let (namespaces, secrets) = (day.client.all(&NAMESPACES), day.client.within(&SECRETS, "doomed"));
        let named = |name: &str| object!({ "metadata": { "name": name } });
        namespaces.create(named("doomed")).await.unwrap();
        secrets.create(named("s")).await.unwrap();
        day.world.undiscovered.send_replace(["a.com/v1".to_string()].into());
        wait(5).await;
        namespaces.delete("doomed", DeleteOptions::default()).await.unwrap();
        wait(60).await;
        let held = namespaces.get("doomed").await.unwrap();
        let condition = meta::condition(&held, "NamespaceDeletionDiscoveryFailure").unwrap();
        assert_eq!((condition.str_at(&["status"]), condition.str_at(&["reason"])), ("True", "DiscoveryFailed"));
        let fine = meta::condition(&held, "NamespaceContentRemaining").unwrap().clone();
        assert_eq!((fine.str_at(&["status"]), secrets.find("s").await.unwrap().is_none()), ("False", true));
        day.count();
        wait(3600).await;
        assert_eq!(day.asked("namespace-controller"), 0, "nothing happens meanwhile");
        day.world.undiscovered.send_replace(Default::default());
        wait(5).await;
        assert!(namespaces.find("doomed").await.unwrap().is_none());
        day.end().await;
    });
}
