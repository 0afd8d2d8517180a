//! PodTopologySpread: constraints of the pod, and by default a soft spread over nodes and zones of the pods of one owner, or of the same
//! Services where they have none. See KEP-895 and KEP-1258.

use std::sync::Arc;

use fram_machinery::labels::Selector;
use fram_machinery::{Value, meta, object};

use super::affinity::required_matches;
use super::{text_of, with_label_keys};
use crate::cache::{Cache, Change, Column};
use crate::framework::{MAX_SCORE, Plugin, Refusal, Sharing, Verdicts, View};
use crate::pod::Pod;

const HOSTNAME: &str = "kubernetes.io/hostname";
const ZONE: &str = "topology.kubernetes.io/zone";

pub(super) struct PodTopologySpread {
    /// Constraints of pods that have none; None for the system's own. See PodTopologySpreadArgs.
    pub(super) defaults: Option<Vec<Value>>,
}

/// A constraint, read.
struct Constraint {
    key: String,
    max_skew: i64,
    min_domains: i64,
    hard: bool,
    selector: Selector,
    /// The pods that count are those of this owner: labels need not tell them from others, as those of StatefulSets do not.
    of_owner: Option<Arc<str>>,
    /// Nodes that the pod's own affinity excludes do not count.
    honors_affinity: bool,
    honors_taints: bool,
}

impl Constraint {
    fn read(pod: &Pod, c: &Value, of_owner: Option<Arc<str>>) -> Self {
        let selector = c.get("labelSelector").filter(|s| !s.is_null()).map(|s| with_label_keys(&pod.object, s, c));
        Self {
            key: c.str_at(&["topologyKey"]).into(),
            max_skew: c.int_at(&["maxSkew"]).unwrap_or(1),
            min_domains: c.int_at(&["minDomains"]).unwrap_or(1),
            hard: c.str_at(&["whenUnsatisfiable"]) != "ScheduleAnyway",
            selector: Selector::from_object(selector.as_ref()).ok().flatten().unwrap_or_default(),
            of_owner,
            honors_affinity: c.str_at(&["nodeAffinityPolicy"]) != "Ignore",
            honors_taints: c.str_at(&["nodeTaintsPolicy"]) == "Honor",
        }
    }

    fn counts(&self, namespace: &str, other: &Pod) -> bool {
        other.namespace() == namespace
            && !meta::is_terminating(&other.object)
            && match &self.of_owner {
                Some(owner) => other.owner.as_ref() == Some(owner),
                None => self.selector.matches(other.labels()),
            }
    }
}

/// Whose pods are spread with a pod that says nothing of it.
enum Kin {
    Owner(Arc<str>),
    /// Those with the labels that its Services ask for.
    Labels(Value),
}

impl Kin {
    fn of(pod: &Pod, cache: &Cache) -> Option<Self> {
        match &pod.owner {
            Some(owner) => Some(Self::Owner(owner.clone())),
            None => cache.services.labels_of(pod).map(Self::Labels),
        }
    }
}

fn own(pod: &Pod) -> &[Value] {
    pod.object.list_at(&["spec", "topologySpreadConstraints"])
}

impl PodTopologySpread {
    fn constraints(&self, pod: &Pod, cache: &Cache) -> Vec<Constraint> {
        if !own(pod).is_empty() {
            return own(pod).iter().map(|c| Constraint::read(pod, c, None)).collect();
        }
        let Some(kin) = Kin::of(pod, cache) else { return Vec::new() };
        let soft = |key: &str, skew: i64| object!({ "topologyKey": key, "maxSkew": skew, "whenUnsatisfiable": "ScheduleAnyway" });
        let system = || vec![soft(HOSTNAME, 3), soft(ZONE, 5)];
        let defaults = self.defaults.clone().unwrap_or_else(system);
        let read = |mut c: Value| match &kin {
            Kin::Owner(owner) => Constraint::read(pod, &c, Some(owner.clone())),
            Kin::Labels(labels) => {
                c.set(&["labelSelector"], object!({ "matchLabels": (labels.clone()) }));
                Constraint::read(pod, &c, None)
            }
        };
        defaults.into_iter().map(read).collect()
    }
}

