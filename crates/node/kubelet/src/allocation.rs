//! The resources that the kubelet has granted to each pod, and the resizes that wait. Kept on disk beside the pod's volumes, so
//! that a new kubelet neither grants nor forgets anything. See upstream's pkg/kubelet/allocation.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fram_machinery::{Value, json, meta};
use parking_lot::Mutex;

use crate::durable::{self, Flush};
use crate::resize::{IN_PROGRESS, PENDING, condition, resources_of, with_resources};

const FILE: &str = "allocation.json";

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Pending {
    pub reason: &'static str,
    pub message: String,
    pub generation: i64,
}

#[derive(Debug, Clone)]
struct Entry {
    resources: Value,
    /// The generation of the pod whose resources these are.
    generation: i64,
    pending: Option<Pending>,
    /// What the pod asks for now has been granted or refused.
    judged: bool,
    /// Why the last try to put them in place failed.
    error: Option<String>,
}

/// Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Allocations {
    pods: PathBuf,
    entries: Arc<Mutex<HashMap<String, Entry>>>,
}

impl Allocations {
    /// `root` is the kubelet's directory.
    pub(crate) fn new(root: &Path) -> Self {
        Self { pods: root.join("pods"), entries: Arc::default() }
    }

    fn file(&self, uid: &str) -> PathBuf {
        self.pods.join(uid).join(FILE)
    }

    /// Takes up what was granted to a pod before this kubelet began.
    pub(crate) fn recall(&self, pod: &Value) {
        let uid = meta::uid(pod);
        let known = std::fs::read(self.file(uid)).ok().and_then(|bytes| json::from_slice(&bytes).ok());
        if let Some(known) = known {
            let generation = known.int_at(&["generation"]).unwrap_or(0);
            let judged = same(pod, &known);
            let entry = Entry { resources: known, generation, pending: None, judged, error: None };
            self.entries.lock().insert(uid.to_string(), entry);
        }
    }

    /// Grants a pod what it asks for. A failure to write it down costs only that a new kubelet judges the pod anew.
    pub(crate) fn grant(&self, pod: &Value) {
        let (uid, generation) = (meta::uid(pod), meta::generation(pod));
        let mut resources = resources_of(pod);
        resources.set(&["generation"], generation);
        let file = self.file(uid);
        if let Err(error) = durable::replace(&file, &json::to_vec(&resources), Flush::No) {
            tracing::warn!(%error, "a pod's allocated resources could not be written");
        }
        self.entries.lock().insert(uid.to_string(), Entry { resources, generation, pending: None, judged: true, error: None });
    }

    pub(crate) fn forget(&self, uid: &str) {
        self.entries.lock().remove(uid);
    }

    /// The pod with the resources that are granted to it, where these are others than it asks for now.
    pub(crate) fn granted(&self, pod: &Arc<Value>) -> Arc<Value> {
        let entries = self.entries.lock();
        let Some(entry) = entries.get(meta::uid(pod)) else { return pod.clone() };
        match same(pod, &entry.resources) {
            true => pod.clone(),
            false => Arc::new(with_resources(pod, &entry.resources)),
        }
    }

    /// Whether a pod asks for other resources than it has.
    pub(crate) fn differs(&self, pod: &Value) -> bool {
        self.entries.lock().get(meta::uid(pod)).is_some_and(|entry| !same(pod, &entry.resources))
    }

    /// Notes that a resize has to wait; true where that is news.
    pub(crate) fn wait(&self, uid: &str, pending: Pending) -> bool {
        let mut entries = self.entries.lock();
        let Some(entry) = entries.get_mut(uid) else { return false };
        let news = entry.pending.as_ref().is_none_or(|p| p.reason != pending.reason || p.generation != pending.generation);
        entry.pending = Some(pending);
        entry.judged = true;
        news
    }

    /// A pod asks for what it has: nothing waits.
    pub(crate) fn settle(&self, uid: &str) {
        if let Some(entry) = self.entries.lock().get_mut(uid) {
            entry.pending = None;
            entry.judged = true;
        }
    }

    /// Pods whose resize may be granted: those that wait for room, and those that were recalled and not judged since.
    pub(crate) fn undecided(&self) -> Vec<String> {
        let entries = self.entries.lock();
        let waits = |e: &Entry| !e.judged || e.pending.as_ref().is_some_and(|p| p.reason == "Deferred");
        entries.iter().filter(|(_, e)| waits(e)).map(|(uid, _)| uid.clone()).collect()
    }

    /// Notes how putting the resources in place went; true where that is news.
    pub(crate) fn tried(&self, uid: &str, error: Option<&str>) -> bool {
        let mut entries = self.entries.lock();
        let Some(entry) = entries.get_mut(uid) else { return false };
        let news = entry.error.as_deref() != error;
        entry.error = error.map(String::from);
        news
    }

    pub(crate) fn generation(&self, uid: &str) -> i64 {
        self.entries.lock().get(uid).map_or(0, |e| e.generation)
    }

    /// The conditions that tell of the pod's resize, without their times.
    pub(crate) fn conditions(&self, uid: &str, in_progress: bool) -> Vec<Value> {
        let entries = self.entries.lock();
        let Some(entry) = entries.get(uid) else { return Vec::new() };
        let pending = entry.pending.as_ref().map(|p| condition(PENDING, p.reason, &p.message, p.generation));
        let error = entry.error.as_deref();
        let progress = (in_progress || error.is_some())
            .then(|| condition(IN_PROGRESS, if error.is_some() { "Error" } else { "" }, error.unwrap_or(""), entry.generation));
        pending.into_iter().chain(progress).collect()
    }
}

fn same(pod: &Value, resources: &Value) -> bool {
    let asked = resources_of(pod);
    asked.get("containers") == resources.get("containers") && asked.get("pod") == resources.get("pod")
}

#[cfg(test)]
mod tests {
    use super::*;
    use fram_machinery::object;

    fn pod(cpu: &str, generation: i64) -> Arc<Value> {
        let containers = object!([{ "name": "c", "resources": { "requests": { "cpu": cpu } } }]);
        Arc::new(object!({ "metadata": { "uid": "u", "generation": generation }, "spec": { "containers": containers } }))
    }

    #[test]
    fn what_is_granted_outlives_the_kubelet() {
        let root = tempfile::tempdir().unwrap();
        let first = Allocations::new(root.path());
        first.grant(&pod("1", 1));
        let second = Allocations::new(root.path());
        second.recall(&pod("2", 2));
        assert!(second.differs(&pod("2", 2)) && !second.differs(&pod("1", 1)));
        assert_eq!(second.undecided(), ["u"]);
        assert_eq!(second.granted(&pod("2", 2)).at(&["spec", "containers"]), pod("1", 1).at(&["spec", "containers"]));
    }

    #[test]
    fn a_resize_waits_until_it_is_granted_or_taken_back() {
        let root = tempfile::tempdir().unwrap();
        let allocations = Allocations::new(root.path());
        allocations.grant(&pod("1", 1));
        let pending = Pending { reason: "Deferred", message: "full".into(), generation: 2 };
        assert!(allocations.wait("u", pending.clone()) && !allocations.wait("u", pending.clone()));
        assert_eq!(allocations.undecided(), ["u"]);
        assert_eq!(allocations.conditions("u", false), [condition(PENDING, "Deferred", "full", 2)]);
        allocations.settle("u");
        assert!(allocations.undecided().is_empty() && allocations.conditions("u", false).is_empty());
        assert!(allocations.tried("u", Some("no")));
        assert_eq!(allocations.conditions("u", true), [condition(IN_PROGRESS, "Error", "no", 1)]);
    }
}
