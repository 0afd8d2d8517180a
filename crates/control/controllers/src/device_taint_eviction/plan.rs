//! When pods have to leave the devices of their claims, and what a DeviceTaintRule says of that. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fram_api::devices::{claims_of_pod, is_selected, tolerates};
use fram_machinery::{Value, meta, object};
use jiff::{SignedDuration, Timestamp};

use crate::pods::time;

/// See resource.k8s.io/v1beta2's DeviceTaintConditionEvictionInProgress.
pub(super) const IN_PROGRESS: &str = "EvictionInProgress";

/// What a pod has to leave for.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Eviction {
    pub(super) when: Timestamp,
    /// The UIDs of the DeviceTaintRules that take part in it.
    pub(super) rules: BTreeSet<String>,
}

impl Eviction {
    /// The earlier time, for all reasons.
    pub(super) fn and(mut self, other: Self) -> Self {
        self.when = self.when.min(other.when);
        self.rules.extend(other.rules);
        self
    }
}

fn evicts(taint: &Value) -> bool {
    taint.str_at(&["effect"]) == "NoExecute"
}

/// Whether a rule makes pods leave.
pub(super) fn is_evicting(rule: &Value) -> bool {
    rule.at(&["spec", "taint"]).is_some_and(evicts)
}

/// The devices of a slice that have taints which evict, with these.
pub(super) fn evicting(slice: &Value) -> Vec<(String, Vec<Value>)> {
    let of = |device: &Value| {
        let taints: Vec<Value> = device.list_at(&["taints"]).iter().filter(|t| evicts(t)).cloned().collect();
        (!taints.is_empty()).then(|| (device.str_at(&["name"]).to_string(), taints))
    };
    slice.list_at(&["spec", "devices"]).iter().filter_map(of).collect()
}

/// The devices that a claim has.
pub(super) fn allocated(claim: &Value) -> &[Value] {
    claim.list_at(&["status", "allocation", "devices", "results"])
}

/// Whether a rule is about a device that the claim has.
pub(super) fn is_selected_of(claim: &Value, rule: &Value) -> bool {
    allocated(claim).iter().any(|result| selects(rule, result))
}

pub(super) fn selects(rule: &Value, result: &Value) -> bool {
    is_selected(rule, result.str_at(&["driver"]), result.str_at(&["pool"]), result.str_at(&["device"]))
}

/// Those slices of a pool that count: of its newest generation.
fn current(pool: &[Arc<Value>]) -> impl Iterator<Item = &Arc<Value>> {
    let generation = |s: &Arc<Value>| s.int_at(&["spec", "pool", "generation"]).unwrap_or(0);
    let newest = pool.iter().map(generation).max().unwrap_or(0);
    pool.iter().filter(move |s| generation(s) == newest)
}

/// Driver, pool and name of all devices that count.
pub(super) fn published(slices: &[Arc<Value>]) -> impl Iterator<Item = (&str, &str, &str)> {
    let pool = |s: &Value| (s.str_at(&["spec", "driver"]).to_string(), s.str_at(&["spec", "pool", "name"]).to_string());
    let generation = |s: &Value| s.int_at(&["spec", "pool", "generation"]).unwrap_or(0);
    let mut newest = BTreeMap::<_, i64>::new();
    for slice in slices {
        newest.entry(pool(slice)).and_modify(|n| *n = generation(slice).max(*n)).or_insert(generation(slice));
    }
    let counts = move |s: &&Arc<Value>| newest.get(&pool(s)) == Some(&generation(s));
    slices.iter().filter(counts).flat_map(|s| {
        let devices = s.list_at(&["spec", "devices"]).iter();
        devices.map(|d| (s.str_at(&["spec", "driver"]), s.str_at(&["spec", "pool", "name"]), d.str_at(&["name"])))
    })
}

