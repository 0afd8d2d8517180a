//! InterPodAffinity: pods that want to be near others, or away from them. See upstream's plugin interpodaffinity.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use fram_machinery::labels::Selector;
use fram_machinery::{Value, meta};

use super::{text_of, with_label_keys};
use crate::cache::{Cache, Change, Column};
use crate::framework::{MAX_SCORE, Plugin, Refusal, Sharing, Verdicts, View};
use crate::pod::Pod;

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

/// One term of an affinity, read.
#[derive(Debug, Clone)]
pub(crate) struct Term {
    key: String,
    selector: Selector,
    namespaces: Vec<String>,
    /// Selects namespaces by their labels, beside those that are named.
    namespace_selector: Option<Selector>,
    weight: i64,
}

/// All terms of a pod.
#[derive(Debug, Clone, Default)]
pub(crate) struct Terms {
    affinity: Vec<Term>,
    anti: Vec<Term>,
    preferred: Vec<Term>,
    preferred_anti: Vec<Term>,
}

impl Terms {
    /// None where a pod has none, as most have.
    pub(crate) fn of(pod: &Value) -> Option<Self> {
        let affinity = pod.at(&["spec", "affinity"])?;
        let required = |kind: &str| affinity.list_at(&[kind, REQUIRED]).iter().filter_map(|t| Term::read(pod, t, 0)).collect();
        let preferred = |kind: &str| {
            let list = affinity.list_at(&[kind, PREFERRED]).iter();
            list.filter_map(|p| Term::read(pod, p.get("podAffinityTerm")?, p.int_at(&["weight"]).unwrap_or(0))).collect()
        };
        let terms = Self {
            affinity: required("podAffinity"),
            anti: required("podAntiAffinity"),
            preferred: preferred("podAffinity"),
            preferred_anti: preferred("podAntiAffinity"),
        };
        let none = [&terms.affinity, &terms.anti, &terms.preferred, &terms.preferred_anti].iter().all(|list| list.is_empty());
        (!none).then_some(terms)
    }
}

impl Term {
    /// A term whose selector is missing selects nothing and is left out.
    fn read(pod: &Value, term: &Value, weight: i64) -> Option<Self> {
        let selector = with_label_keys(pod, term.get("labelSelector").filter(|s| !s.is_null())?, term);
        let named: Vec<String> = term.list_at(&["namespaces"]).iter().filter_map(Value::as_str).map(String::from).collect();
        let by_labels = term.get("namespaceSelector").filter(|s| !s.is_null());
        Some(Self {
            key: term.str_at(&["topologyKey"]).into(),
            selector: Selector::from_object(Some(&selector)).ok().flatten()?,
            namespaces: if named.is_empty() && by_labels.is_none() { vec![meta::namespace(pod).into()] } else { named },
            namespace_selector: by_labels.map(|s| Selector::from_object(Some(s)).ok().flatten().unwrap_or_default()),
            weight,
        })
    }

    fn matches(&self, pod: &Value, namespaces: &HashMap<String, Arc<Value>>) -> bool {
        let namespace = meta::namespace(pod);
        let within = self.namespaces.iter().any(|n| n == namespace)
            || self.namespace_selector.as_ref().is_some_and(|s| namespaces.get(namespace).is_some_and(|n| s.matches(meta::labels(n))));
        within && self.selector.matches(meta::labels(pod))
    }
}

/// A number for each value of a label, counted up and down.
struct Places {
    column: Arc<Column>,
    counts: Vec<i64>,
}

impl Places {
    fn new(cache: &Cache, key: &str) -> Self {
        let column = cache.column(key);
        Self { counts: vec![0; column.count], column }
    }

    fn domain(&self, slot: usize) -> Option<usize> {
        self.column.domains.get(slot).copied().flatten().map(|d| d as usize)
    }

    fn add(&mut self, slot: usize, n: i64) {
        if let Some(domain) = self.domain(slot) {
            self.counts[domain] += n;
        }
    }

    /// None where the node has no such label.
    fn at(&self, slot: usize) -> Option<i64> {
        self.domain(slot).map(|domain| self.counts[domain])
    }
}

/// The same for several labels.
#[derive(Default)]
struct ByKey(BTreeMap<String, Places>);

impl ByKey {
    fn add(&mut self, cache: &Cache, key: &str, slot: usize, n: i64) {
        if !self.0.contains_key(key) {
            self.0.insert(key.to_string(), Places::new(cache, key));
        }
        if let Some(places) = self.0.get_mut(key) {
            places.add(slot, n);
        }
    }

    fn any_at(&self, slot: usize) -> bool {
        self.0.values().any(|places| places.at(slot).is_some_and(|n| n > 0))
    }
}

pub(super) struct InterPodAffinity {
    /// What a required affinity of a pod that runs counts in scores; see InterPodAffinityArgs.
    pub(super) hard_weight: i64,
    pub(super) ignores_preferences_of_others: bool,
}

