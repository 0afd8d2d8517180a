//! What a kubelet is told about its node. Every directory and address is here; nothing is looked up in the environment.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fram_client::Rate;
use fram_machinery::Value;

use crate::eviction::thresholds::EvictionSettings;
use crate::images::access::Verification;
use crate::images::gc::ImageGcPolicy;
use crate::images::provider::CredentialProviders;
use crate::resource::cpuset::CpuSet;
use crate::resource::topology::{Policy, Scope};

/// Upstream has no limit by default. An eighth of what a machine with the smallest `kernel.pid_max` has for all is more than any
/// well-behaved pod needs.
const POD_PIDS_LIMIT: i64 = 4096;

#[derive(Debug, Clone)]
pub struct KubeletConfig {
    pub node_name: String,
    /// The node's addresses, the primary one first.
    pub node_ips: Vec<IpAddr>,
    /// Pods' volumes and files, as `/var/lib/kubelet`.
    pub root_dir: PathBuf,
    /// Containers' logs, as `/var/log/pods`.
    pub log_dir: PathBuf,
    /// Addresses of the cluster's DNS; empty where there is none, then pods use the node's.
    pub cluster_dns: Vec<IpAddr>,
    pub cluster_domain: String,
    /// The node's resolv.conf, from which pods with the policy `Default` inherit.
    pub resolv_conf: PathBuf,
    /// Where volumes of the embedded storage lie; None where the node keeps none.
    pub volumes_dir: Option<PathBuf>,
    /// Parent of `kubepods`, relative to each cgroup controller's mount; `/` for the top.
    pub cgroup_root: String,
    /// Where cgroup file systems are mounted.
    pub cgroup_mount: PathBuf,
    pub max_pods: u32,
    /// How many processes and threads the containers of one pod may have together, so that one that forks without end harms
    /// itself alone; upstream's `podPidsLimit`. 0 for no limit.
    pub pod_pids_limit: i64,
    /// Replaces what is found on the machine: `cpu`, `memory`, `ephemeral-storage`, extended resources.
    pub capacity: BTreeMap<String, String>,
    pub system_reserved: BTreeMap<String, String>,
    pub kube_reserved: BTreeMap<String, String>,
    pub node_labels: BTreeMap<String, String>,
    /// Used until the node object carries one.
    pub pod_cidr: Option<String>,
    /// Shown as `nodeInfo.kubeletVersion`: `v1.36.0+fram`.
    pub version: String,
    /// Port of the kubelet's HTTP API as the node object announces it; 0 where it is reached by other means only.
    pub port: u16,
    /// Where that is listened on; the primary address where nothing else is said.
    pub address: Option<IpAddr>,
    /// The port is served at all; upstream's enableServer.
    pub serve: bool,
    /// What the port shows and speaks, where that is not the node's own certificate and what is good today.
    pub serving_tls: ServingTls,
    /// Where anybody on the machine may ask whether the kubelet is well; None for nowhere.
    pub healthz: Option<SocketAddr>,
    pub reviews: ReviewTimes,
    /// Streams of exec, attach and port-forward on which nothing moves are ended after this time; zero for never.
    pub streaming_idle: Duration,
    /// Logs, exec, attach and port-forward of pods are to be had; upstream's enableDebuggingHandlers.
    pub debugging_handlers: bool,
    /// The node's own logs are.
    pub system_log_handler: bool,
    /// And those of services by their names.
    pub system_log_query: bool,
    /// How many users a pod with a user namespace of its own has.
    pub ids_per_pod: u32,
    /// Seccomp profile of containers that name none: RuntimeDefault rather than Unconfined.
    pub seccomp_default: bool,
    /// Kernel parameters that pods may set beside the safe ones; an entry may end with `*`.
    pub allowed_unsafe_sysctls: Vec<String>,
    /// Log files are rotated beyond this size, and as many are kept.
    pub container_log_max_size: u64,
    pub container_log_max_files: u32,
    /// As many are rotated at once.
    pub container_log_max_workers: usize,
    pub eviction: EvictionSettings,
    pub image_gc: ImageGcPolicy,
    pub image_verification: Verification,
    /// How many images are pulled at once; None for as many as are asked for.
    pub parallel_image_pulls: Option<NonZeroUsize>,
    /// How often a pull may begin; None for as often as somebody asks.
    pub registry_pulls: Option<Rate>,
    /// How often events are written; None for as often as there are any.
    pub event_rate: Option<Rate>,
    /// Whether the kernel ends only one process of a container that is out of memory; None for what the version of cgroups does by default.
    pub single_process_oom_kill: Option<bool>,
    /// Limits of local ephemeral storage are enforced.
    pub local_storage_capacity_isolation: bool,
    pub managers: Managers,
    /// Programs that know credentials of registries.
    pub credential_providers: Arc<CredentialProviders>,
    /// Pods from files in this directory run without the API server's word.
    pub static_pod_path: Option<PathBuf>,
    /// And pods from what is served there.
    pub static_pod_url: Option<StaticPodUrl>,
    pub provider_id: Option<String>,
    /// The kubelet makes its node, with these taints.
    pub register_node: bool,
    pub taints: Vec<Value>,
    /// The node's status is looked at, and written where it did not change, this often.
    pub status_update_frequency: Duration,
    pub status_report_frequency: Duration,
    pub lease_duration_seconds: i64,
    /// As many images the node's status tells of; -1 for all.
    pub status_max_images: i64,
    /// No more pods than this for each processor; 0 for no such limit.
    pub pods_per_core: u32,
    /// Limits of processors are enforced by quotas.
    pub cpu_cfs_quota: bool,
    /// The time over which a quota counts.
    pub cpu_cfs_quota_period: Duration,
    /// How readily the kernel ends this program, and how many files it may have open; None where the machine says so.
    pub oom_score_adj: Option<i64>,
    pub max_open_files: Option<u64>,
    /// What becomes of settings of the kernel that are otherwise than kubelets want them.
    pub kernel_defaults: KernelDefaults,
    pub fail_swap_on: bool,
    pub swap_behavior: SwapBehavior,
    /// Pods together get no more than what is not reserved.
    pub enforce_node_allocatable: bool,
    /// Cgroups of others that get no more than what is reserved for them.
    pub reserved_cgroups: Vec<ReservedCgroup>,
    pub container_log_monitor_interval: Duration,
    /// The longest wait between restarts of a container that fails.
    pub max_container_restart_period: Duration,
    /// How long pods have when the machine goes down, by priority; empty where they are left to the machine.
    pub shutdown_grace: Vec<ShutdownGrace>,
}

