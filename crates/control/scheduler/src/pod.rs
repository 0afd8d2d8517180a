//! What the scheduler needs to know of a pod, read once.

use std::collections::HashMap;
use std::sync::Arc;

use fram_machinery::{Key, List, Value, meta};

use crate::amounts::{Amounts, CPU, MEMORY};
use crate::plugins::Terms;

/// A host port that a pod occupies: address, protocol, number.
pub(crate) type HostPort = (String, String, i64);

#[derive(Debug, Clone)]
pub(crate) struct Pod {
    pub(crate) object: Arc<Value>,
    pub(crate) key: String,
    pub(crate) uid: Arc<str>,
    pub(crate) priority: i64,
    pub(crate) asks: Arc<Asks>,
    pub(crate) ports: Vec<HostPort>,
    pub(crate) affinity: Option<Arc<Terms>>,
    /// The UID of the controller that it belongs to.
    pub(crate) owner: Option<Arc<str>>,
}

/// What a pod asks of a node.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Asks {
    pub(crate) requests: Amounts,
    /// cpu and memory as scores count them: containers that ask for nothing count a little.
    pub(crate) scored: Amounts,
    /// Both as text, which pods share that ask for the same.
    pub(crate) text: String,
}

impl Asks {
    fn of(pod: &Value) -> Self {
        let mut missing = Amounts::default();
        *missing.entry(&Key::Static(CPU)) = DEFAULT_MILLI_CPU;
        *missing.entry(&Key::Static(MEMORY)) = DEFAULT_MEMORY;
        let (requests, scored) = (requests(pod, &Amounts::default()), requests(pod, &missing));
        let text = format!("{requests:?}{scored:?}");
        Self { requests, scored, text }
    }
}

/// So many lists of containers are remembered.
const SHAPES: usize = 1024;

/// What pods ask for, by their containers: those that are made from one template have the very same lists in memory.
#[derive(Debug, Default)]
pub(crate) struct Shapes(HashMap<(usize, usize), Shape>);

#[derive(Debug)]
struct Shape {
    /// Held, so that no other list takes their places.
    _containers: List,
    _init_containers: Option<List>,
    asks: Arc<Asks>,
}

impl Shapes {
    fn asks(&mut self, pod: &Value) -> Arc<Asks> {
        let list = |name: &str| pod.at(&["spec", name]).and_then(Value::as_list).cloned();
        let (Some(containers), init_containers) = (list("containers"), list("initContainers")) else { return Arc::new(Asks::of(pod)) };
        let place = |list: &List| list.as_slice().as_ptr() as usize;
        let key = (place(&containers), init_containers.as_ref().map_or(0, place));
        let known = self.0.get(&key).map(|shape| shape.asks.clone());
        // What counts beside the containers.
        let others =
            [&["spec", "overhead"][..], &["spec", "resources"], &["status", "containerStatuses"], &["status", "initContainerStatuses"]];
        let plain = others.iter().all(|path| pod.at(path).is_none_or(Value::is_empty));
        match known {
            Some(asks) if plain => asks,
            known => {
                let asks = Asks::of(pod);
                if let Some(known) = known.filter(|known| **known == asks) {
                    return known;
                }
                let asks = Arc::new(asks);
                if plain {
                    if self.0.len() >= SHAPES {
                        self.0.clear();
                    }
                    self.0.insert(key, Shape { _containers: containers, _init_containers: init_containers, asks: asks.clone() });
                }
                asks
            }
        }
    }
}

/// What a container without requests counts in scores; see schedutil.DefaultMilliCPURequest and DefaultMemoryRequest.
const DEFAULT_MILLI_CPU: i128 = 100;
const DEFAULT_MEMORY: i128 = 200 * 1024 * 1024;

