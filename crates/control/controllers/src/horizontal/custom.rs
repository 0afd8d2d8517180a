//! Metrics of pods, objects and external systems, which adapters serve: how they are asked for, and how many replicas they ask for.
//! Pure; see replica_calculator.go and the clients of custom and external metrics.

use std::sync::Arc;

use fram_client::{ListOptions, Resource};
use fram_machinery::labels::Selector;
use fram_machinery::quantity::Quantity;
use fram_machinery::{Value, meta, object};
use jiff::Timestamp;

use super::replicas::{self, Metric, Proposal, Target, Tolerance};
use crate::context::KindInfo;

const CUSTOM: &str = "custom.metrics.k8s.io";
/// The first that is served is asked.
pub(super) const CUSTOM_VERSIONS: [&str; 2] = ["v1beta2", "v1beta1"];
const EXTERNAL: Resource = Resource::new("external.metrics.k8s.io", "v1beta1", "");

/// A metric as an adapter is asked for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Question {
    /// Of custom metrics in whichever version is served.
    pub(super) resource: Resource,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) subresource: String,
    pub(super) labels: String,
    pub(super) metric_labels: String,
}

impl Question {
    pub(super) fn options(&self) -> ListOptions {
        ListOptions { label_selector: self.labels.clone(), metric_selector: self.metric_labels.clone(), ..Default::default() }
    }

    pub(super) fn is_custom(&self) -> bool {
        self.resource.group == CUSTOM
    }
}

/// The field of a metric that says what it is of.
pub(super) fn field(metric: &Value) -> Option<&'static str> {
    match metric.str_at(&["type"]) {
        "Pods" => Some("pods"),
        "Object" => Some("object"),
        "External" => Some("external"),
        _ => None,
    }
}

/// The kind that a reference names.
pub(super) fn kind<'a>(reference: &Value, mut kinds: impl Iterator<Item = &'a KindInfo>) -> Result<KindInfo, String> {
    let (of, group) = (reference.str_at(&["kind"]), reference.str_at(&["apiVersion"]).rsplit_once('/').map_or("", |(group, _)| group));
    let found = kinds.find(|k| k.kind == of && k.resource.group == group);
    found.cloned().ok_or_else(|| format!("no matches for kind {of:?} in group {group:?}"))
}

/// What to ask for a metric of a scaler in `namespace` whose pods have the labels `pods`; `kind` knows what a reference names.
pub(super) fn question(
    metric: &Value,
    namespace: &str,
    pods: &str,
    kind: impl Fn(&Value) -> Result<KindInfo, String>,
) -> Result<Question, String> {
    let field = field(metric).unwrap_or_default();
    let name = metric.str_at(&[field, "metric", "name"]).to_string();
    let selector = Selector::from_object(metric.at(&[field, "metric", "selector"])).map_err(|e| e.to_string())?;
    let metric_labels = selector.filter(|s| !s.is_everything()).map(|s| s.to_string()).unwrap_or_default();
    let custom = |plural: String| Resource { group: CUSTOM.into(), version: CUSTOM_VERSIONS[0].into(), plural: plural.into() };
    let asked = |resource, name: &str, subresource| Question {
        resource,
        namespace: namespace.into(),
        name: name.into(),
        subresource,
        labels: String::new(),
        metric_labels: metric_labels.clone(),
    };
    match field {
        "external" => {
            let resource = Resource { plural: name.into(), ..EXTERNAL };
            Ok(Question { labels: metric_labels.clone(), metric_labels: String::new(), ..asked(resource, "", String::new()) })
        }
        "pods" => Ok(Question { labels: pods.into(), ..asked(custom("pods".into()), "*", name) }),
        _ => {
            let described = metric.at(&["object", "describedObject"]).unwrap_or(&Value::Null);
            let kind = kind(described)?;
            let (of, group) = (|part: &str| described.str_at(&[part]), &*kind.resource.group);
            if kind.kind == "Namespace" && group.is_empty() {
                return Ok(Question { namespace: of("name").into(), ..asked(custom("metrics".into()), &name, String::new()) });
            }
            let plural = if group.is_empty() { kind.resource.plural.to_string() } else { format!("{}.{group}", kind.resource.plural) };
            let namespace = if kind.namespaced { namespace } else { "" };
            Ok(Question { namespace: namespace.into(), ..asked(custom(plural), of("name"), name) })
        }
    }
}

