//! A kubelet with its models, and waiting for what the test expects.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fram_client::Client;
use fram_kubelet::{Kubelet, KubeletConfig, SystemClock};
use fram_machinery::{Value, object};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::api::Api;
use super::runtime::Runtime;

/// Far beyond what any expectation takes.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Rig {
    pub(crate) api: Api,
    pub(crate) runtime: Runtime,
    pub(crate) kubelet: Kubelet,
    dir: tempfile::TempDir,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

pub(crate) fn container(name: &str) -> Value {
    object!({ "name": name, "image": "img:1", "imagePullPolicy": "IfNotPresent", "command": ["sleep"] })
}

pub(crate) fn pod(name: &str, spec: Value) -> Value {
    let mut spec = spec;
    spec.set(&["nodeName"], "node");
    object!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "namespace": "ns", "name": name }, "spec": spec, "status": { "phase": "Pending" } })
}

fn kubelet(dir: &Path, api: &Api, runtime: &Runtime) -> Kubelet {
    let ips = vec!["192.0.2.1".parse().unwrap()];
    let mut config = KubeletConfig::new("node", ips, dir.join("lib"), dir.join("log"));
    // No controllers are below it: the tests of cgroups have the real ones.
    config.cgroup_mount = dir.join("cgroup");
    let client = Client::new(Arc::new(api.clone()), "kubelet");
    Kubelet::new(config, client, Arc::new(runtime.clone()), Arc::new(runtime.clone()), Arc::new(SystemClock)).unwrap()
}

impl Rig {
    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (api, runtime) = (Api::default(), Runtime::default());
        let kubelet = kubelet(dir.path(), &api, &runtime);
        let mut rig = Self { api, runtime, kubelet, dir, stop: CancellationToken::new(), tasks: JoinSet::new() };
        rig.spawn();
        rig
    }

    fn spawn(&mut self) {
        self.stop = CancellationToken::new();
        let (kubelet, stop) = (self.kubelet.clone(), self.stop.clone());
        self.tasks.spawn(async move { kubelet.run(stop).await.unwrap() });
    }

    pub(crate) fn root(&self) -> std::path::PathBuf {
        self.dir.path().join("lib")
    }

    /// Ends the kubelet and nothing else.
    pub(crate) async fn halt(&mut self) {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
    }

    pub(crate) async fn resume(&mut self) {
        self.kubelet = kubelet(self.dir.path(), &self.api, &self.runtime);
        self.spawn();
    }

    pub(crate) async fn stop(mut self) {
        self.halt().await;
    }

    /// Waits until the API has a pod like this.
    pub(crate) async fn pod(&self, name: &str, like: impl Fn(&Value) -> bool) -> Arc<Value> {
        let mut changes = self.api.changes();
        let found = async {
            loop {
                if let Some(pod) = self.api.get("pods", &format!("ns/{name}")).filter(|p| like(p)) {
                    return pod;
                }
                changes.changed().await.unwrap();
            }
        };
        self.patiently(found, || format!("{:?}", self.api.get("pods", &format!("ns/{name}")))).await
    }

    pub(crate) async fn gone(&self, name: &str) {
        self.until(|r| r.api.get("pods", &format!("ns/{name}")).is_none()).await;
    }

    /// Waits for something that the API's changes, or the runtime's, may bring.
    pub(crate) async fn until(&self, holds: impl Fn(&Self) -> bool) {
        let mut changes = self.api.changes();
        let wait = async {
            while !holds(self) {
                // Files and the runtime's state change without the API: look again after a moment.
                let _ = tokio::time::timeout(Duration::from_millis(20), changes.changed()).await;
            }
        };
        self.patiently(wait, || "it does not come true".into()).await;
    }

    pub(crate) async fn until_event(&self, text: &str) {
        self.until(|r| r.api.events().iter().any(|e| e == text)).await;
    }

    /// The events so far; the recorder is given a moment to send the last ones.
    pub(crate) async fn events(&self) -> Vec<String> {
        tokio::time::sleep(Duration::from_millis(50)).await;
        self.api.events()
    }

    async fn patiently<T>(&self, wait: impl Future<Output = T>, state: impl Fn() -> String) -> T {
        match tokio::time::timeout(PATIENCE, wait).await {
            Ok(found) => found,
            Err(_) => panic!("waited in vain: {}\nevents: {:#?}", state(), self.api.events()),
        }
    }
}
