//! Plugins of admission that are chosen by flags: those that run on demand, and what is not done without those that run unasked.

use std::sync::Arc;

use crate::common::server::{admitting, client_as, cluster, in_memory};
use fram_apiserver::admission::{Chain, Choice};
use fram_apiserver::allocate::Allocators;
use fram_apiserver::{Environment, Server, User};
use fram_client::resources::{
    CLUSTER_ROLE_BINDINGS, CLUSTER_ROLES, CONFIG_MAPS, NAMESPACES, PERSISTENT_VOLUME_CLAIMS, PODS, RESOURCE_QUOTAS, SERVICES,
};
use fram_client::{Client, Resource};
use fram_machinery::{Reason, Value, meta, object};

const ROLES: Resource = Resource::new("rbac.authorization.k8s.io", "v1", "roles");
const ROLE_BINDINGS: Resource = Resource::new("rbac.authorization.k8s.io", "v1", "rolebindings");

async fn server(enabled: &[&str], disabled: &[&str]) -> (Arc<Server>, Client) {
    let [enabled, disabled] = [enabled, disabled].map(|names| names.iter().map(ToString::to_string).collect::<Vec<_>>());
    let chain = Chain::chosen(Choice::new(&enabled, &disabled).unwrap());
    let server = admitting(in_memory(), Environment::system(), Allocators::default(), chain);
    server.bootstrap(&cluster()).await.unwrap();
    let root = client_as(&server, User::authenticated("admin", &["system:masters"]));
    (server, root)
}

fn pod(name: &str, spec: &Value) -> Value {
    let mut pod = object!({ "metadata": { "name": name }, "spec": (spec.clone()) });
    pod.set(
        &["spec", "containers"],
        object!([{ "name": "c", "image": "i:1", "resources": { "requests": { "example.com/device": "1" },
        "limits": { "example.com/device": "1" } } }]),
    );
    pod
}

/// What the object is refused for.
#[track_caller]
fn refused(result: Result<Arc<Value>, fram_machinery::Status>) -> String {
    let status = result.unwrap_err();
    assert!(status.is(Reason::Forbidden) || status.is(Reason::NotFound), "{status:?}");
    status.message
}

#[tokio::test]
async fn pods_and_services_are_changed_and_refused_by_plugins_that_are_asked_for() {
    let (_server, client) = server(
        &["AlwaysPullImages", "DenyServiceExternalIPs", "ExtendedResourceToleration", "LimitPodHardAntiAffinityTopology", "AlwaysAdmit"],
        &["ServiceAccount", "DefaultTolerationSeconds"],
    )
    .await;
    let pods = client.within(&PODS, "default");
    let made = pods.create(pod("p", &object!({ "volumes": [{ "name": "v", "image": { "reference": "i:2" } }] }))).await.unwrap();
    assert_eq!(made.list_at(&["spec", "containers"])[0].str_at(&["imagePullPolicy"]), "Always");
    assert_eq!(made.list_at(&["spec", "volumes"])[0].str_at(&["image", "pullPolicy"]), "Always");
    let toleration = object!({ "key": "example.com/device", "operator": "Exists", "effect": "NoSchedule" });
    assert_eq!(made.list_at(&["spec", "tolerations"]), [toleration], "and no others");
    let apart = |key: &str| {
        let term = object!({ "topologyKey": key, "labelSelector": {} });
        object!({ "affinity": { "podAntiAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": [(term)] } } })
    };
    let why = refused(pods.create(pod("q", &apart("zone"))).await);
    assert!(why.ends_with("may only be about kubernetes.io/hostname here, not zone; prefer it instead"), "{why}");
    pods.create(pod("q", &apart("kubernetes.io/hostname"))).await.unwrap();

    let services = client.within(&SERVICES, "default");
    let service = |ips: Value| object!({ "metadata": { "name": "s" }, "spec": { "ports": [{ "port": 1 }], "externalIPs": (ips) } });
    let why = refused(services.create(service(object!(["192.0.2.1"]))).await);
    assert!(why.ends_with("the plugin DenyServiceExternalIPs refuses new ones, leave them out"), "{why}");
    services.create(service(object!([]))).await.unwrap();
}