/// What the kubelet's port shows and speaks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServingTls {
    /// Files with the certificate and its key, read again when they change.
    pub files: Option<(PathBuf, PathBuf)>,
    /// A file with authorities whose certificates visitors may show beside those of the cluster's own, read again when it changes.
    pub client_ca: Option<PathBuf>,
    pub cipher_suites: Vec<rustls::CipherSuite>,
    pub curves: Vec<rustls::NamedGroup>,
    /// Nothing older than version 1.3.
    pub only_13: bool,
}

/// Upstream's protectKernelDefaults, where saying nothing is something else than saying false: the machine may be somebody's own, and what
/// it does after a fault of its kernel is theirs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KernelDefaults {
    /// They stay, and are told of.
    Tell,
    /// They are set.
    Set,
    /// The kubelet does not start.
    Protect,
}

/// How long what the API server says of visitors of the port is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReviewTimes {
    pub known: Duration,
    pub allowed: Duration,
    pub refused: Duration,
}

impl Default for ReviewTimes {
    /// Upstream's.
    fn default() -> Self {
        Self { known: Duration::from_secs(120), allowed: Duration::from_secs(300), refused: Duration::from_secs(30) }
    }
}

/// Where pods are asked for, how, and how often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaticPodUrl {
    pub url: http::Uri,
    pub headers: Vec<(String, String)>,
    pub every: Duration,
}

/// A cgroup that the node's administrator has made for what is reserved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReservedCgroup {
    /// `system-reserved` or `kube-reserved`.
    pub of: &'static str,
    pub path: String,
    /// What is reserved for those in it.
    pub amounts: BTreeMap<String, String>,
    /// Only what can be taken back without harm is held to: processors.
    pub compressible: bool,
}

/// Who gives out processors and memory, and how; see upstream's pkg/kubelet/cm.
#[derive(Debug, Clone, Default)]
pub struct Managers {
    /// The policy `static` of the CPU manager.
    pub static_cpus: bool,
    pub cpu_options: BTreeMap<String, String>,
    pub reserved_cpus: Option<CpuSet>,
    /// The policy `Static` of the memory manager.
    pub static_memory: bool,
    pub reserved_memory: Vec<MemoryReservation>,
    pub topology_policy: Policy,
    pub topology_scope: Scope,
    pub topology_options: BTreeMap<String, String>,
}

