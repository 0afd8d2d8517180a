//! What nobody gets by a detour: rights of a namespace over the cluster, parts of an object through a subresource, rights given
//! away that one does not have.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod common {
    pub(crate) mod server;
}

use std::sync::Arc;

use common::server::{client_as, in_memory, server};
use fram_apiserver::{Server, User};
use fram_client::resources::{
    CLUSTER_ROLE_BINDINGS, CLUSTER_ROLES, CONFIG_MAPS, NAMESPACES, NODES, PERSISTENT_VOLUMES, POD_DISRUPTION_BUDGETS, PODS, ROLE_BINDINGS,
    ROLES, SECRETS, SERVICE_ACCOUNTS,
};
use fram_client::{Client, DeleteOptions, ListOptions, PatchKind, Resource, local_path};
use fram_machinery::{Reason, Value, meta, object};

const RBAC: &str = "rbac.authorization.k8s.io";

fn root(server: &Arc<Server>) -> Client {
    client_as(server, User::authenticated("admin", &["system:masters"]))
}

fn user(server: &Arc<Server>, name: &str) -> Client {
    client_as(server, User::authenticated(name, &[]))
}

fn binding(role: &str, user: &str) -> Value {
    object!({ "metadata": { "name": (format!("{user}-{role}")) }, "roleRef": { "apiGroup": RBAC, "kind": "ClusterRole", "name": role },
        "subjects": [{ "apiGroup": RBAC, "kind": "User", "name": user }] })
}

fn role(name: &str, verbs: &[&str], resources: &[&str]) -> Value {
    let list = |l: &[&str]| Value::from(l.iter().map(|t| Value::from(*t)).collect::<Vec<_>>());
    object!({ "metadata": { "name": name }, "rules": [{ "verbs": (list(verbs)), "apiGroups": ["", RBAC], "resources": (list(resources)) }] })
}

/// The authorizer takes in what was written.
async fn heard(server: &Server) {
    server.authorizer.rbac().refresh(&server.registry).await.unwrap();
}

#[tokio::test]
async fn a_right_within_a_namespace_is_none_over_the_cluster() {
    let server = server(in_memory()).await;
    root(&server).within(&ROLE_BINDINGS, "default").create(binding("cluster-admin", "eve")).await.unwrap();
    let eve = user(&server, "eve");
    heard(&server).await;
    assert!(eve.within(&CONFIG_MAPS, "default").list(ListOptions::default()).await.is_ok());
    assert!(eve.within(&NODES, "default").list(ListOptions::default()).await.unwrap_err().is(Reason::NotFound));
    assert!(eve.within(&NODES, "default").watch(ListOptions::default()).await.err().unwrap().is(Reason::NotFound));
    assert!(eve.within(&CLUSTER_ROLES, "default").get("cluster-admin").await.unwrap_err().is(Reason::NotFound));
}

