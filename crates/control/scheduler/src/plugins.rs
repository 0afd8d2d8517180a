//! The plugins of the default profile, in the order in which they filter.

mod affinity;
mod attachments;
mod devices;
mod features;
mod images;
mod interpod;
mod per_node;
mod ports;
mod resources;
mod spreading;
mod taints;
mod volumes;

use std::sync::Arc;

use fram_machinery::{Value, meta, object};

pub(crate) use affinity::term_matches;
pub(crate) use images::of_node as images_of_node;
pub(crate) use interpod::Terms;
pub(crate) use resources::{Fit, Ranking};

use crate::devices::Grants;
use crate::framework::Plugin;
use crate::node::Node;
use crate::pod::Pod;

/// A plugin in a profile.
#[derive(Clone)]
pub(crate) struct Slot {
    pub(crate) plugin: Arc<dyn Plugin>,
    /// How much its scores count; 0 where it does not score.
    pub(crate) weight: i64,
    pub(crate) filters: bool,
}

/// What the plugins of a profile are told; see kubescheduler.config.k8s.io/v1.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Arguments {
    pub(crate) fit: Fit,
    /// Of which resources the shares are balanced.
    pub(crate) balanced: Vec<String>,
    /// A NodeAffinity that counts beside each pod's own.
    pub(crate) added_affinity: Value,
    /// Constraints for pods that have none; None for the system's own.
    pub(crate) spreading: Option<Vec<Value>>,
    /// What a required affinity of a pod that runs counts in scores.
    pub(crate) hard_pod_affinity_weight: i64,
    pub(crate) ignore_preferred_terms_of_existing_pods: bool,
    pub(crate) devices: Grants,
}

impl Default for Arguments {
    fn default() -> Self {
        Self {
            fit: Fit::default(),
            balanced: vec!["cpu".into(), "memory".into()],
            added_affinity: Value::Null,
            spreading: None,
            hard_pod_affinity_weight: 1,
            ignore_preferred_terms_of_existing_pods: false,
            devices: Grants::default(),
        }
    }
}

/// All plugins that filter or score, as the default profile has them.
pub(crate) fn standard(arguments: &Arguments) -> Vec<Slot> {
    let slot = |plugin: Arc<dyn Plugin>, weight: i64, filters: bool| Slot { plugin, weight, filters };
    let added = arguments.added_affinity.clone();
    vec![
        slot(Arc::new(taints::NodeUnschedulable), 0, true),
        slot(Arc::new(affinity::NodeName), 0, true),
        slot(Arc::new(taints::TaintToleration), 3, true),
        slot(Arc::new(affinity::NodeAffinity { added }), 2, true),
        slot(Arc::new(ports::NodePorts), 0, true),
        slot(Arc::new(resources::NodeResourcesFit { arguments: arguments.fit.clone() }), 1, true),
        slot(Arc::new(attachments::VolumeRestrictions), 0, true),
        slot(Arc::new(attachments::NodeVolumeLimits), 0, true),
        slot(Arc::new(volumes::VolumeBinding), 0, true),
        slot(Arc::new(attachments::VolumeZone), 0, true),
        slot(Arc::new(spreading::PodTopologySpread { defaults: arguments.spreading.clone() }), 2, true),
        slot(
            Arc::new(interpod::InterPodAffinity {
                hard_weight: arguments.hard_pod_affinity_weight,
                ignores_preferences_of_others: arguments.ignore_preferred_terms_of_existing_pods,
            }),
            2,
            true,
        ),
        slot(Arc::new(devices::DynamicResources { limits: arguments.devices }), 2, true),
        slot(Arc::new(resources::BalancedAllocation { resources: arguments.balanced.clone() }), 1, false),
        slot(Arc::new(images::ImageLocality), 1, false),
        slot(Arc::new(features::NodeDeclaredFeatures), 0, true),
    ]
}

