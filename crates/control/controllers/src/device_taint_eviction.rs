//! Device taint eviction: pods leave devices whose NoExecute taints their claims do not tolerate, or no longer, whether the driver or a
//! DeviceTaintRule has tainted them. See KEP-5055.

mod plan;
mod rules;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use fram_client::resources::{PODS, RESOURCE_CLAIMS, RESOURCE_SLICES};
use fram_client::{Action, Client, Controller, DeleteOptions, Delta, Enqueuer, EventRecorder, Informer, POOL_INDEX, Preconditions};
use fram_machinery::{Status, Value, meta};
use jiff::Timestamp;
use parking_lot::Mutex;

use crate::objects::settled;
use crate::taint_eviction::disrupt;
use crate::{Context, Metrics, pods};
use plan::Eviction;

const ACCOUNT: &str = "device-taint-eviction-controller";

pub(crate) fn start(context: &Context) {
    let rules = context.served("resource.k8s.io", "devicetaintrules").map(|resource| context.informers.get(&resource));
    let seen = Seen {
        pods: context.informers.get(&PODS),
        claims: context.informers.get(&RESOURCE_CLAIMS),
        slices: context.informers.get(&RESOURCE_SLICES),
        rules: rules.clone(),
        now: context.now.clone(),
    };
    let evicted = Arc::default();
    let told = rules.map(|rules| rules::start(context, seen.clone(), rules, Arc::clone(&evicted)));
    let controller = watching(Controller::new("device-taint-eviction", 10), &seen);
    let reconciler = Reconciler {
        client: context.client(ACCOUNT),
        seen,
        events: context.recorder(ACCOUNT, "device-taint-eviction"),
        metrics: context.metrics.clone(),
        waiting: Mutex::default(),
        evicted,
        told,
    };
    context.run(controller, reconciler, |r, key| async move { r.reconcile(&key).await });
}

/// The pods, by their keys, whose claims, slices, rules or nodes have become others.
fn watching(controller: Controller, seen: &Seen) -> Controller {
    let (by_claim, by_slice, by_rule) = (seen.clone(), seen.clone(), seen.clone());
    let controller = controller
        .watches_deltas(&seen.pods, |delta| {
            let part = |p: &Value| (p.at(&["spec", "nodeName"]).cloned(), p.at(&["status", "resourceClaimStatuses"]).cloned());
            let same = matches!((&delta.old, &delta.new), (Some(old), Some(new)) if part(old) == part(new));
            let extended = delta.object().at(&["status", "extendedResourceClaimStatus"]).is_some_and(|s| !s.is_null());
            let has_claims = extended || !delta.object().list_at(&["spec", "resourceClaims"]).is_empty();
            // One that is gone is forgotten.
            if has_claims && !same { vec![delta.key()] } else { Vec::new() }
        })
        .watches_deltas(&seen.claims, move |delta| {
            let part = |c: &Value| (c.at(&["status", "allocation"]).cloned(), c.at(&["status", "reservedFor"]).cloned());
            if matches!((&delta.old, &delta.new), (Some(old), Some(new)) if part(old) == part(new)) {
                return Vec::new();
            }
            let sides = [&delta.old, &delta.new].into_iter().flatten();
            let concerned: BTreeSet<String> = sides.flat_map(|claim| by_claim.users(claim)).collect();
            concerned.into_iter().collect()
        })
        .watches_deltas(&seen.slices, move |delta| {
            let taints = |s: &Option<Arc<Value>>| s.as_deref().map(plan::evicting).unwrap_or_default();
            let generation = |s: &Option<Arc<Value>>| s.as_deref().and_then(|s| s.int_at(&["spec", "pool", "generation"]));
            let (before, after) = (taints(&delta.old), taints(&delta.new));
            if before == after && (after.is_empty() || generation(&delta.old) == generation(&delta.new)) {
                return Vec::new();
            }
            by_slice.users_of_pool(delta.object())
        });
    let Some(rules) = &seen.rules else { return controller };
    controller.watches_deltas(rules, move |delta: &Delta| {
        if delta.old.as_deref().and_then(|old| old.get("spec")) == delta.new.as_deref().and_then(|new| new.get("spec")) {
            return Vec::new();
        }
        let sides: Vec<&Value> =
            [&delta.old, &delta.new].into_iter().flatten().map(|rule| &**rule).filter(|r| plan::is_evicting(r)).collect();
        by_rule.users_of(|claim| sides.iter().any(|rule| plan::is_selected_of(claim, rule)))
    })
}

/// What the controller sees.
#[derive(Clone)]
struct Seen {
    pods: Informer,
    claims: Informer,
    slices: Informer,
    /// None where they are not served.
    rules: Option<Informer>,
    now: crate::Clock,
}

impl Seen {
    /// The keys of the pods for which a claim is kept.
    fn users(&self, claim: &Value) -> Vec<String> {
        plan::users(claim).map(|(name, _)| format!("{}/{name}", meta::namespace(claim))).collect()
    }