impl Plugin for PodTopologySpread {
    fn name(&self) -> &'static str {
        "PodTopologySpread"
    }

    fn sharing(&self, pod: &Pod, cache: &Cache) -> Sharing {
        let constraints = pod.object.at(&["spec", "topologySpreadConstraints"]);
        let affinity = pod.object.at(&["spec", "affinity", "nodeAffinity"]);
        let selector = pod.object.at(&["spec", "nodeSelector"]);
        if own(pod).is_empty() {
            let kin = if self.defaults.as_ref().is_some_and(Vec::is_empty) { None } else { Kin::of(pod, cache) };
            return match kin {
                Some(Kin::Owner(owner)) => Sharing::With(format!("{owner} {}", text_of(&[selector, affinity]))),
                Some(Kin::Labels(labels)) => {
                    let text = text_of(&[Some(&labels), selector, affinity, super::taints::tolerations(pod)]);
                    Sharing::With(format!("{} {text}", pod.namespace()))
                }
                None => Sharing::Nothing,
            };
        }
        let text = text_of(&[constraints, Some(pod.labels()), selector, affinity, super::taints::tolerations(pod)]);
        Sharing::With(format!("{}\n{text}", pod.namespace()))
    }

    fn view(&self, pod: &Arc<Pod>, cache: &Cache) -> Box<dyn View> {
        let constraints = self.constraints(pod, cache);
        // The system's own constraints also score nodes that lack one of the labels.
        let all_keys = !own(pod).is_empty() || self.defaults.is_some();
        // A node without one of the labels is nobody's place: neither it nor its pods count for any of the constraints of a sort.
        let keys = |hard: bool| -> Vec<Arc<Column>> {
            let of_sort = constraints.iter().filter(|c| c.hard == hard && (hard || all_keys));
            of_sort.map(|c| cache.column(&c.key)).collect()
        };
        let (hard, soft) = (keys(true), keys(false));
        let keys = |c: &Constraint| if c.hard { &hard } else { &soft };
        let spread = |c: Constraint| {
            let keys = keys(&c);
            Spread::new(c, keys, pod, cache)
        };
        let spreads = constraints.into_iter().map(spread).collect();
        Box::new(Spreading { namespace: pod.namespace().to_string(), spreads, all_keys })
    }
}

/// A constraint with what there is in each domain.
struct Spread {
    constraint: Constraint,
    column: Arc<Column>,
    /// By slot: the node counts.
    counted: Vec<bool>,
    /// By domain: matching pods, and nodes that count.
    pods: Vec<i64>,
    nodes: Vec<u32>,
    /// By slot: matching pods of the node, counted or not.
    here: Vec<i64>,
    /// The pod itself matches.
    itself: i64,
}

impl Spread {
    /// Of nodes those count that have all these labels.
    fn new(constraint: Constraint, keys: &[Arc<Column>], pod: &Pod, cache: &Cache) -> Self {
        let column = cache.column(&constraint.key);
        let mut spread = Self {
            counted: vec![false; cache.slots()],
            pods: vec![0; column.count],
            nodes: vec![0; column.count],
            here: vec![0; cache.slots()],
            itself: i64::from(constraint.of_owner.is_some() || constraint.selector.matches(pod.labels())),
            constraint,
            column,
        };
        for (slot, node) in cache.nodes() {
            let c = &spread.constraint;
            let fits = !c.honors_affinity || required_matches(&pod.object, node);
            let labelled = keys.iter().all(|key| key.domains[slot].is_some());
            let counted = labelled && fits && (!c.honors_taints || super::taints::tolerates_all(pod, node));
            spread.counted[slot] = counted;
            if let Some(domain) = spread.column.domains[slot].filter(|_| counted) {
                spread.nodes[domain as usize] += 1;
            }
            let matching = node.pods.values().filter(|other| c.counts(pod.namespace(), other)).count();
            spread.count(slot, matching as i64);
        }
        spread
    }

    fn count(&mut self, slot: usize, n: i64) {
        self.here[slot] += n;
        // A slot that no node has had yet, for a pod that names a node that is not there, is not in the column.
        if let Some(domain) = self.column.domains.get(slot).copied().flatten().filter(|_| self.counted[slot]) {
            self.pods[domain as usize] += n;
        }
    }

    /// The fewest pods of any domain; none where there are too few domains.
    fn least(&self) -> i64 {
        let domains = || self.pods.iter().zip(&self.nodes).filter(|(_, nodes)| **nodes > 0);
        match (domains().count() as i64) < self.constraint.min_domains {
            true => 0,
            false => domains().map(|(pods, _)| *pods).min().unwrap_or(0),
        }
    }