/// When those who use the claim have to go, by the slices of the pools that `pool` finds and by rules that evict; None where nothing
/// makes them.
pub(super) fn of_claim(
    claim: &Value,
    pool: impl Fn(&str, &str) -> Vec<Arc<Value>>,
    rules: &[Arc<Value>],
    now: Timestamp,
) -> Option<Eviction> {
    let of_device = |result: &Value| {
        let tolerations = result.list_at(&["tolerations"]);
        let slices = pool(result.str_at(&["driver"]), result.str_at(&["pool"]));
        let taints = current(&slices).flat_map(|s| evicting(s)).filter(|(name, _)| name == result.str_at(&["device"]));
        let published = taints.flat_map(|(_, taints)| taints).filter_map(|taint| leaves(tolerations, &taint, now));
        let published = published.min().map(|when| Eviction { when, rules: BTreeSet::new() });
        let ruled = rules.iter().filter(|rule| selects(rule, result)).filter_map(|rule| {
            let when = leaves(tolerations, rule.at(&["spec", "taint"])?, now)?;
            Some(Eviction { when, rules: [meta::uid(rule).to_string()].into() })
        });
        ruled.chain(published).reduce(Eviction::and)
    };
    allocated(claim).iter().filter_map(of_device).reduce(Eviction::and)
}

/// When a taint evicts; None where it is tolerated for good.
fn leaves(tolerations: &[Value], taint: &Value, now: Timestamp) -> Option<Timestamp> {
    let added = time(taint, &["timeAdded"]).unwrap_or(now);
    let covering = || tolerations.iter().filter(|t| tolerates(std::slice::from_ref(*t), taint));
    if covering().next().is_none() {
        return Some(added);
    }
    if covering().any(|t| t.int_at(&["tolerationSeconds"]).is_none()) {
        return None;
    }
    let seconds = covering().filter_map(|t| t.int_at(&["tolerationSeconds"])).min()?;
    Some(added.saturating_add(SignedDuration::from_secs(seconds.max(0))).unwrap_or(Timestamp::MAX))
}

/// The claims that a pod uses: it is on a node, they exist, and they are kept for it.
pub(super) fn claims_used(pod: &Value, claim: impl Fn(&str) -> Option<Arc<Value>>) -> Vec<Arc<Value>> {
    if pod.str_at(&["spec", "nodeName"]).is_empty() {
        return Vec::new();
    }
    let extended = Some(pod.str_at(&["status", "extendedResourceClaimStatus", "resourceClaimName"])).filter(|name| !name.is_empty());
    let names = claims_of_pod(pod).filter_map(|(_, name)| name).chain(extended);
    let is_user = |claim: &Arc<Value>| users(claim).any(|(_, uid)| uid == meta::uid(pod));
    names.filter_map(claim).filter(is_user).collect()
}

/// The pods for which a claim is kept: name and UID.
pub(super) fn users(claim: &Value) -> impl Iterator<Item = (&str, &str)> {
    let pods = claim.list_at(&["status", "reservedFor"]).iter().filter(|user| user.str_at(&["resource"]) == "pods");
    pods.map(|user| (user.str_at(&["name"]), user.str_at(&["uid"])))
}

/// What there is to say of a rule.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Figures {
    /// Pods that have to leave because of it, or had to if it evicted, and their namespaces.
    pub(super) pending: (usize, usize),
    /// Those that have left since this began.
    pub(super) evicted: u64,
    /// Devices that it is about: of pools, and of claims.
    pub(super) devices: (usize, usize),
}

fn counted(n: usize, one: &str, many: &str) -> String {
    if n == 1 { format!("1 {one}") } else { format!("{n} {many}") }
}

