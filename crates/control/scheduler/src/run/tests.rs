//! Single attempts against an API that answers from a script, and an extender that answers over a real connection.

use async_trait::async_trait;
use fram_client::{Call, ListOptions, Page, Reply, Transport, Verb, WatchStream};
use fram_machinery::{Reason, Value, json, object};
use futures_util::StreamExt;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;

use super::cycle::Found;
use super::*;
use crate::bind::devices::prepare_devices;
use crate::configuration::ExtenderSpec;
use crate::extender::tests::answer;
use crate::plugins::testing::{node, pod};

/// Lists these pods and nothing else, refuses to bind, and keeps what is patched.
#[derive(Default)]
struct Model {
    pods: Vec<Arc<Value>>,
    patches: Mutex<Vec<(Resource, String, Value)>>,
}

#[async_trait]
impl Transport for Model {
    async fn call(&self, call: Call) -> Result<Reply, Status> {
        match call.verb {
            Verb::List(_) => {
                let items = if call.resource == PODS { self.pods.clone() } else { Vec::new() };
                Ok(Reply::Page(Page { resource_version: "1".into(), items, ..Page::default() }))
            }
            Verb::Patch { patch, .. } => {
                let mut object = patch.body.clone();
                object.set(&["metadata", "name"], call.name.as_str());
                self.patches.lock().push((call.resource, call.name, patch.body));
                Ok(Reply::Object(Arc::new(object)))
            }
            Verb::Create { .. } if call.subresource == "binding" => Err(Status::new(Reason::Conflict, "no")),
            Verb::Create { mut object, .. } => {
                if call.resource == RESOURCE_CLAIMS {
                    object.set(&["metadata", "name"], "made");
                }
                Ok(Reply::Object(Arc::new(object)))
            }
            _ => Err(Status::internal("the model does not know this call")),
        }
    }

    async fn watch(&self, _: &Resource, _: &str, _: ListOptions) -> Result<WatchStream, Status> {
        Ok(Box::pin(futures_util::stream::pending().boxed()))
    }
}

