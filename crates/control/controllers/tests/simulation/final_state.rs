//! What a cluster that has come to rest looks like; says what is still missing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fram_client::resources::{
    CONTROLLER_REVISIONS, DAEMON_SETS, DEPLOYMENTS, ENDPOINT_SLICES, JOBS, NAMESPACES, NODES, PODS, REPLICA_SETS, SERVICES, STATEFUL_SETS,
};
use fram_client::{Client, Resource};
use fram_machinery::{Value, meta};
use parking_lot::Mutex;

use crate::oracle::{Oracle, is_ready};
use crate::run::Mode;
use crate::users::{DOOMED, NAMESPACE, Users};

async fn list(client: &Client, resource: &Resource) -> Vec<Arc<Value>> {
    client.all(resource).list(Default::default()).await.unwrap().items
}

pub(crate) async fn missing(client: &Client, users: &Users, oracle: &Mutex<Oracle>, mode: Mode) -> BTreeSet<String> {
    let mut missing = BTreeSet::new();
    let mut all = Vec::new();
    for resource in [PODS, REPLICA_SETS, DEPLOYMENTS, STATEFUL_SETS, DAEMON_SETS, JOBS, CONTROLLER_REVISIONS, ENDPOINT_SLICES, SERVICES] {
        all.extend(list(client, &resource).await);
    }
    let nodes = list(client, &NODES).await;
    for node in nodes.iter().filter(|n| !n.list_at(&["spec", "taints"]).is_empty()) {
        missing.insert(format!("{} is tainted", meta::name(node)));
    }
    if list(client, &NAMESPACES).await.iter().any(|n| meta::name(n) == DOOMED) {
        missing.insert(format!("the namespace {DOOMED} is still there"));
    }
    orphans(&all, &mut missing);
    for ((_, name), resource) in &users.wanted {
        match client.within(resource, NAMESPACE).find(name).await.unwrap() {
            None => drop(missing.insert(format!("{resource} {name} is gone"))),
            Some(owner) => workload(&owner, &all, nodes.len() as i64, (&oracle.lock(), mode), &mut missing),
        }
    }
    endpoints(&all, &mut missing);
    missing
}

/// Nothing terminates any more, and nothing has an owner that is gone.
fn orphans(all: &[Arc<Value>], missing: &mut BTreeSet<String>) {
    let known: BTreeSet<&str> = all.iter().map(|o| meta::uid(o)).collect();
    for object in all {
        let what = format!("{} {}", object.str_at(&["kind"]), meta::key(object));
        if meta::is_terminating(object) {
            missing.insert(format!("{what} is still terminating ({:?})", meta::finalizers(object).collect::<Vec<_>>()));
        }
        if meta::owner_references(object).iter().any(|r| r.str_at(&["kind"]) != "Node" && !known.contains(r.str_at(&["uid"]))) {
            missing.insert(format!("{what} is an orphan"));
        }
    }
}

fn workload(owner: &Value, all: &[Arc<Value>], nodes: i64, (oracle, mode): (&Oracle, Mode), missing: &mut BTreeSet<String>) {
    let what = format!("{} {}", owner.str_at(&["kind"]), meta::name(owner));
    let mut expect = |field: &str, wanted: i64| {
        let found = owner.int_at(&["status", field]).unwrap_or(0);
        if found != wanted {
            missing.insert(format!("{what}: status.{field} is {found} and not {wanted}"));
        }
    };
    let replicas = owner.int_at(&["spec", "replicas"]).unwrap_or(1);
    match owner.str_at(&["kind"]) {
        "Deployment" | "StatefulSet" => {
            for field in ["replicas", "readyReplicas", "availableReplicas", "updatedReplicas"] {
                expect(field, replicas);
            }
            expect("observedGeneration", meta::generation(owner));
        }
        "DaemonSet" => {
            for field in ["desiredNumberScheduled", "numberReady", "updatedNumberScheduled"] {
                expect(field, nodes);
            }
        }
        "Job" => {
            let count = |by: &BTreeMap<String, BTreeSet<String>>| by.get(meta::uid(owner)).map_or(0, BTreeSet::len) as i64;
            let complete = meta::condition_is_true(owner, "Complete");
            if !complete && !meta::condition_is_true(owner, "Failed") {
                missing.insert(format!("{what} has not ended"));
                return;
            }
            if complete {
                expect("succeeded", owner.int_at(&["spec", "completions"]).unwrap_or(1));
            }
            expect("active", 0);
            if mode == Mode::Calm {
                expect("succeeded", count(&oracle.succeeded));
                // Pods that are deleted because the Job has failed may have ended before they were counted or after.
                if complete {
                    expect("failed", count(&oracle.failed));
                }
            }
        }
        _ => {}
    }
    let held = |p: &&Arc<Value>| p.str_at(&["kind"]) == "Pod" && meta::has_finalizer(p, "batch.kubernetes.io/job-tracking");
    for pod in all.iter().filter(held).filter(|p| meta::controller_of(p).is_some_and(|o| o.str_at(&["uid"]) == meta::uid(owner))) {
        missing.insert(format!("{what}: the pod {} is still counted", meta::name(pod)));
    }
}

/// Every ready pod of a Service is in its slices, and nothing else is.
fn endpoints(all: &[Arc<Value>], missing: &mut BTreeSet<String>) {
    let of_kind = |kind: &'static str| all.iter().filter(move |o| o.str_at(&["kind"]) == kind && meta::namespace(o) == NAMESPACE);
    for service in of_kind("Service").filter(|s| s.at(&["spec", "selector"]).is_some()) {
        let app = service.str_at(&["spec", "selector", "app"]);
        let ready: BTreeSet<String> =
            of_kind("Pod").filter(|p| meta::label(p, "app") == Some(app) && is_ready(p)).map(|p| meta::name(p).to_string()).collect();
        let slices = of_kind("EndpointSlice").filter(|s| meta::label(s, "kubernetes.io/service-name") == Some(meta::name(service)));
        let endpoints = slices.flat_map(|s| s.list_at(&["endpoints"]));
        let served: BTreeSet<String> = endpoints
            .filter(|e| e.bool_at(&["conditions", "ready"]) == Some(true))
            .map(|e| e.str_at(&["targetRef", "name"]).to_string())
            .collect();
        if ready != served {
            missing.insert(format!("Service {}: ready are {ready:?}, served {served:?}", meta::name(service)));
        }
    }
}
