//! Finds devices for claims on one node: requests one after the other, each with the first devices that suit, taken back where the
//! rest does not find any. Prioritized lists (KEP-4816), admin access (KEP-5018), partitionable devices (KEP-4815), taints (KEP-5055),
//! shares of devices (KEP-5075).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use fram_api::devices::{attribute, tolerates};
use fram_machinery::quantity::Quantity;
use fram_machinery::{Value, meta, object};

use super::capacity::{Amounts, add, consumption, is_shared, subtract};
use super::{Denial, DeviceId, Devices, Pool, PoolId, reaches};
use crate::node::Node;

/// Why nothing is found.
pub(crate) const NONE: &str = "cannot allocate all claims";
/// Why nothing was found before all had been tried that may be.
pub(crate) const TIMED_OUT: &str = "timed out trying to allocate devices";
/// A claim has no more devices; see AllocationResultsMaxSize.
const MOST_DEVICES: usize = 32;

/// A device that the node reaches.
struct Candidate<'a> {
    id: DeviceId,
    slice: &'a Arc<Value>,
    /// Of the devices of its slice.
    number: usize,
    device: &'a Value,
    /// Nothing is known to be missing of its pool.
    complete: bool,
}

/// A way to meet a request.
struct Way<'a> {
    /// As results name it: `request` or `request/alternative`.
    name: String,
    spec: &'a Value,
}

struct Chosen {
    claim: usize,
    name: String,
    candidate: usize,
    admin: bool,
    tolerations: Vec<Value>,
    /// What it takes of a device that others may have too.
    share: Option<Amounts>,
    /// Its pool's counters count it.
    counted: bool,
}

struct Search<'a> {
    devices: &'a Devices,
    claims: &'a [Arc<Value>],
    candidates: Vec<Candidate<'a>>,
    chosen: Vec<Chosen>,
    taken: HashSet<usize>,
    /// How many shares of a device were chosen, and what they consume.
    shares: HashMap<usize, (usize, Amounts)>,
    counters: HashMap<PoolId, Counters>,
    /// How many more devices may be tried.
    steps: &'a mut usize,
    /// One more would have been tried.
    out_of_steps: bool,
}

/// What is left of a pool's shared counters, in thousandths: by set and name.
type Counters = BTreeMap<(String, String), i128>;

fn milli(value: &Value) -> i128 {
    let quantity = value.str_at(&["value"]).parse::<Quantity>().unwrap_or(Quantity::zero());
    i128::from(quantity.milli_value())
}

fn counted_by(device: &Value) -> impl Iterator<Item = ((String, String), i128)> {
    device.list_at(&["consumesCounters"]).iter().flat_map(|set| {
        let counters = set.get("counters").and_then(Value::as_map).into_iter().flat_map(|m| m.iter());
        counters.map(|(name, value)| ((set.str_at(&["counterSet"]).to_string(), name.to_string()), milli(value)))
    })
}

/// One allocation for each claim, in their order, found in so many steps, which are counted down.
pub(super) fn allocate(devices: &Devices, claims: &[Arc<Value>], node: &Node, steps: &mut usize) -> Result<Vec<Value>, Denial> {
    if claims.is_empty() {
        return Ok(Vec::new());
    }
    let mut search = Search {
        devices,
        claims,
        candidates: candidates(devices, node),
        chosen: Vec::new(),
        taken: HashSet::new(),
        shares: HashMap::new(),
        counters: HashMap::new(),
        steps,
        out_of_steps: false,
    };
    match search.solve(0, 0)? {
        true => Ok((0..claims.len()).map(|n| search.result(n, node)).collect()),
        false if search.out_of_steps => Err(Denial::Refused(TIMED_OUT.into())),
        false => Err(Denial::Refused(NONE.into())),
    }
}

