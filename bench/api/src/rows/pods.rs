//! Single pods: made, read, changed, deleted.

use anyhow::Result;
use bytes::Bytes;
use fram_bench_common::{Figures, NAMESPACE, Subject, drive, request, send};
use fram_machinery::{Value, json, object};
use http::Request;
use http_body_util::Full;

/// Pods are in so many groups by their label.
pub(super) const GROUPS: usize = 50;
pub(super) const PATH: &str = "/api/v1/namespaces/bench/pods";

pub(super) fn path(number: usize) -> String {
    format!("{PATH}/pod-{number}")
}

/// A pod as Deployments make them, with a probe, limits and variables: with what the server adds, 3.8 kB of JSON. No scheduler takes
/// it.
pub(super) fn pod(name: &str, group: usize, node: &str) -> Value {
    let probe = |path: &str| object!({ "httpGet": { "path": path, "port": 8080 }, "periodSeconds": 10 });
    let variable = |n: usize| object!({ "name": (format!("VARIABLE_{n}")), "value": (format!("a value of some length, number {n}")) });
    let variables: Vec<Value> = (0..3).map(variable).collect();
    let container = |name: &str| {
        object!({
            "name": name, "image": "registry.example.com/team/application:v1.2.3",
            "args": ["--listen=:8080", "--log-level=info", "--config=/etc/application/config.yaml"],
            "ports": [{ "containerPort": 8080, "name": "http" }],
            "env": (variables.clone()),
            "resources": {
                "requests": { "cpu": "100m", "memory": "128Mi" },
                "limits": { "cpu": "500m", "memory": "256Mi" },
            },
            "readinessProbe": (probe("/readyz")),
            "volumeMounts": [{ "name": "config", "mountPath": "/etc/application" }],
        })
    };
    let mut pod = object!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": NAMESPACE,
            "labels": { "app": "application", "group": (group.to_string()), "pod-template-hash": "5d4f8c7b9" },
        },
        "spec": {
            "schedulerName": "none", "terminationGracePeriodSeconds": 0,
            "containers": [(container("application"))],
            "volumes": [{ "name": "config", "configMap": { "name": "application" } }],
        },
    });
    if !node.is_empty() {
        pod.set(&["spec", "nodeName"], node);
    }
    pod
}

pub(super) async fn create(subject: &Subject, pods: usize) -> Result<Figures> {
    let create = |name: &str, group: usize| send("POST", PATH, "application/json", json::to_vec(&pod(name, group, "")).into());
    drive(subject, &subject.clients, 200, |n| create(&format!("warm-{n}"), GROUPS)).await?;
    drive(subject, &subject.clients, 200, |n| request("DELETE", &format!("{PATH}/warm-{n}?gracePeriodSeconds=0"), "")).await?;
    drive(subject, &subject.clients, pods, |n| create(&format!("pod-{n}"), n % GROUPS)).await
}

pub(super) async fn get(subject: &Subject, pods: usize) -> Result<Figures> {
    drive(subject, &subject.clients, 2 * pods, |n| request("GET", &path(n % pods), "")).await
}

/// A change with a number, in an annotation of its row: what would change nothing makes no event.
pub(super) fn change(path: &str, row: &str, number: usize) -> Request<Full<Bytes>> {
    let body = format!(r#"{{"metadata":{{"annotations":{{"{row}":"{number}"}}}}}}"#);
    send("PATCH", path, "application/strategic-merge-patch+json", body.into())
}

pub(super) async fn patch(subject: &Subject, pods: usize) -> Result<Figures> {
    drive(subject, &subject.clients, pods, |n| change(&path(n), "patch", n)).await
}

pub(super) async fn delete(subject: &Subject, pods: usize) -> Result<Figures> {
    drive(subject, &subject.clients, pods, |n| request("DELETE", &format!("{}?gracePeriodSeconds=0", path(n)), "")).await
}
