//! Grants pods the resources that they ask for, in turn: one decision at a time, over all pods of the node. See upstream's
//! allocation_manager.go.

use std::sync::Arc;

use fram_machinery::{Value, meta};

use super::Pods;
use crate::admit::fits;
use crate::allocation::Pending;
use crate::pod;
use crate::resize;
use crate::worker::Letter;

impl Pods<'_> {
    /// The pod with the resources that it may have: those that it asks for now where there is room for them, else those that it
    /// had. See the allocation manager's handlePodResourcesResize.
    pub(super) fn allocate(&self, pod: &Arc<Value>) -> Arc<Value> {
        let allocations = &self.kubelet.ctx.allocations;
        let over = pod::is_terminal(pod) || meta::is_terminating(pod);
        if over || !allocations.differs(pod) {
            allocations.settle(meta::uid(pod));
            return allocations.granted(pod);
        }
        let generation = meta::generation(pod);
        match self.room(pod) {
            Ok(()) => {
                allocations.grant(pod);
                let text = resize::summary("Pod resize started", pod, generation, "");
                self.kubelet.ctx.event(pod, false, "ResizeStarted", text);
            }
            Err((reason, message)) => {
                let text = resize::summary(&format!("Pod resize {reason}"), pod, generation, &message);
                if allocations.wait(meta::uid(pod), Pending { reason, message, generation }) {
                    let event = if reason == "Infeasible" { "ResizeInfeasible" } else { "ResizeDeferred" };
                    self.kubelet.ctx.event(pod, true, event, text);
                }
            }
        }
        allocations.granted(pod)
    }

    /// Whether a pod that runs may have what it asks for now.
    fn room(&self, pod: &Value) -> Result<(), (&'static str, String)> {
        let ctx = &self.kubelet.ctx;
        if pod::resources::qos_class(pod) == "Guaranteed" && !ctx.managers.is_idle() {
            let which = if ctx.managers.has_static_cpus() { "CPU Manager static" } else { "Memory Manager static" };
            return Err(("Infeasible", format!("Resize is infeasible for Guaranteed Pods alongside {which} policy")));
        }
        fits(pod, &ctx.node.allocatable, &[]).map_err(|(_, message)| ("Infeasible", message))?;
        fits(pod, &ctx.node.allocatable, &self.others(pod)).map_err(|(_, message)| ("Deferred", message))
    }

    /// The other pods that the node has taken, with the resources that they have.
    pub(super) fn others(&self, pod: &Value) -> Vec<Arc<Value>> {
        self.kubelet.active_pods().into_iter().filter(|p| meta::uid(p) != meta::uid(pod)).collect()
    }

    /// Something changed on the node: resizes that wait may have room now, and those of which a new kubelet just learned can be
    /// judged.
    pub(super) fn retry_resizes(&self) {
        let ctx = &self.kubelet.ctx;
        let waiting = ctx.allocations.undecided();
        if waiting.is_empty() {
            return;
        }
        let asking = ctx.all_pods().into_iter().filter(|p| waiting.iter().any(|uid| uid == meta::uid(p)));
        let mut pending: Vec<_> = asking.map(|p| (ctx.allocations.granted(&p), p)).map(|(has, asks)| (asks, has)).collect();
        resize::in_turn(&mut pending);
        for (pod, has) in pending {
            let pod = self.allocate(&pod);
            if pod != has {
                self.kubelet.post(meta::uid(&pod), Letter::Pod(pod.clone()));
            }
        }
    }
}
