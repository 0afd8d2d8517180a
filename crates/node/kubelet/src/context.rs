//! What all pod workers of a kubelet share.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;

use fram_client::{EventRecorder, Informer};
use fram_cri::{LinuxContainerResources, RuntimeService, RuntimeStatus};
use fram_machinery::quantity::Quantity;
use fram_machinery::{Value, meta, object};
use tokio::sync::watch;

use crate::allocation::Allocations;
use crate::cgroup::Cgroups;
use crate::clock::Clock;
use crate::config::{KubeletConfig, SwapBehavior};
use crate::devices::DeviceManager;
use crate::dra::DraManager;
use crate::eviction::NodeCondition;
use crate::images::Images;
use crate::images::gc::Collector;
use crate::metrics::Metrics;
use crate::node::machine;
use crate::objects::Objects;
use crate::pod::environment::Fields;
use crate::pod::{self, resources};
use crate::resource::{self, ResourceManagers};
use crate::sandbox::dns::ResolvConf;
use crate::static_pods::{StaticPods, mirror};
use crate::stats::Rates;
use crate::status::writer::StatusWriter;
use crate::user_namespaces::UserNamespaces;
use crate::volumes::certificate::PodCertificates;
use crate::volumes::token::Tokens;
use crate::volumes::trust::TrustBundles;

pub(crate) struct Context {
    pub(crate) config: KubeletConfig,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) runtime: Arc<dyn RuntimeService>,
    pub(crate) images: Images,
    pub(crate) objects: Objects,
    pub(crate) tokens: Arc<Tokens>,
    pub(crate) trust: TrustBundles,
    pub(crate) certificates: PodCertificates,
    pub(crate) recorder: EventRecorder,
    pub(crate) writer: StatusWriter,
    /// What the API server has for this node, mirrors of static pods among them.
    pub(crate) pods: Informer,
    pub(crate) statics: StaticPods,
    pub(crate) services: Informer,
    pub(crate) runtime_classes: Informer,
    pub(crate) cgroups: Cgroups,
    pub(crate) allocations: Allocations,
    pub(crate) rates: Rates,
    pub(crate) metrics: Metrics,
    pub(crate) managers: ResourceManagers,
    pub(crate) devices: Arc<DeviceManager>,
    pub(crate) dra: Arc<DraManager>,
    pub(crate) user_namespaces: UserNamespaces,
    pub(crate) collector: Collector,
    /// The machine is about to go down.
    pub(crate) shutting_down: watch::Sender<bool>,
    /// What the runtime said of itself last; one that has said nothing can nothing that it would have to say.
    pub(crate) runtime_status: watch::Sender<RuntimeStatus>,
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
    pub swap_bytes: i64,
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

    /// Whether mounts that are read-only are so with all that is mounted below them, as the runtime says of the pod's handler.
    pub(crate) fn mounts_recursively(&self, pod: &Value) -> bool {
        let class = pod.str_at(&["spec", "runtimeClassName"]);
        let found = (!class.is_empty()).then(|| self.runtime_classes.get(class));
        let handler = match &found {
            Some(None) => return false,
            Some(Some(class)) => class.str_at(&["handler"]),
            None => "",
        };
        self.runtime_status.borrow().runtime_handlers.iter().any(|h| h.name == handler && h.features.recursive_read_only_mounts)
    }

    /// The pods that this node runs: those of the API server, and those of files in place of their mirrors.
    pub(crate) fn all_pods(&self) -> Vec<Arc<Value>> {
        let own = self.pods.list().into_iter().filter(|p| mirror::hash(p).is_none());
        self.statics.list().iter().map(|p| self.with_status(p)).chain(own).collect()
    }

    /// The pod with a key.
    pub(crate) fn pod(&self, key: &str) -> Option<Arc<Value>> {
        self.statics.get(key).map(|p| self.with_status(&p)).or_else(|| self.pods.get(key))
    }

    /// How the devices of a pod's main containers are, of plugins and of drivers; nothing of those that have none.
    pub(crate) fn device_health(&self, pod: &Value) -> HashMap<String, Vec<Value>> {
        let of = |container: &Value| {
            let name = pod::container_name(container);
            let mut health = self.devices.health_of(meta::uid(pod), name);
            health.extend(self.dra.health_of(pod, container));
            (!health.is_empty()).then(|| (name.to_string(), health))
        };
        pod::containers(pod).iter().filter_map(of).collect()
    }

    /// Pods come from a URL, and it has not yet said which.
    pub(crate) fn awaits_url(&self) -> bool {
        self.config.static_pod_url.is_some() && !self.statics.url_is_known()
    }

    /// A static pod with the status that its mirror has.
    fn with_status(&self, pod: &Arc<Value>) -> Arc<Value> {
        let mirror = self.pods.get(&meta::key(pod)).filter(|m| mirror::hash(m) == Some(meta::uid(pod)));
        let Some(status) = mirror.as_deref().and_then(|m| m.get("status")) else { return pod.clone() };
        let mut shown = (**pod).clone();
        shown.set(&["status"], status.clone());
        Arc::new(shown)
    }

    /// The limits of a container with what it has for itself and what the node says about quotas and swap.
    pub(crate) fn container_limits(&self, pod: &Value, container: &Value) -> LinuxContainerResources {
        let mut limits = resources::container_resources(pod, container, self.node.memory_bytes);
        if !self.config.cpu_cfs_quota && limits.cpu_quota > 0 {
            limits.cpu_quota = -1;
        }
        if self.cgroups.limits_huge_pages() {
            let sizes = machine::huge_pages(Path::new("/sys/kernel/mm/hugepages")).into_iter().map(|(size, _)| size);
            limits.hugepage_limits = resources::huge_page_limits(pod, container, sizes);
        }
        if self.config.kills_together(self.cgroups.version()) {
            limits.unified.insert("memory.oom.group".into(), "1".into());
        }
        resource::lay_over(&self.managers, meta::uid(pod), pod::container_name(container), &mut limits);
        let kubepods = format!("{}/kubepods", self.config.cgroup_root.trim_end_matches('/'));
        let limited = self.config.swap_behavior == SwapBehavior::LimitedSwap;
        let swap = resources::SwapLimits {
            limited,
            unified: self.cgroups.limits_swap(&kubepods),
            node_memory: self.node.memory_bytes,
            node_swap: self.node.swap_bytes,
        };
        swap.apply(pod, container, &mut limits);
        resources::count_over(&mut limits, self.quota_period());
        limits
    }

    fn quota_period(&self) -> i64 {
        i64::try_from(self.config.cpu_cfs_quota_period.as_micros()).unwrap_or(resources::QUOTA_PERIOD)
    }

    /// The limits of a pod's cgroup.
    pub(crate) fn pod_limits(&self, pod: &Value) -> LinuxContainerResources {
        let mut limits = resources::pod_resources(pod);
        if !self.config.cpu_cfs_quota || self.managers.is_exclusive(meta::uid(pod)) {
            limits.cpu_quota = 0;
        }
        resources::count_over(&mut limits, self.quota_period());
        limits
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

    /// Tells of something that happened to the node.
    pub(crate) fn node_event(&self, warning: bool, reason: &str, message: impl Into<String>) {
        let name = self.config.node_name.as_str();
        let reference = object!({ "apiVersion": "v1", "kind": "Node", "name": name, "uid": name });
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
