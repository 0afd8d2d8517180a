//! What Services select: pods that have no owner are spread as those of their Services. Pure; see upstream's helper.DefaultSelector.

use std::collections::{BTreeMap, HashMap};

use fram_machinery::{Value, meta};

use crate::pod::Pod;

/// By namespace and key, the labels that each asks for; of those that ask for any.
#[derive(Debug, Default)]
pub(crate) struct Services(HashMap<String, HashMap<String, Vec<(String, String)>>>);

impl Services {
    /// Takes in a Service as it is, or that it is gone.
    pub(crate) fn set(&mut self, key: &str, service: Option<&Value>) {
        let namespace = key.split_once('/').map_or("", |(namespace, _)| namespace);
        let selector = service.and_then(|service| service.at(&["spec", "selector"])?.as_map());
        let labels = selector.into_iter().flat_map(|labels| labels.iter());
        let labels: Vec<_> = labels.map(|(label, value)| (label.to_string(), value.as_str().unwrap_or_default().to_string())).collect();
        if !labels.is_empty() {
            self.0.entry(namespace.into()).or_default().insert(key.into(), labels);
        } else if let Some(others) = self.0.get_mut(namespace) {
            others.remove(key);
            if others.is_empty() {
                self.0.remove(namespace);
            }
        }
    }

    /// All labels that the Services of a pod ask for, in the order of their names; None where it has no Service.
    pub(crate) fn labels_of(&self, pod: &Pod) -> Option<Value> {
        let selects = |labels: &&Vec<(String, String)>| labels.iter().all(|(label, value)| meta::label(&pod.object, label) == Some(value));
        let asked = self.0.get(pod.namespace())?.values().filter(selects).flatten();
        let all: BTreeMap<&str, &str> = asked.map(|(label, value)| (label.as_str(), value.as_str())).collect();
        let mut labels = Value::default();
        all.iter().for_each(|(label, value)| labels.set(&[label], *value));
        (!all.is_empty()).then_some(labels)
    }
}

#[cfg(test)]
mod tests {
    use fram_machinery::object;

    use super::*;

    #[test]
    fn a_pod_has_the_labels_that_all_of_its_services_ask_for() {
        let mut services = Services::default();
        let service = |selector: Value| object!({ "spec": { "selector": selector } });
        let pod = |namespace: &str| {
            let labels = object!({ "app": "x", "tier": "front", "more": "m" });
            Pod::alone(object!({ "metadata": { "namespace": namespace, "name": "p", "labels": labels } }))
        };
        for (key, selector) in [
            ("n/tier", object!({ "tier": "front" })),
            ("n/app", object!({ "app": "x" })),
            ("n/other", object!({ "app": "y", "more": "m" })),
            ("n/none", Value::Null),
            ("n/empty", object!({})),
        ] {
            services.set(key, Some(&service(selector)));
        }
        assert_eq!(services.labels_of(&pod("n")), Some(object!({ "app": "x", "tier": "front" })));
        assert_eq!(services.labels_of(&pod("m")), None);
        services.set("n/app", Some(&service(Value::Null)));
        assert_eq!(services.labels_of(&pod("n")), Some(object!({ "tier": "front" })));
        services.set("n/tier", None);
        assert_eq!(services.labels_of(&pod("n")), None);
    }
}
