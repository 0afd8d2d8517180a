//! InterPodAffinity: pods that want to be near others, or away from them. See upstream's plugin interpodaffinity.

use std::collections::HashMap;
use std::sync::Arc;

use fram_machinery::labels::Selector;
use fram_machinery::{Value, meta, object};

use crate::framework::{Cluster, MAX_SCORE, Plugin, Refusal};
use crate::node::Node;
use crate::pod::Pod;

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
/// What a required affinity of a pod that runs counts in scores; see InterPodAffinityArgs.
const HARD_WEIGHT: i64 = 1;

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
        let mut selector = term.get("labelSelector").filter(|s| !s.is_null())?.clone();
        // KEP-3633: these keys select pods with, or without, the pod's own values.
        for (field, operator) in [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")] {
            for key in term.list_at(&[field]).iter().filter_map(Value::as_str) {
                if let Some(value) = meta::label(pod, key) {
                    let expression = object!({ "key": key, "operator": operator, "values": [value] });
                    selector.place(&["matchExpressions"]).make_list().push(expression);
                }
            }
        }
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

/// Pods by the place where they are: the key of a topology and a node's value for it.
type Places = HashMap<(String, String), i64>;

/// What of the cluster matters for one pod, counted once for each cycle.
#[derive(Debug, Default)]
pub(crate) struct Surroundings {
    /// Places from which pods that run keep the pod away.
    refused: Places,
    /// Places with pods that the pod wants to be away from.
    avoided: Places,
    /// For each wanted term, the places with pods that match all of them.
    wanted: Vec<Places>,
    /// The pod's own terms match it, so that it may be the first of its sort.
    itself: bool,
}

fn place(node: &Node, key: &str) -> Option<(String, String)> {
    node.labels().get(key).and_then(Value::as_str).map(|value| (key.to_string(), value.to_string()))
}

impl Surroundings {
    pub(crate) fn of(pod: &Pod, nodes: &[&Node], namespaces: &HashMap<String, Arc<Value>>) -> Self {
        let none = Terms::default();
        let own = pod.affinity.as_deref().unwrap_or(&none);
        let wants_all = |other: &Value| own.affinity.iter().all(|t| t.matches(other, namespaces));
        let mut out = Self { wanted: vec![Places::new(); own.affinity.len()], ..Self::default() };
        out.itself = wants_all(&pod.object);
        for node in nodes {
            for other in node.with_affinity.iter().filter_map(|uid| node.pods.get(uid)) {
                for term in other.affinity.iter().flat_map(|t| &t.anti).filter(|t| t.matches(&pod.object, namespaces)) {
                    place(node, &term.key).into_iter().for_each(|at| *out.refused.entry(at).or_default() += 1);
                }
            }
            if own.affinity.is_empty() && own.anti.is_empty() {
                continue;
            }
            for other in node.pods.values() {
                for term in own.anti.iter().filter(|t| t.matches(&other.object, namespaces)) {
                    place(node, &term.key).into_iter().for_each(|at| *out.avoided.entry(at).or_default() += 1);
                }
                if !own.affinity.is_empty() && wants_all(&other.object) {
                    for (term, places) in own.affinity.iter().zip(&mut out.wanted) {
                        place(node, &term.key).into_iter().for_each(|at| *places.entry(at).or_default() += 1);
                    }
                }
            }
        }
        out
    }

    fn refuses(&self, pod: &Pod, node: &Node) -> Result<(), Refusal> {
        let labels = node.labels().as_map();
        let here = |places: &Places| {
            !places.is_empty()
                && labels.is_some_and(|l| {
                    l.iter().any(|(k, v)| v.as_str().is_some_and(|v| places.contains_key(&(k.to_string(), v.to_string()))))
                })
        };
        let Some(own) = pod.affinity.as_deref().filter(|t| !t.affinity.is_empty()) else {
            return self.keeps_away(&here);
        };
        let near = own.affinity.iter().zip(&self.wanted).all(|(t, places)| place(node, &t.key).is_some_and(|at| places.contains_key(&at)));
        let has_keys = own.affinity.iter().all(|t| place(node, &t.key).is_some());
        let first = self.itself && self.wanted.iter().all(HashMap::is_empty);
        if !(near || first && has_keys) {
            return Err(Refusal::lasting("node(s) didn't match pod affinity rules"));
        }
        self.keeps_away(&here)
    }

    fn keeps_away(&self, here: &impl Fn(&Places) -> bool) -> Result<(), Refusal> {
        if here(&self.avoided) {
            return Err(Refusal::passing("node(s) didn't match pod anti-affinity rules"));
        }
        if here(&self.refused) {
            return Err(Refusal::passing("node(s) didn't satisfy existing pods anti-affinity rules"));
        }
        Ok(())
    }
}

pub(super) struct InterPodAffinity;