#[tokio::test]
async fn nobody_gives_away_rights_that_they_do_not_have() {
    let server = server(in_memory()).await;
    let root = root(&server);
    let all = ["roles", "clusterroles", "rolebindings", "clusterrolebindings", "pods"];
    root.all(&CLUSTER_ROLES).create(role("keeper", &["get", "create", "update", "patch"], &all)).await.unwrap();
    root.all(&CLUSTER_ROLES).create(role("binder", &["bind"], &["clusterroles"])).await.unwrap();
    root.all(&CLUSTER_ROLE_BINDINGS).create(binding("keeper", "eve")).await.unwrap();
    let eve = user(&server, "eve");
    heard(&server).await;

    let refused = eve.all(&CLUSTER_ROLE_BINDINGS).create(binding("cluster-admin", "eve")).await.unwrap_err();
    assert!(refused.is(Reason::Forbidden) && refused.message.contains("permissions not currently held"), "{refused:?}");
    assert!(eve.all(&CLUSTER_ROLES).create(role("more", &["delete"], &["pods"])).await.unwrap_err().is(Reason::Forbidden));
    let widened = object!({ "rules": [{ "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"] }] });
    assert!(eve.all(&CLUSTER_ROLES).patch("keeper", "", PatchKind::Merge, widened).await.unwrap_err().is(Reason::Forbidden));
    // What one has one may give.
    eve.all(&CLUSTER_ROLES).create(role("same", &["get"], &["pods"])).await.unwrap();
    eve.within(&ROLES, "default").create(role("here", &["get", "patch"], &["pods"])).await.unwrap();
    let labelled = object!({ "metadata": { "labels": { "a": "b" } } });
    eve.all(&CLUSTER_ROLES).patch("same", "", PatchKind::Merge, labelled.clone()).await.unwrap();
    // An aggregation may gather a role by its labels; what the garbage collector has to write anybody may.
    let refused = eve.all(&CLUSTER_ROLES).patch("cluster-admin", "", PatchKind::Merge, labelled).await.unwrap_err();
    assert!(refused.is(Reason::Forbidden), "{refused:?}");
    let held = object!({ "metadata": { "finalizers": ["example.com/held"] } });
    eve.all(&CLUSTER_ROLES).patch("cluster-admin", "", PatchKind::Merge, held).await.unwrap();
    let loosened = object!({ "aggregationRule": null });
    assert!(eve.all(&CLUSTER_ROLES).patch("edit", "", PatchKind::Merge, loosened).await.unwrap_err().is(Reason::Forbidden));
    assert!(eve.all(&CLUSTER_ROLE_BINDINGS).create(binding("nothing", "eve")).await.unwrap_err().is(Reason::NotFound));

    root.all(&CLUSTER_ROLE_BINDINGS).create(binding("binder", "eve")).await.unwrap();
    heard(&server).await;
    eve.within(&ROLE_BINDINGS, "default").create(binding("view", "adam")).await.unwrap();
    let mut changed = binding("view", "adam");
    changed.set(&["roleRef", "name"], "edit");
    assert!(eve.within(&ROLE_BINDINGS, "default").update(changed).await.unwrap_err().is(Reason::Invalid));
}

#[tokio::test]
async fn nobody_has_a_policy_read_what_they_may_not_read() {
    const ADMISSION: &str = "admissionregistration.k8s.io";
    let resource = |plural: &'static str| Resource { group: ADMISSION.into(), version: "v1".into(), plural: plural.into() };
    let (policies, bindings) = (resource("validatingadmissionpolicies"), resource("validatingadmissionpolicybindings"));
    let server = server(in_memory()).await;
    let root = root(&server);
    let mut writer = role("writer", &["*"], &["*"]);
    writer.set(&["rules"], vec![object!({ "verbs": ["*"], "apiGroups": [ADMISSION], "resources": ["*"] })]);
    root.all(&CLUSTER_ROLES).create(writer).await.unwrap();
    root.all(&CLUSTER_ROLE_BINDINGS).create(binding("writer", "eve")).await.unwrap();
    let eve = user(&server, "eve");
    heard(&server).await;
    let policy = object!({ "metadata": { "name": "p" }, "spec": { "paramKind": { "apiVersion": "v1", "kind": "Secret" },
        "matchConstraints": { "resourceRules": [{ "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"] }] },
        "validations": [{ "expression": "false", "messageExpression": "string(params.data.token)" }] } });
    let bound = object!({ "metadata": { "name": "b" }, "spec": { "policyName": "p", "validationActions": ["Deny"],
        "paramRef": { "name": "s", "namespace": "kube-system", "parameterNotFoundAction": "Deny" } } });
    assert!(eve.all(&policies).create(policy.clone()).await.unwrap_err().is(Reason::Forbidden));
    root.all(&policies).create(policy).await.unwrap();
    let refused = eve.all(&bindings).create(bound.clone()).await.unwrap_err();
    assert!(refused.is(Reason::Forbidden) && refused.message.contains("paramRef"), "{refused:?}");
    root.within(&ROLES, "kube-system").create(role("reader", &["get"], &["secrets"])).await.unwrap();
    let mut reads = binding("reader", "eve");
    reads.set(&["roleRef", "kind"], "Role");
    root.within(&ROLE_BINDINGS, "kube-system").create(reads).await.unwrap();
    heard(&server).await;
    eve.all(&bindings).create(bound).await.unwrap();
}