/// The devices that a node reaches, in the order of pools, slices and devices.
fn candidates<'a>(devices: &'a Devices, node: &Node) -> Vec<Candidate<'a>> {
    let own = devices.by_node.get(node.name()).into_iter().flatten();
    let mut ids: Vec<&PoolId> = own.chain(&devices.general).collect();
    ids.sort();
    ids.dedup();
    let mut pools: Vec<(&PoolId, &Pool)> = ids.into_iter().filter_map(|id| Some((id, devices.pools.get(id)?))).collect();
    // What need not be waited for comes first.
    pools.sort_by_cached_key(|(_, pool)| pool.has_binding_conditions());
    let mut out = Vec::new();
    for (id, pool) in pools {
        let complete = pool.is_complete();
        for slice in pool.current() {
            let spec = slice.get("spec").unwrap_or(&Value::Null);
            let by_device = spec.bool_at(&["perDeviceNodeSelection"]) == Some(true);
            if !by_device && !is_for(spec, node) {
                continue;
            }
            for (number, device) in spec.list_at(&["devices"]).iter().enumerate().filter(|(_, d)| !by_device || is_for(d, node)) {
                let id = (id.0.clone(), id.1.clone(), device.str_at(&["name"]).into());
                out.push(Candidate { id, slice, number, device, complete });
            }
        }
    }
    out
}

/// Whether a slice or a device is for a node.
fn is_for(part: &Value, node: &Node) -> bool {
    let selector = part.get("nodeSelector").filter(|s| !s.is_null());
    match part.str_at(&["nodeName"]) {
        "" => part.bool_at(&["allNodes"]) == Some(true) || selector.is_some_and(|s| reaches(Some(s), node)),
        name => name == node.name(),
    }
}

