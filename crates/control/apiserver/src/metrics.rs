//! The group metrics.k8s.io: what nodes and pods use, asked of the kubelets when somebody wants to know. Nothing of it is stored,
//! but for the last look at each node, since a rate needs two. It stands in the place of metrics-server.

mod usage;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use fram_client::{ListOptions, Verb};
use fram_machinery::{Status, Value, json, meta, object};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::task::JoinSet;

use crate::kubelets::Kubelets;
use crate::registry::{ListRequest, Place, Registry, Selection};
use crate::server::{Answer, Performed, Server};
use usage::{LEAST_WINDOW, Look, Window};

pub(crate) const GROUP: &str = "metrics.k8s.io";
/// A kubelet that does not answer in this time is left out.
const PATIENCE: Duration = Duration::from_secs(5);

type Looks = Arc<tokio::sync::Mutex<Option<Window>>>;

/// The last looks at each node.
#[derive(Clone, Default)]
pub(crate) struct Metrics {
    nodes: Arc<Mutex<HashMap<String, Looks>>>,
}

pub(crate) async fn execute(server: &Server, place: Place, verb: Verb) -> Result<Performed, Status> {
    let of_nodes = place.kind().plural == "nodes";
    let answer = |answer| Ok(Performed { answer, warnings: Vec::new() });
    match verb {
        Verb::Get => {
            let subject = place_of(&server.registry, &place)?;
            let object = server.registry.get_object(&subject).await?;
            let found = if of_nodes { of_nodes_of(server, vec![object]).await } else { of_pods_of(server, vec![object]).await };
            let object = found.into_iter().next().ok_or_else(|| place.not_found())?;
            answer(Answer::Other { object, created: false })
        }
        Verb::List(options) => {
            let objects = list(&server.registry, &place, &options).await?;
            let objects = if of_nodes { of_nodes_of(server, objects).await } else { of_pods_of(server, objects).await };
            answer(Answer::Objects { place, objects })
        }
        _ => Err(Status::method_not_allowed(GROUP, &place.kind().plural, "")),
    }
}

/// The place of the node or pod itself.
fn place_of(registry: &Registry, place: &Place) -> Result<Place, Status> {
    let served = registry.served("", "v1", &place.kind().plural).ok_or_else(Status::no_such_path)?;
    Ok(Place { served, namespace: place.namespace.clone(), name: place.name.clone() })
}

async fn list(registry: &Registry, place: &Place, options: &ListOptions) -> Result<Vec<Value>, Status> {
    let all = Place { name: String::new(), ..place_of(registry, place)? };
    let selection = Selection::parse(&all.served.kind, &options.label_selector, &options.field_selector)?;
    let listing = registry.list(&all, &ListRequest { selection, ..Default::default() }).await?;
    listing.items.iter().map(|entry| registry.decode(&all.served, entry)).collect()
}

async fn of_nodes_of(server: &Server, nodes: Vec<Value>) -> Vec<Value> {
    let windows = windows(server, nodes.iter().map(|n| meta::name(n).to_string()).collect()).await;
    let one = |node: &Value| {
        let window = windows.get(meta::name(node))?;
        let mut metrics = frame("NodeMetrics", node, window);
        metrics.set(&["usage"], usage::of_node(window)?);
        Some(metrics)
    };
    nodes.iter().filter_map(one).collect()
}

async fn of_pods_of(server: &Server, pods: Vec<Value>) -> Vec<Value> {
    let mut names: Vec<String> = pods.iter().map(|p| p.str_at(&["spec", "nodeName"]).to_string()).filter(|n| !n.is_empty()).collect();
    names.sort();
    names.dedup();
    let windows = windows(server, names).await;
    let one = |pod: &Value| {
        let window = windows.get(pod.str_at(&["spec", "nodeName"]))?;
        let mut metrics = frame("PodMetrics", pod, window);
        metrics.set(&["containers"], usage::of_pod(window, meta::uid(pod))?);
        Some(metrics)
    };
    pods.iter().filter_map(one).collect()
}

fn frame(kind: &str, subject: &Value, window: &Window) -> Value {
    let mut metadata = object!({ "name": (meta::name(subject)), "creationTimestamp": (window.last.time.as_str()) });
    if !meta::namespace(subject).is_empty() {
        metadata.set(&["namespace"], meta::namespace(subject));
    }
    if !meta::labels(subject).is_empty() {
        metadata.set(&["labels"], meta::labels(subject).clone());
    }
    object!({ "kind": kind, "apiVersion": "metrics.k8s.io/v1beta1", "metadata": metadata,
        "timestamp": (window.last.time.as_str()), "window": (usage::go_duration(window.length())) })
}

/// What each node has used of late; nodes that do not answer are left out.
async fn windows(server: &Server, names: Vec<String>) -> BTreeMap<String, Window> {
    let mut tasks = JoinSet::new();
    for name in names {
        let looks = server.metrics.nodes.lock().entry(name.clone()).or_default().clone();
        let (kubelets, now) = (server.kubelets.clone(), server.registry.environment().clone());
        tasks.spawn(async move {
            let time = || now.now_text();
            let found = tokio::time::timeout(PATIENCE, window(&kubelets, &name, &looks, time)).await;
            (name, found.unwrap_or_else(|_| Err(Status::internal("the kubelet does not answer"))))
        });
    }
    let mut out = BTreeMap::new();
    while let Some(ended) = tasks.join_next().await {
        match ended {
            Ok((name, Ok(window))) => drop(out.insert(name, window)),
            Ok((node, Err(status))) => tracing::info!(node, %status, "what a node uses is not known"),
            Err(error) => tracing::error!(%error, "asking a node for what it uses failed"),
        }
    }
    out
}

/// From looks before to one now. Where there was none of late, the node is looked at twice.
async fn window(kubelets: &Kubelets, node: &str, looks: &Looks, time: impl Fn() -> String) -> Result<Window, Status> {
    let mut looks = looks.lock().await;
    if let Some(known) = looks.as_ref().filter(|w| w.last.at.elapsed() < LEAST_WINDOW) {
        return Ok(known.clone());
    }
    let before = match looks.as_ref().filter(|w| w.last.is_recent()) {
        Some(known) => known.looks(),
        None => {
            let first = look(kubelets, node, time()).await?;
            tokio::time::sleep(LEAST_WINDOW).await;
            vec![first]
        }
    };
    let window = Window::new(before, look(kubelets, node, time()).await?);
    *looks = Some(window.clone());
    Ok(window)
}

async fn look(kubelets: &Kubelets, node: &str, time: String) -> Result<Look, Status> {
    let bad = |e: &dyn std::fmt::Display| Status::internal(format!("cannot ask the kubelet of {node}: {e}"));
    let stream = kubelets.connect(node).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| bad(&e))?;
    let request = http::Request::get("/stats/summary").header(http::header::HOST, "kubelet").body(Empty::<bytes::Bytes>::new());
    let request = request.map_err(|e| bad(&e))?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(|e| bad(&e))?;
        if !response.status().is_success() {
            return Err(bad(&response.status()));
        }
        response.into_body().collect().await.map(|body| body.to_bytes()).map_err(|e| bad(&e))
    };
    tokio::pin!(answer);
    let bytes = tokio::select! {
        bytes = &mut answer => bytes?,
        // The connection may end with the answer; then what was read is there.
        _ = connection => answer.await?,
    };
    Ok(Look { at: tokio::time::Instant::now(), time, summary: Arc::new(json::from_slice(&bytes).map_err(|e| bad(&e))?) })
}