#[tokio::test]
async fn who_may_only_change_objects_makes_none() {
    let server = server(in_memory()).await;
    root(&server).all(&CLUSTER_ROLES).create(role("changer", &["get", "update", "patch"], &["configmaps", "clusterroles"])).await.unwrap();
    root(&server).all(&CLUSTER_ROLE_BINDINGS).create(binding("changer", "eve")).await.unwrap();
    let eve = user(&server, "eve");
    heard(&server).await;
    let config = object!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "c" }, "data": { "a": "b" } });
    let maps = eve.within(&CONFIG_MAPS, "default");
    assert!(maps.apply("c", "", config.clone()).await.unwrap_err().is(Reason::Forbidden));
    assert!(eve.all(&CLUSTER_ROLES).update(role("new", &["get"], &["configmaps"])).await.unwrap_err().is(Reason::Forbidden));
    root(&server).within(&CONFIG_MAPS, "default").create(config.clone()).await.unwrap();
    assert!(maps.patch("c", "", PatchKind::Merge, object!({ "data": { "a": "c" } })).await.is_ok());
}

async fn with_pod(client: &Client) {
    client.within(&SERVICE_ACCOUNTS, "default").create(object!({ "metadata": { "name": "default" } })).await.unwrap();
    let spec = object!({ "containers": [{ "name": "c", "image": "i:1" }] });
    client.within(&PODS, "default").create(object!({ "metadata": { "name": "p", "labels": { "a": "b" } }, "spec": spec })).await.unwrap();
    let binding = object!({ "metadata": { "name": "p" }, "target": { "kind": "Node", "name": "n1" } });
    client.within(&PODS, "default").create_subresource("p", "binding", binding).await.unwrap();
}

#[tokio::test]
async fn a_subresource_changes_its_own_part_alone() {
    let server = server(in_memory()).await;
    let client = root(&server);
    with_pod(&client).await;
    let pods = client.within(&PODS, "default");
    let debugger = object!({ "name": "d", "image": "i:2" });
    let patch = object!({ "spec": { "nodeName": "other", "hostNetwork": true, "ephemeralContainers": [debugger] } });
    let patched = pods.patch("p", "ephemeralcontainers", PatchKind::Merge, patch).await.unwrap();
    assert_eq!((patched.str_at(&["spec", "nodeName"]), patched.bool_at(&["spec", "hostNetwork"])), ("n1", None));
    assert_eq!(patched.list_at(&["spec", "ephemeralContainers"]).len(), 1);
    let gone = object!({ "spec": { "ephemeralContainers": [] } });
    assert!(pods.patch("p", "ephemeralcontainers", PatchKind::Merge, gone).await.unwrap_err().is(Reason::Invalid));
    for (field, value) in [("namespace", "kube-system"), ("uid", "other")] {
        let mut patch = object!({ "status": { "phase": "Running" } });
        patch.set(&["metadata", field], value);
        assert!(pods.patch("p", "status", PatchKind::Merge, patch).await.is_err(), "{field}");
    }
    let mut bad = object!({ "status": { "phase": "Running" } });
    bad.set(&["metadata", "labels"], object!({ "not a key": "x" }));
    assert!(pods.patch("p", "status", PatchKind::Merge, bad).await.unwrap_err().is(Reason::Invalid));
    let after = pods.get("p").await.unwrap();
    assert_eq!((meta::namespace(&after), meta::name(&after)), ("default", "p"));
}

#[tokio::test]
async fn a_node_sees_and_changes_its_own_pods_alone() {
    let server = server(in_memory()).await;
    with_pod(&root(&server)).await;
    let node = |name: &str| client_as(&server, User::authenticated(&format!("system:node:{name}"), &["system:nodes"]));
    assert!(node("n1").within(&PODS, "default").get("p").await.is_ok());
    assert!(node("n2").within(&PODS, "default").get("p").await.unwrap_err().is(Reason::Forbidden));
    let of = |name: &str| ListOptions { field_selector: format!("spec.nodeName={name}"), ..Default::default() };
    assert_eq!(node("n1").all(&PODS).list(of("n1")).await.unwrap().items.len(), 1);
    assert!(node("n1").all(&PODS).list(of("n2")).await.unwrap_err().is(Reason::Forbidden));
    assert!(node("n1").all(&PODS).watch(ListOptions::default()).await.err().unwrap().is(Reason::Forbidden));
    // Its slices of devices likewise, which it removes when a driver is gone.
    let slices = |name: &str| node(name).all(&fram_client::resources::RESOURCE_SLICES);
    assert!(slices("n1").list(of("n1")).await.is_ok());
    assert!(slices("n1").delete_collection(DeleteOptions::default(), of("n1")).await.is_ok());
    assert!(slices("n1").list(of("n2")).await.unwrap_err().is(Reason::Forbidden));
    assert!(slices("n1").delete_collection(DeleteOptions::default(), of("n2")).await.unwrap_err().is(Reason::Forbidden));
    let labelled = object!({ "metadata": { "labels": { "role": "admin" } }, "status": { "phase": "Running" } });
    assert!(node("n1").within(&PODS, "default").patch("p", "status", PatchKind::Merge, labelled).await.unwrap_err().is(Reason::Forbidden));
    let eviction = object!({ "metadata": { "name": "p" } });
    let evicted = node("n2").within(&PODS, "default").create_subresource("p", "eviction", eviction).await;
    assert!(evicted.unwrap_err().is(Reason::Forbidden));
}