fn milli(value: Option<&Value>) -> Option<i64> {
    value?.as_str()?.parse::<Quantity>().ok().map(|q| q.milli_value())
}

/// What the scaler's target has now.
pub(super) struct Now<'a> {
    pub(super) current: i64,
    /// As its status says.
    pub(super) replicas: i64,
    pub(super) pods: &'a [Arc<Value>],
    pub(super) tolerance: Tolerance,
    pub(super) at: Timestamp,
}

/// The replicas that a metric asks for, with what was measured, and the entry of the status about it.
pub(super) fn propose(metric: &Value, answers: &[Arc<Value>], now: &Now) -> Result<(Proposal, Value), String> {
    let field = field(metric).unwrap_or_default();
    let target = |kind: &str| milli(metric.at(&[field, "target", kind])).filter(|n| *n > 0);
    let average = target("averageValue");
    let (proposal, shown) = match (field, average, target("value")) {
        ("pods", Some(average), _) => (of_pods(average, answers, now)?, "averageValue"),
        ("object" | "external", Some(average), _) => (shared(total(answers)?, average, now), "averageValue"),
        ("object" | "external", None, Some(value)) => (whole(total(answers)?, value, now), "value"),
        _ => return Err("neither a value target nor an average value target was set".into()),
    };
    let mut part = object!({ "metric": (metric.at(&[field, "metric"]).cloned().unwrap_or_default()) });
    part.set(&["current", shown], Quantity::from_milli(proposal.average).to_string());
    if let Some(described) = metric.at(&[field, "describedObject"]) {
        part.set(&["describedObject"], described.clone());
    }
    let mut entry = object!({ "type": (metric.str_at(&["type"])) });
    entry.set(&[field], part);
    Ok((proposal, entry))
}

fn total(answers: &[Arc<Value>]) -> Result<i64, String> {
    if answers.is_empty() {
        return Err("no metrics returned from the metrics API".into());
    }
    let mut values = answers.iter().map(|a| milli(a.get("value")).ok_or_else(|| "a value is no quantity".to_string()));
    values.try_fold(0_i64, |sum, value| Ok(sum.saturating_add(value?)))
}

/// Each pod has its own; as resources are counted, by the same rules for pods that are not ready or not measured.
fn of_pods(average: i64, answers: &[Arc<Value>], now: &Now) -> Result<Proposal, String> {
    const NAME: &str = "value";
    let measured = |answer: &Arc<Value>| {
        let usage = object!({ "value": (answer.get(NAME).cloned().unwrap_or_default()) });
        Arc::new(object!({ "metadata": { "name": (answer.str_at(&["describedObject", "name"])) }, "containers": [{ "usage": usage }] }))
    };
    let metrics: Vec<Arc<Value>> = answers.iter().map(measured).collect();
    let metric = Metric { resource: NAME, container: None, target: Target::Average(average) };
    replicas::propose(&metric, now.current, now.pods, &metrics, now.tolerance, now.at)
}

/// One value for all of them, which each replica changes: see getUsageRatioReplicaCount.
fn whole(usage: i64, target: i64, now: &Now) -> Proposal {
    let ratio = usage as f64 / target as f64;
    let is_ready = |p: &&Arc<Value>| p.str_at(&["status", "phase"]) == "Running" && meta::condition_is_true(p, "Ready");
    let ready = now.pods.iter().filter(is_ready).count();
    let replicas = if now.tolerance.covers(ratio) { now.current } else { (ratio * ready as f64).ceil() as i64 };
    Proposal { replicas, utilization: None, average: usage }
}

