//! The devices of the cluster as the scheduler sees them: pools of slices, classes, claims, and which devices are taken. Pure; see
//! upstream's plugin dynamicresources and dynamic-resource-allocation/structured.

mod allocate;
mod capacity;
pub(crate) mod extended;
pub(crate) mod preference;
pub(crate) mod readiness;
mod selectors;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use fram_api::devices::{awaits_claims, claims_of_pod, is_selected};
use fram_machinery::{Value, meta, object};
use jiff::Timestamp;
use parking_lot::Mutex;

use crate::node::Node;
use crate::pod::Pod;
use capacity::Amounts;
use extended::{Extended, Wanted};
use readiness::{PATIENCE, is_lost};
use selectors::Selectors;

pub(crate) use allocate::{NONE, TIMED_OUT};

/// What a profile grants pods with claims; see DynamicResourcesArgs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Grants {
    /// So long pods wait for devices to be made ready.
    pub(crate) patience: Duration,
    /// So many devices are tried for the claims of a pod on a node.
    pub(crate) steps: usize,
}

impl Default for Grants {
    fn default() -> Self {
        Self { patience: PATIENCE, steps: steps_within(FILTER_TIMEOUT) }
    }
}

/// See DynamicResourcesFilterTimeoutDefault.
pub(crate) const FILTER_TIMEOUT: Duration = Duration::from_secs(10);
const STEPS_PER_SECOND: usize = 5000;

/// What a filterTimeout allows. What is found is not to depend on how busy the machine is, and no other pod finds its node meanwhile, so that
/// steps are counted in place of time, in a small part of which they are taken. Zero allows all.
pub(crate) fn steps_within(timeout: Duration) -> usize {
    match timeout.is_zero() {
        true => usize::MAX,
        false => (timeout.as_secs_f64() * STEPS_PER_SECOND as f64).ceil() as usize,
    }
}

/// Why a node does not have what claims ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Denial {
    Refused(String),
    /// It cannot be said for any node: a claim or a class asks for what cannot be worked out.
    Broken(String),
}

impl Denial {
    pub(crate) fn text(&self) -> &str {
        match self {
            Self::Refused(text) | Self::Broken(text) => text,
        }
    }
}

impl From<String> for Denial {
    fn from(text: String) -> Self {
        Self::Refused(text)
    }
}

/// A pool of a driver: the part of its slices' names that counts.
type PoolId = (Arc<str>, Arc<str>);
/// Driver, pool and name.
type DeviceId = (Arc<str>, Arc<str>, Arc<str>);

/// A pool's slices, of all generations that are there.
#[derive(Debug, Default)]
struct Pool {
    slices: BTreeMap<String, Arc<Value>>,
}

impl Pool {
    fn generation(&self) -> i64 {
        self.slices.values().filter_map(|s| s.int_at(&["spec", "pool", "generation"])).max().unwrap_or(0)
    }

    /// The slices of the newest generation.
    fn current(&self) -> impl Iterator<Item = &Arc<Value>> {
        let newest = self.generation();
        self.slices.values().filter(move |s| s.int_at(&["spec", "pool", "generation"]).unwrap_or(0) == newest)
    }

    /// Some of its devices have to be waited for.
    fn has_binding_conditions(&self) -> bool {
        let devices = self.slices.values().flat_map(|s| s.list_at(&["spec", "devices"]));
        devices.into_iter().any(|device| !device.list_at(&["bindingConditions"]).is_empty())
    }

    /// All of its slices are there.
    fn is_complete(&self) -> bool {
        let expected = self.current().next().and_then(|s| s.int_at(&["spec", "pool", "resourceSliceCount"])).unwrap_or(0);
        self.current().count() as i64 >= expected
    }
}

/// What a pod's claim takes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Allocation {
    pub(crate) claim: Arc<Value>,
    /// None where it has devices already.
    pub(crate) devices: Option<Value>,
    /// For which of the pod's extended resources its requests are, where it was made for them.
    pub(crate) mappings: Vec<Value>,
}

/// The claims of a pod, and what there is to find for them.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    all: Vec<Arc<Value>>,
    /// Some of them want devices that they do not have.
    wanting: bool,
    /// The devices of some of them did not become ready: no node has these claims.
    lost: bool,
    /// What of the pod's resources may have to be found as devices too.
    extended: Option<Extended>,
    /// So many devices may be tried for them on a node.
    pub(crate) steps: usize,
}

impl Claims {
    /// Devices may have to be found.
    pub(crate) fn are_wanting(&self) -> bool {
        self.wanting || self.extended.is_some()
    }
}

/// What is to be undone so that a pod finds its devices.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Release {
    /// A claim that was made for extended resources at an attempt that failed.
    Delete(Arc<Value>),
    /// A claim whose devices nobody else uses.
    Deallocate(Arc<Value>),
}

