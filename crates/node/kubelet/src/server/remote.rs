//! Exec and attach: which process a request is about. What its streams speak is `fram-streaming`'s.

use fram_streaming::answer::{Answer, Body, refuse};
use fram_streaming::exec;
use fram_streaming::query::Query;
use http::{Request, StatusCode};
use hyper::body::Incoming;

use crate::kubelet::Kubelet;
use crate::observed::Observed;
use crate::pod;

pub(super) async fn exec(kubelet: &Kubelet, key: &str, container: &str, query: &Query, request: Request<Incoming>) -> Answer {
    let command = query.all("command");
    if command.is_empty() {
        return Err(refuse(StatusCode::BAD_REQUEST, "you must specify at least 1 command for the container"));
    }
    let options = exec::options(query)?;
    let id = running(kubelet, key, container).await?;
    let runtime = kubelet.ctx.runtime.clone();
    let open = async move { runtime.exec(&id, &command, options).await };
    exec::accept(&kubelet.sessions(), request, options, Box::pin(open), "error executing command in container")
}

pub(super) async fn attach(kubelet: &Kubelet, key: &str, container: &str, query: &Query, request: Request<Incoming>) -> Answer {
    let pod = kubelet.pod_with(key, Some(container))?;
    let mut options = exec::options(query)?;
    // The container's own setting counts, as upstream's container.TTY.
    options.tty = pod::find_container(&pod, container).and_then(|(_, c)| c.bool_at(&["tty"])) == Some(true);
    let id = running(kubelet, key, container).await?;
    let runtime = kubelet.ctx.runtime.clone();
    let open = async move { exec::attached(runtime.attach(&id, options)).await };
    exec::accept(&kubelet.sessions(), request, options, Box::pin(open), "error attaching to container")
}

/// The id of the container's running instance.
pub(super) async fn running(kubelet: &Kubelet, key: &str, container: &str) -> Result<String, Box<http::Response<Body>>> {
    let pod = kubelet.pod_with(key, Some(container))?;
    let observed = Observed::read(&*kubelet.ctx.runtime, fram_machinery::meta::uid(&pod)).await;
    let observed = observed.map_err(|error| refuse(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()))?;
    let running = observed.running().find(|c| c.metadata.name == container).map(|c| c.id.clone());
    running.ok_or_else(|| refuse(StatusCode::NOT_FOUND, &format!("container not found ({container:?})")))
}
