//! Devices that an administrator taints, with the whole control plane around them.

use fram_api::Api;
use fram_client::resources::{DEVICE_CLASSES, EVENTS, NODES, PODS, RESOURCE_CLAIMS, RESOURCE_SLICES};
use fram_client::{DeleteOptions, PatchKind, Resource};
use fram_machinery::{Value, meta, object};

use crate::bad_days::{Day, run, wait};
use crate::bad_input::{make, template};
use crate::users::NAMESPACE;
use crate::world::World;

const RULES: Resource = Resource::new("resource.k8s.io", "v1beta2", "devicetaintrules");

fn claim(tolerations: Value) -> Value {
    let exactly = object!({ "deviceClassName": "any", "tolerations": tolerations });
    object!({ "spec": { "devices": { "requests": [{ "name": "r", "exactly": exactly }] } } })
}

fn user(claim: &str) -> Value {
    let mut pod = template(object!({}), "serve");
    pod.set(&["spec", "resourceClaims"], object!([{ "name": "c", "resourceClaimName": claim }]));
    pod
}

fn rule(selector: Value, effect: &str) -> Value {
    object!({ "spec": { "deviceSelector": selector, "taint": { "key": "broken", "effect": effect } } })
}

/// A node with so many devices, and pods that have one each: `plain`, `patient`, who bears taints for a minute, and `steady`, who bears
/// them.
async fn with_users(devices: usize) -> Day {
    let api = Api::chosen(&"resource.k8s.io/v1beta2=true".parse().unwrap()).unwrap();
    let day = Day::in_world(World::serving(1, api).await, 1).await;
    let node = meta::name(&day.client.all(&NODES).list(Default::default()).await.unwrap().items[0]).to_string();
    let devices: Vec<Value> = (0..devices).map(|n| object!({ "name": (format!("device-{n}")) })).collect();
    let slice = object!({ "metadata": { "name": "slice" }, "spec": { "driver": "d.io", "nodeName": node, "devices": devices,
        "pool": { "name": "pool", "generation": 1, "resourceSliceCount": 1 } } });
    day.client.all(&RESOURCE_SLICES).create(slice).await.unwrap();
    day.client.all(&DEVICE_CLASSES).create(object!({ "metadata": { "name": "any" }, "spec": {} })).await.unwrap();
    let for_a_minute = object!([{ "key": "broken", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 60 }]);
    let always = object!([{ "key": "broken", "operator": "Exists", "effect": "NoExecute" }]);
    for (name, tolerations) in [("plain", object!([])), ("patient", for_a_minute), ("steady", always)] {
        make(&day.client, &RESOURCE_CLAIMS, name, claim(tolerations)).await;
        make(&day.client, &PODS, name, user(name)).await;
    }
    wait(20).await;
    assert_eq!(pods(&day).await, ["patient", "plain", "steady"]);
    day
}

/// The pods that are on a node.
async fn pods(day: &Day) -> Vec<String> {
    let pods = day.list(&PODS).await;
    pods.iter().filter(|p| !p.str_at(&["spec", "nodeName"]).is_empty()).map(|p| meta::name(p).to_string()).collect()
}

async fn condition(day: &Day, rule: &str) -> [String; 3] {
    let rule = day.client.all(&RULES).get(rule).await.unwrap();
    let condition = meta::condition(&rule, "EvictionInProgress").cloned().unwrap_or_default();
    ["status", "reason", "message"].map(|field| condition.str_at(&[field]).to_string())
}

async fn make_rule(day: &Day, name: &str, mut rule: Value) {
    rule.set(&["metadata", "name"], name);
    day.client.all(&RULES).create(rule).await.unwrap();
}