#[derive(Debug, Default)]
pub(crate) struct Devices {
    pools: BTreeMap<PoolId, Pool>,
    /// The pools that have slices for one node.
    by_node: HashMap<String, BTreeSet<PoolId>>,
    /// The pools that have others.
    general: BTreeSet<PoolId>,
    classes: HashMap<String, Arc<Value>>,
    /// DeviceTaintRules, by name.
    rules: BTreeMap<String, Arc<Value>>,
    claims: HashMap<String, Arc<Value>>,
    /// What was decided and is not yet said by the API, by the keys of claims: their UID and the allocation.
    assumed: HashMap<String, (String, Value)>,
    /// Devices by the claim that holds them.
    held: HashMap<String, Vec<Hold>>,
    taken: HashSet<DeviceId>,
    /// Devices that several may have: how many do, and how much of them.
    shares: HashMap<DeviceId, (usize, Amounts)>,
    /// Claims that were made for extended resources, by the UIDs of their pods.
    made: HashMap<String, String>,
    /// The time as it was handed in last.
    now: Timestamp,
    selectors: Mutex<Selectors>,
}

fn pool_of(slice: &Value) -> PoolId {
    (slice.str_at(&["spec", "driver"]).into(), slice.str_at(&["spec", "pool", "name"]).into())
}

/// What an allocation keeps from others.
#[derive(Debug, Clone, PartialEq)]
enum Hold {
    Whole(DeviceId),
    Share(DeviceId, Amounts),
}

fn holds_of(allocation: &Value) -> Vec<Hold> {
    let results = allocation.list_at(&["devices", "results"]).iter();
    let hold = |r: &Value| {
        let id = (r.str_at(&["driver"]).into(), r.str_at(&["pool"]).into(), r.str_at(&["device"]).into());
        if r.str_at(&["shareID"]).is_empty() { Hold::Whole(id) } else { Hold::Share(id, capacity::of_result(r)) }
    };
    results.filter(|r| r.bool_at(&["adminAccess"]) != Some(true)).map(hold).collect()
}

fn allocation_of(claim: &Value) -> Option<&Value> {
    claim.at(&["status", "allocation"]).filter(|a| !a.is_null())
}

impl Devices {
    /// Hands in the time, by which devices become too late.
    pub(crate) fn set_now(&mut self, now: Timestamp) {
        self.now = now;
    }

    pub(crate) fn set_slice(&mut self, name: &str, slice: Option<Arc<Value>>) {
        let before: Vec<PoolId> = self.pools.iter().filter(|(_, pool)| pool.slices.contains_key(name)).map(|(id, _)| id.clone()).collect();
        for id in &before {
            if let Some(pool) = self.pools.get_mut(id)
                && let Some(old) = pool.slices.remove(name)
            {
                let node = old.str_at(&["spec", "nodeName"]).to_string();
                self.index(id, &node);
            }
        }
        self.selectors.get_mut().forget(name);
        let Some(slice) = slice else { return };
        let (id, node) = (pool_of(&slice), slice.str_at(&["spec", "nodeName"]).to_string());
        self.pools.entry(id.clone()).or_default().slices.insert(name.into(), slice);
        self.index(&id, &node);
    }

    /// Notes anew where the slices of a pool are for this node, or for none of their own.
    fn index(&mut self, id: &PoolId, node: &str) {
        let there = self.pools.get(id).is_some_and(|p| p.slices.values().any(|s| s.str_at(&["spec", "nodeName"]) == node));
        let set = match node {
            "" => &mut self.general,
            node => self.by_node.entry(node.into()).or_default(),
        };
        if there {
            set.insert(id.clone())
        } else {
            set.remove(id)
        };
        if self.by_node.get(node).is_some_and(BTreeSet::is_empty) {
            self.by_node.remove(node);
        }
        if self.pools.get(id).is_some_and(|p| p.slices.is_empty()) {
            self.pools.remove(id);
        }
    }

    pub(crate) fn set_class(&mut self, name: &str, class: Option<Arc<Value>>) {
        match class {
            Some(class) => drop(self.classes.insert(name.into(), class)),
            None => drop(self.classes.remove(name)),
        }
    }

    pub(crate) fn set_rule(&mut self, name: &str, rule: Option<Arc<Value>>) {
        match rule {
            Some(rule) => drop(self.rules.insert(name.into(), rule)),
            None => drop(self.rules.remove(name)),
        }
    }