impl<'a> Search<'a> {
    fn ways(&self, claim: usize, request: usize) -> Option<Vec<Way<'a>>> {
        let request = self.claims.get(claim)?.list_at(&["spec", "devices", "requests"]).get(request)?;
        let name = request.str_at(&["name"]);
        if let Some(spec) = request.get("exactly").filter(|e| !e.is_null()) {
            return Some(vec![Way { name: name.into(), spec }]);
        }
        let alternatives = request.list_at(&["firstAvailable"]).iter();
        Some(alternatives.map(|spec| Way { name: format!("{name}/{}", spec.str_at(&["name"])), spec }).collect())
    }

    /// Meets this request and all behind it.
    fn solve(&mut self, claim: usize, request: usize) -> Result<bool, Denial> {
        if claim == self.claims.len() {
            return Ok(true);
        }
        let Some(ways) = self.ways(claim, request) else { return self.solve(claim + 1, 0) };
        for way in ways {
            let suiting = self.suiting(claim, &way)?;
            let found = match way.spec.str_at(&["allocationMode"]) {
                "All" => self.take_all(claim, request, &way, &suiting)?,
                _ => {
                    let count = way.spec.int_at(&["count"]).filter(|n| *n > 0).unwrap_or(1);
                    self.take_some(claim, request, &way, &suiting, usize::try_from(count).unwrap_or(usize::MAX))?
                }
            };
            if found {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The devices that the class and the request mean. A selector that fails for one of them ends the search, as the API says.
    fn suiting(&self, claim: usize, way: &Way<'_>) -> Result<Vec<usize>, Denial> {
        let name = way.spec.str_at(&["deviceClassName"]);
        let of_class = self.devices.classes.get(name).map(|c| c.list_at(&["spec", "selectors"])).unwrap_or_default();
        let of_class = of_class.iter().enumerate().map(|s| (true, s));
        let all: Vec<_> = of_class.chain(way.spec.list_at(&["selectors"]).iter().enumerate().map(|s| (false, s))).collect();
        let mut selectors = self.devices.selectors.lock();
        let mut suiting = Vec::new();
        'candidates: for (at, candidate) in self.candidates.iter().enumerate() {
            for (of_class, (number, selector)) in &all {
                match selectors.matches(selector.str_at(&["cel", "expression"]), candidate.slice, candidate.number) {
                    Ok(true) => {}
                    Ok(false) => continue 'candidates,
                    Err(why) => {
                        let whose = match of_class {
                            true => format!("class {name}"),
                            false => format!("claim {}", meta::key(&self.claims[claim])),
                        };
                        return Err(Denial::Broken(format!("{whose}: selector #{number}: CEL runtime error: {why}")));
                    }
                }
            }
            suiting.push(at);
        }
        Ok(suiting)
    }

    fn take_all(&mut self, claim: usize, request: usize, way: &Way<'_>, suiting: &[usize]) -> Result<bool, Denial> {
        if let Some(pool) = suiting.iter().map(|i| &self.candidates[*i]).find(|c| !c.complete) {
            let (claim, pool) = (meta::name(&self.claims[claim]), &pool.id.1);
            let updated = format!("asks for all devices, but resource pool {pool} is currently being updated");
            return Err(Denial::Refused(format!("claim {claim}, request {}: {updated}", way.name)));
        }
        let before = self.chosen.len();
        let all = !suiting.is_empty() && suiting.len() <= MOST_DEVICES && suiting.iter().all(|i| self.take(claim, way, *i));
        if all && self.solve(claim, request + 1)? {
            return Ok(true);
        }
        self.undo(before);
        Ok(false)
    }

    /// So many more of these devices, and then what is behind this request.
    fn take_some(&mut self, claim: usize, request: usize, way: &Way<'_>, from: &[usize], count: usize) -> Result<bool, Denial> {
        if count == 0 {
            return self.solve(claim, request + 1);
        }
        let may_repeat = from.iter().any(|n| is_shared(self.candidates[*n].device));
        for (at, candidate) in from.iter().enumerate() {
            if from.len() - at < count && !may_repeat {
                break;
            }
            let Some(left) = self.steps.checked_sub(1) else {
                self.out_of_steps = true;
                return Ok(false);
            };
            *self.steps = left;
            let before = self.chosen.len();
            if self.candidates[*candidate].complete && self.take(claim, way, *candidate) {
                let next = if is_shared(self.candidates[*candidate].device) { at } else { at + 1 };
                if self.take_some(claim, request, way, &from[next..], count - 1)? {
                    return Ok(true);
                }
                self.undo(before);
            }
        }
        Ok(false)
    }

    /// Takes a device, if it may be taken.
    fn take(&mut self, claim: usize, way: &Way<'_>, number: usize) -> bool {
        let candidate = &self.candidates[number];
        let admin = way.spec.bool_at(&["adminAccess"]) == Some(true);
        let of_claim = self.chosen.iter().filter(|c| c.claim == claim).count();
        let in_use = self.devices.taken.contains(&candidate.id) || self.taken.contains(&number);
        let tolerations = way.spec.list_at(&["tolerations"]);
        let bars = |t: &Value| matches!(t.str_at(&["effect"]), "NoSchedule" | "NoExecute") && !tolerates(tolerations, t);
        if of_claim >= MOST_DEVICES || !admin && in_use || self.devices.taints_of(&candidate.id, candidate.device).any(bars) {
            return false;
        }
        let shared = is_shared(candidate.device);
        let Some(consumed) = consumption(way.spec, candidate.device, &self.used(number)) else { return false };
        // Who shares a device with others needs no more of the pool for it.
        let counted = !admin && (!shared || !self.is_shared_already(number));
        if !self.goes_together(claim, &way.name, number) || counted && !self.consume(number) {
            return false;
        }
        if shared {
            let (shares, total) = self.shares.entry(number).or_default();
            *shares += 1;
            add(total, &consumed);
        } else if !admin {
            self.taken.insert(number);
        }
        let share = shared.then_some(consumed);
        let tolerations = tolerations.to_vec();
        self.chosen.push(Chosen { claim, name: way.name.clone(), candidate: number, admin, tolerations, share, counted });
        true
    }

    /// What others have of a device, by the API and by what was chosen.
    fn used(&self, number: usize) -> Amounts {
        let said = self.devices.shares.get(&self.candidates[number].id);
        let mut used = said.map(|(_, amounts)| amounts.clone()).unwrap_or_default();
        if let Some((_, chosen)) = self.shares.get(&number) {
            add(&mut used, chosen);
        }
        used
    }

    fn is_shared_already(&self, number: usize) -> bool {
        self.shares.get(&number).is_some_and(|(shares, _)| *shares > 0) || self.devices.shares.contains_key(&self.candidates[number].id)
    }

    fn undo(&mut self, to: usize) {
        for chosen in self.chosen.drain(to..) {
            match (&chosen.share, self.shares.get_mut(&chosen.candidate)) {
                (Some(amounts), Some((shares, total))) => {
                    *shares -= 1;
                    subtract(total, amounts);
                }
                _ if !chosen.admin => drop(self.taken.remove(&chosen.candidate)),
                _ => {}
            }
            if !chosen.counted {
                continue;
            }
            let candidate = &self.candidates[chosen.candidate];
            if let Some(left) = self.counters.get_mut(&(candidate.id.0.clone(), candidate.id.1.clone())) {
                counted_by(candidate.device).for_each(|(counter, n)| *left.entry(counter).or_default() += n);
            }
        }
    }

    /// Whether a device meets the claim's constraints beside those that were chosen.
    fn goes_together(&self, claim: usize, name: &str, number: usize) -> bool {
        let request = name.split_once('/').map_or(name, |(request, _)| request);
        let constraints = self.claims[claim].list_at(&["spec", "devices", "constraints"]);
        let covers = |c: &Value, name: &str, request: &str| {
            let named = c.list_at(&["requests"]);
            named.is_empty() || named.iter().filter_map(Value::as_str).any(|n| n == name || n == request)
        };
        let value = |number: usize, key: &str| {
            let candidate = &self.candidates[number];
            attribute(&candidate.id.0, candidate.device, key)
        };
        constraints.iter().filter(|c| covers(c, name, request)).all(|c| {
            let same = c.str_at(&["matchAttribute"]);
            let key = if same.is_empty() { c.str_at(&["distinctAttribute"]) } else { same };
            let Some(own) = value(number, key) else { return false };
            let others = self.chosen.iter().filter(|other| {
                let request = other.name.split_once('/').map_or(other.name.as_str(), |(request, _)| request);
                other.claim == claim && covers(c, &other.name, request)
            });
            others.map(|other| value(other.candidate, key)).all(|other| (other == Some(own)) != same.is_empty())
        })
    }

    /// Takes what a device needs of its pool's shared counters, if there is as much.
    fn consume(&mut self, number: usize) -> bool {
        let candidate = &self.candidates[number];
        if candidate.device.list_at(&["consumesCounters"]).is_empty() {
            return true;
        }
        let id = (candidate.id.0.clone(), candidate.id.1.clone());
        let (devices, pool) = (self.devices, self.devices.pools.get(&id));
        let left = self.counters.entry(id.clone()).or_insert_with(|| pool.map(|p| counters_left(devices, &id, p)).unwrap_or_default());
        if !counted_by(candidate.device).all(|(counter, n)| left.get(&counter).is_some_and(|left| *left >= n)) {
            return false;
        }
        counted_by(candidate.device).for_each(|(counter, n)| *left.entry(counter).or_default() -= n);
        true
    }

    /// The allocation of a claim.
    fn result(&self, claim: usize, node: &Node) -> Value {
        let chosen: Vec<&Chosen> = self.chosen.iter().filter(|c| c.claim == claim).collect();
        let results: Vec<Value> = chosen.iter().enumerate().map(|(at, c)| self.device_result(c, at)).collect();
        let mut config = Vec::new();
        let mut seen = HashSet::new();
        for chosen in chosen.iter().filter(|c| seen.insert(c.name.as_str())) {
            config.extend(self.class_configuration(claim, &chosen.name));
        }
        let named = |c: &&Value| {
            let requests = c.list_at(&["requests"]);
            let about = |n: &str| chosen.iter().any(|c| c.name == n || c.name.split_once('/').is_some_and(|(request, _)| request == n));
            requests.is_empty() || requests.iter().filter_map(Value::as_str).any(about)
        };
        for said in self.claims[claim].list_at(&["spec", "devices", "config"]).iter().filter(named) {
            let mut said = said.clone();
            said.set(&["source"], "FromClaim");
            config.push(said);
        }
        let mut devices = object!({ "results": results });
        if !config.is_empty() {
            devices.set(&["config"], Value::from(config));
        }
        let mut allocation = object!({ "devices": devices });
        if let Some(selector) = self.node_selector(&chosen, node) {
            allocation.set(&["nodeSelector"], selector);
        }
        allocation
    }

    fn device_result(&self, chosen: &Chosen, at: usize) -> Value {
        let (driver, pool, device) = &self.candidates[chosen.candidate].id;
        let mut result = object!({ "request": (chosen.name.as_str()), "driver": (&**driver), "pool": (&**pool), "device": (&**device) });
        if chosen.admin {
            result.set(&["adminAccess"], true);
        }
        if !chosen.tolerations.is_empty() {
            result.set(&["tolerations"], Value::from(chosen.tolerations.clone()));
        }
        for conditions in ["bindingConditions", "bindingFailureConditions"] {
            let said = self.candidates[chosen.candidate].device.list_at(&[conditions]);
            if !said.is_empty() {
                result.set(&[conditions], said.to_vec());
            }
        }
        if let Some(share) = &chosen.share {
            result.set(&["shareID"], share_id(meta::uid(&self.claims[chosen.claim]), at));
            for (name, amount) in share {
                result.set(&["consumedCapacity", name], amount.to_string());
            }
        }
        result
    }

    /// What the class of a request says to its driver.
    fn class_configuration(&self, claim: usize, name: &str) -> Vec<Value> {
        let requests = self.claims[claim].list_at(&["spec", "devices", "requests"]).len();
        let ways = (0..requests).filter_map(|n| self.ways(claim, n)).flatten();
        let class = ways.into_iter().find(|w| w.name == name).and_then(|w| self.devices.classes.get(w.spec.str_at(&["deviceClassName"])));
        let said = class.map(|c| c.list_at(&["spec", "config"])).unwrap_or_default().iter().cloned();
        said.map(|mut said| {
            said.set(&["source"], "FromClass");
            said.set(&["requests"], object!([name]));
            said
        })
        .collect()
    }

    /// The nodes from which all of these devices are reached; None for all nodes.
    fn node_selector(&self, chosen: &[&Chosen], node: &Node) -> Option<Value> {
        let (mut expressions, mut fields): (Vec<Value>, Vec<Value>) = (Vec::new(), Vec::new());
        for chosen in chosen {
            let candidate = &self.candidates[chosen.candidate];
            let spec = candidate.slice.get("spec").unwrap_or(&Value::Null);
            let part = if spec.bool_at(&["perDeviceNodeSelection"]) == Some(true) { candidate.device } else { spec };
            let binds = candidate.device.bool_at(&["bindsToNode"]) == Some(true);
            if binds || !part.str_at(&["nodeName"]).is_empty() {
                let this = object!({ "key": "metadata.name", "operator": "In", "values": [(node.name())] });
                return Some(object!({ "nodeSelectorTerms": [{ "matchFields": [this] }] }));
            }
            for term in part.list_at(&["nodeSelector", "nodeSelectorTerms"]) {
                for (into, list) in [(&mut expressions, "matchExpressions"), (&mut fields, "matchFields")] {
                    for requirement in term.list_at(&[list]) {
                        if !into.contains(requirement) {
                            into.push(requirement.clone());
                        }
                    }
                }
            }
        }
        let mut term = object!({});
        for (list, name) in [(expressions, "matchExpressions"), (fields, "matchFields")] {
            if !list.is_empty() {
                term.set(&[name], Value::from(list));
            }
        }
        (term != object!({})).then(|| object!({ "nodeSelectorTerms": [term] }))
    }
}

/// What the devices that are taken leave of a pool's shared counters.
fn counters_left(devices: &Devices, id: &PoolId, pool: &Pool) -> Counters {
    let mut left = Counters::new();
    for set in pool.current().flat_map(|s| s.list_at(&["spec", "sharedCounters"])) {
        for (name, value) in set.get("counters").and_then(Value::as_map).into_iter().flat_map(|m| m.iter()) {
            left.insert((set.str_at(&["name"]).into(), name.to_string()), milli(value));
        }
    }
    for device in pool.current().flat_map(|s| s.list_at(&["spec", "devices"])) {
        let device_id = (id.0.clone(), id.1.clone(), device.str_at(&["name"]).into());
        if devices.taken.contains(&device_id) || devices.shares.contains_key(&device_id) {
            counted_by(device).for_each(|(counter, n)| *left.entry(counter).or_default() -= n);
        }
    }
    left
}

/// What tells a share of a device from others, in the form of a UUID: each result of each claim has its own.
fn share_id(claim: &str, result: usize) -> String {
    let half = |seed: u8| {
        let mut hasher = DefaultHasher::new();
        (seed, claim, result).hash(&mut hasher);
        hasher.finish()
    };
    uuid::Builder::from_custom_bytes((u128::from(half(0)) << 64 | u128::from(half(1))).to_be_bytes()).into_uuid().to_string()
}
