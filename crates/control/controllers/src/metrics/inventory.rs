//! How much there is of some kinds, counted in the caches when somebody asks. Who looks after a kind says so while its term lasts.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use fram_client::Informer;
use fram_client::Resource;
use fram_client::resources::{
    ENDPOINT_SLICES, HORIZONTAL_POD_AUTOSCALERS, NODES, PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, RESOURCE_CLAIMS, STATEFUL_SETS,
};
use fram_machinery::{Value, meta};
use parking_lot::RwLock;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use tokio_util::sync::CancellationToken;

use crate::pods;

/// Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Inventory(Arc<RwLock<HashMap<Resource, (Informer, CancellationToken)>>>);

impl fmt::Debug for Inventory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Inventory")
    }
}

impl Inventory {
    /// The objects of a kind are told of until this ends.
    pub(crate) fn follow(&self, informer: &Informer, term: &CancellationToken) {
        self.0.write().insert(informer.resource().clone(), (informer.clone(), term.clone()));
    }

    fn objects(&self, resource: &Resource) -> Option<Vec<Arc<Value>>> {
        let followed = self.0.read();
        followed.get(resource).filter(|(_, term)| !term.is_cancelled()).map(|(informer, _)| informer.list())
    }
}

type Labels = Vec<(&'static str, String)>;
type Samples = BTreeMap<Labels, f64>;

/// One gauge, and what it is counted from.
struct Gauge {
    name: &'static str,
    about: &'static str,
    of: &'static Resource,
    samples: fn(&[Arc<Value>]) -> Samples,
}

const GAUGES: [Gauge; 15] = [
    Gauge {
        name: "pv_collector_total_pv_count",
        about: "Gauge measuring total number of persistent volumes",
        of: &PERSISTENT_VOLUMES,
        samples: |all| count(all, |v| Some(vec![("plugin_name", plugin(v)), ("volume_mode", text(v, &["spec", "volumeMode"]))])),
    },
    Gauge {
        name: "pv_collector_bound_pv_count",
        about: "Gauge measuring number of persistent volume currently bound",
        of: &PERSISTENT_VOLUMES,
        samples: |all| count(all, |v| is_bound(v).then(|| of_class(v))),
    },
    Gauge {
        name: "pv_collector_unbound_pv_count",
        about: "Gauge measuring number of persistent volume currently unbound",
        of: &PERSISTENT_VOLUMES,
        samples: |all| count(all, |v| (!is_bound(v)).then(|| of_class(v))),
    },
    Gauge {
        name: "pv_collector_bound_pvc_count",
        about: "Gauge measuring number of persistent volume claim currently bound",
        of: &PERSISTENT_VOLUME_CLAIMS,
        samples: |all| count(all, |c| is_bound(c).then(|| of_claim(c))),
    },
    Gauge {
        name: "pv_collector_unbound_pvc_count",
        about: "Gauge measuring number of persistent volume claim currently unbound",
        of: &PERSISTENT_VOLUME_CLAIMS,
        samples: |all| count(all, |c| (!is_bound(c)).then(|| of_claim(c))),
    },
    Gauge {
        name: "horizontal_pod_autoscaler_controller_num_horizontal_pod_autoscalers",
        about: "Current number of controlled HPA objects",
        of: &HORIZONTAL_POD_AUTOSCALERS,
        samples: |all| total(all.len()),
    },
    Gauge {
        name: "horizontal_pod_autoscaler_controller_desired_replicas",
        about: "Current desired replica count for HPA objects",
        of: &HORIZONTAL_POD_AUTOSCALERS,
        samples: |all| {
            let labels = |a: &Value| vec![("namespace", meta::namespace(a).into()), ("hpa_name", meta::name(a).into())];
            each(all, |a| Some((labels(a), a.int_at(&["status", "desiredReplicas"])?)))
        },
    },
    Gauge {
        name: "statefulset_controller_statefulset_max_unavailable",
        about: "Maximum number of unavailable pods allowed during StatefulSet rolling updates",
        of: &STATEFUL_SETS,
        samples: |all| each(all, |set| Some((of_set(set), most_unavailable(set)?))),
    },
    Gauge {
        name: "statefulset_controller_statefulset_unavailable_replicas",
        about: "Current number of unavailable pods in StatefulSet",
        of: &STATEFUL_SETS,
        samples: |all| {
            let available = |set: &Value| set.int_at(&["status", "availableReplicas"]).unwrap_or(0);
            each(all, |set| Some((of_set(set), (wanted(set) - available(set)).max(0))))
        },
    },
    Gauge {
        name: "resourceclaim_controller_resource_claims",
        about: "Number of ResourceClaims, categorized by allocation status, admin access, and source. Source can be 'resource_claim_template' (created from a template), 'extended_resource' (extended resources), or empty (manually created by a user)",
        of: &RESOURCE_CLAIMS,
        samples: |all| count(all, |c| Some(of_device_claim(c))),
    },
    Gauge {
        name: "node_collector_zone_size",
        about: "Gauge measuring number of registered Nodes per zones",
        of: &NODES,
        samples: |all| count(all, |n| Some(in_zone(n))),
    },
    Gauge {
        name: "node_collector_unhealthy_nodes_in_zone",
        about: "Gauge measuring number of not Ready Nodes per zones",
        of: &NODES,
        samples: |all| unhealthy(all),
    },
    Gauge {
        name: "node_collector_zone_health",
        about: "Gauge measuring percentage of healthy nodes per zone",
        of: &NODES,
        samples: |all| {
            let mut health = count(all, |n| Some(in_zone(n)));
            for (zone, unhealthy) in unhealthy(all) {
                health.entry(zone).and_modify(|size| *size = 100.0 * (*size - unhealthy) / *size);
            }
            health
        },
    },
    Gauge {
        name: "endpoint_slice_mirroring_controller_endpoints_desired",
        about: "Number of endpoints desired",
        of: &ENDPOINT_SLICES,
        samples: |all| total(all.iter().filter(|s| is_mirrored(s)).map(|s| s.list_at(&["endpoints"]).len()).sum()),
    },
    Gauge {
        name: "endpoint_slice_mirroring_controller_num_endpoint_slices",
        about: "Number of EndpointSlices",
        of: &ENDPOINT_SLICES,
        samples: |all| total(all.iter().filter(|s| is_mirrored(s)).count()),
    },
];

fn text(object: &Value, path: &[&str]) -> String {
    object.str_at(path).into()
}

fn total(number: usize) -> Samples {
    Samples::from([(Vec::new(), number as f64)])
}

/// How many objects have the same labels, of those that have any.
fn count(all: &[Arc<Value>], labels: impl Fn(&Value) -> Option<Labels>) -> Samples {
    let mut samples = Samples::new();
    for labels in all.iter().filter_map(|object| labels(object)) {
        *samples.entry(labels).or_default() += 1.0;
    }
    samples
}

fn each(all: &[Arc<Value>], sample: impl Fn(&Value) -> Option<(Labels, i64)>) -> Samples {
    all.iter().filter_map(|object| sample(object)).map(|(labels, number)| (labels, number as f64)).collect()
}

fn is_bound(object: &Value) -> bool {
    object.str_at(&["status", "phase"]) == "Bound"
}

fn of_class(volume: &Value) -> Labels {
    vec![("storage_class", text(volume, &["spec", "storageClassName"]))]
}

fn of_claim(claim: &Value) -> Labels {
    vec![
        ("namespace", meta::namespace(claim).into()),
        ("storage_class", fram_api::storage::class(claim).into()),
        ("volume_attributes_class", text(claim, &["spec", "volumeAttributesClassName"])),
    ]
}

/// The name of upstream's plugin for a volume.
fn plugin(volume: &Value) -> String {
    let has = |source: &str| volume.at(&["spec", source]).is_some_and(|s| !s.is_null());
    let csi = volume.str_at(&["spec", "csi", "driver"]);
    let known = [("hostPath", "host-path"), ("local", "local-volume"), ("nfs", "nfs"), ("iscsi", "iscsi"), ("fc", "fc")];
    match known.into_iter().find(|(source, _)| has(source)) {
        Some((_, name)) => format!("kubernetes.io/{name}"),
        None if !csi.is_empty() => format!("kubernetes.io/csi:{csi}"),
        None => "N/A".into(),
    }
}

fn wanted(set: &Value) -> i64 {
    set.int_at(&["spec", "replicas"]).unwrap_or(1)
}

fn of_set(set: &Value) -> Labels {
    vec![
        ("statefulset_namespace", meta::namespace(set).into()),
        ("statefulset_name", meta::name(set).into()),
        ("pod_management_policy", text(set, &["spec", "podManagementPolicy"])),
    ]
}

fn most_unavailable(set: &Value) -> Option<i64> {
    let update = set.at(&["spec", "updateStrategy"]).filter(|u| u.str_at(&["type"]) == "RollingUpdate")?;
    Some(pods::scaled(update.at(&["rollingUpdate", "maxUnavailable"]), wanted(set), false).unwrap_or(1).max(1))
}

fn of_device_claim(claim: &Value) -> Labels {
    let admin = |request: &Value| request.at(&["exactly", "adminAccess"]).and_then(Value::as_bool) == Some(true);
    let is_admin = claim.list_at(&["spec", "devices", "requests"]).iter().any(admin);
    let is_allocated = claim.at(&["status", "allocation"]).is_some_and(|a| !a.is_null());
    let has = |annotation: &str| meta::annotation(claim, annotation).is_some();
    let source = match (has("resource.kubernetes.io/pod-claim-name"), has("resource.kubernetes.io/extended-resource-claim")) {
        (true, _) => "resource_claim_template",
        (_, true) => "extended_resource",
        _ => "",
    };
    vec![("allocated", is_allocated.to_string()), ("admin_access", is_admin.to_string()), ("source", source.into())]
}

fn in_zone(node: &Value) -> Labels {
    vec![("zone", super::zone_label(node))]
}

fn unhealthy(nodes: &[Arc<Value>]) -> Samples {
    let mut samples: Samples = nodes.iter().map(|node| (in_zone(node), 0.0)).collect();
    for node in nodes.iter().filter(|node| !meta::condition_is_true(node, "Ready")) {
        samples.entry(in_zone(node)).and_modify(|unhealthy| *unhealthy += 1.0);
    }
    samples
}

fn is_mirrored(slice: &Value) -> bool {
    meta::label(slice, "endpointslice.kubernetes.io/managed-by") == Some("endpointslicemirroring-controller.k8s.io")
}

impl Collector for Inventory {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for gauge in &GAUGES {
            let Some(objects) = self.objects(gauge.of) else { continue };
            let mut family = encoder.encode_descriptor(gauge.name, gauge.about, None, MetricType::Gauge)?;
            for (labels, number) in (gauge.samples)(&objects) {
                ConstGauge::new(number).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use fram_machinery::object;

    use super::*;

    /// What a gauge says of these objects, as `labels number`.
    fn said(name: &str, all: &[Value]) -> Vec<String> {
        let objects: Vec<Arc<Value>> = all.iter().cloned().map(Arc::new).collect();
        let gauge = GAUGES.iter().find(|gauge| gauge.name == name).unwrap();
        let one = |(labels, number): (Labels, f64)| {
            let values: Vec<String> = labels.into_iter().map(|(_, value)| value.replace('\0', "0")).collect();
            format!("{} {number}", values.join("/"))
        };
        (gauge.samples)(&objects).into_iter().map(one).collect()
    }

    #[test]
    fn volumes_and_claims_are_counted_by_what_they_are() {
        let volume = |phase: &str, source: &str| {
            let mut volume = object!({ "spec": { "storageClassName": "fast", "volumeMode": "Filesystem" }, "status": { "phase": phase } });
            volume.set(&["spec", source], object!({ "driver": "x.io" }));
            volume
        };
        let volumes = [volume("Bound", "csi"), volume("Available", "csi"), volume("Bound", "local"), volume("Bound", "rbd")];
        let expect = ["N/A/Filesystem 1", "kubernetes.io/csi:x.io/Filesystem 2", "kubernetes.io/local-volume/Filesystem 1"];
        assert_eq!(said("pv_collector_total_pv_count", &volumes), expect);
        assert_eq!(said("pv_collector_bound_pv_count", &volumes), ["fast 3"]);
        assert_eq!(said("pv_collector_unbound_pv_count", &volumes), ["fast 1"]);
        let claim = |phase: &str| object!({ "metadata": { "namespace": "ns" }, "spec": { "storageClassName": "fast" }, "status": { "phase": phase } });
        assert_eq!(said("pv_collector_bound_pvc_count", &[claim("Bound"), claim("Pending")]), ["ns/fast/ 1"]);
        assert_eq!(said("pv_collector_unbound_pvc_count", &[claim("Pending"), claim("Lost")]), ["ns/fast/ 2"]);
    }

    #[test]
    fn zones_say_how_healthy_they_are() {
        let node = |zone: &str, ready: &str| {
            object!({ "metadata": { "labels": { "topology.kubernetes.io/region": "r", "topology.kubernetes.io/zone": zone } },
                "status": { "conditions": [{ "type": "Ready", "status": ready }] } })
        };
        let nodes = [node("a", "True"), node("a", "False"), node("a", "Unknown"), node("a", "True"), node("b", "True"), object!({})];
        assert_eq!(said("node_collector_zone_size", &nodes), [" 1", "r:0:a 4", "r:0:b 1"]);
        assert_eq!(said("node_collector_unhealthy_nodes_in_zone", &nodes), [" 1", "r:0:a 2", "r:0:b 0"]);
        assert_eq!(said("node_collector_zone_health", &nodes), [" 0", "r:0:a 50", "r:0:b 100"]);
    }

    #[test]
    fn sets_autoscalers_and_claims_of_devices_are_told() {
        let set = object!({ "metadata": { "namespace": "ns", "name": "db" }, "status": { "availableReplicas": 3 },
            "spec": { "replicas": 5, "podManagementPolicy": "Parallel", "updateStrategy": { "type": "RollingUpdate", "rollingUpdate": { "maxUnavailable": "30%" } } } });
        assert_eq!(said("statefulset_controller_statefulset_unavailable_replicas", std::slice::from_ref(&set)), ["ns/db/Parallel 2"]);
        assert_eq!(said("statefulset_controller_statefulset_max_unavailable", &[set]), ["ns/db/Parallel 1"]);
        let scaler = object!({ "metadata": { "namespace": "ns", "name": "web" }, "status": { "desiredReplicas": 4 } });
        assert_eq!(said("horizontal_pod_autoscaler_controller_desired_replicas", std::slice::from_ref(&scaler)), ["ns/web 4"]);
        assert_eq!(said("horizontal_pod_autoscaler_controller_num_horizontal_pod_autoscalers", &[scaler]), [" 1"]);
        let made = object!({ "metadata": { "annotations": { "resource.kubernetes.io/pod-claim-name": "c" } }, "status": { "allocation": { "devices": {} } } });
        let own = object!({ "spec": { "devices": { "requests": [{ "exactly": { "adminAccess": true } }] } } });
        assert_eq!(
            said("resourceclaim_controller_resource_claims", &[made, own]),
            ["false/true/ 1", "true/false/resource_claim_template 1"]
        );
    }
}
