//! A node as the scheduler sees it: what it has, what is taken, which pods it holds.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use fram_machinery::{Value, meta};

use crate::amounts::Amounts;
use crate::plugins::images_of_node;
use crate::pod::{HostPort, Pod};

#[derive(Debug, Clone, Default)]
pub(crate) struct Node {
    /// None where pods are bound to a node that is not there (yet).
    pub(crate) object: Option<Arc<Value>>,
    pub(crate) allocatable: Amounts,
    pub(crate) requested: Amounts,
    /// As `requested`, with a small amount for containers that ask for nothing; scores use it.
    pub(crate) scored: Amounts,
    pub(crate) ports: Vec<HostPort>,
    /// By UID.
    pub(crate) pods: BTreeMap<Arc<str>, Arc<Pod>>,
    /// Those of the pods that want to be near others or away from them, by UID.
    pub(crate) with_affinity: BTreeSet<Arc<str>>,
    /// Names of images, and their sizes in bytes.
    pub(crate) images: HashMap<String, i64>,
}

/// Whether a node is to pods as it was: heartbeats say nothing new about where they fit.
pub(crate) fn same_to_pods(a: &Value, b: &Value) -> bool {
    let status = |o: &Value, field: &str| o.at(&["status", field]).cloned();
    a.get("spec") == b.get("spec")
        && meta::labels(a) == meta::labels(b)
        && meta::uid(a) == meta::uid(b)
        && status(a, "allocatable") == status(b, "allocatable")
        && status(a, "images") == status(b, "images")
        && status(a, "declaredFeatures") == status(b, "declaredFeatures")
}

impl Node {
    pub(crate) fn set_object(&mut self, object: Arc<Value>) {
        self.allocatable = Amounts::read(object.at(&["status", "allocatable"]));
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
        self.requested.add(&pod.asks.requests);
        self.scored.add(&pod.asks.scored);
        self.ports.extend(pod.ports.iter().cloned());
        if pod.affinity.is_some() {
            self.with_affinity.insert(pod.uid.clone());
        }
        self.pods.insert(pod.uid.clone(), pod);
    }

    pub(crate) fn remove_pod(&mut self, uid: &str) -> Option<Arc<Pod>> {
        let pod = self.pods.remove(uid)?;
        self.with_affinity.remove(uid);
        self.requested.subtract(&pod.asks.requests);
        self.scored.subtract(&pod.asks.scored);
        for port in &pod.ports {
            if let Some(i) = self.ports.iter().position(|p| p == port) {
                self.ports.swap_remove(i);
            }
        }
        Some(pod)
    }
}
