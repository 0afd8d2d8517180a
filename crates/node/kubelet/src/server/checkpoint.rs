//! /checkpoint: has the runtime write the state of a container into an archive on the node. See upstream's CheckpointContainer.

use std::time::Duration;

use fram_machinery::object;
use fram_streaming::answer::{Answer, json, refuse};
use fram_streaming::query::Query;
use http::StatusCode;

use super::remote;
use crate::clock;
use crate::kubelet::Kubelet;

pub(super) async fn make(kubelet: &Kubelet, namespace: &str, name: &str, container: &str, query: &Query) -> Answer {
    kubelet.pod_with(&format!("{namespace}/{name}"), Some(container))?;
    let timeout = match query.all("timeout").last() {
        // As upstream answers.
        Some(text) => text.parse().map_err(|_| refuse(StatusCode::NOT_FOUND, "cannot parse value of timeout parameter"))?,
        None => 0,
    };
    let id = remote::running(kubelet, &format!("{namespace}/{name}"), container).await?;
    let failed = |why: &dyn std::fmt::Display| {
        refuse(StatusCode::INTERNAL_SERVER_ERROR, &format!("checkpointing of {namespace}/{name}/{container} failed ({why})"))
    };
    let folder = kubelet.ctx.config.root_dir.join("checkpoints");
    std::fs::create_dir_all(&folder).map_err(|error| failed(&format!("create {folder:?}: {error}")))?;
    let at = clock::time(kubelet.ctx.clock.now());
    let location = folder.join(format!("checkpoint-{name}_{namespace}-{container}-{at}.tar")).display().to_string();
    let made = kubelet.ctx.runtime.checkpoint_container(&id, &location, Duration::from_secs(timeout)).await;
    made.map_err(|error| failed(&error))?;
    Ok(json(&object!({ "items": [location] })))
}
