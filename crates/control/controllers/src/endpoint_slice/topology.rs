//! Hints that spread the traffic of a Service over zones in proportion to their processors, where the Service asks for it by
//! `service.kubernetes.io/topology-mode: Auto`; see KEP-2433 and upstream's topologycache. Pure.

use std::collections::{BTreeMap, HashMap};

use fram_machinery::quantity::Quantity;
use fram_machinery::{Value, meta, object};

use super::plan::zone_of;

/// By how much more than its part an endpoint may be loaded.
const OVERLOAD: f64 = 0.2;
const NO_ZONE: &str = "One or more endpoints do not have a zone specified";
const NO_NODE_INFORMATION: &str = "Insufficient Node information: allocatable CPU or zone not specified on one or more nodes";
const ONE_ZONE: &str = "Nodes only ready in one zone";
const FEW_ENDPOINTS: &str = "Insufficient number of endpoints";
const OVERLOADED: &str = "Unable to allocate minimum required endpoints to each zone without exceeding overload threshold";

/// Whether a Service asks for such hints; by the older annotation where it has it.
pub(super) fn is_wanted(service: &Value) -> bool {
    let older = meta::annotation(service, "service.kubernetes.io/topology-aware-hints");
    let mode = older.or_else(|| meta::annotation(service, "service.kubernetes.io/topology-mode"));
    matches!(mode, Some("Auto" | "auto"))
}

/// The part that each zone has of all processors. Empty where a node does not tell its own.
pub(super) type Ratios = BTreeMap<String, f64>;

/// How many endpoints each zone is to use, or why there are no hints.
pub(super) type Spread = Result<BTreeMap<String, usize>, String>;

/// What a node that pods may be on says: its zone and its thousandths of a processor, or not enough.
type Told = Option<(String, i64)>;

/// The processors of all zones, kept up to date node by node.
#[derive(Debug, Default)]
pub(super) struct Zones {
    nodes: HashMap<String, Told>,
    /// By zone: how many nodes, and their thousandths of a processor.
    sums: BTreeMap<String, (usize, i64)>,
    silent: usize,
}

fn told(node: &Value) -> Option<Told> {
    let is_apart = |role: &str| meta::label(node, &format!("node-role.kubernetes.io/{role}")).is_some();
    if is_apart("control-plane") || is_apart("master") || !meta::condition_is_true(node, "Ready") {
        return None;
    }
    let amount = node.str_at(&["status", "allocatable", "cpu"]).parse::<Quantity>().map_or(0, |cpu| cpu.milli_value());
    Some(zone_of(node).filter(|_| amount > 0).map(|zone| (zone.to_string(), amount)))
}

impl Zones {
    /// Takes in a node as it is now; true where the ratios may be others.
    pub(super) fn note(&mut self, name: &str, node: Option<&Value>) -> bool {
        let now = node.and_then(told);
        if self.nodes.get(name) == now.as_ref() {
            return false;
        }
        match self.nodes.remove(name) {
            Some(Some((zone, amount))) => {
                let sum = self.sums.entry(zone.clone()).or_default();
                *sum = (sum.0 - 1, sum.1 - amount);
                if sum.0 == 0 {
                    self.sums.remove(&zone);
                }
            }
            Some(None) => self.silent -= 1,
            None => {}
        }
        match &now {
            Some(Some((zone, amount))) => {
                let sum = self.sums.entry(zone.clone()).or_default();
                *sum = (sum.0 + 1, sum.1 + amount);
            }
            Some(None) => self.silent += 1,
            None => {}
        }
        if let Some(now) = now {
            self.nodes.insert(name.into(), now);
        }
        true
    }

    #[expect(clippy::cast_precision_loss, reason = "a ratio need not be exact")]
    pub(super) fn ratios(&self) -> Ratios {
        if self.silent > 0 {
            return Ratios::new();
        }
        let all: i64 = self.sums.values().map(|sum| sum.1).sum();
        self.sums.iter().map(|(zone, sum)| (zone.clone(), sum.1 as f64 / all as f64)).collect()
    }
}