impl Plugin for InterPodAffinity {
    fn name(&self) -> &'static str {
        "InterPodAffinity"
    }

    fn weight(&self) -> i64 {
        2
    }

    fn filter(&self, pod: &Pod, node: &Node, cluster: &Cluster<'_>) -> Result<(), Refusal> {
        cluster.surroundings(pod).refuses(pod, node)
    }

    fn score(&self, pod: &Pod, nodes: &[&Node], cluster: &Cluster<'_>) -> Option<Vec<i64>> {
        let none = Terms::default();
        let own = pod.affinity.as_deref().unwrap_or(&none);
        let asks = !own.preferred.is_empty() || !own.preferred_anti.is_empty();
        let mut weights = Places::new();
        let mut add = |node: &Node, term: &Term, weight: i64| {
            place(node, &term.key).into_iter().for_each(|at| *weights.entry(at).or_default() += weight);
        };
        let spaces = cluster.namespaces;
        for node in &cluster.nodes {
            let others: Box<dyn Iterator<Item = &Arc<Pod>>> = match asks {
                true => Box::new(node.pods.values()),
                false => Box::new(node.with_affinity.iter().filter_map(|uid| node.pods.get(uid))),
            };
            for other in others {
                own.preferred.iter().filter(|t| t.matches(&other.object, spaces)).for_each(|t| add(node, t, t.weight));
                own.preferred_anti.iter().filter(|t| t.matches(&other.object, spaces)).for_each(|t| add(node, t, -t.weight));
                let Some(theirs) = other.affinity.as_deref() else { continue };
                theirs.affinity.iter().filter(|t| t.matches(&pod.object, spaces)).for_each(|t| add(node, t, HARD_WEIGHT));
                theirs.preferred.iter().filter(|t| t.matches(&pod.object, spaces)).for_each(|t| add(node, t, t.weight));
                theirs.preferred_anti.iter().filter(|t| t.matches(&pod.object, spaces)).for_each(|t| add(node, t, -t.weight));
            }
        }
        if weights.is_empty() {
            return None;
        }
        let score = |node: &&Node| -> i64 {
            weights.iter().filter(|((key, value), _)| node.labels().get(key).and_then(Value::as_str) == Some(value)).map(|(_, w)| w).sum()
        };
        let scores: Vec<i64> = nodes.iter().map(score).collect();
        let (least, most) = (scores.iter().min().copied().unwrap_or(0), scores.iter().max().copied().unwrap_or(0));
        Some(scores.iter().map(|s| if most == least { 0 } else { (s - least) * MAX_SCORE / (most - least) }).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::testing::*;

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
        check(&cache, spec("podAffinity", REQUIRED, object!([(term(HOST))])), "b");
        let preferred = object!([{ "weight": 100, "podAffinityTerm": (term(HOST)) }]);
        check(&cache, spec("podAffinity", PREFERRED, preferred.clone()), "b");
        check(&cache, spec("podAntiAffinity", PREFERRED, preferred), "a");
    }

    #[test]
    fn the_first_of_pods_that_want_each_other_may_run_anywhere_with_that_topology() {
        let cache = cache(vec![node("a", "4")]);
        check(&cache, spec("podAffinity", REQUIRED, object!([(term(HOST))])), "a");
        let none = "0/1 nodes are available: 1 node(s) didn't match pod affinity rules.";
        check(&cache, spec("podAffinity", REQUIRED, object!([(term("zone"))])), none);
    }

    #[test]
    fn pods_that_avoid_each_other_are_kept_apart_from_both_sides() {
        let anti = || spec("podAntiAffinity", REQUIRED, object!([(term(HOST))]));
        let mut cache = cache(vec![node("a", "4")]);
        cache.place(pod("1", object!({})), "a");
        check(&cache, anti(), "0/1 nodes are available: 1 node(s) didn't match pod anti-affinity rules.");
        cache.place(pod("1", anti()), "a");
        check(&cache, object!({}), "0/1 nodes are available: 1 node(s) didn't satisfy existing pods anti-affinity rules.");
    }

    #[test]
    fn a_term_is_about_its_own_namespace_unless_it_names_others() {
        let mut cache = cache(vec![node("a", "4")]);
        cache.place(pod("1", object!({})), "a");
        let mut elsewhere = term(HOST);
        elsewhere.set(&["namespaces"], object!(["other"]));
        check(&cache, spec("podAntiAffinity", REQUIRED, object!([elsewhere])), "a");
        let mut any = term(HOST);
        any.set(&["namespaceSelector"], object!({}));
        cache.namespaces.insert("ns".into(), Arc::new(object!({ "metadata": { "name": "ns" } })));
        let refused = "0/1 nodes are available: 1 node(s) didn't match pod anti-affinity rules.";
        check(&cache, spec("podAntiAffinity", REQUIRED, object!([any])), refused);
    }
}