#[tokio::test]
async fn namespaces_say_where_their_pods_run() {
    let (_server, client) = server(&["PodNodeSelector", "PodTolerationRestriction", "NamespaceExists"], &["ServiceAccount"]).await;
    let mut namespace = object!({ "metadata": { "name": "n" } });
    for (key, value) in [
        ("node-selector", "disk=fast"),
        ("defaultTolerations", r#"[{"key":"a","operator":"Exists"}]"#),
        (
            "tolerationsWhitelist",
            r#"[{"key":"a","operator":"Exists"},{"key":"node.kubernetes.io/not-ready","operator":"Exists"},
                {"key":"node.kubernetes.io/unreachable","operator":"Exists"}]"#,
        ),
    ] {
        namespace.place(&["metadata", "annotations"]).make_map().insert(format!("scheduler.alpha.kubernetes.io/{key}"), value);
    }
    client.all(&NAMESPACES).create(namespace).await.unwrap();
    let pods = client.within(&PODS, "n");
    let made = pods.create(pod("p", &object!({ "nodeSelector": { "os": "linux" } }))).await.unwrap();
    assert_eq!(made.at(&["spec", "nodeSelector"]), Some(&object!({ "disk": "fast", "os": "linux" })));
    let tolerated: Vec<&str> = made.list_at(&["spec", "tolerations"]).iter().map(|t| t.str_at(&["key"])).collect();
    assert!(tolerated.contains(&"a"), "{tolerated:?}");
    let why = refused(pods.create(pod("q", &object!({ "nodeSelector": { "disk": "slow" } }))).await);
    assert!(why.ends_with("disk has another value in the node selector of its namespace"), "{why}");
    let why = refused(pods.create(pod("q", &object!({ "tolerations": [{ "key": "b", "operator": "Exists" }] }))).await);
    assert!(why.ends_with("of its namespace allows: remove them, or have that annotation allow them"), "{why}");
}

#[tokio::test]
async fn a_namespace_is_made_when_it_is_first_used_where_that_is_wanted() {
    let map = object!({ "metadata": { "name": "m" } });
    let (_server, client) = server(&[], &[]).await;
    assert!(refused(client.within(&CONFIG_MAPS, "new").create(map.clone()).await).contains("namespaces \"new\" not found"));
    let (_server, client) = server(&["NamespaceAutoProvision"], &[]).await;
    client.within(&CONFIG_MAPS, "new").create(map).await.unwrap();
    assert_eq!(client.all(&NAMESPACES).get("new").await.unwrap().str_at(&["status", "phase"]), "Active");
}