/// How many endpoints a zone would have, and takes at most.
struct Share {
    wanted: f64,
    most: usize,
}

/// How many a zone needs that are not to be overloaded.
#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "numbers of endpoints are small")]
fn least(endpoints: usize, ratio: f64) -> usize {
    (endpoints as f64 * ratio / (1.0 + OVERLOAD)).ceil() as usize
}

#[expect(clippy::cast_precision_loss, reason = "numbers of endpoints are small")]
fn shares(ratios: &Ratios, endpoints: usize) -> Result<BTreeMap<&str, Share>, String> {
    match ratios.len() {
        0 => return Err(NO_NODE_INFORMATION.into()),
        1 => return Err(ONE_ZONE.into()),
        zones if zones > endpoints => return Err(format!("{FEW_ENDPOINTS} ({endpoints} endpoints, {zones} zones)")),
        _ => {}
    }
    let all: usize = ratios.values().map(|ratio| least(endpoints, *ratio)).sum();
    let Some(spare) = endpoints.checked_sub(all) else {
        return Err(format!("{OVERLOADED} ({endpoints} endpoints, {} zones)", ratios.len()));
    };
    let one = |ratio: &f64| {
        let least = least(endpoints, *ratio);
        Share { wanted: (endpoints as f64 * ratio).max(least as f64), most: least + spare }
    };
    Ok(ratios.iter().map(|(zone, ratio)| (zone.as_str(), one(ratio))).collect())
}

fn is_ready(endpoint: &Value) -> bool {
    endpoint.bool_at(&["conditions", "ready"]) == Some(true)
}

fn hint(endpoint: &mut Value, zone: &str) {
    endpoint.set(&["hints"], object!({ "forZones": [{ "name": zone }] }));
}

/// By zone, the endpoints of a slice that may stay as it is; None where it has to be looked at with the others.
fn kept(slice: &[Value], given: &BTreeMap<String, usize>, shares: &BTreeMap<&str, Share>) -> Option<BTreeMap<String, usize>> {
    let mut here: BTreeMap<String, usize> = BTreeMap::new();
    for endpoint in slice.iter().filter(|endpoint| is_ready(endpoint)) {
        let zones = endpoint.list_at(&["hints", "forZones"]);
        if zones.is_empty() || !endpoint.list_at(&["hints", "forNodes"]).is_empty() {
            return None;
        }
        zones.iter().for_each(|zone| *here.entry(zone.str_at(&["name"]).into()).or_default() += 1);
    }
    let fits = |(zone, count): (&String, &usize)| {
        let before = given.get(zone).copied().unwrap_or(0);
        shares.get(zone.as_str()).is_some_and(|share| count + before <= share.most)
    };
    here.iter().all(fits).then_some(here)
}

/// How many endpoints zones give away, and how many others receive.
type Moves<'a> = (BTreeMap<&'a str, usize>, BTreeMap<&'a str, usize>);

/// Which zones have more than they would, and which fewer; the greatest differences first, until what is left is not worth a move.
#[expect(clippy::cast_precision_loss, reason = "numbers of endpoints are small")]
fn moves<'a>(shares: &BTreeMap<&'a str, Share>, given: &BTreeMap<String, usize>) -> Moves<'a> {
    let over = |(zone, share): (&&'a str, &Share)| (*zone, given.get(*zone).copied().unwrap_or(0) as f64 - share.wanted);
    let mut over: Vec<(&str, f64)> = shares.iter().map(over).collect();
    let (mut giving, mut receiving) = Moves::default();
    while let Some(most) = (0..over.len()).max_by(|a, b| over[*a].1.total_cmp(&over[*b].1))
        && let Some(least) = (0..over.len()).min_by(|a, b| over[*a].1.total_cmp(&over[*b].1))
    {
        let (gives, receives) = (over[most].1, -over[least].1);
        if gives < 1.0 && receives < 1.0 || gives < 0.5 || receives < 0.5 {
            break;
        }
        over[most].1 -= 1.0;
        over[least].1 += 1.0;
        *giving.entry(over[most].0).or_default() += 1;
        *receiving.entry(over[least].0).or_default() += 1;
    }
    (giving, receiving)
}