#[tokio::test]
async fn a_right_that_was_a_default_once_ends_with_the_next_start() {
    let store = in_memory();
    let first = root(&server(store.clone()).await);
    let labels = object!({ "kubernetes.io/bootstrapping": "rbac-defaults" });
    let rules = object!([{ "apiGroups": [""], "resources": ["persistentvolumes"], "verbs": ["list"] }]);
    let role = object!({ "metadata": { "name": "fram:local-path-node", "labels": (labels.clone()) }, "rules": (rules) });
    first.all(&CLUSTER_ROLES).create(role).await.unwrap();
    let subjects = object!([{ "apiGroup": RBAC, "kind": "Group", "name": "system:nodes" }]);
    let reference = object!({ "apiGroup": RBAC, "kind": "ClusterRole", "name": "fram:local-path-node" });
    let metadata = object!({ "name": "fram:local-path-node", "labels": (labels) });
    let binding = object!({ "metadata": (metadata), "subjects": (subjects), "roleRef": (reference) });
    first.all(&CLUSTER_ROLE_BINDINGS).create(binding).await.unwrap();
    let second = server(store).await;
    let node = client_as(&second, User::authenticated("system:node:n1", &["system:nodes"]));
    assert!(node.all(&PERSISTENT_VOLUMES).list(ListOptions::default()).await.unwrap_err().is(Reason::Forbidden));
    assert!(root(&second).all(&CLUSTER_ROLES).find("fram:local-path-node").await.unwrap().is_none());
}

#[tokio::test]
async fn a_node_follows_and_lets_go_of_the_volumes_that_it_holds_and_no_others() {
    let server = server(in_memory()).await;
    let node = |name: &str| client_as(&server, User::authenticated(&format!("system:node:{name}"), &["system:nodes"]));
    let volumes = |name: &str| node(name).all(&PERSISTENT_VOLUMES);
    let volume = object!({ "metadata": { "name": "v", "labels": { "fram.dev/local-path-node": "n1" },
            "annotations": { "fram.dev/local-path-node": "n1" }, "finalizers": ["fram.dev/local-path"] },
        "spec": { "accessModes": ["ReadWriteOnce"], "capacity": { "storage": "1Gi" }, "local": { "path": "/v" },
            "nodeAffinity": { "required": { "nodeSelectorTerms": [{ "matchExpressions": [{ "key": "a", "operator": "Exists" }] }] } } } });
    root(&server).all(&PERSISTENT_VOLUMES).create(volume).await.unwrap();
    let of = |name: &str| ListOptions { label_selector: local_path::selector_of(name), ..Default::default() };
    let seen = volumes("n1").list(of("n1")).await.unwrap().items;
    assert_eq!(seen.len(), 1);
    assert!(volumes("n2").list(of("n1")).await.unwrap_err().is(Reason::Forbidden));
    assert!(volumes("n1").list(ListOptions::default()).await.unwrap_err().is(Reason::Forbidden));
    assert!(volumes("n2").watch(of("n1")).await.err().unwrap().is(Reason::Forbidden));
    root(&server).all(&PERSISTENT_VOLUMES).delete("v", DeleteOptions::default()).await.unwrap();
    let doomed = volumes("n1").list(of("n1")).await.unwrap().items.remove(0);
    let mut released = (*doomed).clone();
    meta::remove_finalizer(&mut released, local_path::PROVISIONER);
    assert!(volumes("n2").update(released.clone()).await.unwrap_err().is(Reason::Forbidden));
    let finalizers = meta::finalizers(&doomed).map(String::from).collect::<Vec<_>>();
    volumes("n1").update(released).await.unwrap();
    let left = root(&server).all(&PERSISTENT_VOLUMES).find("v").await.unwrap();
    assert!(left.is_none_or(|v| !meta::has_finalizer(&v, local_path::PROVISIONER)), "{finalizers:?}");
}