    /// The same of all claims like this.
    fn users_of(&self, concerns: impl Fn(&Value) -> bool) -> Vec<String> {
        self.users_of_all(self.claims.list().iter().filter(|c| concerns(c)))
    }

    /// The same of the claims that have devices of a slice's pool.
    fn users_of_pool(&self, slice: &Value) -> Vec<String> {
        let pool = format!("{}/{}", slice.str_at(&["spec", "driver"]), slice.str_at(&["spec", "pool", "name"]));
        self.users_of_all(self.claims.by_index(POOL_INDEX, &pool).iter())
    }

    fn users_of_all<'a>(&self, claims: impl Iterator<Item = &'a Arc<Value>>) -> Vec<String> {
        let concerned: BTreeSet<String> = claims.flat_map(|claim| self.users(claim)).collect();
        concerned.into_iter().collect()
    }

    fn evicting_rules(&self) -> Vec<Arc<Value>> {
        let rules = self.rules.as_ref().map(Informer::list).unwrap_or_default();
        rules.into_iter().filter(|rule| plan::is_evicting(rule)).collect()
    }

    /// When a pod has to leave, if it has to, by these rules.
    fn eviction(&self, pod: &Value, rules: &[Arc<Value>]) -> Option<Eviction> {
        let claim = |name: &str| self.claims.get_in(meta::namespace(pod), name);
        let pool = |driver: &str, pool: &str| self.slices.by_index(POOL_INDEX, &format!("{driver}/{pool}"));
        let now = (self.now)();
        let of_claim = |claim: &Arc<Value>| plan::of_claim(claim, pool, rules, now);
        plan::claims_used(pod, claim).iter().filter_map(of_claim).reduce(Eviction::and)
    }
}

/// How many pods each rule has made leave, by UID.
type Evicted = Arc<Mutex<HashMap<String, u64>>>;

/// A pod that has to leave later.
struct Waiting {
    uid: String,
    /// The rules because of which, by their UIDs.
    rules: BTreeSet<String>,
}

struct Reconciler {
    client: Client,
    seen: Seen,
    events: EventRecorder,
    metrics: Metrics,
    /// Pods that were found to have to leave at a later time, by their keys.
    waiting: Mutex<HashMap<String, Waiting>>,
    evicted: Evicted,
    /// Where rules are asked to say how far this is; None where there are none.
    told: Option<Enqueuer>,
}

impl Reconciler {
    async fn reconcile(&self, key: &str) -> Result<Action, Status> {
        let (rules, now) = (self.seen.evicting_rules(), (self.seen.now)());
        let waited = self.waiting.lock().remove(key);
        // They count one less, or the same.
        waited.iter().for_each(|waited| self.tell(&waited.rules, &rules));
        let Some(pod) = self.seen.pods.get(key).filter(|p| pods::is_active(p)) else { return Ok(Action::Done) };
        let Some(eviction) = self.seen.eviction(&pod, &rules) else {
            if waited.is_some_and(|waited| waited.uid == meta::uid(&pod)) {
                self.events.event(&pod, false, "DeviceTaintManagerEviction", "Cancelling deletion");
            }
            return Ok(Action::Done);
        };
        self.tell(&eviction.rules, &rules);
        if eviction.when > now {
            self.waiting.lock().insert(key.into(), Waiting { uid: meta::uid(&pod).into(), rules: eviction.rules });
            return Ok(Action::After(eviction.when.duration_since(now).try_into().unwrap_or_default()));
        }
        self.evict(&pod, now).await?;
        self.metrics.others.left_device(eviction.when.duration_until((self.seen.now)()).try_into().unwrap_or_default());
        for uid in &eviction.rules {
            *self.evicted.lock().entry(uid.clone()).or_default() += 1;
        }
        Ok(Action::Done)
    }

    /// The rules that make a pod leave say so, together with what else they make leave about now.
    fn tell(&self, concerned: &BTreeSet<String>, rules: &[Arc<Value>]) {
        let Some(told) = &self.told else { return };
        for rule in rules.iter().filter(|rule| concerned.contains(meta::uid(rule))) {
            told.add_after(meta::name(rule), rules::PERIOD);
        }
    }

    async fn evict(&self, pod: &Value, now: Timestamp) -> Result<(), Status> {
        self.events.event(pod, false, "DeviceTaintManagerEviction", "Marking for deletion");
        let message = "Device Taint manager: deleting due to NoExecute taint";
        disrupt(&self.client, pod, "DeletionByDeviceTaintManager", message, None, now).await?;
        let preconditions = Preconditions { uid: Some(meta::uid(pod).into()), resource_version: None };
        let options = DeleteOptions { preconditions, ..Default::default() };
        settled(self.client.within(&PODS, meta::namespace(pod)).delete(meta::name(pod), options).await)
    }
}
