//! A node as the scheduler sees it: what it has, what is taken, which pods it holds.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use fram_machinery::{Value, meta};

use crate::plugins::images_of_node;
use crate::pod::{Amounts, HostPort, Pod, add, amounts};

#[derive(Debug, Clone, Default)]
pub(crate) struct Node {
    /// None where pods are bound to a node that is not there (yet).
    pub(crate) object: Option<Arc<Value>>,
    pub(crate) allocatable: Amounts,
    pub(crate) requested: Amounts,
    /// As `requested`, with a small amount for containers that ask for nothing; scores use it.
    pub(crate) scored: Amounts,
    pub(crate) ports: Vec<HostPort>,
    pub(crate) pods: HashMap<String, Arc<Pod>>,
    /// Those of the pods that want to be near others or away from them, by UID.
    pub(crate) with_affinity: HashSet<String>,
    /// Names of images, and their sizes in bytes.
    pub(crate) images: HashMap<String, i64>,
}

/// What a container without requests counts in scores; see schedutil.DefaultMilliCPURequest and DefaultMemoryRequest.
const DEFAULT_MILLI_CPU: i64 = 100;
const DEFAULT_MEMORY: i64 = 200 * 1024 * 1024;

/// A pod's requests as scores count them.
pub(crate) fn scored_requests(pod: &Pod) -> Amounts {
    let mut out = pod.requests.clone();
    out.entry("cpu".into()).or_insert(DEFAULT_MILLI_CPU);
    out.entry("memory".into()).or_insert(DEFAULT_MEMORY);
    out
}

impl Node {
    pub(crate) fn set_object(&mut self, object: Arc<Value>) {
        self.allocatable = amounts(object.at(&["status", "allocatable"]));
        self.images = images_of_node(&object);
        self.object = Some(object);
    }

    pub(crate) fn name(&self) -> &str {
        self.object.as_deref().map_or("", meta::name)
    }

    pub(crate) fn labels(&self) -> &Value {
        self.object.as_deref().map_or(&Value::Null, meta::labels)
    }

    pub(crate) fn taints(&self) -> &[Value] {
        self.object.as_deref().map_or(&[], |o| o.list_at(&["spec", "taints"]))
    }

    pub(crate) fn add_pod(&mut self, pod: Arc<Pod>) {
        add(&mut self.requested, &pod.requests);
        add(&mut self.scored, &scored_requests(&pod));
        self.ports.extend(pod.ports.iter().cloned());
        if pod.affinity.is_some() {
            self.with_affinity.insert(pod.uid.clone());
        }
        self.pods.insert(pod.uid.clone(), pod);
    }

    pub(crate) fn remove_pod(&mut self, uid: &str) {
        let Some(pod) = self.pods.remove(uid) else { return };
        self.with_affinity.remove(uid);
        let subtract = |from: &mut Amounts, what: &Amounts| {
            for (name, n) in what {
                if let Some(held) = from.get_mut(name) {
                    *held -= n;
                }
            }
        };
        subtract(&mut self.requested, &pod.requests);
        subtract(&mut self.scored, &scored_requests(&pod));
        for port in &pod.ports {
            if let Some(i) = self.ports.iter().position(|p| p == port) {
                self.ports.swap_remove(i);
            }
        }
    }
}