#[tokio::test]
async fn an_eviction_minds_its_dry_run_and_lets_unready_pods_go() {
    let server = server(in_memory()).await;
    let client = root(&server);
    with_pod(&client).await;
    let pods = client.within(&PODS, "default");
    let running = object!({ "status": { "phase": "Running" } });
    pods.patch("p", "status", PatchKind::Merge, running).await.unwrap();
    let dry = object!({ "metadata": { "name": "p" }, "deleteOptions": { "dryRun": ["All"] } });
    pods.create_subresource("p", "eviction", dry).await.unwrap();
    assert!(!meta::is_terminating(&pods.get("p").await.unwrap()));

    let budgets = client.within(&POD_DISRUPTION_BUDGETS, "default");
    let budget = object!({ "metadata": { "name": "b" }, "spec": { "minAvailable": 1, "selector": { "matchLabels": { "a": "b" } } } });
    budgets.create(budget).await.unwrap();
    let eviction = || object!({ "metadata": { "name": "p" } });
    assert!(pods.create_subresource("p", "eviction", eviction()).await.unwrap_err().is(Reason::TooManyRequests));
    let allows = object!({ "spec": { "unhealthyPodEvictionPolicy": "AlwaysAllow" } });
    budgets.patch("b", "", PatchKind::Merge, allows).await.unwrap();
    let wrong = object!({ "metadata": { "name": "p" }, "deleteOptions": { "preconditions": { "resourceVersion": "1" } } });
    assert!(pods.create_subresource("p", "eviction", wrong).await.unwrap_err().is(Reason::Conflict));
    pods.create_subresource("p", "eviction", eviction()).await.unwrap();
    assert!(meta::is_terminating(&pods.get("p").await.unwrap()));
}

#[tokio::test]
async fn many_who_share_a_quota_all_get_their_turn() {
    let server = server(in_memory()).await;
    let client = root(&server);
    client.all(&NAMESPACES).create(object!({ "metadata": { "name": "full" } })).await.unwrap();
    let quotas = client.within(&fram_client::resources::RESOURCE_QUOTAS, "full");
    quotas.create(object!({ "metadata": { "name": "q" }, "spec": { "hard": { "count/configmaps": "1000" } } })).await.unwrap();
    let seen = object!({ "status": { "hard": { "count/configmaps": "1000" }, "used": { "count/configmaps": "0" } } });
    quotas.patch("q", "status", PatchKind::Merge, seen).await.unwrap();
    let mut made = tokio::task::JoinSet::new();
    for i in 0..100 {
        let maps = client.within(&CONFIG_MAPS, "full");
        made.spawn(async move { maps.create(object!({ "metadata": { "name": (format!("m{i}")) } })).await.map(drop) });
    }
    let failed: Vec<_> = made.join_all().await.into_iter().filter_map(Result::err).collect();
    assert!(failed.is_empty(), "{}: {:?}", failed.len(), failed[0]);
    let quota = quotas.get("q").await.unwrap();
    assert_eq!(quota.str_at(&["status", "used", "count/configmaps"]), "100");
}

#[tokio::test]
async fn a_quota_holds_from_when_its_controller_has_seen_it() {
    let server = server(in_memory()).await;
    let client = root(&server);
    let quotas = client.within(&fram_client::resources::RESOURCE_QUOTAS, "default");
    quotas.create(object!({ "metadata": { "name": "q" }, "spec": { "hard": { "count/configmaps": "0" } } })).await.unwrap();
    let maps = client.within(&CONFIG_MAPS, "default");
    maps.create(object!({ "metadata": { "name": "before" } })).await.unwrap();
    let seen = object!({ "status": { "hard": { "count/configmaps": "0" }, "used": { "count/configmaps": "0" } } });
    quotas.patch("q", "status", PatchKind::Merge, seen).await.unwrap();
    assert!(maps.create(object!({ "metadata": { "name": "after" } })).await.unwrap_err().message.contains("exceeded quota: q"));
}