/// Bytes by resource that pods do not get of a NUMA node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryReservation {
    pub numa_node: u32,
    pub limits: BTreeMap<String, i64>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SwapBehavior {
    #[default]
    NoSwap,
    LimitedSwap,
}

impl SwapBehavior {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::NoSwap => "NoSwap",
            Self::LimitedSwap => "LimitedSwap",
        }
    }
}

/// Pods of this priority and above, up to the next one, have this time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShutdownGrace {
    pub priority: i64,
    pub period: Duration,
}

impl ShutdownGrace {
    /// Of the time for all, critical pods have the last part for themselves; see migrateConfig in upstream's nodeshutdown.
    pub fn two_steps(all: Duration, critical: Duration) -> Vec<Self> {
        let others = Self { priority: 0, period: all.saturating_sub(critical) };
        vec![others, Self { priority: crate::eviction::rank::SYSTEM_CRITICAL, period: critical }]
    }
}

impl KubeletConfig {
    /// Upstream's defaults for a node of this name, with everything below `root_dir` and `log_dir`.
    pub fn new(node_name: impl Into<String>, node_ips: Vec<IpAddr>, root_dir: PathBuf, log_dir: PathBuf) -> Self {
        Self {
            node_name: node_name.into(),
            node_ips,
            root_dir,
            log_dir,
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".into(),
            resolv_conf: "/etc/resolv.conf".into(),
            volumes_dir: None,
            cgroup_root: "/".into(),
            cgroup_mount: "/sys/fs/cgroup".into(),
            max_pods: 110,
            pod_pids_limit: POD_PIDS_LIMIT,
            capacity: BTreeMap::new(),
            system_reserved: BTreeMap::new(),
            kube_reserved: BTreeMap::new(),
            node_labels: BTreeMap::new(),
            pod_cidr: None,
            version: "v1.36.2".into(),
            port: 0,
            address: None,
            ids_per_pod: crate::user_namespaces::RANGE,
            serve: true,
            serving_tls: ServingTls::default(),
            healthz: Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 10248)),
            reviews: ReviewTimes::default(),
            streaming_idle: Duration::from_secs(4 * 3600),
            debugging_handlers: true,
            system_log_handler: true,
            system_log_query: false,
            seccomp_default: true,
            allowed_unsafe_sysctls: Vec::new(),
            container_log_max_size: 10 << 20,
            container_log_max_files: 5,
            container_log_max_workers: 1,
            eviction: EvictionSettings::default(),
            image_gc: ImageGcPolicy::default(),
            image_verification: Verification::default(),
            parallel_image_pulls: None,
            // As pulls are not one by one unless somebody says so, they are not counted either.
            registry_pulls: None,
            event_rate: Some(Rate { per_second: 50, burst: 100 }),
            single_process_oom_kill: None,
            local_storage_capacity_isolation: true,
            managers: Managers::default(),
            credential_providers: Arc::default(),
            static_pod_path: None,
            static_pod_url: None,
            provider_id: None,
            register_node: true,
            taints: Vec::new(),
            status_update_frequency: Duration::from_secs(10),
            status_report_frequency: Duration::from_secs(300),
            lease_duration_seconds: 40,
            status_max_images: 50,
            pods_per_core: 0,
            cpu_cfs_quota: true,
            cpu_cfs_quota_period: Duration::from_millis(100),
            oom_score_adj: None,
            max_open_files: None,
            kernel_defaults: KernelDefaults::Tell,
            // Where there is swap, pods do not get it unless they are told to: there is no need to refuse the machine.
            fail_swap_on: false,
            swap_behavior: SwapBehavior::NoSwap,
            enforce_node_allocatable: true,
            reserved_cgroups: Vec::new(),
            container_log_monitor_interval: Duration::from_secs(10),
            max_container_restart_period: Duration::from_secs(300),
            shutdown_grace: Vec::new(),
        }
    }

    /// Where everything of one pod is kept.
    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        self.root_dir.join("pods").join(uid)
    }

    /// Whether all processes of a container end when it is out of memory. Only cgroups of version 2 can do that, and do it unless told
    /// otherwise.
    pub(crate) fn kills_together(&self, cgroup_version: u64) -> bool {
        cgroup_version == 2 && !self.single_process_oom_kill.unwrap_or(false)
    }

    /// Directory of a pod's container logs; see kuberuntime.BuildPodLogsDirectory.
    pub fn pod_log_dir(&self, namespace: &str, name: &str, uid: &str) -> PathBuf {
        self.log_dir.join(format!("{namespace}_{name}_{uid}"))
    }
}