/// Whether the node itself lets the pod in, whatever else is there.
pub(crate) fn admits(pod: &Pod, node: &Node) -> bool {
    affinity::required_matches(&pod.object, node) && taints::tolerates_all(pod, node) && !taints::cordoned_for(pod, node)
}

/// The label selector of a term or constraint, narrowed by the pod's own values of some labels: `matchLabelKeys` and
/// `mismatchLabelKeys` (KEP-3243, KEP-3633).
fn with_label_keys(pod: &Value, selector: &Value, term: &Value) -> Value {
    let mut selector = selector.clone();
    for (field, operator) in [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")] {
        for key in term.list_at(&[field]).iter().filter_map(Value::as_str) {
            if let Some(value) = meta::label(pod, key) {
                let expression = object!({ "key": key, "operator": operator, "values": [value] });
                selector.place(&["matchExpressions"]).make_list().push(expression);
            }
        }
    }
    selector
}

/// A text that is the same for equal parts of pods.
fn text_of(parts: &[Option<&Value>]) -> String {
    let mut text = Vec::new();
    for part in parts {
        text.extend(fram_machinery::json::to_vec(part.unwrap_or(&Value::Null)));
        text.push(b'\n');
    }
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
pub(crate) mod testing {
    //! Small clusters for the tests of plugins.
    use std::sync::Arc;

    use fram_machinery::{Value, object};

    use super::{Arguments, standard};
    use crate::cache::Cache;
    use crate::framework::{Filtered, Framework, Outcome, best};
    use crate::pod::Pod;

    pub(crate) fn node(name: &str, cpu: &str) -> Value {
        object!({ "metadata": { "name": name, "labels": { "kubernetes.io/hostname": name } },
            "status": { "allocatable": { "cpu": cpu, "memory": "4Gi", "pods": "110" } } })
    }

    pub(crate) fn pod(uid: &str, spec: Value) -> Arc<Pod> {
        let object = object!({ "metadata": { "name": uid, "namespace": "ns", "uid": uid, "labels": { "app": "x" } }, "spec": spec });
        Arc::new(Pod::alone(object))
    }

    pub(crate) fn cache(nodes: Vec<Value>) -> Cache {
        let mut cache = Cache::default();
        for node in nodes {
            let node = Arc::new(node);
            cache.set_node(node.str_at(&["metadata", "name"]), node.clone());
        }
        cache
    }

    pub(crate) fn framework() -> Framework {
        Framework::new(standard(&Arguments::default()), 0)
    }

    /// The nodes that take a pod, or why none does.
    pub(crate) fn filter(framework: &mut Framework, pod: &Arc<Pod>, cache: &mut Cache) -> Filtered {
        match framework.prepare(pod, cache) {
            Ok(attempt) => framework.filter(attempt, cache),
            Err(outcome) => Filtered::unseen(pod, outcome),
        }
    }

    /// The node that is chosen for a pod, or why none is.
    pub(crate) fn schedule(framework: &mut Framework, pod: &Arc<Pod>, cache: &mut Cache) -> String {
        match filter(framework, pod, cache) {
            Filtered::Feasible(mut attempt, slots) => {
                let totals = framework.score(&mut attempt, cache, &slots);
                framework.end(attempt);
                cache.at(best(&slots, &totals, 0).unwrap()).name().to_string()
            }
            Filtered::None(attempt, outcome) => {
                framework.end(attempt);
                match outcome {
                    Outcome::Unschedulable { nodes, reasons, .. } => reasons.message(nodes),
                    Outcome::Premature { reason, .. } => reason,
                }
            }
        }
    }

    #[track_caller]
    pub(crate) fn check(cache: &mut Cache, spec: Value, expect: &str) {
        check_with(&mut framework(), cache, spec, expect);
    }

    #[track_caller]
    pub(crate) fn check_with(framework: &mut Framework, cache: &mut Cache, spec: Value, expect: &str) {
        assert_eq!(schedule(framework, &pod("new", spec), cache), expect);
    }
}
