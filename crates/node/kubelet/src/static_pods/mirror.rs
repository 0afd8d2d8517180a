//! What the API server shows of static pods: for each a mirror that carries its status and cannot be anything else than what the file
//! says. The plan is pure; see upstream's mirror_client.go and tryReconcileMirrorPods.

use std::sync::Arc;
use std::time::Duration;

use fram_client::resources::PODS;
use fram_client::{Client, DeleteOptions, Informer, Preconditions};
use fram_machinery::{Reason, Status, Value, meta, object};
use tokio_util::sync::CancellationToken;

use super::manifest::MIRROR;
use crate::kubelet::Kubelet;

const RETRY: Duration = Duration::from_secs(2);

/// The hash of the pod that a pod mirrors; None where it is no mirror.
pub(crate) fn hash(pod: &Value) -> Option<&str> {
    meta::annotation(pod, MIRROR)
}

/// What is to be done, one mirror at a time.
#[derive(Debug, PartialEq)]
enum Step {
    /// A mirror of nothing, or of what the file said before, or one that somebody deleted.
    Delete(Arc<Value>),
    Create(Arc<Value>),
}

/// `lives` says whether a pod still has a worker: until it has ended, its mirror tells of it.
fn plan(statics: &[Arc<Value>], pods: &[Arc<Value>], lives: impl Fn(&str) -> bool) -> Vec<Step> {
    let mut out = Vec::new();
    for pod in pods {
        let Some(hash) = hash(pod) else { continue };
        let wanted = statics.iter().any(|s| meta::uid(s) == hash && meta::key(s) == meta::key(pod));
        if meta::is_terminating(pod) || (!wanted && !lives(hash)) {
            out.push(Step::Delete(pod.clone()));
        }
    }
    // The name is free once the former mirror is gone; a pod of somebody else keeps it.
    let taken = |key: &str| pods.iter().any(|p| meta::key(p) == key);
    out.extend(statics.iter().filter(|s| !taken(&meta::key(s))).cloned().map(Step::Create));
    out
}

/// The mirror of a static pod; it belongs to the node, as KEP-1314 demands.
fn mirror_of(pod: &Value, node: &Value) -> Value {
    let mut mirror = pod.clone();
    let hash = meta::uid(pod).to_string();
    for field in ["uid", "creationTimestamp", "resourceVersion"] {
        mirror.remove(&["metadata", field]);
    }
    mirror.set(&["metadata", "annotations", MIRROR], hash);
    let owner = object!({ "apiVersion": "v1", "kind": "Node", "name": (meta::name(node)), "uid": (meta::uid(node)), "controller": true });
    mirror.set(&["metadata", "ownerReferences"], object!([owner]));
    mirror
}

/// Keeps the mirrors until `stop`.
pub(crate) async fn keep(kubelet: Kubelet, client: Client, node: Informer, stop: CancellationToken) {
    let ctx = kubelet.ctx.clone();
    stop.run_until_cancelled(async {
        ctx.pods.synced().await;
        node.synced().await;
        let (mut pods, mut nodes, mut statics) = (ctx.pods.subscribe(), node.subscribe(), ctx.statics.subscribe());
        loop {
            let mut failed = false;
            if let Some(node) = node.get(&ctx.config.node_name) {
                for step in plan(&ctx.statics.list(), &ctx.pods.list(), |uid| kubelet.has_worker(uid) || ctx.awaits_url()) {
                    failed |= carry_out(&client, &node, &step).await.is_err_and(|error| {
                        tracing::warn!(%error, "the mirror of a static pod could not be kept");
                        true
                    });
                }
            }
            tokio::select! {
                changed = pods.changed() => if changed.is_none() { return },
                changed = nodes.changed() => if changed.is_none() { return },
                changed = statics.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(RETRY), if failed => {}
            }
        }
    })
    .await;
}

async fn carry_out(client: &Client, node: &Value, step: &Step) -> Result<(), Status> {
    match step {
        Step::Create(pod) => match client.within(&PODS, meta::namespace(pod)).create(mirror_of(pod, node)).await {
            // The informer will tell of it.
            Err(status) if status.is(Reason::AlreadyExists) => Ok(()),
            outcome => outcome.map(drop),
        },
        Step::Delete(pod) => {
            let preconditions = Preconditions { uid: Some(meta::uid(pod).to_string()), resource_version: None };
            let options = DeleteOptions { grace_period_seconds: Some(0), preconditions, ..Default::default() };
            match client.within(&PODS, meta::namespace(pod)).delete(meta::name(pod), options).await {
                Err(status) if matches!(status.reason, Reason::NotFound | Reason::Conflict) => Ok(()),
                outcome => outcome.map(drop),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, uid: &str) -> Arc<Value> {
        Arc::new(object!({ "metadata": { "namespace": "ns", "name": name, "uid": uid } }))
    }

    fn mirror(name: &str, of: &str, deleted: bool) -> Arc<Value> {
        let mut pod = mirror_of(&pod(name, of), &object!({ "metadata": { "name": "n", "uid": "node" } }));
        pod.set(&["metadata", "uid"], format!("m-{of}"));
        if deleted {
            pod.set(&["metadata", "deletionTimestamp"], "2026-01-01T00:00:00Z");
        }
        Arc::new(pod)
    }

    #[test]
    fn each_static_pod_has_one_mirror_and_mirrors_of_nothing_go() {
        let a = || pod("a", "1");
        for (statics, pods, lives, steps) in [
            (vec![a()], vec![], true, vec![Step::Create(a())]),
            (vec![a()], vec![mirror("a", "1", false)], true, vec![]),
            (vec![a()], vec![mirror("a", "1", true)], true, vec![Step::Delete(mirror("a", "1", true))]),
            // The file has changed: the mirror stays for as long as the former pod runs.
            (vec![a()], vec![mirror("a", "0", false)], true, vec![]),
            (vec![a()], vec![mirror("a", "0", false)], false, vec![Step::Delete(mirror("a", "0", false))]),
            (vec![], vec![mirror("a", "1", false)], false, vec![Step::Delete(mirror("a", "1", false))]),
            (vec![], vec![pod("b", "2")], false, vec![]),
            // Somebody else's pod has the name.
            (vec![a()], vec![pod("a", "2")], true, vec![]),
        ] {
            assert_eq!(plan(&statics, &pods, |_| lives), steps);
        }
    }

    #[test]
    fn a_mirror_belongs_to_its_node_and_has_a_uid_of_its_own() {
        let mirror = mirror_of(&pod("a", "1"), &object!({ "metadata": { "name": "n", "uid": "node" } }));
        assert_eq!((hash(&mirror), meta::uid(&mirror)), (Some("1"), ""));
        assert_eq!(mirror.list_at(&["metadata", "ownerReferences"])[0].str_at(&["uid"]), "node");
    }
}
