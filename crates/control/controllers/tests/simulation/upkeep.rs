//! What people do to objects behind the controllers' backs, with the whole control plane around them.

use fram_client::resources::{JOBS, NODES, PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, PODS, SECRETS, SERVICE_ACCOUNTS};
use fram_client::{DeleteOptions, PatchKind, Propagation};
use fram_machinery::{Value, meta, object};

use crate::bad_days::{Day, run, wait};
use crate::bad_input::{make, template};
use crate::service_ranges::told;
use crate::users::NAMESPACE;

const TRACKING: &str = "batch.kubernetes.io/job-tracking";

#[test]
fn pods_that_a_job_leaves_behind_are_held_by_nobody() {
    run(async {
        let day = Day::new(1).await;
        let mut pods = template(object!({}), "serve");
        pods.set(&["spec", "restartPolicy"], "Never");
        make(&day.client, &JOBS, "left", object!({ "spec": { "parallelism": 2, "completions": 2, "template": pods } })).await;
        wait(20).await;
        let options = DeleteOptions { propagation: Some(Propagation::Orphan), ..Default::default() };
        day.client.within(&JOBS, NAMESPACE).delete("left", options).await.unwrap();
        // One whose owner was taken from it while nobody looked.
        let mut alone = template(object!({ "batch.kubernetes.io/job-name": "never" }), "serve");
        alone.set(&["metadata", "finalizers"], object!([TRACKING]));
        make(&day.client, &PODS, "alone", alone).await;
        wait(20).await;
        let pods = day.list(&PODS).await;
        assert_eq!((pods.len(), pods.iter().filter(|p| meta::has_finalizer(p, TRACKING)).count()), (3, 0));
        assert!(pods.iter().all(|p| !meta::is_terminating(p)));
        day.end().await;
    });
}

#[test]
fn of_pods_a_node_that_still_speaks_is_believed() {
    run(async {
        let day = Day::new(1).await;
        make(&day.client, &PODS, "p", template(object!({}), "serve")).await;
        wait(20).await;
        let node = meta::name(&day.client.all(&NODES).list(Default::default()).await.unwrap().items[0]).to_string();
        let ready = object!({ "type": "Ready", "status": "False", "reason": "KubeletNotReady" });
        let status = object!({ "status": { "conditions": [ready] } });
        day.client.all(&NODES).patch(&node, "status", PatchKind::Strategic, status).await.unwrap();
        wait(20).await;
        assert!(!told(&day, "p").await.contains(&"NodeNotReady".to_string()));
        day.client.all(&NODES).delete(&node, DeleteOptions::default()).await.unwrap();
        wait(5).await;
        let of_node = told(&day, &node).await;
        assert_eq!(of_node.iter().filter(|reason| *reason == "RemovingNode").count(), 1, "{of_node:?}");
        day.end().await;
    });
}

#[test]
fn a_pod_that_never_had_a_node_has_failed_when_it_is_deleted() {
    run(async {
        let day = Day::new(1).await;
        let mut pod = template(object!({}), "serve");
        pod.set(&["metadata", "finalizers"], object!(["a.b/c"]));
        pod.set(&["spec", "nodeSelector"], object!({ "no": "where" }));
        make(&day.client, &PODS, "p", pod).await;
        wait(5).await;
        let pods = day.client.within(&PODS, NAMESPACE);
        pods.delete("p", DeleteOptions::default()).await.unwrap();
        wait(5).await;
        assert_eq!(pods.get("p").await.unwrap().str_at(&["status", "phase"]), "Failed");
        day.end().await;
    });
}

#[test]
fn an_account_does_not_name_a_secret_that_somebody_deletes() {
    run(async {
        let day = Day::new(0).await;
        make(&day.client, &SERVICE_ACCOUNTS, "a", object!({ "secrets": [{ "name": "s" }, { "name": "t" }] })).await;
        let of_a = object!({ "kubernetes.io/service-account.name": "a" });
        make(&day.client, &SECRETS, "s", object!({ "metadata": { "annotations": of_a }, "type": "kubernetes.io/service-account-token" }))
            .await;
        wait(5).await;
        day.client.within(&SECRETS, NAMESPACE).delete("s", DeleteOptions::default()).await.unwrap();
        wait(5).await;
        let account = day.client.within(&SERVICE_ACCOUNTS, NAMESPACE).get("a").await.unwrap();
        assert_eq!(account.list_at(&["secrets"]), [object!({ "name": "t" })]);
        day.end().await;
    });
}

async fn make_volume(day: &Day, name: &str, policy: &str) {
    let spec = object!({ "capacity": { "storage": "1Gi" }, "accessModes": ["ReadWriteOnce"], "persistentVolumeReclaimPolicy": policy,
        "nfs": { "server": "s", "path": "/" } });
    day.client.all(&PERSISTENT_VOLUMES).create(object!({ "metadata": { "name": name }, "spec": spec })).await.unwrap();
}

/// The phase of a claim, and that of a volume with whether it refers to one.
async fn phases(day: &Day, claim: &str, volume: &str) -> (String, String, bool) {
    let phase = |object: &Value| object.str_at(&["status", "phase"]).to_string();
    let claim = day.client.within(&PERSISTENT_VOLUME_CLAIMS, NAMESPACE).find(claim).await.unwrap();
    let volume = day.client.all(&PERSISTENT_VOLUMES).get(volume).await.unwrap();
    (claim.map(|c| phase(&c)).unwrap_or_default(), phase(&volume), volume.at(&["spec", "claimRef"]).is_some_and(|r| !r.is_null()))
}

#[test]
fn a_claim_and_its_volume_find_each_other_again() {
    run(async {
        let day = Day::new(0).await;
        make_volume(&day, "v", "Recycle").await;
        let spec = object!({ "storageClassName": "", "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } } });
        make(&day.client, &PERSISTENT_VOLUME_CLAIMS, "c", object!({ "spec": spec })).await;
        wait(5).await;
        assert_eq!(phases(&day, "c", "v").await, ("Bound".into(), "Bound".into(), true));
        let volumes = day.client.all(&PERSISTENT_VOLUMES);
        volumes.patch("v", "", PatchKind::Merge, object!({ "spec": { "claimRef": null } })).await.unwrap();
        wait(5).await;
        assert_eq!(phases(&day, "c", "v").await, ("Bound".into(), "Bound".into(), true));
        assert!(!told(&day, "c").await.contains(&"ClaimMisbound".to_string()));
        // A volume that somebody gave to the claim by hand, which has another.
        make_volume(&day, "w", "Retain").await;
        let claim = day.client.within(&PERSISTENT_VOLUME_CLAIMS, NAMESPACE).get("c").await.unwrap();
        let reference = object!({ "kind": "PersistentVolumeClaim", "namespace": NAMESPACE, "name": "c", "uid": (meta::uid(&claim)) });
        volumes.patch("w", "", PatchKind::Merge, object!({ "spec": { "claimRef": reference } })).await.unwrap();
        wait(5).await;
        let aside = volumes.get("w").await.unwrap();
        let of_claim = ["uid", "name"].map(|field| aside.str_at(&["spec", "claimRef", field]));
        assert_eq!((of_claim, aside.str_at(&["status", "phase"])), (["", "c"], "Available"));
        day.client.within(&PERSISTENT_VOLUME_CLAIMS, NAMESPACE).delete("c", DeleteOptions::default()).await.unwrap();
        wait(5).await;
        assert_eq!(phases(&day, "c", "v").await, (String::new(), "Failed".into(), true));
        assert!(told(&day, "v").await.contains(&"VolumeFailedRecycle".to_string()));
        day.end().await;
    });
}
