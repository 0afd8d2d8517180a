//! What happens in the cluster, taken into cache and queue.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use fram_api::devices::awaits_claims;
use fram_client::Delta;
use fram_machinery::{Value, meta};

use super::Scheduler;
use crate::devices::Devices;
use crate::hints::{Happening, helps};
use crate::pod::Pod;
use crate::storage::Storage;

impl Scheduler {
    /// Tries those of the waiting pods again whom this may help.
    pub(super) fn happened(&mut self, happening: Happening<'_>) {
        let (now, cache) = (self.now(), &self.cache);
        let woken = self.queue.changed(now, |pod, refused_by| helps(happening, cache, pod, refused_by));
        if woken > 0 {
            self.metrics.incoming(happening.event(), "backoff", woken);
        }
    }

    pub(super) fn node_changed(&mut self, delta: &Delta) {
        let name = meta::name(delta.object()).to_string();
        match &delta.new {
            Some(node) => {
                if self.cache.set_node(&name, node.clone())
                    && let Some(slot) = self.cache.slot(&name)
                {
                    self.happened(Happening::Node(slot));
                }
            }
            None => {
                self.cache.remove_node(&name);
                self.happened(Happening::NodeGone);
            }
        }
    }

    pub(super) fn storage_changed(&mut self, deltas: &[Delta], part: Part) {
        self.take_in(deltas, part);
        self.happened(Happening::Storage);
    }

    pub(super) fn claims_changed(&mut self, deltas: &[Delta]) {
        self.take_in(deltas, |storage| &mut storage.claims);
        self.happened(Happening::Claims(&keys(deltas)));
    }

    /// Where more is attached nobody is helped.
    pub(super) fn attachments_changed(&mut self, deltas: &[Delta]) {
        let attachments = &mut self.cache.storage.attachments;
        for delta in deltas {
            // One that was made anew under its name may be of another node.
            if let Some(old) = &delta.old {
                attachments.remove(&delta.key(), old);
            }
            match &delta.new {
                Some(attachment) => attachments.insert(&delta.key(), attachment.clone()),
                None => attachments.remove(&delta.key(), delta.object()),
            }
        }
        if deltas.iter().any(|delta| delta.new.is_none()) {
            self.happened(Happening::Detached);
        }
    }

    fn take_in(&mut self, deltas: &[Delta], part: Part) {
        for delta in deltas {
            let known = part(&mut self.cache.storage);
            match &delta.new {
                Some(object) => drop(known.insert(delta.key(), object.clone())),
                None => drop(known.remove(&delta.key())),
            }
        }
    }

    /// Whoever waits does not wait for a Service.
    pub(super) fn services_changed(&mut self, deltas: &[Delta]) {
        for delta in deltas {
            self.cache.services.set(&delta.key(), delta.new.as_deref());
        }
    }

    /// Devices that are given back may be for anyone; of all else only those hear whose claims they are.
    pub(super) fn device_claims_changed(&mut self, deltas: &[Delta]) {
        for delta in deltas {
            self.cache.devices.set_claim(&delta.key(), delta.new.clone());
        }
        let has =
            |claim: &Option<Arc<Value>>| claim.as_ref().is_some_and(|c| c.at(&["status", "allocation"]).is_some_and(|a| !a.is_null()));
        let given_back = deltas.iter().any(|delta| delta.new.is_none() || has(&delta.old) && !has(&delta.new));
        let keys = keys(deltas);
        self.happened(if given_back { Happening::Devices } else { Happening::DeviceClaims(&keys) });
    }

    pub(super) fn devices_changed(&mut self, deltas: &[Delta], part: impl Fn(&mut Devices, &str, Option<Arc<Value>>)) {
        for delta in deltas {
            part(&mut self.cache.devices, &delta.key(), delta.new.clone());
        }
        self.happened(Happening::Devices);
    }

    pub(super) fn namespaces_changed(&mut self, deltas: &[Delta]) {
        for delta in deltas {
            self.cache.set_namespace(&delta.key(), delta.new.clone());
        }
        self.happened(Happening::Namespaces);
    }

