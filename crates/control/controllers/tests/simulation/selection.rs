//! Controllers that are switched off, with the others around them.

use fram_client::resources::{CONFIG_MAPS, DEPLOYMENTS, ENDPOINT_SLICES, ENDPOINTS, REPLICA_SETS, SERVICE_ACCOUNTS, SERVICES};
use fram_controllers::Selection;
use fram_machinery::{meta, object};

use crate::bad_days::{Day, run, wait};
use crate::users::NAMESPACE;
use crate::world::World;

/// How many there are of kinds that controllers make, where these run.
async fn made(words: &[&str]) -> [usize; 5] {
    let mut world = World::new(1).await;
    world.selection = Selection::new(words.iter().map(|word| word.to_string()).collect()).unwrap();
    let day = Day::in_world(world, 0).await;
    let service = object!({ "metadata": { "name": "s" }, "spec": { "selector": { "app": "a" }, "ports": [{ "port": 80 }] } });
    day.client.within(&SERVICES, NAMESPACE).create(service).await.unwrap();
    let template = object!({ "metadata": { "labels": { "app": "a" } }, "spec": { "containers": [{ "name": "c", "image": "i" }] } });
    let deployment = object!({ "metadata": { "name": "d" },
        "spec": { "selector": { "matchLabels": { "app": "a" } }, "template": (template) } });
    day.client.within(&DEPLOYMENTS, NAMESPACE).create(deployment).await.unwrap();
    wait(30).await;
    let mut counts = Vec::new();
    for resource in [&ENDPOINT_SLICES, &ENDPOINTS, &REPLICA_SETS, &SERVICE_ACCOUNTS, &CONFIG_MAPS] {
        // What leads to the API server itself is its own.
        counts.push(day.list(resource).await.iter().filter(|object| meta::name(object) != "kubernetes").count());
    }
    day.end().await;
    counts.try_into().unwrap()
}

#[test]
fn what_is_switched_off_does_nothing_and_the_others_go_on() {
    run(async {
        assert_eq!(made(&["*"]).await, [1, 1, 1, 1, 1]);
        assert_eq!(made(&["*", "-endpoints-controller"]).await, [1, 0, 1, 1, 1]);
        assert_eq!(made(&["*", "-endpointslice-controller", "-endpointslice-mirroring-controller"]).await, [0, 1, 1, 1, 1]);
        assert_eq!(made(&["endpointslice-controller", "serviceaccount-controller"]).await, [1, 0, 0, 1, 0]);
        assert_eq!(made(&[]).await, [0; 5]);
    });
}