/// What a pod asks of a node: the sum of its containers, or what an init container needs with the sidecars started before
/// it, whichever is more, plus overhead. See upstream's resourcehelpers.PodRequests.
///
/// While a pod is resized, each container counts with the most of what it asks for, what it was granted and what it runs with; one
/// whose resize the node cannot give, without what it asks for (KEP-1287).
fn requests(pod: &Value, missing: &Amounts) -> Amounts {
    let infeasible = meta::condition(pod, "PodResizePending").is_some_and(|c| c.str_at(&["reason"]) == "Infeasible");
    let statuses = || ["containerStatuses", "initContainerStatuses"].into_iter().flat_map(|list| pod.list_at(&["status", list]));
    let of = |c: &Value| {
        let mut asked = Amounts::read(c.at(&["resources", "requests"]));
        missing.iter().filter(|(name, _)| c.at(&["resources", "requests", name]).is_none()).for_each(|(name, n)| *asked.entry(name) = n);
        let Some(status) = statuses().find(|s| s.str_at(&["name"]) == c.str_at(&["name"])) else { return asked };
        let mut most = Amounts::read(status.at(&["resources", "requests"]));
        most.raise(&Amounts::read(status.get("allocatedResources")));
        if most.is_empty() || !infeasible {
            most.raise(&asked);
        }
        most
    };
    let mut total = Amounts::default();
    for container in pod.list_at(&["spec", "containers"]) {
        total.add(&of(container));
    }
    let (mut sidecars, mut peak) = (Amounts::default(), Amounts::default());
    for container in pod.list_at(&["spec", "initContainers"]) {
        let mut needs = of(container);
        if container.str_at(&["restartPolicy"]) == "Always" {
            total.add(&needs);
            sidecars.add(&needs);
            needs = sidecars.clone();
        } else {
            needs.add(&sidecars);
        }
        peak.raise(&needs);
    }
    total.raise(&peak);
    for (name, n) in Amounts::read(pod.at(&["spec", "resources", "requests"])).iter() {
        *total.entry(name) = n;
    }
    total.add(&Amounts::read(pod.at(&["spec", "overhead"])));
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
    pub(crate) fn new(object: Arc<Value>, shapes: &mut Shapes) -> Self {
        let uid = match object.at(&["metadata", "uid"]) {
            Some(Value::String(uid)) => uid.clone(),
            _ => "".into(),
        };
        Self {
            key: meta::key(&object),
            uid: uid.into(),
            priority: object.int_at(&["spec", "priority"]).unwrap_or(0),
            asks: shapes.asks(&object),
            ports: host_ports(&object),
            affinity: Terms::of(&object).map(Arc::new),
            owner: meta::controller_of(&object).map(|o| o.str_at(&["uid"]).into()),
            object,
        }
    }

    /// A pod by itself.
    #[cfg(test)]
    pub(crate) fn alone(object: Value) -> Self {
        Self::new(Arc::new(object), &mut Shapes::default())
    }

    pub(crate) fn node(&self) -> &str {
        self.object.str_at(&["spec", "nodeName"])
    }

    pub(crate) fn namespace(&self) -> &str {
        meta::namespace(&self.object)
    }

    pub(crate) fn labels(&self) -> &Value {
        meta::labels(&self.object)
    }

    /// Whether the pod has ended and holds nothing any more.
    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.object.str_at(&["status", "phase"]), "Succeeded" | "Failed")
    }

    /// Whether it counts on its node as the other, an earlier or later state of the same pod.
    pub(crate) fn counts_as(&self, other: &Pod) -> bool {
        self.asks == other.asks
            && self.ports == other.ports
            && self.priority == other.priority
            && self.labels() == other.labels()
            && self.object.at(&["spec", "affinity"]) == other.object.at(&["spec", "affinity"])
            && meta::is_terminating(&self.object) == meta::is_terminating(&other.object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fram_machinery::object;

    fn cpu(pod: &Value) -> i128 {
        requests(pod, &Amounts::default()).get(CPU)
    }

    #[test]
    fn init_containers_count_with_the_sidecars_before_them() {
        let request = |cpu: &str| object!({ "requests": { "cpu": cpu } });
        let pod = object!({ "spec": {
            "containers": [{ "resources": (request("1")) }, { "resources": (request("500m")) }],
            "initContainers": [{ "restartPolicy": "Always", "resources": (request("200m")) }, { "resources": (request("2")) }],
            "overhead": { "cpu": "100m" } } });
        assert_eq!(cpu(&pod), 2300);
    }

    #[test]
    fn a_pod_that_is_resized_counts_with_the_most_of_what_it_asks_for_and_has() {
        let with = |asked: &str, reason: &str| {
            cpu(&object!({
                "spec": { "containers": [{ "name": "c", "resources": { "requests": { "cpu": asked } } }] },
                "status": {
                    "containerStatuses": [{ "name": "c", "allocatedResources": { "cpu": "2" }, "resources": { "requests": { "cpu": "1" } } }],
                    "conditions": [{ "type": "PodResizePending", "status": "True", "reason": reason }]
                }
            }))
        };
        assert_eq!((with("1", "Deferred"), with("3", "Deferred"), with("3", "Infeasible")), (2000, 3000, 2000));
    }

    #[test]
    fn a_container_that_asks_for_nothing_counts_a_little_in_scores() {
        let pod = Pod::alone(object!({ "spec": { "containers": [{ "resources": { "requests": { "cpu": "1" } } }, {}] } }));
        assert_eq!((pod.asks.scored.get(CPU), pod.asks.scored.get(MEMORY)), (1100, 2 * DEFAULT_MEMORY));
    }

    #[test]
    fn pods_with_the_same_containers_share_what_they_ask_for_unless_they_have_more() {
        let mut shapes = Shapes::default();
        let first = object!({ "spec": { "containers": [{ "name": "c", "resources": { "requests": { "cpu": "1" } } }] } });
        let with = |path: &[&str], value: Value| {
            let mut pod = first.clone();
            pod.set(path, value);
            pod
        };
        let runs = |cpu: &str| with(&["status", "containerStatuses"], object!([{ "name": "c", "allocatedResources": { "cpu": cpu } }]));
        let table = [
            (first.clone(), true, 1000),
            (runs("1"), true, 1000),
            (runs("2"), false, 2000),
            (with(&["spec", "overhead", "cpu"], "1".into()), false, 2000),
            (object!({ "spec": { "containers": [{ "name": "d", "resources": { "requests": { "cpu": "3" } } }] } }), false, 3000),
        ];
        let asks = Pod::new(Arc::new(first.clone()), &mut shapes).asks;
        for (object, shared, cpu) in table {
            let text = format!("{object:?}");
            let pod = Pod::new(Arc::new(object), &mut shapes);
            assert_eq!((Arc::ptr_eq(&pod.asks, &asks), pod.asks.requests.get(CPU)), (shared, cpu), "{text}");
        }
    }
}