#[test]
fn a_rule_tells_what_it_would_do_and_does_it_when_its_effect_says_so() {
    run(async {
        let day = with_users(4).await;
        make_rule(&day, "r", rule(object!({ "driver": "d.io" }), "None")).await;
        wait(2).await;
        let [status, reason, message] = condition(&day, "r").await;
        assert_eq!((status.as_str(), reason.as_str()), ("False", "NoEffect"));
        assert!(
            message.starts_with("4 published devices selected. 3 allocated devices selected. 2 pods would be evicted in 1 namespace if"),
            "{message}"
        );
        wait(30).await;
        assert_eq!(pods(&day).await, ["patient", "plain", "steady"]);

        let execute = object!({ "spec": { "taint": { "effect": "NoExecute" } } });
        day.client.all(&RULES).patch("r", "", PatchKind::Merge, execute).await.unwrap();
        wait(35).await;
        assert_eq!(pods(&day).await, ["patient", "steady"], "who bears nothing leaves at once");
        let said = condition(&day, "r").await;
        let expect =
            ["True", "PodsPendingEviction", "1 pod needs to be evicted in 1 namespace. 1 pod evicted since starting the controller."];
        assert_eq!(said, expect);
        wait(80).await;
        assert_eq!(pods(&day).await, ["steady"], "and others when their time is over");
        assert_eq!(condition(&day, "r").await, ["False", "Completed", "2 pods evicted since starting the controller."]);
        let told = day.list(&EVENTS).await;
        let told = told.iter().filter(|e| e.str_at(&["reason"]) == "DeviceTaintManagerEviction").count();
        assert_eq!(told, 2);
        day.end().await;
    });
}

#[test]
fn a_rule_that_goes_in_time_takes_nobodys_device() {
    run(async {
        let day = with_users(3).await;
        make_rule(&day, "r", rule(object!({ "device": "device-0" }), "NoExecute")).await;
        make_rule(&day, "s", rule(object!({ "device": "device-1" }), "NoExecute")).await;
        wait(40).await;
        assert_eq!(pods(&day).await, ["patient", "steady"]);
        for name in ["r", "s"] {
            day.client.all(&RULES).delete(name, DeleteOptions::default()).await.unwrap();
        }
        wait(200).await;
        assert_eq!(pods(&day).await, ["patient", "steady"]);
        let told = day.list(&EVENTS).await;
        assert!(told.iter().any(|e| e.str_at(&["message"]) == "Cancelling deletion"), "{told:?}");
        day.end().await;
    });
}

#[test]
fn a_rule_hears_of_a_pod_that_goes_before_its_time() {
    run(async {
        let day = with_users(3).await;
        make_rule(&day, "r", rule(object!({ "driver": "d.io" }), "NoExecute")).await;
        wait(30).await;
        let evicted = "1 pod evicted since starting the controller.";
        let pending = format!("1 pod needs to be evicted in 1 namespace. {evicted}");
        assert_eq!(condition(&day, "r").await, ["True", "PodsPendingEviction", pending.as_str()]);
        day.client.within(&PODS, NAMESPACE).delete("patient", DeleteOptions::default()).await.unwrap();
        wait(100).await;
        assert_eq!(pods(&day).await, ["steady"]);
        assert_eq!(condition(&day, "r").await, ["False", "Completed", evicted]);
        day.end().await;
    });
}

#[test]
fn a_device_that_a_rule_taints_is_given_when_the_rule_is_gone() {
    run(async {
        let day = with_users(4).await;
        make_rule(&day, "r", rule(object!({ "pool": "pool" }), "NoSchedule")).await;
        wait(2).await;
        let other = ["False".to_string(), "OtherEffect".into(), "Eviction only happens for the NoExecute effect.".into()];
        assert_eq!(condition(&day, "r").await, other);
        make(&day.client, &RESOURCE_CLAIMS, "late", claim(object!([]))).await;
        make(&day.client, &PODS, "late", user("late")).await;
        wait(30).await;
        assert_eq!(pods(&day).await, ["patient", "plain", "steady"]);
        let waiting = day.client.within(&PODS, NAMESPACE).get("late").await.unwrap();
        let why = meta::condition(&waiting, "PodScheduled").cloned().unwrap_or_default();
        assert!(why.str_at(&["message"]).contains("cannot allocate all claims"), "{why:?}");
        day.client.all(&RULES).delete("r", DeleteOptions::default()).await.unwrap();
        wait(20).await;
        assert_eq!(pods(&day).await, ["late", "patient", "plain", "steady"]);
        day.end().await;
    });
}