    /// A pod no longer counts where it counted, if it did.
    fn gone(&mut self, uid: &str) {
        let nominated = self.cache.forget_nomination(uid);
        let slot = self.cache.slot_of_pod(uid);
        if self.cache.remove(uid) || nominated {
            self.happened(Happening::Left(slot));
        }
    }

    pub(super) fn pod_changed(&mut self, delta: &Delta) {
        if let Some(old) = delta.old.as_deref().filter(|old| delta.new.as_deref().is_none_or(|new| meta::uid(new) != meta::uid(old))) {
            self.queue.remove(&meta::key(old));
            self.group_left(old);
            self.gone(meta::uid(old));
        }
        self.gated.remove(&delta.key());
        let Some(object) = &delta.new else { return };
        let pod = Arc::new(Pod::new(object.clone(), &mut self.shapes));
        if pod.has_ended() {
            self.queue.remove(&pod.key);
            self.group_left(&pod.object);
            self.gone(&pod.uid);
        } else if !pod.node().is_empty() {
            self.queue.remove(&pod.key);
            self.group_joined(&pod);
            self.placed(pod);
        } else if self.is_mine(&pod) {
            let claims = |o: &Value| o.at(&["status", "resourceClaimStatuses"]).cloned();
            let unchanged = delta.old.as_deref().is_some_and(|old| {
                old.get("spec") == object.get("spec") && meta::labels(old) == meta::labels(object) && claims(old) == claims(object)
            });
            let nominated = object.str_at(&["status", "nominatedNodeName"]).to_string();
            if self.cache.holds(&pod.uid) {
                return;
            }
            let before = delta.old.as_deref().map_or("", |old| old.str_at(&["status", "nominatedNodeName"]));
            if !nominated.is_empty() {
                self.cache.nominate(pod.clone(), &nominated);
            } else if !before.is_empty() && self.cache.nominated_node(&pod.uid) == Some(before) {
                self.cache.forget_nomination(&pod.uid);
                self.happened(Happening::Left(None));
            }
            self.group_joined(&pod);
            if self.groups.holds_back(&pod) {
                self.queue.remove(&pod.key);
                self.gated.insert(pod.key.clone());
            } else if !unchanged {
                let (now, event) = (self.now(), if delta.old.is_none() { "PodAdd" } else { "PodUpdate" });
                self.metrics.incoming(event, "active", 1);
                self.queue.add(pod, now);
            }
        } else {
            self.queue.remove(&pod.key);
            self.group_joined(&pod);
            if is_gated(&pod) && self.profile_of(&pod).is_some() {
                self.gated.insert(pod.key.clone());
            }
        }
    }

    /// A pod that the API says is on a node.
    fn placed(&mut self, pod: Arc<Pod>) {
        let node = pod.node().to_string();
        let before = self.cache.pod(&pod.uid).cloned();
        self.cache.place(pod.clone(), &node);
        let slot = self.cache.slot_of_pod(&pod.uid);
        match before {
            None => self.happened(Happening::Placed),
            // A resize to less leaves room for others; so may labels that are others now.
            Some(before) if pod.asks.requests.falls_short_of(&before.asks.requests) || before.labels() != pod.labels() => {
                self.happened(Happening::Left(slot));
                self.happened(Happening::Placed);
            }
            Some(_) => {}
        }
    }

    fn is_mine(&self, pod: &Pod) -> bool {
        self.profile_of(pod).is_some() && !is_gated(pod) && !meta::is_terminating(&pod.object)
    }

    /// By its number.
    pub(super) fn profile_of(&self, pod: &Pod) -> Option<usize> {
        let name = pod.object.str_at(&["spec", "schedulerName"]);
        self.profiles.iter().position(|profile| profile.name == name)
    }
}

/// What of the storage is followed.
type Part = fn(&mut Storage) -> &mut HashMap<String, Arc<Value>>;

fn keys(deltas: &[Delta]) -> HashSet<String> {
    deltas.iter().map(Delta::key).collect()
}

/// Whether an attempt would be too early: for the gates of the pod, or as its claims are yet to be made. Upstream's PreEnqueue.
fn is_gated(pod: &Pod) -> bool {
    !pod.object.list_at(&["spec", "schedulingGates"]).is_empty() || awaits_claims(&pod.object)
}