/// Gives all endpoints of one address family their hints; those of slices that are as they were, which `true` says, keep theirs where
/// that is fair. On an error nobody has any.
pub(super) fn spread(ratios: &Ratios, mut slices: Vec<(bool, &mut Vec<Value>)>) -> Spread {
    let all = || slices.iter().flat_map(|(_, endpoints)| endpoints.iter()).filter(|endpoint| is_ready(endpoint));
    let shares = match all().any(|endpoint| endpoint.str_at(&["zone"]).is_empty()) {
        true => Err(NO_ZONE.to_string()),
        false => shares(ratios, all().count()),
    };
    let shares = shares.inspect_err(|_| {
        slices.iter_mut().flat_map(|(_, endpoints)| endpoints.iter_mut()).for_each(|endpoint| drop(endpoint.remove(&["hints"])));
    })?;
    let mut given: BTreeMap<String, usize> = BTreeMap::new();
    let mut open: Vec<&mut Value> = Vec::new();
    for (as_it_was, endpoints) in slices {
        match kept(endpoints, &given, &shares).filter(|_| as_it_was) {
            Some(here) => here.into_iter().for_each(|(zone, count)| *given.entry(zone).or_default() += count),
            None => open.extend(endpoints.iter_mut()),
        }
    }
    open.iter_mut().for_each(|endpoint| drop(endpoint.remove(&["hints"])));
    open.retain(|endpoint| is_ready(endpoint));
    for endpoint in &mut open {
        let zone = endpoint.str_at(&["zone"]).to_string();
        hint(endpoint, &zone);
        *given.entry(zone).or_default() += 1;
    }
    let (mut giving, mut receiving) = moves(&shares, &given);
    for endpoint in open {
        let own = endpoint.str_at(&["zone"]).to_string();
        let Some(left) = giving.get_mut(own.as_str()).filter(|left| **left > 0) else { continue };
        let Some((zone, wanting)) = receiving.iter_mut().find(|(_, wanting)| **wanting > 0) else { break };
        (*left, *wanting) = (*left - 1, *wanting - 1);
        hint(endpoint, zone);
        *given.entry((*zone).into()).or_default() += 1;
        given.entry(own).and_modify(|count| *count -= 1);
    }
    Ok(given)
}

/// What a Service was last given, by address family; empty where it does not ask.
pub(super) type Spreads = BTreeMap<&'static str, Spread>;

/// Whether the hints that a Service has overload its endpoints by now, or others may be possible.
pub(super) fn is_to_be_spread_again(spreads: &Spreads, ratios: &Ratios) -> bool {
    let is_overloaded = |given: &BTreeMap<String, usize>| {
        let all = given.values().sum();
        let lacks = |(zone, ratio): (&String, &f64)| given.get(zone).is_none_or(|count| *count < least(all, *ratio));
        ratios.is_empty() || ratios.iter().any(lacks)
    };
    spreads.values().any(|spread| spread.as_ref().map_or(!ratios.is_empty(), is_overloaded))
}

/// What people are told of a change: whether it is a warning, the reason, and the message.
pub(super) fn news(before: &Spreads, now: &Spreads) -> Vec<(bool, &'static str, String)> {
    let (on, off) = ("TopologyAwareHintsEnabled", "TopologyAwareHintsDisabled");
    let one = |(family, spread): (&&'static str, &Spread)| match (before.get(family), spread) {
        (Some(Ok(_)), Ok(_)) => None,
        (_, Ok(_)) => Some((false, on, format!("Topology Aware Hints has been enabled, addressType: {family}"))),
        (Some(Err(was)), Err(is)) if was == is => None,
        (_, Err(why)) => Some((true, off, format!("{why}, addressType: {family}"))),
    };
    let over = before.iter().filter(|(family, spread)| spread.is_ok() && !now.contains_key(*family));
    let over = over.map(|(family, _)| (true, off, format!("Topology Aware Hints has been disabled, addressType: {family}")));
    now.iter().filter_map(one).chain(over).collect()
}

#[cfg(test)]
mod tests;