#[tokio::test]
async fn a_pod_that_gets_a_deadline_is_charged_to_other_quotas_at_once() {
    let server = server(in_memory()).await;
    let client = root(&server);
    let quotas = client.within(&fram_client::resources::RESOURCE_QUOTAS, "default");
    for (name, scope) in [("with", "Terminating"), ("without", "NotTerminating")] {
        let quota = object!({ "metadata": { "name": name }, "spec": { "hard": { "pods": "1" }, "scopes": [scope] } });
        quotas.create(quota).await.unwrap();
        let seen = object!({ "status": { "hard": { "pods": "1" }, "used": { "pods": "0" } } });
        quotas.patch(name, "status", PatchKind::Merge, seen).await.unwrap();
    }
    let accounts = client.within(&fram_client::resources::SERVICE_ACCOUNTS, "default");
    accounts.create(object!({ "metadata": { "name": "default" } })).await.unwrap();
    let pods = client.within(&PODS, "default");
    let pod = |name: &str| object!({ "metadata": { "name": name }, "spec": { "containers": [{ "name": "c", "image": "i" }] } });
    pods.create(pod("a")).await.unwrap();
    pods.patch("a", "", PatchKind::Merge, object!({ "spec": { "activeDeadlineSeconds": 60 } })).await.unwrap();
    let mut second = pod("b");
    second.set(&["spec", "activeDeadlineSeconds"], 60);
    assert!(pods.create(second).await.unwrap_err().message.contains("exceeded quota: with"));
    pods.create(pod("b")).await.unwrap();
}

#[tokio::test]
async fn a_namespace_says_how_safe_its_pods_are() {
    let server = server(in_memory()).await;
    let client = root(&server);
    let level = |mode: &str, level: &str| {
        let mut namespace = object!({ "metadata": { "name": "safe", "labels": {} } });
        meta::set_label(&mut namespace, &format!("pod-security.kubernetes.io/{mode}"), level);
        namespace
    };
    assert!(client.all(&NAMESPACES).create(level("enforce", "strict")).await.unwrap_err().is(Reason::Invalid));
    client.all(&NAMESPACES).create(level("enforce", "baseline")).await.unwrap();
    client.within(&SERVICE_ACCOUNTS, "safe").create(object!({ "metadata": { "name": "default" } })).await.unwrap();
    let pod = |name: &str, host: bool| object!({ "metadata": { "name": name }, "spec": { "hostNetwork": host, "containers": [{ "name": "c", "image": "i" }] } });
    let pods = client.within(&PODS, "safe");
    pods.create(pod("plain", false)).await.unwrap();
    let refused = pods.create(pod("host", true)).await.unwrap_err();
    let expect = "pods \"host\" is forbidden: violates PodSecurity \"baseline:latest\": host namespaces (hostNetwork=true)";
    assert_eq!(refused.message, expect);
    let applied =
        object!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "host" }, "spec": (pod("host", true).get("spec").cloned()) });
    assert!(pods.apply("host", "", applied).await.unwrap_err().is(Reason::Forbidden));
    // Elsewhere nothing is asked for.
    client.within(&SERVICE_ACCOUNTS, "default").create(object!({ "metadata": { "name": "default" } })).await.unwrap();
    client.within(&PODS, "default").create(pod("host", true)).await.unwrap();
}

const POLICIES: Resource = Resource::new("admissionregistration.k8s.io", "v1", "validatingadmissionpolicies");
const POLICY_BINDINGS: Resource = Resource::new("admissionregistration.k8s.io", "v1", "validatingadmissionpolicybindings");

