//! Port forwarding: which sandbox a request is about. What its connections speak is `fram-streaming`'s.

use fram_streaming::answer::{Answer, Body, refuse};
use fram_streaming::forward;
use fram_streaming::query::Query;
use http::{Request, StatusCode};
use hyper::body::Incoming;

use super::Kubelet;
use crate::observed::Observed;

pub(super) async fn serve(kubelet: &Kubelet, key: &str, query: &Query, request: Request<Incoming>) -> Answer {
    let sandbox = sandbox(kubelet, key).await?;
    forward::accept(&kubelet.sessions(), kubelet.ctx.runtime.clone(), sandbox, query, request)
}

/// The pod's ready sandbox.
async fn sandbox(kubelet: &Kubelet, key: &str) -> Result<String, Box<http::Response<Body>>> {
    let pod = kubelet.pod_with(key, None)?;
    let observed = Observed::read(&*kubelet.ctx.runtime, fram_machinery::meta::uid(&pod)).await;
    let observed = observed.map_err(|error| refuse(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()))?;
    let ready = observed.ready_sandbox().map(|s| s.id.clone());
    ready.ok_or_else(|| refuse(StatusCode::NOT_FOUND, &format!("pod {key:?} has no sandbox that is ready")))
}