/// The condition of a rule, in upstream's words.
pub(super) fn condition(rule: &Value, figures: Figures, now: &str) -> Value {
    let (pods, namespaces) = figures.pending;
    let namespaces = counted(namespaces, "namespace", "different namespaces");
    let (mut status, reason, mut message) = ("False", rule.str_at(&["spec", "taint", "effect"]), String::new());
    let reason = match reason {
        "NoExecute" if pods > 0 => {
            status = "True";
            message = format!("{} in {namespaces}.", counted(pods, "pod needs to be evicted", "pods need to be evicted"));
            "PodsPendingEviction"
        }
        "NoExecute" if figures.evicted > 0 => "Completed",
        "NoExecute" => "NotStarted",
        "None" => {
            let published = counted(figures.devices.0, "published device selected.", "published devices selected.");
            let allocated = counted(figures.devices.1, "allocated device selected.", "allocated devices selected.");
            let pods = counted(pods, "pod would be evicted", "pods would be evicted");
            message = format!(
                "{published} {allocated} {pods} in {namespaces} if the effect was NoExecute. This information will not be updated again. \
                 Recreate the DeviceTaintRule to trigger an update."
            );
            "NoEffect"
        }
        _ => {
            message = "Eviction only happens for the NoExecute effect.".into();
            "OtherEffect"
        }
    };
    if figures.evicted > 0 {
        let space = if message.is_empty() { "" } else { " " };
        let evicted = usize::try_from(figures.evicted).unwrap_or(usize::MAX);
        message += &format!("{space}{} evicted since starting the controller.", counted(evicted, "pod", "pods"));
    }
    object!({ "type": IN_PROGRESS, "status": status, "reason": reason, "message": message,
        "observedGeneration": (meta::generation(rule)), "lastTransitionTime": now })
}

