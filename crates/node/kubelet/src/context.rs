//! What all pod workers of a kubelet share.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fram_client::{EventRecorder, Informer};
use fram_cri::RuntimeService;
use fram_machinery::Value;
use fram_machinery::quantity::Quantity;
use tokio::sync::watch;

use crate::allocation::Allocations;
use crate::cgroup::Cgroups;
use crate::clock::Clock;
use crate::config::KubeletConfig;
use crate::eviction::NodeCondition;
use crate::images::Images;
use crate::images::gc::Collector;
use crate::metrics::Metrics;
use crate::objects::Objects;
use crate::pod::environment::Fields;
use crate::sandbox::dns::ResolvConf;
use crate::stats::Rates;
use crate::status::writer::StatusWriter;
use crate::volumes::token::Tokens;

pub(crate) struct Context {
    pub(crate) config: KubeletConfig,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) runtime: Arc<dyn RuntimeService>,
    pub(crate) images: Images,
    pub(crate) objects: Objects,
    pub(crate) tokens: Tokens,
    pub(crate) recorder: EventRecorder,
    pub(crate) writer: StatusWriter,
    pub(crate) pods: Informer,
    pub(crate) services: Informer,
    pub(crate) runtime_classes: Informer,
    pub(crate) cgroups: Cgroups,
    pub(crate) allocations: Allocations,
    pub(crate) rates: Rates,
    pub(crate) metrics: Metrics,
    pub(crate) collector: Collector,
    /// What the node is short of.
    pub(crate) pressures: watch::Sender<BTreeSet<NodeCondition>>,
    pub(crate) node: NodeFacts,
    /// Counts what happened in the runtime, for those who follow something of it.
    pub(crate) activity: watch::Sender<u64>,
}

/// What pods may know of the node.
#[derive(Debug, Clone, Default)]
pub(crate) struct NodeFacts {
    pub memory_bytes: i64,
    pub capacity: BTreeMap<String, Quantity>,
    pub allocatable: BTreeMap<String, Quantity>,
}

impl Context {
    pub(crate) fn host_ips(&self) -> Vec<String> {
        self.config.node_ips.iter().map(ToString::to_string).collect()
    }

    pub(crate) fn fields(&self, pod_ips: Vec<String>) -> Fields {
        Fields { host_ips: self.host_ips(), pod_ips, allocatable: self.node.allocatable.clone() }
    }

    /// The node's resolver as it is now; it may change while the kubelet runs.
    pub(crate) fn resolv_conf(&self) -> ResolvConf {
        ResolvConf::parse(&std::fs::read_to_string(&self.config.resolv_conf).unwrap_or_default())
    }

    pub(crate) fn event(&self, pod: &Value, warning: bool, reason: &str, message: impl Into<String>) {
        let mut reference = fram_client::events::reference(pod, "");
        reference.set(&["apiVersion"], "v1");
        reference.set(&["kind"], "Pod");
        self.recorder.event_at(reference, warning, reason, message);
    }

    /// Tells of something that happened to one container of a pod.
    pub(crate) fn container_event(&self, pod: &Value, container: &str, warning: bool, reason: &str, message: impl Into<String>) {
        let list = crate::pod::find_container(pod, container).map_or("containers", |(role, _)| role.field());
        let mut reference = fram_client::events::reference(pod, &format!("spec.{list}{{{container}}}"));
        reference.set(&["apiVersion"], "v1");
        reference.set(&["kind"], "Pod");
        self.recorder.event_at(reference, warning, reason, message);
    }
}
