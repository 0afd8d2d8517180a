//! One row: the cluster is made, pods are created as fast as clients can, and each counts when a watch shows it with a node.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use fram_bench_common::{Figures, Following, NAMESPACE, Subject, ask, drive, post, request};
use fram_client::remote::Remote;
use fram_machinery::{Value, json, meta, object};

use crate::cluster;
use crate::workloads::{Workload, claim, pod};

const PODS: &str = "/api/v1/namespaces/bench/pods";
/// Pods with a node.
const BOUND: &str = "&fieldSelector=spec.nodeName%21%3D";
/// Nobody waits longer than this for the next pod to be bound.
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) struct Row {
    pub(crate) figures: Figures,
    pods: usize,
    memory: f64,
}

impl std::fmt::Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} pods, {}, {:.0} MB", self.pods, self.figures, self.memory)
    }
}

/// Measures a workload on so many nodes. What it makes is taken away by the next.
pub(crate) async fn run(subject: &Subject, workload: Workload, nodes: usize, most: usize) -> Result<Row> {
    let admins = subject.admins(subject.clients.len())?;
    cluster::clear(&admins).await?;
    cluster::grow(subject, &admins, nodes).await?;
    cluster::priority(&admins[0], "bench-high", 10).await?;
    if workload == Workload::Devices {
        cluster::devices(subject, &admins, nodes).await?;
    }
    tokio::select! {
        row = measure(subject, &admins, workload, nodes, most) => row,
        stopped = cluster::beat(admins[0].clone(), nodes) => Err(stopped.err().context("the nodes' leases are no longer renewed")?),
        stopped = churn(&admins[0]), if workload == Workload::Churn => Err(stopped.err().context("nothing comes and goes any more")?),
    }
}

async fn measure(subject: &Subject, admins: &[Arc<Remote>], workload: Workload, nodes: usize, most: usize) -> Result<Row> {
    let counts = workload.counts(nodes, most);
    let waiting = |n: usize| post(PODS, &workload.waiting(&format!("waiting-{n}")));
    drive(subject, &subject.clients, counts.waiting, waiting).await?;
    let mut lines = Following::begin(&admins[0], PODS, BOUND).await?;
    let (before, bound) = tokio::join!(
        drive(subject, &subject.clients, counts.before, |n| post(PODS, &workload.before(&format!("before-{n}")))),
        take(&mut lines, "before-", counts.before)
    );
    before.and(bound)?;
    if workload == Workload::Devices {
        let claims = format!("/apis/resource.k8s.io/v1/namespaces/{NAMESPACE}/resourceclaims");
        drive(subject, admins, counts.measured, |n| post(&claims, &claim(&format!("pod-{n}")))).await?;
    }
    let body = |n: usize| workload.measured(&format!("pod-{n}"), n, nodes);
    let figures = match workload {
        Workload::Quiet => quiet(subject, &mut lines, counts.measured, body).await?,
        _ => crowd(subject, &mut lines, counts.measured, body).await?,
    };
    Ok(Row { figures, pods: counts.measured, memory: subject.memory() })
}

/// All at once: the latencies are from the first create on, so that they say how the pods followed each other.
async fn crowd(subject: &Subject, lines: &mut Following, count: usize, body: impl Fn(usize) -> Value) -> Result<Figures> {
    let (cpu, begun) = (subject.cpu(), Instant::now());
    let (created, bound) = tokio::join!(drive(subject, &subject.clients, count, |n| post(PODS, &body(n))), take(lines, "pod-", count));
    created?;
    let bound = bound?;
    let wall = begun.elapsed();
    let latencies = bound.into_values().map(|at| at - begun).collect();
    Ok(Figures::new(count, subject.cpu() - cpu, wall, latencies))
}

/// One after the other, each from before it is sent until it is seen with its node.
async fn quiet(subject: &Subject, lines: &mut Following, count: usize, body: impl Fn(usize) -> Value) -> Result<Figures> {
    let (cpu, begun) = (subject.cpu(), Instant::now());
    let mut latencies = Vec::with_capacity(count);
    for n in 0..count {
        let request = post(PODS, &body(n));
        let sent = Instant::now();
        let name = format!("pod-{n}\"");
        let (created, bound) = tokio::join!(ask(&subject.clients[0], request), take(lines, &name, 1));
        created?;
        latencies.extend(bound?.into_values().map(|at| at - sent));
    }
    Ok(Figures::new(count, subject.cpu() - cpu, begun.elapsed(), latencies))
}

/// Reads until so many pods whose names begin like this have been bound, and says when each was.
async fn take(lines: &mut Following, prefix: &str, count: usize) -> Result<HashMap<Vec<u8>, Instant>> {
    let mark = format!("\"name\":\"{prefix}");
    let mut seen = HashMap::with_capacity(count);
    while seen.len() < count {
        let line = tokio::time::timeout(PATIENCE, lines.next()).await;
        let line = line.with_context(|| format!("{} of {count} pods were bound", seen.len()))??;
        if !line.starts_with(br#"{"type":"ADDED""#) {
            continue;
        }
        let Some(at) = line.windows(mark.len()).position(|w| w == mark.as_bytes()) else { continue };
        let name = line[at + 8..].split(|b| *b == b'"').next().unwrap_or_default().to_vec();
        seen.entry(name).or_insert_with(Instant::now);
    }
    Ok(seen)
}

/// Once a second: a node that takes nothing, a pod that fits nowhere, and a Service are made, and those of before taken away.
async fn churn(admin: &Remote) -> Result<()> {
    let services = format!("/api/v1/namespaces/{NAMESPACE}/services");
    let mut every = tokio::time::interval(Duration::from_secs(1));
    for round in 0u64.. {
        every.tick().await;
        let name = format!("churn-{}", round % 2);
        let node = object!({ "metadata": { "name": (name.as_str()) }, "spec": { "unschedulable": true } });
        let service =
            object!({ "metadata": { "name": (name.as_str()) }, "spec": { "selector": { "app": "churn" }, "ports": [{ "port": 80 }] } });
        let made = [("/api/v1/nodes", node), (PODS, pod(&name, "9")), (services.as_str(), service)];
        for (path, object) in made {
            if round >= 2 {
                ask(admin, request("DELETE", &format!("{path}/{name}?gracePeriodSeconds=0"), "")).await?;
            }
            let answer = json::from_slice(&ask(admin, post(path, &object)).await?)?;
            ensure!(meta::name(&answer) == name, "{path}: {name} was not made");
        }
    }
    Ok(())
}