/// One value that the replicas share; see GetExternalPerPodMetricReplicas.
fn shared(usage: i64, target: i64, now: &Now) -> Proposal {
    let replicas = now.replicas.max(1);
    let ratio = usage as f64 / (target as f64 * replicas as f64);
    let wanted = if now.tolerance.covers(ratio) { now.replicas } else { (usage as f64 / target as f64).ceil() as i64 };
    Proposal { replicas: wanted, utilization: None, average: (usage as f64 / replicas as f64).ceil() as i64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready(count: usize) -> Vec<Arc<Value>> {
        let pod = |i| {
            Arc::new(object!({ "metadata": { "name": (format!("p{i}")) },
                "status": { "phase": "Running", "startTime": "2026-01-01T00:00:00Z", "conditions": [{ "type": "Ready", "status": "True" }] } }))
        };
        (0..count).map(pod).collect()
    }

    fn check(metric: &Value, values: &[&str], replicas: usize) -> Result<(i64, Value), String> {
        let answer =
            |(i, value): (usize, &&str)| Arc::new(object!({ "describedObject": { "name": (format!("p{i}")) }, "value": (*value) }));
        let answers: Vec<_> = values.iter().enumerate().map(answer).collect();
        let now = Now {
            current: replicas as i64,
            replicas: replicas as i64,
            pods: &ready(replicas),
            tolerance: Tolerance { up: 0.1, down: 0.1 },
            at: "2026-01-01T01:00:00Z".parse().unwrap(),
        };
        propose(metric, &answers, &now).map(|(proposal, entry)| (proposal.replicas, entry))
    }

    fn external(target: Value) -> Value {
        object!({ "type": "External", "external": { "metric": { "name": "queue" }, "target": target } })
    }

    #[test]
    fn a_value_is_shared_or_is_everybodys() {
        let value = external(object!({ "type": "Value", "value": "10" }));
        let average = external(object!({ "type": "AverageValue", "averageValue": "10" }));
        assert_eq!(check(&value, &["15", "5"], 2).unwrap().0, 4);
        assert_eq!(check(&value, &["10500m"], 2).unwrap().0, 2);
        let (replicas, entry) = check(&average, &["45"], 2).unwrap();
        assert_eq!(replicas, 5);
        assert_eq!(entry.at(&["external", "current"]), Some(&object!({ "averageValue": "22500m" })));
        assert_eq!(check(&average, &["19"], 2).unwrap().0, 2);
        assert!(check(&average, &[], 2).is_err());
    }

    #[test]
    fn metrics_of_pods_are_averaged_over_them() {
        let metric = object!({ "type": "Pods", "pods": { "metric": { "name": "rps" }, "target": { "type": "AverageValue", "averageValue": "10" } } });
        assert_eq!(check(&metric, &["20", "20"], 2).unwrap().0, 4);
        // One of three is not measured, and counts as idle.
        assert_eq!(check(&metric, &["20", "20"], 3).unwrap().0, 4);
    }

    #[test]
    fn each_sort_is_asked_for_at_its_place() {
        let service = KindInfo {
            resource: Resource::new("networking.k8s.io", "v1", "ingresses"),
            kind: "Ingress".into(),
            namespaced: true,
            collected: true,
            defined: false,
        };
        let ask = |metric: Value| question(&metric, "ns", "app=a", |described| kind(described, [&service].into_iter()));
        let pods =
            ask(object!({ "type": "Pods", "pods": { "metric": { "name": "rps", "selector": { "matchLabels": { "verb": "get" } } } } }))
                .unwrap();
        assert_eq!((&*pods.resource.plural, pods.name.as_str(), pods.subresource.as_str()), ("pods", "*", "rps"));
        assert_eq!((pods.labels.as_str(), pods.metric_labels.as_str()), ("app=a", "verb=get"));
        let described = object!({ "kind": "Ingress", "apiVersion": "networking.k8s.io/v1", "name": "i" });
        let object = ask(object!({ "type": "Object", "object": { "metric": { "name": "rps" }, "describedObject": described } })).unwrap();
        assert_eq!(
            (&*object.resource.plural, object.name.as_str(), object.subresource.as_str()),
            ("ingresses.networking.k8s.io", "i", "rps")
        );
        let external = ask(
            object!({ "type": "External", "external": { "metric": { "name": "queue", "selector": { "matchLabels": { "q": "x" } } } } }),
        )
        .unwrap();
        assert_eq!((&*external.resource.plural, external.labels.as_str(), external.name.as_str()), ("queue", "q=x", ""));
        let unknown = object!({ "kind": "Nothing", "name": "i" });
        assert!(ask(object!({ "type": "Object", "object": { "metric": { "name": "rps" }, "describedObject": unknown } })).is_err());
    }
}
