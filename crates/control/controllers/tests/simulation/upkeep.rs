//! What people do to objects behind the controllers' backs, with the whole control plane around them.

use fram_client::resources::{
    ENDPOINTS, JOBS, NAMESPACES, NODES, PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, PODS, SECRETS, SERVICE_ACCOUNTS, SERVICES,
    STORAGE_CLASSES,
};
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
        // Those of a Job that goes on and does not select them, and of one that is somebody else's.
        for (name, manager) in [("goes-on", Value::Null), ("anothers", "m.example/jobs".into())] {
            let mut job = object!({ "spec": { "parallelism": 0, "completions": 1, "template": (template(object!({}), "serve")) } });
            job.set(&["spec", "template", "spec", "restartPolicy"], "Never");
            job.set(&["spec", "managedBy"], manager);
            make(&day.client, &JOBS, name, job).await;
            let job = day.client.within(&JOBS, NAMESPACE).get(name).await.unwrap();
            let mut labels = object!({ "batch.kubernetes.io/job-name": name });
            if name == "anothers" {
                labels = job.at(&["spec", "template", "metadata", "labels"]).cloned().unwrap();
            }
            let mut pod = template(labels, "serve");
            pod.set(&["metadata", "finalizers"], object!([TRACKING]));
            make(&day.client, &PODS, &format!("astray-{name}"), pod).await;
        }
        wait(20).await;
        let pods = day.list(&PODS).await;
        assert_eq!((pods.len(), pods.iter().filter(|p| meta::has_finalizer(p, TRACKING)).count()), (5, 0));
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

#[test]
fn a_pod_that_is_deleted_after_its_ephemeral_claims_is_deleted() {
    run(async {
        let day = Day::new(1).await;
        let class = object!({ "metadata": { "name": "later" }, "provisioner": "p.example", "volumeBindingMode": "Immediate" });
        day.client.all(&STORAGE_CLASSES).create(class).await.unwrap();
        let volume = object!({ "metadata": { "name": "v" }, "spec": { "capacity": { "storage": "1Gi" }, "accessModes": ["ReadWriteOnce"],
            "storageClassName": "later", "nfs": { "server": "s", "path": "/" } } });
        day.client.all(&PERSISTENT_VOLUMES).create(volume).await.unwrap();
        let mut pod = template(object!({}), "serve");
        let claim = object!({ "spec": { "storageClassName": "later", "accessModes": ["ReadWriteOnce"],
            "resources": { "requests": { "storage": "1Gi" } } } });
        pod.set(&["spec", "volumes"], object!([{ "name": "own", "ephemeral": { "volumeClaimTemplate": claim } }]));
        make(&day.client, &PODS, "p", pod).await;
        wait(30).await;
        assert_eq!(day.list(&PODS).await[0].str_at(&["status", "phase"]), "Running");
        let options = DeleteOptions { propagation: Some(Propagation::Foreground), ..Default::default() };
        day.client.within(&PODS, NAMESPACE).delete("p", options).await.unwrap();
        wait(60).await;
        assert_eq!((day.list(&PODS).await.len(), day.list(&PERSISTENT_VOLUME_CLAIMS).await.len()), (0, 0));
        day.end().await;
    });
}

#[test]
fn endpoints_of_a_service_that_went_while_nobody_looked_go_too() {
    run(async {
        let mut day = Day::new(0).await;
        let ports = object!([{ "port": 80 }]);
        make(&day.client, &SERVICES, "s", object!({ "spec": { "selector": { "a": "b" }, "ports": ports } })).await;
        wait(5).await;
        let endpoints = day.client.within(&ENDPOINTS, NAMESPACE);
        assert!(endpoints.find("s").await.unwrap().is_some());
        day.world.crash().await;
        day.client.within(&SERVICES, NAMESPACE).delete("s", DeleteOptions::default()).await.unwrap();
        let elected = object!({ "metadata": { "annotations": { "control-plane.alpha.kubernetes.io/leader": "{}" } } });
        make(&day.client, &ENDPOINTS, "elected", elected).await;
        day.world.start();
        wait(5).await;
        make(&day.client, &ENDPOINTS, "early", object!({})).await;
        wait(60).await;
        let mut left: Vec<String> = day.list(&ENDPOINTS).await.iter().map(|e| meta::name(e).to_string()).collect();
        left.retain(|name| name != "kubernetes");
        assert_eq!(left, ["early", "elected"]);
        day.end().await;
    });
}

#[test]
fn the_claims_of_a_namespace_that_are_deleted_together_cost_a_few_looks_at_its_pods() {
    run(async {
        let mut day = Day::new(1).await;
        make(&day.client, &PODS, "p", template(object!({}), "serve")).await;
        let spec = object!({ "storageClassName": "", "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } } });
        for n in 0..100 {
            make(&day.client, &PERSISTENT_VOLUME_CLAIMS, &format!("c-{n}"), object!({ "spec": (spec.clone()) })).await;
        }
        wait(20).await;
        day.count();
        let claims = day.client.within(&PERSISTENT_VOLUME_CLAIMS, NAMESPACE);
        claims.delete_collection(DeleteOptions::default(), Default::default()).await.unwrap();
        wait(20).await;
        assert_eq!(day.list(&PERSISTENT_VOLUME_CLAIMS).await.len(), 0);
        let looks = day.asked("pvc-protection-controller list pods");
        assert!((1..=10).contains(&looks), "{looks} looks");
        day.end().await;
    });
}

#[test]
fn where_a_namespaces_pods_cannot_be_deleted_nothing_that_they_use_is() {
    for refused in ["namespace-controller list pods", "namespace-controller deletecollection pods"] {
        run(async {
            let day = Day::new(1).await;
            let (namespaces, named) = (day.client.all(&NAMESPACES), |name: &str| object!({ "metadata": { "name": name } }));
            let (pods, secrets) = (day.client.within(&PODS, "doomed"), day.client.within(&SECRETS, "doomed"));
            namespaces.create(named("doomed")).await.unwrap();
            wait(5).await;
            let mut pod = template(object!({}), "serve");
            pod.set(&["metadata", "name"], "p");
            pods.create(pod).await.unwrap();
            secrets.create(named("s")).await.unwrap();
            wait(10).await;
            day.refuse(Some(refused));
            namespaces.delete("doomed", DeleteOptions::default()).await.unwrap();
            wait(60).await;
            assert!(pods.find("p").await.unwrap().is_some() && secrets.find("s").await.unwrap().is_some(), "{refused}");
            assert!(meta::condition_is_true(&namespaces.get("doomed").await.unwrap(), "NamespaceDeletionContentFailure"), "{refused}");
            day.refuse(None);
            wait(1200).await;
            assert!(namespaces.find("doomed").await.unwrap().is_none(), "{refused}");
            day.end().await;
        });
    }
}