struct World {
    scheduler: Scheduler,
    model: Arc<Model>,
    stop: CancellationToken,
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn world(pods: Vec<Arc<Value>>, nodes: &[&str]) -> World {
    let model = Arc::new(Model { pods, ..Model::default() });
    let (client, tasks, stop) = (Client::new(model.clone(), "test"), TaskTracker::new(), CancellationToken::new());
    let config = SchedulerConfig {
        name: "default-scheduler".into(),
        events: EventRecorder::start(client.clone(), "test", "", Arc::new(jiff::Timestamp::now), &tasks, stop.clone()),
        informers: SharedInformers::new(client.clone(), tasks, stop.clone()),
        client,
        now: Arc::new(|| "now".into()),
        pod_groups: false,
        device_taint_rules: None,
    };
    let mut scheduler = Scheduler::new(config);
    scheduler.followed.pods.synced().await;
    for name in nodes {
        scheduler.cache.set_node(name, Arc::new(node(name, "4")));
    }
    World { scheduler, model, stop }
}

fn named(name: &str) -> Arc<Pod> {
    pod(name, object!({ "schedulerName": "default-scheduler", "containers": [{ "name": "c" }] }))
}

#[tokio::test]
async fn a_pod_whose_binding_fails_says_so_and_no_room_is_kept_for_it() {
    let mut object = (*named("p").object).clone();
    object.set(&["status", "nominatedNodeName"], "a");
    let p = Arc::new(Pod::alone(object));
    let mut world = world(vec![p.object.clone()], &["a"]).await;
    let scheduler = &mut world.scheduler;
    scheduler.cache.nominate(p.clone(), "a");
    scheduler.queue.add(p.clone(), Duration::ZERO);
    let popped = scheduler.queue.pop().unwrap();
    scheduler.try_pod(popped).await;
    let bound = scheduler.bindings.join_next_with_id().await.unwrap();
    scheduler.bound(bound);
    while scheduler.reports.join_next().await.is_some() {}
    assert_eq!((scheduler.cache.pods(), scheduler.cache.nominated_node("p"), scheduler.queue.lengths().backoff), (0, None, 1));
    let patches = world.model.patches.lock().clone();
    let status = patches.iter().find(|(resource, ..)| *resource == PODS).map(|(.., patch)| patch.get("status").cloned().unwrap());
    let status = status.unwrap();
    assert_eq!(status.at(&["nominatedNodeName"]), Some(&Value::Null));
    assert_eq!(status.list_at(&["conditions"])[0].str_at(&["reason"]), "SchedulerError");
}

#[tokio::test]
async fn a_pod_whose_volume_is_made_says_for_which_node_until_that_fails() {
    let mut spec = named("p").object.get("spec").cloned().unwrap();
    spec.set(&["volumes"], object!([{ "name": "v", "persistentVolumeClaim": { "claimName": "c" } }]));
    let p = pod("p", spec);
    let mut world = world(vec![p.object.clone()], &["a"]).await;
    let scheduler = &mut world.scheduler;
    let class = object!({ "metadata": { "name": "later" }, "provisioner": "x.io", "volumeBindingMode": "WaitForFirstConsumer" });
    let claim = object!({ "metadata": { "name": "c", "namespace": "ns", "uid": "c" },
        "spec": { "storageClassName": "later", "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } } } });
    scheduler.cache.storage.classes.insert("later".into(), Arc::new(class));
    scheduler.cache.storage.claims.insert("ns/c".into(), Arc::new(claim));
    scheduler.queue.add(p, Duration::ZERO);
    let popped = scheduler.queue.pop().unwrap();
    scheduler.try_pod(popped).await;
    // The claim is not there when it is looked for.
    let bound = scheduler.bindings.join_next_with_id().await.unwrap();
    scheduler.bound(bound);
    while scheduler.reports.join_next().await.is_some() {}
    let patches = world.model.patches.lock().clone();
    let of_pod = patches.iter().filter(|(resource, ..)| *resource == PODS);
    let said: Vec<Value> = of_pod.map(|(.., patch)| patch.at(&["status", "nominatedNodeName"]).cloned().unwrap()).collect();
    assert_eq!(said, ["a".into(), Value::Null]);
}

/// What is said of a pod that an extender should bind, where nobody answers and the API refuses.
async fn told_of_binding(ignorable: bool) -> String {
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let spec = ExtenderSpec { url_prefix: format!("http://{nobody}"), bind_verb: "bind".into(), ignorable, ..ExtenderSpec::default() };
    let p = named("p");
    let mut world = world(vec![p.object.clone()], &["a"]).await;
    let scheduler = &mut world.scheduler;
    scheduler.extenders = vec![Extender::new(&spec).unwrap()];
    scheduler.queue.add(p, Duration::ZERO);
    let popped = scheduler.queue.pop().unwrap();
    scheduler.try_pod(popped).await;
    let bound = scheduler.bindings.join_next_with_id().await.unwrap();
    scheduler.bound(bound);
    while scheduler.reports.join_next().await.is_some() {}
    let patches = world.model.patches.lock().clone();
    let status = patches.iter().find(|(resource, ..)| *resource == PODS).map(|(.., patch)| patch.get("status").cloned().unwrap());
    status.unwrap().list_at(&["conditions"])[0].str_at(&["message"]).to_string()
}

#[tokio::test]
async fn a_pod_is_bound_without_an_extender_that_may_be_ignored() {
    assert_eq!(told_of_binding(true).await, "no");
    assert!(told_of_binding(false).await.contains("connect to extender"));
}

#[tokio::test]
async fn where_an_extender_refuses_the_nominated_node_the_others_are_looked_at() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let spec = ExtenderSpec {
        url_prefix: format!("http://{}", listener.local_addr().unwrap()),
        filter_verb: "filter".into(),
        node_cache_capable: true,
        ..ExtenderSpec::default()
    };
    let mut world = world(Vec::new(), &["a", "b"]).await;
    world.scheduler.extenders = vec![Extender::new(&spec).unwrap()];
    let p = named("p");
    world.scheduler.cache.nominate(p.clone(), "a");
    let refuses_a = |asked: &Value| {
        let names = asked.list_at(&["NodeNames"]).iter().filter(|name| name.as_str() != Some("a"));
        json::to_string(&object!({ "nodenames": (names.cloned().collect::<Vec<_>>()) }))
    };
    let answers = async {
        loop {
            answer(&listener, refuses_a).await;
        }
    };
    let found = tokio::select! {
        found = world.scheduler.find(0, &p) => found,
        () = answers => unreachable!("it answers for ever"),
    };
    assert!(matches!(found, Found::Node(name) if name == "b"));
}

#[tokio::test]
async fn a_claim_is_made_for_extended_resources_and_its_devices_are_waited_for() {
    let world = world(Vec::new(), &["a"]).await;
    let claim = object!({ "metadata": { "name": "<extended-resources>-p", "namespace": "ns" } });
    let result = object!({ "device": "x", "bindingConditions": ["Attached"] });
    let allocation = Allocation {
        claim: Arc::new(claim),
        devices: Some(object!({ "devices": { "results": [result] } })),
        mappings: vec![object!({ "containerName": "c", "requestName": "r" })],
    };
    let (config, claims) = (&world.scheduler.config, &world.scheduler.followed.device_claims);
    let patience = Duration::ZERO;
    let prepared = prepare_devices(config, claims, (&named("p"), "a"), &[allocation], patience).await;
    // The model never says that they are ready.
    assert_eq!(prepared.unwrap_err().reason, Reason::Timeout);
    let patches = world.model.patches.lock().clone();
    let said = |resource: &Resource| patches.iter().find(|(r, ..)| r == resource).map(|(_, name, patch)| (name.clone(), patch.clone()));
    let (name, reserved) = said(&RESOURCE_CLAIMS).unwrap();
    assert_eq!((name.as_str(), reserved.str_at(&["status", "allocation", "allocationTimestamp"])), ("made", "now"));
    let (_, status) = said(&PODS).unwrap();
    assert_eq!(status.str_at(&["status", "extendedResourceClaimStatus", "resourceClaimName"]), "made");
}