    fn detail(&self, slot: usize, least: i64) -> u32 {
        match self.column.domains.get(slot).copied().flatten() {
            None => NO_LABEL,
            Some(domain) if self.pods[domain as usize] + self.itself - least > self.constraint.max_skew => SKEWED,
            Some(_) => 0,
        }
    }
}

const NO_LABEL: u32 = 1;
const SKEWED: u32 = 2;

struct Spreading {
    namespace: String,
    spreads: Vec<Spread>,
    all_keys: bool,
}

impl Spreading {
    fn hard(&self) -> impl Iterator<Item = &Spread> {
        self.spreads.iter().filter(|s| s.constraint.hard)
    }
}

impl View for Spreading {
    fn changed(&mut self, change: &Change, _: &Cache) -> bool {
        let (slot, pod, n) = match change {
            Change::Node(_) => return false,
            Change::Namespaces => return true,
            Change::Placed(slot, pod) => (*slot, pod, 1),
            Change::Removed(slot, pod) => (*slot, pod, -1),
        };
        for spread in &mut self.spreads {
            if slot >= spread.here.len() {
                // A node that does not exist; it will be told of when it does.
                continue;
            }
            if spread.constraint.counts(&self.namespace, pod) {
                spread.count(slot, n);
            }
        }
        true
    }

    fn filter(&mut self, _: &Cache, verdicts: &mut Verdicts) {
        for spread in self.hard() {
            let least = spread.least();
            for slot in verdicts.open().collect::<Vec<_>>() {
                let detail = spread.detail(slot, least);
                if detail != 0 {
                    verdicts.refuse(slot, detail);
                }
            }
        }
    }

    fn refusal(&self, _: &Cache, slot: usize) -> Option<Refusal> {
        let detail = self.hard().map(|s| s.detail(slot, s.least())).find(|d| *d != 0)?;
        Some(match detail {
            NO_LABEL => Refusal::lasting("node(s) didn't match pod topology spread constraints (missing required label)"),
            _ => Refusal::passing("node(s) didn't match pod topology spread constraints"),
        })
    }

