//! Sends statuses to the API server: only what changed, one pod at a time, again after failures; and deletes the objects of
//! pods of which nothing is left. See upstream's status_manager.go.

use std::collections::HashMap;
use std::sync::Arc;

use fram_client::resources::PODS;
use fram_client::{Action, Client, Controller, DeleteOptions, Enqueuer, Informer, PatchKind, Preconditions};
use fram_machinery::{Map, Reason, Status, Value, meta, object};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::joined;
use crate::pod::PodId;
use crate::static_pods::mirror;

/// Pods whose statuses are sent at once.
const WORKERS: usize = 8;

#[derive(Clone)]
struct Desired {
    id: PodId,
    status: Option<Arc<Value>>,
    sent: Option<Arc<Value>>,
    delete: bool,
}

type Table = Arc<Mutex<HashMap<String, Desired>>>;

/// The way to the writer. Clones share it.
#[derive(Clone)]
pub(crate) struct StatusWriter {
    table: Table,
    enqueuer: Enqueuer,
}

impl StatusWriter {
    /// The writer and the controller that runs it.
    pub(crate) fn new() -> (Self, Controller) {
        let controller = Controller::new("pod-status", WORKERS);
        (Self { table: Table::default(), enqueuer: controller.enqueuer() }, controller)
    }

    /// Runs until `stop`.
    pub(crate) async fn run(self, controller: Controller, client: Client, pods: Informer, stop: CancellationToken) {
        let writing = Writing { table: self.table.clone(), client, pods };
        controller.run(move |uid| writing.clone().write(uid), stop).await;
    }

    fn with(&self, id: &PodId, change: impl FnOnce(&mut Desired)) {
        let mut table = self.table.lock();
        let entry = table.entry(id.uid.clone());
        change(entry.or_insert_with(|| Desired { id: id.clone(), status: None, sent: None, delete: false }));
    }

    /// This is the pod's status now.
    pub(crate) fn set(&self, id: &PodId, status: Arc<Value>) {
        self.with(id, |d| d.status = Some(status));
        self.enqueuer.add(id.uid.clone());
    }

    /// A pod's mirror is new: it has no status.
    pub(crate) fn repeat(&self, uid: &str) {
        if let Some(entry) = self.table.lock().get_mut(uid) {
            entry.sent = None;
            self.enqueuer.add(uid.to_string());
        }
    }

    /// After the last status has arrived, the object is deleted.
    pub(crate) fn delete(&self, id: &PodId) {
        self.with(id, |d| d.delete = true);
        self.enqueuer.add(id.uid.clone());
    }

    /// The pod is gone from the API server.
    pub(crate) fn forget(&self, uid: &str) {
        self.table.lock().remove(uid);
    }
}

#[derive(Clone)]
struct Writing {
    table: Table,
    client: Client,
    pods: Informer,
}

impl Writing {
    async fn write(self, uid: String) -> Result<Action, Status> {
        let Some(desired) = self.table.lock().get(&uid).cloned() else { return Ok(Action::Done) };
        if let Some(status) = desired.status.clone()
            && desired.sent.as_ref() != Some(&status)
        {
            // Nobody has it yet, or no longer: its mirror is still to come, or its worker is about to forget it.
            if !self.send(&desired.id, &status).await? {
                return Ok(Action::Done);
            }
            if let Some(entry) = self.table.lock().get_mut(&uid) {
                entry.sent = Some(status);
            }
        }
        if desired.delete {
            self.delete(&desired.id).await?;
            self.table.lock().remove(&uid);
        }
        Ok(Action::Done)
    }

    /// Sends a status; false where the pod is no longer there.
    async fn send(&self, id: &PodId, status: &Value) -> Result<bool, Status> {
        let api = self.client.within(&PODS, &id.namespace);
        let mut current = self.pods.get(&id.key());
        // The second try is made from the object as the server has it now.
        for _ in 0..3 {
            let is_it = |p: &Arc<Value>| meta::uid(p) == id.uid || mirror::hash(p) == Some(id.uid.as_str());
            let Some(pod) = current.filter(is_it) else { return Ok(false) };
            let Some(patch) = patch(&pod, status) else { return Ok(true) };
            match api.patch(&id.name, "status", PatchKind::Merge, patch).await {
                Ok(_) => return Ok(true),
                Err(refused) if refused.is(Reason::NotFound) => return Ok(false),
                Err(refused) if refused.is(Reason::Conflict) => current = api.find(&id.name).await?,
                Err(refused) => return Err(refused),
            }
        }
        Err(Status::conflict("", "pods", &id.name, "the pod changes faster than its status can be written"))
    }