/// A policy on config maps, bound everywhere, whose only rule this is. Ends when the server knows it.
async fn police(root: &Client, expression: &str) {
    let rule = object!({ "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"] });
    let policy = object!({ "metadata": { "name": "p" },
        "spec": { "matchConstraints": { "resourceRules": [rule] }, "validations": [{ "expression": expression }] } });
    let binding = object!({ "metadata": { "name": "p" }, "spec": { "policyName": "p", "validationActions": ["Deny"] } });
    root.all(&POLICY_BINDINGS).create(binding).await.unwrap();
    root.all(&POLICIES).create(policy).await.unwrap();
    while root.all(&POLICIES).get("p").await.unwrap().int_at(&["status", "observedGeneration"]).is_none() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_policy_asks_what_the_user_of_a_request_may() {
    for (expression, may) in [
        ("authorizer.group('').resource('secrets').namespace(request.namespace).check('get').allowed()", false),
        ("authorizer.group('').resource('configmaps').namespace(request.namespace).check('create').allowed()", true),
        ("authorizer.requestResource.check('create').allowed() && !authorizer.requestResource.check('delete').allowed()", true),
        ("authorizer.path('/healthz').check('get').allowed() && !authorizer.path('metrics').check('get').allowed()", true),
        (
            "authorizer.serviceAccount('kube-system', 'namespace-controller').group('').resource('namespaces').check('delete').allowed()",
            true,
        ),
        (
            "authorizer.requestResource.name('other').check('delete').reason() == '' && !authorizer.requestResource.check('get').errored()",
            true,
        ),
        // Three checks cost more than an expression may.
        ("[1, 2, 3].all(x, authorizer.requestResource.check('create').allowed())", false),
        ("authorizer.group('').resource(' ').check('get').allowed()", false),
    ] {
        let server = server(in_memory()).await;
        let root = root(&server);
        root.all(&CLUSTER_ROLES).create(role("maker", &["create"], &["configmaps"])).await.unwrap();
        root.all(&CLUSTER_ROLE_BINDINGS).create(binding("maker", "eve")).await.unwrap();
        heard(&server).await;
        let asking = async {
            police(&root, expression).await;
            user(&server, "eve").within(&CONFIG_MAPS, "default").create(object!({ "metadata": { "name": "m" } })).await
        };
        let made = tokio::select! {
            made = asking => made,
            ended = server.clone().follow_policies(Default::default()) => panic!("{ended:?}"),
        };
        assert_eq!(made.is_ok(), may, "{expression}: {made:?}");
    }
}

#[tokio::test]
async fn the_use_of_a_secrets_token_is_noted_and_one_that_was_marked_as_invalid_lets_nobody_in() {
    let server = server(in_memory()).await;
    let root = root(&server);
    let tracking = root.within(&CONFIG_MAPS, "kube-system").get("kube-apiserver-legacy-service-account-token-tracking").await.unwrap();
    let today = jiff::Timestamp::now().strftime("%Y-%m-%d").to_string();
    assert_eq!(tracking.str_at(&["data", "since"]), today);
    let (accounts, secrets) = (root.within(&SERVICE_ACCOUNTS, "default"), root.within(&SECRETS, "default"));
    accounts.create(object!({ "metadata": { "name": "robot" } })).await.unwrap();
    let mut secret = object!({ "metadata": { "name": "s", "annotations": { "kubernetes.io/service-account.name": "robot" } },
        "type": "kubernetes.io/service-account-token" });
    secret = (*secrets.create(secret).await.unwrap()).clone();
    let issue = || async {
        let bound = object!({ "apiVersion": "v1", "kind": "Secret", "name": "s" });
        let request = object!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": { "audiences": [], "boundObjectRef": bound } });
        let answer = accounts.create_subresource("robot", "token", request).await.unwrap();
        answer.str_at(&["status", "token"]).to_string()
    };
    let (own, other) = (issue().await, issue().await);
    let audiences = [fram_apiserver::token::DEFAULT_ISSUER.to_string()];
    let lets_in = |token: String| {
        let (server, audiences) = (server.clone(), audiences.clone());
        async move { server.tokens.verify(&token, &audiences).await.unwrap().is_some() }
    };
    secret.set(&["data", "token"], base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &own));
    secrets.update(secret).await.unwrap();
    let last_used =
        || async { secrets.get("s").await.unwrap().str_at(&["metadata", "labels", "kubernetes.io/legacy-token-last-used"]).to_string() };
    assert!(lets_in(other.clone()).await && last_used().await.is_empty(), "a token that is only bound to it is none of its uses");
    assert!(lets_in(own.clone()).await);
    assert_eq!(last_used().await, today);
    let invalid = object!({ "metadata": { "labels": { "kubernetes.io/legacy-token-invalid-since": today } } });
    secrets.patch("s", "", PatchKind::Merge, invalid).await.unwrap();
    assert!(!lets_in(own).await && lets_in(other).await);
}