    /// Fewer matching pods in the node's domains are better, where there are many domains the more so; see upstream's scoring.
    fn score(&mut self, _: &Cache, slots: &[usize]) -> Option<Vec<i64>> {
        let soft: Vec<&Spread> = self.spreads.iter().filter(|s| !s.constraint.hard).collect();
        if soft.is_empty() {
            return None;
        }
        let labelled = |slot: usize| !self.all_keys || soft.iter().all(|s| s.column.domains[slot].is_some());
        let qualified: Vec<bool> = slots.iter().map(|slot| labelled(*slot)).collect();
        let mut raw = vec![0f64; slots.len()];
        for spread in &soft {
            let by_node = spread.constraint.key == HOSTNAME;
            let mut present = vec![false; spread.column.count];
            let candidates = slots.iter().zip(&qualified).filter(|(_, q)| **q).map(|(slot, _)| *slot);
            let size = match by_node {
                true => candidates.count(),
                false => {
                    candidates.filter_map(|slot| spread.column.domains[slot]).for_each(|d| present[d as usize] = true);
                    present.iter().filter(|p| **p).count()
                }
            };
            let weight = ((size + 2) as f64).ln();
            for (score, slot) in raw.iter_mut().zip(slots) {
                if let Some(domain) = spread.column.domains[*slot] {
                    let pods = if by_node { spread.here[*slot] } else { spread.pods[domain as usize] };
                    *score += pods as f64 * weight + (spread.constraint.max_skew - 1) as f64;
                }
            }
        }
        let rounded = || raw.iter().zip(&qualified).map(|(score, q)| q.then(|| score.round() as i64));
        let (least, most) = (rounded().flatten().min().unwrap_or(0), rounded().flatten().max().unwrap_or(0));
        let scaled = |score: Option<i64>| match score {
            None => 0,
            Some(_) if most == 0 => MAX_SCORE,
            Some(n) => MAX_SCORE * (most + least - n) / most,
        };
        Some(rounded().map(scaled).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::testing::*;

    fn hard() -> Value {
        object!({ "topologySpreadConstraints": [{ "topologyKey": HOSTNAME, "maxSkew": 1,
            "whenUnsatisfiable": "DoNotSchedule", "labelSelector": { "matchLabels": { "app": "x" } } }],
            "containers": [{ "resources": { "requests": { "cpu": "800m" } } }] })
    }

    #[test]
    fn a_hard_constraint_bounds_the_skew() {
        let mut cache = cache(vec![node("a", "8"), node("b", "1")]);
        let mut framework = framework();
        for (n, expect) in ["a", "b", "a"].iter().enumerate() {
            check_with(&mut framework, &mut cache, hard(), expect);
            cache.place(pod(&n.to_string(), hard()), expect);
        }
        let none = "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) didn't match pod topology spread constraints.";
        check_with(&mut framework, &mut cache, hard(), none);
    }

    #[test]
    fn a_node_without_one_of_the_labels_counts_for_no_constraint() {
        let place = |name: &str, labels: &[(&str, &str)]| {
            let mut node = node(name, "8");
            labels.iter().for_each(|(label, value)| meta::set_label(&mut node, label, value));
            node
        };
        let constraint = |key: &str| {
            object!({ "topologyKey": key, "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": { "matchLabels": { "app": "x" } } })
        };
        let spec = || object!({ "topologySpreadConstraints": [(constraint(ZONE)), (constraint("rack"))], "containers": [{ "name": "c" }] });
        let mut cache = cache(vec![place("a", &[(ZONE, "1"), ("rack", "1")]), place("b", &[(ZONE, "2")])]);
        cache.place(pod("1", spec()), "a");
        check_with(&mut framework(), &mut cache, spec(), "a");
    }

    #[test]
    fn pods_of_a_node_that_is_not_there_count_nowhere() {
        let mut cache = cache(vec![node("a", "8"), node("b", "8")]);
        check_with(&mut framework(), &mut cache, hard(), "a");
        cache.place(pod("lost", hard()), "nosuch");
        let mut framework = framework();
        check_with(&mut framework, &mut cache, hard(), "a");
        cache.place(pod("0", hard()), "a");
        assert!(cache.remove("lost"));
        check_with(&mut framework, &mut cache, hard(), "b");
    }

    #[test]
    fn the_values_of_some_labels_tell_the_pods_that_count() {
        let mut cache = cache(vec![node("a", "8"), node("b", "1")]);
        let with = |hash: &str| {
            let mut object = (*pod("1", hard()).object).clone();
            object.set(&["metadata", "labels", "hash"], hash);
            let mut constraint = object.list_at(&["spec", "topologySpreadConstraints"])[0].clone();
            constraint.set(&["matchLabelKeys"], object!(["hash"]));
            object.set(&["spec", "topologySpreadConstraints"], object!([constraint]));
            Arc::new(Pod::alone(object))
        };
        cache.place(with("old"), "a");
        let mut next = (*with("new").object).clone();
        next.set(&["metadata", "uid"], "2");
        let outcome = schedule(&mut framework(), &Arc::new(Pod::alone(next)), &mut cache);
        assert_eq!(outcome, "a");
    }

    #[test]
    fn pods_of_one_owner_are_spread_whatever_their_labels() {
        let owned = |uid: &str| {
            let mut object = (*pod(uid, object!({})).object).clone();
            object.set(&["metadata", "labels"], object!({ "apps.kubernetes.io/pod-index": uid }));
            object.set(&["metadata", "ownerReferences"], object!([{ "uid": "owner", "controller": true }]));
            Arc::new(Pod::alone(object))
        };
        let mut cache = cache(vec![node("a", "8"), node("b", "4")]);
        cache.place(owned("1"), "a");
        let outcome = schedule(&mut framework(), &owned("2"), &mut cache);
        assert_eq!(outcome, "b");
    }

    #[test]
    fn pods_without_an_owner_are_spread_as_those_of_their_services() {
        let mut cache = cache(vec![node("a", "8"), node("b", "1")]);
        let mut framework = framework();
        cache.place(pod("1", object!({})), "a");
        let alone = |uid: &str| pod(uid, object!({}));
        assert_eq!(schedule(&mut framework, &alone("2"), &mut cache), "a");
        cache.services.set("ns/s", Some(&object!({ "spec": { "selector": { "app": "x" } } })));
        assert_eq!(schedule(&mut framework, &alone("3"), &mut cache), "b");
        cache.services.set("ns/s", None);
        assert_eq!(schedule(&mut framework, &alone("4"), &mut cache), "a");
    }
}