/// Whether a rule says this already.
pub(super) fn says(rule: &Value, condition: &Value) -> bool {
    let fields = ["status", "reason", "message", "observedGeneration"];
    meta::condition(rule, IN_PROGRESS).is_some_and(|said| fields.iter().all(|f| said.get(f) == condition.get(f)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-01-01T00:01:00Z";

    fn now() -> Timestamp {
        NOW.parse().unwrap()
    }

    fn slice(taints: Value) -> Arc<Value> {
        let devices = object!([{ "name": "0", "taints": taints }]);
        Arc::new(object!({ "spec": { "driver": "d", "pool": { "name": "p", "generation": 1 }, "devices": devices } }))
    }

    fn claim(tolerations: Value) -> Value {
        let result = object!({ "driver": "d", "pool": "p", "device": "0", "tolerations": tolerations });
        object!({ "status": { "allocation": { "devices": { "results": [result] } } } })
    }

    fn rule(uid: &str, selector: Value, effect: &str) -> Arc<Value> {
        let taint = object!({ "key": "k", "effect": effect, "timeAdded": "2026-01-01T00:00:40Z" });
        Arc::new(
            object!({ "metadata": { "name": uid, "uid": uid, "generation": 2 }, "spec": { "deviceSelector": selector, "taint": taint } }),
        )
    }

    #[test]
    fn a_claim_is_left_when_its_devices_taints_are_not_tolerated_any_more() {
        let taint = object!({ "key": "k", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:30Z" });
        let with = |tolerations: Value, taints: Value| {
            let slices = vec![slice(taints)];
            of_claim(&claim(tolerations), |_, _| slices.clone(), &[], now()).map(|e| e.when.to_string())
        };
        assert_eq!(with(object!([]), object!([])), None);
        assert_eq!(with(object!([]), object!([{ "key": "k", "effect": "NoSchedule" }])), None);
        assert_eq!(with(object!([]), object!([(taint.clone())])), Some("2026-01-01T00:00:30Z".into()));
        assert_eq!(with(object!([]), object!([{ "key": "k", "effect": "NoExecute" }])), Some(NOW.into()));
        assert_eq!(with(object!([{ "operator": "Exists" }]), object!([(taint.clone())])), None);
        let for_a_minute = object!({ "key": "k", "operator": "Exists", "tolerationSeconds": 60 });
        assert_eq!(with(object!([(for_a_minute.clone())]), object!([(taint.clone())])), Some("2026-01-01T00:01:30Z".into()));
        let for_ever_too = object!([for_a_minute, { "key": "k", "operator": "Exists" }]);
        assert_eq!(with(for_ever_too, object!([(taint)])), None);
    }

    #[test]
    fn a_rule_taints_the_devices_that_it_selects_and_no_others() {
        let when = |selector: Value, tolerations: Value| {
            let eviction = of_claim(&claim(tolerations), |_, _| vec![slice(object!([]))], &[rule("r", selector, "NoExecute")], now());
            eviction.map(|e| (e.when.to_string(), e.rules.into_iter().collect::<Vec<_>>().join(",")))
        };
        let at = |time: &str| Some((time.to_string(), "r".to_string()));
        let table = [
            (object!({}), at("2026-01-01T00:00:40Z")),
            (Value::Null, None),
            (object!({ "driver": "d" }), at("2026-01-01T00:00:40Z")),
            (object!({ "driver": "other" }), None),
            (object!({ "driver": "d", "pool": "p", "device": "0" }), at("2026-01-01T00:00:40Z")),
            (object!({ "pool": "q" }), None),
            (object!({ "device": "1" }), None),
        ];
        for (selector, expect) in table {
            assert_eq!(when(selector.clone(), object!([])), expect, "{selector:?}");
        }
        let patience = object!([{ "key": "k", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5 }]);
        assert_eq!(when(object!({}), patience), at("2026-01-01T00:00:45Z"));
        let never = object!([{ "key": "k", "operator": "Exists", "effect": "NoExecute" }]);
        assert_eq!(when(object!({}), never), None);
    }

    #[test]
    fn of_several_reasons_the_earliest_counts_and_all_are_known() {
        let taint = object!({ "key": "k", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:30Z" });
        let rules = [rule("a", object!({}), "NoExecute"), rule("b", object!({ "pool": "p" }), "NoExecute")];
        let eviction = of_claim(&claim(object!([])), |_, _| vec![slice(object!([(taint.clone())]))], &rules, now()).unwrap();
        assert_eq!(eviction.when.to_string(), "2026-01-01T00:00:30Z");
        assert_eq!(eviction.rules, ["a".to_string(), "b".to_string()].into());
    }

    #[test]
    fn what_a_rule_says_is_in_upstreams_words() {
        let said = |effect: &str, pending, evicted, devices| {
            let condition = condition(&rule("r", object!({}), effect), Figures { pending, evicted, devices }, NOW);
            ["status", "reason", "message"].map(|f| condition.str_at(&[f]).to_string()).join("|")
        };
        let simulated = |counts: &str| {
            format!(
                "False|NoEffect|{counts} if the effect was NoExecute. This information will not be updated again. Recreate the DeviceTaintRule to trigger an update."
            )
        };
        assert_eq!(said("NoExecute", (0, 0), 0, (0, 0)), "False|NotStarted|");
        assert_eq!(said("NoExecute", (1, 1), 0, (0, 0)), "True|PodsPendingEviction|1 pod needs to be evicted in 1 namespace.");
        let both =
            "True|PodsPendingEviction|3 pods need to be evicted in 2 different namespaces. 1 pod evicted since starting the controller.";
        assert_eq!(said("NoExecute", (3, 2), 1, (0, 0)), both);
        assert_eq!(said("NoExecute", (0, 0), 2, (0, 0)), "False|Completed|2 pods evicted since starting the controller.");
        assert_eq!(said("NoSchedule", (0, 0), 0, (0, 0)), "False|OtherEffect|Eviction only happens for the NoExecute effect.");
        let one = "1 published device selected. 1 allocated device selected. 1 pod would be evicted in 1 namespace";
        assert_eq!(said("None", (1, 1), 0, (1, 1)), simulated(one));
        let none = "2 published devices selected. 0 allocated devices selected. 0 pods would be evicted in 0 different namespaces";
        assert_eq!(said("None", (0, 0), 0, (2, 0)), simulated(none));
    }

    #[test]
    fn a_pod_uses_the_claims_that_are_kept_for_it() {
        let kept = |uid: &str| {
            let user = object!({ "resource": "pods", "name": "p", "uid": uid });
            Some(Arc::new(object!({ "metadata": { "name": "c" }, "status": { "reservedFor": [user] } })))
        };
        let pod = |node: &str| object!({ "metadata": { "name": "p", "uid": "u" }, "spec": { "nodeName": node, "resourceClaims": [{ "name": "x", "resourceClaimName": "c" }] } });
        assert_eq!(claims_used(&pod("n"), |_| kept("u")).len(), 1);
        assert_eq!(claims_used(&pod(""), |_| kept("u")).len(), 0);
        assert_eq!(claims_used(&pod("n"), |_| kept("another")).len(), 0);
    }
}