    /// The taints of a device: those that its driver says, and those of rules that mean it.
    fn taints_of<'a>(&'a self, (driver, pool, name): &'a DeviceId, device: &'a Value) -> impl Iterator<Item = &'a Value> {
        let ruled = self.rules.values().filter(move |rule| is_selected(rule, driver, pool, name));
        device.list_at(&["taints"]).iter().chain(ruled.filter_map(|rule| rule.at(&["spec", "taint"])))
    }

    pub(crate) fn set_claim(&mut self, key: &str, claim: Option<Arc<Value>>) {
        if let Some(uid) = self.claims.get(key).and_then(|known| extended::pod_of(known)) {
            self.made.remove(uid);
        }
        match claim {
            Some(claim) => {
                if let Some(uid) = extended::pod_of(&claim) {
                    self.made.insert(uid.into(), key.into());
                    if allocation_of(&claim).is_some() {
                        // What was assumed for it before it had its name is said by itself now.
                        let unmade = extended::key_of_unmade(meta::namespace(&claim), uid);
                        self.assumed.remove(&unmade);
                        self.hold(&unmade);
                    }
                }
                if allocation_of(&claim).is_some() || self.assumed.get(key).is_some_and(|(uid, _)| *uid != meta::uid(&claim)) {
                    self.assumed.remove(key);
                }
                self.claims.insert(key.into(), claim);
            }
            None => {
                self.claims.remove(key);
                self.assumed.remove(key);
            }
        }
        self.hold(key);
    }

    /// Counts the devices of a claim as taken, and no others that it had.
    fn hold(&mut self, key: &str) {
        for hold in self.held.remove(key).unwrap_or_default() {
            match hold {
                Hold::Whole(id) => drop(self.taken.remove(&id)),
                Hold::Share(id, amounts) => {
                    if let Some((shares, total)) = self.shares.get_mut(&id) {
                        *shares -= 1;
                        capacity::subtract(total, &amounts);
                    }
                    if self.shares.get(&id).is_some_and(|(shares, _)| *shares == 0) {
                        self.shares.remove(&id);
                    }
                }
            }
        }
        let said = self.claims.get(key).and_then(|claim| allocation_of(claim));
        let holds = said.or(self.assumed.get(key).map(|(_, allocation)| allocation)).map(holds_of).unwrap_or_default();
        for hold in &holds {
            match hold {
                Hold::Whole(id) => drop(self.taken.insert(id.clone())),
                Hold::Share(id, amounts) => {
                    let (shares, total) = self.shares.entry(id.clone()).or_default();
                    *shares += 1;
                    capacity::add(total, amounts);
                }
            }
        }
        if !holds.is_empty() {
            self.held.insert(key.into(), holds);
        }
    }

    /// Counts what was decided for claims from now on.
    pub(crate) fn assume(&mut self, allocations: &[Allocation]) {
        for Allocation { claim, devices, .. } in allocations {
            if let Some(devices) = devices {
                let key = meta::key(claim);
                self.assumed.insert(key.clone(), (meta::uid(claim).into(), devices.clone()));
                self.hold(&key);
            }
        }
    }

    /// What was decided is not done.
    pub(crate) fn give_back(&mut self, allocations: &[Allocation]) {
        for Allocation { claim, .. } in allocations {
            let key = meta::key(claim);
            self.assumed.remove(&key);
            self.hold(&key);
        }
    }

    /// The pod's claims, or why it cannot run anywhere yet.
    pub(crate) fn claims(&self, pod: &Pod, limits: Grants) -> Result<Claims, String> {
        let mut claims = Claims { steps: limits.steps, ..Claims::default() };
        let namespace = pod.namespace();
        for (name, object) in claims_of_pod(&pod.object) {
            let Some(object) = object else {
                if awaits_claims(&pod.object) {
                    return Err(format!("waiting for the resource claim controller to create the resourceclaim for {name:?}"));
                }
                continue;
            };
            let Some(claim) = self.claims.get(&format!("{namespace}/{object}")) else {
                return Err(format!("resourceclaim {object:?} not found"));
            };
            if meta::is_terminating(claim) {
                return Err(format!("resourceclaim {object:?} is being deleted"));
            }
            let users = claim.list_at(&["status", "reservedFor"]);
            if users.len() >= MOST_USERS && !users.iter().any(|u| u.str_at(&["uid"]) == &*pod.uid) {
                return Err("resourceclaim in use".into());
            }
            if allocation_of(claim).is_none() {
                if self.assumed.contains_key(&meta::key(claim)) {
                    return Err(format!("resource claim {namespace}/{object} is in the process of being allocated"));
                }
                self.classes_of(claim)?;
                claims.wanting = true;
            }
            claims.lost |= is_lost(claim, self.now, limits.patience);
            claims.all.push(claim.clone());
        }
        claims.extended = self.extended(pod);
        if claims.extended.is_some() && self.made_for(pod).is_some() {
            return Err("cannot schedule extended resource claim".into());
        }
        Ok(claims)
    }

    /// Whether a pod has anything to do with devices.
    pub(crate) fn concern(&self, pod: &Pod) -> bool {
        !pod.object.list_at(&["spec", "resourceClaims"]).is_empty() || self.extended(pod).is_some()
    }

    /// What may be undone for a pod that no node takes, where devices have to do with that. Of its claims it is one that may be
    /// elsewhere, or whose devices did not become ready, and that nobody else uses; see upstream's DynamicResources.PostFilter.
    pub(crate) fn release(&self, pod: &Pod, patience: Duration) -> Option<Release> {
        let elsewhere = claims_of_pod(&pod.object).find_map(|(_, name)| {
            let claim = self.claims.get(&format!("{}/{}", pod.namespace(), name?))?;
            let bound = allocation_of(claim)?.get("nodeSelector").is_some_and(|s| !s.is_null());
            let users = claim.list_at(&["status", "reservedFor"]);
            let alone = users.iter().all(|user| user.str_at(&["uid"]) == &*pod.uid) && users.len() <= 1;
            (alone && (bound || is_lost(claim, self.now, patience))).then(|| Release::Deallocate(claim.clone()))
        });
        elsewhere.or_else(|| Some(Release::Delete(self.made_for(pod).filter(|claim| !meta::is_terminating(claim))?.clone())))
    }

    fn classes_of(&self, claim: &Value) -> Result<(), String> {
        for request in claim.list_at(&["spec", "devices", "requests"]) {
            let name = request.str_at(&["name"]);
            let exactly = request.get("exactly").filter(|e| !e.is_null()).map(|e| (name.to_string(), e));
            let alternatives = request.list_at(&["firstAvailable"]).iter().map(|a| (format!("{name}/{}", a.str_at(&["name"])), a));
            for (name, asked) in exactly.into_iter().chain(alternatives) {
                let class = asked.str_at(&["deviceClassName"]);
                if !self.classes.contains_key(class) {
                    return Err(format!("request {name}: device class {class} does not exist"));
                }
            }
        }
        Ok(())
    }

    /// What the claims take on a node, or why they cannot be had there.
    pub(crate) fn allocate(&self, claims: &Claims, node: &Node) -> Result<Vec<Allocation>, Denial> {
        self.allocate_within(claims, node, &mut { claims.steps })
    }

    /// The same in so many steps, which are counted down.
    pub(crate) fn allocate_within(&self, claims: &Claims, node: &Node, steps: &mut usize) -> Result<Vec<Allocation>, Denial> {
        let away = |claim: &Arc<Value>| allocation_of(claim).is_some_and(|a| !reaches(a.get("nodeSelector"), node));
        if claims.lost || claims.all.iter().any(away) {
            return Err(Denial::Refused("resourceclaim not available on the node".into()));
        }
        let extended = claims.extended.as_ref().and_then(|extended| extended.wanted_on(node));
        let mut wanting: Vec<Arc<Value>> = claims.all.iter().filter(|claim| allocation_of(claim).is_none()).cloned().collect();
        wanting.extend(extended.iter().map(|wanted| wanted.claim.clone()));
        let mut found = allocate::allocate(self, &wanting, node, steps)?.into_iter();
        let of = |claim: &Arc<Value>| Allocation {
            claim: claim.clone(),
            devices: if allocation_of(claim).is_some() { None } else { found.next() },
            mappings: Vec::new(),
        };
        let mut out: Vec<Allocation> = claims.all.iter().map(of).collect();
        if let Some(Wanted { claim, mappings }) = extended {
            out.push(Allocation { claim, devices: found.next(), mappings });
        }
        Ok(out)
    }
}

/// So many pods share a claim; see ResourceClaimReservedForMaxSize.
const MOST_USERS: usize = 256;

/// Whether a node selector, where there is one, lets a node be.
fn reaches(selector: Option<&Value>, node: &Node) -> bool {
    let selector = selector.filter(|s| !s.is_null());
    selector.is_none_or(|s| s.list_at(&["nodeSelectorTerms"]).iter().any(|term| crate::plugins::term_matches(term, node)))
}

/// The patch of a claim's status by which the pod may use it, and by which it has its devices.
pub(crate) fn reservation(pod: &Pod, claim: &Value, devices: Option<&Value>, now: &str) -> Value {
    let user = object!({ "resource": "pods", "name": (meta::name(&pod.object)), "uid": (&*pod.uid) });
    let mut patch = object!({ "metadata": { "uid": (meta::uid(claim)) }, "status": { "reservedFor": [user] } });
    if let Some(devices) = devices {
        // Who else has written meanwhile may have given it other devices.
        patch.set(&["metadata", "resourceVersion"], meta::resource_version(claim));
        patch.set(&["status", "allocation"], devices.clone());
        patch.set(&["status", "allocation", "allocationTimestamp"], now);
    }
    patch
}
