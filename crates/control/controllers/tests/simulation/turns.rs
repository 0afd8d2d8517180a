//! How often controllers are asked for a turn: for what concerns them, and not for every change of what they follow.

use std::collections::BTreeMap;

use fram_client::PatchKind;
use fram_client::resources::{DEPLOYMENTS, ENDPOINT_SLICES, PODS, SERVICES};
use fram_machinery::{meta, object};

use crate::bad_days::{Day, deployment, run, wait};
use crate::bad_input::{make, template};
use crate::users::NAMESPACE;

type Turns = BTreeMap<&'static str, (u64, u64)>;

/// How often each was asked for a turn since then, and how many turns it took.
fn since(day: &Day, before: &Turns) -> Turns {
    let more = |(name, (adds, turns)): (&'static str, (u64, u64))| {
        let (adds_before, turns_before) = before.get(name).copied().unwrap_or_default();
        let more = (adds - adds_before, turns - turns_before);
        (more != (0, 0)).then_some((name, more))
    };
    day.turns().into_iter().filter_map(more).collect()
}

fn asked(turns: &Turns) -> u64 {
    turns.values().map(|(adds, _)| adds).sum()
}

#[test]
fn a_lease_that_is_renewed_asks_for_no_turn_and_its_node_is_looked_at_once_in_its_grace_period() {
    const NODES: u64 = 20;
    run(async {
        let day = Day::new(NODES as usize).await;
        wait(120).await;
        let before = day.turns();
        wait(600).await;
        let turns = since(&day, &before);
        println!("600 s of {NODES} nodes: {turns:?}");
        assert_eq!(asked(&turns), 0, "{turns:?}");
        assert!(turns.values().map(|(_, turns)| turns).sum::<u64>() <= NODES * (600 / 30), "{turns:?}");
        day.end().await;
    });
}

#[test]
fn the_life_of_a_pod_asks_for_few_turns() {
    const PODS_OF_EACH: u64 = 100;
    run(async {
        let day = Day::new(4).await;
        let before = day.turns();
        for n in 0..PODS_OF_EACH {
            make(&day.client, &PODS, &format!("alone-{n}"), template(object!({ "app": "alone" }), "serve")).await;
        }
        wait(60).await;
        for n in 0..PODS_OF_EACH {
            day.client.within(&PODS, NAMESPACE).delete(&format!("alone-{n}"), Default::default()).await.unwrap();
        }
        wait(60).await;
        let alone = since(&day, &before);
        println!("{PODS_OF_EACH} pods by themselves, made, bound, started, deleted: {} times: {alone:?}", asked(&alone));
        assert_eq!(asked(&alone), 0, "{alone:?}");

        let before = day.turns();
        make(&day.client, &DEPLOYMENTS, "web", deployment(PODS_OF_EACH as i64)).await;
        wait(60).await;
        let none = object!({ "spec": { "replicas": 0 } });
        day.client.within(&DEPLOYMENTS, NAMESPACE).patch("web", "", PatchKind::Merge, none).await.unwrap();
        wait(60).await;
        let owned = since(&day, &before);
        println!("{PODS_OF_EACH} pods of a Deployment, the same: {} times: {owned:?}", asked(&owned));
        assert!(asked(&owned) <= 14 * PODS_OF_EACH, "{owned:?}");
        day.end().await;
    });
}

#[test]
fn roll_outs_and_endpoints_ask_the_server_for_nothing_that_the_caches_know() {
    run(async {
        let mut day = Day::new(4).await;
        make(&day.client, &SERVICES, "web", object!({ "spec": { "selector": { "app": "web" }, "ports": [{ "port": 80 }] } })).await;
        day.count();
        make(&day.client, &DEPLOYMENTS, "web", deployment(20)).await;
        wait(60).await;
        let again = object!({ "spec": { "template": { "metadata": { "annotations": { "again": "yes" } } } } });
        day.client.within(&DEPLOYMENTS, NAMESPACE).patch("web", "", PatchKind::Merge, again).await.unwrap();
        wait(60).await;
        let mut slices = day.list(&ENDPOINT_SLICES).await;
        slices.retain(|s| meta::label(s, "kubernetes.io/service-name") == Some("web"));
        let endpoints: usize = slices.iter().map(|s| s.list_at(&["endpoints"]).len()).sum();
        assert_eq!((slices.len(), endpoints), (1, 20));
        for who in ["deployment-controller", "endpointslice-controller", "endpoint-controller"] {
            let (lists, gets) = (day.asked(&format!("{who} list")), day.asked(&format!("{who} get")));
            assert_eq!((lists, gets), (0, 0), "{who}");
            assert!(day.asked(who) > 0, "{who} did nothing");
        }
        day.end().await;
    });
}
