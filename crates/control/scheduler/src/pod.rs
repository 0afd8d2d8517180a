//! What the scheduler needs to know of a pod, read once.

use std::collections::BTreeMap;
use std::sync::Arc;

use fram_machinery::quantity::Quantity;
use fram_machinery::{Value, meta};

use crate::plugins::Terms;

/// Amounts by resource name: cpu in thousandths, everything else in whole units.
pub(crate) type Amounts = BTreeMap<String, i64>;

/// A host port that a pod occupies: address, protocol, number.
pub(crate) type HostPort = (String, String, i64);

#[derive(Debug, Clone)]
pub(crate) struct Pod {
    pub(crate) object: Arc<Value>,
    pub(crate) key: String,
    pub(crate) uid: String,
    pub(crate) priority: i64,
    pub(crate) requests: Amounts,
    pub(crate) ports: Vec<HostPort>,
    pub(crate) affinity: Option<Arc<Terms>>,
}

pub(crate) fn amount(name: &str, text: &Value) -> i64 {
    let quantity = text.as_str().and_then(|t| t.parse::<Quantity>().ok()).unwrap_or(Quantity::zero());
    if name == "cpu" { quantity.milli_value() } else { quantity.value() }
}

pub(crate) fn amounts(map: Option<&Value>) -> Amounts {
    let map = map.and_then(Value::as_map);
    map.into_iter().flat_map(|m| m.iter()).map(|(k, v)| (k.to_string(), amount(k, v))).collect()
}

pub(crate) fn add(into: &mut Amounts, other: &Amounts) {
    for (name, n) in other {
        *into.entry(name.clone()).or_default() += n;
    }
}

fn at_least(into: &mut Amounts, other: &Amounts) {
    for (name, n) in other {
        let held = into.entry(name.clone()).or_default();
        *held = (*held).max(*n);
    }
}

/// What a pod asks of a node: the sum of its containers, or what an init container needs with the sidecars started before
/// it, whichever is more, plus overhead. See upstream's resourcehelpers.PodRequests.
///
/// While a pod is resized, each container counts with the most of what it asks for, what it was granted and what it runs with; one
/// whose resize the node cannot give, without what it asks for (KEP-1287).
fn requests(pod: &Value) -> Amounts {
    let infeasible = meta::condition(pod, "PodResizePending").is_some_and(|c| c.str_at(&["reason"]) == "Infeasible");
    let statuses = || ["containerStatuses", "initContainerStatuses"].into_iter().flat_map(|list| pod.list_at(&["status", list]));
    let of = |c: &Value| {
        let asked = amounts(c.at(&["resources", "requests"]));
        let Some(status) = statuses().find(|s| s.str_at(&["name"]) == c.str_at(&["name"])) else { return asked };
        let mut most = amounts(status.at(&["resources", "requests"]));
        at_least(&mut most, &amounts(status.get("allocatedResources")));
        if most.is_empty() || !infeasible {
            at_least(&mut most, &asked);
        }
        most
    };
    let mut total = Amounts::new();
    for container in pod.list_at(&["spec", "containers"]) {
        add(&mut total, &of(container));
    }
    let (mut sidecars, mut peak) = (Amounts::new(), Amounts::new());
    for container in pod.list_at(&["spec", "initContainers"]) {
        let mut needs = of(container);
        if container.str_at(&["restartPolicy"]) == "Always" {
            add(&mut total, &needs);
            add(&mut sidecars, &needs);
            needs = sidecars.clone();
        } else {
            add(&mut needs, &sidecars);
        }
        at_least(&mut peak, &needs);
    }
    at_least(&mut total, &peak);
    for (name, n) in amounts(pod.at(&["spec", "resources", "requests"])) {
        total.insert(name, n);
    }
    add(&mut total, &amounts(pod.at(&["spec", "overhead"])));
    total
}

fn host_ports(pod: &Value) -> Vec<HostPort> {
    let sidecars = pod.list_at(&["spec", "initContainers"]).iter().filter(|c| c.str_at(&["restartPolicy"]) == "Always");
    let ports = pod.list_at(&["spec", "containers"]).iter().chain(sidecars).flat_map(|c| c.list_at(&["ports"]));
    let taken = ports.filter_map(|p| p.int_at(&["hostPort"]).filter(|n| *n > 0).map(|n| (p, n)));
    taken
        .map(|(p, number)| {
            let ip = Some(p.str_at(&["hostIP"])).filter(|ip| !ip.is_empty()).unwrap_or("0.0.0.0");
            (ip.to_string(), p.str_at(&["protocol"]).to_string(), number)
        })
        .collect()
}

impl Pod {
    pub(crate) fn new(object: Arc<Value>) -> Self {
        Self {
            key: meta::key(&object),
            uid: meta::uid(&object).to_string(),
            priority: object.int_at(&["spec", "priority"]).unwrap_or(0),
            requests: requests(&object),
            ports: host_ports(&object),
            affinity: Terms::of(&object).map(Arc::new),
            object,
        }
    }

    pub(crate) fn node(&self) -> &str {
        self.object.str_at(&["spec", "nodeName"])
    }

    /// Whether the pod has ended and holds nothing any more.
    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.object.str_at(&["status", "phase"]), "Succeeded" | "Failed")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fram_machinery::object;

    #[test]
    fn init_containers_count_with_the_sidecars_before_them() {
        let request = |cpu: &str| object!({ "requests": { "cpu": cpu } });
        let pod = object!({ "spec": {
            "containers": [{ "resources": (request("1")) }, { "resources": (request("500m")) }],
            "initContainers": [{ "restartPolicy": "Always", "resources": (request("200m")) }, { "resources": (request("2")) }],
            "overhead": { "cpu": "100m" } } });
        assert_eq!(requests(&pod)["cpu"], 2300);
    }

    #[test]
    fn a_pod_that_is_resized_counts_with_the_most_of_what_it_asks_for_and_has() {
        let with = |asked: &str, reason: &str| {
            requests(&object!({
                "spec": { "containers": [{ "name": "c", "resources": { "requests": { "cpu": asked } } }] },
                "status": {
                    "containerStatuses": [{ "name": "c", "allocatedResources": { "cpu": "2" }, "resources": { "requests": { "cpu": "1" } } }],
                    "conditions": [{ "type": "PodResizePending", "status": "True", "reason": reason }]
                }
            }))["cpu"]
        };
        assert_eq!((with("1", "Deferred"), with("3", "Deferred"), with("3", "Infeasible")), (2000, 3000, 2000));
    }
}