impl Plugin for InterPodAffinity {
    fn name(&self) -> &'static str {
        "InterPodAffinity"
    }

    fn sharing(&self, pod: &Pod, cache: &Cache) -> Sharing {
        if pod.affinity.is_none() && cache.affine() == 0 {
            return Sharing::Nothing;
        }
        let terms = pod.affinity.as_ref().and(pod.object.at(&["spec", "affinity"]));
        Sharing::With(format!("{}\n{}", pod.namespace(), text_of(&[Some(pod.labels()), terms])))
    }

    fn view(&self, pod: &Arc<Pod>, cache: &Cache) -> Box<dyn View> {
        let own = pod.affinity.clone().unwrap_or_default();
        let places = |terms: &[Term]| terms.iter().map(|t| Places::new(cache, &t.key)).collect();
        let mut view = Surroundings {
            refused: ByKey::default(),
            weights: ByKey::default(),
            avoided: places(&own.anti),
            wanted: places(&own.affinity),
            found: 0,
            itself: own.affinity.iter().all(|t| t.matches(&pod.object, cache.namespaces())),
            pod: pod.clone(),
            own,
            hard_weight: self.hard_weight,
            ignores_preferences_of_others: self.ignores_preferences_of_others,
        };
        let looks_around = pod.affinity.is_some();
        for (slot, node) in cache.nodes() {
            match looks_around {
                true => node.pods.values().for_each(|other| view.count(cache, slot, other, 1)),
                false => node.with_affinity.iter().filter_map(|uid| node.pods.get(uid)).for_each(|other| view.count(cache, slot, other, 1)),
            }
        }
        Box::new(view)
    }
}

/// What of the cluster matters to a pod.
struct Surroundings {
    pod: Arc<Pod>,
    own: Arc<Terms>,
    /// Places from which pods that run keep the pod away.
    refused: ByKey,
    /// For each term, places with pods that the pod wants to be away from.
    avoided: Vec<Places>,
    /// For each wanted term, the places with pods that match all of them.
    wanted: Vec<Places>,
    /// How many such pods there are in places that any of these terms knows.
    found: i64,
    /// The pod's own terms match it, so that it may be the first of its sort.
    itself: bool,
    /// How much places are preferred or avoided.
    weights: ByKey,
    hard_weight: i64,
    ignores_preferences_of_others: bool,
}

const NOT_NEAR: u32 = 1;
const AVOIDS: u32 = 2;
const REFUSED: u32 = 3;

impl Surroundings {
    fn count(&mut self, cache: &Cache, slot: usize, other: &Pod, n: i64) {
        let (spaces, own) = (cache.namespaces(), self.own.clone());
        for (_, places) in own.anti.iter().zip(&mut self.avoided).filter(|(t, _)| t.matches(&other.object, spaces)) {
            places.add(slot, n);
        }
        if !own.affinity.is_empty() && own.affinity.iter().all(|t| t.matches(&other.object, spaces)) {
            for places in &mut self.wanted {
                self.found += if places.domain(slot).is_some() { n } else { 0 };
                places.add(slot, n);
            }
        }
        for (terms, sign) in [(&own.preferred, 1), (&own.preferred_anti, -1)] {
            for term in terms.iter().filter(|t| t.matches(&other.object, spaces)) {
                self.weights.add(cache, &term.key, slot, sign * term.weight * n);
            }
        }
        let Some(theirs) = other.affinity.as_deref() else { return };
        let me = self.pod.object.clone();
        for term in theirs.anti.iter().filter(|t| t.matches(&me, spaces)) {
            self.refused.add(cache, &term.key, slot, n);
        }
        if self.hard_weight > 0 {
            for term in theirs.affinity.iter().filter(|t| t.matches(&me, spaces)) {
                self.weights.add(cache, &term.key, slot, self.hard_weight * n);
            }
        }
        if self.ignores_preferences_of_others && own.preferred.is_empty() && own.preferred_anti.is_empty() {
            return;
        }
        for (terms, sign) in [(&theirs.preferred, 1), (&theirs.preferred_anti, -1)] {
            for term in terms.iter().filter(|t| t.matches(&me, spaces)) {
                self.weights.add(cache, &term.key, slot, sign * term.weight * n);
            }
        }
    }

    fn detail(&self, slot: usize) -> u32 {
        let near = || self.wanted.iter().all(|places| places.at(slot).is_some_and(|n| n > 0));
        let first = || self.itself && self.found == 0 && self.wanted.iter().all(|places| places.domain(slot).is_some());
        if !self.wanted.is_empty() && !near() && !first() {
            return NOT_NEAR;
        }
        if self.avoided.iter().any(|places| places.at(slot).is_some_and(|n| n > 0)) {
            return AVOIDS;
        }
        if self.refused.any_at(slot) { REFUSED } else { 0 }
    }
}