    async fn delete(&self, id: &PodId) -> Result<(), Status> {
        let preconditions = Preconditions { uid: Some(id.uid.clone()), resource_version: None };
        let options = DeleteOptions { grace_period_seconds: Some(0), preconditions, ..Default::default() };
        match self.client.within(&PODS, &id.namespace).delete(&id.name, options).await {
            Ok(_) => Ok(()),
            // Gone already, or another pod has the name now.
            Err(status) if matches!(status.reason, Reason::NotFound | Reason::Conflict) => Ok(()),
            Err(status) => Err(status),
        }
    }
}

/// The merge patch that brings a pod's status to what it should be, or None where it is that already. Conditions of others
/// are taken from the object, and the patch holds only for this version of it.
fn patch(pod: &Value, status: &Value) -> Option<Value> {
    let mut wanted = without_nulls(status);
    let conditions = joined(pod.list_at(&["status", "conditions"]), wanted.list_at(&["conditions"]));
    wanted.set(&["conditions"], conditions);
    let difference = difference(pod.get("status").unwrap_or(&Value::Null), &wanted)?;
    Some(object!({
        "metadata": { "uid": (meta::uid(pod)), "resourceVersion": (meta::resource_version(pod)) }, "status": difference
    }))
}

/// Nulls mean "remove" in a merge patch; in a status they only stand for what is not there.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Map(map) => Value::Map(map.iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k.clone(), without_nulls(v))).collect()),
        Value::List(list) => list.iter().map(without_nulls).collect::<Vec<_>>().into(),
        other => other.clone(),
    }
}

/// What a merge patch must say to turn `old` into `new`.
fn difference(old: &Value, new: &Value) -> Option<Value> {
    if old == new {
        return None;
    }
    let (Value::Map(before), Value::Map(after)) = (old, new) else { return Some(new.clone()) };
    let mut out = Map::new();
    for key in before.keys().filter(|k| !after.contains(k)) {
        out.insert(key.clone(), Value::Null);
    }
    for (key, value) in after.iter() {
        if let Some(changed) = difference(before.get(key).unwrap_or(&Value::Null), value) {
            out.insert(key.clone(), changed);
        }
    }
    Some(Value::Map(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_says_only_what_differs_and_leaves_others_conditions() {
        let theirs = object!({ "type": "example.com/lb", "status": "True" });
        let pod = object!({
            "metadata": { "uid": "u", "resourceVersion": "7" },
            "status": { "phase": "Pending", "reason": "x", "hostIP": "1", "conditions": [(theirs.clone()), { "type": "Ready", "status": "False" }] }
        });
        let own = object!({ "type": "Ready", "status": "True", "lastProbeTime": null });
        let status = object!({ "phase": "Running", "hostIP": "1", "conditions": [own] });
        let expect = object!({
            "metadata": { "uid": "u", "resourceVersion": "7" },
            "status": { "phase": "Running", "reason": null, "conditions": [theirs, { "type": "Ready", "status": "True" }] }
        });
        assert_eq!(patch(&pod, &status), Some(expect.clone()));
        let after = fram_machinery::patch::merge(&pod, &expect);
        assert_eq!(patch(&after, &status), None);
    }

    #[test]
    fn that_the_kubelet_ends_a_pod_is_said_in_the_place_of_what_others_said_of_it() {
        let target = |reason: &str| object!({ "type": "DisruptionTarget", "status": "True", "reason": reason });
        let pod = |conditions: Value| object!({ "metadata": { "uid": "u" }, "status": { "conditions": conditions } });
        let told = |conditions: Value| object!({ "conditions": conditions });
        let conditions = |pod: &Value, status: &Value| patch(pod, status).map(|p| p.list_at(&["status", "conditions"]).to_vec());
        let (theirs, own) = (target("EvictionByEvictionAPI"), target("TerminationByKubelet"));
        assert_eq!(conditions(&pod(object!([])), &told(object!([(own.clone())]))), Some(vec![own.clone()]));
        assert_eq!(conditions(&pod(object!([(theirs.clone())])), &told(object!([(own.clone())]))), Some(vec![own]));
        // What others say is theirs to take back.
        assert_eq!(conditions(&pod(object!([])), &told(object!([(theirs.clone())]))), None);
        assert_eq!(conditions(&pod(object!([(theirs)])), &told(object!([]))), None);
    }
}
