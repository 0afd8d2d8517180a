//! What runs, as the runtime has it, and commands that are run to their end: /runningpods and /run. See upstream's pkg/kubelet/server.

use std::collections::BTreeMap;
use std::time::Duration;

use fram_cri::{ContainerFilter, ContainerState};
use fram_machinery::{Value, object};
use fram_streaming::answer::{Answer, json, refuse, text};
use fram_streaming::query::Query;
use http::StatusCode;

use super::remote;
use crate::kubelet::Kubelet;
use crate::observed::{LABEL_CONTAINER_NAME, LABEL_POD_NAME, LABEL_POD_NAMESPACE, LABEL_POD_UID};

/// How long a command may take.
const PATIENCE: Duration = Duration::from_secs(600);

/// The pods of which something runs, with no more than the runtime knows of them.
pub(super) async fn pods(kubelet: &Kubelet) -> Answer {
    let filter = ContainerFilter { state: Some(ContainerState::Running), ..ContainerFilter::default() };
    let failed = |error: fram_cri::CriError| refuse(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string());
    let running = kubelet.ctx.runtime.list_containers(&filter).await.map_err(failed)?;
    let mut found: BTreeMap<String, (Value, Vec<Value>)> = BTreeMap::new();
    for container in running {
        let label = |key: &str| container.labels.get(key).map(String::as_str).unwrap_or_default();
        let pod = || object!({ "metadata": { "name": (label(LABEL_POD_NAME)), "namespace": (label(LABEL_POD_NAMESPACE)), "uid": (label(LABEL_POD_UID)) } });
        let (_, containers) = found.entry(label(LABEL_POD_UID).to_string()).or_insert_with(|| (pod(), Vec::new()));
        containers.push(object!({ "name": (label(LABEL_CONTAINER_NAME)), "image": (container.image.image.as_str()), "resources": {} }));
    }
    let items: Vec<Value> = found
        .into_values()
        .map(|(mut pod, containers)| {
            pod.set(&["spec"], object!({ "containers": containers }));
            pod.set(&["status"], object!({}));
            pod
        })
        .collect();
    Ok(json(&object!({ "kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items })))
}

/// Runs a command and answers with what it wrote.
pub(super) async fn run(kubelet: &Kubelet, key: &str, container: &str, query: &Query) -> Answer {
    let command: Vec<String> = query.all("cmd").iter().flat_map(|c| c.split(' ')).map(String::from).collect();
    let id = remote::running(kubelet, key, container).await?;
    let ran = kubelet.ctx.runtime.exec_sync(&id, &command, Some(PATIENCE)).await;
    let ran = ran.map_err(|error| refuse(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()))?;
    let said = [ran.stdout, ran.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    match ran.exit_code {
        0 => Ok(text(&said)),
        code => Err(refuse(StatusCode::INTERNAL_SERVER_ERROR, &format!("command terminated with exit code {code}: {said}"))),
    }
}