impl View for Surroundings {
    fn changed(&mut self, change: &Change, cache: &Cache) -> bool {
        match change {
            Change::Node(_) | Change::Namespaces => return false,
            Change::Placed(slot, other) if cache.at(*slot).object.is_some() => self.count(cache, *slot, other, 1),
            Change::Removed(slot, other) if cache.at(*slot).object.is_some() => self.count(cache, *slot, other, -1),
            _ => {}
        }
        true
    }

    fn filter(&mut self, _: &Cache, verdicts: &mut Verdicts) {
        if self.wanted.is_empty() && self.avoided.is_empty() && self.refused.0.is_empty() {
            return;
        }
        for slot in verdicts.open().collect::<Vec<_>>() {
            let detail = self.detail(slot);
            if detail != 0 {
                verdicts.refuse(slot, detail);
            }
        }
    }

    fn refusal(&self, _: &Cache, slot: usize) -> Option<Refusal> {
        match self.detail(slot) {
            0 => None,
            NOT_NEAR => Some(Refusal::lasting("node(s) didn't match pod affinity rules")),
            AVOIDS => Some(Refusal::passing("node(s) didn't match pod anti-affinity rules")),
            _ => Some(Refusal::passing("node(s) didn't satisfy existing pods anti-affinity rules")),
        }
    }

    fn score(&mut self, _: &Cache, slots: &[usize]) -> Option<Vec<i64>> {
        let mut scores = vec![0i64; slots.len()];
        for places in self.weights.0.values().filter(|places| places.counts.iter().any(|n| *n != 0)) {
            scores.iter_mut().zip(slots).for_each(|(score, slot)| *score += places.at(*slot).unwrap_or(0));
        }
        let (least, most) = (scores.iter().min().copied()?, scores.iter().max().copied()?);
        (most > least).then(|| scores.iter().map(|s| (s - least) * MAX_SCORE / (most - least)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::testing::*;
    use fram_machinery::object;

    fn term(key: &str) -> Value {
        object!({ "topologyKey": key, "labelSelector": { "matchLabels": { "app": "x" } } })
    }

    fn spec(kind: &str, list: &str, terms: Value) -> Value {
        let mut spec = object!({});
        spec.set(&["affinity", kind, list], terms);
        spec
    }

    const HOST: &str = "kubernetes.io/hostname";

    #[test]
    fn a_pod_goes_where_the_pods_are_that_it_wants_to_be_near() {
        let mut cache = cache(vec![node("a", "4"), node("b", "4")]);
        cache.place(pod("1", object!({})), "b");
        check(&mut cache, spec("podAffinity", REQUIRED, object!([(term(HOST))])), "b");
        let preferred = object!([{ "weight": 100, "podAffinityTerm": (term(HOST)) }]);
        check(&mut cache, spec("podAffinity", PREFERRED, preferred.clone()), "b");
        check(&mut cache, spec("podAntiAffinity", PREFERRED, preferred), "a");
    }

    #[test]
    fn the_first_of_pods_that_want_each_other_may_run_anywhere_with_that_topology() {
        let mut cache = cache(vec![node("a", "4")]);
        check(&mut cache, spec("podAffinity", REQUIRED, object!([(term(HOST))])), "a");
        let none = "0/1 nodes are available: 1 node(s) didn't match pod affinity rules.";
        check(&mut cache, spec("podAffinity", REQUIRED, object!([(term("zone"))])), none);
    }

    #[test]
    fn pods_that_avoid_each_other_are_kept_apart_from_both_sides() {
        let anti = || spec("podAntiAffinity", REQUIRED, object!([(term(HOST))]));
        let mut cache = cache(vec![node("a", "4")]);
        cache.place(pod("1", object!({})), "a");
        check(&mut cache, anti(), "0/1 nodes are available: 1 node(s) didn't match pod anti-affinity rules.");
        cache.place(pod("1", anti()), "a");
        check(&mut cache, object!({}), "0/1 nodes are available: 1 node(s) didn't satisfy existing pods anti-affinity rules.");
    }

    #[test]
    fn a_term_is_about_its_own_namespace_unless_it_names_others() {
        let mut cache = cache(vec![node("a", "4")]);
        cache.place(pod("1", object!({})), "a");
        let mut elsewhere = term(HOST);
        elsewhere.set(&["namespaces"], object!(["other"]));
        check(&mut cache, spec("podAntiAffinity", REQUIRED, object!([elsewhere])), "a");
        let mut any = term(HOST);
        any.set(&["namespaceSelector"], object!({}));
        cache.set_namespace("ns", Some(Arc::new(object!({ "metadata": { "name": "ns" } }))));
        let refused = "0/1 nodes are available: 1 node(s) didn't match pod anti-affinity rules.";
        check(&mut cache, spec("podAntiAffinity", REQUIRED, object!([any])), refused);
    }
}