#[tokio::test]
async fn owners_are_held_back_only_by_who_may_write_their_finalizers() {
    let (server, root) = server(&["OwnerReferencesPermissionEnforcement"], &[]).await;
    let rules = object!([{ "apiGroups": [""], "resources": ["configmaps"], "verbs": ["create", "update", "get"] }]);
    root.within(&ROLES, "default").create(object!({ "metadata": { "name": "r" }, "rules": (rules) })).await.unwrap();
    let subject = object!({ "kind": "User", "name": "u", "apiGroup": "rbac.authorization.k8s.io" });
    let role = object!({ "kind": "Role", "name": "r", "apiGroup": "rbac.authorization.k8s.io" });
    let binding = object!({ "metadata": { "name": "r" }, "roleRef": (role), "subjects": [(subject)] });
    root.within(&ROLE_BINDINGS, "default").create(binding).await.unwrap();
    let stop = tokio_util::sync::CancellationToken::new();
    let mut following = tokio::task::JoinSet::new();
    following.spawn(server.clone().follow_roles(stop.clone()));
    let user = client_as(&server, User::authenticated("u", &[]));
    let maps = user.within(&CONFIG_MAPS, "default");
    let owned = |name: &str, holds: bool| {
        let owner = object!({ "apiVersion": "v1", "kind": "ConfigMap", "name": "o", "uid": "1", "blockOwnerDeletion": holds });
        object!({ "metadata": { "name": name, "ownerReferences": [(owner)] } })
    };
    let mut plain = maps.create(object!({ "metadata": { "name": "plain" } })).await;
    while plain.as_ref().is_err_and(|status| status.is(Reason::Forbidden)) {
        tokio::task::yield_now().await;
        plain = maps.create(object!({ "metadata": { "name": "plain" } })).await;
    }
    maps.create(owned("a", false)).await.unwrap();
    let why = refused(maps.create(owned("b", true)).await);
    assert!(why.ends_with("the right to update configmaps/finalizers is missing, or leave it out"), "{why}");
    let mut changed = (*plain.unwrap()).clone();
    changed.set(&["metadata", "ownerReferences"], owned("", false).at(&["metadata", "ownerReferences"]).cloned());
    let why = refused(maps.update(changed).await);
    assert!(why.ends_with("the verb delete is missing"), "{why}");
    root.within(&CONFIG_MAPS, "default").create(owned("b", true)).await.unwrap();
    // Who may finalize everything does not need to be told what kind the owner is of.
    let rules = object!([{ "apiGroups": ["*"], "resources": ["*/finalizers"], "verbs": ["update"] }]);
    root.all(&CLUSTER_ROLES).create(object!({ "metadata": { "name": "all" }, "rules": (rules) })).await.unwrap();
    let role = object!({ "kind": "ClusterRole", "name": "all", "apiGroup": "rbac.authorization.k8s.io" });
    let subject = object!({ "kind": "User", "name": "u", "apiGroup": "rbac.authorization.k8s.io" });
    let binding = object!({ "metadata": { "name": "all" }, "roleRef": (role), "subjects": [(subject)] });
    root.all(&CLUSTER_ROLE_BINDINGS).create(binding).await.unwrap();
    let mut unknown = owned("c", true);
    unknown.set(
        &["metadata", "ownerReferences"],
        object!([
            { "apiVersion": "example.com/v1", "kind": "Thing", "name": "o", "uid": "1", "blockOwnerDeletion": true }
        ]),
    );
    let mut made = maps.create(unknown.clone()).await;
    while made.as_ref().is_err_and(|status| status.is(Reason::Forbidden)) {
        tokio::task::yield_now().await;
        made = maps.create(unknown.clone()).await;
    }
    made.unwrap();
    stop.cancel();
    drop(following);
}

#[tokio::test]
async fn what_is_not_wanted_does_not_run() {
    let (_server, client) = server(&[], &["StorageObjectInUseProtection", "ResourceQuota", "ServiceAccount"]).await;
    let claims = client.within(&PERSISTENT_VOLUME_CLAIMS, "default");
    let spec = object!({ "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } } });
    let claim = object!({ "metadata": { "name": "c" }, "spec": (spec) });
    assert!(claims.create(claim.clone()).await.unwrap().list_at(&["metadata", "finalizers"]).is_empty());
    let quota = object!({ "metadata": { "name": "q" }, "spec": { "hard": { "pods": "0" } } });
    client.within(&RESOURCE_QUOTAS, "default").create(quota).await.unwrap();
    let made = client.within(&PODS, "default").create(pod("p", &object!({}))).await.unwrap();
    assert_eq!(made.str_at(&["spec", "serviceAccountName"]), "");

    let (_server, client) = server(&[], &[]).await;
    let made = client.within(&PERSISTENT_VOLUME_CLAIMS, "default").create(claim).await.unwrap();
    assert!(meta::has_finalizer(&made, "kubernetes.io/pvc-protection"));
}

#[tokio::test]
async fn everything_can_be_denied() {
    let chain = Chain::chosen(Choice::new(&["AlwaysDeny".into()], &[]).unwrap());
    let server = admitting(in_memory(), Environment::system(), Allocators::default(), chain);
    let client = client_as(&server, User::authenticated("admin", &["system:masters"]));
    let why = refused(client.all(&NAMESPACES).create(object!({ "metadata": { "name": "n" } })).await);
    assert!(why.ends_with("the plugin AlwaysDeny is on, which refuses every change"), "{why}");
}
